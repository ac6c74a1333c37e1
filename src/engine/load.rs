//! Loading, for any engine: what is missing is held by a generation, put there, confirmed, and only then current.
//!
//! 1. What is there is read from the records, once. If nothing is missing, nothing is written: no lock, no process, no file.
//! 2. What is missing gets an attempt with garbage collector roots first, so that Nix cannot take away what is being loaded.
//! 3. It is noted, put there, named, and asked for. What the engine does not confirm is taken away again.
//! 4. Only then is the attempt a generation, and the current one.

use std::collections::BTreeSet;

use super::Engine;
use super::generation::Generation;
use super::generations::Generations;
use super::target::{CopiedBytes, LoadMethod, LoadOptions, LoadStep, LoadTarget, plan};
use crate::disk::progress::Progress;
use crate::nix::store;

/// What became of one image.
#[derive(Debug)]
pub struct ImageOutcome<Error> {
    /// What was to be done.
    pub step: LoadStep,
    /// Files that are links to the store.
    pub(crate) links: u64,
    /// Bytes of these.
    pub(crate) linked: u64,
    /// Bytes that were copied instead, by why.
    pub(crate) copies: CopiedBytes,
    /// Why it is not there.
    pub error: Option<Error>,
}

/// What a load did.
#[derive(Debug)]
pub struct LoadResult<Error> {
    /// Image by image.
    pub outcomes: Vec<ImageOutcome<Error>>,
    /// Bytes of layers that the engine wrote; windlass' own are counted by the progress.
    pub(crate) pulled: u64,
    /// The generation that is current now.
    pub generation: Option<u64>,
    /// Store paths that Nix may collect all the same, and what else did not work and is not a failure.
    pub warnings: Vec<String>,
}

/// A load at work.
#[expect(missing_debug_implementations, reason = "`done` is a closure")]
pub struct Loading<'a, E: Engine> {
    /// The images.
    pub targets: &'a [LoadTarget],
    /// What becomes of each.
    pub outcomes: Vec<ImageOutcome<E::Error>>,
    /// What was asked for.
    pub(crate) options: LoadOptions,
    /// What did not work and is not a failure.
    pub(crate) warnings: Vec<String>,
    /// Is told of each image when it is there, or is known not to be.
    pub done: &'a mut dyn FnMut(&ImageOutcome<E::Error>),
    /// Counts, and stops the work.
    pub progress: &'a Progress,
}

impl<'a, E: Engine> Loading<'a, E> {
    /// A load with these steps, one for each target.
    pub(crate) fn new(
        targets: &'a [LoadTarget],
        steps: Vec<LoadStep>,
        options: LoadOptions,
        done: &'a mut dyn FnMut(&ImageOutcome<E::Error>),
        progress: &'a Progress,
    ) -> Self {
        let outcome = |step| ImageOutcome { step, links: 0, linked: 0, copies: CopiedBytes::new(), error: None };
        let outcomes = steps.into_iter().map(outcome).collect();
        Self { targets, outcomes, options, warnings: Vec::new(), done, progress }
    }

    /// Does what was planned, and makes this generation, which holds it, the current one. The generations are locked.
    ///
    /// # Errors
    /// If it failed for all images.
    pub(super) fn carry_out(mut self, engine: &E, generation: u64) -> Result<LoadResult<E::Error>, E::Error> {
        let generations = engine.generations();
        for (link, path) in generations.roots(generation)? {
            self.warnings.extend(store::register(engine.nix(), &link, &path).err().map(|error| error.to_string()));
        }
        generations.forget_attempts(generation)?;
        let pulled = self.bring(engine);
        // Not before: of what no record names, loading keeps what it needs, and a container may be running on it.
        if let Err(error) = engine.sweep(self.progress) {
            self.warnings.push(format!("what a killed run has left cannot be removed: {error}"));
        }
        let pulled = pulled?;
        let untold = |outcome: &&ImageOutcome<_>| outcome.step.how != LoadMethod::Pull || outcome.error.is_some();
        self.outcomes.iter().filter(untold).for_each(&mut *self.done);
        let failed = self.outcomes.iter().any(|outcome| outcome.error.is_some());
        let generation = if failed {
            generations.current()?.map(|current| current.number)
        } else {
            generations.confirm(generation, self.progress)?;
            Some(generation)
        };
        Ok(LoadResult { outcomes: self.outcomes, pulled, generation, warnings: self.warnings })
    }

    /// Puts there what is missing, and takes away again what the engine does not confirm. What a stop leaves unconfirmed is
    /// settled by the next run.
    fn bring(&mut self, engine: &E) -> Result<u64, E::Error> {
        let mut note = engine.note(self)?;
        let brought = engine.put(self, &mut note);
        let failed = self.outcomes.iter().filter(|outcome| brought.is_err() || outcome.error.is_some());
        let failed: BTreeSet<_> = failed.map(|outcome| outcome.step.entry.config_digest).collect();
        let is_stopped = self.progress.check().is_err();
        if !is_stopped {
            engine.take_away(&note, &failed, self.progress)?;
            engine.forget(note)?;
        }
        brought
    }
}

/// Loads what is missing. One image that fails does not keep the others from being loaded.
///
/// # Errors
/// If nothing could be done at all; of a single image, see [`ImageOutcome::error`].
pub fn load<E: Engine>(
    engine: &E,
    targets: &[LoadTarget],
    options: LoadOptions,
    done: &mut dyn FnMut(&ImageOutcome<E::Error>),
    progress: &Progress,
) -> Result<LoadResult<E::Error>, E::Error> {
    load_planned(engine, targets, None, options, done, progress)
}

/// The same, with steps that [`plan`] gave a moment ago: nothing is looked at again where they say that all is there.
///
/// # Errors
/// See [`load`].
pub(crate) fn load_planned<E: Engine>(
    engine: &E,
    targets: &[LoadTarget],
    planned: Option<Vec<LoadStep>>,
    options: LoadOptions,
    done: &mut dyn FnMut(&ImageOutcome<E::Error>),
    progress: &Progress,
) -> Result<LoadResult<E::Error>, E::Error> {
    let begun = engine.begin(progress)?;
    // What was put right may have changed the answers.
    let steps = match planned.filter(|_| begun.is_empty()) {
        Some(steps) => steps,
        None => plan(engine, targets, options, progress)?,
    };
    let mut loaded = load_missing(engine, targets, steps, options, done, progress)?;
    loaded.warnings.splice(..0, begun);
    loaded.warnings.extend(engine.conclude(progress)?);
    Ok(loaded)
}

fn load_missing<E: Engine>(
    engine: &E,
    targets: &[LoadTarget],
    steps: Vec<LoadStep>,
    options: LoadOptions,
    done: &mut dyn FnMut(&ImageOutcome<E::Error>),
    progress: &Progress,
) -> Result<LoadResult<E::Error>, E::Error> {
    let generations = engine.generations();
    let current = generations.current()?;
    let merged = |steps: &[LoadStep], current: Option<&_>| {
        Generations::merge(current, steps.iter().map(|step| step.entry.clone()).collect(), options.partial)
    };
    let nothing = steps.iter().all(|step| step.how == LoadMethod::Present) && !engine.has_leftovers(progress)?;
    if let Some(current) = current.as_ref().filter(|_| nothing)
        && Generations::is_same(current, &merged(&steps, Some(current)))
    {
        let loading: Loading<'_, E> = Loading::new(targets, steps, options, done, progress);
        loading.outcomes.iter().for_each(&mut *loading.done);
        let generation = Some(current.number);
        return Ok(LoadResult { outcomes: loading.outcomes, pulled: 0, generation, warnings: Vec::new() });
    }

    let _lock = generations.lock(progress)?;
    let settled = engine.settle(progress)?;
    // Another load may have brought the same in the meantime.
    let steps = plan(engine, targets, options, progress)?;
    engine.check_space(&steps)?;
    let current = generations.current()?;
    let entries = merged(&steps, current.as_ref());
    let last = match generations.numbers()?.last() {
        Some(number) => Some(generations.read(*number)?),
        None => None,
    };
    // A load that was killed, failed, or was gone back from, has left what is wanted now.
    let mut old = current.into_iter().chain(last).chain(generations.attempts()?);
    let Generation { number, .. } = match old.find(|old| Generations::is_same(old, &entries)) {
        Some(generation) => generation,
        None => generations.add(&entries, engine.nix(), progress)?,
    };
    let mut loaded = Loading::new(targets, steps, options, done, progress).carry_out(engine, number)?;
    loaded.warnings.splice(..0, settled);
    Ok(loaded)
}
