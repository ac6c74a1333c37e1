//! What loading would do: for each image, is it there, can it be linked, or must Podman unpack it, and why.
//!
//! Records are read, and nothing else: no process is started and no byte of a layer is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::engine::Engine;
use super::generations::{Entry, GenerationError, Generations};
use super::image_store;
use super::linked::{DRIVER, LinkedStore};
use super::places::Places;
use super::records::RecordsError;
use super::survey::{Presence, Survey};
use crate::digest::Digest;
use crate::image::chain_ids;
use crate::layout::{ImageDir, LayoutError, PlatformRecord};
use crate::names::Name;
use crate::nix_store::NixPlaces;
use crate::platform::Platform;
use crate::progress::Progress;

/// Why nobody can say how an image is loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecideError {
    /// There is no linked store, and one was asked for.
    #[error("{0}")]
    NotReady(String),
    /// No image for this host.
    #[error("{reference} is for {has}, and this host is {host}; build it for {host}")]
    Platform {
        /// The image.
        reference: String,
        /// What it is for.
        has: String,
        /// What this host is.
        host: Platform,
    },
    /// Only one of them could have the name.
    #[error("{one} and {two} are both {reference}, and not the same image; load one of them", one = one.display(), two = two.display())]
    SameName {
        /// The name and tag.
        reference: String,
        /// One image directory.
        one: PathBuf,
        /// The other.
        two: PathBuf,
    },
    /// One that Podman could not read.
    #[error("{0}")]
    Unreadable(#[from] LayoutError),
    /// Records of a store.
    #[error("{0}")]
    Records(#[from] RecordsError),
    /// The generations.
    #[error("{0}")]
    Generations(#[from] GenerationError),
}

/// Which way images are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Via {
    /// Linked where the host is set up for it, else through Podman.
    #[default]
    Auto,
    /// Linked, or not at all.
    Store,
    /// Through Podman.
    Podman,
}

/// How one image is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is there.
    Present,
    /// It is there, but its names lead elsewhere.
    Name,
    /// Into the linked store.
    Link,
    /// Through Podman.
    Pull,
}

/// Why one image is loaded, or not: exactly one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is there.
    Present,
    /// No generation has an image of this name.
    FirstTime,
    /// The current generation has another one.
    VersionChanged,
    /// The current generation has this one, and Podman has it no more.
    CacheCleared,
    /// Podman's record of it promises more than there is.
    Damaged(String),
    /// It is there, and was asked for anyway.
    Forced,
    /// It is there, and its name led to something else.
    NameMoved,
}

/// An image that is to be loaded.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its directory.
    pub image: ImageDir,
    /// What it is called in its stack.
    pub name: Name,
    /// What it came with.
    pub origins: BTreeSet<String>,
}

impl Target {
    /// The platform of this host.
    ///
    /// # Errors
    /// If the image has none.
    pub fn platform(&self) -> Result<&PlatformRecord, DecideError> {
        let host = Platform::default();
        let summary = self.image.summary();
        let runs = |platform: &&PlatformRecord| platform.platform.runs_on(&host);
        summary.platforms.iter().find(runs).ok_or_else(|| DecideError::Platform {
            reference: summary.reference.to_string(),
            has: summary.platforms.iter().map(|platform| platform.platform.to_string()).collect::<Vec<_>>().join(", "),
            host,
        })
    }
}

/// What will be done for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The image.
    pub entry: Entry,
    /// How it is loaded.
    pub how: How,
    /// Why.
    pub reason: Reason,
    /// The store it is in, or will be.
    pub store: PathBuf,
    /// Bytes of layers that this host will write.
    pub to_write: u64,
}

/// A Podman to load into.
#[derive(Debug)]
pub struct Host {
    /// Where it keeps its things.
    pub places: Places,
    /// How it is called.
    pub engine: Engine,
    /// The linked store, where the host is set up for it.
    pub linked: Option<LinkedStore>,
    /// Where Nix keeps its things.
    pub nix: NixPlaces,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Which way.
    pub via: Via,
    /// Also what is there.
    pub force: bool,
    /// Only some images of their stacks were asked for: the others stay as they are.
    pub partial: bool,
}

impl Host {
    /// The linked store of a Podman: the first of its additional image stores that is ours and can be written to, or the
    /// one at `given`, if Podman reads that.
    #[must_use]
    pub fn find_linked(places: &Places, given: Option<&Path>) -> Option<LinkedStore> {
        if places.driver != DRIVER {
            return None;
        }
        let canonical = |path: &Path| std::fs::canonicalize(path).ok();
        let wanted = |path: &&PathBuf| {
            given.is_none_or(|given| canonical(given).is_some_and(|given| canonical(path) == Some(given)))
        };
        places.image_stores.iter().filter(wanted).find_map(|path| LinkedStore::open(path))
    }

    /// What loading these would do. Reads records, and nothing else.
    ///
    /// # Errors
    /// See [`DecideError`].
    pub fn plan(&self, targets: &[Target], options: Options, progress: &Progress) -> Result<Vec<Step>, DecideError> {
        targets.iter().try_for_each(|target| target.image.check_readable())?;
        let mut named: BTreeMap<&str, &ImageDir> = BTreeMap::new();
        for image in targets.iter().map(|target| &target.image) {
            let reference = &image.summary().reference;
            let other = named.insert(reference, image).filter(|other| other.summary().digest != image.summary().digest);
            if let Some(other) = other {
                let [one, two] = [other, image].map(|image| image.path().to_owned());
                return Err(DecideError::SameName { reference: reference.to_string(), one, two });
            }
        }
        let survey = Survey::read(&self.places, progress)?;
        let current = Generations::of(&self.places.graph_root).current()?;
        let linked = match options.via {
            Via::Podman => None,
            Via::Auto => self.linked.as_ref(),
            Via::Store => Some(self.linked.as_ref().ok_or_else(|| self.not_ready())?),
        };
        // A layer that an earlier image of the list brings is written once.
        let mut known: Vec<String> = survey.stores.iter().flat_map(|store| store.layers.keys().cloned()).collect();
        known.sort();
        let in_store = survey.stores.iter().find(|records| linked.is_some_and(|store| store.path() == records.store));
        let mut unpacked: BTreeSet<Digest> =
            in_store.iter().flat_map(|records| records.layers.values()).filter_map(|layer| layer.diff_digest).collect();
        let step = |target: &Target| {
            let platform = target.platform()?;
            let summary = target.image.summary();
            let entry = Entry::new(&target.image, platform, &target.name, &target.origins);
            let missing = match linked {
                Some(store) => (How::Link, store.path().to_owned()),
                None => (How::Pull, self.places.graph_root.clone()),
            };
            let (reason, (how, store)) = match survey.presence(summary, platform) {
                Presence::Present { .. } if options.force => (Reason::Forced, missing),
                Presence::Present { store, named: true } => (Reason::Present, (How::Present, store)),
                Presence::Present { store, named: false } => (Reason::NameMoved, (How::Name, store)),
                Presence::Damaged { why, .. } => (Reason::Damaged(why), missing),
                Presence::Missing => {
                    let old = current.iter().flat_map(|current| &current.entries);
                    let mut old = old.filter(|old| old.kind == entry.kind && old.repository == entry.repository);
                    let reason = match old.next() {
                        None => Reason::FirstTime,
                        Some(old) if old.manifest_digest == entry.manifest_digest => Reason::CacheCleared,
                        Some(_) => Reason::VersionChanged,
                    };
                    (reason, missing)
                }
            };
            let mut to_write = 0;
            for (layer, chain) in platform.layers.iter().zip(chain_ids(&platform.layers)) {
                let chain = chain.hex();
                if let Err(at) = known.binary_search(&chain) {
                    known.insert(at, chain);
                    // What is unpacked is linked only where the same archive has been unpacked over other layers.
                    let made = target.image.image().recipes.get(&layer.digest);
                    let is_unpacked = made.is_some_and(|made| made.recipe.blob().is_some());
                    let is_linked = how == How::Link
                        && if is_unpacked {
                            unpacked.contains(&layer.diff_id())
                        } else {
                            self.links(&store, &layer.owners)
                        };
                    unpacked.extend(is_unpacked.then(|| layer.diff_id()));
                    to_write += if is_linked { 0 } else { layer.diff_size() };
                }
            }
            if matches!(how, How::Present | How::Name) {
                to_write = 0;
            }
            Ok(Step { entry, how, reason, store, to_write })
        };
        targets.iter().map(step).collect()
    }

    fn not_ready(&self) -> DecideError {
        let refused = self.places.image_stores.iter().filter(|store| LinkedStore::is_at(store));
        let refused = refused.filter_map(|store| image_store::claim(store).err()).next();
        let named = if let Some(error) = refused.filter(|_| self.places.driver == DRIVER) {
            error.to_string()
        } else if self.places.driver == DRIVER {
            "Podman reads no additional image store of windlass that this user can write to".to_owned()
        } else {
            format!("the storage driver is '{}', and only overlay can have one", self.places.driver)
        };
        DecideError::NotReady(format!("there is no linked store: {named}; `windlass doctor` says what to do"))
    }

    /// Whether what a layer is made from can be linked into a store: it is in the Nix store, on the same file system.
    fn links(&self, store: &Path, owners: &[String]) -> bool {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| std::fs::symlink_metadata(path).map(|metadata| metadata.dev()).ok();
        let there = device(store);
        owners.iter().map(Path::new).all(|owner| owner.starts_with(&self.nix.store) && device(owner) == there)
    }
}
