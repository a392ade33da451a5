//! Labelled pictures side by side.

use chiasm_data::Rgb;
use chiasm_data::resample::{Filter, resize};

use super::fill;
use super::label::{GLYPH, write};

/// A picture with what it is.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Above it, in large letters.
    pub title: String,
    /// Below that, in small ones.
    pub note: String,
    /// The picture.
    pub picture: Rgb,
}

/// Width of a picture in a panel, in pixels.
const WIDTH: usize = 256;
const MARGIN: usize = 8;
const LARGE: usize = 2;

/// Tiles row after row, `columns` in each, black on white.
#[must_use]
pub fn panel(tiles: &[Tile], columns: usize) -> Rgb {
    let columns = columns.clamp(1, tiles.len().max(1));
    let small: Vec<Rgb> = tiles.iter().map(|tile| fitted(&tile.picture)).collect();
    let head = GLYPH * LARGE + GLYPH + 3 * MARGIN / 2;
    let heights: Vec<usize> = small
        .chunks(columns)
        .map(|row| row.iter().map(|picture| picture.height).max().unwrap_or(0) + head + MARGIN)
        .collect();
    let width = columns * (WIDTH + MARGIN) + MARGIN;
    let height = heights.iter().sum::<usize>() + MARGIN;
    let mut out = white(width, height);
    let mut top = MARGIN;
    for ((row, pictures), height) in tiles
        .chunks(columns)
        .zip(small.chunks(columns))
        .zip(&heights)
    {
        for (column, (tile, picture)) in row.iter().zip(pictures).enumerate() {
            let left = MARGIN + column * (WIDTH + MARGIN);
            let line = |text: &str, scale: usize| cut(text, WIDTH / (GLYPH * scale));
            write(
                &mut out,
                [left, top],
                &line(&tile.title, LARGE),
                LARGE,
                [0; 3],
                None,
            );
            let below = top + GLYPH * LARGE + MARGIN / 2;
            write(
                &mut out,
                [left, below],
                &line(&tile.note, 1),
                1,
                [60; 3],
                None,
            );
            paste(&mut out, picture, [left, top + head]);
        }
        top += height;
    }
    out
}

fn white(width: usize, height: usize) -> Rgb {
    let mut picture = Rgb {
        width,
        height,
        data: vec![0; width * height * 3],
    };
    fill(&mut picture, [0, 0, width, height], [255; 3]);
    picture
}

fn fitted(picture: &Rgb) -> Rgb {
    let height = (picture.height * WIDTH / picture.width.max(1)).clamp(1, 4 * WIDTH);
    resize(picture, WIDTH, height, Filter::Bicubic)
}

/// A line of at most so many letters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept = text.chars().take(most.saturating_sub(2));
    kept.chain("..".chars()).collect()
}

fn paste(onto: &mut Rgb, picture: &Rgb, [x, y]: [usize; 2]) {
    let len = onto.width * 3;
    let rows = onto.data.chunks_exact_mut(len.max(1)).skip(y);
    for (row, from) in rows.zip(picture.data.chunks_exact((picture.width * 3).max(1))) {
        if let Some(place) = row.get_mut(3 * x..3 * (x + picture.width)) {
            place.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_of_any_shape_and_label_fit() {
        let tile = |title: &str, width, height| Tile {
            title: title.to_owned(),
            note: "x".repeat(500),
            picture: Rgb::new(width, height, vec![9; width * height * 3]).unwrap(),
        };
        let tiles = [
            tile("кот 猫 🐈", 1, 900),
            tile("", 900, 1),
            tile(&"long".repeat(99), 30, 20),
        ];
        let drawn = panel(&tiles, 2);
        assert_eq!(drawn.data.len(), drawn.width * drawn.height * 3);
        assert_eq!(drawn.width, 2 * 256 + 24);
        // Letters are there, and only where letters are to be.
        let dark = |rows: std::ops::Range<usize>| {
            let row = 3 * drawn.width;
            drawn.data[rows.start * row..rows.end * row]
                .iter()
                .filter(|v| **v < 50)
                .count()
        };
        assert!(dark(8..24) > 50);
        assert_eq!(dark(0..8), 0);
        assert_eq!(panel(&[], 3).height, MARGIN);
    }
}
