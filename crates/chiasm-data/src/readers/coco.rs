//! COCO's annotation files: captions, and the boxes of the things in the pictures.
//!
//! `captions_val2014.json` takes the objects of `instances_val2014.json` beside it, or of the file
//! that [`OpenOptions::annotations`] names. Boxes of crowds are left out: they are drawn around a
//! group and not around a thing.
//!
//! Instances alone have no text. When the person asks for the text column `categories`, the names of
//! what is in a picture, each once and in the order of the file, are its text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::json::{self, Id, Layout, Take};
use super::{Format, OpenOptions, Opened, split_in_name, split_in_path};
use crate::dataset::{Annotations, ImageSource, Object, Rect, Unit};
use crate::error::DataError;

const PARTS: Layout = Layout::Parts(&[
    ("images", Take::Each),
    ("annotations", Take::Each),
    ("categories", Take::Each),
]);

/// Name of the column that instances have instead of a text.
const CATEGORIES: &str = "categories";

/// The folders that COCO's pictures are unpacked to.
pub(super) const PICTURE_FOLDERS: &[&str] = &[
    "train2014",
    "val2014",
    "test2014",
    "test2015",
    "train2017",
    "val2017",
    "test2017",
    "unlabeled2017",
];

pub(super) const FORMAT: Format = Format {
    name: "coco",
    what: "COCO captions, with the instances beside them (captions_*.json)",
    recognises: |source| {
        let images = source.head_has("\"images\"") && source.head_has("\"file_name\"");
        let annotations = source.head_has("\"annotations\"") && source.head_has("\"image_id\"");
        source.has_extension(&["json"]) && source.begins_with(b'{') && (images || annotations)
    },
    open: |source, options| open(&source.path, options),
};

/// The names that a picture goes by when only its number is known: `COCO_val2014_000000000042.jpg`
/// in a part, `000000000042.jpg` since 2017, or the bare number.
pub(super) fn picture_names(id: &str, part: Option<&str>) -> Vec<String> {
    // The questions of `test-dev2015` ask about pictures of `test2015`.
    let official = part.map(|part| format!("COCO_{}_{id:0>12}.jpg", part.replace("-dev", "")));
    let plain = [format!("{id:0>12}.jpg"), format!("{id}.jpg")];
    official.into_iter().chain(plain).collect()
}

#[derive(Deserialize)]
struct Image {
    id: Id,
    file_name: String,
    width: Option<u32>,
    height: Option<u32>,
}

/// A caption or an instance.
#[derive(Deserialize)]
struct Annotation {
    image_id: Id,
    caption: Option<String>,
    category_id: Option<Id>,
    /// Left, top, width and height in pixels.
    bbox: Option<[f64; 4]>,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: Id,
    name: String,
}

/// A file, read but not joined.
#[derive(Default)]
struct File {
    images: Vec<Image>,
    /// Number of the annotation, picture, words.
    captions: Vec<(u64, Id, String)>,
    things: Vec<Thing>,
    categories: HashMap<Id, String>,
    /// What could not be used, and why.
    refused: Vec<String>,
}

struct Thing {
    number: u64,
    image: Id,
    category: Id,
    corners: [f64; 4],
}

impl File {
    fn read(path: &Path) -> Result<Self, DataError> {
        let mut file = Self::default();
        json::stream(path, PARTS, |element| {
            let number = element.number;
            let taken = match element.key {
                "images" => element.parse().map(|image| file.images.push(image)),
                "categories" => element.parse().map(|Category { id, name }| {
                    file.categories.insert(id, name);
                }),
                _ => element
                    .parse()
                    .and_then(|annotation| file.annotation(number, annotation)),
            };
            if let Err(reason) = taken {
                let key = element.key;
                file.refused
                    .push(format!("entry {number} of `{key}`: {reason}"));
            }
            Ok(())
        })?;
        Ok(file)
    }

    fn annotation(&mut self, number: u64, annotation: Annotation) -> Result<(), String> {
        let image = annotation.image_id;
        match (annotation.caption, annotation.category_id) {
            (Some(caption), _) => self.captions.push((number, image, caption)),
            (None, Some(_)) if annotation.iscrowd != 0 => {}
            (None, Some(category)) => {
                let [x, y, width, height] = annotation.bbox.ok_or("`bbox` is missing")?;
                self.things.push(Thing {
                    number,
                    image,
                    category,
                    corners: [x, y, x + width, y + height],
                });
            }
            (None, None) => return Err("neither `caption` nor `category_id`".to_owned()),
        }
        Ok(())
    }

    /// What is known of each picture beside its captions.
    fn annotations(&mut self) -> HashMap<Id, Annotations> {
        let mut all: HashMap<Id, Annotations> = HashMap::new();
        for image in &self.images {
            let size = image.width.zip(image.height);
            let size = size.filter(|(width, height)| *width > 0 && *height > 0);
            all.entry(image.id.clone()).or_default().size = size;
        }
        for thing in &self.things {
            let object = all
                .get_mut(&thing.image)
                .ok_or_else(|| format!("image {} is not in `images`", thing.image.0))
                .and_then(|annotations| {
                    let category = self.categories.get(&thing.category);
                    let category = category
                        .ok_or_else(|| format!("category {} has no name", thing.category.0))?;
                    let (width, height) =
                        annotations.size.ok_or("the size of the image is unknown")?;
                    let rect =
                        Rect::from_pixels(thing.corners, f64::from(width), f64::from(height));
                    annotations.objects.push(Object {
                        category: category.clone(),
                        rect: Some(rect.ok_or("the box is empty or outside the image")?),
                    });
                    Ok(())
                });
            if let Err(reason) = object {
                let number = thing.number;
                self.refused
                    .push(format!("entry {number} of `annotations`: {reason}"));
            }
        }
        all
    }
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut file = File::read(path)?;
    let mut collector = Collector::new(path, options, Unit::Row);
    collector.look_also(options, &["../images", ".."], PICTURE_FOLDERS);
    let mut known = file.annotations();
    let beside = options.annotations.clone().or_else(|| instances_of(path));
    match beside.filter(|_| !file.captions.is_empty()) {
        Some(beside) => {
            let mut instances = File::read(&beside)?;
            known.extend(instances.annotations());
            for reason in instances.refused {
                collector.refuse_file("", &beside, reason);
            }
        }
        None if file.captions.is_empty() && !file.things.is_empty() => {
            if options.text_column.as_deref() != Some(CATEGORIES) {
                return Err(no_captions(path));
            }
            file.captions = categories(&file.images, &known);
        }
        None => {}
    }
    for reason in file.refused {
        collector.refuse_file("", path, reason);
    }
    let mut pictures = HashMap::new();
    for image in file.images {
        if pictures.contains_key(&image.id) {
            let reason = format!("image {} is in `images` twice", image.id.0);
            collector.refuse_file(&image.file_name, path, reason);
            continue;
        }
        let split = split_in_name(&image.file_name).or_else(|| split_in_path(path));
        let found = ImageSource::Path(collector.find(&image.file_name));
        pictures.insert(image.id, (image.file_name, found, split));
    }
    let mut captioned = HashMap::new();
    for (number, image, caption) in file.captions {
        let Some((name, source, split)) = pictures.get(&image) else {
            let reason = format!("image {} is not in `images`", image.0);
            collector.refuse(number, &image.0, reason);
            continue;
        };
        let picture = Picture::Found {
            id: name.clone(),
            visual: source.clone().into(),
        };
        collector.add(RawRow {
            split: *split,
            ..RawRow::new(number, picture, vec![caption])
        });
        captioned.insert(name.clone(), image);
    }
    let names = pictures.values().map(|(name, _, _)| name);
    let mut silent: Vec<&String> = names
        .filter(|name| !captioned.contains_key(*name))
        .collect();
    silent.sort();
    for name in silent {
        collector.refuse_file(name, path, "the image has no caption");
    }
    let mut opened = collector.finish()?;
    // Said once a picture, and not with whichever caption came first.
    for sample in &mut opened.dataset.samples {
        let image = captioned.get(&sample.id);
        if let Some(annotations) = image.and_then(|image| known.remove(image)) {
            sample.annotations = annotations;
        }
    }
    Ok(opened)
}

/// What is in each picture as a text.
fn categories(images: &[Image], known: &HashMap<Id, Annotations>) -> Vec<(u64, Id, String)> {
    (1..)
        .zip(images)
        .filter_map(|(number, image)| {
            let mut names: Vec<&str> = Vec::new();
            for object in &known.get(&image.id)?.objects {
                if !names.contains(&object.category.as_str()) {
                    names.push(&object.category);
                }
            }
            Some((number, image.id.clone(), names.join(", ")))
        })
        .collect()
}

/// The instances beside captions, when they are there.
fn instances_of(captions: &Path) -> Option<PathBuf> {
    let name = captions.file_name()?.to_str()?;
    let beside = captions.with_file_name(name.replace("captions", "instances"));
    (name.contains("captions") && beside.is_file()).then_some(beside)
}

fn no_captions(path: &Path) -> DataError {
    DataError::Incomplete {
        path: path.to_owned(),
        missing: "holds boxes without a text".to_owned(),
        hint: format!(
            "open the captions (`captions_*.json`), which take the boxes from the file beside them or \
             from `--annotations`; or pass `--text-column {CATEGORIES}` to take the names of what is \
             in a picture as its text"
        ),
    }
}
