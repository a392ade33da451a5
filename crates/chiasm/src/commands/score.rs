//! `chiasm score`: figures from a predictions file, without a model.

use chiasm_eval::metrics::TieRule;
use chiasm_eval::predictions::Predictions;
use chiasm_eval::score::{render_table, score};

use crate::cli::{Global, ScoreArgs, TieArg};
use crate::error::CliError;
use crate::output;

pub(crate) fn run(args: &ScoreArgs, global: &Global) -> Result<(), CliError> {
    let ties = match args.ties {
        TieArg::Pessimistic => TieRule::Pessimistic,
        TieArg::Optimistic => TieRule::Optimistic,
        TieArg::Stable => TieRule::StableLowestIndex,
    };
    let report = score(&Predictions::read(&args.predictions)?, ties)?;
    if global.json {
        output::json(&report)
    } else {
        output::result(&render_table(&report));
        Ok(())
    }
}
