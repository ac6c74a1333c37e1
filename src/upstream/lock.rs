//! The lock: which bytes each upstream image is, down to the last blob, in a file that people commit.
//!
//! It holds every index and manifest byte for byte, so it proves itself: anyone with the file can check all of it without
//! asking anybody, and Nix does so while it evaluates. Nothing in it tells the time, and the same content gives the same
//! bytes: keys are sorted, characters beyond ASCII are escaped. Keys that this windlass does not know are kept.
//!
//! ```text
//! images.NAME.original    what was asked for          people write it
//! images.NAME.locked      what that is, as raw bytes  `upstream add` and `update` write it
//! blobs.DIGEST            size, type and diff ID of every blob that an image above needs
//! trustRoots.DIGEST       the texts of the files that certificates of signers are verified by
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::document::{self, DocumentError, PlatformManifest, UpstreamDocument};
use crate::disk::lock_file::unique;
use crate::oci::bill::AttachedBill;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::registry::location::{Location, LocationError};

/// The format that this windlass writes.
pub(crate) const VERSION: u32 = 1;

/// Keys that a newer windlass, or another program, has put there.
pub(crate) type OtherKeys = Map<String, Value>;

/// A whole lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UpstreamLock {
    /// [`VERSION`].
    pub(super) version: u32,
    /// The images by the names that people gave them.
    #[serde(deserialize_with = "unique")]
    pub images: BTreeMap<String, LockedImage>,
    /// Every blob of every image, once.
    #[serde(default, deserialize_with = "unique")]
    pub blobs: BTreeMap<Digest, LockedBlob>,
    /// The trust roots of the policies above, as text: `trusted_root.json` of a sigstore.
    #[serde(rename = "trustRoots", default, deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) trust_roots: BTreeMap<Digest, String>,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LockedImage {
    /// What was asked for.
    pub(crate) original: Original,
    /// Whether the reference can name another image tomorrow without anybody having done wrong.
    pub(crate) floating: bool,
    /// Whether the registry, which is on this machine, speaks plain HTTP.
    #[serde(default)]
    pub(crate) insecure: bool,
    /// How often to look for updates.
    #[serde(default)]
    pub(crate) cadence: Option<Cadence>,
    /// Why this image in this version.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// Where its blobs are fetched from.
    #[serde(default)]
    pub(crate) source: UpstreamSource,
    /// Where its mirror is: `docker://REGISTRY/REPOSITORY`, or a directory.
    #[serde(default)]
    pub(crate) mirror: Option<String>,
    /// Whether the bills of materials that its publisher attached are locked too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) sbom: bool,
    /// Who has to have signed it.
    #[serde(default)]
    pub(crate) policy: Option<SignaturePolicy>,
    /// What it is; `None` until it was looked up.
    #[serde(default)]
    pub locked: Option<Locked>,
    /// What was verified when it was looked up.
    #[serde(default)]
    pub(crate) verified: Option<VerifiedSignature>,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Original {
    /// The reference, in full: `docker.io/qdrant/qdrant:v1.16.2`.
    #[serde(rename = "ref")]
    pub(crate) reference: String,
    /// The platforms.
    pub(crate) platforms: Vec<Platform>,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

/// How often to look for updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cadence {
    /// Every day.
    Daily,
    /// Every 7 days.
    Weekly,
    /// Every 30 days.
    Monthly,
    /// Every 91 days.
    Quarterly,
    /// Every 365 days.
    Yearly,
}

impl Cadence {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Daily, Self::Weekly, Self::Monthly, Self::Quarterly, Self::Yearly];

    /// The days from one look to the next.
    #[must_use]
    pub(crate) const fn days(self) -> u32 {
        match self {
            Self::Daily => 1,
            Self::Weekly => 7,
            Self::Monthly => 30,
            Self::Quarterly => 91,
            Self::Yearly => 365,
        }
    }

    /// As the lock has it.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Quarterly => "quarterly",
            Self::Yearly => "yearly",
        }
    }
}

/// Where blobs are fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UpstreamSource {
    /// The registry of the reference.
    #[default]
    Upstream,
    /// The mirror.
    Mirror,
}

/// Who has to have signed an image: a key, or an identity that a certificate names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SignaturePolicy {
    /// The public key of cosign, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cosign_key: Option<String>,
    /// The identity: a URI or an email address, in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_identity: Option<String>,
    /// In its place a regular expression that all of the identity fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_identity_regexp: Option<String>,
    /// The address of the OIDC issuer that has vouched for the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_oidc_issuer: Option<String>,
    /// The digest of the trust root, which is in `trustRoots`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trust_root: Option<Digest>,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

/// What was verified when an image was looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VerifiedSignature {
    /// `cosign-key` or `cosign-keyless`.
    pub(crate) method: String,
    /// The digest of the public key, in DER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Digest>,
    /// The identity that the certificate names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<String>,
    /// The address of the OIDC issuer that has vouched for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    /// The digest of the trust root that the certificate was verified by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trust_root: Option<Digest>,
    /// What the signature is of: `root`, or `platforms`.
    pub(crate) scope: String,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

impl VerifiedSignature {
    /// Who has signed: the digest of a key, or an identity.
    pub(crate) fn signer(&self) -> Option<String> {
        self.identity.clone().or_else(|| Some(self.key?.to_string()))
    }
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Locked {
    /// The registry, as people write it.
    pub(crate) registry: String,
    /// The repository in it.
    pub(crate) repository: String,
    /// The tag that was looked up; `None` for a reference by digest alone.
    pub(crate) tag: Option<String>,
    /// What the reference named: an index, or a manifest.
    pub(crate) root: RawText,
    /// The bills of materials that are attached to it, where they are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sboms: Vec<AttachedBill>,
    /// The manifests of the platforms that were asked for.
    #[serde(deserialize_with = "unique")]
    pub platforms: BTreeMap<Platform, LockedPlatform>,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

/// An index or manifest, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RawText {
    /// The digest of the bytes.
    pub digest: Digest,
    /// What they are.
    pub(crate) media_type: String,
    /// How many they are.
    pub size: u64,
    /// The bytes, which are UTF-8.
    pub raw: String,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

/// One platform of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LockedPlatform {
    /// Its manifest.
    pub manifest: RawText,
    pub(crate) config: ConfigBlob,
    /// When its publisher says that it was made.
    pub(crate) created: Option<String>,
    /// Bytes of its config and layers, as they are fetched.
    pub(crate) total_size: u64,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

/// The config of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct ConfigBlob {
    /// Its digest, which Podman calls the image's ID.
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A blob that some image needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LockedBlob {
    pub(crate) size: u64,
    /// What it is.
    pub(crate) media_type: String,
    /// For a layer: the digest of its uncompressed archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) diff_id: Option<Digest>,
    /// The repositories that have it.
    pub(crate) from: Vec<String>,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

impl RawText {
    /// The document in these bytes.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub(crate) fn document(&self) -> Result<UpstreamDocument, DocumentError> {
        document::read(self.raw.as_bytes(), Some(&self.media_type)).map(|typed| typed.document)
    }
}

impl LockedPlatform {
    /// The manifest, read.
    ///
    /// # Errors
    /// See [`DocumentError`]; an index is one too.
    pub fn read(&self) -> Result<PlatformManifest, DocumentError> {
        match self.manifest.document()? {
            UpstreamDocument::Manifest(manifest) => Ok(manifest),
            UpstreamDocument::Index(_) => Err(DocumentError::Type(self.manifest.media_type.clone())),
        }
    }
}

impl LockedImage {
    /// One that was not looked up yet.
    #[must_use]
    pub(crate) fn pending(location: &Location, platforms: Vec<Platform>) -> Self {
        Self {
            original: Original { reference: location.to_string(), platforms, other: OtherKeys::new() },
            floating: is_floating(location),
            insecure: false,
            cadence: None,
            reason: None,
            source: UpstreamSource::Upstream,
            mirror: None,
            sbom: false,
            policy: None,
            locked: None,
            verified: None,
            other: OtherKeys::new(),
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// If it is not a reference.
    pub fn location(&self) -> Result<Location, LocationError> {
        self.original.reference.parse()
    }

    /// The digest of what is locked.
    #[must_use]
    pub fn root(&self) -> Option<Digest> {
        self.locked.as_ref().map(|locked| locked.root.digest)
    }

    /// Whether it is locked, and by more than a tag that floats.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.locked.is_some() && !self.floating
    }

    /// Whether what is locked is an answer to what is asked for, which may have been edited.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        let (Some(locked), Ok(location)) = (&self.locked, self.location()) else { return false };
        let asked = &self.original.platforms;
        let digest = location.digest().is_none_or(|digest| digest == locked.root.digest);
        let policy = self.policy.is_some() == self.verified.is_some();
        let place = locked.registry == location.host() && locked.repository == location.repository();
        let tag = location.digest().is_some() || locked.tag == Some(location.which());
        // Bills that are not asked for any more are not to stay.
        let sboms = self.sbom || locked.sboms.is_empty();
        let platforms = asked.len() == locked.platforms.len() && asked.iter().all(|p| locked.platforms.contains_key(p));
        digest && policy && place && tag && sboms && platforms
    }
}

/// Whether a location can name another image tomorrow.
#[must_use]
pub(crate) fn is_floating(location: &Location) -> bool {
    crate::oci::reference::is_floating(&location.to_string())
}

impl Default for UpstreamLock {
    fn default() -> Self {
        let (images, blobs, trust_roots) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { version: VERSION, images, blobs, trust_roots, other: OtherKeys::new() }
    }
}

impl UpstreamLock {
    /// Drops the blobs and trust roots that no image needs any more, and says of the other blobs who has them.
    ///
    /// # Errors
    /// If a manifest cannot be read.
    pub(crate) fn drop_unneeded(&mut self) -> Result<(), DocumentError> {
        let mut from: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for locked in self.images.values().filter_map(|image| image.locked.as_ref()) {
            let name = format!("{}/{}", locked.registry, locked.repository);
            for platform in locked.platforms.values() {
                for blob in platform.read()?.blobs() {
                    from.entry(blob.digest).or_default().push(name.clone());
                }
            }
        }
        self.blobs.retain(|digest, blob| {
            let Some(names) = from.get_mut(digest) else { return false };
            names.sort();
            names.dedup();
            blob.from = std::mem::take(names);
            true
        });
        let policies = self.images.values().filter_map(|image| image.policy.as_ref());
        let needed: BTreeSet<Digest> = policies.filter_map(|policy| policy.trust_root).collect();
        self.trust_roots.retain(|digest, _| needed.contains(digest));
        Ok(())
    }
}
