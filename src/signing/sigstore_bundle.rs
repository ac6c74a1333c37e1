//! Sigstore bundles: a DSSE envelope with what it is verified by, in one file (`protobuf-specs` of sigstore, version 0.3).
//!
//! What is written names the key by its digest and has no entry of a transparency log.

use serde::{Deserialize, Serialize};

use super::key::{KeyError, SignatureKey};
use super::signer::Signer;
use super::statement::{DsseEnvelope, InTotoStatement};
use crate::oci::canonical;

/// What the media types of all versions begin with.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";
/// The version that is written.
pub(crate) const WRITTEN: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// A statement with signatures, and how they are verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SigstoreBundle {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    verification_material: VerificationMaterial,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dsse_envelope: Option<DsseEnvelope>,
}

/// It is not read: the key that the user gives decides.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VerificationMaterial {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<PublicKeyHint>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct PublicKeyHint {
    #[serde(default)]
    hint: String,
}

/// Whether a layer of this media type is a bundle.
pub(crate) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with(MEDIA_TYPE)
}

impl SigstoreBundle {
    /// A statement, signed.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub(crate) fn sign(statement: &InTotoStatement, signer: &Signer) -> Result<Self, KeyError> {
        let envelope = statement.sign(signer)?;
        Ok(Self::of(envelope, signer.public().hint()))
    }

    /// The same for OpenSSF model-signing, which names the key in another way.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub(crate) fn sign_model(statement: &InTotoStatement, signer: &Signer) -> Result<Self, KeyError> {
        let envelope = statement.sign(signer)?;
        Ok(Self::of(envelope, signer.public().pem_digest().unwrap_or_default()))
    }

    fn of(envelope: DsseEnvelope, hint: String) -> Self {
        let verification_material = VerificationMaterial { public_key: Some(PublicKeyHint { hint }) };
        Self { media_type: WRITTEN.to_owned(), verification_material, dsse_envelope: Some(envelope) }
    }

    /// As a file holds it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        canonical::to_bytes(self)
    }

    /// What it states, if the key has signed that.
    ///
    /// # Errors
    /// With what is wrong.
    pub(crate) fn verified(&self, key: &SignatureKey) -> Result<InTotoStatement, &'static str> {
        let envelope = self.dsse_envelope.as_ref().ok_or("it has no DSSE envelope")?;
        let (statement, payload) = envelope.statement().ok_or("its envelope holds no in-toto statement")?;
        if envelope.is_signed(key, &payload) {
            return Ok(statement);
        }
        Err(OTHER_KEY)
    }
}

/// What is wrong with a signature that does not fit.
pub(crate) const OTHER_KEY: &str = "a signature is of another key, or of another payload";
