//! Which layers an image has, and in which order.
//!
//! Bottom to top: models, layers built by themselves, the closure ([`split`](crate::plan::closure_split)), and the root layer with
//! everything that is not below the store. A model is at the very bottom with nothing of the app in it, so one blob with
//! one chain ID serves every image, version and architecture. Of several models the largest is lowest, ties by name:
//! the order in a spec says nothing, because only a common beginning is shared.
//!
//! The plan reads no file. Reproducibility: a function of the specs and of the closure graph.

pub(crate) mod closure_split;
mod models;
pub(crate) mod plan_lock;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(crate) use self::models::{PlannedModel, warnings};
use crate::class::{Class, Classified};
use crate::image::closure::ImageClosure;
use crate::image::{BuiltLayer, Inherited, LayerKind, LayerRecord, ModelPart};
use crate::layer::{FORMAT, Input, Known, LayerError, Perm, Recipe, measure};
use crate::names::Name;
use crate::nix::closure::{ClosureError, ClosureGraph};
use crate::nix::store_path::{StoreDir, StorePath};
use crate::plan::closure_split::{ClosurePart, SplitRequest, split};
use crate::spec::content::{SpecContent, StoreRoot};
use crate::spec::{ImageSpec, LAYER_LIMIT, LayerSpec};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PlanError {
    /// The closure graph cannot answer.
    #[error("image '{image}': {source}")]
    Closure {
        image: String,
        /// What is wrong with the graph.
        source: ClosureError,
    },
    /// More layers than an image can have.
    #[error(
        "image '{image}' would have {count} layers ({models} of models, {others} others); no image may have more than {LAYER_LIMIT}: lower maxLayers or leave models out"
    )]
    TooManyLayers {
        image: String,
        /// All of them.
        count: usize,
        /// Those of models.
        models: usize,
        /// Those above.
        others: usize,
    },
    /// Two models put a file at one place.
    #[error("image '{image}': models '{first}' and '{second}' both put something at {target}; give one of them another mountPath", target = target.display())]
    ModelsCollide {
        image: String,
        /// One model.
        first: String,
        /// The other.
        second: String,
        /// The place in the image.
        target: PathBuf,
    },
    /// A store path that the image must not have.
    #[error("image '{image}': {path} is forbidden by '{expression}'; it comes by way of {}", .chain.join(" -> "))]
    Forbidden {
        image: String,
        /// The store path.
        path: StorePath,
        /// The expression.
        expression: String,
        /// The way along references to it from what the image names.
        chain: Vec<String>,
    },
    /// A perms rule that no layer can follow.
    #[error("'{name}': a perms rule is for {path}, which is not an input of it", path = path.display())]
    PermWithoutInput {
        /// The image or layer.
        name: String,
        /// The path in the rule.
        path: PathBuf,
    },
}

impl Classified for PlanError {
    fn class(&self) -> Class {
        match self {
            Self::Closure { source, .. } => source.class(),
            Self::TooManyLayers { .. }
            | Self::ModelsCollide { .. }
            | Self::Forbidden { .. }
            | Self::PermWithoutInput { .. } => Class::Failed,
        }
    }
}

/// One layer of a plan.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// What it is for.
    pub(crate) kind: LayerKind,
    /// For a layer of a model that has several: which part of it this is.
    pub(crate) part: Option<ModelPart>,
    /// What is in it, in a few words.
    pub(crate) title: String,
    /// Why it is where it is.
    pub(crate) why: String,
    /// How its bytes are made.
    pub(crate) recipe: Recipe,
    /// What it was built as, where that is known.
    pub(crate) built: Option<BuiltLayer>,
    /// For a layer whose files are to be known by their digests, as those of models: the digests that are known already.
    pub(crate) digests: Option<Known>,
}

impl Planned {
    /// A layer that exists.
    #[must_use]
    pub(crate) fn from_layer(layer: BuiltLayer) -> Self {
        let LayerRecord { kind, part, title, why, .. } = layer.record.clone();
        Self { kind, part, title, why, recipe: layer.recipe.clone(), built: Some(layer), digests: None }
    }

    /// Whether it holds tensors of a model.
    #[must_use]
    pub(crate) fn is_weights(&self) -> bool {
        self.kind == LayerKind::Model && self.part.as_ref().is_none_or(|part| part.weights)
    }

    /// About how many bytes it has: what Nix has noted of its store paths, and a look at what lies elsewhere.
    ///
    /// # Errors
    /// If that cannot be looked at.
    pub(crate) fn foreseen_size(&self, graph: &ClosureGraph) -> Result<u64, LayerError> {
        let noted = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str())?;
            graph.get(&StorePath::from_base_name(name).ok()?).map(|info| info.nar_size)
        };
        let size = |input: &Input| match input {
            Input::StorePath { path, .. } => noted(path),
            Input::Copy { .. } | Input::Links { .. } | Input::Blob { .. } => None,
            _ => Some(0),
        };
        self.recipe.inputs.iter().map(size).sum::<Option<u64>>().map_or_else(|| measure(&self.recipe), Ok)
    }

    /// The store paths that its bytes come from, and the host paths that are in none.
    #[must_use]
    pub(crate) fn owners(&self) -> Vec<String> {
        let is_store_path = |path: &&Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| StorePath::from_base_name(name).is_ok())
        };
        let mut owners: Vec<String> = Vec::new();
        for source in self.recipe.sources() {
            let owner = source.ancestors().filter(is_store_path).last().unwrap_or(source);
            let owner = owner.display().to_string();
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
        owners
    }
}

/// An image to plan, with the parts that were built before.
#[derive(Debug, Clone)]
pub(crate) struct ImageRequest {
    /// What was asked for.
    pub(crate) spec: ImageSpec,
    /// Its models, in any order.
    pub(crate) models: Vec<PlannedModel>,
    /// The layers of the image that it is built upon but for those of models, bottom first.
    pub(crate) base: Vec<BuiltLayer>,
    /// What that image hands down.
    pub(crate) inherited: Option<Inherited>,
    /// Its explicit layers, bottom first.
    pub(crate) layers: Vec<BuiltLayer>,
    /// What is known of the store paths of that image and of these layers.
    pub(crate) known: ImageClosure,
}

/// The plan of one image.
#[derive(Debug, Clone)]
pub(crate) struct ImagePlan {
    /// What was asked for.
    pub(crate) spec: ImageSpec,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<Planned>,
    /// The names of its models, lowest first.
    pub(crate) models: Vec<Name>,
    /// What the image that it is built upon hands down.
    pub(crate) inherited: Option<Inherited>,
    /// What is known of the store paths of what was built before.
    pub(crate) known: ImageClosure,
}

/// Plans all images of a stack at once.
///
/// # Errors
/// See [`PlanError`].
pub(crate) fn plan_images(graph: &ClosureGraph, requests: Vec<ImageRequest>) -> Result<Vec<ImagePlan>, PlanError> {
    let closures: Vec<SplitRequest> = requests
        .iter()
        .map(|ImageRequest { spec, base, layers, .. }| {
            let mut closure = closure(graph, &spec.roots(), &spec.name)?;
            let below: Vec<&BuiltLayer> = base.iter().chain(layers).collect();
            check_names(graph, spec, &closure, &below)?;
            without_layers(&mut closure, below, &spec.store_dir);
            Ok(SplitRequest { closure, max_layers: spec.max_layers, locked: spec.closure_layers.clone() })
        })
        .collect::<Result<_, PlanError>>()?;
    let parts = split(graph, &closures);
    let names: Vec<String> = requests.iter().map(|request| request.spec.name.clone()).collect();
    requests.into_iter().zip(parts).map(|(request, parts)| plan_image(graph, &names, request, &parts)).collect()
}

fn plan_image(
    graph: &ClosureGraph,
    names: &[String],
    ImageRequest { spec, mut models, base, inherited, layers, known }: ImageRequest,
    parts: &[ClosurePart],
) -> Result<ImagePlan, PlanError> {
    models::sort(&mut models);
    if let Some((first, second, target)) = models::collision(&models) {
        return Err(PlanError::ModelsCollide { image: spec.name, first, second, target });
    }
    let model_names: Vec<Name> = models.iter().map(|model| model.name.clone()).collect();
    let mut planned = models::stacked(models);
    let of_models = planned.len();
    planned.extend(base.into_iter().chain(layers).map(Planned::from_layer));
    let named = |part: &ClosurePart| part.users.iter().map(|&n| names[n].as_str()).collect::<Vec<_>>().join(", ");
    let shared_by = |part: &ClosurePart| match part.users.len() {
        1 if spec.closure_layers.is_some() => "where the plan lock has it".to_owned(),
        count if spec.closure_layers.is_some() => {
            format!("where the plan lock has it, in {count} images ({})", named(part))
        }
        1 => format!("only {} needs it", spec.name),
        count => format!("needed by {count} images ({}), so it lies below what fewer need", named(part)),
    };
    planned.extend(parts.iter().map(|part| closure_layer(graph, &spec.store_dir, part, shared_by(part))));
    let engine_inputs = match spec.brings_mount_points() {
        true => vec![Input::MountPoints, Input::accounts(spec.config.user.as_deref())],
        false => Vec::new(),
    };
    planned.extend(root_layer(graph, &spec.store_dir, (&spec.name, &spec.content, engine_inputs, &spec.perms))?);

    if planned.len() > LAYER_LIMIT {
        let (image, count) = (spec.name, planned.len());
        return Err(PlanError::TooManyLayers { image, count, models: of_models, others: count - of_models });
    }
    Ok(ImagePlan { spec, layers: planned, models: model_names, inherited, known })
}

/// The layers of a [`LayerSpec`], bottom first.
///
/// # Errors
/// See [`PlanError`].
pub(crate) fn plan_layers(
    graph: &ClosureGraph,
    spec: &LayerSpec,
    below: &[BuiltLayer],
) -> Result<Vec<Planned>, PlanError> {
    let mut closure = closure(graph, &spec.content.roots(&spec.store_dir), &spec.name)?;
    without_layers(&mut closure, below, &spec.store_dir);
    let parts = split(graph, &[SplitRequest { closure, max_layers: spec.max_layers, locked: None }]);
    let why = format!("built by itself, as '{}'", spec.name);
    let mut planned: Vec<_> =
        parts[0].iter().map(|part| closure_layer(graph, &spec.store_dir, part, why.clone())).collect();
    // A rule for one input goes to the layers that have it; the others would refuse it.
    let mut followed: BTreeSet<&PathBuf> = BTreeSet::new();
    for layer in &mut planned {
        let sources: BTreeSet<PathBuf> = layer.recipe.sources().into_iter().cloned().collect();
        for perm in &spec.perms {
            if perm.path.as_ref().is_none_or(|path| sources.contains(path)) {
                followed.extend(&perm.path);
                layer.recipe.perms.push(perm.clone());
            }
        }
    }
    let rest: Vec<Perm> = spec
        .perms
        .iter()
        .filter(|perm| perm.path.as_ref().is_none_or(|path| !followed.contains(path)))
        .cloned()
        .collect();
    if let Some(mut root) = root_layer(graph, &spec.store_dir, (&spec.name, &spec.content, Vec::new(), &rest))? {
        root.why = why;
        planned.push(root);
    }
    Ok(planned)
}

fn closure(graph: &ClosureGraph, roots: &[StoreRoot], name: &str) -> Result<BTreeSet<StorePath>, PlanError> {
    let mut starts = BTreeSet::new();
    for root in roots {
        match (root, graph.get(root.path())) {
            (StoreRoot::Moved(_), Some(info)) if !info.self_reference => starts.extend(info.references.iter().cloned()),
            _ => starts.extend(in_graph(graph, root).cloned()),
        }
    }
    graph.closure_of(&starts).map_err(|source| PlanError::Closure { image: name.to_owned(), source })
}

/// The store path that a root stands for: a text may mention it by its hash alone.
fn in_graph<'a>(graph: &'a ClosureGraph, root: &'a StoreRoot) -> Option<&'a StorePath> {
    match (root, graph.get(root.path())) {
        (StoreRoot::Mentioned(path), None) => {
            graph.iter().map(|info| &info.path).find(|known| known.hash_part() == path.hash_part())
        }
        _ => Some(root.path()),
    }
}

/// Looks at the names of all store paths of an image: its closure, what it moves elsewhere, and its layers.
fn check_names(
    graph: &ClosureGraph,
    spec: &ImageSpec,
    closure: &BTreeSet<StorePath>,
    layers: &[&BuiltLayer],
) -> Result<(), PlanError> {
    let roots = spec.roots();
    let in_layers: BTreeMap<StorePath, &BuiltLayer> =
        layers.iter().flat_map(|layer| paths_of(layer, &spec.store_dir).map(move |path| (path, *layer))).collect();
    let named = || roots.iter().filter_map(|root| in_graph(graph, root));
    let all: BTreeSet<&StorePath> = closure.iter().chain(named()).chain(in_layers.keys()).collect();
    let fit = |path| Some((path, spec.forbid.iter().find(|pattern| pattern.fits(path))?));
    let Some((path, pattern)) = all.into_iter().find_map(fit) else { return Ok(()) };
    let mut chain: Vec<String> = Vec::new();
    let mut links = graph.chain(named(), path);
    if let (None, Some(layer)) = (&links, in_layers.get(path)) {
        chain.push(format!("layer '{}'", layer.record.title));
        // From what nothing else in the layers refers to.
        let referred = |path: &&StorePath| {
            graph.iter().any(|info| in_layers.contains_key(&info.path) && info.references.contains(path))
        };
        links = graph.chain(in_layers.keys().filter(|path| !referred(path)), path);
    }
    let links = links.unwrap_or_else(|| vec![path.clone()]);
    chain.extend(links.iter().map(|path| path.base_name().to_owned()));
    let (image, expression) = (spec.name.clone(), pattern.to_string());
    Err(PlanError::Forbidden { image, path: path.clone(), expression, chain })
}

/// The store paths that a layer has as they are.
fn paths_of<'a>(layer: &'a BuiltLayer, store: &'a StoreDir) -> impl Iterator<Item = StorePath> + 'a {
    layer.recipe.inputs.iter().filter_map(|input| match input {
        Input::StorePath { path, .. } => store.parse(&path.to_string_lossy()).ok(),
        _ => None,
    })
}

fn without_layers<'a>(
    closure: &mut BTreeSet<StorePath>,
    layers: impl IntoIterator<Item = &'a BuiltLayer>,
    store: &'a StoreDir,
) {
    for path in layers.into_iter().flat_map(|layer| paths_of(layer, store)) {
        closure.remove(&path);
    }
}

fn closure_layer(graph: &ClosureGraph, store: &StoreDir, part: &ClosurePart, why: String) -> Planned {
    let input = |path: &StorePath| Input::StorePath {
        path: store.display(path).into(),
        nar_hash: graph.get(path).map(|info| info.nar_hash),
    };
    let largest = part.paths.iter().max_by_key(|path| graph.get(path).map(|info| info.nar_size));
    let title = largest.map_or_else(String::new, |path| title(path.name(), part.paths.len()));
    let recipe = Recipe { format: FORMAT, inputs: part.paths.iter().map(input).collect(), perms: Vec::new() };
    Planned { kind: LayerKind::Closure, part: None, title, why, recipe, built: None, digests: None }
}

/// Notes what Nix recorded of the store paths that are moved, to name the one at fault when bytes no longer match.
pub(crate) fn name_hashes(inputs: &mut [Input], graph: &ClosureGraph, store: &StoreDir) {
    for input in inputs {
        if let Input::Copy { source, nar_hash, .. } = input
            && let Ok(path) = store.parse(&source.to_string_lossy())
        {
            *nar_hash = graph.get(&path).map(|info| info.nar_hash);
        }
    }
}

fn title(first: &str, count: usize) -> String {
    if count > 1 { format!("{first} and {} more", count - 1) } else { first.to_owned() }
}

fn root_layer(
    graph: &ClosureGraph,
    store: &StoreDir,
    (name, content, engine_inputs, perms): (&str, &SpecContent, Vec<Input>, &[Perm]),
) -> Result<Option<Planned>, PlanError> {
    let mut inputs = content.root_inputs();
    name_hashes(&mut inputs, graph, store);
    let what: Vec<&str> = [
        ("links", content.contents.is_empty() && content.symlinks.is_empty()),
        ("files", content.copy_to_root.is_empty() && content.files.is_empty() && content.texts.is_empty()),
        ("directories", content.directories.is_empty()),
        ("mount points", engine_inputs.is_empty()),
    ]
    .into_iter()
    .filter_map(|(word, empty)| (!empty).then_some(word))
    .collect();
    inputs.extend(engine_inputs);
    let recipe = Recipe { format: FORMAT, inputs, perms: perms.to_vec() };
    let sources = recipe.sources();
    if let Some(path) = perms.iter().filter_map(|perm| perm.path.as_ref()).find(|path| !sources.contains(path)) {
        return Err(PlanError::PermWithoutInput { name: name.to_owned(), path: path.clone() });
    }
    let planned = Planned {
        kind: LayerKind::Root,
        part: None,
        title: what.join(", "),
        why: "what is not below the store changes most easily, and is small".to_owned(),
        recipe,
        built: None,
        digests: None,
    };
    Ok((!planned.recipe.inputs.is_empty()).then_some(planned))
}
