//! Predictions of explanations: maps of phrases by several methods, and what results lose with what maps name.
//!
//! JSON lines. The first is [`ExplanationInfo`] with `"chiasm.predictions": "explanation"`, `"version"`
//! ([`EXPLANATION_VERSION`]) and `"rows"`; every other one is an [`ExplanationRow`]. A row with a phrase has its boxes; one
//! without is of a whole text and has curves. Boxes are fractions of the picture: left, top, right, bottom.
//!
//! ```json
//! {"id":"42","text":0,"phrase":"a red hat","kind":"clothing","method":"rollout","side":2,"map":[0,1,0.5,0],"boxes":[[0.5,0,1,0.5]]}
//! {"id":"42","text":0,"phrase":null,"method":"rollout","side":2,"map":[0,1,0.5,0],"curves":{"deletion":[0.9,0.1],"insertion":[0.1,0.9],"random_deletion":[0.9,0.1],"random_insertion":[0.1,0.9]}}
//! ```

use std::path::Path;

use chiasm_data::Rect;
use serde::{Deserialize, Serialize};

use super::lines::{self, Lines};
use super::{DatasetIdentity, ModelIdentity, PredictionsError, TrainingOverlap};
use crate::metrics::explanation::Cells;

/// Version of the file of explanations that is written, and the newest one read.
pub const EXPLANATION_VERSION: u32 = 1;

/// What the first line calls this kind of file.
pub(crate) const KIND: &str = "explanation";

/// Layer and heads of an attention map that were chosen on a validation part.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Choice {
    /// The layer, from 0.
    pub layer: usize,
    /// `mean`, `max`, or the number of a head.
    pub heads: String,
    /// Share of phrases whose strongest place lies in a box, on the part that it was chosen on.
    pub pointing: f64,
    /// Phrases of that part.
    pub phrases: usize,
    /// Split that it was chosen on.
    pub split: String,
    /// Data that it was chosen on.
    pub dataset: DatasetIdentity,
    /// Optimiser steps of the model that it was chosen for.
    #[serde(default)]
    pub step: Option<u64>,
}

/// What the file says about itself beside its rows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ExplanationInfo {
    /// Name of the split: `val`, `test`, ...
    pub split: String,
    /// The data explained.
    pub dataset: DatasetIdentity,
    /// The model that was explained.
    pub model: ModelIdentity,
    /// What was explained: `match`, `cosine`, ...
    #[serde(default)]
    pub target: String,
    /// What attention keeps, as it was typed; empty where it is the model's own.
    #[serde(default)]
    pub select: String,
    /// Layer and heads of the method `attention`, where they were chosen.
    #[serde(default)]
    pub choice: Option<Choice>,
    /// Phrases left out: they do not occur in their caption, were cut off, or are of a picture without regions.
    pub skipped_phrases: usize,
    /// What of this was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<TrainingOverlap>,
}

/// Results as places go and come, from none to all in equal steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CurvesRow {
    /// The strongest places go first.
    pub deletion: Vec<f32>,
    /// The strongest places come first.
    pub insertion: Vec<f32>,
    /// Places go in a random order.
    pub random_deletion: Vec<f32>,
    /// Places come in a random order.
    pub random_insertion: Vec<f32>,
}

/// A map of a phrase, or of a whole text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ExplanationRow {
    /// Identifier of the picture.
    pub id: String,
    /// Which of its texts.
    pub text: usize,
    /// The phrase; `None` of the whole text.
    pub phrase: Option<String>,
    /// What kind of thing the phrase names; empty when not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The method.
    pub method: String,
    /// Squares along one side of the map; `None` of a map over regions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<usize>,
    /// The map, none negative, in parts of its largest value.
    pub map: Vec<f32>,
    /// Regions that the map is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<[f32; 4]>,
    /// Where what the phrase names is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boxes: Vec<[f32; 4]>,
    /// The map of the same model with random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_weights: Option<Vec<f32>>,
    /// What the result does as places go and come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curves: Option<CurvesRow>,
}

impl ExplanationRow {
    /// Regions of the map as boxes.
    #[must_use]
    pub fn region_boxes(&self) -> Vec<Rect> {
        rects(&self.regions)
    }

    /// Boxes of the phrase.
    #[must_use]
    pub fn phrase_boxes(&self) -> Vec<Rect> {
        rects(&self.boxes)
    }

    /// What the map is over; `regions` come from [`Self::region_boxes`].
    #[must_use]
    pub fn cells<'a>(&self, regions: &'a [Rect]) -> Cells<'a> {
        self.side.map_or(Cells::Regions(regions), Cells::Squares)
    }
}

fn rects(corners: &[[f32; 4]]) -> Vec<Rect> {
    let rect = |&[x1, y1, x2, y2]: &[f32; 4]| Rect { x1, y1, x2, y2 };
    corners.iter().map(rect).collect()
}

/// A file of explanations in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExplanationPredictions {
    /// What was explained, by what.
    pub info: ExplanationInfo,
    /// Maps in any order.
    pub rows: Vec<ExplanationRow>,
}

impl ExplanationPredictions {
    /// Writes the file at `path`, whole or not at all; an existing file is replaced.
    ///
    /// # Errors
    /// [`PredictionsError::Line`] when a row does not fit (nothing is written then), [`PredictionsError::Io`] when the
    /// file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), PredictionsError> {
        lines::write(
            path,
            KIND,
            EXPLANATION_VERSION,
            &self.info,
            &self.rows,
            check,
        )
    }

    /// Reads and checks the file at `path`, one line at a time.
    ///
    /// # Errors
    /// [`PredictionsError`], always naming the path, and the line when one is at fault.
    pub fn read(path: &Path) -> Result<Self, PredictionsError> {
        let (lines, info) = Lines::open::<ExplanationInfo>(path, KIND, EXPLANATION_VERSION)?;
        let rows = lines.rows(check)?;
        Ok(Self { info, rows })
    }
}

/// What holds of every row, written or read.
fn check(row: &ExplanationRow) -> Result<(), String> {
    let cells = match row.side {
        Some(side) => side.saturating_mul(side),
        None => row.regions.len(),
    };
    let maps = [
        ("map", Some(&row.map)),
        ("random_weights", row.random_weights.as_ref()),
    ];
    for (field, map) in maps {
        let Some(map) = map else {
            continue;
        };
        if map.len() != cells {
            return Err(format!(
                "`{field}` has {} values for {cells} cells",
                map.len()
            ));
        }
        if let Some(value) = map.iter().find(|value| !value.is_finite() || **value < 0.0) {
            return Err(format!("`{field}` has the value {value}"));
        }
    }
    if row.side.is_some() && !row.regions.is_empty() {
        return Err("it has both `side` and `regions`".to_owned());
    }
    let corners = row.boxes.iter().chain(&row.regions).flatten();
    if corners.into_iter().any(|corner| !corner.is_finite()) {
        return Err("a box has a corner that is not a number".to_owned());
    }
    if row.phrase.is_some() && row.boxes.is_empty() {
        return Err("a phrase has no boxes".to_owned());
    }
    if let Some(curves) = &row.curves {
        let all = [
            &curves.deletion,
            &curves.insertion,
            &curves.random_deletion,
            &curves.random_insertion,
        ];
        if all.iter().any(|curve| curve.len() < 2) {
            return Err("a curve has fewer than two values".to_owned());
        }
        if all
            .iter()
            .any(|curve| curve.iter().any(|value| !value.is_finite()))
        {
            return Err("a curve has a value that is not a number".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> ExplanationRow {
        ExplanationRow {
            id: "a".to_owned(),
            phrase: Some("a cat".to_owned()),
            method: "rollout".to_owned(),
            side: Some(1),
            map: vec![1.0],
            boxes: vec![[0.0, 0.0, 1.0, 1.0]],
            ..ExplanationRow::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let regions = ExplanationRow {
            side: None,
            regions: vec![[0.0, 0.0, 0.5, 0.5]],
            phrase: None,
            boxes: Vec::new(),
            curves: Some(CurvesRow {
                deletion: vec![1.0, 0.0],
                insertion: vec![0.0, 1.0],
                random_deletion: vec![1.0, 0.0],
                random_insertion: vec![0.0, 1.0],
            }),
            ..row()
        };
        let predictions = ExplanationPredictions {
            info: ExplanationInfo {
                split: "val".to_owned(),
                choice: Some(Choice::default()),
                ..ExplanationInfo::default()
            },
            rows: vec![row(), regions],
        };
        predictions.write(&path).unwrap();
        assert_eq!(ExplanationPredictions::read(&path).unwrap(), predictions);
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        for (edit, part) in [
            (
                &(|row: &mut ExplanationRow| row.side = Some(usize::MAX))
                    as &dyn Fn(&mut ExplanationRow),
                "cells",
            ),
            (&|row| row.map = vec![f32::NAN], "NaN"),
            (&|row| row.map = vec![-1.0], "-1"),
            (&|row| row.boxes.clear(), "no boxes"),
            (&|row| row.boxes[0][0] = f32::INFINITY, "corner"),
            (&|row| row.regions = vec![[0.0; 4]], "both"),
            (
                &|row| row.random_weights = Some(Vec::new()),
                "random_weights",
            ),
            (
                &|row| row.curves = Some(CurvesRow::default()),
                "fewer than two",
            ),
        ] {
            let mut wrong = row();
            edit(&mut wrong);
            assert!(check(&wrong).unwrap_err().contains(part), "{part}");
        }
    }
}
