//! Capital letters of 5 x 7 pixels.

/// Width of a letter in pixels.
pub(super) const WIDTH: usize = 5;
/// Height of a letter in pixels.
pub(super) const HEIGHT: usize = 7;

/// Rows from the top; the lowest of five bits is the rightmost pixel.
type Letter = [u8; HEIGHT];

const LETTERS: [Letter; 26] = [
    [
        0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001,
    ],
    [
        0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110,
    ],
    [
        0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110,
    ],
    [
        0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110,
    ],
    [
        0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111,
    ],
    [
        0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000,
    ],
    [
        0b01110, 0b10001, 0b10000, 0b10111, 0b10001, 0b10001, 0b01110,
    ],
    [
        0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001,
    ],
    [
        0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110,
    ],
    [
        0b00111, 0b00010, 0b00010, 0b00010, 0b00010, 0b10010, 0b01100,
    ],
    [
        0b10001, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010, 0b10001,
    ],
    [
        0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111,
    ],
    [
        0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001,
    ],
    [
        0b10001, 0b11001, 0b11001, 0b10101, 0b10011, 0b10011, 0b10001,
    ],
    [
        0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110,
    ],
    [
        0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000,
    ],
    [
        0b01110, 0b10001, 0b10001, 0b10001, 0b10101, 0b10010, 0b01101,
    ],
    [
        0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001,
    ],
    [
        0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110,
    ],
    [
        0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100,
    ],
    [
        0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110,
    ],
    [
        0b10001, 0b10001, 0b10001, 0b10001, 0b01010, 0b01010, 0b00100,
    ],
    [
        0b10001, 0b10001, 0b10001, 0b10101, 0b10101, 0b11011, 0b10001,
    ],
    [
        0b10001, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001, 0b10001,
    ],
    [
        0b10001, 0b10001, 0b01010, 0b00100, 0b00100, 0b00100, 0b00100,
    ],
    [
        0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b11111,
    ],
];

/// Whether a pixel of a capital letter is set; nothing is of another character.
pub(super) fn is_set(letter: u8, x: usize, y: usize) -> bool {
    let place = letter.checked_sub(b'A').map(usize::from);
    let row = place.and_then(|place| LETTERS.get(place)?.get(y));
    x < WIDTH && row.is_some_and(|row| row >> (WIDTH - 1 - x) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_differ_and_fill_their_height() {
        for (place, letter) in LETTERS.iter().enumerate() {
            assert!(letter[0] != 0 && letter[HEIGHT - 1] != 0, "{place}");
            let twins = LETTERS.iter().filter(|other| *other == letter);
            assert_eq!(twins.count(), 1, "{place}");
        }
        assert!(is_set(b'L', 0, 0) && !is_set(b'L', 4, 0) && is_set(b'L', 4, 6));
        assert!(!is_set(b'a', 0, 0) && !is_set(b'A', 5, 3) && !is_set(b'A', 0, 7));
    }
}
