//! Blobs in the Nix store: under the very paths that the fixed-output derivations of `fetchImage` have, so that those are
//! built already.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::blobs::{At, WriteError};
use crate::digest::Digest;
use crate::podman::gc_roots::{self, RootError};
use crate::podman::generations::NixPlaces;
use crate::store::{StoreDir, StorePathError};

/// Why blobs cannot be put into the Nix store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NixError {
    /// The store directory.
    #[error("{0}")]
    StoreDir(#[from] StorePathError),
    /// There is no Nix.
    #[error("nix-store cannot be run: {0}; put it on PATH")]
    Missing(io::Error),
    /// Nix did not do it.
    #[error("nix-store {what}: {said}")]
    Failed {
        /// What it was to do.
        what: &'static str,
        /// What it said.
        said: String,
    },
    /// Nix put a file elsewhere than where derivations look for it.
    #[error("nix-store put a blob at {found} instead of {expected}; is NIX_STORE_DIR the directory of this store?", found = found.display(), expected = expected.display())]
    Elsewhere {
        /// Where it is.
        found: PathBuf,
        /// Where it should be.
        expected: PathBuf,
    },
    /// Links of garbage collector roots.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// Nix does not take a link for a root.
    #[error("{0}")]
    Root(#[from] RootError),
}

/// The name of a blob in the store, the same for every image that has it.
#[must_use]
pub fn store_name(digest: Digest) -> String {
    format!("oci-blob-sha256-{}", digest.hex())
}

/// A Nix store, as far as blobs are concerned.
#[derive(Debug, Clone)]
pub struct BlobStore {
    places: NixPlaces,
    dir: StoreDir,
}

impl BlobStore {
    /// The store at these places.
    ///
    /// # Errors
    /// If its directory is none for a store.
    pub fn new(places: &NixPlaces) -> Result<Self, NixError> {
        let dir = StoreDir::new(&places.store.to_string_lossy())?;
        Ok(Self { places: places.clone(), dir })
    }

    /// Its directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.places.store
    }

    /// Where a blob is, or would be.
    ///
    /// # Panics
    /// Never: the name of a blob is a name for the store.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        let path = self.dir.fixed_output(&store_name(digest), digest.as_bytes());
        self.dir.display(&path.expect("the name of a blob is a name for the store")).into()
    }

    /// Those of these blobs that the store does not have.
    ///
    /// # Errors
    /// If Nix cannot be asked.
    pub fn missing(&self, digests: impl IntoIterator<Item = Digest>) -> Result<BTreeSet<Digest>, NixError> {
        // What is not even there is not asked about; what is may have been left by a killed run.
        let (there, mut missing): (Vec<_>, BTreeSet<_>) = {
            let (there, missing): (Vec<_>, Vec<_>) =
                digests.into_iter().partition(|digest| self.path(*digest).symlink_metadata().is_ok());
            (there, missing.into_iter().collect())
        };
        // A command line has room for this many.
        for some in there.chunks(500) {
            let paths: Vec<PathBuf> = some.iter().map(|digest| self.path(*digest)).collect();
            let printed = run("--check-validity", [OsStr::new("--print-invalid")], &paths)?;
            let invalid: BTreeSet<&Path> = printed.lines().map(Path::new).collect();
            missing
                .extend(some.iter().zip(&paths).filter(|(_, path)| invalid.contains(path.as_path())).map(|(d, _)| *d));
        }
        Ok(missing)
    }

    /// Puts a file, which has the [`store_name`] of this blob and was verified, into the store.
    ///
    /// # Errors
    /// If Nix does not do it.
    pub fn add(&self, digest: Digest, file: &Path) -> Result<PathBuf, NixError> {
        let printed = run("--add-fixed", [OsStr::new("sha256")], &[file.to_owned()])?;
        let (found, expected) = (PathBuf::from(printed.trim_end()), self.path(digest));
        if found == expected { Ok(found) } else { Err(NixError::Elsewhere { found, expected }) }
    }

    /// Keeps a blob of the store from the garbage collector for as long as there is a link in `folder`.
    ///
    /// # Errors
    /// If there cannot be one.
    pub fn keep(&self, digest: Digest, folder: &Path) -> Result<(), NixError> {
        let path = self.path(digest);
        let link = folder.join(store_name(digest));
        if fs::read_link(&link).ok().as_ref() != Some(&path) {
            fs::create_dir_all(folder).at("create", folder)?;
            drop(fs::remove_file(&link));
            symlink(&path, &link).at("create", &link)?;
        }
        Ok(gc_roots::register(&self.places, &link, &path)?)
    }
}

/// Removes the links of blobs that are not `wanted` any more; Nix may collect those.
///
/// # Errors
/// If the folder cannot be changed.
pub fn let_go(folder: &Path, wanted: impl Fn(Digest) -> bool) -> Result<(), WriteError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.at("read", folder)?,
    };
    for entry in entries {
        let path = entry.at("read", folder)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = name.strip_prefix("oci-blob-sha256-").and_then(|hex| Digest::from_hex(hex).ok());
        if digest.is_some_and(|digest| !wanted(digest)) {
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    Ok(())
}

fn run<'a>(
    what: &'static str,
    options: impl IntoIterator<Item = &'a OsStr>,
    paths: &[PathBuf],
) -> Result<String, NixError> {
    let output = Command::new("nix-store").arg(what).args(options).args(paths).stdin(Stdio::null()).output();
    let output = output.map_err(NixError::Missing)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // Warnings come first; the last line says what it was.
        let said = said.trim().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        return Err(NixError::Failed { what, said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
