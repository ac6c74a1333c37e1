//! `windlass load BUNDLE --import-store`: store paths out of the layers of a bundle, for a host with Nix.

use std::path::PathBuf;

use serde::Serialize;

use super::failure::{Failure, Result, unverified};
use super::printer::{Printer, count, size};
use super::session::Session;
use crate::engine::target::LoadTarget;
use crate::image::closure::ImageClosure;
use crate::image::layout::ImageDir;
use crate::image::store_paths::{LeftReason, lacking, put_back};
use crate::nix::store::{self, NixPlaces};

/// What became of the store paths of a bundle.
#[derive(Debug, Default, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StorePathsReport {
    /// Those that were put into the Nix store, or would be.
    imported: usize,
    /// Bytes of these, as Nix counts them.
    bytes: u64,
    /// Those that were not, each with why.
    left: Vec<LeftPath>,
}

/// A store path that is not put back.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct LeftPath {
    path: String,
    why: LeftReason,
}

/// Puts back what the Nix store lacks; with `dry_run` only looks.
pub(super) fn import(
    targets: &[LoadTarget],
    nix: &NixPlaces,
    dry_run: bool,
    printer: &Printer,
    session: &Session,
) -> Result<StorePathsReport> {
    let images = of_bundles(targets);
    let progress = session.progress();
    let mut lacking = lacking(&images, nix)?;
    let (mut imported, mut bytes) = (lacking.len(), lacking.size());
    if !dry_run && imported > 0 {
        progress.expect(bytes);
        let drawing = session.draw("putting store paths back");
        (imported, bytes) = put_back(&mut lacking, &images, progress)?;
        drop(drawing);
    }
    if !printer.json() {
        let done = if dry_run { "to put into the Nix store" } else { "put into the Nix store" };
        printer.line(format!("{}, {}, {done}", count(imported, "store path"), size(bytes)))?;
        for (path, why) in &lacking.left {
            printer.note(format!("{path} is not put back: {}", why.words()));
        }
    }
    let left = lacking.left.into_iter().map(|(path, why)| LeftPath { path, why }).collect();
    Ok(StorePathsReport { imported, bytes, left })
}

impl StorePathsReport {
    /// What is wrong with the bundle, if a store path in it is damaged.
    pub(super) fn failure(&self) -> Option<Failure> {
        let damaged = self.left.iter().filter(|left| left.why.is_damage()).count();
        let message = || format!("{} of the bundle cannot be put back", count(damaged, "store path"));
        (damaged > 0).then(|| unverified(message()).hint("`windlass verify BUNDLE --full` names every file at fault"))
    }
}

/// What could be put back, where a host with Nix was not asked to.
pub(super) fn offer(targets: &[LoadTarget], nix: &NixPlaces) -> Option<String> {
    let images = of_bundles(targets);
    if images.is_empty() || !store::is_there(nix) {
        return None;
    }
    let lacking = lacking(&images, nix).ok().filter(|lacking| lacking.len() > 0)?;
    let what = format!("{} of these images, {}", count(lacking.len(), "store path"), size(lacking.size()));
    Some(format!("hint: the Nix store lacks {what}; `windlass load BUNDLE --import-store` puts them back"))
}

/// The store paths of bundles that Nix has now, for roots of its garbage collector.
pub(super) fn paths_there(targets: &[LoadTarget], nix: &NixPlaces) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for image in of_bundles(targets) {
        let closure = ImageClosure::read(image.path())?;
        let here = closure.paths().filter(|path| path.starts_with(&nix.store) && path.symlink_metadata().is_ok());
        paths.extend(here.map(PathBuf::from));
    }
    Ok(paths)
}

fn of_bundles(targets: &[LoadTarget]) -> Vec<&ImageDir> {
    targets.iter().map(|target| &target.image).filter(|image| image.is_in_bundle()).collect()
}
