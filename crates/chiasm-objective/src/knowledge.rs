//! Masks led by a scene graph, and what is to be said of what they hide: words, features, classes and
//! attributes of regions, whether text and image belong together, and how far apart they are (ROSITA,
//! `specs/tbkin.md` section 3.5).

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use chiasm_nn::regions::Regions;
use chiasm_nn::text::TextInput;

use crate::masking::MatchingDraw;
use crate::mlm::MlmTargets;

/// What is asked of hidden regions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionTargets {
    /// Which regions of the hidden ones' batch are asked for, ascending, `[asked]`.
    pub rows: Vec<usize>,
    /// What they looked like, `[asked, features]` row after row.
    pub features: Vec<f32>,
    /// Numbers of a feature.
    pub dim: usize,
    /// Their classes and how sure the detector was, `[asked]`; sure to the degree 0 where there is
    /// none.
    pub objects: Vec<(u32, f32)>,
    /// Their attributes and how sure the detector was, `[asked]`.
    pub attributes: Vec<(u32, f32)>,
}

/// The batch behind masks that a scene graph leads.
#[derive(Clone, Debug)]
pub struct KnowledgeInput {
    /// Texts with hidden words.
    pub text: TextInput,
    /// The words that are asked for.
    pub words: MlmTargets,
    /// Images with hidden regions, one a text, as they are paired.
    pub regions: Regions,
    /// What is asked of hidden regions.
    pub targets: RegionTargets,
    /// The image that each text is paired with.
    pub matching: MatchingDraw,
}

/// Mean of the squared differences below one and of the differences above, each a half less, over
/// features and then over rows; 0 without rows.
///
/// # Shapes
/// - guess: `[rows, features]`; right: as many numbers
#[must_use]
pub fn feature_loss(guess: Tensor<2>, right: &[f32]) -> Tensor<1> {
    let [rows, dim] = guess.dims();
    let device = guess.device();
    if rows == 0 {
        return Tensor::zeros([1], &device);
    }
    let right = TensorData::new(right.to_vec(), [rows, dim]);
    let apart = guess - Tensor::<2>::from_data(right, &device);
    smooth(apart).mean()
}

/// `x² / 2` below 1, `|x| - 1/2` above.
pub(crate) fn smooth<const D: usize>(apart: Tensor<D>) -> Tensor<D> {
    let size = apart.abs();
    let near = size.clone().clamp_max(1.0);
    // With n the smaller of |x| and 1: n²/2 + (|x| - n).
    near.clone().square().div_scalar(2.0) + size - near
}

/// Cross-entropy of classes, each weighed by how sure the detector was; the sum over the number of
/// those that weigh anything. 0 when none does.
///
/// # Shapes
/// - logits: `[rows, classes]`; right: one a row
#[must_use]
pub fn sure_class_loss(logits: Tensor<2>, right: &[(u32, f32)]) -> Tensor<1> {
    let device = logits.device();
    let [rows, classes] = logits.dims();
    let weight = |(class, sure): &(u32, f32)| {
        if (*class as usize) < classes {
            *sure
        } else {
            0.0
        }
    };
    let weights: Vec<f32> = right.iter().map(weight).collect();
    let count = weights.iter().filter(|weight| **weight > 0.0).count();
    if count == 0 || rows == 0 {
        return Tensor::zeros([1], &device);
    }
    let last = classes.saturating_sub(1);
    let labels: Vec<i64> = right
        .iter()
        .map(|(class, _)| (*class as usize).min(last) as i64)
        .collect();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [rows, 1]), &device);
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [rows, 1]), &device);
    let likely = log_softmax(logits, 1).gather(1, labels);
    (likely * weights).sum().neg().div_scalar(count as f64)
}

/// Sum of the distances of pairs that belong together less that of the others, over the number of
/// pairs.
///
/// # Shapes
/// - distances: `[batch]`; labels: 1 = they belong together
#[must_use]
pub fn transport_loss(distances: Tensor<1>, labels: &[u32]) -> Tensor<1> {
    let device = distances.device();
    let signs: Vec<f32> = labels
        .iter()
        .map(|label| if *label == 1 { 1.0 } else { -1.0 })
        .collect();
    let count = signs.len();
    let signs = Tensor::<1>::from_data(TensorData::new(signs, [count]), &device);
    (distances * signs).sum().div_scalar(count.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn near_and_far() {
        let device = Device::flex();
        let guess = Tensor::<2>::from_data([[0.5, -2.0], [0.0, 3.0]], &device);
        let found = feature_loss(guess, &[0.0; 4]).into_scalar::<f32>();
        assert!((found - (0.125 + 1.5 + 0.0 + 2.5) / 4.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_sure_does_not_count() {
        let device = Device::flex();
        let logits = Tensor::<2>::zeros([3, 4], &device);
        let loss =
            |right: &[(u32, f32)]| sure_class_loss(logits.clone(), right).into_scalar::<f32>();
        let ln4 = 4.0f32.ln();
        assert!((loss(&[(0, 1.0), (1, 0.5), (2, 0.0)]) - 0.75 * ln4).abs() < 1e-6);
        assert_eq!(loss(&[(0, 0.0), (1, 0.0), (9, 1.0)]), 0.0);
    }
}
