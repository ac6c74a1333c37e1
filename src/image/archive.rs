//! An image as one tar stream or as an OCI directory, for tools that know nothing of recipes.
//!
//! The archive is two formats at once: an OCI image layout, and a docker-archive through a `manifest.json` that points
//! at the same blobs. Podman tries OCI first and keeps the digest of our manifest; Docker 25 and later reads either.
//! It is written by the same rules as a layer ([`crate::layer`]), so large files inside a layer inside an archive are
//! aligned and can share their data with the store path they come from.
//!
//! Reproducibility: the bytes depend on the image and on what is left out.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::disk::AtPath;
use crate::disk::progress::Progress;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::{PlatformRecord, Summary};
use crate::image::{LayerKind, LayerRecord, index_json, oci_layout};
use crate::layer::output::{Output, Verify};
use crate::layer::{Sink, TRAILER, TarEntry, TarEntryKind, header, padding};
use crate::oci::canonical;
use crate::oci::digest::Digest;

/// Layers that an export leaves out, because the other side has them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Without {
    /// All model layers.
    pub(crate) models: bool,
    /// These layers.
    pub(crate) layers: BTreeSet<Digest>,
}

impl Without {
    /// Whether this layer is left out.
    #[must_use]
    pub(crate) fn leaves_out(&self, layer: &LayerRecord) -> bool {
        (self.models && layer.kind == LayerKind::Model) || self.layers.contains(&layer.digest)
    }
}

/// How an export writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArchiveOptions<'a> {
    /// What is left out.
    pub(crate) without: &'a Without,
    /// How far bytes are compared with their digests.
    pub(crate) verify: Verify,
    /// Where bytes are counted.
    pub(crate) progress: &'a Progress,
}

/// Bytes that an archive or directory of the image has, without the few of its headers.
#[must_use]
pub(crate) fn payload(image: &ImageDir, without: &Without) -> u64 {
    image.summary().layers().into_iter().filter(|layer| !without.leaves_out(layer)).map(|layer| layer.size).sum()
}

/// Writes the archive to `path`. With `whole` its digest and size come back.
///
/// # Errors
/// See [`LayoutError`]; what is at `path` is then the beginning of an archive.
pub(crate) fn write(
    image: &ImageDir,
    path: &Path,
    whole: bool,
    options: ArchiveOptions<'_>,
) -> Result<Option<(Digest, u64)>, LayoutError> {
    let mut output = Output::create(path, options.verify, whole, options.progress)?;
    let name = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
    let summary = image.summary();
    let mut small = vec![
        ("index.json".to_owned(), index_json(&image.image().top, &summary.reference)),
        ("oci-layout".to_owned(), oci_layout()),
    ];
    // The format has no word for platforms, so an index has none.
    if let [platform] = &summary.platforms[..] {
        small.push(("manifest.json".to_owned(), docker_manifest(platform, &summary.reference)));
    }
    small.extend(image.image().small_blobs().map(|blob| (name(blob.digest), blob.bytes.clone())));
    let layers = summary.layers().into_iter().filter(|layer| !options.without.leaves_out(layer));
    write_members(image, small, layers, &mut output, path)?;
    Ok(output.finish()?)
}

/// The members of an archive of an OCI layout: its folders, these files, these layers, and its end. The files that say what it is
/// come first, so that a reader of a stream need not seek. `path` is what messages call it.
///
/// # Errors
/// See [`LayoutError`]; what was written is then the beginning of an archive.
pub(crate) fn write_members<'l>(
    image: &ImageDir,
    small: impl IntoIterator<Item = (String, Vec<u8>)>,
    layers: impl IntoIterator<Item = &'l LayerRecord>,
    output: &mut Output<'_>,
    path: &Path,
) -> Result<(), LayoutError> {
    for folder in ["blobs", "blobs/sha256"] {
        put_header(output, folder, TarEntryKind::Directory).at("write", path)?;
    }
    for (name, bytes) in small {
        put_header(output, &name, TarEntryKind::File(bytes.len() as u64)).at("write", path)?;
        output.bytes(&bytes).at("write", path)?;
        pad(output, bytes.len() as u64).at("write", path)?;
    }
    for layer in layers {
        let name = format!("blobs/sha256/{}", layer.digest.hex());
        put_header(output, &name, TarEntryKind::File(layer.size)).at("write", path)?;
        image.write_layer(layer, output)?;
        pad(output, layer.size).at("write", path)?;
    }
    output.bytes(&TRAILER).at("write", path)?;
    Ok(())
}

/// Writes the header of an entry of an archive that other tools read.
pub(crate) fn put_header(output: &mut Output<'_>, name: &str, kind: TarEntryKind) -> std::io::Result<()> {
    let mode = if kind == TarEntryKind::Directory { 0o755 } else { 0o644 };
    let (uname, gname) = (String::new(), String::new());
    let entry = TarEntry { path: name.into(), kind, mode, uid: 0, gid: 0, uname, gname };
    output.bytes(&header(&entry, output.offset()))
}

/// Fills an entry of this size up to a whole block.
pub(crate) fn pad(output: &mut Output<'_>, size: u64) -> std::io::Result<()> {
    output.bytes(&TRAILER[..usize::try_from(padding(size)).unwrap_or(0)])
}

#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// `manifest.json` of a docker-archive with one image of this name.
pub(crate) fn docker_manifest(platform: &PlatformRecord, reference: &str) -> Vec<u8> {
    let name = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
    canonical::to_bytes(&[DockerImage {
        config: name(platform.config_digest),
        repo_tags: vec![reference.to_owned()],
        layers: platform.layers.iter().map(|layer| name(layer.digest)).collect(),
    }])
}

/// Writes an OCI directory into `directory`, which must exist: what skopeo calls `oci:DIR:REF`.
///
/// # Errors
/// See [`LayoutError`].
pub(crate) fn write_directory(
    image: &ImageDir,
    directory: &Path,
    options: ArchiveOptions<'_>,
) -> Result<(), LayoutError> {
    image.image().write_oci(directory, options.progress)?;
    write_layers(image, image.summary(), directory, options)
}

/// Writes those layers of an image into an OCI directory that `summary` names, and that are not left out.
///
/// # Errors
/// See [`LayoutError`].
pub(crate) fn write_layers(
    image: &ImageDir,
    summary: &Summary,
    directory: &Path,
    options: ArchiveOptions<'_>,
) -> Result<(), LayoutError> {
    let named: BTreeSet<Digest> = summary.layers().iter().map(|layer| layer.digest).collect();
    for layer in image.summary().layers() {
        if named.contains(&layer.digest) && !options.without.leaves_out(layer) {
            let path = directory.join("blobs/sha256").join(layer.digest.hex());
            let mut output = Output::create(&path, options.verify, false, options.progress)?;
            image.write_layer(layer, &mut output)?;
            output.finish()?;
        }
    }
    Ok(())
}
