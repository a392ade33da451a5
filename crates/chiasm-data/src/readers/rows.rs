//! Rows of a table as they are, one after another, for tables that do not fit into memory.
//!
//! Where [`super::open`] makes samples of rows, this hands out cells, and the line itself where a row is a
//! line of JSON. Memory does not grow with the table.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use serde_json::Value;

use super::columns::Columns;
use super::{OpenOptions, Source, csv, json, parquet as tables};
use crate::dataset::{Place, Unit};
use crate::error::DataError;

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Separated values with a header.
    Csv,
    /// A JSON object a line.
    JsonLines,
    /// Parquet.
    Parquet,
}

/// A table that can be read from the start as often as one likes.
#[derive(Clone, Debug)]
pub struct Table {
    path: PathBuf,
    kind: TableKind,
    names: Vec<String>,
}

/// A row of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 0; rows that cannot be read count as well.
    pub row: u64,
    /// Its place, for messages.
    pub place: Option<Place>,
    /// A cell for each name; `None` where the row has none, or one that is no text, number or truth value.
    pub cells: Vec<Option<String>>,
    /// The line, of JSON lines.
    pub line: Option<String>,
    /// Why the row cannot be used, where that is so.
    pub refused: Option<String>,
}

impl Table {
    /// Looks at the head of a table.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of the three kinds.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let source = Source::look(path)?;
        let (kind, names) = if source.has_extension(&["csv", "tsv", "tab"]) {
            (TableKind::Csv, csv::names(path)?)
        } else if source.has_extension(&["jsonl", "ndjson"]) {
            (TableKind::JsonLines, keys(path)?)
        } else if source.has_extension(&["parquet", "pq"]) {
            (TableKind::Parquet, guarded(path, || parquet_names(path))?)
        } else {
            return Err(DataError::UnknownFormat {
                path: path.to_owned(),
                detail: ": rows are read from .csv, .tsv, .jsonl and .parquet".to_owned(),
            });
        };
        Ok(Self {
            path: path.to_owned(),
            kind,
            names,
        })
    }

    /// How it is written.
    #[must_use]
    pub fn kind(&self) -> TableKind {
        self.kind
    }

    /// Names of the columns; of JSON lines the keys of the first object.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Positions of picture and text, as [`super::open`] finds them.
    ///
    /// # Errors
    /// If one of them is not there.
    pub fn picture_and_text(&self, options: &OpenOptions) -> Result<(usize, usize), DataError> {
        let columns = Columns::find(&self.path, &self.names, options)?;
        Ok((columns.image, columns.text))
    }

    /// The position of a column that somebody named.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn column(&self, role: &'static str, name: &str) -> Result<usize, DataError> {
        let exact = self.names.iter().position(|own| own == name);
        let close = || {
            let mut names = self.names.iter();
            names.position(|own| own.trim().eq_ignore_ascii_case(name))
        };
        exact
            .or_else(close)
            .ok_or_else(|| DataError::ColumnMissing {
                path: self.path.clone(),
                role,
                wanted: Some(name.to_owned()),
                existing: self.names.clone(),
                nearest: None,
            })
    }

    /// Hands out every row from the first on.
    ///
    /// # Errors
    /// When the file cannot be read on, and the first error of `each`.
    pub fn each(
        &self,
        mut each: impl FnMut(Record) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut row = 0;
        let mut give = |unit: Unit, number: u64, record: Record| {
            let record = Record {
                row,
                place: Some(Place { unit, number }),
                ..record
            };
            row += 1;
            each(record)
        };
        match self.kind {
            TableKind::Csv => csv::rows(&self.path, |number, record| {
                give(Unit::Line, number, of_csv(record, self.names.len()))
            }),
            TableKind::JsonLines => json::lines(&self.path, |number, line| {
                give(Unit::Line, number, of_json(line, &self.names))
            }),
            TableKind::Parquet => {
                self.parquet_rows(|number, record| give(Unit::Row, number, record))
            }
        }
    }

    fn parquet_rows(
        &self,
        mut give: impl FnMut(u64, Record) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let reader = guarded(&self.path, || tables::reader(&self.path))?;
        let mut rows = RowIter::from_file_into(Box::new(reader));
        for number in 1.. {
            let next = guarded(&self.path, || {
                let row = rows.next().transpose();
                row.map_err(|error| {
                    failed(&self.path, &format!("row {number}"), &error.to_string())
                })
            })?;
            let Some(row) = next else {
                break;
            };
            let cells = row
                .into_columns()
                .into_iter()
                .map(|(_, field)| match field {
                    Field::Null => None,
                    Field::Str(text) => Some(text),
                    Field::Bytes(bytes) => String::from_utf8(bytes.data().to_vec()).ok(),
                    Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) => None,
                    other => Some(other.to_string()),
                });
            let record = Record {
                cells: cells.collect(),
                ..Record::default()
            };
            give(number, record)?;
        }
        Ok(())
    }
}

fn of_csv(record: &::csv::ByteRecord, width: usize) -> Record {
    let mut bad = None;
    let cells = (0..width).map(|column| match record.get(column) {
        None => {
            let reason = || format!("the row has {} of {width} columns", record.len());
            bad.get_or_insert_with(reason);
            None
        }
        Some(bytes) => Some(match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                bad.get_or_insert_with(|| format!("column {} is not UTF-8 text", column + 1));
                String::from_utf8_lossy(bytes).into_owned()
            }
        }),
    });
    let cells = cells.collect();
    Record {
        cells,
        refused: bad,
        ..Record::default()
    }
}

fn of_json(line: Result<&str, String>, names: &[String]) -> Record {
    let mut record = Record {
        line: line.as_ref().ok().map(|line| (*line).to_owned()),
        ..Record::default()
    };
    let object = line.and_then(json::parse::<serde_json::Map<String, Value>>);
    match object {
        Ok(mut object) => {
            let cell = |name: &String| match object.remove(name)? {
                Value::String(text) => Some(text),
                Value::Null | Value::Array(_) | Value::Object(_) => None,
                other => Some(other.to_string()),
            };
            record.cells = names.iter().map(cell).collect();
        }
        Err(reason) => {
            record.cells = vec![None; names.len()];
            record.refused = Some(format!("not a JSON object: {reason}"));
        }
    }
    record
}

/// The keys of the first line that is an object.
fn keys(path: &Path) -> Result<Vec<String>, DataError> {
    let mut found = None;
    let stop = || DataError::NoSamples {
        name: String::new(),
    };
    let read = json::lines(path, |_, line| {
        let object = line.and_then(json::parse::<serde_json::Map<String, Value>>);
        match object {
            Ok(object) => {
                found = Some(object.keys().cloned().collect());
                Err(stop())
            }
            Err(_) => Ok(()),
        }
    });
    match (found, read) {
        (Some(names), _) => Ok(names),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(DataError::Empty {
            path: path.to_owned(),
            rejected: 0,
            first_reason: None,
        }),
    }
}

fn parquet_names(path: &Path) -> Result<Vec<String>, DataError> {
    let reader: SerializedFileReader<std::fs::File> = tables::reader(path)?;
    let schema = reader.metadata().file_metadata().schema();
    let fields = schema.get_fields().iter();
    Ok(fields.map(|field| field.name().to_owned()).collect())
}

/// The Parquet crate has asserts on its way; a damaged file must be an error of ours.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(failed(path, "an unknown row", "the file is damaged")))
}

fn failed(path: &Path, location: &str, message: &str) -> DataError {
    DataError::Parse {
        path: path.to_owned(),
        location: location.to_owned(),
        message: message.to_owned(),
    }
}
