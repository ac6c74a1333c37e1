//! `windlass model`

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::Result;

use super::host::HostArgs;
use super::printer::{Printer, count, size};
use super::session::Session;
use crate::podman::model::DEFAULT_SLOT;
use crate::podman::service::Service;
use crate::podman::switch::{Model, Place, Slot, Stage, Used, Wish};

const EXAMPLE: &str = "Examples:
  windlass model list
  windlass model use qwen3 --restart llama
  windlass model use qwen3 --slot chat --restart podman-llama-cpp.service --health-timeout 300

A container binds the slot once, and sees another model after a restart:
  podman run -v /var/lib/containers/storage/windlass/models/chat/file:/models/model.gguf:ro …
                                                       chat/tree:/models:ro for a model of several files
Neither :z nor :U may be given with it. A model that Podman unpacked (pulled) can be mounted as an image too:
  podman run --mount type=image,source=localhost/windlass/chat:active,destination=/model …
where it is whole: a file that the image has at /models is at /model/models.";

/// List the models that are loaded, and say which one is active.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    List(ListArgs),
    Use(UseArgs),
}

/// List the models of the current generation, and the slots in which one is active.
#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    host: HostArgs,
}

/// Make a loaded model the active one of a slot, and restart what uses it.
///
/// Nothing is built, downloaded or copied, and no image changes. A slot is a path, or an image's name, that a container
/// has mounted once; it is made to lead to the model, the service is restarted once and watched until it is healthy (its
/// health checks pass; without any, it has run for 5 seconds). If it is not, the former model is active again, the
/// service is restarted with it, and the exit code is 1. Nothing is done if the model is active already.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
struct UseArgs {
    /// The model, as `windlass model list` names it.
    model: String,
    /// The slot.
    #[arg(long, value_name = "SLOT", default_value = DEFAULT_SLOT)]
    slot: String,
    /// What to restart: a container, or a unit of systemd (a name that ends with .service).
    #[arg(long, value_name = "CONTAINER|UNIT")]
    restart: Option<String>,
    /// The unit is one of this user's own systemd.
    #[arg(long, requires = "restart")]
    user: bool,
    /// How many seconds the service may take to become healthy.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "restart")]
    health_timeout: u32,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    match &args.verb {
        Verb::List(args) => list(args, printer, session),
        Verb::Use(args) => use_model(args, printer, session),
    }
}

fn list(args: &ListArgs, printer: &Printer, session: &Session) -> Result<()> {
    let all = args.host.host()?.models(session.progress())?;
    if printer.json() {
        return printer.value(&all);
    }
    let row = |model: &Model| {
        let Model { entry, place, files, slots } = model;
        let place = match place {
            Place::Linked { .. } => "linked".to_owned(),
            Place::Pulled { .. } => "pulled".to_owned(),
            Place::Missing { why } => format!("missing: {why}"),
        };
        let active = if slots.is_empty() { "-".to_owned() } else { format!("active in {}", slots.join(", ")) };
        let path = files.file.as_ref().or(files.tree.as_ref()).map(|path| path.display().to_string());
        let (digest, path) = (entry.digest.short(), path.unwrap_or_default());
        vec![entry.name.clone(), size(entry.size), place, active, digest, entry.reference.clone(), path]
    };
    printer.table(&all.models.iter().map(row).collect::<Vec<_>>())?;
    let slot = |slot: &Slot| {
        let model = slot.active.as_ref().map_or("nothing", |held| held.entry.name.as_str());
        let mut notes = vec![slot.path.display().to_string()];
        notes.extend(slot.image.clone());
        if slot.active.is_some() && !slot.is_current {
            notes.push("not in the current generation".to_owned());
        }
        if slot.is_switching {
            notes.push("a switch has not ended: use a model again".to_owned());
        }
        vec![format!("slot {}", slot.slot), model.to_owned(), notes.join("; ")]
    };
    printer.table(&all.slots.iter().map(slot).collect::<Vec<_>>())?;
    let (models, slots) = (count(all.models.len(), "model"), count(all.slots.len(), "slot"));
    match all.generation {
        Some(number) => printer.line(format!("{models} in generation {number}, {slots}")),
        None => printer.line(format!("{models}, {slots}: nothing was loaded yet")),
    }
}

fn use_model(args: &UseArgs, printer: &Printer, session: &Session) -> Result<()> {
    let host = args.host.host()?;
    let service = args.restart.as_ref().map(|name| match name.ends_with(".service") {
        true => Service::Unit { name: name.clone(), user: args.user },
        false => Service::Container(name.clone()),
    });
    let wish = Wish {
        model: &args.model,
        slot: &args.slot,
        service: service.as_ref(),
        timeout: Duration::from_secs(args.health_timeout.into()),
    };
    let mut told = |stage: Stage<'_>| {
        if let (true, Some(service)) = (stderr().is_terminal(), &service) {
            printer.note(match stage {
                Stage::Restarting(model) => format!("restarting {service} with model {model}"),
                Stage::Watching(_) => format!("waiting until {service} is healthy"),
                Stage::GoingBack(model, why) => format!("{service} is not healthy with model {model}: {why}"),
            });
        }
    };
    let used = host.use_model(&wish, &mut told, session.progress())?;
    used.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    if printer.json() {
        return printer.value(&used);
    }
    let Used { slot, path, active, former, .. } = &used;
    let model = &active.entry.name;
    let before = former.as_ref().filter(|former| *former != model);
    let before = before.map(|former| format!(", instead of {former}")).unwrap_or_default();
    printer.line(match (used.changed, &service) {
        (false, _) => format!("model {model} is active in slot {slot} already; nothing was done"),
        (true, Some(service)) => {
            let ms = used.healthy_after_ms.unwrap_or_default();
            format!(
                "model {model} is active in slot {slot}{before}; {service} was restarted once and is healthy, after {}.{} s",
                ms / 1000,
                ms / 100 % 10
            )
        }
        (true, None) => format!(
            "model {model} is active in slot {slot}{before}: {}; what uses it sees it after a restart",
            path.display()
        ),
    })
}
