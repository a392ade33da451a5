//! Rows to samples: merges rows of one picture, judges texts, keeps account of refusals.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{MAX_TEXT_CHARS, OpenOptions, Opened, name_of};
use crate::check::Quarantine;
use crate::dataset::{Dataset, ImageSource, Origin, Place, Sample, Split, Unit};
use crate::decode::MAX_FILE_BYTES;
use crate::error::DataError;

/// The picture of a row.
pub(super) enum Picture {
    /// A path as the table writes it.
    Named(String),
    /// A path that was already found on disk, with the id to use.
    Found { id: String, path: PathBuf },
    /// Bytes in the table, with their file name when the table has one.
    Stored {
        name: Option<String>,
        bytes: Vec<u8>,
    },
}

/// One row, read but not judged.
pub(super) struct RawRow {
    /// Its place in units of the collector, from 1.
    pub(super) number: u64,
    pub(super) picture: Picture,
    pub(super) texts: Vec<String>,
    /// The split as the table has it.
    pub(super) split: Option<Split>,
}

pub(super) struct Collector {
    file: PathBuf,
    root: PathBuf,
    /// What a number counts.
    unit: Unit,
    samples: Vec<Sample>,
    index: HashMap<String, usize>,
    quarantine: Quarantine,
}

impl Collector {
    pub(super) fn new(file: &Path, options: &OpenOptions, unit: Unit) -> Self {
        let beside = file.parent().unwrap_or(Path::new(""));
        Self {
            file: file.to_owned(),
            root: options
                .image_root
                .clone()
                .unwrap_or_else(|| beside.to_owned()),
            unit,
            samples: Vec::new(),
            index: HashMap::new(),
            quarantine: Quarantine::default(),
        }
    }

    /// Refuses a row as a whole.
    pub(super) fn refuse(&mut self, number: u64, id: &str, reason: impl Into<String>) {
        let place = self.place(number);
        self.quarantine
            .push(id, &self.file, place.to_string(), reason);
    }

    /// Refuses something that is no row of the table, for example a picture without text.
    pub(super) fn refuse_file(&mut self, id: &str, path: &Path, reason: impl Into<String>) {
        self.quarantine.push(id, path, "", reason);
    }

    pub(super) fn add(&mut self, row: RawRow) {
        let RawRow {
            number,
            picture,
            texts,
            split,
        } = row;
        let (id, image) = match self.locate(picture) {
            Ok(found) => found,
            Err(reason) => return self.refuse(number, "", reason),
        };
        let mut usable = Vec::with_capacity(texts.len());
        if texts.is_empty() {
            self.refuse(number, &id, "no text");
        }
        for text in texts {
            match judge(&text) {
                Ok(text) => usable.push(text),
                Err(reason) => self.refuse(number, &id, reason),
            }
        }
        if usable.is_empty() {
            return;
        }
        if let Some(sample) = self
            .index
            .get(&id)
            .and_then(|index| self.samples.get_mut(*index))
        {
            match split {
                // A picture on both sides would be tested on what it was trained with.
                Some(split) if split != sample.split => {
                    let reason = format!(
                        "the image is already in split `{}`, not `{split}`",
                        sample.split
                    );
                    self.refuse(number, &id, reason);
                }
                _ => sample.texts.extend(usable),
            }
            return;
        }
        let place = self.place(number);
        self.index.insert(id.clone(), self.samples.len());
        self.samples.push(Sample {
            split: split.unwrap_or_else(|| Split::by_hash(&id)),
            id,
            image,
            texts: usable,
            origin: Origin {
                file: Some(self.file.clone()),
                place: Some(place),
            },
        });
    }

    pub(super) fn finish(self) -> Result<Opened, DataError> {
        if self.samples.is_empty() {
            return Err(DataError::Empty {
                path: self.file,
                rejected: self.quarantine.len(),
                first_reason: self
                    .quarantine
                    .entries
                    .into_iter()
                    .next()
                    .map(|entry| entry.reason),
            });
        }
        let dataset = Dataset {
            name: name_of(&self.file),
            samples: self.samples,
        };
        Ok(Opened {
            dataset,
            quarantine: self.quarantine,
        })
    }

    fn place(&self, number: u64) -> Place {
        Place {
            unit: self.unit,
            number,
        }
    }

    fn locate(&self, picture: Picture) -> Result<(String, ImageSource), String> {
        match picture {
            Picture::Named(name) => {
                let name = name.trim();
                let name = name.strip_prefix("./").unwrap_or(name);
                if name.is_empty() {
                    return Err("no image path".to_owned());
                }
                if name.starts_with("http://") || name.starts_with("https://") {
                    return Err(format!(
                        "`{name}` is a web address; download the image first"
                    ));
                }
                Ok((name.to_owned(), ImageSource::Path(self.root.join(name))))
            }
            Picture::Found { id, path } => Ok((id, ImageSource::Path(path))),
            Picture::Stored { name, bytes } => {
                if bytes.is_empty() {
                    return Err("the image cell is empty".to_owned());
                }
                let size = bytes.len() as u64;
                if size > MAX_FILE_BYTES {
                    return Err(format!(
                        "the image cell has {size} bytes, more than the cap {MAX_FILE_BYTES}"
                    ));
                }
                let id = name.filter(|name| !name.trim().is_empty());
                let id =
                    id.unwrap_or_else(|| blake3::hash(&bytes).to_hex().chars().take(32).collect());
                Ok((id, ImageSource::Bytes(Arc::from(bytes))))
            }
        }
    }
}

/// The text without surrounding space, or the reason why it is none.
fn judge(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("empty text".to_owned());
    }
    let chars = text.chars().count();
    if chars > MAX_TEXT_CHARS {
        return Err(format!(
            "text has {chars} characters, more than the cap 10,000"
        ));
    }
    Ok(text.to_owned())
}
