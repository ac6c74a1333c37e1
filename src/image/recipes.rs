//! The folder `recipes/`: what is kept of each layer in place of its bytes.
//!
//! The sums of its files are read where they are needed: of a large closure they are many, and a load of what is there has no use
//! for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::json::read_json;
use super::layout::LayoutError;
use crate::disk::bounded::{self, Cap};
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::image::LayerRecord;
use crate::layer::{Checksums, Recipe};
use crate::oci::canonical;
use crate::oci::digest::Digest;

pub(super) fn checksums_path(directory: &Path, digest: Digest) -> PathBuf {
    directory.join(format!("recipes/{}.crc64", digest.hex()))
}

fn recipe_path(directory: &Path, digest: Digest) -> PathBuf {
    directory.join(format!("recipes/{}.json", digest.hex()))
}

pub(crate) fn write_recipes<'a>(
    directory: &Path,
    layers: impl Iterator<Item = (Digest, &'a Recipe, Option<&'a Checksums>)>,
    progress: &Progress,
) -> Result<(), WriteError> {
    let folder = directory.join("recipes");
    fs::create_dir_all(&folder).at("create", &folder)?;
    for (digest, recipe, checksums) in layers {
        write_file(&recipe_path(directory, digest), &canonical::to_bytes(recipe), progress)?;
        if let Some(checksums) = checksums {
            write_file(&checksums_path(directory, digest), &checksums.to_bytes(), progress)?;
        }
    }
    Ok(())
}

pub(crate) fn read_recipes<'a>(
    directory: &Path,
    layers: impl Iterator<Item = &'a LayerRecord>,
) -> Result<BTreeMap<Digest, Recipe>, LayoutError> {
    let mut recipes = BTreeMap::new();
    for layer in layers {
        let recipe = match read_json(&recipe_path(directory, layer.digest)) {
            Err(error) if error.is_no_file() => continue,
            recipe => recipe?,
        };
        recipes.insert(layer.digest, recipe);
    }
    Ok(recipes)
}

/// The sums of a layer's files; `None` where an older windlass built it.
pub(crate) fn read_checksums(directory: &Path, digest: Digest) -> Result<Option<Checksums>, LayoutError> {
    let path = checksums_path(directory, digest);
    let bytes = match bounded::read(&path, Cap::Document) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LayoutError::Read { path, source }),
    };
    let cut = || {
        let message = format!("has {} bytes, which is not a multiple of 8; build or copy the image again", bytes.len());
        LayoutError::Format { path, message }
    };
    Checksums::from_bytes(&bytes).map(Some).ok_or_else(cut)
}

/// The files and directories of the host that layers are made from.
pub(crate) fn sources(recipes: &BTreeMap<Digest, Recipe>) -> impl Iterator<Item = &PathBuf> {
    recipes.values().flat_map(Recipe::sources)
}
