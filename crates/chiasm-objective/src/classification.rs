//! Classes of pairs (`specs/scl.md` sections 6.1 and 6.2): VQA, NLVR2, SNLI-VE, or labels of one's own.

use burn::tensor::activation::softplus;
use burn::tensor::{Tensor, TensorData};

/// The right classes of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassTargets {
    /// What every class is worth, 0 to 1, `[batch, classes]` row after row.
    Worth(Vec<f32>),
    /// The one right class of each sample, `[batch]`.
    Class(Vec<u32>),
}

/// Binary cross-entropy of every class, summed over classes, the mean over the batch.
///
/// # Shapes
/// - logits: `[batch, classes]`
/// - worth: `[batch, classes]`, 0 to 1
/// - output: `[1]`
#[must_use]
pub fn binary_loss(logits: Tensor<2>, worth: &[f32]) -> Tensor<1> {
    let [batch, classes] = logits.dims();
    let worth = TensorData::new(worth.to_vec(), [batch, classes]);
    let worth = Tensor::<2>::from_data(worth, &logits.device());
    let loss = softplus(logits.clone(), 1.0) - logits * worth;
    loss.sum().div_scalar(batch.max(1) as f64)
}
