//! From samples to RGB: interpolation of subsampled channels and conversion of colours, as libjpeg
//! with its default settings does them.

use crate::simd::simd;

/// Samples of one channel.
pub(super) struct Plane<'a> {
    /// Rows of `stride` samples.
    pub(super) samples: &'a [u8],
    pub(super) stride: usize,
    /// The part that belongs to the picture.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Pixels for each sample, across and down.
    pub(super) across: usize,
    pub(super) down: usize,
}

/// What the channels mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    Grey,
    Rgb,
    YCbCr,
    /// Inks as Adobe writes them: 255 is none. Files without Adobe's mark are read so as well, as
    /// Pillow does.
    Cmyk,
    /// The same, with the first three turned into luminance and colour.
    Ycck,
}

/// `height x width x 3` values.
pub(super) fn to_rgb(
    planes: &[Plane<'_>],
    width: usize,
    height: usize,
    transform: Transform,
) -> Vec<u8> {
    let data = vec![0; width * height * 3];
    simd(
        #[inline(always)]
        move || {
            let mut data = data;
            let mut lines: Vec<Line> = planes.iter().map(|plane| Line::new(plane, width)).collect();
            for (y, out) in data.chunks_exact_mut((width * 3).max(1)).enumerate() {
                for (line, plane) in lines.iter_mut().zip(planes) {
                    line.fill(plane, y);
                }
                convert(&lines, out, width, transform);
            }
            data
        },
    )
}

/// One row of a channel at full width, and room for interpolating it.
struct Line {
    pixels: Vec<u8>,
    /// A row of sums with its first and last value repeated at the ends.
    sums: Vec<u16>,
}

impl Line {
    fn new(plane: &Plane<'_>, width: usize) -> Self {
        Self {
            pixels: vec![0; (plane.width * plane.across).max(width)],
            sums: vec![0; plane.width + 2],
        }
    }

    /// Row `y` of the picture. Twice as wide or high is a triangle filter, weights 3 and 1, with
    /// the one rounding that libjpeg has; where the channel has two columns or fewer, and at other
    /// factors, samples are repeated.
    #[inline(always)]
    fn fill(&mut self, plane: &Plane<'_>, y: usize) {
        let row = y / plane.down;
        let smooth_across = plane.across == 2 && plane.width > 2;
        match (plane.across, plane.down) {
            (1, 1) => self.pixels[..plane.width].copy_from_slice(plane.row(row)),
            (1, 2) => {
                let rounding = if y.is_multiple_of(2) { 1 } else { 2 };
                let sources = plane.row(row).iter().zip(plane.neighbour(y));
                for (out, (near, far)) in self.pixels.iter_mut().zip(sources) {
                    *out = ((3 * u16::from(*near) + u16::from(*far) + rounding) >> 2) as u8;
                }
            }
            (2, 1) if smooth_across => {
                for (sum, value) in self.sums.iter_mut().skip(1).zip(plane.row(row)) {
                    *sum = u16::from(*value);
                }
                self.widen::<1, 2, 2>(plane.width);
            }
            (2, 2) if smooth_across => {
                let sources = plane.row(row).iter().zip(plane.neighbour(y));
                for (sum, (near, far)) in self.sums.iter_mut().skip(1).zip(sources) {
                    *sum = 3 * u16::from(*near) + u16::from(*far);
                }
                self.widen::<8, 7, 4>(plane.width);
            }
            (across, _) => {
                let pixels = self.pixels.chunks_exact_mut(across);
                for (out, value) in pixels.zip(plane.row(row)) {
                    out.fill(*value);
                }
            }
        }
    }

    /// Two pixels for each sum, with the roundings of the left and the right one.
    #[inline(always)]
    fn widen<const LEFT: u16, const RIGHT: u16, const SHIFT: u16>(&mut self, width: usize) {
        let sums = &mut self.sums[..width + 2];
        sums[0] = sums[1];
        sums[width + 1] = sums[width];
        let (before, here, after) = (&sums[..width], &sums[1..=width], &sums[2..]);
        let pairs = self.pixels.chunks_exact_mut(2);
        for (((out, before), here), after) in pairs.zip(before).zip(here).zip(after) {
            out[0] = ((3 * here + before + LEFT) >> SHIFT) as u8;
            out[1] = ((3 * here + after + RIGHT) >> SHIFT) as u8;
        }
    }
}

impl Plane<'_> {
    #[inline(always)]
    fn row(&self, row: usize) -> &[u8] {
        let first = row.min(self.height - 1) * self.stride;
        &self.samples[first..first + self.width]
    }

    /// The row on the other side of pixel row `y`; at the edge the same.
    #[inline(always)]
    fn neighbour(&self, y: usize) -> &[u8] {
        let row = y / 2;
        self.row(if y.is_multiple_of(2) {
            row.saturating_sub(1)
        } else {
            row + 1
        })
    }
}

#[inline(always)]
fn convert(lines: &[Line], out: &mut [u8], width: usize, transform: Transform) {
    let line = |index: usize| {
        lines
            .get(index)
            .map_or(&[][..], |line| &line.pixels[..width])
    };
    let pixels = out.chunks_exact_mut(3);
    match transform {
        Transform::Grey => {
            for (out, value) in pixels.zip(line(0)) {
                out.fill(*value);
            }
        }
        Transform::Rgb => {
            for (((out, red), green), blue) in pixels.zip(line(0)).zip(line(1)).zip(line(2)) {
                out.copy_from_slice(&[*red, *green, *blue]);
            }
        }
        Transform::YCbCr => {
            for (((out, y), cb), cr) in pixels.zip(line(0)).zip(line(1)).zip(line(2)) {
                let [red, green, blue] = ycc(*y, *cb, *cr);
                out[0] = red;
                out[1] = green;
                out[2] = blue;
            }
        }
        Transform::Cmyk => {
            let inks = line(0).iter().zip(line(1)).zip(line(2)).zip(line(3));
            for (out, (((c, m), y), k)) in pixels.zip(inks) {
                out.copy_from_slice(&[*c, *m, *y].map(|ink| darken(ink, *k)));
            }
        }
        Transform::Ycck => {
            let inks = line(0).iter().zip(line(1)).zip(line(2)).zip(line(3));
            for (out, (((y, cb), cr), k)) in pixels.zip(inks) {
                out.copy_from_slice(&ycc(*y, *cb, *cr).map(|light| darken(255 - light, *k)));
            }
        }
    }
}

/// Luminance and colour to RGB, with 16 fractional bits.
#[inline(always)]
fn ycc(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// What is left of white under an ink and black, both inverted, as Pillow converts CMYK.
#[inline(always)]
fn darken(light: u8, black: u8) -> u8 {
    let (ink, left) = (255 - i32::from(light), i32::from(black));
    let product = ink * left + 128;
    (left - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
}
