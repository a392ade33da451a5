//! The text tower: embeddings and post-LN transformer layers (BERT, RoBERTa; `specs/scl.md`
//! section 1.2).

use std::sync::Arc;

use burn::module::Module;

use crate::attention::SelfAttention;
use crate::compute::is_fused;
use crate::config::{Activation, TextConfig};
use crate::dropout::next_site;
use crate::kernels::{self, Norm};
use crate::layers::{Embedding, FeedForward, Init, LayerNorm, drop_rows};
use crate::spans::Spans;
use crate::tokens::{Chosen, Tokens};

/// Token ids of a batch of texts, one text after another, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextInput {
    /// Ids of all texts, `[tokens]`.
    pub ids: Arc<[u32]>,
    /// Which of them belong to which text.
    pub spans: Spans,
}

impl TextInput {
    /// From texts padded to `len` tokens: what `attention_mask` marks with 1 stays.
    ///
    /// # Shapes
    /// - input_ids and attention_mask: `[batch, len]`, row after row; ids are a tokenizer's, so
    ///   none is negative
    #[must_use]
    pub fn from_padded(input_ids: &[i64], attention_mask: &[i64], len: usize) -> Self {
        let rows = || {
            let len = len.max(1);
            input_ids
                .chunks_exact(len)
                .zip(attention_mask.chunks_exact(len))
        };
        let real = |(ids, mask): (&[i64], &[i64])| {
            let pairs = ids.iter().zip(mask).filter(|(_, keep)| **keep == 1);
            pairs
                .map(|(id, _)| u32::try_from(*id).unwrap_or(0))
                .collect::<Vec<_>>()
        };
        let texts: Vec<Vec<u32>> = rows().map(real).collect();
        Self {
            spans: Spans::new(texts.iter().map(Vec::len)),
            ids: texts.concat().into(),
        }
    }

    /// The texts of all parts in one batch.
    #[must_use]
    pub fn cat(parts: &[&Self]) -> Self {
        let ids: Vec<&[u32]> = parts.iter().map(|part| &*part.ids).collect();
        Self {
            ids: ids.concat().into(),
            spans: Spans::concat(parts.iter().map(|part| &part.spans)),
        }
    }
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
}

impl TextLayer {
    fn new(init: &Init, config: &TextConfig) -> Self {
        let width = config.hidden_size;
        Self {
            attention: SelfAttention::new(init, width, config.num_heads, config.dropout),
            attention_norm: LayerNorm::new(init, width, config.layer_norm_eps),
            mlp: FeedForward::new(
                init,
                width,
                config.intermediate_size,
                Activation::Gelu,
                config.dropout,
            ),
            mlp_norm: LayerNorm::new(init, width, config.layer_norm_eps),
        }
    }

    /// The texts after one more layer.
    #[must_use]
    pub fn forward(&self, input: Tokens) -> Tokens {
        let hidden = self
            .attention
            .sub_layer(input, &self.attention_norm, Norm::After);
        self.mlp.sub_layer(hidden, &self.mlp_norm, Norm::After)
    }

    /// As [`Self::forward`], of chosen tokens alone.
    #[must_use]
    pub fn forward_at(&self, input: &Tokens, chosen: &Chosen) -> Tokens {
        let norm = &self.attention_norm;
        let hidden = self
            .attention
            .sub_layer_at(input, chosen, norm, Norm::After);
        self.mlp.sub_layer(hidden, &self.mlp_norm, Norm::After)
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
    #[module(skip)]
    dropout: f64,
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
            dropout: config.dropout,
            position_offset: config.position_offset,
        }
    }

    /// Sum of word, position and type rows, normalised.
    ///
    /// Token k of a text gets position row `offset + k`: padding takes no position, as in RoBERTa.
    #[must_use]
    pub fn embed(&self, input: &TextInput) -> Tokens {
        let words = self.words.weight.val();
        let device = words.device();
        let [_, width] = words.dims();
        let dropout = next_site(self.dropout, &device);
        let positions = input.spans.lengths().flat_map(|len| 0..len);
        let positions: Arc<[u32]> = positions
            .map(|at| (self.position_offset + at) as u32)
            .collect();
        let spans = input.spans.clone();
        if is_fused(&device) {
            let shape = [spans.tokens(), width];
            let operation = kernels::Embed {
                ids: Arc::clone(&input.ids),
                positions,
                width,
                eps: self.norm.eps(),
                dropout,
            };
            let [gain, bias] = self.norm.operands();
            let table = |embedding: &Embedding| embedding.weight.val().into_dispatch();
            let (positions, types) = (table(&self.positions), table(&self.types));
            let inputs = [words.into_dispatch(), positions, types, gain, bias];
            let rows = kernels::apply(operation, inputs, shape);
            return Tokens { rows, spans };
        }
        let sum =
            self.words.forward(&input.ids) + self.positions.forward(&positions) + self.types.row(0);
        let rows = drop_rows(dropout.as_ref(), self.norm.forward(sum));
        Tokens { rows, spans }
    }

    /// Embeds the texts and runs them through all layers.
    #[must_use]
    pub fn forward(&self, input: &TextInput) -> Tokens {
        self.forward_at(input, &Chosen::whole(&input.spans, |_| true))
    }

    /// Some tokens as [`Self::forward`] gives them, without computing what the last layer gives for
    /// the others.
    #[must_use]
    pub fn forward_at(&self, input: &TextInput, chosen: &Chosen) -> Tokens {
        let embedded = self.embed(input);
        let Some((last, layers)) = self.layers.split_last() else {
            return embedded.choose(chosen);
        };
        let hidden = layers
            .iter()
            .fold(embedded, |hidden, layer| layer.forward(hidden));
        last.forward_at(&hidden, chosen)
    }
}
