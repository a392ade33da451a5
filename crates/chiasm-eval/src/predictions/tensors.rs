//! Between tensors of the file and Rust values: names, types, byte order.

use std::borrow::Cow;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};

use super::{FORMAT_VERSION, METADATA_KEY, PredictionsError, PredictionsInfo};
use crate::metrics::{Direction, Reranked};

pub(super) const SCORES: &str = "scores";
pub(super) const IMAGE_OF_TEXT: &str = "image_of_text";

/// The JSON of the metadata entry.
#[derive(Serialize, Deserialize)]
pub(super) struct Header<'a> {
    pub(super) format_version: u32,
    #[serde(flatten)]
    pub(super) info: Cow<'a, PredictionsInfo>,
}

/// Read first, so that a newer file with other fields is told apart from a broken one.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

/// Names of the candidates and the scores of one direction.
pub(super) fn rerank_names(direction: Direction) -> [String; 2] {
    let side = match direction {
        Direction::TextToImage => "text_to_image",
        Direction::ImageToText => "image_to_text",
    };
    [
        format!("rerank.{side}.candidates"),
        format!("rerank.{side}.scores"),
    ]
}

/// A tensor to write.
pub(super) struct Tensor<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    F32(Cow<'a, [f32]>),
    I64(Vec<i64>),
}

impl<'a> Tensor<'a> {
    pub(super) fn f32(shape: [usize; 2], values: &'a [f32]) -> Self {
        Self {
            shape: shape.to_vec(),
            values: Values::F32(Cow::Borrowed(values)),
        }
    }

    pub(super) fn owned_f32(shape: [usize; 2], values: Vec<f32>) -> Self {
        Self {
            shape: shape.to_vec(),
            values: Values::F32(Cow::Owned(values)),
        }
    }

    /// Indices are below a length in memory, which never reaches 2^63.
    pub(super) fn indices(shape: Vec<usize>, values: impl Iterator<Item = usize>) -> Self {
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

/// A file being read: every failure names its path.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) tensors: SafeTensors<'a>,
}

impl Reader<'_> {
    pub(super) fn info(&self, json: Option<&String>) -> Result<PredictionsInfo, PredictionsError> {
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
                newest: FORMAT_VERSION,
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

    pub(super) fn f32_table(&self, name: &str) -> Result<([usize; 2], Vec<f32>), PredictionsError> {
        let (shape, bytes) = self.bytes(name, Dtype::F32, 2)?;
        let values = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        Ok((two(&shape), values))
    }

    pub(super) fn indices(
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

    pub(super) fn reranked(&self, direction: Direction) -> Result<Reranked, PredictionsError> {
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
