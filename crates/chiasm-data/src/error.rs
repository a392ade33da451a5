//! What can go wrong between a path and a batch.
//!
//! Messages say what is wrong and where; what to do about it is data ([`DataError::hint`]), so that
//! the command line and a server can render it in their own way.

use std::path::PathBuf;

use chiasm_format::PartsError;
use chiasm_format::shard::ShardError;

use crate::decode::DecodeError;
use crate::frames::ClipError;
use crate::regions::RegionIdentity;
use crate::tokenizer::TokenizerError;
use crate::transform::TransformError;

/// Any error of this crate that concerns a source, a file or a batch as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder could not be read or written.
    #[error("cannot access `{}`: {source}", path.display())]
    Io {
        /// The path that was being read or written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// An image file is larger than the byte cap.
    #[error("image file `{}` has {bytes} bytes, more than the cap {cap}", path.display())]
    TooLarge {
        /// The image file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The cap, [`crate::decode::MAX_FILE_BYTES`].
        cap: u64,
    },
    /// An image could not be decoded.
    #[error("image of sample `{id}` cannot be used: {source}\n  from: {origin}")]
    Decode {
        /// The sample.
        id: String,
        /// File and row the sample came from.
        origin: String,
        /// Why.
        source: DecodeError,
    },
    /// The frames of a clip cannot be had.
    #[error("clip of sample `{id}` cannot be used: {source}\n  from: {origin}")]
    Clip {
        /// The sample.
        id: String,
        /// File and row the sample came from.
        origin: String,
        /// Why.
        source: ClipError,
    },
    /// No reader knows this file.
    #[error("`{}` is not in a known data format{detail}", path.display())]
    UnknownFormat {
        /// The path that was given.
        path: PathBuf,
        /// What was found instead; empty or starting with a separator.
        detail: String,
    },
    /// A file does not parse as its format.
    #[error("`{}` cannot be parsed at {location}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, row or key.
        location: String,
        /// What is wrong there.
        message: String,
    },
    /// A file is a part of a data set, and the other part is not there.
    #[error("`{}` {missing}", path.display())]
    Incomplete {
        /// The file that is there.
        path: PathBuf,
        /// What is missing, as the rest of a sentence that the file begins.
        missing: String,
        /// What to name, and how.
        hint: String,
    },
    /// A pattern of file names cannot be used.
    #[error("`{}`: {reason}", pattern.display())]
    Pattern {
        /// As it was given.
        pattern: PathBuf,
        /// What is wrong with it, or that nothing matches.
        reason: String,
    },
    /// Features of regions are not those that a model was trained on.
    #[error("{}\n  from: {}", found.difference(expected), path.display())]
    RegionsDiffer {
        /// Where they are.
        path: PathBuf,
        /// What they are.
        found: Box<RegionIdentity>,
        /// What the model takes.
        expected: Box<RegionIdentity>,
    },
    /// Features of regions cannot be used.
    #[error("region features cannot be used: {reason}\n  from: {origin}")]
    Regions {
        /// File, and where in it.
        origin: String,
        /// What is wrong.
        reason: String,
        /// What to do about it, when there is something to do.
        hint: Option<String>,
    },
    /// A table has no column for a role.
    #[error(
        "`{}` has no {role} column{}; its columns are: {}",
        path.display(),
        wanted.as_ref().map(|name| format!(" named `{name}`")).unwrap_or_default(),
        list(existing)
    )]
    ColumnMissing {
        /// The table.
        path: PathBuf,
        /// `image`, `text` or `split`.
        role: &'static str,
        /// The name that was asked for; `None` when the names were guessed.
        wanted: Option<String>,
        /// The columns that exist.
        existing: Vec<String>,
        /// The existing column whose name is closest.
        nearest: Option<String>,
    },
    /// A source holds no usable row.
    #[error("`{}` holds no usable image with text ({rejected} rows rejected)", path.display())]
    Empty {
        /// The source.
        path: PathBuf,
        /// How many rows were read and refused.
        rejected: usize,
        /// The reason of the first refused row.
        first_reason: Option<String>,
    },
    /// A batch was asked of a data set without samples.
    #[error("data set `{name}` has no samples")]
    NoSamples {
        /// Name of the data set.
        name: String,
    },
    /// A sample reached the loader without text.
    #[error("sample `{id}` has no text\n  from: {origin}")]
    NoText {
        /// The sample.
        id: String,
        /// File and row the sample came from.
        origin: String,
    },
    /// A sample has nothing to show.
    #[error("sample `{id}` has no picture\n  from: {origin}")]
    NoPicture {
        /// The sample.
        id: String,
        /// File and row the sample came from.
        origin: String,
    },
    /// A sample has not as many pictures as are looked at together.
    #[error(
        "sample `{id}` has {found} pictures, and {wanted} are looked at together\n  from: {origin}"
    )]
    PictureCount {
        /// The sample.
        id: String,
        /// File and row the sample came from.
        origin: String,
        /// How many it has.
        found: usize,
        /// How many are looked at.
        wanted: usize,
    },
    /// An index is not in the data set.
    #[error("sample {index} does not exist: data set `{name}` has {len} samples")]
    OutOfRange {
        /// Name of the data set.
        name: String,
        /// The index asked for.
        index: usize,
        /// How many samples there are.
        len: usize,
    },
    /// Too many rows or images were refused.
    #[error(
        "{bad} of {total} images or rows cannot be used ({:.2} %), more than the allowed {:.2} %{}",
        100.0 * *bad as f64 / (*total).max(1) as f64,
        100.0 * max_rate,
        quarantine_file.as_ref().map(|path| format!("\n  list: {}", path.display())).unwrap_or_default()
    )]
    BadRate {
        /// How many were refused.
        bad: usize,
        /// Out of how many.
        total: usize,
        /// The allowed share.
        max_rate: f64,
        /// Where the list was written.
        quarantine_file: Option<PathBuf>,
    },
    /// The thread that prepares batches failed.
    #[error("the batch worker stopped at step {step}: {message}")]
    Worker {
        /// The step it was preparing.
        step: u64,
        /// Its panic message.
        message: String,
    },
    /// A setting is out of its range.
    #[error("setting `{name}` is {value}: {reason}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// Pairs cannot be chosen, see [`crate::curate`].
    #[error("{message}")]
    Curate {
        /// What is wrong.
        message: String,
        /// What to do about it, when there is something to do.
        hint: Option<String>,
    },
    /// A container of records cannot be read.
    #[error(transparent)]
    Format(#[from] chiasm_format::FormatError),
    /// The tokenizer cannot be read or trained.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Shards cannot be written.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Work cannot be shared.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// A preprocessing description cannot be used.
    #[error(transparent)]
    Transform(#[from] TransformError),
}

impl DataError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, path } if source.kind() == std::io::ErrorKind::NotFound => {
                Some(format!("check that `{}` exists and is spelled right", path.display()))
            }
            Self::TooLarge { .. } => Some("re-encode the picture at a smaller size".to_owned()),
            Self::Decode { source, .. } => source.hint(),
            Self::Clip { source, .. } => source.hint(),
            Self::UnknownFormat { .. } => Some(format!(
                "`chiasm data formats` describes what can be read; name one with `--format`: {}",
                crate::readers::format_names()
            )),
            Self::Incomplete { hint, .. } => Some(hint.clone()),
            Self::ColumnMissing { role, nearest, .. } => Some(match nearest {
                Some(column) => format!("if `{column}` is meant, pass `--{role}-column {column}`"),
                None => format!("name the column with `--{role}-column`"),
            }),
            Self::Empty { first_reason, .. } => {
                first_reason.as_ref().map(|reason| format!("the first row was rejected because: {reason}"))
            }
            Self::BadRate { .. } => {
                Some("repair or remove the listed rows, name the folder of the pictures with `--image-root` if they were not found, or allow more with `--max-bad-rate`".to_owned())
            }
            Self::Pattern { .. } => Some(
                "write `shards/*.tar` or `train-{00000..00041}.tar`, in quotes so that the shell leaves it alone"
                    .to_owned(),
            ),
            Self::PictureCount { found, .. } => Some(format!(
                "look at {found} pictures a sample, or take samples of another number out of the data"
            )),
            Self::Regions { hint, .. } | Self::Curate { hint, .. } => hint.clone(),
            Self::RegionsDiffer { expected, .. } => Some(expected.how_to_make()),
            Self::Format(error) => error.hint().map(str::to_owned),
            Self::Tokenizer(error) => error.hint(),
            Self::Transform(error) => error.hint(),
            Self::Shard(error) => error.hint(),
            Self::Parts(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }

    /// An I/O error that names its path.
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}

/// Column names for a message, each in backticks.
fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "(none)".to_owned();
    }
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
