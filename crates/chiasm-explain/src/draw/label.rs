//! Letters on pictures: an 8 by 8 bitmap font.

use chiasm_data::Rgb;
use font8x8::UnicodeFonts as _;

use super::fill;

/// Side of a letter at scale 1.
pub const GLYPH: usize = 8;

/// Stands for a letter that the font does not have.
const UNKNOWN: char = '?';

/// Writes a line at `[x, y]`, each dot `scale` pixels wide; what does not fit is cut off at the border.
/// Letters beyond Latin, Greek and Hiragana become question marks: the page and the JSON have the text.
pub fn write(
    picture: &mut Rgb,
    [x, y]: [usize; 2],
    text: &str,
    scale: usize,
    ink: [u8; 3],
    ground: Option<[u8; 3]>,
) {
    for (place, letter) in text.chars().enumerate() {
        let left = x + place * GLYPH * scale;
        if left >= picture.width {
            return;
        }
        if let Some(ground) = ground {
            fill(picture, [left, y, GLYPH * scale, GLYPH * scale], ground);
        }
        for (down, row) in glyph(letter).into_iter().enumerate() {
            for across in (0..GLYPH).filter(|across| row & (1 << across) != 0) {
                let dot = [left + across * scale, y + down * scale, scale, scale];
                fill(picture, dot, ink);
            }
        }
    }
}

fn glyph(letter: char) -> [u8; 8] {
    let find = |letter: char| {
        font8x8::BASIC_FONTS
            .get(letter)
            .or_else(|| font8x8::LATIN_FONTS.get(letter))
            .or_else(|| font8x8::GREEK_FONTS.get(letter))
            .or_else(|| font8x8::HIRAGANA_FONTS.get(letter))
    };
    find(letter).or_else(|| find(UNKNOWN)).unwrap_or_default()
}
