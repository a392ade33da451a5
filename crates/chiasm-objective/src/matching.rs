//! Image–text matching (ITM, `specs/scl.md` section 2.3).

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

/// Mean cross-entropy of class indices.
///
/// # Shapes
/// - logits `[rows, classes]`, labels `[rows]`
/// - output: `[1]`; 0 when there is no row
#[must_use]
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let rows = logits.dims()[0];
    if rows == 0 {
        return Tensor::zeros([1], &logits.device());
    }
    log_softmax(logits, 1)
        .gather(1, labels.unsqueeze_dim::<2>(1))
        .sum()
        .neg()
        .div_scalar(rows as f64)
}
