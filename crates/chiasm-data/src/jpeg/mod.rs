//! A JPEG decoder whose pixels are those of libjpeg-turbo, and so of Pillow, to the bit.
//!
//! Published models were trained and are evaluated on those pixels, and no decoder in Rust gives
//! them: the usual two interpolate subsampled colour or transform blocks with other roundings, and
//! are off by up to 4 levels. What has to be equal is little: the integer transform ("islow"), the
//! triangle filter for subsampled colour and the 16-bit fixed-point conversion of colours.
//!
//! Owns ITU-T T.81 with Huffman coding and 8 bits: baseline, extended sequential and progressive
//! pictures of 1, 3 or 4 components, restart markers, and the rules by which libjpeg guesses the
//! colours. Not here: arithmetic coding, 12 bits, lossless and hierarchical pictures; they are
//! refused by name.
//!
//! libjpeg fills what is missing or damaged with grey and warns; here that is an error, because such
//! a picture would train as half a picture.
//!
//! Memory, at most: one byte a sample, three a pixel for the result, and for progressive pictures two
//! more a sample. None of it is taken before the header has passed the caps and the file is known to
//! be long enough for its number of blocks.

mod bits;
mod colour;
mod idct;
mod scan;

use crate::decode::{DecodeError, Limits, Rgb};
use bits::Huffman;
use colour::{Plane, Transform};
use scan::Scan;

/// Cap on the scans of a picture. Encoders write about ten; each may be a few bytes long and still
/// ask for a pass over the whole picture.
pub(crate) const MAX_SCANS: usize = 100;

/// Coefficients or quantisation steps of a block, rows of eight.
type Block<T> = [T; 64];

/// A decoded picture and what its header says about it.
pub(crate) struct Jpeg<'a> {
    /// The pixels, as stored: not turned by the orientation.
    pub(crate) picture: Rgb,
    /// EXIF data without its `Exif\0\0` mark.
    pub(crate) exif: Option<&'a [u8]>,
}

/// One colour channel as it is coded.
struct Component {
    id: u8,
    /// Samples for each step across and down, 1 to 4.
    h: usize,
    v: usize,
    /// Number of its quantisation table.
    quantiser: usize,
    /// The table, latched by its first scan.
    steps: Option<Block<i32>>,
    /// Blocks that hold samples of the picture.
    blocks_wide: usize,
    blocks_high: usize,
    /// Blocks in memory: whole units of an interleaved scan.
    stride: usize,
    rows: usize,
    /// All coefficients of a progressive picture, `rows x stride` blocks; else empty.
    coefficients: Vec<Block<i16>>,
    /// Samples, `rows * 8` by `stride * 8`.
    samples: Vec<u8>,
}

/// What the frame header says.
struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    h_max: usize,
    v_max: usize,
    components: Vec<Component>,
}

/// Everything that marker segments set for the scans after them.
#[derive(Default)]
struct Tables {
    quantisers: [Option<Block<i32>>; 4],
    dc: [Option<Box<Huffman>>; 4],
    ac: [Option<Box<Huffman>>; 4],
    restart_interval: usize,
}

/// Decodes a whole file.
///
/// # Errors
/// What is beyond the caps, damaged, cut off or not supported.
pub(crate) fn decode<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Jpeg<'a>, DecodeError> {
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let (mut jfif, mut adobe, mut exif) = (false, None, None);
    let mut scans = 0;
    // After the start marker, which told the format.
    let mut position = 2;
    loop {
        let (code, body) = next_marker(bytes, position)?;
        match code {
            0xD9 => break,
            // Restart markers and the like have no body; outside a scan they mean nothing.
            0x01 | 0xD0..=0xD8 => {
                position = body;
                continue;
            }
            _ => {}
        }
        let segment = segment(bytes, body)?;
        position = body + 2 + segment.len();
        match code {
            0xC0..=0xC2 if frame.is_none() => {
                frame = Some(Frame::read(segment, code == 0xC2, bytes.len(), limits)?);
            }
            0xC0..=0xC2 => return Err(damaged("it has two frame headers")),
            0xC4 => tables.read_huffman(segment)?,
            0xC9..=0xCC => return Err(DecodeError::Unsupported("arithmetic coding")),
            0xC3 | 0xC5..=0xC7 | 0xCD..=0xCF | 0xDE => {
                return Err(DecodeError::Unsupported("lossless or hierarchical coding"));
            }
            0xDA => {
                let frame = frame
                    .as_mut()
                    .ok_or_else(|| damaged("a scan comes before the frame header"))?;
                scans += 1;
                if scans > MAX_SCANS {
                    return Err(DecodeError::Damaged(format!(
                        "it has more than {MAX_SCANS} scans"
                    )));
                }
                let scan = Scan::read(segment, frame)?;
                position = scan.decode(frame, &tables, bytes, position)?;
            }
            0xDB => tables.read_quantisers(segment)?,
            0xDD => match segment {
                [high, low, ..] => {
                    tables.restart_interval = usize::from(u16::from_be_bytes([*high, *low]));
                }
                _ => return Err(damaged("its restart interval is cut off")),
            },
            0xE0 => jfif |= segment.starts_with(b"JFIF\0"),
            0xE1 if exif.is_none() => exif = segment.strip_prefix(b"Exif\0\0"),
            0xEE => {
                adobe = segment
                    .strip_prefix(b"Adobe")
                    .and_then(|rest| rest.get(6).copied())
                    .or(adobe);
            }
            _ => {}
        }
    }
    let mut frame = frame.ok_or_else(|| damaged("it has no frame header"))?;
    if frame
        .components
        .iter()
        .any(|component| component.steps.is_none())
    {
        return Err(damaged("a colour channel has no data"));
    }
    if frame.progressive {
        for component in &mut frame.components {
            component.transform_all();
        }
    }
    let transform = frame.transform(jfif, adobe);
    let planes: Vec<Plane> = frame.planes()?;
    let data = colour::to_rgb(&planes, frame.width, frame.height, transform);
    let picture = Rgb::new(frame.width, frame.height, data)
        .ok_or_else(|| damaged("its size does not fit its data"))?;
    Ok(Jpeg { picture, exif })
}

/// Code of the next marker and where its body starts.
fn next_marker(bytes: &[u8], from: usize) -> Result<(u8, usize), DecodeError> {
    let mut position = from;
    loop {
        let rest = bytes.get(position..).unwrap_or_default();
        position += memchr::memchr(0xFF, rest).ok_or(DecodeError::Truncated("JPEG"))?;
        // Any number of fill bytes 0xFF may come before the code.
        while bytes.get(position) == Some(&0xFF) {
            position += 1;
        }
        match bytes.get(position) {
            None => return Err(DecodeError::Truncated("JPEG")),
            Some(0) => {}
            Some(code) => return Ok((*code, position + 1)),
        }
    }
}

/// The body of a marker segment, without the two bytes of its length.
fn segment(bytes: &[u8], position: usize) -> Result<&[u8], DecodeError> {
    let rest = bytes.get(position..).unwrap_or_default();
    let [high, low, ..] = rest else {
        return Err(DecodeError::Truncated("JPEG"));
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length < 2 {
        return Err(damaged("a segment is shorter than its own length field"));
    }
    rest.get(2..length).ok_or(DecodeError::Truncated("JPEG"))
}

impl Frame {
    fn read(
        segment: &[u8],
        progressive: bool,
        file_len: usize,
        limits: &Limits,
    ) -> Result<Self, DecodeError> {
        let [precision, h1, h0, w1, w0, count, rest @ ..] = segment else {
            return Err(damaged("its frame header is cut off"));
        };
        if *precision != 8 {
            return Err(DecodeError::Unsupported("12 bits a sample"));
        }
        let (height, width) = (
            u16::from_be_bytes([*h1, *h0]),
            u16::from_be_bytes([*w1, *w0]),
        );
        limits.check_size(u32::from(width), u32::from(height))?;
        let (width, height) = (usize::from(width), usize::from(height));
        if !matches!(count, 1 | 3 | 4) {
            return Err(DecodeError::Unsupported("this number of colour channels"));
        }
        let specs = rest
            .get(..usize::from(*count) * 3)
            .ok_or_else(|| damaged("its frame header is cut off"))?;
        let factors = |spec: &[u8]| match spec {
            [id, hv, quantiser] => (*id, usize::from(hv >> 4), usize::from(hv & 15), *quantiser),
            _ => (0, 0, 0, 0),
        };
        let valid = |spec: &[u8]| {
            let (_, h, v, quantiser) = factors(spec);
            (1..=4).contains(&h) && (1..=4).contains(&v) && quantiser < 4
        };
        if !specs.chunks_exact(3).all(valid) {
            return Err(damaged("a colour channel has impossible sampling factors"));
        }
        let (mut h_max, mut v_max) = (1, 1);
        for spec in specs.chunks_exact(3) {
            let (_, h, v, _) = factors(spec);
            (h_max, v_max) = (h_max.max(h), v_max.max(v));
        }
        let mcus_wide = width.div_ceil(8 * h_max);
        let mcus_high = height.div_ceil(8 * v_max);
        let mut components: Vec<Component> = specs
            .chunks_exact(3)
            .map(|spec| {
                let (id, h, v, quantiser) = factors(spec);
                Component {
                    id,
                    h,
                    v,
                    quantiser: usize::from(quantiser),
                    steps: None,
                    blocks_wide: (width * h).div_ceil(8 * h_max),
                    blocks_high: (height * v).div_ceil(8 * v_max),
                    stride: mcus_wide * h,
                    rows: mcus_high * v,
                    coefficients: Vec::new(),
                    samples: Vec::new(),
                }
            })
            .collect();
        // A block costs a bit of the file at least, two where it is not progressive: a header that
        // promises more than the file can hold gets no memory.
        let blocks: usize = components
            .iter()
            .map(|c| c.blocks_wide * c.blocks_high)
            .sum();
        let bits = if progressive { blocks } else { 2 * blocks };
        if bits / 8 > file_len {
            return Err(DecodeError::Truncated("JPEG"));
        }
        for component in &mut components {
            let blocks = component.stride * component.rows;
            if progressive {
                component.coefficients = vec![[0; 64]; blocks];
            } else {
                component.samples = vec![0; blocks * 64];
            }
        }
        Ok(Self {
            progressive,
            width,
            height,
            h_max,
            v_max,
            components,
        })
    }

    /// What the channels mean, by libjpeg's rules.
    fn transform(&self, jfif: bool, adobe: Option<u8>) -> Transform {
        let ids: Vec<u8> = self
            .components
            .iter()
            .map(|component| component.id)
            .collect();
        match (ids.as_slice(), adobe) {
            ([_], _) => Transform::Grey,
            ([_, _, _], _) if jfif => Transform::YCbCr,
            ([_, _, _], Some(0)) => Transform::Rgb,
            ([b'R', b'G', b'B'], None) => Transform::Rgb,
            ([_, _, _], _) => Transform::YCbCr,
            (_, None | Some(0)) => Transform::Cmyk,
            _ => Transform::Ycck,
        }
    }

    fn planes(&self) -> Result<Vec<Plane<'_>>, DecodeError> {
        self.components
            .iter()
            .map(|component| {
                let whole = self.h_max.is_multiple_of(component.h)
                    && self.v_max.is_multiple_of(component.v);
                if !whole {
                    return Err(DecodeError::Unsupported("fractional subsampling"));
                }
                Ok(Plane {
                    samples: &component.samples,
                    stride: component.stride * 8,
                    width: (self.width * component.h).div_ceil(self.h_max),
                    height: (self.height * component.v).div_ceil(self.v_max),
                    across: self.h_max / component.h,
                    down: self.v_max / component.v,
                })
            })
            .collect()
    }
}

impl Component {
    /// Turns all coefficients into samples and lets go of them.
    fn transform_all(&mut self) {
        let Some(steps) = &self.steps else { return };
        let coefficients = std::mem::take(&mut self.coefficients);
        self.samples = vec![0; coefficients.len() * 64];
        let rows = coefficients.chunks_exact(self.stride);
        for (row, samples) in rows.zip(self.samples.chunks_exact_mut(self.stride * 64)) {
            idct::transform_row(row, steps, samples);
        }
    }
}

impl Tables {
    fn read_quantisers(&mut self, mut segment: &[u8]) -> Result<(), DecodeError> {
        while let [head, rest @ ..] = segment {
            let wide = head >> 4 != 0;
            let size = if wide { 128 } else { 64 };
            let (Some(values), Some(slot)) = (
                rest.get(..size),
                self.quantisers.get_mut(usize::from(head & 15)),
            ) else {
                return Err(damaged("a quantisation table is cut off"));
            };
            let mut steps = [0; 64];
            for (index, place) in ZIGZAG.iter().take(64).enumerate() {
                let step = if wide {
                    values.get(2 * index..2 * index + 2).map_or(0, |pair| {
                        pair.iter()
                            .fold(0, |value, byte| value << 8 | i32::from(*byte))
                    })
                } else {
                    values.get(index).map_or(0, |value| i32::from(*value))
                };
                steps[usize::from(*place)] = step;
            }
            *slot = Some(steps);
            segment = rest.get(size..).unwrap_or_default();
        }
        Ok(())
    }

    fn read_huffman(&mut self, mut segment: &[u8]) -> Result<(), DecodeError> {
        while let [head, rest @ ..] = segment {
            let cut = || damaged("a Huffman table is cut off");
            let counts: &[u8; 16] = rest.first_chunk().ok_or_else(cut)?;
            let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
            let symbols = rest.get(16..16 + total).ok_or_else(cut)?;
            let family = match head >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(damaged("a Huffman table has an unknown class")),
            };
            let slot = family
                .get_mut(usize::from(head & 15))
                .ok_or_else(|| damaged("a Huffman table has an unknown number"))?;
            *slot = Some(Box::new(
                Huffman::new(counts, symbols)
                    .ok_or_else(|| damaged("a Huffman table has more codes than fit"))?,
            ));
            segment = rest.get(16 + total..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Place in a block of each coefficient in the order in which they are coded. The fifteen at the end
/// catch a run that leaves the block, so that the decoding loop needs no check of its own.
const ZIGZAG: [u8; 80] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
    63, 63, 63, 63, 63, 63,
];

fn damaged(what: &str) -> DecodeError {
    DecodeError::Damaged(what.to_owned())
}
