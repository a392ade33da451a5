//! What can be read from frozen features: classifiers that do not touch the encoder (`specs/itr.md` section 3).
//!
//! [`LogisticProbe`] is the published protocol; [`CentroidProbe`] and [`NeighbourProbe`] need no fitting and show what
//! the geometry of the features gives away. Fit on training rows, choose on validation rows, report on test rows.

mod centroid;
mod logistic;
mod neighbours;

pub use centroid::CentroidProbe;
pub use logistic::{Fit, LogisticConfig, LogisticProbe};
pub use neighbours::NeighbourProbe;

use crate::{RelationError, Rows};

/// What a probe says of rows: a logit for every class, `[rows, classes]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    logits: Vec<f64>,
    classes: usize,
}

impl Scores {
    /// Takes logits, `[rows, classes]`. Negative infinity is a class that is impossible.
    #[must_use]
    pub fn new(logits: Vec<f64>, classes: usize) -> Self {
        Self { logits, classes }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.logits.len() / self.classes.max(1)
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logits.is_empty()
    }

    /// Logits row by row.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.logits.chunks_exact(self.classes.max(1))
    }

    /// The class of the highest logit of each row, the first of equals.
    #[must_use]
    pub fn predicted(&self) -> Vec<usize> {
        self.rows().map(highest).collect()
    }

    /// Softmax of each row, `[rows, classes]`.
    #[must_use]
    pub fn probabilities(&self) -> Vec<f64> {
        let mut values = self.logits.clone();
        for row in values.chunks_exact_mut(self.classes.max(1)) {
            softmax(row);
        }
        values
    }
}

/// The place of the highest value, the first of equals.
pub(crate) fn highest(values: &[f64]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = place;
        }
    }
    best
}

/// Turns logits into probabilities; returns the logarithm of the sum of their exponentials.
pub(crate) fn softmax(logits: &mut [f64]) -> f64 {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for logit in logits.iter_mut() {
        *logit = (*logit - top).exp();
        sum += *logit;
    }
    logits.iter_mut().for_each(|value| *value /= sum);
    top + sum.ln()
}

/// The classes that have a row, in order.
///
/// # Errors
///
/// There are no rows, or a label is missing or beyond the classes.
pub(crate) fn checked(
    rows: Rows<'_>,
    labels: &[usize],
    classes: usize,
) -> Result<Vec<usize>, RelationError> {
    if rows.is_empty() {
        return Err(RelationError::Empty);
    }
    if labels.len() != rows.len() {
        return Err(RelationError::Size {
            what: "labels",
            found: labels.len(),
            wanted: rows.len(),
        });
    }
    let mut seen = vec![false; classes];
    for (row, label) in labels.iter().enumerate() {
        match seen.get_mut(*label) {
            Some(seen) => *seen = true,
            None => {
                return Err(RelationError::Label {
                    row,
                    label: *label,
                    classes,
                });
            }
        }
    }
    Ok((0..classes).filter(|class| seen[*class]).collect())
}

/// The class of two probes that each answer one question (k = 2 of the reference): `2 text represented + image adds`.
///
/// ```
/// use chiasm_relation::probe::recompose;
///
/// assert_eq!(recompose(&[0, 0, 1, 1], &[0, 1, 0, 1]), [0, 1, 2, 3]);
/// ```
#[must_use]
pub fn recompose(text_represented: &[usize], image_adds: &[usize]) -> Vec<usize> {
    let facts = text_represented.iter().zip(image_adds);
    facts.map(|(t, v)| 2 * t + v).collect()
}
