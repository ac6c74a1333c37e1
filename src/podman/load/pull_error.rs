//! Why Podman did not take an image.

use std::path::PathBuf;

use crate::class::{Class, Classified};
use crate::disk::WriteError;
use crate::disk::size::size;
use crate::engine::process::ProgramError;
use crate::image::layout::LayoutError;
use crate::oci::digest::Digest;
use crate::podman::storage::records::RecordsError;

/// Why an image is not in Podman.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// A program, or what it said.
    #[error(transparent)]
    Engine(#[from] ProgramError),
    /// The image directory, or what its layers are made from.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The records of Podman's stores.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A place in the graph root.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// It would not fit; nothing was written.
    #[error(
        "{image} needs {} in {} while it is loaded ({} of them stay), and {} are free; nothing was changed",
        size(*needed),
        graph_root.display(),
        size(*layers),
        size(*free)
    )]
    NoSpace {
        /// The image.
        image: String,
        /// Where.
        graph_root: PathBuf,
        /// Bytes that are needed at the fullest moment.
        needed: u64,
        /// Bytes of the layers, which stay.
        layers: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// It did not fit; what was written is gone again.
    #[error("{image} does not fit in {graph_root}: {said}", graph_root = graph_root.display())]
    Full {
        /// The image.
        image: String,
        /// Where.
        graph_root: PathBuf,
        /// What the program said.
        said: String,
    },
    /// A layer that Podman had a moment ago.
    #[error("{image}: layer {title} ({digest}) was in Podman a moment ago and is gone: something removes images; load it again", digest = digest.short())]
    LayerGone {
        /// The image.
        image: String,
        /// The layer.
        digest: Digest,
        /// What is in it.
        title: String,
    },
    /// The program ended well, and Podman has no such image.
    #[error(
        "{program} said that {name} is loaded, but Podman has no such image: see whether the {program} on PATH is the real one"
    )]
    NotThere {
        /// The program.
        program: &'static str,
        /// The name.
        name: String,
    },
    /// The program ended well, and Podman has another image under that name.
    #[error("{program} said that {name} is loaded, but Podman has {found} there instead of {expected}")]
    OtherImage {
        /// The program.
        program: &'static str,
        /// The name.
        name: String,
        /// The image ID that it should have.
        expected: Digest,
        /// The image ID that Podman gives.
        found: Digest,
    },
}

impl Classified for PullError {
    fn class(&self) -> Class {
        match self {
            Self::Engine(error) => error.class(),
            Self::Layout(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::NotThere { .. } | Self::OtherImage { .. } => Class::Unverified,
            Self::NoSpace { .. } | Self::Full { .. } => Class::NoSpace,
            Self::LayerGone { .. } => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSpace { .. } | Self::Full { .. } => {
                Some("`windlass gc` and `podman image prune` free space".to_owned())
            }
            Self::OtherImage { name, .. } => {
                Some(format!("if nothing else loads images, `podman rmi {name}`, and load it again"))
            }
            _ => None,
        }
    }
}
