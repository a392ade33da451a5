//! Oracle mapping: which cluster stands for which class, chosen with the labels in hand.
//!
//! The reference calls this "zero-shot" and chooses the mapping on the test split (`specs/itr.md` section 3.4). It is
//! neither: labels are used, and a figure under a mapping chosen on the samples it is of is an upper bound, which random
//! clusters reach with .28 of four classes. Choose on validation samples.

use chiasm_relation::align;

use super::f1::f1;

/// Clusters up to which all permutations are tried: 5,040 of them.
const MOST: usize = 7;

/// What a mapping is to make high.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Weighted F1, as the reference. All permutations are tried, for 7 clusters at most; beyond, accuracy decides.
    WeightedF1,
    /// Accuracy: the assignment is exact for any number of clusters.
    Accuracy,
}

/// For each of `classes` clusters the class that it stands for, one to one. Of equal mappings the first in lexicographic
/// order, when all are tried.
#[must_use]
pub fn oracle_mapping(
    clusters: &[usize],
    labels: &[usize],
    classes: usize,
    objective: Objective,
) -> Vec<usize> {
    if objective == Objective::Accuracy || classes > MOST {
        let mut costs = vec![0.0; classes * classes];
        for (cluster, label) in clusters.iter().zip(labels) {
            if let Some(cost) = costs.get_mut(cluster * classes + label) {
                *cost -= 1.0;
            }
        }
        return align::cheapest(&costs, classes);
    }
    let mut best: Option<(f64, Vec<usize>)> = None;
    let mut order: Vec<usize> = (0..classes).collect();
    loop {
        let figure = f1(labels, &mapped(clusters, &order)).map_or(0.0, |f1| f1.weighted);
        if best.as_ref().is_none_or(|(highest, _)| figure > *highest) {
            best = Some((figure, order.clone()));
        }
        if !advance(&mut order) {
            break;
        }
    }
    best.map_or(order, |(_, order)| order)
}

/// Classes of clusters under a mapping; a cluster beyond it keeps its number.
#[must_use]
pub fn mapped(clusters: &[usize], mapping: &[usize]) -> Vec<usize> {
    let class = |cluster: &usize| mapping.get(*cluster).copied().unwrap_or(*cluster);
    clusters.iter().map(class).collect()
}

/// The next order in lexicographic order; false after the last.
fn advance(order: &mut [usize]) -> bool {
    let Some(pivot) = order.windows(2).rposition(|pair| pair[0] < pair[1]) else {
        return false;
    };
    let Some(swap) = order.iter().rposition(|value| *value > order[pivot]) else {
        return false;
    };
    order.swap(pivot, swap);
    order[pivot + 1..].reverse();
    true
}
