//! What is built and will be regretted, each told in a sentence with what to do instead: containers that cannot start
//! ([`runs`](crate::build::runs)), and ways to pay for the same weights twice.
//!
//! | what | why it costs |
//! |---|---|
//! | a model in another layer than one of its own | every change of that layer, or below it, stores and sends the weights again |
//! | models in an order that images do not share | Podman names a layer by all that is below it ([`plan::warnings`]) |
//! | the same file in two models | two layers have it |
//! | a storage driver that copies | each layer is a copy of all that is below it |
//! | weights that are packed | they hardly get smaller ([`PACKED`]) |
//!
//! Nothing but names and sizes is read, and the first bytes of large files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::build::runs::ImageRun;
use crate::build::stack::{StackDir, StackJson};
use crate::image::json::read_versioned;
use crate::image::layout::{self, ImageDir, LayoutError};
use crate::image::summary::{ImageKind, Summary};
use crate::image::{LayerKind, LayerRecord, models_of};
use crate::layer::{ALIGN_FROM, Known, LargeFile, LargeFiles, LayerMember, MemberContent, Recipe, large_files};
use crate::model::read::formats::is_unread;
use crate::model::read::named::is_weights;
use crate::model::read::sniff::{FileKind, HEAD, sniff};
use crate::names::Name;
use crate::oci::digest::Digest;
use crate::oci::reference::file_name;
use crate::plan;

/// What is said of a model image that is to be pushed with compression.
pub(crate) const PACKED: &str = "weights get about 6 % smaller when they are packed (measured: gzip and zstd on GGUF), are packed anew for every \
                          registry and unpacked at every pull, and the model's layer gets another digest; push models without --compression";

/// An image, as far as it is looked at here.
#[derive(Debug, Clone)]
pub(crate) struct LintedImage {
    pub(crate) name: String,
    /// Its models with the bytes of their weights, lowest first.
    pub(crate) models: Vec<(String, u64)>,
    /// Its layers: what each is for, what is in it in a few words, and how it is made.
    pub(crate) layers: Vec<(LayerKind, String, Recipe)>,
    /// What its containers start, for each of its platforms; nothing before it is built.
    pub(crate) runs: Vec<ImageRun>,
}

/// A model, as far as it is looked at here.
#[derive(Debug, Clone)]
pub(crate) struct LintedModel {
    pub(crate) name: String,
    /// How its layers are made.
    pub(crate) recipes: Vec<Recipe>,
    /// The digests of its files by their places in an image, where they are known.
    pub(crate) digests: Known,
}

impl LintedImage {
    /// One that was built; layers that cannot be made here are left out.
    #[must_use]
    pub(crate) fn of(image: &layout::ImageInMemory) -> Self {
        let Summary { name, platforms, .. } = &image.summary;
        let first = platforms.first();
        let models = first.map(|first| weights(&first.models, &first.layers)).unwrap_or_default();
        let layers = image
            .summary
            .layers()
            .into_iter()
            .filter_map(|layer| Some((layer.kind, layer.title.clone(), image.recipes.get(&layer.digest)?.clone())));
        Self { name: file_name(name), models, layers: layers.collect(), runs: ImageRun::of(image) }
    }
}

impl LintedModel {
    /// One that was built.
    #[must_use]
    pub(crate) fn of(name: &str, image: &layout::ImageInMemory) -> Self {
        let recipes = image.recipes.values().cloned().collect();
        let files = image.summary.model.iter().flat_map(|model| &model.files);
        Self { name: name.to_owned(), recipes, digests: files.map(|file| (file.path.clone(), file.sha256)).collect() }
    }
}

/// What there is to be looked at in an image directory or a lean stack: nothing in a stack of archives.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn subjects(path: &Path) -> Result<(Vec<LintedImage>, Vec<LintedModel>), LayoutError> {
    if !path.join("stack.json").is_file() {
        let image = ImageDir::open(path)?;
        return Ok(match (image.summary().kind, image.summary().platforms.first()) {
            (ImageKind::Model, Some(model)) => {
                (Vec::new(), vec![LintedModel::of(&model.models.concat(), image.image())])
            }
            _ => (vec![LintedImage::of(image.image())], Vec::new()),
        });
    }
    let json: StackJson = read_versioned(&path.join("stack.json"))?;
    if json.images.iter().any(|image| image.directory.is_none())
        || json.models.iter().any(|model| model.directory.is_none())
    {
        return Ok((Vec::new(), Vec::new()));
    }
    let stack = StackDir::open(path)?;
    let images = stack.images.iter().map(|image| LintedImage::of(image.image())).collect();
    Ok((images, stack.models.iter().map(|(name, model)| LintedModel::of(name, model.image())).collect()))
}

/// The models of an image with the bytes of what holds their tensors, lowest first.
fn weights(models: &[Name], layers: &[LayerRecord]) -> Vec<(String, u64)> {
    let of = models_of(models, layers.iter().map(|layer| (layer.kind, layer.part.as_ref())));
    let mut weights: Vec<(String, u64)> = models.iter().map(|name| (name.to_string(), 0)).collect();
    for (model, layer) in of.into_iter().zip(layers).filter(|(_, layer)| layer.is_weights()) {
        if let Some(model) = model {
            weights[model].1 += layer.size;
        }
    }
    weights
}

/// What cannot start, and what costs more than it need, in these images of one stack, and in its models.
#[must_use]
pub(crate) fn lint(images: &[LintedImage], models: &[LintedModel], known: &LargeFiles) -> Vec<String> {
    let mut warnings: Vec<String> = images.iter().flat_map(|image| &image.runs).flat_map(ImageRun::warnings).collect();
    warnings.extend(misplaced(images, known));
    warnings.extend(plan::warnings(images.iter().map(|image| {
        let models = image.models.iter().map(|(name, size)| (name.as_str(), *size));
        (image.name.as_str(), models.collect())
    })));
    warnings.extend(twice(models));
    warnings
}

/// What a storage driver costs where images have models in them; `None` for one that shares layers.
#[must_use]
pub(crate) fn driver(driver: &str) -> Option<String> {
    (driver == "vfs").then(|| {
        "Podman's storage driver is vfs, which makes a copy of all weights for each layer above them, and cannot have a linked \
         store; use overlay (`windlass doctor`), or deliver models as a mount"
            .to_owned()
    })
}

/// Models in layers that are not theirs.
fn misplaced(images: &[LintedImage], known: &LargeFiles) -> Vec<String> {
    let mut found: BTreeMap<&Recipe, Vec<(PathBuf, u64)>> = images
        .iter()
        .flat_map(|image| &image.layers)
        .filter(|(kind, _, recipe)| matches!(kind, LayerKind::Closure | LayerKind::Root) && recipe.blob().is_none())
        .map(|(_, _, recipe)| (recipe, Vec::new()))
        .collect();
    found.par_iter_mut().for_each(|(recipe, found)| {
        *found = match known.get(recipe) {
            Some(large) => weights_among(large),
            // What cannot be read is reported where its bytes are needed.
            None => large_files(recipe).map(|large| weights_among(&large)).unwrap_or_default(),
        };
    });
    let mut warnings = Vec::new();
    for image in images {
        for (kind, title, recipe) in &image.layers {
            for (path, size) in found.get(recipe).into_iter().flatten() {
                warnings.push(format!(
                    "image '{}' has a model in its {} layer '{title}': {}, {size} bytes; whatever else changes there, or below it, stores \
                     and sends them again; leave it out there and name it in 'models' (buildModel), so that it lies at the bottom",
                    image.name,
                    kind.word(),
                    path.display()
                ));
            }
        }
    }
    warnings
}

/// Files of this size and more are looked into.
const LARGE: u64 = 256 * 1024 * 1024;

/// Those of these files that are weights, each with its size.
fn weights_among(files: &[LargeFile]) -> Vec<(PathBuf, u64)> {
    let weights = files.iter().filter(|file| looks_like_weights(file));
    weights.map(|LargeFile { path, size, .. }| (path.clone(), *size)).collect()
}

fn looks_like_weights(file: &LargeFile) -> bool {
    let name = file.path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if is_weights(&name) {
        return true;
    }
    if file.size < LARGE {
        return false;
    }
    let mut start = vec![0; HEAD];
    if !file.open().is_ok_and(|file| file.read_exact_at(&mut start, 0).is_ok()) {
        return false;
    }
    let is_model =
        matches!(sniff(&start), FileKind::Gguf | FileKind::Safetensors | FileKind::OldGgml | FileKind::Pickle);
    is_model || is_unread(&name)
}

/// A large file of a model.
struct WeightsFile {
    place: PathBuf,
    host: PathBuf,
    size: u64,
    digest: Option<Digest>,
}

/// Files that two models have, in different layers.
fn twice(models: &[LintedModel]) -> Vec<String> {
    let weights = |model: &LintedModel| {
        let mut found = Vec::new();
        for recipe in &model.recipes {
            let note = &mut |LayerMember { entry, content, host, .. }: LayerMember| {
                let size = entry.size();
                if matches!(content, MemberContent::File(..)) && size >= ALIGN_FROM {
                    let place = entry.place();
                    let digest = model.digests.get(&place).copied();
                    let host = fs::canonicalize(host).unwrap_or_else(|_| host.to_owned());
                    found.push(WeightsFile { place, host, size, digest });
                }
                Ok(())
            };
            // As above: who builds it says what cannot be read.
            drop(recipe.members(note));
        }
        found
    };
    let all: Vec<(&LintedModel, Vec<WeightsFile>)> = models.iter().map(|model| (model, weights(model))).collect();
    let mut warnings = Vec::new();
    for (n, (one, files)) in all.iter().enumerate() {
        for (two, others) in all[n + 1..].iter().filter(|(two, _)| two.recipes != one.recipes) {
            for (file, other) in files.iter().flat_map(|file| others.iter().map(move |other| (file, other))) {
                if file.host == other.host || (file.digest.is_some() && file.digest == other.digest) {
                    warnings.push(format!(
                        "models '{}' and '{}' have the same {} bytes, at {} and at {}: they are stored once for each; leave one of them \
                         out, or give both the same files and the same mountPath",
                        one.name,
                        two.name,
                        file.size,
                        file.place.display(),
                        other.place.display()
                    ));
                }
            }
        }
    }
    warnings
}
