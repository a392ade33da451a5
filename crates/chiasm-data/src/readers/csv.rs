//! Comma-, tab- and semicolon-separated tables with a header.
//!
//! The delimiter of a `.tsv` is the tab; that of a `.csv` is the one of `,` `;` tab `|` that its
//! header has most of, since spreadsheets of half the world export semicolons under that name.

use std::io::{BufRead, BufReader};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder};

use super::collect::{Collector, Picture, RawRow};
use super::columns::Columns;
use super::{OpenOptions, Opened, parse_split};
use crate::error::DataError;

/// Bytes of the header that are looked at for the delimiter.
const SNIFF_BYTES: usize = 64 << 10;

pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let file = std::fs::File::open(path).map_err(|source| DataError::io(path, source))?;
    let mut buffered = BufReader::with_capacity(SNIFF_BYTES, file);
    let head = buffered
        .fill_buf()
        .map_err(|source| DataError::io(path, source))?;
    let tab = path
        .extension()
        .is_some_and(|e| !e.eq_ignore_ascii_case("csv"));
    let delimiter = if tab { b'\t' } else { sniff(head) };
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .from_reader(buffered);
    let header = reader
        .byte_headers()
        .map_err(|error| failed(path, &error))?
        .clone();
    let mut collector = Collector::new(path, options, "line");
    if header.iter().all(<[u8]>::is_empty) {
        return collector.finish();
    }
    let names: Option<Vec<String>> = header
        .iter()
        .map(|name| {
            std::str::from_utf8(name)
                .ok()
                .map(|name| name.trim().to_owned())
        })
        .collect();
    let names = names.ok_or_else(|| DataError::Parse {
        path: path.to_owned(),
        location: "line 1".to_owned(),
        message: "the header is not UTF-8 text".to_owned(),
    })?;
    let columns = Columns::find(path, &names, options)?;
    let mut record = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(failed(path, &error)),
        }
        let line = record.position().map_or(0, csv::Position::line);
        match row(&record, line, columns, names.len()) {
            Ok(row) => collector.add(row),
            Err(reason) => collector.refuse(line, "", reason),
        }
    }
    collector.finish()
}

fn row(record: &ByteRecord, number: u64, columns: Columns, width: usize) -> Result<RawRow, String> {
    let cell = |column: usize| {
        let bytes = record
            .get(column)
            .ok_or_else(|| format!("the row has {} of {width} columns", record.len()))?;
        std::str::from_utf8(bytes).map_err(|_| format!("column {} is not UTF-8 text", column + 1))
    };
    Ok(RawRow {
        number,
        picture: Picture::Named(cell(columns.image)?.to_owned()),
        texts: vec![cell(columns.text)?.to_owned()],
        split: columns
            .split
            .map(|column| cell(column).and_then(parse_split))
            .transpose()?,
    })
}

/// The most frequent candidate of the first line, outside quotes.
fn sniff(head: &[u8]) -> u8 {
    const CANDIDATES: [u8; 4] = [b',', b';', b'\t', b'|'];
    let mut counts = [0usize; CANDIDATES.len()];
    let mut quoted = false;
    for byte in head {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => break,
            _ if quoted => {}
            _ => {
                for (count, candidate) in counts.iter_mut().zip(CANDIDATES) {
                    *count += usize::from(*byte == candidate);
                }
            }
        }
    }
    // Of equal counts the first candidate: a comma, also when the table has one column.
    let most = counts.iter().copied().max().unwrap_or(0);
    counts
        .iter()
        .zip(CANDIDATES)
        .find(|(count, _)| **count == most)
        .map_or(b',', |(_, candidate)| candidate)
}

fn failed(path: &Path, error: &csv::Error) -> DataError {
    let location = error.position().map_or_else(
        || "an unknown line".to_owned(),
        |at| format!("line {}", at.line()),
    );
    DataError::Parse {
        path: path.to_owned(),
        location,
        message: error.to_string(),
    }
}
