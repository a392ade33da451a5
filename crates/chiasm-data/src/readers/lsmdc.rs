//! LSMDC: descriptions of clips out of movies.
//!
//! `LSMDC16_annos_training.csv` and its like are tables without a header and with tabs: clip, four
//! times, sentence. The split is the one in the file's name; `..challenge_1000_publictect.csv`, the
//! thousand clips that retrieval is tested on, is test. A folder of such files is one data set; the
//! thousand clips, which are some of `..annos_test.csv`, then stand for all of it. The blind test has no
//! sentences: by itself it is refused, in a folder it is left out.
//!
//! Clips lie in a folder for each movie, below [`OpenOptions::image_root`], else below `videos`,
//! `frames`, or the table's folder.

use std::path::{Path, PathBuf};

use super::clips::Clips;
use super::collect::{Collector, Picture, RawRow};
use super::{Format, OpenOptions, Opened, json, name_of, split_in_name};
use crate::dataset::{Split, Unit};
use crate::error::DataError;

/// Clip, two times as annotated, two as cut, sentence.
const COLUMNS: usize = 6;

/// The retrieval test; `publictect` is how it is spelled.
const CHALLENGE: &str = "publictect";

pub(super) const FORMAT: Format = Format {
    name: "lsmdc",
    what: "LSMDC table, or the folder of them (LSMDC16_annos_training.csv)",
    recognises: |source| match source.is_folder {
        true => tables(&source.path).is_ok_and(|tables| !tables.is_empty()),
        false => is_table(&source.path),
    },
    open: |source, options| {
        let tables = match source.is_folder {
            true => tables(&source.path)?,
            false => vec![source.path.clone()],
        };
        open(&source.path, source.is_folder, tables, options)
    },
};

fn is_table(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_text = ["csv", "tsv", "txt"]
        .iter()
        .any(|ending| name.ends_with(&format!(".{ending}")));
    name.starts_with("LSMDC") && is_text && (name.contains("_annos_") || name.contains(CHALLENGE))
}

fn is_blind(path: &Path) -> bool {
    name_of(path).contains("blind")
}

/// The tables of a folder that make up the data set.
fn tables(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::io(folder, source);
    let mut tables = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if is_table(&path) && !is_blind(&path) {
            tables.push(path);
        }
    }
    tables.sort();
    let is_challenge = |path: &PathBuf| name_of(path).contains(CHALLENGE);
    if tables.iter().any(is_challenge) {
        tables.retain(|path| is_challenge(path) || split_of(path) != Some(Split::Test));
    }
    Ok(tables)
}

fn split_of(path: &Path) -> Option<Split> {
    let name = name_of(path);
    let challenge = name.contains(CHALLENGE).then_some(Split::Test);
    challenge.or_else(|| split_in_name(&name))
}

fn open(
    source: &Path,
    is_folder: bool,
    tables: Vec<PathBuf>,
    options: &OpenOptions,
) -> Result<Opened, DataError> {
    let beside = source.parent().unwrap_or(Path::new(""));
    let root = if is_folder { source } else { beside };
    let clips = match &options.image_root {
        Some(root) => Clips::new([root.clone()]),
        None => Clips::new([root.join("videos"), root.join("frames"), root.to_owned()]),
    };
    let mut collector = Collector::new(source, options, Unit::Line);
    for table in tables {
        if is_blind(&table) {
            return Err(DataError::Incomplete {
                path: table,
                missing: "is the blind test set, whose sentences are not published".to_owned(),
                hint: "open `LSMDC16_challenge_1000_publictect.csv` or `LSMDC16_annos_test.csv`"
                    .to_owned(),
            });
        }
        let split = split_of(&table);
        collector.turn_to(&table);
        json::lines(&table, |number, line| {
            match line.and_then(clip_and_sentence) {
                Ok((clip, sentence)) => {
                    // The times at the end of the name have no underscore.
                    let movie = clip.rsplit_once('_').map(|(movie, _)| movie);
                    let picture = Picture::Found {
                        id: clip.to_owned(),
                        visual: clips.find(clip, movie),
                    };
                    let texts = vec![sentence.to_owned()];
                    collector.add(RawRow {
                        split,
                        ..RawRow::new(number, picture, texts)
                    });
                }
                Err(reason) => collector.refuse(number, "", reason),
            }
            Ok(())
        })?;
    }
    collector.finish()
}

fn clip_and_sentence(line: &str) -> Result<(&str, &str), String> {
    let cells: Vec<&str> = line.splitn(COLUMNS, '\t').collect();
    match cells.as_slice() {
        [clip, _, _, _, _, sentence] => Ok((clip.trim(), sentence)),
        fewer => Err(format!("the row has {} of {COLUMNS} columns", fewer.len())),
    }
}
