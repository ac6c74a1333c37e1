//! Statements about an image as manifests: how a Sigstore bundle lies beside an image in a registry, and in a bundle of images.
//!
//! Both are alike (image-spec 1.1, *manifest.md*, "Guidelines for Artifact Usage"), so that tools which copy an image with its
//! referrers out of a layout take them along.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex, MediaType};
use serde_json::{Value, json};

use super::bundle::BLOBS;
use super::json::{format_error, read_json};
use super::layout::{ImageDir, LayoutError};
use super::{SmallBlob, descriptor, digest_in};
use crate::disk::bounded::{self, Cap};
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::spec::config::unordered;

pub(crate) use crate::signing::sigstore_bundle::WRITTEN as SIGSTORE;

/// That of the config of a manifest that is not an image.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The annotation that says what is stated.
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

/// A Sigstore bundle about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageStatement {
    /// What it states.
    pub(crate) predicate_type: String,
    pub(crate) bytes: Vec<u8>,
}

/// The manifest of a statement, and the blobs that it names.
#[derive(Debug)]
pub(crate) struct StatementManifest {
    pub(crate) manifest: SmallBlob,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Its config and the statement.
    pub(crate) blobs: [Vec<u8>; 2],
}

impl ImageStatement {
    /// Its manifest as one about this index or manifest.
    pub(crate) fn manifest(&self, media_type: &str, subject: Digest, size: u64) -> StatementManifest {
        let annotations = BTreeMap::from([
            ("dev.sigstore.bundle.content".to_owned(), "dsse-envelope".to_owned()),
            (PREDICATE.to_owned(), self.predicate_type.clone()),
        ]);
        let blobs = [b"{}".to_vec(), self.bytes.clone()];
        let blob = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
        let manifest = json!({ "schemaVersion": 2, "mediaType": MediaType::ImageManifest, "artifactType": SIGSTORE,
            "config": blob(EMPTY, &blobs[0]), "layers": [blob(SIGSTORE, &blobs[1])], "annotations": annotations,
            "subject": { "mediaType": media_type, "digest": subject, "size": size } });
        let bytes = canonical::to_bytes(&manifest);
        let manifest = SmallBlob { media_type: MediaType::ImageManifest, digest: Digest::of(&bytes), bytes };
        StatementManifest { manifest, annotations, blobs }
    }
}

impl StatementManifest {
    /// Its entry in an index.
    pub(crate) fn descriptor(&self) -> Descriptor {
        let SmallBlob { media_type, digest, bytes } = &self.manifest;
        let mut entry = descriptor(media_type, *digest, bytes.len() as u64);
        entry.set_artifact_type(Some(MediaType::from(SIGSTORE)));
        entry.set_annotations(Some(unordered(&self.annotations)));
        entry
    }
}

impl ImageDir {
    /// The statements about this image that lie in its layout: those that a bundle carries.
    ///
    /// # Errors
    /// If one that `index.json` names is not there, or has other bytes.
    pub(crate) fn statements(&self) -> Result<Vec<ImageStatement>, LayoutError> {
        let index: ImageIndex = read_json(&self.layout().join("index.json"))?;
        let (mut found, ours) = (Vec::new(), self.summary().digest.to_string());
        let is_statement =
            |entry: &&Descriptor| entry.artifact_type().as_ref().is_some_and(|kind| kind.as_ref() == SIGSTORE);
        for digest in index.manifests().iter().filter(is_statement).filter_map(digest_in) {
            let bytes = blob(self.layout(), digest, Cap::Manifest)?;
            let manifest: Value =
                serde_json::from_slice(&bytes).map_err(|error| format_error(&path(self.layout(), digest), &error))?;
            let layer = manifest["layers"][0]["digest"].as_str().and_then(|digest| digest.parse().ok());
            let predicate = manifest["annotations"][PREDICATE].as_str();
            if let (Some(layer), Some(predicate)) = (layer, predicate)
                && manifest["subject"]["digest"] == *ours
            {
                let (predicate_type, bytes) = (predicate.to_owned(), blob(self.layout(), layer, Cap::Document)?);
                found.push(ImageStatement { predicate_type, bytes });
            }
        }
        Ok(found)
    }
}

fn path(layout: &Path, digest: Digest) -> std::path::PathBuf {
    layout.join(BLOBS).join(digest.hex())
}

fn blob(layout: &Path, digest: Digest, cap: Cap) -> Result<Vec<u8>, LayoutError> {
    let path = path(layout, digest);
    let bytes = bounded::read(&path, cap).map_err(|source| LayoutError::Read { path: path.clone(), source })?;
    let found = Digest::of(&bytes);
    if found == digest { Ok(bytes) } else { Err(LayoutError::Damaged { path, found }) }
}
