//! The run folder: resolved recipe, environment, log, metrics, curves, checkpoints.
//!
//! ```text
//! RUN/
//!   recipe.toml        every value spelled out
//!   environment.json   version, system, threads, device, command
//!   log.txt            what happened, a line each
//!   metrics.jsonl      a JSON object a line: training steps and evaluations
//!   tensorboard/       the same curves as event files
//!   checkpoints/       complete sets, newest last
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use chiasm_data::atomic;
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::error::TrainError;
use crate::tensorboard::EventWriter;

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricLine {
    /// `train` or `val`.
    pub kind: String,
    /// Optimiser steps done.
    pub step: u64,
    /// Values by name.
    pub values: BTreeMap<String, f64>,
}

/// An open run folder.
pub struct RunDir {
    root: PathBuf,
    /// None of a rank that only reads.
    files: Option<Open>,
}

/// What is written to all the time.
struct Open {
    metrics: File,
    log: File,
    events: EventWriter,
}

impl RunDir {
    /// Creates a folder, or opens one that is being resumed.
    ///
    /// # Errors
    /// If the folder holds a run and `resume` is false, or cannot be written.
    pub fn open(root: &Path, resume: bool) -> Result<Self, TrainError> {
        // A run that died before its first checkpoint has nothing to lose.
        if !resume && !checkpoint::list(&root.join("checkpoints"))?.is_empty() {
            return Err(TrainError::RunExists {
                path: root.to_owned(),
            });
        }
        fs::create_dir_all(root.join("checkpoints")).map_err(TrainError::io(root))?;
        let append = |name: &str| {
            let path = root.join(name);
            let mut options = OpenOptions::new();
            // A new run starts new files even where an earlier attempt died before its first
            // checkpoint.
            options.create(true);
            if resume {
                options.append(true)
            } else {
                options.write(true).truncate(true)
            };
            options.open(&path).map_err(TrainError::io(&path))
        };
        let events_dir = root.join("tensorboard");
        let files = Open {
            metrics: append("metrics.jsonl")?,
            log: append("log.txt")?,
            events: EventWriter::create(&events_dir, now()).map_err(TrainError::io(&events_dir))?,
        };
        Ok(Self {
            root: root.to_owned(),
            files: Some(files),
        })
    }

    /// The folder for one of several ranks that leaves writing to the first one: nothing of what it
    /// writes appears.
    #[must_use]
    pub fn silent(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: None,
        }
    }

    /// Folder of the checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Writes a text file of the run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> Result<(), TrainError> {
        if self.files.is_none() {
            return Ok(());
        }
        let path = self.root.join(name);
        atomic::write_bytes(&path, content.as_bytes()).map_err(TrainError::io(&path))
    }

    /// Adds a line to the log.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn log(&mut self, message: &str) -> Result<(), TrainError> {
        let Some(files) = &mut self.files else {
            return Ok(());
        };
        writeln!(files.log, "{:.3} {message}", now())
            .map_err(TrainError::io(self.root.join("log.txt")))
    }

    /// Adds values to `metrics.jsonl` and to the event files.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn record(&mut self, line: &MetricLine) -> Result<(), TrainError> {
        let Some(files) = &mut self.files else {
            return Ok(());
        };
        let path = self.root.join("metrics.jsonl");
        let text = serde_json::to_string(line).unwrap_or_default();
        writeln!(files.metrics, "{text}").map_err(TrainError::io(&path))?;
        let time = now();
        let events = self.root.join("tensorboard");
        for (name, value) in &line.values {
            let tag = format!("{}/{name}", line.kind);
            let step = i64::try_from(line.step).unwrap_or(i64::MAX);
            files
                .events
                .scalar(step, time, &tag, *value as f32)
                .map_err(TrainError::io(&events))?;
        }
        files.events.flush().map_err(TrainError::io(&events))
    }
}

/// Reads `metrics.jsonl`. A step that was done twice, because the run was resumed from an earlier
/// checkpoint, counts once, the later time; a half-written last line is left out.
///
/// # Errors
/// If the file cannot be read.
pub fn read_metrics(root: &Path) -> Result<Vec<MetricLine>, TrainError> {
    let path = root.join("metrics.jsonl");
    let file = File::open(&path).map_err(TrainError::io(&path))?;
    let mut lines: BTreeMap<(u64, String), MetricLine> = BTreeMap::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(TrainError::io(&path))?;
        if let Ok(line) = serde_json::from_str::<MetricLine>(&line) {
            lines.insert((line.step, line.kind.clone()), line);
        }
    }
    Ok(lines.into_values().collect())
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
