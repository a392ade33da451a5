//! LXMERT: a text tower, a tower of regions, and layers in which each looks at the other.

use burn::module::Module;
use burn::tensor::Tensor;
use serde_json::{Value, json};

use super::Published;
use super::bert_family::{self, text_config};
use super::keys::Keys;
use super::pairs::PairError;
use crate::attention::Scope;
use crate::block::{self, Block, BlockConfig};
use crate::config::{RegionConfig, RegionPlace, TextConfig};
use crate::fusion::{CrossedLayer, Fused};
use crate::heads::Pooler;
use crate::kernels::Norm;
use crate::layers::Init;
use crate::names::{bert_names, layer_names};
use crate::regions::{RegionEmbedding, Regions};
use crate::text::{TextEncoder, TextInput};
use crate::tokens::Chosen;
use crate::weights::WeightError;

/// Heads of pre-training.
const HEADS: [&str; 3] = ["cls.", "obj_predict_head.", "answer_head."];

/// Numbers that say where a region is.
const BOX: usize = 4;

/// Sizes of an LXMERT.
#[derive(Clone, Debug, PartialEq)]
pub struct LxmertConfig {
    pub(super) text: TextConfig,
    pub(super) region_features: usize,
    pub(super) region_layers: usize,
    pub(super) cross_layers: usize,
}

/// The two towers and what joins them.
#[derive(Module, Debug)]
pub struct Lxmert {
    /// The text tower.
    pub text: TextEncoder,
    /// What the tower of regions reads.
    pub regions: RegionEmbedding,
    /// The tower of regions.
    pub region_layers: Vec<Block>,
    /// Both towers together.
    pub cross_layers: Vec<CrossedLayer>,
    /// Of the text's first token.
    pub pooler: Pooler,
}

impl Lxmert {
    /// Features of the words of every text and of the regions of its picture, which know each other.
    ///
    /// # Errors
    /// A text or regions that this model cannot take.
    pub fn forward(&self, texts: &TextInput, regions: &Regions) -> Result<Fused, PairError> {
        self.text.check(texts)?;
        regions.check(&texts.spans, self.regions.features.weight.dims()[0])?;
        let embedded = self.regions.forward(regions);
        let all = Chosen::whole(&embedded.spans, |_| true);
        let towers = Fused {
            text: self.text.forward(texts),
            image: block::run(&self.region_layers, embedded, &all, Scope::Whole),
            frames: 1,
        };
        let whole = || Scope::Whole.into();
        let layers = self.cross_layers.iter();
        Ok(layers.fold(towers, |streams, layer| {
            layer.forward(&streams, [[whole(), whole()], [whole(), whole()]])
        }))
    }

    /// One vector a pair, `[batch, width]`.
    ///
    /// # Errors
    /// A text or regions that this model cannot take.
    pub fn embed_pairs(
        &self,
        texts: &TextInput,
        regions: &Regions,
    ) -> Result<Tensor<2>, PairError> {
        let fused = self.forward(texts, regions)?;
        Ok(self.pooler.forward(fused.text_global()))
    }
}

impl Published for Lxmert {
    type Config = LxmertConfig;

    fn config(json: &Value) -> Result<Self::Config, WeightError> {
        let keys = Keys(json);
        keys.require_type("lxmert")?;
        keys.require("visual_pos_dim", &json!(BOX))?;
        let mut text = text_config(keys, keys.layers_or("l_layers", 9)?)?;
        // Not read from the file by the published code either.
        text.layer_norm_eps = 1e-12;
        Ok(LxmertConfig {
            text,
            region_features: keys.size("visual_feat_dim")?,
            region_layers: keys.layers_or("r_layers", 5)?,
            cross_layers: keys.layers_or("x_layers", 5)?,
        })
    }

    fn build(init: &Init, config: &Self::Config) -> Self {
        let text = &config.text;
        let (width, eps) = (text.hidden_size, text.layer_norm_eps);
        let block = BlockConfig {
            width,
            heads: text.num_heads,
            intermediate: text.intermediate_size,
            activation: text.activation,
            eps,
            dropout: text.dropout,
            place: Norm::After,
        };
        let regions = RegionConfig {
            features: config.region_features,
            place: RegionPlace::Averaged,
            layer_norm_eps: eps,
            dropout: text.dropout,
            ..RegionConfig::default()
        };
        let cross_layer = |_| CrossedLayer::new(init, &block);
        Self {
            text: TextEncoder::new(init, text),
            regions: RegionEmbedding::new(init, &regions, width),
            region_layers: Block::stack(init, config.region_layers, &block),
            cross_layers: (0..config.cross_layers).map(cross_layer).collect(),
            pooler: Pooler::new(init, width),
        }
    }

    fn canonical(found: &str) -> Option<String> {
        bert_family::canonical(found, &["lxmert.", "bert."], &HEADS)
    }

    fn names(ours: &str) -> Vec<String> {
        let Some((module, leaf)) = ours.rsplit_once('.') else {
            return Vec::new();
        };
        if let Some(rest) = module.strip_prefix("region_layers.") {
            return layer_names("encoder.r_layers.", rest, leaf);
        }
        if let Some(rest) = module.strip_prefix("cross_layers.") {
            return cross_layer_names(rest, leaf);
        }
        if let Some(rest) = module.strip_prefix("text.") {
            return bert_names("", rest, leaf);
        }
        let module = match module {
            "regions.features" => "encoder.visn_fc.visn_fc",
            "regions.norm" => "encoder.visn_fc.visn_layer_norm",
            "regions.geometry" => "encoder.visn_fc.box_fc",
            "regions.geometry_norm" => "encoder.visn_fc.box_layer_norm",
            module => module,
        };
        vec![format!("{module}.{leaf}")]
    }
}

/// `rest` is `index.part` of a layer in which text and regions meet.
fn cross_layer_names(rest: &str, leaf: &str) -> Vec<String> {
    let Some((index, part)) = rest.split_once('.') else {
        return Vec::new();
    };
    let parts: &[&str] = match part {
        "cross.query" => &["visual_attention.att.query"],
        "cross.kv" => &["visual_attention.att.key", "visual_attention.att.value"],
        "cross.out" => &["visual_attention.output.dense"],
        "cross_norm" => &["visual_attention.output.LayerNorm"],
        _ => {
            let (stream, part) = match part.split_once('.') {
                Some(("text", part)) => ("lang", part),
                Some(("image", part)) => ("visn", part),
                _ => return Vec::new(),
            };
            let parts: &[&str] = match part {
                "attention.qkv" => &[
                    "self_att.self.query",
                    "self_att.self.key",
                    "self_att.self.value",
                ],
                "attention.out" => &["self_att.output.dense"],
                "attention_norm" => &["self_att.output.LayerNorm"],
                "mlp.up" => &["inter.dense"],
                "mlp.down" => &["output.dense"],
                "mlp_norm" => &["output.LayerNorm"],
                _ => &[],
            };
            let name = |part| format!("encoder.x_layers.{index}.{stream}_{part}.{leaf}");
            return parts.iter().map(name).collect();
        }
    };
    let name = |part| format!("encoder.x_layers.{index}.{part}.{leaf}");
    parts.iter().map(name).collect()
}
