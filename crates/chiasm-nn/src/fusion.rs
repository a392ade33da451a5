//! The fusion encoder: text and image layers side by side, each attending to itself and then to
//! the other (`specs/scl.md` section 1.6).
//!
//! Both streams are updated **in parallel**: layer `l` of either stream reads the outputs of
//! layer `l - 1` of both.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::attention::{CrossAttention, Scope, SelfAttention};
use crate::config::{Activation, FusionConfig};
use crate::kernels::Norm;
use crate::layers::{FeedForward, Init, LayerNorm};
use crate::tokens::{Chosen, Tokens};

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
}

impl FusionLayer {
    fn new(init: &Init, config: &FusionConfig) -> Self {
        let (width, heads, eps) = (config.hidden_size, config.num_heads, config.layer_norm_eps);
        Self {
            attention: SelfAttention::new(init, width, heads, config.dropout),
            attention_norm: LayerNorm::new(init, width, eps),
            cross: CrossAttention::new(init, width, heads, config.dropout),
            cross_norm: LayerNorm::new(init, width, eps),
            mlp: FeedForward::new(
                init,
                width,
                config.intermediate_size,
                Activation::Gelu,
                config.dropout,
            ),
            mlp_norm: LayerNorm::new(init, width, eps),
        }
    }

    /// The new stream: `input` after attending to itself and to `other`.
    #[must_use]
    pub fn forward(&self, input: Tokens, other: &Tokens) -> Tokens {
        let hidden = self.attend(input);
        let hidden = self
            .cross
            .sub_layer(hidden, other, &self.cross_norm, Norm::After);
        self.mlp.sub_layer(hidden, &self.mlp_norm, Norm::After)
    }

    /// As [`Self::forward`], of chosen tokens of the stream alone.
    #[must_use]
    pub fn forward_at(&self, input: &Tokens, other: &Tokens, chosen: &Chosen) -> Tokens {
        let norm = &self.attention_norm;
        let hidden = self
            .attention
            .sub_layer_at(input, chosen, Scope::Whole, norm, Norm::After);
        let hidden = self
            .cross
            .sub_layer(hidden, other, &self.cross_norm, Norm::After);
        self.mlp.sub_layer(hidden, &self.mlp_norm, Norm::After)
    }

    /// How much each token of the stream looks at each of the other one in [`Self::forward`],
    /// padded: `[batch, heads, own, other]`.
    #[must_use]
    pub fn probabilities(&self, input: Tokens, other: &Tokens) -> Tensor<4> {
        self.cross.probabilities(&self.attend(input), other)
    }

    fn attend(&self, input: Tokens) -> Tokens {
        self.attention
            .sub_layer(input, Scope::Whole, &self.attention_norm, Norm::After)
    }
}

/// Both streams, before, between or after the fusion layers.
#[derive(Clone, Debug)]
pub struct Fused {
    /// Words.
    pub text: Tokens,
    /// Class tokens of all frames, then patches.
    pub image: Tokens,
    /// Frames of a clip; 1 for pictures.
    pub frames: usize,
}

impl Fused {
    /// Global meaning of the text: its first token, `[batch, width]`.
    #[must_use]
    pub fn text_global(&self) -> Tensor<2> {
        self.text.first()
    }

    /// Global meaning of each frame: its class token, `[batch, frames, width]`.
    #[must_use]
    pub fn frame_globals(&self) -> Tensor<3> {
        self.image.leading(self.frames)
    }

    /// Global meaning of the image: its class token, the mean over all frames of a clip,
    /// `[batch, width]`.
    #[must_use]
    pub fn image_global(&self) -> Tensor<2> {
        summary(&self.image, self.frames)
    }
}

/// Mean over the class tokens of all frames, which come first in each sequence, `[batch, width]`.
pub(crate) fn summary(images: &Tokens, frames: usize) -> Tensor<2> {
    match frames {
        1 => images.first(),
        frames => images.leading(frames).mean_dim(1).squeeze_dim::<2>(1),
    }
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

    /// Runs both stacks on texts and images of the same batch.
    #[must_use]
    pub fn forward(&self, input: Fused) -> Fused {
        self.layers().fold(input, update)
    }

    /// Some tokens of both streams as [`Self::forward`] gives them, without computing what the last
    /// layers give for the others.
    #[must_use]
    pub fn forward_at(&self, input: Fused, text: &Chosen, image: &Chosen) -> Fused {
        let mut layers: Vec<_> = self.layers().collect();
        let Some((last_text, last_image)) = layers.pop() else {
            return Fused {
                text: input.text.choose(text),
                image: input.image.choose(image),
                ..input
            };
        };
        let current = layers.into_iter().fold(input, update);
        Fused {
            text: last_text.forward_at(&current.text, &current.image, text),
            image: last_image.forward_at(&current.image, &current.text, image),
            frames: current.frames,
        }
    }

    /// As [`Self::forward`], returning what every layer gave, the last one last.
    #[must_use]
    pub fn forward_all(&self, input: Fused) -> Vec<Fused> {
        self.layers()
            .scan(input, |current, pair| {
                *current = update(current.clone(), pair);
                Some(current.clone())
            })
            .collect()
    }

    /// How much each token of every text looks at each of its image in the last layer, padded:
    /// `[batch, heads, text tokens, image tokens]`; `None` without layers.
    #[must_use]
    pub fn cross_attention(&self, input: Fused) -> Option<Tensor<4>> {
        let mut layers: Vec<_> = self.layers().collect();
        let (last_text, _) = layers.pop()?;
        let current = layers.into_iter().fold(input, update);
        Some(last_text.probabilities(current.text, &current.image))
    }

    fn layers(&self) -> impl Iterator<Item = (&FusionLayer, &FusionLayer)> {
        self.text_layers.iter().zip(&self.image_layers)
    }
}

/// One (text, image) pair of layers, both reading the same `current`.
fn update(current: Fused, (text, image): (&FusionLayer, &FusionLayer)) -> Fused {
    let new_text = text.forward(current.text.clone(), &current.image);
    Fused {
        image: image.forward(current.image, &current.text),
        text: new_text,
        frames: current.frames,
    }
}
