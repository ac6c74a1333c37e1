//! Manifests and indexes of registries, read for what a lock needs, and refused by name where they are something else.
//!
//! The bytes stay what they are: nothing here is ever written again. A document is what its own `mediaType` says, else
//! what the registry calls it, else what its keys tell; the three may not contradict each other, because another tool
//! could then see another image in the same bytes.

use serde::Deserialize;

use crate::class::{Class, Classified};
use crate::oci::compression::Compression;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::strict::Refused;

/// An OCI index.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's index.
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest, schema 2.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a config of an image is called; with any other one, a manifest is an artifact and no image.
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// More than any image has, so that what a hundred of them have can still be summed: 64 PiB.
const MOST_BYTES: u64 = 1 << 56;

/// Why a document cannot be locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// A field that some reader of images cannot read.
    #[error("cannot be used: {0}")]
    Refused(#[from] Refused),
    /// Not text, so it could not be kept in a lock.
    #[error("is not UTF-8")]
    NotText,
    /// Not JSON, or a key of another type than manifests have.
    #[error("is not a manifest: {0}")]
    NotManifest(String),
    /// The manifest of before 2016, whose layers have no digests that Podman could check.
    #[error("is of schema 1, which registries gave up; ask its publisher for a newer image")]
    SchemaOne,
    /// A document that is two things.
    #[error("says that it is {said}, but is {is}: another tool would see another image in it")]
    Contradiction {
        /// What it, or the registry, says that it is.
        said: String,
        /// What its keys, or the other one, say.
        is: String,
    },
    /// An index in an index.
    #[error("has another index in it ({0}), and no image directly")]
    Nested(Digest),
    /// A type that is not of an image.
    #[error("is {0}, which is not an image")]
    Type(String),
    /// A manifest of something else: a chart, a signature, a model of another tool.
    #[error("is an artifact and no image: its config is {0}")]
    Artifact(String),
    /// A layer that has to be fetched from elsewhere.
    #[error("has a foreign layer ({digest}, {media_type}), which no registry serves")]
    Foreign { digest: Digest, media_type: String },
    /// A layer that is not an archive of files.
    #[error("has a layer ({digest}) that is {media_type}, which is not an archive that Podman unpacks")]
    Layer { digest: Digest, media_type: String },
    /// Sizes that no image has.
    #[error("has layers of more bytes than can be counted")]
    Size,
}

impl Classified for DocumentError {
    fn class(&self) -> Class {
        match self {
            Self::Refused(error) => error.class(),
            Self::NotText
            | Self::NotManifest(_)
            | Self::SchemaOne
            | Self::Contradiction { .. }
            | Self::Nested(_)
            | Self::Type(_)
            | Self::Artifact(_)
            | Self::Foreign { .. }
            | Self::Layer { .. }
            | Self::Size => Class::Failed,
        }
    }
}

/// What a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamDocument {
    /// One image for each of several platforms.
    Index(Vec<IndexEntry>),
    /// One image.
    Manifest(PlatformManifest),
}

/// An entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The manifest's digest.
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
    /// What it is for; `None` where the index does not say.
    pub platform: Option<Platform>,
}

/// The image of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformManifest {
    pub(crate) config: BlobDescriptor,
    /// Its layers, bottom first.
    pub layers: Vec<BlobDescriptor>,
}

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobDescriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

impl PlatformManifest {
    /// The config, then the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobDescriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Bytes of the config and all layers, as a registry has them.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }
}

/// A document with its kind, and the type it goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedDocument {
    /// Its type.
    pub media_type: String,
    /// What it is.
    pub document: UpstreamDocument,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    /// Only schema 1 has them.
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<RawPlatform>,
    #[serde(default)]
    urls: Vec<String>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpstreamDocumentKind {
    Index,
    Manifest,
}

impl UpstreamDocumentKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Index => "an index",
            Self::Manifest => "a manifest",
        }
    }
}

/// Reads a document; `told` is what the registry, or a lock, calls it.
///
/// # Errors
/// See [`DocumentError`].
pub fn read(bytes: &[u8], told: Option<&str>) -> Result<TypedDocument, DocumentError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::NotText)?;
    let mut from = serde_json::Deserializer::from_str(text);
    let raw: RawDocument = serde_path_to_error::deserialize(&mut from)
        .and_then(|raw| match from.end() {
            Ok(()) => Ok(raw),
            Err(error) => Err(serde_path_to_error::Error::new(serde_path_to_error::Track::new().path(), error)),
        })
        .map_err(|error| DocumentError::NotManifest(error.to_string()))?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err(DocumentError::SchemaOne);
    }
    let told = told.map(|told| told.split(';').next().unwrap_or(told).trim()).filter(|told| !is_generic(told));
    if let (Some(told), Some(own)) = (told, &raw.media_type)
        && told != own
    {
        return Err(DocumentError::Contradiction { said: told.to_owned(), is: own.clone() });
    }
    let shape = match (&raw.manifests, &raw.config, &raw.layers) {
        (Some(_), None, None) => UpstreamDocumentKind::Index,
        (None, Some(_), Some(_)) => UpstreamDocumentKind::Manifest,
        (Some(_), ..) => {
            return Err(DocumentError::Contradiction {
                said: UpstreamDocumentKind::Index.name().into(),
                is: UpstreamDocumentKind::Manifest.name().into(),
            });
        }
        _ => return Err(DocumentError::NotManifest("it has neither manifests nor config and layers".to_owned())),
    };
    let media_type = match raw.media_type.as_deref().or(told) {
        Some(media_type) => media_type.to_owned(),
        None if shape == UpstreamDocumentKind::Index => OCI_INDEX.to_owned(),
        None => OCI_MANIFEST.to_owned(),
    };
    let kind = kind_of(&media_type).ok_or_else(|| DocumentError::Type(media_type.clone()))?;
    if kind != shape {
        return Err(DocumentError::Contradiction { said: media_type, is: shape.name().to_owned() });
    }
    let document = match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), ..) => UpstreamDocument::Index(manifests.into_iter().filter_map(entry).collect()),
        (None, Some(config), Some(layers)) => UpstreamDocument::Manifest(manifest(config, layers)?),
        _ => return Err(DocumentError::NotManifest("it is empty".to_owned())),
    };
    Ok(TypedDocument { media_type, document })
}

/// What servers say that know nothing of images.
fn is_generic(media_type: &str) -> bool {
    matches!(media_type, "" | "application/json" | "application/octet-stream" | "text/plain" | "binary/octet-stream")
}

fn kind_of(media_type: &str) -> Option<UpstreamDocumentKind> {
    match media_type {
        OCI_INDEX | DOCKER_INDEX => Some(UpstreamDocumentKind::Index),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(UpstreamDocumentKind::Manifest),
        _ => None,
    }
}

/// Whether an entry of an index is another index.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    kind_of(media_type) == Some(UpstreamDocumentKind::Index)
}

/// `None` for attestations, which are no images.
fn entry(raw: RawDescriptor) -> Option<IndexEntry> {
    let notes = raw.annotations.unwrap_or_default();
    let unknown = |platform: &RawPlatform| platform.os == "unknown" && platform.architecture == "unknown";
    if notes.contains_key("vnd.docker.reference.type") || raw.platform.as_ref().is_some_and(unknown) {
        return None;
    }
    let platform = raw.platform.filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty());
    let platform = platform.map(|RawPlatform { os, architecture, variant }| {
        Platform { os, architecture, variant: variant.filter(|variant| !variant.is_empty()) }.canonical()
    });
    Some(IndexEntry { digest: raw.digest, size: raw.size, media_type: raw.media_type, platform })
}

fn manifest(config: RawDescriptor, layers: Vec<RawDescriptor>) -> Result<PlatformManifest, DocumentError> {
    if !CONFIGS.contains(&config.media_type.as_str()) {
        return Err(DocumentError::Artifact(config.media_type));
    }
    for layer in &layers {
        let (digest, media_type) = (layer.digest, layer.media_type.clone());
        if !layer.urls.is_empty() || media_type.contains(".foreign.") || media_type.contains(".nondistributable.") {
            return Err(DocumentError::Foreign { digest, media_type });
        }
        if Compression::of_media_type(&media_type).is_none() {
            return Err(DocumentError::Layer { digest, media_type });
        }
    }
    let sizes = layers.iter().try_fold(config.size, |sum, layer| sum.checked_add(layer.size));
    sizes.filter(|sum| *sum < MOST_BYTES).ok_or(DocumentError::Size)?;
    let plain = |raw: RawDescriptor| BlobDescriptor { media_type: raw.media_type, digest: raw.digest, size: raw.size };
    Ok(PlatformManifest { config: plain(config), layers: layers.into_iter().map(plain).collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn blob(media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": Digest::of(media_type.as_bytes()), "size": 3 })
    }

    fn image(layer: &str) -> Value {
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob(CONFIGS[0]), "layers": [blob(layer)] })
    }

    fn read_json(value: &Value, told: Option<&str>) -> Result<TypedDocument, DocumentError> {
        read(value.to_string().as_bytes(), told)
    }

    const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    #[test]
    fn images_of_both_makes_are_read() {
        let oci = image(TAR_GZIP);
        assert_eq!(read_json(&oci, Some("application/json; charset=utf-8")).unwrap().media_type, OCI_MANIFEST);
        let mut docker = image("application/vnd.docker.image.rootfs.diff.tar.gzip");
        docker["mediaType"] = json!(DOCKER_MANIFEST);
        docker["config"] = blob(CONFIGS[1]);
        let UpstreamDocument::Manifest(manifest) = read_json(&docker, None).unwrap().document else { panic!() };
        assert_eq!(manifest.total_size(), 6);
        let mut silent = image(TAR_GZIP);
        silent.as_object_mut().unwrap().remove("mediaType");
        assert_eq!(read_json(&silent, None).unwrap().media_type, OCI_MANIFEST);
    }

    #[test]
    fn attestations_are_no_platform_and_variants_have_one_name() {
        let entry = |platform: Value| {
            let mut entry = blob(OCI_MANIFEST);
            entry["platform"] = platform;
            entry
        };
        let mut attestation = entry(json!({ "os": "linux", "architecture": "amd64" }));
        attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
        let index = json!({ "schemaVersion": 2, "manifests": [
            entry(json!({ "os": "linux", "architecture": "arm64", "variant": "v8" })),
            entry(json!({ "os": "unknown", "architecture": "unknown" })),
            attestation,
            blob(OCI_MANIFEST),
        ] });
        let TypedDocument { media_type, document: UpstreamDocument::Index(entries) } = read_json(&index, None).unwrap()
        else {
            panic!()
        };
        assert_eq!(media_type, OCI_INDEX);
        let platforms: Vec<_> = entries.iter().map(|entry| entry.platform.as_ref().map(ToString::to_string)).collect();
        assert_eq!(platforms, [Some("linux/arm64".to_owned()), None]);
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let with = |key: &str, value: Value| {
            let mut image = image(TAR_GZIP);
            image[key] = value;
            image
        };
        let mut foreign = image(TAR_GZIP);
        foreign["layers"][0]["urls"] = json!(["https://example.com/layer"]);
        let foreign_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        for (document, told, word) in [
            (json!({ "schemaVersion": 1, "fsLayers": [] }), None, "schema 1"),
            (json!({ "name": "a", "fsLayers": [] }), None, "schema 1"),
            (json!({ "schemaVersion": 2 }), None, "neither manifests"),
            (json!([1]), None, "is not a manifest"),
            (with("manifests", json!([])), None, "another tool"),
            (with("mediaType", json!(OCI_INDEX)), None, "another tool"),
            (image(TAR_GZIP), Some(DOCKER_MANIFEST), "another tool"),
            (with("mediaType", json!("application/x")), None, "which is not an image"),
            (with("config", blob("application/vnd.cncf.helm.config.v1+json")), None, "an artifact"),
            (image("application/vnd.ollama.image.model"), None, "not an archive"),
            (image(foreign_type), None, "foreign"),
            (foreign, None, "foreign"),
        ] {
            let error = read_json(&document, told).unwrap_err().to_string();
            assert!(error.contains(word), "{document}: {error}");
        }
        assert_eq!(read(b"\xff", None), Err(DocumentError::NotText));
        assert!(read(b"{} {}", None).is_err());
        let mut long = image(TAR_GZIP);
        long["layers"][0]["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
        assert!(
            read_json(&long, None)
                .unwrap_err()
                .to_string()
                .starts_with("is not a manifest: layers[0].digest: 'sha512:")
        );
        long = image(TAR_GZIP);
        long["layers"][0]["size"] = json!(u64::MAX);
        assert_eq!(read_json(&long, None), Err(DocumentError::Size));
    }
}
