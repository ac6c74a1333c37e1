//! What the layer of a recipe takes, from names and sizes alone.

use super::{LayerError, LayerMember, MemberContent, Recipe, TRAILER, TarEntryKind, header, padding};

/// Blocks of the file systems that stores lie on.
const BLOCK: u64 = 4096;
/// A link with a shorter target lies in its inode.
const INLINE: u64 = 60;
/// What an entry of a directory takes beside its name, and what an empty directory has.
const ENTRY: u64 = 8;

/// Bytes of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of its archive.
    pub(crate) archive: u64,
    /// Bytes that its files, links and directories take where they are unpacked, in whole blocks of 4 KiB.
    pub(crate) on_disk: u64,
    /// How many these are.
    pub(crate) members: u64,
}

/// What a file of this size takes on a disk.
#[must_use]
pub(crate) const fn on_disk(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}

/// Measures the layer that a recipe makes. No file is read.
///
/// # Errors
/// See [`LayerError`].
pub(crate) fn extent(recipe: &Recipe) -> Result<Extent, LayerError> {
    if let Some(path) = recipe.blob() {
        let archive = super::blob_size(path)?;
        return Ok(Extent { archive, on_disk: archive, members: 0 });
    }
    let mut extent = Extent::default();
    // The directories that the walk is in, each with the bytes of the entries it has so far.
    let mut open: Vec<(Vec<u8>, u64)> = vec![(Vec::new(), 0)];
    let close = |open: &mut Vec<(Vec<u8>, u64)>, path: &[u8]| -> u64 {
        let mut bytes = 0;
        let is_below = |directory: &[u8]| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"));
        while let Some((_, entries)) = open.pop_if(|(directory, _)| !directory.is_empty() && !is_below(directory)) {
            bytes += on_disk(entries.max(1));
        }
        bytes
    };
    recipe.members(&mut |LayerMember { entry, content, .. }| {
        let size = entry.size();
        extent.archive += header(&entry, extent.archive).len() as u64 + size + padding(size);
        extent.on_disk += close(&mut open, &entry.path);
        extent.members += 1;
        if let Some((directory, entries)) = open.last_mut() {
            let name = entry.path.len() - directory.len();
            *entries += ENTRY + (name as u64).next_multiple_of(4);
        }
        match (&entry.kind, content) {
            (TarEntryKind::Directory, _) => open.push((entry.path, 0)),
            (TarEntryKind::Symlink(target), _) if (target.len() as u64) < INLINE => {}
            (TarEntryKind::Symlink(_), _) => extent.on_disk += BLOCK,
            (TarEntryKind::File(_), MemberContent::File(..) | MemberContent::Text(_) | MemberContent::None) => {
                extent.on_disk += on_disk(size);
            }
        }
        Ok(())
    })?;
    extent.archive += TRAILER.len() as u64;
    extent.on_disk += close(&mut open, b"") + open.iter().map(|(_, entries)| on_disk((*entries).max(1))).sum::<u64>();
    Ok(extent)
}
