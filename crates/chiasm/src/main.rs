//! `chiasm`: the command line, nothing else.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,
//! 130 interrupted (training saves a checkpoint first).

mod cli;
mod commands;
mod device;
mod error;
mod features;
mod model;
mod output;
mod ranks;
mod regional;
mod serving;
mod source;
mod store;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    chiasm_alloc::keep_freed_memory();
    let cli = cli::Cli::parse();
    match commands::run(&cli) {
        Ok(code) => code,
        Err(error) => {
            error.print();
            ExitCode::FAILURE
        }
    }
}
