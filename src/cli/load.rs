//! `windlass load`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::archives::UnpackedArchives;
use super::complete;
use super::data_format::breaks;
use super::failure::{Failure, Result, environment, unloaded, unverified, usage};
use super::foretell::causes;
use super::host::HostArgs;
use super::import_store::{self, StorePathsReport};
use super::into::{ChosenEngine, HostEngine, IntoArgs};
use super::load_plan;
use super::printer::{Printer, count, size};
use super::session::Session;
use super::targets::readable;
use super::view::{ViewedImage, of_directory};
use crate::build::stack::UnreadableImage;
use crate::class::Classified as _;
use crate::engine::Engine;
use crate::engine::generation::GenerationEntry;
use crate::engine::keep::keep_store_paths;
use crate::engine::load::{ImageOutcome, LoadResult, load_planned};
use crate::engine::missing::MissingBase;
use crate::engine::target::{
    self, CopiedBytes, DecideError, LoadMethod, LoadOptions, LoadReason, LoadStep, LoadTarget, plan,
};
use crate::image::layout::ImageDir;
use crate::image::summary::ImageKind;
use crate::podman::load::LoadError;
use crate::podman::load::decide::PodmanHost;

const EXAMPLE: &str = "Examples:
  windlass load result                     everything that is missing, linked where the host is set up for it
  windlass load result --dry-run           what that would do, and how much it would write
  windlass load result --image redis       one image of the stack
  windlass load result --into docker       into Docker, through its socket
  windlass load result --into containerd   into containerd, through ctr
  windlass load result --into crio         into CRI-O, linked into the store that its settings name
  windlass load /media/stick/ai            a bundle
  windlass load /media/stick/ai --import-store   and its store paths into the Nix store of this host";

/// Load images into Podman or another engine: nothing for what is there, links for what the store has, else through the engine.
///
/// An image is *present* when Podman's own records say so; no process is started and no byte of a layer is read. What is
/// missing is *linked* into an additional image store of windlass' own, on the file system of the Nix store, where
/// storage.conf names one (`windlass doctor --fix` sets it up): no bytes move, and no prune takes it away. Otherwise it is
/// handed to Podman (*pulled*), missing layers only: while it works that takes the space of these layers twice, or once where there
/// is no more (as root, with skopeo). No network is used. Each load that changes something is a generation
/// to go back to, and keeps its store paths from Nix's garbage collector.
///
/// With --into another engine gets them: CRI-O through the linked store, which it reads as Podman does, Docker through its socket, containerd and k3s through `ctr`. It is asked for each
/// image by digest, gets the layers that it lacks, and is asked again before anything counts as loaded. Docker gets them as a
/// stream that lies in no file of windlass; a containerd whose folder this user may write to gets them as blobs there, which
/// share their data with the Nix store on XFS and Btrfs. Each image is called NAME:windlass-DIGEST too, a name that no other
/// one ever has, so that a rollback finds it. The page *engines* says what each engine can.
///
/// A bundle (`windlass export --bundle`) is loaded the same way, without Nix: its layers are unpacked into the linked store
/// if there is one, each byte read once and compared while it is written, or handed to Podman. What is cut is read from its
/// parts; only for Podman it is put together first. What of it is damaged or missing is named with its images, the others
/// load, and the exit code is 4. What a delta (`--since`) leaves out must be in Podman: an image whose layers are not is
/// refused with the name of the one that has them, the others load, and the exit code is 7.
///
/// An archive (`export --output FILE`, `export --tar`, `podman save`, `docker save`) is unpacked to a temporary folder first
/// ($TMPDIR, /var/tmp), and is loaded like an image of others, under the name that it has in it.
///
/// Where there is a Nix, --import-store puts the store paths of a bundle's images back into its store, out of the layers and
/// only where their NAR hash proves them. It asks Nix for nothing but `nix-store --import`, so a user who may not import
/// paths without a signature is refused by Nix itself. The generation keeps them from the garbage collector.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct LoadArgs {
    /// Stacks, bundles, image directories, and archives of one image.
    #[arg(required = true, value_name = "STACK|BUNDLE|IMAGE|FILE")]
    paths: Vec<PathBuf>,
    /// Which way.
    #[arg(long, value_enum, default_value_t = ViaOption::Auto)]
    via: ViaOption,
    /// Only this image or model of the stacks. Repeatable.
    #[arg(add = complete::loaded_names(), long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// Load also what is there.
    #[arg(long)]
    force: bool,
    /// Put the store paths that this host's Nix store lacks back into it, out of the layers of a bundle.
    #[arg(long)]
    import_store: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    into: IntoArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ViaOption {
    /// Linked where the host is set up for it, else through the engine.
    Auto,
    /// Linked, or not at all; Podman only.
    Store,
    /// Through Podman.
    Podman,
}

/// One image, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoadRow<'a> {
    #[serde(flatten)]
    pub(super) entry: &'a GenerationEntry,
    pub(super) action: &'static str,
    pub(super) reason: String,
    store: &'a Path,
    /// Bytes that this host writes, and that stay.
    pub(super) bytes_to_write: u64,
    /// Bytes that are needed at the fullest moment, with those that stay.
    bytes_needed: u64,
    /// Bytes of a linked image that are copied, by reason.
    pub(super) copied: &'a CopiedBytes,
    /// Files that are links to the store, of what was linked now.
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<u64>,
    /// Bytes of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    linked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What to type next, where one command helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// The whole load, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoadReport<'a> {
    images: Vec<LoadRow<'a>>,
    loaded: usize,
    present: usize,
    failed: usize,
    written: u64,
    linked: u64,
    network: u64,
    generation: Option<u64>,
    /// How long it took, in seconds.
    seconds: f64,
    warnings: &'a [String],
    /// With --import-store.
    #[serde(skip_serializing_if = "Option::is_none")]
    store_paths: Option<StorePathsReport>,
}

pub(super) fn run(args: &LoadArgs, printer: &Printer, session: &Session) -> Result<()> {
    let archives = UnpackedArchives::of(&args.paths, session)?;
    let (targets, lost) = readable(&args.paths, &archives, &args.images)?;
    lost.iter().for_each(|image| printer.note(format!("{}: {}", image.reference, image.error)));
    if targets.is_empty() && !lost.is_empty() {
        return Err(damaged(&lost));
    }
    let via = match args.via {
        ViaOption::Auto => target::LoadVia::Auto,
        ViaOption::Store => target::LoadVia::Store,
        ViaOption::Podman => target::LoadVia::Podman,
    };
    let options = LoadOptions { via, force: args.force, partial: !args.images.is_empty() || !lost.is_empty() };
    match args.into.choose(&args.host, session.progress())? {
        ChosenEngine::Podman => {
            let (host, planned) = host(args, &targets, options, session)?;
            load_into(&host, args, (targets, &lost), planned, options, printer, session)
        }
        ChosenEngine::Crio(_) if matches!(args.via, ViaOption::Podman) => {
            Err(usage("CRI-O takes nothing through Podman: leave `--via podman` out, or leave out `--into crio`"))
        }
        ChosenEngine::Crio(host) => load_into(&*host, args, (targets, &lost), None, options, printer, session),
        ChosenEngine::Daemon(host) => load_into(&host, args, (targets, &lost), None, options, printer, session),
    }
}

/// Loads what can be loaded of these, of which some are lost. `planned` is what loading them would do, if that is known.
fn load_into<E: HostEngine>(
    host: &E,
    args: &LoadArgs,
    (mut targets, lost): (Vec<LoadTarget>, &[UnreadableImage]),
    planned: Option<Vec<LoadStep>>,
    mut options: LoadOptions,
    printer: &Printer,
    session: &Session,
) -> Result<()> {
    let missing = host.missing(&targets, options, session.progress())?;
    let mut each = missing.iter();
    targets.retain(|_| each.next().is_some_and(Option::is_none));
    let refused: Vec<MissingBase> = missing.into_iter().flatten().collect();
    for base in &refused {
        printer.note(base);
        base.hint().iter().for_each(|hint| printer.note(format!("hint: {hint}")));
    }
    options.partial |= !refused.is_empty();
    if targets.is_empty() && !refused.is_empty() {
        return lacking(lost, &refused);
    }
    let planned = planned.filter(|_| refused.is_empty());
    for warning in data_breaks(host, &targets) {
        printer.note(format!("warning: {warning}"));
    }
    // Before the load, whose generation keeps them.
    let imported = match args.import_store {
        true => Some(import_store::import(&targets, host.nix(), args.dry_run, printer, session)?),
        false => None,
    };
    let damage = imported.as_ref().and_then(StorePathsReport::failure);
    if args.dry_run {
        load_plan::dry_run(host, &targets, planned, options, imported, printer, session)?;
    } else {
        perform(host, &targets, planned, options, imported, printer, session)?;
    }
    if let Some(damage) = damage {
        return Err(damage);
    }
    lacking(lost, &refused)
}

/// What is wrong with bundles, when the rest of them is loaded: what is damaged first.
fn lacking(lost: &[UnreadableImage], refused: &[MissingBase]) -> Result<()> {
    if !lost.is_empty() {
        return Err(damaged(lost));
    }
    if refused.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = refused.iter().map(|base| &*base.reference).collect();
    let (what, has) = (count(names.len(), "image"), if names.len() == 1 { "needs" } else { "need" });
    Err(environment(format!("{what} of the bundle {has} layers that are not here: {}", names.join(", "))))
}

/// What is wrong with a bundle, when the rest of it is loaded.
fn damaged(lost: &[UnreadableImage]) -> Failure {
    let names: Vec<&str> = lost.iter().map(|image| &*image.reference).collect();
    unverified(format!("{} of the bundle cannot be read: {}", count(lost.len(), "image"), names.join(", ")))
        .hint("copy or export the bundle again; `windlass verify BUNDLE --full` names every file at fault")
}

/// Data of what is loaded that the new versions of these images do not read. What is loaded and cannot be read is not compared,
/// nor what is loaded already.
fn data_breaks<E: Engine>(host: &E, targets: &[LoadTarget]) -> Vec<String> {
    let Ok(Some(current)) = host.generations().current() else { return Vec::new() };
    let is_new = |target: &&LoadTarget| {
        let digest = target.image.summary().digest;
        current.entries.iter().all(|entry| entry.digest != digest)
    };
    let new: Vec<ViewedImage> = targets.iter().filter(is_new).flat_map(|target| of_directory(&target.image)).collect();
    if new.is_empty() {
        return Vec::new();
    }
    let open = |entry: &GenerationEntry| ImageDir::open(&entry.directory).ok();
    let old: Vec<ViewedImage> =
        current.entries.iter().filter_map(open).flat_map(|image| of_directory(&image)).collect();
    breaks(&old, &new)
}

/// The Podman to load into, and what loading would do, if that is known. What it has answered before is enough where all is
/// there; before anything is written to a place, Podman is asked whether it looks there.
fn host(
    args: &LoadArgs,
    targets: &[LoadTarget],
    options: LoadOptions,
    session: &Session,
) -> Result<(PodmanHost, Option<Vec<LoadStep>>)> {
    let progress = session.progress();
    // Says which lock it waits for.
    let _drawing = session.draw("loading");
    let Ok(Some(host)) = args.host.remembered() else { return Ok((args.host.asked(progress)?, None)) };
    match plan(&host, targets, options, progress) {
        Ok(steps) if args.dry_run || steps.iter().all(|step| step.how == LoadMethod::Present) => {
            Ok((host, Some(steps)))
        }
        // What is wrong with the images themselves, no Podman can put right.
        Err(LoadError::Decide(DecideError::Platform { .. } | DecideError::SameName { .. })) => Ok((host, None)),
        // What was measured of the images stays true of another Podman.
        _ => Ok((PodmanHost { sizes: host.sizes, ..args.host.asked(progress)? }, None)),
    }
}

/// Loads, and tells it as it happens.
fn perform<E: HostEngine>(
    host: &E,
    targets: &[LoadTarget],
    planned: Option<Vec<LoadStep>>,
    options: LoadOptions,
    imported: Option<StorePathsReport>,
    printer: &Printer,
    session: &Session,
) -> Result<()> {
    let progress = session.progress();
    // What is wrong with a load, the load says.
    let planned = planned.or_else(|| plan(host, targets, options, progress).ok());
    if let Some(steps) = &planned {
        host.foretell(targets, steps).iter().for_each(|line| printer.note(line));
    }
    let drawing = session.draw("loading");
    let mut done = |outcome: &ImageOutcome<E::Error>| {
        if printer.json() {
            return;
        }
        let print = || match &outcome.error {
            None => printer.line(told(outcome)).and_then(|()| printer.flush()),
            Some(error) => {
                printer.note(format!("{}: {error}", label(&outcome.step.entry)));
                host.advice(error, progress).iter().for_each(|hint| printer.note(format!("hint: {hint}")));
                Ok(())
            }
        };
        drop(drawing.beside(print));
    };
    let loaded = load_planned(host, targets, planned, options, &mut done, progress)
        .map_err(|error| host.does_not_fit(error, progress))?;
    drop(drawing);
    if imported.is_some() {
        let paths = import_store::paths_there(targets, host.nix())?;
        let refused = keep_store_paths(&host.generations(), host.nix(), &paths)?;
        refused.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    } else if loaded.outcomes.iter().any(|outcome| outcome.error.is_none() && outcome.step.how != LoadMethod::Present) {
        import_store::offer(targets, host.nix()).iter().for_each(|line| printer.note(line));
    }
    report(&loaded, imported, targets, host, session, printer)
}

/// The name of an image by its digest, which leads to what was loaded and to nothing else.
pub(super) fn run_words(entry: &GenerationEntry) -> String {
    format!("{}@{}", entry.repository, entry.digest)
}

/// What to type next: for each image that is new here, and can be run.
fn next<E: HostEngine>(host: &E, loaded: &LoadResult<E::Error>, targets: &[LoadTarget]) -> Vec<String> {
    let is_new = |outcome: &&ImageOutcome<E::Error>| {
        outcome.error.is_none() && matches!(outcome.step.how, LoadMethod::Link | LoadMethod::Pull)
    };
    let runs = |entry: &GenerationEntry| {
        let image = targets.iter().find(|target| target.image.summary().digest == entry.digest);
        let blobs = image.into_iter().flat_map(|target| target.image.image().small_blobs());
        let mut config = blobs.filter(|blob| blob.digest == entry.config_digest);
        let config = config.find_map(|blob| serde_json::from_slice::<serde_json::Value>(&blob.bytes).ok());
        let has = |key: &str| {
            let words = config.as_ref().and_then(|config| config["config"][key].as_array());
            words.is_some_and(|words| !words.is_empty())
        };
        entry.kind != ImageKind::Model && (has("Cmd") || has("Entrypoint"))
    };
    let new = loaded.outcomes.iter().filter(is_new).map(|outcome| &outcome.step.entry).filter(|entry| runs(entry));
    new.map(|entry| format!("next: {}", host.run_line(entry))).collect()
}

fn report<E: HostEngine>(
    loaded: &LoadResult<E::Error>,
    store_paths: Option<StorePathsReport>,
    targets: &[LoadTarget],
    host: &E,
    session: &Session,
    printer: &Printer,
) -> Result<()> {
    let (progress, took) = (session.progress(), session.elapsed());
    let (written, linked) = (progress.written() + loaded.pulled, progress.linked());
    loaded.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    let number =
        |fits: &dyn Fn(&ImageOutcome<E::Error>) -> bool| loaded.outcomes.iter().filter(|outcome| fits(outcome)).count();
    let failed = number(&|outcome| outcome.error.is_some());
    let is_there =
        |outcome: &ImageOutcome<E::Error>| matches!(outcome.step.how, LoadMethod::Present | LoadMethod::Name);
    let present = number(&|outcome| outcome.error.is_none() && is_there(outcome));
    let done = loaded.outcomes.len() - failed - present;
    if printer.json() {
        let row = |outcome| {
            let ImageOutcome { step, links, linked, copies, error }: &ImageOutcome<E::Error> = outcome;
            let is_linked = step.how == LoadMethod::Link && error.is_none();
            LoadRow {
                links: is_linked.then_some(*links),
                linked: is_linked.then_some(*linked),
                copied: copies,
                error: error.as_ref().map(ToString::to_string),
                hint: error.as_ref().and_then(|error| host.advice(error, progress)),
                ..row(step)
            }
        };
        let (images, network) = (loaded.outcomes.iter().map(row).collect(), 0);
        let (generation, warnings) = (loaded.generation, loaded.warnings.as_slice());
        printer.value(&LoadReport {
            images,
            loaded: done,
            present,
            failed,
            written,
            linked,
            network,
            generation,
            seconds: took.as_secs_f64(),
            warnings,
            store_paths,
        })?;
    } else {
        let is = |kind: fn(&ImageKind) -> bool| number(&|outcome| kind(&outcome.step.entry.kind));
        let (images, models) = (is(|kind| *kind != ImageKind::Model), is(|kind| *kind == ImageKind::Model));
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let shared = if linked > 0 { format!(", linked {}", size(linked)) } else { String::new() };
        // What failed comes first.
        if failed == 0 {
            next(host, loaded, targets).iter().for_each(|line| printer.note(line));
        }
        printer.line(format!(
            "{}, {}: {done} loaded, {present} present{failures}; wrote {}{shared}; network 0 bytes; took {:.1} s",
            count(images, "image"),
            count(models, "model"),
            size(written),
            took.as_secs_f64(),
        ))?;
    }
    if failed == 0 {
        return Ok(());
    }
    let errors: Vec<&E::Error> = loaded.outcomes.iter().filter_map(|outcome| outcome.error.as_ref()).collect();
    Err(unloaded(&errors))
}

pub(super) fn label(entry: &GenerationEntry) -> String {
    let kind = if entry.kind == ImageKind::Model { "model" } else { "image" };
    format!("{kind} {}", entry.name)
}

/// What was done for one image, in a line that scripts may look for.
fn told<Error>(outcome: &ImageOutcome<Error>) -> String {
    let ImageOutcome { step: LoadStep { entry, how, .. }, links, linked, copies, .. } = outcome;
    let what = match how {
        LoadMethod::Present => "present".to_owned(),
        LoadMethod::Name => "present, and named again".to_owned(),
        LoadMethod::Link => {
            // A layer that an earlier image brought has no new links.
            let links = count(usize::try_from(*links).unwrap_or(usize::MAX), "new link");
            let linked = format!("linked {}, {links}", size(*linked));
            let copied = copies.values().sum();
            let copied = format!("copied {} ({})", size(copied), causes(copies));
            match (outcome.links, copies.is_empty()) {
                (0, false) => copied,
                (_, false) => format!("{linked}, {copied}"),
                (_, true) => linked,
            }
        }
        // What an engine writes twice is one layer all the same.
        LoadMethod::Pull => format!("pulled {} of {}", size(outcome.step.to_write.min(entry.size)), size(entry.size)),
    };
    format!("{}: {what}  {}", label(entry), entry.reference)
}

pub(super) fn row(step: &LoadStep) -> LoadRow<'_> {
    let LoadStep { entry, how, reason: why, store, to_write, copies, peak, .. } = step;
    LoadRow {
        entry,
        action: action(*how),
        reason: reason(why),
        store,
        bytes_to_write: *to_write,
        bytes_needed: *peak,
        copied: copies,
        links: None,
        linked: None,
        error: None,
        hint: None,
    }
}

pub(super) const fn action(how: LoadMethod) -> &'static str {
    match how {
        LoadMethod::Present => "present",
        LoadMethod::Name => "name",
        LoadMethod::Link => "link",
        LoadMethod::Pull => "pull",
    }
}

pub(super) fn reason(reason: &LoadReason) -> String {
    match reason {
        LoadReason::Present => "present".to_owned(),
        LoadReason::FirstTime => "first time".to_owned(),
        LoadReason::VersionChanged => "version changed".to_owned(),
        LoadReason::CacheCleared => "cache cleared".to_owned(),
        LoadReason::Damaged(why) => format!("damaged: {why}"),
        LoadReason::Forced => "asked for".to_owned(),
        LoadReason::NameMoved => "name moved".to_owned(),
    }
}
