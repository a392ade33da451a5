//! Files that leaderboards take, made from class predictions alone.
//!
//! | leaderboard | file |
//! |---|---|
//! | VQA v2 (EvalAI) | `[{"question_id": 262148000, "answer": "yes"}, …]`, one entry a question |
//! | NLVR2 | `test1-0-0-0,True` a line |

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use chiasm_data::atomic::write_atomically;
use serde::Serialize;
use thiserror::Error;

use crate::metrics::classes::statement_of;
use crate::predictions::{ClassPredictions, ClassRow};

/// Why a leaderboard file cannot be written.
#[derive(Debug, Error)]
pub enum SubmissionError {
    /// An identifier is none of the leaderboard's.
    #[error("sample {row}, `{id}`: its identifier is not {wanted}")]
    Identifier {
        /// Number of the sample in the predictions, from 1.
        row: usize,
        /// The first such identifier.
        id: String,
        /// What the leaderboard takes.
        wanted: &'static str,
    },
    /// Two samples are the same one to the leaderboard.
    #[error("sample {row}, `{id}`: another sample is question {id} already")]
    Twice {
        /// Number of the second one in the predictions, from 1.
        row: usize,
        /// Its identifier.
        id: String,
    },
    /// A class that the leaderboard does not know.
    #[error("sample {row}, `{id}`: `{predicted}` was predicted, not true or false")]
    Class {
        /// Number of the sample in the predictions, from 1.
        row: usize,
        /// Its identifier.
        id: String,
        /// The class.
        predicted: String,
    },
    /// The file system refused.
    #[error("cannot write `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SubmissionError {
    /// What to do about it, for the one who prints the error.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Identifier { .. } | Self::Twice { .. } => {
                Some("predict the leaderboard's own file of questions or statements")
            }
            Self::Class { .. } => Some("give predictions of a model trained on true and false"),
            Self::Io { .. } => None,
        }
    }
}

#[derive(Serialize)]
struct VqaAnswer<'a> {
    question_id: u64,
    answer: &'a str,
}

/// Writes the answers in the form of VQA v2's leaderboard at `path`, whole or not at all.
///
/// # Errors
/// [`SubmissionError`] naming the first sample whose identifier is not a whole number or is there twice.
pub fn write_vqa(predictions: &ClassPredictions, path: &Path) -> Result<(), SubmissionError> {
    let mut known = std::collections::HashSet::new();
    let answer = |(row, given): (usize, &ClassRow)| -> Result<u64, SubmissionError> {
        let id = || given.id.clone();
        // A sign would parse too.
        let digits = given.id.bytes().all(|byte| byte.is_ascii_digit());
        let number = given.id.parse().ok().filter(|_| digits);
        let question_id = number.ok_or_else(|| SubmissionError::Identifier {
            row,
            id: id(),
            wanted: "a whole number",
        })?;
        // `7` and `07` are two identifiers and one question.
        if known.insert(question_id) {
            Ok(question_id)
        } else {
            Err(SubmissionError::Twice { row, id: id() })
        }
    };
    let rows = &predictions.rows;
    let ids: Vec<u64> = (1..).zip(rows).map(answer).collect::<Result<_, _>>()?;
    let answers = ids
        .into_iter()
        .zip(rows)
        .map(|(question_id, row)| VqaAnswer {
            question_id,
            answer: &row.predicted,
        });
    let answers: Vec<VqaAnswer<'_>> = answers.collect();
    write(path, |file| Ok(serde_json::to_writer(file, &answers)?))
}

/// Writes the judgements as NLVR2's evaluation reads them at `path`, whole or not at all.
///
/// # Errors
/// [`SubmissionError`] naming the first sample whose identifier is not `split-set-pair-sentence`, or whose class is
/// neither true nor false.
pub fn write_nlvr2(predictions: &ClassPredictions, path: &Path) -> Result<(), SubmissionError> {
    let mut lines = Vec::with_capacity(predictions.rows.len());
    for (row, given) in (1..).zip(&predictions.rows) {
        let id = given.id.as_str();
        // The split is free text, which must not break the line.
        if statement_of(id).is_none() || id.contains([',', '\n', '\r', '"']) {
            return Err(SubmissionError::Identifier {
                row,
                id: given.id.clone(),
                wanted: "one of NLVR2, as `test1-0-0-0`",
            });
        }
        lines.push((id, verdict(row, given)?));
    }
    write(path, |file| {
        lines
            .iter()
            .try_for_each(|(id, verdict)| writeln!(file, "{id},{verdict}"))
    })
}

fn verdict(row: usize, given: &ClassRow) -> Result<&'static str, SubmissionError> {
    ["True", "False"]
        .into_iter()
        .find(|verdict| verdict.eq_ignore_ascii_case(&given.predicted))
        .ok_or_else(|| SubmissionError::Class {
            row,
            id: given.id.clone(),
            predicted: given.predicted.clone(),
        })
}

fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), SubmissionError> {
    write_atomically(path, |partial| -> io::Result<()> {
        let mut file = BufWriter::new(File::create(partial)?);
        fill(&mut file)?;
        file.flush()
    })
    .map_err(|source| SubmissionError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn predictions(rows: &[(&str, &str)]) -> ClassPredictions {
        let row = |(id, predicted): &(&str, &str)| ClassRow {
            id: (*id).into(),
            predicted: (*predicted).into(),
            ..ClassRow::default()
        };
        ClassPredictions {
            rows: rows.iter().map(row).collect(),
            ..ClassPredictions::default()
        }
    }

    #[test]
    fn answers_are_written_as_the_leaderboard_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vqa.json");
        let rows = [("262148000", "yes"), ("7", "a \"quoted\"\nanswer")];
        write_vqa(&predictions(&rows), &path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            r#"[{"question_id":262148000,"answer":"yes"},{"question_id":7,"answer":"a \"quoted\"\nanswer"}]"#
        );
        write_vqa(&predictions(&[]), &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[]");
    }

    #[test]
    fn judgements_are_written_as_the_evaluation_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nlvr2.csv");
        let rows = [("test1-0-0-0", "true"), ("test1-0-1-0", "FALSE")];
        write_nlvr2(&predictions(&rows), &path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "test1-0-0-0,True\ntest1-0-1-0,False\n"
        );
    }

    #[test]
    fn what_a_leaderboard_would_refuse_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let vqa = |id| {
            write_vqa(
                &predictions(&[("7", "yes"), (id, "no"), ("x", "no")]),
                &path,
            )
        };
        for id in [
            "7a",
            "",
            "-7",
            "+7",
            "7.0",
            " 8",
            "18446744073709551616",
            "7#1",
        ] {
            let error = vqa(id).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("sample 2, `{id}`: its identifier is not a whole number")
            );
            assert!(error.hint().is_some());
        }
        let error = vqa("007").unwrap_err();
        assert!(
            matches!(error, SubmissionError::Twice { row: 2, .. }),
            "{error}"
        );
        let nlvr2 = |id, class| write_nlvr2(&predictions(&[(id, class)]), &path).unwrap_err();
        for id in ["7", "a,b-0-0-0", "a\nb-0-0-0"] {
            assert!(matches!(
                nlvr2(id, "true"),
                SubmissionError::Identifier { row: 1, .. }
            ));
        }
        assert_eq!(
            nlvr2("dev-0-0-0", "maybe").to_string(),
            "sample 1, `dev-0-0-0`: `maybe` was predicted, not true or false"
        );
        assert!(!path.exists(), "nothing is written");
        let error = write_vqa(&predictions(&[]), &folder.path().join("no/file")).unwrap_err();
        assert!(matches!(error, SubmissionError::Io { .. }));
    }
}
