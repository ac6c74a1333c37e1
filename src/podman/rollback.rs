//! Going back to a generation: exactly its images, and under their names again.
//!
//! Whether each of them is there, or can be loaded again, is known before anything changes. Images that came later stay in
//! Podman until [`gc`](super::gc) removes them; they are just no longer part of the current generation.

use std::fs;

use super::decide::{Host, Options, Target};
use super::generations::{Entry, Generation, GenerationError, Generations};
use super::load::{LoadError, Loaded, Outcome};
use super::records::RecordsError;
use super::survey::{Presence, Survey};
use crate::layout::ImageDir;
use crate::progress::Progress;

/// What there is of one image of a generation.
#[derive(Debug)]
pub enum Part {
    /// Podman has it.
    Present,
    /// Podman does not have all of it, and everything that it is made from is there.
    Loadable,
    /// It cannot be had: what is missing.
    Missing(String),
}

impl Host {
    /// What there is of each image of a generation, in its order. Nothing is changed and no layer is read.
    ///
    /// # Errors
    /// If the records of a store cannot be read.
    pub fn parts(&self, generation: &Generation, progress: &Progress) -> Result<Vec<Part>, RecordsError> {
        let survey = Survey::read(&self.places, progress)?;
        Ok(generation.entries.iter().map(|entry| part(entry, &survey)).collect())
    }

    /// Makes an old generation the current one: loads what is missing of it and moves its names back.
    ///
    /// # Errors
    /// If it is not [whole](LoadError::NotWhole), or nothing could be done; of a single image, see [`Outcome::error`].
    pub fn activate(
        &self,
        number: u64,
        done: &mut dyn FnMut(&Outcome),
        progress: &Progress,
    ) -> Result<Loaded, LoadError> {
        let generations = Generations::of(&self.places.graph_root);
        let there = generations.numbers().map_err(GenerationError::from)?;
        if !there.contains(&number) {
            return Err(GenerationError::Unknown { number, there }.into());
        }
        let _lock = generations.lock(progress)?;
        let settled = self.settle(progress)?;
        let generation = generations.read(number)?;
        let parts = self.parts(&generation, progress)?;
        let missing: Vec<String> = generation
            .entries
            .iter()
            .zip(&parts)
            .filter_map(|(entry, part)| match part {
                Part::Missing(what) => Some(format!("{}: {what}", entry.name)),
                _ => None,
            })
            .collect();
        if !missing.is_empty() {
            return Err(LoadError::NotWhole { number, missing });
        }
        let mut targets = Vec::new();
        let mut named_only = Vec::new();
        for entry in &generation.entries {
            let (name, origins) = (entry.name.clone(), entry.origins.clone());
            match ImageDir::open(&entry.directory) {
                Ok(image) => targets.push(Target { image, name, origins }),
                // It is present, and its names are all that can be put right.
                Err(_) => named_only.push(entry),
            }
        }
        let options = Options::default();
        let steps = self.plan(&targets, options, progress)?;
        self.check_space(&steps)?;
        let survey = Survey::read(&self.places, progress)?;
        for entry in named_only {
            let leads = survey.called(&entry.reference).is_some_and(|(_, image)| image.id == entry.config_digest.hex());
            if let Some(store) = survey.holding(entry).filter(|_| !leads) {
                self.name(&survey, entry, &store.store, progress)?;
            }
        }
        let mut loaded = self.carry_out(&targets, steps, number, options, done, progress)?;
        loaded.warnings.splice(..0, settled);
        Ok(loaded)
    }
}

fn part(entry: &Entry, survey: &Survey) -> Part {
    let image = match ImageDir::open(&entry.directory) {
        Ok(image) => image,
        Err(_) if survey.holding(entry).is_some() => return Part::Present,
        Err(error) => return Part::Missing(error.to_string()),
    };
    let summary = image.summary();
    let Some(platform) = summary.platforms.iter().find(|platform| platform.digest == entry.manifest_digest) else {
        return Part::Missing(format!("{} is another image now", entry.directory.display()));
    };
    if matches!(survey.presence(summary, platform), Presence::Present { .. }) {
        return Part::Present;
    }
    for layer in &platform.layers {
        match image.layer_blob(layer) {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) => return Part::Missing(error.to_string()),
        }
        let Some(made) = image.image().recipes.get(&layer.digest) else {
            return Part::Missing(format!("layer {} has neither a blob nor a recipe", layer.title));
        };
        if let Some(gone) = made.recipe.sources().into_iter().find(|source| fs::symlink_metadata(source).is_err()) {
            return Part::Missing(format!("{}, of layer {}, is gone", gone.display(), layer.title));
        }
    }
    Part::Loadable
}
