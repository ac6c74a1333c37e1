//! The command line: the only module that prints, reads the environment, or knows a terminal.
//!
//! One verb a file. Results go to standard output, progress and errors to standard error; the last line of a result is
//! one sentence with counts.

mod archives;
mod attest;
mod build;
mod bundle;
mod cache;
mod closure;
mod complete;
mod compose;
mod daemon;
mod data_format;
mod deferred;
mod diff;
mod docs;
mod doctor;
mod export;
mod failure;
mod foretell;
mod gc;
mod generations;
mod host;
mod import_store;
mod input;
mod inspect;
mod into;
mod layer_cache;
mod lint;
mod load;
mod load_plan;
mod loaded;
mod man;
mod metrics;
mod model;
mod nix_builder;
mod output;
mod plan;
mod printer;
mod progress_line;
mod push;
mod registry;
mod repair;
mod report;
mod rollback;
mod run;
mod sbom;
mod schemas;
mod session;
mod settings;
mod signing;
mod simulate;
mod status;
mod table;
mod targets;
mod tree;
mod unload;
mod upstream;
mod verify;
mod verify_rebuild;
mod view;
mod why;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::env::CompleteEnv;

use self::deferred::Deferred;
use self::printer::{Colour, Printer};
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
    /// Print the result as JSON: an object with `version`, for an error too (`error`).
    #[arg(long, global = true)]
    json: bool,
    /// Print only results and errors: no progress, no warnings.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Colour for what is wrong. NO_COLOR switches it off too.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    color: Colour,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Build(Deferred<build::BuildArgs>),
    Plan(Deferred<plan::PlanArgs>),
    Diff(Deferred<diff::DiffArgs>),
    Simulate(Deferred<simulate::SimulateArgs>),
    Inspect(Deferred<inspect::InspectArgs>),
    Report(Deferred<report::ReportArgs>),
    Sbom(Deferred<sbom::SbomArgs>),
    Export(Deferred<export::ExportArgs>),
    Push(Deferred<push::PushArgs>),
    Attest(Deferred<attest::AttestArgs>),
    Load(Deferred<load::LoadArgs>),
    Status(Deferred<status::StatusArgs>),
    Verify(Deferred<verify::VerifyArgs>),
    Repair(Deferred<repair::RepairArgs>),
    Generations(Deferred<generations::GenerationsArgs>),
    Rollback(Deferred<rollback::RollbackArgs>),
    Unload(Deferred<unload::UnloadArgs>),
    Run(Deferred<run::RunArgs>),
    Gc(Deferred<gc::GcArgs>),
    Model(Deferred<model::ModelArgs>),
    Lint(Deferred<lint::LintArgs>),
    Doctor(Deferred<doctor::DoctorArgs>),
    Compose(Deferred<compose::ComposeArgs>),
    Upstream(Deferred<upstream::UpstreamArgs>),
    Cache(Deferred<cache::CacheArgs>),
    Schema(Deferred<schemas::SchemaArgs>),
    #[command(hide = true)]
    NixBuilder,
    #[command(hide = true)]
    Completions(Deferred<docs::CompletionsArgs>),
    #[command(hide = true)]
    Man(Deferred<man::ManArgs>),
    /// Print the help of every verb as one page of Markdown.
    #[command(hide = true)]
    Reference,
}

/// What arguments are read by: with all that there is to say of every verb, unless the first one is a verb.
fn command(arguments: &[OsString]) -> Command {
    let mut command = Cli::command();
    let verb = arguments.get(1).and_then(|verb| command.find_subcommand(verb));
    if verb.is_none() {
        command.build();
    }
    command
}

/// Runs windlass with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let completer = CompleteEnv::with_factory(Cli::command).var(complete::VARIABLE);
    match completer.try_complete(arguments.clone(), std::env::current_dir().ok().as_deref()) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        // A shell that asks wrongly gets no names.
        Err(_) => return ExitCode::FAILURE,
    }
    let given = command(&arguments).try_get_matches_from(&arguments);
    let (given, cli) = match given.and_then(|given| Cli::from_arg_matches(&given).map(|cli| (given, cli))) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are no failures: clap knows where each goes.
            let failed = error.use_stderr();
            if failed && arguments.iter().any(|argument| argument == "--json") {
                return failure::report(
                    &failure::usage(failure::first_line(&error)),
                    &Printer::new(true, false, Colour::Never),
                );
            }
            return if error.print().is_ok() && !failed { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    let printer = Printer::new(cli.json, cli.quiet, cli.color);
    if let Err(missing) = input::check(&given) {
        return failure::report(&missing, &printer);
    }
    // Verbs that write stop at a signal and tidy up; the others may just be killed.
    let session = OnceCell::new();
    let start = || session.get_or_init(Session::start);
    let result = match cli.verb {
        Verb::Build(args) => build::run(&args, &printer, start()),
        Verb::Plan(args) => plan::run(&args, &printer),
        Verb::Diff(args) => diff::run(&args, &printer),
        Verb::Simulate(args) => simulate::run(&args, &printer, start()),
        Verb::Inspect(args) => inspect::run(&args, &printer),
        Verb::Report(args) => report::run(&args, &printer, start()),
        Verb::Sbom(args) => sbom::run(&args, &printer),
        Verb::Export(args) => export::run(&args, &printer, start()),
        Verb::Push(args) => push::run(&args, &printer, start()),
        Verb::Attest(args) => attest::run(&args, &printer, start()),
        Verb::Load(args) => load::run(&args, &printer, start()),
        Verb::Lint(args) => lint::run(&args, &printer),
        Verb::Doctor(args) => doctor::run(&args, &printer, start()),
        Verb::Compose(args) => compose::run(&args, &printer),
        Verb::Upstream(args) => upstream::run(&args, &printer, start()),
        Verb::Cache(args) => cache::run(&args, &printer, start()),
        Verb::Model(args) => model::run(&args, &printer, start()),
        Verb::Status(args) => status::run(&args, &printer),
        Verb::Generations(args) => generations::run(&args, &printer),
        Verb::Rollback(args) => rollback::run(&args, &printer, start()),
        Verb::Unload(args) => unload::run(&args, &printer, start()),
        Verb::Run(args) => run::run(&args, &session::progress()),
        Verb::Gc(args) => gc::run(&args, &printer, start()),
        Verb::Verify(args) => verify::run(&args, &printer, start()),
        Verb::Repair(args) => repair::run(&args, &printer, start()),
        Verb::Schema(args) => schemas::run(&args, &printer),
        Verb::NixBuilder => nix_builder::run(&printer, start()),
        Verb::Completions(args) => docs::completions(&args, &printer),
        Verb::Man(args) => man::run(&args, &printer),
        Verb::Reference => docs::reference(&printer),
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
