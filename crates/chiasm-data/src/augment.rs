//! RandAugment: a few random changes of colour and shape before the random crop.
//!
//! Owns the fourteen operations that METER and SCL fine-tune with, their ranges, and how they are
//! drawn (`specs/scl.md`, section 4.3). Each gives the pixels that Pillow gives. Two oddities of the
//! published pool are kept, because results were obtained with them: at the usual magnitude 9
//! `posterize` leaves one bit a channel, and the factors of colour, contrast, brightness and sharpness
//! are below 1, so that they only ever weaken.

use serde::{Deserialize, Serialize};

use crate::decode::Rgb;
use crate::rng::{Rng, below, unit_f64};

/// Magnitude at which each operation reaches the end of its range.
const MAX_MAGNITUDE: f32 = 30.0;

/// Most operations on a picture that are accepted.
const MAX_OPS: usize = 16;

/// How many operations and how strong.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Operations drawn for each picture, with replacement. Default: 2.
    pub ops: usize,
    /// Strength, 0 to 30. Default: 9.
    pub magnitude: f32,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self {
            ops: 2,
            magnitude: 9.0,
        }
    }
}

/// One kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stretches each channel to the whole range.
    AutoContrast,
    /// Makes the values of each channel equally frequent.
    Equalize,
    /// Turns by degrees, counter-clockwise.
    Rotate,
    /// Keeps this many bits of a value.
    Posterize,
    /// Inverts values from this one on.
    Solarize,
    /// Adds this, then inverts values from 128 on.
    SolarizeAdd,
    /// Mixes with the grey picture: 0 is grey, 1 unchanged.
    Color,
    /// Mixes with its mean grey.
    Contrast,
    /// Mixes with black.
    Brightness,
    /// Mixes with the blurred picture.
    Sharpness,
    /// Shifts each row by its number times this.
    ShearX,
    /// Shifts each column by its number times this.
    ShearY,
    /// Shifts by pixels, to the left.
    TranslateX,
    /// Shifts by pixels, upwards.
    TranslateY,
}

impl Op {
    /// All of them; each is as likely as the others.
    pub const ALL: [Self; 14] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Rotate,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Color,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
    ];

    /// Its amount at magnitude 0 and at 30.
    const fn range(self) -> (f64, f64) {
        match self {
            Self::AutoContrast | Self::Equalize => (0.0, 1.0),
            Self::Rotate => (0.0, 30.0),
            Self::Posterize => (0.0, 4.0),
            Self::Solarize => (0.0, 256.0),
            Self::SolarizeAdd => (0.0, 110.0),
            Self::Color | Self::Contrast | Self::Brightness | Self::Sharpness => (0.1, 1.9),
            Self::ShearX | Self::ShearY => (0.0, 0.3),
            Self::TranslateX | Self::TranslateY => (0.0, 100.0),
        }
    }

    /// True where the amount may as well be negative.
    const fn has_sign(self) -> bool {
        matches!(
            self,
            Self::Rotate | Self::ShearX | Self::ShearY | Self::TranslateX | Self::TranslateY
        )
    }

    /// The changed picture. What comes in from outside is black.
    pub fn apply(self, image: &Rgb, amount: f64) -> Rgb {
        let (width, height) = (image.width as f64, image.height as f64);
        match self {
            Self::AutoContrast => by_channel(image, stretch),
            Self::Equalize => by_channel(image, equalize),
            Self::Posterize => {
                let bits = (amount.max(1.0) as u32).min(8);
                by_value(image, |value| value & !((1u16 << (8 - bits)) - 1) as u8)
            }
            Self::Solarize => by_value(image, |value| solarize(value, amount)),
            Self::SolarizeAdd => by_value(image, |value| {
                // Whole numbers are added, as the published code does.
                let sum = (f64::from(value) + amount.trunc()).clamp(0.0, 255.0);
                solarize(sum as u8, 128.0)
            }),
            Self::Color => {
                let greys: Vec<u8> = pixels(image).flat_map(|pixel| [grey(pixel); 3]).collect();
                blend(&greys, image, amount)
            }
            Self::Contrast => {
                let total: u64 = pixels(image).map(|pixel| u64::from(grey(pixel))).sum();
                let count = (image.data.len() / 3).max(1);
                let mean = (total as f64 / count as f64 + 0.5) as u8;
                blend(&vec![mean; image.data.len()], image, amount)
            }
            Self::Brightness => blend(&vec![0; image.data.len()], image, amount),
            Self::Sharpness => blend(&smooth(image), image, amount),
            Self::Rotate => {
                let (sin, cos) = (-amount.to_radians()).sin_cos();
                let (x, y) = (width / 2.0, height / 2.0);
                let shift = (x - cos * x - sin * y, y + sin * x - cos * y);
                affine(image, [cos, sin, shift.0, -sin, cos, shift.1])
            }
            Self::ShearX => affine(image, [1.0, amount, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => affine(image, [1.0, 0.0, 0.0, amount, 1.0, 0.0]),
            Self::TranslateX => affine(image, [1.0, 0.0, amount, 0.0, 1.0, 0.0]),
            Self::TranslateY => affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, amount]),
        }
    }
}

impl RandAugment {
    /// What is wrong with the settings, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.ops > MAX_OPS {
            return Some(format!(
                "has {} operations, it must be at most {MAX_OPS}",
                self.ops
            ));
        }
        if !(0.0..=MAX_MAGNITUDE).contains(&self.magnitude) {
            let magnitude = self.magnitude;
            return Some(format!(
                "has magnitude {magnitude}, it must be in 0..={MAX_MAGNITUDE}"
            ));
        }
        None
    }

    /// The operations for one picture, with their amounts.
    pub fn draw(&self, rng: &mut Rng) -> Vec<(Op, f64)> {
        let share = f64::from(self.magnitude) / f64::from(MAX_MAGNITUDE);
        (0..self.ops)
            .filter_map(|_| {
                let op = Op::ALL.get(below(rng, Op::ALL.len())).copied();
                // Drawn for every operation, so that what follows does not depend on which it is.
                let negative = unit_f64(rng) < 0.5;
                let op = op?;
                let (low, high) = op.range();
                let amount = low + share * (high - low);
                Some((
                    op,
                    if negative && op.has_sign() {
                        -amount
                    } else {
                        amount
                    },
                ))
            })
            .collect()
    }

    /// Draws operations and applies them in order.
    pub fn apply(&self, image: &Rgb, rng: &mut Rng) -> Rgb {
        let mut image = image.clone();
        for (op, amount) in self.draw(rng) {
            image = op.apply(&image, amount);
        }
        image
    }
}

fn pixels(image: &Rgb) -> impl Iterator<Item = &[u8]> {
    image.data.chunks_exact(3)
}

/// The luminance of a pixel, as Pillow's mode `L`.
fn grey(pixel: &[u8]) -> u8 {
    let weighted = pixel
        .iter()
        .zip([19_595u32, 38_470, 7_471])
        .map(|(value, weight)| u32::from(*value) * weight)
        .sum::<u32>();
    ((weighted + 0x8000) >> 16) as u8
}

fn solarize(value: u8, threshold: f64) -> u8 {
    if f64::from(value) < threshold {
        value
    } else {
        255 - value
    }
}

/// Every value through one table.
fn by_value(image: &Rgb, map: impl Fn(u8) -> u8) -> Rgb {
    let table: [u8; 256] = std::array::from_fn(|value| map(value as u8));
    let data = image
        .data
        .iter()
        .map(|value| table[usize::from(*value)])
        .collect();
    Rgb { data, ..*image }
}

/// Every channel through a table made from its own counts.
fn by_channel(image: &Rgb, table: impl Fn(&[u32; 256]) -> [u8; 256]) -> Rgb {
    let mut data = image.data.clone();
    for channel in 0..3 {
        let mut counts = [0u32; 256];
        for value in data.iter().skip(channel).step_by(3) {
            counts[usize::from(*value)] += 1;
        }
        let table = table(&counts);
        for value in data.iter_mut().skip(channel).step_by(3) {
            *value = table[usize::from(*value)];
        }
    }
    Rgb { data, ..*image }
}

fn stretch(counts: &[u32; 256]) -> [u8; 256] {
    let low = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let high = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    if high <= low {
        return std::array::from_fn(|value| value as u8);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    std::array::from_fn(|value| (value as f64 * scale + offset).clamp(0.0, 255.0) as u8)
}

fn equalize(counts: &[u32; 256]) -> [u8; 256] {
    let total: u32 = counts.iter().sum();
    let last = counts
        .iter()
        .rev()
        .copied()
        .find(|count| *count > 0)
        .unwrap_or(0);
    let step = (total - last) / 255;
    if step == 0 {
        return std::array::from_fn(|value| value as u8);
    }
    let mut before = step / 2;
    std::array::from_fn(|value| {
        let level = before / step;
        before += counts[value];
        level.min(255) as u8
    })
}

/// `base + share * (image - base)`, cut off to whole numbers as Pillow does.
fn blend(base: &[u8], image: &Rgb, share: f64) -> Rgb {
    let share = share as f32;
    let mix = |(base, value): (&u8, &u8)| {
        let (base, value) = (f32::from(*base), f32::from(*value));
        (base + share * (value - base)).clamp(0.0, 255.0) as u8
    };
    let data = base.iter().zip(&image.data).map(mix).collect();
    Rgb { data, ..*image }
}

/// Mean of a pixel and its eight neighbours in which the pixel counts five times; the border stays.
fn smooth(image: &Rgb) -> Vec<u8> {
    let mut out = image.data.clone();
    let stride = image.width * 3;
    let at = |index: usize| image.data.get(index).map_or(0, |value| u32::from(*value));
    for y in 1..image.height.saturating_sub(1) {
        for x in 3..stride.saturating_sub(3) {
            let middle = y * stride + x;
            let around: u32 = [middle - stride, middle, middle + stride]
                .iter()
                .map(|index| at(index - 3) + at(*index) + at(index + 3))
                .sum();
            if let Some(value) = out.get_mut(middle) {
                // To nearest; a sum over 13 has no halves.
                *value = ((2 * (around + 4 * at(middle)) + 13) / 26) as u8;
            }
        }
    }
    out
}

/// Each pixel from the nearest one at `(ax + by + c, dx + ey + f)`, in Pillow's fixed point: 16
/// fractional bits, measured at the middle of pixels.
fn affine(image: &Rgb, [a, b, c, d, e, f]: [f64; 6]) -> Rgb {
    let fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let (across, down) = ((fixed(a), fixed(d)), (fixed(b), fixed(e)));
    let mut line = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    let mut data = vec![0; image.data.len()];
    for row in data.chunks_exact_mut((image.width * 3).max(1)) {
        let mut place = line;
        for pixel in row.chunks_exact_mut(3) {
            let found = usize::try_from(place.0 >> 16)
                .ok()
                .zip(usize::try_from(place.1 >> 16).ok())
                .filter(|(x, y)| *x < image.width && *y < image.height)
                .and_then(|(x, y)| {
                    image
                        .data
                        .get((y * image.width + x) * 3..)?
                        .first_chunk::<3>()
                });
            if let Some(found) = found {
                pixel.copy_from_slice(found);
            }
            place = (place.0 + across.0, place.1 + across.1);
        }
        line = (line.0 + down.0, line.1 + down.1);
    }
    Rgb { data, ..*image }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    /// What Pillow 13 gives for `Rgb::pattern(20, 17)`: the first two pixels, and the sum of all
    /// values, each times its squared place plus one, modulo 1,000,003.
    const PILLOW: [(Op, f64, [u8; 6], u64); 18] = [
        (Op::AutoContrast, 9.0, [0, 53, 106, 159, 212, 9], 669_671),
        (Op::Equalize, 9.0, [0, 71, 141, 211, 255, 12], 845_817),
        (Op::Rotate, 9.0, [0, 0, 0, 0, 0, 0], 16_990),
        (Op::Posterize, 1.2, [0, 0, 0, 128, 128, 0], 536_897),
        (Op::Solarize, 76.8, [0, 53, 149, 96, 43, 9], 189_431),
        (Op::SolarizeAdd, 9.0, [9, 62, 115, 87, 34, 18], 284_696),
        (Op::Color, 0.64, [15, 49, 83, 164, 197, 68], 814_673),
        (Op::Color, 1.2, [0, 55, 118, 156, 219, 0], 539_008),
        (Op::Contrast, 0.64, [45, 79, 113, 147, 181, 51], 762_071),
        (Op::Brightness, 0.64, [0, 33, 67, 101, 135, 5], 541_103),
        (Op::Sharpness, 0.64, [0, 53, 106, 159, 212, 9], 739_310),
        (Op::ShearX, -0.09, [0, 53, 106, 159, 212, 9], 590_296),
        (Op::ShearY, -0.09, [0, 53, 106, 159, 212, 9], 744_883),
        (Op::TranslateX, 9.0, [151, 204, 1, 54, 107, 160], 921_447),
        (Op::TranslateX, -30.0, [0; 6], 0),
        (Op::TranslateY, 9.0, [204, 1, 54, 107, 160, 213], 639_377),
        (Op::TranslateY, -30.0, [0; 6], 0),
        (Op::AutoContrast, 0.64, [0, 53, 106, 159, 212, 9], 669_671),
    ];

    #[test]
    fn every_operation_gives_pillows_pixels() {
        let image = Rgb::pattern(20, 17);
        for (op, amount, start, sum) in PILLOW {
            let ours = op.apply(&image, amount);
            assert_eq!((ours.width, ours.height), (20, 17), "{op:?}");
            assert_eq!(ours.data[..6], start, "{op:?} {amount}");
            let places = (0u64..).zip(&ours.data);
            let all: u64 = places
                .map(|(place, value)| u64::from(*value) * (place * place + 1))
                .sum();
            assert_eq!(all % 1_000_003, sum, "{op:?} {amount}");
        }
        assert!(
            Op::ALL
                .iter()
                .all(|op| PILLOW.iter().any(|(known, ..)| known == op))
        );
    }

    #[test]
    fn amounts_are_those_of_the_published_pool() {
        let rand = RandAugment {
            ops: 400,
            ..RandAugment::default()
        };
        let drawn = rand.draw(&mut stream(7, "augment", &[0]));
        assert_eq!(drawn.len(), 400);
        for (op, expected) in [
            (Op::Rotate, 9.0),
            (Op::Posterize, 1.2),
            (Op::Solarize, 76.8),
            (Op::SolarizeAdd, 33.0),
            (Op::Sharpness, 0.64),
            (Op::ShearY, 0.09),
            (Op::TranslateX, 30.0),
        ] {
            let amounts: Vec<f64> = drawn
                .iter()
                .filter(|(other, _)| *other == op)
                .map(|(_, amount)| *amount)
                .collect();
            assert!(!amounts.is_empty(), "{op:?} was never drawn");
            assert!(
                amounts
                    .iter()
                    .all(|amount| (amount.abs() - expected).abs() < 1e-6),
                "{op:?}"
            );
            assert_eq!(
                op.has_sign(),
                amounts.iter().any(|amount| *amount < 0.0),
                "{op:?}"
            );
        }
        assert_eq!(drawn, rand.draw(&mut stream(7, "augment", &[0])));
        assert_ne!(drawn, rand.draw(&mut stream(7, "augment", &[1])));
    }

    #[test]
    fn pictures_of_any_size_survive_every_operation() {
        for (width, height) in [(1, 1), (2, 1), (1, 5), (3, 3), (400, 2)] {
            let image = Rgb::pattern(width, height);
            for op in Op::ALL {
                for amount in [-1e9, -30.0, 0.0, 0.64, 9.0, 300.0, f64::NAN] {
                    assert_eq!(
                        op.apply(&image, amount).data.len(),
                        image.data.len(),
                        "{op:?}"
                    );
                }
            }
        }
    }
}
