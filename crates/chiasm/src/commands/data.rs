//! `chiasm data check`: what a data set holds and what of it cannot be used.

use std::path::Path;

use chiasm_data::check::{Spread, Summary};
use chiasm_data::readers::FORMATS;
use chiasm_train::recipe::DataConfig;
use serde::Serialize;

use crate::cli::{DataArgs, DataCommand, Global, SourceArgs};
use crate::error::CliError;
use crate::output;
use crate::source::{Checked, open_and_check};

#[derive(Serialize)]
struct Report<'a> {
    source: &'a str,
    total: usize,
    usable: usize,
    quarantined: usize,
    quarantine_file: Option<String>,
    splits: std::collections::BTreeMap<String, [usize; 2]>,
    summary: &'a Summary,
}

pub(crate) fn run(args: &DataArgs, global: &Global) -> Result<(), CliError> {
    match &args.command {
        DataCommand::Formats => {
            formats();
            Ok(())
        }
        DataCommand::Check {
            path,
            source,
            quarantine,
        } => check(path, source, quarantine, global),
    }
}

/// A line a format.
fn formats() {
    for format in FORMATS {
        output::result(&format!("{:<20} {}", format.name, format.what));
    }
}

fn check(
    path: &str,
    source: &SourceArgs,
    quarantine: &Path,
    global: &Global,
) -> Result<(), CliError> {
    let mut config = DataConfig::default();
    source.apply(Some(path), &mut config);
    let checked = open_and_check(&config)?;
    if !checked.quarantine.is_empty() {
        checked.quarantine.write_jsonl(quarantine)?;
    }
    let report = Report {
        source: path,
        total: checked.total,
        usable: checked.dataset.len(),
        quarantined: checked.quarantine.len(),
        quarantine_file: (!checked.quarantine.is_empty()).then(|| quarantine.display().to_string()),
        splits: checked
            .dataset
            .counts()
            .into_iter()
            .map(|(split, count)| (split.to_string(), [count.images, count.texts]))
            .collect(),
        summary: &checked.summary,
    };
    if global.json {
        output::json(&report)?;
    } else {
        output::result(&table(&report, &checked));
    }
    chiasm_data::enforce_rate(
        checked.quarantine.len(),
        checked.total,
        config.max_bad_rate,
        Some(quarantine),
    )?;
    Ok(())
}

fn table(report: &Report<'_>, checked: &Checked) -> String {
    let spread = |s: Spread| format!("{} to {}, median {}", s.min, s.max, s.median);
    let summary = report.summary;
    let mut lines = vec![
        format!("source      {}", report.source),
        format!(
            "usable      {} of {} samples, {} texts",
            report.usable, report.total, summary.texts
        ),
    ];
    for (split, [images, texts]) in &report.splits {
        lines.push(format!("  {split:<9} {images} images, {texts} texts"));
    }
    lines.extend([
        format!("width       {} pixels", spread(summary.width)),
        format!("height      {} pixels", spread(summary.height)),
        format!("text        {} characters", spread(summary.text_chars)),
        format!(
            "duplicates  {} images, {} texts",
            summary.duplicate_images, summary.duplicate_texts
        ),
        format!("tiny        {} images", summary.tiny_images),
    ]);
    if let Some(file) = &report.quarantine_file {
        lines.push(format!(
            "unusable    {} samples, listed in {file}",
            report.quarantined
        ));
        for entry in checked.quarantine.entries.iter().take(5) {
            let place = [entry.path.as_str(), entry.location.as_str()];
            let place: Vec<&str> = place.into_iter().filter(|part| !part.is_empty()).collect();
            lines.push(format!("  {}: {}", place.join(" "), entry.reason));
        }
    }
    lines.join("\n")
}
