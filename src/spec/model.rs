//! Models in a spec.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{SpecError, wrong};
use crate::layer::{Input, Known};
use crate::names::Name;
use crate::nix::store_path::StoreDir;
use crate::oci::digest::Digest;
use crate::oci::reference::Reference;
use crate::secrets::Allowed;
use crate::spec::content::{check_source, is_place};

/// A model as an image names it: built before, or described in place.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ModelSource {
    /// The image directory that a model was built into.
    #[serde(default)]
    pub(crate) built: Option<PathBuf>,
    /// A model that is built along.
    #[serde(default)]
    pub(crate) spec: Option<ModelSpec>,
    /// Addresses that its files were fetched from, for the rules of a stack.
    #[serde(default)]
    pub(crate) sources: Vec<String>,
}

/// Model files: layers at the bottom of an image, and an image of their own.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSpec {
    /// Name of the model and of its image.
    pub(crate) name: Name,
    /// Tag of its image; when absent, the first twelve hex digits of the manifest's digest.
    #[serde(default)]
    pub(crate) tag: Option<String>,
    /// Files or directories by their place below `mountPath`; symbolic links are followed.
    #[serde(default)]
    pub(crate) files: BTreeMap<PathBuf, PathBuf>,
    /// Instead of `files`: a file, put at `mountPath` under its own name (that of a store path without the hash), or a
    /// directory, whose content is put there.
    #[serde(default)]
    pub(crate) source: Option<PathBuf>,
    /// Digests of files that are known already, by their places below `mountPath`: `sha256:…`. These are not hashed by
    /// themselves once more; the writer of the spec vouches for them, as a fixed-output path of Nix does.
    #[serde(default)]
    pub(crate) sha256: BTreeMap<PathBuf, Digest>,
    /// Where a container finds them.
    #[serde(default = "default_mount_path")]
    pub(crate) mount_path: PathBuf,
    /// How they are divided into layers.
    #[serde(default)]
    pub(crate) layers: Layering,
    /// Annotations of its image's manifest.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// As in [`ImageSpec`](super::ImageSpec).
    #[serde(default)]
    pub(crate) allow_secrets: Vec<Allowed>,
    /// Where the store is.
    #[serde(default)]
    pub(crate) store_dir: StoreDir,
}

/// How the files of a model are divided into layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layering {
    /// All of them in one.
    #[default]
    One,
    /// Each file of weights (`.safetensors`, `.gguf` but for the first of several shards) in one of its own, and what
    /// describes them in one above.
    Files,
}

fn default_mount_path() -> PathBuf {
    PathBuf::from("/models")
}

impl ModelSource {
    pub(super) fn check(&self, at: &str) -> Result<(), SpecError> {
        match (&self.built, &self.spec) {
            (Some(_), None) => Ok(()),
            (None, Some(spec)) => spec.check(&format!("{at}spec.")),
            _ => Err(wrong(at.trim_end_matches('.'), "expected either 'built' or 'spec'")),
        }
    }
}

impl ModelSpec {
    pub(super) fn check(&self, at: &str) -> Result<(), SpecError> {
        Reference::new(&self.name, self.tag.as_deref().unwrap_or("0"))?;
        if self.name.contains('/') {
            return Err(wrong(format!("{at}name"), format!("'{}': the name of a model has no '/'", self.name)));
        }
        if self.files.is_empty() == self.source.is_none() {
            return Err(wrong(format!("{at}files"), format!("model '{}' needs either 'files' or 'source'", self.name)));
        }
        if let Some(source) = &self.source {
            check_source("source", source).map_err(|(key, message)| wrong(format!("{at}{key}"), message))?;
        }
        if !is_place(&self.mount_path) {
            let message = format!("'{}' is not an absolute path without '..'", self.mount_path.display());
            return Err(wrong(format!("{at}mountPath"), message));
        }
        for (place, source) in &self.files {
            if place.is_absolute() || place.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
                return Err(wrong(
                    format!("{at}files"),
                    format!("'{}' is not a relative path below mountPath", place.display()),
                ));
            }
            check_source("files", source).map_err(|(key, message)| wrong(format!("{at}{key}"), message))?;
        }
        Ok(())
    }

    /// The digests of files that are known already, by their places in the image.
    #[must_use]
    pub(crate) fn known(&self) -> Known {
        self.sha256.iter().map(|(place, digest)| (self.mount_path.join(place), *digest)).collect()
    }

    /// What its layers are made of. `listing` has the names in `source` if that is a directory: each is put at `mountPath`.
    #[must_use]
    pub(crate) fn inputs(&self, listing: Option<&[PathBuf]>) -> Vec<Input> {
        let copy = |place: &Path, source: &Path| {
            // In the store nothing else than the store may be reached: a link could lead to any file of the builder.
            let in_store = source.starts_with(self.store_dir.as_str());
            let follow = Some(PathBuf::from(if in_store { self.store_dir.as_str() } else { "/" }));
            Input::Copy { source: source.to_owned(), target: self.mount_path.join(place), follow, nar_hash: None }
        };
        match (&self.source, listing) {
            (None, _) => self.files.iter().map(|(place, source)| copy(place, source)).collect(),
            (Some(source), Some(names)) => names.iter().map(|name| copy(name, &source.join(name))).collect(),
            (Some(source), None) => {
                let name = source.file_name().map(PathBuf::from).unwrap_or_default();
                let in_store = self.store_dir.parse(&source.to_string_lossy()).map(|path| PathBuf::from(path.name()));
                vec![copy(&in_store.unwrap_or(name), source)]
            }
        }
    }
}
