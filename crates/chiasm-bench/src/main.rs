//! Our side of the measurements in `benches/`: writes what a workload computes, and computes it on
//! request. `benches/compare.py` drives it; nobody else needs to.

mod ceiling;
mod export;
mod photos;
mod saving;
mod selection;
mod serve;
mod work;
mod workload;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use chiasm_nn::packed::Precision;
use clap::{Parser, Subcommand};

/// Any failure ends the measurement with its message.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The workload, a file of `benches/workloads`; run from the root of the repository.
    #[arg(
        long,
        global = true,
        default_value = "benches/workloads/quickstart_step.toml"
    )]
    workload: PathBuf,
    /// Folder of data sets, for workloads that look at photos.
    #[arg(long, global = true)]
    data: Option<PathBuf>,
    /// Threads that compute.
    #[arg(long, global = true, default_value_t = 2)]
    threads: usize,
    /// Pairs of a step, in place of the recipe's.
    #[arg(long, global = true)]
    batch_size: Option<usize>,
    /// Train with gradient checkpointing.
    #[arg(long, global = true)]
    gradient_checkpointing: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Write start weights, settings and the exact inputs of every step.
    Export {
        /// Folder for them.
        #[arg(long)]
        out: PathBuf,
    },
    /// Answer requests on stdin, one line of JSON each: `steps N`.
    Serve {
        /// In what to multiply where nothing is trained: `f32`, `bf16` or `int8`.
        #[arg(long, default_value = "f32", value_parser = precision)]
        precision: Precision,
    },
    /// What the machine can do at most: GFLOP/s of multiply-adds, GB/s of memory.
    Ceiling,
    /// Time the losses of a step with shared passes and with passes of their own, in turns.
    Saving {
        /// Turns of each.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Train towers too that the recipe freezes.
        #[arg(long)]
        train_all: bool,
    },
    /// Time training steps with all of attention kept and with every rule of selection, in turns.
    Selection {
        /// Turns of each.
        #[arg(long, default_value_t = 7)]
        rounds: usize,
        /// Rules with their values, such as `prob_abs=0.02`.
        #[arg(required = true)]
        rules: Vec<String>,
    },
}

fn precision(name: &str) -> std::result::Result<Precision, String> {
    match name {
        "f32" => Ok(Precision::F32),
        "bf16" => Ok(Precision::Bf16),
        "int8" => Ok(Precision::Int8),
        _ => Err("it is `f32`, `bf16` or `int8`".to_owned()),
    }
}

fn run(cli: &Cli) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(cli.threads)
        .use_current_thread()
        .build_global()?;
    let train_all = matches!(
        cli.command,
        Command::Saving {
            train_all: true,
            ..
        }
    );
    match &cli.command {
        Command::Ceiling => return ceiling::measure(),
        Command::Selection { rounds, rules } => {
            return selection::measure(&cli.workload, rules, *rounds);
        }
        _ => {}
    }
    let prepared = workload::prepare(&cli.workload, cli.data.as_deref(), |recipe| {
        if train_all {
            recipe.weights.freeze.clear();
        }
        let schedule = &mut recipe.schedule;
        schedule.batch_size = cli.batch_size.unwrap_or(schedule.batch_size);
        schedule.gradient_checkpointing |= cli.gradient_checkpointing;
    })?;
    match &cli.command {
        Command::Export { out } => export::write(&prepared, out),
        Command::Serve { precision } => serve::answer(prepared, *precision),
        Command::Saving { rounds, .. } => saving::measure(&prepared, *rounds),
        Command::Ceiling | Command::Selection { .. } => Ok(()),
    }
}

fn main() -> ExitCode {
    chiasm_alloc::keep_freed_memory();
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}
