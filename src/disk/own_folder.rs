//! The folder that windlass keeps of an engine: `<graph root>/windlass`.
//!
//! A graph root may be open to others, or lie where another user put it. So what is in it is reached through descriptors
//! that follow no link, and in a graph root of the caller's own it must be the caller's: a folder or file that another user has
//! put in its place is refused by name, and a folder of the caller's that others could write to, as an older windlass
//! left it under some umasks, is closed to them. What lies in a graph root of another user is only read.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::disk::AtPath;
use crate::disk::WriteError;
use crate::disk::beneath::{Dir, is_private_to, refused};
use crate::disk::bounded::{self, Cap};
use crate::disk::files::parent_of;

/// How many names a folder of another user may have before it is refused. The real ones have a few dozens.
pub(crate) const MOST_NAMES: usize = 10_000;

/// Such a folder; it need not be there.
#[derive(Debug, Clone)]
pub(crate) struct OwnFolder {
    /// What it is in: the graph root.
    above: PathBuf,
    name: PathBuf,
    /// The only user to whom it may belong; `None` for one that is another user's.
    owner: Option<u32>,
}

impl OwnFolder {
    /// One at this path, in the caller's own graph root.
    pub(crate) fn own(path: &Path) -> Self {
        Self { owner: Some(geteuid().as_raw()), ..Self::of_another(path) }
    }

    /// One at this path, in a graph root which may be another user's.
    pub(crate) fn of_another(path: &Path) -> Self {
        Self { above: parent_of(path), name: path.file_name().unwrap_or_default().into(), owner: None }
    }

    /// It, or a folder below it; `None` if that is not there.
    pub(crate) fn find(&self, below: &[&str]) -> Result<Option<Dir>, WriteError> {
        let mut here = match Dir::open(&self.above) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            root => root?,
        };
        for name in [self.name.as_path()].into_iter().chain(below.iter().map(Path::new)) {
            let Some(next) = here.dir_if_there(name)? else { return Ok(None) };
            self.own_folder(&next)?;
            here = next;
        }
        Ok(Some(here))
    }

    /// The same, made as far as it is not there. The graph root itself must be the caller's alone.
    pub(crate) fn make(&self, below: &[&str]) -> Result<Dir, WriteError> {
        let mut above = std::fs::DirBuilder::new();
        above.recursive(true).mode(0o700).create(&self.above).at("create", &self.above)?;
        let mut here = Dir::open(&self.above)?;
        if let Some(owner) = self.owner {
            is_private_to(&here.stat()?, owner).map_err(|why| {
                let hint = "windlass keeps there what root or you will run; give it to one user: chown, chmod go-w";
                refused(&self.above, &format!("{why}; {hint}"))
            })?;
        }
        for name in [self.name.as_path()].into_iter().chain(below.iter().map(Path::new)) {
            here = here.made(name, 0o755)?;
            self.own_folder(&here)?;
        }
        Ok(here)
    }

    fn own_folder(&self, dir: &Dir) -> Result<(), WriteError> {
        let Some(owner) = self.owner else { return Ok(()) };
        let found = dir.stat()?;
        if found.st_uid == owner && found.st_mode & 0o022 != 0 {
            return dir.set_mode(found.st_mode & 0o7755);
        }
        is_private_to(&found, owner).map_err(|why| refused(dir.path(), &why))
    }

    /// A file in a folder of it, open; `None` if it is not there.
    pub(crate) fn file(&self, dir: &Dir, name: &str) -> Result<Option<File>, WriteError> {
        let file = match dir.file(name) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let path = dir.at(name);
        let uid = file.metadata().at("read", &path)?.uid();
        match self.owner.filter(|owner| *owner != uid) {
            Some(owner) => Err(refused(&path, &format!("it belongs to user {uid}, and must belong to user {owner}"))),
            None => Ok(Some(file)),
        }
    }

    /// The bytes of a file in a folder of it; `None` if it is not there.
    pub(crate) fn read(&self, dir: &Dir, name: &str) -> Result<Option<Vec<u8>>, WriteError> {
        let Some(mut file) = self.file(dir, name)? else { return Ok(None) };
        bounded::rest(&mut file, Cap::Document).at("read", &dir.at(name)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_not_the_callers_is_refused_and_what_is_too_open_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let set = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let root = folder.path().join("root");
        let path = root.join("windlass");
        let (own, other) = (OwnFolder::own(&path), OwnFolder::of_another(&path));
        assert!(own.find(&["generations"]).unwrap().is_none());
        own.make(&["generations", "1"]).unwrap();
        set(&root.join("windlass/generations"), 0o777);
        fs::write(root.join("windlass/generations/1/current"), "1").unwrap();
        let one = own.find(&["generations", "1"]).unwrap().unwrap();
        assert_eq!(mode(&root.join("windlass/generations")), 0o755);
        assert_eq!(own.read(&one, "current").unwrap().unwrap(), b"1");
        assert!(own.read(&one, "gone").unwrap().is_none());

        fs::rename(root.join("windlass"), root.join("moved")).unwrap();
        symlink("moved", root.join("windlass")).unwrap();
        for state in [&own, &other] {
            let said = state.find(&["generations"]).unwrap_err().to_string();
            assert!(said.contains("root/windlass: it is a link"), "{said}");
        }
        assert!(own.make(&[]).is_err());
        fs::remove_file(root.join("windlass")).unwrap();
        set(&root, 0o777);
        let said = own.make(&[]).unwrap_err().to_string();
        assert!(said.contains("can write to it (mode 0777)") && said.contains("chmod go-w"), "{said}");
        set(&root, 0o755);
        if geteuid().is_root() {
            fs::create_dir(root.join("windlass")).unwrap();
            fs::write(root.join("windlass/current"), "1").unwrap();
            std::os::unix::fs::chown(root.join("windlass/current"), Some(65534), None).unwrap();
            let here = own.find(&[]).unwrap().unwrap();
            let said = own.read(&here, "current").unwrap_err().to_string();
            assert!(said.contains("windlass/current: it belongs to user 65534"), "{said}");
            assert!(other.read(&here, "current").unwrap().is_some());
            std::os::unix::fs::chown(root.join("windlass"), Some(65534), None).unwrap();
            let said = own.find(&[]).unwrap_err().to_string();
            assert!(said.contains("windlass: it belongs to user 65534"), "{said}");
        }
    }
}
