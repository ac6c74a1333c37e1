//! A layer as an EROFS file system, which a kernel mounts as it is: nothing is unpacked.
//!
//! The file has, from its beginning: the block of the superblock; the data of files, in the order of the layer's archive, each
//! beginning at a multiple of 4096 bytes, so that XFS and Btrfs share them with the store path that they come from; the blocks of
//! directories; the inodes, the root's first. So the layer is read once, and only names and inodes are held in memory. What of a
//! smaller file fills no block follows its inode.
//!
//! The bytes of the layer's archive are hashed on the way, as far as [`Verify`](super::output::Verify) asks for it: the
//! file is put under the digest of that archive, and containerd takes its word for it.
//!
//! Reproducibility: the bytes depend on the layer's members and on the UUID. `tests/it/golden.rs` has the digest of one.

mod archive;
mod format;
mod tree;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::SpooledTempFile;

use self::format::{
    BLOCK, ErofsLayout, Inode, SLOT, Superblock, directory_block, entry_kind, fill_block, inode_size, refuse,
};
use self::tree::{ErofsContent, ErofsFile, ErofsTree, InodeAttributes, NodeNumber, ROOT};
use super::output::Output;
use super::walk::{Files, HostFile};
use super::{
    ALIGN_FROM, LayerError, LayerMember, MTIME, MemberContent, Recipe, Sink, TRAILER, TarEntry, TarEntryKind,
    failed_file, header, padding,
};
use crate::disk::files::parent_of;
use crate::disk::pipe::Readers;
use crate::disk::progress::Progress;

/// Bytes of small files that are kept in memory until their inodes are written; more go to a file without a name.
const KEPT: usize = 8 << 20;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// A file system that is written but for its beginning.
#[derive(Debug)]
pub(crate) struct WrittenErofs {
    /// Its first block, for which there is place: [`Output::finish_with_start`].
    pub(crate) start: Vec<u8>,
    /// Bytes of the layer's archive, unpacked.
    pub(crate) archive_size: u64,
}

/// Writes the file system of a layer to an output, which is empty. What [`Output::end_blob`] then says is about the
/// layer's archive, unpacked.
///
/// # Errors
/// See [`LayerError`]; or the layer has what EROFS cannot hold.
pub(crate) fn write(
    recipe: &Recipe,
    uuid: [u8; 16],
    output: &mut Output<'_>,
    progress: &Progress,
) -> Result<WrittenErofs, LayerError> {
    let mut writer = ErofsWriter::new(output, progress)?;
    let archive_size = match recipe.blob() {
        Some(path) => archive::read(path, &mut writer)?,
        None => writer.take_recipe(recipe)?,
    };
    Ok(WrittenErofs { start: writer.finish(uuid).map_err(LayerError::Sink)?, archive_size })
}

/// Whether a file is a file system of such blocks that has all of them and needs no other file. What follows them may be anything, such
/// as the hashes of dm-verity.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn is_whole(file: &File) -> io::Result<bool> {
    let size = file.metadata()?.len();
    if size < BLOCK {
        return Ok(false);
    }
    let mut block = vec![0; BLOCK as usize];
    file.read_exact_at(&mut block, 0)?;
    Ok(Superblock::of_block(&block).is_some_and(|superblock| u64::from(superblock.blocks) * BLOCK <= size))
}

/// A file whose bytes are on their way.
struct ErofsFileUnderWay {
    file: ErofsFile,
    /// Bytes that go into blocks before those behind the inode begin.
    left: u64,
}

/// An inode that has its place.
struct PlacedInode {
    node: NodeNumber,
    parent: NodeNumber,
    links: u32,
    /// From where the metadata begin.
    position: u64,
    layout: ErofsLayout,
    size: u64,
}

/// What takes the members of a layer.
struct ErofsWriter<'o, 'p> {
    output: &'o mut Output<'p>,
    progress: &'o Progress,
    tree: ErofsTree,
    /// The ends of files that are to follow their inodes, and how many bytes these are.
    tails: SpooledTempFile,
    kept: u64,
    /// Bytes of files that no archive has.
    holes: u64,
}

impl<'o, 'p> ErofsWriter<'o, 'p> {
    fn new(output: &'o mut Output<'p>, progress: &'o Progress) -> Result<Self, LayerError> {
        // The superblock's place.
        output.extra(&ZEROS).map_err(LayerError::Sink)?;
        let tails = tempfile::spooled_tempfile_in(KEPT, parent_of(output.path()));
        output.begin_blob();
        Ok(Self { output, progress, tree: ErofsTree::default(), tails, kept: 0, holes: 0 })
    }

    /// Takes all members of a layer that a recipe makes; bytes of its archive.
    fn take_recipe(&mut self, recipe: &Recipe) -> Result<u64, LayerError> {
        let mut offset = 0;
        recipe.walk(Files::Open, &mut |LayerMember { entry, content, host, .. }| {
            let (header, size) = (header(&entry, offset), entry.size());
            offset += header.len() as u64 + size + padding(size);
            self.output.unwritten(&header);
            let own = attributes(&entry).map_err(|error| LayerError::reading(host, error))?;
            let content = match (content, &entry.kind) {
                (MemberContent::File(file, in_store), _) => {
                    ErofsContent::File(self.take_host_file(file, (size, in_store), &own, host)?)
                }
                (MemberContent::Text(text), _) => {
                    let mut under_way = self.begin_file(size, &own).map_err(LayerError::Sink)?;
                    self.take(&mut under_way, &text).map_err(LayerError::Sink)?;
                    ErofsContent::File(self.end_file(under_way).map_err(LayerError::Sink)?)
                }
                (MemberContent::None, TarEntryKind::Symlink(target)) => ErofsContent::Symlink(target.clone()),
                (MemberContent::None, _) => ErofsContent::Directory(BTreeMap::new()),
            };
            self.output.unwritten(&TRAILER[..usize::try_from(padding(size)).unwrap_or(0)]);
            let put = self.tree.put(Path::new(OsStr::from_bytes(&entry.path)), own, content);
            put.map_err(|error| LayerError::reading(host, error))
        })?;
        self.output.unwritten(&TRAILER);
        Ok(offset + TRAILER.len() as u64)
    }

    fn take_host_file(
        &mut self,
        mut file: HostFile,
        (size, in_store): (u64, bool),
        attributes: &InodeAttributes,
        host: &Path,
    ) -> Result<ErofsFile, LayerError> {
        let file = file.take()?;
        let mut under_way = self.begin_file(size, attributes).map_err(LayerError::Sink)?;
        if size < ALIGN_FROM {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            (&file).take(size).read_to_end(&mut bytes).map_err(|error| LayerError::reading(host, error))?;
            self.progress.count_read(bytes.len() as u64);
            if bytes.len() as u64 != size {
                return Err(LayerError::Changed(host.to_owned()));
            }
            self.take(&mut under_way, &bytes).map_err(LayerError::Sink)?;
        } else {
            let taken = self.output.file(&file, size, in_store, Readers::default());
            taken.map_err(|error| failed_file(error, host))?;
        }
        if file.metadata().map_err(|error| LayerError::reading(host, error))?.len() != size {
            return Err(LayerError::Changed(host.to_owned()));
        }
        self.end_file(under_way).map_err(LayerError::Sink)
    }

    /// A file of so many bytes begins here. The bytes of large ones are all in blocks, so that they are shared whole.
    fn begin_file(&self, size: u64, attributes: &InodeAttributes) -> io::Result<ErofsFileUnderWay> {
        let tail = size % BLOCK;
        let is_inline = size < ALIGN_FROM && tail > 0 && inode_size(attributes) + tail <= BLOCK;
        let left = if is_inline { size - tail } else { size };
        let block = if left > 0 { self.block()? } else { 0 };
        let tail = is_inline.then_some((self.kept, u32::try_from(tail).unwrap_or_default()));
        Ok(ErofsFileUnderWay { file: ErofsFile { size, block, tail }, left })
    }

    /// The next bytes of the file, which the layer's archive has too.
    fn take(&mut self, under_way: &mut ErofsFileUnderWay, bytes: &[u8]) -> io::Result<()> {
        let here = usize::try_from(under_way.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (blocks, tail) = bytes.split_at(here);
        under_way.left -= blocks.len() as u64;
        if !blocks.is_empty() {
            self.output.bytes(blocks)?;
        }
        self.output.unwritten(tail);
        self.keep(tail)
    }

    /// The next bytes of a file that the archive leaves out: zeros.
    fn take_zeros(&mut self, under_way: &mut ErofsFileUnderWay, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let now = count.min(BLOCK).min(if under_way.left > 0 { under_way.left } else { BLOCK });
            let zeros = &ZEROS[..usize::try_from(now).unwrap_or(0)];
            if under_way.left > 0 {
                under_way.left -= now;
                self.output.extra(zeros)?;
            } else {
                self.keep(zeros)?;
            }
            count -= now;
        }
        Ok(())
    }

    fn keep(&mut self, tail: &[u8]) -> io::Result<()> {
        self.kept += tail.len() as u64;
        self.tails.write_all(tail)
    }

    fn end_file(&mut self, under_way: ErofsFileUnderWay) -> io::Result<ErofsFile> {
        self.fill_block()?;
        Ok(under_way.file)
    }

    fn fill_block(&mut self) -> io::Result<()> {
        let rest = self.output.offset().next_multiple_of(BLOCK) - self.output.offset();
        self.output.extra(&ZEROS[..usize::try_from(rest).unwrap_or(0)])
    }

    /// The number of the block that is written next.
    fn block(&self) -> io::Result<u32> {
        let too_large = |_| refuse("the layer has more than 16 TiB, and EROFS holds no more");
        u32::try_from(self.output.offset() / BLOCK).map_err(too_large)
    }

    /// Writes directories, inodes and the superblock, which comes back: its place is the beginning of the file.
    fn finish(mut self, uuid: [u8; 16]) -> io::Result<Vec<u8>> {
        let inodes = self.place_inodes()?;
        let mut numbers = vec![0; self.tree.nodes.len()];
        for inode in &inodes {
            numbers[inode.node] = inode.position / SLOT;
        }
        let mut own_data = Vec::with_capacity(inodes.len());
        for inode in &inodes {
            own_data.push(self.write_own_data(inode, &numbers)?);
        }
        let metadata = self.block()?;
        self.tails.seek(SeekFrom::Start(0))?;
        let begin = self.output.offset();
        for (serial, (inode, (block, tail))) in (1..).zip(inodes.iter().zip(own_data)) {
            self.progress.check()?;
            let gap = begin + inode.position - self.output.offset();
            self.output.extra(&ZEROS[..usize::try_from(gap).unwrap_or(0)])?;
            let node = &self.tree.nodes[inode.node];
            let written = Inode {
                attributes: &node.attributes,
                content: &node.content,
                layout: inode.layout,
                size: inode.size,
                block,
                serial,
                links: inode.links,
            };
            self.output.extra(&written.to_bytes()?)?;
            match &node.content {
                ErofsContent::File(ErofsFile { tail: Some((offset, size)), .. }) => {
                    let mut bytes = vec![0; *size as usize];
                    self.tails.seek(SeekFrom::Start(*offset))?;
                    self.tails.read_exact(&mut bytes)?;
                    self.output.extra(&bytes)?;
                }
                _ => self.output.extra(&tail)?,
            }
        }
        self.fill_block()?;
        let root = inodes.first().map_or(0, |root| root.position / SLOT);
        let root = u16::try_from(root).map_err(|_| refuse("the root directory has too many attributes for EROFS"))?;
        let superblock = Superblock { root, inodes: inodes.len() as u64, blocks: self.block()?, metadata, uuid };
        Ok(superblock.to_block())
    }

    /// Gives every inode that can be reached its place, level by level.
    fn place_inodes(&self) -> io::Result<Vec<PlacedInode>> {
        let mut found = vec![None; self.tree.nodes.len()];
        let mut inodes: Vec<PlacedInode> = Vec::new();
        let mut queue = VecDeque::from([(ROOT, ROOT)]);
        // No inode has the number 0, which programs take for no file.
        let mut position = SLOT;
        while let Some((node, parent)) = queue.pop_front() {
            if let Some(known) = found[node] {
                let inode: &mut PlacedInode = &mut inodes[known];
                inode.links += 1;
                continue;
            }
            found[node] = Some(inodes.len());
            let ErofsNodeShape { size, tail, links } = self.shape(node)?;
            let whole = inode_size(&self.tree.nodes[node].attributes) + tail;
            position = position.next_multiple_of(SLOT);
            // An inode with what follows it lies in one block, unless its attributes alone are larger.
            if position % BLOCK + whole > BLOCK {
                position = position.next_multiple_of(BLOCK);
            }
            let layout = if tail > 0 { ErofsLayout::Inline } else { ErofsLayout::Plain };
            inodes.push(PlacedInode { node, parent, links, position, layout, size });
            position += whole;
            queue.extend(self.tree.children(node).values().map(|child| (*child, node)));
        }
        Ok(inodes)
    }

    fn shape(&self, number: NodeNumber) -> io::Result<ErofsNodeShape> {
        let node = &self.tree.nodes[number];
        let room = BLOCK.saturating_sub(inode_size(&node.attributes));
        let inline = |tail: u64| if tail <= room { tail } else { 0 };
        Ok(match &node.content {
            ErofsContent::File(ErofsFile { size, tail, .. }) => {
                ErofsNodeShape { size: *size, tail: tail.map_or(0, |(_, size)| size.into()), links: 1 }
            }
            ErofsContent::Symlink(target) => {
                let size = target.len() as u64;
                ErofsNodeShape { size, tail: inline(size), links: 1 }
            }
            ErofsContent::Special(..) => ErofsNodeShape { size: 0, tail: 0, links: 1 },
            ErofsContent::Directory(children) => {
                let names = self.entries(number, number);
                let (mut size, mut names) = (0, names.as_slice());
                let mut used = 0;
                while !names.is_empty() {
                    let (count, bytes) = fill_block(names.iter().map(|(name, _)| *name));
                    (names, used) = (&names[count..], bytes);
                    size += if names.is_empty() { bytes } else { BLOCK };
                }
                // One that is full is a block like the others.
                let tail = if used < BLOCK { inline(used) } else { 0 };
                let is_directory =
                    |child: &&NodeNumber| matches!(self.tree.nodes[**child].content, ErofsContent::Directory(_));
                let below = children.values().filter(is_directory).count();
                let links =
                    u32::try_from(below + 2).map_err(|_| refuse("a directory has too many others for EROFS"))?;
                ErofsNodeShape { size, tail, links }
            }
        })
    }

    /// All names of a directory with the nodes they lead to, in the order of their bytes.
    fn entries(&self, directory: NodeNumber, parent: NodeNumber) -> Vec<(&[u8], NodeNumber)> {
        let children = self.tree.children(directory).iter().map(|(name, node)| (name.as_slice(), *node));
        let mut entries: Vec<_> = [(&b"."[..], directory), (b"..", parent)].into_iter().chain(children).collect();
        entries.sort_unstable_by_key(|(name, _)| *name);
        entries
    }

    /// Writes the blocks of a directory or of a link's target: the first of them, and what is to follow the inode.
    fn write_own_data(&mut self, inode: &PlacedInode, numbers: &[u64]) -> io::Result<(u32, Vec<u8>)> {
        let node = &self.tree.nodes[inode.node];
        let bytes = match &node.content {
            ErofsContent::File(file) => return Ok((file.block, Vec::new())),
            ErofsContent::Special(..) => return Ok((0, Vec::new())),
            ErofsContent::Symlink(target) => target.clone(),
            ErofsContent::Directory(_) => {
                let entries = self.entries(inode.node, inode.parent);
                let told = |&(name, node): &(&'_ [u8], NodeNumber)| {
                    (name.to_vec(), numbers[node], entry_kind(&self.tree.nodes[node].content))
                };
                let mut bytes = Vec::new();
                let mut left = entries.as_slice();
                while !left.is_empty() {
                    let (count, _) = fill_block(left.iter().map(|(name, _)| *name));
                    bytes.extend(directory_block(&left[..count].iter().map(told).collect::<Vec<_>>()));
                    left = &left[count..];
                    if !left.is_empty() {
                        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
                    }
                }
                bytes
            }
        };
        let tail = if inode.layout == ErofsLayout::Inline { inode.size % BLOCK } else { 0 };
        let (blocks, tail) = bytes.split_at(bytes.len() - usize::try_from(tail).unwrap_or(0));
        let block = if blocks.is_empty() { 0 } else { self.block()? };
        self.output.extra(blocks)?;
        self.fill_block()?;
        Ok((block, tail.to_vec()))
    }
}

/// What an inode's place depends on.
struct ErofsNodeShape {
    size: u64,
    /// Bytes that follow the inode.
    tail: u64,
    links: u32,
}

/// What the header of a member says of its inode.
fn attributes(entry: &TarEntry) -> io::Result<InodeAttributes> {
    let own = |number: u64| {
        u32::try_from(number).map_err(|_| refuse(format!("has the owner {number}, which no file can have")))
    };
    let (uid, gid) = (own(entry.uid)?, own(entry.gid)?);
    let mode = entry.mode;
    Ok(InodeAttributes { uid, gid, mtime: (MTIME.cast_signed(), 0), ..InodeAttributes::plain(mode) })
}
