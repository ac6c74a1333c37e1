//! Blobs and manifests to a registry.

use std::io;

use super::client::Client;
use super::error::RegistryError;
use super::location::Location;
use crate::digest::Digest;
use crate::progress::Progress;

/// Writes a blob, from its first byte, each time it is called: an upload that broke off is begun again.
pub type Open<'a> = dyn Fn(&mut dyn io::Write) -> io::Result<()> + Sync + 'a;

impl Client {
    /// Whether the repository has this blob.
    ///
    /// # Errors
    /// See [`RegistryError`]; that it has not is none.
    pub fn has_blob(&self, at: &Location, digest: Digest, progress: &Progress) -> Result<bool, RegistryError> {
        let _ = (at, digest, progress);
        Err(RegistryError::Proxy)
    }

    /// Takes a blob over from another repository of the same registry. `false` if the registry did not.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn mount_blob(
        &self,
        at: &Location,
        digest: Digest,
        from_repository: &str,
        progress: &Progress,
    ) -> Result<bool, RegistryError> {
        let _ = (at, digest, from_repository, progress);
        Err(RegistryError::Proxy)
    }

    /// Uploads a blob.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn push_blob(
        &self,
        at: &Location,
        digest: Digest,
        size: u64,
        open: &Open<'_>,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let _ = (at, digest, size, open, progress);
        Err(RegistryError::Proxy)
    }

    /// Uploads a manifest or index under a tag or its digest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn push_manifest(
        &self,
        at: &Location,
        which: &str,
        media_type: &str,
        bytes: &[u8],
        progress: &Progress,
    ) -> Result<Digest, RegistryError> {
        let _ = (at, which, media_type, bytes, progress);
        Err(RegistryError::Proxy)
    }
}
