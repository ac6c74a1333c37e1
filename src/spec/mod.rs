//! What was asked for: images, models, layers, indexes and stacks, as JSON.
//!
//! The Nix functions in `nix/lib/` write these specs; people without Nix write them by hand. A key that is not known is
//! an error, and every error names its key, because a misspelt key would otherwise silently give another image.
//! Reproducibility: of a spec, only what is written in it reaches an image.

pub(crate) mod config;
pub(crate) mod content;
mod model;
pub(crate) mod owners;
pub(crate) mod pattern;
pub(crate) mod policy;
pub(crate) mod service;
mod service_words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use self::model::{Layering, ModelSource, ModelSpec};
use self::service::ServiceConfig;
use crate::class::{Class, Classified};
use crate::layer::Perm;
use crate::model::forms::ollama::OllamaSpec;
use crate::model::licence::policy::LicencePolicy;
use crate::nix::package::PackageRecord;
use crate::nix::store_path::StoreDir;
use crate::oci::bill::AttachedBill;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, ReferenceError, file_name, full_name};
use crate::oci::strict;
use crate::secrets::Allowed;
use crate::spec::config::ImageConfig;
use crate::spec::content::{SpecContent, StoreRoot, check_source};
use crate::spec::pattern::StorePattern;
use crate::spec::policy::StackPolicy;

/// The layers that one image's closure is split into at most, unless the spec says otherwise.
pub(crate) const DEFAULT_MAX_LAYERS: usize = 20;
/// The layers an image may have at all: what overlay mounts and Docker take.
pub(crate) const LAYER_LIMIT: usize = 127;
/// When an image says it was made, unless its spec says otherwise: one second after the epoch, as in the Nix store.
pub(crate) const DEFAULT_CREATED: &str = "1970-01-01T00:00:01Z";

/// What `kind` may be.
const KINDS: &str = r#"expected "image", "model", "layer", "upstream", "oci", "index", "stack" or "ollama""#;

/// Why a spec cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Not JSON, a key that is not known, or a value of the wrong type.
    #[error("{key}: {message}")]
    Key {
        /// The path of the key, `images[0].config.Env`.
        key: String,
        message: String,
    },
    /// A name or a tag.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

impl Classified for SpecError {
    fn class(&self) -> Class {
        match self {
            Self::Key { .. } | Self::Reference(_) => Class::Usage,
        }
    }
}

fn wrong(key: impl Into<String>, message: impl Into<String>) -> SpecError {
    SpecError::Key { key: key.into(), message: message.into() }
}

/// Anything that `windlass build` builds, told apart by the key `kind`.
#[derive(Debug, Clone)]
pub enum Spec {
    /// `"kind": "image"`
    Image(Box<ImageSpec>),
    /// `"kind": "model"`
    Model(ModelSpec),
    /// `"kind": "layer"`
    Layer(LayerSpec),
    /// `"kind": "upstream"`
    Upstream(Box<UpstreamSpec>),
    /// `"kind": "oci"`
    Oci(OciSpec),
    /// `"kind": "index"`
    Index(IndexSpec),
    /// `"kind": "stack"`
    Stack(StackSpec),
    /// `"kind": "ollama"`
    Ollama(OllamaSpec),
}

impl Spec {
    /// Reads a spec.
    ///
    /// # Errors
    /// With the key at fault.
    pub fn parse(json: &str) -> Result<Self, SpecError> {
        let value = serde_json::from_str(json).map_err(|e| wrong("not JSON", e.to_string()))?;
        Self::from_value(value)
    }

    /// Reads a spec.
    ///
    /// # Errors
    /// With the key at fault.
    pub fn from_value(mut value: serde_json::Value) -> Result<Self, SpecError> {
        let object = value.as_object_mut().ok_or_else(|| wrong("the spec", "expected an object with a key 'kind'"))?;
        let spec = match object.remove("kind").as_ref().and_then(serde_json::Value::as_str) {
            Some("image") => Self::Image(Box::new(read(value)?)),
            Some("model") => Self::Model(read(value)?),
            Some("layer") => Self::Layer(read(value)?),
            Some("upstream") => Self::Upstream(Box::new(read(value)?)),
            Some("oci") => Self::Oci(read(value)?),
            Some("index") => Self::Index(read(value)?),
            Some("stack") => Self::Stack(read(value)?),
            Some("ollama") => Self::Ollama(read(value)?),
            _ => return Err(wrong("kind", KINDS)),
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), SpecError> {
        match self {
            Self::Image(image) => image.check(""),
            Self::Model(model) => model.check(""),
            Self::Layer(layer) => layer.check(),
            Self::Upstream(image) => image.check(),
            Self::Oci(image) => image.check(),
            Self::Ollama(ollama) => ollama.check().map_err(|(key, message)| wrong(key, message)),
            Self::Index(index) => {
                Reference::new(&index.name, index.tag.as_deref().unwrap_or("0"))?;
                if index.images.is_empty() {
                    return Err(wrong("images", "an index of no images; give one built image for each platform"));
                }
                Ok(())
            }
            Self::Stack(stack) => {
                let mut names = BTreeSet::new();
                for (n, image) in stack.images.iter().enumerate() {
                    image.check(&format!("images[{n}]."))?;
                    if !names.insert(file_name(&full_name(&image.name)?)) {
                        let message = format!("'{}' is the name of another image of this stack", image.name);
                        return Err(wrong(format!("images[{n}].name"), message));
                    }
                }
                for (n, model) in stack.models.iter().enumerate() {
                    model.check(&format!("models[{n}]."))?;
                }
                service::check_all(&stack.services).map_err(|(key, message)| wrong(key, message))?;
                stack.licences.check_rules().map_err(|(key, message)| wrong(format!("licences{key}"), message))?;
                stack.policy.check_rules().map_err(|(key, message)| wrong(format!("policy{key}"), message))?;
                // What was built before has names of its own, which are known when it is read.
                if stack.built.is_empty() { stack.services_of(&names).map(drop) } else { Ok(()) }
            }
        }
    }
}

fn read<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, SpecError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let key = e.path().to_string();
        wrong(if key == "." { "the spec".to_owned() } else { key }, e.inner().to_string())
    })
}

/// One image for one platform.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageSpec {
    /// Name; `localhost/` is put before it when it names no registry.
    pub name: String,
    /// Tag; when absent, the first twelve hex digits of the manifest's digest.
    #[serde(default)]
    pub tag: Option<String>,
    /// Platform, `os/architecture[/variant]`; when absent, the one windlass runs on.
    #[serde(default)]
    pub(crate) platform: Platform,
    /// Version of the operating system, for Windows images only.
    #[serde(default)]
    pub(crate) os_version: Option<String>,
    /// Features that the operating system must have.
    #[serde(default)]
    pub(crate) os_features: Vec<String>,
    /// When the image was made, RFC 3339; never the clock's time.
    #[serde(default = "default_created")]
    pub(crate) created: String,
    /// Who made it.
    #[serde(default)]
    pub(crate) author: Option<String>,
    /// How a container of it runs.
    #[serde(default)]
    pub(crate) config: ImageConfig,
    /// Annotations of the manifest.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// What is in it beside the models.
    #[serde(default)]
    pub(crate) content: SpecContent,
    /// Rules for modes and owners in the root layer (what is not below the store).
    #[serde(default)]
    pub(crate) perms: Vec<Perm>,
    /// Trees of `copyToRoot` with the file that says which modes and owners commands set in them ([`owners`]).
    #[serde(default)]
    pub(crate) owners: BTreeMap<PathBuf, PathBuf>,
    /// The image that this one is built upon, an image directory: its layers lie below, its config is handed down.
    #[serde(default)]
    pub(crate) from_image: Option<PathBuf>,
    /// Layers built before, by `buildLayer`: directories with a `layers.json`.
    #[serde(default)]
    pub(crate) layers: Vec<PathBuf>,
    /// Models, each in layers of its own at the bottom.
    #[serde(default)]
    pub(crate) models: Vec<ModelSource>,
    /// Layers that the closure is split into at most.
    #[serde(default = "default_max_layers")]
    pub(crate) max_layers: usize,
    /// The layers of the closure, bottom first, as names of packages: those of a plan lock, from `windlass plan --write`. With
    /// them another image of the stack has no say in them. Without them images that are built together are planned together.
    #[serde(default)]
    pub(crate) closure_layers: Option<Vec<Vec<String>>>,
    /// No store path in the image may have a name that one of these fits.
    #[serde(default)]
    pub(crate) forbid: Vec<StorePattern>,
    /// What may be in it although it looks like a secret. An entry that nothing needs is an error.
    #[serde(default)]
    pub(crate) allow_secrets: Vec<Allowed>,
    /// What nixpkgs says of the packages in it, for bills of materials. Nothing in the image depends on it.
    #[serde(default)]
    pub(crate) packages: Vec<PackageRecord>,
    /// Whether the root layer brings the places that a container engine mounts over, and /etc/passwd and /etc/group.
    /// When absent, unless it is built upon another image: that has an /etc/passwd of its own, which would be hidden.
    #[serde(default)]
    pub(crate) mount_points: Option<bool>,
    /// Where the store is.
    #[serde(default)]
    pub(crate) store_dir: StoreDir,
}

/// Layers that several images name.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LayerSpec {
    /// Name, for tables and history.
    pub(crate) name: String,
    /// What is in it.
    #[serde(default)]
    pub(crate) content: SpecContent,
    /// Rules for modes and owners.
    #[serde(default)]
    pub(crate) perms: Vec<Perm>,
    /// As in [`ImageSpec`].
    #[serde(default)]
    pub(crate) owners: BTreeMap<PathBuf, PathBuf>,
    /// Layers built before, whose store paths are left out of this one.
    #[serde(default)]
    pub(crate) layers: Vec<PathBuf>,
    /// Layers that the closure is split into at most.
    #[serde(default = "one")]
    pub(crate) max_layers: usize,
    /// As in [`ImageSpec`].
    #[serde(default)]
    pub(crate) allow_secrets: Vec<Allowed>,
    /// As in [`ImageSpec`].
    #[serde(default)]
    pub(crate) packages: Vec<PackageRecord>,
    /// Where the store is.
    #[serde(default)]
    pub(crate) store_dir: StoreDir,
}

/// An image that was not built here: its manifest, and the files that its blobs are.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamSpec {
    /// Name that it gets here; `localhost/` is put before it when it names no registry.
    pub name: String,
    /// Tag that it gets here; when absent, the first twelve hex digits of the manifest's digest.
    #[serde(default)]
    pub tag: Option<String>,
    /// Platform that it must be for; when absent, the one windlass runs on.
    #[serde(default)]
    pub(crate) platform: Platform,
    /// Its manifest, byte for byte.
    pub(crate) manifest: String,
    /// The file with its config.
    pub(crate) config: PathBuf,
    /// The files with its layers, bottom first.
    pub(crate) layers: Vec<PathBuf>,
    /// Its name and tag where it comes from, for people.
    #[serde(default)]
    pub(crate) source: Option<String>,
    /// Digest of the index that names it there, if one does.
    #[serde(default)]
    pub(crate) index: Option<Digest>,
    /// Who has signed it, as the lock says that it was verified: the digest of a key, or an identity.
    #[serde(default)]
    pub(crate) signed_by: Option<String>,
    /// The bills of materials that its publisher attached, as the lock has them.
    #[serde(default)]
    pub(crate) sboms: Vec<AttachedBill>,
}

/// An image that was not built here, in an OCI directory.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OciSpec {
    /// As in [`UpstreamSpec`].
    pub name: String,
    /// As in [`UpstreamSpec`].
    #[serde(default)]
    pub tag: Option<String>,
    /// Platform that it must be for; when absent, the one windlass runs on.
    #[serde(default)]
    pub(crate) platform: Platform,
    /// The OCI directory, with an `index.json`.
    pub(crate) layout: PathBuf,
    /// What the image is called there, where there are several: its name, its tag, or both.
    #[serde(default)]
    pub(crate) reference: Option<String>,
}

/// One name for the images of several platforms.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IndexSpec {
    pub name: String,
    /// Tag; when absent, the first twelve hex digits of the index's digest.
    #[serde(default)]
    pub tag: Option<String>,
    /// Image directories, one for each platform.
    pub(crate) images: Vec<PathBuf>,
    /// Annotations of the index.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Images that are planned together.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StackSpec {
    /// Name, for messages.
    pub(crate) name: String,
    /// The images that are planned together.
    #[serde(default)]
    pub images: Vec<ImageSpec>,
    /// Image directories that are taken as they are: indexes of several platforms.
    #[serde(default)]
    pub(crate) built: Vec<PathBuf>,
    /// Models beside those that the images name.
    #[serde(default)]
    pub(crate) models: Vec<ModelSource>,
    /// How containers of its images are run, by name.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceConfig>,
    /// Which licences its models may have.
    #[serde(default)]
    pub(crate) licences: LicencePolicy,
    /// What it may have: licences of packages, registries, signers, ages, vulnerabilities.
    #[serde(default)]
    pub(crate) policy: StackPolicy,
}

fn default_created() -> String {
    DEFAULT_CREATED.to_owned()
}

const fn default_max_layers() -> usize {
    DEFAULT_MAX_LAYERS
}

const fn one() -> usize {
    1
}

impl ImageSpec {
    fn check(&self, at: &str) -> Result<(), SpecError> {
        Reference::new(&self.name, self.tag.as_deref().unwrap_or("0"))?;
        if !strict::is_time(&self.created) {
            let hint = if self.created == "now" { "; an image carries no wall-clock time" } else { "" };
            return Err(wrong(format!("{at}created"), format!("'{}' is not an RFC 3339 time{hint}", self.created)));
        }
        check_max_layers(at, self.max_layers)?;
        self.config.check().map_err(|(key, message)| wrong(format!("{at}config{key}"), message))?;
        self.content.check(&self.store_dir).map_err(|(key, message)| wrong(format!("{at}content{key}"), message))?;
        check_perms(at, &self.perms)?;
        self.models.iter().enumerate().try_for_each(|(n, model)| model.check(&format!("{at}models[{n}].")))
    }

    /// Whether the root layer brings mount points and accounts.
    #[must_use]
    pub(crate) fn brings_mount_points(&self) -> bool {
        self.mount_points.unwrap_or(self.from_image.is_none())
    }

    /// The store paths that its content, config and annotations need.
    #[must_use]
    pub fn roots(&self) -> Vec<StoreRoot> {
        let mut roots = self.content.roots(&self.store_dir);
        let named = crate::oci::canonical::to_string(&(&self.config, &self.annotations));
        roots.extend(self.store_dir.scan(&named).into_iter().map(StoreRoot::Mentioned));
        roots
    }
}

impl UpstreamSpec {
    fn check(&self) -> Result<(), SpecError> {
        Reference::new(&self.name, self.tag.as_deref().unwrap_or("0"))?;
        let mut files =
            std::iter::once(("config", &self.config)).chain(self.layers.iter().map(|path| ("layers", path)));
        files.try_for_each(|(key, path)| check_source(key, path).map_err(|(key, message)| wrong(key, message)))
    }
}

impl OciSpec {
    fn check(&self) -> Result<(), SpecError> {
        Reference::new(&self.name, self.tag.as_deref().unwrap_or("0"))?;
        check_source("layout", &self.layout).map_err(|(key, message)| wrong(key, message))
    }
}

impl StackSpec {
    /// The services, each with the name that its image has among these of the stack.
    ///
    /// # Errors
    /// If one names another image.
    pub(crate) fn services_of(&self, images: &BTreeSet<String>) -> Result<BTreeMap<String, ServiceConfig>, SpecError> {
        let named = |(name, service): (&String, &ServiceConfig)| {
            let image = full_name(&service.image).ok().map(|full| file_name(&full));
            match image.filter(|image| images.contains(image)) {
                Some(image) => Ok((name.clone(), ServiceConfig { image, ..service.clone() })),
                None => {
                    let there = images.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                    let message = format!("'{}' is not an image of this stack, which has: {there}", service.image);
                    Err(wrong(format!("services.{name}.image"), message))
                }
            }
        };
        self.services.iter().map(named).collect()
    }
}

impl LayerSpec {
    fn check(&self) -> Result<(), SpecError> {
        full_name(&self.name)?;
        check_max_layers("", self.max_layers)?;
        check_perms("", &self.perms)?;
        self.content.check(&self.store_dir).map_err(|(key, message)| wrong(format!("content{key}"), message))
    }
}

fn check_max_layers(at: &str, max_layers: usize) -> Result<(), SpecError> {
    if (1..=LAYER_LIMIT).contains(&max_layers) {
        return Ok(());
    }
    Err(wrong(format!("{at}maxLayers"), format!("{max_layers} is not between 1 and {LAYER_LIMIT}")))
}

fn check_perms(at: &str, perms: &[Perm]) -> Result<(), SpecError> {
    perms.iter().enumerate().try_for_each(|(n, perm)| {
        let bad = |message| format!("'{}' is not a regular expression: {message}", perm.regex);
        perm.compile().map(drop).map_err(|message| wrong(format!("{at}perms[{n}].regex"), bad(message)))
    })
}
