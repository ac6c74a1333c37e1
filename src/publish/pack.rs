//! Layers that are packed where their bytes leave the host, and the manifests that name them so.
//!
//! Config, and with it the image's ID, stays what it is: it names layers by what is in them. The manifest is another one,
//! and always the same one, as packing is ([`compression`](crate::oci::compression)).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::class::{Class, Classified};
use crate::disk::parts::files_of;
use crate::disk::pipe::{PipeError, Readers, fan_out};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError, bounded};
use crate::image::archive::{self, ArchiveOptions};
use crate::image::layout::{ImageDir, ImageInMemory, LayoutError};
use crate::image::{LayerRecord, PackedLayer, SmallBlob};
use crate::layer::{LayerError, Recipe, Sink};
use crate::oci::canonical;
use crate::oci::compression::Compression;
use crate::oci::digest::{Digest, Hasher};

/// Bytes that are gathered for one write.
const GATHER: usize = 512 * 1024;

/// Why an image cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PackError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A manifest of the image.
    #[error("manifest {0}: {1}")]
    Manifest(Digest, String),
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for PackError {
    fn class(&self) -> Class {
        match self {
            Self::Layout(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Manifest(..) => Class::Failed,
        }
    }
}

/// The bytes of a layer: a file, or what a recipe makes.
#[derive(Debug)]
pub(crate) struct LayerBytes<'a> {
    file: Option<PathBuf>,
    recipe: Option<&'a Recipe>,
    progress: &'a Progress,
}

impl<'a> LayerBytes<'a> {
    /// A file.
    pub(crate) fn file(path: &Path, progress: &'a Progress) -> Self {
        Self { file: Some(path.to_owned()), recipe: None, progress }
    }

    /// What a recipe makes.
    pub(crate) const fn of_recipe(recipe: &'a Recipe, progress: &'a Progress) -> Self {
        Self { file: None, recipe: Some(recipe), progress }
    }

    /// A layer.
    ///
    /// # Errors
    /// If it is neither there nor described.
    pub(crate) fn layer(image: &'a ImageDir, layer: &LayerRecord, progress: &'a Progress) -> Result<Self, LayoutError> {
        let file = image.layer_blob(layer)?;
        let recipe = if file.is_some() { None } else { Some(image.recipe(layer)?) };
        Ok(Self { file, recipe, progress })
    }

    /// Whether it came as it is, and stays so.
    pub(crate) fn is_whole(&self) -> bool {
        self.recipe.is_some_and(|recipe| recipe.blob().is_some())
    }

    pub(crate) fn write(&self, to: &mut (dyn Write + Send)) -> io::Result<()> {
        let mut sink = WriteSink { to, progress: self.progress };
        if let Some(path) = &self.file {
            for (part, size) in files_of(path)? {
                sink.file(&bounded::open(&part)?, size, false, Readers::default()).map_err(|error| match error {
                    PipeError::Read(error) | PipeError::Write(error) => error,
                })?;
            }
            return Ok(());
        }
        match self.recipe.map(|recipe| recipe.stream(&mut sink)) {
            Some(Err(LayerError::Sink(error))) => Err(error),
            Some(Err(error)) => Err(io::Error::other(error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Writes it packed, and compares what was packed with this digest.
    pub(crate) fn pack(&self, expected: Digest, with: Compression, to: &mut (dyn Write + Send)) -> io::Result<()> {
        let mut plain = Hashing::new(with.encoder(to)?);
        self.write(&mut plain)?;
        let (encoder, digest, _) = plain.finish();
        encoder.finish()?;
        if digest == expected { Ok(()) } else { Err(io::Error::other("its bytes changed since it was built")) }
    }
}

/// Bytes that a layer has where it is sent packed like this. Every byte of it is read; what came packed stays as it is.
///
/// # Errors
/// If its bytes cannot be had.
pub(crate) fn packed_size(
    image: &ImageDir,
    layer: &LayerRecord,
    with: Compression,
    progress: &Progress,
) -> Result<u64, PackError> {
    let source = LayerBytes::layer(image, layer, progress)?;
    if with == Compression::None || layer.packed.is_some() || source.is_whole() {
        return Ok(layer.size);
    }
    let mut counted = Hashing::new(io::sink());
    let path = PathBuf::from(&layer.title);
    source.pack(layer.digest, with, &mut counted).at("pack", &path)?;
    Ok(counted.finish().2)
}

struct WriteSink<'a> {
    to: &'a mut (dyn Write + Send),
    progress: &'a Progress,
}

impl Sink for WriteSink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)
    }

    fn file(&mut self, file: &File, size: u64, _: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        let (to, mut readers): (_, Readers<'_>) = (&mut self.to, readers);
        readers.here.push(Box::new(|chunk| to.write_all(chunk)));
        fan_out(file, size, readers, self.progress)
    }
}

/// Hashes what passes.
struct Hashing<W> {
    to: W,
    hasher: Hasher,
}

impl<W> Hashing<W> {
    fn new(to: W) -> Self {
        Self { to, hasher: Hasher::new() }
    }

    fn finish(self) -> (W, Digest, u64) {
        let (digest, size) = self.hasher.finish();
        (self.to, digest, size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// What is to be said of a layer that was packed to these bytes.
pub(crate) fn packed(layer: &LayerRecord, with: Compression, digest: Digest, size: u64) -> LayerRecord {
    let (media_type, diff_id, diff_size) = (with.media_type().to_owned(), layer.digest, layer.size);
    LayerRecord { digest, size, packed: Some(PackedLayer { media_type, diff_id, diff_size }), ..layer.clone() }
}

/// An image with other layers in the place of some of its own: the same configs, and manifests and an index that name
/// them. Without any it is the same image.
///
/// # Errors
/// If a manifest cannot be read as one.
pub(crate) fn with_layers(
    image: &ImageInMemory,
    layers: &BTreeMap<Digest, LayerRecord>,
) -> Result<ImageInMemory, PackError> {
    let small: BTreeMap<Digest, &SmallBlob> = image.small_blobs().map(|blob| (blob.digest, blob)).collect();
    let blob = |digest: Digest| {
        small.get(&digest).copied().ok_or_else(|| PackError::Manifest(digest, "it is not in the image".to_owned()))
    };
    let mut summary = image.summary.clone();
    let mut manifests: BTreeMap<Digest, SmallBlob> = BTreeMap::new();
    for platform in &mut summary.platforms {
        let manifest = changed(blob(platform.digest)?, "layers", |entry, digest| {
            let layer = layers.get(&digest)?;
            entry["mediaType"] = json!(layer.media_type());
            Some((layer.digest, layer.size))
        })?;
        for layer in &mut platform.layers {
            if let Some(packed) = layers.get(&layer.digest) {
                *layer = packed.clone();
            }
        }
        platform.size = platform.layers.iter().map(|layer| layer.size).sum();
        let old = std::mem::replace(&mut platform.digest, manifest.digest);
        manifests.insert(old, manifest);
    }
    let top = match manifests.get(&image.top.digest) {
        Some(manifest) => manifest.clone(),
        None => changed(&image.top, "manifests", |_, digest| {
            manifests.get(&digest).map(|manifest| (manifest.digest, manifest.bytes.len() as u64))
        })?,
    };
    summary.digest = top.digest;
    let mut blobs: Vec<SmallBlob> =
        image.blobs.iter().map(|blob| manifests.get(&blob.digest).unwrap_or(blob).clone()).collect();
    blobs.sort_by_key(|blob| blob.digest);
    let (mut recipes, mut checksums) = (image.recipes.clone(), image.checksums.clone());
    recipes.retain(|digest, _| !layers.contains_key(digest));
    checksums.retain(|digest, _| !layers.contains_key(digest));
    Ok(ImageInMemory { summary, top, blobs, recipes, checksums, closure: image.closure.clone() })
}

/// A manifest or an index with other digests and sizes in the list of this name; byte for byte the same if none is given.
fn changed(
    blob: &SmallBlob,
    key: &str,
    mut other: impl FnMut(&mut Value, Digest) -> Option<(Digest, u64)>,
) -> Result<SmallBlob, PackError> {
    let malformed = |reason: String| PackError::Manifest(blob.digest, reason);
    let mut document: Value = serde_json::from_slice(&blob.bytes).map_err(|error| malformed(error.to_string()))?;
    let entries = document[key].as_array_mut().ok_or_else(|| malformed(format!("it has no {key}")))?;
    let mut any = false;
    for entry in entries {
        let old = entry["digest"].as_str().and_then(|digest| digest.parse().ok());
        let old = old.ok_or_else(|| malformed(format!("its {key} have no digest")))?;
        if let Some((digest, size)) = other(entry, old).filter(|(digest, _)| *digest != old) {
            entry["digest"] = json!(digest);
            entry["size"] = json!(size);
            any = true;
        }
    }
    if !any {
        return Ok(blob.clone());
    }
    let bytes = canonical::to_bytes(&document);
    Ok(SmallBlob { media_type: blob.media_type.clone(), digest: Digest::of(&bytes), bytes })
}

/// Writes an image with packed layers as an OCI directory, which must exist. Layers that came packed go as they are.
///
/// # Errors
/// See [`PackError`].
pub(crate) fn write_directory(
    image: &ImageDir,
    with: Compression,
    directory: &Path,
    options: ArchiveOptions<'_>,
) -> Result<(), PackError> {
    let packed = pack(image, with, directory, options)?;
    packed.write_oci(directory, options.progress)?;
    Ok(archive::write_layers(image, &packed.summary, directory, options)?)
}

/// Writes an image with packed layers as an archive. As the size of an entry comes before it, the layers are packed to
/// `folder` first, which must exist.
///
/// # Errors
/// See [`PackError`].
pub(crate) fn write_archive(
    image: &ImageDir,
    with: Compression,
    path: &Path,
    folder: &Path,
    options: ArchiveOptions<'_>,
) -> Result<(), PackError> {
    pack(image, with, folder, options)?.write_lean(folder, options.progress)?;
    Ok(archive::write(&ImageDir::open(folder)?, path, false, options).map(drop)?)
}

/// Packs the layers that are written, several at a time, to blobs in `directory`.
fn pack(
    image: &ImageDir,
    with: Compression,
    directory: &Path,
    options: ArchiveOptions<'_>,
) -> Result<ImageInMemory, PackError> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).at("create", &blobs)?;
    let layers = image.summary().layers();
    let layers: Vec<_> = layers.into_iter().filter(|layer| !options.without.leaves_out(layer)).collect();
    // Each thread takes the next one: rayon's own splitting would give one thread all the large ones.
    let packed = layers.into_par_iter().with_max_len(1).map(|layer| {
        let source = LayerBytes::layer(image, layer, options.progress)?;
        if layer.packed.is_some() || source.is_whole() {
            return Ok(None);
        }
        let record = pack_layer(&source, layer, with, &blobs, options.progress);
        let record = record.map_err(|error| explained(image, layer, error, options.progress))?;
        Ok(Some((layer.digest, record)))
    });
    let packed: BTreeMap<Digest, LayerRecord> =
        packed.collect::<Result<Vec<_>, PackError>>()?.into_iter().flatten().collect();
    with_layers(image.image(), &packed)
}

fn pack_layer(
    source: &LayerBytes<'_>,
    layer: &LayerRecord,
    with: Compression,
    blobs: &Path,
    progress: &Progress,
) -> Result<LayerRecord, WriteError> {
    let path = blobs.join(format!("{}.new", layer.digest.hex()));
    let file = File::create(&path).at("create", &path)?;
    let mut file = BufWriter::with_capacity(GATHER, Hashing::new(file));
    source.pack(layer.digest, with, &mut file).at("pack a layer to", &path)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error).at("write", &path)?;
    let (_, digest, size) = file.finish();
    progress.count_written(size);
    let target = blobs.join(digest.hex());
    fs::rename(&path, &target).at("rename", &target)?;
    Ok(packed(layer, with, digest, size))
}

/// Why a layer could not be packed. Where it was not for the place that is written to, the layer is looked at: a store
/// path that changed is worth a better word.
fn explained(image: &ImageDir, layer: &LayerRecord, error: WriteError, progress: &Progress) -> PackError {
    let is_of_the_layer = error.source.raw_os_error().is_none() && error.source.kind() != io::ErrorKind::Interrupted;
    let found = if is_of_the_layer { image.verify_layer(layer, true, progress).err() } else { None };
    found.map_or(PackError::Write(error), PackError::Layout)
}
