//! How the rows of a batch are cut into the blocks that threads work on, and what blocks share.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::math::{add, simd};

/// Rows that one task takes through a whole sub-layer, while they lie in its cache.
///
/// A constant: were it to depend on the number of threads, so would the order of sums.
pub(crate) const BLOCK: usize = 32;

/// The blocks that `rows` rows make.
pub(crate) fn blocks(rows: usize) -> usize {
    rows.div_ceil(BLOCK)
}

/// Every block's part of a buffer, `[rows, width]`; nothing for all of them without a buffer.
pub(crate) fn parts(
    buffer: Option<&mut Vec<f32>>,
    rows: usize,
    width: usize,
) -> Vec<Option<&mut [f32]>> {
    let mut parts: Vec<_> = (0..blocks(rows)).map(|_| None).collect();
    if let Some(buffer) = buffer {
        for (part, chunk) in parts.iter_mut().zip(buffer.chunks_mut(BLOCK * width)) {
            *part = Some(chunk);
        }
    }
    parts
}

/// Elements from which on a buffer is cleared by all threads: 256 KiB.
const SHARED_CLEARING: usize = 1 << 16;

/// Elements that one task clears.
const CLEARED: usize = 1 << 15;

/// A buffer of zeros. What a sub-layer makes is large, and clearing it on one thread while the others
/// wait took a twentieth of a small model's step.
#[allow(
    unsafe_code,
    reason = "the elements are written by several threads before the vector has them"
)]
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    if len < SHARED_CLEARING {
        return vec![0.0; len];
    }
    let mut buffer = Vec::with_capacity(len);
    buffer.spare_capacity_mut()[..len]
        .par_chunks_mut(CLEARED)
        .for_each(|part| part.fill(MaybeUninit::new(0.0)));
    // SAFETY: the loop above wrote the first `len` elements.
    unsafe { buffer.set_len(len) };
    buffer
}

/// The first `len` elements of a buffer, which grows to have them; their values are left over.
pub(crate) fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        *buffer = vec![0.0; len];
    }
    &mut buffer[..len]
}

/// Sets every row of a block to `row`: where a product is then added, the row is its bias.
pub(crate) fn fill(block: &mut [f32], row: &[f32]) {
    for to in block.chunks_exact_mut(row.len()) {
        to.copy_from_slice(row);
    }
}

/// Adds a block to another, element by element.
pub(crate) fn add_to(to: &mut [f32], block: &[f32]) {
    simd(
        #[inline(always)]
        || add(to, block),
    );
}

/// Adds every row of a block to `total`.
pub(crate) fn add_rows(total: &mut [f32], block: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for row in block.chunks_exact(total.len()) {
                add(total, row);
            }
        },
    );
}

/// Sums of what every block found, in the order of the blocks: a block's numbers, side by side in
/// `partials`, are N vectors of the lengths `widths`.
pub(crate) fn add_up<const N: usize>(partials: &[f32], widths: [usize; N]) -> [Vec<f32>; N] {
    let stride: usize = widths.iter().sum();
    let mut start = 0;
    widths.map(|width| {
        let mut total = vec![0.0; width];
        for partial in partials.chunks_exact(stride.max(1)) {
            add(&mut total, &partial[start..start + width]);
        }
        start += width;
        total
    })
}
