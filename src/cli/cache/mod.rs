//! `windlass cache`

mod bring;
mod build;
mod init;
mod load;
mod prune;
mod report;
mod run;
mod save;
mod status;
mod verify;

use std::path::PathBuf;

use super::complete;
use super::failure::Result;
use super::host::HostArgs;
use super::printer::Printer;
use super::schemas::{Described, printed};
use super::session::Session;
use super::upstream::home;
use crate::cache::bases::lock_of;
use crate::cache::definition::{CacheProject, CachedImage};
use crate::cache::look::{CacheEyes, CacheLook};
use crate::disk::progress::Progress;
use crate::names::Name;
use crate::podman::load::decide::PodmanHost;
use crate::podman::storage::snapshot::StoreSnapshot;
use crate::upstream::lock::UpstreamLock;

const EXAMPLE: &str = "Examples:
  windlass cache init unit --containerfile Containerfile
  windlass cache update                    build what has changed, load the rest
  windlass cache run unit -- pytest        the same, and run it
  git add windlass-cache.json cache        so that no one else needs to build it

`windlass-cache.json` says which images are cached; docs/cache.md has more.";

/// Keep images that a Containerfile builds in files beside it, and build again only when what they are built from has changed.
///
/// Each image has a key: the digest of the Containerfile, of every file of the context that the ignore rules leave in, of the base
/// images and of the arguments. What was built is kept as an entry under its key, in a folder that can be committed (with Git LFS)
/// or kept by CI. An entry is a bundle: an OCI image layout that other tools read too.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    verb: CacheVerb,
}

#[derive(Debug, clap::Subcommand)]
enum CacheVerb {
    Init(init::CacheInitArgs),
    Status(status::CacheStatusArgs),
    Update(build::CacheUpdateArgs),
    Build(build::CacheBuildArgs),
    Save(save::CacheSaveArgs),
    Load(load::CacheLoadArgs),
    Run(run::CacheRunArgs),
    Verify(verify::CacheVerifyArgs),
    Prune(prune::CachePruneArgs),
}

pub(super) fn run(args: &CacheArgs, printer: &Printer, session: &Session) -> Result<()> {
    match &args.verb {
        CacheVerb::Init(args) => init::run(args, printer, session),
        CacheVerb::Status(args) => status::run(args, printer, session),
        CacheVerb::Update(args) => build::update(args, printer, session),
        CacheVerb::Build(args) => build::build(args, printer, session),
        CacheVerb::Save(args) => save::run(args, printer, session),
        CacheVerb::Load(args) => load::run(args, printer, session),
        CacheVerb::Run(args) => run::run(args, printer, session),
        CacheVerb::Verify(args) => verify::run(args, printer, session),
        CacheVerb::Prune(args) => prune::run(args, printer, session),
    }
}

/// What these verbs print with `--json`.
pub(super) fn schemas() -> Vec<Described> {
    vec![
        ("cache init", printed::<init::CacheInitReport>),
        ("cache status", printed::<report::CacheReport>),
        ("cache update", printed::<report::CacheReport>),
        ("cache build", printed::<report::CacheReport>),
        ("cache save", printed::<report::CacheReport>),
        ("cache load", printed::<report::CacheReport>),
        ("cache run", printed::<report::CacheReport>),
        ("cache verify", printed::<verify::CacheVerifyReport>),
        ("cache prune", printed::<prune::CachePruneReport>),
    ]
}

/// Which project.
#[derive(Debug, clap::Args)]
struct ProjectArgs {
    /// The folder of the project; `windlass-cache.json` is there, or in a folder above it.
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
}

/// Which images of which project, in which Podman.
#[derive(Debug, clap::Args)]
struct CachedArgs {
    /// Names of `windlass-cache.json`; all, if none is given.
    #[arg(add = complete::cached_images(), value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    host: HostArgs,
}

/// A project, and the Podman that its images are in.
#[derive(Debug)]
struct CacheRoom {
    project: CacheProject,
    host: PodmanHost,
    lock: Option<UpstreamLock>,
    notes: Option<PathBuf>,
}

impl CacheRoom {
    fn open(project: &ProjectArgs, host: &HostArgs, progress: &Progress) -> Result<Self> {
        let project = CacheProject::find(&project.project)?;
        let lock = lock_of(&project.root)?;
        // Without a place for them every file is read each time.
        let notes = home("XDG_CACHE_HOME", ".cache").ok().map(|cache| cache.join("windlass/contexts"));
        Ok(Self { project, host: host.host(progress)?, lock, notes })
    }

    fn snapshot(&self, progress: &Progress) -> Result<StoreSnapshot> {
        Ok(StoreSnapshot::read(&self.host.places, progress)?)
    }

    fn look(
        &self,
        (name, image): (&Name, &CachedImage),
        snapshot: &StoreSnapshot,
        progress: &Progress,
    ) -> Result<CacheLook> {
        let Self { project, lock, notes, .. } = self;
        let eyes = CacheEyes { project, snapshot, lock: lock.as_ref(), notes: notes.as_deref(), progress };
        Ok(eyes.look(name, image)?)
    }
}
