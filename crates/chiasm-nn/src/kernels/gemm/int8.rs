//! Products with weights of 8 bits, for models that are only read.
//!
//! A column of weights is 255 steps between minus and plus its largest number, chosen once; a row of `A` is so too,
//! chosen when it is multiplied. Their integers are multiplied and added without rounding, so that every
//! machine and every split into tiles and tasks gives the same bits. What is lost is the rounding of both sides:
//! half a step each, a 254th of the largest number of a row or column.
//!
//! Four products of 8 bits are one instruction for 16 columns where the processor has AVX-512 VNNI, four times what
//! fused multiply-adds of `f32` do; without it, the compiler's loops are slower than these.

#![allow(
    unsafe_code,
    reason = "vector instructions, and pointers without a bounds check per element"
)]

use std::cell::RefCell;
use std::ops::Range;

use super::super::math::simd;
use super::narrow::{Line, Narrow, PANEL, Panels, row};
use super::view::{View, ViewMut};

/// Of 4 rows of weights, the numbers of 16 columns.
type Bytes = Line<i8, 64>;
/// Rows of weights that one instruction adds up.
const GROUP: usize = Panels::<i8, 64>::GROUP;
/// Steps on either side of 0.
const STEPS: f32 = 127.0;
/// Added to the integers of `A`, which the instruction takes unsigned.
const SHIFT: u8 = 128;

/// Whether this processor multiplies 8 bits faster than `f32`.
pub(crate) fn int8_pays() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Weights `[k, n]` of 8 bits.
pub(crate) struct Rounded {
    panels: Panels<i8, 64>,
    /// What a step is of every column, zeros beyond the last; NaN of a column that is not of numbers.
    steps: Vec<f32>,
    /// What [`SHIFT`] adds to the product with every column.
    shifts: Vec<i32>,
    fast: bool,
}

impl Rounded {
    /// Rounds `b`, on this thread.
    pub(super) fn new(b: View) -> Self {
        Self::with(b, int8_pays())
    }

    pub(super) fn with(b: View, fast: bool) -> Self {
        let (rows, cols) = (b.rows(), b.cols());
        let width = cols.next_multiple_of(PANEL);
        let mut rounded = Self {
            panels: Panels::zeros(rows, cols),
            steps: vec![0.0; width],
            shifts: vec![0; width],
            fast,
        };
        // Row after row, as they lie: first the largest number of every column, then all of them.
        let (mut largest, mut apart) = (vec![0; cols], Vec::new());
        for i in 0..rows {
            for (most, x) in largest.iter_mut().zip(row(b, i, &mut apart)) {
                *most = x.abs().to_bits().max(*most);
            }
        }
        for (own, most) in rounded.steps.iter_mut().zip(largest) {
            *own = step(most);
        }
        let per_step: Vec<f32> = rounded.steps.iter().map(|step| reciprocal(*step)).collect();
        for i in 0..rows {
            for (j, x) in row(b, i, &mut apart).iter().enumerate() {
                let value = round(*x, per_step[j]);
                rounded.shifts[j] += i32::from(value) * i32::from(SHIFT);
                rounded.panels.set(i, j, value);
            }
        }
        rounded
    }
}

/// A step of numbers whose largest has these bits without its sign: those of what is no number are the largest.
#[inline(always)]
fn step(largest: u32) -> f32 {
    let largest = f32::from_bits(largest);
    match largest.is_finite() {
        true => largest / STEPS,
        false => f32::NAN,
    }
}

/// Steps of a number, where a step is of any size: those of a row of zeros, or of what is no number, are 0.
#[inline(always)]
fn reciprocal(step: f32) -> f32 {
    let per_step = 1.0 / step;
    match per_step.is_finite() {
        true => per_step,
        false => 0.0,
    }
}

/// The nearest integer in -127 to 127 of a number in steps; of two, the even one.
#[inline(always)]
fn round(x: f32, per_step: f32) -> i8 {
    /// Added to a number, rounds it to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    (x * per_step + ROUND).to_bits() as i8
}

/// Rows of `A` in 8 bits.
#[derive(Default)]
struct Rows {
    /// `[rows, stride]`, shifted, filled up to whole groups.
    values: Vec<u8>,
    steps: Vec<f32>,
    /// For a row whose numbers lie apart.
    apart: Vec<f32>,
}

thread_local! {
    static ROWS_OF_A: RefCell<Rows> = RefCell::default();
}

impl Rows {
    /// Rounds the rows of `a`.
    fn fill(&mut self, a: View) {
        let stride = a.cols().next_multiple_of(GROUP);
        self.values.clear();
        self.values.resize(a.rows() * stride, SHIFT);
        self.steps.clear();
        for (i, values) in self.values.chunks_exact_mut(stride.max(1)).enumerate() {
            let row = row(a, i, &mut self.apart);
            self.steps.push(simd(
                #[inline(always)]
                || round_row(row, values),
            ));
        }
    }
}

/// A row in 8 bits; its step.
#[inline(always)]
fn round_row(row: &[f32], values: &mut [u8]) -> f32 {
    let bits = row.iter().map(|x| x.to_bits() & 0x7fff_ffff);
    let step = step(bits.fold(0, u32::max));
    let per_step = reciprocal(step);
    for (value, x) in values.iter_mut().zip(row) {
        *value = (round(*x, per_step) as u8).wrapping_add(SHIFT);
    }
    step
}

impl Narrow for Rounded {
    fn rows(&self) -> usize {
        self.panels.rows()
    }

    fn cols(&self) -> usize {
        self.panels.cols()
    }

    fn multiply(&self, c: ViewMut, a: View, cols: Range<usize>, accumulate: bool) {
        super::check_shapes(&c, a, self.rows(), cols.len());
        ROWS_OF_A.with_borrow_mut(|rows| {
            rows.fill(a);
            self.panels.multiply(
                c,
                &rows.values,
                cols,
                |sums, values, weights| multiply_tile(sums, values, weights, self.fast),
                |sums, mut tile, [row, col]| {
                    let steps = &self.steps[col..col + PANEL];
                    let shifts = &self.shifts[col..col + PANEL];
                    simd(
                        #[inline(always)]
                        || {
                            for (i, sums) in sums.iter().enumerate() {
                                let own = rows.steps[row + i];
                                finish(tile.row_mut(i), sums, own, steps, shifts, accumulate);
                            }
                        },
                    );
                },
            );
        });
    }
}

/// Sums as numbers, in `out` or added to it.
#[inline(always)]
fn finish(
    out: &mut [f32],
    sums: &[i32; PANEL],
    own: f32,
    steps: &[f32],
    shifts: &[i32],
    accumulate: bool,
) {
    let columns = sums.iter().zip(steps).zip(shifts);
    for (out, ((sum, step), shift)) in out.iter_mut().zip(columns) {
        let value = (sum - shift) as f32 * own * step;
        *out = if accumulate { *out + value } else { value };
    }
}

/// Sums of a tile, of as many rows as `sums` has.
fn multiply_tile(sums: &mut [[i32; PANEL]], values: &[u8], weights: &[Bytes], fast: bool) {
    let stride = weights.len() / 2 * GROUP;
    #[cfg(target_arch = "x86_64")]
    if fast {
        assert!(values.len() >= sums.len() * stride);
        let tile = x86::TILES[sums.len() - 1];
        // SAFETY: `int8_pays` found the instructions, and the sizes were checked above.
        unsafe { tile(sums.as_mut_ptr(), values.as_ptr(), weights) };
        return;
    }
    let _ = fast;
    for (sums, values) in sums.iter_mut().zip(values.chunks_exact(stride.max(1))) {
        for (group, lines) in values.chunks_exact(GROUP).zip(weights.chunks_exact(2)) {
            for (half, line) in lines.iter().enumerate() {
                for (sum, column) in sums[16 * half..].iter_mut().zip(line.0.chunks_exact(GROUP)) {
                    let products = group.iter().zip(column);
                    *sum += products
                        .map(|(a, b)| i32::from(*a) * i32::from(*b))
                        .sum::<i32>();
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::narrow::{ROWS, tiles};
    use super::{Bytes, GROUP, PANEL};

    /// # Safety
    /// The processor has the instructions; there are as many rows of sums and of values as the function is for, rows
    /// of values being as long as the weights have rows.
    type TileFn = unsafe fn(*mut [i32; PANEL], *const u8, &[Bytes]);

    pub(super) const TILES: [TileFn; ROWS] = tiles!(tile);

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn tile<const COUNT: usize>(
        sums: *mut [i32; PANEL],
        values: *const u8,
        weights: &[Bytes],
    ) {
        let groups = weights.len() / 2;
        let stride = groups * GROUP;
        // SAFETY: promised by the caller.
        unsafe {
            let mut totals = [[_mm512_setzero_si512(); 2]; COUNT];
            for group in 0..groups {
                let line = weights.as_ptr().add(2 * group).cast::<__m512i>();
                let columns = [_mm512_load_si512(line), _mm512_load_si512(line.add(1))];
                for (i, total) in totals.iter_mut().enumerate() {
                    let four = values.add(i * stride + group * GROUP).cast::<i32>();
                    let four = _mm512_set1_epi32(four.read_unaligned());
                    total[0] = _mm512_dpbusd_epi32(total[0], four, columns[0]);
                    total[1] = _mm512_dpbusd_epi32(total[1], four, columns[1]);
                }
            }
            for (i, total) in totals.iter().enumerate() {
                let out = sums.add(i).cast::<__m512i>();
                _mm512_storeu_si512(out, total[0]);
                _mm512_storeu_si512(out.add(1), total[1]);
            }
        }
    }
}
