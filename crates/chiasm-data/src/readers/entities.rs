//! Flickr30k Entities: captions whose phrases are marked, and where what they name is to be seen.
//!
//! A folder with `Sentences/` (one text file a photo, one caption a line) and `Annotations/` (one XML
//! file a photo); the splits are the lists `train.txt`, `val.txt` and `test.txt`, where there are any.
//! Such a list can also be opened, and gives the photos on it. A phrase is marked
//! `[/EN#283585/people A man]`; its number is that of an object in the XML. Things without a box (the
//! whole scene, what is not drawn) have none here either. Without `Annotations/` no phrase has a box.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::events::Event;

use super::collect::{Collector, Picture, RawRow};
use super::snli_ve::PICTURE_FOLDERS;
use super::{Format, OpenOptions, Opened, Source, json, split_in_path};
use crate::dataset::{Annotations, ImageSource, Phrase, Rect, Split, Unit, read_capped};
use crate::error::DataError;

/// Largest file of sentences or boxes; the largest of the set have 3 KB and 20 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most photos of a folder; the set has 31,783.
const MAX_PHOTOS: usize = 1 << 22;
/// Deepest nesting of an XML file; the set's have 4.
const MAX_DEPTH: usize = 16;
/// Most parts of an XML file.
const MAX_EVENTS: usize = 1 << 17;

pub(super) const FORMAT: Format = Format {
    name: "entities",
    what: "Flickr30k Entities: the folder of Sentences/ and Annotations/, or a list in it",
    recognises: |source| match source.is_folder {
        true => sentences(&source.path).is_some(),
        false => {
            source.has_extension(&["txt"])
                && sentences(&folder_of(&source.path)).is_some()
                && is_list(&source.head)
        }
    },
    open,
};

/// Whether a text is a list of photos: names of one word, of which the last may be cut off.
fn is_list(head: &[u8]) -> bool {
    let mut names = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    !head.trim_ascii().is_empty()
        && names.all(|name| {
            name.iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        })
}

fn folder_of(file: &Path) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new(""));
    folder.to_owned()
}

/// A folder in `folder` by either of its names.
fn inner(folder: &Path, names: [&str; 2]) -> Option<PathBuf> {
    let mut folders = names.into_iter().map(|name| folder.join(name));
    folders.find(|folder| folder.is_dir())
}

fn sentences(folder: &Path) -> Option<PathBuf> {
    inner(folder, ["Sentences", "sentences"])
}

fn open(source: &Source, options: &OpenOptions) -> Result<Opened, DataError> {
    let folder = match source.is_folder {
        true => source.path.clone(),
        false => folder_of(&source.path),
    };
    let Some(sentences) = sentences(&folder) else {
        return Err(DataError::UnknownFormat {
            path: source.path.clone(),
            detail: ": there is no `Sentences` folder".to_owned(),
        });
    };
    let boxes = match &options.annotations {
        Some(folder) => Some(folder.clone()),
        None => inner(&folder, ["Annotations", "annotations"]),
    };
    let photos = match source.is_folder {
        true => all_photos(&folder, &sentences)?,
        false => {
            let split = split_in_path(&source.path);
            let names = list(&source.path)?.into_iter();
            names.map(|name| (name, Ok(split))).collect()
        }
    };
    // Pictures are looked for beside it.
    let file = match source.is_folder {
        true => &sentences,
        false => &source.path,
    };
    let mut collector = Collector::new(file, options, Unit::Image);
    collector.look_also(options, &["../images", ".."], PICTURE_FOLDERS);
    for (number, (name, split)) in (1..).zip(photos) {
        let file = sentences.join(format!("{name}.txt"));
        collector.turn_to(&file);
        let read = split.and_then(|split| Ok((split, photo(&name, &file, boxes.as_deref())?)));
        match read {
            Ok((split, (texts, annotations))) => {
                let picture = ImageSource::Path(collector.find(&format!("{name}.jpg")));
                let picture = Picture::Found {
                    id: name,
                    visual: picture.into(),
                };
                collector.add(RawRow {
                    split,
                    annotations,
                    ..RawRow::new(number, picture, texts)
                });
            }
            Err(reason) => collector.refuse(number, &name, reason),
        }
    }
    let mut opened = collector.finish()?;
    opened.dataset.name = super::name_of(&source.path);
    Ok(opened)
}

/// Names of photos, and the split of each or why it has none.
type Photos = Vec<(String, Result<Option<Split>, String>)>;

/// Every photo with sentences, by name.
fn all_photos(folder: &Path, sentences: &Path) -> Result<Photos, DataError> {
    let mut splits: HashMap<String, Result<Option<Split>, String>> = HashMap::new();
    for split in [Split::Train, Split::Val, Split::Test] {
        let file = folder.join(format!("{split}.txt"));
        if !file.is_file() {
            continue;
        }
        for name in list(&file)? {
            splits
                .entry(name)
                .and_modify(|known| {
                    // On both sides it would be tested on what it was trained with.
                    if *known != Ok(Some(split)) {
                        *known = Err(format!("the photo is in `{split}.txt` and in another list"));
                    }
                })
                .or_insert(Ok(Some(split)));
        }
    }
    let io = |source| DataError::io(sentences, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(sentences).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            names.push(super::name_of(&path));
        }
        if names.len() > MAX_PHOTOS {
            return Err(DataError::UnknownFormat {
                path: sentences.to_owned(),
                detail: format!(": it holds more than {MAX_PHOTOS} files"),
            });
        }
    }
    names.sort();
    let lists = !splits.is_empty();
    let photos = names.into_iter().map(|name| {
        let split = match splits.remove(&name) {
            Some(split) => split,
            None if lists => Err("the photo is in none of the lists".to_owned()),
            None => Ok(None),
        };
        (name, split)
    });
    Ok(photos.collect())
}

/// The names in a list of photos.
fn list(file: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    json::lines(file, |number, line| {
        let name = line.ok().filter(|_| names.len() < MAX_PHOTOS);
        let name = name.ok_or_else(|| DataError::Parse {
            path: file.to_owned(),
            location: format!("line {number}"),
            message: format!("no name of a photo, or more than {MAX_PHOTOS}"),
        })?;
        names.push(name.to_owned());
        Ok(())
    })?;
    Ok(names)
}

/// Captions and phrases of a photo.
fn photo(
    name: &str,
    sentences: &Path,
    boxes: Option<&Path>,
) -> Result<(Vec<String>, Annotations), String> {
    if name.contains(['/', '\\']) {
        return Err("a name of a photo is no path".to_owned());
    }
    let marked = read_text(sentences)?;
    let scene = match boxes {
        Some(folder) => scene(&read_text(&folder.join(format!("{name}.xml")))?)?,
        None => Scene::default(),
    };
    let mut texts = Vec::new();
    let mut phrases = Vec::new();
    for line in marked.lines().filter(|line| !line.trim().is_empty()) {
        let (text, marks) =
            unmark(line).map_err(|reason| format!("caption {}: {reason}", texts.len() + 1))?;
        for mark in marks {
            phrases.push(Phrase {
                text: texts.len(),
                phrase: text
                    .get(mark.start..mark.end)
                    .unwrap_or_default()
                    .to_owned(),
                start: Some(mark.start),
                kind: mark.kind.to_owned(),
                boxes: scene.boxes.get(mark.chain).cloned().unwrap_or_default(),
                masks: Vec::new(),
            });
        }
        texts.push(text);
    }
    let annotations = Annotations {
        size: scene.size,
        phrases,
        ..Annotations::default()
    };
    Ok((texts, annotations))
}

fn read_text(file: &Path) -> Result<String, String> {
    let bytes = read_capped(file, MAX_FILE_BYTES).map_err(|error| match error {
        DataError::TooLarge { bytes, cap, .. } => {
            format!(
                "`{}` has {bytes} bytes, more than the cap {cap}",
                file.display()
            )
        }
        other => other.to_string(),
    })?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| format!("`{}` is not UTF-8 text", file.display()))?;
    Ok(text.trim_start_matches('\u{FEFF}').to_owned())
}

/// A marked phrase of a caption.
struct Mark<'a> {
    /// Number of what it names.
    chain: &'a str,
    /// What kind of thing that is.
    kind: &'a str,
    /// First byte in the plain caption.
    start: usize,
    /// Byte behind the last.
    end: usize,
}

/// A caption without its marks, single spaces between the words, and the marks.
fn unmark(line: &str) -> Result<(String, Vec<Mark<'_>>), String> {
    let mut text = String::with_capacity(line.len());
    let mut marks: Vec<Mark<'_>> = Vec::new();
    let mut open: Option<Mark<'_>> = None;
    for token in line.split_whitespace() {
        if let Some(mark) = token.strip_prefix("[/") {
            if open.is_some() {
                return Err("a marked phrase in another".to_owned());
            }
            let (chain, kind) = mark
                .strip_prefix("EN#")
                .and_then(|mark| mark.split_once('/'))
                .filter(|(chain, kind)| {
                    !chain.is_empty()
                        && chain.bytes().all(|b| b.is_ascii_digit())
                        && !kind.is_empty()
                })
                .ok_or_else(|| format!("`{token}` is no mark of a phrase"))?;
            let start = if text.is_empty() { 0 } else { text.len() + 1 };
            open = Some(Mark {
                chain,
                kind,
                start,
                end: start,
            });
            continue;
        }
        // A phrase ends with its last word: `dog]`, and where no space was left also `dog].`
        let closing = open.as_ref().and_then(|_| token.split_once(']'));
        let (word, rest) = closing.unwrap_or((token, ""));
        if !word.is_empty() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        if closing.is_some()
            && let Some(mark) = open.take()
        {
            let end = text.len();
            if end <= mark.start {
                return Err("a marked phrase without words".to_owned());
            }
            marks.push(Mark { end, ..mark });
            text.push_str(rest);
        }
    }
    match open {
        Some(_) => Err("a marked phrase does not end".to_owned()),
        None => Ok((text, marks)),
    }
}

/// What an XML file says of a photo.
#[derive(Default)]
struct Scene {
    size: Option<(u32, u32)>,
    /// Boxes of what has a number.
    boxes: HashMap<String, Vec<Rect>>,
}

/// A part of an XML file that lists what is in a photo.
#[derive(Default)]
struct Thing {
    chains: Vec<String>,
    /// Left, top, right, bottom in pixels, as far as they were read.
    corners: [Option<f64>; 4],
}

fn scene(xml: &str) -> Result<Scene, String> {
    let mut reader = Reader::from_str(xml);
    let mut things = Vec::new();
    let mut thing: Option<Thing> = None;
    let mut text = String::new();
    let (mut width, mut height) = (None, None);
    let mut depth = 0usize;
    for events in 0.. {
        if events > MAX_EVENTS {
            return Err(format!("the XML has more than {MAX_EVENTS} parts"));
        }
        let place = reader.buffer_position();
        let event = reader.read_event();
        let event =
            event.map_err(|error| format!("the XML is damaged at byte {place}: {error}"))?;
        match event {
            Event::Start(start) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(format!("the XML nests more than {MAX_DEPTH} deep"));
                }
                text.clear();
                if name(start.name()) == "object" {
                    thing = Some(Thing::default());
                }
            }
            Event::Text(part) => text.push_str(&part),
            Event::End(end) => {
                depth = depth.saturating_sub(1);
                let value = text.trim();
                match (name(end.name()), &mut thing) {
                    ("width", None) => width = value.parse().ok(),
                    ("height", None) => height = value.parse().ok(),
                    ("object", thing) => things.extend(thing.take()),
                    ("name", Some(thing)) => thing.chains.push(value.to_owned()),
                    (corner, Some(thing)) => {
                        let names = ["xmin", "ymin", "xmax", "ymax"];
                        let mut corners = names.iter().zip(&mut thing.corners);
                        if let Some((_, at)) = corners.find(|(name, _)| **name == corner) {
                            let pixels = value.parse::<f64>().ok().filter(|at| at.is_finite());
                            *at =
                                Some(pixels.ok_or_else(|| format!("`{value}` is no `{corner}`"))?);
                        }
                    }
                    _ => {}
                }
                text.clear();
            }
            // Entities could stand for anything, of any length. These files need none.
            Event::DocType(_) | Event::GeneralRef(_) => {
                return Err("the XML declares or uses entities".to_owned());
            }
            Event::Eof if depth > 0 => return Err("the XML ends early".to_owned()),
            Event::Eof => break,
            _ => {}
        }
    }
    collect(things, width.zip(height))
}

fn name(name: quick_xml::name::QName<'_>) -> &str {
    name.into_inner()
}

fn collect(things: Vec<Thing>, size: Option<(u32, u32)>) -> Result<Scene, String> {
    let (width, height) = size
        .filter(|(width, height)| *width > 0 && *height > 0)
        .ok_or("the XML does not say the size of the photo")?;
    let mut boxes: HashMap<String, Vec<Rect>> = HashMap::new();
    for thing in things {
        let rect = match thing.corners {
            // The whole scene, and what is not drawn.
            [None, None, None, None] => continue,
            [Some(x1), Some(y1), Some(x2), Some(y2)] => {
                Rect::from_pixels([x1, y1, x2, y2], f64::from(width), f64::from(height))
            }
            _ => return Err("a box lacks a side".to_owned()),
        };
        let rect = rect.ok_or("a box is empty or outside the photo")?;
        let unique: HashSet<String> = thing.chains.into_iter().collect();
        for chain in unique {
            boxes.entry(chain).or_default().push(rect);
        }
    }
    Ok(Scene { size, boxes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_out_and_stay_where_they_were() {
        let line = "[/EN#1/people A man]  in [/EN#2/clothing/other a hat] , [/EN#0/notvisual sun].";
        let (text, marks) = unmark(line).unwrap();
        assert_eq!(text, "A man in a hat , sun.");
        let marks: Vec<(&str, &str, &str)> = marks
            .iter()
            .map(|mark| (mark.chain, mark.kind, &text[mark.start..mark.end]))
            .collect();
        assert_eq!(
            marks,
            [
                ("1", "people", "A man"),
                ("2", "clothing/other", "a hat"),
                ("0", "notvisual", "sun")
            ]
        );
        assert_eq!(
            unmark("a [b] c ]").unwrap().0,
            "a [b] c ]",
            "brackets of one's own"
        );
    }
}
