//! From a reference to what it is: one index or manifest by its tag, and everything below it by digest.
//!
//! Only manifests and configs are fetched, some kilobytes. A tag is asked for once; what it named at that moment is what
//! is locked, however often it moves meanwhile.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::bills::BillSearch;
use super::document::{self, DocumentError, IndexEntry, PlatformManifest, TypedDocument, UpstreamDocument};
use super::lock::{
    ConfigBlob, Locked, LockedBlob, LockedImage, LockedPlatform, OtherKeys, RawText, UpstreamLock, VerifiedSignature,
    is_floating,
};
use super::signature::{self, AskedSigner, SignatureError};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::strict;
use crate::registry::client::{RawManifest, RegistryClient};
use crate::registry::error::RegistryError;
use crate::registry::location::{Location, LocationError};

/// Why a reference was not resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReferenceResolveError {
    #[error(transparent)]
    Location(#[from] LocationError),
    /// What the registry said, or did not say.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What it names is not an image that can be locked.
    #[error("{what} {source}")]
    Document {
        /// The reference or manifest.
        what: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// A manifest of another size than the index says.
    #[error("{what} has {found} bytes, and its index says {expected}")]
    Size {
        /// The manifest.
        what: String,
        /// What the index says.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// There is no image for a platform.
    #[error("{reference} has no image for {platform}; it has {available}")]
    NoPlatform {
        reference: String,
        /// What was asked for.
        platform: Platform,
        /// What there is.
        available: String,
    },
    /// A config that does not fit its manifest.
    #[error("{what}: its config {digest} {problem}")]
    Config {
        /// The manifest.
        what: String,
        /// The config.
        digest: Digest,
        problem: String,
    },
    /// Two images that say different things of one blob.
    #[error("{digest}: {found} here, but {known} in another image of the lock; one of the two lies")]
    Conflict {
        /// The blob.
        digest: Digest,
        /// What this image says.
        found: String,
        /// What the lock has.
        known: String,
    },
    /// A signature that is asked for.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Classified for ReferenceResolveError {
    fn class(&self) -> Class {
        match self {
            Self::Location(error) => error.class(),
            Self::Registry(error) => error.class(),
            Self::Document { source, .. } => source.class(),
            Self::Signature(error) => error.class(),
            Self::Size { .. } | Self::Conflict { .. } => Class::Unverified,
            Self::NoPlatform { .. } | Self::Config { .. } => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Signature(error) => error.hint(),
            Self::Location(_)
            | Self::Registry(_)
            | Self::Document { .. }
            | Self::Size { .. }
            | Self::Conflict { .. }
            | Self::NoPlatform { .. }
            | Self::Config { .. } => None,
        }
    }
}

/// What a reference is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvedReference {
    /// For the image.
    pub(crate) locked: Locked,
    /// For the table of blobs.
    pub(crate) blobs: BTreeMap<Digest, LockedBlob>,
    /// What was verified; `None` without a policy.
    pub(crate) verified: Option<VerifiedSignature>,
}

/// Looks up what an image is asked to be; `trust_roots` is the table of its lock.
///
/// # Errors
/// See [`ReferenceResolveError`].
pub(crate) fn resolve(
    client: &RegistryClient,
    image: &LockedImage,
    trust_roots: &BTreeMap<Digest, String>,
    progress: &Progress,
) -> Result<ResolvedReference, ReferenceResolveError> {
    let at = image.location()?;
    // Before anybody is asked.
    let signer = image.policy.as_ref().map(|policy| AskedSigner::of(policy, trust_roots)).transpose()?;
    let (root, document) = fetch(client, &at, &at.which(), progress)?;
    let mut platforms = BTreeMap::new();
    let mut blobs = BTreeMap::new();
    for platform in &image.original.platforms {
        let (raw, manifest) = match &document {
            UpstreamDocument::Index(entries) => {
                let entry = choose(entries, platform, &at)?;
                fetch_entry(client, &at, entry, progress)?
            }
            UpstreamDocument::Manifest(manifest) => (root.clone(), manifest.clone()),
        };
        let what = at.with_digest(raw.digest).to_string();
        let config = fetch_config(client, &at, &what, (&raw, &manifest), progress)?;
        // An index says which platform is which; without one the config alone does.
        if matches!(document, UpstreamDocument::Manifest(_)) && config.platform().as_ref() != Some(platform) {
            let available = config.platform().map_or("one that its config does not name".to_owned(), |p| p.to_string());
            let (reference, platform) = (at.to_string(), platform.clone());
            return Err(ReferenceResolveError::NoPlatform { reference, platform, available });
        }
        let records = records(&what, &manifest, &config, &at)?;
        records.into_iter().try_for_each(|(digest, blob)| insert(&mut blobs, digest, blob))?;
        let created = config.time();
        let (config, total_size) = (&manifest.config, manifest.total_size());
        let config = ConfigBlob { digest: config.digest, size: config.size };
        let entry = LockedPlatform { manifest: raw, config, created, total_size, other: OtherKeys::new() };
        platforms.insert(platform.clone(), entry);
    }
    let tag = if at.digest().is_none() { Some(at.which()) } else { at.tag().map(str::to_owned) };
    let (registry, repository) = (at.host().to_owned(), at.repository().to_owned());
    let other = OtherKeys::new();
    let mut locked = Locked { registry, repository, tag, root, sboms: Vec::new(), platforms, other };
    let signer = signer.as_ref();
    let verified = signer.map(|signer| signature::verify(client, &at, signer, &locked, progress)).transpose()?;
    if image.sbom {
        let search = BillSearch { client, at: &at, signer, verified: verified.as_ref(), progress };
        locked.sboms = search.run(&locked)?;
    }
    Ok(ResolvedReference { locked, blobs, verified })
}

/// When the image of a tag was made, as its config says; `None` where it says nothing.
///
/// # Errors
/// See [`ReferenceResolveError`].
pub(super) fn created(
    client: &RegistryClient,
    at: &Location,
    tag: &str,
    platform: &Platform,
    progress: &Progress,
) -> Result<Option<String>, ReferenceResolveError> {
    let (root, document) = fetch(client, at, tag, progress)?;
    let (raw, manifest) = match document {
        UpstreamDocument::Index(entries) => fetch_entry(client, at, choose(&entries, platform, at)?, progress)?,
        UpstreamDocument::Manifest(manifest) => (root, manifest),
    };
    let what = at.with_digest(raw.digest).to_string();
    Ok(fetch_config(client, at, &what, (&raw, &manifest), progress)?.time())
}

/// Puts what was resolved into a lock. Whatever else is known of the image stays.
///
/// # Errors
/// If the lock knows a blob otherwise; the lock may then be changed, and is not to be written.
pub(crate) fn adopt(
    lock: &mut UpstreamLock,
    name: &str,
    resolved: ResolvedReference,
) -> Result<(), ReferenceResolveError> {
    for (digest, blob) in resolved.blobs {
        insert(&mut lock.blobs, digest, blob)?;
    }
    if let Some(image) = lock.images.get_mut(name) {
        image.floating = is_floating(&image.location()?);
        image.locked = Some(resolved.locked);
        image.verified = resolved.verified;
    }
    Ok(())
}

/// Adds a blob that may be there already.
fn insert(
    blobs: &mut BTreeMap<Digest, LockedBlob>,
    digest: Digest,
    blob: LockedBlob,
) -> Result<(), ReferenceResolveError> {
    let Some(known) = blobs.get_mut(&digest) else {
        blobs.insert(digest, blob);
        return Ok(());
    };
    let told = |blob: &LockedBlob| match blob.diff_id {
        Some(diff_id) => format!("a layer of {} bytes with the diff ID {diff_id}", blob.size),
        None => format!("a config of {} bytes", blob.size),
    };
    if (known.size, known.diff_id) != (blob.size, blob.diff_id) {
        return Err(ReferenceResolveError::Conflict { digest, found: told(&blob), known: told(known) });
    }
    // Docker and OCI have two names for the same thing. Which one is kept must not depend on who came first.
    if blob.media_type < known.media_type {
        known.media_type = blob.media_type;
    }
    Ok(())
}

/// A document, byte for byte, and what it is.
pub(super) fn fetch(
    client: &RegistryClient,
    at: &Location,
    which: &str,
    progress: &Progress,
) -> Result<(RawText, UpstreamDocument), ReferenceResolveError> {
    let RawManifest { digest, media_type, bytes } = client.manifest(at, which, progress)?;
    let wrong = |source| ReferenceResolveError::Document { what: at.with_digest(digest).to_string(), source };
    let TypedDocument { media_type, document } = document::read(&bytes, Some(&media_type)).map_err(wrong)?;
    let kind = match &document {
        UpstreamDocument::Index(_) => strict::DocumentKind::Index,
        UpstreamDocument::Manifest(_) => strict::DocumentKind::Manifest,
    };
    strict::check(kind, &bytes).map_err(|error| wrong(error.into()))?;
    let size = bytes.len() as u64;
    let raw = String::from_utf8(bytes).map_err(|_| wrong(DocumentError::NotText))?;
    Ok((RawText { digest, media_type, size, raw, other: OtherKeys::new() }, document))
}

/// The manifest of an entry of an index.
pub(super) fn fetch_entry(
    client: &RegistryClient,
    at: &Location,
    entry: &IndexEntry,
    progress: &Progress,
) -> Result<(RawText, PlatformManifest), ReferenceResolveError> {
    let what = || at.with_digest(entry.digest).to_string();
    let (raw, document) = fetch(client, at, &entry.digest.to_string(), progress)?;
    if raw.size != entry.size {
        return Err(ReferenceResolveError::Size { what: what(), expected: entry.size, found: raw.size });
    }
    if raw.media_type != entry.media_type {
        let source = DocumentError::Contradiction { said: entry.media_type.clone(), is: raw.media_type };
        return Err(ReferenceResolveError::Document { what: what(), source });
    }
    match document {
        UpstreamDocument::Manifest(manifest) => Ok((raw, manifest)),
        UpstreamDocument::Index(_) => {
            Err(ReferenceResolveError::Document { what: what(), source: DocumentError::Type(raw.media_type) })
        }
    }
}

/// The entry of a platform: the first one that names it, as Podman chooses.
pub(super) fn choose<'e>(
    entries: &'e [IndexEntry],
    platform: &Platform,
    at: &Location,
) -> Result<&'e IndexEntry, ReferenceResolveError> {
    let entry = entries.iter().find(|entry| entry.platform.as_ref() == Some(platform)).ok_or_else(|| {
        let mut names: Vec<String> =
            entries.iter().filter_map(|entry| Some(entry.platform.as_ref()?.to_string())).collect();
        names.sort();
        names.dedup();
        let available = if names.is_empty() { "none that it names".to_owned() } else { names.join(", ") };
        ReferenceResolveError::NoPlatform { reference: at.to_string(), platform: platform.clone(), available }
    })?;
    if document::is_index(&entry.media_type) {
        return Err(ReferenceResolveError::Document {
            what: at.to_string(),
            source: DocumentError::Nested(entry.digest),
        });
    }
    Ok(entry)
}

/// What a lock needs of a config.
#[derive(Debug, Deserialize)]
struct UpstreamConfig {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    created: Option<String>,
    rootfs: UpstreamRootFs,
}

#[derive(Debug, Deserialize)]
struct UpstreamRootFs {
    diff_ids: Vec<Digest>,
}

impl UpstreamConfig {
    /// When it was made, if that is a time.
    fn time(&self) -> Option<String> {
        self.created.clone().filter(|created| created.parse::<jiff::Timestamp>().is_ok())
    }

    fn platform(&self) -> Option<Platform> {
        let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (os, architecture) = (named(&self.os)?, named(&self.architecture)?);
        Some(Platform { os, architecture, variant: named(&self.variant) }.canonical())
    }
}

fn fetch_config(
    client: &RegistryClient,
    at: &Location,
    what: &str,
    (raw, manifest): (&RawText, &PlatformManifest),
    progress: &Progress,
) -> Result<UpstreamConfig, ReferenceResolveError> {
    let blob = &manifest.config;
    let bytes = client.blob(at, blob.digest, blob.size, progress)?;
    strict::check_image(raw.raw.as_bytes(), &bytes)
        .map_err(|error| ReferenceResolveError::Document { what: what.to_owned(), source: error.into() })?;
    let mut from = serde_json::Deserializer::from_slice(&bytes);
    serde_path_to_error::deserialize(&mut from).map_err(|error| ReferenceResolveError::Config {
        what: what.to_owned(),
        digest: blob.digest,
        problem: format!("is not the config of an image: {error}"),
    })
}

/// What the table of blobs is to say of an image's blobs.
fn records(
    what: &str,
    manifest: &PlatformManifest,
    config: &UpstreamConfig,
    at: &Location,
) -> Result<Vec<(Digest, LockedBlob)>, ReferenceResolveError> {
    let wrong =
        |problem| ReferenceResolveError::Config { what: what.to_owned(), digest: manifest.config.digest, problem };
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let problem = format!("has {} diff IDs, and there are {} layers", diff_ids.len(), manifest.layers.len());
        return Err(wrong(problem));
    }
    let diff_ids = std::iter::once(None).chain(diff_ids.iter().copied().map(Some));
    manifest
        .blobs()
        .zip(diff_ids)
        .map(|(blob, diff_id)| {
            // A layer whose type says that it is not packed may be: its bytes tell, when the image is built.
            let (size, media_type) = (blob.size, blob.media_type.clone());
            Ok((blob.digest, LockedBlob { size, media_type, diff_id, from: vec![at.name()], other: OtherKeys::new() }))
        })
        .collect()
}
