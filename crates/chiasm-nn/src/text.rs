//! The text tower: embeddings and post-LN transformer layers (BERT, RoBERTa; `specs/scl.md`
//! section 1.2).

use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::{Int, Tensor};

use crate::attention::{KeyBias, SelfAttention, drop, dropout_layer};
use crate::config::{Activation, TextConfig};
use crate::layers::{Embedding, FeedForward, Init, LayerNorm};

/// Token ids of a batch of texts.
#[derive(Clone, Debug)]
pub struct TextInput {
    /// `[batch, len]`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, len]`, 1 = a real token.
    pub attention_mask: Tensor<2, Int>,
}

/// One post-LN layer: self-attention, then feed-forward, each with residual and LayerNorm.
#[derive(Module, Debug)]
pub struct TextLayer {
    /// Attention of the text to itself.
    pub attention: SelfAttention,
    /// After the attention's residual.
    pub attention_norm: LayerNorm,
    /// Position-wise sub-layer.
    pub mlp: FeedForward,
    /// After the feed-forward's residual.
    pub mlp_norm: LayerNorm,
    dropout: Option<Dropout>,
}

impl TextLayer {
    fn new(init: &Init, config: &TextConfig) -> Self {
        let width = config.hidden_size;
        Self {
            attention: SelfAttention::new(init, width, config.num_heads, config.dropout),
            attention_norm: LayerNorm::new(init, width, config.layer_norm_eps),
            mlp: FeedForward::new(init, width, config.intermediate_size, Activation::Gelu),
            mlp_norm: LayerNorm::new(init, width, config.layer_norm_eps),
            dropout: dropout_layer(config.dropout),
        }
    }

    /// # Shapes
    /// - input and output: `[batch, len, width]`
    #[must_use]
    pub fn forward(&self, input: Tensor<3>, bias: &KeyBias) -> Tensor<3> {
        let attended = self.attention.forward(input.clone(), Some(bias));
        let attended = drop(self.dropout.as_ref(), attended);
        let hidden = self.attention_norm.forward(input + attended);
        let mixed = drop(self.dropout.as_ref(), self.mlp.forward(hidden.clone()));
        self.mlp_norm.forward(hidden + mixed)
    }
}

/// Embeddings and layers.
#[derive(Module, Debug)]
pub struct TextEncoder {
    /// `[vocab, width]`.
    pub words: Embedding,
    /// `[max_text_len + position_offset, width]`.
    pub positions: Embedding,
    /// Segment table; one row, always added. `[1, width]`.
    pub types: Embedding,
    /// After the sum of the three tables.
    pub norm: LayerNorm,
    /// The transformer.
    pub layers: Vec<TextLayer>,
    dropout: Option<Dropout>,
    #[module(skip)]
    position_offset: usize,
}

impl TextEncoder {
    /// Builds the tower with fresh weights.
    #[must_use]
    pub fn new(init: &Init, config: &TextConfig) -> Self {
        let width = config.hidden_size;
        let rows = config.max_text_len + config.position_offset;
        Self {
            words: Embedding::new(init, config.vocab_size, width),
            positions: Embedding::new(init, rows, width),
            types: Embedding::new(init, 1, width),
            norm: LayerNorm::new(init, width, config.layer_norm_eps),
            layers: (0..config.layers)
                .map(|_| TextLayer::new(init, config))
                .collect(),
            dropout: dropout_layer(config.dropout),
            position_offset: config.position_offset,
        }
    }

    /// Sum of word, position and type rows, normalised.
    ///
    /// Positions count real tokens, so that padding takes none: token k of a text gets row
    /// `offset + k`, padding gets row `offset - 1` (RoBERTa's padding row) or 0.
    ///
    /// # Shapes
    /// - output: `[batch, len, width]`
    #[must_use]
    pub fn embed(&self, input: &TextInput) -> Tensor<3> {
        let mask = input.attention_mask.clone();
        let rows = mask.clone().cumsum(1) * mask;
        let rows = match self.position_offset {
            0 => rows.sub_scalar(1).mul(input.attention_mask.clone()),
            offset => rows.add_scalar(offset as i64 - 1),
        };
        let sum = self.words.forward(input.input_ids.clone())
            + self.positions.forward(rows)
            + self.types.row(0);
        drop(self.dropout.as_ref(), self.norm.forward(sum))
    }

    /// # Shapes
    /// - output: `[batch, len, width]`
    #[must_use]
    pub fn forward(&self, input: &TextInput) -> Tensor<3> {
        let bias = KeyBias::from_mask(input.attention_mask.clone());
        self.layers.iter().fold(self.embed(input), |hidden, layer| {
            layer.forward(hidden, &bias)
        })
    }
}
