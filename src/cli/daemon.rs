//! What verbs say of a daemon, in the words and the JSON that they have for Podman.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::failure::{Failure, Result};
use super::loaded::{loaded, split};
use super::session::Session;
use super::status::{Free, StatusReport, StatusRow, free_at};
use super::targets::targets;
use super::verify::lost;
use crate::daemon::host::DaemonHost;
use crate::daemon::keep::{DaemonGarbage, GoingImage};
use crate::daemon::{DaemonContent, DaemonError, DaemonImages};
use crate::disk::progress::Progress;
use crate::engine::generation::GenerationEntry;
use crate::engine::kind::EngineKind;
use crate::engine::target::LoadTarget;
use crate::engine::{Engine as _, Former};
use crate::image::layout::LayoutError;
use crate::podman::keep::gc::{GarbageClass, GcPlan, GcRequest, KeptItem, NotOurs, Removal, Thing};
use crate::podman::keep::verify::{ImageProblem, ProblemState, VerifiedImages};

/// An option that only Podman has.
pub(super) fn unsupported(engine: EngineKind, option: &str) -> Failure {
    let hint = format!("Podman can; leave out `{option}`");
    DaemonError::Unsupported { engine, action: format!("take {option}"), hint }.into()
}

/// What mends images of a daemon.
pub(super) fn mending(engine: EngineKind, generation: Option<u64>) -> String {
    let number = generation.map_or_else(|| "N".to_owned(), |number| number.to_string());
    format!("`windlass rollback {number} --into {}` loads what is missing", engine.word())
}

/// How these stand in a daemon, or what is loaded.
pub(super) fn status(paths: &[PathBuf], host: &DaemonHost, progress: &Progress) -> Result<StatusReport> {
    let (targets, gone) = match paths.is_empty() {
        true => split(loaded(host, &[])?.unwrap_or_default()),
        false => (targets(paths, &[])?, Vec::new()),
    };
    let place = host.daemon.data().to_owned();
    let row = |(entry, state, why): (GenerationEntry, &'static str, Option<String>)| {
        let is_there = state != "missing";
        StatusRow::new(entry, state, why, is_there.then(|| place.clone()))
    };
    let mut images: Vec<StatusRow> = states(&targets, host, progress)?.into_iter().map(row).collect();
    images.extend(gone.into_iter().map(|(entry, error)| {
        StatusRow::new(entry, "damaged", Some(format!("what it was loaded from is gone: {error}")), None)
    }));
    let kind = host.daemon.kind();
    let free = match place.exists() {
        true => vec![Free { place: kind.word(), path: place.clone(), bytes: free_at(&place)? }],
        // It is not on this host.
        false => Vec::new(),
    };
    Ok(StatusReport {
        engine: kind,
        graph_root: place,
        run_root: None,
        driver: host.daemon.driver(),
        rootless: host.daemon.is_rootless(),
        storage_conf: None,
        linked_store: None,
        linked_store_state: format!("none; {kind} can have none"),
        free,
        generation: host.generations().current()?.map(|generation| generation.number),
        images,
        unreadable: Vec::new(),
        unconfirmed: host.has_note()?,
    })
}

/// For each target its state in the words of `windlass status`, and why.
fn states(
    targets: &[LoadTarget],
    host: &DaemonHost,
    progress: &Progress,
) -> Result<Vec<(GenerationEntry, &'static str, Option<String>)>> {
    let there = host.daemon.images(progress)?;
    let mut entries = Vec::new();
    for target in targets {
        let platform = target.platform()?;
        entries.push((GenerationEntry::new(&target.image, platform, &target.name, &target.origins), platform));
    }
    let pairs = entries.iter().zip(targets);
    let wanted = pairs.map(|((entry, platform), target)| -> Former<'_> { (entry, Some((&target.image, platform))) });
    let content = host.daemon.content(&wanted.collect::<Vec<_>>(), &there, progress)?;
    let state = |((entry, _), content): ((GenerationEntry, _), DaemonContent)| {
        let (state, why) = state(host, &entry, content, &there);
        (entry, state, why)
    };
    Ok(entries.into_iter().zip(content).map(state).collect())
}

fn state(
    host: &DaemonHost,
    entry: &GenerationEntry,
    content: DaemonContent,
    there: &DaemonImages,
) -> (&'static str, Option<String>) {
    let kind = host.daemon.kind();
    let misled = || host.misled(entry, there).map(|found| format!("{kind} {found}"));
    match content {
        DaemonContent::Whole => misled().map_or(("present", None), |why| ("changed", Some(why))),
        DaemonContent::Partial(why) => ("damaged", Some(why)),
        DaemonContent::Nothing if there.names.contains_key(&*entry.reference) => {
            ("changed", misled().map(|why| format!("{why}, and the image is gone")))
        }
        DaemonContent::Nothing => ("missing", None),
    }
}

/// Compares what is loaded with what a daemon has: every digest, and with `full` every byte that it gives out.
pub(super) fn verify(
    host: &DaemonHost,
    targets: &[LoadTarget],
    gone: &[(GenerationEntry, LayoutError)],
    full: bool,
    session: &Session,
) -> Result<VerifiedImages> {
    let progress = session.progress();
    let drawing = session.draw("verifying");
    let mut problems: Vec<ImageProblem> = gone.iter().map(|(entry, error)| lost(entry, error)).collect();
    let mut layers = BTreeSet::new();
    for ((entry, state, why), target) in states(targets, host, progress)?.into_iter().zip(targets) {
        let platform = target.platform()?;
        layers.extend(platform.layers.iter().map(|layer| layer.digest));
        let problem = |state, what| ImageProblem {
            state,
            images: vec![entry.reference.to_string()],
            layer: None,
            file: None,
            path: None,
            source: None,
            what,
        };
        let why = why.unwrap_or_else(|| format!("{} has no such image", host.daemon.kind()));
        match state {
            "present" if full => {
                let wrong = host.daemon.compare(&target.image, platform, &entry, progress)?;
                problems.extend(wrong.into_iter().map(|what| problem(ProblemState::Damaged, what)));
            }
            "present" => {}
            "missing" => problems.push(problem(ProblemState::Missing, why)),
            "changed" => problems.push(problem(ProblemState::Renamed, why)),
            _ => problems.push(problem(ProblemState::Damaged, why)),
        }
    }
    drop(drawing);
    Ok(VerifiedImages { images: targets.len() + gone.len(), layers: layers.len(), problems })
}

/// What a clean-up of a daemon would do, as for Podman.
pub(super) fn plan_gc(host: &DaemonHost, request: &GcRequest, progress: &Progress) -> Result<GcPlan> {
    let has = |class| request.classes.contains(&class);
    let keep = has(GarbageClass::Generations).then_some(request.keep);
    let planned = host.plan_gc(keep, has(GarbageClass::Images), progress)?;
    let DaemonGarbage { kept_images, kept_generations, images, generations, leftovers, not_ours } = planned;
    let of_generation = |number: u64| format!("generation {number}");
    let kept = |class, name, why| KeptItem { class, name, why };
    let mut keep: Vec<KeptItem> = kept_generations
        .into_iter()
        .map(|(number, why)| kept(GarbageClass::Generations, of_generation(number), why))
        .collect();
    keep.extend(kept_images.into_iter().map(|(name, why)| kept(GarbageClass::Images, name, why)));
    let mut remove: Vec<Removal> = images.iter().map(|image| removal(host, image)).collect();
    let other = |class, name, place, thing| Removal { class, name, place, bytes: 0, collectable: 0, thing };
    remove.extend(generations.into_iter().map(|number| {
        let thing = Thing::Generation { number, images: BTreeSet::new() };
        other(GarbageClass::Generations, of_generation(number), host.state(), thing)
    }));
    if has(GarbageClass::Temp) {
        remove.extend(
            leftovers
                .into_iter()
                .map(|path| other(GarbageClass::Temp, path.display().to_string(), host.state(), Thing::Leftover(path))),
        );
    }
    let not_ours = NotOurs { images: not_ours.0, bytes: not_ours.1 };
    Ok(GcPlan { keep, remove, not_ours, full: None, warnings: Vec::new() })
}

/// An image that goes, as for Podman.
pub(super) fn removal(host: &DaemonHost, image: &GoingImage) -> Removal {
    Removal {
        class: GarbageClass::Images,
        name: image.label.clone(),
        place: host.daemon.data().to_owned(),
        bytes: image.bytes,
        collectable: 0,
        thing: Thing::Pulled { id: image.id.to_string(), names: image.names.clone() },
    }
}

/// Removes it from the daemon, or from what windlass notes of it.
pub(super) fn remove(host: &DaemonHost, removal: &Removal, progress: &Progress) -> Result<(), DaemonError> {
    match &removal.thing {
        Thing::Pulled { names, .. } => names.iter().try_for_each(|name| host.daemon.untag(name, progress)),
        Thing::Generation { number, .. } => Ok(host.generations().remove(*number)?),
        Thing::Leftover(path) => host.remove_leftover(path),
        // A plan for a daemon has none of these.
        Thing::Container(_)
        | Thing::Linked(_)
        | Thing::Layers(_)
        | Thing::Incomplete(_)
        | Thing::Unrecorded(_)
        | Thing::Network(_) => Ok(()),
    }
}
