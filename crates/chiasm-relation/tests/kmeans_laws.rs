//! What every clustering obeys (`specs/itr.md` section 9.3, K1 to K7), and input that nobody should give.

use chiasm_data::rng::{self, unit_f64};
use chiasm_relation::{
    Assignment, Balance, KMeans, KMeansConfig, Preparation, RelationError, Rows, kmeans,
    kmeans_from,
};
use proptest::prelude::*;

/// Numbers of a normal distribution.
fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = rng::stream(seed, "laws", &[]);
    let mut draw = || {
        let (radius, angle) = (1.0 - unit_f64(&mut rng), unit_f64(&mut rng));
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    };
    (0..count).map(|_| draw() as f32).collect()
}

/// `each` rows around every one of four centres that lie `apart` standard deviations from each other.
fn gaussians(seed: u64, each: usize, width: usize, apart: f32) -> Vec<f32> {
    let mut values = normal(seed, 4 * each * width);
    for (row, values) in values.chunks_exact_mut(width).enumerate() {
        values[row % 4] += apart / std::f32::consts::SQRT_2;
    }
    values
}

/// Whether two labellings are the same up to the names of clusters.
fn same_partition(a: &[usize], b: &[usize]) -> bool {
    let mut names = std::collections::BTreeMap::new();
    let mut back = std::collections::BTreeMap::new();
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| *names.entry(a).or_insert(b) == b && *back.entry(b).or_insert(a) == a)
}

fn square(a: &[f32], b: &[f32]) -> f64 {
    let columns = a.iter().zip(b);
    columns
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

fn exact(clusters: usize) -> KMeansConfig {
    KMeansConfig {
        clusters,
        tolerance: 0.0,
        ..Default::default()
    }
}

/// K1: the assignment is the nearest centroid, each centroid the mean of its rows.
fn assert_settled(rows: Rows<'_>, found: &KMeans) {
    let width = rows.width();
    let mut sums = vec![0.0_f64; found.centroids.len()];
    for (row, label) in rows.iter().zip(&found.labels) {
        let own = square(row, &found.centroids[label * width..][..width]);
        for centroid in found.centroids.chunks_exact(width) {
            assert!(own <= square(row, centroid) + 1e-4 * (1.0 + own));
        }
        for (sum, value) in sums[label * width..].iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    for (cluster, size) in found.sizes().into_iter().enumerate() {
        if size == 0 {
            continue;
        }
        let columns = cluster * width..(cluster + 1) * width;
        for (sum, value) in sums[columns.clone()].iter().zip(&found.centroids[columns]) {
            assert!((sum / size as f64 - f64::from(*value)).abs() < 1e-4);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn k1_inertia_falls_and_the_end_is_settled(seed: u64, count in 1usize..200, width in 1usize..40, clusters in 1usize..7) {
        let values = normal(seed, count * width);
        let rows = Rows::new(&values, width).unwrap();
        let first = &values[..clusters.min(count) * width];
        let first = Rows::new(first, width).unwrap();
        let mut last = f64::INFINITY;
        for iterations in 1..12 {
            let config = KMeansConfig { max_iterations: iterations, ..exact(clusters) };
            let found = kmeans_from(rows, first, &config).unwrap();
            prop_assert!(found.inertia <= last * (1.0 + 1e-6) + 1e-6);
            last = found.inertia;
        }
        let found = kmeans(rows, &exact(clusters)).unwrap();
        assert_settled(rows, &found);
        prop_assert_eq!(found.nearest(rows).unwrap(), found.labels);
    }

    #[test]
    fn k2_a_seed_gives_one_result_on_any_number_of_threads(seed: u64, count in 1usize..300, width in 1usize..300) {
        let values = normal(seed, count * width);
        let rows = Rows::new(&values, width).unwrap();
        let config = KMeansConfig { seed, restarts: 3, ..Default::default() };
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| kmeans(rows, &config).unwrap())
        };
        prop_assert_eq!(with(1), with(3));
    }

    #[test]
    fn k3_separated_gaussians_are_recovered_in_any_order(seed: u64) {
        // Eight deviations apart one set in a hundred has a row that is nearer to another centre than to its own.
        let values = gaussians(seed, 30, 8, 12.0);
        let truth: Vec<usize> = (0..120).map(|row| row % 4).collect();
        let rows = Rows::new(&values, 8).unwrap();
        let found = kmeans(rows, &KMeansConfig { seed, ..Default::default() }).unwrap();
        prop_assert!(same_partition(&found.labels, &truth));

        let order = rng::permutation(seed, 0, 120);
        let shuffled: Vec<f32> = order.iter().flat_map(|row| &values[row * 8..][..8]).copied().collect();
        let again = kmeans(Rows::new(&shuffled, 8).unwrap(), &KMeansConfig { seed, ..Default::default() }).unwrap();
        let expected: Vec<usize> = order.iter().map(|row| found.labels[*row]).collect();
        prop_assert!(same_partition(&again.labels, &expected));
    }

    #[test]
    fn k5_no_cluster_is_empty_while_rows_differ(seed: u64, count in 7usize..60, clusters in 1usize..8) {
        let values = normal(seed, count * 3);
        let found = kmeans(Rows::new(&values, 3).unwrap(), &exact(clusters)).unwrap();
        prop_assert!(found.sizes().into_iter().all(|size| size > 0));
        // First centroids that all but one lie where no row is.
        let far: Vec<f32> = (0..clusters * 3).map(|value| 1e3 + value as f32).collect();
        let found = kmeans_from(Rows::new(&values, 3).unwrap(), Rows::new(&far, 3).unwrap(), &exact(clusters)).unwrap();
        prop_assert!(found.sizes().into_iter().all(|size| size > 0));
    }

    #[test]
    fn k5_fewer_distinct_rows_than_clusters(seed: u64, distinct in 1usize..4, copies in 1usize..20, clusters in 4usize..9) {
        let values = normal(seed, distinct * 5);
        let repeated = values.repeat(copies);
        let rows = Rows::new(&repeated, 5).unwrap();
        let found = kmeans(rows, &exact(clusters)).unwrap();
        let expected: Vec<usize> = (0..distinct * copies).map(|row| row % distinct).collect();
        prop_assert!(same_partition(&found.labels, &expected), "{:?}", found.labels);
        prop_assert!(found.inertia < 1e-9);
        prop_assert!(found.centroids.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn k7_scale_does_not_matter(seed: u64, power in -8i32..8) {
        let values = normal(seed, 90 * 6);
        let scaled: Vec<f32> = values.iter().map(|value| value * 2.0_f32.powi(power)).collect();
        let config = KMeansConfig { seed, ..Default::default() };
        let found = kmeans(Rows::new(&values, 6).unwrap(), &config).unwrap();
        let again = kmeans(Rows::new(&scaled, 6).unwrap(), &config).unwrap();
        prop_assert_eq!(found.labels, again.labels);
    }

    #[test]
    fn balanced_clusters_are_of_one_size(seed: u64, clusters in 2usize..6) {
        // Most rows lie in one heap.
        let mut values = normal(seed, 600 * 4);
        values.chunks_exact_mut(4).step_by(7).for_each(|row| row[0] += 9.0);
        let config = KMeansConfig {
            clusters,
            restarts: 2,
            assignment: Assignment::Balanced(Balance::default()),
            ..Default::default()
        };
        let sizes = kmeans(Rows::new(&values, 4).unwrap(), &config).unwrap().sizes();
        let wanted = 600.0 / clusters as f64;
        prop_assert!(sizes.iter().all(|size| (*size as f64 / wanted - 1.0).abs() < 0.15), "{:?}", sizes);
    }
}

#[test]
fn k4_more_restarts_are_never_worse() {
    let values = normal(3, 200 * 2);
    let rows = Rows::new(&values, 2).unwrap();
    let inertia = |restarts| {
        let config = KMeansConfig {
            restarts,
            clusters: 7,
            ..Default::default()
        };
        kmeans(rows, &config).unwrap().inertia
    };
    let first = inertia(1);
    assert!(inertia(4) <= first);
    assert!(inertia(12) <= inertia(4));
    assert!(
        inertia(12) < first,
        "twelve restarts find better than one here"
    );
}

#[test]
fn k6_normalize_and_scale_work_on_columns() {
    let values = [3.0, 0.0, 5.0, 4.0, 0.0, 5.0];
    let rows = Rows::new(&values, 3).unwrap();
    let apply = |preparation: Preparation| preparation.fit(rows).unwrap().apply(rows).unwrap();
    let root = 0.5_f32.sqrt();
    let close = |found: Vec<f32>, expected: [f32; 6]| {
        let mut pairs = found.iter().zip(&expected);
        assert!(pairs.all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    };
    close(
        apply(Preparation::Normalize),
        [0.6, 0.0, root, 0.8, 0.0, root],
    );
    close(apply(Preparation::Scale), [-1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    // Each part of the columns varies as much as the other: 3/2 in all.
    let parts = apply(Preparation::Modalities(vec![1, 2]));
    let side = 1.5_f32.sqrt();
    close(parts, [-side, 0.0, 0.0, side, 0.0, 0.0]);
    assert!(Preparation::Modalities(vec![1, 1]).fit(rows).is_err());
}

#[test]
fn k7_a_modality_of_large_scale_rules_until_prepared() {
    // Columns 0 and 1 tell four groups apart, columns 2 and 3 another four.
    let mut values = normal(5, 200 * 4);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (row, values) in values.chunks_exact_mut(4).enumerate() {
        let groups = [row % 2, row / 2 % 2, row / 4 % 2, row / 8 % 2];
        for (value, group) in values.iter_mut().zip(groups) {
            *value = *value * 0.01 + group as f32;
        }
        first.push(groups[0] + 2 * groups[1]);
        second.push(groups[2] + 2 * groups[3]);
        values[2] *= 100.0;
        values[3] *= 100.0;
    }
    let rows = Rows::new(&values, 4).unwrap();
    let found = kmeans(rows, &KMeansConfig::default()).unwrap();
    assert!(same_partition(&found.labels, &second));

    let prepared = Preparation::Modalities(vec![2, 2]).fit(rows).unwrap();
    let prepared = prepared.apply(rows).unwrap();
    let config = KMeansConfig {
        clusters: 16,
        ..Default::default()
    };
    let found = kmeans(Rows::new(&prepared, 4).unwrap(), &config).unwrap();
    let both: Vec<usize> = first.iter().zip(&second).map(|(a, b)| a + 4 * b).collect();
    assert!(same_partition(&found.labels, &both));
}

#[test]
fn a_warm_start_keeps_the_numbers_of_clusters() {
    let values = gaussians(1, 50, 6, 8.0);
    let rows = Rows::new(&values, 6).unwrap();
    let first = kmeans(rows, &KMeansConfig::default()).unwrap();
    let moved = gaussians(2, 50, 6, 8.0);
    let centroids = Rows::new(&first.centroids, 6).unwrap();
    let config = KMeansConfig::default();
    let next = kmeans_from(Rows::new(&moved, 6).unwrap(), centroids, &config).unwrap();
    assert_eq!(next.labels, first.labels);
    assert!(next.iterations <= 3);
}

#[test]
fn a_large_offset_costs_no_precision() {
    let values = gaussians(7, 40, 5, 8.0);
    let far: Vec<f32> = values.iter().map(|value| value + 4096.0).collect();
    let found = kmeans(Rows::new(&values, 5).unwrap(), &KMeansConfig::default()).unwrap();
    let again = kmeans(Rows::new(&far, 5).unwrap(), &KMeansConfig::default()).unwrap();
    assert!(same_partition(&found.labels, &again.labels));
}

#[test]
fn unusable_input_is_named() {
    let broken = |values: &[f32], width| Rows::new(values, width).unwrap_err();
    assert!(matches!(
        broken(&[1.0, 2.0, 3.0, f32::NAN], 2),
        RelationError::NotFinite { row: 1, column: 1, value } if value.is_nan()
    ));
    assert!(matches!(
        broken(&[f32::NEG_INFINITY], 1),
        RelationError::NotFinite { row: 0, .. }
    ));
    assert_eq!(
        broken(&[1.0; 3], 2),
        RelationError::Shape {
            values: 3,
            width: 2
        }
    );
    assert_eq!(
        broken(&[1.0; 3], 0),
        RelationError::Shape {
            values: 3,
            width: 0
        }
    );

    let config = KMeansConfig::default();
    let empty = kmeans(Rows::new(&[], 3).unwrap(), &config);
    assert_eq!(empty, Err(RelationError::Empty));
    let long = [0.0, 0.0, 1e30, 0.0];
    let long = kmeans(Rows::new(&long, 2).unwrap(), &config);
    assert!(matches!(long, Err(RelationError::TooLarge { .. })));

    let rows = Rows::new(&[1.0, 2.0], 1).unwrap();
    for config in [
        KMeansConfig {
            clusters: 0,
            ..config
        },
        KMeansConfig {
            restarts: 0,
            ..config
        },
        KMeansConfig {
            max_iterations: 0,
            ..config
        },
        KMeansConfig {
            tolerance: f64::NAN,
            ..config
        },
    ] {
        let error = kmeans(rows, &config).unwrap_err();
        assert!(matches!(error, RelationError::Setting { .. }), "{error}");
    }
    let wide = Rows::new(&[1.0, 2.0], 2).unwrap();
    assert!(kmeans_from(rows, wide, &config).is_err());
    // More clusters than rows.
    let found = kmeans(rows, &config).unwrap();
    assert_ne!(found.labels[0], found.labels[1]);
}
