//! VisualBERT: BERT over the words of a text and, after them, the regions of its picture.

use burn::module::Module;
use burn::tensor::Tensor;
use serde_json::Value;

use super::Published;
use super::bert_family::{self, text_config};
use super::keys::Keys;
use super::pairs::PairError;
use crate::attention::Scope;
use crate::block;
use crate::config::TextConfig;
use crate::heads::Pooler;
use crate::layers::{Embedding, Init, Linear};
use crate::names::bert_names;
use crate::regions::Regions;
use crate::text::{TextEncoder, TextInput};
use crate::tokens::{Chosen, Tokens};
use crate::weights::WeightError;

/// Heads of tasks; `attention.` is that of regions to phrases.
const HEADS: [&str; 3] = ["cls.", "classifier.", "attention."];

/// Sizes of a VisualBERT.
#[derive(Clone, Debug, PartialEq)]
pub struct VisualBertConfig {
    pub(super) text: TextConfig,
    pub(super) region_features: usize,
}

/// BERT with regions.
#[derive(Module, Debug)]
pub struct VisualBert {
    /// Tables of the text, and the layers and the norm that text and regions share.
    pub text: TextEncoder,
    /// A region's features to the width of a token.
    pub regions: Linear,
    /// Row 0 is added to every region; the others are of tasks that align regions with words.
    pub region_positions: Embedding,
    /// Row 1 is added to every region.
    pub region_types: Embedding,
    /// Of the text's first token.
    pub pooler: Pooler,
}

impl VisualBert {
    /// Features of the words of every text and, after them, of the regions of its picture.
    ///
    /// # Errors
    /// A text or regions that this model cannot take.
    pub fn forward(
        &self,
        texts: &TextInput,
        regions: Option<&Regions>,
    ) -> Result<Tokens, PairError> {
        let embedded = self.embed(texts, regions)?;
        let all = Chosen::whole(&embedded.spans, |_| true);
        Ok(block::run(&self.text.layers, embedded, &all, Scope::Whole))
    }

    /// One vector a pair, `[batch, width]`; of the text alone without regions.
    ///
    /// # Errors
    /// A text or regions that this model cannot take.
    pub fn embed_pairs(
        &self,
        texts: &TextInput,
        regions: Option<&Regions>,
    ) -> Result<Tensor<2>, PairError> {
        let embedded = self.embed(texts, regions)?;
        let first = Chosen::first(&embedded.spans);
        let hidden = block::run(&self.text.layers, embedded, &first, Scope::Whole);
        Ok(self.pooler.forward(hidden.first()))
    }

    fn embed(&self, texts: &TextInput, regions: Option<&Regions>) -> Result<Tokens, PairError> {
        self.text.check(texts)?;
        let embedded = self.text.embed(texts);
        let Some(regions) = regions else {
            return Ok(embedded);
        };
        regions.check(&texts.spans, self.regions.weight.dims()[0])?;
        let features = &regions.features;
        let rows = self.regions.forward(features.rows.clone())
            + self.region_positions.row(0)
            + self.region_types.row(1);
        // The norm after the sum is one for both, and works token by token.
        let regions = features.with_rows(self.text.norm.forward(rows));
        Ok(embedded.followed_by(&regions))
    }
}

impl Published for VisualBert {
    type Config = VisualBertConfig;

    fn config(json: &Value) -> Result<Self::Config, WeightError> {
        let keys = Keys(json);
        keys.require_type("visual_bert")?;
        // Two stacks of layers, of which only the first sees both: no published weights are so.
        keys.require_off("bypass_transformer")?;
        let text = text_config(keys, keys.layers_or("num_hidden_layers", 12)?)?;
        if text.type_rows < 2 {
            return Err(keys.refused("type_vocab_size", "a second row, for regions,"));
        }
        Ok(VisualBertConfig {
            text,
            region_features: keys.size("visual_embedding_dim")?,
        })
    }

    fn build(init: &Init, config: &Self::Config) -> Self {
        let text = &config.text;
        let width = text.hidden_size;
        Self {
            text: TextEncoder::new(init, text),
            regions: Linear::new(init, config.region_features, width),
            region_positions: Embedding::new(init, text.max_text_len, width),
            region_types: Embedding::new(init, text.type_rows, width),
            pooler: Pooler::new(init, width),
        }
    }

    fn canonical(found: &str) -> Option<String> {
        // Files of the authors wrap the model twice, and call the regions' tables the other way round.
        let prefixes = ["visual_bert.", "bert.bert.", "bert."];
        let name = bert_family::canonical(found, &prefixes, &HEADS)?;
        let today = [
            ("embeddings.projection.", "embeddings.visual_projection."),
            (
                "embeddings.token_type_embeddings_visual.",
                "embeddings.visual_token_type_embeddings.",
            ),
            (
                "embeddings.position_embeddings_visual.",
                "embeddings.visual_position_embeddings.",
            ),
        ];
        let renamed = today
            .iter()
            .find_map(|(old, new)| name.strip_prefix(old).map(|leaf| format!("{new}{leaf}")));
        Some(renamed.unwrap_or(name))
    }

    fn names(ours: &str) -> Vec<String> {
        let Some((module, leaf)) = ours.rsplit_once('.') else {
            return Vec::new();
        };
        if let Some(rest) = module.strip_prefix("text.") {
            return bert_names("", rest, leaf);
        }
        let module = match module {
            "regions" => "embeddings.visual_projection",
            "region_positions" => "embeddings.visual_position_embeddings",
            "region_types" => "embeddings.visual_token_type_embeddings",
            module => module,
        };
        vec![format!("{module}.{leaf}")]
    }
}
