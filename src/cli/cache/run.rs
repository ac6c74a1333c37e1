//! `windlass cache run`

use std::os::unix::process::CommandExt;

use super::bring::{BringMode, Bringing};
use super::{CacheRoom, ProjectArgs};
use crate::cli::complete;
use crate::cli::failure::{Result, environment, failed};
use crate::cli::host::HostArgs;
use crate::cli::printer::Printer;
use crate::cli::run::split;
use crate::cli::session::Session;

const EXAMPLE: &str = "Examples:
  windlass cache run unit -- pytest tests/unit
  windlass cache run --rebuild unit -- pytest tests/unit
  windlass cache run unit --volume .:/work:ro --workdir /work -- ./test

The exit code is Podman's, and so that of the command.";

/// Run a container of an image as its files say it: what has changed is built first, else it is loaded or there already.
///
/// What follows the name are options of `podman run`; what follows `--` is the command in the container. The container is removed
/// when it ends. Nothing is ever pulled.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct CacheRunArgs {
    /// Build it first in any case, with none of the layers that Podman has of earlier builds.
    #[arg(long)]
    rebuild: bool,
    /// Keep weights of models too.
    #[arg(long)]
    yes: bool,
    /// Only say what would be done before it is run.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    host: HostArgs,
    /// A name of `windlass-cache.json`.
    #[arg(add = complete::cached_images(), value_name = "NAME")]
    name: String,
    /// Options of `podman run`, and after `--` the command in the container with its arguments.
    #[arg(value_name = "OPTIONS] [-- COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(super) fn run(args: &CacheRunArgs, printer: &Printer, session: &Session) -> Result<()> {
    let CacheRunArgs { rebuild, yes, dry_run, project, host, name, words } = args;
    let room = CacheRoom::open(project, host, session.progress())?;
    let mode = if *rebuild { BringMode::Build { fresh: true } } else { BringMode::Update };
    let image = room.project.chosen(std::slice::from_ref(name))?[0];
    let (yes, dry_run) = (*yes, *dry_run);
    let row = Bringing { room: &room, image, mode, yes, dry_run, printer, session }.bring()?;
    if dry_run {
        return super::report::report(vec![row], true, session.elapsed().as_secs_f64(), printer);
    }
    let reference = image.1.reference(image.0).map_err(failed)?;
    let digest = row.digest.map(|digest| format!("{}@{digest}", reference.repository()));
    let (options, words) = split(words);
    let mut command = room.host.engine.podman("run an image by its name")?.command("podman");
    command
        .args(["run", "--rm", "--pull=never"])
        .args(options)
        .arg(digest.unwrap_or(reference.to_string()))
        .args(words);
    Err(environment(format!("run podman: {}", command.exec())))
}
