//! A model as a person names it: the folder of a run, a model folder, or published weights.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use chiasm_data::{Dataset, Preprocess, TextTokenizer, Views};
use chiasm_eval::predictions::ModelIdentity;
use chiasm_eval::tasks::embedder::{Embedder, Towers};
use chiasm_explain::{Explainer, Subject};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::compute::{self, Products, is_fused};
use chiasm_nn::packed::{PackedWeights, Precision};
use chiasm_nn::published::encoder::{self, Encoder, Opened, Pooling, Sizes};
use chiasm_nn::published::scl;
use chiasm_nn::select::RuleName;
use chiasm_regions::Tower;
use chiasm_train::TrainedModel;
use chiasm_train::checkpoint::Checkpoint;
use chiasm_train::recipe::DataConfig;
use chiasm_train::{data, start};

use clap::ValueEnum as _;

use crate::cli::{CheckpointArg, PrecisionArg, ReadArgs, SourceArgs};
use crate::commands::eval::{self, BATCH_SIZE};
use crate::commands::pretrain;
use crate::error::CliError;
use crate::output::note;

/// A model that is ready for inference.
pub(crate) enum Model {
    /// Of our own.
    Own(Box<TrainedModel>),
    /// Somebody else's.
    Published(Box<Published>),
}

/// A published encoder with what lies beside its weights.
pub(crate) struct Published {
    name: String,
    opened: Opened,
    tokenizer: Option<TextTokenizer>,
    preprocess: Option<Preprocess>,
    pooling: Pooling,
    /// Its matrices as products take them.
    packed: PackedWeights,
}

impl Model {
    /// Opens what a path names.
    pub(crate) fn open(
        path: &Path,
        which: CheckpointArg,
        device: &Device,
    ) -> Result<Self, CliError> {
        Self::open_sized(path, which, Sizes::default(), device)
    }

    /// As [`Self::open`], its matrices multiplied in the precision that was asked for.
    pub(crate) fn read(path: &Path, how: ReadArgs, device: &Device) -> Result<Self, CliError> {
        Self::open(path, how.checkpoint, device)?.in_precision(how.precision, device)
    }

    /// As [`Self::read`], with the digest of the weights.
    pub(crate) fn read_identified(
        path: &Path,
        how: ReadArgs,
        device: &Device,
    ) -> Result<(Self, String), CliError> {
        let (model, fingerprint) = Self::open_identified(path, how.checkpoint, device)?;
        Ok((model.in_precision(how.precision, device)?, fingerprint))
    }

    fn in_precision(self, asked: PrecisionArg, device: &Device) -> Result<Self, CliError> {
        let name = asked.to_possible_value();
        let name = name.as_ref().map_or("", |value| value.get_name());
        let precision = match asked {
            PrecisionArg::F32 => return Ok(self),
            PrecisionArg::Bf16 if !is_fused(device) => {
                compute::choose_products(Products::Bf16);
                return Ok(self);
            }
            PrecisionArg::Bf16 => Precision::Bf16,
            PrecisionArg::Int8 if !is_fused(device) => {
                return Err(CliError::new(
                    format!("`--precision {name}` is for CPUs, with the kernels of our own"),
                    "write `--precision bf16`, or `--device cpu`".to_owned(),
                ));
            }
            PrecisionArg::Int8 => Precision::Int8,
        };
        if !precision.is_fast() {
            note(&format!(
                "this processor has no {}: products in {name} are slower than in f32 here",
                precision.instructions()
            ));
        }
        Ok(match self {
            Self::Own(trained) => Self::Own(Box::new(trained.in_precision(precision))),
            Self::Published(mut published) => {
                // First off the shelf: what lies there stays as it is.
                drop(std::mem::take(&mut published.packed));
                published.packed = published.opened.encoder.packed(precision);
                Self::Published(published)
            }
        })
    }

    /// As [`Self::open`], with the digest of the weights, which tells it from other models. A run's
    /// checkpoint is looked for once.
    pub(crate) fn open_identified(
        path: &Path,
        which: CheckpointArg,
        device: &Device,
    ) -> Result<(Self, String), CliError> {
        if !path.join("checkpoints").is_dir() {
            return Ok((Self::open(path, which, device)?, start::fingerprint(path)?));
        }
        let checkpoint = eval::usable(path, which)?;
        let trained = TrainedModel::load(&checkpoint, device)?;
        let fingerprint = start::fingerprint(&checkpoint.path)?;
        Ok((Self::Own(Box::new(trained)), fingerprint))
    }

    /// As [`Self::open`], published weights with other sizes than their own.
    pub(crate) fn open_sized(
        path: &Path,
        which: CheckpointArg,
        sizes: Sizes,
        device: &Device,
    ) -> Result<Self, CliError> {
        if path.join("checkpoints").is_dir() {
            let trained = Box::new(eval::load_run(path, which, device)?);
            return Self::of_own_size(trained, sizes);
        }
        let config = start::config_beside(path)?;
        let model_type = config.as_ref().and_then(|config| config.get("model_type"));
        if path.is_dir() && model_type.is_some_and(|kind| kind == scl::MODEL_TYPE) {
            let checkpoint = Checkpoint::of_model_folder(path)?;
            let trained = TrainedModel::load(&checkpoint, device)?;
            return Self::of_own_size(Box::new(trained), sizes);
        }
        let (state, config) = start::read(path)?;
        let opened = encoder::open(config.as_ref(), state, sizes, device)
            .map_err(|error| CliError::new(format!("{}: {error}", path.display()), None))?;
        let published = Published::beside(path, opened)?;
        note(&format!(
            "{} from {}: {} tensors, {} ignored, {} reshaped",
            published.opened.family.name(),
            path.display(),
            published.opened.report.matched.len(),
            published.opened.report.ignored.len(),
            published.opened.report.reshaped.len()
        ));
        Ok(Self::Published(Box::new(published)))
    }

    /// Whether it is a published model that reads a text with its picture, and neither alone.
    pub(crate) fn reads_pairs(&self) -> bool {
        matches!(self, Self::Published(published) if matches!(published.opened.encoder, Encoder::Pair(_)))
    }

    /// Whether it finds what texts refer to.
    pub(crate) fn grounds(&self) -> bool {
        matches!(self, Self::Own(trained) if trained.config.heads.grounding)
    }

    /// Attention keeps what a rule says, as it is typed.
    pub(crate) fn select(&mut self, typed: &str) -> Result<(), CliError> {
        let Self::Own(trained) = self else {
            return Err(CliError::new(
                "`--select` is for models of our own",
                "give a run".to_owned(),
            ));
        };
        let base = trained.config.select.clone().unwrap_or_default();
        let select = pretrain::selected(&base, typed)?;
        if select.rule == RuleName::Learned && trained.model.fusion.gates.is_none() {
            let value = select.value;
            return Err(CliError::new(
                format!("`--select {typed}`: the model has learned no gates"),
                format!(
                    "fine-tune it with `--select {typed}`, or take `prob_rel_mean={value}`, which keeps \
                     what fresh gates would"
                ),
            ));
        }
        trained.config.select = Some(select);
        let checked = trained.config.validate();
        checked.map_err(|error| CliError::new(error.to_string(), None))?;
        let select = trained.config.select.as_ref();
        trained.model.fusion.reselect(select);
        Ok(())
    }

    /// A trained model keeps the sizes that it was trained with.
    fn of_own_size(trained: Box<TrainedModel>, sizes: Sizes) -> Result<Self, CliError> {
        let own = trained.config.vision.image_size;
        match sizes.image_size {
            Some(size) if size != own => Err(CliError::new(
                format!("`--size {size}`: the model was trained on pictures of {own} pixels"),
                "leave `--size` out, or give published weights".to_owned(),
            )),
            _ => Ok(Self::Own(trained)),
        }
    }

    /// Its image tower, for features of places.
    pub(crate) fn tower<'a>(&'a self, device: &'a Device) -> Result<Tower<'a>, CliError> {
        match self {
            Self::Own(trained) => Ok(Tower::own(&trained.model, &trained.preprocess, device)?),
            Self::Published(published) => {
                let encoder = &published.opened.encoder;
                let preprocess = published.preprocess.as_ref().ok_or_else(|| {
                    CliError::new(
                        format!("{} is a model of texts", published.name),
                        "give an image tower: CLIP, ViT, DINOv2, a convolutional network, or a run"
                            .to_owned(),
                    )
                })?;
                Ok(Tower::published(encoder, preprocess, device)?)
            }
        }
    }

    /// What of a data set's samples it looks at.
    pub(crate) fn views(&self, config: &DataConfig, dataset: &Dataset) -> Views {
        match self {
            Self::Own(trained) => data::views(config, dataset, &trained.config),
            Self::Published(_) => Views::default(),
        }
    }

    /// The towers with what it takes to feed them.
    pub(crate) fn embedder<'a>(&'a self, device: &'a Device, views: Views) -> Embedder<'a> {
        match self {
            Self::Own(trained) => eval::embedder(trained, &trained.model, device, views),
            Self::Published(published) => {
                let encoder = &published.opened.encoder;
                Embedder {
                    towers: Towers::Published(encoder, published.pooling),
                    tokenizer: published.tokenizer.as_ref(),
                    preprocess: published.preprocess.as_ref(),
                    max_text_len: encoder.max_text_len().unwrap_or(0),
                    views,
                    blind: false,
                    device,
                    batch_size: BATCH_SIZE,
                }
            }
        }
    }

    /// Where samples come from: what was typed, over what the model was trained on.
    pub(crate) fn data(
        &self,
        data: Option<&str>,
        source: &SourceArgs,
    ) -> Result<DataConfig, CliError> {
        let mut config = match self {
            Self::Own(trained) => trained.recipe.data.clone(),
            Self::Published(_) if data.is_none() => {
                return Err(CliError::new(
                    "published weights come without data",
                    "name the pictures and texts with `--data`".to_owned(),
                ));
            }
            Self::Published(_) => DataConfig::default(),
        };
        source.apply(data, &mut config);
        if let Self::Own(trained) = self {
            chiasm_train::data::region_identity(&trained.config, &config)?;
            let most = trained.config.vision.max_frames.max(1);
            if config.frames > most {
                return Err(CliError::new(
                    format!(
                        "`--frames {}`: the model takes {most} at most",
                        config.frames
                    ),
                    None,
                ));
            }
        }
        Ok(config)
    }

    /// Where files about it go: into a run, or to where the command runs, since a model folder is not
    /// ours to write into.
    pub(crate) fn output_folder(&self, path: &Path) -> PathBuf {
        match self {
            Self::Own(_) if path.is_dir() => path.to_owned(),
            _ => PathBuf::new(),
        }
    }

    /// What it is called in a predictions file.
    pub(crate) fn identity(&self, path: &Path) -> ModelIdentity {
        match self {
            Self::Own(trained) => eval::identity(trained, path),
            Self::Published(published) => ModelIdentity {
                name: published.opened.family.name().to_owned(),
                run: published.name.clone(),
                step: None,
            },
        }
    }

    /// The model as something to be explained; one of our own with other weights or another selection,
    /// where `instead` is that.
    pub(crate) fn explainer<'a>(
        &'a self,
        instead: Option<&'a VisionLanguageModel>,
    ) -> Result<Explainer<'a>, CliError> {
        Ok(match self {
            Self::Own(trained) => Explainer {
                subject: Subject::Own(instead.unwrap_or(&trained.model)),
                tokenizer: Some(&trained.tokenizer),
                max_text_len: trained.config.text.max_text_len,
            },
            Self::Published(published) => {
                let encoder = &published.opened.encoder;
                Explainer {
                    subject: Subject::published(encoder)?,
                    tokenizer: published.tokenizer.as_ref(),
                    max_text_len: encoder.max_text_len().unwrap_or(0),
                }
            }
        })
    }

    /// How its pictures are prepared; a model of texts takes none.
    pub(crate) fn preprocess(&self) -> Option<&Preprocess> {
        match self {
            Self::Own(trained) => Some(&trained.preprocess),
            Self::Published(published) => published.preprocess.as_ref(),
        }
    }

    /// Candidates that the fusion encoder re-ranks unless something else is said.
    pub(crate) fn shortlist(&self) -> usize {
        match self {
            Self::Own(trained) => trained.shortlist(),
            Self::Published(_) => 0,
        }
    }
}

impl Published {
    /// Reads tokenizer, preprocessing and pooling beside the weights.
    fn beside(path: &Path, opened: Opened) -> Result<Self, CliError> {
        let folder = start::folder_of(path);
        let tokenizer = match opened.encoder.reads_texts() {
            true => TextTokenizer::from_folder(folder)?,
            false => None,
        };
        let file = folder.join("preprocessor_config.json");
        let preprocess = match opened.encoder.image_size() {
            Some(_) if file.is_file() => Some(read_preprocess(&file)?),
            _ => opened.preprocess(),
        };
        let file = folder.join("1_Pooling").join("config.json");
        let pooling = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| error.to_string())
                .and_then(|json| Pooling::from_json(&json).map_err(|error| error.to_string()))
                .map_err(|error| CliError::new(format!("{}: {error}", file.display()), None))?,
            Err(_) => Pooling::default(),
        };
        Ok(Self {
            name: path.file_name().map_or_else(
                || path.display().to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
            packed: opened.encoder.packed(Precision::default()),
            opened,
            tokenizer,
            preprocess,
            pooling,
        })
    }
}

fn read_preprocess(file: &Path) -> Result<Preprocess, CliError> {
    let wrong = |error: String| CliError::new(format!("{}: {error}", file.display()), None);
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    Preprocess::from_hf_json(&text).map_err(|error| wrong(error.to_string()))
}
