//! Names that people can type: the version of an image as a tag beside its own, `localhost/redis:8.0.2`.
//!
//! Nothing depends on such a tag. It leads to what the current generation has, so loads and rollbacks move it, and it is never
//! taken from an image that windlass did not load.

use super::LoadError;
use super::decide::PodmanHost;
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::engine::generation::{Generation, GenerationEntry};
use crate::oci::reference::Reference;
use crate::podman::storage::records::{StoreRecords, StoredImage};
use crate::podman::storage::snapshot::StoreSnapshot;

/// An image whose tag leads elsewhere, or nowhere.
type WantedTag<'a> = (&'a GenerationEntry, &'a Reference);

impl PodmanHost {
    /// Makes the tags of versions lead to the images of the current generation; a sentence for each that another image has.
    ///
    /// # Errors
    /// If the records cannot be read, or a tag cannot be moved.
    pub(crate) fn move_versions(&self, progress: &Progress) -> Result<Vec<String>, LoadError> {
        let generations = self.generations();
        let Some(current) = generations.current()? else { return Ok(Vec::new()) };
        if current.entries.iter().all(|entry| entry.version.is_none()) {
            return Ok(Vec::new());
        }
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        if self.misled(&current, &snapshot).is_empty() {
            return Ok(Vec::new());
        }
        let _lock = generations.lock(progress)?;
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let mut notes = Vec::new();
        for (entry, version) in self.misled(&current, &snapshot) {
            match snapshot.called(version) {
                Some((records, image)) if !self.is_ours(entry, records, image) => {
                    notes.push(format!("{version} is another image's name, and stays with it"));
                }
                _ => {
                    if let Some(home) = snapshot.holding(entry) {
                        let names = [version.to_string()];
                        self.lead(&snapshot, (&entry.config_digest.hex(), version), &names, &home.store, progress)?;
                    }
                }
            }
        }
        Ok(notes)
    }

    fn misled<'a>(&self, current: &'a Generation, snapshot: &StoreSnapshot) -> Vec<WantedTag<'a>> {
        let wanted = current.entries.iter().filter_map(|entry| Some((entry, entry.version.as_ref()?)));
        let leads = |(entry, version): &WantedTag<'_>| {
            snapshot.called(version).is_some_and(|(_, image)| image.id == entry.config_digest.hex())
        };
        wanted.filter(|wanted| !leads(wanted)).collect()
    }

    /// Whether windlass loaded an image that has such a tag: it is in the linked store, or is called by its digest.
    fn is_ours(&self, entry: &GenerationEntry, records: &StoreRecords, image: &StoredImage) -> bool {
        let by_digest = format!("{}@", entry.repository);
        self.linked.as_ref().is_some_and(|linked| linked.path() == records.store)
            || image.names.iter().any(|name| name.starts_with(&by_digest))
    }
}
