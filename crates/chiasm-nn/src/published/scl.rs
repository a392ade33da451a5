//! SCL: the model of this crate itself, by the names of the published checkpoints and by our own.
//!
//! A published checkpoint has no configuration; all sizes but the number of heads, which is a head a
//! 64 features, are those of its tensors ([`infer`]).

use serde_json::Value;

use super::positions::{self, Resampling};
use super::{Published, Reshaped, count_layers, shapes_by};
use crate::config::ModelConfig;
use crate::layers::Init;
use crate::model::VisionLanguageModel;
use crate::names;
use crate::weights::{Shapes, StateDict, WeightError};

/// `model_type` of the configuration of our own models.
pub const MODEL_TYPE: &str = "chiasm";

/// Key of a configuration with the names of the classes by number, `{"0": "no", "1": "yes"}`.
pub const CLASSES: &str = "id2label";

/// The names of the classes that a configuration has, by number; empty where it has none.
#[must_use]
pub fn classes(json: &Value) -> Vec<String> {
    let Some(names) = json.get(CLASSES).and_then(Value::as_object) else {
        return Vec::new();
    };
    let name = |class: usize| names.get(&class.to_string())?.as_str().map(str::to_owned);
    (0..names.len()).map_while(name).collect()
}

/// Features of a head in the published models.
const HEAD: usize = 64;

/// Table of patch positions, published and ours.
const GRID: [&str; 2] = [
    "vision_transformer.visual.positional_embedding",
    "vision.positions",
];

/// Table of frame positions, published and ours.
const TIME: [&str; 2] = [
    "vision_transformer.visual.temporal_embed",
    "vision.temporal",
];

/// Table of token types, published and ours.
const TYPES: [&str; 2] = ["token_type_embeddings.weight", "token_types.weight"];

/// Table of word positions, published and ours.
const LENGTH: [&str; 2] = [
    "text_transformer.embeddings.position_embeddings.weight",
    "text.positions.weight",
];

/// A configuration as the `config.json` of a model folder: its sizes, and what kind of model it is.
///
/// # Errors
/// If the values cannot be written as JSON.
pub fn to_json(config: &ModelConfig) -> Result<Value, WeightError> {
    let mut json =
        serde_json::to_value(config).map_err(|error| WeightError::Config(error.to_string()))?;
    if let Some(object) = json.as_object_mut() {
        object.insert("model_type".to_owned(), MODEL_TYPE.into());
    }
    Ok(json)
}

/// Reads what [`to_json`] gives; folders from before it said its `model_type` are read as well.
///
/// # Errors
/// Another kind of model, or a key that is missing, unknown or out of range.
pub fn from_json(json: &Value) -> Result<ModelConfig, WeightError> {
    let mut json = json.clone();
    let mut take = |key| json.as_object_mut().and_then(|object| object.remove(key));
    take(CLASSES);
    if let Some(kind) = take("model_type")
        && kind != MODEL_TYPE
    {
        return Err(WeightError::Config(format!(
            "`model_type` is {kind}, expected \"{MODEL_TYPE}\""
        )));
    }
    let config: ModelConfig =
        serde_json::from_value(json).map_err(|error| WeightError::Config(error.to_string()))?;
    config
        .validate()
        .map_err(|error| WeightError::Config(error.to_string()))?;
    Ok(config)
}

/// The sizes of a published checkpoint, from the shapes of its tensors.
///
/// # Errors
/// A tensor that tells a size is missing or has another number of axes.
pub fn infer(found: &StateDict) -> Result<ModelConfig, WeightError> {
    let names = shapes_by::<VisionLanguageModel>(found);
    let shape = |name: &str, axes: usize| -> Result<&[usize], WeightError> {
        names
            .get(name)
            .map(Vec::as_slice)
            .filter(|shape| shape.len() == axes && shape.iter().all(|size| *size > 0))
            .ok_or_else(|| {
                WeightError::Config(format!("`{name}` with {axes} axes does not tell the sizes"))
            })
    };
    let count = |prefix: &str| count_layers(&names, prefix);
    let mut config = ModelConfig::default();
    let words = shape("text_transformer.embeddings.word_embeddings.weight", 2)?;
    let text = &mut config.text;
    (text.vocab_size, text.hidden_size) = (words[0], words[1]);
    text.max_text_len = shape(LENGTH[0], 2)?[0].saturating_sub(text.position_offset);
    text.type_rows = shape(
        "text_transformer.embeddings.token_type_embeddings.weight",
        2,
    )?[0];
    text.layers = count("text_transformer.encoder.layer.");
    text.num_heads = text.hidden_size / HEAD;
    let up = "text_transformer.encoder.layer.0.intermediate.dense.weight";
    text.intermediate_size = shape(up, 2)?[0];

    let vision = &mut config.vision;
    let patches = shape("vision_transformer.visual.conv1.weight", 4)?;
    (vision.hidden_size, vision.patch_size) = (patches[0], patches[2]);
    let rows = shape(GRID[0], 2)?[0];
    vision.image_size = rows.saturating_sub(1).isqrt() * vision.patch_size;
    if let Some([.., frames, _]) = names.get(TIME[0]).map(Vec::as_slice) {
        vision.max_frames = *frames;
    }
    vision.mask_token = names.contains_key("vision_transformer.visual.visual_mask_token");
    vision.layers = count("vision_transformer.visual.transformer.resblocks.");
    vision.num_heads = vision.hidden_size / HEAD;
    let up = "vision_transformer.visual.transformer.resblocks.0.mlp.c_fc.weight";
    vision.intermediate_size = shape(up, 2)?[0];

    let fusion = &mut config.fusion;
    fusion.hidden_size = shape("cross_modal_text_transform.weight", 2)?[0];
    fusion.layers = count("cross_modal_text_layers.");
    fusion.num_heads = fusion.hidden_size / HEAD;
    fusion.intermediate_size = shape("cross_modal_text_layers.0.intermediate.dense.weight", 2)?[0];
    fusion.type_rows = shape(TYPES[0], 2)?[0];
    if let Some([classes]) = names.get("classifier.3.bias").map(Vec::as_slice) {
        let inner = shape("classifier.0.weight", 2)?;
        (config.heads.classes, config.heads.pictures) = (*classes, inner[1] / inner[0]);
    }
    config.heads.ranking = names.contains_key("rank_output.weight");
    config.projection_size = shape("language_proj.3.weight", 2)?[0];
    config
        .validate()
        .map_err(|error| WeightError::Config(error.to_string()))?;
    Ok(config)
}

/// Fits the tables of positions and of token types of a state dict, by published names or ours, to
/// other sizes. Types of further pictures begin as the first picture's (NLVR2, `specs/scl.md`
/// section 1.5).
///
/// # Errors
/// A table that cannot be given the size.
pub fn fit_positions(
    config: &ModelConfig,
    state: &mut StateDict,
) -> Result<Vec<Reshaped>, WeightError> {
    let mut reshaped = Vec::new();
    for name in GRID {
        let how = Resampling::default();
        reshaped.extend(positions::fit_grid(state, name, &config.vision, how)?);
    }
    let offset = config.text.position_offset;
    let length = config.text.position_table().saturating_sub(offset);
    for name in LENGTH {
        reshaped.extend(positions::fit_length(state, name, offset, length)?);
    }
    if config.vision.max_frames > 0 {
        for name in TIME {
            let frames = config.vision.max_frames;
            reshaped.extend(positions::fit_length(state, name, 0, frames)?);
        }
    }
    for name in TYPES {
        reshaped.extend(positions::fit_rows(state, name, config.fusion.type_rows)?);
    }
    Ok(reshaped)
}

impl Published for VisionLanguageModel {
    type Config = ModelConfig;

    fn config(json: &Value) -> Result<ModelConfig, WeightError> {
        from_json(json)
    }

    fn build(init: &Init, config: &ModelConfig) -> Self {
        Self::new(init, config)
    }

    fn canonical(found: &str) -> Option<String> {
        names::scl_canonical(found)
    }

    fn names(ours: &str) -> Vec<String> {
        names::published(ours)
    }

    fn adapt(config: &ModelConfig, state: &mut StateDict) -> Result<Vec<Reshaped>, WeightError> {
        fit_positions(config, state)
    }
}

/// Whether names are our own, not published ones.
#[must_use]
pub fn is_own(names: &Shapes) -> bool {
    let sees = ["vision.class_token", "regions.features.weight"];
    names.contains_key("text.words.weight") && sees.iter().any(|name| names.contains_key(*name))
}
