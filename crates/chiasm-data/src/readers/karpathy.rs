//! Karpathy's split files: the COCO, Flickr8k and Flickr30k captions with the splits that papers use.
//!
//! `restval` is training data, as in those papers. A picture of the COCO file is looked for in the
//! folder that its `filepath` names, and without it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::json::{self, Layout, Take};
use super::{Format, OpenOptions, Opened, parse_split};
use crate::dataset::{ImageSource, Unit};
use crate::error::DataError;

const PARTS: Layout = Layout::Parts(&[("images", Take::Each), ("dataset", Take::Whole)]);

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
pub(super) fn find(folder: &Path) -> Result<Option<PathBuf>, DataError> {
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

pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Image);
    let mut name = None;
    json::stream(path, PARTS, |element| {
        if element.key == "dataset" {
            // Only a name for reports: one that is no string is none.
            name = element.parse().ok();
            return Ok(());
        }
        let row = element
            .parse()
            .and_then(|entry| row(entry, element.number, &collector));
        match row {
            Ok(row) => collector.add(row),
            Err(reason) => collector.refuse(element.number, "", reason),
        }
        Ok(())
    })?;
    let mut opened = collector.finish()?;
    if let Some(name) = name {
        opened.dataset.name = name;
    }
    Ok(opened)
}

fn row(entry: Entry, number: u64, collector: &Collector) -> Result<RawRow, String> {
    let name = entry
        .filename
        .filter(|name| !name.is_empty())
        .ok_or("`filename` is missing")?;
    let split = parse_split(&entry.split.ok_or("`split` is missing")?)?;
    let (id, path) = match &entry.filepath {
        Some(folder) if !folder.is_empty() => {
            let id = format!("{folder}/{name}");
            let path = collector.find_any(&[&id, &name]);
            (id, path)
        }
        _ => (name.clone(), collector.find(&name)),
    };
    let visual = ImageSource::Path(path).into();
    let texts = entry.sentences.into_iter().map(|sentence| sentence.raw);
    Ok(RawRow {
        split: Some(split),
        ..RawRow::new(number, Picture::Found { id, visual }, texts.collect())
    })
}
