//! What the layers of a model hold: what its files say of themselves, and files that are not what their names say.
//!
//! Anything may lie beside a model. A file that is called `.gguf` or `.safetensors` and is what a server said in its place,
//! or Git's pointer to it, is an error: it would be found when a container starts, far from whoever can mend it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::cursor::HeaderError;
use super::facts::{Facts, Inspected};
use super::inspect::{InspectError, inspect_set};
use super::sniff::{Found, HEAD, sniff};
use crate::layer::{Content, LayerError, Member, Recipe};
use crate::progress::Progress;

/// Why a model's layers cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookError {
    /// A file is not what it should be.
    #[error("{0}")]
    Inspect(#[from] InspectError),
    /// A file cannot be had.
    #[error("{0}")]
    Layer(#[from] LayerError),
}

/// What is known of a model before its bytes are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// What its headers say, if there is one model, and it can be read.
    pub facts: Option<Facts>,
    /// Where it is in an image, if it is one file. A shard is opened under no other name than its own.
    pub file: Option<PathBuf>,
    /// Files that are no models in spite of their names.
    pub warnings: Vec<String>,
}

/// Looks at the model that these layers hold.
///
/// # Errors
/// If a file cannot be read, or a model is damaged, cut off, not whole, or not there at all.
pub fn look<'a>(recipes: impl IntoIterator<Item = &'a Recipe>, progress: &Progress) -> Result<Looked, LookError> {
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, PathBuf>> = BTreeMap::new();
    let mut looked = Looked::default();
    let mut bad = None;
    for recipe in recipes {
        recipe.members(&mut |Member { entry, content, host }| {
            let place = Path::new("/").join(OsStr::from_bytes(&entry.path));
            if let (Content::File(file, _), Some(parent), Some(name)) =
                (content, place.parent(), place.file_name().and_then(OsStr::to_str))
            {
                if is_called_model(name) && bad.is_none() {
                    match found(&file) {
                        Found::Gguf | Found::Safetensors => {}
                        found @ (Found::Html | Found::Xml | Found::Json | Found::LfsPointer { .. }) => {
                            bad = Some(InspectError::NotAModel { path: host.clone(), found });
                        }
                        found => {
                            looked.warnings.push(InspectError::NotAModel { path: host.clone(), found }.to_string());
                        }
                    }
                }
                folders.entry(parent.to_owned()).or_default().insert(name.to_owned(), host);
            }
            Ok(())
        })?;
    }
    if let Some(bad) = bad {
        return Err(bad.into());
    }
    let mut models = Vec::new();
    for (folder, files) in folders.iter().filter(|(_, files)| files.keys().any(|name| is_called_model(name))) {
        match inspect_set(files, progress) {
            Ok(Inspected { facts, files }) => {
                let only = <[_; 1]>::try_from(files).ok();
                models.push((facts, only.map(|[file]| folder.join(file.path))));
            }
            Err(InspectError::NotAModel { .. } | InspectError::NoModel { .. } | InspectError::SeveralModels { .. }) => {
            }
            Err(error @ InspectError::Header { source: HeaderError::Unsupported { .. }, .. }) => {
                looked.warnings.push(error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let (Some((facts, file)), true) = (models.pop(), models.is_empty()) {
        (looked.facts, looked.file) = (Some(facts), file);
    }
    Ok(looked)
}

fn is_called_model(name: &str) -> bool {
    [".gguf", ".safetensors"].iter().any(|end| name.ends_with(end))
}

fn found(file: &std::fs::File) -> Found {
    use std::os::unix::fs::FileExt;
    let mut head = vec![0; HEAD];
    let mut filled = 0;
    // What cannot be read is told by whoever needs all of its bytes.
    while let Ok(count @ 1..) = file.read_at(&mut head[filled..], filled as u64) {
        filled += count;
    }
    sniff(&head[..filled])
}
