//! Antialiased resampling of 8-bit RGB, equal to Pillow's to the bit.
//!
//! Two separable passes, horizontal then vertical, with the filter widened by the reduction factor.
//! Weights are computed in double precision and applied as fixed-point numbers with 22 fractional
//! bits; the value between the passes is rounded to 8 bits. Those choices are part of the result:
//! embeddings of published models move when any of them differs.
//!
//! [`resample`] computes a window of the output only. A 30,000x1 picture scaled to a short side of
//! 224 would be 6,720,000 pixels wide; the centre crop needs 224 of them.

use serde::{Deserialize, Serialize};

use crate::decode::Rgb;

/// Fractional bits of a weight: 32 minus 8 for the value and 2 for overshoot and sign.
const PRECISION_BITS: u32 = 22;

/// Interpolation kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Cubic convolution with a = -0.5 (Catmull–Rom).
    #[default]
    Bicubic,
    /// Linear, a triangle.
    Bilinear,
}

impl Filter {
    /// Half the width of the kernel at scale 1.
    const fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }
}

/// The part of the output to compute, in output pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Resizes to `width x height` pixels.
pub fn resize(source: &Rgb, width: usize, height: usize, filter: Filter) -> Rgb {
    resample(
        source,
        width,
        height,
        Window {
            x: 0,
            y: 0,
            width,
            height,
        },
        filter,
    )
}

/// Resizes to `width x height` pixels and keeps `window`, without computing the rest.
///
/// Sizes below 1 are taken as 1 and a window that reaches outside is clipped, so the result always
/// has pixels.
pub fn resample(source: &Rgb, width: usize, height: usize, window: Window, filter: Filter) -> Rgb {
    let columns = taps(source.width, width.max(1), window.x, window.width, filter);
    let rows = taps(
        source.height,
        height.max(1),
        window.y,
        window.height,
        filter,
    );
    // Only the source rows that the vertical pass reads.
    let first = rows.iter().map(|tap| tap.start).min().unwrap_or(0);
    let last = rows
        .iter()
        .map(|tap| tap.start + tap.weights.len())
        .max()
        .unwrap_or(source.height);
    let stride = source.width * 3;
    let out_stride = columns.len() * 3;
    let mut middle = Vec::with_capacity(out_stride * (last - first));
    for row in source.data.chunks_exact(stride).take(last).skip(first) {
        horizontal(row, &columns, &mut middle);
    }
    let mut data = Vec::with_capacity(out_stride * rows.len());
    let mut sums = vec![0i32; out_stride];
    for tap in &rows {
        vertical(
            &middle,
            out_stride,
            tap.start - first,
            &tap.weights,
            &mut sums,
        );
        data.extend(sums.iter().map(|sum| clip(*sum)));
    }
    Rgb {
        width: columns.len(),
        height: rows.len(),
        data,
    }
}

/// The source pixels that make one output pixel.
struct Tap {
    start: usize,
    weights: Vec<i32>,
}

fn taps(source: usize, target: usize, first: usize, count: usize, filter: Filter) -> Vec<Tap> {
    let first = first.min(target - 1);
    let count = count.clamp(1, target - first);
    if source == target {
        // The kernel is 1 at 0 and 0 at the other whole numbers: a copy.
        return (first..first + count)
            .map(|start| Tap {
                start,
                weights: vec![1 << PRECISION_BITS],
            })
            .collect();
    }
    let scale = source as f64 / target as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    (first..first + count)
        .map(|position| {
            let center = (position as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(source);
            let raw: Vec<f64> = (start..end)
                .map(|pixel| filter.weight((pixel as f64 - center + 0.5) / stretch))
                .collect();
            let total: f64 = raw.iter().sum();
            let unit = if total == 0.0 { 1.0 } else { total };
            let weights = raw.iter().map(|weight| fixed(weight / unit)).collect();
            Tap { start, weights }
        })
        .collect()
}

/// To fixed point, halves away from zero.
fn fixed(weight: f64) -> i32 {
    (weight * f64::from(1u32 << PRECISION_BITS)).round() as i32
}

fn horizontal(row: &[u8], columns: &[Tap], out: &mut Vec<u8>) {
    const HALF: i32 = 1 << (PRECISION_BITS - 1);
    for tap in columns {
        let pixels = row
            .get(tap.start * 3..(tap.start + tap.weights.len()) * 3)
            .unwrap_or_default();
        let (mut red, mut green, mut blue) = (HALF, HALF, HALF);
        for (pixel, weight) in pixels.chunks_exact(3).zip(&tap.weights) {
            if let [r, g, b] = *pixel {
                red += i32::from(r) * weight;
                green += i32::from(g) * weight;
                blue += i32::from(b) * weight;
            }
        }
        out.extend([clip(red), clip(green), clip(blue)]);
    }
}

fn vertical(middle: &[u8], stride: usize, start: usize, weights: &[i32], sums: &mut [i32]) {
    sums.fill(1 << (PRECISION_BITS - 1));
    for (row, weight) in middle.chunks_exact(stride.max(1)).skip(start).zip(weights) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += i32::from(*value) * weight;
        }
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flat_stays_flat() {
        let flat = Rgb {
            width: 33,
            height: 21,
            data: vec![201; 33 * 21 * 3],
        };
        for filter in [Filter::Bicubic, Filter::Bilinear] {
            for (width, height) in [(7, 5), (64, 64), (33, 4)] {
                assert!(
                    resize(&flat, width, height, filter)
                        .data
                        .iter()
                        .all(|value| *value == 201)
                );
            }
        }
    }

    #[test]
    fn extreme_sizes_are_cheap_through_a_window() {
        let line = Rgb::pattern(30_000, 1);
        let out = resample(
            &line,
            6_720_000,
            224,
            Window {
                x: 3_359_888,
                y: 0,
                width: 224,
                height: 224,
            },
            Filter::Bicubic,
        );
        assert_eq!((out.width, out.height), (224, 224));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_window_is_a_crop(
            width in 1usize..40, height in 1usize..40,
            out_width in 1usize..50, out_height in 1usize..50,
            x in 0usize..50, y in 0usize..50, w in 1usize..50, h in 1usize..50,
        ) {
            let source = Rgb::pattern(width, height);
            let (x, y) = (x % out_width, y % out_height);
            let window = Window { x, y, width: w.min(out_width - x), height: h.min(out_height - y) };
            let whole = resize(&source, out_width, out_height, Filter::Bicubic);
            let part = resample(&source, out_width, out_height, window, Filter::Bicubic);
            prop_assert_eq!((part.width, part.height), (window.width, window.height));
            for row in 0..window.height {
                let from = ((y + row) * out_width + x) * 3;
                let expected = &whole.data[from..from + window.width * 3];
                prop_assert_eq!(&part.data[row * window.width * 3..][..window.width * 3], expected);
            }
        }
    }
}
