//! JSON files that need not fit into memory: one element at a time.
//!
//! Owns the caps. A file has at most [`MAX_FILE_BYTES`], an element or line at most
//! [`MAX_ELEMENT_BYTES`], a file at most [`MAX_ELEMENTS`], nested at most [`MAX_DEPTH`] deep. What an
//! element means is its reader's: it is handed out as text that is known to be JSON, so that one
//! which does not fit its type costs a row and not the file.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use crate::error::DataError;

/// Largest file that is read. The largest of the field, Visual Genome's region graphs and GQA's
/// questions in one file, have 3 GB.
pub(super) const MAX_FILE_BYTES: u64 = 8 << 30;
/// Largest element or line. A picture with all that was ever said of it has a few hundred KB.
pub(super) const MAX_ELEMENT_BYTES: u64 = 16 << 20;
/// Most elements of a file. GQA, the largest set of questions, has 22 million.
const MAX_ELEMENTS: u64 = 1 << 26;
/// Deepest nesting, of parts that are skipped as well; a row may nest 128 deep in what is read of it.
const MAX_DEPTH: u32 = 1024;
/// How much is read at once.
const BUFFER_BYTES: usize = 128 << 10;

/// What the elements of a file are.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// Those of a list.
    List,
    /// The values of an object, each named by its key.
    Entries,
    /// What these keys of an object hold; the first must be there.
    Parts(&'static [(&'static str, Take)]),
}

/// What to take of a key.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Take {
    /// The elements of the list that it holds.
    Each,
    /// What it holds, as one element.
    Whole,
}

/// An element of a file, checked to be JSON and not more.
pub(super) struct Element<'a> {
    /// The key that it, or its list, stands under; empty in a list without one.
    pub(super) key: &'a str,
    /// Its position in the list or object, from 1.
    pub(super) number: u64,
    json: &'a RawValue,
}

impl<'a> Element<'a> {
    /// The element as a type, or why it is none.
    pub(super) fn parse<T: Deserialize<'a>>(&self) -> Result<T, String> {
        parse(self.json.get())
    }
}

/// JSON text as a type, or why it is none.
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| {
        let message = error.to_string();
        // The place is one in the element, and would be read as one in the file.
        let (reason, _) = message.rsplit_once(" at line ").unwrap_or((&message, ""));
        reason.to_owned()
    })
}

/// Hands out the elements of a file in the order in which they stand there.
///
/// # Errors
/// When the file cannot be read, is not JSON, exceeds a cap or has another layout, with line and
/// column; and the first error of `each`.
pub(super) fn stream(
    path: &Path,
    layout: Layout,
    mut each: impl FnMut(Element<'_>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let meter = Meter::default();
    let reader = Gauge {
        inner: open_capped(path)?,
        meter: &meter,
        in_string: false,
        escaped: false,
        depth: 0,
    };
    let mut sink = Sink {
        each: &mut each,
        meter: &meter,
        elements: 0,
        failed: None,
    };
    let mut json = serde_json::Deserializer::from_reader(reader);
    let mut first = false;
    let read = json.deserialize_any(Top {
        layout,
        sink: &mut sink,
        first: &mut first,
    });
    meter.left.set(MAX_ELEMENT_BYTES);
    let read = read.and_then(|()| json.end());
    if let Some(error) = sink.failed {
        return Err(error);
    }
    read.map_err(|error| failed(path, error, &meter))?;
    match layout {
        Layout::Parts([(key, _), ..]) if !first => Err(DataError::Parse {
            path: path.to_owned(),
            location: "its top level".to_owned(),
            message: format!("there is no `{key}`"),
        }),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: serde_json::Error, meter: &Meter) -> DataError {
    // What a cap refuses comes as `InvalidData` from below, anything else from the disk.
    let (line, column) = match error.io_error_kind() {
        None => (error.line() as u64, error.column() as u64),
        Some(io::ErrorKind::InvalidData) => (meter.line.get(), meter.column.get()),
        Some(_) => return DataError::io(path, error.into()),
    };
    let message = error.to_string();
    let (reason, _) = message.rsplit_once(" at line ").unwrap_or((&message, ""));
    DataError::Parse {
        path: path.to_owned(),
        location: format!("line {line}, column {column}"),
        message: reason.to_owned(),
    }
}

/// Opens a file of at most [`MAX_FILE_BYTES`], past its byte-order mark.
fn open_capped(path: &Path) -> Result<BufReader<File>, DataError> {
    let io = |source| DataError::io(path, source);
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(DataError::Parse {
            path: path.to_owned(),
            location: "its size".to_owned(),
            message: format!("the file has {bytes} bytes, more than the cap {MAX_FILE_BYTES}"),
        });
    }
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    if reader.fill_buf().map_err(io)?.starts_with(b"\xEF\xBB\xBF") {
        reader.consume(3);
    }
    Ok(reader)
}

/// What reader and visitor tell each other.
struct Meter {
    /// Bytes that may still be read before the element must be over.
    left: Cell<u64>,
    line: Cell<u64>,
    column: Cell<u64>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            left: Cell::new(MAX_ELEMENT_BYTES),
            line: Cell::new(1),
            column: Cell::new(0),
        }
    }
}

/// Counts what goes through. The parser allocates for what it is given; this gives it no more than
/// an element may have.
struct Gauge<'a> {
    inner: BufReader<File>,
    meter: &'a Meter,
    in_string: bool,
    escaped: bool,
    depth: u32,
}

impl Read for Gauge<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let refused = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        for byte in buffer.iter().take(count) {
            self.meter.column.set(self.meter.column.get() + 1);
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                b'\n' => {
                    self.meter.line.set(self.meter.line.get() + 1);
                    self.meter.column.set(0);
                }
                _ => {}
            }
        }
        if self.depth > MAX_DEPTH {
            return Err(refused(format!("nested more than {MAX_DEPTH} deep")));
        }
        let left = self.meter.left.get().checked_sub(count as u64);
        self.meter.left.set(left.ok_or_else(|| {
            refused(format!(
                "one element has more than {MAX_ELEMENT_BYTES} bytes"
            ))
        })?);
        Ok(count)
    }
}

/// Where elements go.
struct Sink<'a> {
    each: &'a mut dyn FnMut(Element<'_>) -> Result<(), DataError>,
    meter: &'a Meter,
    elements: u64,
    failed: Option<DataError>,
}

impl Sink<'_> {
    fn give(&mut self, key: &str, number: u64, json: &RawValue) -> Result<(), String> {
        self.meter.left.set(MAX_ELEMENT_BYTES);
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(format!("more than {MAX_ELEMENTS} elements"));
        }
        (self.each)(Element { key, number, json }).map_err(|error| {
            let message = error.to_string();
            self.failed = Some(error);
            message
        })
    }
}

struct Top<'a, 'b> {
    layout: Layout,
    sink: &'a mut Sink<'b>,
    /// Set when the first of the parts was seen.
    first: &'a mut bool,
}

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.layout {
            Layout::List => "a list",
            Layout::Entries | Layout::Parts(_) => "an object",
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        match self.layout {
            Layout::List => elements("", list, self.sink),
            _ => Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if matches!(self.layout, Layout::List) {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self));
        }
        let mut number = 0;
        while let Some(key) = map.next_key::<String>()? {
            number += 1;
            let take = match self.layout {
                Layout::Entries | Layout::List => Some(Take::Whole),
                Layout::Parts(parts) => {
                    *self.first |= parts.first().is_some_and(|(first, _)| *first == key);
                    let part = parts.iter().find(|(part, _)| *part == key);
                    part.map(|(_, take)| *take)
                }
            };
            match take {
                Some(Take::Whole) => {
                    let json: Box<RawValue> = map.next_value()?;
                    let given = self.sink.give(&key, number, &json);
                    given.map_err(A::Error::custom)?;
                }
                Some(Take::Each) => map.next_value_seed(Each {
                    key: &key,
                    sink: self.sink,
                })?,
                None => {
                    // What is skipped is not kept, and may be of any size.
                    self.sink.meter.left.set(MAX_FILE_BYTES);
                    map.next_value::<IgnoredAny>()?;
                }
            }
            self.sink.meter.left.set(MAX_ELEMENT_BYTES);
        }
        Ok(())
    }
}

/// The elements of a list under a key.
struct Each<'a, 'b> {
    key: &'a str,
    sink: &'a mut Sink<'b>,
}

impl<'de> DeserializeSeed<'de> for Each<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Each<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list as `{}`", self.key)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        elements(self.key, list, self.sink)
    }
}

fn elements<'de, A: SeqAccess<'de>>(
    key: &str,
    mut list: A,
    sink: &mut Sink<'_>,
) -> Result<(), A::Error> {
    let mut number = 0;
    while let Some(json) = list.next_element::<Box<RawValue>>()? {
        number += 1;
        sink.give(key, number, &json).map_err(A::Error::custom)?;
    }
    Ok(())
}

/// Hands out the lines of a text file that are not blank, with their numbers from 1, or why a line
/// cannot be used.
///
/// # Errors
/// When the file cannot be read or is above [`MAX_FILE_BYTES`]; and the first error of `each`.
pub(super) fn lines(
    path: &Path,
    mut each: impl FnMut(u64, Result<&str, String>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let io = |source| DataError::io(path, source);
    let mut reader = open_capped(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = (&mut reader)
            .take(MAX_ELEMENT_BYTES + 1)
            .read_until(b'\n', &mut line)
            .map_err(io)?;
        if read == 0 {
            break;
        }
        if read as u64 > MAX_ELEMENT_BYTES && line.last() != Some(&b'\n') {
            reader.skip_until(b'\n').map_err(io)?;
            each(
                number,
                Err(format!("the line has more than {MAX_ELEMENT_BYTES} bytes")),
            )?;
            continue;
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            let text = std::str::from_utf8(text);
            each(
                number,
                text.map_err(|_| "the line is not UTF-8 text".to_owned()),
            )?;
        }
    }
    Ok(())
}

/// A name that files write as a whole number or as a string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(pub(super) String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id, that is a whole number from 0 or a string")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                match text.trim() {
                    "" => Err(E::custom("an id is empty")),
                    text => Ok(Id(text.to_owned())),
                }
            }
        }
        json.deserialize_any(IdVisitor)
    }
}
