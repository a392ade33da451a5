//! What can be wrong with an index, a record, a query or a filter, as data.

use std::io;
use std::path::{Path, PathBuf};

use crate::layout::Identity;

/// Any error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A file or folder could not be read or written.
    #[error("cannot access `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The folder holds no index.
    #[error("`{}` is no index: it has no `index.json`", folder.display())]
    NoIndex {
        /// The folder.
        folder: PathBuf,
    },
    /// There is an index where a new one should begin.
    #[error("`{}` already holds an index", folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },
    /// The index was made by another model.
    #[error("`{place}` was made by another model\n  index: {found}\n  asked: {asked}")]
    OtherModel {
        /// The folder or database.
        place: String,
        /// What the index was made by.
        found: Box<Identity>,
        /// What it should be searched or continued with.
        asked: Box<Identity>,
    },
    /// An identity that no index can have.
    #[error("no index can be made: {reason}")]
    Identity {
        /// Why.
        reason: String,
    },
    /// Bytes that are not what was committed.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// An index of a format that this program does not know.
    #[error("`{}` has format {found}, this program reads {known}", path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// What is known here.
        known: u32,
    },
    /// Another writer holds the index.
    #[error("another process or thread writes to `{}`", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A record that cannot be kept. Nothing was written for it.
    #[error("record `{key}` cannot be added: {reason}")]
    Record {
        /// Its key.
        key: String,
        /// Why.
        reason: String,
    },
    /// A query that has no nearest vectors.
    #[error("query {index} cannot be searched for: {reason}")]
    Query {
        /// Which of the queries, from 0.
        index: usize,
        /// Why.
        reason: String,
    },
    /// A row that is not in the index.
    #[error("there is no row {row}: it was removed, or the index has only {rows} rows")]
    NoRow {
        /// The row that was asked for.
        row: usize,
        /// How many there are, those removed included.
        rows: usize,
    },
    /// A filter that does not follow the grammar.
    #[error("the filter `{text}` cannot be read at character {at}: {reason}")]
    Filter {
        /// The filter as it was written.
        text: String,
        /// Where, in characters from 1.
        at: usize,
        /// What is wrong there.
        reason: String,
    },
    /// An earlier write failed.
    #[error("an earlier write failed; open the index again to go on after the last commit")]
    Stopped,
    /// A database that holds an index reports an error of its own.
    #[error("{source}")]
    Elsewhere {
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What can be done about it.
        hint: Option<String>,
    },
}

impl IndexError {
    /// What the person can do about it, when there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Elsewhere { hint, .. } => hint.as_deref(),
            Self::NoIndex { .. } => Some("make one with `chiasm index`, or check the path"),
            Self::Exists { .. } => Some("continue it, or choose another folder"),
            Self::OtherModel { .. } => {
                Some("use the model that made the index, or make a new index in another folder")
            }
            Self::Damaged { .. } => {
                Some("restore the folder from a copy, or remove it and make the index again")
            }
            Self::Format { .. } => {
                Some("use the program that made the index, or make the index again")
            }
            Self::Busy { .. } => Some("wait until it has ended; searching is possible meanwhile"),
            Self::Filter { .. } => Some(
                "a filter is `field=value`, with =, !=, <, <=, >, >= or ~ (contains), joined by commas or `and`; \
                 a value with a comma stands in double quotes",
            ),
            _ => None,
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}
