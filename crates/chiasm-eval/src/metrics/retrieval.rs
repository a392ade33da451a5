//! Recall, median rank and mean reciprocal rank of image-text retrieval (`specs/scl.md` section 6.3).
//!
//! A query's *rank* is 1 plus the number of wrong candidates ahead of its best right answer; further right answers never
//! count as wrong. With scores free of ties this is what the reference's `compute_irtr_recall` measures.
//! In the literature text-to-image is "IR" and image-to-text is "TR"; directions are spelled out here because the
//! reference itself swaps the labels once (section 6.4).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::chance::ChanceLevel;
use super::scores::{Pairing, RetrievalError, ScoreMatrix};

/// Which side asks and which side is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Every text looks for its image ("IR").
    TextToImage,
    /// Every image looks for any of its texts ("TR").
    ImageToText,
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::TextToImage => "text-to-image",
            Self::ImageToText => "image-to-text",
        })
    }
}

/// What a wrong candidate with exactly the right answer's score does to the rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TieRule {
    /// A tie counts as a miss. The default: a collapsed model that scores everything equal must not look perfect.
    #[default]
    Pessimistic,
    /// A tie counts as a hit. For comparison with tools that count strictly larger scores only.
    Optimistic,
    /// The lower index wins, as after a stable descending sort. Depends on the order of the data.
    StableLowestIndex,
}

impl TieRule {
    /// Whether a wrong candidate stands ahead of the right answer. Scores compare as [`comparable`] leaves them.
    pub(crate) fn is_ahead(self, wrong: Candidate, right: Candidate) -> bool {
        match self {
            Self::Pessimistic => wrong.score >= right.score,
            Self::Optimistic => wrong.score > right.score,
            Self::StableLowestIndex => {
                wrong.score > right.score
                    || (wrong.score == right.score && wrong.index < right.index)
            }
        }
    }
}

/// Figures of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DirectionMetrics {
    /// Number of queries averaged over.
    pub queries: usize,
    /// Number of candidates each query chooses from.
    pub candidates: usize,
    /// Fraction of queries whose rank is 1.
    pub recall_at_1: f64,
    /// Fraction of queries whose rank is at most 5.
    pub recall_at_5: f64,
    /// Fraction of queries whose rank is at most 10.
    pub recall_at_10: f64,
    /// Median rank, 1-based; the mean of the middle two for an even number of queries.
    pub median_rank: f64,
    /// Mean rank, 1-based.
    pub mean_rank: f64,
    /// Mean of 1 / rank.
    pub mean_reciprocal_rank: f64,
    /// What a random order would score.
    pub chance: ChanceLevel,
}

/// Figures of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetrievalMetrics {
    /// How ties were counted.
    pub tie_rule: TieRule,
    /// Texts looking for their image.
    pub text_to_image: DirectionMetrics,
    /// Images looking for one of their texts.
    pub image_to_text: DirectionMetrics,
    /// Scores that were NaN or infinite, re-ranking scores included. Anything above 0 is a defect of the model:
    /// such a score ranks below every finite one, and a right answer that has it is last.
    pub non_finite: usize,
}

impl RetrievalMetrics {
    /// The figures of one direction.
    #[must_use]
    pub fn direction(&self, direction: Direction) -> &DirectionMetrics {
        match direction {
            Direction::TextToImage => &self.text_to_image,
            Direction::ImageToText => &self.image_to_text,
        }
    }
}

/// Both directions over a full score table.
///
/// # Errors
/// [`RetrievalError`] when `image_of_text` does not fit the table or leaves an image without text.
///
/// # Cost
/// Linear in the number of scores, no sorting; queries run in parallel.
pub fn evaluate(
    scores: &ScoreMatrix,
    image_of_text: &[usize],
    ties: TieRule,
) -> Result<RetrievalMetrics, RetrievalError> {
    let pairing = Pairing::new(scores, image_of_text)?;
    let side = |direction| {
        let ranks = ranks_of(scores, &pairing, direction, ties);
        summarise(
            &ranks,
            scores.candidates(direction),
            &pairing.answer_counts(direction),
        )
    };
    Ok(RetrievalMetrics {
        tie_rule: ties,
        text_to_image: side(Direction::TextToImage),
        image_to_text: side(Direction::ImageToText),
        non_finite: scores.non_finite(),
    })
}

/// Rank of every query's best right answer, 1-based, in query order.
///
/// # Errors
/// [`RetrievalError`] when `image_of_text` does not fit the table or leaves an image without text.
pub fn ranks(
    scores: &ScoreMatrix,
    image_of_text: &[usize],
    direction: Direction,
    ties: TieRule,
) -> Result<Vec<usize>, RetrievalError> {
    let pairing = Pairing::new(scores, image_of_text)?;
    Ok(ranks_of(scores, &pairing, direction, ties))
}

/// One candidate with its comparable score.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) index: usize,
    pub(crate) score: f32,
}

/// A score fit for comparison: what is not finite becomes negative infinity, below every finite score.
pub(crate) fn comparable(score: f32) -> f32 {
    if score.is_finite() {
        score
    } else {
        f32::NEG_INFINITY
    }
}

/// The best right answer among `answers` (ascending indices): the highest score, the lowest index among equals.
/// `None` when there is no answer or none has a finite score, which ranks the query last.
pub(crate) fn best_answer(answers: impl Iterator<Item = Candidate>) -> Option<Candidate> {
    answers
        .filter(|answer| answer.score > f32::NEG_INFINITY)
        .reduce(|best, answer| {
            if answer.score > best.score {
                answer
            } else {
                best
            }
        })
}

pub(crate) fn ranks_of(
    scores: &ScoreMatrix,
    pairing: &Pairing,
    direction: Direction,
    ties: TieRule,
) -> Vec<usize> {
    scores.map_queries(direction, |query, row| {
        let answers = pairing.answers(direction, query);
        1 + wrong_ahead(row, answers, ties)
    })
}

/// Number of wrong candidates ahead of the best right answer; all of them when that answer has no finite score.
fn wrong_ahead(row: &[f32], answers: &[usize], ties: TieRule) -> usize {
    let answer_at = |&index: &usize| {
        Some(Candidate {
            index,
            score: comparable(*row.get(index)?),
        })
    };
    let Some(best) = best_answer(answers.iter().filter_map(answer_at)) else {
        return row.len() - answers.len();
    };
    // The whole row is counted without asking who is wrong, so that the loop stays free of branches; right answers that
    // were counted (only equals of the best can be) are taken off after.
    let ahead = match ties {
        TieRule::Pessimistic => count(row, |score| score >= best.score),
        TieRule::Optimistic => count(row, |score| score > best.score),
        TieRule::StableLowestIndex => {
            let (before, after) = row.split_at(best.index.min(row.len()));
            count(before, |score| score >= best.score) + count(after, |score| score > best.score)
        }
    };
    let right = answers
        .iter()
        .filter_map(answer_at)
        .filter(|&answer| ties.is_ahead(answer, best))
        .count();
    ahead - right
}

fn count(scores: &[f32], ahead: impl Fn(f32) -> bool) -> usize {
    // `best.score` is finite here, so positive infinity is the only non-finite score that could pass.
    scores
        .iter()
        .filter(|&&score| ahead(score) && score < f32::INFINITY)
        .count()
}

pub(crate) fn summarise(
    ranks: &[usize],
    candidates: usize,
    answer_counts: &[usize],
) -> DirectionMetrics {
    let queries = ranks.len();
    let mean = |sum: f64| {
        if queries == 0 {
            0.0
        } else {
            sum / queries as f64
        }
    };
    let recall_at = |k: usize| mean(ranks.iter().filter(|&&rank| rank <= k).count() as f64);
    DirectionMetrics {
        queries,
        candidates,
        recall_at_1: recall_at(1),
        recall_at_5: recall_at(5),
        recall_at_10: recall_at(10),
        median_rank: median(ranks),
        mean_rank: mean(ranks.iter().map(|&rank| rank as f64).sum()),
        mean_reciprocal_rank: mean(ranks.iter().map(|&rank| 1.0 / rank as f64).sum()),
        chance: ChanceLevel::new(candidates, answer_counts),
    }
}

fn median(ranks: &[usize]) -> f64 {
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    let at = |index: usize| sorted.get(index).map_or(0.0, |&rank| rank as f64);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        at(middle)
    } else {
        (at(middle.saturating_sub(1)) + at(middle)) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [usize; 6] = [0, 0, 1, 1, 2, 2];

    /// 3 images x 6 texts: `right` where text and image belong together, `wrong` elsewhere.
    fn block(right: f32, wrong: f32) -> Vec<f32> {
        (0..3)
            .flat_map(|image| PAIRS.map(|owner| if owner == image { right } else { wrong }))
            .collect()
    }

    fn metrics(scores: Vec<f32>) -> RetrievalMetrics {
        evaluate(
            &ScoreMatrix::new(scores, 3, 6).unwrap(),
            &PAIRS,
            TieRule::default(),
        )
        .unwrap()
    }

    /// `specs/scl.md` section 10.7, V1.
    #[test]
    fn v1_perfect_reversed_and_one_swapped_caption() {
        let perfect = metrics(block(1.0, 0.0));
        assert_eq!(
            (
                perfect.text_to_image.recall_at_1,
                perfect.image_to_text.recall_at_1
            ),
            (1.0, 1.0)
        );
        let reversed = metrics(block(0.0, 1.0));
        assert_eq!(
            (
                reversed.text_to_image.recall_at_1,
                reversed.image_to_text.recall_at_1
            ),
            (0.0, 0.0)
        );

        // Caption 1 looks like image 1 instead of its own image 0.
        let mut swapped = block(1.0, 0.0);
        swapped[1] = 0.0;
        swapped[6 + 1] = 0.9;
        let swapped = metrics(swapped);
        assert_eq!(swapped.text_to_image.recall_at_1, 5.0 / 6.0);
        assert_eq!(swapped.image_to_text.recall_at_1, 1.0);
    }

    /// `specs/scl.md` section 10.7, V3: errors of one direction stay in that direction.
    #[test]
    fn v3_directions_are_not_swapped() {
        // Text 1 prefers image 2, yet every image's best text is its own: only texts err.
        let mut scores = block(1.0, 0.0);
        scores[1] = 0.2;
        scores[12 + 1] = 0.5;
        let only_texts_err = metrics(scores);
        assert_eq!(only_texts_err.text_to_image.recall_at_1, 5.0 / 6.0);
        assert_eq!(only_texts_err.image_to_text.recall_at_1, 1.0);

        // Image 0 prefers text 2, yet every text's best image is its own: only images err.
        let mut scores = block(1.0, 0.0);
        scores[0] = 0.4;
        scores[1] = 0.4;
        scores[2] = 0.5;
        let only_images_err = metrics(scores);
        assert_eq!(only_images_err.text_to_image.recall_at_1, 1.0);
        assert_eq!(only_images_err.image_to_text.recall_at_1, 2.0 / 3.0);
    }

    #[test]
    fn a_collapsed_model_is_not_perfect() {
        let scores = ScoreMatrix::new(vec![0.5; 18], 3, 6).unwrap();
        let at = |ties| ranks(&scores, &PAIRS, Direction::TextToImage, ties).unwrap();
        assert_eq!(at(TieRule::Pessimistic), [3; 6]);
        assert_eq!(at(TieRule::Optimistic), [1; 6]);
        assert_eq!(at(TieRule::StableLowestIndex), [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn scores_that_are_not_finite_rank_last_and_are_counted() {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut scores = block(1.0, 0.0);
            scores[0] = broken;
            let matrix = ScoreMatrix::new(scores, 3, 6).unwrap();
            for ties in [
                TieRule::Pessimistic,
                TieRule::Optimistic,
                TieRule::StableLowestIndex,
            ] {
                assert_eq!(
                    ranks(&matrix, &PAIRS, Direction::TextToImage, ties).unwrap(),
                    [3, 1, 1, 1, 1, 1]
                );
                assert_eq!(
                    ranks(&matrix, &PAIRS, Direction::ImageToText, ties).unwrap(),
                    [1, 1, 1]
                );
                assert_eq!(evaluate(&matrix, &PAIRS, ties).unwrap().non_finite, 1);
            }
            let all = ScoreMatrix::new(vec![broken; 18], 3, 6).unwrap();
            let metrics = evaluate(&all, &PAIRS, TieRule::Optimistic).unwrap();
            assert_eq!(
                (
                    metrics.text_to_image.mean_rank,
                    metrics.image_to_text.mean_rank
                ),
                (3.0, 5.0)
            );
        }
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!(
            (median(&[3, 1, 2]), median(&[4, 1, 2, 9]), median(&[])),
            (2.0, 3.0, 0.0)
        );
    }
}
