//! `windlass model remove`

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use crate::cli::printer::{Printer, count};
use crate::cli::session::Session;
use crate::lock_file;
use crate::model::lock::{Change, ModelLock};

const EXAMPLE: &str = "Examples:
  windlass model remove smollm2";

/// Take models out of a lock.
///
/// Changes the lock and nothing else. The next `windlass model fetch` lets go of the files that no model of the lock needs;
/// what is built or loaded keeps its own.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct Args {
    /// The models. If one of them is not in the lock, nothing is changed.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// The lock file.
    #[arg(long, value_name = "FILE", default_value = "models.lock.json")]
    lock: PathBuf,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    let (path, progress) = (&args.lock, session.progress());
    let mut change = Change::begin(path, progress)?;
    if change.is_new() {
        bail!(lock_file::missing::<ModelLock>(path));
    }
    for name in &args.names {
        change.lock.model(name, path)?;
    }
    change.lock.models.retain(|name, _| !args.names.contains(name));
    let left = change.lock.models.len();
    change.finish(progress)?;
    if printer.json() {
        return printer.value(&json!({ "removed": args.names, "left": left }));
    }
    printer.line(format!("{} removed; {} left in {}", args.names.join(", "), count(left, "model"), path.display()))
}
