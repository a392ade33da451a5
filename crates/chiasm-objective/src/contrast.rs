//! The contrastive primitive NCE (`specs/scl.md` section 2.1) and the image–text contrast built on
//! it (ITC, section 2.2).

use burn::tensor::{Device, Tensor};
use chiasm_nn::layers::normalize;

/// `NCE(S; τ)`: cross-entropy of every row and of every column of `S / τ` against its diagonal
/// entry, each averaged, **summed** over both directions. 0 for an empty matrix.
///
/// # Shapes
/// - similarity: `[n, n]`, positives on the diagonal
/// - temperature: `[1]`
/// - output: `[1]`
#[must_use]
pub fn nce(similarity: Tensor<2>, temperature: Tensor<1>) -> Tensor<1> {
    let device = similarity.device();
    let [n, _] = similarity.dims();
    if n == 0 {
        return Tensor::zeros([1], &device);
    }
    // Measured from the positive: its own entry is then exactly 0, where a softmax would subtract
    // two numbers near 1 and lose the gradient of the temperature in the difference.
    let positive = (similarity.clone() * Tensor::eye(n, &device)).sum_dim(1);
    let temperature = temperature.unsqueeze::<2>();
    let rows = (similarity.clone() - positive.clone()) / temperature.clone();
    let columns = (similarity.transpose() - positive) / temperature;
    (log_sum_exp(rows) + log_sum_exp(columns))
        .sum()
        .div_scalar(n as f64)
}

/// Logarithm of the sum of exponentials of every row, `[n, m]` to `[n, 1]`.
fn log_sum_exp(rows: Tensor<2>) -> Tensor<2> {
    let largest = rows.clone().max_dim(1).detach();
    (rows - largest.clone()).exp().sum_dim(1).log() + largest
}

/// A constant temperature as the tensor that [`nce`] takes.
#[must_use]
pub fn constant_temperature(value: f64, device: &Device) -> Tensor<1> {
    Tensor::full([1], value, device)
}

/// Mean of both directions of the contrast between texts and images (ITC); row = text.
///
/// # Shapes
/// - text, image: unnormalised embeddings `[batch, projection]`, row i of both belong together
/// - temperature: `[1]`
/// - output: `[1]`
#[must_use]
pub fn contrastive_loss(text: Tensor<2>, image: Tensor<2>, temperature: Tensor<1>) -> Tensor<1> {
    let similarity = normalize(text).matmul(normalize(image).transpose());
    nce(similarity, temperature).mul_scalar(0.5)
}
