//! The text tower: embeddings and post-LN transformer layers (BERT, RoBERTa; `specs/scl.md`
//! section 1.2).

use std::sync::Arc;

use burn::module::Module;

use crate::attention::Scope;
use crate::block::{self, Block, BlockConfig};
use crate::compute::is_fused;
use crate::config::TextConfig;
use crate::dropout::next_site;
use crate::kernels::{self, Norm};
use crate::layers::{Embedding, Init, LayerNorm, drop_rows};
use crate::spans::Spans;
use crate::tokens::{Chosen, Tokens};

/// Token ids of a batch of texts, one text after another, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextInput {
    /// Ids of all texts, `[tokens]`.
    pub ids: Arc<[u32]>,
    /// Which of them belong to which text.
    pub spans: Spans,
    /// Row of the segment table for every token, `[tokens]`; none: row 0 for all.
    pub types: Option<Arc<[u32]>>,
}

/// A text that a model cannot take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// More tokens than there are positions.
    #[error("text {text} of the batch has {tokens} tokens, the model takes {limit} at most")]
    TooLong {
        /// Number of the text in its batch.
        text: usize,
        /// Its tokens.
        tokens: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// Nothing to read.
    #[error("text {text} of the batch has no tokens")]
    Empty {
        /// Number of the text in its batch.
        text: usize,
    },
    /// An id beyond the end of a table: the tokenizer belongs to another model.
    #[error("{what} id {id} is beyond the model's {rows}: is the tokenizer another model's?")]
    UnknownId {
        /// What the id is of: a token or a segment.
        what: &'static str,
        /// The id.
        id: u32,
        /// Rows of the model's table.
        rows: usize,
    },
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
            types: None,
        }
    }

    /// The same texts with a segment for every token, `[tokens]`.
    #[must_use]
    pub fn with_types(mut self, types: Arc<[u32]>) -> Self {
        debug_assert_eq!(types.len(), self.ids.len());
        self.types = Some(types);
        self
    }

    /// Refuses texts that a model with so many positions, words and segments cannot take.
    ///
    /// # Errors
    /// The first text that is empty or too long, or the first id without a row.
    pub fn check(&self, positions: usize, words: usize, segments: usize) -> Result<(), TextError> {
        for (text, tokens) in self.spans.lengths().enumerate() {
            if tokens == 0 {
                return Err(TextError::Empty { text });
            }
            if tokens > positions {
                return Err(TextError::TooLong {
                    text,
                    tokens,
                    limit: positions,
                });
            }
        }
        let types = self.types.as_deref().unwrap_or_default();
        for (what, ids, rows) in [("token", &*self.ids, words), ("segment", types, segments)] {
            if let Some(id) = ids.iter().copied().find(|id| *id as usize >= rows) {
                return Err(TextError::UnknownId { what, id, rows });
            }
        }
        Ok(())
    }

    /// The texts of all parts in one batch.
    #[must_use]
    pub fn cat(parts: &[&Self]) -> Self {
        let ids: Vec<&[u32]> = parts.iter().map(|part| &*part.ids).collect();
        let types = || {
            parts.iter().flat_map(|part| match &part.types {
                Some(types) => types.to_vec(),
                None => vec![0; part.ids.len()],
            })
        };
        let typed = parts.iter().any(|part| part.types.is_some());
        Self {
            ids: ids.concat().into(),
            types: typed.then(|| types().collect()),
            spans: Spans::concat(parts.iter().map(|part| &part.spans)),
        }
    }
}

/// Embeddings and layers.
#[derive(Module, Debug)]
pub struct TextEncoder {
    /// `[vocab, width]`.
    pub words: Embedding,
    /// `[max_text_len + position_offset, width]`.
    pub positions: Embedding,
    /// Segment table; row 0 is added where no other is asked for. `[segments, width]`.
    pub types: Embedding,
    /// After the sum of the three tables.
    pub norm: LayerNorm,
    /// The transformer.
    pub layers: Vec<Block>,
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
        let rows = config.position_table();
        let layer = BlockConfig {
            width,
            heads: config.num_heads,
            intermediate: config.intermediate_size,
            activation: config.activation,
            eps: config.layer_norm_eps,
            dropout: config.dropout,
            place: Norm::After,
        };
        Self {
            words: Embedding::new(init, config.vocab_size, width),
            positions: Embedding::new(init, rows, width),
            types: Embedding::new(init, config.type_rows, width),
            norm: LayerNorm::new(init, width, config.layer_norm_eps),
            layers: Block::stack(init, config.layers, &layer),
            dropout: config.dropout,
            position_offset: config.position_offset,
        }
    }

    /// Longest text in tokens.
    #[must_use]
    pub fn max_text_len(&self) -> usize {
        self.positions.weight.dims()[0] - self.position_offset
    }

    /// Refuses texts that this encoder cannot take.
    ///
    /// # Errors
    /// The first text that is empty or too long, or the first id without a row.
    pub fn check(&self, input: &TextInput) -> Result<(), TextError> {
        let [words, types] = [&self.words, &self.types].map(|table| table.weight.dims()[0]);
        input.check(self.max_text_len(), words, types)
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
                types: input.types.clone(),
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
        let types = match &input.types {
            Some(types) => self.types.forward(types),
            None => self.types.row(0),
        };
        let sum = self.words.forward(&input.ids) + self.positions.forward(&positions) + types;
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
        block::run(&self.layers, self.embed(input), chosen, Scope::Whole)
    }

    /// What [`Self::embed`] gives, and what every layer makes of it.
    #[must_use]
    pub fn forward_all(&self, input: &TextInput) -> Vec<Tokens> {
        block::run_all(&self.layers, self.embed(input), Scope::Whole)
    }
}
