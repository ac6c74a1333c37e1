//! Entries: an image that was built, with what it was built from.
//!
//! ```text
//! cache/
//!   .gitattributes                  large files go to Git LFS
//!   blobs/sha256/<hex>              the blobs of all entries, each once
//!   <image>/<key>-<digest>/         one entry: a bundle (`crate::image::bundle`) over these blobs
//!     blobs -> ../../blobs
//!     entry.json                    its key, and which image it is
//!     inputs.json                   what the key is the digest of
//! ```
//!
//! Every name follows from content, and no file is ever changed once it is there. So two branches that each add an entry merge
//! without a conflict, and an entry with its blobs is an OCI image layout for every other tool.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CacheError;
use super::key::BuildInputs;
use crate::build::check_bundle;
use crate::build::stack::StackDir;
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::image::bundle::SUMS;
use crate::image::json::read_versioned;
use crate::image::layout::ImageDir;
use crate::names::Name;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::reference::Reference;
use crate::podman::storage::snapshot::StoreSnapshot;

/// The folder of the blobs, beside those of the images.
pub(crate) const BLOBS: &str = "blobs";
/// What an entry is.
pub(super) const ENTRY: &str = "entry.json";
/// What its key is made of.
pub(super) const INPUTS: &str = "inputs.json";
/// How a file begins that Git LFS has not fetched.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
/// The version of `entry.json`.
pub(super) const VERSION: u32 = 1;

/// `entry.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryFacts {
    pub(crate) version: u32,
    /// The digest of what it was built from.
    pub(crate) key: Digest,
    /// Name and tag.
    pub(crate) image: Reference,
    /// Digest of the manifest.
    pub(crate) digest: Digest,
    /// Digest of the config: Podman's image ID.
    pub(crate) config_digest: Digest,
    /// Bytes of its layers.
    pub(crate) size: u64,
    /// When it was kept, in seconds after 1970.
    pub(crate) created: i64,
}

/// An entry on disk.
#[derive(Debug, Clone)]
pub(crate) struct CacheEntry {
    pub(crate) path: PathBuf,
    pub(crate) facts: EntryFacts,
}

/// Entries, and folders that should be some, with what is wrong with them.
pub(crate) type FoundEntries = (Vec<CacheEntry>, Vec<(PathBuf, String)>);

/// How an entry's image stands in Podman.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EntryPresence {
    /// It is there, and its name leads to it.
    Present,
    /// It is there, and its name leads elsewhere.
    Unnamed,
    /// It is not there, or not all of it.
    Missing,
}

/// What an entry is called.
pub(super) fn folder_name(key: Digest, digest: Digest) -> String {
    format!("{}-{}", &key.hex()[..16], &digest.hex()[..16])
}

/// The entries of an image, the newest first, and the folders that look like one and cannot be read.
pub(crate) fn of(cache: &Path, name: &Name) -> Result<FoundEntries, CacheError> {
    let folder = cache.join(&**name);
    let names = match Dir::open(&folder) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        dir => dir?.names()?,
    };
    let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
    for entry in names.into_keys().filter_map(|name| name.into_string().ok()) {
        if !is_folder_name(&entry) {
            continue;
        }
        let path = folder.join(&entry);
        match read_versioned::<EntryFacts>(&path.join(ENTRY)) {
            Ok(facts) if folder_name(facts.key, facts.digest) == entry => entries.push(CacheEntry { path, facts }),
            Ok(_) => unreadable.push((path, format!("its {ENTRY} is that of another entry"))),
            Err(error) => unreadable.push((path, error.to_string())),
        }
    }
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.facts.created, entry.path.clone())));
    Ok((entries, unreadable))
}

/// Whether a folder of an image's has the name of an entry.
pub(super) fn is_folder_name(name: &str) -> bool {
    let is_part = |part: &str| part.len() == 16 && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    name.split_once('-').is_some_and(|(key, digest)| is_part(key) && is_part(digest))
}

impl CacheEntry {
    /// What it was built from.
    pub(crate) fn inputs(&self) -> Result<BuildInputs, CacheError> {
        let path = self.path.join(INPUTS);
        let damaged = |message: String| CacheError::Damaged { entry: self.path.clone(), message };
        let bytes = bounded::read(&path, Cap::Document).map_err(|error| damaged(format!("{INPUTS}: {error}")))?;
        let inputs: BuildInputs =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("{INPUTS}: {error}")))?;
        if inputs.key() == self.facts.key {
            return Ok(inputs);
        }
        Err(damaged(format!("{INPUTS} has another digest than its key")))
    }

    /// How its image stands in Podman: by records alone.
    pub(crate) fn presence(&self, snapshot: &StoreSnapshot) -> EntryPresence {
        let EntryFacts { image, digest, config_digest, .. } = &self.facts;
        let id = config_digest.hex();
        if snapshot.complete(&id, [*digest]).is_none() {
            return EntryPresence::Missing;
        }
        match snapshot.called(image) {
            Some((_, found)) if found.id == id => EntryPresence::Present,
            _ => EntryPresence::Unnamed,
        }
    }

    /// Its image, if all of it is there by names and sizes.
    pub(crate) fn image(&self, progress: &Progress) -> Result<ImageDir, CacheError> {
        let damaged = |message: String| CacheError::Damaged { entry: self.path.clone(), message };
        let stack = StackDir::open(&self.path).map_err(|error| damaged(self.said(&error.to_string())))?;
        let [image] = <[ImageDir; 1]>::try_from(stack.images).map_err(|_| damaged("has not one image".to_owned()))?;
        let summary = image.summary();
        if summary.digest != self.facts.digest {
            return Err(damaged(format!("its image is {}, and not {}", summary.digest, self.facts.digest)));
        }
        for layer in summary.layers() {
            image.verify_layer(layer, false, progress).map_err(|error| damaged(self.said(&error.to_string())))?;
        }
        Ok(image)
    }

    /// What is wrong with it; with `full` every byte is read.
    pub(crate) fn check(&self, full: bool, progress: &Progress) -> Result<(), CacheError> {
        let damaged = |message: String| CacheError::Damaged { entry: self.path.clone(), message };
        self.inputs()?;
        self.image(progress)?;
        let checked = check_bundle::check(&self.path, full, progress)?;
        match checked.problems.first() {
            Some(problem) => Err(damaged(self.said(&format!("{} {}", problem.file.display(), problem.what)))),
            None => Ok(()),
        }
    }

    /// The names of the files in the folder of blobs that it needs.
    pub(super) fn blobs(&self) -> Result<BTreeSet<String>, CacheError> {
        let sums = self.path.join(SUMS);
        let text = bounded::text(&sums, Cap::Document)
            .map_err(|error| CacheError::Damaged { entry: self.path.clone(), message: format!("{SUMS}: {error}") })?;
        let name = |line: &str| Some(line.split_once("  ")?.1.strip_prefix("blobs/sha256/")?.to_owned());
        Ok(text.lines().filter_map(name).collect())
    }

    /// A sentence about it, with what to do where Git LFS has not fetched a file.
    fn said(&self, sentence: &str) -> String {
        let blobs = self.path.join(crate::image::bundle::BLOBS);
        let is_pointer = |name: &String| {
            let path = blobs.join(name);
            let small = path.metadata().is_ok_and(|found| found.len() < 1024);
            small && bounded::read(&path, Cap::Settings).is_ok_and(|bytes| bytes.starts_with(POINTER))
        };
        match self.blobs().is_ok_and(|names| names.iter().any(is_pointer)) {
            true => format!("{sentence}; Git LFS has not fetched its blobs: `git lfs pull` does"),
            false => sentence.to_owned(),
        }
    }
}

/// `inputs.json`.
pub(super) fn inputs_file(inputs: &BuildInputs) -> Vec<u8> {
    canonical::to_pretty(inputs)
}
