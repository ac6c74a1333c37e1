//! Whether a layer that is there is what its recipe gives, without reading what is linked.
//!
//! The recipe gives the header of every member again, from names, modes and sizes; the tar-split record has those that the
//! layer was made with. A file of a linked layer is the very file that it is made from; where it is another one, both are
//! read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::disk::WriteError;
use crate::disk::beneath::Dir;
use crate::disk::progress::Progress;
use crate::layer::{HostFile, MemberContent, Recipe, TRAILER, header, padding};
use crate::oci::digest::{Digest, Hasher};
use crate::podman::storage::tar_split::{TarSplitLine, read};

/// What of a layer is not as its recipe says: the path on disk, and in words. A recipe whose files cannot be read any more
/// says nothing.
pub(crate) fn difference(
    recipe: &Recipe,
    (record, path): (File, &Path),
    linked: Option<&Dir>,
    progress: &Progress,
) -> Result<Option<(PathBuf, String)>, WriteError> {
    let (mut expected, mut position, mut other) = (Hasher::new(), 0, None);
    let told = recipe.members(&mut |member| {
        progress.check().map_err(crate::layer::LayerError::Sink)?;
        let (header, size) = (header(&member.entry, position), member.entry.size());
        let padding = padding(size);
        expected.update(&header);
        told(&mut expected, size);
        expected.update(&TRAILER[..usize::try_from(padding).unwrap_or(0)]);
        position += header.len() as u64 + size + padding;
        if let (Some(tree), MemberContent::File(source, _), None) = (linked, &member.content, &other)
            && let name = Path::new(OsStr::from_bytes(&member.entry.path))
            && let Ok(placed) = tree.file(name)
            && !is_same(source, &placed).unwrap_or(true)
        {
            other =
                Some((tree.at(name), format!("has other bytes than {}, which it is made from", member.host.display())));
        }
        Ok(())
    });
    if told.is_err() {
        return Ok(None);
    }
    expected.update(&TRAILER);
    let mut found = Hasher::new();
    read(record, path, &mut |line| {
        match line {
            TarSplitLine::Segment(bytes) => found.update(&bytes),
            TarSplitLine::Member { size, .. } => self::told(&mut found, size),
        }
        Ok(())
    })?;
    let digest = |hasher: Hasher| -> Digest { hasher.finish().0 };
    if digest(expected) != digest(found) {
        return Ok(Some((path.to_owned(), "has other files than the layer's recipe gives".to_owned())));
    }
    Ok(other)
}

fn told(hasher: &mut Hasher, size: u64) {
    if size > 0 {
        hasher.update(&size.to_le_bytes());
    }
}

/// Whether two files are one, or have the same bytes.
fn is_same(one: &HostFile, other: &File) -> io::Result<bool> {
    let (first, second) = (one.metadata(), other.metadata()?);
    if (first.dev(), first.ino()) == (second.dev(), second.ino()) {
        return Ok(true);
    }
    let one = one.open().map_err(io::Error::other)?;
    let (mut one, mut other) = (io::BufReader::new(one), io::BufReader::new(other));
    let (mut a, mut b) = ([0; 8192], [0; 8192]);
    loop {
        let count = one.read(&mut a)?;
        if count == 0 {
            return Ok(other.read(&mut b)? == 0);
        }
        if other.read_exact(&mut b[..count]).is_err() || a[..count] != b[..count] {
            return Ok(false);
        }
    }
}
