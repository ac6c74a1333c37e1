//! The members of an archive, put into a tree: the second half of [`super::unpack`]. Everything is done with descriptors below
//! the tree's own root, and no path leads out of it ([`super::rooted_path`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crc_fast::CrcAlgorithm::Crc64GoIso;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fsetxattr, fstat, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::rooted_path::{TreeRoot, in_proc};
use super::unpack::{ArchiveStream, OPAQUE, UnpackError, WHITEOUT, is_ignored};
use crate::disk::beneath::Dir;
use crate::disk::pipe::PipeError;
use crate::disk::{AtPath, WriteError};
use crate::layer::MTIME;
use crate::layer::tar_reader::{Sparse, TarMember, TarMemberKind, clean};
use crate::podman::storage::tar_split::sum_of_file;

/// Bytes of all holes of a layer: they cost an attacker nothing, and a copy of the layer reads them all.
const LARGEST: u64 = 1 << 40;

/// Deeper than any image is: what removes a tree needs a descriptor for each level.
const DEEPEST: usize = 256;
/// Bytes of the paths that are kept in memory until the end, those of directories and whiteouts.
const MOST_PATHS: usize = 256 << 20;

/// A directory that members are put into.
struct Parent {
    directory: File,
    /// Where it is, without links.
    real: PathBuf,
}

/// What directories get when everything is in them.
struct Directory {
    mode: u32,
    mtime: (i64, i64),
    /// Whether the archive has it, and it was not only made for what is in it.
    is_told: bool,
}

/// A tree that is being made.
pub(crate) struct UnpackedTree {
    /// What messages call it.
    tree: PathBuf,
    root: TreeRoot,
    is_root: bool,
    directories: BTreeMap<PathBuf, Directory>,
    whiteouts: BTreeSet<PathBuf>,
    last: Option<(PathBuf, Rc<Parent>)>,
    /// Bytes of the paths in the two above.
    paths: usize,
    /// Bytes of holes so far.
    holes: u64,
    /// How many files were written.
    pub(crate) files: u64,
}

impl UnpackedTree {
    pub(crate) fn new(dir: Dir) -> Result<Self, WriteError> {
        let tree = dir.path().to_owned();
        let root = TreeRoot::of(dir).at("open", &tree)?;
        // As containers-storage makes it; no member describes it, usually.
        let top = Directory { mode: 0o555, mtime: (MTIME.cast_signed(), 0), is_told: false };
        Ok(Self {
            tree,
            root,
            is_root: geteuid().is_root(),
            directories: BTreeMap::from([(PathBuf::new(), top)]),
            whiteouts: BTreeSet::new(),
            last: None,
            paths: 0,
            holes: 0,
            files: 0,
        })
    }

    /// Puts a member into it, with its content.
    pub(crate) fn member(&mut self, member: &TarMember, stream: &mut ArchiveStream<'_>) -> Result<(), UnpackError> {
        let path = member.path();
        let Some(name) = path.file_name() else { return self.top(member, stream) };
        let parent = match self.parent(path.parent().unwrap_or(Path::new(""))) {
            Ok(parent) => parent,
            // What is in a directory that is gone is gone with it.
            Err(error) if is_whiteout(name) && error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {
                stream.skip(member.size)?;
                return Ok(stream.record.member(path.as_os_str().as_bytes(), None)?);
            }
            Err(error) => return Err(bad(member, error)),
        };
        let real = parent.real.join(name);
        let told = |error: Errno| bad(member, error.into());
        if is_whiteout(name) {
            stream.skip(member.size)?;
            self.whiteout(member, &parent, name)?;
            return Ok(stream.record.member(real.as_os_str().as_bytes(), None)?);
        }
        if member.kind == TarMemberKind::File {
            // Most places are free, which a new file finds out by itself.
            let file = match create(member, &parent.directory, name) {
                Err(Errno::EXIST) => {
                    self.make_room(member, &parent, name, &real)?;
                    create(member, &parent.directory, name)
                }
                file => file,
            };
            let file = file.map_err(told)?;
            self.files += 1;
            self.fill(&file, member, &real, stream)?;
            return self.describe_file(&file, member, &real);
        }
        self.make_room(member, &parent, name, &real)?;
        self.make(member, &parent, name, &real, stream)?;
        self.describe(member, &parent, name, &real)
    }

    /// Looks whether the place of a member is free. It may be that of something that was removed, or of a directory that was made for
    /// what is in it.
    fn make_room(&mut self, member: &TarMember, parent: &Parent, name: &OsStr, real: &Path) -> Result<(), UnpackError> {
        let told = |error: Errno| bad(member, error.into());
        match statat(&parent.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(told(error)),
            Ok(found) => {
                let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
                if self.whiteouts.remove(&parent.real.join(OsString::from_vec([WHITEOUT, name.as_bytes()].concat()))) {
                    return unlinkat(&parent.directory, name, AtFlags::empty()).map_err(told);
                }
                if !is_directory
                    || member.kind != TarMemberKind::Directory
                    || self.directories.get(real).is_none_or(|directory| directory.is_told)
                {
                    return Err(UnpackError::Twice { path: shown(real) });
                }
                Ok(())
            }
        }
    }

    /// Makes what a member is that is no file, and writes the record of it.
    fn make(
        &mut self,
        member: &TarMember,
        parent: &Parent,
        name: &OsStr,
        real: &Path,
        stream: &mut ArchiveStream<'_>,
    ) -> Result<(), UnpackError> {
        let told = |error: Errno| bad(member, error.into());
        let directory = &parent.directory;
        let is_root = self.is_root;
        let device = |kind, major, minor| {
            if !is_root && (major, minor) != (0, 0) {
                return Err(UnpackError::OnlyRoot { path: shown(real), what: "is a device".to_owned() });
            }
            mknodat(directory, name, kind, Mode::from_raw_mode(0o600), makedev(major, minor)).map_err(told)
        };
        match &member.kind {
            TarMemberKind::Directory => {
                if !self.directories.contains_key(real) {
                    mkdirat(directory, name, Mode::RWXU).map_err(told)?;
                }
                let TarMember { mode, mtime, .. } = *member;
                self.keep(real).map_err(|error| bad(member, error))?;
                self.directories.insert(real.to_owned(), Directory { mode, mtime, is_told: true });
            }
            TarMemberKind::Symlink(target) => symlinkat(OsStr::from_bytes(target), directory, name).map_err(told)?,
            TarMemberKind::Link(target) => self.link(target, directory, name).map_err(|error| {
                let why = format!("it is a link to {}: {error}", String::from_utf8_lossy(target));
                UnpackError::Member { path: shown(real), why }
            })?,
            TarMemberKind::Fifo => device(FileType::Fifo, 0, 0)?,
            TarMemberKind::Character(major, minor) => device(FileType::CharacterDevice, *major, *minor)?,
            TarMemberKind::Block(major, minor) => device(FileType::BlockDevice, *major, *minor)?,
            TarMemberKind::File => {}
        }
        Ok(stream.record.member(real.as_os_str().as_bytes(), None)?)
    }

    /// Another name for a file that is there already.
    fn link(&mut self, target: &[u8], directory: &File, name: &OsStr) -> io::Result<()> {
        let target = clean(target);
        let (parent, file) = target.parent().zip(target.file_name()).ok_or(io::ErrorKind::IsADirectory)?;
        let (from, _) = self.root.directory(parent)?;
        Ok(linkat(from, file, directory, name, AtFlags::empty())?)
    }

    fn fill(
        &mut self,
        file: &File,
        member: &TarMember,
        real: &Path,
        stream: &mut ArchiveStream<'_>,
    ) -> Result<(), UnpackError> {
        let disk = self.tree.join(real);
        let name = real.as_os_str().as_bytes();
        if let Some(Sparse { size, map }) = &member.sparse {
            self.holes = self.holes.saturating_add(size.saturating_sub(member.size));
            if self.holes > LARGEST {
                return Err(bad(member, io::ErrorKind::FileTooLarge.into()));
            }
            for (offset, length) in map {
                let mut at = *offset;
                stream.content(*length, &mut |part, record| {
                    record.segment(part)?;
                    file.write_all_at(part, at).at("write", &disk)?;
                    at += part.len() as u64;
                    Ok(())
                })?;
            }
            file.set_len(*size).at("write", &disk)?;
            stream.padding(member.size)?;
            stream.progress.count_written(member.size);
            let sum = sum_of_file(file, *size, stream.progress).map_err(|error| match error {
                PipeError::Read(error) | PipeError::Write(error) => error,
            });
            return Ok(stream.record.with_holes(name, sum.at("read", &disk)?)?);
        }
        let mut crc = crc_fast::Digest::new(Crc64GoIso);
        stream.write(member.size, (file, &disk), &mut |part| crc.update(part))?;
        stream.progress.count_written(member.size);
        stream.record.member(name, (member.size > 0).then(|| (member.size, crc.finalize())))?;
        stream.padding(member.size)
    }

    /// Owner, attributes, mode and time of a file, as far as it does not have them since it was made.
    fn describe_file(&self, file: &File, member: &TarMember, real: &Path) -> Result<(), UnpackError> {
        let disk = self.tree.join(real);
        let (uid, gid) = self.owner(member, real)?;
        let found = fstat(file).at("read", &disk)?;
        if self.is_root && (found.st_uid, found.st_gid) != (uid, gid) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchown(file, uid, gid).at("set the owner of", &disk)?;
        }
        self.attributes(member, real, &|key, value| fsetxattr(file, key, value, XattrFlags::empty()))?;
        if found.st_mode & 0o7777 != member.mode {
            fchmod(file, Mode::from_raw_mode(member.mode)).at("set the mode of", &disk)?;
        }
        Ok(futimens(file, &times(member.mtime, false)).at("set the time of", &disk)?)
    }

    fn attributes(
        &self,
        member: &TarMember,
        real: &Path,
        set: &dyn Fn(&OsStr, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), UnpackError> {
        for (key, value) in member.xattrs.iter().filter(|(key, _)| !is_ignored(key)) {
            let name = String::from_utf8_lossy(key);
            match set(OsStr::from_bytes(key), value) {
                // One that another file system has (`system.nfs4_acl`, from an image that was made on NFS): Podman passes over
                // it as well (containers-storage, *createTarFile*), and the record gives it back when the layer is saved.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(Errno::PERM) if !self.is_root => {
                    return Err(UnpackError::OnlyRoot { path: shown(real), what: format!("has the attribute {name}") });
                }
                Err(error) => {
                    let why = format!("its attribute {name}: {}", io::Error::from(error));
                    return Err(UnpackError::Member { path: shown(real), why });
                }
            }
        }
        Ok(())
    }

    /// Owner, attributes, mode and time of all else. Those of directories wait until everything is in them.
    fn describe(&self, member: &TarMember, parent: &Parent, name: &OsStr, real: &Path) -> Result<(), UnpackError> {
        let (directory, disk) = (&parent.directory, self.tree.join(real));
        self.give(member, directory, name, real)?;
        self.attributes(member, real, &|key, value| {
            lsetxattr(in_proc(directory).join(name), key, value, XattrFlags::empty())
        })?;
        let is_link = match member.kind {
            TarMemberKind::Directory => return Ok(()),
            TarMemberKind::Symlink(_) => true,
            TarMemberKind::Link(_) => {
                let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).at("read", &disk)?;
                FileType::from_raw_mode(found.st_mode) == FileType::Symlink
            }
            _ => false,
        };
        if !is_link {
            chmodat(directory, name, Mode::from_raw_mode(member.mode), AtFlags::empty())
                .at("set the mode of", &disk)?;
        }
        // A second name for a link leaves the link as it is.
        if matches!(member.kind, TarMemberKind::Link(_)) && is_link {
            return Ok(());
        }
        let times = times(member.mtime, is_link);
        Ok(utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", &disk)?)
    }

    /// The owner that a member gets, on the host.
    fn owner(&self, member: &TarMember, real: &Path) -> Result<(u32, u32), UnpackError> {
        let ids = u32::try_from(member.uid).ok().zip(u32::try_from(member.gid).ok()).filter(|ids| {
            // -1 stands for no change.
            (self.is_root || *ids == (0, 0)) && ids.0 != u32::MAX && ids.1 != u32::MAX
        });
        ids.ok_or_else(|| {
            let what = format!("belongs to user {} and group {}", member.uid, member.gid);
            UnpackError::OnlyRoot { path: shown(real), what }
        })
    }

    fn give(&self, member: &TarMember, directory: &File, name: &OsStr, real: &Path) -> Result<(), UnpackError> {
        let (uid, gid) = self.owner(member, real)?;
        // For anybody but root, root in the image is themselves, as in a rootless container.
        if self.is_root {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .at("set the owner of", &self.tree.join(real))?;
        }
        Ok(())
    }

    /// Marks something as removed from the layers below.
    fn whiteout(&mut self, member: &TarMember, parent: &Parent, name: &OsStr) -> Result<(), UnpackError> {
        let told = |error: Errno| bad(member, error.into());
        let (directory, real) = (&parent.directory, parent.real.join(name));
        self.keep(&real).map_err(|error| bad(member, error))?;
        if !self.whiteouts.insert(real.clone()) {
            return Err(UnpackError::Twice { path: shown(&real) });
        }
        if name.as_bytes() == OPAQUE {
            // What overlay reads for root, and in a user namespace.
            let key = if self.is_root { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
            return lsetxattr(in_proc(directory).join("."), key, b"y", XattrFlags::empty()).map_err(told);
        }
        let gone = OsStr::from_bytes(name.as_bytes().strip_prefix(WHITEOUT).unwrap_or_default());
        if gone.is_empty() || gone == "." || gone == ".." {
            return Err(bad(member, io::ErrorKind::InvalidFilename.into()));
        }
        match mknodat(directory, gone, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
            Err(Errno::EXIST) => Err(UnpackError::Twice { path: shown(&parent.real.join(gone)) }),
            Err(error) => Err(told(error)),
            Ok(()) => self.give(member, directory, gone, &real),
        }
    }

    /// A member that is the root directory itself.
    fn top(&mut self, member: &TarMember, stream: &mut ArchiveStream<'_>) -> Result<(), UnpackError> {
        if member.kind != TarMemberKind::Directory {
            return Err(bad(member, io::ErrorKind::IsADirectory.into()));
        }
        let TarMember { mode, mtime, .. } = *member;
        let top = self.directories.entry(PathBuf::new()).or_insert(Directory { mode, mtime, is_told: false });
        if std::mem::replace(&mut top.is_told, true) {
            return Err(UnpackError::Twice { path: "/".to_owned() });
        }
        if member.is_root() {
            (top.mode, top.mtime) = (mode, mtime);
            let (directory, real) = self.root.directory(Path::new("")).at("open", &self.tree)?;
            let parent = Parent { directory, real };
            self.describe(member, &parent, OsStr::new("."), Path::new(""))?;
        }
        Ok(stream.record.member(b"./", None)?)
    }

    /// The directory that a member is put into; made where the archive has not told of it yet.
    fn parent(&mut self, path: &Path) -> io::Result<Rc<Parent>> {
        if let Some((last, parent)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(parent));
        }
        let (directory, real) = match self.root.directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_parents(path)?,
            result => result?,
        };
        // A link can lead deeper than the name itself is.
        check_depth(&real)?;
        let parent = Rc::new(Parent { directory, real });
        self.last = Some((path.to_owned(), Rc::clone(&parent)));
        Ok(parent)
    }

    /// Counts a path that is kept until the end.
    fn keep(&mut self, path: &Path) -> io::Result<()> {
        self.paths += path.as_os_str().len() + 128;
        if self.paths > MOST_PATHS {
            return Err(io::Error::other("the layer has more directories than any real one"));
        }
        Ok(())
    }

    fn make_parents(&mut self, path: &Path) -> io::Result<(File, PathBuf)> {
        check_depth(path)?;
        let (mut at, mut upper) = (PathBuf::new(), self.root.directory(Path::new(""))?);
        for name in path {
            at.push(name);
            upper = match self.root.directory(&at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let real = upper.1.join(name);
                    // A link that leads nowhere is there, and is not made a directory.
                    mkdirat(&upper.0, name, Mode::RWXU)?;
                    let group = self.directories.get(&upper.1).map_or(0, |upper| upper.mode & 0o2000);
                    let told = Directory { mode: 0o755 | group, mtime: (MTIME.cast_signed(), 0), is_told: false };
                    if self.is_root {
                        chownat(&upper.0, name, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW)?;
                    }
                    self.keep(&real)?;
                    self.directories.insert(real, told);
                    self.root.directory(&at)?
                }
                result => result?,
            };
        }
        Ok(upper)
    }

    /// Modes and times of directories, the inner ones first.
    pub(crate) fn finish(&self) -> Result<(), WriteError> {
        for (path, directory) in self.directories.iter().rev() {
            let disk = self.tree.join(path);
            let (open, _) = self.root.directory(path).at("open", &disk)?;
            let mode = Mode::from_raw_mode(directory.mode);
            chmodat(&open, ".", mode, AtFlags::empty()).at("set the mode of", &disk)?;
            utimensat(&open, ".", &times(directory.mtime, false), AtFlags::empty()).at("set the time of", &disk)?;
        }
        Ok(())
    }
}

/// A new file, whose place must be free. It has the mode that it will have, but for the bits that give power and what a umask takes away.
fn create(member: &TarMember, directory: &File, name: &OsStr) -> rustix::io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::from_raw_mode(member.mode & 0o777)).map(File::from)
}

/// What containers-storage sets: nothing but a link is older than 1970.
fn times((seconds, nanos): (i64, i64), is_link: bool) -> Timestamps {
    let (tv_sec, tv_nsec) = if seconds < 0 && !is_link { (0, 0) } else { (seconds, nanos) };
    let time = Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: time, last_modification: time }
}

fn check_depth(path: &Path) -> io::Result<()> {
    if path.components().count() > DEEPEST {
        return Err(io::Error::other(format!("it is more than {DEEPEST} directories deep")));
    }
    Ok(())
}

fn is_whiteout(name: &OsStr) -> bool {
    name.as_bytes().starts_with(WHITEOUT)
}

fn bad(member: &TarMember, error: io::Error) -> UnpackError {
    UnpackError::Member { path: String::from_utf8_lossy(&member.name).into_owned(), why: error.to_string() }
}

/// A path as it is in the image.
fn shown(path: &Path) -> String {
    format!("/{}", path.display())
}
