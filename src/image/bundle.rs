//! Bundles, as they are read: several images over one folder of blobs.
//!
//! ```text
//! bundle/
//!   oci-layout  index.json         an OCI image layout: every image and model by its full reference
//!   blobs/sha256/<hex>             every blob; a large one as <hex>.part-00, <hex>.part-01, … where it had to be cut
//!   images/<name>/image.json       what windlass needs beside these of an image; closure.json and packages.json as in an image directory
//!   models/<name>/image.json       … and of a model
//!   stack.json  services.json      as in a lean stack
//!   README.txt  join.sh            for people without windlass
//!   SHA256SUMS                     of every file above; written last
//! ```
//!
//! So a bundle is a lean stack whose image directories share what is at its top, and everything that reads a stack reads it.
//! Its layers have no recipes: each is its blob, as those of an image that was not built here.

use std::path::{Path, PathBuf};

/// The sums of all other files.
pub(crate) const SUMS: &str = "SHA256SUMS";
/// The folder of the blobs.
pub(crate) const BLOBS: &str = "blobs/sha256";

/// Whether a directory is a bundle, as far as its names tell: blobs with the files of a stack. One of these may be lost.
#[must_use]
pub(crate) fn is_bundle(path: &Path) -> bool {
    let has = |name: &str| path.join(name).is_file();
    path.join(BLOBS).is_dir() && !has("image.json") && (has("stack.json") || has(SUMS))
}

/// The bundle that an image directory is in, if it is in one.
#[must_use]
pub(crate) fn bundle_of(image: &Path) -> Option<PathBuf> {
    let bundle = image.parent()?.parent()?;
    (!image.join("index.json").exists() && is_bundle(bundle)).then(|| bundle.to_owned())
}
