//! What the tests of all operations need: numbers, and a comparison with a plain form in `f64`.

use super::operation::Operation;

/// Numbers between -1 and 1 that look random; `seed` gives others.
pub(crate) fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let draw = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(draw)
        .take(count + 8)
        .skip(8)
        .collect()
}

/// Holds `operation` against a plain form of it.
///
/// Its value, and the gradient of a random weighting of it, differ from those of `plain` by no more
/// than `tolerance`, relative to the largest number compared, at least 0.05 (gradients of `plain` come from
/// differences); and every bit is the same for one and two threads, whatever gradients are wanted
/// beside.
pub(crate) fn check<const N: usize, O: Operation<N> + Sync>(
    operation: &O,
    inputs: &[Vec<f32>; N],
    tolerance: f64,
    plain: impl Fn(&[Vec<f64>; N]) -> Vec<f64>,
) {
    let exact = inputs.each_ref().map(|values| widen(values));
    let slices = inputs.each_ref().map(Vec::as_slice);
    let expected = plain(&exact);
    let weights = values(99, expected.len());

    let run = |wanted| {
        let (result, kept) = operation.forward(slices, true);
        let kept = kept.expect("the backward pass was announced");
        let gradients = operation.backward(slices, kept, &weights, wanted);
        (result, gradients)
    };
    let threads = |count| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
        pool.build().expect("threads")
    };
    let (result, gradients) = threads(2).install(|| run([true; N]));
    assert_eq!(
        threads(1).install(|| run([true; N])),
        (result.clone(), gradients.clone())
    );
    assert_eq!(
        operation.forward(slices, false).0,
        result,
        "without keeping"
    );
    let made_again = operation.recompute(slices).expect("it keeps something");
    assert_eq!(
        operation.backward(slices, made_again, &weights, [true; N]),
        gradients,
        "from what is made again"
    );
    for index in 0..N {
        let only = std::array::from_fn(|other| other == index);
        let (_, mut alone) = run(only);
        assert_eq!(
            alone[index].take(),
            gradients[index],
            "gradient {index} alone"
        );
        assert_eq!(alone, [const { None }; N], "not wanted");
    }

    compare("result", &result, &expected, tolerance);
    for (index, gradient) in gradients.iter().enumerate() {
        let expected = differences(&exact, index, |inputs| {
            let result = plain(inputs);
            result
                .iter()
                .zip(&weights)
                .map(|(y, w)| y * f64::from(*w))
                .sum()
        });
        let gradient = gradient.as_ref().expect("wanted");
        compare(&format!("gradient {index}"), gradient, &expected, tolerance);
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Slopes of `f` along every element of one input, by central differences.
fn differences<const N: usize>(
    inputs: &[Vec<f64>; N],
    index: usize,
    f: impl Fn(&[Vec<f64>; N]) -> f64,
) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut moved = inputs.clone();
    let mut slope = |element: usize| {
        let here = inputs[index][element];
        let mut at = |x| {
            moved[index][element] = x;
            f(&moved)
        };
        let slope = (at(here + STEP) - at(here - STEP)) / (2.0 * STEP);
        moved[index][element] = here;
        slope
    };
    (0..inputs[index].len()).map(&mut slope).collect()
}

fn compare(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.05, |most: f64, x| most.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= tolerance * largest,
            "{what}, element {index}: {found} and not {expected}"
        );
    }
}

/// Parts of operations in `f64`, written for the eye.
pub(crate) mod plain {
    use super::super::dropout::Dropout;

    /// The distribution function of the normal distribution, by the series of the error function whose
    /// terms all have one sign.
    pub(crate) fn phi(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..400 {
            term *= x * x / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
    }

    /// `x w + bias` of every row.
    pub(crate) fn linear(x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
        let output = bias.len();
        let input = w.len() / output;
        let rows = x.chunks(input).flat_map(|row| {
            (0..output).map(move |j| {
                let products = row.iter().enumerate().map(|(i, x)| x * w[i * output + j]);
                bias[j] + products.sum::<f64>()
            })
        });
        rows.collect()
    }

    /// LayerNorm of every row.
    pub(crate) fn layer_norm(x: &[f64], gain: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
        let width = gain.len();
        let rows = x.chunks(width).flat_map(|row| {
            let mean = row.iter().sum::<f64>() / width as f64;
            let squares = row.iter().map(|x| (x - mean).powi(2));
            let deviation = (squares.sum::<f64>() / width as f64 + eps).sqrt();
            let row = row.iter().zip(gain).zip(bias);
            row.map(move |((x, gain), bias)| (x - mean) / deviation * gain + bias)
        });
        rows.collect()
    }

    /// Every row times its factors.
    pub(crate) fn drop(dropout: Option<Dropout>, x: &[f64], width: usize) -> Vec<f64> {
        let Some(dropout) = dropout else {
            return x.to_vec();
        };
        let mut factors = vec![0.0; width];
        let mut dropped = x.to_vec();
        for (row, values) in (0..).zip(dropped.chunks_mut(width)) {
            dropout.factors(row, &mut factors);
            for (x, factor) in values.iter_mut().zip(&factors) {
                *x *= f64::from(*factor);
            }
        }
        dropped
    }
}
