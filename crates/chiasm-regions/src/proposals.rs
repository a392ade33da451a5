//! Boxes of things, from a tower's tokens alone.
//!
//! Every token begins as a region of its own. Of all neighbours the two are joined whose union loses the least
//! variance (Ward, "Hierarchical Grouping to Optimize an Objective Function", 1963), until the picture is one
//! region. Every region on the way is a candidate: the box around it. Its score is the cost of the join that
//! ends it: a thing that differs from all around it stays by itself for long. Nothing is learned and nothing is
//! tuned.
//!
//! Of the boxes that people drew for phrases on 200 validation photographs (Flickr30k Entities on Flickr8k, tokens
//! of a DINOv2 ViT-S, 16 by 16), 36 regions hit 53 % with an overlap of 0.5 or more. Windows of all sizes, as many
//! of them, hit 46 % when ranked by contrast and edges together, 40 % by contrast with their surroundings, 28 %
//! where they are laid out to cover the picture evenly, and 15 % when drawn at random.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};

use chiasm_data::Rect;

use crate::boxes::suppress;
use crate::places::Places;

/// Overlap above which the weaker of two boxes is left out, that of the detectors whose features the field uses
/// (`specs/tbkin.md` section 9.1).
pub(crate) const OVERLAP: f32 = 0.7;

/// At most `most` boxes, best first; fewer where the grid has no more that are apart. Boxes that overlap one in
/// `taken` are left out as well.
#[must_use]
pub fn propose(places: &Places, taken: &[Rect], most: usize) -> Vec<Rect> {
    let candidates = candidates(places);
    suppress(&candidates, taken, OVERLAP, most)
        .into_iter()
        .filter_map(|index| candidates.get(index).copied())
        .collect()
}

/// The boxes around all regions, those first that cost most to join to another.
fn candidates(places: &Places) -> Vec<Rect> {
    let mut regions = grow(places);
    regions.sort_by(|a, b| b.cost.total_cmp(&a.cost));
    let side = places.side() as f32;
    let rect = |region: Region| Rect {
        x1: region.left as f32 / side,
        y1: region.top as f32 / side,
        x2: region.right as f32 / side,
        y2: region.bottom as f32 / side,
    };
    regions.into_iter().map(rect).collect()
}

/// A region: cells `left..right`, `top..bottom` are the box around it.
struct Region {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
    /// Tokens in it.
    size: f32,
    /// Mean of its tokens, `[dim]`; empty once it is joined.
    mean: Vec<f32>,
    /// Regions that it touches; empty once it is joined.
    neighbours: BTreeSet<usize>,
    /// Cost of the join that ended it.
    cost: f32,
    /// Whether it was joined to another.
    is_joined: bool,
}

/// Two neighbours, and what joining them costs.
struct Join {
    cost: f32,
    pair: (usize, usize),
}

impl Ord for Join {
    /// The cheapest is the greatest, of equal ones the first: a heap gives the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        let cost = other.cost.total_cmp(&self.cost);
        cost.then_with(|| other.pair.cmp(&self.pair))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Join {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Join {}

/// All regions that come about: the tokens, then one a join. The last one is the whole picture, whose cost is
/// that of the join that made it.
fn grow(places: &Places) -> Vec<Region> {
    let mut regions = cells(places);
    let mut joins = BinaryHeap::new();
    for (index, region) in regions.iter().enumerate() {
        let after = region.neighbours.range(index + 1..);
        joins.extend(after.filter_map(|other| join(&regions, index, *other)));
    }
    while let Some(Join { cost, pair }) = joins.pop() {
        let next = regions.len();
        let Some(united) = unite(&mut regions, pair, cost) else {
            continue;
        };
        for neighbour in &united.neighbours {
            if let Some(region) = regions.get_mut(*neighbour) {
                region.neighbours.remove(&pair.0);
                region.neighbours.remove(&pair.1);
                region.neighbours.insert(next);
            }
        }
        regions.push(united);
        let around = regions.last().map(|region| region.neighbours.clone());
        let around = around.into_iter().flatten();
        joins.extend(around.filter_map(|other| join(&regions, other, next)));
    }
    regions
}

/// Every token by itself. Their length says little of what is to be seen; they are made unit vectors.
fn cells(places: &Places) -> Vec<Region> {
    let side = places.side();
    let cell = |(index, token): (usize, &[f32])| {
        let (left, top) = (index % side, index / side);
        let length = token.iter().map(|value| value * value).sum::<f32>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        let neighbours = [
            (left > 0).then(|| index - 1),
            (left + 1 < side).then_some(index + 1),
            (top > 0).then(|| index - side),
            (top + 1 < side).then_some(index + side),
        ];
        Region {
            left,
            top,
            right: left + 1,
            bottom: top + 1,
            size: 1.0,
            mean: token.iter().map(|value| value * scale).collect(),
            neighbours: neighbours.into_iter().flatten().collect(),
            cost: 0.0,
            is_joined: false,
        }
    };
    places.tokens().enumerate().map(cell).collect()
}

/// What joining two regions costs: by how much the squared distances of tokens from their means grow.
fn join(regions: &[Region], a: usize, b: usize) -> Option<Join> {
    let (one, other) = (regions.get(a)?, regions.get(b)?);
    let pairs = one.mean.iter().zip(&other.mean);
    let distance: f32 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
    Some(Join {
        cost: one.size * other.size / (one.size + other.size) * distance,
        pair: (a, b),
    })
}

/// The union of two regions, which end by it; `None` when either has ended before.
fn unite(regions: &mut [Region], (a, b): (usize, usize), cost: f32) -> Option<Region> {
    let [one, other] = regions.get_disjoint_mut([a, b]).ok()?;
    if one.is_joined || other.is_joined {
        return None;
    }
    let size = one.size + other.size;
    let mean = std::mem::take(&mut one.mean);
    let pairs = mean.into_iter().zip(std::mem::take(&mut other.mean));
    let (own, its) = (one.size / size, other.size / size);
    let mean = pairs.map(|(a, b)| own * a + its * b).collect();
    let mut neighbours = std::mem::take(&mut one.neighbours);
    neighbours.append(&mut other.neighbours);
    neighbours.remove(&a);
    neighbours.remove(&b);
    for region in [&mut *one, &mut *other] {
        region.cost = cost;
        region.is_joined = true;
    }
    Some(Region {
        left: one.left.min(other.left),
        top: one.top.min(other.top),
        right: one.right.max(other.right),
        bottom: one.bottom.max(other.bottom),
        size,
        mean,
        neighbours,
        cost,
        is_joined: false,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::boxes::overlap;

    /// Tokens of two numbers: `(1, 0)` inside a box of cells, `(0, 1)` outside.
    fn thing(side: usize, columns: std::ops::Range<usize>, rows: std::ops::Range<usize>) -> Places {
        let token = |index: usize| {
            let inside = columns.contains(&(index % side)) && rows.contains(&(index / side));
            if inside { [5.0, 0.0] } else { [0.0, 3.0] }
        };
        Places::new(2, (0..side * side).flat_map(token).collect()).unwrap()
    }

    #[test]
    fn a_thing_that_differs_is_found_first() {
        let places = thing(8, 2..5, 1..4);
        let boxes = propose(&places, &[], 36);
        let expected = Rect {
            x1: 0.25,
            y1: 0.125,
            x2: 0.625,
            y2: 0.5,
        };
        assert!(boxes[..2].contains(&expected), "{boxes:?}");
        // Among those that are there already it is not proposed again.
        assert!(!propose(&places, &[expected], 36).contains(&expected));
    }

    #[test]
    fn small_and_empty_pictures() {
        let one = Places::new(3, vec![0.0; 3]).unwrap();
        let whole = Rect {
            x1: 0.0,
            y1: 0.0,
            x2: 1.0,
            y2: 1.0,
        };
        assert_eq!(propose(&one, &[], 36), [whole]);
        assert_eq!(propose(&one, &[], 0), []);
        let same = Places::new(1, vec![2.0; 256]).unwrap();
        assert_eq!(propose(&same, &[], 36).len(), 36);
        let broken = Places::new(1, vec![f32::NAN; 16]).unwrap();
        assert!(!propose(&broken, &[], 36).is_empty());
    }

    #[test]
    fn regions_are_a_tree_over_the_picture() {
        let regions = grow(&thing(6, 0..3, 2..6));
        assert_eq!(regions.len(), 2 * 36 - 1);
        let last = regions.last().unwrap();
        assert_eq!((last.left, last.top, last.right, last.bottom), (0, 0, 6, 6));
        assert_eq!(regions.iter().filter(|region| !region.is_joined).count(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn boxes_are_in_the_picture_and_apart(side in 1usize..7, seed in proptest::collection::vec(-1.0f32..1.0, 36 * 3), most in 1usize..40) {
            let places = Places::new(3, seed[..side * side * 3].to_vec()).unwrap();
            let boxes = propose(&places, &[], most);
            prop_assert!(!boxes.is_empty() && boxes.len() <= most);
            prop_assert_eq!(&boxes, &propose(&places, &[], most));
            for (index, rect) in boxes.iter().enumerate() {
                prop_assert!(0.0 <= rect.x1 && rect.x1 < rect.x2 && rect.x2 <= 1.0);
                prop_assert!(0.0 <= rect.y1 && rect.y1 < rect.y2 && rect.y2 <= 1.0);
                for other in &boxes[..index] {
                    prop_assert!(overlap(rect, other) <= OVERLAP);
                }
            }
        }
    }
}
