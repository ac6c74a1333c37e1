//! The container engines that windlass knows, and how people call them.

use std::fmt;

/// A container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Podman.
    Podman,
    /// Docker, with either of its image stores.
    Docker,
    /// containerd, as `ctr`, `nerdctl` and the kubelet use it.
    Containerd,
    /// The containerd of k3s.
    K3s,
    /// CRI-O, whose images lie in a store like Podman's.
    Crio,
}

impl EngineKind {
    /// What is typed for it, and what its folder is called.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::K3s => "k3s",
            Self::Crio => "crio",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Podman => "Podman",
            Self::Docker => "Docker",
            Self::Containerd => "containerd",
            Self::K3s => "k3s",
            Self::Crio => "CRI-O",
        })
    }
}
