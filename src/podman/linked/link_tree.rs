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
//! A file with the set-user-ID or set-group-ID bit is never linked: every user of the host could run it from here.
//!
//! Where Nix vouches for an image, nothing is read that is linked: if a file turns out to be another one than Nix has left, the
//! tree must be compared with the layer's digest afterwards ([`Placed::vouched`]). Of any other image each file is hashed when it is in
//! its place, through the name that it has there ([`Placed::digest`]). The tree's tar-split record is written along
//! ([`crate::podman::storage::tar_split`]).

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crc_fast::CrcAlgorithm::Crc64GoIso;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, fchmod, fchown, futimens, linkat, openat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::link_view::{LinkView, Views};
use super::{TAR_SPLIT, TREE};
use crate::class::{Class, Classified};
use crate::disk::beneath::Dir;
use crate::disk::pipe::{Consumer, PipeError, Readers};
use crate::disk::progress::Progress;
use crate::disk::walk::TreeCursor;
use crate::disk::{AtPath, WriteError};
use crate::engine::target::{CopiedBytes, CopyCause};
use crate::layer::output::{Output, Verify, can_share, is_untouched};
use crate::layer::{
    ALIGN_FROM, Checksums, HashSink, LayerError, LayerMember, MTIME, MemberContent, Recipe, Sink as _, TRAILER,
    TarEntry, TarEntryKind, header, on_disk, padding,
};
use crate::oci::digest::Digest;
use crate::podman::storage::tar_split;

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The layer's own content cannot be had.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The place that is written to.
    #[error(transparent)]
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

impl Classified for TreeError {
    fn class(&self) -> Class {
        match self {
            Self::Layer(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Changed | Self::SetId { .. } | Self::Owner { .. } => Class::Failed,
        }
    }
}

/// What a tree is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Bytes of the layer's archive.
    pub(crate) size: u64,
    /// Files that are hard links to the store.
    pub(crate) links: u64,
    /// Bytes of these.
    pub(crate) linked: u64,
    /// Bytes of the files that are copies and share no data, in whole blocks, by why.
    pub(crate) copies: CopiedBytes,
    /// The owners of its members.
    pub(crate) uids: BTreeSet<u64>,
    /// Their groups.
    pub(crate) gids: BTreeSet<u64>,
    /// Whether the Nix store vouches for every file.
    pub(crate) vouched: bool,
    /// The digest of the archive, if it was asked for: of the files as they lie in the tree.
    pub(crate) digest: Option<Digest>,
}

/// Makes the tree of a layer as [`TREE`] in `workplace`, and its tar-split record as [`TAR_SPLIT`]. With `hashed` every file is read.
///
/// # Errors
/// See [`TreeError`]; what was made so far is left to the caller.
pub(crate) fn place(
    recipe: &Recipe,
    checksums: Option<&Checksums>,
    hashed: bool,
    (workplace, views): (&Dir, &Views),
    progress: &Progress,
) -> Result<Placed, TreeError> {
    let _streaming = hashed.then(|| progress.streaming());
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
        here: TreeCursor::at(tree),
        open: Vec::new(),
        me: (geteuid().as_raw(), getegid().as_raw()),
        placed: Placed { vouched: true, ..Placed::default() },
        hash: hashed.then(|| HashSink::new(progress)),
        progress,
    };
    let mut failed: Option<TreeError> = None;
    let done = recipe.members(&mut |member| {
        let step = || -> Result<(), TreeError> {
            progress.check().at("write", &path)?;
            let header = header(&member.entry, placer.placed.size);
            split.segment(&header)?;
            placer.told(&header)?;
            let (size, is_directory) = (member.entry.size(), member.entry.kind == TarEntryKind::Directory);
            let name = [&member.entry.path[..], if is_directory { b"/" } else { b"" }].concat();
            let mut sum = match &mut sums {
                _ if size == 0 => None,
                Some(sums) => Some(*sums.next().ok_or(TreeError::Changed)?),
                None if hashed => None,
                None => Some(sum(&member, size, progress)?),
            };
            // What was read is what counts.
            sum = placer.member(member)?.filter(|_| size > 0).or(sum);
            split.member(&name, sum.map(|sum| (size, sum)))?;
            let padding = &TRAILER[..usize::try_from(padding(size)).unwrap_or(0)];
            split.segment(padding)?;
            placer.told(padding)?;
            placer.placed.size += header.len() as u64 + size + padding.len() as u64;
            Ok(())
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
    placer.told(&TRAILER)?;
    placer.placed.size += TRAILER.len() as u64;
    placer.placed.digest = placer.hash.take().map(|hash| hash.finish().0);
    if sums.is_some_and(|mut sums| sums.next().is_some()) {
        return Err(TreeError::Changed);
    }
    progress.count_written(split.finish()?);
    Ok(placer.placed)
}

/// The CRC-64 of a member, for a layer that was built without.
fn sum(member: &LayerMember, size: u64, progress: &Progress) -> Result<u64, TreeError> {
    match &member.content {
        MemberContent::None => Ok(0),
        MemberContent::Text(text) => Ok(tar_split::sum_of(text)),
        MemberContent::File(file, _) => {
            let reading = |source| LayerError::Read { path: member.host.to_owned(), source };
            let sum = tar_split::sum_of_file(&file.open()?, size, progress).map_err(|error| match error {
                PipeError::Read(source) | PipeError::Write(source) => reading(source),
            })?;
            Ok(sum)
        }
    }
}

struct Placer<'a> {
    view: Option<&'a LinkView>,
    /// The directory that is being filled.
    here: TreeCursor,
    /// It and those above it, outermost first.
    open: Vec<TarEntry>,
    /// The user who runs this, and so owns what is new.
    me: (u32, u32),
    placed: Placed,
    /// If every byte is to be read.
    hash: Option<HashSink<'a>>,
    progress: &'a Progress,
}

impl Placer<'_> {
    /// Bytes of the archive that are in no file.
    fn told(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let hashed = self.hash.as_mut().map_or(Ok(()), |hash| hash.bytes(bytes));
        Ok(hashed.at("read", self.here.dir().path())?)
    }

    /// Reads a file that is in its place: its CRC-64, if bytes are to be read.
    fn read(&mut self, file: &File, size: u64, name: &OsStr) -> Result<Option<u64>, TreeError> {
        let Some(hash) = &mut self.hash else { return Ok(None) };
        let mut crc = crc_fast::Digest::new(Crc64GoIso);
        let summing: Consumer<'_> = Box::new(|chunk| {
            crc.update(chunk);
            Ok(())
        });
        let readers = Readers { here: vec![summing], hashers: Vec::new() };
        match hash.file(file, size, false, readers) {
            Ok(()) => Ok(Some(crc.finalize())),
            Err(PipeError::Read(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(TreeError::Changed),
            Err(PipeError::Read(error) | PipeError::Write(error)) => {
                Err(error).at("read", &self.here.dir().at(name)).map_err(TreeError::Write)
            }
        }
    }

    /// Puts a member there; the CRC-64 of its bytes, if they were read.
    fn member(&mut self, member: LayerMember) -> Result<Option<u64>, TreeError> {
        let LayerMember { entry, content, host, .. } = member;
        self.close_until(Some(&entry.path))?;
        self.placed.uids.insert(entry.uid);
        self.placed.gids.insert(entry.gid);
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or(&entry.path).to_owned();
        let (name, path) = (OsStr::from_bytes(&name), self.here.dir().at(OsStr::from_bytes(&name)));
        let owner = owner(&entry, self.me)?;
        check_mode(&entry)?;
        let mut sum = None;
        let file = match (&entry.kind, content) {
            (TarEntryKind::Directory, _) => {
                self.here.make(name, 0o700)?;
                self.open.push(entry);
                return Ok(None);
            }
            (TarEntryKind::Symlink(target), _) => {
                let target = OsStr::from_bytes(target);
                rustix::fs::symlinkat(target, self.here.dir(), name).at("create", &path)?;
                self.progress.count_written(target.len() as u64);
                if owner != self.me {
                    self.here.dir().give(name, owner)?;
                }
                utimensat(self.here.dir(), name, &stamp(), AtFlags::SYMLINK_NOFOLLOW).at("set the time of", &path)?;
                return Ok(None);
            }
            (TarEntryKind::File(_), MemberContent::Text(text)) => {
                let file = self.here.dir().create(name)?;
                file.write_all_at(&text, 0).at("write", &path)?;
                self.progress.count_written(text.len() as u64);
                self.told(&text)?;
                sum = self.hash.is_some().then(|| tar_split::sum_of(&text));
                file
            }
            (TarEntryKind::File(size), MemberContent::File(file, in_store)) => {
                let found = file.metadata();
                self.placed.vouched &= in_store && is_untouched(found);
                let linked = match cause(found, in_store, owner, entry.mode) {
                    None => self.link(host, found, name)?,
                    Some(cause) => Err(cause),
                };
                let cause = match linked {
                    Ok(linked) => {
                        self.placed.links += 1;
                        self.placed.linked += size;
                        self.progress.count_linked(*size);
                        return linked.map_or(Ok(None), |file| self.read(&file, *size, name));
                    }
                    Err(cause) => cause,
                };
                let (mut file, is_shared) = self.copy(&file.open()?, *size, host, name)?;
                if !is_shared {
                    *self.placed.copies.entry(cause).or_default() += on_disk(*size);
                }
                if self.hash.is_some() {
                    file.rewind().at("read", &path)?;
                    sum = self.read(&file, *size, name)?;
                }
                file
            }
            (TarEntryKind::File(_), MemberContent::None) => return Err(TreeError::Changed),
        };
        if owner != self.me {
            let ids = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
            fchown(&file, Some(ids.0), Some(ids.1)).at("set the owner of", &path)?;
        }
        fchmod(&file, Mode::from_raw_mode(entry.mode)).at("set the mode of", &path)?;
        futimens(&file, &stamp()).at("set the time of", &path)?;
        Ok(sum)
    }

    /// A hard link of this name, or why there can be none; open if it is to be read.
    fn link(&self, host: &Path, found: &Metadata, name: &OsStr) -> Result<Result<Option<File>, CopyCause>, TreeError> {
        let here = self.here.dir();
        let seen = self.view.and_then(|view| Some((&view.tree, view.below(host)?)));
        let linked = |linked: rustix::io::Result<()>| match linked {
            Ok(()) => match self.linked(found, name)? {
                Some(linked) => Ok(Ok(linked)),
                // Something else was mounted over that place.
                None => unlinkat(here, name, AtFlags::empty())
                    .at("remove", &here.at(name))
                    .map(|()| Err(CopyCause::Refused)),
            },
            Err(Errno::XDEV) => Ok(Err(CopyCause::OtherFileSystem)),
            Err(Errno::MLINK) => Ok(Err(CopyCause::TooManyLinks)),
            Err(Errno::PERM | Errno::ACCESS | Errno::NOENT | Errno::OPNOTSUPP) => Ok(Err(CopyCause::Refused)),
            Err(error) => Err(error).at("link", &here.at(name)),
        };
        if let Some((tree, below)) = seen {
            match linked(linkat(tree, below, here, name, AtFlags::empty()))? {
                Ok(file) => return Ok(Ok(file)),
                // By its other name it cannot be linked either, and for a reason that tells less.
                Err(CopyCause::TooManyLinks) => return Ok(Err(CopyCause::TooManyLinks)),
                Err(_) => {}
            }
        }
        Ok(linked(linkat(CWD, host, here, name, AtFlags::empty()))?)
    }

    /// Whether the new name is one of the file that was to get it; if it is to be read, by the descriptor that it is read through.
    fn linked(&self, found: &Metadata, name: &OsStr) -> Result<Option<Option<File>>, WriteError> {
        let here = self.here.dir();
        if self.hash.is_none() {
            let linked = here.look(name)?;
            return Ok(linked
                .filter(|linked| (linked.st_dev, linked.st_ino) == (found.dev(), found.ino()))
                .map(|_| None));
        }
        // Whatever it is, to open it does nothing.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat(here, name, flags, Mode::empty()).at("open", &here.at(name))?);
        let linked = file.metadata().at("read", &here.at(name))?;
        let which = |file: &Metadata| (file.dev(), file.ino(), file.len());
        Ok((which(&linked) == which(found)).then_some(Some(file)))
    }

    /// A copy of this name, and whether it shares the data of the file.
    fn copy(&self, file: &File, size: u64, host: &Path, name: &OsStr) -> Result<(File, bool), TreeError> {
        let here = self.here.dir();
        let (new, path) = (here.create(name)?, here.at(name));
        let again = new.try_clone().at("open", &path)?;
        let mut output = Output::new(again, &path, Verify::Never, false, self.progress);
        output.file(file, size, false, Readers::default()).map_err(|error| match error {
            PipeError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                TreeError::Layer(LayerError::Changed(host.to_owned()))
            }
            PipeError::Read(source) => LayerError::Read { path: host.to_owned(), source }.into(),
            PipeError::Write(error) => output.failed(error).into(),
        })?;
        let is_shared = output.is_shared();
        output.finish()?;
        Ok((new, is_shared))
    }

    /// Ends the directories that `path` is not in.
    fn close_until(&mut self, path: Option<&[u8]>) -> Result<(), TreeError> {
        let is_below = |directory: &TarEntry, path: &[u8]| {
            path.strip_prefix(&directory.path[..]).is_some_and(|rest| rest.starts_with(b"/"))
        };
        while let Some(entry) = self.open.pop_if(|last| !path.is_some_and(|path| is_below(last, path))) {
            let (owner, here) = (owner(&entry, self.me)?, self.here.dir());
            if owner != self.me {
                here.give(OsStr::new("."), owner)?;
            }
            here.set_mode(entry.mode)?;
            here.stamp(MTIME.cast_signed(), 0)?;
            self.here.up()?;
        }
        Ok(())
    }
}

/// Why a file cannot be a link, as far as it says that itself.
fn cause(found: &Metadata, in_store: bool, owner: (u32, u32), mode: u32) -> Option<CopyCause> {
    if !in_store {
        Some(CopyCause::NotInStore)
    } else if !is_untouched(found) {
        Some(CopyCause::Changed)
    } else if (found.uid(), found.gid()) != owner {
        Some(CopyCause::OtherOwner)
    } else if found.mode() & 0o7777 != mode {
        Some(CopyCause::OtherMode)
    } else {
        None
    }
}

/// The owner on the host of a user's files. For anybody but root, root in the image is themselves, as in a rootless
/// container.
fn owner(entry: &TarEntry, me: (u32, u32)) -> Result<(u32, u32), TreeError> {
    if me.0 == 0 {
        if let (Ok(uid), Ok(gid)) = (u32::try_from(entry.uid), u32::try_from(entry.gid)) {
            return Ok((uid, gid));
        }
    } else if (entry.uid, entry.gid) == (0, 0) {
        return Ok(me);
    }
    Err(TreeError::Owner { path: shown(entry), uid: entry.uid, gid: entry.gid })
}

fn check_mode(entry: &TarEntry) -> Result<(), TreeError> {
    match entry.kind {
        TarEntryKind::File(_) if entry.mode & 0o6000 != 0 => Err(TreeError::SetId { path: shown(entry) }),
        _ => Ok(()),
    }
}

/// What [`place`] would copy into a store at this path, by what the file system says of each file; no file is read and nothing
/// is changed.
///
/// # Errors
/// If the layer cannot be linked there at all, or its files cannot be looked at.
pub(crate) fn foresee(recipe: &Recipe, storage: &Path) -> Result<CopiedBytes, TreeError> {
    let me = (geteuid().as_raw(), getegid().as_raw());
    let place = storage.ancestors().find_map(|path| std::fs::metadata(path).ok()).map(|found| found.dev());
    let (shares, most) = (OnceCell::new(), OnceCell::new());
    let (mut copies, mut failed) = (CopiedBytes::new(), None);
    let done = recipe.members(&mut |LayerMember { entry, content, host, .. }| {
        let step = || -> Result<(), TreeError> {
            let owner = owner(&entry, me)?;
            check_mode(&entry)?;
            let MemberContent::File(file, in_store) = content else { return Ok(()) };
            let found = file.metadata();
            let is_near = Some(found.dev()) == place;
            let by_place = || match () {
                () if !is_near => Some(CopyCause::OtherFileSystem),
                () if found.nlink() >= *most.get_or_init(|| most_links(host)) => Some(CopyCause::TooManyLinks),
                () => None,
            };
            let is_shared = || is_near && entry.size() >= ALIGN_FROM && *shares.get_or_init(|| can_share(storage));
            if let Some(cause) = cause(found, in_store, owner, entry.mode).or_else(by_place).filter(|_| !is_shared()) {
                *copies.entry(cause).or_default() += on_disk(entry.size());
            }
            Ok(())
        };
        step().map_err(|error| {
            failed = Some(error);
            LayerError::Sink(io::ErrorKind::Other.into())
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(done.map(|()| copies)?),
    }
}

/// How many names a file can have there.
fn most_links(file: &Path) -> u64 {
    const EXT4: i64 = 0xef53;
    match rustix::fs::statfs(file) {
        Ok(stat) if stat.f_type == EXT4 => 65_000,
        _ => u64::MAX,
    }
}

/// A member's path as it is in the image.
fn shown(entry: &TarEntry) -> String {
    format!("/{}", String::from_utf8_lossy(&entry.path))
}

/// The modification time that every member of an archive has.
fn stamp() -> Timestamps {
    let time = Timespec { tv_sec: MTIME.cast_signed(), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
