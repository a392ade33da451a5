//! Visual Genome's questions and answers, one list of them a picture (`question_answers.json`).

use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::collect::{Collector, Picture, RawRow, count_answers};
use super::json::{self, Id, Layout};
use super::{Format, OpenOptions, Opened};
use crate::dataset::{Annotations, ImageSource, Unit, Visual};
use crate::error::DataError;

pub(super) const FORMAT: Format = Format {
    name: "vgqa",
    what: "Visual Genome questions and answers (question_answers.json)",
    recognises: |source| {
        source.has_extension(&["json"]) && source.begins_with(b'[') && source.head_has("\"qas\"")
    },
    open: |source, options| open(&source.path, options),
};

/// What is asked of a picture.
#[derive(Deserialize)]
struct Entry<'a> {
    id: Id,
    /// Each judged alone: a bad one must not cost the others.
    #[serde(borrow)]
    qas: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Question {
    qa_id: Id,
    /// The picture again; where the two differ nobody knows which is meant.
    image_id: Option<Id>,
    question: String,
    answer: String,
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Image);
    let folders = ["VG_100K", "VG_100K_2"];
    collector.look_also(options, &["../images", ".."], &folders);
    json::stream(path, Layout::List, |element| {
        let number = element.number;
        let entry: Entry = match element.parse() {
            Ok(entry) => entry,
            Err(reason) => {
                collector.refuse(number, "", reason);
                return Ok(());
            }
        };
        let file = collector.find(&format!("{}.jpg", entry.id.0));
        let visual = Visual::from(ImageSource::Path(file));
        for question in entry.qas {
            let question: Question = match json::parse(question.get()) {
                Ok(question) => question,
                Err(reason) => {
                    collector.refuse(number, &entry.id.0, reason);
                    continue;
                }
            };
            if question.image_id.is_some_and(|image| image != entry.id) {
                let reason = "the question names another image than its list";
                collector.refuse(number, &question.qa_id.0, reason);
                continue;
            }
            let picture = Picture::Found {
                id: entry.id.0.clone(),
                visual: visual.clone(),
            };
            collector.add(RawRow {
                id: Some(question.qa_id.0),
                annotations: Annotations {
                    answers: count_answers([question.answer]),
                    ..Annotations::default()
                },
                ..RawRow::new(number, picture, vec![question.question])
            });
        }
        Ok(())
    })?;
    collector.finish()
}
