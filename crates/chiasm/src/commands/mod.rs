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

use crate::cli::{Cli, Command, DataCommand, RegionsCommand};
use crate::commands::push::IndexCommand;
use crate::device::start_threads;
use crate::error::CliError;
use crate::ranks::{among, refuse};

/// Does what was typed.
pub(crate) fn run(cli: &Cli) -> Result<ExitCode, CliError> {
    let global = &cli.global;
    if !shares(&cli.command) {
        refuse()?;
    }
    start_threads(global.threads, computes(&cli.command))?;
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
        Command::Data(args) => data::run(args, global),
        Command::Regions(args) => regions::run(args, global),
        Command::New(args) => new::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Search(args) => search::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Index(IndexCommand::Build(args)) => {
            among(args.ranks, |ranks| index::run(args, ranks, global))
        }
        Command::Index(IndexCommand::Push(args)) => {
            push::run(args, global).map(|()| ExitCode::SUCCESS)
        }
        Command::Serve(args) => serve::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Embed(args) => among(args.ranks, |ranks| embed::run(args, ranks, global)),
        Command::Curate(args) => among(args.ranks, |ranks| curate::run(args, ranks, global)),
        Command::Convert(args) => convert::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(args, global).map(|()| ExitCode::SUCCESS),
        Command::Recipe(args) => recipe::run(args).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => generate::completions(*shell).map(|()| ExitCode::SUCCESS),
        Command::Man => generate::man().map(|()| ExitCode::SUCCESS),
    }
}

/// Whether all parallel work of a command begins on the thread that it is run on.
fn computes(command: &Command) -> bool {
    // The server's models have a thread of their own; regions' pictures are read by another one.
    !matches!(command, Command::Serve(_) | Command::Regions(_))
}

/// Whether a command knows what to do as one of several ranks.
fn shares(command: &Command) -> bool {
    match command {
        Command::Pretrain(_) | Command::Quickstart(_) => true,
        Command::Embed(_) | Command::Curate(_) => true,
        Command::Index(command) => matches!(command, IndexCommand::Build(_)),
        Command::Data(args) => matches!(
            args.command,
            DataCommand::Check { .. } | DataCommand::Audit(_)
        ),
        Command::Regions(args) => matches!(args.command, RegionsCommand::Extract(_)),
        _ => false,
    }
}
