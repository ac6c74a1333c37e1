//! The linked store: an additional image store of our own, whose layers are hard links to the Nix store.
//!
//! ```text
//! <storage>/
//!   windlass.json                     says that the store is ours
//!   windlass.lock                     held by the one windlass that changes the store
//!   new/                              what is being made; swept by the next run
//!   users/<hash>                      the path of somebody's generations, whose images must stay
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
//! The store is open to every user of the host, but for layers that were unpacked ([`super::unpack`]).
//!
//! Podman takes the store as read-only: no `prune` and no `rmi` reaches it. Only whole images are put here, never a layer
//! alone under layers that Podman wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::image_store::{self, LOCK, MARKER, NEW, TEMPORARY, replace};
use super::lock::{self, For, Lock};
use super::records::{Folder, Records, RecordsError, StoredImage, StoredLayer, big_data_file};
use super::renew::renew;
use super::usage::Others;
use crate::blobs::{At, WriteError};
use crate::canonical;
use crate::digest::Digest;
use crate::progress::Progress;

/// The one driver whose layers can be linked.
pub const DRIVER: &str = "overlay";
/// Where root's linked store is by default: on the file system of the Nix store.
pub const DEFAULT: &str = "/nix/var/windlass/storage";
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

    /// The store at `path`, if it is one of ours.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        Self::is_at(path).then(|| fs::canonicalize(path).ok().map(|path| Self { path })).flatten()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self, kind: &'static str) -> Folder {
        Folder::new(&self.path, DRIVER, kind)
    }

    /// What is in it.
    ///
    /// # Errors
    /// See [`RecordsError`].
    pub fn records(&self, progress: &Progress) -> Result<Records, RecordsError> {
        Records::read(&self.path, DRIVER, progress)
    }

    /// Notes whose images are here: the generations in this folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_user(&self, generations: &Path) -> Result<(), WriteError> {
        let folder = self.path.join(USERS);
        let text = generations.as_os_str().as_bytes();
        let path = folder.join(&Digest::of(text).hex()[..32]);
        if fs::read(&path).is_ok_and(|noted| noted == text) {
            return Ok(());
        }
        DirBuilder::new().mode(0o755).recursive(true).create(&folder).at("create", &folder)?;
        replace(&path, text)
    }

    /// The notes of [`note_user`](Self::note_user), each with the folder of the generations.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn users(&self) -> Result<Vec<(PathBuf, PathBuf)>, WriteError> {
        let folder = self.path.join(USERS);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at("read", &folder)?,
        };
        let mut users = Vec::new();
        for entry in entries {
            let path = entry.at("read", &folder)?.path();
            if path.file_name().is_some_and(is_temporary) {
                continue;
            }
            let noted = fs::read(&path).at("read", &path)?;
            users.push((path, PathBuf::from(OsString::from_vec(noted))));
        }
        users.sort();
        Ok(users)
    }

    /// Takes the store for changing it, waiting for another windlass that does.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn change(&self, progress: &Progress) -> Result<Change<'_>, WriteError> {
        let path = self.path.join(LOCK);
        let file = File::options().write(true).open(&path).at("open", &path)?;
        lock::wait(&path, progress, || match file.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        })?;
        Ok(Change { store: self, _lock: file })
    }

    /// What a killed run has left: everything that no record names. Of a run that is still at work it lists that too, so
    /// only [`Change::sweep`] may remove it. What is mounted is not listed: a container may go on after its records are lost.
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
        for folder in ["overlay", "overlay/l", "overlay-layers", "overlay-images", NEW, USERS] {
            let folder_path = self.path.join(folder);
            let entries = match fs::read_dir(&folder_path) {
                Err(error) if folder == USERS && error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.at("read", &folder_path)?,
            };
            for entry in entries {
                let entry = entry.at("read", &folder_path)?;
                if !is_named(folder, &entry.file_name().to_string_lossy()) {
                    leftovers.push(entry.path());
                }
            }
        }
        let in_overlay = |path: &PathBuf| path.strip_prefix(self.path.join(DRIVER)).is_ok();
        if leftovers.iter().any(in_overlay) {
            let mounted = Others::default().mounted();
            let is_mounted = |name: &str| mounted.contains(name) || mounted.contains(&link_name(name));
            let is_used = |path: &PathBuf| path.file_name().is_some_and(|name| is_mounted(&name.to_string_lossy()));
            leftovers.retain(|path| !in_overlay(path) || !is_used(path));
        }
        leftovers.sort();
        Ok(leftovers)
    }
}

/// A layer that was made in [`Change::workplace`] and is ready to be put in place.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// What the record will say.
    pub record: StoredLayer,
    /// Its chain IDs from the layer below it down to the lowest.
    pub below: Vec<String>,
    /// Where the tree was made.
    pub tree: PathBuf,
    /// Where its tar-split record was made.
    pub tar_split: PathBuf,
    /// Whether only whoever owns the store may enter it: see [`super::unpack`].
    pub closed: bool,
}

/// The linked store while it is changed; one windlass at a time.
#[derive(Debug)]
pub struct Change<'a> {
    pub(super) store: &'a LinkedStore,
    _lock: File,
}

impl Change<'_> {
    /// Removes what killed runs have left; how many things that were.
    ///
    /// # Errors
    /// With the path that cannot be removed.
    pub fn sweep(&self, progress: &Progress) -> Result<usize, RecordsError> {
        let leftovers = self.store.leftovers(progress)?;
        leftovers.iter().try_for_each(|path| remove(path))?;
        Ok(leftovers.len())
    }

    /// A new folder to make a layer in.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn workplace(&self, layer: &str) -> Result<PathBuf, WriteError> {
        let path = self.store.path.join(NEW).join(layer);
        remove(&path)?;
        DirBuilder::new().mode(0o700).create(&path).at("create", &path)?;
        Ok(path)
    }

    /// Puts layers in place and records them. What was there under the same ID, damaged or nobody's, becomes what it should
    /// be; a container that runs on it goes on.
    ///
    /// # Errors
    /// With the path at fault; the records name none of the layers then.
    pub fn add_layers(&self, layers: Vec<NewLayer>, progress: &Progress) -> Result<(), RecordsError> {
        let overlay = self.store.path.join(DRIVER);
        for layer in &layers {
            let id = &layer.record.id;
            let place = layer.tree.parent().unwrap_or(&layer.tree);
            let tar_split = self.store.records_file(id);
            let mode =
                |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).at("set the mode of", path);
            mode(&layer.tar_split, if layer.closed { 0o600 } else { 0o644 })?;
            fs::rename(&layer.tar_split, &tar_split).at("rename to", &tar_split)?;
            // Podman's own layout of an overlay layer.
            write(&place.join("link"), link_name(id).as_bytes(), progress)?;
            if !layer.below.is_empty() {
                let lower: Vec<String> = layer.below.iter().map(|below| format!("l/{}", link_name(below))).collect();
                write(&place.join("lower"), lower.join(":").as_bytes(), progress)?;
            }
            mode(place, if layer.closed { 0o700 } else { 0o755 })?;
            let target = overlay.join(id);
            if target.join("diff").is_dir() {
                renew(place, &target)?;
                remove(place)?;
            } else {
                put(place, &target)?;
            }
            let link = overlay.join("l").join(link_name(id));
            let target = PathBuf::from(format!("../{id}/diff"));
            if fs::read_link(&link).ok().as_ref() != Some(&target) {
                remove(&link)?;
                symlink(&target, &link).at("create", &link)?;
            }
        }
        let root = File::open(&self.store.path).at("open", &self.store.path)?;
        rustix::fs::syncfs(&root).at("sync", &self.store.path)?;
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
    pub fn add_images(
        &self,
        images: Vec<(StoredImage, BTreeMap<String, Vec<u8>>)>,
        progress: &Progress,
    ) -> Result<(), RecordsError> {
        let folder = self.store.folder("images");
        for (image, data) in &images {
            let place = self.workplace(&image.id)?;
            for (name, bytes) in data {
                replace(&place.join(big_data_file(name)), bytes)?;
                progress.count_written(bytes.len() as u64);
            }
            fs::set_permissions(&place, Permissions::from_mode(0o755)).at("set the mode of", &place)?;
            put(&place, &folder.path().join(&image.id))?;
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
    pub fn name(&self, image: &str, names: &[String], progress: &Progress) -> Result<(), RecordsError> {
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
        let missing = || WriteError { action: "lock", path: folder.lock(), source: io::ErrorKind::NotFound.into() };
        let lock = Lock::take(&folder.lock(), For::Writing, progress)?.ok_or_else(missing)?;
        let mut list = super::records::read_list(&folder.json())?;
        let before = canonical::to_bytes(&list);
        change(&mut list);
        let after = canonical::to_bytes(&list);
        if before != after {
            // First: after a kill in between, a service reads the records once more for nothing. The other way round it
            // would never see the change.
            lock.touch(&folder.lock())?;
            replace(&folder.json(), &after)?;
            progress.count_written(after.len() as u64);
        }
        Ok(())
    }
}

impl LinkedStore {
    /// Where a layer's tree is.
    pub(super) fn tree(&self, layer: &str) -> PathBuf {
        self.path.join(format!("{DRIVER}/{layer}/diff"))
    }

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

/// Moves a finished folder to its place; what was there is removed.
fn put(from: &Path, to: &Path) -> Result<(), WriteError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => {
            renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).at("replace", to)?;
            remove(from)
        }
        result => result.at("rename to", to),
    }
}

fn write(path: &Path, bytes: &[u8], progress: &Progress) -> Result<(), WriteError> {
    crate::blobs::write_file(path, bytes, progress)?;
    readable(path)
}

fn readable(path: &Path) -> Result<(), WriteError> {
    fs::set_permissions(path, Permissions::from_mode(0o644)).at("set the mode of", path)
}

/// Whether a file is one that [`replace`] has not finished.
fn is_temporary(name: &OsStr) -> bool {
    name.as_bytes().starts_with(TEMPORARY.as_bytes())
}

/// Removes a file or a tree; nothing there is as good.
pub(super) fn remove(path: &Path) -> Result<(), WriteError> {
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.at("read", path)?,
    };
    if !kind.is_dir() {
        return fs::remove_file(path).at("remove", path);
    }
    match fs::remove_dir_all(path) {
        // Directories of the layers are read-only, which stops anybody but root.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path)?;
            fs::remove_dir_all(path).at("remove", path)
        }
        result => result.at("remove", path),
    }
}

fn make_writable(directory: &Path) -> Result<(), WriteError> {
    fs::set_permissions(directory, Permissions::from_mode(0o700)).at("set the mode of", directory)?;
    for entry in fs::read_dir(directory).at("read", directory)? {
        let entry = entry.at("read", directory)?;
        if entry.file_type().at("read", directory)?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}
