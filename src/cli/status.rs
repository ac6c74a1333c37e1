//! `windlass status`

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::daemon;
use super::failure::{Result, failed, no_space, usage};
use super::host::HostArgs;
use super::into::{ChosenEngine, IntoArgs};
use super::load::label;
use super::loaded::loaded;
use super::metrics::Metrics;
use super::output::{Destination, is_stream};
use super::printer::{Printer, count, parse_size, size};
use super::targets::targets;
use super::why::{ImageReasons, LoadReasons};
use crate::disk::files::free_space;
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::engine::generation::GenerationEntry;
use crate::engine::kind::EngineKind;
use crate::engine::target::{LoadTarget, Presence};
use crate::image::chain_ids;
use crate::image::summary::{ImageKind, PlatformRecord};
use crate::podman::linked::{DRIVER, LinkedStore};
use crate::podman::load::decide::PodmanHost;
use crate::podman::load::unreadable::Unreadable;
use crate::podman::storage::disk_use::{LayerCopies, Share, Users, copies};
use crate::podman::storage::snapshot::StoreSnapshot;

const EXAMPLE: &str = "Examples:
  windlass status                          what is loaded, and whether it still is
  windlass status result --sizes           a stack, and what each image has for itself
  windlass status --why                    why each image is there or is not, and the reasons of the lock
  windlass status --check-free 20GB        fails with code 5 if less is free
  windlass status --metrics /var/lib/node_exporter/windlass.prom

Exit codes: 0 all there, 1 something is missing, damaged or changed, 5 less space than asked for.";

/// Show what is loaded, where, and whether it is still there.
///
/// Each image and model is *present* (linked or pulled), *missing*, *damaged* (a record of it promises more than there is;
/// `windlass verify` says more) or *changed* (its name leads to another image). Podman's records are read, and nothing
/// else: no process is started and nothing is written, but for the file of --metrics. Another engine (--into) is asked.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct StatusArgs {
    /// Stacks and image directories; what is loaded when absent.
    #[arg(value_name = "STACK|IMAGE")]
    paths: Vec<PathBuf>,
    /// Also what each image has for itself and what it shares, and what of linked layers is a copy.
    #[arg(long)]
    sizes: bool,
    /// Also why each image is there or is not: who loaded it and when, and the reason and check of its version in the lock.
    #[arg(long, conflicts_with = "metrics")]
    why: bool,
    /// The lock with the reasons. [default: images.lock.json, if it is there]
    #[arg(long, value_name = "FILE", requires = "why")]
    lock: Option<PathBuf>,
    /// Fail with code 5 if Podman or the linked store has less free space: `20GB`, `4GiB`, or bytes.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    check_free: Option<u64>,
    /// Write metrics for Prometheus to this file, in one step; `-` prints them instead of the table.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    #[command(flatten)]
    into: IntoArgs,
    #[command(flatten)]
    host: HostArgs,
}

/// One image or model.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusRow {
    #[serde(flatten)]
    entry: GenerationEntry,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// `linked` or `pulled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    way: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<PathBuf>,
    #[serde(flatten)]
    share: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_disk: Option<LayerCopies>,
    /// Why it stands so; with --why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<ImageReasons>,
}

/// Free space at one place.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct Free {
    /// The engine, or `linked`.
    pub(super) place: &'static str,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusReport {
    /// `podman`, `docker`, …
    #[serde(serialize_with = "as_word")]
    #[schemars(with = "String")]
    pub(super) engine: EngineKind,
    /// Where the engine's images are.
    pub(super) graph_root: PathBuf,
    /// Podman's run root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) run_root: Option<PathBuf>,
    pub(super) driver: String,
    pub(super) rootless: bool,
    pub(super) storage_conf: Option<PathBuf>,
    pub(super) linked_store: Option<PathBuf>,
    pub(super) linked_store_state: String,
    pub(super) free: Vec<Free>,
    pub(super) generation: Option<u64>,
    pub(super) images: Vec<StatusRow>,
    /// Images that Podman cannot read, whichever tool loaded them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unreadable: Vec<Unreadable>,
    /// Whether a load was killed before the engine confirmed it, or is still at work.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) unconfirmed: bool,
}

fn as_word<S: Serializer>(engine: &EngineKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(engine.word())
}

pub(super) fn run(args: &StatusArgs, printer: &Printer) -> Result<()> {
    let prints_metrics = args.metrics.as_deref().is_some_and(is_stream);
    if prints_metrics && printer.json() {
        return Err(usage("--metrics - and --json both are the result; give --metrics a file"));
    }
    let progress = super::session::progress();
    let (report, reasons) = match args.into.choose(&args.host, &progress)? {
        ChosenEngine::Podman => in_podman(&args.host.host(&progress)?, args, &progress)?,
        ChosenEngine::Crio(host) => in_podman(&host, args, &progress)?,
        ChosenEngine::Daemon(host) => {
            let refused = [(args.sizes, "--sizes"), (args.why, "--why")].into_iter().find(|(given, _)| *given);
            if let Some((_, option)) = refused {
                return Err(daemon::unsupported(host.daemon.kind(), option));
            }
            (daemon::status(&args.paths, &host, &progress)?, None)
        }
    };
    if let Some(path) = &args.metrics {
        let metrics = metrics(&report);
        if prints_metrics {
            printer.bytes(metrics.text().as_bytes())?;
        } else {
            let target = Destination::new(path)?;
            target.write(metrics.text(), printer)?;
            if let Destination::File(staging) = &target {
                // For the collector, which is another user.
                std::fs::set_permissions(staging.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            }
            target.publish()?;
        }
    }
    if printer.json() {
        printer.value(&report)?;
    } else if !prints_metrics {
        tell(&report, reasons.as_ref(), printer)?;
    }
    judge(args, &report)
}

fn in_podman(host: &PodmanHost, args: &StatusArgs, progress: &Progress) -> Result<(StatusReport, Option<LoadReasons>)> {
    let snapshot = StoreSnapshot::read(&host.places, progress)?;
    let generation = host.generations().current()?.map(|generation| generation.number);
    let reasons = args.why.then(|| LoadReasons::read(host, args.lock.as_deref())).transpose()?;
    let wanted = StatusWanted { shares: args.sizes || args.metrics.is_some(), copies: args.sizes };
    let images = rows(&args.paths, wanted, host, &snapshot, reasons.as_ref())?;
    Ok((whole(host, &snapshot, generation, images, progress)?, reasons))
}

/// What is said of each image beside its state.
#[derive(Debug, Clone, Copy)]
struct StatusWanted {
    /// What it has for itself, and what it shares.
    shares: bool,
    /// What of a linked one is a copy.
    copies: bool,
}

/// How these stacks and images stand on a host, with their sizes.
pub(super) fn of_paths(paths: &[PathBuf], host: &PodmanHost, progress: &Progress) -> Result<StatusReport> {
    let snapshot = StoreSnapshot::read(&host.places, progress)?;
    let generation = host.generations().current()?.map(|generation| generation.number);
    let images = rows(paths, StatusWanted { shares: true, copies: true }, host, &snapshot, None)?;
    whole(host, &snapshot, generation, images, progress)
}

impl StatusRow {
    /// One of a daemon.
    pub(super) const fn new(
        entry: GenerationEntry,
        state: &'static str,
        why: Option<String>,
        store: Option<PathBuf>,
    ) -> Self {
        let way = if store.is_some() { Some("pulled") } else { None };
        Self { entry, state, why, way, store, share: None, on_disk: None, reasons: None }
    }
}

/// The images, and where Podman and the linked store are.
fn whole(
    host: &PodmanHost,
    snapshot: &StoreSnapshot,
    generation: Option<u64>,
    images: Vec<StatusRow>,
    progress: &Progress,
) -> Result<StatusReport> {
    let (linked_store, linked_store_state) = linked_store(host, snapshot, progress);
    let places = &host.places;
    let mut free = vec![Free {
        place: host.engine.kind().word(),
        path: places.graph_root.clone(),
        bytes: free_at(&places.graph_root)?,
    }];
    if let Some(path) = &linked_store {
        free.push(Free { place: "linked", path: path.clone(), bytes: free_at(path)? });
    }
    Ok(StatusReport {
        engine: host.engine.kind(),
        graph_root: places.graph_root.clone(),
        run_root: Some(places.run_root.clone()),
        driver: places.driver.clone(),
        rootless: places.rootless,
        storage_conf: places.conf.clone(),
        linked_store,
        linked_store_state,
        free,
        generation,
        images,
        unreadable: host.unreadable(snapshot),
        unconfirmed: host.has_unconfirmed(),
    })
}

fn judge(args: &StatusArgs, report: &StatusReport) -> Result<()> {
    if let Some(wanted) = args.check_free
        && let Some(free) = report.free.iter().find(|free| free.bytes < wanted)
    {
        return Err(no_space(format!(
            "{} has {} free, less than {}; `windlass gc` says what it would free",
            free.path.display(),
            size(free.bytes),
            size(wanted)
        )));
    }
    if !report.unreadable.is_empty() {
        return Err(failed(format!(
            "Podman cannot read {}; `windlass repair` takes them away",
            count(report.unreadable.len(), "image")
        )));
    }
    let bad = report.images.iter().filter(|row| row.state != "present").count();
    if bad == 0 {
        return Ok(());
    }
    let next = match (args.paths.is_empty(), report.engine) {
        (true, EngineKind::Podman) => "`windlass repair` mends them".to_owned(),
        (true, engine) => daemon::mending(engine, report.generation),
        (false, _) => "`windlass load` loads them".to_owned(),
    };
    Err(failed(format!("{bad} of {} not there as they should be; {next}", report.images.len())))
}

fn rows(
    paths: &[PathBuf],
    wanted: StatusWanted,
    host: &PodmanHost,
    snapshot: &StoreSnapshot,
    reasons: Option<&LoadReasons>,
) -> Result<Vec<StatusRow>> {
    let users = wanted.shares.then(|| Users::of(snapshot));
    let row = |entry: GenerationEntry, target: &LoadTarget| -> Result<StatusRow> {
        let platform = target.platform()?;
        let mut row = row(entry, target, platform, host, snapshot);
        if let Some(users) = &users {
            row.share = Some(users.share(platform));
        }
        if wanted.copies && row.way == Some("linked") {
            row.on_disk = on_disk(snapshot, target, platform);
        }
        row.reasons = reasons.map(|reasons| reasons.of(&row.entry, row.state, Some(target), snapshot));
        Ok(row)
    };
    if !paths.is_empty() {
        let of = |target: &LoadTarget| {
            let platform = target.platform()?;
            row(GenerationEntry::new(&target.image, platform, &target.name, &target.origins), target)
        };
        return targets(paths, &[])?.iter().map(of).collect();
    }
    let images = loaded(host, &[])?.unwrap_or_default();
    let of = |(entry, target): (GenerationEntry, Result<LoadTarget, _>)| match target {
        Ok(target) => row(entry, &target),
        Err(error) => {
            let why = Some(format!("what it was loaded from is gone: {error}"));
            let reasons = reasons.map(|reasons| reasons.of(&entry, "damaged", None, snapshot));
            Ok(StatusRow { entry, state: "damaged", why, way: None, store: None, share: None, on_disk: None, reasons })
        }
    };
    images.into_iter().map(of).collect()
}

fn row(
    entry: GenerationEntry,
    target: &LoadTarget,
    platform: &PlatformRecord,
    host: &PodmanHost,
    snapshot: &StoreSnapshot,
) -> StatusRow {
    let summary = target.image.summary();
    let home = snapshot.home(summary, platform).map(|home| home.store.clone());
    let is_linked = |store: &Path| store != host.places.graph_root && LinkedStore::is_at(store);
    let elsewhere = || snapshot.led_elsewhere(summary, platform);
    let (state, why) = match snapshot.presence(summary, platform) {
        Presence::Present { named: true, .. } => ("present", None),
        Presence::Present { named: false, .. } => ("changed", elsewhere()),
        Presence::Damaged { why, .. } => ("damaged", Some(why)),
        Presence::Missing if snapshot.called(&summary.reference).is_some() => {
            ("changed", elsewhere().map(|why| format!("{why}, and the image is gone")))
        }
        Presence::Missing => ("missing", None),
    };
    let way = home.as_deref().map(|store| if is_linked(store) { "linked" } else { "pulled" });
    StatusRow { entry, state, why, way, store: home, share: None, on_disk: None, reasons: None }
}

/// How much of a linked image is links.
fn on_disk(snapshot: &StoreSnapshot, target: &LoadTarget, platform: &PlatformRecord) -> Option<LayerCopies> {
    let store = snapshot.home(target.image.summary(), platform)?;
    let mut sum = LayerCopies::default();
    for chain in chain_ids(&platform.layers) {
        let tree = store.tree(&chain.hex());
        // A damaged layer may have none.
        if let Ok(LayerCopies { linked, copied }) = copies(&tree) {
            sum.linked += linked;
            sum.copied += copied;
        }
    }
    Some(sum)
}

/// The linked store, and what is to be said of it.
fn linked_store(host: &PodmanHost, snapshot: &StoreSnapshot, progress: &Progress) -> (Option<PathBuf>, String) {
    let places = &host.places;
    if let Some(store) = &host.linked {
        let records = snapshot.stores.iter().find(|records| records.store == store.path());
        let (images, layers) = records.map_or((0, 0), |records| (records.images.len(), records.layers.len()));
        let left = match store.leftovers(progress) {
            Ok(leftovers) if leftovers.is_empty() => String::new(),
            Ok(leftovers) => format!(", {} of a killed run", count(leftovers.len(), "leftover")),
            Err(error) => format!(", damaged: {error}"),
        };
        let state = format!("{}, {}{left}", count(images, "image"), count(layers, "layer"));
        return (Some(store.path().to_owned()), state);
    }
    if let Some(path) = places.image_stores.iter().find(|path| LinkedStore::is_at(path)) {
        return (Some(path.clone()), "read only for this user".to_owned());
    }
    if let Some(path) = places.image_stores.iter().find(|path| !path.exists()) {
        return (
            None,
            format!("{} is named by storage.conf and is not there: no Podman command works", path.display()),
        );
    }
    let why = if places.driver == DRIVER {
        "none; `windlass doctor` says how to have one".to_owned()
    } else {
        format!("none; the driver {} can have none", places.driver)
    };
    (None, why)
}

/// Bytes that are free at a place, or where it would be made.
pub(super) fn free_at(path: &Path) -> Result<u64> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    Ok(free_space(existing)?)
}

fn tell(report: &StatusReport, reasons: Option<&LoadReasons>, printer: &Printer) -> Result<()> {
    let header = |name: &str, value: String| printer.line(format!("{name:<13} {value}"));
    let user = if report.rootless { "rootless" } else { "rootful" };
    let root = format!("{} ({}, {user})", report.graph_root.display(), report.driver);
    if let Some(run_root) = &report.run_root {
        header("graph root", root)?;
        header("run root", run_root.display().to_string())?;
        let conf = report.storage_conf.as_ref();
        header("storage.conf", conf.map_or("none".to_owned(), |conf| conf.display().to_string()))?;
    } else {
        header("engine", report.engine.to_string())?;
        header("data root", root)?;
    }
    let path = report.linked_store.as_ref().map_or(String::new(), |path| format!("{}: ", path.display()));
    header("linked store", format!("{path}{}", report.linked_store_state))?;
    let free = |free: &Free| format!("{} in {}", size(free.bytes), free.path.display());
    header("free", report.free.iter().map(free).collect::<Vec<_>>().join(", "))?;
    header("generation", report.generation.map_or("none: nothing was loaded yet".to_owned(), |n| n.to_string()))?;
    let mut head = vec!["image", "state", "size"];
    if report.images.iter().any(|row| row.share.is_some()) {
        head.extend(["own", "shared", "copied"]);
    }
    head.extend(["digest", "ref", "from"]);
    if report.images.iter().any(|row| row.why.is_some()) {
        head.push("why");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for row in &report.images {
        let StatusRow { entry, state, why, way, share, on_disk, .. } = row;
        let state = way.filter(|_| *state == "present").map_or((*state).to_owned(), |way| format!("{state}, {way}"));
        let mut cells = vec![label(entry), state, size(entry.size)];
        if let Some(share) = share {
            cells.push(size(share.exclusive));
            cells.push(format!("{} with {}", size(share.shared), share.shared_with));
            cells.push(on_disk.map_or(String::new(), |on_disk| size(on_disk.copied)));
        }
        cells.extend([entry.digest.short(), entry.reference.to_string(), entry.directory.display().to_string()]);
        cells.extend(why.clone());
        rows.push(cells);
    }
    if rows.len() > 1 {
        printer.line("")?;
        printer.table(&rows)?;
    }
    for row in &report.images {
        let lines = reasons.zip(row.reasons.as_ref()).map(|(reasons, why)| reasons.lines(&label(&row.entry), why));
        lines.into_iter().flatten().try_for_each(|line| printer.line(line))?;
    }
    report.unreadable.iter().try_for_each(|image| printer.line(image))?;
    if report.unconfirmed {
        let (engine, verb) = (report.engine, if report.run_root.is_some() { "repair" } else { "load" });
        printer.line(format!(
            "a load is at work, or was killed before {engine} confirmed it; `windlass {verb}` settles that"
        ))?;
    }
    let number = |state: &str| report.images.iter().filter(|row| row.state == state).count();
    let models = report.images.iter().filter(|row| row.entry.kind == ImageKind::Model).count();
    let states = ["present", "missing", "damaged", "changed"].map(|state| (state, number(state)));
    let told = states.iter().filter(|(state, number)| *state == "present" || *number > 0);
    let told: Vec<String> = told.map(|(state, number)| format!("{number} {state}")).collect();
    printer.line(format!(
        "{}, {}: {}",
        count(report.images.len() - models, "image"),
        count(models, "model"),
        told.join(", ")
    ))
}

fn metrics(report: &StatusReport) -> Metrics {
    let mut metrics = Metrics::default();
    let of = |row: &StatusRow| {
        let kind = if row.entry.kind == ImageKind::Model { "model" } else { "image" };
        vec![("name", row.entry.name.to_string()), ("ref", row.entry.reference.to_string()), ("type", kind.to_owned())]
    };
    let present = report.images.iter().map(|row| {
        let store = row.store.as_ref().map_or(String::new(), |store| store.display().to_string());
        ([of(row), vec![("store", store)]].concat(), u8::from(row.state == "present"))
    });
    metrics.gauge("windlass_image_present", "Whether Podman has the image, under its name.", present);
    let bytes = report.images.iter().flat_map(|row| {
        let kinds = row.share.iter().flat_map(|share| [("exclusive", share.exclusive), ("shared", share.shared)]);
        kinds.map(|(kind, bytes)| ([of(row), vec![("kind", kind.to_owned())]].concat(), bytes))
    });
    metrics.gauge("windlass_image_bytes", "Bytes of the image's layers that it has for itself, or shares.", bytes);
    let states = ["present", "missing", "damaged", "changed"].map(|state| {
        (vec![("state", state.to_owned())], report.images.iter().filter(|row| row.state == state).count())
    });
    metrics.gauge("windlass_images", "Images and models of the current generation by state.", states);
    let free = report
        .free
        .iter()
        .map(|free| (vec![("place", free.place.to_owned()), ("path", free.path.display().to_string())], free.bytes));
    metrics.gauge("windlass_free_bytes", "Free space.", free);
    metrics.gauge("windlass_generation", "The current generation.", report.generation.map(|n| (vec![], n)));
    metrics
}
