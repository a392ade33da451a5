//! Regions from a detector: the boxes of YOLOv4-tiny first, filled up with those of the tower.
//!
//! The detector says where things are and which of the 80 classes of COCO they belong to; features come from the
//! image tower, as those of [`Grid`] do. A picture in which it finds less than what is wanted gets
//! boxes from the tower's tokens for the rest, which have no class.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use burn::tensor::Device;
use chiasm_data::regions::RegionSet;
use chiasm_data::{Filter, Preprocess, Rect, Regions, Resize};
use chiasm_nn::published::yolo::{
    ANCHORS, BOX, CENTRE_SCALE, CLASSES, HEADS, Head, SIDE, YoloTiny,
};
use rayon::prelude::*;
use serde_json::json;

use crate::boxes::{overlap, suppress};
use crate::grid::{Grid, NONE, decimal};
use crate::proposals::{OVERLAP, propose};
use crate::provider::{Prepared, Provider, RegionError};
use crate::tower::{host, pixels};

/// Detections below this confidence are left out. Regions are candidates, not findings: a detector that is asked
/// for things alone is run at 0.25.
const LEAST_SCORE: f32 = 0.05;

/// Overlap above which the weaker of two boxes of one class is left out: darknet's.
const CLASS_OVERLAP: f32 = 0.45;

/// The classes of COCO by darknet's number, under COCO's own names.
pub const COCO: [&str; CLASSES] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];

/// A thing that was detected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Where.
    pub rect: Rect,
    /// Which of [`COCO`].
    pub class: usize,
    /// How sure, 0 to 1.
    pub score: f32,
}

/// The provider `detector`.
pub struct Detector<'a> {
    grid: Grid<'a>,
    network: YoloTiny,
    device: &'a Device,
    set: RegionSet,
}

impl<'a> Detector<'a> {
    /// Puts a detector before a tower; as many regions a picture as the grid makes. `digest` is that of the
    /// detector's weight file.
    #[must_use]
    pub fn new(grid: Grid<'a>, network: YoloTiny, digest: String, device: &'a Device) -> Self {
        let mut settings = grid.set().settings.clone();
        if let Some(settings) = settings.as_object_mut() {
            settings.insert("detector".to_owned(), json!("yolov4-tiny"));
            settings.insert("least_score".to_owned(), json!(decimal(LEAST_SCORE)));
        }
        let mut weights: BTreeMap<String, String> = grid.set().weights.clone();
        weights.insert("detector".to_owned(), digest);
        let set = RegionSet {
            provider: "detector".to_owned(),
            settings,
            weights,
            objects: COCO.map(str::to_owned).to_vec(),
            ..grid.set().clone()
        };
        Self {
            grid,
            network,
            device,
            set,
        }
    }

    /// The things in each picture, surest first.
    ///
    /// # Errors
    /// If the device fails.
    pub fn detect(&self, batch: &[Prepared]) -> Result<Vec<Vec<Detection>>, RegionError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let heads = self.network.forward(pixels(batch, 1, SIDE, self.device));
        let [coarse, fine] = heads.map(host);
        let raw = [coarse?, fine?];
        let things = |picture: usize| {
            let maps = HEADS.iter().zip(&raw).flat_map(|(head, raw)| {
                let len = ANCHORS * BOX * head.cells * head.cells;
                let own = raw.get(picture * len..(picture + 1) * len);
                decode(head, own.unwrap_or_default())
            });
            best_of_each_class(maps.collect())
        };
        Ok((0..batch.len()).into_par_iter().map(things).collect())
    }
}

impl Provider for Detector<'_> {
    fn set(&self) -> &RegionSet {
        &self.set
    }

    /// The tower's input, then the detector's: the whole picture, in 0 to 1.
    fn inputs(&self) -> Vec<Preprocess> {
        let mut inputs = self.grid.inputs();
        inputs.push(Preprocess {
            resize: Resize::Squash,
            filter: Filter::Bilinear,
            mean: [0.0; 3],
            std: [1.0; 3],
            ..Preprocess::new(SIDE)
        });
        inputs
    }

    fn regions(&self, batch: &[Prepared]) -> Result<Vec<Regions>, RegionError> {
        let places = self.grid.tower.places(batch, 0)?;
        let found = self.detect(batch)?;
        let most = self.grid.most;
        let chosen: Vec<Vec<Detection>> = found.iter().map(|found| apart(found, most)).collect();
        let boxes = places.par_iter().zip(&chosen).map(|(places, things)| {
            let mut boxes: Vec<Rect> = things.iter().map(|thing| thing.rect).collect();
            let more = propose(places, &boxes, most - boxes.len());
            boxes.extend(more);
            boxes
        });
        let boxes = boxes.collect();
        let mut regions = self.grid.describe(batch, &places, boxes)?;
        for (regions, things) in regions.iter_mut().zip(&chosen) {
            // What a text would call them gives way to what the detector saw.
            regions.classes.fill(NONE);
            regions.class_scores.fill(0.0);
            for (slot, thing) in regions.classes.iter_mut().zip(things) {
                *slot = thing.class as i64;
            }
            for (slot, thing) in regions.class_scores.iter_mut().zip(things) {
                *slot = thing.score;
            }
        }
        Ok(regions)
    }
}

/// At most `most` detections, of any class, that do not overlap too much.
fn apart(found: &[Detection], most: usize) -> Vec<Detection> {
    let boxes: Vec<Rect> = found.iter().map(|thing| thing.rect).collect();
    let kept = suppress(&boxes, &[], OVERLAP, most);
    kept.into_iter()
        .filter_map(|index| found.get(index).copied())
        .collect()
}

/// Boxes of one head's raw output of a picture, `[3 * 85, cells, cells]`, each under its best class.
fn decode(head: &Head, raw: &[f32]) -> Vec<Detection> {
    let cells = head.cells;
    let area = cells * cells;
    let mut found = Vec::new();
    for (anchor, [wide, high]) in head.anchors.iter().enumerate() {
        let value = |number: usize, cell: usize| {
            let at = (anchor * BOX + number) * area + cell;
            raw.get(at).copied().unwrap_or(f32::NEG_INFINITY)
        };
        for cell in 0..area {
            let thing = sigmoid(value(4, cell));
            if thing < LEAST_SCORE {
                continue;
            }
            let mut best = (0, f32::NEG_INFINITY);
            for class in 0..CLASSES {
                let score = value(5 + class, cell);
                if score > best.1 {
                    best = (class, score);
                }
            }
            let score = thing * sigmoid(best.1);
            if score < LEAST_SCORE || score.is_nan() {
                continue;
            }
            let centre = |raw: f32, cell: usize| {
                let within = sigmoid(raw) * CENTRE_SCALE - (CENTRE_SCALE - 1.0) / 2.0;
                (cell as f32 + within) / cells as f32
            };
            let (x, y) = (
                centre(value(0, cell), cell % cells),
                centre(value(1, cell), cell / cells),
            );
            let half = |raw: f32, anchor: f32| raw.exp() * anchor / SIDE as f32 / 2.0;
            let (across, down) = (half(value(2, cell), *wide), half(value(3, cell), *high));
            let rect = Rect {
                x1: (x - across).clamp(0.0, 1.0),
                y1: (y - down).clamp(0.0, 1.0),
                x2: (x + across).clamp(0.0, 1.0),
                y2: (y + down).clamp(0.0, 1.0),
            };
            if rect.x2 > rect.x1 && rect.y2 > rect.y1 {
                found.push(Detection {
                    rect,
                    class: best.0,
                    score,
                });
            }
        }
    }
    found
}

/// Detections, surest first, without the weaker ones of a class that lie on a stronger one.
fn best_of_each_class(mut found: Vec<Detection>) -> Vec<Detection> {
    // Equal scores keep the order of the heads and cells.
    found.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal));
    let mut kept: Vec<Detection> = Vec::new();
    for thing in found {
        let is_new = kept.iter().all(|other| {
            other.class != thing.class || overlap(&other.rect, &thing.rect) <= CLASS_OVERLAP
        });
        if is_new {
            kept.push(thing);
        }
    }
    kept
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Raw output of a head in which nothing is a thing, but for one cell of its first anchor.
    fn raw(head: &Head, cell: usize, values: &[(usize, f32)]) -> Vec<f32> {
        let area = head.cells * head.cells;
        let mut raw = vec![-20.0; ANCHORS * BOX * area];
        for (number, value) in values {
            raw[number * area + cell] = *value;
        }
        raw
    }

    #[test]
    fn a_box_by_hand() {
        let head = &HEADS[0];
        // Middle cell of 13, centred, the anchor's own size, class 16.
        let cell = 6 * 13 + 6;
        let found = decode(
            head,
            &raw(
                head,
                cell,
                &[
                    (0, 0.0),
                    (1, 0.0),
                    (2, 0.0),
                    (3, 0.0),
                    (4, 20.0),
                    (21, 20.0),
                ],
            ),
        );
        let [thing] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((thing.class, COCO[thing.class]), (16, "dog"));
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(close(thing.score, 1.0));
        assert!(
            close(thing.rect.x1, 0.5 - 81.0 / 832.0) && close(thing.rect.y2, 0.5 + 82.0 / 832.0),
            "{thing:?}"
        );
    }

    #[test]
    fn what_is_not_a_number_or_not_there_is_no_thing() {
        let head = &HEADS[1];
        for values in [
            vec![(4, f32::NAN), (9, 5.0)],
            vec![(4, 5.0), (9, f32::NAN), (0, f32::NAN)],
            vec![
                (0, 0.0),
                (1, 0.0),
                (2, f32::NAN),
                (3, 0.0),
                (4, 5.0),
                (9, 5.0),
            ],
        ] {
            assert_eq!(decode(head, &raw(head, 3, &values)), []);
        }
        assert_eq!(decode(head, &[]), []);
        // A size beyond all bounds is cut to the picture.
        let huge = [
            (0, 0.0),
            (1, 0.0),
            (2, 500.0),
            (3, 500.0),
            (4, 5.0),
            (9, 5.0),
        ];
        let found = decode(head, &raw(head, 3, &huge));
        assert_eq!(
            found[0].rect,
            Rect {
                x1: 0.0,
                y1: 0.0,
                x2: 1.0,
                y2: 1.0
            }
        );
    }

    #[test]
    fn the_surest_of_a_class_stays() {
        let thing = |x1: f32, class, score| Detection {
            rect: Rect {
                x1,
                y1: 0.0,
                x2: x1 + 0.4,
                y2: 0.4,
            },
            class,
            score,
        };
        let found = vec![
            thing(0.0, 1, 0.5),
            thing(0.02, 1, 0.9),
            thing(0.0, 2, 0.4),
            thing(0.5, 1, 0.3),
        ];
        let kept = best_of_each_class(found);
        let scores: Vec<f32> = kept.iter().map(|thing| thing.score).collect();
        assert_eq!(scores, [0.9, 0.4, 0.3]);
        // Of any class, the boxes of one thing are one region.
        let scores: Vec<f32> = apart(&kept, 36).iter().map(|thing| thing.score).collect();
        assert_eq!(scores, [0.9, 0.3]);
    }
}
