//! How well maps point at what words name, and how much a result depends on what maps say.
//!
//! *Pointing game* (Zhang et al., IJCV 2018): does the strongest place lie in a box? *IoU*: what is left of a
//! map at half of its range, beside the boxes. *Inside*: the share of the map in the boxes. *Deletion and
//! insertion* (Petsiuk et al., BMVC 2018): the area under the result as the strongest places go or come first.
//! *Randomised weights* (Adebayo et al., NeurIPS 2018): a map that stays the same when the model knows nothing
//! explains nothing.

use chiasm_data::{Rect, rng};

use super::alignment::{box_mask, inside};

/// What a map is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cells<'a> {
    /// Squares of a picture, so many along one side, row after row.
    Squares(usize),
    /// Regions, which may overlap.
    Regions(&'a [Rect]),
}

/// Scores of one map against the boxes of a phrase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapScore {
    /// 1 where the strongest place lies in a box, 0 where not; of several equally strong ones the mean.
    pub pointing: f64,
    /// Overlap of what is strong with the boxes, 0 to 1: of squares those above half of the map's range with
    /// all boxes, of regions the strongest one with the box it fits best.
    pub iou: f64,
    /// Share of the map in the boxes, 0 to 1; of regions the share on those whose centre is in a box.
    pub inside: f64,
}

/// Scores a map against boxes. `None` when the map does not fit the cells, has a value that is no number or
/// negative, or is the same everywhere: it points nowhere; and without boxes.
#[must_use]
pub fn score(cells: Cells<'_>, map: &[f32], boxes: &[Rect]) -> Option<MapScore> {
    let largest = map.iter().copied().fold(f32::MIN, f32::max);
    let least = map.iter().copied().fold(f32::MAX, f32::min);
    let usable = map.iter().all(|value| value.is_finite() && *value >= 0.0);
    if map.is_empty() || boxes.is_empty() || !usable || largest <= least {
        return None;
    }
    let strongest = (0..map.len()).filter(|place| map.get(*place) == Some(&largest));
    match cells {
        Cells::Squares(side) => {
            if side.checked_mul(side) != Some(map.len()) {
                return None;
            }
            let mask = box_mask(side, boxes.iter().copied());
            let centre = |cell: usize| {
                let at = |step: usize| (step as f32 + 0.5) / side as f32;
                (at(cell % side), at(cell / side))
            };
            let half = least + (largest - least) / 2.0;
            let strong = map
                .iter()
                .zip(mask.values())
                .filter(|(value, _)| **value >= half);
            let (mut area, mut shared) = (0.0, 0.0);
            for (_, covered) in strong {
                area += 1.0;
                shared += f64::from(*covered);
            }
            let boxed: f64 = mask
                .values()
                .iter()
                .map(|&covered| f64::from(covered))
                .sum();
            Some(MapScore {
                pointing: mean(strongest.map(|cell| is_in(centre(cell), boxes))),
                iou: shared / (area + boxed - shared),
                inside: inside(map, mask.values())?,
            })
        }
        Cells::Regions(regions) => {
            if regions.len() != map.len() {
                return None;
            }
            let hit = |region: &Rect| is_in(centre(region), boxes);
            let total: f64 = map.iter().map(|&value| f64::from(value)).sum();
            let within = map
                .iter()
                .zip(regions)
                .map(|(value, region)| f64::from(*value) * hit(region));
            let best = |region: &Rect| {
                boxes
                    .iter()
                    .map(|rect| overlap(region, rect))
                    .fold(0.0, f64::max)
            };
            let strongest: Vec<&Rect> = strongest.filter_map(|place| regions.get(place)).collect();
            Some(MapScore {
                pointing: mean(strongest.iter().map(|region| hit(region))),
                iou: mean(strongest.iter().map(|region| best(region))),
                inside: within.sum::<f64>() / total,
            })
        }
    }
}

/// Whether boxes cover less than a quarter of their picture: the harder part of the pointing game, in which the centre
/// is no answer (Zhang et al., IJCV 2018).
#[must_use]
pub fn is_small(boxes: &[Rect]) -> bool {
    /// Squares along a side by which what boxes cover together is told.
    const SIDE: usize = 64;
    let mask = box_mask(SIDE, boxes.iter().copied());
    let covered: f64 = mask.values().iter().map(|&share| f64::from(share)).sum();
    covered < (SIDE * SIDE) as f64 / 4.0
}

/// A map that knows nothing: uniform numbers of the stream of `row`.
#[must_use]
pub fn random_map(cells: Cells<'_>, row: u64, draw: u64) -> Vec<f32> {
    let mut stream = rng::stream(0, "random map", &[row, draw]);
    (0..count(cells))
        .map(|_| rng::unit_f64(&mut stream) as f32)
        .collect()
}

/// A map that falls with the distance from the picture's centre, where photographers put things.
#[must_use]
pub fn centre_map(cells: Cells<'_>) -> Vec<f32> {
    let away = |(x, y): (f32, f32)| 1.0 - (x - 0.5).hypot(y - 0.5).min(1.0);
    match cells {
        Cells::Squares(side) => {
            let at = |step: usize| (step as f32 + 0.5) / side as f32;
            (0..side * side)
                .map(|cell| away((at(cell % side), at(cell / side))))
                .collect()
        }
        Cells::Regions(regions) => regions.iter().map(|region| away(centre(region))).collect(),
    }
}

/// Area under a curve of equal steps from 0 to 1, by trapezoids; `None` of fewer than two values.
#[must_use]
pub fn area(curve: &[f32]) -> Option<f64> {
    let steps = curve.len().checked_sub(1).filter(|steps| *steps > 0)?;
    let pairs = curve.iter().zip(curve.iter().skip(1));
    let sum: f64 = pairs
        .map(|(a, b)| (f64::from(*a) + f64::from(*b)) / 2.0)
        .sum();
    Some(sum / steps as f64)
}

/// Spearman's rank correlation of two maps, ties at their mean rank; `None` where one of them is the same
/// everywhere or they differ in length.
#[must_use]
pub fn rank_correlation(a: &[f32], b: &[f32]) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let middle = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (of_a, of_b) = (middle(&a), middle(&b));
    let (mut both, mut own, mut other) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        both += (a - of_a) * (b - of_b);
        own += (a - of_a).powi(2);
        other += (b - of_b).powi(2);
    }
    (own > 0.0 && other > 0.0).then(|| both / (own * other).sqrt())
}

fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|a, b| a.1 == b.1) {
        let rank = first as f64 + (equal.len() as f64 - 1.0) / 2.0;
        for (place, _) in equal {
            if let Some(slot) = ranks.get_mut(*place) {
                *slot = rank;
            }
        }
        first += equal.len();
    }
    ranks
}

fn count(cells: Cells<'_>) -> usize {
    match cells {
        Cells::Squares(side) => side * side,
        Cells::Regions(regions) => regions.len(),
    }
}

fn centre(rect: &Rect) -> (f32, f32) {
    let middle = |a: f32, b: f32| f32::midpoint(a, b);
    (middle(rect.x1, rect.x2), middle(rect.y1, rect.y2))
}

/// 1 where a point lies in any of the boxes.
fn is_in((x, y): (f32, f32), boxes: &[Rect]) -> f64 {
    let within = |rect: &Rect| (rect.x1..=rect.x2).contains(&x) && (rect.y1..=rect.y2).contains(&y);
    f64::from(u8::from(boxes.iter().any(within)))
}

/// Shared area as a part of the joint area.
fn overlap(a: &Rect, b: &Rect) -> f64 {
    let length = |from: f32, to: f32| f64::from((to - from).max(0.0));
    let area = |r: &Rect| length(r.x1, r.x2) * length(r.y1, r.y2);
    let shared = length(a.x1.max(b.x1), a.x2.min(b.x2)) * length(a.y1.max(b.y1), a.y2.min(b.y2));
    let joint = area(a) + area(b) - shared;
    if joint > 0.0 { shared / joint } else { 0.0 }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| {
        (sum + value, count + 1)
    });
    sum / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEFT: Rect = Rect {
        x1: 0.0,
        y1: 0.0,
        x2: 0.5,
        y2: 1.0,
    };

    #[test]
    fn a_map_in_the_box_scores_all() {
        let perfect = [1.0, 0.0, 1.0, 0.0];
        let found = score(Cells::Squares(2), &perfect, &[LEFT]).unwrap();
        assert_eq!((found.pointing, found.iou, found.inside), (1.0, 1.0, 1.0));
        let wrong = [0.0, 1.0, 0.0, 0.5];
        let found = score(Cells::Squares(2), &wrong, &[LEFT]).unwrap();
        assert_eq!((found.pointing, found.iou, found.inside), (0.0, 0.0, 0.0));
        // Equally strong places share the point.
        let torn = [1.0, 1.0, 0.0, 0.0];
        let found = score(Cells::Squares(2), &torn, &[LEFT]).unwrap();
        assert_eq!((found.pointing, found.inside), (0.5, 0.5));
        assert!((found.iou - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn regions_are_judged_by_the_strongest() {
        let right = Rect {
            x1: 0.5,
            x2: 1.0,
            ..LEFT
        };
        let regions = [LEFT, right];
        let found = score(Cells::Regions(&regions), &[3.0, 1.0], &[LEFT]).unwrap();
        assert_eq!((found.pointing, found.iou, found.inside), (1.0, 1.0, 0.75));
        let centred = centre_map(Cells::Regions(&regions));
        assert_eq!(centred, [0.75, 0.75]);
        assert_eq!(random_map(Cells::Regions(&regions), 3, 0).len(), 2);
    }

    #[test]
    fn what_points_nowhere_has_no_score() {
        for map in [
            &[1.0; 4][..],
            &[f32::NAN, 0.0, 0.0, 0.0],
            &[-1.0, 0.0, 0.0, 0.0],
            &[1.0],
            &[],
        ] {
            assert_eq!(score(Cells::Squares(2), map, &[LEFT]), None, "{map:?}");
        }
        assert_eq!(score(Cells::Squares(1), &[1.0, 0.0], &[LEFT]), None);
        assert_eq!(score(Cells::Squares(2), &[1.0, 0.0, 0.0, 0.0], &[]), None);
        assert_eq!(score(Cells::Regions(&[]), &[], &[LEFT]), None);
    }

    #[test]
    fn areas_and_correlations() {
        assert_eq!(area(&[0.0, 1.0]), Some(0.5));
        assert_eq!(area(&[1.0; 11]), Some(1.0));
        assert_eq!(area(&[1.0]), None);
        assert_eq!(
            rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 20.0, 90.0]),
            Some(1.0)
        );
        assert_eq!(
            rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]),
            Some(-1.0)
        );
        assert_eq!(rank_correlation(&[1.0, 2.0], &[1.0, 1.0]), None);
        assert_eq!(rank_correlation(&[1.0], &[1.0, 2.0]), None);
        // With ties as in scipy.stats.spearmanr.
        let tied = rank_correlation(&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((tied - 0.948_683_298_050_513_7).abs() < 1e-12, "{tied}");
    }

    proptest! {
        #[test]
        fn scores_are_shares(map in proptest::collection::vec(0.0f32..1.0, 9), x in 0.0f32..0.5, w in 0.1f32..0.5) {
            let rect = Rect { x1: x, y1: x, x2: x + w, y2: x + w };
            if let Some(found) = score(Cells::Squares(3), &map, &[rect]) {
                for value in [found.pointing, found.iou, found.inside] {
                    prop_assert!((0.0..=1.0 + 1e-9).contains(&value), "{found:?}");
                }
            }
        }
    }
}
