//! Grounding: does the box that was found overlap what a text refers to by half or more (RefCOCO's
//! accuracy, `specs/tbkin.md` section 6.2)?

use chiasm_nn::boxes::{PixelBox, overlap};

/// Overlap from which on a box is right, itself included.
pub const RIGHT: f64 = 0.5;

/// Whether a box is right.
#[must_use]
pub fn is_right(found: PixelBox, wanted: PixelBox) -> bool {
    overlap(found, wanted) >= RIGHT
}

/// What choices that do not read the text would find.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Blind {
    /// Share of right regions: what a random one is expected to score.
    pub random: f64,
    /// 1 where the largest region is right.
    pub largest: f64,
    /// 1 where the region nearest to the picture's centre is.
    pub centre: f64,
    /// 1 where any region is: the most that choosing can score.
    pub oracle: f64,
}

/// Scores of such choices for one picture of this width and height; zeros without regions.
#[must_use]
pub fn blind(regions: &[PixelBox], wanted: PixelBox, [width, height]: [f64; 2]) -> Blind {
    let count = regions.len();
    if count == 0 {
        return Blind::default();
    }
    let right: Vec<bool> = regions
        .iter()
        .map(|region| is_right(*region, wanted))
        .collect();
    let area = |r: &PixelBox| (r[2] - r[0] + 1.0) * (r[3] - r[1] + 1.0);
    let away = |r: &PixelBox| {
        let (x, y) = ((r[0] + r[2]) / 2.0, (r[1] + r[3]) / 2.0);
        (x - width / 2.0).powi(2) + (y - height / 2.0).powi(2)
    };
    // Of equal ones the first.
    let best = |of: &dyn Fn(&PixelBox) -> f64| {
        let order = |a: &usize, b: &usize| of(&regions[*a]).total_cmp(&of(&regions[*b]));
        (0..count).min_by(order).is_some_and(|place| right[place])
    };
    let score = |right: bool| f64::from(u8::from(right));
    Blind {
        random: right.iter().filter(|right| **right).count() as f64 / count as f64,
        largest: score(best(&|region| -area(region))),
        centre: score(best(&away)),
        oracle: score(right.contains(&true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chiasm_nn::boxes::{DEVIATIONS, clip, decode};
    use chiasm_testkit::Case;
    use serde_json::Value;

    #[test]
    fn every_row_of_the_official_scorer() {
        let Some(case) = Case::open("metrics/refcoco_accuracy") else {
            return;
        };
        let text = std::fs::read_to_string(case.dir.join("rows.jsonl")).unwrap();
        let (mut right, mut count) = (0, 0);
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let four = |key: &str| -> [f64; 4] {
                let values = row[key].as_array().unwrap();
                std::array::from_fn(|i| values[i].as_f64().unwrap())
            };
            let [x, y, w, h] = four("gt_xywh");
            let wanted = [x, y, x + w, y + h];
            let size = ["image_w", "image_h"].map(|key| row[key].as_f64().unwrap());
            let found = four("pred_xyxy");
            // Two rows are boxes without a region, at exactly half an overlap.
            if row["pred_is_gt"].as_bool() == Some(false) {
                let deltas = four("pred_deltas_normalised");
                let deltas = std::array::from_fn(|i| deltas[i] * DEVIATIONS[i]);
                let decoded = decode(four("region_xyxy"), deltas);
                for (ours, expected) in [
                    (decoded, four("decoded_xyxy")),
                    (clip(decoded, size), found),
                ] {
                    let apart = ours.iter().zip(expected).map(|(a, b)| (a - b).abs());
                    assert!(apart.fold(0.0, f64::max) <= 1e-6, "{line}");
                }
            }
            let iou = row["iou"].as_f64().unwrap();
            assert!((overlap(found, wanted) - iou).abs() <= 1e-9, "{line}");
            assert_eq!(is_right(found, wanted), row["correct"].as_bool().unwrap());
            right += usize::from(is_right(found, wanted));
            count += 1;
        }
        let expected = &case.json["expected"];
        assert_eq!(count as u64, expected["count"].as_u64().unwrap());
        let accuracy = f64::from(u32::try_from(right).unwrap()) / f64::from(count);
        assert_eq!(accuracy, expected["accuracy"].as_f64().unwrap());
    }

    #[test]
    fn choices_that_do_not_read() {
        let regions = [
            [0.0, 0.0, 9.0, 9.0],
            [0.0, 0.0, 99.0, 99.0],
            [45.0, 45.0, 54.0, 54.0],
            [90.0, 90.0, 99.0, 99.0],
        ];
        let of = |wanted| blind(&regions, wanted, [100.0, 100.0]);
        let whole = of([0.0, 0.0, 99.0, 99.0]);
        assert_eq!(
            (whole.random, whole.largest, whole.oracle),
            (0.25, 1.0, 1.0)
        );
        assert_eq!(of([45.0, 45.0, 54.0, 54.0]).largest, 0.0);
        assert_eq!(of([200.0, 0.0, 210.0, 9.0]), Blind::default());
        assert_eq!(blind(&[], [0.0; 4], [9.0, 9.0]), Blind::default());
    }
}
