//! The file of alignment: what is written is read back, and every damage is named.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use std::fs;

use chiasm_eval::predictions::{
    AlignmentInfo, AlignmentPredictions, AlignmentRow, PredictionsError,
};
use chiasm_eval::score::{AnyPredictions, read_any};

fn predictions() -> AlignmentPredictions {
    let row = |id: &str, phrase: Option<&str>| AlignmentRow {
        id: id.into(),
        phrase: phrase.map(str::to_owned),
        kind: "people".into(),
        score: 0.5,
        uniform: 0.125,
        pixel_score: Some(1.0),
        pixel_uniform: Some(0.0),
    };
    AlignmentPredictions {
        info: AlignmentInfo {
            split: "test".into(),
            attention: "last layer".into(),
            skipped_phrases: 3,
            ..AlignmentInfo::default()
        },
        rows: vec![
            row("1", None),
            row("1", Some("a \"man\"\n")),
            row("1", Some("a \"man\"\n")),
            AlignmentRow {
                pixel_score: None,
                pixel_uniform: None,
                ..row("2", None)
            },
        ],
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.jsonl");
    let written = predictions();
    written.write(&path).unwrap();
    assert_eq!(AlignmentPredictions::read(&path).unwrap(), written);
    assert_eq!(read_any(&path).unwrap(), AnyPredictions::Alignment(written));
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
        let error = AlignmentPredictions::read(&path).unwrap_err();
        assert!(error.to_string().contains("cut.jsonl"), "{length}: {error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_on_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.jsonl");
    let refused = |change: fn(&mut AlignmentRow), what: &str| {
        let mut bad = predictions();
        change(&mut bad.rows[3]);
        let error = bad.write(&path).unwrap_err().to_string();
        assert!(!path.exists());
        assert!(
            error.starts_with("line 5 of `") && error.ends_with(what),
            "{error}"
        );
    };
    refused(
        |row| row.score = f64::NAN,
        "`score` is NaN, not from 0 to 1",
    );
    refused(
        |row| row.uniform = -0.5,
        "`uniform` is -0.5, not from 0 to 1",
    );
    refused(
        |row| row.id = "1".into(),
        "the picture `1` has two global scores",
    );
    refused(
        |row| row.pixel_uniform = Some(0.5),
        "`pixel_uniform` is missing",
    );

    predictions().write(&path).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    for (from, to, what) in [
        ("0.125", "12.5", "`uniform` is 12.5"),
        ("0.125", "1e999", "number out of range"),
        ("0.125", "NaN", "expected"),
        ("0.125", "\"x\"", "invalid type"),
        ("\"id\":\"1\"", "\"id\":1", "invalid type"),
        ("\"uniform\"", "\"other\"", "missing field `uniform`"),
    ] {
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let error = AlignmentPredictions::read(&path).unwrap_err();
        assert!(
            matches!(error, PredictionsError::Line { line: 2, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(what), "{error} for {what}");
    }
    fs::write(&path, good.replace("\"version\":1", "\"version\":2")).unwrap();
    let error = AlignmentPredictions::read(&path).unwrap_err();
    assert!(matches!(
        error,
        PredictionsError::Version {
            found: 2,
            newest: 1,
            ..
        }
    ));
}
