//! The lock of models: which bytes each of them is, in a file that people commit.
//!
//! ```text
//! models.NAME.source    what was asked for, and the commit that it named
//! models.NAME.files     name in the store, place in the model's directory, size, SHA-256 and address of each file
//! models.NAME.facts     what the headers of the files say
//! models.NAME.licence   SPDX, of the header or of the model's page
//! ```
//!
//! Size and SHA-256 of every file are all that a manifest of the model needs, so there is one before the download.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::class::{Class, Classified};
use crate::disk::lock_file::{self, LockFile, LockFileError, unique};
use crate::model::read::facts::Facts;
use crate::names::{is_unprintable, no_such};
use crate::nix::store::{FixedFile, fitting_name};
use crate::oci::digest::Digest;
use crate::oci::reference::is_repository;

/// A whole lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelLock {
    version: u32,
    /// The models by the names that people gave them.
    #[serde(deserialize_with = "unique")]
    pub models: BTreeMap<String, LockedModel>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedModel {
    /// Where it is from.
    pub(crate) source: LockedSource,
    /// Its files; of shards the first one first.
    pub files: Vec<LockedFile>,
    /// What their headers say; `None` for files that are no model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) facts: Option<Facts>,
    /// SPDX expression; `None` if the source does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) licence: Option<String>,
}

/// Where a model is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockedSource {
    /// What was asked for, as it was given: `hf:ORG/REPO/FILE`, an address, or a path.
    #[serde(rename = "ref")]
    pub(crate) reference: String,
    /// What was asked for beside it, with `--file`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<String>,
    /// `ORG/REPO` on Hugging Face.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repo: Option<String>,
    /// The commit there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    /// Whether the reference can name other bytes tomorrow without anybody having done wrong. The lock never does.
    pub(crate) floating: bool,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Its name in the Nix store.
    pub(crate) name: String,
    /// Its place in the model's directory.
    pub path: String,
    #[serde(deserialize_with = "crate::names::size")]
    pub(crate) size: u64,
    /// SHA-256 in hex: what Hugging Face calls the LFS oid.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub(crate) sha256: Digest,
    /// Where it can be had; `None` for a local file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

fn to_hex<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&digest.hex())
}

fn from_hex<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    Digest::from_hex(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

impl LockedFile {
    /// The file in the Nix store. Its name was checked when the lock was read.
    ///
    /// # Panics
    /// For a name that the store does not allow, which no lock has that was read.
    #[must_use]
    pub fn fixed(&self) -> FixedFile {
        FixedFile::new(&self.name, self.sha256).expect("the lock was checked")
    }
}

impl LockedModel {
    /// Bytes of all files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

impl Default for ModelLock {
    fn default() -> Self {
        Self { version: Self::VERSION, models: BTreeMap::new() }
    }
}

/// Why there is no lock of models.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelLockError {
    #[error(transparent)]
    File(#[from] LockFileError),
    /// Something in it that cannot be.
    #[error("{path}: model '{model}': {problem}", path = path.display())]
    Model {
        path: PathBuf,
        model: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A model that is not in the lock.
    #[error("{path}: {}", no_such("model", .name, "", .there), path = path.display())]
    Unknown {
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
}

impl Classified for ModelLockError {
    fn class(&self) -> Class {
        match self {
            Self::File(error) => error.class(),
            Self::Unknown { .. } => Class::Usage,
            Self::Model { .. } => Class::Failed,
        }
    }
}

impl LockFile for ModelLock {
    const VERSION: u32 = 1;
    const BEGIN: &'static str = "windlass model add REF|URL|FILE";
    type Error = ModelLockError;

    fn check(&self, path: &Path) -> Result<(), ModelLockError> {
        self.models.iter().try_for_each(|(name, model)| {
            let wrong = |problem| ModelLockError::Model { path: path.to_owned(), model: name.clone(), problem };
            if !is_name(name) {
                return Err(wrong(NAME.to_owned()));
            }
            model.check().map_err(wrong)
        })
    }
}

/// What [`is_name`] asks for.
pub(crate) const NAME: &str =
    "is not a name: expected at most 128 lower-case letters, digits and single '.', '_' or '-' between them";

/// Whether a model can be called so: its image has the same name.
#[must_use]
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= 128 && !name.contains('/') && is_repository(name)
}

impl LockedModel {
    fn check(&self) -> Result<(), String> {
        if self.files.is_empty() {
            return Err("it has no file".to_owned());
        }
        let mut paths = BTreeSet::new();
        for LockedFile { name, path, url, sha256, .. } in &self.files {
            if FixedFile::new(name, *sha256).is_err() || fitting_name(name) != *name {
                return Err(format!("'{name}' is not a name for the Nix store; write {}", fitting_name(name)));
            }
            if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains(is_unprintable) {
                return Err(format!("'{path}' is not a path in the model's directory"));
            }
            if !paths.insert(path) {
                return Err(format!("two files have the place {path}"));
            }
            if url.as_ref().is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
                return Err(format!("{path}: its url does not begin with https://"));
            }
            if url.as_ref().is_some_and(|url| !url.bytes().all(|byte| byte.is_ascii_graphic())) {
                return Err(format!("{path}: its url has a character that no address has"));
            }
        }
        match &self.source.revision {
            Some(commit) if !super::source::is_commit(commit) => Err(format!("'{commit}' is not a commit")),
            _ => Ok(()),
        }
    }
}

/// A lock of models that is being changed.
pub(crate) type ModelLockChange = lock_file::LockFileChange<ModelLock>;

/// Reads a lock of models and checks all of it.
///
/// # Errors
/// See [`ModelLockError`].
pub(crate) fn read(path: &Path) -> Result<ModelLock, ModelLockError> {
    lock_file::read(path)
}

impl ModelLock {
    /// The model of this name; `path` is that of the lock, for messages.
    ///
    /// # Errors
    /// If it has none.
    pub(crate) fn model(&self, name: &str, path: &Path) -> Result<&LockedModel, ModelLockError> {
        self.models.get(name).ok_or_else(|| {
            let there = self.models.keys().cloned().collect();
            ModelLockError::Unknown { path: path.to_owned(), name: name.to_owned(), there }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> LockedModel {
        let source = LockedSource {
            reference: "hf:org/repo/m.gguf".to_owned(),
            files: Vec::new(),
            repo: Some("org/repo".to_owned()),
            revision: Some("0".repeat(40)),
            floating: true,
        };
        let file = LockedFile {
            name: "m.gguf".to_owned(),
            path: "m.gguf".to_owned(),
            size: 3,
            sha256: Digest::of(b"abc"),
            url: Some("https://huggingface.co/org/repo/resolve/0/m.gguf".to_owned()),
        };
        LockedModel { source, files: vec![file], facts: None, licence: Some("Apache-2.0".to_owned()) }
    }

    #[test]
    fn a_lock_is_read_as_it_is_written() {
        let mut lock = ModelLock::default();
        lock.models.insert("m".to_owned(), model());
        let text = lock_file::to_text(&lock);
        let again: ModelLock = lock_file::parse(Path::new("models.lock.json"), text.as_bytes()).unwrap();
        assert_eq!((&again, lock_file::to_text(&again)), (&lock, text.clone()));
        assert!(text.contains("\"sha256\": \"ba7816bf8f01cfea"), "{text}");
        assert_eq!(lock.model("m", Path::new("l")).unwrap().size(), 3);
        let error = lock.model("n", Path::new("l")).unwrap_err().to_string();
        assert_eq!(error, "l: there is no model 'n'; there are: m");
    }

    #[test]
    fn what_cannot_be_is_told_with_the_model() {
        let told = |change: &dyn Fn(&mut LockedModel)| {
            let mut model = model();
            change(&mut model);
            let mut lock = ModelLock::default();
            lock.models.insert("m".to_owned(), model);
            lock.check(Path::new("l")).unwrap_err().to_string()
        };
        for path in ["", "/etc/passwd", "../x", "a//b", "a/", "a/./b", "a/../b"] {
            let error = told(&|model| model.files[0].path = path.to_owned());
            assert_eq!(error, format!("l: model 'm': '{path}' is not a path in the model's directory"));
        }
        assert!(told(&|model| model.files[0].name = "a b".to_owned()).ends_with("for the Nix store; write a-b"));
        assert!(told(&|model| model.files.clear()).ends_with("it has no file"));
        assert!(told(&|model| model.files.push(model.files[0].clone())).ends_with("two files have the place m.gguf"));
        assert!(
            told(&|model| model.files[0].url = Some("file:///x".to_owned()))
                .contains("its url does not begin with https://")
        );
        assert!(told(&|model| model.source.revision = Some("main".to_owned())).ends_with("'main' is not a commit"));
    }

    #[test]
    fn names_are_those_of_images() {
        for name in ["m", "smollm2-135m-instruct.q4_1", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "M", "a/b", "-a", "a-", "a..b", "é", &"a".repeat(129)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
