//! The archive of a layer that a store has, from its tree and its tar-split record: for what is to go to another store, and for
//! what a patch takes from an older layer.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::rooted_path::TreeRoot;
use crate::disk::beneath::Dir;
use crate::disk::pipe::CHUNK;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError, bounded};
use crate::layer::patch::OldBytes;
use crate::layer::tar_reader::clean;
use crate::oci::digest::Digest;
use crate::podman::storage::snapshot::StoreSnapshot;
use crate::podman::storage::tar_split::{TarSplitLine, read};

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredArchive {
    record: PathBuf,
    tree: PathBuf,
}

impl StoredArchive {
    /// The first that any store has with this digest.
    pub(crate) fn find(snapshot: &StoreSnapshot, diff_id: Digest) -> Option<Self> {
        let all = snapshot.stores.iter().flat_map(|store| store.layers.values().map(move |layer| (store, layer)));
        let mut fits = all.filter(|(_, layer)| layer.diff_digest == Some(diff_id) && !layer.is_incomplete());
        fits.find_map(|(store, layer)| {
            let found = Self { record: store.tar_split(&layer.id), tree: store.tree(&layer.id) };
            (found.record.is_file() && found.tree.is_dir()).then_some(found)
        })
    }

    /// Its bytes, to be read from anywhere.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub(crate) fn open(&self) -> Result<StoredBytes, WriteError> {
        let record = bounded::open(&self.record).at("open", &self.record)?;
        StoredBytes::of((record, &self.record), Dir::open(&self.tree)?)
    }

    /// Hands on its bytes. That they are what they were, who takes them compares.
    ///
    /// # Errors
    /// If something of it cannot be read, or `to` fails.
    pub(crate) fn stream(
        &self,
        to: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        progress: &Progress,
    ) -> Result<(), WriteError> {
        let (mut bytes, mut at) = (self.open()?, 0);
        let size = bytes.size();
        let mut chunk = vec![0; CHUNK];
        while at < size {
            let wanted = CHUNK.min(usize::try_from(size - at).unwrap_or(CHUNK));
            let mut hand_on = || {
                progress.check()?;
                bytes.read_at(at, &mut chunk[..wanted])?;
                progress.count_read(wanted as u64);
                to(&chunk[..wanted])
            };
            hand_on().at("read", &self.tree)?;
            at += wanted as u64;
        }
        Ok(())
    }
}

/// What lies at one place of an archive.
#[derive(Debug)]
enum StoredPiece {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// The bytes of an archive. Its headers are held in memory, its files are read where they are.
#[derive(Debug)]
pub(crate) struct StoredBytes {
    root: TreeRoot,
    /// Where each piece begins, in order.
    pieces: Vec<(u64, StoredPiece)>,
    size: u64,
    /// The file that was read last.
    open: Option<(PathBuf, File)>,
}

impl StoredBytes {
    /// Those of a tree, by its tar-split record, which is open; with the path that messages have for it.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub(crate) fn of((record, path): (File, &Path), tree: Dir) -> Result<Self, WriteError> {
        let place = tree.path().to_owned();
        let root = TreeRoot::of(tree).at("open", &place)?;
        let mut bytes = Self { root, pieces: Vec::new(), size: 0, open: None };
        read(record, path, &mut |line| {
            let (piece, length) = match line {
                TarSplitLine::Segment(segment) => {
                    let length = segment.len() as u64;
                    (StoredPiece::Bytes(segment), length)
                }
                // Without a size its bytes are in the record.
                TarSplitLine::Member { size: 0, .. } => return Ok(()),
                TarSplitLine::Member { name, size, .. } => (StoredPiece::File(clean(&name)), size),
            };
            bytes.pieces.push((bytes.size, piece));
            bytes.size += length;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Bytes of the whole archive.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }
}

impl OldBytes for StoredBytes {
    fn read_at(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let mut n = self.pieces.partition_point(|(begin, _)| *begin <= offset).saturating_sub(1);
        while !buffer.is_empty() {
            let end = self.pieces.get(n + 1).map_or(self.size, |(begin, _)| *begin);
            let Some((begin, piece)) = self.pieces.get(n).filter(|_| offset < end) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let here = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            let (now, rest) = std::mem::take(&mut buffer).split_at_mut(here);
            match piece {
                StoredPiece::Bytes(bytes) => {
                    let mut bytes =
                        bytes.get(usize::try_from(offset - begin).unwrap_or(usize::MAX)..).unwrap_or_default();
                    bytes.read_exact(now)?;
                }
                StoredPiece::File(path) => {
                    if self.open.as_ref().is_none_or(|(open, _)| open != path) {
                        self.open = Some((path.clone(), self.root.open_at(path, OFlags::RDONLY)?.0));
                    }
                    if let Some((_, file)) = &self.open {
                        file.read_exact_at(now, offset - begin)?;
                    }
                }
            }
            buffer = rest;
            offset += here as u64;
            n += 1;
        }
        Ok(())
    }
}
