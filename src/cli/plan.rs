//! `windlass plan`

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use super::failure::Usage;
use super::host;
use super::printer::{Printer, count, size};
use super::view::{self, Seen, SeenLayer};
use crate::build::{self, Outlook};
use crate::image::models_of;
use crate::layer::measure;
use crate::lint;
use crate::model::facts::Facts;
use crate::model::policy::Policy;
use crate::names::Name;
use crate::plan::{ImagePlan, warnings};
use crate::platform::Platform;
use crate::podman::places::{Overrides, Places};
use crate::progress::Progress;
use crate::spec::Spec;

/// Show which layers images have, in which order, and why.
///
/// For a spec nothing is hashed: sizes are exact, digests are not known yet. For an image directory or a stack it shows
/// the plan that was carried out. Layers are listed bottom first, then models with what their files say of themselves. What
/// pays twice for weights is warned of: a model in another layer than its own, models in an order that images do not share,
/// the same file in two models, a storage driver of this host that shares nothing, and licences that the stack does not allow.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A spec of an image or a stack, an image directory, or a stack.
    path: PathBuf,
    /// The closure graph, as `nix path-info --json --recursive` prints it.
    #[arg(long, value_name = "FILE")]
    closure: Option<PathBuf>,
    /// List every store path of every layer.
    #[arg(long)]
    owners: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlannedImage {
    name: String,
    size: u64,
    models: Vec<Name>,
    layers: Vec<SeenLayer>,
}

/// A model of the images, or beside them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlannedModel {
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

#[derive(Debug, Serialize)]
struct Report {
    images: Vec<PlannedImage>,
    models: Vec<PlannedModel>,
    warnings: Vec<String>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<()> {
    let mut report = if args.path.is_dir() { of_directory(args)? } else { of_spec(args)? };
    if report.images.iter().any(|image| !image.models.is_empty()) {
        // A host without Podman has no driver that costs anything.
        let places = Places::find(&host::caller(), &Overrides::default(), &Progress::new()).ok();
        report.warnings.extend(places.and_then(|places| lint::driver(&places.driver)));
    }
    if printer.json() {
        return printer.value(&report);
    }
    for image in &report.images {
        printer.line(format!("{}: {}, {}", image.name, count(image.layers.len(), "layer"), size(image.size)))?;
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
    for PlannedModel { name, size: bytes, facts, licence } in &report.models {
        let facts = facts.as_ref().map(|facts| Facts { licence: licence.clone(), ..facts.clone() });
        let words =
            facts.map_or_else(|| "nothing is known of its files".to_owned(), |facts| view::in_words(&facts).join(", "));
        printer.line(format!("model {name}: {}, {words}", size(*bytes)))?;
    }
    report.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    let layers: Vec<&SeenLayer> = report.images.iter().flat_map(|image| &image.layers).collect();
    let mut once: Vec<_> = layers.iter().map(|layer| (&layer.owners, &layer.title, layer.size)).collect();
    once.sort();
    once.dedup();
    let (all, different): (u64, u64) =
        (layers.iter().map(|layer| layer.size).sum(), once.iter().map(|(_, _, size)| size).sum());
    let shared = layers.len() - once.len();
    printer.line(format!(
        "{}, {} ({shared} of them shared); {} in all, {} stored once",
        count(report.images.len(), "image"),
        count(layers.len(), "layer"),
        size(all),
        size(different),
    ))
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
fn of_directory(args: &Args) -> Result<Report> {
    let seen = view::look(&args.path)?;
    let mut models = Vec::new();
    for image in &seen {
        // A model's own image is called like the one model that it has.
        if image.platform == Platform::of_data() && image.models.len() == 1 {
            let facts = image.model.as_ref().and_then(|model| model.facts.clone());
            let licence = facts.as_ref().and_then(|facts| facts.licence.clone());
            let size = weights(&image.models, &image.layers).iter().map(|(_, size)| size).sum();
            models.push(PlannedModel { name: image.models[0].to_string(), size, facts, licence });
        }
    }
    let (of_images, of_models) = lint::subjects(&args.path)?;
    let warnings = match of_images.is_empty() && of_models.is_empty() {
        false => lint::lint(&of_images, &of_models),
        // Archives say which layers there are, and not what is in them.
        true => warnings(seen.iter().map(|image| (&*image.name, weights(&image.models, &image.layers)))),
    };
    let unread = |Seen { name, size, models, layers, .. }| PlannedImage { name: name.into(), size, models, layers };
    Ok(Report { images: seen.into_iter().map(unread).collect(), models, warnings })
}

fn of_spec(args: &Args) -> Result<Report> {
    let json = std::fs::read_to_string(&args.path).with_context(|| format!("read {}", args.path.display()))?;
    let spec = Spec::parse(&json).with_context(|| args.path.display().to_string())?;
    let graph = super::closure::graph(&spec, args.closure.as_deref())?;
    let progress = super::session::progress();
    let (specs, sources, policy) = match spec {
        Spec::Image(image) => {
            let sources = image.models.clone();
            (vec![*image], sources, Policy::default())
        }
        Spec::Stack(stack) => {
            let sources = stack.images.iter().flat_map(|image| &image.models).chain(&stack.models).cloned().collect();
            (stack.images, sources, stack.licences)
        }
        Spec::Model(_) | Spec::Layer(_) | Spec::Upstream(_) | Spec::Index(_) | Spec::Ollama(_) => {
            return Err(
                Usage("a plan is for an image or a stack; build this and `windlass inspect` it".to_owned()).into()
            );
        }
    };
    let plans = build::dry_plan(&specs, &graph)?;
    let outlook = build::outlook(&sources, &graph, &progress)?;
    let layers = |plan: &ImagePlan| {
        plan.layers.iter().map(|layer| (layer.kind, layer.title.clone(), layer.recipe.clone())).collect()
    };
    let recipes: Vec<Vec<_>> = plans.iter().map(layers).collect();
    let images: Vec<PlannedImage> = plans.into_iter().map(measured).collect::<Result<_>>()?;
    let of_images: Vec<lint::Image> = images
        .iter()
        .zip(recipes)
        .map(|(image, layers)| {
            let models = weights(&image.models, &image.layers);
            let models = models.into_iter().map(|(name, size)| (name.to_owned(), size)).collect();
            lint::Image { name: image.name.clone(), models, layers }
        })
        .collect();
    let (mut models, mut of_models, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for Outlook { name, weights: size, recipes, digests, facts, licence, warnings: of_files } in outlook {
        warnings.extend(of_files);
        warnings.extend(match policy.check(&name, licence.as_deref()) {
            Ok(warning) => warning,
            Err(error) => Some(format!("this would not be built: {error}")),
        });
        of_models.push(lint::Model { name: name.clone(), recipes, digests });
        models.push(PlannedModel { name, size, facts, licence });
    }
    warnings.extend(lint::lint(&of_images, &of_models));
    Ok(Report { images, models, warnings })
}

fn measured(plan: ImagePlan) -> Result<PlannedImage> {
    let mut layers = Vec::new();
    for planned in plan.layers {
        let size = match &planned.built {
            Some(layer) => layer.record.size,
            None => measure(&planned.recipe).with_context(|| format!("layer {}", planned.title))?,
        };
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
    Ok(PlannedImage { name: plan.spec.name, size, models: plan.models, layers })
}
