//! `windlass upstream update`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::failure::{Context, Failure, Result, several, usage};
use super::super::printer::{Printer, count, size};
use super::super::session::Session;
use super::add::trust_root;
use super::{LockArgs, RegistryArgs, chosen};
use crate::class::{Class, Classified};
use crate::cli::complete;
use crate::disk::lock_file;
use crate::oci::digest::Digest;
use crate::sh;
use crate::upstream::file::UpstreamLockChange;
use crate::upstream::lock::{UpstreamLock, is_floating};
use crate::upstream::signature::AskedSigner;
use crate::upstream::update::{UpdateOptions, UpdateOutcome, message, update};

const EXAMPLE: &str = "Examples:
  windlass upstream update                          every image whose tag names something else
  windlass upstream update --all                    and those that were never locked
  windlass upstream update --image open-webui:cuda
  windlass upstream update --image qdrant --to v1.16.3        another version
  windlass upstream update --accept-moved redis:8             its tag moves by itself, or you know why
  windlass upstream update --trust-root trusted_root.json     identities, verified by a newer trust root
  windlass upstream update > message && test -s message && git commit -F message images.lock.json";

/// Lock what upstream says now.
///
/// Changes the lock and nothing else, in one step: nothing is downloaded but manifests and configs, built, loaded or
/// committed. Standard output is the message for a commit, and nothing if nothing changed; what became of each image goes
/// to standard error. If one image fails, nothing is written, unless with --keep-going.
///
/// A tag with a version that names something else was moved, by mistake or by an attacker. Such an image is left out and named,
/// and the exit code is 8, until --accept-moved names it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct UpstreamUpdateArgs {
    /// Only this image, be it pending or not. Repeatable.
    #[arg(add = complete::locked_images(), long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// Look everything up again, whether it changed or not.
    #[arg(long)]
    force: bool,
    /// Also images that are pending.
    #[arg(long)]
    all: bool,
    /// With one --image: ask for this tag from now on, and lock it.
    #[arg(long, value_name = "TAG", requires = "images")]
    to: Option<String>,
    /// Take what the version tag of this image names now. Repeatable.
    #[arg(add = complete::locked_images(), long, value_name = "NAME")]
    accept_moved: Vec<String>,
    /// From now on verify the certificates of signers by this trust root, a `trusted_root.json`, of these images that ask for an
    /// identity.
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
    /// Write what could be looked up, even if other images failed. The exit code still tells.
    #[arg(long)]
    keep_going: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpstreamUpdateReport<'a> {
    written: bool,
    message: Option<String>,
    images: Vec<UpstreamUpdateRow<'a>>,
    sentence: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UpstreamUpdateRow<'a> {
    name: &'a str,
    /// `same`, `changed`, `moved`, `pending` or `failed`.
    outcome: &'static str,
    from: Option<Digest>,
    to: Option<Digest>,
    fetch: Option<u64>,
    why: Option<String>,
}

pub(super) fn run(args: &UpstreamUpdateArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (path, progress) = (&args.lock.lock, session.progress());
    let drawing = session.draw("update");
    let mut change = UpstreamLockChange::begin(path, progress)?;
    if change.is_new() {
        return Err(lock_file::missing::<UpstreamLock>(path).into());
    }
    let names = chosen(&change.lock, &args.images, path)?;
    chosen(&change.lock, &args.accept_moved, path)?;
    if let Some(tag) = &args.to {
        let [name] = names.as_slice() else {
            return Err(usage("--to is for one image: give one --image"));
        };
        ask_for(&mut change.lock, name, tag)?;
    }
    if let Some(file) = &args.trust_root {
        trust(&mut change.lock, &names, file)?;
    }
    let accept_moved = args.accept_moved.clone();
    let options = UpdateOptions { pending: args.all || !args.images.is_empty(), force: args.force, accept_moved };
    let outcomes = update(&args.registry.registries()?, &mut change.lock, &names, &options, progress)?;
    let failed: Vec<Class> = outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            UpdateOutcome::Failed(error) => Some(error.class()),
            _ => None,
        })
        .collect();
    let changed = outcomes.iter().any(|(_, outcome)| matches!(outcome, UpdateOutcome::Changed { .. }));
    let write = changed && (failed.is_empty() || args.keep_going);
    let written = write && !args.dry_run && change.finish(progress)?;
    drop(drawing);
    let rows: Vec<UpstreamUpdateRow<'_>> = outcomes.iter().map(|(name, outcome)| row(name, outcome)).collect();
    let message = if written { message(&outcomes) } else { None };
    let sentence = sentence(&rows, written || args.dry_run);
    let sentence = if args.dry_run { format!("not written: {sentence}") } else { sentence };
    if printer.json() {
        printer.value(&UpstreamUpdateReport { written, message, images: rows, sentence })?;
    } else {
        rows.iter().filter_map(line).for_each(|line| printer.note(line));
        printer.note(sentence);
        printer.bytes(message.unwrap_or_default().as_bytes())?;
    }
    if !failed.is_empty() {
        let what = if written { "the others are in the lock" } else { "the lock is as it was" };
        return Err(several(format!("{} could not be looked up; {what}", count(failed.len(), "image")), failed));
    }
    let moved = outcomes.iter().filter(|(_, outcome)| matches!(outcome, UpdateOutcome::Moved { .. })).count();
    if moved > 0 {
        let message = format!("{} left as it is locked: a version tag names something else now", count(moved, "image"));
        return Err(Failure::new(Class::Updates, message));
    }
    Ok(())
}

/// Asks for another tag of the same repository.
fn ask_for(lock: &mut UpstreamLock, name: &str, tag: &str) -> Result<()> {
    let Some(image) = lock.images.get_mut(name) else { return Ok(()) };
    let at = image.location()?;
    if at.digest().is_some() {
        let reference = &image.original.reference;
        return Err(usage(format!(
            "{name} is locked by digest ({reference}); remove it, and add it with the tag {tag}"
        )));
    }
    let at = at.with_tag(tag)?;
    image.floating = is_floating(&at);
    image.original.reference = at.to_string();
    Ok(())
}

/// Has identities of these images verified by another trust root.
fn trust(lock: &mut UpstreamLock, names: &[String], file: &Path) -> Result<()> {
    let (digest, text) = trust_root(file)?;
    let UpstreamLock { images, trust_roots, .. } = lock;
    trust_roots.insert(digest, text);
    let mut any = false;
    for (_, image) in images.iter_mut().filter(|(name, _)| names.contains(name)) {
        let Some(policy) = image.policy.as_mut().filter(|policy| policy.trust_root.is_some()) else { continue };
        (policy.trust_root, any) = (Some(digest), true);
        AskedSigner::of(policy, trust_roots).with_context(|| file.display().to_string())?;
    }
    if any { Ok(()) } else { Err(usage("--trust-root is for images that ask for an identity, and none of these does")) }
}

fn row<'a>(name: &'a str, outcome: &UpdateOutcome) -> UpstreamUpdateRow<'a> {
    let row = UpstreamUpdateRow { name, outcome: "same", from: None, to: None, fetch: None, why: None };
    match outcome {
        UpdateOutcome::Same => row,
        UpdateOutcome::Left => UpstreamUpdateRow { outcome: "pending", ..row },
        UpdateOutcome::Moved { from, to } => {
            UpstreamUpdateRow { outcome: "moved", from: Some(*from), to: Some(*to), ..row }
        }
        UpdateOutcome::Changed { from, to, fetch, note: _ } => {
            UpstreamUpdateRow { outcome: "changed", from: *from, to: Some(*to), fetch: Some(*fetch), ..row }
        }
        UpdateOutcome::Failed(error) => UpstreamUpdateRow { outcome: "failed", why: Some(error.to_string()), ..row },
    }
}

/// What is worth a line: nothing about images that are the same.
fn line(row: &UpstreamUpdateRow<'_>) -> Option<String> {
    let UpstreamUpdateRow { name, from, to, fetch, why, outcome } = row;
    if let Some(why) = why {
        return Some(format!("{name}: {why}"));
    }
    let from = from.map_or("nothing".to_owned(), |from| format!("sha256:{}", from.short()));
    if *outcome == "moved" {
        let to = to.map(|to| to.short()).unwrap_or_default();
        return Some(format!(
            "{name}: left out: its version tag names sha256:{to} now, and {from} is locked; find out why, then take it with \
             --accept-moved {}",
            sh::word(name)
        ));
    }
    let fetch = fetch.map(size).unwrap_or_default();
    to.map(|to| format!("{name}: sha256:{} instead of {from}, {fetch} to fetch", to.short()))
}

fn sentence(rows: &[UpstreamUpdateRow<'_>], written: bool) -> String {
    let number = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    let (changed, same, failed, pending) = (number("changed"), number("same"), number("failed"), number("pending"));
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    let moved = number("moved");
    let moved = if moved > 0 { format!(", {moved} moved") } else { String::new() };
    let pending = if pending > 0 { format!(", {pending} pending (--all locks them)") } else { String::new() };
    let nothing = if changed > 0 && !written { "; nothing was written" } else { "" };
    format!("{}: {changed} changed, {same} the same{moved}{failed}{pending}{nothing}", count(rows.len(), "image"))
}
