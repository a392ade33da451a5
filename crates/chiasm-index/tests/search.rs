//! Searches give what a plain loop gives, with filters, after changes and through the graph.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

mod common;

use std::collections::BTreeMap;

use chiasm_index::{Filter, GraphChoice, Hit, Index, IndexError, Search, Writer};
use common::{clustered, content, fill, model, numbers, record};
use proptest::prelude::*;

/// The cosines of a query with everything that a filter lets through, best first, ties by row.
fn plain(index: &Index, query: &[f32], filter: Option<&Filter>) -> Vec<(usize, f64)> {
    let length = |values: &[f32]| {
        values
            .iter()
            .map(|v| f64::from(*v).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let mut all: Vec<(usize, f64)> = index
        .live_rows()
        .filter(|row| filter.is_none_or(|filter| filter.matches(&index.record(*row).unwrap())))
        .map(|row| {
            let vector = index.vector(row).unwrap();
            let dot: f64 = vector
                .iter()
                .zip(query)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            (row, dot / length(query))
        })
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

/// Scores equal to rounding, in the promised order, of rows that may be answered with and none twice.
fn assert_equals_plain(
    index: &Index,
    query: &[f32],
    top: usize,
    filter: Option<&Filter>,
    hits: &[Hit],
) {
    let expected = plain(index, query, filter);
    assert_eq!(hits.len(), top.min(expected.len()));
    let truth: BTreeMap<usize, f64> = expected.iter().copied().collect();
    for (hit, (_, score)) in hits.iter().zip(&expected) {
        assert!(
            (f64::from(hit.score) - score).abs() < 1e-5,
            "{hit:?} {score}"
        );
        assert!((f64::from(hit.score) - truth[&hit.row]).abs() < 1e-5);
        assert_eq!(index.record(hit.row).unwrap().key, hit.key);
    }
    for pair in hits.windows(2) {
        assert!(
            pair[0].score > pair[1].score
                || (pair[0].score == pair[1].score && pair[0].row < pair[1].row)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn exact_search_is_the_plain_one(
        rows in 0_usize..60, width in 1_usize..40, top in 0_usize..80, queries in 0_usize..8, seed: u64, coarse: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut next = numbers(seed);
        // Coarse values make ties.
        let mut draw = |count: usize| -> Vec<f32> {
            (0..count).map(|_| if coarse { (next() * 2.0).round() + 0.25 } else { next() + 1e-3 }).collect()
        };
        let vectors = draw(rows * width);
        let asked = draw(queries * width);
        let index = fill(folder.path(), &vectors, width).finish(GraphChoice::Auto).unwrap();
        let filter: Filter = "split=test".parse().unwrap();
        for filter in [None, Some(&filter)] {
            let all = index.search_all(&asked, &Search { filter, ..Search::top(top) }).unwrap();
            prop_assert_eq!(all.len(), queries);
            for (query, hits) in asked.chunks_exact(width).zip(&all) {
                assert_equals_plain(&index, query, top, filter, hits);
                prop_assert_eq!(&index.search(query, top, filter).unwrap(), hits);
            }
        }
    }

    /// Any order of adding, replacing, removing, committing, compacting and reopening leaves what a map would hold.
    #[test]
    fn an_index_is_a_map(steps in proptest::collection::vec((0_u8..12, 0_usize..8, 0_u32..4), 0..60)) {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = BTreeMap::new();
        let mut writer = Index::create(folder.path(), model(3)).unwrap();
        for (what, key, value) in steps {
            let key = format!("key {key}");
            match what {
                0..6 => {
                    let of = record(&key, &value.to_string());
                    writer.upsert(&of, &[1.0, value as f32, 0.0]).unwrap();
                    expected.insert(key.clone(), of);
                }
                6..8 => prop_assert_eq!(writer.remove(&key).unwrap(), expected.remove(&key).is_some()),
                8 => writer.commit().unwrap(),
                9 => writer.compact().unwrap(),
                10 => {
                    let index = writer.finish(GraphChoice::Auto).unwrap();
                    index.verify().unwrap();
                    writer = Writer::open(folder.path(), &model(3)).unwrap();
                }
                _ => {
                    writer.commit().unwrap();
                    drop(writer);
                    writer = Writer::open_or_create(folder.path(), &model(3)).unwrap();
                }
            }
            prop_assert_eq!(writer.len(), expected.len());
            let digest = expected.get(&key).map(|of| of.digest.clone());
            prop_assert!(!writer.contains(&key, "other"));
            prop_assert_eq!(writer.contains(&key, &digest.clone().unwrap_or_default()), digest.is_some());
        }
        let index = writer.finish(GraphChoice::Auto).unwrap();
        index.verify().unwrap();
        let found: Vec<_> = content(&index).into_iter().map(|(of, _)| of).collect();
        prop_assert_eq!(&found, &expected.values().cloned().collect::<Vec<_>>());
        for key in expected.keys() {
            let row = index.row_of(key).unwrap().unwrap();
            prop_assert_eq!(&index.record(row).unwrap().key, key);
        }
        prop_assert_eq!(index.row_of("none").unwrap(), None);
    }
}

#[test]
fn a_filter_that_few_fulfil_still_fills_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = clustered(3, 3000, 8);
    let index = fill(folder.path(), &vectors, 8)
        .finish(GraphChoice::Build)
        .unwrap();
    for (text, top) in [
        ("key=k17", 5),
        ("key~99", 10),
        ("split=test", 10),
        ("number>100000", 3),
    ] {
        let filter: Filter = text.parse().unwrap();
        for exact in [true, false] {
            let search = Search {
                filter: Some(&filter),
                exact,
                ..Search::top(top)
            };
            let hits = &index.search_all(&vectors[..8], &search).unwrap()[0];
            let possible = plain(&index, &vectors[..8], Some(&filter)).len();
            assert_eq!(hits.len(), top.min(possible), "{text}");
            assert!(
                hits.iter()
                    .all(|hit| filter.matches(&index.record(hit.row).unwrap()))
            );
            if exact || text != "split=test" {
                assert_equals_plain(&index, &vectors[..8], top, Some(&filter), hits);
            }
        }
    }
}

/// Hits of the graph that are also among the exact ones, as a share.
fn recall(index: &Index, queries: &[f32], top: usize) -> f64 {
    let exact = Search {
        exact: true,
        ..Search::top(top)
    };
    let exact = index.search_all(queries, &exact).unwrap();
    let near = index.search_all(queries, &Search::top(top)).unwrap();
    let mut same = 0;
    for (near, exact) in near.iter().zip(&exact) {
        assert_eq!(near.len(), exact.len());
        // Scores are the same bits.
        same += near.iter().filter(|hit| exact.contains(hit)).count();
    }
    same as f64 / (exact.len() * top) as f64
}

#[test]
fn the_graph_finds_nearly_all_and_is_the_same_for_any_number_of_threads() {
    const WIDTH: usize = 24;
    let vectors = clustered(1, 4000, WIDTH);
    let queries = clustered(1, 4000, WIDTH)[..100 * WIDTH]
        .iter()
        .map(|v| v + 0.01)
        .collect::<Vec<_>>();
    let mut files = Vec::new();
    for threads in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let index = pool.install(|| {
            fill(folder.path(), &vectors, WIDTH)
                .finish(GraphChoice::Build)
                .unwrap()
        });
        assert_eq!(index.graph_rows(), Some(4000));
        index.verify().unwrap();
        let recall = recall(&index, &queries, 10);
        assert!(recall > 0.97, "{recall}");
        files.push(std::fs::read(folder.path().join("graph-000001.bin")).unwrap());
    }
    assert!(files[0] == files[1]);
}

#[test]
fn what_changes_after_the_graph_is_found_and_what_is_removed_is_not() {
    const WIDTH: usize = 16;
    let folder = tempfile::tempdir().unwrap();
    let vectors = clustered(2, 3200, WIDTH);
    fill(folder.path(), &vectors[..3000 * WIDTH], WIDTH)
        .finish(GraphChoice::Build)
        .unwrap();
    let mut writer = Writer::open(folder.path(), &model(WIDTH)).unwrap();
    for row in 0..1200 {
        assert!(writer.remove(&format!("k{row}")).unwrap());
    }
    for (row, vector) in vectors.chunks_exact(WIDTH).enumerate().skip(3000) {
        writer
            .upsert(&record(&format!("k{row}"), "d"), vector)
            .unwrap();
    }
    let index = writer.finish(GraphChoice::Auto).unwrap();
    assert_eq!(
        (index.len(), index.rows(), index.graph_rows()),
        (2000, 3200, Some(3000))
    );
    assert!(recall(&index, &vectors[..200 * WIDTH], 10) > 0.95);
    for row in [1200, 2999, 3000, 3199] {
        let hits = index
            .search(&vectors[row * WIDTH..][..WIDTH], 1, None)
            .unwrap();
        assert_eq!(
            (hits[0].row, hits[0].key.as_str()),
            (row, format!("k{row}").as_str())
        );
    }
    assert!(matches!(
        index.record(3),
        Err(IndexError::NoRow { row: 3, .. })
    ));
    assert_eq!(
        (
            index.vector(3),
            index.vector(3200),
            index.row_of("k3").unwrap()
        ),
        (None, None, None)
    );

    // Rows get new numbers, so the graph goes; a reader that is open keeps the old rows.
    let mut writer = Writer::open(folder.path(), &model(WIDTH)).unwrap();
    writer.compact().unwrap();
    let after = writer.finish(GraphChoice::Keep).unwrap();
    assert_eq!(
        (after.len(), after.rows(), after.graph_rows()),
        (2000, 2000, None)
    );
    assert_eq!(content(&after), content(&index));
    index.verify().unwrap();
}

#[test]
fn equal_vectors_come_in_the_order_they_were_added() {
    let folder = tempfile::tempdir().unwrap();
    let index = fill(folder.path(), &[1.0, 2.0].repeat(2500), 2)
        .finish(GraphChoice::Build)
        .unwrap();
    let exact = Search {
        exact: true,
        ..Search::top(2500)
    };
    let hits = &index.search_all(&[1.0, 2.0], &exact).unwrap()[0];
    assert!(hits.iter().enumerate().all(|(at, hit)| hit.row == at));
    // So many that no row is near to all others: still as many as were asked for.
    assert_eq!(index.search(&[1.0, 2.0], 100, None).unwrap().len(), 100);
}

#[test]
fn queries_without_an_answer_are_refused_and_empty_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let index = fill(folder.path(), &[], 2)
        .finish(GraphChoice::Build)
        .unwrap();
    assert!(index.is_empty());
    index.verify().unwrap();
    assert_eq!(index.search(&[1.0, 0.0], 10, None).unwrap(), []);
    assert_eq!(
        index.search_all(&[], &Search::top(3)).unwrap(),
        Vec::<Vec<Hit>>::new()
    );
    for (query, reason) in [
        (&[f32::NAN, 0.0][..], "not finite"),
        (&[0.0, f32::INFINITY], "number 1"),
        (&[0.0, 0.0], "length 0"),
        (&[1.0], "1 numbers"),
        (&[1.0; 4], "4 numbers"),
        (&[], "0 numbers"),
    ] {
        let error = index.search(query, 10, None).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let error = index
        .search_all(&[1.0, 0.0, 1.0], &Search::top(1))
        .unwrap_err();
    assert!(error.to_string().starts_with("query 1 "), "{error}");
    // Tiny and huge numbers have a direction too.
    let folder = tempfile::tempdir().unwrap();
    let index = fill(folder.path(), &[1e-38, 0.0, 3e38, 3e38], 2)
        .finish(GraphChoice::Auto)
        .unwrap();
    let hits = index.search(&[1e-30, 0.0], 9, None).unwrap();
    assert_eq!((hits[0].row, hits[0].score, hits.len()), (0, 1.0, 2));
}

#[test]
fn an_index_can_be_shared_among_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Index>();
    shared::<Filter>();
    shared::<IndexError>();
    fn sent<T: Send>() {}
    sent::<Writer>();
}
