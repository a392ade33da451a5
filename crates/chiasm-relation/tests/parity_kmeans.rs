//! k-means against scikit-learn's (`fixtures/itr/kmeans`).

use chiasm_relation::{KMeansConfig, Preparation, Rows, kmeans, kmeans_from};
use chiasm_testkit::{Case, assert_close};

#[test]
fn lloyd_against_scikit_learn() {
    let Some(case) = Case::open("itr/kmeans") else {
        return;
    };
    let (x, init) = (
        case.tensor("inputs.x"),
        case.tensor("inputs.init_centroids"),
    );
    let width = x.shape[1];
    let (x, init) = (x.f32s(), init.f32s());
    let rows = Rows::new(&x, width).unwrap();
    let init = Rows::new(&init, width).unwrap();
    let config = KMeansConfig {
        tolerance: 0.0,
        ..Default::default()
    };
    let found = kmeans_from(rows, init, &config).unwrap();

    let labels: Vec<i64> = found.labels.iter().map(|label| *label as i64).collect();
    assert_eq!(labels, case.tensor("expected.labels").i64s());
    let allowed = case.tolerance("centroids_abs");
    let expected = case.tensor("expected.centroids");
    assert_close("centroids", &found.centroids, expected, allowed, 0.0);
    let inertia = case.json["expected"]["lloyd_inertia"].as_f64().unwrap();
    let allowed = case.tolerance("inertia_rel");
    assert!((found.inertia / inertia - 1.0).abs() <= allowed);

    // Every step: stopped after `i` iterations, labels are those of the centroids reached so far.
    let history = &case.tensor("expected.inertia_history").values;
    for (iterations, inertia) in history.iter().enumerate().skip(1) {
        let config = KMeansConfig {
            max_iterations: iterations,
            ..config
        };
        let found = kmeans_from(rows, init, &config).unwrap();
        assert!(
            (found.inertia / inertia - 1.0).abs() <= 1e-5,
            "{iterations}: {} instead of {inertia}",
            found.inertia
        );
    }
}

#[test]
fn restarts_reach_the_inertia_of_scikit_learn() {
    let Some(case) = Case::open("itr/kmeans") else {
        return;
    };
    let x = case.tensor("inputs.x");
    let (width, x) = (x.shape[1], x.f32s());
    let rows = Rows::new(&x, width).unwrap();
    let bound = case.json["expected"]["kmeanspp_n_init10_inertia"]
        .as_f64()
        .unwrap();
    for seed in 0..5 {
        let config = KMeansConfig {
            seed,
            ..Default::default()
        };
        let found = kmeans(rows, &config).unwrap();
        assert!(
            found.inertia <= bound * 1.005,
            "seed {seed}: {}",
            found.inertia
        );
    }
}

#[test]
fn preparation_against_scikit_learn() {
    let Some(case) = Case::open("itr/kmeans") else {
        return;
    };
    let x = case.tensor("inputs.x");
    let (width, x) = (x.shape[1], x.f32s());
    let rows = Rows::new(&x, width).unwrap();
    for (preparation, name) in [
        (Preparation::Normalize, "expected.preprocess_normalize"),
        (Preparation::Scale, "expected.preprocess_scale"),
    ] {
        let found = preparation.fit(rows).unwrap().apply(rows).unwrap();
        assert_close(name, &found, case.tensor(name), 1e-5, 1e-5);
    }
}
