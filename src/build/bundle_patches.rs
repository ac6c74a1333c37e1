//! Layers of a bundle that are told by what older layers have of them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::bundle::{BundleError, publish};
use super::bundle_content::{ImageBundle, Patches};
use super::bundle_files::{BundleBlob, create_beside};
use crate::disk::AtPath;
use crate::disk::progress::Progress;
use crate::image::bundle::BLOBS;
use crate::image::json::read_versioned;
use crate::image::layout::ImageDir;
use crate::image::summary::{LayerPatch, Summary};
use crate::layer::patch::{OldBlocks, OldLayer, PatchWriter};
use crate::oci::digest::{Digest, Hasher};

/// Smaller layers are not worth it.
const LEAST: u64 = 64 * 1024;

/// The blocks of an old image, for the image that is called like it.
pub(super) struct OldImage<'a> {
    image: &'a Path,
    blocks: OldBlocks,
    from: Vec<Digest>,
}

/// A file that is hashed while it is written, up to a size.
struct PatchFile {
    file: BufWriter<File>,
    hasher: Hasher,
    size: u64,
    most: u64,
}

impl Write for PatchFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size + bytes.len() as u64 > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl ImageBundle {
    /// The patches that a bundle has already.
    pub(super) fn known_patches(&self, bundle: &Path) -> Patches {
        let folder =
            |image: &ImageDir| bundle.join("images").join(&*image.summary().name.file_name()).join("image.json");
        let known = self.images.iter().filter_map(|image| read_versioned::<Summary>(&folder(image)).ok());
        let known = known.flat_map(|summary| summary.patches).filter(|patch| {
            let path = bundle.join(BLOBS).join(patch.digest.hex());
            fs::metadata(path).is_ok_and(|found| found.len() == patch.size)
        });
        known.map(|patch| (patch.layer, patch)).collect()
    }

    /// The blocks of what an image was before, where a layer of it may become a patch.
    fn old_image<'a>(&self, image: &'a ImageDir, progress: &Progress) -> OldImage<'a> {
        let (mut blocks, mut from) = (OldBlocks::default(), Vec::new());
        for old in self.old.of_name(image.summary()) {
            for layer in old.summary().layers() {
                let fits = !layer.is_weights() && layer.packed.is_none() && !from.contains(&layer.digest);
                if !fits || old.summary().leaves_out(layer) || !blocks.has_room(layer.size) {
                    continue;
                }
                let mut sink = OldLayer(&mut blocks, progress);
                // What is not there any more is no help.
                match old.stream_layer(layer, &mut sink, Path::new("/dev/null")) {
                    Ok(()) => {
                        blocks.end_layer(layer.digest);
                        from.push(layer.digest);
                    }
                    Err(_) => blocks.drop_layer(),
                }
            }
        }
        OldImage { image: image.path(), blocks, from }
    }

    /// Writes a patch in place of a layer, if it has less than half of the bytes; its file in the bundle comes with it.
    pub(super) fn patch<'a>(
        &self,
        blob: &BundleBlob<'a>,
        (bundle, known): (&Path, &Patches),
        old: &mut Option<OldImage<'a>>,
        progress: &Progress,
    ) -> Result<Option<(PathBuf, LayerPatch)>, BundleError> {
        let BundleBlob { image, layer, is_there, .. } = blob;
        if !self.patch || *is_there || layer.is_weights() || layer.packed.is_some() || layer.size < LEAST {
            return Ok(None);
        }
        let place = |patch: &LayerPatch| Path::new(BLOBS).join(patch.digest.hex());
        let is_old = |patch: &&LayerPatch| {
            let has = |from: &Digest| {
                let mut old = self.old.of_name(image.summary());
                old.any(|old| old.summary().layers().iter().any(|layer| layer.digest == *from))
            };
            patch.from.iter().all(has)
        };
        if let Some(patch) = known.get(&layer.digest).filter(is_old) {
            return Ok(Some((place(patch), patch.clone())));
        }
        let old = match old.take() {
            Some(known) if known.image == image.path() => old.insert(known),
            _ => old.insert(self.old_image(image, progress)),
        };
        if old.from.is_empty() {
            return Ok(None);
        }
        let beside = bundle.join(BLOBS).join(format!("{}.new", layer.digest.hex()));
        let most = (layer.size / 2).min(self.most.unwrap_or(u64::MAX));
        let file = BufWriter::new(create_beside(&beside)?);
        let file = PatchFile { file, hasher: Hasher::new(), size: 0, most };
        let write = || -> Result<PatchFile, BundleError> {
            let of = (layer.digest, layer.size);
            let mut writer = PatchWriter::new(&old.blocks, of, file, progress).at("write", &beside)?;
            image.stream_layer(layer, &mut writer, &beside)?;
            let mut file = writer.finish().at("write", &beside)?;
            file.flush().at("write", &beside)?;
            Ok(file)
        };
        let file = match write() {
            Ok(file) => file,
            Err(error) => {
                drop(fs::remove_file(&beside));
                return if is_too_large(&error) { Ok(None) } else { Err(error) };
            }
        };
        let (digest, size) = file.hasher.finish();
        progress.count_written(size);
        let patch = LayerPatch { layer: layer.digest, digest, size, from: old.from.clone() };
        publish(&beside, &bundle.join(place(&patch)))?;
        Ok(Some((place(&patch), patch)))
    }
}

/// Whether a patch would have had too many bytes.
fn is_too_large(error: &BundleError) -> bool {
    use crate::image::layout::LayoutError;
    let (BundleError::Write(error) | BundleError::Layout(LayoutError::Write(error))) = error else { return false };
    error.source.kind() == io::ErrorKind::FileTooLarge
}
