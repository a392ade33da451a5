//! Semantic completion (`specs/scl.md` sections 2.5 and 2.6): what is recovered for a masked input
//! should be nearest to what the same complete input gives. Global completion compares summaries
//! (MVSC and MLSC), local completion single tokens (MLTC).

use burn::tensor::Tensor;
use chiasm_nn::criterion::{constant_temperature, contrast};

/// Contrast of recovered against complete features; no gradient reaches the latter. 0 without rows.
///
/// # Shapes
/// - recovered, complete: `[rows, width]`, row i of both belong together
/// - output: `[1]`
#[must_use]
pub fn completion_loss(recovered: Tensor<2>, complete: Tensor<2>, temperature: f64) -> Tensor<1> {
    let device = recovered.device();
    if recovered.dims()[0] == 0 {
        return Tensor::zeros([1], &device);
    }
    let temperature = constant_temperature(temperature, &device);
    contrast(recovered, complete.detach(), temperature, 1.0)
}

/// [`completion_loss`] of clips: the mean over frames, each compared with the same frame of the other
/// clips. Features are normalised over their width; the published code normalises them over frames,
/// which leaves no gradient where there is one frame (`specs/scl.md` section 2.5).
///
/// # Shapes
/// - recovered, complete: `[batch, frames, width]`
/// - output: `[1]`
#[must_use]
pub fn frame_completion_loss(
    recovered: &Tensor<3>,
    complete: &Tensor<3>,
    temperature: f64,
) -> Tensor<1> {
    let [_, frames, _] = recovered.dims();
    let of = |features: &Tensor<3>, frame| features.clone().narrow(1, frame, 1).squeeze_dim::<2>(1);
    let losses = (0..frames)
        .map(|frame| completion_loss(of(recovered, frame), of(complete, frame), temperature));
    let device = recovered.device();
    let sum = losses.reduce(|sum, loss| sum + loss);
    sum.unwrap_or_else(|| Tensor::zeros([1], &device))
        .div_scalar(frames.max(1) as f64)
}
