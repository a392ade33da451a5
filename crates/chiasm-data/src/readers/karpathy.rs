//! Karpathy's split files: the COCO, Flickr8k and Flickr30k captions with the splits that papers use.
//!
//! `restval` is training data, as in those papers. Pictures are looked for under the image root, in
//! `images/` beside the file, and beside the file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::{Format, OpenOptions, Opened, parse_split};
use crate::dataset::{ImageSource, Unit};
use crate::error::DataError;

#[derive(Deserialize)]
struct File {
    images: Vec<Entry>,
    dataset: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    filename: Option<String>,
    /// Folder of the picture, in the COCO file only.
    filepath: Option<String>,
    split: Option<String>,
    #[serde(default)]
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    #[serde(default)]
    raw: String,
}

/// The one `dataset_*.json` of a folder; an error when there are several.
fn find(folder: &Path) -> Result<Option<PathBuf>, DataError> {
    let io = |source| DataError::io(folder, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("dataset_") && name.ends_with(".json") {
            found.push(path);
        }
    }
    if found.len() > 1 {
        let detail = format!(
            ": it holds {} files named `dataset_*.json`, name one of them",
            found.len()
        );
        return Err(DataError::UnknownFormat {
            path: folder.to_owned(),
            detail,
        });
    }
    Ok(found.pop())
}

pub(super) const FORMAT: Format = Format {
    name: "karpathy",
    what: "Karpathy split file, or the folder of one (dataset_*.json)",
    recognises: |source| {
        if source.is_folder {
            // Two such files are an error to report, not another format.
            return !matches!(find(&source.path), Ok(None));
        }
        source.has_extension(&["json"])
            && source.begins_with(b'{')
            && source.head_has("\"sentences\"")
    },
    open: |source, options| match source.is_folder {
        true => match find(&source.path)? {
            Some(file) => open(&file, options),
            None => Err(DataError::UnknownFormat {
                path: source.path.clone(),
                detail: ": it holds no `dataset_*.json`".to_owned(),
            }),
        },
        false => open(&source.path, options),
    },
};

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::io(path, source))?;
    let file: File = serde_json::from_slice(&bytes).map_err(|error| DataError::Parse {
        path: path.to_owned(),
        location: format!("line {}, column {}", error.line(), error.column()),
        message: error.to_string(),
    })?;
    let folders = folders(path, options);
    let mut collector = Collector::new(path, options, Unit::Image);
    for (number, entry) in (1..).zip(file.images) {
        match row(entry, number, &folders) {
            Ok(row) => collector.add(row),
            Err(reason) => collector.refuse(number, "", reason),
        }
    }
    let mut opened = collector.finish()?;
    if let Some(name) = file.dataset {
        opened.dataset.name = name;
    }
    Ok(opened)
}

fn row(entry: Entry, number: u64, folders: &[PathBuf]) -> Result<RawRow, String> {
    let name = entry
        .filename
        .filter(|name| !name.is_empty())
        .ok_or("`filename` is missing")?;
    let split = parse_split(&entry.split.ok_or("`split` is missing")?)?;
    let id = match &entry.filepath {
        Some(folder) if !folder.is_empty() => format!("{folder}/{name}"),
        _ => name.clone(),
    };
    let candidates = folders
        .iter()
        .flat_map(|folder| [folder.join(&id), folder.join(&name)]);
    let path = candidates
        .clone()
        .find(|path| path.is_file())
        // Not there at all: the first place, so that the check can say where it was expected.
        .or_else(|| candidates.clone().next())
        .ok_or("no place to look for pictures")?;
    let visual = ImageSource::Path(path).into();
    let texts = entry.sentences.into_iter().map(|sentence| sentence.raw);
    Ok(RawRow {
        split: Some(split),
        ..RawRow::new(number, Picture::Found { id, visual }, texts.collect())
    })
}

fn folders(path: &Path, options: &OpenOptions) -> Vec<PathBuf> {
    let beside = path.parent().unwrap_or(Path::new(""));
    let root = options.image_root.clone();
    root.into_iter()
        .chain([beside.join("images"), beside.to_owned()])
        .collect()
}
