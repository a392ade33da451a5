//! ALIGN-BENCH (`specs/scl.md`, section 8): captions whose phrases are tied to boxes and to pixels.
//!
//! A folder with `images/{k}.jpg` and `pkls/{k}.pkl`, a Python pickle each, which is read without
//! running anything: `{caption, annotation: {phrase: [{bbox_mask, pixel_mask}, ..]}}`. A box is left,
//! top, right and bottom in pixels, as numbers or as an array; a mask is an array of truth values
//! `[height, width]`, and says how large the picture is. Everything is for testing.

use std::path::{Path, PathBuf};

use chiasm_format::pickle::{self, Limits, Value};
use chiasm_format::tensor::{Dtype, Tensor};

use super::collect::{Collector, Picture, RawRow};
use super::{Format, OpenOptions, Opened, name_of};
use crate::dataset::{Annotations, ImageSource, Mask, Phrase, Rect, Split, Unit, read_capped};
use crate::error::DataError;

/// Largest pickle. A mask has a byte a pixel: room for 800 of 640x480.
const MAX_PICKLE_BYTES: u64 = 256 << 20;
/// Most pixels of all masks of a picture together. A pickle may mention one mask again and again.
const MAX_MASK_PIXELS: usize = 256 << 20;
/// Most pictures of a folder; the set has 1,500.
const MAX_PICTURES: usize = 1 << 20;

pub(super) const FORMAT: Format = Format {
    name: "align_bench",
    what: "ALIGN-BENCH: the folder of images/ and pkls/",
    recognises: |source| source.is_folder && source.path.join("pkls").is_dir(),
    open: |source, options| open(&source.path, options),
};

fn open(folder: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let pickles = folder.join("pkls");
    // Pictures are looked for beside it.
    let mut collector = Collector::new(&pickles, options, Unit::Image);
    for (number, file) in (1..).zip(files(&pickles)?) {
        let id = name_of(&file);
        collector.turn_to(&file);
        match read(&file) {
            Ok((caption, annotations)) => {
                let image = collector.find(&format!("{id}.jpg"));
                let visual = ImageSource::Path(image).into();
                collector.add(RawRow {
                    split: Some(Split::Test),
                    annotations,
                    ..RawRow::new(number, Picture::Found { id, visual }, vec![caption])
                });
            }
            Err(reason) => collector.refuse(number, &id, reason),
        }
    }
    let mut opened = collector.finish()?;
    opened.dataset.name = name_of(folder);
    Ok(opened)
}

/// The pickles in order of their numbers; those that are no numbers come last, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::io(folder, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "pkl") {
            files.push(path);
        }
        if files.len() > MAX_PICTURES {
            return Err(DataError::UnknownFormat {
                path: folder.to_owned(),
                detail: format!(": it holds more than {MAX_PICTURES} pickles"),
            });
        }
    }
    files.sort_by_cached_key(|file| {
        let name = name_of(file);
        (name.parse().unwrap_or(u64::MAX), name)
    });
    Ok(files)
}

/// The caption of a picture and its phrases.
fn read(file: &Path) -> Result<(String, Annotations), String> {
    let bytes = read_capped(file, MAX_PICKLE_BYTES).map_err(|error| match error {
        DataError::TooLarge { bytes, cap, .. } => {
            format!("the pickle has {bytes} bytes, more than the cap {cap}")
        }
        DataError::Io { source, .. } => format!("the pickle cannot be read: {source}"),
        other => other.to_string(),
    })?;
    let pickle = pickle::parse(&bytes, &Limits::default()).map_err(|error| error.to_string())?;
    drop(bytes);
    let root = pickle.root();
    let caption = root.get("caption").and_then(Value::as_str);
    let caption = caption
        .ok_or("`caption` is missing or no text")?
        .into_owned();
    let annotation = root.get("annotation").filter(|found| found.is_dict());
    let annotation = annotation.ok_or("`annotation` is missing or no dictionary")?;
    let mut masks = Masks::default();
    let mut phrases = Vec::new();
    for (phrase, regions) in annotation.entries() {
        let phrase = phrase.as_str().ok_or("a phrase is no text")?.into_owned();
        if !regions.is_sequence() {
            return Err(format!("`{phrase}` has no list of regions"));
        }
        let of = |reason: String| format!("a region of `{phrase}`: {reason}");
        let mut own = (Vec::new(), Vec::new());
        for region in regions.items() {
            let mask = masks.read(region).map_err(of)?;
            let rect = rect(region, &mask).map_err(of)?;
            own.0.push(rect);
            own.1.push(mask);
        }
        phrases.push(Phrase {
            text: 0,
            phrase,
            start: None,
            kind: String::new(),
            boxes: own.0,
            masks: own.1,
        });
    }
    if phrases.is_empty() {
        return Err("no phrase".to_owned());
    }
    let annotations = Annotations {
        size: masks.size,
        phrases,
        ..Annotations::default()
    };
    Ok((caption, annotations))
}

/// What the masks of a picture have in common.
#[derive(Default)]
struct Masks {
    size: Option<(u32, u32)>,
    pixels: usize,
}

impl Masks {
    fn read(&mut self, region: Value<'_>) -> Result<Mask, String> {
        let array = region.get("pixel_mask").and_then(Value::array);
        let array = array.ok_or("`pixel_mask` is missing or no array")?;
        let Tensor { dtype, shape, data } = array.map_err(|error| error.to_string())?;
        let &[height, width] = shape.as_slice() else {
            return Err(format!(
                "`pixel_mask` has the shape {shape:?}, not [height, width]"
            ));
        };
        if !matches!(dtype, Dtype::BOOL | Dtype::U8) {
            return Err(format!("`pixel_mask` holds {dtype}, not truth values"));
        }
        let size = u32::try_from(width).ok().zip(u32::try_from(height).ok());
        let size = size.filter(|_| !data.is_empty());
        let size = size.ok_or_else(|| format!("`pixel_mask` is {width}x{height}"))?;
        let (known_width, known_height) = *self.size.get_or_insert(size);
        if (known_width, known_height) != size {
            return Err(format!(
                "`pixel_mask` is {width}x{height}, an earlier one {known_width}x{known_height}"
            ));
        }
        self.pixels = self.pixels.saturating_add(data.len());
        if self.pixels > MAX_MASK_PIXELS {
            return Err(format!(
                "the masks have more than {MAX_MASK_PIXELS} pixels together"
            ));
        }
        Ok(Mask {
            width,
            height,
            bits: data.iter().map(|value| *value != 0).collect(),
        })
    }
}

/// The box of a region as part of the picture, which is as large as the mask.
fn rect(region: Value<'_>, mask: &Mask) -> Result<Rect, String> {
    let found = region.get("bbox_mask").ok_or("`bbox_mask` is missing")?;
    let numbers: Option<Vec<f64>> = match found.array() {
        Some(array) => array.and_then(|array| array.to_f64()).ok(),
        None => found.items().map(Value::as_f64).collect(),
    };
    let corners = numbers.and_then(|numbers| <[f64; 4]>::try_from(numbers).ok());
    let corners =
        corners.ok_or_else(|| format!("`bbox_mask` is {}, not four numbers", found.describe()))?;
    Rect::from_pixels(corners, mask.width as f64, mask.height as f64)
        .ok_or_else(|| "the box is empty or outside the image".to_owned())
}
