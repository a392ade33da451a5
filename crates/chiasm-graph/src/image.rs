//! The scene graph of a picture: regions, and which of them overlap.
//!
//! Owns overlap with the +1-pixel convention, a region's geometry, and names for how regions lie to each other
//! (`specs/tbkin.md` 1.3, 2.1). Where boxes and class names come from is a detector's. Only overlap leads masks; the
//! named relations are for people.

use serde::{Deserialize, Serialize};

use crate::dot;

/// Cap on the regions of a picture.
pub const MAX_REGIONS: usize = 1000;

/// Corners of a box in pixels: left, top, right, bottom.
pub type Corners = [f64; 4];

/// Why regions make no graph.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum RegionError {
    /// There are too many.
    #[error("{count} regions; at most {MAX_REGIONS} make a graph. Keep the most confident ones")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A box is no box.
    #[error("box of region {region} has a corner that is not a number")]
    NotFinite {
        /// Which region, from 0.
        region: usize,
    },
}

/// A detected region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Where it is.
    pub corners: Corners,
    /// Name of its class; empty when nobody named it.
    pub name: String,
}

/// Two regions that overlap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionEdge {
    /// The region with the smaller index.
    pub a: usize,
    /// The other.
    pub b: usize,
    /// Intersection over union.
    pub iou: f64,
}

/// Regions of a picture and their overlaps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageGraph {
    /// The regions, in the detector's order.
    pub regions: Vec<Region>,
    /// Pairs of regions that overlap enough, `a < b`, in order.
    pub edges: Vec<RegionEdge>,
}

/// How a region lies to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spatial {
    /// Ends before the other begins, from left to right.
    LeftOf,
    /// Begins after the other ends, from left to right.
    RightOf,
    /// Ends before the other begins, from top to bottom.
    Above,
    /// Begins after the other ends, from top to bottom.
    Below,
    /// Nine tenths of it lie in the other.
    Inside,
    /// Nine tenths of the other lie in it.
    Contains,
    /// They overlap as neighbours do.
    Overlaps,
    /// They touch or overlap a little.
    Near,
}

impl Spatial {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeftOf => "left of",
            Self::RightOf => "right of",
            Self::Above => "above",
            Self::Below => "below",
            Self::Inside => "inside",
            Self::Contains => "contains",
            Self::Overlaps => "overlaps",
            Self::Near => "near",
        }
    }
}

impl ImageGraph {
    /// Joins regions whose overlap is above `iou_edge`.
    ///
    /// Boxes may lie outside the picture; corners in the wrong order are put right.
    ///
    /// # Errors
    /// With more than [`MAX_REGIONS`], or a corner that is not finite.
    pub fn new(mut regions: Vec<Region>, iou_edge: f64) -> Result<Self, RegionError> {
        if regions.len() > MAX_REGIONS {
            return Err(RegionError::TooMany {
                count: regions.len(),
            });
        }
        for (index, region) in regions.iter_mut().enumerate() {
            let [x1, y1, x2, y2] = region.corners;
            if !region.corners.iter().all(|corner| corner.is_finite()) {
                return Err(RegionError::NotFinite { region: index });
            }
            region.corners = [x1.min(x2), y1.min(y2), x1.max(x2), y1.max(y2)];
        }
        let mut edges = Vec::new();
        for (a, first) in regions.iter().enumerate() {
            for (b, second) in regions.iter().enumerate().skip(a + 1) {
                let iou = iou(&first.corners, &second.corners);
                if iou > iou_edge {
                    edges.push(RegionEdge { a, b, iou });
                }
            }
        }
        Ok(Self { regions, edges })
    }

    /// How regions lie to those beside them: `(a, how, b)` with `a < b`, for pairs no farther apart than half the
    /// longer side of the larger one.
    pub fn spatial(&self, iou_edge: f64) -> Vec<(usize, Spatial, usize)> {
        let mut found = Vec::new();
        for (a, first) in self.regions.iter().enumerate() {
            for (b, second) in self.regions.iter().enumerate().skip(a + 1) {
                if let Some(how) = relation(&first.corners, &second.corners, iou_edge) {
                    found.push((a, how, b));
                }
            }
        }
        found
    }

    /// What a region is shown as: its name and number.
    pub fn label(&self, region: usize) -> String {
        label(
            region,
            self.regions.get(region).map_or("", |region| &region.name),
        )
    }

    /// The graph in the DOT language, overlaps as lines with their value.
    pub fn to_dot(&self) -> String {
        let mut dot = dot::Writer::new("picture");
        for index in 0..self.regions.len() {
            dot.node(&format!("r{index}"), &self.label(index), "box");
        }
        for edge in &self.edges {
            dot.line(
                &format!("r{}", edge.a),
                &format!("r{}", edge.b),
                &format!("{:.2}", edge.iou),
            );
        }
        dot.finish()
    }
}

/// What a region is shown as.
pub(crate) fn label(index: usize, name: &str) -> String {
    if name.is_empty() {
        format!("region {index}")
    } else {
        format!("{name} {index}")
    }
}

/// Overlap of two boxes, in `0..=1`, with a pixel more in width and height as the published code counts.
pub fn iou(a: &Corners, b: &Corners) -> f64 {
    let inter = intersection(a, b);
    inter / (area(a) + area(b) - inter)
}

/// Place and size of a region as its embedding takes it: corners and area as shares of the picture's.
///
/// # Shapes
/// - output: `[x1 / width, y1 / height, x2 / width, y2 / height, area]`; no pixel is added here
pub fn geometry(corners: &Corners, width: f64, height: f64) -> [f64; 5] {
    let [x1, y1, x2, y2] = *corners;
    [
        x1 / width,
        y1 / height,
        x2 / width,
        y2 / height,
        (x2 - x1) * (y2 - y1) / (width * height),
    ]
}

fn area([x1, y1, x2, y2]: &Corners) -> f64 {
    (x2 - x1 + 1.0) * (y2 - y1 + 1.0)
}

fn intersection(a: &Corners, b: &Corners) -> f64 {
    let side = |low: usize, high: usize| (a[high].min(b[high]) - a[low].max(b[low]) + 1.0).max(0.0);
    side(0, 2) * side(1, 3)
}

fn relation(a: &Corners, b: &Corners, iou_edge: f64) -> Option<Spatial> {
    /// Share of a box that has to lie in another to be inside.
    const INSIDE: f64 = 0.9;
    /// Largest gap, as a share of the longer side of the larger box.
    const GAP: f64 = 0.5;
    let inter = intersection(a, b);
    let (area_a, area_b) = (area(a), area(b));
    if inter >= INSIDE * area_a && area_a <= area_b {
        return Some(Spatial::Inside);
    }
    if inter >= INSIDE * area_b {
        return Some(Spatial::Contains);
    }
    if iou(a, b) > iou_edge {
        return Some(Spatial::Overlaps);
    }
    let gap = |low: usize, high: usize| (b[low] - a[high]).max(a[low] - b[high]);
    let (across, down) = (gap(0, 2), gap(1, 3));
    let side = |corners: &Corners| (corners[2] - corners[0]).max(corners[3] - corners[1]);
    if across.max(down) > GAP * side(a).max(side(b)) {
        return None;
    }
    Some(match (across > 0.0 && across >= down, down > 0.0) {
        (true, _) if a[2] < b[0] => Spatial::LeftOf,
        (true, _) => Spatial::RightOf,
        (false, true) if a[3] < b[1] => Spatial::Above,
        (false, true) => Spatial::Below,
        (false, false) => Spatial::Near,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn regions(boxes: &[Corners]) -> Vec<Region> {
        let region = |corners: &Corners| Region {
            corners: *corners,
            name: String::new(),
        };
        boxes.iter().map(region).collect()
    }

    #[test]
    fn relations_have_names() {
        let middle = [100.0, 100.0, 200.0, 200.0];
        for (other, how) in [
            ([210.0, 100.0, 300.0, 200.0], Some(Spatial::LeftOf)),
            ([20.0, 100.0, 90.0, 200.0], Some(Spatial::RightOf)),
            ([100.0, 210.0, 200.0, 300.0], Some(Spatial::Above)),
            ([100.0, 20.0, 200.0, 90.0], Some(Spatial::Below)),
            ([50.0, 50.0, 250.0, 250.0], Some(Spatial::Inside)),
            ([120.0, 120.0, 140.0, 140.0], Some(Spatial::Contains)),
            ([130.0, 100.0, 230.0, 200.0], Some(Spatial::Overlaps)),
            ([190.0, 190.0, 290.0, 290.0], Some(Spatial::Near)),
            ([900.0, 100.0, 950.0, 200.0], None),
        ] {
            assert_eq!(relation(&middle, &other, 0.2), how, "{other:?}");
        }
    }

    #[test]
    fn odd_boxes_are_handled() {
        let graph = ImageGraph::new(
            regions(&[[50.0, 60.0, 10.0, 20.0], [-30.0, -30.0, 900.0, 900.0]]),
            0.2,
        )
        .unwrap();
        assert_eq!(graph.regions[0].corners, [10.0, 20.0, 50.0, 60.0]);
        assert_eq!(
            ImageGraph::new(Vec::new(), 0.2).unwrap(),
            ImageGraph::default()
        );
        let bad = ImageGraph::new(regions(&[[0.0, 0.0, f64::NAN, 1.0]]), 0.2);
        assert_eq!(bad, Err(RegionError::NotFinite { region: 0 }));
        let many = ImageGraph::new(regions(&vec![[0.0; 4]; MAX_REGIONS + 1]), 0.2);
        assert!(matches!(many, Err(RegionError::TooMany { count: 1001 })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn overlap_is_a_similarity(a in prop::array::uniform4(-500.0..500.0f64), b in prop::array::uniform4(-500.0..500.0f64)) {
            let graph = ImageGraph::new(regions(&[a, b]), 0.0).unwrap();
            let [a, b] = [graph.regions[0].corners, graph.regions[1].corners];
            let value = iou(&a, &b);
            prop_assert!((0.0..=1.0).contains(&value));
            prop_assert_eq!(value, iou(&b, &a));
            prop_assert!((iou(&a, &a) - 1.0).abs() < 1e-12);
            prop_assert_eq!(graph.edges.len(), usize::from(value > 0.0));
        }

        #[test]
        fn relations_turn_around(a in prop::array::uniform4(0.0..300.0f64), b in prop::array::uniform4(0.0..300.0f64)) {
            let graph = ImageGraph::new(regions(&[a, b]), 0.2).unwrap();
            let [a, b] = [graph.regions[0].corners, graph.regions[1].corners];
            let back = match relation(&a, &b, 0.2) {
                Some(Spatial::LeftOf) => Some(Spatial::RightOf),
                Some(Spatial::RightOf) => Some(Spatial::LeftOf),
                Some(Spatial::Above) => Some(Spatial::Below),
                Some(Spatial::Below) => Some(Spatial::Above),
                Some(Spatial::Inside) if area(&a) != area(&b) => Some(Spatial::Contains),
                Some(Spatial::Contains) => Some(Spatial::Inside),
                other => other,
            };
            prop_assert_eq!(relation(&b, &a, 0.2), back);
        }
    }
}
