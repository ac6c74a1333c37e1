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
mod sign;
mod split;
mod update;
mod use_model;

use std::path::{Path, PathBuf};

use super::complete;
use super::failure::Result;
use super::printer::Printer;
use super::registry::RegistryArgs;
use super::schemas::{Described, printed};
use super::session::Session;
use crate::model::forms::artifact::{Artifact, DescribedModel};
use crate::model::forms::docker_model::docker_model;
use crate::model::forms::modelpack::modelpack;
use crate::model::pin::lock::ModelLock;
use crate::model::read::facts::Inspected;
use crate::podman::slots::switch::Used;

/// What models are, which of them are loaded, and which one is active.
#[derive(Debug, clap::Args)]
pub(super) struct ModelArgs {
    #[command(subcommand)]
    verb: ModelVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ModelVerb {
    Add(add::ModelAddArgs),
    Remove(remove::ModelRemoveArgs),
    Check(check::ModelCheckArgs),
    Update(update::ModelUpdateArgs),
    Fetch(fetch::ModelFetchArgs),
    Inspect(inspect::ModelInspectArgs),
    List(list::ModelListArgs),
    Manifest(manifest::ModelManifestArgs),
    Artifact(artifact::ModelArtifactArgs),
    Split(split::ModelSplitArgs),
    Sign(sign::ModelSignArgs),
    Use(use_model::ModelUseArgs),
}

/// Which models of which lock, and how their sources are asked.
#[derive(Debug, clap::Args)]
struct LockedModelArgs {
    /// Only these models.
    #[arg(add = complete::locked_models(), value_name = "NAME")]
    names: Vec<String>,
    /// The lock file.
    #[arg(long, value_name = "FILE", default_value = "models.lock.json")]
    lock: PathBuf,
    #[command(flatten)]
    registry: RegistryArgs,
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
    pub(super) fn artifact(self, model: &DescribedModel) -> Artifact {
        match self {
            Self::Modelpack => modelpack(model),
            Self::DockerModel => docker_model(model),
        }
    }
}

/// What these verbs print with `--json`.
pub(super) fn schemas() -> Vec<Described> {
    vec![
        ("model add", printed::<add::ModelAddReport<'static>>),
        ("model add --dry-run", printed::<add::Tried<'static>>),
        ("model remove", printed::<remove::ModelRemoveReport>),
        ("model check", printed::<check::ModelCheckReport<'static>>),
        ("model update", printed::<update::ModelUpdateReport<'static>>),
        ("model fetch", printed::<fetch::ModelFetchReport>),
        ("model inspect", printed::<Inspected>),
        ("model list", printed::<list::ModelListReport<'static>>),
        ("model manifest", printed::<manifest::ModelManifestReport<'static>>),
        ("model artifact", printed::<artifact::ModelArtifactReport>),
        ("model sign", printed::<sign::ModelSignReport<'static>>),
        ("model split", printed::<split::ModelSplitReport>),
        ("model use", printed::<Used>),
    ]
}

pub(super) fn run(args: &ModelArgs, printer: &Printer, session: &Session) -> Result<()> {
    match &args.verb {
        ModelVerb::Add(args) => add::run(args, printer, session),
        ModelVerb::Remove(args) => remove::run(args, printer, session),
        ModelVerb::Check(args) => check::run(args, printer, session),
        ModelVerb::Update(args) => update::run(args, printer, session),
        ModelVerb::Fetch(args) => fetch::run(args, printer, session),
        ModelVerb::Inspect(args) => inspect::run(args, printer, session),
        ModelVerb::List(args) => list::run(args, printer, session),
        ModelVerb::Manifest(args) => manifest::run(args, printer),
        ModelVerb::Artifact(args) => artifact::run(args, printer, session),
        ModelVerb::Sign(args) => sign::run(args, printer),
        ModelVerb::Split(args) => split::run(args, printer, session),
        ModelVerb::Use(args) => use_model::run(args, printer, session),
    }
}
