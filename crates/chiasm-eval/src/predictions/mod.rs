//! Predictions files: everything a metric needs, nothing of the model.
//!
//! Classes, alignment, grounding and relations are JSON lines ([`classes`], [`alignment`], [`grounding`], [`relation`]). Retrieval is one `.safetensors` file:
//!
//! | tensor | type and shape |
//! |---|---|
//! | `scores` | f32 `[images, texts]`, larger is better |
//! | `image_of_text` | i64 `[texts]`, row of `scores` each text belongs to |
//! | `rerank.text_to_image.candidates`, `.scores` | i64 and f32 `[texts, n]`, optional |
//! | `rerank.image_to_text.candidates`, `.scores` | i64 and f32 `[images, n]`, present when the other pair is |
//!
//! The metadata entry [`METADATA_KEY`] holds [`PredictionsInfo`] as JSON, with [`FORMAT_VERSION`].
//! Version 2 added `training_overlap`; a file of version 1 is read as one that was never audited. A
//! program that knows version 1 alone refuses version 2, rather than print its figures unmarked.
//! `exhaustive_shortlist` came later within version 2: who does not know it shows the second stage over all candidates.

pub mod alignment;
pub mod classes;
mod error;
pub mod grounding;
mod lines;
pub mod relation;
mod tensors;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::{fs, io};

use chiasm_data::Finding;
use chiasm_data::atomic::write_atomically;
use safetensors::tensor::SafeTensorError;
use safetensors::{SafeTensors, serialize_to_file};
use serde::{Deserialize, Serialize};

pub use alignment::{AlignmentInfo, AlignmentPredictions, AlignmentRow};
pub use classes::{ClassInfo, ClassPredictions, ClassRow, Targets};
pub use error::PredictionsError;
pub use grounding::{GroundingInfo, GroundingPredictions, GroundingRow};
pub(crate) use lines::kind as kind_of_lines;
pub use relation::{Protocol, RelationInfo, RelationPredictions, RelationRow};
use tensors::{Header, IMAGE_OF_TEXT, Reader, SCORES, Tensor, rerank_names};

use crate::metrics::rerank::check;
use crate::metrics::scores::Pairing;
use crate::metrics::{Direction, Reranked, RetrievalError, ScoreMatrix};

/// Version written, and the newest one read.
pub const FORMAT_VERSION: u32 = 2;

/// Metadata entry of the file that holds [`PredictionsInfo`] as JSON.
pub const METADATA_KEY: &str = "chiasm.predictions";

/// The data scored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatasetIdentity {
    /// Name a person knows it by.
    pub name: String,
    /// Hash of the content, so that two scores can be known to be on the same data.
    pub fingerprint: String,
}

/// The model that scored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Recipe or checkpoint name.
    pub name: String,
    /// Identifier of the training run, empty when there was none.
    #[serde(default)]
    pub run: String,
    /// Optimiser steps taken.
    #[serde(default)]
    pub step: Option<u64>,
}

/// Which of the scored samples the model was trained on: the outcome of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrainingOverlap {
    /// The command that lists the overlap again.
    pub command: String,
    /// Samples trained on.
    pub training_samples: usize,
    /// Every overlap of a scored sample with one of these.
    pub findings: Vec<Finding>,
}

/// What the file says about itself beside the numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PredictionsInfo {
    /// Name of the split: `val`, `test`, ...
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that scored.
    pub model: ModelIdentity,
    /// One id per row of the score table.
    pub image_ids: Vec<String>,
    /// One id per column of the score table.
    pub text_ids: Vec<String>,
    /// The text of each column.
    pub texts: Vec<String>,
    /// What of this was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<TrainingOverlap>,
    /// Where the second stage scored every candidate: the length of the shortlist to compare that with, so that one file
    /// shows what a shortlist costs. `None` when it scored shortlists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhaustive_shortlist: Option<usize>,
}

/// Shortlists of both directions with their new scores.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RerankedPair {
    /// One row per text.
    pub text_to_image: Reranked,
    /// One row per image.
    pub image_to_text: Reranked,
}

/// A predictions file in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// What was scored, by what.
    pub info: PredictionsInfo,
    /// First-stage scores, `[images, texts]`.
    pub scores: ScoreMatrix,
    /// Row of `scores` each text belongs to.
    pub image_of_text: Vec<usize>,
    /// Second-stage scores, when there was a second stage. Within a direction all shortlists have one length.
    pub reranked: Option<RerankedPair>,
}

impl Predictions {
    /// Writes the file at `path`, whole or not at all; an existing file is replaced.
    ///
    /// # Errors
    /// [`PredictionsError`] when the parts do not fit together (nothing is written then) or the file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), PredictionsError> {
        self.validate(path)?;
        let mut tensors = vec![
            (
                SCORES.to_owned(),
                Tensor::f32(
                    [self.scores.images(), self.scores.texts()],
                    self.scores.as_slice(),
                ),
            ),
            (
                IMAGE_OF_TEXT.to_owned(),
                Tensor::indices(
                    vec![self.image_of_text.len()],
                    self.image_of_text.iter().copied(),
                ),
            ),
        ];
        for (direction, reranked) in self.directions() {
            let [candidates, scores] = rerank_names(direction);
            let shape = [
                reranked.scores.len(),
                reranked.scores.first().map_or(0, Vec::len),
            ];
            let flat = reranked
                .candidates
                .iter()
                .flatten()
                .map(|&candidate| candidate as usize);
            tensors.push((candidates, Tensor::indices(shape.to_vec(), flat)));
            tensors.push((scores, Tensor::owned_f32(shape, reranked.scores.concat())));
        }
        let header = Header {
            format_version: FORMAT_VERSION,
            info: Cow::Borrowed(&self.info),
        };
        let json = serde_json::to_string(&header).map_err(|error| PredictionsError::Metadata {
            path: path.to_owned(),
            what: error.to_string(),
        })?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        write_atomically(path, |partial| {
            // safetensors replaces the file by one that only its owner may read; a new file has the rights that the
            // user's settings give.
            let created = fs::File::create(partial)?.metadata()?;
            if !created.is_file() {
                // It would also replace a device or a pipe by a file.
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "something other than a regular file is there",
                ));
            }
            serialize_to_file(tensors, Some(metadata), partial).map_err(|error| match error {
                SafeTensorError::IoError(error) => error,
                other => io::Error::other(other),
            })?;
            fs::set_permissions(partial, created.permissions())
        })
        .map_err(|source| PredictionsError::Io {
            path: path.to_owned(),
            action: "write",
            source,
        })
    }

    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`PredictionsError`], always naming the path.
    pub fn read(path: &Path) -> Result<Self, PredictionsError> {
        let bytes = fs::read(path).map_err(|source| PredictionsError::Io {
            path: path.to_owned(),
            action: "read",
            source,
        })?;
        let not_whole = |source| PredictionsError::NotWhole {
            path: path.to_owned(),
            source,
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(not_whole)?;
        let file = Reader {
            path,
            tensors: SafeTensors::deserialize(&bytes).map_err(not_whole)?,
        };
        let info = file.info(
            metadata
                .metadata()
                .as_ref()
                .and_then(|entries| entries.get(METADATA_KEY)),
        )?;

        let ([images, texts], scores) = file.f32_table(SCORES)?;
        let scores = ScoreMatrix::new(scores, images, texts).map_err(|source| {
            PredictionsError::Inconsistent {
                path: path.to_owned(),
                source,
            }
        })?;
        let (_, image_of_text) = file.indices(IMAGE_OF_TEXT, 1)?;
        let names = [Direction::TextToImage, Direction::ImageToText].map(rerank_names);
        let reranked = if names
            .iter()
            .flatten()
            .any(|name| file.tensors.tensor(name).is_ok())
        {
            Some(RerankedPair {
                text_to_image: file.reranked(Direction::TextToImage)?,
                image_to_text: file.reranked(Direction::ImageToText)?,
            })
        } else {
            None
        };
        let predictions = Self {
            info,
            scores,
            image_of_text,
            reranked,
        };
        predictions.validate(path)?;
        Ok(predictions)
    }

    fn directions(&self) -> impl Iterator<Item = (Direction, &Reranked)> {
        self.reranked.iter().flat_map(|pair| {
            [
                (Direction::TextToImage, &pair.text_to_image),
                (Direction::ImageToText, &pair.image_to_text),
            ]
        })
    }

    fn validate(&self, path: &Path) -> Result<(), PredictionsError> {
        let (images, texts) = (self.scores.images(), self.scores.texts());
        for (field, given, wanted) in [
            ("image_ids", self.info.image_ids.len(), images),
            ("text_ids", self.info.text_ids.len(), texts),
            ("texts", self.info.texts.len(), texts),
        ] {
            if given != wanted {
                return Err(PredictionsError::Count {
                    path: path.to_owned(),
                    field,
                    given,
                    wanted,
                });
            }
        }
        let inconsistent = |source| PredictionsError::Inconsistent {
            path: path.to_owned(),
            source,
        };
        Pairing::new(&self.scores, &self.image_of_text).map_err(inconsistent)?;
        for (direction, reranked) in self.directions() {
            check(&self.scores, direction, reranked).map_err(inconsistent)?;
            let length = reranked.candidates.first().map_or(0, Vec::len);
            if let Some(query) = reranked
                .candidates
                .iter()
                .position(|row| row.len() != length)
            {
                let what = format!("not {length} candidates, as the first query has");
                return Err(inconsistent(RetrievalError::Shortlist {
                    direction,
                    query,
                    what,
                }));
            }
        }
        Ok(())
    }
}
