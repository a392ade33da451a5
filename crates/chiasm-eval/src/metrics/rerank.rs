//! Two-stage retrieval: a cheap score picks a shortlist per query, a costly one orders it (`specs/scl.md` section 6.3).
//!
//! The reference scores every pair with the cross-encoder: 125 million on COCO. A shortlist of `n` costs `n` per query.
//! Shortlisted candidates stand ahead of all others and are ordered by their new score; the others keep their order.
//! With `n` = all candidates this is exhaustive scoring, and recall never exceeds the shortlist's.

use serde::{Deserialize, Serialize};

use super::retrieval::{
    Candidate, Direction, RetrievalMetrics, TieRule, best_answer, comparable, ranks_of, summarise,
};
use super::scores::{Pairing, RetrievalError, ScoreMatrix};

/// New scores of the shortlisted candidates of every query, one direction.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reranked {
    /// Candidate indices, one row per query; no candidate twice in a row.
    pub candidates: Vec<Vec<u32>>,
    /// Their new scores, same shape; larger is better. Free scale: never compared with the first stage's.
    pub scores: Vec<Vec<f32>>,
}

/// The `n` best candidates of every query by score, best first, the lower index first among equals; all of them when
/// there are fewer than `n`. Scores that are not finite come last.
#[must_use]
pub fn shortlist(scores: &ScoreMatrix, direction: Direction, n: usize) -> Vec<Vec<u32>> {
    scores.map_queries(direction, |_, row| {
        let mut order: Vec<(f32, u32)> = (0_u32..)
            .zip(row)
            .map(|(index, &score)| (comparable(score), index))
            .collect();
        let best_first = |left: &(f32, u32), right: &(f32, u32)| {
            right.0.total_cmp(&left.0).then(left.1.cmp(&right.1))
        };
        // Selecting first keeps the cost linear in the candidates; only `n` of them are sorted.
        if n > 0 && n < order.len() {
            order.select_nth_unstable_by(n - 1, best_first);
        }
        order.truncate(n);
        order.sort_unstable_by(best_first);
        order.into_iter().map(|(_, index)| index).collect()
    })
}

/// Rank of every query's best right answer after re-ranking, 1-based, in query order.
///
/// A query without a right answer in its shortlist is ranked by the first stage among the candidates left, behind the
/// whole shortlist. A right answer whose new score is not finite is last of all candidates.
///
/// # Errors
/// [`RetrievalError`] when pairing or shortlists do not fit the table.
pub fn rerank(
    scores: &ScoreMatrix,
    image_of_text: &[usize],
    direction: Direction,
    reranked: &Reranked,
    ties: TieRule,
) -> Result<Vec<usize>, RetrievalError> {
    let pairing = Pairing::new(scores, image_of_text)?;
    rerank_of(scores, &pairing, direction, reranked, ties)
}

/// Both directions after re-ranking; each has its own shortlists.
///
/// # Errors
/// [`RetrievalError`] when pairing or shortlists do not fit the table.
pub fn evaluate_reranked(
    scores: &ScoreMatrix,
    image_of_text: &[usize],
    text_to_image: &Reranked,
    image_to_text: &Reranked,
    ties: TieRule,
) -> Result<RetrievalMetrics, RetrievalError> {
    let pairing = Pairing::new(scores, image_of_text)?;
    let side = |direction, reranked| {
        let ranks = rerank_of(scores, &pairing, direction, reranked, ties)?;
        Ok(summarise(
            &ranks,
            scores.candidates(direction),
            &pairing.answer_counts(direction),
        ))
    };
    let broken = |reranked: &Reranked| {
        reranked
            .scores
            .iter()
            .flatten()
            .filter(|score| !score.is_finite())
            .count()
    };
    Ok(RetrievalMetrics {
        tie_rule: ties,
        text_to_image: side(Direction::TextToImage, text_to_image)?,
        image_to_text: side(Direction::ImageToText, image_to_text)?,
        non_finite: scores.non_finite() + broken(text_to_image) + broken(image_to_text),
    })
}

/// Whether every query has new scores of all its candidates. Shortlists name no candidate twice.
#[must_use]
pub fn is_exhaustive(scores: &ScoreMatrix, direction: Direction, reranked: &Reranked) -> bool {
    let all = scores.candidates(direction);
    reranked.candidates.len() == scores.queries(direction)
        && reranked.candidates.iter().all(|row| row.len() == all)
}

/// What re-ranking the first stage's `n` best of every query gives, from new scores of more candidates: those scores,
/// for the candidates that [`shortlist`] picks. With exhaustive scores this is two-stage retrieval for any `n`.
///
/// # Errors
/// [`RetrievalError`] when the shortlists do not fit the table, or a picked candidate has no new score.
pub fn restrict(
    scores: &ScoreMatrix,
    direction: Direction,
    reranked: &Reranked,
    n: usize,
) -> Result<Reranked, RetrievalError> {
    check(scores, direction, reranked)?;
    let candidates = shortlist(scores, direction, n);
    let given = reranked.candidates.iter().zip(&reranked.scores);
    let restricted = candidates.iter().zip(given).enumerate();
    let scores = restricted
        .map(|(query, (picked, (known, new_scores)))| {
            let mut score_of = vec![None; scores.candidates(direction)];
            for (&candidate, &score) in known.iter().zip(new_scores) {
                if let Some(slot) = score_of.get_mut(candidate as usize) {
                    *slot = Some(score);
                }
            }
            let score = |&candidate: &u32| {
                let score = score_of.get(candidate as usize).copied().flatten();
                score.ok_or_else(|| RetrievalError::Shortlist {
                    direction,
                    query,
                    what: format!("no new score of candidate {candidate}"),
                })
            };
            picked.iter().map(score).collect()
        })
        .collect::<Result<_, _>>()?;
    Ok(Reranked { candidates, scores })
}

/// Fraction of queries with a right answer in their shortlist: the ceiling of every recall after re-ranking, as long as
/// the recall's k is at most the shortlist's length.
///
/// # Errors
/// [`RetrievalError`] when pairing or shortlists do not fit the table.
pub fn shortlist_recall(
    scores: &ScoreMatrix,
    image_of_text: &[usize],
    direction: Direction,
    candidates: &[Vec<u32>],
) -> Result<f64, RetrievalError> {
    let pairing = Pairing::new(scores, image_of_text)?;
    let queries = scores.queries(direction);
    if candidates.len() != queries {
        return Err(RetrievalError::ShortlistCount {
            direction,
            given: candidates.len(),
            queries,
        });
    }
    let found = candidates.iter().enumerate().filter(|(query, row)| {
        let answers = pairing.answers(direction, *query);
        row.iter()
            .any(|&candidate| answers.binary_search(&(candidate as usize)).is_ok())
    });
    Ok(found.count() as f64 / queries as f64)
}

fn rerank_of(
    scores: &ScoreMatrix,
    pairing: &Pairing,
    direction: Direction,
    reranked: &Reranked,
    ties: TieRule,
) -> Result<Vec<usize>, RetrievalError> {
    check(scores, direction, reranked)?;
    let first_stage = ranks_of(scores, pairing, direction, ties);
    let rows = reranked.candidates.iter().zip(&reranked.scores);
    Ok(first_stage
        .into_iter()
        .zip(rows)
        .enumerate()
        .map(|(query, (first_rank, (candidates, new_scores)))| {
            let answers = pairing.answers(direction, query);
            let is_right = |candidate: &Candidate| answers.binary_search(&candidate.index).is_ok();
            let listed = || {
                candidates
                    .iter()
                    .zip(new_scores)
                    .map(|(&index, &score)| Candidate {
                        index: index as usize,
                        score: comparable(score),
                    })
            };
            if !listed().any(|candidate| is_right(&candidate)) {
                return behind_shortlist(
                    scores, direction, query, answers, candidates, first_rank, ties,
                );
            }
            // The lowest index must win among equal right answers whatever the row's order, as in the first stage.
            let mut right: Vec<Candidate> = listed().filter(is_right).collect();
            right.sort_unstable_by_key(|candidate| candidate.index);
            match best_answer(right.into_iter()) {
                Some(best) => {
                    1 + listed()
                        .filter(|wrong| !is_right(wrong) && ties.is_ahead(*wrong, best))
                        .count()
                }
                None => 1 + scores.candidates(direction) - answers.len(),
            }
        })
        .collect())
}

/// Rank of a query whose shortlist holds wrong candidates only: all of those, then the first stage's order of the rest.
fn behind_shortlist(
    scores: &ScoreMatrix,
    direction: Direction,
    query: usize,
    answers: &[usize],
    candidates: &[u32],
    first_rank: usize,
    ties: TieRule,
) -> usize {
    let score_of = |index: usize| {
        let score = match direction {
            Direction::TextToImage => scores.get(index, query),
            Direction::ImageToText => scores.get(query, index),
        };
        Candidate {
            index,
            score: comparable(score.unwrap_or(f32::NAN)),
        }
    };
    let Some(best) = best_answer(answers.iter().map(|&index| score_of(index))) else {
        return first_rank;
    };
    // `first_rank` already counts the shortlisted ones that were ahead; the others move ahead now.
    let overtaking = candidates
        .iter()
        .filter(|&&index| !ties.is_ahead(score_of(index as usize), best))
        .count();
    first_rank + overtaking
}

pub(crate) fn check(
    scores: &ScoreMatrix,
    direction: Direction,
    reranked: &Reranked,
) -> Result<(), RetrievalError> {
    let (queries, limit) = (scores.queries(direction), scores.candidates(direction));
    for given in [reranked.candidates.len(), reranked.scores.len()] {
        if given != queries {
            return Err(RetrievalError::ShortlistCount {
                direction,
                given,
                queries,
            });
        }
    }
    // For each candidate the last query that listed it, plus one: finds repeats without clearing between rows.
    let mut seen = vec![0_usize; limit];
    for (query, (candidates, new_scores)) in
        reranked.candidates.iter().zip(&reranked.scores).enumerate()
    {
        let fail = |what: String| RetrievalError::Shortlist {
            direction,
            query,
            what,
        };
        if candidates.len() != new_scores.len() {
            return Err(fail(format!(
                "{} candidates with {} scores",
                candidates.len(),
                new_scores.len()
            )));
        }
        for &candidate in candidates {
            match seen.get_mut(candidate as usize) {
                Some(last) if *last == query + 1 => {
                    return Err(fail(format!("candidate {candidate} twice")));
                }
                Some(last) => *last = query + 1,
                None => return Err(fail(format!("candidate {candidate} of {limit}"))),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [usize; 4] = [0, 0, 1, 2];

    fn first_stage() -> ScoreMatrix {
        ScoreMatrix::new(
            vec![0.9, 0.1, 0.3, 0.2, 0.4, 0.8, 0.7, 0.1, 0.2, 0.5, 0.6, 0.3],
            3,
            4,
        )
        .unwrap()
    }

    #[test]
    fn shortlists_are_best_first_and_stable() {
        let scores =
            ScoreMatrix::new(vec![0.5, 0.5, f32::NAN, 0.7, 0.5, 0.1, 0.0, 0.0], 2, 4).unwrap();
        assert_eq!(
            shortlist(&scores, Direction::ImageToText, 3),
            [[3, 0, 1], [0, 1, 2]]
        );
        assert_eq!(
            shortlist(&scores, Direction::ImageToText, 9),
            [[3, 0, 1, 2], [0, 1, 2, 3]]
        );
        assert_eq!(
            shortlist(&scores, Direction::TextToImage, 1),
            [[0], [0], [1], [0]]
        );
        assert_eq!(
            shortlist(&scores, Direction::TextToImage, 0),
            vec![Vec::<u32>::new(); 4]
        );
    }

    #[test]
    fn listed_candidates_stand_ahead_of_the_rest() {
        let scores = first_stage();
        // Text 1 (image 0) lists images 1 and 2 only: last of three, whatever the tie rule.
        let candidates = shortlist(&scores, Direction::TextToImage, 2);
        assert_eq!(candidates[1], [1, 2]);
        let reranked = Reranked {
            candidates,
            scores: vec![vec![0.0, 1.0]; 4],
        };
        let ranks = rerank(
            &scores,
            &PAIRS,
            Direction::TextToImage,
            &reranked,
            TieRule::Pessimistic,
        )
        .unwrap();
        // Text 0 lists [0, 1], now reversed; text 2 lists [1, 2], reversed; text 3 lists [2, 0], reversed.
        assert_eq!(ranks, [2, 3, 2, 2]);
    }

    #[test]
    fn a_broken_right_answer_is_last_even_on_a_shortlist_of_one() {
        let scores = first_stage();
        let candidates = shortlist(&scores, Direction::ImageToText, 1);
        let reranked = Reranked {
            candidates,
            scores: vec![vec![f32::NAN]; 3],
        };
        let ranks = rerank(
            &scores,
            &PAIRS,
            Direction::ImageToText,
            &reranked,
            TieRule::Optimistic,
        )
        .unwrap();
        assert_eq!(
            ranks[0], 3,
            "image 0 has two of four texts, both wrong ones count"
        );
    }

    #[test]
    fn restriction_needs_the_scores_of_what_it_picks() {
        let scores = first_stage();
        let direction = Direction::ImageToText;
        let all = Reranked {
            candidates: vec![vec![3, 2, 1, 0]; 3],
            scores: vec![vec![0.3, 0.2, 0.1, 0.0]; 3],
        };
        assert!(is_exhaustive(&scores, direction, &all));
        assert!(!is_exhaustive(&scores, Direction::TextToImage, &all));
        let two = restrict(&scores, direction, &all, 2).unwrap();
        assert_eq!(two.candidates, shortlist(&scores, direction, 2));
        assert_eq!(two.candidates[0], [0, 2]);
        assert_eq!(two.scores[0], [0.0, 0.2]);
        assert!(!is_exhaustive(&scores, direction, &two));
        let error = restrict(&scores, direction, &two, 3).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("query 0: no new score of candidate 3"),
            "{error}"
        );
    }

    #[test]
    fn shortlists_that_do_not_fit_are_refused() {
        let scores = first_stage();
        let go = |candidates: Vec<Vec<u32>>, new: Vec<Vec<f32>>| {
            let reranked = Reranked {
                candidates,
                scores: new,
            };
            rerank(
                &scores,
                &PAIRS,
                Direction::ImageToText,
                &reranked,
                TieRule::Pessimistic,
            )
            .unwrap_err()
            .to_string()
        };
        assert_eq!(
            go(vec![], vec![]),
            "0 image-to-text shortlists for 3 queries"
        );
        assert!(go(vec![vec![4]; 3], vec![vec![0.0]; 3]).ends_with("query 0: candidate 4 of 4"));
        assert!(go(vec![vec![1, 1]; 3], vec![vec![0.0; 2]; 3]).ends_with("candidate 1 twice"));
        assert!(
            go(vec![vec![1]; 3], vec![vec![0.0; 2]; 3]).ends_with("1 candidates with 2 scores")
        );
    }
}
