//! The nearest mean of a class.

use serde::{Deserialize, Serialize};

use super::{Scores, checked};
use crate::{RelationError, Rows};

/// The means of classes, and how far rows lie from them.
///
/// A logit is minus half the squared distance from the mean, divided by the variance of a feature within classes: the
/// posterior of normal distributions of one round shape and equal frequency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CentroidProbe {
    /// Number of classes.
    pub classes: usize,
    /// Classes with a training row, in order.
    pub present: Vec<usize>,
    /// Features of a row.
    pub width: usize,
    /// `[present classes, width]`.
    pub centroids: Vec<f32>,
    /// Mean squared difference of a feature from its class's mean; 1 where there is none.
    pub variance: f64,
}

impl CentroidProbe {
    /// Takes the means of classes from `rows`.
    ///
    /// # Errors
    ///
    /// There are no rows, or labels are missing or beyond the classes.
    pub fn fit(rows: Rows<'_>, labels: &[usize], classes: usize) -> Result<Self, RelationError> {
        let present = checked(rows, labels, classes)?;
        let width = rows.width();
        let mut sums = vec![0.0_f64; classes * width];
        let mut counts = vec![0_usize; classes];
        for (row, label) in rows.iter().zip(labels) {
            counts[*label] += 1;
            let sums = sums[label * width..][..width].iter_mut();
            sums.zip(row)
                .for_each(|(sum, value)| *sum += f64::from(*value));
        }
        for (sums, count) in sums.chunks_exact_mut(width).zip(&counts) {
            sums.iter_mut()
                .for_each(|sum| *sum /= (*count).max(1) as f64);
        }
        let mut within = 0.0;
        for (row, label) in rows.iter().zip(labels) {
            let means = &sums[label * width..][..width];
            within += square(row, means.iter().copied());
        }
        let variance = within / (rows.len() * width) as f64;
        let of = |class: &usize| sums[class * width..][..width].iter();
        Ok(Self {
            classes,
            width,
            centroids: present
                .iter()
                .flat_map(of)
                .map(|value| *value as f32)
                .collect(),
            variance: if variance > 0.0 { variance } else { 1.0 },
            present,
        })
    }

    /// Logits of `rows`; negative infinity of a class without training rows.
    ///
    /// # Errors
    ///
    /// The rows have another width.
    pub fn scores(&self, rows: Rows<'_>) -> Result<Scores, RelationError> {
        if rows.width() != self.width {
            return Err(RelationError::Size {
                what: "features of a row",
                found: rows.width(),
                wanted: self.width,
            });
        }
        let mut logits = vec![f64::NEG_INFINITY; rows.len() * self.classes];
        for (logits, row) in logits.chunks_exact_mut(self.classes.max(1)).zip(rows) {
            let centroids = self.centroids.chunks_exact(self.width);
            for (class, centroid) in self.present.iter().zip(centroids) {
                let distance = square(row, centroid.iter().map(|value| f64::from(*value)));
                logits[*class] = -0.5 * distance / self.variance;
            }
        }
        Ok(Scores::new(logits, self.classes))
    }
}

fn square(row: &[f32], from: impl Iterator<Item = f64>) -> f64 {
    let columns = row.iter().zip(from);
    columns.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum()
}
