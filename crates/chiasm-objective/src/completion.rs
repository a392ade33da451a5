//! Semantic completion (`specs/scl.md` sections 2.5 and 2.6): what is recovered for a masked input
//! should be nearest to what the same complete input gives. Global completion compares summaries
//! (MVSC and MLSC), local completion single tokens (MLTC).

use burn::tensor::Tensor;
use chiasm_nn::criterion::{Sides, constant_temperature, contrast};

/// Contrast of recovered against complete features; no gradient reaches the latter. 0 without rows.
///
/// # Shapes
/// - sides: recovered and complete, `[rows, width]`, row i of both belong together
/// - output: `[1]`
#[must_use]
pub fn completion_loss(sides: Sides<'_>, temperature: f64) -> Tensor<1> {
    let device = sides.own[0].device();
    if sides.count() == 0 {
        return Tensor::zeros([1], &device);
    }
    let temperature = constant_temperature(temperature, &device);
    contrast(sides.with_fixed_second(), temperature, 1.0)
}

/// [`completion_loss`] of clips: the mean over frames, each compared with the same frame of the other
/// clips. Features are normalised over their width; the published code normalises them over frames,
/// which leaves no gradient where there is one frame (`specs/scl.md` section 2.5).
///
/// # Shapes
/// - sides: recovered and complete, `[batch, frames * width]`
/// - output: `[1]`
#[must_use]
pub fn frame_completion_loss(sides: &Sides<'_>, frames: usize, temperature: f64) -> Tensor<1> {
    let device = sides.own[0].device();
    let width = sides.own[0].dims()[1] / frames.max(1);
    let losses = (0..frames).map(|frame| {
        let of = sides.columns(frame * width..(frame + 1) * width);
        completion_loss(of, temperature)
    });
    let sum = losses.reduce(|sum, loss| sum + loss);
    sum.unwrap_or_else(|| Tensor::zeros([1], &device))
        .div_scalar(frames.max(1) as f64)
}
