//! `image.json`: what an image directory holds, for people and scripts.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::image::LayerRecord;
use crate::model::forms::record::ModelRecord;
use crate::names::Name;
use crate::nix::store_path::{StorePath, name_and_version};
use crate::oci::bill::AttachedBill;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, Repository, is_tag};

/// One platform of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformRecord {
    /// What it runs on.
    pub platform: Platform,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the config: Podman's image ID.
    pub config_digest: Digest,
    /// Bytes of all its layers.
    #[serde(deserialize_with = "crate::names::size")]
    pub size: u64,
    /// Its layers, bottom first.
    pub layers: Vec<LayerRecord>,
    /// Names of its models, lowest first.
    pub models: Vec<Name>,
}

impl PlatformRecord {
    /// The version of the package of this name in its layers, where there is one.
    #[must_use]
    pub fn version_of(&self, package: &str) -> Option<String> {
        let mut versions = BTreeSet::new();
        for owner in self.layers.iter().flat_map(|layer| &layer.owners) {
            let name = owner.rsplit('/').next().and_then(|base| StorePath::from_base_name(base).ok());
            let name = name.as_ref().map_or("", |path| path.name());
            let (found, version) = name_and_version(name);
            if found == package && is_tag(version) {
                versions.insert(version.to_owned());
            }
        }
        // Other outputs of the package have what they are called behind the version.
        let first = versions.pop_first()?;
        versions
            .iter()
            .all(|other| other.strip_prefix(&*first).is_some_and(|rest| rest.starts_with('-')))
            .then_some(first)
    }
}

/// What an image directory was built as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ImageKind {
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageOrigin {
    /// Its name and tag there, `docker.io/qdrant/qdrant:v1.16.2`, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    /// What the tag named there: the digest of an index, or of the manifest.
    pub(crate) digest: Digest,
    /// Who has signed it, as the lock says that it was verified: the digest of a key, or an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed_by: Option<String>,
    /// When its config says that it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    /// The bills of materials that its publisher attached, where the lock has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sboms: Vec<AttachedBill>,
}

/// An image that a bundle leaves layers out for: it is expected where the bundle is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExpectedImage {
    /// Its name and tag.
    #[serde(rename = "ref")]
    pub(crate) reference: Reference,
    /// Digest of its manifest.
    pub(crate) digest: Digest,
    /// Digest of its config.
    pub(crate) config_digest: Digest,
    /// The layers that are left out because it has them.
    pub(crate) layers: Vec<Digest>,
}

/// A layer of a bundle that is there as a [patch](crate::layer::patch).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerPatch {
    /// The layer; it is among those that are left out.
    pub(crate) layer: Digest,
    /// Digest of the patch.
    pub(crate) digest: Digest,
    /// Its size in bytes.
    #[serde(deserialize_with = "crate::names::size")]
    pub(crate) size: u64,
    /// The layers of which it takes bytes; they are not packed.
    pub(crate) from: Vec<Digest>,
}

/// `image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// [`VERSION`](super::layout::VERSION).
    pub(crate) version: u32,
    /// What kind of image it is.
    pub(crate) kind: ImageKind,
    /// Name with its registry, without the tag.
    pub name: Repository,
    /// Name and tag.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// What `index.json` names: the manifest's digest, or the index's for several platforms.
    pub digest: Digest,
    /// Where it came from, if it was not built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<ImageOrigin>,
    /// Where the image came from that it is built upon, if that was not built here either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<ImageOrigin>,
    /// What is known of a model's files; of a model only, and not where an older windlass built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<ModelRecord>,
    /// Layers that a bundle was made without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) without: Vec<Digest>,
    /// The images that have them, for a bundle that was made with `--since`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) expects: Vec<ExpectedImage>,
    /// What is there in place of some of the layers that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) patches: Vec<LayerPatch>,
    /// The platforms, in the order in which they were given.
    pub platforms: Vec<PlatformRecord>,
}

impl Summary {
    /// Every layer once, in the order of the platforms, bottom first.
    #[must_use]
    pub fn layers(&self) -> Vec<&LayerRecord> {
        let mut seen = BTreeSet::new();
        let all = self.platforms.iter().flat_map(|platform| &platform.layers);
        all.filter(|layer| seen.insert(layer.digest)).collect()
    }

    /// Whether a bundle was made without this layer.
    #[must_use]
    pub(crate) fn leaves_out(&self, layer: &LayerRecord) -> bool {
        self.without.contains(&layer.digest)
    }

    /// The patch that a bundle has in place of a layer.
    #[must_use]
    pub(crate) fn patch_of(&self, layer: &LayerRecord) -> Option<&LayerPatch> {
        self.patches.iter().find(|patch| patch.layer == layer.digest)
    }
}
