//! `windlass model remove`

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use super::super::failure::Result;
use crate::cli::complete;
use crate::cli::printer::{Printer, count};
use crate::cli::session::Session;
use crate::disk::lock_file;
use crate::model::pin::lock::{ModelLock, ModelLockChange};

const EXAMPLE: &str = "Examples:
  windlass model remove smollm2";

/// Take models out of a lock.
///
/// Changes the lock and nothing else. The next `windlass model fetch` lets go of the files that no model of the lock needs;
/// what is built or loaded keeps its own.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelRemoveArgs {
    /// The models. If one of them is not in the lock, nothing is changed.
    #[arg(add = complete::locked_models(), value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// The lock file.
    #[arg(long, value_name = "FILE", default_value = "models.lock.json")]
    lock: PathBuf,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ModelRemoveReport {
    /// The names that were taken out of the lock.
    removed: Vec<String>,
    /// How many are left in it.
    left: usize,
}

pub(super) fn run(args: &ModelRemoveArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (path, progress) = (&args.lock, session.progress());
    let mut change = ModelLockChange::begin(path, progress)?;
    if change.is_new() {
        return Err(lock_file::missing::<ModelLock>(path).into());
    }
    for name in &args.names {
        change.lock.model(name, path)?;
    }
    change.lock.models.retain(|name, _| !args.names.contains(name));
    let left = change.lock.models.len();
    if args.dry_run {
        change.would_change()?;
    } else {
        change.finish(progress)?;
    }
    if printer.json() {
        return printer.value(&ModelRemoveReport { removed: args.names.clone(), left });
    }
    let removed = if args.dry_run { "to remove" } else { "removed" };
    printer.line(format!("{} {removed}; {} left in {}", args.names.join(", "), count(left, "model"), path.display()))
}
