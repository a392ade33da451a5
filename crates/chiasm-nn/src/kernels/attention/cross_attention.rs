//! Attention of every sequence to another.

use super::super::linear::Linear;
use super::super::operation::Operation;
use super::projected::Projected;
use super::sublayer::{self, Form, Sublayer};
use crate::spans::Spans;

/// A sub-layer in which every token of sequence i of x attends to sequence i of another batch.
///
/// With the norm before, `y = x + drop(out(attend(q(LN(x)), kv(other))))`; with the norm after,
/// `y = LN(x + drop(out(attend(q(x), kv(other)))))`.
///
/// Inputs: x `[tokens, width]`; other `[other tokens, width]`; the norm's gain and bias `[width]`;
/// weights `[width, width]` and bias `[width]` of the queries; weights `[width, 2 width]` and bias
/// `[2 width]` of keys and values, side by side; weights `[width, width]` and bias `[width]` of the
/// output map; thresholds of the heads' gates `[heads]`, or `[0]` without. The result has the shape
/// of x.
#[derive(Clone, Debug)]
pub(crate) struct CrossAttention {
    /// The sequences of x.
    pub(crate) spans: Spans,
    /// The sequences of the other batch, as many.
    pub(crate) other_spans: Spans,
    /// Everything else.
    pub(crate) form: Form,
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
    fn sublayer<'a>(&'a self, inputs: [&'a [f32]; 11]) -> Sublayer<'a> {
        let [
            _,
            _,
            gain,
            bias,
            query_w,
            query_b,
            _,
            _,
            out_w,
            out_b,
            gates,
        ] = inputs;
        self.form.sublayer(
            [&self.spans, &self.other_spans],
            [gain, bias],
            [query_w, query_b],
            [out_w, out_b],
            gates,
        )
    }

    /// Keys and values, `[other tokens, 2 width]`.
    fn project_other(&self, inputs: [&[f32]; 11]) -> Vec<f32> {
        let [_, other, _, _, _, _, weight, bias, ..] = inputs;
        self.key_value().forward([other, weight, bias], false).0
    }

    /// The projection of the other batch, an operation by itself.
    fn key_value(&self) -> Linear {
        Linear {
            input: self.form.width,
            output: 2 * self.form.width,
        }
    }
}

impl Operation<11> for CrossAttention {
    type Kept = Kept;

    const RECOMPUTED: bool = true;

    fn forward(&self, inputs: [&[f32]; 11], keep: bool) -> (Vec<f32>, Option<Kept>) {
        let sublayer = self.sublayer(inputs);
        let (query, moments) = sublayer.project(inputs[0]);
        let key_value = self.project_other(inputs);
        let projected = Projected::Apart {
            query: &query[..],
            key_value: &key_value,
        };
        let (result, kept) = sublayer.forward(inputs[0], &projected, moments, keep);
        let kept = keep.then_some(Kept {
            query,
            key_value,
            sublayer: kept,
        });
        (result, kept)
    }

    fn recompute(&self, inputs: [&[f32]; 11]) -> Option<Kept> {
        let sublayer = self.sublayer(inputs);
        let (query, moments) = sublayer.project(inputs[0]);
        let key_value = self.project_other(inputs);
        let projected = Projected::Apart {
            query: &query[..],
            key_value: &key_value,
        };
        let kept = sublayer.recompute(inputs[0], &projected, moments);
        Some(Kept {
            query,
            key_value,
            sublayer: kept,
        })
    }

    fn backward(
        &self,
        inputs: [&[f32]; 11],
        mut kept: Kept,
        gradient: &[f32],
        wanted: [bool; 11],
    ) -> [Option<Vec<f32>>; 11] {
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
            gates,
        ] = wanted;
        let projected = Projected::Apart {
            query: &mut kept.query[..],
            key_value: &mut kept.key_value,
        };
        let wanted = [out_w, out_b, gates];
        let (above, [out_w, out_b, gates]) =
            sublayer.backward(projected, &kept.sublayer, gradient, wanted);
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
            gates,
        ]
    }
}
