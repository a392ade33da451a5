//! One file a command.

mod align;
mod answers;
mod audit;
mod calibrate;
mod convert;
pub(crate) mod curate;
mod data;
mod embed;
pub(crate) mod eval;
pub(crate) mod explain;
mod frames;
mod generate;
mod graph;
pub(crate) mod index;
mod inspect;
mod new;
mod plan;
pub(crate) mod pretrain;
pub(crate) mod probe;
pub(crate) mod push;
mod quickstart;
mod recipe;
pub(crate) mod regions;
pub(crate) mod relate;
mod report;
pub(crate) mod score;
mod search;
pub(crate) mod serve;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::error::CliError;

/// Does what was typed.
pub(crate) fn run(cli: &Cli) -> Result<ExitCode, CliError> {
    let global = &cli.global;
    match &cli.command {
        Command::Quickstart(args) => quickstart::run(args, global),
        Command::Pretrain(args) => pretrain::run(args, global),
        Command::Plan(args) => plan::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Eval(args) => eval::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Align(args) => align::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Calibrate(args) => calibrate::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Explain(args) => explain::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Probe(args) => probe::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Relate(args) => relate::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Score(args) => score::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Graph(args) => graph::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Data(args) => data::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Regions(args) => regions::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::New(args) => new::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Search(args) => search::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Index(args) => push::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Serve(args) => serve::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Embed(args) => embed::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Curate(args) => curate::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Convert(args) => convert::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Recipe(args) => recipe::run(args).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => generate::completions(*shell).map(|()| ExitCode::SUCCESS),
        Command::Man => generate::man().map(|()| ExitCode::SUCCESS),
    }
}
