//! The archive of a layer that a store has, from its tree and its tar-split record: for what is to go to another store.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::rooted_path::TreeRoot;
use crate::disk::beneath::Dir;
use crate::disk::pipe::CHUNK;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError, bounded};
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

    /// Hands on its bytes. That they are what they were, who takes them compares.
    ///
    /// # Errors
    /// If something of it cannot be read, or `to` fails.
    pub(crate) fn stream(
        &self,
        to: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        progress: &Progress,
    ) -> Result<(), WriteError> {
        let tree = &self.tree;
        let root = TreeRoot::of(Dir::open(tree)?).at("open", tree)?;
        let mut chunk = vec![0; CHUNK];
        let mut file_of = |name: &[u8], size: u64, to: &mut dyn FnMut(&[u8]) -> io::Result<()>| -> io::Result<()> {
            let (file, _) = root.open_at(&clean(name), OFlags::RDONLY)?;
            let mut file: io::Take<File> = file.take(size);
            loop {
                let read = file.read(&mut chunk)?;
                if read == 0 {
                    return if file.limit() == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                }
                progress.count_read(read as u64);
                progress.check()?;
                to(&chunk[..read])?;
            }
        };
        let record = bounded::open(&self.record).at("open", &self.record)?;
        read(record, &self.record, &mut |line| match line {
            TarSplitLine::Segment(bytes) => to(&bytes).at("read", tree),
            // Without a size its bytes are in the record.
            TarSplitLine::Member { size: 0, .. } => Ok(()),
            TarSplitLine::Member { name, size, .. } => file_of(&name, size, to).at("read", &tree.join(clean(&name))),
        })
    }
}
