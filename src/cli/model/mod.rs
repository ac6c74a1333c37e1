//! `windlass model`

mod add;
mod artifact;
mod fetch;
mod hub;
mod inspect;
mod list;
mod manifest;
mod remove;
mod split;
mod use_model;

use anyhow::Result;

use super::printer::Printer;
use super::session::Session;
use crate::model::artifact::{Artifact, Model};
use crate::model::docker_model::docker_model;
use crate::model::modelpack::modelpack;

/// What models are, which of them are loaded, and which one is active.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Add(add::Args),
    Remove(remove::Args),
    Fetch(fetch::Args),
    Inspect(inspect::Args),
    List(list::Args),
    Manifest(manifest::Args),
    Artifact(artifact::Args),
    Split(split::Args),
    Use(use_model::Args),
}

/// What an artifact of a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ArtifactFormat {
    /// CNCF ModelPack: Podman's artifact store, Kubernetes, modctl.
    Modelpack,
    /// Docker Model Runner.
    DockerModel,
}

impl ArtifactFormat {
    pub(super) fn artifact(self, model: &Model) -> Artifact {
        match self {
            Self::Modelpack => modelpack(model),
            Self::DockerModel => docker_model(model),
        }
    }
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    match &args.verb {
        Verb::Add(args) => add::run(args, printer, session),
        Verb::Remove(args) => remove::run(args, printer, session),
        Verb::Fetch(args) => fetch::run(args, printer, session),
        Verb::Inspect(args) => inspect::run(args, printer, session),
        Verb::List(args) => list::run(args, printer, session),
        Verb::Manifest(args) => manifest::run(args, printer),
        Verb::Artifact(args) => artifact::run(args, printer, session),
        Verb::Split(args) => split::run(args, printer, session),
        Verb::Use(args) => use_model::run(args, printer, session),
    }
}
