//! Lock files of windlass itself, which no other program knows.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::beneath::{Dir, is_private_to, refused};
use super::progress::Progress;
use super::{AtPath, WriteError};

/// Takes a lock file of an open directory, made if it is not there, waiting for another windlass that holds it. Closed, it is free. No
/// other user may open it: a user who can read a file can lock it, and so stop every windlass.
pub(crate) fn take(dir: &Dir, name: &str, progress: &Progress) -> Result<File, WriteError> {
    let path = &dir.at(name);
    let file = dir.file_or_new(name)?;
    let found = rustix::fs::fstat(&file).at("read", path)?;
    is_private_to(&found, rustix::process::geteuid().as_raw()).map_err(|why| refused(path, &why))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).at("set the mode of", path)?;
    wait(path, progress, || match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    })?;
    Ok(file)
}

/// Tries until it works, and tells the progress what is being waited for.
pub(crate) fn wait(
    path: &Path,
    progress: &Progress,
    attempt: impl FnMut() -> io::Result<bool>,
) -> Result<(), WriteError> {
    progress.wait_until(path, attempt).at("lock", path)
}
