//! Placeholder.
use crate::check::Quarantine;
use crate::dataset::Dataset;
use crate::error::DataError;
use std::path::{Path, PathBuf};
/// Options.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Image column.
    pub image_column: Option<String>,
    /// Text column.
    pub text_column: Option<String>,
    /// Split column.
    pub split_column: Option<String>,
    /// Image root.
    pub image_root: Option<PathBuf>,
}
/// Opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Samples.
    pub dataset: Dataset,
    /// Refused rows.
    pub quarantine: Quarantine,
}
/// Opens.
pub fn open(path: &Path, _options: &OpenOptions) -> Result<Opened, DataError> {
    Err(DataError::UnknownFormat {
        path: path.to_owned(),
        detail: String::new(),
    })
}
