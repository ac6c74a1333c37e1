//! The members of a layer that is there as an archive, packed or not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::format::refuse;
use super::tree::{ErofsContent, ErofsFile, InodeAttributes, OVERLAY, SpecialKind, device};
use super::{ALIGN_FROM, BLOCK, ErofsWriter};
use crate::disk::bounded;
use crate::disk::parts::{JoinedFile, files_of, open_whole};
use crate::disk::pipe::CHUNK;
use crate::layer::tar_reader::{self, BadArchive, TarMember, TarMemberKind, clean};
use crate::layer::{LayerError, failed_file, padding};
use crate::oci::compression::Compression;

/// A label of the machine that the layer was made on: a host has a policy of its own.
const SELINUX: &[u8] = b"security.selinux";

/// Zeros that a layer may have written by saying that its files have holes.
const HOLES: u64 = 1 << 30;

/// An archive that is read from its beginning to its end.
struct LayerArchive {
    from: ArchiveBytes,
    position: u64,
    /// What was read since it was last asked for.
    read: Vec<u8>,
    /// The archive itself, where it is one file that is not packed: its data can be shared.
    file: Option<File>,
}

enum ArchiveBytes {
    Plain(JoinedFile),
    Packed(Box<dyn Read + Send>),
}

impl Read for LayerArchive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill(buffer)?;
        self.read.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl LayerArchive {
    fn open(path: &Path) -> io::Result<Self> {
        let files = files_of(path)?;
        let first = files.first().map(|(first, _)| bounded::open(first)).transpose()?;
        let packing = first.as_ref().map_or(Ok(Compression::None), Compression::of_file)?;
        let whole = open_whole(path)?;
        let (from, file) = match packing {
            Compression::None => (ArchiveBytes::Plain(whole), first.filter(|_| files.len() == 1)),
            packing => (ArchiveBytes::Packed(packing.decoder(whole)?), None),
        };
        Ok(Self { from, position: 0, read: Vec::new(), file })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.from {
            ArchiveBytes::Plain(from) => from.read(buffer)?,
            ArchiveBytes::Packed(from) => from.read(buffer)?,
        };
        self.position += count as u64;
        Ok(count)
    }

    /// Reads the next bytes, all that the buffer holds.
    fn fill_all(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.fill(&mut buffer[filled..])? {
                0 => return Err(refuse("it ends in the middle of a file")),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Goes on behind the next bytes of an archive that is not packed.
    fn skip(&mut self, count: u64) {
        if let ArchiveBytes::Plain(from) = &mut self.from {
            self.position += count;
            from.go_to(self.position);
        }
    }
}

/// Gives all members of an archive to the writer; bytes of the archive, unpacked.
///
/// # Errors
/// If it cannot be read, or has what EROFS cannot hold; or writing failed.
pub(super) fn read(path: &Path, writer: &mut ErofsWriter<'_, '_>) -> Result<u64, LayerError> {
    let reading = |error| LayerError::reading(path, error);
    let bad = |error| match error {
        BadArchive::Read(error) => reading(error),
        error => reading(refuse(error.to_string())),
    };
    let mut archive = LayerArchive::open(path).map_err(reading)?;
    let mut buffer = vec![0; CHUNK];
    while let Some(member) = tar_reader::next(&mut archive).map_err(bad)? {
        writer.progress.check().map_err(LayerError::Sink)?;
        writer.output.unwritten(&std::mem::take(&mut archive.read));
        let place = member.path();
        let special = |kind, major, minor| ErofsContent::Special(kind, device(major, minor));
        let own = attributes(&member).map_err(reading)?;
        let content = match &member.kind {
            TarMemberKind::File => {
                ErofsContent::File(take_file((path, &mut archive), &member, &own, writer, &mut buffer)?)
            }
            TarMemberKind::Directory => ErofsContent::Directory(BTreeMap::new()),
            TarMemberKind::Symlink(target) => ErofsContent::Symlink(target.clone()),
            TarMemberKind::Character(major, minor) => special(SpecialKind::Character, *major, *minor),
            TarMemberKind::Block(major, minor) => special(SpecialKind::Block, *major, *minor),
            TarMemberKind::Fifo => special(SpecialKind::Fifo, 0, 0),
            TarMemberKind::Link(target) => {
                writer.tree.link(&place, &clean(target), own).map_err(reading)?;
                continue;
            }
        };
        writer.tree.put(&place, own, content).map_err(reading)?;
    }
    writer.output.unwritten(&std::mem::take(&mut archive.read));
    // What follows belongs to its digest.
    loop {
        match archive.fill(&mut buffer).map_err(reading)? {
            0 => return Ok(archive.position),
            count => writer.output.unwritten(&buffer[..count]),
        }
    }
}

fn take_file(
    (path, archive): (&Path, &mut LayerArchive),
    member: &TarMember,
    attributes: &InodeAttributes,
    writer: &mut ErofsWriter<'_, '_>,
    buffer: &mut [u8],
) -> Result<ErofsFile, LayerError> {
    let reading = |error| LayerError::reading(path, error);
    let size = member.sparse.as_ref().map_or(member.size, |sparse| sparse.size);
    writer.holes = writer.holes.saturating_add(size.saturating_sub(member.size));
    if writer.holes > HOLES {
        let place = member.path();
        return Err(reading(refuse(format!(
            "with {} it has more than 1 GiB of holes, which would be written",
            place.display()
        ))));
    }
    let mut under_way = writer.begin_file(size, attributes).map_err(LayerError::Sink)?;
    let is_shared = match &archive.file {
        Some(file) if member.sparse.is_none() && size >= ALIGN_FROM && archive.position.is_multiple_of(BLOCK) => {
            let part = writer.output.part(file, archive.position, size);
            part.map_err(|error| failed_file(error, path))?
        }
        _ => false,
    };
    if is_shared {
        archive.skip(size);
    } else {
        let whole = [(0, member.size)];
        let map = member.sparse.as_ref().map_or(&whole[..], |sparse| &sparse.map);
        let mut at = 0;
        for &(offset, length) in map {
            writer.take_zeros(&mut under_way, offset - at).map_err(LayerError::Sink)?;
            let mut left = length;
            while left > 0 {
                writer.progress.check().map_err(LayerError::Sink)?;
                let now = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
                archive.fill_all(&mut buffer[..now]).map_err(reading)?;
                writer.progress.count_read(now as u64);
                writer.take(&mut under_way, &buffer[..now]).map_err(LayerError::Sink)?;
                left -= now as u64;
            }
            at = offset + length;
        }
        writer.take_zeros(&mut under_way, size - at).map_err(LayerError::Sink)?;
    }
    let rest = usize::try_from(padding(member.size)).unwrap_or(0);
    archive.fill_all(&mut buffer[..rest]).map_err(reading)?;
    writer.output.unwritten(&buffer[..rest]);
    writer.end_file(under_way).map_err(LayerError::Sink)
}

/// What an archive says of a member's inode.
fn attributes(member: &TarMember) -> io::Result<InodeAttributes> {
    let own = |number: u64| {
        let place = member.path();
        let message = || refuse(format!("{} has the owner {number}, which no file can have", place.display()));
        u32::try_from(number).map_err(|_| message())
    };
    // Kinds that Linux keeps on few file systems are left out, as they are where a layer is unpacked on another.
    let is_lost = |name: &[u8]| name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_");
    let is_kept = |(name, _): &(&Vec<u8>, &Vec<u8>)| !name.starts_with(OVERLAY) && *name != SELINUX && !is_lost(name);
    let xattrs = member.xattrs.iter().filter(is_kept).map(|(name, value)| (name.clone(), value.clone())).collect();
    // As the programs that unpack layers take a file's time.
    let is_early = member.mtime.0 < 0 && !matches!(member.kind, TarMemberKind::Symlink(_));
    let (seconds, nanoseconds) = if is_early { (0, 0) } else { member.mtime };
    let mtime = (seconds, u32::try_from(nanoseconds).unwrap_or_default());
    Ok(InodeAttributes { mode: member.mode, uid: own(member.uid)?, gid: own(member.gid)?, mtime, xattrs })
}
