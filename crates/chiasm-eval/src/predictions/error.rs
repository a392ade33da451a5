//! What can be wrong with a predictions file.

use std::io;
use std::path::PathBuf;

use safetensors::SafeTensorError;
use thiserror::Error;

use crate::metrics::RetrievalError;

/// Why a predictions file cannot be written or read.
#[derive(Debug, Error)]
pub enum PredictionsError {
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `write`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Not a safetensors file, or a part of one.
    #[error("`{}` is not a whole safetensors file", path.display())]
    NotWhole {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: SafeTensorError,
    },
    /// A safetensors file, or a first line, without readable [`METADATA_KEY`](super::METADATA_KEY).
    #[error("`{}` is not a predictions file: {what}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is missing or malformed.
        what: String,
    },
    /// Written by a newer version of this program.
    #[error("`{}` has predictions format {found}, this version reads up to {newest}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version of this kind of file that is read.
        newest: u32,
    },
    /// A line of a file of lines is malformed, or its values do not fit.
    #[error("line {line} of `{}`: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What does not fit.
        what: String,
    },
    /// A tensor is missing, or its type, shape or values do not fit.
    #[error("tensor `{tensor}` of `{}`: {what}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What does not fit.
        what: String,
    },
    /// Ids or texts do not match the score table.
    #[error("`{field}` in the metadata of `{}` has {given} entries for {wanted}", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// Field of [`PredictionsInfo`](super::PredictionsInfo).
        field: &'static str,
        /// Entries given.
        given: usize,
        /// Rows or columns of the score table.
        wanted: usize,
    },
    /// The parts do not fit each other.
    #[error("predictions of `{}` do not fit together", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: RetrievalError,
    },
}

impl PredictionsError {
    /// What to do about it, for the one who prints the error.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => None,
            Self::NotWhole { .. } => {
                Some("the file was cut short or is something else: write the predictions again")
            }
            Self::Metadata { .. } => {
                Some("give the file that an evaluation wrote, not a checkpoint")
            }
            Self::Version { .. } => {
                Some("read it with the version that wrote it, or write the predictions again")
            }
            Self::Tensor { .. } | Self::Count { .. } | Self::Line { .. } => {
                Some("write the predictions again from the same model and split")
            }
            Self::Inconsistent { source, .. } => source.hint(),
        }
    }
}
