//! One platform of an image as a tar stream: made while it is sent, and in no file of ours.
//!
//! It is an OCI image layout and a docker-archive at once, as [`crate::image::archive`] writes them, with one manifest and one
//! name. Every byte is read once, hashed and compared. One that is wrong ends the stream before its end, so that who reads it
//! knows that there is not all of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::image::archive::{docker_manifest, write_members};
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::PlatformRecord;
use crate::image::{LayerRecord, SmallBlob, index_json, oci_layout};
use crate::layer::output::Output;
use crate::oci::digest::Digest;

/// What is sent of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageStream<'a> {
    pub(crate) image: &'a ImageDir,
    pub(crate) platform: &'a PlatformRecord,
    /// Name and tag.
    pub(crate) name: &'a str,
    /// Layers that the other side has.
    pub(crate) without: &'a BTreeSet<Digest>,
    /// Who reads it, for messages.
    pub(crate) to: &'a Path,
}

impl ImageStream<'_> {
    /// Bytes of the layers that are sent.
    #[must_use]
    pub(crate) fn payload(&self) -> u64 {
        self.platform.layers.iter().filter(|layer| !self.without.contains(&layer.digest)).map(|layer| layer.size).sum()
    }

    /// Hands the stream to `send`, and gives back what that gives. The outer error is that of the image.
    ///
    /// # Errors
    /// If the image cannot be read or is not what its digests say; then the reader that `send` has ends with an error.
    pub(crate) fn send<T>(&self, progress: &Progress, send: impl FnOnce(&mut dyn Read) -> T) -> Result<T, LayoutError> {
        let (reader, writer) = io::pipe().at("make a pipe for", self.to)?;
        let is_whole = AtomicBool::new(false);
        let (sent, written) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let pipe = File::from(OwnedFd::from(writer));
                let written = pipe.try_clone().at("make a pipe for", self.to).map_err(LayoutError::from);
                let written = written.and_then(|file| self.write(file, progress));
                is_whole.store(written.is_ok(), Ordering::Release);
                // Open until now: who sees its end sees the flag.
                drop(pipe);
                written
            });
            // Closed before the writer is waited for, which is told so by its next write.
            let sent = {
                let mut reader = WholeReader { reader, is_whole: &is_whole };
                send(&mut reader)
            };
            let written = match writer.join() {
                Ok(written) => written,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            (sent, written)
        });
        match written {
            // The other side had enough: it says why.
            Err(LayoutError::Write(WriteError { source, .. })) if source.kind() == ErrorKind::BrokenPipe => Ok(sent),
            Err(error) => Err(error),
            Ok(()) => Ok(sent),
        }
    }

    fn write(&self, file: File, progress: &Progress) -> Result<(), LayoutError> {
        let mut output = Output::to_pipe(file, self.to, progress);
        let (image, platform) = (self.image, self.platform);
        let blob_name = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
        let blob = |digest: Digest| {
            let mut blobs = image.image().small_blobs();
            blobs.find(|blob| blob.digest == digest).ok_or_else(|| LayoutError::Read {
                path: image.path().join(blob_name(digest)),
                source: ErrorKind::NotFound.into(),
            })
        };
        let (manifest, config): (&SmallBlob, &SmallBlob) = (blob(platform.digest)?, blob(platform.config_digest)?);
        let small = [
            ("index.json".to_owned(), index_json(manifest, self.name)),
            ("oci-layout".to_owned(), oci_layout()),
            ("manifest.json".to_owned(), docker_manifest(platform, self.name)),
            (blob_name(manifest.digest), manifest.bytes.clone()),
            (blob_name(config.digest), config.bytes.clone()),
        ];
        let mut sent = BTreeSet::new();
        let is_sent = |layer: &&LayerRecord| !self.without.contains(&layer.digest) && sent.insert(layer.digest);
        write_members(image, small, platform.layers.iter().filter(is_sent), &mut output, self.to)?;
        output.finish()?;
        Ok(())
    }
}

/// The side that is sent: its end is an error unless all was written.
struct WholeReader<'a> {
    reader: PipeReader,
    is_whole: &'a AtomicBool,
}

impl Read for WholeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0 && !buffer.is_empty() && !self.is_whole.load(Ordering::Acquire) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}
