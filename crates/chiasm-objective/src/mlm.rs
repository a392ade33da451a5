//! Masked language modelling (MLM, `specs/scl.md` section 2.4).

use burn::tensor::{Int, Tensor};
use chiasm_nn::VisionLanguageModel;

use crate::matching::cross_entropy;

/// The words asked for in a batch.
#[derive(Clone, Debug)]
pub struct MlmTargets {
    /// Index of each position in the flattened batch, `row * text_len + column`, `[selected]`.
    pub positions: Tensor<1, Int>,
    /// Original token ids, `[selected]`.
    pub labels: Tensor<1, Int>,
}

/// Mean cross-entropy over the selected positions; the head runs on those alone. 0 when nothing
/// is selected.
///
/// # Shapes
/// - fused text: `[batch, text_len, width]`
/// - output: `[1]`
#[must_use]
pub fn mlm_loss(
    model: &VisionLanguageModel,
    fused_text: Tensor<3>,
    targets: &MlmTargets,
) -> Tensor<1> {
    if targets.positions.dims()[0] == 0 {
        return Tensor::zeros([1], &fused_text.device());
    }
    let [batch, len, width] = fused_text.dims();
    let tokens = fused_text
        .reshape([batch * len, width])
        .select(0, targets.positions.clone());
    cross_entropy(model.mlm_head.forward(tokens), targets.labels.clone())
}
