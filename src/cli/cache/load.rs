//! `windlass cache load`

use super::CachedArgs;
use super::bring::BringMode;
use super::build::each;
use crate::cli::failure::Result;
use crate::cli::printer::Printer;
use crate::cli::session::Session;

const EXAMPLE: &str = "Examples:
  windlass cache load                      all images of the project
  windlass cache load unit                 one of them";

/// Load images from their entries, and build nothing: for a clone without a network, and without base images.
///
/// An image without an entry for its key is an error, and so is an entry that is damaged.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct CacheLoadArgs {
    #[command(flatten)]
    cached: CachedArgs,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &CacheLoadArgs, printer: &Printer, session: &Session) -> Result<()> {
    each(&args.cached, BringMode::Load, (false, args.dry_run), printer, session)
}
