//! Arrow tables of ViLT, METER and SCL, saved Hugging Face data sets, and Arrow tables of one's own.
//!
//! A table is one of four, by its columns:
//!
//! * `image_0`, `image_1`, `questions`: NLVR2, a sample each statement, both pictures in it;
//! * `image`, `questions`: VQA, a sample each question, the picture its group;
//! * `image`, `sentences`: SNLI-VE, a sample each hypothesis, which is the last of its sentences;
//! * anything else: a picture and its texts, by the usual column names.
//!
//! Pictures stay in the file. Only a compressed table has to hold them, up to [`MAX_HELD_BYTES`].
//!
//! A folder is one data set of the `.arrow` files in it, or in the folders right below it. Its files
//! must be of one of the four kinds: pictures with captions and pictures with questions are not one
//! task. The split is that of the column `split`, else the one in the file's name, else that of its
//! folder. As in SCL `*_trainable_val` is training and `*_rest_val` validation. What is there twice is
//! read once: `*_val` is left out beside those two, of which it consists, `*_test-dev` beside `*_test`,
//! and NLVR2's `*_balanced_*` and `*_unbalanced_*` parts beside the whole.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiasm_format::arrow::{Batch, Column, Table, Value};

use super::collect::{Collector, Picture, RawRow, RowLabels, count_answers};
use super::columns::{Columns, Role};
use super::{Format, MAX_TEXT_CHARS, OpenOptions, Opened, parse_split, split_in_path};
use crate::dataset::{Annotations, Answer, ImageSource, SharedFile, Split, Unit, Visual};
use crate::decode::MAX_FILE_BYTES;
use crate::error::DataError;

/// Cap on the pictures that compressed tables of one source keep in memory.
const MAX_HELD_BYTES: u64 = 4 << 30;

/// Cap on the files of one folder. The largest corpus of the field in this form has some hundred.
const MAX_FILES: usize = 10_000;

/// What METER's numbers for SNLI-VE mean.
const ENTAILMENT: [&str; 3] = ["contradiction", "neutral", "entailment"];

pub(super) const FORMAT: Format = Format {
    name: "arrow",
    what: "Arrow table of ViLT, METER or SCL, a folder of them, a saved Hugging Face data set (.arrow)",
    recognises: |source| match source.is_folder {
        true => files(&source.path).is_ok_and(|files| !files.is_empty()),
        false => source.has_extension(&["arrow", "feather"]),
    },
    open: |source, options| {
        // Flatbuffers are checked by a crate; what slips past its checks must be an error of ours.
        catch_unwind(AssertUnwindSafe(|| {
            open(&source.path, source.is_folder, options)
        }))
        .unwrap_or_else(|_| {
            Err(DataError::Parse {
                path: source.path.clone(),
                location: "an unknown place".to_owned(),
                message: "the file is damaged".to_owned(),
            })
        })
    },
};

fn open(path: &Path, is_folder: bool, options: &OpenOptions) -> Result<Opened, DataError> {
    let files = match is_folder {
        true => files(path)?,
        false => vec![path.to_owned()],
    };
    let mut collector = Collector::new(path, options, Unit::Row);
    let mut budget = MAX_HELD_BYTES;
    let mut first: Option<(Task, PathBuf)> = None;
    for file in files {
        let mut table = Table::open(&file)?;
        let plan = Plan::find(&file, &table.names(), options)?;
        match &first {
            Some((task, other)) if *task != plan.task => {
                return Err(DataError::Parse {
                    path: file,
                    location: "its columns".to_owned(),
                    message: format!(
                        "it holds {}, and `{}` beside it {}; name one file, or give each task a folder",
                        plan.task.name(),
                        other.display(),
                        task.name()
                    ),
                });
            }
            Some(_) => {}
            None => first = Some((plan.task, file.clone())),
        }
        collector.turn_to(&file);
        let mut rows = Rows {
            file: SharedFile::open(&file)?,
            stem: place_of(path, &file),
            split: file_split(&file),
            plan: &plan,
            collector: &mut collector,
            number: 0,
        };
        while let Some(batch) = table.next(&plan.wanted, &mut budget)? {
            rows.add(&batch);
        }
    }
    collector.finish()
}

/// What a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Texts,
    Questions,
    Pairs,
    Statements,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Self::Texts => "pictures with texts",
            Self::Questions => "pictures with questions",
            Self::Pairs => "pairs of pictures with statements",
            Self::Statements => "pictures with hypotheses",
        }
    }
}

/// Which columns are read, by position among the wanted ones.
struct Plan {
    task: Task,
    /// Positions in the table.
    wanted: Vec<usize>,
    images: Vec<usize>,
    texts: usize,
    picture_id: Option<usize>,
    split: Option<usize>,
    /// Own ids of the questions.
    ids: Option<usize>,
    answers: Option<usize>,
    /// Soft scores of the answers.
    scores: Option<usize>,
    labels: Option<usize>,
    /// What is said of a row, where the columns were found by their usual names.
    said: Vec<(Role, usize)>,
}

impl Plan {
    fn find(path: &Path, names: &[String], options: &OpenOptions) -> Result<Self, DataError> {
        let position = |name: &str| names.iter().position(|other| other == name);
        let mut wanted = Vec::new();
        let mut want = |column: usize| {
            let known = wanted.iter().position(|other| *other == column);
            known.unwrap_or_else(|| {
                wanted.push(column);
                wanted.len() - 1
            })
        };
        let (left, right) = (position("image_0"), position("image_1"));
        let (image, questions) = (position("image"), position("questions"));
        let statements = position("sentences").zip(position("labels"));
        let named = options.text_column.is_some() || options.image_column.is_some();
        let usual = match (left.zip(right), image, questions, statements) {
            _ if named => None,
            (Some((left, right)), _, Some(questions), _) => Some(Self {
                task: Task::Pairs,
                images: vec![want(left), want(right)],
                labels: position("answers").map(&mut want),
                ..Self::new(want(questions))
            }),
            (None, Some(image), Some(questions), _) => Some(Self {
                task: Task::Questions,
                images: vec![want(image)],
                ids: position("question_id").map(&mut want),
                answers: position("answers").map(&mut want),
                scores: position("answer_scores").map(&mut want),
                ..Self::new(want(questions))
            }),
            (None, Some(image), None, Some((sentences, labels))) => Some(Self {
                task: Task::Statements,
                images: vec![want(image)],
                labels: Some(want(labels)),
                ..Self::new(want(sentences))
            }),
            _ => None,
        };
        let plan = match usual {
            Some(plan) => Self {
                split: position("split").map(&mut want),
                ..plan
            },
            None => {
                let columns = Columns::find(path, names, options)?;
                Self {
                    images: vec![want(columns.image)],
                    ids: position("question_id").map(&mut want),
                    said: (columns.said.iter())
                        .map(|(role, column)| (*role, want(*column)))
                        .collect(),
                    split: columns.split.map(&mut want),
                    ..Self::new(want(columns.text))
                }
            }
        };
        let picture_id = ["image_id", "identifier"].into_iter().find_map(position);
        Ok(Self {
            picture_id: picture_id.map(&mut want),
            wanted,
            ..plan
        })
    }

    /// Pictures with these texts, and nothing else known.
    fn new(texts: usize) -> Self {
        Self {
            task: Task::Texts,
            wanted: Vec::new(),
            images: Vec::new(),
            texts,
            picture_id: None,
            split: None,
            ids: None,
            answers: None,
            scores: None,
            labels: None,
            said: Vec::new(),
        }
    }
}

/// Turns the rows of one table into samples.
struct Rows<'a> {
    file: Arc<SharedFile>,
    /// The file within the source, for ids of what has none.
    stem: String,
    /// What the name of the file says.
    split: FileSplit,
    plan: &'a Plan,
    collector: &'a mut Collector,
    number: u64,
}

impl Rows<'_> {
    fn add(&mut self, batch: &Batch) {
        for row in 0..batch.rows {
            self.number += 1;
            let rows = match self.plan.task {
                Task::Texts => self.texts(batch, row).map(|row| vec![row]),
                _ => self.questions(batch, row),
            };
            match rows {
                Ok(rows) => rows.into_iter().for_each(|row| self.collector.add(row)),
                Err(reason) => self.collector.refuse(self.number, "", reason),
            }
        }
    }

    /// A picture with its texts.
    fn texts(&self, batch: &Batch, row: usize) -> Result<RawRow, String> {
        let plan = self.plan;
        let image = plan.images.first().copied();
        let value = cell(batch, image, row);
        let id = cell(batch, plan.picture_id, row);
        let picture = match (value, id_of(&id)) {
            (Value::Text(name), None) => Picture::Named(owned(name)?),
            (value, id) => {
                let (name, visual) = self.visual(&value)?;
                let id = id.or(name).unwrap_or_else(|| self.unnamed());
                Picture::Found { id, visual }
            }
        };
        let texts = strings(&cell(batch, Some(plan.texts), row), "text")?;
        let mut labels = RowLabels::default();
        for (role, column) in &plan.said {
            let value = cell(batch, Some(*column), row);
            let values = match (role, value) {
                (Role::Answer, value) => strings(&value, "answer")?,
                (Role::Ocr, Value::Text("")) => vec![String::new()],
                (_, value) => id_of(&value).into_iter().collect(),
            };
            labels.take(*role, values)?;
        }
        let own = id_of(&cell(batch, plan.ids, row)).unwrap_or_else(|| self.unnamed());
        let raw = labels.apply(RawRow {
            split: self.split(&cell(batch, plan.split, row))?,
            ..RawRow::new(self.number, picture, texts)
        })?;
        Ok(RawRow {
            id: raw.id.is_some().then_some(own),
            ..raw
        })
    }

    /// The questions, statements or hypotheses of a picture or pair.
    fn questions(&self, batch: &Batch, row: usize) -> Result<Vec<RawRow>, String> {
        let plan = self.plan;
        let mut sources = Vec::with_capacity(plan.images.len());
        for image in &plan.images {
            sources.push(self.source(&cell(batch, Some(*image), row))?.1);
        }
        let visual = match <[ImageSource; 1]>::try_from(sources) {
            Ok([one]) => Visual::Image(one),
            Err(several) => Visual::Images(several),
        };
        let group = id_of(&cell(batch, plan.picture_id, row)).unwrap_or_else(|| self.unnamed());
        let split = self.split(&cell(batch, plan.split, row))?;
        let list = |column: Option<usize>| items(cell(batch, column, row));
        let (ids, answers) = (list(plan.ids), list(plan.answers));
        let (scores, labels) = (list(plan.scores), list(plan.labels));
        let mut rows = Vec::new();
        for (index, text) in list(Some(plan.texts)).into_iter().enumerate() {
            let texts = match plan.task {
                // The premise is the caption of the picture; the picture stands for it.
                Task::Statements => strings(&text, "text")?.pop().into_iter().collect(),
                _ => strings(&text, "text")?,
            };
            let id = ids.get(index).and_then(id_of);
            let label = labels
                .get(index)
                .and_then(|label| label_of(plan.task, label));
            let own = items(answers.get(index).cloned().unwrap_or(Value::Null));
            let own_scores = items(scores.get(index).cloned().unwrap_or(Value::Null));
            let picture = Picture::Found {
                id: group.clone(),
                visual: visual.clone(),
            };
            rows.push(RawRow {
                id: Some(id.unwrap_or_else(|| format!("{group}#{index}"))),
                split,
                annotations: Annotations {
                    answers: answers_of(&own, &own_scores)?,
                    // The tables with scores are VQA v2's, without the rare answers of its ten people.
                    asked: (!own_scores.is_empty()).then_some(10),
                    label,
                    ..Annotations::default()
                },
                ..RawRow::new(self.number, picture, texts)
            });
        }
        match rows.is_empty() {
            true => Err("no text".to_owned()),
            false => Ok(rows),
        }
    }

    /// Id of a picture that has none: its place.
    fn unnamed(&self) -> String {
        format!("{}#{}", self.stem, self.number)
    }

    fn split(&self, cell: &Value<'_>) -> Result<Option<Split>, String> {
        match (&self.split, cell) {
            (FileSplit::Decides(split), _) => Ok(Some(*split)),
            (FileSplit::Says(split), Value::Null) => Ok(*split),
            (FileSplit::Says(_), Value::Text(text)) => parse_split(text).map(Some),
            _ => Err("the split is no string".to_owned()),
        }
    }

    /// A picture, or several of them in a list.
    fn visual(&self, value: &Value<'_>) -> Result<(Option<String>, Visual), String> {
        let Value::List(list) = value else {
            let (name, source) = self.source(value)?;
            return Ok((name, source.into()));
        };
        let sources = list.iter().map(|item| Ok(self.source(&item)?.1));
        let sources: Vec<ImageSource> = sources.collect::<Result<_, String>>()?;
        match <[ImageSource; 1]>::try_from(sources) {
            Ok([one]) => Ok((None, one.into())),
            Err(none) if none.is_empty() => Err("the image is missing".to_owned()),
            Err(several) => Ok((None, Visual::Images(several))),
        }
    }

    /// Where a picture is, and its name when the cell has one.
    fn source(&self, value: &Value<'_>) -> Result<(Option<String>, ImageSource), String> {
        match value {
            Value::Null => Err("the image is missing".to_owned()),
            Value::Place { offset, len } => {
                check_size(*len)?;
                let part = ImageSource::Part {
                    file: Arc::clone(&self.file),
                    offset: *offset,
                    len: *len,
                };
                Ok((None, part))
            }
            Value::Bytes(bytes) => {
                check_size(bytes.len() as u64)?;
                Ok((None, ImageSource::Bytes(Arc::from(*bytes))))
            }
            Value::Text(name) => {
                let name = owned(name)?;
                let path = self.collector.find(&name);
                Ok((Some(name), ImageSource::Path(path)))
            }
            // Hugging Face: bytes, or where they were.
            Value::Struct(parts) => {
                let part = |wanted: &str| {
                    let found = parts.iter().find(|(name, _)| *name == wanted);
                    found
                        .map(|(_, value)| value)
                        .filter(|value| !matches!(value, Value::Null))
                };
                let name = part("path").and_then(Value::text);
                let name = name.filter(|name| !name.trim().is_empty());
                match (part("bytes"), name) {
                    (Some(bytes), name) => {
                        let name = name.map(owned).transpose()?;
                        Ok((name, self.source(bytes)?.1))
                    }
                    (None, Some(name)) => self.source(&Value::Text(name)),
                    (None, None) => Err("the image has neither `bytes` nor `path`".to_owned()),
                }
            }
            _ => Err("the image is neither a path nor bytes".to_owned()),
        }
    }
}

fn check_size(bytes: u64) -> Result<(), String> {
    match bytes {
        0 => Err("the image cell is empty".to_owned()),
        bytes if bytes > MAX_FILE_BYTES => Err(format!(
            "the image cell has {bytes} bytes, more than the cap {MAX_FILE_BYTES}"
        )),
        _ => Ok(()),
    }
}

fn cell(batch: &Batch, column: Option<usize>, row: usize) -> Value<'_> {
    let column = column.and_then(|column| batch.columns.get(column));
    column.map_or(Value::Null, |column: &Column| column.value(row))
}

/// The cells of a list; a single cell is a list of one, nothing is an empty one.
fn items(value: Value<'_>) -> Vec<Value<'_>> {
    match value {
        Value::Null => Vec::new(),
        Value::List(list) => list.iter().collect(),
        one => vec![one],
    }
}

/// A string, a list of strings, or a list of structs with `role` in them.
fn strings(value: &Value<'_>, role: &str) -> Result<Vec<String>, String> {
    let text = |value: &Value<'_>| match value {
        Value::Text(text) => owned(text),
        Value::NotText => Err(format!("the {role} is not UTF-8")),
        Value::Struct(parts) => {
            let named = parts.iter().find(|(name, _)| *name == role);
            let text = named.and_then(|(_, value)| value.text());
            text.map_or_else(|| Err(format!("the struct has no `{role}`")), owned)
        }
        _ => Err(format!("the {role} is missing or no string")),
    };
    match value {
        Value::List(list) => list.iter().map(|item| text(&item)).collect(),
        one => text(one).map(|text| vec![text]),
    }
}

/// A text of one's own. Longer ones than any that is taken are refused before they are copied: a
/// dictionary can name the same long text in every row.
fn owned(text: &str) -> Result<String, String> {
    if text.len() > 4 * MAX_TEXT_CHARS {
        return Err(format!(
            "a text has {} bytes, more than any text",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

/// Text or whole number as an id or label.
fn id_of(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Text(text) if !text.is_empty() => owned(text).ok(),
        Value::Int(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn label_of(task: Task, value: &Value<'_>) -> Option<String> {
    match (task, value) {
        (Task::Statements, Value::Int(class)) => {
            let class = usize::try_from(*class).ok()?;
            ENTAILMENT.get(class).map(|name| (*name).to_owned())
        }
        // `True` and `False` in these tables, `true` and `false` everywhere else.
        (Task::Pairs, value) => id_of(value).map(|label| label.to_lowercase()),
        (_, value) => id_of(value),
    }
}

/// Answers with how many people gave them. The tables keep soft scores instead: 0.3, 0.6, 0.9 and 1
/// for one, two, three and at least four; without scores equal answers are counted.
fn answers_of(answers: &[Value<'_>], scores: &[Value<'_>]) -> Result<Vec<Answer>, String> {
    let mut texts = Vec::with_capacity(answers.len());
    for answer in answers {
        texts.extend(strings(answer, "answer")?);
    }
    if scores.is_empty() {
        return Ok(count_answers(texts));
    }
    if scores.len() != texts.len() {
        return Err("there are more or fewer answers than scores".to_owned());
    }
    let mut counted: Vec<Answer> = texts
        .into_iter()
        .zip(scores)
        .map(|(text, score)| {
            let score = match score {
                Value::Float(score) => *score,
                Value::Int(score) => *score as f64,
                _ => 0.0,
            };
            let count = if score >= 0.95 {
                4
            } else {
                (score / 0.3).round() as u32
            };
            Answer {
                text,
                count: count.max(1),
            }
        })
        .collect();
    counted.sort_by_key(|answer| std::cmp::Reverse(answer.count));
    Ok(counted)
}

/// What the name of a file says of its split.
#[derive(Clone, Copy)]
enum FileSplit {
    /// Unless the column says otherwise.
    Says(Option<Split>),
    /// Whatever the column says: it is the split that the rows were taken from.
    Decides(Split),
}

fn file_split(path: &Path) -> FileSplit {
    let stem = stem_of(path);
    if stem.ends_with("trainable_val") {
        return FileSplit::Decides(Split::Train);
    }
    if stem.ends_with("rest_val") {
        return FileSplit::Decides(Split::Val);
    }
    FileSplit::Says(split_in_path(path))
}

fn stem_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// The file below the source without its extension; a file that is the source has its name.
fn place_of(source: &Path, file: &Path) -> String {
    let below = file.strip_prefix(source).ok().and_then(Path::parent);
    let folders = below.into_iter().flat_map(Path::components);
    let mut place: String = folders
        .map(|folder| format!("{}/", folder.as_os_str().to_string_lossy()))
        .collect();
    place.push_str(&stem_of(file));
    place
}

/// The tables of a folder in alphabetical order: those in it, else those in the folders right below.
fn files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let (mut files, folders) = list(folder)?;
    if files.is_empty() {
        for below in folders {
            files.extend(list(&below)?.0);
            if files.len() > MAX_FILES {
                break;
            }
        }
    }
    if files.len() > MAX_FILES {
        return Err(DataError::UnknownFormat {
            path: folder.to_owned(),
            detail: format!(": it holds more than {MAX_FILES} Arrow files"),
        });
    }
    let stems: Vec<String> = files.iter().map(|file| stem_of(file)).collect();
    let has = |name: &str| stems.iter().any(|stem| stem == name);
    files.retain(|file| {
        let stem = stem_of(file);
        let halves = stem.strip_suffix("_val").is_some_and(|set| {
            has(&format!("{set}_trainable_val")) && has(&format!("{set}_rest_val"))
        });
        let parts = [
            ("_balanced_", "_"),
            ("_unbalanced_", "_"),
            ("_test-dev", "_test"),
        ];
        let part = parts.iter().any(|(part, instead)| {
            let whole = stem.replacen(part, instead, 1);
            whole != stem && has(&whole)
        });
        !halves && !part
    });
    Ok(files)
}

/// Arrow files and folders in a folder, sorted.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let io = |source| DataError::io(folder, source);
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Hugging Face keeps results of `map` beside the data.
        let passed = name.starts_with('.') || name.starts_with("cache-");
        let is_table = path
            .extension()
            .is_some_and(|extension| extension == "arrow");
        if passed {
            continue;
        }
        if path.is_dir() {
            folders.push(path);
        } else if is_table {
            files.push(path);
        }
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}
