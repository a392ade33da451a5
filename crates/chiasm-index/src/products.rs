//! Inner products of rows with queries: the whole work of a search.
//!
//! A product is summed in the same order whatever is computed beside it, so exact search, approximate search and
//! searches for several queries at once give the same bits. The last digits depend on the width of the machine's
//! vectors, and on nothing else.

use pulp::{Simd, WithSimd};

/// `row . query` for every row and query, `[queries, rows]`; both are `[.., stride]` with a `stride` of whole lanes.
pub(crate) fn products(rows: &[f32], queries: &[f32], stride: usize, out: &mut [f32]) {
    pulp::Arch::new().dispatch(Block {
        rows,
        queries,
        stride,
        out,
    });
}

/// `row . query` for the rows of these numbers; a row that is not there gives NaN.
pub(crate) fn gather(vectors: &[f32], numbers: &[u32], query: &[f32], out: &mut Vec<f32>) {
    pulp::Arch::new().dispatch(Gather {
        vectors,
        numbers,
        query,
        out,
    });
}

// Structs, not closures: the call of a closure that only borrows goes through a shim of the compiler's, which is not
// inlined and so loses the vectors.

struct Block<'a> {
    rows: &'a [f32],
    queries: &'a [f32],
    stride: usize,
    out: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let stride = self.stride;
        let count = self.rows.len() / stride;
        if count == 0 {
            return;
        }
        // Four queries at a time lie in the innermost cache while the rows pass; a row is fetched once for all four.
        let groups = self.queries.chunks(4 * stride);
        for (queries, out) in groups.zip(self.out.chunks_mut(4 * count)) {
            if queries.len() == 4 * stride {
                let vectors = split::<S, 4>(queries, stride);
                for (at, row) in self.rows.chunks_exact(stride).enumerate() {
                    let [sums] = tile(simd, [S::as_simd_f32s(row).0], vectors);
                    for (out, sum) in out.chunks_exact_mut(count).zip(sums) {
                        if let Some(out) = out.get_mut(at) {
                            *out = sum;
                        }
                    }
                }
                continue;
            }
            for (query, out) in queries
                .chunks_exact(stride)
                .zip(out.chunks_exact_mut(count))
            {
                let query = [S::as_simd_f32s(query).0];
                // Four sums at once: one would wait for itself. Their rows lie far apart: a new page of memory is
                // waited for, and so four are waited for at a time.
                let part = count / 4;
                let (fours, rest) = self.rows.split_at(4 * part * stride);
                let (four_sums, rest_sums) = out.split_at_mut(4 * part);
                let [a, b, c, d] = quarters(fours, part * stride);
                let rows = a.chunks_exact(stride).zip(b.chunks_exact(stride));
                let rows = rows.zip(c.chunks_exact(stride).zip(d.chunks_exact(stride)));
                for (at, ((a, b), (c, d))) in rows.enumerate() {
                    let rows = [a, b, c, d].map(|row| S::as_simd_f32s(row).0);
                    for (place, [sum]) in tile(simd, rows, query).into_iter().enumerate() {
                        if let Some(out) = four_sums.get_mut(place * part + at) {
                            *out = sum;
                        }
                    }
                }
                for (row, out) in rest.chunks_exact(stride).zip(rest_sums) {
                    [[*out]] = tile(simd, [S::as_simd_f32s(row).0], query);
                }
            }
        }
    }
}

struct Gather<'a> {
    vectors: &'a [f32],
    numbers: &'a [u32],
    query: &'a [f32],
    out: &'a mut Vec<f32>,
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let stride = self.query.len();
        let query = [S::as_simd_f32s(self.query).0];
        let row = |number: u32| {
            let start = (number as usize).checked_mul(stride)?;
            let row = self.vectors.get(start..start.checked_add(stride)?)?;
            Some(S::as_simd_f32s(row).0)
        };
        self.out.clear();
        let (fours, rest) = self.numbers.as_chunks::<4>();
        for [a, b, c, d] in fours {
            if let (Some(a), Some(b), Some(c), Some(d)) = (row(*a), row(*b), row(*c), row(*d)) {
                let sums = tile(simd, [a, b, c, d], query);
                self.out.extend(sums.into_iter().flatten());
            } else {
                for number in [a, b, c, d] {
                    let sum = row(*number).map_or(f32::NAN, |row| tile(simd, [row], query)[0][0]);
                    self.out.push(sum);
                }
            }
        }
        for number in rest {
            let sum = row(*number).map_or(f32::NAN, |row| tile(simd, [row], query)[0][0]);
            self.out.push(sum);
        }
    }
}

/// Four parts of as many elements each.
fn quarters(all: &[f32], each: usize) -> [&[f32]; 4] {
    let (a, rest) = all.split_at(each);
    let (b, rest) = rest.split_at(each);
    let (c, d) = rest.split_at(each);
    [a, b, c, d]
}

/// `N` rows side by side as vectors.
#[inline(always)]
fn split<S: Simd, const N: usize>(rows: &[f32], stride: usize) -> [&[S::f32s]; N] {
    std::array::from_fn(|at| S::as_simd_f32s(&rows[at * stride..][..stride]).0)
}

/// Products of `R` rows with `Q` queries.
#[inline(always)]
fn tile<S: Simd, const R: usize, const Q: usize>(
    simd: S,
    rows: [&[S::f32s]; R],
    queries: [&[S::f32s]; Q],
) -> [[f32; Q]; R] {
    let steps = rows[0].len();
    let rows = rows.map(|row| &row[..steps]);
    let queries = queries.map(|query| &query[..steps]);
    let mut sums = [[simd.splat_f32s(0.0); Q]; R];
    for step in 0..steps {
        for r in 0..R {
            for q in 0..Q {
                sums[r][q] = simd.mul_add_e_f32s(rows[r][step], queries[q][step], sums[r][q]);
            }
        }
    }
    sums.map(|sums| sums.map(|sum| simd.reduce_sum_f32s(sum)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_way_gives_the_same_bits_and_the_plain_sum(
            rows in 0_usize..11,
            queries in 1_usize..10,
            lanes in 1_usize..4,
            values in proptest::collection::vec(-1.0_f32..1.0, 19 * 48),
        ) {
            let stride = lanes * crate::layout::LANES;
            let (x, rest) = values.split_at(rows * stride);
            let q = &rest[..queries * stride];
            let mut out = vec![f32::NAN; rows * queries];
            products(x, q, stride, &mut out);
            let numbers: Vec<u32> = (0..rows as u32).collect();
            for (query, out) in q.chunks_exact(stride).zip(out.chunks(rows.max(1))) {
                let mut gathered = Vec::new();
                gather(x, &numbers, query, &mut gathered);
                for (at, row) in x.chunks_exact(stride).enumerate() {
                    let plain: f64 = row.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    prop_assert!((f64::from(out[at]) - plain).abs() < 1e-4);
                    prop_assert_eq!(out[at].to_bits(), gathered[at].to_bits());
                }
            }
        }
    }

    #[test]
    fn rows_that_are_not_there_have_no_product() {
        let mut out = Vec::new();
        gather(&[1.0; 32], &[0, u32::MAX, 2, 1, 9], &[1.0; 16], &mut out);
        let finite: Vec<bool> = out.iter().map(|value| value.is_finite()).collect();
        assert_eq!(finite, [true, false, false, true, false]);
    }
}
