//! Whether a lock is true: every digest and size of it follows from the bytes that it holds.

use std::collections::BTreeSet;

use super::document::{DocumentError, PlatformManifest, UpstreamDocument};
use super::lock::{
    Locked, LockedBlob, LockedImage, LockedPlatform, RawText, SignaturePolicy, UpstreamLock, is_floating,
};
use crate::class::{Class, Classified};
use crate::oci::compression::Compression;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::registry::location::LocationError;

/// What is wrong with an image of a lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockProblem {
    /// Its name in the lock.
    #[error("is not a name: expected 1 to 128 letters, digits, '.', '_', ':' or '-', and a letter or digit first")]
    Name,
    #[error("original.ref: {0}")]
    Reference(LocationError),
    /// A reference that is not written in full.
    #[error("original.ref: write it in full: {0}")]
    NotFull(String),
    /// A floating reference that is said to be none, or the other way round.
    #[error("floating: {said}, but {reference} is {}", if *.said { "by version or digest" } else { "by a tag that floats" })]
    Floating {
        /// What the lock says.
        said: bool,
        reference: String,
    },
    /// No platform.
    #[error("original.platforms: names none; a platform is like linux/amd64")]
    NoPlatform,
    /// A platform by another name than the one that it has here, or twice.
    #[error("original.platforms: {0} is there twice, or has another name: {canonical}", canonical = .0.clone().canonical())]
    Platform(Platform),
    /// Plain HTTP to another machine.
    #[error("insecure: {0} is not on this machine; plain HTTP is for a registry on this machine only")]
    Insecure(String),
    /// A mirror that is to be used and is not there.
    #[error("source: mirror, but no mirror is named")]
    NoMirror,
    /// Bytes that have another digest.
    #[error("{what} has the digest {found}, not {expected}")]
    Digest {
        /// Which part.
        what: String,
        /// What the lock says.
        expected: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// Something that does not follow from the bytes.
    #[error("{what}: {said}, but it is {is}")]
    Differs {
        /// Which part.
        what: String,
        /// What the lock says.
        said: String,
        /// What the bytes say.
        is: String,
    },
    /// A document that cannot be read as one.
    #[error("{what}: {source}")]
    Document {
        /// Which part.
        what: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// A platform whose manifest the index does not have.
    #[error("{platform}: the index has no manifest {digest}")]
    NotInIndex {
        platform: Platform,
        /// Its manifest.
        digest: Digest,
    },
    /// A blob that is not in the table.
    #[error("{platform}: blobs: {digest} is missing")]
    NoBlob {
        platform: Platform,
        /// The blob.
        digest: Digest,
    },
    /// A layer without the digest of its content.
    #[error("{platform}: blobs: {digest} is a layer and has no diffId")]
    NoDiffId { platform: Platform, digest: Digest },
    /// A signature that is asked for and was never checked, or another one than is asked for.
    #[error("verified: says that a signature was verified, but the image has no policy that asks for one")]
    NoPolicy,
    /// A policy that asks for no signer, or for two.
    #[error(
        "policy: expected cosignKey, or certificateIdentity (or certificateIdentityRegexp) with certificateOidcIssuer and trustRoot"
    )]
    Policy,
    /// A bill of materials of something else.
    #[error("sboms: {digest} is about {subject}, which is not of this image")]
    NotItsBill {
        /// The bill.
        digest: Digest,
        /// What it is about.
        subject: Digest,
    },
    /// A trust root that is not in the table.
    #[error("policy: trustRoots: {0} is missing")]
    NoTrustRoot(Digest),
}

impl Classified for LockProblem {
    fn class(&self) -> Class {
        match self {
            Self::Digest { .. } => Class::Unverified,
            Self::Name
            | Self::Reference(_)
            | Self::NotFull(_)
            | Self::Floating { .. }
            | Self::NoPlatform
            | Self::Platform(_)
            | Self::Insecure(_)
            | Self::NoMirror
            | Self::Differs { .. }
            | Self::Document { .. }
            | Self::NotInIndex { .. }
            | Self::NoBlob { .. }
            | Self::NoDiffId { .. }
            | Self::NoPolicy
            | Self::Policy
            | Self::NotItsBill { .. }
            | Self::NoTrustRoot(_) => Class::Failed,
        }
    }
}

/// Whether a text can be the name of an image in a lock.
#[must_use]
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(fits) && name.as_bytes()[0].is_ascii_alphanumeric()
}

/// Checks every image, and gives back the first that is wrong.
///
/// # Errors
/// With the image's name, and what is wrong with it.
pub(crate) fn check(lock: &UpstreamLock) -> Result<(), (String, Box<LockProblem>)> {
    lock.images.iter().try_for_each(|(name, image)| {
        let named = |problem| (name.clone(), Box::new(problem));
        if !is_name(name) {
            return Err(named(LockProblem::Name));
        }
        check_wish(image).map_err(named)?;
        image.policy.iter().try_for_each(|policy| check_policy(policy, lock)).map_err(named)?;
        image.locked.iter().try_for_each(|locked| check_locked(locked, lock)).map_err(named)
    })
}

fn check_wish(image: &LockedImage) -> Result<(), LockProblem> {
    let location = image.location().map_err(LockProblem::Reference)?;
    let full = match (location.tag(), location.digest()) {
        (None, None) => location.with_tag("latest").map_err(LockProblem::Reference)?,
        _ => location.clone(),
    };
    if full.to_string() != image.original.reference {
        return Err(LockProblem::NotFull(full.to_string()));
    }
    if is_floating(&location) != image.floating {
        return Err(LockProblem::Floating { said: image.floating, reference: image.original.reference.clone() });
    }
    if image.original.platforms.is_empty() {
        return Err(LockProblem::NoPlatform);
    }
    let mut seen = BTreeSet::new();
    for platform in &image.original.platforms {
        if platform.clone().canonical() != *platform || !seen.insert(platform) {
            return Err(LockProblem::Platform(platform.clone()));
        }
    }
    if image.insecure && !location.is_loopback() {
        return Err(LockProblem::Insecure(location.host().to_owned()));
    }
    if image.source == super::lock::UpstreamSource::Mirror && image.mirror.is_none() {
        return Err(LockProblem::NoMirror);
    }
    if image.policy.is_none() && image.verified.is_some() {
        return Err(LockProblem::NoPolicy);
    }
    Ok(())
}

/// Whether a policy asks for one signer, and for an identity with all that it is verified by.
fn check_policy(policy: &SignaturePolicy, lock: &UpstreamLock) -> Result<(), LockProblem> {
    let identities = [&policy.certificate_identity, &policy.certificate_identity_regexp].into_iter().flatten().count();
    let rest = (policy.certificate_oidc_issuer.is_some(), policy.trust_root);
    match (policy.cosign_key.is_some(), identities, rest) {
        (true, 0, (false, None)) => Ok(()),
        (false, 1, (true, Some(expected))) => {
            let text = lock.trust_roots.get(&expected).ok_or(LockProblem::NoTrustRoot(expected))?;
            match Digest::of(text.as_bytes()) {
                found if found == expected => Ok(()),
                found => Err(LockProblem::Digest { what: "the trust root".to_owned(), expected, found }),
            }
        }
        _ => Err(LockProblem::Policy),
    }
}

fn check_locked(locked: &Locked, lock: &UpstreamLock) -> Result<(), LockProblem> {
    let root = check_raw("the root", &locked.root)?;
    for bill in &locked.sboms {
        let mut manifests = locked.platforms.values().map(|entry| entry.manifest.digest);
        if bill.subject != locked.root.digest && !manifests.any(|digest| digest == bill.subject) {
            return Err(LockProblem::NotItsBill { digest: bill.digest, subject: bill.subject });
        }
    }
    for (platform, entry) in &locked.platforms {
        let what = format!("the manifest of {platform}");
        let UpstreamDocument::Manifest(manifest) = check_raw(&what, &entry.manifest)? else {
            let source = DocumentError::Type(entry.manifest.media_type.clone());
            return Err(LockProblem::Document { what, source });
        };
        let digest = entry.manifest.digest;
        let listed = match &root {
            UpstreamDocument::Index(entries) => entries.iter().any(|entry| entry.digest == digest),
            UpstreamDocument::Manifest(_) => locked.root.digest == digest,
        };
        if !listed {
            return Err(LockProblem::NotInIndex { platform: platform.clone(), digest });
        }
        check_platform(platform, entry, &manifest, lock)?;
    }
    Ok(())
}

/// The document in these bytes, whose digest, size and type are right.
fn check_raw(what: &str, raw: &RawText) -> Result<UpstreamDocument, LockProblem> {
    let found = Digest::of(raw.raw.as_bytes());
    if found != raw.digest {
        return Err(LockProblem::Digest { what: what.to_owned(), expected: raw.digest, found });
    }
    same(|| format!("the size of {what}"), raw.size, raw.raw.len() as u64)?;
    raw.document().map_err(|source| LockProblem::Document { what: what.to_owned(), source })
}

fn check_platform(
    platform: &Platform,
    entry: &LockedPlatform,
    is: &PlatformManifest,
    lock: &UpstreamLock,
) -> Result<(), LockProblem> {
    let what = |part: &'static str| move || format!("{platform}: {part}");
    same(what("config.digest"), entry.config.digest, is.config.digest)?;
    same(what("config.size"), entry.config.size, is.config.size)?;
    same(what("totalSize"), entry.total_size, is.total_size())?;
    for blob in is.blobs() {
        let digest = blob.digest;
        let Some(listed) = lock.blobs.get(&digest) else {
            return Err(LockProblem::NoBlob { platform: platform.clone(), digest });
        };
        same(|| format!("blobs: the size of {digest}"), listed.size, blob.size)?;
    }
    for layer in &is.layers {
        check_layer(platform, layer.digest, &layer.media_type, &lock.blobs[&layer.digest])?;
    }
    Ok(())
}

fn check_layer(platform: &Platform, digest: Digest, media_type: &str, listed: &LockedBlob) -> Result<(), LockProblem> {
    let what = || format!("blobs: the mediaType of {digest}");
    // Docker's and OCI's names of the same compression are both right.
    let compression = Compression::of_media_type(media_type);
    if Compression::of_media_type(&listed.media_type) != compression {
        return Err(LockProblem::Differs { what: what(), said: listed.media_type.clone(), is: media_type.to_owned() });
    }
    // What it is cannot be compared here, not even where the type says that the layer is not packed: types are wrong now and
    // then. The build compares it with the config and with the bytes.
    match listed.diff_id {
        Some(_) => Ok(()),
        None => Err(LockProblem::NoDiffId { platform: platform.clone(), digest }),
    }
}

fn same<T: PartialEq + ToString>(what: impl Fn() -> String, said: T, is: T) -> Result<(), LockProblem> {
    if said == is {
        return Ok(());
    }
    Err(LockProblem::Differs { what: what(), said: said.to_string(), is: is.to_string() })
}
