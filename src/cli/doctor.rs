//! `windlass doctor`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::{Result, environment};
use super::host::{self, HostArgs};
use super::printer::{Printer, count};
use super::session::Session;
use crate::disk::WriteError;
use crate::podman::doctor::{CheckState, Doctor, HostCheck};
use crate::podman::linked::{DEFAULT, LinkedStore, image_store, sharing};
use crate::podman::storage::places::Places;

/// Say whether this host is ready for the linked store, and how to make it so.
///
/// The linked store is an additional image store for Podman that windlass fills with hard links to the Nix store:
/// loading copies nothing, and no prune takes an image away. With --fix, doctor makes the store, then names it in
/// storage.conf, and asks Podman whether it still works.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Mend what can be mended without losing anything.
    #[arg(long)]
    fix: bool,
    /// Only make the linked store, or what is missing of it, and name it nowhere. For whatever writes storage.conf itself,
    /// such as the NixOS module: the store has to be there first. Podman is not asked, and where all is there nothing is
    /// said.
    #[arg(long, conflicts_with = "fix")]
    make_store: bool,
    /// Share root's linked store with the rootless users of this host: it is mounted read-only over itself, now and at boot,
    /// and then opened. Without this no other user reaches anything in it.
    #[arg(long, conflicts_with_all = ["fix", "close"])]
    share: bool,
    /// Close the linked store to all users but its owner: the way back from --share.
    #[arg(long, conflicts_with_all = ["fix", "make_store"])]
    close: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DoctorReport {
    fixed: Vec<String>,
    places: Option<Places>,
    checks: Vec<HostCheck>,
}

pub(super) fn run(args: &DoctorArgs, printer: &Printer, session: &Session) -> Result<()> {
    if args.make_store {
        let store = args.host.storage_dir.as_deref().unwrap_or(Path::new(DEFAULT));
        return make_store(store, args.share, printer);
    }
    let (caller, overrides) = (host::caller(), args.host.overrides()?);
    let progress = session.progress();
    let places = || Places::ask(&caller, &overrides, progress).ok();
    let ours = |places: Places| places.image_stores.into_iter().find(|store| LinkedStore::is_at(store));
    let store = match &args.host.storage_dir {
        Some(store) => std::path::absolute(store)?,
        None => places().and_then(ours).unwrap_or_else(|| PathBuf::from(DEFAULT)),
    };
    let nix = host::nix_places();
    let doctor = Doctor {
        caller: &caller,
        overrides: &overrides,
        store: &store,
        nix_store: &nix.store,
        system: Path::new("/"),
        progress,
    };
    let refused = |error: WriteError| environment(error.to_string());
    let system = doctor.system;
    let fixed = if args.fix {
        doctor.mend()?
    } else if args.share && system.join("etc/NIXOS").exists() {
        let message =
            "on NixOS set virtualisation.windlass.share = true: then the store is mounted read-only at every boot";
        return Err(environment(message));
    } else if args.share {
        let mut done = sharing::share(&store, system).map_err(refused)?;
        done.extend(doctor.move_drop_in(true)?);
        done
    } else if args.close {
        // First: a Podman that cannot read a store that it is told of fails in every command.
        let mut done = Vec::from_iter(doctor.move_drop_in(false)?);
        done.extend(sharing::close(&store, system).map_err(refused)?);
        done
    } else {
        Vec::new()
    };
    let checks = doctor.examine();
    progress.check()?;
    // The examination has just asked.
    let report = DoctorReport { fixed, checks, places: Places::find(&caller, &overrides, progress).ok() };
    let number = |state| report.checks.iter().filter(|check| check.state == state).count();
    let problems = number(CheckState::Problem);
    if printer.json() {
        printer.value(&report)?;
    } else {
        print(&report, args.fix || args.share || args.close, printer)?;
        printer.line(format!(
            "{}: {} ok, {}, {}, {}",
            count(report.checks.len(), "check"),
            number(CheckState::Ok),
            count(number(CheckState::Note), "note"),
            count(number(CheckState::Warning), "warning"),
            count(problems, "problem")
        ))?;
    }
    if problems == 0 {
        return Ok(());
    }
    let message = format!("{} with Podman on this host; each line says what to do", count(problems, "problem"));
    Err(environment(message))
}

/// Folders that `--make-store` made, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct MadeReport {
    made: Vec<PathBuf>,
}

fn make_store(store: &Path, share: bool, printer: &Printer) -> Result<()> {
    let store = std::path::absolute(store)?;
    image_store::claim(&store).map_err(|error| environment(error.to_string()))?;
    let made = image_store::create(&store)?;
    let shared = if share { sharing::share(&store, Path::new("/")) } else { Ok(Vec::new()) };
    // Where there is no mount it stays closed: root's images still work.
    let shared = shared.map_err(|error| environment(error.to_string()))?;
    if printer.json() {
        return printer.value(&MadeReport { made });
    }
    match &made[..] {
        [] => Ok(()),
        [first, ..] if *first == store => printer.line(format!("made the linked store {}", store.display())),
        mended => {
            let names: Vec<String> = mended.iter().map(|path| path.display().to_string()).collect();
            printer.line(format!("mended the linked store: {}", names.join(" ")))
        }
    }?;
    shared.into_iter().try_for_each(|done| printer.line(done))
}

fn print(report: &DoctorReport, fix: bool, printer: &Printer) -> Result<()> {
    for fixed in &report.fixed {
        printer.line(format!("fixed    {fixed}"))?;
    }
    if fix && report.fixed.is_empty() {
        printer.line("fixed    nothing: there is nothing to do")?;
    }
    for HostCheck { check, state, message, fix } in &report.checks {
        let state = match state {
            CheckState::Ok => "ok",
            CheckState::Note => "note",
            CheckState::Warning => "warning",
            CheckState::Problem => "problem",
        };
        printer.line(format!("{state:<7}  {check}: {message}"))?;
        if let Some(fix) = fix {
            printer.line(format!("         {fix}"))?;
        }
    }
    Ok(())
}
