//! Building models, and reading those that were built before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Blobs, BuildError, assemble, layer, make};
use crate::blobs::At;
use crate::closure::ClosureGraph;
use crate::config::Config;
use crate::digest::Digest;
use crate::image::{About, Layer};
use crate::layer::Recipe;
use crate::layout::{Image, ImageDir, ImageKind};
use crate::plan::{self, Planned, PlannedModel};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::spec::{DEFAULT_CREATED, ModelSource, ModelSpec};

/// Builds a model: its layers, and an image of only these.
///
/// # Errors
/// See [`BuildError`].
pub fn model(
    spec: &ModelSpec,
    graph: &ClosureGraph,
    blobs: Option<Blobs<'_>>,
    progress: &Progress,
) -> Result<Image, BuildError> {
    let planned = new(spec, graph)?.layers;
    let made = make(&planned.iter().collect::<Vec<_>>(), blobs, progress)?;
    image(spec, &of_plan(&made, planned))
}

/// A model with its layers, bottom first, and its own image.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) image: Image,
    pub(super) layers: Vec<Layer>,
}

impl Model {
    /// Whether one of its layers has this digest.
    pub(super) fn has(&self, digest: Digest) -> bool {
        self.layers.iter().any(|layer| layer.record.digest == digest)
    }

    fn digests(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.record.digest).collect()
    }
}

/// Reads or builds every model, each once.
pub(super) fn all(
    sources: &[ModelSource],
    graph: &ClosureGraph,
    blobs: Option<Blobs<'_>>,
    progress: &Progress,
) -> Result<BTreeMap<String, Model>, BuildError> {
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    let mut made: BTreeMap<Recipe, Layer> = BTreeMap::new();
    for source in sources {
        let (name, model) = match source {
            ModelSource { spec: Some(spec), .. } => {
                let planned = new(spec, graph)?.layers;
                let missing: Vec<&Planned> = planned.iter().filter(|layer| !made.contains_key(&layer.recipe)).collect();
                made.extend(make(&missing, blobs, progress)?);
                let layers = of_plan(&made, planned);
                (spec.name.clone(), Model { image: image(spec, &layers)?, layers })
            }
            ModelSource { built, .. } => {
                let (image, name, layers) = read(built.as_deref())?;
                (name, Model { image, layers })
            }
        };
        match models.get(&name) {
            Some(other) if other.digests() != model.digests() => return Err(BuildError::ModelName(name)),
            _ => drop(models.insert(name, model)),
        }
    }
    Ok(models)
}

/// A model with its size, for which nothing is hashed.
pub(super) fn planned(source: &ModelSource, graph: &ClosureGraph) -> Result<PlannedModel, BuildError> {
    match source {
        ModelSource { spec: Some(spec), .. } => {
            let mut planned = new(spec, graph)?;
            planned.measure().map_err(|source| BuildError::Layer { title: spec.name.clone(), source })?;
            Ok(planned)
        }
        ModelSource { built, .. } => {
            let (_, name, layers) = read(built.as_deref())?;
            Ok(PlannedModel::of_layers(name, layers))
        }
    }
}

/// The name of a model.
pub(super) fn name_of(source: &ModelSource) -> Result<String, BuildError> {
    match source {
        ModelSource { spec: Some(spec), .. } => Ok(spec.name.clone()),
        ModelSource { built, .. } => Ok(read(built.as_deref())?.1),
    }
}

fn new(spec: &ModelSpec, graph: &ClosureGraph) -> Result<PlannedModel, BuildError> {
    let mut listing = None;
    if let Some(source) = spec.source.as_ref().filter(|source| source.is_dir()) {
        let names =
            std::fs::read_dir(source).and_then(|entries| entries.map(|entry| Ok(entry?.file_name().into())).collect());
        let mut names: Vec<PathBuf> = names.at("read", source)?;
        names.sort();
        listing = Some(names);
    }
    let mut inputs = spec.inputs(listing.as_deref());
    plan::name_hashes(&mut inputs, graph, &spec.store_dir);
    Ok(PlannedModel::new(spec, inputs))
}

fn of_plan(made: &BTreeMap<Recipe, Layer>, planned: Vec<Planned>) -> Vec<Layer> {
    planned.into_iter().map(|planned| layer(made, planned)).collect()
}

fn read(path: Option<&Path>) -> Result<(Image, String, Vec<Layer>), BuildError> {
    let path = path.unwrap_or(Path::new(""));
    let directory = ImageDir::open(path)?;
    let summary = directory.summary();
    let unfit = |message: &str| BuildError::Unfit { path: path.to_owned(), message: message.to_owned() };
    let ([platform], ImageKind::Model) = (&summary.platforms[..], summary.kind) else {
        return Err(unfit("is not a model; build it from a spec with \"kind\": \"model\""));
    };
    let layers = directory.layers(platform)?;
    let Some(name) = platform.models.first().filter(|_| !layers.is_empty()) else {
        return Err(unfit("is a model without a name or a layer; build it again"));
    };
    Ok((directory.image().clone(), name.clone(), layers))
}

fn image(spec: &ModelSpec, layers: &[Layer]) -> Result<Image, BuildError> {
    let about = About {
        platform: Platform::of_data(),
        os_version: None,
        os_features: Vec::new(),
        created: DEFAULT_CREATED.to_owned(),
        author: None,
        config: Config::default(),
        annotations: spec.annotations.clone(),
        inherited: None,
    };
    assemble(&spec.name, spec.tag.as_deref(), &about, layers, vec![spec.name.clone()], ImageKind::Model)
}
