//! `windlass verify`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::complete;
use super::daemon;
use super::failure::{Result, unverified};
use super::host::HostArgs;
use super::into::{ChosenEngine, IntoArgs};
use super::loaded::{loaded, split};
use super::printer::{Printer, count, size};
use super::session::Session;
use super::targets::lean;
use super::{verify_rebuild, view};
use crate::build::check_archives::{self, ArchiveProblem, CheckedArchives, ExpectedLayers};
use crate::build::check_bundle;
use crate::build::stack::StackDir;
use crate::daemon::host::DaemonHost;
use crate::disk::pairs::in_pairs;
use crate::engine::Engine as _;
use crate::engine::generation::GenerationEntry;
use crate::engine::kind::EngineKind;
use crate::engine::target::LoadTarget;
use crate::image::LayerRecord;
use crate::image::bundle::is_bundle;
use crate::image::layout::{ImageDir, LayoutError};
use crate::podman::keep::verify::{ImageProblem, LayerName, ProblemState, VerifiedImages, verify};
use crate::podman::linked::DRIVER;
use crate::podman::load::decide::PodmanHost;
use crate::podman::load::unreadable::Unreadable;
use crate::podman::storage::snapshot::StoreSnapshot;

const EXAMPLE: &str = "Examples:
  windlass verify                 records and small files of everything that is loaded
  windlass verify --full          every byte of it; names image, layer and file of what went bad
  windlass verify result --full   a build, before it is loaded
  windlass verify /media/stick/ai --full   a bundle, on the stick
  windlass verify --rebuild result         build it again, and compare
  windlass verify --rebuild stack --against /media/stick/ai --statement rebuilt.json --key cosign.key";

/// Check what is loaded, or an image directory, a stack or a bundle.
///
/// Without a path: everything that windlass has loaded into Podman, linked or pulled. Podman's records, manifests, configs
/// and what mounts need are always compared with what was built; with --full so is every byte of every layer, and the type,
/// mode and owner of every file. `windlass repair` mends what is found. Another engine (--into) is asked for every digest; with
/// --full it is made to give out its images, and their layers are compared byte for byte.
///
/// With a path: index, manifests and configs are always compared with their digests. A layer is checked by names and
/// sizes or, with --full, by every byte of its blob or of the store paths it is made from. The archives of a stack are always
/// read: each must have the sum of `SHA256SUMS`, and the manifest and layers of `stack.json`. What is wrong with a bundle
/// is told by image and file, and its small files must have the sums of `SHA256SUMS`. What it leaves out is no fault; which
/// images have it is told.
///
/// With --rebuild: images are built again, by Nix from the derivation where it knows that, else from their recipes, and compared
/// digest for digest. The first layer that differs is named, with the file in it and, where there are bytes to compare with, the
/// byte.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct VerifyArgs {
    /// An image directory, a stack or a bundle; what is loaded when absent.
    path: Option<PathBuf>,
    /// Read every byte.
    #[arg(long)]
    full: bool,
    /// Build the images of the path again, and compare.
    #[arg(long, requires = "path", conflicts_with = "full")]
    rebuild: bool,
    /// A copy of the same images (a bundle, or image directories with blobs) to compare with byte for byte.
    #[arg(long, value_name = "COPY", requires = "rebuild")]
    pub(super) against: Option<PathBuf>,
    /// Write an in-toto statement of what was built again, and of what differs.
    #[arg(long, value_name = "FILE", requires = "rebuild")]
    pub(super) statement: Option<PathBuf>,
    /// Sign the statement: a key in a file (PEM, or a key of cosign, whose password COSIGN_PASSWORD has), or an address that
    /// `cosign` in PATH knows. It is written as a Sigstore bundle then.
    #[arg(long, requires = "statement")]
    pub(super) key: Option<String>,
    /// Only this image or model of what is loaded. Repeatable.
    #[arg(add = complete::loaded_names(), long = "image", value_name = "NAME", conflicts_with = "path")]
    images: Vec<String>,
    #[command(flatten)]
    into: IntoArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerifyReport {
    images: usize,
    layers: usize,
    read: u64,
    problems: Vec<String>,
    /// The same in parts, for what is loaded and for archives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<ImageProblem>,
    /// What a bundle leaves out, and who has it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expects: Vec<ExpectedLayers>,
    /// What mends it.
    #[serde(skip)]
    advice: String,
}

pub(super) fn run(args: &VerifyArgs, printer: &Printer, session: &Session) -> Result<()> {
    if let Some(path) = args.path.as_deref().filter(|_| args.rebuild) {
        return verify_rebuild::run(path, args, printer, session);
    }
    let report = match &args.path {
        Some(path) if is_bundle(path) || has_archives(path) => archives(path, args.full, session)?,
        Some(path) => built(path, args.full, session)?,
        None => match args.into.choose(&args.host, session.progress())? {
            ChosenEngine::Podman => in_podman(&args.host.host(session.progress())?, args, printer, session)?,
            ChosenEngine::Crio(host) => in_podman(&host, args, printer, session)?,
            ChosenEngine::Daemon(host) => in_daemon(&host, args, printer, session)?,
        },
    };
    tell(&report, printer)
}

/// A report of nothing: before the first load.
fn nothing(place: &Path, printer: &Printer) -> VerifyReport {
    printer.note(format!("nothing was loaded into {} yet", place.display()));
    VerifyReport {
        images: 0,
        layers: 0,
        read: 0,
        problems: vec![],
        details: vec![],
        expects: vec![],
        advice: String::new(),
    }
}

fn reported(verified: VerifiedImages, advice: String, session: &Session) -> VerifyReport {
    VerifyReport {
        images: verified.images,
        layers: verified.layers,
        read: session.progress().read(),
        problems: verified.problems.iter().map(ToString::to_string).collect(),
        details: verified.problems,
        expects: Vec::new(),
        advice,
    }
}

/// What a daemon has of what is loaded.
fn in_daemon(host: &DaemonHost, args: &VerifyArgs, printer: &Printer, session: &Session) -> Result<VerifyReport> {
    let Some(loaded) = loaded(host, &args.images)? else { return Ok(nothing(host.daemon.data(), printer)) };
    let (targets, gone) = split(loaded);
    let verified = daemon::verify(host, &targets, &gone, args.full, session)?;
    let current = host.generations().current()?.map(|current| current.number);
    let advice = daemon::mending(host.daemon.kind(), current);
    Ok(reported(verified, advice, session))
}

fn in_podman(host: &PodmanHost, args: &VerifyArgs, printer: &Printer, session: &Session) -> Result<VerifyReport> {
    let loaded = loaded(host, &args.images)?;
    let snapshot = StoreSnapshot::read(&host.places, session.progress())?;
    let Some(loaded) = loaded.or_else(|| (!host.unreadable(&snapshot).is_empty()).then(Vec::new)) else {
        return Ok(nothing(&host.places.graph_root, printer));
    };
    let driver = &host.places.driver;
    if args.full && driver != DRIVER {
        printer.note(format!(
            "with the driver {driver} each layer has copies of those below it, and these copies are not compared"
        ));
    }
    let (targets, gone) = split(loaded);
    let mut verified = check(host, &targets, args.full, session)?;
    verified.images += gone.len();
    verified.problems.extend(gone.iter().map(|(entry, error)| lost(entry, error)));
    let advice = match host.engine.kind() {
        EngineKind::Podman => mending(&verified.problems, args.full, &host.nix.store),
        kind => daemon::mending(kind, host.generations().current()?.map(|current| current.number)),
    };
    Ok(reported(verified, advice, session))
}

/// Compares what is loaded, with a progress line.
pub(super) fn check(
    host: &PodmanHost,
    targets: &[LoadTarget],
    full: bool,
    session: &Session,
) -> Result<VerifiedImages> {
    let progress = session.progress();
    let snapshot = StoreSnapshot::read(&host.places, progress)?;
    let drawing = session.draw("verifying");
    let mut verified = verify(&snapshot, targets, full, progress)?;
    drop(drawing);
    let problem = |image: Unreadable| ImageProblem {
        state: ProblemState::Damaged,
        images: vec![image.image.clone()],
        layer: None,
        file: None,
        path: None,
        source: None,
        what: image.to_string(),
    };
    verified.problems.extend(host.unreadable(&snapshot).into_iter().map(problem));
    Ok(verified)
}

/// An image that nothing more is known of.
pub(super) fn lost(entry: &GenerationEntry, error: &LayoutError) -> ImageProblem {
    ImageProblem {
        state: ProblemState::Damaged,
        images: vec![entry.reference.to_string()],
        layer: None,
        file: None,
        path: None,
        source: None,
        what: format!("what it was loaded from is gone ({error}); load it from its stack again"),
    }
}

fn built(path: &Path, full: bool, session: &Session) -> Result<VerifyReport> {
    let path = lean(path);
    let images: Vec<ImageDir> = if path.join("stack.json").is_file() {
        StackDir::open(&path)?.all().cloned().collect()
    } else {
        vec![ImageDir::open(&path)?]
    };
    let mut layers: Vec<(&ImageDir, &LayerRecord)> = Vec::new();
    for image in &images {
        for layer in image.summary().layers() {
            // A layer that several images have is made from the same paths: once is enough, unless it is a blob.
            let known = |(other, known): &(&ImageDir, &LayerRecord)| {
                known.digest == layer.digest && other.layer_blob(known).is_ok_and(|blob| blob.is_none())
            };
            if !layers.iter().any(known) {
                layers.push((image, layer));
            }
        }
    }
    let progress = session.progress();
    layers.iter().for_each(|(_, layer)| progress.expect(if full { layer.size } else { 0 }));
    let drawing = session.draw("verifying");
    let verified = |(image, layer): &(&ImageDir, &LayerRecord)| image.verify_layer(layer, full, progress);
    let results: Vec<_> = in_pairs(layers.len(), || layers.par_iter().with_max_len(1).map(verified).collect());
    drop(drawing);
    progress.check()?;
    let mut problems = Vec::new();
    for ((image, _), result) in layers.iter().zip(results) {
        if let Err(error) = result {
            problems.push(format!("{}: {error}", image.summary().reference));
        }
    }
    Ok(VerifyReport {
        images: images.len(),
        layers: layers.len(),
        read: progress.read(),
        problems,
        details: Vec::new(),
        expects: Vec::new(),
        advice: String::new(),
    })
}

/// What mends what is loaded: as thorough as the look that found it, and the store first where it went bad itself.
fn mending(problems: &[ImageProblem], full: bool, store: &Path) -> String {
    let repair = if full { "`windlass repair --full`" } else { "`windlass repair`" };
    let in_store = |path: &PathBuf| Some(store.join(path.strip_prefix(store).ok()?.components().next()?));
    let paths: BTreeSet<PathBuf> = problems.iter().filter_map(|problem| in_store(problem.source.as_ref()?)).collect();
    if paths.is_empty() {
        return format!("{repair} mends what can be mended");
    }
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    format!("`nix-store --repair-path {}` restores the store, then {repair} mends the rest", paths.join(" "))
}

/// Whether a path is a stack with archives, or was one.
fn has_archives(path: &Path) -> bool {
    path.join("SHA256SUMS").is_file() || view::is_of_archives(path).unwrap_or(false)
}

/// Checks a bundle, or reads the archives of a stack, and what they were made from where that is beside them.
fn archives(path: &Path, full: bool, session: &Session) -> Result<VerifyReport> {
    let drawing = session.draw("verifying");
    let is_bundle = is_bundle(path);
    let CheckedArchives { images, layers, expects, problems } = match is_bundle {
        true => check_bundle::check(path, full, session.progress())?,
        false => check_archives::check(path, session.progress())?,
    };
    drop(drawing);
    let problem = |problem: ArchiveProblem| {
        let ArchiveProblem { images, layer, file, what } = problem;
        let layer = layer.map(|(title, digest)| LayerName { title, digest });
        let path = Some(path.join(file));
        let images = if images.is_empty() {
            vec![if is_bundle { "the bundle" } else { "the stack" }.to_owned()]
        } else {
            images
        };
        ImageProblem { state: ProblemState::Damaged, images, layer, file: None, path, source: None, what }
    };
    let details: Vec<ImageProblem> = problems.into_iter().map(problem).collect();
    let what = if is_bundle { "bundle" } else { "archives" };
    let mut report = VerifyReport {
        images,
        layers,
        read: session.progress().read(),
        problems: details.iter().map(ToString::to_string).collect(),
        details,
        expects,
        advice: format!("copy or build the {what} again; `sha256sum --check SHA256SUMS` compares them too"),
    };
    if lean(path) != path {
        let lean = built(path, full, session)?;
        report.problems.extend(lean.problems);
        report.read = lean.read;
    }
    Ok(report)
}

fn tell(report: &VerifyReport, printer: &Printer) -> Result<()> {
    if printer.json() {
        printer.value(&report)?;
    } else {
        report.problems.iter().try_for_each(|problem| printer.line(problem))?;
        for ExpectedLayers { image, of, digest, layers, bytes } in &report.expects {
            let of = of.as_ref().zip(*digest).map(|(of, digest)| format!("{of} ({digest})"));
            let of = of.unwrap_or_else(|| "another bundle".to_owned());
            printer.line(format!("{image} expects {} ({}) of {of}", count(*layers, "layer"), size(*bytes)))?;
        }
        printer.line(format!(
            "{}, {}: {}; read {}",
            count(report.images, "image"),
            count(report.layers, "layer"),
            if report.problems.is_empty() { "all good".to_owned() } else { count(report.problems.len(), "problem") },
            size(report.read)
        ))?;
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    if report.details.is_empty() {
        return Err(unverified(format!("{} failed verification", count(report.problems.len(), "layer"))));
    }
    Err(unverified(count(report.problems.len(), "problem")).hint(&report.advice))
}
