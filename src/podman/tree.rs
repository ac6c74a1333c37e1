//! The tree that a layer's archive unpacks to, made without reading the files: hard links to the Nix store.
//!
//! How a file gets into the tree:
//!
//! 1. *Linked*, if Nix vouches for it (in the store, modification time 1, not writable) and its mode and owner are the
//!    layer's. NixOS mounts /nix/store read-only over itself, and link(2) refuses to cross mounts even on one file
//!    system (`EXDEV`); a view of its own sees the file system without that mount.
//! 2. *Shared* (reflink), where it cannot be linked: another owner or mode, a file that is not of the store, or one that
//!    has all the links its file system allows (`EMLINK`, 65,000 on ext4).
//! 3. *Copied*, where the file system cannot share.
//!
//! A file with the set-user-ID or set-group-ID bit is none of these: every user of the host could run it from here.
//!
//! What is linked is not read. Where Nix does not vouch for a file, the tree must be compared with the layer's digest
//! afterwards: [`Placed::vouched`]. The tree's tar-split record is written along ([`super::tar_split`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, linkat, utimensat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{getegid, geteuid};

use super::tar_split;
use crate::blobs::{At, Output, Verify, WriteError, is_untouched};
use crate::layer::{Checksums, Content, Entry, Kind, LayerError, MTIME, Member, Recipe, TRAILER, header, padding};
use crate::pipe::{PipeError, Readers};
use crate::progress::Progress;

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The layer's own content cannot be had.
    #[error("{0}")]
    Layer(#[from] LayerError),
    /// The place that is written to.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// The recipe gives other files than when the layer was built.
    #[error("it has other files than when it was built")]
    Changed,
    /// Every user of the host could run it as its owner: the linked store is open to all, Podman's own is not.
    #[error(
        "{path} has the set-user-ID or set-group-ID bit, and the linked store is open to every user of this host; load with `--via podman`"
    )]
    SetId {
        /// The path in the layer.
        path: String,
    },
    /// Only root can give files to others.
    #[error(
        "{path} belongs to user {uid} and group {gid}, and only root can make such files; load with `--via podman`"
    )]
    Owner {
        /// The path in the layer.
        path: String,
        /// Its owner.
        uid: u64,
        /// Its group.
        gid: u64,
    },
}

/// What a tree is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// Bytes of the layer's archive.
    pub size: u64,
    /// Files that are hard links to the store.
    pub linked: u64,
    /// Files that are copies, whether their data is shared or not.
    pub copied: u64,
    /// The owners of its members.
    pub uids: BTreeSet<u64>,
    /// Their groups.
    pub gids: BTreeSet<u64>,
    /// Whether the Nix store vouches for every file.
    pub vouched: bool,
}

/// A directory of the host, with everything below it on the same file system and nothing that is mounted over it.
#[derive(Debug)]
struct View {
    tree: OwnedFd,
    at: PathBuf,
}

impl View {
    /// The same file as at `path`, without what is mounted on the way. `None` outside of the view.
    fn path(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.at).ok()?;
        Some(Path::new("/proc/self/fd").join(self.tree.as_raw_fd().to_string()).join(below))
    }
}

/// The views that one storage directory needs; made when they are asked for.
#[derive(Debug)]
pub struct Views {
    storage: PathBuf,
    views: Mutex<BTreeMap<PathBuf, Option<Arc<View>>>>,
}

impl Views {
    /// For a storage directory, by its canonical path.
    #[must_use]
    pub fn new(storage: &Path) -> Self {
        Self { storage: storage.to_owned(), views: Mutex::default() }
    }

    /// A view in which both the storage directory and `source` are, if the kernel gives one (5.2, `CAP_SYS_ADMIN`).
    fn of(&self, source: &Path) -> Option<Arc<View>> {
        let shared = source.components().zip(self.storage.components()).take_while(|(one, two)| one == two);
        let at: PathBuf = shared.map(|(component, _)| component).collect();
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let view = View { tree: open_tree(CWD, &at, flags).ok()?, at: at.clone() };
            let inode = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
            let same = inode(&view.path(&self.storage)?)? == inode(&self.storage)?;
            same.then(|| Arc::new(view))
        };
        views.entry(at.clone()).or_insert_with(make).clone()
    }
}

/// Makes the tree of a layer at `tree`, which must not exist, and its tar-split record at `record`.
///
/// # Errors
/// See [`TreeError`]; what was made so far is left to the caller.
pub fn place(
    recipe: &Recipe,
    checksums: Option<&Checksums>,
    tree: &Path,
    record: &Path,
    views: &Views,
    progress: &Progress,
) -> Result<Placed, TreeError> {
    let view = recipe.sources().first().and_then(|source| views.of(source));
    let through = view.as_ref().and_then(|view| view.path(tree)).unwrap_or_else(|| tree.to_owned());
    let mut sums = checksums.map(|sums| sums.as_slice().iter());
    let mut placer = Placer {
        view: view.as_deref(),
        tree,
        through,
        open: Vec::new(),
        me: (geteuid().as_raw(), getegid().as_raw()),
        placed: Placed { vouched: true, ..Placed::default() },
        progress,
    };
    let mut split = tar_split::Writer::create(record)?;
    fs::create_dir(tree).at("create", tree)?;
    let mut failed: Option<TreeError> = None;
    let done = recipe.members(&mut |member| {
        let step = || -> Result<(), TreeError> {
            progress.check().at("write", tree)?;
            let header = header(&member.entry, placer.placed.size);
            split.segment(&header)?;
            let (size, is_directory) = (member.entry.size(), member.entry.kind == Kind::Directory);
            let name = [&member.entry.path[..], if is_directory { b"/" } else { b"" }].concat();
            let sum = match &mut sums {
                _ if size == 0 => None,
                Some(sums) => Some(*sums.next().ok_or(TreeError::Changed)?),
                None => Some(sum(&member, size, progress)?),
            };
            split.member(&name, sum.map(|sum| (size, sum)))?;
            let padding = padding(size);
            split.segment(&TRAILER[..usize::try_from(padding).unwrap_or(0)])?;
            placer.placed.size += header.len() as u64 + size + padding;
            placer.member(member)
        };
        step().map_err(|error| {
            failed = Some(error);
            LayerError::Sink(io::ErrorKind::Other.into())
        })
    });
    if let Some(error) = failed {
        return Err(error);
    }
    done?;
    placer.close_until(None)?;
    finish_directory(tree, 0o555)?;
    split.segment(&TRAILER)?;
    placer.placed.size += TRAILER.len() as u64;
    if sums.is_some_and(|mut sums| sums.next().is_some()) {
        return Err(TreeError::Changed);
    }
    progress.count_written(split.finish()?);
    Ok(placer.placed)
}

/// The CRC-64 of a member, for a layer that was built without.
fn sum(member: &Member, size: u64, progress: &Progress) -> Result<u64, TreeError> {
    match &member.content {
        Content::None => Ok(0),
        Content::Text(text) => Ok(tar_split::sum_of(text)),
        Content::File(file, _) => {
            let reading = |source| LayerError::Read { path: member.host.clone(), source };
            let again = file.try_clone().map_err(reading)?;
            let sum = tar_split::sum_of_file(&again, size, progress).map_err(|error| match error {
                PipeError::Read(source) | PipeError::Write(source) => reading(source),
            })?;
            io::Seek::rewind(&mut &*file).map_err(reading)?;
            Ok(sum)
        }
    }
}

struct Placer<'a> {
    view: Option<&'a View>,
    /// Where the tree is, as messages name it.
    tree: &'a Path,
    /// The same through the view.
    through: PathBuf,
    /// The directories that are being filled, outermost first.
    open: Vec<Entry>,
    /// Whoever runs this, to whom belongs what is new.
    me: (u32, u32),
    placed: Placed,
    progress: &'a Progress,
}

impl Placer<'_> {
    fn member(&mut self, member: Member) -> Result<(), TreeError> {
        let Member { entry, content, host } = member;
        self.close_until(Some(&entry.path))?;
        self.placed.uids.insert(entry.uid);
        self.placed.gids.insert(entry.gid);
        let path = self.tree.join(std::ffi::OsStr::from_bytes(&entry.path));
        let owner = self.owner(&entry)?;
        if matches!(entry.kind, Kind::File(_)) && entry.mode & 0o6000 != 0 {
            return Err(TreeError::SetId { path: shown(&entry) });
        }
        match (&entry.kind, content) {
            (Kind::Directory, _) => {
                fs::create_dir(&path).at("create", &path)?;
                self.open.push(entry);
                return Ok(());
            }
            (Kind::Symlink(target), _) => {
                symlink(std::ffi::OsStr::from_bytes(target), &path).at("create", &path)?;
                self.progress.count_written(target.len() as u64);
            }
            (Kind::File(_), Content::Text(text)) => {
                fs::write(&path, &text).at("write", &path)?;
                self.progress.count_written(text.len() as u64);
            }
            (Kind::File(size), Content::File(file, in_store)) => {
                let found = file.metadata().map_err(|source| LayerError::Read { path: host.clone(), source })?;
                let vouched = in_store && is_untouched(&found);
                self.placed.vouched &= vouched;
                let fits = (found.uid(), found.gid(), found.mode() & 0o7777) == (owner.0, owner.1, entry.mode);
                if vouched && fits && self.link(&host, &found, &path)? {
                    self.placed.linked += 1;
                    self.progress.count_linked(*size);
                    return Ok(());
                }
                self.copy(&file, *size, &host, &path)?;
                self.placed.copied += 1;
            }
            (Kind::File(_), Content::None) => return Err(TreeError::Changed),
        }
        self.give(&path, owner)?;
        if let Kind::File(_) = entry.kind {
            fs::set_permissions(&path, Permissions::from_mode(entry.mode)).at("set the mode of", &path)?;
        }
        Ok(stamp(&path)?)
    }

    /// A hard link at `path`; `false` where there can be none.
    fn link(&self, host: &Path, found: &Metadata, path: &Path) -> Result<bool, TreeError> {
        let below = path.strip_prefix(self.tree).unwrap_or(path);
        let seen = self.view.and_then(|view| view.path(host)).map(|host| (host, self.through.join(below)));
        for (from, to) in seen.into_iter().chain([(host.to_owned(), path.to_owned())]) {
            match linkat(CWD, &from, CWD, &to, AtFlags::empty()) {
                Ok(()) => {
                    let linked = fs::symlink_metadata(path).at("read", path)?;
                    if (linked.dev(), linked.ino()) == (found.dev(), found.ino()) {
                        return Ok(true);
                    }
                    // Something else was mounted over that place.
                    fs::remove_file(path).at("remove", path)?;
                }
                Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::ACCESS | Errno::NOENT | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error).at("link", path)?,
            }
        }
        Ok(false)
    }

    fn copy(&self, file: &File, size: u64, host: &Path, path: &Path) -> Result<(), TreeError> {
        let mut output = Output::create(path, Verify::Never, false, self.progress)?;
        crate::layer::Sink::file(&mut output, file, size, false, Readers::default()).map_err(|error| match error {
            PipeError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                TreeError::Layer(LayerError::Changed(host.to_owned()))
            }
            PipeError::Read(source) => LayerError::Read { path: host.to_owned(), source }.into(),
            PipeError::Write(error) => output.failed(error).into(),
        })?;
        output.finish()?;
        Ok(())
    }

    /// Ends the directories that `path` is not in.
    fn close_until(&mut self, path: Option<&[u8]>) -> Result<(), TreeError> {
        let is_below = |directory: &Entry, path: &[u8]| {
            path.strip_prefix(&directory.path[..]).is_some_and(|rest| rest.starts_with(b"/"))
        };
        while let Some(entry) = self.open.pop_if(|last| !path.is_some_and(|path| is_below(last, path))) {
            let directory = self.tree.join(std::ffi::OsStr::from_bytes(&entry.path));
            self.give(&directory, self.owner(&entry)?)?;
            finish_directory(&directory, entry.mode)?;
        }
        Ok(())
    }

    /// The owner on the host. For anybody but root, root in the image is themselves, as in a rootless container.
    fn owner(&self, entry: &Entry) -> Result<(u32, u32), TreeError> {
        if self.me.0 == 0 {
            if let (Ok(uid), Ok(gid)) = (u32::try_from(entry.uid), u32::try_from(entry.gid)) {
                return Ok((uid, gid));
            }
        } else if (entry.uid, entry.gid) == (0, 0) {
            return Ok(self.me);
        }
        Err(TreeError::Owner { path: shown(entry), uid: entry.uid, gid: entry.gid })
    }

    fn give(&self, path: &Path, owner: (u32, u32)) -> Result<(), TreeError> {
        if owner != self.me {
            lchown(path, Some(owner.0), Some(owner.1)).at("set the owner of", path)?;
        }
        Ok(())
    }
}

/// A member's path as it is in the image.
fn shown(entry: &Entry) -> String {
    format!("/{}", String::from_utf8_lossy(&entry.path))
}

fn finish_directory(path: &Path, mode: u32) -> Result<(), WriteError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).at("set the mode of", path)?;
    stamp(path)
}

/// Sets the modification time that every member of an archive has.
fn stamp(path: &Path) -> Result<(), WriteError> {
    let time = Timespec { tv_sec: MTIME.cast_signed(), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", path)
}
