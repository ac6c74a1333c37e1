//! The layers that each tool makes of the same image.
//!
//! | scheme | is |
//! |---|---|
//! | windlass | this crate's: each model by itself at the bottom, then the closures of all images planned together, then what lies outside of the store; or what was built |
//! | dockerTools, popularity | `streamLayeredImage` with `maxLayers = 100` and its old pipeline `popularity_contest`, `limit_layers`: how many ways lead to a path from the roots decides, ties break by name; the first 98 have layers of their own, the rest shares one, and the customisation layer lies on top |
//! | nix2container, maxLayers | `buildImage` with `maxLayers = 100`: the same count, but ties break by the place in the sorted list of store paths, the last first; the first 99 have layers of their own |
//! | nix2container, layers | `buildImage` with `layers` that a careful user writes: the models, what the app refers to, the app |
//! | one layer | `dockerTools.buildImage`, and `nix2container.buildImage` as it comes |
//!
//! None of the others knows models: they are store paths like any other there. The rules are those of nixpkgs'
//! `flatten-references-graph` and of nix2container's Go code as they are described there, written anew here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::history::{FleetHistory, FleetImage, FleetVersion, LAYER_FRAME};
use crate::nix::store_path::StorePath;
use crate::oci::digest::Digest;
use crate::plan::closure_split::{SplitRequest, split};
use crate::spec::DEFAULT_MAX_LAYERS;

/// The layers that users of both other tools ask for.
const MANY: usize = 100;

/// A way to make layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LayerScheme {
    Windlass,
    DockerTools,
    Nix2container,
    Nix2containerLayers,
    OneLayer,
}

impl LayerScheme {
    /// All of them, in the order of tables.
    pub(crate) const ALL: [Self; 5] =
        [Self::Windlass, Self::DockerTools, Self::Nix2container, Self::Nix2containerLayers, Self::OneLayer];

    /// For tables.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Windlass => "windlass",
            Self::DockerTools => "dockerTools, popularity",
            Self::Nix2container => "nix2container, maxLayers",
            Self::Nix2containerLayers => "nix2container, layers",
            Self::OneLayer => "one layer",
        }
    }
}

/// A layer of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemeLayer {
    /// The same for the same content.
    pub(super) blob: Digest,
    /// Bytes of the archive.
    pub(super) size: u64,
    /// Bytes of it when packed, where that is known.
    pub(super) zstd: Option<u64>,
}

/// An image as a tool makes it.
#[derive(Debug, Clone)]
pub(super) struct SchemeImage {
    /// Bottom first.
    pub(super) layers: Vec<SchemeLayer>,
    /// The same for the same image.
    pub(super) identity: Digest,
    pub(super) manifest_size: u64,
    pub(super) lean_size: u64,
    /// What a Nix store needs for it.
    pub(super) paths: BTreeSet<StorePath>,
}

/// The images of one version.
pub(super) type SchemeVersion = BTreeMap<String, SchemeImage>;

/// The images of a version with the layers of a tool.
pub(super) fn arrange(history: &FleetHistory, version: &FleetVersion, scheme: LayerScheme) -> SchemeVersion {
    let mut plans = match scheme {
        LayerScheme::Windlass => together(history, version),
        _ => BTreeMap::new(),
    };
    let image = |(name, image): (&String, &FleetImage)| {
        let layers = match scheme {
            LayerScheme::Windlass => plans.remove(name).unwrap_or_default(),
            LayerScheme::DockerTools => popular(history, image, MANY - 1, false),
            LayerScheme::Nix2container => popular(history, image, MANY, true),
            LayerScheme::Nix2containerLayers => careful(history, image),
            LayerScheme::OneLayer => vec![all(image)],
        };
        (name.clone(), finished(history, image, scheme, layers))
    };
    version.images.iter().map(image).collect()
}

/// From groups of store paths to layers with what comes below and above them.
fn finished(
    history: &FleetHistory,
    image: &FleetImage,
    scheme: LayerScheme,
    groups: Vec<BTreeSet<StorePath>>,
) -> SchemeImage {
    let fixed = |(blob, size): &(Digest, u64)| SchemeLayer { blob: *blob, size: *size, zstd: None };
    let mut layers: Vec<SchemeLayer> = match (&image.built, scheme) {
        (Some(built), LayerScheme::Windlass) => built.iter().map(fixed).collect(),
        _ => {
            let groups = groups.iter().filter(|group| !group.is_empty()).map(|group| layer(history, group));
            image.base.iter().map(fixed).chain(groups).collect()
        }
    };
    if let Some(top) = &image.top
        && !(scheme == LayerScheme::Windlass && image.built.is_some())
    {
        let (blob, size, zstd) = (Digest::of(top.content.as_bytes()), top.size, top.zstd_size);
        match layers.last_mut().filter(|_| scheme == LayerScheme::OneLayer) {
            Some(below) => {
                below.blob = Digest::of(format!("{}+{blob}", below.blob).as_bytes());
                below.size += size;
                below.zstd = below.zstd.zip(zstd).map(|(below, top)| below + top);
            }
            None => layers.push(SchemeLayer { blob, size, zstd }),
        }
    }
    let blobs: Vec<String> = layers.iter().map(|layer| layer.blob.to_string()).collect();
    let identity = Digest::of(format!("{} {}", blobs.join(" "), image.settings).as_bytes());
    let (manifest_size, lean_size) = (image.manifest_size, image.lean_size);
    SchemeImage { layers, identity, manifest_size, lean_size, paths: all(image) }
}

fn layer(history: &FleetHistory, paths: &BTreeSet<StorePath>) -> SchemeLayer {
    let names: Vec<&str> = paths.iter().map(StorePath::base_name).collect();
    let sizes = || paths.iter().filter_map(|path| history.sizes.get(path));
    SchemeLayer {
        blob: Digest::of(names.join(" ").as_bytes()),
        size: sizes().map(|sizes| sizes.tar).sum::<u64>() + LAYER_FRAME,
        zstd: sizes().map(|sizes| sizes.zstd).sum(),
    }
}

/// All store paths of an image.
fn all(image: &FleetImage) -> BTreeSet<StorePath> {
    image.closure.union(&image.models).cloned().collect()
}

/// Ours: all images of a version are planned at once.
fn together(history: &FleetHistory, version: &FleetVersion) -> BTreeMap<String, Vec<BTreeSet<StorePath>>> {
    let request = |image: &FleetImage| SplitRequest {
        closure: image.closure.clone(),
        max_layers: DEFAULT_MAX_LAYERS,
        locked: None,
    };
    let requests: Vec<SplitRequest> = version.images.values().map(request).collect();
    let plans = split(&history.graph, &requests);
    let layers = |(name, image): (&String, &FleetImage), parts: Vec<_>| {
        let models = image.models.iter().map(|model| BTreeSet::from([model.clone()]));
        (name.clone(), models.chain(parts).collect())
    };
    version
        .images
        .iter()
        .zip(plans)
        .map(|(image, parts)| layers(image, parts.into_iter().map(|part| part.paths.into_iter().collect()).collect()))
        .collect()
}

/// The paths that most ways lead to have layers of their own, as long as there are some to be had; the rest is one.
fn popular(
    history: &FleetHistory,
    image: &FleetImage,
    max_layers: usize,
    last_path_first: bool,
) -> Vec<BTreeSet<StorePath>> {
    let ways = ways(history, &all(image));
    let mut paths: Vec<&StorePath> = ways.keys().collect();
    if last_path_first {
        paths.sort_by_key(|path| (Reverse(ways[*path]), Reverse(path.base_name())));
    } else {
        paths.sort_by_key(|path| (Reverse(ways[*path]), path.name(), path.hash_part()));
    }
    let rest = paths.split_off(paths.len().min(max_layers - 1));
    let own = paths.into_iter().map(|path| BTreeSet::from([path.clone()]));
    own.chain([rest.into_iter().cloned().collect()]).collect()
}

/// How many ways lead to each path from those that nothing refers to.
fn ways(history: &FleetHistory, paths: &BTreeSet<StorePath>) -> BTreeMap<StorePath, u128> {
    let mut ways: BTreeMap<StorePath, u128> = paths.iter().map(|path| (path.clone(), 0)).collect();
    for info in history.graph.references_first().into_iter().rev() {
        let Some(here) = ways.get_mut(&info.path) else { continue };
        // Nothing refers to it: all that could was before it.
        *here = (*here).max(1);
        let here = *here;
        for reference in &info.references {
            if let Some(ways) = ways.get_mut(reference) {
                *ways = ways.saturating_add(here);
            }
        }
    }
    ways
}

/// The models, what the app refers to, and the app.
fn careful(history: &FleetHistory, image: &FleetImage) -> Vec<BTreeSet<StorePath>> {
    let infos = image.closure.iter().filter_map(|path| history.graph.get(path));
    let referred: BTreeSet<&StorePath> = infos.flat_map(|info| &info.references).collect();
    let (below, app): (BTreeSet<&StorePath>, BTreeSet<&StorePath>) =
        image.closure.iter().partition(|path| referred.contains(path));
    let owned = |paths: BTreeSet<&StorePath>| paths.into_iter().cloned().collect();
    vec![image.models.clone(), owned(below), owned(app)]
}
