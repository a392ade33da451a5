//! Regions from an image tower alone: boxes from its tokens, features as means of tokens under them.

use std::collections::BTreeMap;

use chiasm_data::regions::RegionSet;
use chiasm_data::{Preprocess, Rect, Regions};
use rayon::prelude::*;
use serde_json::json;

use crate::naming::Naming;
use crate::places::Places;
use crate::proposals::{OVERLAP, propose};
use crate::provider::{Prepared, Provider, RegionError};
use crate::tower::Tower;

/// Class of a region that nothing names.
pub(crate) const NONE: i64 = -1;

/// The provider `grid`.
pub struct Grid<'a> {
    pub(crate) tower: Tower<'a>,
    pub(crate) naming: Option<Naming>,
    /// Regions of a picture at most.
    pub(crate) most: usize,
    set: RegionSet,
}

impl<'a> Grid<'a> {
    /// At most `most` regions a picture, named where the tower shares a space with the names.
    #[must_use]
    pub fn new(tower: Tower<'a>, naming: Option<Naming>, most: usize) -> Self {
        let naming = naming.filter(|_| tower.is_aligned());
        let names = |of: fn(&Naming) -> &Vec<String>| naming.as_ref().map(of).cloned();
        let set = RegionSet {
            provider: "grid".to_owned(),
            settings: json!({
                "regions": most,
                "image_size": tower.side(),
                "overlap": decimal(OVERLAP),
            }),
            weights: BTreeMap::from([("vision".to_owned(), tower.digest())]),
            dim: tower.width(),
            objects: names(|naming| &naming.objects.names).unwrap_or_default(),
            attributes: names(|naming| &naming.attributes.names).unwrap_or_default(),
        };
        Self {
            tower,
            naming,
            most,
            set,
        }
    }

    /// Features of the boxes of each picture, and their names.
    pub(crate) fn describe(
        &self,
        batch: &[Prepared],
        places: &[Places],
        boxes: Vec<Vec<Rect>>,
    ) -> Result<Vec<Regions>, RegionError> {
        let describe = |((picture, places), boxes): ((&Prepared, &Places), Vec<Rect>)| {
            let features = boxes.iter().flat_map(|rect| places.mean(rect)).collect();
            self.named(Regions {
                features,
                dim: places.dim(),
                size: Some(picture.size),
                classes: vec![NONE; boxes.len()],
                class_scores: vec![0.0; boxes.len()],
                attributes: vec![NONE; boxes.len()],
                attribute_scores: vec![0.0; boxes.len()],
                boxes,
            })
        };
        batch.iter().zip(places).zip(boxes).map(describe).collect()
    }

    fn named(&self, mut regions: Regions) -> Result<Regions, RegionError> {
        if regions.is_empty() {
            return Ok(regions);
        }
        if let Some(naming) = &self.naming
            && let Some(features) = self.tower.aligned(&regions.features)
        {
            (regions.classes, regions.class_scores) = naming.objects.nearest(features.clone())?;
            (regions.attributes, regions.attribute_scores) = naming.attributes.nearest(features)?;
        }
        Ok(regions)
    }
}

/// A setting as it is written down: 0.7, and not the nearest number in 32 bits.
pub(crate) fn decimal(value: f32) -> f64 {
    (f64::from(value) * 1000.0).round() / 1000.0
}

impl Provider for Grid<'_> {
    fn set(&self) -> &RegionSet {
        &self.set
    }

    fn inputs(&self) -> Vec<Preprocess> {
        vec![self.tower.input()]
    }

    fn regions(&self, batch: &[Prepared]) -> Result<Vec<Regions>, RegionError> {
        let places = self.tower.places(batch, 0)?;
        let boxes = places
            .par_iter()
            .map(|places| propose(places, &[], self.most));
        let boxes = boxes.collect();
        self.describe(batch, &places, boxes)
    }
}
