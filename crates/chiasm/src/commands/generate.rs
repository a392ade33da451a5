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

/// The page of `chiasm`, then one for every command and the commands below it.
pub(crate) fn man() -> Result<(), CliError> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    render(&command, &mut page)?;
    output::result(&String::from_utf8_lossy(&page));
    Ok(())
}

fn render(command: &clap::Command, page: &mut Vec<u8>) -> Result<(), CliError> {
    clap_mangen::Man::new(command.clone())
        .render(page)
        .map_err(|error| CliError::new(format!("cannot write the manual page: {error}"), None))?;
    command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
        .try_for_each(|sub| render(sub, page))
}
