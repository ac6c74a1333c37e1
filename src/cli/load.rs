//! `windlass load`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::Serialize;

use super::failure::{NoSpace, Usage, unloaded};
use super::gc::advice;
use super::host::HostArgs;
use super::printer::{Printer, count, size};
use super::session::Session;
use super::status::free_at;
use super::view::short;
use crate::layout::{ImageDir, ImageKind};
use crate::podman::decide::{self, DecideError, Host, How, Options, Reason, Step, Target};
use crate::podman::generations::Entry;
use crate::podman::load::{LoadError, Loaded, Outcome};
use crate::progress::Progress;
use crate::stack::StackDir;

const EXAMPLE: &str = "Examples:
  windlass load result                     everything that is missing, linked where the host is set up for it
  windlass load result --dry-run           what that would do, and how much it would write
  windlass load result --image redis       one image of the stack";

/// Load images into Podman: nothing for what is there, links for what the store has, else through Podman.
///
/// An image is *present* when Podman's own records say so; no process is started and no byte of a layer is read. What is
/// missing is *linked* into an additional image store of windlass' own, on the file system of the Nix store, where
/// storage.conf names one (`windlass doctor --fix` sets it up): no bytes move, and no prune takes it away. Otherwise it is
/// handed to Podman (*pulled*), missing layers only. No network is used. Each load that changes something is a generation
/// to go back to, and keeps its store paths from Nix's garbage collector.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct Args {
    /// Stacks and image directories.
    #[arg(required = true, value_name = "STACK|IMAGE")]
    paths: Vec<PathBuf>,
    /// Which way.
    #[arg(long, value_enum, default_value_t = Via::Auto)]
    via: Via,
    /// Only this image or model of the stacks. Repeatable.
    #[arg(long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// Load also what is there.
    #[arg(long)]
    force: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Via {
    /// Linked where the host is set up for it, else through Podman.
    Auto,
    /// Linked, or not at all.
    Store,
    /// Through Podman.
    Podman,
}

/// One image, for JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    action: &'static str,
    reason: String,
    store: &'a Path,
    bytes_to_write: u64,
    /// Files that are links to the store, of what was linked now.
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The whole load, for JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    images: Vec<Row<'a>>,
    loaded: usize,
    present: usize,
    failed: usize,
    written: u64,
    linked: u64,
    network: u64,
    generation: Option<u64>,
    warnings: &'a [String],
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    let targets = targets(&args.paths, &args.images)?;
    let via = match args.via {
        Via::Auto => decide::Via::Auto,
        Via::Store => decide::Via::Store,
        Via::Podman => decide::Via::Podman,
    };
    let options = Options { via, force: args.force, partial: !args.images.is_empty() };
    let host = host(args, &targets, options, session)?;
    if args.dry_run {
        return dry_run(&host, &targets, options, printer, session);
    }
    perform(&host, &targets, options, printer, session)
}

/// The Podman to load into. What it has answered before is enough where all is there; before anything is written to a place,
/// Podman is asked whether it looks there.
fn host(args: &Args, targets: &[Target], options: Options, session: &Session) -> Result<Host> {
    let progress = session.progress();
    // Says which lock it waits for.
    let _drawing = session.draw("loading");
    let Ok(Some(host)) = args.host.remembered() else { return args.host.asked(progress) };
    match host.plan(targets, options, progress) {
        Ok(steps) if !args.dry_run && steps.iter().any(|step| step.how != How::Present) => args.host.asked(progress),
        // What is wrong with the images themselves, no Podman can put right.
        Ok(_) | Err(DecideError::Platform { .. } | DecideError::SameName { .. }) => Ok(host),
        Err(_) => args.host.asked(progress),
    }
}

/// Loads, and tells it as it happens.
pub(super) fn perform(
    host: &Host,
    targets: &[Target],
    options: Options,
    printer: &Printer,
    session: &Session,
) -> Result<()> {
    let progress = session.progress();
    let drawing = session.draw("loading");
    let mut done = |outcome: &Outcome| {
        if printer.json() {
            return;
        }
        let print = || match &outcome.error {
            None => printer.line(told(&outcome.step, outcome.links)).and_then(|()| printer.flush()),
            Some(error) => {
                let advice = advice(error, host, progress);
                printer.note(format!("{}: {error}{advice}", label(&outcome.step.entry)));
                Ok(())
            }
        };
        drop(drawing.beside(print));
    };
    let loaded = host.load(targets, options, &mut done, progress).map_err(|error| match error {
        LoadError::NoSpace { .. } => NoSpace(format!("{error}{}", advice(&error, host, progress))).into(),
        error => anyhow::Error::from(error),
    })?;
    drop(drawing);
    report(&loaded, host, progress, printer)
}

fn report(loaded: &Loaded, host: &Host, progress: &Progress, printer: &Printer) -> Result<()> {
    let (written, linked) = (progress.written() + loaded.pulled, progress.linked());
    loaded.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    let number = |fits: &dyn Fn(&Outcome) -> bool| loaded.outcomes.iter().filter(|outcome| fits(outcome)).count();
    let failed = number(&|outcome| outcome.error.is_some());
    let is_there = |outcome: &Outcome| matches!(outcome.step.how, How::Present | How::Name);
    let present = number(&|outcome| outcome.error.is_none() && is_there(outcome));
    let done = loaded.outcomes.len() - failed - present;
    if printer.json() {
        let row = |outcome| {
            let Outcome { step, links, error }: &Outcome = outcome;
            let links = (step.how == How::Link && error.is_none()).then_some(*links);
            Row {
                links,
                error: error.as_ref().map(|error| format!("{error}{}", advice(error, host, progress))),
                ..row(step)
            }
        };
        let (images, network) = (loaded.outcomes.iter().map(row).collect(), 0);
        let (generation, warnings) = (loaded.generation, loaded.warnings.as_slice());
        printer.value(&Report {
            images,
            loaded: done,
            present,
            failed,
            written,
            linked,
            network,
            generation,
            warnings,
        })?;
    } else {
        let is = |kind: fn(&ImageKind) -> bool| number(&|outcome| kind(&outcome.step.entry.kind));
        let (images, models) = (is(|kind| *kind != ImageKind::Model), is(|kind| *kind == ImageKind::Model));
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let shared = if linked > 0 { format!(", linked {}", size(linked)) } else { String::new() };
        printer.line(format!(
            "{}, {}: {done} loaded, {present} present{failures}; wrote {}{shared}; network 0 bytes",
            count(images, "image"),
            count(models, "model"),
            size(written),
        ))?;
    }
    if failed == 0 {
        return Ok(());
    }
    let errors: Vec<&LoadError> = loaded.outcomes.iter().filter_map(|outcome| outcome.error.as_ref()).collect();
    Err(unloaded(&errors).into())
}

pub(super) fn label(entry: &Entry) -> String {
    let kind = if entry.kind == ImageKind::Model { "model" } else { "image" };
    format!("{kind} {}", entry.name)
}

/// What was done for one image, in a line that scripts may look for.
fn told(step: &Step, links: u64) -> String {
    let Step { entry, how, .. } = step;
    let what = match how {
        How::Present => "present".to_owned(),
        How::Name => "present, and named again".to_owned(),
        How::Link => {
            // Of a layer that an earlier image brought there are none.
            let links = count(usize::try_from(links).unwrap_or(usize::MAX), "new link");
            format!("linked {}, {links}", size(entry.size))
        }
        How::Pull => format!("pulled {} of {}", size(step.to_write), size(entry.size)),
    };
    format!("{}: {what}  {}", label(entry), entry.reference)
}

/// What a load would do, for JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan<'a> {
    images: Vec<Row<'a>>,
    to_load: usize,
    present: usize,
    bytes_to_write: u64,
    /// Free space in `place`, where images are loaded to.
    free: u64,
    place: &'a Path,
}

fn dry_run(host: &Host, targets: &[Target], options: Options, printer: &Printer, session: &Session) -> Result<()> {
    let steps = host.plan(targets, options, session.progress())?;
    let missing = || steps.iter().filter(|step| !matches!(step.how, How::Present | How::Name));
    let place = missing().next().map_or(&host.places.graph_root, |step| &step.store);
    let plan = Plan {
        images: steps.iter().map(row).collect(),
        to_load: missing().count(),
        present: steps.len() - missing().count(),
        bytes_to_write: steps.iter().map(|step| step.to_write).sum(),
        free: free_at(place)?,
        place,
    };
    if printer.json() {
        return printer.value(&plan);
    }
    let cells = |row: &Row<'_>| {
        let Row { entry, action, reason, bytes_to_write, .. } = row;
        let to_write = format!("{} to write", size(*bytes_to_write));
        let (digest, reference) = (entry.digest.short(), entry.reference.to_string());
        vec![label(entry), (*action).to_owned(), size(entry.size), to_write, digest, reference, reason.clone()]
    };
    printer.table(&plan.images.iter().map(cells).collect::<Vec<_>>())?;
    let Plan { to_load, present, bytes_to_write, free, place, .. } = plan;
    printer.line(format!(
        "{to_load} to load, {present} present; {} to write, {} free in {}",
        size(bytes_to_write),
        size(free),
        place.display()
    ))
}

fn row(step: &Step) -> Row<'_> {
    let Step { entry, how, reason: why, store, to_write } = step;
    Row { entry, action: action(*how), reason: reason(why), store, bytes_to_write: *to_write, links: None, error: None }
}

const fn action(how: How) -> &'static str {
    match how {
        How::Present => "present",
        How::Name => "name",
        How::Link => "link",
        How::Pull => "pull",
    }
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Present => "present".to_owned(),
        Reason::FirstTime => "first time".to_owned(),
        Reason::VersionChanged => "version changed".to_owned(),
        Reason::CacheCleared => "cache cleared".to_owned(),
        Reason::Damaged(why) => format!("damaged: {why}"),
        Reason::Forced => "asked for".to_owned(),
        Reason::NameMoved => "name moved".to_owned(),
    }
}

/// The images and models at these paths, each once, models first: whoever needs one finds it there.
pub(super) fn targets(paths: &[PathBuf], only: &[String]) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for path in paths {
        let path = &lean(path);
        let origins = BTreeSet::from([origin(path)?]);
        if path.join("stack.json").is_file() {
            let stack = StackDir::open(path)?;
            let model = |(name, image)| Target { image, name, origins: origins.clone() };
            targets.extend(stack.models.into_iter().map(model));
            targets.extend(stack.images.into_iter().map(|image| Target {
                name: image.summary().name.file_name(),
                image,
                origins: origins.clone(),
            }));
        } else {
            let image = ImageDir::open(path)?;
            let name = image.summary().name.file_name();
            targets.push(Target { image, name, origins });
        }
    }
    // Stacks may have images and models in common.
    let mut once: Vec<Target> = Vec::new();
    for target in targets {
        let is_it = |other: &&mut Target| {
            let (one, two) = (other.image.summary(), target.image.summary());
            one.reference == two.reference && one.digest == two.digest
        };
        match once.iter_mut().find(is_it) {
            Some(other) => other.origins.extend(target.origins),
            None => once.push(target),
        }
    }
    let mut targets = once;
    if !only.is_empty() {
        let names: Vec<String> = targets.iter().map(|target| target.name.to_string()).collect();
        if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
            bail!(Usage(format!("--image {unknown}: there is no such image; there are: {}", names.join(", "))));
        }
        targets.retain(|target| only.iter().any(|name| target.name == *name));
    }
    Ok(targets)
}

/// A stack of archives leads to the lean stack that it was made from.
pub(super) fn lean(path: &Path) -> PathBuf {
    let lean = path.join("lean");
    if path.join("stack.json").is_file() && lean.join("stack.json").is_file() { lean } else { path.to_owned() }
}

/// What a path is called over time: a store path without its hash, else the whole path.
fn origin(path: &Path) -> Result<String> {
    let path = std::fs::canonicalize(path).map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()))?;
    let text = path.display().to_string();
    let name = short(&text);
    Ok(if text.ends_with(&format!("/{name}")) { text.clone() } else { name.to_owned() })
}
