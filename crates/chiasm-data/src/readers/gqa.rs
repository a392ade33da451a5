//! GQA: questions made from scene graphs, one object of them a file, or a folder of such files.
//!
//! Kept of a question are its answer and its types; the program behind it is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow, count_answers};
use super::json::{self, Id, Layout};
use super::{Format, OpenOptions, Opened, Source, split_in_path};
use crate::dataset::{Annotations, ImageSource, Unit};
use crate::error::DataError;

/// The types of a question that are kept.
const TYPES: [&str; 3] = ["structural", "semantic", "detailed"];

/// Most files of a folder. The official folder has ten.
const MAX_FILES: usize = 10_000;

pub(super) const FORMAT: Format = Format {
    name: "gqa",
    what: "GQA questions, or a folder of such files (*questions*.json)",
    recognises: |source| match source.is_folder {
        // The first file speaks for the folder.
        true => files(&source.path).is_ok_and(|files| {
            files
                .first()
                .is_some_and(|file| Source::look(file).is_ok_and(|file| is_questions(&file)))
        }),
        false => is_questions(source),
    },
    open: |source, options| match source.is_folder {
        true => open(&source.path, &files(&source.path)?, options),
        false => open(&source.path, std::slice::from_ref(&source.path), options),
    },
};

fn is_questions(source: &Source) -> bool {
    source.has_extension(&["json"])
        && source.begins_with(b'{')
        && source.head_has("\"imageId\"")
        && source.head_has("\"question\"")
}

/// The JSON files of a folder by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::io(folder, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(DataError::UnknownFormat {
                path: folder.to_owned(),
                detail: format!(": it holds more than {MAX_FILES} JSON files"),
            });
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    question: String,
    image_id: Id,
    answer: Option<String>,
    is_balanced: Option<bool>,
    types: Option<BTreeMap<String, Option<String>>>,
}

fn open(path: &Path, files: &[PathBuf], options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Row);
    let folders = ["allImages/images", "images"];
    collector.look_also(options, &["../images", ".."], &folders);
    for file in files {
        let split = split_in_path(file);
        collector.turn_to(file);
        json::stream(file, Layout::Entries, |element| {
            match element.parse::<Question>() {
                Ok(question) => {
                    let mut row = row(question, element.number, &collector);
                    row.id = Some(element.key.to_owned());
                    row.split = split;
                    collector.add(row);
                }
                Err(reason) => collector.refuse(element.number, element.key, reason),
            }
            Ok(())
        })?;
    }
    collector.finish()
}

fn row(question: Question, number: u64, collector: &Collector) -> RawRow {
    let image = question.image_id.0;
    let file = collector.find(&format!("{image}.jpg"));
    let mut types = question.types.unwrap_or_default();
    let kinds = TYPES.into_iter();
    let kinds = kinds.filter_map(|of| Some((of, types.remove(of)??)));
    let balanced = question.is_balanced.map(|is| ("balanced", is.to_string()));
    let picture = Picture::Found {
        id: image,
        visual: ImageSource::Path(file).into(),
    };
    RawRow {
        annotations: Annotations {
            answers: count_answers(question.answer),
            kinds: kinds.chain(balanced).collect(),
            ..Annotations::default()
        },
        ..RawRow::new(number, picture, vec![question.question])
    }
}
