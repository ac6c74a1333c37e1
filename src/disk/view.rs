//! Hard links between places that a mount keeps apart.
//!
//! NixOS mounts /nix/store read-only over itself, and the kernel makes no hard link from one mount to another, even where
//! both are one file system. In a copy of the tree without what is mounted over it (`open_tree`, Linux 5.2,
//! `CAP_SYS_ADMIN`) it does.

use std::fs::{self, hard_link};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

/// A directory of the host, with everything below it on the same file system and nothing that is mounted over it.
#[derive(Debug)]
pub(crate) struct HostView {
    tree: OwnedFd,
    at: PathBuf,
}

impl HostView {
    /// The directory that both canonical paths have in common.
    #[must_use]
    pub(crate) fn place(one: &Path, two: &Path) -> PathBuf {
        let shared = one.components().zip(two.components()).take_while(|(one, two)| one == two);
        shared.map(|(component, _)| component).collect()
    }

    /// A view of `at` in which `inside`, a path below it, is what it is outside; `None` if the kernel gives none.
    #[must_use]
    pub(crate) fn open(at: &Path, inside: &Path) -> Option<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let view = Self { tree: open_tree(CWD, at, flags).ok()?, at: at.to_owned() };
        let inode = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        let is_same = inode(&view.path(inside)?)? == inode(inside)?;
        is_same.then_some(view)
    }

    /// The same file as at `path`, without what is mounted on the way. `None` outside of the view.
    #[must_use]
    pub(crate) fn path(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.at).ok()?;
        Some(Path::new("/proc/self/fd").join(self.tree.as_raw_fd().to_string()).join(below))
    }
}

/// Links the file at the canonical path `from` to `to`, where nothing is, past what is mounted over one of them.
///
/// # Errors
/// If they are not on one file system, or one of them cannot be linked.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    let failed = match hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => error,
        result => return result,
    };
    let Some(name) = to.file_name() else { return Err(failed) };
    let folder = match to.parent() {
        Some(parent) if parent != Path::new("") => fs::canonicalize(parent)?,
        _ => fs::canonicalize(".")?,
    };
    // Each is seen without what is mounted over it, so both have to be the same there.
    let inode = fs::metadata(from).map(|metadata| (metadata.dev(), metadata.ino()))?;
    let at = HostView::place(from, &folder);
    let Some(view) = HostView::open(&at, &folder) else { return Err(failed) };
    let (Some(source), Some(folder)) = (view.path(from), view.path(&folder)) else { return Err(failed) };
    match fs::metadata(&source) {
        Ok(found) if (found.dev(), found.ino()) == inode => hard_link(source, folder.join(name)),
        _ => Err(failed),
    }
}
