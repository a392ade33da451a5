//! NLVR2 and NLVR: statements that are true or false of pictures, one JSON object a line.
//!
//! In NLVR2 a statement speaks of two photos, which its identifier names: `dev-850-0-1` is the second
//! statement about the pair `dev-850-0`, whose pictures are `dev-850-0-img0.png` and `-img1.png`. The
//! pair is the group. In NLVR it speaks of the three boxes of one strip, which the row names or which
//! is the first of those that its identifier names; what is drawn there is known to the pixel.

use std::path::Path;

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::json::{self, Id};
use super::{Format, OpenOptions, Opened, split_in_name, split_in_path};
use crate::dataset::{Annotations, ImageSource, Object, Rect, Unit, Visual};
use crate::error::DataError;

pub(super) const FORMAT: Format = Format {
    name: "nlvr",
    what: "NLVR2 or NLVR statements, one a line (.json, .jsonl)",
    recognises: |source| {
        source.has_extension(&["json", "jsonl"])
            && source.begins_with(b'{')
            && ["\"identifier\"", "\"sentence\""]
                .iter()
                .all(|key| source.head_has(key))
    },
    open: |source, options| open(&source.path, options),
};

#[derive(Deserialize)]
struct Statement {
    identifier: String,
    sentence: String,
    /// `True` or `False` in NLVR2, `true` or `false` in NLVR; not given for hidden test sets.
    label: Option<String>,
    /// Which of the folders that pictures are spread over.
    directory: Option<Id>,
    /// The strip, where the row names it.
    image: Option<String>,
    /// What is drawn in each box: only NLVR has it.
    structured_rep: Option<Vec<Vec<Shape>>>,
}

/// A thing in a box, with places and size in pixels.
#[derive(Deserialize)]
struct Shape {
    r#type: String,
    color: String,
    x_loc: f64,
    y_loc: f64,
    size: f64,
}

/// Width and height of a strip; its boxes are as high as it and as wide as high.
const STRIP: (u32, u32) = (400, 100);
/// Boxes of a strip.
const BOXES: u32 = 3;
/// From the left side of a box to that of the next.
const BOX_STEP: f64 = 150.0;

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Line);
    let parts = ["train", "dev", "test1", "test2"];
    collector.look_also(options, &["../images", ".."], &parts);
    json::lines(path, |number, line| {
        let statement = line.and_then(json::parse::<Statement>);
        match statement.and_then(|statement| row(statement, number, path, &collector)) {
            Ok(row) => collector.add(row),
            Err(reason) => collector.refuse(number, "", reason),
        }
        Ok(())
    })?;
    collector.finish()
}

fn row(
    statement: Statement,
    number: u64,
    path: &Path,
    collector: &Collector,
) -> Result<RawRow, String> {
    let label = match statement.label.as_deref() {
        Some("True" | "true") => Some("true"),
        Some("False" | "false") => Some("false"),
        Some(other) => return Err(format!("the label `{other}` is neither true nor false")),
        None => None,
    };
    let id = statement.identifier;
    let directory = statement.directory.map(|Id(directory)| directory);
    let one = |name: &str| {
        let folder = directory.as_ref().map(|folder| format!("{folder}/{name}"));
        let names: Vec<String> = folder.into_iter().chain([name.to_owned()]).collect();
        ImageSource::Path(collector.find_any(&names))
    };
    let drawn = statement.structured_rep.as_deref();
    let objects = drawn.map(objects).transpose()?;
    let (pair, visual) = match statement.image {
        Some(strip) => {
            let visual = three_boxes(one(&strip));
            (strip, visual)
        }
        None if objects.is_some() => {
            // Six orders of the boxes were drawn; the statement holds for each.
            let part = path.file_stem().unwrap_or_default().to_string_lossy();
            let strip = format!("{part}-{id}-0.png");
            let visual = three_boxes(one(&strip));
            (strip, visual)
        }
        None => {
            let (pair, _) = id
                .rsplit_once('-')
                .ok_or_else(|| format!("the identifier `{id}` names no pair of images"))?;
            let side = |side| one(&format!("{pair}-img{side}.png"));
            (pair.to_owned(), Visual::Images(vec![side(0), side(1)]))
        }
    };
    Ok(RawRow {
        split: split_in_name(&id).or_else(|| split_in_path(path)),
        id: Some(id),
        annotations: Annotations {
            label: label.map(str::to_owned),
            size: objects.is_some().then_some(STRIP),
            objects: objects.unwrap_or_default(),
            ..Annotations::default()
        },
        ..RawRow::new(
            number,
            Picture::Found { id: pair, visual },
            vec![statement.sentence],
        )
    })
}

/// A strip as its boxes.
fn three_boxes(image: ImageSource) -> Visual {
    let (width, height) = (f64::from(STRIP.0), f64::from(STRIP.1));
    let parts = (0..BOXES).filter_map(|number| {
        let left = f64::from(number) * BOX_STEP;
        Rect::from_pixels([left, 0.0, left + height, height], width, height)
    });
    Visual::Strip {
        image,
        parts: parts.collect(),
    }
}

/// What is drawn in a strip, box by box.
fn objects(boxes: &[Vec<Shape>]) -> Result<Vec<Object>, String> {
    let (width, height) = (f64::from(STRIP.0), f64::from(STRIP.1));
    let mut objects = Vec::new();
    for (shapes, left) in boxes
        .iter()
        .zip((0u32..).map(|index| f64::from(index) * BOX_STEP))
    {
        for shape in shapes {
            let (x, y) = (left + shape.x_loc, shape.y_loc);
            let corners = [x, y, x + shape.size, y + shape.size];
            let rect = Rect::from_pixels(corners, width, height);
            let color = match shape.color.as_str() {
                "#0099ff" => "blue".to_owned(),
                named => named.to_lowercase(),
            };
            objects.push(Object {
                category: format!("{color} {}", shape.r#type),
                rect: Some(rect.ok_or("a shape is empty or outside the image")?),
            });
        }
    }
    Ok(objects)
}
