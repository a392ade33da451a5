//! Learning-rate schedules: a factor of the peak rate as a pure function of the step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Schedule {
    /// The peak rate throughout.
    Constant,
    /// Linear from 0 to the peak over the warm-up, then linear to 0 at the last step
    /// (`specs/scl.md` section 4.1).
    WarmupLinear {
        /// Share of the whole course spent warming up.
        warmup: f64,
        /// Share of the course that is run: with 0.8 the run ends at a fifth of the way down
        /// (`specs/tbkin.md` section 3.6). Default: 1.
        #[serde(default = "whole", skip_serializing_if = "is_whole")]
        run: f64,
    },
    /// A quarter, a half and three quarters of the peak over three equal parts of the warm-up,
    /// then the peak, times `factor` at the start of each epoch in `decay_epochs`
    /// (`specs/tbkin.md`, fine-tuning).
    StepWarmup {
        /// Optimiser steps in an epoch.
        epoch_steps: u64,
        /// Epochs of warm-up.
        warmup_epochs: u64,
        /// Epochs, counted from 0, at whose start the rate falls.
        decay_epochs: Vec<u64>,
        /// What the rate is multiplied with there.
        factor: f64,
    },
}

fn whole() -> f64 {
    1.0
}

// By reference: serde asks so.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_whole(run: &f64) -> bool {
    *run == 1.0
}

impl Schedule {
    /// Share of `total` steps that are spent warming up.
    #[must_use]
    pub fn warmup_share(&self, total: u64) -> f64 {
        match self {
            Self::Constant => 0.0,
            Self::WarmupLinear { warmup, run } => warmup / run,
            Self::StepWarmup {
                epoch_steps,
                warmup_epochs,
                ..
            } => (epoch_steps * warmup_epochs) as f64 / total.max(1) as f64,
        }
    }

    /// Factor of the peak rate at optimiser step `step`, counted from 0, of `total`.
    #[must_use]
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::WarmupLinear { warmup, run } => {
                let course = total as f64 / run;
                let warmup_steps = warmup * course;
                let step = step as f64;
                if step < warmup_steps {
                    step / warmup_steps.max(1.0)
                } else {
                    let rest = (course - warmup_steps).max(1.0);
                    ((course - step) / rest).clamp(0.0, 1.0)
                }
            }
            Self::StepWarmup {
                epoch_steps,
                warmup_epochs,
                decay_epochs,
                factor,
            } => {
                // The published rule counts steps from 1 and its thirds include their last step.
                let position = (step + 1) as f64 / (epoch_steps * warmup_epochs).max(1) as f64;
                let warm = if position <= 1.0 / 3.0 {
                    0.25
                } else if position <= 2.0 / 3.0 {
                    0.5
                } else if position <= 1.0 {
                    0.75
                } else {
                    1.0
                };
                let epoch = step / (*epoch_steps).max(1);
                let falls = decay_epochs.iter().filter(|start| **start <= epoch).count();
                warm * factor.powi(i32::try_from(falls).unwrap_or(i32::MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant O2 of `specs/scl.md`.
    #[test]
    fn warmup_linear_at_its_corners() {
        let schedule = Schedule::WarmupLinear {
            warmup: 0.1,
            run: 1.0,
        };
        let at = |step| schedule.factor(step, 15_000);
        let found = [0, 750, 1500, 8250, 15_000].map(at);
        for (found, expected) in found.into_iter().zip([0.0, 0.5, 1.0, 0.5, 0.0]) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{found} instead of {expected}"
            );
        }
    }

    /// `specs/tbkin.md` section 3.6: 40 of 50 epochs are run, 2 of them warming up.
    #[test]
    fn a_course_that_ends_before_it_is_down() {
        let (warmup, run) = (2.0 / 50.0, 0.8);
        let schedule = Schedule::WarmupLinear { warmup, run };
        let (epoch, total) = (18_700, 40 * 18_700);
        for (epochs, expected) in [
            (1, 5.0e-5),
            (2, 1.0e-4),
            (10, 8.33e-5),
            (20, 6.25e-5),
            (30, 4.17e-5),
            (40, 2.08e-5),
        ] {
            let found = 1e-4 * schedule.factor(epochs * epoch, total);
            assert!((found - expected).abs() < 5e-8, "{epochs}: {found}");
        }
    }

    /// Section 5: the rates of VQA by epoch.
    #[test]
    fn a_step_for_every_epoch() {
        let schedule = Schedule::StepWarmup {
            epoch_steps: 5141,
            warmup_epochs: 3,
            decay_epochs: vec![6, 9],
            factor: 0.1,
        };
        for (epoch, expected) in [
            (0, 1.25e-5),
            (1, 2.5e-5),
            (2, 3.75e-5),
            (3, 5e-5),
            (5, 5e-5),
            (6, 5e-6),
            (8, 5e-6),
            (9, 5e-7),
            (14, 5e-7),
        ] {
            let found = 5e-5 * schedule.factor(epoch * 5141, 15 * 5141);
            assert!((found - expected).abs() < 1e-12, "{epoch}: {found}");
        }
    }

    #[test]
    fn a_run_of_one_step_has_a_finite_rate() {
        for warmup in [0.0, 0.5, 1.0] {
            let rate = Schedule::WarmupLinear { warmup, run: 1.0 }.factor(0, 1);
            assert!(rate.is_finite());
        }
    }
}
