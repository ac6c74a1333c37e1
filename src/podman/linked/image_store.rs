//! What an additional image store must have, so that no Podman stumbles over it.
//!
//! Podman opens every additional image store that `storage.conf` names at the start of *every* command: a directory that
//! is missing, a lock file that it can neither open nor make, or records that are not whole JSON, and the command fails.
//! Lock files are only looked at here, never opened: a process that closes one gives up its locks on it.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::sharing;
use crate::disk::beneath::{Dir, TEMPORARY, is_private_to, refused};
use crate::disk::bounded::{self, Cap};
use crate::disk::{AtPath, WriteError};

/// In a directory that windlass made as its store.
pub(crate) const MARKER: &str = "windlass.json";
/// Held by the one windlass that changes the store.
pub(crate) const LOCK: &str = "windlass.lock";
/// Where windlass makes what is not yet in the store.
pub(crate) const NEW: &str = "new";
/// The directories of a store but for the uppermost one, whose mode says whether other users reach anything in it.
const DIRECTORIES: [(&str, u32); 5] =
    [("overlay", 0o755), ("overlay/l", 0o755), ("overlay-layers", 0o755), ("overlay-images", 0o755), (NEW, 0o700)];
/// Records and the locks that guard them.
const RECORDS: [[&str; 2]; 2] = [
    ["overlay-layers/layers.json", "overlay-layers/layers.lock"],
    ["overlay-images/images.json", "overlay-images/images.lock"],
];

/// Something wrong with an additional image store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreFault {
    /// The file or directory.
    pub(crate) path: PathBuf,
    /// What is wrong with it.
    pub(crate) kind: FaultKind,
}

/// What can be wrong with a file or directory of an additional image store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum FaultKind {
    /// It is not there.
    Missing,
    /// Its mode is not the one that it should have: it, and that one.
    Mode(u32, u32),
    /// It is not what it must be before anything is written there: whose it is, who can write to it, or that it is a link.
    Refused(String),
    /// This user cannot read it.
    Unreadable(String),
    /// It is not whole JSON.
    NotJson(String),
}

impl std::fmt::Display for StoreFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match &self.kind {
            FaultKind::Missing => write!(f, "{path} is missing"),
            FaultKind::Mode(is, should) => write!(f, "{path} has the mode {is:04o} instead of {should:04o}"),
            FaultKind::Refused(why) => write!(f, "{path}: {why}"),
            FaultKind::Unreadable(error) => write!(f, "{path} cannot be read: {error}"),
            FaultKind::NotJson(error) => write!(f, "{path} is not whole JSON: {error}"),
        }
    }
}

/// What is wrong with an additional image store for the driver `driver`: only what makes Podman fail.
#[must_use]
pub(crate) fn faults(store: &Path, driver: &str) -> Vec<StoreFault> {
    if !store.is_dir() {
        return vec![StoreFault { path: store.to_owned(), kind: FaultKind::Missing }];
    }
    let mut faults = Vec::new();
    for [records, lock] in RECORDS {
        let of_driver = |name: &str| store.join(name.replacen("overlay", driver, 1));
        // Where there are no records, Podman sees an empty store.
        faults.extend(record_fault(&of_driver(records)).filter(|fault| fault.kind != FaultKind::Missing));
        let lock = of_driver(lock);
        if !lock.exists() {
            faults.push(StoreFault { path: lock, kind: FaultKind::Missing });
        }
    }
    faults
}

/// What is wrong with a store of windlass's own, of which nothing may be missing and which its owner alone may change.
#[must_use]
pub(crate) fn own_faults(store: &Path) -> Vec<StoreFault> {
    let mut faults = faults(store, "overlay");
    if faults.iter().any(|fault| fault.path == store) {
        return faults;
    }
    let owner = store_owner(store);
    let add = |faults: &mut Vec<StoreFault>, path: PathBuf, kind| {
        if !faults.iter().any(|fault| fault.path == path) {
            faults.push(StoreFault { path, kind });
        }
    };
    let root = match Dir::open(store) {
        Ok(root) => root,
        Err(error) => {
            add(&mut faults, store.to_owned(), FaultKind::Unreadable(error.source.to_string()));
            return faults;
        }
    };
    if let Err(error) = root.is_private_to(owner) {
        add(&mut faults, store.to_owned(), FaultKind::Refused(error.source.to_string()));
    }
    let files = RECORDS.iter().flatten().map(|name| (*name, 0o644));
    let directories = DIRECTORIES.into_iter().map(|directory| (directory, true));
    for ((name, mode), is_directory) in directories.chain(files.map(|file| (file, false))) {
        let kind = match root.look(name) {
            Ok(None) => FaultKind::Missing,
            Err(error) => FaultKind::Unreadable(error.source.to_string()),
            Ok(Some(found)) => match own(&found, is_directory, owner) {
                Err(why) => FaultKind::Refused(why),
                Ok(()) if found.st_mode & 0o7777 != mode => FaultKind::Mode(found.st_mode & 0o7777, mode),
                Ok(()) => continue,
            },
        };
        add(&mut faults, store.join(name), kind);
    }
    faults
}

/// Whose a store must be: root's or the caller's.
fn store_owner(store: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    let me = geteuid().as_raw();
    if fs::metadata(store).is_ok_and(|found| found.uid() == 0) { 0 } else { me }
}

/// Whether a thing in a store is what it must be.
fn own(found: &rustix::fs::Stat, is_directory: bool, owner: u32) -> Result<(), String> {
    use rustix::fs::FileType;
    let kind = FileType::from_raw_mode(found.st_mode);
    let wanted = if is_directory { FileType::Directory } else { FileType::RegularFile };
    if kind != wanted {
        let what = if is_directory { "directory" } else { "file" };
        return Err(format!("it is not a {what}, as windlass makes it"));
    }
    is_private_to(found, owner)
}

fn record_fault(path: &Path) -> Option<StoreFault> {
    let kind = match bounded::read(path, Cap::Document) {
        Err(error) if error.kind() == ErrorKind::NotFound => FaultKind::Missing,
        Err(error) => FaultKind::Unreadable(error.to_string()),
        Ok(bytes) => match serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(&bytes) {
            Ok(_) => return None,
            Err(error) => FaultKind::NotJson(error.to_string()),
        },
    };
    Some(StoreFault { path: path.to_owned(), kind })
}

/// Whether every user of the host can read a store: it is open to them, and so is every directory above it.
#[must_use]
pub(crate) fn is_open(store: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let open =
        |path: &Path, bits: u32| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & bits == bits);
    open(store, 0o005) && store.ancestors().skip(1).all(|path| path.as_os_str().is_empty() || open(path, 0o001))
}

/// Whether windlass may write there, or why not: to a directory that it made, or that is empty, or that is not there. One
/// that another windlass is making, or was killed over, has nothing before its marker but that unfinished file.
///
/// # Errors
/// With the path: above all a directory of another user, or one that other users can write to.
pub(crate) fn claim(store: &Path) -> Result<(), WriteError> {
    let root = match Dir::open(store) {
        Err(error) if error.source.kind() == ErrorKind::NotFound => return Ok(()),
        root => root?,
    };
    root.is_private_to(geteuid().as_raw())?;
    claimed(&root)
}

fn claimed(root: &Dir) -> Result<(), WriteError> {
    if let Some(found) = root.look(MARKER)? {
        return own(&found, false, geteuid().as_raw()).map_err(|why| refused(&root.path().join(MARKER), &why));
    }
    let names = root.names()?;
    if names.keys().all(|name| name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()))
        || root.look(MARKER)?.is_some()
    {
        return Ok(());
    }
    Err(refused(
        root.path(),
        "it is not a linked store, and not empty: windlass does not write there; choose another directory",
    ))
}

/// Makes what is missing of a store, and leaves the rest as it is. What was made.
///
/// A new store is closed: its owner alone reaches what is in it ([`sharing`]). The marker is first, so that a store which is
/// not finished is known as ours. Several at once do not harm each other: a file that is there is never replaced.
///
/// # Errors
/// If the directory cannot be written to, or [`claim`] refuses it.
pub(crate) fn create(store: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let mut made = Vec::new();
    if fs::symlink_metadata(store).is_err() {
        if let Some(parent) = store.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent).at("create", parent)?;
        }
        match DirBuilder::new().mode(0o700).create(store) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            result => {
                result.at("create", store)?;
                made.push(store.to_owned());
            }
        }
    }
    let root = sharing::writable(store)?;
    claimed(&root)?;
    file(&root, MARKER, b"{\"version\":1}\n", 0o644, &mut made)?;
    for (name, mode) in DIRECTORIES {
        let there = root.look(name)?.is_some();
        let directory = root.made(name, mode)?;
        directory.is_private_to(geteuid().as_raw())?;
        if !there {
            made.push(store.join(name));
        } else if directory.stat()?.st_mode & 0o7777 != mode {
            directory.set_mode(mode)?;
            made.push(store.join(name));
        }
    }
    file(&root, LOCK, b"", 0o600, &mut made)?;
    for [records, lock] in RECORDS {
        file(&root, lock, b"", 0o644, &mut made)?;
        file(&root, records, b"[]", 0o644, &mut made)?;
    }
    Ok(made)
}

/// A file of a store, made if it is not there, with this mode.
fn file(root: &Dir, name: &str, text: &[u8], mode: u32, made: &mut Vec<PathBuf>) -> Result<(), WriteError> {
    let path = root.path().join(name);
    let (folder, base) = name.rsplit_once('/').unwrap_or(("", name));
    if root.look(name)?.is_none() && root.dir(folder)?.add(base, text, mode)? {
        made.push(path);
        return Ok(());
    }
    let found = root.look(name)?;
    let Some(found) = found else { return Ok(()) };
    own(&found, false, geteuid().as_raw()).map_err(|why| refused(&path, &why))?;
    if found.st_mode & 0o7777 != mode {
        // Never opened: to close a lock file gives up this process's locks on it.
        let folder = root.dir(folder)?;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let place = rustix::fs::openat(&folder, base, flags, rustix::fs::Mode::empty()).at("open", &path)?;
        let mode = rustix::fs::Mode::from_raw_mode(mode);
        rustix::fs::chmod(crate::disk::beneath::in_proc(&place), mode).at("set the mode of", &path)?;
        made.push(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_store_has_no_fault_and_what_is_taken_away_is_found_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("a/b");
        let missing = StoreFault { path: store.clone(), kind: FaultKind::Missing };
        assert_eq!((own_faults(&store), claim(&store).is_ok()), (vec![missing], true));
        assert_eq!(create(&store).unwrap().len(), 12);
        assert_eq!((own_faults(&store), claim(&store).is_ok()), (vec![], true));
        assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o7777, 0o700, "it is closed");
        assert_eq!(create(&store).unwrap(), Vec::<PathBuf>::new());
        for (name, others) in
            [("overlay-layers/layers.lock", true), ("overlay-images/images.json", false), ("overlay/l", false)]
        {
            let path = store.join(name);
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
            let missing = vec![StoreFault { path, kind: FaultKind::Missing }];
            assert_eq!(own_faults(&store), missing);
            assert_eq!(faults(&store, "overlay"), if others { missing.clone() } else { vec![] });
            assert_eq!(create(&store).unwrap(), [missing[0].path.clone()]);
            assert_eq!(own_faults(&store), vec![]);
        }
        let records = store.join("overlay-images/images.json");
        fs::set_permissions(&records, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(own_faults(&store), vec![StoreFault { path: records.clone(), kind: FaultKind::Mode(0o600, 0o644) }]);
        assert_eq!(create(&store).unwrap(), std::slice::from_ref(&records));
        fs::write(&records, "[{\"id\":").unwrap();
        assert!(
            matches!(&own_faults(&store)[..], [StoreFault { path, kind: FaultKind::NotJson(_) }] if *path == records)
        );
        assert_eq!(create(&store).unwrap(), Vec::<PathBuf>::new(), "records are not thrown away");
    }

    #[test]
    fn a_store_that_several_make_at_once_is_made_and_a_killed_one_is_made_on() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let store = folder.path().join(round.to_string());
            let make = || (claim(&store).is_ok(), create(&store).unwrap().len());
            let made: Vec<(bool, usize)> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(made.iter().all(|(ours, _)| *ours), "{made:?}");
            assert_eq!(own_faults(&store), vec![]);
        }
        let killed = folder.path().join("killed");
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join(".windlass-x"), "{").unwrap();
        fs::set_permissions(&killed, Permissions::from_mode(0o700)).unwrap();
        assert!(claim(&killed).is_ok(), "before its marker");
        create(&killed).unwrap();
        assert_eq!(own_faults(&killed), vec![]);
    }

    #[test]
    fn what_others_made_or_can_write_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| claim(path).unwrap_err().to_string().replace(folder.path().to_str().unwrap(), "$T");
        assert!(claim(folder.path()).is_ok());
        fs::write(folder.path().join("x"), "").unwrap();
        assert!(said(folder.path()).starts_with("use $T: it is not a linked store, and not empty"));
        let store = folder.path().join("store");
        create(&store).unwrap();
        fs::set_permissions(&store, Permissions::from_mode(0o777)).unwrap();
        assert!(said(&store).contains("can write to it (mode 0777)") && create(&store).is_err());
        fs::set_permissions(&store, Permissions::from_mode(0o700)).unwrap();
        let (new, elsewhere) = (store.join(NEW), folder.path().join("elsewhere"));
        fs::remove_dir(&new).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &new).unwrap();
        let said = create(&store).unwrap_err().to_string();
        assert!(said.contains("store/new: it is a link"), "{said}");
        assert!(matches!(&own_faults(&store)[..], [StoreFault { path, kind: FaultKind::Refused(_) }] if *path == new));
        if geteuid().is_root() {
            std::os::unix::fs::chown(&store, Some(65534), None).unwrap();
            let said = claim(&store).unwrap_err().to_string();
            assert!(said.contains("it belongs to user 65534, and must belong to user 0"), "{said}");
        }
    }
}
