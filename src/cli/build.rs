//! `windlass build`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::{Context, Failure, Result, usage};
use super::printer::{Printer, count, size};
use super::session::Session;
use crate::build::layer_set::{LayerSet, write_layers};
use crate::build::stack::{StackDir, write_lean};
use crate::build::{self, Blobs, BuildError, import_image, index, lint, upstream_image};
use crate::class::Classified;
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging};
use crate::image::closure::ImageClosure;
use crate::image::json::read_json;
use crate::image::layout::ImageDir;
use crate::image::summary::Summary;
use crate::layer::LargeFiles;
use crate::nix::closure::ClosureGraph;
use crate::oci::digest::Digest;
use crate::publish::ollama_layer;
use crate::spec::Spec;

const EXAMPLE: &str = r#"Example:
  echo '{"kind": "model", "name": "tiny", "files": {"tiny.gguf": "/srv/tiny.gguf"}}' > tiny.json
  windlass build tiny.json --output tiny"#;

/// Build an image, a model, layers, an index or a stack from a spec.
///
/// SPEC is a JSON file; `"kind"` says what it describes ("image", "model", "layer", "oci", "index", "stack", "ollama"). The closure of
/// the store paths that it names is asked of Nix, or read with --closure. What comes out is an image directory: an OCI
/// layout in which layers are described by recipes (a few kilobytes, whatever the model weighs) or, with --full, are
/// blobs. `windlass export` makes archives and plain OCI directories from it.
///
/// Nothing is built with what looks like a secret: files like `.env` or a private key, input files that others on this host may
/// not read, variables and arguments with a password or a token. All of it is listed with its reason. The spec allows what is no
/// secret in spite of its looks: `"allowSecrets": ["/app/.env", "API_KEY"]`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct BuildArgs {
    /// The spec, a JSON file.
    spec: PathBuf,
    /// Where to put the result; replaced in one step if it is there. By default the spec's name without `.json`.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// The closure graph, as `nix path-info --json --recursive` prints it.
    #[arg(long, value_name = "FILE")]
    closure: Option<PathBuf>,
    /// Keep the bytes of the layers as blobs.
    #[arg(long)]
    full: bool,
}

/// What was built, for JSON and for the last sentence.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BuildReport {
    output: PathBuf,
    #[serde(rename = "ref")]
    reference: Option<String>,
    digest: Option<Digest>,
    layers: usize,
    size: u64,
    read: u64,
    written: u64,
    cloned: u64,
    /// What costs more than it need, and models whose licence is not known.
    warnings: Vec<String>,
}

pub(super) fn run(args: &BuildArgs, printer: &Printer, session: &Session) -> Result<()> {
    let json = bounded::text(&args.spec, Cap::Document).with_context(|| format!("read {}", args.spec.display()))?;
    let spec = Spec::parse(&json).with_context(|| args.spec.display().to_string())?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => args.spec.with_extension(""),
    };
    if output == args.spec || (output.symlink_metadata().is_ok() && !is_ours(&output)) {
        let message = format!("{} exists, and windlass did not build it; give another --output", output.display());
        return Err(usage(message));
    }
    let graph = super::closure::graph(&spec, args.closure.as_deref())?;
    let staging = Staging::directory(&output)?;
    let drawing = session.draw("building");
    let warnings = write(&spec, &graph, args.full, staging.path(), session.progress())?;
    staging.publish()?;
    drop(drawing);
    warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    let (reference, digest, layers, bytes) = describe(&output)?;
    let progress = session.progress();
    let (read, written, cloned) = (progress.read(), progress.written(), progress.cloned());
    if printer.json() {
        return printer.value(&BuildReport {
            output,
            reference,
            digest,
            layers,
            size: bytes,
            read,
            written,
            cloned,
            warnings,
        });
    }
    if let (Some(reference), Some(digest)) = (reference, digest) {
        printer.line(reference)?;
        printer.line(digest)?;
    }
    let shared = if cloned > 0 { format!(", shared {}", size(cloned)) } else { String::new() };
    printer.line(format!(
        "{}: {}, {}; read {}, wrote {}{shared}",
        output.display(),
        count(layers, "layer"),
        size(bytes),
        size(read),
        size(written)
    ))
}

/// Builds into a directory that exists and is empty; what there is to be warned of.
pub(super) fn write(
    spec: &Spec,
    graph: &ClosureGraph,
    full: bool,
    directory: &Path,
    progress: &Progress,
) -> Result<Vec<String>> {
    let folder = directory.join("blobs/sha256");
    if full {
        if !matches!(spec, Spec::Image(_) | Spec::Model(_)) {
            return Err(usage("--full is for an image or a model")
                .hint("`windlass export` writes a stack or an index with all its layers"));
        }
        std::fs::create_dir_all(&folder).at("create", &folder)?;
    }
    let blobs = full.then_some(Blobs { folder: &folder });
    let warnings = match spec {
        Spec::Image(spec) => {
            let (image, large) = build::image((**spec).clone(), graph, blobs, progress).map_err(line_by_line)?;
            image.write_lean(directory, progress)?;
            lint::lint(&[lint::LintedImage::of(&image)], &[], &large)
        }
        Spec::Model(spec) => {
            let (image, warnings) = build::model(spec, graph, blobs, progress).map_err(line_by_line)?;
            image.write_lean(directory, progress)?;
            [warnings, lint::lint(&[], &[lint::LintedModel::of(&spec.name, &image)], &LargeFiles::new())].concat()
        }
        Spec::Stack(spec) => {
            let stack = build::stack(spec, graph, progress).map_err(line_by_line)?;
            write_lean(&stack, directory, progress)?;
            let images: Vec<_> = stack.images.iter().map(lint::LintedImage::of).collect();
            let models: Vec<_> = stack.models.iter().map(|(name, model)| lint::LintedModel::of(name, model)).collect();
            [stack.warnings, lint::lint(&images, &models, &stack.large)].concat()
        }
        Spec::Upstream(spec) => {
            upstream_image::image(spec, progress)?.write_lean(directory, progress)?;
            Vec::new()
        }
        Spec::Oci(spec) => {
            upstream_image::image(&import_image::upstream(spec)?, progress)?.write_lean(directory, progress)?;
            Vec::new()
        }
        Spec::Index(spec) => {
            index::build(spec)?.write_lean(directory, progress)?;
            Vec::new()
        }
        Spec::Ollama(spec) => {
            write_layers(
                directory,
                &spec.name,
                (&[ollama_layer::layer(spec, progress)?], &ImageClosure::default()),
                progress,
            )?;
            Vec::new()
        }
        Spec::Layer(spec) => {
            let (layers, closure) = build::layers(spec, graph, progress).map_err(line_by_line)?;
            write_layers(directory, &spec.name, (&layers, &closure), progress)?;
            Vec::new()
        }
    };
    Ok(warnings)
}

/// A failure to build; each finding of the search for secrets is a line, and so is all that the rules of a stack are against.
fn line_by_line(error: BuildError) -> Failure {
    match error {
        BuildError::Secrets(ref verdict) => Failure::of_lines(error.class(), verdict.lines()),
        BuildError::Policy(ref lines) => Failure::of_lines(error.class(), lines.clone()),
        error => error.into(),
    }
}

/// Whether a directory is the result of an earlier build, which may be replaced.
fn is_ours(path: &Path) -> bool {
    ["image.json", "layers.json", "stack.json"].iter().any(|name| path.join(name).is_file())
}

fn describe(output: &Path) -> Result<(Option<String>, Option<Digest>, usize, u64)> {
    let total = |summaries: &[&Summary]| {
        let mut layers: Vec<_> = summaries.iter().flat_map(|summary| summary.layers()).collect();
        layers.sort_by_key(|layer| layer.digest);
        layers.dedup_by_key(|layer| layer.digest);
        (layers.len(), layers.iter().map(|layer| layer.size).sum())
    };
    if output.join("layers.json").is_file() {
        let set: LayerSet = read_json(&output.join("layers.json"))?;
        return Ok((None, None, set.layers.len(), set.layers.iter().map(|layer| layer.size).sum()));
    }
    if output.join("stack.json").is_file() {
        let stack = StackDir::open(output)?;
        let (layers, bytes) = total(&stack.all().map(ImageDir::summary).collect::<Vec<_>>());
        return Ok((None, None, layers, bytes));
    }
    let image = ImageDir::open(output)?;
    let summary = image.summary();
    let (layers, bytes) = total(&[summary]);
    Ok((Some(summary.reference.to_string()), Some(summary.digest), layers, bytes))
}
