//! The locks of containers-storage: POSIX record locks on `*.lock` files, shared by every Podman of the host.
//!
//! A lock belongs to the process: closing *any* descriptor of a lock file gives up all its locks on it. So a lock file is
//! open once at a time here, by the [`StorageLock`] that holds it (fcntl(2), "Advisory record locking").
//!
//! A process that changes what a lock guards writes 64 fresh bytes into the lock file; a `podman system service` that has
//! the records in memory compares them and reads the records again (containers/storage `pkg/lockfile`, 1.43 to 1.57).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::disk::beneath::Dir;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};

/// What a lock is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Together with others that read.
    Reading,
    /// Alone.
    Writing,
}

/// A held lock; dropped, it is free.
#[derive(Debug)]
pub(crate) struct StorageLock {
    file: File,
}

impl StorageLock {
    /// Takes the lock, waiting for its holder, but not for ever ([`Progress::patience`]). `None` if there is no lock
    /// file: then there is no store either.
    ///
    /// # Errors
    /// If the file cannot be opened, another process does not let go of it, or the job was told to stop while it waited.
    pub(crate) fn take(path: &Path, purpose: For, progress: &Progress) -> Result<Option<Self>, WriteError> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        match OpenOptions::new().read(true).write(purpose == For::Writing).custom_flags(flags).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => Self::of(file.at("open", path)?, path, purpose, progress).map(Some),
        }
    }

    /// The same in a directory that is open; there must be a lock file.
    pub(crate) fn take_in(dir: &Dir, name: &str, purpose: For, progress: &Progress) -> Result<Self, WriteError> {
        let file = if purpose == For::Writing { dir.file_to_write(name)? } else { dir.file(name)? };
        Self::of(file, &dir.at(name), purpose, progress)
    }

    fn of(file: File, path: &Path, purpose: For, progress: &Progress) -> Result<Self, WriteError> {
        let (operation, typ) = match purpose {
            For::Reading => (FlockOperation::NonBlockingLockShared, FlockType::ReadLock),
            For::Writing => (FlockOperation::NonBlockingLockExclusive, FlockType::WriteLock),
        };
        let holder = || {
            let wanted = Flock { start: 0, length: 0, pid: None, typ, offset_type: FlockOffsetType::Set };
            let pid = fcntl_getlk(&file, &wanted).ok().flatten()?.pid?;
            Some(pid.as_raw_nonzero().get())
        };
        progress
            .wait_patiently(path, holder, || match fcntl_lock(&file, operation) {
                Ok(()) => Ok(true),
                Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => Ok(false),
                Err(error) => Err(error.into()),
            })
            .at("lock", path)?;
        Ok(Self { file })
    }

    /// Says that what the lock guards has changed, or is about to: other processes look only when the lock is free.
    ///
    /// # Errors
    /// If the lock file cannot be written.
    pub(crate) fn touch(&self, path: &Path) -> Result<(), WriteError> {
        let mut fresh = [0; 64];
        getrandom(&mut fresh, GetRandomFlags::empty()).at("get random bytes for", path)?;
        self.file.write_all_at(&fresh, 0).at("write", path)
    }
}
