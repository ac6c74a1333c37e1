//! EROFS layer caches: folders in which containerd finds layers that it mounts instead of unpacking them.
//!
//! ```text
//! cache/
//!   sha256/<first two digits>/<hex>.erofs    a layer as a file system, by its diff ID
//! ```
//!
//! containerd 2.4 looks there (`layer_content_caches` of its EROFS snapshotter), and believes the name: so a file gets it only when the
//! archive that it was made from had that digest.
//!
//! Reproducibility: the bytes of a file depend on the layer alone.

use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::beneath::Dir;
use crate::disk::files::parent_of;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, WriteError, bounded};
use crate::image::LayerRecord;
use crate::image::layout::{ImageDir, LayoutError, changed, layer_error};
use crate::layer::output::{Output, Verify};
use crate::layer::{LayerError, Recipe, erofs};
use crate::oci::digest::Digest;

/// A change to any byte that windlass writes of a layer is a new one of these.
const UUID_OF: &str = "windlass EROFS layer, format 1, of ";

/// Where a cache has a layer.
#[must_use]
pub(crate) fn entry_path(cache: &Path, diff_id: Digest) -> PathBuf {
    let hex = diff_id.hex();
    cache.join("sha256").join(&hex[..2]).join(format!("{hex}.erofs"))
}

/// Whether a cache has a layer: a file system that is whole and needs no other file. Another program may have made it.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn has_layer(cache: &Path, diff_id: Digest) -> Result<bool, LayoutError> {
    let path = entry_path(cache, diff_id);
    match bounded::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        file => {
            let found = file.and_then(|file| erofs::is_whole(&file));
            found.map_err(|source| LayoutError::Read { path, source })
        }
    }
}

/// Writes a layer into a cache. What is there is replaced in one step.
///
/// # Errors
/// If the layer cannot be had or written, or its archive is not what its digest says.
pub(crate) fn write_layer(
    (image, record): (&ImageDir, &LayerRecord),
    cache: &Path,
    verify: Verify,
    progress: &Progress,
) -> Result<(), LayoutError> {
    let path = entry_path(cache, record.diff_id());
    let folder = parent_of(&path);
    if !folder.is_dir() {
        fs::create_dir_all(&folder).at("create", &folder)?;
        Dir::open(&parent_of(&folder))?.sync()?;
        Dir::open(cache)?.sync()?;
    }
    let staging = Staging::file(&path)?;
    let mut output = Output::create(staging.path(), verify, false, progress)?;
    let recipe = match image.layer_blob(record)? {
        Some(path) => Recipe::of_blob(path),
        None => image.recipe(record)?.clone(),
    };
    let written = erofs::write(&recipe, uuid(record.diff_id()), &mut output, progress);
    let written = written.map_err(|source| match source {
        LayerError::Sink(source) => WriteError { action: "write", path: path.clone(), source }.into(),
        source => layer_error(record, source),
    })?;
    let found = output.end_blob().map_or(record.diff_id(), |(found, _)| found);
    if (found, written.archive_size) != (record.diff_id(), record.diff_size()) {
        return Err(match recipe.blob() {
            Some(path) => LayoutError::Damaged { path: path.to_owned(), found },
            None => changed(record, &recipe),
        });
    }
    output.finish_with_start(&written.start)?;
    Ok(staging.publish()?)
}

/// The UUID of a layer's file system (RFC 9562, version 8).
fn uuid(diff_id: Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&Digest::of(format!("{UUID_OF}{diff_id}").as_bytes()).as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
