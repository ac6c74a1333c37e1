//! `windlass-cache.json`: which images are cached, and what each is built from. People write it and commit it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CacheError, wrong};
use crate::disk::lock_file::{self, LockFile, unique};
use crate::disk::progress::Progress;
use crate::names::{Name, no_such};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::secrets::values::in_value;

/// What the file is called.
pub(crate) const FILE: &str = "windlass-cache.json";
/// The tag of an image whose name says no other.
const TAG: &str = "cache";
/// 1980-01-01, the first day that ZIP files know.
const TIMESTAMP: u64 = 315_532_800;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CacheDefinitions {
    version: u32,
    /// Where the entries are, relative to the file.
    #[serde(default = "folder")]
    pub(crate) folder: PathBuf,
    /// The images by name.
    #[serde(default, deserialize_with = "unique")]
    pub(crate) images: BTreeMap<Name, CachedImage>,
}

fn folder() -> PathBuf {
    "cache".into()
}

/// One image. Its paths are relative to the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CachedImage {
    pub(crate) containerfile: PathBuf,
    #[serde(default = "here")]
    pub(crate) context: PathBuf,
    /// The stage; the last one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    /// Build arguments. No secrets: they are in the image's history.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "unique")]
    pub(crate) arguments: BTreeMap<String, String>,
    /// When absent, that of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    /// Other contexts by name: a folder, or `container-image://NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "unique")]
    pub(crate) contexts: BTreeMap<String, String>,
    /// Secrets of the build by ID: `env=VARIABLE`, or `src=FILE`. Their values are never read by windlass.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "unique")]
    pub(crate) secrets: BTreeMap<String, String>,
    /// Name and tag of what is built; `localhost/NAME:cache` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// The time that files and image get, in seconds after 1970; the first day of 1980 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timestamp: Option<u64>,
}

fn here() -> PathBuf {
    ".".into()
}

impl Default for CacheDefinitions {
    fn default() -> Self {
        Self { version: Self::VERSION, folder: folder(), images: BTreeMap::new() }
    }
}

impl LockFile for CacheDefinitions {
    const VERSION: u32 = 1;
    const BEGIN: &'static str = "windlass cache init NAME --containerfile FILE";
    type Error = CacheError;

    fn check(&self, path: &Path) -> Result<(), CacheError> {
        let inside = |what: &str, place: &Path| {
            let above = place.components().any(|part| part == std::path::Component::ParentDir);
            match place.is_absolute() || above {
                true => Err(wrong(path, format!("{what} is {}, and must be below this file", place.display()))),
                false => Ok(()),
            }
        };
        inside("folder", &self.folder)?;
        if self.folder.components().all(|part| part == std::path::Component::CurDir) {
            return Err(wrong(path, "folder must be a folder of its own".to_owned()));
        }
        for (name, image) in &self.images {
            let of = |what: &str| format!("image '{name}': {what}");
            if **name == *super::entries::BLOBS {
                return Err(wrong(path, of("this is what the folder of the blobs is called; take another name")));
            }
            inside(&of("containerfile"), &image.containerfile)?;
            inside(&of("context"), &image.context)?;
            if image.containerfile.extension().is_some_and(|extension| extension == "in") {
                let message = "a Containerfile that is made by cpp may include files that are not known; write it out";
                return Err(wrong(path, of(message)));
            }
            for (argument, value) in &image.arguments {
                if let Some(reason) = in_value(argument, value) {
                    let (path, image, name) = (path.to_owned(), name.to_string(), argument.clone());
                    return Err(CacheError::Secret { path, image, name, reason });
                }
            }
            for (id, source) in &image.secrets {
                let is_source = ["env=", "src="].iter().any(|kind| source.starts_with(kind));
                if !is_source || [id, source].iter().any(|text| text.contains(',')) {
                    let message = format!("secret '{id}': expected env=VARIABLE or src=FILE, without commas");
                    return Err(wrong(path, of(&message)));
                }
            }
            for (context, place) in &image.contexts {
                if let Some((scheme, _)) = place.split_once("://")
                    && !matches!(scheme, "container-image" | "docker-image")
                {
                    let message = format!(
                        "context '{context}': {scheme}:// would be fetched at every build; give a folder or container-image://NAME"
                    );
                    return Err(wrong(path, of(&message)));
                }
                if !place.contains("://") {
                    inside(&of(&format!("context '{context}'")), Path::new(place))?;
                }
            }
            image.reference(name).map_err(|message| wrong(path, of(&message)))?;
        }
        Ok(())
    }
}

impl CachedImage {
    /// One with a Containerfile and nothing else.
    pub(crate) fn new(containerfile: PathBuf, context: PathBuf) -> Self {
        Self {
            containerfile,
            context,
            target: None,
            arguments: BTreeMap::new(),
            platform: None,
            contexts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            image: None,
            timestamp: None,
        }
    }

    /// Name and tag of what is built.
    pub(crate) fn reference(&self, name: &Name) -> Result<Reference, String> {
        let text = self.image.clone().unwrap_or_else(|| name.to_ascii_lowercase());
        let (repository, tag) = match text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((repository, tag)) => (repository, tag),
            None => (text.as_str(), TAG),
        };
        Reference::new(repository, tag).map_err(|error| error.to_string())
    }

    /// The time that files and image get.
    pub(crate) fn timestamp(&self) -> u64 {
        self.timestamp.unwrap_or(TIMESTAMP)
    }

    /// What it is built for.
    pub(crate) fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_default().canonical()
    }
}

/// The definitions of a project, and where they are.
#[derive(Debug)]
pub(crate) struct CacheProject {
    pub(crate) path: PathBuf,
    /// The folder that it is in.
    pub(crate) root: PathBuf,
    pub(crate) definitions: CacheDefinitions,
}

impl CacheProject {
    /// Reads the file in a folder, or in the next folder above it that has one.
    pub(crate) fn find(folder: &Path) -> Result<Self, CacheError> {
        let here = std::fs::canonicalize(folder).map_err(|error| wrong(folder, error.to_string()))?;
        let root = here.ancestors().find(|folder| folder.join(FILE).is_file()).unwrap_or(&here).to_owned();
        let path = root.join(FILE);
        let definitions = lock_file::read(&path)?;
        Ok(Self { path, root, definitions })
    }

    /// The folder of the entries.
    pub(crate) fn folder(&self) -> PathBuf {
        self.root.join(&self.definitions.folder)
    }

    /// These images, or all.
    pub(crate) fn chosen(&self, names: &[String]) -> Result<Vec<(&Name, &CachedImage)>, CacheError> {
        let images = &self.definitions.images;
        let one = |name: &String| {
            let found = images.iter().find(|(known, _)| ***known == **name);
            found.ok_or_else(|| wrong(&self.path, no_such("image", name, "", images.keys())))
        };
        match names {
            [] => Ok(images.iter().collect()),
            names => names.iter().map(one).collect(),
        }
    }
}

/// Adds or replaces an image in the file of a folder; whether that changed, or would change, anything.
pub(crate) fn define(
    root: &Path,
    name: Name,
    image: CachedImage,
    dry_run: bool,
    progress: &Progress,
) -> Result<bool, CacheError> {
    let mut change = lock_file::LockFileChange::<CacheDefinitions>::begin(&root.join(FILE), progress)?;
    change.lock.images.insert(name, image);
    if dry_run { change.would_change() } else { change.finish(progress) }
}
