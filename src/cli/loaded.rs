//! What is loaded now: the images of the current generation, from the directories that it keeps.

use anyhow::{Result, bail};

use super::failure::Usage;
use crate::layout::{ImageDir, LayoutError};
use crate::podman::decide::{Host, Target};
use crate::podman::generations::{Entry, Generations};

/// An image of the current generation, with its directory or why there is none any more.
pub(super) type Image = (Entry, Result<Target, LayoutError>);

/// What is loaded; `None` before the first load. Only the images of these names, if there are any.
pub(super) fn loaded(host: &Host, names: &[String]) -> Result<Option<Vec<Image>>> {
    let Some(generation) = Generations::of(&host.places.graph_root).current()? else { return Ok(None) };
    let known = |name: &&String| generation.entries.iter().any(|entry| entry.name == **name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let there: Vec<&str> = generation.entries.iter().map(|entry| &*entry.name).collect();
        bail!(Usage(format!("{unknown} is not loaded; there are: {}", there.join(", "))));
    }
    let wanted =
        generation.entries.into_iter().filter(|entry| names.is_empty() || names.iter().any(|name| entry.name == *name));
    let open = |entry: Entry| {
        let (name, origins) = (entry.name.clone(), entry.origins.clone());
        let target = ImageDir::open(&entry.directory).map(|image| Target { image, name, origins });
        (entry, target)
    };
    Ok(Some(wanted.map(open).collect()))
}

/// Those whose directory is there, and what is wrong with the others.
pub(super) fn split(images: Vec<Image>) -> (Vec<Target>, Vec<(Entry, LayoutError)>) {
    let (mut targets, mut gone) = (Vec::new(), Vec::new());
    for (entry, target) in images {
        match target {
            Ok(target) => targets.push(target),
            Err(error) => gone.push((entry, error)),
        }
    }
    (targets, gone)
}
