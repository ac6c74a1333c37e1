//! `windlass cache build` and `windlass cache update`

use super::bring::{BringMode, Bringing};
use super::report::report;
use super::{CacheRoom, CachedArgs};
use crate::cli::failure::Result;
use crate::cli::printer::Printer;
use crate::cli::session::Session;

const UPDATE: &str = "Examples:
  windlass cache update                    all images of the project
  windlass cache update unit --dry-run     what it would do
  windlass cache update --json | jq '{hits, misses}'";

/// Build what has changed, and load the rest: after it, Podman has every image as its files say.
///
/// An image whose key has an entry is loaded from it, or is there already, which takes milliseconds. Any other is built by
/// `podman build` with exactly the base images of its key, and kept as an entry. An entry that is damaged is named and built again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = UPDATE)]
pub(super) struct CacheUpdateArgs {
    #[command(flatten)]
    cached: CachedArgs,
    /// Keep weights of models too.
    #[arg(long)]
    yes: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

const BUILD: &str = "Examples:
  windlass cache build unit
  windlass cache build unit --no-cache     RUN fetches everything again";

/// Build images whether or not anything has changed, and keep them.
///
/// `podman build` runs with `--pull=never`: base images must be there. What it says goes to standard error. Files and image get a
/// fixed time, so that the same inputs give the same layers as far as what RUN does is the same.
#[derive(Debug, clap::Args)]
#[command(after_long_help = BUILD)]
pub(super) struct CacheBuildArgs {
    #[command(flatten)]
    cached: CachedArgs,
    /// Use none of the layers that Podman has of earlier builds.
    #[arg(long)]
    no_cache: bool,
    /// Keep weights of models too.
    #[arg(long)]
    yes: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn update(args: &CacheUpdateArgs, printer: &Printer, session: &Session) -> Result<()> {
    let CacheUpdateArgs { cached, yes, dry_run } = args;
    each(cached, BringMode::Update, (*yes, *dry_run), printer, session)
}

pub(super) fn build(args: &CacheBuildArgs, printer: &Printer, session: &Session) -> Result<()> {
    let CacheBuildArgs { cached, no_cache, yes, dry_run } = args;
    each(cached, BringMode::Build { fresh: *no_cache }, (*yes, *dry_run), printer, session)
}

/// Brings each of these images in the same way.
pub(super) fn each(
    cached: &CachedArgs,
    mode: BringMode,
    (yes, dry_run): (bool, bool),
    printer: &Printer,
    session: &Session,
) -> Result<()> {
    let room = CacheRoom::open(&cached.project, &cached.host, session.progress())?;
    let mut rows = Vec::new();
    for image in room.project.chosen(&cached.names)? {
        let bringing = Bringing { room: &room, image, mode, yes, dry_run, printer, session };
        rows.push(bringing.bring()?);
    }
    report(rows, dry_run, session.elapsed().as_secs_f64(), printer)
}
