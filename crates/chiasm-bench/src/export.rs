//! Writes a workload for another implementation: `workload.json`, `model.safetensors` and one
//! `batch_N.safetensors` a step.

use std::borrow::Cow;
use std::path::Path;

use burn::tensor::{DType, Tensor};
use chiasm_nn::model::Seen;
use chiasm_nn::text::TextInput;
use chiasm_objective::StepInput;
use chiasm_train::checkpoint::MODEL_FILE;
use safetensors::tensor::{Dtype, View};
use serde_json::json;

use crate::Result;
use crate::workload::Prepared;

/// Little-endian bytes with their shape, as the safetensors writer wants them.
struct Bytes {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// Writes everything; the folder is made if need be.
pub(crate) fn write(prepared: &Prepared, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let mut files = prepared.trainer.files()?;
    let weights = files
        .remove(MODEL_FILE)
        .ok_or("the run has no weights to write")?;
    std::fs::write(out.join(MODEL_FILE), weights)?;
    let mut batches = Vec::new();
    for (index, batch) in prepared.batches.iter().enumerate() {
        let input = prepared.trainer.step_input(batch);
        let name = format!("batch_{index}.safetensors");
        std::fs::write(
            out.join(&name),
            safetensors::serialize(tensors(&input, batch.pad_id)?, None)?,
        )?;
        batches.push(json!({ "file": name, "fused_size": input.fused_size }));
    }
    let recipe = &prepared.recipe;
    let settings = json!({
        "title": prepared.workload.title,
        "kind": prepared.workload.kind,
        "model": prepared.model_config,
        "objectives": recipe.objectives,
        "optimizer": recipe.optimizer,
        "schedule": recipe.schedule,
        "batches": batches,
    });
    std::fs::write(
        out.join("workload.json"),
        serde_json::to_vec_pretty(&settings)?,
    )?;
    Ok(())
}

/// What a step reads, by name, texts padded to the longest of the batch; an objective that is off
/// leaves its tensors out.
fn tensors(input: &StepInput, pad_id: i64) -> Result<Vec<(String, Bytes)>> {
    let len = input.clean.spans.longest();
    // The twin trains on pictures: clips of one frame.
    let Seen::Pixels(pixels) = &input.seen else {
        return Err("the twin sees pixels alone".into());
    };
    let [images, frames, channels, height, width] = pixels.dims();
    let pixels = pixels
        .clone()
        .reshape([images * frames, channels, height, width]);
    let mut found = vec![("pixel_values".to_owned(), floats(&pixels)?)];
    let mut text = |name: &str, text: &TextInput| {
        let batch = text.spans.batch();
        let (ids, mask) = padded(text, len, pad_id);
        found.push((format!("{name}.input_ids"), ints(&ids, &[batch, len])));
        found.push((format!("{name}.attention_mask"), ints(&mask, &[batch, len])));
    };
    text("clean", &input.clean);
    if let Some((mlm, _)) = &input.mlm {
        text("mlm", mlm);
    }
    if let Some(masked) = &input.masked {
        text("masked", &masked.input);
    }
    let mut vector = |name: &str, values: &[i64]| {
        found.push((name.to_owned(), ints(values, &[values.len()])));
    };
    if let Some((mlm, targets)) = &input.mlm {
        let places = places(mlm, len);
        let place = |position: &usize| places.get(*position).copied();
        let asked: Vec<i64> = targets.positions.iter().filter_map(place).collect();
        vector("mlm.positions", &asked);
        vector("mlm.labels", &widened(&targets.labels));
    }
    if let Some(kept) = &input.kept_patches {
        vector("kept_patches", &indices(&kept.rows));
    }
    if let Some(draw) = &input.matching {
        vector("matching.partner", &indices(&draw.partner));
        vector("matching.labels", &widened(&draw.labels));
    }
    Ok(found)
}

/// Place of every token in the padded batch, `row * len + column`.
fn places(text: &TextInput, len: usize) -> Vec<i64> {
    let rows = text.spans.lengths().enumerate();
    rows.flat_map(|(row, own)| (0..own).map(move |column| (row * len + column) as i64))
        .collect()
}

/// Ids and keep-mask, `[batch, len]`.
fn padded(text: &TextInput, len: usize, pad_id: i64) -> (Vec<i64>, Vec<i64>) {
    let count = text.spans.batch() * len;
    let (mut ids, mut mask) = (vec![pad_id; count], vec![0; count]);
    for (place, id) in places(text, len).into_iter().zip(text.ids.iter()) {
        ids[place as usize] = i64::from(*id);
        mask[place as usize] = 1;
    }
    (ids, mask)
}

fn indices(values: &[usize]) -> Vec<i64> {
    values.iter().map(|value| *value as i64).collect()
}

fn widened(values: &[u32]) -> Vec<i64> {
    values.iter().map(|value| i64::from(*value)).collect()
}

fn floats<const D: usize>(tensor: &Tensor<D>) -> Result<Bytes> {
    let data = tensor.to_data().convert_dtype(DType::F32);
    let values = data
        .try_into_vec::<f32>()
        .map_err(|error| format!("floats that are not f32: {error:?}"))?;
    Ok(Bytes {
        dtype: Dtype::F32,
        shape: tensor.dims().to_vec(),
        data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    })
}

fn ints(values: &[i64], shape: &[usize]) -> Bytes {
    Bytes {
        dtype: Dtype::I64,
        shape: shape.to_vec(),
        data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    }
}
