//! What paths on the command line lead to: the images and models of stacks, bundles and image directories.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::archives::UnpackedArchives;
use super::failure::{Result, failed, usage};
use super::view::short;
use crate::build::stack::{StackDir, UnreadableImage};
use crate::engine::target::LoadTarget;
use crate::image::bundle::is_bundle;
use crate::image::layout::{ImageDir, LayoutError};
use crate::names::no_such;

/// The images and models at these paths, each once, models first: an image that needs one finds it there.
pub(super) fn targets(paths: &[PathBuf], only: &[String]) -> Result<Vec<LoadTarget>> {
    let (targets, unreadable) = readable(paths, &UnpackedArchives::default(), only)?;
    unreadable.into_iter().next().map_or(Ok(targets), |first| Err(first.error.into()))
}

/// The same, without what cannot be read of bundles: what a stick has lost of one image does not keep the others from it.
pub(super) fn readable(
    paths: &[PathBuf],
    archives: &UnpackedArchives,
    only: &[String],
) -> Result<(Vec<LoadTarget>, Vec<UnreadableImage>)> {
    let (mut targets, mut lost): (Vec<LoadTarget>, Vec<UnreadableImage>) = (Vec::new(), Vec::new());
    for path in paths {
        let path = &lean(path);
        let origins = BTreeSet::from([origin(path)?]);
        if path.join("stack.json").is_file() {
            let (stack, unreadable) = StackDir::open_readable(path)?;
            if is_bundle(path) {
                lost.extend(unreadable);
            } else if let Some(first) = unreadable.into_iter().next() {
                return Err(first.error.into());
            }
            let model = |(name, image)| LoadTarget { image, name, origins: origins.clone() };
            targets.extend(stack.models.into_iter().map(model));
            targets.extend(stack.images.into_iter().map(|image| LoadTarget {
                name: image.summary().name.file_name(),
                image,
                origins: origins.clone(),
            }));
        } else if is_bundle(path) {
            return Err(LayoutError::Missing { path: path.join("stack.json") }.into());
        } else {
            let image = ImageDir::open(archives.place(path))?;
            let name = image.summary().name.file_name();
            targets.push(LoadTarget { image, name, origins });
        }
    }
    // Stacks may have images and models in common.
    let mut once: Vec<LoadTarget> = Vec::new();
    for target in targets {
        let is_it = |other: &&mut LoadTarget| {
            let (one, two) = (other.image.summary(), target.image.summary());
            one.reference == two.reference && one.digest == two.digest
        };
        match once.iter_mut().find(is_it) {
            Some(other) => other.origins.extend(target.origins),
            None => once.push(target),
        }
    }
    let mut targets = once;
    if !only.is_empty() {
        let names = targets.iter().map(|target| &target.name).chain(lost.iter().map(|image| &image.name));
        let names: Vec<String> = names.map(ToString::to_string).collect();
        if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
            return Err(usage(no_such("image", unknown, " in what is to be loaded", &names)));
        }
        targets.retain(|target| only.iter().any(|name| target.name == *name));
        lost.retain(|image| only.iter().any(|name| image.name == *name));
    }
    Ok((targets, lost))
}

/// A stack of archives leads to the lean stack that it was made from.
pub(super) fn lean(path: &Path) -> PathBuf {
    let lean = path.join("lean");
    if path.join("stack.json").is_file() && lean.join("stack.json").is_file() { lean } else { path.to_owned() }
}

/// What a path is called over time: a store path without its hash, else the whole path.
pub(super) fn origin(path: &Path) -> Result<String> {
    let path = std::fs::canonicalize(path).map_err(|error| failed(format!("read {}: {error}", path.display())))?;
    let text = path.display().to_string();
    let name = short(&text);
    Ok(if text.ends_with(&format!("/{name}")) { text.clone() } else { name.to_owned() })
}
