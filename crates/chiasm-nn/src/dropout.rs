//! Where dropout's random numbers come from.
//!
//! Every place of a forward pass that drops something is a *site*, counted from the beginning of
//! the step. What a site drops is a pure function of (seed of the step, site, element), so that a
//! backward pass draws it again instead of remembering it, and so that the fused and the plain way
//! to compute a layer drop the same elements on a CPU.

use std::cell::Cell;

use burn::tensor::{Device, Distribution, Tensor, TensorData};

use crate::compute;
use crate::kernels::Dropout;
use crate::watch::is_training;

thread_local! {
    static STEP: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Begins a step: its sites are numbered anew, and its draws follow from `seed` alone.
pub fn begin_step(seed: u64, device: &Device) {
    STEP.set((seed, 0));
    // Devices other than the CPU draw with a generator of their own.
    if !compute::is_cpu(device) {
        device.seed(seed);
    }
}

/// The next site, where a share of the values is dropped; none outside training.
pub(crate) fn next_site(share: f64, device: &Device) -> Option<Dropout> {
    if share <= 0.0 || share >= 1.0 || !is_training(device) {
        return None;
    }
    let (seed, site) = STEP.get();
    STEP.set((seed, site + 1));
    // The golden ratio's odd multiple keeps neighbouring sites apart before the hash mixes them.
    let key = seed ^ (site + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Some(Dropout::new(share as f32, key))
}

/// Drops elements of `values`; on a CPU element (r, c) of the site stands where `rows` has r, each
/// row being `values.dims()[D - 1]` long.
pub(crate) fn drop_from<const D: usize>(
    site: Option<&Dropout>,
    values: Tensor<D>,
    rows: impl Iterator<Item = u64>,
) -> Tensor<D> {
    let Some(site) = site else {
        return values;
    };
    let device = values.device();
    if !compute::is_cpu(&device) {
        let kept = 1.0 - f64::from(site.rate());
        let factors = values.random_like(Distribution::Bernoulli(kept));
        return values * factors.div_scalar(kept);
    }
    let shape = values.dims();
    let width = shape[D - 1];
    let mut factors = vec![0.0; shape.iter().product()];
    for (row, factors) in rows.zip(factors.chunks_exact_mut(width.max(1))) {
        site.factors(row, factors);
    }
    values * Tensor::from_data(TensorData::new(factors, shape), &device)
}
