//! `windlass model list`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::super::failure::Result;
use crate::cli::host::{HostArgs, nix_places};
use crate::cli::printer::{Printer, count, size};
use crate::cli::session::Session;
use crate::cli::view::parameters;
use crate::model::pin::lock::{self, LockedModel};
use crate::model::read::facts::Facts;
use crate::nix::store::NixStore;
use crate::oci::digest::Digest;
use crate::podman::slots::switch::{GenerationModel, ModelPlace, ModelUser, Models, Slot};

const EXAMPLE: &str = "Examples:
  windlass model list
  windlass model list --lock nix/models.lock.json";

/// List the models of a lock, and those of the current generation: what they are, where they are, which images have them, and
/// the slots in which one is active.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelListArgs {
    /// The lock file. By default models.lock.json, if it is there.
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    #[command(flatten)]
    host: HostArgs,
}

/// What is locked and what is loaded.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ModelListReport<'a> {
    #[serde(flatten)]
    loaded: &'a Models,
    /// The models of the lock; empty without a lock.
    locked: Vec<LockedRow<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LockedRow<'a> {
    name: &'a str,
    /// What was asked for when it was added.
    reference: &'a str,
    floating: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<&'a str>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    licence: Option<&'a str>,
    /// Whether the Nix store has all of its files.
    in_store: bool,
    loaded: ModelLoaded,
}

/// Whether the current generation has a model of the lock.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ModelLoaded {
    /// With the very files.
    Yes,
    /// A model of this name, with other files.
    Other,
    No,
}

pub(super) fn run(args: &ModelListArgs, printer: &Printer, session: &Session) -> Result<()> {
    let lock = match &args.lock {
        Some(path) => Some(lock::read(path)?),
        None => Some(Path::new("models.lock.json")).filter(|path| path.exists()).map(lock::read).transpose()?,
    };
    let all = args.host.host(session.progress())?.models(session.progress())?;
    let store = NixStore::new(&nix_places())?;
    let locked: Vec<LockedRow<'_>> = lock
        .iter()
        .flat_map(|lock| &lock.models)
        .map(|(name, model)| LockedRow {
            name,
            reference: &model.source.reference,
            floating: model.source.floating,
            revision: model.source.revision.as_deref(),
            size: model.size(),
            licence: model.licence.as_deref(),
            in_store: model.files.iter().all(|file| store.path(&file.fixed()).exists()),
            loaded: loaded(name, model, &all),
        })
        .collect();
    if printer.json() {
        return printer.value(&ModelListReport { loaded: &all, locked });
    }
    let row = |row: &LockedRow<'_>| {
        vec![
            row.name.to_owned(),
            size(row.size),
            row.licence.unwrap_or("-").to_owned(),
            if row.in_store { "in the store" } else { "not in the store" }.to_owned(),
            match row.loaded {
                ModelLoaded::Yes => "loaded",
                ModelLoaded::Other => "another one is loaded",
                ModelLoaded::No => "not loaded",
            }
            .to_owned(),
            if row.floating { "floating" } else { "fixed" }.to_owned(),
            row.reference.to_owned(),
        ]
    };
    if !locked.is_empty() {
        let head = ["locked", "size", "licence", "files", "loaded", "source", "ref"].map(str::to_owned).to_vec();
        printer.table(&std::iter::once(head).chain(locked.iter().map(row)).collect::<Vec<_>>())?;
        printer.line("")?;
    }
    let row = |model: &GenerationModel| {
        let GenerationModel { entry, place, files, slots, used_by, model } = model;
        let place = match place {
            ModelPlace::Linked { .. } => "linked".to_owned(),
            ModelPlace::Pulled { .. } => "pulled".to_owned(),
            ModelPlace::Missing { why } => format!("missing: {why}"),
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
    let of_lock = match &lock {
        Some(lock) => format!("; {} locked", count(lock.models.len(), "model")),
        None => String::new(),
    };
    match all.generation {
        Some(number) => printer.line(format!("{models} in generation {number}, {slots}{of_lock}")),
        None => printer.line(format!("{models}, {slots}: nothing was loaded yet{of_lock}")),
    }
}

fn loaded(name: &str, locked: &LockedModel, all: &Models) -> ModelLoaded {
    let has = |model: &&GenerationModel| {
        let files = model.model.iter().flat_map(|record| &record.files);
        let files: BTreeSet<Digest> = files.map(|file| file.sha256).collect();
        locked.files.iter().all(|file| files.contains(&file.sha256))
    };
    match (all.models.iter().find(has), all.models.iter().any(|model| *model.entry.name == *name)) {
        (Some(_), _) => ModelLoaded::Yes,
        (None, true) => ModelLoaded::Other,
        (None, false) => ModelLoaded::No,
    }
}

/// The images that have a model, with their containers.
fn users(images: &[ModelUser]) -> String {
    let one = |ModelUser { image, containers }: &ModelUser| match &containers[..] {
        [] => image.clone(),
        names => format!("{image} ({})", names.join(", ")),
    };
    if images.is_empty() { "-".to_owned() } else { images.iter().map(one).collect::<Vec<_>>().join(", ") }
}
