//! One's own pictures and texts, from the formats they are kept in.
//!
//! | format | recognised by | file |
//! |---|---|---|
//! | CSV, TSV | `.csv`, `.tsv`, `.tab` | `csv.rs` |
//! | JSON lines, JSON array of objects | `.jsonl`, `.ndjson`, `.json` that starts with `[` | `jsonl.rs` |
//! | Parquet | `.parquet`, `.pq` | `parquet.rs` |
//! | Karpathy splits | `.json` that starts with `{`, or a folder with one `dataset_*.json` | `karpathy.rs` |
//! | folder of `name.jpg` + `name.txt` | any other folder | `folder.rs` |
//!
//! # Rules that hold for every table
//!
//! * Paths of pictures are relative to [`OpenOptions::image_root`], else to the table's folder.
//! * Rows that name the same picture become one sample with several texts.
//! * The id of a sample is the picture's path as written (without a leading `./`). A picture stored
//!   in the table without a path has the blake3 digest of its bytes as id.
//! * Without a split column the split is [`Split::by_hash`] of the id: 85 % train, 5 % val, 10 % test.
//! * A row that cannot be used goes to the quarantine list with its place and reason. The picture
//!   files themselves are not opened here, see [`crate::check()`].

mod collect;
mod columns;
mod csv;
mod folder;
mod jsonl;
mod karpathy;
mod parquet;

use std::path::{Path, PathBuf};

use crate::check::Quarantine;
use crate::dataset::{Dataset, Split};
use crate::error::DataError;

/// Longest text that is taken, in characters. No caption is this long; a cell that is holds
/// something else.
pub const MAX_TEXT_CHARS: usize = 10_000;

/// What the person said about the source; everything else is found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Column of the picture. Default: the first of `image`, `image_path`, `filepath`, `file`,
    /// `filename`, `path`, `img`, `image_file` (in any case) that exists.
    pub image_column: Option<String>,
    /// Column of the text. Default: the first of `text`, `caption`, `captions`, `sentence`, `title`,
    /// `description`, `alt` that exists.
    pub text_column: Option<String>,
    /// Column of the split. Default: `split` when it exists.
    pub split_column: Option<String>,
    /// Folder that picture paths are relative to. Default: the folder of the table.
    pub image_root: Option<PathBuf>,
}

/// A source that was read.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The usable rows, at least one.
    pub dataset: Dataset,
    /// The others.
    pub quarantine: Quarantine,
}

/// Reads a file or folder of pictures with texts.
///
/// # Errors
///
/// When the source as a whole cannot be used: it is missing, of an unknown format, has no column
/// for a role, or holds no usable row.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let meta = std::fs::metadata(path).map_err(|source| DataError::io(path, source))?;
    if meta.is_dir() {
        return match karpathy::find(path)? {
            Some(file) => karpathy::open(&file, options),
            None => folder::open(path),
        };
    }
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    match extension.as_str() {
        "csv" | "tsv" | "tab" => csv::open(path, options),
        "jsonl" | "ndjson" => jsonl::open_lines(path, options),
        "parquet" | "pq" => parquet::open(path, options),
        "json" => {
            let bytes = std::fs::read(path).map_err(|source| DataError::io(path, source))?;
            match bytes.trim_ascii_start().first() {
                Some(b'[') => jsonl::open_array(path, &bytes, options),
                Some(b'{') => karpathy::parse(path, &bytes, options),
                _ => Err(DataError::Parse {
                    path: path.to_owned(),
                    location: "its start".to_owned(),
                    message: "neither a list of rows nor an object with `images`".to_owned(),
                }),
            }
        }
        _ => Err(DataError::UnknownFormat {
            path: path.to_owned(),
            detail: if extension.is_empty() {
                String::new()
            } else {
                format!(": `.{extension}`")
            },
        }),
    }
}

/// The name of a data set: the file's or folder's name without its extension.
fn name_of(path: &Path) -> String {
    let name = path.file_stem().or_else(|| path.file_name());
    name.map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The split as written, or the reason why it is none.
fn parse_split(text: &str) -> Result<Split, String> {
    text.trim()
        .parse()
        .map_err(|error: crate::dataset::UnknownSplit| error.to_string())
}
