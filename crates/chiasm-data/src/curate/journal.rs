//! How far the work has come, in a file that is whole or not there.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::atomic::write_bytes;
use crate::error::DataError;

/// Where a run stands. Everything before it is on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// What the work is done with; it is only continued with the same.
    pub(super) settings: Value,
    pub(super) phase: Phase,
}

/// What is being done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Rows are looked at one by one.
    Scoring {
        /// Rows whose facts are on disk.
        rows: u64,
    },
    /// Rows are compared. Starts over after a kill; it takes seconds.
    Comparing,
    /// Rows are written.
    Writing(Written),
    /// All rows are written; files get their names.
    Naming(Written),
}

/// How much has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) rows: u64,
    pub(super) kept: u64,
    pub(super) kept_bytes: u64,
    pub(super) dropped_bytes: u64,
    /// The score at which the best of all begin.
    pub(super) cut: Option<f32>,
}

impl Journal {
    /// Reads the journal of a folder; `None` where there is none.
    ///
    /// # Errors
    /// A file that cannot be read or is no journal.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, DataError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DataError::io(path, error)),
        };
        let journal = serde_json::from_slice(&bytes);
        journal.map(Some).map_err(|error| DataError::Parse {
            path: path.to_owned(),
            location: "its content".to_owned(),
            message: error.to_string(),
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), DataError> {
        let io = |error| DataError::io(path, error);
        let bytes = serde_json::to_vec(self).map_err(|error| io(error.into()))?;
        write_bytes(path, &bytes).map_err(io)
    }
}
