//! Podman's artifact store: artifacts beside the images, which containers mount with `--mount type=artifact`.
//!
//! ```text
//! <graph root>/artifacts/
//!   oci-layout  index.json     an OCI layout; an entry's `org.opencontainers.image.ref.name` is the artifact's name
//!   index.lock                 held while index.json is read or changed (Podman 5.5 and later)
//!   blobs/sha256/<hex>
//! ```
//!
//! `podman artifact add` copies a model and writes the time into its manifest. Here the files of the model get there by
//! hard links, and the digest is the one that was known before. Podman takes an artifact's digest of the manifest as it
//! would write it itself, which is why manifests are written as Go does ([`crate::oci::canonical::to_go`]).

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde_json::{Value, json};

use crate::class::{Class, Classified};
use crate::disk::beneath::Dir;
use crate::disk::bounded::Cap;
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, WriteError};
use crate::engine::process::ProgramError;
use crate::image::oci_layout;
use crate::layer::output::Verify;
use crate::model::forms::artifact::{Artifact, ArtifactDocument};
use crate::oci::canonical::to_go;
use crate::podman::storage::client::PodmanClient;
use crate::podman::storage::lock::{For, StorageLock};
use crate::publish::model_dir::{FormError, ModelDir};

/// The first Podman with an artifact store.
const FIRST: (u32, u32) = (5, 4);
const NAME: &str = "org.opencontainers.image.ref.name";
const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";
const LOCK: &str = "index.lock";

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
        name: String,
        /// The digest of what has it.
        found: String,
    },
    /// An index that is not one.
    #[error("{path} is not the index of an OCI layout: {message}", path = path.display())]
    Index { path: PathBuf, message: String },
    /// Podman.
    #[error(transparent)]
    Engine(#[from] ProgramError),
    #[error(transparent)]
    Form(#[from] FormError),
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for ArtifactsError {
    fn class(&self) -> Class {
        match self {
            Self::Engine(error) => error.class(),
            Self::Form(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::TooOld(_) => Class::Environment,
            Self::Taken { .. } | Self::Index { .. } => Class::Failed,
        }
    }
}

/// Checks that this Podman would look into an artifact store.
///
/// # Errors
/// If Podman is too old, or not installed.
pub(crate) fn check(engine: &PodmanClient, progress: &Progress) -> Result<(), ArtifactsError> {
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
    // As Podman makes them: what is in there may be anybody's.
    DirBuilder::new().recursive(true).mode(0o700).create(graph_root).at("create", graph_root)?;
    let store = Dir::open(graph_root)?.made("artifacts", 0o700)?;
    let blobs = store.made("blobs", 0o700)?.made("sha256", 0o700)?;
    if store.look(LAYOUT)?.is_none() {
        write_whole(&store, LAYOUT, &oci_layout(), progress)?;
    }
    put(&blobs, model, artifact, verify, progress)?;

    if store.look(LOCK)?.is_none() {
        drop(store.file_or_new(LOCK)?);
    }
    let _lock = StorageLock::take_in(&store, LOCK, For::Writing, progress)?;
    // Once more: a `podman artifact rm` may have removed blobs that nothing named yet.
    put(&blobs, model, artifact, verify, progress)?;
    let mut index = read_index(&store)?;
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
    let ArtifactDocument { media_type, bytes, .. } = &artifact.manifest;
    entries.push(json!({
        "mediaType": media_type, "digest": digest, "size": bytes.len(), "annotations": { NAME: name },
    }));
    write_whole(&store, INDEX, &to_go(&index), progress)?;
    Ok(true)
}

/// Puts the blobs there that are not.
fn put(
    blobs: &Dir,
    model: &ModelDir,
    artifact: &Artifact,
    verify: Verify,
    progress: &Progress,
) -> Result<(), ArtifactsError> {
    let is_there = |name: &str, size: u64| -> Result<bool, WriteError> {
        let found = blobs.look(name)?.filter(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
        Ok(found.is_some_and(|found| u64::try_from(found.st_size) == Ok(size)))
    };
    for ArtifactDocument { digest, bytes, .. } in [&artifact.config, &artifact.manifest] {
        if !is_there(&digest.hex(), bytes.len() as u64)? {
            write_whole(blobs, &digest.hex(), bytes, progress)?;
        }
    }
    for (digest, size) in &artifact.layers {
        let name = digest.hex();
        if is_there(&name, *size)? {
            continue;
        }
        let staging = Staging::directory_in(blobs, &name)?;
        model.put(*digest, &staging.path().join(&name), verify, progress)?;
        let inside = staging.dir()?;
        inside.file(&name)?.sync_all().at("sync", &inside.at(&name))?;
        inside.rename(name.as_ref(), blobs, name.as_ref())?;
    }
    Ok(())
}

fn write_whole(dir: &Dir, name: &str, bytes: &[u8], progress: &Progress) -> Result<(), WriteError> {
    let staging = Staging::file_in(dir, name)?;
    write_file(staging.path(), bytes, progress)?;
    staging.publish()
}

fn read_index(store: &Dir) -> Result<Value, ArtifactsError> {
    let failed = |message: String| ArtifactsError::Index { path: store.at(INDEX), message };
    let bytes = match store.read(INDEX, Cap::Document) {
        Ok(bytes) => bytes,
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
            let media_type = "application/vnd.oci.image.index.v1+json";
            return Ok(json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [] }));
        }
        Err(error) => return Err(failed(error.source.to_string())),
    };
    let mut index: Value = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
    // Go writes a list that it has not got as null.
    if index.is_object() && index["manifests"].is_null() {
        index["manifests"] = json!([]);
    }
    if index["manifests"].is_array() { Ok(index) } else { Err(failed("it has no list of manifests".to_owned())) }
}
