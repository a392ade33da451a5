//! From a data setting to checked samples.

use std::path::Path;
use std::sync::Mutex;

use chiasm_data::check::Summary;
use chiasm_data::{
    Check, CheckReport, Dataset, Limits, Print, Quarantine, Seen, builtin, check, enforce_rate,
    readers,
};
use chiasm_ranks::Ranks;
use chiasm_train::recipe::DataConfig;
use serde_json::json;

use crate::cli::{SourceArgs, SplitArg};
use crate::error::CliError;
use crate::output::{Progress, note};
use crate::ranks::Job;

/// Pictures that a rank looks at before it takes others.
const PART: usize = 1024;
/// Pictures between two moves of the bar.
const STEP: usize = 64;

impl SourceArgs {
    /// Puts what was typed over what a recipe says.
    pub(crate) fn apply(&self, data: Option<&str>, config: &mut DataConfig) {
        if let Some(data) = data {
            // Another source: the recipe's columns and folder belong to its own.
            *config = DataConfig {
                source: data.to_owned(),
                max_bad_rate: config.max_bad_rate,
                cache_mb: config.cache_mb,
                train_splits: config.train_splits.clone(),
                weight: config.weight,
                frames: config.frames,
                blind: config.blind,
                ..DataConfig::default()
            };
        }
        let set = |slot: &mut Option<String>, value: &Option<String>| {
            if value.is_some() {
                slot.clone_from(value);
            }
        };
        set(&mut config.format, &self.format);
        set(&mut config.answer_column, &self.answer_column);
        set(&mut config.label_column, &self.label_column);
        set(&mut config.ocr_column, &self.ocr_column);
        set(&mut config.caption_column, &self.caption_column);
        set(&mut config.author_column, &self.author_column);
        set(&mut config.represented_column, &self.represented_column);
        set(&mut config.adds_column, &self.adds_column);
        if self.annotations.is_some() {
            config.annotations.clone_from(&self.annotations);
        }
        set(&mut config.image_column, &self.image_column);
        set(&mut config.text_column, &self.text_column);
        set(&mut config.split_column, &self.split_column);
        if self.image_root.is_some() {
            config.image_root.clone_from(&self.image_root);
        }
        if self.regions.is_some() {
            config.regions.clone_from(&self.regions);
        }
        if self.splits.is_some() {
            config.splits.clone_from(&self.splits);
        }
        if let Some(frames) = self.frames {
            config.frames = frames;
        }
        if let Some(rate) = self.max_bad_rate {
            config.max_bad_rate = rate;
        }
    }
}

/// Samples that can be used, and those that cannot.
pub(crate) struct Checked {
    /// The format that was read.
    pub(crate) format: &'static str,
    /// The usable samples.
    pub(crate) dataset: Dataset,
    /// What their pictures are recognised by.
    pub(crate) prints: Vec<Vec<Print>>,
    /// The others.
    pub(crate) quarantine: Quarantine,
    /// What the usable ones look like.
    pub(crate) summary: Summary,
    /// All samples that were named.
    pub(crate) total: usize,
}

/// The samples that a source names, their pictures not looked at, with the name of its format.
pub(crate) struct OpenedSource {
    pub(crate) format: &'static str,
    pub(crate) dataset: Dataset,
    pub(crate) quarantine: Quarantine,
}

/// Opens a source.
pub(crate) fn open_source(config: &DataConfig) -> Result<OpenedSource, CliError> {
    if let Some(dataset) = builtin::open(&config.source) {
        return Ok(OpenedSource {
            format: "built in",
            dataset: dataset?,
            quarantine: Quarantine::default(),
        });
    }
    let (path, options) = (Path::new(&config.source), config.options());
    let format = readers::recognise(&readers::Source::look(path)?, &options)?;
    let opened = readers::open(path, &options)?;
    Ok(OpenedSource {
        format: format.name,
        dataset: opened.dataset,
        quarantine: opened.quarantine,
    })
}

/// Opens a source and reads every row and picture of it.
pub(crate) fn open_and_check(config: &DataConfig) -> Result<Checked, CliError> {
    let opened = open_source(config)?;
    let bar = Mutex::new(Progress::new("check", opened.dataset.len() as u64));
    let report = check(&opened.dataset, &Limits::default(), &|done| {
        if let Ok(mut bar) = bar.lock() {
            bar.set(done as u64, "samples");
        }
    });
    if let Ok(bar) = bar.lock() {
        bar.finish();
    }
    Ok(opened.checked(report))
}

/// [`open_and_check`] with the pictures shared among ranks; `folder` holds what is done until it is all. One rank
/// alone writes nothing.
pub(crate) fn check_among(
    ranks: &Ranks,
    config: &DataConfig,
    folder: &Path,
) -> Result<Checked, CliError> {
    if ranks.count() == 1 {
        return open_and_check(config);
    }
    let opened = open_source(config)?;
    let check = Check::new(&opened.dataset);
    let job = Job {
        what: "check",
        things: "pictures",
        count: check.len(),
        part: PART,
        folder,
        of: json!({"check": opened.dataset.fingerprint(), "pictures": check.len()}),
    };
    let parts = job.share(ranks, |range, claim, done| {
        let mut bytes = Vec::new();
        // A few at a time, for the sake of the bar.
        for first in range.clone().step_by(STEP) {
            let some = first..(first + STEP).min(range.end);
            let count = some.len();
            let seen = check.look(some, &Limits::default(), &|_| {});
            seen.iter().for_each(|seen| seen.put(&mut bytes));
            done(count);
        }
        Ok(claim.put(&bytes)?)
    })?;
    let mut seen = Vec::with_capacity(check.len());
    for part in 0..job.parts() {
        let bytes = parts.read(part)?;
        let mut left = &bytes[..];
        while let Some(own) = Seen::take(&mut left) {
            seen.push(own);
        }
    }
    if seen.len() != check.len() {
        return Err(parts.damaged(job.parts().saturating_sub(1)).into());
    }
    // All have read it.
    ranks.gather("checked", &[])?;
    if ranks.is_first() {
        parts.remove()?;
    }
    let report = check.conclude(seen);
    Ok(opened.checked(report))
}

impl OpenedSource {
    /// With what was found out about the pictures.
    fn checked(self, report: CheckReport) -> Checked {
        let total = self.dataset.len() + self.quarantine.len();
        let mut quarantine = self.quarantine;
        quarantine.entries.extend(report.quarantine.entries);
        Checked {
            format: self.format,
            dataset: report.good,
            prints: report.prints,
            quarantine,
            summary: report.summary,
            total,
        }
    }
}

/// Opens and checks a source for a run: writes the list of unusable samples, and stops when there
/// are too many of them or none is left.
pub(crate) fn load(config: &DataConfig, quarantine_file: &Path) -> Result<Checked, CliError> {
    load_among(config, quarantine_file, true)
}

/// [`load`] on one of several ranks, of which one writes; each looks at all pictures.
pub(crate) fn load_among(
    config: &DataConfig,
    quarantine_file: &Path,
    writes: bool,
) -> Result<Checked, CliError> {
    accept(open_and_check(config)?, config, quarantine_file, writes)
}

/// [`load`] with the pictures shared among ranks.
pub(crate) fn load_shared(
    ranks: &Ranks,
    config: &DataConfig,
    quarantine_file: &Path,
) -> Result<Checked, CliError> {
    let folder = quarantine_file.with_extension("parts");
    let checked = check_among(ranks, config, &folder)?;
    accept(checked, config, quarantine_file, ranks.is_first())
}

/// Lists what cannot be used, unless it is too much.
fn accept(
    checked: Checked,
    config: &DataConfig,
    quarantine_file: &Path,
    writes: bool,
) -> Result<Checked, CliError> {
    if writes && !checked.quarantine.is_empty() {
        checked.quarantine.write_jsonl(quarantine_file)?;
        note(&format!(
            "{} of {} samples cannot be used, see {}",
            checked.quarantine.len(),
            checked.total,
            quarantine_file.display()
        ));
    }
    enforce_rate(
        checked.quarantine.len(),
        checked.total,
        config.max_bad_rate,
        Some(quarantine_file),
    )?;
    if checked.dataset.is_empty() {
        return Err(CliError::new(
            format!("no usable sample in {}", config.source),
            "run `chiasm data check` on it".to_owned(),
        ));
    }
    Ok(checked)
}

/// The samples that `--split` asks for, and how to name them.
pub(crate) fn select(dataset: &Dataset, split: SplitArg) -> Result<(Dataset, String), CliError> {
    let (subset, name) = match split.one() {
        Some(split) => (dataset.subset(split), split.to_string()),
        None => (dataset.clone(), "all".to_owned()),
    };
    if subset.is_empty() {
        let present: Vec<String> = dataset.counts().keys().map(ToString::to_string).collect();
        return Err(CliError::new(
            format!("{} has no `{name}` samples", dataset.name),
            format!("it has: {}; choose with `--split`", present.join(", ")),
        ));
    }
    Ok((subset, name))
}
