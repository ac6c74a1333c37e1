//! Loading into Podman: what its records say, which way images go, and that Podman has them ([`Engine`] for [`PodmanHost`]).
//!
//! - What is there is read from the records ([`snapshot`](super::storage::snapshot)).
//! - What is missing is linked ([`link`](super::linked::link_images)) or handed to Podman ([`mod@pull`]).
//! - Names are put right, and Podman itself is asked for every image that was loaded (`confirm`).
//! - What it does not confirm is taken away again (`undo`).

pub(crate) mod artifacts;
pub(crate) mod base;
mod confirm;
pub(crate) mod decide;
mod error;
mod large_files;
pub(crate) mod pull;
mod pull_error;
pub(crate) mod pull_work;
pub(crate) mod sizes;
pub(crate) mod undo;
pub(crate) mod unreadable;
mod versions;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::confirm::is_failure;
use self::decide::PodmanHost;
pub(crate) use self::error::LoadError;
use self::pull::{PullError, SkopeoCopies, pull};
use self::sizes::{Ways, goes};
use self::undo::Pending;
use super::linked::link_images::link;
use super::storage::others::OtherUsers;
use super::storage::places::state_of;
use super::storage::records::{StoreRecords, StoredImage};
use super::storage::snapshot::StoreSnapshot;
use crate::disk::WriteError;
use crate::disk::progress::Progress;
use crate::engine::generation::GenerationEntry;
use crate::engine::load::{self, Loading};
use crate::engine::target::{LoadMethod, LoadOptions, LoadStep, LoadTarget, LoadVia, Presence, TargetState};
use crate::engine::{Engine, Former};
use crate::image::vouching::vouched;
use crate::nix::store::NixPlaces;
use crate::oci::digest::Digest;
use crate::oci::reference::Reference;

/// What became of one image.
pub(crate) type PodmanImageOutcome = load::ImageOutcome<LoadError>;

/// What was there before a load.
#[derive(Debug)]
pub(crate) struct LoadNotes {
    pending: Pending,
    /// Outcome by outcome.
    damaged: Vec<DamagedRecord>,
}

/// The damaged record of an image in the graph root, if there is one. Podman would prefer it to what is loaded now, and to
/// load the same over it mends nothing (Podman 4.3 and 5.4).
#[derive(Debug, Default)]
struct DamagedRecord {
    /// All its names. None if there is no record, or it is gone by now.
    names: Vec<String>,
    /// Names that the image had besides its own, and is to have again.
    given: Vec<String>,
}

impl Engine for PodmanHost {
    type Error = LoadError;
    type Note = LoadNotes;

    fn state(&self) -> PathBuf {
        state_of(&self.places.graph_root)
    }

    fn nix(&self) -> &NixPlaces {
        &self.nix
    }

    fn begin(&self, _: &Progress) -> Result<Vec<String>, LoadError> {
        // Podman may have ended by itself what a killed load had begun: then nothing else comes this way.
        pull::sweep(&self.places);
        let closed = match &self.linked {
            Some(store) => store.settle(&OtherUsers::default(), self.places.has_new_rules())?,
            None => None,
        };
        Ok(closed.into_iter().collect())
    }

    fn conclude(&self, progress: &Progress) -> Result<Vec<String>, LoadError> {
        self.move_versions(progress)
    }

    fn look(
        &self,
        targets: &[LoadTarget],
        options: LoadOptions,
        progress: &Progress,
    ) -> Result<Vec<TargetState>, LoadError> {
        self.look_at(targets, options, progress)
    }

    fn holds(&self, images: &[Former<'_>], progress: &Progress) -> Result<Vec<bool>, LoadError> {
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let holds = |(entry, image): &Former<'_>| match image {
            Some((image, platform)) => matches!(snapshot.presence(image.summary(), platform), Presence::Present { .. }),
            None => snapshot.holding(entry).is_some(),
        };
        Ok(images.iter().map(holds).collect())
    }

    fn check_space(&self, steps: &[LoadStep]) -> Result<(), LoadError> {
        self.refuse_what_does_not_fit(steps)
    }

    fn has_leftovers(&self, progress: &Progress) -> Result<bool, LoadError> {
        let linked = match &self.linked {
            Some(store) => !store.leftovers(progress)?.is_empty(),
            None => false,
        };
        Ok(linked || self.has_unconfirmed())
    }

    fn settle(&self, progress: &Progress) -> Result<Vec<String>, LoadError> {
        self.settle_pending(progress)
    }

    fn note(&self, loading: &mut Loading<'_, Self>) -> Result<LoadNotes, LoadError> {
        if let Some(store) = &self.linked {
            // Before anything of it is there, so that no other user's clean-up takes it away.
            store.note_user(&self.state())?;
        }
        let mut damaged = self.damaged_records(&mut loading.outcomes, loading.progress)?;
        self.remove_damaged(&mut loading.outcomes, &mut damaged, LoadMethod::Pull, loading.progress);
        let pending = self.note_pending(loading.targets, &loading.outcomes, loading.progress)?;
        Ok(LoadNotes { pending, damaged })
    }

    fn put(&self, loading: &mut Loading<'_, Self>, noted: &mut LoadNotes) -> Result<u64, LoadError> {
        self.link(loading)?;
        // Not before: until then it is the only one that Podman has.
        self.remove_damaged(&mut loading.outcomes, &mut noted.damaged, LoadMethod::Link, loading.progress);
        // What is linked first: Podman may not be able to take another image while it cannot read one of these.
        self.finish(loading, &|how| how != LoadMethod::Pull, noted)?;
        let pulled = self.pull(loading, noted)?;
        self.finish(loading, &|how| how == LoadMethod::Pull, noted)?;
        Ok(pulled)
    }

    fn take_away(&self, noted: &LoadNotes, configs: &BTreeSet<Digest>, progress: &Progress) -> Result<(), LoadError> {
        if configs.is_empty() {
            return Ok(());
        }
        self.take_away_pending(&noted.pending, &configs.iter().map(Digest::hex).collect(), progress)?;
        self.prune(progress)
    }

    fn forget(&self, _: LoadNotes) -> Result<(), LoadError> {
        Ok(self.forget_pending()?)
    }

    fn sweep(&self, progress: &Progress) -> Result<(), LoadError> {
        match &self.linked {
            Some(store) if !store.leftovers(progress)?.is_empty() => {
                Ok(store.change(progress)?.sweep(progress).map(drop)?)
            }
            _ => Ok(()),
        }
    }

    fn name(&self, entries: &[&GenerationEntry], progress: &Progress) -> Result<(), LoadError> {
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        for entry in entries {
            let leads =
                snapshot.called(&entry.reference).is_some_and(|(_, image)| image.id == entry.config_digest.hex());
            if let Some(store) = snapshot.holding(entry).filter(|_| !leads) {
                self.name_in(&snapshot, entry, &store.store, progress)?;
            }
        }
        Ok(())
    }
}

impl PodmanHost {
    /// Outcome by outcome, what the graph root has of an image that is loaded although there is one.
    fn damaged_records(
        &self,
        outcomes: &mut [PodmanImageOutcome],
        progress: &Progress,
    ) -> Result<Vec<DamagedRecord>, LoadError> {
        let mut damaged: Vec<_> = outcomes.iter().map(|_| DamagedRecord::default()).collect();
        let is_damaged = |step: &LoadStep| goes(&step.reason);
        if !outcomes.iter().any(|outcome| is_damaged(&outcome.step)) {
            return Ok(damaged);
        }
        let (snapshot, engine) = (StoreSnapshot::read(&self.places, progress)?, self.engine.kind());
        let Some(own) = snapshot.stores.first() else { return Ok(damaged) };
        for (outcome, damaged) in outcomes.iter_mut().zip(&mut damaged).filter(|(outcome, _)| is_damaged(&outcome.step))
        {
            let (id, ours) = (outcome.step.entry.config_digest.hex(), outcome.step.entry.names());
            // A record that `podman tag` wrote over layers of the linked store is complete while those layers are.
            let stays =
                |image: &StoredImage| outcome.step.how == LoadMethod::Link && !own.layers.contains_key(&image.layer);
            let Some(image) = own.images.iter().find(|image| image.id == id).filter(|image| !stays(image)) else {
                continue;
            };
            // Podman would take away all names but the last before it refuses.
            if let Some(container) = own.containers.iter().find(|container| container.image == id) {
                let container = container.names.first().unwrap_or(&container.id).clone();
                outcome.error =
                    Some(LoadError::InUse { engine, reference: outcome.step.entry.reference.to_string(), container });
                continue;
            }
            let is_tag = |name: &&String| !ours.contains(*name) && !name.contains('@');
            damaged.given.extend(image.names.iter().filter(is_tag).cloned());
            damaged.names.extend(image.names.iter().cloned());
        }
        Ok(damaged)
    }

    /// Takes the damaged records of images that are loaded in this way out of the graph root.
    fn remove_damaged(
        &self,
        outcomes: &mut [PodmanImageOutcome],
        damaged: &mut [DamagedRecord],
        how: LoadMethod,
        progress: &Progress,
    ) {
        for (outcome, damaged) in outcomes.iter_mut().zip(damaged).filter(|(outcome, _)| outcome.step.how == how) {
            if outcome.error.is_none() {
                let mut names = std::mem::take(&mut damaged.names).into_iter();
                let removed = names.try_for_each(|name| self.engine.remove_image(&name, progress));
                outcome.error = removed.err().map(LoadError::from);
            }
        }
    }

    fn link(&self, loading: &mut Loading<'_, Self>) -> Result<(), LoadError> {
        let (force, progress) = (loading.options.force, loading.progress);
        let Some(store) = &self.linked else { return Ok(()) };
        let mut images = Vec::new();
        let mut linked = Vec::new();
        for (target, outcome) in loading.targets.iter().zip(&mut loading.outcomes) {
            if outcome.step.how == LoadMethod::Link && outcome.error.is_none() {
                images.push((&target.image, target.platform()?));
                linked.push(outcome);
            }
        }
        if images.is_empty() {
            return Ok(());
        }
        progress.expect(linked.iter().map(|outcome| outcome.step.entry.size).sum());
        let vouched = vouched(&self.nix, images.iter().map(|(image, _)| *image));
        let results = link(store, &images, &vouched, force, progress);
        let results = results.map_err(|error| LoadError::Link(Arc::new(error)))?;
        for (outcome, result) in linked.into_iter().zip(results) {
            match result {
                Ok(linked) => {
                    (outcome.links, outcome.linked, outcome.copies) = (linked.links, linked.linked, linked.copies);
                }
                Err(error) => outcome.error = Some(LoadError::Link(error)),
            }
        }
        Ok(())
    }

    fn pull(&self, loading: &mut Loading<'_, Self>, noted: &mut LoadNotes) -> Result<u64, LoadError> {
        let (via, progress) = (loading.options.via, loading.progress);
        for outcome in &mut loading.outcomes {
            if let Some(why) = outcome.step.unlinkable.as_ref().filter(|_| outcome.error.is_none()) {
                let reference = &outcome.step.entry.reference;
                loading.warnings.push(format!("{reference} is pulled, because it cannot be linked: {why}"));
            }
            // What cannot be linked at all (a layer without a recipe, files of other owners) Podman can still unpack.
            if via == LoadVia::Auto
                && self.pulls()
                && let Some(error) = outcome.error.take_if(|error| error.is_unlinkable())
            {
                loading
                    .warnings
                    .push(format!("{} is pulled, because it cannot be linked: {error}", outcome.step.entry.reference));
                outcome.step.how = LoadMethod::Pull;
                outcome.step.store.clone_from(&self.places.graph_root);
                noted.pending.forget_pulled(&outcome.step.entry.config_digest.hex());
            }
        }
        // The damaged records of those that could not be linked.
        self.remove_damaged(&mut loading.outcomes, &mut noted.damaged, LoadMethod::Pull, progress);
        let mut bytes = 0;
        for (target, outcome) in loading.targets.iter().zip(&mut loading.outcomes) {
            if outcome.step.how != LoadMethod::Pull || outcome.error.is_some() {
                continue;
            }
            let (snapshot, platform) = (StoreSnapshot::read(&self.places, progress)?, target.platform()?);
            let present = snapshot.own_diff_ids();
            if let Some(mut ways) =
                Ways::new(self, &snapshot, None, (loading.options, SkopeoCopies::Kept), BTreeSet::new())
            {
                outcome.step.to_write = ways.pull(&target.image, platform, None).to_write;
            }
            let pulled = match self.engine.podman("take images that are not linked") {
                Ok(podman) => pull(podman, &self.places, &target.image, platform, &present, progress),
                Err(error) => Err(error.into()),
            };
            match pulled {
                Ok(pulled) => bytes += pulled.bytes,
                Err(error) => {
                    let id = outcome.step.entry.config_digest.hex();
                    let own = StoreRecords::read(&self.places.graph_root, &self.places.driver, progress)?;
                    let is_there = own.images.iter().any(|image| image.id == id);
                    outcome.error = Some(match error {
                        PullError::Engine(error) if is_there && is_failure(&error) => LoadError::NotThere {
                            engine: self.engine.kind(),
                            reference: outcome.step.entry.reference.to_string(),
                            found: format!("cannot read it: {error}"),
                        },
                        error => error.into(),
                    });
                    // It may be what keeps Podman from taking the next one.
                    self.take_away_pending(&noted.pending, &[id].into(), progress)?;
                }
            }
            progress.check().map_err(|source| stopped(&self.places.graph_root, source))?;
            if outcome.error.is_none() {
                (loading.done)(outcome);
            }
        }
        Ok(bytes)
    }

    /// Makes names lead to the images that were asked for.
    pub(super) fn put_names_right(
        &self,
        targets: &[LoadTarget],
        outcomes: &mut [PodmanImageOutcome],
        progress: &Progress,
    ) -> Result<(), LoadError> {
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        for (target, outcome) in targets.iter().zip(outcomes) {
            let (summary, platform) = (target.image.summary(), target.platform()?);
            let Presence::Present { store, named: false } = snapshot.presence(summary, platform) else { continue };
            if outcome.error.is_some() {
                continue;
            }
            outcome.error = self.name_in(&snapshot, &outcome.step.entry, &store, progress).err();
        }
        Ok(())
    }

    /// Makes the names of an image that is in this store lead to it.
    fn name_in(
        &self,
        snapshot: &StoreSnapshot,
        entry: &GenerationEntry,
        store: &Path,
        progress: &Progress,
    ) -> Result<(), LoadError> {
        self.lead(snapshot, (&entry.config_digest.hex(), &entry.reference), &entry.names(), store, progress)
    }

    /// Makes these names, of which one is a tag, lead to an image that is in this store.
    fn lead(
        &self,
        snapshot: &StoreSnapshot,
        (id, reference): (&str, &Reference),
        names: &[String],
        store: &Path,
        progress: &Progress,
    ) -> Result<(), LoadError> {
        let Some(linked) = self.linked.as_ref().filter(|linked| linked.path() == store) else {
            return Ok(self.engine.tag(id, reference, progress)?);
        };
        linked.change(progress)?.name(id, names, progress)?;
        // Podman looks into the graph root first.
        let (other, own) = match snapshot.called(reference) {
            Some((records, image)) => (&image.id, records.store == self.places.graph_root),
            None => return Ok(()),
        };
        if own && *other != id { Ok(self.engine.untag(other, reference, progress)?) } else { Ok(()) }
    }
}

fn stopped(path: &Path, source: std::io::Error) -> WriteError {
    WriteError { action: "load into", path: path.to_owned(), source }
}
