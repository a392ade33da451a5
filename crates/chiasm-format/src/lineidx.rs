//! Tables of base64 cells with an index of byte offsets: `tsv` and `lineidx`.
//!
//! The form in which region features of whole data sets are published (bottom-up attention, LXMERT,
//! Oscar and VinVL, ROSITA). A row is one picture. [`LineIndex`] finds rows, [`parse_row`] reads one;
//! this module opens no file.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Cap on a row: 16 MiB, room for a thousand regions of 2,048 numbers in base64.
pub const MAX_LINE_BYTES: u64 = 16 << 20;

/// Cap on the rows of a table.
pub const MAX_ROWS: usize = 16_000_000;

/// Cap on the regions of a picture.
pub const MAX_REGIONS: usize = 1000;

/// Cap on the numbers of a region's feature.
pub const MAX_DIM: usize = 65_536;

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The system failed to read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The index does not fit the table.
    #[error("the index does not fit at row {row}: {reason}")]
    Index {
        /// Row, from 1.
        row: usize,
        /// What is wrong.
        reason: String,
    },
    /// A row is not what it should be.
    #[error("cell `{field}`: {reason}")]
    Cell {
        /// Which cell.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl TableError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Index { .. } => {
                Some("remove the `.lineidx` file; the table is then indexed anew".to_owned())
            }
            Self::Io(_) | Self::Cell { .. } => None,
        }
    }
}

/// Where the rows of a table start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineIndex {
    starts: Vec<u64>,
    /// Length of the table.
    end: u64,
}

impl LineIndex {
    /// Reads a `lineidx` file, the offset of a row on each line, for a table of `table_bytes`.
    ///
    /// # Errors
    /// Offsets that are no numbers, do not start at 0, do not grow, leave more than
    /// [`MAX_LINE_BYTES`] between them, or lie beyond the table.
    pub fn read(index: impl Read, table_bytes: u64) -> Result<Self, TableError> {
        let mut starts = Vec::new();
        let mut lines = Lines::new(index);
        // Twenty digits are the longest number.
        while let Some(line) = lines.next(24)? {
            let row = starts.len() + 1;
            let wrong = |reason: String| TableError::Index { row, reason };
            let text = std::str::from_utf8(line.trim_ascii()).ok();
            let start = text.and_then(|text| text.parse::<u64>().ok());
            let start = start.ok_or_else(|| wrong("no offset".to_owned()))?;
            let last = starts.last().copied();
            if last.is_none() && start != 0 {
                return Err(wrong(format!(
                    "the first row starts at byte {start}, not 0"
                )));
            }
            if last.is_some_and(|last| start <= last) {
                return Err(wrong(format!("offset {start} is not after the one before")));
            }
            if start >= table_bytes {
                return Err(wrong(format!(
                    "offset {start} is beyond the table's {table_bytes} bytes"
                )));
            }
            if start - last.unwrap_or(0) > MAX_LINE_BYTES {
                return Err(wrong(format!("a row of more than {MAX_LINE_BYTES} bytes")));
            }
            if row > MAX_ROWS {
                return Err(wrong(format!("more than {MAX_ROWS} rows")));
            }
            starts.push(start);
        }
        let last = starts.last().copied().unwrap_or(0);
        if table_bytes - last > MAX_LINE_BYTES {
            let (row, reason) = (
                starts.len(),
                format!("a row of more than {MAX_LINE_BYTES} bytes"),
            );
            return Err(TableError::Index { row, reason });
        }
        Ok(Self {
            starts,
            end: table_bytes,
        })
    }

    /// Finds the rows by reading the whole table.
    ///
    /// # Errors
    /// Rows that are too long or too many, or what the system says.
    pub fn scan(table: impl Read) -> Result<Self, TableError> {
        let (mut starts, mut end) = (Vec::new(), 0);
        let mut lines = Lines::new(table);
        while lines.next(0)?.is_some() {
            let row = starts.len() + 1;
            if lines.position - end > MAX_LINE_BYTES || row > MAX_ROWS {
                let reason = format!("more than {MAX_LINE_BYTES} bytes, or than {MAX_ROWS} rows");
                return Err(TableError::Index { row, reason });
            }
            starts.push(end);
            end = lines.position;
        }
        Ok(Self { starts, end })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// First byte and number of bytes of a row, its line end included.
    pub fn get(&self, row: usize) -> Option<(u64, u64)> {
        let start = *self.starts.get(row)?;
        let end = self.starts.get(row + 1).copied().unwrap_or(self.end);
        Some((start, end - start))
    }
}

/// Lines of a file of which only the beginning is kept.
struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    /// End of the last line, its line end included.
    position: u64,
}

impl<R: Read> Lines<R> {
    fn new(file: R) -> Self {
        Self {
            reader: BufReader::with_capacity(1 << 20, file),
            line: Vec::new(),
            position: 0,
        }
    }

    /// The first `keep + 1` bytes of the next line, its line end not included; `None` at the end.
    fn next(&mut self, keep: usize) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let begin = self.position;
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', bytes);
            let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
            let room = (keep + 1).saturating_sub(self.line.len()).min(part.len());
            self.line
                .extend_from_slice(part.get(..room).unwrap_or_default());
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            self.position += used as u64;
            if end.is_some() {
                break;
            }
        }
        Ok((self.position > begin).then_some(self.line.as_slice()))
    }
}

/// What a table says of a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Name or number of the picture.
    pub image_id: String,
    /// Width and height of the picture in pixels, when the table has them.
    pub size: Option<(u32, u32)>,
    /// Number of regions.
    pub count: usize,
    /// Features, `count` times their dimension, which is never 0 unless `count` is.
    pub features: Vec<f32>,
    /// Corners `x1, y1, x2, y2` of each region. Empty when the table has none.
    pub boxes: Vec<[f32; 4]>,
    /// Whether the corners are fractions of the picture and not pixels.
    pub fractions: bool,
    /// Class of each region. Empty when the table has none.
    pub classes: Vec<i64>,
    /// Confidence in the class.
    pub class_scores: Vec<f32>,
    /// Attribute of each region. Empty when the table has none.
    pub attributes: Vec<i64>,
    /// Confidence in the attribute.
    pub attribute_scores: Vec<f32>,
}

/// The name or number of the picture: the first cell of a row, or of the beginning of one. `None` when it
/// does not end there, is empty, or is no text.
pub fn row_id(start: &[u8]) -> Option<&str> {
    let end = memchr::memchr(b'\t', start)?;
    let id = std::str::from_utf8(start.get(..end)?).ok()?.trim();
    (!id.is_empty()).then_some(id)
}

/// Reads a row. Which of the published tables it is from follows from its cells:
///
/// | cells | table |
/// | --- | --- |
/// | `img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features` | LXMERT |
/// | `filename x image_h image_w num_boxes boxes objects_id objects_conf attrs_id attrs_conf` | ROSITA |
/// | `image_id image_w image_h num_boxes boxes features` | bottom-up attention |
/// | `key num_boxes features` | Oscar; the last six numbers of a feature are the box |
/// | `key {"num_boxes": .., "features": ..}` | VinVL; likewise |
///
/// Features, boxes and scores are f32 in base64, classes and attributes i64.
///
/// # Errors
/// Another number of cells, a cell of another length than the number of regions asks for, numbers
/// that are not finite, and what exceeds the caps.
pub fn parse_row(line: &[u8]) -> Result<Row, TableError> {
    if line.len() as u64 > MAX_LINE_BYTES {
        return Err(cell(
            "row",
            format!("{} bytes, more than the cap {MAX_LINE_BYTES}", line.len()),
        ));
    }
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.contains(&b'\n') {
        return Err(cell(
            "row",
            "it holds a line end; the index does not fit the table",
        ));
    }
    // One more than the widest table, so that a longer row is noticed without splitting all of it.
    let cells: Vec<&[u8]> = line.splitn(11, |byte| *byte == b'\t').collect();
    match *cells.as_slice() {
        [
            id,
            second,
            height,
            width,
            count,
            boxes,
            classes,
            class_scores,
            attributes,
            scores,
        ] if integer("image_h", second).is_err() => detections(&Detections {
            id,
            size: [width, height],
            count,
            boxes,
            features: second,
            labels: Some([classes, class_scores, attributes, scores]),
        }),
        [
            id,
            height,
            width,
            classes,
            class_scores,
            attributes,
            scores,
            count,
            boxes,
            features,
        ] => detections(&Detections {
            id,
            size: [width, height],
            count,
            boxes,
            features,
            labels: Some([classes, class_scores, attributes, scores]),
        }),
        [id, width, height, count, boxes, features] => detections(&Detections {
            id,
            size: [width, height],
            count,
            boxes,
            features,
            labels: None,
        }),
        [id, count, features] => features_with_boxes(id, number_of_regions(count)?, features),
        [id, json] => {
            let (count, features) = vinvl(json)?;
            features_with_boxes(id, count, features.as_bytes())
        }
        _ => Err(cell(
            "row",
            format!("{} cells; known tables have 2, 3, 6 or 10", cells.len()),
        )),
    }
}

/// The cells of a table that keeps each thing in one of its own.
struct Detections<'a> {
    id: &'a [u8],
    /// Width and height.
    size: [&'a [u8]; 2],
    count: &'a [u8],
    boxes: &'a [u8],
    features: &'a [u8],
    /// Classes, their scores, attributes, their scores.
    labels: Option<[&'a [u8]; 4]>,
}

fn detections(cells: &Detections<'_>) -> Result<Row, TableError> {
    let count = number_of_regions(cells.count)?;
    let [width, height] = cells.size;
    let size = (integer("image_w", width)?, integer("image_h", height)?);
    if size.0 == 0 || size.1 == 0 {
        return Err(cell("image_w", "a picture of no size"));
    }
    let corners = floats("boxes", cells.boxes, count, Some(4))?;
    let mut row = Row {
        image_id: id_text(cells.id)?,
        size: Some(size),
        count,
        features: floats("features", cells.features, count, None)?,
        boxes: corners.as_chunks::<4>().0.to_vec(),
        ..Row::default()
    };
    if let Some([classes, class_scores, attributes, scores]) = cells.labels {
        row.classes = integers("objects_id", classes, count)?;
        row.class_scores = floats("objects_conf", class_scores, count, Some(1))?;
        row.attributes = integers("attrs_id", attributes, count)?;
        row.attribute_scores = floats("attrs_conf", scores, count, Some(1))?;
    }
    Ok(row)
}

/// Oscar's form: the last six numbers of a feature are `x1, y1, x2, y2, w, h` as fractions. They stay
/// part of the feature, which the models take whole.
fn features_with_boxes(id: &[u8], count: usize, features: &[u8]) -> Result<Row, TableError> {
    let features = floats("features", features, count, None)?;
    let dim = features.len() / count.max(1);
    if count > 0 && dim < 6 {
        return Err(cell(
            "features",
            format!("{dim} numbers a region have no room for a box"),
        ));
    }
    let boxes = features
        .chunks_exact(dim.max(1))
        .filter_map(|feature| feature.get(dim - 6..)?.first_chunk::<4>().copied())
        .collect();
    Ok(Row {
        image_id: id_text(id)?,
        count,
        boxes,
        fractions: true,
        features,
        ..Row::default()
    })
}

fn vinvl(json: &[u8]) -> Result<(usize, Cow<'_, str>), TableError> {
    #[derive(serde::Deserialize)]
    struct Cell<'a> {
        num_boxes: usize,
        #[serde(borrow)]
        features: Cow<'a, str>,
    }
    let found: Cell<'_> =
        serde_json::from_slice(json).map_err(|error| cell("json", error.to_string()))?;
    Ok((within_cap(found.num_boxes)?, found.features))
}

fn id_text(id: &[u8]) -> Result<String, TableError> {
    let text = std::str::from_utf8(id).unwrap_or_default().trim();
    if text.is_empty() || text.len() > 4096 {
        return Err(cell("img_id", "no name or number of a picture"));
    }
    Ok(text.to_owned())
}

fn number_of_regions(text: &[u8]) -> Result<usize, TableError> {
    within_cap(integer("num_boxes", text)? as usize)
}

fn within_cap(count: usize) -> Result<usize, TableError> {
    if count > MAX_REGIONS {
        let reason = format!("{count} regions, more than the cap {MAX_REGIONS}");
        return Err(cell("num_boxes", reason));
    }
    Ok(count)
}

fn integer(field: &'static str, text: &[u8]) -> Result<u32, TableError> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| cell(field, "no number"))
}

/// `count` times `each` finite numbers; without `each`, any equal number for all.
fn floats(
    field: &'static str,
    text: &[u8],
    count: usize,
    each: Option<usize>,
) -> Result<Vec<f32>, TableError> {
    let bytes = decode(field, text)?;
    let (words, rest) = bytes.as_chunks::<4>();
    let each = each.unwrap_or(words.len() / count.max(1));
    if !rest.is_empty() || words.len() != count * each || (each == 0 && count > 0) {
        let reason = format!("{} bytes do not make {count} rows of f32", bytes.len());
        return Err(cell(field, reason));
    }
    if each > MAX_DIM {
        return Err(cell(
            field,
            format!("{each} numbers a region, more than the cap {MAX_DIM}"),
        ));
    }
    let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(cell(field, "a value is not finite"));
    }
    Ok(values)
}

fn integers(field: &'static str, text: &[u8], count: usize) -> Result<Vec<i64>, TableError> {
    let bytes = decode(field, text)?;
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || words.len() != count {
        let reason = format!("{} bytes are not {count} numbers of i64", bytes.len());
        return Err(cell(field, reason));
    }
    Ok(words.iter().map(|word| i64::from_le_bytes(*word)).collect())
}

/// Takes no more memory than three quarters of the cell, which the cap on a row bounds.
fn decode(field: &'static str, text: &[u8]) -> Result<Vec<u8>, TableError> {
    // Python 3 prints bytes so where a writer forgot to decode them.
    let inner = text
        .strip_prefix(b"b'")
        .and_then(|text| text.strip_suffix(b"'"));
    STANDARD
        .decode(inner.unwrap_or(text))
        .map_err(|error| cell(field, format!("not base64: {error}")))
}

fn cell(field: &'static str, reason: impl Into<String>) -> TableError {
    TableError::Cell {
        field,
        reason: reason.into(),
    }
}
