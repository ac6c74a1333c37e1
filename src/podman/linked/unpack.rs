//! The tree that a layer's archive unpacks to, for a layer that was not built here: only its archive is there.
//!
//! What comes out is what containers-storage makes of the same archive for the overlay driver (`pkg/archive`, *Unpack*;
//! compared with skopeo 1.9 in the tests): whiteouts become devices 0/0, opaque directories get an attribute, links on
//! the way to a member are followed as if the tree were `/`, `..` leads no further up than to the root, `.` itself is
//! left as it is, a member whose directories are missing gets them. Two things differ:
//!
//! - A member that takes the place of another one is an error ([`UnpackError::Twice`]). Podman refuses the same name
//!   twice; if two names lead to one place, by a link, it unpacks both, and can then neither save nor push the layer.
//! - The tar-split record ([`crate::podman::storage::tar_split`]) names members by where they are, and has the holes of sparse files, so
//!   that layers with links, with `..` and with holes can be saved too.
//!
//! **Who may enter it.** Nearly every image has files that give power to their users: `su` and `mount` with the set-user-ID bit,
//! `ping` with a capability, devices, a `/tmp` for all, files of user 1000. On the host they would be every user's to run
//! where the linked store is shared. So the directory `overlay/<layer>` of an unpacked layer is its owner's alone
//! (0700), as all of Podman's own storage is. Measured with Podman 4.3: root's containers do not notice. Users who have
//! root's store beside their own see such an image and cannot run it; whatever else is in the store they can. `windlass
//! load` brings them a copy of their own. A plain `podman pull` of the same layers does not: it takes root's for granted.
//!
//! One pass over the stream. Memory grows with the number of directories and whiteouts, nothing else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::unpack_members::UnpackedTree;
use super::{TAR_SPLIT, TREE};
use crate::class::{Class, Classified};
use crate::disk::beneath::Dir;
use crate::disk::pairs::PairedHasher;
use crate::disk::pipe::{BUFFERS, CHUNK, Chunk, ChunkPool, THREADS_FROM};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::layer::padding;
use crate::layer::tar_reader::{self, BadArchive};
use crate::oci::digest::Digest;
use crate::podman::storage::tar_split::Writer;

pub(crate) use crate::layer::WHITEOUT;
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Whether an attribute is the host's alone, so that an image cannot bring it (containers-storage, *xattrsToIgnore*), or would be
/// obeyed by its overlay: a redirect could lead to files of another layer.
pub(crate) fn is_ignored(key: &[u8]) -> bool {
    let prefixes: [&[u8]; 6] = [
        b"security.selinux",
        b"security.SMACK64",
        b"security.ima",
        b"security.evm",
        b"trusted.overlay.",
        b"user.overlay.",
    ];
    prefixes.iter().any(|prefix| key.starts_with(prefix))
}

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The archive, or what it is packed in, cannot be read.
    #[error("its archive cannot be read: {0}")]
    Read(io::Error),
    /// It is not an archive, or has members that Podman does not unpack either.
    #[error("its archive cannot be unpacked: {0}")]
    Archive(String),
    /// More comes out of it than it is told to have.
    #[error("its archive has more than the {limit} bytes that it should have")]
    TooLarge {
        /// How many these are.
        limit: u64,
    },
    /// Two members want one place.
    #[error("{path} is in its archive twice")]
    Twice {
        /// The place in the image.
        path: String,
    },
    /// A member that cannot be where its name says.
    #[error("{path} in its archive cannot be unpacked: {why}")]
    Member {
        /// Its name.
        path: String,
        /// Why.
        why: String,
    },
    /// Only root can make it.
    #[error("{path} {what}, and only root can make that; load with `--via podman`")]
    OnlyRoot {
        /// The path in the image.
        path: String,
        /// What it is.
        what: String,
    },
    /// The place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for UnpackError {
    fn class(&self) -> Class {
        match self {
            Self::Read(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Archive(_)
            | Self::TooLarge { .. }
            | Self::Twice { .. }
            | Self::Member { .. }
            | Self::OnlyRoot { .. } => Class::Failed,
        }
    }
}

/// What an archive turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Its digest.
    pub diff_id: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The owners of its members, but for whiteouts.
    pub(crate) uids: BTreeSet<u64>,
    /// Their groups.
    pub(crate) gids: BTreeSet<u64>,
    /// How many files were written.
    pub(crate) files: u64,
}

/// Makes the tree of an archive as [`TREE`] in `workplace`, and its tar-split record as [`TAR_SPLIT`]. Reading stops behind
/// `limit` bytes.
///
/// # Errors
/// See [`UnpackError`]; what was made so far is left to the caller. Nothing outside of the tree is touched.
pub fn unpack(
    archive: &mut dyn Read,
    workplace: &Dir,
    limit: u64,
    progress: &Progress,
) -> Result<Unpacked, UnpackError> {
    let tree = workplace.make(TREE, 0o700)?;
    let path = tree.path().to_owned();
    let record = Writer::new(workplace.create(TAR_SPLIT)?, &workplace.at(TAR_SPLIT));
    let _streaming = progress.streaming();
    let source = Source { from: archive, size: 0, limit };
    let mut stream = ArchiveStream { source, hasher: PairedHasher::new(progress.pairs()), record, progress };
    let mut place = UnpackedTree::new(tree)?;
    let (mut uids, mut gids) = (BTreeSet::new(), BTreeSet::new());
    while let Some(member) = tar_reader::next(&mut Headers(&mut stream)).map_err(|error| stream.failed(error))? {
        progress.check().at("write", &path)?;
        if !member.path().file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT)) {
            uids.insert(member.uid);
            gids.insert(member.gid);
        }
        place.member(&member, &mut stream)?;
    }
    // Behind the end there may be anything, and it belongs to the archive.
    io::copy(&mut Headers(&mut stream), &mut io::sink()).map_err(|error| stream.failed(error.into()))?;
    place.finish()?;
    progress.count_written(stream.record.finish()?);
    let (diff_id, size) = stream.hasher.finish();
    Ok(Unpacked { diff_id, size, uids, gids, files: place.files })
}

/// What takes the bytes of a file part by part, with the record that they are told to.
type Parts<'c> = dyn FnMut(&[u8], &mut Writer) -> Result<(), UnpackError> + 'c;

/// Where the archive comes from.
struct Source<'a> {
    from: &'a mut dyn Read,
    size: u64,
    limit: u64,
}

impl Source<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.from.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.size += read as u64;
        if self.size > self.limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(read) }
    }

    /// Fills the buffer, unless the archive ends: how many bytes there are. Packed bytes come out in parts of any size, and each part that
    /// is written by itself costs the file system time.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.take(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }
}

/// The archive, hashed while it is read.
pub(crate) struct ArchiveStream<'a> {
    source: Source<'a>,
    /// Layers that are unpacked at the same time are hashed two by two.
    hasher: PairedHasher<'a>,
    pub(crate) record: Writer,
    pub(crate) progress: &'a Progress,
}

impl ArchiveStream<'_> {
    fn failed(&self, error: BadArchive) -> UnpackError {
        match error {
            BadArchive::Read(_) if self.source.size > self.source.limit => {
                UnpackError::TooLarge { limit: self.source.limit }
            }
            BadArchive::Read(error) => UnpackError::Read(error),
            error => UnpackError::Archive(error.to_string()),
        }
    }

    /// Hands on the next `size` bytes, part by part.
    pub(crate) fn content(&mut self, size: u64, to: &mut Parts<'_>) -> Result<(), UnpackError> {
        if self.up_to(size, to)? == size { Ok(()) } else { Err(self.failed(BadArchive::CutOff("a file"))) }
    }

    /// Writes the next `size` bytes to a file, and hands them on.
    pub(crate) fn write(
        &mut self,
        size: u64,
        (mut file, path): (&File, &Path),
        to: &mut dyn FnMut(&[u8]),
    ) -> Result<(), UnpackError> {
        let writing = |source| UnpackError::Write(WriteError { action: "write", path: path.to_owned(), source });
        if size < THREADS_FROM || !self.progress.has_idle_processors() {
            return self.content(size, &mut |part, _| {
                to(part);
                file.write_all(part).map_err(writing)
            });
        }
        // Hashing takes as long as writing, and both as all else that is done with the bytes: each has a thread.
        let mut hasher = self.hasher.take_out();
        let mut read = || {
            std::thread::scope(|scope| {
                let (to_hash, chunks) = sync_channel::<Arc<Chunk>>(BUFFERS);
                scope.spawn(|| chunks.into_iter().for_each(|chunk| hasher.update(chunk.bytes())));
                let (to_write, chunks) = sync_channel::<Arc<Chunk>>(BUFFERS);
                let writer =
                    scope.spawn(move || chunks.into_iter().try_for_each(|chunk| file.write_all(chunk.bytes())));
                let read = self.chunks(size, &mut |chunk| {
                    to(chunk.bytes());
                    // What has stopped has failed, and says why itself.
                    [&to_hash, &to_write].into_iter().try_for_each(|thread| thread.send(Arc::clone(chunk))).is_ok()
                });
                drop((to_hash, to_write));
                writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(writing)?;
                read
            })
        };
        let read = read();
        self.hasher.put_back(hasher);
        read
    }

    /// What fills a member of this size up to a whole block. Behind the last one there may be less of it, or nothing, as
    /// Go's reader has it, and so Podman: umoci 0.4 writes such archives.
    pub(crate) fn padding(&mut self, size: u64) -> Result<(), UnpackError> {
        self.up_to(padding(size), &mut |part, record| Ok(record.segment(part)?)).map(drop)
    }

    /// Bytes that are no file's content: those of a member of this size, which is not unpacked.
    pub(crate) fn skip(&mut self, size: u64) -> Result<(), UnpackError> {
        self.content(size, &mut |part, record| Ok(record.segment(part)?))?;
        self.padding(size)
    }

    /// Hands on the next `size` bytes, or as many as there are: that many.
    fn up_to(&mut self, size: u64, to: &mut Parts<'_>) -> Result<u64, UnpackError> {
        let mut left = size;
        while left > 0 {
            let space = self.hasher.space();
            let wanted = usize::try_from(left).map_or(space.len(), |left| left.min(space.len()));
            let space = &mut space[..wanted];
            let filled = match self.source.fill(space) {
                Ok(0) => break,
                Ok(filled) => filled,
                Err(error) => return Err(self.failed(error.into())),
            };
            to(&space[..filled], &mut self.record)?;
            self.hasher.advance(filled);
            left -= filled as u64;
            self.progress.check().map_err(UnpackError::Read)?;
        }
        Ok(size - left)
    }

    /// Hands on the next `size` bytes in chunks that other threads can take, for as long as `to` says so, and hashes none of them.
    fn chunks(&mut self, size: u64, to: &mut dyn FnMut(&Arc<Chunk>) -> bool) -> Result<(), UnpackError> {
        let (mut pool, mut left) = (ChunkPool::new(), size);
        while left > 0 {
            let wanted = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = pool.fill(|buffer| self.source.fill(&mut buffer[..wanted]));
            let chunk = chunk.map_err(|error| self.failed(error.into()))?;
            if chunk.bytes().is_empty() {
                return Err(self.failed(BadArchive::CutOff("a file")));
            }
            left -= chunk.bytes().len() as u64;
            if !to(&chunk) {
                return Err(UnpackError::Read(io::ErrorKind::BrokenPipe.into()));
            }
            self.progress.check().map_err(UnpackError::Read)?;
        }
        Ok(())
    }
}

/// The stream for the reader of headers: all of it becomes a part of the record.
struct Headers<'s, 'a>(&'s mut ArchiveStream<'a>);

impl Read for Headers<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.source.take(buffer)?;
        self.0.hasher.update(&buffer[..read]);
        self.0.record.segment(&buffer[..read]).map_err(io::Error::other)?;
        Ok(read)
    }
}
