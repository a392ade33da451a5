//! Pictures and clips with texts, from the formats they are kept in.
//!
//! One file a format; [`FORMATS`] is the list of them, and how each is recognised stands in its file.
//!
//! # Rules that hold for every format
//!
//! * Paths of pictures are relative to [`OpenOptions::image_root`], else to the file's folder or to
//!   `images/` in it. Formats with an official layout look into its folders as well.
//! * Rows that name the same picture become one sample with several texts. Rows with an answer or a
//!   label are samples of their own; the picture is then their group.
//! * The id of a sample is the picture's path as written (without a leading `./`). A picture stored
//!   in the table without a path has the blake3 digest of its bytes as id.
//! * A row with an author is a sample of its own as well: a post.
//! * Without a split column a file or folder that is named after a split (`train.jsonl`) is that split;
//!   otherwise the split is [`Split::by_hash`] of the author, group or id, the first that there is: 85 %
//!   train, 5 % val, 10 % test. Posts of an author are then all on one side.
//! * A row that cannot be used goes to the quarantine list with its place and reason. The picture
//!   files themselves are not opened here, see [`crate::check()`].

mod align_bench;
mod arrow;
mod beside;
mod clips;
mod coco;
mod collect;
mod columns;
mod csv;
mod entities;
mod folder;
mod gqa;
pub(crate) mod instances;
mod json;
mod jsonl;
mod judgements;
mod karpathy;
mod lsmdc;
mod mdid;
mod memes;
mod msrvtt;
mod news;
mod nlvr;
mod parquet;
mod pattern;
mod phrases;
mod preview;
mod refcoco;
mod regions;
mod rows;
mod snli_ve;
mod splits;
mod thrift;
mod trc;
mod twitter100k;
mod vgqa;
mod vqa;
mod webdataset;

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::check::Quarantine;
use crate::dataset::{Dataset, Split};
use crate::error::DataError;

pub use columns::Role;
pub use folder::pictures;
pub use preview::{Chosen, choose_columns};
pub use rows::{Record, Table, TableKind};
pub use trc::clean_post;

/// Longest text that is taken, in characters. No caption is this long; a cell that is holds
/// something else.
pub const MAX_TEXT_CHARS: usize = 10_000;

/// What the person said about the source; everything else is found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Name of the format, one of [`FORMATS`]. Default: the first that recognises the source.
    pub format: Option<String>,
    /// The other part of the data, where a format keeps it apart: the answers of VQA v2, the
    /// instances of COCO, the Karpathy split file that phrases or judgements speak of, the folder of
    /// boxes of Flickr30k Entities. Default: what stands beside the source under its usual name.
    pub annotations: Option<PathBuf>,
    /// Column of the picture. Default: the first of `image`, `image_path`, `filepath`, `file`,
    /// `filename`, `path`, `img`, `image_file` (in any case) that exists.
    pub image_column: Option<String>,
    /// Column of the text. Default: the first of `text`, `caption`, `captions`, `sentence`, `title`,
    /// `description`, `alt` that exists.
    pub text_column: Option<String>,
    /// Column of the split. Default: `split` when it exists.
    pub split_column: Option<String>,
    /// Column of the answer to a question. Default: `answer` or `answers` when one exists.
    pub answer_column: Option<String>,
    /// Column of a row's class. Default: `label`, `gold_label` or `class` when one exists.
    pub label_column: Option<String>,
    /// Column of the words that are written in the picture. Default: `ocr` or `ocr_text` when one exists.
    pub ocr_column: Option<String>,
    /// Column of what a machine says of the picture. Default: `image_caption`, `auto_caption` or
    /// `caption` when one exists and is not the text.
    pub caption_column: Option<String>,
    /// Column of who wrote the row, any key. Default: `author` or `author_id` when one exists.
    pub author_column: Option<String>,
    /// Column that says, as 0 or 1, whether the text is shown in the picture; it goes with
    /// `adds_column`. Default: `text_is_represented` when it exists.
    pub represented_column: Option<String>,
    /// Column that says, as 0 or 1, whether the picture adds to the text. Default: `image_adds` when
    /// it exists.
    pub adds_column: Option<String>,
    /// Folder that picture paths are relative to. Default: the folder of the table.
    pub image_root: Option<PathBuf>,
    /// Features of regions for the pictures: a folder of `.npz` files or a `.tsv` table, see
    /// [`crate::regions`]. Samples without them are then set aside. Default: none.
    pub regions: Option<PathBuf>,
    /// Table with the columns `id` and `split`, whose splits count instead of the source's.
    pub splits: Option<PathBuf>,
}

/// A source that was read.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The usable rows, at least one.
    pub dataset: Dataset,
    /// The others.
    pub quarantine: Quarantine,
}

/// A format that can be read.
pub struct Format {
    /// How it is named in options and messages, for example `karpathy`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// Whether a source is of this format. Must not fail: what cannot be read is not recognised.
    recognises: fn(&Source) -> bool,
    open: fn(&Source, &OpenOptions) -> Result<Opened, DataError>,
}

/// Every format, in the order in which a source is tried: the particular before the general.
pub const FORMATS: &[Format] = &[
    arrow::FORMAT,
    msrvtt::FORMAT,
    lsmdc::FORMAT,
    karpathy::FORMAT,
    vqa::FORMAT,
    refcoco::FORMAT,
    coco::FORMAT,
    gqa::FORMAT,
    vgqa::FORMAT,
    nlvr::FORMAT,
    snli_ve::FORMAT,
    phrases::FORMAT,
    entities::FORMAT,
    align_bench::FORMAT,
    judgements::FORMAT,
    trc::FORMAT,
    trc::RELABELLED_FORMAT,
    mdid::FORMAT,
    memes::FORMAT,
    news::FORMAT,
    jsonl::ARRAY,
    jsonl::LINES,
    csv::FORMAT,
    parquet::FORMAT,
    webdataset::FORMAT,
    regions::FORMAT,
    twitter100k::FORMAT,
    folder::FORMAT,
];

/// Bytes at the start of a file by which formats are recognised.
const HEAD_BYTES: u64 = 64 << 10;

/// What is known of a source before any format reads it.
pub struct Source {
    /// As it was given: a file, a folder or a pattern.
    pub path: PathBuf,
    /// The files that it names; none for a folder.
    pub files: Vec<PathBuf>,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// The extension in lower case, without its dot; empty for a folder and for several files.
    pub extension: String,
    /// The first bytes of a file, without a byte-order mark; empty for a folder and for several files.
    pub head: Vec<u8>,
}

impl Source {
    /// Looks at a path. One that does not exist is taken for a pattern if it can be one.
    ///
    /// # Errors
    /// If it cannot be read, or matches nothing.
    pub fn look(path: &Path) -> Result<Self, DataError> {
        let io = |source| DataError::io(path, source);
        let is_folder = match std::fs::metadata(path) {
            Ok(meta) => meta.is_dir(),
            Err(_) if pattern::is_pattern(path) => {
                return match pattern::expand(path)?.as_slice() {
                    [one] => Self::look(one),
                    several => Ok(Self {
                        path: path.to_owned(),
                        files: several.to_vec(),
                        is_folder: false,
                        extension: String::new(),
                        head: Vec::new(),
                    }),
                };
            }
            Err(error) => return Err(io(error)),
        };
        let mut head = Vec::new();
        if !is_folder {
            let file = std::fs::File::open(path).map_err(io)?;
            file.take(HEAD_BYTES).read_to_end(&mut head).map_err(io)?;
            if head.starts_with(b"\xEF\xBB\xBF") {
                head.drain(..3);
            }
        }
        let extension = path.extension().filter(|_| !is_folder);
        Ok(Self {
            path: path.to_owned(),
            files: if is_folder {
                Vec::new()
            } else {
                vec![path.to_owned()]
            },
            is_folder,
            extension: extension
                .map(|extension| extension.to_string_lossy().to_lowercase())
                .unwrap_or_default(),
            head,
        })
    }

    /// Whether the extension is one of these.
    fn has_extension(&self, extensions: &[&str]) -> bool {
        extensions.contains(&self.extension.as_str())
    }

    /// Whether the head of a text file begins, after blanks, with `first`.
    fn begins_with(&self, first: u8) -> bool {
        self.head.trim_ascii_start().first() == Some(&first)
    }

    /// Whether the head of a file holds `text`, for example a key with its quotes.
    fn head_has(&self, text: &str) -> bool {
        memchr::memmem::find(&self.head, text.as_bytes()).is_some()
    }
}

/// Reads a file or folder of pictures with texts.
///
/// # Errors
///
/// When the source as a whole cannot be used: it is missing, of an unknown format, has no column
/// for a role, or holds no usable row.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let source = Source::look(path)?;
    let format = recognise(&source, options)?;
    let mut opened = if source.files.len() > 1 && !(format.recognises)(&source) {
        open_several(&source, options)?
    } else {
        (format.open)(&source, options)?
    };
    if let Some(splits) = &options.splits {
        splits::apply(splits, &mut opened.dataset)?;
    }
    match &options.regions {
        Some(regions) => crate::regions::attach(opened, regions),
        None => Ok(opened),
    }
}

/// Reads files that are each a data set of its own, such as `{train,test}.jsonl`, as one. A sample
/// whose id an earlier file has as well gets the name of its file before it.
///
/// # Errors
/// The first file that cannot be used.
fn open_several(source: &Source, options: &OpenOptions) -> Result<Opened, DataError> {
    let folder = source.path.parent().unwrap_or(Path::new(""));
    let mut all = Opened {
        dataset: Dataset {
            name: name_of(folder),
            samples: Vec::new(),
        },
        quarantine: Quarantine::default(),
    };
    let mut known = HashSet::new();
    for file in &source.files {
        let source = Source::look(file)?;
        let Opened {
            dataset,
            quarantine,
        } = (recognise(&source, options)?.open)(&source, options)?;
        for mut sample in dataset.samples {
            if !known.insert(sample.id.clone()) {
                sample.id = format!("{}/{}", dataset.name, sample.id);
                known.insert(sample.id.clone());
            }
            all.dataset.samples.push(sample);
        }
        all.quarantine.entries.extend(quarantine.entries);
    }
    Ok(all)
}

/// The format that the options name, or the first that recognises the source; of several files that
/// are no format together, that of the first.
///
/// # Errors
/// If there is none.
pub fn recognise(source: &Source, options: &OpenOptions) -> Result<&'static Format, DataError> {
    let format = match &options.format {
        Some(name) => FORMATS.iter().find(|format| format.name == name),
        None => FORMATS.iter().find(|format| (format.recognises)(source)),
    };
    if let (None, None, [first, _, ..]) = (format, &options.format, source.files.as_slice()) {
        return recognise(&Source::look(first)?, options);
    }
    format.ok_or_else(|| DataError::UnknownFormat {
        path: source.path.clone(),
        detail: match (&options.format, source.extension.as_str()) {
            (Some(name), _) => format!(": there is no format `{name}`"),
            (None, "") => String::new(),
            (None, extension) => format!(": `.{extension}`"),
        },
    })
}

/// The names of all formats, for a message.
pub(crate) fn format_names() -> String {
    let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
    names.join(", ")
}

/// The name of a data set: the file's or folder's name without its extension.
fn name_of(path: &Path) -> String {
    let name = path.file_stem().or_else(|| path.file_name());
    name.map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The split that a file or folder name says: `captions_val2014`, `testdev_balanced_questions`,
/// `test-dev2015`, `test1`.
fn split_in_name(name: &str) -> Option<Split> {
    let words = || {
        name.split(|c: char| !c.is_ascii_alphabetic())
            .filter(|word| !word.is_empty())
    };
    let pairs = words().zip(words().skip(1));
    let pair = pairs
        .map(|(one, two)| format!("{one}_{two}"))
        .find_map(|pair| pair.parse().ok());
    pair.or_else(|| words().find_map(|word| word.parse().ok()))
}

/// The split that the name of a file says, else that of its folder.
fn split_in_path(path: &Path) -> Option<Split> {
    let folder = path.parent().unwrap_or(Path::new(""));
    [path, folder]
        .into_iter()
        .filter_map(Path::file_name)
        .find_map(|name| split_in_name(&name.to_string_lossy()))
}

/// The split as written, or the reason why it is none.
fn parse_split(text: &str) -> Result<Split, String> {
    text.trim()
        .parse()
        .map_err(|error: crate::dataset::UnknownSplit| error.to_string())
}
