//! What a host with OLD writes for NEW: what `windlass diff` says, and which store paths come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::data::ReportData;
use crate::cli::diff::{self, DiffReport};
use crate::cli::failure::Result;
use crate::cli::host::HostArgs;
use crate::cli::targets::{lean, targets};
use crate::cli::view;
use crate::image::layout::ImageDir;
use crate::inventory::Inventory;
use crate::model::licence;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportChanges {
    pub(super) title: String,
    #[serde(flatten)]
    pub(super) diff: DiffReport,
    /// Numbers of the store paths that OLD does not have.
    new_paths: Vec<usize>,
    /// What these are called.
    #[serde(skip)]
    pub(super) new_names: Vec<String>,
    /// The store paths that only OLD has, by name, with their bytes where they are known.
    pub(super) gone_paths: Vec<(String, Option<u64>)>,
    /// What was known of the licences of OLD.
    #[serde(skip)]
    pub(super) old_licences: Licences,
}

/// Licences of packages, by the names of these: none where nothing is known.
pub(super) type Licences = BTreeMap<String, BTreeSet<String>>;

pub(super) fn licences(inventory: &Inventory) -> Licences {
    let mut licences = Licences::new();
    for path in inventory.paths.values() {
        let known = path.package.as_ref().and_then(licence::of_package);
        licences.entry(path.pname.clone()).or_default().extend(known);
    }
    licences
}

pub(super) fn changes(
    old: &Path,
    new: &Path,
    host: Option<&HostArgs>,
    inventory: &Inventory,
    data: &ReportData,
) -> Result<ReportChanges> {
    let diff = diff::between(old, new, host)?;
    let seen = view::look(&lean(old))?;
    let mut before: BTreeSet<String> =
        seen.iter().flat_map(|image| &image.layers).flat_map(diff::closure).map(str::to_owned).collect();
    // A stack of archives says no more than that.
    let opened = targets(&[old.to_owned()], &[]).ok();
    let opened: Vec<&ImageDir> = opened.iter().flatten().map(|target| &target.image).collect();
    let known = Inventory::read(&opened)?;
    before.extend(known.paths.keys().cloned());
    let base = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
    let new: Vec<String> = inventory.paths.keys().filter(|path| !before.contains(*path)).map(base).collect();
    let new_paths: BTreeSet<usize> = new.iter().filter_map(|path| data.number(path)).collect();
    let gone = before.iter().filter(|path| !inventory.paths.contains_key(*path));
    let bytes = |path: &String| known.paths.get(path).and_then(|path| path.nar_size);
    Ok(ReportChanges {
        title: super::title(old),
        diff,
        new_paths: new_paths.into_iter().collect(),
        new_names: new,
        gone_paths: gone.map(|path| (base(path), bytes(path))).collect(),
        old_licences: licences(&known),
    })
}
