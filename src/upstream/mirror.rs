//! Copies of upstream images where the user wants them: a directory, or another registry.
//!
//! ```text
//! DIR/                        an OCI layout: skopeo, podman and oras read it
//!   oci-layout  index.json    one entry for each image, by its name in the lock
//!   blobs/sha256/<hex>        every blob, config, manifest and index, byte for byte
//! ```
//!
//! `DIR/blobs` is at the same time what Nix takes as one of its `hashed-mirrors`. What is there in the right size was
//! verified when it was written, and stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::Registries;
use super::document::DocumentError;
use super::fetch::{FetchError, places};
use super::lock::{Locked, LockedImage, RawText};
use super::nix::{BlobStore, store_name};
use super::place::{BlobPlace, PlaceError, WantedBlob, copy_verified, take_first};
use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, WriteError};
use crate::nix::store::NixError;
use crate::oci::digest::Digest;
use crate::registry::error::RegistryError;
use crate::registry::location::{Location, LocationError};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why an image was not mirrored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MirrorError {
    /// Its name, in a registry.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Where its blobs are.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A manifest of the lock.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A blob that cannot be had.
    #[error("{digest}: {place}: {source}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// The last place that was asked, which is upstream.
        place: Box<BlobPlace>,
        /// Why not.
        source: Box<PlaceError>,
    },
    /// The registry that is the mirror.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The directory that is the mirror.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What is in it.
    #[error("{path}: {reason}; `windlass upstream mirror` did not write that", path = path.display())]
    Foreign { path: PathBuf, reason: String },
    /// The Nix store.
    #[error(transparent)]
    Nix(#[from] NixError),
}

impl Classified for MirrorError {
    fn class(&self) -> Class {
        match self {
            Self::Location(error) => error.class(),
            Self::Fetch(error) => error.class(),
            Self::Document(error) => error.class(),
            Self::Blob { source, .. } => source.class(),
            Self::Registry(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Nix(error) => error.class(),
            Self::Foreign { .. } => Class::Failed,
        }
    }
}

/// Where a mirror is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MirrorTarget {
    /// A directory.
    Directory(PathBuf),
    /// A registry, and what comes before the images' names there.
    Registry(Location),
}

impl MirrorTarget {
    /// Where an image is in the mirror, as the lock has it.
    ///
    /// # Errors
    /// If its name is not one for a repository.
    pub(crate) fn place(&self, name: &str) -> Result<BlobPlace, LocationError> {
        match self {
            Self::Directory(path) => Ok(BlobPlace::Directory(path.clone())),
            Self::Registry(prefix) => {
                // `open-webui:cuda` is another tag of `open-webui`.
                let name = name.split(':').next().unwrap_or(name);
                Location::new(prefix.host(), &format!("{}/{name}", prefix.repository())).map(BlobPlace::Registry)
            }
        }
    }
}

/// What was done for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mirrored {
    /// Blobs that were written or sent.
    pub(crate) written: usize,
    /// Blobs that were there.
    pub(crate) present: usize,
    /// Bytes of blobs that came from upstream.
    pub(crate) fetched: u64,
    /// Bytes of blobs that went to the registry that is the mirror.
    pub(crate) sent: u64,
    /// Whether the index is in the registry; it takes none whose platforms are not all there.
    pub(crate) whole: bool,
}

/// Copies images.
#[derive(Debug)]
pub(crate) struct Mirror<'a> {
    /// How to talk to registries.
    pub(crate) registries: &'a Registries,
    /// Whether the registry that is the mirror speaks plain HTTP.
    pub(crate) insecure: bool,
    /// Where blobs are taken from first; `None` where there is no Nix.
    pub(crate) store: Option<&'a BlobStore>,
    /// Where blobs are on their way to a registry.
    pub(crate) cache: &'a Path,
    /// How many blobs are copied at a time.
    pub(crate) parallel: usize,
    /// Counts.
    pub(crate) progress: &'a Progress,
}

/// What it takes to copy the blobs of one image.
struct Copying<'a> {
    image: &'a LockedImage,
    /// Where they are, but for the mirror itself.
    places: Vec<BlobPlace>,
    /// Those that the Nix store does not have.
    missing: BTreeSet<Digest>,
    blobs: BTreeMap<Digest, u64>,
    done: Mutex<Mirrored>,
}

impl Copying<'_> {
    fn count(&self, change: impl FnOnce(&mut Mirrored)) {
        change(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Mirror<'_> {
    /// Copies what a lock has of an image.
    ///
    /// # Errors
    /// See [`MirrorError`]. What was copied stays, and no name leads to something that is not there.
    pub(crate) fn copy(&self, target: &MirrorTarget, name: &str, image: &LockedImage) -> Result<Mirrored, MirrorError> {
        let Some(locked) = &image.locked else { return Err(FetchError::Pending(name.to_owned()).into()) };
        let place = target.place(name)?;
        let mut blobs = BTreeMap::new();
        for platform in locked.platforms.values() {
            blobs.extend(platform.read()?.blobs().map(|blob| (blob.digest, blob.size)));
        }
        let missing = match self.store {
            Some(store) => store.missing(blobs.keys().copied())?,
            None => blobs.keys().copied().collect(),
        };
        let mut places = places(name, image)?;
        places.retain(|other| *other != place);
        let copying = Copying { image, places, missing, blobs, done: Mutex::default() };
        self.progress.expect(copying.blobs.values().sum());
        match &place {
            BlobPlace::Directory(folder) => self.to_directory(folder, name, locked, &copying)?,
            BlobPlace::Registry(at) => self.to_registry(at, locked, &copying)?,
            BlobPlace::Web(_) => {}
        }
        Ok(copying.done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something for every blob, several at a time.
    fn each(
        &self,
        copying: &Copying<'_>,
        step: impl Fn(Digest, u64) -> Result<(), MirrorError> + Sync,
    ) -> Result<(), MirrorError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.parallel.max(1)).build();
        let pool = pool.map_err(io::Error::other).at("copy to", self.cache)?;
        pool.install(|| copying.blobs.par_iter().try_for_each(|(digest, size)| step(*digest, *size)))
    }

    fn to_directory(
        &self,
        folder: &Path,
        name: &str,
        locked: &Locked,
        copying: &Copying<'_>,
    ) -> Result<(), MirrorError> {
        let blobs = folder.join("blobs/sha256");
        let mut index = read_index(folder)?;
        fs::create_dir_all(&blobs).at("create", &blobs)?;
        self.each(copying, |digest, size| {
            let to = blobs.join(digest.hex());
            if fs::metadata(&to).is_ok_and(|metadata| metadata.len() == size) {
                copying.count(|done| done.present += 1);
                self.progress.count_kept(size);
                return Ok(());
            }
            // What has its name and its size is not read again: it is on the disk by then.
            let beside = to.with_extension("new");
            self.obtain(copying, digest, size, &beside)?;
            bounded::open(&beside).and_then(|file| file.sync_all()).at("sync", &beside)?;
            fs::rename(&beside, &to).at("create", &to)?;
            copying.count(|done| done.written += 1);
            Ok(())
        })?;
        for raw in locked.platforms.values().map(|platform| &platform.manifest).chain([&locked.root]) {
            let to = blobs.join(raw.digest.hex());
            if fs::metadata(&to).is_ok_and(|metadata| metadata.len() == raw.size) {
                continue;
            }
            replace(&to, raw.raw.as_bytes(), self.progress)?;
        }
        copying.count(|done| done.whole = true);
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        replace(&folder.join("oci-layout"), layout.to_string().as_bytes(), self.progress)?;
        let root = &locked.root;
        let entry = json!({ "mediaType": root.media_type, "digest": root.digest, "size": root.size,
            "annotations": { REF_NAME: name } });
        index.retain(|other| other["annotations"][REF_NAME] != name);
        index.push(entry);
        index.sort_by_key(|entry| entry["annotations"][REF_NAME].as_str().unwrap_or_default().to_owned());
        let mut text = Map::new();
        text.insert("schemaVersion".to_owned(), 2.into());
        text.insert("mediaType".to_owned(), "application/vnd.oci.image.index.v1+json".into());
        text.insert("manifests".to_owned(), index.into());
        Ok(replace(&folder.join("index.json"), Value::Object(text).to_string().as_bytes(), self.progress)?)
    }

    fn to_registry(&self, at: &Location, locked: &Locked, copying: &Copying<'_>) -> Result<(), MirrorError> {
        let client = self.registries.client(self.insecure);
        self.each(copying, |digest, size| {
            let same = locked.registry == at.host();
            if client.has_blob(at, digest, size, self.progress)?
                || (same && client.mount_blob(at, digest, &locked.repository, self.progress)?)
            {
                copying.count(|done| done.present += 1);
                self.progress.count_kept(size);
                return Ok(());
            }
            let cached = self.cache.join(store_name(digest));
            let in_store = self.store.filter(|_| !copying.missing.contains(&digest)).map(|store| store.path(digest));
            let from = match &in_store {
                Some(path) => path,
                None => {
                    fs::create_dir_all(self.cache).at("create", self.cache)?;
                    self.obtain(copying, digest, size, &cached)?;
                    &cached
                }
            };
            let open = |to: &mut (dyn io::Write + Send)| io::copy(&mut bounded::open(from)?, to).map(drop);
            client.push_blob(at, digest, size, &open, self.progress)?;
            if in_store.is_none() {
                drop(fs::remove_file(&cached));
            }
            copying.count(|done| {
                done.written += 1;
                done.sent += size;
            });
            Ok(())
        })?;
        let push = |which: &str, raw: &RawText| {
            client.push_manifest(at, which, &raw.media_type, raw.raw.as_bytes(), self.progress)
        };
        for platform in locked.platforms.values() {
            push(&platform.manifest.digest.to_string(), &platform.manifest)?;
        }
        let tag = locked.tag.clone().unwrap_or_else(|| format!("sha256-{}", locked.root.digest.short()));
        match push(&tag, &locked.root) {
            Ok(_) => copying.count(|done| done.whole = true),
            // Registries want all that an index names, and the lock has the platforms that were asked for.
            Err(RegistryError::Refused { .. } | RegistryError::NotFound { .. }) => {
                let platforms: Vec<_> = locked.platforms.iter().collect();
                for (platform, there) in &platforms {
                    let own = format!("{tag}-{}", platform.to_string().replace('/', "-"));
                    push(if platforms.len() == 1 { &tag } else { &own }, &there.manifest)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Writes a blob, verified: from the Nix store, or from where it comes from.
    fn obtain(&self, copying: &Copying<'_>, digest: Digest, size: u64, to: &Path) -> Result<(), MirrorError> {
        if let Some(store) = self.store.filter(|_| !copying.missing.contains(&digest)) {
            let path = store.path(digest);
            let place = Box::new(BlobPlace::Directory(store.folder().to_owned()));
            let blob = |source| MirrorError::Blob { digest, place, source: Box::new(source) };
            return copy_verified(&path, WantedBlob { digest, size }, to, self.progress).map_err(blob);
        }
        let insecure = copying.image.insecure;
        match take_first(&copying.places, self.registries, insecure, WantedBlob { digest, size }, to, self.progress) {
            Ok(network) => {
                copying.count(|done| done.fetched += network);
                Ok(())
            }
            Err(mut failures) => match failures.pop() {
                Some((place, source)) => {
                    Err(MirrorError::Blob { digest, place: Box::new(place), source: Box::new(source) })
                }
                None => Err(FetchError::Pending(copying.image.original.reference.clone()).into()),
            },
        }
    }
}

/// The entries of a mirror that is there; none of a new one.
fn read_index(folder: &Path) -> Result<Vec<Value>, MirrorError> {
    let path = folder.join("index.json");
    let foreign = |reason: String| MirrorError::Foreign { path: path.clone(), reason };
    let text = match bounded::read(&path, Cap::Document) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let other = fs::read_dir(folder).ok().and_then(|entries| {
                entries
                    .flatten()
                    .map(|entry| entry.path())
                    .find(|path| !path.ends_with("blobs") && !path.ends_with("oci-layout"))
            });
            return match other {
                Some(path) => Err(MirrorError::Foreign { path, reason: "is in the way of a mirror".to_owned() }),
                None => Ok(Vec::new()),
            };
        }
        text => text.at("read", &path)?,
    };
    let mut index: Value = serde_json::from_slice(&text).map_err(|error| foreign(error.to_string()))?;
    match index["manifests"].take() {
        Value::Array(entries) => Ok(entries),
        _ => Err(foreign("has no manifests".to_owned())),
    }
}

fn replace(path: &Path, bytes: &[u8], progress: &Progress) -> Result<(), WriteError> {
    if bounded::read(path, Cap::Document).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let staging = Staging::file(path)?;
    write_file(staging.path(), bytes, progress)?;
    staging.publish()
}
