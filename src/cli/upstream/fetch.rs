//! `windlass upstream fetch`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::failure::{Result, offline, several};
use super::super::host::nix_places;
use super::super::printer::{Printer, count, size};
use super::super::session::Session;
use super::{LockArgs, RegistryArgs, home, key};
use crate::class::{Class, Classified};
use crate::cli::complete;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::upstream::fetch::{BlobFailure, FetchCause, Fetcher, Selection, jobs};
use crate::upstream::file;
use crate::upstream::nix::BlobStore;

const EXAMPLE: &str = "Examples:
  windlass upstream fetch                    everything that the lock has
  windlass upstream fetch --image qdrant     one image, after it failed
  windlass upstream fetch --offline          is everything there? 6 if not

Blobs go to the very store paths that builds look for them at, so that builds then need no network and no login.";

/// Download what the lock has and the Nix store lacks.
///
/// With the logins of the user who runs this, several blobs at a time, each one once, whatever the number of images that have
/// it. Every byte is verified on its way. What was stopped goes on where it stopped, in this run or in a later one.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct UpstreamFetchArgs {
    /// Only this image. Repeatable.
    #[arg(add = complete::locked_images(), long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// Only this platform, as `linux/amd64`. Repeatable.
    #[arg(long = "platform", value_name = "OS/ARCH")]
    platforms: Vec<Platform>,
    /// Ask no registry; fail if anything would have to be fetched.
    #[arg(long)]
    offline: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// How many blobs to fetch at a time.
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: u16,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpstreamFetchReport {
    blobs: BTreeMap<Digest, UpstreamFetchRow>,
    fetched: usize,
    present: usize,
    network: u64,
    /// The images that are not complete, with the number of blobs that they lack.
    incomplete: BTreeMap<String, usize>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UpstreamFetchRow {
    path: PathBuf,
    size: u64,
    /// `present`, `fetched`, `missing` or `failed`.
    outcome: &'static str,
}

pub(super) fn run(args: &UpstreamFetchArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (path, progress) = (&args.lock.lock, session.progress());
    let lock = file::read(path)?;
    let platforms: Vec<Platform> = args.platforms.iter().cloned().map(Platform::canonical).collect();
    let jobs = jobs(&lock, Selection { images: &args.images, platforms: &platforms })?;
    for (name, _) in lock.images.iter().filter(|(_, image)| image.locked.is_none() && args.images.is_empty()) {
        printer.note(format!("{name}: not looked up yet; windlass upstream update --image {name}"));
    }
    let store = BlobStore::new(&nix_places())?;
    let missing = store.missing(jobs.keys().copied())?;
    let roots = roots_folder(path)?;
    store.let_go(&roots, lock.blobs.keys().copied())?;
    for digest in jobs.keys().filter(|digest| !missing.contains(*digest)) {
        if let Err(error) = store.keep(*digest, &roots) {
            printer.note(format!("warning: {error}"));
        }
    }
    let wanted: Vec<_> = jobs.values().filter(|job| missing.contains(&job.wanted.digest)).cloned().collect();
    let mut incomplete: BTreeMap<String, usize> = BTreeMap::new();
    let mut lacks =
        |images: &BTreeSet<String>| images.iter().for_each(|name| *incomplete.entry(name.clone()).or_default() += 1);

    let (mut fetched, mut network, mut failures) = (BTreeSet::new(), 0, Vec::new());
    if args.offline || args.dry_run {
        wanted.iter().for_each(|job| lacks(&job.images));
    } else if !wanted.is_empty() {
        let cache = home("XDG_CACHE_HOME", ".cache")?.join("windlass/blobs");
        let drawing = session.draw("fetching");
        let registries = args.registry.registries()?;
        let parallel = usize::from(args.jobs);
        let fetcher =
            Fetcher { registries: &registries, store: &store, cache: &cache, roots: &roots, parallel, progress };
        let outcome = fetcher.run(wanted)?;
        drop(drawing);
        outcome.failures.iter().for_each(|failure| lacks(&failure.images));
        (fetched, network, failures) = (outcome.fetched, outcome.network, outcome.failures);
    }

    let row = |digest: &Digest| match (missing.contains(digest), fetched.contains(digest)) {
        (false, _) => "present",
        (true, true) => "fetched",
        (true, false) if args.offline || args.dry_run => "missing",
        (true, false) => "failed",
    };
    let rows = jobs.iter().map(|(digest, job)| {
        (*digest, UpstreamFetchRow { path: store.path(*digest), size: job.wanted.size, outcome: row(digest) })
    });
    let present = jobs.len() - missing.len();
    let report = UpstreamFetchReport { blobs: rows.collect(), fetched: fetched.len(), present, network, incomplete };
    tell(&report, &failures, printer)?;
    if args.offline && !report.incomplete.is_empty() {
        let bytes: u64 = report.blobs.values().filter(|row| row.outcome == "missing").map(|row| row.size).sum();
        let blobs = count(missing.len(), "blob");
        return Err(
            offline(format!("{blobs} would have to be fetched, {}", size(bytes))).hint("run this without --offline")
        );
    }
    if !failures.is_empty() {
        return Err(several(format!("{} could not be fetched", count(failures.len(), "blob")), classes(&failures)));
    }
    Ok(())
}

fn tell(report: &UpstreamFetchReport, failures: &[BlobFailure], printer: &Printer) -> Result<()> {
    for failure in failures {
        let images = failure.images.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let what = format!("{} ({images})", failure.digest);
        match &failure.cause {
            FetchCause::Places(places) => {
                places.iter().for_each(|(place, error)| printer.note(format!("{what}: {place}: {error}")));
            }
            FetchCause::Nix(error) => printer.note(format!("{what}: {error}")),
        }
    }
    if printer.json() {
        return printer.value(report);
    }
    for (name, number) in &report.incomplete {
        printer.line(format!("{name} is incomplete: {} missing", count(*number, "blob")))?;
    }
    let UpstreamFetchReport { blobs, fetched, present, network, .. } = report;
    let blobs = count(blobs.len(), "blob");
    printer.line(format!("{blobs}: {fetched} fetched, {present} present; network {}", size(*network)))
}

/// Why each failed: what the last place said, which is upstream.
fn classes(failures: &[BlobFailure]) -> impl Iterator<Item = Class> {
    failures.iter().filter_map(|failure| match &failure.cause {
        FetchCause::Places(places) => places.last().map(|(_, error)| error.class()),
        FetchCause::Nix(error) => Some(error.class()),
    })
}

/// Where the links are that keep the blobs of a lock.
fn roots_folder(lock: &Path) -> Result<PathBuf> {
    Ok(home("XDG_STATE_HOME", ".local/state")?.join("windlass/upstream/roots").join(key(lock)?))
}
