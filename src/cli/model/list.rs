//! `windlass model list`

use anyhow::Result;

use crate::cli::host::HostArgs;
use crate::cli::printer::{Printer, count, size};
use crate::cli::session::Session;
use crate::podman::switch::{Model, Place, Slot};

/// List the models of the current generation, and the slots in which one is active.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
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
