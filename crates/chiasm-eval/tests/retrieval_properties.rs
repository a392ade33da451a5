//! Laws every retrieval score must obey, on random tables with many ties.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed unwrap here is the failed test"
)]

use chiasm_eval::metrics::rerank::{evaluate_reranked, shortlist_recall};
use chiasm_eval::metrics::{
    Direction, Reranked, ScoreMatrix, TieRule, rerank, restrict, retrieval, shortlist,
};
use chiasm_eval::predictions::{Predictions, PredictionsInfo, RerankedPair};
use chiasm_eval::score::score;
use proptest::prelude::*;

const DIRECTIONS: [Direction; 2] = [Direction::TextToImage, Direction::ImageToText];
const RULES: [TieRule; 3] = [
    TieRule::Pessimistic,
    TieRule::Optimistic,
    TieRule::StableLowestIndex,
];

#[derive(Debug, Clone)]
struct Table {
    images: usize,
    pairs: Vec<usize>,
    scores: Vec<f32>,
}

impl Table {
    fn matrix(&self) -> ScoreMatrix {
        ScoreMatrix::new(self.scores.clone(), self.images, self.pairs.len()).unwrap()
    }
}

/// Few distinct scores, so that ties are common; one in nine is broken when `broken` is set.
fn table(broken: bool) -> impl Strategy<Value = Table> {
    (1_usize..8, 0_usize..80).prop_flat_map(move |(images, extra)| {
        let owners = proptest::collection::vec(0..images, extra);
        let pairs = owners
            .prop_map(move |owners| (0..images).chain(owners).collect::<Vec<_>>())
            .prop_shuffle();
        let texts = images + extra;
        let score = prop_oneof![8 => (0_u8..6).prop_map(|level| f32::from(level) / 4.0 - 0.5),
            1 => Just(if broken { f32::NAN } else { 0.25 })];
        let scores = proptest::collection::vec(score, images * texts);
        (Just(images), pairs, scores).prop_map(|(images, pairs, scores)| Table {
            images,
            pairs,
            scores,
        })
    })
}

fn lookup(scores: &ScoreMatrix, direction: Direction, query: usize, candidate: u32) -> f32 {
    let candidate = candidate as usize;
    match direction {
        Direction::TextToImage => scores.get(candidate, query).unwrap(),
        Direction::ImageToText => scores.get(query, candidate).unwrap(),
    }
}

/// Re-ranks the first stage's `n` best by the scores of `second`.
fn two_stage(
    first: &ScoreMatrix,
    second: &ScoreMatrix,
    direction: Direction,
    n: usize,
) -> Reranked {
    let candidates = shortlist(first, direction, n);
    let scores = candidates
        .iter()
        .enumerate()
        .map(|(query, row)| {
            row.iter()
                .map(|&candidate| lookup(second, direction, query, candidate))
                .collect()
        })
        .collect();
    Reranked { candidates, scores }
}

/// The definition, spelled out: sort all candidates and walk to the first right one.
fn slow_stable_ranks(table: &Table, direction: Direction) -> Vec<usize> {
    let scores = table.matrix();
    (0..scores.queries(direction))
        .map(|query| {
            let mut order: Vec<u32> = (0..scores.candidates(direction) as u32).collect();
            let score = |candidate: u32| lookup(&scores, direction, query, candidate);
            order.sort_by(|&left, &right| score(right).partial_cmp(&score(left)).unwrap());
            let right = |candidate: u32| match direction {
                Direction::TextToImage => table.pairs[query] == candidate as usize,
                Direction::ImageToText => table.pairs[candidate as usize] == query,
            };
            1 + order
                .iter()
                .position(|&candidate| right(candidate))
                .unwrap()
        })
        .collect()
}

proptest! {
    #[test]
    fn equals_a_stable_sort(table in table(false)) {
        for direction in DIRECTIONS {
            let ranks = retrieval::ranks(&table.matrix(), &table.pairs, direction, TieRule::StableLowestIndex).unwrap();
            prop_assert_eq!(ranks, slow_stable_ranks(&table, direction));
        }
    }

    #[test]
    fn tie_rules_are_ordered(table in table(true)) {
        for direction in DIRECTIONS {
            let at = |ties| retrieval::ranks(&table.matrix(), &table.pairs, direction, ties).unwrap();
            let (low, middle, high) = (at(TieRule::Optimistic), at(TieRule::StableLowestIndex), at(TieRule::Pessimistic));
            for ((low, middle), high) in low.iter().zip(&middle).zip(&high) {
                prop_assert!(low <= middle && middle <= high);
            }
        }
    }

    #[test]
    fn permuting_images_and_texts_changes_nothing(
        (table, image_order, text_order) in table(true).prop_flat_map(|table| {
            let images: Vec<usize> = (0..table.images).collect();
            let texts: Vec<usize> = (0..table.pairs.len()).collect();
            (Just(table), Just(images).prop_shuffle(), Just(texts).prop_shuffle())
        })
    ) {
        let scores = table.matrix();
        let permuted = image_order.iter()
            .flat_map(|&image| text_order.iter().map(move |&text| (image, text)))
            .map(|(image, text)| scores.get(image, text).unwrap())
            .collect();
        let place = |old: usize| image_order.iter().position(|&image| image == old).unwrap();
        let pairs: Vec<usize> = text_order.iter().map(|&text| place(table.pairs[text])).collect();
        let permuted = ScoreMatrix::new(permuted, table.images, pairs.len()).unwrap();
        for ties in [TieRule::Pessimistic, TieRule::Optimistic] {
            let (before, after) = (
                retrieval::evaluate(&scores, &table.pairs, ties).unwrap(),
                retrieval::evaluate(&permuted, &pairs, ties).unwrap(),
            );
            for direction in DIRECTIONS {
                let (before, mut after) = (*before.direction(direction), *after.direction(direction));
                // A sum of fractions depends on its order in the last digit.
                prop_assert!((before.mean_reciprocal_rank - after.mean_reciprocal_rank).abs() < 1e-12);
                after.mean_reciprocal_rank = before.mean_reciprocal_rank;
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn a_perfect_table_scores_one(table in table(false)) {
        let texts = table.pairs.len();
        let perfect = (0..table.images * texts)
            .map(|at| if table.pairs[at % texts] == at / texts { 1.0 } else { 0.0 })
            .collect();
        let perfect = ScoreMatrix::new(perfect, table.images, texts).unwrap();
        for ties in RULES {
            let metrics = retrieval::evaluate(&perfect, &table.pairs, ties).unwrap();
            for direction in DIRECTIONS {
                let side = metrics.direction(direction);
                prop_assert_eq!((side.recall_at_1, side.median_rank, side.mean_reciprocal_rank), (1.0, 1.0, 1.0));
            }
        }
    }

    /// `specs/scl.md` section 10.7, V2, first half.
    #[test]
    fn v2_a_shortlist_of_all_is_exhaustive(first in table(true), seed in 0_usize..1000) {
        let mut second = first.clone();
        let count = second.scores.len();
        second.scores.rotate_left(seed % count);
        let (first_scores, second_scores) = (first.matrix(), second.matrix());
        for ties in RULES {
            for direction in DIRECTIONS {
                let all = two_stage(&first_scores, &second_scores, direction, usize::MAX);
                prop_assert_eq!(
                    rerank::rerank(&first_scores, &first.pairs, direction, &all, ties).unwrap(),
                    retrieval::ranks(&second_scores, &first.pairs, direction, ties).unwrap()
                );
            }
        }
    }

    /// A file of exhaustive scores gives the two-stage figures of any shortlist, and V2 once more: with all candidates
    /// on it they are the exhaustive ones.
    #[test]
    fn v2_exhaustive_files_hold_every_shortlist(first in table(true), seed in 0_usize..1000, n in 0_usize..90) {
        let mut second = first.clone();
        let count = second.scores.len();
        second.scores.rotate_left(seed % count);
        let (first_scores, second_scores) = (first.matrix(), second.matrix());
        let pair = |n| {
            let [text_to_image, image_to_text] = DIRECTIONS
                .map(|direction| two_stage(&first_scores, &second_scores, direction, n));
            RerankedPair { text_to_image, image_to_text }
        };
        let (all, short) = (pair(usize::MAX), pair(n));
        for (direction, all, short) in [
            (Direction::TextToImage, &all.text_to_image, &short.text_to_image),
            (Direction::ImageToText, &all.image_to_text, &short.image_to_text),
        ] {
            let restricted = restrict(&first_scores, direction, all, n).unwrap();
            // As text: a score may be NaN, which equals nothing.
            prop_assert_eq!(format!("{restricted:?}"), format!("{short:?}"));
        }
        let ids = |count: usize| (0..count).map(|id| id.to_string()).collect::<Vec<_>>();
        let predictions = |reranked, exhaustive_shortlist| Predictions {
            info: PredictionsInfo {
                image_ids: ids(first.images),
                text_ids: ids(first.pairs.len()),
                texts: ids(first.pairs.len()),
                exhaustive_shortlist,
                ..PredictionsInfo::default()
            },
            scores: first_scores.clone(),
            image_of_text: first.pairs.clone(),
            reranked: Some(reranked),
        };
        let whole = first.images.max(first.pairs.len());
        for ties in RULES {
            let report = score(&predictions(all.clone(), Some(n)), ties).unwrap();
            let two_stage = score(&predictions(short.clone(), None), ties).unwrap();
            prop_assert_eq!(report.reranked, two_stage.reranked);
            prop_assert_eq!(report.shortlist, two_stage.shortlist);
            let scored = retrieval::evaluate(&second_scores, &first.pairs, ties).unwrap();
            let exhaustive = report.exhaustive.unwrap();
            prop_assert_eq!(exhaustive.text_to_image, scored.text_to_image);
            prop_assert_eq!(exhaustive.image_to_text, scored.image_to_text);
            if n >= whole {
                prop_assert_eq!(report.reranked, report.exhaustive);
            }
            let full = score(&predictions(all.clone(), Some(whole)), ties).unwrap();
            prop_assert_eq!(full.reranked, full.exhaustive);
        }
    }

    /// `specs/scl.md` section 10.7, V2, second half.
    #[test]
    fn v2_recall_never_exceeds_the_shortlist(first in table(true), seed in 0_usize..1000, n in 1_usize..12) {
        let mut second = first.clone();
        let count = second.scores.len();
        second.scores.rotate_left(seed % count);
        let (first_scores, second_scores) = (first.matrix(), second.matrix());
        let sides = DIRECTIONS.map(|direction| two_stage(&first_scores, &second_scores, direction, n));
        for ties in RULES {
            let metrics = evaluate_reranked(&first_scores, &first.pairs, &sides[0], &sides[1], ties).unwrap();
            for (direction, side) in DIRECTIONS.into_iter().zip(&sides) {
                let ceiling = shortlist_recall(&first_scores, &first.pairs, direction, &side.candidates).unwrap();
                let metrics = metrics.direction(direction);
                let listed = n.min(metrics.candidates);
                for (k, recall) in [(1, metrics.recall_at_1), (5, metrics.recall_at_5), (10, metrics.recall_at_10)] {
                    prop_assert!(k > listed || recall <= ceiling, "{recall} at {k} above {ceiling}");
                }
            }
        }
    }

    /// Keeping the first stage's scores on the shortlist keeps the first stage's ranks.
    #[test]
    fn the_same_scores_change_nothing(table in table(false), n in 0_usize..12) {
        let scores = table.matrix();
        for direction in DIRECTIONS {
            let same = two_stage(&scores, &scores, direction, n);
            prop_assert_eq!(
                rerank::rerank(&scores, &table.pairs, direction, &same, TieRule::StableLowestIndex).unwrap(),
                retrieval::ranks(&scores, &table.pairs, direction, TieRule::StableLowestIndex).unwrap()
            );
        }
    }
}
