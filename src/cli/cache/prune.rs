//! `windlass cache prune`

use std::path::PathBuf;

use serde::Serialize;

use super::ProjectArgs;
use crate::cache::definition::CacheProject;
use crate::cache::store::{self, CacheChange};
use crate::cli::failure::Result;
use crate::cli::printer::{Printer, count, size};
use crate::cli::session::Session;

const EXAMPLE: &str = "Examples:
  windlass cache prune                     what would go
  windlass cache prune --apply             do it
  windlass cache prune --keep 1 --apply    only the newest entry of each image stays";

/// Remove old entries, and blobs that no entry needs. Without --apply nothing is changed.
///
/// The newest entries of each image stay. Entries of images that `windlass-cache.json` does not have any more go, and so do those
/// that cannot be read. Images in Podman are not touched: `windlass gc` is for these.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct CachePruneArgs {
    /// How many entries of each image stay.
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep: usize,
    /// Remove the rest.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    project: ProjectArgs,
}

/// What went, or would go, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CachePruneReport {
    applied: bool,
    /// How many entries stay.
    kept: usize,
    removed: Vec<PathBuf>,
    /// Files of blobs.
    blobs: usize,
    /// Their bytes.
    bytes: u64,
}

pub(super) fn run(args: &CachePruneArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (project, progress) = (CacheProject::find(&args.project.project)?, session.progress());
    let keep: Vec<_> = project.definitions.images.keys().map(|name| (name, args.keep)).collect();
    let folder = project.folder();
    let mut plan = store::plan(&folder, &keep)?;
    if args.apply && folder.exists() {
        let change = CacheChange::begin(&folder, progress)?;
        // Another one may have changed it meanwhile.
        plan = store::plan(&folder, &keep)?;
        change.prune(&plan)?;
    }
    let (applied, kept, blobs, bytes) = (args.apply, plan.kept, plan.blobs.len(), plan.bytes);
    if printer.json() {
        return printer.value(&CachePruneReport { applied, kept, removed: plan.entries, blobs, bytes });
    }
    let verb = if applied { "removed" } else { "would remove" };
    plan.entries.iter().try_for_each(|entry| printer.line(format!("{verb} {}", entry.display())))?;
    let entries = |number: usize| if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") };
    let end = if applied { "" } else { "; nothing was changed, --apply does it" };
    printer.line(format!(
        "{verb} {} and {} of {}; {} left{end}",
        entries(plan.entries.len()),
        count(blobs, "blob"),
        size(bytes),
        entries(kept)
    ))
}
