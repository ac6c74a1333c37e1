//! The build cache: images that a Containerfile builds, kept in files that people commit.
//!
//! | question | module |
//! |---|---|
//! | which images are cached, and what are they built from? | [`definition`], [`devcontainer`] |
//! | what can a build see of its context? | [`context`], by [`ignore`]; what has not changed is not read again (`stat_cache`) |
//! | which images is it built upon? | [`containerfile`], [`bases`] |
//! | is it still the same build? | [`key`], [`look`] |
//! | what was built before? | [`entries`] |
//! | how does an image become an entry, and go again? | [`store`] |

pub(crate) mod bases;
pub(crate) mod containerfile;
pub(crate) mod context;
pub(crate) mod definition;
pub(crate) mod devcontainer;
pub(crate) mod entries;
pub(crate) mod ignore;
pub(crate) mod key;
pub(crate) mod look;
mod stat_cache;
pub(crate) mod store;

use std::path::{Path, PathBuf};

use crate::build::bundle::BundleError;
use crate::build::import_image::ImportImageError;
use crate::build::upstream_image::UpstreamImageError;
use crate::class::{Class, Classified};
use crate::disk::WriteError;
use crate::disk::lock_file::LockFileError;
use crate::image::layout::LayoutError;
use crate::podman::storage::records::RecordsError;
use crate::upstream::file::LockError;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CacheError {
    /// A file of the user's that says something that cannot be.
    #[error("{path}: {message}", path = path.display())]
    Wrong { path: PathBuf, message: String },
    #[error(transparent)]
    File(#[from] WriteError),
    /// The file of the definitions.
    #[error(transparent)]
    Definitions(#[from] LockFileError),
    /// The lock of base images.
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// What a build or Podman made.
    #[error(transparent)]
    Import(#[from] ImportImageError),
    #[error(transparent)]
    Image(#[from] UpstreamImageError),
    /// Images that would have to be there before the build.
    #[error("{} not in Podman: {}", if missing.len() == 1 { "a base image is" } else { "base images are" }, missing.join(", "))]
    NoBase {
        missing: Vec<String>,
        /// The command that brings the first one.
        next: String,
    },
    /// A value that would be in the file of definitions, in the image's history and in every entry.
    #[error("{path}: image '{image}': the argument {name} {reason}; its value would be readable in the image's history and in every entry", path = path.display())]
    Secret { path: PathBuf, image: String, name: String, reason: String },
    /// A tree of another user.
    #[error("{path} belongs to user {owner}, and root's files there would be in that user's way", path = path.display())]
    OfAnother { path: PathBuf, owner: u32 },
    /// An entry that cannot be used.
    #[error("entry {entry}: {message}", entry = entry.display())]
    Damaged { entry: PathBuf, message: String },
}

impl Classified for CacheError {
    fn class(&self) -> Class {
        match self {
            Self::File(error) => error.class(),
            Self::Definitions(error) => error.class(),
            Self::Lock(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Layout(error) => error.class(),
            Self::Bundle(error) => error.class(),
            Self::Import(error) => error.class(),
            Self::Image(error) => error.class(),
            Self::Wrong { .. } | Self::Secret { .. } => Class::Usage,
            Self::NoBase { .. } => Class::Offline,
            Self::OfAnother { .. } => Class::Environment,
            Self::Damaged { .. } => Class::Unverified,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoBase { next, .. } => Some(format!("`{next}` brings it")),
            Self::Secret { name, .. } => Some(format!(
                "give it as a secret of the build: \"secrets\": {{ \"{name}\": \"env={name}\" }}, and `RUN --mount=type=secret,id={name}`"
            )),
            Self::OfAnother { path, owner } => Some(format!(
                "run windlass as that user: `sudo -u '#{owner}' windlass …`, or `chown` {} to root",
                path.display()
            )),
            Self::Layout(error) => error.hint(),
            _ => None,
        }
    }
}

fn wrong(path: &Path, message: String) -> CacheError {
    CacheError::Wrong { path: path.to_owned(), message }
}

/// Root leaves no files in the tree of a user, who could not remove them.
pub(crate) fn not_of_another(folder: &Path) -> Result<(), CacheError> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(folder).map_or(0, |found| found.uid());
    if rustix::process::geteuid().is_root() && owner != 0 {
        return Err(CacheError::OfAnother { path: folder.to_owned(), owner });
    }
    Ok(())
}
