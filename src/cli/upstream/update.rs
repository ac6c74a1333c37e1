//! `windlass upstream update`

use std::error::Error;

use anyhow::{Result, bail};
use serde::Serialize;

use super::super::failure::Several;
use super::super::printer::{Printer, count, size};
use super::super::session::Session;
use super::{LockArgs, RegistryArgs, chosen};
use crate::digest::Digest;
use crate::lock_file;
use crate::upstream::file::Change;
use crate::upstream::lock::Lock;
use crate::upstream::update::{Options, Outcome, message, update};

const EXAMPLE: &str = "Examples:
  windlass upstream update                          every image whose tag names something else
  windlass upstream update --all                    and those that were never locked
  windlass upstream update --image open-webui:cuda
  windlass upstream update > message && test -s message && git commit -F message images.lock.json";

/// Lock what upstream says now.
///
/// Changes the lock and nothing else, in one step: nothing is downloaded but manifests and configs, built, loaded or
/// committed. Standard output is the message for a commit, and nothing if nothing changed; what became of each image goes
/// to standard error. If one image fails, nothing is written, unless with --keep-going.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct Args {
    /// Only this image, be it pending or not. Repeatable.
    #[arg(long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// Look everything up again, whether it changed or not.
    #[arg(long)]
    force: bool,
    /// Also images that are pending.
    #[arg(long)]
    all: bool,
    /// Write what could be looked up, even if other images failed. The exit code still tells.
    #[arg(long)]
    keep_going: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    written: bool,
    message: Option<String>,
    images: Vec<Row<'a>>,
    sentence: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    name: &'a str,
    /// `same`, `changed`, `pending` or `failed`.
    outcome: &'static str,
    from: Option<Digest>,
    to: Option<Digest>,
    fetch: Option<u64>,
    why: Option<String>,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    let (path, progress) = (&args.lock.lock, session.progress());
    let drawing = session.draw("update");
    let mut change = Change::begin(path, progress)?;
    if change.is_new() {
        bail!(lock_file::missing::<Lock>(path));
    }
    let names = chosen(&change.lock, &args.images, path)?;
    let options = Options { pending: args.all || !args.images.is_empty(), force: args.force };
    let outcomes = update(&args.registry.registries()?, &mut change.lock, &names, options, progress)?;
    let failed: Vec<&dyn Error> = outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Failed(error) => Some(error as &dyn Error),
            _ => None,
        })
        .collect();
    let changed = outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Changed { .. }));
    let write = changed && (failed.is_empty() || args.keep_going);
    let written = write && change.finish(progress)?;
    drop(drawing);
    let rows: Vec<Row<'_>> = outcomes.iter().map(|(name, outcome)| row(name, outcome)).collect();
    let message = if written { message(&outcomes) } else { None };
    let sentence = sentence(&rows, written);
    if printer.json() {
        printer.value(&Report { written, message, images: rows, sentence })?;
    } else {
        rows.iter().filter_map(line).for_each(|line| printer.note(line));
        printer.note(sentence);
        printer.bytes(message.unwrap_or_default().as_bytes())?;
    }
    if !failed.is_empty() {
        let what = if written { "the others are in the lock" } else { "the lock is as it was" };
        bail!(Several::new(format!("{} could not be looked up; {what}", count(failed.len(), "image")), &failed));
    }
    Ok(())
}

fn row<'a>(name: &'a str, outcome: &Outcome) -> Row<'a> {
    let row = Row { name, outcome: "same", from: None, to: None, fetch: None, why: None };
    match outcome {
        Outcome::Same => row,
        Outcome::Left => Row { outcome: "pending", ..row },
        Outcome::Changed { from, to, fetch } => {
            Row { outcome: "changed", from: *from, to: Some(*to), fetch: Some(*fetch), ..row }
        }
        Outcome::Failed(error) => Row { outcome: "failed", why: Some(error.to_string()), ..row },
    }
}

/// What is worth a line: nothing about images that are the same.
fn line(row: &Row<'_>) -> Option<String> {
    let Row { name, from, to, fetch, why, .. } = row;
    if let Some(why) = why {
        return Some(format!("{name}: {why}"));
    }
    let from = from.map_or("nothing".to_owned(), |from| format!("sha256:{}", from.short()));
    let fetch = fetch.map(size).unwrap_or_default();
    to.map(|to| format!("{name}: sha256:{} instead of {from}, {fetch} to fetch", to.short()))
}

fn sentence(rows: &[Row<'_>], written: bool) -> String {
    let number = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    let (changed, same, failed, pending) = (number("changed"), number("same"), number("failed"), number("pending"));
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    let pending = if pending > 0 { format!(", {pending} pending (--all locks them)") } else { String::new() };
    let nothing = if changed > 0 && !written { "; nothing was written" } else { "" };
    format!("{}: {changed} changed, {same} the same{failed}{pending}{nothing}", count(rows.len(), "image"))
}
