//! The recipe: everything that defines a run, as one TOML file.
//!
//! The structs are the documentation: meaning, unit and default of every key. `chiasm recipe
//! schema` prints the JSON schema made from them. An unknown key is refused with the nearest known
//! one.

use std::path::{Path, PathBuf};

use chiasm_data::check::DEFAULT_MAX_BAD_RATE;
use chiasm_data::{OpenOptions, Split, TokenizerKind};
use chiasm_nn::ModelConfig;
use chiasm_nn::compute::Products;
use chiasm_objective::config::{ClassLoss, ContrastDirection};
use chiasm_objective::masking::kept_patches;
use chiasm_objective::{Objective, ObjectivesConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::optimizer::OptimizerConfig;
use crate::schedule::Schedule;
use crate::start::WeightsConfig;

/// `data.source` of the built-in set.
pub const BUILTIN_EMOJI: &str = "builtin:emoji";

/// `[data]`: what the run learns from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// `builtin:emoji`, `builtin:synthitr` (see `docs/guides/curate.md`), or a table (CSV, TSV, JSON lines, Parquet), a Karpathy JSON file, or a
    /// folder of pictures with texts beside them. Default: `builtin:emoji`.
    pub source: String,
    /// Format of the source, see `chiasm data formats`. Default: recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// File with what people said about the pictures, where a format keeps it apart. Default: the one
    /// beside the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<PathBuf>,
    /// Column with image paths. Default: guessed from the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// Column with texts. Default: guessed from the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// Column with `train`, `val` or `test`. Default: `split` if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_column: Option<String>,
    /// Column with the answer to a question. Default: guessed from the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_column: Option<String>,
    /// Column with the class of a row. Default: guessed from the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Column with the words that are written in the picture. Default: guessed from the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocr_column: Option<String>,
    /// Column with what a machine says of the picture. Default: guessed from the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption_column: Option<String>,
    /// Column with who wrote the text: rows of an author stay on one side of a split. Default: guessed
    /// from the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author_column: Option<String>,
    /// Column that says, as 0 or 1, whether the text is shown in the picture. Default:
    /// `text_is_represented` if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub represented_column: Option<String>,
    /// Column that says, as 0 or 1, whether the picture adds to the text. Default: `image_adds` if there
    /// is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adds_column: Option<String>,
    /// Folder that image paths are relative to. Default: the table's own, or `images` in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_root: Option<PathBuf>,
    /// Features of regions for the pictures: a folder of `.npz` files, or a `.tsv` with its `.lineidx`.
    /// Samples without them are set aside. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<PathBuf>,
    /// Table with the columns `id` and `split`, whose splits count instead of the source's. Default:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splits: Option<PathBuf>,
    /// Splits that are trained on. Default: `train` alone.
    #[schemars(with = "Vec<String>")]
    pub train_splits: Vec<Split>,
    /// How often a batch comes from here, beside the weights of the other sources in `[[mix]]`.
    /// Default: 1.
    pub weight: f64,
    /// Frames taken of every sample, at most `model.vision.max_frames`; 1 takes the middle one of a
    /// clip. 0: 4 where there are clips and the model takes them, else 1. Default: 0.
    pub frames: usize,
    /// Whether the model sees grey in place of every picture: a baseline of the texts alone. Default:
    /// false.
    pub blind: bool,
    /// Share of unreadable samples above which the run refuses to start. Default: 0.001.
    pub max_bad_rate: f64,
    /// Memory for decoded pictures, in MB. Default: 256.
    pub cache_mb: usize,
}

impl DataConfig {
    /// What is said about the source, for [`chiasm_data::open`].
    #[must_use]
    pub fn options(&self) -> OpenOptions {
        OpenOptions {
            format: self.format.clone(),
            annotations: self.annotations.clone(),
            image_column: self.image_column.clone(),
            text_column: self.text_column.clone(),
            split_column: self.split_column.clone(),
            answer_column: self.answer_column.clone(),
            label_column: self.label_column.clone(),
            ocr_column: self.ocr_column.clone(),
            caption_column: self.caption_column.clone(),
            author_column: self.author_column.clone(),
            represented_column: self.represented_column.clone(),
            adds_column: self.adds_column.clone(),
            image_root: self.image_root.clone(),
            regions: self.regions.clone(),
            splits: self.splits.clone(),
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: BUILTIN_EMOJI.to_owned(),
            format: None,
            annotations: None,
            image_column: None,
            text_column: None,
            split_column: None,
            answer_column: None,
            label_column: None,
            ocr_column: None,
            caption_column: None,
            author_column: None,
            represented_column: None,
            adds_column: None,
            image_root: None,
            regions: None,
            splits: None,
            train_splits: vec![Split::Train],
            weight: 1.0,
            frames: 0,
            blind: false,
            max_bad_rate: DEFAULT_MAX_BAD_RATE,
            cache_mb: 256,
        }
    }
}

/// Algorithm of a tokenizer trained on the run's own text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerAlgorithm {
    /// BERT's WordPiece, lower-cased.
    #[default]
    WordPiece,
    /// RoBERTa's byte-level BPE.
    ByteLevelBpe,
}

impl From<TokenizerAlgorithm> for TokenizerKind {
    fn from(algorithm: TokenizerAlgorithm) -> Self {
        match algorithm {
            TokenizerAlgorithm::WordPiece => Self::WordPiece,
            TokenizerAlgorithm::ByteLevelBpe => Self::ByteLevelBpe,
        }
    }
}

/// `[tokenizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// A `tokenizer.json` to use. Default: none, one is trained on the training texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Algorithm when one is trained. Default: `word_piece`.
    pub algorithm: TokenizerAlgorithm,
    /// Most token ids when one is trained. Default: 8192.
    pub vocab_size: usize,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self {
            file: None,
            algorithm: TokenizerAlgorithm::default(),
            vocab_size: 8192,
        }
    }
}

/// How a picture of any shape becomes the model's square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizeRule {
    /// Short side to size, then the centre.
    #[default]
    ShortSideCenterCrop,
    /// Each side on its own.
    Squash,
}

/// `[augment]`: how training pictures are varied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// How a picture becomes a square. Default: `short_side_center_crop`.
    pub resize: ResizeRule,
    /// Smallest and largest share of the area that a random crop keeps. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<(f32, f32)>,
    /// Probability of a mirror image; conflicts with "left" and "right" in texts. Default: 0.
    pub flip: f32,
    /// RandAugment before the crop: how many operations, and their magnitude from 0 to 30, such as
    /// `[2, 9]`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<(usize, f32)>,
    /// The mean and deviation of colours that values are given in, of whose pictures the image tower has
    /// learned. Default: `clip`.
    pub normalize: NormalizeRule,
}

/// Whose means and deviations of colours are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NormalizeRule {
    /// CLIP's; also METER and SCL.
    #[default]
    Clip,
    /// ImageNet's: DINOv2, DeiT.
    ImageNet,
    /// Values from -1 to 1: ViT, ViLT.
    Half,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            resize: ResizeRule::default(),
            crop: None,
            flip: 0.0,
            rand_augment: None,
            normalize: NormalizeRule::default(),
        }
    }
}

/// `[schedule]`: how long and how fast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Optimiser steps. Default: 1000.
    pub steps: u64,
    /// Pairs in a micro-batch; contrastive negatives come from it alone. Default: 32.
    pub batch_size: usize,
    /// Micro-batches an optimiser step adds up. Default: 1.
    pub accumulate: u64,
    /// Whether a transformer block keeps the inputs of its sub-layers alone, and the backward pass makes the
    /// rest again: less memory for more time, with the same gradients. Plain operations, as on a GPU, make
    /// element-wise results again and keep those of matrix products. Default: false.
    pub gradient_checkpointing: bool,
    /// Shape of the learning rate. Default: linear warm-up over 10 %, linear decay to 0.
    pub learning_rate: Schedule,
    /// Largest norm of all gradients together; 0 turns clipping off. Default: 1.
    pub clip_norm: f64,
    /// Evaluate on the validation split every so many steps; 0 = never. Default: 200.
    pub eval_every: u64,
    /// Write a checkpoint every so many steps; one is always written at the end. Default: 500.
    pub save_every: u64,
    /// Newest checkpoints that are kept. Default: 2.
    pub keep: usize,
    /// Also save and keep the checkpoint with the best `evaluation.monitor`. Default: true.
    pub keep_best: bool,
    /// Seed of weights, data order, masks and dropout. Default: 0.
    pub seed: u64,
    /// Numbers in which a step multiplies matrices. `bf16` is mixed precision, for GPUs: weights, norms,
    /// softmax and losses stay in 32 bits. Evaluation is always in `f32`. Default: `f32`.
    pub precision: Products,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 32,
            accumulate: 1,
            gradient_checkpointing: false,
            learning_rate: Schedule::WarmupLinear {
                warmup: 0.1,
                run: 1.0,
            },
            clip_norm: 1.0,
            eval_every: 200,
            save_every: 500,
            keep: 2,
            keep_best: true,
            seed: 0,
            precision: Products::F32,
        }
    }
}

/// `[evaluation]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// Candidates of each query that the fusion encoder re-ranks; 0 = no re-ranking. Default: 16.
    pub shortlist: usize,
    /// Pictures of the validation split used during training. Default: 500.
    pub val_images: usize,
    /// Validation figure that tells which checkpoint is best, a name from `metrics.jsonl`. Less is
    /// better for names that begin with `loss` or end with `rank`. Empty: `accuracy` where classes
    /// are learned, else `rsum`, the sum of the six recalls in percent. Default: empty.
    pub monitor: String,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            shortlist: 16,
            val_images: 500,
            monitor: String::new(),
        }
    }
}

/// A run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Short name, used in reports.
    pub name: String,
    /// What the run learns from, and is measured on.
    pub data: DataConfig,
    /// What it learns from beside that: pictures or clips, in batches of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<DataConfig>,
    /// How text becomes ids.
    pub tokenizer: TokenizerConfig,
    /// How training pictures are varied.
    pub augment: AugmentConfig,
    /// Sizes of the model.
    pub model: ModelConfig,
    /// Where weights come from before the first step.
    #[serde(skip_serializing_if = "WeightsConfig::is_empty")]
    pub weights: WeightsConfig,
    /// What the model is trained for; a table that is present is on.
    pub objectives: ObjectivesConfig,
    /// How weights move.
    pub optimizer: OptimizerConfig,
    /// How long and how fast.
    pub schedule: ScheduleConfig,
    /// How the run is measured.
    pub evaluation: EvaluationConfig,
}

impl Recipe {
    /// Reads and checks a recipe file.
    ///
    /// # Errors
    /// A missing file, text that is not TOML, an unknown key, or a value no run can have.
    pub fn from_file(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
        Self::from_toml(&text, &path.display().to_string())
    }

    /// Reads and checks a recipe; `origin` names it in messages.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, TrainError> {
        let recipe: Self = toml::from_str(text).map_err(|error| TrainError::Recipe {
            path: origin.to_owned(),
            message: error.to_string().trim_end().to_owned(),
            hint: suggestion(error.message()),
        })?;
        recipe.validate(origin)?;
        Ok(recipe)
    }

    /// The recipe with other values of some keys, each written `key=value` as in `schedule.precision=bf16`: tables
    /// before dots, values as in TOML, words without quotes too. A table that is not there is begun.
    ///
    /// # Errors
    /// What has no `=`, an unknown key, or a value that no run can have.
    pub fn with(&self, settings: &[String]) -> Result<Self, TrainError> {
        if settings.is_empty() {
            return Ok(self.clone());
        }
        let fail = |message: String, hint: Option<String>| TrainError::Recipe {
            path: settings.join(" "),
            message,
            hint,
        };
        let table = toml::Table::try_from(self);
        let mut table = table.map_err(|error| fail(error.to_string(), None))?;
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                let hint = "write `key=value`, such as `schedule.batch_size=64`";
                fail(format!("`{setting}` has no `=`"), Some(hint.to_owned()))
            })?;
            let mut path: Vec<&str> = key.split('.').map(str::trim).collect();
            let last = path.pop().unwrap_or_default();
            let mut place = &mut table;
            for name in path {
                let inner = place
                    .entry(name)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()));
                place = inner
                    .as_table_mut()
                    .ok_or_else(|| fail(format!("`{name}` in `{key}` is no table"), None))?;
            }
            place.insert(last.to_owned(), typed(value));
        }
        let recipe: Self = table.try_into().map_err(|error: toml::de::Error| {
            let message = error.to_string().trim_end().to_owned();
            fail(message, suggestion(error.message()))
        })?;
        recipe.validate(&self.name)?;
        Ok(recipe)
    }

    /// The recipe with every value spelled out.
    ///
    /// # Errors
    /// If a value cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string_pretty(self).map_err(|error| TrainError::Recipe {
            path: self.name.clone(),
            message: error.to_string(),
            hint: None,
        })
    }

    /// JSON schema of recipe files.
    #[must_use]
    pub fn schema() -> String {
        serde_json::to_string_pretty(&schemars::schema_for!(Self)).unwrap_or_default()
    }

    /// Whether every class is a question of its own (VQA v2), not one of all of them right.
    #[must_use]
    pub fn has_independent_classes(&self) -> bool {
        let config = self.objectives.classification.as_ref();
        config.is_some_and(|config| config.loss != ClassLoss::CrossEntropy)
    }

    /// What is learned from, in order: `[data]`, then every `[[mix]]`.
    pub fn sources(&self) -> impl Iterator<Item = &DataConfig> {
        std::iter::once(&self.data).chain(&self.mix)
    }

    /// The validation figure that tells which checkpoint is best.
    #[must_use]
    pub fn monitor(&self) -> &str {
        let objectives = &self.objectives;
        let has_accuracy = objectives.classification.is_some() || objectives.grounding.is_some();
        match (self.evaluation.monitor.as_str(), has_accuracy) {
            ("", true) => "accuracy",
            ("", false) => "rsum",
            (name, _) => name,
        }
    }

    /// Refuses values that no run can have, naming the key.
    ///
    /// # Errors
    /// The first such value.
    pub fn validate(&self, origin: &str) -> Result<(), TrainError> {
        let fail = |message: String, hint: &str| {
            Err(TrainError::Recipe {
                path: origin.to_owned(),
                message,
                hint: Some(hint.to_owned()),
            })
        };
        if let Err(error) = self.model.validate() {
            return fail(error.to_string(), "change `[model]` in the recipe");
        }
        if self.objectives.enabled().is_empty() {
            return fail(
                "no objective is on".to_owned(),
                "add a table such as `[objectives.contrastive]`",
            );
        }
        for (key, value) in [
            ("schedule.steps", self.schedule.steps),
            ("schedule.batch_size", self.schedule.batch_size as u64),
            ("schedule.accumulate", self.schedule.accumulate),
            ("schedule.keep", self.schedule.keep as u64),
        ] {
            if value == 0 {
                return fail(format!("`{key}` is 0"), "give at least 1");
            }
        }
        let rate = self.optimizer.learning_rate;
        if !rate.is_finite() || rate <= 0.0 {
            return fail(
                format!("`optimizer.learning_rate` is {rate}"),
                "give a number above 0, such as 5e-4",
            );
        }
        let share = self.objectives.fused_share;
        if share.is_nan() || share <= 0.0 || share > 1.0 {
            return fail(
                format!("`objectives.fused_share` is {share}"),
                "give a share above 0 and at most 1",
            );
        }
        let objectives = &self.objectives;
        for (name, is_on) in [
            ("knowledge", objectives.knowledge.is_some()),
            ("grounding", objectives.grounding.is_some()),
        ] {
            if is_on && self.model.regions.is_none() {
                return fail(
                    format!("`objectives.{name}` needs a model that sees regions"),
                    "write `[model.regions]`, or begin with the recipe `tbkin-tiny`",
                );
            }
        }
        if objectives.contrastive.is_some() && !self.model.heads.contrastive {
            return fail(
                "`objectives.contrastive` needs both towers in a common space".to_owned(),
                "set `model.heads.contrastive = true`",
            );
        }
        let temperature = objectives.contrastive.as_ref();
        let temperature = temperature.and_then(|contrastive| contrastive.temperature);
        if temperature.is_some_and(|temperature| !temperature.is_finite() || temperature <= 0.0) {
            return fail(
                "`objectives.contrastive.temperature` is not above 0".to_owned(),
                "the published value of ITR is 1; leave it out to learn it",
            );
        }
        if let Some(cluster) = &objectives.cluster {
            if let Some(problem) = cluster.problem() {
                return fail(
                    format!("`objectives.cluster.{problem}"),
                    "leave the key out for the published value",
                );
            }
            for (key, is_more) in [
                ("schedule.accumulate", self.schedule.accumulate > 1),
                ("mix", !self.mix.is_empty()),
            ] {
                if is_more {
                    return fail(
                        format!(
                            "`objectives.cluster` takes its pairs chunk by chunk from one source, and `{key}` asks for more"
                        ),
                        "leave it out",
                    );
                }
            }
        }
        if let Some(contrast) = &objectives.contrastive
            && !self.model.sums_up_both()
            && contrast.direction == ContrastDirection::ImageToText
        {
            return fail(
                "`objectives.contrastive` compares fused pairs where the fusion encoder has not two streams, and `image_to_text` asks for texts of no pair".to_owned(),
                "leave `direction` out",
            );
        }
        if self.model.is_towers_alone() {
            let is_known = |objective: &Objective| {
                let known = [
                    Objective::Contrastive,
                    Objective::Cluster,
                    Objective::Classification,
                ];
                known.contains(objective)
            };
            let mut others = objectives.enabled().into_iter();
            if let Some(other) = others.find(|objective| !is_known(objective)) {
                return fail(
                    format!(
                        "`objectives.{other}` needs a fusion encoder, and `model.fusion.layers` is 0"
                    ),
                    "towers alone learn `contrastive`, `cluster` and `classification`",
                );
            }
        }
        if let Some(knowledge) = &objectives.knowledge {
            let problem = knowledge
                .masks
                .problem()
                .map(|what| format!("masks.{what}"));
            let problem = problem.or_else(|| {
                let graph = knowledge.graph.problem();
                graph.map(|what| format!("graph.{what}"))
            });
            if let Some(problem) = problem {
                return fail(
                    format!("`objectives.knowledge.{problem}`"),
                    "leave the key out for the published value",
                );
            }
        }
        if let Some(completion) = &self.objectives.global_completion {
            let patches = match &self.model.regions {
                Some(regions) => regions.most,
                None => self.model.vision.num_patches(),
            };
            if !(0.0..1.0).contains(&completion.image_drop)
                || kept_patches(patches, completion.image_drop) == 0
            {
                return fail(
                    format!(
                        "`objectives.global_completion.image_drop` = {} keeps none of {patches} patches",
                        completion.image_drop
                    ),
                    "give a smaller share, or smaller patches",
                );
            }
            if completion.temperature.is_nan() || completion.temperature <= 0.0 {
                return fail(
                    "`objectives.global_completion.temperature` is not above 0".to_owned(),
                    "the published value is 0.03",
                );
            }
        }
        if let Some(local) = &self.objectives.local_completion {
            if !(0.0..1.0).contains(&local.image_mask) {
                return fail(
                    format!(
                        "`objectives.local_completion.image_mask` is {}",
                        local.image_mask
                    ),
                    "give a share of patches from 0 to below 1; the published value is 0.3",
                );
            }
            if local.temperature.is_nan() || local.temperature <= 0.0 {
                return fail(
                    "`objectives.local_completion.temperature` is not above 0".to_owned(),
                    "the published value is 0.03",
                );
            }
        }
        let ranking = self.objectives.ranking.as_ref();
        if ranking.is_some_and(|ranking| ranking.candidates < 2) {
            return fail(
                "`objectives.ranking.candidates` is below 2".to_owned(),
                "a text needs another one to be ranked with; the published value is 16",
            );
        }
        let max_frames = self.model.vision.max_frames.max(1);
        for (index, data) in self.sources().enumerate() {
            let table = match index {
                0 => "data".to_owned(),
                index => format!("mix[{}]", index - 1),
            };
            if !(0.0..=1.0).contains(&data.max_bad_rate) {
                return fail(
                    format!("`{table}.max_bad_rate` is {}", data.max_bad_rate),
                    "give a share between 0 and 1",
                );
            }
            if !data.weight.is_finite() || data.weight <= 0.0 {
                return fail(
                    format!("`{table}.weight` is {}", data.weight),
                    "give a number above 0, or leave the source out",
                );
            }
            if data.frames > max_frames {
                return fail(
                    format!(
                        "`{table}.frames` is {}, and the model takes {max_frames}",
                        data.frames
                    ),
                    "raise `model.vision.max_frames`",
                );
            }
            if data.train_splits.is_empty() {
                return fail(
                    format!("`{table}.train_splits` is empty"),
                    "give `[\"train\"]`, or the splits to train on",
                );
            }
        }
        Ok(())
    }
}

/// A value as TOML writes it, or a word.
fn typed(text: &str) -> toml::Value {
    let written = toml::from_str::<toml::Table>(&format!("value = {text}"));
    let value = written.ok().and_then(|mut table| match table.len() {
        1 => table.remove("value"),
        _ => None,
    });
    value.unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

/// Nearest known key for serde's "unknown field `x`, expected one of `a`, `b`".
fn suggestion(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.contains("unknown field") {
        return None;
    }
    let unknown = quoted.next()?;
    let (distance, nearest) = quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .min()?;
    (distance <= 1 + nearest.len() / 3).then(|| format!("did you mean `{nearest}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_key_is_refused_with_the_nearest_one() {
        let text = "[objectives.contrastive]\n[schedule]\nbatchsize = 3\n";
        let error = Recipe::from_toml(text, "r.toml").unwrap_err();
        assert!(error.to_string().contains("batchsize"), "{error}");
        assert!(error.to_string().contains("line 3"), "{error}");
        assert_eq!(error.hint().as_deref(), Some("did you mean `batch_size`?"));
    }

    #[test]
    fn resolved_recipe_reads_back_as_itself() {
        let recipe =
            Recipe::from_toml("[objectives.mlm]\n[augment]\ncrop = [0.8, 1.0]\n", "r.toml")
                .unwrap();
        let again = Recipe::from_toml(&recipe.to_toml().unwrap(), "again").unwrap();
        assert_eq!(recipe, again);
    }

    #[test]
    fn gradient_checkpointing_is_a_switch_that_is_off() {
        let read = |line: &str| {
            let text = format!("[objectives.mlm]\n[schedule]\n{line}\n");
            Recipe::from_toml(&text, "r.toml")
        };
        assert!(!read("").unwrap().schedule.gradient_checkpointing);
        let on = read("gradient_checkpointing = true").unwrap();
        assert!(on.schedule.gradient_checkpointing);
        let again = Recipe::from_toml(&on.to_toml().unwrap(), "again").unwrap();
        assert_eq!(on, again);
        let error = read("gradient_checkpointing = 2").unwrap_err().to_string();
        assert!(
            error.contains("line 3") && error.contains("expected a boolean"),
            "{error}"
        );
        let error = read("gradient_checkpoint = true").unwrap_err();
        let hint = error.hint();
        assert_eq!(
            hint.as_deref(),
            Some("did you mean `gradient_checkpointing`?")
        );
    }

    #[test]
    fn keys_are_set_as_they_are_typed() {
        let recipe = Recipe::from_toml("[objectives.mlm]\n", "r.toml").unwrap();
        let set = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
            recipe.with(&settings)
        };
        let other = set(&[
            "schedule.batch_size=64",
            "schedule.precision=bf16",
            "augment.crop=[0.5, 1.0]",
            "objectives.matching.weight = 0.5",
            "name=a = b",
        ]);
        let other = other.unwrap();
        assert_eq!(other.schedule.batch_size, 64);
        assert_eq!(other.schedule.precision, Products::Bf16);
        assert_eq!(other.augment.crop, Some((0.5, 1.0)));
        assert_eq!(other.objectives.matching.unwrap().weight, 0.5);
        assert_eq!(other.name, "a = b");
        assert_eq!(set(&[]).unwrap(), recipe);
        for (setting, message, hint) in [
            (
                "schedule.batchsize=3",
                "batchsize",
                "did you mean `batch_size`?",
            ),
            (
                "schedule.steps=0",
                "`schedule.steps` is 0",
                "give at least 1",
            ),
            (
                "schedule",
                "has no `=`",
                "write `key=value`, such as `schedule.batch_size=64`",
            ),
        ] {
            let error = set(&[setting]).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert_eq!(error.hint().as_deref(), Some(hint));
        }
        for setting in ["name.x=1", "schedule.steps=many", "=1", "."] {
            assert!(set(&[setting]).is_err(), "{setting}");
        }
    }

    #[test]
    fn a_recipe_without_objectives_is_refused() {
        assert!(Recipe::from_toml("name = \"x\"", "r.toml").is_err());
    }
}
