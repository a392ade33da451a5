//! Inner products of many rows with some vectors: the whole work of clustering and probing.
//!
//! Rows are padded with zeros to whole [`LANES`]. A product keeps as many partial sums as the machine's vectors have
//! lanes, added in a fixed order: its result does not depend on the number of threads, though its last digits do on the
//! width of the vectors.

use pulp::{Simd, WithSimd};

/// What rows are padded to: one 512-bit register of f32.
pub(crate) const LANES: usize = 16;
/// Rows of a task: few enough to lie in a core's cache while all vectors pass over them.
pub(crate) const BLOCK: usize = 32;
/// Columns of one pass of [`accumulate`].
const SLICE: usize = 128;
/// Rows and vectors of a tile, whose sums are kept in registers.
const TILE: [usize; 2] = [2, 4];

/// The width to which rows of `width` are padded.
pub(crate) fn padded(width: usize) -> usize {
    width.next_multiple_of(LANES)
}

/// `row . vector` for every row and vector, `[rows, vectors]`.
///
/// `rows` and `vectors` are `[.., stride]` with a `stride` of whole lanes.
pub(crate) fn products(rows: &[f32], vectors: &[f32], stride: usize, out: &mut [f32]) {
    pulp::Arch::new().dispatch(Products {
        rows,
        vectors,
        stride,
        out,
    });
}

/// Adds `factors[row, vector] * row` to each of `sums`, `[vectors, stride]`; rows in order.
pub(crate) fn accumulate(rows: &[f32], factors: &[f64], stride: usize, sums: &mut [f64]) {
    pulp::Arch::new().dispatch(Accumulate {
        rows,
        factors,
        stride,
        sums,
    });
}

/// Squared length of a padded row, or of the difference of two.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    pulp::Arch::new().dispatch(Difference { a, b })
}

// Structs, not closures: the call of a closure that only borrows goes through a shim of the compiler's, which is not
// inlined and so loses the vectors.

struct Products<'a> {
    rows: &'a [f32],
    vectors: &'a [f32],
    stride: usize,
    out: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        tiles(simd, self.rows, self.vectors, self.stride, self.out);
    }
}

struct Accumulate<'a> {
    rows: &'a [f32],
    factors: &'a [f64],
    stride: usize,
    sums: &'a mut [f64],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let stride = self.stride;
        let vectors = self.sums.len() / stride;
        // A slice of the columns at a time, so that its sums stay in the innermost cache.
        for start in (0..stride).step_by(SLICE) {
            let columns = start..stride.min(start + SLICE);
            let rows = self.rows.chunks_exact(stride);
            for (row, factors) in rows.zip(self.factors.chunks_exact(vectors)) {
                let sums = self.sums.chunks_exact_mut(stride);
                for (sums, factor) in sums.zip(factors) {
                    let into = sums[columns.clone()].iter_mut();
                    for (sum, value) in into.zip(&row[columns.clone()]) {
                        *sum = f64::from(*value).mul_add(*factor, *sum);
                    }
                }
            }
        }
    }
}

struct Difference<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl WithSimd for Difference<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (a, b) = (S::as_simd_f32s(self.a).0, S::as_simd_f32s(self.b).0);
        let mut sums = simd.splat_f32s(0.0);
        for (a, b) in a.iter().zip(b) {
            let difference = simd.sub_f32s(*a, *b);
            sums = simd.mul_add_e_f32s(difference, difference, sums);
        }
        simd.reduce_sum_f32s(sums)
    }
}

#[inline(always)]
fn tiles<S: Simd>(simd: S, rows: &[f32], vectors: &[f32], stride: usize, out: &mut [f32]) {
    let count = vectors.len() / stride;
    let row_count = rows.len() / stride;
    let row = |index: usize| S::as_simd_f32s(&rows[index * stride..][..stride]).0;
    let vector = |index: usize| S::as_simd_f32s(&vectors[index * stride..][..stride]).0;
    // Vectors outside: a group of them stays in the innermost cache while the block's rows pass.
    let mut v = 0;
    while v < count {
        let whole = v + TILE[1] <= count;
        let mut r = 0;
        while r < row_count {
            let pair = r + TILE[0] <= row_count;
            match (pair, whole) {
                (true, true) => {
                    let sums = tile(
                        simd,
                        [row(r), row(r + 1)],
                        [vector(v), vector(v + 1), vector(v + 2), vector(v + 3)],
                    );
                    for (offset, sums) in sums.into_iter().enumerate() {
                        out[(r + offset) * count + v..][..TILE[1]].copy_from_slice(&sums);
                    }
                }
                (false, true) => {
                    let [sums] = tile(
                        simd,
                        [row(r)],
                        [vector(v), vector(v + 1), vector(v + 2), vector(v + 3)],
                    );
                    out[r * count + v..][..TILE[1]].copy_from_slice(&sums);
                }
                (true, false) => {
                    let [[first], [second]] = tile(simd, [row(r), row(r + 1)], [vector(v)]);
                    out[r * count + v] = first;
                    out[(r + 1) * count + v] = second;
                }
                (false, false) => {
                    let [[sum]] = tile(simd, [row(r)], [vector(v)]);
                    out[r * count + v] = sum;
                }
            }
            r += if pair { TILE[0] } else { 1 };
        }
        v += if whole { TILE[1] } else { 1 };
    }
}

/// Products of `R` rows with `V` vectors.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: [&[S::f32s]; R],
    vectors: [&[S::f32s]; V],
) -> [[f32; V]; R] {
    let steps = rows[0].len();
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for step in 0..steps {
        for r in 0..R {
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(rows[r][step], vectors[v][step], sums[r][v]);
            }
        }
    }
    let mut out = [[0.0; V]; R];
    for r in 0..R {
        for v in 0..V {
            out[r][v] = simd.reduce_sum_f32s(sums[r][v]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_tile_gives_the_plain_sum(rows in 0usize..6, vectors in 1usize..10, lanes in 1usize..4, seed: u64) {
            let stride = lanes * LANES;
            let mut rng = chiasm_data::rng::stream(seed, "test", &[]);
            let mut draw = |count: usize| -> Vec<f32> {
                (0..count * stride).map(|_| chiasm_data::rng::uniform(&mut rng, -1.0, 1.0) as f32).collect()
            };
            let (x, c) = (draw(rows), draw(vectors));
            let mut out = vec![f32::NAN; rows * vectors];
            products(&x, &c, stride, &mut out);
            for r in 0..rows {
                for v in 0..vectors {
                    let dot: f64 = (0..stride).map(|i| f64::from(x[r * stride + i]) * f64::from(c[v * stride + i])).sum();
                    prop_assert!((f64::from(out[r * vectors + v]) - dot).abs() < 1e-4);
                }
            }
        }
    }
}
