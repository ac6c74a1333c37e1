//! `windlass unload`

use serde::Serialize;

use super::complete;
use super::daemon;
use super::failure::{Result, nothing_loaded, usage};
use super::host::HostArgs;
use super::into::{ChosenEngine, HostEngine, IntoArgs};
use super::load::label;
use super::printer::{Printer, count, size};
use super::session::Session;
use super::targets::{lean, origin};
use crate::engine::Engine;
use crate::engine::generation::GenerationEntry;
use crate::engine::keep::{Choice, choose};
use crate::image::summary::ImageKind;
use crate::names::{LOADED, no_such};
use crate::podman::keep::gc::{GcPlan, KeptItem, Removal};
use crate::podman::load::decide::PodmanHost;

const EXAMPLE: &str = "Examples:
  windlass unload redis                 one image of what is loaded
  windlass unload ./result --dry-run    what a stack has that no other one brought
  windlass unload old-stack             a stack that is no longer there, by its name

Exit codes: 0 done, 1 a container uses one of them, 2 it is not loaded.";

/// Let go of images and models that are loaded: the current generation is replaced by one without them, and they go from the engine.
///
/// What a container, running or stopped, a mount or a slot uses is refused by name, and nothing is changed then. Older
/// generations keep what the images are made of, so `windlass rollback` brings them back, until `windlass gc` removes these too.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct UnloadArgs {
    /// Names of images and models, and names or paths of stacks.
    #[arg(add = complete::loaded_names_and_stacks(), required = true, value_name = "NAME|STACK")]
    names: Vec<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    into: IntoArgs,
    #[command(flatten)]
    host: HostArgs,
}

/// What was unloaded, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UnloadReport<'a> {
    applied: bool,
    images: &'a [GenerationEntry],
    removed: Vec<&'a Removal>,
    keep: &'a [KeptItem],
    /// Bytes that this frees.
    bytes: u64,
    /// Bytes of store paths that Nix may collect when no generation needs them any more.
    collectable: u64,
    /// The generation that is current now.
    generation: Option<u64>,
    warnings: &'a [String],
}

pub(super) fn run(args: &UnloadArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    match args.into.choose(&args.host, progress)? {
        ChosenEngine::Podman => in_podman(&args.host.asked(progress)?, args, printer, session),
        ChosenEngine::Crio(host) => in_podman(&host, args, printer, session),
        ChosenEngine::Daemon(host) => {
            let choice = chosen(&host, &args.names)?;
            let drawing = session.draw("unloading");
            let (going, generation) = host.unload(&choice, !args.dry_run, progress)?;
            drop(drawing);
            let removed = going.iter().map(|image| daemon::removal(&host, image)).collect();
            tell(&host, args, &choice, (removed, GcPlan::default()), generation, printer)
        }
    }
}

fn in_podman(host: &PodmanHost, args: &UnloadArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let choice = chosen(host, &args.names)?;
    if !args.dry_run {
        host.settle_now(progress)?;
    }
    let drawing = session.draw("unloading");
    let unloaded = host.unload(&choice, !args.dry_run, progress)?;
    drop(drawing);
    let removed = unloaded.removed.into_iter().map(|removed| removed.removal).collect();
    tell(host, args, &choice, (removed, unloaded.plan), unloaded.generation, printer)
}

/// What is meant by these names.
fn chosen<E: Engine>(host: &E, given: &[String]) -> Result<Choice> {
    let Some(current) = host.generations().current()? else {
        return Err(nothing_loaded());
    };
    // A path stands for the stack that it was loaded as.
    let known = |name: &str| current.entries.iter().any(|entry| *entry.name == *name || entry.origins.contains(name));
    let as_loaded = |name: &String| match known(name) {
        true => Ok(name.clone()),
        false if std::path::Path::new(name).exists() => origin(&lean(name.as_ref())),
        false => Ok(name.clone()),
    };
    let names = given.iter().map(as_loaded).collect::<Result<Vec<_>>>()?;
    choose(&current, &names).map_err(|unknown| {
        let images = current.entries.iter().map(|entry| entry.name.to_string());
        let stacks = current.entries.iter().flat_map(|entry| entry.origins.iter().cloned());
        let mut there: Vec<String> = images.chain(stacks).collect();
        there.sort();
        there.dedup();
        // As it was typed.
        let typed = names.iter().position(|name| *name == unknown).map_or(unknown.as_str(), |n| given[n].as_str());
        usage(no_such("image or stack", typed, LOADED, there))
    })
}

fn tell<E: HostEngine>(
    host: &E,
    args: &UnloadArgs,
    choice: &Choice,
    (removed, plan): (Vec<Removal>, GcPlan),
    generation: Option<u64>,
    printer: &Printer,
) -> Result<()> {
    let removed: Vec<&Removal> = removed.iter().collect();
    let bytes = removed.iter().map(|removal| removal.bytes).sum();
    let collectable = removed.iter().map(|removal| removal.collectable).sum();
    let images = choice.going.as_slice();
    let (keep, warnings) = (plan.keep.as_slice(), plan.warnings.as_slice());
    if printer.json() {
        let applied = !args.dry_run;
        return printer.value(&UnloadReport {
            applied,
            images,
            removed,
            keep,
            bytes,
            collectable,
            generation,
            warnings,
        });
    }
    warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    let verb = if args.dry_run { "would unload" } else { "unloaded" };
    images.iter().try_for_each(|entry| printer.line(format!("{verb} {}  {}", label(entry), entry.reference)))?;
    keep.iter().try_for_each(|kept| printer.line(format!("{} stays in {}: {}", kept.name, host.kind(), kept.why)))?;
    let models = images.iter().filter(|entry| entry.kind == ImageKind::Model).count();
    let nix =
        if collectable > 0 { format!(", and Nix may collect {} more later", size(collectable)) } else { String::new() };
    let end = match generation {
        Some(number) => {
            format!("freed {}{nix}; generation {number} is current, `windlass rollback` brings them back", size(bytes))
        }
        None => format!("would free {}{nix}; nothing was changed", size(bytes)),
    };
    printer.line(format!("{verb} {}, {}; {end}", count(images.len() - models, "image"), count(models, "model")))
}
