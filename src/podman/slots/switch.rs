//! Switching the active model of a slot: the link first, then one restart, watched; and back if it is not well.
//!
//! What a kill leaves at any moment names one whole model. That a switch had begun is on record, so that using the same
//! model again restarts the service once more instead of taking it for done.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::model_files::FilesOfModel;
use super::unit::{ServiceError, SlotService};
use super::{HeldModel, ModelError, Slots, alias};
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::engine::generation::{Generation, GenerationEntry};
use crate::engine::target::Presence;
use crate::image::layout::{ImageDir, VERSION};
use crate::image::summary::ImageKind;
use crate::image::{LayerKind, chain_ids};
use crate::model::forms::record::ModelRecord;
use crate::podman::linked::LinkedStore;
use crate::podman::load::decide::PodmanHost;
use crate::podman::storage::client::PodmanClient;
use crate::podman::storage::snapshot::StoreSnapshot;

/// Where a model of a generation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", tag = "place")]
pub(crate) enum ModelPlace {
    /// In a linked store.
    Linked { store: PathBuf },
    /// Where Podman unpacked it.
    Pulled {
        /// The graph root, or an additional store that another program fills.
        store: PathBuf,
    },
    /// Podman does not have all of it.
    Missing {
        /// What is missing.
        why: String,
    },
}

/// A model of the current generation.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GenerationModel {
    #[serde(flatten)]
    pub(crate) entry: GenerationEntry,
    /// Where its image is.
    #[serde(flatten)]
    pub(crate) place: ModelPlace,
    /// Where its files are.
    #[serde(flatten)]
    pub(crate) files: FilesOfModel,
    /// The slots that it is active in.
    pub(crate) slots: Vec<String>,
    /// The images of the generation that have it in them.
    pub(crate) used_by: Vec<ModelUser>,
    /// What is known of its files; not of a model that an older windlass built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<ModelRecord>,
}

/// An image that has a model in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelUser {
    /// The image's name in its stack.
    pub(crate) image: String,
    /// Containers of it, running or not.
    pub(crate) containers: Vec<String>,
}

/// A slot and what is in it.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slot {
    pub(crate) slot: String,
    /// Where it is: containers bind `file` or `tree` below.
    pub(crate) path: PathBuf,
    /// The active model.
    pub(crate) active: Option<HeldModel>,
    /// The name by which its image is mounted, if it can be.
    pub(crate) image: Option<String>,
    /// Whether the current generation has the model.
    pub(crate) is_current: bool,
    /// Whether a switch was begun and has not ended.
    pub(crate) is_switching: bool,
}

/// All models and slots of a host.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Models {
    /// The current generation.
    pub(crate) generation: Option<u64>,
    /// Its models.
    pub(crate) models: Vec<GenerationModel>,
    /// The slots that were used so far.
    pub(crate) slots: Vec<Slot>,
}

/// Which model is to be active where.
#[derive(Debug, Clone)]
pub(crate) struct Wish<'a> {
    /// The model, by name or by ref.
    pub(crate) model: &'a str,
    /// The slot.
    pub(crate) slot: &'a str,
    /// What is restarted, if anything.
    pub(crate) service: Option<&'a SlotService>,
    /// How long it may take to become healthy.
    pub(crate) timeout: Duration,
    /// Whether nothing is to be done.
    pub(crate) dry_run: bool,
}

/// What is being done, for people who wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage<'a> {
    /// The service is restarted with this model.
    Restarting(&'a SlotService, &'a str),
    /// The model that is to be active gives vectors of another length.
    Embedding(EmbeddingChange),
    /// It is being watched.
    Watching(&'a SlotService),
    /// It is not healthy with this model.
    GoingBack(&'a SlotService, &'a str, &'a ServiceError),
}

/// Vectors of another length: what was stored with the former model cannot be compared with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct EmbeddingChange {
    /// Numbers in an embedding of the former model.
    pub(crate) from: u64,
    /// Numbers in one of the new model.
    pub(crate) to: u64,
}

/// What was done.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Used {
    /// The slot.
    pub(crate) slot: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The model that is active now.
    pub(crate) active: HeldModel,
    /// The name by which its image is mounted, if it can be.
    pub(crate) image: Option<String>,
    /// The model that was active before.
    pub(crate) former: Option<String>,
    /// A change of the length of embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) embedding: Option<EmbeddingChange>,
    /// Whether anything was to be done.
    pub(crate) changed: bool,
    /// What was restarted, a container or a unit of systemd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    /// Whether the service was restarted.
    pub(crate) restarted: bool,
    /// How many milliseconds after its restart began it was found healthy.
    pub(crate) healthy_after_ms: Option<u64>,
    /// Store paths that Nix may collect all the same.
    pub(crate) warnings: Vec<String>,
}

/// A model, found.
struct FoundModel {
    held: HeldModel,
    place: ModelPlace,
}

impl PodmanHost {
    fn slots(&self) -> Slots {
        Slots::of(&self.places.graph_root)
    }

    /// The models of the current generation, and the slots.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub(crate) fn models(&self, progress: &Progress) -> Result<Models, ModelError> {
        let current = self.generations().current()?;
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let slots = self.slots();
        let entries = || current.iter().flat_map(models_of);
        let mut all = Vec::new();
        for slot in slots.names()? {
            let active = slots.active(&slot)?;
            let name = alias(&slot);
            let is = |held: &HeldModel| {
                snapshot.called(&name).is_some_and(|(_, image)| image.id == held.entry.config_digest.hex())
            };
            all.push(Slot {
                path: slots.path(&slot),
                image: active.as_ref().is_some_and(is).then_some(name),
                is_current: active.as_ref().is_some_and(|held| entries().any(|entry| is_same(entry, &held.entry))),
                is_switching: slots.is_switching(&slot),
                slot,
                active,
            });
        }
        let model = |entry: &GenerationEntry| {
            let FoundModel { held: HeldModel { entry, files, .. }, place } = self.find(entry, &snapshot);
            let is_in = |slot: &&Slot| slot.active.as_ref().is_some_and(|held| is_same(&held.entry, &entry));
            let slots = all.iter().filter(is_in).map(|slot| slot.slot.clone()).collect();
            let used_by = current.iter().flat_map(|current| users(current, &entry.name, &snapshot)).collect();
            let model = ImageDir::open(&entry.directory).ok().and_then(|image| image.summary().model.clone());
            GenerationModel { entry, place, files, slots, used_by, model }
        };
        let models = entries().map(model).collect();
        Ok(Models { generation: current.as_ref().map(|current| current.number), models, slots: all })
    }

    /// Where a model is.
    fn find(&self, entry: &GenerationEntry, snapshot: &StoreSnapshot) -> FoundModel {
        let held = |files| HeldModel { version: VERSION, entry: entry.clone(), files };
        let missing = |why| FoundModel { held: held(FilesOfModel::default()), place: ModelPlace::Missing { why } };
        let image = match ImageDir::open(&entry.directory) {
            Ok(image) => image,
            Err(error) => return missing(error.to_string()),
        };
        let mut platforms = image.summary().platforms.iter();
        let Some(platform) = platforms.find(|platform| platform.digest == entry.manifest_digest) else {
            return missing(format!("{} holds another image", entry.directory.display()));
        };
        let trees = |store: &PathBuf| {
            let records = snapshot.stores.iter().find(|records| records.store == *store);
            let layers = chain_ids(&platform.layers).into_iter().zip(&platform.layers);
            // A link for RamaLama is not one of its files.
            let ids: Vec<_> = layers.filter(|(_, layer)| layer.kind == LayerKind::Model).map(|(id, _)| id).collect();
            records.map_or_else(Vec::new, |records| ids.iter().map(|id| records.tree(&id.hex())).collect())
        };
        let (place, linked) = match snapshot.presence(image.summary(), platform) {
            Presence::Present { store, .. } if LinkedStore::is_at(&store) => {
                let trees = trees(&store);
                (ModelPlace::Linked { store }, trees)
            }
            Presence::Present { store, .. } => (ModelPlace::Pulled { store }, Vec::new()),
            Presence::Damaged { why, .. } => (ModelPlace::Missing { why }, Vec::new()),
            Presence::Missing => (ModelPlace::Missing { why: "Podman has no image of it".to_owned() }, Vec::new()),
        };
        let files = FilesOfModel::find(&image, platform, &linked, &self.nix.store);
        FoundModel { held: held(files), place }
    }

    /// Makes a model of the current generation the active one of a slot, and restarts what uses it.
    ///
    /// # Errors
    /// If there is no such model, or the service is not healthy with it; then the former one is active again.
    pub(crate) fn use_model(
        &self,
        wish: &Wish<'_>,
        told: &mut dyn FnMut(Stage<'_>),
        progress: &Progress,
    ) -> Result<Used, ModelError> {
        let slot = wish.slot;
        Slots::check(slot)?;
        let slots = self.slots();
        self.entry(wish.model)?;
        let _slot = slots.lock(slot, progress)?;
        let generations = self.generations().lock(progress)?;
        let entry = self.entry(wish.model)?;
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let FoundModel { held, place } = self.find(&entry, &snapshot);
        if let (ModelPlace::Missing { why }, FilesOfModel { file: None, tree: None }) = (&place, &held.files) {
            return Err(ModelError::Missing { model: entry.name.into(), why: why.clone() });
        }
        let active = slots.active(slot)?;
        // After a killed switch, go back to the model that was known to be healthy.
        let former = match slots.is_switching(slot) {
            true => slots.former(slot)?,
            false => active.clone(),
        };
        let mut used = Used {
            slot: slot.to_owned(),
            path: slots.path(slot),
            image: self.image_of(&held, &snapshot).map(|_| alias(slot)),
            former: former.as_ref().map(|held| held.entry.name.to_string()),
            active: held.clone(),
            embedding: former.as_ref().and_then(|former| embedding_change(&former.entry, &entry)),
            changed: false,
            service: None,
            restarted: false,
            healthy_after_ms: None,
            warnings: Vec::new(),
        };
        let is_there = active.is_some_and(|active| is_same(&active.entry, &entry)) && slots.holds(&held);
        if is_there && self.is_named(slot, &held, &snapshot) && !slots.is_switching(slot) {
            return Ok(used);
        }
        let service = wish.service.map(|service| service.managed(self.starter()?, progress)).transpose()?;
        if let Some(service) = &service {
            self.check_use(service, slot, progress)?;
        }
        used.changed = true;
        if let Some(change) = used.embedding {
            told(Stage::Embedding(change));
        }
        if wish.dry_run {
            used.service = service.map(|service| service.to_string());
            return Ok(used);
        }
        used.warnings = slots.hold(&held, &self.nix, progress)?;
        slots.begin(slot, former.as_ref(), progress)?;
        self.point(slot, &held, progress)?;
        drop(generations);
        if let Some(service) = service {
            let former = former.filter(|former| !is_same(&former.entry, &entry));
            let start = Instant::now();
            self.restart(wish, &service, &held, former, told, progress)?;
            used.service = Some(service.to_string());
            used.restarted = true;
            used.healthy_after_ms = u64::try_from(start.elapsed().as_millis()).ok();
        }
        self.end(slot, progress)?;
        Ok(used)
    }

    /// The switch has ended: what no slot leads to any more goes, and Nix may collect it.
    fn end(&self, slot: &str, progress: &Progress) -> Result<(), ModelError> {
        let slots = self.slots();
        let _generations = self.generations().lock(progress)?;
        slots.end(slot)?;
        slots.sweep()
    }

    /// A model of the current generation.
    fn entry(&self, name: &str) -> Result<GenerationEntry, ModelError> {
        let current = self.generations().current()?;
        let entries: Vec<&GenerationEntry> = current.iter().flat_map(models_of).collect();
        let found = entries.iter().find(|entry| *entry.name == *name || *entry.reference == *name);
        let unknown = || {
            let there = entries.iter().map(|entry| entry.name.to_string()).collect();
            ModelError::Unknown { model: name.to_owned(), there }
        };
        found.map(|entry| (*entry).clone()).ok_or_else(unknown)
    }

    /// Restarts a service with a model that is active, and with the former one if it is not well.
    fn restart(
        &self,
        wish: &Wish<'_>,
        service: &SlotService,
        held: &HeldModel,
        former: Option<HeldModel>,
        told: &mut dyn FnMut(Stage<'_>),
        progress: &Progress,
    ) -> Result<(), ModelError> {
        let run = |held: &HeldModel, told: &mut dyn FnMut(Stage<'_>)| {
            told(Stage::Restarting(service, &held.entry.name));
            let podman = self.starter()?;
            let before = service.restart(podman, progress)?;
            told(Stage::Watching(service));
            service.wait(podman, &before, wish.timeout, progress)
        };
        let why = match run(held, told) {
            Ok(()) => return Ok(()),
            Err(stopped) if stopped.is_stopped() => return Err(stopped.into()),
            Err(why) => Box::new(why),
        };
        let (service, model) = (service.clone(), held.entry.name.to_string());
        let Some(former) = former else { return Err(ModelError::NoWayBack { service, model, why }) };
        told(Stage::GoingBack(&service, &model, &why));
        {
            let _generations = self.generations().lock(progress)?;
            self.point(wish.slot, &former, progress)?;
        }
        let name = former.entry.name.to_string();
        match run(&former, told) {
            Err(also) if also.is_stopped() => Err(also.into()),
            Err(also) => Err(ModelError::Broken { service, model, why, former: name, also: Box::new(also) }),
            Ok(()) => {
                self.end(wish.slot, progress)?;
                Err(ModelError::WentBack { service, model, why, former: name })
            }
        }
    }

    /// What has the containers of services.
    fn starter(&self) -> Result<&PodmanClient, ServiceError> {
        Ok(self.engine.podman("restart the container of a service")?)
    }

    /// Whether a restart of the service would change anything. A unit that has no container now may have one then.
    fn check_use(&self, service: &SlotService, slot: &str, progress: &Progress) -> Result<(), ModelError> {
        let (slots, alias) = (self.slots(), alias(slot));
        match service.mounts(self.starter()?, progress)? {
            Some(mounts) if !mounts.has_below(slots.folder(), slot) && !mounts.images.contains(&alias) => {
                let (service, slot) = (service.clone(), slot.to_owned());
                Err(ModelError::NotUsed { service, path: slots.path(&slot), slot, alias })
            }
            _ => Ok(()),
        }
    }

    /// Makes a held model the active one: the link, and the name of its image.
    fn point(&self, slot: &str, held: &HeldModel, progress: &Progress) -> Result<(), ModelError> {
        self.slots().point(slot, held)?;
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        if self.is_named(slot, held, &snapshot) {
            return Ok(());
        }
        let name = alias(slot);
        let done = match (self.image_of(held, &snapshot), snapshot.called(&name)) {
            (Some(id), _) => self.engine.tag(&id, &name, progress),
            // The image of another model must not be mounted for this one.
            (None, Some((_, other))) => self.engine.untag(&other.id, &name, progress),
            (None, None) => Ok(()),
        };
        Ok(done.map_err(ServiceError::from)?)
    }

    /// Whether the name of a slot's image leads to this model, or to none if Podman cannot mount its image.
    fn is_named(&self, slot: &str, held: &HeldModel, snapshot: &StoreSnapshot) -> bool {
        let named = snapshot.called(&alias(slot)).map(|(_, image)| image.id.clone());
        named == self.image_of(held, snapshot)
    }

    /// The ID of a model's image, if Podman can mount that: one that lies in the graph root with its layers.
    fn image_of(&self, held: &HeldModel, snapshot: &StoreSnapshot) -> Option<String> {
        let own = snapshot.stores.first()?;
        let id = held.entry.config_digest.hex();
        let image = own.images.iter().find(|image| image.id == id)?;
        own.layers.contains_key(&image.layer).then_some(id)
    }
}

fn models_of(generation: &Generation) -> impl Iterator<Item = &GenerationEntry> {
    generation.entries.iter().filter(|entry| entry.kind == ImageKind::Model)
}

/// The images of a generation that have a model of this name in them.
fn users(generation: &Generation, model: &str, snapshot: &StoreSnapshot) -> Vec<ModelUser> {
    let images = generation.entries.iter().filter(|entry| entry.kind != ImageKind::Model);
    let images = images.filter(|entry| entry.models.iter().any(|name| name == model));
    let containers = |image: &GenerationEntry| {
        // The first store is the graph root, which alone has containers.
        let all = snapshot.stores.first().into_iter().flat_map(|own| &own.containers);
        let of_image = all.filter(|container| container.image == image.config_digest.hex());
        of_image.map(|container| container.names.first().unwrap_or(&container.id).clone()).collect()
    };
    images.map(|image| ModelUser { image: image.name.to_string(), containers: containers(image) }).collect()
}

fn embedding_change(former: &GenerationEntry, new: &GenerationEntry) -> Option<EmbeddingChange> {
    let length = |entry: &GenerationEntry| {
        ImageDir::open(&entry.directory).ok()?.summary().model.as_ref()?.facts.as_ref()?.embedding_length
    };
    let (from, to) = (length(former)?, length(new)?);
    (from != to).then_some(EmbeddingChange { from, to })
}

/// Whether both are the same model, whatever it is called.
fn is_same(one: &GenerationEntry, two: &GenerationEntry) -> bool {
    one.manifest_digest == two.manifest_digest
}
