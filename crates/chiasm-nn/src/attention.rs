//! Scaled dot-product attention with several heads, within one sequence and across two, as whole
//! sub-layers: normalisation, projections, attention and residual.
//!
//! Dropout acts on the probabilities after the softmax, and masked keys get an *added* -10,000:
//! both as in the BERT family, and both different from burn-nn's layer, which is why it is not
//! used here.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor, TensorData};

use crate::compute::is_fused;
use crate::dropout::{drop_from, next_site};
pub use crate::kernels::Scope;
use crate::kernels::{self, AttentionForm, Dropout, Norm};
use crate::layers::{Init, LayerNorm, Linear, drop_rows};
use crate::spans::Spans;
use crate::tokens::{Chosen, Tokens, indices};

/// Added to the score of a masked key (BERT's convention; exact zero probability in f32).
const MASKED_SCORE: f32 = -10_000.0;

/// Attention's result.
#[derive(Clone, Debug)]
struct Attended {
    /// Mixed values before the output projection, `[tokens, width]`.
    context: Tensor<2>,
    /// Probabilities, `[batch, heads, queries, keys]`; every row sums to 1.
    probabilities: Tensor<4>,
}

/// Mixes `value` by the agreement of `query` and `key`, sequence by sequence; with
/// [`Scope::Causal`] of what does not come after the query alone.
///
/// # Shapes
/// - query: `[query tokens, width]`, key and value: `[key tokens, width]`
fn attend(
    query: Tensor<2>,
    [key, value]: [Tensor<2>; 2],
    [queries, keys]: [&Spans; 2],
    num_heads: usize,
    scope: Scope,
    dropout: Option<&Dropout>,
) -> Attended {
    let [_, width] = query.dims();
    let device = query.device();
    let head_size = width / num_heads;
    let split = |rows: Tensor<2>, spans: &Spans| {
        let padded = Tokens {
            rows,
            spans: spans.clone(),
        }
        .padded();
        padded
            .reshape([spans.batch(), spans.longest(), num_heads, head_size])
            .swap_dims(1, 2)
    };
    if queries.tokens() == 0 || keys.tokens() == 0 {
        let shape = [
            queries.batch(),
            num_heads,
            queries.longest(),
            keys.longest(),
        ];
        return Attended {
            context: query.mul_scalar(0.0),
            probabilities: Tensor::zeros(shape, &device),
        };
    }
    let scale = 1.0 / (head_size as f64).sqrt();
    let query = split(query.mul_scalar(scale), queries);
    let mut scores = query.matmul(split(key, keys).swap_dims(2, 3));
    if keys.common_length().is_none() {
        scores = scores + key_values(keys, |real| if real { 0.0 } else { MASKED_SCORE }, &device);
    }
    if scope == Scope::Causal {
        scores = scores + later_keys(queries.longest(), &device);
    }
    let mut probabilities = softmax(scores, 3);
    if keys.lengths().any(|len| len == 0) {
        // Who can look nowhere sees nothing.
        probabilities = probabilities * key_values(keys, |real| f32::from(u8::from(real)), &device);
    }
    let weights = drop_from(
        dropout,
        probabilities.clone(),
        probability_rows(queries, num_heads),
    );
    let context = weights.matmul(split(value, keys)).swap_dims(1, 2);
    let context = context.reshape([queries.batch(), queries.longest(), width]);
    Attended {
        context: Tokens::from_padded(context, queries).rows,
        probabilities,
    }
}

/// One number for every place of the padded keys, `[batch, 1, 1, keys]`.
fn key_values(keys: &Spans, value: impl Fn(bool) -> f32, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = keys.padded().map(|token| value(token.is_some())).collect();
    let shape = [keys.batch(), 1, 1, keys.longest()];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// What is added to the scores of keys that come after their query, `[1, 1, len, len]`.
fn later_keys(len: usize, device: &Device) -> Tensor<4> {
    let score = |key: usize, query: usize| if key > query { MASKED_SCORE } else { 0.0 };
    let values: Vec<f32> = (0..len)
        .flat_map(|query| (0..len).map(move |key| score(key, query)))
        .collect();
    Tensor::from_data(TensorData::new(values, [1, 1, len, len]), device)
}

/// Which row of its dropout site each row of padded probabilities is.
fn probability_rows(queries: &Spans, num_heads: usize) -> impl Iterator<Item = u64> + '_ {
    let (tokens, longest) = (queries.tokens(), queries.longest());
    queries.iter().flat_map(move |span| {
        // Places beyond the end of a sequence are thrown away: any row will do for them.
        (0..num_heads).flat_map(move |head| {
            let first = head * tokens + span.start;
            (first..first + longest).map(|row| row as u64)
        })
    })
}

/// What the fused operations want to know; `dropouts` are of the probabilities and of what is added.
fn form(
    width: usize,
    heads: usize,
    norm: &LayerNorm,
    place: Norm,
    [dropout, residual_dropout]: [Option<Dropout>; 2],
) -> AttentionForm {
    AttentionForm {
        width,
        heads,
        norm: place,
        eps: norm.eps(),
        dropout,
        residual_dropout,
        scope: Scope::Whole,
    }
}

/// Attention of a sequence to itself.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Query, key and value maps side by side, `[width, 3 width]`.
    pub qkv: Linear,
    /// Output map, `[width, width]`.
    pub out: Linear,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    num_heads: usize,
}

impl SelfAttention {
    /// `dropout` acts on the probabilities and, before the residual, on the result.
    #[must_use]
    pub fn new(init: &Init, width: usize, num_heads: usize, dropout: f64) -> Self {
        Self {
            qkv: Linear::new(init, width, 3 * width),
            out: Linear::new(init, width, width),
            dropout,
            num_heads,
        }
    }

    /// The sub-layer: attention with `norm` before it or after its residual.
    #[must_use]
    pub(crate) fn sub_layer(
        &self,
        input: Tokens,
        scope: Scope,
        norm: &LayerNorm,
        place: Norm,
    ) -> Tokens {
        let device = input.rows.device();
        let dropouts = [(); 2].map(|()| next_site(self.dropout, &device));
        let [dropout, residual_dropout] = dropouts;
        let Tokens { rows, spans } = input;
        if is_fused(&device) {
            let [tokens, width] = rows.dims();
            let operation = kernels::SelfAttention {
                spans: spans.clone(),
                form: AttentionForm {
                    scope,
                    ..form(width, self.num_heads, norm, place, dropouts)
                },
            };
            let [gain, bias] = norm.operands();
            let [qkv, qkv_bias] = self.qkv.operands();
            let [out, out_bias] = self.out.operands();
            let input = rows.into_dispatch();
            let inputs = [input, gain, bias, qkv, qkv_bias, out, out_bias];
            let rows = kernels::apply(operation, inputs, [tokens, width]);
            return Tokens { rows, spans };
        }
        let attended = place.residual(rows, norm, |rows| {
            let [_, width] = rows.dims();
            let qkv = self.qkv.forward(rows);
            let part = |index: usize| qkv.clone().narrow(1, index * width, width);
            let parts = [part(0), part(1), part(2)];
            let context = match scope {
                Scope::Frames(frames) if frames > 1 => self.attend_frames(parts, &spans, frames),
                _ => {
                    let [query, key, value] = parts;
                    let (heads, spans) = (self.num_heads, [&spans, &spans]);
                    attend(query, [key, value], spans, heads, scope, dropout.as_ref()).context
                }
            };
            drop_rows(residual_dropout.as_ref(), self.out.forward(context))
        });
        Tokens {
            rows: attended,
            spans,
        }
    }

    /// Context of clips, `[tokens, width]`: every token mixes its frame, and the first one of a frame
    /// then the whole clip instead. Without dropout: no tower of clips has any.
    fn attend_frames(&self, parts: [Tensor<2>; 3], clips: &Spans, frames: usize) -> Tensor<2> {
        let [query, key, value] = parts;
        let single = clips.frames(frames);
        let first: Vec<usize> = single.iter().map(|frame| frame.start).collect();
        let first = Chosen::new(clips, first);
        let of = |query, [queries, keys]: [&Spans; 2]| {
            let keys_and_values = [key.clone(), value.clone()];
            let heads = self.num_heads;
            attend(
                query,
                keys_and_values,
                [queries, keys],
                heads,
                Scope::Whole,
                None,
            )
            .context
        };
        let local = of(query.clone(), [&single, &single]);
        let queries = Tokens {
            rows: query,
            spans: clips.clone(),
        };
        let global = of(queries.token_rows(&first.rows), [&first.spans, clips]);
        let mut order: Vec<i64> = (0..clips.tokens() as i64).collect();
        for (row, place) in (clips.tokens() as i64..).zip(&first.rows) {
            order[*place] = row;
        }
        let device = local.device();
        Tensor::cat(vec![local, global], 0).select(0, indices(order, &device))
    }

    /// The sub-layer for chosen tokens alone; they look at all tokens that `scope` lets them see.
    #[must_use]
    pub(crate) fn sub_layer_at(
        &self,
        input: &Tokens,
        chosen: &Chosen,
        scope: Scope,
        norm: &LayerNorm,
        place: Norm,
    ) -> Tokens {
        if chosen.rows.len() == input.spans.tokens() {
            return self.sub_layer(input.clone(), scope, norm, place);
        }
        let sees_all = match scope {
            Scope::Whole => true,
            // Which keys a chosen token may see depends on its place, which it loses below.
            Scope::Causal => false,
            Scope::Frames(frames) => frames <= 1 || chosen.is_first_of(&input.spans.frames(frames)),
        };
        if !sees_all {
            return self
                .sub_layer(input.clone(), scope, norm, place)
                .choose(chosen);
        }
        let looked_at = match place {
            Norm::Before => input.with_rows(norm.forward(input.rows.clone())),
            Norm::After => input.clone(),
        };
        let (weight, bias) = self.qkv.values();
        let [width, _] = weight.dims();
        let part = |start: usize, len: usize| {
            let weight = weight.clone().narrow(1, start * width, len * width);
            (weight, bias.clone().narrow(0, start * width, len * width))
        };
        let crossing = Crossing {
            query: part(0, 1),
            kv: part(1, 2),
            out: self.out.values(),
            num_heads: self.num_heads,
            dropout: self.dropout,
        };
        crossing.sub_layer(input.choose(chosen), &looked_at, norm, place)
    }
}

/// Attention of one sequence to another.
#[derive(Module, Debug)]
pub struct CrossAttention {
    /// Query map, `[width, width]`.
    pub query: Linear,
    /// Key and value maps of the other sequence side by side, `[width, 2 width]`.
    pub kv: Linear,
    /// Output map, `[width, width]`.
    pub out: Linear,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    num_heads: usize,
}

impl CrossAttention {
    /// `dropout` acts on the probabilities and, before the residual, on the result.
    #[must_use]
    pub fn new(init: &Init, width: usize, num_heads: usize, dropout: f64) -> Self {
        Self {
            query: Linear::new(init, width, width),
            kv: Linear::new(init, width, 2 * width),
            out: Linear::new(init, width, width),
            dropout,
            num_heads,
        }
    }

    /// The sub-layer: every sequence of `input` attends to the same sequence of `other`.
    #[must_use]
    pub(crate) fn sub_layer(
        &self,
        input: Tokens,
        other: &Tokens,
        norm: &LayerNorm,
        place: Norm,
    ) -> Tokens {
        self.crossing().sub_layer(input, other, norm, place)
    }

    /// How much each token of `input` looks at each of `other`, padded:
    /// `[batch, heads, queries, keys]`. Rows of real tokens sum to 1.
    #[must_use]
    pub fn probabilities(&self, input: &Tokens, other: &Tokens) -> Tensor<4> {
        self.crossing()
            .attend(input.rows.clone(), &input.spans, other, None)
            .probabilities
    }

    fn crossing(&self) -> Crossing {
        Crossing {
            query: self.query.values(),
            kv: self.kv.values(),
            out: self.out.values(),
            num_heads: self.num_heads,
            dropout: self.dropout,
        }
    }
}

/// A linear map: weight `[in, out]` and bias `[out]`.
type Map = (Tensor<2>, Tensor<1>);

/// Attention whose queries come from other rows than its keys and values.
struct Crossing {
    query: Map,
    kv: Map,
    out: Map,
    num_heads: usize,
    dropout: f64,
}

impl Crossing {
    fn sub_layer(self, input: Tokens, other: &Tokens, norm: &LayerNorm, place: Norm) -> Tokens {
        let device = input.rows.device();
        let dropouts = [(); 2].map(|()| next_site(self.dropout, &device));
        let [dropout, residual_dropout] = dropouts;
        let Tokens { rows, spans } = input;
        let rows = if is_fused(&device) {
            let [tokens, width] = rows.dims();
            let operation = kernels::CrossAttention {
                spans: spans.clone(),
                other_spans: other.spans.clone(),
                form: form(width, self.num_heads, norm, place, dropouts),
            };
            let [gain, bias] = norm.operands();
            let [query, kv, out] = [self.query, self.kv, self.out]
                .map(|(weight, bias)| [weight.into_dispatch(), bias.into_dispatch()]);
            let (input, other) = (rows.into_dispatch(), other.rows.clone().into_dispatch());
            let ([query, query_bias], [kv, kv_bias], [out, out_bias]) = (query, kv, out);
            let inputs = [
                input, other, gain, bias, query, query_bias, kv, kv_bias, out, out_bias,
            ];
            kernels::apply(operation, inputs, [tokens, width])
        } else {
            place.residual(rows, norm, |rows| {
                let attended = self.attend(rows, &spans, other, dropout.as_ref());
                let (weight, bias) = self.out;
                let mixed = linear(attended.context, weight, Some(bias));
                drop_rows(residual_dropout.as_ref(), mixed)
            })
        };
        Tokens { rows, spans }
    }

    fn attend(
        &self,
        rows: Tensor<2>,
        spans: &Spans,
        other: &Tokens,
        dropout: Option<&Dropout>,
    ) -> Attended {
        let [_, width] = rows.dims();
        let map = |rows, (weight, bias): &Map| linear(rows, weight.clone(), Some(bias.clone()));
        let kv = map(other.rows.clone(), &self.kv);
        let part = |index: usize| kv.clone().narrow(1, index * width, width);
        attend(
            map(rows, &self.query),
            [part(0), part(1)],
            [spans, &other.spans],
            self.num_heads,
            Scope::Whole,
            dropout,
        )
    }
}
