//! What a clean-up keeps and removes, and how many bytes that frees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::fs::FileType;

use super::gc::{GarbageClass, GcError, GcPlan, GcRequest, KeptItem, NotOurs, Removal, Thing};
use super::half_layers::{self, HalfLayers};
use super::networks;
use super::usage::{Except, Usage};
use crate::disk;
use crate::disk::beneath::Dir;
use crate::disk::progress::Progress;
use crate::disk::walk::walk;
use crate::engine::Engine;
use crate::engine::generation::{Generation, GenerationEntry};
use crate::engine::generations::Generations;
use crate::engine::keep::{History, Retention};
use crate::image::summary::ImageKind;
use crate::podman::linked::LinkedStore;
use crate::podman::load::decide::PodmanHost;
use crate::podman::storage::others::OtherUsers;
use crate::podman::storage::records::{StoreRecords, StoredImage};
use crate::podman::storage::snapshot::StoreSnapshot;

/// Bytes of a layer: what its removal frees, and what Nix may collect afterwards.
type LayerSizes = BTreeMap<String, (u64, u64)>;

/// Everything that decides; read once, planned with as often as needed.
pub(crate) struct Planner<'a> {
    host: &'a PodmanHost,
    classes: BTreeSet<GarbageClass>,
    history: History,
    own: StoreRecords,
    linked: Option<(LinkedStore, StoreRecords)>,
    usage: Usage,
    /// Containers that go.
    containers: Vec<Removal>,
    leftovers: Vec<Removal>,
    /// Networks that go, and those that stay.
    networks: (Vec<Removal>, Vec<KeptItem>),
    sizes: LayerSizes,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(host: &'a PodmanHost, request: &GcRequest, progress: &Progress) -> Result<Self, GcError> {
        let generations = host.generations();
        let history = History::read(&generations)?;
        let snapshot = StoreSnapshot::read(&host.places, progress)?;
        let own = snapshot.stores.first().cloned().unwrap_or_default();
        let linked = match &host.linked {
            Some(store) => Some((store.clone(), store.records(progress)?)),
            None => None,
        };
        let mut planner = Self {
            host,
            classes: request.classes.clone(),
            history,
            own,
            linked,
            usage: Usage::default(),
            containers: Vec::new(),
            leftovers: Vec::new(),
            networks: (Vec::new(), Vec::new()),
            sizes: LayerSizes::new(),
        };
        if request.classes.contains(&GarbageClass::Containers) {
            planner.containers = planner.stopped(request.keep, progress)?;
        }
        let gone = planner.containers.iter().filter_map(|removal| match &removal.thing {
            Thing::Container(id) => Some(id.clone()),
            _ => None,
        });
        let ours =
            planner.history.both().flat_map(|generation| &generation.entries).flat_map(GenerationEntry::all_names);
        let except = Except { containers: gone.collect(), names: ours.collect() };
        planner.usage = host.usage(&snapshot, &request.others, &except, progress)?;
        let unreadable = host.unreadable(&snapshot);
        planner.usage.warnings.extend(unreadable.iter().map(|image| format!("{image}; --apply takes it away")));
        planner.leftovers = planner.find_leftovers(&generations, progress)?;
        planner.find_half_layers(&request.others);
        if request.classes.contains(&GarbageClass::Networks) {
            let (removals, keep) = &mut planner.networks;
            match networks::find(host, &request.others, keep, progress) {
                Ok(found) => *removals = found,
                Err(error) => planner.usage.warnings.push(format!("networks cannot be looked at: {error}")),
            }
        }
        Ok(planner)
    }

    /// How many generations there are.
    pub(crate) const fn generations(&self) -> usize {
        self.history.all.len()
    }

    /// By whom an image of the linked store is used.
    pub(crate) fn user_of_linked(&self, id: &str) -> Option<String> {
        let (_, records) = self.linked.as_ref()?;
        let image = records.images.iter().find(|image| image.id == id)?;
        self.usage.of_image(records, id, &image.layer).map(str::to_owned)
    }

    /// What stays and what goes when the last `keep` generations stay.
    pub(crate) fn plan(&mut self, keep: usize) -> GcPlan {
        let mut plan = GcPlan { warnings: self.usage.warnings.clone(), ..GcPlan::default() };
        let kept = self.retain(keep);
        let mut images: Vec<Removal> = Vec::new();
        // Every image that stays, by the newest generation that has it.
        let mut wanted: BTreeMap<String, String> = self.usage.loaded.clone();
        wanted.extend(kept.images.iter().map(|(config, why)| (config.hex(), why.clone())));
        let generations = kept.generations.iter().map(|(number, why)| (format!("generation {number}"), why.clone()));
        plan.keep.extend(generations.map(|(name, why)| KeptItem { class: GarbageClass::Generations, name, why }));
        let own = self.own.clone();
        let (ours, others): (Vec<&StoredImage>, Vec<&StoredImage>) =
            own.images.iter().partition(|image| self.entry(image).is_some());
        let going = self.divide(&own, &ours, &wanted, &mut plan.keep);
        images.extend(self.pulled_removals(&own, &going, &mut plan.keep));
        if let Some((store, records)) = self.linked.clone() {
            let ours: Vec<&StoredImage> = records.images.iter().collect();
            let going = self.divide(&records, &ours, &wanted, &mut plan.keep);
            images.extend(self.linked_removals(&store, &records, &going));
        }
        let layers: BTreeSet<&str> = others.iter().flat_map(|image| own.chain(&image.layer)).collect();
        let sizes = layers.iter().filter_map(|layer| own.layers.get(*layer)).map(|layer| layer.diff_size);
        plan.not_ours = NotOurs { images: others.len(), bytes: sizes.sum() };

        plan.remove.extend(self.containers.iter().cloned());
        plan.remove.extend(images);
        if self.classes.contains(&GarbageClass::Generations) {
            let going = self.history.all.iter().filter(|generation| !kept.generations.contains_key(&generation.number));
            plan.remove.extend(going.map(|generation| self.generation_removal(generation)));
        }
        plan.remove.extend(self.leftovers.iter().cloned());
        plan.remove.extend(self.networks.0.iter().cloned());
        plan.keep.extend(self.networks.1.iter().cloned());
        plan
    }

    /// What goes if these images do, whichever generation has them, and a sentence for each that is used.
    pub(crate) fn unload(&mut self, ids: &BTreeSet<String>) -> (GcPlan, Vec<String>) {
        let mut plan = GcPlan { warnings: self.usage.warnings.clone(), ..GcPlan::default() };
        let own = self.own.clone();
        let wanted = self.usage.loaded.clone();
        let mut used = Vec::new();
        let mut users = |records: &StoreRecords, ours: &[&StoredImage]| {
            for image in ours {
                if let Some(who) = self.usage.of_image(records, &image.id, &image.layer) {
                    used.push(format!("{} is used by {who}", self.label(image)));
                }
            }
        };
        let ours: Vec<&StoredImage> =
            own.images.iter().filter(|image| ids.contains(&image.id) && self.entry(image).is_some()).collect();
        users(&own, &ours);
        let linked = self.linked.clone();
        let in_store: Vec<&StoredImage> = linked.iter().flat_map(|(_, records)| &records.images).collect();
        let in_store: Vec<&StoredImage> = in_store.into_iter().filter(|image| ids.contains(&image.id)).collect();
        if let Some((_, records)) = &linked {
            users(records, &in_store);
        }
        let going = self.divide(&own, &ours, &BTreeMap::new(), &mut plan.keep);
        plan.remove.extend(self.pulled_removals(&own, &going, &mut plan.keep));
        if let Some((store, records)) = &linked {
            let going = self.divide(records, &in_store, &wanted, &mut plan.keep);
            plan.remove.extend(self.linked_removals(store, records, &going));
        }
        used.sort();
        used.dedup();
        (plan, used)
    }

    /// The generations that stay, and their images.
    fn retain(&self, keep: usize) -> Retention {
        let keep = self.classes.contains(&GarbageClass::Generations).then_some(keep);
        self.history.retain(keep, |entry| self.why_needed(entry))
    }

    /// Why the only generation with this image cannot go.
    fn why_needed(&self, entry: &GenerationEntry) -> Option<String> {
        let id = entry.config_digest.hex();
        let label = label(entry);
        let stores = std::iter::once(&self.own).chain(self.linked.iter().map(|(_, records)| records));
        for records in stores {
            let Some(image) = records.images.iter().find(|image| image.id == id) else { continue };
            if let Some(who) = self.usage.of_image(records, &id, &image.layer) {
                return Some(format!("{label} is used by {who}"));
            }
            if records.store == self.own.store && !self.classes.contains(&GarbageClass::Images) {
                return Some(format!("{label} is in Podman, and images were not asked for"));
            }
        }
        None
    }

    /// The newest entry that an image of the graph root was loaded for.
    fn entry(&self, image: &StoredImage) -> Option<&GenerationEntry> {
        let entries = self.history.both().rev().flat_map(|generation| &generation.entries);
        let mut found =
            entries.filter(|entry| entry.config_digest.hex() == image.id && image.has(entry.manifest_digest));
        found.next()
    }

    /// Says of each image of ours why it stays; gives those that go.
    fn divide(
        &self,
        records: &StoreRecords,
        ours: &[&StoredImage],
        wanted: &BTreeMap<String, String>,
        keep: &mut Vec<KeptItem>,
    ) -> Vec<StoredImage> {
        let mut needed: BTreeSet<String> = BTreeSet::new();
        let mut stays = |image: &StoredImage, why: String| {
            needed.extend(records.chain(&image.layer).map(str::to_owned));
            keep.push(KeptItem { class: GarbageClass::Images, name: self.label(image), why });
        };
        let mut rest = Vec::new();
        for image in ours {
            let used = self.usage.of_image(records, &image.id, &image.layer);
            match (wanted.get(&image.id), used) {
                (Some(why), _) => stays(image, why.clone()),
                (None, Some(who)) => stays(image, format!("used by {who}")),
                (None, None) if !self.classes.contains(&GarbageClass::Images) => {
                    stays(image, "images were not asked for".to_owned());
                }
                (None, None) => rest.push(*image),
            }
        }
        // Something may lie over one of its lower layers: then it is all that keeps that layer.
        let mut going = Vec::new();
        for image in rest {
            let alone: Vec<&str> = records.chain(&image.layer).filter(|layer| !needed.contains(*layer)).collect();
            match self.usage.of_layers(records, alone) {
                Some(who) if records.store != self.own.store => {
                    needed.extend(records.chain(&image.layer).map(str::to_owned));
                    keep.push(KeptItem {
                        class: GarbageClass::Images,
                        name: self.label(image),
                        why: format!("its layers are used by {who}"),
                    });
                }
                _ => going.push(image.clone()),
            }
        }
        going
    }

    fn linked_removals(&mut self, store: &LinkedStore, records: &StoreRecords, going: &[StoredImage]) -> Vec<Removal> {
        let mut needed = needed(records, going);
        let mut removals = Vec::new();
        for image in going {
            let folder = store.path().join(format!("{}-images/{}", records.driver, image.id));
            let (mut bytes, mut collectable) = (measure(&folder).0, 0);
            for layer in records.chain(&image.layer) {
                if needed.insert(layer.to_owned()) {
                    let size = self.sizes.entry(layer.to_owned()).or_insert_with(|| {
                        let folder = records.tree(layer);
                        let (own, linked) = measure(folder.parent().unwrap_or(&folder));
                        (own + measure(&store.records_file(layer)).0, linked)
                    });
                    bytes += size.0;
                    collectable += size.1;
                }
            }
            removals.push(Removal {
                class: GarbageClass::Images,
                name: self.label(image),
                place: store.path().to_owned(),
                bytes,
                collectable,
                thing: Thing::Linked(image.id.clone()),
            });
        }
        removals
    }

    fn pulled_removals(&self, own: &StoreRecords, going: &[StoredImage], keep: &mut Vec<KeptItem>) -> Vec<Removal> {
        let mut staying = Vec::new();
        let mut removals = Vec::new();
        for image in going {
            let entries = self.history.both().flat_map(|generation| &generation.entries);
            let ours: BTreeSet<String> = entries
                .filter(|entry| entry.config_digest.hex() == image.id)
                .flat_map(GenerationEntry::all_names)
                .collect();
            let (names, others): (Vec<String>, Vec<String>) =
                image.names.iter().cloned().partition(|name| ours.contains(name));
            if names.is_empty() {
                let why = match others.first() {
                    Some(other) => format!("only called {other}, which is not ours"),
                    None => "it has no name left; `podman image prune` removes it".to_owned(),
                };
                staying.push(image.id.clone());
                keep.push(KeptItem { class: GarbageClass::Images, name: self.label(image), why });
                continue;
            }
            let mut name = self.label(image);
            if let Some(other) = others.first() {
                staying.push(image.id.clone());
                name = format!("our names of {name}, which is called {other} too");
            }
            removals.push(Removal {
                class: GarbageClass::Images,
                name,
                place: own.store.clone(),
                bytes: 0,
                collectable: 0,
                thing: Thing::Pulled { id: image.id.clone(), names },
            });
        }
        let really: Vec<StoredImage> = going.iter().filter(|image| !staying.contains(&image.id)).cloned().collect();
        let mut needed = needed(own, &really);
        let gone: BTreeSet<&str> = self
            .containers
            .iter()
            .filter_map(|removal| match &removal.thing {
                Thing::Container(id) => Some(id.as_str()),
                _ => None,
            })
            .collect();
        for container in own.containers.iter().filter(|container| !gone.contains(container.id.as_str())) {
            needed.extend(own.chain(&container.layer).map(str::to_owned));
        }
        for image in &really {
            let removal = removals
                .iter_mut()
                .find(|removal| matches!(&removal.thing, Thing::Pulled { id, .. } if *id == image.id));
            let new = own.chain(&image.layer).filter(|layer| needed.insert((*layer).to_owned()));
            let of_layers: u64 = new.map(|layer| of_pulled(own, layer)).sum();
            let bytes = of_layers + measure(&own.store.join(format!("{}-images/{}", own.driver, image.id))).0;
            if let Some(removal) = removal {
                removal.bytes = bytes;
            }
        }
        removals
    }

    fn generation_removal(&self, generation: &Generation) -> Removal {
        let folder = self.host.generations().folder_of(generation.number);
        Removal {
            class: GarbageClass::Generations,
            name: format!("generation {}", generation.number),
            place: self.host.places.graph_root.clone(),
            bytes: measure(&folder).0,
            collectable: 0,
            thing: Thing::Generation {
                number: generation.number,
                images: generation.entries.iter().map(|entry| entry.config_digest.hex()).collect(),
            },
        }
    }

    /// Stopped containers of images of ours that no kept generation has.
    fn stopped(&self, keep: usize, progress: &Progress) -> Result<Vec<Removal>, GcError> {
        if self.own.containers.is_empty() {
            return Ok(Vec::new());
        }
        let kept = self.retain(keep).generations;
        let ids = |keeps: bool| -> BTreeSet<String> {
            let fitting = self.history.all.iter().filter(|generation| kept.contains_key(&generation.number) == keeps);
            fitting.flat_map(|generation| generation.entries.iter().map(|entry| entry.config_digest.hex())).collect()
        };
        let (current, superseded) = (ids(true), ids(false));
        let mut removals = Vec::new();
        for container in self.host.engine.containers(progress)? {
            if !container.is_stopped() || current.contains(&container.image) || !superseded.contains(&container.image) {
                continue;
            }
            let stored = self.own.containers.iter().find(|stored| stored.id == container.id);
            let layer = stored.map(|stored| self.own.tree(&stored.layer));
            removals.push(Removal {
                class: GarbageClass::Containers,
                name: format!("container {}", container.name),
                place: self.own.store.clone(),
                bytes: layer.map_or(0, |layer| measure(&layer).0),
                collectable: 0,
                thing: Thing::Container(container.id),
            });
        }
        Ok(removals)
    }

    fn find_leftovers(&self, generations: &Generations, progress: &Progress) -> Result<Vec<Removal>, GcError> {
        if !self.classes.contains(&GarbageClass::Temp) {
            return Ok(Vec::new());
        }
        let graph_root = &self.host.places.graph_root;
        let mut paths = generations.leftovers()?;
        paths.extend(disk::leftovers(graph_root)?);
        let mut all: Vec<(&Path, _)> = paths.into_iter().map(|path| (graph_root.as_path(), path)).collect();
        if let Some((store, _)) = &self.linked {
            let left = store.leftovers(progress)?.into_iter().chain(self.usage.stale_notes.iter().cloned());
            all.extend(left.map(|path| (store.path(), path)));
        }
        let removal = |(place, path): (&Path, std::path::PathBuf)| Removal {
            class: GarbageClass::Temp,
            name: path.display().to_string(),
            place: place.to_owned(),
            bytes: measure(&path).0,
            collectable: 0,
            thing: Thing::Leftover(path),
        };
        Ok(all.into_iter().map(removal).collect())
    }

    /// Layers that a load has left in Podman without an image, and parts of such.
    fn find_half_layers(&mut self, others: &OtherUsers) {
        if !self.classes.contains(&GarbageClass::Temp) || self.host.leaves_half_layers() {
            return;
        }
        let found = match half_layers::find(&self.own, &self.usage) {
            Ok(found) if found == HalfLayers::default() => return,
            Ok(found) => found,
            Err(error) => {
                self.usage.warnings.push(format!("layers without an image cannot be looked for: {error}"));
                return;
            }
        };
        if let Some(who) = half_layers::at_work(others, &self.host.places) {
            let why = "layers that have no image are looked at when it is done";
            self.usage.warnings.push(format!("{who} may be loading an image; {why}"));
            return;
        }
        let mut add = |name: String, bytes: u64, thing: Thing| {
            let (class, place) = (GarbageClass::Temp, self.own.store.clone());
            self.leftovers.push(Removal { class, name, place, bytes, collectable: 0, thing });
        };
        let short = |id: &String| id.chars().take(12).collect::<String>();
        let mut counted: BTreeSet<String> = BTreeSet::new();
        for (chain, going) in found.chains {
            let layers = chain.iter().rev().take(going).filter(|id| counted.insert((*id).clone()));
            let bytes = layers.map(|layer| of_pulled(&self.own, layer)).sum();
            let top = chain.last().map(short).unwrap_or_default();
            let what = if going == 1 { "layer".to_owned() } else { format!("{going} layers, the uppermost") };
            add(format!("{what} {top}, which a load left in Podman without an image"), bytes, Thing::Layers(chain));
        }
        if !found.incomplete.is_empty() {
            let bytes = found.incomplete.iter().map(|layer| of_pulled(&self.own, layer)).sum();
            let names = found.incomplete.iter().map(short).collect::<Vec<_>>().join(", ");
            let name = format!("unfinished layer {names}, which a killed load left in Podman");
            add(name, bytes, Thing::Incomplete(found.incomplete));
        }
        for path in found.unrecorded {
            let (alone, linked) = measure(&path);
            let name = format!("{}, which no record of Podman names", path.display());
            add(name, alone + linked, Thing::Unrecorded(path));
        }
    }

    fn label(&self, image: &StoredImage) -> String {
        if let Some(entry) = self.entry(image) {
            return label(entry);
        }
        let name = image.names.iter().find(|name| !name.contains('@')).or(image.names.first()).unwrap_or(&image.id);
        format!("image {name}")
    }
}

fn label(entry: &GenerationEntry) -> String {
    let kind = if entry.kind == ImageKind::Model { "model" } else { "image" };
    format!("{kind} {} ({})", entry.name, entry.digest.short())
}

/// The layers of all images of a store but those that go.
fn needed(records: &StoreRecords, going: &[StoredImage]) -> BTreeSet<String> {
    let stays = records.images.iter().filter(|image| !going.iter().any(|other| other.id == image.id));
    stays.flat_map(|image| records.chain(&image.layer).map(str::to_owned)).collect()
}

/// Bytes on the disk of a layer that Podman unpacked, whose files may be links to each other.
fn of_pulled(own: &StoreRecords, layer: &str) -> u64 {
    let tree = own.tree(layer);
    let folder = if tree.ends_with("diff") { tree.parent().unwrap_or(&tree) } else { &tree };
    let (alone, linked) = measure(folder);
    alone + linked + measure(&own.tar_split(layer)).0
}

/// Bytes on the disk of a tree: of what has no other name, and of the files that have.
fn measure(path: &Path) -> (u64, u64) {
    let (mut seen, mut sum) = (BTreeSet::new(), (0, 0));
    let mut add = |found: &rustix::fs::Stat| {
        let is_linked = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_nlink > 1;
        if seen.insert((found.st_dev, found.st_ino)) {
            *(if is_linked { &mut sum.1 } else { &mut sum.0 }) += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
        }
    };
    let (Some(parent), Some(name)) = (path.parent().and_then(|parent| Dir::open(parent).ok()), path.file_name()) else {
        return sum;
    };
    if let Ok(Some(found)) = parent.look(name) {
        add(&found);
    }
    if let Ok(tree) = parent.dir(name) {
        // What cannot be read is not counted.
        drop(walk(tree, &mut |_, _, found| add(found)));
    }
    sum
}
