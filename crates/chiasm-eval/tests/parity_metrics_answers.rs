//! VQA v2 accuracy against the golden rows (`fixtures/metrics/vqa_accuracy`).

#![allow(clippy::panic, reason = "a panic here is the failed test")]

use std::collections::BTreeMap;

use chiasm_eval::metrics::Tally;
use chiasm_eval::metrics::answers::accuracy;
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    question_id: u64,
    question_type: String,
    answer_type: String,
    prediction: String,
    answers: Vec<String>,
    accuracy: f64,
}

#[derive(Deserialize)]
struct Summary {
    overall_percent: f64,
    per_answer_type_percent: BTreeMap<String, f64>,
    per_question_type_percent: BTreeMap<String, f64>,
}

/// Equal answers counted together, in the order in which they first come, as the readers give them.
fn counted(answers: &[String]) -> Vec<(String, u32)> {
    let mut counts: Vec<(String, u32)> = Vec::new();
    for answer in answers {
        match counts.iter_mut().find(|(known, _)| known == answer) {
            Some((_, count)) => *count += 1,
            None => counts.push((answer.clone(), 1)),
        }
    }
    counts
}

#[test]
fn parity_metrics_vqa_accuracy() {
    let Some(golden) = chiasm_testkit::Case::open("metrics/vqa_accuracy") else {
        return;
    };
    let tolerance = golden.tolerance("accuracy_abs");
    let text = String::from_utf8(golden.file("rows.jsonl")).unwrap();
    let rows: Vec<Row> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len() as u64, golden.json["rows"].as_u64().unwrap());

    let mut overall = Tally::default();
    let mut by_answer: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut by_question: BTreeMap<&str, Tally> = BTreeMap::new();
    for row in &rows {
        let worth = accuracy(&row.prediction, &counted(&row.answers)).unwrap();
        assert!(
            (worth - row.accuracy).abs() <= tolerance,
            "question {}: {worth} for {}",
            row.question_id,
            row.accuracy
        );
        overall.add(worth);
        by_answer.entry(&row.answer_type).or_default().add(worth);
        by_question
            .entry(&row.question_type)
            .or_default()
            .add(worth);
    }

    let summary: Summary = serde_json::from_slice(&golden.file("summary.json")).unwrap();
    let tolerance = golden.tolerance("percent_abs");
    let same = |tally: &Tally, wanted: f64, what: &str| {
        let percent = 100.0 * tally.accuracy().unwrap().mean;
        assert!(
            (percent - wanted).abs() <= tolerance,
            "{what}: {percent} for {wanted}"
        );
    };
    same(&overall, summary.overall_percent, "overall");
    for (found, wanted) in [
        (by_answer, summary.per_answer_type_percent),
        (by_question, summary.per_question_type_percent),
    ] {
        assert_eq!(found.len(), wanted.len());
        for (kind, wanted) in wanted {
            same(&found[kind.as_str()], wanted, &kind);
        }
    }
}
