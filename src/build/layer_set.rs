//! Layers that were built by themselves, to be named by images: a directory with `layers.json` and `recipes/`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::WriteError;
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::image::closure::ImageClosure;
use crate::image::json::read_versioned;
use crate::image::layout::{LayoutError, VERSION};
use crate::image::recipes::{read_checksums, read_recipes, write_recipes};
use crate::image::{BuiltLayer, LayerRecord};
use crate::nix::package::PackageRecord;
use crate::oci::canonical;

/// `layers.json`: layers that were built by themselves, to be named by images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerSet {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// Their common name.
    pub(crate) name: String,
    /// The layers, bottom first.
    pub(crate) layers: Vec<LayerRecord>,
}

/// Writes `layers.json`, the recipes and what is known of their store paths into `directory`, which must exist.
///
/// # Errors
/// With the path at fault.
pub(crate) fn write_layers(
    directory: &Path,
    name: &str,
    (layers, closure): (&[BuiltLayer], &ImageClosure),
    progress: &Progress,
) -> Result<(), WriteError> {
    let records = layers.iter().map(|layer| layer.record.clone()).collect();
    let set = LayerSet { version: VERSION, name: name.to_owned(), layers: records };
    let recipes = layers.iter().map(|layer| (layer.record.digest, &layer.recipe, layer.checksums.as_ref()));
    write_recipes(directory, recipes, progress)?;
    closure.write(directory, progress)?;
    write_file(&directory.join("layers.json"), &canonical::to_pretty(&set), progress)
}

/// Reads what [`write_layers`] wrote.
///
/// # Errors
/// See [`LayoutError`].
fn read_layers(directory: &Path) -> Result<Vec<BuiltLayer>, LayoutError> {
    let set: LayerSet = read_versioned(&directory.join("layers.json"))?;
    let mut recipes = read_recipes(directory, set.layers.iter())?;
    let missing = |record: &LayerRecord| LayoutError::NoLayer {
        path: directory.to_owned(),
        digest: record.digest,
        title: record.title.clone(),
    };
    set.layers
        .into_iter()
        .map(|record| match recipes.remove(&record.digest) {
            Some(recipe) => {
                let checksums = read_checksums(directory, record.digest)?;
                Ok(BuiltLayer::before(record, recipe, checksums))
            }
            None => Err(missing(&record)),
        })
        .collect()
}

/// The layers at these paths, each once, with what is known of their store paths, and of these packages.
///
/// # Errors
/// If one cannot be read.
pub(super) fn read_all_layers(
    paths: &[PathBuf],
    packages: &[PackageRecord],
) -> Result<(Vec<BuiltLayer>, ImageClosure), LayoutError> {
    let (mut layers, mut known): (Vec<BuiltLayer>, _) = (Vec::new(), ImageClosure::described(packages));
    for path in paths {
        known.merge(ImageClosure::read(path)?);
        for layer in read_layers(path)? {
            if !layers.iter().any(|other| other.record.digest == layer.record.digest) {
                layers.push(layer);
            }
        }
    }
    Ok((layers, known))
}
