//! What loading would do: for each image, is it there, how would it be put there, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::Engine;
use super::generation::{Generation, GenerationEntry};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::disk::size::size;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::PlatformRecord;
use crate::names::Name;
use crate::oci::platform::Platform;

/// Why it cannot be decided how an image is loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecideError {
    /// The host is not set up for the way that was asked for.
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
    /// One that an engine could not read.
    #[error(transparent)]
    Unreadable(#[from] LayoutError),
    /// It would not fit; nothing was written.
    #[error(
        "loading needs {} in {}{}, and {} are free; nothing was changed",
        size(*needed),
        place.display(),
        meanwhile(*needed, *stays),
        size(*free)
    )]
    NoSpace {
        /// Where.
        place: PathBuf,
        /// Bytes that are needed at the fullest moment.
        needed: u64,
        /// Bytes of these that stay.
        stays: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A generation that cannot be gone back to. Nothing was changed.
    #[error("generation {number} is no longer whole, and nothing was changed: {}", missing.join("; "))]
    NotWhole {
        /// Its number.
        number: u64,
        /// Image by image, what is missing.
        missing: Vec<String>,
    },
}

/// What of the bytes that are needed is gone again afterwards.
fn meanwhile(needed: u64, stays: u64) -> String {
    if needed > stays { format!(" while it works ({} of them stay)", size(stays)) } else { String::new() }
}

impl Classified for DecideError {
    fn class(&self) -> Class {
        match self {
            Self::SameName { .. } => Class::Usage,
            Self::Unreadable(_) => Class::Unverified,
            Self::NotReady(_) => Class::Environment,
            Self::NoSpace { .. } => Class::NoSpace,
            Self::Platform { .. } | Self::NotWhole { .. } => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSpace { .. } => Some("`windlass gc` says what it would free".to_owned()),
            _ => None,
        }
    }
}

/// Which way images are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LoadVia {
    /// Linked where the host is set up for it, else by the engine.
    #[default]
    Auto,
    /// Linked, or not at all.
    Store,
    /// By the engine itself.
    Podman,
}

/// How one image is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMethod {
    /// It is there.
    Present,
    /// It is there, but its names lead elsewhere.
    Name,
    /// By links to what it is made from.
    Link,
    /// By the engine itself, which writes its layers.
    Pull,
}

/// Why one image is loaded, or not: exactly one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadReason {
    /// It is there.
    Present,
    /// No generation has an image of this name.
    FirstTime,
    /// The current generation has another one.
    VersionChanged,
    /// The current generation has this one, and the engine has it no more.
    CacheCleared,
    /// The engine's record of it promises more than there is.
    Damaged(String),
    /// It is there, and was asked for anyway.
    Forced,
    /// It is there, and its name led to something else.
    NameMoved,
}

/// An image that is to be loaded.
#[derive(Debug, Clone)]
pub struct LoadTarget {
    /// Its directory.
    pub image: ImageDir,
    /// What it is called in its stack.
    pub name: Name,
    /// What it came with.
    pub origins: BTreeSet<String>,
}

impl LoadTarget {
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

/// Why bytes are copied that could be links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CopyCause {
    /// It is not in the Nix store.
    NotInStore,
    /// Something has changed the mode or the time that Nix gave it.
    Changed,
    /// It has another mode in the image.
    OtherMode,
    /// It has another owner in the image.
    OtherOwner,
    /// It is on another file system than the store of the engine.
    OtherFileSystem,
    /// It has as many links as its file system allows.
    TooManyLinks,
    /// The file system or the kernel refuses the link.
    Refused,
    /// It is a layer that was not made here, and is unpacked.
    Unpacked,
    /// It is kept as an archive, on a file system whose files share no data with those of the Nix store.
    Blob,
    /// The engine unpacks it.
    Snapshot,
}

impl std::fmt::Display for CopyCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotInStore => "not in the Nix store",
            Self::Changed => "modes or times in the Nix store were changed",
            Self::OtherMode => "another mode in the image",
            Self::OtherOwner => "another owner in the image",
            Self::OtherFileSystem => "the Nix store is on another file system",
            Self::TooManyLinks => "too many links",
            Self::Refused => "links are refused there",
            Self::Unpacked => "unpacked from layers that were not made here",
            Self::Blob => "kept as archives",
            Self::Snapshot => "unpacked by the engine",
        })
    }
}

/// Bytes that are copied into a store of links, in whole blocks, by why.
pub(crate) type CopiedBytes = BTreeMap<CopyCause, u64>;

/// How an image would be put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadWay {
    /// How.
    pub how: LoadMethod,
    /// The store that it would be in.
    pub store: PathBuf,
    /// Bytes that this host would write, and that stay.
    pub to_write: u64,
    /// What is copied of a linked image, and why.
    pub copies: CopiedBytes,
    /// How many of the written bytes are of lower layers, which the engine's driver copies into each layer above them.
    pub repeated: u64,
    /// Bytes that are needed at the fullest moment, with those that stay.
    pub peak: u64,
    /// Why it cannot be linked, where a linked store is there.
    pub unlinkable: Option<String>,
}

impl LoadWay {
    /// One that writes these bytes, and nothing beside them.
    #[must_use]
    pub const fn new(how: LoadMethod, store: PathBuf, to_write: u64) -> Self {
        Self { how, store, to_write, copies: CopiedBytes::new(), repeated: 0, peak: to_write, unlinkable: None }
    }
}

/// What will be done for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadStep {
    /// The image.
    pub entry: GenerationEntry,
    /// How it is loaded.
    pub how: LoadMethod,
    /// Why.
    pub reason: LoadReason,
    /// The store it is in, or will be.
    pub(crate) store: PathBuf,
    /// Bytes that this host will write, and that stay.
    pub to_write: u64,
    /// What is copied of a linked image, and why.
    pub copies: CopiedBytes,
    /// How many of the written bytes are of lower layers, which the engine's driver copies into each layer above them.
    pub repeated: u64,
    /// Bytes that are needed at the fullest moment, with those that stay.
    pub peak: u64,
    /// Why it cannot be linked, where a linked store is there.
    pub unlinkable: Option<String>,
}

/// What a load needs at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) place: PathBuf,
    /// Bytes that are needed at the fullest moment.
    pub(crate) needed: u64,
    /// Bytes of these that stay.
    pub(crate) stays: u64,
    /// Bytes that are free.
    pub(crate) free: u64,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Which way.
    pub(crate) via: LoadVia,
    /// Also what is there.
    pub(crate) force: bool,
    /// Only some images of their stacks were asked for: the others stay as they are.
    pub(crate) partial: bool,
}

/// What an engine has of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// All of it, in this store.
    Present {
        /// The store.
        store: PathBuf,
        /// Whether the image's name and tag lead to it.
        named: bool,
    },
    /// A record of it, but not all that the record names.
    Damaged {
        /// The store.
        store: PathBuf,
        /// What is missing.
        why: String,
    },
    /// Nothing.
    Missing,
}

/// What an engine says of a target before it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetState {
    /// What is there.
    pub presence: Presence,
    /// How it would be put there.
    pub way: LoadWay,
}

/// What loading these would do. Changes nothing.
///
/// # Errors
/// If two of them could not be told apart, one is not for this host, or the engine cannot say.
pub fn plan<E: Engine>(
    engine: &E,
    targets: &[LoadTarget],
    options: LoadOptions,
    progress: &Progress,
) -> Result<Vec<LoadStep>, E::Error> {
    check(targets)?;
    let looks = engine.look(targets, options, progress)?;
    let current = engine.generations().current()?;
    let step = |(target, look): (&LoadTarget, TargetState)| {
        let entry = GenerationEntry::new(&target.image, target.platform()?, &target.name, &target.origins);
        let LoadWay { how: missing, store, .. } = look.way.clone();
        let (reason, how, store) = match look.presence {
            Presence::Present { .. } if options.force => (LoadReason::Forced, missing, store),
            Presence::Present { store, named: true } => (LoadReason::Present, LoadMethod::Present, store),
            Presence::Present { store, named: false } => (LoadReason::NameMoved, LoadMethod::Name, store),
            Presence::Damaged { why, .. } => (LoadReason::Damaged(why), missing, store),
            Presence::Missing => (why_missing(&entry, current.as_ref()), missing, store),
        };
        let is_there = matches!(how, LoadMethod::Present | LoadMethod::Name);
        let way = if is_there { LoadWay::new(how, store.clone(), 0) } else { look.way };
        let LoadWay { to_write, copies, repeated, peak, unlinkable, .. } = way;
        Ok(LoadStep { entry, how, reason, store, to_write, copies, repeated, peak, unlinkable })
    };
    targets.iter().zip(looks).map(step).collect()
}

/// Refuses images that no engine could read, and two that only one name is for.
fn check(targets: &[LoadTarget]) -> Result<(), DecideError> {
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
    Ok(())
}

fn why_missing(entry: &GenerationEntry, current: Option<&Generation>) -> LoadReason {
    let old = current.into_iter().flat_map(|current| &current.entries);
    let mut old = old.filter(|old| old.kind == entry.kind && old.repository == entry.repository);
    match old.next() {
        None => LoadReason::FirstTime,
        Some(old) if old.manifest_digest == entry.manifest_digest => LoadReason::CacheCleared,
        Some(_) => LoadReason::VersionChanged,
    }
}
