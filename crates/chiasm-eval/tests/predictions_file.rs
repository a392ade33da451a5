//! The predictions file: what is written is read back, and every damage is named.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use std::collections::HashMap;
use std::fs;

use chiasm_data::{Finding, Overlap};
use chiasm_eval::metrics::{Reranked, ScoreMatrix};
use chiasm_eval::predictions::{
    DatasetIdentity, METADATA_KEY, ModelIdentity, Predictions, PredictionsError, PredictionsInfo,
    RerankedPair, TrainingOverlap,
};
use safetensors::tensor::{Dtype, TensorView};

fn predictions() -> Predictions {
    Predictions {
        info: PredictionsInfo {
            split: "val".into(),
            dataset: DatasetIdentity {
                name: "pairs \"quoted\" \u{1f98a}".into(),
                fingerprint: "abc".into(),
            },
            model: ModelIdentity {
                name: "tiny".into(),
                run: "r1".into(),
                step: Some(10),
            },
            image_ids: vec!["a".into(), "b".into()],
            text_ids: vec!["0".into(), "1".into(), "2".into()],
            texts: vec!["one".into(), "two\nlines".into(), String::new()],
            training_overlap: Some(TrainingOverlap {
                command: "chiasm data audit a b".into(),
                training_samples: 7,
                findings: vec![Finding {
                    kind: Overlap::NearDuplicate,
                    id: "a".into(),
                    other: "z".into(),
                }],
            }),
            exhaustive_shortlist: Some(1),
        },
        scores: ScoreMatrix::new(vec![0.1, -0.2, f32::MAX, 3.0, 4.0, 5.0], 2, 3).unwrap(),
        image_of_text: vec![0, 1, 1],
        reranked: Some(RerankedPair {
            text_to_image: Reranked {
                candidates: vec![vec![1]; 3],
                scores: vec![vec![0.5]; 3],
            },
            image_to_text: Reranked {
                candidates: vec![vec![2, 0], vec![1, 2]],
                scores: vec![vec![0.5, 0.25], vec![1.0, 2.0]],
            },
        }),
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("val.safetensors");
    let mut written = predictions();
    written.write(&path).unwrap();
    assert_eq!(Predictions::read(&path).unwrap(), written);
    written.reranked = None;
    written.write(&path).unwrap();
    assert_eq!(Predictions::read(&path).unwrap(), written);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

/// A colleague on the same machine can read the file, as any other.
#[cfg(unix)]
#[test]
fn the_file_has_ordinary_rights() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["val.safetensors", "other"].map(|name| folder.path().join(name));
    predictions().write(&path).unwrap();
    fs::write(&other, "").unwrap();
    let [rights, ordinary] =
        [path, other].map(|path| fs::metadata(path).unwrap().permissions().mode());
    assert_eq!(rights, ordinary);
}

#[test]
fn the_same_predictions_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|name| folder.path().join(name));
    predictions().write(&left).unwrap();
    predictions().write(&right).unwrap();
    assert_eq!(fs::read(left).unwrap(), fs::read(right).unwrap());
}

#[test]
fn a_file_cut_anywhere_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.safetensors");
    predictions().write(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Predictions::read(&path).unwrap_err();
        assert!(
            matches!(error, PredictionsError::NotWhole { .. }),
            "{length}: {error}"
        );
        assert!(error.to_string().contains("cut.safetensors") && error.hint().is_some());
    }
    assert!(matches!(
        Predictions::read(&folder.path().join("none")),
        Err(PredictionsError::Io { .. })
    ));
}

#[test]
fn parts_that_do_not_fit_are_refused_before_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    let refused = |change: fn(&mut Predictions)| {
        let mut bad = predictions();
        change(&mut bad);
        let error = bad.write(&path).unwrap_err();
        assert!(!path.exists());
        let source = std::error::Error::source(&error)
            .map_or_else(String::new, |source| format!(": {source}"));
        format!("{error}{source}")
    };
    assert!(refused(|bad| bad.info.image_ids.truncate(1)).contains("`image_ids`"));
    assert!(refused(|bad| bad.info.texts.push("more".into())).contains("has 4 entries for 3"));
    assert!(
        refused(|bad| bad.image_of_text[0] = 2)
            .ends_with("text 0 belongs to image 2, but there are 2 images")
    );
    assert!(refused(|bad| bad.image_of_text[0] = 1).ends_with("image 0 has no text"));
    assert!(
        refused(|bad| bad.reranked.as_mut().unwrap().image_to_text.candidates[0][0] = 3)
            .ends_with("candidate 3 of 3")
    );
    assert!(
        refused(|bad| {
            let side = &mut bad.reranked.as_mut().unwrap().image_to_text;
            side.candidates[1].pop();
            side.scores[1].pop();
        })
        .ends_with("query 1: not 2 candidates, as the first query has")
    );
}

#[test]
fn other_files_and_newer_versions_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let data = 1_i64.to_le_bytes();
    let read = |metadata: Option<&str>| {
        let view = TensorView::new(Dtype::I64, vec![1], &data).unwrap();
        let entries =
            metadata.map(|json| HashMap::from([(METADATA_KEY.to_owned(), json.to_owned())]));
        fs::write(
            &path,
            safetensors::serialize([("scores", view)], entries).unwrap(),
        )
        .unwrap();
        Predictions::read(&path).unwrap_err()
    };
    assert!(matches!(read(None), PredictionsError::Metadata { .. }));
    assert!(matches!(
        read(Some("{}")),
        PredictionsError::Metadata { .. }
    ));
    assert!(matches!(
        read(Some(r#"{"format_version": 3}"#)),
        PredictionsError::Version { found: 3, .. }
    ));
    let info = r#"{"format_version": 1, "split": "", "dataset": {"name": "", "fingerprint": ""},
        "model": {"name": ""}, "image_ids": [], "text_ids": [], "texts": []}"#;
    let error = read(Some(info));
    assert!(
        error
            .to_string()
            .ends_with("I64 [1], not F32 with 2 dimensions"),
        "{error}"
    );
}

/// A file of before audits is read, as one that nobody audited.
#[test]
fn files_of_version_1_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.safetensors");
    let info = r#"{"format_version": 1, "split": "test", "dataset": {"name": "d", "fingerprint": "f"},
        "model": {"name": "m"}, "image_ids": ["a"], "text_ids": ["a#0"], "texts": ["one"]}"#;
    let (score, pairing) = (1.5_f32.to_le_bytes(), 0_i64.to_le_bytes());
    let tensors = [
        ("scores", TensorView::new(Dtype::F32, vec![1, 1], &score)),
        (
            "image_of_text",
            TensorView::new(Dtype::I64, vec![1], &pairing),
        ),
    ];
    let tensors = tensors.map(|(name, tensor)| (name, tensor.unwrap()));
    let entries = HashMap::from([(METADATA_KEY.to_owned(), info.to_owned())]);
    fs::write(
        &path,
        safetensors::serialize(tensors, Some(entries)).unwrap(),
    )
    .unwrap();
    let read = Predictions::read(&path).unwrap();
    assert_eq!(read.info.training_overlap, None);
    assert_eq!(read.info.exhaustive_shortlist, None);
    read.write(&path).unwrap();
    assert_eq!(Predictions::read(&path).unwrap(), read);
}
