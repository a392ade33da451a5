//! The pictures: scenes, shapes and lettering as pixels.
//!
//! A pixel of a shape is the share of [`GRID`] x [`GRID`] points in it that lie inside; a shape is a
//! formula. Nothing here is random: the random parts of a scene follow from its salt.

use super::font;
use super::post::{Colour, Figure, Scene, Shape};
use crate::dataset::Rect;
use crate::rng;

/// Width and height of a picture in pixels.
pub(super) const SIDE: usize = 96;

/// Points along a side of a pixel that are looked at.
const GRID: usize = 3;

/// Around every shape, as a factor of its size.
const OUTLINE: f32 = 1.18;

const INK: [u8; 3] = [28, 28, 36];
const WHITE: [u8; 3] = [255, 255, 255];

/// A letter's pixel is as many pixels wide.
const LETTER_SCALE: usize = 2;
/// Space around lettering.
const MARGIN: usize = 2;
/// Height of a line of lettering with the space around it.
pub(super) const LINE: usize = font::HEIGHT * LETTER_SCALE + 2 * MARGIN;

/// A square picture that is being drawn.
pub(super) struct Canvas {
    /// Rows from the top.
    pub(super) pixels: Vec<u8>,
}

impl Canvas {
    pub(super) fn new() -> Self {
        Self {
            pixels: vec![0; SIDE * SIDE * 3],
        }
    }

    /// Lays a colour over a pixel, as far as `cover` says from 0 to 1.
    fn blend(&mut self, x: usize, y: usize, colour: [u8; 3], cover: f32) {
        if x >= SIDE || y >= SIDE {
            return;
        }
        let start = (y * SIDE + x) * 3;
        for (value, new) in self.pixels.iter_mut().skip(start).zip(colour) {
            let mixed = f32::from(*value) * (1.0 - cover) + f32::from(new) * cover;
            *value = (mixed + 0.5) as u8;
        }
    }

    fn fill(&mut self, columns: std::ops::Range<usize>, rows: std::ops::Range<usize>, to: [u8; 3]) {
        for y in rows {
            for x in columns.clone() {
                self.blend(x, y, to, 1.0);
            }
        }
    }

    /// Colours what lies inside; `inside` is asked about points in pixels.
    fn paint(&mut self, colour: [u8; 3], bounds: [f32; 4], inside: impl Fn(f32, f32) -> bool) {
        let [left, top, right, bottom] = bounds.map(|at| at.clamp(0.0, SIDE as f32));
        for y in top as usize..bottom.ceil() as usize {
            for x in left as usize..right.ceil() as usize {
                let points = (0..GRID * GRID).filter(|point| {
                    let part = |at: usize| (at as f32 + 0.5) / GRID as f32;
                    inside(x as f32 + part(point % GRID), y as f32 + part(point / GRID))
                });
                let cover = points.count() as f32 / (GRID * GRID) as f32;
                if cover > 0.0 {
                    self.blend(x, y, colour, cover);
                }
            }
        }
    }

    /// Fills the whole picture.
    pub(super) fn scene(&mut self, scene: Scene, salt: u64) {
        let mut rng = rng::stream(salt, "synthitr/scene", &[]);
        let whole = [0.0, 0.0, SIDE as f32, SIDE as f32];
        match scene {
            Scene::Beach => {
                self.fill(0..SIDE, 0..SIDE, [160, 214, 240]);
                self.fill(0..SIDE, 46..66, [70, 150, 190]);
                let phase = rng::uniform(&mut rng, 0.0, 6.3) as f32;
                self.paint([236, 214, 160], whole, |x, y| {
                    y > 64.0 + 3.0 * (x / 9.0 + phase).sin()
                });
            }
            Scene::City => {
                self.fill(0..SIDE, 0..SIDE, [196, 200, 206]);
                let mut left = 0;
                while left < SIDE {
                    let width = 10 + rng::below(&mut rng, 10);
                    let top = 30 + rng::below(&mut rng, 34);
                    let grey = 110 + rng::below(&mut rng, 36) as u8;
                    self.fill(left..left + width, top..SIDE, [grey, grey, grey + 8]);
                    for y in (top + 4..SIDE).step_by(8) {
                        for x in (left + 3..(left + width).saturating_sub(3)).step_by(5) {
                            self.fill(x..x + 2, y..y + 3, [232, 226, 190]);
                        }
                    }
                    left += width + 1;
                }
            }
            Scene::Meadow => {
                self.fill(0..SIDE, 0..SIDE, [206, 232, 246]);
                let phase = rng::uniform(&mut rng, 0.0, 6.3) as f32;
                self.paint([150, 196, 110], whole, |x, y| {
                    y > 52.0 + 7.0 * (x / 24.0 + phase).sin()
                });
                for _ in 0..40 {
                    let (x, y) = (rng::below(&mut rng, SIDE), 62 + rng::below(&mut rng, 32));
                    self.fill(x..x + 1, y..y + 3, [112, 164, 80]);
                }
            }
            Scene::Night => {
                self.fill(0..SIDE, 0..SIDE, [26, 30, 66]);
                for _ in 0..36 {
                    let (x, y) = (rng::below(&mut rng, SIDE), rng::below(&mut rng, 70));
                    self.fill(x..x + 1, y..y + 1, [236, 236, 220]);
                }
                self.fill(0..SIDE, 80..SIDE, [14, 16, 34]);
            }
        }
    }

    /// A shape with a dark line around it.
    pub(super) fn figure(&mut self, figure: &Figure) {
        // A light line first, so that the dark one stands out at night as well.
        for (factor, colour) in [
            (OUTLINE + 0.08, [226, 226, 226]),
            (OUTLINE, INK),
            (1.0, rgb(figure.colour)),
        ] {
            let size = figure.size * factor;
            let bounds = [
                figure.x - size,
                figure.y - size,
                figure.x + size,
                figure.y + size,
            ];
            self.paint(colour, bounds, |x, y| {
                contains(figure.shape, (x - figure.x) / size, (y - figure.y) / size)
            });
        }
    }

    /// A line of capital letters on a dark band, in the middle of the width.
    pub(super) fn lettering(&mut self, word: &str, top: usize) {
        let width = (word.len() * (font::WIDTH + 1)).saturating_sub(1) * LETTER_SCALE;
        let left = SIDE.saturating_sub(width) / 2;
        let start = left.saturating_sub(2 * MARGIN);
        self.fill(start..left + width + 2 * MARGIN, top..top + LINE, INK);
        for (place, letter) in word.bytes().enumerate() {
            let left = left + place * (font::WIDTH + 1) * LETTER_SCALE;
            for y in 0..font::HEIGHT {
                for x in (0..font::WIDTH).filter(|x| font::is_set(letter, *x, y)) {
                    let (x, y) = (left + x * LETTER_SCALE, top + MARGIN + y * LETTER_SCALE);
                    self.fill(x..x + LETTER_SCALE, y..y + LETTER_SCALE, WHITE);
                }
            }
        }
    }
}

/// The box around a shape, its line not counted.
pub(super) fn bounds(figure: &Figure) -> Option<Rect> {
    let Figure { x, y, size, .. } = *figure;
    let corners = [x - size, y - size, x + size, y + size].map(f64::from);
    Rect::from_pixels(corners, SIDE as f64, SIDE as f64)
}

fn rgb(colour: Colour) -> [u8; 3] {
    match colour {
        Colour::Red => [222, 46, 40],
        Colour::Yellow => [250, 212, 40],
        Colour::Blue => [40, 92, 226],
        Colour::Green => [34, 156, 66],
        Colour::Purple => [156, 56, 190],
    }
}

/// Whether a point lies in a shape whose box is from -1 to 1, `y` down.
fn contains(shape: Shape, x: f32, y: f32) -> bool {
    match shape {
        Shape::Circle => x * x + y * y <= 1.0,
        Shape::Square => x.abs().max(y.abs()) <= 0.9,
        // Narrow at the top.
        Shape::Triangle => y <= 0.9 && x.abs() <= (y + 1.0) / 1.9,
        Shape::Cross => {
            let (near, far) = (x.abs().min(y.abs()), x.abs().max(y.abs()));
            near <= 0.34 && far <= 1.0
        }
        Shape::Heart => {
            // The curve (x^2 + y^2 - 1)^3 = x^2 y^3 with y up, as wide as the box.
            let (x, y) = (x * 1.18, 0.14 - y * 1.18);
            let round = x * x + y * y - 1.0;
            round * round * round <= x * x * y * y * y
        }
        Shape::Star => {
            // Five points, the first up: in the sector of a point, the edge is the line from its tip at
            // distance 1 to the notch at distance `NOTCH` a tenth of a turn further.
            const NOTCH: f32 = 0.45;
            let tenth = std::f32::consts::PI / 5.0;
            let turn = x.atan2(-y).rem_euclid(2.0 * tenth);
            let angle = turn.min(2.0 * tenth - turn);
            let distance = x.hypot(y);
            let (px, py) = (distance * angle.cos(), distance * angle.sin());
            let (nx, ny) = (NOTCH * tenth.cos(), NOTCH * tenth.sin());
            (px - 1.0) * ny <= py * (nx - 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fill_their_part_of_the_box() {
        let share = |shape| {
            let points = (0..10_000).map(|i| (i % 100, i / 100));
            let at = |i: i32| (i as f32 + 0.5) / 50.0 - 1.0;
            let inside = points.filter(|(x, y)| contains(shape, at(*x), at(*y)));
            inside.count() as f32 / 10_000.0
        };
        for (shape, expected) in [
            (Shape::Circle, 0.785),
            (Shape::Square, 0.81),
            (Shape::Triangle, 0.475),
            (Shape::Cross, 0.564),
            (Shape::Star, 0.330),
        ] {
            assert!(
                (share(shape) - expected).abs() < 0.02,
                "{shape:?} {}",
                share(shape)
            );
        }
        assert!(
            (0.4..0.75).contains(&share(Shape::Heart)),
            "{}",
            share(Shape::Heart)
        );
        // Tips up, notches between them.
        assert!(contains(Shape::Star, 0.0, -0.95) && !contains(Shape::Star, 0.0, 0.6));
        assert!(contains(Shape::Heart, 0.0, 0.8) && !contains(Shape::Heart, 0.0, -0.85));
    }
}
