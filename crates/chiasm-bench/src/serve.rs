//! Runs steps on request. Waits, without computing, between requests, so that one implementation
//! at a time has the machine.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::{HostBatch, Loader};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::packed::{PackedWeights, Precision};
use chiasm_nn::text::TextInput;
use chiasm_train::Trainer;
use serde::Serialize;
use serde_json::{Value, json};

use crate::workload::{Kind, Prepared};
use crate::{Result, photos, work};

/// Columns of a forward pass's result that both sides report.
const COLUMNS: usize = 8;

/// What a step computed, by name: both sides must give the same.
pub(crate) type Values = BTreeMap<String, f64>;

/// A step that was timed.
#[derive(Serialize)]
struct Step {
    seconds: f64,
    values: Values,
    /// Of its matrix products, counted; 0 where there are none.
    multiply_adds: f64,
}

/// Answers every line of stdin with one line of JSON, until stdin ends.
///
/// `steps N` runs N steps on the next N batches and answers with the seconds and the values of each:
/// losses and the gradient norm of a training step, some sums of a forward pass. Of photos, a step is a
/// whole evaluation, or all batches.
pub(crate) fn answer(mut prepared: Prepared, precision: Precision) -> Result<()> {
    let kind = prepared.workload.kind;
    let (batches, items) = match kind {
        Kind::Step | Kind::ImageForward | Kind::TextForward => {
            (prepared.batches.len(), prepared.recipe.schedule.batch_size)
        }
        Kind::Retrieval => (1, prepared.photos()?.pairs().len()),
        Kind::Loading => (1, prepared.photos()?.len()),
    };
    // Not beside steps: weights change where they lie as long as nothing else holds them, and else in a
    // copy, which then is memory that no run takes.
    let model = match kind {
        Kind::ImageForward | Kind::TextForward | Kind::Retrieval => {
            Some(prepared.trainer.evaluation_model())
        }
        Kind::Step | Kind::Loading => None,
    };
    // As commands that only read a model have it.
    let _packed = model
        .as_ref()
        .map(|model| PackedWeights::of(model, precision));
    let loader = match kind {
        Kind::Loading => Some(photos::loader(&prepared)?),
        _ => None,
    };
    reply(&json!({
        "ready": true,
        "name": "chiasm",
        "version": env!("CARGO_PKG_VERSION"),
        "threads": rayon::current_num_threads(),
        "batches": batches,
        "batch_size": items,
    }))?;
    let mut next = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let count: usize = line
            .strip_prefix("steps ")
            .and_then(|count| count.trim().parse().ok())
            .ok_or_else(|| format!("unknown request `{line}`, expected `steps N`"))?;
        let mut steps = Vec::with_capacity(count);
        for _ in 0..count {
            steps.push(match (&loader, &model) {
                (Some(loader), _) => load(loader)?,
                (None, Some(model)) if matches!(kind, Kind::Retrieval) => {
                    evaluate(&prepared, model)?
                }
                (None, model) => compute(&mut prepared, model.as_ref(), next)?,
            });
            next = (next + 1) % batches.max(1);
        }
        reply(&json!({ "steps": steps }))?;
    }
    Ok(())
}

/// A step, or a forward pass of a model, on a batch.
fn compute(
    prepared: &mut Prepared,
    model: Option<&VisionLanguageModel>,
    number: usize,
) -> Result<Step> {
    let batch = prepared.batches.get(number);
    let batch = batch.ok_or("the workload has no batches")?;
    let start = Instant::now();
    let values = match (prepared.workload.kind, model) {
        (Kind::ImageForward, Some(model)) => means(look(model, batch)?)?,
        (Kind::TextForward, Some(model)) => means(read(model, batch))?,
        _ => train(&mut prepared.trainer, batch)?,
    };
    let seconds = start.elapsed().as_secs_f64();
    Ok(Step {
        seconds,
        values,
        multiply_adds: work::of_batch(prepared, batch),
    })
}

/// One evaluation.
fn evaluate(prepared: &Prepared, model: &VisionLanguageModel) -> Result<Step> {
    let start = Instant::now();
    let (predictions, report) = photos::evaluate(prepared, model)?;
    let seconds = start.elapsed().as_secs_f64();
    let (values, pairs) = photos::found(&predictions, &report)?;
    Ok(Step {
        seconds,
        values,
        multiply_adds: work::of_evaluation(prepared, pairs)?,
    })
}

/// All batches of all photos.
fn load(loader: &Loader) -> Result<Step> {
    let start = Instant::now();
    let values = photos::load(loader)?;
    Ok(Step {
        seconds: start.elapsed().as_secs_f64(),
        values,
        multiply_adds: 0.0,
    })
}

/// One training step: its losses and gradient norm.
fn train(trainer: &mut Trainer, batch: &HostBatch) -> Result<Values> {
    let record = trainer.train_step(std::slice::from_ref(batch))?;
    let mut values = record.terms;
    values.insert("gradient norm".to_owned(), record.gradient_norm);
    Ok(values)
}

/// The text tower on one batch, `[tokens, width]`.
fn read(model: &VisionLanguageModel, batch: &HostBatch) -> Tensor<2> {
    let input = TextInput::from_padded(&batch.input_ids, &batch.attention_mask, batch.text_len);
    model.text.forward(&input).rows
}

/// The image tower on one batch, `[tokens, width]`.
fn look(model: &VisionLanguageModel, batch: &HostBatch) -> Result<Tensor<2>> {
    let side = batch.image_size;
    let shape = [batch.samples.len(), 3, side, side];
    let pixels = TensorData::new(batch.pixel_values.clone(), shape);
    let vision = model.vision.as_ref().ok_or("the model sees no pixels")?;
    let patches = vision.embed_patches(Tensor::from_data(pixels, &Device::flex()));
    Ok(vision.encode(&patches).rows)
}

/// The mean of some columns of what a tower gives.
fn means(encoded: Tensor<2>) -> Result<Values> {
    let columns = encoded.mean_dim(0).narrow(1, 0, COLUMNS);
    let means = columns.into_data().try_into_vec::<f32>();
    let means = means.map_err(|error| format!("no values: {error:?}"))?;
    let name = |(column, mean)| (format!("column {column}"), f64::from(mean));
    Ok(means.into_iter().enumerate().map(name).collect())
}

/// A line of JSON to stdout.
pub(crate) fn reply(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}
