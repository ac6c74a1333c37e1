//! `windlass plan`

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use super::failure::Usage;
use super::printer::{Printer, count, size};
use super::view::{self, Seen, SeenLayer};
use crate::build;
use crate::image::models_of;
use crate::layer::measure;
use crate::plan::{ImagePlan, warnings};
use crate::spec::Spec;

/// Show which layers images have, in which order, and why.
///
/// For a spec nothing is hashed: sizes are exact, digests are not known yet. For an image directory or a stack it shows
/// the plan that was carried out. Layers are listed bottom first; models that cost a second copy are warned of.
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
    models: Vec<String>,
    layers: Vec<SeenLayer>,
}

#[derive(Debug, Serialize)]
struct Report {
    images: Vec<PlannedImage>,
    warnings: Vec<String>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<()> {
    let images = if args.path.is_dir() {
        let unread = |Seen { name, size, models, layers, .. }| PlannedImage { name, size, models, layers };
        view::look(&args.path)?.into_iter().map(unread).collect()
    } else {
        of_spec(args)?
    };
    let warnings = warnings(images.iter().map(|image| (image.name.as_str(), weights(image))));
    let report = Report { images, warnings };
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

/// The models of an image with the size of what holds their tensors, lowest first.
fn weights(image: &PlannedImage) -> Vec<(&str, u64)> {
    let of = models_of(&image.models, image.layers.iter().map(|layer| (layer.kind, layer.part.as_ref())));
    let mut models: Vec<_> = image.models.iter().map(|name| (name.as_str(), 0)).collect();
    for (model, layer) in of.into_iter().zip(&image.layers) {
        if let Some(model) = model
            && layer.part.as_ref().is_none_or(|part| part.weights)
        {
            models[model].1 += layer.size;
        }
    }
    models
}

fn of_spec(args: &Args) -> Result<Vec<PlannedImage>> {
    let json = std::fs::read_to_string(&args.path).with_context(|| format!("read {}", args.path.display()))?;
    let spec = Spec::parse(&json).with_context(|| args.path.display().to_string())?;
    let graph = super::closure::graph(&spec, args.closure.as_deref())?;
    let plans = match spec {
        Spec::Image(image) => build::dry_plan(&[*image], &graph)?,
        Spec::Stack(stack) => build::dry_plan(&stack.images, &graph)?,
        Spec::Model(_) | Spec::Layer(_) | Spec::Upstream(_) | Spec::Index(_) | Spec::Ollama(_) => {
            return Err(
                Usage("a plan is for an image or a stack; build this and `windlass inspect` it".to_owned()).into()
            );
        }
    };
    plans.into_iter().map(measured).collect()
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
