//! What a model has to be able to do to be served. Plain numbers in and out: this crate knows no tensors.

use std::sync::Arc;

use chiasm_data::Rgb;
use serde::Serialize;
use utoipa::ToSchema;

/// Something that a model can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ability {
    /// Vectors of texts.
    EmbedText,
    /// Vectors of pictures.
    EmbedImage,
    /// Whether a picture and a text belong together.
    Match,
    /// Answers to questions about a picture, or classes of a pair.
    Answer,
    /// How a text relates to a picture.
    Relation,
    /// Where in a picture is what a phrase names.
    Ground,
    /// Maps of what a result rests on.
    Explain,
    /// Maps with attention that keeps what passes a threshold.
    Select,
}

impl Ability {
    /// As it is written in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EmbedText => "embed_text",
            Self::EmbedImage => "embed_image",
            Self::Match => "match",
            Self::Answer => "answer",
            Self::Relation => "relation",
            Self::Ground => "ground",
            Self::Explain => "explain",
            Self::Select => "select",
        }
    }

    /// What a model without it lacks, for people.
    pub(crate) const fn lacking(self) -> &'static str {
        match self {
            Self::EmbedText => "embeds no texts",
            Self::EmbedImage => "embeds no pictures",
            Self::Match => "does not compare pictures and texts",
            Self::Answer => "was not trained to answer or classify",
            Self::Relation => "has no relation model; start the server with `--relation FILE`",
            Self::Ground => "does not find what phrases name",
            Self::Explain => "has no attention that could be shown",
            Self::Select => "cannot select attention: that is for models of our own",
        }
    }
}

/// What a model is and can do.
#[derive(Clone, Debug)]
pub struct Card {
    /// What requests call it.
    pub id: String,
    /// Digest of its weights: an index of other vectors is refused.
    pub fingerprint: String,
    /// Numbers of a vector; 0 where it embeds nothing.
    pub dimensions: usize,
    /// What it can be asked for.
    pub abilities: Vec<Ability>,
    /// Ways to explain it.
    pub methods: Vec<String>,
    /// Its classes or answers, where it has some.
    pub classes: Option<usize>,
}

impl Card {
    /// Whether it can be asked for something.
    #[must_use]
    pub fn can(&self, ability: Ability) -> bool {
        self.abilities.contains(&ability)
    }
}

/// What stopped a model.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The request cannot be answered, and the asker can do something about it.
    #[error("{0}")]
    Request(String),
    /// The model failed.
    #[error("{0}")]
    Failed(String),
}

/// How alike a picture and a text are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alike {
    /// Cosine of their vectors, -1 to 1; none of a model without a common space.
    pub cosine: Option<f32>,
    /// Probability that they belong together; none of a model that was not trained to say so.
    pub probability: Option<f32>,
}

/// A class or answer with its probability.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Named {
    /// The class.
    pub class: String,
    /// 0 to 1.
    pub probability: f64,
}

/// How a text relates to a picture.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Relation {
    /// The most probable class; none where the model abstains.
    pub relation: Option<String>,
    /// Probability of the most probable class.
    pub confidence: f64,
    /// Every class.
    pub probabilities: Vec<Named>,
    /// Probability that the text is represented in the picture, where the classes say so.
    pub text_represented: Option<f64>,
    /// Probability that the picture adds to the text, where the classes say so.
    pub image_adds: Option<f64>,
    /// Cosine of both, where the encoder has a common space.
    pub alignment: Option<f32>,
}

/// A box that was found: `[x, y, width, height]` as shares of the picture.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Found {
    /// Where.
    #[serde(rename = "box")]
    pub place: [f32; 4],
    /// How sure; comparable within an answer only.
    pub score: f32,
}

/// Boxes, best first, and what found them.
#[derive(Clone, Debug, PartialEq)]
pub struct Grounded {
    /// `head`: a head that was trained for it; `map`: the heaviest part of an explanation.
    pub by: &'static str,
    /// Best first.
    pub boxes: Vec<Found>,
}

/// What is to be explained.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The way to explain; the model's usual one unless said.
    pub method: Option<String>,
    /// What of the result; the model's usual one unless said.
    pub target: Option<String>,
    /// Attention that keeps what passes a threshold, beside what there is without: `RULE=VALUE`.
    pub select: Option<String>,
}

/// What maps are over.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Places {
    /// Equal cells of what the model saw of the picture, row by row.
    Grid {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
        /// What it saw: `[x, y, width, height]` as shares of the picture.
        window: [f32; 4],
    },
    /// Boxes, `[x, y, width, height]` as shares of the picture.
    Boxes {
        /// Their places.
        boxes: Vec<[f32; 4]>,
    },
}

/// A word of the text with its map.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Word {
    /// The word.
    pub text: String,
    /// First byte.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// How much it counts; all words together 1.
    pub weight: Option<f32>,
    /// Its map over the places, where the method has one.
    pub map: Option<Vec<f32>>,
}

/// Maps with attention that keeps what passes a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Selected {
    /// The rule.
    pub rule: String,
    /// Over the places, for the result as a whole.
    pub whole: Vec<f32>,
    /// Every word.
    pub words: Vec<Word>,
    /// Share of keys that were kept, head by head.
    pub kept: Vec<f32>,
}

/// An explanation.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Explanation {
    /// How it was made.
    pub method: String,
    /// What was explained.
    pub target: String,
    /// The value of that.
    pub score: f32,
    /// What maps are over.
    pub places: Places,
    /// Over the places, for the result as a whole.
    pub whole: Vec<f32>,
    /// Every word that was read.
    pub words: Vec<Word>,
    /// The same under a threshold, where one was asked for.
    pub selected: Option<Selected>,
}

/// A model that can be served. One thread at a time computes with it, which may have helpers of its own; it
/// answers [`EngineError::Request`] for what its [`Card`] does not list.
pub trait Engine: Send + Sync {
    /// What it is and can do.
    fn card(&self) -> Card;

    /// Tokens that a text costs, to fill batches; counts special ones, never more than the model reads.
    fn tokens(&self, text: &str) -> usize;

    /// Tokens that a picture costs.
    fn picture_tokens(&self) -> usize;

    /// Unit vectors of texts, one a text. No vector depends on which others are asked for with it.
    ///
    /// # Errors
    /// As the type says.
    fn embed_texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Unit vectors of pictures, one a picture. No vector depends on which others are asked for with it.
    ///
    /// # Errors
    /// As the type says.
    fn embed_pictures(&self, pictures: &[Arc<Rgb>]) -> Result<Vec<Vec<f32>>, EngineError>;

    /// How alike a picture is to each of some texts.
    ///
    /// # Errors
    /// As the type says.
    fn compare(&self, picture: &Arc<Rgb>, texts: &[String]) -> Result<Vec<Alike>, EngineError>;

    /// The most probable answers to a question about a picture, best first.
    ///
    /// # Errors
    /// As the type says.
    fn answer(
        &self,
        picture: &Arc<Rgb>,
        question: &str,
        top: usize,
    ) -> Result<Vec<Named>, EngineError>;

    /// How a text relates to a picture.
    ///
    /// # Errors
    /// As the type says.
    fn relate(&self, picture: &Arc<Rgb>, text: &str) -> Result<Relation, EngineError>;

    /// Where a picture has what a phrase names.
    ///
    /// # Errors
    /// As the type says.
    fn ground(&self, picture: &Arc<Rgb>, phrase: &str, top: usize)
    -> Result<Grounded, EngineError>;

    /// What a result rests on.
    ///
    /// # Errors
    /// As the type says.
    fn explain(
        &self,
        picture: &Arc<Rgb>,
        text: &str,
        question: &Question,
    ) -> Result<Explanation, EngineError>;
}
