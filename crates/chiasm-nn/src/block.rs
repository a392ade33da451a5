//! One block of a transformer: attention of a sequence to itself, then the position-wise
//! sub-layer, each with its residual and its LayerNorm. Both towers are stacks of it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::attention::{Scope, SelfAttention};
use crate::config::{Activation, FusionConfig};
use crate::kernels::Norm;
use crate::layers::{FeedForward, Init, LayerNorm};
use crate::select::{Looks, Selector, Sight};
use crate::tokens::{Chosen, Tokens};

/// Sizes and switches of a [`Block`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockConfig {
    /// Width of every token.
    pub(crate) width: usize,
    /// Attention heads; divides the width.
    pub(crate) heads: usize,
    /// Width inside the position-wise sub-layer.
    pub(crate) intermediate: usize,
    /// Of the position-wise sub-layer.
    pub(crate) activation: Activation,
    /// Added inside LayerNorm's root.
    pub(crate) eps: f64,
    /// Share of activations dropped while training.
    pub(crate) dropout: f64,
    /// Whether a sub-layer's LayerNorm comes before it (CLIP, ViT) or after its residual (BERT).
    pub(crate) place: Norm,
}

impl BlockConfig {
    /// A layer of one stream of the fusion encoder.
    pub(crate) fn of_fusion(config: &FusionConfig) -> Self {
        Self {
            width: config.hidden_size,
            heads: config.num_heads,
            intermediate: config.intermediate_size,
            activation: Activation::Gelu,
            eps: config.layer_norm_eps,
            dropout: config.dropout,
            place: config.norm.into(),
        }
    }
}

/// A block of a transformer.
#[derive(Module, Debug)]
pub struct Block {
    /// Attention of the sequence to itself.
    pub attention: SelfAttention,
    /// Before the attention, or after its residual.
    pub attention_norm: LayerNorm,
    /// Position-wise sub-layer.
    pub mlp: FeedForward,
    /// Before the position-wise sub-layer, or after its residual.
    pub mlp_norm: LayerNorm,
    #[module(skip)]
    place: Norm,
}

impl Block {
    /// Fresh weights.
    #[must_use]
    pub(crate) fn new(init: &Init, config: &BlockConfig) -> Self {
        let &BlockConfig {
            width,
            heads,
            intermediate,
            activation,
            eps,
            dropout,
            place,
        } = config;
        Self {
            attention: SelfAttention::new(init, width, heads, dropout),
            attention_norm: LayerNorm::new(init, width, eps),
            mlp: FeedForward::new(init, width, intermediate, activation, dropout),
            mlp_norm: LayerNorm::new(init, width, eps),
            place,
        }
    }

    /// A stack of equal blocks.
    pub(crate) fn stack(init: &Init, count: usize, config: &BlockConfig) -> Vec<Self> {
        (0..count).map(|_| Self::new(init, config)).collect()
    }

    /// The sequences after one more block, in which a token sees what `sight` says.
    #[must_use]
    pub fn forward(&self, input: Tokens, sight: impl Into<Sight>) -> Tokens {
        let norm = &self.attention_norm;
        let sight = sight.into();
        let hidden = self.attention.sub_layer(input, sight, norm, self.place);
        self.mlp.sub_layer(hidden, &self.mlp_norm, self.place)
    }

    /// As [`Self::forward`], of chosen tokens alone.
    #[must_use]
    pub fn forward_at(&self, input: &Tokens, chosen: &Chosen, sight: impl Into<Sight>) -> Tokens {
        let (norm, place) = (&self.attention_norm, self.place);
        let hidden = self
            .attention
            .sub_layer_at(input, chosen, sight.into(), norm, place);
        self.mlp.sub_layer(hidden, &self.mlp_norm, self.place)
    }
}

/// What the tokens of a stack see, layer by layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sights<'a> {
    /// Which keys are there for a query.
    pub(crate) scope: Scope,
    /// Which of them a layer keeps, what looks at what, and the gates of the stack where they are
    /// learned.
    pub(crate) select: Option<(&'a Selector, &'a Looks, Option<&'a Tensor<2>>)>,
}

impl From<Scope> for Sights<'_> {
    fn from(scope: Scope) -> Self {
        Self {
            scope,
            select: None,
        }
    }
}

impl Sights<'_> {
    /// Of one layer.
    pub(crate) fn of(&self, layer: usize, device: &Device) -> Sight {
        let select = self.select.as_ref();
        Sight {
            scope: self.scope,
            select: select
                .and_then(|(selector, looks, gates)| selector.at(layer, looks, *gates, device)),
        }
    }
}

/// Chosen tokens after a stack of blocks, without computing what the last one gives for the others.
pub(crate) fn run<'a>(
    blocks: &[Block],
    input: Tokens,
    chosen: &Chosen,
    sights: impl Into<Sights<'a>>,
) -> Tokens {
    let (sights, device) = (sights.into(), input.rows.device());
    let Some((last, blocks)) = blocks.split_last() else {
        return input.choose(chosen);
    };
    let mut hidden = input;
    for (layer, block) in blocks.iter().enumerate() {
        hidden = block.forward(hidden, sights.of(layer, &device));
    }
    last.forward_at(&hidden, chosen, sights.of(blocks.len(), &device))
}

/// All tokens before the first block and after each one: one more than there are blocks.
pub(crate) fn run_all<'a>(
    blocks: &[Block],
    input: Tokens,
    sights: impl Into<Sights<'a>>,
) -> Vec<Tokens> {
    let (sights, device) = (sights.into(), input.rows.device());
    let mut all = vec![input];
    for (layer, block) in blocks.iter().enumerate() {
        let sight = sights.of(layer, &device);
        all.extend(
            all.last()
                .cloned()
                .map(|hidden| block.forward(hidden, sight)),
        );
    }
    all
}
