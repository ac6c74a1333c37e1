//! Where a blob may be had, and taking it from there.
//!
//! Wherever it comes from, what is written is compared with the digest: a place need not be trusted.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs, io};

use serde::Deserialize;

use super::Registries;
use crate::class::{Class, Classified};
use crate::disk::pipe::{PipeError, Readers};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, WriteError, bounded};
use crate::layer::Sink;
use crate::layer::output::{Output, Verify};
use crate::oci::digest::Digest;
use crate::registry::client::RegistryClient;
use crate::registry::error::RegistryError;
use crate::registry::location::{Location, LocationError};
use crate::registry::web::WebFile;

/// A place that blobs are taken from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum BlobPlace {
    /// `docker://REGISTRY/REPOSITORY`.
    Registry(Location),
    /// `https://HOST/PATH`: files at `<it>/sha256/<hex>`, as Nix's `hashed-mirrors` has them.
    Web(String),
    /// `/DIR`: an OCI layout, or the `blobs` of one.
    Directory(PathBuf),
}

/// A text that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ParsePlaceError {
    /// After `docker://`.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Anything else.
    #[error("'{0}' is not a place of blobs: expected docker://REGISTRY/REPOSITORY, https://HOST/PATH or /DIRECTORY")]
    Other(String),
}

impl Classified for ParsePlaceError {
    fn class(&self) -> Class {
        match self {
            Self::Location(_) | Self::Other(_) => Class::Usage,
        }
    }
}

/// Why a blob cannot be had from one place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PlaceError {
    /// A registry, or a web server.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A directory that does not have it.
    #[error("it has neither blobs/sha256/{name} nor sha256/{name}", name = .0.hex())]
    NotThere(Digest),
    /// A file that cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file of another size than the manifest says.
    #[error("{path} has {found} bytes, and the manifest of its image says {expected}", path = path.display())]
    Size {
        path: PathBuf,
        /// The size in the manifest.
        expected: u64,
        /// That of the file.
        found: u64,
    },
    /// A file with other bytes.
    #[error("{path} is damaged: its bytes have the digest {found}", path = path.display())]
    Damaged {
        path: PathBuf,
        /// The digest of what is there.
        found: Digest,
    },
    /// The file to write.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for PlaceError {
    fn class(&self) -> Class {
        match self {
            Self::Registry(error) => error.class(),
            Self::Read { source, .. } => source.class(),
            Self::Write(error) => error.class(),
            Self::Damaged { .. } => Class::Unverified,
            Self::NotThere(_) | Self::Size { .. } => Class::Failed,
        }
    }
}

impl PlaceError {
    /// Whether another place is not worth a try: it was this side that failed, or a signal.
    #[must_use]
    pub(crate) const fn is_ours(&self) -> bool {
        matches!(self, Self::Write(_) | Self::Registry(RegistryError::Stopped { .. } | RegistryError::Io { .. }))
    }
}

impl FromStr for BlobPlace {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("docker://") {
            let location: Location = text.parse()?;
            return Ok(Self::Registry(Location::new(location.host(), location.repository())?));
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            let host = text.split("//").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
            if host.contains('@') {
                return Err(ParsePlaceError::Other("an address with a login in it".to_owned()));
            }
            return Ok(Self::Web(text.trim_end_matches('/').to_owned()));
        }
        let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
        if path.is_absolute() {
            Ok(Self::Directory(path.to_owned()))
        } else {
            Err(ParsePlaceError::Other(text.to_owned()))
        }
    }
}

impl TryFrom<String> for BlobPlace {
    type Error = ParsePlaceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for BlobPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(location) => write!(f, "docker://{location}"),
            Self::Web(url) => f.write_str(url),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// One blob of a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WantedBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl BlobPlace {
    /// Writes a blob to `to`, verified; a download that broke off is resumed by way of `<to>.part`. Gives back the bytes
    /// that came over the network.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub(crate) fn take(
        &self,
        registries: &Registries,
        insecure: bool,
        wanted: WantedBlob,
        to: &Path,
        progress: &Progress,
    ) -> Result<u64, PlaceError> {
        let WantedBlob { digest, size } = wanted;
        match self {
            Self::Registry(at) => {
                let fetch = |client: &RegistryClient| client.fetch_blob(at, digest, size, to, progress);
                let fetched = match fetch(registries.client(insecure && at.is_loopback())) {
                    // It was not said how a mirror on this machine speaks, nor that it may be told a login in the clear.
                    Err(RegistryError::Tls { .. } | RegistryError::PlainHttp { .. }) if at.is_loopback() => {
                        fetch(registries.anonymous())
                    }
                    fetched => fetched,
                };
                Ok(fetched?.bytes_from_network)
            }
            Self::Web(url) => {
                let address = format!("{url}/sha256/{}", digest.hex());
                let file = WebFile { address: &address, digest: Some(digest), size: Some(size), version: None };
                let client = registries.client(url.starts_with("http:"));
                Ok(client.fetch_web(file, to, progress)?.bytes_from_network)
            }
            Self::Directory(folder) => copy(folder, wanted, to, progress).map(|()| 0),
        }
    }
}

/// The file of a blob in an OCI layout, or in its `blobs`.
fn find(folder: &Path, digest: Digest) -> Option<PathBuf> {
    let candidates = ["blobs/sha256", "sha256"].map(|within| folder.join(within).join(digest.hex()));
    candidates.into_iter().find(|path| path.is_file())
}

fn copy(folder: &Path, wanted: WantedBlob, to: &Path, progress: &Progress) -> Result<(), PlaceError> {
    let path = find(folder, wanted.digest).ok_or(PlaceError::NotThere(wanted.digest))?;
    copy_verified(&path, wanted, to, progress)
}

/// Copies a file that has to have this size and digest; `to` appears whole or not at all.
pub(super) fn copy_verified(from: &Path, wanted: WantedBlob, to: &Path, progress: &Progress) -> Result<(), PlaceError> {
    let reading = |source| PlaceError::Read { path: from.to_owned(), source };
    let file = bounded::open(from).map_err(reading)?;
    let size = file.metadata().map_err(reading)?.len();
    if size != wanted.size {
        return Err(PlaceError::Size { path: from.to_owned(), expected: wanted.size, found: size });
    }
    let staging = Staging::file(to)?;
    let mut output = Output::create(staging.path(), Verify::Always, true, progress)?;
    output.file(&file, size, false, Readers::default()).map_err(|error| match error {
        PipeError::Read(source) => reading(source),
        PipeError::Write(source) => output.failed(source).into(),
    })?;
    match output.finish()? {
        Some((found, _)) if found != wanted.digest => Err(PlaceError::Damaged { path: from.to_owned(), found }),
        _ => Ok(staging.publish()?),
    }
}

/// Takes a blob from the first place that has it. If none has, every place with its reason.
///
/// # Errors
/// See above; after a failure of this side's own the rest is not tried.
pub(crate) fn take_first(
    places: &[BlobPlace],
    registries: &Registries,
    insecure: bool,
    wanted: WantedBlob,
    to: &Path,
    progress: &Progress,
) -> Result<u64, Vec<(BlobPlace, PlaceError)>> {
    let mut failures = Vec::new();
    for place in places {
        match place.take(registries, insecure, wanted, to, progress) {
            Ok(network) => return Ok(network),
            Err(error) => {
                let ours = error.is_ours();
                failures.push((place.clone(), error));
                if ours {
                    break;
                }
            }
        }
    }
    Err(failures)
}

/// Removes a download that is not to be resumed.
///
/// # Errors
/// If it is there and cannot be removed.
pub(crate) fn forget_part(to: &Path) -> Result<(), WriteError> {
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", &part),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::options::RegistryOptions;

    #[test]
    fn places_are_read_as_they_are_printed() {
        for text in
            ["docker://docker.io/qdrant/qdrant", "docker://127.0.0.1:5000/m/q", "https://mirror.lan/blobs", "/dir"]
        {
            assert_eq!(text.parse::<BlobPlace>().unwrap().to_string(), text);
        }
        assert_eq!("docker://redis:8".parse::<BlobPlace>().unwrap().to_string(), "docker://docker.io/library/redis");
        assert_eq!("file:///dir".parse::<BlobPlace>().unwrap().to_string(), "/dir");
        for text in ["", "dir", "ftp://x/y", "docker://", "docker://Bad"] {
            assert!(text.parse::<BlobPlace>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_directory_gives_what_it_has_and_nothing_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (Digest::of(b"good"), Digest::of(b"other"));
        let blobs = folder.path().join("layout/blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(good.hex()), b"good").unwrap();
        fs::write(blobs.join(bad.hex()), b"evil").unwrap();
        let (progress, registries) = (Progress::new(), Registries::new(&RegistryOptions::default()).unwrap());
        let to = folder.path().join("out");
        let take = |within: &str, digest| {
            let place = BlobPlace::Directory(folder.path().join(within));
            take_first(&[place], &registries, false, WantedBlob { digest, size: 4 }, &to, &progress)
        };
        for within in ["layout", "layout/blobs"] {
            assert_eq!(take(within, good).unwrap(), 0);
            assert_eq!(fs::read(&to).unwrap(), b"good");
            fs::remove_file(&to).unwrap();
            assert_eq!(take(within, bad).unwrap_err()[0].1.class(), Class::Unverified);
            assert!(matches!(take(within, Digest::of(b"")).unwrap_err()[..], [(_, PlaceError::NotThere(_))]));
            assert!(!to.exists());
        }
    }
}
