//! All of an attention sub-layer but the projection of another sequence's keys and values.

use std::sync::Arc;

use rayon::prelude::*;

use super::super::dropout::Dropout;
use super::super::math::{add, simd};
use super::super::norm::{Affine, Moments, Norm};
use super::super::rows::{self, BLOCK, room, zeros};
use super::gate::Gates;
use super::heads::{Attended, Heads, Scope};
use super::keep::Keep;
use super::map::Map;
use super::projected::Projected;
use crate::select::{Meter, Site};
use crate::spans::Spans;

/// What both kinds of attention sub-layer have in common.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Features of a token.
    pub(crate) width: usize,
    /// Number of heads, a divisor of the width.
    pub(crate) heads: usize,
    /// Where the LayerNorm is.
    pub(crate) norm: Norm,
    /// Added to LayerNorm's variance.
    pub(crate) eps: f64,
    /// Of probabilities.
    pub(crate) dropout: Option<Dropout>,
    /// Of what is added to x.
    pub(crate) residual_dropout: Option<Dropout>,
    /// What a token sees of its sequence; the whole of another one.
    pub(crate) scope: Scope,
    /// Which of the keys that it sees it keeps; all of them without.
    pub(crate) keep: Option<Keep>,
    /// How gradually gates open, where heads have some: a gate that does takes the place of `keep`, one
    /// that is open or shut that of its rule.
    pub(crate) softness: Option<f32>,
    /// Who counts what is kept, and for which site.
    pub(crate) meter: Option<(Arc<Meter>, Site)>,
}

impl Form {
    /// The sub-layer for one call: sequences of queries and of keys; the norm's gain and bias;
    /// weights and bias of the projection and of the output map; thresholds of the heads' gates,
    /// none where they have none.
    pub(super) fn sublayer<'a>(
        &'a self,
        [queries, keys]: [&'a Spans; 2],
        [gain, bias]: [&'a [f32]; 2],
        project: [&'a [f32]; 2],
        out: [&'a [f32]; 2],
        thresholds: &'a [f32],
    ) -> Sublayer<'a> {
        let map = |[weight, bias]: [&'a [f32]; 2]| Map { weight, bias };
        Sublayer {
            heads: Heads {
                queries,
                keys,
                width: self.width,
                count: self.heads,
                dropout: self.dropout,
                scope: self.scope,
                keep: self.keep.as_ref(),
                gates: (!thresholds.is_empty()).then_some(Gates {
                    thresholds,
                    softness: self.softness,
                }),
                meter: self.meter.as_ref().map(|(meter, site)| (&**meter, *site)),
            },
            norm: self.norm,
            affine: Affine::new(gain, bias, self.eps),
            project: map(project),
            out: map(out),
            dropout: self.residual_dropout,
        }
    }
}

/// A sub-layer for one call, `x + drop(out(attend(..)))` with its norm before or after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sublayer<'a> {
    /// Attention itself.
    pub(super) heads: Heads<'a>,
    /// Whether x, or the result, is normalised.
    pub(super) norm: Norm,
    /// The norm's weights.
    pub(super) affine: Affine<'a>,
    /// What makes queries of x, and where it attends to itself, keys and values.
    pub(super) project: Map<'a>,
    /// From the context to what is added to x.
    pub(super) out: Map<'a>,
    /// Of what is added to x.
    pub(super) dropout: Option<Dropout>,
}

/// What a sub-layer leaves for its backward pass, beside the projections.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Of the rows that the norm saw.
    moments: Vec<Moments>,
    /// The rows that the norm saw where they are not x, `[tokens, width]`.
    sum: Option<Vec<f32>>,
    attended: Attended,
}

/// What the backward pass has found when it comes to the projections.
pub(super) struct Above {
    /// Gradient of `x + drop(..)` where it is not that of the result, `[tokens, width]`.
    sum: Option<Vec<f32>>,
    /// Gradients of gain and bias of a norm that comes after.
    norm: [Vec<f32>; 2],
    /// Memory for `[tokens, width]`.
    spare: Vec<f32>,
}

impl Sublayer<'_> {
    /// The projection of x, `[tokens, ..]`, and the moments of x if the norm comes first.
    pub(super) fn project(&self, x: &[f32]) -> (Vec<f32>, Vec<Moments>) {
        let (width, output) = (self.heads.width, self.project.output());
        let tokens = x.len() / width;
        let weights = self.project.right(tokens);
        let mut projected = zeros(tokens * output);
        let mut moments = vec![Moments::default(); tokens];
        (
            x.par_chunks(BLOCK * width),
            moments.par_chunks_mut(BLOCK),
            projected.par_chunks_mut(BLOCK * output),
        )
            .into_par_iter()
            .for_each_init(Vec::new, |scratch, (x, moments, projected)| {
                let input = match self.norm {
                    Norm::Before => {
                        let normalised = room(scratch, x.len());
                        self.affine.forward(x, moments, normalised);
                        normalised
                    }
                    Norm::After => x,
                };
                self.project.forward(&weights, input, projected);
            });
        (projected, moments)
    }

    /// From the projections, and the moments that came with them, to the result.
    pub(super) fn forward(
        &self,
        x: &[f32],
        projected: &Projected<&[f32]>,
        mut moments: Vec<Moments>,
        keep: bool,
    ) -> (Vec<f32>, Kept) {
        let attended = self.heads.forward(projected);
        let width = self.heads.width;
        let weights = self.out.right(x.len() / width);
        let mut result = zeros(x.len());
        let mut sum = (keep && self.norm == Norm::After).then(|| zeros(x.len()));
        (
            x.par_chunks(BLOCK * width),
            attended.context.par_chunks(BLOCK * width),
            moments.par_chunks_mut(BLOCK),
            rows::parts(sum.as_mut(), x.len() / width, width),
            result.par_chunks_mut(BLOCK * width),
        )
            .into_par_iter()
            .enumerate()
            .for_each_init(
                Vec::new,
                |scratch, (block, (x, context, moments, sum, result))| {
                    let add_up = |sum: &mut [f32]| {
                        self.out.forward(&weights, context, sum);
                        self.drop_block(block, sum);
                        add_block(sum, x);
                    };
                    match self.norm {
                        Norm::Before => add_up(result),
                        Norm::After => {
                            let sum = sum.unwrap_or_else(|| room(scratch, x.len()));
                            add_up(sum);
                            self.affine.forward(sum, moments, result);
                        }
                    }
                },
            );
        let kept = Kept {
            moments,
            sum,
            attended,
        };
        (result, kept)
    }

    /// What [`Self::forward`] keeps, without the result where that has no part in it. Nothing is counted
    /// a second time.
    pub(super) fn recompute(
        &self,
        x: &[f32],
        projected: &Projected<&[f32]>,
        moments: Vec<Moments>,
    ) -> Kept {
        let heads = Heads {
            meter: None,
            ..self.heads
        };
        match self.norm {
            Norm::Before => Kept {
                moments,
                sum: None,
                attended: heads.forward(projected),
            },
            Norm::After => {
                let unmetered = Self { heads, ..*self };
                unmetered.forward(x, projected, moments, true).1
            }
        }
    }

    /// From the gradient of the result to those of the projections, which they replace. Also
    /// returns the gradients of the output map's weight and bias and of the gates' thresholds that
    /// are wanted.
    pub(super) fn backward(
        &self,
        projected: Projected<&mut [f32]>,
        kept: &Kept,
        gradient: &[f32],
        [weight_wanted, bias_wanted, gates_wanted]: [bool; 3],
    ) -> (Above, [Option<Vec<f32>>; 3]) {
        let width = self.heads.width;
        let tokens = gradient.len() / width;
        let weights = self.out.right_back(tokens);
        let mut d_sum = kept.sum.as_ref().map(|sum| zeros(sum.len()));
        let mut d_mapped = self.dropout.map(|_| zeros(gradient.len()));
        let mut d_context = zeros(gradient.len());
        let mut partials = vec![0.0; rows::blocks(tokens) * 3 * width];
        (
            gradient.par_chunks(BLOCK * width),
            rows::parts(d_sum.as_mut(), tokens, width),
            rows::parts(d_mapped.as_mut(), tokens, width),
            d_context.par_chunks_mut(BLOCK * width),
            partials.par_chunks_mut(3 * width),
        )
            .into_par_iter()
            .enumerate()
            .for_each(
                |(block, (gradient, d_sum, d_mapped, d_context, partials))| {
                    let (bias, norm) = partials.split_at_mut(width);
                    let mut gradient = gradient;
                    if let (Some(d_sum), Some(sum)) = (d_sum, &kept.sum) {
                        let rows = block * BLOCK..block * BLOCK + gradient.len() / width;
                        let sum = &sum[rows.start * width..rows.end * width];
                        d_sum.copy_from_slice(gradient);
                        self.affine.backward(sum, &kept.moments[rows], d_sum, norm);
                        gradient = d_sum;
                    }
                    if let Some(d_mapped) = d_mapped {
                        d_mapped.copy_from_slice(gradient);
                        self.drop_block(block, d_mapped);
                        gradient = d_mapped;
                    }
                    rows::add_rows(bias, gradient);
                    self.out.backward(&weights, gradient, d_context, false);
                },
            );

        let d_out = d_mapped.as_deref().or(d_sum.as_deref()).unwrap_or(gradient);
        let context = &kept.attended.context;
        let d_weight = weight_wanted.then(|| self.out.weight_gradient(context, d_out));
        let d_gates = self.heads.backward(projected, &kept.attended, &d_context);
        let [d_out_bias, d_gain, d_bias] = rows::add_up(&partials, [width; 3]);
        let above = Above {
            sum: d_sum,
            norm: [d_gain, d_bias],
            spare: d_context,
        };
        let d_bias = bias_wanted.then_some(d_out_bias);
        (above, [d_weight, d_bias, gates_wanted.then_some(d_gates)])
    }

    /// From the gradients of the result and of the projection to those that are wanted of x, of
    /// the norm's gain and bias, and of the projection's weight and bias.
    pub(super) fn backward_project(
        &self,
        x: &[f32],
        kept: &Kept,
        (gradient, projected): (&[f32], &[f32]),
        above: Above,
        wanted: [bool; 5],
    ) -> [Option<Vec<f32>>; 5] {
        let [
            x_wanted,
            gain_wanted,
            bias_wanted,
            weight_wanted,
            map_bias_wanted,
        ] = wanted;
        let below_wanted = x_wanted || gain_wanted || bias_wanted;
        let (width, output) = (self.heads.width, self.project.output());
        let weights = self.project.right_back(x.len() / width);
        let before = self.norm == Norm::Before;
        let mut normalised = above.spare;
        let mut d_x = above.sum.unwrap_or_else(|| zeros(x.len()));
        let mut partials = vec![0.0; rows::blocks(x.len() / width) * (output + 2 * width)];
        (
            x.par_chunks(BLOCK * width),
            kept.moments.par_chunks(BLOCK),
            gradient.par_chunks(BLOCK * width),
            projected.par_chunks(BLOCK * output),
            normalised.par_chunks_mut(BLOCK * width),
            d_x.par_chunks_mut(BLOCK * width),
            partials.par_chunks_mut(output + 2 * width),
        )
            .into_par_iter()
            .for_each(
                |(x, moments, gradient, projected, normalised, d_x, partials)| {
                    let (bias, norm) = partials.split_at_mut(output);
                    rows::add_rows(bias, projected);
                    if below_wanted {
                        self.project.backward(&weights, projected, d_x, !before);
                    }
                    if below_wanted && before {
                        self.affine.backward(x, moments, d_x, norm);
                        add_block(d_x, gradient);
                    }
                    if weight_wanted && before {
                        self.affine.normalise(x, moments, normalised);
                    }
                },
            );
        let input = if before { &normalised } else { x };
        let d_weight = weight_wanted.then(|| self.project.weight_gradient(input, projected));
        let [d_map_bias, d_gain, d_bias] = rows::add_up(&partials, [output, width, width]);
        let [d_gain, d_bias] = if before { [d_gain, d_bias] } else { above.norm };
        [
            x_wanted.then_some(d_x),
            gain_wanted.then_some(d_gain),
            bias_wanted.then_some(d_bias),
            d_weight,
            map_bias_wanted.then_some(d_map_bias),
        ]
    }

    /// Multiplies a block of rows by its share of the dropout mask, if there is one.
    fn drop_block(&self, block: usize, values: &mut [f32]) {
        if let Some(dropout) = &self.dropout {
            dropout.apply_rows(block * BLOCK, self.heads.width, values);
        }
    }
}

/// Adds a block to another.
fn add_block(to: &mut [f32], block: &[f32]) {
    simd(
        #[inline(always)]
        || add(to, block),
    );
}
