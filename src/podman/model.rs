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

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::generations::{Entry, GenerationError, Generations, store_path};
use super::lock;
use super::records::RecordsError;
use super::service::{Service, ServiceError};
use super::weights::Files;
use crate::beneath::Dir;
use crate::blobs::{At, Staging, WriteError, write_file};
use crate::canonical;
use crate::digest::Digest;
use crate::layout::{LayoutError, VERSION, read_versioned};
use crate::nix_store::{self, NixPlaces};
use crate::progress::Progress;
use crate::reference::Reference;

/// The slot of a host that needs only one.
pub const DEFAULT_SLOT: &str = "default";

/// Why a model cannot be made the active one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Not the name of a slot.
    #[error("'{0}' is not a name for a slot: expected lower-case letters and digits, like 'chat' or 'embed-2'")]
    SlotName(String),
    /// The current generation has no such model.
    #[error("there is no model '{model}' among what is loaded; there are: {}", list(.there))]
    Unknown {
        /// What was asked for.
        model: String,
        /// The names that there are.
        there: Vec<String>,
    },
    /// The model is recorded, and its files are gone.
    #[error("model {model} is not there any more: {why}; load its stack again")]
    Missing {
        /// The model.
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
        service: Service,
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
        service: Service,
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
        service: Service,
        /// The model.
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
        service: Service,
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
    #[error("{0}")]
    Service(#[from] ServiceError),
    /// The generations.
    #[error("{0}")]
    Generations(#[from] GenerationError),
    /// A model's own image directory, or a record of ours.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// Records of a store.
    #[error("{0}")]
    Records(#[from] RecordsError),
    /// A place that is written to.
    #[error("{0}")]
    Write(#[from] WriteError),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The name by which the active model's image is mounted, while it is one that Podman wrote.
#[must_use]
pub fn alias(slot: &str) -> String {
    format!("localhost/windlass/{slot}:active")
}

/// A model that a slot has, or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// [`VERSION`].
    pub version: u32,
    /// Which model.
    #[serde(flatten)]
    pub entry: Entry,
    /// Where its files are.
    #[serde(flatten)]
    pub files: Files,
}

/// A switch that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    pub entry: Entry,
    /// Whether it is only the one to go back to, while a switch has not ended.
    pub former: bool,
}

/// The models that the slots of a graph root need, whether a generation still has them or not: their images (by
/// [`Entry::manifest_digest`] and [`Entry::config_digest`]) and the name [`alias`] must not be removed. To be read, and
/// acted upon, under the lock of the [generations](Generations::lock).
///
/// # Errors
/// If a record cannot be read; then nobody knows what may be removed.
pub fn active(graph_root: &Path) -> Result<Vec<Active>, ModelError> {
    let slots = Slots::of(graph_root);
    let mut active = Vec::new();
    for slot in slots.names()? {
        let now = slots.active(&slot)?;
        let before = slots.former(&slot)?.filter(|before| now.as_ref().is_none_or(|now| now != before));
        let of = |former| {
            let slot = slot.clone();
            move |held: Held| Active { slot, entry: held.entry, former }
        };
        active.extend(now.map(of(false)));
        active.extend(before.map(of(true)));
    }
    Ok(active)
}

/// The slots of one graph root.
#[derive(Debug, Clone)]
pub struct Slots {
    folder: PathBuf,
}

impl Slots {
    /// Of this graph root; nothing is made.
    #[must_use]
    pub fn of(graph_root: &Path) -> Self {
        Self { folder: Generations::of(graph_root).folder().join("models") }
    }

    /// Their folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a container binds something of.
    #[must_use]
    pub fn path(&self, slot: &str) -> PathBuf {
        self.folder.join(slot)
    }

    /// Checks the name of a slot; it is a part of an image's name too.
    ///
    /// # Errors
    /// If it is none.
    pub fn check(slot: &str) -> Result<(), ModelError> {
        match Reference::new(&format!("windlass/{slot}"), "active") {
            Ok(_) if !slot.contains('/') => Ok(()),
            _ => Err(ModelError::SlotName(slot.to_owned())),
        }
    }

    /// The slots that there are, those of switches that were killed included.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn names(&self) -> Result<BTreeSet<String>, WriteError> {
        let mut names = BTreeSet::new();
        let mut add = |folder: &Path, suffix: &str| {
            let entries = match fs::read_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries.at("read", folder)?,
            };
            for entry in entries {
                let name = entry.at("read", folder)?.file_name();
                let name = name.to_str().and_then(|name| name.strip_suffix(suffix));
                names.extend(name.filter(|name| Self::check(name).is_ok()).map(str::to_owned));
            }
            Ok(())
        };
        add(&self.folder, "")?;
        add(&self.folder.join(".state"), ".json")?;
        Ok(names)
    }

    /// The model that is active in a slot.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub fn active(&self, slot: &str) -> Result<Option<Held>, ModelError> {
        let link = self.path(slot);
        match fs::read_link(&link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            target => read(&self.folder.join(target.at("read", &link)?)),
        }
    }

    /// Whether a switch has begun in a slot and not ended.
    #[must_use]
    pub fn is_switching(&self, slot: &str) -> bool {
        self.state(slot, "json").is_file()
    }

    /// The model to go back to, of a switch that has not ended.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn former(&self, slot: &str) -> Result<Option<Held>, ModelError> {
        if !self.is_switching(slot) {
            return Ok(None);
        }
        let Switching { former, .. } = read_versioned(&self.state(slot, "json"))?;
        former.map_or(Ok(None), |former| read(&self.folder_of(former)))
    }

    /// Takes a slot for switching it, waiting for another windlass that does.
    pub(super) fn lock(&self, slot: &str, progress: &Progress) -> Result<File, WriteError> {
        let folder = self.folder.join(".state");
        fs::create_dir_all(&folder).at("create", &folder)?;
        lock::file(&self.state(slot, "lock"), progress)
    }

    /// Says that a switch begins.
    pub(super) fn begin(&self, slot: &str, former: Option<&Held>, progress: &Progress) -> Result<(), WriteError> {
        let former = former.map(|held| held.entry.manifest_digest);
        let staging = Staging::file(&self.state(slot, "json"))?;
        write_file(staging.path(), &canonical::to_pretty(&Switching { version: VERSION, former }), progress)?;
        staging.publish()
    }

    /// Says that it has ended.
    pub(super) fn end(&self, slot: &str) -> Result<(), WriteError> {
        let path = self.state(slot, "json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.at("remove", &path),
        }
    }

    /// Whether a model is held as it is now.
    pub(super) fn holds(&self, held: &Held) -> bool {
        let found = read_versioned::<Held>(&self.folder_of(held.entry.manifest_digest).join("model.json"));
        found.is_ok_and(|found| found.files == held.files)
    }

    /// Makes what slots can lead to, with roots for all that it needs of the Nix store; what could not be made a root is
    /// given back as warnings. The image directory names what its layer is made of, so that Nix keeps that too.
    pub(super) fn hold(&self, held: &Held, nix: &NixPlaces, progress: &Progress) -> Result<Vec<String>, WriteError> {
        let folder = self.folder_of(held.entry.manifest_digest);
        let Files { file, tree } = &held.files;
        let needed = file.iter().chain(tree).chain([&held.entry.directory]);
        let roots: BTreeSet<_> = needed.filter_map(|path| store_path(&nix.store, path)).collect();
        if !self.holds(held) {
            let parent = self.folder.join(".held");
            fs::create_dir_all(&parent).at("create", &parent)?;
            let staging = Staging::directory(&folder)?;
            let link = |name: &str, target: &Path| {
                let link = staging.path().join(name);
                symlink(target, &link).at("create", &link)
            };
            file.iter().try_for_each(|file| link("file", file))?;
            tree.iter().try_for_each(|tree| link("tree", tree))?;
            let folder = staging.path().join("roots");
            fs::create_dir(&folder).at("create", &folder)?;
            roots.iter().try_for_each(|(name, path)| link(&format!("roots/{name}"), path))?;
            write_file(&staging.path().join("model.json"), &canonical::to_pretty(held), progress)?;
            staging.publish()?;
        }
        let root = |(name, path): &(String, PathBuf)| nix_store::register(nix, &folder.join("roots").join(name), path);
        Ok(roots.iter().filter_map(|root_of| root(root_of).err()).map(|error| error.to_string()).collect())
    }

    /// Makes a held model the active one of a slot.
    pub(super) fn point(&self, slot: &str, held: &Held) -> Result<(), WriteError> {
        let (link, new) = (self.path(slot), self.state(slot, "new"));
        drop(fs::remove_file(&new));
        symlink(Path::new(".held").join(held.entry.manifest_digest.hex()), &new).at("create", &new)?;
        fs::rename(&new, &link).at("replace", &link)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).at("sync", &self.folder)
    }

    /// Removes what no slot leads to any more.
    pub(super) fn sweep(&self) -> Result<(), ModelError> {
        let mut needed = BTreeSet::new();
        for slot in self.names()? {
            let both = [self.active(&slot)?, self.former(&slot)?];
            needed.extend(both.into_iter().flatten().map(|held| held.entry.manifest_digest.hex()));
        }
        let folder = self.folder.join(".held");
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let entry = entry.at("read", &folder)?;
            if entry.file_name().to_str().is_none_or(|name| !needed.contains(name)) {
                Dir::open(&folder)?.remove(entry.file_name())?;
            }
        }
        Ok(())
    }

    fn folder_of(&self, model: Digest) -> PathBuf {
        self.folder.join(".held").join(model.hex())
    }

    fn state(&self, slot: &str, what: &str) -> PathBuf {
        self.folder.join(".state").join(format!("{slot}.{what}"))
    }
}

/// The model in a folder of `.held`; none if somebody has removed it.
fn read(folder: &Path) -> Result<Option<Held>, ModelError> {
    match read_versioned(&folder.join("model.json")) {
        Err(LayoutError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        held => Ok(Some(held?)),
    }
}
