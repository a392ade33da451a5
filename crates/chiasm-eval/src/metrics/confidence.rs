//! Whether probabilities mean what they say, and from which on an answer is given.

use serde::{Deserialize, Serialize};

use super::interval::{Accuracy, Clustered, Tally};

/// Bins of equal width, as in Guo et al. (2017).
const BINS: usize = 15;

/// Samples whose confidence lies in one bin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Mean confidence.
    pub confidence: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Samples.
    pub samples: usize,
}

/// How far confidence and accuracy lie apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// Expected calibration error: the mean over samples of their bin's difference between confidence and accuracy.
    pub error: f64,
    /// The bins that have samples, least confident first.
    pub bins: Vec<Bin>,
}

/// Expected calibration error of answers with a confidence each; `None` of nothing.
///
/// ```
/// use chiasm_eval::metrics::confidence::calibration_error;
///
/// let sure = calibration_error(&[1.0, 1.0], &[true, false]).unwrap();
/// assert_eq!(sure.error, 0.5);
/// ```
#[must_use]
pub fn calibration_error(confidence: &[f64], right: &[bool]) -> Option<Calibrated> {
    let samples = confidence.len().min(right.len());
    if samples == 0 {
        return None;
    }
    let mut bins = [(0.0, 0_usize, 0_usize); BINS];
    for (confidence, right) in confidence.iter().zip(right) {
        // What is no number falls into the first bin, and counts as not sure.
        let confidence = if confidence.is_finite() {
            confidence.clamp(0.0, 1.0)
        } else {
            0.0
        };
        // Bins are closed above: 0.2 belongs to the bin that ends there.
        let place = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        let bin = &mut bins[place];
        bin.0 += confidence;
        bin.1 += usize::from(*right);
        bin.2 += 1;
    }
    let bins: Vec<Bin> = bins
        .iter()
        .filter(|(_, _, samples)| *samples > 0)
        .map(|&(sum, right, samples)| Bin {
            confidence: sum / samples as f64,
            accuracy: right as f64 / samples as f64,
            samples,
        })
        .collect();
    let gap = |bin: &Bin| (bin.confidence - bin.accuracy).abs() * bin.samples as f64;
    Some(Calibrated {
        error: bins.iter().map(gap).sum::<f64>() / samples as f64,
        bins,
    })
}

/// From which confidence on an answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// The precision that was asked for.
    pub wanted: f64,
    /// Answers with at least this confidence are given; above 1 when none is.
    pub confidence: f64,
    /// Precision of the answers given, with its interval; `None` when none is.
    pub precision: Option<Accuracy>,
    /// Share of samples that are answered.
    pub coverage: f64,
}

/// Answers that a threshold must rest on, so that it is no accident of a few.
const LEAST: usize = 20;

/// The lowest threshold whose answers are right in the share `wanted`, chosen on validation samples, and surely so:
/// the lower 90 % bound of their precision reaches it, where samples of one of the `units` are not taken for
/// independent. The best of many thresholds looks better than it is, and one whose precision merely was as wanted here
/// misses it on other samples more often than not. It rests on 20 answers at least, or on all where there are fewer;
/// when no threshold reaches `wanted`, no answer is given.
#[must_use]
pub fn threshold(
    wanted: f64,
    confidence: &[f64],
    right: &[bool],
    units: &[Vec<usize>],
) -> Threshold {
    let of_units = units.iter().enumerate();
    let of_units = of_units.flat_map(|(unit, samples)| samples.iter().map(move |own| (unit, *own)));
    let mut sorted: Vec<(f64, bool, usize)> = of_units
        .filter_map(|(unit, sample)| Some((*confidence.get(sample)?, *right.get(sample)?, unit)))
        .filter(|(confidence, ..)| confidence.is_finite())
        .collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let least = LEAST.min(sorted.len());
    let (mut best, mut so_far) = (None, Clustered::new(units.len()));
    for (place, (confidence, right, unit)) in sorted.iter().enumerate() {
        so_far.add(*unit, *right);
        let given = place + 1;
        // Equal confidences are on one side of a threshold.
        let next = sorted.get(given);
        let splits = next.is_none_or(|next| next.0 < *confidence);
        if splits && given >= least && so_far.at_least() >= wanted {
            // Where all may be answered, so may those that are less sure than any of these.
            // Cut to six digits, which every file gives back as they were written.
            best = Some(match next {
                Some(_) => (confidence * 1e6).floor() / 1e6,
                None => 0.0,
            });
        }
    }
    at(wanted, best.unwrap_or(f64::MAX), confidence, right)
}

/// What a threshold does on other samples.
#[must_use]
pub fn at(wanted: f64, threshold: f64, confidence: &[f64], right: &[bool]) -> Threshold {
    let answered = confidence.iter().zip(right);
    let answered = answered.filter(|(confidence, _)| **confidence >= threshold);
    let tally: Tally = answered
        .map(|(_, right)| f64::from(u8::from(*right)))
        .collect();
    let precision = tally.accuracy();
    let samples = confidence.len().min(right.len()).max(1);
    Threshold {
        wanted,
        confidence: if threshold > 1.0 { 2.0 } else { threshold },
        coverage: precision.map_or(0.0, |precision| precision.samples as f64 / samples as f64),
        precision,
    }
}
