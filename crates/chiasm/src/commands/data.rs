//! `chiasm data check`: what a data set holds and what of it cannot be used.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use chiasm_data::check::{AnnotationSummary, Spread, Summary, Tally};
use chiasm_data::readers::FORMATS;
use chiasm_data::{QuarantineEntry, SplitCount};
use chiasm_eval::score::{grouped, shorten};
use chiasm_ranks::Ranks;
use chiasm_train::recipe::DataConfig;
use serde::Serialize;

use crate::cli::{DataArgs, DataCommand, Global, SourceArgs};
use crate::commands::{answers, audit, frames};
use crate::error::CliError;
use crate::output::{self, ending};
use crate::ranks::among;
use crate::source::{Checked, check_among};

/// Columns of a terminal.
const WIDTH: usize = 80;

/// Unusable samples that are shown.
const SHOWN: usize = 5;

#[derive(Serialize)]
struct Report<'a> {
    source: &'a str,
    format: &'a str,
    total: usize,
    usable: usize,
    quarantined: usize,
    quarantine_file: Option<String>,
    splits: BTreeMap<String, SplitCount>,
    summary: &'a Summary,
}

pub(crate) fn run(args: &DataArgs, global: &Global) -> Result<ExitCode, CliError> {
    match &args.command {
        DataCommand::Formats => {
            formats();
            Ok(())
        }
        DataCommand::Check {
            path,
            source,
            quarantine,
            ranks,
        } => {
            return among(*ranks, |ranks| {
                check(path, source, quarantine, ranks, global)
            });
        }
        DataCommand::Audit(args) => {
            return among(args.ranks, |ranks| audit::run(args, ranks, global));
        }
        DataCommand::Frames(args) => frames::run(args, global),
        DataCommand::Answers(args) => answers::run(args, global),
    }
    .map(|()| ExitCode::SUCCESS)
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
    ranks: &Ranks,
    global: &Global,
) -> Result<(), CliError> {
    let mut config = DataConfig::default();
    source.apply(Some(path), &mut config);
    let checked = check_among(ranks, &config, &quarantine.with_extension("parts"))?;
    if !ranks.is_first() {
        return Ok(());
    }
    if !checked.quarantine.is_empty() {
        checked.quarantine.write_jsonl(quarantine)?;
    }
    let report = Report {
        source: path,
        format: checked.format,
        total: checked.total,
        usable: checked.dataset.len(),
        quarantined: checked.quarantine.len(),
        quarantine_file: (!checked.quarantine.is_empty()).then(|| quarantine.display().to_string()),
        splits: checked
            .dataset
            .counts()
            .into_iter()
            .map(|(split, count)| (split.to_string(), count))
            .collect(),
        summary: &checked.summary,
    };
    if global.json {
        output::json(&report)?;
    } else {
        let mut lines = vec![format!("source      {path}")];
        lines.extend(findings(&checked));
        if let Some(file) = &report.quarantine_file {
            lines.push(format!(
                "unusable    {} samples, listed in {file}",
                grouped(report.quarantined)
            ));
            let entries = checked.quarantine.entries.iter().take(SHOWN);
            lines.extend(entries.map(refusal));
        }
        output::result(&lines.join("\n"));
    }
    chiasm_data::enforce_rate(
        checked.quarantine.len(),
        checked.total,
        config.max_bad_rate,
        Some(quarantine),
    )?;
    Ok(())
}

/// Where a refused sample stands, and why it was refused.
pub(crate) fn refusal(entry: &QuarantineEntry) -> String {
    let place = [entry.path.as_str(), entry.location.as_str()];
    let place: Vec<&str> = place.into_iter().filter(|part| !part.is_empty()).collect();
    let (place, reason) = (place.join(" "), &entry.reason);
    let line = format!("  {place}: {reason}");
    if line.chars().count() <= WIDTH {
        return line;
    }
    let (place, reason) = (ending(&place, WIDTH - 3), shorten(reason, WIDTH - 4));
    format!("  {place}:\n    {reason}")
}

/// What was found in a data set, in lines of at most 80 columns.
pub(crate) fn findings(checked: &Checked) -> Vec<String> {
    let summary = &checked.summary;
    let spread = |s: Spread| format!("{} to {}, median {}", s.min, s.max, s.median);
    let mut lines = vec![
        format!("read as     {}", checked.format),
        format!(
            "usable      {} of {} samples, {} pictures, {} texts",
            grouped(checked.dataset.len()),
            grouped(checked.total),
            grouped(summary.pictures),
            grouped(summary.texts)
        ),
    ];
    for (split, count) in checked.dataset.counts() {
        lines.push(format!(
            "  {split:<9} {} samples, {} texts",
            grouped(count.images),
            grouped(count.texts)
        ));
    }
    if summary.clips > 0 {
        let frames = match summary.frames.max {
            0 => String::new(),
            _ => format!(", {} frames", spread(summary.frames)),
        };
        lines.push(format!("clips       {}{frames}", grouped(summary.clips)));
    }
    if summary.picture_sets > 0 {
        let count = grouped(summary.picture_sets);
        lines.push(format!("sets        {count} samples of several pictures"));
    }
    lines.extend([
        format!("width       {} pixels", spread(summary.width)),
        format!("height      {} pixels", spread(summary.height)),
        format!("text        {} characters", spread(summary.text_chars)),
        format!("            {} words", spread(summary.text_words)),
        format!(
            "duplicates  {} pictures, {} near-duplicate pictures, {} texts",
            grouped(summary.duplicate_images),
            grouped(summary.near_duplicate_images),
            grouped(summary.duplicate_texts)
        ),
    ]);
    if summary.tiny_images > 0 {
        let count = grouped(summary.tiny_images);
        lines.push(format!("tiny        {count} pictures"));
    }
    lines.extend(annotations(&summary.annotations));
    lines
}

/// What people said beyond the texts; nothing where they said nothing.
fn annotations(said: &AnnotationSummary) -> Vec<String> {
    let mut lines = Vec::new();
    if said.questions > 0 {
        let count = grouped(said.questions);
        lines.push(format!("questions   {count} samples with answers"));
    }
    for (name, tally) in [
        ("answers", &said.answers),
        ("labels", &said.labels),
        ("objects", &said.objects),
    ] {
        if tally.total > 0 {
            lines.extend(tallied(name, tally));
        }
    }
    for (name, count) in [
        ("phrases", said.phrases),
        ("boxes", said.boxes),
        ("regions", said.regions),
        ("relations", said.relations),
        ("ocr texts", said.ocr),
        ("captions", said.captions),
    ] {
        if count > 0 {
            lines.push(format!("{name:<12}{}", grouped(count)));
        }
    }
    if said.authors.samples > 0 {
        let (distinct, samples) = (
            grouped(said.authors.distinct),
            grouped(said.authors.samples),
        );
        lines.push(format!("authors     {distinct}, of {samples} samples"));
    }
    lines
}

/// Two lines: how many, and as many of the most frequent as fit.
fn tallied(name: &str, tally: &Tally) -> [String; 2] {
    let counted = tally.most_frequent.iter();
    let shown: Vec<String> = counted
        .map(|one| format!("{} {}", shorten(&one.name, 20), grouped(one.count)))
        .collect();
    [
        format!(
            "{name:<12}{}, {} of them different",
            grouped(tally.total),
            grouped(tally.distinct)
        ),
        shorten(&format!("  {}", shown.join(", ")), WIDTH),
    ]
}
