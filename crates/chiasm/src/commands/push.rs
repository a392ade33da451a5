//! `chiasm index push`: an index into a database.

use std::path::PathBuf;
use std::time::Instant;

use chiasm_index::{GraphChoice, Index};
use chiasm_remote::{Address, PushOptions, Step};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::Global;
use crate::commands::index::{self, Graph, IndexArgs};
use crate::error::CliError;
use crate::output::{self, Progress, note};

/// `chiasm index`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct IndexCommand {
    /// What to do with an index that is there.
    #[command(subcommand)]
    action: Option<IndexAction>,
    #[command(flatten)]
    build: Option<IndexArgs>,
}

/// What to do with an index that is there.
#[derive(Debug, Subcommand)]
enum IndexAction {
    /// Copy an index into PostgreSQL or Qdrant, or bring the copy up to date
    Push(PushArgs),
}

/// `chiasm index push`.
#[derive(Args, Debug)]
struct PushArgs {
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

pub(crate) fn run(args: &IndexCommand, global: &Global) -> Result<(), CliError> {
    match (&args.action, &args.build) {
        (Some(IndexAction::Push(args)), _) => push(args, global),
        (None, Some(args)) => index::run(args, global),
        // What is required is asked for when the command line is read.
        (None, None) => Err(CliError::new(
            "nothing says what to index",
            "see `chiasm index --help`".to_owned(),
        )),
    }
}

fn push(args: &PushArgs, global: &Global) -> Result<(), CliError> {
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
