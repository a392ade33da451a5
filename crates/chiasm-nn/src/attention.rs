//! Scaled dot-product attention with several heads, within one sequence and across two.
//!
//! Dropout acts on the probabilities after the softmax, and masked keys get an *added* -10,000:
//! both as in the BERT family, and both different from burn-nn's layer, which is why it is not
//! used here.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Int, Tensor};

use crate::layers::{Init, Linear};

/// Added to the score of a masked key (BERT's convention; exact zero probability in f32).
const MASKED_SCORE: f32 = -10_000.0;

/// What is added to the attention scores of a batch of sequences, `[batch, 1, 1, keys]`:
/// 0 where a key counts, -10,000 where it is padding.
#[derive(Clone, Debug)]
pub struct KeyBias(pub Tensor<4>);

impl KeyBias {
    /// From a keep-mask `[batch, keys]` in which 1 means "a real token".
    #[must_use]
    pub fn from_mask(attention_mask: Tensor<2, Int>) -> Self {
        let masked = attention_mask.float().neg().add_scalar(1.0);
        Self(masked.mul_scalar(MASKED_SCORE).unsqueeze_dims::<4>(&[1, 2]))
    }
}

/// Attention's result.
#[derive(Clone, Debug)]
pub struct Attended {
    /// Mixed values before the output projection, `[batch, queries, width]`.
    pub context: Tensor<3>,
    /// Probabilities, `[batch, heads, queries, keys]`; every row sums to 1.
    pub probabilities: Tensor<4>,
}

/// Mixes `value` by the agreement of `query` and `key`.
///
/// # Shapes
/// - query `[batch, queries, width]`, key and value `[batch, keys, width]`
fn attend(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    num_heads: usize,
    bias: Option<&KeyBias>,
    dropout: Option<&Dropout>,
) -> Attended {
    let [batch, queries, width] = query.dims();
    let keys = key.dims()[1];
    let head_size = width / num_heads;
    let split = |tensor: Tensor<3>, len: usize| {
        tensor
            .reshape([batch, len, num_heads, head_size])
            .swap_dims(1, 2)
    };
    let scale = 1.0 / (head_size as f64).sqrt();
    let query = split(query.mul_scalar(scale), queries);
    let scores = query.matmul(split(key, keys).swap_dims(2, 3));
    let scores = match bias {
        Some(KeyBias(bias)) => scores + bias.clone(),
        None => scores,
    };
    let probabilities = softmax(scores, 3);
    let weights = match dropout {
        Some(dropout) => dropout.forward(probabilities.clone()),
        None => probabilities.clone(),
    };
    let context = weights
        .matmul(split(value, keys))
        .swap_dims(1, 2)
        .reshape([batch, queries, width]);
    Attended {
        context,
        probabilities,
    }
}

/// Attention of a sequence to itself.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Query, key and value maps side by side, `[width, 3 width]`.
    pub qkv: Linear,
    /// Output map, `[width, width]`.
    pub out: Linear,
    dropout: Option<Dropout>,
    #[module(skip)]
    num_heads: usize,
}

impl SelfAttention {
    /// `dropout` 0 leaves the layer out.
    #[must_use]
    pub fn new(init: &Init, width: usize, num_heads: usize, dropout: f64) -> Self {
        Self {
            qkv: Linear::new(init, width, 3 * width),
            out: Linear::new(init, width, width),
            dropout: dropout_layer(dropout),
            num_heads,
        }
    }

    /// # Shapes
    /// - input and output: `[batch, len, width]`
    #[must_use]
    pub fn forward(&self, input: Tensor<3>, bias: Option<&KeyBias>) -> Tensor<3> {
        let width = input.dims()[2];
        let qkv = self.qkv.forward(input);
        let part = |index: usize| qkv.clone().narrow(2, index * width, width);
        let attended = attend(
            part(0),
            part(1),
            part(2),
            self.num_heads,
            bias,
            self.dropout.as_ref(),
        );
        self.out.forward(attended.context)
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
    dropout: Option<Dropout>,
    #[module(skip)]
    num_heads: usize,
}

impl CrossAttention {
    /// `dropout` 0 leaves the layer out.
    #[must_use]
    pub fn new(init: &Init, width: usize, num_heads: usize, dropout: f64) -> Self {
        Self {
            query: Linear::new(init, width, width),
            kv: Linear::new(init, width, 2 * width),
            out: Linear::new(init, width, width),
            dropout: dropout_layer(dropout),
            num_heads,
        }
    }

    /// Returns the mixed sequence and the probabilities `[batch, heads, queries, keys]`.
    ///
    /// # Shapes
    /// - input and output: `[batch, queries, width]`
    /// - other: `[batch, keys, width]`; `bias` belongs to its keys
    #[must_use]
    pub fn forward(
        &self,
        input: Tensor<3>,
        other: Tensor<3>,
        bias: Option<&KeyBias>,
    ) -> (Tensor<3>, Tensor<4>) {
        let width = input.dims()[2];
        let kv = self.kv.forward(other);
        let part = |index: usize| kv.clone().narrow(2, index * width, width);
        let attended = attend(
            self.query.forward(input),
            part(0),
            part(1),
            self.num_heads,
            bias,
            self.dropout.as_ref(),
        );
        (self.out.forward(attended.context), attended.probabilities)
    }
}

/// A dropout layer, or nothing when nothing is to be dropped.
#[must_use]
pub(crate) fn dropout_layer(share: f64) -> Option<Dropout> {
    (share > 0.0 && share < 1.0).then(|| DropoutConfig::new(share).init())
}

/// Applies an optional dropout layer.
#[must_use]
pub(crate) fn drop<const D: usize>(layer: Option<&Dropout>, input: Tensor<D>) -> Tensor<D> {
    match layer {
        Some(layer) => layer.forward(input),
        None => input,
    }
}
