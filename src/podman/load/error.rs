//! Why images are not in Podman.

use std::sync::Arc;

use super::pull::PullError;
use crate::class::{Class, Classified};
use crate::disk::WriteError;
use crate::engine::generations::GenerationError;
use crate::engine::kind::EngineKind;
use crate::engine::process::ProgramError;
use crate::engine::target::DecideError;
use crate::podman::linked::link_images::LinkError;
use crate::podman::storage::records::RecordsError;

/// Why images are not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LoadError {
    /// There is no way to load them.
    #[error(transparent)]
    Decide(#[from] DecideError),
    /// Records of a store.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The generations.
    #[error(transparent)]
    Generations(#[from] GenerationError),
    /// The linked store.
    #[error(transparent)]
    Link(Arc<LinkError>),
    /// Podman.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// Podman, asked for what was loaded.
    #[error(transparent)]
    Engine(#[from] ProgramError),
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Podman does not let go of what a container uses, and would prefer it to what is loaded.
    #[error("{reference} cannot be loaded anew while container {container} uses it")]
    InUse {
        /// The engine.
        engine: EngineKind,
        reference: String,
        /// A container of it.
        container: String,
    },
    /// Podman does not have what was loaded.
    #[error("{reference} was loaded and taken away again, because {engine} {found}")]
    NotThere {
        /// The engine.
        engine: EngineKind,
        reference: String,
        /// What Podman has instead.
        found: String,
    },
}

impl Classified for LoadError {
    fn class(&self) -> Class {
        match self {
            Self::Decide(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Generations(error) => error.class(),
            Self::Link(error) => error.class(),
            Self::Pull(error) => error.class(),
            Self::Engine(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::NotThere { .. } => Class::Unverified,
            Self::InUse { .. } => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Decide(error) => error.hint(),
            Self::Pull(error) => error.hint(),
            Self::InUse { engine: EngineKind::Crio, container, .. } => {
                Some(format!("`crictl rm --force {container}` removes the container"))
            }
            Self::InUse { container, .. } => Some(format!("`podman rm --force {container}` removes the container")),
            Self::NotThere { engine: EngineKind::Crio, .. } => {
                Some("see what `crictl images --digests` lists, and whether CRI-O was restarted since its settings name the store".to_owned())
            }
            Self::NotThere { .. } => {
                Some("see whether the podman on PATH is the real one, and what `windlass doctor` says".to_owned())
            }
            _ => None,
        }
    }
}

impl LoadError {
    /// Whether the image can only be loaded through Podman.
    pub(super) fn is_unlinkable(&self) -> bool {
        use crate::podman::linked::link_tree::TreeError;
        use crate::podman::linked::unpack::UnpackError;
        let Self::Link(error) = self else { return false };
        match &**error {
            LinkError::NoRecipe { .. } => true,
            LinkError::Tree { source, .. } => matches!(**source, TreeError::Owner { .. } | TreeError::SetId { .. }),
            LinkError::Unpack { source, .. } => {
                matches!(**source, UnpackError::OnlyRoot { .. } | UnpackError::Twice { .. })
            }
            _ => false,
        }
    }
}
