//! One step of Adam over flat slices, in a single pass over memory.
//!
//! A step does a dozen operations for seven numbers moved, so it runs at the speed of memory: what
//! counts is that every number is read and written once, and by all cores.

use rayon::prelude::*;

use crate::optimizer::AdamForm;

/// Elements of a task: the slices of a task fit into a core's cache, and its start costs nothing
/// against them.
const CHUNK: usize = 16 * 1024;

/// Runs `body` compiled for the widest vectors of this machine.
fn simd<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

/// One step of the optimiser, the same for all elements it is applied to.
///
/// Factors are computed in f64 and rounded to f32 once; the elements are f32 throughout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdamStep {
    /// Which variant.
    pub(crate) form: AdamForm,
    /// Share of the running mean of gradients that a step keeps.
    pub(crate) beta1: f64,
    /// Share of the running mean of squared gradients that a step keeps.
    pub(crate) beta2: f64,
    /// Added to the root of the mean square.
    pub(crate) eps: f64,
    /// Learning rate of this step.
    pub(crate) rate: f64,
    /// Share of a weight removed at rate 1.
    pub(crate) decay: f64,
    /// Number of this step; the first is 1.
    pub(crate) step: u64,
    /// What the gradient is multiplied by first, 1 to take it as it is: clipping without a pass.
    pub(crate) gradient_scale: f64,
}

impl AdamStep {
    /// Updates the values and the running means of gradients and of squared gradients, all `[n]`.
    ///
    /// # Panics
    /// If the lengths differ: an error in the calling code.
    pub(crate) fn apply(
        &self,
        value: &mut [f32],
        gradient: &[f32],
        mean: &mut [f32],
        square: &mut [f32],
    ) {
        assert!([gradient.len(), mean.len(), square.len()] == [value.len(); 3]);
        let factors = Factors::of(self);
        value
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(mean.par_chunks_mut(CHUNK))
            .zip(square.par_chunks_mut(CHUNK))
            .for_each(|(((value, gradient), mean), square)| {
                // The form is chosen outside the loop over elements: it has no branch then.
                simd(|| match self.form {
                    AdamForm::Adamw => factors.update(
                        (value, gradient, mean, square),
                        #[inline(always)]
                        |value, mean, square| {
                            let root = (square / factors.correction).sqrt() + factors.eps;
                            value * factors.remaining - mean / root * factors.size
                        },
                    ),
                    AdamForm::AdamwHf => factors.update(
                        (value, gradient, mean, square),
                        #[inline(always)]
                        |value, mean, square| {
                            let root = square.sqrt() + factors.eps;
                            (value - mean / root * factors.size) * factors.remaining
                        },
                    ),
                    AdamForm::BertAdam => factors.update(
                        (value, gradient, mean, square),
                        #[inline(always)]
                        |value, mean, square| {
                            let root = square.sqrt() + factors.eps;
                            value - (mean / root + value * factors.decay) * factors.size
                        },
                    ),
                });
            });
    }
}

/// The factors of a step.
#[derive(Clone, Copy)]
struct Factors {
    gradient: f32,
    /// Of the running mean and of what comes new.
    mean: [f32; 2],
    /// Of the running mean square and of what comes new.
    square: [f32; 2],
    /// How much smaller the mean square is than it would be after many steps.
    correction: f32,
    eps: f32,
    /// Of the normalised mean.
    size: f32,
    /// Of the value, where decay is a step of its own.
    remaining: f32,
    /// Of the value, where decay is part of the update.
    decay: f32,
}

impl Factors {
    fn of(step: &AdamStep) -> Self {
        let steps = step.step.max(1) as f64;
        let correction1 = 1.0 - step.beta1.powf(steps);
        let correction2 = 1.0 - step.beta2.powf(steps);
        let size = match step.form {
            AdamForm::Adamw => step.rate / correction1,
            AdamForm::AdamwHf => step.rate * correction2.sqrt() / correction1,
            AdamForm::BertAdam => step.rate,
        };
        Self {
            gradient: step.gradient_scale as f32,
            mean: [step.beta1 as f32, (1.0 - step.beta1) as f32],
            square: [step.beta2 as f32, (1.0 - step.beta2) as f32],
            correction: correction2 as f32,
            eps: step.eps as f32,
            size: size as f32,
            remaining: (1.0 - step.rate * step.decay) as f32,
            decay: step.decay as f32,
        }
    }

    /// Advances both running means; `next` is a value's successor, given the two.
    #[inline(always)]
    fn update(
        &self,
        (value, gradient, mean, square): (&mut [f32], &[f32], &mut [f32], &mut [f32]),
        next: impl Fn(f32, f32, f32) -> f32,
    ) {
        let slots = value.iter_mut().zip(mean).zip(square);
        for (((value, mean), square), gradient) in slots.zip(gradient) {
            let gradient = gradient * self.gradient;
            *mean = *mean * self.mean[0] + gradient * self.mean[1];
            *square = *square * self.square[0] + gradient * gradient * self.square[1];
            *value = next(*value, *mean, *square);
        }
    }
}

/// The sum of squares, in f64: terms of f32 lose nothing in it, and no sum overflows.
#[must_use]
pub(crate) fn squared_norm(gradient: &[f32]) -> f64 {
    /// Partial sums, so that additions need not wait for each other.
    const LANES: usize = 16;

    /// An element's square.
    #[inline(always)]
    fn square(x: &f32) -> f64 {
        f64::from(*x) * f64::from(*x)
    }

    let chunks = gradient.par_chunks(CHUNK).map(|chunk| {
        simd(
            #[inline(always)]
            || {
                let (whole, rest) = chunk.as_chunks::<LANES>();
                let mut lanes = [0.0; LANES];
                for elements in whole {
                    for (lane, x) in lanes.iter_mut().zip(elements) {
                        *lane += square(x);
                    }
                }
                // The rest apart: lanes that a loop of unknown length indexes would live in memory.
                lanes.iter().sum::<f64>() + rest.iter().map(square).sum::<f64>()
            },
        )
    });
    // Added up in the order of the chunks, whichever was ready first.
    chunks.collect::<Vec<f64>>().iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [AdamForm; 3] = [AdamForm::Adamw, AdamForm::AdamwHf, AdamForm::BertAdam];

    fn step(form: AdamForm, step: u64) -> AdamStep {
        AdamStep {
            form,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-6,
            rate: 1e-2,
            decay: 0.1,
            step,
            gradient_scale: 0.5,
        }
    }

    /// Numbers between -1 and 1, none of them alike.
    fn numbers(len: usize, seed: f64) -> Vec<f32> {
        let number = |i: usize| (seed + 0.7 * i as f64).sin() as f32;
        (0..len).map(number).collect()
    }

    /// The published formulas for one element, in f64.
    fn expected(step: &AdamStep, element: [f64; 4]) -> [f64; 3] {
        let [value, gradient, mean, square] = element;
        let gradient = gradient * step.gradient_scale;
        let mean = step.beta1 * mean + (1.0 - step.beta1) * gradient;
        let square = step.beta2 * square + (1.0 - step.beta2) * gradient.powi(2);
        let unbiased_mean = mean / (1.0 - step.beta1.powf(step.step as f64));
        let unbiased_square = square / (1.0 - step.beta2.powf(step.step as f64));
        let kept = 1.0 - step.rate * step.decay;
        let value = match step.form {
            AdamForm::Adamw => {
                kept * value - step.rate * unbiased_mean / (unbiased_square.sqrt() + step.eps)
            }
            AdamForm::AdamwHf => {
                let root = (square.sqrt() + step.eps) * (unbiased_square / square).sqrt();
                kept * (value - step.rate * unbiased_mean / root)
            }
            AdamForm::BertAdam => {
                value - step.rate * (mean / (square.sqrt() + step.eps) + step.decay * value)
            }
        };
        [value, mean, square]
    }

    #[test]
    fn steps_follow_the_published_formulas() {
        for (form, len) in FORMS.into_iter().zip([1, 100, 2 * CHUNK + 5]) {
            let gradient = numbers(len, 1.0);
            let mut value = numbers(len, 2.0);
            let (mut mean, mut square) = (vec![0.0; len], vec![0.0; len]);
            for number in 1..=3 {
                let step = step(form, number);
                let before: Vec<[f64; 4]> = (0..len)
                    .map(|i| [value[i], gradient[i], mean[i], square[i]].map(f64::from))
                    .collect();
                step.apply(&mut value, &gradient, &mut mean, &mut square);
                for (i, before) in before.into_iter().enumerate() {
                    let after = [value[i], mean[i], square[i]].map(f64::from);
                    for (found, expected) in after.into_iter().zip(expected(&step, before)) {
                        assert!((found - expected).abs() < 3e-7, "{form:?}, element {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let len = 5 * CHUNK + 77;
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let gradient = numbers(len, 1.0);
                let (mut value, mut mean) = (numbers(len, 2.0), numbers(len, 3.0));
                let mut square = vec![0.5; len];
                step(AdamForm::Adamw, 4).apply(&mut value, &gradient, &mut mean, &mut square);
                (squared_norm(&gradient).to_bits(), value, mean, square)
            })
        };
        assert_eq!(run(1), run(2));
    }

    #[test]
    fn norms_are_sums_of_squares() {
        for len in [0, 1, 33, CHUNK + 1] {
            let gradient = numbers(len, 1.0);
            let expected: f64 = gradient.iter().map(|x| f64::from(*x).powi(2)).sum();
            assert!((squared_norm(&gradient) - expected).abs() <= 1e-12 * expected);
        }
    }
}
