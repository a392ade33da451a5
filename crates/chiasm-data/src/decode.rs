//! From encoded bytes to 8-bit RGB, with every cap applied before memory is allocated.
//!
//! The format is told by content, never by the file's extension. Owns decoding only; resizing and
//! normalising are in [`crate::transform`].
//!
//! A file that is cut off or damaged is an error, also where the usual decoders fill the missing part
//! with grey and report success: such a picture would train as half a picture.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};

use crate::{animation, jpeg};

/// Cap on the size of an image file: 64 MiB.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Cap on the pixels of an image: 64 million.
pub const MAX_PIXELS: u64 = 64_000_000;

/// Cap on either side of an image, the largest a JPEG can say.
pub const MAX_SIDE: u32 = 65_535;

/// What decoding may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Encoded size in bytes. Default: 64 MiB.
    pub max_bytes: u64,
    /// Width times height. Default: 64 million.
    pub max_pixels: u64,
    /// Longest side. Default: 65,535.
    pub max_side: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: MAX_FILE_BYTES,
            max_pixels: MAX_PIXELS,
            max_side: MAX_SIDE,
        }
    }
}

impl Limits {
    /// Holds a header to the caps, before memory is taken for what it promises.
    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::NoPixels { width, height });
        }
        if width.max(height) > self.max_side {
            let cap = self.max_side;
            return Err(DecodeError::SideTooLong { width, height, cap });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            let cap = self.max_pixels;
            return Err(DecodeError::TooManyPixels { width, height, cap });
        }
        Ok(())
    }

    /// What the decoders of the `image` crate are told.
    pub(crate) fn for_decoder(&self) -> image::Limits {
        let mut caps = image::Limits::default();
        // Checked by `check_size`, with an error that says more.
        caps.max_image_width = None;
        caps.max_image_height = None;
        // Scratch space of the decoder: up to four 16-bit channels a pixel, twice.
        caps.max_alloc = Some(self.max_pixels.saturating_mul(16));
        caps
    }
}

/// What becomes of transparency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlphaRule {
    /// Ignore alpha and keep the stored colours, as Pillow's `convert("RGB")`. The hidden colour of
    /// a transparent background is arbitrary, mostly black.
    Drop,
    /// Blend over a white background. The default for training.
    #[default]
    OverWhite,
}

/// An 8-bit RGB picture, rows from the top, `height x width x 3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width * 3` values.
    pub data: Vec<u8>,
}

impl Rgb {
    /// A picture from its values, when their number fits the size.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Option<Self> {
        let expected = width.checked_mul(height)?.checked_mul(3)?;
        (expected == data.len() && expected > 0).then_some(Self {
            width,
            height,
            data,
        })
    }

    /// A picture of nothing: even grey.
    pub fn grey(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            data: vec![127; width * height * 3],
        }
    }

    /// A picture for tests, in which neighbours differ.
    #[cfg(test)]
    pub(crate) fn pattern(width: usize, height: usize) -> Self {
        let data = (0..width * height * 3)
            .map(|i| (i * 53 % 256) as u8)
            .collect();
        Self {
            width,
            height,
            data,
        }
    }
}

/// Why a picture cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are none of the known formats.
    #[error("not a PNG, JPEG, GIF, WebP or BMP image{0}")]
    UnknownFormat(&'static str),
    /// More bytes than allowed.
    #[error("the encoded image has {bytes} bytes, more than the cap {cap}")]
    TooManyBytes {
        /// Encoded size.
        bytes: u64,
        /// The cap.
        cap: u64,
    },
    /// More pixels than allowed.
    #[error("the image is {width}x{height} pixels, more than the cap of {cap} pixels")]
    TooManyPixels {
        /// Width from the header.
        width: u32,
        /// Height from the header.
        height: u32,
        /// The cap.
        cap: u64,
    },
    /// A side longer than allowed.
    #[error("the image is {width}x{height} pixels, a side is longer than the cap {cap}")]
    SideTooLong {
        /// Width from the header.
        width: u32,
        /// Height from the header.
        height: u32,
        /// The cap.
        cap: u32,
    },
    /// A side of zero.
    #[error("the image has no pixels ({width}x{height})")]
    NoPixels {
        /// Width from the header.
        width: u32,
        /// Height from the header.
        height: u32,
    },
    /// The file ends early.
    #[error("the {0} is truncated: it ends before its end marker")]
    Truncated(&'static str),
    /// A kind of picture that is valid, and not supported.
    #[error("the image uses {0}, which this program does not decode")]
    Unsupported(&'static str),
    /// The decoder refused the content.
    #[error("the image is damaged: {0}")]
    Damaged(String),
}

impl DecodeError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooManyBytes { .. } | Self::TooManyPixels { .. } | Self::SideTooLong { .. } => {
                Some("scale the picture down before training".to_owned())
            }
            Self::Truncated(_) => Some("download or copy the file again".to_owned()),
            Self::UnknownFormat(_) | Self::Unsupported(_) => {
                Some("convert the picture to PNG or baseline JPEG".to_owned())
            }
            Self::NoPixels { .. } | Self::Damaged(_) => None,
        }
    }
}

/// Decodes to RGB ignoring transparency, as Pillow's `convert("RGB")`.
///
/// `apply_exif` turns the picture upright by its EXIF orientation.
pub fn decode_rgb(bytes: &[u8], limits: &Limits, apply_exif: bool) -> Result<Rgb, DecodeError> {
    decode(bytes, limits, apply_exif, AlphaRule::Drop)
}

/// Decodes to RGB with a rule for transparency.
///
/// Of 16-bit samples the high byte is taken, grey becomes three equal channels, a palette is looked up,
/// an animation gives its first frame.
pub fn decode(
    bytes: &[u8],
    limits: &Limits,
    apply_exif: bool,
    alpha: AlphaRule,
) -> Result<Rgb, DecodeError> {
    let size = bytes.len() as u64;
    if size > limits.max_bytes {
        return Err(DecodeError::TooManyBytes {
            bytes: size,
            cap: limits.max_bytes,
        });
    }
    let image = guarded(|| decode_any(bytes, limits, apply_exif))?;
    Ok(flatten(image, alpha))
}

/// Runs a decoder whose code is not ours: a bug of it on a hostile file must cost one picture, not the
/// run.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DecodeError::Damaged("the decoder failed on it".to_owned())))
}

fn decode_any(
    bytes: &[u8],
    limits: &Limits,
    apply_exif: bool,
) -> Result<DynamicImage, DecodeError> {
    let format = image::guess_format(bytes).map_err(|_| {
        DecodeError::UnknownFormat(if bytes.is_empty() {
            " (the file is empty)"
        } else {
            ""
        })
    })?;
    let (mut image, orientation) = if format == ImageFormat::Jpeg {
        let jpeg = jpeg::decode(bytes, limits)?;
        (
            as_dynamic(jpeg.picture)?,
            jpeg.exif.and_then(Orientation::from_exif_chunk),
        )
    } else {
        decode_general(bytes, format, limits)?
    };
    if apply_exif && let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(image)
}

/// Everything but JPEG.
fn decode_general(
    bytes: &[u8],
    format: ImageFormat,
    limits: &Limits,
) -> Result<(DynamicImage, Option<Orientation>), DecodeError> {
    // Its blocks are held to the length of the file first; one frame is enough here.
    animation::scan(bytes, 1)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut caps = limits.for_decoder();
    if format == ImageFormat::Png {
        // Its rows and what its other chunks inflate to; the result does not count.
        caps.max_alloc = Some(MAX_FILE_BYTES);
    }
    reader.limits(caps);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width, height)?;
    // A picture with broken EXIF data is still a picture.
    let orientation = decoder.orientation().ok();
    let image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    Ok((image, orientation))
}

fn as_dynamic(picture: Rgb) -> Result<DynamicImage, DecodeError> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    image::RgbImage::from_raw(width, height, picture.data)
        .map(DynamicImage::ImageRgb8)
        .ok_or(DecodeError::NoPixels { width, height })
}

pub(crate) fn damaged(error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(_) => DecodeError::UnknownFormat(" that this program can decode"),
        other => DecodeError::Damaged(other.to_string()),
    }
}

pub(crate) fn flatten(image: DynamicImage, alpha: AlphaRule) -> Rgb {
    let image = narrow(image);
    let (width, height) = (image.width() as usize, image.height() as usize);
    let over_white = alpha == AlphaRule::OverWhite && image.color().has_alpha();
    let data = if over_white {
        let rgba = image.into_rgba8().into_raw();
        let mut data = Vec::with_capacity(width * height * 3);
        for pixel in rgba.chunks_exact(4) {
            if let [red, green, blue, alpha] = *pixel {
                data.extend([red, green, blue].map(|value| blend_over_white(value, alpha)));
            }
        }
        data
    } else {
        image.into_rgb8().into_raw()
    };
    Rgb {
        width,
        height,
        data,
    }
}

/// 16 bits to 8 as Pillow does it for colours: the high byte. For grey Pillow cuts off at 255 instead,
/// which turns nearly all of such a picture white; that is not followed.
fn narrow(image: DynamicImage) -> DynamicImage {
    fn high<P, Q>(picture: &ImageBuffer<P, Vec<u16>>) -> Option<ImageBuffer<Q, Vec<u8>>>
    where
        P: image::Pixel<Subpixel = u16>,
        Q: image::Pixel<Subpixel = u8>,
    {
        let values = picture.as_raw().iter().map(|value| (value >> 8) as u8);
        ImageBuffer::from_raw(picture.width(), picture.height(), values.collect())
    }
    let narrowed = match &image {
        DynamicImage::ImageLuma16(picture) => high(picture).map(DynamicImage::ImageLuma8),
        DynamicImage::ImageLumaA16(picture) => high(picture).map(DynamicImage::ImageLumaA8),
        DynamicImage::ImageRgb16(picture) => high(picture).map(DynamicImage::ImageRgb8),
        DynamicImage::ImageRgba16(picture) => high(picture).map(DynamicImage::ImageRgba8),
        _ => None,
    };
    narrowed.unwrap_or(image)
}

fn blend_over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    // Rounded to nearest; at most 255 because value and 255 are.
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMATS: [ImageFormat; 5] = [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Jpeg,
    ];

    fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn gradient(width: u32, height: u32) -> DynamicImage {
        DynamicImage::ImageRgb8(image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 7) as u8, (y * 5) as u8, (x ^ y) as u8])
        }))
    }

    #[test]
    fn formats_are_told_by_content() {
        let picture = gradient(40, 30);
        for format in FORMATS {
            let rgb = decode_rgb(&encode(&picture, format), &Limits::default(), true).unwrap();
            assert_eq!(
                (rgb.width, rgb.height, rgb.data.len()),
                (40, 30, 3600),
                "{format:?}"
            );
            if matches!(
                format,
                ImageFormat::Png | ImageFormat::Bmp | ImageFormat::WebP
            ) {
                assert_eq!(rgb.data, picture.to_rgb8().into_raw(), "{format:?}");
            }
        }
    }

    #[test]
    fn truncation_is_an_error_in_every_format() {
        let picture = gradient(160, 120);
        for format in FORMATS {
            let bytes = encode(&picture, format);
            for share in [2, 3, 5, 9] {
                let cut = &bytes[..bytes.len() * share / 10];
                let error = decode_rgb(cut, &Limits::default(), true);
                assert!(error.is_err(), "{format:?} cut to {share}/10 decoded");
            }
        }
        let jpeg = encode(&picture, ImageFormat::Jpeg);
        let error = decode_rgb(&jpeg[..jpeg.len() / 2], &Limits::default(), true).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated("JPEG")), "{error}");
    }

    /// A PNG header of any size with no pixels behind it.
    fn png_header(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = b"IHDR".to_vec();
        chunk.extend(width.to_be_bytes());
        chunk.extend(height.to_be_bytes());
        chunk.extend([8, 2, 0, 0, 0]);
        bytes.extend(13u32.to_be_bytes());
        bytes.extend(&chunk);
        bytes.extend(crc32(&chunk).to_be_bytes());
        let mut data = b"IDAT".to_vec();
        data.extend([0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01]);
        bytes.extend(8u32.to_be_bytes());
        bytes.extend(&data);
        bytes.extend(crc32(&data).to_be_bytes());
        bytes
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn huge_headers_are_refused_before_allocation() {
        let error = decode_rgb(&png_header(30_000, 30_000), &Limits::default(), true).unwrap_err();
        assert!(
            matches!(error, DecodeError::TooManyPixels { width: 30_000, .. }),
            "{error}"
        );
        let error = decode_rgb(&png_header(100_000, 1), &Limits::default(), true).unwrap_err();
        assert!(matches!(error, DecodeError::SideTooLong { .. }), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn extreme_but_valid_pictures_decode() {
        for (width, height) in [(1, 1), (30_000, 1), (1, 5_000)] {
            let bytes = encode(&gradient(width, height), ImageFormat::Png);
            let rgb = decode_rgb(&bytes, &Limits::default(), true).unwrap();
            assert_eq!((rgb.width, rgb.height), (width as usize, height as usize));
        }
    }

    #[test]
    fn alpha_is_dropped_or_blended() {
        let image = DynamicImage::ImageRgba8(image::RgbaImage::from_pixel(
            2,
            2,
            image::Rgba([10, 20, 30, 0]),
        ));
        let bytes = encode(&image, ImageFormat::Png);
        let limits = Limits::default();
        assert_eq!(
            decode(&bytes, &limits, true, AlphaRule::Drop).unwrap().data[..3],
            [10, 20, 30]
        );
        assert_eq!(
            decode(&bytes, &limits, true, AlphaRule::OverWhite)
                .unwrap()
                .data[..3],
            [255, 255, 255]
        );
        assert_eq!(blend_over_white(0, 255), 0);
        assert_eq!(blend_over_white(100, 128), 177);
    }

    #[test]
    fn sixteen_bit_and_grey_alpha() {
        let grey = DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(
            3,
            2,
            image::Luma([65535u16]),
        ));
        let rgb = decode_rgb(&encode(&grey, ImageFormat::Png), &Limits::default(), true).unwrap();
        assert!(rgb.data.iter().all(|value| *value == 255));
        let grey =
            DynamicImage::ImageLumaA8(image::ImageBuffer::from_pixel(3, 2, image::LumaA([9u8, 0])));
        let bytes = encode(&grey, ImageFormat::Png);
        assert_eq!(
            decode_rgb(&bytes, &Limits::default(), true).unwrap().data[0],
            9
        );
        assert_eq!(
            decode(&bytes, &Limits::default(), true, AlphaRule::OverWhite)
                .unwrap()
                .data[0],
            255
        );
    }

    #[test]
    fn text_and_nothing_are_not_pictures() {
        for bytes in [&b""[..], b"hello", b"<svg></svg>"] {
            let error = decode_rgb(bytes, &Limits::default(), true).unwrap_err();
            assert!(matches!(error, DecodeError::UnknownFormat(_)), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_bytes_never_panic(position in 0usize..2000, value: u8, which in 0usize..5) {
            let format = [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Jpeg][which];
            let mut bytes = encode(&gradient(24, 16), format);
            let position = position % bytes.len();
            bytes[position] = value;
            let limits = Limits { max_pixels: 1_000_000, ..Limits::default() };
            let _ = decode_rgb(&bytes, &limits, true);
        }
    }
}
