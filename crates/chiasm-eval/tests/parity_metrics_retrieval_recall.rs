//! Retrieval ranks, recalls and medians against the golden cases (`fixtures/metrics/retrieval_recall`).

#![allow(clippy::panic, reason = "a panic here is the failed test")]

use std::collections::BTreeMap;

use chiasm_eval::metrics::{Direction, ScoreMatrix, TieRule, retrieval};
use serde::Deserialize;

#[derive(Deserialize)]
struct Table {
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
    let Some(golden) = chiasm_testkit::Case::open("metrics/retrieval_recall") else {
        return;
    };
    let tolerance = golden.tolerance("abs");
    let listed: Vec<String> = serde_json::from_value(golden.json["cases"].clone()).unwrap();
    let cases: Vec<Table> = serde_json::from_slice(&golden.file("cases.json")).unwrap();
    let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names, listed, "cases.json holds what case.json lists");

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
                        (value - wanted).abs() <= tolerance,
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
                        (value - wanted).abs() <= tolerance,
                        "{at} / {key}: {value} for {wanted}"
                    );
                }
            }
        }
    }
}
