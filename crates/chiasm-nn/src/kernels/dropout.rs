//! Dropout whose mask is a function of a key and a place, so that the backward pass needs no mask.

use super::math::simd;

/// Which elements are dropped, and by how much the others grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    /// Share of the elements that become 0; below 1.
    rate: f32,
    /// One a call: two calls with one key drop the same elements.
    key: u64,
}

impl Dropout {
    /// Share of the elements that are dropped.
    pub(crate) fn rate(&self) -> f32 {
        self.rate
    }

    /// Drops the share `rate`, 0 to below 1, of the elements.
    #[must_use]
    pub(crate) fn new(rate: f32, key: u64) -> Self {
        Self { rate, key }
    }

    /// What every element of row number `row` is multiplied by: 0 or `1 / (1 - rate)`. Like
    /// [`apply`](Self::apply) for use inside [`simd`].
    #[inline(always)]
    pub(crate) fn factors(&self, row: u64, factors: &mut [f32]) {
        let row = self.row(row);
        for (column, factor) in (0..).zip(factors) {
            *factor = row.factor(column);
        }
    }

    /// Multiplies row number `row` by its factors.
    #[inline(always)]
    pub(crate) fn apply(&self, row: u64, values: &mut [f32]) {
        let row = self.row(row);
        for (column, value) in (0..).zip(values) {
            *value *= row.factor(column);
        }
    }

    /// Multiplies a block of rows of length `width` by their factors; enters vector code itself.
    pub(crate) fn apply_rows(&self, first: usize, width: usize, block: &mut [f32]) {
        simd(
            #[inline(always)]
            || {
                for (row, values) in (first as u64..).zip(block.chunks_exact_mut(width)) {
                    self.apply(row, values);
                }
            },
        );
    }

    /// What the factors of one row depend on.
    #[inline(always)]
    fn row(&self, row: u64) -> Row {
        let bits = mix(mix(self.key) ^ row);
        Row {
            start: bits as u32,
            twist: (bits >> 32) as u32,
            threshold: (f64::from(self.rate) * 2.0_f64.powi(32)) as u32,
            kept: 1.0 / (1.0 - self.rate),
        }
    }
}

/// A row's share of the random numbers.
#[derive(Clone, Copy)]
struct Row {
    /// Where the row's counter begins.
    start: u32,
    /// Sets apart rows whose counters overlap.
    twist: u32,
    /// Random numbers below it drop their element.
    threshold: u32,
    /// Factor of an element that stays.
    kept: f32,
}

impl Row {
    /// The factor of one column: a counter, hashed by two rounds of multiplication and shift, which
    /// all work on 32 bits so that a vector holds many columns.
    #[inline(always)]
    fn factor(self, column: u32) -> f32 {
        let mut bits = column.wrapping_mul(0x9e37_79b9).wrapping_add(self.start);
        bits = (bits ^ (bits >> 16)).wrapping_mul(0xe4c8_d553) ^ self.twist;
        bits = (bits ^ (bits >> 15)).wrapping_mul(0xd8a0_3317);
        bits ^= bits >> 16;
        if bits < self.threshold {
            0.0
        } else {
            self.kept
        }
    }
}

/// Spreads every bit of a number over all 64: two rounds of multiplication and shift.
#[inline(always)]
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 32)).wrapping_mul(0x4f36_9789_d9dd_8689);
    bits = (bits ^ (bits >> 32)).wrapping_mul(0x4f36_9789_d9dd_8689);
    bits ^ (bits >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(dropout: Dropout, row: u64, width: usize) -> Vec<f32> {
        let mut factors = vec![f32::NAN; width];
        dropout.factors(row, &mut factors);
        factors
    }

    #[test]
    fn every_row_and_column_drops_its_share() {
        let (rows, width) = (400, 400);
        for rate in [0.0, 0.1, 0.5] {
            let mask: Vec<Vec<f32>> = (0..rows)
                .map(|row| factors(Dropout::new(rate, 5), row, width))
                .collect();
            // Five standard deviations.
            let most = 5.0 * (f64::from(rate * (1.0 - rate)) / width as f64).sqrt();
            let check = |dropped: usize, of: usize| {
                let share = dropped as f64 / of as f64;
                assert!(
                    (share - f64::from(rate)).abs() <= most,
                    "{share} for {rate}"
                );
            };
            for row in &mask {
                check(row.iter().filter(|x| **x == 0.0).count(), width);
                assert!(row.iter().all(|x| *x == 0.0 || *x == 1.0 / (1.0 - rate)));
            }
            for column in 0..width {
                let dropped = mask.iter().filter(|row| row[column] == 0.0).count();
                check(dropped, mask.len());
            }
        }
    }

    #[test]
    fn masks_of_neighbours_are_independent() {
        let width = 1 << 16;
        let half = |key, row| factors(Dropout::new(0.5, key), row, width + 1);
        let first = half(1, 0);
        let others = [
            half(1, 1),
            half(2, 0),
            half(1, 1 << 40),
            first[1..].to_vec(),
        ];
        for other in others {
            let equal = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            let share = equal as f64 / width as f64;
            assert!((share - 0.5).abs() < 5.0 * 0.5 / 256.0, "{share}");
        }
        assert_eq!(first, half(1, 0));
    }

    #[test]
    fn apply_multiplies_by_the_factors() {
        let dropout = Dropout::new(0.3, 8);
        let mut row = vec![2.0; 37];
        dropout.apply(3, &mut row);
        let doubled: Vec<f32> = factors(dropout, 3, 37).iter().map(|x| 2.0 * x).collect();
        assert_eq!(row, doubled);
    }
}
