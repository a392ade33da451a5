//! Writes a workload for another implementation: `workload.json`, `model.safetensors` and one
//! `batch_N.safetensors` a step.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use chiasm_data::{ImageSource, Sample, Views, Visual, encode_texts, eval_images};
use chiasm_nn::model::Seen;
use chiasm_nn::text::TextInput;
use chiasm_objective::StepInput;
use chiasm_objective::classification::ClassTargets;
use chiasm_train::checkpoint::MODEL_FILE;
use chiasm_train::prepare::preprocess;
use safetensors::tensor::{Dtype, View};
use serde_json::json;

use crate::workload::{Kind, Prepared};
use crate::{Result, photos};

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
    let mut files = Vec::new();
    match prepared.workload.kind {
        Kind::Retrieval => {
            let file = out.join("batch_0.safetensors");
            let photos = safetensors::serialize(split(prepared)?, None)?;
            std::fs::write(file, photos)?;
            batches.push(json!({ "file": "batch_0.safetensors", "fused_size": 0 }));
        }
        Kind::Loading => files = paths(prepared)?,
        Kind::Step | Kind::ImageForward | Kind::TextForward => {}
    }
    let settings = json!({
        "title": prepared.workload.title,
        "kind": prepared.workload.kind,
        "model": prepared.model_config,
        "objectives": recipe.objectives,
        "optimizer": recipe.optimizer,
        "schedule": recipe.schedule,
        "batches": batches,
        "files": files,
        "shortlist": recipe.evaluation.shortlist,
        "preprocess": preprocess(recipe),
        "batch_size": recipe.schedule.batch_size,
        "calls": photos::BATCH_SIZE,
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
    let mut found = seen(&input.seen)?;
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
    match &input.classes {
        None => {}
        Some(ClassTargets::Class(classes)) => vector("classes.labels", &widened(classes)),
        Some(ClassTargets::Shares(dense)) => {
            found.push(("classes.shares".to_owned(), rows(dense, input.fused_size)));
        }
        Some(ClassTargets::Worth(dense)) => {
            found.push(("classes.worth".to_owned(), rows(dense, input.fused_size)));
        }
    }
    Ok(found)
}

/// Pictures as clips of one frame, or as many regions of each picture.
fn seen(seen: &Seen) -> Result<Vec<(String, Bytes)>> {
    let named = |name: &str, bytes| (name.to_owned(), bytes);
    match seen {
        Seen::Pixels(pixels) => {
            let [images, frames, channels, height, width] = pixels.dims();
            let shape = [images * frames, channels, height, width];
            let pixels = floats(&pixels.clone().reshape(shape))?;
            Ok(vec![named("pixel_values", pixels)])
        }
        Seen::Regions(regions) => {
            let spans = &regions.features.spans;
            let each = spans.common_length();
            let each = each.ok_or("the twin takes as many regions of each picture")?;
            let by_picture = |rows: &Tensor<2>| {
                let [_, width] = rows.dims();
                floats(&rows.clone().reshape([spans.batch(), each, width]))
            };
            Ok(vec![
                named("region_features", by_picture(&regions.features.rows)?),
                named("boxes", by_picture(&regions.boxes)?),
            ])
        }
    }
}

/// All photos and texts of a split: pictures as the model takes them, padded texts, and the picture of
/// each text.
fn split(prepared: &Prepared) -> Result<Vec<(String, Bytes)>> {
    let photos = prepared.photos()?;
    let recipe = &prepared.recipe;
    let all: Vec<usize> = (0..photos.len()).collect();
    let pixels = eval_images(photos, &all, &preprocess(recipe), Views::default())?;
    let side = recipe.model.vision.image_size;
    let pairs = photos.pairs();
    let texts: Vec<&str> = (photos.samples.iter())
        .flat_map(|sample| sample.texts.iter().map(String::as_str))
        .collect();
    let (ids, mask, len) =
        encode_texts(&prepared.tokenizer, &texts, recipe.model.text.max_text_len);
    let of_text: Vec<usize> = pairs.iter().map(|(photo, _)| *photo).collect();
    let text_shape = [texts.len(), len];
    let pictures = [photos.len(), 3, side, side];
    Ok(vec![
        ("pixel_values".to_owned(), raw_floats(&pixels, &pictures)),
        ("clean.input_ids".to_owned(), ints(&ids, &text_shape)),
        ("clean.attention_mask".to_owned(), ints(&mask, &text_shape)),
        (
            "image_of_text".to_owned(),
            ints(&indices(&of_text), &[texts.len()]),
        ),
    ])
}

/// Files of the photos, in their order.
fn paths(prepared: &Prepared) -> Result<Vec<PathBuf>> {
    let path = |sample: &Sample| match &sample.visual {
        Visual::Image(ImageSource::Path(path)) => Ok(std::path::absolute(path)?),
        _ => Err("the twin reads files of pictures alone".into()),
    };
    prepared.photos()?.samples.iter().map(path).collect()
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
    Ok(raw_floats(&values, &tensor.dims()))
}

/// Values of so many rows.
fn rows(values: &[f32], count: usize) -> Bytes {
    raw_floats(values, &[count, values.len() / count.max(1)])
}

fn raw_floats(values: &[f32], shape: &[usize]) -> Bytes {
    Bytes {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    }
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
