//! Pictures of maps: heat on a photograph, regions by brightness, and panels of labelled tiles.
//!
//! Nothing is said by colour alone: the colours rise in lightness with the value, the strongest place is
//! marked by a cross, and regions are bright or dark and carry their share as a number.

mod canvas;
mod label;
mod panel;

use chiasm_data::transform::{center_offset, short_side_size};
use chiasm_data::{Preprocess, Rect, Resize, Rgb, thumbnail};

use crate::error::ExplainError;
pub use canvas::Canvas;
pub use label::{GLYPH, write};
pub use panel::{Tile, panel};

/// The colour map viridis at 33 equal steps, between which it is interpolated (at most 2 of 255 apart
/// from the original). By Stéfan van der Walt and Nathaniel Smith for matplotlib, released under CC0.
const VIRIDIS: [[u8; 3]; 33] = [
    [68, 1, 84],
    [71, 13, 96],
    [72, 24, 106],
    [72, 35, 116],
    [71, 45, 123],
    [69, 54, 129],
    [66, 64, 134],
    [63, 73, 137],
    [59, 82, 139],
    [55, 90, 141],
    [51, 99, 141],
    [47, 106, 142],
    [44, 114, 142],
    [41, 122, 142],
    [38, 129, 142],
    [35, 137, 142],
    [33, 144, 140],
    [31, 152, 139],
    [31, 159, 136],
    [33, 166, 133],
    [40, 174, 128],
    [49, 181, 123],
    [62, 188, 116],
    [76, 194, 108],
    [93, 201, 99],
    [110, 206, 88],
    [130, 211, 76],
    [150, 216, 63],
    [171, 220, 50],
    [192, 223, 36],
    [213, 226, 26],
    [234, 229, 26],
    [253, 231, 37],
];

/// Regions whose outline and share are drawn.
const OUTLINED: usize = 3;

/// The colour of a value from 0 to 1; what is not a number has that of 0.
#[must_use]
pub fn colour(value: f32) -> [u8; 3] {
    let steps = (VIRIDIS.len() - 1) as f32;
    let place = if value.is_nan() {
        0.0
    } else {
        value.clamp(0.0, 1.0) * steps
    };
    let low = place.floor();
    let at = |step: f32| VIRIDIS.get(step as usize).copied().unwrap_or_default();
    let (below, above) = (at(low), at(place.ceil()));
    let part = place - low;
    std::array::from_fn(|channel| {
        let (below, above) = (f32::from(below[channel]), f32::from(above[channel]));
        (below + (above - below) * part).round() as u8
    })
}

/// A map brought to 0 to 1: what is negative or not a number becomes 0, then the least becomes 0 and the
/// largest 1. A map that is the same everywhere becomes zeros.
#[must_use]
pub fn scaled(map: &[f32]) -> Vec<f32> {
    let positive = map.iter().map(|value| {
        if value.is_finite() {
            value.max(0.0)
        } else {
            0.0
        }
    });
    let positive: Vec<f32> = positive.collect();
    let least = positive.iter().copied().fold(f32::INFINITY, f32::min);
    let shifted: Vec<f32> = positive.iter().map(|value| value - least).collect();
    let largest = shifted.iter().copied().fold(0.0, f32::max);
    // As pytorch-grad-cam divides; what is tiny beside nothing stays dark.
    shifted
        .iter()
        .map(|value| value / (1e-7 + largest))
        .collect()
}

/// A square map in another size, bilinear between the centres of its cells, `[height, width]`.
#[must_use]
pub fn enlarged(map: &[f32], side: usize, [width, height]: [usize; 2]) -> Vec<f32> {
    let place = |at: usize, of: usize| {
        let centre = (at as f32 + 0.5) * side as f32 / of.max(1) as f32 - 0.5;
        let centre = centre.clamp(0.0, side.saturating_sub(1) as f32);
        let low = centre.floor() as usize;
        (
            low,
            (low + 1).min(side.saturating_sub(1)),
            centre - centre.floor(),
        )
    };
    let columns: Vec<_> = (0..width).map(|x| place(x, width)).collect();
    let at = |row: usize, column: usize| map.get(row * side + column).copied().unwrap_or(0.0);
    let mut out = Vec::with_capacity(width * height);
    for y in 0..height {
        let (top, bottom, down) = place(y, height);
        for (left, right, across) in &columns {
            let line = |row: usize| at(row, *left) + (at(row, *right) - at(row, *left)) * across;
            out.push(line(top) + (line(bottom) - line(top)) * down);
        }
    }
    out
}

/// The part of a picture that a model sees after its preprocessing.
#[must_use]
pub fn seen_part(preprocess: &Preprocess, width: usize, height: usize) -> Rect {
    let size = preprocess.image_size;
    let side = preprocess.resize_to.unwrap_or(size);
    let (w, h) = match preprocess.resize {
        Resize::Squash => (side, side),
        Resize::ShortSideCenterCrop => short_side_size(width, height, side),
    };
    let part = |whole: usize| {
        let start = center_offset(whole, size) as f32;
        let whole = whole.max(1) as f32;
        (start / whole, ((start + size as f32) / whole).min(1.0))
    };
    let ((x1, x2), (y1, y2)) = (part(w), part(h));
    Rect { x1, y1, x2, y2 }
}

/// Heat over the part of a picture that a square map is of: half photograph, half colour. What the model
/// does not see is darkened; the strongest place has a cross.
#[must_use]
pub fn heat(picture: &Rgb, map: &[f32], side: usize, part: Rect) -> Rgb {
    heat_of(picture, &scaled(map), side, part, true)
}

/// As [`heat`], of a map whose values are 0 to 1 already; `marked` says whether there is a cross.
pub(crate) fn heat_of(picture: &Rgb, map: &[f32], side: usize, part: Rect, marked: bool) -> Rgb {
    let mut out = picture.clone();
    let window = part.pixels(picture.width, picture.height);
    let size = [window.width, window.height];
    let values = enlarged(map, side, size);
    for (y, row) in out
        .data
        .chunks_exact_mut(3 * picture.width.max(1))
        .enumerate()
    {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let inside = (window.x..window.x + window.width).contains(&x)
                && (window.y..window.y + window.height).contains(&y);
            if !inside {
                pixel.iter_mut().for_each(|channel| *channel /= 3);
                continue;
            }
            let place = (y - window.y) * window.width + x - window.x;
            let heat = colour(values.get(place).copied().unwrap_or(0.0));
            for (channel, heat) in pixel.iter_mut().zip(heat) {
                *channel = ((u16::from(*channel) + u16::from(heat)) / 2) as u8;
            }
        }
    }
    // Of equal cells the first; the cross is in its middle.
    let order = |a: &usize, b: &usize| {
        let of = |cell: usize| map.get(cell).copied().unwrap_or(0.0);
        of(*a).total_cmp(&of(*b))
    };
    let strongest = (0..map.len()).rev().max_by(order);
    let is_there = |cell: &usize| map.get(*cell).is_some_and(|value| *value > 0.0);
    if let Some(cell) = strongest.filter(|cell| marked && side > 0 && is_there(cell)) {
        let centre = |step: usize, whole: usize| (2 * step + 1) * whole / (2 * side);
        let (x, y) = (centre(cell % side, size[0]), centre(cell / side, size[1]));
        cross(&mut out, window.x + x, window.y + y);
    }
    out
}

/// Regions by brightness: what is looked at stays bright, the rest goes dark (`specs/tbkin.md` section
/// 8.2). The strongest have an outline and their share of the attention in per cent.
#[must_use]
pub fn regions(picture: &Rgb, boxes: &[Rect], weights: &[f32]) -> Rgb {
    /// Of 255: how far what is not looked at is darkened, and the most that is left.
    const FALL: f32 = 180.0;
    const MOST: f32 = 250.0;
    let (width, height) = (picture.width, picture.height);
    let mut canvas = vec![0.0f32; width * height];
    for (rect, weight) in boxes.iter().zip(weights) {
        let window = rect.pixels(width, height);
        for row in canvas
            .chunks_exact_mut(width.max(1))
            .skip(window.y)
            .take(window.height)
        {
            for value in row.iter_mut().skip(window.x).take(window.width) {
                *value += if weight.is_finite() {
                    weight.max(0.0)
                } else {
                    0.0
                };
            }
        }
    }
    let mut out = picture.clone();
    for (pixel, light) in out.data.chunks_exact_mut(3).zip(scaled(&canvas)) {
        let value = pixel.iter().copied().max().map_or(0.0, f32::from);
        let wanted = (value - FALL + FALL * light.powf(0.3)).clamp(0.0, MOST);
        let factor = if value > 0.0 { wanted / value } else { 0.0 };
        for channel in pixel.iter_mut() {
            *channel = (f32::from(*channel) * factor).round() as u8;
        }
    }
    let total: f32 = weights.iter().map(|weight| weight.max(0.0)).sum();
    let mut order: Vec<(usize, f32)> = weights.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let line = (width.max(height) / 320).max(1);
    for (number, weight) in order.into_iter().take(OUTLINED).rev() {
        if weight <= 0.0 || total <= 0.0 {
            continue;
        }
        if let Some(rect) = boxes.get(number) {
            outline(&mut out, *rect, line, [255, 255, 255]);
            let window = rect.pixels(width, height);
            let share = 100.0 * weight / total;
            let text = format!("{number}: {share:.0}%");
            // Whole, also at the right border.
            let most = width.saturating_sub(text.chars().count() * GLYPH * line);
            let place = [window.x.min(most), window.y];
            write(&mut out, place, &text, line, [0; 3], Some([255; 3]));
        }
    }
    out
}

/// The outline of a box.
pub fn outline(picture: &mut Rgb, rect: Rect, line: usize, ink: [u8; 3]) {
    let window = rect.pixels(picture.width, picture.height);
    let (right, bottom) = (window.x + window.width, window.y + window.height);
    let sides = [
        [window.x, window.y, window.width, line],
        [window.x, bottom.saturating_sub(line), window.width, line],
        [window.x, window.y, line, window.height],
        [right.saturating_sub(line), window.y, line, window.height],
    ];
    for side in sides {
        fill(picture, side, ink);
    }
}

/// A cross at a place: white with a black border, so that it is seen on every ground.
fn cross(picture: &mut Rgb, x: usize, y: usize) {
    let unit = (picture.width.max(picture.height) / 160).max(1);
    let (long, thin) = (5 * unit, unit);
    let bar = |across: usize, down: usize| {
        let start = |at: usize, len: usize| at.saturating_sub(len / 2);
        [start(x, across), start(y, down), across, down]
    };
    fill(picture, bar(long + 2 * thin, 3 * thin), [0; 3]);
    fill(picture, bar(3 * thin, long + 2 * thin), [0; 3]);
    fill(picture, bar(long, thin), [255; 3]);
    fill(picture, bar(thin, long), [255; 3]);
}

/// A block of one colour, `[x, y, width, height]`, as much of it as lies in the picture.
pub(crate) fn fill(picture: &mut Rgb, [x, y, width, height]: [usize; 4], colour: [u8; 3]) {
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

/// A picture as a PNG.
///
/// # Errors
/// If it cannot be encoded.
pub fn png(picture: &Rgb) -> Result<Vec<u8>, ExplainError> {
    thumbnail::png(picture).map_err(|error| ExplainError::Picture(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_rise_in_lightness() {
        let light = |value: f32| {
            let [r, g, b] = colour(value).map(f32::from);
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let steps: Vec<f32> = (0..=100).map(|step| light(step as f32 / 100.0)).collect();
        assert!(steps.windows(2).all(|pair| pair[0] <= pair[1] + 1.0));
        assert_eq!(colour(0.0), [68, 1, 84]);
        assert_eq!(colour(9.0), [253, 231, 37]);
        assert_eq!(colour(f32::NAN), colour(-1.0));
    }

    /// C2 and C5 of `specs/itr.md` section 9.7.
    #[test]
    fn maps_are_brought_to_0_to_1() {
        assert_eq!(scaled(&[0.0; 4]), [0.0; 4]);
        assert_eq!(scaled(&[]), [0.0f32; 0]);
        let found = scaled(&[-1.0, f32::NAN, 2.0, 4.0]);
        assert!((found[2] - 0.5).abs() < 1e-6 && (found[3] - 1.0).abs() < 1e-6);
        assert_eq!(found[..2], [0.0, 0.0]);
        let large = enlarged(&[0.0, 1.0, 1.0, 0.0], 2, [4, 4]);
        assert_eq!(large.len(), 16);
        assert_eq!(large[..4], [0.0, 0.25, 0.75, 1.0]);
        assert_eq!(enlarged(&[0.7], 1, [3, 2]), [0.7; 6]);
    }

    #[test]
    fn heat_lies_where_the_map_says() {
        let picture = Rgb::new(40, 20, vec![128; 40 * 20 * 3]).unwrap();
        // The upper right of what is seen, which is the middle of a wide picture.
        let preprocess = Preprocess::new(10);
        let part = seen_part(&preprocess, 40, 20);
        assert_eq!([part.x1, part.y1, part.x2, part.y2], [0.25, 0.0, 0.75, 1.0]);
        let map = [0.0, 1.0, 0.0, 0.0];
        let hot = heat(&picture, &map, 2, part);
        let pixel = |x: usize, y: usize| hot.data[3 * (40 * y + x)..][..3].to_vec();
        assert_eq!(pixel(2, 2), [42; 3]);
        let green = |x, y| pixel(x, y)[1];
        assert!(green(28, 9) > green(12, 9) && green(28, 9) > green(28, 17));
        // Colours are not swapped: hot is yellow, not blue.
        assert!(pixel(29, 1)[0] > pixel(29, 1)[2]);
        // The cross is in the middle of the cell.
        assert_eq!(pixel(25, 5), [255; 3]);
        let squash = Preprocess {
            resize: Resize::Squash,
            ..preprocess
        };
        let part = seen_part(&squash, 40, 20);
        assert_eq!([part.x1, part.y1, part.x2, part.y2], [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn regions_that_are_looked_at_stay_bright() {
        let picture = Rgb::new(400, 200, vec![200; 400 * 200 * 3]).unwrap();
        let rect = |x1, y1, x2, y2| Rect { x1, y1, x2, y2 };
        let boxes = [
            rect(0.0, 0.0, 0.5, 1.0),
            rect(0.5, 0.0, 1.0, 1.0),
            rect(9.0, f32::NAN, -1.0, 2.0),
        ];
        let drawn = regions(&picture, &boxes, &[0.1, 0.9, f32::NAN]);
        let pixel = |x: usize, y: usize| drawn.data[3 * (400 * y + x)];
        assert!(pixel(300, 150) > 190 && pixel(100, 150) < 60);
        let none = regions(&picture, &[], &[]);
        assert_eq!(none.data[0], 20);
    }
}
