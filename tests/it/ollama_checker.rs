//! What Ollama does with its directory of models, as a checker: it has no rule that Ollama's source does not have.
//!
//! | rule | where in ollama/ollama at fb30760 |
//! |---|---|
//! | a manifest is four levels down, and its path is a name | `manifest.Manifests`, `model.ParseNameFromFilepath` |
//! | a manifest and its config parse | `manifest.ParseNamedManifest`, `readModelListConfig` |
//! | a blob is found by `sha256-<hex>`, through links | `manifest.BlobsPath`, `os.Stat`, `os.Open` |
//! | nothing is renamed when it starts | `server.fixBlobs` |
//! | nothing is removed when it starts | `server.PruneLayers`, `manifest.PruneDirectory` |

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use windlass::internals::oci::digest::Digest;

/// A model as `ollama list` and `ollama show` find it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) config: Value,
    /// Media types without what they have in common, and what is in the small ones.
    pub(crate) layers: Vec<(String, Option<String>)>,
    /// The file that llama.cpp's server gets.
    pub(crate) weights: PathBuf,
}

/// A path in a container with this root: links lead nowhere else than inside of it.
fn resolve(root: &Path, path: &Path) -> PathBuf {
    let mut left: Vec<PathBuf> = vec![path.to_owned()];
    let mut here = PathBuf::new();
    for _ in 0..200 {
        let Some(next) = left.pop() else { return root.join(here) };
        let mut parts = next.components();
        let Some(part) = parts.next() else { continue };
        left.push(parts.as_path().to_owned());
        match part {
            Component::RootDir => here = PathBuf::new(),
            Component::ParentDir => drop(here.pop()),
            Component::Normal(name) => match fs::read_link(root.join(&here).join(name)) {
                Ok(target) => left.push(target),
                Err(_) => here.push(name),
            },
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    panic!("{}: too many links", path.display());
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Whether any user may read it.
fn assert_open(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let needed = if metadata.is_dir() { 0o005 } else { 0o004 };
    assert!(metadata.is_symlink() || metadata.permissions().mode() & needed == needed, "{}", path.display());
}

/// Every path below a directory: none is renamed, and no directory is empty.
fn walk(directory: &Path) {
    assert_open(directory);
    assert!(!name_of(directory).starts_with("sha256:"), "fixBlobs would rename {}", directory.display());
    let kind = fs::symlink_metadata(directory).unwrap();
    if kind.is_dir() {
        assert!(!entries(directory).is_empty(), "PruneDirectory would remove {}", directory.display());
        entries(directory).iter().for_each(|path| walk(path));
    }
}

fn is_part(kind: usize, text: &str) -> bool {
    let longest = if kind == 0 { 350 } else { 80 };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rest = |c: char| word(c) || c == '-' || (c == '.' && kind != 1) || (c == ':' && kind == 0);
    (1..=longest).contains(&text.len()) && text.starts_with(word) && text.chars().all(rest)
}

/// The files of `manifests`, four levels down; a file elsewhere would never be seen.
fn manifests(directory: &Path, above: &[String]) -> Vec<(Vec<String>, PathBuf)> {
    let mut found = Vec::new();
    for path in entries(directory) {
        let parts = [above, &[name_of(&path).to_owned()]].concat();
        match path.is_dir() {
            true => found.extend(manifests(&path, &parts)),
            false => {
                assert_eq!(parts.len(), 4, "{}", path.display());
                found.push((parts, path));
            }
        }
    }
    found
}

/// Checks the directory of a container with this root, and lists what is in it.
pub(crate) fn check(root: &Path, directory: &str) -> Vec<Listed> {
    let directory = resolve(root, Path::new(directory));
    let inside = Path::new("/").join(directory.strip_prefix(root).unwrap());
    inside.ancestors().for_each(|path| assert_open(&root.join(path.strip_prefix("/").unwrap())));
    walk(&directory.join("manifests"));
    walk(&directory.join("blobs"));
    let mut used = BTreeSet::new();
    let mut models = Vec::new();
    for (parts, path) in manifests(&directory.join("manifests"), &[]) {
        assert!(parts.iter().enumerate().all(|(kind, part)| is_part(kind, part)), "{parts:?}");
        let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(manifest["schemaVersion"], 2);
        assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
        let mut blob = |layer: &Value| {
            let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
            used.insert(format!("sha256-{}", digest.hex()));
            let file = resolve(root, &inside.join("blobs").join(format!("sha256-{}", digest.hex())));
            assert_open(&file);
            let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!((Digest::of(&bytes), bytes.len() as u64), (digest, layer["size"].as_u64().unwrap()));
            (file, bytes)
        };
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
        let config = serde_json::from_slice(&blob(&manifest["config"]).1).unwrap();
        let mut weights = Vec::new();
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| {
            let kind = layer["mediaType"].as_str().unwrap().strip_prefix("application/vnd.ollama.image.").unwrap();
            let (file, bytes) = blob(layer);
            let is_model = kind == "model";
            weights.extend(is_model.then_some(file));
            (kind.to_owned(), (!is_model).then(|| String::from_utf8(bytes).unwrap()))
        });
        let layers = layers.collect();
        let all = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        let size = all.map(|layer| layer["size"].as_u64().unwrap()).sum();
        assert_eq!(weights.len(), 1, "{parts:?}");
        models.push(Listed { name: parts.join("/"), size, config, layers, weights: weights.remove(0) });
    }
    let blobs: BTreeSet<String> =
        entries(&directory.join("blobs")).iter().map(|path| name_of(path).to_owned()).collect();
    assert_eq!(blobs, used, "PruneLayers would remove blobs");
    models
}
