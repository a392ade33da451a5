//! Products with weights of 16 bits, for models that are only read: the upper halves of `f32`, with its range and 8
//! bits of every number.
//!
//! Both sides are rounded, weights once and rows of `A` when they are multiplied, a relative 1/512 each at most; sums
//! are `f32`. Two products are one instruction for 16 columns where the processor has AVX-512 BF16. How it rounds
//! within a sum is its own: another processor's sums differ in the last bits of `f32`.

#![allow(
    unsafe_code,
    reason = "vector instructions, and pointers without a bounds check per element"
)]

use std::cell::RefCell;
use std::ops::Range;

use super::super::math::simd;
use super::narrow::{Line, Narrow, PANEL, Panels, row};
use super::view::{View, ViewMut};

/// Of 2 rows of weights, the numbers of 16 columns.
type Halves = Line<u16, 32>;
/// Rows of weights that one instruction adds up.
const GROUP: usize = Panels::<u16, 32>::GROUP;

/// Whether this processor multiplies halves faster than `f32`.
pub(crate) fn bf16_pays() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Weights `[k, n]` of 16 bits.
pub(crate) struct Halved {
    panels: Panels<u16, 32>,
    fast: bool,
}

impl Halved {
    /// Rounds `b`, on this thread.
    pub(super) fn new(b: View) -> Self {
        Self::with(b, bf16_pays())
    }

    pub(super) fn with(b: View, fast: bool) -> Self {
        let mut panels = Panels::zeros(b.rows(), b.cols());
        let mut apart = Vec::new();
        for i in 0..b.rows() {
            for (j, x) in row(b, i, &mut apart).iter().enumerate() {
                panels.set(i, j, half(*x));
            }
        }
        Self { panels, fast }
    }
}

/// The nearest number of 16 bits; of two, the even one. What is no number stays none.
#[inline(always)]
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // An addition could make a finite number of it.
    let none = bits >> 16 | 0x40;
    (if x.is_nan() { none } else { rounded }) as u16
}

fn whole(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

thread_local! {
    static ROWS_OF_A: RefCell<(Vec<u16>, Vec<f32>)> = RefCell::default();
}

/// Rounds the rows of `a`, `[rows, stride]`, filled up to whole groups.
fn fill(values: &mut Vec<u16>, apart: &mut Vec<f32>, a: View) {
    let stride = a.cols().next_multiple_of(GROUP);
    values.clear();
    values.resize(a.rows() * stride, 0);
    for (i, values) in values.chunks_exact_mut(stride.max(1)).enumerate() {
        let row = row(a, i, apart);
        simd(
            #[inline(always)]
            || {
                for (value, x) in values.iter_mut().zip(row) {
                    *value = half(*x);
                }
            },
        );
    }
}

impl Narrow for Halved {
    fn rows(&self) -> usize {
        self.panels.rows()
    }

    fn cols(&self) -> usize {
        self.panels.cols()
    }

    fn multiply(&self, c: ViewMut, a: View, cols: Range<usize>, accumulate: bool) {
        super::check_shapes(&c, a, self.rows(), cols.len());
        ROWS_OF_A.with_borrow_mut(|(values, apart)| {
            fill(values, apart, a);
            self.panels.multiply(
                c,
                values,
                cols,
                |sums, values, weights| multiply_tile(sums, values, weights, self.fast),
                |sums, mut tile, _| {
                    for (i, sums) in sums.iter().enumerate() {
                        for (out, sum) in tile.row_mut(i).iter_mut().zip(sums) {
                            *out = if accumulate { *out + sum } else { *sum };
                        }
                    }
                },
            );
        });
    }
}

/// Sums of a tile, of as many rows as `sums` has.
fn multiply_tile(sums: &mut [[f32; PANEL]], values: &[u16], weights: &[Halves], fast: bool) {
    let stride = weights.len() / 2 * GROUP;
    #[cfg(target_arch = "x86_64")]
    if fast {
        assert!(values.len() >= sums.len() * stride);
        let tile = x86::TILES[sums.len() - 1];
        // SAFETY: `bf16_pays` found the instructions, and the sizes were checked above.
        unsafe { tile(sums.as_mut_ptr(), values.as_ptr(), weights) };
        return;
    }
    let _ = fast;
    for (sums, values) in sums.iter_mut().zip(values.chunks_exact(stride.max(1))) {
        for (group, lines) in values.chunks_exact(GROUP).zip(weights.chunks_exact(2)) {
            for (part, line) in lines.iter().enumerate() {
                for (sum, column) in sums[16 * part..].iter_mut().zip(line.0.chunks_exact(GROUP)) {
                    for (a, b) in group.iter().zip(column) {
                        *sum = whole(*a).mul_add(whole(*b), *sum);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::narrow::{ROWS, tiles};
    use super::{GROUP, Halves, PANEL};

    /// # Safety
    /// The processor has the instructions; there are as many rows of sums and of values as the function is for, rows
    /// of values being as long as the weights have rows.
    type TileFn = unsafe fn(*mut [f32; PANEL], *const u16, &[Halves]);

    pub(super) const TILES: [TileFn; ROWS] = tiles!(tile);

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn tile<const COUNT: usize>(
        sums: *mut [f32; PANEL],
        values: *const u16,
        weights: &[Halves],
    ) {
        let groups = weights.len() / 2;
        let stride = groups * GROUP;
        // SAFETY: promised by the caller; both vector types are 512 bits of anything.
        unsafe {
            let halves = |bits: __m512i| std::mem::transmute::<__m512i, __m512bh>(bits);
            let mut totals = [[_mm512_setzero_ps(); 2]; COUNT];
            for group in 0..groups {
                let line = weights.as_ptr().add(2 * group).cast::<__m512i>();
                let columns = [_mm512_load_si512(line), _mm512_load_si512(line.add(1))];
                let columns = columns.map(halves);
                for (i, total) in totals.iter_mut().enumerate() {
                    let two = values.add(i * stride + group * GROUP).cast::<i32>();
                    let two = halves(_mm512_set1_epi32(two.read_unaligned()));
                    total[0] = _mm512_dpbf16_ps(total[0], two, columns[0]);
                    total[1] = _mm512_dpbf16_ps(total[1], two, columns[1]);
                }
            }
            for (i, total) in totals.iter().enumerate() {
                let out = sums.add(i).cast::<f32>();
                _mm512_storeu_ps(out, total[0]);
                _mm512_storeu_ps(out.add(16), total[1]);
            }
        }
    }
}
