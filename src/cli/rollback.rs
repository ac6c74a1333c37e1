//! `windlass rollback`

use serde::Serialize;

use super::complete;
use super::failure::{Result, nothing_loaded, sentence, unloaded, usage};
use super::generations::counterpart;
use super::host::HostArgs;
use super::into::{ChosenEngine, HostEngine, IntoArgs};
use super::load::label;
use super::printer::{Printer, count, size};
use super::session::Session;
use crate::daemon::host::DaemonHost;
use crate::disk::progress::Progress;
use crate::engine::generation::Generation;
use crate::engine::generations::{GenerationError, Generations};
use crate::engine::kind::EngineKind;
use crate::engine::rollback::{RollbackPart, activate, parts};
use crate::engine::target::DecideError;
use crate::podman::load::decide::PodmanHost;

const EXAMPLE: &str = "Examples:
  windlass rollback --dry-run      what going back one generation would change
  windlass rollback                go back one generation
  windlass rollback 3              go to generation 3, back or forth";

/// Go back to what was loaded before: exactly that generation's images, under their names again.
///
/// Before anything changes it is known whether every image is still there or can be loaded again. Containers go on as they
/// are; those that run an image of the former generation are listed with what starts them anew.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct RollbackArgs {
    /// The generation; by default the one before the current one.
    #[arg(add = complete::generations())]
    number: Option<u64>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    into: IntoArgs,
    #[command(flatten)]
    host: HostArgs,
}

/// One image, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RollbackChange {
    name: String,
    /// Digest in the former generation.
    from: Option<String>,
    /// Digest in the wanted one.
    to: Option<String>,
}

/// A container that still runs the former generation.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stale {
    name: String,
    image: String,
    /// What starts it anew, or ends it.
    command: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RollbackReport {
    from: Option<u64>,
    to: u64,
    changes: Vec<RollbackChange>,
    containers: Vec<Stale>,
    loaded: usize,
    applied: bool,
}

pub(super) fn run(args: &RollbackArgs, printer: &Printer, session: &Session) -> Result<()> {
    match args.into.choose(&args.host, session.progress())? {
        ChosenEngine::Podman => go_back(&args.host.asked(session.progress())?, args, printer, session),
        ChosenEngine::Crio(host) => go_back(&*host, args, printer, session),
        ChosenEngine::Daemon(host) => go_back(&host, args, printer, session),
    }
}

fn go_back<E: HostEngine>(host: &E, args: &RollbackArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let generations = host.generations();
    let current = generations.current()?;
    let number = wanted(args.number, current.as_ref(), &generations)?;
    let generation = generations.read(number)?;
    let parts = parts(host, &generation, progress)?;
    let missing: Vec<String> = (generation.entries.iter().zip(&parts))
        .filter_map(|(entry, part)| match part {
            RollbackPart::Missing(what) => Some(format!("{}: {what}", entry.name)),
            _ => None,
        })
        .collect();
    if !missing.is_empty() {
        return Err(DecideError::NotWhole { number, missing }.into());
    }
    let to_load = parts.iter().filter(|part| matches!(part, RollbackPart::Loadable)).count();
    let changes = changes(current.as_ref(), &generation);
    if !printer.json() {
        let present = parts.len() - to_load;
        printer.line(format!("generation {number} is whole: {present} present, {to_load} to load"))?;
        for RollbackChange { name, from, to } in &changes {
            let said = match (from, to) {
                // The same bytes under another tag.
                (Some(from), Some(to)) if from == to => format!("{to}, under its name of then"),
                (Some(from), Some(to)) => format!("{from} → {to}"),
                (None, Some(to)) => format!("back: {to}"),
                (Some(from), None) => format!("out: {from} stays in {} until `windlass gc`", host.kind()),
                (None, None) => continue,
            };
            printer.line(format!("{name}: {said}"))?;
        }
        printer.flush()?;
    }
    if !args.dry_run {
        let drawing = session.draw("loading");
        let loaded = activate(host, number, &mut |_| {}, progress)?;
        drop(drawing);
        loaded.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
        let failed = loaded.outcomes.iter().filter_map(|outcome| Some((outcome, outcome.error.as_ref()?)));
        let errors: Vec<&E::Error> = failed
            .map(|(outcome, error)| {
                printer.note(format!("{}: {}", label(&outcome.step.entry), sentence(error)));
                error
            })
            .collect();
        if !errors.is_empty() {
            return Err(unloaded(&errors));
        }
    }
    let containers = host.stale(current.as_ref(), &generation, progress)?;
    let from = current.map(|current| current.number);
    let report = RollbackReport { from, to: number, changes, containers, loaded: to_load, applied: !args.dry_run };
    if printer.json() {
        return printer.value(&report);
    }
    for Stale { name, image, command } in &report.containers {
        printer.line(format!("container {name} runs the former {image}: {command}"))?;
    }
    let verb = if args.dry_run { "would be" } else { "is" };
    printer.line(format!(
        "generation {number} {verb} current; {} changed, {} to start anew; wrote {}",
        count(report.changes.len(), "image"),
        count(report.containers.len(), "container"),
        size(progress.written())
    ))
}

fn wanted(number: Option<u64>, current: Option<&Generation>, generations: &Generations) -> Result<u64> {
    if let Some(number) = number {
        return Ok(number);
    }
    let there = generations.numbers().map_err(GenerationError::from)?;
    let before = current.and_then(|current| there.iter().rev().find(|number| **number < current.number));
    match (before, current) {
        (Some(before), _) => Ok(*before),
        (None, Some(current)) => Err(usage(format!("there is no generation before {}", current.number))
            .hint("`windlass generations` lists them")),
        (None, None) => Err(nothing_loaded()),
    }
}

fn changes(current: Option<&Generation>, wanted: &Generation) -> Vec<RollbackChange> {
    let old = current.map_or(&[][..], |current| current.entries.as_slice());
    let mut changes = Vec::new();
    for entry in &wanted.entries {
        let from = counterpart(entry, old);
        if from.is_none_or(|from| from.digest != entry.digest || from.reference != entry.reference) {
            let (from, to) = (from.map(|from| from.digest.to_string()), Some(entry.digest.to_string()));
            changes.push(RollbackChange { name: entry.name.to_string(), from, to });
        }
    }
    for entry in old.iter().filter(|entry| counterpart(entry, &wanted.entries).is_none()) {
        changes.push(RollbackChange { name: entry.name.to_string(), from: Some(entry.digest.to_string()), to: None });
    }
    changes
}

/// Containers of images that the current generation had and the wanted one has not. A container keeps its image for as
/// long as it lives, so it must be made anew.
pub(super) fn stale_in_podman(
    host: &PodmanHost,
    current: Option<&Generation>,
    wanted: &Generation,
    progress: &Progress,
) -> Result<Vec<Stale>> {
    use crate::podman::storage::snapshot::StoreSnapshot;
    let snapshot = StoreSnapshot::read(&host.places, progress)?;
    let Some(own) = snapshot.stores.first() else { return Ok(Vec::new()) };
    let former = |id: &str| {
        let mut entries = current.into_iter().flat_map(|current| &current.entries);
        let is_wanted = wanted.entries.iter().any(|entry| entry.config_digest.hex() == id);
        entries.find(|entry| !is_wanted && entry.config_digest.hex() == id)
    };
    if own.containers.iter().all(|container| former(&container.image).is_none()) {
        return Ok(Vec::new());
    }
    let mut stale = Vec::new();
    for container in host.engine.containers(progress)? {
        let Some(entry) = former(&container.image).filter(|_| !container.is_stopped()) else { continue };
        let command = match container.unit() {
            // Its pod is the kubelet's, which starts another one in its place.
            _ if host.engine.kind() == EngineKind::Crio => format!("crictl rm --force {}", container.id),
            Some(unit) => format!("systemctl {}restart {unit}", if host.places.rootless { "--user " } else { "" }),
            None => {
                let name = &container.name;
                let new = counterpart(entry, &wanted.entries);
                let new = new.map_or(String::new(), |new| format!(", then podman run … {}", new.reference));
                format!("podman stop {name} && podman rm {name}{new}")
            }
        };
        stale.push(Stale { name: container.name.clone(), image: entry.name.to_string(), command });
    }
    Ok(stale)
}

/// The same of a daemon.
pub(super) fn stale_in_daemon(
    host: &DaemonHost,
    current: Option<&Generation>,
    wanted: &Generation,
    progress: &Progress,
) -> Result<Vec<Stale>> {
    let id = |entry| host.daemon.id(entry);
    let former = |image| {
        let is_wanted = wanted.entries.iter().any(|entry| id(entry) == image);
        current.into_iter().flat_map(|current| &current.entries).find(|entry| !is_wanted && id(entry) == image)
    };
    let mut stale = Vec::new();
    for container in host.daemon.containers(progress)?.into_iter().filter(|container| container.running) {
        let Some(entry) = former(container.image) else { continue };
        let command = host.daemon.stop_line(&container);
        stale.push(Stale { image: entry.name.to_string(), command, name: container.name });
    }
    Ok(stale)
}
