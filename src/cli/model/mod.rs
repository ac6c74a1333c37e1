//! `windlass model`

mod add;
mod fetch;
mod hub;
mod inspect;
mod list;
mod split;
mod use_model;

use anyhow::Result;

use super::printer::Printer;
use super::session::Session;

/// What models are, which of them are loaded, and which one is active.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Add(add::Args),
    Fetch(fetch::Args),
    Inspect(inspect::Args),
    List(list::Args),
    Split(split::Args),
    Use(use_model::Args),
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    match &args.verb {
        Verb::Add(args) => add::run(args, printer, session),
        Verb::Fetch(args) => fetch::run(args, printer, session),
        Verb::Inspect(args) => inspect::run(args, printer, session),
        Verb::List(args) => list::run(args, printer, session),
        Verb::Split(args) => split::run(args, printer, session),
        Verb::Use(args) => use_model::run(args, printer, session),
    }
}
