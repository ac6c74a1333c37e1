//! Config, manifest and index: pure values, and the JSON bytes that their digests are taken of.
//!
//! Types are those of `oci-spec` (image-spec 1.1: *config.md*, *manifest.md*, *image-index.md*), bytes are made by
//! [`canonical`]. Reproducibility: the bytes depend on the spec and on the layers' digests and sizes.

pub(crate) mod archive;
pub(crate) mod bundle;
pub(crate) mod closure;
pub(crate) mod delta;
pub(crate) mod erofs_cache;
pub(crate) mod json;
pub(crate) mod layout;
mod layout_error;
pub(crate) mod recipes;
pub(crate) mod referrer;
pub(crate) mod rootfs;
pub(crate) mod store_paths;
pub(crate) mod summary;
pub(crate) mod vouching;

use std::collections::BTreeMap;
use std::str::FromStr;

use oci_spec::image::{
    Arch, Descriptor, History, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::summary::ImageOrigin;
use crate::layer::{Checksums, LargeFile, LayerFile, Recipe};
use crate::names::Name;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::secrets::SecretFinding;
use crate::spec::ImageSpec;
use crate::spec::config::{ImageConfig, unordered};

/// What a layer is for; in the order in which layers lie, bottom first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LayerKind {
    /// Model files.
    Model,
    /// A layer of the image that this one is built on.
    Base,
    /// Store paths.
    Closure,
    /// What is not below the store: links, `/etc`, mount points.
    Root,
}

impl LayerKind {
    /// The word that tables and JSON have for it.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Base => "base",
            Self::Closure => "closure",
            Self::Root => "root",
        }
    }
}

/// One layer as `image.json` and `stack.json` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayerRecord {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Size in bytes.
    #[serde(deserialize_with = "crate::names::size")]
    pub size: u64,
    /// For a layer that came compressed: what is in it. Layers of ours are not compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) packed: Option<PackedLayer>,
    /// What it is for.
    pub(crate) kind: LayerKind,
    /// For a layer of a model that has several: which part of it this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<ModelPart>,
    /// What is in it, in a few words.
    pub(crate) title: String,
    /// Why it is where it is.
    pub(crate) why: String,
    /// The host paths that its bytes come from.
    pub(crate) owners: Vec<String>,
}

/// What a layer holds of a model that has several layers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelPart {
    /// The model's name.
    pub(crate) model: Name,
    /// Whether it holds tensors. Layers that do lie below those that do not, in all of an image.
    pub(crate) weights: bool,
}

/// Which of an image's models each of its layers is of, by its place among `models`. A layer without a part is the only
/// one of its model; these have the order of the models.
#[must_use]
pub(crate) fn models_of<'a>(
    models: &[Name],
    layers: impl Iterator<Item = (LayerKind, Option<&'a ModelPart>)> + Clone,
) -> Vec<Option<usize>> {
    let place = |part: &ModelPart| models.iter().position(|name| *name == part.model);
    let in_parts: Vec<usize> = layers.clone().filter_map(|(_, part)| place(part?)).collect();
    let mut whole = (0..models.len()).filter(|n| !in_parts.contains(n));
    let model = |(kind, part): (LayerKind, Option<&ModelPart>)| match (kind, part) {
        (LayerKind::Model, Some(part)) => place(part),
        (LayerKind::Model, None) => whole.next(),
        _ => None,
    };
    layers.map(model).collect()
}

/// What is in a compressed layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PackedLayer {
    /// Media type of the layer, in the words of the OCI image-spec.
    pub(crate) media_type: String,
    /// Digest of the archive that it holds.
    pub(crate) diff_id: Digest,
    /// Size of that archive in bytes.
    #[serde(deserialize_with = "crate::names::size")]
    pub(crate) diff_size: u64,
}

impl LayerRecord {
    /// Whether it holds tensors of a model.
    #[must_use]
    pub(crate) fn is_weights(&self) -> bool {
        self.kind == LayerKind::Model && self.part.as_ref().is_none_or(|part| part.weights)
    }

    /// Digest of the layer's archive, uncompressed: what a config names, and what chain IDs are made of.
    #[must_use]
    pub(crate) fn diff_id(&self) -> Digest {
        self.packed.as_ref().map_or(self.digest, |packed| packed.diff_id)
    }

    /// Size of the layer's archive in bytes, uncompressed: about what its files take on a disk.
    #[must_use]
    pub(crate) fn diff_size(&self) -> u64 {
        self.packed.as_ref().map_or(self.size, |packed| packed.diff_size)
    }

    /// The media type that a manifest gives it.
    #[must_use]
    pub(crate) fn media_type(&self) -> MediaType {
        self.packed.as_ref().map_or(MediaType::ImageLayer, |packed| MediaType::from(packed.media_type.as_str()))
    }
}

/// A layer whose bytes can be had: its record, and how they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BuiltLayer {
    /// What it is.
    pub(crate) record: LayerRecord,
    /// What makes it.
    pub(crate) recipe: Recipe,
    /// The sums of its files; `None` where an older windlass built it.
    pub(crate) checksums: Option<Checksums>,
    /// Its files by their digests; of models only, and only while they are built.
    pub(crate) files: Vec<LayerFile>,
    /// What looks like a secret in it; only while it is built, as nothing is built with what is not allowed.
    pub(crate) secrets: Vec<SecretFinding>,
    /// Its large files; `None` unless its bytes were read now.
    pub(crate) large: Option<Vec<LargeFile>>,
}

impl BuiltLayer {
    /// One that was built before.
    pub(crate) const fn before(record: LayerRecord, recipe: Recipe, checksums: Option<Checksums>) -> Self {
        Self { record, recipe, checksums, files: Vec::new(), secrets: Vec::new(), large: None }
    }
}

/// What is kept of layers in place of their bytes: how they are made, and the sums of their files.
pub(crate) fn kept(layers: &[BuiltLayer]) -> (BTreeMap<Digest, Recipe>, BTreeMap<Digest, Checksums>) {
    let recipes = layers.iter().map(|layer| (layer.record.digest, layer.recipe.clone()));
    let sums = layers.iter().filter_map(|layer| Some((layer.record.digest, layer.checksums.clone()?)));
    (recipes.collect(), sums.collect())
}

/// One blob that is held in memory: a manifest, config or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallBlob {
    /// Media type.
    pub(crate) media_type: MediaType,
    /// Digest of the bytes.
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

impl SmallBlob {
    fn new<T: Serialize>(media_type: MediaType, value: &T) -> Self {
        let bytes = canonical::to_bytes(value);
        Self { media_type, digest: Digest::of(&bytes), bytes }
    }

    fn descriptor(&self) -> Descriptor {
        descriptor(&self.media_type, self.digest, self.bytes.len() as u64)
    }
}

/// A descriptor (image-spec, *descriptor.md*).
#[must_use]
pub(crate) fn descriptor(media_type: &MediaType, digest: Digest, size: u64) -> Descriptor {
    let digest =
        oci_spec::image::Digest::from_str(&digest.to_string()).expect("a digest of ours is a digest of theirs");
    Descriptor::new(media_type.clone(), size, digest)
}

/// The digest in a descriptor; `None` for an algorithm other than SHA-256.
#[must_use]
pub(crate) fn digest_in(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.digest().to_string().parse().ok()
}

/// What an image's config says, beside its layers.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// What it runs on.
    pub(crate) platform: Platform,
    /// Windows only.
    pub(crate) os_version: Option<String>,
    /// What the operating system must have.
    pub(crate) os_features: Vec<String>,
    /// When it was made, RFC 3339.
    pub(crate) created: String,
    /// Who made it.
    pub(crate) author: Option<String>,
    /// How it runs.
    pub(crate) config: ImageConfig,
    /// Annotations of its manifest.
    pub(crate) annotations: BTreeMap<String, String>,
    /// What the image that it is built upon hands down.
    pub(crate) inherited: Option<Inherited>,
}

/// What an image hands down to one that is built upon it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// How a container of it runs: all of its `config`, keys that windlass does not know included.
    pub(crate) config: Map<String, Value>,
    /// How it was made; empty if that is not known for every layer.
    pub(crate) history: Vec<History>,
    /// `os.version` and `os.features`, where it has them.
    pub(crate) os: Map<String, Value>,
    /// How many layers it has.
    pub(crate) layers: usize,
    /// Where it came from, or what it is built upon itself, if that was not built here.
    pub(crate) origin: Option<ImageOrigin>,
}

impl From<&ImageSpec> for About {
    fn from(spec: &ImageSpec) -> Self {
        Self {
            platform: spec.platform.clone(),
            os_version: spec.os_version.clone(),
            os_features: spec.os_features.clone(),
            created: spec.created.clone(),
            author: spec.author.clone(),
            config: spec.config.clone(),
            annotations: spec.annotations.clone(),
            inherited: None,
        }
    }
}

/// The config blob and the manifest blob of an image with these layers, bottom first.
#[must_use]
pub(crate) fn manifest(about: &About, layers: &[BuiltLayer]) -> (SmallBlob, SmallBlob) {
    let config = match &about.inherited {
        None => SmallBlob::new(MediaType::ImageConfig, &configuration(about, layers)),
        Some(inherited) => SmallBlob::new(MediaType::ImageConfig, &inheriting(about, layers, inherited)),
    };
    let to = |BuiltLayer { record, .. }: &BuiltLayer| descriptor(&record.media_type(), record.digest, record.size);
    let layers: Vec<_> = layers.iter().map(to).collect();
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config.descriptor())
        .layers(layers);
    if !about.annotations.is_empty() {
        manifest = manifest.annotations(unordered(&about.annotations));
    }
    let manifest = manifest.build().expect("every required field is set");
    let manifest = SmallBlob::new(MediaType::ImageManifest, &manifest);
    (config, manifest)
}

fn configuration(about: &About, layers: &[BuiltLayer]) -> ImageConfiguration {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.record.diff_id().to_string()).collect();
    let history: Vec<_> = layers
        .iter()
        .map(|layer| {
            HistoryBuilder::default()
                .created(about.created.clone())
                .created_by(format!("windlass {} layer: {}", layer.record.kind.word(), layer.record.title))
                .comment(contents_of(layer))
                .build()
                .expect("no field is required")
        })
        .collect();
    let mut image = ImageConfigurationBuilder::default()
        .created(about.created.clone())
        .architecture(Arch::from(about.platform.architecture.as_str()))
        .os(Os::from(about.platform.os.as_str()))
        .rootfs(
            RootFsBuilder::default().typ("layers".to_owned()).diff_ids(diff_ids).build().expect("both fields are set"),
        )
        .history(history)
        .config(about.config.to_oci());
    if let Some(variant) = &about.platform.variant {
        image = image.variant(variant.clone());
    }
    if let Some(author) = &about.author {
        image = image.author(author.clone());
    }
    if let Some(version) = &about.os_version {
        image = image.os_version(version.clone());
    }
    if !about.os_features.is_empty() {
        image = image.os_features(about.os_features.clone());
    }
    image.build().expect("every required field is set")
}

/// The configuration of an image that is built upon another: all that it says, with what the new one says over it.
fn inheriting(about: &About, layers: &[BuiltLayer], inherited: &Inherited) -> Value {
    let json = |value: &ImageConfiguration| serde_json::to_value(value).expect("string keys and integers are JSON");
    let mut new = configuration(about, layers);
    if !inherited.history.is_empty() {
        // The layers of the base lie above those of models that are not its own.
        let start = layers.iter().take_while(|layer| layer.record.kind == LayerKind::Model).count();
        let start = start.min(layers.len().saturating_sub(inherited.layers));
        let mut history = new.history().clone().unwrap_or_default();
        history.splice(start..start + inherited.layers, inherited.history.iter().cloned());
        new.set_history(Some(history));
    }
    let mut value = json(&new);
    let config = about.config.over(&inherited.config);
    value["config"] = Value::Object(config);
    for (key, inherited) in &inherited.os {
        if value.get(key).is_none() {
            value[key] = inherited.clone();
        }
    }
    value
}

/// Names of what is in a layer, at most this many.
const NAMES: usize = 12;

/// What is in a layer: for a model its places in the image, as the same file may come from anywhere; else the names of
/// the store paths.
fn contents_of(layer: &BuiltLayer) -> String {
    let names: Vec<String> = match layer.record.kind {
        LayerKind::Model => layer.recipe.targets().map(|target| target.display().to_string()).collect(),
        _ => layer.record.owners.iter().map(|owner| owner.rsplit('/').next().unwrap_or(owner).to_owned()).collect(),
    };
    let more = match names.len().saturating_sub(NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", names[..names.len().min(NAMES)].join(" "))
}

/// An index of the manifests of several platforms.
#[must_use]
pub(crate) fn index(
    manifests: &[(Platform, MediaType, Digest, u64)],
    annotations: &BTreeMap<String, String>,
) -> SmallBlob {
    let entries: Vec<_> = manifests
        .iter()
        .map(|(platform, media_type, digest, size)| {
            let mut to = PlatformBuilder::default()
                .os(Os::from(platform.os.as_str()))
                .architecture(Arch::from(platform.architecture.as_str()));
            if let Some(variant) = &platform.variant {
                to = to.variant(variant.clone());
            }
            let mut entry = descriptor(media_type, *digest, *size);
            entry.set_platform(Some(to.build().expect("both required fields are set")));
            entry
        })
        .collect();
    let mut index =
        ImageIndexBuilder::default().schema_version(2_u32).media_type(MediaType::ImageIndex).manifests(entries);
    if !annotations.is_empty() {
        index = index.annotations(unordered(annotations));
    }
    SmallBlob::new(MediaType::ImageIndex, &index.build().expect("every required field is set"))
}

/// The `index.json` of a layout that holds one image (image-spec, *image-layout.md*): its manifest, or, for several
/// platforms, its index. Podman takes the name from `org.opencontainers.image.ref.name`, containerd and Docker from
/// `io.containerd.image.name`.
#[must_use]
pub(crate) fn index_json(top: &SmallBlob, reference: &str) -> Vec<u8> {
    index_of(&[(top, reference)], Vec::new())
}

/// The same of several images, with what is about them.
#[must_use]
pub(crate) fn index_of(images: &[(&SmallBlob, &str)], others: Vec<Descriptor>) -> Vec<u8> {
    let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
    let entry = |(top, reference): &(&SmallBlob, &str)| {
        let mut entry = top.descriptor();
        entry.set_annotations(Some(keys.map(|key| (key.to_owned(), (*reference).to_owned())).into_iter().collect()));
        entry
    };
    let entries: Vec<_> = images.iter().map(entry).chain(others).collect();
    let index = ImageIndexBuilder::default().schema_version(2_u32).media_type(MediaType::ImageIndex).manifests(entries);
    canonical::to_bytes(&index.build().expect("every required field is set"))
}

/// The `oci-layout` file.
#[must_use]
pub(crate) fn oci_layout() -> Vec<u8> {
    canonical::to_bytes(&BTreeMap::from([("imageLayoutVersion", "1.0.0")]))
}

/// containers-storage's name of each layer of an image, bottom first: the lowest one's diff ID, then
/// `sha256(parent + "+" + diff ID)`, all in hex.
#[must_use]
pub(crate) fn chain_ids(layers: &[LayerRecord]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(layers.len());
    for layer in layers {
        let next = match chain.last() {
            None => layer.diff_id(),
            Some(parent) => Digest::of(format!("{}+{}", parent.hex(), layer.diff_id().hex()).as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// The chain ID of each layer with those below it, as the OCI has them (image-spec, *config.md*, "Layer `ChainID`"), by diff IDs.
#[must_use]
pub(crate) fn oci_chain_ids(diff_ids: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
    let above = |below: &mut Option<Digest>, layer: Digest| {
        let next = below.map_or(layer, |below| Digest::of(format!("{below} {layer}").as_bytes()));
        *below = Some(next);
        *below
    };
    diff_ids.into_iter().scan(None, above).collect()
}
