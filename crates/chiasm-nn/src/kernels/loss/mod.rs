//! Losses whose forward pass forms the gradients, too: the result is one number, so the backward
//! pass has only to scale them, and nothing large lives in between.

mod contrast;
mod cross_entropy;

use rayon::prelude::*;

use super::math::{scale, simd};

pub(crate) use contrast::{Among, Contrast, FACTS, Similarities};
pub(crate) use cross_entropy::CrossEntropy;

/// Elements that one task scales.
const SCALE_BLOCK: usize = 1 << 16;

/// The wanted gradients, from those of a loss that counts once.
fn scaled<const N: usize>(
    gradients: [Vec<f32>; N],
    factor: f32,
    wanted: [bool; N],
) -> [Option<Vec<f32>>; N] {
    let mut wanted = wanted.into_iter();
    gradients.map(|mut gradient| {
        wanted.next()?.then(|| {
            // Often 1, and the gradient of a vocabulary is long.
            if factor != 1.0 {
                gradient.par_chunks_mut(SCALE_BLOCK).for_each(|part| {
                    simd(
                        #[inline(always)]
                        || scale(part, factor),
                    );
                });
            }
            gradient
        })
    })
}
