//! Boxes drawn on a picture, each in a colour of its own with its number in its corner.

use chiasm_data::resample::Window;
use chiasm_data::{Rect, Rgb};

/// Colours that are told apart on photographs; the thirteenth box has the first again.
const COLOURS: [[u8; 3]; 12] = [
    [230, 25, 75],
    [60, 180, 75],
    [255, 225, 25],
    [0, 130, 200],
    [245, 130, 48],
    [145, 30, 180],
    [70, 240, 240],
    [240, 50, 230],
    [210, 245, 60],
    [250, 190, 212],
    [0, 128, 128],
    [220, 190, 255],
];

/// Digits of three by five cells, a row of three bits each from the top.
const DIGITS: [[u8; 5]; 10] = [
    [7, 5, 5, 5, 7],
    [2, 6, 2, 2, 7],
    [7, 1, 7, 4, 7],
    [7, 1, 7, 1, 7],
    [5, 5, 7, 1, 1],
    [7, 4, 7, 1, 7],
    [7, 4, 7, 5, 7],
    [7, 1, 2, 2, 2],
    [7, 5, 7, 5, 7],
    [7, 5, 7, 1, 7],
];

/// Draws boxes, the last one first, so that the best lie on top; each is numbered as in `boxes`, from 0.
pub fn boxes(picture: &mut Rgb, boxes: &[Rect]) {
    // Lines that a person sees when the picture is shown as large as a page.
    let line = (picture.width.max(picture.height) / 320).max(1);
    let numbered: Vec<(usize, &Rect)> = boxes.iter().enumerate().collect();
    for (number, rect) in numbered.into_iter().rev() {
        let colour = COLOURS
            .get(number % COLOURS.len())
            .copied()
            .unwrap_or_default();
        let window = outline(picture, rect, 0, line, colour);
        let (x, y) = (window.x, window.y);
        write(picture, number, x, y, line, colour);
    }
}

/// Draws two boxes that are compared: the first one, what is meant, green with a white edge, the second one,
/// what was found, orange with a black one. The found one lies on top.
pub fn meant_and_found(picture: &mut Rgb, meant: &Rect, found: Option<&Rect>) {
    let line = (picture.width.max(picture.height) / 200).max(1);
    let both = [
        (Some(meant), [0, 170, 90], [255; 3]),
        (found, [245, 130, 48], [0; 3]),
    ];
    for (rect, colour, edge) in both {
        if let Some(rect) = rect {
            outline(picture, rect, 0, line, colour);
            outline(picture, rect, line, line, edge);
        }
    }
}

/// The four sides of a box, so many pixels inside of it; where it lies.
fn outline(picture: &mut Rgb, rect: &Rect, inset: usize, line: usize, colour: [u8; 3]) -> Window {
    let whole = rect.pixels(picture.width, picture.height);
    let (x, y) = (whole.x + inset, whole.y + inset);
    let width = whole.width.saturating_sub(2 * inset);
    let height = whole.height.saturating_sub(2 * inset);
    let (right, bottom) = (x + width, y + height);
    fill(picture, x, y, width, line, colour);
    fill(picture, x, bottom.saturating_sub(line), width, line, colour);
    fill(picture, x, y, line, height, colour);
    fill(picture, right.saturating_sub(line), y, line, height, colour);
    whole
}

/// A number on a ground of the box's colour.
fn write(picture: &mut Rgb, number: usize, x: usize, y: usize, unit: usize, ground: [u8; 3]) {
    let text = number.to_string();
    fill(picture, x, y, (4 * text.len() + 1) * unit, 7 * unit, ground);
    // Black or white, whichever stands out from the ground.
    let [red, green, blue] = ground.map(u32::from);
    let ink = if 299 * red + 587 * green + 114 * blue > 140_000 {
        [0; 3]
    } else {
        [255; 3]
    };
    for (place, digit) in text.bytes().enumerate() {
        let rows = DIGITS.get(usize::from(digit.wrapping_sub(b'0')));
        for (down, row) in rows.into_iter().flatten().enumerate() {
            for across in 0..3 {
                if row & (4 >> across) != 0 {
                    let left = x + (1 + 4 * place + across) * unit;
                    fill(picture, left, y + (1 + down) * unit, unit, unit, ink);
                }
            }
        }
    }
}

/// A block of one colour, as much of it as lies in the picture.
fn fill(picture: &mut Rgb, x: usize, y: usize, width: usize, height: usize, colour: [u8; 3]) {
    let row_len = picture.width * 3;
    if row_len == 0 {
        return;
    }
    for row in picture.data.chunks_exact_mut(row_len).skip(y).take(height) {
        for pixel in row.chunks_exact_mut(3).skip(x).take(width) {
            pixel.copy_from_slice(&colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_stay_in_the_picture() {
        let rect = |x1, y1, x2, y2| Rect { x1, y1, x2, y2 };
        let all = [
            rect(0.25, 0.25, 0.75, 0.75),
            rect(-1.0, 0.5, 2.0, 9.0),
            rect(0.9, 0.9, 0.1, 0.1),
            rect(1.0, 1.0, 1.0, 1.0),
            rect(f32::NAN, 0.0, 0.5, 0.5),
        ];
        for (width, height) in [(1, 1), (40, 20), (3, 500), (641, 480)] {
            let mut picture = Rgb::new(width, height, vec![7; width * height * 3]).unwrap();
            boxes(&mut picture, &all);
            assert_eq!(picture.data.len(), width * height * 3);
        }
        let mut picture = Rgb::new(100, 100, vec![7; 30_000]).unwrap();
        boxes(&mut picture, &all[..1]);
        let pixel = |x: usize, y: usize| &picture.data[3 * (100 * y + x)..][..3];
        assert_eq!(pixel(74, 74), COLOURS[0]);
        assert_eq!(pixel(50, 25), COLOURS[0]);
        assert_eq!((pixel(50, 50), pixel(75, 75)), (&[7; 3][..], &[7; 3][..]));
    }

    #[test]
    fn two_boxes_are_told_apart() {
        let rect = |x1, y1, x2, y2| Rect { x1, y1, x2, y2 };
        let mut picture = Rgb::new(100, 100, vec![7; 30_000]).unwrap();
        let (meant, found) = (rect(0.1, 0.1, 0.5, 0.5), rect(0.5, 0.5, 0.9, 0.9));
        meant_and_found(&mut picture, &meant, Some(&found));
        let pixel = |x: usize, y: usize| &picture.data[3 * (100 * y + x)..][..3];
        assert_eq!(
            (pixel(10, 30), pixel(11, 30)),
            (&[0, 170, 90][..], &[255; 3][..])
        );
        assert_eq!(
            (pixel(50, 70), pixel(51, 70)),
            (&[245, 130, 48][..], &[0; 3][..])
        );
        assert_eq!(pixel(30, 30), [7; 3]);
        meant_and_found(&mut picture, &rect(0.9, 0.9, 0.1, 0.1), None);
    }
}
