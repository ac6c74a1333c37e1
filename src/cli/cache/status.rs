//! `windlass cache status`

use super::report::{CacheRow, report};
use super::{CacheRoom, CachedArgs};
use crate::cli::failure::Result;
use crate::cli::printer::Printer;
use crate::cli::session::Session;

const EXAMPLE: &str = "Examples:
  windlass cache status
  windlass cache status unit --json | jq '.images[0].changes'";

/// Show which images are as they were built, which are not, and what has changed.
///
/// Nothing is built, loaded or written, and no program is started. A file is read only if it has changed since it was last read.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct CacheStatusArgs {
    #[command(flatten)]
    cached: CachedArgs,
}

pub(super) fn run(args: &CacheStatusArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let room = CacheRoom::open(&args.cached.project, &args.cached.host, progress)?;
    let snapshot = room.snapshot(progress)?;
    let drawing = session.draw("reading");
    let mut rows = Vec::new();
    for image in room.project.chosen(&args.cached.names)? {
        let look = room.look(image, &snapshot, progress)?;
        rows.push(CacheRow::new(image.0, &look, look.changes(&snapshot)?)?);
    }
    drop(drawing);
    report(rows, false, session.elapsed().as_secs_f64(), printer)
}
