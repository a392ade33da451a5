//! Antialiased resampling of 8-bit RGB, equal to Pillow's to the bit.
//!
//! Two separable passes, horizontal then vertical, with the filter widened by the reduction factor.
//! Weights are computed in double precision and applied as fixed-point numbers with 22 fractional
//! bits; the value between the passes is rounded to 8 bits. Those choices are part of the result:
//! embeddings of published models move when any of them differs.
//!
//! [`resample`] computes a window of the output only. A 30,000x1 picture scaled to a short side of
//! 224 would be 6,720,000 pixels wide; the centre crop needs 224 of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::decode::Rgb;
use crate::simd::simd;

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
    let columns = Taps::cached(source.width, width.max(1), window.x, window.width, filter);
    let rows = Taps::cached(
        source.height,
        height.max(1),
        window.y,
        window.height,
        filter,
    );
    // Only the source rows that the vertical pass reads.
    let first = rows.starts.iter().copied().min().unwrap_or(0);
    let last = rows
        .starts
        .iter()
        .map(|start| start + rows.count)
        .max()
        .unwrap_or(0);
    let stride = source.width * 3;
    let out_stride = columns.starts.len() * 3;
    // Rows between the passes are whole vectors, and a byte longer than their pixels.
    let middle_stride = (out_stride + 1).div_ceil(LANES);
    let middle_rows = (last - first).next_multiple_of(ROWS);
    let middle = vec![[0; LANES]; middle_stride * middle_rows];
    let data = simd(
        #[inline(always)]
        || {
            let mut middle = middle;
            let mut together = vec![[0; LANES]; source.width];
            let mut line = vec![[0; LANES]; columns.starts.len().max(middle_stride)];
            let rest = source.data.get(first * stride..).unwrap_or_default();
            let groups = rest.chunks((stride * ROWS).max(1));
            for (group, out) in groups.zip(middle.chunks_exact_mut(middle_stride * ROWS)) {
                // Where fewer rows are left, the last one is taken more than once.
                let rows = group.chunks_exact(stride.max(1));
                interleave(
                    std::array::from_fn(|row| {
                        rows.clone()
                            .nth(row)
                            .or_else(|| rows.clone().last())
                            .unwrap_or_default()
                    }),
                    &mut together,
                );
                for (out, (start, weights)) in line.iter_mut().zip(columns.iter()) {
                    *out = weigh(together[start..].iter(), weights);
                }
                separate(&line[..columns.starts.len()], out.as_flattened_mut());
            }
            let mut data = vec![0; out_stride * rows.starts.len()];
            for (out, (start, weights)) in data.chunks_exact_mut(out_stride).zip(rows.iter()) {
                let from = (start - first) * middle_stride;
                for (block, out) in line.iter_mut().take(middle_stride).enumerate() {
                    *out = weigh(
                        middle[from + block..].iter().step_by(middle_stride),
                        weights,
                    );
                }
                out.copy_from_slice(&line.as_flattened()[..out_stride]);
            }
            data
        },
    );
    Rgb {
        width: columns.starts.len(),
        height: rows.starts.len(),
        data,
    }
}

/// Values that are computed side by side: as many as the widest vectors hold.
const LANES: usize = 16;

/// Rows that the horizontal pass takes at once, four lanes each: three channels and one to spare.
const ROWS: usize = 4;

/// The source pixels that make each output pixel of an axis, and their weights.
struct Taps {
    /// First source pixel of each output pixel.
    starts: Vec<usize>,
    /// Source pixels of each output pixel; where fewer count, weights are 0.
    count: usize,
    /// `starts.len() x count`.
    weights: Vec<i32>,
}

/// Source and target length, first output pixel and their number, kernel: what [`Taps`] depend on.
type TapsKey = (usize, usize, usize, usize, Filter);

impl Taps {
    /// [`Self::new`], or what it gave for one of the last sizes on this thread: most data sets have
    /// pictures of few sizes.
    fn cached(
        source: usize,
        target: usize,
        first: usize,
        count: usize,
        filter: Filter,
    ) -> Rc<Self> {
        /// Sizes that are kept, and the largest that is: together at most 2 MiB a thread.
        const KEPT: usize = 8;
        const KEPT_WEIGHTS: usize = 1 << 16;
        thread_local! {
            static LAST: RefCell<VecDeque<(TapsKey, Rc<Taps>)>> = const { RefCell::new(VecDeque::new()) };
        }
        let key = (source, target, first, count, filter);
        LAST.with_borrow_mut(|last| {
            if let Some((_, taps)) = last.iter().find(|(known, _)| *known == key) {
                return Rc::clone(taps);
            }
            let taps = Rc::new(Self::new(source, target, first, count, filter));
            if taps.weights.len() <= KEPT_WEIGHTS {
                last.truncate(KEPT - 1);
                last.push_front((key, Rc::clone(&taps)));
            }
            taps
        })
    }

    fn new(source: usize, target: usize, first: usize, count: usize, filter: Filter) -> Self {
        let first = first.min(target - 1);
        let outputs = first..first + count.clamp(1, target - first);
        if source == target {
            // The kernel is 1 at 0 and 0 at the other whole numbers: a copy.
            return Self {
                weights: vec![1 << PRECISION_BITS; outputs.len()],
                starts: outputs.collect(),
                count: 1,
            };
        }
        let scale = source as f64 / target as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let ends = |position: usize| {
            let center = (position as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(source);
            (center, start, end)
        };
        let longest = outputs.clone().map(|position| {
            let (_, start, end) = ends(position);
            end.saturating_sub(start)
        });
        let count = longest.max().unwrap_or(1).max(1);
        let mut taps = Self {
            starts: Vec::with_capacity(outputs.len()),
            count,
            weights: vec![0; outputs.len() * count],
        };
        let mut raw = Vec::with_capacity(count);
        for (position, weights) in outputs.zip(taps.weights.chunks_exact_mut(count)) {
            let (center, start, end) = ends(position);
            raw.clear();
            raw.extend(
                (start..end).map(|pixel| filter.weight((pixel as f64 - center + 0.5) / stretch)),
            );
            let total: f64 = raw.iter().sum();
            let unit = if total == 0.0 { 1.0 } else { total };
            // Near the end all starts but the count stay: the surplus is put in front, as zeros.
            let shift = (start + count).saturating_sub(source);
            for (weight, raw) in weights.iter_mut().skip(shift).zip(&raw) {
                *weight = fixed(raw / unit);
            }
            taps.starts.push(start - shift);
        }
        taps
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.starts
            .iter()
            .copied()
            .zip(self.weights.chunks_exact(self.count))
    }
}

/// To fixed point, halves away from zero.
fn fixed(weight: f64) -> i32 {
    (weight * f64::from(1u32 << PRECISION_BITS)).round() as i32
}

/// Puts the pixels of [`ROWS`] rows side by side, four lanes each. The spare lane gets the next pixel's
/// first value, because four bytes are copied faster than three.
#[inline(always)]
fn interleave(rows: [&[u8]; ROWS], together: &mut [[u8; LANES]]) {
    let [a, b, c, d] = rows.map(|row| row.windows(4).step_by(3));
    for ((((out, a), b), c), d) in together.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        out[..4].copy_from_slice(a);
        out[4..8].copy_from_slice(b);
        out[8..12].copy_from_slice(c);
        out[12..].copy_from_slice(d);
    }
    if let Some(out) = together.last_mut() {
        for (out, row) in out.chunks_exact_mut(4).zip(rows) {
            if let Some(pixel) = row.last_chunk::<3>() {
                out[..3].copy_from_slice(pixel);
            }
        }
    }
}

/// The way back: `out` holds [`ROWS`] rows, each at least a byte longer than its pixels. The spare lane
/// is written too, and the next pixel overwrites it.
#[inline(always)]
fn separate(together: &[[u8; LANES]], out: &mut [u8]) {
    let stride = out.len() / ROWS;
    let (a, rest) = out.split_at_mut(stride);
    let (b, rest) = rest.split_at_mut(stride);
    let (c, d) = rest.split_at_mut(stride);
    for (index, pixels) in together.iter().enumerate() {
        let place = index * 3..index * 3 + 4;
        a[place.clone()].copy_from_slice(&pixels[..4]);
        b[place.clone()].copy_from_slice(&pixels[4..8]);
        c[place.clone()].copy_from_slice(&pixels[8..12]);
        d[place].copy_from_slice(&pixels[12..]);
    }
}

/// Weighted sums, lane by lane.
#[inline(always)]
fn weigh<'a>(values: impl Iterator<Item = &'a [u8; LANES]>, weights: &[i32]) -> [u8; LANES] {
    let mut sums = [HALF; LANES];
    for (values, weight) in values.zip(weights) {
        sums = std::array::from_fn(|lane| sums[lane] + i32::from(values[lane]) * weight);
    }
    sums.map(clip)
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

#[inline(always)]
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
