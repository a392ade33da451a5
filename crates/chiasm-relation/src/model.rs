//! A relation model: from features of a text and a picture to calibrated probabilities of classes.
//!
//! It holds the fitted probe with what is done to features before it and to logits after it, and says which encoders'
//! features it reads. It is small, and one JSON object; it holds no text and no picture.

use serde::{Deserialize, Serialize};

use crate::probe::{LogisticProbe, Scores};
use crate::{Calibration, Prepared, RelationError, Rows};

/// Version of the object that is written, and the newest one read.
pub const VERSION: u32 = 1;

/// Which features a probe reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureSet {
    /// Those of the text alone.
    Text,
    /// Those of the picture alone.
    Image,
    /// Those of both side by side, text first.
    Both,
    /// Those of the pair, which a model read together; they are given in place of the text's.
    Pair,
}

impl FeatureSet {
    /// The sets of features that text and picture have each.
    pub const ALL: [Self; 3] = [Self::Both, Self::Text, Self::Image];

    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Both => "text + image",
            Self::Pair => "pair",
        }
    }

    /// The widths of the modalities in it, those of text and image being given (0 where there is none); `None` where one
    /// that it needs is missing.
    #[must_use]
    pub fn widths(self, text: usize, image: usize) -> Option<Vec<usize>> {
        let widths = match self {
            Self::Text | Self::Pair => vec![text],
            Self::Image => vec![image],
            Self::Both => vec![text, image],
        };
        (!widths.contains(&0)).then_some(widths)
    }

    /// Its part of the features of one pair.
    pub fn of<'a>(self, text: &'a [f32], image: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        let text = if self == Self::Image { &[][..] } else { text };
        let alone = matches!(self, Self::Text | Self::Pair);
        let image = if alone { &[][..] } else { image };
        text.iter().chain(image).copied()
    }
}

/// From which confidence on an answer is given, and what that kept on validation pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// The precision asked for.
    pub wanted: f64,
    /// Answers with at least this probability are given; above 1: none is.
    pub confidence: f64,
    /// Precision of the answers given on validation pairs, with its 95 % interval; `None` where none is given.
    pub precision: Option<[f64; 3]>,
    /// Share of validation pairs that are answered.
    pub coverage: f64,
}

/// An encoder whose features are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderIdentity {
    /// Where it was.
    pub path: String,
    /// What it is called.
    pub name: String,
    /// Which checkpoint of a run, `last` or `best`.
    pub checkpoint: String,
    /// blake3 of its weights.
    pub hash: String,
}

/// What a probe was fitted on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FittedOn {
    /// Name of the data set.
    pub data: String,
    /// Hash of its content.
    pub fingerprint: String,
    /// Training pairs.
    pub training: usize,
    /// Validation pairs, which calibration and threshold are chosen on.
    pub validation: usize,
}

/// A fitted relation model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelationModel {
    /// [`VERSION`].
    pub version: u32,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Whether the classes are the four relations, in the order of tv.
    pub relations: bool,
    /// Which features are read.
    pub features: FeatureSet,
    /// Width of the text features, 0 when there are none.
    pub text_width: usize,
    /// Width of the image features, 0 when there are none.
    pub image_width: usize,
    /// What is done to features.
    pub preparation: Prepared,
    /// The probe.
    pub probe: LogisticProbe,
    /// What is done to logits.
    pub calibration: Calibration,
    /// When no answer is given; `None` when there was nothing to choose on.
    pub promise: Option<Promise>,
    /// Whose features are read: one encoder, or one of texts and one of pictures. Empty when features were given.
    pub encoders: Vec<EncoderIdentity>,
    /// What it was fitted on.
    pub fitted_on: FittedOn,
}

impl RelationModel {
    /// Whether its parts fit each other: what is read from a file is not to be trusted before.
    ///
    /// # Errors
    ///
    /// The version is another one, sizes differ, or a number is not finite.
    pub fn check(&self) -> Result<(), RelationError> {
        let setting = |name, value: String| Err(RelationError::Setting { name, value });
        if self.version == 0 || self.version > VERSION {
            return setting("version", self.version.to_string());
        }
        let widths = self.features.widths(self.text_width, self.image_width);
        let width = widths.map_or(0, |widths| widths.iter().sum());
        let heads = match self.probe.present.len() {
            2 => 1,
            present => present,
        };
        for (what, found, wanted) in [
            ("features of the probe", self.probe.width, width),
            ("prepared features", self.preparation.shift.len(), width),
            ("factors of features", self.preparation.scale.len(), width),
            (
                "classes of the probe",
                self.probe.classes,
                self.classes.len(),
            ),
            (
                "weights",
                self.probe.weights.len(),
                heads.saturating_mul(width),
            ),
            ("intercepts", self.probe.intercepts.len(), heads),
        ] {
            if found != wanted || found == 0 {
                return Err(RelationError::Size {
                    what,
                    found,
                    wanted,
                });
            }
        }
        if self.relations && self.classes.len() != 4 {
            return setting("relations", format!("{} classes", self.classes.len()));
        }
        let sorted = self.probe.present.windows(2).all(|pair| pair[0] < pair[1]);
        let beyond = self.probe.present.last() >= Some(&self.classes.len());
        if !sorted || beyond {
            return setting("present", format!("{:?}", self.probe.present));
        }
        let parts = [
            &self.preparation.shift,
            &self.preparation.scale,
            &self.probe.weights,
            &self.probe.intercepts,
        ];
        let mut numbers = parts.into_iter().flatten();
        if let Some(value) = numbers.find(|value| !value.is_finite()) {
            return setting("a weight", value.to_string());
        }
        match self.calibration {
            Calibration::Temperature(value) if !(value > 0.0 && value.is_finite()) => {
                setting("temperature", value.to_string())
            }
            Calibration::Platt { slope, offset } if !(slope.is_finite() && offset.is_finite()) => {
                setting("slope", slope.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Calibrated logits of pairs, from features `[pairs, width]` that [`FeatureSet::of`] joined.
    ///
    /// # Errors
    ///
    /// The features have another width.
    pub fn scores(&self, features: Rows<'_>) -> Result<Scores, RelationError> {
        let prepared = self.preparation.apply(features)?;
        let rows = Rows::new(&prepared, features.width())?;
        Ok(self.calibration.apply(&self.probe.scores(rows)?))
    }
}
