//! `image.json`: what an image directory holds, for people and scripts.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::LayerRecord;
use crate::model::record::ModelRecord;
use crate::names::Name;
use crate::platform::Platform;
use crate::reference::{Reference, Repository};

/// One platform of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformRecord {
    /// What it runs on.
    pub platform: Platform,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the config: Podman's image ID.
    pub config_digest: Digest,
    /// Bytes of all its layers.
    pub size: u64,
    /// Its layers, bottom first.
    pub layers: Vec<LayerRecord>,
    /// Names of its models, lowest first.
    pub models: Vec<Name>,
}

/// What an image directory was built as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// Something that runs.
    Image,
    /// Model files and nothing else.
    Model,
    /// One name for the images of several platforms.
    Index,
    /// An image that was not built here, as it came.
    Upstream,
}

/// Where an image came from that was not built here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Its name and tag there, `docker.io/qdrant/qdrant:v1.16.2`, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What the tag named there: the digest of an index, or of the manifest.
    pub digest: Digest,
}

/// `image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// [`VERSION`](super::VERSION).
    pub version: u32,
    /// What kind of image it is.
    pub kind: ImageKind,
    /// Name with its registry, without the tag.
    pub name: Repository,
    /// Name and tag.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// What `index.json` names: the manifest's digest, or the index's for several platforms.
    pub digest: Digest,
    /// Where it came from, if it was not built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What is known of a model's files; of a model only, and not where an older windlass built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRecord>,
    /// The platforms, in the order in which they were given.
    pub platforms: Vec<PlatformRecord>,
}

impl Summary {
    /// Every layer once, in the order of the platforms, bottom first.
    #[must_use]
    pub fn layers(&self) -> Vec<&LayerRecord> {
        let mut layers: Vec<&LayerRecord> = Vec::new();
        for layer in self.platforms.iter().flat_map(|platform| &platform.layers) {
            if !layers.iter().any(|other| other.digest == layer.digest) {
                layers.push(layer);
            }
        }
        layers
    }
}
