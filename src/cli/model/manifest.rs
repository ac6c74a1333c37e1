//! `windlass model manifest`

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::super::failure::{Result, usage};
use crate::cli::complete;
use crate::cli::printer::Printer;
use crate::model::forms::artifact::{DescribedModel, ModelFile};
use crate::model::forms::docker_model::docker_model;
use crate::model::forms::modelpack::modelpack;
use crate::model::forms::ollama::{self, ollama};
use crate::model::pin::lock;
use crate::model::read::facts::Facts;
use crate::oci::digest::Digest;

const EXAMPLE: &str = "Examples:
  windlass model manifest smollm2 --format modelpack
  windlass model manifest smollm2 --format ollama --json | jq .config";

/// Print the manifest that a model of a lock has in a form, before any of it was downloaded.
///
/// The first line is the manifest, byte for byte (Ollama's has the new line at its end too), the second one its digest.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelManifestArgs {
    /// The model's name in the lock.
    #[arg(add = complete::locked_models())]
    name: String,
    /// Whose manifest.
    #[arg(long, value_enum)]
    format: ManifestForm,
    /// The lock.
    #[arg(long, value_name = "FILE", default_value = "models.lock.json")]
    lock: PathBuf,
}

/// Forms whose manifests are made of facts and digests alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum ManifestForm {
    /// CNCF ModelPack.
    Modelpack,
    /// Docker Model Runner.
    DockerModel,
    /// Ollama.
    Ollama,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModelManifestReport<'a> {
    name: &'a str,
    format: ManifestForm,
    digest: Digest,
    size: usize,
    manifest: Value,
    config: Value,
}

pub(super) fn run(args: &ModelManifestArgs, printer: &Printer) -> Result<()> {
    let lock = lock::read(&args.lock)?;
    let locked = lock.model(&args.name, &args.lock)?;
    let Some(facts) = locked.facts.clone() else {
        let message = format!(
            "{}: nothing is known of model '{}': its files are neither GGUF nor safetensors",
            args.lock.display(),
            args.name
        );
        return Err(usage(message));
    };
    // The header's word counts, and the page's where the header has none.
    let facts = Facts { licence: facts.licence.clone().or_else(|| locked.licence.clone()), ..facts };
    let file = |file: &lock::LockedFile| ModelFile { path: file.path.clone(), size: file.size, sha256: file.sha256 };
    let model = DescribedModel::new(&args.name, facts, locked.files.iter().map(file).collect());
    let (manifest, config) = match args.format {
        ManifestForm::Modelpack | ManifestForm::DockerModel => {
            let of = if args.format == ManifestForm::Modelpack { modelpack } else { docker_model };
            let artifact = of(&model);
            (artifact.manifest.bytes, artifact.config.bytes)
        }
        ManifestForm::Ollama => {
            let made = ollama(&model, &ollama::ModelfileOptions::default())?;
            let config = made.texts[&made.config].clone();
            (made.manifest.into_bytes(), config.into_bytes())
        }
    };
    let digest = Digest::of(&manifest);
    if printer.json() {
        let (size, name, format) = (manifest.len(), &*args.name, args.format);
        let [manifest, config] = [&manifest, &config].map(|bytes| serde_json::from_slice(bytes));
        return printer.value(&ModelManifestReport {
            name,
            format,
            digest,
            size,
            manifest: manifest?,
            config: config?,
        });
    }
    printer.line(String::from_utf8(manifest)?.trim_end())?;
    printer.line(digest.to_string())
}
