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
use super::blocks;
use super::narrow::{Narrow, row};
use super::view::{View, ViewMut};

/// Rows of weights that one instruction adds up.
const GROUP: usize = 2;
/// Columns of a panel: two vectors of 16.
const PANEL: usize = 32;
/// Rows of the largest tile: 28 registers hold it, 3 its operands.
const ROWS: usize = 14;

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

/// A cache line of weights, so that panels begin with one.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u16; 32]);

/// Weights `[k, n]` of 16 bits in panels of [`PANEL`] columns, each dense: for every group of two rows the two
/// numbers of each column side by side.
pub(crate) struct Halved {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
    fast: bool,
}

impl Halved {
    /// Rounds `b`, on this thread.
    pub(super) fn new(b: View) -> Self {
        Self::with(b, bf16_pays())
    }

    pub(super) fn with(b: View, fast: bool) -> Self {
        let (rows, cols) = (b.rows(), b.cols());
        let groups = rows.div_ceil(GROUP);
        let panels = cols.div_ceil(PANEL);
        let mut lines = vec![Line([0; 32]); groups * panels * PANEL * GROUP / 32];
        let mut apart = Vec::new();
        for i in 0..rows {
            for (j, x) in row(b, i, &mut apart).iter().enumerate() {
                let group = j / PANEL * groups + i / GROUP;
                let line = group * (PANEL * GROUP / 32) + j % PANEL / 16;
                lines[line].0[j % 16 * GROUP + i % GROUP] = half(*x);
            }
        }
        Self {
            lines,
            rows,
            cols,
            fast,
        }
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
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn panel(&self) -> usize {
        PANEL
    }

    fn multiply(&self, mut c: ViewMut, a: View, cols: Range<usize>, accumulate: bool) {
        super::check_shapes(&c, a, self.rows, cols.len());
        debug_assert!(cols.start.is_multiple_of(PANEL));
        let groups = self.rows.div_ceil(GROUP);
        let lines = groups * (PANEL * GROUP / 32);
        ROWS_OF_A.with_borrow_mut(|(values, apart)| {
            fill(values, apart, a);
            let stride = groups * GROUP;
            for panel in blocks(cols.len(), PANEL) {
                let first = cols.start + panel.start;
                let weights = &self.lines[first / PANEL * lines..][..lines];
                for block in blocks(a.rows(), ROWS) {
                    let mut sums = [[0.0; PANEL]; ROWS];
                    let values = &values[block.start * stride..block.end * stride];
                    multiply_tile(&mut sums[..block.len()], values, weights, self.fast);
                    let mut tile = c.block(block.clone(), panel.clone());
                    for (i, sums) in sums[..block.len()].iter().enumerate() {
                        for (out, sum) in tile.row_mut(i).iter_mut().zip(sums) {
                            *out = if accumulate { *out + sum } else { *sum };
                        }
                    }
                }
            }
        });
    }
}

/// Sums of a tile, of as many rows as `sums` has.
fn multiply_tile(sums: &mut [[f32; PANEL]], values: &[u16], weights: &[Line], fast: bool) {
    let stride = weights.len() / 2 * GROUP;
    #[cfg(target_arch = "x86_64")]
    if fast {
        assert!(values.len() >= sums.len() * stride && (1..=ROWS).contains(&sums.len()));
        // SAFETY: `bf16_pays` found the instructions, and the sizes were checked above.
        unsafe { x86::TILES[sums.len() - 1](sums.as_mut_ptr(), values.as_ptr(), weights) };
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

    use super::{GROUP, Line, PANEL, ROWS};

    /// # Safety
    /// The processor has the instructions; there are as many rows of sums and of values as the function is for, rows
    /// of values being as long as the weights have rows.
    type TileFn = unsafe fn(*mut [f32; PANEL], *const u16, &[Line]);

    macro_rules! tiles {
        ($($rows:literal)*) => {
            [$(tile::<$rows>),*]
        };
    }

    pub(super) const TILES: [TileFn; ROWS] = tiles!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn tile<const COUNT: usize>(
        sums: *mut [f32; PANEL],
        values: *const u16,
        weights: &[Line],
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
