//! k-means as scikit-learn's, for the pseudo-labels of unlabelled pairs (`specs/itr.md` section 2.3).
//!
//! Lloyd's iteration from greedy k-means++, with restarts, of which the one of least inertia is kept. It stops when no
//! label changes, when the centroids move by no more than the tolerance, or after the greatest number of iterations.
//! A cluster that loses all rows gets the row that lies farthest from its centroid. Results are those of the seed,
//! whatever the number of threads.
//!
//! All restarts go in step: one pass over the rows serves the centroids of all, and only rows whose label changed are
//! added to sums again.

mod balance;
mod seeding;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use balance::Balance;

use crate::points::Points;
use crate::products::{BLOCK, squared_distance};
use crate::{RelationError, Rows};

/// Settings of [`kmeans`]; the defaults are those of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KMeansConfig {
    /// Clusters, k. Default: 4.
    pub clusters: usize,
    /// Restarts, of which the best is kept. Default: 10.
    pub restarts: usize,
    /// Lloyd iterations of a restart, at most. Default: 300.
    pub max_iterations: usize,
    /// A restart ends when the squared moves of its centroids sum to no more than this share of the mean variance of a
    /// feature. Default: 1e-4.
    pub tolerance: f64,
    /// Seed of the first centroids. Default: 0.
    pub seed: u64,
    /// Which rows a cluster gets. Default: those nearest to it.
    pub assignment: Assignment,
}

impl Default for KMeansConfig {
    fn default() -> Self {
        Self {
            clusters: 4,
            restarts: 10,
            max_iterations: 300,
            tolerance: 1e-4,
            seed: 0,
            assignment: Assignment::Nearest,
        }
    }
}

/// Which rows a cluster gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// Those nearest to its centroid.
    #[default]
    Nearest,
    /// As many as every other cluster; inertia may then rise in an iteration.
    Balanced(Balance),
}

/// A clustering.
#[derive(Debug, Clone, PartialEq)]
pub struct KMeans {
    /// The cluster of each row.
    pub labels: Vec<usize>,
    /// `[clusters, width]`. Where rows have fewer distinct values than there are clusters, some have no row and a
    /// centroid equal to another's.
    pub centroids: Vec<f32>,
    /// Features of a row.
    pub width: usize,
    /// Sum of squared distances of rows from the centroid of their cluster.
    pub inertia: f64,
    /// Lloyd iterations of the restart that was kept.
    pub iterations: usize,
}

impl KMeans {
    /// Number of clusters.
    #[must_use]
    pub fn clusters(&self) -> usize {
        self.centroids.len() / self.width
    }

    /// Rows of each cluster.
    #[must_use]
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.clusters()];
        self.labels.iter().for_each(|&label| sizes[label] += 1);
        sizes
    }

    /// The nearest cluster of other rows of the same features.
    ///
    /// # Errors
    ///
    /// The rows have another width, there are none, or one is too long.
    pub fn nearest(&self, rows: Rows<'_>) -> Result<Vec<usize>, RelationError> {
        let centroids = Rows::new(&self.centroids, self.width)?;
        same_width(rows, centroids)?;
        let points = Points::new(rows)?;
        let mut labels = vec![0; points.len()];
        assign_nearest(&points, &points.inward(centroids), 1, &[0], &mut labels);
        Ok(labels.into_iter().map(|label| label as usize).collect())
    }
}

/// Clusters `rows`.
///
/// # Errors
///
/// There are no rows, one is too long for single precision, or a setting has no meaning.
///
/// # Examples
///
/// ```
/// use chiasm_relation::{KMeansConfig, Rows, kmeans};
///
/// let rows = Rows::new(&[0.0, 0.1, 9.0, 9.1], 1)?;
/// let found = kmeans(rows, &KMeansConfig { clusters: 2, ..Default::default() })?;
/// assert_eq!(found.labels[0], found.labels[1]);
/// assert_ne!(found.labels[1], found.labels[2]);
/// # Ok::<(), chiasm_relation::RelationError>(())
/// ```
pub fn kmeans(rows: Rows<'_>, config: &KMeansConfig) -> Result<KMeans, RelationError> {
    config.check()?;
    let points = Points::new(rows)?;
    let first = seeding::plus_plus(&points, config.clusters, config.restarts, config.seed);
    Ok(lloyd(&points, first, config).outward(&points, rows.width()))
}

/// Clusters `rows` from given centroids, `[clusters, width]`, in one run: the centroids of the chunk before, for
/// instance, whose clusters then keep their numbers. The configuration's number of clusters, of restarts and its seed do
/// not matter.
///
/// # Errors
///
/// As for [`kmeans`], or the centroids have another width.
pub fn kmeans_from(
    rows: Rows<'_>,
    centroids: Rows<'_>,
    config: &KMeansConfig,
) -> Result<KMeans, RelationError> {
    let config = KMeansConfig {
        clusters: centroids.len(),
        ..*config
    };
    config.check()?;
    same_width(rows, centroids)?;
    let points = Points::new(rows)?;
    let first = vec![points.inward(centroids)];
    Ok(lloyd(&points, first, &config).outward(&points, rows.width()))
}

fn same_width(rows: Rows<'_>, centroids: Rows<'_>) -> Result<(), RelationError> {
    if rows.width() == centroids.width() {
        return Ok(());
    }
    Err(RelationError::Size {
        what: "features of a centroid",
        found: centroids.width(),
        wanted: rows.width(),
    })
}

impl KMeansConfig {
    fn check(&self) -> Result<(), RelationError> {
        let refuse = |name, value: String| Err(RelationError::Setting { name, value });
        let most = u32::MAX as usize;
        if self.clusters == 0 || self.clusters > most {
            return refuse("clusters", self.clusters.to_string());
        }
        if self.restarts == 0 {
            return refuse("restarts", self.restarts.to_string());
        }
        if self.max_iterations == 0 {
            return refuse("max_iterations", self.max_iterations.to_string());
        }
        if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            return refuse("tolerance", self.tolerance.to_string());
        }
        if let Assignment::Balanced(balance) = self.assignment
            && !(balance.temperature > 0.0 && balance.temperature.is_finite())
        {
            return refuse("temperature", balance.temperature.to_string());
        }
        Ok(())
    }
}

/// No label yet.
const NONE: u32 = u32::MAX;
/// Columns of one task of the sums.
const SLICE: usize = 128;

/// A run from one set of first centroids.
struct Run {
    /// `[clusters, stride]`, of centred rows.
    centroids: Vec<f32>,
    counts: Vec<usize>,
    /// Of a balanced assignment.
    prices: Vec<f64>,
    iterations: usize,
    /// Whether labels are those of the centroids.
    settled: bool,
}

/// The best run with its labels.
struct Best {
    run: Run,
    labels: Vec<usize>,
    inertia: f64,
}

impl Best {
    fn outward(self, points: &Points, width: usize) -> KMeans {
        KMeans {
            labels: self.labels,
            centroids: points.outward(&self.run.centroids),
            width,
            inertia: self.inertia,
            iterations: self.run.iterations,
        }
    }
}

/// Lloyd's iteration of all runs in step.
fn lloyd(points: &Points, first: Vec<Vec<f32>>, config: &KMeansConfig) -> Best {
    let clusters = config.clusters;
    let mut runs: Vec<Run> = first
        .into_iter()
        .map(|centroids| Run {
            centroids,
            counts: vec![0; clusters],
            prices: vec![0.0; clusters],
            iterations: 0,
            settled: false,
        })
        .collect();
    let count = runs.len();
    let tolerance = config.tolerance * points.variance;
    // Of each row the label in every run.
    let mut labels = vec![NONE; points.len() * count];
    let mut sums = Sums::new(points.stride, count, clusters);
    let mut active: Vec<usize> = (0..count).collect();
    while !active.is_empty() {
        let mut next = labels.clone();
        assign(points, &mut runs, &active, config, &mut next);
        sums.update(points, &labels, &next, &active);
        let mut changed = vec![false; count];
        for (old, new) in labels.chunks_exact(count).zip(next.chunks_exact(count)) {
            for &run in &active {
                changed[run] |= old[run] != new[run];
            }
        }
        labels = next;
        active.retain(|&index| {
            let run = &mut runs[index];
            let shift = run.step(points, &labels, &sums, [index, count]);
            run.iterations += 1;
            run.settled = !changed[index];
            !(run.settled || shift <= tolerance || run.iterations >= config.max_iterations)
        });
    }
    // Where a run ended for another reason its centroids have moved since.
    let moved: Vec<usize> = (0..count).filter(|run| !runs[*run].settled).collect();
    assign(points, &mut runs, &moved, config, &mut labels);

    let inertia = inertia(points, &runs, &labels);
    let best = (0..count)
        .min_by(|a, b| inertia[*a].total_cmp(&inertia[*b]))
        .unwrap_or(0);
    let labels = labels.iter().skip(best).step_by(count);
    Best {
        labels: labels.map(|label| *label as usize).collect(),
        inertia: inertia[best],
        run: runs.swap_remove(best),
    }
}

/// Labels of the `active` runs into `labels`, `[rows, runs]`.
fn assign(
    points: &Points,
    runs: &mut [Run],
    active: &[usize],
    config: &KMeansConfig,
    labels: &mut [u32],
) {
    if active.is_empty() {
        return;
    }
    let count = runs.len();
    match config.assignment {
        Assignment::Nearest => {
            let centroids: Vec<f32> = active
                .iter()
                .flat_map(|&run| &runs[run].centroids)
                .copied()
                .collect();
            assign_nearest(points, &centroids, count, active, labels);
        }
        Assignment::Balanced(balance) => {
            for &index in active {
                let run = &mut runs[index];
                let clusters = run.counts.len();
                let mut distances = vec![0.0; points.len() * clusters];
                points.partial_distances(
                    &run.centroids,
                    &mut distances,
                    clusters,
                    |_, partial, out| {
                        out.copy_from_slice(partial);
                    },
                );
                let found = balance::assign(&distances, clusters, &balance, &mut run.prices);
                let own = labels.iter_mut().skip(index).step_by(count);
                own.zip(found).for_each(|(label, found)| *label = found);
            }
        }
    }
}

/// The nearest of each active run's centroids, which lie one run after another in `centroids`.
fn assign_nearest(
    points: &Points,
    centroids: &[f32],
    count: usize,
    active: &[usize],
    labels: &mut [u32],
) {
    let vectors = centroids.len() / points.stride;
    let clusters = vectors / active.len();
    points.partial_distances(centroids, labels, count, |_, partial, labels| {
        let rows = labels.chunks_exact_mut(count);
        for (labels, partial) in rows.zip(partial.chunks_exact(vectors)) {
            for (run, partial) in active.iter().zip(partial.chunks_exact(clusters)) {
                let mut best = (f32::INFINITY, 0);
                for (cluster, distance) in partial.iter().enumerate() {
                    if *distance < best.0 {
                        best = (*distance, cluster as u32);
                    }
                }
                labels[*run] = best.1;
            }
        }
    });
}

/// Sums of the rows of every cluster of every run, in f64 so that rows can leave again without a trace.
///
/// A task has a slice of the columns and takes the rows in order: no number of threads changes a sum.
struct Sums {
    /// Per slice of columns: `[runs, clusters, columns]`.
    slices: Vec<Vec<f64>>,
    stride: usize,
    clusters: usize,
}

impl Sums {
    fn new(stride: usize, runs: usize, clusters: usize) -> Self {
        let slices = (0..stride).step_by(SLICE);
        let columns = slices.map(|start| SLICE.min(stride - start));
        Self {
            slices: columns
                .map(|columns| vec![0.0; runs * clusters * columns])
                .collect(),
            stride,
            clusters,
        }
    }

    /// Moves rows whose label changed.
    fn update(&mut self, points: &Points, old: &[u32], new: &[u32], active: &[usize]) {
        let (stride, clusters) = (self.stride, self.clusters);
        let count = old.len() / points.len();
        self.slices
            .par_iter_mut()
            .enumerate()
            .for_each(|(slice, sums)| {
                let start = slice * SLICE;
                let columns = SLICE.min(stride - start);
                let rows = old.chunks_exact(count).zip(new.chunks_exact(count));
                for (row, (old, new)) in rows.enumerate() {
                    if old == new {
                        continue;
                    }
                    let values = &points.row(row)[start..start + columns];
                    for &run in active {
                        if old[run] == new[run] {
                            continue;
                        }
                        let cluster = |label: u32| {
                            let at = (run * clusters + label as usize) * columns;
                            at..at + columns
                        };
                        let into = sums[cluster(new[run])].iter_mut().zip(values);
                        into.for_each(|(sum, value)| *sum += f64::from(*value));
                        if old[run] != NONE {
                            let from = sums[cluster(old[run])].iter_mut().zip(values);
                            from.for_each(|(sum, value)| *sum -= f64::from(*value));
                        }
                    }
                }
            });
    }

    /// The sums of one run, `[clusters, stride]`.
    fn of(&self, run: usize) -> Vec<f64> {
        let mut all = vec![0.0; self.clusters * self.stride];
        for (slice, sums) in self.slices.iter().enumerate() {
            let start = slice * SLICE;
            let columns = SLICE.min(self.stride - start);
            let own = sums.chunks_exact(columns).skip(run * self.clusters);
            for (sums, into) in own.zip(all.chunks_exact_mut(self.stride)) {
                into[start..start + columns].copy_from_slice(sums);
            }
        }
        all
    }
}

impl Run {
    /// Moves the centroids to the means of their rows. Returns the sum of squared moves. `at` is the run's number and
    /// the number of runs.
    fn step(&mut self, points: &Points, labels: &[u32], sums: &Sums, at: [usize; 2]) -> f64 {
        let [index, count] = at;
        let own = || labels.iter().skip(index).step_by(count);
        let stride = points.stride;
        self.counts.fill(0);
        own().for_each(|label| self.counts[*label as usize] += 1);
        let mut sums = sums.of(index);
        if self.counts.contains(&0) {
            let labels: Vec<u32> = own().copied().collect();
            self.relocate(points, &labels, &mut sums);
        }
        let largest = (0..self.counts.len()).max_by_key(|cluster| {
            // The first of equals.
            (self.counts[*cluster], std::cmp::Reverse(*cluster))
        });
        let largest = largest.unwrap_or(0);
        let mut shift = 0.0;
        let clusters = self.centroids.chunks_exact_mut(stride).enumerate();
        for (cluster, centroid) in clusters {
            // A cluster that stays empty lies where the largest does: no row is nearer to it.
            let from = if self.counts[cluster] > 0 {
                cluster
            } else {
                largest
            };
            let rows = self.counts[from] as f64;
            let sums = &sums[from * stride..][..stride];
            for (value, sum) in centroid.iter_mut().zip(sums) {
                let mean = (sum / rows) as f32;
                shift += f64::from(mean - *value).powi(2);
                *value = mean;
            }
        }
        shift
    }

    /// Gives each empty cluster the row farthest from its centroid, taken out of that row's cluster.
    fn relocate(&mut self, points: &Points, labels: &[u32], sums: &mut [f64]) {
        let stride = points.stride;
        let centroids = &self.centroids;
        let mut far: Vec<(f32, usize)> = labels
            .par_iter()
            .enumerate()
            .map(|(row, label)| {
                let centroid = &centroids[*label as usize * stride..][..stride];
                (squared_distance(points.row(row), centroid), row)
            })
            .collect();
        far.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let empty: Vec<usize> = (0..self.counts.len())
            .filter(|cluster| self.counts[*cluster] == 0)
            .collect();
        for (cluster, (distance, row)) in empty.into_iter().zip(far) {
            if distance == 0.0 {
                // Every other row is its centroid: there are no more distinct rows.
                break;
            }
            let from = labels[row] as usize;
            for (column, value) in points.row(row).iter().enumerate() {
                sums[from * stride + column] -= f64::from(*value);
                sums[cluster * stride + column] = f64::from(*value);
            }
            self.counts[from] -= 1;
            self.counts[cluster] = 1;
        }
    }
}

/// The inertia of every run, summed in f64 over blocks of rows in order.
fn inertia(points: &Points, runs: &[Run], labels: &[u32]) -> Vec<f64> {
    let stride = points.stride;
    let count = runs.len();
    let parts: Vec<Vec<f64>> = labels
        .par_chunks(BLOCK * count)
        .enumerate()
        .map(|(block, labels)| {
            let mut sums = vec![0.0; count];
            for (row, labels) in labels.chunks_exact(count).enumerate() {
                let row = points.row(block * BLOCK + row);
                for ((sum, label), run) in sums.iter_mut().zip(labels).zip(runs) {
                    let centroid = &run.centroids[*label as usize * stride..][..stride];
                    *sum += f64::from(squared_distance(row, centroid));
                }
            }
            sums
        })
        .collect();
    let mut inertia = vec![0.0; count];
    for part in parts {
        inertia
            .iter_mut()
            .zip(part)
            .for_each(|(sum, part)| *sum += part);
    }
    inertia
}
