//! Masked language modelling (MLM, `specs/scl.md` section 2.4).

use burn::tensor::Tensor;
use chiasm_nn::{Tokens, VisionLanguageModel};

/// The words asked for in a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MlmTargets {
    /// Which token of the batch each is, counted without padding, `[selected]`.
    pub positions: Vec<usize>,
    /// Original token ids, `[selected]`.
    pub labels: Vec<u32>,
}

/// Mean cross-entropy over the selected positions; the head runs on those alone. 0 when nothing
/// is selected.
///
/// # Shapes
/// - asked: where each of the `labels` stands among the tokens of `fused_text`, `[selected]`
/// - output: `[1]`
#[must_use]
pub fn mlm_loss(
    model: &VisionLanguageModel,
    fused_text: &Tokens,
    asked: &[usize],
    labels: &[u32],
) -> Tensor<1> {
    model.mlm_head.loss(fused_text.token_rows(asked), labels)
}
