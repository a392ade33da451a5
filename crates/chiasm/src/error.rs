//! One way to show an error: what is wrong, where, and after a blank line what to do.

use chiasm_data::DataError;
use chiasm_eval::metrics::RetrievalError;
use chiasm_eval::predictions::PredictionsError;
use chiasm_eval::report::ReportError;
use chiasm_eval::submission::SubmissionError;
use chiasm_eval::tasks::embedder::TaskError;
use chiasm_explain::ExplainError;
use chiasm_format::{FormatError, PartsError};
use chiasm_index::IndexError;
use chiasm_ranks::RankError;
use chiasm_regions::RegionError;
use chiasm_relation::RelationError;
use chiasm_remote::RemoteError;
use chiasm_train::TrainError;

/// An error on its way to the reader.
#[derive(Debug)]
pub(crate) struct CliError {
    message: String,
    hint: Option<String>,
}

impl CliError {
    /// An error of the command line itself.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<Option<String>>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Writes it to stderr.
    #[allow(clippy::print_stderr)]
    pub(crate) fn print(&self) {
        eprintln!("error: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("\nhint: {hint}");
        }
    }

    /// All of it in a line.
    pub(crate) fn one_line(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// The message alone.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl From<DataError> for CliError {
    fn from(error: DataError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

impl From<ExplainError> for CliError {
    fn from(error: ExplainError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

impl From<FormatError> for CliError {
    fn from(error: FormatError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}

impl From<IndexError> for CliError {
    fn from(error: IndexError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}

impl From<PartsError> for CliError {
    fn from(error: PartsError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}

impl From<RankError> for CliError {
    fn from(error: RankError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

impl From<RegionError> for CliError {
    fn from(error: RegionError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

impl From<TrainError> for CliError {
    fn from(error: TrainError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

impl From<RelationError> for CliError {
    fn from(error: RelationError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}

impl From<RemoteError> for CliError {
    fn from(error: RemoteError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}

impl From<SubmissionError> for CliError {
    fn from(error: SubmissionError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}

impl From<TaskError> for CliError {
    fn from(error: TaskError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

impl From<RetrievalError> for CliError {
    fn from(error: RetrievalError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}

impl From<PredictionsError> for CliError {
    fn from(error: PredictionsError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}

impl From<ReportError> for CliError {
    fn from(error: ReportError) -> Self {
        Self::new(error.to_string(), error.hint().map(str::to_owned))
    }
}
