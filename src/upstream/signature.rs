//! Signatures that cosign leaves beside an image, checked against a public key.
//!
//! `cosign sign --key` pushes a manifest into the image's repository: with the tag `sha256-<hex>.sig`, or as a referrer of
//! the image. Each of its layers is a *simple signing* payload, JSON that names the image's digest and repository, and
//! carries an ECDSA signature over the payload's bytes as an annotation. From version 3 on it is a referrer with a
//! Sigstore bundle (`bundle.rs`). Nothing else is read of it: no certificate, no transparency log; the key decides.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey};
use serde::Deserialize;

use super::bundle;
use super::lock::{Locked, OtherKeys, SignaturePolicy, VerifiedSignature};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::oci::digest::Digest;
use crate::registry::client::{RawManifest, RegistryClient};
use crate::registry::error::RegistryError;
use crate::registry::location::Location;

/// Signatures of one image that are looked at.
const MOST: usize = 64;
const METHOD: &str = "cosign-key";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What a payload says that it is.
const KIND: &str = "cosign container image signature";

/// Why an image does not satisfy its policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    #[error("the policy's key is not a public key of ECDSA P-256 in PEM, as `cosign public-key` prints it")]
    Key,
    /// It is not signed.
    #[error(
        "{image} is not signed: its policy asks for a signature by the key {key}, and the registry has neither {tag} nor a referrer that is one"
    )]
    Missing {
        /// The image, by digest.
        image: String,
        /// The digest of the key.
        key: Digest,
        /// Where the signature would be.
        tag: String,
    },
    /// It is signed, but not as the policy asks.
    #[error("{image} has no good signature by the key {key}: {reason}")]
    Wrong {
        /// The image, by digest.
        image: String,
        /// The digest of the key.
        key: Digest,
        /// What is wrong with each.
        reason: String,
    },
    /// It is not known, because the registry did not say.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Classified for SignatureError {
    fn class(&self) -> Class {
        match self {
            Self::Registry(error) => error.class(),
            Self::Key => Class::Usage,
            Self::Missing { .. } | Self::Wrong { .. } => Class::Unverified,
        }
    }
}

/// A public key, and what it is known by.
#[derive(Debug, Clone)]
pub struct SignatureKey {
    key: VerifyingKey,
    /// The digest of the key in DER.
    pub(crate) digest: Digest,
}

impl SignatureKey {
    /// Reads a key as `cosign public-key` and `openssl ec -pubout` write it.
    ///
    /// # Errors
    /// If it is not a key, or one of another kind.
    pub fn parse(pem: &str) -> Result<Self, SignatureError> {
        let key = VerifyingKey::from_public_key_pem(pem.trim()).map_err(|_| SignatureError::Key)?;
        let der = key.to_public_key_der().map_err(|_| SignatureError::Key)?;
        Ok(Self { key, digest: Digest::of(der.as_bytes()) })
    }

    /// Whether `signature`, in base64, is this key's over these bytes.
    pub(super) fn signed(&self, bytes: &[u8], signature: &str) -> bool {
        let signature = STANDARD.decode(signature.trim()).ok().and_then(|der| Signature::from_der(&der).ok());
        signature.is_some_and(|signature| self.key.verify(bytes, &signature).is_ok())
    }
}

/// Verifies that what is about to be locked is signed: what the reference named, or else each of the manifests.
///
/// # Errors
/// See [`SignatureError`].
pub(crate) fn verify(
    client: &RegistryClient,
    at: &Location,
    policy: &SignaturePolicy,
    locked: &Locked,
    progress: &Progress,
) -> Result<VerifiedSignature, SignatureError> {
    let key = SignatureKey::parse(&policy.cosign_key)?;
    let verified = |scope: &str| VerifiedSignature {
        method: METHOD.to_owned(),
        key: key.digest,
        scope: scope.to_owned(),
        other: OtherKeys::new(),
    };
    let search = |digest| Search { client, at, key: &key, digest, progress }.run();
    let missing = match search(locked.root.digest) {
        Ok(()) => return Ok(verified("root")),
        Err(missing @ SignatureError::Missing { .. }) => missing,
        Err(error) => return Err(error),
    };
    for platform in locked.platforms.values() {
        match search(platform.manifest.digest) {
            // The error names the root, which is what people know.
            Err(SignatureError::Missing { .. }) => return Err(missing),
            result => result?,
        }
    }
    Ok(verified("platforms"))
}

#[derive(Deserialize)]
struct SignatureManifest {
    #[serde(default)]
    layers: Vec<SignatureLayer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignatureLayer {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct SignaturePayload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

/// The search for a signature of one manifest.
struct Search<'a> {
    client: &'a RegistryClient,
    at: &'a Location,
    key: &'a SignatureKey,
    digest: Digest,
    progress: &'a Progress,
}

impl Search<'_> {
    /// One good signature is enough: others may be of other keys.
    fn run(&self) -> Result<(), SignatureError> {
        let Self { client, at, key, digest, progress } = *self;
        let tag = format!("sha256-{}.sig", digest.hex());
        let mut reasons = Vec::new();
        match client.manifest(at, &tag, progress) {
            Err(error) if error.is_gone() => {}
            found => {
                if self.is_signed(&found?, &mut reasons)? {
                    return Ok(());
                }
                if reasons.is_empty() {
                    reasons.push(format!("{tag} has none in it"));
                }
            }
        }
        for referrer in client.referrers(at, digest, progress)?.into_iter().take(MOST) {
            let found = match client.manifest(at, &referrer.to_string(), progress) {
                // Something else that is about the image, or nothing any more. What cannot be asked for stays unknown.
                Err(RegistryError::NotFound { .. } | RegistryError::Malformed { .. }) => continue,
                found => found?,
            };
            if self.is_signed(&found, &mut reasons)? {
                return Ok(());
            }
        }
        let image = at.with_digest(digest).to_string();
        if reasons.is_empty() {
            return Err(SignatureError::Missing { image, key: key.digest, tag });
        }
        Err(SignatureError::Wrong { image, key: key.digest, reason: reasons.join("; ") })
    }

    /// Whether there is a good signature among the layers of a manifest; else what is wrong with each.
    fn is_signed(&self, manifest: &RawManifest, reasons: &mut Vec<String>) -> Result<bool, SignatureError> {
        let Self { client, at, key, digest, progress } = *self;
        let layers = match serde_json::from_slice(&manifest.bytes) {
            Ok(SignatureManifest { layers }) => layers,
            Err(error) => {
                reasons.push(format!("{} is not a manifest: {error}", manifest.digest));
                return Ok(false);
            }
        };
        for layer in layers.iter().take(MOST) {
            let signature = layer.annotations.get(ANNOTATION).filter(|_| layer.media_type == PAYLOAD);
            if signature.is_none() && !bundle::is_bundle(&layer.media_type) {
                continue;
            }
            // One that cannot be had does not make another one wrong.
            let payload = match client.blob(at, layer.digest, layer.size, progress) {
                Err(error) if !error.is_transient() && !matches!(error, RegistryError::Stopped { .. }) => {
                    reasons.push(error.to_string());
                    continue;
                }
                payload => payload?,
            };
            let verdict = match signature {
                Some(signature) => Some(check(key, &payload, signature, at, digest)),
                None => bundle::check(key, &payload, digest),
            };
            match verdict {
                Some(Ok(())) => return Ok(true),
                Some(Err(reason)) if !reasons.contains(&reason) => reasons.push(reason),
                Some(Err(_)) | None => {}
            }
        }
        Ok(false)
    }
}

/// Whether a payload is signed by the key, and is about this image.
fn check(key: &SignatureKey, payload: &[u8], signature: &str, at: &Location, digest: Digest) -> Result<(), String> {
    // Before anything is read of it.
    if !key.signed(payload, signature) {
        return Err("a signature is of another key, or of another payload".to_owned());
    }
    let SignaturePayload { critical } =
        serde_json::from_slice(payload).map_err(|error| format!("what is signed is not a payload: {error}"))?;
    if critical.kind != KIND {
        return Err(format!("what is signed is '{}'", critical.kind));
    }
    if critical.image.digest != digest {
        return Err(format!("what is signed is another image, {}", critical.image.digest));
    }
    let named = critical.identity.reference.parse::<Location>();
    if named.as_ref().map(Location::name) != Ok(at.name()) {
        return Err(format!("what is signed is called '{}'", critical.identity.reference));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer;
    use p256::pkcs8::LineEnding;

    use super::*;

    fn keys(seed: u8) -> (SigningKey, SignatureKey) {
        let secret = SigningKey::from_slice(&[seed; 32]).unwrap();
        let pem = secret.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
        (secret, SignatureKey::parse(&pem).unwrap())
    }

    fn sign(secret: &SigningKey, payload: &str) -> String {
        let signature: Signature = secret.sign(payload.as_bytes());
        STANDARD.encode(signature.to_der())
    }

    fn payload(reference: &str, digest: Digest) -> String {
        serde_json::json!({ "critical": {
            "identity": { "docker-reference": reference }, "image": { "docker-manifest-digest": digest }, "type": KIND,
        }, "optional": null })
        .to_string()
    }

    #[test]
    fn a_payload_has_to_be_signed_and_about_this_image() {
        let (secret, key) = keys(1);
        let (stranger, _) = keys(2);
        let at: Location = "qdrant/qdrant:v1".parse().unwrap();
        let (digest, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let verdict = |secret: &SigningKey, text: &str| check(&key, text.as_bytes(), &sign(secret, text), &at, digest);
        let good = payload("index.docker.io/qdrant/qdrant", digest);
        assert_eq!(verdict(&secret, &good), Ok(()));
        for (secret, text, word) in [
            (&stranger, good.clone(), "another key"),
            (&secret, payload("docker.io/qdrant/other", digest), "is called"),
            (&secret, payload("qdrant/qdrant", other), "another image"),
            (&secret, good.replace(KIND, "atomic container signature"), "atomic"),
            (&secret, "{}".to_owned(), "not a payload"),
        ] {
            let reason = verdict(secret, &text).unwrap_err();
            assert!(reason.contains(word), "{text}: {reason}");
        }
        let changed = good.replace("null", "true");
        assert!(check(&key, changed.as_bytes(), &sign(&secret, &good), &at, digest).is_err());
        for signature in ["", "AAAA", "no base64"] {
            assert!(check(&key, good.as_bytes(), signature, &at, digest).is_err());
        }
        assert!(matches!(SignatureKey::parse("-----BEGIN PUBLIC KEY-----"), Err(SignatureError::Key)));
    }
}
