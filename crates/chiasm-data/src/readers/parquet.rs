//! Parquet tables, by the row interface.
//!
//! The picture is a path, the encoded bytes, or Hugging Face's `struct { bytes, path }`. Stored
//! pictures are held in memory as they are, encoded, up to [`MAX_HELD_BYTES`]: pages are compressed,
//! so there is no place in the file to read one from later. Only the needed columns are read, page by
//! page, one row group after the other. `thrift.rs` looks at what the file asks for before it gets it.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use chiasm_format::{ByteSource, FormatError};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::collect::{Collector, Picture, RawRow, RowLabels};
use super::columns::{Columns, Role};
use super::{Format, OpenOptions, Opened, parse_split, thrift};
use crate::dataset::Unit;
use crate::error::DataError;

/// Cap on the stored pictures of a table.
const MAX_HELD_BYTES: u64 = 4 << 30;

pub(super) const FORMAT: Format = Format {
    name: "parquet",
    what: "Parquet table (.parquet)",
    recognises: |source| source.has_extension(&["parquet", "pq"]),
    open: |source, options| open(&source.path, options),
};

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    // The Parquet crate has asserts on its way; a damaged file must be an error of ours.
    catch_unwind(AssertUnwindSafe(|| read(path, options)))
        .unwrap_or_else(|_| Err(parse_error(path, "an unknown row", "the file is damaged")))
}

/// Opens a table whose footer asks for nothing that the file has not.
pub(super) fn table(path: &Path) -> Result<SerializedFileReader<File>, DataError> {
    let refused = |reason: String| parse_error(path, "its metadata", &reason);
    thrift::check_footer(&ByteSource::open(path)?).map_err(refused)?;
    let file = File::open(path).map_err(|source| DataError::io(path, source))?;
    SerializedFileReader::new(file).map_err(|error| refused(error.to_string()))
}

/// [`table`] with a look at all its pages, for reading every column.
pub(super) fn reader(path: &Path) -> Result<SerializedFileReader<File>, DataError> {
    let reader = table(path)?;
    let checked = check_columns(&reader, |_| true, &ByteSource::open(path)?);
    checked.map_err(|reason| parse_error(path, "its metadata", &reason))?;
    Ok(reader)
}

fn read(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let source = ByteSource::open(path)?;
    let refused = |reason: String| parse_error(path, "its metadata", &reason);
    let failed = |error: ParquetError| refused(error.to_string());
    let reader = table(path)?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<String> = schema
        .get_fields()
        .iter()
        .map(|field| field.name().to_owned())
        .collect();
    let columns = Columns::find(path, &names, options)?;
    let fields = schema.get_fields().iter().enumerate();
    let fields = fields
        .filter(|(index, _)| columns.read().any(|column| column == *index))
        .map(|(_, field)| Arc::clone(field));
    let projection = Type::group_type_builder(schema.name())
        .with_fields(fields.collect())
        .build()
        .map_err(failed)?;
    let name = |column: usize| names.get(column).map(String::as_str).unwrap_or_default();
    let roles = Roles {
        image: name(columns.image),
        text: name(columns.text),
        split: columns.split.map(name),
        said: (columns.said.iter())
            .map(|(role, column)| (*role, name(*column)))
            .collect(),
    };
    let is_read = |wanted: usize| columns.read().any(|column| column == wanted);
    check_columns(&reader, is_read, &source).map_err(refused)?;
    let mut held = 0;
    let mut collector = Collector::new(path, options, Unit::Row);
    for (number, row) in (1u64..).zip(reader.get_row_iter(Some(projection)).map_err(failed)?) {
        // An unreadable page leaves nothing to go on with: the rows after it have no known place.
        let row =
            row.map_err(|error| parse_error(path, &format!("row {number}"), &error.to_string()))?;
        match convert(row.into_columns(), number, &roles) {
            Ok(row) => {
                if let Picture::Stored { bytes, .. } = &row.picture {
                    hold(path, &mut held, bytes.len() as u64)?;
                }
                collector.add(row);
            }
            Err(reason) => collector.refuse(number, "", reason),
        }
    }
    collector.finish()
}

/// Looks at rows and pages of the columns that are read.
fn check_columns<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
    is_read: impl Fn(usize) -> bool,
    source: &ByteSource,
) -> Result<(), String> {
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let mut rows = 0u64;
    for group in metadata.row_groups() {
        let more = u64::try_from(group.num_rows()).map_err(|_| "a negative number of rows")?;
        rows = rows.saturating_add(more);
        if rows > source.len() {
            return Err(format!("{rows} rows, more than the file has bytes"));
        }
        for (leaf, chunk) in group.columns().iter().enumerate() {
            let column = schema.get_column_root_idx(leaf);
            if is_read(column) {
                let (start, len) = chunk.byte_range();
                thrift::check_pages(source, start, len)?;
            }
        }
    }
    Ok(())
}

/// Counts a picture that stays in memory.
fn hold(path: &Path, held: &mut u64, bytes: u64) -> Result<(), DataError> {
    *held = held.saturating_add(bytes);
    if *held <= MAX_HELD_BYTES {
        return Ok(());
    }
    let error = FormatError::Unsupported {
        what: format!(
            "the pictures of the table have more than {MAX_HELD_BYTES} bytes, which would stay in memory"
        ),
        hint: "write the table as an Arrow file without compression, or its pictures into WebDataset \
               shards: both are read where they lie",
    };
    Err(error.in_file(path).into())
}

/// Column names by role.
struct Roles<'a> {
    image: &'a str,
    text: &'a str,
    split: Option<&'a str>,
    said: Vec<(Role, &'a str)>,
}

fn convert(cells: Vec<(String, Field)>, number: u64, roles: &Roles<'_>) -> Result<RawRow, String> {
    let mut picture = None;
    let mut texts = None;
    let mut split = None;
    let mut own = RowLabels::default();
    for (name, field) in cells {
        let is = |role: Option<&str>| role == Some(name.as_str());
        if name == roles.image {
            picture = Some(to_picture(field)?);
        } else if name == roles.text {
            texts = Some(to_texts(&field)?);
        } else if is(roles.split) {
            split = Some(parse_split(
                &to_string(&field).ok_or("the split is missing or no string")?,
            )?);
        } else if let Some((role, _)) = roles.said.iter().find(|(_, own)| *own == name)
            && !matches!(field, Field::Null)
        {
            let values = match role {
                Role::Answer => to_texts(&field)?,
                _ => vec![to_string(&field).unwrap_or_else(|| field.to_string())],
            };
            own.take(*role, values)?;
        }
    }
    let picture = picture.ok_or_else(|| format!("`{}` is missing", roles.image))?;
    let texts = texts.ok_or_else(|| format!("`{}` is missing", roles.text))?;
    own.apply(RawRow {
        split,
        ..RawRow::new(number, picture, texts)
    })
}

fn to_picture(field: Field) -> Result<Picture, String> {
    match field {
        Field::Str(path) => Ok(Picture::Named(path)),
        Field::Bytes(bytes) => {
            let bytes = bytes.data();
            // Writers without string annotations store paths as bytes too.
            match std::str::from_utf8(bytes) {
                Ok(path) if image::guess_format(bytes).is_err() && path.len() < 4096 => {
                    Ok(Picture::Named(path.to_owned()))
                }
                _ => Ok(Picture::Stored {
                    name: None,
                    bytes: bytes.to_vec(),
                }),
            }
        }
        Field::Group(group) => {
            let mut name = None;
            let mut bytes = None;
            for (key, field) in group.into_columns() {
                match (key.as_str(), field) {
                    ("path", field) => name = to_string(&field),
                    ("bytes", Field::Bytes(data)) => bytes = Some(data.data().to_vec()),
                    _ => {}
                }
            }
            match (name, bytes) {
                (name, Some(bytes)) => Ok(Picture::Stored { name, bytes }),
                (Some(path), None) => Ok(Picture::Named(path)),
                (None, None) => Err("the image has neither `bytes` nor `path`".to_owned()),
            }
        }
        Field::Null => Err("the image is missing".to_owned()),
        _ => Err("the image is neither a path nor bytes".to_owned()),
    }
}

fn to_texts(field: &Field) -> Result<Vec<String>, String> {
    match field {
        Field::ListInternal(list) => list
            .elements()
            .iter()
            .map(|item| {
                to_string(item)
                    .ok_or_else(|| "the text list holds something other than strings".to_owned())
            })
            .collect(),
        Field::Null => Err("the text is missing".to_owned()),
        other => to_string(other)
            .map(|text| vec![text])
            .ok_or_else(|| "the text is no UTF-8 string".to_owned()),
    }
}

fn to_string(field: &Field) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok().map(str::to_owned),
        _ => None,
    }
}

fn parse_error(path: &Path, location: &str, message: &str) -> DataError {
    DataError::Parse {
        path: path.to_owned(),
        location: location.to_owned(),
        message: message.to_owned(),
    }
}
