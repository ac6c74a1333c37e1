//! Building models, and reading those that were built before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::facts::{Outlook, about, licence_of, look_at, ramalama, record};
use super::{Blobs, BuildError, assemble, layer, make, secrets};
use crate::disk::AtPath;
use crate::disk::progress::Progress;
use crate::image::closure::ImageClosure;
use crate::image::layout::{ImageDir, ImageInMemory};
use crate::image::summary::ImageKind;
use crate::image::{BuiltLayer, LayerKind};
use crate::layer::{Input, Recipe};
use crate::model::forms::labels::LICENCES;
use crate::model::read::layers::Looked;
use crate::model::read::named::{DEEPEST, is_weights};
use crate::names::Name;
use crate::nix::closure::ClosureGraph;
use crate::oci::digest::Digest;
use crate::plan::{self, Planned, PlannedModel};
use crate::secrets::Verdict;
use crate::spec::{Layering, ModelSource, ModelSpec};

/// Builds a model: its layers, and an image of only these; and what there is to be warned of.
///
/// # Errors
/// See [`BuildError`].
pub(crate) fn model(
    spec: &ModelSpec,
    graph: &ClosureGraph,
    blobs: Option<Blobs<'_>>,
    progress: &Progress,
) -> Result<(ImageInMemory, Vec<String>), BuildError> {
    let model = build(spec, graph, blobs, &mut BTreeMap::new(), progress)?;
    secrets::pass(model.verdict)?;
    Ok((model.image, model.warnings))
}

/// Builds a model; `made` has layers that are made already, and gets those that were not.
fn build(
    spec: &ModelSpec,
    graph: &ClosureGraph,
    blobs: Option<Blobs<'_>>,
    made: &mut BTreeMap<Recipe, BuiltLayer>,
    progress: &Progress,
) -> Result<BuiltModel, BuildError> {
    let planned = new(spec, graph)?;
    // Before anything is hashed: a header is read in no time.
    let looked = look_at(spec, &planned, progress)?;
    let link = ramalama(&planned, &looked);
    let missing: Vec<&Planned> =
        planned.layers.iter().chain(&link).filter(|layer| !made.contains_key(&layer.recipe)).collect();
    let new = make(&missing, graph, blobs, progress)?;
    made.extend(new);
    let layers = of_plan(made, planned.layers);
    let all: Vec<BuiltLayer> = layers.iter().cloned().chain(of_plan(made, link)).collect();
    let (tag, names) = (spec.tag.as_deref(), vec![spec.name.clone()]);
    let mut image = assemble(&spec.name, tag, &about(spec, &looked), &all, names, ImageKind::Model)?;
    image.summary.model = Some(record(spec, &looked, &layers));
    let recipes = all.iter().map(|layer| &layer.recipe);
    image.closure = ImageClosure::new(recipes, graph, &spec.store_dir, ImageClosure::default());
    let verdict = secrets::of_model(spec, &layers);
    Ok(BuiltModel { image, layers, warnings: looked.warnings, verdict })
}

/// A model with its layers, bottom first, and its own image.
#[derive(Debug, Clone)]
pub(super) struct BuiltModel {
    pub(super) image: ImageInMemory,
    pub(super) layers: Vec<BuiltLayer>,
    /// Files that are no models in spite of their names, if it was built now.
    pub(super) warnings: Vec<String>,
    /// What is wrong with its files, if it was built now.
    pub(super) verdict: Verdict,
}

impl BuiltModel {
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
) -> Result<BTreeMap<Name, BuiltModel>, BuildError> {
    let mut models: BTreeMap<Name, BuiltModel> = BTreeMap::new();
    let mut made: BTreeMap<Recipe, BuiltLayer> = BTreeMap::new();
    for source in sources {
        let (name, model) = match source {
            ModelSource { spec: Some(spec), .. } => {
                (spec.name.clone(), build(spec, graph, blobs, &mut made, progress)?)
            }
            ModelSource { built, .. } => {
                let (image, name, layers) = read(built.as_deref())?;
                (name, BuiltModel { image, layers, warnings: Vec::new(), verdict: Verdict::default() })
            }
        };
        match models.get(&name) {
            Some(other) if other.digests() != model.digests() => return Err(BuildError::ModelName(name.into())),
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
            planned.measure().map_err(|source| BuildError::Layer { title: spec.name.to_string(), source })?;
            Ok(planned)
        }
        ModelSource { built, .. } => {
            let (_, name, layers) = read(built.as_deref())?;
            Ok(PlannedModel::of_layers(name, layers))
        }
    }
}

/// What there is to be known of models before their bytes are read, each once, by name.
///
/// # Errors
/// See [`BuildError`].
pub(crate) fn outlook<'a>(
    sources: impl IntoIterator<Item = &'a ModelSource>,
    graph: &ClosureGraph,
    progress: &Progress,
) -> Result<Vec<Outlook>, BuildError> {
    let mut models: BTreeMap<String, Outlook> = BTreeMap::new();
    for source in sources {
        let model = planned(source, graph)?;
        let (digests, facts, licence, warnings) = match source {
            ModelSource { spec: Some(spec), .. } => {
                let Looked { facts, warnings, .. } = look_at(spec, &model, progress)?;
                let licence = spec.annotations.get(LICENCES).cloned();
                let licence = licence.or_else(|| facts.as_ref().and_then(|facts| facts.licence.clone()));
                (spec.known(), facts, licence, warnings)
            }
            ModelSource { built, .. } => {
                let (image, ..) = read(built.as_deref())?;
                let record = image.summary.model.clone().unwrap_or_default();
                let digests = record.files.into_iter().map(|file| (file.path, file.sha256)).collect();
                (digests, record.facts, licence_of(&image), Vec::new())
            }
        };
        let PlannedModel { name, weights, layers } = model;
        let recipes = layers.into_iter().map(|layer| layer.recipe).collect();
        models.insert(
            name.to_string(),
            Outlook { name: name.into(), weights, recipes, digests, facts, licence, warnings },
        );
    }
    Ok(models.into_values().collect())
}

/// The name of a model.
pub(super) fn name_of(source: &ModelSource) -> Result<Name, BuildError> {
    match source {
        ModelSource { spec: Some(spec), .. } => Ok(spec.name.clone()),
        ModelSource { built, .. } => Ok(read(built.as_deref())?.1),
    }
}

pub(super) fn new(spec: &ModelSpec, graph: &ClosureGraph) -> Result<PlannedModel, BuildError> {
    let mut listing = None;
    if let Some(source) = spec.source.as_ref().filter(|source| source.is_dir()) {
        let names =
            std::fs::read_dir(source).and_then(|entries| entries.map(|entry| Ok(entry?.file_name().into())).collect());
        let mut names: Vec<PathBuf> = names.at("read", source)?;
        names.sort();
        listing = Some(names);
    }
    let mut inputs = spec.inputs(listing.as_deref());
    if spec.layers == Layering::Files {
        inputs = unfolded(inputs, &mut Vec::new())?;
    }
    plan::name_hashes(&mut inputs, graph, &spec.store_dir);
    Ok(PlannedModel::new(spec, inputs))
}

/// Directories that have weights in them as what is in them, so that each file of weights can be a layer. Links are followed, as
/// the layer follows them.
fn unfolded(inputs: Vec<Input>, above: &mut Vec<PathBuf>) -> Result<Vec<Input>, BuildError> {
    let mut all = Vec::new();
    for input in inputs {
        let Input::Copy { source, target, follow, .. } = &input else {
            all.push(input);
            continue;
        };
        // What cannot be read is told by the layer; so is a link that leads back, or out of the store.
        let real = source.canonicalize().ok().filter(|real| real.is_dir());
        let Some(real) = real.filter(|real| above.len() <= DEEPEST && !above.contains(real)) else {
            all.push(input);
            continue;
        };
        let mut entries: Vec<PathBuf> = std::fs::read_dir(source)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .at("read", source)?;
        entries.sort();
        let inner = |path: PathBuf| {
            let target = target.join(path.file_name().unwrap_or_default());
            Input::Copy { source: path, target, follow: follow.clone(), nar_hash: None }
        };
        above.push(real);
        let inner = unfolded(entries.into_iter().map(inner).collect(), above)?;
        above.pop();
        let has_weights = inner.iter().any(|input| match input {
            Input::Copy { source, target, .. } => is_weights(&target.to_string_lossy()) && source.is_file(),
            _ => false,
        });
        if has_weights { all.extend(inner) } else { all.push(input) }
    }
    Ok(all)
}

fn of_plan(made: &BTreeMap<Recipe, BuiltLayer>, planned: impl IntoIterator<Item = Planned>) -> Vec<BuiltLayer> {
    planned.into_iter().map(|planned| layer(made, planned)).collect()
}

fn read(path: Option<&Path>) -> Result<(ImageInMemory, Name, Vec<BuiltLayer>), BuildError> {
    let path = path.unwrap_or(Path::new(""));
    let directory = ImageDir::open(path)?;
    let summary = directory.summary();
    let unfit = |message: &str| BuildError::Unfit { path: path.to_owned(), message: message.to_owned() };
    let ([platform], ImageKind::Model) = (&summary.platforms[..], summary.kind) else {
        return Err(unfit("is not a model; build it from a spec with \"kind\": \"model\""));
    };
    let mut layers = directory.layers(platform)?;
    // What the image has beside the model is for those who look at it alone.
    layers.retain(|layer| layer.record.kind == LayerKind::Model);
    let Some(name) = platform.models.first().filter(|_| !layers.is_empty()) else {
        return Err(unfit("is a model without a name or a layer; build it again"));
    };
    Ok((directory.to_memory()?, name.clone(), layers))
}
