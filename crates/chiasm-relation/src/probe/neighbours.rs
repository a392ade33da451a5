//! The classes of the nearest training rows.

use rayon::prelude::*;

use super::{Scores, checked};
use crate::points::Points;
use crate::{RelationError, Rows};

/// Training rows with their classes.
pub struct NeighbourProbe {
    points: Points,
    width: usize,
    labels: Vec<usize>,
    classes: usize,
    neighbours: usize,
}

impl NeighbourProbe {
    /// Keeps `rows`; `neighbours` of them, or all if there are fewer, have a say.
    ///
    /// # Errors
    ///
    /// There are no rows, one is too long, labels are missing or beyond the classes, or no neighbour is to have a say.
    pub fn fit(
        rows: Rows<'_>,
        labels: &[usize],
        classes: usize,
        neighbours: usize,
    ) -> Result<Self, RelationError> {
        checked(rows, labels, classes)?;
        if neighbours == 0 {
            return Err(RelationError::Setting {
                name: "neighbours",
                value: neighbours.to_string(),
            });
        }
        Ok(Self {
            points: Points::new(rows)?,
            width: rows.width(),
            labels: labels.to_vec(),
            classes,
            neighbours: neighbours.min(rows.len()),
        })
    }

    /// Logits of `rows`: logarithms of the shares of votes. Of equal shares the nearer neighbour's class comes first, by a
    /// hair; of equal distances the earlier training row is nearer.
    ///
    /// # Errors
    ///
    /// The rows have another width, or one is so long that its distances overflow.
    pub fn scores(&self, rows: Rows<'_>) -> Result<Scores, RelationError> {
        if rows.width() != self.width {
            return Err(RelationError::Size {
                what: "features of a row",
                found: rows.width(),
                wanted: self.width,
            });
        }
        /// Rows asked about together: what a pass over the training rows is shared by.
        const TOGETHER: usize = 256;
        let mut logits = Vec::with_capacity(rows.len() * self.classes);
        for chunk in rows.values().chunks(TOGETHER * self.width) {
            let asked = self.points.inward(Rows::new(chunk, self.width)?);
            let columns = chunk.len() / self.width;
            let mut distances = vec![0.0_f32; self.points.len() * columns];
            self.points.partial_distances(
                &asked,
                &mut distances,
                columns,
                |first, partial, out| {
                    let squares = &self.points.squares[first..];
                    let rows = out
                        .chunks_exact_mut(columns)
                        .zip(partial.chunks_exact(columns));
                    for ((out, partial), square) in rows.zip(squares) {
                        for (out, partial) in out.iter_mut().zip(partial) {
                            *out = square + partial;
                        }
                    }
                },
            );
            let votes: Vec<Vec<f64>> = (0..columns)
                .into_par_iter()
                .map(|column| {
                    let own = distances.iter().skip(column).step_by(columns);
                    self.votes(&own.copied().collect::<Vec<_>>())
                })
                .collect();
            logits.extend(votes.into_iter().flatten());
        }
        Ok(Scores::new(logits, self.classes))
    }

    fn votes(&self, distances: &[f32]) -> Vec<f64> {
        let mut order: Vec<usize> = (0..distances.len()).collect();
        let by = |a: &usize, b: &usize| distances[*a].total_cmp(&distances[*b]).then(a.cmp(b));
        if self.neighbours < order.len() {
            order.select_nth_unstable_by(self.neighbours, by);
            order.truncate(self.neighbours);
        }
        order.sort_unstable_by(by);
        let mut shares = vec![0.0; self.classes];
        for (rank, row) in order.iter().enumerate() {
            // A tie is broken by rank; no number of ranks outweighs a vote.
            let bonus = 1e-6 * (self.neighbours - rank) as f64 / self.neighbours.pow(2) as f64;
            shares[self.labels[*row]] += 1.0 + bonus;
        }
        let total: f64 = shares.iter().sum();
        shares.iter().map(|share| (share / total).ln()).collect()
    }
}
