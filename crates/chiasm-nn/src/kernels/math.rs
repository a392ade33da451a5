//! The elementary functions of the kernels, and sums over a row, in a form the compiler vectorises.
//!
//! The functions are free of branches and always inlined; loops over them run inside [`simd`],
//! which compiles its closure for the widest vectors of the machine. Sums keep a fixed number of
//! partial sums, so that their order is the same on every machine.

/// Partial sums of a reduction: enough to keep the additions of a row independent of each other.
const LANES: usize = 32;

/// Runs `work` compiled for the widest vectors this processor has.
///
/// Only what is inlined into `work` profits, and `work` itself must be inlined too: write
/// `simd(#[inline(always)] || ..)`, and the same attribute on every helper, or the loops silently
/// become those of the oldest processor. Enter once for a block of rows, not once a row.
#[inline(always)]
pub(crate) fn simd<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// `e^x` within 2 units in the last place; 0 where the result would be below the smallest normal
/// number, no more than 2.4e38, NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// The logarithm of the smallest normal number.
    const LOWEST: f32 = -87.336_54;
    /// A number whose n in [`exp_within`] is still 127, the largest exponent.
    const HIGHEST: f32 = 88.376;

    let value = exp_within(x.clamp(LOWEST, HIGHEST));
    if x < LOWEST { 0.0 } else { value }
}

/// [`exp`] of a number between -87.3 and 88.3.
///
/// `x = n ln 2 + r` with an integer n, and `e^r = 1 + r + r² q(r)`. q is the polynomial for which
/// the relative error of `e^r` is smallest over |r| <= ln 2 / 2, 3e-9: found by the Remez exchange
/// in f64.
#[inline(always)]
fn exp_within(x: f32) -> f32 {
    /// `ln 2` in two parts; n times the first is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Added to a number, rounds it to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const Q: [f32; 5] = [
        0.499_999_94,
        0.166_665_21,
        0.041_668_39,
        0.008_368_745,
        0.001_381_454,
    ];

    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
    let fraction = (r * r).mul_add(polynomial(r, Q), r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    fraction * power
}

/// `c[0] + c[1] x + c[2] x² + ..` by Horner's rule.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let highest_first = coefficients.into_iter().rev();
    highest_first.fold(0.0, |value, c| x.mul_add(value, c))
}

/// An activation at one point; what is not used of it costs nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activated {
    /// The activation itself.
    pub(crate) value: f32,
    /// Its derivative.
    pub(crate) slope: f32,
}

/// GELU in its exact form, `x Phi(x)` with the distribution function Phi of the normal
/// distribution.
///
/// A normal variable exceeds `a = |x|` with probability `e^(-a²/2) p(a)`, where p falls slowly from
/// 1/2. The polynomial for it was found by the Remez exchange in f64, over 0 <= a <= 5.5 with the
/// weight `e^(-a²/2)`: the probability is then within 1.7e-8 (the error function within 3.4e-8),
/// farther out too, where the exponential outweighs any polynomial. The same exponential gives the
/// slope, `Phi(x) + x Phi'(x)`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> Activated {
    /// The probability beyond is 0, but for 1e-32; within, the exponential is a normal number.
    const FAR: f32 = 13.2;
    /// `1 / sqrt(2 pi)`.
    const DENSITY: f32 = 0.398_942_3;
    const P: [f32; 12] = [
        0.499_999_97,
        -0.398_940_6,
        0.249_972_57,
        -0.132_805_8,
        0.061_923_943,
        -0.025_471_829,
        0.009_003_855,
        -0.002_590_092_8,
        0.000_563_652_95,
        -8.477_087e-5,
        7.708_755e-6,
        -3.155_411_7e-7,
    ];

    // Not `min`, which would make a number of NaN.
    let a = if x.abs() > FAR { FAR } else { x.abs() };
    let bell = exp_within(-0.5 * a * a);
    let beyond = bell * polynomial(a, P);
    let bend = (a * DENSITY).mul_add(bell, -beyond);
    let negative = x < 0.0;
    Activated {
        value: (-a).mul_add(beyond, if negative { 0.0 } else { x }),
        slope: if negative { -bend } else { 1.0 + bend },
    }
}

/// CLIP's approximation of GELU, `x sigmoid(1.702 x)`.
#[inline(always)]
pub(crate) fn quick_gelu(x: f32) -> Activated {
    const SHARPNESS: f32 = 1.702;
    let odds = exp(-SHARPNESS * x);
    let share = 1.0 / (1.0 + odds);
    let value = x * share;
    Activated {
        value,
        // `odds * share` is `1 - share` without its rounding.
        slope: (SHARPNESS * value).mul_add(odds * share, share),
    }
}

/// GELU's approximation with a hyperbolic tangent, `x (1 + tanh u) / 2`, which is `x sigmoid(2 u)`,
/// with `u = sqrt(2 / pi) (x + 0.044715 x³)`.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> Activated {
    /// `2 sqrt(2 / pi)`.
    const SHARPNESS: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
    /// The share beyond is 0 or 1 within 1e-38; within, no cube overflows.
    const FAR: f32 = 10.0;
    let near = x.clamp(-FAR, FAR);
    let square = near * near;
    let odds = exp(-SHARPNESS * near * CUBIC.mul_add(square, 1.0));
    let share = 1.0 / (1.0 + odds);
    let value = x * share;
    let bend = SHARPNESS * (3.0 * CUBIC).mul_add(square, 1.0);
    Activated {
        value,
        slope: (bend * near * share).mul_add(odds * share, share),
    }
}

/// The larger of a number and 0; the slope at 0 is 0.
#[inline(always)]
pub(crate) fn relu(x: f32) -> Activated {
    let positive = x > 0.0;
    Activated {
        // Not `max`, which would make a number of NaN.
        value: if x < 0.0 { 0.0 } else { x },
        slope: if positive { 1.0 } else { 0.0 },
    }
}

/// Combines `term` of every element, of N rows of one length at once, with `join`.
///
/// `start` is what `join` does not change. The partial results of whole chunks stand apart from
/// those of the rest, and are halved by functions of constant size: an array that a loop of unknown
/// length indexes lives in memory, and every addition would wait for it.
#[inline(always)]
fn reduce<const N: usize>(
    rows: [&[f32]; N],
    start: f32,
    term: impl Fn([f32; N]) -> f32,
    join: impl Fn(f32, f32) -> f32 + Copy,
) -> f32 {
    let len = rows.first().map_or(0, |row| row.len());
    let rows = rows.map(|row| row[..len].as_chunks::<LANES>());
    let mut rest = [start; LANES];
    for (lane, rest) in rest.iter_mut().enumerate().take(len % LANES) {
        *rest = term(rows.map(|(_, row)| row[lane]));
    }
    let mut lanes = [start; LANES];
    for at in 0..len / LANES {
        let chunks = rows.map(|(chunks, _)| &chunks[at]);
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total = join(*total, term(chunks.map(|chunk| chunk[lane])));
        }
    }
    for (total, rest) in lanes.iter_mut().zip(rest) {
        *total = join(*total, rest);
    }
    let lanes: [f32; LANES / 2] = halve(lanes, join);
    let lanes: [f32; LANES / 4] = halve(lanes, join);
    let lanes: [f32; LANES / 8] = halve(lanes, join);
    let [a, b] = halve(lanes, join);
    join(a, b)
}

/// The first half joined with the second.
#[inline(always)]
fn halve<const N: usize, const H: usize>(
    lanes: [f32; N],
    join: impl Fn(f32, f32) -> f32,
) -> [f32; H] {
    std::array::from_fn(|lane| join(lanes[lane], lanes[lane + H]))
}

/// The sum of `term` of every element of N rows of one length.
#[inline(always)]
pub(crate) fn sum_of<const N: usize>(rows: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    reduce(rows, 0.0, term, |a, b| a + b)
}

/// The sum of a row.
#[inline(always)]
pub(crate) fn sum(row: &[f32]) -> f32 {
    sum_of([row], |[x]| x)
}

/// The inner product of two rows.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of([a, b], |[a, b]| a * b)
}

/// The largest element; negative infinity of an empty row.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    reduce(
        [row],
        f32::NEG_INFINITY,
        |[x]| x,
        |a, b| if a > b { a } else { b },
    )
}

/// Replaces the numbers of a row by their exponentials above the largest one, which is returned.
#[inline(always)]
pub(crate) fn exponentials(row: &mut [f32]) -> f32 {
    let highest = max(row);
    for x in row.iter_mut() {
        *x = exp(*x - highest);
    }
    highest
}

/// Adds `row` to `to`, element by element.
#[inline(always)]
pub(crate) fn add(to: &mut [f32], row: &[f32]) {
    for (to, x) in to.iter_mut().zip(row) {
        *to += x;
    }
}

/// Multiplies every element by `factor`.
#[inline(always)]
pub(crate) fn scale(row: &mut [f32], factor: f32) {
    for x in row {
        *x *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::plain::phi;
    use super::*;

    /// Numbers from `-end` to `end`.
    fn grid(end: f64) -> impl Iterator<Item = f32> {
        (-200_000..=200_000).map(move |i| (f64::from(i) * end / 200_000.0) as f32)
    }

    /// The largest distance of `f` from `exact` on the grid.
    fn worst(end: f64, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let errors = grid(end).map(|x| (f64::from(f(x)) - exact(f64::from(x))).abs());
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_two_units() {
        for x in grid(87.3) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs();
            let unit = f64::from((exact as f32).next_up() - exact as f32);
            assert!(error <= 2.0 * unit, "exp({x}) = {} and not {exact}", exp(x));
        }
    }

    #[test]
    fn exp_has_ends() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-87.4), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::INFINITY) > 2.3e38 && exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_is_close() {
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        assert!(worst(14.0, |x| gelu(x).slope, |x| phi(x) + x * density(x)) < 2e-7);
        for x in grid(14.0).filter(|x| *x != 0.0) {
            // Half of what the error function would be off, and the rounding of the result.
            let error = f64::from(gelu(x).value) / f64::from(x) - phi(f64::from(x));
            assert!(error.abs() < 1e-7, "gelu({x}): {error}");
        }
        assert_eq!(gelu(f32::INFINITY).value, f32::INFINITY);
        assert!(gelu(f32::NEG_INFINITY).value.abs() < 1e-30);
        assert!(gelu(f32::NAN).value.is_nan() && gelu(f32::NAN).slope.is_nan());
    }

    #[test]
    fn quick_gelu_is_close() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-1.702 * x).exp());
        assert!(worst(4.0, |x| quick_gelu(x).value, |x| x * sigmoid(x)) < 5e-7);
        let slope = |x: f64| sigmoid(x) * (1.0 + 1.702 * x * (1.0 - sigmoid(x)));
        assert!(worst(60.0, |x| quick_gelu(x).slope, slope) < 5e-7);
        assert!(quick_gelu(-1e4).value.abs() < 1e-30);
    }

    #[test]
    fn gelu_tanh_is_close() {
        let c = (2.0 / std::f64::consts::PI).sqrt();
        let share = |x: f64| 0.5 * (1.0 + (c * (x + 0.044_715 * x.powi(3))).tanh());
        assert!(worst(4.0, |x| gelu_tanh(x).value, |x| x * share(x)) < 5e-7);
        let bend = |x: f64| 2.0 * c * (1.0 + 3.0 * 0.044_715 * x * x);
        let slope = |x: f64| share(x) * (1.0 + x * bend(x) * (1.0 - share(x)));
        assert!(worst(30.0, |x| gelu_tanh(x).slope, slope) < 5e-7);
        assert!(gelu_tanh(-1e4).value.abs() < 1e-30);
        assert_eq!(gelu_tanh(1e30).value, 1e30);
        assert!(gelu_tanh(f32::NAN).value.is_nan() && relu(f32::NAN).value.is_nan());
    }

    #[test]
    fn sums_of_any_length() {
        for len in [0, 1, 31, 32, 33, 100] {
            let row: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert_eq!(sum(&row), row.iter().sum::<f32>());
            assert_eq!(dot(&row, &row), row.iter().map(|x| x * x).sum::<f32>());
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&row), largest);
        }
    }
}
