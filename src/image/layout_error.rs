//! What can be wrong with an image directory.

use std::io;
use std::path::PathBuf;

use crate::class::{Class, Classified};
use crate::disk::WriteError;
use crate::layer::LayerError;
use crate::oci::digest::Digest;

/// Why an image directory cannot be read, written or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// There is no image directory.
    #[error("{path} is not an image directory: {missing} is missing; expected what `windlass build` writes", path = path.display())]
    NotAnImage {
        /// The directory.
        path: PathBuf,
        /// What should be in it.
        missing: &'static str,
    },
    /// Nothing that a delta could be made against.
    #[error("{path} is no bundle, stack or image directory: it has neither stack.json nor image.json", path = path.display())]
    NothingOld {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {message}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A blob's bytes are not those of its name.
    #[error("{path} is damaged: its bytes have the digest {found}; build or copy the image again", path = path.display())]
    Damaged {
        /// The blob.
        path: PathBuf,
        /// The digest of what is there.
        found: Digest,
    },
    /// A layer blob of the wrong length.
    #[error("{path} is damaged: it has {found} bytes instead of {expected}; build or copy the image again", path = path.display())]
    Truncated {
        /// The blob.
        path: PathBuf,
        /// The size in the manifest.
        expected: u64,
        /// The size on disk.
        found: u64,
    },
    /// A layer of a bundle that is lost.
    #[error("{path} is missing; copy or export the bundle again", path = path.display())]
    Missing {
        /// The blob.
        path: PathBuf,
    },
    /// A layer that is neither there nor described.
    #[error("{path} has neither a blob nor a recipe for layer {digest} ({title}): it was exported without; use the image directory it came from", path = path.display())]
    NoLayer {
        /// The image directory.
        path: PathBuf,
        /// The layer.
        digest: Digest,
        /// What is in it.
        title: String,
    },
    /// A layer that did not come out of its patch.
    #[error("layer {title} ({digest}) cannot be put together again from the older layers that Podman has: {why}; `windlass verify --full` says what is wrong with these", digest = digest.short())]
    Unpatched {
        /// The layer.
        digest: Digest,
        /// What is in it.
        title: String,
        /// What is wrong.
        why: String,
    },
    /// The bytes of a layer cannot be made.
    #[error("layer {title} ({digest}): {source}", digest = digest.short())]
    Layer {
        /// The layer.
        digest: Digest,
        /// What is in it.
        title: String,
        /// Why.
        source: Box<LayerError>,
    },
    /// The bytes of a layer are not what they were when it was built.
    #[error("layer {title} ({digest}) can no longer be made: {culprits} changed since it was built; restore it (`nix-store --repair-path` for a store path), or build again", digest = digest.short(), culprits = culprits.join(", "))]
    Changed {
        /// The layer.
        digest: Digest,
        /// What is in it.
        title: String,
        /// The paths at fault, or all of the layer where their hashes are not known.
        culprits: Vec<String>,
    },
    /// A config, manifest or index that some reader cannot read.
    #[error(
        "{reference}: {what}; while Podman has such an image it lists none at all: give it another value, and build it again ({path})",
        path = path.display()
    )]
    Unreadable {
        /// The image directory.
        path: PathBuf,
        /// The image.
        reference: String,
        /// The field and its value.
        what: String,
    },
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl LayoutError {
    /// Whether there is no file where one was to be read.
    pub(super) fn is_no_file(&self) -> bool {
        use io::ErrorKind::{InvalidInput, NotADirectory, NotFound};
        matches!(self, Self::Read { source, .. } if matches!(source.kind(), NotFound | NotADirectory | InvalidInput))
    }
}

impl Classified for LayoutError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Layer { source, .. } => source.class(),
            Self::Write(error) => error.class(),
            Self::Damaged { .. }
            | Self::Truncated { .. }
            | Self::Missing { .. }
            | Self::Unpatched { .. }
            | Self::Changed { .. }
            | Self::Unreadable { .. } => Class::Unverified,
            Self::NothingOld { .. } => Class::Usage,
            Self::NotAnImage { .. } | Self::Format { .. } | Self::NoLayer { .. } => Class::Failed,
        }
    }
}
