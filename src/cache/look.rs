//! How one image of a project stands: its key, the entry that has it, and whether Podman has its image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::bases::{BaseImage, BaseSource, BaseSources};
use super::containerfile::Containerfile;
use super::context::{ContextPlace, SeenContext, rules_of};
use super::definition::{CacheProject, CachedImage};
use super::entries::{self, CacheEntry, EntryPresence};
use super::key::{self, BuildInputs, InputChange};
use super::{CacheError, store, wrong};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::names::Name;
use crate::oci::digest::Digest;
use crate::podman::storage::snapshot::StoreSnapshot;
use crate::upstream::lock::UpstreamLock;

/// What an image is looked at with.
#[derive(Debug)]
pub(crate) struct CacheEyes<'a> {
    pub(crate) project: &'a CacheProject,
    pub(crate) snapshot: &'a StoreSnapshot,
    pub(crate) lock: Option<&'a UpstreamLock>,
    /// Where notes about contexts are kept.
    pub(crate) notes: Option<&'a Path>,
    pub(crate) progress: &'a Progress,
}

/// What was seen of one image.
#[derive(Debug)]
pub(crate) struct CacheLook {
    pub(crate) inputs: BuildInputs,
    pub(crate) key: Digest,
    pub(crate) bases: Vec<BaseImage>,
    /// Images in the place of other contexts.
    pub(crate) context_images: BTreeMap<String, BaseImage>,
    /// The entry with this key.
    pub(crate) entry: Option<CacheEntry>,
    pub(crate) presence: EntryPresence,
    /// All entries, the newest first.
    pub(crate) entries: Vec<CacheEntry>,
    /// What looks like an entry and cannot be read.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
    /// The rules for the build.
    pub(crate) rules: String,
    pub(crate) containerfile: Containerfile,
    /// Weights in the context.
    pub(crate) weights: Vec<(String, u64)>,
    pub(crate) files: usize,
    pub(crate) size: u64,
    pub(crate) read: usize,
}

impl CacheEyes<'_> {
    /// Looks at one image. Starts no process.
    pub(crate) fn look(&self, name: &Name, image: &CachedImage) -> Result<CacheLook, CacheError> {
        let Self { project, snapshot, progress, .. } = self;
        let (entries, unreadable) = entries::of(&project.folder(), name)?;
        let path = project.root.join(&image.containerfile);
        let text = bounded::read(&path, Cap::Settings).map_err(|error| wrong(&path, error.to_string()))?;
        let platform = image.platform();
        let others: BTreeSet<String> = image.contexts.keys().cloned().collect();
        let parsed = std::str::from_utf8(&text).map_err(|_| "it is no UTF-8".to_owned());
        let parsed = parsed.and_then(|text| Containerfile::parse(text, &image.arguments, &others, &platform));
        let containerfile = parsed.map_err(|message| wrong(&path, message))?;
        let seen = self.context(&path, image)?;

        let mut sources =
            BaseSources { lock: self.lock, snapshot, recorded: BTreeMap::new(), platform: platform.clone() };
        let in_contexts =
            image.contexts.iter().filter_map(|(context, place)| Some((context, place.split_once("://")?.1)));
        let names = containerfile.images.iter().map(String::as_str).chain(in_contexts.clone().map(|(_, name)| name));
        if names.into_iter().any(|name| sources.find(name).source == BaseSource::Unknown)
            && let Some(inputs) = entries.first().and_then(|entry| entry.inputs().ok())
        {
            let digest = |(context, name): (&String, &str)| Some((name.to_owned(), *inputs.contexts.get(context)?));
            sources.recorded = in_contexts.filter_map(digest).collect();
            sources.recorded.extend(inputs.bases.clone());
        }
        let bases: Vec<BaseImage> = containerfile.images.iter().map(|name| sources.find(name)).collect();
        let (mut contexts, mut context_images) = (BTreeMap::new(), BTreeMap::new());
        for (context, place) in &image.contexts {
            if let Some((_, reference)) = place.split_once("://") {
                let base = sources.find(reference);
                contexts.extend(base.digest.map(|digest| (context.clone(), digest)));
                context_images.insert(context.clone(), base);
            } else {
                let folder = self.folder(Path::new(place))?;
                let place =
                    ContextPlace { folder: &folder, rules: None, rules_file: None, never: &[], notes: self.notes };
                contexts.insert(context.clone(), store::digest_of(&place.look(progress)?.files));
            }
        }
        let named = bases.iter().filter_map(|base| Some((base.name.clone(), base.digest?)));
        let inputs = BuildInputs {
            version: key::VERSION,
            containerfile: Digest::of(&text),
            target: image.target.clone(),
            platform,
            image: image.reference(name).map_err(|message| wrong(&project.path, message))?,
            timestamp: image.timestamp(),
            arguments: image.arguments.clone(),
            bases: named.collect(),
            contexts,
            secrets: image.secrets.keys().cloned().collect(),
            context: seen.files,
        };
        let key = inputs.key();
        let entry = entries.iter().find(|entry| entry.facts.key == key).cloned();
        let presence = entry.as_ref().map_or(EntryPresence::Missing, |entry| entry.presence(snapshot));
        Ok(CacheLook {
            files: inputs.context.len(),
            inputs,
            key,
            bases,
            context_images,
            entry,
            presence,
            entries,
            unreadable,
            rules: seen.rules,
            containerfile,
            weights: seen.weights,
            size: seen.size,
            read: seen.read,
        })
    }

    fn context(&self, containerfile: &Path, image: &CachedImage) -> Result<SeenContext, CacheError> {
        let folder = self.folder(&image.context)?;
        let (rules, rules_file) = rules_of(&folder, containerfile)?;
        let never = [self.project.path.clone(), self.project.folder()];
        let rules_file = rules_file.as_deref();
        let place = ContextPlace { folder: &folder, rules: Some(&rules), rules_file, never: &never, notes: self.notes };
        place.look(self.progress)
    }

    /// A folder of the project, without links in its path.
    fn folder(&self, relative: &Path) -> Result<PathBuf, CacheError> {
        let path = self.project.root.join(relative);
        std::fs::canonicalize(&path).map_err(|error| wrong(&path, error.to_string()))
    }
}

impl CacheLook {
    /// What is not as it was when the image that is loaded, or else the newest, was built. Nothing for a hit, or without entries.
    pub(crate) fn changes(&self, snapshot: &StoreSnapshot) -> Result<Vec<InputChange>, CacheError> {
        if self.entry.is_some() {
            return Ok(Vec::new());
        }
        let loaded = self.entries.iter().find(|entry| entry.presence(snapshot) == EntryPresence::Present);
        match loaded.or(self.entries.first()) {
            Some(entry) => Ok(key::changes(&entry.inputs()?, &self.inputs)),
            None => Ok(Vec::new()),
        }
    }

    /// The base images by Podman's IDs, as a build is given them.
    ///
    /// # Errors
    /// With those that are not there.
    pub(crate) fn pinned(&self) -> Result<Vec<(String, String)>, CacheError> {
        let named = self.bases.iter().map(|base| (&base.name, base)).chain(&self.context_images);
        let (mut pinned, mut missing, mut next) = (Vec::new(), Vec::new(), None);
        for (name, base) in named {
            match &base.id {
                Some(id) => pinned.push((name.clone(), id.clone())),
                None => {
                    missing.push(base.name.clone());
                    next.get_or_insert_with(|| base.pull());
                }
            }
        }
        match next {
            Some(next) => Err(CacheError::NoBase { missing, next }),
            None => Ok(pinned),
        }
    }
}
