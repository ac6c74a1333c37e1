//! What is loaded and not confirmed yet, and how it is taken away again.
//!
//! One image that Podman cannot read makes `podman images` fail for every user of the host, so a load that Podman does not
//! confirm is undone before windlass ends, under the lock that it was made under. A kill may come between the two: what is
//! about to be loaded is noted first, with what was there before, in
//!
//! ```text
//! <graph root>/windlass/pending.json
//! ```
//!
//! and the note goes when Podman has answered for all of it. A run that finds a note asks, and takes away what Podman
//! does not confirm; the lock of the generations says that no load is still at work on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::confirm::is_failure;
use super::decide::PodmanHost;
use super::{LoadError, PodmanImageOutcome};
use crate::disk::beneath::Dir;
use crate::disk::progress::Progress;
use crate::disk::{Staging, WriteError, files};
use crate::engine::Engine;
use crate::engine::generations::Generations;
use crate::engine::process::ProgramError;
use crate::engine::target::{LoadMethod, LoadTarget};
use crate::image::json::parse_versioned;
use crate::image::layout::VERSION;
use crate::oci::canonical;
use crate::podman::linked::LinkedStore;
use crate::podman::storage::places::state_of;
use crate::podman::storage::records::StoredImage;
use crate::podman::storage::snapshot::{StoreSnapshot, names};

/// Images that Podman has not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Pending {
    version: u32,
    /// The linked store.
    store: Option<PathBuf>,
    images: Vec<Unconfirmed>,
}

/// One of them, and what was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
struct Unconfirmed {
    /// Podman's ID of it.
    id: String,
    /// What it is to be called.
    names: Vec<String>,
    /// The record that the linked store had of it.
    linked: Option<StoredImage>,
    /// The names that it had in the graph root; `None` if it was not there.
    pulled: Option<BTreeSet<String>>,
    /// Names of the linked store that lead to other images, with these.
    taken: Vec<(String, String)>,
    /// Names of the graph root that lead to other images, with these.
    tags: Vec<(String, String)>,
}

impl Pending {
    /// What the graph root has of this image is removed before it is loaded.
    pub(super) fn forget_pulled(&mut self, id: &str) {
        for image in self.images.iter_mut().filter(|image| image.id == id) {
            image.pulled = None;
        }
    }
}

/// The note.
const NOTE: &str = "pending.json";

/// The folder that the note is in, if there is one.
fn noted(graph_root: &Path) -> Result<Option<Dir>, WriteError> {
    let folder = Generations::at(state_of(graph_root)).state().find(&[])?;
    Ok(match folder {
        Some(folder) if folder.look(NOTE)?.is_some() => Some(folder),
        _ => None,
    })
}

/// Whether a load was killed before Podman confirmed it: there is a note, and no windlass is at work.
pub(crate) fn is_left(graph_root: &Path) -> bool {
    let folder = noted(graph_root).ok().flatten();
    folder.is_some_and(|folder| folder.file("lock").is_ok_and(|lock| lock.try_lock().is_ok()))
}

impl PodmanHost {
    /// Whether there are images that Podman has not confirmed, of a run that was killed or is still at work.
    #[must_use]
    pub(crate) fn has_unconfirmed(&self) -> bool {
        noted(&self.places.graph_root).is_ok_and(|folder| folder.is_some())
    }

    /// Notes what is about to be loaded. The generations are locked.
    pub(crate) fn note_pending(
        &self,
        targets: &[LoadTarget],
        outcomes: &[PodmanImageOutcome],
        progress: &Progress,
    ) -> Result<Pending, LoadError> {
        let mut pending = Pending { version: VERSION, store: None, images: Vec::new() };
        let is_loaded = |pair: &&(&LoadTarget, &PodmanImageOutcome)| {
            pair.1.step.how != LoadMethod::Present && pair.1.error.is_none()
        };
        let pairs: Vec<_> = targets.iter().zip(outcomes).collect();
        if !pairs.iter().any(|pair| is_loaded(&pair)) {
            return Ok(pending);
        }
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let own = snapshot.stores.iter().find(|records| records.store == self.places.graph_root);
        let linked = self.linked.as_ref().and_then(|store| {
            pending.store = Some(store.path().to_owned());
            snapshot.stores.iter().find(|records| records.store == store.path())
        });
        for (target, _) in pairs.iter().filter(is_loaded) {
            let platform = target.platform()?;
            let (id, names) = (platform.config_digest.hex(), names(target.image.summary(), platform));
            let record = |image: &&StoredImage| image.id == id;
            let others = |images: &[StoredImage]| -> Vec<(String, String)> {
                let others = images.iter().filter(|image| image.id != id);
                let pair = |image: &StoredImage, name: &String| (image.id.clone(), name.clone());
                others
                    .flat_map(|image| names.iter().filter(|n| image.is_called(n)).map(move |n| pair(image, n)))
                    .collect()
            };
            let (own, linked) = [own, linked].map(|records| records.map_or(&[][..], |records| &records.images)).into();
            pending.images.push(Unconfirmed {
                linked: linked.iter().find(record).cloned(),
                pulled: own.iter().find(record).map(|image| image.names.iter().cloned().collect()),
                taken: others(linked),
                tags: others(own),
                id,
                names,
            });
        }
        let staging = Staging::file_in(&Generations::at(state_of(&self.places.graph_root)).state().make(&[])?, NOTE)?;
        files::write_file(staging.path(), &canonical::to_pretty(&pending), progress)?;
        staging.publish()?;
        Ok(pending)
    }

    /// All of it was confirmed or taken away.
    pub(crate) fn forget_pending(&self) -> Result<(), WriteError> {
        noted(&self.places.graph_root)?.map_or(Ok(()), |folder| folder.remove(NOTE))
    }

    /// [`settle`](Engine::settle), where no load is at work.
    ///
    /// # Errors
    /// See there.
    pub(crate) fn settle_now(&self, progress: &Progress) -> Result<Vec<String>, LoadError> {
        if !self.has_unconfirmed() {
            return Ok(Vec::new());
        }
        let _lock = self.generations().lock(progress)?;
        self.settle(progress)
    }

    /// Confirms or takes away what a run has left that was killed before it could; what was taken away, in a sentence each.
    /// The generations are locked.
    ///
    /// # Errors
    /// If it cannot be taken away, or the job was stopped; a next run tries again.
    pub(super) fn settle_pending(&self, progress: &Progress) -> Result<Vec<String>, LoadError> {
        let Some(folder) = noted(&self.places.graph_root)? else { return Ok(Vec::new()) };
        let path = folder.at(NOTE);
        let bytes = Generations::at(state_of(&self.places.graph_root)).state().read(&folder, NOTE)?.unwrap_or_default();
        // The note is written in one step. One that cannot be read is of a newer windlass, or damaged: what it names is
        // found by the check of the records, but for what only Podman knows.
        let Ok(pending) = parse_versioned::<Pending>(&path, &bytes) else {
            self.forget_pending()?;
            return Ok(vec![format!("{} could not be read, and is removed", path.display())]);
        };
        let ids: BTreeSet<String> = pending.images.iter().map(|image| image.id.clone()).collect();
        let refused = self.ask(&pending, &ids, progress)?;
        // A kill may have come while a record was held back.
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let is_there =
            |id: &String| snapshot.stores.iter().any(|store| store.images.iter().any(|image| image.id == *id));
        let gone = ids.into_iter().filter(|id| refused.contains_key(id) || !is_there(id)).collect();
        self.take_away_pending(&pending, &gone, progress)?;
        self.prune(progress)?;
        self.forget_pending()?;
        let name = |id: &String| {
            let image = pending.images.iter().find(|image| image.id == *id);
            image.and_then(|image| image.names.first()).unwrap_or(id).clone()
        };
        let engine = self.engine.kind();
        Ok(refused.iter().map(|(id, why)| format!("{} was taken away: {engine} {why}", name(id))).collect())
    }

    /// Asks Podman for all of these images, by ID, that are there; what it says instead of each that it does not confirm.
    ///
    /// Podman may fail for all of them because of one, so then each of the linked store's is asked for with those before
    /// it alone.
    fn ask(
        &self,
        pending: &Pending,
        ids: &BTreeSet<String>,
        progress: &Progress,
    ) -> Result<BTreeMap<String, String>, LoadError> {
        let mut refused = BTreeMap::new();
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let is_there = |image: &&Unconfirmed| {
            ids.contains(&image.id) && snapshot.stores.iter().any(|s| s.images.iter().any(|other| other.id == image.id))
        };
        let images: Vec<&Unconfirmed> = pending.images.iter().filter(is_there).collect();
        match self.answers(&images, progress) {
            Ok(answers) => {
                refused.extend(images.iter().zip(answers).filter_map(|(image, said)| Some((image.id.clone(), said?))));
                return Ok(refused);
            }
            Err(error) if is_failure(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let mut out = self.hold_back(pending, ids, progress)?;
        for image in images {
            out.put_back(&image.id, progress)?;
            let said = match self.answers(&[image], progress) {
                Ok(answers) => answers.into_iter().flatten().next(),
                Err(error) if is_failure(&error) => Some(format!("cannot read it: {error}")),
                Err(error) => return Err(error.into()),
            };
            if let Some(said) = said {
                refused.insert(image.id.clone(), said);
                // What is asked for next must not fail because of it.
                self.take_away_pending(pending, &[image.id.clone()].into(), progress)?;
            }
        }
        Ok(refused)
    }

    /// Takes these images out of the records of the linked store, and nothing else, so that they can be put back one by
    /// one.
    pub(crate) fn hold_back(
        &self,
        pending: &Pending,
        ids: &BTreeSet<String>,
        progress: &Progress,
    ) -> Result<HeldBack<'_>, LoadError> {
        let store = self.linked.as_ref().filter(|store| Some(store.path()) == pending.store.as_deref());
        let mut held = HeldBack { store, records: BTreeMap::new() };
        if let Some(store) = store {
            store.change(progress)?.edit("images", progress, |stored: &mut Vec<StoredImage>| {
                let gone = stored.iter().filter(|image| ids.contains(&image.id));
                held.records.extend(gone.map(|image| (image.id.clone(), image.clone())));
                stored.retain(|image| !ids.contains(&image.id));
            })?;
        }
        Ok(held)
    }

    /// For each image what Podman has instead of it.
    fn answers(&self, images: &[&Unconfirmed], progress: &Progress) -> Result<Vec<Option<String>>, ProgramError> {
        let all: Vec<&str> = images.iter().flat_map(|image| &image.names).map(String::as_str).collect();
        let mut found = self.engine.exists(&all, progress)?.into_iter();
        let answer = |image: &&Unconfirmed| {
            let names = image.names.iter().zip(found.by_ref());
            // All of them are taken from the answers, also behind one that is wrong.
            let wrong: Vec<String> = names
                .filter_map(|(name, found)| match found {
                    Some(id) if id.hex() == image.id => None,
                    Some(id) => Some(format!("has {id} as {name}")),
                    None => Some(format!("knows no {name}")),
                })
                .collect();
            wrong.into_iter().next()
        };
        Ok(images.iter().map(answer).collect())
    }

    /// Removes what the linked store has of images that were taken away.
    pub(crate) fn prune(&self, progress: &Progress) -> Result<(), LoadError> {
        match &self.linked {
            Some(store) => Ok(store.change(progress)?.remove_images(&BTreeSet::new(), progress)?),
            None => Ok(()),
        }
    }

    /// Takes these images away again, and gives their names back. Their layers are for [`prune`](Self::prune), when no image
    /// is held back.
    pub(crate) fn take_away_pending(
        &self,
        pending: &Pending,
        ids: &BTreeSet<String>,
        progress: &Progress,
    ) -> Result<(), LoadError> {
        let images: Vec<&Unconfirmed> = pending.images.iter().filter(|image| ids.contains(&image.id)).collect();
        if images.is_empty() {
            return Ok(());
        }
        let linked = self.linked.as_ref().filter(|store| Some(store.path()) == pending.store.as_deref());
        if let Some(store) = linked {
            let change = store.change(progress)?;
            change.edit("images", progress, |stored: &mut Vec<StoredImage>| {
                stored.retain(|image| !ids.contains(&image.id));
                stored.extend(images.iter().filter_map(|image| image.linked.clone()));
                for (id, name) in images.iter().flat_map(|image| &image.taken) {
                    give(stored, id, name);
                }
            })?;
        }
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let Some(own) = snapshot.stores.iter().find(|records| records.store == self.places.graph_root) else {
            return Ok(());
        };
        for image in &images {
            let record = own.images.iter().find(|other| other.id == image.id);
            let had = |name: &String| image.pulled.as_ref().is_some_and(|names| names.contains(name));
            for name in record.into_iter().flat_map(|record| &record.names).filter(|name| !had(name)) {
                if image.names.contains(name) {
                    self.engine.discard(name, progress)?;
                }
            }
            for (id, name) in image.tags.iter().filter(|(id, _)| own.images.iter().any(|other| other.id == *id)) {
                self.engine.tag(id, name, progress)?;
            }
        }
        Ok(())
    }
}

/// Records of images of the linked store that are not in it for the moment.
pub(crate) struct HeldBack<'h> {
    store: Option<&'h LinkedStore>,
    records: BTreeMap<String, StoredImage>,
}

impl HeldBack<'_> {
    /// Puts the record of an image back, if it is one of these.
    pub(crate) fn put_back(&mut self, id: &str, progress: &Progress) -> Result<(), LoadError> {
        if let (Some(store), Some(image)) = (self.store, self.records.remove(id)) {
            store.change(progress)?.edit("images", progress, |stored: &mut Vec<StoredImage>| stored.push(image))?;
        }
        Ok(())
    }
}

/// Gives a name back to an image, unless it is gone, or another one has the name by now.
fn give(stored: &mut [StoredImage], id: &str, name: &str) {
    if stored.iter().any(|image| image.is_called(name)) {
        return;
    }
    if let Some(image) = stored.iter_mut().find(|image| image.id == id) {
        image.names.push(name.to_owned());
    }
}
