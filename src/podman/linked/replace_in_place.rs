//! A tree that is in use, made what it should be.
//!
//! A container runs on the directories of its image's layers. One that is removed, or swapped for another, is empty for
//! it from then on (seen on Linux 6.18); a file that gets a new inode is not noticed until it is opened again. So only
//! what differs is touched, and directories stay the ones they are.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use rustix::fs::{FileType, Stat};

use crate::disk::WriteError;
use crate::disk::beneath::Dir;
use crate::disk::walk::TreeCursor;

/// Makes the directory `to` what the directory `from` is, which is used up. Where both have the same file (a link to the
/// store) nothing happens. A kill in the middle leaves a tree that is no worse than before.
///
/// # Errors
/// With the path at fault.
pub(crate) fn replace_in_place(from: Dir, to: Dir) -> Result<(), WriteError> {
    let (mut from, mut to) = (TreeCursor::at(from), TreeCursor::at(to));
    let mut levels = vec![Level::of(from.dir(), to.dir())?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.directories.pop() {
            from.down(&name)?;
            to.down(&name)?;
            levels.push(Level::of(from.dir(), to.dir())?);
            continue;
        }
        level.finish(from.dir(), to.dir())?;
        levels.pop();
        if !levels.is_empty() {
            from.up()?;
            to.up()?;
        }
    }
    Ok(())
}

/// What is to be done in one directory.
struct Level {
    /// What both have, as directories.
    directories: Vec<OsString>,
    /// What they do not have alike.
    changes: Vec<OsString>,
}

impl Level {
    fn of(from: &Dir, to: &Dir) -> Result<Self, WriteError> {
        let mut level = Self { directories: Vec::new(), changes: Vec::new() };
        let (new, old) = (from.names()?, to.names()?);
        for name in new.keys().chain(old.keys()).collect::<BTreeSet<_>>() {
            match (from.look(name)?, to.look(name)?) {
                (Some(new), Some(old)) if is_directory(&new) && is_directory(&old) => {
                    level.directories.push(name.clone());
                }
                (Some(new), Some(old)) if is_same((from, &new), (to, &old), name) => {}
                _ => level.changes.push(name.clone()),
            }
        }
        Ok(level)
    }

    fn finish(&self, from: &Dir, to: &Dir) -> Result<(), WriteError> {
        let (new, old) = (from.stat()?, to.stat()?);
        let told = |found: &Stat| (found.st_mode, found.st_uid, found.st_gid, found.st_mtime, found.st_mtime_nsec);
        let (wanted, there) = (from.attributes()?, to.attributes()?);
        if self.changes.is_empty()
            && told(&new) == told(&old)
            && wanted.iter().all(|(name, value)| there.get(name) == Some(value))
        {
            return Ok(());
        }
        [from, to].into_iter().try_for_each(open)?;
        for name in &self.changes {
            let (new, old) = (from.look(name)?, to.look(name)?);
            if new.is_none_or(|new| is_directory(&new)) || old.is_some_and(|old| is_directory(&old)) {
                to.remove(name)?;
            }
            match new.filter(is_directory) {
                Some(new) => {
                    // Moved, it gets another parent, which is a change to itself.
                    let moved = from.dir(name)?;
                    open(&moved)?;
                    from.rename(name, to, name)?;
                    moved.dress(&new, &Default::default())?;
                }
                None if new.is_some() => from.rename(name, to, name)?,
                None => {}
            }
        }
        to.dress(&new, &wanted)
    }
}

fn is_directory(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

/// One file under two names, or two links that lead to the same place.
fn is_same((from, new): (&Dir, &Stat), (to, old): (&Dir, &Stat), name: &OsStr) -> bool {
    let is_link = FileType::from_raw_mode(new.st_mode) == FileType::Symlink;
    (new.st_dev, new.st_ino) == (old.st_dev, old.st_ino)
        || (is_link
            && (new.st_uid, new.st_gid) == (old.st_uid, old.st_gid)
            && from.target(name).is_some_and(|target| to.target(name) == Some(target)))
}

/// The directories of layers are read-only, which stops every user but root. Processes that read there go on.
fn open(directory: &Dir) -> Result<(), WriteError> {
    directory.set_mode(directory.stat()?.st_mode & 0o7777 | 0o700)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::*;

    fn at(path: &Path) -> Dir {
        Dir::open(path).unwrap()
    }

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
        open(&at(&closed)).unwrap();
        assert_eq!(mode(&closed), 0o755, "who reads there goes on");
        let second = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        for path in ["d/e", "d"] {
            fs::File::open(new.join(path)).unwrap().set_modified(second).unwrap();
        }
        let inode = |path: &str| fs::symlink_metadata(old.join(path)).unwrap().ino();
        let paths = ["d", "d/e", "d/stored", "d/link"];
        let before = paths.map(inode);
        replace_in_place(at(&new), at(&old)).unwrap();
        assert_eq!(paths.map(inode), before);
        assert_eq!(
            at(&old.join("d")).names().unwrap().into_keys().collect::<Vec<_>>(),
            ["e", "file", "link", "more", "stored"].map(OsString::from)
        );
        assert_eq!(fs::read_to_string(old.join("d/more/file")).unwrap(), "more");
        for path in ["d", "d/e"] {
            let found = fs::metadata(old.join(path)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.mtime()), (0o555, 1), "{path}");
        }
        for (path, value) in [("d/more", b"1"), ("d/e", b"2")] {
            assert_eq!(
                at(&old.join(path)).attributes().unwrap().get(&b"user.told"[..]),
                Some(&value.to_vec()),
                "{path}"
            );
        }
        // So that any user can remove them.
        for path in ["d", "d/e"] {
            for tree in [&old, &new] {
                fs::set_permissions(tree.join(path), Permissions::from_mode(0o755)).unwrap();
            }
        }
    }
}
