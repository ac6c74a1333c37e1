//! Blobs and manifests to a registry.

use std::io::{self, Write};

use ureq::Body;
use ureq::http::{Method, Response};

use super::answer::{header_number, header_text};
use super::client::{RegistryClient, blob_name, manifest_name};
use super::error::RegistryError;
use super::location::Location;
pub(crate) use super::stream::Open;
use super::transport::{Access, Ask, RequestBody};
use super::url::Url;
use crate::disk::progress::Progress;
use crate::oci::digest::{Digest, Hasher};

/// Bytes of one piece of an upload in pieces: more than the least that any registry takes.
const PIECE: usize = 8 << 20;

impl RegistryClient {
    /// Whether the repository has this blob, whole: where the registry says that it has another size, it is not the blob.
    ///
    /// # Errors
    /// See [`RegistryError`]; that the registry has no such blob is not an error.
    pub fn has_blob(
        &self,
        at: &Location,
        digest: Digest,
        size: u64,
        progress: &Progress,
    ) -> Result<bool, RegistryError> {
        let what = blob_name(at, digest);
        let asked = self.transport.retrying(at, progress, || {
            let ask = self.ask(at, &what, Method::HEAD, &format!("blobs/{digest}"))?;
            // The caller goes on to push.
            let answer = self.transport.send(&Ask { access: Access::Push, ..ask }, progress)?;
            Ok(header_number(answer.headers(), "content-length"))
        });
        match asked {
            // There are registries that say 0 of every blob.
            Ok(found) => Ok(found.is_none_or(|found| found == 0 || found == size)),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a blob over from another repository of the same registry. `false` if the registry did not: it has no such
    /// blob there, or does not do this, or not for this user.
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
        let what = blob_name(at, digest);
        let asked = self.transport.retrying(at, progress, || {
            let ask = self.ask(at, &what, Method::POST, "blobs/uploads/")?;
            let url = ask.url.clone().with("mount", &digest.to_string()).with("from", from_repository);
            let access = Access::Mount(from_repository);
            self.transport.send(&Ask { url, access, payload: RequestBody::Bytes(&[]), ..ask }, progress)
        });
        match asked {
            Ok(response) if response.status() == 201 => Ok(true),
            Ok(response) => {
                // An upload was begun instead. It is not needed; a registry that keeps it forgets it by itself.
                let ask = self.ask(at, &what, Method::DELETE, "")?;
                if let Ok(url) = next(&ask, &self.transport.url(at, "blobs/uploads/")?, &response) {
                    drop(self.transport.send(&Ask { url, access: Access::Push, ..ask }, progress));
                }
                Ok(false)
            }
            Err(
                RegistryError::Unauthorized { .. }
                | RegistryError::Denied { .. }
                | RegistryError::NotFound { .. }
                | RegistryError::Refused { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a blob of this size, whose bytes `open` writes: once, and again for each further try.
    ///
    /// # Errors
    /// See [`RegistryError`]. The registry checks the digest.
    pub fn push_blob(
        &self,
        at: &Location,
        digest: Digest,
        size: u64,
        open: &Open<'_>,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let what = blob_name(at, digest);
        self.transport.retrying(at, progress, || {
            let ask = self.ask(at, &what, Method::POST, "blobs/uploads/")?;
            let ask = Ask { access: Access::Push, payload: RequestBody::Bytes(&[]), ..ask };
            let begun = self.transport.send(&ask, progress)?;
            let url = next(&ask, &ask.url, &begun)?.with("digest", &digest.to_string());
            drop(begun);
            let headers = vec![("content-type", "application/octet-stream".to_owned())];
            let (method, payload, stores) = (Method::PUT, RequestBody::Stream { size, open }, true);
            self.transport.send(&Ask { method, url, headers, payload, stores, ..ask }, progress).map(drop)
        })
    }

    /// Uploads a blob whose digest is not known before `open` has written it, in pieces; gives back its digest and size.
    ///
    /// # Errors
    /// See [`RegistryError`]. `what` is the blob, for messages.
    pub(crate) fn push_stream(
        &self,
        at: &Location,
        what: &str,
        open: &Open<'_>,
        progress: &Progress,
    ) -> Result<(Digest, u64), RegistryError> {
        self.transport.retrying(at, progress, || {
            let ask = self.ask(at, what, Method::POST, "blobs/uploads/")?;
            let ask = Ask { access: Access::Push, payload: RequestBody::Bytes(&[]), ..ask };
            let begun = self.transport.send(&ask, progress)?;
            let url = next(&ask, &ask.url, &begun)?;
            drop(begun);
            let (piece, hasher) = (Vec::with_capacity(PIECE), Hasher::new());
            let mut upload = Upload { client: self, at, what, url, piece, hasher, failed: None, progress };
            let written = open(&mut upload).and_then(|()| upload.flush());
            if let Some(error) = upload.failed.take() {
                return Err(error);
            }
            written.map_err(|source| RegistryError::Source { what: what.to_owned(), source })?;
            let (digest, size) = upload.hasher.finish();
            let url = upload.url.with("digest", &digest.to_string());
            let headers = vec![("content-type", "application/octet-stream".to_owned())];
            let (method, stores) = (Method::PUT, true);
            self.transport.send(&Ask { method, url, headers, stores, ..ask }, progress)?;
            Ok((digest, size))
        })
    }

    /// Uploads a manifest or index under a tag or its digest, and gives back its digest.
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
        self.put_manifest(at, which, media_type, bytes, progress).map(|(digest, _)| digest)
    }

    /// The same; also whether the registry says that it lists the manifest for the subject that it names.
    pub(super) fn put_manifest(
        &self,
        at: &Location,
        which: &str,
        media_type: &str,
        bytes: &[u8],
        progress: &Progress,
    ) -> Result<(Digest, bool), RegistryError> {
        let what = manifest_name(at, which);
        let digest = Digest::of(bytes);
        if which.parse::<Digest>().is_ok_and(|expected| expected != digest) {
            return Err(RegistryError::WrongDigest { what, found: digest });
        }
        self.transport.retrying(at, progress, || {
            let ask = self.ask(at, &what, Method::PUT, &format!("manifests/{which}"))?;
            let headers = vec![("content-type", media_type.to_owned())];
            let (access, payload, stores) = (Access::Push, RequestBody::Bytes(bytes), true);
            let response = self.transport.send(&Ask { access, headers, payload, stores, ..ask }, progress)?;
            let said = header_text(response.headers(), "docker-content-digest").and_then(|text| text.parse().ok());
            let listed = header_text(response.headers(), "oci-subject").is_some();
            match said.filter(|said| *said != digest) {
                Some(found) => Err(RegistryError::WrongDigest { what: what.clone(), found }),
                None => Ok((digest, listed)),
            }
        })
    }
}

/// An upload in pieces.
struct Upload<'a> {
    client: &'a RegistryClient,
    at: &'a Location,
    what: &'a str,
    url: Url,
    piece: Vec<u8>,
    hasher: Hasher,
    /// What a write failed with.
    failed: Option<RegistryError>,
    progress: &'a Progress,
}

impl Upload<'_> {
    fn send(&mut self) -> Result<(), RegistryError> {
        let ask = self.client.ask(self.at, self.what, Method::PATCH, "")?;
        let start = self.hasher.count() - self.piece.len() as u64;
        let headers = vec![
            ("content-type", "application/octet-stream".to_owned()),
            ("content-range", format!("{start}-{}", self.hasher.count() - 1)),
        ];
        let (payload, url) = (RequestBody::Bytes(&self.piece), self.url.clone());
        let ask = Ask { access: Access::Push, url, headers, payload, stores: true, ..ask };
        let response = self.client.transport.send(&ask, self.progress)?;
        self.url = next(&ask, &ask.url, &response)?;
        self.piece.clear();
        Ok(())
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        self.hasher.update(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.send().map_err(|error| {
            self.failed = Some(error);
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

/// Where an upload goes on.
fn next(ask: &Ask<'_>, here: &Url, response: &Response<Body>) -> Result<Url, RegistryError> {
    header_text(response.headers(), "location").and_then(|there| here.join(there)).ok_or_else(|| {
        RegistryError::Malformed {
            host: ask.at.host().to_owned(),
            what: ask.what.to_owned(),
            reason: "it does not say where to upload to".to_owned(),
        }
    })
}
