//! An accuracy with the interval that its number of samples leaves open.

use serde::{Deserialize, Serialize};

/// Standard normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// A mean of values from 0 to 1 with its 95 % interval (Wilson's score interval, 1927).
///
/// The interval takes samples for independent; several questions about one picture are not quite. For values between 0
/// and 1, as a soft accuracy has, it is wider than need be: none spread more than rights and wrongs of the same mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The mean, a fraction.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Samples averaged over.
    pub samples: usize,
}

/// Values being averaged.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    sum: f64,
    samples: usize,
}

impl Tally {
    /// Adds one value, 0 to 1.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.samples += 1;
    }

    /// The mean; `None` of nothing.
    #[must_use]
    pub fn accuracy(&self) -> Option<Accuracy> {
        if self.samples == 0 {
            return None;
        }
        let mean = self.sum / self.samples as f64;
        let [low, high] = wilson(mean, self.samples as f64, Z);
        Some(Accuracy {
            mean,
            low,
            high,
            samples: self.samples,
        })
    }
}

/// Both ends of Wilson's interval of a mean of so many independent samples, at so many standard deviations.
fn wilson(mean: f64, count: f64, deviations: f64) -> [f64; 2] {
    let square = deviations * deviations / count;
    let centre = (mean + square / 2.0) / (1.0 + square);
    // A sum of fractions may end a little outside; its root would be no number.
    let spread = (mean * (1.0 - mean) / count + square / count / 4.0).max(0.0);
    let half = deviations / (1.0 + square) * spread.sqrt();
    [
        (centre - half).clamp(0.0, mean.max(0.0)),
        (centre + half).clamp(mean.min(1.0), 1.0),
    ]
}

/// Rights and wrongs of samples that come in units, such as all statements about one photo.
pub(super) struct Clustered {
    /// Samples of each unit, and how many of them are right.
    units: Vec<[f64; 2]>,
    /// Sums over units: samples, right ones; products of samples with samples, of samples with right ones, of right
    /// ones with right ones.
    sums: [f64; 2],
    products: [f64; 3],
    /// Units that have a sample.
    seen: f64,
}

impl Clustered {
    /// Nothing of so many units.
    pub(super) fn new(units: usize) -> Self {
        Self {
            units: vec![[0.0; 2]; units],
            sums: [0.0; 2],
            products: [0.0; 3],
            seen: 0.0,
        }
    }

    /// Adds a sample of a unit.
    pub(super) fn add(&mut self, unit: usize, right: bool) {
        let Some(own) = self.units.get_mut(unit) else {
            return;
        };
        let [given, rights] = *own;
        let worth = f64::from(u8::from(right));
        *own = [given + 1.0, rights + worth];
        self.seen += if given == 0.0 { 1.0 } else { 0.0 };
        self.sums[0] += 1.0;
        self.sums[1] += worth;
        self.products[0] += 2.0 * given + 1.0;
        self.products[1] += rights + worth * (given + 1.0);
        self.products[2] += worth * (2.0 * rights + 1.0);
    }

    /// The share of right ones that the true one exceeds in nine of ten cases: Wilson's bound for as many samples as
    /// these are worth, given how much units differ (the variance of a ratio over clusters; Kish's design effect).
    pub(super) fn at_least(&self) -> f64 {
        /// Standard normal quantile of a one-sided 90 % bound.
        const ONE_SIDED: f64 = 1.281_551_565_544_600_4;
        let [given, right] = self.sums;
        let mean = right / given;
        let [squares, mixed, rights] = self.products;
        let spread = rights - 2.0 * mean * mixed + mean * mean * squares;
        let variance = spread / given / given * self.seen / (self.seen - 1.0);
        let worth = mean * (1.0 - mean) / variance;
        // Units that do not differ at all, or one alone, say nothing of others.
        let count = match worth.is_finite() && worth > 0.0 {
            true => worth.min(given),
            false => self.seen,
        };
        wilson(mean, count, ONE_SIDED)[0]
    }
}

impl FromIterator<f64> for Tally {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut tally = Self::default();
        values.into_iter().for_each(|value| tally.add(value));
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(right: usize, samples: usize) -> Accuracy {
        let values = (0..samples).map(|index| f64::from(u8::from(index < right)));
        values.collect::<Tally>().accuracy().unwrap()
    }

    /// Worked examples of the score interval without continuity correction: Newcombe, Statistics in Medicine 17 (1998),
    /// 857-872, table I.
    #[test]
    fn intervals_are_the_published_ones() {
        for (right, samples, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let interval = of(right, samples);
            assert!((interval.low - low).abs() < 5e-5, "{interval:?}");
            assert!((interval.high - high).abs() < 5e-5, "{interval:?}");
        }
        assert_eq!(Tally::default().accuracy(), None);
    }

    proptest! {
        #[test]
        fn the_mean_lies_within(values in proptest::collection::vec(0.0_f64..=1.0, 1..40)) {
            let interval = values.iter().copied().collect::<Tally>().accuracy().unwrap();
            prop_assert!(0.0 <= interval.low && interval.low <= interval.mean);
            prop_assert!(interval.mean <= interval.high && interval.high <= 1.0);
        }
    }
}
