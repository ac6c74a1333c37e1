//! What there was before, so that a bundle leaves it out: the layers of a bundle, a stack, an image or a generation.

use std::collections::BTreeSet;
use std::path::Path;

use super::stack::{StackDir, StackImage, StackJson, StackLayer, StackModel};
use crate::image::json::read_versioned;
use crate::image::layout::{ImageDir, LayoutError, Summary};
use crate::image::summary::ExpectedImage;
use crate::oci::digest::Digest;

/// Images whose layers a delta leaves out.
#[derive(Debug, Default)]
pub(crate) struct OldImages {
    images: Vec<ExpectedImage>,
    /// Those whose bytes can be had.
    directories: Vec<ImageDir>,
}

impl OldImages {
    /// Those that this path names: a stack or a bundle by its `stack.json`, which may be alone, or an image directory. What a
    /// delta leaves out itself counts as had: who has loaded it has that too.
    ///
    /// # Errors
    /// If it is nothing of the kind.
    pub(crate) fn at(path: &Path) -> Result<Self, LayoutError> {
        let json = if path.is_dir() { path.join("stack.json") } else { path.to_owned() };
        if path.is_dir() && !json.is_file() {
            let image = path.join("image.json");
            if !image.is_file() {
                return Err(LayoutError::NothingOld { path: path.to_owned() });
            }
            let images = Self::of([&read_versioned::<Summary>(&image)?]).images;
            return Ok(Self { images, directories: ImageDir::open(path).into_iter().collect() });
        }
        let StackJson { images, models, .. } = read_versioned(&json)?;
        let digests = |layers: &[StackLayer]| layers.iter().map(|layer| layer.digest).collect();
        let image = |image: &StackImage| {
            let StackImage { reference, digest, config_digest, layers, .. } = image;
            ExpectedImage {
                reference: reference.clone(),
                digest: *digest,
                config_digest: *config_digest,
                layers: digests(layers),
            }
        };
        let model = |model: &StackModel| {
            let StackModel { reference, digest, config_digest, layers, .. } = model;
            ExpectedImage {
                reference: reference.clone(),
                digest: *digest,
                config_digest: *config_digest,
                layers: digests(layers),
            }
        };
        let images = images.iter().map(image).chain(models.iter().map(model)).collect();
        let directory = json.parent().unwrap_or(Path::new("."));
        let lean = Some(directory.join("lean")).filter(|lean| lean.join("stack.json").is_file());
        let readable = StackDir::open_readable(lean.as_deref().unwrap_or(directory)).ok();
        let directories = readable.into_iter().flat_map(|(stack, _)| stack.all().cloned().collect::<Vec<_>>());
        Ok(Self { images, directories: directories.collect() })
    }

    /// These images.
    pub(crate) fn of<'a>(summaries: impl IntoIterator<Item = &'a Summary>) -> Self {
        let each = |summary: &'a Summary| {
            summary.platforms.iter().map(|platform| ExpectedImage {
                reference: summary.reference.clone(),
                digest: platform.digest,
                config_digest: platform.config_digest,
                layers: platform.layers.iter().map(|layer| layer.digest).collect(),
            })
        };
        Self { images: summaries.into_iter().flat_map(each).collect(), directories: Vec::new() }
    }

    /// Those in these directories.
    pub(crate) fn in_directories(directories: Vec<ImageDir>) -> Self {
        Self { directories: directories.clone(), ..Self::of(directories.iter().map(ImageDir::summary)) }
    }

    /// The directories of images that are called like this one.
    pub(crate) fn of_name<'a>(&'a self, image: &'a Summary) -> impl Iterator<Item = &'a ImageDir> {
        self.directories.iter().filter(|old| *old.summary().name == *image.name)
    }

    /// All layers that they have.
    pub(crate) fn layers(&self) -> BTreeSet<Digest> {
        self.images.iter().flat_map(|image| image.layers.iter().copied()).collect()
    }

    /// The fewest of them that have these layers of an image, each with those that it is expected for: the one of the same
    /// name first, then whichever has most of the rest.
    pub(crate) fn expected(&self, image: &Summary, mut rest: Vec<Digest>) -> Vec<ExpectedImage> {
        let mut expected = Vec::new();
        loop {
            let of = |old: &ExpectedImage| rest.iter().copied().filter(|layer| old.layers.contains(layer)).collect();
            let candidates = self.images.iter().map(|old| ExpectedImage { layers: of(old), ..old.clone() });
            let is_same = |old: &ExpectedImage| *old.reference.name() == *image.name;
            let best = candidates
                .filter(|old| !old.layers.is_empty())
                .max_by_key(|old| (is_same(old), old.layers.len(), std::cmp::Reverse(old.reference.to_string())));
            let Some(best) = best else { return expected };
            rest.retain(|layer| !best.layers.contains(layer));
            expected.push(best);
        }
    }
}
