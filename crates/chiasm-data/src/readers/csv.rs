//! Comma-, tab- and semicolon-separated tables with a header.
//!
//! The delimiter of a `.tsv` is the tab; that of a `.csv` is the one of `,` `;` tab `|` that its
//! header has most of, since spreadsheets of half the world export semicolons under that name.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder};

use super::collect::{Collector, Picture, RawRow, RowLabels};
use super::columns::Columns;
use super::preview::Head;
use super::{Format, OpenOptions, Opened, parse_split};
use crate::dataset::Unit;
use crate::error::DataError;

/// Cap on a row: hundreds of the longest texts. A quote that is never closed makes one row of the rest
/// of the file; this is where it ends.
const MAX_ROW_BYTES: u64 = 4 << 20;

/// Bytes of the header that are looked at for the delimiter.
const SNIFF_BYTES: usize = 64 << 10;

pub(super) const FORMAT: Format = Format {
    name: "csv",
    what: "table with a header (.csv, .tsv)",
    recognises: |source| source.has_extension(&["csv", "tsv", "tab"]),
    open: |source, options| open(&source.path, options),
};

/// A reader of rows with the table's delimiter.
fn reader(path: &Path) -> Result<csv::Reader<LineStarts<BufReader<std::fs::File>>>, DataError> {
    let file = std::fs::File::open(path).map_err(|source| DataError::io(path, source))?;
    let mut buffered = BufReader::with_capacity(SNIFF_BYTES, file);
    let head = buffered
        .fill_buf()
        .map_err(|source| DataError::io(path, source))?;
    let tab = path
        .extension()
        .is_some_and(|e| !e.eq_ignore_ascii_case("csv"));
    let delimiter = if tab { b'\t' } else { sniff(head) };
    Ok(ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .from_reader(LineStarts::new(buffered, MAX_ROW_BYTES)))
}

/// The header and the first `rows` rows, as people see them.
pub(super) fn head(path: &Path, rows: usize) -> Result<Head, DataError> {
    let mut reader = reader(path)?;
    let text = |cell: &[u8]| String::from_utf8_lossy(cell).trim().to_owned();
    let header = reader
        .byte_headers()
        .map_err(|error| failed(path, 1, &error))?;
    let names: Vec<String> = header.iter().map(text).collect();
    let records = reader.byte_records().take(rows).filter_map(Result::ok);
    let cell = |record: &ByteRecord, column| record.get(column).map(text).unwrap_or_default();
    let rows = records
        .map(|record| {
            (0..names.len())
                .map(|column| cell(&record, column))
                .collect()
        })
        .collect();
    Ok(Head { names, rows })
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Line);
    let names = names(path)?;
    if names.iter().all(String::is_empty) {
        return collector.finish();
    }
    let columns = Columns::find(path, &names, options)?;
    rows(path, |line, record| {
        match row(record, line, &columns, names.len()) {
            Ok(row) => collector.add(row),
            Err(reason) => collector.refuse(line, "", reason),
        }
        Ok(())
    })?;
    collector.finish()
}

/// The names in the header.
pub(super) fn names(path: &Path) -> Result<Vec<String>, DataError> {
    let mut reader = reader(path)?;
    let header = reader
        .byte_headers()
        .map_err(|error| failed(path, 1, &error))?;
    let names: Option<Vec<String>> = header
        .iter()
        .map(|name| {
            std::str::from_utf8(name)
                .ok()
                .map(|name| name.trim().to_owned())
        })
        .collect();
    names.ok_or_else(|| DataError::Parse {
        path: path.to_owned(),
        location: "line 1".to_owned(),
        message: "the header is not UTF-8 text".to_owned(),
    })
}

/// Hands out the rows behind the header, with the lines on which they begin.
///
/// # Errors
/// When the file cannot be read on; and the first error of `each`.
pub(super) fn rows(
    path: &Path,
    mut each: impl FnMut(u64, &ByteRecord) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut reader = reader(path)?;
    reader
        .byte_headers()
        .map_err(|error| failed(path, 1, &error))?;
    let mut record = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                let line = reader.get_mut().line_of_row();
                return Err(failed(path, line, &error));
            }
        }
        let start = record.position().map_or(0, csv::Position::byte);
        let line = reader.get_mut().line_from(start);
        let end = reader.position().byte();
        reader.get_mut().begin_row(end);
        each(line, &record)?;
    }
}

fn row(
    record: &ByteRecord,
    number: u64,
    columns: &Columns,
    width: usize,
) -> Result<RawRow, String> {
    let cell = |column: usize| {
        let bytes = record
            .get(column)
            .ok_or_else(|| format!("the row has {} of {width} columns", record.len()))?;
        std::str::from_utf8(bytes).map_err(|_| format!("column {} is not UTF-8 text", column + 1))
    };
    let own = |column: Option<usize>| column.map(cell).transpose();
    let mut labels = RowLabels::default();
    for (role, column) in &columns.said {
        labels.take(*role, vec![cell(*column)?.to_owned()])?;
    }
    let picture = Picture::Named(cell(columns.image)?.to_owned());
    labels.apply(RawRow {
        split: own(columns.split)?.map(parse_split).transpose()?,
        ..RawRow::new(number, picture, vec![cell(columns.text)?.to_owned()])
    })
}

/// Reads through, and remembers on which line each byte that begins a line stands.
///
/// The parser's own count is of line feeds before the place where it left the record before: one too
/// low behind CR LF, whose second half it has not seen then, too low behind blank lines, and always 1
/// where lines end with CR alone.
struct LineStarts<R> {
    inner: R,
    /// Bytes read so far.
    bytes: u64,
    /// Line of the next byte, from 1.
    line: u64,
    /// Whether the byte before was a carriage return: a line feed then ends no second line.
    after_return: bool,
    /// Whether the line has no byte yet.
    blank: bool,
    /// Offset of the first byte and line number, of lines that are not blank and were read ahead.
    starts: VecDeque<(u64, u64)>,
    /// Where the row begins that is being read, and how long it may be.
    row: u64,
    max_row: u64,
}

impl<R> LineStarts<R> {
    fn new(inner: R, max_row: u64) -> Self {
        Self {
            inner,
            row: 0,
            max_row,
            bytes: 0,
            line: 1,
            after_return: false,
            blank: true,
            starts: VecDeque::new(),
        }
    }

    /// The row before ended at byte `start`.
    fn begin_row(&mut self, start: u64) {
        self.row = start;
    }

    /// The line on which the row that is being read begins.
    fn line_of_row(&mut self) -> u64 {
        self.line_from(self.row)
    }

    /// The first line that is not blank and begins at byte `start` or later; for rising `start` only.
    fn line_from(&mut self, start: u64) -> u64 {
        while self.starts.front().is_some_and(|(byte, _)| *byte < start) {
            self.starts.pop_front();
        }
        self.starts.front().map_or(self.line, |(_, line)| *line)
    }
}

impl<R: Read> Read for LineStarts<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The parser asks for more only while the row goes on.
        if self.bytes.saturating_sub(self.row) > self.max_row {
            let reason = format!(
                "a row has more than {} bytes; is a quote not closed?",
                self.max_row
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let count = self.inner.read(buffer)?;
        for byte in buffer.iter().take(count) {
            match byte {
                b'\n' if self.after_return => self.after_return = false,
                b'\n' | b'\r' => {
                    self.line += 1;
                    self.blank = true;
                    self.after_return = *byte == b'\r';
                }
                _ => {
                    if self.blank {
                        self.starts.push_back((self.bytes, self.line));
                    }
                    self.blank = false;
                    self.after_return = false;
                }
            }
            self.bytes += 1;
        }
        Ok(count)
    }
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

fn failed(path: &Path, line: u64, error: &csv::Error) -> DataError {
    let location = format!("line {line}");
    DataError::Parse {
        path: path.to_owned(),
        location,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a reader up to the first that fails, and what it failed with.
    fn rows(input: impl Read, cap: u64) -> (u64, Option<(u64, String)>) {
        let mut reader = ReaderBuilder::new().from_reader(LineStarts::new(input, cap));
        let mut record = ByteRecord::new();
        let mut count = 0;
        loop {
            match reader.read_byte_record(&mut record) {
                Ok(true) => count += 1,
                Ok(false) => return (count, None),
                Err(error) => {
                    let line = reader.get_mut().line_of_row();
                    return (count, Some((line, error.to_string())));
                }
            }
            let end = reader.position().byte();
            reader.get_mut().begin_row(end);
        }
    }

    /// A quote that stays open swallows the rest of the file, however long: it must not be kept.
    #[test]
    fn endless_rows_end_at_the_cap() {
        let cap = 64 << 10;
        let start = b"image,text\na.png,one\nb.png,\"two\n";
        let (count, error) = rows(start.chain(io::repeat(b'x')), cap);
        let (line, message) = error.unwrap();
        assert_eq!((count, line), (1, 3));
        assert!(
            message.contains("65536 bytes") && message.contains("quote"),
            "{message}"
        );
        // Lines in quotes and a header without end are rows as well.
        let (_, error) = rows(b"image,text\n\"".chain(io::repeat(b'\n')), cap);
        assert!(error.is_some());
        let (_, error) = rows(io::repeat(b','), cap);
        assert_eq!(error.unwrap().0, 1);
    }

    #[test]
    fn rows_below_the_cap_are_read_however_many() {
        let table = format!(
            "image,text\n{}",
            format!("a.png,\"{}\"\n", "y".repeat(50_000)).repeat(40)
        );
        let (count, error) = rows(table.as_bytes(), 64 << 10);
        assert_eq!((count, error), (40, None));
    }
}
