//! Blobs in the Nix store: under the very paths that the fixed-output derivations of `fetchImage` have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::disk::WriteError;
use crate::disk::progress::Progress;
use crate::nix::store::{FixedFile, NixError, NixPlaces, NixStore, StoreWriter};
use crate::oci::digest::Digest;

/// The name of a blob in the store, the same for every image that has it.
#[must_use]
pub(crate) fn store_name(digest: Digest) -> String {
    format!("oci-blob-sha256-{}", digest.hex())
}

fn file(digest: Digest) -> FixedFile {
    FixedFile::new(&store_name(digest), digest).expect("the name of a blob is a name for the store")
}

/// A Nix store, as far as blobs are concerned.
#[derive(Debug, Clone)]
pub(crate) struct BlobStore(NixStore);

impl BlobStore {
    /// The store at these places.
    ///
    /// # Errors
    /// If its directory cannot be that of a store.
    pub(crate) fn new(places: &NixPlaces) -> Result<Self, NixError> {
        NixStore::new(places).map(Self)
    }

    /// Its directory.
    #[must_use]
    pub(crate) fn folder(&self) -> &Path {
        self.0.folder()
    }

    /// Makes it one that several processes of Nix can use, see [`NixStore::set_up`].
    ///
    /// # Errors
    /// If Nix does not do it.
    pub(crate) fn set_up(&self) -> Result<(), NixError> {
        self.0.set_up()
    }

    /// That there is room, see [`NixStore::check_space`].
    ///
    /// # Errors
    /// If there is not.
    pub(crate) fn check_space(&self, cache: &Path, all: u64, at_once: u64) -> Result<(), NixError> {
        self.0.check_space(cache, all, at_once)
    }

    /// Where a blob is, or would be.
    #[must_use]
    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.0.path(&file(digest))
    }

    /// Those of these blobs that the store does not have.
    ///
    /// # Errors
    /// If Nix cannot be asked.
    pub(crate) fn missing(&self, digests: impl IntoIterator<Item = Digest>) -> Result<BTreeSet<Digest>, NixError> {
        let missing = self.0.missing(digests.into_iter().map(file))?;
        Ok(missing.iter().map(FixedFile::digest).collect())
    }

    /// Keeps a blob of the store from the garbage collector for as long as there is a link in `folder`.
    ///
    /// # Errors
    /// If there cannot be one.
    pub(crate) fn keep(&self, digest: Digest, folder: &Path) -> Result<(), NixError> {
        self.0.keep(&file(digest), folder)
    }

    /// Removes the links of all but these blobs; Nix may collect the others.
    ///
    /// # Errors
    /// If the folder cannot be changed.
    pub(crate) fn let_go(&self, folder: &Path, wanted: impl IntoIterator<Item = Digest>) -> Result<(), WriteError> {
        self.0.let_go(folder, wanted.into_iter().map(file))
    }
}

/// What puts blobs into a store, see [`StoreWriter`].
pub(crate) struct BlobWriter<'a>(StoreWriter<'a>);

impl<'a> BlobWriter<'a> {
    pub(crate) const fn new(store: &'a BlobStore) -> Self {
        Self(StoreWriter::new(&store.0))
    }

    /// Puts a blob, which was verified, into the store.
    ///
    /// # Errors
    /// If Nix does not do it.
    pub(crate) fn add(&mut self, digest: Digest, from: &Path, progress: &Progress) -> Result<PathBuf, NixError> {
        self.0.add(&file(digest), from, progress)
    }
}
