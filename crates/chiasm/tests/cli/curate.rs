//! `chiasm curate`, and the built-in posts.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::common::{chiasm, fail, succeed, workspace};

fn table(dir: &Path, rows: usize) {
    let mut table = "image,text,score,who\n".to_owned();
    for row in 0..rows {
        let score = row * 7_919 % 10_007;
        writeln!(
            table,
            "{row}.png,\"a text, number {}\",0.{score:05},w{}",
            row % 90_000,
            row % 700
        )
        .unwrap();
    }
    std::fs::write(dir.join("pairs.csv"), table).unwrap();
}

fn read(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap()
}

/// `kill -9` in the middle, more than once, and the same call again.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    table(dir, 200_000);
    let call = |out: &'static str| {
        [
            "curate",
            "pairs.csv",
            "--score-column",
            "score",
            "--keep",
            "unique=text",
            "--keep",
            "best=50%",
            "--keep",
            "words>=2",
            "--out",
            out,
        ]
    };
    let told = succeed(dir, &call("whole"));
    assert!(
        told.contains("200,000") && told.contains("unique=text"),
        "{told}"
    );
    let journal = dir.join("killed/.curate/journal.json");
    let mut kills = 0;
    for phase in ["scoring", "writing"] {
        let mut child = chiasm(dir, &call("killed"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The first entry that says so is written long before the work is done.
        while child.try_wait().unwrap().is_none() {
            let entry = std::fs::read_to_string(&journal).unwrap_or_default();
            if entry.contains(phase) {
                child.kill().unwrap();
                break;
            }
            std::thread::yield_now();
        }
        child.wait().unwrap();
        kills += usize::from(journal.is_file());
    }
    assert_eq!(kills, 2);
    assert_eq!(
        succeed(dir, &call("killed")).replace("killed", "whole"),
        told
    );
    for name in ["kept.csv", "dropped.csv"] {
        assert!(
            read(dir, &format!("killed/{name}")) == read(dir, &format!("whole/{name}")),
            "{name}"
        );
    }
    assert!(!dir.join("killed/.curate").exists());
    let errors = fail(
        dir,
        &[
            "curate",
            "pairs.csv",
            "--keep",
            "words>=3",
            "--out",
            "killed",
        ],
    );
    assert!(
        errors.contains("another call") && errors.contains("hint: "),
        "{errors}"
    );
}

#[test]
fn a_model_scores_pairs() {
    let (dir, csv) = workspace(30);
    let dir = dir.path();
    let table = std::fs::read_to_string(&csv).unwrap();
    std::fs::write(&csv, format!("{table}photos/none.png,nothing,train\n")).unwrap();
    succeed(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "pairs.csv",
            "--max-bad-rate",
            "0.1",
            "--out",
            "run",
        ],
    );
    let call = [
        "curate",
        "pairs.csv",
        "--model",
        "run",
        "--keep",
        "best=10",
        "--keep",
        "side>=32",
        "--json",
    ];
    let told: serde_json::Value = serde_json::from_str(&succeed(dir, &call)).unwrap();
    assert_eq!(
        (told["rows"].as_u64(), told["kept"].as_u64()),
        (Some(31), Some(10))
    );
    assert_eq!(told["dropped"]["picture not readable"], 1);
    assert_eq!(told["dropped"]["best=10"], 20);
    let kept = String::from_utf8(read(dir, "pairs.curated/kept.csv")).unwrap();
    let scores = kept
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().unwrap());
    let scores: Vec<f32> = scores.map(|score| score.parse().unwrap()).collect();
    let cut = told["cut"].as_f64().unwrap() as f32;
    assert!(
        scores
            .iter()
            .all(|score| *score >= cut && score.abs() <= 1.0001)
    );
}

#[test]
fn wrong_rules_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    table(dir.path(), 3);
    let output = crate::common::run(dir.path(), &["curate", "pairs.csv", "--keep", "score>0.3"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("`score>0.3` is no rule"), "{errors}");
    let errors = fail(dir.path(), &["curate", "pairs.csv", "--keep", "score>=0.3"]);
    assert!(
        errors.contains("needs scores") && errors.contains("--model"),
        "{errors}"
    );
    let errors = fail(dir.path(), &["curate", "none.csv", "--keep", "words>=1"]);
    assert!(errors.contains("none.csv"), "{errors}");
}

#[test]
fn the_built_in_posts_are_data_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let source = "builtin:synthitr,unlabelled=100,train=200,test=50,noise=0.1";
    let told = succeed(dir.path(), &["data", "check", source]);
    for line in [
        "350 of 350 samples",
        "relations   250",
        "ocr texts   350",
        "captions    350",
        "authors     ",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    let errors = fail(dir.path(), &["data", "check", "builtin:synthitr,noise=2"]);
    assert!(errors.contains("noise=2"), "{errors}");
    let errors = fail(dir.path(), &["data", "check", "builtin:nothing"]);
    assert!(errors.contains("builtin:emoji"), "{errors}");
}
