//! What is in layers, as a tree: directories and their files, with the bytes of each.
//!
//! Links and directories take no bytes here, and are left out where nothing else is below them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use super::{LayerError, LayerMember, Recipe, TarEntryKind, padding, tar_reader};
use crate::disk::bounded;
use crate::disk::parts::{files_of, open_whole};
use crate::disk::progress::Progress;
use crate::oci::compression::Compression;

/// A directory by the names in it. A name that is no UTF-8 is there as far as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileTree(BTreeMap<String, FileTreeNode>);

/// What a directory has under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileTreeNode {
    /// A file of so many bytes.
    File(u64),
    Directory(FileTree),
}

impl FileTreeNode {
    /// Bytes of it and of all below.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File(size) => *size,
            Self::Directory(tree) => tree.size(),
        }
    }
}

impl FileTree {
    /// The files of the layer that a recipe makes; no file of it is read.
    ///
    /// # Errors
    /// If what the recipe names is not there, or gives no layer.
    pub(crate) fn of_recipe(recipe: &Recipe, progress: &Progress) -> Result<Self, LayerError> {
        if let Some(path) = recipe.blob() {
            return Self::of_archive(path, progress).map_err(|error| LayerError::reading(path, error));
        }
        let mut tree = Self::default();
        // Whose files they are is no question here, and rules may name inputs that are left out.
        let recipe = Recipe { perms: Vec::new(), ..recipe.clone() };
        recipe.members(&mut |LayerMember { entry, .. }| {
            progress.check().map_err(LayerError::Sink)?;
            if matches!(entry.kind, TarEntryKind::File(_)) {
                tree.insert(&entry.path, entry.size());
            }
            Ok(())
        })?;
        Ok(tree)
    }

    /// The files of an archive. Of one that is not packed no more than the headers is read.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn of_archive(path: &Path, progress: &Progress) -> io::Result<Self> {
        let first = files_of(path)?.into_iter().next().map(|(first, _)| bounded::open(&first)).transpose()?;
        let packing = first.map_or(Ok(Compression::None), |first| Compression::of_file(&first))?;
        let mut tree = Self::default();
        let bad = |error: tar_reader::BadArchive| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        let mut file = open_whole(path)?;
        if packing == Compression::None {
            while let Some(member) = tar_reader::next(&mut file).map_err(bad)? {
                progress.check()?;
                let end = file.position() + member.size + padding(member.size);
                tree.take_member(&member);
                file.go_to(end);
            }
            return Ok(tree);
        }
        let mut archive = packing.decoder(file)?;
        while let Some(member) = tar_reader::next(&mut archive).map_err(bad)? {
            progress.check()?;
            tree.take_member(&member);
            io::copy(&mut archive.by_ref().take(member.size + padding(member.size)), &mut io::sink())?;
        }
        Ok(tree)
    }

    fn take_member(&mut self, member: &tar_reader::TarMember) {
        if member.kind == tar_reader::TarMemberKind::File {
            let size = member.sparse.as_ref().map_or(member.size, |sparse| sparse.size);
            self.insert(member.path().as_os_str().as_encoded_bytes(), size);
        }
    }

    /// Adds a file at a path below the tree's root. A file gives way to a directory, as it does where layers are unpacked.
    pub(crate) fn insert(&mut self, path: &[u8], size: u64) {
        let mut steps = path.split(|byte| *byte == b'/').filter(|step| !step.is_empty()).map(String::from_utf8_lossy);
        let Some(mut name) = steps.next() else { return };
        let mut tree = self;
        for next in steps {
            let node = tree.0.entry(name.into_owned()).or_insert_with(|| FileTreeNode::Directory(Self::default()));
            if matches!(node, FileTreeNode::File(_)) {
                *node = FileTreeNode::Directory(Self::default());
            }
            let FileTreeNode::Directory(below) = node else { return };
            (tree, name) = (below, next);
        }
        tree.0.insert(name.into_owned(), FileTreeNode::File(size));
    }

    /// Takes out what is at a path below the tree's root, with the directories that are empty then.
    pub(crate) fn remove(&mut self, path: &str) -> Option<FileTreeNode> {
        let path = path.trim_start_matches('/');
        let Some((first, rest)) = path.split_once('/') else { return self.0.remove(path) };
        let Some(FileTreeNode::Directory(below)) = self.0.get_mut(first) else { return None };
        let found = below.remove(rest);
        if below.0.is_empty() {
            self.0.remove(first);
        }
        found
    }

    /// Bytes of all files.
    pub(crate) fn size(&self) -> u64 {
        self.0.values().map(FileTreeNode::size).sum()
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> u64 {
        let files = |node: &FileTreeNode| match node {
            FileTreeNode::File(_) => 1,
            FileTreeNode::Directory(tree) => tree.files(),
        };
        self.0.values().map(files).sum()
    }

    /// What is in it, by name.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &FileTreeNode)> {
        self.0.iter().map(|(name, node)| (name.as_str(), node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_in_their_directories_and_a_store_path_is_taken_out_whole() {
        let mut tree = FileTree::default();
        for (path, size) in [("nix/store/a/bin/x", 3), ("nix/store/a/y", 4), ("nix/store/b", 5), ("etc/passwd", 6)] {
            tree.insert(path.as_bytes(), size);
        }
        tree.insert(b"etc/passwd/odd", 1);
        tree.insert(b"caf\xe9", 2);
        assert_eq!((tree.size(), tree.files()), (15, 5));
        let Some(FileTreeNode::Directory(a)) = tree.remove("/nix/store/a") else { panic!("a is a directory") };
        assert_eq!((a.size(), a.files()), (7, 2));
        assert_eq!(tree.remove("/nix/store/b"), Some(FileTreeNode::File(5)));
        assert_eq!(tree.remove("/nix/store/b"), None);
        assert_eq!(tree.entries().map(|(name, _)| name).collect::<Vec<_>>(), ["caf\u{fffd}", "etc"]);
    }
}
