//! NLVR2 accuracy and consistency against the golden rows (`fixtures/metrics/nlvr2`).

#![allow(clippy::panic, reason = "a panic here is the failed test")]

use chiasm_eval::metrics::Tally;
use chiasm_eval::metrics::classes::{consistency, is_right, statement_of};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    identifier: String,
    label: String,
    prediction: String,
}

#[test]
fn parity_metrics_nlvr2() {
    let Some(golden) = chiasm_testkit::Case::open("metrics/nlvr2") else {
        return;
    };
    let tolerance = golden.tolerance("abs");
    let expected = &golden.json["expected"];
    let text = String::from_utf8(golden.file("rows.jsonl")).unwrap();
    let rows: Vec<Row> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len() as u64, expected["rows"].as_u64().unwrap());

    let judged = || {
        rows.iter().map(|row| {
            let right = is_right(&row.prediction, &row.label);
            (statement_of(&row.identifier).unwrap(), right)
        })
    };
    let accuracy = judged().map(|(_, right)| f64::from(u8::from(right)));
    let accuracy = accuracy.collect::<Tally>().accuracy().unwrap();
    let consistency = consistency(judged()).unwrap();
    assert_eq!(
        consistency.samples as u64,
        expected["unique_statements"].as_u64().unwrap()
    );
    for (what, value) in [
        ("accuracy", accuracy.mean),
        ("consistency", consistency.mean),
    ] {
        let wanted = expected[what].as_f64().unwrap();
        assert!(
            (value - wanted).abs() <= tolerance,
            "{what}: {value} for {wanted}"
        );
    }
}
