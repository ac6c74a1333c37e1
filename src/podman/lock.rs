//! The locks of containers-storage: POSIX record locks on `*.lock` files, shared by every Podman of the host.
//!
//! A lock belongs to the process: closing *any* descriptor of a lock file gives up all its locks on it. So a lock file is
//! open once at a time here, by the [`Lock`] that holds it (fcntl(2), "Advisory record locking").
//!
//! Whoever changes what a lock guards writes 64 fresh bytes into the lock file; a `podman system service` that has
//! the records in memory compares them and reads the records again (containers/storage `pkg/lockfile`, 1.43 to 1.57).

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::blobs::{At, WriteError};
use crate::progress::Progress;

/// What a lock is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Together with others that read.
    Reading,
    /// Alone.
    Writing,
}

/// A held lock; dropped, it is free.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, waiting for whoever holds it. `None` if there is no lock file: then there is no store either.
    ///
    /// # Errors
    /// If the file cannot be opened, or the job was told to stop while it waited.
    pub fn take(path: &Path, purpose: For, progress: &Progress) -> Result<Option<Self>, WriteError> {
        let file = match OpenOptions::new().read(true).write(purpose == For::Writing).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.at("open", path)?,
        };
        let operation = match purpose {
            For::Reading => FlockOperation::NonBlockingLockShared,
            For::Writing => FlockOperation::NonBlockingLockExclusive,
        };
        wait(path, progress, || match fcntl_lock(&file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        })?;
        Ok(Some(Self { file }))
    }

    /// Says that what the lock guards has changed, or is about to: nobody looks before the lock is free.
    ///
    /// # Errors
    /// If the lock file cannot be written.
    pub fn touch(&self, path: &Path) -> Result<(), WriteError> {
        let mut fresh = [0; 64];
        getrandom(&mut fresh, GetRandomFlags::empty()).at("get random bytes for", path)?;
        self.file.write_all_at(&fresh, 0).at("write", path)
    }
}

/// Takes a lock file of our own, which no Podman knows, waiting for another windlass that holds it. Closed, it is free.
pub(super) fn file(path: &Path, progress: &Progress) -> Result<File, WriteError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).at("open", path)?;
    wait(path, progress, || match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    })?;
    Ok(file)
}

/// Tries until it works, and tells the progress what is being waited for.
pub(super) fn wait(
    path: &Path,
    progress: &Progress,
    attempt: impl FnMut() -> io::Result<bool>,
) -> Result<(), WriteError> {
    progress.wait_until(path, attempt).at("lock", path)
}
