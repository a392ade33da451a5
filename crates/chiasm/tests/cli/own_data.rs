//! One's own pictures, from the table to a search: the whole way through the binary.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::common::{TINY, chiasm, fail, run, succeed, workspace};
use serde_json::Value;

#[test]
fn train_evaluate_score_and_search_on_a_table() {
    let (dir, _) = workspace(60);
    let dir = dir.path();
    let check: Value =
        serde_json::from_str(&succeed(dir, &["data", "check", "pairs.csv", "--json"])).unwrap();
    assert_eq!(
        (check["usable"].as_u64(), check["total"].as_u64()),
        (Some(60), Some(60))
    );
    assert_eq!(check["format"], "csv");
    assert_eq!(check["splits"]["train"]["images"], 36);
    let table = succeed(dir, &["data", "check", "pairs.csv"]);
    assert!(table.contains("read as     csv"), "{table}");
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );

    let printed = succeed(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "pairs.csv",
            "--out",
            "run",
        ],
    );
    assert!(
        printed.contains("text-to-image") && printed.contains("chance"),
        "{printed}"
    );
    let report = std::fs::read_to_string(dir.join("run/report.html")).unwrap();
    assert!(report.contains("data:image/png;base64,"));
    let facts: Value =
        serde_json::from_slice(&std::fs::read(dir.join("run/report.json")).unwrap()).unwrap();
    let kinds: Vec<&str> = facts["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["chance", "untrained", "dual", "reranked"]);

    // The figures of `eval`, of the predictions file it wrote and of another batch of it agree.
    let eval: Value = serde_json::from_str(&succeed(dir, &["eval", "run", "--json"])).unwrap();
    let file = "run/predictions-test.safetensors";
    let score: Value = serde_json::from_str(&succeed(dir, &["score", file, "--json"])).unwrap();
    assert_eq!(eval, score);
    assert_eq!(eval["dual"]["text_to_image"]["queries"].as_u64(), Some(12));
    let table = succeed(dir, &["score", file, "--ties", "optimistic"]);
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );

    let found: Value = serde_json::from_str(&succeed(
        dir,
        &["search", "run", "red heart", "cat", "-n", "3", "--json"],
    ))
    .unwrap();
    assert_eq!(found.as_array().unwrap().len(), 2);
    let results = found[0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert!(results[0]["path"].as_str().unwrap().ends_with(".png"));
}

#[test]
fn a_killed_run_resumes_to_the_bytes_of_one_that_was_not() {
    let (dir, _) = workspace(60);
    let dir = dir.path();
    let recipe = TINY
        .replace("steps = 6", "steps = 40")
        .replace("save_every = 2", "save_every = 1");
    std::fs::write(dir.join("tiny.toml"), recipe).unwrap();
    let args = |out: &'static str| ["pretrain", "tiny.toml", "--data", "pairs.csv", "--out", out];

    let mut child = chiasm(dir, &args("killed"))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let saved = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with("saved"))
        .nth(4);
    assert!(saved.is_some(), "five checkpoints were written");
    // SIGKILL: nothing can be tidied up, whatever was being written stays as it is.
    child.kill().unwrap();
    child.wait().unwrap();

    let refused = fail(dir, &args("killed"));
    assert!(refused.contains("--resume"), "{refused}");
    let mut resumed = args("killed").to_vec();
    resumed.push("--resume");
    succeed(dir, &resumed);
    succeed(dir, &args("whole"));
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let read = |run: &str| {
            std::fs::read(dir.join(run).join("checkpoints/step-00000040").join(file)).unwrap()
        };
        assert!(read("killed") == read("whole"), "{file} differs");
    }

    // A damaged newest checkpoint is passed over, and said so.
    let newest = dir.join("whole/checkpoints/step-00000040/model.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let output = run(dir, &["eval", "whole"]);
    assert!(output.status.success());
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        warning.contains("damaged") && warning.contains("step-00000039"),
        "{warning}"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let (dir, _) = workspace(60);
    let dir = dir.path();
    let recipe = TINY
        .replace("steps = 6", "steps = 100000")
        .replace("save_every = 2", "save_every = 3");
    std::fs::write(dir.join("tiny.toml"), recipe).unwrap();
    let mut child = chiasm(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "pairs.csv",
            "--out",
            "run",
        ],
    )
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("saved")));
    let interrupted = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(
        rest.iter().any(|line| line.contains("--resume")),
        "{rest:?}"
    );
}
