//! Weighted F1, oracle mapping and AUROC against scikit-learn and the reference (`fixtures/metrics/itr_f1_auroc`), and
//! what `specs/itr.md` section 9.6 (M1, M3, M5) says of them.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic here is the failed test"
)]

use chiasm_data::rng;
use chiasm_eval::metrics::bootstrap::{interval, units};
use chiasm_eval::metrics::confidence::{at, calibration_error, threshold};
use chiasm_eval::metrics::f1::f1;
use chiasm_eval::metrics::mapping::{Objective, mapped, oracle_mapping};
use chiasm_eval::metrics::rank::{auroc, kendall, spearman};
use chiasm_testkit::Case;
use proptest::prelude::*;
use serde_json::Value;

fn rows(name: &str) -> Option<Vec<Value>> {
    let case = Case::open("metrics/itr_f1_auroc")?;
    Some(serde_json::from_slice(&case.file(name)).unwrap())
}

fn numbers(value: &Value) -> Vec<usize> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|n| n.as_u64().unwrap() as usize).collect()
}

fn close(what: &str, found: f64, wanted: &Value) {
    let wanted = wanted.as_f64().unwrap();
    assert!(
        (found - wanted).abs() <= 1e-9,
        "{what}: {found} instead of {wanted}"
    );
}

/// TRC's test split (D2).
const TRC_TEST: [usize; 4] = [289, 239, 190, 177];

fn trc_test() -> Vec<usize> {
    let classes = TRC_TEST.iter().enumerate();
    classes
        .flat_map(|(class, count)| std::iter::repeat_n(class, *count))
        .collect()
}

fn weighted(truth: &[usize], predicted: &[usize]) -> f64 {
    f1(truth, predicted).unwrap().weighted
}

fn facts(tv: &[usize]) -> [Vec<usize>; 2] {
    [
        tv.iter().map(|tv| tv / 2).collect(),
        tv.iter().map(|tv| tv % 2).collect(),
    ]
}

#[test]
fn f1_against_scikit_learn() {
    let Some(cases) = rows("cases.json") else {
        return;
    };
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let (truth, predicted) = (numbers(&case["true_tv"]), numbers(&case["pred_tv"]));
        let expected = &case["expected"];
        let figures = f1(&truth, &predicted).unwrap();
        close(name, figures.weighted, &expected["weighted_f1_tv"]);
        close(name, figures.macro_mean, &expected["macro_f1_tv"]);
        close(name, figures.accuracy, &expected["accuracy_tv"]);
        let present: Vec<usize> = figures.classes.iter().map(|class| class.class).collect();
        assert_eq!(present, numbers(&expected["labels_present"]), "{name}");
        for class in &figures.classes {
            let wanted = &expected["per_class"][class.class.to_string()];
            close(name, class.precision, &wanted["precision"]);
            close(name, class.recall, &wanted["recall"]);
            close(name, class.f1, &wanted["f1"]);
            assert_eq!(class.support as u64, wanted["support"].as_u64().unwrap());
        }
        for (fact, key) in [(0, "weighted_f1_t"), (1, "weighted_f1_v")] {
            let (truth, predicted) = (&facts(&truth)[fact], &facts(&predicted)[fact]);
            close(name, weighted(truth, predicted), &expected[key]);
        }
    }
}

#[test]
fn oracle_mapping_against_the_reference() {
    let Some(cases) = rows("cases.json") else {
        return;
    };
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let (truth, predicted) = (numbers(&case["true_tv"]), numbers(&case["pred_tv"]));
        let expected = &case["expected"]["permutation"];
        let mapping = oracle_mapping(&predicted, &truth, 4, Objective::WeightedF1);
        assert_eq!(mapping, numbers(&expected["best_map"]), "{name}");
        let found = mapped(&predicted, &mapping);
        close(
            name,
            weighted(&truth, &found),
            &expected["best_weighted_f1"],
        );
        for (fact, key) in [(0, "weighted_f1_t"), (1, "weighted_f1_v")] {
            let (truth, found) = (&facts(&truth)[fact], &facts(&found)[fact]);
            close(name, weighted(truth, found), &expected[key]);
        }
        for (fact, key) in [(0, "t"), (1, "v")] {
            let expected = &case["expected"]["binary_k2"][key];
            let clusters = numbers(&expected["cluster_ids"]);
            let truth = &facts(&truth)[fact];
            let mapping = oracle_mapping(&clusters, truth, 2, Objective::WeightedF1);
            assert_eq!(mapping, numbers(&expected["best_map"]), "{name} {key}");
            let found = weighted(truth, &mapped(&clusters, &mapping));
            close(name, found, &expected["best_weighted_f1"]);
        }
    }
}

#[test]
fn auroc_against_scikit_learn() {
    let Some(cases) = rows("auroc.json") else {
        return;
    };
    for case in cases {
        let positive: Vec<bool> = numbers(&case["labels"]).iter().map(|l| *l == 1).collect();
        let scores = case["scores"].as_array().unwrap().iter();
        let scores: Vec<f64> = scores.map(|score| score.as_f64().unwrap()).collect();
        let name = case["name"].as_str().unwrap();
        close(name, auroc(&positive, &scores).unwrap(), &case["auroc"]);
    }
}

#[test]
fn m1_majority_on_trc() {
    let truth = trc_test();
    let majority = vec![0; truth.len()];
    let [t, v] = facts(&truth);
    for (truth, wanted) in [(&t, 0.4378), (&v, 0.3732), (&truth, 0.1576)] {
        assert!((weighted(truth, &majority) - wanted).abs() < 5e-4);
    }
}

#[test]
fn m3_random_clusters_reach_28_under_an_oracle_mapping() {
    let truth = trc_test();
    let figure = |seed: u64| {
        let mut rng = rng::stream(seed, "test", &[]);
        let clusters: Vec<usize> = truth.iter().map(|_| rng::below(&mut rng, 4)).collect();
        let mapping = oracle_mapping(&clusters, &truth, 4, Objective::WeightedF1);
        weighted(&truth, &mapped(&clusters, &mapping))
    };
    let mean = (0..40).map(figure).sum::<f64>() / 40.0;
    assert!((mean - 0.280).abs() < 0.008, "{mean}");
    // A collapsed head.
    let clusters = vec![2; truth.len()];
    let mapping = oracle_mapping(&clusters, &truth, 4, Objective::WeightedF1);
    let collapsed = weighted(&truth, &mapped(&clusters, &mapping));
    assert!((collapsed - 0.158).abs() < 1e-3, "{collapsed}");
}

#[test]
fn ranks_are_those_of_scipy() {
    // scipy.stats 1.17: kendalltau and spearmanr of these values.
    let a = [12.0, 2.0, 1.0, 12.0, 2.0];
    let b = [1.0, 4.0, 7.0, 1.0, 0.0];
    assert!((kendall(&a, &b).unwrap() + 0.471_404_520_791_031_6).abs() < 1e-12);
    assert!((spearman(&a, &b).unwrap() + 0.540_738_070_435_875_2).abs() < 1e-12);
    assert_eq!(kendall(&[1.0, 1.0], &[1.0, 2.0]), None);
    assert_eq!(spearman(&[1.0, f64::NAN], &[1.0, 2.0]), None);
    assert_eq!(auroc(&[true, true], &[0.0, 1.0]), None);
    assert_eq!(auroc(&[true, false], &[0.0, f64::INFINITY]), None);
}

#[test]
fn a_threshold_keeps_its_promise_where_it_can() {
    // Ten answers of confidence 0.9 that are right, forty of 0.6 of which half are.
    let confidence: Vec<f64> = (0..50).map(|i| if i < 10 { 0.9 } else { 0.6 }).collect();
    let right: Vec<bool> = (0..50).map(|i| i < 10 || i % 2 == 0).collect();
    // 60 % of fifty are right: surely half, and not surely 55 %.
    let alone: Vec<Vec<usize>> = (0..50).map(|sample| vec![sample]).collect();
    let found = threshold(0.5, &confidence, &right, &alone);
    assert_eq!((found.confidence, found.coverage), (0.0, 1.0));
    assert_eq!(threshold(0.55, &confidence, &right, &alone).coverage, 0.0);
    // The same answers about five photos: four are right of half, one of all, and another may be wrong of all.
    let photos: Vec<Vec<usize>> = (0..5)
        .map(|photo| (10 * photo..10 * (photo + 1)).collect())
        .collect();
    assert_eq!(threshold(0.5, &confidence, &right, &photos).coverage, 0.0);
    // All of one photo: nothing is known of another.
    let one = [(0..50).collect()];
    assert_eq!(threshold(0.5, &confidence, &right, &one).coverage, 0.0);
    // Ten answers are too few to rest on.
    let found = threshold(0.95, &confidence, &right, &alone);
    assert_eq!((found.coverage, found.precision), (0.0, None));
    assert!(found.confidence > 1.0);
    let found = at(0.95, 0.9, &confidence, &right);
    assert_eq!((found.coverage, found.precision.unwrap().mean), (0.2, 1.0));
}

#[test]
fn calibration_error_counts_every_bin() {
    let confidence = [0.9, 0.9, 0.9, 0.9, 0.6, 0.6];
    let right = [true, true, true, false, true, false];
    let found = calibration_error(&confidence, &right).unwrap();
    let wanted = (4.0 * 0.15 + 2.0 * 0.1) / 6.0;
    assert!((found.error - wanted).abs() < 1e-12);
    assert_eq!(found.bins.len(), 2);
    let found = calibration_error(&[f64::NAN, 0.0], &[false, false]).unwrap();
    assert_eq!(found.error, 0.0);
}

fn labels() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    proptest::collection::vec((0usize..4, 0usize..4), 1..60)
        .prop_map(|pairs| pairs.into_iter().unzip())
}

proptest! {
    #[test]
    fn m3_the_best_mapping_is_no_worse_than_none((truth, clusters) in labels()) {
        let best = oracle_mapping(&clusters, &truth, 4, Objective::WeightedF1);
        prop_assert!(weighted(&truth, &mapped(&clusters, &best)) >= weighted(&truth, &clusters));
        // On accuracy the assignment is as good as trying all.
        let right = |mapping: &[usize]| {
            mapped(&clusters, mapping).iter().zip(&truth).filter(|(a, b)| a == b).count()
        };
        let exact = right(&oracle_mapping(&clusters, &truth, 4, Objective::Accuracy));
        for a in 0..4 { for b in 0..4 { for c in 0..4 {
            let d = 6_usize.wrapping_sub(a + b + c);
            let mut seen = vec![a, b, c, d];
            let order = seen.clone();
            seen.sort_unstable();
            if seen == [0, 1, 2, 3] {
                prop_assert!(right(&order) <= exact);
            }
        }}}
    }

    #[test]
    fn m5_an_interval_covers_its_figure((truth, predicted) in labels(), seed: u64) {
        let units = units(truth.iter().map(|label| ["a", "b", "c", "d"][*label]));
        let of = |samples: &[usize]| {
            let pick = |from: &[usize]| samples.iter().map(|s| from[*s]).collect::<Vec<_>>();
            Some(f1(&pick(&truth), &pick(&predicted))?.weighted)
        };
        let found = interval(seed, &units, of).unwrap();
        prop_assert!(found.low <= found.value && found.value <= found.high);
        prop_assert!((found.value - weighted(&truth, &predicted)).abs() < 1e-12);
    }

    #[test]
    fn kendall_is_the_count_of_pairs(pairs in proptest::collection::vec((-3i32..4, -3i32..4), 2..40)) {
        let a: Vec<f64> = pairs.iter().map(|pair| f64::from(pair.0)).collect();
        let b: Vec<f64> = pairs.iter().map(|pair| f64::from(pair.1)).collect();
        let (mut sum, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
        for i in 0..a.len() {
            for j in 0..i {
                let sign = |x: f64, y: f64| f64::from((x - y) as i32).clamp(-1.0, 1.0);
                let (x, y) = (sign(a[i], a[j]), sign(b[i], b[j]));
                sum += x * y;
                of_a += x * x;
                of_b += y * y;
            }
        }
        let wanted = (of_a > 0.0 && of_b > 0.0).then(|| sum / (of_a * of_b).sqrt());
        match (kendall(&a, &b), wanted) {
            (Some(found), Some(wanted)) => prop_assert!((found - wanted).abs() < 1e-12),
            (found, wanted) => prop_assert_eq!(found, wanted),
        }
    }
}
