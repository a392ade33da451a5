//! Runs steps on request. Waits, without computing, between requests, so that one implementation
//! at a time has the machine.

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;
use crate::workload::Prepared;

/// Answers every line of stdin with one line of JSON, until stdin ends.
///
/// `steps N` runs N training steps on the next N batches and answers with the seconds, the losses
/// and the gradient norm of each.
pub(crate) fn answer(mut prepared: Prepared) -> Result<()> {
    reply(&json!({
        "ready": true,
        "name": "chiasm",
        "version": env!("CARGO_PKG_VERSION"),
        "threads": rayon::current_num_threads(),
        "batches": prepared.batches.len(),
        "batch_size": prepared.recipe.schedule.batch_size,
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
            let batch = prepared
                .batches
                .get(next)
                .ok_or("the workload has no batches")?;
            next = (next + 1) % prepared.batches.len();
            let start = Instant::now();
            let record = prepared.trainer.train_step(std::slice::from_ref(batch))?;
            let seconds = start.elapsed().as_secs_f64();
            steps.push(json!({
                "seconds": seconds,
                "losses": record.terms,
                "gradient_norm": record.gradient_norm,
            }));
        }
        reply(&json!({ "steps": steps }))?;
    }
    Ok(())
}

fn reply(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}
