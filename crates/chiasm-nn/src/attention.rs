//! Scaled dot-product attention with several heads, within one sequence and across two, as whole
//! sub-layers: normalisation, projections, attention and residual.
//!
//! Dropout acts on the probabilities after the softmax, and masked keys get an *added* -10,000:
//! both as in the BERT family, and both different from burn-nn's layer, which is why it is not
//! used here.

use burn::backend::DispatchTensor;
use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

use crate::compute::{is_fused, linear, product};
use crate::dropout::{drop_from, next_site};
pub use crate::kernels::Scope;
use crate::kernels::{self, AttentionForm, Dropout, Norm};
use crate::layers::{Init, LayerNorm, Linear, drop_rows};
use crate::select::{self, Select, Sight};
use crate::spans::Spans;
use crate::tokens::{Chosen, Tokens, indices};
use crate::watch;

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

/// Mixes `value` by the agreement of `query` and `key`, sequence by sequence, of what `sight` lets
/// queries see.
///
/// # Shapes
/// - query: `[query tokens, width]`, key and value: `[key tokens, width]`
fn attend(
    query: Tensor<2>,
    [key, value]: [Tensor<2>; 2],
    [queries, keys]: [&Spans; 2],
    num_heads: usize,
    sight: &Sight,
    dropout: Option<&Dropout>,
) -> Attended {
    let [_, width] = query.dims();
    let device = query.device();
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
    let mut scores = scores([query, key], [queries, keys], num_heads);
    if sight.scope == Scope::Causal {
        scores = scores + later_keys(queries.longest(), &device);
    }
    let mut probabilities = match &sight.select {
        None => softmax(scores, 3),
        Some(select) => select::select(scores, [queries, keys], select),
    };
    if keys.lengths().any(|len| len == 0) {
        // Who can look nowhere sees nothing.
        probabilities = probabilities * key_values(keys, |real| f32::from(u8::from(real)), &device);
    }
    let probabilities = watch::probabilities(probabilities);
    let weights = drop_from(
        dropout,
        probabilities.clone(),
        probability_rows(queries, num_heads),
    );
    let context = product(weights, split(value, keys, num_heads)).swap_dims(1, 2);
    let context = context.reshape([queries.batch(), queries.longest(), width]);
    Attended {
        context: Tokens::from_padded(context, queries).rows,
        probabilities,
    }
}

/// Head by head and padded, `[batch, heads, longest, head size]`.
fn split(rows: Tensor<2>, spans: &Spans, num_heads: usize) -> Tensor<4> {
    let [_, width] = rows.dims();
    let spans = spans.clone();
    let shape = [spans.batch(), spans.longest(), num_heads, width / num_heads];
    let padded = Tokens { rows, spans }.padded();
    padded.reshape(shape).swap_dims(1, 2)
}

/// Agreement of queries and keys, `[batch, heads, queries, keys]`; [`MASKED_SCORE`] is added for keys
/// that are padding.
fn scores(
    [query, key]: [Tensor<2>; 2],
    [queries, keys]: [&Spans; 2],
    num_heads: usize,
) -> Tensor<4> {
    let [_, width] = query.dims();
    let device = query.device();
    let scale = 1.0 / ((width / num_heads) as f64).sqrt();
    let query = split(query.mul_scalar(scale), queries, num_heads);
    let scores = product(query, split(key, keys, num_heads).swap_dims(2, 3));
    if keys.common_length().is_some() {
        return scores;
    }
    scores + key_values(keys, |real| if real { 0.0 } else { MASKED_SCORE }, &device)
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

/// What the fused operations want to know, and the thresholds of the heads' gates, their last operand;
/// `dropouts` are of the probabilities and of what is added.
fn form(
    width: usize,
    heads: usize,
    norm: &LayerNorm,
    place: Norm,
    [dropout, residual_dropout]: [Option<Dropout>; 2],
    sight: Sight,
    device: &Device,
) -> (AttentionForm, DispatchTensor) {
    let Sight { scope, select } = sight;
    let (keep, gate, meter) = match select {
        Some(Select { keep, gate, meter }) => (Some(keep), gate, meter),
        None => (None, None, None),
    };
    let softness = gate.as_ref().and_then(|gate| gate.temperature);
    let thresholds = match gate {
        Some(gate) => gate.threshold,
        None => Tensor::from_data(TensorData::new(Vec::<f32>::new(), [0]), device),
    };
    let form = AttentionForm {
        width,
        heads,
        norm: place,
        eps: norm.eps(),
        dropout,
        residual_dropout,
        scope,
        keep,
        softness: softness.map(|softness| softness as f32),
        meter,
    };
    (form, thresholds.into_dispatch())
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
        sight: Sight,
        norm: &LayerNorm,
        place: Norm,
    ) -> Tokens {
        let device = input.rows.device();
        let dropouts = [(); 2].map(|()| next_site(self.dropout, &device));
        let [dropout, residual_dropout] = dropouts;
        let Tokens { rows, spans } = input;
        if is_fused(&device) {
            let [tokens, width] = rows.dims();
            let heads = self.num_heads;
            let (form, gates) = form(width, heads, norm, place, dropouts, sight, &device);
            let operation = kernels::SelfAttention {
                spans: spans.clone(),
                form,
            };
            let [gain, bias] = norm.operands();
            let [qkv, qkv_bias] = self.qkv.operands();
            let [out, out_bias] = self.out.operands();
            let input = rows.into_dispatch();
            let inputs = [input, gain, bias, qkv, qkv_bias, out, out_bias, gates];
            let rows = kernels::apply(operation, inputs, [tokens, width]);
            return Tokens { rows, spans };
        }
        let rows = watch::before(place, rows);
        let attended = place.residual(rows, norm, |rows| {
            let parts = self.parts(watch::within(place, rows));
            let context = match sight.scope {
                Scope::Frames(frames) if frames > 1 => self.attend_frames(parts, &spans, frames),
                _ => {
                    let [query, key, value] = parts;
                    let (heads, spans) = (self.num_heads, [&spans, &spans]);
                    attend(query, [key, value], spans, heads, &sight, dropout.as_ref()).context
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
    /// then the whole clip instead. Without dropout and selection: no tower of clips has any.
    fn attend_frames(&self, parts: [Tensor<2>; 3], clips: &Spans, frames: usize) -> Tensor<2> {
        let [query, key, value] = parts;
        let sight = Sight::from(Scope::Whole);
        let single = clips.frames(frames);
        let first: Vec<usize> = single.iter().map(|frame| frame.start).collect();
        let first = Chosen::new(clips, first);
        let of = |query, [queries, keys]: [&Spans; 2]| {
            let keys_and_values = [key.clone(), value.clone()];
            let heads = self.num_heads;
            attend(query, keys_and_values, [queries, keys], heads, &sight, None).context
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

    /// Scores before the softmax, padded: `[batch, heads, queries, keys]`; padded keys have got the
    /// score of a masked one. `input` is what the sub-layer with its norm after the residual reads.
    #[must_use]
    pub fn scores(&self, input: &Tokens) -> Tensor<4> {
        let [query, key, _] = self.parts(input.rows.clone());
        scores([query, key], [&input.spans; 2], self.num_heads)
    }

    /// How much each token looks at each, padded: `[batch, heads, queries, keys]`. Rows of real tokens
    /// sum to 1, unless a selection does not renormalise.
    #[must_use]
    pub fn probabilities(&self, input: &Tokens, sight: &Sight) -> Tensor<4> {
        let [query, key, value] = self.parts(input.rows.clone());
        let (spans, heads) = ([&input.spans; 2], self.num_heads);
        attend(query, [key, value], spans, heads, sight, None).probabilities
    }

    /// Queries, keys and values of normalised rows, `[tokens, width]` each.
    fn parts(&self, rows: Tensor<2>) -> [Tensor<2>; 3] {
        let [_, width] = rows.dims();
        let qkv = self.qkv.forward(rows);
        [0, 1, 2].map(|index| qkv.clone().narrow(1, index * width, width))
    }

    /// The sub-layer for chosen tokens alone; they look at all tokens that `scope` lets them see.
    #[must_use]
    pub(crate) fn sub_layer_at(
        &self,
        input: &Tokens,
        chosen: &Chosen,
        sight: Sight,
        norm: &LayerNorm,
        place: Norm,
    ) -> Tokens {
        if chosen.rows.len() == input.spans.tokens() {
            return self.sub_layer(input.clone(), sight, norm, place);
        }
        // Chosen queries lose their place below.
        let sees_all = !sight.needs_place()
            && match sight.scope {
                Scope::Whole => true,
                // Which keys a chosen token may see depends on its place, which it loses below.
                Scope::Causal => false,
                Scope::Frames(frames) => {
                    frames <= 1 || chosen.is_first_of(&input.spans.frames(frames))
                }
            };
        if !sees_all {
            return self
                .sub_layer(input.clone(), sight, norm, place)
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
        let sight = Sight {
            scope: Scope::Whole,
            ..sight
        };
        crossing.sub_layer(input.choose(chosen), &looked_at, sight, norm, place)
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
        sight: Sight,
        norm: &LayerNorm,
        place: Norm,
    ) -> Tokens {
        self.crossing().sub_layer(input, other, sight, norm, place)
    }

    /// How much each token of `input` looks at each of `other`, padded:
    /// `[batch, heads, queries, keys]`. Rows of real tokens sum to 1.
    #[must_use]
    pub fn probabilities(&self, input: &Tokens, other: &Tokens, sight: &Sight) -> Tensor<4> {
        self.crossing()
            .attend(input.rows.clone(), &input.spans, other, sight, None)
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
    fn sub_layer(
        self,
        input: Tokens,
        other: &Tokens,
        sight: Sight,
        norm: &LayerNorm,
        place: Norm,
    ) -> Tokens {
        let device = input.rows.device();
        let dropouts = [(); 2].map(|()| next_site(self.dropout, &device));
        let [dropout, residual_dropout] = dropouts;
        let Tokens { rows, spans } = input;
        let rows = if is_fused(&device) {
            let [tokens, width] = rows.dims();
            let heads = self.num_heads;
            let (form, gates) = form(width, heads, norm, place, dropouts, sight, &device);
            let operation = kernels::CrossAttention {
                spans: spans.clone(),
                other_spans: other.spans.clone(),
                form,
            };
            let [gain, bias] = norm.operands();
            let [query, kv, out] = [self.query, self.kv, self.out]
                .map(|(weight, bias)| [weight.into_dispatch(), bias.into_dispatch()]);
            let (input, other) = (rows.into_dispatch(), other.rows.clone().into_dispatch());
            let ([query, query_bias], [kv, kv_bias], [out, out_bias]) = (query, kv, out);
            let inputs = [
                input, other, gain, bias, query, query_bias, kv, kv_bias, out, out_bias, gates,
            ];
            kernels::apply(operation, inputs, [tokens, width])
        } else {
            let rows = watch::before(place, rows);
            place.residual(rows, norm, |rows| {
                let rows = watch::within(place, rows);
                let other = &other.with_rows(watch::other(other.rows.clone()));
                let attended = self.attend(rows, &spans, other, &sight, dropout.as_ref());
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
        sight: &Sight,
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
            sight,
            dropout,
        )
    }
}
