//! RefCOCO, RefCOCO+ and RefCOCOg: sentences that each name one thing in a picture.
//!
//! As published they are a folder with `instances.json`, COCO's pictures and boxes, and one
//! `refs(..).p` for each way to split them: a Python pickle, which is read without running anything,
//! or the same list as JSON. Of several `unc` is taken before `umd` before `google`; another is named
//! with [`OpenOptions::annotations`]. Two forms that models carry around are read as well: MDETR's,
//! COCO annotations with a caption a picture (`finetune_refcoco_train.json`), and ROSITA's, entries
//! by split.
//!
//! A sentence is a sample: its picture is the group, the thing's category the label, and the whole
//! sentence the phrase that the box belongs to. In MDETR's form the phrases are those that it marks.
//! The pictures are COCO's of 2014 under their own names; the name in `refs(..)`, which counts the
//! things of a picture, is no file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use chiasm_format::pickle::{self, Limits, Value};
use serde::Deserialize;

use super::coco::PICTURE_FOLDERS;
use super::collect::{Collector, Picture, RawRow};
use super::instances::{Image, Instances, Thing, rect};
use super::json::{self, Id, Layout, Take};
use super::{Format, OpenOptions, Opened, Source, name_of, parse_split, split_in_path};
use crate::dataset::{Annotations, ImageSource, Phrase, Rect, Split, Unit, read_capped};
use crate::error::DataError;

/// Cap on `refs(..).p`. The largest, RefCOCO's, has 60 MB.
const MAX_PICKLE_BYTES: u64 = 512 << 20;

/// The ways to split, in the order in which they are taken.
const DEFINITIONS: [&str; 3] = ["unc", "umd", "google"];

/// Where COCO's pictures are around the folder: the layout of the REFER toolkit, and beside it.
const AROUND: &[&str] = &["../images/mscoco/images", "../images", ".."];

pub(super) const FORMAT: Format = Format {
    name: "refcoco",
    what: "RefCOCO, RefCOCO+ or RefCOCOg: folder of refs(*).p and instances.json; MDETR's or ROSITA's JSON",
    recognises: |source| form_of(source).is_some(),
    open: |source, options| match form_of(source) {
        Some(Form::Refs) => refs(source, options),
        Some(Form::Mdetr) => mdetr(&source.path, options),
        Some(Form::Rosita) => rosita(&source.path, options),
        None => Err(DataError::UnknownFormat {
            path: source.path.clone(),
            detail: ": there is no `refs(*).p` with an `instances.json`".to_owned(),
        }),
    },
};

enum Form {
    Refs,
    Mdetr,
    Rosita,
}

fn form_of(source: &Source) -> Option<Form> {
    if source.is_folder {
        let found =
            source.path.join("instances.json").is_file() && first_refs(&source.path).is_some();
        return found.then_some(Form::Refs);
    }
    let name = source
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    if name.starts_with("refs(") && source.has_extension(&["p", "pkl", "pickle", "json"]) {
        return Some(Form::Refs);
    }
    if !source.has_extension(&["json"]) || !source.begins_with(b'{') {
        return None;
    }
    if source.head_has("\"gt_boxes\"") {
        return Some(Form::Rosita);
    }
    let marks = ["\"tokens_negative\"", "\"tokens_positive\""];
    let marked = marks.iter().any(|key| source.head_has(key));
    marked.then_some(Form::Mdetr)
}

/// The `refs(..)` of a folder that comes first.
fn first_refs(folder: &Path) -> Option<PathBuf> {
    let names = DEFINITIONS.iter();
    let mut files = names.flat_map(|name| {
        ["p", "json"].map(|extension| folder.join(format!("refs({name}).{extension}")))
    });
    files.find(|file| file.is_file())
}

/// A thing and the sentences that name it.
#[derive(Deserialize)]
struct Reference {
    ref_id: Id,
    ann_id: Id,
    image_id: Id,
    split: String,
    category_id: Option<Id>,
    #[serde(default)]
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    sent_id: Id,
    /// As it is used everywhere: lower case, without marks.
    sent: Option<String>,
    /// As it was typed.
    raw: Option<String>,
}

impl Reference {
    /// The same out of a pickle.
    fn from_pickle(value: Value<'_>) -> Result<Self, String> {
        let missing = |key: &str| format!("`{key}` is missing or of another type");
        let id = |of: Value<'_>, key: &str| {
            let found = of.get(key);
            let number = found
                .and_then(Value::as_i64)
                .map(|number| number.to_string());
            let text = || Some(found?.as_str()?.into_owned());
            number.or_else(text).map(Id).ok_or_else(|| missing(key))
        };
        let text = |of: Value<'_>, key: &str| Some(of.get(key)?.as_str()?.into_owned());
        let sentences = value.get("sentences").into_iter().flat_map(Value::items);
        let sentences = sentences.map(|sentence| {
            Ok(Sentence {
                sent_id: id(sentence, "sent_id")?,
                sent: text(sentence, "sent"),
                raw: text(sentence, "raw"),
            })
        });
        Ok(Self {
            ref_id: id(value, "ref_id")?,
            ann_id: id(value, "ann_id")?,
            image_id: id(value, "image_id")?,
            split: text(value, "split").ok_or_else(|| missing("split"))?,
            category_id: id(value, "category_id").ok(),
            sentences: sentences.collect::<Result<_, String>>()?,
        })
    }
}

/// The whole sentence names the thing.
fn whole(sentence: &str, category: Option<&str>, rect: Rect) -> Vec<Phrase> {
    vec![Phrase {
        text: 0,
        phrase: sentence.trim().to_owned(),
        start: Some(0),
        kind: category.unwrap_or_default().to_owned(),
        boxes: vec![rect],
        masks: Vec::new(),
    }]
}

fn refs(source: &Source, options: &OpenOptions) -> Result<Opened, DataError> {
    let beside = source.path.parent().unwrap_or(Path::new(""));
    let folder = if source.is_folder {
        &source.path
    } else {
        beside
    };
    let file = match (&options.annotations, source.is_folder) {
        (Some(file), _) => file.clone(),
        (None, false) => source.path.clone(),
        (None, true) => first_refs(folder).unwrap_or_default(),
    };
    let path = folder.join("instances.json");
    if !path.is_file() {
        return Err(DataError::Incomplete {
            path: file,
            missing: "has no `instances.json` beside it, which holds pictures and boxes".to_owned(),
            hint: format!(
                "put `instances.json` of the same archive into `{}`",
                folder.display()
            ),
        });
    }
    let instances = Instances::read(&path)?;
    let mut collector = Collector::new(&folder.join("instances.json"), options, Unit::Row);
    collector.look_also(options, AROUND, PICTURE_FOLDERS);
    for reason in &instances.refused {
        collector.refuse_file("", &path, reason);
    }
    collector.turn_to(&file);
    let mut index = Index::new(&instances);
    each_reference(&file, |number, reference| {
        let rows = reference.and_then(|reference| index.rows(number, reference, &collector));
        match rows {
            Ok(rows) => rows.into_iter().for_each(|row| collector.add(row)),
            Err(reason) => collector.refuse(number, "", reason),
        }
    })?;
    let mut opened = collector.finish()?;
    opened.dataset.name = name_of(folder);
    Ok(opened)
}

/// Hands out the references of a file, in either form.
fn each_reference(
    path: &Path,
    mut each: impl FnMut(u64, Result<Reference, String>),
) -> Result<(), DataError> {
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        return json::stream(path, Layout::List, |element| {
            each(element.number, element.parse());
            Ok(())
        });
    }
    let bytes = read_capped(path, MAX_PICKLE_BYTES)?;
    let pickle = pickle::parse(&bytes, &Limits::default());
    let pickle = pickle.map_err(|error| error.in_file(path))?;
    drop(bytes);
    for (number, value) in (1..).zip(pickle.root().items()) {
        each(number, Reference::from_pickle(value));
    }
    Ok(())
}

/// Instances by id.
struct Index<'a> {
    instances: &'a Instances,
    images: HashMap<&'a Id, &'a Image>,
    things: HashMap<&'a Id, &'a Thing>,
    /// Where pictures were found: a picture has seven sentences, and each look costs the disk.
    found: HashMap<Id, ImageSource>,
}

impl<'a> Index<'a> {
    fn new(instances: &'a Instances) -> Self {
        let (images, things) = (instances.images.iter(), instances.things.iter());
        Self {
            instances,
            images: images.map(|image| (&image.id, image)).collect(),
            things: things.map(|thing| (&thing.id, thing)).collect(),
            found: HashMap::new(),
        }
    }

    /// A sample each sentence.
    fn rows(
        &mut self,
        number: u64,
        reference: Reference,
        collector: &Collector,
    ) -> Result<Vec<RawRow>, String> {
        let image = self.images.get(&reference.image_id);
        let image = image.ok_or_else(|| format!("image {} is not there", reference.image_id.0))?;
        let thing = self.things.get(&reference.ann_id);
        let thing =
            thing.ok_or_else(|| format!("annotation {} is not there", reference.ann_id.0))?;
        if thing.image_id != reference.image_id {
            return Err(format!(
                "annotation {} is of another image",
                reference.ann_id.0
            ));
        }
        let size = (image.width, image.height);
        let rect = rect(thing.bbox, size)?;
        let split = parse_split(&reference.split)?;
        let category = reference
            .category_id
            .as_ref()
            .or(thing.category_id.as_ref());
        let label = self.instances.category(category);
        let found = self.found.entry(reference.image_id.clone());
        let source = found.or_insert_with(|| ImageSource::Path(collector.find(&image.file_name)));
        if reference.sentences.is_empty() {
            return Err("no text".to_owned());
        }
        let rows = reference.sentences.into_iter().map(|sentence| {
            let text = sentence.sent.or(sentence.raw).unwrap_or_default();
            let picture = Picture::Found {
                id: reference.image_id.0.clone(),
                visual: source.clone().into(),
            };
            RawRow {
                id: Some(format!("{}#{}", reference.ref_id.0, sentence.sent_id.0)),
                split: Some(split),
                annotations: Annotations {
                    size: Some(size),
                    phrases: whole(&text, label.as_deref(), rect),
                    label: label.clone(),
                    ..Annotations::default()
                },
                ..RawRow::new(number, picture, vec![text])
            }
        });
        Ok(rows.collect())
    }
}

fn mdetr(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let instances = Instances::read(path)?;
    let mut collector = Collector::new(path, options, Unit::Row);
    collector.look_also(options, AROUND, PICTURE_FOLDERS);
    for reason in &instances.refused {
        collector.refuse_file("", path, reason);
    }
    let mut things: HashMap<&Id, Vec<&Thing>> = HashMap::new();
    for thing in &instances.things {
        things.entry(&thing.image_id).or_default().push(thing);
    }
    let split = split_in_path(path);
    for (number, image) in (1..).zip(&instances.images) {
        let things = things.get(&image.id).map(Vec::as_slice).unwrap_or_default();
        match marked(image, things, &instances) {
            Ok(annotations) => {
                let id = image.original_id.as_ref().map(|id| id.0.clone());
                let picture = Picture::Found {
                    id: id.unwrap_or_else(|| image.file_name.clone()),
                    visual: ImageSource::Path(collector.find(&image.file_name)).into(),
                };
                let text = image.caption.clone().unwrap_or_default();
                collector.add(RawRow {
                    id: Some(image.id.0.clone()),
                    split,
                    annotations,
                    ..RawRow::new(number, picture, vec![text])
                });
            }
            Err(reason) => collector.refuse(number, &image.id.0, reason),
        }
    }
    collector.finish()
}

/// Which phrases of a caption name what.
fn marked(image: &Image, things: &[&Thing], instances: &Instances) -> Result<Annotations, String> {
    let caption = image.caption.as_deref().ok_or("`caption` is missing")?;
    let size = (image.width, image.height);
    let mut phrases = Vec::with_capacity(things.len());
    for thing in things {
        let rect = rect(thing.bbox, size)?;
        let category = instances.category(thing.category_id.as_ref());
        if thing.tokens_positive.is_empty() {
            phrases.extend(whole(caption, category.as_deref(), rect));
            continue;
        }
        let words = thing.tokens_positive.iter().map(|[start, end]| {
            let taken = end.checked_sub(*start).filter(|len| *len > 0);
            let taken = taken.map(|len| caption.chars().skip(*start).take(len).collect::<String>());
            taken.filter(|words| !words.is_empty())
        });
        let words: Option<Vec<String>> = words.collect();
        let words = words.ok_or("`tokens_positive` is not within the caption")?;
        let first = thing.tokens_positive.first().map_or(0, |[start, _]| *start);
        phrases.push(Phrase {
            text: 0,
            phrase: words.join(" "),
            start: caption.char_indices().nth(first).map(|(at, _)| at),
            kind: category.unwrap_or_default(),
            boxes: vec![rect],
            masks: Vec::new(),
        });
    }
    if phrases.is_empty() {
        return Err("the sentence has no box".to_owned());
    }
    Ok(Annotations {
        size: Some(size),
        label: match things {
            [one] => instances.category(one.category_id.as_ref()),
            _ => None,
        },
        phrases,
        ..Annotations::default()
    })
}

/// An entry of ROSITA's annotations.
#[derive(Deserialize)]
struct Entry {
    text_id: Id,
    text: String,
    img_file: String,
    img_id: Option<Id>,
    gt_boxes: Option<Boxes>,
    image_h: u32,
    image_w: u32,
}

/// Left, top, width and height in pixels, by itself or in a list of one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Boxes {
    One([f64; 4]),
    List([[f64; 4]; 1]),
}

fn rosita(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    const SPLITS: Layout = Layout::Parts(&[
        ("train", Take::Each),
        ("val", Take::Each),
        ("testA", Take::Each),
        ("testB", Take::Each),
        ("test", Take::Each),
    ]);
    let mut collector = Collector::new(path, options, Unit::Row);
    collector.look_also(options, AROUND, PICTURE_FOLDERS);
    json::stream(path, SPLITS, |element| {
        let row = element.parse::<Entry>().and_then(|entry| {
            let split: Split = parse_split(element.key)?;
            entry.row(element.number, split, &collector)
        });
        match row {
            Ok(row) => collector.add(row),
            Err(reason) => collector.refuse(element.number, element.key, reason),
        }
        Ok(())
    })?;
    collector.finish()
}

impl Entry {
    fn row(self, number: u64, split: Split, collector: &Collector) -> Result<RawRow, String> {
        let size = (self.image_w, self.image_h);
        let (Boxes::One(corners) | Boxes::List([corners])) =
            self.gt_boxes.ok_or("`gt_boxes` is missing")?;
        // Features are named after the picture and their own kind.
        let name = self.img_file.trim_end_matches(".npz");
        let picture = Picture::Found {
            id: self.img_id.map_or_else(|| name.to_owned(), |id| id.0),
            visual: ImageSource::Path(collector.find(name)).into(),
        };
        Ok(RawRow {
            id: Some(self.text_id.0),
            split: Some(split),
            annotations: Annotations {
                size: Some(size),
                phrases: whole(&self.text, None, rect(corners, size)?),
                ..Annotations::default()
            },
            ..RawRow::new(number, picture, vec![self.text])
        })
    }
}
