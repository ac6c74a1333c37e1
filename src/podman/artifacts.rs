//! Podman's artifact store: artifacts beside the images, which containers mount with `--mount type=artifact`.
//!
//! ```text
//! <graph root>/artifacts/
//!   oci-layout  index.json     an OCI layout; an entry's `org.opencontainers.image.ref.name` is the artifact's name
//!   index.lock                 held by whoever reads or changes index.json (Podman 5.5 and later)
//!   blobs/sha256/<hex>
//! ```
//!
//! `podman artifact add` copies a model and writes the time into its manifest. Here the files of the model get there by
//! hard links, and the digest is the one that was known before. Podman takes an artifact's digest of the manifest as it
//! would write it itself, which is why manifests are written as Go does ([`crate::canonical::to_go`]).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::engine::{Engine, EngineError};
use super::lock::{For, Lock};
use crate::blobs::{At, Staging, Verify, WriteError, write_file};
use crate::canonical::to_go;
use crate::forms::{FormError, ModelDir};
use crate::image::oci_layout;
use crate::model::artifact::{Artifact, Document};
use crate::progress::Progress;

/// The first Podman with an artifact store.
const FIRST: (u32, u32) = (5, 4);
const NAME: &str = "org.opencontainers.image.ref.name";

/// Why an artifact is not in Podman's store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactsError {
    /// A Podman without an artifact store.
    #[error(
        "Podman {0} has no artifact store, Podman 5.4 is the first one with it: mount the model's image instead (`--mount type=image,…`)"
    )]
    TooOld(String),
    /// The name is taken.
    #[error(
        "{name} is another artifact already, {found}: `podman artifact rm {name}` removes it, --name gives this one another name"
    )]
    Taken {
        /// The name.
        name: String,
        /// The digest of what has it.
        found: String,
    },
    /// An index that is not one.
    #[error("{path} is not the index of an OCI layout: {message}", path = path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Podman.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// The model.
    #[error("{0}")]
    Form(#[from] FormError),
    /// A place that is written to.
    #[error("{0}")]
    Write(#[from] WriteError),
}

/// Checks that this Podman would look into an artifact store.
///
/// # Errors
/// If it is too old, or there is none.
pub fn check(engine: &Engine, progress: &Progress) -> Result<(), ArtifactsError> {
    let version = engine.version(progress)?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let (major, minor): (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) < FIRST { Err(ArtifactsError::TooOld(version)) } else { Ok(()) }
}

/// Puts a model's artifact into the store of this graph root, under this name. `false` if it was there.
///
/// # Errors
/// See [`ArtifactsError`]. Blobs that were put there stay, and the next run finds them.
pub fn add(
    graph_root: &Path,
    name: &str,
    model: &ModelDir,
    artifact: &Artifact,
    verify: Verify,
    progress: &Progress,
) -> Result<bool, ArtifactsError> {
    let store = graph_root.join("artifacts");
    let blobs = store.join("blobs/sha256");
    // As Podman makes them: what is in there may be anybody's.
    DirBuilder::new().recursive(true).mode(0o700).create(&blobs).at("create", &blobs)?;
    let layout = store.join("oci-layout");
    if !layout.exists() {
        write_whole(&layout, &oci_layout(), progress)?;
    }
    put(&blobs, model, artifact, verify, progress)?;

    let lock_path = store.join("index.lock");
    OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path).at("create", &lock_path)?;
    let _lock = Lock::take(&lock_path, For::Writing, progress)?;
    // Once more: a `podman artifact rm` may have removed blobs that nothing named yet.
    put(&blobs, model, artifact, verify, progress)?;
    let path = store.join("index.json");
    let mut index = read_index(&path)?;
    let entries = index["manifests"].as_array_mut().expect("an index was read");
    let digest = artifact.manifest.digest.to_string();
    match entries.iter().find(|entry| entry["annotations"][NAME] == name) {
        Some(entry) if entry["digest"] == *digest => return Ok(false),
        Some(entry) => {
            let found = entry["digest"].as_str().unwrap_or("of no digest").to_owned();
            return Err(ArtifactsError::Taken { name: name.to_owned(), found });
        }
        None => {}
    }
    let Document { media_type, bytes, .. } = &artifact.manifest;
    entries.push(json!({
        "mediaType": media_type, "digest": digest, "size": bytes.len(), "annotations": { NAME: name },
    }));
    write_whole(&path, &to_go(&index), progress)?;
    Ok(true)
}

/// Puts the blobs there that are not.
fn put(
    blobs: &Path,
    model: &ModelDir,
    artifact: &Artifact,
    verify: Verify,
    progress: &Progress,
) -> Result<(), ArtifactsError> {
    let is_there = |path: &Path, size: u64| fs::metadata(path).is_ok_and(|metadata| metadata.len() == size);
    for Document { digest, bytes, .. } in [&artifact.config, &artifact.manifest] {
        let path = blobs.join(digest.hex());
        if !is_there(&path, bytes.len() as u64) {
            write_whole(&path, bytes, progress)?;
        }
    }
    for (digest, size) in &artifact.layers {
        let path = blobs.join(digest.hex());
        if is_there(&path, *size) {
            continue;
        }
        let staging = Staging::directory(&path)?;
        let inside = staging.path().join(digest.hex());
        model.put(*digest, &inside, verify, progress)?;
        File::open(&inside).and_then(|file| file.sync_all()).at("sync", &inside)?;
        fs::rename(&inside, &path).at("rename", &path)?;
    }
    Ok(())
}

fn write_whole(path: &Path, bytes: &[u8], progress: &Progress) -> Result<(), WriteError> {
    let staging = Staging::file(path)?;
    write_file(staging.path(), bytes, progress)?;
    staging.publish()
}

fn read_index(path: &Path) -> Result<Value, ArtifactsError> {
    let failed = |message: String| ArtifactsError::Index { path: path.to_owned(), message };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let media_type = "application/vnd.oci.image.index.v1+json";
            return Ok(json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [] }));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut index: Value = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
    // Go writes a list that it has not got as null.
    if index.is_object() && index["manifests"].is_null() {
        index["manifests"] = json!([]);
    }
    if index["manifests"].is_array() { Ok(index) } else { Err(failed("it has no list of manifests".to_owned())) }
}
