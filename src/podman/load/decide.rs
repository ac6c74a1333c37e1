//! Which Podman is loaded into, and which way: what its records say of each image, can it be linked, or must Podman unpack it?
//!
//! Records are read, and of what is missing names and sizes: no process is started and no byte of a layer is read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::LoadError;
use super::pull::{SkopeoCopies, can_spare_copies};
use super::sizes::{MeasuredSizes, Ways};
use crate::disk::progress::Progress;
use crate::engine::kind::EngineKind;
use crate::engine::target::{
    DecideError, LoadMethod, LoadOptions, LoadTarget, LoadVia, LoadWay, Presence, TargetState,
};
use crate::nix::store::NixPlaces;
use crate::podman::linked::{DEFAULT, DRIVER, LinkedStore, image_store};
use crate::podman::storage::engine::StorageEngine;
use crate::podman::storage::places::Places;
use crate::podman::storage::snapshot::StoreSnapshot;

/// A Podman to load into.
#[derive(Debug)]
pub(crate) struct PodmanHost {
    /// Where it keeps its things.
    pub(crate) places: Places,
    /// How it is called.
    pub(crate) engine: StorageEngine,
    /// The linked store, where the host is set up for it.
    pub(crate) linked: Option<LinkedStore>,
    /// Where Nix keeps its things.
    pub(crate) nix: NixPlaces,
    /// What was measured of layers.
    pub(crate) sizes: MeasuredSizes,
}

impl PodmanHost {
    /// The linked store of a Podman: the first of its additional image stores that is ours and can be written to, or the
    /// one at `given`, if Podman reads that.
    #[must_use]
    pub(crate) fn find_linked(places: &Places, given: Option<&Path>) -> Option<LinkedStore> {
        if places.driver != DRIVER {
            return None;
        }
        let canonical = |path: &Path| std::fs::canonicalize(path).ok();
        let wanted = |path: &&PathBuf| {
            given.is_none_or(|given| canonical(given).is_some_and(|given| canonical(path) == Some(given)))
        };
        places.image_stores.iter().filter(wanted).find_map(|path| LinkedStore::open(path))
    }

    /// What is there of these, and how the rest would be loaded. Reads records, and nothing else.
    pub(super) fn look_at(
        &self,
        targets: &[LoadTarget],
        options: LoadOptions,
        progress: &Progress,
    ) -> Result<Vec<TargetState>, LoadError> {
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let linked = match options.via {
            LoadVia::Podman => None,
            LoadVia::Auto if self.pulls() => self.linked.as_ref(),
            LoadVia::Auto | LoadVia::Store => Some(self.linked.as_ref().ok_or_else(|| self.not_ready())?),
        };
        let presence = |target: &LoadTarget| Ok(snapshot.presence(target.image.summary(), target.platform()?));
        let there: Vec<Presence> = targets.iter().map(presence).collect::<Result<_, DecideError>>()?;
        let is_wanted = |presence: &Presence| is_wanted(presence, options);
        let mut going = BTreeSet::new();
        for (target, presence) in targets.iter().zip(&there) {
            if is_wanted(presence) && *presence != Presence::Missing {
                going.insert(target.platform()?.config_digest.hex());
            }
        }
        let look_at = |copies| self.ways_of(targets, &there, (&snapshot, linked), (options, copies), &going);
        let kept = look_at(SkopeoCopies::Kept)?;
        let can_spare = || self.engine.podman("spare copies").is_ok_and(|podman| can_spare_copies(podman, progress));
        // Where nothing is pulled, nothing is asked.
        let pulls = kept.iter().any(|TargetState { way, .. }| way.how == LoadMethod::Pull && way.peak > 0);
        if pulls && !Self::fits(&kept) && can_spare() { look_at(SkopeoCopies::Spared) } else { Ok(kept) }
    }

    /// How those of these that are wanted would be put there.
    fn ways_of(
        &self,
        targets: &[LoadTarget],
        there: &[Presence],
        (snapshot, linked): (&StoreSnapshot, Option<&LinkedStore>),
        (options, copies): (LoadOptions, SkopeoCopies),
        going: &BTreeSet<String>,
    ) -> Result<Vec<TargetState>, LoadError> {
        let mut ways = Ways::new(self, snapshot, linked.map(LinkedStore::path), (options, copies), going.clone());
        let look = |(target, presence): (&LoadTarget, Presence)| {
            let (image, platform) = (&target.image, target.platform()?);
            let way = match ways.as_mut().filter(|_| is_wanted(&presence, options)) {
                Some(ways) => match ways.link(image, platform) {
                    Some(Ok(way)) => way,
                    // What cannot be linked at all, Podman can still unpack.
                    Some(Err(why)) if options.via == LoadVia::Auto && self.pulls() => {
                        ways.pull(image, platform, Some(why))
                    }
                    Some(Err(_)) => LoadWay::new(
                        LoadMethod::Link,
                        linked.map_or(self.places.graph_root.as_path(), LinkedStore::path).to_owned(),
                        0,
                    ),
                    None => ways.pull(image, platform, None),
                },
                None => match linked {
                    Some(store) => LoadWay::new(LoadMethod::Link, store.path().to_owned(), 0),
                    None => LoadWay::new(LoadMethod::Pull, self.places.graph_root.clone(), 0),
                },
            };
            Ok(TargetState { presence, way })
        };
        targets.iter().zip(there.iter().cloned()).map(look).collect()
    }

    /// Whether the engine takes images in another way than by links: CRI-O pulls from registries alone.
    pub(super) fn pulls(&self) -> bool {
        self.engine.kind() == EngineKind::Podman
    }

    /// Whether layers without an image stay: where images lie apart from containers, neither place has all the records, and CRI-O has
    /// no verb that takes layers away.
    pub(crate) fn leaves_half_layers(&self) -> bool {
        self.places.separate_store.is_some() || !self.pulls()
    }

    fn not_ready(&self) -> DecideError {
        let refused = self.places.image_stores.iter().filter(|store| LinkedStore::is_at(store));
        let refused = refused.filter_map(|store| image_store::claim(store).err()).next();
        let engine = self.engine.kind();
        let named = if let Some(error) = refused.filter(|_| self.places.driver == DRIVER) {
            error.to_string()
        } else if self.places.driver == DRIVER {
            format!("{engine} reads no additional image store of windlass that this user can write to")
        } else {
            format!("the storage driver is '{}', and only overlay can have one", self.places.driver)
        };
        let next = match engine {
            EngineKind::Crio => format!(
                "`windlass doctor --fix --storage-dir {DEFAULT}` makes one; then write \"[crio]\" and \
                 \"storage_option = ['overlay.imagestore={DEFAULT}']\" into /etc/crio/crio.conf.d/50-windlass.conf, and restart CRI-O"
            ),
            _ => "`windlass doctor` says what to do".to_owned(),
        };
        DecideError::NotReady(format!("there is no linked store: {named}; {next}"))
    }
}

/// Whether an image is loaded, of which this is there.
const fn is_wanted(presence: &Presence, options: LoadOptions) -> bool {
    options.force || !matches!(presence, Presence::Present { .. })
}
