//! `chiasm score`: figures from a predictions file, without a model.

use chiasm_eval::metrics::TieRule;
use chiasm_eval::score::{
    AnyPredictions, read_any, render_alignment_table, render_class_table, render_grounding_table,
    render_relation_table, render_table, score, score_alignment, score_classes, score_grounding,
    score_relation,
};

use crate::cli::{Global, ScoreArgs, TieArg};
use crate::error::CliError;
use crate::output;

pub(crate) fn run(args: &ScoreArgs, global: &Global) -> Result<(), CliError> {
    let ties = match args.ties {
        TieArg::Pessimistic => TieRule::Pessimistic,
        TieArg::Optimistic => TieRule::Optimistic,
        TieArg::Stable => TieRule::StableLowestIndex,
    };
    match read_any(&args.predictions)? {
        AnyPredictions::Retrieval(predictions) => {
            let report = score(&predictions, ties)?;
            output::report(global, &report, &render_table(&report))
        }
        AnyPredictions::Classes(predictions) => {
            let report = score_classes(&predictions);
            output::report(global, &report, &render_class_table(&report))
        }
        AnyPredictions::Alignment(predictions) => {
            let report = score_alignment(&predictions);
            output::report(global, &report, &render_alignment_table(&report))
        }
        AnyPredictions::Grounding(predictions) => {
            let report = score_grounding(&predictions);
            output::report(global, &report, &render_grounding_table(&report))
        }
        AnyPredictions::Relation(predictions) => {
            let report = score_relation(&predictions).ok_or_else(nothing_scored)?;
            output::report(global, &report, &render_relation_table(&report))
        }
    }
}

/// A file of relations without a row.
pub(crate) fn nothing_scored() -> CliError {
    CliError::new(
        "the file has no pair, so there is nothing to score",
        "write the predictions again from a split with labelled pairs".to_owned(),
    )
}
