//! `windlass model list`

use anyhow::Result;

use crate::cli::host::HostArgs;
use crate::cli::printer::{Printer, count, size};
use crate::cli::session::Session;
use crate::cli::view::parameters;
use crate::model::facts::Facts;
use crate::podman::switch::{Model, Place, Slot, User};

/// List the models of the current generation: what they are, where they are, which images have them, and the slots in which
/// one is active.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    let all = args.host.host(session.progress())?.models(session.progress())?;
    if printer.json() {
        return printer.value(&all);
    }
    let row = |model: &Model| {
        let Model { entry, place, files, slots, used_by, model } = model;
        let place = match place {
            Place::Linked { .. } => "linked".to_owned(),
            Place::Pulled { .. } => "pulled".to_owned(),
            Place::Missing { why } => format!("missing: {why}"),
        };
        let active = if slots.is_empty() { "-".to_owned() } else { format!("active in {}", slots.join(", ")) };
        let path = files.file.as_ref().or(files.tree.as_ref()).map(|path| path.display().to_string());
        let facts = model.as_ref().and_then(|model| model.facts.as_ref());
        let known = |of: &dyn Fn(&Facts) -> Option<String>| facts.and_then(of).unwrap_or_else(|| "-".to_owned());
        vec![
            entry.name.to_string(),
            known(&|facts| Some(parameters(facts.parameters))),
            known(&|facts| facts.quantization.clone()),
            size(entry.size),
            known(&|facts| facts.context_length.map(|tokens| tokens.to_string())),
            known(&|facts| facts.licence.clone()),
            place,
            active,
            users(used_by),
            entry.digest.short(),
            entry.reference.to_string(),
            path.unwrap_or_default(),
        ]
    };
    let names = [
        "model",
        "parameters",
        "quantization",
        "size",
        "context",
        "licence",
        "place",
        "active",
        "in images",
        "digest",
        "ref",
        "file",
    ];
    if !all.models.is_empty() {
        let head = [names.map(str::to_owned).to_vec()];
        printer.table(&head.into_iter().chain(all.models.iter().map(row)).collect::<Vec<_>>())?;
    }
    let slot = |slot: &Slot| {
        let model = slot.active.as_ref().map_or("nothing", |held| &*held.entry.name);
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

/// The images that have a model, with their containers.
fn users(images: &[User]) -> String {
    let one = |User { image, containers }: &User| match &containers[..] {
        [] => image.clone(),
        names => format!("{image} ({})", names.join(", ")),
    };
    if images.is_empty() { "-".to_owned() } else { images.iter().map(one).collect::<Vec<_>>().join(", ") }
}
