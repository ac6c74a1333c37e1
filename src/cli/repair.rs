//! `windlass repair`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::complete;
use super::failure::{Result, sentence, unloaded, unverified};
use super::host::HostArgs;
use super::load::label;
use super::loaded::{loaded, split};
use super::printer::{Printer, count};
use super::session::Session;
use super::verify::{check, lost};
use crate::disk::pairs::in_pairs;
use crate::engine::load::load;
use crate::engine::target::{LoadOptions, LoadTarget, LoadVia};
use crate::image::LayerRecord;
use crate::image::layout::{ImageDir, LayoutError};
use crate::oci::digest::Digest;
use crate::podman::keep::verify::{ImageProblem, ProblemState};
use crate::podman::linked::{DEFAULT, LinkedStore};
use crate::podman::load::PodmanImageOutcome;
use crate::podman::load::decide::PodmanHost;
use crate::podman::storage::snapshot::StoreSnapshot;

const EXAMPLE: &str = "Examples:
  windlass repair            whatever Podman's records, or the linked store's, say is wrong
  windlass repair --full     whatever is wrong with any byte
  windlass repair redis      one image";

/// Mend what is loaded and is not what was built.
///
/// Looks as `windlass verify` does, and loads again the images that are missing or damaged: their layers are made from the
/// store paths, or handed to Podman, and what the others have stays. Before a damaged layer is replaced, what it is made
/// from is read: if that is damaged too, its images are not touched, and the store path to restore is named; the others are
/// mended.
///
/// Records of the linked store that are torn or gone are mended first: with them no Podman command works. Images that Podman
/// cannot read are taken away, because it lists none while one of them is there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct RepairArgs {
    /// Images and models of what is loaded; all when absent.
    #[arg(add = complete::loaded_names(), value_name = "NAME")]
    names: Vec<String>,
    /// Read every byte.
    #[arg(long)]
    full: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Default, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RepairReport {
    /// What of the linked store was mended.
    store: Vec<String>,
    problems: Vec<String>,
    /// Images that were loaded again, by name and tag.
    mended: Vec<String>,
    /// What could not be mended, and what to do.
    left: Vec<String>,
    good: usize,
}

pub(super) fn run(args: &RepairArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let mut report = RepairReport::default();
    let host = match args.host.host(progress) {
        Ok(host) => host,
        // With torn records no Podman command works, so Podman cannot say which store it is.
        Err(error) if args.dry_run => return Err(error),
        Err(error) => {
            let place = args.host.storage_dir.as_deref().unwrap_or(Path::new(DEFAULT));
            let Some(store) = LinkedStore::open(place) else { return Err(error) };
            report.store = store.mend(progress)?;
            args.host.asked(progress)?
        }
    };
    if !args.dry_run {
        if let Some(store) = &host.linked {
            report.store.extend(store.mend(progress)?);
        }
        report.store.extend(host.remove_unreadable(progress)?);
        report.store.extend(host.settle_now(progress)?);
    }
    let (targets, gone) = split(loaded(&host, &args.names)?.unwrap_or_default());
    let verified = check(&host, &targets, args.full, session)?;
    report.problems = verified.problems.iter().map(ToString::to_string).collect();
    report.left = gone.iter().map(|(entry, error)| lost(entry, error).to_string()).collect();
    if !printer.json() {
        report.store.iter().chain(&report.problems).try_for_each(|line| printer.line(line))?;
        printer.flush()?;
    }
    let result =
        if args.dry_run { Ok(()) } else { mend(&host, &targets, &verified.problems, args.full, &mut report, session) };
    report.good =
        targets.iter().filter(|target| !verified.problems.iter().any(|problem| concerns(problem, target))).count();
    tell(&report, printer)?;
    result?;
    if report.left.is_empty() {
        return Ok(());
    }
    Err(unverified(format!("{} could not be mended", count(report.left.len(), "problem"))))
}

fn concerns(problem: &ImageProblem, target: &LoadTarget) -> bool {
    problem.images.iter().any(|image| **image == *target.image.summary().reference)
}

fn mend(
    host: &PodmanHost,
    targets: &[LoadTarget],
    problems: &[ImageProblem],
    full: bool,
    report: &mut RepairReport,
    session: &Session,
) -> Result<()> {
    let sources = damaged_sources(targets, problems, session)?;
    let commands: BTreeSet<String> = sources.iter().flat_map(|(_, error)| restore(host, problems, error)).collect();
    report.left.extend(sources.iter().map(|(_, error)| error.to_string()));
    report.left.extend(commands);
    // What cannot be made again is not touched; that keeps no other image from being mended.
    let is_stuck = |target: &LoadTarget| {
        let own = problems.iter().filter(|problem| concerns(problem, target));
        let layers: BTreeSet<Digest> = own.filter_map(|problem| Some(problem.layer.as_ref()?.digest)).collect();
        sources.iter().any(|(digest, _)| layers.contains(digest))
    };
    let snapshot = StoreSnapshot::read(&host.places, session.progress())?;
    let way = |target: &LoadTarget| match is_stuck(target) {
        true => Ok(None),
        false => way(target, problems, host, &snapshot),
    };
    let ways: Vec<Option<(bool, LoadVia)>> = targets.iter().map(way).collect::<Result<_>>()?;
    let (mut failed, mut again) = (Vec::new(), Vec::new());
    for (force, via) in [(true, LoadVia::Auto), (true, LoadVia::Podman), (false, LoadVia::Auto)] {
        let chosen = targets.iter().zip(&ways).filter(|(_, way)| **way == Some((force, via)));
        let targets: Vec<LoadTarget> = chosen.map(|(target, _)| target.clone()).collect();
        if targets.is_empty() {
            continue;
        }
        let drawing = session.draw("mending");
        let options = LoadOptions { via, force, partial: true };
        let loaded = load(host, &targets, options, &mut |_| {}, session.progress())?;
        drop(drawing);
        for PodmanImageOutcome { step, error, .. } in loaded.outcomes {
            match error {
                None => report.mended.push(step.entry.reference.into()),
                Some(error) => {
                    report.left.push(format!("{}: {}", label(&step.entry), sentence(&error)));
                    failed.push(error);
                }
            }
        }
        again.extend(targets);
    }
    if !sources.is_empty() {
        let others = if again.is_empty() { "nothing was touched" } else { "of the others nothing was left out" };
        return Err(unverified(format!("what damaged layers are made from is damaged too; {others}")));
    }
    if !failed.is_empty() {
        return Err(unloaded(&failed.iter().collect::<Vec<_>>()));
    }
    // An image that something else holds on to keeps its layers, and Podman takes them over as they are.
    let left = check(host, &again, full, session)?.problems;
    report.mended.retain(|name| !left.iter().any(|problem| problem.images.contains(name)));
    report.left.extend(
        left.iter().map(|problem| format!("{problem}; another image has it too: mend that one as well, or remove it")),
    );
    Ok(())
}

/// How an image is mended: by force if it is there, and the way it came; `None` if nothing is wrong with it.
fn way(
    target: &LoadTarget,
    problems: &[ImageProblem],
    host: &PodmanHost,
    snapshot: &StoreSnapshot,
) -> Result<Option<(bool, LoadVia)>> {
    let mut own = problems.iter().filter(|problem| concerns(problem, target)).peekable();
    if own.peek().is_none() {
        return Ok(None);
    }
    if own.all(|problem| problem.state != ProblemState::Damaged) {
        return Ok(Some((false, LoadVia::Auto)));
    }
    let home = snapshot.home(target.image.summary(), target.platform()?);
    let pulled = home.is_some_and(|home| home.store == host.places.graph_root);
    Ok(Some((true, if pulled { LoadVia::Podman } else { LoadVia::Auto })))
}

/// What of the damaged layers cannot be made again as it was.
fn damaged_sources(
    targets: &[LoadTarget],
    problems: &[ImageProblem],
    session: &Session,
) -> Result<Vec<(Digest, LayoutError)>> {
    let digests: BTreeSet<Digest> =
        problems.iter().filter_map(|problem| problem.layer.as_ref()).map(|layer| layer.digest).collect();
    let find = |digest: &Digest| {
        let layers = targets
            .iter()
            .flat_map(|target| target.image.summary().layers().into_iter().map(move |layer| (&target.image, layer)));
        layers.into_iter().find(|(_, layer)| layer.digest == *digest)
    };
    let layers: Vec<(&ImageDir, &LayerRecord)> = digests.iter().filter_map(find).collect();
    let progress = session.progress();
    progress.expect(layers.iter().map(|(_, layer)| layer.size).sum());
    let drawing = session.draw("reading the sources");
    let verified = |(image, layer): &(&ImageDir, &LayerRecord)| image.verify_layer(layer, true, progress);
    let results: Vec<_> = in_pairs(layers.len(), || layers.par_iter().with_max_len(1).map(verified).collect());
    drop(drawing);
    progress.check()?;
    let failed = layers.iter().zip(results).filter_map(|((_, layer), result)| Some((layer.digest, result.err()?)));
    Ok(failed.collect())
}

/// The commands that restore what a layer is made from.
fn restore(host: &PodmanHost, problems: &[ImageProblem], error: &LayoutError) -> Vec<String> {
    let LayoutError::Changed { culprits, digest, .. } = error else { return Vec::new() };
    let in_store = |path: PathBuf| {
        let name = path.strip_prefix(&host.nix.store).ok()?.components().next()?;
        Some(host.nix.store.join(name))
    };
    // Where Nix' own hash is not known, the file that went bad says which path it is in.
    let bad = problems.iter().filter(|problem| problem.layer.as_ref().is_some_and(|layer| layer.digest == *digest));
    let mut paths: BTreeSet<PathBuf> = bad.filter_map(|problem| in_store(problem.source.clone()?)).collect();
    if paths.is_empty() {
        paths = culprits.iter().filter_map(|culprit| in_store(culprit.into())).collect();
    }
    paths.iter().map(|path| format!("restore it: nix-store --repair-path {}", path.display())).collect()
}

fn tell(report: &RepairReport, printer: &Printer) -> Result<()> {
    if printer.json() {
        return printer.value(report);
    }
    for name in &report.mended {
        printer.line(format!("mended {name}"))?;
    }
    report.left.iter().try_for_each(|line| printer.line(line))?;
    let good = count(report.good, "image");
    if report.problems.is_empty() && report.store.is_empty() && report.left.is_empty() {
        return printer.line(format!("{good} as they were loaded; nothing to mend"));
    }
    printer.line(format!(
        "{} good, {} mended, {} left",
        good,
        count(report.mended.len(), "image"),
        count(report.left.len(), "problem")
    ))
}
