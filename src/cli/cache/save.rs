//! `windlass cache save`

use super::bring::{BringMode, Bringing};
use super::report::{CacheAction, CacheRow, report};
use super::{CacheRoom, CachedArgs};
use crate::cli::failure::Result;
use crate::cli::printer::Printer;
use crate::cli::session::Session;

const EXAMPLE: &str = "Examples:
  windlass cache save unit                 what `cache build` built, after its entry was lost
  windlass cache save unit --yes           an image that `podman build` built by hand";

/// Keep what Podman has now as the entry of its key.
///
/// An image that the cache built says which key it has; another one is refused, because no one could tell what it was built from.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct CacheSaveArgs {
    #[command(flatten)]
    cached: CachedArgs,
    /// Save it also if it does not say that it was built from what is here now, and keep weights of models too.
    #[arg(long)]
    yes: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &CacheSaveArgs, printer: &Printer, session: &Session) -> Result<()> {
    let CacheSaveArgs { cached, yes, dry_run } = args;
    let progress = session.progress();
    let room = CacheRoom::open(&cached.project, &cached.host, progress)?;
    let snapshot = room.snapshot(progress)?;
    let mut rows = Vec::new();
    for image in room.project.chosen(&cached.names)? {
        let look = room.look(image, &snapshot, progress)?;
        let mode = BringMode::Load;
        let (yes, dry_run) = (*yes, *dry_run);
        let bringing = Bringing { room: &room, image, mode, yes, dry_run, printer, session };
        let mut row = CacheRow::new(image.0, &look, look.changes(&snapshot)?)?;
        row.action = CacheAction::Save;
        if dry_run {
            bringing.stored(&look, &snapshot)?;
        } else {
            let entry = bringing.keep(&look, &snapshot)?;
            (row.entry, row.digest) = (Some(entry.path), Some(entry.facts.digest));
        }
        rows.push(row);
    }
    report(rows, *dry_run, session.elapsed().as_secs_f64(), printer)
}
