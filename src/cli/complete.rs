//! Completions that know names: images and models of the locks here, and what is loaded. They only read files: no program is
//! asked, and what cannot be read gives no names.

use std::collections::BTreeSet;
use std::path::Path;

use clap_complete::CompletionCandidate;
use clap_complete::engine::ArgValueCandidates;

use super::host::{caller, nix_places};
use super::into;
use crate::cache::definition::CacheProject;
use crate::engine::Engine as _;
use crate::engine::generation::GenerationEntry;
use crate::engine::generations::Generations;
use crate::image::summary::ImageKind;
use crate::model::pin::lock as models;
use crate::podman::load::decide::PodmanHost;
use crate::podman::load::sizes::MeasuredSizes;
use crate::podman::slots::Slots;
use crate::podman::storage::client::PodmanClient;
use crate::podman::storage::engine::StorageEngine;
use crate::podman::storage::places::{Overrides, Places};
use crate::upstream::file as images;

/// The variable by which a shell's script asks for completions.
pub(super) const VARIABLE: &str = "WINDLASS_COMPLETE";

fn candidates(names: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Images of `images.lock.json`.
pub(super) fn locked_images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let lock = images::read(Path::new("images.lock.json")).ok();
        candidates(lock.into_iter().flat_map(|lock| lock.images.into_keys()))
    })
}

/// Images of `windlass-cache.json`.
pub(super) fn cached_images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let project = CacheProject::find(Path::new(".")).ok();
        candidates(project.into_iter().flat_map(|project| project.definitions.images.into_keys()).map(String::from))
    })
}

/// Models of `models.lock.json`.
pub(super) fn locked_models() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let lock = models::read(Path::new("models.lock.json")).ok();
        candidates(lock.into_iter().flat_map(|lock| lock.models.into_keys()))
    })
}

/// The Podman of this user, as it has answered before.
fn host() -> Option<PodmanHost> {
    let overrides = Overrides::default();
    let places = Places::remembered(&caller(), &overrides)?;
    let (engine, linked) =
        (StorageEngine::Podman(PodmanClient::new(&overrides, &places)), PodmanHost::find_linked(&places, None));
    Some(PodmanHost { places, engine, linked, nix: nix_places(), sizes: MeasuredSizes::default() })
}

/// The generations of Podman, or of Docker where Podman was never asked.
fn all() -> Option<Generations> {
    host().map(|host| host.generations()).or_else(into::docker_generations)
}

fn entries() -> Vec<GenerationEntry> {
    all().and_then(|all| all.current().ok()?).map_or_else(Vec::new, |current| current.entries)
}

fn loaded(fits: fn(ImageKind) -> bool) -> Vec<CompletionCandidate> {
    candidates(entries().into_iter().filter(|entry| fits(entry.kind)).map(|entry| entry.name.to_string()))
}

/// What the current generation has.
pub(super) fn loaded_names() -> ArgValueCandidates {
    ArgValueCandidates::new(|| loaded(|_| true))
}

/// The images that it has which are no models.
pub(super) fn loaded_apps() -> ArgValueCandidates {
    ArgValueCandidates::new(|| loaded(|kind| kind != ImageKind::Model))
}

/// What it has, and the stacks that brought it.
pub(super) fn loaded_names_and_stacks() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let entries = entries();
        let stacks: BTreeSet<String> = entries.iter().flat_map(|entry| entry.origins.iter().cloned()).collect();
        candidates(entries.into_iter().map(|entry| entry.name.to_string()).chain(stacks))
    })
}

/// The models that it has.
pub(super) fn loaded_models() -> ArgValueCandidates {
    ArgValueCandidates::new(|| loaded(|kind| kind == ImageKind::Model))
}

/// The numbers of generations.
pub(super) fn generations() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let all = all().and_then(|all| all.all().ok());
        candidates(all.into_iter().flatten().map(|generation| generation.number.to_string()))
    })
}

/// The slots that were used so far.
pub(super) fn slots() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let names = host().and_then(|host| Slots::of(&host.places.graph_root).names().ok());
        candidates(names.into_iter().flatten())
    })
}
