//! Predictions of probes: what each of several ways to read frozen features says of pairs of text and picture.
//!
//! JSON lines. The first is [`RelationInfo`] with `"chiasm.predictions": "relation"`, `"version"`
//! ([`RELATION_VERSION`]) and `"rows"`; every other one is a [`RelationRow`]. A row has no text: posts are often not to
//! be passed on.
//!
//! ```json
//! {"id":"42","unit":"author7","label":"adds","cosine":0.25,"probabilities":[[0.125,0.5,0.25,0.125]]}
//! ```

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::lines::{self, Lines, is_probability};
use super::{DatasetIdentity, ModelIdentity, PredictionsError, TrainingOverlap};

/// Version of the file of relations that is written, and the newest one read.
pub const RELATION_VERSION: u32 = 1;

/// What the first line calls this kind of file.
pub(crate) const KIND: &str = "relation";

/// Name of the protocol whose clusters are mapped to classes with the labels of the scored pairs.
pub const ORACLE: &str = "oracle mapped";

/// One way to read features.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Protocol {
    /// What reads: `linear`, `centroid`, ...
    pub name: String,
    /// Whose features: `text`, `image`, `text + image`.
    pub features: String,
    /// What was chosen, for people: `C = 0.25`. May be empty.
    #[serde(default)]
    pub settings: String,
    /// Probability from which on it answers, and the precision that this is to give; `None` where it always answers.
    #[serde(default)]
    pub promise: Option<(f64, f64)>,
}

/// What the file says about itself beside its rows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RelationInfo {
    /// Name of the split: `val`, `test`, ...
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model whose features are read.
    pub model: ModelIdentity,
    /// Names of the classes, none twice.
    pub classes: Vec<String>,
    /// Whether the classes are the four relations in the order of tv, so that figures of t and v can be had.
    pub relations: bool,
    /// The most frequent class of the training pairs, one of `classes`.
    pub majority: String,
    /// Training and validation pairs.
    pub fitted_on: (usize, usize),
    /// The ways to read features, in the order of [`RelationRow::probabilities`].
    pub protocols: Vec<Protocol>,
    /// What of this the model was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<TrainingOverlap>,
}

/// What is said of one pair.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RelationRow {
    /// Identifier of the pair, none twice in a file.
    pub id: String,
    /// What the pair shares with others that are not independent of it: its author or picture.
    pub unit: String,
    /// The right class, one of the classes.
    pub label: String,
    /// Cosine of text and picture; `None` where they have no common space.
    #[serde(default)]
    pub cosine: Option<f32>,
    /// Of each protocol the probability of every class.
    pub probabilities: Vec<Vec<f32>>,
}

/// A file of relations in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RelationPredictions {
    /// What was scored, by what.
    pub info: RelationInfo,
    /// One row a pair.
    pub rows: Vec<RelationRow>,
}

impl RelationPredictions {
    /// Writes the file at `path`, whole or not at all; an existing file is replaced.
    ///
    /// # Errors
    /// [`PredictionsError::Line`] when a row does not fit (nothing is written then), [`PredictionsError::Io`] when the
    /// file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), PredictionsError> {
        let mut check = Check::new(&self.info).map_err(|what| lines::fail(path, 1, what))?;
        lines::write(
            path,
            KIND,
            RELATION_VERSION,
            &self.info,
            &self.rows,
            |row| check.row(row),
        )
    }

    /// Reads and checks the file at `path`, one line at a time.
    ///
    /// # Errors
    /// [`PredictionsError`], always naming the path, and the line when one is at fault.
    pub fn read(path: &Path) -> Result<Self, PredictionsError> {
        let (lines, info) = Lines::open::<RelationInfo>(path, KIND, RELATION_VERSION)?;
        let mut check = Check::new(&info).map_err(|what| lines.fail(what))?;
        let rows = lines.rows(|row| check.row(row))?;
        Ok(Self { info, rows })
    }
}

/// What holds of every file, written or read.
struct Check<'a> {
    info: &'a RelationInfo,
    classes: HashSet<&'a str>,
    ids: HashSet<String>,
}

impl<'a> Check<'a> {
    fn new(info: &'a RelationInfo) -> Result<Self, String> {
        let classes: HashSet<&str> = info.classes.iter().map(String::as_str).collect();
        if classes.len() != info.classes.len() || classes.is_empty() {
            return Err("the classes are none, or one is named twice".to_owned());
        }
        if info.relations && classes.len() != 4 {
            return Err(format!("{} classes for four relations", classes.len()));
        }
        if !classes.contains(info.majority.as_str()) {
            return Err(format!("`{}` is not among the classes", info.majority));
        }
        Ok(Self {
            info,
            classes,
            ids: HashSet::new(),
        })
    }

    fn row(&mut self, row: &RelationRow) -> Result<(), String> {
        if !self.ids.insert(row.id.clone()) {
            return Err(format!("the id `{}` is there twice", row.id));
        }
        if !self.classes.contains(row.label.as_str()) {
            return Err(format!("`{}` is not among the classes", row.label));
        }
        // A cosine in f32 may end a little beyond.
        let cosine = row.cosine.unwrap_or(0.0);
        if !(-1.001..=1.001).contains(&cosine) {
            return Err(format!("`cosine` is {cosine}, not from -1 to 1"));
        }
        let (found, wanted) = (row.probabilities.len(), self.info.protocols.len());
        if found != wanted {
            return Err(format!("probabilities of {found} protocols, not {wanted}"));
        }
        for values in &row.probabilities {
            if values.len() != self.classes.len() {
                return Err(format!("{} probabilities a protocol", values.len()));
            }
            let bad = values
                .iter()
                .find(|value| !is_probability(f64::from(**value)));
            if let Some(value) = bad {
                return Err(format!("the probability {value} is not from 0 to 1"));
            }
        }
        Ok(())
    }
}
