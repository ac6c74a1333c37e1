//! Shell completions and man pages, made from the same definitions as `--help`; the Nix package installs them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::printer::Printer;

/// Print the completions for a shell.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Write the man pages into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The directory, which must exist.
    directory: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs, printer: &Printer) -> Result<()> {
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "windlass", &mut bytes);
    printer.bytes(&bytes)
}

pub(super) fn man(args: &ManArgs, printer: &Printer) -> Result<()> {
    clap_mangen::generate_to(Cli::command(), &args.directory)
        .with_context(|| format!("write to {}", args.directory.display()))?;
    printer.line(format!("man pages are in {}", args.directory.display()))
}
