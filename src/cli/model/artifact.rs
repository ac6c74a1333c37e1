//! `windlass model artifact`

use std::path::PathBuf;

use serde::Serialize;

use super::super::failure::{Result, usage};
use super::ArtifactFormat;
use crate::cli::host::HostArgs;
use crate::cli::printer::{Printer, size};
use crate::cli::session::Session;
use crate::image::layout::ImageDir;
use crate::layer::output::Verify;
use crate::oci::digest::Digest;
use crate::oci::reference::{Reference, image_name};
use crate::podman::load::artifacts;
use crate::publish::model_dir::ModelDir;

const EXAMPLE: &str = "Example:
  windlass model artifact result
  podman artifact inspect localhost/smollm2:…       the digest that was printed
  podman run --mount type=artifact,src=localhost/smollm2:…,dst=/models …     Podman 5.5 and later";

/// Put a model into Podman's artifact store, as a ModelPack artifact.
///
/// Nothing is copied where the model is in the Nix store and Podman's storage is on the same file system. The digest is the
/// one that `windlass model manifest` prints, and that Podman prints too. Needs Podman 5.4.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelArtifactArgs {
    /// A model's image directory.
    image: PathBuf,
    /// What the artifact is called; by default as the model's image.
    #[arg(long, value_name = "NAME:TAG")]
    name: Option<String>,
    /// What the artifact is for.
    #[arg(long, value_enum, default_value_t = ArtifactFormat::Modelpack)]
    format: ArtifactFormat,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModelArtifactReport {
    name: String,
    digest: Digest,
    is_new: bool,
    written: u64,
    shared: u64,
}

pub(super) fn run(args: &ModelArtifactArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let host = args.host.host(session.progress())?;
    artifacts::check(host.engine.podman("keep artifacts")?, progress)?;
    let model = ModelDir::open(&ImageDir::open(&args.image)?)?;
    let name = match &args.name {
        None => model.reference.clone(),
        Some(name) => {
            let (name, tag) = image_name(name);
            let tag = tag.ok_or_else(|| usage(format!("--name {name}: a tag is missing, {name}:TAG")))?;
            Reference::new(name, tag)?.to_string()
        }
    };
    let artifact = args.format.artifact(&model.model);
    let drawing = session.draw("storing");
    let is_new = artifacts::add(&host.places.graph_root, &name, &model, &artifact, Verify::Auto, progress)?;
    drop(drawing);
    let digest = artifact.manifest.digest;
    let report = ModelArtifactReport { name, digest, is_new, written: progress.written(), shared: progress.cloned() };
    if printer.json() {
        return printer.value(&report);
    }
    printer.line(&report.name)?;
    printer.line(digest)?;
    match is_new {
        true => printer.line(format!(
            "1 artifact: wrote {}, shared {} with the store",
            size(report.written),
            size(report.shared)
        )),
        false => printer.line("1 artifact: it was there"),
    }
}
