//! Images into the linked store: trees made in parallel, then recorded all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::MediaType;
use rayon::prelude::*;

use super::check_tree::check_in;
use super::copy_by_links::copy_tree;
use super::link_tree::{TreeError, place};
use super::link_view::Views;
use super::stored_archive::StoredBytes;
use super::unpack::{UnpackError, Unpacked, unpack};
use super::{DRIVER, LinkedStore, NewLayer, StoreChange, TAR_SPLIT, TREE};
use crate::class::{Class, Classified};
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::parts::open_whole;
use crate::disk::pipe::CHUNK;
use crate::disk::progress::Progress;
use crate::disk::write_back::{SyncedBytes, writing_back};
use crate::disk::{AtPath, WriteError};
use crate::engine::target::{CopiedBytes, CopyCause};
use crate::image::layout::{ImageDir, LayoutError, changed};
use crate::image::summary::{LayerPatch, PlatformRecord};
use crate::image::{LayerRecord, chain_ids};
use crate::layer::Recipe;
use crate::layer::patch::{OldBytes, PatchedLayer};
use crate::oci::compression::Compression;
use crate::oci::digest::Digest;
use crate::podman::storage::records::{RecordsError, StoreRecords, StoredImage, StoredLayer, packing};
use crate::podman::storage::snapshot::names;
use crate::spec::DEFAULT_CREATED;

/// Why an image cannot be linked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A layer that is only there as an archive.
    #[error("layer {title} has no recipe, only a blob: it cannot be linked; load with `--via podman`")]
    NoRecipe {
        /// What is in it.
        title: String,
    },
    /// A tree cannot be made.
    #[error("layer {title} ({digest}): {source}")]
    Tree {
        /// What is in it.
        title: String,
        /// The beginning of its digest.
        digest: String,
        source: Box<TreeError>,
    },
    /// An archive cannot be unpacked.
    #[error("layer {title} ({digest}): {source}")]
    Unpack {
        /// What is in it.
        title: String,
        /// The beginning of its digest.
        digest: String,
        source: Box<UnpackError>,
    },
    /// The files are not those that the layer was built from.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The linked store.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A place in it that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for LinkError {
    fn class(&self) -> Class {
        match self {
            Self::Tree { source, .. } => source.class(),
            Self::Unpack { source, .. } => source.class(),
            Self::Layout(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::NoRecipe { .. } => Class::Failed,
        }
    }
}

/// What became of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Linked {
    /// Layers that were made.
    pub(crate) layers: usize,
    /// Files in them that are links: to the Nix store, or to a layer that has the same files.
    pub(crate) links: u64,
    /// Bytes of these.
    pub(crate) linked: u64,
    /// Bytes that were copied, by why.
    pub(crate) copies: CopiedBytes,
}

/// Links images. One that fails does not keep the others from being there. Of those in `vouched`, by the paths of their
/// directories, nothing is read that can be linked ([`crate::image::vouching`]); the layers of all others are compared with their digests.
///
/// # Errors
/// If the store itself cannot be changed; per image, see [`LinkError`].
pub fn link(
    store: &LinkedStore,
    images: &[(&ImageDir, &PlatformRecord)],
    vouched: &BTreeSet<PathBuf>,
    force: bool,
    progress: &Progress,
) -> Result<Vec<Result<Linked, Arc<LinkError>>>, LinkError> {
    let change = store.change(progress)?;
    let records = store.records(progress)?;
    let there = |chain: &str, work: &LinkWork<'_>| {
        let anew = force && !work.is_left_out();
        !anew && records.layers.contains_key(chain) && records.tree(chain).is_dir()
    };
    // A layer that several images share is made once, the largest first.
    let mut work: BTreeMap<String, LinkWork<'_>> = BTreeMap::new();
    for (image, platform) in images {
        let chain = chain(platform);
        for (n, record) in platform.layers.iter().enumerate() {
            let below = chain[..n].iter().rev().cloned().collect();
            let vouched = vouched.contains(image.path());
            let work = work.entry(chain[n].clone()).or_insert_with(|| LinkWork { image, record, below, vouched });
            if vouched && !work.vouched {
                (work.image, work.vouched) = (image, true);
            }
        }
    }
    work.retain(|chain, work| !there(chain, work));
    let views = Views::new(store.path());
    let mut order: Vec<(&String, &LinkWork<'_>)> = work.iter().collect();
    order.sort_by_key(|(_, work)| std::cmp::Reverse(work.record.diff_size()));
    // What is unpacked is unpacked once, whatever lies below it, and what a bundle leaves out is not unpacked at all.
    let lent = |work: &LinkWork<'_>| {
        let from = work.image.summary().patch_of(work.record).map(|patch| patch.from.clone());
        from.into_iter().flatten().chain([work.record.diff_id()]).collect::<Vec<_>>()
    };
    let left_out: BTreeSet<Digest> = work.values().filter(|work| work.is_left_out()).flat_map(lent).collect();
    let stays = |layer: &&StoredLayer| !force || layer.diff_digest.is_some_and(|digest| left_out.contains(&digest));
    let stored = records.layers.values().filter(stays);
    let mut trees: BTreeMap<Digest, Tree> = stored.filter_map(|layer| Tree::of(&change.root, layer)).collect();
    let mut seen: BTreeSet<Digest> = trees.keys().copied().collect();
    let (first, later): (Vec<_>, Vec<_>) = order
        .into_iter()
        .partition(|(_, work)| !work.is_left_out() && (work.blob().is_none() || seen.insert(work.record.diff_id())));
    let each = |work: Vec<(&String, &LinkWork<'_>)>,
                trees: &BTreeMap<Digest, Tree>|
     -> Vec<(String, Result<Made, LinkError>)> {
        let make = |(chain, work): (&String, &LinkWork<'_>)| {
            let copies = work.is_left_out() || work.blob().is_some();
            let tree = trees.get(&work.record.diff_id()).filter(|_| copies);
            (chain.clone(), make((chain, work), (tree, trees), &change, &views, progress))
        };
        work.into_par_iter().with_max_len(1).map(make).collect()
    };
    let mut synced = SyncedBytes::new(progress.written());
    let sync = || {
        if synced.is_worth(progress.written()) {
            // What fails here, the sync at the end says.
            rustix::fs::syncfs(&change.root).ok();
        }
    };
    let made = writing_back(sync, || {
        let mut made = each(first, &trees);
        trees.extend(made.iter().filter_map(|(_, made)| made.as_ref().ok()).filter_map(|made| Tree::made(&made.layer)));
        made.extend(each(later, &trees));
        made
    });

    let (mut layers, mut done, mut failed) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for (chain, result) in made {
        match result {
            Ok(made) => {
                layers.push(made.layer);
                done.insert(chain, made.linked);
            }
            Err(error) => drop(failed.insert(chain, Arc::new(error))),
        }
    }
    progress.check().map_err(|source| WriteError { action: "change", path: store.path().to_owned(), source })?;
    // A layer that belongs to no image that can be had is not recorded, and swept.
    let chains: Vec<Vec<String>> = images.iter().map(|(_, platform)| chain(platform)).collect();
    let is_whole = |chain: &&Vec<String>| !chain.iter().any(|layer| failed.contains_key(layer.as_str()));
    let whole: BTreeSet<&String> = chains.iter().filter(is_whole).flatten().collect();
    layers.retain(|layer| whole.contains(&layer.record.id));
    change.add_layers(layers, progress)?;

    let claimed: BTreeSet<String> =
        images.iter().flat_map(|(image, platform)| names(image.summary(), platform)).collect();
    let mut results = Vec::new();
    let mut stored: BTreeMap<String, (StoredImage, BigData)> = BTreeMap::new();
    for ((image, platform), chain) in images.iter().zip(&chains) {
        if let Some(error) = chain.iter().find_map(|layer| failed.get(layer.as_str())) {
            results.push(Err(Arc::clone(error)));
            continue;
        }
        let mut linked = Linked::default();
        // The first image counts a layer that several images share.
        for made in chain.iter().filter_map(|layer| done.remove(layer)) {
            linked.layers += made.layers;
            linked.links += made.links;
            linked.linked += made.linked;
            made.copies.into_iter().for_each(|(cause, bytes)| *linked.copies.entry(cause).or_default() += bytes);
        }
        results.push(Ok(linked));
        // Other names, manifests and indexes that lead to the same image stay.
        let id = platform.config_digest.hex();
        let kept = match stored.remove(&id) {
            Some((image, data)) => (image.names, data),
            None => kept(&records, &id, &claimed),
        };
        stored.insert(id, record(image, platform, chain.last().cloned().unwrap_or_default(), kept));
    }
    change.add_images(stored.into_values().collect(), progress)?;
    Ok(results)
}

/// The IDs of the layers of an image, the lowest first.
fn chain(platform: &PlatformRecord) -> Vec<String> {
    chain_ids(&platform.layers).iter().map(|id| id.hex()).collect()
}

/// A layer to be made.
struct LinkWork<'a> {
    image: &'a ImageDir,
    record: &'a LayerRecord,
    /// The chain IDs below it, the nearest first.
    below: Vec<String>,
    /// Whether Nix vouches for its image.
    vouched: bool,
}

impl LinkWork<'_> {
    /// Whether its bundle has no bytes of it.
    fn is_left_out(&self) -> bool {
        self.image.summary().leaves_out(self.record)
    }

    /// The file that is the layer, for one that was not made here.
    fn blob(&self) -> Option<&Path> {
        self.image.image().recipes.get(&self.record.digest)?.blob()
    }
}

/// A layer that was made.
struct Made {
    layer: NewLayer,
    /// What it is made of.
    linked: Linked,
}

/// A tree that was unpacked, for another layer of the same files.
struct Tree {
    /// What its tree is in.
    place: Dir,
    /// What its tar-split record is in, and as what.
    records: (Dir, String),
    uidset: Vec<u64>,
    gidset: Vec<u64>,
}

impl Tree {
    /// That of a layer that is in the store.
    fn of(root: &Dir, layer: &StoredLayer) -> Option<(Digest, Self)> {
        let StoredLayer { id, uidset, gidset, .. } = layer.clone();
        let place = root.dir(Path::new(DRIVER).join(&id)).ok()?;
        let records = (root.dir("overlay-layers").ok()?, format!("{id}.tar-split.gz"));
        let is_there = place.dir(TREE).is_ok() && records.0.file(&records.1).is_ok();
        is_there.then_some((layer.diff_digest?, Self { place, records, uidset, gidset }))
    }

    /// That of a layer that was just made.
    fn made(layer: &NewLayer) -> Option<(Digest, Self)> {
        let StoredLayer { uidset, gidset, diff_digest, .. } = layer.record.clone();
        let (place, records) = (layer.place.again().ok()?, (layer.place.again().ok()?, TAR_SPLIT.to_owned()));
        Some((diff_digest?, Self { place, records, uidset, gidset }))
    }

    /// The bytes of its archive.
    fn bytes(&self) -> Result<StoredBytes, WriteError> {
        let (folder, name) = &self.records;
        StoredBytes::of((folder.file(name)?, &folder.at(name)), self.place.dir(TREE)?)
    }

    /// Makes the same in another workplace; how many links that took.
    fn copy_to(&self, to: &Dir, progress: &Progress) -> Result<u64, WriteError> {
        let links = copy_tree(self.place.dir(TREE)?, to, TREE, progress)?;
        let (mut from, path) = (self.records.0.file(&self.records.1)?, to.at(TAR_SPLIT));
        std::io::copy(&mut from, &mut to.create(TAR_SPLIT)?).at("write", &path)?;
        Ok(links)
    }
}

fn make(
    (chain, work): (&str, &LinkWork<'_>),
    (same, trees): (Option<&Tree>, &BTreeMap<Digest, Tree>),
    change: &StoreChange<'_>,
    views: &Views,
    progress: &Progress,
) -> Result<Made, LinkError> {
    let record = work.record;
    let LayerRecord { digest, size, title, .. } = record;
    let no_recipe = || LinkError::NoRecipe { title: title.clone() };
    let made = work.image.image().recipes.get(digest);
    let patch = work.image.summary().patch_of(record);
    if made.is_none() && same.is_none() && patch.is_none() {
        return Err(no_recipe());
    }
    let compression = Compression::of_media_type(record.media_type().as_ref()).unwrap_or(Compression::None);
    let workplace = change.workplace(chain)?;
    let mut stored = StoredLayer {
        id: chain.to_owned(),
        parent: work.below.first().cloned(),
        created: DEFAULT_CREATED.to_owned(),
        compressed_diff_digest: Some(*digest),
        compressed_size: *size,
        diff_digest: Some(record.diff_id()),
        diff_size: record.diff_size(),
        compression: packing(compression),
        uidset: Vec::new(),
        gidset: Vec::new(),
        flags: BTreeMap::new(),
    };
    let blob = made.and_then(Recipe::blob);
    let built = made.filter(|_| blob.is_none());
    let linked = if let Some(recipe) = built {
        let checksums = work.image.checksums(record)?;
        let hashed = !work.vouched;
        let placed = match place(recipe, checksums.as_ref(), hashed, (&workplace, views), progress) {
            Err(TreeError::Changed) => return Err(changed(record, recipe).into()),
            Err(source) => {
                return Err(LinkError::Tree { title: title.clone(), digest: digest.short(), source: Box::new(source) });
            }
            Ok(placed) => placed,
        };
        // What Nix vouches for, recipe and files, is what it was when the layer was built; anything else is read and compared.
        let is_right = match placed.digest {
            None if placed.vouched => true,
            found => found.map_or_else(|| digest_of(&workplace, progress), Ok)? == *digest,
        };
        if placed.size != *size || !is_right {
            return Err(changed(record, recipe).into());
        }
        (stored.uidset, stored.gidset) = (or_root(&placed.uids), or_root(&placed.gids));
        Linked { layers: 1, links: placed.links, linked: placed.linked, copies: placed.copies }
    } else {
        let twin = same.and_then(|same| Some((same, same.copy_to(&workplace, progress).ok()?)));
        if let Some((same, links)) = twin {
            (stored.uidset, stored.gidset) = (same.uidset.clone(), same.gidset.clone());
            Linked { layers: 1, links, linked: record.diff_size(), ..Linked::default() }
        } else {
            [TREE, TAR_SPLIT].into_iter().try_for_each(|name| workplace.remove(name))?;
            let unpacked = match (blob, patch) {
                (Some(blob), _) => unpacked(work, blob, compression, &workplace, progress)?,
                (None, Some(patch)) => patched(work, patch, trees, &workplace, progress)?,
                (None, None) => return Err(no_recipe()),
            };
            (stored.uidset, stored.gidset) = (or_root(&unpacked.uids), or_root(&unpacked.gids));
            Linked { layers: 1, copies: [(CopyCause::Unpacked, record.diff_size())].into(), ..Linked::default() }
        }
    };
    let closed = built.is_none();
    let below = work.below.clone();
    Ok(Made { layer: NewLayer { record: stored, below, place: workplace, closed }, linked })
}

/// The digest of a layer that was made, from every byte of it.
fn digest_of(workplace: &Dir, progress: &Progress) -> Result<Digest, WriteError> {
    let record = (workplace.file(TAR_SPLIT)?, &*workplace.at(TAR_SPLIT));
    let checked = check_in(record, workplace.dir(TREE)?, true, progress)?;
    Ok(checked.digest)
}

/// Unpacks a layer that is there as an archive.
fn unpacked(
    work: &LinkWork<'_>,
    blob: &Path,
    compression: Compression,
    workplace: &Dir,
    progress: &Progress,
) -> Result<Unpacked, LinkError> {
    let record = work.record;
    let reading = |source| LayoutError::Read { path: blob.to_owned(), source };
    work.image.layer_blob(record)?;
    let packed = BufReader::with_capacity(CHUNK, open_whole(blob).map_err(reading)?);
    let mut archive = compression.decoder(packed).map_err(reading)?;
    match unpack(&mut *archive, workplace, record.diff_size(), progress) {
        Ok(unpacked) if unpacked.diff_id == record.diff_id() => Ok(unpacked),
        Err(source @ (UnpackError::Write(_) | UnpackError::OnlyRoot { .. })) => Err(failed(record, source)),
        // Mostly the file is not any more what it was.
        result => {
            work.image.verify_layer(record, true, progress)?;
            let other = || UnpackError::Archive(format!("it is not {}", record.diff_id()));
            Err(failed(record, result.err().unwrap_or_else(other)))
        }
    }
}

/// Unpacks a layer that is there as a patch of layers that the store has.
fn patched(
    work: &LinkWork<'_>,
    patch: &LayerPatch,
    trees: &BTreeMap<Digest, Tree>,
    workplace: &Dir,
    progress: &Progress,
) -> Result<Unpacked, LinkError> {
    let record = work.record;
    let mut find = |from: Digest| -> io::Result<Box<dyn OldBytes>> {
        let tree = trees.get(&from).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(tree.bytes().map_err(|error| error.source)?))
    };
    let wrong = |why: String| {
        work.image.verify_patch(patch, true, progress)?;
        Err(LayoutError::Unpatched { digest: record.digest, title: record.title.clone(), why }.into())
    };
    let path = work.image.patch_path(patch);
    let open = bounded::open(&path).map_err(|source| LayoutError::Read { path, source })?;
    let mut layer = match PatchedLayer::new(Box::new(open), (record.digest, record.size), &mut find) {
        Ok(layer) => layer,
        Err(error) => return wrong(error.to_string()),
    };
    match unpack(&mut layer, workplace, record.diff_size(), progress) {
        Ok(unpacked) if unpacked.diff_id == record.diff_id() => Ok(unpacked),
        Err(source @ (UnpackError::Write(_) | UnpackError::OnlyRoot { .. })) => Err(failed(record, source)),
        Ok(_) => wrong("its bytes are others".to_owned()),
        Err(error) => wrong(error.to_string()),
    }
}

fn failed(record: &LayerRecord, source: UnpackError) -> LinkError {
    LinkError::Unpack { title: record.title.clone(), digest: record.digest.short(), source: Box::new(source) }
}

/// A layer without any entry belongs to root.
fn or_root(ids: &BTreeSet<u64>) -> Vec<u64> {
    if ids.is_empty() { vec![0] } else { ids.iter().copied().collect() }
}

/// The files kept with an image, by the names that its record has for them.
type BigData = BTreeMap<String, Vec<u8>>;

/// The names of an image that is there already, but for those that are claimed now, and the files kept with it that are
/// what they were.
fn kept(records: &StoreRecords, id: &str, claimed: &BTreeSet<String>) -> (Vec<String>, BigData) {
    let Some(image) = records.images.iter().find(|image| image.id == id) else { return Default::default() };
    let read = |(name, digest): (&String, &String)| {
        let bytes = bounded::read(&records.big_data(id, name), Cap::Config).ok()?;
        (Digest::of(&bytes).to_string() == *digest).then(|| (name.clone(), bytes))
    };
    let names = image.names.iter().filter(|name| !claimed.contains(*name)).cloned();
    (names.collect(), image.big_data_digests.iter().filter_map(read).collect())
}

/// The record and the files of an image, as c/image writes them, on top of what is kept.
fn record(
    image: &ImageDir,
    platform: &PlatformRecord,
    layer: String,
    (mut all_names, mut data): (Vec<String>, BigData),
) -> (StoredImage, BigData) {
    let own = names(image.summary(), platform);
    all_names.retain(|name| !own.contains(name));
    all_names.extend(own);
    for blob in image.image().small_blobs() {
        if blob.digest == platform.digest {
            data.insert("manifest".to_owned(), blob.bytes.clone());
        }
        if blob.digest == platform.config_digest {
            data.insert(blob.digest.to_string(), blob.bytes.clone());
        } else if blob.digest == platform.digest || blob.media_type == MediaType::ImageIndex {
            data.insert(format!("manifest-{}", blob.digest), blob.bytes.clone());
        }
    }
    let digests = data.iter().map(|(name, bytes)| (name.clone(), Digest::of(bytes).to_string()));
    let stored = StoredImage {
        id: platform.config_digest.hex(),
        digest: Some(platform.digest),
        names: all_names,
        layer,
        metadata: "{}".to_owned(),
        big_data_names: data.keys().cloned().collect(),
        big_data_sizes: data.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect(),
        big_data_digests: digests.collect(),
        created: DEFAULT_CREATED.to_owned(),
    };
    (stored, data)
}
