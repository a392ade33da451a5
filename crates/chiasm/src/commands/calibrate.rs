//! `chiasm calibrate`: the value at which a rule of selected attention keeps a wanted share.

use std::fmt::Write as _;
use std::sync::Arc;

use chiasm_eval::tasks::embedder::{Embedder, TaskError, Towers};
use chiasm_nn::select::{Calibrated, KeptHead, Meter, RuleName, metered};
use serde::Serialize;

use crate::cli::{CalibrateArgs, Global};
use crate::commands::eval::{BATCH_SIZE, Bar};
use crate::error::CliError;
use crate::model::Model;
use crate::output;
use crate::{device, source};

/// What was found.
#[derive(Serialize)]
struct Report {
    split: String,
    samples: usize,
    wanted: f64,
    rules: Vec<Found>,
    /// Attention before anything is dropped, head by head.
    heads: Vec<KeptHead>,
}

#[derive(Serialize)]
struct Found {
    rule: RuleName,
    #[serde(flatten)]
    found: Calibrated,
}

pub(crate) fn run(args: &CalibrateArgs, global: &Global) -> Result<(), CliError> {
    if !(0.0..=1.0).contains(&args.keep) || args.keep <= 0.0 {
        return Err(CliError::new(
            format!("`--keep {}`: not a share above 0, and 1 at most", args.keep),
            "write for example `--keep 0.3`".to_owned(),
        ));
    }
    let rules = match args.rule.as_deref() {
        None => RuleName::ALL.to_vec(),
        Some(name) => vec![RuleName::of(name).ok_or_else(|| {
            let known: Vec<_> = RuleName::ALL.iter().map(|rule| rule.name()).collect();
            CliError::new(
                format!("there is no rule `{name}`"),
                format!("take one of {}", known.join(", ")),
            )
        })?],
    };
    let device = device::open(global)?;
    let mut model = Model::open(&args.run, args.checkpoint, &device)?;
    model.select("off")?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let folder = model.output_folder(&args.run);
    let checked = source::load(&config, &folder.join("quarantine-calibrate.jsonl"))?;
    let (mut subset, split) = source::select(&checked.dataset, args.split)?;
    if model.grounds() {
        subset = subset.referring();
    }
    subset.samples.truncate(args.limit);
    let embedder = model.embedder(&device, model.views(&config, &subset));
    let (mut found, mut heads) = (Vec::new(), Vec::new());
    for rule in rules {
        let meter = Arc::new(Meter::levels(rule));
        let mut bar = Bar::default();
        for start in (0..subset.len()).step_by(BATCH_SIZE) {
            let chunk: Vec<usize> = (start..subset.len().min(start + BATCH_SIZE)).collect();
            metered(&meter, || look(&embedder, &subset, &chunk))?;
            bar.show(rule.name(), start + chunk.len(), subset.len());
        }
        if let Some(value) = meter.value_for(args.keep) {
            found.push(Found { rule, found: value });
        }
        heads = meter.heads();
    }
    let report = Report {
        split,
        samples: subset.len(),
        wanted: args.keep,
        rules: found,
        heads,
    };
    output::report(global, &report, &table(&report))
}

/// Attention of the fusion encoder on some samples with their first texts.
fn look(
    embedder: &Embedder<'_>,
    dataset: &chiasm_data::Dataset,
    chunk: &[usize],
) -> Result<(), TaskError> {
    let Towers::Own(model) = embedder.towers else {
        return Err(TaskError::Lacks("pairs of text and picture"));
    };
    let seen = embedder.seen(dataset, chunk, embedder.views)?;
    let image = model
        .encode_seen(&seen)
        .ok_or(TaskError::Lacks("pictures"))?;
    let samples = chunk.iter().filter_map(|index| dataset.samples.get(*index));
    let texts: Vec<&str> = samples
        .map(|sample| sample.texts.first().map_or("", String::as_str))
        .collect();
    let text = model.encode_text(&embedder.input(&texts)?);
    let _ = model.fuse(&text, &image, seen.class_tokens());
    Ok(())
}

fn table(report: &Report) -> String {
    let mut table = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        table,
        "{} samples of `{}`; {:.1} % of attention's keys are to be kept",
        report.samples,
        report.split,
        100.0 * report.wanted
    );
    let _ = writeln!(
        table,
        "\n{:<16}{:>12}{:>10}{:>22}",
        "rule", "value", "kept", "probability dropped"
    );
    for Found { rule, found } in &report.rules {
        let _ = writeln!(
            table,
            "{:<16}{:>12.5}{:>8.1} %{:>20.1} %",
            rule.name(),
            found.value,
            100.0 * found.kept,
            100.0 * found.dropped
        );
    }
    let _ = writeln!(
        table,
        "\nuse it with `--select RULE=VALUE`, or in a recipe under `[model.select]`"
    );
    table
}
