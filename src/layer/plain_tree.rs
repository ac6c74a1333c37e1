//! A tree that one input alone gives, as it lies: nearly all of a closure.
//!
//! Nothing in it can meet anything else, so there are no claims to compare. What is in a directory is opened through the
//! directory's descriptor: that spares the kernel the way from the root for each file.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, openat, readlinkat};

use super::LayerError;
use super::claim::special;
use super::walk::{ENTER, Files, HostFile, HostPlace, Item, READ, VisitItem, WalkedContent};
use crate::disk::walk::list;

/// Directories of one tree that stay open on the way down. What is deeper is looked up from the root by its path.
const KEPT: usize = 8;
/// Directories that all threads keep open: a process may have a thousand descriptors.
const KEPT_BY_ALL: usize = 256;

/// The walk of one tree.
pub(super) struct PlainTree<'t, 'v> {
    /// The input that gives it.
    pub(super) inputs: [&'t Path; 1],
    /// Whether that is in the Nix store.
    pub(super) in_store: bool,
    pub(super) files: Files,
    pub(super) visit: &'t mut VisitItem<'v>,
}

/// How many directories a thread keeps open, where so many walk.
fn kept(threads: usize) -> usize {
    (KEPT_BY_ALL / threads.max(1)).min(KEPT)
}

impl PlainTree<'_, '_> {
    /// Calls `visit` for all that is below the directory at `host`, which is at `path` of the layer.
    pub(super) fn walk(&mut self, path: &mut Vec<u8>, host: PathBuf) -> Result<(), LayerError> {
        let directory = open_directory((CWD, &host), &host)?;
        self.below(directory, 0, path, &mut { host })
    }

    fn below(
        &mut self,
        directory: File,
        depth: usize,
        path: &mut Vec<u8>,
        host: &mut PathBuf,
    ) -> Result<(), LayerError> {
        let names = list(&directory, usize::MAX).map_err(|error| LayerError::reading(host, error))?;
        // Where no pool has this thread, it walks alone.
        let threads = rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads());
        let kept = (depth < kept(threads)).then_some(directory);
        let length = path.len();
        for (name, kind) in names {
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            host.push(&name);
            let place = kept.as_ref().map(|directory| (directory.as_fd(), Path::new(&name)));
            self.entry(kind, place, depth, path, host)?;
            host.pop();
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        kind: FileType,
        place: Option<HostPlace<'_>>,
        depth: usize,
        path: &mut Vec<u8>,
        host: &mut PathBuf,
    ) -> Result<(), LayerError> {
        let inputs = &self.inputs;
        let place = place.unwrap_or((CWD, host));
        let item = |what, mode, hidden| Item { path, what, mode, inputs, host, in_store: self.in_store, hidden };
        match kind {
            FileType::RegularFile => {
                let file = HostFile::see(place, host, self.files)?;
                let (mode, hidden) = (file.mode(), !self.in_store && file.metadata().mode() & READ != READ);
                (self.visit)(item(WalkedContent::File(file), mode, hidden))
            }
            FileType::Symlink => {
                let target = readlinkat(place.0, place.1, Vec::new());
                let target = target.map_err(|error| LayerError::reading(host, error.into()))?.into_bytes();
                (self.visit)(item(WalkedContent::Symlink(target), 0o777, false))
            }
            FileType::Directory => {
                let directory = open_directory(place, host)?;
                let mode = || directory.metadata().map(|found| found.mode());
                let hidden =
                    !self.in_store && mode().map_err(|error| LayerError::reading(host, error))? & ENTER != ENTER;
                (self.visit)(item(WalkedContent::Directory, 0o555, hidden))?;
                self.below(directory, depth + 1, path, host)
            }
            _ => {
                let found = fs::symlink_metadata(&host).map_err(|error| LayerError::reading(host, error))?;
                Err(special(host.clone(), found.file_type()))
            }
        }
    }
}

fn open_directory((directory, name): HostPlace<'_>, host: &Path) -> Result<File, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty());
    opened.map(File::from).map_err(|error| LayerError::reading(host, io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::disk::progress::Progress;
    use crate::layer::{FORMAT, Input, Recipe, digest_of};

    /// Deeper than directories are kept open, with names that begin like each other.
    fn make(root: &Path) {
        let mut here = root.to_owned();
        for level in 0..2 * KEPT {
            fs::create_dir(&here).unwrap();
            for (name, mode) in [("a", 0o644), ("a.b", 0o755), ("a-b", 0o600)] {
                fs::write(here.join(name), format!("{name} {level}")).unwrap();
                fs::set_permissions(here.join(name), PermissionsExt::from_mode(mode)).unwrap();
            }
            symlink("../a", here.join("link")).unwrap();
            fs::create_dir(here.join("empty")).unwrap();
            here.push("below");
        }
    }

    fn copies(sources: &[&Path]) -> Recipe {
        let copy = |source: &&Path| Input::Copy {
            source: source.to_path_buf(),
            target: "/data".into(),
            follow: None,
            nar_hash: None,
        };
        Recipe { format: FORMAT, inputs: sources.iter().map(copy).collect(), perms: Vec::new() }
    }

    #[test]
    fn a_tree_alone_is_what_it_is_beside_its_like() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        make(&one);
        make(&two);
        let progress = Progress::new();
        let alone = digest_of(&copies(&[&one]), None, &progress).unwrap();
        // Where two give the same, each place is claimed by both.
        assert_eq!(digest_of(&copies(&[&one, &two]), None, &progress).unwrap(), alone);
        assert_eq!(alone.noted.checksums.as_slice().len(), 3 * 2 * KEPT);
    }

    #[test]
    fn many_threads_keep_fewer_directories() {
        assert_eq!([0, 1, 4, 32, 128, 256, 512].map(kept), [8, 8, 8, 8, 2, 1, 0]);
    }

    #[test]
    fn what_others_cannot_read_is_told_and_a_name_or_a_kind_of_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        make(&root);
        let mut hidden = Vec::new();
        let mut all = copies(&[&root]);
        all.members(&mut |member| {
            hidden.extend(member.hidden.then(|| String::from_utf8(member.entry.path.clone()).unwrap()));
            Ok(())
        })
        .unwrap();
        assert_eq!((hidden.len(), &*hidden[0], &*hidden[1]), (2 * KEPT, "data/a-b", "data/below/a-b"));
        let deep = root.join(["below"; KEPT + 1].join("/"));
        let refused = |all: &Recipe| all.members(&mut |_| Ok(())).unwrap_err().to_string();
        fs::write(deep.join(".wh.x"), "").unwrap();
        assert!(refused(&all).starts_with(&format!("{}/.wh.x cannot be in a layer", deep.display())));
        fs::remove_file(deep.join(".wh.x")).unwrap();
        rustix::fs::mknodat(CWD, deep.join("pipe"), FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(refused(&all).starts_with(&format!("{}/pipe is a FIFO", deep.display())));
        all.inputs.clear();
        assert!(all.members(&mut |_| Ok(())).is_ok());
    }
}
