//! Classes of pairs (`specs/scl.md` sections 6.1 and 6.2): VQA, NLVR2, SNLI-VE, or labels of one's own.

use burn::tensor::activation::{log_softmax, softplus};
use burn::tensor::{Tensor, TensorData};

/// The right classes of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassTargets {
    /// What every class is worth, 0 to 1, `[batch, classes]` row after row.
    Worth(Vec<f32>),
    /// What part of all answers given each class is, 0 to 1, `[batch, classes]` row after row.
    Shares(Vec<f32>),
    /// The one right class of each sample, `[batch]`.
    Class(Vec<u32>),
}

/// Divergence of the predicted distribution over classes from `shares` (answers given, as parts of all
/// that were asked), summed over classes, the mean over the batch (ROSITA's first epochs,
/// `specs/tbkin.md` section 6.1). Shares need not sum to 1.
///
/// # Shapes
/// - logits: `[batch, classes]`
/// - shares: `[batch, classes]`, 0 to 1
/// - output: `[1]`
#[must_use]
pub fn divergence_loss(logits: Tensor<2>, shares: &[f32]) -> Tensor<1> {
    let [batch, classes] = logits.dims();
    let term = |share: &f32| {
        if *share > 0.0 {
            share * share.ln()
        } else {
            0.0
        }
    };
    let entropy: f32 = shares.iter().map(term).sum();
    let shares = TensorData::new(shares.to_vec(), [batch, classes]);
    let shares = Tensor::<2>::from_data(shares, &logits.device());
    let likely = (log_softmax(logits, 1) * shares).sum();
    let apart = likely.neg().add_scalar(entropy);
    apart.div_scalar(batch.max(1) as f64)
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
