//! Going through a tree of any depth with two descriptors, and without following a link.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, fchmod, statat, unlinkat};
use rustix::io::Errno;

use super::beneath::{DIRECTORY, Dir, gone, in_proc, lookup, refused};
use super::{AtPath, WriteError};

/// A place in a tree, which it moves through one directory at a time.
#[derive(Debug)]
pub(crate) struct TreeCursor {
    pub(super) here: Dir,
    /// The directories above, each with the name by which it was left, the outermost first.
    pub(super) above: Vec<((u64, u64), OsString)>,
}

impl TreeCursor {
    /// At a directory.
    pub(crate) fn at(dir: Dir) -> Self {
        Self { here: dir, above: Vec::new() }
    }

    /// At a directory in another.
    pub(super) fn enter(dir: &Dir, name: &Path) -> Result<Self, WriteError> {
        let path = dir.at(name);
        Ok(Self::at(Dir::new(enter(dir, name).at("open", &path)?, &path)))
    }

    /// Where it is.
    pub(crate) const fn dir(&self) -> &Dir {
        &self.here
    }

    /// Into a directory.
    pub(crate) fn down(&mut self, name: &OsStr) -> Result<(), WriteError> {
        let next = self.here.dir(name)?;
        self.go_down(name, next)
    }

    /// Into a new directory.
    pub(crate) fn make(&mut self, name: &OsStr, mode: u32) -> Result<(), WriteError> {
        let next = self.here.make(name, mode)?;
        self.go_down(name, next)
    }

    fn go_down(&mut self, name: &OsStr, next: Dir) -> Result<(), WriteError> {
        let id = identity(&self.here.fd).at("read", &self.here.path)?;
        self.above.push((id, name.to_owned()));
        self.here = next;
        Ok(())
    }

    /// Into a directory that is to be removed; false if it is gone.
    pub(super) fn down_to_remove(&mut self, name: &OsStr) -> Result<bool, WriteError> {
        let path = self.here.at(name);
        match enter(&self.here, Path::new(name)) {
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                // It was swapped for something else.
                gone(unlinkat(&self.here, name, AtFlags::empty())).at("remove", &path)?;
                Ok(false)
            }
            found => self.go_down(name, Dir { fd: found.at("open", &path)?, path }).map(|()| true),
        }
    }

    /// Back; the name of the directory that was left.
    pub(crate) fn up(&mut self) -> Result<OsString, WriteError> {
        let Some((expected, name)) = self.above.pop() else {
            return Err(refused(&self.here.path, "there is nothing above it"));
        };
        let path = self.here.path.parent().unwrap_or(&self.here.path).to_owned();
        let flags = DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let upper = rustix::fs::openat(&self.here.fd, "..", flags, Mode::empty()).at("open", &path)?;
        let upper = File::from(upper);
        if identity(&upper).at("read", &path)? != expected {
            return Err(refused(&self.here.path, "it was moved while it was looked at"));
        }
        self.here = Dir { fd: upper, path };
        Ok(name)
    }

    /// Removes everything here but directories, which come back.
    pub(super) fn empty(&mut self) -> Result<Vec<OsString>, WriteError> {
        let mut directories = Vec::new();
        for (name, kind) in self.here.names()? {
            if kind == FileType::Directory {
                directories.push(name);
                continue;
            }
            gone(unlinkat(&self.here, &name, AtFlags::empty())).at("remove", &self.here.at(&name))?;
        }
        Ok(directories)
    }
}

/// Calls `visit` for everything in a tree of any depth, a directory before what is in it: with the directory that it is in, its
/// name, and what it is. What goes away meanwhile is passed over.
pub(crate) fn walk(tree: Dir, visit: &mut dyn FnMut(&Dir, &OsStr, &Stat)) -> Result<(), WriteError> {
    let mut cursor = TreeCursor::at(tree);
    let mut levels = vec![visited(&cursor, visit)?];
    loop {
        match levels.last_mut().and_then(Vec::pop) {
            Some(name) => match cursor.down(&name) {
                Ok(()) => levels.push(visited(&cursor, visit)?),
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
            None if levels.len() <= 1 => return Ok(()),
            None => {
                levels.pop();
                cursor.up()?;
            }
        }
    }
}

/// The directories in one directory, the last first.
fn visited(cursor: &TreeCursor, visit: &mut dyn FnMut(&Dir, &OsStr, &Stat)) -> Result<Vec<OsString>, WriteError> {
    let mut directories = Vec::new();
    for name in cursor.dir().names()?.into_keys().rev() {
        let Some(found) = cursor.dir().look(&name)? else { continue };
        visit(cursor.dir(), &name, &found);
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            directories.push(name);
        }
    }
    Ok(directories)
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino()))
}

/// Opens a directory that is to be emptied. Read-only ones stop anybody but root.
pub(super) fn enter(dir: &Dir, name: &Path) -> rustix::io::Result<File> {
    let opened = lookup(dir, name, DIRECTORY, Mode::empty());
    if rustix::process::geteuid().is_root() {
        return opened;
    }
    let opened = match opened {
        Err(Errno::ACCESS) => {
            let place = lookup(dir, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            rustix::fs::chmod(in_proc(&place), Mode::RWXU)?;
            lookup(dir, name, DIRECTORY, Mode::empty())?
        }
        opened => opened?,
    };
    // Where that fails, so does the removal, and says what is wrong.
    fchmod(&opened, Mode::RWXU).ok();
    Ok(opened)
}

/// The names in a directory that was just opened, with what each is, by bytes. More than `most` are an error.
pub(crate) fn list(directory: impl AsFd, most: usize) -> io::Result<BTreeMap<OsString, FileType>> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    let mut names = BTreeMap::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let found = statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(found.st_mode)
            }
            kind => kind,
        };
        names.insert(OsStr::from_bytes(name).to_owned(), kind);
        if names.len() > most {
            let message = format!("it has more than {most} names, which no such directory has");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
    }
    Ok(names)
}
