//! A folder of pictures and videos, each with a text file of the same name beside it.
//!
//! Every line of the text file that is not empty is one text. Folders are searched to any depth, in
//! alphabetical order, except hidden ones and links to folders. When every picture lies under a
//! folder named as a split (`train/`, `val/`, `test/`), those folders are the splits; otherwise the
//! split follows from the id.

use std::path::{Path, PathBuf};

use super::collect::{Collector, Picture, RawRow};
use super::{Format, OpenOptions, Opened, name_of};
use crate::dataset::{
    Annotations, Dataset, Origin, Place, Sample, Split, Unit, Visual, read_capped,
};
use crate::error::DataError;
use crate::video::is_video;

/// Extensions of pictures, in lower case.
pub(super) const IMAGE_EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

/// Cap on a text file: 1 MiB, room for a hundred of the longest texts.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Depth at which the search ends; deeper folders are a mistake or an attack.
const MAX_DEPTH: usize = 64;

pub(super) const FORMAT: Format = Format {
    name: "folder",
    what: "folder of pictures with a .txt beside each",
    recognises: |source| source.is_folder,
    open: |source, _| open(&source.path),
};

fn open(path: &Path) -> Result<Opened, DataError> {
    let mut pictures = Vec::new();
    walk(path, 0, &mut pictures)?;
    if pictures.is_empty() {
        return Err(no_pictures(path));
    }
    let splits: Option<Vec<Split>> = pictures
        .iter()
        .map(|picture| named_split(path, picture))
        .collect();
    let options = OpenOptions::default();
    let mut collector = Collector::new(path, &options, Unit::Image);
    for (index, picture) in pictures.iter().enumerate() {
        let id = id_of(path, picture);
        match texts_of(picture) {
            Ok(texts) => {
                let visual = Visual::of_file(picture.clone());
                let found = Picture::Found { id, visual };
                let splits = splits.as_ref();
                collector.add(RawRow {
                    split: splits.and_then(|splits| splits.get(index).copied()),
                    ..RawRow::new(index as u64 + 1, found, texts)
                });
            }
            Err(reason) => collector.refuse_file(&id, picture, reason),
        }
    }
    collector.finish()
}

/// All pictures and videos of a folder as samples without texts, for what looks at pictures alone.
///
/// # Errors
/// If there are none, or a folder cannot be read.
pub fn pictures(path: &Path) -> Result<Dataset, DataError> {
    let mut files = Vec::new();
    walk(path, 0, &mut files)?;
    if files.is_empty() {
        return Err(no_pictures(path));
    }
    let samples = files.into_iter().zip(1..).map(|(file, number)| {
        let id = id_of(path, &file);
        Sample {
            split: named_split(path, &file).unwrap_or_else(|| Split::by_hash(&id)),
            visual: Visual::of_file(file),
            texts: Vec::new(),
            group: None,
            annotations: Annotations::default(),
            origin: Origin {
                file: Some(path.to_owned()),
                place: Some(Place {
                    unit: Unit::Image,
                    number,
                }),
            },
            id,
        }
    });
    Ok(Dataset {
        name: name_of(path),
        samples: samples.collect(),
    })
}

fn no_pictures(path: &Path) -> DataError {
    DataError::UnknownFormat {
        path: path.to_owned(),
        detail: ": the folder holds no pictures (.jpg, .jpeg, .png, .webp, .gif, .bmp)".to_owned(),
    }
}

fn walk(folder: &Path, depth: usize, pictures: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let io = |source| DataError::io(folder, source);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        // The type of the entry itself: a link to a folder is no folder here, so loops cannot occur.
        entries.push((entry.path(), entry.file_type().map_err(io)?.is_dir()));
    }
    entries.sort();
    for (path, is_folder) in entries {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if is_folder {
            if depth < MAX_DEPTH {
                walk(&path, depth + 1, pictures)?;
            }
        } else if is_image(&path) || is_video(&path) {
            pictures.push(path);
        }
    }
    Ok(())
}

/// Whether pictures lie in the folder itself. It is then a folder of pictures, whatever else was left
/// there (an archive of them, features of them).
pub(super) fn holds_pictures(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .any(|path| is_image(&path))
}

pub(super) fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        IMAGE_EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// The path below the folder with `/` on every platform, so that ids and splits agree between them.
fn id_of(root: &Path, picture: &Path) -> String {
    let below = picture.strip_prefix(root).unwrap_or(picture);
    below
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

fn named_split(root: &Path, picture: &Path) -> Option<Split> {
    let mut parts = picture.strip_prefix(root).ok()?.components();
    let first = parts.next()?;
    parts.next()?;
    first.as_os_str().to_str()?.parse().ok()
}

fn texts_of(picture: &Path) -> Result<Vec<String>, String> {
    let file = picture.with_extension("txt");
    if !file.is_file() {
        return Err("no text file of the same name beside it".to_owned());
    }
    let bytes = read_capped(&file, MAX_TEXT_BYTES).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "its text file is not UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let lines: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if lines.is_empty() {
        Err("its text file is empty".to_owned())
    } else {
        Ok(lines)
    }
}
