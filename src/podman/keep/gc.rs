//! Cleaning up: what is no longer needed of what windlass itself brought, and nothing else.
//!
//! *Ours* is what lies in the linked store, and the images of the graph root that a generation names. Never touched are
//! volumes, images of others, names that others gave, and whatever is [used](super::usage): by a container, running or
//! stopped, as an image that one mounts, by another user, or by generations of another graph root.
//!
//! Order: containers, images of the graph root, linked images, generations, leftovers. Whatever a kill leaves undone the
//! next run finds again: records go before what they name (`podman tag` makes a record in the graph root over layers of the
//! linked store), and a generation goes after its images, because it is what says that they are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use serde::Serialize;

use super::gc_plan::Planner;
use super::half_layers::at_work;
use super::usage::UsageError;
use crate::class::{Class, Classified};
use crate::disk::beneath::{Dir, refused};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::engine::Engine;
use crate::engine::generations::GenerationError;
use crate::podman::linked::StoreChange;
use crate::podman::load::decide::PodmanHost;
use crate::podman::storage::others::OtherUsers;

/// How many generations stay unless told otherwise.
pub(crate) const KEEP: usize = 3;

/// What can be removed, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GarbageClass {
    /// Stopped containers of superseded images.
    Containers,
    /// Images that no kept generation has.
    Images,
    /// Generations but for the last ones.
    Generations,
    /// Leftovers of killed runs, and layers that a load left in Podman without an image.
    Temp,
    /// Networks that the modules made, and that no unit makes any more and no container is in.
    Networks,
}

impl GarbageClass {
    /// What is cleaned up unless told otherwise: what can be said without a Podman that is started for it.
    pub(crate) const USUAL: [Self; 3] = [Self::Images, Self::Generations, Self::Temp];
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Containers, Self::Images, Self::Generations, Self::Temp, Self::Networks];
}

/// What to clean up.
#[derive(Debug, Clone)]
pub(crate) struct GcRequest {
    /// Which classes.
    pub(crate) classes: BTreeSet<GarbageClass>,
    /// How many of the last generations stay. The current one always does.
    pub(crate) keep: usize,
    /// Only if a file system is fuller than this many percent, and then only the oldest generations, until it is no fuller
    /// than that many.
    pub(crate) watermarks: Option<(u8, u8)>,
    /// Where to look for others that use the same images.
    pub(crate) others: OtherUsers,
}

/// Something that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeptItem {
    /// Its class.
    pub(crate) class: GarbageClass,
    /// What it is called: `generation 5`, `image redis (9ffa7622610c)`.
    pub(crate) name: String,
    pub(crate) why: String,
}

/// Something that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Removal {
    /// Its class.
    pub(crate) class: GarbageClass,
    /// What it is called.
    pub(crate) name: String,
    /// Where it lies: the graph root or the linked store.
    pub(crate) place: PathBuf,
    /// Bytes that this frees.
    pub(crate) bytes: u64,
    /// Bytes of store paths that Nix may collect afterwards, if nothing else needs them.
    pub(crate) collectable: u64,
    /// How it goes.
    #[serde(skip)]
    pub(crate) thing: Thing,
}

/// What exactly goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Thing {
    /// A container, by its ID.
    Container(String),
    /// An image of the linked store, by its ID.
    Linked(String),
    /// Names of an image of the graph root; with the last one Podman removes the image.
    Pulled { id: String, names: Vec<String> },
    /// A generation, with the IDs of its images.
    Generation { number: u64, images: BTreeSet<String> },
    /// A file or a folder.
    Leftover(PathBuf),
    /// Layers that no image has, from the bottom up.
    Layers(Vec<String>),
    /// Layers that Podman has not finished.
    Incomplete(Vec<String>),
    /// A folder or file of a layer that no record names.
    Unrecorded(PathBuf),
    /// A network.
    Network(String),
}

/// Images that windlass did not bring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NotOurs {
    pub(crate) images: usize,
    /// Bytes of their layers.
    pub(crate) bytes: u64,
}

/// What a clean-up would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GcPlan {
    /// What stays, and why.
    pub(crate) keep: Vec<KeptItem>,
    /// What goes.
    pub(crate) remove: Vec<Removal>,
    /// What is not looked at any further.
    pub(crate) not_ours: NotOurs,
    /// So many percent are in use, which is not above the watermark: nothing is done.
    pub(crate) full: Option<u8>,
    /// What could not be looked at.
    pub(crate) warnings: Vec<String>,
}

impl GcPlan {
    /// Bytes that it frees on the file system that a path is on.
    #[must_use]
    pub(crate) fn bytes_at(&self, path: &Path) -> u64 {
        let there = device(path);
        self.remove.iter().filter(|removal| device(&removal.place) == there).map(|removal| removal.bytes).sum()
    }
}

/// The file system that a path is on, or will be.
fn device(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.dev())
}

/// What became of one removal.
#[derive(Debug)]
pub(crate) struct Removed {
    /// What was to go.
    pub(crate) removal: Removal,
    /// Why it is still there.
    pub(crate) error: Option<GcError>,
}

/// Why nothing can be cleaned up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum GcError {
    /// It is not known what is used.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The generations.
    #[error(transparent)]
    Generations(#[from] GenerationError),
    /// The records of a store.
    #[error(transparent)]
    Records(#[from] crate::podman::storage::records::RecordsError),
    /// Podman.
    #[error(transparent)]
    Engine(#[from] crate::engine::process::ProgramError),
    /// What a killed load has left.
    #[error(transparent)]
    Unconfirmed(#[from] Box<crate::podman::load::LoadError>),
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A container or user began to use it.
    #[error("it is used by {0} since a moment ago")]
    InUse(String),
    /// An image that could not be removed needs it.
    #[error("it stays until its image is gone")]
    StillNeeded,
}

impl Classified for GcError {
    fn class(&self) -> Class {
        match self {
            Self::Usage(error) => error.class(),
            Self::Generations(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Engine(error) => error.class(),
            Self::Unconfirmed(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::InUse(_) | Self::StillNeeded => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unconfirmed(error) => error.hint(),
            _ => None,
        }
    }
}

/// What is loaded, and has no other user.
pub(super) struct HeldLocks<'a> {
    _generations: Option<File>,
    pub(super) change: Option<StoreChange<'a>>,
}

impl PodmanHost {
    /// What a clean-up would do. Changes nothing.
    ///
    /// # Errors
    /// See [`GcError`].
    pub(crate) fn plan_gc(&self, request: &GcRequest, progress: &Progress) -> Result<GcPlan, GcError> {
        let _held = self.hold(progress)?;
        self.plan_held(request, progress)
    }

    /// Cleans up. What fails does not keep the rest from going.
    ///
    /// # Errors
    /// See [`GcError`]; of a single removal, see [`Removed::error`].
    pub(crate) fn gc(
        &self,
        request: &GcRequest,
        done: &mut dyn FnMut(&Removed),
        progress: &Progress,
    ) -> Result<(GcPlan, Vec<Removed>), GcError> {
        let mut settled = self.settle_now(progress).map_err(Box::new)?;
        if request.classes.contains(&GarbageClass::Images) {
            settled.extend(self.remove_unreadable(progress).map_err(Box::new)?);
        }
        let held = self.hold(progress)?;
        let mut plan = self.plan_held(request, progress)?;
        plan.warnings.extend(settled);
        let mut all = Vec::new();
        let containers: Vec<Removal> =
            plan.remove.iter().filter(|removal| removal.class == GarbageClass::Containers).cloned().collect();
        if !containers.is_empty() {
            for removal in containers {
                let error = self.remove(&removal, &all, &held, progress).err();
                let removed = Removed { removal, error };
                done(&removed);
                all.push(removed);
            }
            // With what they really left behind.
            let mut request = request.clone();
            request.classes.remove(&GarbageClass::Containers);
            let warnings = std::mem::take(&mut plan.warnings);
            plan = GcPlan { warnings, ..self.plan_held(&request, progress)? };
        }
        let mut linked: Vec<Removal> = Vec::new();
        for removal in &plan.remove {
            progress.check().at("clean up", &removal.place)?;
            if matches!(removal.thing, Thing::Linked(_)) {
                linked.push(removal.clone());
                continue;
            }
            if removal.class > GarbageClass::Images {
                self.remove_linked(std::mem::take(&mut linked), request, &held, &mut all, done, progress)?;
            }
            let error = self.remove(removal, &all, &held, progress).err();
            let removed = Removed { removal: removal.clone(), error };
            done(&removed);
            all.push(removed);
        }
        self.remove_linked(linked, request, &held, &mut all, done, progress)?;
        Ok((plan, all))
    }

    /// Bytes that a usual clean-up would free on the file system of `place`. It takes no lock, as a load that does not
    /// fit asks while it holds them.
    #[must_use]
    pub(crate) fn reclaimable(&self, place: &Path, progress: &Progress) -> u64 {
        let classes = GarbageClass::USUAL.into();
        let request = GcRequest { classes, keep: KEEP, watermarks: None, others: OtherUsers::default() };
        self.plan_held(&request, progress).map_or(0, |plan| plan.bytes_at(place))
    }

    pub(super) fn hold(&self, progress: &Progress) -> Result<HeldLocks<'_>, GcError> {
        let generations = self.generations();
        // Where nothing was ever loaded there is nothing to hold, and nothing is made.
        let lock = generations.state().find(&[])?.map(|_| generations.lock(progress)).transpose()?;
        let change = self.linked.as_ref().map(|store| store.change(progress)).transpose()?;
        Ok(HeldLocks { _generations: lock, change })
    }

    fn plan_held(&self, request: &GcRequest, progress: &Progress) -> Result<GcPlan, GcError> {
        let mut planner = Planner::new(self, request, progress)?;
        let Some((above, down_to)) = request.watermarks else { return Ok(planner.plan(request.keep)) };
        let mut wanted: BTreeMap<u64, u64> = BTreeMap::new();
        let mut fullest = 0;
        let linked = self.linked.as_ref().map(|store| store.path());
        for place in [Some(self.places.graph_root.as_path()), linked].into_iter().flatten() {
            let Some(device) = device(place) else { continue };
            let stat = statvfs(place).at("read the free space of", place)?;
            let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
            let total = used + stat.f_bavail * stat.f_frsize;
            let percent = used.saturating_mul(100).checked_div(total).unwrap_or(0);
            fullest = fullest.max(u8::try_from(percent).unwrap_or(100));
            if percent > u64::from(above) {
                wanted.insert(device, used.saturating_sub(total / 100 * u64::from(down_to)));
            }
        }
        if wanted.is_empty() {
            return Ok(GcPlan { full: Some(fullest), ..GcPlan::default() });
        }
        let enough = |plan: &GcPlan| {
            let freed = |there: &u64| {
                let removals = plan.remove.iter().filter(|removal| device(&removal.place) == Some(*there));
                removals.map(|removal| removal.bytes).sum::<u64>()
            };
            wanted.iter().all(|(device, bytes)| freed(device) >= *bytes)
        };
        let mut keep = planner.generations().max(request.keep);
        loop {
            let plan = planner.plan(keep);
            if keep <= request.keep || enough(&plan) {
                return Ok(plan);
            }
            keep -= 1;
        }
    }

    /// Removes images of the linked store together, after one more look at whether they are used by now.
    fn remove_linked(
        &self,
        removals: Vec<Removal>,
        request: &GcRequest,
        held: &HeldLocks<'_>,
        all: &mut Vec<Removed>,
        done: &mut dyn FnMut(&Removed),
        progress: &Progress,
    ) -> Result<(), GcError> {
        let Some(change) = held.change.as_ref().filter(|_| !removals.is_empty()) else { return Ok(()) };
        let classes = [GarbageClass::Images].into();
        let planner = Planner::new(self, &GcRequest { classes, ..request.clone() }, progress)?;
        let mut going = BTreeSet::new();
        let mut errors = Vec::new();
        for removal in &removals {
            let Thing::Linked(id) = &removal.thing else { continue };
            errors.push(match planner.user_of_linked(id) {
                Some(who) => Some(GcError::InUse(who)),
                None if failed(all, |other| other == id) => Some(GcError::StillNeeded),
                None => {
                    going.insert(id.clone());
                    None
                }
            });
        }
        change.remove_images(&going, progress)?;
        for (removal, error) in removals.into_iter().zip(errors) {
            let removed = Removed { removal, error };
            done(&removed);
            all.push(removed);
        }
        Ok(())
    }

    /// Removes what a killed run has left in the linked store or in the graph root.
    fn remove_leftover(&self, path: &Path, held: &HeldLocks<'_>) -> Result<(), WriteError> {
        let linked = held.change.as_ref().zip(self.linked.as_ref());
        if let Some((change, _)) = linked.filter(|(_, store)| path.starts_with(store.path())) {
            return change.remove(path);
        }
        let root = &self.places.graph_root;
        let below = path.strip_prefix(root).ok().and_then(|below| below.parent().zip(below.file_name()));
        let Some((folder, name)) = below else { return Err(refused(path, "it is not in the graph root")) };
        Dir::open(root)?.dir(folder)?.remove(name)
    }

    pub(super) fn remove(
        &self,
        removal: &Removal,
        before: &[Removed],
        held: &HeldLocks<'_>,
        progress: &Progress,
    ) -> Result<(), GcError> {
        match &removal.thing {
            Thing::Container(id) => self.engine.podman("remove containers")?.remove_container(id, progress)?,
            // All together: `remove_linked`.
            Thing::Linked(_) => {}
            // Name by name and never by its ID: what else the image is called is not ours.
            Thing::Pulled { names, .. } => {
                names.iter().try_for_each(|name| self.engine.remove_image(name, progress))?;
            }
            Thing::Generation { number, images } => {
                if failed(before, |id| images.contains(id)) {
                    return Err(GcError::StillNeeded);
                }
                self.generations().remove(*number)?;
            }
            Thing::Leftover(path) => self.remove_leftover(path, held)?,
            Thing::Layers(_) | Thing::Incomplete(_) | Thing::Unrecorded(_) => {
                if let Some(who) = at_work(&OtherUsers::default(), &self.places) {
                    return Err(GcError::InUse(who));
                }
                match &removal.thing {
                    Thing::Layers(chain) => self.let_go(chain, progress)?,
                    Thing::Incomplete(ids) => self.drop_incomplete(ids, progress)?,
                    Thing::Unrecorded(path) => self.remove_unrecorded(path, progress)?,
                    _ => {}
                }
            }
            Thing::Network(name) => self.engine.podman("remove networks")?.remove_network(name, progress)?,
        }
        Ok(())
    }
}

/// Whether the removal of such an image failed.
fn failed(before: &[Removed], is_it: impl Fn(&String) -> bool) -> bool {
    before.iter().any(|removed| match &removed.removal.thing {
        Thing::Pulled { id, .. } | Thing::Linked(id) => removed.error.is_some() && is_it(id),
        _ => false,
    })
}
