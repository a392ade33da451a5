//! Image–text contrast (ITC, `specs/scl.md` section 2.2).

use burn::tensor::Tensor;
use chiasm_nn::criterion::contrast;

/// Mean of both directions of the contrast between texts and images (ITC); row = text.
///
/// # Shapes
/// - text, image: unnormalised embeddings `[batch, projection]`, row i of both belong together
/// - temperature: `[1]`
/// - output: `[1]`
#[must_use]
pub fn contrastive_loss(text: Tensor<2>, image: Tensor<2>, temperature: Tensor<1>) -> Tensor<1> {
    contrast(text, image, temperature, 0.5)
}
