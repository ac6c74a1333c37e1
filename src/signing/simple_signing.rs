//! *Simple signing* payloads, which cosign signs images with: JSON that names an image's digest and its repository.
//!
//! cosign reads them in all versions, and so does `sigstoreSigned` of containers-policy.json(5).

use serde::{Deserialize, Serialize};

use crate::oci::canonical;
use crate::oci::digest::Digest;

/// The media type of a layer that is a payload.
pub(crate) const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of that layer which has the signature over it.
pub(crate) const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What `cosign sign` states in a bundle, from version 3 on.
pub(crate) const SIGNED_IMAGE: &str = "https://sigstore.dev/cosign/sign/v1";
/// What a payload says that it is.
const KIND: &str = "cosign container image signature";

/// What is signed of an image.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SignaturePayload {
    critical: Critical,
    #[serde(default)]
    optional: Option<serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

impl SignaturePayload {
    /// For an image of this repository: `docker.io/qdrant/qdrant`.
    pub(crate) fn new(repository: &str, digest: Digest) -> Self {
        let (identity, image) = (Identity { reference: repository.to_owned() }, SignedImage { digest });
        Self { critical: Critical { identity, image, kind: KIND.to_owned() }, optional: None }
    }

    /// The bytes that are signed: those that cosign makes of the same.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        canonical::to_bytes(self)
    }

    /// Whether it is about this image of this repository; `repository_of` reads what it calls the image.
    ///
    /// # Errors
    /// With what it is about.
    pub(crate) fn check(
        &self,
        repository: &str,
        digest: Digest,
        repository_of: impl Fn(&str) -> Option<String>,
    ) -> Result<(), String> {
        let Critical { identity, image, kind } = &self.critical;
        if kind != KIND {
            return Err(format!("what is signed is '{kind}'"));
        }
        if image.digest != digest {
            return Err(format!("what is signed is another image, {}", image.digest));
        }
        if repository_of(&identity.reference).as_deref() != Some(repository) {
            return Err(format!("what is signed is called '{}'", identity.reference));
        }
        Ok(())
    }
}
