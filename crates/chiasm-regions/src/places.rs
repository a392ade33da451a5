//! What a tower says of every place of a picture, as numbers on the host: a square grid of tokens. Owns pooling
//! them under a box.

use chiasm_data::Rect;

/// Tokens of one picture, `side` by `side` of `dim` numbers, row after row. The grid lies over the whole picture,
/// however wide or high that is.
#[derive(Clone, Debug, PartialEq)]
pub struct Places {
    /// Tokens along each side, at least one.
    side: usize,
    /// Numbers of a token, at least one.
    dim: usize,
    /// `[side, side, dim]`.
    values: Vec<f32>,
}

impl Places {
    /// Tokens row after row; `None` where they make no square.
    #[must_use]
    pub fn new(dim: usize, values: Vec<f32>) -> Option<Self> {
        let count = values.len().checked_div(dim)?;
        let side = count.isqrt();
        (side > 0 && side * side * dim == values.len()).then_some(Self { side, dim, values })
    }

    /// Tokens along each side.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// Numbers of a token.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The tokens, row after row.
    pub(crate) fn tokens(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.dim)
    }

    /// The mean of the tokens under a box, each by the area that the box covers of it. A box of no area gets the
    /// token that it lies in.
    #[must_use]
    pub fn mean(&self, rect: &Rect) -> Vec<f32> {
        let (columns, rows) = (self.shares(rect.x1, rect.x2), self.shares(rect.y1, rect.y2));
        let mut sum = vec![0.0; self.dim];
        for (row, down) in &rows {
            for (column, across) in &columns {
                let start = (row * self.side + column) * self.dim;
                let token = self.values.get(start..start + self.dim).unwrap_or_default();
                let share = down * across;
                for (sum, value) in sum.iter_mut().zip(token) {
                    *sum += share * value;
                }
            }
        }
        sum
    }

    /// The cells of a row that lie between two fractions, and how much of the whole each is.
    fn shares(&self, from: f32, to: f32) -> Vec<(usize, f32)> {
        let side = self.side as f32;
        let at = |fraction: f32| fraction.clamp(0.0, 1.0) * side;
        let (from, to) = (at(from), at(to));
        // What is not a number lies in the first cell.
        let first = (from.floor() as usize).min(self.side - 1);
        if to <= from || from.is_nan() || to.is_nan() {
            return vec![(first, 1.0)];
        }
        let last = (to.ceil() as usize).clamp(first + 1, self.side);
        (first..last)
            .map(|cell| {
                let covered = to.min((cell + 1) as f32) - from.max(cell as f32);
                (cell, covered.max(0.0) / (to - from))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One number a token: its own.
    fn numbered(side: usize) -> Places {
        let values = (0..side * side).map(|token| token as f32).collect();
        Places::new(1, values).unwrap()
    }

    fn mean(places: &Places, x1: f32, y1: f32, x2: f32, y2: f32) -> f32 {
        places.mean(&Rect { x1, y1, x2, y2 })[0]
    }

    #[test]
    fn means_by_hand() {
        let places = numbered(2);
        assert_eq!(mean(&places, 0.0, 0.0, 1.0, 1.0), 1.5);
        assert_eq!(mean(&places, 0.5, 0.0, 1.0, 0.5), 1.0);
        // Three quarters of a column and half of the next: shares of 3/5 and 2/5.
        let mixed = mean(&places, 0.125, 0.0, 0.75, 0.5);
        assert!((mixed - 0.4).abs() < 1e-6, "{mixed}");
        assert_eq!(mean(&places, 0.75, 0.75, 0.75, 0.75), 3.0);
        assert_eq!(mean(&places, 1.0, 1.0, 1.0, 1.0), 3.0);
        assert_eq!(mean(&places, f32::NAN, 0.0, f32::NAN, 0.0), 0.0);
    }

    #[test]
    fn what_is_no_square_is_refused() {
        for (dim, values) in [(1, 0), (1, 3), (2, 9), (0, 4)] {
            assert_eq!(Places::new(dim, vec![0.0; values]), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn means_are_within_what_they_are_of(side in 1usize..9, corners in proptest::array::uniform4(-0.5f32..1.5)) {
            let [x1, y1, x2, y2] = corners;
            let found = mean(&numbered(side), x1, y1, x2, y2);
            let most = (side * side - 1) as f32;
            prop_assert!(found >= -1e-3 && found <= most * (1.0 + 1e-5), "{found}");
            let constant = Places::new(1, vec![3.0; side * side]).unwrap();
            prop_assert!((mean(&constant, x1, y1, x2, y2) - 3.0).abs() < 1e-5);
        }
    }
}
