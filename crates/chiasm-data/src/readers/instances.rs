//! COCO's `instances.json`: pictures, the boxes of things in them, and what kinds of things there are.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::json::{self, Id, Layout, Take};
use crate::dataset::Rect;
use crate::error::DataError;

#[derive(Deserialize)]
pub(crate) struct Image {
    pub(crate) id: Id,
    pub(crate) file_name: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// MDETR: the sentence, and the id of the picture that it is about.
    pub(crate) caption: Option<String>,
    pub(crate) original_id: Option<Id>,
}

#[derive(Deserialize)]
pub(crate) struct Thing {
    pub(crate) id: Id,
    pub(crate) image_id: Id,
    pub(crate) category_id: Option<Id>,
    /// Left, top, width and height in pixels.
    pub(crate) bbox: [f64; 4],
    /// MDETR: which characters of the caption name it.
    #[serde(default)]
    pub(crate) tokens_positive: Vec<[usize; 2]>,
}

#[derive(Deserialize)]
struct Category {
    id: Id,
    name: String,
}

/// COCO's pictures, boxes and categories.
#[derive(Default)]
pub(crate) struct Instances {
    pub(crate) images: Vec<Image>,
    pub(crate) things: Vec<Thing>,
    pub(crate) categories: HashMap<Id, String>,
    pub(crate) refused: Vec<String>,
}

impl Instances {
    pub(crate) fn read(path: &Path) -> Result<Self, DataError> {
        const PARTS: Layout = Layout::Parts(&[
            ("images", Take::Each),
            ("annotations", Take::Each),
            ("categories", Take::Each),
        ]);
        let mut read = Self::default();
        json::stream(path, PARTS, |element| {
            let taken = match element.key {
                "images" => element.parse().map(|image| read.images.push(image)),
                "annotations" => element.parse().map(|thing| read.things.push(thing)),
                _ => element.parse().map(|Category { id, name }| {
                    read.categories.insert(id, name);
                }),
            };
            if let Err(reason) = taken {
                let (number, key) = (element.number, element.key);
                read.refused
                    .push(format!("entry {number} of `{key}`: {reason}"));
            }
            Ok(())
        })?;
        Ok(read)
    }

    pub(crate) fn category(&self, id: Option<&Id>) -> Option<String> {
        id.and_then(|id| self.categories.get(id)).cloned()
    }
}

/// Left, top, width and height in pixels as part of a picture.
pub(crate) fn rect([x, y, width, height]: [f64; 4], size: (u32, u32)) -> Result<Rect, String> {
    let corners = [x, y, x + width, y + height];
    Rect::from_pixels(corners, f64::from(size.0), f64::from(size.1))
        .ok_or_else(|| "the box is empty or outside the image".to_owned())
}
