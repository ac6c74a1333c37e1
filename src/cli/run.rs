//! `windlass run`

use std::os::unix::process::CommandExt;

use super::complete;
use super::failure::{Result, environment, nothing_loaded, usage};
use super::host::HostArgs;
use super::load::run_words;
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::image::summary::ImageKind;
use crate::names::{LOADED, no_such};

const EXAMPLE: &str = "Examples:
  windlass run redis --publish 6379:6379
  windlass run redis --rm -- redis-server --version

The exit code is Podman's.";

/// Run an image that is loaded: a word for `podman run --pull=never NAME@DIGEST`.
///
/// What follows the name are options of `podman run`; what follows `--` is the command in the container. The digest is that of the
/// current generation, so it is what was loaded last, and nothing is ever pulled.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct RunArgs {
    #[command(flatten)]
    host: HostArgs,
    /// The name of an image of what is loaded.
    #[arg(add = complete::loaded_apps(), value_name = "IMAGE")]
    name: String,
    /// Options of `podman run`, and after `--` the command in the container with its arguments.
    #[arg(value_name = "OPTIONS] [-- COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(super) fn run(args: &RunArgs, progress: &Progress) -> Result<()> {
    let host = args.host.host(progress)?;
    let Some(current) = host.generations().current()? else {
        return Err(nothing_loaded());
    };
    let images = || current.entries.iter().filter(|entry| entry.kind != ImageKind::Model);
    let Some(entry) = images().find(|entry| *entry.name == *args.name) else {
        return Err(usage(no_such("image", &args.name, LOADED, images().map(|entry| &entry.name))));
    };
    let (options, words) = split(&args.words);
    let mut command = host.engine.podman("run an image by its name")?.command("podman");
    command.args(["run", "--pull=never"]).args(options).arg(run_words(entry)).args(words);
    Err(environment(format!("run podman: {}", command.exec())))
}

/// Options of `podman run`, and what follows `--`.
pub(super) fn split(words: &[String]) -> (&[String], &[String]) {
    let mut parts = words.splitn(2, |word| word == "--");
    match words.first() {
        // Where no option comes before it, clap takes the `--` for its own.
        Some(first) if !first.starts_with('-') => (&[], words),
        _ => (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()),
    }
}
