//! What is in both sets is found, and figures on it carry a mark wherever they are printed.

use std::path::{Path, PathBuf};

use chiasm_data::{builtin, thumbnail};
use serde_json::Value;

use crate::common::{TINY, fail, run, succeed};

/// `count` drawings from all over the built-in set, no two alike, and a table of them.
fn drawings(count: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    let samples = builtin::emoji().unwrap().samples;
    let mut table = String::from("image,caption,split\n");
    for (index, sample) in samples.iter().step_by(61).take(count).enumerate() {
        let bytes = sample.visual.sources()[0].read().unwrap();
        std::fs::write(dir.path().join(format!("{index}.png")), bytes).unwrap();
        let split = ["train", "train", "train", "val", "test"][index % 5];
        table.push_str(&format!("{index}.png,\"{}\",{split}\n", sample.texts[0]));
    }
    let csv = dir.path().join("pairs.csv");
    std::fs::write(&csv, table).unwrap();
    (dir, csv)
}

/// Puts a copy of a training picture (0.png), a smaller one (1.png) and a caption of another (2.png)
/// into the test split.
fn plant(dir: &Path) {
    std::fs::copy(dir.join("0.png"), dir.join("copy.png")).unwrap();
    let small = thumbnail(&std::fs::read(dir.join("1.png")).unwrap(), 40).unwrap();
    std::fs::write(dir.join("small.png"), small).unwrap();
    let table = std::fs::read_to_string(dir.join("pairs.csv")).unwrap();
    let caption = table.lines().nth(3).unwrap().split(',').nth(1).unwrap();
    std::fs::copy(dir.join("59.png"), dir.join("said.png")).unwrap();
    let planted = format!(
        "{table}copy.png,words of its own,test\nsmall.png,other words,test\n\
         said.png,{},test\n",
        caption.to_uppercase()
    );
    // The picture of the caption is no one else's.
    let planted: Vec<&str> = planted
        .lines()
        .filter(|line| !line.starts_with("59.png"))
        .collect();
    std::fs::write(dir.join("planted.csv"), planted.join("\n")).unwrap();
}

#[test]
fn overlaps_of_every_kind_are_found_and_clean_sets_raise_none() {
    let (dir, _) = drawings(60);
    let dir = dir.path();
    let audit = |args: &[&str]| -> Value {
        serde_json::from_str(&succeed(
            dir,
            &[&["data", "audit"], args, &["--json"]].concat(),
        ))
        .unwrap()
    };
    let clean = audit(&["pairs.csv:train", "pairs.csv:test"]);
    assert_eq!(clean["a"]["samples"], 36);
    assert_eq!(clean["b"]["samples"], 12);
    assert_eq!(clean["findings"], Value::Array(Vec::new()), "{clean}");

    plant(dir);
    let args = ["planted.csv", "planted.csv", "--split-a", "train"];
    let found = audit(&[&args[..], &["--split-b", "test"]].concat());
    let findings: Vec<(&str, &str, &str)> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| ["kind", "id", "other"].map(|key| one[key].as_str().unwrap()))
        .map(|[kind, id, other]| (kind, id, other))
        .collect();
    assert_eq!(
        findings,
        [
            ("same_bytes", "copy.png", "0.png"),
            ("near_duplicate", "small.png", "1.png"),
            ("same_text", "said.png", "2.png"),
        ]
    );
    // Another file with the same rows: every id, picture and text is there.
    std::fs::copy(dir.join("pairs.csv"), dir.join("again.csv")).unwrap();
    let again = audit(&["pairs.csv", "again.csv:val"]);
    for kind in ["same_bytes", "same_id", "same_text"] {
        assert_eq!(again["counts"][kind], 12, "{kind}");
    }
    assert_eq!(again["counts"]["near_duplicate"], 0);

    let table = succeed(
        dir,
        &[
            "data",
            "audit",
            "planted.csv:train",
            "planted.csv:test",
            "--out",
            "audit.json",
        ],
    );
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    assert!(table.contains("copy.png, in A 0.png"), "{table}");
    let written: Value =
        serde_json::from_slice(&std::fs::read(dir.join("audit.json")).unwrap()).unwrap();
    assert_eq!(written["counts"], found["counts"]);
}

#[test]
fn what_cannot_be_audited_says_why() {
    let (dir, _) = drawings(10);
    for (args, expected) in [
        (["pairs.csv", "pairs.csv"], "the same samples"),
        (["pairs.csv:train", "pairs.csv"], "pairs.csv:test"),
        (["pairs.csv:train", "pairs.csv:test_a"], "test_a"),
        (["pairs.csv:train", "missing.csv"], "missing.csv"),
        (["pairs.csv:trian", "pairs.csv"], "pairs.csv:trian"),
    ] {
        let message = fail(dir.path(), &[&["data", "audit"], &args[..]].concat());
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}

#[test]
fn figures_on_pictures_that_were_trained_on_carry_a_mark() {
    let (dir, _) = drawings(60);
    let dir = dir.path();
    plant(dir);
    let pretrain = |data: &str, out: &str| {
        let args = ["pretrain", "tiny.toml", "--data", data, "--out", out];
        let printed = succeed(dir, &args);
        let page = std::fs::read_to_string(dir.join(out).join("report.html")).unwrap();
        (printed, page)
    };
    let (printed, page) = pretrain("pairs.csv", "clean");
    assert!(!printed.contains('†') && !page.contains('†'), "{printed}");
    let none = "None of these pictures was trained on.";
    assert!(printed.contains(none) && page.contains(none), "{printed}");

    let (printed, page) = pretrain("planted.csv", "marked");
    let meaning = "2 of 14 pictures are also in the training data";
    let kinds = "(1 same bytes, 1 near duplicate):";
    let command = "chiasm data audit planted.csv:train planted.csv:test";
    for text in [&printed, &page] {
        for part in [meaning, kinds, command] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    // Both stages of both directions.
    for row in ["dual encoder", "re-ranked top 3"] {
        let rows: Vec<&str> = printed
            .lines()
            .filter(|line| line.trim_start().starts_with(row))
            .collect();
        assert_eq!(rows.len(), 2, "{printed}");
        assert!(
            rows.iter().all(|row| row.matches('†').count() == 5),
            "{printed}"
        );
    }
    assert!(
        page.matches('†').count() > 16,
        "cells, the lead and the note"
    );

    // The mark is in the predictions file: scoring it again, by another rule of ties, keeps it.
    let score = succeed(
        dir,
        &[
            "score",
            "marked/predictions-test.safetensors",
            "--ties",
            "stable",
        ],
    );
    assert!(score.contains(meaning), "{score}");
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&succeed(dir, &[args, &["--json"]].concat())).unwrap()
    };
    let eval = json(&["eval", "marked"]);
    assert_eq!(eval["training_overlap"]["marked"], true);
    assert_eq!(eval["training_overlap"]["pictures"], 2);
    assert_eq!(eval["training_overlap"]["counts"]["same_text"], 1);
    let report: Value =
        serde_json::from_slice(&std::fs::read(dir.join("marked/report.json")).unwrap()).unwrap();
    assert_eq!(report["training_overlap"], eval["training_overlap"]);

    // The run knows what it was trained on: other data is audited without the run's own.
    std::fs::rename(dir.join("planted.csv"), dir.join("gone.csv")).unwrap();
    let other = json(&["eval", "clean", "--data", "gone.csv", "--split", "test"]);
    assert_eq!(other["training_overlap"]["pictures"], 2);
    let seen = json(&["eval", "clean", "--split", "train"]);
    assert_eq!(seen["training_overlap"]["pictures"], 36);
    // A run of before this was recorded says that nobody looked.
    std::fs::remove_file(dir.join("clean/training-data.jsonl")).unwrap();
    let output = run(dir, &["eval", "clean", "--json"]);
    assert!(output.status.success());
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warning.contains("not audited"), "{warning}");
    let unknown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(unknown["training_overlap"].is_null());
}
