//! The contrast of two sets of embeddings whose rows belong together.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::super::gemm::{View, ViewMut, multiply};
use super::super::math::{dot, exp, max, simd};
use super::super::operation::Operation;
use super::super::rows::{BLOCK, room};
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
    /// Length of an embedding.
    pub(crate) width: usize,
    /// What the sum of both directions is multiplied by.
    pub(crate) scale: f32,
    /// Whether b is given and has no gradient.
    pub(crate) is_right_fixed: bool,
    /// Where the inputs are some of the rows: what was found out of all. The result is then that of all rows,
    /// and the gradients those of the inputs.
    pub(crate) among: Option<Arc<Among>>,
}

/// Some rows of a contrast, and what is known of all.
#[derive(Debug)]
pub(crate) struct Among {
    /// The rows.
    pub(crate) own: Similarities,
    /// [`Similarities::facts`] of all rows, in their order.
    pub(crate) facts: Vec<f64>,
}

/// Numbers that are known of a pair: its similarity, and for its row and its column the logarithm of the sum and
/// the gap: the sum of every similarity, measured from its own, times its probability.
pub(crate) const FACTS: usize = 5;

/// The similarities of some rows of either side with all of the other.
#[derive(Clone, Debug)]
pub(crate) struct Similarities {
    /// Which rows.
    own: Range<usize>,
    /// All rows of either side.
    units: [Unit; 2],
    /// Own rows of a with all of b, and own rows of b with all of a, `[own, all]`.
    values: [Vec<f32>; 2],
    /// [`FACTS`] of each own pair.
    pub(crate) facts: Vec<f64>,
}

/// Rows scaled to length 1.
#[derive(Clone, Debug)]
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

    /// Turns the gradient of some scaled rows into that of the rows: what points along a row does
    /// not change its direction, unless the row was too short to be scaled to length 1.
    fn backward(&self, rows: &Range<usize>, gradient: &mut [f32], width: usize) {
        (
            gradient.par_chunks_mut(BLOCK * width),
            self.values[rows.start * width..rows.end * width].par_chunks(BLOCK * width),
            self.norms[rows.clone()].par_chunks(BLOCK),
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

impl Similarities {
    /// Of the `own` rows with all rows of the other side.
    pub(crate) fn new(
        [a, b]: [&[f32]; 2],
        width: usize,
        own: Range<usize>,
        temperature: f32,
    ) -> Self {
        let units = [a, b].map(|side| Unit::new(side, width));
        let all = units[0].norms.len();
        let product = |from: &Unit, to: &Unit| {
            let rows = &from.values[own.start * width..own.end * width];
            let (rows, to) = (
                View::new(rows, own.len(), width),
                View::new(&to.values, all, width),
            );
            let mut product = vec![0.0; own.len() * all];
            multiply(
                ViewMut::new(&mut product, own.len(), all),
                rows,
                to.t(),
                false,
            );
            product
        };
        let by_row = product(&units[0], &units[1]);
        let by_column = match own.len() == all {
            true => transposed(&by_row, all),
            false => product(&units[1], &units[0]),
        };
        let mut facts = vec![0.0; own.len() * FACTS];
        for (values, first) in [(&by_row, 1), (&by_column, 3)] {
            (
                values.par_chunks((BLOCK * all).max(1)),
                facts.par_chunks_mut(BLOCK * FACTS),
            )
                .into_par_iter()
                .enumerate()
                .for_each_init(Vec::new, |scratch, (block, (rows, facts))| {
                    let weights = room(scratch, all);
                    simd(
                        #[inline(always)]
                        || {
                            let positives = own.start + block * BLOCK..;
                            let rows = rows.chunks_exact(all).zip(facts.chunks_exact_mut(FACTS));
                            for (positive, (row, facts)) in positives.zip(rows) {
                                facts[0] = f64::from(row[positive]);
                                let [loss, gap] = contrast_row(row, weights, positive, temperature);
                                facts[first] = loss;
                                facts[first + 1] = gap;
                            }
                        },
                    );
                });
        }
        Self {
            own,
            units,
            values: [by_row, by_column],
            facts,
        }
    }

    /// The gradient of all rows' loss, times the temperature, by the own rows of one side. `facts` are those of all.
    fn gradient(&mut self, side: usize, facts: &[f64], width: usize, temperature: f32) -> Vec<f32> {
        let all = facts.len() / FACTS;
        let (own_sum, other_sum) = if side == 0 { (1, 3) } else { (3, 1) };
        let column = |fact: usize| -> Vec<f32> {
            facts
                .chunks_exact(FACTS)
                .map(|facts| facts[fact] as f32)
                .collect()
        };
        let (levels, sums, others) = (column(0), column(own_sum), column(other_sum));
        let (own, values) = (self.own.clone(), &mut self.values[side]);
        // By the similarities: every row's own softmax, and what the rows of the other side make of it.
        values
            .par_chunks_mut((BLOCK * all).max(1))
            .enumerate()
            .for_each(|(block, rows)| {
                simd(
                    #[inline(always)]
                    || {
                        for (place, row) in
                            (own.start + block * BLOCK..).zip(rows.chunks_exact_mut(all))
                        {
                            let (level, sum) = (levels[place], sums[place]);
                            for ((x, other_level), other) in
                                row.iter_mut().zip(&levels).zip(&others)
                            {
                                *x = exp((*x - level) / temperature - sum)
                                    + exp((*x - other_level) / temperature - other);
                            }
                            // What the positive gains is what the others lose.
                            let facts = &facts[place * FACTS..][..FACTS];
                            row[place] = ((-facts[1]).exp_m1() + (-facts[3]).exp_m1()) as f32;
                        }
                    },
                );
            });
        let rows = self.own.len();
        let mut gradient = vec![0.0; rows * width];
        multiply(
            ViewMut::new(&mut gradient, rows, width),
            View::new(&self.values[side], rows, all),
            View::new(&self.units[1 - side].values, all, width),
            false,
        );
        self.units[side].backward(&self.own, &mut gradient, width);
        gradient
    }
}

/// The transpose of a square matrix.
fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    const TILE: usize = 16;
    let mut result = vec![0.0; matrix.len()];
    let tiles = result.par_chunks_mut((TILE * rows).max(1)).enumerate();
    tiles.for_each(|(tile, columns)| {
        for first in (0..rows).step_by(TILE) {
            for (column, into) in (tile * TILE..).zip(columns.chunks_exact_mut(rows)) {
                let into = into[first..].iter_mut().take(TILE);
                for (row, into) in (first..).zip(into) {
                    *into = matrix[row * rows + column];
                }
            }
        }
    });
    result
}

/// The logarithm of a row's sum, measured from its positive, and its gap. What `weights` holds does not matter.
#[inline(always)]
fn contrast_row(row: &[f32], weights: &mut [f32], positive: usize, temperature: f32) -> [f64; 2] {
    let level = row[positive];
    // At least 0, the positive's own.
    let largest = (max(row) - level) / temperature;
    for (weight, x) in weights.iter_mut().zip(row) {
        *weight = exp((*x - level) / temperature - largest);
    }
    let (mut sum, mut gap) = (0.0, 0.0);
    for (weight, x) in weights.iter().zip(row) {
        sum += f64::from(*weight);
        gap += f64::from(*weight) * f64::from(*x - level);
    }
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
        let (width, t) = (self.width, temperature[0]);
        let rows = a.len() / width;
        let (mut own, shared);
        let facts = match &self.among {
            Some(among) => {
                own = among.own.clone();
                &among.facts
            }
            None => {
                own = Similarities::new([a, b], width, 0..rows, t);
                shared = std::mem::take(&mut own.facts);
                &shared
            }
        };
        let all = facts.len() / FACTS;
        if all == 0 {
            return (vec![0.0], keep.then(|| [vec![], vec![], vec![0.0]]));
        }
        let factor = f64::from(self.scale) / all as f64;
        let of_all = |fact: usize| facts.iter().skip(fact).step_by(FACTS).sum::<f64>();
        let loss = (of_all(1) + of_all(3)) * factor;
        if !keep {
            return (vec![loss as f32], None);
        }
        let inner = (factor / f64::from(t)) as f32;
        let mut gradient = |side: usize| {
            let mut gradient = own.gradient(side, facts, width, t);
            gradient.iter_mut().for_each(|x| *x *= inner);
            gradient
        };
        let d_a = gradient(0);
        let d_b = match self.is_right_fixed {
            true => Vec::new(),
            false => gradient(1),
        };
        let d_t = -factor * (of_all(2) + of_all(4)) / f64::from(t).powi(2);
        (vec![loss as f32], Some([d_a, d_b, vec![d_t as f32]]))
    }

    fn backward(
        &self,
        _: [&[f32]; 3],
        kept: Self::Kept,
        gradient: &[f32],
        [a, b, t]: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        scaled(kept, gradient[0], [a, b && !self.is_right_fixed, t])
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{check, values};
    use super::*;

    fn contrast(width: usize, scale: f32) -> Contrast {
        Contrast {
            width,
            scale,
            is_right_fixed: false,
            among: None,
        }
    }

    /// What each of several has of the whole, together, is the whole.
    #[test]
    fn parts_are_the_whole() {
        let (rows, width, t) = (70, 5, 0.2);
        let (a, b) = (values(1, rows * width), values(2, rows * width));
        let whole = contrast(width, 0.5);
        let (loss, kept) = whole.forward([&a, &b, &[t]], true);
        let [d_a, d_b, d_t] = kept.unwrap();
        let cuts = [0..1, 1..1, 1..40, 40..70];
        let parts = cuts
            .clone()
            .map(|own| Similarities::new([&a, &b], width, own, t));
        let facts: Vec<f64> = parts.iter().flat_map(|own| own.facts.clone()).collect();
        let near = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-6, "{found} and {expected}");
            }
        };
        for (own, cut) in parts.into_iter().zip(cuts) {
            let facts = facts.clone();
            let part = Contrast {
                among: Some(Arc::new(Among { own, facts })),
                ..whole.clone()
            };
            let cut = cut.start * width..cut.end * width;
            let inputs = [&a[cut.clone()], &b[cut.clone()], &[t]];
            let (found, kept) = part.forward(inputs, true);
            near(&found, &loss);
            let [own_a, own_b, own_t] = kept.unwrap();
            near(&own_a, &d_a[cut.clone()]);
            near(&own_b, &d_b[cut]);
            near(&own_t, &d_t);
        }
    }

    #[test]
    fn equals_the_plain_form() {
        for (rows, width) in [(0, 3), (1, 2), (2, 1), (6, 5), (70, 3)] {
            let loss = contrast(width, 0.5);
            let inputs = [values(1, rows * width), values(2, rows * width), vec![0.3]];
            check(&loss, &inputs, 1e-5, |inputs| {
                vec![plain_form(&loss, inputs)]
            });
        }
    }

    /// Positives far ahead of all others: the loss is tiny, and its gradients keep their digits.
    #[test]
    fn gradients_of_a_confident_model_are_precise() {
        let t = 0.05;
        let loss = contrast(3, 1.0);
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
        let loss = contrast(2, 1.0);
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
        let count = a.len() / loss.width;
        let rows = 0..count;
        let losses = rows.clone().map(|i| {
            let row = rows
                .clone()
                .map(|j| ((cosine(i, j) - cosine(i, i)) / t[0]).exp());
            let column = rows
                .clone()
                .map(|j| ((cosine(j, i) - cosine(i, i)) / t[0]).exp());
            row.sum::<f64>().ln() + column.sum::<f64>().ln()
        });
        losses.sum::<f64>() * f64::from(loss.scale) / count.max(1) as f64
    }
}
