//! Manifests that say that they are about another one (distribution-spec 1.1, *Listing Referrers*, *Pushing Manifests with
//! Subject*): signatures and attestations.
//!
//! A registry that knows of subjects lists them. For one that does not, clients keep the list, as an index under a tag that
//! is made of the subject's digest. Two clients that change it at once lose what one of them has added: such registries have no
//! way to say what an index was changed from.

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{MAX_MANIFEST, RegistryClient, manifest_name};
use super::error::RegistryError;
use super::location::Location;
use crate::disk::progress::Progress;
use crate::oci::canonical;
use crate::oci::digest::Digest;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A manifest that is about another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Referrer {
    /// What it is about.
    pub(crate) subject: Digest,
    /// What kind of thing it is.
    pub(crate) artifact_type: String,
    pub(crate) annotations: Value,
    pub(crate) bytes: Vec<u8>,
}

/// The tag that stands for the list of what is about a manifest.
fn list_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl RegistryClient {
    /// The manifests that are about this one: what the registry lists, or where it knows no such list, what clients have
    /// listed under the tag that stands for it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn referrers(&self, at: &Location, digest: Digest, progress: &Progress) -> Result<Vec<Digest>, RegistryError> {
        #[derive(Deserialize)]
        struct RawIndex {
            manifests: Vec<RawIndexEntry>,
        }
        #[derive(Deserialize)]
        struct RawIndexEntry {
            digest: String,
        }
        let what = format!("the referrers of {}", manifest_name(at, &digest.to_string()));
        let listed = self.transport.retrying(at, progress, || {
            let ask = self.ask(at, &what, Method::GET, &format!("referrers/{digest}"))?;
            let response = self.transport.send(&ask, progress)?;
            self.transport.incoming(&ask, response, progress).all(MAX_MANIFEST, "index")
        });
        let bytes = match listed {
            Err(RegistryError::NotFound { .. } | RegistryError::Refused { .. }) => {
                match self.manifest(at, &list_tag(digest), progress) {
                    Err(error) if error.is_gone() => return Ok(Vec::new()),
                    tagged => tagged?.bytes,
                }
            }
            listed => listed?,
        };
        let index: RawIndex =
            serde_json::from_slice(&bytes).map_err(|error| malformed(at, &what, error.to_string()))?;
        Ok(index.manifests.iter().filter_map(|entry| entry.digest.parse().ok()).collect())
    }

    /// Pushes a manifest that is about another one, whose blobs are there, and has it listed.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(crate) fn push_referrer(
        &self,
        at: &Location,
        referrer: &Referrer,
        progress: &Progress,
    ) -> Result<Digest, RegistryError> {
        let Referrer { subject, artifact_type, annotations, bytes } = referrer;
        let which = Digest::of(bytes).to_string();
        let (digest, is_listed) = self.put_manifest(at, &which, MANIFEST, bytes, progress)?;
        if is_listed {
            return Ok(digest);
        }
        let tag = list_tag(*subject);
        let mut index: Value = match self.manifest(at, &tag, progress) {
            Err(error) if error.is_gone() => json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }),
            found => {
                let text = found?.bytes;
                serde_json::from_slice(&text).map_err(|error| malformed(at, &tag, error.to_string()))?
            }
        };
        let Some(entries) = index["manifests"].as_array_mut() else {
            return Err(malformed(at, &tag, "it is not an index".to_owned()));
        };
        if entries.iter().any(|entry| entry["digest"] == which) {
            return Ok(digest);
        }
        entries.push(json!({ "mediaType": MANIFEST, "digest": which, "size": bytes.len(),
            "artifactType": artifact_type, "annotations": annotations }));
        self.push_manifest(at, &tag, INDEX, &canonical::to_bytes(&index), progress)?;
        Ok(digest)
    }
}

fn malformed(at: &Location, what: &str, reason: String) -> RegistryError {
    RegistryError::Malformed { host: at.host().to_owned(), what: what.to_owned(), reason }
}
