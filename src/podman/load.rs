//! Loading: for each image, is it there, can it be linked, or must Podman unpack it?
//!
//! 1. What is there is read from the records ([`survey`](super::survey)). If nothing is missing, nothing is written: no
//!    lock, no process, no file.
//! 2. What is missing gets a generation with garbage collector roots first, so that Nix cannot take away what is being
//!    loaded.
//! 3. Then it is linked ([`link`](super::link)) or handed to Podman ([`mod@pull`]).
//! 4. Names are put right, and Podman itself is asked for every image that was loaded.
//! 5. Only then is the generation the current one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::confirm::is_failure;
use super::decide::{DecideError, Host, How, Options, Reason, Step, Target, Via};
use super::engine::EngineError;
use super::generations::{Entry, GenerationError, Generations};
use super::link::{LinkError, link};
use super::pull::{self, PullError, pull};
use super::records::{Records, RecordsError, StoredImage};
use super::survey::{Presence, Survey};
use super::undo::Pending;
use super::usage::Others;
use crate::blobs::{WriteError, free_space};
use crate::image::LayerRecord;
use crate::nix_store;
use crate::progress::Progress;
use crate::vouching::vouched;

/// Why images are not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no way to load them.
    #[error("{0}")]
    Decide(#[from] DecideError),
    /// It would not fit; nothing was written.
    #[error("loading needs {needed} bytes in {place}, and {free} are free; free some: `windlass gc`")]
    NoSpace {
        /// Where.
        place: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Records of a store.
    #[error("{0}")]
    Records(#[from] RecordsError),
    /// The generations.
    #[error("{0}")]
    Generations(#[from] GenerationError),
    /// The linked store.
    #[error("{0}")]
    Link(#[source] Arc<LinkError>),
    /// Podman.
    #[error("{0}")]
    Pull(#[from] PullError),
    /// Podman, asked for what was loaded.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// A place that is written to.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// A generation that cannot be gone back to. Nothing was changed.
    #[error("generation {number} is no longer whole, and nothing was changed: {}", missing.join("; "))]
    NotWhole {
        /// Its number.
        number: u64,
        /// Image by image, what is missing.
        missing: Vec<String>,
    },
    /// Podman does not let go of what a container uses, and would prefer it to what is loaded.
    #[error(
        "{reference} cannot be loaded anew while container {container} uses it; remove that one first: \
         `podman rm --force {container}`"
    )]
    InUse {
        /// The image.
        reference: String,
        /// A container of it.
        container: String,
    },
    /// Podman does not have what was loaded.
    #[error(
        "{reference} was loaded and taken away again, because Podman {found}; see whether the podman on PATH is the real one, and `windlass doctor`"
    )]
    NotThere {
        /// The image.
        reference: String,
        /// What Podman has instead.
        found: String,
    },
}

/// What became of one image.
#[derive(Debug)]
pub struct Outcome {
    /// What was to be done.
    pub step: Step,
    /// Files that are links to the store.
    pub links: u64,
    /// Why it is not there.
    pub error: Option<LoadError>,
}

/// What a load did.
#[derive(Debug)]
pub struct Loaded {
    /// Image by image.
    pub outcomes: Vec<Outcome>,
    /// Bytes of layers that Podman wrote; windlass' own are counted by the progress.
    pub pulled: u64,
    /// The generation that is current now.
    pub generation: Option<u64>,
    /// Store paths that Nix may collect all the same.
    pub warnings: Vec<String>,
}

impl Host {
    /// Loads what is missing. One image that fails does not keep the others from being loaded.
    ///
    /// # Errors
    /// If nothing could be done at all; of a single image, see [`Outcome::error`].
    pub fn load(
        &self,
        targets: &[Target],
        options: Options,
        done: &mut dyn FnMut(&Outcome),
        progress: &Progress,
    ) -> Result<Loaded, LoadError> {
        // Podman may have ended by itself what a killed load had begun: then nothing else comes this way.
        pull::sweep(&self.places);
        let closed = match &self.linked {
            Some(store) => store.settle(&Others::default(), self.places.has_new_rules())?,
            None => None,
        };
        let mut loaded = self.load_settled(targets, options, done, progress)?;
        loaded.warnings.splice(0..0, closed);
        Ok(loaded)
    }

    fn load_settled(
        &self,
        targets: &[Target],
        options: Options,
        done: &mut dyn FnMut(&Outcome),
        progress: &Progress,
    ) -> Result<Loaded, LoadError> {
        let generations = Generations::of(&self.places.graph_root);
        let mut steps = self.plan(targets, options, progress)?;
        let current = generations.current()?;
        let merged = |steps: &[Step], current: Option<&_>| {
            Generations::merge(current, steps.iter().map(|step| step.entry.clone()).collect(), options.partial)
        };
        let nothing = |steps: &[Step]| steps.iter().all(|step| step.how == How::Present) && !self.has_unconfirmed();
        let leftovers = match &self.linked {
            Some(store) => !store.leftovers(progress)?.is_empty(),
            None => false,
        };
        if let Some(current) = current.as_ref().filter(|_| nothing(&steps) && !leftovers)
            && Generations::is_same(current, &merged(&steps, Some(current)))
        {
            let outcomes = steps.into_iter().map(|step| Outcome { step, links: 0, error: None }).collect();
            let loaded = Loaded { outcomes, pulled: 0, generation: Some(current.number), warnings: Vec::new() };
            loaded.outcomes.iter().for_each(&mut *done);
            return Ok(loaded);
        }

        let _lock = generations.lock(progress)?;
        let settled = self.settle(progress)?;
        // Somebody else may have loaded the same in the meantime.
        steps = self.plan(targets, options, progress)?;
        self.check_space(&steps)?;
        let current = generations.current()?;
        let entries = merged(&steps, current.as_ref());
        let last = match generations.numbers()?.last() {
            Some(number) => Some(generations.read(*number)?),
            None => None,
        };
        // A load that was killed, failed, or was gone back from, has left what is wanted now.
        let mut old = current.into_iter().chain(last).chain(generations.attempts()?);
        let generation = match old.find(|old| Generations::is_same(old, &entries)) {
            Some(generation) => generation,
            None => generations.add(&entries, &self.nix, progress)?,
        };
        let mut loaded = self.carry_out(targets, steps, generation.number, options, done, progress)?;
        loaded.warnings.splice(..0, settled);
        Ok(loaded)
    }

    /// Does what was planned, and makes this generation, which holds it, the current one. The generations are locked.
    pub(super) fn carry_out(
        &self,
        targets: &[Target],
        steps: Vec<Step>,
        generation: u64,
        options: Options,
        done: &mut dyn FnMut(&Outcome),
        progress: &Progress,
    ) -> Result<Loaded, LoadError> {
        let generations = Generations::of(&self.places.graph_root);
        if let Some(store) = &self.linked {
            // Before anything of it is there, so that no clean-up of somebody else's takes it away.
            store.note_user(generations.folder())?;
        }
        let mut warnings = Vec::new();
        for (link, path) in generations.roots(generation)? {
            warnings.extend(nix_store::register(&self.nix, &link, &path).err().map(|error| error.to_string()));
        }
        generations.forget_attempts(generation)?;
        let mut outcomes: Vec<Outcome> =
            steps.into_iter().map(|step| Outcome { step, links: 0, error: None }).collect();
        let pulled = self.bring(targets, &mut outcomes, options, done, &mut warnings, progress);
        // Not before: of what no record names, linking keeps what it needs, and a container may be running on it.
        if let Err(error) = self.sweep(progress) {
            warnings.push(format!("what a killed run has left cannot be removed: {error}"));
        }
        let pulled = pulled?;
        outcomes.iter().filter(|outcome| outcome.step.how != How::Pull || outcome.error.is_some()).for_each(&mut *done);
        let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
        let generation = if failed {
            generations.current()?.map(|current| current.number)
        } else {
            generations.confirm(generation, progress)?;
            Some(generation)
        };
        Ok(Loaded { outcomes, pulled, generation, warnings })
    }

    /// Loads, names and checks, and takes away again what Podman does not confirm; bytes of layers that Podman wrote. What
    /// a stop leaves unconfirmed is settled by the next run.
    fn bring(
        &self,
        targets: &[Target],
        outcomes: &mut [Outcome],
        options: Options,
        done: &mut dyn FnMut(&Outcome),
        warnings: &mut Vec<String>,
        progress: &Progress,
    ) -> Result<u64, LoadError> {
        let given = self.clear_damaged(outcomes, progress)?;
        let pending = self.note_pending(targets, outcomes, progress)?;
        let brought = self.bring_noted(targets, outcomes, (options, given, &pending), done, warnings, progress);
        let failed = outcomes.iter().filter(|outcome| brought.is_err() || outcome.error.is_some());
        let failed: BTreeSet<String> = failed.map(|outcome| outcome.step.entry.config_digest.hex()).collect();
        let is_stopped = progress.check().is_err();
        if !is_stopped {
            self.take_away(&pending, &failed, progress)?;
            if !failed.is_empty() {
                self.prune(progress)?;
            }
            self.forget_pending()?;
        }
        brought
    }

    /// The same, with a note of what was there before.
    fn bring_noted(
        &self,
        targets: &[Target],
        outcomes: &mut [Outcome],
        (options, given, pending): (Options, Vec<Vec<String>>, &Pending),
        done: &mut dyn FnMut(&Outcome),
        warnings: &mut Vec<String>,
        progress: &Progress,
    ) -> Result<u64, LoadError> {
        self.link(targets, outcomes, options, progress)?;
        // What is linked first: Podman may not be able to take another image while it cannot read one of these.
        self.finish(targets, outcomes, &|how| how != How::Pull, (&given, pending), progress)?;
        let pulled = self.pull(targets, outcomes, (options, pending), done, warnings, progress)?;
        self.finish(targets, outcomes, &|how| how == How::Pull, (&given, pending), progress)?;
        Ok(pulled)
    }

    /// Removes from the linked store what killed runs have left, and what this one could not use.
    fn sweep(&self, progress: &Progress) -> Result<(), RecordsError> {
        match &self.linked {
            Some(store) if !store.leftovers(progress)?.is_empty() => store.change(progress)?.sweep(progress).map(drop),
            _ => Ok(()),
        }
    }

    /// Refuses before anything is written what cannot fit.
    pub(super) fn check_space(&self, steps: &[Step]) -> Result<(), LoadError> {
        for how in [How::Link, How::Pull] {
            let steps: Vec<&Step> = steps.iter().filter(|step| step.how == how).collect();
            let Some(first) = steps.first() else { continue };
            let sizes = || steps.iter().map(|step| step.to_write);
            let place = first.store.clone();
            let existing = place.ancestors().find(|path| path.exists()).unwrap_or(&place);
            // While an image is pulled, its blobs and the program's copies of them lie beside its layers.
            let copies = match how {
                How::Pull if pull::shares(existing) => 1,
                How::Pull => 2,
                _ => 0,
            };
            let needed = sizes().sum::<u64>() + copies * sizes().max().unwrap_or(0);
            let free = free_space(existing)?;
            if needed > free {
                return Err(LoadError::NoSpace { place, needed, free });
            }
        }
        Ok(())
    }

    /// Takes damaged records out of the graph root: Podman would prefer them to what is loaded now, and to load the same
    /// over them mends nothing (Podman 4.3 and 5.4). Outcome by outcome, the names that the image had besides, and is to
    /// have again.
    fn clear_damaged(&self, outcomes: &mut [Outcome], progress: &Progress) -> Result<Vec<Vec<String>>, LoadError> {
        let mut given = vec![Vec::new(); outcomes.len()];
        let clears = |step: &Step| matches!(step.reason, Reason::Damaged(_) | Reason::Forced);
        if !outcomes.iter().any(|outcome| clears(&outcome.step)) {
            return Ok(given);
        }
        let survey = Survey::read(&self.places, progress)?;
        let Some(own) = survey.stores.first() else { return Ok(given) };
        for (outcome, given) in outcomes.iter_mut().zip(&mut given).filter(|(outcome, _)| clears(&outcome.step)) {
            let (id, ours) = (outcome.step.entry.config_digest.hex(), outcome.step.entry.names());
            // What `podman tag` has written over layers of the linked store is as good as they are.
            let stays = |image: &StoredImage| outcome.step.how == How::Link && !own.layers.contains_key(&image.layer);
            let Some(image) = own.images.iter().find(|image| image.id == id).filter(|image| !stays(image)) else {
                continue;
            };
            // Podman would take away all names but the last before it refuses.
            if let Some(container) = own.containers.iter().find(|container| container.image == id) {
                let container = container.names.first().unwrap_or(&container.id).clone();
                outcome.error =
                    Some(LoadError::InUse { reference: outcome.step.entry.reference.to_string(), container });
                continue;
            }
            let is_tag = |name: &&String| !ours.contains(*name) && !name.contains('@');
            given.extend(image.names.iter().filter(is_tag).cloned());
            let removed = image.names.iter().try_for_each(|name| self.engine.remove_image(name, progress));
            outcome.error = removed.err().map(LoadError::from);
        }
        Ok(given)
    }

    fn link(
        &self,
        targets: &[Target],
        outcomes: &mut [Outcome],
        options: Options,
        progress: &Progress,
    ) -> Result<(), LoadError> {
        let Some(store) = &self.linked else { return Ok(()) };
        let mut images = Vec::new();
        let mut linked = Vec::new();
        for (target, outcome) in targets.iter().zip(outcomes) {
            if outcome.step.how == How::Link && outcome.error.is_none() {
                images.push((&target.image, target.platform()?));
                linked.push(outcome);
            }
        }
        if images.is_empty() {
            return Ok(());
        }
        progress.expect(linked.iter().map(|outcome| outcome.step.entry.size).sum());
        let vouched = vouched(&self.nix, images.iter().map(|(image, _)| *image));
        let results = link(store, &images, &vouched, options.force, progress);
        let results = results.map_err(|error| LoadError::Link(Arc::new(error)))?;
        for (outcome, result) in linked.into_iter().zip(results) {
            match result {
                Ok(linked) => outcome.links = linked.linked,
                Err(error) => outcome.error = Some(LoadError::Link(error)),
            }
        }
        Ok(())
    }

    fn pull(
        &self,
        targets: &[Target],
        outcomes: &mut [Outcome],
        (options, pending): (Options, &Pending),
        done: &mut dyn FnMut(&Outcome),
        warnings: &mut Vec<String>,
        progress: &Progress,
    ) -> Result<u64, LoadError> {
        let mut bytes = 0;
        for (target, outcome) in targets.iter().zip(outcomes) {
            // What cannot be linked at all (a layer without a recipe, files of other owners) Podman can still unpack.
            if options.via == Via::Auto
                && let Some(error) = outcome.error.take_if(|error| error.is_unlinkable())
            {
                warnings
                    .push(format!("{} is pulled, because it cannot be linked: {error}", outcome.step.entry.reference));
                outcome.step.how = How::Pull;
                outcome.step.store.clone_from(&self.places.graph_root);
            }
            if outcome.step.how != How::Pull || outcome.error.is_some() {
                continue;
            }
            let (present, platform) = (Survey::read(&self.places, progress)?.own_diff_ids(), target.platform()?);
            let missing = platform.layers.iter().filter(|layer| !present.contains(&layer.diff_id()));
            outcome.step.to_write = missing.map(LayerRecord::diff_size).sum();
            match pull(&self.engine, &self.places, &target.image, platform, &present, progress) {
                Ok(pulled) => bytes += pulled.bytes,
                Err(error) => {
                    let id = outcome.step.entry.config_digest.hex();
                    let own = Records::read(&self.places.graph_root, &self.places.driver, progress)?;
                    let is_there = own.images.iter().any(|image| image.id == id);
                    outcome.error = Some(match error {
                        PullError::Engine(error) if is_there && is_failure(&error) => LoadError::NotThere {
                            reference: outcome.step.entry.reference.to_string(),
                            found: format!("cannot read it: {error}"),
                        },
                        error => error.into(),
                    });
                    // It may be what keeps Podman from taking the next one.
                    self.take_away(pending, &[id].into(), progress)?;
                }
            }
            progress.check().map_err(|source| stopped(&self.places.graph_root, source))?;
            if outcome.error.is_none() {
                done(outcome);
            }
        }
        Ok(bytes)
    }

    /// Makes names lead to the images that were asked for.
    pub(super) fn put_names_right(
        &self,
        targets: &[Target],
        outcomes: &mut [Outcome],
        progress: &Progress,
    ) -> Result<(), LoadError> {
        let survey = Survey::read(&self.places, progress)?;
        for (target, outcome) in targets.iter().zip(outcomes) {
            let (summary, platform) = (target.image.summary(), target.platform()?);
            let Presence::Present { store, named: false } = survey.presence(summary, platform) else { continue };
            if outcome.error.is_some() {
                continue;
            }
            outcome.error = self.name(&survey, &outcome.step.entry, &store, progress).err();
        }
        Ok(())
    }

    /// Makes the names of an image that is in this store lead to it.
    pub(super) fn name(
        &self,
        survey: &Survey,
        entry: &Entry,
        store: &Path,
        progress: &Progress,
    ) -> Result<(), LoadError> {
        let (id, reference) = (entry.config_digest.hex(), &entry.reference);
        let Some(linked) = self.linked.as_ref().filter(|linked| linked.path() == store) else {
            return Ok(self.engine.tag(&id, reference, progress)?);
        };
        linked.change(progress)?.name(&id, &entry.names(), progress)?;
        // Podman looks into the graph root first.
        let (other, own) = match survey.called(reference) {
            Some((records, image)) => (&image.id, records.store == self.places.graph_root),
            None => return Ok(()),
        };
        if own && *other != id { Ok(self.engine.untag(other, reference, progress)?) } else { Ok(()) }
    }
}

impl LoadError {
    /// Whether the image can only be loaded through Podman.
    fn is_unlinkable(&self) -> bool {
        use super::tree::TreeError;
        use super::unpack::UnpackError;
        let Self::Link(error) = self else { return false };
        match &**error {
            LinkError::NoRecipe { .. } => true,
            LinkError::Tree { source, .. } => matches!(**source, TreeError::Owner { .. } | TreeError::SetId { .. }),
            LinkError::Unpack { source, .. } => {
                matches!(**source, UnpackError::OnlyRoot { .. } | UnpackError::Twice { .. })
            }
            _ => false,
        }
    }
}

fn stopped(path: &Path, source: std::io::Error) -> WriteError {
    WriteError { action: "load into", path: path.to_owned(), source }
}
