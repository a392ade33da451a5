//! Image–text contrast (ITC, `specs/scl.md` section 2.2).

use burn::tensor::Tensor;
use chiasm_nn::criterion::{Sides, contrast, cross_entropy};
use chiasm_nn::layers::normalize;

/// Mean of both directions of the contrast between texts and images (ITC); row = text.
///
/// # Shapes
/// - sides: unnormalised embeddings of texts and images, `[batch, projection]`, row i of both belong together
/// - temperature: `[1]`
/// - output: `[1]`
#[must_use]
pub fn contrastive_loss(sides: Sides<'_>, temperature: Tensor<1>) -> Tensor<1> {
    contrast(sides, temperature, 0.5)
}

/// The same in one direction: every image looks for its text, number i for number i; there may be
/// more texts than images.
///
/// # Shapes
/// - text: `[texts, projection]`, image: `[images, projection]`, unnormalised
/// - temperature: `[1]`
/// - output: `[1]`
#[must_use]
pub fn image_to_text_loss(text: Tensor<2>, image: Tensor<2>, temperature: Tensor<1>) -> Tensor<1> {
    let [images, _] = image.dims();
    let similarity = normalize(image).matmul(normalize(text).transpose());
    let labels: Vec<u32> = (0..images as u32).collect();
    cross_entropy(similarity / temperature.unsqueeze::<2>(), &labels)
}
