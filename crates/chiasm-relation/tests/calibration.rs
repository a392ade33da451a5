//! Calibration recovers what was done to logits, and does not make things worse.
#![allow(clippy::panic, reason = "a panic here is the failed test")]

use chiasm_data::rng::{self, unit_f64};
use chiasm_relation::probe::Scores;
use chiasm_relation::{Calibration, CalibrationKind};

/// Logits of `classes` classes with labels drawn from their softmax.
fn drawn(seed: u64, rows: usize, classes: usize) -> (Vec<f64>, Vec<usize>) {
    let mut rng = rng::stream(seed, "calibration", &[]);
    let logits: Vec<f64> = (0..rows * classes)
        .map(|_| rng::uniform(&mut rng, -2.0, 2.0))
        .collect();
    let probabilities = Scores::new(logits.clone(), classes).probabilities();
    let labels = probabilities.chunks_exact(classes).map(|row| {
        let at = unit_f64(&mut rng);
        let mut sum = 0.0;
        let found = row.iter().position(|p| {
            sum += p;
            at < sum
        });
        found.unwrap_or(classes - 1)
    });
    let labels = labels.collect();
    (logits, labels)
}

#[test]
fn a_temperature_is_recovered() {
    let (logits, labels) = drawn(1, 20_000, 4);
    for wrong in [0.25, 1.0, 3.0] {
        let scores = Scores::new(logits.iter().map(|logit| logit * wrong).collect(), 4);
        let fitted = Calibration::fit(CalibrationKind::Temperature, &scores, &labels).unwrap();
        let Calibration::Temperature(found) = fitted else {
            panic!("{fitted:?}")
        };
        assert!(
            (found / wrong - 1.0).abs() < 0.05,
            "{found} instead of {wrong}"
        );
        assert_eq!(fitted.apply(&scores).predicted(), scores.predicted());
    }
}

#[test]
fn slope_and_offset_are_recovered_and_chosen() {
    let (logits, labels) = drawn(2, 20_000, 2);
    let shift = |row: &[f64]| [0.0, ((row[1] - row[0]) - 0.7) / 0.5];
    let scores = Scores::new(logits.chunks_exact(2).flat_map(shift).collect(), 2);
    let chosen = Calibration::choose(&scores, &labels).unwrap();
    let Calibration::Platt { slope, offset } = chosen else {
        panic!("{chosen:?}")
    };
    assert!(
        (slope - 0.5).abs() < 0.05 && (offset - 0.7).abs() < 0.05,
        "{chosen:?}"
    );
}

#[test]
fn what_is_right_is_left_alone_or_nearly() {
    let (logits, labels) = drawn(3, 5_000, 3);
    let scores = Scores::new(logits, 3);
    match Calibration::choose(&scores, &labels).unwrap() {
        Calibration::None => {}
        Calibration::Temperature(found) => assert!((found - 1.0).abs() < 0.1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn separable_and_impossible_rows_give_finite_numbers() {
    // All right, whatever the temperature; and one class that the probe never saw.
    let scores = Scores::new([2.0, -1.0, f64::NEG_INFINITY].repeat(40), 3);
    let mut labels = vec![0; 40];
    labels[3] = 2;
    let fitted = Calibration::fit(CalibrationKind::Temperature, &scores, &labels).unwrap();
    let Calibration::Temperature(found) = fitted else {
        panic!("{fitted:?}")
    };
    assert!(found.is_finite() && found > 0.0);
    let calibrated = fitted.apply(&scores).probabilities();
    assert!(calibrated.iter().all(|p| (0.0..=1.0).contains(p)));
    assert!(Calibration::fit(CalibrationKind::Platt, &scores, &labels).is_err());
    assert!(Calibration::choose(&scores, &labels[1..]).is_err());
}
