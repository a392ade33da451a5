//! Which rows of a batch are one process's, where several work on it together.

/// One of several parts of every batch. Rows are dealt like cards, so that the first of any number of
/// rows are shared as evenly as all of them are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    number: usize,
    of: usize,
}

impl Part {
    /// All rows.
    pub const WHOLE: Self = Self { number: 0, of: 1 };

    /// Part `number`, counted from 0, of `of`; of at least one, and the last one where there are not
    /// so many.
    #[must_use]
    pub fn new(number: usize, of: usize) -> Self {
        let of = of.max(1);
        let number = number.min(of - 1);
        Self { number, of }
    }

    /// Whether all rows are in it.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.of == 1
    }

    /// Whether a row is in it.
    #[must_use]
    pub fn has(self, row: usize) -> bool {
        row % self.of == self.number
    }

    /// Its rows among the first `count` of a batch, ascending.
    pub fn rows(self, count: usize) -> impl Iterator<Item = usize> {
        (self.number..count).step_by(self.of)
    }

    /// How many these are.
    #[must_use]
    pub fn count(self, count: usize) -> usize {
        count.saturating_sub(self.number).div_ceil(self.of)
    }
}

impl Default for Part {
    fn default() -> Self {
        Self::WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_part() {
        for (count, of) in [(0, 3), (2, 3), (7, 3), (9, 1), (9, 9)] {
            let mut rows = Vec::new();
            for number in 0..of {
                let part = Part::new(number, of);
                let own: Vec<usize> = part.rows(count).collect();
                assert_eq!(own.len(), part.count(count));
                assert!(own.iter().all(|row| part.has(*row)));
                rows.extend(own);
            }
            rows.sort_unstable();
            assert!(rows.into_iter().eq(0..count));
        }
    }
}
