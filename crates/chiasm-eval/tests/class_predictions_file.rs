//! The file of class predictions: what is written is read back, and every damage is named.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use std::fs;
use std::path::Path;

use chiasm_data::{Finding, Overlap};
use chiasm_eval::predictions::{
    ClassInfo, ClassPredictions, ClassRow, DatasetIdentity, ModelIdentity, PredictionsError,
    Targets, TrainingOverlap,
};
use proptest::prelude::*;

fn predictions() -> ClassPredictions {
    let row = |id: &str, predicted: &str, probability| ClassRow {
        id: id.into(),
        group: "p".into(),
        text: "is \"it\"\na \u{1f98a}?".into(),
        predicted: predicted.into(),
        probability,
        top: vec![
            (predicted.into(), probability),
            ("no".into(), 1.0 - probability),
        ],
        answers: vec![("Yes.".into(), 9), ("no".into(), 1)],
        label: Some("a class that cannot be chosen".into()),
        kinds: [("answer_type".into(), "yes/no".into())].into(),
    };
    ClassPredictions {
        info: ClassInfo {
            split: "val".into(),
            dataset: DatasetIdentity {
                name: "vqa".into(),
                fingerprint: "f".into(),
            },
            model: ModelIdentity {
                name: "tiny".into(),
                run: "r1".into(),
                step: Some(10),
            },
            targets: Targets::Answers,
            classes: vec!["yes".into(), "no".into(), String::new()],
            majority: Some("yes".into()),
            training_overlap: Some(TrainingOverlap {
                command: "chiasm data audit a b".into(),
                training_samples: 7,
                findings: vec![Finding {
                    kind: Overlap::NearDuplicate,
                    id: "1".into(),
                    other: "z".into(),
                }],
            }),
        },
        rows: vec![
            row("1", "yes", 0.1),
            row("2", "no", 1.0),
            row("3", "", f32::MIN_POSITIVE),
        ],
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("val.jsonl");
    let mut written = predictions();
    for _ in 0..2 {
        written.write(&path).unwrap();
        assert_eq!(ClassPredictions::read(&path).unwrap(), written);
        // And a file without rows, as it replaces the other.
        written.rows.clear();
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.jsonl");
    predictions().write(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    // The last line break says nothing.
    for length in 0..whole.len() - 1 {
        fs::write(&path, &whole[..length]).unwrap();
        let error = ClassPredictions::read(&path).unwrap_err();
        assert!(
            error.to_string().contains("cut.jsonl") && error.hint().is_some(),
            "{length}: {error}"
        );
    }
    let missing = ClassPredictions::read(&folder.path().join("none"));
    assert!(matches!(missing, Err(PredictionsError::Io { .. })));
}

const HEADER: &str = r#"{"chiasm.predictions": "classes", "version": 1, "rows": ROWS, "split": "val",
    "dataset": {"name": "d", "fingerprint": "f"}, "model": {"name": "m"}, "targets": "labels",
    "classes": ["a", "b"], "later": 1}"#;

fn read(path: &Path, rows: usize, lines: &[&str]) -> Result<ClassPredictions, PredictionsError> {
    let header = HEADER.replace("ROWS", &rows.to_string()).replace('\n', " ");
    let text = [&[header.as_str()], lines].concat().join("\n");
    fs::write(path, text).unwrap();
    ClassPredictions::read(path)
}

#[test]
fn what_does_not_fit_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.jsonl");
    let good =
        r#"{"id": "1", "group": "g", "text": "t", "predicted": "a", "probability": 1.00001}"#;
    let read_good = read(&path, 1, &[good]).unwrap();
    assert_eq!(read_good.rows[0].label, None, "what may be absent is");
    let second = |change: (&str, &str)| good.replace("\"1\"", "\"2\"").replace(change.0, change.1);
    for (line, what) in [
        (good.to_owned(), "the id `1` is there twice"),
        (second(("\"a\"", "\"c\"")), "`c` is not among the classes"),
        (
            second(("1.00001", "1.5")),
            "the probability 1.5 of `a` is not from 0 to 1",
        ),
        (second(("1.00001", "-0.5")), "is not from 0 to 1"),
        (second(("1.00001", "1e39")), "the probability inf of `a`"),
        (second(("1.00001", "1e999")), "number out of range, column"),
        (second(("1.00001", "NaN")), "expected"),
        (second(("1.00001", "null")), "invalid type: null"),
        (
            second(("\"text\": \"t\"", "\"text\": 3")),
            "invalid type: integer",
        ),
        (second(("\"id\": \"2\"", "\"i\": 0")), "missing field `id`"),
        (
            second(("1.00001", r#"1, "top": [["c", 1]]"#)),
            "`c` is not among",
        ),
        (
            second(("1.00001", r#"1, "top": [["b", 9]]"#)),
            "the probability 9 of `b`",
        ),
        (
            second((
                "1.00001",
                &format!(r#"1, "top": [{}]"#, [r#"["b",0]"#; 6].join(",")),
            )),
            "`top` has 6 entries of 5",
        ),
        (
            second(("1.00001", r#"1, "answers": [["x", -1]]"#)),
            "invalid value",
        ),
        (
            second(("1.00001", r#"1, "kinds": {"k": 2}"#)),
            "invalid type",
        ),
        ("[".repeat(100_000), "column"),
        (String::new(), "the file ends after 1 of 2 rows"),
        ("\n".to_owned(), "EOF while parsing"),
        ("\u{0}".to_owned(), "expected value"),
    ] {
        let error = read(&path, 2, &[good, &line]).unwrap_err();
        assert!(
            matches!(error, PredictionsError::Line { line: 3, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(what), "{error} for {what}");
        assert!(error.to_string().contains("line 3 of `"), "{error}");
    }
    let error = read(&path, 1, &[good, &second(("", ""))]).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("a line after the last of 1 rows"),
        "{error}"
    );
    let error = read(&path, usize::MAX, &[good]).unwrap_err();
    assert!(error.to_string().contains("ends after 1 of"), "{error}");
}

#[test]
fn other_files_and_newer_versions_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.jsonl");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        ClassPredictions::read(&path).unwrap_err()
    };
    for other in [
        "",
        "{}",
        "[]",
        "\u{fffd}",
        r#"{"chiasm.predictions": "classes"}"#,
    ] {
        assert!(
            matches!(read(other), PredictionsError::Metadata { .. }),
            "{other}"
        );
    }
    let error = read(r#"{"chiasm.predictions": "alignment", "version": 1}"#);
    assert!(
        error
            .to_string()
            .ends_with("announces `alignment`, not `classes`"),
        "{error}"
    );
    let error = read(r#"{"chiasm.predictions": "classes", "version": 2, "classes": 7}"#);
    assert!(matches!(
        error,
        PredictionsError::Version {
            found: 2,
            newest: 1,
            ..
        }
    ));
    let error = read(r#"{"chiasm.predictions": "classes", "version": 1}"#);
    assert!(
        matches!(error, PredictionsError::Line { line: 1, .. }),
        "{error}"
    );
}

#[test]
fn parts_that_do_not_fit_are_refused_before_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.jsonl");
    let refused = |change: fn(&mut ClassPredictions)| {
        let mut bad = predictions();
        change(&mut bad);
        let error = bad.write(&path).unwrap_err().to_string();
        assert!(!path.exists());
        error
    };
    assert!(refused(|bad| bad.rows[1].probability = f32::NAN).starts_with("line 3 of `"));
    assert!(refused(|bad| bad.rows[1].id = "1".into()).ends_with("the id `1` is there twice"));
    assert!(refused(|bad| bad.info.classes.clear()).ends_with("there are no classes"));
    assert!(refused(|bad| bad.info.classes.push("no".into())).ends_with("`no` is named twice"));
    assert!(refused(|bad| bad.info.majority = Some("x".into())).contains("`x` is not among"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_row_survives(text in "\\PC{0,20}|[\n\t\"\\\\]{0,4}", probability in 0.0_f32..=1.0, count: u32) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any.jsonl");
        let mut written = predictions();
        let row = &mut written.rows[0];
        row.text.clone_from(&text);
        row.id = format!("1{text}");
        row.probability = probability;
        row.answers = vec![(text, count)];
        written.write(&path).unwrap();
        prop_assert_eq!(ClassPredictions::read(&path).unwrap(), written);
    }

    #[test]
    fn damage_never_panics(at in 0_usize..2000, byte: u8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any.jsonl");
        predictions().write(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        fs::write(&path, bytes).unwrap();
        let _ = ClassPredictions::read(&path);
    }
}
