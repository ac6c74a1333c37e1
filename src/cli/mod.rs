//! The command line: the only module that prints, reads the environment, or knows a terminal.
//!
//! One verb a file. Results go to standard output, progress and errors to standard error; the last line of a result is
//! one sentence with counts.

mod build;
mod closure;
mod compose;
mod diff;
mod docs;
mod doctor;
mod export;
mod failure;
mod gc;
mod generations;
mod host;
mod inspect;
mod load;
mod loaded;
mod metrics;
mod model;
mod nix_builder;
mod output;
mod plan;
mod printer;
mod push;
mod registry;
mod repair;
mod rollback;
mod session;
mod status;
mod upstream;
mod verify;
mod view;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::printer::Printer;
use self::session::Session;

/// Nix store paths and model weights in, reproducible OCI images out.
///
/// windlass turns store paths, model files and plain directories into OCI images whose digests are fixed at build time,
/// with every model in a layer of its own that nothing else can change.
///
/// Most people never call it by hand: `nix build .#ai-stack-images` does, through the functions in nix/lib/.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 4 verification failed, 5 not enough space, 7 the environment is wrong,
/// 8 updates are available.
#[derive(Debug, Parser)]
#[command(name = "windlass", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Build(build::Args),
    Plan(plan::Args),
    Diff(diff::Args),
    Inspect(inspect::Args),
    Export(export::Args),
    Push(push::Args),
    Load(load::Args),
    Status(status::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Generations(generations::Args),
    Rollback(rollback::Args),
    Gc(gc::Args),
    Model(model::Args),
    Doctor(doctor::Args),
    Compose(compose::Args),
    Upstream(upstream::Args),
    #[command(hide = true)]
    NixBuilder,
    #[command(hide = true)]
    Completions(docs::CompletionsArgs),
    #[command(hide = true)]
    Man(docs::ManArgs),
}

/// Runs windlass with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures: clap knows where each goes.
            let failed = error.use_stderr();
            return if error.print().is_ok() && !failed { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    let printer = Printer::new(cli.json);
    // Verbs that write stop at a signal and tidy up; the others may just be killed.
    let session = OnceCell::new();
    let start = || session.get_or_init(Session::start);
    let result = match cli.verb {
        Verb::Build(args) => build::run(&args, &printer, start()),
        Verb::Plan(args) => plan::run(&args, &printer),
        Verb::Diff(args) => diff::run(&args, &printer),
        Verb::Inspect(args) => inspect::run(&args, &printer),
        Verb::Export(args) => export::run(&args, &printer, start()),
        Verb::Push(args) => push::run(&args, &printer, start()),
        Verb::Load(args) => load::run(&args, &printer, start()),
        Verb::Doctor(args) => doctor::run(&args, &printer, start()),
        Verb::Compose(args) => compose::run(&args, &printer),
        Verb::Upstream(args) => upstream::run(&args, &printer, start()),
        Verb::Model(args) => model::run(&args, &printer, start()),
        Verb::Status(args) => status::run(&args, &printer),
        Verb::Generations(args) => generations::run(&args, &printer),
        Verb::Rollback(args) => rollback::run(&args, &printer, start()),
        Verb::Gc(args) => gc::run(&args, &printer, start()),
        Verb::Verify(args) => verify::run(&args, &printer, start()),
        Verb::Repair(args) => repair::run(&args, &printer, start()),
        Verb::NixBuilder => nix_builder::run(&printer, start()),
        Verb::Completions(args) => docs::completions(&args, &printer),
        Verb::Man(args) => docs::man(&args, &printer),
    };
    let result = result.and_then(|()| printer.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = failure::report(&error, &printer);
            if let Some(session) = session.get() {
                session.die_of_signal();
            }
            code
        }
    }
}
