//! `windlass upstream`

pub(super) mod add;
pub(super) mod check;
mod fetch;
mod import;
mod list;
mod mirror;
mod remove;
mod update;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::failure::{Context, Failure, Result, environment, usage};
use super::printer::Printer;
use super::registry::RegistryArgs;
use super::schemas::{Described, printed};
use super::session::Session;
use crate::names::no_such;
use crate::oci::digest::Digest;
use crate::upstream::check::select;
use crate::upstream::lock::UpstreamLock;
use crate::upstream::state::UpstreamState;
use crate::upstream::versions::Versions;

const EXAMPLE: &str = "Examples:
  windlass upstream add qdrant qdrant/qdrant:v1.16.2 --cadence monthly
  windlass upstream check                  does upstream still say the same? 8 if not
  windlass upstream update                 lock what it says now
  windlass upstream import container-versions.json

images.lock.json belongs into version control: it holds every manifest byte for byte, so that builds open no connection.";

/// Pin images of registries by digest, see what became of them, and take what is new.
///
/// Images that are not built here are listed in a lock file. Only `add`, `remove`, `update` and `import` change it, and
/// nothing else; what is built and loaded follows the lock alone.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct UpstreamArgs {
    #[command(subcommand)]
    verb: UpstreamVerb,
}

#[derive(Debug, clap::Subcommand)]
enum UpstreamVerb {
    Add(add::UpstreamAddArgs),
    Remove(remove::UpstreamRemoveArgs),
    Check(check::UpstreamCheckArgs),
    Update(update::UpstreamUpdateArgs),
    Fetch(fetch::UpstreamFetchArgs),
    Mirror(mirror::UpstreamMirrorArgs),
    List(list::UpstreamListArgs),
    Import(import::UpstreamImportArgs),
    Export(import::UpstreamExportArgs),
}

pub(super) fn run(args: &UpstreamArgs, printer: &Printer, session: &Session) -> Result<()> {
    match &args.verb {
        UpstreamVerb::Add(args) => add::run(args, printer, session),
        UpstreamVerb::Remove(args) => remove::run(args, printer, session),
        UpstreamVerb::Check(args) => check::run(args, printer, session),
        UpstreamVerb::Update(args) => update::run(args, printer, session),
        UpstreamVerb::Fetch(args) => fetch::run(args, printer, session),
        UpstreamVerb::Mirror(args) => mirror::run(args, printer, session),
        UpstreamVerb::List(args) => list::run(args, printer),
        UpstreamVerb::Import(args) => import::run_import(args, printer, session),
        UpstreamVerb::Export(args) => import::run_export(args, printer),
    }
}

/// What these verbs print with `--json`.
pub(super) fn schemas() -> Vec<Described> {
    vec![
        ("upstream add", printed::<add::UpstreamAddReport<'static>>),
        ("upstream remove", printed::<remove::UpstreamRemoveReport>),
        ("upstream check", printed::<check::UpstreamCheckReport<'static>>),
        ("upstream update", printed::<update::UpstreamUpdateReport<'static>>),
        ("upstream fetch", printed::<fetch::UpstreamFetchReport>),
        ("upstream mirror", printed::<mirror::UpstreamMirrorReport<'static>>),
        ("upstream list", printed::<list::UpstreamListReport<'static>>),
        ("upstream import", printed::<import::UpstreamImportReport>),
        ("upstream export", printed::<Versions>),
    ]
}

/// Which lock.
#[derive(Debug, clap::Args)]
struct LockArgs {
    /// The lock file.
    #[arg(long, value_name = "FILE", default_value = "images.lock.json")]
    lock: PathBuf,
}

/// Where times are kept.
#[derive(Debug, clap::Args)]
struct StateArgs {
    /// The file for what changes with time: when images were looked up, and how they stood. By default one for each lock
    /// in XDG_STATE_HOME/windlass/upstream.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

impl StateArgs {
    /// The file; `None` for a user without a home, who gave none.
    fn path(&self, lock: &Path) -> Result<Option<PathBuf>> {
        if let Some(state) = &self.state {
            return Ok(Some(state.clone()));
        }
        let Ok(home) = home("XDG_STATE_HOME", ".local/state") else { return Ok(None) };
        Ok(Some(home.join("windlass/upstream").join(format!("{}.json", key(lock)?))))
    }

    /// What is known; nothing, if there is no place for it.
    fn read(&self, lock: &Path) -> Result<(Option<PathBuf>, UpstreamState)> {
        let path = self.path(lock)?;
        let state = path.as_deref().map(UpstreamState::read).transpose()?.unwrap_or_default();
        Ok((path, state))
    }
}

/// What is known of the images of a lock at this moment, where it is kept unless told otherwise.
pub(super) fn known(lock: &Path) -> Result<UpstreamState> {
    Ok(StateArgs { state: None }.read(lock)?.1)
}

/// A folder of the user: what the variable says, or else below the home.
pub(super) fn home(variable: &'static str, default: &str) -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME").filter(|_| set(variable).is_none());
    if let Some(home) = home.as_deref().filter(|_| rustix::process::geteuid().is_root()) {
        not_of_another(home)?;
    }
    let folder = set(variable).or_else(|| Some(home?.join(default)));
    folder.ok_or_else(|| environment(format!("neither {variable} nor HOME is set; set one of them")))
}

/// Root leaves no files in the home of a user, who could not remove them: sudo may keep HOME.
fn not_of_another(home: &Path) -> Result<()> {
    match std::fs::metadata(home).map(|metadata| metadata.uid()) {
        Ok(uid) if uid != 0 => {
            let home = home.display();
            Err(environment(format!(
                "HOME is {home}, which belongs to user {uid}, and root's files there would be in that user's way; run windlass as \
                 that user, or as root with `sudo -H`"
            )))
        }
        _ => Ok(()),
    }
}

/// What the files about a lock are called that are kept elsewhere.
pub(super) fn key(lock: &Path) -> Result<String> {
    // The lock may not be there yet; its folder is.
    let folder = lock.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().with_context(|| format!("open {}", folder.display()))?;
    let path = folder.join(lock.file_name().unwrap_or_default());
    Ok(Digest::of(path.as_os_str().as_encoded_bytes()).hex()[..32].to_owned())
}

/// The images that are asked for, all if none is.
fn chosen(lock: &UpstreamLock, asked: &[String], path: &Path) -> Result<Vec<String>> {
    select(lock, asked).map_err(|name| unknown(lock, &name, path))
}

fn unknown(lock: &UpstreamLock, name: &str, path: &Path) -> Failure {
    usage(format!("{}: {}", path.display(), no_such("image", name, "", lock.images.keys())))
}

/// The one clock of these verbs.
fn now() -> Timestamp {
    Timestamp::now()
}

/// `2025-12-01`, and how long ago that is.
fn day(created: &str) -> String {
    let Ok(created) = created.parse::<Timestamp>() else { return created.to_owned() };
    let date = created.strftime("%Y-%m-%d");
    // Reproducible images say the first second of 1970, which is not an age.
    match now().duration_since(created).as_hours() / 24 {
        days @ 0..20_000 => format!("{date}, {days} days ago"),
        _ => date.to_string(),
    }
}
