//! A tree that is in use, made what it should be.
//!
//! A container runs on the directories of its image's layers. One that is removed, or swapped for another, is empty for
//! it from then on (seen on Linux 6.18); a file that gets a new inode is not noticed until it is opened again. So only
//! what differs is touched, and directories stay the ones they are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::linked::remove;
use super::twin::{attributes, dress};
use crate::blobs::{At, WriteError};

/// Makes the directory at `to` what the one at `from` is, which is used up. Where both have the same file (a link to the
/// store) nothing happens. A kill in the middle leaves a tree that is no worse than before.
///
/// # Errors
/// With the path at fault.
pub(super) fn renew(from: &Path, to: &Path) -> Result<(), WriteError> {
    let (new, old) = (fs::metadata(from).at("read", from)?, fs::metadata(to).at("read", to)?);
    let mut changes: Vec<(PathBuf, PathBuf)> = Vec::new();
    for name in names(from)?.union(&names(to)?) {
        let (from, to) = (from.join(name), to.join(name));
        match (look(&from)?, look(&to)?) {
            (Some(new), Some(old)) if new.is_dir() && old.is_dir() => renew(&from, &to)?,
            (Some(new), Some(old)) if is_same((&from, &new), (&to, &old)) => {}
            _ => changes.push((from, to)),
        }
    }
    let told = |found: &Metadata| (found.mode(), found.uid(), found.gid(), found.mtime(), found.mtime_nsec());
    let (wanted, there) = (attributes(from)?, attributes(to)?);
    if changes.is_empty()
        && told(&new) == told(&old)
        && wanted.iter().all(|(name, value)| there.get(name) == Some(value))
    {
        return Ok(());
    }
    [from, to].into_iter().try_for_each(open)?;
    for (from, to) in changes {
        match look(&from)? {
            None => remove(&to)?,
            Some(new) if new.is_dir() => {
                remove(&to)?;
                // Moved, it gets another parent, which is a change to itself.
                open(&from)?;
                fs::rename(&from, &to).at("rename to", &to)?;
                dress(&to, &new, &BTreeMap::new())?;
            }
            Some(_) => {
                if look(&to)?.is_some_and(|old| old.is_dir()) {
                    remove(&to)?;
                }
                fs::rename(&from, &to).at("rename to", &to)?;
            }
        }
    }
    dress(to, &new, &wanted)
}

fn names(directory: &Path) -> Result<BTreeSet<OsString>, WriteError> {
    let entries = fs::read_dir(directory).at("read", directory)?;
    entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>().at("read", directory)
}

fn look(path: &Path) -> Result<Option<Metadata>, WriteError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).at("read", path),
    }
}

/// One file under two names, or two links that lead to the same place.
fn is_same((from, new): (&Path, &Metadata), (to, old): (&Path, &Metadata)) -> bool {
    let leads = |path: &Path| fs::read_link(path).ok();
    (new.dev(), new.ino()) == (old.dev(), old.ino())
        || (new.is_symlink()
            && (new.uid(), new.gid()) == (old.uid(), old.gid())
            && leads(from).is_some_and(|target| leads(to) == Some(target)))
}

/// The directories of layers are read-only, which stops anybody but root. Whoever else reads there goes on.
fn open(directory: &Path) -> Result<(), WriteError> {
    let mode = fs::metadata(directory).at("read", directory)?.mode() & 0o7777;
    fs::set_permissions(directory, Permissions::from_mode(mode | 0o700)).at("set the mode of", directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let tree = folder.path().join(name);
            fs::create_dir_all(tree.join("d/e")).unwrap();
            fs::write(tree.join("d/e/text"), "text").unwrap();
            fs::write(folder.path().join("store"), "stored").unwrap();
            std::os::unix::fs::symlink("e", tree.join("d/link")).unwrap();
            tree
        };
        let (old, new) = (make("old"), make("new"));
        let store = folder.path().join("store");
        for tree in [&old, &new] {
            fs::hard_link(&store, tree.join("d/stored")).unwrap();
        }
        fs::create_dir(new.join("d/more")).unwrap();
        fs::write(new.join("d/more/file"), "more").unwrap();
        fs::create_dir(old.join("d/file")).unwrap();
        fs::write(new.join("d/file"), "file").unwrap();
        fs::create_dir_all(old.join("d/foreign/x")).unwrap();
        // Before they are read-only, which stops anybody but root.
        rustix::fs::lsetxattr(new.join("d/more"), "user.told", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        rustix::fs::lsetxattr(new.join("d/e"), "user.told", b"2", rustix::fs::XattrFlags::empty()).unwrap();
        for tree in [&old, &new] {
            for path in ["d/e", "d"] {
                fs::set_permissions(tree.join(path), Permissions::from_mode(0o555)).unwrap();
            }
        }
        fs::set_permissions(old.join("d/e"), Permissions::from_mode(0o711)).unwrap();
        let (closed, mode) = (old.join("d/foreign"), |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777);
        fs::set_permissions(&closed, Permissions::from_mode(0o555)).unwrap();
        open(&closed).unwrap();
        assert_eq!(mode(&closed), 0o755, "who reads there goes on");
        let second = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        for path in ["d/e", "d"] {
            fs::File::open(new.join(path)).unwrap().set_modified(second).unwrap();
        }
        let inode = |path: &str| fs::symlink_metadata(old.join(path)).unwrap().ino();
        let paths = ["d", "d/e", "d/stored", "d/link"];
        let before = paths.map(inode);
        renew(&new, &old).unwrap();
        assert_eq!(paths.map(inode), before);
        assert_eq!(names(&old.join("d")).unwrap(), ["e", "file", "link", "more", "stored"].map(OsString::from).into());
        assert_eq!(fs::read_to_string(old.join("d/more/file")).unwrap(), "more");
        for path in ["d", "d/e"] {
            let found = fs::metadata(old.join(path)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.mtime()), (0o555, 1), "{path}");
        }
        for (path, value) in [("d/more", b"1"), ("d/e", b"2")] {
            assert_eq!(attributes(&old.join(path)).unwrap().get(&b"user.told"[..]), Some(&value.to_vec()), "{path}");
        }
    }
}
