//! `windlass upstream import` and `windlass upstream export`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::failure::{Context, Result};
use super::super::output::{Destination, is_stream};
use super::super::printer::{Printer, count};
use super::super::session::Session;
use super::{LockArgs, StateArgs};
use crate::compose::import::ImportOptions;
use crate::compose::read::images::images;
use crate::disk::bounded::{self, Cap};
use crate::oci::platform::Platform;
use crate::upstream::file::{self, UpstreamLockChange};
use crate::upstream::versions::{Versions, WantedImage, add, export, parse, remember, wanted};

const IMPORT: &str = "Examples:
  windlass upstream import container-versions.json
  windlass upstream import docker-compose.yml --env-file prod.env --platform linux/amd64
  windlass upstream update --all                     then look them up";

const EXPORT: &str = "Examples:
  windlass upstream export
  windlass upstream export --output container-versions.json --registry ghcr.io/someone/mirror";

/// Take the images of a container-versions.json or of a compose file into the lock.
///
/// Opens no connection: images come in as pending, until `windlass upstream update --all` looks them up. What the lock has already
/// stays as it is. Services of a compose file that are built, not pulled, are left out. The digests and times of a
/// container-versions.json are remembered beside the lock.
#[derive(Debug, clap::Args)]
#[command(after_long_help = IMPORT)]
pub(super) struct UpstreamImportArgs {
    /// The file: JSON with a list of images, or a compose file.
    file: PathBuf,
    /// A platform, like linux/arm64. Repeatable. By default that of this machine.
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]")]
    platforms: Vec<Platform>,
    /// For a compose file: a file of variables, instead of `.env` beside it. Repeatable; later ones win.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Registries on this machine speak plain HTTP.
    #[arg(long)]
    insecure: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    state: StateArgs,
}

/// Write the lock as a container-versions.json, for scripts that know that.
///
/// Each image is synced (its mirror has what upstream has), pending (the mirror has nothing), outdated (upstream has
/// something newer), moved, gone or unknown, as the last check and the last sync have it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXPORT)]
pub(super) struct UpstreamExportArgs {
    /// Write it here; replaced in one step if it is there. By default it goes to standard output.
    #[arg(short, long, alias = "to", value_name = "FILE")]
    output: Option<PathBuf>,
    /// The registry of the mirrors, if the lock does not say it.
    #[arg(long, value_name = "REGISTRY")]
    registry: Option<String>,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpstreamImportReport {
    added: Vec<String>,
    left_out: Vec<String>,
    sentence: String,
}

/// What a file has in it.
struct FoundImages {
    wanted: Vec<WantedImage>,
    /// What it says of the past.
    versions: Option<Versions>,
    /// Services that are built.
    built: Vec<String>,
}

pub(super) fn run_import(args: &UpstreamImportArgs, printer: &Printer, session: &Session) -> Result<()> {
    let FoundImages { wanted, versions, built } = look(args)?;
    let mut platforms: Vec<Platform> = args.platforms.iter().cloned().map(Platform::canonical).collect();
    if platforms.is_empty() {
        platforms.push(Platform::default().canonical());
    }
    platforms.sort();
    platforms.dedup();
    let (path, progress) = (&args.lock.lock, session.progress());
    let mut change = UpstreamLockChange::begin(path, progress)?;
    let added =
        add(&mut change.lock, &wanted, &platforms, args.insecure).with_context(|| args.file.display().to_string())?;
    if args.dry_run {
        change.would_change()?;
    } else {
        change.finish(progress)?;
    }
    if let Some(versions) = versions.as_ref().filter(|_| !args.dry_run) {
        let (file, mut state) = args.state.read(path)?;
        let before = state.clone();
        remember(&mut state, versions);
        if let Some(file) = file.filter(|_| state != before) {
            state.write(&file, progress)?;
        }
    }
    let known = wanted.len() - added.len();
    let known = if known > 0 { format!(", {known} there already") } else { String::new() };
    let left = if built.is_empty() { String::new() } else { format!(", {} left out: built, not pulled", built.len()) };
    let verb = if args.dry_run { "to be added" } else { "added" };
    let sentence = format!("{} {verb} as pending{known}{left}", count(added.len(), "image"));
    if printer.json() {
        return printer.value(&UpstreamImportReport { added, left_out: built, sentence });
    }
    for WantedImage { name, reference, .. } in wanted.iter().filter(|wanted| added.contains(&wanted.name)) {
        printer.line(format!("{name}  {reference}"))?;
    }
    built.iter().try_for_each(|service| printer.line(format!("{service}  is built, not pulled")))?;
    printer.line(sentence)
}

fn look(args: &UpstreamImportArgs) -> Result<FoundImages> {
    let file = &args.file;
    let named = || file.display().to_string();
    let text = bounded::read(file, Cap::Document).with_context(|| format!("read {}", file.display()))?;
    // A compose file may be JSON too; only the other kind has images at the top.
    if let Ok(serde_json::Value::Object(top)) = serde_json::from_slice(&text)
        && top.contains_key("images")
        && !top.contains_key("services")
    {
        let versions = parse(&String::from_utf8_lossy(&text)).with_context(named)?;
        let wanted = wanted(&versions).with_context(named)?;
        return Ok(FoundImages { wanted, versions: Some(versions), built: Vec::new() });
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = parent.canonicalize().with_context(|| format!("open {}", parent.display()))?;
    let options =
        ImportOptions { file: file.clone(), directory, env_files: args.env_file.clone(), ..ImportOptions::default() };
    let mut found = FoundImages { wanted: Vec::new(), versions: None, built: Vec::new() };
    for service in images(&options)? {
        match service.image {
            Some(reference) => found.wanted.push(WantedImage { name: service.service, reference, mirror: None }),
            None => found.built.push(service.service),
        }
    }
    Ok(found)
}

pub(super) fn run_export(args: &UpstreamExportArgs, printer: &Printer) -> Result<()> {
    let lock = file::read(&args.lock.lock)?;
    let (_, state) = args.state.read(&args.lock.lock)?;
    let versions = export(&lock, &state, args.registry.as_deref());
    let Some(to) = args.output.as_deref().filter(|to| !is_stream(to)) else {
        return match printer.json() {
            true => printer.value(&versions),
            false => printer.bytes(versions.to_text().as_bytes()),
        };
    };
    let target = Destination::new(to)?;
    target.write(&versions.to_text(), printer)?;
    target.publish()?;
    if printer.json() {
        return printer.value(&versions);
    }
    printer.line(format!("{}: {}", to.display(), count(versions.images.len(), "image")))
}
