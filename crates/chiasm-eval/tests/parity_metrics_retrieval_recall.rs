//! Retrieval ranks, recalls and medians against the golden cases (`fixtures/metrics/retrieval_recall`).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed unwrap here is the failed test"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use chiasm_eval::metrics::{Direction, ScoreMatrix, TieRule, retrieval};
use serde::Deserialize;

#[derive(Deserialize)]
struct Header {
    tolerance: Tolerance,
    cases: Vec<String>,
}

#[derive(Deserialize)]
struct Tolerance {
    abs: f64,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    scores: Vec<Vec<f32>>,
    image_of_text: Vec<usize>,
    expected: BTreeMap<Direction, BTreeMap<String, Expected>>,
    /// Only on cases without ties: keys such as `tr_r5`.
    reference_recall: Option<BTreeMap<String, f64>>,
}

#[derive(Deserialize)]
struct Expected {
    ranks: Vec<usize>,
    r1: f64,
    r5: f64,
    r10: f64,
    median_rank: f64,
    mean_rank: f64,
}

fn fixtures() -> PathBuf {
    std::env::var_os("CHIASM_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures"),
        PathBuf::from,
    )
}

fn tie_rule(name: &str) -> TieRule {
    match name {
        "optimistic" => TieRule::Optimistic,
        "pessimistic" => TieRule::Pessimistic,
        "stable_lowest_index_first" => TieRule::StableLowestIndex,
        other => panic!("tie rule `{other}` is not known"),
    }
}

#[test]
fn parity_metrics_retrieval_recall() {
    let folder = fixtures().join("metrics/retrieval_recall");
    if !folder.is_dir() {
        eprintln!("skipped: no {} (set CHIASM_FIXTURES)", folder.display());
        return;
    }
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let header: Header = serde_json::from_slice(&read("case.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&read("cases.json")).unwrap();
    let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names, header.cases, "cases.json holds what case.json lists");

    for case in &cases {
        let (images, texts) = (case.scores.len(), case.image_of_text.len());
        let scores = ScoreMatrix::new(case.scores.concat(), images, texts).unwrap();
        assert!(!case.expected.is_empty());
        for (&direction, by_rule) in &case.expected {
            assert!(!by_rule.is_empty());
            for (rule, expected) in by_rule {
                let at = format!("{} / {direction} / {rule}", case.name);
                let ties = tie_rule(rule);
                assert_eq!(
                    retrieval::ranks(&scores, &case.image_of_text, direction, ties).unwrap(),
                    expected.ranks,
                    "{at}"
                );
                let metrics = retrieval::evaluate(&scores, &case.image_of_text, ties).unwrap();
                let side = metrics.direction(direction);
                for (what, value, wanted) in [
                    ("r1", side.recall_at_1, expected.r1),
                    ("r5", side.recall_at_5, expected.r5),
                    ("r10", side.recall_at_10, expected.r10),
                    ("median_rank", side.median_rank, expected.median_rank),
                    ("mean_rank", side.mean_rank, expected.mean_rank),
                ] {
                    assert!(
                        (value - wanted).abs() <= header.tolerance.abs,
                        "{at} / {what}: {value} for {wanted}"
                    );
                }
                for (key, wanted) in case.reference_recall.iter().flatten() {
                    let (side, k) = key.split_once("_r").unwrap();
                    let side = match side {
                        "ir" => &metrics.text_to_image,
                        "tr" => &metrics.image_to_text,
                        other => panic!("direction `{other}` is not known"),
                    };
                    let value = match k {
                        "1" => side.recall_at_1,
                        "5" => side.recall_at_5,
                        "10" => side.recall_at_10,
                        other => panic!("recall at `{other}` is not known"),
                    };
                    assert!(
                        (value - wanted).abs() <= header.tolerance.abs,
                        "{at} / {key}: {value} for {wanted}"
                    );
                }
            }
        }
    }
}
