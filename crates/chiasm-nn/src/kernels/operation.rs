//! What every fused operation is: slices in, slices out, and a backward pass derived by hand.

use std::fmt::Debug;

/// An operation of `N` float tensors with one float result.
///
/// All tensors are dense and row-major. Forward and backward pass are pure functions of their
/// arguments and of `self`, whatever the number of threads: every sum is taken in one fixed order.
pub(crate) trait Operation<const N: usize>: Clone + Debug + Send + 'static {
    /// What the forward pass leaves for the backward pass beside the inputs.
    type Kept: Clone + Debug + Send + 'static;

    /// Whether gradient checkpointing makes what the forward pass keeps again before the backward
    /// pass: of operations that keep much more than their inputs.
    const RECOMPUTED: bool = false;

    /// The result, and what to keep of it when `keep` says that a backward pass will follow.
    fn forward(&self, inputs: [&[f32]; N], keep: bool) -> (Vec<f32>, Option<Self::Kept>);

    /// What [`forward`](Self::forward) keeps, to the bit, from its inputs alone.
    fn recompute(&self, inputs: [&[f32]; N]) -> Option<Self::Kept> {
        self.forward(inputs, true).1
    }

    /// The gradient of every input that is `wanted`, given the one of the result.
    fn backward(
        &self,
        inputs: [&[f32]; N],
        kept: Self::Kept,
        gradient: &[f32],
        wanted: [bool; N],
    ) -> [Option<Vec<f32>>; N];
}
