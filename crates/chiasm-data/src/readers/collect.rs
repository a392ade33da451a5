//! Rows to samples: merges rows of one picture, judges texts, keeps account of refusals.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::columns::Role;
use super::{MAX_TEXT_CHARS, OpenOptions, Opened, name_of};
use crate::check::Quarantine;
use crate::dataset::{
    Annotations, Answer, Dataset, ImageSource, Origin, Place, Sample, Split, Unit, Visual,
};
use crate::decode::MAX_FILE_BYTES;
use crate::error::DataError;
use crate::relation::Relation;

/// The picture of a row.
pub(super) enum Picture {
    /// A path as the table writes it.
    Named(String),
    /// What was already found, with the id to use.
    Found { id: String, visual: Visual },
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
    /// Id of a row that is a sample of its own (a question, a statement); its picture's id is then
    /// the group. `None`: rows of one picture are one sample.
    pub(super) id: Option<String>,
    pub(super) annotations: Annotations,
}

impl RawRow {
    /// A row with a picture and its texts, without anything else.
    pub(super) fn new(number: u64, picture: Picture, texts: Vec<String>) -> Self {
        Self {
            number,
            picture,
            texts,
            split: None,
            id: None,
            annotations: Annotations::default(),
        }
    }
}

/// What a table says of a row beside picture and text.
#[derive(Default)]
pub(super) struct RowLabels {
    answers: Vec<String>,
    label: Option<String>,
    ocr: Option<String>,
    caption: Option<String>,
    author: Option<String>,
    represented: Option<bool>,
    adds: Option<bool>,
}

impl RowLabels {
    /// Takes what a cell holds; `values` are several for a list, and none for a cell that is missing.
    ///
    /// # Errors
    /// Why it is not what the role says.
    pub(super) fn take(&mut self, role: Role, values: Vec<String>) -> Result<(), String> {
        if role == Role::Answer {
            self.answers = values;
            return Ok(());
        }
        let mut values = values.into_iter();
        let (value, more) = (values.next(), values.next());
        if more.is_some() {
            return Err(format!("the {} is a list", role.as_str()));
        }
        let filled = |value: Option<String>| value.filter(|value| !value.trim().is_empty());
        match role {
            Role::Label => self.label = value,
            // An empty cell says that there are no words in the picture.
            Role::Ocr => self.ocr = value.map(|text| note(&text, role)).transpose()?,
            Role::Caption => {
                self.caption = filled(value).map(|text| note(&text, role)).transpose()?;
            }
            Role::Author => self.author = filled(value).map(|key| key.trim().to_owned()),
            Role::Represented => {
                self.represented = filled(value).as_deref().map(truth).transpose()?;
            }
            Role::Adds => self.adds = filled(value).as_deref().map(truth).transpose()?,
            Role::Image | Role::Text | Role::Split | Role::Answer => {}
        }
        Ok(())
    }

    /// A row with an answer, a label, a relation or an author is a sample of its own, named by its
    /// place: what is said of it does not hold for other texts of the picture.
    ///
    /// # Errors
    /// Half of a relation.
    pub(super) fn apply(self, row: RawRow) -> Result<RawRow, String> {
        let relation = match (self.represented, self.adds) {
            (Some(represented), Some(adds)) => Some(Relation::new(represented, adds)),
            (None, None) => None,
            (Some(_), None) => return Err("whether the image adds is missing".to_owned()),
            (None, Some(_)) => return Err("whether the text is represented is missing".to_owned()),
        };
        let label = self.label;
        let label = label.or_else(|| relation.map(|relation| relation.name().to_owned()));
        let is_own = !self.answers.is_empty() || label.is_some() || self.author.is_some();
        Ok(RawRow {
            id: match is_own {
                true => Some(row.number.to_string()),
                false => row.id,
            },
            annotations: Annotations {
                answers: count_answers(self.answers),
                label,
                relation,
                ocr: self.ocr,
                caption: self.caption,
                author: self.author,
                ..row.annotations
            },
            ..row
        })
    }
}

/// A text beside the text.
fn note(text: &str, role: Role) -> Result<String, String> {
    let text = text.trim();
    let chars = text.chars().count();
    if chars > MAX_TEXT_CHARS {
        let name = role.as_str();
        return Err(format!(
            "the {name} has {chars} characters, more than the cap 10,000"
        ));
    }
    Ok(text.to_owned())
}

/// A yes or no, as tables write it.
fn truth(cell: &str) -> Result<bool, String> {
    match cell.trim().to_lowercase().as_str() {
        "1" | "1.0" | "true" | "yes" => Ok(true),
        "0" | "0.0" | "false" | "no" => Ok(false),
        _ => Err(format!("`{cell}` is neither 0 nor 1")),
    }
}

/// Equal answers as one with their number, most frequent first, equally frequent ones in the order
/// in which they came.
pub(super) fn count_answers(given: impl IntoIterator<Item = String>) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for text in given {
        match answers.iter_mut().find(|answer| answer.text == text) {
            Some(answer) => answer.count += 1,
            None => answers.push(Answer { text, count: 1 }),
        }
    }
    answers.sort_by_key(|answer| std::cmp::Reverse(answer.count));
    answers
}

pub(super) struct Collector {
    /// What was opened.
    source: PathBuf,
    /// The file that rows come from.
    file: PathBuf,
    /// Where pictures are looked for, in this order.
    folders: Vec<PathBuf>,
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
            source: file.to_owned(),
            file: file.to_owned(),
            folders: folders(beside, options),
            unit,
            samples: Vec::new(),
            index: HashMap::new(),
            quarantine: Quarantine::default(),
        }
    }

    /// Takes rows from another file of the same source from now on.
    pub(super) fn turn_to(&mut self, file: &Path) {
        file.clone_into(&mut self.file);
    }

    /// Looks for pictures in further folders, as far as they are there: those `around` the file,
    /// unless a root was named, and then those `inside` each folder.
    pub(super) fn look_also(&mut self, options: &OpenOptions, around: &[&str], inside: &[&str]) {
        let beside = self.source.parent().unwrap_or(Path::new(""));
        let around = around.iter().filter(|_| options.image_root.is_none());
        let around: Vec<PathBuf> = around.map(|folder| beside.join(folder)).collect();
        let whole = self.folders.iter().chain(&around);
        let inside: Vec<PathBuf> = whole
            .flat_map(|folder| inside.iter().map(|inner| folder.join(inner)))
            .collect();
        let further = around.into_iter().chain(inside);
        self.folders
            .extend(further.filter(|folder| folder.is_dir()));
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
            id: own,
            mut annotations,
        } = row;
        let (picture_id, visual) = match self.locate(picture) {
            Ok(found) => found,
            Err(reason) => return self.refuse(number, own.as_deref().unwrap_or(""), reason),
        };
        let (id, group) = match own {
            Some(own) => (own, Some(picture_id)),
            None => (picture_id, None),
        };
        let mut usable = Vec::with_capacity(texts.len());
        if texts.is_empty() {
            self.refuse(number, &id, "no text");
        }
        // Where each text as given stands among the usable ones.
        let mut places = Vec::with_capacity(texts.len());
        for text in texts {
            match judge(&text) {
                Ok(text) => {
                    places.push(Some(usable.len()));
                    usable.push(text);
                }
                Err(reason) => {
                    places.push(None);
                    self.refuse(number, &id, reason);
                }
            }
        }
        if usable.is_empty() {
            return;
        }
        // A phrase goes with its text.
        annotations.phrases.retain_mut(|phrase| {
            let place = places.get(phrase.text).copied().flatten();
            phrase.text = place.unwrap_or(phrase.text);
            place.is_some()
        });
        if let Some(sample) = self
            .index
            .get(&id)
            .and_then(|index| self.samples.get_mut(*index))
        {
            let twice = group.is_some();
            match split {
                _ if twice => self.refuse(number, &id, "the id was already used"),
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
            split: split
                .or_else(|| split_of_name(&self.file))
                .unwrap_or_else(|| {
                    let author = annotations.author.as_ref();
                    Split::by_hash(author.or(group.as_ref()).unwrap_or(&id))
                }),
            id,
            visual,
            texts: usable,
            group,
            annotations,
            origin: Origin {
                file: Some(self.file.clone()),
                place: Some(place),
            },
        });
    }

    pub(super) fn finish(self) -> Result<Opened, DataError> {
        if self.samples.is_empty() {
            return Err(DataError::Empty {
                path: self.source,
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
            name: name_of(&self.source),
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

    /// The file of a picture that is named: the first place where it is, or, if it is nowhere, the
    /// first place, so that the check can say where it was expected.
    pub(super) fn find(&self, name: &str) -> PathBuf {
        self.find_any(&[name])
    }

    /// [`Self::find`] for a picture that goes by several names.
    pub(super) fn find_any<S: AsRef<str>>(&self, names: &[S]) -> PathBuf {
        let mut places = (self.folders.iter())
            .flat_map(|folder| names.iter().map(|name| folder.join(name.as_ref())));
        let first = places.clone().next().unwrap_or_default();
        // One place needs no look at the disk.
        if self.folders.len() == 1 && names.len() == 1 {
            return first;
        }
        places.find(|path| path.is_file()).unwrap_or(first)
    }

    fn locate(&self, picture: Picture) -> Result<(String, Visual), String> {
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
                Ok((name.to_owned(), Visual::of_file(self.find(name))))
            }
            Picture::Found { id, visual } => Ok((id, visual)),
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
                Ok((id, ImageSource::Bytes(Arc::from(bytes)).into()))
            }
        }
    }
}

/// Where the pictures of a file in `beside` are: the folder that was named, else `images/` there if
/// there is one, and the folder itself.
fn folders(beside: &Path, options: &OpenOptions) -> Vec<PathBuf> {
    if let Some(root) = &options.image_root {
        return vec![root.clone()];
    }
    let images = Some(beside.join("images")).filter(|images| images.is_dir());
    std::iter::once(beside.to_owned()).chain(images).collect()
}

/// The split that a file is named after: `train.jsonl`, `test.csv`, a folder `val`.
fn split_of_name(file: &Path) -> Option<Split> {
    file.file_stem()?.to_str()?.parse().ok()
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
