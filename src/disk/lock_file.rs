//! Locks: files of JSON that people commit, read whole, checked, and replaced in one step by one run at a time.
//!
//! Nothing in them tells the time, and the same content gives the same bytes: keys are sorted, and characters beyond ASCII
//! are escaped.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::class::{Class, Classified};
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, WriteError};

/// More than any lock has: 1000 images of 10 platforms are a third of it.
const MAX_BYTES: u64 = 64 << 20;

/// Why there is no lock, or why it was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockFileError {
    /// There is no such file.
    #[error("{path}: there is no lock; begin one with: {begin}", path = path.display())]
    Missing {
        path: PathBuf,
        /// The command that writes one.
        begin: &'static str,
    },
    /// It cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not JSON, or a key with something else than a lock has there.
    #[error("{path}:{line}:{column}: {key}{message}", path = path.display())]
    Format {
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The key, with `: ` after it, or nothing.
        key: String,
        message: String,
    },
    /// A format that this windlass does not know.
    #[error("{path}: is of version {version}, and this windlass knows version {known}; update windlass", path = path.display())]
    Version {
        path: PathBuf,
        /// What it says.
        version: u64,
        /// What is known.
        known: u32,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for LockFileError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Write(error) => error.class(),
            Self::Missing { .. } | Self::Format { .. } | Self::Version { .. } => Class::Failed,
        }
    }
}

/// What is in a lock.
pub trait LockFile: Clone + PartialEq + Default + Serialize + DeserializeOwned {
    /// The format that this windlass writes.
    const VERSION: u32;
    /// The command that begins one.
    const BEGIN: &'static str;
    /// Why there is no lock.
    type Error: From<LockFileError>;

    /// Whether all of it holds; `path` is for messages.
    ///
    /// # Errors
    /// With what does not.
    fn check(&self, path: &Path) -> Result<(), Self::Error>;

    /// Drops what nothing in it needs any more, before it is written.
    ///
    /// # Errors
    /// If what is in it cannot be read.
    fn tidy(&mut self, path: &Path) -> Result<(), Self::Error> {
        self.check(path)
    }
}

/// Reads a lock and checks all of it.
///
/// # Errors
/// If there is no lock.
pub(crate) fn read<L: LockFile>(path: &Path) -> Result<L, L::Error> {
    find::<L>(path)?.ok_or_else(|| missing::<L>(path).into())
}

/// That there is no such lock.
#[must_use]
pub(crate) fn missing<L: LockFile>(path: &Path) -> LockFileError {
    LockFileError::Missing { path: path.to_owned(), begin: L::BEGIN }
}

/// The same, for bytes from elsewhere; `path` is for messages.
///
/// # Errors
/// If they are none.
pub fn parse<L: LockFile>(path: &Path, bytes: &[u8]) -> Result<L, L::Error> {
    #[derive(Deserialize)]
    struct VersionedLock {
        version: u64,
    }
    let VersionedLock { version } = parse_json(path, bytes)?;
    if version != u64::from(L::VERSION) {
        return Err(LockFileError::Version { path: path.to_owned(), version, known: L::VERSION }.into());
    }
    let lock: L = parse_json(path, bytes)?;
    lock.check(path)?;
    Ok(lock)
}

fn parse_json<'de, T: Deserialize<'de>>(path: &Path, bytes: &'de [u8]) -> Result<T, LockFileError> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let format = |error: &serde_json::Error, key: String| {
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
        LockFileError::Format { path: path.to_owned(), line: error.line(), column: error.column(), key, message }
    };
    let value = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let key = Some(error.path().to_string()).filter(|key| key != ".");
        format(error.inner(), key.map(|key| format!("{key}: ")).unwrap_or_default())
    })?;
    from.end().map_err(|error| format(&error, String::new()))?;
    Ok(value)
}

/// `None` if there is no such file.
fn find<L: LockFile>(path: &Path) -> Result<Option<L>, L::Error> {
    let failed = |source| LockFileError::Read { path: path.to_owned(), source };
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            let message = format!("it is larger than {} MiB", MAX_BYTES >> 20);
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)).into());
        }
        _ => {}
    }
    parse(path, &bounded::read(path, Cap::Document).map_err(failed)?).map(Some)
}

/// A lock that is being changed. Others that want to change it wait, readers do not.
#[derive(Debug)]
pub(crate) struct LockFileChange<L> {
    path: PathBuf,
    before: Option<L>,
    /// What the lock is going to be.
    pub(crate) lock: L,
    /// The folder, locked for as long as this lives: so there is no other file that would have to be ignored or removed.
    _guard: File,
}

impl<L: LockFile> LockFileChange<L> {
    /// Waits for others that change locks in this folder, then reads the lock, or begins a new one.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub(crate) fn begin(path: &Path, progress: &Progress) -> Result<Self, L::Error> {
        // Where a link leads is what is replaced, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let guard = Dir::open(folder).map_err(LockFileError::from)?.into_file();
        let attempt = || match guard.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        };
        progress.wait_until(folder, attempt).at("lock", folder).map_err(LockFileError::from)?;
        let before = find::<L>(&path)?;
        Ok(Self { lock: before.clone().unwrap_or_default(), before, path, _guard: guard })
    }

    /// Whether there was no lock before.
    #[must_use]
    pub(crate) const fn is_new(&self) -> bool {
        self.before.is_none()
    }

    /// Whether the lock is another one now, and could be written. The file stays as it is.
    ///
    /// # Errors
    /// If it could not be read again.
    pub(crate) fn would_change(mut self) -> Result<bool, L::Error> {
        self.lock.tidy(&self.path)?;
        parse::<L>(&self.path, &to_text(&self.lock).into_bytes())?;
        Ok(self.before.as_ref() != Some(&self.lock))
    }

    /// Puts what the lock is now in the place of what it was. `false`, and the file stays as it is, if that is the same.
    ///
    /// # Errors
    /// If the lock cannot be read or written; then the file is what it was.
    pub(crate) fn finish(mut self, progress: &Progress) -> Result<bool, L::Error> {
        self.lock.tidy(&self.path)?;
        if self.before.as_ref() == Some(&self.lock) {
            return Ok(false);
        }
        let bytes = to_text(&self.lock).into_bytes();
        // What is written is what the next run will read: nothing that it would refuse.
        parse::<L>(&self.path, &bytes)?;
        replace(&self.path, &bytes, progress).map_err(LockFileError::from)?;
        Ok(true)
    }
}

fn replace(path: &Path, bytes: &[u8], progress: &Progress) -> Result<(), WriteError> {
    let staging = Staging::file(path)?;
    write_file(staging.path(), bytes, progress)?;
    staging.publish()
}

/// A file of JSON: sorted, two spaces of indent, ASCII, a newline at the end. Unlike canonical JSON it has room for any
/// number that other programs' keys may have.
///
/// # Panics
/// Never for the types of this module: all their keys are strings.
pub fn to_text<T: Serialize>(value: &T) -> String {
    // A `Value` keeps its keys sorted.
    let sorted = serde_json::to_value(value).expect("a value with string keys is JSON");
    let mut text = to_ascii(&serde_json::to_string_pretty(&sorted).expect("a value is JSON"));
    text.push('\n');
    text
}

/// JSON with every character beyond ASCII escaped. Those are only ever inside of strings.
fn to_ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            let units = c.encode_utf16(&mut [0; 2]).to_vec();
            ascii.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    ascii
}

/// A map in which no key may be there twice: of two, one would be lost without anybody knowing, as after a bad merge.
///
/// # Errors
/// If one is.
pub(crate) fn unique<'de, D, K, V>(from: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    struct Unique<K, V>(PhantomData<(K, V)>);

    impl<'de, K: Deserialize<'de> + Ord + fmt::Display, V: Deserialize<'de>> Visitor<'de> for Unique<K, V> {
        type Value = BTreeMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some(key) = access.next_key::<K>()? {
                if map.contains_key(&key) {
                    return Err(de::Error::custom(format_args!("'{key}' is there twice")));
                }
                map.insert(key, access.next_value()?);
            }
            Ok(map)
        }
    }

    from.deserialize_map(Unique(PhantomData))
}
