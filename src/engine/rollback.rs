//! Going back to a generation: exactly its images, and under their names again.
//!
//! Whether each of them is there, or can be loaded again, is known before anything changes. Images that came later stay in
//! the engine until a clean-up removes them ([`keep`](super::keep)); they are just no longer part of the current generation.

use std::fs;

use super::generation::{Generation, GenerationEntry};
use super::generations::GenerationError;
use super::load::{ImageOutcome, LoadResult, Loading};
use super::target::{DecideError, LoadOptions, LoadTarget, plan};
use super::{Engine, Former};
use crate::disk::progress::Progress;
use crate::image::layout::ImageDir;
use crate::image::summary::PlatformRecord;

/// What there is of one image of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollbackPart {
    /// The engine has it.
    Present,
    /// The engine does not have all of it, and everything that it is made from is there.
    Loadable,
    /// It cannot be had: what is missing.
    Missing(String),
}

/// What there is of each image of a generation, in its order. Nothing is changed and no layer is read.
///
/// # Errors
/// If the engine's records cannot be read.
pub fn parts<E: Engine>(
    engine: &E,
    generation: &Generation,
    progress: &Progress,
) -> Result<Vec<RollbackPart>, E::Error> {
    let images: Vec<_> = generation.entries.iter().map(|entry| ImageDir::open(&entry.directory)).collect();
    let pairs = || generation.entries.iter().zip(&images);
    let former = pairs().map(|(entry, image)| -> Former<'_> {
        let image = image.as_ref().ok();
        (entry, image.and_then(|image| Some((image, platform(entry, image)?))))
    });
    let held = engine.holds(&former.collect::<Vec<_>>(), progress)?;
    let part = |((entry, image), held): ((&GenerationEntry, &Result<ImageDir, _>), bool)| match image {
        Ok(image) => match platform(entry, image) {
            None => RollbackPart::Missing(format!("{} is another image now", entry.directory.display())),
            Some(_) if held => RollbackPart::Present,
            Some(platform) => made_from(image, platform),
        },
        Err(_) if held => RollbackPart::Present,
        Err(error) => RollbackPart::Missing(ToString::to_string(error)),
    };
    Ok(pairs().zip(held).map(part).collect())
}

fn platform<'a>(entry: &GenerationEntry, image: &'a ImageDir) -> Option<&'a PlatformRecord> {
    image.summary().platforms.iter().find(|platform| platform.digest == entry.manifest_digest)
}

/// Whether everything that an image is made from is there.
fn made_from(image: &ImageDir, platform: &PlatformRecord) -> RollbackPart {
    for layer in &platform.layers {
        match image.layer_blob(layer) {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) => return RollbackPart::Missing(error.to_string()),
        }
        let Some(recipe) = image.image().recipes.get(&layer.digest) else {
            return RollbackPart::Missing(format!("layer {} has neither a blob nor a recipe", layer.title));
        };
        if let Some(gone) = recipe.sources().into_iter().find(|source| fs::symlink_metadata(source).is_err()) {
            return RollbackPart::Missing(format!("{}, of layer {}, is gone", gone.display(), layer.title));
        }
    }
    RollbackPart::Loadable
}

/// Makes an old generation the current one: loads what is missing of it and moves its names back.
///
/// # Errors
/// If it is not [whole](DecideError::NotWhole), or nothing could be done; of a single image, see [`ImageOutcome::error`].
pub fn activate<E: Engine>(
    engine: &E,
    number: u64,
    done: &mut dyn FnMut(&ImageOutcome<E::Error>),
    progress: &Progress,
) -> Result<LoadResult<E::Error>, E::Error> {
    let mut loaded = bring_back(engine, number, done, progress)?;
    // Not before: it takes the lock that going back holds.
    loaded.warnings.extend(engine.conclude(progress)?);
    Ok(loaded)
}

fn bring_back<E: Engine>(
    engine: &E,
    number: u64,
    done: &mut dyn FnMut(&ImageOutcome<E::Error>),
    progress: &Progress,
) -> Result<LoadResult<E::Error>, E::Error> {
    let generations = engine.generations();
    let there = generations.numbers()?;
    if !there.contains(&number) {
        return Err(GenerationError::Unknown { number, there }.into());
    }
    let _lock = generations.lock(progress)?;
    let settled = engine.settle(progress)?;
    let generation = generations.read(number)?;
    let parts = parts(engine, &generation, progress)?;
    let missing = generation.entries.iter().zip(&parts).filter_map(|(entry, part)| match part {
        RollbackPart::Missing(what) => Some(format!("{}: {what}", entry.name)),
        _ => None,
    });
    let missing: Vec<String> = missing.collect();
    if !missing.is_empty() {
        return Err(DecideError::NotWhole { number, missing }.into());
    }
    let mut targets = Vec::new();
    let mut named_only = Vec::new();
    for entry in &generation.entries {
        let (name, origins) = (entry.name.clone(), entry.origins.clone());
        match ImageDir::open(&entry.directory) {
            Ok(image) => targets.push(LoadTarget { image, name, origins }),
            // It is present, and its names are all that can be put right.
            Err(_) => named_only.push(entry),
        }
    }
    let options = LoadOptions::default();
    let steps = plan(engine, &targets, options, progress)?;
    engine.check_space(&steps)?;
    engine.name(&named_only, progress)?;
    let mut loaded = Loading::new(&targets, steps, options, done, progress).carry_out(engine, number)?;
    loaded.warnings.splice(..0, settled);
    Ok(loaded)
}
