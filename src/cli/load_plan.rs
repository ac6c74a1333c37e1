//! `windlass load --dry-run`: what a load would do.

use std::path::Path;

use serde::Serialize;

use super::failure::Result;
use super::foretell::causes;
use super::import_store::StorePathsReport;
use super::into::HostEngine;
use super::load::{LoadRow, label, row};
use super::printer::{Printer, size};
use super::session::Session;
use super::status::free_at;
use crate::engine::target::{LoadMethod, LoadOptions, LoadStep, LoadTarget, plan};

/// What a load would do, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LoadPlan<'a> {
    images: Vec<LoadRow<'a>>,
    to_load: usize,
    present: usize,
    bytes_to_write: u64,
    /// Bytes that are needed in `place` at the fullest moment, with those that stay.
    bytes_needed: u64,
    /// Free space in `place`, where images are loaded to.
    free: u64,
    place: &'a Path,
    /// With --import-store.
    #[serde(skip_serializing_if = "Option::is_none")]
    store_paths: Option<StorePathsReport>,
}

/// Says what a load would do, and refuses what it would refuse.
pub(super) fn dry_run<E: HostEngine>(
    host: &E,
    targets: &[LoadTarget],
    planned: Option<Vec<LoadStep>>,
    options: LoadOptions,
    store_paths: Option<StorePathsReport>,
    printer: &Printer,
    session: &Session,
) -> Result<()> {
    let steps = match planned {
        Some(steps) => steps,
        None => plan(host, targets, options, session.progress())?,
    };
    let missing = || steps.iter().filter(|step| !matches!(step.how, LoadMethod::Present | LoadMethod::Name));
    let place = place(host, &steps);
    let plan = LoadPlan {
        images: steps.iter().map(row).collect(),
        to_load: missing().count(),
        present: steps.len() - missing().count(),
        bytes_to_write: steps.iter().map(|step| step.to_write).sum(),
        bytes_needed: host.space(&steps)?.iter().map(|space| space.needed).max().unwrap_or(0),
        free: free_at(place)?,
        place,
        store_paths,
    };
    if printer.json() {
        printer.value(&plan)?;
        return host.check_space(&steps).map_err(|error| host.does_not_fit(error, session.progress()));
    }
    let cells = |row: &LoadRow<'_>| {
        let LoadRow { entry, action, reason, bytes_to_write, copied, .. } = row;
        let why = if copied.is_empty() { String::new() } else { format!(", {}", causes(copied)) };
        let to_write = format!("{} to write{why}", size(*bytes_to_write));
        let (digest, reference) = (entry.digest.short(), entry.reference.to_string());
        vec![label(entry), (*action).to_owned(), size(entry.size), to_write, digest, reference, reason.clone()]
    };
    printer.table(&plan.images.iter().map(cells).collect::<Vec<_>>())?;
    host.foretell(targets, &steps).iter().for_each(|line| printer.note(line));
    let LoadPlan { to_load, present, bytes_to_write, bytes_needed, free, place, .. } = plan;
    let meanwhile = match bytes_needed > bytes_to_write {
        true => format!(", {} needed meanwhile", size(bytes_needed)),
        false => String::new(),
    };
    printer.line(format!(
        "{to_load} to load, {present} present; {} to write{meanwhile}, {} free in {}",
        size(bytes_to_write),
        size(free),
        place.display()
    ))?;
    // What would be refused is refused here too.
    host.check_space(&steps).map_err(|error| host.does_not_fit(error, session.progress()))
}

/// Where the first image that is missing is loaded to.
pub(super) fn place<'a, E: HostEngine>(host: &'a E, steps: &'a [LoadStep]) -> &'a Path {
    let missing = steps.iter().find(|step| !matches!(step.how, LoadMethod::Present | LoadMethod::Name));
    missing.map_or(host.place(), |step| &step.store)
}
