//! Letting go of images that are loaded: a generation without them becomes the current one, and Podman's copies go at once.
//!
//! What a container uses is refused by name, and nothing is changed then. Older generations still name what was unloaded, so a
//! rollback loads it again, as long as a clean-up has not removed them too.

use std::collections::BTreeSet;

use super::gc::{GarbageClass, GcError, GcPlan, GcRequest, Removal, Removed, Thing};
use super::gc_plan::Planner;
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::engine::generations::GenerationError;
use crate::engine::keep::{Choice, replace_current};
use crate::podman::load::decide::PodmanHost;
use crate::podman::storage::others::OtherUsers;

/// Why nothing was unloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UnloadError {
    /// Some of them are used.
    #[error("{}; nothing was changed", .0.join("; "))]
    InUse(Vec<String>),
    /// What is there, and who uses it, cannot be read, or something cannot be removed.
    #[error(transparent)]
    Gc(#[from] GcError),
    /// The generations.
    #[error(transparent)]
    Generations(#[from] GenerationError),
}

impl Classified for UnloadError {
    fn class(&self) -> Class {
        match self {
            Self::InUse(_) => Class::Failed,
            Self::Gc(error) => error.class(),
            Self::Generations(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Gc(error) => error.hint(),
            _ => None,
        }
    }
}

/// What was unloaded, or would be.
#[derive(Debug)]
pub(crate) struct Unloaded {
    /// What goes from Podman's stores, and why that did not work.
    pub(crate) removed: Vec<Removed>,
    /// What stays there, and why.
    pub(crate) plan: GcPlan,
    /// The generation that is current now; `None` if nothing was changed.
    pub(crate) generation: Option<u64>,
}

impl PodmanHost {
    /// Lets go of images. With `apply` unset, only says what would go.
    ///
    /// # Errors
    /// See [`UnloadError`].
    pub(crate) fn unload(&self, choice: &Choice, apply: bool, progress: &Progress) -> Result<Unloaded, UnloadError> {
        let held = self.hold(progress)?;
        let ids: BTreeSet<String> = choice.going.iter().map(|entry| entry.config_digest.hex()).collect();
        let classes = BTreeSet::from([GarbageClass::Images]);
        let request = GcRequest { classes, keep: usize::MAX, watermarks: None, others: OtherUsers::default() };
        let mut planner = Planner::new(self, &request, progress)?;
        let (plan, used) = planner.unload(&ids);
        if !used.is_empty() {
            return Err(UnloadError::InUse(used));
        }
        let mut removed: Vec<Removed> =
            plan.remove.iter().map(|removal| Removed { removal: removal.clone(), error: None }).collect();
        if !apply {
            return Ok(Unloaded { removed, plan, generation: None });
        }
        for Removed { removal, error } in &mut removed {
            *error = self.remove(removal, &[], &held, progress).err();
        }
        let is_linked = |removal: &Removal| matches!(removal.thing, Thing::Linked(_));
        if let Some(change) = &held.change {
            let linked = plan.remove.iter().filter_map(|removal| match &removal.thing {
                Thing::Linked(id) => Some(id.clone()),
                _ => None,
            });
            if plan.remove.iter().any(is_linked) {
                change.remove_images(&linked.collect(), progress).map_err(GcError::from)?;
            }
        }
        if let Some(error) = removed.iter_mut().find_map(|removed| removed.error.take()) {
            return Err(error.into());
        }
        let generation = replace_current(&self.generations(), &choice.staying, &self.nix, progress)?;
        Ok(Unloaded { removed, plan, generation: Some(generation) })
    }
}
