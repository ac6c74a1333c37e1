//! How an image was made, as SLSA provenance 1.0 says it (slsa.dev/spec/v1.0/provenance).
//!
//! It says what follows from the image directory, from Nix and from what the user gives, and nothing else: no time unless one is
//! given, no host, no user. So the same image has the same provenance each time.
//!
//! What an image was made of is told by digests. That of a store path is the SHA-256 of its archive (`application/x-nix-nar`),
//! which Nix calls its NAR hash; all other digests are of the bytes themselves. A file from elsewhere is named and has no digest:
//! nothing was kept that says what it was when the image was built, beside the layer that it is in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::flake_lock::FlakeLock;
use crate::image::closure::ImageClosure;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::{LayerKind, LayerRecord};
use crate::layer::{Input, LayerFile};
use crate::nix::store_path::NarHash;
use crate::oci::digest::{Digest, to_hex};
use crate::signing::statement::InTotoStatement;
use crate::signing::statement::StatedSubject;

/// What the statement says that it is.
pub(crate) const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// How parameters and dependencies are read: `docs/signing.md`.
const BUILD_TYPE: &str = "urn:windlass:build:1";
/// Who made it, where the user does not say it.
pub(crate) const BUILDER: &str = "urn:windlass:builder";

/// What the image directory does not say.
#[derive(Debug, Default)]
pub(crate) struct Circumstances {
    /// A URI that stands for who built it.
    pub(crate) builder: Option<String>,
    /// The reference of the flake that it was built from, as the user writes it.
    pub(crate) flake: Option<String>,
    /// What that flake was locked to, and the digest of the lock.
    pub(crate) lock: Option<(FlakeLock, Digest)>,
    /// When it was finished, in RFC 3339.
    pub(crate) finished: Option<String>,
    /// The derivations that made store paths.
    pub(crate) derivers: BTreeMap<PathBuf, PathBuf>,
    /// The files of models, by the digests of the layers that hold them.
    pub(crate) models: BTreeMap<Digest, Vec<LayerFile>>,
}

/// What an image is made of.
#[derive(Debug)]
pub(crate) struct ImageParts {
    /// Its store paths, and the files from elsewhere, of which no hash is known.
    pub(crate) store_paths: BTreeMap<PathBuf, Option<NarHash>>,
}

impl ImageParts {
    /// Looks at the recipes of an image, and at its `closure.json`.
    ///
    /// # Errors
    /// If that cannot be read.
    pub(crate) fn of(image: &ImageDir) -> Result<Self, LayoutError> {
        let mut store_paths: BTreeMap<PathBuf, Option<NarHash>> = BTreeMap::new();
        for layer in image.summary().layers() {
            let Some(recipe) = image.image().recipes.get(&layer.digest) else { continue };
            // The files of a model are known by their own digests.
            let is_model = layer.kind == LayerKind::Model;
            for input in &recipe.inputs {
                let (path, nar_hash) = match input {
                    Input::StorePath { path, nar_hash } => (path, nar_hash),
                    Input::Copy { source, nar_hash, .. } if nar_hash.is_some() || !is_model => (source, nar_hash),
                    _ => continue,
                };
                let known = store_paths.entry(path.clone()).or_default();
                *known = known.or(*nar_hash);
            }
        }
        for (path, nar_hash) in ImageClosure::read(image.path())?.nar_hashes() {
            store_paths.insert(path.to_owned(), Some(nar_hash));
        }
        Ok(Self { store_paths })
    }
}

/// The statement of how an image was made. What it is about are `subjects`: the image, and what was made of it by packing.
///
/// # Errors
/// If the image directory cannot be read.
pub(crate) fn provenance(
    image: &ImageDir,
    subjects: Vec<StatedSubject>,
    about: &Circumstances,
) -> Result<InTotoStatement, LayoutError> {
    let summary = image.summary();
    let platforms: Vec<String> = summary.platforms.iter().map(|platform| platform.platform.to_string()).collect();
    let mut external = json!({ "image": summary.reference, "platforms": platforms });
    if let Some(flake) = &about.flake {
        external["flake"] = flake.as_str().into();
    }
    let mut dependencies = Vec::new();
    if let Some((lock, digest)) = &about.lock {
        dependencies.push(json!({ "name": "flake.lock", "digest": { "sha256": digest.hex() } }));
        dependencies.extend(lock.dependencies());
    }
    if let Some(origin) = &summary.origin {
        let name = origin.reference.clone();
        let uri = name.as_ref().map(|name| format!("docker://{name}"));
        dependencies.push(dependency("upstream image", uri, origin.digest));
    }
    for layer in summary.layers() {
        dependencies.extend(of_layer(layer, about));
    }
    for (path, nar_hash) in ImageParts::of(image)?.store_paths {
        dependencies.push(of_store_path(&path, nar_hash, about.derivers.get(&path)));
    }
    let mut run = json!({ "builder": {
        "id": about.builder.as_deref().unwrap_or(BUILDER), "version": { "windlass": env!("CARGO_PKG_VERSION") },
    } });
    if let Some(finished) = &about.finished {
        run["metadata"] = json!({ "finishedOn": finished });
    }
    let formats: BTreeSet<u32> = image.image().recipes.values().map(|recipe| recipe.format).collect();
    let predicate = json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": external,
            "internalParameters": { "layerFormats": formats, "imageDirectory": summary.version },
            "resolvedDependencies": dependencies,
        },
        "runDetails": run,
    });
    Ok(InTotoStatement::new(subjects, PROVENANCE, predicate))
}

fn dependency(name: &str, uri: Option<String>, digest: Digest) -> Value {
    let mut dependency = json!({ "name": name, "digest": { "sha256": digest.hex() } });
    if let Some(uri) = uri {
        dependency["uri"] = uri.into();
    }
    dependency
}

/// What a layer is made of that is no store path: the files of a model, or the layer itself, where it was not made here.
fn of_layer(layer: &LayerRecord, about: &Circumstances) -> Vec<Value> {
    match (layer.kind, about.models.get(&layer.digest)) {
        (LayerKind::Model, Some(files)) => {
            let file = |file: &LayerFile| dependency(&format!("model file {}", file.path.display()), None, file.sha256);
            files.iter().map(file).collect()
        }
        (LayerKind::Model, None) => vec![dependency(&format!("model layer {}", layer.title), None, layer.digest)],
        (LayerKind::Base, _) => vec![dependency(&format!("layer {}", layer.title), None, layer.digest)],
        (LayerKind::Closure | LayerKind::Root, _) => Vec::new(),
    }
}

fn of_store_path(path: &Path, nar_hash: Option<NarHash>, deriver: Option<&PathBuf>) -> Value {
    let name = path.to_string_lossy();
    let Some(hash) = nar_hash else { return json!({ "name": name, "uri": format!("file://{name}") }) };
    let digest = json!({ "sha256": to_hex(hash.as_bytes()) });
    let mut dependency = json!({ "name": name, "mediaType": "application/x-nix-nar", "digest": digest });
    let mut annotations = BTreeMap::from([("narHash", hash.to_string())]);
    if let Some(deriver) = deriver {
        annotations.insert("deriver", deriver.to_string_lossy().into_owned());
    }
    dependency["annotations"] = json!(annotations);
    dependency
}
