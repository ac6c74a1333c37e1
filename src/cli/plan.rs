//! `windlass plan`

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::failure::{Context, Result, failed, usage};
use super::host::{self, HostArgs};
use super::into::{ChosenEngine, HostEngine, IntoArgs};
use super::printer::{Printer, count, size};
use super::push::Packing;
use super::status::free_at;
use super::targets::{lean, targets};
use super::tree::{self, PathBytes};
use super::view::{self, SeenLayer, ViewedImage};
use super::{load, load_plan};
use crate::build::{self, Outlook, Surveys, lint};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::disk::{Staging, files};
use crate::engine::target::{LoadOptions, LoadReason, LoadStep, LoadTarget, plan};
use crate::image::summary::PlatformRecord;
use crate::image::{LayerKind, models_of};
use crate::layer::{LargeFiles, extent};
use crate::model::read::facts::Facts;
use crate::names::Name;
use crate::nix::store_path::StorePath;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, file_name, full_name};
use crate::plan::plan_lock::PlanLock;
use crate::plan::{ImagePlan, warnings};
use crate::podman::load::sizes::{MeasuredSizes, stored, with_records};
use crate::podman::storage::places::Places;
use crate::publish::pack::packed_size;
use crate::secrets::Verdict;
use crate::spec::Spec;

/// Show which layers images have, in which order, and why.
///
/// For a spec nothing is hashed: sizes are exact, digests are not known yet. For an image directory or a stack it shows
/// the plan that was carried out. Layers are listed bottom first, then models with what their files say of themselves. What
/// pays twice for weights is warned of: a model in another layer than its own, models in an order that images do not share,
/// the same file in two models, a storage driver of this host that shares nothing, and licences that the stack does not allow.
///
/// For what was built it also says what `windlass load` would do with it here: whether each image is new, present or changed,
/// what this host would write, and the disk that this needs and that there is. Sizes are those of the layers as they came or as
/// a push without compression sends them; --compression packs them, to say how large a push of that kind would be.
/// What looks like a secret is listed with its reason, as the build would refuse it: see `allowSecrets` of the spec.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// A spec of an image or a stack, an image directory, or a stack.
    path: PathBuf,
    /// The closure graph, as `nix path-info --json --recursive` prints it.
    #[arg(long, value_name = "FILE")]
    closure: Option<PathBuf>,
    /// List every store path of every layer.
    #[arg(long)]
    owners: bool,
    /// Draw the layers as a tree, each with its store paths and their bytes.
    #[arg(long, conflicts_with = "owners")]
    tree: bool,
    /// Write the layers of the images' closures to this file, a plan lock: with it they move only when it is written again.
    #[arg(long, value_name = "plan.lock.json")]
    write: Option<PathBuf>,
    /// Pack the layers of what was built, to count what a push with this compression would send; reads every byte.
    #[arg(long, value_enum, default_value_t = Packing::None)]
    compression: Packing,
    #[command(flatten)]
    into: IntoArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PlannedImage {
    name: String,
    /// Name and tag.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<Reference>,
    /// Digest of the manifest; not known before the build.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    /// Bytes of its layers, as they came.
    size: u64,
    /// Bytes of its layers as a push sends them, with the compression that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed: Option<u64>,
    /// What a load would do with it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<Here>,
    models: Vec<Name>,
    layers: Vec<SeenLayer>,
    /// What tells its layers apart and what their files take, from the bottom up.
    #[serde(skip)]
    chain: Vec<(String, u64)>,
}

/// What a load of an image would do on this host.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Here {
    /// `new`, `present` or `changed`.
    state: &'static str,
    /// Why it would be loaded, or not.
    reason: String,
    /// `present`, `name`, `link` or `pull`.
    action: &'static str,
    /// Bytes that this host would write, and that stay.
    bytes_to_write: u64,
}

/// What a load of all would need on this host.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Need {
    bytes_to_write: u64,
    /// Bytes that are needed at the fullest moment, with those that stay.
    bytes_needed: u64,
    /// Free space in `place`.
    free: u64,
    place: PathBuf,
    /// What is to be known before.
    notes: Vec<String>,
}

/// A model of the images, or beside them.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PlanModelRow {
    name: String,
    /// Bytes of its layers with weights.
    size: u64,
    /// What its files say.
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<Facts>,
    /// By its annotations or its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    licence: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanReport {
    images: Vec<PlannedImage>,
    models: Vec<PlanModelRow>,
    /// Bytes that Podman's own store takes for all of it: a layer lies there once for each list of layers below it.
    stored: u64,
    /// What a load would need here; not for a spec, nor where there is no Podman.
    #[serde(skip_serializing_if = "Option::is_none")]
    need: Option<Need>,
    /// Why that is not known, of what was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    warnings: Vec<String>,
    /// What looks like a secret, and would not be built.
    secrets: Verdict,
    /// Bytes of the store paths; for --tree.
    #[serde(skip)]
    bytes: PathBytes,
}

pub(super) fn run(args: &PlanArgs, printer: &Printer) -> Result<()> {
    if args.compression != Packing::None && !args.path.is_dir() {
        return Err(usage("--compression counts what was built").hint("build it first: `windlass build`"));
    }
    let mut report = if args.path.is_dir() { of_directory(args)? } else { of_spec(args)? };
    if report.images.iter().any(|image| !image.models.is_empty()) {
        // A host without Podman has no driver that costs anything.
        let places = Places::find(&host::caller(), &args.host.overrides()?, &Progress::new()).ok();
        report.warnings.extend(places.and_then(|places| lint::driver(&places.driver)));
    }
    if let Some(path) = &args.write {
        write(&report, path)?;
    }
    if printer.json() {
        return printer.value(&report);
    }
    for image in &report.images {
        printer.line(format!("{}: {}, {}", image.name, count(image.layers.len(), "layer"), size(image.size)))?;
        if let Some(reference) = &image.reference {
            let digest = image.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
            let pushed = image.pushed.map(|bytes| format!(", {} in a push", size(bytes))).unwrap_or_default();
            printer.line(format!("  {reference}{digest}{pushed}"))?;
        }
        if let Some(Here { state, reason, bytes_to_write, .. }) = &image.here {
            let why = if state == reason { String::new() } else { format!(" ({reason})") };
            printer.line(format!("  this host: {state}{why}, {} to write", size(*bytes_to_write)))?;
        }
        if args.tree {
            tree::print(&image.layers, &report.bytes, printer)?;
            printer.line("")?;
            continue;
        }
        for (n, layer) in image.layers.iter().enumerate() {
            let digest = layer.digest.map(|digest| format!("  {}", digest.short())).unwrap_or_default();
            printer.line(format!(
                "  {:2}  {:7}  {:>9}{digest}  {}",
                n + 1,
                layer.kind.word(),
                size(layer.size),
                layer.title
            ))?;
            if !layer.why.is_empty() {
                printer.line(format!("      {}", layer.why))?;
            }
            for owner in view::owners(layer, args.owners) {
                printer.line(format!("        {owner}"))?;
            }
        }
        printer.line("")?;
    }
    for PlanModelRow { name, size: bytes, facts, licence } in &report.models {
        let facts = facts.as_ref().map(|facts| Facts { licence: licence.clone(), ..facts.clone() });
        let words =
            facts.map_or_else(|| "nothing is known of its files".to_owned(), |facts| view::in_words(&facts).join(", "));
        printer.line(format!("model {name}: {}, {words}", size(*bytes)))?;
    }
    report.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    if !report.secrets.is_good() {
        printer.note("warning: this would not be built:");
        report.secrets.lines().iter().for_each(|line| printer.note(line));
    }
    if let Some(Need { bytes_to_write, bytes_needed, free, place, notes }) = &report.need {
        notes.iter().try_for_each(|note| printer.line(format!("this host: {note}")))?;
        printer.line(format!(
            "this host: {} to write, {} needed meanwhile, {} free in {}",
            size(*bytes_to_write),
            size(*bytes_needed),
            size(*free),
            place.display()
        ))?;
    }
    if let Some(why) = &report.unknown {
        printer.line(format!("this host: what a load would do is not known: {why}"))?;
    }
    let layers: Vec<&SeenLayer> = report.images.iter().flat_map(|image| &image.layers).collect();
    let mut once: Vec<_> = layers.iter().map(|layer| (&layer.owners, &layer.title, layer.size)).collect();
    once.sort();
    once.dedup();
    let all = layers.iter().map(|layer| layer.size).sum();
    let shared = layers.len() - once.len();
    printer.line(format!(
        "{}, {} ({shared} of them shared); {} in all, {} in Podman's own store",
        count(report.images.len(), "image"),
        count(layers.len(), "layer"),
        size(all),
        size(report.stored),
    ))
}

/// Writes the plan lock.
fn write(report: &PlanReport, path: &Path) -> Result<()> {
    let store_path = |owner: &String| {
        let name = Path::new(owner).file_name()?.to_str()?;
        StorePath::from_base_name(name).ok()
    };
    let mut images = Vec::new();
    for image in &report.images {
        let closure = image.layers.iter().filter(|layer| layer.kind == LayerKind::Closure);
        let layers: Vec<Vec<StorePath>> =
            closure.map(|layer| layer.owners.iter().filter_map(store_path).collect()).collect();
        if !layers.is_empty() {
            images.push((file_name(&full_name(&image.name)?), layers));
        }
    }
    if images.is_empty() {
        return Err(usage("there is nothing to lock: no image here has layers of a closure"));
    }
    let lock = PlanLock::new(images.iter().map(|(name, layers)| (name.clone(), layers)));
    let staging = Staging::file(path)?;
    files::write_file(staging.path(), &canonical::to_pretty(&lock), &Progress::new())?;
    Ok(staging.publish()?)
}

/// The models of an image with the bytes of what holds their tensors, lowest first.
fn weights<'a>(models: &'a [Name], layers: &[SeenLayer]) -> Vec<(&'a str, u64)> {
    let of = models_of(models, layers.iter().map(|layer| (layer.kind, layer.part.as_ref())));
    let mut weights: Vec<_> = models.iter().map(|name| (&**name, 0)).collect();
    for (model, layer) in of.into_iter().zip(layers) {
        if let Some(model) = model
            && layer.part.as_ref().is_none_or(|part| part.weights)
        {
            weights[model].1 += layer.size;
        }
    }
    weights
}

/// What was carried out.
fn of_directory(args: &PlanArgs) -> Result<PlanReport> {
    let seen = view::look(&args.path)?;
    let (progress, lean) = (super::session::progress(), lean(&args.path));
    // Archives say which layers there are, and not what is in them.
    let targets = if view::is_of_archives(&lean)? { Vec::new() } else { targets(&[lean], &[])? };
    let (steps, need, unknown) = match here(args, &targets, &progress) {
        Ok((steps, need)) => (steps, Some(need), None),
        Err(error) => (Vec::new(), None, Some(error.to_string())),
    };
    let mut models = Vec::new();
    for image in &seen {
        // A model's own image is called like the one model that it has.
        if image.platform == Platform::of_data() && image.models.len() == 1 {
            let facts = image.model.as_ref().and_then(|model| model.facts.clone());
            let licence = facts.as_ref().and_then(|facts| facts.licence.clone());
            let size = weights(&image.models, &image.layers).iter().map(|(_, size)| size).sum();
            models.push(PlanModelRow { name: image.models[0].to_string(), size, facts, licence });
        }
    }
    let (of_images, of_models) = lint::subjects(&args.path)?;
    let warnings = match of_images.is_empty() && of_models.is_empty() {
        false => lint::lint(&of_images, &of_models, &LargeFiles::new()),
        // Archives say which layers there are, and not what is in them.
        true => warnings(seen.iter().map(|image| (&*image.name, weights(&image.models, &image.layers)))),
    };
    let sizes = MeasuredSizes::default();
    let mut images = Vec::new();
    for ViewedImage { name, reference, digest, size, models, layers, .. } in seen {
        let is_it = |platform: &&PlatformRecord| platform.digest == digest;
        let image = targets
            .iter()
            .find_map(|target| Some((&target.image, target.image.summary().platforms.iter().find(is_it)?)));
        let on_disk = |n: usize, layer: &SeenLayer| match image.and_then(|(image, of)| Some((image, of.layers.get(n)?)))
        {
            Some((image, record)) => sizes.on_disk(image, record),
            None => layer.diff_size(),
        };
        let key = |layer: &SeenLayer| layer.digest.map(|digest| digest.to_string()).unwrap_or_default();
        let chain = layers.iter().enumerate().map(|(n, layer)| (key(layer), on_disk(n, layer))).collect();
        let with = args.compression.compression();
        let pushed = match image {
            Some((image, platform)) => {
                let sizes = platform.layers.par_iter().map(|layer| packed_size(image, layer, with, &progress));
                Some(sizes.collect::<Result<Vec<u64>, _>>()?.into_iter().sum())
            }
            None => None,
        };
        let here = steps.iter().find(|step| step.entry.manifest_digest == digest).map(Here::of);
        let (name, reference, digest) = (name.into(), Some(reference), Some(digest));
        images.push(PlannedImage { name, reference, digest, size, pushed, here, models, layers, chain });
    }
    let stored = stored(&images.iter().map(|image| image.chain.clone()).collect::<Vec<_>>());
    let bytes = if args.tree { PathBytes::at(&args.path)? } else { PathBytes::default() };
    // What was built has passed.
    Ok(PlanReport { images, models, stored, need, unknown, warnings, secrets: Verdict::default(), bytes })
}

impl Here {
    fn of(step: &LoadStep) -> Self {
        let state = match step.reason {
            LoadReason::FirstTime | LoadReason::CacheCleared => "new",
            LoadReason::Present | LoadReason::NameMoved | LoadReason::Forced => "present",
            LoadReason::VersionChanged | LoadReason::Damaged(_) => "changed",
        };
        let (reason, action) = (load::reason(&step.reason), load::action(step.how));
        Self { state, reason, action, bytes_to_write: step.to_write }
    }
}

/// What a load would do here.
fn here(args: &PlanArgs, targets: &[LoadTarget], progress: &Progress) -> Result<(Vec<LoadStep>, Need)> {
    if targets.is_empty() {
        return Err(failed("archives say what is in them, and not what it is made from; plan the lean stack"));
    }
    match args.into.choose(&args.host, progress)? {
        ChosenEngine::Podman => on(&args.host.host(progress)?, targets, progress),
        ChosenEngine::Crio(host) => on(&*host, targets, progress),
        ChosenEngine::Daemon(host) => on(&host, targets, progress),
    }
}

fn on<E: HostEngine>(host: &E, targets: &[LoadTarget], progress: &Progress) -> Result<(Vec<LoadStep>, Need)> {
    let steps = plan(host, targets, LoadOptions::default(), progress)?;
    let place = load_plan::place(host, &steps).to_owned();
    let need = Need {
        bytes_to_write: steps.iter().map(|step| step.to_write).sum(),
        bytes_needed: host.space(&steps)?.iter().map(|space| space.needed).max().unwrap_or(0),
        free: free_at(&place)?,
        notes: host.foretell(targets, &steps),
        place,
    };
    Ok((steps, need))
}

fn of_spec(args: &PlanArgs) -> Result<PlanReport> {
    let json = bounded::text(&args.path, Cap::Document).with_context(|| format!("read {}", args.path.display()))?;
    let spec = Spec::parse(&json).with_context(|| args.path.display().to_string())?;
    let graph = super::closure::graph(&spec, args.closure.as_deref())?;
    let progress = super::session::progress();
    let (specs, sources, stack) = match spec {
        Spec::Image(image) => {
            let sources = image.models.clone();
            (vec![*image], sources, None)
        }
        Spec::Stack(stack) => {
            let sources = stack.images.iter().flat_map(|image| &image.models).chain(&stack.models).cloned().collect();
            (stack.images.clone(), sources, Some(stack))
        }
        Spec::Model(_) | Spec::Layer(_) | Spec::Upstream(_) | Spec::Oci(_) | Spec::Index(_) | Spec::Ollama(_) => {
            return Err(usage("a plan is for an image or a stack").hint("build this, and `windlass inspect` shows it"));
        }
    };
    let plans = build::dry_plan(&specs, &graph)?;
    let outlook = build::outlook(&sources, &graph, &progress)?;
    let rules = stack.as_ref().map(|stack| build::against_policy(stack, &outlook, &graph));
    let rules = rules.transpose()?.unwrap_or_default();
    let surveys = build::survey(&plans)?;
    let secrets = build::foreseen(&plans, &sources, &surveys, &graph)?;
    let layers = |plan: &ImagePlan| {
        plan.layers.iter().map(|layer| (layer.kind, layer.title.clone(), layer.recipe.clone())).collect()
    };
    let recipes: Vec<Vec<_>> = plans.iter().map(layers).collect();
    let images: Vec<PlannedImage> = plans.into_iter().map(|plan| measured(plan, &surveys)).collect::<Result<_>>()?;
    let of_images: Vec<lint::LintedImage> = images
        .iter()
        .zip(recipes)
        .map(|(image, layers)| {
            let models = weights(&image.models, &image.layers);
            let models = models.into_iter().map(|(name, size)| (name.to_owned(), size)).collect();
            lint::LintedImage { name: image.name.clone(), models, layers, runs: Vec::new() }
        })
        .collect();
    let (mut models, mut of_models, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for Outlook { name, weights: size, recipes, digests, facts, licence, warnings: of_files } in outlook {
        warnings.extend(of_files);
        let verdict = stack.as_ref().map(|stack| stack.licences.check("licences", &name, licence.as_deref()));
        warnings.extend(match verdict.transpose() {
            Ok(warning) => warning.flatten(),
            Err(error) => Some(format!("this would not be built: {error}")),
        });
        of_models.push(lint::LintedModel { name: name.clone(), recipes, digests });
        models.push(PlanModelRow { name, size, facts, licence });
    }
    warnings.extend(rules.breaches.into_iter().map(|line| format!("this would not be built: {line}")));
    warnings.extend(rules.warnings);
    warnings.extend(lint::lint(
        &of_images,
        &of_models,
        &surveys.into_iter().map(|(recipe, survey)| (recipe, survey.large)).collect(),
    ));
    let stored = stored(&images.iter().map(|image| image.chain.clone()).collect::<Vec<_>>());
    Ok(PlanReport {
        images,
        models,
        stored,
        need: None,
        unknown: None,
        warnings,
        secrets,
        bytes: PathBytes::of(&graph),
    })
}

fn measured(plan: ImagePlan, surveys: &Surveys) -> Result<PlannedImage> {
    let (mut layers, mut chain) = (Vec::new(), Vec::new());
    for planned in plan.layers {
        let extent = || match surveys.get(&planned.recipe) {
            Some(survey) => Ok(survey.extent),
            None => extent(&planned.recipe).with_context(|| format!("layer {}", planned.title)),
        };
        let (size, on_disk) = match &planned.built {
            Some(layer) if layer.recipe.blob().is_some() => (layer.record.size, layer.record.diff_size()),
            Some(layer) => (layer.record.size, extent().map_or(layer.record.size, |extent| with_records(&extent))),
            None => extent().map(|extent| (extent.archive, with_records(&extent)))?,
        };
        // The same recipe makes the same bytes.
        let recipe = String::from_utf8(canonical::to_bytes(&planned.recipe))?;
        chain.push((recipe, on_disk));
        let digest = planned.built.as_ref().map(|layer| layer.record.digest);
        let owners = planned.owners();
        layers.push(SeenLayer {
            digest,
            size,
            packed: planned.built.and_then(|layer| layer.record.packed),
            kind: planned.kind,
            part: planned.part,
            title: planned.title,
            why: planned.why,
            owners,
            on_disk: None,
        });
    }
    let size = layers.iter().map(|layer| layer.size).sum();
    // Without a tag in the spec it is made of what is built.
    let reference = plan.spec.tag.as_deref().and_then(|tag| Reference::new(&plan.spec.name, tag).ok());
    let (name, models, digest) = (plan.spec.name, plan.models, None);
    Ok(PlannedImage { name, reference, digest, size, pushed: None, here: None, models, layers, chain })
}
