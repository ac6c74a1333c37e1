//! The engine that has images in a storage: Podman, or CRI-O, whose images lie in the same kind of store.

use super::client::{PodmanClient, PodmanContainer};
use super::crio::CrioClient;
use crate::disk::progress::Progress;
use crate::engine::kind::EngineKind;
use crate::engine::process::ProgramError;
use crate::oci::digest::Digest;

/// What is asked about the images of a storage, and told to change their names.
#[derive(Debug, Clone)]
pub(crate) enum StorageEngine {
    /// This host's Podman.
    Podman(PodmanClient),
    /// This host's CRI-O.
    Crio(CrioClient),
}

impl StorageEngine {
    /// Which engine it is.
    pub(crate) const fn kind(&self) -> EngineKind {
        match self {
            Self::Podman(_) => EngineKind::Podman,
            Self::Crio(_) => EngineKind::Crio,
        }
    }

    /// Podman, for what it alone can do: `action`, as in "CRI-O cannot …".
    ///
    /// # Errors
    /// If it is CRI-O.
    pub(crate) fn podman(&self, action: &str) -> Result<&PodmanClient, ProgramError> {
        match self {
            Self::Podman(podman) => Ok(podman),
            Self::Crio(_) => Err(ProgramError::Unable {
                engine: self.kind(),
                action: action.to_owned(),
                next: "Podman can: leave out `--into crio`".to_owned(),
            }),
        }
    }

    /// The image ID of each of these names (`NAME:TAG`, `NAME@sha256:…`); `None` where it knows no such image.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn exists(&self, names: &[&str], progress: &Progress) -> Result<Vec<Option<Digest>>, ProgramError> {
        match self {
            Self::Podman(podman) => podman.exists(names, progress),
            Self::Crio(crio) => crio.exists(names, progress),
        }
    }

    /// Gives an image, named by its ID or in any other way, one more name `NAME:TAG`. An image that had it loses it.
    ///
    /// # Errors
    /// See [`ProgramError`]. CRI-O gives no names to what is in its own store.
    pub(crate) fn tag(&self, image: &str, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        match self {
            Self::Podman(podman) => podman.tag(image, name, progress),
            Self::Crio(_) => Err(ProgramError::Unable {
                engine: self.kind(),
                action: format!("give the image {image}, which lies in its own store, the name {name}"),
                next: format!("`crictl rmi {image}` removes it there, and it is linked by the next `windlass load`"),
            }),
        }
    }

    /// Takes a name from an image, which stays with Podman; CRI-O removes the image with its last name.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn untag(&self, image: &str, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        match self {
            Self::Podman(podman) => podman.untag(image, name, progress),
            Self::Crio(crio) => crio.remove(name, progress),
        }
    }

    /// Removes a name, and the image if that was its last one.
    ///
    /// # Errors
    /// See [`ProgramError`]. Both refuse it for an image that a container uses.
    pub(crate) fn remove_image(&self, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        match self {
            Self::Podman(podman) => podman.remove_image(name, progress),
            Self::Crio(crio) => crio.remove(name, progress),
        }
    }

    /// The same, also of an image that Podman cannot read.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn discard(&self, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        match self {
            Self::Podman(podman) => podman.discard(name, progress),
            Self::Crio(crio) => crio.remove(name, progress),
        }
    }

    /// Every container that it knows, running or not.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn containers(&self, progress: &Progress) -> Result<Vec<PodmanContainer>, ProgramError> {
        match self {
            Self::Podman(podman) => podman.containers(progress),
            Self::Crio(crio) => crio.containers(progress),
        }
    }
}
