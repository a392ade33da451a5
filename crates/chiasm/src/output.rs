//! What people see while they wait, and how results reach stdout.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chiasm_eval::score::{grouped, shorten};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::Global;
use crate::error::CliError;

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Whether only errors are shown.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Shows nothing from here on but errors: of several ranks, one speaks.
pub(crate) fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// A line to stderr.
#[allow(clippy::print_stderr)]
pub(crate) fn note(text: &str) {
    if !is_silent() {
        eprintln!("{text}");
    }
}

/// A text to stdout, a line break after it. A closed pipe is not an error.
pub(crate) fn result(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n'));
}

/// A value as JSON to stdout.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
    result(&text);
    Ok(())
}

/// Figures as JSON where that is asked for, else as the table they make.
pub(crate) fn report<T: Serialize>(
    global: &Global,
    report: &T,
    table: &str,
) -> Result<(), CliError> {
    if global.json {
        return json(report);
    }
    result(table);
    Ok(())
}

/// A bar on a terminal, a line now and then elsewhere.
pub(crate) struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    position: u64,
    total: u64,
    started: Instant,
    last_line: Instant,
}

impl Progress {
    /// Starts at 0 of `total`.
    pub(crate) fn new(what: &str, total: u64) -> Self {
        let shown = std::io::stderr().is_terminal() && !is_silent();
        let bar = shown.then(|| {
            let bar = ProgressBar::new(total);
            if let Ok(style) =
                ProgressStyle::with_template("{prefix:10} {bar:24} {pos}/{len} {eta:>4} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_owned());
            bar
        });
        let now = Instant::now();
        Self {
            what: what.to_owned(),
            bar,
            position: 0,
            total,
            started: now,
            last_line: now,
        }
    }

    /// Moves to `position`; `message` is shown beside it.
    pub(crate) fn set(&mut self, position: u64, message: &str) {
        self.position = position;
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(message.to_owned());
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let spent = self.started.elapsed().as_secs_f64();
            let left = spent / position.max(1) as f64 * self.total.saturating_sub(position) as f64;
            note(&format!(
                "{} {position}/{} {message} ({} left)",
                self.what,
                self.total,
                duration(left)
            ));
        }
    }

    /// Moves on by `more`; `message` is shown beside it.
    pub(crate) fn add(&mut self, more: usize, message: &str) {
        self.set(self.position + more as u64, message);
    }

    /// Says how many there were so far, where nobody knows how many there will be.
    pub(crate) fn count(&mut self, position: u64, what: &str) {
        let text = format!("{} {what}", grouped(position as usize));
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            note(&format!("{} {text}", self.what));
        }
    }

    /// A line above the bar.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds as a person says them: `42 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The end of a path, where names differ, in at most `limit` characters.
pub(crate) fn ending(text: &str, limit: usize) -> String {
    let reversed = |text: &str| text.chars().rev().collect::<String>();
    reversed(&shorten(&reversed(text), limit))
}

/// Largest resident memory of this process so far, in bytes, where the system tells.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
