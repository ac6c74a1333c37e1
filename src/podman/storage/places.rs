//! Where Podman keeps its things. Podman itself says it: see [`Places::ask`].
//!
//! The rules by which it finds them differ between its versions, and between builds of one version; its database remembers
//! what it was first used with. So nothing is worked out here, and nothing is guessed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ask;
use super::memory::Memory;
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;

/// What of the caller's surroundings decides where Podman looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    /// Effective user; 0 is root, anybody else is *rootless*.
    pub(crate) uid: u32,
    /// The home directory.
    pub(crate) home: Option<PathBuf>,
    /// Environment variables.
    pub(crate) variables: BTreeMap<String, String>,
}

/// Places that were given by hand.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Instead of the graph root. As for `podman --root`, the additional image stores of `storage.conf` then do not
    /// count, and its driver does.
    pub root: Option<PathBuf>,
    /// Instead of the run root.
    pub runroot: Option<PathBuf>,
    /// Instead of the `storage.conf` that Podman would read, like `CONTAINERS_STORAGE_CONF`.
    pub storage_conf: Option<PathBuf>,
}

/// The folder for what windlass notes of a graph root. It lies in it because it speaks of what that graph root has.
#[must_use]
pub fn state_of(graph_root: &Path) -> PathBuf {
    graph_root.join("windlass")
}

/// Where one user's Podman keeps its things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Places {
    /// Images, layers and containers.
    pub graph_root: PathBuf,
    /// What does not outlive a reboot.
    pub run_root: PathBuf,
    /// Storage driver: `overlay`, `vfs`, …
    pub driver: String,
    /// Additional image stores, in Podman's order. A separate `imagestore`, which Podman 5 knows, comes first.
    pub image_stores: Vec<PathBuf>,
    /// That separate `imagestore`, where Podman puts images instead of the graph root.
    pub separate_store: Option<PathBuf>,
    /// Other options of the driver, by their names in `storage.conf`.
    pub driver_options: BTreeMap<String, String>,
    /// Where Podman puts layers while it loads.
    pub temporary: Option<PathBuf>,
    /// The main `storage.conf`, which Podman reads if it is there. By the new rules Podman does not say it: there may be many.
    pub conf: Option<PathBuf>,
    /// Whether this is not root's Podman.
    pub rootless: bool,
}

/// Why Podman does not say where it keeps its things.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PlacesError {
    /// There is no Podman.
    #[error("podman is not on PATH; install Podman 4.3 or newer, or add the directory that it is in")]
    NoPodman,
    /// The system could not run it.
    #[error("run {program}: {source}", program = program.display())]
    Start {
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It did not answer in time, and was ended.
    #[error(
        "{program} did not answer `podman info` within {seconds} seconds and was ended; see whether another podman is loading \
         an image, then run `podman info` by hand", program = program.display()
    )]
    Slow {
        program: PathBuf,
        /// How long it was given.
        seconds: u64,
    },
    /// It ended with an error: then most of its commands do.
    #[error("`podman info` fails: {said}; {next}")]
    Failed {
        /// What Podman said.
        said: String,
        /// What to do.
        next: String,
    },
    /// It printed something else.
    #[error(
        "{program} info printed '{said}', which does not say where its images are ({why}); put Podman 4.3 or newer first on PATH",
        program = program.display()
    )]
    Answer {
        program: PathBuf,
        /// How what it printed begins.
        said: String,
        /// What is missing.
        why: String,
    },
    /// It has no storage on this host.
    #[error("{program} is a client of a Podman elsewhere; put the Podman of this host first on PATH", program = program.display())]
    Remote { program: PathBuf },
    /// The job was stopped.
    #[error(transparent)]
    Stopped(io::Error),
}

impl Classified for PlacesError {
    fn class(&self) -> Class {
        match self {
            Self::Stopped(error) => error.class(),
            Self::NoPodman
            | Self::Start { .. }
            | Self::Slow { .. }
            | Self::Failed { .. }
            | Self::Answer { .. }
            | Self::Remote { .. } => Class::Environment,
        }
    }
}

impl Places {
    /// Whether this Podman goes by the new rules of storage.conf (Podman 6, and 5.8 as Debian builds it): what /etc says of
    /// stores and places counts for rootless users too. There it no longer says which main file it reads.
    #[must_use]
    pub(crate) const fn has_new_rules(&self) -> bool {
        self.conf.is_none()
    }

    /// The places of the caller's Podman: what it has answered before, while nothing has changed since, or else asked.
    ///
    /// # Errors
    /// See [`ask`](Self::ask).
    pub(crate) fn find(caller: &Caller, overrides: &Overrides, progress: &Progress) -> Result<Self, PlacesError> {
        match Self::remembered(caller, overrides) {
            Some(places) => Ok(places),
            None => Self::ask(caller, overrides, progress),
        }
    }

    /// What the caller's Podman has answered before, if nothing has changed since that the answer depends on. Starts no
    /// process.
    #[must_use]
    pub(crate) fn remembered(caller: &Caller, overrides: &Overrides) -> Option<Self> {
        Memory::of(caller, overrides)?.recall()
    }

    /// Asks the caller's Podman, and remembers what it says.
    ///
    /// # Errors
    /// If Podman does not answer, or not what was asked: with its own sentence, and what to do.
    pub(crate) fn ask(caller: &Caller, overrides: &Overrides, progress: &Progress) -> Result<Self, PlacesError> {
        // Looked at before: what changes while Podman answers makes it be asked again.
        let memory = Memory::of(caller, overrides);
        let answer = ask::ask(caller, overrides, progress);
        if let Some(memory) = memory {
            match &answer {
                Ok(places) => memory.keep(places),
                Err(_) => memory.forget(),
            }
        }
        answer
    }
}
