//! The inputs of a recipe as one sorted tree.
//!
//! Depth first, the children of a directory in the order of their bytes, every parent before its children. Directories
//! of several inputs are merged; anything else may come from several inputs only if they agree. The tree is never held
//! in memory: a directory is read when the walk reaches it.
//!
//! Only these reach a layer from the file system: names, types, link targets, bytes, and whether the owner may execute a
//! file. Owners, other modes, times, hard links and extended attributes do not.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, OFlags, openat};

use super::claim::{Claim, ClaimedContent, HostDirectory, LayerNode, PathUse};
use super::plain_tree::PlainTree;
use super::recipe::{Mode, Recipe};
use super::{LayerError, WHITEOUT};

use crate::disk::bounded;

/// What the walk finds at one path of the layer.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// Relative path in the layer.
    pub(super) path: &'a [u8],
    /// What is there.
    pub(super) what: WalkedContent<'a>,
    /// Permission bits before any rule.
    pub(super) mode: u32,
    /// The inputs that give it, for rules that name one; none for a parent that no input provides.
    pub(super) inputs: &'a [&'a Path],
    /// The host path it comes from, for messages.
    pub(super) host: &'a Path,
    /// Whether that is in the Nix store.
    pub(super) in_store: bool,
    /// Whether others on the host cannot read it there.
    pub(super) hidden: bool,
}

/// What is at one path.
#[derive(Debug)]
pub(super) enum WalkedContent<'a> {
    Directory,
    Symlink(Vec<u8>),
    File(HostFile<'a>),
    Text(Vec<u8>),
}

/// What a walk does with a regular file that it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// Looks at it: for what needs names and sizes, and few files' bytes.
    See,
    /// Opens it: for what reads all of them, which costs less than to look first.
    Open,
}

/// A regular file of the host, as the walk has seen it. Where names and sizes are enough it is opened only when its bytes are asked
/// for.
#[derive(Debug)]
pub struct HostFile<'a> {
    path: &'a Path,
    metadata: Metadata,
    opened: Option<File>,
}

impl<'a> HostFile<'a> {
    /// Looks at the file at `path`, which is opened by its name in a directory that is open.
    pub(super) fn see(place: HostPlace<'_>, path: &'a Path, files: Files) -> Result<Self, LayerError> {
        let reading = |error| LayerError::reading(path, error);
        let opened = match files {
            Files::See => None,
            Files::Open => Some(open_at(place).map_err(reading)?),
        };
        let metadata = match &opened {
            Some(file) => file.metadata(),
            None => fs::symlink_metadata(path),
        };
        let metadata = metadata.map_err(reading)?;
        // It was one when its directory was listed.
        if !metadata.is_file() {
            return Err(LayerError::Changed(path.to_owned()));
        }
        Ok(Self { path, metadata, opened })
    }

    /// Where it is, with no link in the last place.
    pub(crate) const fn path(&self) -> &'a Path {
        self.path
    }

    /// What the walk has seen of it.
    pub(crate) const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.metadata.len()
    }

    /// Its permission bits in a layer: all may read it, and execute it if its owner may.
    pub(super) fn mode(&self) -> u32 {
        if self.metadata.mode() & 0o100 != 0 { 0o555 } else { 0o444 }
    }

    /// The file, to be read from its beginning.
    ///
    /// # Errors
    /// If it cannot be opened, or is not the file that was seen.
    pub fn open(&self) -> Result<File, LayerError> {
        let reading = |error| LayerError::reading(self.path, error);
        let file = open(self.path)?;
        let found = file.metadata().map_err(reading)?;
        let which = |metadata: &Metadata| (metadata.dev(), metadata.ino(), metadata.len());
        if which(&found) != which(&self.metadata) {
            return Err(LayerError::Changed(self.path.to_owned()));
        }
        Ok(file)
    }

    /// The file if the walk has opened it, or else as [`open`](Self::open).
    pub(super) fn take(&mut self) -> Result<File, LayerError> {
        self.opened.take().map_or_else(|| self.open(), Ok)
    }
}

/// Where something is on the host: its name in a directory that is open, or its path.
pub(super) type HostPlace<'d> = (BorrowedFd<'d>, &'d Path);

pub(super) fn open(path: &Path) -> Result<File, LayerError> {
    open_at((CWD, path)).map_err(|error| LayerError::reading(path, error))
}

fn open_at((directory, name): HostPlace<'_>) -> io::Result<File> {
    // What was a file when its directory was listed may be a link now, or a pipe, which would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(openat(directory, name, flags, rustix::fs::Mode::empty())?))
}

pub(super) type VisitItem<'v> = dyn FnMut(Item<'_>) -> Result<(), LayerError> + 'v;

/// Calls `visit` for every entry of the layer, in order.
pub(super) fn walk(recipe: &Recipe, files: Files, visit: &mut VisitItem<'_>) -> Result<(), LayerError> {
    let mut root = LayerNode::default();
    for input in &recipe.inputs {
        root.plant(input)?;
    }
    descend(root, &mut Vec::new(), files, &mut |item| {
        let name = item.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            // A parent that no input provides has no place on the host.
            let place = if item.host.as_os_str().is_empty() { display(item.path).into() } else { item.host.to_owned() };
            return Err(LayerError::Whiteout { path: place });
        }
        visit(item)
    })
}

fn descend(
    mut node: LayerNode<'_>,
    path: &mut Vec<u8>,
    files: Files,
    visit: &mut VisitItem<'_>,
) -> Result<(), LayerError> {
    let weak_mode = node.claims.iter().find_map(Claim::weak_mode);
    if node.claims.iter().any(|claim| !claim.weak) {
        node.claims.retain(|claim| !claim.weak);
    }
    let below = node.children.values().any(LayerNode::is_strong);
    let seen = look(&node.claims, below)?;
    let (what, mode) = agree(&node.claims, &seen, (path, weak_mode), files)?;
    let hidden = is_hidden(&node.claims, &seen, &what)?;
    let is_directory = matches!(what, WalkedContent::Directory);
    if !is_directory {
        node.children.retain(|_, child| child.is_strong());
        if let Some(name) = node.children.keys().next() {
            let below = [path.as_slice(), b"/", name].concat();
            return Err(LayerError::BelowFile { target: display(&below), file: node.claims[0].host() });
        }
    }
    if !path.is_empty() {
        let host = node.claims.first().map(Claim::host).unwrap_or_default();
        let inputs: Vec<&Path> = node.claims.iter().map(|claim| claim.input).collect();
        let in_store = node.claims.iter().all(|claim| claim.in_store);
        visit(Item { path, what, mode, inputs: &inputs, host: &host, in_store, hidden })?;
    } else if !is_directory {
        return Err(LayerError::RootIsNoDirectory(node.claims[0].host()));
    }

    if let ([claim], [ClaimedContent::Directory(_, Some(HostDirectory { path: host, how: PathUse::Copy, .. }))]) =
        (node.claims.as_slice(), seen.as_slice())
        && node.children.is_empty()
    {
        let (inputs, in_store) = ([claim.input], claim.in_store);
        return PlainTree { inputs, in_store, files, visit }.walk(path, host.clone());
    }
    let mut children = node.children;
    for (claim, seen) in node.claims.iter().zip(seen) {
        if let ClaimedContent::Directory(_, Some(HostDirectory { path: host, how, trail })) = seen {
            let reading = |error| LayerError::reading(&host, error);
            for entry in fs::read_dir(&host).map_err(reading)? {
                let entry = entry.map_err(reading)?;
                let name = entry.file_name().into_vec();
                if matches!(how, PathUse::Link(_)) && is_bookkeeping(path, &name) {
                    continue;
                }
                let kind = entry.file_type().map_err(reading)?;
                let claim = claim.of_entry(&trail, entry.path(), how, kind);
                children.entry(name).or_default().claims.push(claim);
            }
        }
    }
    let length = path.len();
    for (name, child) in children {
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        descend(child, path, files, visit)?;
        path.truncate(length);
    }
    Ok(())
}

/// Looks at every claim. Where more than one thing is asked for, links to directories are merged like directories:
/// nixpkgs' packages have `sbin -> bin`, its environments `bin -> …/bin`.
fn look<'a>(claims: &[Claim<'a>], more_below: bool) -> Result<Vec<ClaimedContent<'a>>, LayerError> {
    let mut seen: Vec<ClaimedContent<'a>> = claims.iter().map(Claim::look).collect::<Result<_, _>>()?;
    if claims.len() > 1 || more_below {
        let mut directories = Vec::new();
        for (claim, seen) in claims.iter().zip(&seen) {
            directories.extend(match seen {
                ClaimedContent::Directory(mode, host) => Some(ClaimedContent::Directory(*mode, host.clone())),
                ClaimedContent::Symlink(_) => claim.as_directory()?,
                _ => None,
            });
        }
        if directories.len() == seen.len() {
            seen = directories;
        }
    }
    Ok(seen)
}

/// What is at a place, if all that claim it agree, and its permission bits. `weak_mode` is that of a mount point: /tmp
/// stays open to all where an input has a /tmp too.
fn agree<'s>(
    claims: &[Claim<'_>],
    seen: &'s [ClaimedContent<'_>],
    (path, weak_mode): (&[u8], Option<Mode>),
    files: Files,
) -> Result<(WalkedContent<'s>, u32), LayerError> {
    let conflict = |second: usize| {
        let (first, second) = (claims[0].host(), claims[second].host());
        LayerError::Conflict { target: display(path), first, second }
    };
    match &seen.first() {
        None | Some(ClaimedContent::Directory(..)) => {
            let mut mode = None;
            for (n, seen) in seen.iter().enumerate() {
                match seen {
                    ClaimedContent::Directory(Some(asked), _) if mode.is_some_and(|mode| mode != *asked) => {
                        return Err(conflict(n));
                    }
                    ClaimedContent::Directory(Some(asked), _) => mode = Some(*asked),
                    ClaimedContent::Directory(None, _) => {}
                    _ => return Err(conflict(n)),
                }
            }
            // A tree that is copied brings its directories; those that only hold what we put there are ours.
            let copied = |seen: &ClaimedContent<'_>| match seen {
                ClaimedContent::Directory(_, Some(host)) => !matches!(host.how, PathUse::Link(_)),
                _ => false,
            };
            let default = if seen.iter().any(copied) { 0o555 } else { 0o755 };
            Ok((WalkedContent::Directory, mode.or(weak_mode).map_or(default, |Mode(mode)| mode)))
        }
        Some(ClaimedContent::Symlink(first)) => {
            let mut target = first;
            for (n, seen) in seen.iter().enumerate().skip(1) {
                match seen {
                    ClaimedContent::Symlink(other) if other == first => {}
                    // Two packages with the same file: either will do, so the choice must not depend on their order.
                    ClaimedContent::Symlink(other) if lead_to_same_file(first, other)? => target = target.min(other),
                    _ => return Err(conflict(n)),
                }
            }
            Ok((WalkedContent::Symlink(target.clone()), 0o777))
        }
        Some(ClaimedContent::Text(text, mode)) if seen.len() == 1 => {
            Ok((WalkedContent::Text(text.as_bytes().to_vec()), mode.0))
        }
        Some(ClaimedContent::Text(..)) => Err(conflict(1)),
        Some(ClaimedContent::File(host)) => {
            let file = HostFile::see((CWD, host), host, files)?;
            for (n, other) in seen.iter().enumerate().skip(1) {
                let same = match other {
                    ClaimedContent::File(other) => {
                        let other = HostFile::see((CWD, other), other, Files::See)?;
                        (file.size(), file.mode()) == (other.size(), other.mode())
                            && same_bytes(&file.open()?, &other.open()?, host)?
                    }
                    _ => false,
                };
                if !same {
                    return Err(conflict(n));
                }
            }
            let mode = file.mode();
            Ok((WalkedContent::File(file), mode))
        }
    }
}

/// The permission bits that others need to read a file.
pub(super) const READ: u32 = 0o4;
/// The same for a directory.
pub(super) const ENTER: u32 = 0o5;

/// Whether others on the host cannot read what is there: any of the files, or any of the directories. Those that inputs
/// name are not asked, and nothing above them is: a folder that `mktemp -d` made is shut like a home. Whatever is in the Nix
/// store everybody can read.
fn is_hidden(claims: &[Claim<'_>], seen: &[ClaimedContent<'_>], what: &WalkedContent<'_>) -> Result<bool, LayerError> {
    if claims.iter().all(|claim| claim.in_store) {
        return Ok(false);
    }
    if let ([_], WalkedContent::File(file)) = (seen, what) {
        return Ok(file.metadata.mode() & READ != READ);
    }
    let mut places = claims.iter().zip(seen).filter_map(|(claim, seen)| match (what, seen) {
        (WalkedContent::File(..), ClaimedContent::File(host)) => Some((host, READ)),
        (WalkedContent::Directory, ClaimedContent::Directory(_, Some(HostDirectory { path, how, .. })))
            if !matches!(how, PathUse::Link(_)) && claim.host() != claim.input =>
        {
            Some((path, ENTER))
        }
        _ => None,
    });
    places.try_fold(false, |hidden, (path, bits)| {
        let metadata = fs::symlink_metadata(path).map_err(|error| LayerError::reading(path, error))?;
        Ok(hidden || metadata.mode() & bits != bits)
    })
}

/// What nixpkgs' `buildEnv` leaves out as well: two packages nearly always differ in it, and no container reads it.
fn is_bookkeeping(directory: &[u8], name: &[u8]) -> bool {
    match directory {
        b"" => matches!(name, b"nix-support" | b"propagated-build-inputs"),
        b"share/mime" => name != b"packages",
        _ => (directory.ends_with(b"/info") && name == b"dir") || name == b"perllocal.pod",
    }
}

fn lead_to_same_file(one: &[u8], two: &[u8]) -> Result<bool, LayerError> {
    let (one, two) = (Path::new(OsStr::from_bytes(one)), Path::new(OsStr::from_bytes(two)));
    let file = |path: &Path| {
        fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| (metadata.len(), metadata.mode() & 0o100))
    };
    match (file(one), file(two)) {
        (Some(first), Some(second)) if first == second => {
            let open = |path: &Path| bounded::open(path).map_err(|error| LayerError::reading(path, error));
            same_bytes(&open(one)?, &open(two)?, one)
        }
        _ => Ok(false),
    }
}

/// Compares two files of the same length.
fn same_bytes(mut one: &File, mut two: &File, path: &Path) -> Result<bool, LayerError> {
    let reading = |error: io::Error| LayerError::reading(path, error);
    let (mut a, mut b) = ([0; 64 * 1024], [0; 64 * 1024]);
    loop {
        let count = one.read(&mut a).map_err(reading)?;
        if count == 0 {
            return Ok(true);
        }
        two.read_exact(&mut b[..count]).map_err(reading)?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
}

fn display(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
