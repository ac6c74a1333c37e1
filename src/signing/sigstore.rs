//! What the crate `sigstore-verify` is told of signatures, and what it says of them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use sigstore_verify::trust_root::TrustedRoot;
use sigstore_verify::types::{Artifact, Bundle, DerCertificate, Sha256Hash, SignatureContent};
use sigstore_verify::{Error, VerificationPolicy, Verifier};

use super::cryptography;
use super::identity::{AskedIdentity, CertifiedIdentity};
use super::statement::InTotoStatement;
use crate::oci::digest::Digest;

/// What is trusted.
pub(super) type SigstoreRoot = Verifier;

/// The annotation of a signature that has the certificate, in PEM.
pub(super) const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
/// The annotation with the certificates between the one that signed and the root, in PEM.
const CHAIN: &str = "dev.sigstore.cosign/chain";
/// The annotation with the entry of Rekor.
const ENTRY: &str = "dev.sigstore.cosign/bundle";
/// Certificates of a chain that are looked at. Fulcio has two above each.
const MOST_CERTIFICATES: usize = 8;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The trust root in a text.
///
/// # Errors
/// With what is wrong with it.
pub(super) fn read_root(text: &str) -> Result<SigstoreRoot, String> {
    cryptography::install();
    let root = TrustedRoot::from_json(text).map_err(|error| error.to_string())?;
    let absent = |what: &str| Err(format!("it names no {what}"));
    if root.certificate_authorities.is_empty() {
        return absent("certificate authority");
    }
    if root.tlogs.is_empty() {
        return absent("transparency log");
    }
    if root.ctlogs.is_empty() {
        return absent("log of certificates");
    }
    Verifier::new(&root).map_err(|error| error.to_string())
}

/// See [`KeylessSigner::verify_bundle`](super::keyless::KeylessSigner::verify_bundle).
pub(super) fn verify_bundle(
    root: &SigstoreRoot,
    asked: &AskedIdentity,
    bundle: &[u8],
    digest: Digest,
    predicate: &str,
) -> Option<Result<CertifiedIdentity, String>> {
    let bundle = match std::str::from_utf8(bundle).map_err(|error| error.to_string()) {
        Ok(text) => Bundle::from_json(text).map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(error) => return Some(Err(format!("not a bundle: {error}"))),
    };
    // Read of what is verified below, and of nothing else: two readers of one JSON may see two things in it.
    if let SignatureContent::DsseEnvelope(envelope) = &bundle.content {
        let statement: InTotoStatement = serde_json::from_slice(envelope.payload.as_bytes()).ok()?;
        if statement.predicate_type != predicate {
            return None;
        }
    }
    Some(verify(root, asked, Sha256Hash::new(*digest.as_bytes()).into(), &bundle))
}

/// See [`KeylessSigner::verify_annotated`](super::keyless::KeylessSigner::verify_annotated).
pub(super) fn verify_annotated(
    root: &SigstoreRoot,
    asked: &AskedIdentity,
    payload: &[u8],
    signature: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<CertifiedIdentity, String> {
    verify(root, asked, payload.into(), &bundle_of(signature, annotations)?)
}

fn verify(
    root: &SigstoreRoot,
    asked: &AskedIdentity,
    artifact: Artifact<'_>,
    bundle: &Bundle,
) -> Result<CertifiedIdentity, String> {
    // Who it is, is compared below: for one that does not fit, both are named.
    let found = root.verify(artifact, bundle, &VerificationPolicy::any_identity()).map_err(told)?;
    if !(found.certificate_verified() && found.sct_verified() && found.tlog_verified()) {
        return Err("certificate, SCT and log entry were not all verified".to_owned());
    }
    let name = found.identity().ok_or("its certificate names no URI and no email address")?.as_str().to_owned();
    let issuer = found.issuer().ok_or("its certificate names no OIDC issuer")?.to_owned();
    if asked.is_met_by(&name, &issuer) {
        return Ok(CertifiedIdentity { name, issuer });
    }
    Err(format!("a signature is of the identity {name} of the issuer {issuer}"))
}

/// What the library says, without the names of its parts.
fn told(error: Error) -> String {
    match error {
        Error::Types(error) => error.to_string(),
        Error::Crypto(error) => error.to_string(),
        Error::Bundle(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// What Rekor has promised, as cosign keeps it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RekorPromise {
    signed_entry_timestamp: String,
    payload: PromisedEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromisedEntry {
    body: String,
    integrated_time: i64,
    log_index: u64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// Which kind of entry a body is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryKind {
    kind: String,
    api_version: String,
}

/// A Sigstore bundle of version 0.1, which may have a promise alone, of what cosign keeps in annotations.
fn bundle_of(signature: &str, annotations: &BTreeMap<String, String>) -> Result<Bundle, String> {
    let entry = annotations.get(ENTRY).ok_or("a signature has no entry of a transparency log")?;
    let wrong = |error: &dyn std::fmt::Display| format!("the entry of a transparency log cannot be read: {error}");
    let RekorPromise { signed_entry_timestamp, payload } =
        serde_json::from_str(entry).map_err(|error| wrong(&error))?;
    let body = STANDARD.decode(&payload.body).map_err(|error| wrong(&error))?;
    let EntryKind { kind, api_version } = serde_json::from_slice(&body).map_err(|error| wrong(&error))?;
    let log_id = Digest::from_hex(&payload.log_id).map_err(|error| wrong(&error))?;
    let leaf = annotations.get(CERTIFICATE).map_or("", String::as_str);
    let chain = annotations.get(CHAIN).map_or("", String::as_str);
    let certificates = certificates(leaf)?.into_iter().take(1).chain(certificates(chain)?);
    let certificates: Vec<Value> = certificates.map(|der| json!({ "rawBytes": der.to_base64() })).collect();
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "verificationMaterial": {
            "x509CertificateChain": { "certificates": certificates },
            "tlogEntries": [{
                "logIndex": payload.log_index.to_string(),
                "logId": { "keyId": STANDARD.encode(log_id.as_bytes()) },
                "kindVersion": { "kind": kind, "version": api_version },
                "integratedTime": payload.integrated_time.to_string(),
                "inclusionPromise": { "signedEntryTimestamp": signed_entry_timestamp },
                "canonicalizedBody": payload.body,
            }],
        },
        "messageSignature": { "signature": signature.trim() },
    });
    serde_json::from_value(bundle).map_err(|error| format!("a signature cannot be read: {error}"))
}

/// The certificates in a PEM.
fn certificates(pem: &str) -> Result<Vec<DerCertificate>, String> {
    let parts = pem.split_inclusive(END).filter_map(|part| part.find(BEGIN).map(|at| &part[at..]));
    let read =
        |part: &str| DerCertificate::from_pem(part).map_err(|error| format!("a certificate cannot be read: {error}"));
    parts.take(MOST_CERTIFICATES).map(read).collect()
}
