//! Whether Podman has an image already: asked of the records of all its stores, in milliseconds and without a process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::places::Places;
use super::records::{Records, RecordsError, StoredImage};
use crate::digest::Digest;
use crate::image::chain_ids;
use crate::layout::{PlatformRecord, Summary};
use crate::progress::Progress;

/// What Podman has of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// All of it, in this store.
    Present {
        /// The store.
        store: PathBuf,
        /// Whether the image's name and tag lead to it.
        named: bool,
    },
    /// A record of it, but not all that the record names.
    Damaged {
        /// The store.
        store: PathBuf,
        /// What is missing.
        why: String,
    },
    /// Nothing.
    Missing,
}

/// The stores of one Podman, as they were at one moment.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The graph root first, then the additional stores in Podman's order.
    pub stores: Vec<Records>,
}

impl Survey {
    /// Reads the records of every store.
    ///
    /// # Errors
    /// See [`RecordsError`].
    pub fn read(places: &Places, progress: &Progress) -> Result<Self, RecordsError> {
        let paths = std::iter::once(&places.graph_root).chain(&places.image_stores);
        let stores = paths.map(|path| Records::read(path, &places.driver, progress)).collect::<Result<_, _>>()?;
        Ok(Self { stores })
    }

    /// What there is of one platform of an image.
    #[must_use]
    pub fn presence(&self, summary: &Summary, platform: &PlatformRecord) -> Presence {
        let mut damaged = None;
        for store in &self.stores {
            let Some(image) = find(store, summary, platform) else { continue };
            match self.missing_part(store, platform) {
                None => {
                    return Presence::Present { store: store.store.clone(), named: self.is_named(summary, platform) };
                }
                Some(why) if damaged.is_none() => damaged = Some(Presence::Damaged { store: store.store.clone(), why }),
                Some(_) => {}
            }
            debug_assert_eq!(image.id, platform.config_digest.hex());
        }
        damaged.unwrap_or(Presence::Missing)
    }

    /// The first thing that an image's record promises and that is not there.
    fn missing_part(&self, store: &Records, platform: &PlatformRecord) -> Option<String> {
        for (layer, chain) in platform.layers.iter().zip(chain_ids(&platform.layers)) {
            let id = chain.hex();
            // An image that was tagged has a record in the graph root, over layers of the store it is in.
            let home = std::iter::once(store).chain(&self.stores).find(|other| other.layers.contains_key(&id));
            let Some((home, stored)) = home.and_then(|home| Some((home, home.layers.get(&id)?))) else {
                return Some(format!("layer {} ({}) has no record", layer.title, chain.short()));
            };
            if stored.is_incomplete() || stored.diff_digest != Some(layer.digest) {
                return Some(format!("layer {} ({}) is incomplete", layer.title, chain.short()));
            }
            if !home.tree(&id).is_dir() {
                return Some(format!("layer {} ({}) has no files", layer.title, chain.short()));
            }
        }
        None
    }

    /// Whether name and tag, and the name with the digest, lead to the image.
    fn is_named(&self, summary: &Summary, platform: &PlatformRecord) -> bool {
        let id = platform.config_digest.hex();
        names(summary, platform).iter().all(|name| self.called(name).is_some_and(|(_, image)| image.id == id))
    }

    /// The image that Podman takes for a name: that of the first store that knows it.
    #[must_use]
    pub fn called(&self, name: &str) -> Option<(&Records, &StoredImage)> {
        self.stores.iter().find_map(|store| Some((store, store.images.iter().find(|image| image.is_called(name))?)))
    }

    /// Whether the image is in this store.
    #[must_use]
    pub fn is_in(&self, store: &Path, summary: &Summary, platform: &PlatformRecord) -> bool {
        let records = self.stores.iter().find(|records| records.store == store);
        records.is_some_and(|records| {
            find(records, summary, platform).is_some() && self.missing_part(records, platform).is_none()
        })
    }

    /// The layers of the graph root by chain ID: what Podman need not unpack again.
    #[must_use]
    pub fn own_layers(&self) -> BTreeMap<&str, Option<Digest>> {
        let own = self.stores.first().map(|store| &store.layers);
        let whole = own.into_iter().flatten().filter(|(_, layer)| !layer.is_incomplete());
        whole.map(|(id, layer)| (id.as_str(), layer.diff_digest)).collect()
    }

    /// The diff IDs that the graph root has, in whatever order.
    #[must_use]
    pub fn own_diff_ids(&self) -> BTreeSet<Digest> {
        self.own_layers().into_values().flatten().collect()
    }
}

fn find<'a>(store: &'a Records, summary: &Summary, platform: &PlatformRecord) -> Option<&'a StoredImage> {
    let id = platform.config_digest.hex();
    store.images.iter().find(|image| image.id == id && image.has(platform.digest) && image.has(summary.digest))
}

/// The names by which an image must be found: name and tag, and the name with each of its digests. Podman 5.4 knows a
/// digest only below a name that the image has, and forgets it when the tag moves; so the digests are names themselves.
#[must_use]
pub fn names(summary: &Summary, platform: &PlatformRecord) -> Vec<String> {
    let mut names = vec![summary.reference.clone(), by_digest(&summary.name, platform.digest)];
    if summary.digest != platform.digest {
        names.push(by_digest(&summary.name, summary.digest));
    }
    names
}

/// `localhost/redis@sha256:…`
#[must_use]
pub fn by_digest(name: &str, digest: Digest) -> String {
    format!("{name}@{digest}")
}
