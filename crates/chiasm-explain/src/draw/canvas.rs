//! What maps are drawn on: a photograph, a photograph with regions, or the frames of a clip.

use burn::tensor::Tensor;
use chiasm_data::decode::{Limits, decode};
use chiasm_data::frames::still_source;
use chiasm_data::{Preprocess, Rect, Rgb, Sample};
use chiasm_nn::model::Seen;

use super::{heat_of, regions, scaled, seen_part};
use crate::error::ExplainError;
use crate::layout::Places;
use crate::subject::host;

/// What a map is drawn on.
#[derive(Clone, Debug)]
pub enum Canvas {
    /// A picture, and the part of it that the model sees.
    Photo {
        /// The picture.
        picture: Rgb,
        /// As fractions of it.
        part: Rect,
    },
    /// A picture with regions.
    Regions {
        /// The picture.
        picture: Rgb,
        /// Its regions.
        boxes: Vec<Rect>,
    },
    /// Frames as the model sees them.
    Frames(Vec<Rgb>),
}

impl Canvas {
    /// Of a sample, of which the model sees `seen`.
    ///
    /// # Errors
    /// A picture that cannot be read.
    pub fn of(
        sample: &Sample,
        seen: &Seen,
        preprocess: Option<&Preprocess>,
    ) -> Result<Self, ExplainError> {
        let preprocess = preprocess.ok_or(ExplainError::Lacks(
            "the model sees no pictures",
            "give a model of pictures",
        ))?;
        if let Seen::Pixels(pixels) = seen
            && pixels.dims()[1] > 1
        {
            return Ok(Self::Frames(frames(pixels, preprocess)?));
        }
        let bytes = still_source(sample)?.read()?;
        let picture = decode(&bytes, &Limits::default(), true, preprocess.alpha)
            .map_err(|error| ExplainError::Picture(format!("`{}`: {error}", sample.id)))?;
        match seen {
            Seen::Regions(regions) => {
                let corners = host(regions.boxes.clone())?;
                let rect = |&[x1, y1, x2, y2]: &[f32; 4]| Rect { x1, y1, x2, y2 };
                let boxes = corners.as_chunks::<4>().0.iter().map(rect).collect();
                Ok(Self::Regions { picture, boxes })
            }
            Seen::Pixels(_) => {
                let part = seen_part(preprocess, picture.width, picture.height);
                Ok(Self::Photo { picture, part })
            }
        }
    }

    /// Whether there is nothing that a map could be over: a picture without regions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Regions { boxes, .. } if boxes.is_empty())
    }

    /// Without a map.
    #[must_use]
    pub fn plain(&self) -> Rgb {
        match self {
            Self::Photo { picture, .. } | Self::Regions { picture, .. } => picture.clone(),
            Self::Frames(frames) => row(frames),
        }
    }

    /// With a map over `places`.
    #[must_use]
    pub fn draw(&self, map: &[f32], places: Places) -> Rgb {
        match (self, places) {
            (Self::Photo { picture, part }, Places::Patches { side, .. }) => {
                heat_of(picture, &scaled(map), side, *part, true)
            }
            (Self::Regions { picture, boxes }, _) => regions(picture, boxes, map),
            (Self::Frames(frames), Places::Patches { side, .. }) => {
                // All frames on one scale, the cross where the whole clip is strongest.
                let values = scaled(map);
                let strongest = values.iter().copied().fold(0.0, f32::max);
                let whole = Rect {
                    x1: 0.0,
                    y1: 0.0,
                    x2: 1.0,
                    y2: 1.0,
                };
                let maps = values.chunks((side * side).max(1));
                let drawn = frames.iter().zip(maps).map(|(frame, map)| {
                    let marked = strongest > 0.0 && map.contains(&strongest);
                    heat_of(frame, map, side, whole, marked)
                });
                row(&drawn.collect::<Vec<_>>())
            }
            (_, Places::Regions(_)) => self.plain(),
        }
    }

    /// Where the strongest place is, in words.
    #[must_use]
    pub fn strongest(&self, map: &[f32], places: Places) -> Option<String> {
        let best = (0..map.len()).rev().max_by(|a, b| {
            let of = |at: &usize| map.get(*at).copied().unwrap_or(f32::MIN);
            of(a).total_cmp(&of(b))
        })?;
        if map.get(best).is_none_or(|value| *value <= 0.0) {
            return None;
        }
        let per_cent = |value: f32| format!("{:.0} %", 100.0 * value);
        match (places, self) {
            (Places::Regions(_), _) => Some(format!("region {best}")),
            (Places::Patches { side, frames }, canvas) => {
                let (frame, cell) = (best / (side * side), best % (side * side));
                let centre = |step: usize| (step as f32 + 0.5) / side as f32;
                let (mut x, mut y) = (centre(cell % side), centre(cell / side));
                if let Self::Photo { part, .. } = canvas {
                    x = part.x1 + x * (part.x2 - part.x1);
                    y = part.y1 + y * (part.y2 - part.y1);
                }
                let place = format!("{} across, {} down", per_cent(x), per_cent(y));
                Some(match frames {
                    1 => place,
                    _ => format!("frame {frame}, {place}"),
                })
            }
        }
    }
}

/// Frames from normalised pixels, `[1, frames, 3, side, side]`.
fn frames(pixels: &Tensor<5>, preprocess: &Preprocess) -> Result<Vec<Rgb>, ExplainError> {
    let [_, frames, channels, height, width] = pixels.dims();
    let values = host(pixels.clone())?;
    let plane = (height * width).max(1);
    let frame = |values: &[f32]| {
        let mut data = vec![0; plane * channels];
        for (channel, plane) in values.chunks(plane).enumerate() {
            let scale = preprocess.std.get(channel).copied().unwrap_or(1.0);
            let mean = preprocess.mean.get(channel).copied().unwrap_or(0.0);
            let places = data.iter_mut().skip(channel).step_by(channels);
            for (place, value) in places.zip(plane) {
                *place = ((value * scale + mean) * 255.0).round().clamp(0.0, 255.0) as u8;
            }
        }
        Rgb::new(width, height, data)
    };
    let all = values.chunks((plane * channels).max(1)).take(frames);
    let all: Option<Vec<Rgb>> = all.map(frame).collect();
    all.ok_or_else(|| ExplainError::Picture("frames of no size".to_owned()))
}

/// Pictures of one height beside each other.
fn row(pictures: &[Rgb]) -> Rgb {
    let height = pictures
        .iter()
        .map(|picture| picture.height)
        .max()
        .unwrap_or(0);
    let width = pictures.iter().map(|picture| picture.width).sum();
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for picture in pictures {
            let len = picture.width * 3;
            let line = picture.data.get(y * len..(y + 1) * len);
            data.extend_from_slice(line.unwrap_or(&vec![0; len]));
        }
    }
    Rgb {
        width,
        height,
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_said_in_words() {
        let picture = Rgb::new(20, 10, vec![9; 600]).unwrap();
        let part = seen_part(&Preprocess::new(10), 20, 10);
        let canvas = Canvas::Photo { picture, part };
        let places = Places::Patches { side: 2, frames: 1 };
        let strongest = canvas.strongest(&[0.0, 0.0, 0.0, 1.0], places).unwrap();
        assert_eq!(strongest, "62 % across, 75 % down");
        assert_eq!(canvas.strongest(&[0.0; 4], places), None);
        assert_eq!(canvas.strongest(&[], places), None);
    }

    #[test]
    fn frames_stand_beside_each_other_on_one_scale() {
        let frame = Rgb::new(16, 16, vec![100; 768]).unwrap();
        let canvas = Canvas::Frames(vec![frame.clone(), frame]);
        let places = Places::Patches { side: 1, frames: 2 };
        let drawn = canvas.draw(&[0.0, 1.0], places);
        assert_eq!((drawn.width, drawn.height), (32, 16));
        let green = |x: usize| drawn.data[3 * x + 1];
        assert!(green(31) > green(0));
        assert_eq!(
            canvas.strongest(&[0.0, 1.0], places).unwrap(),
            "frame 1, 50 % across, 50 % down"
        );
    }
}
