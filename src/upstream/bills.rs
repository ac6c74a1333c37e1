//! The bills of materials that a publisher has attached to an image, found in each of the ways in which that is done.
//!
//! | way | what it is |
//! |---|---|
//! | in the index | BuildKit: a manifest with `vnd.docker.reference.type: attestation-manifest`, whose layers are in-toto statements |
//! | referrers | OCI 1.1: documents by their media type, and Sigstore bundles of cosign 3 |
//! | `sha256-<hex>.sbom` | `cosign attach sbom`: the document |
//! | `sha256-<hex>.att` | cosign 2: statements in DSSE envelopes |
//!
//! They are found by digest and not read, but for what says who has signed them. A bill in the index is signed with the index.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::lock::{Locked, VerifiedSignature};
use super::signature::AskedSigner;
use crate::disk::progress::Progress;
use crate::oci::bill::{AttachedBill, BillForm, BillFormat};
use crate::oci::digest::Digest;
use crate::registry::client::{MAX_SMALL_BLOB, RegistryClient};
use crate::registry::error::RegistryError;
use crate::registry::location::Location;
use crate::signing::sigstore_bundle::{SigstoreBundle, is_bundle};
use crate::signing::statement::{DsseEnvelope, InTotoStatement, STATEMENT};

/// Manifests about one image that are looked at, and layers in each.
const MOST: usize = 64;
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// What BuildKit says of an entry of an index, and of the layers of the manifest that it is.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// The annotations of a layer that say what it states: BuildKit's, and cosign's.
const PREDICATES: [&str; 2] = ["in-toto.io/predicate-type", "predicateType"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BillManifest {
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    layers: Vec<BillLayer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BillLayer {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct AnnotatedIndex {
    #[serde(default)]
    manifests: Vec<AnnotatedEntry>,
}

#[derive(Deserialize)]
struct AnnotatedEntry {
    digest: Digest,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Where to look for bills, and whose signatures count.
pub(super) struct BillSearch<'a> {
    pub(super) client: &'a RegistryClient,
    pub(super) at: &'a Location,
    pub(super) signer: Option<&'a AskedSigner>,
    /// What was verified of the image.
    pub(super) verified: Option<&'a VerifiedSignature>,
    pub(super) progress: &'a Progress,
}

impl BillSearch<'_> {
    /// All that are attached to what is about to be locked, in the order of their digests.
    ///
    /// # Errors
    /// If the registry does not say.
    pub(super) fn run(&self, locked: &Locked) -> Result<Vec<AttachedBill>, RegistryError> {
        let mut subjects = vec![locked.root.digest];
        subjects.extend(locked.platforms.values().map(|platform| platform.manifest.digest));
        subjects.sort();
        subjects.dedup();
        let mut bills = self.in_index(locked, &subjects)?;
        for subject in subjects {
            for ending in ["sbom", "att"] {
                bills.extend(self.of_manifest(&format!("sha256-{}.{ending}", subject.hex()), subject)?);
            }
            for referrer in self.client.referrers(self.at, subject, self.progress)?.into_iter().take(MOST) {
                bills.extend(self.of_manifest(&referrer.to_string(), subject)?);
            }
        }
        bills.sort();
        // The same one may be found in two ways.
        bills.dedup_by(|a, b| (a.subject, a.digest) == (b.subject, b.digest));
        Ok(bills)
    }

    /// What BuildKit has put into the index itself.
    fn in_index(&self, locked: &Locked, subjects: &[Digest]) -> Result<Vec<AttachedBill>, RegistryError> {
        let Ok(index) = serde_json::from_str::<AnnotatedIndex>(&locked.root.raw) else { return Ok(Vec::new()) };
        let root = self.verified.filter(|verified| verified.scope == "root");
        let signed_by = root.and_then(VerifiedSignature::signer);
        let mut bills = Vec::new();
        for AnnotatedEntry { digest, annotations } in index.manifests.iter().take(MOST) {
            let subject = annotations.get(REFERENCE_DIGEST).and_then(|text| text.parse::<Digest>().ok());
            let Some(subject) = subject.filter(|subject| subjects.contains(subject)) else { continue };
            if annotations.get(REFERENCE_TYPE).is_none_or(|kind| kind != "attestation-manifest") {
                continue;
            }
            let found = self.of_manifest(&digest.to_string(), subject)?.into_iter();
            bills.extend(found.map(|bill| AttachedBill { signed_by: bill.signed_by.or(signed_by.clone()), ..bill }));
        }
        Ok(bills)
    }

    /// The bills among the layers of a manifest; none, if it is not there or something else.
    fn of_manifest(&self, which: &str, subject: Digest) -> Result<Vec<AttachedBill>, RegistryError> {
        let found = match self.client.manifest(self.at, which, self.progress) {
            Err(RegistryError::NotFound { .. } | RegistryError::Malformed { .. }) => return Ok(Vec::new()),
            found => found?,
        };
        let Ok(BillManifest { artifact_type, layers }) = serde_json::from_slice(&found.bytes) else {
            return Ok(Vec::new());
        };
        // `oras attach` says of the manifest what its only file is.
        let only = BillFormat::of_media_type(&artifact_type).filter(|_| layers.len() == 1);
        let bills = layers.into_iter().take(MOST).map(|layer| self.of_layer(layer, subject, only));
        bills.filter_map(Result::transpose).collect()
    }

    fn of_layer(
        &self,
        layer: BillLayer,
        subject: Digest,
        only: Option<BillFormat>,
    ) -> Result<Option<AttachedBill>, RegistryError> {
        let BillLayer { media_type, digest, size, annotations } = layer;
        let bill = |format, form, signed_by, media_type| {
            Some(AttachedBill { subject, format, form, digest, size, media_type, signed_by })
        };
        if let Some(format) = BillFormat::of_media_type(&media_type) {
            return Ok(bill(format, BillForm::Document, None, media_type));
        }
        let told = PREDICATES.iter().find_map(|key| BillFormat::of_predicate(annotations.get(*key)?));
        let form = match media_type.as_str() {
            STATEMENT => BillForm::Statement,
            ENVELOPE => BillForm::Envelope,
            other if is_bundle(other) => BillForm::Bundle,
            _ => return Ok(only.and_then(|format| bill(format, BillForm::Document, None, media_type))),
        };
        // A statement without a signature need not be read where it says what it is, and what is too large is not read at all.
        if size > MAX_SMALL_BLOB || (told.is_some() && form == BillForm::Statement) {
            return Ok(told.and_then(|format| bill(format, form, None, media_type)));
        }
        let bytes = match self.client.blob(self.at, digest, size, self.progress) {
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            bytes => bytes?,
        };
        let Some(statement) = statement_in(&bytes, form) else { return Ok(None) };
        let Some(format) = BillFormat::of_predicate(&statement.predicate_type) else { return Ok(None) };
        if !statement.is_about(subject) {
            return Ok(None);
        }
        let signed_by =
            self.signer.and_then(|signer| signer.of_statement(&bytes, form, subject, &statement.predicate_type));
        Ok(bill(format, form, signed_by, media_type))
    }
}

/// The statement in these bytes, signed or not.
fn statement_in(bytes: &[u8], form: BillForm) -> Option<InTotoStatement> {
    match form {
        BillForm::Document => None,
        BillForm::Statement => serde_json::from_slice(bytes).ok(),
        BillForm::Envelope => Some(serde_json::from_slice::<DsseEnvelope>(bytes).ok()?.statement()?.0),
        BillForm::Bundle => Some(serde_json::from_slice::<SigstoreBundle>(bytes).ok()?.dsse_envelope?.statement()?.0),
    }
}
