//! What is loaded now: the images of the current generation, from the directories that it keeps.

use super::failure::{Result, usage};
use crate::engine::Engine;
use crate::engine::generation::GenerationEntry;
use crate::engine::target::LoadTarget;
use crate::image::layout::{ImageDir, LayoutError};
use crate::names::{LOADED, no_such};

/// An image of the current generation, with its directory, or why that is gone.
pub(super) type LoadedImage = (GenerationEntry, Result<LoadTarget, LayoutError>);

/// What is loaded; `None` before the first load. Only the images of these names, if there are any.
pub(super) fn loaded<E: Engine>(host: &E, names: &[String]) -> Result<Option<Vec<LoadedImage>>> {
    let Some(generation) = host.generations().current()? else { return Ok(None) };
    let known = |name: &&String| generation.entries.iter().any(|entry| entry.name == **name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(usage(no_such("image", unknown, LOADED, generation.entries.iter().map(|entry| &entry.name))));
    }
    let wanted =
        generation.entries.into_iter().filter(|entry| names.is_empty() || names.iter().any(|name| entry.name == *name));
    let open = |entry: GenerationEntry| {
        let (name, origins) = (entry.name.clone(), entry.origins.clone());
        let target = ImageDir::open(&entry.directory).map(|image| LoadTarget { image, name, origins });
        (entry, target)
    };
    Ok(Some(wanted.map(open).collect()))
}

/// Those whose directory is there, and what is wrong with the others.
pub(super) fn split(images: Vec<LoadedImage>) -> (Vec<LoadTarget>, Vec<(GenerationEntry, LayoutError)>) {
    let (mut targets, mut gone) = (Vec::new(), Vec::new());
    for (entry, target) in images {
        match target {
            Ok(target) => targets.push(target),
            Err(error) => gone.push((entry, error)),
        }
    }
    (targets, gone)
}
