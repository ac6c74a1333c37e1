//! `windlass model`

mod add;
mod artifact;
mod check;
mod fetch;
mod hub;
mod inspect;
mod list;
mod manifest;
mod remove;
mod split;
mod update;
mod use_model;

use std::path::Path;

use super::failure::Result;
use super::printer::Printer;
use super::schemas::{Described, printed};
use super::session::Session;
use crate::model::forms::artifact::{Artifact, Model};
use crate::model::forms::docker_model::docker_model;
use crate::model::forms::modelpack::modelpack;
use crate::model::pin::lock::ModelLock;
use crate::model::read::facts::Inspected;
use crate::podman::slots::switch::Used;

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
    Check(check::Args),
    Update(update::Args),
    Fetch(fetch::Args),
    Inspect(inspect::Args),
    List(list::Args),
    Manifest(manifest::Args),
    Artifact(artifact::Args),
    Split(split::Args),
    Use(use_model::Args),
}

/// The models of a lock that are meant: all, if none is named.
fn chosen(lock: &ModelLock, names: &[String], path: &Path) -> Result<Vec<String>> {
    let known = |name: &String| lock.model(name, path).map(|_| name.clone());
    match names {
        [] => Ok(lock.models.keys().cloned().collect()),
        names => Ok(names.iter().map(known).collect::<Result<_, _>>()?),
    }
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

/// What these verbs print with `--json`.
pub(super) fn schemas() -> Vec<Described> {
    vec![
        ("model add", printed::<add::Report<'static>>),
        ("model add --dry-run", printed::<add::Tried<'static>>),
        ("model remove", printed::<remove::Report>),
        ("model check", printed::<check::Report<'static>>),
        ("model update", printed::<update::Report<'static>>),
        ("model fetch", printed::<fetch::Report>),
        ("model inspect", printed::<Inspected>),
        ("model list", printed::<list::Report<'static>>),
        ("model manifest", printed::<manifest::Report<'static>>),
        ("model artifact", printed::<artifact::Report>),
        ("model split", printed::<split::Report>),
        ("model use", printed::<Used>),
    ]
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    match &args.verb {
        Verb::Add(args) => add::run(args, printer, session),
        Verb::Remove(args) => remove::run(args, printer, session),
        Verb::Check(args) => check::run(args, printer, session),
        Verb::Update(args) => update::run(args, printer, session),
        Verb::Fetch(args) => fetch::run(args, printer, session),
        Verb::Inspect(args) => inspect::run(args, printer, session),
        Verb::List(args) => list::run(args, printer, session),
        Verb::Manifest(args) => manifest::run(args, printer),
        Verb::Artifact(args) => artifact::run(args, printer, session),
        Verb::Split(args) => split::run(args, printer, session),
        Verb::Use(args) => use_model::run(args, printer, session),
    }
}
