//! The builder of the derivations in `nix/lib/`: no shell, no stdenv, this program alone.
//!
//! With structured attributes Nix (2.8 to 2.26 seen) names a JSON file in `NIX_ATTRS_JSON_FILE`. It holds the
//! derivation's attributes; `outputs.out` is where the result goes, and each key of `exportReferencesGraph` is replaced
//! by the closure of what it names. Nix itself throws away a failed output, so nothing is staged here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::export::ExportFormat;
use super::failure::{Context, Failure, Result, environment, failed};
use super::printer::Printer;
use super::registry;
use super::session::Session;
use crate::build;
use crate::build::import_image;
use crate::build::stack::ModelArchive;
use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::image::archive::{self, ArchiveOptions, Without};
use crate::image::layout::ImageDir;
use crate::layer::Input;
use crate::layer::output::Verify;
use crate::model::forms::gguf_split::split;
use crate::nix::closure::ClosureGraph;
use crate::nix::registration;
use crate::nix::store_path::StoreDir;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::registry::error::RegistryError;
use crate::registry::web::WebFile;
use crate::spec::Spec;
use crate::upstream::place::{self, BlobPlace, WantedBlob};

/// What a derivation asks for, in its attribute `windlass`.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Action {
    /// Write a spec as a file, so that Nix finds the references of everything it mentions.
    Spec { spec: Value },
    /// Build the spec in a file, under this tag.
    Build { spec_file: PathBuf, tag: Option<String>, store_dir: StoreDir },
    /// Write what `nix-store --load-db` reads of the store paths that the image of a spec has, as `registration`, and those
    /// that no other one refers to, as `roots`.
    Registration { spec_file: PathBuf, store_dir: StoreDir },
    /// Make an OCI directory of an image that another program wrote: an archive, or such a directory, to which a link will do.
    Import { source: PathBuf },
    /// Split a GGUF file into shards called after this name, with what describes the model in the first.
    SplitModel { file: PathBuf, name: String, max_size: u64 },
    /// Fetch a blob of an upstream image, in a fixed-output derivation with a flat hash: only those have a network.
    FetchBlob {
        /// Where it may be had, in the order in which they are asked.
        sources: Vec<BlobPlace>,
        digest: Digest,
        size: u64,
        /// Plain HTTP to registries on this machine.
        #[serde(default)]
        insecure: bool,
        /// The image in the lock, for messages.
        image: String,
    },
    /// Fetch a file of a model, in the same way. There is no token here: it would have to be a part of the derivation.
    FetchModel {
        /// Where it may be had.
        urls: Vec<String>,
        digest: Digest,
        size: Option<u64>,
        /// The file, for messages.
        file: String,
        /// What puts it into the store, with the token of the user who runs it.
        hint: String,
    },
    /// Export an image directory or a lean stack. An output `sum` gets the archive's SHA-256; the archives of a stack's
    /// models are derivations of their own.
    Export {
        from: PathBuf,
        format: ExportFormat,
        #[serde(default)]
        models: BTreeMap<String, ModelOutputs>,
    },
}

/// The outputs of the derivation that a model's archive is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelOutputs {
    archive: PathBuf,
    sum: PathBuf,
}

/// The file with the attributes. Nix 2.8 names it as it is called outside the sandbox, where a build cannot see it: it
/// is in the directory that a build starts in.
fn attributes_file() -> Option<PathBuf> {
    let named = PathBuf::from(std::env::var_os("NIX_ATTRS_JSON_FILE")?);
    let here = named.file_name().map(PathBuf::from).filter(|here| !named.exists() && here.exists());
    Some(here.unwrap_or(named))
}

pub(super) fn run(printer: &Printer, session: &Session) -> Result<()> {
    let missing = |what: &str| {
        environment(format!("{what}; `windlass nix-builder` is run by Nix, for derivations with __structuredAttrs"))
    };
    let file = attributes_file().ok_or_else(|| missing("NIX_ATTRS_JSON_FILE is not set"))?;
    let json = bounded::text(&file, Cap::Document).with_context(|| format!("read {}", file.display()))?;
    let mut attributes: Value = serde_json::from_str(&json).with_context(|| file.display().to_string())?;
    let output = attributes["outputs"]["out"].as_str().ok_or_else(|| missing("the attributes have no outputs.out"))?;
    let output = PathBuf::from(output);
    let action: Action = serde_path_to_error::deserialize(attributes["windlass"].take())
        .map_err(|error| failed(format!("attribute 'windlass': {error}")))?;
    let progress = session.progress();
    match action {
        Action::Spec { spec } => {
            Spec::from_value(spec.clone())?;
            fs::write(&output, canonical::to_pretty(&spec)).with_context(|| format!("write {}", output.display()))?;
        }
        Action::Build { spec_file, tag, store_dir } => {
            let json =
                bounded::text(&spec_file, Cap::Document).with_context(|| format!("read {}", spec_file.display()))?;
            let mut spec: Value = serde_json::from_str(&json).with_context(|| spec_file.display().to_string())?;
            if let Some(tag) = tag {
                spec["tag"] = Value::String(tag);
            }
            let spec = Spec::from_value(spec)?;
            let graph = ClosureGraph::from_value(&store_dir, &attributes["closure"])?;
            fs::create_dir(&output).with_context(|| format!("create {}", output.display()))?;
            let warnings = super::build::write(&spec, &graph, false, &output, progress)?;
            warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
        }
        Action::Registration { spec_file, store_dir } => {
            let graph = ClosureGraph::from_value(&store_dir, &attributes["closure"])?;
            fs::create_dir(&output).with_context(|| format!("create {}", output.display()))?;
            register(&spec_file, &graph, &store_dir, &output)?;
        }
        Action::Import { source } if source.is_dir() => {
            symlink(&source, &output).with_context(|| format!("create {}", output.display()))?;
        }
        Action::Import { source } => {
            fs::create_dir(&output).with_context(|| format!("create {}", output.display()))?;
            import_image::unpack(&source, &output, progress)?;
        }
        Action::SplitModel { file, name, max_size } => {
            fs::create_dir(&output).with_context(|| format!("create {}", output.display()))?;
            split(&file, &name, &output, max_size, progress)?;
        }
        Action::FetchBlob { sources, digest, size, insecure, image } => {
            fetch_blob(&sources, WantedBlob { digest, size }, insecure, &image, &output, progress)?;
        }
        Action::FetchModel { urls, digest, size, file, hint } => {
            fetch_model(&urls, digest, size, &output, progress).map_err(|(reasons, lied)| {
                let then = [
                    format!("as yourself, run: {hint}"),
                    "(where its repository is gated, with your token in HF_TOKEN), then build again: the file is then in the \
                     Nix store, and nothing is fetched"
                        .to_owned(),
                ];
                unfetched(format!("{file} cannot be fetched:"), reasons, then, lied)
            })?;
        }
        Action::Export { from, format, models } => {
            let without = Without::default();
            let options = ArchiveOptions { without: &without, verify: Verify::Auto, progress };
            if let Some(sum) = attributes["outputs"]["sum"].as_str() {
                let digest = archive::write(&ImageDir::open(&from)?, &output, true, options)?;
                let (digest, _) = digest.ok_or_else(|| failed("an archive without a digest"))?;
                fs::write(sum, digest.to_string()).with_context(|| format!("write {sum}"))?;
            } else {
                let models =
                    models.into_iter().map(|(name, model)| Ok((name, existing(&model)?))).collect::<Result<_>>()?;
                super::export::write(&from, format, &output, &models, options)?;
                if from.join("stack.json").is_file() {
                    // `windlass load` on this host needs no archive; the link also keeps alive what they were made of.
                    let link = output.join("lean");
                    symlink(&from, &link).with_context(|| format!("create {}", link.display()))?;
                }
            }
        }
    }
    printer.note(format!(
        "windlass: read {}, wrote {}",
        super::printer::size(progress.read()),
        super::printer::size(progress.written())
    ));
    Ok(())
}

/// Writes the registration of an image's store paths: the layers are planned, and none of them is read.
fn register(spec_file: &Path, graph: &ClosureGraph, store: &StoreDir, output: &Path) -> Result<()> {
    let json = bounded::text(spec_file, Cap::Document).with_context(|| format!("read {}", spec_file.display()))?;
    let Spec::Image(spec) = Spec::parse(&json).with_context(|| spec_file.display().to_string())? else {
        return Err(failed(format!("{}: only an image has a registration", spec_file.display())));
    };
    let mut paths = BTreeSet::new();
    for layer in build::dry_plan(&[*spec], graph)?.iter().flat_map(|plan| &plan.layers) {
        paths.extend(layer.recipe.inputs.iter().filter_map(|input| match input {
            Input::StorePath { path, .. } => store.parse(&path.to_string_lossy()).ok(),
            _ => None,
        }));
    }
    let roots: String =
        registration::tops(graph, &paths).iter().map(|path| format!("{}\n", store.display(path))).collect();
    for (name, text) in [("registration", registration::registration(graph, store, &paths)), ("roots", roots)] {
        let file = output.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Fetches a blob. Downloads are resumed within this run; what is left of a failed one is not a store path.
fn fetch_blob(
    sources: &[BlobPlace],
    wanted: WantedBlob,
    insecure: bool,
    image: &str,
    output: &Path,
    progress: &Progress,
) -> Result<()> {
    let registries = registry::of_builder()?;
    let Err(failures) = place::take_first(sources, &registries, insecure, wanted, output, progress) else {
        return Ok(());
    };
    place::forget_part(output)?;
    progress.check()?;
    let reasons = failures.iter().map(|(place, error)| format!("{place}: {error}")).collect();
    let then = [
        format!("as yourself, with your own logins, run: windlass upstream fetch --image {image}"),
        "then build again: the blob is then in the Nix store, and nothing is fetched".to_owned(),
    ];
    let first = format!("blob {} of image '{image}' cannot be fetched:", wanted.digest);
    Err(unfetched(first, reasons, then, failures.iter().any(|(_, error)| error.class() == Class::Unverified)))
}

/// What was tried, why it failed, and what can be done.
fn unfetched(first: String, reasons: Vec<String>, then: [String; 2], lied: bool) -> Failure {
    let reasons = reasons.into_iter().map(|reason| format!("  {reason}"));
    let lines = std::iter::once(first).chain(reasons).chain(then).collect();
    Failure::of_lines(if lied { Class::Unverified } else { Class::Environment }, lines)
}

/// Fetches a file of a model; of a failure, what each address said, and whether one of them sent other bytes.
fn fetch_model(
    urls: &[String],
    digest: Digest,
    size: Option<u64>,
    output: &Path,
    progress: &Progress,
) -> Result<(), (Vec<String>, bool)> {
    let web = registry::web_of_builder().map_err(|error| (vec![error.to_string()], false))?;
    let (mut reasons, mut lied) = (Vec::new(), false);
    for address in urls {
        let file = WebFile { address, digest: Some(digest), size, version: None };
        let Err(error) = web.fetch(file, output, progress) else { return Ok(()) };
        lied |= error.class() == Class::Unverified;
        let reason = match error {
            RegistryError::Unauthorized { host, .. } => format!("{host} gives it only with a login"),
            other => other.to_string(),
        };
        let reason = reason.trim_start_matches(address.as_str()).trim_start_matches(": ");
        reasons.push(format!("{address}: {reason}"));
    }
    if urls.is_empty() {
        reasons.push("it was added from a file, and has no address".to_owned());
    }
    drop(place::forget_part(output));
    Err((reasons, lied))
}

fn existing(model: &ModelOutputs) -> Result<ModelArchive> {
    let digest = bounded::text(&model.sum, Cap::Settings).with_context(|| format!("read {}", model.sum.display()))?;
    Ok(ModelArchive { path: model.archive.clone(), digest: digest.parse()? })
}
