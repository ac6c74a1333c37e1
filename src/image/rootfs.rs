//! What a container of an image finds at a path: its layers laid over each other, with links followed.
//!
//! Store paths are looked up on the host where they are asked for; only what lies outside of them is listed, which is little. Of
//! layers that were not made here every header is read, once.
//!
//! Sources: OCI image-spec (*layer.md*, whiteouts); path_resolution(7).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::ops::Bound;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::disk::bounded;
use crate::disk::parts::open_whole;
use crate::layer::{Input, MemberContent, Recipe, TarEntryKind, WHITEOUT, padding, tar_reader};
use crate::oci::compression::Compression;

/// Links that are followed one after another, as in Linux.
const LINKS: usize = 40;

/// A layer: how it is made, and how it is packed.
pub(crate) type RecipeInLayer = (Recipe, Compression);

/// What is at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RootFsNode {
    Directory,
    Link(PathBuf),
    /// A regular file, and whether anybody may execute it.
    File(Bytes, bool),
    /// A device, FIFO or socket.
    Special,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bytes {
    Host(PathBuf),
    Text(Vec<u8>),
    /// In an archive: the number of the layer, and the name there.
    Archive(usize, PathBuf),
}

/// What is at a path, links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FoundFile {
    /// Nothing, or a link that leads nowhere.
    Nothing,
    /// A directory, a device or the like.
    NoFile,
    /// A regular file.
    File {
        /// Where it is in the image, without links.
        place: PathBuf,
        /// Whether it may be executed.
        executable: bool,
    },
}

/// The file system of an image.
#[derive(Debug)]
pub(crate) struct ImageRootFs<'a> {
    layers: &'a [RecipeInLayer],
    nodes: BTreeMap<PathBuf, RootFsNode>,
    /// Store paths that are in it as they are on this host.
    store_paths: BTreeSet<&'a Path>,
}

impl<'a> ImageRootFs<'a> {
    /// The file system of these layers, bottom first; `archives` says whether those count that were not made here.
    ///
    /// # Errors
    /// If a layer cannot be read.
    pub(crate) fn new(layers: &'a [RecipeInLayer], archives: bool) -> io::Result<Self> {
        let mut all = Self { layers, nodes: BTreeMap::new(), store_paths: BTreeSet::new() };
        for (n, (recipe, compression)) in layers.iter().enumerate() {
            match recipe.blob() {
                Some(path) if archives => all.put_over(archived(n, path, *compression)?),
                Some(_) => {}
                None => {
                    let is_store_path = |input: &&Input| matches!(input, Input::StorePath { .. });
                    all.store_paths.extend(recipe.inputs.iter().filter(is_store_path).filter_map(place_of));
                    all.put_over(made(recipe)?);
                }
            }
        }
        Ok(all)
    }

    /// Whether it has layers that were not made here.
    #[must_use]
    pub(crate) fn has_archives(layers: &[RecipeInLayer]) -> bool {
        layers.iter().any(|(recipe, _)| recipe.blob().is_some())
    }

    /// Puts the entries of a layer over what is there.
    fn put_over(&mut self, entries: Vec<(PathBuf, RootFsNode)>) {
        let name = |path: &Path| path.file_name().map(|name| name.as_bytes().to_owned()).unwrap_or_default();
        for (path, _) in &entries {
            if let Some(hidden) = name(path).strip_prefix(WHITEOUT) {
                let parent = path.parent().unwrap_or(Path::new("/"));
                match hidden {
                    b".wh..opq" => self.remove_below(parent),
                    name => self.remove(&parent.join(OsStr::from_bytes(name))),
                }
            }
        }
        for (path, node) in entries {
            if name(&path).starts_with(WHITEOUT) {
                continue;
            }
            if node != RootFsNode::Directory {
                self.remove(&path);
            }
            self.nodes.insert(path, node);
        }
    }

    fn remove(&mut self, path: &Path) {
        self.remove_below(path);
        self.nodes.remove(path);
    }

    fn remove_below(&mut self, path: &Path) {
        let below = self.nodes.range(path.to_owned()..).map(|(below, _)| below);
        let below: Vec<PathBuf> = below.take_while(|below| below.starts_with(path)).cloned().collect();
        for below in below.iter().filter(|below| *below != path) {
            self.nodes.remove(below);
        }
    }

    /// What is at a path, which has no links in it.
    fn at(&self, path: &Path) -> Option<RootFsNode> {
        if let Some(node) = self.nodes.get(path) {
            return Some(node.clone());
        }
        if path.ancestors().any(|above| self.store_paths.contains(above)) {
            return on_host(path);
        }
        let is_above = |below: Option<&Path>| below.is_some_and(|below| below.starts_with(path));
        let node = self.nodes.range(path.to_owned()..).next().map(|(below, _)| below.as_path());
        let store_path = self.store_paths.range::<Path, _>((Bound::Included(path), Bound::Unbounded)).next().copied();
        (is_above(node) || is_above(store_path)).then_some(RootFsNode::Directory)
    }

    /// Follows an absolute path to its end.
    fn follow(&self, path: &Path) -> Option<(PathBuf, RootFsNode)> {
        let steps = |path: &Path| -> Vec<OsString> {
            let steps = path.components().filter(|step| matches!(step, Component::Normal(_) | Component::ParentDir));
            steps.map(|step| step.as_os_str().to_owned()).rev().collect()
        };
        let (mut at, mut links, mut left) = (PathBuf::from("/"), 0, steps(path));
        let mut node = RootFsNode::Directory;
        while let Some(step) = left.pop() {
            if node != RootFsNode::Directory {
                return None;
            }
            if step == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&step);
            match self.at(&next)? {
                RootFsNode::Link(target) => {
                    links += 1;
                    if links > LINKS {
                        return None;
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    left.extend(steps(&target));
                }
                other => (at, node) = (next, other),
            }
        }
        Some((at, node))
    }

    /// What is at an absolute path, links followed.
    #[must_use]
    pub(crate) fn find(&self, path: &Path) -> FoundFile {
        match self.follow(path) {
            None => FoundFile::Nothing,
            Some((place, RootFsNode::File(_, executable))) => FoundFile::File { place, executable },
            Some(_) => FoundFile::NoFile,
        }
    }

    /// The first bytes of a file, at most `most` of them; `None` where there is no file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn read(&self, path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((_, RootFsNode::File(bytes, _))) = self.follow(path) else { return Ok(None) };
        let mut read = Vec::new();
        match bytes {
            Bytes::Text(text) => read = text,
            Bytes::Host(path) => drop(bounded::open(&path)?.take(most).read_to_end(&mut read)?),
            Bytes::Archive(layer, name) => {
                let (recipe, compression) = &self.layers[layer];
                let path = recipe.blob().unwrap_or(Path::new(""));
                each(path, *compression, &mut |member, content| {
                    if member.path() == name && member.kind == tar_reader::TarMemberKind::File {
                        read.clear();
                        content.take(most).read_to_end(&mut read)?;
                    }
                    Ok(())
                })?;
            }
        }
        read.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(Some(read))
    }
}

fn place_of(input: &Input) -> Option<&Path> {
    match input {
        Input::StorePath { path, .. } => Some(path),
        _ => None,
    }
}

fn on_host(path: &Path) -> Option<RootFsNode> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(match metadata.file_type() {
        kind if kind.is_dir() => RootFsNode::Directory,
        kind if kind.is_symlink() => RootFsNode::Link(fs::read_link(path).ok()?),
        kind if kind.is_file() => RootFsNode::File(Bytes::Host(path.to_owned()), metadata.mode() & 0o111 != 0),
        _ => RootFsNode::Special,
    })
}

/// The entries of a layer that is made here, but for store paths at their own places.
fn made(recipe: &Recipe) -> io::Result<Vec<(PathBuf, RootFsNode)>> {
    let mut rest = recipe.clone();
    rest.inputs.retain(|input| !matches!(input, Input::StorePath { .. }));
    let sources: Vec<PathBuf> = rest.sources().into_iter().cloned().collect();
    rest.perms.retain(|perm| perm.path.as_ref().is_none_or(|path| sources.contains(path)));
    let mut entries = Vec::new();
    rest.members(&mut |member| {
        let place = member.entry.place();
        let executable = member.entry.mode & 0o111 != 0;
        let node = match (&member.entry.kind, member.content) {
            (TarEntryKind::Directory, _) => RootFsNode::Directory,
            (TarEntryKind::Symlink(target), _) => RootFsNode::Link(OsString::from_vec(target.clone()).into()),
            (_, MemberContent::Text(text)) => RootFsNode::File(Bytes::Text(text), executable),
            _ => RootFsNode::File(Bytes::Host(member.host.to_owned()), executable),
        };
        entries.push((place, node));
        Ok(())
    })
    .map_err(io::Error::other)?;
    Ok(entries)
}

/// The entries of a layer that is an archive.
fn archived(layer: usize, path: &Path, compression: Compression) -> io::Result<Vec<(PathBuf, RootFsNode)>> {
    let mut entries: Vec<(PathBuf, RootFsNode)> = Vec::new();
    let mut files: BTreeMap<PathBuf, RootFsNode> = BTreeMap::new();
    each(path, compression, &mut |member, _| {
        let name = member.path();
        let node = match &member.kind {
            tar_reader::TarMemberKind::Directory => RootFsNode::Directory,
            tar_reader::TarMemberKind::Symlink(target) => RootFsNode::Link(OsString::from_vec(target.clone()).into()),
            tar_reader::TarMemberKind::File => {
                RootFsNode::File(Bytes::Archive(layer, name.clone()), member.mode & 0o111 != 0)
            }
            tar_reader::TarMemberKind::Link(target) => {
                files.get(&tar_reader::clean(target)).cloned().unwrap_or(RootFsNode::Special)
            }
            _ => RootFsNode::Special,
        };
        if matches!(node, RootFsNode::File(..)) {
            files.insert(name.clone(), node.clone());
        }
        entries.push((Path::new("/").join(name), node));
        Ok(())
    })?;
    Ok(entries)
}

type VisitMember<'v> = dyn FnMut(&tar_reader::TarMember, &mut dyn Read) -> io::Result<()> + 'v;

/// Calls `visit` for each member of an archive, with what follows its header.
fn each(path: &Path, compression: Compression, visit: &mut VisitMember<'_>) -> io::Result<()> {
    let mut archive = compression.decoder(open_whole(path)?)?;
    while let Some(member) = tar_reader::next(&mut archive).map_err(|error| io::Error::other(error.to_string()))? {
        let mut content = archive.by_ref().take(member.size + padding(member.size));
        visit(&member, &mut content.by_ref().take(member.size))?;
        // What was not read of it.
        let left = content.limit();
        io::copy(&mut archive.by_ref().take(left), &mut io::sink())?;
    }
    Ok(())
}
