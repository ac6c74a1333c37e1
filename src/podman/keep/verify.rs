//! Whether what was loaded is still what was built: its records, and what its recipes say; with `full` every byte of every layer.
//!
//! What Podman keeps of a layer is enough to check it, wherever it was loaded from: its tar-split record has every header
//! of the archive and a checksum of every file, and together they give the layer's digest ([`mod@crate::podman::linked::check_tree`]).
//!
//! With vfs each layer has copies of all that is below it. Only the copy of a file in its own layer is compared.
//!
//! A file of a linked layer is the same file as in the Nix store. If that one went bad, the store did.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use rayon::prelude::*;
use rustix::fs::FileType;
use serde::Serialize;

use super::as_built::difference;
use crate::class::{Class, Classified};
use crate::disk::WriteError;
use crate::disk::beneath::Dir;
use crate::disk::bounded::Cap;
use crate::disk::progress::Progress;
use crate::engine::target::{DecideError, LoadTarget};
use crate::image::summary::PlatformRecord;
use crate::image::{LayerRecord, chain_ids};
use crate::layer::{Recipe, TarEntryKind};
use crate::oci::digest::Digest;
use crate::podman::linked::check_tree::{Bad, check_in};
use crate::podman::linked::{DRIVER, LinkedStore};
use crate::podman::storage::records::StoreRecords;
use crate::podman::storage::snapshot::StoreSnapshot;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VerifyError {
    /// No image for this host.
    #[error(transparent)]
    Decide(#[from] DecideError),
    /// The job was told to stop.
    #[error("{0}")]
    Stopped(io::Error),
}

impl Classified for VerifyError {
    fn class(&self) -> Class {
        match self {
            Self::Decide(error) => error.class(),
            Self::Stopped(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Decide(error) => error.hint(),
            Self::Stopped(_) => None,
        }
    }
}

/// What mends a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProblemState {
    /// Podman has no such image: it is loaded.
    Missing,
    /// The image is there and its name leads elsewhere: it is named.
    Renamed,
    /// A part of it is not what it was: that is made again.
    Damaged,
}

/// The layer that a problem is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
pub(crate) struct LayerName {
    /// What is in it.
    pub(crate) title: String,
    pub(crate) digest: Digest,
}

/// One thing that is not as it was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct ImageProblem {
    /// What mends it.
    pub(crate) state: ProblemState,
    /// The images that have it, by name and tag.
    pub(crate) images: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layer: Option<LayerName>,
    /// The path in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
    /// The path on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// The path in the Nix store that is this very file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<PathBuf>,
    /// What is wrong with it.
    pub(crate) what: String,
}

impl fmt::Display for ImageProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.images.join(", "))?;
        if let Some(LayerName { title, digest }) = &self.layer {
            write!(f, "layer {title} ({}): ", digest.short())?;
        }
        match (&self.file, &self.path) {
            (Some(file), Some(path)) => write!(f, "{} {} ({})", file.display(), self.what, path.display())?,
            (None, Some(path)) => write!(f, "{} {}", path.display(), self.what)?,
            (_, None) => f.write_str(&self.what)?,
        }
        match &self.source {
            Some(source) => write!(f, "; it is the same file as {}: the store itself went bad", source.display()),
            None => Ok(()),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VerifiedImages {
    /// How many images were looked at.
    pub(crate) images: usize,
    /// How many layers, each once.
    pub(crate) layers: usize,
    pub(crate) problems: Vec<ImageProblem>,
}

/// Compares images with what a Podman has of them. With `full` every byte of their layers is read.
///
/// # Errors
/// See [`VerifyError`]; what is wrong with an image is not an error.
pub(crate) fn verify(
    snapshot: &StoreSnapshot,
    targets: &[LoadTarget],
    full: bool,
    progress: &Progress,
) -> Result<VerifiedImages, VerifyError> {
    let mut verified = VerifiedImages { images: targets.len(), ..VerifiedImages::default() };
    let mut layers: BTreeMap<(&Path, String), StoreLayer<'_>> = BTreeMap::new();
    for target in targets {
        let (summary, platform) = (target.image.summary(), target.platform()?);
        let name = &summary.reference.to_string();
        let problem = |state, path: Option<PathBuf>, what: String| ImageProblem {
            state,
            images: vec![name.clone()],
            layer: None,
            file: None,
            path,
            source: None,
            what,
        };
        let Some((store, _)) = snapshot.image(summary, platform) else {
            let what = "Podman has no record of it".to_owned();
            verified.problems.push(problem(ProblemState::Missing, None, what));
            continue;
        };
        let chain: Vec<String> = chain_ids(&platform.layers).iter().map(|id| id.hex()).collect();
        let bad = image_records(snapshot, platform, &chain);
        verified.problems.extend(bad.into_iter().map(|(path, what)| problem(ProblemState::Damaged, Some(path), what)));
        if let Some(what) = snapshot.led_elsewhere(summary, platform) {
            verified.problems.push(problem(ProblemState::Renamed, None, what));
        }
        for (n, record) in platform.layers.iter().enumerate() {
            let home = snapshot.layer(store, &chain[n]).map_or(store, |(home, _)| home);
            let recipe = target.image.image().recipes.get(&record.digest);
            let layer = layers.entry((&home.store, chain[n].clone())).or_insert_with(|| StoreLayer {
                home,
                id: chain[n].clone(),
                below: chain[..n].iter().rev().cloned().collect(),
                record,
                recipe,
                images: Vec::new(),
            });
            layer.recipe = layer.recipe.or(recipe);
            if !layer.images.contains(name) {
                layer.images.push(name.clone());
            }
        }
    }
    verified.layers = layers.len();
    let mut layers: Vec<StoreLayer<'_>> = layers.into_values().collect();
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.record.diff_size()));
    progress.expect(if full { layers.iter().map(|layer| layer.record.diff_size()).sum() } else { 0 });
    let found: Vec<Vec<ImageProblem>> =
        layers.par_iter().with_max_len(1).map(|layer| layer.verify(snapshot, full, progress)).collect();
    progress.check().map_err(VerifyError::Stopped)?;
    verified.problems.extend(found.into_iter().flatten());
    Ok(verified)
}

/// What is wrong with an image's records and the small files beside them.
fn image_records(snapshot: &StoreSnapshot, platform: &PlatformRecord, chain: &[String]) -> Vec<(PathBuf, String)> {
    let (mut bad, mut has_config, mut json) = (Vec::new(), false, PathBuf::new());
    let (id, config) = (platform.config_digest.hex(), platform.config_digest.to_string());
    let needed = |name: &str| name == config || name.starts_with("manifest");
    // An image that was tagged has a second record in the graph root, and its files only beside the first one.
    for store in &snapshot.stores {
        let Some(stored) = store.images.iter().find(|image| image.id == id) else { continue };
        json = store.store.join(format!("{0}-images/images.json", store.driver));
        // An image without layers has none as the uppermost.
        if stored.layer != chain.last().map_or("", String::as_str) {
            bad.push((json.clone(), format!("names layer '{}' as the uppermost of {config}", stored.layer)));
        }
        has_config |= stored.big_data_digests.contains_key(&config);
        for (name, expected) in stored.big_data_digests.iter().filter(|(name, _)| needed(name)) {
            let path = store.big_data(&stored.id, name);
            match read(store, &path, Cap::Config).map(|bytes| (Digest::of(&bytes).to_string(), bytes.len() as u64)) {
                Ok((found, _)) if found != *expected => {
                    bad.push((path, format!("has the digest {found} instead of {expected}")));
                }
                Ok((_, found)) => {
                    if let Some(told) = stored.big_data_sizes.get(name).filter(|told| **told != found) {
                        bad.push((json.clone(), format!("says that {name} has {told} bytes, and it has {found}")));
                    }
                }
                Err(error) => bad.push((path, unreadable(&error))),
            }
        }
    }
    if !has_config {
        bad.push((json, format!("has no config for {config}")));
    }
    bad
}

/// A file of a store, which no link leads out of.
fn read(store: &StoreRecords, path: &Path, cap: Cap) -> io::Result<Vec<u8>> {
    let below = path.strip_prefix(&store.store).unwrap_or(path);
    Dir::open(&store.store).and_then(|dir| dir.read(below, cap)).map_err(|error| error.source)
}

/// The text of one.
fn text(store: &StoreRecords, path: &Path) -> io::Result<String> {
    let bytes = read(store, path, Cap::Settings)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn unreadable(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound { "is not there".to_owned() } else { format!("cannot be read: {error}") }
}

/// A layer in one store.
struct StoreLayer<'a> {
    home: &'a StoreRecords,
    id: String,
    /// The chain IDs below it, the nearest first.
    below: Vec<String>,
    record: &'a LayerRecord,
    recipe: Option<&'a Recipe>,
    images: Vec<String>,
}

impl StoreLayer<'_> {
    fn problem(&self, path: PathBuf, what: String) -> ImageProblem {
        let layer = LayerName { title: self.record.title.clone(), digest: self.record.digest };
        ImageProblem {
            state: ProblemState::Damaged,
            images: self.images.clone(),
            layer: Some(layer),
            file: None,
            path: Some(path),
            source: None,
            what,
        }
    }

    fn verify(&self, snapshot: &StoreSnapshot, full: bool, progress: &Progress) -> Vec<ImageProblem> {
        let mut problems: Vec<ImageProblem> =
            self.records(snapshot).into_iter().map(|(path, what)| self.problem(path, what)).collect();
        // Without these two there is nothing to read.
        if problems.is_empty() {
            let found = if full { self.bytes(progress) } else { self.recipe(progress) };
            problems = found
                .unwrap_or_else(|error| vec![self.problem(error.path, format!("cannot be read: {}", error.source))]);
        }
        problems
    }

    /// What is wrong with the layer's record, and with what must lie beside its tree.
    fn records(&self, snapshot: &StoreSnapshot) -> Vec<(PathBuf, String)> {
        let StoreRecords { store, driver, layers, .. } = self.home;
        let json = store.join(format!("{driver}-layers/layers.json"));
        let Some(stored) = layers.get(&self.id) else {
            return vec![(json, format!("has no layer {}", self.id))];
        };
        let mut bad = Vec::new();
        if stored.is_incomplete() {
            bad.push((json.clone(), format!("has layer {} as incomplete", self.id)));
        }
        if stored.diff_digest != Some(self.record.diff_id()) || stored.parent.as_ref() != self.below.first() {
            bad.push((json, format!("says something else of layer {} than its image", self.id)));
        }
        let (tree, split) = (self.home.tree(&self.id), self.home.tar_split(&self.id));
        if !tree.is_dir() {
            bad.push((tree, "is not there".to_owned()));
        } else if driver == DRIVER {
            bad.extend(self.mounts(snapshot, &tree));
        }
        if !split.is_file() {
            bad.push((split, "is not there".to_owned()));
        }
        bad
    }

    /// The short names by which overlay mounts know a layer and those below it.
    fn mounts(&self, snapshot: &StoreSnapshot, tree: &Path) -> Option<(PathBuf, String)> {
        let folder = |store: &StoreRecords| store.store.join(DRIVER);
        let leads = |link: PathBuf, to: &Path| {
            fs::canonicalize(link).is_ok_and(|at| fs::canonicalize(to).is_ok_and(|to| at == to))
        };
        let own = folder(self.home).join(&self.id);
        let (link, lower) = (own.join("link"), own.join("lower"));
        match text(self.home, &link) {
            Err(error) => return Some((link, unreadable(&error))),
            Ok(short) if !leads(folder(self.home).join("l").join(&short), tree) => {
                return Some((link, format!("says '{short}', which does not lead to the layer")));
            }
            Ok(_) => {}
        }
        if self.below.is_empty() {
            return None;
        }
        let names = match text(self.home, &lower) {
            Err(error) => return Some((lower, unreadable(&error))),
            Ok(names) => names,
        };
        let names: Vec<&str> = names.split(':').collect();
        let fits = |(name, below): (&&str, &String)| {
            snapshot.stores.iter().any(|store| leads(folder(store).join(name), &store.tree(below)))
        };
        let right = names.len() == self.below.len() && names.iter().zip(&self.below).all(fits);
        if !right {
            return Some((lower, "does not lead to the layers below".to_owned()));
        }
        // containers-storage 1.64 and newer read this first; older ones, and an older windlass, do not write it.
        let layers = own.join("lower-layers");
        match text(self.home, &layers) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some((layers, unreadable(&error))),
            Ok(ids) => (ids != self.below.join(":")).then(|| (layers, "does not name the layers below".to_owned())),
        }
    }

    /// Compares the layer with the recipe that its image has for it.
    fn recipe(&self, progress: &Progress) -> Result<Vec<ImageProblem>, WriteError> {
        let Some(recipe) = self.recipe.filter(|recipe| recipe.blob().is_none()) else { return Ok(Vec::new()) };
        let (store, split) = (Dir::open(&self.home.store)?, self.home.tar_split(&self.id));
        let record = store.file(self.below(&split))?;
        let tree = self.home.tree(&self.id);
        let linked = LinkedStore::is_at(&self.home.store);
        let tree = linked.then(|| store.dir(self.below(&tree))).transpose()?;
        let found = difference(recipe, (record, &split), tree.as_ref(), progress)?;
        Ok(found.into_iter().map(|(path, what)| self.problem(path, what)).collect())
    }

    /// A path of its store, as it is opened there: links in a store lead nowhere.
    fn below<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(&self.home.store).unwrap_or(path)
    }

    /// Reads every byte.
    fn bytes(&self, progress: &Progress) -> Result<Vec<ImageProblem>, WriteError> {
        let (tree, split) = (self.home.tree(&self.id), self.home.tar_split(&self.id));
        let store = Dir::open(&self.home.store)?;
        let (record, open) = (store.file(self.below(&split))?, store.dir(self.below(&tree))?);
        let checked = check_in((record, &split), open.again()?, self.home.driver == DRIVER, progress)?;
        let mut bad = checked.bad;
        // Elsewhere a tree holds the layers below it too.
        if self.home.driver == DRIVER {
            let unknown = unknown(&open, &checked.members);
            bad.extend(unknown.into_iter().map(|path| Bad { path, why: "does not belong there".to_owned() }));
        }
        if bad.is_empty() && checked.digest != self.record.diff_id() {
            return Ok(vec![self.problem(split, format!("gives an archive with the digest {}", checked.digest))]);
        }
        let sources = self.sources(&bad);
        let problem = |Bad { path, why }: Bad| {
            let disk = tree.join(&path);
            let inode = |path: &Path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
            let same = |source: &&PathBuf| inode(source).is_some_and(|source| inode(&disk) == Some(source));
            let source = sources.get(&path).filter(same).cloned();
            ImageProblem { file: Some(Path::new("/").join(path)), source, ..self.problem(disk.clone(), why) }
        };
        Ok(bad.into_iter().map(problem).collect())
    }

    /// Which files of the host these were made from.
    fn sources(&self, bad: &[Bad]) -> BTreeMap<PathBuf, PathBuf> {
        let mut sources = BTreeMap::new();
        let Some(recipe) = self.recipe.filter(|_| !bad.is_empty()) else { return sources };
        let wanted: BTreeSet<&Path> = bad.iter().map(|bad| bad.path.as_path()).collect();
        // What can no longer be read has no source either.
        drop(recipe.members(&mut |member| {
            let path = Path::new(std::ffi::OsStr::from_bytes(&member.entry.path));
            if matches!(member.entry.kind, TarEntryKind::File(_)) && wanted.contains(path) {
                sources.insert(path.to_owned(), member.host.to_owned());
            }
            Ok(())
        }));
        sources
    }
}

/// What is in a tree and no member of it.
fn unknown(tree: &Dir, members: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    // An archive need not have the directories that its members are in.
    let known: BTreeSet<&Path> = members.iter().flat_map(|member| member.ancestors()).collect();
    let (mut unknown, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        // A folder that cannot be read was told of as a member.
        for (name, kind) in tree.dir(&folder).and_then(|found| found.names()).into_iter().flatten() {
            let path = folder.join(name);
            if !known.contains(path.as_path()) {
                unknown.push(path);
            } else if kind == FileType::Directory {
                folders.push(path);
            }
        }
    }
    unknown.sort();
    unknown
}
