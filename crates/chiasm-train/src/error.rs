//! What can stop a run, and what the reader can do about it.

use std::io;
use std::path::{Path, PathBuf};

use chiasm_data::{DataError, TokenizerError};
use chiasm_nn::weights::WeightError;
use chiasm_ranks::RankError;
use chiasm_relation::RelationError;

/// An error of training; [`TrainError::hint`] says how to go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe cannot be understood.
    #[error("{path}: {message}")]
    Recipe {
        /// File, or where else the text came from.
        path: String,
        /// What is wrong, with line and key.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The texts or the file give no tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Weights do not fit the model.
    #[error("{path}: {source}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: WeightError,
    },
    /// A checkpoint is incomplete or damaged.
    #[error("checkpoint {path} cannot be used: {reason}")]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no usable checkpoint.
    #[error("no usable checkpoint in {path}{}", damaged_list(damaged))]
    NoCheckpoint {
        /// The folder searched.
        path: PathBuf,
        /// Checkpoints that were found damaged, newest first.
        damaged: Vec<String>,
    },
    /// The run folder already holds a run.
    #[error("{path} already holds a run")]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// The run being resumed was made by another recipe or on other data.
    #[error("the run in {path} differs from what is asked for now: {what}")]
    ResumeMismatch {
        /// The run folder.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Loss or gradient stopped being a number.
    #[error("step {step}: {what} is not finite; samples: {}", samples.join(", "))]
    NotFinite {
        /// Optimiser step.
        step: u64,
        /// Loss or gradient.
        what: String,
        /// Ids of the samples of the step.
        samples: Vec<String>,
    },
    /// The pairs of a chunk cannot be grouped.
    #[error("chunk {chunk}{}: {source}", of_sample(sample.as_deref()))]
    Clusters {
        /// Number of the chunk, from 0.
        chunk: u64,
        /// Id of the sample that is to blame, where there is one.
        sample: Option<String>,
        /// What is wrong.
        source: RelationError,
    },
    /// Another rank of the run is gone, or has failed.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// The device did not return a result.
    #[error("the device returned no values: {0}")]
    Device(String),
    /// The evaluation that runs during training failed.
    #[error("evaluation during training: {0}")]
    Evaluation(String),
}

impl TrainError {
    /// How to go on, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Recipe { hint, .. } => hint.clone(),
            Self::Data(error) => error.hint(),
            Self::Tokenizer(error) => error.hint(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(
                "free some space and run the command again with `--resume`; the last checkpoint is intact"
                    .to_owned(),
            ),
            Self::RunExists { .. } => Some(
                "add `--resume` to go on with it, or give another folder with `--out`".to_owned(),
            ),
            Self::NoCheckpoint { .. } => {
                Some("run `chiasm pretrain` first, or name another run".to_owned())
            }
            Self::ResumeMismatch { .. } => Some(
                "resume with the recipe, data and seed that the run began with, or give another folder with `--out`"
                    .to_owned(),
            ),
            Self::NotFinite { .. } => Some(
                "lower `optimizer.learning_rate` or set `schedule.clip_norm`; the last checkpoint is intact"
                    .to_owned(),
            ),
            Self::Ranks(error) => error.hint(),
            Self::Clusters { source, .. } => source.hint().map(str::to_owned),
            Self::Device(_)
            | Self::Weights { .. }
            | Self::Io { .. }
            | Self::Checkpoint { .. }
            | Self::Evaluation(_) => None,
        }
    }

    /// Wraps an I/O error with its path.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }
}

fn of_sample(id: Option<&str>) -> String {
    id.map_or_else(String::new, |id| format!(", sample `{id}`"))
}

fn damaged_list(damaged: &[String]) -> String {
    if damaged.is_empty() {
        String::new()
    } else {
        format!("; damaged: {}", damaged.join("; "))
    }
}
