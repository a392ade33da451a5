//! Predictions of grounding: which box of a picture a text refers to.
//!
//! JSON lines. The first is [`GroundingInfo`] with `"chiasm.predictions": "grounding"`, `"version"`
//! ([`GROUNDING_VERSION`]) and `"rows"`; every other one is a [`GroundingRow`], a text. Boxes are left, top, right, bottom in
//! pixels, the last ones included.
//!
//! ```json
//! {"id":"42","picture":"7","text":"the dog","kind":"animals","size":[640,480],"right":[0,0,99,99],"predicted":[0,0,89,99],"chosen":0,"regions":[[0,0,89,99]]}
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::lines::{self, Lines};
use super::{DatasetIdentity, ModelIdentity, PredictionsError, TrainingOverlap};

/// Version of the file of grounding that is written, and the newest one read.
pub const GROUNDING_VERSION: u32 = 1;

/// What the first line calls this kind of file.
pub(crate) const KIND: &str = "grounding";

/// What the file says about itself beside its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroundingInfo {
    /// Name of the split: `val`, `testA`, ...
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that scored.
    pub model: ModelIdentity,
    /// What of this was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<TrainingOverlap>,
}

/// What a model finds for one text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GroundingRow {
    /// Identifier of the text.
    pub id: String,
    /// Identifier of the picture.
    pub picture: String,
    /// The text.
    pub text: String,
    /// What kind of thing it names; empty when not said.
    #[serde(default)]
    pub kind: String,
    /// Width and height of the picture in pixels.
    pub size: [f64; 2],
    /// What the text refers to.
    pub right: [f64; 4],
    /// The box that was found; `None` of a picture without regions.
    pub predicted: Option<[f64; 4]>,
    /// Which region it is a correction of.
    pub chosen: Option<usize>,
    /// The regions that there were to choose from.
    pub regions: Vec<[f64; 4]>,
}

/// A file of grounding in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroundingPredictions {
    /// What was scored, by what.
    pub info: GroundingInfo,
    /// A row a text, in any order.
    pub rows: Vec<GroundingRow>,
}

impl GroundingPredictions {
    /// Writes the file at `path`, whole or not at all; an existing file is replaced.
    ///
    /// # Errors
    /// [`PredictionsError::Line`] when a row does not fit (nothing is written then), [`PredictionsError::Io`] when the
    /// file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), PredictionsError> {
        lines::write(path, KIND, GROUNDING_VERSION, &self.info, &self.rows, check)
    }

    /// Reads and checks the file at `path`, one line at a time.
    ///
    /// # Errors
    /// [`PredictionsError`], always naming the path, and the line when one is at fault.
    pub fn read(path: &Path) -> Result<Self, PredictionsError> {
        let (lines, info) = Lines::open::<GroundingInfo>(path, KIND, GROUNDING_VERSION)?;
        let rows = lines.rows(check)?;
        Ok(Self { info, rows })
    }
}

/// What holds of every row, written or read.
fn check(row: &GroundingRow) -> Result<(), String> {
    let boxes = row.regions.iter().chain([&row.right]).chain(&row.predicted);
    if boxes.flatten().any(|number| !number.is_finite()) {
        return Err("a box has a corner that is not a number".to_owned());
    }
    if row.size.iter().any(|side| !side.is_finite() || *side < 1.0) {
        return Err(format!(
            "`size` is {:?}: at least 1 by 1 is a picture",
            row.size
        ));
    }
    if let Some(chosen) = row.chosen.filter(|chosen| *chosen >= row.regions.len()) {
        let count = row.regions.len();
        return Err(format!("`chosen` is {chosen} of {count} regions"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> GroundingRow {
        GroundingRow {
            id: "a".to_owned(),
            size: [10.0, 10.0],
            predicted: Some([0.0; 4]),
            chosen: Some(0),
            regions: vec![[0.0; 4]],
            ..GroundingRow::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let none = GroundingRow {
            predicted: None,
            chosen: None,
            regions: Vec::new(),
            ..row()
        };
        let predictions = GroundingPredictions {
            info: GroundingInfo {
                split: "testA".to_owned(),
                ..GroundingInfo::default()
            },
            rows: vec![row(), none],
        };
        predictions.write(&path).unwrap();
        assert_eq!(GroundingPredictions::read(&path).unwrap(), predictions);
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        for (edit, part) in [
            (
                &(|row: &mut GroundingRow| row.right[2] = f64::NAN) as &dyn Fn(&mut GroundingRow),
                "corner",
            ),
            (&|row| row.size = [0.0, 5.0], "size"),
            (&|row| row.chosen = Some(1), "chosen"),
            (
                &|row| row.predicted = Some([0.0, 0.0, f64::INFINITY, 0.0]),
                "corner",
            ),
        ] {
            let mut wrong = row();
            edit(&mut wrong);
            assert!(check(&wrong).unwrap_err().contains(part));
        }
    }
}
