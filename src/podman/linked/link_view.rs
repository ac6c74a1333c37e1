//! Seeing store and linked store within one mount: link(2) makes no name across two, even of one file system.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::disk::beneath::Dir;

/// A directory of the host, with everything below it on the same file system and nothing that is mounted over it.
#[derive(Debug)]
pub(super) struct LinkView {
    pub(super) tree: OwnedFd,
    pub(super) at: PathBuf,
}

impl LinkView {
    /// The path below the view of what is at `path`. `None` outside of the view.
    pub(super) fn below<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.at).ok()
    }
}

/// The views that one storage directory needs; made when they are asked for.
#[derive(Debug)]
pub(crate) struct Views {
    storage: PathBuf,
    views: Mutex<BTreeMap<PathBuf, Option<Arc<LinkView>>>>,
}

impl Views {
    /// For a storage directory, by its canonical path.
    #[must_use]
    pub(crate) fn new(storage: &Path) -> Self {
        Self { storage: storage.to_owned(), views: Mutex::default() }
    }

    /// A view in which both the storage directory and `source` are, if the kernel gives one (5.2, `CAP_SYS_ADMIN`).
    pub(super) fn of(&self, source: &Path) -> Option<Arc<LinkView>> {
        let shared = source.components().zip(self.storage.components()).take_while(|(one, two)| one == two);
        let at: PathBuf = shared.map(|(component, _)| component).collect();
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let view = LinkView { tree: open_tree(CWD, &at, flags).ok()?, at: at.clone() };
            let dir = Dir::new(view.tree.try_clone().ok()?, &at);
            let seen = dir.dir(view.below(&self.storage)?).ok()?.stat().ok()?;
            let there = Dir::open(&self.storage).ok()?.stat().ok()?;
            ((seen.st_dev, seen.st_ino) == (there.st_dev, there.st_ino)).then(|| Arc::new(view))
        };
        views.entry(at.clone()).or_insert_with(make).clone()
    }
}
