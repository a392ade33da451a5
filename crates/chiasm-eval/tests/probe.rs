//! Probes of made features: what they find, what they promise, and the file between them and the figures.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic here is the failed test"
)]

use chiasm_data::rng::{self, Rng, unit_f64};
use chiasm_eval::predictions::relation::{ORACLE, RelationPredictions};
use chiasm_eval::predictions::{DatasetIdentity, ModelIdentity};
use chiasm_eval::score::{AnyPredictions, read_any, render_relation_table, score_relation};
use chiasm_eval::tasks::probe::{
    PENALTIES, Pair, PairFeatures, Part, PreparationKind, ProbeJob, ProbeSettings, Probed, run,
};
use chiasm_relation::{Calibration, RelationError};

/// TRC's shares of neither, adds, represented, both.
const PRIOR: [f64; 4] = [0.338, 0.257, 0.219, 0.186];

fn normal(rng: &mut Rng) -> f32 {
    let (radius, angle) = (1.0 - unit_f64(rng), unit_f64(rng));
    ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
}

/// `count` pairs: the text features tell t, the image features tell v, each with noise of `noise`.
fn made(seed: u64, count: usize, noise: f32) -> (Vec<Pair>, PairFeatures) {
    let mut rng = rng::stream(seed, "probe-test", &[]);
    let mut features = PairFeatures {
        text_width: 6,
        image_width: 4,
        ..PairFeatures::default()
    };
    let pairs = (0..count).map(|place| {
        let at = unit_f64(&mut rng);
        let mut sum = 0.0;
        let tv = PRIOR.iter().position(|share| {
            sum += share;
            at < sum
        });
        let label = tv.unwrap_or(3);
        let mut row = |width: usize, fact: usize, scale: f32| -> Vec<f32> {
            let mut row: Vec<f32> = (0..width).map(|_| noise * normal(&mut rng)).collect();
            row[0] += fact as f32;
            row.iter().map(|value| value * scale).collect()
        };
        // One modality a hundred times as large, as real ones are.
        features.text.extend(row(6, label / 2, 1.0));
        features.image.extend(row(4, label % 2, 100.0));
        Pair {
            id: place.to_string(),
            unit: format!("author{}", place / 2),
            label,
            part: match place % 10 {
                0..6 => Part::Train,
                6 | 7 => Part::Validation,
                _ => Part::Scored,
            },
        }
    });
    (pairs.collect(), features)
}

fn settings() -> ProbeSettings {
    ProbeSettings {
        penalties: vec![0.25],
        preparation: PreparationKind::Modalities,
        neighbours: 15,
        precision: 0.8,
    }
}

fn classes() -> Vec<String> {
    ["neither", "adds", "represented", "both"]
        .map(str::to_owned)
        .to_vec()
}

fn probe(
    pairs: &[Pair],
    features: &PairFeatures,
    settings: &ProbeSettings,
) -> Result<Probed, RelationError> {
    let classes = classes();
    let job = ProbeJob {
        pairs,
        features,
        classes: &classes,
        relations: true,
        settings,
        split: "test".to_owned(),
        dataset: DatasetIdentity::default(),
        model: ModelIdentity::default(),
        training_overlap: None,
    };
    run(&job, &mut |_, _, _| {})
}

/// A1: features that tell reach .97, and each modality tells its own fact alone.
#[test]
fn features_that_tell_are_read() {
    let (pairs, features) = made(1, 2000, 0.1);
    let found = probe(&pairs, &features, &settings()).unwrap();
    let report = score_relation(&found.predictions).unwrap();
    let of = |name: &str, set: &str| {
        let mut protocols = report.protocols.iter();
        let own = protocols.find(|own| own.protocol.name == name && own.protocol.features == set);
        own.unwrap_or_else(|| panic!("{name}, {set}"))
    };
    for name in ["linear", "two questions", "centroid", "neighbours"] {
        let both = of(name, "text + image");
        assert!(both.classes.weighted_f1.value > 0.97, "{name}");
        let text = of(name, "text");
        assert!(text.t.as_ref().unwrap().weighted_f1.value > 0.97, "{name}");
        assert!(text.v.as_ref().unwrap().weighted_f1.value < 0.7, "{name}");
        let image = of(name, "image");
        assert!(image.v.as_ref().unwrap().weighted_f1.value > 0.97, "{name}");
    }
    let clusters = of(ORACLE, "text + image");
    assert!(clusters.classes.weighted_f1.value > 0.97);
    assert_eq!(clusters.answered, None);
    let majority = report.majority.classes.weighted_f1;
    assert!(majority.value < 0.25 && majority.low <= majority.value);
    assert!((report.chance.0 - 0.25).abs() < 0.03);
    assert_eq!(report.cosine, None);
    let table = render_relation_table(&report);
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
}

/// Noise teaches nothing: figures are those of guessing, and no answer is promised.
#[test]
fn features_that_do_not_tell_are_not_read() {
    let (mut pairs, features) = made(2, 3000, 0.1);
    let order = rng::permutation(3, 0, pairs.len());
    let labels: Vec<usize> = order.iter().map(|place| pairs[*place].label).collect();
    pairs
        .iter_mut()
        .zip(labels)
        .for_each(|(pair, label)| pair.label = label);
    let found = probe(&pairs, &features, &settings()).unwrap();
    assert!(found.model.promise.unwrap().confidence > 1.0);
    let report = score_relation(&found.predictions).unwrap();
    let linear = &report.protocols[0];
    assert!(linear.classes.weighted_f1.value < 0.33);
    assert_eq!(linear.answered.unwrap().precision, None);
    assert!(linear.calibration_error.unwrap() < 0.05);
}

/// The threshold chosen on validation pairs holds on scored pairs, within its interval, and calibration helps.
#[test]
fn promises_hold_on_other_pairs() {
    let (pairs, features) = made(4, 6000, 0.45);
    let wanted = ProbeSettings {
        penalties: PENALTIES.to_vec(),
        ..settings()
    };
    let found = probe(&pairs, &features, &wanted).unwrap();
    let report = score_relation(&found.predictions).unwrap();
    let answered = report.protocols[0].answered.unwrap();
    let precision = answered.precision.unwrap();
    assert!(
        precision.low <= 0.8 + 1e-9 && precision.high >= 0.8,
        "{answered:?}"
    );
    assert!(answered.coverage > 0.2, "{answered:?}");
    assert!(report.protocols[0].calibration_error.unwrap() < 0.06);
    // What the model file says is what it does.
    let model = &found.model;
    model.check().unwrap();
    let json = serde_json::to_string(model).unwrap();
    assert_eq!(
        &serde_json::from_str::<chiasm_relation::RelationModel>(&json).unwrap(),
        model
    );
    let (text, image) = features.of(9);
    let row: Vec<f32> = model.features.of(text, image).collect();
    let rows = chiasm_relation::Rows::new(&row, row.len()).unwrap();
    let said = model.scores(rows).unwrap().probabilities();
    let place = found
        .predictions
        .rows
        .iter()
        .position(|row| row.id == "9")
        .unwrap();
    for (a, b) in said
        .iter()
        .zip(&found.predictions.rows[place].probabilities[0])
    {
        assert!((*a as f32 - b).abs() < 1e-6);
    }
}

#[test]
fn the_file_gives_back_what_was_written() {
    let (pairs, features) = made(5, 200, 0.3);
    let found = probe(&pairs, &features, &settings()).unwrap().predictions;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relation.jsonl");
    found.write(&path).unwrap();
    assert_eq!(
        read_any(&path).unwrap(),
        AnyPredictions::Relation(found.clone())
    );
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, says) in [
        (
            "\"label\":\"adds\"",
            "\"label\":\"other\"",
            "not among the classes",
        ),
        ("\"id\":\"9\"", "\"id\":\"8\"", "there twice"),
        (
            "\"majority\":\"neither\"",
            "\"majority\":\"none\"",
            "not among",
        ),
        ("\"cosine\":null", "\"cosine\":7.5", "not from -1 to 1"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = RelationPredictions::read(&path).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let cut = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    std::fs::write(&path, cut).unwrap();
    assert!(RelationPredictions::read(&path).is_err());
}

#[test]
fn few_or_strange_pairs_are_an_error_or_work() {
    let (pairs, features) = made(6, 200, 0.3);
    let one_class: Vec<Pair> = pairs
        .iter()
        .cloned()
        .map(|pair| Pair { label: 1, ..pair })
        .collect();
    let error = probe(&one_class, &features, &settings()).err().unwrap();
    assert_eq!(error, RelationError::OneClass { class: 1 });
    let unscored: Vec<Pair> = pairs
        .iter()
        .cloned()
        .map(|pair| Pair {
            part: Part::Train,
            ..pair
        })
        .collect();
    assert_eq!(
        probe(&unscored, &features, &settings()).err(),
        Some(RelationError::Empty)
    );
    // No validation pairs: nothing is calibrated, nothing is promised.
    let of = |pair: Pair| Pair {
        part: if pair.part == Part::Validation {
            Part::Train
        } else {
            pair.part
        },
        ..pair
    };
    let unchosen: Vec<Pair> = pairs.iter().cloned().map(of).collect();
    let found = probe(&unchosen, &features, &settings()).unwrap();
    assert_eq!(
        (found.model.calibration, found.model.promise),
        (Calibration::None, None)
    );
    // A fact that all training pairs share, and features that are all alike.
    let never: Vec<Pair> = pairs
        .iter()
        .cloned()
        .map(|pair| Pair {
            label: pair.label % 2,
            ..pair
        })
        .collect();
    let found = probe(&never, &features, &settings()).unwrap();
    assert!(score_relation(&found.predictions).is_some());
    let flat = PairFeatures {
        text: vec![1.0; features.text.len()],
        text_width: 6,
        ..PairFeatures::default()
    };
    let found = probe(&pairs, &flat, &settings()).unwrap();
    let report = score_relation(&found.predictions).unwrap();
    assert!(report.protocols[0].classes.weighted_f1.value < 0.3);
}

#[test]
fn a_damaged_model_is_refused() {
    let (pairs, features) = made(7, 200, 0.3);
    let model = probe(&pairs, &features, &settings()).unwrap().model;
    let json = serde_json::to_value(&model).unwrap();
    for (pointer, value) in [
        ("/version", serde_json::json!(9)),
        ("/classes", serde_json::json!(["a"])),
        ("/text_width", serde_json::json!(7)),
        ("/probe/weights", serde_json::json!([1.0])),
        ("/probe/present", serde_json::json!([0, 1, 2, 9])),
        ("/probe/present", serde_json::json!([])),
        ("/preparation/scale", serde_json::json!([])),
        ("/calibration", serde_json::json!({"temperature": 0.0})),
    ] {
        let mut damaged = json.clone();
        *damaged.pointer_mut(pointer).unwrap() = value;
        let damaged: chiasm_relation::RelationModel = serde_json::from_value(damaged).unwrap();
        assert!(damaged.check().is_err(), "{pointer}");
    }
}
