//! Which column of a table holds what.

use std::path::Path;

use super::OpenOptions;
use crate::error::DataError;

pub(super) const IMAGE: &[&str] = &[
    "image",
    "image_path",
    "filepath",
    "file",
    "filename",
    "file_name",
    "path",
    "img",
    "image_file",
];
const TEXT: &[&str] = &[
    "text",
    "caption",
    "captions",
    "sentence",
    "sentences",
    "title",
    "description",
    "alt",
    "question",
    "hypothesis",
    "statement",
];
const SPLIT: &[&str] = &["split"];
const ANSWER: &[&str] = &["answer", "answers"];
const LABEL: &[&str] = &["label", "gold_label", "class"];
const OCR: &[&str] = &["ocr", "ocr_text"];
const CAPTION: &[&str] = &["image_caption", "auto_caption", "caption"];
const AUTHOR: &[&str] = &["author", "author_id"];
const REPRESENTED: &[&str] = &["text_is_represented"];
const ADDS: &[&str] = &["image_adds"];

/// Below this Jaro–Winkler similarity a suggestion would be a guess.
const SIMILAR: f64 = 0.75;

/// What a column of a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Path or bytes of the picture.
    Image,
    /// The text.
    Text,
    /// The split.
    Split,
    /// Answer to the question that the text is.
    Answer,
    /// Class of the pair.
    Label,
    /// Words in the picture.
    Ocr,
    /// What a machine says of the picture.
    Caption,
    /// Who wrote the text.
    Author,
    /// Whether the text is shown in the picture.
    Represented,
    /// Whether the picture adds to the text.
    Adds,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 10] = [
        Self::Image,
        Self::Text,
        Self::Split,
        Self::Answer,
        Self::Label,
        Self::Ocr,
        Self::Caption,
        Self::Author,
        Self::Represented,
        Self::Adds,
    ];

    /// What is said of a row beside its picture, text and split.
    const SAID: [Self; 7] = [
        Self::Answer,
        Self::Label,
        Self::Ocr,
        Self::Caption,
        Self::Author,
        Self::Represented,
        Self::Adds,
    ];

    /// As in the options, for example `image` of `--image-column`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Text => "text",
            Self::Split => "split",
            Self::Answer => "answer",
            Self::Label => "label",
            Self::Ocr => "ocr",
            Self::Caption => "caption",
            Self::Author => "author",
            Self::Represented => "represented",
            Self::Adds => "adds",
        }
    }

    const fn usual(self) -> &'static [&'static str] {
        match self {
            Self::Image => IMAGE,
            Self::Text => TEXT,
            Self::Split => SPLIT,
            Self::Answer => ANSWER,
            Self::Label => LABEL,
            Self::Ocr => OCR,
            Self::Caption => CAPTION,
            Self::Author => AUTHOR,
            Self::Represented => REPRESENTED,
            Self::Adds => ADDS,
        }
    }

    /// The column that the options name for it.
    pub(super) fn option(self, options: &OpenOptions) -> Option<&str> {
        match self {
            Self::Image => options.image_column.as_deref(),
            Self::Text => options.text_column.as_deref(),
            Self::Split => options.split_column.as_deref(),
            Self::Answer => options.answer_column.as_deref(),
            Self::Label => options.label_column.as_deref(),
            Self::Ocr => options.ocr_column.as_deref(),
            Self::Caption => options.caption_column.as_deref(),
            Self::Author => options.author_column.as_deref(),
            Self::Represented => options.represented_column.as_deref(),
            Self::Adds => options.adds_column.as_deref(),
        }
    }

    /// Where the options name its column.
    pub(super) fn option_mut(self, options: &mut OpenOptions) -> &mut Option<String> {
        match self {
            Self::Image => &mut options.image_column,
            Self::Text => &mut options.text_column,
            Self::Split => &mut options.split_column,
            Self::Answer => &mut options.answer_column,
            Self::Label => &mut options.label_column,
            Self::Ocr => &mut options.ocr_column,
            Self::Caption => &mut options.caption_column,
            Self::Author => &mut options.author_column,
            Self::Represented => &mut options.represented_column,
            Self::Adds => &mut options.adds_column,
        }
    }
}

/// The columns of a table by role, as positions in its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) text: usize,
    pub(super) split: Option<usize>,
    /// What else is said of a row, of [`Role::SAID`], in its order.
    pub(super) said: Vec<(Role, usize)>,
}

impl Columns {
    /// The columns that are read.
    pub(super) fn read(&self) -> impl Iterator<Item = usize> {
        let said = self.said.iter().map(|(_, column)| *column);
        [Some(self.image), Some(self.text), self.split]
            .into_iter()
            .flatten()
            .chain(said)
    }

    /// Finds the columns that the options name, else those with a usual name.
    pub(super) fn find(
        path: &Path,
        names: &[String],
        options: &OpenOptions,
    ) -> Result<Self, DataError> {
        let need = |role: Role| {
            Self::named(role, names, options).ok_or_else(|| {
                let (wanted, usual) = (role.option(options), role.usual());
                missing(path, role.as_str(), wanted, usual, names)
            })
        };
        let maybe = |role: Role| match role.option(options) {
            Some(_) => need(role).map(Some),
            None => Ok(Self::named(role, names, options)),
        };
        Ok(Self {
            image: need(Role::Image)?,
            text: need(Role::Text)?,
            split: maybe(Role::Split)?,
            said: Role::SAID
                .into_iter()
                .filter_map(|role| {
                    let column = maybe(role).transpose()?;
                    Some(column.map(|column| (role, column)))
                })
                .collect::<Result<_, _>>()?,
        })
    }

    /// The column that the options name for a role, else one with a usual name.
    pub(super) fn named(role: Role, names: &[String], options: &OpenOptions) -> Option<usize> {
        let column = position(names, role.option(options), role.usual())?;
        // Where the text is called `caption`, there is no other.
        let is_text = || Some(column) == position(names, Role::Text.option(options), TEXT);
        let guessed = role.option(options).is_none();
        (role != Role::Caption || !guessed || !is_text()).then_some(column)
    }
}

fn position(names: &[String], wanted: Option<&str>, usual: &[&str]) -> Option<usize> {
    let find = |name: &str| {
        let exact = names.iter().position(|other| other == name);
        exact.or_else(|| {
            names
                .iter()
                .position(|other| other.trim().eq_ignore_ascii_case(name))
        })
    };
    match wanted {
        Some(name) => find(name),
        None => usual.iter().find_map(|name| find(name)),
    }
}

fn missing(
    path: &Path,
    role: &'static str,
    wanted: Option<&str>,
    usual: &[&str],
    names: &[String],
) -> DataError {
    let sought: Vec<&str> = wanted.map_or_else(|| usual.to_vec(), |name| vec![name]);
    let nearest = names
        .iter()
        .map(|name| {
            let lower = name.to_lowercase();
            let close = sought
                .iter()
                .map(|sought| strsim::jaro_winkler(&lower, &sought.to_lowercase()));
            (close.fold(0.0, f64::max), name)
        })
        .filter(|(close, _)| *close >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.clone());
    DataError::ColumnMissing {
        path: path.to_owned(),
        role,
        wanted: wanted.map(str::to_owned),
        existing: names.to_vec(),
        nearest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn usual_names_in_any_case() {
        let found = Columns::find(
            Path::new("t.csv"),
            &names(&["ID", "Caption", "Image_Path", "SPLIT"]),
            &OpenOptions::default(),
        );
        assert_eq!(
            found.unwrap(),
            Columns {
                image: 2,
                text: 1,
                split: Some(3),
                said: Vec::new(),
            }
        );
    }

    #[test]
    fn a_caption_is_the_text_or_stands_beside_it() {
        let said = |list: &[&str]| {
            let columns =
                Columns::find(Path::new("t.csv"), &names(list), &OpenOptions::default()).unwrap();
            (columns.text, columns.said)
        };
        assert_eq!(said(&["image", "caption"]), (1, vec![]));
        assert_eq!(
            said(&["image", "caption", "text", "OCR"]),
            (2, vec![(Role::Ocr, 3), (Role::Caption, 1)])
        );
        assert_eq!(
            said(&["image", "caption", "auto_caption", "author"]),
            (1, vec![(Role::Caption, 2), (Role::Author, 3)])
        );
    }

    #[test]
    fn a_missing_column_is_named_with_its_nearest() {
        let options = OpenOptions {
            text_column: Some("captoin".into()),
            ..OpenOptions::default()
        };
        let error =
            Columns::find(Path::new("t.csv"), &names(&["image", "caption"]), &options).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("`captoin`") && text.contains("`image`, `caption`"),
            "{text}"
        );
        assert_eq!(
            error.hint().unwrap(),
            "if `caption` is meant, pass `--text-column caption`"
        );
    }
}
