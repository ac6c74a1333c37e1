//! Slots: places that a container binds once, and whose model changes below it.
//!
//! ```text
//! <graph root>/windlass/models/
//!   <slot> -> .held/<digest>      the model that is active; replaced by renaming
//!   .held/<digest>/               one model of a generation, by its image's digest
//!     model.json                  which one
//!     file -> …/model.gguf        its one file of weights, wherever that lies
//!     tree -> …/models            the directory of all its files
//!     roots/<name> -> /nix/store/…  what Nix must not collect
//!   .state/<slot>.json            a switch that has not ended: the model to go back to
//!   .state/<slot>.lock            held by the windlass that switches
//! ```
//!
//! A container has `<slot>/file` at a place of its own choice (`-v …/default/file:/models/model.gguf:ro`), or
//! `<slot>/tree` at a directory. Podman keeps the path as it was given, and the kernel follows the links anew whenever
//! the container starts (Podman 4.3 and 5.4), so that a restart is all it takes; the path must be absolute, because
//! Podman resolves links in one that begins with `./` when the container is made. Neither `:z` nor `:U` may be asked for:
//! they would change the files of the store.
//!
//! What a model's own tree cannot be bound from is a layer that Podman wrote, because Podman may remove it, and a linked store
//! if the model has several layers, because no tree of one is whole: then it is the directory that its files were taken from.
//! An image that Podman wrote can be mounted (`--mount type=image,source=localhost/windlass/<slot>:active,…`, see [`alias`]), which
//! Podman refuses for images of a linked store. So there is always one of the two.

pub(crate) mod model_files;
pub(crate) mod switch;
pub(crate) mod unit;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::model_files::FilesOfModel;
use self::unit::{ServiceError, SlotService};
use super::storage::records::RecordsError;
use crate::class::{Class, Classified};
use crate::disk::beneath::refused;
use crate::disk::files::write_file;
use crate::disk::own_folder::{MOST_NAMES, OwnFolder};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, WriteError, own_lock};
use crate::engine::generation::GenerationEntry;
use crate::engine::generations::{GenerationError, store_path};
use crate::image::json::parse_versioned;
use crate::image::layout::{LayoutError, VERSION};
use crate::names::{LOADED, no_such};
use crate::nix::store::{self, NixPlaces};
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::reference::Reference;
use crate::podman::storage::places::state_of;

/// The slot of a host that needs only one.
pub(crate) const DEFAULT_SLOT: &str = "default";

/// Why a model cannot be made the active one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Not the name of a slot.
    #[error("'{0}' is not a name for a slot: expected lower-case letters and digits, like 'chat' or 'embed-2'")]
    SlotName(String),
    /// The current generation has no such model.
    #[error("{}", no_such("model", .model, LOADED, .there))]
    Unknown {
        /// What was asked for.
        model: String,
        /// The names that there are.
        there: Vec<String>,
    },
    /// The model is recorded, and its files are gone.
    #[error("model {model} is not there any more: {why}; load its stack again")]
    Missing {
        model: String,
        /// What is missing.
        why: String,
    },
    /// The service would not see the change.
    #[error(
        "{service} uses nothing of slot '{slot}', so that a restart would change nothing: bind {path}/file or {path}/tree, \
         or mount the image {alias}",
        path = .path.display()
    )]
    NotUsed {
        /// The service.
        service: SlotService,
        /// The slot.
        slot: String,
        /// Where the slot is.
        path: PathBuf,
        /// The name of its image.
        alias: String,
    },
    /// The new model does not work, the former one does.
    #[error("{service} is not healthy with model {model}: {why}; it runs with {former} again")]
    WentBack {
        /// The service.
        service: SlotService,
        /// The model that it did not like.
        model: String,
        /// What was wrong.
        why: Box<ServiceError>,
        /// The model it has now.
        former: String,
    },
    /// The new model does not work, and there is no other to go back to.
    #[error(
        "{service} is not healthy with model {model}: {why}; the slot had no other model before, so it stays active: \
         correct the service, or use another model"
    )]
    NoWayBack {
        /// The service.
        service: SlotService,
        model: String,
        /// What was wrong.
        why: Box<ServiceError>,
    },
    /// Neither the new model works nor the former one.
    #[error(
        "{service} is not healthy with model {model}: {why}; the slot has {former} again, but with that it is not healthy \
         either: {also}; see its log"
    )]
    Broken {
        /// The service.
        service: SlotService,
        /// The model that was to be used.
        model: String,
        /// What was wrong.
        why: Box<ServiceError>,
        /// The model that is active now.
        former: String,
        /// What is wrong now.
        also: Box<ServiceError>,
    },
    /// The service cannot be looked at.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The generations.
    #[error(transparent)]
    Generations(#[from] GenerationError),
    /// A model's own image directory, or a record of ours.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Records of a store.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for ModelError {
    fn class(&self) -> Class {
        match self {
            Self::Service(error) => error.class(),
            Self::Generations(error) => error.class(),
            Self::Layout(error) => error.class(),
            Self::Records(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::SlotName(_) | Self::Unknown { .. } => Class::Usage,
            Self::Missing { .. }
            | Self::NotUsed { .. }
            | Self::WentBack { .. }
            | Self::NoWayBack { .. }
            | Self::Broken { .. } => Class::Failed,
        }
    }
}

/// The name by which the active model's image is mounted, while it is one that Podman wrote.
#[must_use]
pub(crate) fn alias(slot: &str) -> String {
    format!("localhost/windlass/{slot}:active")
}

/// A model that a slot has, or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldModel {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// Which model.
    #[serde(flatten)]
    pub(crate) entry: GenerationEntry,
    /// Where its files are.
    #[serde(flatten)]
    pub(crate) files: FilesOfModel,
}

/// A switch that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Switching {
    version: u32,
    /// The model that was active before.
    former: Option<Digest>,
}

/// A model that a slot needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// The slot.
    pub slot: String,
    /// The model, as its generation had it.
    pub entry: GenerationEntry,
    /// Whether it is only the one to go back to, while a switch has not ended.
    pub former: bool,
}

/// The models that the slots of a graph root need, whether a generation still has them or not: their images (by
/// [`GenerationEntry::manifest_digest`] and [`GenerationEntry::config_digest`]) and the name [`alias`] must not be removed. To be read, and
/// acted upon, under the lock of the [generations](crate::engine::generations::Generations::lock).
///
/// # Errors
/// If a record cannot be read; then it is not known what may be removed.
pub fn active(slots: &Slots) -> Result<Vec<Active>, ModelError> {
    let mut active = Vec::new();
    for slot in slots.names()? {
        let now = slots.active(&slot)?;
        let before = slots.former(&slot)?.filter(|before| now.as_ref().is_none_or(|now| now != before));
        let of = |former| {
            let slot = slot.clone();
            move |held: HeldModel| Active { slot, entry: held.entry, former }
        };
        active.extend(now.map(of(false)));
        active.extend(before.map(of(true)));
    }
    Ok(active)
}

/// The slots of one graph root.
#[derive(Debug, Clone)]
pub struct Slots {
    state: OwnFolder,
    /// What containers and messages call their folder.
    folder: PathBuf,
}

/// Their folder.
const MODELS: &str = "models";

/// The folder in it of what slots lead to.
const HELD: &str = ".held";

/// The folder in it of switches that have not ended.
const STATE: &str = ".state";

/// What is held.
const JSON: &str = "model.json";

impl Slots {
    /// The slots of the caller's own graph root; nothing is made.
    #[must_use]
    pub fn of(graph_root: &Path) -> Self {
        let folder = state_of(graph_root);
        Self { state: OwnFolder::own(&folder), folder: folder.join(MODELS) }
    }

    /// The slots of a graph root that may be another user's: they are only read.
    #[must_use]
    pub(crate) fn of_another(graph_root: &Path) -> Self {
        let folder = state_of(graph_root);
        Self { state: OwnFolder::of_another(&folder), folder: folder.join(MODELS) }
    }

    /// Their folder.
    #[must_use]
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a container binds something of.
    #[must_use]
    pub(crate) fn path(&self, slot: &str) -> PathBuf {
        self.folder.join(slot)
    }

    /// Checks the name of a slot; it is a part of an image's name too.
    ///
    /// # Errors
    /// If it is not a name for a slot.
    pub(crate) fn check(slot: &str) -> Result<(), ModelError> {
        match Reference::new(&format!("windlass/{slot}"), "active") {
            Ok(_) if !slot.contains('/') => Ok(()),
            _ => Err(ModelError::SlotName(slot.to_owned())),
        }
    }

    /// The slots that there are, those of switches that were killed included.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(crate) fn names(&self) -> Result<BTreeSet<String>, WriteError> {
        let mut names = BTreeSet::new();
        for (folder, suffix) in [(&[MODELS][..], ""), (&[MODELS, STATE], ".json")] {
            let Some(folder) = self.state.find(folder)? else { continue };
            for name in folder.few_names(MOST_NAMES)?.keys() {
                let name = name.to_str().and_then(|name| name.strip_suffix(suffix));
                names.extend(name.filter(|name| Self::check(name).is_ok()).map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// The model that is active in a slot.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub(crate) fn active(&self, slot: &str) -> Result<Option<HeldModel>, ModelError> {
        let Some(folder) = self.state.find(&[MODELS])? else { return Ok(None) };
        let Some(target) = folder.target(slot) else { return Ok(None) };
        match target.strip_prefix(HELD).ok().and_then(Path::to_str).filter(|name| !name.contains('/')) {
            Some(name) => self.held(name),
            None => Err(refused(&folder.at(slot), "it is not a link to a model that is held here").into()),
        }
    }

    /// Whether a switch has begun in a slot and not ended.
    #[must_use]
    pub(crate) fn is_switching(&self, slot: &str) -> bool {
        let state = self.state.find(&[MODELS, STATE]).ok().flatten();
        state.is_some_and(|state| state.look(format!("{slot}.json")).is_ok_and(|found| found.is_some()))
    }

    /// The model to go back to, of a switch that has not ended.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub(crate) fn former(&self, slot: &str) -> Result<Option<HeldModel>, ModelError> {
        let Some(state) = self.state.find(&[MODELS, STATE])? else { return Ok(None) };
        let name = format!("{slot}.json");
        let Some(json) = self.state.read(&state, &name)? else { return Ok(None) };
        let Switching { former, .. } = parse_versioned(&state.at(&name), &json)?;
        former.map_or(Ok(None), |former| self.held(&former.hex()))
    }

    /// Takes a slot for switching it, waiting for another windlass that does.
    pub(super) fn lock(&self, slot: &str, progress: &Progress) -> Result<File, WriteError> {
        own_lock::take(&self.state.make(&[MODELS, STATE])?, &format!("{slot}.lock"), progress)
    }

    /// Says that a switch begins.
    pub(super) fn begin(&self, slot: &str, former: Option<&HeldModel>, progress: &Progress) -> Result<(), WriteError> {
        let former = former.map(|held| held.entry.manifest_digest);
        let staging = Staging::file_in(&self.state.make(&[MODELS, STATE])?, &format!("{slot}.json"))?;
        write_file(staging.path(), &canonical::to_pretty(&Switching { version: VERSION, former }), progress)?;
        staging.publish()
    }

    /// Says that it has ended.
    pub(super) fn end(&self, slot: &str) -> Result<(), WriteError> {
        self.state.make(&[MODELS, STATE])?.remove(format!("{slot}.json"))
    }

    /// Whether a model is held as it is now.
    pub(super) fn holds(&self, held: &HeldModel) -> bool {
        let found = self.held(&held.entry.manifest_digest.hex());
        found.is_ok_and(|found| found.is_some_and(|found| found.files == held.files))
    }

    /// Makes what slots can lead to, with roots for all that it needs of the Nix store; what could not be made a root is
    /// given back as warnings. The image directory names what its layer is made of, so that Nix keeps that too.
    pub(super) fn hold(
        &self,
        held: &HeldModel,
        nix: &NixPlaces,
        progress: &Progress,
    ) -> Result<Vec<String>, WriteError> {
        let folder = self.folder_of(held.entry.manifest_digest);
        let FilesOfModel { file, tree } = &held.files;
        let needed = file.iter().chain(tree).chain([&held.entry.directory]);
        let roots: BTreeSet<_> = needed.filter_map(|path| store_path(&nix.store, path)).collect();
        if !self.holds(held) {
            let all = self.state.make(&[MODELS, HELD])?;
            let staging = Staging::directory_in(&all, &held.entry.manifest_digest.hex())?;
            let link = |name: &str, target: &Path| {
                let link = staging.path().join(name);
                symlink(target, &link).at("create", &link)
            };
            file.iter().try_for_each(|file| link("file", file))?;
            tree.iter().try_for_each(|tree| link("tree", tree))?;
            let folder = staging.path().join("roots");
            fs::create_dir(&folder).at("create", &folder)?;
            roots.iter().try_for_each(|(name, path)| link(&format!("roots/{name}"), path))?;
            write_file(&staging.path().join(JSON), &canonical::to_pretty(held), progress)?;
            staging.publish()?;
        }
        let root = |(name, path): &(String, PathBuf)| store::register(nix, &folder.join("roots").join(name), path);
        Ok(roots.iter().filter_map(|root_of| root(root_of).err()).map(|error| error.to_string()).collect())
    }

    /// Makes a held model the active one of a slot.
    pub(super) fn point(&self, slot: &str, held: &HeldModel) -> Result<(), WriteError> {
        let (all, state) = (self.state.make(&[MODELS])?, self.state.make(&[MODELS, STATE])?);
        let new = format!("{slot}.new");
        state.remove(&new)?;
        state.link_to(&Path::new(HELD).join(held.entry.manifest_digest.hex()), &new)?;
        state.rename(new.as_ref(), &all, slot.as_ref())?;
        all.sync()
    }

    /// Removes what no slot leads to any more.
    pub(super) fn sweep(&self) -> Result<(), ModelError> {
        let mut needed = BTreeSet::new();
        for slot in self.names()? {
            let both = [self.active(&slot)?, self.former(&slot)?];
            needed.extend(both.into_iter().flatten().map(|held| held.entry.manifest_digest.hex()));
        }
        let all = self.state.make(&[MODELS, HELD])?;
        for name in all.names()?.into_keys() {
            if name.to_str().is_none_or(|name| !needed.contains(name)) {
                all.remove(name)?;
            }
        }
        Ok(())
    }

    fn folder_of(&self, model: Digest) -> PathBuf {
        self.folder.join(HELD).join(model.hex())
    }

    /// A model that is held; `None` if it was removed meanwhile.
    fn held(&self, name: &str) -> Result<Option<HeldModel>, ModelError> {
        let Some(folder) = self.state.find(&[MODELS, HELD, name])? else { return Ok(None) };
        let Some(json) = self.state.read(&folder, JSON)? else { return Ok(None) };
        Ok(Some(parse_versioned(&folder.at(JSON), &json)?))
    }
}
