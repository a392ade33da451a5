//! `chiasm data audit`: what of one set is already in another; and the mark that it leaves on the
//! figures of a run.
//!
//! A run keeps the traces of what it was trained on in [`TRAINING_FILE`], so that it can be audited
//! against any data later, without its training data.

use std::collections::HashMap;
use std::path::Path;

use chiasm_data::audit::{
    Finding, Overlap, OverlapCounts, Trace, audit, read_traces, write_traces,
};
use chiasm_data::{Split, atomic};
use chiasm_eval::predictions::TrainingOverlap;
use chiasm_eval::score::{grouped, percent};
use chiasm_ranks::Ranks;
use chiasm_train::recipe::DataConfig;
use serde::Serialize;

use crate::cli::{AuditArgs, Global};
use crate::commands::pretrain::quoted;
use crate::error::CliError;
use crate::output::{self, ending, note};
use crate::source::{Checked, check_among};

/// Traces of what a run was trained on, in its folder.
pub(crate) const TRAINING_FILE: &str = "training-data.jsonl";

/// Pairs shown of each kind.
const EXAMPLES: usize = 3;

/// One side of an audit.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Side {
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<Split>,
    samples: usize,
}

#[derive(Serialize)]
struct Report {
    a: Side,
    b: Side,
    /// Samples of `b` by kind.
    counts: OverlapCounts,
    findings: Vec<Finding>,
}

/// Where an audit keeps what is done until it is all: it writes nothing else that it must.
const PARTS: &str = "audit.parts";

pub(crate) fn run(args: &AuditArgs, ranks: &Ranks, global: &Global) -> Result<(), CliError> {
    let (source_a, split_a) = side(&args.seen, args.split_a);
    let (source_b, split_b) = side(&args.tested, args.split_b);
    if source_a == source_b && (split_a == split_b || split_a.is_none() || split_b.is_none()) {
        return Err(CliError::new(
            format!("A and B are the same samples of `{source_a}`"),
            format!("name two splits: chiasm data audit {source_a}:train {source_a}:test"),
        ));
    }
    let open = |source: &str| {
        let mut config = DataConfig::default();
        args.source.apply(Some(source), &mut config);
        let folder = match &args.out {
            Some(out) => out.with_extension("parts"),
            None => Path::new(PARTS).to_owned(),
        };
        let checked = check_among(ranks, &config, &folder)?;
        if !checked.quarantine.is_empty() {
            note(&format!(
                "{} of {} samples of {source} cannot be used and are not compared; \
                 `chiasm data check` lists them",
                checked.quarantine.len(),
                checked.total
            ));
        }
        Ok::<Checked, CliError>(checked)
    };
    let traces_of = |checked: &Checked, source: &str, split: Option<Split>| {
        let found = traces(checked, split.as_slice());
        match split {
            Some(split) if found.is_empty() => Err(CliError::new(
                format!("{source} has no `{split}` samples"),
                "`chiasm data check` lists its splits".to_owned(),
            )),
            _ => Ok(found),
        }
    };
    let checked = open(&source_a)?;
    let a = traces_of(&checked, &source_a, split_a)?;
    let checked = match source_a == source_b {
        true => checked,
        false => open(&source_b)?,
    };
    let b = traces_of(&checked, &source_b, split_b)?;
    drop(checked);
    if !ranks.is_first() {
        return Ok(());
    }
    let findings = audit(&a, &b);
    let report = Report {
        a: Side {
            source: source_a,
            split: split_a,
            samples: a.len(),
        },
        b: Side {
            source: source_b,
            split: split_b,
            samples: b.len(),
        },
        counts: OverlapCounts::of(&findings),
        findings,
    };
    if let Some(path) = &args.out {
        let json = serde_json::to_vec_pretty(&report)
            .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
        atomic::write_bytes(path, &json).map_err(|error| {
            CliError::new(format!("cannot write `{}`: {error}", path.display()), None)
        })?;
    }
    if global.json {
        output::json(&report)
    } else {
        output::result(&table(&report));
        Ok(())
    }
}

/// Source and split of a side. `DATA:split` names a split, unless a file of that very name exists.
fn side(text: &str, split: Option<Split>) -> (String, Option<Split>) {
    let named = text.rsplit_once(':').filter(|_| !Path::new(text).exists());
    match (split, named) {
        (None, Some((source, name))) if !source.is_empty() => match name.parse() {
            Ok(split) => (source.to_owned(), Some(split)),
            Err(_) => (text.to_owned(), None),
        },
        _ => (text.to_owned(), split),
    }
}

/// `DATA:split`, or `DATA` for all of it.
fn with_split(source: &str, split: Option<Split>) -> String {
    match split {
        Some(split) => format!("{source}:{split}"),
        None => source.to_owned(),
    }
}

fn table(report: &Report) -> String {
    let mut lines = Vec::new();
    for (name, side) in [("A", &report.a), ("B", &report.b)] {
        let source = with_split(&side.source, side.split);
        let source = ending(&source, 55);
        lines.push(format!(
            "{name}  {source}, {} samples",
            grouped(side.samples)
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<26}{:>12}{:>10}",
        "of B, also in A", "samples", "share"
    ));
    let all = report.b.samples.max(1) as f64;
    for kind in Overlap::ALL {
        let count = report.counts.get(kind);
        let share = percent(count as f64 / all);
        lines.push(format!("{kind:<26}{:>12}{share:>10}", grouped(count)));
    }
    for kind in Overlap::ALL {
        let mut found = report.findings.iter().filter(|one| one.kind == kind);
        let examples: Vec<&Finding> = found.by_ref().take(EXAMPLES).collect();
        if examples.is_empty() {
            continue;
        }
        lines.extend([String::new(), kind.to_string()]);
        for finding in examples {
            let [id, other] = [&finding.id, &finding.other].map(|id| ending(id, 36));
            lines.push(format!("  {id}, in A {other}"));
        }
        let left = found.count();
        if left > 0 {
            lines.push(format!("  and {} more", grouped(left)));
        }
    }
    lines.join("\n")
}

/// What the samples of some splits, or of all where none is named, are recognised by.
pub(crate) fn traces(checked: &Checked, splits: &[Split]) -> Vec<Trace> {
    Trace::of(&checked.dataset, &checked.prints, |sample| {
        splits.is_empty() || splits.contains(&sample.split)
    })
}

/// Samples that a run is scored on.
pub(crate) struct Tested<'a> {
    /// Where they come from.
    pub(crate) config: &'a DataConfig,
    /// Which of them; `None` for all.
    pub(crate) split: Option<Split>,
    /// What they are recognised by.
    pub(crate) traces: Vec<Trace>,
}

impl Tested<'_> {
    /// What of these was trained on.
    pub(crate) fn against(&self, data: &DataConfig, training: &[Trace]) -> TrainingOverlap {
        // A command names one split a side: the first of several that were trained on.
        let seen = with_split(&data.source, data.train_splits.first().copied());
        let tested = with_split(&self.config.source, self.split);
        let mut command = format!("chiasm data audit {} {}", quoted(&seen), quoted(&tested));
        // Options apply to both sides: where they differ, people have to say which they mean.
        if self.config.options() == data.options() {
            command.push_str(&flags(data));
        }
        TrainingOverlap {
            command,
            training_samples: training.len(),
            findings: audit(training, &self.traces),
        }
    }
}

/// The options of a source as they are typed, each with a space before it.
fn flags(config: &DataConfig) -> String {
    let path =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    [
        ("format", config.format.clone()),
        ("annotations", path(&config.annotations)),
        ("image-column", config.image_column.clone()),
        ("text-column", config.text_column.clone()),
        ("split-column", config.split_column.clone()),
        ("answer-column", config.answer_column.clone()),
        ("label-column", config.label_column.clone()),
        ("ocr-column", config.ocr_column.clone()),
        ("caption-column", config.caption_column.clone()),
        ("author-column", config.author_column.clone()),
        ("represented-column", config.represented_column.clone()),
        ("adds-column", config.adds_column.clone()),
        ("image-root", path(&config.image_root)),
        ("splits", path(&config.splits)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(format!(" --{name} {}", quoted(&value?))))
    .collect()
}

/// Writes what a run is trained on into its folder. A run that goes on keeps what it was trained on
/// before, also where the data has changed since.
pub(crate) fn record_training(
    run: &Path,
    training: &[Trace],
    resume: bool,
) -> Result<(), CliError> {
    let path = run.join(TRAINING_FILE);
    let mut all = training.to_vec();
    if resume && path.exists() {
        let now: HashMap<&str, &Trace> = training
            .iter()
            .map(|trace| (trace.id.as_str(), trace))
            .collect();
        let mut before = read_traces(&path)?;
        before.retain(|trace| now.get(trace.id.as_str()) != Some(&trace));
        all.extend(before);
    }
    Ok(write_traces(&all, &path)?)
}

/// What a run was trained on; `None` for a run of before this was recorded.
pub(crate) fn training_of(run: &Path) -> Result<Option<Vec<Trace>>, CliError> {
    let path = run.join(TRAINING_FILE);
    match path.exists() {
        true => Ok(Some(read_traces(&path)?)),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides() {
        let named = |text, split| side(text, split);
        let whole = |text: &str| (text.to_owned(), None);
        assert_eq!(named("a.csv", None), whole("a.csv"));
        assert_eq!(named("builtin:emoji", None), whole("builtin:emoji"));
        assert_eq!(
            named("builtin:emoji:val", None),
            ("builtin:emoji".to_owned(), Some(Split::Val))
        );
        assert_eq!(
            named("a.csv", Some(Split::Test)),
            ("a.csv".to_owned(), Some(Split::Test))
        );
        assert_eq!(named("c:trian", None), whole("c:trian"));
        assert_eq!(named(":train", None), whole(":train"));
    }

    #[test]
    fn flags_can_be_typed_again() {
        let config = DataConfig {
            text_column: Some("the words".to_owned()),
            splits: Some("s.csv".into()),
            ..DataConfig::default()
        };
        assert_eq!(flags(&config), " --text-column 'the words' --splits s.csv");
    }
}
