//! How many bytes a load writes, and needs while it works: known before, from names and sizes alone.
//!
//! | way | what it writes |
//! |---|---|
//! | linked | files that cannot be links (`foresee`) |
//! | pulled, overlay | the files of each layer that Podman does not have over just these layers |
//! | pulled, vfs | for each such layer everything below it too, unless the file system shares data |
//!
//! While an image is pulled, its missing layers lie there twice more: as the blobs that are made for the program, unless these are
//! served, and as the program's copies of them, unless there is no room for these.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::LoadError;
use super::decide::PodmanHost;
use super::pull::{self, SkopeoCopies};
use crate::disk::WriteError;
use crate::disk::files::free_space;
use crate::engine::target::{
    CopiedBytes, CopyCause, DecideError, LoadMethod, LoadOptions, LoadReason, LoadStep, LoadTarget, LoadWay, Space,
    TargetState,
};
use crate::image::layout::ImageDir;
use crate::image::summary::PlatformRecord;
use crate::image::{LayerRecord, chain_ids};
use crate::layer::output::can_share;
use crate::layer::{Extent, extent, on_disk};
use crate::oci::digest::Digest;
use crate::podman::linked::DEFAULT;
use crate::podman::linked::link_images::LinkError;
use crate::podman::linked::link_tree::{TreeError, foresee};
use crate::podman::storage::disk_use::Users;
use crate::podman::storage::records::StoreRecords;
use crate::podman::storage::snapshot::StoreSnapshot;

/// What a layer takes beside its files: directories, links and records of Podman's own.
const LAYER: u64 = 5 * 4096;
/// What the record of a layer's headers takes for each file, link and directory, packed as it is.
const MEMBER: u64 = 54;
/// What an image takes beside its manifest and config.
const IMAGE: u64 = 2 * 4096;
/// What manifest and config of an image take where they are not known yet.
const DOCUMENTS: u64 = 3 * 4096;
/// The driver whose layers are whole trees.
pub(crate) const VFS: &str = "vfs";

/// What Podman's own store takes for images that are loaded into an empty one: each a list of layers from the bottom up, by
/// what tells them apart and the bytes that their files take. A layer is stored once for each list of layers below it.
#[must_use]
pub(crate) fn stored<K: Ord + Clone>(images: &[Vec<(K, u64)>]) -> u64 {
    let (mut chains, mut bytes): (BTreeSet<Vec<K>>, u64) = (BTreeSet::new(), 0);
    for image in images {
        let mut chain = Vec::new();
        for (key, size) in image {
            chain.push(key.clone());
            if chains.insert(chain.clone()) {
                bytes += size + LAYER;
            }
        }
        bytes += IMAGE + DOCUMENTS;
    }
    bytes
}

/// What a layer takes with the record of its headers.
#[must_use]
pub(crate) const fn with_records(extent: &Extent) -> u64 {
    extent.on_disk + on_disk(extent.members * MEMBER)
}

/// What was measured already: a load asks several times.
#[derive(Debug, Default)]
pub(crate) struct MeasuredSizes {
    on_disk: Mutex<BTreeMap<Digest, u64>>,
    foreseen: Mutex<BTreeMap<(PathBuf, Digest), Result<CopiedBytes, String>>>,
}

impl MeasuredSizes {
    /// What the files of a layer take where they are unpacked.
    pub(crate) fn on_disk(&self, image: &ImageDir, layer: &LayerRecord) -> u64 {
        let measure = || {
            let recipe = image.image().recipes.get(&layer.digest).filter(|recipe| recipe.blob().is_none());
            // What is in an archive is not known without unpacking it; nor what is gone.
            recipe.and_then(|recipe| extent(recipe).ok()).map_or(layer.diff_size(), |extent| with_records(&extent))
        };
        let mut known = self.on_disk.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(layer.digest).or_insert_with(measure)
    }

    /// What linking a layer into a store would copy, or why it cannot be linked at all.
    fn foreseen(&self, image: &ImageDir, layer: &LayerRecord, store: &Path) -> Result<CopiedBytes, String> {
        let look = || {
            let Some(recipe) = image.image().recipes.get(&layer.digest) else {
                return Err(LinkError::NoRecipe { title: layer.title.clone() }.to_string());
            };
            if recipe.blob().is_some() {
                return Ok(CopiedBytes::from([(CopyCause::Unpacked, layer.diff_size())]));
            }
            match foresee(recipe, store) {
                Ok(copies) => Ok(copies),
                Err(source @ (TreeError::Owner { .. } | TreeError::SetId { .. })) => {
                    let (title, digest) = (layer.title.clone(), layer.digest.short());
                    Err(LinkError::Tree { title, digest, source: Box::new(source) }.to_string())
                }
                // What is wrong with its files, the load says.
                Err(_) => Ok(CopiedBytes::new()),
            }
        };
        let key = (store.to_owned(), layer.digest);
        let known = || self.foreseen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().get(&key).cloned();
        // Other layers are looked at meanwhile.
        found.unwrap_or_else(|| {
            let copies = look();
            known().entry(key).or_insert(copies).clone()
        })
    }
}

/// Decides for one image after another how it would be put there: a layer that an earlier one brings is written once.
pub(super) struct Ways<'a> {
    host: &'a PodmanHost,
    options: LoadOptions,
    copies: SkopeoCopies,
    own: &'a StoreRecords,
    linked: Option<&'a StoreRecords>,
    users: Users,
    /// Images that go before they are loaded again.
    going: BTreeSet<String>,
    /// Chain IDs that earlier images bring, in the linked store and in the graph root.
    linked_now: BTreeSet<String>,
    pulled_now: BTreeSet<String>,
    /// Archives that are unpacked in the linked store.
    unpacked: BTreeSet<Digest>,
    /// The same, whatever was asked for: what a bundle leaves out is taken from there.
    lent: BTreeSet<Digest>,
    /// Diff IDs that the graph root has.
    present: BTreeSet<Digest>,
    /// Whether a layer has copies of all below it.
    whole_trees: bool,
}

impl<'a> Ways<'a> {
    /// `going` are the IDs of the images that are loaded although there is a record of them.
    pub(super) fn new(
        host: &'a PodmanHost,
        snapshot: &'a StoreSnapshot,
        linked: Option<&Path>,
        (options, copies): (LoadOptions, SkopeoCopies),
        going: BTreeSet<String>,
    ) -> Option<Self> {
        let own = snapshot.stores.first()?;
        let linked = linked.and_then(|path| snapshot.stores.iter().find(|records| records.store == path));
        let there = linked.into_iter().flat_map(|records| records.layers.values());
        let lent: BTreeSet<Digest> = there.filter_map(|layer| layer.diff_digest).collect();
        let whole_trees = host.copies_whole_trees();
        Some(Self {
            host,
            options,
            copies,
            own,
            linked,
            users: Users::of(snapshot),
            going,
            linked_now: BTreeSet::new(),
            pulled_now: BTreeSet::new(),
            unpacked: if options.force { BTreeSet::new() } else { lent.clone() },
            lent,
            present: snapshot.own_diff_ids(),
            whole_trees,
        })
    }

    /// How an image would be linked, or why it cannot be.
    pub(super) fn link(&mut self, image: &ImageDir, platform: &PlatformRecord) -> Option<Result<LoadWay, String>> {
        let records = self.linked?;
        let is_there = |chain: &str, anew: bool| {
            let anew = self.options.force && anew;
            !anew && records.layers.contains_key(chain) && records.tree(chain).is_dir()
        };
        let mut copies = CopiedBytes::new();
        let new = platform.layers.iter().zip(chain_ids(&platform.layers)).filter(|(layer, chain)| {
            let (chain, left_out) = (chain.hex(), image.summary().leaves_out(layer));
            !left_out && !is_there(&chain, true) && !self.linked_now.contains(&chain)
        });
        let new: BTreeMap<Digest, &LayerRecord> = new.map(|(layer, _)| (layer.digest, layer)).collect();
        let (new, sizes): (Vec<&LayerRecord>, _) = (new.into_values().collect(), &self.host.sizes);
        // Several at a time; what there is to say of each is asked for below.
        new.into_par_iter().with_max_len(1).for_each(|layer| drop(sizes.foreseen(image, layer, &records.store)));
        for (layer, chain) in platform.layers.iter().zip(chain_ids(&platform.layers)) {
            let (chain, left_out) = (chain.hex(), image.summary().leaves_out(layer));
            if is_there(&chain, !left_out) || self.linked_now.contains(&chain) {
                continue;
            }
            if left_out {
                let has = |digest: &Digest| self.lent.contains(digest) || self.unpacked.contains(digest);
                let is_there = has(&layer.diff_id());
                let patched =
                    !is_there && image.summary().patch_of(layer).is_some_and(|patch| patch.from.iter().all(has));
                if !is_there && !patched {
                    let (title, digest) = (&layer.title, layer.digest.short());
                    return Some(Err(format!(
                        "what its bundle leaves out of layer {title} ({digest}) is in another store"
                    )));
                }
                if patched && self.unpacked.insert(layer.diff_id()) {
                    *copies.entry(CopyCause::Unpacked).or_default() += layer.diff_size();
                }
                self.linked_now.insert(chain);
                continue;
            }
            let of_layer = match self.host.sizes.foreseen(image, layer, &records.store) {
                Ok(of_layer) => of_layer,
                Err(why) => return Some(Err(why)),
            };
            self.linked_now.insert(chain);
            // What is unpacked is linked where the same archive has been unpacked over other layers.
            if of_layer.contains_key(&CopyCause::Unpacked) && !self.unpacked.insert(layer.diff_id()) {
                continue;
            }
            of_layer.into_iter().for_each(|(cause, bytes)| *copies.entry(cause).or_default() += bytes);
        }
        let to_write = copies.values().sum();
        Some(Ok(LoadWay { copies, ..LoadWay::new(LoadMethod::Link, records.store.clone(), to_write) }))
    }

    /// How Podman would take an image.
    pub(super) fn pull(&mut self, image: &ImageDir, platform: &PlatformRecord, unlinkable: Option<String>) -> LoadWay {
        let mut way = LoadWay { unlinkable, ..LoadWay::new(LoadMethod::Pull, self.host.places.graph_root.clone(), 0) };
        let (mut below, mut missing, mut again) = (0, Vec::new(), 0);
        for (layer, chain) in platform.layers.iter().zip(chain_ids(&platform.layers)) {
            let (chain, bytes) = (chain.hex(), self.host.sizes.on_disk(image, layer));
            let repeated = if self.whole_trees { below } else { 0 };
            below += bytes;
            let stored = self.own.layers.get(&chain).filter(|stored| !stored.is_incomplete());
            let stays = stored.is_some() && !self.users.are_only(&chain, &self.going);
            if stays || !self.pulled_now.insert(chain) {
                continue;
            }
            way.repeated += repeated;
            way.to_write += repeated + bytes + LAYER;
            match self.present.insert(layer.diff_id()) {
                true => missing.push(layer),
                // Podman takes it from where it has it, by way of a file.
                false => again += layer.diff_size(),
            }
        }
        if way.to_write > 0 {
            let blobs = image.image().small_blobs().map(|blob| on_disk(blob.bytes.len() as u64));
            way.to_write += IMAGE + blobs.sum::<u64>();
        }
        // What cannot be read is told when it is loaded.
        let temporary = pull::temporary(image, &missing, &self.host.places.graph_root, self.copies).unwrap_or(0);
        way.peak = way.to_write + temporary + again;
        way
    }
}

impl PodmanHost {
    /// Whether the driver of this Podman copies all lower layers into each layer, byte by byte.
    #[must_use]
    pub(crate) fn copies_whole_trees(&self) -> bool {
        let root = &self.places.graph_root;
        self.places.driver == VFS && !root.ancestors().find(|path| path.exists()).is_some_and(can_share)
    }

    /// What these steps need, file system by file system.
    ///
    /// # Errors
    /// If the free space cannot be read.
    pub(crate) fn space(&self, steps: &[LoadStep]) -> Result<Vec<Space>, WriteError> {
        spaces(steps.iter().map(|step| (step.how, step.store.as_path(), step.to_write, step.peak)))
    }

    /// Whether all that would be loaded in these ways fits. What cannot be found out is told by the load.
    pub(super) fn fits(states: &[TargetState]) -> bool {
        let ways = states.iter().map(|TargetState { way, .. }| (way.how, way.store.as_path(), way.to_write, way.peak));
        spaces(ways).is_ok_and(|spaces| spaces.iter().all(|space| space.needed <= space.free))
    }

    pub(super) fn refuse_what_does_not_fit(&self, steps: &[LoadStep]) -> Result<(), LoadError> {
        match self.space(steps)?.into_iter().find(|space| space.needed > space.free) {
            Some(Space { place, needed, stays, free }) => {
                Err(DecideError::NoSpace { place, needed, stays, free }.into())
            }
            None => Ok(()),
        }
    }

    /// Bytes that a linked store on the file system of the Nix store would save of what is to be pulled; 0 where there is one,
    /// or there can be none.
    #[must_use]
    pub(crate) fn saving(&self, targets: &[LoadTarget], steps: &[LoadStep]) -> u64 {
        if self.linked.is_some() || self.places.driver != crate::podman::linked::DRIVER {
            return 0;
        }
        let mut seen = BTreeSet::new();
        let pulled = targets.iter().zip(steps).filter(|(_, step)| step.how == LoadMethod::Pull);
        let mut copied = |(target, step): (&LoadTarget, &LoadStep)| -> u64 {
            let Ok(platform) = target.platform() else { return step.to_write };
            let mut copied = 0;
            for layer in platform.layers.iter().filter(|layer| seen.insert(layer.digest)) {
                match self.sizes.foreseen(&target.image, layer, Path::new(DEFAULT)) {
                    Ok(copies) => copied += copies.values().sum::<u64>(),
                    Err(_) => return step.to_write,
                }
            }
            copied
        };
        let (all, copied) =
            pulled.map(|pair| (pair.1.to_write, copied(pair))).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        all.saturating_sub(copied)
    }
}

/// What ways of loading need, file system by file system: each with its store, the bytes that stay, and those at the fullest moment.
fn spaces<'a>(ways: impl Iterator<Item = (LoadMethod, &'a Path, u64, u64)> + Clone) -> Result<Vec<Space>, WriteError> {
    let mut spaces: Vec<(u64, Space)> = Vec::new();
    // What is linked is linked first.
    for how in [LoadMethod::Link, LoadMethod::Pull] {
        for (_, store, to_write, peak) in ways.clone().filter(|(way, ..)| *way == how) {
            let there = store.ancestors().find_map(|path| Some((path, std::fs::metadata(path).ok()?.dev())));
            let Some((existing, device)) = there else { continue };
            if !spaces.iter().any(|(other, _)| *other == device) {
                let (place, free) = (store.to_owned(), free_space(existing)?);
                spaces.push((device, Space { place, needed: 0, stays: 0, free }));
            }
            for (_, space) in spaces.iter_mut().filter(|(other, _)| *other == device) {
                space.needed = space.needed.max(space.stays + peak);
                space.stays += to_write;
            }
        }
    }
    Ok(spaces.into_iter().map(|(_, space)| space).collect())
}

/// Whether the record of an image goes before it is loaded.
pub(super) const fn goes(reason: &LoadReason) -> bool {
    matches!(reason, LoadReason::Damaged(_) | LoadReason::Forced)
}
