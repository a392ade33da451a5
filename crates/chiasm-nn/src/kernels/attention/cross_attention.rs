//! Attention of every sequence to another.

use super::super::dropout::Dropout;
use super::super::linear::Linear;
use super::super::norm::{Affine, Norm};
use super::super::operation::Operation;
use super::heads::Heads;
use super::map::Map;
use super::projected::Projected;
use super::sublayer::{self, Sublayer};
use crate::spans::Spans;

/// A sub-layer in which every token of sequence i of x attends to sequence i of another batch.
///
/// With the norm before, `y = x + drop(out(attend(q(LN(x)), kv(other))))`; with the norm after,
/// `y = LN(x + drop(out(attend(q(x), kv(other)))))`.
///
/// Inputs: x `[tokens, width]`; other `[other tokens, width]`; the norm's gain and bias `[width]`;
/// weights `[width, width]` and bias `[width]` of the queries; weights `[width, 2 width]` and bias
/// `[2 width]` of keys and values, side by side; weights `[width, width]` and bias `[width]` of the
/// output map. The result has the shape of x.
#[derive(Clone, Debug)]
pub(crate) struct CrossAttention {
    /// The sequences of x.
    pub(crate) spans: Spans,
    /// The sequences of the other batch, as many.
    pub(crate) other_spans: Spans,
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
}

/// What [`CrossAttention`] keeps.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// `[tokens, width]`
    query: Vec<f32>,
    /// `[other tokens, 2 width]`
    key_value: Vec<f32>,
    sublayer: sublayer::Kept,
}

impl CrossAttention {
    fn sublayer<'a>(&'a self, inputs: [&'a [f32]; 10]) -> Sublayer<'a> {
        let [_, _, gain, bias, query_w, query_b, _, _, out_w, out_b] = inputs;
        Sublayer {
            heads: Heads {
                queries: &self.spans,
                keys: &self.other_spans,
                width: self.width,
                count: self.heads,
                dropout: self.dropout,
            },
            norm: self.norm,
            affine: Affine {
                gain,
                bias,
                eps: self.eps as f32,
            },
            project: Map {
                weight: query_w,
                bias: query_b,
            },
            out: Map {
                weight: out_w,
                bias: out_b,
            },
            dropout: self.residual_dropout,
        }
    }

    /// The projection of the other batch, an operation by itself.
    fn key_value(&self) -> Linear {
        Linear {
            input: self.width,
            output: 2 * self.width,
        }
    }
}

impl Operation<10> for CrossAttention {
    type Kept = Kept;

    fn forward(&self, inputs: [&[f32]; 10], keep: bool) -> (Vec<f32>, Option<Kept>) {
        let [x, other, _, _, _, _, key_value_w, key_value_b, _, _] = inputs;
        let sublayer = self.sublayer(inputs);
        let (query, moments) = sublayer.project(x);
        let key_value = [other, key_value_w, key_value_b];
        let (key_value, _) = self.key_value().forward(key_value, false);
        let projected = Projected::Apart {
            query: &query[..],
            key_value: &key_value,
        };
        let (result, kept) = sublayer.forward(x, &projected, moments, keep);
        let kept = keep.then_some(Kept {
            query,
            key_value,
            sublayer: kept,
        });
        (result, kept)
    }

    fn backward(
        &self,
        inputs: [&[f32]; 10],
        mut kept: Kept,
        gradient: &[f32],
        wanted: [bool; 10],
    ) -> [Option<Vec<f32>>; 10] {
        let sublayer = self.sublayer(inputs);
        let [
            x,
            other,
            gain,
            bias,
            query_w,
            query_b,
            key_value_w,
            key_value_b,
            out_w,
            out_b,
        ] = wanted;
        let projected = Projected::Apart {
            query: &mut kept.query[..],
            key_value: &mut kept.key_value,
        };
        let (above, [out_w, out_b]) =
            sublayer.backward(projected, &kept.sublayer, gradient, [out_w, out_b]);
        let [other, key_value_w, key_value_b] = self.key_value().backward(
            [inputs[1], inputs[6], inputs[7]],
            (),
            &kept.key_value,
            [other, key_value_w, key_value_b],
        );
        let [x, gain, bias, query_w, query_b] = sublayer.backward_project(
            inputs[0],
            &kept.sublayer,
            (gradient, &kept.query),
            above,
            [x, gain, bias, query_w, query_b],
        );
        [
            x,
            other,
            gain,
            bias,
            query_w,
            query_b,
            key_value_w,
            key_value_b,
            out_w,
            out_b,
        ]
    }
}
