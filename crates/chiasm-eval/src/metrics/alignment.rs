//! How much of a model's attention lies on what a text names: the scores of ALIGN-BENCH (`specs/scl.md` section 8).
//!
//! Two rules make a mask of annotated regions. *Global*: all regions of a picture together, without those that cover
//! most of it ([`global_masks`]). *Local*: the regions of one phrase, all of them ([`local_masks`]). The score is the
//! share of attention inside the mask ([`inside`]).
//!
//! Masks are brought to the size of the attention map by area: a cell holds the share of it that is covered, exactly.
//! The reference resizes by bicubic interpolation without antialiasing, which loses thin masks and leaves the range 0 to
//! 1; section 8 recommends area. Scores therefore differ a little from those of the reference.

use std::ops::Range;

use chiasm_data::Rect;

/// Share of the picture above which a region is background and left out of the global score.
pub const BACKGROUND_SHARE: f64 = 0.9;

/// A map over a picture, for example of attention: `[side, side]` values, row-major from the top left.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    side: usize,
    values: Vec<f32>,
}

impl Grid {
    /// Takes `values`, row-major `[side, side]`; `None` when they are not that many, or none.
    #[must_use]
    pub fn new(side: usize, values: Vec<f32>) -> Option<Self> {
        (side > 0 && side.checked_mul(side) == Some(values.len())).then_some(Self { side, values })
    }

    /// Cells along one side.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// All values, row-major `[side, side]`.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Mean over the cells. Of a mask: the share of the picture that it covers, and so what uniform attention scores.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let sum: f64 = self.values.iter().map(|&value| f64::from(value)).sum();
        sum / self.values.len().max(1) as f64
    }
}

/// The pixels of a picture that show something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelMask {
    width: usize,
    height: usize,
    covered: Vec<bool>,
}

impl PixelMask {
    /// Takes one value a pixel, row-major `[height, width]`, true = shows it; `None` when they are not that many, or
    /// none.
    #[must_use]
    pub fn new(width: usize, height: usize, covered: Vec<bool>) -> Option<Self> {
        let fits = width.checked_mul(height) == Some(covered.len()) && !covered.is_empty();
        fits.then_some(Self {
            width,
            height,
            covered,
        })
    }
}

/// Where something is to be seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// Its box.
    pub rect: Rect,
    /// Its pixels, where they are known.
    pub pixels: Option<PixelMask>,
}

/// What attention is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct Masks {
    /// Shares of cells inside any of the boxes, 0 to 1.
    pub boxes: Grid,
    /// Shares of cells that the pixels cover, 0 to 1; `None` unless all regions have pixels of one picture size.
    pub pixels: Option<Grid>,
}

/// How much attention lies inside masks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlignmentScore {
    /// Share of attention inside the boxes, 0 to 1.
    pub score: f64,
    /// The same of uniform attention.
    pub uniform: f64,
    /// Share of attention on the pixels, and the same of uniform attention, where pixels are known.
    pub pixels: Option<(f64, f64)>,
}

impl Masks {
    /// The share of `attention` that lies inside; `None` when it cannot be told ([`inside`]).
    #[must_use]
    pub fn score(&self, attention: &Grid) -> Option<AlignmentScore> {
        let share = |mask: &Grid| Some((inside(&attention.values, &mask.values)?, mask.mean()));
        let (score, uniform) = share(&self.boxes)?;
        Some(AlignmentScore {
            score,
            uniform,
            pixels: self.pixels.as_ref().and_then(share),
        })
    }
}

/// Share of attention inside a mask: sum(mask * attention) / sum(attention), 0 to 1. Both are row-major and of one size,
/// `mask` holds shares from 0 to 1.
///
/// `None` when there is no attention at all, when a value is negative or not finite, or when the sizes differ.
#[must_use]
pub fn inside(attention: &[f32], mask: &[f32]) -> Option<f64> {
    let is_attention = |value: &f32| value.is_finite() && *value >= 0.0;
    if attention.len() != mask.len() || !attention.iter().all(is_attention) {
        return None;
    }
    let all: f64 = attention.iter().map(|&value| f64::from(value)).sum();
    let pairs = attention.iter().zip(mask);
    let within: f64 = pairs
        .map(|(&value, &mask)| f64::from(value) * f64::from(mask))
        .sum();
    (all > 0.0).then(|| within / all)
}

/// Masks of the global score, `[side, side]`: all regions of a picture but those whose box covers more than
/// [`BACKGROUND_SHARE`] of it. `None` when nothing is left.
#[must_use]
pub fn global_masks<'a>(
    side: usize,
    regions: impl IntoIterator<Item = &'a Region>,
) -> Option<Masks> {
    let is_background = |region: &Region| {
        let [x1, y1, x2, y2] = corners(&region.rect, 1.0);
        (x2 - x1) * (y2 - y1) > BACKGROUND_SHARE
    };
    let regions = regions.into_iter();
    local_masks(side, regions.filter(|region| !is_background(region)))
}

/// Masks of the local score, `[side, side]`: all regions of a phrase. `None` when it has none.
#[must_use]
pub fn local_masks<'a>(
    side: usize,
    regions: impl IntoIterator<Item = &'a Region>,
) -> Option<Masks> {
    let regions: Vec<&Region> = regions.into_iter().collect();
    if regions.is_empty() || side == 0 {
        return None;
    }
    let boxes = box_mask(side, regions.iter().map(|region| region.rect));
    let pixels: Option<Vec<&PixelMask>> = regions
        .iter()
        .map(|region| region.pixels.as_ref())
        .collect();
    Some(Masks {
        boxes,
        pixels: pixels.and_then(|masks| pixel_mask(side, &masks)),
    })
}

/// The share of every cell that lies in any of the boxes, `[side, side]`, exactly. Boxes are clipped to the picture;
/// empty ones and those with a corner that is not a number cover nothing.
#[must_use]
pub fn box_mask(side: usize, boxes: impl IntoIterator<Item = Rect>) -> Grid {
    let mut boxes: Vec<[f64; 4]> = boxes
        .into_iter()
        .map(|rect| corners(&rect, side as f64))
        .filter(|[x1, y1, x2, y2]| x2 > x1 && y2 > y1)
        .collect();
    boxes.sort_by(|left, right| left[0].total_cmp(&right[0]));
    let mut edges: Vec<f64> = boxes.iter().flat_map(|&[_, y1, _, y2]| [y1, y2]).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    let mut cover = Cover::new(side);
    // Between two neighbouring edges every box is all there or not at all.
    for (&top, &bottom) in edges.iter().zip(edges.iter().skip(1)) {
        let here = boxes
            .iter()
            .filter(|[_, y1, _, y2]| *y1 <= top && *y2 >= bottom);
        let mut spans: Vec<Range<f64>> = Vec::new();
        for &[x1, _, x2, _] in here {
            match spans.last_mut() {
                Some(last) if x1 <= last.end => last.end = last.end.max(x2),
                _ => spans.push(x1..x2),
            }
        }
        for span in spans {
            cover.add(top..bottom, span);
        }
    }
    cover.grid()
}

/// The share of every cell that any of the masks covers, `[side, side]`, exactly. `None` without a mask, when they are of
/// different sizes, or when `side` is 0.
#[must_use]
pub fn pixel_mask(side: usize, masks: &[&PixelMask]) -> Option<Grid> {
    let first = masks.first()?;
    let size = |mask: &PixelMask| (mask.width, mask.height);
    if side == 0 || masks.iter().any(|mask| size(mask) != size(first)) {
        return None;
    }
    let mut union = first.covered.clone();
    for mask in masks {
        for (pixel, &covered) in union.iter_mut().zip(&mask.covered) {
            *pixel |= covered;
        }
    }
    let scaled = |at: usize, of: usize| at as f64 * side as f64 / of as f64;
    let mut cover = Cover::new(side);
    for (y, row) in union.chunks_exact(first.width).enumerate() {
        let rows = scaled(y, first.height)..scaled(y + 1, first.height);
        let mut x = 0;
        for run in row.chunk_by(|left, right| left == right) {
            if run.first() == Some(&true) {
                let columns = scaled(x, first.width)..scaled(x + run.len(), first.width);
                cover.add(rows.clone(), columns);
            }
            x += run.len();
        }
    }
    Some(cover.grid())
}

/// Corners in units of `side`, clipped to the picture. What is not a number becomes an empty box.
fn corners(rect: &Rect, side: f64) -> [f64; 4] {
    let corners = [rect.x1, rect.y1, rect.x2, rect.y2];
    if corners.iter().any(|corner| corner.is_nan()) {
        return [0.0; 4];
    }
    corners.map(|corner| f64::from(corner).clamp(0.0, 1.0) * side)
}

/// Area of every cell that is covered so far.
struct Cover {
    side: usize,
    areas: Vec<f64>,
}

impl Cover {
    fn new(side: usize) -> Self {
        Self {
            side,
            areas: vec![0.0; side * side],
        }
    }

    /// Adds a rectangle in units of cells that overlaps nothing added before.
    fn add(&mut self, rows: Range<f64>, columns: Range<f64>) {
        let (top, bottom) = (rows.start as usize, rows.end.ceil() as usize);
        let (left, right) = (columns.start as usize, columns.end.ceil() as usize);
        let cells = self.areas.chunks_exact_mut(self.side).enumerate();
        for (y, row) in cells.take(bottom).skip(top) {
            let height = overlap(&rows, y);
            for (x, area) in row.iter_mut().enumerate().take(right).skip(left) {
                *area += height * overlap(&columns, x);
            }
        }
    }

    fn grid(self) -> Grid {
        // A sum of parts may end a rounding above the whole.
        let share = |area: f64| area.clamp(0.0, 1.0) as f32;
        Grid {
            side: self.side,
            values: self.areas.into_iter().map(share).collect(),
        }
    }
}

/// Length of a range inside the cell `at`.
fn overlap(range: &Range<f64>, at: usize) -> f64 {
    let start = at as f64;
    (range.end.min(start + 1.0) - range.start.max(start)).max(0.0)
}

/// Where the words of a phrase stand in a caption, in bytes: whole words, upper and lower case alike, any white space
/// between them. The first occurrence, or the one that begins at byte `start`. `None` when it does not occur there: such
/// a phrase is left out and counted (`specs/scl.md` section 10.7, V5; the reference takes the first word instead).
///
/// ```
/// use chiasm_eval::metrics::alignment::words_of_phrase;
///
/// let caption = "A man, a Red  hat and a man";
/// assert_eq!(words_of_phrase(caption, "man", None), Some(2..5));
/// assert_eq!(words_of_phrase(caption, "a man", Some(22)), Some(22..27));
/// assert_eq!(words_of_phrase(caption, "red hat", None), Some(9..17));
/// assert_eq!(words_of_phrase(caption, "ha", None), None);
/// ```
#[must_use]
pub fn words_of_phrase(caption: &str, phrase: &str, start: Option<usize>) -> Option<Range<usize>> {
    let phrase = phrase.trim();
    let (first, last) = (phrase.chars().next()?, phrase.chars().next_back()?);
    let is_word = |at: usize, end: usize| {
        let before = caption.get(..at).and_then(|text| text.chars().next_back());
        let after = caption.get(end..).and_then(|text| text.chars().next());
        let cuts = |inner: char, outer: Option<char>| {
            inner.is_alphanumeric() && outer.is_some_and(char::is_alphanumeric)
        };
        !cuts(first, before) && !cuts(last, after)
    };
    let starts = caption.char_indices().map(|(at, _)| at);
    starts
        .filter(|at| start.is_none_or(|start| start == *at))
        .find_map(|at| {
            let end = at + matched(caption.get(at..)?, phrase)?;
            is_word(at, end).then_some(at..end)
        })
}

/// Bytes at the start of `text` that are the phrase.
fn matched(text: &str, phrase: &str) -> Option<usize> {
    let mut rest = text;
    let mut wanted = phrase.chars().peekable();
    while let Some(want) = wanted.next() {
        let found = rest.chars().next()?;
        if want.is_whitespace() {
            while wanted.next_if(|next| next.is_whitespace()).is_some() {}
            let words = rest.trim_start();
            if words.len() == rest.len() {
                return None;
            }
            rest = words;
        } else if found.to_lowercase().eq(want.to_lowercase()) {
            rest = rest.get(found.len_utf8()..)?;
        } else {
            return None;
        }
    }
    Some(text.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rect(x1: f32, y1: f32, x2: f32, y2: f32) -> Rect {
        Rect { x1, y1, x2, y2 }
    }

    fn region(rect: Rect) -> Region {
        Region { rect, pixels: None }
    }

    #[test]
    fn cells_hold_the_share_that_is_covered() {
        let half = box_mask(2, [rect(0.0, 0.0, 0.75, 0.5)]);
        assert_eq!(half.values(), [1.0, 0.5, 0.0, 0.0]);
        // Twice the same, one inside, one touching: the union counts once.
        let union = [
            rect(0.0, 0.0, 0.5, 0.5),
            rect(0.0, 0.0, 0.5, 0.5),
            rect(0.1, 0.1, 0.2, 0.2),
            rect(0.5, 0.0, 0.75, 0.25),
        ];
        assert_eq!(box_mask(2, union).values(), [1.0, 0.25, 0.0, 0.0]);
        let odd = [
            rect(f32::NAN, 0.0, 1.0, 1.0),
            rect(0.5, 0.5, 0.5, 1.0),
            rect(0.9, 0.0, 0.1, 1.0),
            rect(-9.0, 0.5, f32::INFINITY, 9.0),
        ];
        assert_eq!(box_mask(2, odd).values(), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(box_mask(2, []).mean(), 0.0);

        let pixels = PixelMask::new(3, 1, vec![true, false, true]).unwrap();
        assert_eq!(pixel_mask(1, &[&pixels]).unwrap().values(), [2.0_f32 / 3.0]);
        let thin = |covered: Vec<bool>| PixelMask::new(3, 1, covered).unwrap();
        let (left, right) = (thin(vec![true, true, false]), thin(vec![false, true, true]));
        assert_eq!(pixel_mask(1, &[&left, &right]).unwrap().values(), [1.0]);
        let other = PixelMask::new(1, 1, vec![true]).unwrap();
        assert_eq!(pixel_mask(1, &[&left, &other]), None);
        assert_eq!(PixelMask::new(2, 2, vec![true]), None);
        assert_eq!(PixelMask::new(0, 0, Vec::new()), None);
        assert_eq!(Grid::new(2, vec![0.0; 3]), None);
        assert_eq!(Grid::new(usize::MAX, vec![0.0; 3]), None);
    }

    /// `specs/scl.md` section 10.7, V4.
    #[test]
    fn v4_uniform_inside_outside_and_background() {
        let side = 18;
        let uniform = Grid::new(side, vec![0.25; side * side]).unwrap();
        let small = region(rect(0.1, 0.2, 0.43, 0.61));
        let masks = local_masks(side, [&small]).unwrap();
        let score = masks.score(&uniform).unwrap();
        assert!((score.score - masks.boxes.mean()).abs() < 1e-12);
        assert!((score.uniform - 0.33 * 0.41).abs() < 1e-6);
        assert_eq!(score.pixels, None);

        let full = |want: fn(f32) -> bool| {
            let values = masks
                .boxes
                .values()
                .iter()
                .map(|&mask| f32::from(u8::from(want(mask))));
            Grid::new(side, values.collect()).unwrap()
        };
        let within = masks.score(&full(|mask| mask == 1.0)).unwrap();
        let outside = masks.score(&full(|mask| mask == 0.0)).unwrap();
        assert_eq!((within.score, outside.score), (1.0, 0.0));

        let whole = region(rect(0.0, 0.0, 1.0, 1.0));
        assert_eq!(global_masks(side, [&whole]), None);
        assert_eq!(global_masks(side, [&whole, &small]), Some(masks));
        assert_eq!(local_masks(side, [&whole]).unwrap().boxes.mean(), 1.0);
        assert!(global_masks(side, [&region(rect(0.0, 0.0, 0.9, 1.0))]).is_some());
        assert!(global_masks(side, [&region(rect(0.0, 0.0, 0.901, 1.0))]).is_none());
    }

    #[test]
    fn pixels_count_when_all_regions_have_them() {
        let with = |pixels| Region {
            rect: rect(0.0, 0.0, 0.5, 0.5),
            pixels,
        };
        let pixels = PixelMask::new(2, 2, vec![true, false, false, false]);
        let known = with(pixels.clone());
        let masks = local_masks(2, [&known]).unwrap();
        let attention = Grid::new(2, vec![3.0, 1.0, 0.0, 0.0]).unwrap();
        let score = masks.score(&attention).unwrap();
        assert_eq!(score.pixels, Some((0.75, 0.25)));
        assert_eq!(local_masks(2, [&known, &with(None)]).unwrap().pixels, None);
    }

    #[test]
    fn attention_that_is_none_has_no_share() {
        for broken in [
            [0.0, 0.0],
            [f32::NAN, 1.0],
            [f32::INFINITY, 1.0],
            [-1.0, 2.0],
        ] {
            assert_eq!(inside(&broken, &[1.0, 0.0]), None, "{broken:?}");
        }
        assert_eq!(inside(&[1.0], &[1.0, 0.0]), None);
        assert_eq!(inside(&[], &[]), None);
        assert_eq!(inside(&[f32::MAX, f32::MAX], &[1.0, 0.0]), Some(0.5));
    }

    /// `specs/scl.md` section 10.7, V5.
    #[test]
    fn v5_a_phrase_that_does_not_occur_is_none() {
        let caption = "Two dogs; the DOG's bowl. A hot-dog of \u{c9}clair";
        for (phrase, start, found) in [
            ("dogs", None, Some(4..8)),
            ("dog", None, Some(14..17)),
            ("the dog's", None, Some(10..19)),
            ("dog", Some(14), Some(14..17)),
            ("dog", Some(4), None),
            ("dog", Some(15), None),
            ("dog", Some(999), None),
            ("bowl.", None, Some(20..25)),
            ("\u{e9}CLAIR", None, Some(39..46)),
            ("\u{e9}clair", Some(40), None),
            (" two\tdogs ", None, Some(0..8)),
            ("a  cat", None, None),
            (
                "two dogs; the dog's bowl. a hot-dog of \u{e9}clair and",
                None,
                None,
            ),
            ("", None, None),
            (" ", None, None),
        ] {
            assert_eq!(
                words_of_phrase(caption, phrase, start),
                found,
                "{phrase:?} {start:?}"
            );
        }
        assert_eq!(words_of_phrase("", "dog", None), None);
    }

    /// Boxes on the corners of pixels and the pixels they cover are the same mask.
    #[derive(Debug, Clone)]
    struct Drawing {
        width: usize,
        height: usize,
        boxes: Vec<[usize; 4]>,
    }

    fn drawing() -> impl Strategy<Value = Drawing> {
        (1_usize..16, 1_usize..16).prop_flat_map(|(width, height)| {
            let corners = (0..=width, 0..=height, 0..=width, 0..=height);
            let boxes = proptest::collection::vec(corners, 0..6);
            boxes.prop_map(move |boxes| Drawing {
                width,
                height,
                boxes: boxes
                    .into_iter()
                    .map(|(x1, y1, x2, y2)| [x1.min(x2), y1.min(y2), x1.max(x2), y1.max(y2)])
                    .collect(),
            })
        })
    }

    proptest! {
        #[test]
        fn boxes_and_their_pixels_are_one_mask(drawing in drawing(), side in 1_usize..20) {
            let Drawing { width, height, boxes } = drawing;
            let share = |at: usize, of: usize| at as f32 / of as f32;
            let rects = boxes.iter().map(|&[x1, y1, x2, y2]| {
                rect(share(x1, width), share(y1, height), share(x2, width), share(y2, height))
            });
            let covered: Vec<bool> = (0..width * height)
                .map(|at| (at % width, at / width))
                .map(|(x, y)| boxes.iter().any(|&[x1, y1, x2, y2]| {
                    (x1..x2).contains(&x) && (y1..y2).contains(&y)
                }))
                .collect();
            let share = covered.iter().filter(|covered| **covered).count() as f64 / covered.len() as f64;
            let pixels = PixelMask::new(width, height, covered).unwrap();
            let (boxes, pixels) = (box_mask(side, rects), pixel_mask(side, &[&pixels]).unwrap());
            prop_assert!((pixels.mean() - share).abs() < 1e-6);
            for (left, right) in boxes.values().iter().zip(pixels.values()) {
                prop_assert!((left - right).abs() < 1e-4, "{left} {right}");
            }
        }

        #[test]
        fn a_share_is_between_0_and_1(
            cells in proptest::collection::vec((0.0_f32..9.0, 0.0_f32..=1.0), 1..50),
        ) {
            let (attention, mask): (Vec<f32>, Vec<f32>) = cells.into_iter().unzip();
            let share = inside(&attention, &mask);
            prop_assert!(share.is_none_or(|share| (0.0..=1.0 + 1e-12).contains(&share)));
        }

        #[test]
        fn what_is_found_is_the_phrase(caption in "[ aAbB\u{e9}\u{df}\u{130},]{0,20}", phrase in "[ aB\u{e9}\u{130}]{0,4}", start in proptest::option::of(0_usize..20)) {
            if let Some(range) = words_of_phrase(&caption, &phrase, start) {
                let words = |text: &str| {
                    text.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
                };
                prop_assert_eq!(words(&caption[range.clone()]), words(&phrase));
                prop_assert!(start.is_none_or(|start| start == range.start));
            }
        }
    }
}
