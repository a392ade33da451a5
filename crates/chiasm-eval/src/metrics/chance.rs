//! What guessing would score: the level below which a recall says nothing.
//!
//! A query with `c` right answers among `n` candidates in random order finds one within the first `k` places with
//! probability `1 - C(n - c, k) / C(n, k)`; with one right answer this is `k / n`.

use serde::{Deserialize, Serialize};

/// Room for rounding when a probability is compared with one half: a product of some thousand factors, each exact to
/// 2^-53, is off by less.
const HALF_TOLERANCE: f64 = 1e-9;

/// Expected metrics of a random order of the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChanceLevel {
    /// Expected recall at 1, a fraction.
    pub recall_at_1: f64,
    /// Expected recall at 5, a fraction.
    pub recall_at_5: f64,
    /// Expected recall at 10, a fraction.
    pub recall_at_10: f64,
    /// Median of the rank's distribution over all queries, 1-based; half way between two places where both qualify.
    pub median_rank: f64,
}

impl ChanceLevel {
    /// Chance for queries with `answer_counts[i]` right answers each among `candidates`, averaged over queries.
    #[must_use]
    pub fn new(candidates: usize, answer_counts: &[usize]) -> Self {
        let groups = Groups::new(answer_counts);
        let mut places = groups.places(candidates);
        let (mut recall_at_1, mut recall_at_5, mut recall_at_10) = (1.0, 1.0, 1.0);
        let (mut lower, mut upper) = (None, None);
        for place in 1..=candidates {
            let found = places.advance();
            match place {
                1 => recall_at_1 = found,
                5 => recall_at_5 = found,
                10 => recall_at_10 = found,
                _ => {}
            }
            if lower.is_none() && found >= 0.5 - HALF_TOLERANCE {
                lower = Some(place);
            }
            if upper.is_none() && found > 0.5 + HALF_TOLERANCE {
                upper = Some(place);
            }
            if place >= 10 && upper.is_some() {
                break;
            }
        }
        let (lower, upper) = (lower.unwrap_or(candidates), upper.unwrap_or(candidates));
        let median_rank = (lower as f64 + upper as f64) / 2.0;
        Self {
            recall_at_1,
            recall_at_5,
            recall_at_10,
            median_rank,
        }
    }
}

/// Queries with the same number of answers share one probability: COCO has two groups for 5,000 images.
struct Groups {
    /// (right answers, share of queries).
    groups: Vec<(usize, f64)>,
}

impl Groups {
    fn new(answer_counts: &[usize]) -> Self {
        let mut sorted = answer_counts.to_vec();
        sorted.sort_unstable();
        let total = sorted.len() as f64;
        let groups = sorted
            .chunk_by(|left, right| left == right)
            .filter_map(|group| {
                group
                    .first()
                    .map(|&answers| (answers, group.len() as f64 / total))
            })
            .collect();
        Self { groups }
    }

    fn places(&self, candidates: usize) -> Places<'_> {
        Places {
            groups: &self.groups,
            missed: vec![1.0; self.groups.len()],
            candidates,
            drawn: 0,
        }
    }
}

/// Walks down the places of a random order, keeping each group's probability of having found nothing yet.
struct Places<'a> {
    groups: &'a [(usize, f64)],
    missed: Vec<f64>,
    candidates: usize,
    drawn: usize,
}

impl Places<'_> {
    /// Probability, averaged over queries, of a right answer within the places walked so far, this one included.
    fn advance(&mut self) -> f64 {
        let left = self.candidates.saturating_sub(self.drawn);
        let mut found = 0.0;
        for (&(answers, share), missed) in self.groups.iter().zip(&mut self.missed) {
            let wrong_left = left.saturating_sub(answers);
            *missed *= if left == 0 {
                0.0
            } else {
                wrong_left as f64 / left as f64
            };
            found += share * (1.0 - *missed);
        }
        self.drawn += 1;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binomial(n: u64, k: u64) -> f64 {
        if k > n {
            0.0
        } else {
            (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
        }
    }

    #[test]
    fn one_answer_is_k_over_n() {
        let chance = ChanceLevel::new(40, &[1; 7]);
        for (value, wanted) in [
            (chance.recall_at_1, 1.0 / 40.0),
            (chance.recall_at_5, 5.0 / 40.0),
            (chance.recall_at_10, 10.0 / 40.0),
        ] {
            assert!((value - wanted).abs() < 1e-12);
        }
        assert_eq!(chance.median_rank, 20.5);
        assert_eq!(ChanceLevel::new(41, &[1; 7]).median_rank, 21.0);
        assert_eq!(ChanceLevel::new(1000, &[1]).median_rank, 500.5);
    }

    #[test]
    fn several_answers_follow_the_binomials() {
        let chance = ChanceLevel::new(60, &[5, 5, 2, 1]);
        let wanted = |k: u64| {
            [5, 5, 2, 1]
                .iter()
                .map(|&c| 1.0 - binomial(60 - c, k) / binomial(60, k))
                .sum::<f64>()
                / 4.0
        };
        assert!((chance.recall_at_1 - wanted(1)).abs() < 1e-12);
        assert!((chance.recall_at_5 - wanted(5)).abs() < 1e-12);
        assert!((chance.recall_at_10 - wanted(10)).abs() < 1e-12);
        let median = chance.median_rank as u64;
        assert!(wanted(median) >= 0.5 && wanted(median - 1) < 0.5);
    }

    #[test]
    fn few_candidates_are_always_found() {
        let chance = ChanceLevel::new(3, &[1, 1, 1]);
        assert_eq!(
            (chance.recall_at_5, chance.recall_at_10, chance.median_rank),
            (1.0, 1.0, 2.0)
        );
        assert_eq!(ChanceLevel::new(1, &[1]).median_rank, 1.0);
    }
}
