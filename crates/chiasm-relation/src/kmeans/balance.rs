//! Clusters of equal size: the assignment by Sinkhorn's iteration (Cuturi 2013; for clusters, Asano et al. 2020).
//!
//! Each cluster has a price that is added to its distances. Prices are raised where a soft assignment puts too many rows
//! and lowered where too few, until all clusters weigh the same; a row then takes the cluster of the least sum. Rows
//! that are alike get one cluster, so sizes are equal only as far as rows differ.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How clusters are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Softness of the assignment that the prices balance, as a share of the mean gap between a row's mean and least
    /// squared distance. Smaller is nearer to equal sizes and takes more iterations. Default: 0.02.
    pub temperature: f64,
    /// Iterations of each assignment, at most. Default: 100.
    pub iterations: usize,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            temperature: 0.02,
            iterations: 100,
        }
    }
}

/// Relative distance from equal weight at which the iteration ends.
const CLOSE: f64 = 1e-2;
/// Rows of one partial sum.
const BLOCK: usize = 512;

/// The cluster of each row, from squared distances `[rows, clusters]` (any constant may be missing from a row). `prices`
/// are where to begin, and are left where the iteration ended.
pub(super) fn assign(
    distances: &[f32],
    clusters: usize,
    balance: &Balance,
    prices: &mut [f64],
) -> Vec<u32> {
    let rows = distances.len() / clusters;
    let gaps = sums(distances, clusters, 1, |row, sum| {
        let least = row.iter().copied().fold(f32::INFINITY, f32::min);
        let mean = row.iter().map(|value| f64::from(*value)).sum::<f64>() / clusters as f64;
        sum[0] += mean - f64::from(least);
    });
    let softness = balance.temperature * gaps[0] / rows as f64;
    if softness > 0.0 {
        let wanted = rows as f64 / clusters as f64;
        for _ in 0..balance.iterations {
            let weights = sums(distances, clusters, clusters, |row, sums| {
                let least = cheapest(row, prices);
                let least = f64::from(row[least]) + prices[least];
                let odds = |(value, price): (&f32, &f64)| {
                    ((least - f64::from(*value) - price) / softness).exp()
                };
                let total: f64 = row.iter().zip(prices.iter()).map(odds).sum();
                for (sum, pair) in sums.iter_mut().zip(row.iter().zip(prices.iter())) {
                    *sum += odds(pair) / total;
                }
            });
            let off = |weight: &f64| (weight / wanted - 1.0).abs() > CLOSE;
            if !weights.iter().any(off) {
                break;
            }
            for (price, weight) in prices.iter_mut().zip(&weights) {
                // A cluster that no row wants is lowered by a bounded step.
                *price += softness * (weight / wanted).max(1e-6).ln();
            }
        }
    }
    distances
        .par_chunks_exact(clusters)
        .map(|row| cheapest(row, prices) as u32)
        .collect()
}

/// The cluster of least distance and price; the first of equals.
fn cheapest(row: &[f32], prices: &[f64]) -> usize {
    let mut best = (f64::INFINITY, 0);
    for (cluster, (value, price)) in row.iter().zip(prices).enumerate() {
        let sum = f64::from(*value) + price;
        if sum < best.0 {
            best = (sum, cluster);
        }
    }
    best.1
}

/// `columns` sums over rows, in blocks of fixed size that are added in order.
fn sums(
    distances: &[f32],
    clusters: usize,
    columns: usize,
    add: impl Fn(&[f32], &mut [f64]) + Sync,
) -> Vec<f64> {
    let parts: Vec<Vec<f64>> = distances
        .par_chunks(BLOCK * clusters)
        .map(|rows| {
            let mut sums = vec![0.0; columns];
            rows.chunks_exact(clusters)
                .for_each(|row| add(row, &mut sums));
            sums
        })
        .collect();
    let mut sums = vec![0.0; columns];
    for part in parts {
        sums.iter_mut()
            .zip(part)
            .for_each(|(sum, part)| *sum += part);
    }
    sums
}
