//! From a spec and a closure graph to images: plan, hash every layer once, write config, manifest and index.
//!
//! Layers that several images share are hashed once, layers that were built before not at all; the largest first, in parallel.

pub(crate) mod bundle;
mod bundle_archives;
pub(crate) mod bundle_content;
pub(crate) mod bundle_files;
mod bundle_patches;
pub(crate) mod check_archives;
pub(crate) mod check_bundle;
mod facts;
pub(crate) mod import_image;
pub(crate) mod index;
pub(crate) mod layer_set;
pub(crate) mod lint;
mod models;
mod policy;
pub(crate) mod runs;
mod scan;
mod secrets;
pub(crate) mod since;
pub(crate) mod stack;
pub(crate) mod upstream_image;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub(crate) use self::facts::Outlook;
use self::models::BuiltModel;
pub(crate) use self::models::{model, outlook};
pub(crate) use self::policy::against_policy;
pub(crate) use self::secrets::{Surveys, foreseen, survey};
use crate::build::layer_set::read_all_layers;
use crate::build::upstream_image::{UpstreamImage, UpstreamImageError, covers, hides};
use crate::class::{Class, Classified};
use crate::disk::pairs::in_pairs;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::image::closure::ImageClosure;
use crate::image::layout::{ImageDir, ImageInMemory, LayoutError, VERSION, changed};
use crate::image::summary::{ImageKind, PlatformRecord, Summary};
use crate::image::{self, About, BuiltLayer, LayerKind, LayerRecord, kept, models_of};
use crate::layer::output::{Output, Verify};
use crate::layer::{Hashed, LargeFiles, LayerError, Perm, Recipe, digest_of};
use crate::model::forms::labels::MODELS;
use crate::model::licence::policy::PolicyError;
use crate::model::read::inspect::InspectError;
use crate::names::Name;
use crate::nix::closure::ClosureGraph;
use crate::oci::reference::{Reference, ReferenceError, file_name};
use crate::oci::strict::{self, Refused};
use crate::plan::{self, ImagePlan, ImageRequest, PlanError, Planned, PlannedModel};
use crate::secrets::Verdict;
use crate::spec::owners::{self, OwnersError};
use crate::spec::service::ServiceConfig;
use crate::spec::{ImageSpec, LayerSpec, ModelSource, SpecError, StackSpec};

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BuildError {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An image that was not built here, or is built upon, cannot be used.
    #[error(transparent)]
    Base(#[from] UpstreamImageError),
    /// Something that was built before cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The modes and owners that commands set in a tree.
    #[error(transparent)]
    Owners(#[from] OwnersError),
    /// The bytes of a layer cannot be had.
    #[error("layer {title}: {source}")]
    Layer {
        /// What is in it.
        title: String,
        source: LayerError,
    },
    /// A directory that was built before is not what it is used for.
    #[error("{path}: {message}", path = path.display())]
    Unfit { path: PathBuf, message: String },
    /// Two models of one stack with one name.
    #[error("two models of the stack are called '{0}', but have different bytes; give one of them another name")]
    ModelName(String),
    /// A name or a tag.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A key of the spec that does not fit what was built before.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A file of a model is not what its name says, or is damaged.
    #[error("model '{name}': {source}")]
    Model {
        name: String,
        /// What is wrong with which file.
        source: InspectError,
    },
    /// A model that a stack may not have.
    #[error(transparent)]
    Licence(#[from] PolicyError),
    /// What the rules of a stack are against, a line for each.
    #[error("{}", .0.join("; "))]
    Policy(Vec<String>),
    /// What looks like a secret, or is allowed for nothing.
    #[error("{}", .0.lines().join("; "))]
    Secrets(Verdict),
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for BuildError {
    fn class(&self) -> Class {
        match self {
            Self::Plan(error) => error.class(),
            Self::Base(error) => error.class(),
            Self::Layout(error) => error.class(),
            Self::Owners(error) => error.class(),
            Self::Layer { source, .. } => source.class(),
            Self::Reference(error) => error.class(),
            Self::Spec(error) => error.class(),
            Self::Model { source, .. } => source.class(),
            Self::Licence(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Secrets(_) => Class::Usage,
            Self::Unfit { .. } | Self::ModelName(_) | Self::Policy(_) => Class::Failed,
        }
    }
}

/// Where layer blobs are put while they are hashed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blobs<'a> {
    /// An existing `blobs/sha256` folder.
    pub(crate) folder: &'a Path,
}

/// A stack, ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    /// The images by name.
    pub(crate) images: Vec<ImageInMemory>,
    /// The models' own images by name.
    pub(crate) models: Vec<(Name, ImageInMemory)>,
    /// How containers of the images are run.
    pub(crate) services: BTreeMap<String, ServiceConfig>,
    /// Models whose licence is not known, where that matters.
    pub(crate) warnings: Vec<String>,
    /// The large files of the layers that were made.
    pub(crate) large: LargeFiles,
}

/// Builds one image; the large files of its layers are beside it.
///
/// # Errors
/// See [`BuildError`].
pub(crate) fn image(
    spec: ImageSpec,
    graph: &ClosureGraph,
    blobs: Option<Blobs<'_>>,
    progress: &Progress,
) -> Result<(ImageInMemory, LargeFiles), BuildError> {
    let models = models::all(&spec.models, graph, blobs, progress)?;
    let plan = plan::plan_images(graph, vec![request(spec, &models)?])?.remove(0);
    check_above(&plan)?;
    let layers = make(&plan.layers.iter().collect::<Vec<_>>(), graph, blobs, progress)?;
    let mut verdict = secrets::of_models(&models);
    verdict.extend(secrets::of_image(&plan, &layers));
    secrets::pass(verdict)?;
    Ok((finish(plan, graph, &layers)?, large_files_of(layers)))
}

/// Builds layers by themselves, and says what is known of their store paths; the layers that they lie on come first.
///
/// # Errors
/// See [`BuildError`].
pub(crate) fn layers(
    spec: &LayerSpec,
    graph: &ClosureGraph,
    progress: &Progress,
) -> Result<(Vec<BuiltLayer>, ImageClosure), BuildError> {
    let (below, known) = read_all_layers(&spec.layers, &spec.packages)?;
    let spec = &LayerSpec { perms: with_owners(&spec.owners, &spec.perms)?, ..spec.clone() };
    let planned = plan::plan_layers(graph, spec, &below)?;
    let made = make(&planned.iter().collect::<Vec<_>>(), graph, None, progress)?;
    secrets::pass(secrets::of_layers(spec, &planned, &made))?;
    // What these layers leave out is in those below: an image that names the upper ones gets both.
    let own = planned.into_iter().map(|planned| layer(&made, planned));
    let all: Vec<BuiltLayer> = below.into_iter().chain(own).collect();
    let closure = ImageClosure::new(all.iter().map(|layer| &layer.recipe), graph, &spec.store_dir, known);
    Ok((all, closure))
}

/// Builds all images of a stack, and every model it names.
///
/// # Errors
/// See [`BuildError`].
pub(crate) fn stack(spec: &StackSpec, graph: &ClosureGraph, progress: &Progress) -> Result<Stack, BuildError> {
    let sources = spec.images.iter().flat_map(|image| &image.models).chain(&spec.models);
    let sources: Vec<ModelSource> = sources.cloned().collect();
    // Before anything is hashed, so that what may not be there costs no time.
    let mut warnings = policy::check(spec, graph, progress)?;
    let models = models::all(&sources, graph, None, progress)?;
    // By name: the order in the spec is not part of what a stack is.
    let mut specs: Vec<&ImageSpec> = spec.images.iter().collect();
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    let requests = specs.into_iter().map(|image| request(image.clone(), &models)).collect::<Result<_, _>>()?;
    let plans = plan::plan_images(graph, requests)?;
    plans.iter().try_for_each(check_above)?;
    let planned: Vec<&Planned> = plans.iter().flat_map(|plan| &plan.layers).collect();
    let layers = make(&planned, graph, None, progress)?;
    let mut verdict = secrets::of_models(&models);
    plans.iter().for_each(|plan| verdict.extend(secrets::of_image(plan, &layers)));
    secrets::pass(verdict)?;
    let mut images = plans.into_iter().map(|plan| finish(plan, graph, &layers)).collect::<Result<Vec<_>, _>>()?;
    for path in &spec.built {
        let built = ImageDir::open(path)?.to_memory()?;
        let unfit = |message| Err(BuildError::Unfit { path: path.clone(), message });
        if let Some(other) =
            images.iter().find(|image| file_name(&image.summary.name) == file_name(&built.summary.name))
        {
            return unfit(format!("has the name of another image of the stack, {}", other.summary.reference));
        }
        if built.summary.kind == ImageKind::Model {
            return unfit("is a model; name it in 'models'".to_owned());
        }
        let weights = built.summary.layers().into_iter().filter(|layer| layer.kind == LayerKind::Model);
        let known = |layer: &&LayerRecord| models.values().any(|model| model.has(layer.digest));
        if let Some(layer) = weights.into_iter().find(|layer| !known(layer)) {
            return unfit(format!(
                "has the model layer '{}' ({}), which no model of the stack has",
                layer.title,
                layer.digest.short()
            ));
        }
        images.push(built);
    }
    images.sort_by(|a, b| a.summary.name.cmp(&b.summary.name));
    let names: BTreeSet<String> = images.iter().map(|image| file_name(&image.summary.name)).collect();
    let services = spec.services_of(&names)?;
    warnings.extend(secrets::of_services(&services));
    // An image that a new one is built upon may bring models that the stack does not name.
    let inherited: BTreeSet<&Name> = images
        .iter()
        .flat_map(|image| image.summary.platforms.iter().flat_map(|platform| &platform.models))
        .filter(|name| !models.contains_key(*name))
        .collect();
    for name in inherited {
        warnings.extend(spec.licences.check("licences", name, None)?);
    }
    warnings.extend(models.values().flat_map(|model| model.warnings.clone()));
    let models = models.into_iter().map(|(name, model)| (name, model.image)).collect();
    Ok(Stack { images, models, services, warnings, large: large_files_of(layers) })
}

/// The plans of a stack or a single image, with models measured instead of hashed.
///
/// # Errors
/// See [`BuildError`].
pub(crate) fn dry_plan(specs: &[ImageSpec], graph: &ClosureGraph) -> Result<Vec<ImagePlan>, BuildError> {
    let request = |spec: &ImageSpec| {
        let models =
            spec.models.iter().map(|source| models::planned(source, graph)).collect::<Result<_, BuildError>>()?;
        new_request(spec.clone(), models)
    };
    let requests = specs.iter().map(request).collect::<Result<_, BuildError>>()?;
    Ok(plan::plan_images(graph, requests)?)
}

fn request(spec: ImageSpec, models: &BTreeMap<Name, BuiltModel>) -> Result<ImageRequest, BuildError> {
    let named = spec.models.iter().map(|source| {
        let name = models::name_of(source)?;
        let layers = models[&name].layers.clone();
        Ok(PlannedModel::of_layers(name, layers))
    });
    let named: Vec<PlannedModel> = named.collect::<Result<_, BuildError>>()?;
    let names: Vec<Name> = named.iter().map(|model| model.name.clone()).collect();
    let mut request = new_request(spec, named)?;
    names.iter().for_each(|name| request.known.merge(models[name].image.closure.clone()));
    Ok(request)
}

/// Looks whether what a plan puts over the image that it is built upon takes something away.
fn check_above(plan: &ImagePlan) -> Result<(), BuildError> {
    let Some(path) = &plan.spec.from_image else { return Ok(()) };
    let base: Vec<&BuiltLayer> = plan
        .layers
        .iter()
        .filter(|layer| layer.kind == LayerKind::Base)
        .filter_map(|layer| layer.built.as_ref())
        .collect();
    for layer in plan.layers.iter().filter(|layer| layer.kind == LayerKind::Root) {
        if let Some((link, target)) = covers(&base, &layer.recipe)? {
            let (link, target) = (link.display(), target.display());
            let message = format!(
                "has a link at {link}, to {target}; what image '{}' puts below {link} would hide all that is there: put it below what the link leads to",
                plan.spec.name
            );
            return Err(BuildError::Unfit { path: path.clone(), message });
        }
    }
    Ok(())
}

/// Reads what was built before: the image that this one is built upon, and layers.
fn new_request(mut spec: ImageSpec, mut models: Vec<PlannedModel>) -> Result<ImageRequest, BuildError> {
    let (layers, mut known) = read_all_layers(&spec.layers, &spec.packages)?;
    spec.perms = with_owners(&spec.owners, &spec.perms)?;
    let Some(path) = &spec.from_image else {
        return Ok(ImageRequest { spec, models, base: Vec::new(), inherited: None, layers, known });
    };
    let base = UpstreamImage::open(path, &spec.platform)?;
    known.merge(base.closure);
    let targets: Vec<(&Path, &str)> =
        models.iter().flat_map(|model| model.targets().map(|target| (target.as_path(), &*model.name))).collect();
    if let Some((place, target)) = hides(&base.layers, &targets.iter().map(|(target, _)| *target).collect::<Vec<_>>())?
    {
        let model = targets.iter().find(|(other, _)| *other == target).map_or("", |(_, name)| name);
        let message = format!(
            "has {} where model '{model}' is to be, and would hide it: models lie below everything else; give the model another mountPath",
            place.display()
        );
        return Err(BuildError::Unfit { path: path.clone(), message });
    }
    let (weights, rest): (Vec<BuiltLayer>, Vec<BuiltLayer>) =
        base.layers.into_iter().partition(|layer| layer.record.kind == LayerKind::Model);
    let of =
        models_of(&base.models, weights.iter().map(|BuiltLayer { record, .. }| (record.kind, record.part.as_ref())));
    for (n, name) in base.models.into_iter().enumerate() {
        let layers = of.iter().zip(&weights).filter(|(model, _)| **model == Some(n)).map(|(_, layer)| layer.clone());
        models.push(PlannedModel::of_layers(name, layers.collect()));
    }
    Ok(ImageRequest { spec, models, base: rest, inherited: Some(base.inherited), layers, known })
}

/// The rules of a spec, after those for what commands set in its trees: what the spec says counts.
fn with_owners(owners: &BTreeMap<PathBuf, PathBuf>, perms: &[Perm]) -> Result<Vec<Perm>, BuildError> {
    let mut rules = Vec::new();
    for (tree, file) in owners {
        rules.extend(owners::rules(tree, file)?);
    }
    rules.extend_from_slice(perms);
    Ok(rules)
}

/// Hashes what has no digest yet, each recipe once; `blobs` keeps the bytes as well.
fn make(
    planned: &[&Planned],
    graph: &ClosureGraph,
    blobs: Option<Blobs<'_>>,
    progress: &Progress,
) -> Result<BTreeMap<Recipe, BuiltLayer>, BuildError> {
    // What needs no work: its digest is known, and its bytes are kept already or not asked for.
    let is_there =
        |layer: &BuiltLayer| blobs.is_none_or(|Blobs { folder }| folder.join(layer.record.digest.hex()).is_file());
    let mut layers = BTreeMap::new();
    let mut work: BTreeMap<&Recipe, (&Planned, u64)> = BTreeMap::new();
    for planned in planned {
        match &planned.built {
            Some(layer) if is_there(layer) => drop(layers.insert(planned.recipe.clone(), layer.clone())),
            _ => drop(work.insert(&planned.recipe, (planned, 0))),
        }
    }
    let failed = |planned: &Planned, source| BuildError::Layer { title: planned.title.clone(), source };
    work.par_iter_mut().try_for_each(|(_, (planned, size))| {
        *size = planned.foreseen_size(graph).map_err(|source| failed(planned, source))?;
        progress.expect(*size);
        Ok::<_, BuildError>(())
    })?;
    let mut order: Vec<(&Planned, u64)> = work.into_values().collect();
    order.sort_by_key(|(_, size)| Reverse(*size));
    let made = |(planned, _): (&Planned, u64)| {
        let Hashed { digest, size, noted } = match blobs {
            None => digest_of(&planned.recipe, planned.digests.as_ref(), progress)
                .map_err(|source| failed(planned, source))?,
            Some(Blobs { folder }) => keep(planned, folder, progress)?,
        };
        if let Some(layer) = planned.built.as_ref().filter(|layer| layer.record.digest != digest) {
            return Err(changed(&layer.record, &planned.recipe).into());
        }
        let owners = planned.owners();
        let Planned { kind, part, title, why, recipe, .. } = planned.clone();
        let packed = planned.built.as_ref().and_then(|layer| layer.record.packed.clone());
        let record = LayerRecord { digest, size, packed, kind, part, title, why, owners };
        // What was built before was told by its own build.
        let secrets = if planned.built.is_some() { Vec::new() } else { noted.secrets };
        let layer = BuiltLayer {
            record,
            recipe: recipe.clone(),
            checksums: Some(noted.checksums),
            files: noted.files,
            secrets,
            large: Some(noted.large),
        };
        Ok((recipe, layer))
    };
    // Each thread takes the next one: rayon's own splitting would give one thread all the large ones.
    let hashed = if blobs.is_none() { order.len() } else { 0 };
    let all = || order.into_iter().par_bridge().map(made).collect::<Result<Vec<_>, BuildError>>();
    layers.extend(in_pairs(hashed, all)?);
    Ok(layers)
}

/// The large files of those layers whose bytes were read.
fn large_files_of(made: BTreeMap<Recipe, BuiltLayer>) -> LargeFiles {
    made.into_iter().filter_map(|(recipe, layer)| Some((recipe, layer.large?))).collect()
}

/// Hashes a layer and keeps its bytes as a blob, in one pass.
fn keep(planned: &Planned, folder: &Path, progress: &Progress) -> Result<Hashed, BuildError> {
    let _streaming = progress.streaming();
    let temporary = tempfile::Builder::new().prefix(".layer-").tempfile_in(folder).at("create a file in", folder)?;
    let mut output = Output::create(temporary.path(), Verify::Always, true, progress)?;
    let noted =
        planned.recipe.stream_and_note(&mut output, planned.digests.as_ref()).map_err(|source| match source {
            LayerError::Sink(source) => output.failed(source).into(),
            source => BuildError::Layer { title: planned.title.clone(), source },
        })?;
    let (digest, size) = output.finish()?.expect("the digest of everything was asked for");
    let path = folder.join(digest.hex());
    std::fs::set_permissions(temporary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .at("write", &path)?;
    temporary.persist(&path).map_err(|error| error.error).at("rename", &path)?;
    Ok(Hashed { digest, size, noted })
}

fn layer(made: &BTreeMap<Recipe, BuiltLayer>, planned: Planned) -> BuiltLayer {
    // Layers of the same bytes can stand for different things in different images.
    let Planned { kind, part, title, why, recipe, .. } = planned;
    let layer = made[&recipe].clone();
    BuiltLayer { record: LayerRecord { kind, part, title, why, ..layer.record }, ..layer }
}

fn finish(
    plan: ImagePlan,
    graph: &ClosureGraph,
    made: &BTreeMap<Recipe, BuiltLayer>,
) -> Result<ImageInMemory, BuildError> {
    let layers: Vec<BuiltLayer> = plan.layers.into_iter().map(|planned| layer(made, planned)).collect();
    let mut about = About { inherited: plan.inherited, ..About::from(&plan.spec) };
    if !plan.models.is_empty() {
        about.annotations.entry(MODELS.to_owned()).or_insert_with(|| plan.models.join(","));
    }
    let tag = plan.spec.tag.as_deref();
    let image = assemble(&plan.spec.name, tag, &about, &layers, plan.models, ImageKind::Image)?;
    let closure = ImageClosure::new(layers.iter().map(|layer| &layer.recipe), graph, &plan.spec.store_dir, plan.known);
    Ok(ImageInMemory { closure, ..image })
}

fn assemble(
    name: &str,
    tag: Option<&str>,
    about: &About,
    layers: &[BuiltLayer],
    models: Vec<Name>,
    kind: ImageKind,
) -> Result<ImageInMemory, BuildError> {
    let records: Vec<LayerRecord> = layers.iter().map(|layer| layer.record.clone()).collect();
    let (config, manifest) = image::manifest(about, layers);
    let digest = manifest.digest;
    let reference = Reference::new(name, tag.unwrap_or(&digest.short()))?;
    let platform = PlatformRecord {
        platform: about.platform.clone(),
        digest,
        config_digest: config.digest,
        size: records.iter().map(|record| record.size).sum(),
        layers: records,
        models,
    };
    // Nothing that a spec can say gets here; what an image inherits was checked where it was read.
    let unfit = |error: Refused| UpstreamImageError::Unfit { name: reference.to_string(), message: error.to_string() };
    strict::check_image(&manifest.bytes, &config.bytes).map_err(unfit)?;
    let summary = Summary {
        version: VERSION,
        kind,
        name: reference.repository(),
        reference,
        digest,
        origin: None,
        base: about.inherited.as_ref().and_then(|inherited| inherited.origin.clone()),
        model: None,
        without: Vec::new(),
        expects: Vec::new(),
        patches: Vec::new(),
        platforms: vec![platform],
    };
    let ((recipes, checksums), closure) = (kept(layers), ImageClosure::default());
    Ok(ImageInMemory { summary, top: manifest, blobs: vec![config], recipes, checksums, closure })
}
