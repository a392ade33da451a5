//! Writes a workload for another implementation: `workload.json`, `model.safetensors` and one
//! `batch_N.safetensors` a step.

use std::borrow::Cow;
use std::path::Path;

use burn::tensor::{DType, Int, Tensor};
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
            safetensors::serialize(tensors(&input)?, None)?,
        )?;
        batches.push(json!({ "file": name, "fused_size": input.fused_size }));
    }
    let recipe = &prepared.recipe;
    let settings = json!({
        "title": prepared.workload.title,
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

/// What a step reads, by name; an objective that is off leaves its tensors out.
fn tensors(input: &StepInput) -> Result<Vec<(&'static str, Bytes)>> {
    let mut found = vec![
        ("pixel_values", floats(&input.pixel_values)?),
        ("clean.input_ids", ints(&input.clean.input_ids)?),
        ("clean.attention_mask", ints(&input.clean.attention_mask)?),
    ];
    if let Some((text, targets)) = &input.mlm {
        found.push(("mlm.input_ids", ints(&text.input_ids)?));
        found.push(("mlm.attention_mask", ints(&text.attention_mask)?));
        found.push(("mlm.positions", ints(&targets.positions)?));
        found.push(("mlm.labels", ints(&targets.labels)?));
    }
    if let Some(text) = &input.masked {
        found.push(("masked.input_ids", ints(&text.input_ids)?));
        found.push(("masked.attention_mask", ints(&text.attention_mask)?));
    }
    if let Some(kept) = &input.kept_patches {
        found.push(("kept_patches", ints(kept)?));
    }
    if let Some((partner, labels)) = &input.matching {
        found.push(("matching.partner", ints(partner)?));
        found.push(("matching.labels", ints(labels)?));
    }
    Ok(found)
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

fn ints<const D: usize>(tensor: &Tensor<D, Int>) -> Result<Bytes> {
    let data = tensor.to_data().convert_dtype(DType::I64);
    let values = data
        .try_into_vec::<i64>()
        .map_err(|error| format!("integers that are not i64: {error:?}"))?;
    Ok(Bytes {
        dtype: Dtype::I64,
        shape: tensor.dims().to_vec(),
        data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    })
}
