//! What a picture looks like, in 56 bytes: found again after re-encoding and scaling.
//!
//! A [`Look`] is a perceptual hash of the structure (64 signs of low frequencies of the brightness)
//! beside the colours of a 4x4 thumbnail. The hash alone takes a red heart for a blue one, the
//! thumbnail alone one beach for another; two pictures look the same only when both agree.
//! [`LookIndex`] finds such pictures among millions without comparing all pairs.
//!
//! What it is not: a defence against people who hide a copy. Crops, mirror images, borders and
//! changes of colour make a new look.

use std::f32::consts::PI;

use crate::decode::Rgb;

/// Largest number of differing bits (of 64) between pictures that look the same.
///
/// Measured on the 8,091 photos of Flickr8k (144x144): every one of them is at most 7 bits and 1.7
/// levels from its own copy at JPEG quality 60 or 30, at half or a third of its size, and at twice;
/// of the 32.7 million pairs of photos one is as near, and it is one photo twice. Flat drawings are
/// closer to one another and further from their copies: of the built-in ones a few look the same to
/// it that differ in a detail, and strong JPEG compression hides some copies.
pub const MAX_BITS: u32 = 7;

/// Largest mean difference of the thumbnail's colours, in levels of 255, between such pictures.
pub const MAX_COLOUR: f32 = 2.0;

/// Side of the picture that the frequencies are taken of.
const SIDE: usize = 32;

/// Frequencies a direction.
const FREQUENCIES: usize = 8;

/// Side of the thumbnail.
const THUMB: usize = 4;

/// Below this deviation of the brightness, in levels of 255, a picture is an even area: the signs of
/// its frequencies are rounding errors, and a million blank pictures would look like one another.
const MIN_DEVIATION: f32 = 2.0;

/// How far above the median a frequency has to be to count, a quarter of a level. Mirror-symmetric
/// drawings have no odd frequencies: without it their signs would be rounding errors.
const DEAD_ZONE: f32 = 0.25 * (SIDE * SIDE / 4) as f32;

/// A picture's look: structure and colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    bits: u64,
    colours: [u8; THUMB * THUMB * 3],
}

impl Look {
    /// Bytes of [`Self::to_bytes`].
    pub const BYTES: usize = 8 + THUMB * THUMB * 3;

    /// The look of a picture; `None` for one without structure (blank, or nearly so).
    pub fn of(picture: &Rgb) -> Option<Self> {
        let small = shrink(picture)?;
        let luma: Vec<f32> = small
            .iter()
            .map(|[r, g, b]| 0.299 * r + 0.587 * g + 0.114 * b)
            .collect();
        let count = luma.len() as f32;
        let mean = luma.iter().sum::<f32>() / count;
        let variance = luma.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / count;
        if variance < MIN_DEVIATION * MIN_DEVIATION {
            return None;
        }
        let mut colours = [0; THUMB * THUMB * 3];
        for (place, cell) in colours.chunks_exact_mut(3).enumerate() {
            let mean = cell_mean(&small, place % THUMB, place / THUMB);
            for (slot, value) in cell.iter_mut().zip(mean) {
                *slot = value.round().clamp(0.0, 255.0) as u8;
            }
        }
        Some(Self {
            bits: signs(&luma),
            colours,
        })
    }

    /// Number of bits (of 64) in which the structures differ.
    pub fn bits_apart(&self, other: &Self) -> u32 {
        (self.bits ^ other.bits).count_ones()
    }

    /// Mean difference of the colours, in levels of 255.
    pub fn colours_apart(&self, other: &Self) -> f32 {
        let sum: u32 = self
            .colours
            .iter()
            .zip(other.colours)
            .map(|(a, b)| u32::from(a.abs_diff(b)))
            .sum();
        sum as f32 / self.colours.len() as f32
    }

    /// The bytes of a look, for a file.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (bits, colours) = bytes.split_at_mut(8);
        bits.copy_from_slice(&self.bits.to_le_bytes());
        colours.copy_from_slice(&self.colours);
        bytes
    }

    /// The look in bytes that [`Self::to_bytes`] gave; `None` for any other number of bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bits, colours) = bytes.split_at_checked(8)?;
        Some(Self {
            bits: u64::from_le_bytes(bits.try_into().ok()?),
            colours: colours.try_into().ok()?,
        })
    }

    /// Sum of the colours: two looks' sums differ by at least nothing and at most what their colours
    /// do, so it bounds [`Self::colours_apart`] from below.
    fn brightness(&self) -> u16 {
        self.colours.iter().map(|value| u16::from(*value)).sum()
    }

    /// Whether people would take one for the other: at most [`MAX_BITS`] and [`MAX_COLOUR`] apart.
    pub fn resembles(&self, other: &Self) -> bool {
        self.bits_apart(other) <= MAX_BITS && self.colours_apart(other) <= MAX_COLOUR
    }
}

/// The part of a line that a cell of the grid covers.
struct Span {
    /// First pixel that it touches, and the one after the last.
    start: usize,
    end: usize,
    /// Shares of the first and of the last pixel that lie outside.
    outside: [f64; 2],
}

impl Span {
    fn all(length: usize) -> Vec<Self> {
        let span = |cell: usize| {
            let (start, end) = (cell * length / SIDE, ((cell + 1) * length).div_ceil(SIDE));
            let outside = [
                cell * length - start * SIDE,
                end * SIDE - (cell + 1) * length,
            ];
            Self {
                start,
                end,
                outside: outside.map(|part| part as f64 / SIDE as f64),
            }
        };
        (0..SIDE).map(span).collect()
    }

    /// Share of a pixel that lies inside.
    fn weight(&self, place: usize) -> f64 {
        let [first, last] = self.outside;
        let mut weight = 1.0;
        if place == self.start {
            weight -= first;
        }
        if place + 1 == self.end {
            weight -= last;
        }
        weight
    }
}

/// Mean colour of every cell of a 32x32 grid, pixels that two cells share by their areas: a copy of
/// half the size has the same means. `None` for a picture without pixels.
fn shrink(picture: &Rgb) -> Option<Vec<[f32; 3]>> {
    let (width, height) = (picture.width, picture.height);
    if width == 0 || height == 0 {
        return None;
    }
    let columns = Span::all(width);
    let area = (width * height) as f64 / (SIDE * SIDE) as f64;
    let mut small = Vec::with_capacity(SIDE * SIDE);
    for rows in Span::all(height) {
        let mut sums = [[0.0; 3]; SIDE];
        for y in rows.start..rows.end {
            let line = picture.data.get(y * width * 3..(y + 1) * width * 3)?;
            let pixels = line.as_chunks::<3>().0;
            let weight = rows.weight(y);
            for (sum, columns) in sums.iter_mut().zip(&columns) {
                // Whole numbers first: most pixels lie in one cell alone.
                let own = pixels.get(columns.start..columns.end)?;
                let mut total = [0u32; 3];
                for pixel in own {
                    for (total, value) in total.iter_mut().zip(pixel) {
                        *total += u32::from(*value);
                    }
                }
                let ([first, last], [outside_first, outside_last]) =
                    ([own.first()?, own.last()?], columns.outside);
                let edges = first.iter().zip(last);
                for ((sum, total), (first, last)) in sum.iter_mut().zip(total).zip(edges) {
                    let outside =
                        f64::from(*first) * outside_first + f64::from(*last) * outside_last;
                    *sum += weight * (f64::from(total) - outside);
                }
            }
        }
        small.extend(sums.map(|sum| sum.map(|value| (value / area) as f32)));
    }
    Some(small)
}

/// Mean of one cell of the thumbnail.
fn cell_mean(small: &[[f32; 3]], column: usize, row: usize) -> [f32; 3] {
    const STEP: usize = SIDE / THUMB;
    let mut sum = [0.0f32; 3];
    for line in small.chunks_exact(SIDE).skip(row * STEP).take(STEP) {
        for pixel in line.iter().skip(column * STEP).take(STEP) {
            for (sum, value) in sum.iter_mut().zip(pixel) {
                *sum += value;
            }
        }
    }
    sum.map(|value| value / (STEP * STEP) as f32)
}

/// Signs of the lowest frequencies against their median: a cosine transform in two passes. The
/// constant term says how bright the picture is, not what it shows; its place is taken by the
/// comparison of its neighbours.
fn signs(luma: &[f32]) -> u64 {
    let mut cosines = [[0.0f32; SIDE]; FREQUENCIES];
    for (frequency, row) in cosines.iter_mut().enumerate() {
        for (place, value) in row.iter_mut().enumerate() {
            let angle = PI / SIDE as f32 * (place as f32 + 0.5) * frequency as f32;
            *value = angle.cos();
        }
    }
    let dot = |values: &[f32], cosine: &[f32; SIDE]| -> f32 {
        values.iter().zip(cosine).map(|(v, c)| v * c).sum()
    };
    // [horizontal frequency][row], then [horizontal][vertical].
    let mut terms = [0.0f32; FREQUENCIES * FREQUENCIES];
    for (horizontal, out) in cosines.iter().zip(terms.chunks_exact_mut(FREQUENCIES)) {
        let lines: Vec<f32> = luma
            .chunks_exact(SIDE)
            .map(|line| dot(line, horizontal))
            .collect();
        for (vertical, out) in cosines.iter().zip(out) {
            *out = dot(&lines, vertical);
        }
    }
    let mut sorted = terms;
    sorted.sort_unstable_by(f32::total_cmp);
    let limit = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0) + DEAD_ZONE;
    terms
        .iter()
        .fold(0, |bits, term| bits << 1 | u64::from(*term > limit))
}

/// Bands that the 64 bits are cut into, and bits of each.
const BANDS: u32 = 4;
const BAND_BITS: u32 = 16;
const KEYS: usize = 1 << BAND_BITS;

/// Bits that may differ in the band that differs least, of bands of pictures that look the same.
const BAND_DISTANCE: u32 = MAX_BITS / BANDS;

/// Largest difference of brightness between pictures that look the same.
const MAX_BRIGHTNESS: u16 = (MAX_COLOUR * (THUMB * THUMB * 3) as f32) as u16;

/// Finds looks that resemble one another, among millions.
///
/// Of two hashes at most 7 bits apart, one of their four 16-bit bands is at most 1 bit apart. A
/// question therefore looks at 17 keys a band instead of at everything, and under each key only at
/// pictures about as bright. Time for a question grows with the number of looks that share a band,
/// which is large only where pictures truly resemble one another.
#[derive(Clone, Debug, Default)]
pub struct LookIndex {
    looks: Vec<Look>,
    bands: Vec<Band>,
}

impl LookIndex {
    /// An index of looks, which answers with their positions.
    ///
    /// At most 2^32 looks are held; more would not fit in memory beside what they were made of.
    pub fn new(looks: Vec<Look>) -> Self {
        let bands = (0..BANDS).map(|band| Band::new(&looks, band)).collect();
        Self { looks, bands }
    }

    /// Positions of the looks that [resemble](Look::resembles) this one, in rising order.
    pub fn resembling(&self, look: &Look) -> Vec<usize> {
        let mut found = Vec::new();
        for (band, number) in self.bands.iter().zip(0..) {
            let own = key(look.bits, number);
            for mask in MASKS {
                let near = band.near(own ^ mask, look.brightness());
                found.extend(near.filter(|place| {
                    let other = self.looks.get(*place);
                    other.is_some_and(|other| look.resembles(other))
                }));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Looks by one band of their hash.
#[derive(Clone, Debug)]
struct Band {
    /// Brightness and position of every look, by key, darkest first.
    entries: Vec<(u16, u32)>,
    /// Where the entries of each key begin; one more than there are keys.
    starts: Vec<u32>,
}

impl Band {
    fn new(looks: &[Look], band: u32) -> Self {
        let mut keyed: Vec<(u16, u16, u32)> = looks
            .iter()
            .zip(0u32..)
            .map(|(look, place)| (key(look.bits, band), look.brightness(), place))
            .collect();
        keyed.sort_unstable();
        let mut starts = Vec::with_capacity(KEYS + 1);
        for (place, (key, ..)) in (0u32..).zip(&keyed) {
            while starts.len() <= usize::from(*key) {
                starts.push(place);
            }
        }
        starts.resize(KEYS + 1, keyed.len() as u32);
        Self {
            entries: keyed
                .into_iter()
                .map(|(_, brightness, place)| (brightness, place))
                .collect(),
            starts,
        }
    }

    /// Positions under a key of looks about as bright as this.
    fn near(&self, key: u16, brightness: u16) -> impl Iterator<Item = usize> {
        let start = |key: usize| self.starts.get(key).copied().unwrap_or(0) as usize;
        let key = usize::from(key);
        let entries = self.entries.get(start(key)..start(key + 1));
        let entries = entries.unwrap_or_default();
        let darkest = brightness.saturating_sub(MAX_BRIGHTNESS);
        let first = entries.partition_point(|(other, _)| *other < darkest);
        entries
            .iter()
            .skip(first)
            .take_while(move |(other, _)| *other <= brightness.saturating_add(MAX_BRIGHTNESS))
            .map(|(_, place)| *place as usize)
    }
}

/// A band of a hash.
fn key(bits: u64, band: u32) -> u16 {
    (bits >> (band * BAND_BITS) & u64::from(u16::MAX)) as u16
}

/// Every 16-bit number with at most [`BAND_DISTANCE`] bits: 1 + 16.
const MASKS: [u16; 17] = {
    let mut masks = [0; 17];
    let (mut count, mut mask) = (0, 0u16);
    loop {
        if mask.count_ones() <= BAND_DISTANCE {
            masks[count] = mask;
            count += 1;
        }
        if mask == u16::MAX {
            break;
        }
        mask += 1;
    }
    masks
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{AlphaRule, Limits};
    use crate::resample::{Filter, resize};
    use proptest::prelude::*;

    fn drawing(index: usize) -> Rgb {
        let sample = crate::builtin::emoji().unwrap().samples.remove(index);
        crate::frames::still(&sample, &Limits::default(), AlphaRule::OverWhite).unwrap()
    }

    fn recoded(picture: &Rgb, quality: u8) -> Rgb {
        let mut bytes = Vec::new();
        let (width, height) = (picture.width as u32, picture.height as u32);
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality)
            .encode(&picture.data, width, height, image::ExtendedColorType::Rgb8)
            .unwrap();
        crate::decode::decode_rgb(&bytes, &Limits::default(), true).unwrap()
    }

    #[test]
    fn a_copy_looks_the_same_and_another_drawing_does_not() {
        let (grin, cat) = (drawing(0), drawing(900));
        let look = Look::of(&grin).unwrap();
        let half = resize(&grin, grin.width / 2, grin.height / 2, Filter::Bicubic);
        let large = resize(&grin, 500, 300, Filter::Bilinear);
        for copy in [recoded(&grin, 60), half, large] {
            assert!(look.resembles(&Look::of(&copy).unwrap()));
        }
        assert!(!look.resembles(&Look::of(&cat).unwrap()));
    }

    /// The structure of a red heart is that of a blue one.
    #[test]
    fn colour_tells_pictures_of_one_shape_apart() {
        let red = drawing(0);
        let mut blue = red.clone();
        for pixel in blue.data.as_chunks_mut::<3>().0 {
            pixel.rotate_left(1);
        }
        let [red, blue] = [red, blue].map(|picture| Look::of(&picture).unwrap());
        assert!(red.colours_apart(&blue) > MAX_COLOUR && !red.resembles(&blue));
    }

    #[test]
    fn blank_and_odd_pictures() {
        let even = |width, height, value| {
            Look::of(&Rgb {
                width,
                height,
                data: vec![value; width * height * 3],
            })
        };
        assert_eq!(even(40, 40, 255), None);
        assert_eq!(even(1, 1, 7), None);
        assert_eq!(even(0, 0, 0), None);
        let stripe = Rgb {
            width: 2,
            height: 1,
            data: vec![0, 0, 0, 255, 255, 255],
        };
        assert!(Look::of(&stripe).is_some());
        let cut = Rgb {
            width: 50,
            height: 50,
            data: vec![0; 5],
        };
        assert_eq!(Look::of(&cut), None);
    }

    fn looks() -> impl Strategy<Value = Vec<Look>> {
        // Few distinct structures, so that many resemble one another.
        let one = (0u64..4, any::<u64>(), any::<u64>(), any::<u64>(), 0u8..12).prop_map(
            |(base, a, b, c, colour)| Look {
                bits: base.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (a & b & c),
                colours: [colour; THUMB * THUMB * 3],
            },
        );
        proptest::collection::vec(one, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_index_finds_what_comparing_all_pairs_finds(looks in looks()) {
            let index = LookIndex::new(looks.clone());
            for look in &looks {
                let all: Vec<usize> = looks
                    .iter()
                    .enumerate()
                    .filter(|(_, other)| look.resembles(other))
                    .map(|(place, _)| place)
                    .collect();
                prop_assert_eq!(index.resembling(look), all);
            }
        }

        #[test]
        fn bytes_and_back(looks in looks()) {
            for look in looks {
                prop_assert_eq!(Look::from_bytes(&look.to_bytes()), Some(look));
                prop_assert_eq!(Look::from_bytes(&look.to_bytes()[1..]), None);
            }
        }
    }
}
