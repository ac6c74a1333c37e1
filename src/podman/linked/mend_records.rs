//! `windlass repair` of a linked store whose records are torn or gone.

use super::{LinkedStore, StoreChange};
use crate::disk::bounded::Cap;
use crate::disk::progress::Progress;
use crate::podman::storage::lock::{For, StorageLock};
use crate::podman::storage::records::{RecordsError, StoredImage, StoredLayer, read_list};

impl LinkedStore {
    /// Mends what makes Podman commands fail, whichever image they are about: a lock or a record file that is gone, torn
    /// records, images whose layers have no record. What is mended, in a few words each; nothing is written if all is well.
    ///
    /// Torn records are kept as `<storage>/<kind>.json.damaged`, and the images that they had are to be loaded again. That
    /// is less work than saving what is left of them, costs links only, and ends in what was built.
    ///
    /// # Errors
    /// With the path at fault.
    pub(crate) fn mend(&self, progress: &Progress) -> Result<Vec<String>, RecordsError> {
        let mut mended = Vec::new();
        for kind in ["images", "layers"] {
            let folder = self.folder(kind);
            let gone = [folder.lock(), folder.json()].into_iter().filter(|path| !path.exists());
            mended.extend(gone.map(|path| format!("{} was gone", path.display())));
        }
        Self::create(self.path())?;
        let change = self.change(progress)?;
        change.remove_unreadable::<StoredImage>("images", progress, &mut mended)?;
        change.remove_unreadable::<StoredLayer>("layers", progress, &mut mended)?;
        let records = self.records(progress)?;
        let is_whole = |image: &StoredImage| {
            let mut layer = records.layers.get(&image.layer);
            let mut left = records.layers.len();
            while let Some(parent) = layer.and_then(|layer| layer.parent.as_deref()).filter(|_| left > 0) {
                (layer, left) = (records.layers.get(parent), left - 1);
            }
            // An image may have no layer at all.
            layer.is_some() || image.layer.is_empty()
        };
        if !records.images.iter().all(is_whole) {
            let broken = records.images.iter().filter(|image| !is_whole(image)).count();
            mended.push(format!("{broken} images in {} had layers without a record", self.path().display()));
            change.edit("images", progress, |stored: &mut Vec<StoredImage>| stored.retain(is_whole))?;
        }
        Ok(mended)
    }
}

impl StoreChange<'_> {
    /// Replaces records that are no JSON by none, and keeps a copy.
    fn remove_unreadable<T: serde::de::DeserializeOwned>(
        &self,
        kind: &'static str,
        progress: &Progress,
        mended: &mut Vec<String>,
    ) -> Result<(), RecordsError> {
        let folder = self.store.folder(kind);
        let place = self.root.dir(format!("overlay-{kind}"))?;
        let lock = StorageLock::take_in(&place, &format!("{kind}.lock"), For::Writing, progress)?;
        let Err(RecordsError::Damaged { path, message }) = read_list::<T>(&folder.json()) else {
            return Ok(());
        };
        let (json, damaged) = (format!("{kind}.json"), format!("{kind}.json.damaged"));
        let copy = self.store.path().join(&damaged);
        self.root.replace(&damaged, &place.read(&json, Cap::Document)?, 0o600)?;
        lock.touch(&folder.lock())?;
        place.replace(&json, b"[]", 0o644)?;
        mended.push(format!("{} was damaged ({message}); it is kept as {}", path.display(), copy.display()));
        Ok(())
    }
}
