//! What cannot be explained.

use chiasm_data::DataError;
use chiasm_eval::predictions::PredictionsError;
use chiasm_eval::tasks::embedder::TaskError;

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The model has no part that this needs.
    #[error("{0}")]
    Lacks(&'static str, &'static str),
    /// A layer, head, region, class or word that is not there.
    #[error("there is no {what} {number}: the model has {count}, counted from 0")]
    Range {
        /// Of what.
        what: &'static str,
        /// The one asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// A word that the text does not have, or that was cut off.
    #[error("`{word}` is no word of \"{text}\" as the model reads it")]
    Word {
        /// The word.
        word: String,
        /// The text.
        text: String,
    },
    /// A data set or model that cannot be used.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A picture that cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A predictions file.
    #[error(transparent)]
    Predictions(#[from] PredictionsError),
    /// The page could not be filled.
    #[error("cannot fill the page: {0}")]
    Page(#[from] minijinja::Error),
    /// A file that was written by something else.
    #[error("{0}")]
    File(String),
    /// A picture that cannot be encoded.
    #[error("cannot write the picture: {0}")]
    Picture(String),
    /// The device did not return a result.
    #[error("the device returned no values: {0}")]
    Device(String),
}

impl ExplainError {
    /// How to go on, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lacks(_, hint) => Some((*hint).to_owned()),
            Self::Task(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Predictions(error) => error.hint().map(str::to_owned),
            Self::Word { .. } => Some("give a whole word of the text".to_owned()),
            Self::Range { .. }
            | Self::Page(_)
            | Self::File(_)
            | Self::Picture(_)
            | Self::Device(_) => None,
        }
    }
}
