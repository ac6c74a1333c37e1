//! in-toto statements and the DSSE envelopes that they are signed in.
//!
//! Formats: the statement of in-toto (v1, and v0.1 where it is read), `envelope.md` and `protocol.md` of DSSE.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key::{KeyError, SignatureKey};
use super::signer::Signer;
use crate::oci::canonical;
use crate::oci::digest::Digest;

/// What an envelope says that a statement is.
pub(crate) const STATEMENT: &str = "application/vnd.in-toto+json";
/// What a statement says that it is.
const STATEMENT_V1: &str = "https://in-toto.io/Statement/v1";

/// What is said of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InTotoStatement {
    #[serde(rename = "_type", default)]
    kind: String,
    /// What it is about.
    #[serde(default)]
    pub(crate) subject: Vec<StatedSubject>,
    /// How the predicate is read.
    pub(crate) predicate_type: String,
    #[serde(default)]
    pub(crate) predicate: Value,
}

/// Something that a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct StatedSubject {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Its digests in hex, by their algorithms.
    #[serde(default)]
    pub(crate) digest: BTreeMap<String, String>,
}

impl StatedSubject {
    /// Something with this digest.
    pub(crate) fn new(name: impl Into<String>, digest: Digest) -> Self {
        Self { name: Some(name.into()), digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]) }
    }
}

impl InTotoStatement {
    pub(crate) fn new(subject: Vec<StatedSubject>, predicate_type: &str, predicate: Value) -> Self {
        Self { kind: STATEMENT_V1.to_owned(), subject, predicate_type: predicate_type.to_owned(), predicate }
    }

    /// Whether it is about something with this digest.
    pub(crate) fn is_about(&self, digest: Digest) -> bool {
        let hex = digest.hex();
        self.subject.iter().any(|subject| subject.digest.get("sha256") == Some(&hex))
    }

    /// In an envelope that is signed.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub(crate) fn sign(&self, signer: &Signer) -> Result<DsseEnvelope, KeyError> {
        let payload = canonical::to_bytes(self);
        let sig = signer.sign(&pre_authentication(STATEMENT, &payload))?;
        let signatures = vec![DsseSignature { keyid: String::new(), sig }];
        Ok(DsseEnvelope { payload: STANDARD.encode(payload), payload_type: STATEMENT.to_owned(), signatures })
    }
}

/// A statement with signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DsseEnvelope {
    payload: String,
    payload_type: String,
    #[serde(default)]
    signatures: Vec<DsseSignature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DsseSignature {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    keyid: String,
    sig: String,
}

impl DsseEnvelope {
    /// The statement in it, and its bytes; `None` if it holds something else.
    pub(crate) fn statement(&self) -> Option<(InTotoStatement, Vec<u8>)> {
        let payload = STANDARD.decode(&self.payload).ok().filter(|_| self.payload_type == STATEMENT)?;
        Some((serde_json::from_slice(&payload).ok()?, payload))
    }

    /// Whether one of its signatures is this key's over these bytes, which are its payload.
    pub(crate) fn is_signed(&self, key: &SignatureKey, payload: &[u8]) -> bool {
        let message = pre_authentication(&self.payload_type, payload);
        self.signatures.iter().any(|signed| key.signed(&message, &signed.sig))
    }
}

/// What is signed of a payload (*protocol.md*).
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).as_bytes(), payload].concat()
}
