//! The right text of an image among others (`specs/scl.md` section 6.3).

use burn::tensor::Tensor;
use chiasm_nn::criterion::cross_entropy;

/// Which texts each image is fused with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RankingDraw {
    /// Texts of each image, its own first; all rows are of one length.
    pub candidates: Vec<Vec<usize>>,
}

/// Cross-entropy of the first candidate.
///
/// # Shapes
/// - scores: `[images, candidates]`, the right one first
/// - output: `[1]`
#[must_use]
pub fn ranking_loss(scores: Tensor<2>) -> Tensor<1> {
    let [images, _] = scores.dims();
    cross_entropy(scores, &vec![0; images])
}
