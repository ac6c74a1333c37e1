//! A tree that paths cannot lead out of: links in it are followed as in a container, where the tree is `/`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::disk::beneath::Dir;
pub(crate) use crate::disk::beneath::in_proc;

/// How often a path is looked up that something else disturbs.
const TRIES: usize = 100;

/// The root of a tree.
#[derive(Debug)]
pub(crate) struct TreeRoot {
    root: File,
    path: PathBuf,
}

impl TreeRoot {
    pub(crate) fn of(tree: Dir) -> io::Result<Self> {
        let root = tree.into_file();
        // As the kernel sees it, beside all mounts.
        let path = std::fs::read_link(in_proc(&root))?;
        Ok(Self { root, path })
    }

    /// What is at `path`, which is not followed if it is a link itself, and where that is without the links on the way.
    pub(crate) fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<(File, PathBuf)> {
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let open = |resolve: ResolveFlags| {
            let (flags, resolve) = (flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, resolve | ResolveFlags::NO_MAGICLINKS);
            // While anything is renamed anywhere the kernel may not be sure of a `..` (openat2(2), EAGAIN).
            let mut tries = (0..TRIES).map(|_| openat2(&self.root, name, flags, Mode::empty(), resolve));
            let settled = |opened: &rustix::io::Result<OwnedFd>| opened.as_ref().err() != Some(&Errno::AGAIN);
            tries.find(settled).unwrap_or(Err(Errno::AGAIN)).map(File::from)
        };
        match open(ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Ok(file) => Ok((file, path.to_owned())),
            Err(Errno::LOOP) => {
                let file = open(ResolveFlags::IN_ROOT)?;
                let real = std::fs::read_link(in_proc(&file))?;
                let real = real.strip_prefix(&self.path).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
                Ok((file, real.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A directory, which `path` may lead to by links.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<(File, PathBuf)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_at(path, flags) {
            // The last one is a link, which is not followed there.
            Err(error)
                if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) && !path.as_os_str().is_empty() =>
            {
                self.open_at(&path.join("."), flags).map(|(file, real)| (file, real.components().collect()))
            }
            result => result,
        }
    }
}
