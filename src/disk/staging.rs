//! Files and directories that appear whole or not at all.
//!
//! The directory beside which something is made may be one that others can write (`--output /tmp/…`). So what is made is
//! handled through its descriptor and that of its directory, and until it has its name no other user opens it: a user who could
//! open it could lock it.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::mem;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::files::parent_of;
use super::{AtPath, WriteError};
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::walk::walk;

/// A file or directory that is not yet under its final name. Dropped without [`publish`](Self::publish), it is removed.
#[derive(Debug)]
pub(crate) struct Staging {
    /// Where it is made.
    parent: Dir,
    name: String,
    /// Where to write.
    path: PathBuf,
    target: PathBuf,
    /// What is made; locked while this run lives, so that another run can tell a leftover from work under way.
    made: Option<File>,
}

impl Staging {
    /// A new directory beside `target`.
    ///
    /// # Errors
    /// If the parent of `target` cannot be written to.
    pub(crate) fn directory(target: &Path) -> Result<Self, WriteError> {
        Self::new(target, true)
    }

    /// A new directory in one that is open.
    ///
    /// # Errors
    /// If that cannot be written to.
    pub(crate) fn directory_in(parent: &Dir, name: &str) -> Result<Self, WriteError> {
        Self::beside(parent.again()?, name.as_ref(), true)
    }

    /// A new empty file in a directory that is open.
    ///
    /// # Errors
    /// If that cannot be written to.
    pub(crate) fn file_in(parent: &Dir, name: &str) -> Result<Self, WriteError> {
        Self::beside(parent.again()?, name.as_ref(), false)
    }

    /// A new empty file beside `target`.
    ///
    /// # Errors
    /// If the parent of `target` cannot be written to.
    pub(crate) fn file(target: &Path) -> Result<Self, WriteError> {
        Self::new(target, false)
    }

    /// Removes what killed runs have left for `target`. Making one does that too.
    pub(crate) fn sweep(target: &Path) {
        if let (Some(name), Ok(parent)) = (target.file_name(), Dir::open(&parent_of(target))) {
            sweep(&parent, &prefix(name));
        }
    }

    fn new(target: &Path, directory: bool) -> Result<Self, WriteError> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput).at("write to", target)?;
        Self::beside(Dir::open(&parent_of(target))?, name, directory)
    }

    fn beside(parent: Dir, target: &OsStr, directory: bool) -> Result<Self, WriteError> {
        let prefix = prefix(target);
        sweep(&parent, &prefix);
        // Taken by process number: of two threads that want the same target one is wrong anyway, and is told so.
        let name = format!("{prefix}{}", std::process::id());
        let made = if directory { parent.make(&name, 0o700)?.into_file() } else { parent.create(&name)? };
        let path = parent.at(&name);
        made.lock().at("lock", &path)?;
        let ours = made.metadata().at("read", &path)?;
        if parent.look(&name)?.is_none_or(|named| (named.st_dev, named.st_ino) != (ours.dev(), ours.ino())) {
            // Between making and locking it, another run took it for a leftover.
            return Self::beside(parent, target, directory);
        }
        let target = parent.at(target);
        Ok(Self { parent, name, path, target, made: Some(made) })
    }

    /// Where to write.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that is made, open.
    ///
    /// # Errors
    /// If it is not there any more.
    pub(crate) fn dir(&self) -> Result<Dir, WriteError> {
        self.parent.dir(&self.name)
    }

    /// Makes what was written durable and gives it its final name, in one step. What had that name before is replaced; the
    /// mode of a file that is replaced stays, and anything new has the mode that the umask leaves.
    ///
    /// # Errors
    /// If syncing or renaming fails; nothing has changed then.
    pub(crate) fn publish(mut self) -> Result<(), WriteError> {
        let Some(name) = self.target.file_name() else { return Ok(()) };
        let Some(made) = self.made.take() else { return Ok(()) };
        let result = self.give_name(&made, name);
        if result.is_err() || self.parent.look(&self.name).is_ok_and(|left| left.is_some()) {
            // `drop` removes it, or what it has replaced.
            self.made = Some(made);
        }
        result
    }

    fn give_name(&self, made: &File, name: &OsStr) -> Result<(), WriteError> {
        let is_directory = made.metadata().at("read", &self.path)?.is_dir();
        if is_directory {
            sync_tree(&self.parent.dir(&self.name)?)?;
        }
        // One that was set on purpose stays.
        let private = if is_directory { 0o700 } else { 0o600 };
        if made.metadata().at("read", &self.path)?.mode() & 0o7777 == private {
            let before = self.parent.look(name)?.filter(|_| !is_directory);
            let before = before.filter(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
            let all = if is_directory { 0o777 } else { 0o666 };
            let mode = before.map_or_else(|| all & !umask(), |found| found.st_mode & 0o777);
            made.set_permissions(fs::Permissions::from_mode(mode)).at("set the mode of", &self.path)?;
        }
        made.sync_all().at("sync", &self.path)?;
        let rename = |flags| renameat_with(&self.parent, &self.name, &self.parent, name, flags);
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // A directory cannot be renamed over a full one: swap them, and let `drop` remove the old one.
            Err(Errno::EXIST) => rename(RenameFlags::EXCHANGE).at("replace", &self.target)?,
            // A file system that knows neither of the two.
            Err(Errno::INVAL | Errno::NOSYS) => rename(RenameFlags::empty()).at("rename", &self.target)?,
            Err(error) => return Err(error).at("rename", &self.target),
        }
        self.parent.sync()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A failure leaves a leftover that the next run sweeps.
        if self.made.is_some() {
            drop(self.parent.remove(&self.name));
        }
    }
}

/// What the umask keeps from new files; asked of /proc, because the system call for it changes it, for all threads.
fn umask() -> u32 {
    let status = bounded::text(Path::new("/proc/self/status"), Cap::List).unwrap_or_default();
    let said = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    said.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

/// How the names begin of what is being made for a target.
fn prefix(target: &OsStr) -> String {
    format!(".{}.windlass-", target.to_string_lossy())
}

/// Whether no process holds the lock of something in a directory. A pipe, which others may have put there, is not one of ours.
fn is_free(parent: &Dir, name: &OsStr) -> bool {
    let found = parent.file(name).or_else(|_| parent.dir(name).map(Dir::into_file));
    found.is_ok_and(|file| !matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Removes what killed runs left for this target.
fn sweep(parent: &Dir, prefix: &str) {
    for name in parent.names().unwrap_or_default().into_keys() {
        if name.to_string_lossy().starts_with(prefix) && is_free(parent, &name) {
            drop(parent.remove(&name));
        }
    }
}

/// What killed runs left in a folder: stagings of any target that no process holds.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn leftovers(folder: &Path) -> Result<Vec<PathBuf>, WriteError> {
    match Dir::open(folder) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        parent => leftovers_in(&parent?),
    }
}

/// The same in a folder that is open.
pub(crate) fn leftovers_in(parent: &Dir) -> Result<Vec<PathBuf>, WriteError> {
    let is_staging = |name: &OsStr| {
        let name = name.to_string_lossy();
        let process = name.strip_prefix('.').and_then(|name| name.rsplit_once(".windlass-"));
        process.is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let names = parent.names()?.into_keys().filter(|name| is_staging(name) && is_free(parent, name));
    Ok(names.map(|name| parent.at(name)).collect())
}

/// Files that are open at once to be made durable.
const SYNCED_AT_ONCE: usize = 64;
/// Threads that wait for the disk then: what several ask for at the same time, a journal writes in one step.
const WAITING_FOR_DISK: usize = 8;

/// Makes everything below a directory durable.
fn sync_tree(directory: &Dir) -> Result<(), WriteError> {
    let mut result = Ok(());
    let mut open: Vec<(File, PathBuf)> = Vec::new();
    walk(directory.again()?, &mut |here, name, found| {
        let opened = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => here.file(name),
            FileType::Directory => here.dir(name).map(Dir::into_file),
            _ => return,
        };
        let synced = opened.and_then(|file| {
            open.push((file, here.at(name)));
            if open.len() < SYNCED_AT_ONCE { Ok(()) } else { sync_all(&mem::take(&mut open)) }
        });
        if result.is_ok() {
            result = synced;
        }
    })?;
    result.and_then(|()| sync_all(&open))
}

fn sync_all(files: &[(File, PathBuf)]) -> Result<(), WriteError> {
    let sync = |part: &[(File, PathBuf)]| part.iter().try_for_each(|(file, path)| file.sync_all().at("sync", path));
    std::thread::scope(|scope| {
        let parts = files.chunks(files.len().div_ceil(WAITING_FOR_DISK).max(1));
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || sync(part))).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ends.collect::<Vec<_>>().into_iter().collect()
    })
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
    fn what_is_new_is_open_as_the_umask_says_and_what_is_replaced_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let (file, tree) = (directory.path().join("file"), directory.path().join("tree"));
        fs::write(directory.path().join("like"), "").unwrap();
        fs::create_dir(directory.path().join("likewise")).unwrap();
        for (target, is_directory, like) in [(&file, false, "like"), (&tree, true, "likewise")] {
            let staging = Staging::new(target, is_directory).unwrap();
            assert_eq!(mode(staging.path()) & 0o077, 0);
            staging.publish().unwrap();
            assert_eq!(mode(target), mode(&directory.path().join(like)));
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        Staging::file(&file).unwrap().publish().unwrap();
        assert_eq!(mode(&file), 0o640);
        assert_eq!(names(directory.path()), ["file", "like", "likewise", "tree"]);
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
