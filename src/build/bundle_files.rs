//! The blobs of a bundle: one file each, or several where no file may be so large.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::bundle::{BundleError, publish};
use crate::disk::bounded;
use crate::disk::parts::part;
use crate::disk::pipe::{PipeError, Readers, fan_out};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::image::LayerRecord;
use crate::image::bundle::BLOBS;
use crate::image::layout::ImageDir;
use crate::layer::Sink;
use crate::layer::output::{Output, Verify};
use crate::oci::digest::{Digest, Hasher};

/// A layer that a bundle holds.
#[derive(Debug)]
pub(super) struct BundleBlob<'a> {
    pub(super) image: &'a ImageDir,
    pub(super) layer: &'a LayerRecord,
    /// How many parts it is cut into, and how large they are; `None` for one file.
    pub(super) parts: Option<(u64, u64)>,
    pub(super) is_there: bool,
}

impl BundleBlob<'_> {
    /// Its files by their paths in the bundle, with their sizes.
    pub(super) fn files(&self) -> Vec<(PathBuf, u64)> {
        let path = Path::new(BLOBS).join(self.layer.digest.hex());
        let Some((count, most)) = self.parts else { return vec![(path, self.layer.size)] };
        (0..count).map(|n| (part(&path, n), most.min(self.layer.size - n * most))).collect()
    }
}

/// Whether a file in the folder of blobs is a blob, or what was to become one: whole, cut, or half-written.
pub(crate) fn is_name_of_blob(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    let digest = name.rsplit_once(".part-").map_or(name, |(digest, _)| digest);
    Digest::from_hex(digest).is_ok()
}

/// Whether the files of a blob have these digests. One that cannot be read has not.
///
/// # Errors
/// If the run is to stop.
pub(super) fn are_as_told(
    files: &[(PathBuf, Digest)],
    bundle: &Path,
    progress: &Progress,
) -> Result<bool, BundleError> {
    for (path, digest) in files {
        let path = bundle.join(path);
        let mut hasher = Hasher::new();
        let hashed = bounded::open(&path).and_then(|mut file| io::copy(&mut file, &mut hasher));
        progress.check().at("read", &path)?;
        progress.count_read(hasher.count());
        if hashed.is_err() || hasher.finish().0 != *digest {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes a blob into a bundle; its files with their digests.
pub(super) fn write_blob(
    blob: &BundleBlob<'_>,
    bundle: &Path,
    verify: Verify,
    progress: &Progress,
) -> Result<Vec<(PathBuf, Digest)>, BundleError> {
    let files = blob.files();
    let beside: Vec<PathBuf> = files.iter().map(|(path, _)| beside(&bundle.join(path))).collect();
    let written = write_beside(blob, &beside, verify, progress);
    let digests = written.inspect_err(|_| beside.iter().for_each(|path| drop(fs::remove_file(path))))?;
    for ((path, _), beside) in files.iter().zip(&beside) {
        publish(beside, &bundle.join(path))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).zip(digests).collect())
}

/// Where a file is written before it gets its name.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// A new file to write to. What a killed run has left there goes first, since drivers of FAT refuse to write over a half-written
/// file, and what another user has put there is not followed.
pub(super) fn create_beside(path: &Path) -> Result<File, WriteError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => File::create_new(path).at("create", path),
    }
}

/// Writes the bytes of a blob to these files, and compares them with its digest.
fn write_beside(
    blob: &BundleBlob<'_>,
    files: &[PathBuf],
    verify: Verify,
    progress: &Progress,
) -> Result<Vec<Digest>, BundleError> {
    let BundleBlob { image, layer, parts, .. } = blob;
    let Some((_, most)) = *parts else {
        let mut output = Output::new(create_beside(&files[0])?, &files[0], verify, false, progress);
        image.write_layer(layer, &mut output)?;
        output.finish()?;
        return Ok(vec![layer.digest]);
    };
    let mut cut = CutFile { files, most, part: None, digests: Vec::new(), hasher: Hasher::new(), progress };
    image.stream_layer(layer, &mut cut, &files[0])?;
    cut.end_part()?;
    let (found, size) = cut.hasher.finish();
    image.compare_layer(layer, found, size)?;
    Ok(cut.digests)
}

/// Several files that take one stream.
struct CutFile<'a> {
    files: &'a [PathBuf],
    most: u64,
    /// The one that is written now.
    part: Option<Output<'a>>,
    /// Digests of those that are written.
    digests: Vec<Digest>,
    hasher: Hasher,
    progress: &'a Progress,
}

impl CutFile<'_> {
    fn end_part(&mut self) -> Result<(), WriteError> {
        if let Some(part) = self.part.take() {
            self.digests.extend(part.finish()?.map(|(digest, _)| digest));
        }
        Ok(())
    }
}

impl Sink for CutFile<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let plain = |error: WriteError| error.source;
        self.hasher.update(bytes);
        let mut left = bytes;
        while !left.is_empty() {
            let mut part = match self.part.take() {
                Some(part) => part,
                None => {
                    // Fewer parts hold all that the layer should have.
                    let file = self.files.get(self.digests.len()).ok_or(io::ErrorKind::FileTooLarge)?;
                    Output::new(create_beside(file).map_err(plain)?, file, Verify::Never, true, self.progress)
                }
            };
            let room = usize::try_from(self.most - part.offset()).unwrap_or(usize::MAX);
            let (now, rest) = left.split_at(left.len().min(room));
            part.bytes(now)?;
            left = rest;
            let is_full = part.offset() == self.most;
            self.part = Some(part);
            if is_full {
                self.end_part().map_err(plain)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &File, size: u64, _: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        let progress = self.progress;
        let mut readers: Readers<'_> = readers;
        readers.here.push(Box::new(|chunk| self.bytes(chunk)));
        fan_out(file, size, readers, progress)
    }
}
