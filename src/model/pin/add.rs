//! The files of a model, into the Nix store: downloaded, verified, resumed, under the very paths that `fetchModel` has.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::hub::{Hub, HubError};
use super::lock::{LockedFile, LockedModel};
use super::resolve::{Candidate, FileOrigin, ResolvedSource, SourceResolveError};
use crate::class::{Class, Classified};
use crate::disk::pipe::{PipeError, Readers, fan_out};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError, bounded};
use crate::model::read::facts::{Facts, Inspected};
use crate::model::read::inspect::{inspect, inspect_set};
use crate::nix::store::{FixedFile, NixError, NixStore, StoreWriter};
use crate::nix::store_path::StorePathError;
use crate::oci::digest::{Digest, Hasher};
use crate::registry::error::RegistryError;
use crate::registry::web::WebFile;

/// Why a model is not in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AddError {
    /// What was asked for.
    #[error(transparent)]
    Resolve(#[from] SourceResolveError),
    /// Hugging Face.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Another server.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A server that wants a login.
    #[error("{address}: {host} wants a login; log in with: podman login {host}")]
    Login {
        /// What was asked for.
        address: String,
        /// The server.
        host: String,
    },
    /// A local file.
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file of the lock that only one machine had.
    #[error(
        "{path} was added from a file, and has no address; add it again where that file is, with: windlass model add {reference}"
    )]
    NoAddress {
        path: String,
        /// What was added.
        reference: String,
    },
    /// A file that is not a model.
    #[error("{message}")]
    Model {
        /// What is wrong with it.
        message: String,
        /// What kind of failure it is.
        class: Class,
    },
    #[error(transparent)]
    Nix(#[from] NixError),
    /// The cache.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for AddError {
    fn class(&self) -> Class {
        match self {
            Self::Resolve(error) => error.class(),
            Self::Hub(error) => error.class(),
            Self::Registry(error) => error.class(),
            Self::Read { source, .. } => source.class(),
            Self::Model { class, .. } => *class,
            Self::Nix(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Login { .. } | Self::NoAddress { .. } => Class::Environment,
        }
    }
}

impl From<StorePathError> for AddError {
    fn from(error: StorePathError) -> Self {
        Self::Nix(error.into())
    }
}

/// What a run is about: the store, and the folders of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adder<'a> {
    /// Hugging Face, and how to talk to any server.
    pub(crate) hub: Hub<'a>,
    /// Where files go.
    pub(crate) store: &'a NixStore,
    /// Where they are until they are complete.
    pub(crate) cache: &'a Path,
    /// Where the links are that keep them.
    pub(crate) roots: &'a Path,
    /// Counts.
    pub(crate) progress: &'a Progress,
}

/// What came, and by which way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Brought {
    pub(crate) files: Vec<LockedFile>,
    /// Those of them that the store did not have.
    pub(crate) fetched: BTreeSet<FixedFile>,
    /// Bytes over the network.
    pub(crate) network: u64,
}

impl Adder<'_> {
    /// Puts the files of a model into the store, one after the other, and says what they are.
    ///
    /// # Errors
    /// See [`AddError`]; what was complete is in the store, what broke off is gone on with by the next run.
    pub(crate) fn bring(&self, resolved: &ResolvedSource) -> Result<Brought, AddError> {
        fs::create_dir_all(self.cache).at("create", self.cache)?;
        let known = resolved.files.iter().filter_map(|file| Some(FixedFile::new(&file.name, file.digest?)));
        let missing = self.store.missing(known.collect::<Result<Vec<_>, _>>()?)?;
        let there = |file: &Candidate| {
            let fixed = FixedFile::new(&file.name, file.digest?).ok()?;
            (!missing.contains(&fixed)).then_some(fixed)
        };
        self.check_space(&resolved.files.iter().filter(|file| there(file).is_none()).collect::<Vec<_>>())?;
        let mut brought = Brought::default();
        for file in &resolved.files {
            let (fixed, size) = match (there(file), file.size) {
                (Some(fixed), Some(size)) => (fixed, size),
                _ => self.bring_one(file, resolved, &mut brought)?,
            };
            let url = match &file.origin {
                FileOrigin::Web { address, .. } => Some(address.clone()),
                FileOrigin::Local(_) => None,
            };
            let (name, path, sha256) = (file.name.clone(), file.path.clone(), fixed.digest());
            brought.files.push(LockedFile { name, path, size, sha256, url });
        }
        Ok(brought)
    }

    fn bring_one(
        &self,
        file: &Candidate,
        resolved: &ResolvedSource,
        brought: &mut Brought,
    ) -> Result<(FixedFile, u64), AddError> {
        match &file.origin {
            FileOrigin::Local(path) => {
                let (digest, size) = self.hash(path)?;
                let fixed = FixedFile::new(&file.name, digest)?;
                if !self.store.missing([fixed.clone()])?.is_empty() {
                    self.add(&fixed, path)?;
                    brought.fetched.insert(fixed.clone());
                }
                Ok((fixed, size))
            }
            FileOrigin::Web { address, version } => {
                let key = file.digest.unwrap_or_else(|| {
                    Digest::of(format!("{address}\n{}", version.as_deref().unwrap_or_default()).as_bytes())
                });
                let to = self.cache.join(key.hex());
                let wanted = WebFile { address, digest: file.digest, size: file.size, version: version.as_deref() };
                let fetched = self.hub.web.fetch(wanted, &to, self.progress);
                let fetched = fetched.map_err(|error| self.explain(error, address, resolved.source.repo.as_deref()))?;
                brought.network += fetched.bytes_from_network;
                let fixed = FixedFile::new(&file.name, fetched.digest)?;
                if !self.store.missing([fixed.clone()])?.is_empty() {
                    self.add(&fixed, &to)?;
                    brought.fetched.insert(fixed.clone());
                }
                // From now on the store has it.
                drop(fs::remove_file(&to));
                Ok((fixed, fetched.size))
            }
        }
    }

    /// Keeps the files of a model from the garbage collector.
    ///
    /// # Errors
    /// If there cannot be links.
    pub(crate) fn keep(&self, files: &[LockedFile]) -> Result<(), NixError> {
        files.iter().try_for_each(|file| self.store.keep(&file.fixed(), self.roots))
    }

    /// Fetches the files of a locked model that the store does not have.
    ///
    /// # Errors
    /// See [`AddError`].
    pub(crate) fn fetch(&self, model: &LockedModel) -> Result<Brought, AddError> {
        let missing = self.store.missing(model.files.iter().map(LockedFile::fixed))?;
        let candidate = |file: &LockedFile| {
            let origin = match &file.url {
                Some(url) => FileOrigin::Web { address: url.clone(), version: None },
                None if missing.contains(&file.fixed()) => {
                    let (path, reference) = (file.path.clone(), model.source.reference.clone());
                    return Err(AddError::NoAddress { path, reference });
                }
                // It is there; where it came from does not matter.
                None => FileOrigin::Local(PathBuf::new()),
            };
            let (size, digest) = (Some(file.size), Some(file.sha256));
            Ok(Candidate { name: file.name.clone(), path: file.path.clone(), size, digest, origin })
        };
        let files = model.files.iter().map(candidate).collect::<Result<_, _>>()?;
        self.bring(&ResolvedSource { source: model.source.clone(), files, revision: None, facts: None })
    }

    /// What the headers of the files say, read in the store.
    ///
    /// # Errors
    /// If they are no model's.
    pub(crate) fn facts(&self, files: &[LockedFile]) -> Result<Facts, AddError> {
        // Shards find one another by their names, which they do not have in the store.
        let folder = tempfile::tempdir_in(self.cache).at("create a folder in", self.cache)?;
        for file in files {
            let link = folder.path().join(&file.path);
            let parent = link.parent().unwrap_or(folder.path());
            fs::create_dir_all(parent).at("create", parent)?;
            symlink(self.store.path(&file.fixed()), &link).at("create", &link)?;
        }
        let first = files.first().map(|file| file.path.clone()).unwrap_or_default();
        let all = files.iter().map(|file| (file.path.clone(), folder.path().join(&file.path))).collect();
        // All files together say what each is, an adapter or a projector; the one that was asked for says what the model is.
        let together = inspect_set(folder.path(), &all, self.progress).ok();
        let is_first = |inspected: &Inspected| inspected.files.iter().any(|file| file.path == Path::new(&first));
        let inspected =
            together.filter(is_first).map_or_else(|| inspect(&folder.path().join(&first), self.progress), Ok);
        let inspected = inspected.map_err(|error| {
            // By their own names: the folder is gone when this is read.
            let message = error.to_string().replace(&format!("{}/", folder.path().display()), "");
            AddError::Model { message, class: error.class() }
        })?;
        Ok(inspected.facts)
    }

    /// Hands a file to Nix.
    fn add(&self, fixed: &FixedFile, from: &Path) -> Result<(), AddError> {
        let _step = self.progress.step(format!("Nix adds {}", from.display()));
        match StoreWriter::new(self.store).add(fixed, from, self.progress) {
            // Another run may have taken the file away, after it was in the store.
            Err(NixError::Read { .. }) if self.store.missing([fixed.clone()])?.is_empty() => Ok(()),
            added => Ok(added.map(drop)?),
        }
    }

    fn hash(&self, path: &Path) -> Result<(Digest, u64), AddError> {
        let failed = |source| AddError::Read { path: path.to_owned(), source };
        let file = bounded::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut hasher = Hasher::new();
        let readers = Readers { here: Vec::new(), hashers: vec![&mut hasher] };
        fan_out(&file, size, readers, self.progress).map_err(|error| match error {
            PipeError::Read(source) | PipeError::Write(source) => failed(source),
        })?;
        Ok(hasher.finish())
    }

    /// What a refusal means to the user who asked for a model.
    fn explain(&self, error: RegistryError, address: &str, repo: Option<&str>) -> AddError {
        match (error, repo) {
            (error, Some(repo)) => self.hub.explain(HubError::Registry(error), repo, None).into(),
            (RegistryError::Unauthorized { host, .. }, None) => AddError::Login { address: address.to_owned(), host },
            (error, None) => error.into(),
        }
    }

    /// The cache has one downloaded file at a time, until the store has it.
    fn check_space(&self, files: &[&Candidate]) -> Result<(), AddError> {
        let all: u64 = files.iter().filter_map(|file| file.size).sum();
        let coming = files.iter().filter(|file| matches!(file.origin, FileOrigin::Web { .. }));
        let most = coming.filter_map(|file| {
            let part = file.digest.map(|digest| self.cache.join(format!("{}.part", digest.hex())));
            let there = part.and_then(|part| fs::metadata(part).ok()).map_or(0, |part| part.len());
            Some(file.size?.saturating_sub(there))
        });
        let at_once = most.max().unwrap_or(0);
        self.progress.expect(all);
        Ok(self.store.check_space(self.cache, all, at_once)?)
    }
}
