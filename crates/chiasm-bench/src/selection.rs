//! What selected attention costs: the same training steps with all of attention kept and with each rule,
//! in turns.

use std::path::Path;

use chiasm_nn::select::SelectConfig;
use serde_json::json;

use crate::Result;
use crate::workload::{self, Prepared};

/// Runs `rounds` turns of each, a step in a turn, and prints one line of JSON for every rule: the ratio of
/// its steps to those of plain attention in the same round. Time is that of the processor, user and
/// system, so that other programs hardly disturb it (Linux). The first step of each, in which kept
/// attention is counted as in one of twenty, is not timed.
pub(crate) fn measure(path: &Path, rules: &[String], rounds: usize) -> Result<()> {
    let mut runs = vec![("off".to_owned(), workload::prepare(path, None, |_| {})?)];
    for rule in rules {
        let config = SelectConfig {
            // At its full value from the first step.
            warmup_steps: Some(0),
            ..SelectConfig::default().typed(rule)?
        };
        let run = workload::prepare(path, None, |recipe| {
            recipe.model.select = Some(config);
        })?;
        runs.push((rule.clone(), run));
    }
    for (_, run) in &mut runs {
        step(run)?;
    }
    let mut seconds = vec![Vec::with_capacity(rounds); runs.len()];
    for round in 0..rounds {
        // Each is first, in the middle and last in some round.
        for place in 0..runs.len() {
            let place = (place + round) % runs.len();
            if let (Some((_, run)), Some(own)) = (runs.get_mut(place), seconds.get_mut(place)) {
                own.push(step(run)?);
            }
        }
    }
    let plain = seconds.first().cloned().unwrap_or_default();
    for ((rule, _), own) in runs.iter().zip(&seconds) {
        let ratios = own.iter().zip(&plain).map(|(own, plain)| own / plain);
        let line = json!({
            "rule": rule,
            "seconds": spread(own.iter().copied()),
            "ratio": spread(ratios),
        });
        crate::serve::reply(&line)?;
    }
    Ok(())
}

fn step(run: &mut Prepared) -> Result<f64> {
    let batch = run.batches.first().ok_or("the workload has no batches")?;
    let start = processor_seconds()?;
    run.trainer.train_step(std::slice::from_ref(batch))?;
    Ok(processor_seconds()? - start)
}

/// Processor time of this process's threads so far, in seconds.
fn processor_seconds() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let own = stat.split_whitespace().next();
        let own = own.and_then(|own| own.parse::<f64>().ok());
        nanoseconds += own.ok_or("the system does not count the time of threads")?;
    }
    Ok(nanoseconds / 1e9)
}

/// Median, quartiles, least and most.
fn spread(values: impl Iterator<Item = f64>) -> serde_json::Value {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = values.len().saturating_sub(1) as f64;
        values.get((share * last).round() as usize)
    };
    json!({
        "median": at(0.5),
        "quartiles": [at(0.25), at(0.75)],
        "least": at(0.0),
        "most": at(1.0),
    })
}
