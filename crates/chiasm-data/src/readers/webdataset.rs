//! WebDataset shards: tars whose members belong together when their names do.
//!
//! Taken are one `.tar`, a folder of them (as img2dataset writes it; what else is there is left
//! alone), and patterns (`shards/*.tar`, `train-{00000..00041}.tar`).
//!
//! # What a sample is
//!
//! A name is cut at the first dot after the last slash; what stands before it is the key. Members of
//! equal keys in a shard are one sample, side by side or not:
//!
//! | extension | becomes |
//! | --- | --- |
//! | `jpg` `jpeg` `png` `webp` `gif` `bmp` | the picture |
//! | `000.jpg` `001.jpg` ... | the frames of a clip, in the order of their numbers |
//! | `txt` | the text, whole: img2dataset keeps one caption a file |
//! | `json` | texts if there is no `txt` (`caption`, `text`, `captions`, `texts`), `split`, things in the picture (`labels`: names, or numbers as they are) and the class (`label`) |
//! | `cls` | the class |
//!
//! The id is the key; where an earlier shard has used it, `SHARD/KEY`. The split is that of the `json`,
//! else the one in the shard's name (`train-00000.tar`) or its folder's, else by hash of the id.
//!
//! Pictures stay in the tar. The index is made anew each time: it takes one pass over the headers.
//! When a shard is damaged, the samples before the damage are kept, and the quarantine says at which
//! byte it is. A clip right before it is refused: some of its frames may be behind.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiasm_format::shard::split_key;
use chiasm_format::tar::{Member, TarError, TarReader};
use rayon::prelude::*;
use serde_json::Value;

use super::collect::{Collector, Picture, RawRow};
use super::folder::{IMAGE_EXTENSIONS, holds_pictures};
use super::{Format, OpenOptions, Opened, Source, parse_split, split_in_path};
use crate::dataset::{Annotations, Clip, ImageSource, Object, SharedFile, Split, Unit, Visual};
use crate::error::DataError;

/// Cap on a text, class or JSON member: 1 MiB, as for the text files of a folder.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Shards that are held open. Beyond it each read opens its shard: a process may commonly hold 1,024
/// files (macOS: 256), and sets have thousands of shards.
const MAX_OPEN: usize = 128;

pub(super) const FORMAT: Format = Format {
    name: "webdataset",
    what: "WebDataset shards (.tar, a folder or a pattern of them)",
    recognises: |source| !shards(source).is_empty() && !holds_pictures(&source.path),
    open: |source, _| open(source),
};

/// The tars of a source.
fn shards(source: &Source) -> Vec<PathBuf> {
    let is_tar = |path: &Path| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        // Compressed ones are taken in order to say what to do with them.
        let endings = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz"];
        !name.starts_with('.') && endings.iter().any(|ending| name.ends_with(ending))
    };
    if !source.is_folder {
        let all = source.files.iter().all(|path| is_tar(path));
        return if all {
            source.files.clone()
        } else {
            Vec::new()
        };
    }
    // What cannot be listed is not recognised.
    let entries = std::fs::read_dir(&source.path)
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| is_tar(path) && path.is_file())
        .collect();
    found.sort();
    found
}

fn open(source: &Source) -> Result<Opened, DataError> {
    let paths = shards(source);
    let held = paths.len() <= MAX_OPEN;
    let shards: Vec<Shard> = paths
        .par_iter()
        .map(|path| Shard::index(path))
        .collect::<Result<_, _>>()?;
    let options = OpenOptions::default();
    let mut collector = Collector::new(&source.path, &options, Unit::Byte);
    let mut ids = HashSet::new();
    for (path, shard) in paths.iter().zip(shards) {
        collector.turn_to(path);
        let file = if held {
            SharedFile::open(path)?
        } else {
            SharedFile::on_demand(path)
        };
        let named = split_in_path(path);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        for sample in shard.samples {
            let (header, key) = (sample.header, sample.key.clone());
            let id = [key.clone(), format!("{stem}/{key}")]
                .into_iter()
                .find(|id| !ids.contains(id));
            let row = match id {
                Some(id) => sample.row(id, &file, named),
                None => Err("the key was already used".to_owned()),
            };
            match row {
                Ok(row) => {
                    if let Picture::Found { id, .. } = &row.picture {
                        ids.insert(id.clone());
                    }
                    collector.add(row);
                }
                Err(reason) => collector.refuse(header, &key, reason),
            }
        }
        for (offset, name, reason) in shard.refused {
            collector.refuse(offset, &name, reason);
        }
    }
    let mut opened = collector.finish()?;
    opened.dataset.name = set_name(source);
    Ok(opened)
}

/// Of a pattern its name up to the first sign that is none of a name, else its folder's.
fn set_name(source: &Source) -> String {
    let name = super::name_of(&source.path);
    let plain = name.split(['*', '?', '[', '{']).next().unwrap_or_default();
    let plain = plain.trim_end_matches(['-', '_', '.']);
    match plain.is_empty() {
        true => source.path.parent().map(super::name_of).unwrap_or_default(),
        false => plain.to_owned(),
    }
}

/// What a shard holds.
#[derive(Default)]
struct Shard {
    /// In the order in which their first members come.
    samples: Vec<Found>,
    /// Offset, name and reason of what cannot be used.
    refused: Vec<(u64, String, String)>,
}

/// The members of one key.
#[derive(Default)]
struct Found {
    key: String,
    /// Where its first header starts.
    header: u64,
    /// Extensions that were seen.
    extensions: Vec<String>,
    /// The picture: offset and length.
    picture: Option<(u64, u64)>,
    /// Number, offset and length of each frame.
    frames: Vec<(u64, u64, u64)>,
    text: Option<String>,
    json: Option<Value>,
    class: Option<String>,
    /// Why it cannot be used, when a member already shows it.
    bad: Option<String>,
}

impl Shard {
    fn index(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|source| DataError::io(path, source))?;
        let mut shard = Self::default();
        let mut places = HashMap::new();
        if let Err(error) = shard.read(file, &mut places) {
            if let Some(last) = shard.samples.last_mut()
                && !last.frames.is_empty()
            {
                last.bad =
                    Some("frames may be missing: the shard is damaged behind them".to_owned());
            }
            shard
                .refused
                .push((error.offset(), String::new(), error.to_string()));
        }
        Ok(shard)
    }

    fn read(&mut self, file: File, places: &mut HashMap<String, usize>) -> Result<(), TarError> {
        let mut tar = TarReader::new(file)?;
        while let Some(member) = tar.next_member()? {
            let Some((key, extension)) = split_key(&member.name) else {
                continue;
            };
            let place = match places.get(key) {
                Some(place) => *place,
                None => {
                    places.insert(key.to_owned(), self.samples.len());
                    self.samples.push(Found {
                        key: key.to_owned(),
                        header: member.header,
                        ..Found::default()
                    });
                    self.samples.len() - 1
                }
            };
            let extension = extension.to_lowercase();
            let body = match extension.as_str() {
                "txt" | "json" | "cls" if member.len <= MAX_TEXT_BYTES => {
                    tar.body(&member, MAX_TEXT_BYTES)?
                }
                _ => Vec::new(),
            };
            if let Some(sample) = self.samples.get_mut(place) {
                sample.take(extension, &member, &body);
            }
        }
        Ok(())
    }
}

impl Found {
    fn take(&mut self, extension: String, member: &Member, body: &[u8]) {
        if self.extensions.contains(&extension) {
            self.bad = Some(format!(
                "it has two members `.{extension}` (byte {})",
                member.header
            ));
            return;
        }
        let text = || text_of(&extension, member, body);
        let place = (member.offset, member.len);
        match extension.as_str() {
            "txt" => match text() {
                Ok(text) => self.text = Some(text),
                Err(reason) => self.bad = Some(reason),
            },
            "cls" => match text() {
                Ok(text) => self.class = Some(text.trim().to_owned()),
                Err(reason) => self.bad = Some(reason),
            },
            "json" => match text().and_then(|text| {
                serde_json::from_str(&text).map_err(|error| format!("its `.json`: {error}"))
            }) {
                Ok(value) => self.json = Some(value),
                Err(reason) => self.bad = Some(reason),
            },
            // Of several pictures the first is the one; the order of a shard is its writer's.
            other if is_image_extension(other) => self.picture = self.picture.or(Some(place)),
            other => {
                let frame = other
                    .split_once('.')
                    .filter(|(_, kind)| is_image_extension(kind));
                let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
                let number = frame.map(|(number, _)| number).filter(digits);
                if let Some(number) = number.and_then(|number| number.parse().ok()) {
                    self.frames.push((number, place.0, place.1));
                }
            }
        }
        self.extensions.push(extension);
    }

    fn row(
        mut self,
        id: String,
        file: &Arc<SharedFile>,
        named: Option<Split>,
    ) -> Result<RawRow, String> {
        if let Some(reason) = self.bad {
            return Err(reason);
        }
        let part = |offset, len| ImageSource::Part {
            file: file.clone(),
            offset,
            len,
        };
        self.frames.sort_unstable();
        let frames = self.frames.iter();
        let frames: Vec<ImageSource> = frames.map(|(_, offset, len)| part(*offset, *len)).collect();
        let visual = match self.picture {
            _ if !frames.is_empty() => Visual::Clip(Clip::Frames(frames)),
            Some((offset, len)) => part(offset, len).into(),
            None => return Err(no_picture(&self.extensions)),
        };
        let json = self.json.unwrap_or_default();
        let texts = match self.text {
            Some(text) => vec![text],
            None => ["caption", "text", "captions", "texts"]
                .iter()
                .find_map(|key| json.get(key))
                .map(strings)
                .unwrap_or_default(),
        };
        let split = match json.get("split").and_then(Value::as_str) {
            Some(split) => Some(parse_split(split)?),
            None => named,
        };
        let mut objects: Vec<Object> = Vec::new();
        for category in json.get("labels").map(strings).unwrap_or_default() {
            if objects.iter().all(|object| object.category != category) {
                objects.push(Object {
                    category,
                    rect: None,
                });
            }
        }
        let label = json
            .get("label")
            .map(strings)
            .and_then(|found| found.into_iter().next());
        Ok(RawRow {
            split,
            annotations: Annotations {
                label: self.class.or(label).filter(|label| !label.is_empty()),
                objects,
                ..Annotations::default()
            },
            ..RawRow::new(self.header, Picture::Found { id, visual }, texts)
        })
    }
}

fn text_of(extension: &str, member: &Member, body: &[u8]) -> Result<String, String> {
    if member.len > MAX_TEXT_BYTES {
        let len = member.len;
        return Err(format!(
            "its `.{extension}` has {len} bytes, more than the cap {MAX_TEXT_BYTES}"
        ));
    }
    let text = std::str::from_utf8(body).map_err(|_| format!("its `.{extension}` is not UTF-8"))?;
    Ok(text.strip_prefix('\u{FEFF}').unwrap_or(text).to_owned())
}

fn is_image_extension(extension: &str) -> bool {
    IMAGE_EXTENSIONS.contains(&extension)
}

/// A string or number, or a list of them.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Array(values) => {
            let plain = values.iter().filter(|value| !value.is_array());
            plain.flat_map(strings).collect()
        }
        _ => Vec::new(),
    }
}

fn no_picture(extensions: &[String]) -> String {
    let video =
        |extension: &&String| matches!(extension.as_str(), "mp4" | "webm" | "mkv" | "avi" | "mov");
    if let Some(extension) = extensions.iter().find(video) {
        return format!(
            "a video (`.{extension}`) is not read out of a tar; unpack it, or cache its frames"
        );
    }
    let seen: Vec<String> = extensions
        .iter()
        .take(8)
        .map(|extension| format!(".{extension}"))
        .collect();
    format!("no picture among its members ({})", seen.join(", "))
}
