//! Fetching the blobs of a lock into the Nix store: as the user, with the user's logins, each blob once, resumed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Registries;
use super::document::DocumentError;
use super::lock::{LockedImage, UpstreamLock, UpstreamSource};
use super::nix::{BlobStore, BlobWriter, store_name};
use super::place::{BlobPlace, ParsePlaceError, PlaceError, WantedBlob, take_first};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::disk::size::size;
use crate::disk::{AtPath, WriteError};
use crate::names::no_such;
use crate::nix::store::NixError;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;

/// Why nothing can be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FetchError {
    /// An image that is not in the lock.
    #[error("{}", no_such("image", .name, " in the lock", .there))]
    NoImage {
        /// What was asked for.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
    /// An image that is not looked up yet.
    #[error("image '{0}' was not looked up yet; do that with: windlass upstream update --image {0}")]
    Pending(String),
    /// A platform that no image has.
    #[error("no image that was asked for is locked for {0}; `windlass upstream list` says what is")]
    NoPlatform(Platform),
    /// A manifest of the lock.
    #[error("image '{name}': {source}")]
    Document { name: String, source: DocumentError },
    /// A mirror of the lock, or a repository.
    #[error("image '{name}': {source}")]
    Place { name: String, source: ParsePlaceError },
    #[error(transparent)]
    Nix(#[from] NixError),
    /// The cache.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for FetchError {
    fn class(&self) -> Class {
        match self {
            Self::Document { source, .. } => source.class(),
            Self::Place { source, .. } => source.class(),
            Self::Nix(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::NoImage { .. } | Self::NoPlatform(_) => Class::Usage,
            Self::Pending(_) => Class::Failed,
        }
    }
}

/// A blob, and where it may be had.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The blob.
    pub(crate) wanted: WantedBlob,
    /// The images that need it.
    pub(crate) images: BTreeSet<String>,
    /// Where it may be had: mirrors first.
    pub(crate) places: Vec<BlobPlace>,
    /// Whether registries on this machine speak plain HTTP.
    pub(crate) insecure: bool,
}

/// What to look at of a lock: everything where nothing is named.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Selection<'a> {
    /// Images by name.
    pub(crate) images: &'a [String],
    /// Platforms.
    pub(crate) platforms: &'a [Platform],
}

impl Selection<'_> {
    /// The images that are meant, with their names. Those that were not looked up yet are left out unless they are named.
    ///
    /// # Errors
    /// If one is not there, or was not looked up yet.
    pub(crate) fn images<'l>(&self, lock: &'l UpstreamLock) -> Result<Vec<(&'l str, &'l LockedImage)>, FetchError> {
        for name in self.images {
            match lock.images.get(name) {
                None => {
                    let there = lock.images.keys().cloned().collect();
                    return Err(FetchError::NoImage { name: name.clone(), there });
                }
                Some(image) if image.locked.is_none() => return Err(FetchError::Pending(name.clone())),
                Some(_) => {}
            }
        }
        let meant = |name: &&String| self.images.is_empty() || self.images.contains(name);
        let images = lock.images.iter().filter(|(name, image)| meant(name) && image.locked.is_some());
        Ok(images.map(|(name, image)| (name.as_str(), image)).collect())
    }

    fn has(&self, platform: &Platform) -> bool {
        self.platforms.is_empty() || self.platforms.contains(platform)
    }
}

/// Where the blobs of an image may be had: its mirror if that is its source, then upstream.
///
/// # Errors
/// If one of the two is not a place.
pub(crate) fn places(name: &str, image: &LockedImage) -> Result<Vec<BlobPlace>, FetchError> {
    let parse =
        |text: &str| text.parse::<BlobPlace>().map_err(|source| FetchError::Place { name: name.to_owned(), source });
    let mirror = image.mirror.as_deref().filter(|_| image.source == UpstreamSource::Mirror);
    let upstream = image.locked.as_ref().map(|locked| format!("docker://{}/{}", locked.registry, locked.repository));
    mirror.map(parse).into_iter().chain(upstream.as_deref().map(parse)).collect()
}

/// Every blob that a selection needs, once.
///
/// # Errors
/// See [`FetchError`].
pub(crate) fn jobs(lock: &UpstreamLock, selection: Selection<'_>) -> Result<BTreeMap<Digest, Job>, FetchError> {
    let mut jobs: BTreeMap<Digest, Job> = BTreeMap::new();
    let images = selection.images(lock)?;
    let has = |platform: &&Platform| {
        let mut locked = images.iter().filter_map(|(_, image)| image.locked.as_ref());
        locked.any(|locked| locked.platforms.contains_key(platform))
    };
    if let Some(platform) = selection.platforms.iter().find(|platform| !has(platform)) {
        return Err(FetchError::NoPlatform(platform.clone()));
    }
    for (name, image) in images {
        let here = places(name, image)?;
        let Some(locked) = &image.locked else { continue };
        let platforms: Vec<_> = locked.platforms.iter().filter(|(platform, _)| selection.has(platform)).collect();
        let mut wanted = Vec::new();
        for (_, platform) in &platforms {
            let document = |source| FetchError::Document { name: name.to_owned(), source };
            let manifest = platform.read().map_err(document)?;
            wanted.extend(manifest.blobs().map(|blob| WantedBlob { digest: blob.digest, size: blob.size }));
        }
        let is_wanted = |subject: Digest| {
            subject == locked.root.digest || platforms.iter().any(|(_, entry)| entry.manifest.digest == subject)
        };
        let bills = locked.sboms.iter().filter(|bill| is_wanted(bill.subject));
        wanted.extend(bills.map(|bill| WantedBlob { digest: bill.digest, size: bill.size }));
        for wanted in wanted {
            let new = || Job { wanted, images: BTreeSet::new(), places: Vec::new(), insecure: false };
            let job = jobs.entry(wanted.digest).or_insert_with(new);
            job.images.insert(name.to_owned());
            job.insecure |= image.insecure;
            job.places.extend(here.iter().filter(|place| !job.places.contains(place)).cloned().collect::<Vec<_>>());
        }
    }
    Ok(jobs)
}

/// What a run is about: the store, and the folders of its own.
#[derive(Debug)]
pub(crate) struct Fetcher<'a> {
    /// How to talk to registries.
    pub(crate) registries: &'a Registries,
    /// Where blobs go.
    pub(crate) store: &'a BlobStore,
    /// Where they are until they are complete.
    pub(crate) cache: &'a Path,
    /// Where the links are that keep them.
    pub(crate) roots: &'a Path,
    /// How many are fetched at a time.
    pub(crate) parallel: usize,
    /// Counts.
    pub(crate) progress: &'a Progress,
}

/// What became of one blob that could not be fetched.
#[derive(Debug)]
pub(crate) struct BlobFailure {
    /// The blob.
    pub(crate) digest: Digest,
    /// The images that need it.
    pub(crate) images: BTreeSet<String>,
    /// Why not.
    pub(crate) cause: FetchCause,
}

/// Why a blob is not in the store.
#[derive(Debug)]
pub(crate) enum FetchCause {
    /// No place gave it.
    Places(Vec<(BlobPlace, PlaceError)>),
    /// Nix did not take it.
    Nix(NixError),
}

/// What a run did.
#[derive(Debug, Default)]
pub(crate) struct FetchOutcome {
    /// The blobs that are in the store now.
    pub(crate) fetched: BTreeSet<Digest>,
    /// Bytes over the network.
    pub(crate) network: u64,
    /// The others.
    pub(crate) failures: Vec<BlobFailure>,
}

impl Fetcher<'_> {
    /// Fetches these blobs, which the store does not have, and goes on past what fails.
    ///
    /// # Errors
    /// If there is no room, or a signal came.
    pub(crate) fn run(&self, mut jobs: Vec<Job>) -> Result<FetchOutcome, FetchError> {
        fs::create_dir_all(self.cache).at("create", self.cache)?;
        self.store.set_up()?;
        self.check_space(&jobs)?;
        self.progress.expect(jobs.iter().map(|job| job.wanted.size).sum());
        // The largest first: the last one to end should be a small one.
        jobs.sort_by_key(|job| (job.wanted.size, job.wanted.digest));
        let (queue, outcome) = (Mutex::new(jobs), Mutex::new(FetchOutcome::default()));
        // Not in the head of the loop, where the lock would be held for as long as the job takes.
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            let mut writer = BlobWriter::new(self.store);
            while let Some(job) = next() {
                let result = self.fetch(&job, &mut writer);
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(network) => {
                        outcome.network += network;
                        outcome.fetched.insert(job.wanted.digest);
                    }
                    Err(cause) => {
                        outcome.failures.push(BlobFailure { digest: job.wanted.digest, images: job.images, cause });
                    }
                }
                if self.progress.check().is_err() {
                    break;
                }
            }
        };
        std::thread::scope(|scope| (0..self.parallel.max(1)).for_each(|_| drop(scope.spawn(work))));
        self.progress.check().at("fetch to", self.cache)?;
        let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome.failures.sort_by_key(|failure| failure.digest);
        Ok(outcome)
    }

    fn fetch(&self, job: &Job, writer: &mut BlobWriter<'_>) -> Result<u64, FetchCause> {
        let digest = job.wanted.digest;
        let file = self.cache.join(store_name(digest));
        let network = take_first(&job.places, self.registries, job.insecure, job.wanted, &file, self.progress);
        let network = network.map_err(FetchCause::Places)?;
        let step = self.progress.step(format!("Nix adds {} ({})", digest.short(), size(job.wanted.size)));
        writer.add(digest, &file, self.progress).map_err(FetchCause::Nix)?;
        drop(step);
        // From now on the store has it; a link that fails is told, and the next run tries again.
        drop(fs::remove_file(&file));
        self.store.keep(digest, self.roots).map_err(FetchCause::Nix)?;
        Ok(network)
    }

    /// Each blob is in the cache until the store has it.
    fn check_space(&self, jobs: &[Job]) -> Result<(), FetchError> {
        let all: u64 = jobs.iter().map(|job| job.wanted.size).sum();
        let mut sizes: Vec<u64> = jobs.iter().map(|job| job.wanted.size).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let at_once: u64 = sizes.iter().take(self.parallel.max(1)).sum();
        Ok(self.store.check_space(self.cache, all, at_once)?)
    }
}
