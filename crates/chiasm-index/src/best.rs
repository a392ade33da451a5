//! The best of many scored rows, under one total order: by score, then the row that was added first.

use std::cmp::Ordering;

/// A row and how well it fits. The greater one is the better one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) score: f32,
    pub(crate) row: u32,
}

impl Candidate {
    /// `None` for a score that is no number, which only damage brings.
    pub(crate) fn new(score: f32, row: u32) -> Option<Self> {
        // The sum makes -0 and 0 equal.
        score.is_finite().then_some(Self {
            score: score + 0.0,
            row,
        })
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then_with(|| other.row.cmp(&self.row))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Best first.
pub(crate) fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.cmp(a)
}

/// Keeps the best `keep` of what is pushed.
#[derive(Clone, Debug)]
pub(crate) struct Best {
    keep: usize,
    kept: Vec<Candidate>,
    /// What is worse than this need not be looked at.
    bar: f32,
}

impl Best {
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            keep,
            kept: Vec::new(),
            bar: f32::NEG_INFINITY,
        }
    }

    /// Whether a score is too low to be kept.
    #[inline]
    pub(crate) fn is_below(&self, score: f32) -> bool {
        score < self.bar
    }

    #[inline]
    pub(crate) fn push(&mut self, candidate: Candidate) {
        if self.is_below(candidate.score) {
            return;
        }
        self.kept.push(candidate);
        // Cut rarely, so that a cut costs little a candidate.
        if self.kept.len() >= self.keep.saturating_mul(2).max(64) {
            self.cut();
        }
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        for candidate in other.kept {
            self.push(candidate);
        }
        self
    }

    fn cut(&mut self) {
        if self.kept.len() <= self.keep {
            return;
        }
        let Some(last) = self.keep.checked_sub(1) else {
            self.kept.clear();
            return;
        };
        let (_, worst, _) = self.kept.select_nth_unstable_by(last, better_first);
        self.bar = worst.score;
        self.kept.truncate(self.keep);
    }

    /// What was kept, in no order.
    pub(crate) fn into_unsorted(mut self) -> Vec<Candidate> {
        self.cut();
        self.kept
    }

    /// What was kept, best first.
    pub(crate) fn into_sorted(self) -> Vec<Candidate> {
        let mut kept = self.into_unsorted();
        kept.sort_unstable_by(better_first);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_best_are_kept(scores in proptest::collection::vec(-3_i8..3, 0..400), keep in 0_usize..200, cut in 0_usize..400) {
            let all: Vec<Candidate> = scores.iter().enumerate()
                .filter_map(|(row, score)| Candidate::new(f32::from(*score), row as u32)).collect();
            let (left, right) = all.split_at(cut.min(all.len()));
            let half = |part: &[Candidate]| {
                let mut best = Best::new(keep);
                part.iter().for_each(|candidate| best.push(*candidate));
                best
            };
            let found = half(right).merge(half(left)).into_sorted();
            let mut expected = all.clone();
            expected.sort_by(better_first);
            expected.truncate(keep);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_no_number_is_no_candidate() {
        assert!(Candidate::new(f32::NAN, 0).is_none());
        assert!(Candidate::new(f32::INFINITY, 0).is_none());
        assert_eq!(Candidate::new(-0.0, 1), Candidate::new(0.0, 1));
    }
}
