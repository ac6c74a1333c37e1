//! Files and directories that appear whole or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{At, WriteError, parent_of};
use crate::beneath::Dir;

/// A file or directory that is not yet under its final name. Dropped without [`publish`](Self::publish), it is removed.
#[derive(Debug)]
pub struct Staging {
    /// Where to write.
    path: PathBuf,
    target: PathBuf,
    /// Held while this run lives, so that another run can tell a leftover from work under way.
    lock: Option<File>,
}

impl Staging {
    /// A new directory beside `target`.
    ///
    /// # Errors
    /// If the parent of `target` cannot be written to.
    pub fn directory(target: &Path) -> Result<Self, WriteError> {
        Self::new(target, true)
    }

    /// A new empty file beside `target`.
    ///
    /// # Errors
    /// If the parent of `target` cannot be written to.
    pub fn file(target: &Path) -> Result<Self, WriteError> {
        Self::new(target, false)
    }

    /// Removes what killed runs have left for `target`. Making one does that too.
    pub fn sweep(target: &Path) {
        if let Some(name) = target.file_name() {
            sweep(&parent_of(target), &prefix(name));
        }
    }

    fn new(target: &Path, directory: bool) -> Result<Self, WriteError> {
        let parent = parent_of(target);
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput).at("write to", target)?;
        let prefix = prefix(name);
        sweep(&parent, &prefix);
        // Taken by process number: of two threads that want the same target one is wrong anyway, and is told so.
        let path = parent.join(format!("{prefix}{}", std::process::id()));
        if directory {
            fs::create_dir(&path).at("create", &path)?;
        } else {
            OpenOptions::new().write(true).create_new(true).open(&path).at("create", &path)?;
        }
        let lock = File::open(&path).at("open", &path)?;
        lock.lock().at("lock", &path)?;
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        if fs::metadata(&path).map(inode).ok() != lock.metadata().map(inode).ok() {
            // Between making and locking it, another run took it for a leftover.
            return Self::new(target, directory);
        }
        Ok(Self { path, target: target.to_owned(), lock: Some(lock) })
    }

    /// Where to write.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what was written durable and gives it its final name, in one step. What had that name before is replaced.
    ///
    /// # Errors
    /// If syncing or renaming fails; nothing has changed then.
    pub fn publish(mut self) -> Result<(), WriteError> {
        let file = File::open(&self.path).at("open", &self.path)?;
        if file.metadata().at("read", &self.path)?.is_dir() {
            sync_tree(&self.path)?;
        }
        file.sync_all().at("sync", &self.path)?;
        match renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::NOREPLACE) {
            Ok(()) => self.lock = None,
            // A directory cannot be renamed over a full one: swap them, and let `drop` remove the old one.
            Err(Errno::EXIST) => {
                renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE).at("replace", &self.target)?;
            }
            // A file system that knows neither of the two.
            Err(Errno::INVAL | Errno::NOSYS) => fs::rename(&self.path, &self.target).at("rename", &self.target)?,
            Err(error) => return Err(error).at("rename", &self.target),
        }
        let parent = parent_of(&self.target);
        File::open(&parent).and_then(|parent| parent.sync_all()).at("sync", &parent)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Without the lock it has been renamed away. A failure leaves a leftover that the next run sweeps.
        if self.lock.is_some() {
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    if let (Ok(parent), Some(name)) = (Dir::open(&parent_of(path)), path.file_name()) {
        drop(parent.remove(name));
    }
}

/// How the names begin of what is being made for a target.
fn prefix(target: &OsStr) -> String {
    format!(".{}.windlass-", target.to_string_lossy())
}

/// Opens a leftover for its lock: a pipe of its name, which others may have put there, would wait for a writer.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Removes what killed runs left for this target.
fn sweep(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix)
            && let Ok(file) = open(&entry.path())
            && !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
        {
            remove(&entry.path());
        }
    }
}

/// What killed runs left in a folder: stagings of any target that nobody holds.
///
/// # Errors
/// If the folder cannot be read.
pub fn leftovers(folder: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", folder)?,
    };
    let mut leftovers = Vec::new();
    for entry in entries {
        let path = entry.at("read", folder)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let process = name.strip_prefix('.').and_then(|name| name.rsplit_once(".windlass-"));
        let is_staging = process.is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
        if is_staging
            && let Ok(file) = open(&path)
            && !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
        {
            leftovers.push(path);
        }
    }
    leftovers.sort();
    Ok(leftovers)
}

fn sync_tree(directory: &Path) -> Result<(), WriteError> {
    for entry in fs::read_dir(directory).at("read", directory)? {
        let path = entry.at("read", directory)?.path();
        let kind = fs::symlink_metadata(&path).at("read", &path)?;
        if kind.is_dir() {
            sync_tree(&path)?;
        }
        if !kind.is_symlink() {
            File::open(&path).and_then(|file| file.sync_all()).at("sync", &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn staging_appears_whole_replaces_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("out");
        for text in ["one", "two"] {
            let staging = Staging::directory(&target).unwrap();
            fs::write(staging.path().join("f"), text).unwrap();
            staging.publish().unwrap();
            assert_eq!(fs::read_to_string(target.join("f")).unwrap(), text);
        }
        drop(Staging::directory(&target).unwrap());
        assert_eq!(names(directory.path()), ["out"]);
    }

    #[test]
    fn leftovers_are_swept_but_not_work_under_way() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("out");
        let (dead, alive) = (directory.path().join(".out.windlass-1"), directory.path().join(".out.windlass-2"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("half"), "x").unwrap();
        fs::write(&alive, "x").unwrap();
        let lock = File::open(&alive).unwrap();
        lock.lock().unwrap();
        let staging = Staging::file(&target).unwrap();
        assert!(!dead.exists() && alive.exists());
        drop(staging);
        drop(lock);
        drop(Staging::file(&target).unwrap());
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }
}
