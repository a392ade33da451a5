//! Which columns of a table hold what, with reasons, for people who meet their own table.
//!
//! Readers go by names. Where the names say nothing (`Bildpfad`, `col3`), the cells do: paths of
//! pictures end in their extensions, texts have words.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::columns::{Columns, Role};
use super::{OpenOptions, Source, csv, folder};
use crate::dataset::Split;
use crate::error::DataError;

/// Rows that are looked at.
const ROWS: usize = 200;

/// Longest line that is looked at.
const MAX_LINE: u64 = 1 << 20;

/// Share of cells that have to look like a role's.
const SHARE: f64 = 0.8;

/// Words that a text column has on average, at least: fewer are names or codes.
const MIN_WORDS: f64 = 1.5;

/// Folders beside a table that are searched for its pictures.
const MAX_FOLDERS: usize = 100;

/// A column and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What it holds.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Why it was chosen, in words.
    pub why: String,
}

/// First rows of a table.
pub(super) struct Head {
    /// The header.
    pub(super) names: Vec<String>,
    /// Cells of the first rows; a missing one is empty.
    pub(super) rows: Vec<Vec<String>>,
}

/// Chooses the columns of a CSV, TSV or JSON-lines table, and puts into `options` what its names
/// alone do not say: columns, and the folder of the pictures. Other formats have no columns to
/// choose, or their names decide: the list is empty then.
///
/// # Errors
/// If the table cannot be read. Columns that are not found are left for [`super::open`] to miss.
pub fn choose_columns(path: &Path, options: &mut OpenOptions) -> Result<Vec<Chosen>, DataError> {
    let source = Source::look(path)?;
    // Of several tables the first stands for all.
    let path = source.files.first().map_or(path, PathBuf::as_path);
    let head = match super::recognise(&source, options)?.name {
        "csv" => csv::head(path, ROWS)?,
        "jsonl" => json_lines(path)?,
        _ => return Ok(Vec::new()),
    };
    let named = |role: Role, options: &OpenOptions| Columns::named(role, &head.names, options);
    let mut chosen: Vec<(Role, usize, String)> = Vec::new();
    for role in Role::ALL {
        if let Some(column) = named(role, options) {
            let why = match role.option(options) {
                Some(_) => "as you said",
                None => "by its name",
            };
            chosen.push((role, column, why.to_owned()));
        }
    }
    let free = |chosen: &[(Role, usize, String)]| -> Vec<usize> {
        let taken = |column: &usize| chosen.iter().any(|(_, own, _)| own == column);
        (0..head.names.len())
            .filter(|column| !taken(column))
            .collect()
    };
    let has = |chosen: &[(Role, usize, String)], role| chosen.iter().any(|(own, ..)| *own == role);
    type Guess = fn(&Head, usize) -> Option<(f64, String)>;
    let guesses: [(Role, Guess); 3] = [
        (Role::Image, image),
        (Role::Split, split),
        (Role::Text, text),
    ];
    for (role, guess) in guesses {
        if has(&chosen, role) {
            continue;
        }
        let best = free(&chosen)
            .into_iter()
            .filter_map(|column| guess(&head, column).map(|(score, why)| (score, column, why)))
            // Of equals the first.
            .fold(None::<(f64, usize, String)>, |best, next| match best {
                Some(best) if best.0 >= next.0 => Some(best),
                _ => Some(next),
            });
        if let Some((_, column, why)) = best {
            let name = head.names.get(column).cloned();
            *role.option_mut(options) = name;
            chosen.push((role, column, why));
        }
    }
    let image_column = chosen.iter().find(|(role, ..)| *role == Role::Image);
    if let (Some((_, column, _)), None) = (image_column, &options.image_root) {
        options.image_root = folder_of_pictures(path, &head, *column);
    }
    chosen.sort_by_key(|(role, ..)| *role);
    Ok(chosen
        .into_iter()
        .map(|(role, column, why)| Chosen {
            role,
            name: head.names.get(column).cloned().unwrap_or_default(),
            why,
        })
        .collect())
}

fn cells(head: &Head, column: usize) -> Vec<&str> {
    let cells = head.rows.iter().filter_map(|row| row.get(column));
    cells
        .map(|cell| cell.trim())
        .filter(|cell| !cell.is_empty())
        .collect()
}

/// Share of the cells for which `is` holds, and their numbers.
fn share(cells: &[&str], is: impl Fn(&str) -> bool) -> (f64, usize) {
    let count = cells.iter().filter(|cell| is(cell)).count();
    (count as f64 / cells.len().max(1) as f64, count)
}

fn image(head: &Head, column: usize) -> Option<(f64, String)> {
    let cells = cells(head, column);
    let (share, count) = share(&cells, |cell| folder::is_image(Path::new(cell)));
    let why = || format!("{count} of its first {} cells name pictures", cells.len());
    (share >= SHARE).then(|| (share, why()))
}

fn split(head: &Head, column: usize) -> Option<(f64, String)> {
    let cells = cells(head, column);
    let (share, _) = share(&cells, |cell| cell.parse::<Split>().is_ok());
    (share >= 1.0 && !cells.is_empty()).then(|| (share, "every cell names a split".to_owned()))
}

fn text(head: &Head, column: usize) -> Option<(f64, String)> {
    let cells = cells(head, column);
    let (share, _) = share(&cells, |cell| cell.chars().any(char::is_alphabetic));
    let words: usize = cells
        .iter()
        .map(|cell| cell.split_whitespace().count())
        .sum();
    let words = words as f64 / cells.len().max(1) as f64;
    (share >= SHARE && words >= MIN_WORDS).then(|| {
        (
            words,
            format!("{words:.1} words a cell, most of all columns"),
        )
    })
}

/// The folder beside a table in which its pictures are, when they are neither where the reader
/// looks nor anywhere but in one such folder.
fn folder_of_pictures(path: &Path, head: &Head, column: usize) -> Option<PathBuf> {
    let beside = path.parent().unwrap_or(Path::new(""));
    let names = cells(head, column);
    let holds = |folder: &Path| names.iter().any(|name| folder.join(name).is_file());
    if holds(beside) || holds(&beside.join("images")) {
        return None;
    }
    let here = if beside.as_os_str().is_empty() {
        Path::new(".")
    } else {
        beside
    };
    let mut folders: Vec<PathBuf> = std::fs::read_dir(here)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| beside.join(entry.file_name()))
        .take(MAX_FOLDERS)
        .collect();
    folders.sort();
    let mut found = folders.into_iter().filter(|folder| holds(folder));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn json_lines(path: &Path) -> Result<Head, DataError> {
    let io = |source| DataError::io(path, source);
    let mut file = BufReader::new(std::fs::File::open(path).map_err(io)?);
    let mut head = Head {
        names: Vec::new(),
        rows: Vec::new(),
    };
    let mut line = Vec::new();
    for _ in 0..ROWS {
        line.clear();
        let read = file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(io)? == 0 {
            break;
        }
        let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(line.trim_ascii()) else {
            continue;
        };
        if head.names.is_empty() {
            head.names = object.keys().cloned().collect();
        }
        let cell = |name: &String| match object.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(items)) => items
                .first()
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            _ => String::new(),
        };
        head.rows.push(head.names.iter().map(cell).collect());
    }
    Ok(head)
}
