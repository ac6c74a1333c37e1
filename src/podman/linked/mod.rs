//! The linked store: an additional image store of our own, whose layers are hard links to the Nix store.
//!
//! ```text
//! <storage>/
//!   windlass.json                     says that the store is ours
//!   windlass.lock                     held by the one windlass that changes the store
//!   new/                              what is being made; swept by the next run
//!   users/<hash>                      the path of a user's generations, whose images must stay
//!   overlay/<layer>/{diff,link,lower} the trees
//!   overlay/l/<link> -> ../<layer>/diff
//!   overlay-layers/layers.json  layers.lock  <layer>.tar-split.gz
//!   overlay-images/images.json  images.lock  <image>/…
//! ```
//!
//! Every Podman command of every user reads this store, so it is whole at every moment: the files that Podman insists on
//! are made before anything names the store and never go away, records are replaced by renaming, and what a record
//! names is there before the record and goes after it. A kill at any moment leaves trees that no record names; the next
//! run that writes removes them.
//!
//! Root's store is closed to all other users, and shared with them only where it is mounted read-only over itself
//! ([`self::sharing`]); what is written is written beside that mount. Whichever user made what is found in it, no link is followed
//! there ([`crate::disk::beneath`]).
//!
//! Podman takes the store as read-only: no `prune` and no `rmi` reaches it. Only whole images are put here, never a layer
//! alone under layers that Podman wrote.

pub(crate) mod check_tree;
mod copy_by_links;
pub(crate) mod image_store;
pub(crate) mod link_images;
pub(crate) mod link_tree;
mod link_view;
mod mend_records;
mod replace_in_place;
mod rooted_path;
pub(crate) mod sharing;
pub(crate) mod stored_archive;
pub(crate) mod unpack;
mod unpack_members;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use self::image_store::{LOCK, MARKER, NEW};
use self::replace_in_place::replace_in_place;
use super::storage::lock::{For, StorageLock};
use super::storage::others::OtherUsers;
use super::storage::records::{RecordsError, RecordsFolder, StoreRecords, StoredImage, StoredLayer, big_data_file};
use crate::disk::beneath::{Dir, TEMPORARY};
use crate::disk::bounded::Cap;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError, own_lock};
use crate::oci::canonical;
use crate::oci::digest::Digest;

/// The one driver whose layers can be linked.
pub(crate) const DRIVER: &str = "overlay";
/// Where root's linked store is by default: on the file system of the Nix store.
pub(crate) const DEFAULT: &str = "/nix/var/windlass/storage";
const USERS: &str = "users";

/// A linked store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedStore {
    path: PathBuf,
}

impl LinkedStore {
    /// Whether the store at `path` is one of ours.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        path.join(MARKER).is_file()
    }

    /// Makes the store, or what is missing of it: first the store, then may a `storage.conf` name it.
    ///
    /// # Errors
    /// With the path that cannot be made.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        image_store::create(path)?;
        Ok(Self { path: fs::canonicalize(path).at("open", path)? })
    }

    /// The store at `path`, if it is one of ours and the caller's own.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        let is_ours = Self::is_at(path) && image_store::claim(path).is_ok();
        is_ours.then(|| fs::canonicalize(path).ok().map(|path| Self { path })).flatten()
    }

    /// Closes the store where an older windlass left it open to all users; what was done, in words. `new_rules` tells whether
    /// users read what /etc says of stores ([`Places::has_new_rules`](super::storage::places::Places::has_new_rules)).
    ///
    /// # Errors
    /// If it cannot be closed.
    pub(crate) fn settle(&self, others: &OtherUsers, new_rules: bool) -> Result<Option<String>, WriteError> {
        sharing::settle(&self.path, others, Path::new("/"), new_rules)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self, kind: &'static str) -> RecordsFolder {
        RecordsFolder::new(&self.path, DRIVER, kind)
    }

    /// What is in it.
    ///
    /// # Errors
    /// See [`RecordsError`].
    pub fn records(&self, progress: &Progress) -> Result<StoreRecords, RecordsError> {
        StoreRecords::read(&self.path, DRIVER, progress)
    }

    /// The store's directory, to read in.
    pub(super) fn root(&self) -> Result<Dir, WriteError> {
        Dir::open(&self.path)
    }

    /// Notes whose images are here: the generations in this folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_user(&self, generations: &Path) -> Result<(), WriteError> {
        let text = generations.as_os_str().as_bytes();
        let name = &Digest::of(text).hex()[..32];
        if self.root()?.read(Path::new(USERS).join(name), Cap::Settings).is_ok_and(|noted| noted == text) {
            return Ok(());
        }
        let users = sharing::writable(&self.path)?.made(USERS, 0o700)?;
        users.is_private_to(rustix::process::geteuid().as_raw())?;
        users.set_mode(0o700)?;
        users.replace(name, text, 0o600)
    }

    /// The notes of [`note_user`](Self::note_user), each with the folder of the generations.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn users(&self) -> Result<Vec<(PathBuf, PathBuf)>, WriteError> {
        let Some(folder) = self.root()?.dir_if_there(USERS)? else { return Ok(Vec::new()) };
        let mut users = Vec::new();
        for name in folder.names()?.into_keys().filter(|name| !is_temporary(name)) {
            let noted = folder.read(&name, Cap::Settings)?;
            users.push((folder.at(&name), PathBuf::from(OsString::from_vec(noted))));
        }
        Ok(users)
    }

    /// Takes the store for changing it, waiting for another windlass that does.
    ///
    /// # Errors
    /// If it cannot be written to, or is not the caller's alone.
    pub fn change(&self, progress: &Progress) -> Result<StoreChange<'_>, WriteError> {
        let root = sharing::writable(&self.path)?;
        let path = self.path.join(LOCK);
        let file = root.file_to_write(LOCK)?;
        // A user who can read a file can lock it, and an older windlass let every user read it.
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600)).at("set the mode of", &path)?;
        own_lock::wait(&path, progress, || match file.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        })?;
        for name in [DRIVER, "overlay/l", "overlay-layers", "overlay-images", NEW] {
            root.dir(name)?.is_private_to(rustix::process::geteuid().as_raw())?;
        }
        root.dir(NEW)?.set_mode(0o700)?;
        Ok(StoreChange { store: self, root, _lock: file })
    }

    /// What a killed run has left: everything that no record names. That of a run that is still at work is listed too, so
    /// only [`StoreChange::sweep`] may remove it. What is mounted is not listed: a container may go on after its records are lost.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn leftovers(&self, progress: &Progress) -> Result<Vec<PathBuf>, RecordsError> {
        let records = self.records(progress)?;
        let links: BTreeSet<String> = records.layers.keys().map(|layer| link_name(layer)).collect();
        let image = |name: &str| records.images.iter().any(|image| image.id == name);
        let is_named = |folder: &str, name: &str| match folder {
            "overlay" => name == "l" || records.layers.contains_key(name),
            "overlay/l" => links.contains(name),
            "overlay-layers" => match name.strip_suffix(".tar-split.gz") {
                Some(layer) => records.layers.contains_key(layer),
                None => matches!(name, "layers.json" | "layers.lock"),
            },
            "overlay-images" => matches!(name, "images.json" | "images.lock") || image(name),
            USERS => !is_temporary(name.as_ref()),
            _ => false,
        };
        let mut leftovers = Vec::new();
        let root = self.root()?;
        for folder in ["overlay", "overlay/l", "overlay-layers", "overlay-images", NEW, USERS] {
            // Only root looks into the last two.
            let names = match root.dir(folder).and_then(|found| found.names()) {
                Err(error) if folder == USERS && error.source.kind() == std::io::ErrorKind::NotFound => continue,
                names => names?,
            };
            let unknown = names.into_keys().filter(|name| !is_named(folder, &name.to_string_lossy()));
            leftovers.extend(unknown.map(|name| self.path.join(folder).join(name)));
        }
        let in_overlay = |path: &PathBuf| path.strip_prefix(self.path.join(DRIVER)).is_ok();
        if leftovers.iter().any(in_overlay) {
            let mounted = OtherUsers::default().mounted();
            let is_mounted = |name: &str| mounted.contains(name) || mounted.contains(&link_name(name));
            let is_used = |path: &PathBuf| path.file_name().is_some_and(|name| is_mounted(&name.to_string_lossy()));
            leftovers.retain(|path| !in_overlay(path) || !is_used(path));
        }
        leftovers.sort();
        Ok(leftovers)
    }
}

/// A layer that was made in [`StoreChange::workplace`] and is ready to be put in place.
#[derive(Debug)]
pub(crate) struct NewLayer {
    /// What the record will say.
    pub(crate) record: StoredLayer,
    /// Its chain IDs from the layer below it down to the lowest.
    pub(crate) below: Vec<String>,
    /// Where it was made: its tree as [`TREE`], its tar-split record as [`TAR_SPLIT`].
    pub(crate) place: Dir,
    /// Whether only the owner of the store may enter it: see [`self::unpack`].
    pub(crate) closed: bool,
}

/// The name of a layer's tree.
pub(crate) const TREE: &str = "diff";
/// The name of a tar-split record before it is in its place.
pub(crate) const TAR_SPLIT: &str = "tar-split.gz";

/// The linked store while it is changed; one windlass at a time.
#[derive(Debug)]
pub struct StoreChange<'a> {
    pub(super) store: &'a LinkedStore,
    /// Its directory, to write in.
    pub(super) root: Dir,
    _lock: File,
}

impl StoreChange<'_> {
    /// Removes what killed runs have left; how many things that were.
    ///
    /// # Errors
    /// With the path that cannot be removed.
    pub fn sweep(&self, progress: &Progress) -> Result<usize, RecordsError> {
        let leftovers = self.store.leftovers(progress)?;
        leftovers.iter().try_for_each(|path| self.remove(path))?;
        Ok(leftovers.len())
    }

    /// Removes something that is in the store.
    ///
    /// # Errors
    /// With the path, above all if it is elsewhere.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), WriteError> {
        let below =
            path.strip_prefix(&self.store.path).ok().and_then(|below| Some((below.parent()?, below.file_name()?)));
        let Some((folder, name)) = below else {
            return Err(crate::disk::beneath::refused(path, "it is not in the linked store"));
        };
        self.root.dir(folder)?.remove(name)
    }

    /// A new folder to make a layer in. No other user reaches what is in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn workplace(&self, layer: &str) -> Result<Dir, WriteError> {
        let new = self.root.dir(NEW)?;
        new.remove(layer)?;
        new.make(layer, 0o700)
    }

    /// Puts layers in place and records them. What was there under the same ID, damaged or without a record, becomes what it should
    /// be; a container that runs on it goes on.
    ///
    /// # Errors
    /// With the path at fault; the records name none of the layers then.
    pub(crate) fn add_layers(&self, layers: Vec<NewLayer>, progress: &Progress) -> Result<(), RecordsError> {
        let (new, overlay) = (self.root.dir(NEW)?, self.root.dir(DRIVER)?);
        let (links, records) = (overlay.dir("l")?, self.root.dir("overlay-layers")?);
        for layer in &layers {
            let (id, place) = (&layer.record.id, &layer.place);
            let tar_split = place.file(TAR_SPLIT)?;
            let mode = rustix::fs::Mode::from_raw_mode(if layer.closed { 0o600 } else { 0o644 });
            rustix::fs::fchmod(tar_split, mode).at("set the mode of", &place.at(TAR_SPLIT))?;
            place.rename(OsStr::new(TAR_SPLIT), &records, OsStr::new(&format!("{id}.tar-split.gz")))?;
            // Podman's own layout of an overlay layer.
            write(place, "link", link_name(id).as_bytes(), progress)?;
            if !layer.below.is_empty() {
                let lower: Vec<String> = layer.below.iter().map(|below| format!("l/{}", link_name(below))).collect();
                write(place, "lower", lower.join(":").as_bytes(), progress)?;
                // The same by layer IDs: containers-storage 1.64 and newer read this first, and may stop reading `lower`.
                write(place, "lower-layers", layer.below.join(":").as_bytes(), progress)?;
            }
            place.set_mode(if layer.closed { 0o700 } else { 0o755 })?;
            match overlay.dir_if_there(id)? {
                Some(target) if target.dir_if_there(TREE)?.is_some() => {
                    replace_in_place(place.again()?, target)?;
                    new.remove(id)?;
                }
                _ => new.put(id, &overlay, id)?,
            }
            let (link, target) = (link_name(id), PathBuf::from(format!("../{id}/{TREE}")));
            if links.target(&link).as_ref() != Some(&target) {
                links.remove(&link)?;
                links.link_to(&target, &link)?;
            }
        }
        let _step = progress.step(format!("the disk of {} writes what it holds back", self.store.path.display()));
        rustix::fs::syncfs(&self.root).at("sync", &self.store.path)?;
        self.edit("layers", progress, |stored: &mut Vec<StoredLayer>| {
            for layer in layers {
                stored.retain(|other| other.id != layer.record.id);
                stored.push(layer.record);
            }
        })
    }

    /// Records images whose layers are all there. A name that another image had is taken from it.
    ///
    /// # Errors
    /// With the path at fault; the records name none of the images then.
    pub(crate) fn add_images(
        &self,
        images: Vec<(StoredImage, BTreeMap<String, Vec<u8>>)>,
        progress: &Progress,
    ) -> Result<(), RecordsError> {
        let (new, folder) = (self.root.dir(NEW)?, self.root.dir("overlay-images")?);
        for (image, data) in &images {
            let place = self.workplace(&image.id)?;
            for (name, bytes) in data {
                place.replace(&big_data_file(name), bytes, 0o644)?;
                progress.count_written(bytes.len() as u64);
            }
            place.set_mode(0o755)?;
            new.put(&image.id, &folder, &image.id)?;
        }
        self.edit("images", progress, |stored: &mut Vec<StoredImage>| {
            for (image, _) in images {
                for other in stored.iter_mut() {
                    other.names.retain(|name| !image.names.contains(name));
                }
                stored.retain(|other| other.id != image.id);
                stored.push(image);
            }
        })
    }

    /// Gives names to an image that is there, and takes them from others.
    ///
    /// # Errors
    /// With the path at fault.
    pub(crate) fn name(&self, image: &str, names: &[String], progress: &Progress) -> Result<(), RecordsError> {
        self.edit("images", progress, |stored: &mut Vec<StoredImage>| {
            for other in stored {
                other.names.retain(|name| !names.contains(name));
                if other.id == image {
                    other.names.extend(names.iter().cloned());
                }
            }
        })
    }

    /// Removes images, and the layers that no other image has. Nothing may use them.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn remove_images(&self, images: &BTreeSet<String>, progress: &Progress) -> Result<(), RecordsError> {
        self.edit("images", progress, |stored: &mut Vec<StoredImage>| {
            stored.retain(|image| !images.contains(&image.id));
        })?;
        let records = self.store.records(progress)?;
        let mut needed: BTreeSet<&str> = BTreeSet::new();
        for image in &records.images {
            let mut layer = Some(image.layer.as_str());
            while let Some(id) = layer.filter(|id| needed.insert(id)) {
                layer = records.layers.get(id).and_then(|layer| layer.parent.as_deref());
            }
        }
        self.edit("layers", progress, |stored: &mut Vec<StoredLayer>| {
            stored.retain(|layer| needed.contains(layer.id.as_str()));
        })?;
        self.sweep(progress)?;
        Ok(())
    }

    /// Changes one of the record files, under its lock.
    pub(super) fn edit<T>(
        &self,
        kind: &'static str,
        progress: &Progress,
        change: impl FnOnce(&mut Vec<T>),
    ) -> Result<(), RecordsError>
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        let folder = self.store.folder(kind);
        let place = self.root.dir(format!("{DRIVER}-{kind}"))?;
        let lock = StorageLock::take_in(&place, &format!("{kind}.lock"), For::Writing, progress)?;
        let mut list = super::storage::records::read_list(&folder.json())?;
        let before = canonical::to_bytes(&list);
        change(&mut list);
        let after = canonical::to_bytes(&list);
        if before != after {
            // First: after a kill in between, a service reads the records once more for nothing. The other way round it
            // would never see the change.
            lock.touch(&folder.lock())?;
            place.replace(&format!("{kind}.json"), &after, 0o644)?;
            progress.count_written(after.len() as u64);
        }
        Ok(())
    }
}

impl LinkedStore {
    /// The tar-split record of a layer.
    pub(super) fn records_file(&self, layer: &str) -> PathBuf {
        self.path.join(format!("{DRIVER}-layers/{layer}.tar-split.gz"))
    }
}

/// The short name by which overlay mounts know a layer: 26 characters of base32. Podman draws it by lot; here it comes from
/// the layer's ID, so that the same layer has the same name in every store.
pub(super) fn link_name(layer: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Digest::of(layer.as_bytes());
    digest.as_bytes()[..26].iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
}

fn write(place: &Dir, name: &str, bytes: &[u8], progress: &Progress) -> Result<(), WriteError> {
    place.write(name, bytes, 0o644)?;
    progress.count_written(bytes.len() as u64);
    Ok(())
}

/// Whether a file is one that [`Dir::replace`] has not finished.
fn is_temporary(name: &OsStr) -> bool {
    name.as_bytes().starts_with(TEMPORARY.as_bytes())
}
