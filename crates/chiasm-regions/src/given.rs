//! Regions whose boxes are given: those of people, or of a detector that ran elsewhere. Features come from the image
//! tower, as those of [`Grid`] do.
//!
//! A model that learned from the boxes of another provider can be asked about given ones where features are made
//! alike: such a set says for which one it stands in.

use std::sync::Arc;

use chiasm_data::regions::{Boxes, GivenBoxes, RegionSet};
use chiasm_data::{Preprocess, Rect, Regions};
use serde_json::json;

use crate::grid::{Grid, NONE};
use crate::provider::{Prepared, Provider, RegionError};

/// The provider `boxes`.
pub struct Given<'a> {
    grid: Grid<'a>,
    boxes: GivenBoxes,
    set: RegionSet,
}

impl<'a> Given<'a> {
    /// Puts given boxes before a tower; the first ones of a picture, as many as the grid makes. With `like` the set
    /// stands in for that one.
    ///
    /// # Errors
    /// [`RegionError::Unlike`] where features of `like` are made otherwise.
    pub fn new(
        grid: Grid<'a>,
        boxes: GivenBoxes,
        like: Option<&RegionSet>,
    ) -> Result<Self, RegionError> {
        let own = grid.set();
        let mut settings = own.settings.clone();
        if let Some(other) = like {
            let size = |set: &RegionSet| set.settings.get("image_size").cloned();
            let vision = |set: &RegionSet| set.weights.get("vision").cloned();
            let differences = [
                ("`--size`", size(other) != size(own)),
                ("`--weights-vision`", vision(other) != vision(own)),
                ("numbers of a feature", other.dim != own.dim),
            ];
            if let Some((what, _)) = differences.into_iter().find(|(_, differs)| *differs) {
                return Err(RegionError::Unlike(what));
            }
            if let Some(settings) = settings.as_object_mut() {
                settings.insert("stands_for".to_owned(), json!(other.identity()));
            }
        }
        let set = RegionSet {
            provider: "boxes".to_owned(),
            settings,
            objects: boxes.classes.clone(),
            attributes: Vec::new(),
            ..own.clone()
        };
        Ok(Self { grid, boxes, set })
    }
}

impl Provider for Given<'_> {
    fn set(&self) -> &RegionSet {
        &self.set
    }

    fn inputs(&self) -> Vec<Preprocess> {
        self.grid.inputs()
    }

    /// Pictures that the file does not know have no region.
    fn regions(&self, batch: &[Prepared]) -> Result<Vec<Regions>, RegionError> {
        let places = self.grid.tower.places(batch, 0)?;
        let most = self.grid.most;
        let given: Vec<Arc<Boxes>> = batch
            .iter()
            .map(|picture| self.boxes.of(&picture.name).unwrap_or_default())
            .collect();
        let first = |boxes: &Arc<Boxes>| boxes.rects.iter().take(most).copied().collect();
        let boxes: Vec<Vec<Rect>> = given.iter().map(first).collect();
        let mut regions = self.grid.describe(batch, &places, boxes)?;
        for (regions, given) in regions.iter_mut().zip(&given) {
            for (slot, class) in regions.classes.iter_mut().zip(&given.classes) {
                *slot = *class;
            }
            for (score, class) in regions.class_scores.iter_mut().zip(&given.classes) {
                *score = if *class == NONE { 0.0 } else { 1.0 };
            }
        }
        Ok(regions)
    }
}
