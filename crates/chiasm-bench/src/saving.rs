//! What the forward plan saves: losses and gradients of the same steps with shared passes and with passes
//! of its own for each objective, in turns.

use std::time::Instant;

use burn::tensor::Tensor;
use chiasm_objective::{Accounting, Losses, losses};
use serde_json::json;

use crate::workload::Prepared;
use crate::{Result, work};

/// Runs `rounds` turns of each and prints one line of JSON: seconds of every turn, their ratios, the
/// losses of both, and the multiply-adds that the plan counts.
pub(crate) fn measure(prepared: &Prepared, rounds: usize) -> Result<()> {
    let (recipe, trainer) = (&prepared.recipe, &prepared.trainer);
    let batch = prepared
        .batches
        .first()
        .ok_or("the workload has no batches")?;
    let input = trainer.step_input(batch);
    let model = trainer.model();
    let run = |compute: &dyn Fn() -> Losses| -> Result<(f64, f64)> {
        let start = Instant::now();
        let total: Tensor<1> = compute().total().ok_or("the recipe has no objective")?;
        let value = f64::from(total.clone().into_scalar::<f32>());
        let gradients = total.backward();
        let seconds = start.elapsed().as_secs_f64();
        drop(gradients);
        Ok((seconds, value))
    };
    let shared = || losses::shared(model, &recipe.objectives, &input);
    let unshared = || losses::unshared(model, &recipe.objectives, &input);
    // Warm: memory of both is there before either is timed.
    run(&shared)?;
    run(&unshared)?;
    let mut turns = Vec::new();
    for _ in 0..rounds {
        turns.push((run(&shared)?, run(&unshared)?));
    }
    let mut ratios: Vec<f64> = turns.iter().map(|(one, other)| other.0 / one.0).collect();
    ratios.sort_by(f64::total_cmp);
    let cost = work::plan(prepared, batch, Accounting::Read);
    let line = json!({
        "recipe": recipe.name,
        "seconds_shared": turns.iter().map(|turn| turn.0.0).collect::<Vec<_>>(),
        "seconds_unshared": turns.iter().map(|turn| turn.1.0).collect::<Vec<_>>(),
        "times_faster": {
            "median": ratios.get(ratios.len() / 2),
            "least": ratios.first(),
            "most": ratios.last(),
        },
        "loss_shared": turns.first().map(|turn| turn.0.1),
        "loss_unshared": turns.first().map(|turn| turn.1.1),
        "gmac_shared": cost.shared_step() / 1e9,
        "gmac_unshared": cost.unshared_step() / 1e9,
        "times_fewer": cost.unshared_step() / cost.shared_step(),
    });
    crate::serve::reply(&line)
}
