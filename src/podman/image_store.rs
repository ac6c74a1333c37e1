//! What an additional image store must have, so that no Podman stumbles over it.
//!
//! Podman opens every additional image store that `storage.conf` names at the start of *every* command: a directory that
//! is missing, a lock file that it can neither open nor make, or records that are not whole JSON, and the command fails.
//! Lock files are only looked at here, never opened: a process that closes one gives up its locks on it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::blobs::{At, WriteError};

/// In a directory that windlass made as its store.
pub(super) const MARKER: &str = "windlass.json";
/// Held by the one windlass that changes the store.
pub(super) const LOCK: &str = "windlass.lock";
/// Where windlass makes what is not yet in the store.
pub(super) const NEW: &str = "new";
/// Files that are not finished begin with this.
pub(super) const TEMPORARY: &str = ".windlass-";

const DIRECTORIES: [&str; 6] = ["", "overlay", "overlay/l", "overlay-layers", "overlay-images", NEW];
/// Records and the locks that guard them.
const RECORDS: [[&str; 2]; 2] = [
    ["overlay-layers/layers.json", "overlay-layers/layers.lock"],
    ["overlay-images/images.json", "overlay-images/images.lock"],
];

/// Something wrong with an additional image store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// What can be wrong with a file or directory of an additional image store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// It is not there.
    Missing,
    /// Not everybody can read it.
    Private,
    /// This user cannot read it.
    Unreadable(String),
    /// It is not whole JSON.
    Torn(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match &self.kind {
            FaultKind::Missing => write!(f, "{path} is missing"),
            FaultKind::Private => write!(f, "{path} cannot be read by every user"),
            FaultKind::Unreadable(error) => write!(f, "{path} cannot be read: {error}"),
            FaultKind::Torn(error) => write!(f, "{path} is not whole JSON: {error}"),
        }
    }
}

/// What is wrong with somebody's additional image store for the driver `driver`: only what makes Podman fail.
#[must_use]
pub fn faults(store: &Path, driver: &str) -> Vec<Fault> {
    if !store.is_dir() {
        return vec![Fault { path: store.to_owned(), kind: FaultKind::Missing }];
    }
    let mut faults = Vec::new();
    for [records, lock] in RECORDS {
        let of_driver = |name: &str| store.join(name.replacen("overlay", driver, 1));
        // Where there are no records, Podman sees an empty store.
        faults.extend(record_fault(&of_driver(records)).filter(|fault| fault.kind != FaultKind::Missing));
        let lock = of_driver(lock);
        if !lock.exists() {
            faults.push(Fault { path: lock, kind: FaultKind::Missing });
        }
    }
    faults
}

/// What is wrong with a store of windlass's own, of which nothing may be missing and which all users share.
#[must_use]
pub fn own_faults(store: &Path) -> Vec<Fault> {
    let mut faults = faults(store, "overlay");
    let mut look = |name: &str, mode: u32| {
        let path = store.join(name);
        let kind = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => FaultKind::Missing,
            Err(error) => FaultKind::Unreadable(error.to_string()),
            Ok(metadata) if metadata.permissions().mode() & mode != mode => FaultKind::Private,
            Ok(_) => return,
        };
        if !faults.iter().any(|fault| fault.path == path || fault.path == store) {
            faults.push(Fault { path, kind });
        }
    };
    DIRECTORIES.iter().for_each(|name| look(name, 0o755));
    RECORDS.iter().flatten().for_each(|name| look(name, 0o644));
    faults
}

fn record_fault(path: &Path) -> Option<Fault> {
    let kind = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => FaultKind::Missing,
        Err(error) => FaultKind::Unreadable(error.to_string()),
        Ok(bytes) => match serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(&bytes) {
            Ok(_) => return None,
            Err(error) => FaultKind::Torn(error.to_string()),
        },
    };
    Some(Fault { path: path.to_owned(), kind })
}

/// Whether windlass may write there: to a directory that it made, or that is empty, or that is not there. One that another
/// windlass is making, or was killed over, has nothing before its marker but that unfinished file.
#[must_use]
pub fn is_ours_or_new(store: &Path) -> bool {
    let is_ours = || store.join(MARKER).is_file();
    let unfinished = |name: &OsStr| name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes());
    is_ours()
        || match fs::read_dir(store) {
            Ok(entries) => entries.flatten().all(|entry| unfinished(&entry.file_name())) || is_ours(),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
}

/// Makes what is missing of a store, and readable for all what is not; leaves the rest as it is. What was made.
///
/// The marker is first, so that a store which is not finished is known as ours. Several at once do not harm each other: a
/// file that is there is never replaced.
///
/// # Errors
/// If the directory cannot be written to.
pub fn create(store: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let made = std::cell::RefCell::new(Vec::new());
    let directory = |name: &str| {
        let path = if name.is_empty() { store.to_owned() } else { store.join(name) };
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o755).create(&path).at("create", &path)?;
            made.borrow_mut().push(path.clone());
        }
        made.borrow_mut().extend(open_up(&path, 0o755)?);
        Ok(())
    };
    let file = |name: &str, text: &str| {
        let path = store.join(name);
        if !path.exists() && add(&path, text.as_bytes())? {
            made.borrow_mut().push(path.clone());
        }
        made.borrow_mut().extend(open_up(&path, 0o644)?);
        Ok(())
    };
    directory("")?;
    file(MARKER, "{\"version\":1}\n")?;
    DIRECTORIES.into_iter().try_for_each(directory)?;
    file(LOCK, "")?;
    for [records, lock] in RECORDS {
        file(lock, "")?;
        file(records, "[]")?;
    }
    let mut made = made.into_inner();
    made.dedup();
    Ok(made)
}

/// A small file that all can read, replaced whole and durably: nobody ever sees half of it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    finished(path, bytes)?.persist(path).map_err(|error| error.error).at("replace", path)?;
    sync_parent(path)
}

/// The same, unless it is there already: then that one stays, and the answer is false.
fn add(path: &Path, bytes: &[u8]) -> Result<bool, WriteError> {
    match finished(path, bytes)?.persist_noclobber(path) {
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        result => result.map_err(|error| error.error).at("create", path)?,
    };
    sync_parent(path)?;
    Ok(true)
}

/// The file beside its place.
fn finished(path: &Path, bytes: &[u8]) -> Result<NamedTempFile, WriteError> {
    let parent = path.parent().unwrap_or(path);
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(parent).at("create a file in", parent)?;
    file.write_all(bytes).at("write", path)?;
    file.as_file().set_permissions(Permissions::from_mode(0o644)).at("set the mode of", path)?;
    file.as_file().sync_all().at("sync", path)?;
    Ok(file)
}

fn sync_parent(path: &Path) -> Result<(), WriteError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|parent| parent.sync_all()).at("sync", parent)
}

/// Adds the missing bits of `mode`, whatever the umask was.
fn open_up(path: &Path, mode: u32) -> Result<Option<PathBuf>, WriteError> {
    let now = fs::metadata(path).at("read", path)?.permissions().mode();
    if now & mode == mode {
        return Ok(None);
    }
    fs::set_permissions(path, Permissions::from_mode(now | mode)).at("change the mode of", path)?;
    Ok(Some(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_store_has_no_fault_and_what_is_taken_away_is_found_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("a/b");
        let missing = Fault { path: store.clone(), kind: FaultKind::Missing };
        assert_eq!((own_faults(&store), is_ours_or_new(&store)), (vec![missing], true));
        assert_eq!(create(&store).unwrap().len(), 12);
        assert_eq!((own_faults(&store), is_ours_or_new(&store)), (vec![], true));
        assert_eq!(create(&store).unwrap(), Vec::<PathBuf>::new());
        for (name, others) in
            [("overlay-layers/layers.lock", true), ("overlay-images/images.json", false), ("overlay/l", false)]
        {
            let path = store.join(name);
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
            let missing = vec![Fault { path, kind: FaultKind::Missing }];
            assert_eq!(own_faults(&store), missing);
            assert_eq!(faults(&store, "overlay"), if others { missing.clone() } else { vec![] });
            assert_eq!(create(&store).unwrap(), [missing[0].path.clone()]);
            assert_eq!(own_faults(&store), vec![]);
        }
        let records = store.join("overlay-images/images.json");
        fs::set_permissions(&records, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(own_faults(&store), vec![Fault { path: records.clone(), kind: FaultKind::Private }]);
        assert_eq!(create(&store).unwrap(), std::slice::from_ref(&records));
        fs::write(&records, "[{\"id\":").unwrap();
        assert!(matches!(&own_faults(&store)[..], [Fault { path, kind: FaultKind::Torn(_) }] if *path == records));
        assert_eq!(create(&store).unwrap(), Vec::<PathBuf>::new(), "records are not thrown away");
    }

    #[test]
    fn a_store_that_several_make_at_once_is_made_and_a_killed_one_is_made_on() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let store = folder.path().join(round.to_string());
            let make = || (is_ours_or_new(&store), create(&store).unwrap().len());
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
        assert!(is_ours_or_new(&killed), "before its marker");
        create(&killed).unwrap();
        assert_eq!(own_faults(&killed), vec![]);
    }

    #[test]
    fn records_that_come_between_stay() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("images.json");
        assert!(add(&records, b"[]").unwrap());
        fs::write(&records, "[1]").unwrap();
        assert!(!add(&records, b"[]").unwrap());
        assert_eq!(fs::read(&records).unwrap(), b"[1]");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_directory_of_somebody_else_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_ours_or_new(folder.path()));
        fs::write(folder.path().join("x"), "").unwrap();
        assert!(!is_ours_or_new(folder.path()));
    }
}
