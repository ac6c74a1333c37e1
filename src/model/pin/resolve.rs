//! What a source is made of: the files that are to come, before any of them does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::hub::{Hub, HubError, Revision};
use super::lock::{LockedModel, LockedSource};
use super::source::{HubSource, ParseSourceError, PinSource, family, is_match, without_common_folder};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::model::read::facts::{Facts, Inspected};
use crate::model::read::formats::is_unread;
use crate::model::read::inspect::{InspectError, files_of, inspect};
use crate::model::read::named::{Named, file_name, named};
use crate::names::no_such;
use crate::nix::store::fitting_name;
use crate::oci::digest::Digest;
use crate::registry::error::RegistryError;

/// Why a source is not a model's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SourceResolveError {
    /// What was asked for.
    #[error(transparent)]
    Source(#[from] ParseSourceError),
    /// Hugging Face.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Another server.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A repository, and no file of it.
    #[error("{0} names a repository; name a file of it, as {0}/FILE or with --file")]
    NoFileNamed(String),
    /// A file that is not there.
    #[error("{}", no_such("file", .path, &format!(" in {place}"), .near))]
    NoFile {
        /// The repository with its commit, or the folder.
        place: String,
        /// What was asked for.
        path: String,
        /// Some of what there is.
        near: Vec<String>,
    },
    /// A directory without a model, or with several.
    #[error("{0}")]
    Inspect(#[from] InspectError),
    /// A local file, or its folder, that cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl Classified for SourceResolveError {
    fn class(&self) -> Class {
        match self {
            Self::Source(error) => error.class(),
            Self::Hub(error) => error.class(),
            Self::Inspect(error) => error.class(),
            Self::Registry(error) => error.class(),
            Self::Read { source, .. } => source.class(),
            Self::NoFileNamed(_) | Self::NoFile { .. } => Class::Usage,
        }
    }
}

/// A file that is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its name in the Nix store.
    pub(crate) name: String,
    /// Its place in the model's directory.
    pub(crate) path: String,
    /// Its size, where that was said.
    pub(crate) size: Option<u64>,
    /// Its digest, where that was said.
    pub(crate) digest: Option<Digest>,
    /// Where it is.
    pub(crate) origin: FileOrigin,
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileOrigin {
    /// On a server.
    Web {
        /// Its address.
        address: String,
        /// Its `ETag`.
        version: Option<String>,
    },
    /// On this machine.
    Local(PathBuf),
}

/// What a source is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvedSource {
    /// As the lock has it.
    pub(crate) source: LockedSource,
    /// Its files, of shards the first one first.
    pub(crate) files: Vec<Candidate>,
    /// What Hugging Face says of the revision.
    pub(crate) revision: Option<Revision>,
    /// What `model inspect` says of files of this machine: their card stays behind, and its licence does not.
    pub(crate) facts: Option<Facts>,
}

impl ResolvedSource {
    /// Takes digests from what is locked already, of files whose address names the same bytes for ever.
    pub(crate) fn recall(&mut self, locked: &LockedModel) {
        if self.source.revision.is_none() {
            return;
        }
        for file in self.files.iter_mut().filter(|file| file.digest.is_none()) {
            let FileOrigin::Web { address, .. } = &file.origin else { continue };
            let known = locked.files.iter().find(|known| known.url.as_ref() == Some(address));
            file.digest = known.filter(|known| Some(known.size) == file.size).map(|known| known.sha256);
        }
    }
}

/// Looks up what `reference` and the further `files` are.
///
/// # Errors
/// See [`SourceResolveError`].
pub(crate) fn resolve(
    reference: &str,
    files: &[String],
    hub: Hub<'_>,
    progress: &Progress,
) -> Result<ResolvedSource, SourceResolveError> {
    let source = PinSource::parse(reference, hub.endpoint)?;
    let locked = LockedSource {
        reference: reference.to_owned(),
        files: files.to_vec(),
        repo: None,
        revision: None,
        floating: source.is_floating(),
    };
    match source {
        PinSource::Hub(source) => of_hub(&source, locked, hub, progress),
        PinSource::Web(address) => {
            let files = of_web(&address, files, hub, progress)?;
            Ok(ResolvedSource { source: locked, files, revision: None, facts: None })
        }
        PinSource::Local(path) if path.is_dir() => {
            let found = inspect(&path, progress)?;
            let files = match place(&found) {
                Some(file) => of_folder(&path.join(file), files)?,
                None => of_pipeline(&path, &found, files, progress)?,
            };
            Ok(ResolvedSource { source: locked, files, revision: None, facts: Some(found.facts) })
        }
        PinSource::Local(path) => {
            let files = of_folder(&path, files)?;
            // What is wrong with the file is said once it is in the store, unless any file will do.
            let facts = inspect(&path, progress).ok().map(|found| found.facts);
            Ok(ResolvedSource { source: locked, files, revision: None, facts })
        }
    }
}

/// The file that stands for a model whose files are in one folder.
fn place(found: &Inspected) -> Option<&Path> {
    let first = found.files.first()?;
    found.files.iter().all(|file| file.path.parent() == first.path.parent()).then_some(first.path.as_path())
}

/// A pipeline of several models in folders: the weights that it reads first, then what describes them.
fn of_pipeline(
    folder: &Path,
    found: &Inspected,
    more: &[String],
    progress: &Progress,
) -> Result<Vec<Candidate>, SourceResolveError> {
    let there = files_of(folder, progress)?;
    let weights: Vec<String> = found.files.iter().map(|file| file.path.to_string_lossy().into_owned()).collect();
    let describes = |name: &&String| match named(name) {
        Named::Index | Named::Config | Named::ChatTemplate | Named::Licence => true,
        Named::Other => !is_unread(name),
        Named::Weights(_) | Named::Piece(_) | Named::Text => false,
    };
    let mut names: Vec<String> = weights.into_iter().chain(there.keys().filter(describes).cloned()).collect();
    for name in chosen(None, more, &folder.display().to_string(), &there.keys().cloned().collect())? {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.into_iter().map(|name| local(folder, name)).collect()
}

fn of_hub(
    source: &HubSource,
    locked: LockedSource,
    hub: Hub<'_>,
    progress: &Progress,
) -> Result<ResolvedSource, SourceResolveError> {
    if source.file.is_none() && locked.files.is_empty() {
        return Err(SourceResolveError::NoFileNamed(format!("hf:{}", source.repo)));
    }
    let revision = hub.revision(&source.repo, &source.revision, progress)?;
    let there = hub.files(&source.repo, &revision.commit, progress)?;
    let place = format!("{} at {}", source.repo, &revision.commit[..12]);
    let paths = chosen(source.file.as_deref(), &locked.files, &place, &there.keys().cloned().collect())?;
    let files = paths.iter().zip(without_common_folder(&paths)).map(|(path, place)| {
        let address = hub.file_address(&source.repo, &revision.commit, path);
        Candidate {
            name: fitting_name(file_name(path)),
            path: place,
            size: Some(there[path].size),
            digest: there[path].digest,
            origin: FileOrigin::Web { address, version: None },
        }
    });
    let files = files.collect();
    let (repo, commit) = (Some(source.repo.clone()), Some(revision.commit.clone()));
    Ok(ResolvedSource {
        source: LockedSource { repo, revision: commit, ..locked },
        files,
        revision: Some(revision),
        facts: None,
    })
}

/// The files that are meant, of those that are there: that one with all that belongs to it, then those of the patterns.
fn chosen(
    file: Option<&str>,
    patterns: &[String],
    place: &str,
    there: &BTreeSet<String>,
) -> Result<Vec<String>, SourceResolveError> {
    let missing = |path: &str| {
        // Files of the same kind are what was meant.
        let end = path.rsplit_once('.').map_or(path, |(_, end)| end);
        let near = there.iter().filter(|other| other.ends_with(end)).take(8).cloned().collect();
        SourceResolveError::NoFile { place: place.to_owned(), path: path.to_owned(), near }
    };
    let mut paths: Vec<String> = Vec::new();
    let add = |paths: &mut Vec<String>, path: String| {
        if !paths.contains(&path) {
            paths.push(path);
        }
    };
    if let Some(file) = file {
        let family = family(file)?;
        for path in family.required {
            if !there.contains(&path) {
                return Err(missing(&path));
            }
            add(&mut paths, path);
        }
        family.optional.into_iter().filter(|path| there.contains(path)).for_each(|path| add(&mut paths, path));
    }
    for pattern in patterns {
        let found: Vec<&String> = there.iter().filter(|path| is_match(pattern, path)).collect();
        if found.is_empty() {
            return Err(missing(pattern));
        }
        found.into_iter().for_each(|path| add(&mut paths, path.clone()));
    }
    Ok(paths)
}

/// Files beside one another on a web server, which has no list of them.
fn of_web(
    address: &str,
    more: &[String],
    hub: Hub<'_>,
    progress: &Progress,
) -> Result<Vec<Candidate>, SourceResolveError> {
    let (path, query) = address.find('?').map_or((address, ""), |at| address.split_at(at));
    let folder = &path[..path.len() - file_name(path).len()];
    let family = family(file_name(path))?;
    let required = family.required.iter().chain(more).map(|name| (name, true));
    let mut files: Vec<Candidate> = Vec::new();
    for (name, is_required) in required.chain(family.optional.iter().map(|name| (name, false))) {
        let address = format!("{folder}{name}{query}");
        let name = fitting_name(file_name(name));
        if files.iter().any(|file| file.name == name) {
            continue;
        }
        let head = match hub.web.head(&address, progress) {
            Err(RegistryError::NotFound { .. }) if !is_required => continue,
            head => head?,
        };
        let origin = FileOrigin::Web { address, version: head.version };
        files.push(Candidate { path: name.clone(), name, size: head.size, digest: None, origin });
    }
    Ok(files)
}

fn of_folder(path: &Path, more: &[String]) -> Result<Vec<Candidate>, SourceResolveError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceResolveError::Read { path, source }
    };
    let metadata = fs::metadata(path).map_err(failed(path))?;
    if !metadata.is_file() {
        let source = io::Error::new(io::ErrorKind::IsADirectory, "no file; name the model's file, or its first shard");
        return Err(failed(path)(source));
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        there.extend(entry.map_err(failed(folder))?.file_name().into_string());
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    there.insert(file.clone());
    let names = chosen(Some(&file), more, &folder.display().to_string(), &there)?;
    names.into_iter().map(|name| local(folder, name)).collect()
}

/// A file of this machine, by its path below a folder.
fn local(folder: &Path, name: String) -> Result<Candidate, SourceResolveError> {
    let path = folder.join(&name);
    let metadata = fs::metadata(&path).map_err(|source| SourceResolveError::Read { path: path.clone(), source })?;
    // The name of a store path is what it was added as.
    let plain = without_hash(&name).to_owned();
    let (name, size) = (fitting_name(file_name(&plain)), Some(metadata.len()));
    Ok(Candidate { name, path: plain, size, digest: None, origin: FileOrigin::Local(path) })
}

/// The name of a store path without its hash; any other name as it is.
fn without_hash(name: &str) -> &str {
    match crate::nix::store_path::StorePath::from_base_name(name) {
        Ok(_) => &name[33..],
        Err(_) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there() -> BTreeSet<String> {
        ["README.md", "config.json", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "model.safetensors", "q/a.gguf"]
            .map(str::to_owned)
            .into()
    }

    #[test]
    fn what_belongs_together_comes_together() {
        let chosen = |file, patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            chosen(file, &patterns, "org/repo", &there())
        };
        assert_eq!(chosen(Some("m-00002-of-00002.gguf"), &[]).unwrap().len(), 2);
        assert_eq!(
            chosen(Some("model.safetensors"), &["*.json", "README.md"]).unwrap(),
            ["model.safetensors", "config.json", "README.md"]
        );
        assert_eq!(chosen(None, &["q/*"]).unwrap(), ["q/a.gguf"]);
        let error = chosen(Some("x.gguf"), &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no file 'x.gguf' in org/repo; there are: m-00001-of-00002.gguf, m-00002-of-00002.gguf, q/a.gguf"
        );
        assert!(
            chosen(None, &["*.bin"])
                .unwrap_err()
                .to_string()
                .ends_with("there is no file '*.bin' in org/repo; there are: none")
        );
    }

    #[test]
    fn store_paths_are_called_as_they_were_added() {
        let name = format!("{}-m.gguf", "0".repeat(32));
        assert_eq!((without_hash(&name), without_hash("m.gguf")), ("m.gguf", "m.gguf"));
    }
}
