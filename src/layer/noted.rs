//! What is noted of a layer's files while its bytes pass: their sums, what looks like a secret among them, and where it is
//! asked for the digest of each.
//!
//! A file of a model is known by its own SHA-256, whatever it is packed in: that is what those who publish it name, and what
//! other tools keep it as. It is made in the one read that hashes the layer, together with that hash, or taken from who knows
//! it already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checksums::{Checksum, Checksums};
use super::survey::LargeFile;
use super::tar::{TarEntry, TarEntryKind};
use crate::disk::pipe::{Consumer, Readers};
use crate::names::place;
use crate::oci::digest::{Digest, Hasher};
use crate::secrets::{SearchedFile, SecretFinding};

/// A file of a layer, by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerFile {
    /// Where it is in the image, absolute.
    #[serde(deserialize_with = "place")]
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// The digest of its bytes.
    pub(crate) sha256: Digest,
}

/// Digests that are known before the files are read, by their places in the image.
pub(crate) type Known = BTreeMap<PathBuf, Digest>;

/// What is noted of the files of one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NotedFiles {
    /// Their sums.
    pub(crate) checksums: Checksums,
    /// The files with their digests, in the order of the layer; none unless they were asked for.
    pub(crate) files: Vec<LayerFile>,
    /// What looks like a secret, in the order of the layer.
    pub(crate) secrets: Vec<SecretFinding>,
    /// The large ones, in the order of the layer.
    pub(crate) large: Vec<LargeFile>,
}

/// What is noted of one file, while it passes.
pub(super) struct FileNote<'a> {
    sum: Checksum,
    /// Where it is, and its digest if that is known or its hash so far; `None` if it was not asked for.
    file: Option<(PathBuf, Result<Digest, Hasher>)>,
    look: Option<SearchedFile<'a>>,
}

/// A look at a file or a directory that comes from a host path, which others may not be able to read there.
pub(super) fn look<'a>(entry: &'a TarEntry, (host, hidden): (&'a Path, bool)) -> Option<SearchedFile<'a>> {
    let size = match entry.kind {
        TarEntryKind::File(size) => Some(size),
        TarEntryKind::Directory => None,
        TarEntryKind::Symlink(_) => return None,
    };
    Some(SearchedFile::new(&entry.path, host, hidden, size))
}

impl<'a> FileNote<'a> {
    /// A note of the file that this header is for, with its host path, which others may not be able to read.
    pub(super) fn new(entry: &'a TarEntry, host: (&'a Path, bool), known: Option<&Known>) -> Self {
        let file = known.filter(|_| matches!(entry.kind, TarEntryKind::File(_))).map(|known| {
            let path = entry.place();
            let digest = known.get(&path).copied().ok_or_else(Hasher::new);
            (PathBuf::from(path.to_string_lossy().into_owned()), digest)
        });
        Self { sum: Checksum::new(), file, look: look(entry, host) }
    }

    /// Sees these bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        if let Some(look) = &mut self.look {
            look.update(bytes);
        }
        if let Some((_, Err(hasher))) = &mut self.file {
            hasher.update(bytes);
        }
    }

    /// What sees all bytes of the file.
    pub(super) fn readers(&mut self) -> Readers<'_> {
        let mut readers = Readers { here: vec![self.sum.reader()], hashers: Vec::new() };
        if let Some(look) = &mut self.look {
            let here: Consumer<'_> = Box::new(|chunk| {
                look.update(chunk);
                Ok(())
            });
            readers.here.push(here);
        }
        if let Some((_, Err(hasher))) = &mut self.file {
            readers.hashers.push(hasher);
        }
        readers
    }

    /// All of its bytes have passed.
    pub(super) fn end(self, size: u64, noted: &mut NotedFiles) {
        if size > 0 {
            noted.checksums.push(self.sum);
        }
        if let Some((path, digest)) = self.file {
            let sha256 = digest.unwrap_or_else(|hasher| hasher.finish().0);
            noted.files.push(LayerFile { path, size, sha256 });
        }
        noted.secrets.extend(self.look.and_then(SearchedFile::end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::progress::Progress;
    use crate::layer::{FORMAT, Input, Recipe, digest_of};

    #[test]
    fn each_file_has_its_own_digest_from_the_read_that_hashes_the_layer() {
        let folder = tempfile::tempdir().unwrap();
        // One that is worth threads, one that is not, and none at all.
        let large: Vec<u8> = (0..(5 << 20) + 3_u32).map(|n| (n % 251) as u8).collect();
        let mut expected = Vec::new();
        for (name, bytes) in [("a.gguf", large.as_slice()), ("b.json", b"{}"), ("c.txt", b"")] {
            std::fs::write(folder.path().join(name), bytes).unwrap();
            let path = Path::new("/models").join(name);
            expected.push(LayerFile { path, size: bytes.len() as u64, sha256: Digest::of(bytes) });
        }
        let (source, target) = (folder.path().to_owned(), PathBuf::from("/models"));
        let inputs = vec![Input::Copy { source, target, follow: Some("/".into()), nar_hash: None }];
        let recipe = Recipe { format: FORMAT, inputs, perms: Vec::new() };
        let progress = Progress::new();
        let plain = digest_of(&recipe, None, &progress).unwrap();
        assert_eq!((plain.noted.files, plain.noted.checksums.as_slice().len()), (vec![], 2));
        let read = progress.read();
        let asked = digest_of(&recipe, Some(&Known::new()), &progress).unwrap();
        assert_eq!(asked.noted.files, expected);
        assert_eq!((asked.digest, asked.noted.checksums), (plain.digest, plain.noted.checksums));
        assert_eq!(progress.read(), 2 * read, "every byte once");
        // What is known is believed, and not made.
        let known = Known::from([(expected[0].path.clone(), Digest::of(b"known"))]);
        let asked = digest_of(&recipe, Some(&known), &progress).unwrap();
        assert_eq!(asked.noted.files[0].sha256, Digest::of(b"known"));
        assert_eq!((asked.digest, &asked.noted.files[1..]), (plain.digest, &expected[1..]));
    }
}
