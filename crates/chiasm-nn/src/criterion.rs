//! The two losses that have a fused form: softmax cross-entropy over a linear map, and symmetric
//! contrast. What they are the losses *of* is not known here.

use burn::tensor::activation::log_softmax;
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor};

use crate::compute::is_fused;
use crate::kernels;
use crate::layers::{Linear, normalize};
use crate::tokens::indices;

impl Linear {
    /// Mean cross-entropy of the classes `softmax(hidden W + b)`; 0 when there is no row.
    ///
    /// # Shapes
    /// - hidden: `[rows, in]`, labels: a class below `out` for each row
    /// - output: `[1]`
    #[must_use]
    pub fn cross_entropy(&self, hidden: Tensor<2>, labels: &[u32]) -> Tensor<1> {
        mapped_cross_entropy(hidden, self.values(), labels)
    }
}

/// [`Linear::cross_entropy`] of a map given by weight `[in, out]` and bias `[out]`.
pub(crate) fn mapped_cross_entropy(
    hidden: Tensor<2>,
    (weight, bias): (Tensor<2>, Tensor<1>),
    labels: &[u32],
) -> Tensor<1> {
    if !is_fused(&hidden.device()) {
        return cross_entropy(linear(hidden, weight, Some(bias)), labels);
    }
    let [width, classes] = weight.dims();
    let operation = kernels::CrossEntropy {
        labels: labels.into(),
        width,
        classes,
    };
    let inputs = [
        hidden.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ];
    kernels::apply(operation, inputs, [1])
}

/// Mean cross-entropy of class indices; 0 when there is no row.
///
/// # Shapes
/// - logits: `[rows, classes]`, labels: a class for each row
/// - output: `[1]`
#[must_use]
pub fn cross_entropy(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let device = logits.device();
    if labels.is_empty() {
        return Tensor::zeros([1], &device);
    }
    let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
    let rows = labels.len() as f64;
    log_softmax(logits, 1)
        .gather(1, indices(labels, &device).unsqueeze_dim::<2>(1))
        .sum()
        .neg()
        .div_scalar(rows)
}

/// `scale * NCE(S; temperature)` of the cosines S of two sets of vectors (see [`nce`]).
///
/// # Shapes
/// - left, right: `[n, width]`, row i of both belong together
/// - temperature: `[1]`, a divisor
/// - output: `[1]`
#[must_use]
pub fn contrast(
    left: Tensor<2>,
    right: Tensor<2>,
    temperature: Tensor<1>,
    scale: f64,
) -> Tensor<1> {
    if !is_fused(&left.device()) {
        let similarity = normalize(left).matmul(normalize(right).transpose());
        return nce(similarity, temperature).mul_scalar(scale);
    }
    let [rows, width] = left.dims();
    let operation = kernels::Contrast {
        rows,
        width,
        scale: scale as f32,
    };
    let inputs = [
        left.into_dispatch(),
        right.into_dispatch(),
        temperature.into_dispatch(),
    ];
    kernels::apply(operation, inputs, [1])
}

/// `NCE(S; τ)`: cross-entropy of every row and of every column of `S / τ` against its diagonal
/// entry, each averaged, **summed** over both directions. 0 for an empty matrix
/// (`specs/scl.md` section 2.1).
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

/// A constant temperature as the tensor that [`contrast`] takes.
#[must_use]
pub fn constant_temperature(value: f64, device: &Device) -> Tensor<1> {
    Tensor::full([1], value, device)
}
