//! Small files, written whole, and the free space of a file system.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::progress::Progress;
use super::{AtPath, WriteError};

/// The directory that a path is in; that of a bare name is `.`.
pub(crate) fn parent_of(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Writes a small file whole.
///
/// # Errors
/// With the path.
pub(crate) fn write_file(path: &Path, bytes: &[u8], progress: &Progress) -> Result<(), WriteError> {
    fs::write(path, bytes).at("write", path)?;
    progress.count_written(bytes.len() as u64);
    Ok(())
}

/// Bytes that an unprivileged user may still write to the file system of `path`, as `statvfs` gives them.
///
/// # Errors
/// If there is nothing at `path`.
pub(crate) fn free_space(path: &Path) -> Result<u64, WriteError> {
    let stat = statvfs(path).at("read the free space of", path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
