//! The position-wise sub-layer of a transformer, with its LayerNorm and residual.

use rayon::prelude::*;

use crate::config::Activation;

use super::dropout::Dropout;
use super::gemm::{Right, View, ViewMut, multiply_right};
use super::linear::product_of_columns;
use super::math::{Activated, add, gelu, gelu_tanh, quick_gelu, relu, simd};
use super::norm::{Affine, Moments, Norm};
use super::operation::Operation;
use super::rows::{self, BLOCK, room, zeros};

/// `f(x) = activation(x U + u) D + d`, with dropout, residual and LayerNorm as [`Norm`] says.
///
/// Inputs: x `[rows, width]`; the norm's gain and bias `[width]`; U `[width, intermediate]` and u;
/// D `[intermediate, width]` and d. The result has the shape of x.
///
/// A task takes a block of rows all the way. Beside the moments, what is kept is the first
/// map's product, and the norm's argument where that is not x. Both are made again under gradient
/// checkpointing; where the norm comes first, without the second map.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    /// Length of a row.
    pub(crate) width: usize,
    /// Length of a row between the two maps.
    pub(crate) intermediate: usize,
    /// Between the two maps.
    pub(crate) activation: Activation,
    /// Where the LayerNorm is.
    pub(crate) norm: Norm,
    /// Added to LayerNorm's variance.
    pub(crate) eps: f64,
    /// Of f's result.
    pub(crate) dropout: Option<Dropout>,
}

/// What [`FeedForward`] keeps.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Of the rows that LayerNorm saw.
    moments: Vec<Moments>,
    /// The first map's product, before bias and activation, `[rows, intermediate]`.
    inner: Vec<f32>,
    /// x + f(x) where the norm follows it, `[rows, width]`.
    sum: Option<Vec<f32>>,
}

impl FeedForward {
    /// The second map's product made the sub-layer's sum, in place: bias, dropout, residual.
    fn finish(&self, block: usize, product: &mut [f32], bias: &[f32], x: &[f32]) {
        let width = self.width;
        simd(
            #[inline(always)]
            || {
                let rows = product.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for (row, (y, x)) in (block * BLOCK..).zip(rows) {
                    add(y, bias);
                    if let Some(dropout) = self.dropout {
                        dropout.apply(row as u64, y);
                    }
                    add(y, x);
                }
            },
        );
    }

    /// The activation of the first map's product and its bias.
    fn activate(&self, inner: &[f32], bias: &[f32], active: &mut [f32]) {
        #[inline(always)]
        fn run(inner: &[f32], bias: &[f32], active: &mut [f32], f: impl Fn(f32) -> Activated) {
            let width = bias.len();
            simd(
                #[inline(always)]
                || {
                    let rows = inner.chunks_exact(width);
                    for (x, y) in rows.zip(active.chunks_exact_mut(width)) {
                        for ((y, x), bias) in y.iter_mut().zip(x).zip(bias) {
                            *y = f(x + bias).value;
                        }
                    }
                },
            );
        }
        match self.activation {
            Activation::Gelu => run(inner, bias, active, gelu),
            Activation::QuickGelu => run(inner, bias, active, quick_gelu),
            Activation::GeluTanh => run(inner, bias, active, gelu_tanh),
            Activation::Relu => run(inner, bias, active, relu),
        }
    }

    /// Turns the first map's product into the activation, `gradient` from that of the activation
    /// into that of the product, and adds the gradient's rows to `total`.
    fn activate_back(
        &self,
        inner: &mut [f32],
        bias: &[f32],
        gradient: &mut [f32],
        total: &mut [f32],
    ) {
        #[inline(always)]
        fn run(
            inner: &mut [f32],
            bias: &[f32],
            gradient: &mut [f32],
            total: &mut [f32],
            f: impl Fn(f32) -> Activated,
        ) {
            let width = bias.len();
            simd(
                #[inline(always)]
                || {
                    let rows = inner.chunks_exact_mut(width);
                    for (x, d) in rows.zip(gradient.chunks_exact_mut(width)) {
                        for ((x, d), bias) in x.iter_mut().zip(&mut *d).zip(bias) {
                            let activated = f(*x + bias);
                            *x = activated.value;
                            *d *= activated.slope;
                        }
                        add(total, d);
                    }
                },
            );
        }
        match self.activation {
            Activation::Gelu => run(inner, bias, gradient, total, gelu),
            Activation::QuickGelu => run(inner, bias, gradient, total, quick_gelu),
            Activation::GeluTanh => run(inner, bias, gradient, total, gelu_tanh),
            Activation::Relu => run(inner, bias, gradient, total, relu),
        }
    }

    /// The forward pass; unless it is to `finish`, without its result, up to the first map.
    fn run(
        &self,
        [x, gain, bias, up_w, up_b, down_w, down_b]: [&[f32]; 7],
        finish: bool,
        keep: bool,
    ) -> (Vec<f32>, Option<Kept>) {
        let (width, intermediate) = (self.width, self.intermediate);
        let rows = x.len() / width;
        let blocks = rows::blocks(rows);
        let affine = Affine::new(gain, bias, self.eps);
        let (up, down) = rayon::join(
            || Right::new(View::new(up_w, width, intermediate), blocks),
            || Right::new(View::new(down_w, intermediate, width), blocks),
        );

        let mut result = finish.then(|| zeros(x.len()));
        let mut moments = vec![Moments::default(); rows];
        let mut inner = keep.then(|| zeros(rows * intermediate));
        let mut sum = (keep && self.norm == Norm::After).then(|| zeros(x.len()));
        (
            x.par_chunks(BLOCK * width),
            rows::parts(result.as_mut(), rows, width),
            moments.par_chunks_mut(BLOCK),
            rows::parts(inner.as_mut(), rows, intermediate),
            rows::parts(sum.as_mut(), rows, width),
        )
            .into_par_iter()
            .enumerate()
            .for_each_init(
                <[Vec<f32>; 3]>::default,
                |[narrow, wide, active], (block, (x, y, moments, inner, sum))| {
                    let rows = moments.len();
                    let narrow = room(narrow, rows * width);
                    let inner = inner.unwrap_or_else(|| room(wide, rows * intermediate));

                    let input = match self.norm {
                        Norm::Before => {
                            affine.forward(x, moments, narrow);
                            &*narrow
                        }
                        Norm::After => x,
                    };
                    let input = View::new(input, rows, width);
                    multiply_right(ViewMut::new(inner, rows, intermediate), input, &up, false);
                    let Some(y) = y else {
                        return;
                    };
                    let active = room(active, rows * intermediate);
                    self.activate(inner, up_b, active);

                    let (sum, normal) = match self.norm {
                        Norm::Before => (y, None),
                        Norm::After => (sum.unwrap_or(narrow), Some(y)),
                    };
                    let active = View::new(active, rows, intermediate);
                    multiply_right(ViewMut::new(sum, rows, width), active, &down, false);
                    self.finish(block, sum, down_b, x);
                    if let Some(normal) = normal {
                        affine.forward(sum, moments, normal);
                    }
                },
            );
        let kept = inner.map(|inner| Kept {
            moments,
            inner,
            sum,
        });
        (result.unwrap_or_default(), kept)
    }
}

impl Operation<7> for FeedForward {
    type Kept = Kept;

    const RECOMPUTED: bool = true;

    fn forward(&self, inputs: [&[f32]; 7], keep: bool) -> (Vec<f32>, Option<Kept>) {
        self.run(inputs, true, keep)
    }

    fn recompute(&self, inputs: [&[f32]; 7]) -> Option<Kept> {
        // A norm that comes after sees the second map's result.
        self.run(inputs, self.norm == Norm::After, true).1
    }

    fn backward(
        &self,
        [x, gain, bias, up_w, up_b, down_w, _]: [&[f32]; 7],
        kept: Kept,
        gradient: &[f32],
        wanted: [bool; 7],
    ) -> [Option<Vec<f32>>; 7] {
        let (width, intermediate) = (self.width, self.intermediate);
        let rows = x.len() / width;
        let blocks = rows::blocks(rows);
        let affine = Affine::new(gain, bias, self.eps);
        let (up, down) = rayon::join(
            || Right::new(View::new(up_w, width, intermediate).t(), blocks),
            || Right::new(View::new(down_w, intermediate, width).t(), blocks),
        );
        let before = self.norm == Norm::Before;
        let [d_x_wanted, d_gain_wanted, d_bias_wanted, d_up_wanted, ..] = wanted;
        let inward = d_x_wanted || before && (d_gain_wanted || d_bias_wanted);

        let Kept {
            moments,
            mut inner,
            sum,
        } = kept;
        let mut d_x = zeros(x.len());
        let mut d_inner = zeros(rows * intermediate);
        // The gradient of the second map's result, where it is not that of the whole.
        let mut d_outer = sum.or_else(|| self.dropout.map(|_| zeros(x.len())));
        let mut normal = (before && d_up_wanted).then(|| zeros(x.len()));
        let widths = [width, width, intermediate, width];
        let stride = widths.iter().sum();
        let mut partials = vec![0.0; rows::blocks(rows) * stride];
        (
            x.par_chunks(BLOCK * width),
            moments.par_chunks(BLOCK),
            gradient.par_chunks(BLOCK * width),
            inner.par_chunks_mut(BLOCK * intermediate),
            d_inner.par_chunks_mut(BLOCK * intermediate),
            rows::parts(d_outer.as_mut(), rows, width),
            rows::parts(normal.as_mut(), rows, width),
            d_x.par_chunks_mut(BLOCK * width),
            partials.par_chunks_mut(stride),
        )
            .into_par_iter()
            .enumerate()
            .for_each(
                |(
                    block,
                    (x, moments, gradient, inner, d_inner, d_outer, normal, d_x, partials),
                )| {
                    let rows = moments.len();
                    let (d_norm, partials) = partials.split_at_mut(2 * width);
                    let (d_up_b, d_down_b) = partials.split_at_mut(intermediate);

                    d_x.copy_from_slice(gradient);
                    let d_outer = match d_outer {
                        Some(d_outer) => {
                            if !before {
                                // Here lies what the norm saw, no longer needed afterwards.
                                affine.backward(d_outer, moments, d_x, d_norm);
                            }
                            d_outer.copy_from_slice(d_x);
                            if let Some(dropout) = self.dropout {
                                dropout.apply_rows(block * BLOCK, width, d_outer);
                            }
                            &*d_outer
                        }
                        None => gradient,
                    };
                    rows::add_rows(d_down_b, d_outer);
                    let d_outer = View::new(d_outer, rows, width);
                    let d_inner_view = ViewMut::new(d_inner, rows, intermediate);
                    multiply_right(d_inner_view, d_outer, &down, false);
                    self.activate_back(inner, up_b, d_inner, d_up_b);

                    if let Some(normal) = normal {
                        affine.normalise(x, moments, normal);
                    }
                    if inward {
                        let d_inner = View::new(d_inner, rows, intermediate);
                        multiply_right(ViewMut::new(d_x, rows, width), d_inner, &up, !before);
                        if before {
                            affine.backward(x, moments, d_x, d_norm);
                            rows::add_to(d_x, gradient);
                        }
                    }
                },
            );

        let d_up_w = d_up_wanted.then(|| {
            let input = normal.as_deref().unwrap_or(x);
            product_of_columns(input, width, &d_inner, intermediate)
        });
        let d_down_w = wanted[5].then(|| {
            let d_outer = d_outer.as_deref().unwrap_or(gradient);
            product_of_columns(&inner, intermediate, d_outer, width)
        });
        let [d_gain, d_bias, d_up_b, d_down_b] = rows::add_up(&partials, widths);
        [
            d_x_wanted.then_some(d_x),
            d_gain_wanted.then_some(d_gain),
            d_bias_wanted.then_some(d_bias),
            d_up_w,
            wanted[4].then_some(d_up_b),
            d_down_w,
            wanted[6].then_some(d_down_b),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, plain, values};
    use super::*;

    #[test]
    fn equals_the_plain_form() {
        for (rows, width, intermediate) in [(0, 3, 4), (1, 2, 1), (5, 7, 9), (70, 6, 19)] {
            for norm in [Norm::Before, Norm::After] {
                for activation in [
                    Activation::Gelu,
                    Activation::QuickGelu,
                    Activation::GeluTanh,
                    Activation::Relu,
                ] {
                    for dropout in [None, Some(Dropout::new(0.3, 4))] {
                        let block = FeedForward {
                            width,
                            intermediate,
                            activation,
                            norm,
                            eps: 1e-3,
                            dropout,
                        };
                        let inputs = [
                            values(1, rows * width),
                            values(2, width),
                            values(3, width),
                            values(4, width * intermediate),
                            values(5, intermediate),
                            values(6, intermediate * width),
                            values(7, width),
                        ];
                        check(&block, &inputs, 2e-5, |inputs| plain_form(&block, inputs));
                    }
                }
            }
        }
    }

    fn plain_form(block: &FeedForward, inputs: &[Vec<f64>; 7]) -> Vec<f64> {
        let [x, gain, bias, up_w, up_b, down_w, down_b] = inputs;
        let norm = |x: &[f64]| plain::layer_norm(x, gain, bias, block.eps);
        let input = match block.norm {
            Norm::Before => norm(x),
            Norm::After => x.clone(),
        };
        let mut inner = plain::linear(&input, up_w, up_b);
        for x in &mut inner {
            *x *= match block.activation {
                Activation::Gelu => plain::phi(*x),
                Activation::QuickGelu => 1.0 / (1.0 + (-1.702 * *x).exp()),
                Activation::GeluTanh => {
                    let bent = *x + 0.044_715 * x.powi(3);
                    0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * bent).tanh())
                }
                Activation::Relu => f64::from(u8::from(*x > 0.0)),
            };
        }
        let outer = plain::linear(&inner, down_w, down_b);
        let outer = plain::drop(block.dropout, &outer, block.width);
        let sum: Vec<f64> = x.iter().zip(outer).map(|(x, y)| x + y).collect();
        match block.norm {
            Norm::Before => sum,
            Norm::After => norm(&sum),
        }
    }
}
