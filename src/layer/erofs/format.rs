//! The format of EROFS, as far as windlass writes it.
//!
//! Blocks have 4096 bytes; nothing is compressed. The superblock is at byte 1024. An inode is at `32 × number` from where the
//! metadata begins, in its extended form of 64 bytes; behind it come its extended attributes, and behind these the bytes of the
//! file that fill no whole block, where they fit into the block of their inode. A directory's blocks have entries of 12 bytes, in the
//! order of the names' bytes, and then the names.
//!
//! Source: "EROFS - Enhanced Read-Only File System" and `fs/erofs/erofs_fs.h` of Linux.

use std::collections::BTreeMap;
use std::io;

use crc_fast::CrcAlgorithm::Crc32Iscsi;

use super::tree::{ErofsContent, InodeAttributes};

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// What an inode's number counts.
pub(super) const SLOT: u64 = 32;
/// Bytes of an inode.
pub(super) const INODE: u64 = 64;
/// Where the superblock is.
const SUPERBLOCK: usize = 1024;
/// Bytes of an entry of a directory, without its name.
const ENTRY: usize = 12;
/// The longest name.
const NAME_LIMIT: usize = 255;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum, and each inode a time of its own.
const COMPATIBLE: u32 = 0x1 | 0x2;

/// How an inode's bytes are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErofsLayout {
    /// In blocks alone.
    Plain = 0,
    /// In blocks, but for the last ones, which follow the inode.
    Inline = 2,
}

/// What the superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    /// The number of the root directory's inode.
    pub(super) root: u16,
    /// How many inodes there are.
    pub(super) inodes: u64,
    /// How many blocks there are.
    pub(super) blocks: u32,
    /// The block where the metadata begin.
    pub(super) metadata: u32,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    /// The first block of the file system.
    pub(super) fn to_block(self) -> Vec<u8> {
        let mut block = vec![0; SUPERBLOCK];
        put(&mut block, &MAGIC.to_le_bytes());
        put(&mut block, &[0; 4]);
        put(&mut block, &COMPATIBLE.to_le_bytes());
        // The size of a block as a power of two, and no more slots than the superblock itself.
        put(&mut block, &[12, 0]);
        put(&mut block, &self.root.to_le_bytes());
        put(&mut block, &self.inodes.to_le_bytes());
        // No time of making.
        put(&mut block, &[0; 12]);
        put(&mut block, &self.blocks.to_le_bytes());
        put(&mut block, &self.metadata.to_le_bytes());
        // No shared attributes.
        put(&mut block, &[0; 4]);
        put(&mut block, &self.uuid);
        block.resize(BLOCK as usize, 0);
        let sum = checksum(&block);
        block[SUPERBLOCK + 4..SUPERBLOCK + 8].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// What the first block of a file system says; `None` if it is not one of EROFS with blocks of 4096
    /// bytes, has data in other files, or is damaged.
    pub(super) fn of_block(block: &[u8]) -> Option<Self> {
        let superblock = block.get(SUPERBLOCK..BLOCK as usize)?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| superblock[at + n]));
        let has_checksum = number(8) & 1 == 1;
        let devices = u16::from_le_bytes([superblock[86], superblock[87]]);
        if number(0) != MAGIC || superblock[12] != 12 || devices > 0 || (has_checksum && number(4) != checksum(block)) {
            return None;
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&superblock[48..64]);
        Some(Self {
            root: u16::from_le_bytes([superblock[14], superblock[15]]),
            inodes: u64::from(number(16)) | u64::from(number(20)) << 32,
            blocks: number(36),
            metadata: number(40),
            uuid,
        })
    }
}

/// CRC-32C of what follows the first 1024 bytes, with zeros for the checksum itself, and without the last step of that sum.
fn checksum(block: &[u8]) -> u32 {
    let mut sum = crc_fast::Digest::new(Crc32Iscsi);
    sum.update(&block[SUPERBLOCK..SUPERBLOCK + 4]);
    sum.update(&[0; 4]);
    sum.update(&block[SUPERBLOCK + 8..]);
    // The sum has 32 bits.
    !u32::try_from(sum.finalize()).unwrap_or_default()
}

/// An inode as it is written.
#[derive(Debug)]
pub(super) struct Inode<'a> {
    pub(super) attributes: &'a InodeAttributes,
    pub(super) content: &'a ErofsContent,
    pub(super) layout: ErofsLayout,
    pub(super) size: u64,
    /// The first block of its data.
    pub(super) block: u32,
    /// Its number for those that read 32 bits.
    pub(super) serial: u32,
    pub(super) links: u32,
}

impl Inode<'_> {
    /// The inode with its extended attributes.
    ///
    /// # Errors
    /// If EROFS cannot hold the attributes.
    pub(super) fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let InodeAttributes { mode, uid, gid, mtime, xattrs } = self.attributes;
        let (kind, place) = match self.content {
            ErofsContent::Directory(_) => (0o040_000, self.block),
            ErofsContent::File(_) => (0o100_000, self.block),
            ErofsContent::Symlink(_) => (0o120_000, self.block),
            ErofsContent::Special(kind, device) => (kind.mode(), *device),
        };
        let (count, xattrs) = xattr_bytes(xattrs)?;
        let mut bytes = Vec::with_capacity(INODE as usize + xattrs.len());
        // The lowest bit says that it is extended.
        put(&mut bytes, &(1 | (self.layout as u16) << 1).to_le_bytes());
        put(&mut bytes, &count.to_le_bytes());
        put(&mut bytes, &(kind | u16::try_from(mode & 0o7777).unwrap_or_default()).to_le_bytes());
        put(&mut bytes, &[0; 2]);
        put(&mut bytes, &self.size.to_le_bytes());
        put(&mut bytes, &place.to_le_bytes());
        put(&mut bytes, &self.serial.to_le_bytes());
        put(&mut bytes, &uid.to_le_bytes());
        put(&mut bytes, &gid.to_le_bytes());
        put(&mut bytes, &mtime.0.to_le_bytes());
        put(&mut bytes, &mtime.1.to_le_bytes());
        put(&mut bytes, &self.links.to_le_bytes());
        put(&mut bytes, &[0; 16]);
        put(&mut bytes, &xattrs);
        Ok(bytes)
    }
}

/// Bytes in front of an inode's attributes.
const XATTR_HEADER: usize = 12;
/// What the names of attributes begin with, and the number that stands for it; of the last two there is no more.
const XATTR_PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
];

/// Refuses what no inode can have.
///
/// # Errors
/// With the attribute, in words that begin with the name of the file.
pub(super) fn check_xattrs(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<()> {
    xattr_bytes(xattrs).map(drop)
}

/// Extended attributes as they follow an inode, and the number that it has for their size.
fn xattr_bytes(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<(u16, Vec<u8>)> {
    if xattrs.is_empty() {
        return Ok((0, Vec::new()));
    }
    let mut bytes = vec![0; XATTR_HEADER];
    for (name, value) in xattrs {
        let (rest, prefix) = XATTR_PREFIXES
            .iter()
            .find_map(|(prefix, number)| name.strip_prefix(*prefix).map(|rest| (rest, *number)))
            .filter(|(rest, number)| rest.is_empty() == matches!(number, 2 | 3))
            .ok_or_else(|| refuse(format!("has the attribute {}, which EROFS cannot hold", show(name))))?;
        let too_large = |_| refuse(format!("has the attribute {}, which is too large for EROFS", show(name)));
        put(&mut bytes, &[u8::try_from(rest.len()).map_err(too_large)?, prefix]);
        put(&mut bytes, &u16::try_from(value.len()).map_err(too_large)?.to_le_bytes());
        put(&mut bytes, rest);
        put(&mut bytes, value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let count = u16::try_from((bytes.len() - XATTR_HEADER) / 4 + 1);
    Ok((count.map_err(|_| refuse("has more extended attributes than EROFS can hold"))?, bytes))
}

/// Bytes of an inode with its extended attributes.
pub(super) fn inode_size(attributes: &InodeAttributes) -> u64 {
    let entry = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        let prefix =
            XATTR_PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or(0, |(prefix, _)| prefix.len());
        (4 + name.len() - prefix + value.len()).next_multiple_of(4)
    };
    let xattrs: usize = attributes.xattrs.iter().map(entry).sum();
    INODE + if attributes.xattrs.is_empty() { 0 } else { (XATTR_HEADER + xattrs) as u64 }
}

/// An entry of a directory: its name, the number of its inode, and its kind.
pub(super) type ErofsEntry = (Vec<u8>, u64, u8);

/// How many of the names that are left go into the next block of a directory, and how many bytes of it they take.
pub(super) fn fill_block<'a>(names: impl Iterator<Item = &'a [u8]>) -> (usize, u64) {
    let (mut count, mut used) = (0, 0);
    for name in names {
        let more = ENTRY + name.len();
        if used + more > BLOCK as usize {
            break;
        }
        (count, used) = (count + 1, used + more);
    }
    (count, used as u64)
}

/// One block of a directory with these entries, as far as it is used.
pub(super) fn directory_block(entries: &[ErofsEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK as usize);
    let mut offset = entries.len() * ENTRY;
    for (name, number, kind) in entries {
        put(&mut bytes, &number.to_le_bytes());
        put(&mut bytes, &u16::try_from(offset).unwrap_or_default().to_le_bytes());
        put(&mut bytes, &[*kind, 0]);
        offset += name.len();
    }
    entries.iter().for_each(|(name, ..)| put(&mut bytes, name));
    bytes
}

/// What entries of directories call what they lead to.
pub(super) const fn entry_kind(content: &ErofsContent) -> u8 {
    match content {
        ErofsContent::File(_) => 1,
        ErofsContent::Directory(_) => 2,
        ErofsContent::Special(kind, _) => kind.entry_kind(),
        ErofsContent::Symlink(_) => 7,
    }
}

/// Refuses names that no directory can have.
pub(super) fn check_name(name: &[u8]) -> io::Result<()> {
    match name.len() {
        1..=NAME_LIMIT => Ok(()),
        _ => Err(refuse(format!("the name {} is longer than {NAME_LIMIT} bytes", show(name)))),
    }
}

/// A layer that cannot become this kind of file system.
pub(super) fn refuse(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// A name for a message.
pub(super) fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}

fn put(bytes: &mut Vec<u8>, more: &[u8]) {
    bytes.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_is_read_as_it_was_written_and_a_damaged_one_is_not() {
        let superblock = Superblock { root: 1, inodes: 1 << 40, blocks: 7, metadata: 6, uuid: [9; 16] };
        let mut block = superblock.to_block();
        assert_eq!((block.len() as u64, Superblock::of_block(&block)), (BLOCK, Some(superblock)));
        block[4000] = 1;
        assert_eq!(Superblock::of_block(&block), None);
        assert_eq!(Superblock::of_block(&block[..2000]), None);
    }

    #[test]
    fn attributes_of_other_kinds_are_refused_by_name() {
        let bytes =
            |name: &str| xattr_bytes(&BTreeMap::from([(name.into(), b"v".to_vec())])).map_err(|e| e.to_string());
        assert_eq!(bytes("user.a").unwrap(), (3, [&[0; 12][..], &[1, 1, 1, 0, b'a', b'v', 0, 0]].concat()));
        for name in ["user.", "system.nfs4_acl", "system.posix_acl_access.x", "a"] {
            assert_eq!(bytes(name).unwrap_err(), format!("has the attribute {name}, which EROFS cannot hold"));
        }
        assert!(bytes(&format!("user.{}", "n".repeat(256))).unwrap_err().ends_with("which is too large for EROFS"));
    }
}
