//! One block of a transformer: attention of a sequence to itself, then the position-wise
//! sub-layer, each with its residual and its LayerNorm. Both towers are stacks of it.

use burn::module::Module;

use crate::attention::{Scope, SelfAttention};
use crate::config::Activation;
use crate::kernels::Norm;
use crate::layers::{FeedForward, Init, LayerNorm};
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

    /// The sequences after one more block, in which a token sees what `scope` says.
    #[must_use]
    pub fn forward(&self, input: Tokens, scope: Scope) -> Tokens {
        let norm = &self.attention_norm;
        let hidden = self.attention.sub_layer(input, scope, norm, self.place);
        self.mlp.sub_layer(hidden, &self.mlp_norm, self.place)
    }

    /// As [`Self::forward`], of chosen tokens alone.
    #[must_use]
    pub fn forward_at(&self, input: &Tokens, chosen: &Chosen, scope: Scope) -> Tokens {
        let (norm, place) = (&self.attention_norm, self.place);
        let hidden = self
            .attention
            .sub_layer_at(input, chosen, scope, norm, place);
        self.mlp.sub_layer(hidden, &self.mlp_norm, self.place)
    }
}

/// Chosen tokens after a stack of blocks, without computing what the last one gives for the others.
pub(crate) fn run(blocks: &[Block], input: Tokens, chosen: &Chosen, scope: Scope) -> Tokens {
    let Some((last, blocks)) = blocks.split_last() else {
        return input.choose(chosen);
    };
    let hidden = blocks
        .iter()
        .fold(input, |hidden, block| block.forward(hidden, scope));
    last.forward_at(&hidden, chosen, scope)
}

/// All tokens before the first block and after each one: one more than there are blocks.
pub(crate) fn run_all(blocks: &[Block], input: Tokens, scope: Scope) -> Vec<Tokens> {
    let mut all = vec![input];
    for block in blocks {
        all.extend(
            all.last()
                .cloned()
                .map(|hidden| block.forward(hidden, scope)),
        );
    }
    all
}
