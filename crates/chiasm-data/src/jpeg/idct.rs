//! From coefficients to samples: the accurate integer transform of libjpeg ("islow").
//!
//! Loeffler, Ligtenberg and Moschytz's algorithm with 13 fractional bits and two bits kept between
//! the passes. The roundings are part of the result. Plain loops over eight lanes; the dispatch lets
//! the compiler use the vectors that the machine has.

use super::Block;
use crate::simd::simd;

const CONST_BITS: u32 = 13;
const PASS1_BITS: u32 = 2;

/// A row of blocks to eight rows of samples, `row.len() * 8` each.
pub(super) fn transform_row(row: &[Block<i16>], steps: &Block<i32>, samples: &mut [u8]) {
    simd(
        #[inline(always)]
        move || {
            let samples = samples;
            let stride = row.len() * 8;
            for (index, block) in row.iter().enumerate() {
                transform(block, steps, &mut *samples, index * 8, stride);
            }
        },
    );
}

#[inline(always)]
fn transform(block: &Block<i16>, steps: &Block<i32>, samples: &mut [u8], x: usize, stride: usize) {
    let mut values = [0u8; 64];
    if block.iter().skip(1).fold(0, |all, value| all | value) == 0 {
        // Only the mean: both passes reduce to this.
        let mean = i32::from(block[0]).wrapping_mul(steps[0]);
        values.fill(sample(mean.wrapping_add(4) >> 3));
    } else {
        let mut work = [0i32; 64];
        for ((work, value), step) in work.iter_mut().zip(block).zip(steps) {
            *work = i32::from(*value).wrapping_mul(*step);
        }
        let work = transpose(&pass::<{ CONST_BITS - PASS1_BITS }>(&work));
        let work = transpose(&pass::<{ CONST_BITS + PASS1_BITS + 3 }>(&work));
        for (out, value) in values.iter_mut().zip(&work) {
            *out = sample(*value);
        }
    }
    for (line, values) in samples.chunks_exact_mut(stride).zip(values.chunks_exact(8)) {
        if let Some(out) = line.get_mut(x..x + 8) {
            out.copy_from_slice(values);
        }
    }
}

#[inline(always)]
fn sample(value: i32) -> u8 {
    value.wrapping_add(128).clamp(0, 255) as u8
}

#[inline(always)]
fn transpose(values: &[i32; 64]) -> [i32; 64] {
    let mut out = [0; 64];
    for row in 0..8 {
        for column in 0..8 {
            out[column * 8 + row] = values[row * 8 + column];
        }
    }
    out
}

/// One dimension, eight columns side by side. Sums wrap: only damaged files reach that far.
#[inline(always)]
fn pass<const SHIFT: u32>(input: &[i32; 64]) -> [i32; 64] {
    let mut out = [0; 64];
    for column in 0..8 {
        let at = |row: usize| input[row * 8 + column];
        let times = |value: i32, constant: i32| value.wrapping_mul(constant);
        let add = |a: i32, b: i32| a.wrapping_add(b);
        let sub = |a: i32, b: i32| a.wrapping_sub(b);

        // Even part.
        let shared = times(add(at(2), at(6)), 4433);
        let even2 = sub(shared, times(at(6), 15137));
        let even3 = add(shared, times(at(2), 6270));
        let even0 = add(at(0), at(4)).wrapping_shl(CONST_BITS);
        let even1 = sub(at(0), at(4)).wrapping_shl(CONST_BITS);
        let even = [
            add(even0, even3),
            add(even1, even2),
            sub(even1, even2),
            sub(even0, even3),
        ];

        // Odd part.
        let (o7, o5, o3, o1) = (at(7), at(5), at(3), at(1));
        let shared = times(add(add(o7, o3), add(o5, o1)), 9633);
        let z1 = times(add(o7, o1), -7373);
        let z2 = times(add(o5, o3), -20995);
        let z3 = add(times(add(o7, o3), -16069), shared);
        let z4 = add(times(add(o5, o1), -3196), shared);
        let odd = [
            add(times(o1, 12299), add(z1, z4)),
            add(times(o3, 25172), add(z2, z3)),
            add(times(o5, 16819), add(z2, z4)),
            add(times(o7, 2446), add(z1, z3)),
        ];

        let half = 1 << (SHIFT - 1);
        for row in 0..4 {
            out[row * 8 + column] = add(add(even[row], odd[row]), half) >> SHIFT;
            out[(7 - row) * 8 + column] = add(sub(even[row], odd[row]), half) >> SHIFT;
        }
    }
    out
}
