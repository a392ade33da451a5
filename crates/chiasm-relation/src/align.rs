//! Which cluster of one clustering is which of another.
//!
//! The reference resets its head at every chunk since clusters are not aligned (`specs/itr.md` section 2.2), and tries
//! all permutations where it draws them (section 5.4). The assignment here is exact and cubic in the number of clusters
//! (Kuhn 1955 in the form of Jonker and Volgenant 1987, with potentials and shortest augmenting paths).

use crate::{RelationError, Rows};

/// For each cluster of `next` the cluster of `previous` that it continues: the one-to-one map for which the distances
/// between centroids sum to the least. Centroids are `[clusters, width]` of equal shape.
///
/// # Errors
///
/// The shapes differ.
///
/// ```
/// use chiasm_relation::{Rows, align};
///
/// let before = Rows::new(&[0.0, 0.0, 5.0, 5.0], 2)?;
/// let after = Rows::new(&[5.1, 5.0, 0.0, 0.1], 2)?;
/// assert_eq!(align::clusters(before, after)?, [1, 0]);
/// # Ok::<(), chiasm_relation::RelationError>(())
/// ```
pub fn clusters(previous: Rows<'_>, next: Rows<'_>) -> Result<Vec<usize>, RelationError> {
    for (what, found, wanted) in [
        ("features of a centroid", next.width(), previous.width()),
        ("clusters", next.len(), previous.len()),
    ] {
        if found != wanted {
            return Err(RelationError::Size {
                what,
                found,
                wanted,
            });
        }
    }
    let mut costs = Vec::with_capacity(next.len() * next.len());
    for row in next {
        for other in previous {
            let square: f64 = row
                .iter()
                .zip(other)
                .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                .sum();
            costs.push(square.sqrt());
        }
    }
    Ok(cheapest(&costs, next.len()))
}

/// The one-to-one assignment of least total cost: for each of `size` rows its column. `costs` is row-major
/// `[size, size]`; costs that are not finite count as very high.
#[must_use]
pub fn cheapest(costs: &[f64], size: usize) -> Vec<usize> {
    let cost = |row: usize, column: usize| match costs.get(row * size + column) {
        Some(cost) if cost.is_finite() => *cost,
        _ => f64::MAX / 1e6,
    };
    // Rows and columns are numbered from 1; 0 is the column from which a path starts.
    let mut row_potential = vec![0.0_f64; size + 1];
    let mut column_potential = vec![0.0_f64; size + 1];
    let mut row_of = vec![0_usize; size + 1];
    for row in 1..=size {
        row_of[0] = row;
        let mut distance = vec![f64::INFINITY; size + 1];
        let mut before = vec![0_usize; size + 1];
        let mut done = vec![false; size + 1];
        let mut column = 0;
        while row_of[column] != 0 {
            done[column] = true;
            let from = row_of[column];
            let (mut step, mut nearest) = (f64::INFINITY, 0);
            for next in 1..=size {
                if done[next] {
                    continue;
                }
                let reduced =
                    cost(from - 1, next - 1) - row_potential[from] - column_potential[next];
                if reduced < distance[next] {
                    distance[next] = reduced;
                    before[next] = column;
                }
                if nearest == 0 || distance[next] < step {
                    step = distance[next];
                    nearest = next;
                }
            }
            for other in 0..=size {
                if done[other] {
                    row_potential[row_of[other]] += step;
                    column_potential[other] -= step;
                } else {
                    distance[other] -= step;
                }
            }
            column = nearest;
        }
        while column != 0 {
            row_of[column] = row_of[before[column]];
            column = before[column];
        }
    }
    let mut column_of = vec![0; size];
    for column in 1..=size {
        column_of[row_of[column] - 1] = column - 1;
    }
    column_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(costs: &[f64], size: usize, columns: &[usize]) -> f64 {
        let rows = columns.iter().enumerate();
        rows.map(|(row, column)| costs[row * size + column]).sum()
    }

    /// Every order of `0..size`.
    fn orders(size: usize) -> Vec<Vec<usize>> {
        if size == 0 {
            return vec![Vec::new()];
        }
        let insert = |rest: Vec<usize>| {
            (0..size).map(move |at| {
                let mut order = rest.clone();
                order.insert(at, size - 1);
                order
            })
        };
        orders(size - 1).into_iter().flat_map(insert).collect()
    }

    proptest! {
        #[test]
        fn no_permutation_is_cheaper(
            size in 1usize..=5,
            values in proptest::collection::vec(-10.0_f64..10.0, 25),
        ) {
            let costs = &values[..size * size];
            let found = cheapest(costs, size);
            let mut sorted = found.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..size).collect::<Vec<_>>());
            let least = orders(size).iter().map(|order| total(costs, size, order)).fold(f64::INFINITY, f64::min);
            prop_assert!((total(costs, size, &found) - least).abs() < 1e-9);
        }

        #[test]
        fn any_costs_give_a_permutation(size in 0usize..6, values in proptest::collection::vec(any::<f64>(), 36)) {
            let mut found = cheapest(&values, size);
            found.sort_unstable();
            prop_assert_eq!(found, (0..size).collect::<Vec<_>>());
        }
    }

    #[test]
    fn shapes_that_differ_are_refused() {
        let two = Rows::new(&[0.0, 1.0], 1).unwrap();
        let one = Rows::new(&[0.0, 1.0], 2).unwrap();
        assert!(clusters(two, one).is_err());
        assert!(clusters(two, Rows::new(&[0.0], 1).unwrap()).is_err());
    }
}
