//! What images take of the disk, and what of it they have for themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::fs::FileType;
use serde::Serialize;

use super::records::{StoreRecords, StoredImage};
use super::snapshot::StoreSnapshot;
use crate::disk::WriteError;
use crate::disk::beneath::Dir;
use crate::disk::walk::walk;
use crate::image::chain_ids;
use crate::image::summary::PlatformRecord;

/// What of an image's layers is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Share {
    /// Bytes of layers that no other image of this Podman has, in whichever store.
    pub(crate) exclusive: u64,
    /// Bytes of the others.
    pub(crate) shared: u64,
    /// How many images have one of these too.
    pub(crate) shared_with: usize,
}

/// The images that each layer is in, by the IDs of both.
#[derive(Debug)]
pub(crate) struct Users(BTreeMap<String, BTreeSet<String>>);

impl Users {
    /// The users of everything that a Podman has.
    #[must_use]
    pub(crate) fn of(snapshot: &StoreSnapshot) -> Self {
        let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (store, image) in
            snapshot.stores.iter().flat_map(|store| store.images.iter().map(move |image| (store, image)))
        {
            for layer in layers(snapshot, store, image) {
                users.entry(layer).or_default().insert(image.id.clone());
            }
        }
        Self(users)
    }

    /// Whether a layer has users, and all of them are among these images.
    #[must_use]
    pub(crate) fn are_only(&self, layer: &str, images: &BTreeSet<String>) -> bool {
        self.0.get(layer).is_some_and(|users| !users.is_empty() && users.is_subset(images))
    }

    /// What only this image has.
    #[must_use]
    pub(crate) fn share(&self, platform: &PlatformRecord) -> Share {
        let (own, mut others) = (platform.config_digest.hex(), BTreeSet::new());
        let mut share = Share::default();
        for (layer, chain) in platform.layers.iter().zip(chain_ids(&platform.layers)) {
            let users = self.0.get(&chain.hex()).into_iter().flatten();
            let users: Vec<&String> = users.filter(|user| **user != own).collect();
            *(if users.is_empty() { &mut share.exclusive } else { &mut share.shared }) += layer.size;
            others.extend(users);
        }
        share.shared_with = others.len();
        share
    }
}

/// The layers of an image, from the uppermost down.
fn layers(snapshot: &StoreSnapshot, store: &StoreRecords, image: &StoredImage) -> BTreeSet<String> {
    let mut layers = BTreeSet::new();
    let mut next = Some(image.layer.as_str());
    while let Some((_, layer)) = next.and_then(|id| snapshot.layer(store, id)) {
        if !layers.insert(layer.id.clone()) {
            break;
        }
        next = layer.parent.as_deref();
    }
    layers
}

/// What of a linked layer lies on disk a second time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerCopies {
    /// Bytes of files that are the store's own.
    pub(crate) linked: u64,
    /// Bytes of files that are only here. Where the file system shares data between files, some of them may take no space.
    pub(crate) copied: u64,
}

/// Counts the files of a tree by whether they have another name. No file is opened.
///
/// # Errors
/// If a directory cannot be read.
pub(crate) fn copies(tree: &Path) -> Result<LayerCopies, WriteError> {
    let mut copies = LayerCopies::default();
    walk(Dir::open(tree)?, &mut |_, _, found| {
        if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
            let size = u64::try_from(found.st_size).unwrap_or(0);
            *(if found.st_nlink > 1 { &mut copies.linked } else { &mut copies.copied }) += size;
        }
    })?;
    Ok(copies)
}
