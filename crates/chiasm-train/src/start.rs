//! What a run begins with: weights of other models in place of drawn ones.
//!
//! `[weights]` of the recipe names a whole model, or a published tower for each modality. What was
//! loaded, left out and reshaped is a report; what a recipe does not allow to be missing is an error.

use std::path::{Path, PathBuf};

use burn::module::Module as _;
use burn::tensor::Device;
use chiasm_data::TextTokenizer;
use chiasm_data::regions::RegionIdentity;
use chiasm_format::{Archive, ByteSource};
use chiasm_nn::config::{TextConfig, VisionConfig};
use chiasm_nn::published::{encoder, joint, rosita, scl};
use chiasm_nn::weights::{
    LoadReport, StateDict, WeightError, from_archive, load_state_dict, replace_value, shapes,
    shapes_of,
};
use chiasm_nn::{ModelConfig, VisionLanguageModel};
use chiasm_objective::Frozen;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod beside;

use self::beside::{begin_linear, heads_beside};
use crate::checkpoint;
use crate::error::TrainError;

/// Largest `config.json` that is read: 1 MiB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// `[weights]`: where weights come from before the first step. What is not named is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WeightsConfig {
    /// The whole model: the folder of a run, a model folder, or a published SCL checkpoint. Default:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// The text tower: a folder with BERT, RoBERTa or a sentence encoder. Its tokenizer is used unless
    /// `tokenizer.file` names one. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<PathBuf>,
    /// The image tower: a folder or file with CLIP, ViT or DINOv2. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision: Option<PathBuf>,
    /// Parts whose weights stay as they are: `text`, `vision`. No gradient is computed in them, but for
    /// the image tower's table of frames and token for hidden patches. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Part>,
    /// Memory for what a frozen image tower makes of each picture, in MB: it then runs once a picture
    /// and not once a step. Read where `[augment]` varies nothing. Default: 1024; 0 keeps nothing.
    pub cache_mb: usize,
    /// Parameters of `model` that may be missing there and are then drawn; `*` stands for anything.
    /// The heads of tasks and what clips and hidden patches add may always be. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_missing: Vec<String>,
}

impl Default for WeightsConfig {
    fn default() -> Self {
        Self {
            model: None,
            text: None,
            vision: None,
            freeze: Vec::new(),
            cache_mb: 1024,
            allow_missing: Vec::new(),
        }
    }
}

/// A part of the model that can be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The text tower.
    Text,
    /// The image tower.
    Vision,
}

impl WeightsConfig {
    /// The model with the frozen parts taken out of training. What an image tower has for clips and
    /// hidden patches is trained all the same: it came without weights.
    #[must_use]
    pub fn frozen(&self, mut model: VisionLanguageModel) -> VisionLanguageModel {
        for part in &self.freeze {
            match part {
                Part::Text => model.text = model.text.no_grad(),
                Part::Vision => {
                    model.vision = model.vision.map(|vision| {
                        let mut vision = vision.no_grad();
                        vision.temporal = vision.temporal.map(|table| table.set_require_grad(true));
                        vision.mask_token =
                            vision.mask_token.map(|token| token.set_require_grad(true));
                        vision
                    });
                }
            }
        }
        model
    }

    /// The towers that are not trained.
    #[must_use]
    pub fn frozen_towers(&self) -> Frozen {
        Frozen {
            text: self.freeze.contains(&Part::Text),
            vision: self.freeze.contains(&Part::Vision),
        }
    }

    /// The first part that is frozen as it was drawn: `text` or `vision`.
    #[must_use]
    pub fn frozen_without_weights(&self) -> Option<&'static str> {
        let parts = [
            (Part::Text, "text", &self.text),
            (Part::Vision, "vision", &self.vision),
        ];
        let is_drawn = |(part, _, path): &(Part, &str, &Option<PathBuf>)| {
            self.model.is_none() && path.is_none() && self.freeze.contains(part)
        };
        parts.into_iter().find(is_drawn).map(|(_, name, _)| name)
    }

    /// True when everything is drawn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The tokenizer that the named weights were trained with, where they come with one.
    ///
    /// # Errors
    /// A tokenizer that cannot be read.
    pub fn tokenizer(&self) -> Result<Option<TextTokenizer>, TrainError> {
        let folders = [&self.text, &self.model].into_iter().flatten();
        for path in folders {
            let folder = model_folder(path)?;
            if folder.is_dir()
                && let Some(tokenizer) = TextTokenizer::from_folder(&folder)?
            {
                return Ok(Some(tokenizer));
            }
        }
        Ok(None)
    }

    /// What made the regions that the named model learned from; `None` where that is not known.
    ///
    /// # Errors
    /// A run without a usable checkpoint, or a configuration that cannot be read.
    pub fn region_identity(&self) -> Result<Option<RegionIdentity>, TrainError> {
        let Some(path) = &self.model else {
            return Ok(None);
        };
        let json = config_beside(&model_folder(path)?)?;
        // Published weights have a configuration of another kind, or none.
        let config = json.and_then(|json| scl::from_json(&json).ok());
        let regions = config.and_then(|config| config.regions);
        let known = regions.filter(|regions| !regions.provider.is_empty());
        Ok(known.map(|regions| RegionIdentity {
            provider: regions.provider,
            dim: regions.features,
            hash: regions.provider_hash,
        }))
    }

    /// Rows of the word table of the named weights: at least as many as the tokenizer has tokens.
    ///
    /// # Errors
    /// Weights that cannot be opened.
    pub fn vocabulary_rows(&self) -> Result<Option<usize>, TrainError> {
        for path in [&self.text, &self.model].into_iter().flatten() {
            let archive = open(&model_folder(path)?)?;
            let table = archive.tensors().iter().find(|tensor| {
                ["word_embeddings.weight", "text.words.weight"]
                    .iter()
                    .any(|end| tensor.name.ends_with(end))
            });
            if let Some(rows) = table.and_then(|table| table.shape.first()) {
                return Ok(Some(*rows));
            }
        }
        Ok(None)
    }
}

/// What became of the tensors of one source.
#[derive(Clone, Debug, Serialize)]
pub struct Loaded {
    /// `model`, `text` or `vision`.
    pub part: &'static str,
    /// Where they came from.
    pub path: String,
    /// Tensor by tensor.
    pub report: LoadReport,
}

impl Loaded {
    /// One line: how many tensors matched, are missing, unexpected, ignored, reshaped.
    #[must_use]
    pub fn summary(&self) -> String {
        let report = &self.report;
        format!(
            "weights of `{}` from {}: {} matched, {} missing, {} unexpected, {} ignored, {} reshaped",
            self.part,
            self.path,
            report.matched.len(),
            report.missing.len(),
            report.unexpected.len(),
            report.ignored.len(),
            report.reshaped.len()
        )
    }
}

/// Puts the named weights into a fresh model.
///
/// # Errors
/// Weights that cannot be read, sizes that differ from the recipe's, parameters that are missing and
/// not allowed to be.
pub fn apply(
    weights: &WeightsConfig,
    config: &ModelConfig,
    mut model: VisionLanguageModel,
    device: &Device,
) -> Result<(VisionLanguageModel, Vec<Loaded>), TrainError> {
    let mut loaded = Vec::new();
    let mut note = |part, path: &Path, report| {
        loaded.push(Loaded {
            part,
            path: path.display().to_string(),
            report,
        });
    };
    if let Some(path) = &weights.model {
        let wrap = |source| wrong(path, source);
        let (mut state, json) = read(&model_folder(path)?)?;
        if let (Some(family), Some(json)) = (joint::family(&state), &json) {
            let theirs = joint::sizes(family, json).map_err(wrap)?;
            same_sizes(path, &theirs, config)?;
        }
        let left_out = drop_other_head(&mut state, &model);
        let (filled, mut report) = whole(state, config, model).map_err(wrap)?;
        report.ignored.extend(left_out);
        let missing = |name: &str| report.missing.iter().any(|missing| missing == name);
        allow(&report.missing, &weights.allow_missing).map_err(wrap)?;
        model = filled;
        if missing("rank_head.weight") {
            model = rank_as_match(model);
        }
        note("model", path, report);
    }
    if let Some(path) = weights.text.as_ref().filter(|_| config.is_one_stream()) {
        let wrap = |source| wrong(path, source);
        let (state, _) = read(path)?;
        let (filled, report) = rosita::begin_with_bert(model, state).map_err(wrap)?;
        allow(&report.missing, &weights.allow_missing).map_err(wrap)?;
        model = filled;
        note("text", path, report);
    } else if let Some(path) = &weights.text {
        let (state, json) = read(path)?;
        let heads = heads_beside(&state);
        let mut theirs = TextConfig::default();
        let (_, tower, mut report) = encoder::text_tower(
            json.as_ref(),
            state,
            |found| {
                theirs = found.clone();
                *found = config.text.clone();
            },
            device,
        )
        .map_err(|source| {
            differs(
                path,
                "text",
                text_sizes(&theirs),
                text_sizes(&config.text),
                source,
            )
        })?;
        model.text = tower;
        if config.is_towers_alone() {
            let pooler = model.text_pooler.as_mut().map(|pooler| &mut pooler.dense);
            begin_linear(
                "text_pooler.dense",
                pooler,
                &heads,
                "pooler.dense",
                &mut report,
            );
        }
        note("text", path, report);
    }
    if let Some(path) = &weights.vision {
        let (state, json) = read(path)?;
        let heads = heads_beside(&state);
        let mut theirs = VisionConfig::default();
        let (_, tower, mut report) = encoder::image_tower(
            json.as_ref(),
            state,
            |found| {
                theirs = found.clone();
                *found = config.vision.clone();
            },
            device,
        )
        .map_err(|source| {
            let (theirs, ours) = (vision_sizes(&theirs), vision_sizes(&config.vision));
            differs(path, "vision", theirs, ours, source)
        })?;
        model.vision = Some(tower);
        if config.is_towers_alone() {
            let pooler = model.image_pooler.as_mut().map(|pooler| &mut pooler.dense);
            begin_linear(
                "image_pooler.dense",
                pooler,
                &heads,
                "pooler.dense",
                &mut report,
            );
            let projection = model.image_projection.as_mut();
            let projection = projection.filter(|projection| projection.dense.is_none());
            let projection = projection.map(|projection| &mut projection.out);
            let (ours, theirs) = ("image_projection.out", "visual_projection");
            begin_linear(ours, projection, &heads, theirs, &mut report);
        }
        note("vision", path, report);
    }
    Ok((model, loaded))
}

/// Takes a classifier of other classes, for another number of pictures, or of other groups out of a
/// state dict, so that the new task's is drawn; the names of what was taken out.
fn drop_other_head(state: &mut StateDict, model: &VisionLanguageModel) -> Vec<String> {
    let wanted = shapes(model);
    let mut dropped = Vec::new();
    for prefix in ["class_head.", "cluster_head."] {
        let is_head = |name: &&String| name.starts_with(prefix);
        let differs = |name: &&String| {
            let shape = state.get(*name).map(|tensor| &tensor.shape);
            wanted.get(*name) != shape
        };
        let head: Vec<String> = state.keys().filter(is_head).cloned().collect();
        if head.iter().any(|name| differs(&name)) {
            state.retain(|name, _| !head.contains(name));
            dropped.extend(head);
        }
    }
    dropped
}

/// A ranking head that begins as the matching head's score of "matches" (`specs/scl.md` section 1.7).
fn rank_as_match(mut model: VisionLanguageModel) -> VisionLanguageModel {
    let Some(matching) = &model.match_head else {
        return model;
    };
    let classifier = matching.classifier.clone().valid();
    let Some(mut head) = model.rank_head.take() else {
        return model;
    };
    head.weight = replace_value(head.weight, classifier.weight.val().narrow(1, 1, 1));
    head.bias = match (head.bias, &classifier.bias) {
        (Some(own), Some(bias)) => Some(replace_value(own, bias.val().narrow(0, 1, 1))),
        (own, _) => own,
    };
    model.rank_head = Some(head);
    model
}

/// Fills a model from a state dict with our names, SCL's or ROSITA's; positions of other sizes are fitted.
///
/// # Errors
/// A tensor of another shape.
pub fn whole(
    mut state: StateDict,
    config: &ModelConfig,
    model: VisionLanguageModel,
) -> Result<(VisionLanguageModel, LoadReport), WeightError> {
    if scl::is_own(&shapes_of(&state)) {
        let reshaped = scl::fit_positions(config, &mut state)?;
        let (model, report) = load_state_dict(model, state)?;
        return Ok((model, LoadReport { reshaped, ..report }));
    }
    if rosita::is_rosita(&shapes_of(&state)) {
        return rosita::fill(model, state);
    }
    if let Some(family) = joint::family(&state) {
        return joint::fill(family, model, config, state);
    }
    chiasm_nn::published::fill(model, config, state)
}

/// The folder with the weights that a path means: the newest checkpoint of a run, or the path itself.
///
/// # Errors
/// A run without a usable checkpoint.
pub fn model_folder(path: &Path) -> Result<PathBuf, TrainError> {
    let checkpoints = path.join("checkpoints");
    if checkpoints.is_dir() {
        return Ok(checkpoint::latest(&checkpoints)?.0.path);
    }
    Ok(path.to_owned())
}

/// All tensors of a file or folder as f32, and the `config.json` beside them.
///
/// # Errors
/// What the file holds cannot be read.
pub fn read(path: &Path) -> Result<(StateDict, Option<Value>), TrainError> {
    let archive = open(path)?;
    let state = from_archive(&archive).map_err(|source| wrong(path, source))?;
    Ok((state, config_beside(path)?))
}

/// blake3 of the weights of a file, or of all files with weights in a folder: what tells one model from another.
///
/// # Errors
/// A file that cannot be read.
pub fn fingerprint(path: &Path) -> Result<String, TrainError> {
    const WEIGHTS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "weights"];
    let mut files = match path.is_dir() {
        false => vec![path.to_owned()],
        true => std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(TrainError::io(path))?,
    };
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let extension = file.extension().and_then(std::ffi::OsStr::to_str);
        let named = path.is_file() || extension.is_some_and(|known| WEIGHTS.contains(&known));
        if named && file.is_file() {
            let open = std::fs::File::open(&file).map_err(TrainError::io(&file))?;
            hasher.update_reader(open).map_err(TrainError::io(&file))?;
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn open(path: &Path) -> Result<Archive, TrainError> {
    Archive::open(path).map_err(|source| wrong(path, source.into()))
}

/// Where what belongs to weights lies: in their folder, or beside their file.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.is_dir() {
        true => path,
        false => path.parent().unwrap_or(Path::new("")),
    }
}

/// The `config.json` (or open_clip's) of a folder, or beside a file of weights.
///
/// # Errors
/// One that is there and is not JSON, or is larger than 1 MiB.
pub fn config_beside(path: &Path) -> Result<Option<Value>, TrainError> {
    let folder = folder_of(path);
    for name in ["config.json", "open_clip_config.json"] {
        let file = folder.join(name);
        if !file.is_file() {
            continue;
        }
        let config = |problem: String| wrong(&file, WeightError::Config(problem));
        let source = ByteSource::open(&file).map_err(|error| wrong(&file, error.into()))?;
        if source.len() > MAX_CONFIG_BYTES {
            return Err(config(format!("{} bytes are too many", source.len())));
        }
        let bytes = source
            .read(0, source.len())
            .map_err(|error| wrong(&file, error.into()))?;
        let value = serde_json::from_slice(&bytes).map_err(|error| config(error.to_string()))?;
        return Ok(Some(value));
    }
    Ok(None)
}

/// What a task adds to a pre-trained model: heads, a table of frames, a token for hidden patches.
const ADDED: [&str; 8] = [
    "class_head.*",
    "cluster_head.*",
    "rank_head.*",
    "ground_head.*",
    "region_head.*",
    "fusion.gates",
    "vision.temporal",
    "vision.mask_token",
];

/// Refuses what is missing and in no pattern.
fn allow(missing: &[String], patterns: &[String]) -> Result<(), WeightError> {
    let patterns = || patterns.iter().map(String::as_str).chain(ADDED);
    let names: Vec<String> = missing
        .iter()
        .filter(|name| !patterns().any(|pattern| matches(pattern, name)))
        .cloned()
        .collect();
    match names.first() {
        None => Ok(()),
        Some(first) => Err(WeightError::Missing {
            first: first.clone(),
            names,
        }),
    }
}

/// Whether a name is of a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = pattern.contains('*').then(|| parts.next_back()).flatten() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn wrong(path: &Path, source: WeightError) -> TrainError {
    TrainError::Weights {
        path: path.to_owned(),
        source,
    }
}

type Sizes = Vec<(&'static str, String)>;

fn text_sizes(config: &TextConfig) -> Sizes {
    vec![
        ("hidden_size", config.hidden_size.to_string()),
        ("layers", config.layers.to_string()),
        ("num_heads", config.num_heads.to_string()),
        ("intermediate_size", config.intermediate_size.to_string()),
        ("position_offset", config.position_offset.to_string()),
        ("type_rows", config.type_rows.to_string()),
        ("layer_norm_eps", format!("{:e}", config.layer_norm_eps)),
    ]
}

fn vision_sizes(config: &VisionConfig) -> Sizes {
    vec![
        ("patch_size", config.patch_size.to_string()),
        ("hidden_size", config.hidden_size.to_string()),
        ("layers", config.layers.to_string()),
        ("num_heads", config.num_heads.to_string()),
        ("intermediate_size", config.intermediate_size.to_string()),
        ("patch_bias", config.patch_bias.to_string()),
        ("pre_norm", config.pre_norm.to_string()),
        ("registers", config.registers.to_string()),
        ("layer_norm_eps", format!("{:e}", config.layer_norm_eps)),
    ]
}

/// Refuses a recipe whose sizes are not those of published weights, and says which to write. Lengths of
/// texts, sizes of pictures and dropout may be others.
fn same_sizes(path: &Path, theirs: &ModelConfig, ours: &ModelConfig) -> Result<(), TrainError> {
    const TOWER: [&str; 2] = ["num_heads", "intermediate_size"];
    const KEYS: [(&str, &[&str]); 4] = [
        (
            "text",
            &["hidden_size", "layers", "type_rows", "layer_norm_eps"],
        ),
        (
            "vision",
            &["patch_size", "layers", "patch_bias", "pre_norm"],
        ),
        ("regions", &["features", "place", "layers"]),
        ("fusion", &["kind", "hidden_size", "layers", "norm"]),
    ];
    let json = |config| {
        let wrap = |error: serde_json::Error| wrong(path, WeightError::Config(error.to_string()));
        serde_json::to_value(config).map_err(wrap)
    };
    let (theirs, ours) = (json(theirs)?, json(ours)?);
    let mut lines = Vec::new();
    for (part, keys) in KEYS {
        // What is not there has no sizes: a tower of no layers, pixels where regions are seen.
        if theirs[part].is_null() || (part == "vision" && !theirs["regions"].is_null()) {
            continue;
        }
        let is_tower = matches!(part, "text" | "fusion") && theirs[part]["layers"] != 0;
        let heads: &[&str] = if is_tower { &TOWER } else { &[] };
        let differing: Vec<String> = (keys.iter().chain(heads))
            .filter(|key| theirs[part][**key] != ours[part][**key])
            .map(|key| match &theirs[part][*key] {
                // Left out where it is as usual.
                Value::Null => format!("no {key}"),
                value => format!("{key} = {value}"),
            })
            .collect();
        if !differing.is_empty() {
            lines.push(format!("under `[model.{part}]`: {}", differing.join(", ")));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    Err(TrainError::Recipe {
        path: path.display().to_string(),
        message: "the recipe's model has other sizes than these weights".to_owned(),
        hint: Some(format!("write {}", lines.join("; "))),
    })
}

/// An error that says which sizes of the recipe to change, if they are the reason.
fn differs(path: &Path, part: &str, theirs: Sizes, ours: Sizes, source: WeightError) -> TrainError {
    let lines: Vec<String> = theirs
        .into_iter()
        .zip(ours)
        // The number of layers may be smaller on purpose.
        .filter(|((key, theirs), (_, ours))| theirs != ours && *key != "layers")
        .map(|((key, theirs), _)| format!("{key} = {theirs}"))
        .collect();
    if lines.is_empty()
        || !matches!(
            source,
            WeightError::Shape { .. } | WeightError::Missing { .. }
        )
    {
        return wrong(path, source);
    }
    TrainError::Recipe {
        path: path.display().to_string(),
        message: format!("the recipe's {part} tower has other sizes than these weights ({source})"),
        hint: Some(format!(
            "write under `[model.{part}]`: {}",
            lines.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("mlm_head.*", "mlm_head.dense.weight", true),
            ("*.bias", "x.bias", true),
            ("*.bias", "x.biases", false),
            ("a*c*e", "abcde", true),
            ("a*d*c*", "abcde", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
