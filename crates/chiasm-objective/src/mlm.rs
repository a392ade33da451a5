//! Masked language modelling (MLM, `specs/scl.md` section 2.4).

/// The words asked for in a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MlmTargets {
    /// Which token of the batch each is, counted without padding, `[selected]`.
    pub positions: Vec<usize>,
    /// Original token ids, `[selected]`.
    pub labels: Vec<u32>,
}
