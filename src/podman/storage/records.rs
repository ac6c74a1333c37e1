//! The records of containers-storage: which images, layers and containers a store has.
//!
//! ```text
//! <store>/<driver>-images/images.json          images.lock      <id>/   manifests and configs
//! <store>/<driver>-layers/layers.json          layers.lock      <id>.tar-split.gz
//! <store>/<driver>-containers/containers.json  containers.lock          only where containers can be
//! <store>/<driver>/<id>/diff                                            the unpacked layer
//! ```
//!
//! Read directly and under their locks: milliseconds, no process, nothing written. Podman keeps a JSON file beside each
//! for what does not outlive a reboot (`volatile-…`). Keys that windlass has no use for are not read.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::lock::{For, StorageLock};
use crate::class::{Class, Classified};
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::oci::compression::Compression;
use crate::oci::digest::Digest;

/// Why the records of a store cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// A file or a lock.
    #[error(transparent)]
    File(#[from] WriteError),
    /// Torn or foreign JSON, with which every Podman command fails.
    #[error("{path} is damaged: {message}; `windlass doctor` says what to do", path = path.display())]
    Damaged { path: PathBuf, message: String },
}

impl Classified for RecordsError {
    fn class(&self) -> Class {
        match self {
            Self::File(error) => error.class(),
            Self::Damaged { .. } => Class::Environment,
        }
    }
}

/// An image as `images.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StoredImage {
    /// Digest of the config, in hex.
    pub id: String,
    /// Digest of a manifest; which one, where there are several, is not dependable.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_digest")]
    pub(crate) digest: Option<Digest>,
    /// Names and tags, and names with digests.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub names: Vec<String>,
    /// The top layer.
    #[serde(default)]
    pub(crate) layer: String,
    /// JSON text that c/image keeps there.
    #[serde(default)]
    pub(crate) metadata: String,
    /// Names of the files kept with it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) big_data_names: Vec<String>,
    /// Their sizes in bytes.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) big_data_sizes: BTreeMap<String, u64>,
    /// Their digests.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) big_data_digests: BTreeMap<String, String>,
    /// RFC 3339.
    #[serde(default)]
    pub(crate) created: String,
}

impl StoredImage {
    /// Whether a manifest or an index with this digest is one of the image's.
    #[must_use]
    pub(crate) fn has(&self, digest: Digest) -> bool {
        let text = digest.to_string();
        let in_data = |(name, value): (&String, &String)| name.starts_with("manifest") && *value == text;
        self.digest == Some(digest) || self.big_data_digests.iter().any(in_data)
    }

    /// Whether it has this name: `localhost/redis:1`, or `localhost/redis@sha256:…`.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.names.iter().any(|other| other == name)
    }
}

/// A layer as `layers.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StoredLayer {
    /// Its chain ID in hex, or a random one for a container's own layer.
    pub(crate) id: String,
    /// The layer below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    /// RFC 3339.
    #[serde(default)]
    pub(crate) created: String,
    /// Digest of the blob it came from.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_digest")]
    pub(crate) compressed_diff_digest: Option<Digest>,
    /// Size of that blob in bytes.
    #[serde(default, deserialize_with = "known_size")]
    pub(crate) compressed_size: u64,
    /// Its diff ID; a container's own layer has none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_digest")]
    pub(crate) diff_digest: Option<Digest>,
    /// Bytes of its archive.
    #[serde(default, deserialize_with = "known_size")]
    pub(crate) diff_size: u64,
    /// What the blob is packed with, by containers-storage's numbers ([`packing`]).
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) compression: u32,
    /// Owners of its files.
    #[serde(default)]
    pub(crate) uidset: Vec<u64>,
    /// Their groups.
    #[serde(default)]
    pub(crate) gidset: Vec<u64>,
    /// `incomplete` while Podman unpacks it, and for ever after a kill, until Podman removes it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub(crate) flags: BTreeMap<String, serde_json::Value>,
}

impl StoredLayer {
    /// Whether Podman has not finished unpacking it.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.flags.get("incomplete").is_some_and(|flag| flag == true)
    }
}

/// A container as `containers.json` has it, running or not.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct StoredContainer {
    /// Its ID.
    pub(crate) id: String,
    /// Its names.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) names: Vec<String>,
    /// The ID of its image.
    #[serde(default)]
    pub(crate) image: String,
    /// Its own layer.
    #[serde(default)]
    pub(crate) layer: String,
    /// JSON text that Podman keeps there.
    #[serde(default)]
    metadata: String,
}

impl StoredContainer {
    /// What its image was called when it was made.
    pub(crate) fn image_name(&self) -> Option<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Metadata {
            image_name: String,
        }
        let metadata: Metadata = serde_json::from_str(&self.metadata).ok()?;
        Some(metadata.image_name).filter(|name| !name.is_empty())
    }
}

/// containers-storage's number for a compression (`pkg/archive`, *Compression*).
#[must_use]
pub(crate) const fn packing(compression: Compression) -> u32 {
    match compression {
        Compression::None => 0,
        Compression::Gzip => 2,
        Compression::Zstd => 4,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_none(compression: &u32) -> bool {
    *compression == 0
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A size; -1 stands for one that is not known, as of a layer that was pulled in parts (containers/storage, *Layer*).
fn known_size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(u64::try_from(i64::deserialize(from)?).unwrap_or(0))
}

/// A digest, if it is a SHA-256: nothing of ours has another, and what others bring may.
fn known_digest<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.and_then(|text| text.parse().ok()))
}

/// What one store has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreRecords {
    pub(crate) store: PathBuf,
    /// Its driver.
    pub(crate) driver: String,
    /// The images, in the store's order.
    pub images: Vec<StoredImage>,
    /// The layers by ID.
    pub layers: BTreeMap<String, StoredLayer>,
    /// The containers.
    pub(crate) containers: Vec<StoredContainer>,
}

impl StoreRecords {
    /// Reads what a store has. A store that no Podman has used yet has nothing.
    ///
    /// # Errors
    /// See [`RecordsError`].
    pub fn read(store: &Path, driver: &str, progress: &Progress) -> Result<Self, RecordsError> {
        let (images, layers) =
            (RecordsFolder::new(store, driver, "images"), RecordsFolder::new(store, driver, "layers"));
        let stored: Vec<StoredLayer> = layers.read(progress)?;
        Ok(Self {
            store: store.to_owned(),
            driver: driver.to_owned(),
            images: images.read(progress)?,
            layers: stored.into_iter().map(|layer| (layer.id.clone(), layer)).collect(),
            containers: RecordsFolder::new(store, driver, "containers").read(progress)?,
        })
    }

    /// Reads another user's store, without its locks: a user who keeps one held, or has put something else than a
    /// file there, does not stop this. Record files are replaced by renaming, so each is whole.
    ///
    /// # Errors
    /// If one is damaged, or cannot be read.
    pub fn glance(store: &Path, driver: &str) -> Result<Self, RecordsError> {
        let root = Dir::open(store)?;
        let stored: Vec<StoredLayer> = glance(&root, driver, "layers")?;
        Ok(Self {
            store: store.to_owned(),
            driver: driver.to_owned(),
            images: glance(&root, driver, "images")?,
            layers: stored.into_iter().map(|layer| (layer.id.clone(), layer)).collect(),
            containers: glance(&root, driver, "containers")?,
        })
    }

    /// The layers of an image or container of this store, from this one down, as far as they are known here; the last
    /// may be another store's.
    pub fn chain<'a>(&'a self, top: &'a str) -> impl Iterator<Item = &'a str> {
        // Damaged records could lead in a circle; no image has that many layers.
        let parent = |id: &&'a str| self.layers.get(*id).and_then(|layer| layer.parent.as_deref());
        std::iter::successors(Some(top).filter(|top| !top.is_empty()), parent).take(1000)
    }

    /// Where a layer is unpacked; with vfs and btrfs everything below it is there too.
    #[must_use]
    pub(crate) fn tree(&self, layer: &str) -> PathBuf {
        let folder = self.store.join(&self.driver);
        match self.driver.as_str() {
            "vfs" => folder.join("dir").join(layer),
            "btrfs" => folder.join("subvolumes").join(layer),
            _ => folder.join(layer).join("diff"),
        }
    }

    /// The tar-split record of a layer.
    #[must_use]
    pub(crate) fn tar_split(&self, layer: &str) -> PathBuf {
        self.store.join(format!("{}-layers/{layer}.tar-split.gz", self.driver))
    }

    /// A file that is kept with an image: `manifest`, or `sha256:…` for the config.
    #[must_use]
    pub(crate) fn big_data(&self, image: &str, name: &str) -> PathBuf {
        self.store.join(format!("{}-images/{image}/{}", self.driver, big_data_file(name)))
    }
}

/// The file name of a big-data item: itself if it has only small letters, digits and dots, else base64 behind a `=`
/// (containers/storage, *makeBigDataBaseName*).
#[must_use]
pub fn big_data_file(name: &str) -> String {
    use base64::Engine;
    if name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.') {
        return name.to_owned();
    }
    format!("={}", base64::engine::general_purpose::STANDARD.encode(name))
}

/// One of a store's folders with records.
#[derive(Debug)]
pub(crate) struct RecordsFolder {
    path: PathBuf,
    kind: &'static str,
}

impl RecordsFolder {
    pub(crate) fn new(store: &Path, driver: &str, kind: &'static str) -> Self {
        Self { path: store.join(format!("{driver}-{kind}")), kind }
    }

    pub(crate) fn json(&self) -> PathBuf {
        self.path.join(format!("{}.json", self.kind))
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.path.join(format!("{}.lock", self.kind))
    }

    fn read<T: DeserializeOwned>(&self, progress: &Progress) -> Result<Vec<T>, RecordsError> {
        let Some(_lock) = StorageLock::take(&self.lock(), For::Reading, progress)? else { return Ok(Vec::new()) };
        let mut all = read_list(&self.json())?;
        all.extend(read_list(&self.volatile())?);
        Ok(all)
    }

    fn volatile(&self) -> PathBuf {
        self.path.join(format!("volatile-{}.json", self.kind))
    }
}

/// The list in a JSON file; nothing for a file that is not there or empty.
pub(crate) fn read_list<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RecordsError> {
    match bounded::read(path, Cap::Document) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        bytes => list_of(path, &bytes.at("read", path)?),
    }
}

/// The lists of a store that may be another user's: no link is followed in it.
fn glance<T: DeserializeOwned>(store: &Dir, driver: &str, kind: &str) -> Result<Vec<T>, RecordsError> {
    let Some(folder) = store.dir_if_there(format!("{driver}-{kind}"))? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for name in [format!("{kind}.json"), format!("volatile-{kind}.json")] {
        match folder.read(&name, Cap::Document) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            bytes => all.extend(list_of(&folder.at(&name), &bytes?)?),
        }
    }
    Ok(all)
}

fn list_of<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<T>, RecordsError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let list: Option<Vec<T>> = serde_json::from_slice(bytes)
        .map_err(|error| RecordsError::Damaged { path: path.to_owned(), message: error.to_string() })?;
    Ok(list.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_others_have_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, json) in [
            // Pulled in parts, with a digest of its table of contents only.
            ("layers", r#"[{"id":"a","toc-digest":"sha256:0","diff-size":-1,"compressed-size":-1,"uidset":[0]}]"#),
            (
                "images",
                r#"[{"id":"b","digest":"sha512:0","names":null,"big-data-sizes":{"signature":0},"history":[]}]"#,
            ),
        ] {
            let folder = RecordsFolder::new(folder.path(), "overlay", kind);
            fs::create_dir(&folder.path).unwrap();
            fs::write(folder.json(), json).unwrap();
            fs::write(folder.lock(), "").unwrap();
        }
        let records = StoreRecords::read(folder.path(), "overlay", &Progress::new()).unwrap();
        let layer = &records.layers["a"];
        assert_eq!((layer.diff_size, layer.compressed_size, layer.diff_digest), (0, 0, None));
        assert_eq!((records.images[0].digest, records.images[0].names.len()), (None, 0));
        assert_eq!(StoreRecords::glance(folder.path(), "overlay").unwrap(), records);
    }
}
