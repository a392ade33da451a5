use std::iter::repeat_with;
use std::sync::Arc;

use rayon::ThreadPoolBuilder;

use super::bf16::Halved;
use super::int8::Rounded;
use super::narrow::Narrow;
use super::shelf::{Kept, find};
use super::*;
use crate::packed::Precision;

/// Value of every element that lies between and after the rows of a result.
const UNTOUCHED: f32 = 12345.0;

/// Numbers by a linear congruence: a test that fails must fail again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        let (transposed, gap) = (self.flag(), self.below(4));
        let (lines, len) = if transposed {
            (cols, rows)
        } else {
            (rows, cols)
        };
        let stride = len + gap;
        // A product that reads between the rows is not a number.
        let mut data = vec![f32::NAN; lines * stride];
        for (i, element) in data.iter_mut().enumerate() {
            if i % stride < len {
                *element = self.below(2001) as f32 / 1000.0 - 1.0;
            }
        }
        // The last row may end where the data end.
        data.truncate((lines * stride).saturating_sub(gap));
        Matrix {
            data,
            lines,
            len,
            stride,
            transposed,
        }
    }
}

struct Matrix {
    data: Vec<f32>,
    lines: usize,
    len: usize,
    stride: usize,
    transposed: bool,
}

impl Matrix {
    fn view(&self) -> View<'_> {
        let view = View::strided(&self.data, self.lines, self.len, self.stride);
        if self.transposed { view.t() } else { view }
    }
}

impl View<'_> {
    fn get(&self, i: usize, j: usize) -> f64 {
        let part = self.block(i..i + 1, j..j + 1);
        f64::from(if part.is_row_major() {
            part.row(0)[0]
        } else {
            part.t().row(0)[0]
        })
    }
}

/// A product by any of the functions, into a result that has `gap` elements after every row.
struct Case {
    a: Matrix,
    b: Matrix,
    before: f32,
    gap: usize,
}

impl Case {
    fn random(random: &mut Random, [m, k, n]: [usize; 3]) -> Self {
        Self {
            a: random.matrix(m, k),
            b: random.matrix(k, n),
            before: random.below(10) as f32,
            gap: random.below(4),
        }
    }

    fn shape(&self) -> [usize; 3] {
        let (a, b) = (self.a.view(), self.b.view());
        [a.rows(), a.cols(), b.cols()]
    }

    /// The elements of `C`, from `multiply`, which must leave the gaps alone.
    fn run(&self, multiply: impl FnOnce(ViewMut, View, View)) -> Vec<f32> {
        let [m, _, n] = self.shape();
        let stride = n + self.gap;
        let mut c = vec![UNTOUCHED; m * stride];
        for row in c.chunks_exact_mut(stride.max(1)) {
            row[..n].fill(self.before);
        }
        multiply(
            ViewMut::strided(&mut c, m, n, stride),
            self.a.view(),
            self.b.view(),
        );
        let rows = c.chunks_exact(stride.max(1));
        assert!(
            rows.clone()
                .all(|row| row[n..].iter().all(|&x| x == UNTOUCHED))
        );
        rows.flat_map(|row| &row[..n]).copied().collect()
    }

    /// Compares with three nested loops in `f64`.
    fn check(&self, name: &str, found: &[f32], factors: Factors) {
        let [m, k, n] = self.shape();
        let (a, b) = (self.a.view(), self.b.view());
        for i in 0..m {
            for j in 0..n {
                let product: f64 = (0..k).map(|p| a.get(i, p) * b.get(p, j)).sum();
                let before = if factors.accumulate {
                    f64::from(self.before)
                } else {
                    0.0
                };
                let expected = f64::from(factors.alpha) * product + before;
                // Sums of products below 1: each of `k` roundings errs by half a unit of the sum so
                // far, which stays far below `k` itself.
                let tolerance = 1e-6 * (k as f64 + 10.0);
                let found = f64::from(found[i * n + j]);
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{name}, {m} x {k} x {n}, element ({i}, {j}): {found} instead of {expected}"
                );
            }
        }
    }
}

/// Shapes with every kind of edge: none, one, parts of a tile, several tiles, blocks and one more.
fn shapes(random: &mut Random) -> Vec<[usize; 3]> {
    let mut shapes: Vec<_> =
        repeat_with(|| [0; 3].map(|_| random.below(if cfg!(miri) { 12 } else { 80 })))
            .take(60)
            .collect();
    if !cfg!(miri) {
        shapes.extend([
            [1, 1, 1],
            [0, 5, 5],
            [5, 0, 5],
            [5, 5, 0],
            [65, 64, 65],
            [ROWS + 1, DEPTH, COLS],
            [3, 2 * DEPTH + 1, COLS + 1],
            [2 * ROWS, DEPTH - 1, 33],
        ]);
    }
    shapes
}

#[test]
fn every_function_on_every_kernel_against_a_naive_product() {
    let mut random = Random(1);
    for kernel in Kernel::available() {
        for shape in shapes(&mut random) {
            let case = Case::random(&mut random, shape);
            let accumulate = random.flag();
            let factors = Factors {
                alpha: 1.0,
                accumulate,
            };
            let halved = Factors {
                alpha: 0.5,
                accumulate,
            };

            let serial = case.run(|c, a, b| multiply_serial_with(&kernel, c, a, b, factors));
            case.check(kernel.name, &serial, factors);
            let scaled = case.run(|c, a, b| multiply_serial_with(&kernel, c, a, b, halved));
            case.check(kernel.name, &scaled, halved);

            // The others promise the same bits.
            let parallel = case.run(|c, a, b| multiply_with(&kernel, c, a, b, accumulate));
            assert_eq!(parallel, serial, "{} {shape:?}", kernel.name);
            let packed = case.run(|c, a, b| {
                let cols = 0..b.cols();
                multiply_packed(c, a, &Packed::with_kernel(kernel, b), cols, accumulate);
            });
            assert_eq!(packed, serial, "{} {shape:?}", kernel.name);
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let mut random = Random(2);
    let case = Case::random(&mut random, [150, 2 * DEPTH + 3, 170]);
    let [one, two, five] = [1, 2, 5].map(|threads| {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        case.run(|c, a, b| pool.install(|| multiply(c, a, b, true)))
    });
    assert_eq!(one, two);
    assert_eq!(one, five);
}

#[test]
fn the_split_of_rows_does_not_change_a_bit() {
    let mut random = Random(3);
    let [m, k, n] = [2 * ROWS + 9, DEPTH + 20, 75];
    let case = Case::random(&mut random, [m, k, n]);
    let packed = Packed::new(case.b.view());
    let whole = case.run(|c, a, _| multiply_packed(c, a, &packed, 0..n, false));
    for blocks in [1, 2] {
        let right = case.run(|c, a, b| multiply_right(c, a, &Right::new(b, blocks), false));
        assert_eq!(whole, right, "{blocks} blocks");
    }
    for size in [1, 13, 14, 100] {
        let split = case.run(|c, a, _| {
            let mut below = c;
            for rows in blocks(m, size) {
                let band;
                (band, below) = below.split_at_row(rows.len());
                multiply_packed(band, a.block(rows, 0..k), &packed, 0..n, false);
            }
        });
        assert_eq!(whole, split, "rows by {size}");
    }
}

#[test]
fn weights_on_the_shelf_are_packed_once_and_change_no_bit() {
    let mut random = Random(5);
    for [m, k, n] in [[1, 7, 5], [12, DEPTH + 3, 300], [70, 2 * DEPTH, 33]] {
        let dense: Vec<f32> = (0..k * n)
            .map(|_| random.below(2001) as f32 / 1000.0 - 1.0)
            .collect();
        let case = Case::random(&mut random, [m, k, n]);
        let by = |b: View, blocks| {
            case.run(|c, a, _| multiply_right(c, a, &Right::new(b, blocks), true))
        };
        let b = View::new(&dense, k, n);
        let without = [1, 3].map(|blocks| by(b, blocks));
        assert!(find(b).is_none());
        put(&dense, Precision::F32);
        put(&dense, Precision::F32);
        let Some(Kept::Whole(first)) = find(b) else {
            panic!("packed as it is");
        };
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let with = pool.install(|| [1, 3].map(|blocks| by(b, blocks)));
            assert_eq!(without, with, "{m} {k} {n}, {threads} threads");
        }
        assert!(matches!(find(b), Some(Kept::Whole(again)) if Arc::ptr_eq(&first, &again)));
        // Only the whole matrix as it is.
        assert!(find(b.t()).is_none() && find(b.block(0..k, 1..n)).is_none());
        take_off(&dense);
        assert!(find(b).is_some());
        take_off(&dense);
        assert!(find(b).is_none());
    }
}

/// In 8 bits: the same bits from instructions and from plain loops, however columns and rows are split; as far from
/// the product as half a step of either side allows.
#[test]
fn eight_bits() {
    let mut random = Random(6);
    for [m, k, n] in [
        [1, 1, 1],
        [3, 7, 5],
        [12, 130, 33],
        [29, 384, 100],
        [15, 64, 64],
    ] {
        let mut numbers = |count| -> Vec<f32> {
            let number = |_| random.below(2001) as f32 / 1000.0 - 1.0;
            (0..count).map(number).collect()
        };
        let (a, b) = (numbers(m * k), numbers(k * n));
        let before = numbers(m * n);
        let (a_view, b_view) = (View::new(&a, m, k), View::new(&b, k, n));
        let whole = |fast: bool| {
            let mut c = before.clone();
            let rounded = Rounded::with(b_view, fast);
            rounded.multiply(ViewMut::new(&mut c, m, n), a_view, 0..n, true);
            c
        };
        let expected = whole(false);
        if int8_pays() {
            assert_eq!(whole(true), expected);
        }
        put(&b, Precision::Int8);
        for blocks in [1, 3] {
            let right = Right::new(b_view, blocks);
            assert!(matches!(right, Right::Narrow { .. }));
            let mut c = before.clone();
            for (i, row) in c.chunks_exact_mut(n).enumerate() {
                let own = a_view.block(i..i + 1, 0..k);
                multiply_right(ViewMut::new(row, 1, n), own, &right, true);
            }
            assert_eq!(c, expected, "{m} {k} {n} {blocks}");
        }
        take_off(&b);
        for i in 0..m {
            for j in 0..n {
                let products = (0..k).map(|l| (a[i * k + l], b[l * n + j]));
                let exact: f32 = products.clone().map(|(x, y)| x * y).sum();
                let sum: f32 = products.map(|(x, y)| x.abs() + y.abs()).sum();
                let gap = (expected[i * n + j] - before[i * n + j] - exact).abs();
                assert!(gap <= sum / 254.0 * 1.01 + 1e-5, "{gap} of {sum}");
            }
        }
    }
}

#[test]
fn sixteen_bits() {
    let mut random = Random(9);
    for [m, k, n] in [[1, 1, 1], [3, 7, 5], [29, 131, 100], [15, 64, 64]] {
        let mut numbers = |count| -> Vec<f32> {
            let number = |_| random.below(2001) as f32 / 1000.0 - 1.0;
            (0..count).map(number).collect()
        };
        let (a, b) = (numbers(m * k), numbers(k * n));
        let (a_view, b_view) = (View::new(&a, m, k), View::new(&b, k, n));
        for fast in [false, bf16_pays()] {
            let mut c = vec![9.0; m * n];
            let halved = Halved::with(b_view, fast);
            halved.multiply(ViewMut::new(&mut c, m, n), a_view, 0..n, false);
            let before = c.clone();
            halved.multiply(ViewMut::new(&mut c, m, n), a_view, 0..n, true);
            for (at, value) in c.into_iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let products = (0..k).map(|l| (a[i * k + l], b[l * n + j]));
                let exact: f32 = products.clone().map(|(x, y)| x * y).sum();
                let sum: f32 = products.map(|(x, y)| (x * y).abs()).sum();
                let gap = (before[at] - exact).abs();
                assert!(gap <= sum / 256.0 * 1.01 + 1e-6, "{gap} of {sum}");
                assert!((value - 2.0 * before[at]).abs() <= 1e-5, "{value}");
            }
        }
    }
    // What 8 bits of a number can hold is exact, infinities and what is no number stay what they are.
    let a = [1.5, -0.25, f32::INFINITY, f32::NAN, 3e38, 0.0];
    let one = [1.0];
    let mut c = [0.0; 6];
    let halved = Halved::with(View::new(&one, 1, 1), false);
    halved.multiply(ViewMut::new(&mut c, 6, 1), View::new(&a, 6, 1), 0..1, false);
    assert_eq!(c[..3], a[..3]);
    assert!(c[3].is_nan() && (c[4] / 3e38 - 1.0).abs() < 0.004 && c[5] == 0.0);
}

/// What is no number stays none, in its row or its column and nowhere else.
#[test]
fn eight_bits_of_no_numbers() {
    let [m, k, n] = [3, 8, 40];
    let (mut a, mut b) = (vec![0.5; m * k], vec![0.25; k * n]);
    a[k + 2] = f32::INFINITY;
    b[3 * n + 7] = f32::NAN;
    a[2 * k..].fill(0.0);
    let rounded = Rounded::new(View::new(&b, k, n));
    let mut c = vec![9.0; m * n];
    let out = ViewMut::new(&mut c, m, n);
    rounded.multiply(out, View::new(&a, m, k), 0..n, false);
    for (at, value) in c.into_iter().enumerate() {
        let (i, j) = (at / n, at % n);
        let expected = if i == 2 { 0.0 } else { 1.0 };
        match i == 1 || j == 7 {
            true => assert!(value.is_nan(), "{i} {j} {value}"),
            false => assert!((value - expected).abs() < 1e-6, "{i} {j} {value}"),
        }
    }
}

#[test]
fn nothing_to_sum_gives_zeros_or_leaves_the_result() {
    let mut c = [7.0; 6];
    multiply_serial(
        ViewMut::new(&mut c, 2, 3),
        View::new(&[], 2, 0),
        View::new(&[], 0, 3),
        1.0,
        true,
    );
    assert_eq!(c, [7.0; 6]);
    multiply(
        ViewMut::new(&mut c, 2, 3),
        View::new(&[], 2, 0),
        View::new(&[], 0, 3),
        false,
    );
    assert_eq!(c, [0.0; 6]);
}

#[test]
fn what_is_not_finite_stays_in_its_row_and_column() {
    for kernel in Kernel::available() {
        let (mut a, mut b) = (vec![1.0; 20 * 3], vec![1.0; 3 * 40]);
        a[4 * 3] = f32::NAN;
        b[2 * 40 + 33] = f32::INFINITY;
        let mut c = vec![0.0; 20 * 40];
        let (a, b) = (View::new(&a, 20, 3), View::new(&b, 3, 40));
        multiply_packed(
            ViewMut::new(&mut c, 20, 40),
            a,
            &Packed::with_kernel(kernel, b),
            0..40,
            false,
        );
        for (i, row) in c.chunks(40).enumerate() {
            for (j, &element) in row.iter().enumerate() {
                match (i, j) {
                    (4, _) => assert!(element.is_nan()),
                    (_, 33) => assert_eq!(element, f32::INFINITY),
                    _ => assert_eq!(element, 3.0),
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "needs more than 11 elements")]
fn a_view_beyond_its_data_is_refused() {
    View::strided(&[0.0; 11], 3, 2, 5);
}

#[test]
#[should_panic(expected = "does not give c [2, 2]")]
fn shapes_that_do_not_fit_are_refused() {
    let mut c = [0.0; 4];
    multiply(
        ViewMut::new(&mut c, 2, 2),
        View::new(&[0.0; 6], 2, 3),
        View::new(&[0.0; 8], 4, 2),
        false,
    );
}
