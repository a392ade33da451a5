//! `chiasm completions` and `chiasm man`: made from the definitions of the command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::CliError;
use crate::output;

pub(crate) fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "chiasm", &mut script);
    output::result(&String::from_utf8_lossy(&script));
    Ok(())
}

/// The page of `chiasm`, then one section for every command.
pub(crate) fn man() -> Result<(), CliError> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let mut render = |command: clap::Command| {
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| CliError::new(format!("cannot write the manual page: {error}"), None))
    };
    render(command.clone())?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        render(sub.clone())?;
    }
    output::result(&String::from_utf8_lossy(&page));
    Ok(())
}
