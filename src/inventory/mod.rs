//! What is inside images: layers, store paths, models, images of registries, each once, and which is in which.
//!
//! An inventory is made of what image directories say of themselves (`image.json`, `closure.json`, the recipes and configs), so
//! stacks, bundles and single images give one. It reads no layer and asks neither Nix nor an engine: the same directories give
//! the same inventory on every host. [`graph`] answers questions about references.

pub(crate) mod graph;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

pub(crate) use self::model::InventoryModel;
use crate::image::closure::{ImageClosure, is_blob};
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::{ImageKind, ImageOrigin, PlatformRecord, Summary};
use crate::image::{LayerKind, LayerRecord, models_of};
use crate::layer::{Input, Recipe};
use crate::names::Name;
use crate::nix::closure::ClosureGraph;
use crate::nix::package::PackageRecord;
use crate::nix::path_info::PathInfo;
use crate::nix::store_path::{NarHash, StoreDir, StorePath, name_and_version};
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// All that is in some images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inventory {
    /// One entry for each platform of each image, models' own images among them, by reference and platform. What follows names
    /// images by their numbers in this list.
    pub(crate) images: Vec<InventoryImage>,
    /// The layers, each once.
    pub(crate) layers: BTreeMap<Digest, InventoryLayer>,
    /// The store paths by their full names, each once.
    pub(crate) paths: BTreeMap<String, InventoryPath>,
    /// The models by name.
    pub(crate) models: BTreeMap<Name, InventoryModel>,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InventoryImage {
    /// The last part of its name: `redis`.
    pub(crate) name: Name,
    /// Its full name and tag.
    #[serde(rename = "ref")]
    pub(crate) reference: Reference,
    pub(crate) platform: Platform,
    pub(crate) kind: ImageKind,
    /// Digest of the manifest.
    pub(crate) digest: Digest,
    /// Digest of the index, for one of several platforms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index_digest: Option<Digest>,
    pub(crate) config_digest: Digest,
    /// Bytes of all its layers.
    pub(crate) size: u64,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<Digest>,
    /// Names of its models, lowest first.
    pub(crate) models: Vec<Name>,
    /// Where it came from, if it was not built here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<ImageOrigin>,
    /// Where the image came from that it is built upon, if that was not built here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<ImageOrigin>,
    /// When its config says that it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    /// The store paths that it is made for: those that its config names, those that its files and links lead to, and those to
    /// which no other store path of it refers.
    pub(crate) roots: BTreeSet<String>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InventoryLayer {
    /// Digest of its archive, uncompressed.
    pub(crate) diff_id: Digest,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// Bytes of its archive, uncompressed.
    pub(crate) diff_size: u64,
    /// What it is for, in the first image that has it.
    pub(crate) kind: LayerKind,
    /// What is in it, in a few words, as the plan of that image has it.
    pub(crate) title: String,
    /// Why it is where it is.
    pub(crate) why: String,
    /// The model that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<Name>,
    /// Which images have it, and where. A layer with more than one place is shared.
    pub(crate) places: Vec<LayerPlace>,
    /// The store paths of which it has something.
    pub(crate) paths: BTreeSet<String>,
}

/// Where a layer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerPlace {
    /// The image's number.
    pub(crate) image: usize,
    /// How many layers of it lie below.
    pub(crate) position: usize,
}

/// How a layer has a store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum PathForm {
    /// All of it, at its own place.
    Whole,
    /// Its files or some of them, at another place.
    Moved,
    /// Links to its files, which are elsewhere.
    Linked,
}

/// A store path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InventoryPath {
    /// What comes after the hash: `redis-8.0.2`.
    pub(crate) name: String,
    /// The name without the version.
    pub(crate) pname: String,
    /// Empty where the name has none. Outputs other than `out` have theirs behind it: `13.2.0-lib`.
    pub(crate) version: String,
    /// What Nix recorded as the hash of its NAR; unknown for images of an older windlass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nar_hash: Option<NarHash>,
    /// Bytes of its NAR, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nar_size: Option<u64>,
    /// The store paths of the inventory that it refers to, itself left out.
    pub(crate) references: BTreeSet<String>,
    /// Whether it refers to nothing else.
    pub(crate) is_complete: bool,
    /// The layers that have something of it.
    pub(crate) layers: BTreeMap<Digest, PathForm>,
    /// The numbers of the images that have it.
    pub(crate) images: BTreeSet<usize>,
    /// What nixpkgs says of the package that it is an output of, where the Nix functions were told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) package: Option<PackageRecord>,
}

impl InventoryPath {
    /// The layer that has its files: whole before moved.
    pub(crate) fn layer(&self) -> Option<Digest> {
        let of = |form: PathForm| self.layers.iter().find(|(_, other)| **other == form);
        of(PathForm::Whole).or_else(|| of(PathForm::Moved)).map(|(digest, _)| *digest)
    }
}

impl Inventory {
    /// What is inside these images and models.
    ///
    /// # Errors
    /// If what an image directory says of its store paths cannot be read, or is no closure.
    pub(crate) fn read(images: &[&ImageDir]) -> Result<Self, LayoutError> {
        let mut inventory = Self::default();
        let mut closure = ImageClosure::default();
        let mut sorted: Vec<&ImageDir> = images.to_vec();
        sorted.sort_by(|a, b| {
            let key = |image: &ImageDir| (image.summary().reference.to_string(), image.summary().digest);
            key(a).cmp(&key(b))
        });
        for image in &sorted {
            closure.merge(ImageClosure::read(image.path())?);
        }
        let (store, graph) = closure.graph(sorted.first().map_or(Path::new(""), |image| image.path()))?;
        for image in sorted {
            for platform in &image.summary().platforms {
                inventory.add(image, platform, &store);
            }
            inventory.add_model(image);
        }
        inventory.refer(&store, &graph, &closure);
        Ok(inventory)
    }

    /// The image's own entries of `paths`, by name.
    pub(crate) fn paths_of(&self, image: usize) -> impl Iterator<Item = (&str, &InventoryPath)> {
        self.paths
            .iter()
            .filter(move |(_, path)| path.images.contains(&image))
            .map(|(name, path)| (name.as_str(), path))
    }

    /// A layer is added to those that an image has; its store paths too.
    fn add(&mut self, image: &ImageDir, platform: &PlatformRecord, store: &StoreDir) {
        let Summary { name, reference, kind, digest, origin, base, .. } = image.summary();
        let number = self.images.len();
        let config = config_of(image, platform.config_digest);
        let mut roots = BTreeSet::new();
        // A full stop behind a path may be taken for a part of its name, so that hashes are compared.
        let named = store.scan(&config["config"].to_string());
        let named: BTreeSet<&str> = named.iter().map(StorePath::hash_part).collect();
        let kinds = platform.layers.iter().map(|layer| (layer.kind, layer.part.as_ref()));
        let models = models_of(&platform.models, kinds);
        for ((position, record), model) in platform.layers.iter().enumerate().zip(models) {
            let layer = self.layers.entry(record.digest).or_insert_with(|| InventoryLayer {
                diff_id: record.diff_id(),
                size: record.size,
                diff_size: record.diff_size(),
                kind: record.kind,
                title: record.title.clone(),
                why: record.why.clone(),
                model: model.and_then(|n| platform.models.get(n)).cloned(),
                places: Vec::new(),
                paths: BTreeSet::new(),
            });
            layer.places.push(LayerPlace { image: number, position });
            let recipe = image.recipe(record).ok();
            for (path, form) in store_paths(record, recipe.filter(|_| !image.is_in_bundle()), store) {
                let full = store.display(&path);
                layer.paths.insert(full.clone());
                if form != PathForm::Whole || named.contains(path.hash_part()) {
                    roots.insert(full.clone());
                }
                let path = self.paths.entry(full).or_insert_with(|| InventoryPath::new(&path));
                path.images.insert(number);
                let known = path.layers.entry(record.digest).or_insert(form);
                *known = form.min(*known);
            }
        }
        if image.is_in_bundle() {
            self.tell_links(platform);
        }
        self.images.push(InventoryImage {
            name: name.file_name(),
            reference: reference.clone(),
            platform: platform.platform.clone(),
            kind: *kind,
            digest: platform.digest,
            index_digest: (*digest != platform.digest).then_some(*digest),
            config_digest: platform.config_digest,
            size: platform.size,
            layers: platform.layers.iter().map(|layer| layer.digest).collect(),
            models: platform.models.clone(),
            origin: origin.clone(),
            base: base.clone(),
            created: config["created"].as_str().map(str::to_owned),
            roots,
        });
    }

    /// What is not below the store is made of links to store paths that other layers have whole, as far as they have them. A
    /// bundle has no recipes that say so.
    fn tell_links(&mut self, platform: &PlatformRecord) {
        let is_in = |digest: &Digest, kind: LayerKind| {
            platform.layers.iter().any(|layer| layer.digest == *digest && layer.kind == kind)
        };
        for path in self.paths.values_mut() {
            if path.layers.iter().any(|(digest, form)| *form == PathForm::Whole && is_in(digest, LayerKind::Closure)) {
                let moved = path.layers.iter_mut().filter(|(digest, _)| is_in(digest, LayerKind::Root));
                moved.for_each(|(_, form)| *form = PathForm::Linked);
            }
        }
    }

    /// Adds what the closures say, and the roots that follow from it.
    fn refer(&mut self, store: &StoreDir, graph: &ClosureGraph, closure: &ImageClosure) {
        for PathInfo { path, nar_hash, nar_size, references, .. } in graph.iter() {
            let full = store.display(path);
            let references: BTreeSet<String> = references.iter().map(|path| store.display(path)).collect();
            let references: BTreeSet<String> =
                references.into_iter().filter(|reference| self.paths.contains_key(reference)).collect();
            if let Some(known) = self.paths.get_mut(&full) {
                known.nar_hash = Some(*nar_hash);
                known.nar_size = Some(*nar_size);
                known.references = references;
                known.is_complete = closure.is_complete(&full);
            }
        }
        for package in closure.packages() {
            for path in package.outputs.values() {
                if let Some(known) = self.paths.get_mut(path) {
                    known.package.get_or_insert_with(|| package.clone());
                }
            }
        }
        let mut referred: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); self.images.len()];
        for path in self.paths.values() {
            for image in &path.images {
                referred[*image].extend(path.references.iter().map(String::as_str));
            }
        }
        for (name, path) in &self.paths {
            for image in &path.images {
                if !referred[*image].contains(name.as_str()) {
                    self.images[*image].roots.insert(name.clone());
                }
            }
        }
    }
}

impl InventoryPath {
    /// A store path of which no more than its name is known yet.
    fn new(path: &StorePath) -> Self {
        let (pname, version) = name_and_version(path.name());
        Self {
            name: path.name().to_owned(),
            pname: pname.to_owned(),
            version: version.to_owned(),
            nar_hash: None,
            nar_size: None,
            references: BTreeSet::new(),
            is_complete: false,
            layers: BTreeMap::new(),
            images: BTreeSet::new(),
            package: None,
        }
    }
}

/// The config of an image, as far as it is JSON.
fn config_of(image: &ImageDir, digest: Digest) -> Value {
    let blob = image.image().small_blobs().find(|blob| blob.digest == digest);
    blob.and_then(|blob| serde_json::from_slice(&blob.bytes).ok()).unwrap_or_default()
}

/// The store paths that a layer is made of, without blobs of other images and files of models.
fn store_paths(record: &LayerRecord, recipe: Option<&Recipe>, store: &StoreDir) -> Vec<(StorePath, PathForm)> {
    if record.kind == LayerKind::Model {
        return Vec::new();
    }
    let parse = |path: &str| store.parse_inside(path).ok().map(|(path, _)| path);
    let Some(recipe) = recipe else {
        // A bundle has no recipes: what a layer is for tells how it has its store paths.
        let form = if record.kind == LayerKind::Root { PathForm::Moved } else { PathForm::Whole };
        let paths = record.owners.iter().filter_map(|owner| parse(owner)).filter(|path| !is_blob(path));
        return paths.map(|path| (path, form)).collect();
    };
    let of = |input: &Input| {
        let (path, form) = match input {
            Input::StorePath { path, .. } => (path, PathForm::Whole),
            Input::Copy { source, .. } => (source, PathForm::Moved),
            Input::Links { source } => (source, PathForm::Linked),
            _ => return None,
        };
        Some((parse(path.to_str()?)?, form))
    };
    recipe.inputs.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use serde_json::json;

    use super::graph::ReferenceGraph;
    use super::*;
    use crate::build;
    use crate::disk::progress::Progress;
    use crate::spec::StackSpec;

    /// A store of small files below a directory, and the closure graph of them: each path with what it refers to.
    fn store(root: &Path, paths: &[(&str, &[&str])]) -> ClosureGraph {
        let full = |name: &str| format!("{}/{}", root.display(), base(name));
        let infos: Vec<Value> = paths
            .iter()
            .map(|(name, references)| {
                fs::write(root.join(base(name)), format!("I am {name}")).unwrap();
                let references: Vec<String> = references.iter().map(|name| full(name)).collect();
                json!({ "path": full(name), "narHash": format!("sha256:{}", "0".repeat(64)), "narSize": 1 << (name.len() % 7),
                        "references": references })
            })
            .collect();
        ClosureGraph::from_value(&StoreDir::new(root.to_str().unwrap()).unwrap(), &json!(infos)).unwrap()
    }

    /// A name as a store path; the hash is made of its length, as no two names of a test have the same.
    fn base(name: &str) -> String {
        format!("{:0>32}-{name}", name.len())
    }

    /// `web -> {lib, ssl-3.0 -> libc-2.40}` and `job -> {lib -> libc-2.40, ssl-3.0}`, with a model, as a stack.
    fn stack(root: &Path) -> (PathBuf, Inventory) {
        let store_dir = root.join("store");
        fs::create_dir_all(&store_dir).unwrap();
        let graph = store(
            &store_dir,
            &[
                ("webserver-1.2", &["lib", "ssl-3.0"]),
                ("jobs", &["lib", "ssl-3.0"]),
                ("lib", &["libc-2.40"]),
                ("ssl-3.0", &["libc-2.40"]),
                ("libc-2.40", &[]),
                ("config-file", &["lib"]),
            ],
        );
        let at = |name: &str| format!("{}/{}", store_dir.display(), base(name));
        fs::write(root.join("weights"), "weights").unwrap();
        let model = json!({
            "name": "tiny", "files": { "weights.bin": root.join("weights") }, "mountPath": "/models/tiny",
            "annotations": { "org.opencontainers.image.licenses": "MIT" },
        });
        let spec = json!({
            "name": "two",
            "images": [
                { "name": "web", "storeDir": store_dir, "content": { "deps": [at("webserver-1.2")] },
                  "config": { "Cmd": [at("webserver-1.2")] }, "models": [{ "spec": model }] },
                { "name": "job", "storeDir": store_dir,
                  "content": { "deps": [at("jobs"), at("ssl-3.0")], "files": { "/etc/job": at("config-file") } } },
            ],
            "models": [{ "spec": model }],
        });
        let spec: StackSpec = serde_json::from_value(spec).unwrap();
        let stack = build::stack(&spec, &graph, &Progress::new()).unwrap();
        let directory = root.join("stack");
        fs::create_dir_all(&directory).unwrap();
        build::stack::write_lean(&stack, &directory, &Progress::new()).unwrap();
        let opened = build::stack::StackDir::open(&directory).unwrap();
        let inventory = Inventory::read(&opened.all().collect::<Vec<_>>()).unwrap();
        (store_dir, inventory)
    }

    #[test]
    fn every_path_is_in_its_layer_and_its_images() {
        let root = tempfile::tempdir().unwrap();
        let (store_dir, inventory) = stack(root.path());
        let at = |name: &str| format!("{}/{}", store_dir.display(), base(name));
        let names: Vec<&str> = inventory.images.iter().map(|image| &*image.name).collect();
        assert_eq!(names, ["job", "tiny", "web"]);
        let [job, tiny, web] = [0, 1, 2];
        let images = |name: &str| inventory.paths[&at(name)].images.clone();
        assert_eq!(images("webserver-1.2"), [web].into());
        assert_eq!(images("ssl-3.0"), [job, web].into());
        assert_eq!(images("config-file"), [job].into());
        let ssl = &inventory.paths[&at("ssl-3.0")];
        assert_eq!((&*ssl.pname, &*ssl.version, ssl.is_complete, ssl.nar_size), ("ssl", "3.0", true, Some(1)));
        assert_eq!(ssl.references, [at("libc-2.40")].into());
        // The layer that it is in is one that both images have, and says the same.
        let layer = &inventory.layers[&ssl.layer().unwrap()];
        assert!(layer.paths.contains(&at("ssl-3.0")) && layer.places.len() == 2, "{layer:?}");
        assert_eq!(layer.kind, LayerKind::Closure);
        for place in &layer.places {
            assert_eq!(inventory.images[place.image].layers[place.position], ssl.layer().unwrap());
        }
        // What is moved is in the layer of what is not below the store.
        let moved = &inventory.paths[&at("config-file")];
        assert_eq!(moved.layers.values().copied().collect::<Vec<_>>(), [PathForm::Moved]);
        assert_eq!(inventory.layers[&moved.layer().unwrap()].kind, LayerKind::Root);
        // The model is one layer of two images; nothing of it is a store path.
        let model = &inventory.models[&Name::new("tiny").unwrap()];
        assert_eq!((model.images.clone(), model.licence.as_deref()), ([tiny, web].into(), Some("MIT")));
        let weights = &inventory.layers[model.layers.first().unwrap()];
        assert_eq!((weights.kind, weights.places.len(), weights.paths.len()), (LayerKind::Model, 2, 0));
        assert_eq!(weights.model.as_deref(), Some("tiny"));
        assert_eq!(model.files[0].sha256, Digest::of(b"weights"));
        assert_eq!(inventory.paths_of(tiny).count(), 0);
        assert_eq!(inventory.images[web].created.as_deref(), Some("1970-01-01T00:00:01Z"));
        // An image by itself: its model has a name and layers, as its own image is not there.
        let opened = build::stack::StackDir::open(&root.path().join("stack")).unwrap();
        let alone =
            Inventory::read(&[opened.images.iter().find(|image| &*image.summary().name.file_name() == "web").unwrap()]);
        let alone = alone.unwrap();
        let model = &alone.models[&Name::new("tiny").unwrap()];
        assert_eq!((model.layers.len(), model.files.len(), model.digest), (1, 0, None));
        assert_eq!(alone.paths.len(), 4);
    }

    #[test]
    fn what_is_moved_is_a_root_and_brings_what_it_refers_to() {
        let root = tempfile::tempdir().unwrap();
        let (store_dir, inventory) = stack(root.path());
        let at = |name: &str| format!("{}/{}", store_dir.display(), base(name));
        let graph = ReferenceGraph::of_image(&inventory, 0);
        assert_eq!(graph.roots().collect::<Vec<_>>(), [&at("jobs"), &at("config-file")]);
        assert_eq!(graph.why(&at("libc-2.40")).unwrap(), [&at("jobs"), &at("lib"), &at("libc-2.40")]);
        assert_eq!(graph.why(&at("webserver-1.2")), None, "it is in another image");
        assert_eq!(ReferenceGraph::of_all(&inventory).names().len(), inventory.paths.len());
    }
}
