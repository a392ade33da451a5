//! Boxes among themselves: overlap, and choosing those that are not of the same thing.

use chiasm_data::Rect;

/// Intersection over union of two boxes in fractions of a picture, 0 to 1. Graphs and tasks measure it in
/// pixels, where a box covers its last pixel; here boxes are only chosen.
#[must_use]
pub fn overlap(a: &Rect, b: &Rect) -> f32 {
    let side = |from: f32, to: f32| (to - from).max(0.0);
    let area = |rect: &Rect| side(rect.x1, rect.x2) * side(rect.y1, rect.y2);
    let common = side(a.x1.max(b.x1), a.x2.min(b.x2)) * side(a.y1.max(b.y1), a.y2.min(b.y2));
    let union = area(a) + area(b) - common;
    if union > 0.0 { common / union } else { 0.0 }
}

/// The numbers of at most `most` candidates in their order, leaving out those that overlap one that was taken by
/// more than `limit`. Candidates come best first; those that `taken` holds are there already.
#[must_use]
pub fn suppress(candidates: &[Rect], taken: &[Rect], limit: f32, most: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::with_capacity(most);
    for (index, candidate) in candidates.iter().enumerate() {
        if kept.len() >= most {
            break;
        }
        let chosen = kept.iter().filter_map(|kept| candidates.get(*kept));
        let is_new = taken
            .iter()
            .chain(chosen)
            .all(|other| overlap(candidate, other) <= limit);
        if is_new {
            kept.push(index);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rect(x1: f32, y1: f32, x2: f32, y2: f32) -> Rect {
        Rect { x1, y1, x2, y2 }
    }

    #[test]
    fn overlaps_by_hand() {
        let whole = rect(0.0, 0.0, 1.0, 1.0);
        assert_eq!(overlap(&whole, &whole), 1.0);
        assert_eq!(overlap(&whole, &rect(0.0, 0.0, 0.5, 0.5)), 0.25);
        assert_eq!(
            overlap(&rect(0.0, 0.0, 0.5, 1.0), &rect(0.5, 0.0, 1.0, 1.0)),
            0.0
        );
        // Boxes of no area, and inverted ones.
        assert_eq!(
            overlap(&rect(0.5, 0.5, 0.5, 0.5), &rect(0.5, 0.5, 0.5, 0.5)),
            0.0
        );
        assert_eq!(overlap(&rect(0.9, 0.9, 0.1, 0.1), &whole), 0.0);
    }

    fn rects() -> impl Strategy<Value = Vec<Rect>> {
        let corner = || (0.0f32..1.0, 0.0f32..1.0);
        let one = (corner(), corner())
            .prop_map(|((a, b), (c, d))| rect(a.min(c), b.min(d), a.max(c), b.max(d)));
        proptest::collection::vec(one, 0..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_kept_is_apart_and_what_is_not_is_close(candidates in rects(), taken in rects(), most in 0usize..20) {
            let kept = suppress(&candidates, &taken, 0.3, most);
            prop_assert!(kept.len() <= most && kept.is_sorted());
            for (index, candidate) in candidates.iter().enumerate() {
                let before = kept.iter().filter(|kept| **kept < index).map(|kept| &candidates[*kept]);
                let closest = taken.iter().chain(before).map(|other| overlap(candidate, other)).fold(0.0, f32::max);
                match kept.contains(&index) {
                    true => prop_assert!(closest <= 0.3),
                    false => prop_assert!(closest > 0.3 || kept.len() == most),
                }
                prop_assert!((0.0..=1.0).contains(&closest));
            }
        }
    }
}
