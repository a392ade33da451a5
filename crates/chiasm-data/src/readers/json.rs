//! JSON files that need not fit into memory: one element at a time.
//!
//! Owns the caps. A file has at most [`MAX_FILE_BYTES`], an element or line at most
//! [`MAX_ELEMENT_BYTES`], a file at most [`MAX_ELEMENTS`], nested at most [`MAX_DEPTH`] deep.
//!
//! The file is cut at brackets, quotes and commas; what stands between them is parsed by the reader
//! of the format, as its type and only once. So an element that is no JSON, or does not fit its type,
//! costs a row and not the file, and parts that nobody asked for cost hardly any time: of those only
//! brackets and quotes are checked.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use crate::error::DataError;

/// Largest file that is read. The largest of the field, Visual Genome's region graphs and GQA's
/// questions in one file, have 3 GB.
pub(super) const MAX_FILE_BYTES: u64 = 8 << 30;
/// Largest element or line. A picture with all that was ever said of it has a few hundred KB.
pub(super) const MAX_ELEMENT_BYTES: usize = 16 << 20;
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

/// An element of a file, not yet checked to be JSON.
pub(super) struct Element<'a> {
    /// The key that it, or its list, stands under; empty in a list without one.
    pub(super) key: &'a str,
    /// Its position in the list or object, from 1.
    pub(super) number: u64,
    json: &'a [u8],
}

impl<'a> Element<'a> {
    /// The element as a type, or why it is none.
    pub(super) fn parse<T: Deserialize<'a>>(&self) -> Result<T, String> {
        serde_json::from_slice(self.json).map_err(|error| reason(&error))
    }
}

/// JSON text as a type, or why it is none.
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| reason(&error))
}

/// What is wrong without where: the place is one in the element, and would be read as one in the file.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let (reason, _) = message.rsplit_once(" at line ").unwrap_or((&message, ""));
    reason.to_owned()
}

/// Hands out the elements of a file in the order in which they stand there.
///
/// # Errors
/// When the file cannot be read, is not JSON, exceeds a cap or has another layout, with line and
/// column; and the first error of `each`.
pub(super) fn stream(
    path: &Path,
    layout: Layout,
    each: impl FnMut(Element<'_>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut scanner = Scanner {
        path,
        reader: open_capped(path)?,
        offset: 0,
        element: Vec::new(),
        elements: 0,
        each,
    };
    match layout {
        Layout::List => scanner.list("")?,
        Layout::Entries | Layout::Parts(_) => scanner.object(layout)?,
    }
    match scanner.peek()? {
        None => Ok(()),
        Some(_) => Err(scanner.wrong("something follows the end")),
    }
}

/// Where a file is being read.
struct Scanner<'a, F> {
    path: &'a Path,
    reader: BufReader<File>,
    /// Bytes read so far.
    offset: u64,
    /// The element or key that was read last.
    element: Vec<u8>,
    elements: u64,
    each: F,
}

impl<F: FnMut(Element<'_>) -> Result<(), DataError>> Scanner<'_, F> {
    /// The elements of a list.
    fn list(&mut self, key: &str) -> Result<(), DataError> {
        self.expect(b'[', "a list is expected")?;
        if self.peek()? == Some(b']') {
            return self.expect(b']', "");
        }
        for number in 1.. {
            self.value(true)?;
            self.give(key, number)?;
            if !self.goes_on(b']')? {
                break;
            }
        }
        Ok(())
    }

    /// The members of an object.
    fn object(&mut self, layout: Layout) -> Result<(), DataError> {
        let parts = match layout {
            Layout::Parts(parts) => Some(parts),
            Layout::List | Layout::Entries => None,
        };
        let first = parts.and_then(|parts| parts.first()).map(|(key, _)| *key);
        let mut lacks = first;
        self.expect(b'{', "an object is expected")?;
        let empty = self.peek()? == Some(b'}');
        if empty {
            self.expect(b'}', "")?;
        }
        for number in (1..).take_while(|_| !empty) {
            if self.peek()? != Some(b'"') {
                return Err(self.wrong("a key is expected"));
            }
            self.value(true)?;
            let key: String = serde_json::from_slice(&self.element)
                .map_err(|error| self.wrong(&reason(&error)))?;
            self.expect(b':', "`:` is expected")?;
            lacks = lacks.filter(|first| *first != key);
            let take = match parts {
                None => Some(Take::Whole),
                Some(parts) => {
                    let part = parts.iter().find(|(part, _)| *part == key);
                    part.map(|(_, take)| *take)
                }
            };
            match take {
                Some(Take::Each) => self.list(&key)?,
                Some(Take::Whole) => {
                    self.value(true)?;
                    self.give(&key, number)?;
                }
                None => self.value(false)?,
            }
            if !self.goes_on(b'}')? {
                break;
            }
        }
        match lacks {
            Some(key) => Err(self.wrong(&format!("there is no `{key}`"))),
            None => Ok(()),
        }
    }

    fn give(&mut self, key: &str, number: u64) -> Result<(), DataError> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(self.wrong(&format!("more than {MAX_ELEMENTS} elements")));
        }
        (self.each)(Element {
            key,
            number,
            json: &self.element,
        })
    }

    /// The next byte that is no space, without taking it.
    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            let io = |source| DataError::io(self.path, source);
            let buffer = self.reader.fill_buf().map_err(io)?;
            let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            let blanks = buffer.iter().take_while(|byte| blank(byte)).count();
            let (next, end) = (buffer.get(blanks).copied(), buffer.is_empty());
            self.consume(blanks);
            if next.is_some() || end {
                return Ok(next);
            }
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
        self.offset += bytes as u64;
    }

    fn expect(&mut self, byte: u8, otherwise: &str) -> Result<(), DataError> {
        if self.peek()? != Some(byte) {
            return Err(self.wrong(otherwise));
        }
        self.consume(1);
        Ok(())
    }

    /// Whether a comma follows, and not the end of the list or object.
    fn goes_on(&mut self, end: u8) -> Result<bool, DataError> {
        match self.peek()? {
            Some(b',') => self.consume(1),
            Some(byte) if byte == end => {
                self.consume(1);
                return Ok(false);
            }
            _ => {
                let end = char::from(end);
                return Err(self.wrong(&format!("`,` or `{end}` is expected")));
            }
        }
        Ok(true)
    }

    /// Goes past one value, and keeps it when asked to.
    fn value(&mut self, keep: bool) -> Result<(), DataError> {
        self.element.clear();
        let mut cut = match self.peek()? {
            Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => Cut::default(),
            _ => return Err(self.wrong("a value is expected")),
        };
        while !cut.done {
            let io = |source| DataError::io(self.path, source);
            let buffer = self.reader.fill_buf().map_err(io)?;
            if buffer.is_empty() {
                return Err(self.wrong("the file ends in the middle of a value"));
            }
            let taken = cut.of(buffer);
            let fits = !keep || self.element.len() + taken <= MAX_ELEMENT_BYTES;
            if keep && fits {
                let taken = buffer.get(..taken).unwrap_or_default();
                self.element.extend_from_slice(taken);
            }
            self.consume(taken);
            if cut.depth > MAX_DEPTH {
                return Err(self.wrong(&format!("nested more than {MAX_DEPTH} deep")));
            }
            if !fits {
                let reason = format!("one element has more than {MAX_ELEMENT_BYTES} bytes");
                return Err(self.wrong(&reason));
            }
        }
        Ok(())
    }

    fn wrong(&self, message: &str) -> DataError {
        DataError::Parse {
            path: self.path.to_owned(),
            location: place(self.path, self.offset),
            message: message.to_owned(),
        }
    }
}

/// Finds the end of a value that begins with the first byte it is given.
#[derive(Default)]
struct Cut {
    depth: u32,
    in_string: bool,
    /// Whether the next byte is what a backslash makes harmless.
    escaped: bool,
    /// Whether it is a number or a word, which end with what follows them.
    bare: bool,
    done: bool,
}

impl Cut {
    /// How many of these bytes belong to the value. Stops early at its end and where it nests too
    /// deep.
    fn of(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = bytes
            .get(at)
            .filter(|_| !self.done && self.depth <= MAX_DEPTH)
        {
            if self.escaped {
                self.escaped = false;
            } else if self.in_string {
                let rest = bytes.get(at..).unwrap_or_default();
                let Some(skipped) = memchr::memchr2(b'"', b'\\', rest) else {
                    return bytes.len();
                };
                at += skipped;
                self.escaped = bytes.get(at) == Some(&b'\\');
                self.in_string = self.escaped;
                self.done = !self.in_string && self.depth == 0;
            } else {
                match byte {
                    b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r' if self.bare => {
                        self.done = true;
                        return at;
                    }
                    b'"' => self.in_string = true,
                    b'[' | b'{' => self.depth += 1,
                    b']' | b'}' => {
                        self.depth = self.depth.saturating_sub(1);
                        self.done = self.depth == 0;
                    }
                    _ => self.bare |= self.depth == 0,
                }
            }
            at += 1;
        }
        at
    }
}

/// Line and column of a byte, from 1. The file is read again for it: counting lines while reading
/// would cost every file what only damaged ones need.
fn place(path: &Path, offset: u64) -> String {
    let mut line = 1;
    let mut column = 1;
    if let Ok(reader) = open_capped(path) {
        let mut reader = reader.take(offset);
        while let Ok(buffer) = reader.fill_buf()
            && !buffer.is_empty()
        {
            line += memchr::memchr_iter(b'\n', buffer).count();
            column = match memchr::memrchr(b'\n', buffer) {
                Some(last) => buffer.len() - last,
                None => column + buffer.len(),
            };
            let read = buffer.len();
            reader.consume(read);
        }
    }
    format!("line {line}, column {column}")
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
            .take(MAX_ELEMENT_BYTES as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(io)?;
        if read == 0 {
            break;
        }
        if read > MAX_ELEMENT_BYTES && line.last() != Some(&b'\n') {
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
pub(crate) struct Id(pub(crate) String);

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
