//! VisualBERT, LXMERT and ViLT as models of our own, to be trained: what [`super::visual_bert`],
//! [`super::lxmert`] and [`super::vilt`] compute as they are published, in the parts that all our models
//! are made of.
//!
//! What is added to every region or patch of a picture, and to every word, is one row here and two or three
//! there: it is folded into a bias or a table. The results are the same.

use super::lxmert::{Lxmert, LxmertConfig};
use super::positions::{self, Resampling};
use super::rosita::filled;
use super::vilt::{Vilt, ViltConfig};
use super::visual_bert::{VisualBert, VisualBertConfig};
use super::vit::Vit;
use super::{Published, Reshaped, canonical};
use crate::VisionLanguageModel;
use crate::config::{
    FusionConfig, FusionKind, ModelConfig, NormPlace, RegionConfig, RegionPlace, TextConfig,
};
use crate::names::{bert_names, layer_names};
use crate::published::family::{Family, recognise};
use crate::weights::{HostTensor, LoadReport, StateDict, WeightError};

/// Table of word positions.
const LENGTH: [&str; 2] = [
    "embeddings.position_embeddings.weight",
    "embeddings.text_embeddings.position_embeddings.weight",
];

/// Table of patch positions.
const GRID: &str = "embeddings.position_embeddings";

/// The family of models of pairs that the names of a file are of.
#[must_use]
pub fn family(found: &StateDict) -> Option<Family> {
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    recognise(&names, None)
        .filter(|family| matches!(family, Family::VisualBert | Family::Lxmert | Family::Vilt))
}

/// The sizes of our model for a published `config.json`; without heads, and dropout as it is in ours.
///
/// # Errors
/// A family that is none of the three, or a key with a value that cannot be built, named.
pub fn sizes(family: Family, json: &serde_json::Value) -> Result<ModelConfig, WeightError> {
    let mut config = ModelConfig::default();
    let heads = &mut config.heads;
    (heads.contrastive, heads.matching, heads.mlm) = (false, false, false);
    match family {
        Family::VisualBert => {
            let theirs = VisualBert::config(json)?;
            let VisualBertConfig {
                text,
                region_features,
            } = theirs;
            config.fusion = fusion(&text, FusionKind::OneStream, text.layers);
            config.regions = Some(regions(&text, region_features, RegionPlace::Unused, 0));
            config.text = TextConfig { layers: 0, ..text };
        }
        Family::Lxmert => {
            let LxmertConfig {
                text,
                region_features,
                region_layers,
                cross_layers,
            } = Lxmert::config(json)?;
            config.fusion = fusion(&text, FusionKind::Crossed, cross_layers);
            let place = RegionPlace::Averaged;
            config.regions = Some(regions(&text, region_features, place, region_layers));
            config.text = text;
        }
        Family::Vilt => {
            let ViltConfig { text, vision, .. } = Vilt::config(json)?;
            config.fusion = FusionConfig {
                norm: NormPlace::Before,
                ..fusion(&text, FusionKind::OneStream, vision.layers)
            };
            config.vision = vision;
            config.vision.layers = 0;
            config.text = text;
        }
        other => {
            let problem = format!("{} is no model of pairs", other.name());
            return Err(WeightError::Config(problem));
        }
    }
    config.vision.hidden_size = config.text.hidden_size;
    Ok(config)
}

/// A fusion encoder of the sizes of a text tower's layers.
fn fusion(text: &TextConfig, kind: FusionKind, layers: usize) -> FusionConfig {
    FusionConfig {
        kind,
        hidden_size: text.hidden_size,
        layers,
        num_heads: text.num_heads,
        intermediate_size: text.intermediate_size,
        layer_norm_eps: text.layer_norm_eps,
        dropout: text.dropout,
        ..FusionConfig::default()
    }
}

fn regions(text: &TextConfig, features: usize, place: RegionPlace, layers: usize) -> RegionConfig {
    RegionConfig {
        features,
        place,
        layers,
        layer_norm_eps: text.layer_norm_eps,
        dropout: text.dropout,
        ..RegionConfig::default()
    }
}

/// Fills a model from a file of one of the three families; what it lacks keeps its value. Missing are
/// parameters that such files have: heads of ours are not.
///
/// # Errors
/// A tensor of another shape, or a family that is none of the three.
pub fn fill(
    family: Family,
    model: VisionLanguageModel,
    config: &ModelConfig,
    found: StateDict,
) -> Result<(VisionLanguageModel, LoadReport), WeightError> {
    let (mut state, ignored) = match family {
        Family::VisualBert => canonical::<VisualBert>(found),
        Family::Lxmert => canonical::<Lxmert>(found),
        _ => canonical::<Vilt>(found),
    };
    let names: fn(&str) -> Vec<String> = match family {
        Family::VisualBert => {
            fold_regions(&mut state);
            visual_bert
        }
        Family::Lxmert => lxmert,
        _ => {
            fold_modalities(&mut state);
            vilt
        }
    };
    let reshaped = fit_positions(config, &mut state)?;
    let (model, mut report) = filled(model, state, ignored, names)?;
    // Heads of ours are in no such file.
    report.missing.retain(|name| !names(name).is_empty());
    Ok((model, LoadReport { reshaped, ..report }))
}

/// Longer or shorter texts, larger or smaller pictures than the file's.
fn fit_positions(
    config: &ModelConfig,
    state: &mut StateDict,
) -> Result<Vec<Reshaped>, WeightError> {
    let mut reshaped = Vec::new();
    let length = config.text.position_table();
    for name in LENGTH {
        reshaped.extend(positions::fit_length(state, name, 0, length)?);
    }
    if config.regions.is_none() {
        let how = Resampling::default();
        reshaped.extend(positions::fit_grid(state, GRID, &config.vision, how)?);
    }
    Ok(reshaped)
}

/// VisualBERT adds a row of positions and one of types to every region, and has one norm for words and
/// regions: the rows become a part of the bias, the norm is there twice.
fn fold_regions(state: &mut StateDict) {
    for (table, row) in [
        ("embeddings.visual_position_embeddings.weight", 0),
        ("embeddings.visual_token_type_embeddings.weight", 1),
    ] {
        let Some(added) = state.remove(table).and_then(|table| row_of(&table, row)) else {
            continue;
        };
        add(state, "embeddings.visual_projection.bias", &added);
    }
    for leaf in ["weight", "bias"] {
        if let Some(norm) = state.get(&format!("embeddings.LayerNorm.{leaf}")).cloned() {
            state.insert(format!("regions.norm.{leaf}"), norm);
        }
    }
}

/// ViLT adds a row to every word behind the words' norm, and one to every patch.
fn fold_modalities(state: &mut StateDict) {
    let Some(table) = state.remove("embeddings.token_type_embeddings.weight") else {
        return;
    };
    for (row, name) in [(0, "embeddings.text_embeddings.LayerNorm.bias"), (1, GRID)] {
        if let Some(added) = row_of(&table, row) {
            add(state, name, &added);
        }
    }
}

fn row_of(table: &HostTensor, row: usize) -> Option<Vec<f32>> {
    let width = *table.shape.last()?;
    let row = table.values.get(row * width..(row + 1) * width)?;
    Some(row.to_vec())
}

/// Adds a row to every row of a tensor.
fn add(state: &mut StateDict, name: &str, row: &[f32]) {
    let Some(tensor) = state.get_mut(name) else {
        return;
    };
    if row.is_empty() || tensor.shape.last() != Some(&row.len()) {
        return;
    }
    for values in tensor.values.chunks_exact_mut(row.len()) {
        for (value, added) in values.iter_mut().zip(row) {
            *value += added;
        }
    }
}

/// VisualBERT's names of one of our parameters.
fn visual_bert(ours: &str) -> Vec<String> {
    let Some((module, leaf)) = ours.rsplit_once('.') else {
        return Vec::new();
    };
    if let Some(rest) = module.strip_prefix("fusion.joint_layers.") {
        return layer_names("encoder.layer.", rest, leaf);
    }
    if let Some(rest) = module.strip_prefix("text.") {
        return bert_names("", rest, leaf);
    }
    let name = match module {
        "regions.features" => "embeddings.visual_projection",
        "regions.norm" => "regions.norm",
        "text_pooler.dense" => "pooler.dense",
        _ => return Vec::new(),
    };
    vec![format!("{name}.{leaf}")]
}

/// LXMERT's names of one of our parameters.
fn lxmert(ours: &str) -> Vec<String> {
    let theirs = [
        ("fusion.crossed_layers.", "cross_layers."),
        ("text_pooler.", "pooler."),
        ("text.", "text."),
        ("regions.", "regions."),
        ("region_layers.", "region_layers."),
    ];
    let theirs = theirs
        .iter()
        .find_map(|(ours_of, theirs)| Some(format!("{theirs}{}", ours.strip_prefix(ours_of)?)));
    theirs.map_or_else(Vec::new, |theirs| Lxmert::names(&theirs))
}

/// ViLT's names of one of our parameters.
fn vilt(ours: &str) -> Vec<String> {
    if let Some(rest) = ours.strip_prefix("fusion.joint_layers.") {
        return Vit::names(&format!("encoder.blocks.{rest}"));
    }
    if let Some(leaf) = ours.strip_prefix("fusion.norm.") {
        return Vit::names(&format!("encoder.norm_post.{leaf}"));
    }
    let theirs = match ours.strip_prefix("text_pooler.") {
        Some(rest) => format!("pooler.{rest}"),
        None if ours.starts_with("text.") || ours.starts_with("vision.") => ours.to_owned(),
        None => return Vec::new(),
    };
    Vilt::names(&theirs)
}
