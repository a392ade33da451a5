//! The predictions file: everything a retrieval metric needs, nothing of the model.
//!
//! One `.safetensors` file:
//!
//! | tensor | type and shape |
//! |---|---|
//! | `scores` | f32 `[images, texts]`, larger is better |
//! | `image_of_text` | i64 `[texts]`, row of `scores` each text belongs to |
//! | `rerank.text_to_image.candidates`, `.scores` | i64 and f32 `[texts, n]`, optional |
//! | `rerank.image_to_text.candidates`, `.scores` | i64 and f32 `[images, n]`, present when the other pair is |
//!
//! The metadata entry [`METADATA_KEY`] holds [`PredictionsInfo`] as JSON, with [`FORMAT_VERSION`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use safetensors::tensor::{Dtype, SafeTensorError, View};
use safetensors::{SafeTensors, serialize_to_file};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::atomic::write_atomically;
use crate::metrics::rerank::check;
use crate::metrics::scores::Pairing;
use crate::metrics::{Direction, Reranked, RetrievalError, ScoreMatrix};

/// Version written, and the newest one read.
pub const FORMAT_VERSION: u32 = 1;

/// Metadata entry of the file that holds [`PredictionsInfo`] as JSON.
pub const METADATA_KEY: &str = "chiasm.predictions";

const SCORES: &str = "scores";
const IMAGE_OF_TEXT: &str = "image_of_text";

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
    /// A safetensors file without readable [`METADATA_KEY`].
    #[error("`{}` is not a predictions file: {what}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is missing or malformed.
        what: String,
    },
    /// Written by a newer version of this program.
    #[error("`{}` has predictions format {found}, this version reads up to {FORMAT_VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
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
        /// Field of [`PredictionsInfo`].
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
            Self::Tensor { .. } | Self::Count { .. } => {
                Some("write the predictions again from the same model and split")
            }
            Self::Inconsistent { source, .. } => source.hint(),
        }
    }
}

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
            serialize_to_file(tensors, Some(metadata), partial).map_err(|error| match error {
                SafeTensorError::IoError(error) => error,
                other => io::Error::other(other),
            })
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

/// The JSON of the metadata entry.
#[derive(Serialize, Deserialize)]
struct Header<'a> {
    format_version: u32,
    #[serde(flatten)]
    info: Cow<'a, PredictionsInfo>,
}

/// Read first, so that a newer file with other fields is told apart from a broken one.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

/// Names of the candidates and the scores of one direction.
fn rerank_names(direction: Direction) -> [String; 2] {
    let side = match direction {
        Direction::TextToImage => "text_to_image",
        Direction::ImageToText => "image_to_text",
    };
    [
        format!("rerank.{side}.candidates"),
        format!("rerank.{side}.scores"),
    ]
}

struct Tensor<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    F32(Cow<'a, [f32]>),
    I64(Vec<i64>),
}

impl<'a> Tensor<'a> {
    fn f32(shape: [usize; 2], values: &'a [f32]) -> Self {
        Self {
            shape: shape.to_vec(),
            values: Values::F32(Cow::Borrowed(values)),
        }
    }

    fn owned_f32(shape: [usize; 2], values: Vec<f32>) -> Self {
        Self {
            shape: shape.to_vec(),
            values: Values::F32(Cow::Owned(values)),
        }
    }

    /// Indices are below a length in memory, which never reaches 2^63.
    fn indices(shape: Vec<usize>, values: impl Iterator<Item = usize>) -> Self {
        Self {
            shape,
            values: Values::I64(values.map(|index| index as i64).collect()),
        }
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::F32(_) => Dtype::F32,
            Values::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match &self.values {
            Values::F32(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Values::I64(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        })
    }

    fn data_len(&self) -> usize {
        match &self.values {
            Values::F32(values) => size_of_val(values.as_ref()),
            Values::I64(values) => size_of_val(values.as_slice()),
        }
    }
}

struct Reader<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl Reader<'_> {
    fn info(&self, json: Option<&String>) -> Result<PredictionsInfo, PredictionsError> {
        let fail = |what: String| PredictionsError::Metadata {
            path: self.path.to_owned(),
            what,
        };
        let json = json.ok_or_else(|| fail(format!("no `{METADATA_KEY}` in its metadata")))?;
        let broken = |error: serde_json::Error| fail(format!("`{METADATA_KEY}`: {error}"));
        let VersionOnly {
            format_version: found,
        } = serde_json::from_str(json).map_err(broken)?;
        if found == 0 || found > FORMAT_VERSION {
            return Err(PredictionsError::Version {
                path: self.path.to_owned(),
                found,
            });
        }
        let header: Header<'static> = serde_json::from_str(json).map_err(broken)?;
        Ok(header.info.into_owned())
    }

    fn fail(&self, tensor: &str, what: String) -> PredictionsError {
        PredictionsError::Tensor {
            path: self.path.to_owned(),
            tensor: tensor.to_owned(),
            what,
        }
    }

    /// Shape and bytes of a tensor of the wanted type and rank.
    fn bytes(
        &self,
        name: &str,
        dtype: Dtype,
        rank: usize,
    ) -> Result<(Vec<usize>, &[u8]), PredictionsError> {
        let view = self
            .tensors
            .tensor(name)
            .map_err(|_| self.fail(name, "missing".to_owned()))?;
        if view.dtype() != dtype || view.shape().len() != rank {
            let what = format!(
                "{:?} {:?}, not {dtype:?} with {rank} dimensions",
                view.dtype(),
                view.shape()
            );
            return Err(self.fail(name, what));
        }
        Ok((view.shape().to_vec(), view.data()))
    }

    fn f32_table(&self, name: &str) -> Result<([usize; 2], Vec<f32>), PredictionsError> {
        let (shape, bytes) = self.bytes(name, Dtype::F32, 2)?;
        let values = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        Ok((two(&shape), values))
    }

    fn indices(
        &self,
        name: &str,
        rank: usize,
    ) -> Result<(Vec<usize>, Vec<usize>), PredictionsError> {
        let (shape, bytes) = self.bytes(name, Dtype::I64, rank)?;
        let values = bytes.as_chunks().0.iter().map(|&bytes| {
            let value = i64::from_le_bytes(bytes);
            usize::try_from(value).map_err(|_| self.fail(name, format!("index {value}")))
        });
        Ok((shape, values.collect::<Result<_, _>>()?))
    }

    fn reranked(&self, direction: Direction) -> Result<Reranked, PredictionsError> {
        let [candidates_name, scores_name] = rerank_names(direction);
        let (shape, candidates) = self.indices(&candidates_name, 2)?;
        let ([rows, length], scores) = self.f32_table(&scores_name)?;
        if shape != [rows, length] {
            return Err(self.fail(
                &scores_name,
                format!("shape [{rows}, {length}], candidates have {shape:?}"),
            ));
        }
        let candidates = candidates
            .into_iter()
            .map(|index| {
                u32::try_from(index)
                    .map_err(|_| self.fail(&candidates_name, format!("index {index}")))
            })
            .collect::<Result<Vec<u32>, _>>()?;
        Ok(Reranked {
            candidates: into_rows(&candidates, rows, length),
            scores: into_rows(&scores, rows, length),
        })
    }
}

fn two(shape: &[usize]) -> [usize; 2] {
    match shape {
        [rows, columns] => [*rows, *columns],
        _ => [0, 0],
    }
}

/// Rows of a table; `rows` empty ones when `length` is 0, where there is nothing to cut.
fn into_rows<T: Clone>(values: &[T], rows: usize, length: usize) -> Vec<Vec<T>> {
    if length == 0 {
        vec![Vec::new(); rows]
    } else {
        values.chunks_exact(length).map(<[T]>::to_vec).collect()
    }
}
