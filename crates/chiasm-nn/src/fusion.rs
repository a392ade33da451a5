//! The fusion encoder: text and image layers side by side, each attending to itself and then to
//! the other (`specs/scl.md` section 1.6).
//!
//! Both streams are updated **in parallel**: layer `l` of either stream reads the outputs of
//! layer `l - 1` of both.

use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::Tensor;

use crate::attention::{CrossAttention, KeyBias, SelfAttention, drop, dropout_layer};
use crate::config::{Activation, FusionConfig};
use crate::layers::{FeedForward, Init, LayerNorm};

/// Self-attention, cross-attention, feed-forward; each with residual and LayerNorm after it.
#[derive(Module, Debug)]
pub struct FusionLayer {
    /// Attention of the stream to itself.
    pub attention: SelfAttention,
    /// After it.
    pub attention_norm: LayerNorm,
    /// Attention of the stream to the other one.
    pub cross: CrossAttention,
    /// After it.
    pub cross_norm: LayerNorm,
    /// Position-wise sub-layer.
    pub mlp: FeedForward,
    /// After it.
    pub mlp_norm: LayerNorm,
    dropout: Option<Dropout>,
}

impl FusionLayer {
    fn new(init: &Init, config: &FusionConfig) -> Self {
        let (width, heads, eps) = (config.hidden_size, config.num_heads, config.layer_norm_eps);
        Self {
            attention: SelfAttention::new(init, width, heads, config.dropout),
            attention_norm: LayerNorm::new(init, width, eps),
            cross: CrossAttention::new(init, width, heads, config.dropout),
            cross_norm: LayerNorm::new(init, width, eps),
            mlp: FeedForward::new(init, width, config.intermediate_size, Activation::Gelu),
            mlp_norm: LayerNorm::new(init, width, eps),
            dropout: dropout_layer(config.dropout),
        }
    }

    /// Returns the new stream and its cross-attention `[batch, heads, own, other]`.
    ///
    /// # Shapes
    /// - input and output: `[batch, own, width]`
    /// - other: `[batch, other, width]`
    #[must_use]
    pub fn forward(
        &self,
        input: Tensor<3>,
        other: Tensor<3>,
        own_bias: Option<&KeyBias>,
        other_bias: Option<&KeyBias>,
    ) -> (Tensor<3>, Tensor<4>) {
        let dropout = self.dropout.as_ref();
        let attended = drop(dropout, self.attention.forward(input.clone(), own_bias));
        let hidden = self.attention_norm.forward(input + attended);
        let (crossed, probabilities) = self.cross.forward(hidden.clone(), other, other_bias);
        let hidden = self.cross_norm.forward(hidden + drop(dropout, crossed));
        let mixed = drop(dropout, self.mlp.forward(hidden.clone()));
        (self.mlp_norm.forward(hidden + mixed), probabilities)
    }
}

/// Both streams, before, between or after the fusion layers.
#[derive(Clone, Debug)]
pub struct Fused {
    /// Words, `[batch, text_len, width]`.
    pub text: Tensor<3>,
    /// Class token and patches, `[batch, visual_len, width]`.
    pub image: Tensor<3>,
}

impl Fused {
    /// Global meaning of the text: its first token, `[batch, width]`.
    #[must_use]
    pub fn text_global(&self) -> Tensor<2> {
        first_token(self.text.clone())
    }

    /// Global meaning of the image: its class token, `[batch, width]`.
    #[must_use]
    pub fn image_global(&self) -> Tensor<2> {
        first_token(self.image.clone())
    }
}

/// First token of every sequence, `[batch, len, width]` to `[batch, width]`.
#[must_use]
pub fn first_token(tokens: Tensor<3>) -> Tensor<2> {
    tokens.narrow(1, 0, 1).squeeze_dim::<2>(1)
}

/// The two stacks.
#[derive(Module, Debug)]
pub struct FusionEncoder {
    /// Layers of the text stream.
    pub text_layers: Vec<FusionLayer>,
    /// Layers of the image stream; weights are not shared with the text's.
    pub image_layers: Vec<FusionLayer>,
}

impl FusionEncoder {
    /// Builds both stacks with fresh weights.
    #[must_use]
    pub fn new(init: &Init, config: &FusionConfig) -> Self {
        let stack = || {
            (0..config.layers)
                .map(|_| FusionLayer::new(init, config))
                .collect()
        };
        Self {
            text_layers: stack(),
            image_layers: stack(),
        }
    }

    /// Runs both stacks.
    ///
    /// # Shapes
    /// - text `[batch, text_len, width]`, image `[batch, visual_len, width]`; `text_bias` masks
    ///   the text's padding for both streams
    #[must_use]
    pub fn forward(&self, input: Fused, text_bias: &KeyBias) -> Fused {
        self.layers()
            .fold(input, |current, pair| update(pair, current, text_bias))
    }

    /// As [`Self::forward`], returning what every layer gave, the last one last.
    #[must_use]
    pub fn forward_all(&self, input: Fused, text_bias: &KeyBias) -> Vec<Fused> {
        self.layers()
            .scan(input, |current, pair| {
                *current = update(pair, current.clone(), text_bias);
                Some(current.clone())
            })
            .collect()
    }

    fn layers(&self) -> impl Iterator<Item = (&FusionLayer, &FusionLayer)> {
        self.text_layers.iter().zip(&self.image_layers)
    }
}

/// One (text, image) pair of layers, both reading the same `current`.
fn update((text, image): (&FusionLayer, &FusionLayer), current: Fused, bias: &KeyBias) -> Fused {
    let (own_text, own_image) = (current.text.clone(), current.image.clone());
    Fused {
        text: text.forward(own_text, current.image, Some(bias), None).0,
        image: image.forward(own_image, current.text, None, Some(bias)).0,
    }
}
