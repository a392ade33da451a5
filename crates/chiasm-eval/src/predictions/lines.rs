//! Predictions as JSON lines: an object that says what follows, then one object a row.
//!
//! The first line names the number of rows, so that a file cut between two lines is told from a whole one.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use chiasm_data::atomic::write_atomically;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{METADATA_KEY, PredictionsError};

/// Longest line that is read. A row takes hundreds of bytes; the first line holds what an audit found, about 100 bytes
/// each.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Header<I> {
    #[serde(rename = "chiasm.predictions")]
    kind: String,
    version: u32,
    rows: usize,
    #[serde(flatten)]
    info: I,
}

/// Read first, so that a newer file with other fields is told apart from a broken one.
#[derive(Deserialize)]
struct HeaderStart {
    #[serde(rename = "chiasm.predictions")]
    kind: String,
    version: u32,
}

/// Checks every row, then writes the file at `path`, whole or not at all; an existing file is replaced.
pub(super) fn write<I: Serialize, R: Serialize>(
    path: &Path,
    kind: &str,
    version: u32,
    info: &I,
    rows: &[R],
    mut check: impl FnMut(&R) -> Result<(), String>,
) -> Result<(), PredictionsError> {
    for (line, row) in (2..).zip(rows) {
        check(row).map_err(|what| fail(path, line, what))?;
    }
    write_atomically(path, |partial| -> io::Result<()> {
        let mut file = BufWriter::new(File::create(partial)?);
        let header = Header {
            kind: kind.to_owned(),
            version,
            rows: rows.len(),
            info,
        };
        serde_json::to_writer(&mut file, &header)?;
        file.write_all(b"\n")?;
        for row in rows {
            serde_json::to_writer(&mut file, row)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    })
    .map_err(|source| PredictionsError::Io {
        path: path.to_owned(),
        action: "write",
        source,
    })
}

/// What is wrong with a line, counted from 1.
pub(super) fn fail(path: &Path, line: usize, what: String) -> PredictionsError {
    PredictionsError::Line {
        path: path.to_owned(),
        line,
        what,
    }
}

/// The kind of predictions that the first line announces.
pub(crate) fn kind(path: &Path) -> Result<String, PredictionsError> {
    let mut lines = Lines::new(path)?;
    lines.advance()?;
    lines.start().map(|start| start.kind)
}

/// A file being read line by line: every failure names its path and line.
pub(super) struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    buffer: Vec<u8>,
    /// The line in `buffer`, from 1.
    line: usize,
    rows: usize,
}

impl Lines {
    /// Opens a file of `kind` up to version `newest`; what its first line says, and the rows to come.
    pub(super) fn open<I: DeserializeOwned>(
        path: &Path,
        kind: &str,
        newest: u32,
    ) -> Result<(Self, I), PredictionsError> {
        let mut lines = Self::new(path)?;
        lines.advance()?;
        let start = lines.start()?;
        if start.kind != kind {
            return Err(lines.metadata(format!(
                "its first line announces `{}`, not `{kind}`",
                start.kind
            )));
        }
        if start.version == 0 || start.version > newest {
            return Err(PredictionsError::Version {
                path: path.to_owned(),
                found: start.version,
                newest,
            });
        }
        let header: Header<I> = lines.parse()?;
        lines.rows = header.rows;
        Ok((lines, header.info))
    }

    /// All rows, each read and checked before the next one is.
    pub(super) fn rows<R: DeserializeOwned>(
        mut self,
        mut check: impl FnMut(&R) -> Result<(), String>,
    ) -> Result<Vec<R>, PredictionsError> {
        let mut rows = Vec::new();
        while let Some(row) = self.next()? {
            check(&row).map_err(|what| self.fail(what))?;
            rows.push(row);
        }
        Ok(rows)
    }

    /// The next row; `None` after the last of those that the first line promised.
    fn next<R: DeserializeOwned>(&mut self) -> Result<Option<R>, PredictionsError> {
        let (read, rows) = (self.line - 1, self.rows);
        let more = self.advance()?;
        match (more, read < rows) {
            (true, true) => self.parse().map(Some),
            (false, false) => Ok(None),
            (true, false) => Err(self.fail(format!("a line after the last of {rows} rows"))),
            (false, true) => Err(self.fail(format!("the file ends after {read} of {rows} rows"))),
        }
    }

    /// What is wrong with the line read last.
    pub(super) fn fail(&self, what: String) -> PredictionsError {
        fail(&self.path, self.line, what)
    }

    fn new(path: &Path) -> Result<Self, PredictionsError> {
        let file = File::open(path).map_err(|source| unreadable(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            buffer: Vec::new(),
            line: 0,
            rows: 0,
        })
    }

    /// Whether there was another line.
    fn advance(&mut self) -> Result<bool, PredictionsError> {
        self.buffer.clear();
        self.line += 1;
        let mut capped = (&mut self.file).take(MAX_LINE_BYTES);
        let read = capped
            .read_until(b'\n', &mut self.buffer)
            .map_err(|source| unreadable(&self.path, source))?;
        if read as u64 == MAX_LINE_BYTES {
            return Err(self.fail(format!("more than {MAX_LINE_BYTES} bytes")));
        }
        Ok(read > 0)
    }

    fn start(&self) -> Result<HeaderStart, PredictionsError> {
        serde_json::from_slice(&self.buffer).map_err(|error| {
            let reason = reason(&error);
            self.metadata(format!("its first line has no `{METADATA_KEY}`: {reason}"))
        })
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, PredictionsError> {
        serde_json::from_slice(&self.buffer).map_err(|error| self.fail(reason(&error)))
    }

    fn metadata(&self, what: String) -> PredictionsError {
        PredictionsError::Metadata {
            path: self.path.clone(),
            what,
        }
    }
}

fn unreadable(path: &Path, source: io::Error) -> PredictionsError {
    PredictionsError::Io {
        path: path.to_owned(),
        action: "read",
        source,
    }
}

/// What the parser said; its line is always the first of one.
fn reason(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", ", column ")
}

/// Whether a value from outside is a probability or a share. A softmax in f32 may end a little above 1.
pub(super) fn is_probability(value: f64) -> bool {
    (0.0..=1.0 + 1e-4).contains(&value)
}
