//! Public keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey};

use crate::class::{Class, Classified};
use crate::oci::digest::Digest;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    #[error("not a public key of ECDSA P-256 in PEM, as `cosign public-key` prints it")]
    Public,
    #[error(
        "not a private key of ECDSA P-256 in PEM: expected PRIVATE KEY or EC PRIVATE KEY, as openssl writes them, or ENCRYPTED SIGSTORE PRIVATE KEY, as `cosign generate-key-pair` does"
    )]
    Private,
    /// A key of cosign that is not what cosign writes.
    #[error("an encrypted key of cosign that cannot be read: {0}")]
    Encrypted(String),
    #[error("the key is encrypted, and there is no password for it")]
    NoPassword,
    #[error("the key cannot be decrypted: the password is another one, or the file is damaged")]
    Password,
    /// There is no cosign to ask for a key that is not a file.
    #[error(
        "the key {key} is not a file, and cosign, which would know it, cannot be started: {source}; put it on PATH"
    )]
    NoCosign {
        /// How the user names the key.
        key: String,
        source: std::io::Error,
    },
    /// The program `cosign`.
    #[error("`cosign {verb}` with the key {key}: {said}")]
    Cosign {
        verb: &'static str,
        /// How the user names the key.
        key: String,
        /// What cosign said.
        said: String,
    },
}

impl Classified for KeyError {
    fn class(&self) -> Class {
        match self {
            Self::Public | Self::Private | Self::Encrypted(_) | Self::NoPassword | Self::Password => Class::Usage,
            Self::NoCosign { .. } => Class::Environment,
            Self::Cosign { .. } => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoPassword | Self::Password => Some("COSIGN_PASSWORD has the password of the key".to_owned()),
            Self::Public | Self::Private | Self::Encrypted(_) | Self::NoCosign { .. } | Self::Cosign { .. } => None,
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
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        Self::new(VerifyingKey::from_public_key_pem(pem.trim()).map_err(|_| KeyError::Public)?)
    }

    pub(super) fn new(key: VerifyingKey) -> Result<Self, KeyError> {
        let der = key.to_public_key_der().map_err(|_| KeyError::Public)?;
        Ok(Self { key, digest: Digest::of(der.as_bytes()) })
    }

    /// Whether `signature`, in base64, is this key's over these bytes.
    pub(crate) fn signed(&self, bytes: &[u8], signature: &str) -> bool {
        let signature = STANDARD.decode(signature.trim()).ok().and_then(|der| Signature::from_der(&der).ok());
        signature.is_some_and(|signature| self.key.verify(bytes, &signature).is_ok())
    }

    /// What a Sigstore bundle names it by.
    pub(super) fn hint(&self) -> String {
        STANDARD.encode(self.digest.as_bytes())
    }

    /// What OpenSSF model-signing names it by: the digest of its PEM, in hex.
    pub(super) fn pem_digest(&self) -> Option<String> {
        let pem = self.key.to_public_key_pem(p256::pkcs8::LineEnding::LF).ok()?;
        Some(Digest::of(pem.as_bytes()).hex())
    }
}
