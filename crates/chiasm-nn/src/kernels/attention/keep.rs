//! Which keys a query keeps: selection by threshold within a row of scores (`specs/tbkin.md`
//! section 4.3).
//!
//! Every rule keeps the keys whose score is at least some value of the row, so a row is done in
//! three passes: exponentials, the cut among them, and their division by what is left. The backward
//! pass, on scores computed again in the same order, takes the cut that the forward pass found.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::super::math::{exp, exponentials, scale, sum, sum_of};
use super::super::rows::room;

/// Which keys of a row are kept by themselves; p is a probability, s a score, n the number of keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// `p >= value`.
    Probability(f32),
    /// `p >= value / n`: at least so many times the mean.
    TimesMean(f32),
    /// `p >= value * max p`.
    ShareOfMax(f32),
    /// `s >= value`.
    Score(f32),
    /// `s >= mean + value * standard deviation`, both of the row.
    Deviations(f32),
    /// The so many largest, and what equals the last of them.
    Top(usize),
    /// The so many hundredths, as a fraction of n rounded up, and what equals the last of them.
    TopShare(f32),
    /// `p >=` this quantile of the row, interpolated.
    Quantile(f32),
    /// The largest whose sum reaches this mass.
    Mass(f32),
}

/// What happens to a row of which a rule keeps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// The largest is kept.
    Largest,
    /// All are kept.
    All,
}

/// Which tokens of a sequence are words; the others are of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// All of them.
    Text,
    /// None of them.
    Image,
    /// The first so many of each sequence of the batch.
    Both(Arc<[usize]>),
}

impl Side {
    /// How many of the `len` tokens of a sequence are words.
    pub(crate) fn words(&self, sequence: usize, len: usize) -> usize {
        match self {
            Self::Text => len,
            Self::Image => 0,
            Self::Both(words) => words.get(sequence).copied().unwrap_or(len),
        }
    }
}

/// The blocks of a score matrix that are subject to selection; those that are not keep every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Words that look at words, at the picture.
    pub(crate) text: [bool; 2],
    /// A picture's tokens that look at words, at the picture.
    pub(crate) image: [bool; 2],
}

impl Blocks {
    /// All of them.
    pub(crate) const ALL: Self = Self {
        text: [true; 2],
        image: [true; 2],
    };
}

/// Selection within the rows of one attention sub-layer.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    /// Which keys are kept by themselves.
    pub(crate) rule: Rule,
    /// Whether what is kept is made to sum to 1 again.
    pub(crate) renormalise: bool,
    /// For rows of which nothing is kept.
    pub(crate) fallback: Fallback,
    /// Whether a token always keeps itself, where it is among the keys.
    pub(crate) keep_self: bool,
    /// Whether the first key of a sequence is always kept.
    pub(crate) keep_first: bool,
    /// Whether only the first token of a sequence selects.
    pub(crate) first_row_only: bool,
    /// Which heads select; all of them without.
    pub(crate) heads: Option<Arc<[bool]>>,
    /// Which blocks are subject to it.
    pub(crate) blocks: Blocks,
    /// What the queries are.
    pub(crate) queries: Side,
    /// What the keys are.
    pub(crate) keys: Side,
    /// Whether queries and keys are the same tokens.
    pub(crate) within: bool,
}

/// Where a row of scores is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of its sequence in the batch.
    pub(crate) sequence: usize,
    /// Queries and keys that this sequence has.
    pub(crate) lens: [usize; 2],
    /// The query's number in its sequence.
    pub(crate) query: usize,
    /// Numbers of the row's keys in their sequence.
    pub(crate) keys: Range<usize>,
}

/// Keys of a row that are kept whatever the rule says, numbered in the row.
#[derive(Clone, Debug, Default)]
struct Forced {
    /// The token itself and the first one; these count as kept by themselves.
    protected: [Option<usize>; 2],
    /// Those of an exempt block.
    exempt: Range<usize>,
}

impl Forced {
    fn is_empty(&self) -> bool {
        self.protected == [None; 2] && self.exempt.is_empty()
    }

    fn has(&self, key: usize) -> bool {
        self.protected.contains(&Some(key)) || self.exempt.contains(&key)
    }

    /// Whether these keep a row from keeping nothing: a protected key whose exponential is 0 does not.
    fn saves(&self, row: &[f32]) -> bool {
        self.protected.iter().flatten().any(|key| row[*key] > 0.0)
    }
}

impl Place {
    /// The row of a query with all keys of its sequence.
    pub(crate) fn whole_row(sequence: usize, lens: [usize; 2], query: usize) -> Self {
        Self {
            sequence,
            lens,
            query,
            keys: 0..lens[1],
        }
    }
}

impl Keep {
    /// Whether a key counts as kept by itself.
    pub(crate) fn protects(&self, place: &Place, key: usize) -> bool {
        self.forced(place).protected.contains(&Some(key))
    }

    /// Whether a key is of a block that does not select.
    pub(crate) fn exempts(&self, place: &Place, key: usize) -> bool {
        self.forced(place).exempt.contains(&key)
    }

    /// Whether every head, row and block selects.
    pub(crate) fn selects_everywhere(&self) -> bool {
        self.heads.is_none() && !self.first_row_only && self.blocks == Blocks::ALL
    }

    /// Whether what is kept of a row depends on where it is.
    pub(crate) fn needs_place(&self) -> bool {
        let split = matches!(self.queries, Side::Both(_));
        let exempt = self.blocks != Blocks::ALL && split;
        self.keep_self || self.first_row_only || exempt
    }

    /// Whether a row selects at all.
    #[inline(always)]
    pub(crate) fn selects(&self, head: usize, place: &Place) -> bool {
        let head = self.heads.as_ref().is_none_or(|heads| heads[head]);
        head && !(self.first_row_only && place.query > 0)
    }

    fn forced(&self, place: &Place) -> Forced {
        let keys = &place.keys;
        let inside = |key: usize| keys.contains(&key).then(|| key - keys.start);
        let own = (self.keep_self && self.within).then_some(place.query);
        let first = self.keep_first.then_some(0);
        let words = |side: &Side, len| side.words(place.sequence, len);
        let is_word = place.query < words(&self.queries, place.lens[0]);
        let [at_text, at_image] = if is_word {
            self.blocks.text
        } else {
            self.blocks.image
        };
        let words = words(&self.keys, place.lens[1]).clamp(keys.start, keys.end) - keys.start;
        let exempt = match (at_text, at_image) {
            (true, true) => 0..0,
            (false, true) => 0..words,
            (true, false) => words..keys.len(),
            (false, false) => 0..keys.len(),
        };
        Forced {
            protected: [own.and_then(inside), first.and_then(inside)],
            exempt,
        }
    }

    /// Turns a row of scores into probabilities: what `rule` drops is 0, or, without renormalising,
    /// minus what it was (the backward pass asks for it, the forward pass takes it for 0). Returns
    /// the cut, the least exponential that is kept by itself.
    #[inline(always)]
    pub(crate) fn apply(
        &self,
        rule: Rule,
        row: &mut [f32],
        place: &Place,
        scratch: &mut Vec<f32>,
    ) -> f32 {
        let cut = rule.cut(row, scratch);
        let forced = self.forced(place);
        // The largest has the exponential 1: beyond it, nothing is kept.
        let cut = if cut <= 1.0 || forced.saves(row) {
            cut
        } else {
            self.fallback()
        };
        self.drop_below(cut, row, &forced);
        cut
    }

    /// What [`Self::apply`] does, given the cut that it found.
    #[inline(always)]
    pub(crate) fn apply_cut(&self, cut: f32, row: &mut [f32], place: &Place) {
        exponentials(row);
        self.drop_below(cut, row, &self.forced(place));
    }

    /// Turns exponentials into probabilities.
    #[inline(always)]
    fn drop_below(&self, cut: f32, row: &mut [f32], forced: &Forced) {
        let total = if self.renormalise { 0.0 } else { sum(row) };
        let kept = if forced.is_empty() {
            self.drop_all_below(cut, row)
        } else {
            self.drop_unless(cut, row, forced)
        };
        scale(row, 1.0 / if self.renormalise { kept } else { total });
    }

    /// Drops what is below the cut; the sum of the rest.
    #[inline(always)]
    fn drop_all_below(&self, cut: f32, row: &mut [f32]) -> f32 {
        let kept = sum_of([&*row], |[x]| if x >= cut { x } else { 0.0 });
        if self.renormalise {
            for x in row {
                *x = if *x >= cut { *x } else { 0.0 };
            }
        } else {
            for x in row {
                *x = if *x >= cut { *x } else { -*x };
            }
        }
        kept
    }

    /// As [`Self::drop_all_below`], but for the keys that are kept in any case.
    fn drop_unless(&self, cut: f32, row: &mut [f32], forced: &Forced) -> f32 {
        let mut kept = 0.0;
        for (key, x) in row.iter_mut().enumerate() {
            if *x >= cut || forced.has(key) {
                kept += *x;
            } else {
                *x = if self.renormalise { 0.0 } else { -*x };
            }
        }
        kept
    }

    /// The cut of a row of which a rule keeps nothing.
    #[inline(always)]
    fn fallback(&self) -> f32 {
        match self.fallback {
            Fallback::Largest => 1.0,
            Fallback::All => 0.0,
        }
    }
}

impl Rule {
    /// Turns a row of scores into exponentials above the largest one, and says from which on one is
    /// kept.
    #[inline(always)]
    fn cut(self, row: &mut [f32], scratch: &mut Vec<f32>) -> f32 {
        let count = row.len() as f32;
        let score = match self {
            Self::Score(score) => score,
            Self::Deviations(times) => {
                let mean = sum(row) / count;
                let variance = sum_of([&*row], |[s]| (s - mean) * (s - mean)) / count;
                times.mul_add(variance.sqrt(), mean)
            }
            _ => f32::NEG_INFINITY,
        };
        let highest = exponentials(row);
        match self {
            Self::Probability(least) => least * sum(row),
            Self::TimesMean(times) => times / count * sum(row),
            Self::ShareOfMax(share) => share,
            // Not the exponential, which is 1 for a score that is hardly higher.
            Self::Score(_) | Self::Deviations(_) if score > highest => f32::INFINITY,
            Self::Score(_) | Self::Deviations(_) => exp(score - highest),
            Self::Top(most) => nth_largest(row, most, scratch),
            Self::TopShare(share) => nth_largest(row, (count * share).ceil() as usize, scratch),
            Self::Quantile(quantile) => quantile_of(row, quantile, scratch),
            Self::Mass(mass) => least_of_mass(row, mass, scratch),
        }
    }
}

// The numbers below are exponentials, none negative: these are in the order of their bits.

/// The smaller one first.
fn rising(a: &f32, b: &f32) -> Ordering {
    a.to_bits().cmp(&b.to_bits())
}

/// The larger one first.
fn falling(a: &f32, b: &f32) -> Ordering {
    rising(b, a)
}

/// The n-th largest number of a row, the first for n = 0, the smallest for n beyond its length.
fn nth_largest(row: &[f32], n: usize, scratch: &mut Vec<f32>) -> f32 {
    if n >= row.len() {
        return 0.0;
    }
    let copy = room(scratch, row.len());
    copy.copy_from_slice(row);
    let (_, nth, _) = copy.select_nth_unstable_by(n.max(1) - 1, falling);
    *nth
}

/// A quantile of a row, interpolated between its neighbours.
fn quantile_of(row: &[f32], quantile: f32, scratch: &mut Vec<f32>) -> f32 {
    let copy = room(scratch, row.len());
    copy.copy_from_slice(row);
    let place = f64::from(quantile.clamp(0.0, 1.0)) * (row.len() - 1) as f64;
    // A place that is a whole number but for rounding is that number's.
    let place = (place * 1e4).round() / 1e4;
    let below = place.floor() as usize;
    let (_, low, above) = copy.select_nth_unstable_by(below, rising);
    let high = above.iter().copied().min_by(rising).unwrap_or(*low);
    let (low, high) = (f64::from(*low), f64::from(high));
    (low + (high - low) * (place - below as f64)) as f32
}

/// Buckets that [`least_of_mass`] sorts numbers into at a time, and their logarithm.
const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 6;

/// Numbers that are sorted rather than put into buckets.
const FEW: usize = 8;

/// The smallest of the largest numbers that make this share of the sum of a row.
///
/// Numbers whose bits begin alike share a bucket. The one in which the share is reached is looked
/// through in the same way until few are left: a row of any length costs a few passes, and is never
/// sorted.
#[inline(always)]
fn least_of_mass(row: &[f32], mass: f32, scratch: &mut Vec<f32>) -> f32 {
    let total: i64 = row.iter().copied().map(fixed).sum();
    let mut missing = (f64::from(mass) * total as f64).ceil() as i64;
    let mut rest = room(scratch, row.len());
    rest.copy_from_slice(row);
    while rest.len() > FEW {
        let bits = || rest.iter().map(|x| x.to_bits());
        let least = bits().fold(u32::MAX, u32::min);
        let most = bits().fold(0, u32::max);
        let shift = (u32::BITS - (most - least).leading_zeros()).saturating_sub(BUCKET_BITS);
        // The largest numbers first; the modulus changes nothing and spares a check.
        let bucket = |x: f32| ((most - x.to_bits()) >> shift) as usize % BUCKETS;
        let mut sums = [0; BUCKETS];
        for x in rest.iter() {
            sums[bucket(*x)] += fixed(*x);
        }
        let mut reached = 0;
        while sums[reached] < missing && reached + 1 < BUCKETS {
            missing -= sums[reached];
            reached += 1;
        }
        let mut inside = 0;
        for index in 0..rest.len() {
            let x = rest[index];
            // Written in any case: a branch here would often be guessed wrong.
            rest[inside] = x;
            inside += usize::from(bucket(x) == reached);
        }
        rest = &mut rest[..inside];
        if shift == 0 {
            // All that is left is equal.
            break;
        }
    }
    rest.sort_unstable_by(falling);
    for x in rest.iter() {
        if fixed(*x) >= missing {
            return *x;
        }
        missing -= fixed(*x);
    }
    0.0
}

/// An exponential, 1 at most, as a whole number of 2^-40: sums of these do not depend on their order,
/// and those of up to 2^23 numbers fit. Down to 2^-17 no digit is lost. Signed, because that is what
/// processors convert in one instruction.
#[inline(always)]
fn fixed(x: f32) -> i64 {
    const ONE: f32 = (1_i64 << 40) as f32;
    (x * ONE) as i64
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::values;
    use super::*;

    /// The cut by its definition: from the largest number down, until the mass is reached.
    fn sorted(row: &[f32], mass: f32) -> f32 {
        let mut row = row.to_vec();
        row.sort_by(falling);
        let wanted = f64::from(mass) * row.iter().map(|x| f64::from(*x)).sum::<f64>();
        let mut reached = 0.0;
        for x in &row {
            reached += f64::from(*x);
            if reached >= wanted {
                return *x;
            }
        }
        0.0
    }

    #[test]
    fn mass_is_found_as_by_sorting() {
        let mut scratch = Vec::new();
        let mut seed = 0;
        for len in [1, 2, 7, 8, 9, 31, 56, 57, 300, 1000] {
            // From all alike to one that has nearly everything.
            for spread in [0.0, 1e-6, 0.01, 1.0, 5.0, 60.0] {
                seed += 1;
                let mut row = values(seed, len);
                row.iter_mut().for_each(|x| *x *= spread);
                // Some are equal.
                for index in (3..len).step_by(5) {
                    row[index] = row[index - 2];
                }
                exponentials(&mut row);
                for mass in [0.0, 0.1, 0.335, 0.5, 0.717, 0.9, 0.99] {
                    let found = least_of_mass(&row, mass, &mut scratch);
                    assert_eq!(found, sorted(&row, mass), "{len} {spread} {mass}");
                }
            }
        }
    }

    #[test]
    fn mass_of_odd_rows() {
        let mut scratch = Vec::new();
        let mut of = |row: &[f32], mass| least_of_mass(row, mass, &mut scratch);
        assert_eq!(of(&[1.0], 0.5), 1.0);
        assert_eq!(of(&[1.0; 100], 0.5), 1.0);
        assert_eq!(of(&[1.0; 100], 1.0), 1.0);
        let mut alone = [0.0; 40];
        alone[17] = 1.0;
        assert_eq!(of(&alone, 1.0), 1.0);
        assert!(of(&[f32::NAN; 40], 0.5).is_nan());
    }
}
