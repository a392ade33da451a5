//! Minimisation of a smooth convex function: L-BFGS (Liu and Nocedal 1989; Nocedal and Wright, algorithm 7.4) with a
//! bisection for the weak Wolfe conditions.

use std::collections::VecDeque;

/// Pairs of moves and changes of the gradient that are kept, as in SciPy.
const MEMORY: usize = 10;
/// Share of the promised decrease that a step must give, and of the slope that it must take away.
const WOLFE: [f64; 2] = [1e-4, 0.9];
/// Share of a value that rounding may hide, where products are f32.
const NOISE: f64 = 1e-6;
/// Points tried along one direction at most.
const TRIES: usize = 40;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// Largest entry of the gradient.
    pub(crate) tolerance: f64,
    pub(crate) max_iterations: usize,
}

/// Where a minimisation ended.
pub(crate) struct Minimum {
    pub(crate) at: Vec<f64>,
    pub(crate) value: f64,
    /// Largest entry of the gradient.
    pub(crate) slope: f64,
    pub(crate) iterations: usize,
}

/// Walks down from `start`. `function` returns its value and writes its gradient.
pub(crate) fn minimise(
    start: Vec<f64>,
    stop: Stop,
    mut function: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Minimum {
    let mut at = start;
    let mut gradient = vec![0.0; at.len()];
    let mut value = function(&at, &mut gradient);
    let mut memory: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let mut iterations = 0;
    while iterations < stop.max_iterations && largest(&gradient) > stop.tolerance {
        iterations += 1;
        let mut direction = descent(&gradient, &memory);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 || !slope.is_finite() {
            // Rounding has spoilt the memory.
            memory.clear();
            direction = gradient.iter().map(|value| -value).collect();
            slope = dot(&direction, &gradient);
        }
        let first = if memory.is_empty() {
            (1.0 / dot(&gradient, &gradient).sqrt()).min(1.0)
        } else {
            1.0
        };
        let line = Line {
            from: &at,
            direction: &direction,
            value,
            slope,
        };
        let Some(step) = line.search(first, &mut function) else {
            break;
        };
        let moved: Vec<f64> = step.at.iter().zip(&at).map(|(a, b)| a - b).collect();
        let turned: Vec<f64> = step
            .gradient
            .iter()
            .zip(&gradient)
            .map(|(a, b)| a - b)
            .collect();
        let curvature = dot(&moved, &turned);
        if curvature > 1e-12 * dot(&turned, &turned) {
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            memory.push_back(Pair {
                scale: 1.0 / curvature,
                moved,
                turned,
            });
        }
        (at, value, gradient) = (step.at, step.value, step.gradient);
    }
    Minimum {
        slope: largest(&gradient),
        at,
        value,
        iterations,
    }
}

struct Pair {
    moved: Vec<f64>,
    turned: Vec<f64>,
    /// One over the product of both.
    scale: f64,
}

/// The direction down: the gradient by the inverse curvature that the pairs tell of, negated.
fn descent(gradient: &[f64], memory: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|value| -value).collect();
    let mut shares = Vec::with_capacity(memory.len());
    for pair in memory.iter().rev() {
        let share = pair.scale * dot(&pair.moved, &direction);
        add(&mut direction, -share, &pair.turned);
        shares.push(share);
    }
    if let Some(last) = memory.back() {
        let scale = 1.0 / (last.scale * dot(&last.turned, &last.turned));
        direction.iter_mut().for_each(|value| *value *= scale);
    }
    for (pair, share) in memory.iter().zip(shares.into_iter().rev()) {
        let back = pair.scale * dot(&pair.turned, &direction);
        add(&mut direction, share - back, &pair.moved);
    }
    direction
}

struct Line<'a> {
    from: &'a [f64],
    direction: &'a [f64],
    value: f64,
    slope: f64,
}

struct Step {
    at: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

impl Line<'_> {
    /// A step that meets the weak Wolfe conditions; the best decrease found where rounding hides them.
    fn search(
        &self,
        first: f64,
        function: &mut impl FnMut(&[f64], &mut [f64]) -> f64,
    ) -> Option<Step> {
        let (mut low, mut high, mut length) = (0.0, f64::INFINITY, first);
        let mut best: Option<Step> = None;
        for _ in 0..TRIES {
            let mut at = self.from.to_vec();
            add(&mut at, length, self.direction);
            let mut gradient = vec![0.0; at.len()];
            let value = function(&at, &mut gradient);
            let slope = dot(&gradient, self.direction);
            // Not `>`, which would let a value that is no number pass.
            let falls = value <= self.value + WOLFE[0] * length * self.slope
                // Near the minimum rounding hides the decrease, and the slope tells more (Hager and Zhang 2005).
                || (value <= self.value + NOISE * self.value.abs()
                    && slope <= (2.0 * WOLFE[0] - 1.0) * self.slope);
            let step = Step {
                at,
                value,
                gradient,
            };
            if !falls {
                high = length;
            } else if slope < WOLFE[1] * self.slope {
                low = length;
                best = Some(step);
            } else {
                return Some(step);
            }
            length = match high.is_finite() {
                true => f64::midpoint(low, high),
                false => 2.0 * low,
            };
        }
        best
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

fn largest(values: &[f64]) -> f64 {
    values
        .iter()
        .fold(0.0, |largest, value| largest.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_minimum_of_a_valley() {
        // Rosenbrock's function: not convex, its minimum is at (1, 1).
        let stop = Stop {
            tolerance: 1e-9,
            max_iterations: 200,
        };
        let found = minimise(vec![-1.2, 1.0], stop, |at, gradient| {
            let (x, y) = (at[0], at[1]);
            gradient[0] = -400.0 * x * (y - x * x) - 2.0 * (1.0 - x);
            gradient[1] = 200.0 * (y - x * x);
            100.0 * (y - x * x).powi(2) + (1.0 - x).powi(2)
        });
        assert!((found.at[0] - 1.0).abs() < 1e-6 && (found.at[1] - 1.0).abs() < 1e-6);
        assert!(found.iterations < 100 && found.slope <= 1e-9);
    }
}
