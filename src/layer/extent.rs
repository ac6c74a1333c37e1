//! What the layer of a recipe takes, from names and sizes alone.

use super::{LayerError, Recipe, TRAILER, TarEntry, TarEntryKind, header_length, padding};

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

/// An [`Extent`] that is being measured, member by member.
#[derive(Debug)]
pub(super) struct Measuring {
    extent: Extent,
    /// The directories that the walk is in, each with the bytes of the entries it has so far.
    open: Vec<(Vec<u8>, u64)>,
}

impl Default for Measuring {
    fn default() -> Self {
        Self { extent: Extent::default(), open: vec![(Vec::new(), 0)] }
    }
}

impl Measuring {
    /// The next member of the layer.
    pub(super) fn member(&mut self, entry: &TarEntry) {
        let size = entry.size();
        self.extent.archive += header_length(entry, self.extent.archive) + size + padding(size);
        self.close(&entry.path);
        self.extent.members += 1;
        if let Some((directory, entries)) = self.open.last_mut() {
            let name = entry.path.len() - directory.len();
            *entries += ENTRY + (name as u64).next_multiple_of(4);
        }
        match &entry.kind {
            TarEntryKind::Directory => self.open.push((entry.path.clone(), 0)),
            TarEntryKind::Symlink(target) if (target.len() as u64) < INLINE => {}
            TarEntryKind::Symlink(_) => self.extent.on_disk += BLOCK,
            TarEntryKind::File(_) => self.extent.on_disk += on_disk(size),
        }
    }

    /// Closes the directories that this path is not in.
    fn close(&mut self, path: &[u8]) {
        let is_below = |directory: &[u8]| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"));
        while let Some((_, entries)) = self.open.pop_if(|(directory, _)| !directory.is_empty() && !is_below(directory))
        {
            self.extent.on_disk += on_disk(entries.max(1));
        }
    }

    /// There are no more.
    pub(super) fn end(mut self) -> Extent {
        self.extent.archive += TRAILER.len() as u64;
        self.close(b"");
        self.extent.on_disk += self.open.iter().map(|(_, entries)| on_disk((*entries).max(1))).sum::<u64>();
        self.extent
    }
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
    let mut measuring = Measuring::default();
    recipe.members(&mut |member| {
        measuring.member(&member.entry);
        Ok(())
    })?;
    Ok(measuring.end())
}
