//! One generation: what was loaded at one time, and under which names it must be found.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image::LayerRecord;
use crate::image::layout::ImageDir;
use crate::image::summary::{ImageKind, PlatformRecord};
use crate::names::Name;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, Repository};

/// What was loaded at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// The version of the format.
    pub(crate) version: u32,
    /// Its number, from 1.
    pub number: u64,
    /// Images and models, by kind and name.
    pub entries: Vec<GenerationEntry>,
}

/// One image or model of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationEntry {
    /// What it is called in its stack: `redis`.
    pub name: Name,
    /// Whether it is an image or a model.
    pub(crate) kind: ImageKind,
    /// What it came with: names of stacks, or of the image. A load replaces all that came with the same.
    pub(crate) origins: BTreeSet<String>,
    /// Name with its registry, without the tag.
    pub(crate) repository: Repository,
    /// Name and tag.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Digest of the manifest, or of the index where there are several platforms.
    pub(crate) digest: Digest,
    /// Digest of the manifest of this platform.
    pub manifest_digest: Digest,
    /// Digest of the config: Podman's image ID.
    pub config_digest: Digest,
    /// What it runs on.
    pub(crate) platform: Platform,
    /// Bytes of all its layers.
    pub(crate) size: u64,
    /// The version as a tag, for people: it moves from load to load.
    #[serde(default, rename = "versionTag")]
    pub(crate) version: Option<Reference>,
    /// Names of its models.
    pub(crate) models: Vec<Name>,
    /// Its image directory; relative to the generation where it was copied.
    pub(crate) directory: PathBuf,
}

impl GenerationEntry {
    /// Describes one platform of an image directory.
    #[must_use]
    pub(crate) fn new(image: &ImageDir, platform: &PlatformRecord, name: &Name, origins: &BTreeSet<String>) -> Self {
        let summary = image.summary();
        let version = platform.version_of(&summary.name.file_name()).filter(|_| summary.kind != ImageKind::Model);
        let version = version.and_then(|version| Reference::new(&summary.name, &version).ok());
        Self {
            version: version.filter(|version| *version != summary.reference),
            name: name.clone(),
            kind: summary.kind,
            origins: origins.clone(),
            repository: summary.name.clone(),
            reference: summary.reference.clone(),
            digest: summary.digest,
            manifest_digest: platform.digest,
            config_digest: platform.config_digest,
            platform: platform.platform.clone(),
            size: platform.layers.iter().map(LayerRecord::diff_size).sum(),
            models: platform.models.clone(),
            directory: fs::canonicalize(image.path()).unwrap_or_else(|_| image.path().to_owned()),
        }
    }

    /// The names that a load gives it: name and tag, and the name with each of its digests.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        names(&self.reference, &self.repository, [self.manifest_digest, self.digest])
    }

    /// All names that are ours: those, and the tag of its version.
    #[must_use]
    pub fn all_names(&self) -> Vec<String> {
        self.names().into_iter().chain(self.version.as_ref().map(ToString::to_string)).collect()
    }

    /// Whether both are the same image, wherever their directories are.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let identity = |entry: &Self| Self { directory: PathBuf::new(), ..entry.clone() };
        identity(self) == identity(other)
    }
}

/// The names by which an image must be found: name and tag, and the name with the digest of its manifest and of its index.
/// Podman 5.4 knows a digest only below a name that the image has, and forgets it when the tag moves; so the digests are
/// names themselves.
pub(crate) fn names(reference: &str, repository: &str, [manifest, index]: [Digest; 2]) -> Vec<String> {
    let by_digest = |digest| format!("{repository}@{digest}");
    let mut names = vec![reference.to_owned(), by_digest(manifest)];
    names.extend((index != manifest).then(|| by_digest(index)));
    names
}
