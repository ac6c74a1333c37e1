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
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, fchmod, fchown, futimens, linkat, unlinkat, utimensat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{getegid, geteuid};

use super::linked::{TAR_SPLIT, TREE};
use super::tar_split;
use crate::beneath::{Cursor, Dir};
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
    /// The path below the view of what is at `path`. `None` outside of the view.
    fn below<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.at).ok()
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
            let dir = Dir::new(view.tree.try_clone().ok()?, &at);
            let seen = dir.dir(view.below(&self.storage)?).ok()?.stat().ok()?;
            let there = Dir::open(&self.storage).ok()?.stat().ok()?;
            ((seen.st_dev, seen.st_ino) == (there.st_dev, there.st_ino)).then(|| Arc::new(view))
        };
        views.entry(at.clone()).or_insert_with(make).clone()
    }
}

/// Makes the tree of a layer as [`TREE`] in `workplace`, and its tar-split record as [`TAR_SPLIT`].
///
/// # Errors
/// See [`TreeError`]; what was made so far is left to the caller.
pub fn place(
    recipe: &Recipe,
    checksums: Option<&Checksums>,
    workplace: &Dir,
    views: &Views,
    progress: &Progress,
) -> Result<Placed, TreeError> {
    let view = recipe.sources().first().and_then(|source| views.of(source));
    let mut split = tar_split::Writer::new(workplace.create(TAR_SPLIT)?, &workplace.at(TAR_SPLIT));
    let mut tree = workplace.make(TREE, 0o700)?;
    // Links must be made within one mount.
    if let Some(view) = &view
        && let Some(below) = view.below(tree.path())
        && let Ok(seen) =
            view.tree.try_clone().at("open", &view.at).and_then(|root| Dir::new(root, &view.at).dir(below))
        && let (Ok(one), Ok(two)) = (seen.stat(), tree.stat())
        && (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
    {
        tree = seen;
    }
    let path = tree.path().to_owned();
    let mut sums = checksums.map(|sums| sums.as_slice().iter());
    let mut placer = Placer {
        view: view.as_deref(),
        here: Cursor::at(tree),
        open: Vec::new(),
        me: (geteuid().as_raw(), getegid().as_raw()),
        placed: Placed { vouched: true, ..Placed::default() },
        progress,
    };
    let mut failed: Option<TreeError> = None;
    let done = recipe.members(&mut |member| {
        let step = || -> Result<(), TreeError> {
            progress.check().at("write", &path)?;
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
    placer.here.dir().set_mode(0o555)?;
    placer.here.dir().stamp(MTIME.cast_signed(), 0)?;
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
    /// The directory that is being filled.
    here: Cursor,
    /// It and those above it, outermost first.
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
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or(&entry.path).to_owned();
        let (name, path) = (OsStr::from_bytes(&name), self.here.dir().at(OsStr::from_bytes(&name)));
        let owner = self.owner(&entry)?;
        if matches!(entry.kind, Kind::File(_)) && entry.mode & 0o6000 != 0 {
            return Err(TreeError::SetId { path: shown(&entry) });
        }
        let file = match (&entry.kind, content) {
            (Kind::Directory, _) => {
                drop(self.here.dir().make(name, 0o700)?);
                self.here.down(name)?;
                self.open.push(entry);
                return Ok(());
            }
            (Kind::Symlink(target), _) => {
                let target = OsStr::from_bytes(target);
                rustix::fs::symlinkat(target, self.here.dir(), name).at("create", &path)?;
                self.progress.count_written(target.len() as u64);
                if owner != self.me {
                    self.here.dir().give(name, owner)?;
                }
                return Ok(utimensat(self.here.dir(), name, &stamp(), AtFlags::SYMLINK_NOFOLLOW)
                    .at("set the time of", &path)?);
            }
            (Kind::File(_), Content::Text(text)) => {
                let file = self.here.dir().create(name)?;
                file.write_all_at(&text, 0).at("write", &path)?;
                self.progress.count_written(text.len() as u64);
                file
            }
            (Kind::File(size), Content::File(file, in_store)) => {
                let found = file.metadata().map_err(|source| LayerError::Read { path: host.clone(), source })?;
                let vouched = in_store && is_untouched(&found);
                self.placed.vouched &= vouched;
                let fits = (found.uid(), found.gid(), found.mode() & 0o7777) == (owner.0, owner.1, entry.mode);
                if vouched && fits && self.link(&host, &found, name)? {
                    self.placed.linked += 1;
                    self.progress.count_linked(*size);
                    return Ok(());
                }
                self.placed.copied += 1;
                self.copy(&file, *size, &host, name)?
            }
            (Kind::File(_), Content::None) => return Err(TreeError::Changed),
        };
        if owner != self.me {
            let ids = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
            fchown(&file, Some(ids.0), Some(ids.1)).at("set the owner of", &path)?;
        }
        fchmod(&file, Mode::from_raw_mode(entry.mode)).at("set the mode of", &path)?;
        Ok(futimens(&file, &stamp()).at("set the time of", &path)?)
    }

    /// A hard link of this name; `false` where there can be none.
    fn link(&self, host: &Path, found: &Metadata, name: &OsStr) -> Result<bool, TreeError> {
        let here = self.here.dir();
        let seen = self.view.and_then(|view| Some((&view.tree, view.below(host)?)));
        let linked = |linked: rustix::io::Result<()>| match linked {
            Ok(()) => {
                let linked = here.look(name)?;
                if linked.is_some_and(|linked| (linked.st_dev, linked.st_ino) == (found.dev(), found.ino())) {
                    return Ok(true);
                }
                // Something else was mounted over that place.
                unlinkat(here, name, AtFlags::empty()).at("remove", &here.at(name)).map(|()| false)
            }
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::ACCESS | Errno::NOENT | Errno::OPNOTSUPP) => {
                Ok(false)
            }
            Err(error) => Err(error).at("link", &here.at(name)),
        };
        if let Some((tree, below)) = seen
            && linked(linkat(tree, below, here, name, AtFlags::empty()))?
        {
            return Ok(true);
        }
        Ok(linked(linkat(CWD, host, here, name, AtFlags::empty()))?)
    }

    fn copy(&self, file: &File, size: u64, host: &Path, name: &OsStr) -> Result<File, TreeError> {
        let here = self.here.dir();
        let (new, path) = (here.create(name)?, here.at(name));
        let again = new.try_clone().at("open", &path)?;
        let mut output = Output::new(again, &path, Verify::Never, false, self.progress);
        crate::layer::Sink::file(&mut output, file, size, false, Readers::default()).map_err(|error| match error {
            PipeError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                TreeError::Layer(LayerError::Changed(host.to_owned()))
            }
            PipeError::Read(source) => LayerError::Read { path: host.to_owned(), source }.into(),
            PipeError::Write(error) => output.failed(error).into(),
        })?;
        output.finish()?;
        Ok(new)
    }

    /// Ends the directories that `path` is not in.
    fn close_until(&mut self, path: Option<&[u8]>) -> Result<(), TreeError> {
        let is_below = |directory: &Entry, path: &[u8]| {
            path.strip_prefix(&directory.path[..]).is_some_and(|rest| rest.starts_with(b"/"))
        };
        while let Some(entry) = self.open.pop_if(|last| !path.is_some_and(|path| is_below(last, path))) {
            let (owner, here) = (self.owner(&entry)?, self.here.dir());
            if owner != self.me {
                here.give(OsStr::new("."), owner)?;
            }
            here.set_mode(entry.mode)?;
            here.stamp(MTIME.cast_signed(), 0)?;
            self.here.up()?;
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
}

/// A member's path as it is in the image.
fn shown(entry: &Entry) -> String {
    format!("/{}", String::from_utf8_lossy(&entry.path))
}

/// The modification time that every member of an archive has.
fn stamp() -> Timestamps {
    let time = Timespec { tv_sec: MTIME.cast_signed(), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
