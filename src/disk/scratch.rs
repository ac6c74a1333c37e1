//! A directory for another program's temporary files that takes no place for copies of what is [served](super::served).
//!
//! A program that is given a layer first copies it to a temporary file, and then unpacks that: for a moment the disk has to hold both.
//! Here what it writes is compared with what a file that it has open would give, and not kept. When it reads its copy again, the bytes
//! are made again, and hashed on the way: the last of them is given only if all had the digest. What does not begin like any file that
//! is open lies in a file without a name. What begins like one and then differs is an error: a layer has changed meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::pieces::PieceReader;
use super::progress::Progress;

/// The nodes of this directory, and of all that is in it, come after those of what is served.
pub(super) const SCRATCH: u64 = 1 << 32;

/// The directory.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Where files without a name lie.
    folder: PathBuf,
    nodes: BTreeMap<u64, ScratchNode>,
    names: BTreeMap<(u64, Vec<u8>), u64>,
    /// The node that was made last.
    last: u64,
}

#[derive(Debug)]
enum ScratchNode {
    Directory,
    File(ScratchFile),
}

/// A temporary file.
#[derive(Debug, Default)]
pub(super) struct ScratchFile {
    pub(super) size: u64,
    pub(super) content: ScratchContent,
}

/// What is in it.
#[derive(Debug, Default)]
pub(super) enum ScratchContent {
    #[default]
    Nothing,
    /// So far the same as what is served as these files, mostly one; the next bytes come from there.
    Copy(Vec<(usize, PieceReader)>),
    /// Something else.
    Own(File),
}

impl Scratch {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder, nodes: BTreeMap::new(), names: BTreeMap::new(), last: SCRATCH }
    }

    /// What a name in a directory leads to.
    pub(super) fn find(&self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        self.names.get(&(directory, name.to_owned())).copied().ok_or(Errno::NOENT)
    }

    /// A new directory, or a new file.
    pub(super) fn make(&mut self, directory: u64, name: &[u8], is_file: bool) -> Result<u64, Errno> {
        let place = (directory, name.to_owned());
        if directory != SCRATCH && !matches!(self.nodes.get(&directory), Some(ScratchNode::Directory)) {
            return Err(Errno::NOTDIR);
        }
        if self.names.contains_key(&place) {
            return Err(Errno::EXIST);
        }
        self.last += 1;
        self.names.insert(place, self.last);
        let node = if is_file { ScratchNode::File(ScratchFile::default()) } else { ScratchNode::Directory };
        self.nodes.insert(self.last, node);
        Ok(self.last)
    }

    /// Removes a file, or a directory with all that is in it. Who has a file open may go on reading what was copied.
    pub(super) fn remove(&mut self, directory: u64, name: &[u8]) -> Result<(), Errno> {
        let node = self.names.remove(&(directory, name.to_owned())).ok_or(Errno::NOENT)?;
        self.nodes.remove(&node);
        let within: Vec<Vec<u8>> = self.names(node).map(|(_, name)| name.to_owned()).collect();
        within.iter().try_for_each(|name| self.remove(node, name))
    }

    /// Size and mode.
    pub(super) fn attributes(&self, node: u64) -> Result<(u64, u32), Errno> {
        match self.nodes.get(&node) {
            Some(ScratchNode::File(file)) => Ok((file.size, 0o100_600)),
            Some(ScratchNode::Directory) => Ok((0, 0o040_700)),
            None if node == SCRATCH => Ok((0, 0o040_700)),
            None => Err(Errno::NOENT),
        }
    }

    /// What is in a directory, after this node: who removes what it has read goes on where it was.
    pub(super) fn names_after(&self, directory: u64, last: u64) -> Vec<(u64, &[u8])> {
        let mut names: Vec<_> = self.names(directory).filter(|(node, _)| *node > last).collect();
        names.sort_unstable();
        names
    }

    fn names(&self, directory: u64) -> impl Iterator<Item = (u64, &[u8])> {
        let within = self.names.range((directory, Vec::new())..(directory + 1, Vec::new()));
        within.map(|((_, name), node)| (*node, name.as_slice()))
    }

    pub(super) fn file(&mut self, node: u64) -> Result<&mut ScratchFile, Errno> {
        match self.nodes.get_mut(&node) {
            Some(ScratchNode::File(file)) => Ok(file),
            Some(ScratchNode::Directory) => Err(Errno::ISDIR),
            None => Err(Errno::NOENT),
        }
    }

    /// A file without a name.
    pub(super) fn nameless(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.folder)
    }
}

impl ScratchFile {
    /// Takes bytes. What has begun as a copy has to go on as one: what was not kept cannot be had again.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8], progress: &Progress) -> Result<(), Errno> {
        match &mut self.content {
            ScratchContent::Nothing => return Err(Errno::IO),
            ScratchContent::Own(file) => file.write_all_at(bytes, at).map_err(|error| errno(&error))?,
            ScratchContent::Copy(_) if at != self.size => return Err(Errno::IO),
            ScratchContent::Copy(of) => {
                of.retain_mut(|(_, from)| is_same(from, at, bytes, progress));
                if of.is_empty() {
                    return Err(Errno::IO);
                }
            }
        }
        self.size = self.size.max(at + bytes.len() as u64);
        Ok(())
    }
}

/// Whether the bytes from there on are these. What cannot be read is told by who needs it.
pub(super) fn is_same(from: &mut PieceReader, at: u64, bytes: &[u8], progress: &Progress) -> bool {
    let mut made = vec![0; bytes.len()];
    from.read_at(at, &mut made, progress).is_ok() && made == bytes
}

pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
