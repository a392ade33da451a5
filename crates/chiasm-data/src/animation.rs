//! Animated GIF and WebP: how many frames there are, and the pixels of some of them.
//!
//! Frames are counted by walking the blocks of the file, which decodes nothing, so that frames can be
//! chosen and caps applied first. Then every frame up to the last chosen one is decoded, because each
//! is drawn onto the one before it.

use std::collections::BTreeSet;
use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder as _, DynamicImage, Frames, ImageDecoder as _};

use crate::decode::{AlphaRule, DecodeError, Limits, Rgb, damaged, flatten, guarded};

/// What a walk over an animation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Pictures in it; counting ends one above the cap that was given.
    pub(crate) frames: usize,
    /// Size of the canvas.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Sum of the frames' times.
    pub(crate) milliseconds: u64,
}

/// Walks a GIF or a WebP; `None` for any other format. A still picture has one frame.
///
/// # Errors
/// A file that ends early or holds an unknown block.
pub(crate) fn scan(bytes: &[u8], max_frames: usize) -> Result<Option<Scan>, DecodeError> {
    match bytes {
        [b'G', b'I', b'F', ..] => scan_gif(bytes, max_frames).map(Some),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => scan_webp(bytes, max_frames).map(Some),
        _ => Ok(None),
    }
}

/// The frames with these numbers, in their order.
///
/// # Errors
/// A file that is damaged, or ends, before the last of them.
pub(crate) fn decode_frames(
    bytes: &[u8],
    wanted: &BTreeSet<usize>,
    limits: &Limits,
    alpha: AlphaRule,
) -> Result<Vec<Rgb>, DecodeError> {
    guarded(|| {
        let mut pictures = Vec::with_capacity(wanted.len());
        let mut frames = frames(bytes, limits)?.enumerate();
        while pictures.len() < wanted.len() {
            let (number, frame) = frames.next().ok_or(DecodeError::Truncated("animation"))?;
            let frame = frame.map_err(damaged)?;
            if wanted.contains(&number) {
                pictures.push(flatten(
                    DynamicImage::ImageRgba8(frame.into_buffer()),
                    alpha,
                ));
            }
        }
        Ok(pictures)
    })
}

fn frames<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Frames<'a>, DecodeError> {
    if bytes.starts_with(b"GIF") {
        let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        limits.check_size(width, height)?;
        decoder.set_limits(limits.for_decoder()).map_err(damaged)?;
        return Ok(decoder.into_frames());
    }
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width, height)?;
    if !decoder.has_animation() {
        let image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        let frame = image::Frame::new(image.into_rgba8());
        return Ok(Frames::new(Box::new(std::iter::once(Ok(frame)))));
    }
    Ok(decoder.into_frames())
}

/// Reads on, never past the end.
struct Walk<'a> {
    bytes: &'a [u8],
    format: &'static str,
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated(self.format))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// A whole number, the lowest byte first.
    fn number(&mut self, bytes: usize) -> Result<u32, DecodeError> {
        Ok(little_endian(self.take(bytes)?))
    }

    /// Blocks of up to 255 bytes, ended by an empty one.
    fn skip_sub_blocks(&mut self) -> Result<(), DecodeError> {
        loop {
            match self.byte()? {
                0 => return Ok(()),
                length => self.take(usize::from(length))?,
            };
        }
    }
}

fn little_endian(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// GIF89a, sections 17 to 27.
fn scan_gif(bytes: &[u8], max_frames: usize) -> Result<Scan, DecodeError> {
    let mut walk = Walk {
        bytes,
        format: "GIF",
    };
    walk.take(6)?;
    let (width, height) = (walk.number(2)?, walk.number(2)?);
    let colours = |flags: u8| {
        if flags & 0x80 == 0 {
            0
        } else {
            3usize << ((flags & 7) + 1)
        }
    };
    let flags = walk.byte()?;
    walk.take(2 + colours(flags))?;
    let mut scan = Scan {
        frames: 0,
        width,
        height,
        milliseconds: 0,
    };
    loop {
        match walk.byte()? {
            0x2C => {
                walk.take(8)?;
                let flags = walk.byte()?;
                walk.take(colours(flags) + 1)?;
                walk.skip_sub_blocks()?;
                scan.frames += 1;
                if scan.frames > max_frames {
                    break;
                }
            }
            0x21 => {
                // The control extension in front of a frame holds its time in hundredths of a second.
                if let ([0xF9, 4, _, low, high], _) =
                    walk.bytes.split_at_checked(5).unwrap_or_default()
                {
                    scan.milliseconds += 10 * u64::from(u16::from_le_bytes([*low, *high]));
                }
                walk.take(1)?;
                walk.skip_sub_blocks()?;
            }
            0x3B => break,
            _ => {
                return Err(DecodeError::Damaged(
                    "the GIF holds an unknown block".to_owned(),
                ));
            }
        }
    }
    Ok(scan)
}

/// RIFF chunks of a WebP. Every length is held to the file, so that nothing after this can be made to
/// take memory that the file does not fill.
fn scan_webp(bytes: &[u8], max_frames: usize) -> Result<Scan, DecodeError> {
    let mut walk = Walk {
        bytes,
        format: "WebP",
    };
    walk.take(12)?;
    let mut scan = Scan {
        frames: 0,
        width: 0,
        height: 0,
        milliseconds: 0,
    };
    let mut stills = 0;
    while walk.bytes.len() >= 8 {
        let name = walk.take(4)?;
        let length = walk.number(4)? as usize;
        let body = walk.take(length)?;
        // A pad byte after odd lengths; the last may lack it.
        if length % 2 == 1 && !walk.bytes.is_empty() {
            walk.take(1)?;
        }
        match (name, body) {
            (b"VP8X", [_, _, _, _, w0, w1, w2, h0, h1, h2, ..]) => {
                scan.width = little_endian(&[*w0, *w1, *w2]) + 1;
                scan.height = little_endian(&[*h0, *h1, *h2]) + 1;
            }
            (b"ANMF", [_, _, _, _, _, _, _, _, _, _, _, _, t0, t1, t2, ..]) => {
                scan.milliseconds += u64::from(little_endian(&[*t0, *t1, *t2]));
                scan.frames += 1;
                if scan.frames > max_frames {
                    break;
                }
            }
            (b"VP8 " | b"VP8L", _) => stills = 1,
            _ => {}
        }
    }
    scan.frames = scan.frames.max(stills);
    if scan.frames == 0 {
        return Err(DecodeError::Truncated("WebP"));
    }
    Ok(scan)
}
