//! Boxes that are given picture by picture, in COCO's form: `instances.json`, which RefCOCO comes with, or what a
//! detector wrote in the same form. Features of them are somebody else's.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::names::ByName;
use crate::dataset::Rect;
use crate::error::DataError;
use crate::readers::instances::{Instances, rect};

/// The boxes of a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boxes {
    /// Where things are, in the order of the file.
    pub rects: Vec<Rect>,
    /// For each the number of its class in [`GivenBoxes::classes`]; -1 where it is not said.
    pub classes: Vec<i64>,
}

/// The boxes of a file.
pub struct GivenBoxes {
    /// Names of the classes, in the order of the alphabet.
    pub classes: Vec<String>,
    /// Boxes and pictures that cannot be used, and why.
    pub refused: Vec<String>,
    by_name: ByName<Arc<Boxes>>,
}

impl GivenBoxes {
    /// Reads COCO's form: `images`, `annotations` with a `bbox` each, and `categories`.
    ///
    /// # Errors
    /// A file that cannot be read, is not JSON of this form, exceeds a cap, or has no box at all.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let instances = Instances::read(path)?;
        let mut classes: Vec<String> = instances.categories.values().cloned().collect();
        classes.sort();
        classes.dedup();
        let mut refused = instances.refused.clone();
        let mut boxes: HashMap<_, Boxes> = HashMap::new();
        let sizes: HashMap<_, _> = instances
            .images
            .iter()
            .map(|image| (&image.id, (image.width, image.height)))
            .collect();
        for thing in &instances.things {
            let size = sizes.get(&thing.image_id).copied();
            let found = size
                .ok_or_else(|| format!("image {} is not there", thing.image_id.0))
                .and_then(|size| rect(thing.bbox, size));
            match found {
                Ok(rect) => {
                    let own = boxes.entry(&thing.image_id).or_default();
                    let name = instances.category(thing.category_id.as_ref());
                    let class = name.and_then(|name| classes.binary_search(&name).ok());
                    own.rects.push(rect);
                    own.classes.push(class.map_or(-1, |class| class as i64));
                }
                Err(reason) => refused.push(format!("annotation {}: {reason}", thing.id.0)),
            }
        }
        if boxes.is_empty() {
            return Err(DataError::Regions {
                origin: path.display().to_string(),
                reason: "there is no box in it".to_owned(),
                hint: Some(
                    "give COCO's form: `images`, `annotations` with `bbox`, `categories`, such as RefCOCO's \
                     `instances.json`"
                        .to_owned(),
                ),
            });
        }
        let mut by_name = ByName::default();
        for image in &instances.images {
            // A picture without a box has none, which is not the same as a picture that is not there.
            let own = Arc::new(boxes.remove(&image.id).unwrap_or_default());
            by_name.add(&image.file_name, &own);
            by_name.add_name(&image.id.0, &own);
        }
        Ok(Self {
            classes,
            refused,
            by_name,
        })
    }

    /// The boxes of a picture by its name, with or without extension, or COCO's number; `None` where the file
    /// does not know the picture.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<Arc<Boxes>> {
        self.by_name.find([name].into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(json: &str) -> Result<GivenBoxes, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instances.json");
        std::fs::write(&path, json).unwrap();
        GivenBoxes::read(&path)
    }

    #[test]
    fn boxes_of_pictures() {
        let given = given(
            r#"{"images": [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 100, "height": 50},
                           {"id": 8, "file_name": "b.jpg", "width": 10, "height": 10}],
                "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 40, 20]},
                                {"id": 2, "image_id": 7, "bbox": [90, 40, 50, 50]},
                                {"id": 3, "image_id": 7, "category_id": 3, "bbox": [10, 10, -4, 20]},
                                {"id": 4, "image_id": 9, "category_id": 3, "bbox": [0, 0, 4, 4]}],
                "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}]}"#,
        )
        .unwrap();
        assert_eq!(given.classes, ["cat", "dog"]);
        for name in [
            "7",
            "COCO_train2014_000000000007",
            "train2014/COCO_train2014_000000000007.jpg",
        ] {
            let boxes = given.of(name).unwrap();
            assert_eq!(boxes.classes, [1, -1], "{name}");
            let Rect { x1, y1, x2, y2 } = boxes.rects[0];
            assert_eq!([x1, y1, x2, y2], [0.1, 0.2, 0.5, 0.6]);
            assert_eq!((boxes.rects[1].x2, boxes.rects[1].y2), (1.0, 1.0));
        }
        assert!(given.of("b").unwrap().rects.is_empty());
        assert!(given.of("c.jpg").is_none());
        assert_eq!(given.refused.len(), 2, "{:?}", given.refused);
    }

    #[test]
    fn other_files_are_refused() {
        for (json, reason) in [
            ("{}", "images"),
            ("[1, 2]", "expected"),
            ("not JSON", "expected"),
            (r#"{"images": [], "annotations": []}"#, "there is no box"),
        ] {
            let error = given(json).err().unwrap();
            let message = format!("{error} {error:?}");
            assert!(message.contains(reason), "{json}: {message}");
        }
    }
}
