//! How much attention is kept: counted per layer and head while a meter is on, and as a histogram
//! from which a threshold can be read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::RuleName;

/// Bins of the histogram of levels.
const BINS: usize = 4096;

/// One in fixed point: sums do not depend on their order.
const ONE: f64 = (1u64 << 32) as f64;

/// Which sub-layer of a model a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Site {
    /// The layer of the fusion encoder, from 0.
    pub layer: usize,
    /// What looks at what there.
    pub part: Part,
}

/// Kinds of attention sub-layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Words and regions at each other, in one sequence.
    Joint,
    /// Words at words.
    Text,
    /// A picture's tokens at each other.
    Image,
    /// Words at a picture's tokens.
    TextToImage,
    /// A picture's tokens at words.
    ImageToText,
}

/// What was counted of one head.
#[derive(Clone, Debug, Default)]
struct Count {
    rows: u64,
    keys: u64,
    kept: u64,
    /// Probability dropped, in fixed point.
    dropped: u64,
    /// Entropy of the whole rows in nats, in fixed point.
    entropy: u64,
    /// How many keys a threshold in each bin is the least to drop, and their probability.
    levels: Option<Box<[[u64; 2]]>>,
}

/// What was counted while attention ran.
#[derive(Debug, Default)]
pub struct Meter {
    /// Rule whose levels are counted, if any.
    levels: Option<RuleName>,
    counts: Mutex<BTreeMap<(Site, usize), Count>>,
}

/// Kept attention of one head of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KeptHead {
    /// Where it is.
    #[serde(flatten)]
    pub site: Site,
    /// The head, from 0.
    pub head: usize,
    /// Kept keys as a share of all.
    pub kept: f64,
    /// Probability that was dropped, mean over rows.
    pub dropped: f64,
    /// Entropy of the rows before anything is dropped, mean in nats.
    pub entropy: f64,
    /// Rows that were seen.
    pub rows: u64,
}

/// A threshold read from what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Calibrated {
    /// The rule's value.
    pub value: f64,
    /// Share of keys that it keeps where it was counted.
    pub kept: f64,
    /// Probability that it drops there, mean over rows.
    pub dropped: f64,
}

impl Meter {
    /// A meter that counts what is kept.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A meter that counts the levels at which a rule would drop keys. Of a model that selects
    /// nothing, or what is dropped shifts what is counted.
    #[must_use]
    pub fn levels(rule: RuleName) -> Self {
        Self {
            levels: Some(rule),
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Site, usize), Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts rows of `keys` scores each, and what became of them (0 or less where dropped).
    pub(crate) fn count(&self, site: Site, head: usize, scores: &[f32], kept: &[f32], keys: usize) {
        if keys == 0 {
            return;
        }
        let mut count = Count {
            levels: self.levels.map(|_| vec![[0; 2]; BINS].into_boxed_slice()),
            ..Count::default()
        };
        let mut whole = vec![0.0f64; keys];
        for (scores, kept) in scores.chunks_exact(keys).zip(kept.chunks_exact(keys)) {
            probabilities(scores, &mut whole);
            count.rows += 1;
            count.keys += keys as u64;
            count.kept += kept.iter().filter(|x| **x > 0.0).count() as u64;
            let lost = whole.iter().zip(kept).filter(|(_, kept)| **kept <= 0.0);
            count.dropped += fixed(lost.map(|(p, _)| p).sum());
            let terms = whole
                .iter()
                .map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 });
            count.entropy += fixed(terms.sum());
            if let (Some(rule), Some(levels)) = (self.levels, &mut count.levels) {
                add_levels(rule, scores, &whole, levels);
            }
        }
        let mut all = self.lock();
        all.entry((site, head)).or_default().add(count);
    }

    /// What was counted, layer by layer and head by head.
    #[must_use]
    pub fn heads(&self) -> Vec<KeptHead> {
        let share = |part: f64, whole: u64| part / whole.max(1) as f64;
        let of = |((site, head), count): (&(Site, usize), &Count)| KeptHead {
            site: *site,
            head: *head,
            kept: share(count.kept as f64, count.keys),
            dropped: share(count.dropped as f64 / ONE, count.rows),
            entropy: share(count.entropy as f64 / ONE, count.rows),
            rows: count.rows,
        };
        self.lock().iter().map(of).collect()
    }

    /// Share of all counted keys that were kept; `None` when nothing was counted.
    #[must_use]
    pub fn kept(&self) -> Option<f64> {
        let all = self.lock();
        let [kept, keys] = all.values().fold([0, 0], |[kept, keys], count| {
            [kept + count.kept, keys + count.keys]
        });
        (keys > 0).then(|| kept as f64 / keys as f64)
    }

    /// The value of the rule that keeps this share of keys, over all layers and heads; `None` when no
    /// levels were counted.
    #[must_use]
    pub fn value_for(&self, share: f64) -> Option<Calibrated> {
        let rule = self.levels?;
        let all = self.lock();
        let mut total = vec![[0u64; 2]; BINS];
        let mut rows = 0;
        for count in all.values() {
            rows += count.rows;
            let levels = count.levels.as_deref().unwrap_or_default();
            for (total, level) in total.iter_mut().zip(levels) {
                *total = [total[0] + level[0], total[1] + level[1]];
            }
        }
        let keys: u64 = total.iter().map(|[keys, _]| keys).sum();
        if keys == 0 {
            return None;
        }
        // From the keys that stay longest to those that go first.
        let [mut kept, mut mass] = [0u64; 2];
        let mut bin = BINS;
        while bin > 0 && (kept as f64) < share * keys as f64 {
            bin -= 1;
            kept += total[bin][0];
            mass += total[bin][1];
        }
        let whole: u64 = total.iter().map(|[_, mass]| mass).sum();
        Some(Calibrated {
            value: Axis::of(rule).value(bin),
            kept: kept as f64 / keys as f64,
            dropped: whole.saturating_sub(mass) as f64 / ONE / rows.max(1) as f64,
        })
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.keys += other.keys;
        self.kept += other.kept;
        self.dropped += other.dropped;
        self.entropy += other.entropy;
        match (&mut self.levels, other.levels) {
            (Some(levels), Some(others)) => {
                for (level, other) in levels.iter_mut().zip(others) {
                    *level = [level[0] + other[0], level[1] + other[1]];
                }
            }
            (levels, others) => *levels = others,
        }
    }
}

/// How the values of a rule lie on the bins; the higher the bin, the longer its keys are kept.
#[derive(Clone, Copy, Debug)]
enum Axis {
    /// Powers of two from 2^-32 to 2^16.
    Powers,
    /// From -64 to 64.
    Line,
    /// 0 to 1.
    Unit,
    /// 0 to 1, the low ones kept longest.
    Reversed,
    /// Whole numbers, the low ones kept longest.
    Ranks,
}

impl Axis {
    fn of(rule: RuleName) -> Self {
        match rule {
            RuleName::ProbAbs
            | RuleName::ProbRelMean
            | RuleName::ProbRelMax
            | RuleName::Learned
            | RuleName::Off => Self::Powers,
            RuleName::ScoreAbs | RuleName::ScoreMean => Self::Line,
            RuleName::Quantile => Self::Unit,
            RuleName::TopkRatio | RuleName::Topp => Self::Reversed,
            RuleName::Topk => Self::Ranks,
        }
    }

    fn bin(self, level: f64) -> usize {
        let last = BINS - 1;
        let place = match self {
            Self::Powers => (level.max(1e-12).log2() + 32.0) / 48.0 * BINS as f64,
            Self::Line => (level + 64.0) / 128.0 * BINS as f64,
            Self::Unit => level * BINS as f64,
            Self::Reversed => (1.0 - level) * BINS as f64,
            Self::Ranks => last as f64 - level,
        };
        (place.max(0.0) as usize).min(last)
    }

    /// The value that keeps this bin and those above.
    fn value(self, bin: usize) -> f64 {
        let place = bin as f64 / BINS as f64;
        match self {
            Self::Powers => (place * 48.0 - 32.0).exp2(),
            Self::Line => place * 128.0 - 64.0,
            Self::Unit => place,
            Self::Reversed => 1.0 - place,
            Self::Ranks => (BINS - 1 - bin.min(BINS - 2)) as f64,
        }
    }
}

/// Adds the level of every key of a row: the largest value of the rule that keeps it (the least one
/// where small values keep few).
fn add_levels(rule: RuleName, scores: &[f32], whole: &[f64], levels: &mut [[u64; 2]]) {
    let axis = Axis::of(rule);
    let count = whole.len() as f64;
    let highest = whole.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let mean = scores.iter().map(|s| f64::from(*s)).sum::<f64>() / count;
    let off = |s: &f32| (f64::from(*s) - mean).powi(2);
    let deviation = (scores.iter().map(off).sum::<f64>() / count).sqrt();
    let mut order: Vec<usize> = (0..whole.len()).collect();
    order.sort_by(|a, b| whole[*b].total_cmp(&whole[*a]).then(a.cmp(b)));
    let mut before = 0.0;
    for (rank, key) in order.into_iter().enumerate() {
        let (p, s) = (whole[key], f64::from(scores[key]));
        let level = match rule {
            RuleName::ProbAbs | RuleName::Off => p,
            RuleName::ProbRelMean | RuleName::Learned => p * count,
            RuleName::ProbRelMax => p / highest,
            RuleName::ScoreAbs => s,
            RuleName::ScoreMean => (s - mean) / deviation.max(1e-12),
            RuleName::Quantile => (count - 1.0 - rank as f64) / (count - 1.0).max(1.0),
            RuleName::Topk => (rank + 1) as f64,
            RuleName::TopkRatio => rank as f64 / count,
            RuleName::Topp => before,
        };
        before += p;
        let bin = &mut levels[axis.bin(level)];
        *bin = [bin[0] + 1, bin[1] + fixed(p)];
    }
}

/// Softmax of a row of scores.
fn probabilities(scores: &[f32], whole: &mut [f64]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for (p, score) in whole.iter_mut().zip(scores) {
        *p = f64::from(score - highest).exp();
        total += *p;
    }
    whole.iter_mut().for_each(|p| *p /= total);
}

fn fixed(value: f64) -> u64 {
    (value * ONE).max(0.0) as u64
}
