//! Files in the Nix store, under the very paths that fixed-output derivations of them have, so that those are built
//! already; and links that keep them there.
//!
//! A link in `<state>/gcroots/auto` to a link that leads into the store keeps what that one names; Nix removes it once the
//! second link is gone (Nix manual, `nix-store --add-root`). Root writes it directly: no process, and no Nix on PATH.
//! Anybody else asks `nix-store`, which asks the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use std::{fs, io};

use crate::class::{Class, Classified};
use crate::disk::files::free_space;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::nix::connection::NixConnection;
use crate::nix::store_path::{NarHash, StoreDir, StorePathError, nixbase32};
use crate::oci::digest::Digest;

/// How often Nix is asked again whose database is busy, and after how long: for 20 seconds in all.
pub(super) const BUSY_TRIES: usize = 200;
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Why files cannot be put into the Nix store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NixError {
    /// The store directory, or the name of a file in it.
    #[error(transparent)]
    StorePath(#[from] StorePathError),
    /// There is no Nix.
    #[error("nix-store cannot be run: {0}; put it on PATH")]
    Missing(io::Error),
    /// There is no Nix to hand files to.
    #[error("nix-daemon cannot be run: {0}; put it on PATH, beside nix-store")]
    NoDaemon(io::Error),
    /// It does not take a file.
    #[error("nix-daemon --stdio: {said}")]
    Connection {
        /// What it said.
        said: String,
    },
    /// A file for the store.
    #[error("read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Nix did not do it.
    #[error("nix-store {what}: {said}")]
    Failed {
        /// What it was to do.
        what: &'static str,
        /// What it said.
        said: String,
    },
    /// Less space than what is to come.
    #[error("{folder} has {free} bytes free, and {needed} are to be written there; free some", folder = folder.display())]
    NoSpace {
        folder: PathBuf,
        /// What would be written.
        needed: u64,
        /// What is free.
        free: u64,
    },
    /// Nix put a file elsewhere than where derivations look for it.
    #[error("nix-store put a file at {found} instead of {expected}; is NIX_STORE_DIR the directory of this store?", found = found.display(), expected = expected.display())]
    Elsewhere {
        /// Where it is.
        found: PathBuf,
        /// Where it should be.
        expected: PathBuf,
    },
    /// Links of garbage collector roots.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Nix does not take a link for a root.
    #[error(transparent)]
    Root(#[from] RootError),
}

impl Classified for NixError {
    fn class(&self) -> Class {
        match self {
            Self::StorePath(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Root(error) => error.class(),
            Self::NoSpace { .. } => Class::NoSpace,
            Self::Read { source, .. } => source.class(),
            Self::Missing(_) | Self::NoDaemon(_) => Class::Environment,
            Self::Failed { .. } | Self::Connection { .. } | Self::Elsewhere { .. } => Class::Failed,
        }
    }
}

/// Why Nix may collect what is to be kept.
#[derive(Debug, thiserror::Error)]
#[error("{link} is not a garbage collector root: {why}; keep the build's result link until it is", link = link.display())]
pub(crate) struct RootError {
    /// The link that should keep a store path.
    pub(crate) link: PathBuf,
    /// What went wrong.
    pub(crate) why: String,
}

impl Classified for RootError {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// Where Nix keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixPlaces {
    /// The store: `/nix/store`.
    pub store: PathBuf,
    /// The state: `/nix/var/nix`.
    pub state: PathBuf,
}

/// A file for the store. Its name and the SHA-256 of its content say where it is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FixedFile {
    name: String,
    digest: Digest,
}

impl FixedFile {
    /// The file of this name and content.
    ///
    /// # Errors
    /// If the store does not allow the name.
    pub(crate) fn new(name: &str, digest: Digest) -> Result<Self, StorePathError> {
        // The directory is a part of the path, and none of what makes a name.
        StoreDir::default().fixed_output(name, digest.as_bytes())?;
        Ok(Self { name: name.to_owned(), digest })
    }

    /// The digest of its content.
    #[must_use]
    pub(crate) const fn digest(&self) -> Digest {
        self.digest
    }
}

/// A Nix store, as far as files of known content are concerned.
#[derive(Debug, Clone)]
pub(crate) struct NixStore {
    places: NixPlaces,
    dir: StoreDir,
}

impl NixStore {
    /// The store at these places.
    ///
    /// # Errors
    /// If its directory cannot be that of a store.
    pub(crate) fn new(places: &NixPlaces) -> Result<Self, NixError> {
        let dir = StoreDir::new(&places.store.to_string_lossy())?;
        Ok(Self { places: places.clone(), dir })
    }

    /// Its directory.
    #[must_use]
    pub(crate) fn folder(&self) -> &Path {
        &self.places.store
    }

    /// Where a file is, or would be.
    ///
    /// # Panics
    /// Never: the name of a [`FixedFile`] is one for the store.
    #[must_use]
    pub(crate) fn path(&self, file: &FixedFile) -> PathBuf {
        let path = self.dir.fixed_output(&file.name, file.digest.as_bytes());
        self.dir.display(&path.expect("the name was checked")).into()
    }

    /// Those of these files that the store does not have.
    ///
    /// # Errors
    /// If Nix cannot be asked.
    pub(crate) fn missing(&self, files: impl IntoIterator<Item = FixedFile>) -> Result<BTreeSet<FixedFile>, NixError> {
        // What is not even there is not asked about; what is may have been left by a killed run.
        let (there, missing): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| self.path(file).symlink_metadata().is_ok());
        let mut missing: BTreeSet<FixedFile> = missing.into_iter().collect();
        let paths: Vec<PathBuf> = there.iter().map(|file| self.path(file)).collect();
        let invalid = invalid(&paths)?;
        missing.extend(there.into_iter().filter(|file| invalid.contains(&self.path(file))));
        Ok(missing)
    }

    /// Makes Nix set up a store that is new, before several processes of it are at work at a time: two that set up its
    /// database at once disturb each other (2.8 then says that `db/schema` is corrupt, or that the database is busy). Beside a daemon it changes
    /// nothing: the store is there.
    ///
    /// # Errors
    /// If Nix does not do it.
    pub(crate) fn set_up(&self) -> Result<(), NixError> {
        run("--check-validity", [], &[]).map(drop)
    }

    /// That `all` bytes fit into the store, and beside them the `at_once` that are in `cache` until the store has them.
    ///
    /// # Errors
    /// If they do not ([`NixError::NoSpace`]), or that cannot be known.
    pub(crate) fn check_space(&self, cache: &Path, all: u64, at_once: u64) -> Result<(), NixError> {
        let store = self.folder();
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).at("read", path);
        let needed: &[(&Path, u64)] = if device(cache)? == device(store)? {
            &[(store, all + at_once)]
        } else {
            &[(store, all), (cache, at_once)]
        };
        for &(folder, needed) in needed.iter().filter(|(_, needed)| *needed > 0) {
            let free = free_space(folder)?;
            if free < needed {
                return Err(NixError::NoSpace { folder: folder.to_owned(), needed, free });
            }
        }
        Ok(())
    }

    /// Keeps a file of the store from the garbage collector for as long as there is a link in `folder`.
    ///
    /// # Errors
    /// If there cannot be one.
    pub(crate) fn keep(&self, file: &FixedFile, folder: &Path) -> Result<(), NixError> {
        let path = self.path(file);
        let link = folder.join(path.file_name().unwrap_or_default());
        if fs::read_link(&link).ok().as_ref() != Some(&path) {
            fs::create_dir_all(folder).at("create", folder)?;
            drop(fs::remove_file(&link));
            symlink(&path, &link).at("create", &link)?;
        }
        Ok(register(&self.places, &link, &path)?)
    }

    /// Removes the links of all but these files; Nix may collect the others.
    ///
    /// # Errors
    /// If the folder cannot be changed.
    pub(crate) fn let_go(&self, folder: &Path, wanted: impl IntoIterator<Item = FixedFile>) -> Result<(), WriteError> {
        let wanted: BTreeSet<PathBuf> = wanted.into_iter().map(|file| self.path(&file)).collect();
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.at("read", folder)?,
        };
        for entry in entries {
            let path = entry.at("read", folder)?.path();
            if fs::read_link(&path).is_ok_and(|target| !wanted.contains(&target)) {
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        Ok(())
    }
}

/// What puts files into a store, one after the other: one Nix for all of them, which is started for the first.
pub(crate) struct StoreWriter<'a> {
    store: &'a NixStore,
    connection: Option<NixConnection>,
}

impl<'a> StoreWriter<'a> {
    pub(crate) const fn new(store: &'a NixStore) -> Self {
        Self { store, connection: None }
    }

    /// Puts the file at `from`, which was verified, into the store, under the name of `file`.
    ///
    /// # Errors
    /// If Nix does not do it.
    pub(crate) fn add(&mut self, file: &FixedFile, from: &Path, progress: &Progress) -> Result<PathBuf, NixError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => NixConnection::open()?,
        };
        let (found, expected) = (connection.add(&file.name, from, progress)?, self.store.path(file));
        self.connection = Some(connection);
        if found == expected { Ok(found) } else { Err(NixError::Elsewhere { found, expected }) }
    }
}

/// Makes Nix take `link`, which leads to `path` in its store, for a root.
///
/// # Errors
/// If neither the folder can be written to nor `nix-store` does it.
pub(crate) fn register(nix: &NixPlaces, link: &Path, path: &Path) -> Result<(), RootError> {
    let name = nixbase32::encode(&Digest::of(link.as_os_str().as_encoded_bytes()).as_bytes()[..20]);
    let folder = nix.state.join("gcroots/auto");
    let auto = folder.join(name);
    // On a machine whose Nix has never made a root of this kind it is not there yet. Above it Nix itself makes everything,
    // so nothing else is made where no Nix is.
    drop(fs::create_dir(&folder));
    if fs::read_link(&auto).is_ok_and(|target| target == link) || symlink(link, &auto).is_ok() {
        return Ok(());
    }
    let failed = |why: String| RootError { link: link.to_owned(), why };
    let mut command = Command::new("nix-store");
    command.args(["--indirect", "--add-root"]).arg(link).arg("--realise").arg(path);
    let output = output(command)
        .map_err(|error| failed(format!("{} cannot be written to, and nix-store: {error}", auto.display())))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(failed(said.trim().trim_start_matches("error: ").to_owned())) }
}

/// Those of these store paths that are not valid.
///
/// # Errors
/// If Nix cannot be asked.
pub(crate) fn invalid(paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, NixError> {
    let mut invalid = BTreeSet::new();
    // A command line has room for this many.
    for some in paths.chunks(500) {
        let printed = run("--check-validity", [OsStr::new("--print-invalid")], some)?;
        invalid.extend(printed.lines().map(PathBuf::from));
    }
    Ok(invalid)
}

/// Whether there is a Nix. Without a database and a daemon there is not, and asking would make one.
#[must_use]
pub(crate) fn is_there(nix: &NixPlaces) -> bool {
    ["db/db.sqlite", "daemon-socket/socket"].iter().any(|name| nix.state.join(name).exists())
}

/// The hashes that Nix has recorded of these store paths; an error if one of them is not valid.
///
/// # Errors
/// If Nix cannot be asked, or does not know a path.
pub(crate) fn recorded_hashes(
    nix: &NixPlaces,
    paths: &BTreeSet<PathBuf>,
) -> Result<BTreeMap<PathBuf, NarHash>, NixError> {
    if !is_there(nix) {
        return Err(NixError::Missing(io::ErrorKind::NotFound.into()));
    }
    let paths: Vec<PathBuf> = paths.iter().cloned().collect();
    let mut hashes = BTreeMap::new();
    // A command line has room for this many.
    for paths in paths.chunks(1000) {
        let printed = run("--query", [OsStr::new("--hash")], paths)?;
        let lines: Vec<&str> = printed.lines().collect();
        if lines.len() != paths.len() {
            let said = format!("{} answers for {} paths", lines.len(), paths.len());
            return Err(NixError::Failed { what: "--query --hash", said });
        }
        for (path, line) in paths.iter().zip(lines) {
            let hash = line.trim().parse().map_err(|error: crate::nix::store_path::ParseNarHashError| {
                NixError::Failed { what: "--query --hash", said: error.to_string() }
            })?;
            hashes.insert(path.clone(), hash);
        }
    }
    Ok(hashes)
}

/// The derivations that made these store paths, where Nix knows them. There need be no Nix, and it need not have them.
pub(crate) fn derivers(nix: &NixPlaces, paths: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, PathBuf> {
    let paths: Vec<PathBuf> = paths.iter().cloned().collect();
    if !is_there(nix) {
        return BTreeMap::new();
    }
    let Ok(invalid) = invalid(&paths) else { return BTreeMap::new() };
    let valid: Vec<PathBuf> = paths.into_iter().filter(|path| !invalid.contains(path)).collect();
    let mut derivers = BTreeMap::new();
    for paths in valid.chunks(1000) {
        let Ok(printed) = run("--query", [OsStr::new("--deriver")], paths) else { continue };
        let lines: Vec<&str> = printed.lines().map(str::trim).collect();
        // One line for each, or it is not known which is which.
        for (path, line) in paths.iter().zip(&lines).filter(|_| lines.len() == paths.len()) {
            if line.starts_with('/') {
                derivers.insert(path.clone(), PathBuf::from(line));
            }
        }
    }
    derivers
}

pub(super) fn run<'a>(
    what: &'static str,
    options: impl IntoIterator<Item = &'a OsStr>,
    paths: &[PathBuf],
) -> Result<String, NixError> {
    let mut command = Command::new("nix-store");
    command.arg(what).args(options).args(paths);
    let output = output(command).map_err(NixError::Missing)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // Warnings come first; the last line says what it was.
        let said = said.trim().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        return Err(NixError::Failed { what, said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What Nix answers. Without a daemon each process opens the store's database itself, and one that does so while the last
/// of the others closes it is turned away (`SQLITE_BUSY`, which sqlite.org/wal.html has under "Sometimes Queries Return
/// SQLITE_BUSY In WAL Mode"): Nix waits where it reads and writes, but not where it opens (seen with 2.8). So it is asked
/// again.
fn output(mut command: Command) -> io::Result<Output> {
    let busy = |output: &Output| !output.status.success() && is_busy(&String::from_utf8_lossy(&output.stderr));
    command.stdin(Stdio::null());
    let mut output = command.output()?;
    for _ in 0..BUSY_TRIES {
        if !busy(&output) {
            break;
        }
        std::thread::sleep(BUSY_PAUSE);
        output = command.output()?;
    }
    Ok(output)
}

pub(super) fn is_busy(said: &str) -> bool {
    said.contains("SQLite database '") && said.contains("' is busy")
}

/// The name that a file gets in the store, made of its own: every byte that a store path cannot have is `-`, a `.`
/// in front, which Nix refuses, gets an `_` before it, and of a very long name the end counts. The same rule as
/// `fileStoreName` in nix/lib/fetchModel.nix.
#[must_use]
pub fn fitting_name(name: &str) -> String {
    /// What Nix allows, less what a derivation's `.drv` and a lock beside the path take.
    const MOST: usize = 200;
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
    let fitting: String = name.bytes().map(|byte| if fits(&byte) { char::from(byte) } else { '-' }).collect();
    let end = &fitting[fitting.len().saturating_sub(MOST)..];
    if end.is_empty() || end.starts_with('.') { format!("_{end}") } else { end.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit() {
        for (name, fitting) in [
            ("m-00001-of-00002.gguf", "m-00001-of-00002.gguf"),
            ("My model (1)é.gguf", "My-model--1---.gguf"),
            (".gitattributes", "_.gitattributes"),
            ("", "_"),
        ] {
            assert_eq!(fitting_name(name), fitting);
            FixedFile::new(fitting, Digest::of(b"")).unwrap();
        }
        let long = format!("{}.gguf", "x".repeat(300));
        assert_eq!(fitting_name(&long).len(), 200);
        assert!(fitting_name(&long).ends_with("x.gguf"));
        assert!(FixedFile::new("a/b", Digest::of(b"")).is_err());
    }
}
