//! Small copies of pictures for reports and pages.

use std::io::Cursor;

use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};

use crate::decode::{AlphaRule, DecodeError, Limits, Rgb, decode};
use crate::resample::{Filter, resize};

/// A PNG whose longer side is at most `side` pixels; transparency lies over white. A smaller
/// picture keeps its size.
///
/// # Errors
/// A picture that cannot be decoded.
pub fn thumbnail(bytes: &[u8], side: usize) -> Result<Vec<u8>, DecodeError> {
    let picture = decode(bytes, &Limits::default(), true, AlphaRule::OverWhite)?;
    let longer = picture.width.max(picture.height).max(1);
    let picture = if longer > side {
        let scaled = |length: usize| (length * side / longer).max(1);
        resize(
            &picture,
            scaled(picture.width),
            scaled(picture.height),
            Filter::Bicubic,
        )
    } else {
        picture
    };
    png(&picture)
}

/// A picture as a PNG.
///
/// # Errors
/// If it cannot be encoded.
pub fn png(picture: &Rgb) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = Cursor::new(Vec::new());
    let size = (picture.width as u32, picture.height as u32);
    PngEncoder::new(&mut bytes)
        .write_image(&picture.data, size.0, size.1, ExtendedColorType::Rgb8)
        .map_err(|error| DecodeError::Damaged(error.to_string()))?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_is_bounded_and_the_shape_kept() {
        let sample = crate::builtin::emoji().unwrap().samples.remove(0);
        let bytes = sample.visual.sources()[0].read().unwrap();
        for (side, expected) in [(32, 32), (500, 72)] {
            let small = crate::decode::decode_rgb(
                &thumbnail(&bytes, side).unwrap(),
                &Limits::default(),
                true,
            )
            .unwrap();
            assert_eq!((small.width, small.height), (expected, expected));
        }
        assert!(thumbnail(b"not a picture", 32).is_err());
    }
}
