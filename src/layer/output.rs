//! The file that layers are written to: [`Output`] is the [`Sink`] that writes. It hashes what it writes, and lets the file
//! system share the data of large files where it can.
//!
//! How data gets from a store path into an output:
//!
//! | file systems | default ([`Verify::Auto`]) | [`Verify::Always`] | [`Verify::Never`] |
//! |---|---|---|---|
//! | XFS, Btrfs, both files on one | shared; read and hashed unless the Nix store vouches for it | shared, read and hashed | shared, not read |
//! | any other | read once, hashed and written | the same | copied inside the kernel |

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use super::{ALIGN_FROM, Sink};
use crate::disk::pipe::{CHUNK, PipeError, Readers, fan_out, read_chunks};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::oci::digest::{Digest, Hasher};

/// Bytes of headers and small files that are gathered for one write: more, smaller writes cost the file system time.
const GATHER: usize = 512 * 1024;

/// How far the bytes of a layer are compared with its digest while they are written. See the [module](self).
///
/// The Nix store vouches for a file of it that still has the modification time and mode that Nix gives (1, not
/// writable): Nix alone writes there. What a disk does by itself only [`Verify::Always`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Unless data is shared for which the Nix store vouches.
    #[default]
    Auto,
    /// Always, even if that means to read data that could have been shared.
    Always,
    /// Never: the store is trusted, and data is not even read where the kernel can copy it.
    Never,
}

/// A file that is being written, with the digests of what goes into it.
#[derive(Debug)]
pub(crate) struct Output<'p> {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Bytes before the buffer.
    flushed: u64,
    whole: Option<Hasher>,
    blob: Option<Hasher>,
    verify: Verify,
    progress: &'p Progress,
    /// Whether data of a device's files can be shared with this one.
    clones: BTreeMap<u64, bool>,
    /// Whether it shares data with a file that it was given.
    shared: bool,
    /// Whether it is a pipe, which can share nothing.
    is_pipe: bool,
}

impl<'p> Output<'p> {
    /// Writes to the file at `path`, which is created or emptied. `whole` asks for the digest of everything.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub(crate) fn create(path: &Path, verify: Verify, whole: bool, progress: &'p Progress) -> Result<Self, WriteError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).at("create", path)?;
        Ok(Self::new(file, path, verify, whole, progress))
    }

    /// Writes to an open file, which is empty; `path` is what messages call it.
    pub(crate) fn new(file: File, path: &Path, verify: Verify, whole: bool, progress: &'p Progress) -> Self {
        let whole = whole.then(Hasher::new);
        let (path, buffer) = (path.to_owned(), Vec::with_capacity(GATHER + CHUNK));
        Self {
            file,
            path,
            buffer,
            flushed: 0,
            whole,
            blob: None,
            verify,
            progress,
            clones: BTreeMap::new(),
            shared: false,
            is_pipe: false,
        }
    }

    /// Writes to a pipe, and compares every byte.
    pub(crate) fn to_pipe(pipe: File, path: &Path, progress: &'p Progress) -> Self {
        Self { is_pipe: true, ..Self::new(pipe, path, Verify::Always, false, progress) }
    }

    /// Names the file in what the system said of a write.
    pub(crate) fn failed(&self, source: io::Error) -> WriteError {
        WriteError { action: "write", path: self.path.clone(), source }
    }

    /// What messages call it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it shares data with a file that it was given.
    pub(crate) const fn is_shared(&self) -> bool {
        self.shared
    }

    /// Bytes written so far.
    #[must_use]
    pub(crate) const fn offset(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// From here on, bytes belong to a blob whose digest is wanted.
    pub(crate) fn begin_blob(&mut self) {
        self.blob = (self.verify != Verify::Never).then(Hasher::new);
    }

    /// The digest and size of the blob that ends here; `None` where its bytes were not all read.
    pub(crate) fn end_blob(&mut self) -> Option<(Digest, u64)> {
        self.blob.take().map(Hasher::finish)
    }

    /// Takes bytes that belong to the blob, and are not written here.
    pub(crate) fn unwritten(&mut self, bytes: &[u8]) {
        if let Some(blob) = &mut self.blob {
            blob.update(bytes);
        }
    }

    /// Writes bytes that do not belong to the blob.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn extra(&mut self, bytes: &[u8]) -> io::Result<()> {
        let blob = self.blob.take();
        let written = self.bytes(bytes);
        self.blob = blob;
        written
    }

    /// Takes `size` bytes of a blob's own file from `from` on, if their data can be shared with it; else nothing. They are read where
    /// the blob's digest is asked for.
    ///
    /// # Errors
    /// Which side failed.
    pub(crate) fn part(&mut self, file: &File, from: u64, size: u64) -> Result<bool, PipeError> {
        if !self.clones(file) {
            return Ok(false);
        }
        self.flush().map_err(PipeError::Write)?;
        if !self.place(file, from, size)? {
            return Ok(false);
        }
        self.shared = true;
        self.progress.count_cloned(size);
        if let Some(blob) = &mut self.blob {
            let (mut buffer, mut at) = (vec![0; CHUNK], from);
            read_chunks(size, self.progress, |want| {
                file.read_exact_at(&mut buffer[..want], at).map_err(PipeError::Read)?;
                blob.update(&buffer[..want]);
                at += want as u64;
                Ok(want)
            })?;
        }
        Ok(true)
    }

    /// Writes what could not be known before over the beginning, and ends.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn finish_with_start(mut self, start: &[u8]) -> Result<(), WriteError> {
        self.flush().and_then(|()| self.file.write_all_at(start, 0)).at("write", &self.path)
    }

    /// Everything is written; its digest, if that was asked for.
    ///
    /// # Errors
    /// If the last bytes cannot be written.
    pub(crate) fn finish(mut self) -> Result<Option<(Digest, u64)>, WriteError> {
        self.flush().at("write", &self.path)?;
        Ok(self.whole.map(Hasher::finish))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.progress.check()?;
        self.file.write_all(&self.buffer)?;
        self.flushed += self.buffer.len() as u64;
        self.progress.count_written(self.buffer.len() as u64);
        self.buffer.clear();
        Ok(())
    }

    /// Whether this file system can share the data of `file`: tried out once for each device.
    fn clones(&mut self, file: &File) -> bool {
        if self.is_pipe {
            return false;
        }
        let Ok(metadata) = file.metadata() else { return false };
        let parent = crate::disk::files::parent_of(&self.path);
        *self
            .clones
            .entry(metadata.dev())
            .or_insert_with(|| tempfile::tempfile_in(parent).is_ok_and(|probe| ioctl_ficlone(&probe, file).is_ok()))
    }

    /// Takes `size` bytes of an open file from `from` on. Nothing of a large range is read where no digest is asked for and
    /// the kernel can copy it.
    ///
    /// # Errors
    /// Which side failed. A file that ends early is a [`PipeError::Read`] of kind `UnexpectedEof`.
    pub(crate) fn range(&mut self, file: &File, from: u64, size: u64) -> Result<(), PipeError> {
        if size >= ALIGN_FROM && self.whole.is_none() && self.blob.is_none() {
            self.flush().map_err(PipeError::Write)?;
            if self.place(file, from, size)? {
                self.progress.count_written(size);
                return Ok(());
            }
        }
        let mut buffer = vec![0; CHUNK];
        let end = from + size;
        let mut from = from;
        while from < end {
            let want = usize::try_from(end - from).map_or(CHUNK, |left| left.min(CHUNK));
            file.read_exact_at(&mut buffer[..want], from).map_err(PipeError::Read)?;
            self.progress.count_read(want as u64);
            self.bytes(&buffer[..want]).map_err(PipeError::Write)?;
            from += want as u64;
        }
        Ok(())
    }

    /// Lets the kernel put `size` bytes of `file` here, shared where it can. `false` if it cannot do that at all.
    fn place(&mut self, file: &File, mut from: u64, size: u64) -> Result<bool, PipeError> {
        if self.is_pipe {
            return Ok(false);
        }
        let mut left = size;
        while left > 0 {
            self.progress.check().map_err(PipeError::Write)?;
            // 1 GiB at a time, so that a signal is heard.
            let want = usize::try_from(left.min(1 << 30)).unwrap_or(usize::MAX);
            match copy_file_range(file, Some(&mut from), &self.file, None, want) {
                Ok(0) => return Err(PipeError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => left -= count as u64,
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) if left == size => {
                    return Ok(false);
                }
                Err(error) => return Err(PipeError::Write(error.into())),
            }
        }
        self.flushed += size;
        Ok(true)
    }
}

/// Whether files in `directory` can share data.
pub(crate) fn can_share(directory: &Path) -> bool {
    let probe = || tempfile::tempfile_in(directory).ok();
    matches!((probe(), probe()), (Some(to), Some(from)) if ioctl_ficlone(&to, &from).is_ok())
}

/// Whether a file of the Nix store is as Nix has left it: at time 1 and not writable.
pub(crate) fn is_untouched(metadata: &fs::Metadata) -> bool {
    metadata.mtime() == 1 && metadata.mode() & 0o222 == 0
}

impl Sink for Output<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut hashers: Vec<&mut Hasher> = [&mut self.whole, &mut self.blob].into_iter().flatten().collect();
        Hasher::update_all(&mut hashers, bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= GATHER { self.flush() } else { Ok(()) }
    }

    fn file(&mut self, file: &File, size: u64, in_store: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        let mut readers: Readers<'_> = readers;
        if size < ALIGN_FROM {
            let progress = self.progress;
            readers.here.push(Box::new(|chunk| self.bytes(chunk)));
            return fan_out(file, size, readers, progress);
        }
        self.flush().map_err(PipeError::Write)?;
        let clones = self.clones(file);
        let placed = (clones || self.verify == Verify::Never) && self.place(file, 0, size)?;
        if placed {
            if clones {
                self.shared = true;
                self.progress.count_cloned(size);
            } else {
                self.progress.count_written(size);
            }
            let vouched = || in_store && file.metadata().is_ok_and(|metadata| is_untouched(&metadata));
            let trusted = self.verify == Verify::Never || (self.verify == Verify::Auto && vouched());
            if self.whole.is_none() && readers.is_empty() && trusted {
                self.blob = None;
                return Ok(());
            }
        }
        readers.hashers.extend([&mut self.whole, &mut self.blob].into_iter().flatten());
        if !placed {
            let (mut target, progress) = (&self.file, self.progress);
            readers.here.push(Box::new(move |chunk| {
                progress.count_written(chunk.len() as u64);
                target.write_all(chunk)
            }));
            self.flushed += size;
        }
        fan_out(file, size, readers, self.progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_whatever_their_size() {
        let directory = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..5 * 1024 * 1024u32).map(|i| (i % 251) as u8).collect();
        let source = directory.path().join("source");
        fs::write(&source, &data).unwrap();
        let (file, progress) = (File::open(&source).unwrap(), Progress::new());
        let ranges = [(7, 100), (0, 0), (13, 3 << 20), (100_000, 70_000)];
        for whole in [false, true] {
            let path = directory.path().join("output");
            let mut output = Output::create(&path, Verify::Never, whole, &progress).unwrap();
            output.bytes(b"head").unwrap();
            ranges.iter().for_each(|(from, size)| output.range(&file, *from, *size).unwrap());
            let early = output.range(&file, 5 << 20, 1).unwrap_err();
            assert!(matches!(early, PipeError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof));
            output.finish().unwrap();
            let parts = ranges.iter().flat_map(|&(from, size)| &data[from as usize..][..size as usize]);
            let expected: Vec<u8> = b"head".iter().chain(parts).copied().collect();
            assert!(fs::read(&path).unwrap() == expected);
        }
    }

    #[test]
    fn output_hashes_the_whole_and_the_blob_for_every_policy() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        let data: Vec<u8> = (0..6 * 1024 * 1024u32).map(|i| (i % 253) as u8).collect();
        fs::write(&source, &data).unwrap();
        for (verify, known) in [(Verify::Auto, true), (Verify::Always, true), (Verify::Never, false)] {
            let progress = Progress::new();
            let path = directory.path().join("output");
            let mut output = Output::create(&path, verify, true, &progress).unwrap();
            output.bytes(b"head").unwrap();
            output.begin_blob();
            output.bytes(b"pad").unwrap();
            output.file(&File::open(&source).unwrap(), data.len() as u64, false, Readers::default()).unwrap();
            let blob = output.end_blob();
            output.bytes(b"tail").unwrap();
            assert_eq!(output.offset(), data.len() as u64 + 11);
            let whole = output.finish().unwrap().unwrap();
            let written = fs::read(&path).unwrap();
            assert_eq!(written, [b"headpad", &data[..], b"tail"].concat());
            assert_eq!(whole.0, Digest::of(&written));
            assert_eq!(blob.is_some(), known);
            assert!(blob.is_none_or(|(digest, _)| digest == Digest::of(&written[4..written.len() - 4])));
        }
    }
}
