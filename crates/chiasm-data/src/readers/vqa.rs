//! VQA v2: a file of questions, and beside it one of what ten people answered.
//!
//! The answers of `v2_OpenEnded_mscoco_train2014_questions.json` are in
//! `v2_mscoco_train2014_annotations.json`; any `questions` in a name is looked for as `annotations`.
//! Answers are counted as given: what counts as the same answer is [`crate::answers`]' to say. The
//! label is the answer that the file gives as the one of most people. The questions of the test
//! parts have no answers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::coco::{PICTURE_FOLDERS, picture_names};
use super::collect::{Collector, Picture, RawRow, count_answers};
use super::json::{self, Id, Layout, Take};
use super::{Format, OpenOptions, Opened, split_in_name, split_in_path};
use crate::dataset::{Annotations, ImageSource, Split, Unit, Visual};
use crate::error::DataError;

const QUESTIONS: Layout =
    Layout::Parts(&[("questions", Take::Each), ("data_subtype", Take::Whole)]);
const ANSWERS: Layout = Layout::Parts(&[("annotations", Take::Each)]);

/// Most answers to a question that are taken. The field asks ten people.
const MAX_ANSWERS: usize = 1000;

pub(super) const FORMAT: Format = Format {
    name: "vqa",
    what: "VQA v2 questions, with the annotations beside them (*questions.json)",
    recognises: |source| {
        source.has_extension(&["json"])
            && source.begins_with(b'{')
            && source.head_has("\"question_id\"")
            && (source.head_has("\"questions\"") || source.head_has("\"annotations\""))
    },
    open: |source, options| open(&source.path, options),
};

#[derive(Deserialize)]
struct Question {
    question_id: Id,
    image_id: Id,
    question: String,
}

#[derive(Deserialize)]
struct Given {
    question_id: Id,
    answers: Vec<GivenAnswer>,
    multiple_choice_answer: Option<String>,
    question_type: Option<String>,
    answer_type: Option<String>,
}

#[derive(Deserialize)]
struct GivenAnswer {
    answer: String,
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Row);
    collector.look_also(options, &["../images", ".."], PICTURE_FOLDERS);
    let mut questions = Vec::new();
    let mut part = None;
    let read = json::stream(path, QUESTIONS, |element| {
        if element.key == "data_subtype" {
            part = element.parse::<String>().ok();
            return Ok(());
        }
        match element.parse::<Question>() {
            Ok(question) => questions.push((element.number, question)),
            Err(reason) => collector.refuse(element.number, "", reason),
        }
        Ok(())
    });
    if let Err(error) = read {
        let answers = json::stream(path, ANSWERS, |_| Ok(())).is_ok();
        return Err(if answers { only_answers(path) } else { error });
    }
    let split = part.as_deref().and_then(split_in_name);
    let split = split.or_else(|| split_in_path(path));
    let beside = options.annotations.clone().or_else(|| answers_of(path));
    if beside.is_none() && matches!(split, Some(Split::Train | Split::Val)) {
        return Err(DataError::Incomplete {
            path: path.to_owned(),
            missing: "has no answers beside it".to_owned(),
            hint: "name the file of answers with `--annotations`, for example `v2_mscoco_train2014_annotations.json`".to_owned(),
        });
    }
    let mut given = match &beside {
        Some(file) => Some(answers(file, &mut collector)?),
        None => None,
    };
    let mut pictures: HashMap<String, ImageSource> = HashMap::new();
    for (number, question) in questions {
        let id = question.question_id.0;
        let annotations = match &mut given {
            None => Annotations::default(),
            Some(given) => match given.remove(&id) {
                Some(annotations) => annotations,
                None => {
                    collector.refuse(number, &id, "nobody answered the question");
                    continue;
                }
            },
        };
        let image = question.image_id.0;
        let picture = pictures.entry(image.clone()).or_insert_with_key(|image| {
            ImageSource::Path(collector.find_any(&picture_names(image, part.as_deref())))
        });
        let visual = Visual::from(picture.clone());
        collector.add(RawRow {
            split,
            id: Some(id),
            annotations,
            ..RawRow::new(
                number,
                Picture::Found { id: image, visual },
                vec![question.question],
            )
        });
    }
    if let (Some(given), Some(file)) = (given, beside)
        && !given.is_empty()
    {
        let reason = format!("{} answered questions are not asked", given.len());
        collector.refuse_file("", &file, reason);
    }
    collector.finish()
}

/// What people said, by question.
fn answers(
    file: &Path,
    collector: &mut Collector,
) -> Result<HashMap<String, Annotations>, DataError> {
    let mut all = HashMap::new();
    json::stream(file, ANSWERS, |element| {
        let refused = match element.parse::<Given>() {
            Err(reason) => Some(reason),
            Ok(given) if given.answers.len() > MAX_ANSWERS => {
                Some(format!("more than {MAX_ANSWERS} answers"))
            }
            Ok(given) => {
                let kinds = [
                    ("question_type", given.question_type),
                    ("answer_type", given.answer_type),
                ];
                let annotations = Annotations {
                    answers: count_answers(given.answers.into_iter().map(|given| given.answer)),
                    label: given.multiple_choice_answer,
                    kinds: kinds
                        .into_iter()
                        .filter_map(|(of, kind)| Some((of, kind?)))
                        .collect(),
                    ..Annotations::default()
                };
                let id = given.question_id.0;
                let twice = format!("question {id} is answered twice");
                all.insert(id, annotations).map(|_| twice)
            }
        };
        if let Some(reason) = refused {
            let reason = format!("annotation {}: {reason}", element.number);
            collector.refuse_file("", file, reason);
        }
        Ok(())
    })?;
    Ok(all)
}

/// The file of answers beside a file of questions, when it is there.
fn answers_of(questions: &Path) -> Option<PathBuf> {
    let name = questions.file_name()?.to_str()?;
    let plain = name
        .replace("OpenEnded_", "")
        .replace("MultipleChoice_", "");
    [plain.as_str(), name]
        .into_iter()
        .filter(|name| name.contains("questions"))
        .map(|name| questions.with_file_name(name.replace("questions", "annotations")))
        .find(|path| path.is_file())
}

fn only_answers(path: &Path) -> DataError {
    DataError::Incomplete {
        path: path.to_owned(),
        missing: "holds answers without their questions".to_owned(),
        hint: "open the file of questions; the answers are found beside it, or named with `--annotations`".to_owned(),
    }
}
