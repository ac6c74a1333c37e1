//! `windlass upstream remove`

use schemars::JsonSchema;
use serde::Serialize;

use super::super::failure::Result;
use super::super::printer::{Printer, count};
use super::super::session::Session;
use super::{LockArgs, chosen};
use crate::cli::complete;
use crate::disk::lock_file;
use crate::upstream::file::UpstreamLockChange;
use crate::upstream::lock::UpstreamLock;

const EXAMPLE: &str = "Examples:
  windlass upstream remove mindsdb
  windlass upstream remove qdrant open-webui:cuda --lock pins/images.lock.json";

/// Take images out of the lock.
///
/// Changes the lock and nothing else. The next `windlass upstream fetch` lets go of the blobs that no image of the lock
/// needs; what is built or loaded keeps its own.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct UpstreamRemoveArgs {
    /// The images. If one of them is not in the lock, nothing is changed.
    #[arg(add = complete::locked_images(), value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    lock: LockArgs,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct UpstreamRemoveReport {
    /// The names that were taken out of the lock.
    removed: Vec<String>,
    /// How many are left in it.
    left: usize,
}

pub(super) fn run(args: &UpstreamRemoveArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (path, progress) = (&args.lock.lock, session.progress());
    let mut change = UpstreamLockChange::begin(path, progress)?;
    if change.is_new() {
        return Err(lock_file::missing::<UpstreamLock>(path).into());
    }
    let names = chosen(&change.lock, &args.names, path)?;
    change.lock.images.retain(|name, _| !names.contains(name));
    let left = change.lock.images.len();
    if args.dry_run {
        change.would_change()?;
    } else {
        change.finish(progress)?;
    }
    if printer.json() {
        return printer.value(&UpstreamRemoveReport { removed: names.clone(), left });
    }
    let removed = if args.dry_run { "to remove" } else { "removed" };
    printer.line(format!("{} {removed}; {} left in {}", names.join(", "), count(left, "image"), path.display()))
}
