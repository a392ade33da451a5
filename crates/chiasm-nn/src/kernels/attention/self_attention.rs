//! Attention of every sequence to itself.

use super::super::operation::Operation;
use super::projected::Projected;
use super::sublayer::{self, Form, Sublayer};
use crate::spans::Spans;

/// A sub-layer in which every token attends to its own sequence.
///
/// With the norm before, `y = x + drop(out(attend(qkv(LN(x)))))`; with the norm after,
/// `y = LN(x + drop(out(attend(qkv(x)))))`.
///
/// Inputs: x `[tokens, width]`; the norm's gain and bias `[width]`; weights `[width, 3 width]` and
/// bias `[3 width]` of the projection, in which queries, keys and values stand side by side, head
/// by head; weights `[width, width]` and bias `[width]` of the output map; thresholds of the heads'
/// gates `[heads]`, or `[0]` without. The result has the shape of x.
#[derive(Clone, Debug)]
pub(crate) struct SelfAttention {
    /// The sequences.
    pub(crate) spans: Spans,
    /// Everything else.
    pub(crate) form: Form,
}

/// What [`SelfAttention`] keeps.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Queries, keys and values, `[tokens, 3 width]`.
    projected: Vec<f32>,
    sublayer: sublayer::Kept,
}

impl SelfAttention {
    fn sublayer<'a>(&'a self, inputs: [&'a [f32]; 8]) -> Sublayer<'a> {
        let [_, gain, bias, qkv_w, qkv_b, out_w, out_b, gates] = inputs;
        self.form.sublayer(
            [&self.spans, &self.spans],
            [gain, bias],
            [qkv_w, qkv_b],
            [out_w, out_b],
            gates,
        )
    }
}

impl Operation<8> for SelfAttention {
    type Kept = Kept;

    const RECOMPUTED: bool = true;

    fn forward(&self, inputs: [&[f32]; 8], keep: bool) -> (Vec<f32>, Option<Kept>) {
        let sublayer = self.sublayer(inputs);
        let x = inputs[0];
        let (projected, moments) = sublayer.project(x);
        let (result, kept) = sublayer.forward(x, &Projected::Joint(&projected), moments, keep);
        let kept = keep.then_some(Kept {
            projected,
            sublayer: kept,
        });
        (result, kept)
    }

    fn recompute(&self, inputs: [&[f32]; 8]) -> Option<Kept> {
        let sublayer = self.sublayer(inputs);
        let x = inputs[0];
        let (projected, moments) = sublayer.project(x);
        let kept = sublayer.recompute(x, &Projected::Joint(&projected), moments);
        Some(Kept {
            projected,
            sublayer: kept,
        })
    }

    fn backward(
        &self,
        inputs: [&[f32]; 8],
        kept: Kept,
        gradient: &[f32],
        wanted: [bool; 8],
    ) -> [Option<Vec<f32>>; 8] {
        let sublayer = self.sublayer(inputs);
        let [x, gain, bias, qkv_w, qkv_b, out_w, out_b, gates] = wanted;
        let Kept {
            mut projected,
            sublayer: kept,
        } = kept;
        let (above, [out_w, out_b, gates]) = sublayer.backward(
            Projected::Joint(&mut projected),
            &kept,
            gradient,
            [out_w, out_b, gates],
        );
        let [x, gain, bias, qkv_w, qkv_b] = sublayer.backward_project(
            inputs[0],
            &kept,
            (gradient, &projected),
            above,
            [x, gain, bias, qkv_w, qkv_b],
        );
        [x, gain, bias, qkv_w, qkv_b, out_w, out_b, gates]
    }
}
