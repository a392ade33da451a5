//! `chiasm index push`: an index into a database.

use std::path::PathBuf;
use std::time::Instant;

use chiasm_index::{GraphChoice, Index};
use chiasm_remote::{Address, PushOptions, Step};
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use serde::Serialize;

use crate::cli::Global;
use crate::commands::index::{Graph, IndexArgs};
use crate::error::CliError;
use crate::output::{self, Progress, note};

/// `chiasm index`: what is to be built, or what is to be done with an index that is there.
#[derive(Debug)]
pub(crate) enum IndexCommand {
    Build(Box<IndexArgs>),
    Push(PushArgs),
}

/// What to do with an index that is there.
#[derive(Debug, Subcommand)]
enum IndexAction {
    /// Copy an index into PostgreSQL or Qdrant, or bring the copy up to date
    Push(PushArgs),
}

impl Args for IndexCommand {
    fn augment_args(command: Command) -> Command {
        let command = IndexArgs::augment_args(command);
        IndexAction::augment_subcommands(command)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
            // What `augment_subcommands` asks for: here none is the usual case.
            .subcommand_required(false)
            .arg_required_else_help(false)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for IndexCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if matches.subcommand_name().is_some() {
            let IndexAction::Push(args) = IndexAction::from_arg_matches(matches)?;
            return Ok(Self::Push(args));
        }
        Ok(Self::Build(Box::new(IndexArgs::from_arg_matches(matches)?)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `chiasm index push`.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// Folder of the index
    index: PathBuf,
    /// `postgres://USER@HOST/DATABASE?table=NAME`, `qdrant://HOST/COLLECTION` or `qdrant+https://HOST/COLLECTION`.
    /// Passwords may come from PGPASSWORD, keys come from CHIASM_QDRANT_KEY
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Build an index for approximate search there [default: from 200,000 items on]
    #[arg(long, value_enum, default_value = "auto")]
    graph: Graph,
    /// Throw away what another model made there
    #[arg(long)]
    replace: bool,
}

#[derive(Serialize)]
struct Report {
    to: String,
    items: usize,
    sent: usize,
    unchanged: usize,
    removed: usize,
    graph: bool,
    seconds: f64,
}

pub(crate) fn run(args: &PushArgs, global: &Global) -> Result<(), CliError> {
    let address: Address = args.to.parse()?;
    let index = Index::open(&args.index)?;
    let options = PushOptions {
        graph: match args.graph {
            Graph::Auto => GraphChoice::Auto,
            Graph::Always => GraphChoice::Build,
            Graph::Never => GraphChoice::None,
        },
        replace: args.replace,
    };
    let started = Instant::now();
    let mut bar = Progress::new("push", index.len() as u64);
    let pushed = chiasm_remote::push(&index, &address, options, &mut |step| match step {
        Step::Send(done, _) => bar.set(done as u64, "items"),
        Step::Graph => bar.line("building the index for approximate search"),
        Step::Compare | Step::Remove | Step::Verify => {}
    });
    bar.finish();
    let pushed = pushed?;
    if let Some(reason) = &pushed.note {
        note(reason);
    }
    let report = Report {
        to: address.to_string(),
        items: pushed.items,
        sent: pushed.sent,
        unchanged: pushed.unchanged,
        removed: pushed.removed,
        graph: pushed.graph,
        seconds: started.elapsed().as_secs_f64(),
    };
    let table = format!(
        "{} items in {}: {} sent, {} as they were, {} removed, in {}\nsearch it: chiasm search \"{}\" \"words\"\nserve it:  chiasm serve --index \"{}\"",
        report.items,
        report.to,
        report.sent,
        report.unchanged,
        report.removed,
        output::duration(report.seconds),
        report.to,
        report.to
    );
    output::report(global, &report, &table)
}
