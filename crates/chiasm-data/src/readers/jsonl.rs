//! JSON objects, one a line or all in one array.
//!
//! A row's text may be one string or a list of strings. The columns are the keys of the first row
//! that is an object.

use std::path::Path;

use serde_json::{Map, Value};

use super::collect::{Collector, Picture, RawRow, RowLabels};
use super::columns::{Columns, Role};
use super::json::{self, Layout};
use super::{Format, OpenOptions, Opened, parse_split};
use crate::dataset::Unit;
use crate::error::DataError;

pub(super) const LINES: Format = Format {
    name: "jsonl",
    what: "JSON objects, one a line (.jsonl)",
    recognises: |source| source.has_extension(&["jsonl", "ndjson"]),
    open: |source, options| open_lines(&source.path, options),
};

pub(super) const ARRAY: Format = Format {
    name: "json",
    what: "JSON array of objects (.json)",
    recognises: |source| source.has_extension(&["json"]) && source.begins_with(b'['),
    open: |source, options| open_array(&source.path, options),
};

fn open_lines(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut rows = Rows::new(path, options, Unit::Line);
    json::lines(path, |number, line| {
        match line.and_then(|line| json::parse(line).map_err(|error| format!("not JSON: {error}")))
        {
            Ok(value) => rows.add(number, value),
            Err(reason) => {
                rows.collector.refuse(number, "", reason);
                Ok(())
            }
        }
    })?;
    rows.collector.finish()
}

fn open_array(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut rows = Rows::new(path, options, Unit::Row);
    json::stream(path, Layout::List, |element| match element.parse() {
        Ok(value) => rows.add(element.number, value),
        Err(reason) => {
            rows.collector.refuse(element.number, "", reason);
            Ok(())
        }
    })?;
    rows.collector.finish()
}

/// Keys by role.
struct Keys {
    image: String,
    text: String,
    split: Option<String>,
    said: Vec<(Role, String)>,
}

struct Rows<'a> {
    path: &'a Path,
    options: &'a OpenOptions,
    keys: Option<Keys>,
    collector: Collector,
}

impl<'a> Rows<'a> {
    fn new(path: &'a Path, options: &'a OpenOptions, unit: Unit) -> Self {
        Self {
            path,
            options,
            keys: None,
            collector: Collector::new(path, options, unit),
        }
    }

    fn add(&mut self, number: u64, value: Value) -> Result<(), DataError> {
        let Value::Object(mut object) = value else {
            self.collector.refuse(number, "", "not a JSON object");
            return Ok(());
        };
        let keys = match self.keys.take() {
            Some(keys) => keys,
            None => find_keys(self.path, &object, self.options)?,
        };
        match row(&mut object, number, &keys) {
            Ok(row) => self.collector.add(row),
            Err(reason) => self.collector.refuse(number, "", reason),
        }
        self.keys = Some(keys);
        Ok(())
    }
}

fn find_keys(
    path: &Path,
    object: &Map<String, Value>,
    options: &OpenOptions,
) -> Result<Keys, DataError> {
    let names: Vec<String> = object.keys().cloned().collect();
    let columns = Columns::find(path, &names, options)?;
    let name = |column: usize| names.get(column).cloned().unwrap_or_default();
    Ok(Keys {
        image: name(columns.image),
        text: name(columns.text),
        split: columns.split.map(name),
        said: (columns.said.iter())
            .map(|(role, column)| (*role, name(*column)))
            .collect(),
    })
}

fn row(object: &mut Map<String, Value>, number: u64, keys: &Keys) -> Result<RawRow, String> {
    let Some(Value::String(image)) = object.remove(&keys.image) else {
        return Err(format!("`{}` is missing or no string", keys.image));
    };
    let texts = strings(object, &keys.text)?;
    let split = match keys.split.as_ref().and_then(|key| object.remove(key)) {
        Some(Value::String(split)) => Some(parse_split(&split)?),
        // In a file that has splits, a row without one would land in either part by chance.
        _ if keys.split.is_some() => return Err("the split is missing or no string".to_owned()),
        _ => None,
    };
    let mut labels = RowLabels::default();
    for (role, key) in &keys.said {
        let values = match role {
            Role::Answer => strings(object, key)?,
            _ => match object.remove(key) {
                Some(Value::String(text)) => vec![text],
                Some(Value::Null) | None => Vec::new(),
                Some(other) => vec![other.to_string()],
            },
        };
        labels.take(*role, values)?;
    }
    labels.apply(RawRow {
        split,
        ..RawRow::new(number, Picture::Named(image), texts)
    })
}

/// A string, or a list of strings.
fn strings(object: &mut Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    match object.remove(key) {
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                _ => Err(format!("`{key}` holds something other than strings")),
            })
            .collect(),
        _ => Err(format!("`{key}` is missing or neither a string nor a list")),
    }
}
