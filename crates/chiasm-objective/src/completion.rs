//! Global semantic completion (MVSC and MLSC, `specs/scl.md` section 2.5): the global feature
//! recovered for a masked input should be nearest to the one of the same complete input.

use burn::tensor::Tensor;
use chiasm_nn::criterion::{constant_temperature, contrast};

/// Contrast of recovered against complete global features; no gradient reaches the latter.
///
/// # Shapes
/// - recovered, complete: `[batch, width]`, row i of both belong together
/// - output: `[1]`
#[must_use]
pub fn completion_loss(recovered: Tensor<2>, complete: Tensor<2>, temperature: f64) -> Tensor<1> {
    let device = recovered.device();
    let temperature = constant_temperature(temperature, &device);
    contrast(recovered, complete.detach(), temperature, 1.0)
}
