//! Which region a text refers to, and how its box is to be corrected (referring expressions and
//! phrases, `specs/tbkin.md` section 6.2).

use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, TensorData};
use chiasm_nn::boxes::{DEVIATIONS, PixelBox, encode, overlap};
use chiasm_nn::{Spans, indices};

use crate::knowledge::smooth;

/// Overlap from which on a region is right.
pub const RIGHT: f64 = 0.5;

/// What the regions of a batch should be told, region after region.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroundTargets {
    /// Share of each region in what is right of its picture: they sum to 1, or to 0 where no region
    /// is right. `[regions]`
    pub shares: Vec<f32>,
    /// Corrections that make what is right of each region, in units of [`DEVIATIONS`],
    /// `[regions, 4]`.
    pub shifts: Vec<[f32; 4]>,
    /// Whether a region is right, `[regions]`.
    pub right: Vec<bool>,
}

impl GroundTargets {
    /// Of the regions of pictures and, for each picture, what a text refers to there.
    #[must_use]
    pub fn of(pictures: &[(Vec<PixelBox>, PixelBox)]) -> Self {
        let mut targets = Self::default();
        for (regions, wanted) in pictures {
            let overlaps: Vec<f64> = regions
                .iter()
                .map(|region| overlap(*region, *wanted))
                .collect();
            let counts = |overlap: f64| if overlap >= RIGHT { overlap } else { 0.0 };
            let total: f64 = overlaps.iter().map(|overlap| counts(*overlap)).sum();
            for (region, overlap) in regions.iter().zip(overlaps) {
                targets
                    .shares
                    .push((counts(overlap) / (total + 1e-8)) as f32);
                targets.right.push(overlap >= RIGHT);
                // Of a region that is not right, nothing is asked.
                let shift = if overlap >= RIGHT {
                    encode(*region, *wanted)
                } else {
                    [0.0; 4]
                };
                let in_units = std::array::from_fn(|i| (shift[i] / DEVIATIONS[i]) as f32);
                targets.shifts.push(in_units);
            }
        }
        targets
    }
}

/// Divergence of the scores of each picture's regions from their shares, the mean over the regions of
/// pictures in which one is right; 0 without any.
///
/// # Shapes
/// - scores: `[regions]`
#[must_use]
pub fn rank_loss(scores: &Tensor<1>, spans: &Spans, targets: &GroundTargets) -> Tensor<1> {
    let device = scores.device();
    let mut losses = Vec::new();
    let mut count = 0;
    for span in spans.iter() {
        let shares = &targets.shares[span.clone()];
        if shares.iter().all(|share| *share <= 0.0) {
            continue;
        }
        count += span.len();
        let own = scores.clone().narrow(0, span.start, span.len());
        let likely = log_softmax(own, 0);
        let entropy: f32 = shares
            .iter()
            .map(|share| {
                if *share > 0.0 {
                    share * share.ln()
                } else {
                    0.0
                }
            })
            .sum();
        let shares = TensorData::new(shares.to_vec(), [span.len()]);
        let shares = Tensor::<1>::from_data(shares, &device);
        losses.push((likely * shares).sum().neg().add_scalar(entropy));
    }
    let sum = losses.into_iter().reduce(|sum, loss| sum + loss);
    sum.unwrap_or_else(|| Tensor::zeros([1], &device))
        .div_scalar(count.max(1) as f64)
}

/// How far corrections are from those of right regions, the mean over them; 0 without any.
///
/// # Shapes
/// - shifts: `[regions, 4]`
#[must_use]
pub fn shift_loss(shifts: Tensor<2>, targets: &GroundTargets) -> Tensor<1> {
    let device = shifts.device();
    let rows: Vec<usize> = (0..targets.right.len())
        .filter(|row| targets.right[*row])
        .collect();
    if rows.is_empty() {
        return Tensor::zeros([1], &device);
    }
    let wanted: Vec<f32> = rows.iter().flat_map(|row| targets.shifts[*row]).collect();
    let wanted = Tensor::<2>::from_data(TensorData::new(wanted, [rows.len(), 4]), &device);
    let places: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    smooth(shifts.select(0, indices(places, &device)) - wanted).mean()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_region_that_is_right_alone_takes_all() {
        let regions = vec![[0.0, 0.0, 9.0, 9.0], [50.0, 50.0, 90.0, 90.0]];
        let targets = GroundTargets::of(&[(regions, [0.0, 0.0, 9.0, 9.0])]);
        assert!((targets.shares[0] - 1.0).abs() < 1e-6);
        assert_eq!(targets.right, [true, false]);
        assert!(targets.shifts[0].iter().all(|shift| shift.abs() < 1e-6));
    }

    #[test]
    fn nothing_right_is_no_loss() {
        let device = Device::flex();
        let far = vec![[0.0, 0.0, 9.0, 9.0]; 3];
        let targets = GroundTargets::of(&[(far, [50.0, 50.0, 60.0, 60.0])]);
        let spans = Spans::new([3]);
        let scores = Tensor::<1>::ones([3], &device);
        let rank = rank_loss(&scores, &spans, &targets).into_scalar::<f32>();
        let shift = shift_loss(Tensor::ones([3, 4], &device), &targets).into_scalar::<f32>();
        assert_eq!((rank, shift), (0.0, 0.0));
    }

    #[test]
    fn half_an_overlap_is_right() {
        // 10 by 10 and its left half and as much beside it: 100 of 200 shared.
        let targets = GroundTargets::of(&[(vec![[0.0, 0.0, 9.0, 9.0]], [0.0, 0.0, 19.0, 9.0])]);
        assert_eq!(targets.right, [true]);
    }
}
