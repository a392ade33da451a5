//! Several ranks under `mpirun`: needs the feature `mpi` and Open MPI's launcher.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use chiasm_train::run::read_metrics;

use crate::common::{TINY, chiasm, succeed, workspace};

/// What starts `count` ranks with `dir` as their working folder; `None`, with a message, where that
/// cannot be done.
#[allow(clippy::print_stderr, reason = "a skip is no silent pass")]
pub(crate) fn mpirun(dir: &Path, count: usize) -> Option<Command> {
    if !cfg!(feature = "mpi") {
        eprintln!("skipped: built without the feature `mpi`");
        return None;
    }
    let known = Command::new("mpirun").arg("--version").output();
    if !known.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("Open MPI")) {
        eprintln!("skipped: there is no `mpirun` of Open MPI");
        return None;
    }
    let mut command = Command::new("mpirun");
    command
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
        ])
        // Containers may not read each other's memory.
        .args(["--mca", "btl_vader_single_copy_mechanism", "none"])
        .args(["-n", &count.to_string()])
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .env("CHIASM_THREADS", "1")
        .stdin(Stdio::null());
    Some(command)
}

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_chiasm");

pub(crate) fn train<'a>(recipe: &'a str, out: &'a str) -> Vec<&'a str> {
    let data = ["--data", "pairs.csv", "--out", out];
    [&["pretrain", recipe][..], &data].concat()
}

/// The tiny recipe without dropout, and with an optimiser that makes nothing of rounding.
pub(crate) fn recipe(dir: &Path, steps: u64) {
    let text = TINY
        .replace("dropout = 0.1", "dropout = 0.0")
        .replace("[model.fusion]", "[model.fusion]\ndropout = 0.0")
        .replace("steps = 6", &format!("steps = {steps}"))
        .replace("save_every = 2", "save_every = 0")
        .replace("eval_every = 3", "eval_every = 0");
    let text = format!("{text}[optimizer]\neps = 0.1\n");
    fs::write(dir.join("still.toml"), text).unwrap();
}

/// Loss of every step.
fn losses(run: &Path) -> BTreeMap<u64, f64> {
    let lines = read_metrics(run).unwrap();
    let lines = lines.into_iter().filter(|line| line.kind == "train");
    lines.map(|line| (line.step, line.values["loss"])).collect()
}

#[test]
fn a_launcher_without_mpi_is_refused() {
    if cfg!(feature = "mpi") {
        return;
    }
    let (dir, _) = workspace(5);
    let mut command = chiasm(dir.path(), &train("tiny.toml", "run"));
    let output = command.env("OMPI_COMM_WORLD_SIZE", "3").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("started 3 ranks"), "{errors}");
    assert!(errors.contains("--features mpi"), "{errors}");
}

#[test]
fn two_ranks_are_one() {
    let (dir, _) = workspace(40);
    recipe(dir.path(), 20);
    let Some(mut command) = mpirun(dir.path(), 2) else {
        return;
    };
    let output = command
        .arg(BINARY)
        .args(train("still.toml", "two"))
        .output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    // One of them speaks.
    assert_eq!(errors.matches("run folder two").count(), 1, "{errors}");
    succeed(dir.path(), &train("still.toml", "one"));
    same_losses(dir.path(), "one", "two");
}

/// Holds the losses of a run to those of another.
pub(crate) fn same_losses(dir: &Path, expected: &str, found: &str) {
    let expected = losses(&dir.join(expected));
    assert_eq!(expected.len(), 20);
    let found = losses(&dir.join(found));
    assert_eq!(found.len(), 20);
    for (step, loss) in found {
        let apart = (loss - expected[&step]).abs();
        assert!(
            apart <= 1e-6 * expected[&step],
            "{step}: {loss} and {}",
            expected[&step]
        );
    }
}

#[test]
fn who_was_started_differently_is_named() {
    let (dir, _) = workspace(5);
    let Some(mut command) = mpirun(dir.path(), 1) else {
        return;
    };
    recipe(dir.path(), 3);
    let mut other = fs::read(BINARY).unwrap();
    other.push(0);
    let path = dir.path().join("other");
    fs::copy(BINARY, &path).unwrap();
    fs::write(&path, other).unwrap();
    command.arg(BINARY).args(train("still.toml", "run"));
    command
        .args([":", "-n", "1"])
        .arg(&path)
        .args(train("still.toml", "run"));
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    let expected = "error: rank 1 is not on the same binary as rank 0";
    assert_eq!(errors.matches(expected).count(), 1, "{errors}");

    let mut command = mpirun(dir.path(), 1).unwrap();
    command.arg(BINARY).args(train("still.toml", "run"));
    command
        .args([":", "-n", "1", BINARY])
        .args(train("tiny.toml", "run"));
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    let expected = "error: rank 1 is not on the same recipe as rank 0";
    assert_eq!(errors.matches(expected).count(), 1, "{errors}");
}

/// The process of a rank.
fn process(launcher: &Child, rank: usize) -> String {
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let of = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let is_child = of("status").contains(&format!("\nPPid:\t{}\n", launcher.id()));
        if is_child && of("environ").split('\0').any(|variable| variable == wanted) {
            return entry.file_name().to_string_lossy().into_owned();
        }
    }
    panic!("rank {rank} does not run");
}

/// Sends a signal to a rank in the middle of a run of two, and gives what the run said at its end.
fn disturbed(dir: &Path, signal: &str, rank: usize) -> Option<String> {
    recipe(dir, 1_000_000);
    let mut command = mpirun(dir, 2)?;
    command.arg(BINARY).args(train("still.toml", "run"));
    command.args(["--rank-limit", "1"]);
    let mut launcher = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = dir.join("run/metrics.jsonl");
    while fs::read_to_string(&metrics)
        .unwrap_or_default()
        .lines()
        .count()
        < 5
    {
        assert!(launcher.try_wait().unwrap().is_none(), "it runs");
        std::thread::yield_now();
    }
    let process = process(&launcher, rank);
    let sent = Command::new("kill").args([signal, &process]).status();
    assert!(sent.unwrap().success());
    let mut errors = String::new();
    launcher
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    launcher.wait().unwrap();
    Some(errors)
}

/// There is a checkpoint, and it is whole.
pub(crate) fn saved(dir: &Path, errors: &str) {
    let saved = fs::read_dir(dir.join("run/checkpoints")).unwrap();
    assert_eq!(saved.count(), 1, "{errors}");
    succeed(dir, &["eval", "run"]);
}

#[test]
fn a_rank_that_hangs_is_named_and_the_run_is_saved() {
    let (dir, _) = workspace(40);
    let Some(errors) = disturbed(dir.path(), "-STOP", 1) else {
        return;
    };
    let named = errors.contains("error: rank 1 sent nothing for `");
    assert!(named && errors.contains(" in step "), "{errors}");
    saved(dir.path(), &errors);
}

#[test]
fn a_rank_that_is_asked_to_stop_stops_all() {
    let (dir, _) = workspace(40);
    let Some(errors) = disturbed(dir.path(), "-TERM", 1) else {
        return;
    };
    assert!(errors.contains("and saved; go on with"), "{errors}");
    assert!(!errors.contains("error: rank"), "{errors}");
}

#[test]
fn a_rank_that_is_killed_leaves_a_checkpoint() {
    let (dir, _) = workspace(40);
    let Some(errors) = disturbed(dir.path(), "-KILL", 1) else {
        return;
    };
    assert!(errors.contains("rank 1"), "{errors}");
    saved(dir.path(), &errors);
}
