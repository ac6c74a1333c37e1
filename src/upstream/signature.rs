//! Signatures that cosign leaves beside an image, checked against a public key or an identity.
//!
//! `cosign sign` pushes a manifest into the image's repository: with the tag `sha256-<hex>.sig`, or as a referrer of
//! the image. Each of its layers is a *simple signing* payload, JSON that names the image's digest and repository, and
//! carries an ECDSA signature over the payload's bytes as an annotation. From version 3 on it is a referrer with a
//! Sigstore bundle ([`sigstore_bundle`]). Where a key is asked for, nothing else is read of it: no certificate, no transparency
//! log; the key decides. Where an identity is, they are all there is ([`keyless`](crate::signing::keyless)).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::lock::{Locked, OtherKeys, SignaturePolicy, VerifiedSignature};
use super::proof::LockProblem;
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::oci::bill::BillForm;
use crate::oci::digest::Digest;
use crate::registry::client::{RawManifest, RegistryClient};
use crate::registry::error::RegistryError;
use crate::registry::location::Location;
use crate::signing::identity::{AskedIdentity, CertifiedIdentity, KeylessError};
use crate::signing::key::{KeyError, SignatureKey};
use crate::signing::keyless::KeylessSigner;
use crate::signing::sigstore_bundle::{self, OTHER_KEY, SigstoreBundle};
use crate::signing::simple_signing::{ANNOTATION, PAYLOAD, SIGNED_IMAGE, SignaturePayload};
use crate::signing::statement::DsseEnvelope;

/// Signatures of one image that are looked at.
const MOST: usize = 64;
const BY_KEY: &str = "cosign-key";
const BY_IDENTITY: &str = "cosign-keyless";

/// Why an image does not satisfy its policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SignatureError {
    #[error("the policy's key is {0}")]
    Key(#[from] KeyError),
    #[error("the policy: {0}")]
    Keyless(#[from] KeylessError),
    #[error("{0}")]
    Policy(#[from] LockProblem),
    /// It is not signed.
    #[error(
        "{image} is not signed: its policy asks for a signature by {by}, and the registry has neither {tag} nor a referrer that is one"
    )]
    Missing {
        /// The image, by digest.
        image: String,
        /// Who has to have signed.
        by: String,
        /// Where the signature would be.
        tag: String,
    },
    /// It is signed, but not as the policy asks.
    #[error("{image} has no good signature by {by}: {reason}")]
    Wrong {
        /// The image, by digest.
        image: String,
        /// Who has to have signed.
        by: String,
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
            Self::Key(error) => error.class(),
            Self::Keyless(error) => error.class(),
            Self::Policy(error) => error.class(),
            Self::Missing { .. } | Self::Wrong { .. } => Class::Unverified,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Key(error) => error.hint(),
            Self::Keyless(error) => error.hint(),
            Self::Registry(_) | Self::Policy(_) | Self::Missing { .. } | Self::Wrong { .. } => None,
        }
    }
}

/// Who has to have signed.
#[derive(Debug)]
pub(crate) enum AskedSigner {
    /// The owner of the private key.
    Key(SignatureKey),
    /// The one whom a certificate names so.
    Identity(Box<KeylessSigner>),
}

/// Who has signed.
enum FoundSigner {
    Key(Digest),
    Identity(CertifiedIdentity),
}

impl AskedSigner {
    /// Whom a policy asks for; `trust_roots` is the table of its lock.
    ///
    /// # Errors
    /// If the policy, its key or its trust root is not one.
    pub(crate) fn of(policy: &SignaturePolicy, trust_roots: &BTreeMap<Digest, String>) -> Result<Self, SignatureError> {
        if let Some(key) = &policy.cosign_key {
            return Ok(Self::Key(SignatureKey::parse(key)?));
        }
        let issuer = policy.certificate_oidc_issuer.as_deref().ok_or(LockProblem::Policy)?;
        let asked = match (&policy.certificate_identity, &policy.certificate_identity_regexp) {
            (Some(name), None) => AskedIdentity::exact(name, issuer),
            (None, Some(pattern)) => AskedIdentity::pattern(pattern, issuer)?,
            (None, None) | (Some(_), Some(_)) => return Err(LockProblem::Policy.into()),
        };
        let digest = policy.trust_root.ok_or(LockProblem::Policy)?;
        let root = trust_roots.get(&digest).ok_or(LockProblem::NoTrustRoot(digest))?;
        Ok(Self::Identity(Box::new(KeylessSigner::new(root, asked)?)))
    }

    /// Whether what was verified once is what is asked for now.
    pub(crate) fn is_met_by(&self, verified: &VerifiedSignature) -> bool {
        match self {
            Self::Key(key) => verified.key == Some(key.digest) && verified.identity.is_none(),
            Self::Identity(signer) => {
                let VerifiedSignature { identity, issuer, trust_root, .. } = verified;
                let named = identity.as_ref().zip(issuer.as_ref());
                *trust_root == Some(signer.trust_root)
                    && named.is_some_and(|(name, issuer)| signer.asked.is_met_by(name, issuer))
            }
        }
    }

    /// Who has signed a statement about `digest`, if it is whom this asks for: the digest of the key, or the identity.
    pub(crate) fn of_statement(&self, bytes: &[u8], form: BillForm, digest: Digest, predicate: &str) -> Option<String> {
        match (self, form) {
            (Self::Identity(signer), BillForm::Bundle) => {
                signer.verify_bundle(bytes, digest, predicate)?.ok().map(|found| found.name)
            }
            (Self::Key(key), BillForm::Bundle | BillForm::Envelope) => {
                let envelope = match form {
                    BillForm::Bundle => serde_json::from_slice::<SigstoreBundle>(bytes).ok()?.dsse_envelope?,
                    _ => serde_json::from_slice::<DsseEnvelope>(bytes).ok()?,
                };
                let (statement, payload) = envelope.statement()?;
                let is_it = statement.predicate_type == predicate && statement.is_about(digest);
                (is_it && envelope.is_signed(key, &payload)).then(|| key.digest.to_string())
            }
            _ => None,
        }
    }

    fn told(&self) -> String {
        match self {
            Self::Key(key) => format!("the key {}", key.digest),
            Self::Identity(signer) => signer.asked.to_string(),
        }
    }

    fn verified(&self, found: FoundSigner, scope: &str) -> VerifiedSignature {
        let scope = scope.to_owned();
        let (method, key, identity, issuer) = match found {
            FoundSigner::Key(key) => (BY_KEY, Some(key), None, None),
            FoundSigner::Identity(found) => (BY_IDENTITY, None, Some(found.name), Some(found.issuer)),
        };
        let trust_root = match self {
            Self::Key(_) => None,
            Self::Identity(signer) => Some(signer.trust_root),
        };
        VerifiedSignature {
            method: method.to_owned(),
            key,
            identity,
            issuer,
            trust_root,
            scope,
            other: OtherKeys::new(),
        }
    }
}

/// Verifies that what is about to be locked is signed: what the reference named, or else each of the manifests.
///
/// # Errors
/// See [`SignatureError`].
pub(crate) fn verify(
    client: &RegistryClient,
    at: &Location,
    signer: &AskedSigner,
    locked: &Locked,
    progress: &Progress,
) -> Result<VerifiedSignature, SignatureError> {
    let search = |digest| Search { client, at, signer, digest, progress }.run();
    let missing = match search(locked.root.digest) {
        Ok(found) => return Ok(signer.verified(found, "root")),
        Err(missing @ SignatureError::Missing { .. }) => missing,
        Err(error) => return Err(error),
    };
    let mut last = None;
    for platform in locked.platforms.values() {
        last = match search(platform.manifest.digest) {
            // The error names the root, which is what people know.
            Err(SignatureError::Missing { .. }) => return Err(missing),
            found => Some(found?),
        };
    }
    last.map(|found| signer.verified(found, "platforms")).ok_or(missing)
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
    annotations: BTreeMap<String, String>,
}

/// The search for a signature of one manifest.
struct Search<'a> {
    client: &'a RegistryClient,
    at: &'a Location,
    signer: &'a AskedSigner,
    digest: Digest,
    progress: &'a Progress,
}

impl Search<'_> {
    /// One good signature is enough: others may be of others.
    fn run(&self) -> Result<FoundSigner, SignatureError> {
        let Self { client, at, signer, digest, progress } = *self;
        let tag = format!("sha256-{}.sig", digest.hex());
        let mut reasons = Vec::new();
        match client.manifest(at, &tag, progress) {
            Err(error) if error.is_gone() => {}
            found => {
                if let Some(found) = self.signer_of(&found?, &mut reasons)? {
                    return Ok(found);
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
            if let Some(found) = self.signer_of(&found, &mut reasons)? {
                return Ok(found);
            }
        }
        let image = at.with_digest(digest).to_string();
        if reasons.is_empty() {
            return Err(SignatureError::Missing { image, by: signer.told(), tag });
        }
        Err(SignatureError::Wrong { image, by: signer.told(), reason: reasons.join("; ") })
    }

    /// Who has made a good signature among the layers of a manifest; else what is wrong with each.
    fn signer_of(
        &self,
        manifest: &RawManifest,
        reasons: &mut Vec<String>,
    ) -> Result<Option<FoundSigner>, SignatureError> {
        let Self { client, at, signer, digest, progress } = *self;
        let layers = match serde_json::from_slice(&manifest.bytes) {
            Ok(SignatureManifest { layers }) => layers,
            Err(error) => {
                reasons.push(format!("{} is not a manifest: {error}", manifest.digest));
                return Ok(None);
            }
        };
        for layer in layers.iter().take(MOST) {
            let signature = layer.annotations.get(ANNOTATION).filter(|_| layer.media_type == PAYLOAD);
            if signature.is_none() && !sigstore_bundle::is_bundle(&layer.media_type) {
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
            let verdict = match (signer, signature) {
                (AskedSigner::Key(key), Some(signature)) => Some(check(key, &payload, signature, at, digest)),
                (AskedSigner::Key(key), None) => check_bundle(key, &payload, digest),
                (AskedSigner::Identity(signer), Some(signature)) => {
                    Some(check_identity(signer, &payload, (signature, &layer.annotations), at, digest))
                }
                (AskedSigner::Identity(signer), None) => {
                    let verdict = signer.verify_bundle(&payload, digest, SIGNED_IMAGE);
                    verdict.map(|verdict| verdict.map(FoundSigner::Identity))
                }
            };
            match verdict {
                Some(Ok(found)) => return Ok(Some(found)),
                Some(Err(reason)) if !reasons.contains(&reason) => reasons.push(reason),
                Some(Err(_)) | None => {}
            }
        }
        Ok(None)
    }
}

/// Whether a payload is signed by the key, and is about this image.
fn check(
    key: &SignatureKey,
    payload: &[u8],
    signature: &str,
    at: &Location,
    digest: Digest,
) -> Result<FoundSigner, String> {
    // Before anything is read of it.
    if !key.signed(payload, signature) {
        return Err(OTHER_KEY.to_owned());
    }
    check_payload(payload, at, digest)?;
    Ok(FoundSigner::Key(key.digest))
}

/// The same for an identity, whose certificate and log entry are in annotations.
fn check_identity(
    signer: &KeylessSigner,
    payload: &[u8],
    (signature, annotations): (&str, &BTreeMap<String, String>),
    at: &Location,
    digest: Digest,
) -> Result<FoundSigner, String> {
    let found = signer.verify_annotated(payload, signature, annotations)?;
    check_payload(payload, at, digest)?;
    Ok(FoundSigner::Identity(found))
}

/// Whether what was signed is about this image.
fn check_payload(payload: &[u8], at: &Location, digest: Digest) -> Result<(), String> {
    let payload: SignaturePayload =
        serde_json::from_slice(payload).map_err(|error| format!("what is signed is not a payload: {error}"))?;
    payload.check(&at.name(), digest, |reference| Some(reference.parse::<Location>().ok()?.name()))
}

/// Whether the key has signed this image in a bundle. `None` for a bundle that is not a signature of an image: anything else
/// that is stated of one, like how it was built, is not.
fn check_bundle(key: &SignatureKey, bundle: &[u8], digest: Digest) -> Option<Result<FoundSigner, String>> {
    let bundle: SigstoreBundle = match serde_json::from_slice(bundle) {
        Ok(bundle) => bundle,
        Err(error) => return Some(Err(format!("not a bundle: {error}"))),
    };
    let (statement, _) = bundle.dsse_envelope.as_ref()?.statement()?;
    if statement.predicate_type != SIGNED_IMAGE {
        return None;
    }
    let verified = bundle.verified(key).map_err(str::to_owned);
    Some(verified.and_then(|statement| match statement.is_about(digest) {
        true => Ok(FoundSigner::Key(key.digest)),
        false => Err("what is signed is another image".to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use p256::SecretKey;
    use p256::pkcs8::{EncodePrivateKey, LineEnding};

    use super::*;
    use crate::signing::private_key::PrivateKey;

    /// What a payload says that it is.
    const KIND: &str = "cosign container image signature";

    fn keys(seed: u8) -> (PrivateKey, SignatureKey) {
        let pem = SecretKey::from_slice(&[seed; 32]).unwrap().to_pkcs8_pem(LineEnding::LF).unwrap();
        let key = PrivateKey::parse(&pem, || None).unwrap();
        let public = key.public.clone();
        (key, public)
    }

    fn sign(secret: &PrivateKey, payload: &str) -> String {
        secret.sign(payload.as_bytes())
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
        let verdict = |secret: &PrivateKey, text: &str| {
            check(&key, text.as_bytes(), &sign(secret, text), &at, digest).map(|_| ())
        };
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
        assert!(matches!(SignatureKey::parse("-----BEGIN PUBLIC KEY-----"), Err(KeyError::Public)));
    }

    /// Made by cosign 2.5.0: `attest --new-bundle-format --type https://sigstore.dev/cosign/sign/v1`.
    const BUNDLE: &str = include_str!("../../tests/fixtures/cosign/bundle.json");
    const KEY: &str = include_str!("../../tests/fixtures/cosign/cosign.pub");
    const IMAGE: &str = "sha256:5ec0f843fbf5d998846678cd4b02113129449e12d2187e12f5063528443af9f3";

    #[test]
    fn what_cosign_signed_is_signed_by_its_key_and_of_its_image() {
        let (key, image): (_, Digest) = (SignatureKey::parse(KEY).unwrap(), IMAGE.parse().unwrap());
        let verdict = |bundle: &str, image: Digest| {
            check_bundle(&key, bundle.as_bytes(), image).map(|verdict| verdict.map(|_| ()))
        };
        assert_eq!(verdict(BUNDLE, image), Some(Ok(())));
        let other = verdict(BUNDLE, Digest::of(b"other")).unwrap().unwrap_err();
        assert_eq!(other, "what is signed is another image");

        let payload = |text: &str| {
            let mut json: serde_json::Value = serde_json::from_str(BUNDLE).unwrap();
            let old = STANDARD.decode(json["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
            let new = String::from_utf8(old).unwrap().replace(&IMAGE["sha256:".len()..], text);
            json["dsseEnvelope"]["payload"] = STANDARD.encode(new).into();
            json.to_string()
        };
        let changed = verdict(&payload(&Digest::of(b"other").hex()), Digest::of(b"other")).unwrap().unwrap_err();
        assert_eq!(changed, "a signature is of another key, or of another payload");
        let bundle = BUNDLE.replace("\"sig\"", "\"keyid\":\"\",\"sig\"");
        assert_eq!(verdict(&bundle, image), Some(Ok(())));
        for nothing in ["{}", &BUNDLE.replace("in-toto", "other"), &BUNDLE.replace("dsseEnvelope", "messageSignature")]
        {
            assert_eq!(verdict(nothing, image), None, "{nothing}");
        }
        assert!(verdict("[", image).unwrap().unwrap_err().starts_with("not a bundle: "));
        assert!(sigstore_bundle::is_bundle("application/vnd.dev.sigstore.bundle.v0.3+json"));
        assert!(!sigstore_bundle::is_bundle("application/vnd.in-toto+json"));
    }
}
