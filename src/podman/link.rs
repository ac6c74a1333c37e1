//! Images into the linked store: trees made in parallel, then recorded all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use oci_spec::image::MediaType;
use rayon::prelude::*;

use super::check::check;
use super::linked::{Change, LinkedStore, NewLayer};
use super::records::{Records, RecordsError, StoredImage, StoredLayer};
use super::survey::names;
use super::tree::{Placed, TreeError, Views, place};
use crate::blobs::WriteError;
use crate::digest::Digest;
use crate::image::{LayerRecord, chain_ids};
use crate::layout::{Description, ImageDir, LayoutError, PlatformRecord, changed};
use crate::progress::Progress;
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
        /// Why.
        source: Box<TreeError>,
    },
    /// The files are not those that the layer was built from.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// The linked store.
    #[error("{0}")]
    Records(#[from] RecordsError),
    /// A place in it that is written to.
    #[error("{0}")]
    Write(#[from] WriteError),
}

/// What became of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Linked {
    /// Layers that were made.
    pub layers: usize,
    /// Files in them that are links to the store.
    pub linked: u64,
    /// Files in them that are copies.
    pub copied: u64,
}

/// Links images. One that fails does not keep the others from being there.
///
/// # Errors
/// If the store itself cannot be changed; per image, see [`LinkError`].
pub fn link(
    store: &LinkedStore,
    images: &[(&ImageDir, &PlatformRecord)],
    force: bool,
    progress: &Progress,
) -> Result<Vec<Result<Linked, Arc<LinkError>>>, LinkError> {
    let change = store.change(progress)?;
    let records = store.records(progress)?;
    let there = |chain: &str| !force && records.layers.contains_key(chain) && records.tree(chain).is_dir();
    // A layer that several images share is made once, the largest first.
    let mut work: BTreeMap<String, Work<'_>> = BTreeMap::new();
    for (image, platform) in images {
        let chain = chain(platform);
        for (n, record) in platform.layers.iter().enumerate() {
            let below = chain[..n].iter().rev().cloned().collect();
            work.entry(chain[n].clone()).or_insert(Work { image, record, below });
        }
    }
    work.retain(|chain, _| !there(chain));
    let views = Views::new(store.path());
    let mut order: Vec<(&String, &Work<'_>)> = work.iter().collect();
    order.sort_by_key(|(_, work)| std::cmp::Reverse(work.record.size));
    let made: BTreeMap<&String, Result<(NewLayer, Placed), LinkError>> = order
        .par_iter()
        .with_max_len(1)
        .map(|(chain, work)| (*chain, make(chain, work, &change, &views, progress)))
        .collect();

    let (mut layers, mut done, mut failed) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for (chain, result) in made {
        match result {
            Ok((layer, placed)) => {
                layers.push(layer);
                done.insert(chain.as_str(), placed);
            }
            Err(error) => drop(failed.insert(chain.as_str(), Arc::new(error))),
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
        // Of a layer that several images share the first one has the count.
        for placed in chain.iter().filter_map(|layer| done.remove(layer.as_str())) {
            linked.layers += 1;
            linked.linked += placed.linked;
            linked.copied += placed.copied;
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
struct Work<'a> {
    image: &'a ImageDir,
    record: &'a LayerRecord,
    /// The chain IDs below it, the nearest first.
    below: Vec<String>,
}

fn make(
    chain: &str,
    work: &Work<'_>,
    change: &Change<'_>,
    views: &Views,
    progress: &Progress,
) -> Result<(NewLayer, Placed), LinkError> {
    let LayerRecord { digest, size, title, .. } = work.record;
    let Some(Description { recipe, checksums }) = work.image.image().recipes.get(digest) else {
        return Err(LinkError::NoRecipe { title: title.clone() });
    };
    let workplace = change.workplace(chain)?;
    let (tree, tar_split) = (workplace.join("diff"), workplace.join("tar-split.gz"));
    let placed = match place(recipe, checksums.as_ref(), &tree, &tar_split, views, progress) {
        Err(TreeError::Changed) => return Err(changed(work.record, recipe).into()),
        Err(source) => {
            return Err(LinkError::Tree { title: title.clone(), digest: digest.short(), source: Box::new(source) });
        }
        Ok(placed) => placed,
    };
    // What the Nix store vouches for is what it was when the layer was built; anything else is read and compared.
    if placed.size != *size || (!placed.vouched && check(&tar_split, &tree, true, progress)?.digest != *digest) {
        return Err(changed(work.record, recipe).into());
    }
    let record = StoredLayer {
        id: chain.to_owned(),
        parent: work.below.first().cloned(),
        created: DEFAULT_CREATED.to_owned(),
        compressed_diff_digest: Some(*digest),
        compressed_size: *size,
        diff_digest: Some(*digest),
        diff_size: *size,
        uidset: or_root(&placed.uids),
        gidset: or_root(&placed.gids),
        flags: BTreeMap::new(),
    };
    Ok((NewLayer { record, below: work.below.clone(), tree, tar_split }, placed))
}

/// A layer without any entry belongs to root.
fn or_root(ids: &BTreeSet<u64>) -> Vec<u64> {
    if ids.is_empty() { vec![0] } else { ids.iter().copied().collect() }
}

/// The files kept with an image, by the names that its record has for them.
type BigData = BTreeMap<String, Vec<u8>>;

/// The names of an image that is there already, but for those that are claimed now, and the files kept with it that are
/// what they were.
fn kept(records: &Records, id: &str, claimed: &BTreeSet<String>) -> (Vec<String>, BigData) {
    let Some(image) = records.images.iter().find(|image| image.id == id) else { return Default::default() };
    let read = |(name, digest): (&String, &String)| {
        let bytes = fs::read(records.big_data(id, name)).ok()?;
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
