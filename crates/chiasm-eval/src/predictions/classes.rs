//! Predictions of a classifier: answers to questions, truth of statements, any labels.
//!
//! JSON lines. The first is [`ClassInfo`] with `"chiasm.predictions": "classes"`, `"version"` ([`CLASS_VERSION`]) and
//! `"rows"`; every other one is a [`ClassRow`]:
//!
//! ```json
//! {"chiasm.predictions":"classes","version":1,"rows":1,"split":"val","dataset":{"name":"vqa-v2","fingerprint":"9f…"},"model":{"name":"tiny","run":"","step":1200},"targets":"answers","classes":["yes","no"],"majority":"yes","training_overlap":null}
//! {"id":"9000","group":"9","text":"Is it day?","predicted":"yes","probability":0.75,"top":[["yes",0.75],["no",0.25]],"answers":[["yes",9],["no",1]],"label":"yes","kinds":{"answer_type":"yes/no"}}
//! ```

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::lines::{self, Lines, is_probability};
use super::{DatasetIdentity, ModelIdentity, PredictionsError, TrainingOverlap};

/// Version of the file of classes that is written, and the newest one read.
pub const CLASS_VERSION: u32 = 1;

/// What the first line calls this kind of file.
pub(crate) const KIND: &str = "classes";

/// Most entries of [`ClassRow::top`].
pub const MAX_TOP: usize = 5;

/// What a prediction is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// The answers that people gave, [`ClassRow::answers`].
    Answers,
    /// The one right class, [`ClassRow::label`].
    #[default]
    Labels,
}

/// What the file says about itself beside its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClassInfo {
    /// Name of the split: `val`, `test`, ...
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that scored.
    pub model: ModelIdentity,
    /// What predictions are compared with.
    pub targets: Targets,
    /// Names of the classes to choose from, at least one, none twice.
    pub classes: Vec<String>,
    /// The most frequent class of the training split, one of `classes`; `None` when that is not known.
    #[serde(default)]
    pub majority: Option<String>,
    /// What of this was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<TrainingOverlap>,
}

/// The prediction for one sample.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClassRow {
    /// Identifier of the sample, none twice in a file.
    pub id: String,
    /// What the sample shares with others, for example its picture.
    pub group: String,
    /// The question or statement.
    pub text: String,
    /// The class with the highest probability.
    pub predicted: String,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// The most probable classes with their probabilities, best first, at most [`MAX_TOP`].
    #[serde(default)]
    pub top: Vec<(String, f32)>,
    /// Answers of people as they gave them, and how many gave each. Empty when not known.
    #[serde(default)]
    pub answers: Vec<(String, u32)>,
    /// The right class; `None` when not known. It may be one that cannot be chosen.
    #[serde(default)]
    pub label: Option<String>,
    /// What figures are split by, as `answer_type: yes/no`.
    #[serde(default)]
    pub kinds: BTreeMap<String, String>,
}

/// A file of class predictions in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClassPredictions {
    /// What was scored, by what.
    pub info: ClassInfo,
    /// One row a sample.
    pub rows: Vec<ClassRow>,
}

impl ClassPredictions {
    /// Writes the file at `path`, whole or not at all; an existing file is replaced.
    ///
    /// # Errors
    /// [`PredictionsError::Line`] when a row does not fit (nothing is written then), [`PredictionsError::Io`] when the
    /// file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), PredictionsError> {
        let mut check = Check::new(&self.info).map_err(|what| lines::fail(path, 1, what))?;
        lines::write(path, KIND, CLASS_VERSION, &self.info, &self.rows, |row| {
            check.row(row)
        })
    }

    /// Reads and checks the file at `path`, one line at a time.
    ///
    /// # Errors
    /// [`PredictionsError`], always naming the path, and the line when one is at fault.
    pub fn read(path: &Path) -> Result<Self, PredictionsError> {
        let (lines, info) = Lines::open::<ClassInfo>(path, KIND, CLASS_VERSION)?;
        let mut check = Check::new(&info).map_err(|what| lines.fail(what))?;
        let rows = lines.rows(|row| check.row(row))?;
        Ok(Self { info, rows })
    }
}

/// What holds of every file, written or read.
struct Check<'a> {
    classes: HashSet<&'a str>,
    ids: HashSet<String>,
}

impl<'a> Check<'a> {
    fn new(info: &'a ClassInfo) -> Result<Self, String> {
        let mut classes = HashSet::new();
        for class in &info.classes {
            if !classes.insert(class.as_str()) {
                return Err(format!("the class `{class}` is named twice"));
            }
        }
        if classes.is_empty() {
            return Err("there are no classes".to_owned());
        }
        let check = Self {
            classes,
            ids: HashSet::new(),
        };
        if let Some(majority) = &info.majority {
            check.class(majority)?;
        }
        Ok(check)
    }

    fn row(&mut self, row: &ClassRow) -> Result<(), String> {
        if !self.ids.insert(row.id.clone()) {
            return Err(format!("the id `{}` is there twice", row.id));
        }
        if row.top.len() > MAX_TOP {
            return Err(format!("`top` has {} entries of {MAX_TOP}", row.top.len()));
        }
        let given = (&row.predicted, row.probability);
        let top = row.top.iter().map(|(class, value)| (class, *value));
        for (class, probability) in [given].into_iter().chain(top) {
            self.class(class)?;
            if !is_probability(f64::from(probability)) {
                return Err(format!(
                    "the probability {probability} of `{class}` is not from 0 to 1"
                ));
            }
        }
        Ok(())
    }

    fn class(&self, name: &str) -> Result<(), String> {
        if self.classes.contains(name) {
            Ok(())
        } else {
            Err(format!("`{name}` is not among the classes"))
        }
    }
}
