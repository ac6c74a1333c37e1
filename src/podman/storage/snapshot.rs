//! Whether Podman has an image already: asked of the records of all its stores, in milliseconds and without a process.

use std::collections::BTreeSet;

use super::places::Places;
use super::records::{RecordsError, StoreRecords, StoredImage, StoredLayer};
use crate::disk::progress::Progress;
use crate::engine::generation::{self, GenerationEntry};
use crate::engine::target::Presence;
use crate::image::chain_ids;
use crate::image::summary::{PlatformRecord, Summary};
use crate::oci::digest::Digest;

/// The stores of one Podman, as they were at one moment.
#[derive(Debug, Clone)]
pub(crate) struct StoreSnapshot {
    /// The graph root first, then the additional stores in Podman's order.
    pub(crate) stores: Vec<StoreRecords>,
}

impl StoreSnapshot {
    /// Reads the records of every store.
    ///
    /// # Errors
    /// See [`RecordsError`].
    pub(crate) fn read(places: &Places, progress: &Progress) -> Result<Self, RecordsError> {
        let paths = std::iter::once(&places.graph_root).chain(&places.image_stores);
        let stores = paths.map(|path| StoreRecords::read(path, &places.driver, progress)).collect::<Result<_, _>>()?;
        Ok(Self { stores })
    }

    /// What there is of one platform of an image.
    #[must_use]
    pub(crate) fn presence(&self, summary: &Summary, platform: &PlatformRecord) -> Presence {
        let Some((store, _)) = self.image(summary, platform) else { return Presence::Missing };
        match self.missing_part(store, platform) {
            None => Presence::Present { store: store.store.clone(), named: self.is_named(summary, platform) },
            Some(why) => Presence::Damaged { store: store.store.clone(), why },
        }
    }

    /// The record of an image, in the store that Podman takes it from: the first one that has it.
    #[must_use]
    pub(crate) fn image(&self, summary: &Summary, platform: &PlatformRecord) -> Option<(&StoreRecords, &StoredImage)> {
        let id = platform.config_digest.hex();
        let is_it = |image: &&StoredImage| image.id == id && image.has(platform.digest) && image.has(summary.digest);
        self.stores.iter().find_map(|store| Some((store, store.images.iter().find(is_it)?)))
    }

    /// The record of a layer of an image that is in `store`. An image that was tagged has a record in the graph root, over
    /// layers of the store it is in.
    #[must_use]
    pub(crate) fn layer<'a>(
        &'a self,
        store: &'a StoreRecords,
        id: &str,
    ) -> Option<(&'a StoreRecords, &'a StoredLayer)> {
        std::iter::once(store).chain(&self.stores).find_map(|home| Some((home, home.layers.get(id)?)))
    }

    /// The store that the layers of an image that is there lie in.
    #[must_use]
    pub(crate) fn home(&self, summary: &Summary, platform: &PlatformRecord) -> Option<&StoreRecords> {
        let (store, _) = self.image(summary, platform)?;
        let Some(top) = chain_ids(&platform.layers).last().map(|top| top.hex()) else { return Some(store) };
        Some(self.layer(store, &top).map_or(store, |(home, _)| home))
    }

    /// The first thing that an image's record promises and that is not there.
    fn missing_part(&self, store: &StoreRecords, platform: &PlatformRecord) -> Option<String> {
        for (layer, chain) in platform.layers.iter().zip(chain_ids(&platform.layers)) {
            let id = chain.hex();
            let Some((home, stored)) = self.layer(store, &id) else {
                return Some(format!("layer {} ({}) has no record", layer.title, chain.short()));
            };
            if stored.is_incomplete() || stored.diff_digest != Some(layer.diff_id()) {
                return Some(format!("layer {} ({}) is incomplete", layer.title, chain.short()));
            }
            if !home.tree(&id).is_dir() {
                return Some(format!("layer {} ({}) has no files", layer.title, chain.short()));
            }
        }
        None
    }

    /// Whether name and tag lead to the image. Below such a name Podman finds its digests too.
    fn is_named(&self, summary: &Summary, platform: &PlatformRecord) -> bool {
        self.led_elsewhere(summary, platform).is_none()
    }

    /// Where the name and tag of an image that is there lead instead of to it.
    #[must_use]
    pub(crate) fn led_elsewhere(&self, summary: &Summary, platform: &PlatformRecord) -> Option<String> {
        match self.called(&summary.reference) {
            Some((_, image)) if image.id == platform.config_digest.hex() => None,
            Some((_, image)) => {
                let digest = image.digest.map_or_else(|| format!("image {}", image.id), |digest| digest.to_string());
                Some(format!("its name leads to {digest}"))
            }
            None => Some("no image has its name".to_owned()),
        }
    }

    /// The image that Podman takes for a name: that of the first store that knows it.
    #[must_use]
    pub(crate) fn called(&self, name: &str) -> Option<(&StoreRecords, &StoredImage)> {
        self.stores.iter().find_map(|store| Some((store, store.images.iter().find(|image| image.is_called(name))?)))
    }

    /// The store that has all of an image that was loaded once, wherever its image directory is now.
    #[must_use]
    pub(crate) fn holding(&self, entry: &GenerationEntry) -> Option<&StoreRecords> {
        self.complete(&entry.config_digest.hex(), [entry.manifest_digest, entry.digest])
    }

    /// The store that has all of the image with this ID and these manifests.
    #[must_use]
    pub(crate) fn complete<const N: usize>(&self, id: &str, manifests: [Digest; N]) -> Option<&StoreRecords> {
        let fits = |image: &&StoredImage| image.id == id && manifests.iter().all(|digest| image.has(*digest));
        let (store, image) = self.stores.iter().find_map(|store| Some((store, store.images.iter().find(fits)?)))?;
        let mut next = Some(image.layer.as_str()).filter(|layer| !layer.is_empty());
        while let Some(id) = next {
            // The store itself first: see `missing_part`.
            let home = std::iter::once(store).chain(&self.stores).find(|other| other.layers.contains_key(id))?;
            let layer = home.layers.get(id)?;
            if layer.is_incomplete() || !home.tree(id).is_dir() {
                return None;
            }
            next = layer.parent.as_deref();
        }
        Some(store)
    }

    /// The diff IDs that the graph root has, whatever lies below them there.
    #[must_use]
    pub(crate) fn own_diff_ids(&self) -> BTreeSet<Digest> {
        let own = self.stores.first().into_iter().flat_map(|store| store.layers.values());
        own.filter(|layer| !layer.is_incomplete()).filter_map(|layer| layer.diff_digest).collect()
    }
}

/// The names by which one platform of an image must be found.
#[must_use]
pub(crate) fn names(summary: &Summary, platform: &PlatformRecord) -> Vec<String> {
    generation::names(&summary.reference, &summary.name, [platform.digest, summary.digest])
}
