//! `windlass doctor`

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::failure::Environment;
use super::host::{self, HostArgs};
use super::printer::{Printer, count};
use crate::podman::doctor::{Check, Doctor, State};
use crate::podman::image_store;
use crate::podman::linked::{DEFAULT, LinkedStore};
use crate::podman::places::Places;

/// Say whether this host is ready for the linked store, and how to make it so.
///
/// The linked store is an additional image store for Podman that windlass fills with hard links to the Nix store:
/// loading copies nothing, and no prune takes an image away. With --fix, doctor makes the store, then names it in
/// storage.conf, and asks Podman whether it still works.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Mend what can be mended without losing anything.
    #[arg(long)]
    fix: bool,
    /// Only make the linked store, or what is missing of it, and name it nowhere. For whatever writes storage.conf itself,
    /// such as the NixOS module: the store has to be there first. Podman is not asked, and where all is there nothing is
    /// said.
    #[arg(long, conflicts_with = "fix")]
    make_store: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    fixed: Vec<String>,
    places: Option<Places>,
    checks: Vec<Check>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<()> {
    if args.make_store {
        return make_store(args.host.storage_dir.as_deref().unwrap_or(Path::new(DEFAULT)), printer);
    }
    let (caller, overrides) = (host::caller(), args.host.overrides()?);
    let places = || Places::find(&caller, &overrides).ok();
    let ours = |places: Places| places.image_stores.into_iter().find(|store| LinkedStore::is_at(store));
    let store = match &args.host.storage_dir {
        Some(store) => std::path::absolute(store)?,
        None => places().and_then(ours).unwrap_or_else(|| PathBuf::from(DEFAULT)),
    };
    let nix = host::nix_places();
    let (caller, overrides, system) = (&caller, &overrides, Path::new("/"));
    let doctor = Doctor { caller, overrides, store: &store, nix_store: &nix.store, system };
    let fixed = if args.fix { doctor.mend()? } else { Vec::new() };
    let report = Report { fixed, checks: doctor.examine(), places: places() };
    let number = |state| report.checks.iter().filter(|check| check.state == state).count();
    let problems = number(State::Problem);
    if printer.json() {
        printer.value(&report)?;
    } else {
        print(&report, args.fix, printer)?;
        printer.line(format!(
            "{}: {} ok, {}, {}, {}",
            count(report.checks.len(), "check"),
            number(State::Ok),
            count(number(State::Note), "note"),
            count(number(State::Warning), "warning"),
            count(problems, "problem")
        ))?;
    }
    if problems == 0 {
        return Ok(());
    }
    let message = format!("{} with Podman on this host; each line says what to do", count(problems, "problem"));
    Err(Environment(message).into())
}

fn make_store(store: &Path, printer: &Printer) -> Result<()> {
    let store = std::path::absolute(store)?;
    if !image_store::is_ours_or_new(&store) {
        let message = format!(
            "{} is not a linked store, and not empty: windlass does not write there; choose another directory",
            store.display()
        );
        return Err(Environment(message).into());
    }
    let made = image_store::create(&store)?;
    if printer.json() {
        return printer.value(&made);
    }
    match &made[..] {
        [] => Ok(()),
        [first, ..] if *first == store => printer.line(format!("made the linked store {}", store.display())),
        mended => {
            let names: Vec<String> = mended.iter().map(|path| path.display().to_string()).collect();
            printer.line(format!("mended the linked store: {}", names.join(" ")))
        }
    }
}

fn print(report: &Report, fix: bool, printer: &Printer) -> Result<()> {
    for fixed in &report.fixed {
        printer.line(format!("fixed    {fixed}"))?;
    }
    if fix && report.fixed.is_empty() {
        printer.line("fixed    nothing: there is nothing that --fix can do")?;
    }
    for Check { check, state, message, fix } in &report.checks {
        let state = match state {
            State::Ok => "ok",
            State::Note => "note",
            State::Warning => "warning",
            State::Problem => "problem",
        };
        printer.line(format!("{state:<7}  {check}: {message}"))?;
        if let Some(fix) = fix {
            printer.line(format!("         {fix}"))?;
        }
    }
    Ok(())
}
