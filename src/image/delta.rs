//! What a bundle says to other tools of an image that it has without some of its layers: the manifest that
//! [oci-delta](https://github.com/containers/oci-delta) writes.
//!
//! It is an artifact beside the image, which keeps its own manifest. Its subject is that manifest; its layers are the blobs that
//! the bundle has of the image, and its annotations name those that are expected where it is loaded.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::MediaType;
use serde::Serialize;
use serde_json::{Value, json};

use super::summary::{ExpectedImage, PlatformRecord, Summary};
use super::{LayerRecord, SmallBlob};
use crate::layer::patch;
use crate::oci::canonical;
use crate::oci::digest::Digest;

/// The type of the artifact.
pub(crate) const ARTIFACT: &str = "application/vnd.io.github.containers.oci-delta.v1";
/// The bytes of its config.
pub(crate) const EMPTY: &[u8] = b"{}";
/// The type of these.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// A descriptor with the annotations that say what it is of the image.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeltaPart {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

fn key(name: &str) -> String {
    format!("io.github.containers.delta.{name}")
}

fn part(media_type: &MediaType, (digest, size): (Digest, u64), content: &str, to: Option<Digest>) -> DeltaPart {
    let to = to.map(|to| (key("to"), to.to_string()));
    let annotations = [(key("content"), content.to_owned())].into_iter().chain(to).collect();
    DeltaPart { media_type: media_type.to_string(), digest, size, annotations }
}

/// The manifest of the artifact for one platform of an image. `small` are the image's own manifest and config, `summary` says
/// which layers are left out, and `source` is the image that is expected.
pub(crate) fn delta_manifest(
    platform: &PlatformRecord,
    small: [&SmallBlob; 2],
    summary: &Summary,
    source: &ExpectedImage,
) -> SmallBlob {
    let own = |blob: &SmallBlob, content| part(&blob.media_type, (blob.digest, blob.bytes.len() as u64), content, None);
    let [manifest, config] = small;
    let mut layers = vec![own(manifest, "image-manifest"), own(config, "image-config")];
    let mut seen = BTreeSet::new();
    let all: Vec<&LayerRecord> = platform.layers.iter().filter(|layer| seen.insert(layer.digest)).collect();
    let is_reused = |layer: &&LayerRecord| summary.leaves_out(layer) && summary.patch_of(layer).is_none();
    let (reused, there): (Vec<_>, Vec<_>) = all.into_iter().partition(is_reused);
    let blob = |layer: &&LayerRecord| match summary.patch_of(layer) {
        Some(patch) => {
            let media_type = MediaType::from(patch::MEDIA_TYPE);
            part(&media_type, (patch.digest, patch.size), "image-layer", Some(layer.digest))
        }
        None => part(&layer.media_type(), (layer.digest, layer.size), "image-layer", Some(layer.digest)),
    };
    layers.extend(there.iter().map(blob));
    let list = |digest: fn(&LayerRecord) -> Digest| {
        json!(reused.iter().map(|layer| digest(layer).to_string()).collect::<Vec<_>>()).to_string()
    };
    let annotations: BTreeMap<String, Value> = [
        ("target", manifest.digest.to_string()),
        ("source", source.digest.to_string()),
        ("source-config", source.config_digest.to_string()),
        ("reused", list(|layer| layer.digest)),
        ("reused-diff-id", list(LayerRecord::diff_id)),
    ]
    .map(|(name, text)| (key(name), text.into()))
    .into();
    let empty = part(&MediaType::from(EMPTY_TYPE), (Digest::of(EMPTY), EMPTY.len() as u64), "", None);
    let subject = own(manifest, "");
    let [empty, subject] = [empty, subject].map(|part| DeltaPart { annotations: BTreeMap::new(), ..part });
    let bytes = canonical::to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest.to_string(),
        "artifactType": ARTIFACT,
        "config": empty,
        "layers": layers,
        "subject": subject,
        "annotations": annotations,
    }));
    SmallBlob { media_type: MediaType::ImageManifest, digest: Digest::of(&bytes), bytes }
}
