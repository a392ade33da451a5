//! The contrast of two sets of embeddings whose rows belong together.

use rayon::prelude::*;

use super::super::gemm::{View, ViewMut, multiply};
use super::super::math::{dot, exp, max, simd};
use super::super::operation::Operation;
use super::super::rows::{self, BLOCK, room};
use super::scaled;

/// Smallest norm a row is divided by.
const MIN_NORM: f32 = 1e-8;

/// `scale` times the mean over i of `log sum_j e^((S_ij - S_ii) / t)`, and the same of the
/// transpose of S, `[1]`; 0 without rows.
///
/// Inputs: a and b `[rows, width]`, temperature t `[1]`. S holds the cosines of every row of a with
/// every row of b. They are measured from the positive `S_ii`: its own term is then exactly 1,
/// where a softmax would subtract two numbers near 1 and lose the gradient of the temperature in
/// the difference.
#[derive(Clone, Debug)]
pub(crate) struct Contrast {
    /// Pairs.
    pub(crate) rows: usize,
    /// Length of an embedding.
    pub(crate) width: usize,
    /// What the sum of both directions is multiplied by.
    pub(crate) scale: f32,
}

/// Rows scaled to length 1.
struct Unit {
    /// `[rows, width]`; a row shorter than [`MIN_NORM`] stays below length 1.
    values: Vec<f32>,
    /// What every row was divided by.
    norms: Vec<f32>,
}

impl Unit {
    fn new(input: &[f32], width: usize) -> Self {
        let mut values = input.to_vec();
        let mut norms = vec![0.0; input.len() / width];
        (
            values.par_chunks_mut(BLOCK * width),
            norms.par_chunks_mut(BLOCK),
        )
            .into_par_iter()
            .for_each(|(values, norms)| {
                simd(
                    #[inline(always)]
                    || {
                        for (row, norm) in values.chunks_exact_mut(width).zip(norms) {
                            *norm = dot(row, row).max(MIN_NORM * MIN_NORM).sqrt();
                            for x in row {
                                *x /= *norm;
                            }
                        }
                    },
                );
            });
        Self { values, norms }
    }

    /// Turns the gradient of the scaled rows into that of the rows: what points along a row does
    /// not change its direction, unless the row was too short to be scaled to length 1.
    fn backward(&self, gradient: &mut [f32], width: usize) {
        (
            gradient.par_chunks_mut(BLOCK * width),
            self.values.par_chunks(BLOCK * width),
            self.norms.par_chunks(BLOCK),
        )
            .into_par_iter()
            .for_each(|(gradient, values, norms)| {
                simd(
                    #[inline(always)]
                    || {
                        let rows = gradient.chunks_exact_mut(width);
                        for ((d, row), norm) in rows.zip(values.chunks_exact(width)).zip(norms) {
                            let along = if *norm > MIN_NORM { dot(d, row) } else { 0.0 };
                            for (d, x) in d.iter_mut().zip(row) {
                                *d = (-along).mul_add(*x, *d) / norm;
                            }
                        }
                    },
                );
            });
    }
}

/// One direction of the contrast.
struct Direction {
    /// Sum over the rows of the logarithm.
    loss: f64,
    /// Sum of every similarity, measured from its row's positive, times its probability.
    gap: f64,
    /// The gradient of `loss` by the similarities, times the temperature, `[rows, rows]`.
    gradient: Vec<f32>,
}

impl Direction {
    /// Contrasts every row of a matrix of similarities, `[rows, rows]`, with its diagonal element.
    fn new(mut similarity: Vec<f32>, rows: usize, temperature: f32) -> Self {
        let mut sums = vec![[0.0; 2]; rows::blocks(rows)];
        (similarity.par_chunks_mut(BLOCK * rows), &mut sums)
            .into_par_iter()
            .enumerate()
            .for_each_init(Vec::new, |scratch, (block, (block_rows, sums))| {
                let weights = room(scratch, rows);
                simd(
                    #[inline(always)]
                    || {
                        let block_rows = block_rows.chunks_exact_mut(rows);
                        for (index, row) in (block * BLOCK..).zip(block_rows) {
                            let [loss, gap] = contrast_row(row, weights, index, temperature);
                            sums[0] += loss;
                            sums[1] += gap;
                        }
                    },
                );
            });
        Self {
            loss: sums.iter().map(|[loss, _]| loss).sum(),
            gap: sums.iter().map(|[_, gap]| gap).sum(),
            gradient: similarity,
        }
    }
}

/// Turns a row of similarities into the loss's gradient by them, times the temperature; returns the
/// row's loss and its gap, as in [`Direction`]. What `weights` holds does not matter.
#[inline(always)]
fn contrast_row(
    row: &mut [f32],
    weights: &mut [f32],
    positive: usize,
    temperature: f32,
) -> [f64; 2] {
    let level = row[positive];
    // At least 0, the positive's own.
    let largest = (max(row) - level) / temperature;
    for (weight, x) in weights.iter_mut().zip(&mut *row) {
        *x -= level;
        *weight = exp(*x / temperature - largest);
    }
    let (mut sum, mut gap) = (0.0, 0.0);
    for (weight, x) in weights.iter().zip(&*row) {
        sum += f64::from(*weight);
        gap += f64::from(*weight) * f64::from(*x);
    }
    let share = (1.0 / sum) as f32;
    for (x, weight) in row.iter_mut().zip(&*weights) {
        *x = weight * share;
    }
    // What the positive gains is what the others lose.
    row[positive] = ((f64::from(weights[positive]) - sum) / sum) as f32;
    [f64::from(largest) + sum.ln(), gap / sum]
}

impl Operation<3> for Contrast {
    /// The gradients of a loss that counts once.
    type Kept = [Vec<f32>; 3];

    fn forward(
        &self,
        [a, b, temperature]: [&[f32]; 3],
        keep: bool,
    ) -> (Vec<f32>, Option<Self::Kept>) {
        let (rows, width, t) = (self.rows, self.width, temperature[0]);
        if rows == 0 {
            return (vec![0.0], keep.then(|| [vec![], vec![], vec![0.0]]));
        }
        let (a, b) = (Unit::new(a, width), Unit::new(b, width));
        let similarities = |from: &Unit, to: &Unit| {
            let mut product = vec![0.0; rows * rows];
            let [from, to] = [from, to].map(|unit| View::new(&unit.values, rows, width));
            multiply(ViewMut::new(&mut product, rows, rows), from, to.t(), false);
            product
        };
        let by_row = Direction::new(similarities(&a, &b), rows, t);
        let by_column = Direction::new(similarities(&b, &a), rows, t);
        let factor = f64::from(self.scale) / rows as f64;
        let loss = (by_row.loss + by_column.loss) * factor;
        if !keep {
            return (vec![loss as f32], None);
        }

        let inner = (factor / f64::from(t)) as f32;
        // Of one side: through the similarities of its rows, and through those of its columns.
        let gradient = |side: &Unit, rows_of: &Direction, columns_of: &Direction, other: &Unit| {
            let [rows_of, columns_of] =
                [rows_of, columns_of].map(|way| View::new(&way.gradient, rows, rows));
            let other = View::new(&other.values, rows, width);
            let mut gradient = vec![0.0; rows * width];
            multiply(
                ViewMut::new(&mut gradient, rows, width),
                rows_of,
                other,
                false,
            );
            multiply(
                ViewMut::new(&mut gradient, rows, width),
                columns_of.t(),
                other,
                true,
            );
            side.backward(&mut gradient, width);
            gradient.iter_mut().for_each(|x| *x *= inner);
            gradient
        };
        let d_a = gradient(&a, &by_row, &by_column, &b);
        let d_b = gradient(&b, &by_column, &by_row, &a);
        let d_t = -factor * (by_row.gap + by_column.gap) / f64::from(t).powi(2);
        (vec![loss as f32], Some([d_a, d_b, vec![d_t as f32]]))
    }

    fn backward(
        &self,
        _: [&[f32]; 3],
        kept: Self::Kept,
        gradient: &[f32],
        wanted: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        scaled(kept, gradient[0], wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{check, values};
    use super::*;

    #[test]
    fn equals_the_plain_form() {
        for (rows, width) in [(0, 3), (1, 2), (2, 1), (6, 5), (70, 3)] {
            let loss = Contrast {
                rows,
                width,
                scale: 0.5,
            };
            let inputs = [values(1, rows * width), values(2, rows * width), vec![0.3]];
            check(&loss, &inputs, 1e-5, |inputs| {
                vec![plain_form(&loss, inputs)]
            });
        }
    }

    /// Positives far ahead of all others: the loss is tiny, and its gradients keep their digits.
    #[test]
    fn gradients_of_a_confident_model_are_precise() {
        let (rows, t) = (3, 0.05);
        let loss = Contrast {
            rows,
            width: 3,
            scale: 1.0,
        };
        let unit = |i: usize, j: usize| if i == j { 1.0 } else { 0.0 };
        let a: Vec<f32> = (0..9).map(|at| unit(at / 3, at % 3)).collect();
        let (value, kept) = loss.forward([&a, &a, &[t as f32]], true);
        let [_, _, d_t] = kept.expect("kept");
        let others: f64 = 2.0 * (-1.0 / f64::from(t as f32)).exp();
        let expected = 2.0 * others / (1.0 + others) / f64::from(t as f32).powi(2);
        assert!(
            (f64::from(d_t[0]) / expected - 1.0).abs() < 1e-5,
            "{d_t:?} and not {expected}"
        );
        assert!((f64::from(value[0]) / (2.0 * others.ln_1p()) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn rows_of_zeros_stay_finite() {
        let loss = Contrast {
            rows: 2,
            width: 2,
            scale: 1.0,
        };
        let (value, kept) = loss.forward([&[0.0; 4], &[1.0, 0.0, 0.0, 1.0], &[1.0]], true);
        assert_eq!(value, [2.0 * 2.0_f32.ln()]);
        let [d_a, d_b, d_t] = kept.expect("kept");
        // As if the zeros were divided by 1e-8 and nothing else.
        let expected = [-0.5, 0.5, 0.5, -0.5].map(|x| x / MIN_NORM);
        assert_eq!(
            (d_a, d_b, d_t),
            (expected.to_vec(), vec![0.0; 4], vec![0.0])
        );
    }

    fn plain_form(loss: &Contrast, [a, b, t]: &[Vec<f64>; 3]) -> f64 {
        let unit = |rows: &[f64], i: usize| {
            let row = &rows[i * loss.width..][..loss.width];
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter().map(|x| x / norm).collect::<Vec<f64>>()
        };
        let cosine = |i: usize, j: usize| -> f64 {
            unit(a, i).iter().zip(unit(b, j)).map(|(x, y)| x * y).sum()
        };
        let rows = 0..loss.rows;
        let losses = rows.clone().map(|i| {
            let row = rows
                .clone()
                .map(|j| ((cosine(i, j) - cosine(i, i)) / t[0]).exp());
            let column = rows
                .clone()
                .map(|j| ((cosine(j, i) - cosine(i, i)) / t[0]).exp());
            row.sum::<f64>().ln() + column.sum::<f64>().ln()
        });
        losses.sum::<f64>() * f64::from(loss.scale) / loss.rows.max(1) as f64
    }
}
