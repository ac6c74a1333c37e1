//! What happened to a set of images, as `windlass simulate --history` reads it.
//!
//! ```json
//! { "version": 1,
//!   "paths": [ { "path": "/nix/store/…-redis-8.0.2", "narHash": "sha256:…", "narSize": 1234, "references": [ "/nix/store/…-glibc-2.40" ] } ],
//!   "versions": [ { "title": "first", "images": { "redis": { "roots": [ "/nix/store/…-redis-8.0.2" ] } } },
//!                 { "title": "as it was built", "directories": [ "result" ] } ],
//!   "groups": [ { "title": "all", "images": [ "redis" ] } ] }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::built;
use crate::class::{Class, Classified};
use crate::image::json::read_json;
use crate::image::layout::LayoutError;
use crate::nix::closure::{ClosureError, ClosureGraph};
use crate::nix::path_info::PathInfo;
use crate::nix::store_path::{StoreDir, StorePath, StorePathError};
use crate::oci::digest::Digest;

/// Bytes of a layer that are not of a store path: the headers of `nix/` and `nix/store/`, and the end of the archive.
pub(super) const LAYER_FRAME: u64 = 2048;

/// The file of `--history`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HistoryFile {
    /// The version of this format.
    #[schemars(range(min = 1, max = 1))]
    version: u32,
    /// Where store paths are.
    #[serde(default)]
    store_dir: Option<String>,
    /// All store paths of all versions, as `nix path-info --json --recursive` prints them, in any of its forms. An entry may have
    /// two more keys: `tarSize`, the bytes of its members in a layer, and `zstdSize`, the bytes of these when packed. Without the
    /// first the size of the NAR is taken for it.
    #[serde(default)]
    paths: Value,
    /// The first is what all hosts begin with.
    versions: Vec<HistoryVersion>,
    /// Which hosts have what; by default all have all.
    #[serde(default)]
    groups: Vec<HistoryGroup>,
}

/// The images at one time.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HistoryVersion {
    /// What changed, for tables.
    title: String,
    /// By name.
    #[serde(default)]
    images: BTreeMap<String, HistoryImage>,
    /// Image directories or lean stacks that windlass built, relative to this file: their images are added to the others. The
    /// layers of windlass are then those that they have, with their sizes.
    #[serde(default)]
    directories: Vec<PathBuf>,
}

/// An image by what is in it.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HistoryImage {
    /// Store paths; all that they refer to is in the image too.
    roots: Vec<String>,
    /// Store paths of models, which refer to nothing.
    #[serde(default)]
    models: Vec<String>,
    /// What lies outside of the store: links, texts, `/etc`.
    #[serde(default)]
    top: Option<HistoryTop>,
    /// Anything that is another text when the settings are others: how it is run, its variables.
    #[serde(default)]
    settings: String,
    /// Bytes of its manifest and its config.
    #[serde(default)]
    manifest_size: u64,
    /// Bytes of its lean image directory as a NAR.
    #[serde(default)]
    lean_size: u64,
}

/// The layer of what lies outside of the store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HistoryTop {
    /// Anything that is another text when the content is another.
    pub(super) content: String,
    /// Bytes of the layer.
    pub(super) size: u64,
    /// Bytes of it when packed.
    #[serde(default)]
    pub(super) zstd_size: Option<u64>,
}

/// Hosts that are alike.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HistoryGroup {
    /// For tables.
    title: String,
    /// How many of them there are, in proportion to the other groups.
    #[serde(default = "one")]
    share: u32,
    /// The images that they have; by default all.
    #[serde(default)]
    images: BTreeSet<String>,
    /// How many of a hundred updates such a host leaves out; what it misses comes with a later one.
    #[serde(default)]
    skips: u8,
}

const fn one() -> u32 {
    1
}

/// Why a file is no history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HistoryError {
    /// It cannot be read, or is something else.
    #[error(transparent)]
    File(#[from] LayoutError),
    /// Its store paths.
    #[error("{path}: {source}", path = path.display())]
    Closure {
        path: PathBuf,
        /// What is wrong with them.
        source: ClosureError,
    },
    /// A store path, or the store.
    #[error("{path}: {at}: {source}", path = path.display())]
    StorePath {
        path: PathBuf,
        /// The version and the image.
        at: String,
        /// What is wrong with it.
        source: StorePathError,
    },
    /// What it says makes no sense.
    #[error("{path}: {reason}", path = path.display())]
    Sense {
        path: PathBuf,
        /// The part that makes none, and why not.
        reason: String,
    },
}

impl Classified for HistoryError {
    fn class(&self) -> Class {
        match self {
            Self::File(error) => error.class(),
            Self::Closure { .. } | Self::StorePath { .. } | Self::Sense { .. } => Class::Usage,
        }
    }
}

/// What is known of the bytes of a store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StorePathBytes {
    /// The NAR's.
    pub(crate) nar: u64,
    /// Those of its members in a layer.
    pub(crate) tar: u64,
    /// The same, packed.
    pub(crate) zstd: Option<u64>,
}

/// An image of one version.
#[derive(Debug, Clone)]
pub(crate) struct FleetImage {
    /// Its store paths without models.
    pub(super) closure: BTreeSet<StorePath>,
    pub(super) models: BTreeSet<StorePath>,
    pub(super) top: Option<HistoryTop>,
    pub(super) settings: String,
    pub(super) manifest_size: u64,
    pub(super) lean_size: u64,
    /// Layers of an image of others that it is built on.
    pub(super) base: Vec<(Digest, u64)>,
    /// All layers as windlass built them, where it did.
    pub(super) built: Option<Vec<(Digest, u64)>>,
}

/// All images at one time.
#[derive(Debug, Clone)]
pub(crate) struct FleetVersion {
    /// What changed.
    pub(crate) title: String,
    pub(super) images: BTreeMap<String, FleetImage>,
}

/// Hosts that are alike.
#[derive(Debug, Clone)]
pub(crate) struct FleetGroup {
    pub(crate) title: String,
    pub(crate) share: u32,
    pub(crate) images: BTreeSet<String>,
    pub(crate) skips: u8,
}

/// A history that makes sense.
#[derive(Debug, Clone)]
pub(crate) struct FleetHistory {
    pub(crate) store: StoreDir,
    pub(super) graph: ClosureGraph,
    pub(crate) sizes: BTreeMap<StorePath, StorePathBytes>,
    pub(crate) versions: Vec<FleetVersion>,
    pub(crate) groups: Vec<FleetGroup>,
}

impl FleetHistory {
    /// Reads it.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub(crate) fn read(path: &Path) -> Result<Self, HistoryError> {
        Self::new(path, read_json(path)?)
    }

    fn new(path: &Path, file: HistoryFile) -> Result<Self, HistoryError> {
        let sense = |reason: String| HistoryError::Sense { path: path.to_owned(), reason };
        if file.version != 1 {
            return Err(sense(format!("is of version {}, and this windlass knows version 1", file.version)));
        }
        let store =
            file.store_dir.as_deref().map_or(Ok(StoreDir::default()), StoreDir::new).map_err(|source| {
                HistoryError::StorePath { path: path.to_owned(), at: "storeDir".to_owned(), source }
            })?;
        let paths = if file.paths.is_null() { Value::Array(Vec::new()) } else { file.paths };
        let closure = |source| HistoryError::Closure { path: path.to_owned(), source };
        let mut infos = PathInfo::read_all(&store, &paths).map_err(|error| closure(error.into()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut built = Vec::new();
        for version in &file.versions {
            let mut images = BTreeMap::new();
            for directory in &version.directories {
                for image in built::images(&folder.join(directory))? {
                    let (name, found) = built::image(&image, &store, &mut infos)?;
                    images.insert(name, found);
                }
            }
            built.push(images);
        }
        let graph = ClosureGraph::from_infos(infos).map_err(closure)?;
        let entries = entries(&paths);
        let sizes = graph.iter().map(|info| (info.path.clone(), sizes(&entries, info)));
        let sizes = sizes.collect();
        let mut versions = Vec::new();
        for (HistoryVersion { title, images, .. }, mut read) in file.versions.into_iter().zip(built) {
            for (name, image) in images {
                let parse = |text: &String| store.parse(text);
                let failed = |source| HistoryError::StorePath {
                    path: path.to_owned(),
                    at: format!("version '{title}', image {name}"),
                    source,
                };
                let all = |texts: &[String]| texts.iter().map(parse).collect::<Result<BTreeSet<_>, _>>();
                let (roots, models) = (all(&image.roots).map_err(failed)?, all(&image.models).map_err(failed)?);
                if let Some(model) = models.iter().find(|model| graph.get(model).is_none()) {
                    return Err(closure(ClosureError::UnknownRoot(model.clone())));
                }
                let mut closure = graph.closure_of(&roots).map_err(closure)?;
                closure.retain(|path| !models.contains(path));
                let HistoryImage { top, settings, manifest_size, lean_size, .. } = image;
                let (base, built) = (Vec::new(), None);
                let image = FleetImage { closure, models, top, settings, manifest_size, lean_size, base, built };
                read.insert(name, image);
            }
            versions.push(FleetVersion { title, images: read });
        }
        if versions.len() < 2 {
            return Err(sense("has no update: it needs two versions at least".to_owned()));
        }
        let known: BTreeSet<&String> = versions.iter().flat_map(|version| version.images.keys()).collect();
        let group = |group: HistoryGroup| {
            let HistoryGroup { title, share, images, skips } = group;
            if let Some(other) = images.iter().find(|name| !known.contains(name)) {
                return Err(sense(format!("group '{title}' has an image {other}, which no version has")));
            }
            if skips > 100 {
                return Err(sense(format!("group '{title}' leaves out {skips} of 100 updates")));
            }
            let images = if images.is_empty() { known.iter().map(|name| (*name).clone()).collect() } else { images };
            Ok(FleetGroup { title, share, images, skips })
        };
        let mut groups = file.groups.into_iter().map(group).collect::<Result<Vec<_>, _>>()?;
        if groups.is_empty() {
            let images = known.iter().map(|name| (*name).clone()).collect();
            groups.push(FleetGroup { title: "all".to_owned(), share: 1, images, skips: 0 });
        }
        if groups.iter().all(|group| group.share == 0) {
            return Err(sense("no group has a share of the hosts".to_owned()));
        }
        Ok(Self { store, graph, sizes, versions, groups })
    }

    /// The names of all images.
    pub(crate) fn images(&self) -> BTreeSet<&str> {
        self.versions.iter().flat_map(|version| version.images.keys()).map(String::as_str).collect()
    }
}

/// What is said of each store path, by its name without the store.
fn entries(paths: &Value) -> BTreeMap<&str, &Value> {
    match paths {
        Value::Array(entries) => {
            entries.iter().filter_map(|entry| Some((base_name(entry.get("path")?.as_str()?), entry))).collect()
        }
        object => {
            let infos = object.get("info").unwrap_or(object).as_object();
            infos.into_iter().flatten().map(|(path, entry)| (base_name(path), entry)).collect()
        }
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The bytes of a store path: what its entry says besides what Nix says.
fn sizes(entries: &BTreeMap<&str, &Value>, info: &PathInfo) -> StorePathBytes {
    let entry = entries.get(info.path.base_name());
    let number = |key: &str| entry.and_then(|entry| entry.get(key)).and_then(Value::as_u64);
    StorePathBytes { nar: info.nar_size, tar: number("tarSize").unwrap_or(info.nar_size), zstd: number("zstdSize") }
}
