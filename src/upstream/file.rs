//! The file of a lock: read whole, checked, and replaced in one step by one run at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::document::DocumentError;
use super::lock::{Lock, VERSION};
use super::proof::{self, Problem};
use crate::blobs::{At, Staging, WriteError, read_file, write_file};
use crate::progress::Progress;

/// More than any lock has: 1000 images of 10 platforms are a third of it.
const MAX_BYTES: u64 = 64 << 20;

/// Why there is no lock, or why it was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// There is no such file.
    #[error("{path}: there is no lock; begin one with: windlass upstream add NAME REFERENCE", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not JSON, or a key with something else than a lock has there.
    #[error("{path}:{line}:{column}: {key}{message}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The key, with `: ` after it, or nothing.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A format that this windlass does not know.
    #[error("{path}: is of version {version}, and this windlass knows version {VERSION}; update windlass", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u64,
    },
    /// Something in it that does not follow from its own bytes.
    #[error("{path}: image '{image}': {problem}", path = path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The image.
        image: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// Something that was to be written and is no lock.
    #[error("{path}: {source}", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DocumentError,
    },
    /// It cannot be written.
    #[error("{0}")]
    Write(#[from] WriteError),
}

impl LockError {
    /// Whether bytes are not what their digest says.
    #[must_use]
    pub const fn is_wrong_digest(&self) -> bool {
        matches!(self, Self::Image { problem, .. } if problem.is_wrong_digest())
    }
}

/// Reads a lock and checks all of it.
///
/// # Errors
/// See [`LockError`].
pub fn read(path: &Path) -> Result<Lock, LockError> {
    find(path)?.ok_or_else(|| LockError::Missing { path: path.to_owned() })
}

/// The same, for bytes from elsewhere; `path` is for messages.
///
/// # Errors
/// See [`LockError`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Lock, LockError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let Versioned { version } = parse_json(path, bytes)?;
    if version != u64::from(VERSION) {
        return Err(LockError::Version { path: path.to_owned(), version });
    }
    let lock: Lock = parse_json(path, bytes)?;
    proof::check(&lock).map_err(|(image, problem)| LockError::Image { path: path.to_owned(), image, problem })?;
    Ok(lock)
}

fn parse_json<'de, T: Deserialize<'de>>(path: &Path, bytes: &'de [u8]) -> Result<T, LockError> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let format = |error: &serde_json::Error, key: String| {
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
        LockError::Format { path: path.to_owned(), line: error.line(), column: error.column(), key, message }
    };
    let value = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let key = Some(error.path().to_string()).filter(|key| key != ".");
        format(error.inner(), key.map(|key| format!("{key}: ")).unwrap_or_default())
    })?;
    from.end().map_err(|error| format(&error, String::new()))?;
    Ok(value)
}

/// `None` if there is no such file.
fn find(path: &Path) -> Result<Option<Lock>, LockError> {
    let failed = |source| LockError::Read { path: path.to_owned(), source };
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            let message = format!("it is larger than {} MiB", MAX_BYTES >> 20);
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)));
        }
        _ => {}
    }
    parse(path, &read_file(path).map_err(failed)?).map(Some)
}

/// A lock that is being changed. Others that want to change it wait, readers do not.
#[derive(Debug)]
pub struct Change {
    path: PathBuf,
    before: Option<Lock>,
    /// What the lock is going to be.
    pub lock: Lock,
    /// The folder, locked for as long as this lives: so there is no other file that would have to be ignored or removed.
    _guard: File,
}

impl Change {
    /// Waits for others that change locks in this folder, then reads the lock; if there is none, it is a new one.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn begin(path: &Path, progress: &Progress) -> Result<Self, LockError> {
        // Where a link leads is what is replaced, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let guard = File::open(folder).at("open", folder)?;
        let attempt = || match guard.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        };
        progress.wait_until(folder, attempt).at("lock", folder)?;
        let before = find(&path)?;
        Ok(Self { lock: before.clone().unwrap_or_default(), before, path, _guard: guard })
    }

    /// Whether there was no lock before.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.before.is_none()
    }

    /// Puts what the lock is now in the place of what it was. `false`, and the file stays as it is, if that is the same.
    ///
    /// # Errors
    /// If the lock is none, or cannot be written; then the file is what it was.
    pub fn finish(mut self, progress: &Progress) -> Result<bool, LockError> {
        self.lock.tidy().map_err(|source| LockError::Document { path: self.path.clone(), source })?;
        if self.before.as_ref() == Some(&self.lock) {
            return Ok(false);
        }
        let bytes = self.lock.to_bytes();
        // What is written is what the next run will read: nothing that it would refuse.
        parse(&self.path, &bytes)?;
        let staging = Staging::file(&self.path)?;
        write_file(staging.path(), &bytes, progress)?;
        staging.publish()?;
        Ok(true)
    }
}
