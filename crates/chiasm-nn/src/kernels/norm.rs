//! LayerNorm: by itself, and as the part of a larger block.

use rayon::prelude::*;

use super::math::{add, simd, sum, sum_of};
use super::operation::Operation;
use super::rows::{self, BLOCK, zeros};
use crate::config::NormPlace;

/// Where a sub-layer f has its LayerNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norm {
    /// `y = x + f(LN(x))`, as in CLIP.
    Before,
    /// `y = LN(x + f(x))`, as in BERT.
    After,
}

impl From<NormPlace> for Norm {
    fn from(place: NormPlace) -> Self {
        match place {
            NormPlace::Before => Self::Before,
            NormPlace::After => Self::After,
        }
    }
}

/// Mean and spread of a row: all of LayerNorm's forward pass that its backward pass needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    mean: f32,
    /// One over the standard deviation.
    scale: f32,
}

impl Moments {
    /// Of one row; the variance is taken around the mean, so nothing cancels.
    #[inline(always)]
    pub(crate) fn of(row: &[f32], eps: f32) -> Self {
        let len = row.len() as f32;
        let mean = sum(row) / len;
        let variance = sum_of([row], |[x]| (x - mean) * (x - mean)) / len;
        Self {
            mean,
            scale: 1.0 / (variance + eps).sqrt(),
        }
    }

    /// An element of the row, shifted and scaled to mean 0 and variance 1.
    #[inline(always)]
    fn standard(self, x: f32) -> f32 {
        (x - self.mean) * self.scale
    }
}

/// The weights of a LayerNorm, `[width]` each, and what is added inside its root.
///
/// Functions that take blocks of rows, `[rows, width]`, enter vector code themselves; those that
/// take a row are for use inside [`simd`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine<'a> {
    /// What a standardised element is multiplied by.
    pub(crate) gain: &'a [f32],
    /// What is added then.
    pub(crate) bias: &'a [f32],
    /// Added to the variance.
    pub(crate) eps: f32,
}

impl<'a> Affine<'a> {
    /// Weights, and what is added to the variance.
    pub(crate) fn new(gain: &'a [f32], bias: &'a [f32], eps: f64) -> Self {
        let eps = eps as f32;
        Self { gain, bias, eps }
    }

    /// Normalises rows, and finds their moments.
    pub(crate) fn forward(&self, input: &[f32], moments: &mut [Moments], output: &mut [f32]) {
        simd(
            #[inline(always)]
            || {
                for ((x, moments), y) in self.rows(input).zip(moments).zip(self.rows_mut(output)) {
                    *moments = Moments::of(x, self.eps);
                    self.normalise_row(x, *moments, y);
                }
            },
        );
    }

    /// Normalises rows whose moments are known.
    pub(crate) fn normalise(&self, input: &[f32], moments: &[Moments], output: &mut [f32]) {
        simd(
            #[inline(always)]
            || {
                for ((x, moments), y) in self.rows(input).zip(moments).zip(self.rows_mut(output)) {
                    self.normalise_row(x, *moments, y);
                }
            },
        );
    }

    /// Turns the gradient of the normalised rows into that of `input`, and adds to the gradients
    /// of the weights, gain then bias, `[2, width]`.
    pub(crate) fn backward(
        &self,
        input: &[f32],
        moments: &[Moments],
        gradient: &mut [f32],
        weights: &mut [f32],
    ) {
        simd(
            #[inline(always)]
            || {
                for ((x, moments), d) in self.rows(input).zip(moments).zip(self.rows_mut(gradient))
                {
                    self.backward_row(x, *moments, d, weights);
                }
            },
        );
    }

    /// [`normalise`](Self::normalise) of one row.
    #[inline(always)]
    pub(crate) fn normalise_row(&self, input: &[f32], moments: Moments, output: &mut [f32]) {
        let weights = self.gain.iter().zip(self.bias);
        for ((y, x), (gain, bias)) in output.iter_mut().zip(input).zip(weights) {
            *y = moments.standard(*x).mul_add(*gain, *bias);
        }
    }

    /// [`backward`](Self::backward) of one row.
    ///
    /// With z the standardised row and `e = gradient * gain`, the gradient of the input is
    /// `(e - mean(e) - z mean(e z)) / deviation`.
    #[inline(always)]
    pub(crate) fn backward_row(
        &self,
        input: &[f32],
        moments: Moments,
        gradient: &mut [f32],
        weights: &mut [f32],
    ) {
        let (d_gain, d_bias) = weights.split_at_mut(self.gain.len());
        add(d_bias, gradient);
        for ((d_gain, d), x) in d_gain.iter_mut().zip(&*gradient).zip(input) {
            *d_gain = moments.standard(*x).mul_add(*d, *d_gain);
        }
        let len = input.len() as f32;
        let mean = sum_of([gradient, self.gain], |[d, gain]| d * gain) / len;
        let slope = sum_of([gradient, self.gain, input], |[d, gain, x]| {
            d * gain * moments.standard(x)
        }) / len;
        for ((d, x), gain) in gradient.iter_mut().zip(input).zip(self.gain) {
            // Not fused: the mean of equal numbers cancels them exactly.
            let centred = *d * gain - mean;
            *d = (-slope).mul_add(moments.standard(*x), centred) * moments.scale;
        }
    }

    #[inline(always)]
    fn rows<'b>(&self, block: &'b [f32]) -> impl Iterator<Item = &'b [f32]> + use<'b> {
        block.chunks_exact(self.gain.len())
    }

    #[inline(always)]
    fn rows_mut<'b>(&self, block: &'b mut [f32]) -> impl Iterator<Item = &'b mut [f32]> + use<'b> {
        block.chunks_exact_mut(self.gain.len())
    }
}

/// LayerNorm of rows: input `[rows, width]`, gain and bias `[width]`.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    /// Length of a row.
    pub(crate) width: usize,
    /// Added to the variance.
    pub(crate) eps: f64,
}

impl Operation<3> for LayerNorm {
    /// Of every row.
    type Kept = Vec<Moments>;

    fn forward(&self, [x, gain, bias]: [&[f32]; 3], keep: bool) -> (Vec<f32>, Option<Self::Kept>) {
        let affine = Affine::new(gain, bias, self.eps);
        let block = BLOCK * self.width;
        let mut moments = vec![Moments::default(); x.len() / self.width];
        let mut output = zeros(x.len());
        (
            x.par_chunks(block),
            moments.par_chunks_mut(BLOCK),
            output.par_chunks_mut(block),
        )
            .into_par_iter()
            .for_each(|(x, moments, y)| affine.forward(x, moments, y));
        (output, keep.then_some(moments))
    }

    fn backward(
        &self,
        [x, gain, bias]: [&[f32]; 3],
        moments: Self::Kept,
        gradient: &[f32],
        wanted: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let affine = Affine::new(gain, bias, self.eps);
        let block = BLOCK * self.width;
        let mut d_x = zeros(x.len());
        let mut partials = vec![0.0; rows::blocks(moments.len()) * 2 * self.width];
        (
            x.par_chunks(block),
            moments.par_chunks(BLOCK),
            gradient.par_chunks(block),
            d_x.par_chunks_mut(block),
            partials.par_chunks_mut(2 * self.width),
        )
            .into_par_iter()
            .for_each(|(x, moments, gradient, d_x, weights)| {
                d_x.copy_from_slice(gradient);
                affine.backward(x, moments, d_x, weights);
            });
        let [d_gain, d_bias] = rows::add_up(&partials, [self.width; 2]);
        [
            wanted[0].then_some(d_x),
            wanted[1].then_some(d_gain),
            wanted[2].then_some(d_bias),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, plain, values};
    use super::*;

    #[test]
    fn equals_the_plain_form() {
        for (rows, width) in [(0, 3), (1, 1), (5, 7), (70, 33)] {
            let norm = LayerNorm { width, eps: 1e-5 };
            let inputs = [values(1, rows * width), values(2, width), values(3, width)];
            check(&norm, &inputs, 2e-5, |[x, gain, bias]| {
                plain::layer_norm(x, gain, bias, 1e-5)
            });
        }
    }

    /// Numbers far from 0 keep their differences.
    #[test]
    fn a_large_mean_does_not_cancel() {
        let mut moments = [Moments::default()];
        let mut y = [0.0; 4];
        let affine = Affine::new(&[1.0; 4], &[0.0; 4], 1e-12);
        affine.forward(&[1e6, 1e6 + 1.0, 1e6, 1e6 + 1.0], &mut moments, &mut y);
        assert_eq!(y, [-1.0, 1.0, -1.0, 1.0]);
    }
}
