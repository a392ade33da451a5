//! How many multiply-adds a workload takes, by the count of `chiasm_objective::cost`.

use chiasm_data::HostBatch;
use chiasm_objective::cost::Pass;
use chiasm_objective::{Accounting, PlanCost, PlanSizes};

use crate::Result;
use crate::workload::{Kind, Prepared};

/// The plan of a training step on a batch.
pub(crate) fn plan(prepared: &Prepared, batch: &HostBatch, accounting: Accounting) -> PlanCost {
    let sizes = PlanSizes {
        batch: batch.samples.len(),
        frames: batch.views.frames,
        pictures: batch.views.pictures,
        text_len: mean(&batch.lengths),
        frozen: prepared.recipe.weights.frozen_towers(),
        gradient_checkpointing: prepared.recipe.schedule.gradient_checkpointing,
    };
    cost(prepared, sizes, accounting)
}

/// Multiply-adds of a step, or of a pass of one tower over all of its tokens.
pub(crate) fn of_batch(prepared: &Prepared, batch: &HostBatch) -> f64 {
    let plan = |accounting| plan(prepared, batch, accounting);
    match prepared.workload.kind {
        Kind::Step => plan(Accounting::Read).shared_step(),
        Kind::ImageForward => forward(&plan(Accounting::Whole), of_images),
        Kind::TextForward => forward(&plan(Accounting::Whole), of_texts),
        Kind::Retrieval | Kind::Loading => 0.0,
    }
}

/// Multiply-adds of an evaluation that looks at `pairs` pairs.
pub(crate) fn of_evaluation(prepared: &Prepared, pairs: usize) -> Result<f64> {
    let photos = prepared.photos()?;
    let most = prepared.model_config.text.max_text_len;
    let texts = photos.samples.iter().flat_map(|sample| &sample.texts);
    let lengths: Vec<usize> = texts
        .map(|text| prepared.tokenizer.encode(text, most).ids.len())
        .collect();
    let sizes = |batch| PlanSizes {
        batch,
        frames: 1,
        pictures: 1,
        text_len: mean(&lengths),
        frozen: prepared.recipe.weights.frozen_towers(),
        gradient_checkpointing: prepared.recipe.schedule.gradient_checkpointing,
    };
    let whole = |batch| cost(prepared, sizes(batch), Accounting::Whole);
    let images = forward(&whole(photos.samples.len()), of_images);
    let texts = forward(&whole(lengths.len()), of_texts);
    let read = cost(prepared, sizes(pairs), Accounting::Read);
    Ok(images + texts + forward(&read, |pass| matches!(pass, Pass::Fusion(_))))
}

fn cost(prepared: &Prepared, sizes: PlanSizes, accounting: Accounting) -> PlanCost {
    let objectives = &prepared.recipe.objectives;
    PlanCost::new(&prepared.model_config, objectives, sizes, accounting)
}

/// Multiply-adds of some passes, forward alone.
fn forward(cost: &PlanCost, wanted: fn(&Pass) -> bool) -> f64 {
    let passes = cost.passes.iter().filter(|cost| wanted(&cost.pass));
    passes.map(|cost| cost.forward).sum()
}

fn of_images(pass: &Pass) -> bool {
    matches!(pass, Pass::Patches | Pass::Image(_))
}

fn of_texts(pass: &Pass) -> bool {
    matches!(pass, Pass::Text(_))
}

fn mean(lengths: &[usize]) -> f64 {
    lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64
}
