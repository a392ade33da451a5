//! A run's report: one HTML page that opens anywhere without a network, and the same figures as JSON.
//!
//! The page shows the results, then searches or judged samples with their pictures, then the curves, then what ran. Pictures are embedded;
//! the JSON carries none. Every text that comes from data (captions, names, ids) is escaped: a caption is never markup.

mod chart;
mod classes;
mod grounding;
mod page;
pub mod sheet;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use chiasm_data::atomic::write_bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::metrics::{ChanceLevel, DirectionMetrics, RetrievalMetrics};
use crate::score::{ClassReport, GroundingReport, OverlapReport};

pub use classes::Judged;
pub use grounding::Found;

/// Name of the page inside the report's folder.
pub const HTML_NAME: &str = "report.html";

/// Name of the figures inside the report's folder.
pub const JSON_NAME: &str = "report.json";

/// Why a report cannot be written.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The file system refused.
    #[error("cannot write `{}`", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The built-in page template failed: a defect of this crate.
    #[error("the report's page cannot be rendered")]
    Page(#[from] minijinja::Error),
    /// The figures cannot be put into JSON: a defect of this crate.
    #[error("the report's figures cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl ReportError {
    /// What to do about it, for the one who prints the error.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => {
                Some("check that the folder can be written to and the disk has room")
            }
            Self::Page(_) | Self::Json(_) => Some("this is a defect of chiasm, please report it"),
        }
    }
}

/// Everything the page shows. Empty parts are left out of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// What ran.
    pub run: RunFacts,
    /// Rows of the results table, weakest first.
    pub results: Vec<ResultRow>,
    /// Figures of a classifier; `None` for a run that has none.
    #[serde(default)]
    pub classes: Option<ClassReport>,
    /// Figures of grounding; `None` for a run that has none.
    #[serde(default)]
    pub grounding: Option<GroundingReport>,
    /// What of the data was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<OverlapReport>,
    /// Sentences under the results table: which split, how ties count, how long the shortlist was.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Searches from held-out data, whose right answer is known.
    pub gallery: Vec<QueryResult>,
    /// Held-out samples and what a classifier said of them.
    #[serde(default)]
    pub judged: Vec<Judged>,
    /// Held-out texts and where a model found what they refer to.
    #[serde(default)]
    pub found: Vec<Found>,
    /// Free searches, without a right answer.
    pub examples: Vec<QueryResult>,
    /// What was measured along the way.
    pub curves: Vec<Curve>,
}

/// What ran, on what, for how long.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RunFacts {
    /// Recipe name.
    pub recipe: String,
    /// The command that does it again.
    pub command: String,
    /// Random seed.
    pub seed: u64,
    /// Device in words.
    pub device: String,
    /// Threads used.
    pub threads: usize,
    /// Wall-clock time in seconds.
    pub duration_seconds: f64,
    /// Dataset name.
    pub dataset: String,
    /// Hash of the dataset's content.
    pub fingerprint: String,
    /// Sizes of the splits.
    pub splits: Vec<SplitCount>,
    /// Trainable parameters.
    pub parameters: u64,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Training pairs per second, evaluation left out.
    pub samples_per_second: f64,
    /// Most memory the process held, in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// Versions and machine facts, by name.
    pub environment: BTreeMap<String, String>,
}

/// Size of one split.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SplitCount {
    /// `train`, `val`, ...
    pub name: String,
    /// Images in it.
    pub images: u64,
    /// Texts in it.
    pub texts: u64,
}

/// What a row of the results table stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// A random order of the candidates, in closed form.
    Chance,
    /// The model before its first step.
    Untrained,
    /// The trained model's first stage.
    Dual,
    /// The trained model after re-ranking.
    Reranked,
}

/// One row of the results table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultRow {
    /// What it stands for.
    pub kind: RowKind,
    /// Its name on the page.
    pub label: String,
    /// Texts looking for their image.
    pub text_to_image: ResultCells,
    /// Images looking for one of their texts.
    pub image_to_text: ResultCells,
    /// Whether the model was trained on pictures that it is scored on: its figures carry
    /// [`MARK`](crate::score::MARK).
    #[serde(default)]
    pub marked: bool,
}

impl ResultRow {
    /// The same row, marked or not.
    #[must_use]
    pub fn marked(self, marked: bool) -> Self {
        Self { marked, ..self }
    }

    /// A row of measured figures.
    #[must_use]
    pub fn measured(kind: RowKind, label: impl Into<String>, metrics: &RetrievalMetrics) -> Self {
        Self {
            kind,
            label: label.into(),
            text_to_image: (&metrics.text_to_image).into(),
            image_to_text: (&metrics.image_to_text).into(),
            marked: false,
        }
    }

    /// The chance row of the same data.
    #[must_use]
    pub fn chance(metrics: &RetrievalMetrics) -> Self {
        Self {
            kind: RowKind::Chance,
            label: "chance".to_owned(),
            text_to_image: (&metrics.text_to_image.chance).into(),
            image_to_text: (&metrics.image_to_text.chance).into(),
            marked: false,
        }
    }
}

/// Figures of one direction in a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ResultCells {
    /// A fraction.
    pub recall_at_1: f64,
    /// A fraction.
    pub recall_at_5: f64,
    /// A fraction.
    pub recall_at_10: f64,
    /// 1-based.
    pub median_rank: f64,
}

impl From<&DirectionMetrics> for ResultCells {
    fn from(metrics: &DirectionMetrics) -> Self {
        let &DirectionMetrics {
            recall_at_1,
            recall_at_5,
            recall_at_10,
            median_rank,
            ..
        } = metrics;
        Self {
            recall_at_1,
            recall_at_5,
            recall_at_10,
            median_rank,
        }
    }
}

impl From<&ChanceLevel> for ResultCells {
    fn from(chance: &ChanceLevel) -> Self {
        let &ChanceLevel {
            recall_at_1,
            recall_at_5,
            recall_at_10,
            median_rank,
        } = chance;
        Self {
            recall_at_1,
            recall_at_5,
            recall_at_10,
            median_rank,
        }
    }
}

/// Which chart a curve is drawn in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chart {
    /// Training losses.
    Loss,
    /// Recall on the validation split, fractions.
    ValidationRecall,
    /// Accuracy on the validation split, a fraction.
    ValidationAccuracy,
    /// The learning rate.
    LearningRate,
}

/// One line of a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Where it is drawn.
    pub chart: Chart,
    /// Its name in the legend.
    pub name: String,
    /// Unit of its values, empty for none.
    pub unit: String,
    /// (step, value), steps ascending. A value that is not finite leaves a gap in the line, and is `null` in JSON.
    #[serde(deserialize_with = "points_with_gaps")]
    pub points: Vec<(f64, f64)>,
}

fn points_with_gaps<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(f64, f64)>, D::Error> {
    let points = Vec::<(f64, Option<f64>)>::deserialize(deserializer)?;
    Ok(points
        .into_iter()
        .map(|(step, value)| (step, value.unwrap_or(f64::NAN)))
        .collect())
}

/// One search: a text and the images found for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct QueryResult {
    /// The text searched for.
    pub query: String,
    /// The right answer, where it is known.
    pub answer: Option<Answer>,
    /// The first hits, best first.
    pub top: Vec<Hit>,
}

/// The right answer of a search.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Its rank, 1-based.
    pub rank: usize,
    /// The encoded picture (PNG, JPEG, GIF or WebP). Not part of the JSON.
    #[serde(skip)]
    pub image: Option<Vec<u8>>,
}

/// One image found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Hit {
    /// The encoded picture (PNG, JPEG, GIF or WebP). Not part of the JSON.
    #[serde(skip)]
    pub image: Option<Vec<u8>>,
    /// A text of that image: its name on the page and for those who cannot see it.
    pub caption: String,
    /// The model's score; larger is better. `null` in JSON when not finite.
    #[serde(deserialize_with = "score_or_nan")]
    pub score: f32,
    /// Whether it is a right answer.
    pub correct: bool,
}

fn score_or_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Ok(Option::<f32>::deserialize(deserializer)?.unwrap_or(f32::NAN))
}

/// Writes [`HTML_NAME`] and [`JSON_NAME`] into `dir`, which is created when missing, and returns their paths. Each file is
/// replaced whole or not at all.
///
/// # Errors
/// [`ReportError::Io`] when the file system refuses.
pub fn write_report(report: &Report, dir: &Path) -> Result<(PathBuf, PathBuf), ReportError> {
    let (html, json) = (dir.join(HTML_NAME), dir.join(JSON_NAME));
    let page = page::render(report)?;
    let mut figures = serde_json::to_vec(report)?;
    figures.push(b'\n');
    fs::create_dir_all(dir).map_err(|source| ReportError::Io {
        path: dir.to_owned(),
        source,
    })?;
    for (path, bytes) in [(&html, page.as_bytes()), (&json, figures.as_slice())] {
        write_bytes(path, bytes).map_err(|source| ReportError::Io {
            path: path.clone(),
            source,
        })?;
    }
    Ok((html, json))
}
