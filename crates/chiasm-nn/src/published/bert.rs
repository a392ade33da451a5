//! BERT and RoBERTa, the models of most sentence encoders: our text tower and a pooler.
//!
//! The two differ in their first position (RoBERTa begins after the padding id) and in the number
//! of segments; their parameters have the same names behind `bert.` or `roberta.`.

use burn::module::Module;
use burn::tensor::Tensor;
use serde_json::{Value, json};

use super::bert_family::{self, text_config};
use super::keys::Keys;
use super::{Published, Reshaped, positions};
use crate::config::TextConfig;
use crate::heads::Pooler;
use crate::layers::Init;
use crate::names::bert_names;
use crate::text::{TextEncoder, TextInput};
use crate::tokens::Tokens;
use crate::weights::{StateDict, WeightError};

/// Sizes and switches.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// The tower.
    pub encoder: TextConfig,
    /// Whether there is a pooler; the weights decide.
    pub pooler: bool,
}

/// The text tower with its pooler.
#[derive(Module, Debug)]
pub struct Bert {
    /// Embeddings and layers.
    pub encoder: TextEncoder,
    /// Linear map and tanh of the first token.
    pub pooler: Option<Pooler>,
}

impl Bert {
    /// Last hidden state of every token.
    #[must_use]
    pub fn forward(&self, input: &TextInput) -> Tokens {
        self.encoder.forward(input)
    }

    /// The pooler's summary of encoded texts, `[batch, width]`, where there is a pooler.
    #[must_use]
    pub fn pooled(&self, encoded: &Tokens) -> Option<Tensor<2>> {
        let pooler = self.pooler.as_ref()?;
        Some(pooler.forward(encoded.first()))
    }
}

const POSITIONS: &str = "embeddings.position_embeddings.weight";

/// What task models and wrappers put in front of every name.
const PREFIXES: [&str; 5] = [
    "0.auto_model.",
    "auto_model.",
    "bert.",
    "roberta.",
    "camembert.",
];

/// Heads of tasks.
const HEADS: [&str; 4] = ["cls.", "lm_head.", "classifier.", "qa_outputs."];

impl Published for Bert {
    type Config = BertConfig;

    fn config(json: &Value) -> Result<BertConfig, WeightError> {
        let keys = Keys(json);
        let offset = match keys.text("model_type") {
            None | Some("bert") => 0,
            // The position of the first token is the one after that of padding.
            Some("roberta" | "xlm-roberta" | "camembert") => {
                keys.id_or("pad_token_id", 1)?.saturating_add(1) as usize
            }
            Some(_) => return Err(keys.refused("model_type", "BERT or RoBERTa")),
        };
        keys.require("position_embedding_type", &json!("absolute"))?;
        keys.require_off("is_decoder")?;
        let mut encoder = text_config(keys, keys.layers_or("num_hidden_layers", 12)?)?;
        encoder.position_offset = offset;
        encoder.max_text_len = encoder
            .max_text_len
            .checked_sub(offset)
            .filter(|len| *len > 0)
            .ok_or_else(|| keys.refused("max_position_embeddings", "room for a text"))?;
        Ok(BertConfig {
            encoder,
            pooler: true,
        })
    }

    fn build(init: &Init, config: &BertConfig) -> Self {
        Self {
            encoder: TextEncoder::new(init, &config.encoder),
            pooler: config
                .pooler
                .then(|| Pooler::new(init, config.encoder.hidden_size)),
        }
    }

    fn canonical(found: &str) -> Option<String> {
        bert_family::canonical(found, &PREFIXES, &HEADS)
    }

    fn names(ours: &str) -> Vec<String> {
        let Some((module, leaf)) = ours.rsplit_once('.') else {
            return Vec::new();
        };
        match module.strip_prefix("encoder.") {
            Some(rest) => bert_names("", rest, leaf),
            None => vec![ours.to_owned()],
        }
    }

    fn fit(config: &mut BertConfig, found: &StateDict) {
        config.pooler = found.contains_key("pooler.dense.weight");
    }

    fn adapt(config: &BertConfig, state: &mut StateDict) -> Result<Vec<Reshaped>, WeightError> {
        let offset = config.encoder.position_offset;
        let length = config.encoder.position_table().saturating_sub(offset);
        positions::fit_length(state, POSITIONS, offset, length)
    }
}
