//! Where Podman keeps its things: `storage.conf`, the variables that change it, and the rules for rootless users.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What of the caller's surroundings decides where Podman looks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Effective user; 0 is root, anybody else is *rootless*.
    pub uid: u32,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
}

/// Places that were given by hand.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Instead of the graph root.
    pub root: Option<PathBuf>,
    /// Instead of the run root.
    pub runroot: Option<PathBuf>,
    /// Instead of the `storage.conf` that Podman would read.
    pub storage_conf: Option<PathBuf>,
}

/// Where one user's Podman keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Images, layers and containers.
    pub graph_root: PathBuf,
    /// What does not outlive a reboot.
    pub run_root: PathBuf,
    /// Storage driver: `overlay`, `vfs`, …
    pub driver: String,
    /// Additional image stores, in Podman's order.
    pub image_stores: Vec<PathBuf>,
    /// The `storage.conf` that was read; `None` where there is none.
    pub conf: Option<PathBuf>,
    /// Whether this is not root's Podman.
    pub rootless: bool,
}
