//! Images in a store that Podman cannot read, as an older windlass may have left them.
//!
//! While there is one, `podman images` fails for every image of the host, and so does much else. They are found by the
//! check that a build makes ([`strict`]), on the files that are kept with the records; no process is needed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::decide::Host;
use super::doctor::{Check, State};
use super::generations::Generations;
use super::linked::{DRIVER, LinkedStore};
use super::load::LoadError;
use super::places::Places;
use super::records::{Records, StoredImage};
use super::survey::Survey;
use crate::digest::Digest;
use crate::progress::Progress;
use crate::reference::is_name;
use crate::strict;

/// An image that Podman cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its first name, or its ID.
    pub image: String,
    /// Podman's ID of it.
    pub id: String,
    /// The store that it is in.
    pub store: PathBuf,
    /// What of it cannot be read.
    pub what: String,
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
fn among(records: &Records, ours: impl Fn(&StoredImage) -> bool) -> Vec<Unreadable> {
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

fn why(records: &Records, image: &StoredImage) -> Option<String> {
    if let Some(name) = image.names.iter().find(|name| !is_name(name)) {
        return Some(format!("'{}' is not the name of an image", name.escape_debug()));
    }
    // What is not there, or not what it was, is damage: `verify` says that.
    let kept = |name: &str| {
        let bytes = fs::read(records.big_data(&image.id, name)).ok()?;
        (image.big_data_digests.get(name)? == &Digest::of(&bytes).to_string()).then_some(bytes)
    };
    let (manifest, config) = (kept("manifest")?, kept(&format!("sha256:{}", image.id))?);
    strict::check_image(&manifest, &config).err().map(|error| error.to_string())
}

/// Those in windlass' own stores, and of the graph root those that windlass has loaded.
fn all(survey: &Survey, places: &Places) -> Vec<Unreadable> {
    let generations = Generations::of(&places.graph_root);
    let loaded = generations.all().unwrap_or_default().into_iter().chain(generations.attempts().unwrap_or_default());
    let loaded: BTreeSet<String> =
        loaded.flat_map(|generation| generation.entries).map(|entry| entry.config_digest.hex()).collect();
    let of_store = |records: &Records| {
        let is_own = records.store == places.graph_root;
        let is_ours = !is_own && LinkedStore::is_at(&records.store);
        among(records, |image| is_ours || is_own && loaded.contains(&image.id))
    };
    survey.stores.iter().flat_map(of_store).collect()
}

/// What `windlass doctor` says of them.
pub(super) fn checks(places: &Places) -> Vec<Check> {
    let stores = places.image_stores.iter().filter(|store| places.driver == DRIVER && LinkedStore::is_at(store));
    let stores = std::iter::once(&places.graph_root).chain(stores);
    // Without locks, and what cannot be read is told of elsewhere.
    let stores = stores.filter_map(|store| Records::glance(store, &places.driver).ok()).collect();
    let found = all(&Survey { stores }, places);
    let unconfirmed = || {
        let message = "a load was killed before Podman confirmed it";
        let fix = "`windlass repair` asks Podman, and takes away what it does not know";
        Check::new("images", State::Problem, message, fix)
    };
    let check = |image: &Unreadable| Check::new("images", State::Problem, image.to_string(), how(&image.store, places));
    let left = super::undo::is_left(&places.graph_root);
    found.iter().map(check).chain(left.then(unconfirmed)).collect()
}

fn how(store: &Path, places: &Places) -> &'static str {
    let is_root = rustix::process::geteuid().is_root();
    if is_root || store == places.graph_root {
        "`windlass repair` takes it away"
    } else {
        "`sudo windlass repair` takes it away"
    }
}

impl Host {
    /// Images of windlass that Podman cannot read.
    #[must_use]
    pub fn unreadable(&self, survey: &Survey) -> Vec<Unreadable> {
        all(survey, &self.places)
    }

    /// Takes away the images of windlass that Podman cannot read, if it fails because of them; a sentence for each. The
    /// current generation is replaced by one without them.
    ///
    /// # Errors
    /// If a store cannot be read or changed.
    pub fn remove_unreadable(&self, progress: &Progress) -> Result<Vec<String>, LoadError> {
        if self.unreadable(&Survey::read(&self.places, progress)?).is_empty() {
            return Ok(Vec::new());
        }
        // A reader that takes more than others is not at fault, and neither is what it has read for long.
        if self.engine.ask(&["images", "--quiet"], progress)?.code() == Some(0) {
            return Ok(Vec::new());
        }
        let generations = Generations::of(&self.places.graph_root);
        let _lock = generations.lock(progress)?;
        let survey = Survey::read(&self.places, progress)?;
        let found = self.unreadable(&survey);
        let of = |store: &Path| -> Vec<&Unreadable> { found.iter().filter(|image| image.store == store).collect() };
        let mut gone: Vec<&Unreadable> = Vec::new();
        if let Some(store) = &self.linked {
            let ids = of(store.path()).iter().map(|image| image.id.clone()).collect();
            store.change(progress)?.remove_images(&ids, progress)?;
            gone.extend(of(store.path()));
        }
        let own = survey.stores.iter().find(|records| records.store == self.places.graph_root);
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
                let generation = generations.add(&left, &self.nix, progress)?;
                for (link, path) in generations.roots(generation.number)? {
                    // Its paths have roots of the former generation too.
                    drop(crate::nix_store::register(&self.nix, &link, &path));
                }
                generations.confirm(generation.number, progress)?;
            }
        }
        Ok(gone.into_iter().map(|image| format!("{} was taken away: {}", image.image, image.what)).collect())
    }
}
