//! Predictions of alignment: how much attention lay on what a text names.
//!
//! JSON lines. The first is [`AlignmentInfo`] with `"chiasm.predictions": "alignment"`, `"version"`
//! ([`ALIGNMENT_VERSION`]) and `"rows"`; every other one is an [`AlignmentRow`]. A row without phrase is the global score
//! of a picture, at most one a picture; the others are local scores (`specs/scl.md` section 8):
//!
//! ```json
//! {"id":"42","phrase":null,"kind":"","score":0.5,"uniform":0.25,"pixel_score":null,"pixel_uniform":null}
//! {"id":"42","phrase":"a red hat","kind":"clothing","score":0.5,"uniform":0.125,"pixel_score":0.5,"pixel_uniform":0.0625}
//! ```

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::lines::{self, Lines, is_probability};
use super::{DatasetIdentity, ModelIdentity, PredictionsError, TrainingOverlap};

/// Version of the file of alignment that is written, and the newest one read.
pub const ALIGNMENT_VERSION: u32 = 1;

/// What the first line calls this kind of file.
pub(crate) const KIND: &str = "alignment";

/// What the file says about itself beside its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AlignmentInfo {
    /// Name of the split: `val`, `test`, ...
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that scored.
    pub model: ModelIdentity,
    /// Which attention was compared, for people: `last fusion layer, maximum over heads`. May be empty.
    #[serde(default)]
    pub attention: String,
    /// Phrases left out, as they do not occur in their caption.
    pub skipped_phrases: usize,
    /// What of this was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<TrainingOverlap>,
}

/// The score of a picture, or of one phrase of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AlignmentRow {
    /// Identifier of the picture.
    pub id: String,
    /// The phrase of a local score; `None` for the global score.
    pub phrase: Option<String>,
    /// What kind of thing the phrase names; empty when not said.
    #[serde(default)]
    pub kind: String,
    /// Share of attention inside the boxes, 0 to 1.
    pub score: f64,
    /// The same of uniform attention: the share of the picture in the boxes.
    pub uniform: f64,
    /// Share of attention on the pixels, 0 to 1; `None` when they are not known.
    #[serde(default)]
    pub pixel_score: Option<f64>,
    /// The same of uniform attention; there when `pixel_score` is.
    #[serde(default)]
    pub pixel_uniform: Option<f64>,
}

/// A file of alignment in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AlignmentPredictions {
    /// What was scored, by what.
    pub info: AlignmentInfo,
    /// Global and local scores in any order.
    pub rows: Vec<AlignmentRow>,
}

impl AlignmentPredictions {
    /// Writes the file at `path`, whole or not at all; an existing file is replaced.
    ///
    /// # Errors
    /// [`PredictionsError::Line`] when a row does not fit (nothing is written then), [`PredictionsError::Io`] when the
    /// file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), PredictionsError> {
        let mut check = Check::default();
        lines::write(
            path,
            KIND,
            ALIGNMENT_VERSION,
            &self.info,
            &self.rows,
            |row| check.row(row),
        )
    }

    /// Reads and checks the file at `path`, one line at a time.
    ///
    /// # Errors
    /// [`PredictionsError`], always naming the path, and the line when one is at fault.
    pub fn read(path: &Path) -> Result<Self, PredictionsError> {
        let (lines, info) = Lines::open::<AlignmentInfo>(path, KIND, ALIGNMENT_VERSION)?;
        let mut check = Check::default();
        let rows = lines.rows(|row| check.row(row))?;
        Ok(Self { info, rows })
    }
}

/// What holds of every file, written or read.
#[derive(Default)]
struct Check {
    /// Pictures with a global score.
    global: HashSet<String>,
}

impl Check {
    fn row(&mut self, row: &AlignmentRow) -> Result<(), String> {
        if row.phrase.is_none() && !self.global.insert(row.id.clone()) {
            return Err(format!("the picture `{}` has two global scores", row.id));
        }
        if row.pixel_score.is_some() != row.pixel_uniform.is_some() {
            return Err("one of `pixel_score` and `pixel_uniform` is missing".to_owned());
        }
        let shares = [
            ("score", Some(row.score)),
            ("uniform", Some(row.uniform)),
            ("pixel_score", row.pixel_score),
            ("pixel_uniform", row.pixel_uniform),
        ];
        for (field, share) in shares {
            if let Some(share) = share.filter(|share| !is_probability(*share)) {
                return Err(format!("`{field}` is {share}, not from 0 to 1"));
            }
        }
        Ok(())
    }
}
