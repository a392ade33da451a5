//! Probabilities that mean what they say: calibration of logits on validation data.
//!
//! [`Calibration::Temperature`] divides all logits by one number (Guo et al. 2017); [`Calibration::Platt`] gives the
//! difference of two classes a slope and an offset (Platt 1999). Neither changes which class is the most probable, but
//! for Platt's offset. Fit on rows that the probe was not fitted on.

use serde::{Deserialize, Serialize};

use crate::RelationError;
use crate::lbfgs::{self, Stop};
use crate::probe::{Scores, softmax};

/// What is done to logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    /// Nothing.
    #[default]
    None,
    /// Logits are divided by this.
    Temperature(f64),
    /// Of two classes: the second's logit less the first's is multiplied with `slope`, and `offset` is added.
    Platt {
        /// Factor.
        slope: f64,
        /// Summand.
        offset: f64,
    },
}

/// Which kind of calibration is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationKind {
    /// One temperature.
    Temperature,
    /// Slope and offset; for two classes.
    Platt,
}

/// Parts in which validation rows are held out in turn.
const FOLDS: usize = 5;
/// A sharper or flatter calibration than e to this is not believed.
const BOUND: f64 = 8.0;

impl Calibration {
    /// Fits a kind to validation rows: the parameters of least cross-entropy.
    ///
    /// # Errors
    ///
    /// There are no rows, labels are missing or beyond the classes, or Platt's is asked of more than two classes.
    pub fn fit(
        kind: CalibrationKind,
        scores: &Scores,
        labels: &[usize],
    ) -> Result<Self, RelationError> {
        check(scores, labels)?;
        if kind == CalibrationKind::Platt && scores.classes() != 2 {
            return Err(RelationError::Size {
                what: "classes of Platt's calibration",
                found: scores.classes(),
                wanted: 2,
            });
        }
        let all: Vec<usize> = (0..scores.len()).collect();
        Ok(fit_on(kind, scores, labels, &all))
    }

    /// Chooses among no calibration, a temperature and (for two classes) Platt's: the one whose cross-entropy on held-out
    /// fifths of the validation rows is least, fitted to all of them.
    ///
    /// # Errors
    ///
    /// There are no rows, or labels are missing or beyond the classes.
    pub fn choose(scores: &Scores, labels: &[usize]) -> Result<Self, RelationError> {
        check(scores, labels)?;
        let all: Vec<usize> = (0..scores.len()).collect();
        let mut best = (cross_entropy(Self::None, scores, labels, &all), Self::None);
        let mut kinds = vec![CalibrationKind::Temperature];
        if scores.classes() == 2 {
            kinds.push(CalibrationKind::Platt);
        }
        if scores.len() < 2 * FOLDS {
            return Ok(Self::None);
        }
        for kind in kinds {
            let mut sum = 0.0;
            for fold in 0..FOLDS {
                let held_out = |row: &usize| row % FOLDS == fold;
                let (test, train): (Vec<usize>, Vec<usize>) =
                    all.iter().partition(|row| held_out(row));
                let fitted = fit_on(kind, scores, labels, &train);
                sum += cross_entropy(fitted, scores, labels, &test) * test.len() as f64;
            }
            let mean = sum / scores.len() as f64;
            if mean < best.0 {
                best = (mean, fit_on(kind, scores, labels, &all));
            }
        }
        Ok(best.1)
    }

    /// Calibrated logits.
    #[must_use]
    pub fn apply(self, scores: &Scores) -> Scores {
        let logits = scores.rows().flat_map(|row| self.row(row)).collect();
        Scores::new(logits, scores.classes())
    }

    fn row(self, logits: &[f64]) -> Vec<f64> {
        match (self, logits) {
            (Self::Temperature(temperature), _) => {
                logits.iter().map(|logit| logit / temperature).collect()
            }
            (Self::Platt { slope, offset }, [first, second]) => {
                let difference = second - first;
                // Infinite where one class is impossible.
                match difference.is_finite() {
                    true => vec![0.0, slope * difference + offset],
                    false => vec![*first, *second],
                }
            }
            _ => logits.to_vec(),
        }
    }
}

fn check(scores: &Scores, labels: &[usize]) -> Result<(), RelationError> {
    if scores.is_empty() {
        return Err(RelationError::Empty);
    }
    if labels.len() != scores.len() {
        return Err(RelationError::Size {
            what: "labels",
            found: labels.len(),
            wanted: scores.len(),
        });
    }
    let beyond = labels.iter().position(|label| *label >= scores.classes());
    match beyond {
        None => Ok(()),
        Some(row) => Err(RelationError::Label {
            row,
            label: labels[row],
            classes: scores.classes(),
        }),
    }
}

/// Mean cross-entropy of some rows; a row whose class is impossible does not count.
fn cross_entropy(
    calibration: Calibration,
    scores: &Scores,
    labels: &[usize],
    rows: &[usize],
) -> f64 {
    let classes = scores.classes();
    let logits: Vec<&[f64]> = scores.rows().collect();
    let mut sum = 0.0;
    for row in rows {
        let mut own = calibration.row(logits[*row]);
        debug_assert_eq!(own.len(), classes);
        let right = own[labels[*row]];
        if right.is_finite() {
            sum += softmax(&mut own) - right;
        }
    }
    sum / rows.len().max(1) as f64
}

/// Parameters of least cross-entropy, by numeric gradient: one or two numbers over validation rows.
fn fit_on(kind: CalibrationKind, scores: &Scores, labels: &[usize], rows: &[usize]) -> Calibration {
    let of = |at: &[f64]| match (kind, at) {
        (CalibrationKind::Platt, [slope, offset]) => Calibration::Platt {
            slope: slope.clamp(-BOUND, BOUND).exp(),
            offset: *offset,
        },
        _ => Calibration::Temperature(at[0].clamp(-BOUND, BOUND).exp()),
    };
    let start = match kind {
        CalibrationKind::Temperature => vec![0.0],
        CalibrationKind::Platt => vec![0.0, 0.0],
    };
    let stop = Stop {
        tolerance: 1e-6,
        max_iterations: 100,
    };
    // A little pull to where it began decides where rows leave a parameter open, as where all are right.
    let value = |at: &[f64]| {
        let pull: f64 = at.iter().map(|value| value * value).sum();
        cross_entropy(of(at), scores, labels, rows) + 1e-6 * pull
    };
    let found = lbfgs::minimise(start, stop, |at, gradient| {
        const STEP: f64 = 1e-5;
        for (place, gradient) in gradient.iter_mut().enumerate() {
            let mut beside = at.to_vec();
            beside[place] = at[place] + STEP;
            let above = value(&beside);
            beside[place] = at[place] - STEP;
            *gradient = (above - value(&beside)) / (2.0 * STEP);
        }
        value(at)
    });
    of(&found.at)
}
