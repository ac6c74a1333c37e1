//! Images in a store that Podman cannot read, as an older windlass may have left them.
//!
//! While there is one, `podman images` fails for every image of the host, and so does much else. They are found by the
//! check that a build makes ([`strict`]), on the files that are kept with the records; no process is needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::LoadError;
use super::decide::PodmanHost;
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::engine::generations::Generations;
use crate::engine::keep::replace_current;
use crate::oci::digest::Digest;
use crate::oci::reference::is_name;
use crate::oci::strict;
use crate::podman::linked::LinkedStore;
use crate::podman::storage::places::{Places, state_of};
use crate::podman::storage::records::{StoreRecords, StoredImage};
use crate::podman::storage::snapshot::StoreSnapshot;

/// An image that Podman cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct Unreadable {
    /// Its first name, or its ID.
    pub(crate) image: String,
    /// Podman's ID of it.
    pub(crate) id: String,
    /// The store that it is in.
    pub(crate) store: PathBuf,
    /// What of it cannot be read.
    pub(crate) what: String,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Podman cannot read {}, and lists no image while it is in {}: {}",
            self.image,
            self.store.display(),
            self.what
        )
    }
}

/// Those among the images of a store that `ours` chooses.
fn among(records: &StoreRecords, ours: impl Fn(&StoredImage) -> bool) -> Vec<Unreadable> {
    let unreadable = |image: &StoredImage| {
        let name = image.names.iter().find(|name| !name.contains('@')).or(image.names.first());
        Some(Unreadable {
            image: name.unwrap_or(&image.id).escape_debug().to_string(),
            id: image.id.clone(),
            store: records.store.clone(),
            what: why(records, image)?,
        })
    };
    records.images.iter().filter(|image| ours(image)).filter_map(unreadable).collect()
}

fn why(records: &StoreRecords, image: &StoredImage) -> Option<String> {
    if let Some(name) = image.names.iter().find(|name| !is_name(name)) {
        return Some(format!("'{}' is not the name of an image", name.escape_debug()));
    }
    // What is not there, or not what it was, is damage: `verify` says that.
    let kept = |name: &str| {
        let bytes = bounded::read(&records.big_data(&image.id, name), Cap::Config).ok()?;
        (image.big_data_digests.get(name)? == &Digest::of(&bytes).to_string()).then_some(bytes)
    };
    let (manifest, config) = (kept("manifest")?, kept(&format!("sha256:{}", image.id))?);
    strict::check_image(&manifest, &config).err().map(|error| error.to_string())
}

/// Those in windlass' own stores, and of the graph root those that windlass has loaded.
pub(crate) fn all(snapshot: &StoreSnapshot, places: &Places) -> Vec<Unreadable> {
    let generations = Generations::at(state_of(&places.graph_root));
    let loaded = generations.all().unwrap_or_default().into_iter().chain(generations.attempts().unwrap_or_default());
    let loaded: BTreeSet<String> =
        loaded.flat_map(|generation| generation.entries).map(|entry| entry.config_digest.hex()).collect();
    let of_store = |records: &StoreRecords| {
        let is_own = records.store == places.graph_root;
        let is_ours = !is_own && LinkedStore::is_at(&records.store);
        among(records, |image| is_ours || is_own && loaded.contains(&image.id))
    };
    snapshot.stores.iter().flat_map(of_store).collect()
}

impl PodmanHost {
    /// Images of windlass that Podman cannot read.
    #[must_use]
    pub(crate) fn unreadable(&self, snapshot: &StoreSnapshot) -> Vec<Unreadable> {
        all(snapshot, &self.places)
    }

    /// Takes away the images of windlass that Podman cannot read, if it fails because of them; a sentence for each. The
    /// current generation is replaced by one without them.
    ///
    /// # Errors
    /// If a store cannot be read or changed.
    pub(crate) fn remove_unreadable(&self, progress: &Progress) -> Result<Vec<String>, LoadError> {
        if self.unreadable(&StoreSnapshot::read(&self.places, progress)?).is_empty() {
            return Ok(Vec::new());
        }
        // A reader that takes more than others is not at fault, and neither is what it has read for long.
        if self.engine.podman("remove images that it cannot read")?.ask(&["images", "--quiet"], progress)?.code()
            == Some(0)
        {
            return Ok(Vec::new());
        }
        let generations = self.generations();
        let _lock = generations.lock(progress)?;
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let found = self.unreadable(&snapshot);
        let of = |store: &Path| -> Vec<&Unreadable> { found.iter().filter(|image| image.store == store).collect() };
        let mut gone: Vec<&Unreadable> = Vec::new();
        if let Some(store) = &self.linked {
            let ids = of(store.path()).iter().map(|image| image.id.clone()).collect();
            store.change(progress)?.remove_images(&ids, progress)?;
            gone.extend(of(store.path()));
        }
        let own = snapshot.stores.iter().find(|records| records.store == self.places.graph_root);
        for image in of(&self.places.graph_root) {
            let stored = own.and_then(|own| own.images.iter().find(|stored| stored.id == image.id));
            let names = stored.into_iter().flat_map(|stored| &stored.names);
            names.into_iter().try_for_each(|name| self.engine.discard(name, progress))?;
            gone.push(image);
        }
        if let Some(current) = generations.current()? {
            let is_gone = |id: Digest| gone.iter().any(|image| image.id == id.hex());
            let (old, left): (Vec<_>, Vec<_>) =
                current.entries.into_iter().partition(|entry| is_gone(entry.config_digest));
            if !old.is_empty() {
                replace_current(&generations, &left, &self.nix, progress)?;
            }
        }
        Ok(gone.into_iter().map(|image| format!("{} was taken away: {}", image.image, image.what)).collect())
    }
}
