//! Store paths out of layers: what a host with Nix needs to have them as if they had been built there.
//!
//! A layer of the closure has store paths at their own places, and [`closure.json`](super::closure) says what Nix recorded of
//! them. Names, contents, link targets and the `x` bit are all that a NAR has, so that the tree in the layer gives the NAR of
//! the store path; its hash proves it. What was moved on the way into an image is in no layer at its own place.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::closure::ImageClosure;
use super::layout::{ImageDir, LayoutError};
use serde::Serialize;

use crate::class::{Class, Classified};
use crate::disk::parts::{JoinedFile, open_whole};
use crate::disk::progress::Progress;
use crate::image::LayerRecord;
use crate::layer::padding;
use crate::layer::tar_reader::{self, TarMemberKind};
use crate::nix::import::NixImport;
use crate::nix::nar::NarWriter;
use crate::nix::path_info::PathInfo;
use crate::nix::store::{self, NixError, NixPlaces};
use crate::nix::store_path::StoreDir;

/// Why store paths are not put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StorePathsError {
    /// An image directory or a layer of it cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Nix cannot be asked, or refuses.
    #[error(transparent)]
    Nix(#[from] NixError),
    /// The run is to stop, or the layers cannot be read.
    #[error("read the layers: {0}")]
    Read(#[from] io::Error),
}

impl Classified for StorePathsError {
    fn class(&self) -> Class {
        match self {
            Self::Layout(error) => error.class(),
            Self::Nix(error) => error.class(),
            Self::Read(error) => error.class(),
        }
    }
}

/// Why a store path is not put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LeftReason {
    /// It refers to a store path that no layer has.
    Incomplete,
    /// No layer has it at its own place.
    Moved,
    /// Its bytes do not have the hash that Nix recorded.
    Damaged,
    /// It refers to a store path that is damaged.
    NeedsDamaged,
}

impl LeftReason {
    /// In words that go on from the path.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Incomplete => "it refers to a store path that no layer has",
            Self::Moved => "no layer has it at its own place",
            Self::Damaged => "its bytes do not have the hash that Nix recorded",
            Self::NeedsDamaged => "it refers to a store path that is damaged",
        }
    }

    /// Whether something is wrong with the layers.
    pub(crate) const fn is_damage(self) -> bool {
        matches!(self, Self::Damaged | Self::NeedsDamaged)
    }
}

/// The store paths of images that this host's store lacks.
#[derive(Debug)]
pub(crate) struct LackingPaths {
    store: StoreDir,
    /// Those that a layer has, each behind what it refers to.
    there: Vec<PathInfo>,
    /// Those that cannot be put back, each with why.
    pub(crate) left: Vec<(String, LeftReason)>,
}

impl LackingPaths {
    /// How many can be put back.
    pub(crate) fn len(&self) -> usize {
        self.there.len()
    }

    /// Bytes of their NARs.
    pub(crate) fn size(&self) -> u64 {
        self.there.iter().map(|info| info.nar_size).sum()
    }
}

/// A layer with its image, and where in the blob each of its store paths lies.
struct LayerTrees<'a> {
    image: &'a ImageDir,
    layer: &'a LayerRecord,
}

/// A file, a link or a directory of a layer.
enum TreeNode {
    File { executable: bool, offset: u64, size: u64 },
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Self>),
}

/// What the store of this host lacks of these images.
///
/// # Errors
/// If an image says nothing sensible of its store paths, or Nix cannot be asked.
pub(crate) fn lacking(images: &[&ImageDir], nix: &NixPlaces) -> Result<LackingPaths, StorePathsError> {
    let mut closure = ImageClosure::default();
    for image in images {
        closure.merge(ImageClosure::read(image.path())?);
    }
    let directory = images.first().map_or(Path::new(""), |image| image.path());
    let (store, graph) = closure.graph(directory)?;
    let (mut there, mut left) = (Vec::new(), Vec::new());
    if Path::new(store.as_str()) != nix.store {
        return Ok(LackingPaths { store, there, left });
    }
    let order = graph.references_first();
    let name = |info: &PathInfo| store.display(&info.path).to_string();
    let invalid = store::invalid(&order.iter().map(|info| name(info).into()).collect::<Vec<PathBuf>>())?;
    let layers = all_layers(images);
    let mut lost = BTreeSet::new();
    for info in order.into_iter().filter(|info| invalid.contains(Path::new(&name(info)))) {
        let path = name(info);
        let why = if !closure.is_complete(&path) || info.references.iter().any(|path| lost.contains(path)) {
            Some(LeftReason::Incomplete)
        } else if !layers.iter().any(|trees| trees.has(&path)) {
            Some(LeftReason::Moved)
        } else {
            None
        };
        match why {
            None => there.push(info.clone()),
            Some(why) => {
                lost.insert(info.path.clone());
                left.push((path, why));
            }
        }
    }
    Ok(LackingPaths { store, there, left })
}

/// Puts them into the store of this host; how many that were, and the bytes of their NARs. Those whose bytes have another hash than Nix recorded are named
/// in `left`, with all that refer to them.
///
/// # Errors
/// If a layer cannot be read, or Nix refuses. What was put back before stays.
pub(crate) fn put_back(
    lacking: &mut LackingPaths,
    images: &[&ImageDir],
    progress: &Progress,
) -> Result<(usize, u64), StorePathsError> {
    let LackingPaths { store, there, left } = lacking;
    let layers = all_layers(images);
    let mut opened: BTreeMap<usize, (JoinedFile, BTreeMap<PathBuf, TreeNode>)> = BTreeMap::new();
    let (mut lost, mut count, mut bytes, mut import) = (BTreeSet::new(), 0, 0, None::<NixImport>);
    for info in &*there {
        progress.check()?;
        let path = store.display(&info.path).to_string();
        if info.references.iter().any(|reference| lost.contains(reference)) {
            lost.insert(info.path.clone());
            left.push((path, LeftReason::NeedsDamaged));
            continue;
        }
        let number = layers.iter().position(|trees| trees.has(&path)).unwrap_or_default();
        let (file, trees) = match opened.entry(number) {
            Entry::Occupied(opened) => opened.into_mut(),
            Entry::Vacant(place) => place.insert(layers[number].open(store)?),
        };
        let mut running = match import.take() {
            Some(running) => running,
            None => NixImport::begin()?,
        };
        let sent = running.send(store, info, &mut |nar| match trees.get(Path::new(&path)) {
            Some(tree) => write_tree(tree, file, nar, progress),
            None => Ok(()),
        });
        match sent {
            Ok(true) => {
                count += 1;
                bytes += info.nar_size;
                import = Some(running);
            }
            Ok(false) => {
                running.cut_off();
                lost.insert(info.path.clone());
                left.push((path, LeftReason::Damaged));
            }
            Err(error) => {
                progress.check()?;
                running.finish()?;
                return Err(error.into());
            }
        }
    }
    if let Some(import) = import {
        let _step = progress.step("Nix takes the store paths over");
        import.finish()?;
    }
    Ok((count, bytes))
}

/// Every layer once that is there as an archive.
fn all_layers<'a>(images: &[&'a ImageDir]) -> Vec<LayerTrees<'a>> {
    let mut seen = BTreeSet::new();
    let all = images.iter().flat_map(|image| image.summary().layers().into_iter().map(|layer| (*image, layer)));
    let plain = all.filter(|(image, layer)| layer.packed.is_none() && !image.summary().without.contains(&layer.digest));
    plain.filter(|(_, layer)| seen.insert(layer.digest)).map(|(image, layer)| LayerTrees { image, layer }).collect()
}

impl LayerTrees<'_> {
    fn has(&self, path: &str) -> bool {
        self.layer.owners.iter().any(|owner| owner == path)
    }

    /// Reads the headers of the layer's archive.
    fn open(&self, store: &StoreDir) -> Result<(JoinedFile, BTreeMap<PathBuf, TreeNode>), LayoutError> {
        let blob = self.image.layer_blob(self.layer)?.ok_or_else(|| LayoutError::NoLayer {
            path: self.image.path().to_owned(),
            digest: self.layer.digest,
            title: self.layer.title.clone(),
        })?;
        let failed = |source| LayoutError::Read { path: blob.clone(), source };
        let mut file = open_whole(&blob).map_err(failed)?;
        let mut trees = BTreeMap::new();
        loop {
            let member = match tar_reader::next(&mut file) {
                Ok(Some(member)) => member,
                Ok(None) => return Ok((file, trees)),
                Err(error) => return Err(failed(io::Error::new(io::ErrorKind::InvalidData, error.to_string()))),
            };
            let offset = file.position();
            file.go_to(offset + member.size + padding(member.size));
            let place = Path::new("/").join(member.path());
            let Ok(below) = place.strip_prefix(store.as_str()) else { continue };
            let mut steps = below.components();
            let Some(base) = steps.next() else { continue };
            let node = match member.kind {
                TarMemberKind::Directory => TreeNode::Directory(BTreeMap::new()),
                TarMemberKind::Symlink(target) => TreeNode::Symlink(target),
                TarMemberKind::File if member.sparse.is_none() => {
                    TreeNode::File { executable: member.mode & 0o100 != 0, offset, size: member.size }
                }
                // No store path has others: its hash will not fit.
                _ => continue,
            };
            let top = Path::new(store.as_str()).join(base);
            let mut names: Vec<&[u8]> = steps.map(|step| step.as_os_str().as_bytes()).collect();
            let Some(last) = names.pop() else {
                trees.insert(top, node);
                continue;
            };
            let parent = names.into_iter().try_fold(trees.get_mut(&top), |parent, name| match parent {
                Some(TreeNode::Directory(entries)) => Some(entries.get_mut(name)),
                _ => None,
            });
            if let Some(Some(TreeNode::Directory(entries))) = parent {
                entries.insert(last.to_owned(), node);
            }
        }
    }
}

fn write_tree<W: Write>(
    tree: &TreeNode,
    file: &mut JoinedFile,
    nar: &mut NarWriter<W>,
    progress: &Progress,
) -> io::Result<()> {
    match tree {
        TreeNode::Symlink(target) => nar.symlink(target),
        TreeNode::Directory(entries) => {
            nar.begin_directory()?;
            for (name, entry) in entries {
                nar.begin_entry(name)?;
                write_tree(entry, file, nar, progress)?;
                nar.end()?;
            }
            nar.end()
        }
        TreeNode::File { executable, offset, size } => {
            nar.begin_file(*executable, *size)?;
            file.go_to(*offset);
            let (mut left, mut buffer) = (*size, vec![0; 1 << 16]);
            while left > 0 {
                let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let read = file.read(&mut buffer[..room])?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                progress.check()?;
                progress.count_read(read as u64);
                progress.count_written(read as u64);
                nar.contents(&buffer[..read])?;
                left -= read as u64;
            }
            nar.end_file(*size)
        }
    }
}
