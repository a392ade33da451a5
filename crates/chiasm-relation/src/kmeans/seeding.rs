//! First centroids: greedy k-means++ (Arthur and Vassilvitskii 2007, section 6, with the trials of scikit-learn).
//!
//! All restarts draw in step, so that one pass over the rows serves the trials of all.

use chiasm_data::rng::{self, Rng};

use crate::points::Points;
use crate::products::BLOCK;

/// Trials at each draw: the one that leaves the least sum of squared distances is taken.
fn trials(clusters: usize) -> usize {
    2 + (clusters as f64).ln().floor() as usize
}

/// First centroids of every restart, each `[clusters, stride]`.
pub(super) fn plus_plus(
    points: &Points,
    clusters: usize,
    restarts: usize,
    seed: u64,
) -> Vec<Vec<f32>> {
    let trials = trials(clusters);
    let mut rngs: Vec<Rng> = (0..restarts)
        .map(|restart| rng::stream(seed, "kmeans", &[restart as u64]))
        .collect();
    let mut centroids = vec![Vec::with_capacity(clusters * points.stride); restarts];
    // Squared distance of each row from the nearest centroid so far, per restart.
    let mut closest = vec![vec![f32::INFINITY; points.len()]; restarts];
    for chosen in 0..clusters {
        let candidates: Vec<usize> = if chosen == 0 {
            let first = |rng: &mut Rng| rng::below(rng, points.len());
            rngs.iter_mut().map(first).collect()
        } else {
            let draws = rngs.iter_mut().zip(&closest);
            draws
                .flat_map(|(rng, closest)| draw(rng, closest, trials))
                .collect()
        };
        let per_restart = if chosen == 0 { 1 } else { trials };
        let distances = distances(points, &candidates);
        let columns = candidates.len();
        let potentials = potentials(&distances, &closest, columns, per_restart);
        for (restart, (centroids, closest)) in centroids.iter_mut().zip(&mut closest).enumerate() {
            let own = restart * per_restart..(restart + 1) * per_restart;
            let best = own
                .min_by(|a, b| potentials[*a].total_cmp(&potentials[*b]))
                .unwrap_or(0);
            centroids.extend_from_slice(points.row(candidates[best]));
            for (closest, row) in closest.iter_mut().zip(distances.chunks_exact(columns)) {
                *closest = closest.min(row[best]);
            }
        }
    }
    centroids
}

/// Rows drawn with a probability that grows with the squared distance from what is there.
fn draw(rng: &mut Rng, closest: &[f32], trials: usize) -> Vec<usize> {
    let mut sums = Vec::with_capacity(closest.len());
    let mut sum = 0.0_f64;
    for distance in closest {
        sum += f64::from(*distance);
        sums.push(sum);
    }
    (0..trials)
        .map(|_| {
            let at = rng::unit_f64(rng) * sum;
            // Beyond `at`, so that a row of probability 0 is drawn only when all are.
            let row = sums.partition_point(|sum| *sum <= at);
            row.min(closest.len() - 1)
        })
        .collect()
}

/// Squared distances of all rows from the rows `candidates`, `[rows, candidates]`.
fn distances(points: &Points, candidates: &[usize]) -> Vec<f32> {
    let vectors: Vec<f32> = candidates
        .iter()
        .flat_map(|&row| points.row(row))
        .copied()
        .collect();
    let columns = candidates.len();
    let mut distances = vec![0.0_f32; points.len() * columns];
    points.partial_distances(&vectors, &mut distances, columns, |first, partial, out| {
        let rows = out.chunks_exact_mut(columns);
        let rows = rows.zip(partial.chunks_exact(columns));
        for ((out, partial), square) in rows.zip(&points.squares[first..]) {
            for (out, partial) in out.iter_mut().zip(partial) {
                *out = (square + partial).max(0.0);
            }
        }
    });
    distances
}

/// What each candidate would leave: the sum over rows of the squared distance from the nearest centroid.
fn potentials(
    distances: &[f32],
    closest: &[Vec<f32>],
    columns: usize,
    per_restart: usize,
) -> Vec<f64> {
    use rayon::prelude::*;
    // Blocks of fixed size are summed in order, whatever thread had them.
    let block = 16 * BLOCK;
    let parts: Vec<Vec<f64>> = distances
        .par_chunks(block * columns)
        .enumerate()
        .map(|(index, distances)| {
            let mut sums = vec![0.0_f64; columns];
            for (row, distances) in distances.chunks_exact(columns).enumerate() {
                let row = index * block + row;
                let restarts = distances.chunks_exact(per_restart).zip(closest);
                let sums = sums.chunks_exact_mut(per_restart);
                for ((distances, closest), sums) in restarts.zip(sums) {
                    for (distance, sum) in distances.iter().zip(sums) {
                        *sum += f64::from(distance.min(closest[row]));
                    }
                }
            }
            sums
        })
        .collect();
    let mut potentials = vec![0.0; columns];
    for part in parts {
        for (sum, part) in potentials.iter_mut().zip(part) {
            *sum += part;
        }
    }
    potentials
}
