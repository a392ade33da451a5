//! One command reads every kind of predictions file.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use std::fs;

use chiasm_eval::metrics::ScoreMatrix;
use chiasm_eval::predictions::{
    ClassInfo, ClassPredictions, Predictions, PredictionsError, PredictionsInfo,
};
use chiasm_eval::score::{AnyPredictions, read_any};

fn retrieval() -> Predictions {
    Predictions {
        info: PredictionsInfo {
            image_ids: vec!["a".into()],
            text_ids: vec!["0".into()],
            texts: vec!["one".into()],
            ..PredictionsInfo::default()
        },
        scores: ScoreMatrix::new(vec![0.5], 1, 1).unwrap(),
        image_of_text: vec![0],
        reranked: None,
    }
}

#[test]
fn kinds_are_told_apart_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("predictions");
    let classes = ClassPredictions {
        info: ClassInfo {
            classes: vec!["a".into()],
            ..ClassInfo::default()
        },
        rows: Vec::new(),
    };
    classes.write(&path).unwrap();
    assert_eq!(read_any(&path).unwrap(), AnyPredictions::Classes(classes));

    let written = retrieval();
    written.write(&path).unwrap();
    assert_eq!(
        read_any(&path).unwrap(),
        AnyPredictions::Retrieval(written.clone())
    );

    // The length of the header comes first: one of 123 + 256 n bytes makes the file begin with `{` too.
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap());
    let (header, data) = rest.split_at(length.try_into().unwrap());
    let padding = (123 + 256 - length % 256) % 256;
    let length = (length + padding).to_le_bytes();
    let padding = vec![b' '; padding.try_into().unwrap()];
    let padded = [&length[..], header, &padding, data].concat();
    assert!(padded.starts_with(b"{"));
    fs::write(&path, padded).unwrap();
    assert_eq!(read_any(&path).unwrap(), AnyPredictions::Retrieval(written));
}

#[test]
fn other_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.file");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = read_any(&path).unwrap_err();
        assert!(error.to_string().contains("other.file"), "{error}");
        error
    };
    for bytes in [&b""[..], b"x", b"{\0", b"PK\x03\x04", b"[1]"] {
        assert!(
            matches!(read(bytes), PredictionsError::NotWhole { .. }),
            "{bytes:?}"
        );
    }
    for text in [
        "{",
        "{}",
        r#"{"chiasm.predictions": 1}"#,
        r#"{"chiasm.predictions": "x", "version": 1}"#,
    ] {
        assert!(
            matches!(read(text.as_bytes()), PredictionsError::Metadata { .. }),
            "{text}"
        );
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(read_any(&path), Err(PredictionsError::Io { .. })));
}
