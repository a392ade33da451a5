//! The linear probe: multinomial logistic regression on frozen features (`specs/itr.md` section 3.3).
//!
//! Minimises `1/2 |W|² + C sum_i -log softmax(W x_i + b)_(y_i)`, the intercepts `b` unpenalised, as scikit-learn's
//! `LogisticRegression`; of two classes one row of weights and the logistic function. Rows are centred on the way, which
//! leaves the optimum where it is, and the minimisation goes on until the gradient is small, not for 100 iterations.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Scores, checked, softmax};
use crate::lbfgs::{self, Stop};
use crate::points::Points;
use crate::products::{BLOCK, accumulate, products};
use crate::{RelationError, Rows};

/// Settings of [`LogisticProbe::fit`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LogisticConfig {
    /// C: the weight of the fit beside that of short weights. Default: 0.25, as in the reference.
    pub inverse_penalty: f64,
    /// Largest entry of the gradient of the objective, divided by the number of rows and C, at which the fit ends.
    /// Default: 1e-5, near what f32 products can tell; scikit-learn's is 1e-4.
    pub tolerance: f64,
    /// Iterations at most. Default: 1,000.
    pub max_iterations: usize,
}

impl Default for LogisticConfig {
    fn default() -> Self {
        Self {
            inverse_penalty: 0.25,
            tolerance: 1e-5,
            max_iterations: 1000,
        }
    }
}

/// A fitted linear probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogisticProbe {
    /// Number of classes, those without a training row counted.
    pub classes: usize,
    /// Classes with a training row, in order.
    pub present: Vec<usize>,
    /// Features of a row.
    pub width: usize,
    /// `[rows, width]`: a row of weights for each present class, or one for the second of two.
    pub weights: Vec<f32>,
    /// One for each row of weights.
    pub intercepts: Vec<f32>,
}

/// How a fit went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// `1/2 |W|² + C sum of losses` at the end.
    pub objective: f64,
    /// Largest entry of its gradient divided by the number of rows and C.
    pub slope: f64,
    /// Iterations.
    pub iterations: usize,
    /// Whether the gradient is as small as was asked for.
    pub converged: bool,
}

impl LogisticProbe {
    /// Fits weights to `rows` and their classes `labels`, each below `classes`.
    ///
    /// # Errors
    ///
    /// There are no rows, one is too long, labels are missing or beyond the classes, all rows are of one class, or a
    /// setting has no meaning.
    ///
    /// # Examples
    ///
    /// ```
    /// use chiasm_relation::probe::{LogisticConfig, LogisticProbe};
    /// use chiasm_relation::Rows;
    ///
    /// let rows = Rows::new(&[0.0, 1.0, 4.0, 5.0], 1)?;
    /// let (probe, fit) = LogisticProbe::fit(rows, &[0, 0, 1, 1], 2, &LogisticConfig::default())?;
    /// assert!(fit.converged);
    /// assert_eq!(probe.scores(rows)?.predicted(), [0, 0, 1, 1]);
    /// # Ok::<(), chiasm_relation::RelationError>(())
    /// ```
    pub fn fit(
        rows: Rows<'_>,
        labels: &[usize],
        classes: usize,
        config: &LogisticConfig,
    ) -> Result<(Self, Fit), RelationError> {
        if !(config.inverse_penalty > 0.0 && config.inverse_penalty.is_finite()) {
            return Err(RelationError::Setting {
                name: "C",
                value: config.inverse_penalty.to_string(),
            });
        }
        let present = checked(rows, labels, classes)?;
        if present.len() < 2 {
            return Err(RelationError::OneClass {
                class: present.first().copied().unwrap_or(0),
            });
        }
        let targets: Vec<usize> = labels
            .iter()
            .map(|label| present.partition_point(|class| class < label))
            .collect();
        let points = Points::new(rows)?;
        let heads = if present.len() == 2 { 1 } else { present.len() };
        let problem = Problem {
            points: &points,
            targets: &targets,
            heads,
            // Divided by the number of rows and C, as scikit-learn does.
            penalty: 1.0 / (config.inverse_penalty * points.len() as f64),
        };
        let stop = Stop {
            tolerance: config.tolerance,
            max_iterations: config.max_iterations,
        };
        let start = vec![0.0; heads * (points.stride + 1)];
        let minimum = lbfgs::minimise(start, stop, |at, gradient| problem.evaluate(at, gradient));

        let (weights, intercepts) = minimum.at.split_at(heads * points.stride);
        let width = rows.width();
        let mut probe = Self {
            classes,
            present,
            width,
            weights: Vec::with_capacity(heads * width),
            intercepts: Vec::with_capacity(heads),
        };
        for (weights, intercept) in weights.chunks_exact(points.stride).zip(intercepts) {
            // Back from centred rows: w (x - m) + b = w x + (b - w m).
            let shift: f64 = weights.iter().zip(points.mean()).map(|(w, m)| w * m).sum();
            probe.intercepts.push((intercept - shift) as f32);
            let weights = weights[..width].iter().map(|weight| *weight as f32);
            probe.weights.extend(weights);
        }
        let fit = Fit {
            objective: minimum.value / problem.penalty,
            slope: minimum.slope,
            iterations: minimum.iterations,
            converged: minimum.slope <= config.tolerance,
        };
        Ok((probe, fit))
    }

    /// Logits of `rows`. Of a class without training rows they are negative infinity; of two classes the first has 0.
    ///
    /// # Errors
    ///
    /// The rows have another width.
    pub fn scores(&self, rows: Rows<'_>) -> Result<Scores, RelationError> {
        let heads = self.intercepts.len();
        for (what, found, wanted) in [
            ("features of a row", rows.width(), self.width),
            ("weights", self.weights.len(), heads * self.width),
            (
                "intercepts",
                heads,
                if self.present.len() == 2 {
                    1
                } else {
                    self.present.len()
                },
            ),
        ] {
            if found != wanted {
                return Err(RelationError::Size {
                    what,
                    found,
                    wanted,
                });
            }
        }
        let mut logits = vec![f64::NEG_INFINITY; rows.len() * self.classes];
        let into = logits.par_chunks_exact_mut(self.classes.max(1));
        let rows = rows.values().par_chunks_exact(self.width);
        into.zip(rows).for_each(|(logits, row)| {
            let skipped = self.present.len() - heads;
            for class in &self.present[..skipped] {
                logits[*class] = 0.0;
            }
            let weights = self.weights.chunks_exact(self.width);
            let classes = self.present[skipped..].iter();
            for ((class, weights), intercept) in classes.zip(weights).zip(&self.intercepts) {
                let products = row.iter().zip(weights);
                let sum: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                logits[*class] = sum + f64::from(*intercept);
            }
        });
        Ok(Scores::new(logits, self.classes))
    }
}

/// The objective in numbers.
struct Problem<'a> {
    points: &'a Points,
    targets: &'a [usize],
    /// Rows of weights: one a class, or one for two classes.
    heads: usize,
    penalty: f64,
}

/// Memory for partial gradients, at most.
const PARTIAL_BYTES: usize = 256 << 20;
/// Partial gradients at most: tasks of one evaluation.
const PARTIALS: usize = 32;

impl Problem<'_> {
    /// Mean loss and penalty, and their gradient: weights `[heads, stride]`, then intercepts.
    ///
    /// Rows are cut into parts by their number alone, and the parts are added in order: no number of threads changes the
    /// result.
    fn evaluate(&self, at: &[f64], gradient: &mut [f64]) -> f64 {
        let (stride, heads) = (self.points.stride, self.heads);
        let (weights, intercepts) = at.split_at(heads * stride);
        let narrow: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
        let parts = (PARTIAL_BYTES / (8 * at.len())).clamp(1, PARTIALS);
        let part = self.points.len().div_ceil(parts).next_multiple_of(BLOCK);
        let parts: Vec<(f64, Vec<f64>)> = self
            .points
            .values
            .par_chunks(part * stride)
            .zip(self.targets.par_chunks(part))
            .map(|(rows, targets)| {
                let mut sums = vec![0.0; at.len()];
                let (into, biases) = sums.split_at_mut(heads * stride);
                let mut loss = 0.0;
                let blocks = rows.chunks(BLOCK * stride).zip(targets.chunks(BLOCK));
                let mut scores = Vec::new();
                for (rows, targets) in blocks {
                    scores.resize(targets.len() * heads, 0.0);
                    products(rows, &narrow, stride, &mut scores);
                    let mut errors = Vec::with_capacity(scores.len());
                    for (scores, target) in scores.chunks_exact(heads).zip(targets) {
                        let logits = scores.iter().zip(intercepts);
                        let logits = logits.map(|(score, bias)| f64::from(*score) + bias);
                        loss += self.row(logits, *target, &mut errors);
                    }
                    for errors in errors.chunks_exact(heads) {
                        biases.iter_mut().zip(errors).for_each(|(sum, e)| *sum += e);
                    }
                    accumulate(rows, &errors, stride, into);
                }
                (loss, sums)
            })
            .collect();
        let rows = self.points.len() as f64;
        gradient.fill(0.0);
        let mut value = 0.0;
        for (loss, sums) in parts {
            value += loss / rows;
            for (gradient, sum) in gradient.iter_mut().zip(sums) {
                *gradient += sum / rows;
            }
        }
        for (gradient, weight) in gradient.iter_mut().zip(weights) {
            *gradient += self.penalty * weight;
            value += 0.5 * self.penalty * weight * weight;
        }
        value
    }

    /// The loss of one row; its derivatives by the logits are appended to `errors`.
    fn row(&self, logits: impl Iterator<Item = f64>, target: usize, errors: &mut Vec<f64>) -> f64 {
        let start = errors.len();
        if self.heads == 1 {
            // Class 0 has the logit 0.
            errors.push(0.0);
        }
        errors.extend(logits);
        let own = errors[start + target];
        let normaliser = softmax(&mut errors[start..]);
        errors[start + target] -= 1.0;
        if self.heads == 1 {
            errors.remove(start);
        }
        normaliser - own
    }
}
