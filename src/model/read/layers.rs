//! What the layers of a model hold: what its files say of themselves, and files that are not what their names say.
//!
//! Anything may lie beside a model. A file that is called `.gguf` or `.safetensors` and is empty, is what a server said in its
//! place, or Git's pointer to it, is an error: it would be found when a container starts, far from the person who can mend it.
//! So is a model of texts alone, a piece of a file, and a shard without its siblings.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::cursor::HeaderError;
use super::facts::{Facts, Inspected};
use super::inspect::{InspectError, inspect_set};
use super::named::{Named, is_weights, named};
use super::shards::ShardName;
use super::sniff::{FileKind, HEAD, sniff};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::layer::{HostFile, LayerError, LayerMember, MemberContent, Recipe};

/// Bytes from which it is worth a word that a file is stored twice.
const LARGE: u64 = 1 << 20;

/// Why a model's layers cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LookError {
    /// A file is not what it should be.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// A file cannot be had.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

impl Classified for LookError {
    fn class(&self) -> Class {
        match self {
            Self::Inspect(error) => error.class(),
            Self::Layer(error) => error.class(),
        }
    }
}

/// What is known of a model before its bytes are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// What its headers say, if there is one model, and it can be read.
    pub(crate) facts: Option<Facts>,
    /// Where it is in an image, if it is one file. A shard is opened under no other name than its own.
    pub(crate) file: Option<PathBuf>,
    /// A file of each model, if there are several.
    pub(crate) several: Vec<String>,
    /// Files that are no models in spite of their names, files that are there twice, and what some program will not load.
    pub(crate) warnings: Vec<String>,
}

/// The files of a model's layers.
#[derive(Default)]
struct LayeredFiles {
    /// By their places in the image.
    host: BTreeMap<PathBuf, PathBuf>,
    /// Those whose names say that they are weights, and what they are.
    weights: BTreeMap<PathBuf, FileKind>,
    /// Large files by what they are on the disk.
    same: BTreeMap<(u64, u64), PathBuf>,
    warnings: Vec<String>,
}

impl LayeredFiles {
    fn add(&mut self, place: PathBuf, host: PathBuf, file: &HostFile) -> Result<(), LayerError> {
        if place.to_str().is_some_and(is_weights) {
            self.weights.insert(place.clone(), found(&file.open()?));
        }
        let metadata = file.metadata();
        if metadata.len() >= LARGE
            && let Some(other) = self.same.insert((metadata.dev(), metadata.ino()), place.clone())
        {
            let (one, two) = (other.display(), place.display());
            self.warnings.push(format!("{one} and {two} are one file, which is stored twice: leave one of them out"));
        }
        self.host.insert(place, host);
        Ok(())
    }

    /// Files that are something else than their names say: an error, where it is known what came in their place.
    fn check_weights(&mut self) -> Result<(), InspectError> {
        let real = |found: &FileKind| matches!(found, FileKind::Gguf | FileKind::Safetensors);
        let whole = |place: &Path| {
            let name = place.to_str().unwrap_or_default();
            ShardName::parse(name)
                .map_or_else(|| name.to_owned(), |shard| format!("{}//{}", shard.whole(), shard.count))
        };
        let models: Vec<String> =
            self.weights.iter().filter(|(_, found)| real(found)).map(|(place, _)| whole(place)).collect();
        for (place, found) in self.weights.iter().filter(|(_, found)| !real(found)) {
            let error = InspectError::NotAModel { path: self.host[place].clone(), found: found.clone() };
            let is_answer = matches!(
                found,
                FileKind::Empty | FileKind::Html | FileKind::Xml | FileKind::Json | FileKind::LfsPointer { .. }
            );
            // A shard of a model that is one.
            if is_answer || models.contains(&whole(place)) {
                return Err(error);
            }
            self.warnings.push(error.to_string());
            self.host.remove(place);
        }
        Ok(())
    }

    /// Whether some of the files may be weights, of whatever format.
    fn may_be_a_model(&self) -> bool {
        let texts = |place: &PathBuf| {
            let name = place.to_string_lossy().into_owned();
            matches!(named(&name), Named::Index | Named::ChatTemplate | Named::Licence | Named::Text | Named::Config)
        };
        !self.weights.is_empty() || self.host.keys().any(|place| !texts(place))
    }

    /// The folder that all of them are in.
    fn root(&self) -> PathBuf {
        let above = self.host.keys().filter_map(|place| place.parent());
        let common = |one: PathBuf, two: &Path| {
            one.components().zip(two.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
        };
        above
            .fold(None, |all: Option<PathBuf>, one| Some(all.map_or_else(|| one.to_owned(), |all| common(all, one))))
            .unwrap_or_default()
    }
}

/// Looks at the model that these layers hold.
///
/// # Errors
/// If a file cannot be read, or a model is damaged, cut off, not whole, or not there at all.
pub(crate) fn look<'a>(
    recipes: impl IntoIterator<Item = &'a Recipe>,
    progress: &Progress,
) -> Result<Looked, LookError> {
    let mut files = LayeredFiles::default();
    for recipe in recipes {
        recipe.members(&mut |LayerMember { entry, content, host, .. }| {
            if let MemberContent::File(file, _) = content {
                files.add(entry.place(), host.to_owned(), &file)?;
            }
            Ok(())
        })?;
    }
    files.check_weights()?;
    let (root, is_model) = (files.root(), files.may_be_a_model());
    let below = |(place, host): (&PathBuf, &PathBuf)| {
        let path = place.strip_prefix(&root).ok()?.to_str()?.to_owned();
        Some((path, host.clone()))
    };
    let set: BTreeMap<String, PathBuf> = files.host.iter().filter_map(below).collect();
    let mut looked = Looked { warnings: files.warnings, ..Looked::default() };
    match inspect_set(&root, &set, progress) {
        Ok(Inspected { facts, files, warnings }) => {
            let only = <[_; 1]>::try_from(files).ok();
            (looked.facts, looked.file) = (Some(facts), only.map(|[file]| root.join(file.path)));
            looked.warnings.extend(warnings);
        }
        // Its format is not read.
        Err(InspectError::NoModel { .. }) if is_model => {}
        Err(InspectError::SeveralModels { names, .. }) => looked.several = names,
        Err(error @ InspectError::Header { source: HeaderError::Unsupported { .. }, .. }) => {
            looked.warnings.push(error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(looked)
}

fn found(file: &File) -> FileKind {
    let mut head = vec![0; HEAD];
    let mut filled = 0;
    // What cannot be read is reported where all of its bytes are needed.
    while let Ok(count @ 1..) = file.read_at(&mut head[filled..], filled as u64) {
        filled += count;
    }
    sniff(&head[..filled])
}
