//! A directory that is handled through its descriptor: no link is followed below it, and no name leads out of it.
//!
//! What lies in a store of ours, in a graph root or beside an output may have been made by another user, and may be swapped
//! while it is looked at. A path is looked up anew by every system call, so that a link put into its middle sends the call
//! elsewhere: to `chmod` by path in a tree that others can write is to `chmod` what they choose. So a name is looked up
//! once, with `openat2` (`RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`, Linux 5.6), and everything else is done with what that
//! has opened.
//!
//! A `Cursor` walks a tree of any depth with one descriptor, and without the stack: the way back is `..`, which must be the
//! directory that the walk came from.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, futimens, mkdirat, openat2, readlinkat, renameat_with,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::disk::bounded::{self, Cap};
use crate::disk::walk::{TreeCursor, list};
use crate::disk::{AtPath, WriteError};

/// Files that are not finished begin with this.
pub(crate) const TEMPORARY: &str = ".windlass-";

/// The longest attribute, and the longest list of them, that Linux knows.
const LONGEST: usize = 64 * 1024;

/// How often a path is looked up that something else disturbs (openat2(2), `EAGAIN`).
const TRIES: usize = 100;

/// An open directory, with the path that messages have for it.
#[derive(Debug)]
pub struct Dir {
    pub(super) fd: File,
    pub(super) path: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn lookup(at: impl AsFd, name: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<File> {
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for _ in 1..TRIES {
        match openat2(at.as_fd(), name, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            found => return found.map(File::from),
        }
    }
    openat2(at.as_fd(), name, flags, mode, resolve).map(File::from)
}

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

impl Dir {
    /// The directory at `path`, to which links may lead: the caller named it.
    ///
    /// # Errors
    /// If there is no such directory.
    pub fn open(path: &Path) -> Result<Self, WriteError> {
        let flags = DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).at("open", path)?;
        Ok(Self { fd: File::from(fd), path: path.to_owned() })
    }

    /// A descriptor with the path that messages have for it.
    pub(crate) fn new(fd: impl Into<File>, path: &Path) -> Self {
        Self { fd: fd.into(), path: path.to_owned() }
    }

    /// The descriptor.
    pub(crate) fn into_file(self) -> File {
        self.fd
    }

    /// What messages call it.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What messages call something in it.
    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        let name = name.as_ref();
        if name.as_os_str().is_empty() { self.path.clone() } else { self.path.join(name) }
    }

    /// Another handle of the same.
    pub(crate) fn again(&self) -> Result<Self, WriteError> {
        Ok(Self { fd: self.fd.try_clone().at("open", &self.path)?, path: self.path.clone() })
    }

    /// A directory in it.
    pub(crate) fn dir(&self, name: impl AsRef<Path>) -> Result<Self, WriteError> {
        let (name, path) = (name.as_ref(), self.at(&name));
        match lookup(self, name, DIRECTORY, Mode::empty()) {
            Err(Errno::LOOP) => Err(refused(&path, "it is a link, or a link leads to it, and none is followed here")),
            found => Ok(Self { fd: found.at("open", &path)?, path }),
        }
    }

    /// A directory in it; `None` if it does not exist.
    pub(crate) fn dir_if_there(&self, name: impl AsRef<Path>) -> Result<Option<Self>, WriteError> {
        match self.dir(name) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// A new directory in it.
    pub(crate) fn make(&self, name: impl AsRef<Path>, mode: u32) -> Result<Self, WriteError> {
        let (name, path) = (name.as_ref(), self.at(&name));
        mkdirat(self, name, Mode::from_raw_mode(mode)).at("create", &path)?;
        let made = self.dir(name)?;
        // Whatever the umask is.
        made.set_mode(mode)?;
        Ok(made)
    }

    /// A directory in it, which is made if it does not exist.
    pub(crate) fn made(&self, name: impl AsRef<Path>, mode: u32) -> Result<Self, WriteError> {
        match self.make(&name, mode) {
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => self.dir(name),
            made => made,
        }
    }

    /// What is at a name, which is not followed.
    pub(crate) fn look(&self, name: impl AsRef<Path>) -> Result<Option<Stat>, WriteError> {
        let name = name.as_ref();
        match statat(self, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            found => found.map(Some).at("read", &self.at(name)),
        }
    }

    /// What it is itself.
    pub(crate) fn stat(&self) -> Result<Stat, WriteError> {
        rustix::fs::fstat(self).at("read", &self.path)
    }

    /// A file in it, to be read. Anything else in its place is an error: to open a pipe would wait for a writer.
    pub(crate) fn file(&self, name: impl AsRef<Path>) -> Result<File, WriteError> {
        self.open_file(name.as_ref(), OFlags::RDONLY)
    }

    /// A file in it, to be read and written.
    pub(crate) fn file_to_write(&self, name: impl AsRef<Path>) -> Result<File, WriteError> {
        self.open_file(name.as_ref(), OFlags::RDWR)
    }

    fn open_file(&self, name: &Path, flags: OFlags) -> Result<File, WriteError> {
        let path = self.at(name);
        let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        let file = match lookup(self, name, flags | OFlags::NONBLOCK | OFlags::NOCTTY, mode) {
            Err(Errno::LOOP) => return Err(refused(&path, "it is a link, and none is followed here")),
            found => found.at("open", &path)?,
        };
        if !file.metadata().at("read", &path)?.is_file() {
            return Err(refused(&path, "it is not a file"));
        }
        Ok(file)
    }

    /// A new file in it.
    pub(crate) fn create(&self, name: impl AsRef<Path>) -> Result<File, WriteError> {
        let (name, path) = (name.as_ref(), self.at(&name));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        lookup(self, name, flags, Mode::RUSR | Mode::WUSR).at("create", &path)
    }

    /// A file in it, to be written, which is made if it is not there.
    pub(crate) fn file_or_new(&self, name: &str) -> Result<File, WriteError> {
        self.open_file(name.as_ref(), OFlags::WRONLY | OFlags::CREATE)
    }

    /// The bytes of a file.
    pub(crate) fn read(&self, name: impl AsRef<Path>, cap: Cap) -> Result<Vec<u8>, WriteError> {
        let path = self.at(&name);
        bounded::rest(&mut self.file(name)?, cap).at("read", &path)
    }

    /// A small file, replaced whole and durably: a reader never sees half of it.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
        let (temporary, path) = (self.finished(bytes, mode)?, self.at(name));
        let renamed = renameat_with(self, &temporary, self, name, RenameFlags::empty());
        self.settle(&temporary, renamed).at("replace", &path)?;
        self.sync()
    }

    /// The same, unless there is something already: then that stays, and the answer is false.
    pub(crate) fn add(&self, name: &str, bytes: &[u8], mode: u32) -> Result<bool, WriteError> {
        let temporary = self.finished(bytes, mode)?;
        let renamed = renameat_with(self, &temporary, self, name, RenameFlags::NOREPLACE);
        match self.settle(&temporary, renamed) {
            Err(Errno::EXIST) => return Ok(false),
            result => result.at("create", &self.at(name))?,
        }
        self.sync()?;
        Ok(true)
    }

    /// The file beside its place.
    fn finished(&self, bytes: &[u8], mode: u32) -> Result<String, WriteError> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .at("get random bytes for", &self.path)?;
        let temporary = format!("{TEMPORARY}{:016x}", u64::from_ne_bytes(random));
        let path = self.at(&temporary);
        let mut file = self.create(&temporary)?;
        let write = || -> io::Result<()> {
            file.write_all(bytes)?;
            fchmod(&file, Mode::from_raw_mode(mode))?;
            file.sync_all()
        };
        let mut write = write;
        let written = write().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        self.settle(&temporary, written).at("write", &path)?;
        Ok(temporary)
    }

    /// Takes away the file that was to be renamed, if something failed.
    fn settle<T>(&self, temporary: &str, result: rustix::io::Result<T>) -> rustix::io::Result<T> {
        if result.is_err() {
            // What failed counts, not this.
            unlinkat(self, temporary, AtFlags::empty()).ok();
        }
        result
    }

    /// A small file, which is not made durable.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
        let path = self.at(name);
        gone(unlinkat(self, name, AtFlags::empty())).at("replace", &path)?;
        let file = self.create(name)?;
        file.write_all_at(bytes, 0).at("write", &path)?;
        fchmod(&file, Mode::from_raw_mode(mode)).at("set the mode of", &path)
    }

    /// A link in it.
    pub(crate) fn link_to(&self, target: &Path, name: &str) -> Result<(), WriteError> {
        symlinkat(target, self, name).at("create", &self.at(name))
    }

    /// Where a link leads; none for anything else.
    pub(crate) fn target(&self, name: impl AsRef<Path>) -> Option<PathBuf> {
        let target = readlinkat(self, name.as_ref(), Vec::new()).ok()?;
        Some(OsString::from_vec(target.into_bytes()).into())
    }

    /// Gives something another name, which nothing has yet or which is to be replaced.
    pub(crate) fn rename(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<(), WriteError> {
        renameat_with(self, name, to, new, RenameFlags::empty()).at("rename to", &to.at(new))
    }

    /// Moves a finished directory to its place; what was there is removed.
    pub(crate) fn put(&self, name: &str, to: &Self, new: &str) -> Result<(), WriteError> {
        match renameat_with(self, name, to, new, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {
                renameat_with(self, name, to, new, RenameFlags::EXCHANGE).at("replace", &to.at(new))?;
                self.remove(name)
            }
            result => result.at("rename to", &to.at(new)),
        }
    }

    /// The names in it, with what each is, by bytes.
    pub(crate) fn names(&self) -> Result<BTreeMap<OsString, FileType>, WriteError> {
        self.few_names(usize::MAX)
    }

    /// The same of a directory in which another user makes what they like: more names than `most` are an error.
    pub(crate) fn few_names(&self, most: usize) -> Result<BTreeMap<OsString, FileType>, WriteError> {
        names(&self.fd, most).at("read", &self.path)
    }

    pub(crate) fn set_mode(&self, mode: u32) -> Result<(), WriteError> {
        fchmod(self, Mode::from_raw_mode(mode)).at("set the mode of", &self.path)
    }

    /// Makes the names in it durable.
    pub(crate) fn sync(&self) -> Result<(), WriteError> {
        self.fd.sync_all().at("sync", &self.path)
    }

    /// Its extended attributes.
    pub(crate) fn attributes(&self) -> Result<Attributes, WriteError> {
        let mut list = vec![0; LONGEST];
        let length = match flistxattr(self, &mut list[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            length => length.at("read", &self.path)?,
        };
        let mut attributes = BTreeMap::new();
        for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; LONGEST];
            let length = fgetxattr(self, name, &mut value[..]).at("read", &self.path)?;
            value.truncate(length);
            attributes.insert(name.to_owned(), value);
        }
        Ok(attributes)
    }

    /// Gives it, when everything is in it, the owner, attributes, mode and time of another directory.
    pub(crate) fn dress(&self, told: &Stat, attributes: &Attributes) -> Result<(), WriteError> {
        let (uid, gid) = (Some(Uid::from_raw(told.st_uid)), Some(Gid::from_raw(told.st_gid)));
        fchown(self, uid, gid).at("set the owner of", &self.path)?;
        for (name, value) in attributes {
            fsetxattr(self, &name[..], value, XattrFlags::empty()).at("set an attribute of", &self.path)?;
        }
        self.set_mode(told.st_mode & 0o7777)?;
        self.stamp(told.st_mtime, told.st_mtime_nsec.try_into().unwrap_or(0))
    }

    /// Sets its modification time.
    pub(crate) fn stamp(&self, seconds: i64, nanos: i64) -> Result<(), WriteError> {
        futimens(self, &times(seconds, nanos)).at("set the time of", &self.path)
    }

    /// Gives something in it to others; a link itself, not what it leads to.
    pub(crate) fn give(&self, name: &OsStr, (uid, gid): (u32, u32)) -> Result<(), WriteError> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(self, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).at("set the owner of", &self.at(name))
    }

    /// Removes a file or a tree of any depth; nothing there is as good. What links in it lead to stays.
    pub(crate) fn remove(&self, name: impl AsRef<Path>) -> Result<(), WriteError> {
        let name = name.as_ref();
        let Some(found) = self.look(name)? else { return Ok(()) };
        let path = self.at(name);
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return gone(unlinkat(self, name, AtFlags::empty())).at("remove", &path);
        }
        let mut cursor = TreeCursor::enter(self, name)?;
        // The directories that are still to be emptied, level by level.
        let mut levels = vec![cursor.empty()?];
        loop {
            if let Some(next) = levels.last_mut().and_then(Vec::pop) {
                if cursor.down_to_remove(&next)? {
                    levels.push(cursor.empty()?);
                }
                continue;
            }
            levels.pop();
            if levels.is_empty() {
                return gone(unlinkat(self, name, AtFlags::REMOVEDIR)).at("remove", &path);
            }
            let name = cursor.up()?;
            gone(unlinkat(cursor.dir(), &name, AtFlags::REMOVEDIR)).at("remove", &cursor.dir().at(&name))?;
        }
    }

    /// Whether only `owner` can change what is in it, or why not.
    pub(crate) fn is_private_to(&self, owner: u32) -> Result<(), WriteError> {
        let found = self.stat()?;
        is_private_to(&found, owner).map_err(|why| refused(&self.path, &why))
    }
}

/// Extended attributes by their names.
pub(crate) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// Whether only `owner` can change something, or why not.
pub(crate) fn is_private_to(found: &Stat, owner: u32) -> Result<(), String> {
    if found.st_uid != owner {
        return Err(format!("it belongs to user {}, and must belong to user {owner}", found.st_uid));
    }
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink && found.st_mode & 0o022 != 0 {
        return Err(format!("users other than {owner} can write to it (mode {:04o})", found.st_mode & 0o7777));
    }
    Ok(())
}

/// What is not used because of what it is.
pub(crate) fn refused(path: &Path, why: &str) -> WriteError {
    WriteError { action: "use", path: path.to_owned(), source: io::Error::new(io::ErrorKind::InvalidInput, why) }
}

/// What is gone already was to be removed.
pub(super) fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if result == Err(Errno::NOENT) { Ok(()) } else { result }
}

fn times(tv_sec: i64, tv_nsec: i64) -> Timestamps {
    let time = Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: time, last_modification: time }
}

/// The path by which system calls that know no descriptors find an open file.
pub(crate) fn in_proc(file: impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(file.as_fd().as_raw_fd().to_string())
}

fn names(directory: &File, most: usize) -> io::Result<BTreeMap<OsString, FileType>> {
    // A descriptor of its own, because reading moves it.
    list(&lookup(directory, Path::new("."), DIRECTORY, Mode::empty())?, most)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn no_link_is_followed_and_no_name_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        for path in [&inside, &outside] {
            fs::create_dir(path).unwrap();
        }
        fs::write(outside.join("file"), "kept").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink("link", inside.join("again")).unwrap();
        symlink(outside.join("file"), inside.join("file")).unwrap();
        let dir = Dir::open(&inside).unwrap();
        for name in ["link", "again", "link/file", "..", "../out", "/", "file"] {
            assert!(dir.dir(name).is_err() && dir.file(name).is_err(), "{name}");
        }
        let said = dir.dir("link").unwrap_err().to_string();
        assert!(said.ends_with("in/link: it is a link, or a link leads to it, and none is followed here"), "{said}");
        for name in ["link", "again", "file"] {
            dir.remove(name).unwrap();
        }
        assert_eq!((dir.names().unwrap().len(), fs::read_to_string(outside.join("file")).unwrap()), (0, "kept".into()));
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        let mut cursor = TreeCursor::at(dir.make("deep", 0o755).unwrap());
        for _ in 0..3000 {
            cursor.here.write("file", b"x", 0o444).unwrap();
            cursor.here.link_to(Path::new("/"), "link").unwrap();
            drop(cursor.here.make("d", 0o755).unwrap());
            cursor.down(OsStr::new("d")).unwrap();
        }
        assert_eq!(cursor.above.len(), 3000);
        for _ in 0..3000 {
            assert_eq!(cursor.up().unwrap(), "d");
        }
        assert!(cursor.up().is_err());
        fs::set_permissions(folder.path().join("deep/d/d"), PermissionsExt::from_mode(0o000)).unwrap();
        dir.remove("deep").unwrap();
        assert_eq!(dir.names().unwrap().len(), 0);
        dir.remove("deep").unwrap();
    }

    #[test]
    fn a_directory_that_was_moved_away_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        drop(dir.make("a", 0o755).unwrap().make("b", 0o755).unwrap());
        drop(dir.make("other", 0o755).unwrap());
        let mut cursor = TreeCursor::at(dir.dir("a").unwrap());
        cursor.down(OsStr::new("b")).unwrap();
        fs::rename(folder.path().join("a/b"), folder.path().join("other/b")).unwrap();
        let said = cursor.up().unwrap_err().to_string();
        assert!(said.ends_with("a/b: it was moved while it was looked at"), "{said}");
    }
}
