//! What a relation rests on: what its class loses when a part of the picture or a word is hidden.
//!
//! Hides in the picture itself, so that it is the same for every encoder, also for two of them and for published ones.

use std::path::Path;
use std::sync::Arc;

use chiasm_data::decode::{Limits, decode};
use chiasm_data::{AlphaRule, Dataset, ImageSource, Rect, Rgb, Sample, atomic, thumbnail};
use chiasm_explain::draw::{heat, png};
use chiasm_train::recipe::DataConfig;
use serde::Serialize;

use super::{Related, Relater};
use crate::commands::eval::Bar;
use crate::error::CliError;

/// Longer side of the picture that is hidden parts of, in pixels; encoders see less.
const SIDE: usize = 384;

/// Cells along a side of the map.
const CELLS: usize = 8;

/// Cells along a side of what is hidden at a time; windows move by a cell.
const WINDOW: usize = 2;

/// Evidence for the most probable class of a pair.
#[derive(Debug, Serialize)]
pub(super) struct Evidence {
    /// The class.
    pub(super) class: String,
    /// Cells along a side of the map.
    side: usize,
    /// Log-odds that the class loses with each cell, row by row; negative where it gains.
    map: Vec<f32>,
    /// Words of the text with the log-odds that the class loses without each.
    pub(super) words: Vec<Word>,
}

/// A word, and what it tells.
#[derive(Debug, Serialize)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) weight: f32,
}

/// Finds the evidence, and draws the map on the picture.
pub(super) fn find(
    relater: &Relater,
    image: &Path,
    text: &str,
    out: &Path,
    bar: &mut Bar,
) -> Result<Evidence, CliError> {
    let wrong = |error: &dyn std::fmt::Display| {
        CliError::new(format!("{}: {error}", image.display()), None)
    };
    let source = ImageSource::Path(image.to_owned());
    let small = thumbnail::thumbnail(&source.read()?, SIDE).map_err(|error| wrong(&error))?;
    let picture = decode(&small, &Limits::default(), false, AlphaRule::OverWhite)
        .map_err(|error| wrong(&error))?;
    let starts = 0..=CELLS - WINDOW;
    let windows = starts
        .clone()
        .flat_map(|row| starts.clone().map(move |column| (row, column)));
    let windows: Vec<(usize, usize)> = windows.collect();
    let words = words(text);
    let colour = mean_colour(&picture);
    let mut pairs = vec![(picture.clone(), text.to_owned())];
    pairs.extend(
        windows
            .iter()
            .map(|window| (without(&picture, *window, colour), text.to_owned())),
    );
    pairs.extend(
        words
            .iter()
            .map(|(_, without)| (picture.clone(), without.clone())),
    );
    let said = relater.relate(&DataConfig::default(), &dataset(pairs)?, bar)?;
    let Some((whole, rest)) = said.split_first() else {
        return Err(CliError::new("nothing was said of the pair", None));
    };
    let best = whole.probabilities.iter();
    let best = best.max_by(|a, b| a.probability.total_cmp(&b.probability));
    let class = best.map_or_else(String::new, |best| best.class.clone());
    let lost = |said: &Related| log_odds(whole, &class) - log_odds(said, &class);
    let (hidden, shorter) = rest.split_at(windows.len().min(rest.len()));
    let (mut sums, mut times) = ([0.0_f32; CELLS * CELLS], [0.0_f32; CELLS * CELLS]);
    for ((row, column), said) in windows.iter().zip(hidden) {
        for (row, column) in
            (0..WINDOW * WINDOW).map(|at| (row + at / WINDOW, column + at % WINDOW))
        {
            if let (Some(sum), Some(time)) = (
                sums.get_mut(row * CELLS + column),
                times.get_mut(row * CELLS + column),
            ) {
                *sum += lost(said);
                *time += 1.0;
            }
        }
    }
    let map: Vec<f32> = sums
        .iter()
        .zip(times)
        .map(|(sum, time)| sum / time.max(1.0))
        .collect();
    let whole_picture = Rect {
        x1: 0.0,
        y1: 0.0,
        x2: 1.0,
        y2: 1.0,
    };
    let drawn = png(&heat(&picture, &map, CELLS, whole_picture))?;
    atomic::write_bytes(out, &drawn)
        .map_err(|error| CliError::new(format!("{}: {error}", out.display()), None))?;
    let words = words
        .into_iter()
        .zip(shorter)
        .map(|((text, _), said)| Word {
            text,
            weight: lost(said),
        });
    Ok(Evidence {
        words: words.collect(),
        class,
        side: CELLS,
        map,
    })
}

/// The pairs as a data set, pictures in memory.
fn dataset(pairs: Vec<(Rgb, String)>) -> Result<Dataset, CliError> {
    let sample = |(number, (picture, text)): (usize, (Rgb, String))| {
        let bytes: Arc<[u8]> = png(&picture)?.into();
        Ok(Sample::of_picture(
            number.to_string(),
            ImageSource::Bytes(bytes),
            vec![text],
        ))
    };
    Ok(Dataset {
        name: "evidence".to_owned(),
        samples: pairs
            .into_iter()
            .enumerate()
            .map(sample)
            .collect::<Result<_, CliError>>()?,
    })
}

/// Words, each with the text without it; none of a text of one word, which says nothing without it.
fn words(text: &str) -> Vec<(String, String)> {
    let all: Vec<&str> = text.split_whitespace().collect();
    if all.len() < 2 {
        return Vec::new();
    }
    let without = |(place, word): (usize, &&str)| {
        let (before, after) = all.split_at(place);
        let rest = before.iter().chain(after.iter().skip(1));
        let rest: Vec<&str> = rest.copied().collect();
        ((*word).to_owned(), rest.join(" "))
    };
    all.iter().enumerate().map(without).collect()
}

/// The mean colour of a picture.
fn mean_colour(picture: &Rgb) -> [u8; 3] {
    let pixels = (picture.data.len() / 3).max(1) as u64;
    let mut sums = [0_u64; 3];
    for pixel in picture.data.chunks_exact(3) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(*value);
        }
    }
    sums.map(|sum| (sum / pixels) as u8)
}

/// A copy of the picture in which the window whose first cell is given has one colour.
fn without(picture: &Rgb, (row, column): (usize, usize), colour: [u8; 3]) -> Rgb {
    let mut copy = picture.clone();
    let edge = |cell: usize, whole: usize| cell * whole / CELLS;
    let (top, bottom) = (
        edge(row, picture.height),
        edge(row + WINDOW, picture.height),
    );
    let (left, right) = (
        edge(column, picture.width),
        edge(column + WINDOW, picture.width),
    );
    let lines = copy.data.chunks_exact_mut(3 * picture.width.max(1));
    for line in lines.take(bottom).skip(top) {
        for pixel in line.chunks_exact_mut(3).take(right).skip(left) {
            pixel.copy_from_slice(&colour);
        }
    }
    copy
}

fn log_odds(said: &Related, class: &str) -> f32 {
    /// Nothing is more certain than this: what follows stays finite.
    const LEAST: f64 = 1e-9;
    let mut named = said.probabilities.iter();
    let own = named.find(|own| own.class == class);
    let own = own
        .map_or(0.5, |own| own.probability)
        .clamp(LEAST, 1.0 - LEAST);
    (own / (1.0 - own)).ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_the_mean_colour_and_nothing_else_changes() {
        let picture =
            Rgb::new(16, 8, (0..16 * 8 * 3).map(|at| (at % 251) as u8).collect()).unwrap();
        let copy = without(&picture, (6, 0), mean_colour(&picture));
        let changed = picture.data.chunks(3).zip(copy.data.chunks(3)).enumerate();
        let changed: Vec<usize> = changed
            .filter(|(_, (a, b))| a != b)
            .map(|(at, _)| at)
            .collect();
        let inside = |at: &usize| at / 16 >= 6 && at % 16 < 4;
        assert!(
            !changed.is_empty() && changed.iter().all(inside),
            "{changed:?}"
        );
        assert_eq!(
            copy.data[7 * 48..7 * 48 + 3],
            copy.data[6 * 48 + 3..6 * 48 + 6]
        );
    }
}
