//! An image built again, and compared with what it was: digest for digest, and where both are to be had, byte for byte.
//!
//! Each layer is made anew from its recipe. Its digest has to be that of the image. Where there is another copy of its bytes (a
//! blob of the image itself, or a bundle or an image directory to compare with), both are read side by side, so that the first
//! byte that differs is known, and with it the file that it is in. Without such a copy the sums that are kept of a layer's files
//! still say which file it is.

use std::io::{self, BufReader, PipeReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::class::{Class, Classified};
use crate::disk::parts::open_whole;
use crate::disk::pipe::{PipeError, Readers, fan_out};
use crate::disk::progress::Progress;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::{LayerRecord, SmallBlob};
use crate::layer::tar_reader;
use crate::layer::{Checksums, LayerError, LayerMember, Recipe, Sink, header, padding};
use crate::oci::digest::{Digest, Hasher};
use crate::publish::pack::LayerBytes;

/// Why an image cannot be built again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RebuildError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A layer cannot be made.
    #[error("{image}: layer {} ({title}) cannot be made again: {source}", digest.short())]
    Layer { image: String, digest: Digest, title: String, source: Box<LayerError> },
    /// The copy that is compared with.
    #[error("{image}: read layer {} ({title}) to compare with: {source}", digest.short())]
    Copy { image: String, digest: Digest, title: String, source: io::Error },
}

impl Classified for RebuildError {
    fn class(&self) -> Class {
        match self {
            Self::Layout(error) => error.class(),
            Self::Layer { source, .. } => source.class(),
            Self::Copy { source, .. } => source.class(),
        }
    }
}

/// A layer that was made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RebuiltLayer {
    /// What the image has.
    pub(crate) digest: Digest,
    /// What was made.
    pub(crate) rebuilt: Digest,
    /// Bytes of what was made.
    pub(crate) size: u64,
    /// Whether every byte was compared with a copy, beside the digest.
    pub(crate) compared: bool,
}

/// The first difference between a layer and what is made of its recipe now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerDifference {
    /// The layer, from 1 at the bottom; 0 for a config or a manifest.
    pub(crate) layer: usize,
    pub(crate) title: String,
    pub(crate) digest: Digest,
    pub(crate) rebuilt: Digest,
    /// The file in the image; of a whole layer that came from elsewhere it is not known.
    pub(crate) file: Option<PathBuf>,
    /// The byte of that file, from 0. `None` if its header differs, or there is no copy to compare with.
    pub(crate) byte: Option<u64>,
    /// The byte of the layer's archive, from 0.
    pub(crate) offset: Option<u64>,
    /// What the copy has there; `None` at its end.
    pub(crate) was: Option<u8>,
    /// What is made there now; `None` at its end.
    pub(crate) is: Option<u8>,
    /// The store paths that are not what Nix recorded of them, or all that the layer is made of.
    pub(crate) sources: Vec<String>,
    /// Whether it is the copy that is not what the image says, and not what is made now.
    pub(crate) copy_is_wrong: bool,
}

/// What came of building an image again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RebuiltImage {
    /// Its layers, bottom first, up to the first that differs.
    pub(crate) layers: Vec<RebuiltLayer>,
    pub(crate) difference: Option<LayerDifference>,
}

/// Builds an image again from its recipes. `copy` is the same image elsewhere, with bytes to compare with.
///
/// # Errors
/// If a layer cannot be made, or the copy cannot be read. That they differ is a result.
pub(crate) fn rebuild(
    image: &ImageDir,
    copy: Option<&ImageDir>,
    progress: &Progress,
) -> Result<RebuiltImage, RebuildError> {
    let mut layers = Vec::new();
    for (n, record) in image.summary().layers().into_iter().enumerate() {
        let (layer, difference) = rebuild_layer(image, copy, record, progress)?;
        layers.push(layer);
        if let Some(difference) = difference {
            let difference = Some(LayerDifference { layer: n + 1, ..difference });
            return Ok(RebuiltImage { layers, difference });
        }
    }
    Ok(RebuiltImage { layers, difference: None })
}

/// Compares an image with what a build of its derivation has made now. Layers with the digest that they had are not read.
///
/// # Errors
/// As for [`rebuild`].
pub(crate) fn compare(image: &ImageDir, made: &ImageDir, progress: &Progress) -> Result<RebuiltImage, RebuildError> {
    let (was, is) = (image.summary().layers(), made.summary().layers());
    let mut layers = Vec::new();
    for (n, was) in was.iter().enumerate() {
        let Some(is) = is.get(n) else { break };
        if was.digest == is.digest {
            layers.push(RebuiltLayer { digest: was.digest, rebuilt: is.digest, size: is.size, compared: false });
            continue;
        }
        // What a build has kept as a file need not be made once more.
        let blob = made.layer_blob(is)?.map(|blob| std::path::absolute(&blob).unwrap_or(blob)).map(Recipe::of_blob);
        let recipe = match &blob {
            Some(blob) => blob,
            None => made.recipe(is)?,
        };
        let again = LayerAgain { image, record: was, recipe, sums: None };
        let (layer, difference) = again.compare(Some(LayerBytes::layer(image, was, progress)?), progress)?;
        layers.push(layer);
        let difference = difference.map(|difference| LayerDifference { layer: n + 1, ..difference });
        return Ok(RebuiltImage { layers, difference });
    }
    let mut blobs = image.image().small_blobs().zip(made.image().small_blobs());
    let different = blobs.find(|(was, is)| was.digest != is.digest);
    let document = |(was, is): (&SmallBlob, &SmallBlob)| {
        let at = was.bytes.iter().zip(&is.bytes).position(|(was, is)| was != is);
        let at = at.unwrap_or(was.bytes.len().min(is.bytes.len()));
        LayerDifference {
            layer: 0,
            title: format!("the document {}", was.media_type),
            digest: was.digest,
            rebuilt: is.digest,
            file: None,
            byte: None,
            offset: Some(at as u64),
            was: was.bytes.get(at).copied(),
            is: is.bytes.get(at).copied(),
            sources: Vec::new(),
            copy_is_wrong: false,
        }
    };
    Ok(RebuiltImage { layers, difference: different.map(document) })
}

fn rebuild_layer(
    image: &ImageDir,
    copy: Option<&ImageDir>,
    record: &LayerRecord,
    progress: &Progress,
) -> Result<(RebuiltLayer, Option<LayerDifference>), RebuildError> {
    let sums = image.checksums(record)?;
    let again = LayerAgain { image, record, recipe: image.recipe(record)?, sums: sums.as_ref() };
    again.compare(copy_of(image, copy, record, progress)?, progress)
}

/// A layer that is made again.
struct LayerAgain<'a> {
    /// The image that has it.
    image: &'a ImageDir,
    record: &'a LayerRecord,
    /// What it is made of now.
    recipe: &'a Recipe,
    /// The sums that its files had.
    sums: Option<&'a Checksums>,
}

impl LayerAgain<'_> {
    fn compare(
        &self,
        other: Option<LayerBytes<'_>>,
        progress: &Progress,
    ) -> Result<(RebuiltLayer, Option<LayerDifference>), RebuildError> {
        let Self { image, record, recipe, sums } = *self;
        let (name, title) = (image.summary().reference.to_string(), record.title.clone());
        let is_compared = other.is_some();
        let mut compared = Compared::new(progress);
        let made = std::thread::scope(|scope| {
            let Some(other) = other else { return recipe.stream_and_note(&mut compared, None) };
            let (reader, mut writer) = io::pipe().map_err(LayerError::Sink)?;
            compared.other = Some(BufReader::with_capacity(1 << 20, reader));
            let copying = scope.spawn(move || other.write(&mut writer));
            let made = recipe.stream_and_note(&mut compared, None);
            compared.end();
            // What comes after the first difference is not read: the other side is told by the end of the pipe.
            compared.other = None;
            let copied =
                copying.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads it has failed")));
            compared.copied = copied.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
            made
        });
        if let Some(source) = compared.copied.take() {
            return Err(RebuildError::Copy { image: name, digest: record.digest, title, source });
        }
        let failed = |source| RebuildError::Layer {
            image: name.clone(),
            digest: record.digest,
            title: title.clone(),
            source: Box::new(source),
        };
        let noted = made.map_err(failed)?;
        let (rebuilt, size) = compared.hasher.finish();
        let layer = RebuiltLayer { digest: record.digest, rebuilt, size, compared: is_compared };
        let first = compared.first;
        if rebuilt == record.digest && first.is_none() {
            return Ok((layer, None));
        }
        let mut difference = LayerDifference {
            layer: 0,
            title: title.clone(),
            digest: record.digest,
            rebuilt,
            file: None,
            byte: None,
            offset: first.as_ref().map(|first| first.offset),
            was: first.as_ref().and_then(|first| first.was),
            is: first.as_ref().and_then(|first| first.is),
            sources: Vec::new(),
            copy_is_wrong: rebuilt == record.digest,
        };
        match first {
            Some(first) => {
                let place = place_of(recipe, first.offset).map_err(failed)?;
                (difference.file, difference.byte) = place.map_or((None, None), |(file, byte)| (Some(file), byte));
            }
            None => {
                let (was, is) = (sums.map(Checksums::as_slice), noted.checksums.as_slice());
                let at = was.and_then(|was| (0..was.len().max(is.len())).find(|n| was.get(*n) != is.get(*n)));
                if let Some(at) = at {
                    difference.file = file_of(recipe, at).map_err(failed)?;
                }
            }
        }
        if rebuilt != record.digest
            && let LayoutError::Changed { culprits, .. } = crate::image::layout::changed(record, recipe)
        {
            difference.sources = culprits;
        }
        Ok((layer, Some(difference)))
    }
}

/// The bytes of a layer that were kept: those of the copy, or a blob of the image itself.
fn copy_of<'a>(
    image: &'a ImageDir,
    copy: Option<&'a ImageDir>,
    record: &'a LayerRecord,
    progress: &'a Progress,
) -> Result<Option<LayerBytes<'a>>, LayoutError> {
    let has = |copy: &&ImageDir| copy.summary().layers().iter().any(|layer| layer.digest == record.digest);
    if let Some(copy) = copy.filter(has)
        && !copy.summary().leaves_out(record)
    {
        return LayerBytes::layer(copy, record, progress).map(Some);
    }
    match image.layer_blob(record)? {
        Some(_) => LayerBytes::layer(image, record, progress).map(Some),
        None => Ok(None),
    }
}

/// The first byte that differs.
#[derive(Debug, Clone, Copy)]
struct FirstByte {
    offset: u64,
    was: Option<u8>,
    is: Option<u8>,
}

/// Compares what is made with a copy, and hashes it.
struct Compared<'a> {
    hasher: Hasher,
    other: Option<BufReader<PipeReader>>,
    buffer: Vec<u8>,
    first: Option<FirstByte>,
    /// Why the copy could not be read.
    copied: Option<io::Error>,
    progress: &'a Progress,
}

impl<'a> Compared<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self { hasher: Hasher::new(), other: None, buffer: Vec::new(), first: None, copied: None, progress }
    }

    fn compare(&mut self, bytes: &[u8]) -> io::Result<()> {
        let start = self.hasher.count();
        self.hasher.update(bytes);
        let Some(other) = self.other.as_mut().filter(|_| self.first.is_none()) else { return Ok(()) };
        self.buffer.resize(bytes.len(), 0);
        let mut filled = 0;
        while filled < bytes.len() {
            match other.read(&mut self.buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        let was = &self.buffer[..filled];
        let at = bytes.iter().zip(was).position(|(is, was)| is != was);
        let at = at.or((filled < bytes.len()).then_some(filled));
        self.first =
            at.map(|at| FirstByte { offset: start + at as u64, was: was.get(at).copied(), is: bytes.get(at).copied() });
        if self.first.is_some() {
            self.other = None;
        }
        Ok(())
    }

    /// Everything was made: the copy has to be at its end too.
    fn end(&mut self) {
        let mut byte = [0];
        if let Some(other) = &mut self.other
            && matches!(other.read(&mut byte), Ok(1))
        {
            self.first = Some(FirstByte { offset: self.hasher.count(), was: Some(byte[0]), is: None });
        }
    }
}

impl Sink for Compared<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.compare(bytes)
    }

    fn file(&mut self, file: &std::fs::File, size: u64, _: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        let progress = self.progress;
        let mut readers: Readers<'_> = readers;
        readers.here.push(Box::new(|chunk| self.compare(chunk)));
        fan_out(file, size, readers, progress)
    }
}

/// The file that a byte of a layer's archive is in, and which byte of it that is; without one for what is in its header.
fn place_of(recipe: &Recipe, offset: u64) -> Result<Option<(PathBuf, Option<u64>)>, LayerError> {
    if let Some(blob) = recipe.blob() {
        return Ok(place_in_archive(blob, offset));
    }
    let (mut at, mut found) = (0, None);
    recipe.members(&mut |LayerMember { entry, .. }| {
        let start = at + header(&entry, at).len() as u64;
        let end = start + entry.size() + padding(entry.size());
        if found.is_none() && offset < end {
            let path = PathBuf::from(format!("/{}", String::from_utf8_lossy(&entry.path)));
            found = Some((path, offset.checked_sub(start)));
        }
        at = end;
        Ok(())
    })?;
    Ok(found)
}

/// The same for an archive that is there as a file; `None` where it is packed, or damaged before that byte.
fn place_in_archive(blob: &Path, offset: u64) -> Option<(PathBuf, Option<u64>)> {
    let mut archive = open_whole(blob).ok()?;
    while let Ok(Some(member)) = tar_reader::next(&mut archive) {
        let start = archive.position();
        let end = start + member.size + padding(member.size);
        if offset < end {
            return Some((Path::new("/").join(member.path()), offset.checked_sub(start)));
        }
        archive.go_to(end);
    }
    None
}

/// The file of a layer that has the sum of this number.
fn file_of(recipe: &Recipe, number: usize) -> Result<Option<PathBuf>, LayerError> {
    if recipe.blob().is_some() {
        return Ok(None);
    }
    let (mut seen, mut found) = (0, None);
    recipe.members(&mut |LayerMember { entry, .. }| {
        if entry.size() > 0 {
            if seen == number {
                found = Some(PathBuf::from(format!("/{}", String::from_utf8_lossy(&entry.path))));
            }
            seen += 1;
        }
        Ok(())
    })?;
    Ok(found)
}
