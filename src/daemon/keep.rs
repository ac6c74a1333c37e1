//! Cleaning up in a daemon: which images and generations go, and letting go of what is loaded.
//!
//! *Ours* is an image that a generation names, and of it the names that a load gives. Names that others gave, images that others
//! brought and whatever a container uses, running or not, stay. An image goes with its last name, and the daemon says what it
//! frees; a generation goes after its images, because it is what says that they are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::host::DaemonHost;
use super::{DaemonContainer, DaemonError, DaemonImages};
use crate::disk::beneath::Dir;
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::engine::generation::GenerationEntry;
use crate::engine::keep::{Choice, History, replace_current};
use crate::image::layout::ImageDir;
use crate::image::summary::ImageKind;
use crate::oci::digest::Digest;

/// What a clean-up of a daemon would do.
#[derive(Debug, Clone, Default)]
pub(crate) struct DaemonGarbage {
    /// Images that stay, each with why.
    pub(crate) kept_images: Vec<(String, String)>,
    /// Generations that stay, each with why.
    pub(crate) kept_generations: Vec<(u64, String)>,
    /// Images that go.
    pub(crate) images: Vec<GoingImage>,
    /// Generations that go.
    pub(crate) generations: Vec<u64>,
    /// Files of killed runs.
    pub(crate) leftovers: Vec<PathBuf>,
    /// How many images are not ours, and what the daemon says that they take.
    pub(crate) not_ours: (usize, u64),
}

/// An image that goes, or names of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GoingImage {
    /// What people call it: `image redis (9ffa7622610c)`.
    pub(crate) label: String,
    pub(crate) id: Digest,
    /// Our names of it. What else it is called keeps it there.
    pub(crate) names: Vec<String>,
    /// Bytes of its layers that no image of ours has which stays.
    pub(crate) bytes: u64,
}

impl DaemonHost {
    /// What a clean-up would do, so that the last `keep` generations stay, or all for `None`; with `images` unset all images
    /// stay. Changes nothing.
    ///
    /// # Errors
    /// If the daemon or the generations cannot be read: then nothing may be removed.
    pub(crate) fn plan_gc(
        &self,
        keep: Option<usize>,
        images: bool,
        progress: &Progress,
    ) -> Result<DaemonGarbage, DaemonError> {
        let generations = self.generations();
        let history = History::read(&generations)?;
        let there = self.daemon.images(progress)?;
        let users = users(self.daemon.containers(progress)?);
        let user = |entry: &GenerationEntry| users.get(&self.daemon.id(entry)).map(|user| used_by(user));
        let kept = history.retain(keep, user);
        let mut plan = DaemonGarbage {
            kept_generations: kept.generations.iter().map(|(number, why)| (*number, why.clone())).collect(),
            generations: history.all.iter().map(|generation| generation.number).collect(),
            leftovers: generations.leftovers()?,
            ..DaemonGarbage::default()
        };
        plan.generations.retain(|number| !kept.generations.contains_key(number));
        // The newest entry of each image says what it is called.
        let mut ours: BTreeMap<Digest, Vec<&GenerationEntry>> = BTreeMap::new();
        for entry in history.both().rev().flat_map(|generation| &generation.entries) {
            ours.entry(self.daemon.id(entry)).or_default().push(entry);
        }
        let (mut going, mut staying) = (Vec::new(), Vec::new());
        for (id, entries) in ours.iter().filter(|(id, _)| there.sizes.contains_key(id)) {
            let entry = entries[0];
            let why = match (kept.images.get(&entry.config_digest), users.get(id)) {
                (Some(why), _) => why.clone(),
                (None, Some(user)) => used_by(user),
                (None, None) if !images => "images were not asked for".to_owned(),
                (None, None) => {
                    going.push((*id, entries));
                    continue;
                }
            };
            plan.kept_images.push((label(entry), why));
            staying.push(entry);
        }
        let mut needed: BTreeSet<Digest> = staying.into_iter().flat_map(layers).map(|(layer, _)| layer).collect();
        for (id, entries) in going {
            let image = self.going(id, entries, &there);
            if image.names.is_empty() {
                let why = "it has no name that a load gives; `prune` of the engine removes it".to_owned();
                plan.kept_images.push((image.label, why));
                continue;
            }
            let alone = layers(entries[0]).into_iter().filter(|(layer, _)| needed.insert(*layer));
            let bytes = alone.map(|(_, bytes)| bytes * self.daemon.copies()).sum();
            plan.images.push(GoingImage { bytes, ..image });
        }
        let others = there.sizes.iter().filter(|(id, _)| !ours.contains_key(id));
        plan.not_ours = others.fold((0, 0), |(images, bytes), (_, size)| (images + 1, bytes + size));
        Ok(plan)
    }

    /// Our names of an image.
    fn going(&self, id: Digest, entries: &[&GenerationEntry], there: &DaemonImages) -> GoingImage {
        let versions = entries.iter().filter_map(|entry| entry.version.as_ref()).map(ToString::to_string);
        let ours: BTreeSet<String> =
            entries.iter().flat_map(|entry| self.daemon.names(entry)).chain(versions).collect();
        let (names, others): (Vec<&String>, Vec<&String>) = there
            .names
            .iter()
            .filter(|(_, other)| **other == id)
            .map(|(name, _)| name)
            .partition(|name| ours.contains(*name));
        let mut label = label(entries[0]);
        if let Some(other) = others.first() {
            label = format!("our names of {label}, which is called {other} too");
        }
        // Its own name goes last: until then, what a kill leaves is found again.
        let own = super::own_name(entries[0]);
        let (own, rest): (Vec<String>, Vec<String>) = names.into_iter().cloned().partition(|name| *name == own);
        GoingImage { label, id, names: rest.into_iter().chain(own).collect(), bytes: 0 }
    }

    /// Takes our names of an image away; the image goes with its last one.
    ///
    /// # Errors
    /// If the daemon refuses.
    pub(crate) fn remove_image(&self, image: &GoingImage, progress: &Progress) -> Result<(), DaemonError> {
        image.names.iter().try_for_each(|name| self.daemon.untag(name, progress))
    }

    /// Removes what a killed run has left in the folder of windlass.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(crate) fn remove_leftover(&self, path: &std::path::Path) -> Result<(), DaemonError> {
        let below = path.strip_prefix(self.state()).ok().and_then(|below| below.parent().zip(below.file_name()));
        let Some((folder, name)) = below else { return Ok(()) };
        Ok(Dir::open(&self.state())?.dir(folder)?.remove(name)?)
    }

    /// Lets go of images: a generation without them becomes the current one, and they go from the daemon. With `apply` unset, only
    /// says what would go. What goes, what stays with why, and the generation that is current now.
    ///
    /// # Errors
    /// [`DaemonError::InUse`], and nothing was changed; or if the daemon refuses.
    pub(crate) fn unload(
        &self,
        choice: &Choice,
        apply: bool,
        progress: &Progress,
    ) -> Result<(Vec<GoingImage>, Option<u64>), DaemonError> {
        let generations = self.generations();
        let _lock = generations.lock(progress)?;
        if apply {
            self.settle(progress)?;
        }
        let history = History::read(&generations)?;
        let there = self.daemon.images(progress)?;
        let users = users(self.daemon.containers(progress)?);
        let staying: BTreeSet<Digest> = choice.staying.iter().map(|entry| self.daemon.id(entry)).collect();
        let mut used = Vec::new();
        let mut going = Vec::new();
        let mut needed: BTreeSet<Digest> = choice.staying.iter().flat_map(layers).map(|(layer, _)| layer).collect();
        for entry in &choice.going {
            let id = self.daemon.id(entry);
            if staying.contains(&id) || !there.sizes.contains_key(&id) {
                continue;
            }
            if let Some(user) = users.get(&id) {
                used.push(format!("{} is {}", label(entry), used_by(user)));
                continue;
            }
            let all = history.both().rev().flat_map(|generation| &generation.entries);
            let entries: Vec<&GenerationEntry> = all.filter(|other| self.daemon.id(other) == id).collect();
            let image = self.going(id, &entries, &there);
            let alone = layers(entry).into_iter().filter(|(layer, _)| needed.insert(*layer));
            let bytes = alone.map(|(_, bytes)| bytes * self.daemon.copies()).sum();
            going.push(GoingImage { bytes, ..image });
        }
        if !used.is_empty() {
            return Err(DaemonError::InUse(used));
        }
        if !apply {
            return Ok((going, None));
        }
        going.iter().try_for_each(|image| self.remove_image(image, progress))?;
        let generation = replace_current(&generations, &choice.staying, self.nix(), progress)?;
        Ok((going, Some(generation)))
    }
}

/// The layers of an image of a generation with their bytes, where its directory is still there.
fn layers(entry: &GenerationEntry) -> Vec<(Digest, u64)> {
    let image = ImageDir::open(&entry.directory);
    let platforms = image.iter().flat_map(|image| &image.summary().platforms);
    let own = platforms.filter(|platform| platform.digest == entry.manifest_digest);
    own.flat_map(|platform| platform.layers.iter().map(|layer| (layer.diff_id(), layer.diff_size()))).collect()
}

/// The containers by the IDs of their images.
fn users(containers: Vec<DaemonContainer>) -> BTreeMap<Digest, Vec<String>> {
    let mut users: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for container in containers {
        users.entry(container.image).or_default().push(container.name);
    }
    users
}

fn used_by(containers: &[String]) -> String {
    format!("used by container {}", containers.join(", "))
}

fn label(entry: &GenerationEntry) -> String {
    let kind = if entry.kind == ImageKind::Model { "model" } else { "image" };
    format!("{kind} {} ({})", entry.name, entry.digest.short())
}
