//! `windlass model fetch`

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::super::failure::{Result, offline};
use super::LockedModelArgs;
use super::hub::HubSession;
use crate::cli::printer::{Printer, count, size};
use crate::cli::session::Session;
use crate::model::pin::lock;

const EXAMPLE: &str = "Examples:
  windlass model fetch                       everything that the lock has
  windlass model fetch big                   one model, after a build could not fetch it
  windlass model fetch --offline             is everything there? 6 if not";

/// Download what a lock of models has and the Nix store lacks.
///
/// What a build would fetch by itself, with the token of the user who runs this: of private and gated repositories nothing else
/// can. The lock is not changed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelFetchArgs {
    #[command(flatten)]
    locked: LockedModelArgs,
    /// Ask no server; fail if anything would have to be fetched.
    #[arg(long)]
    offline: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct ModelFetchReport {
    models: BTreeMap<String, Vec<ModelFetchRow>>,
    fetched: usize,
    network: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct ModelFetchRow {
    path: PathBuf,
    size: u64,
    /// `present`, `fetched` or `missing`.
    outcome: &'static str,
}

pub(super) fn run(args: &ModelFetchArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let lock = lock::read(&args.locked.lock)?;
    let names: Vec<&String> =
        if args.locked.names.is_empty() { lock.models.keys().collect() } else { args.locked.names.iter().collect() };
    let place = HubSession::new(&args.locked.registry, &args.locked.lock)?;
    let adder = place.adder(progress);
    let models =
        names.iter().map(|name| Ok((*name, lock.model(name, &args.locked.lock)?))).collect::<Result<Vec<_>>>()?;
    let all = lock.models.values().flat_map(|model| &model.files);
    place.store.let_go(&place.roots, all.map(lock::LockedFile::fixed))?;

    let mut report = ModelFetchReport { models: BTreeMap::new(), fetched: 0, network: 0 };
    let mut lacking = 0;
    for (name, model) in models {
        let missing = place.store.missing(model.files.iter().map(lock::LockedFile::fixed))?;
        if !args.offline && !args.dry_run {
            let drawing = session.draw("fetch");
            let brought = adder.fetch(model)?;
            drop(drawing);
            report.network += brought.network;
            report.fetched += brought.fetched.len();
            if let Err(error) = adder.keep(&model.files) {
                printer.note(format!("warning: {error}"));
            }
        }
        let row = |file: &lock::LockedFile| {
            let fixed = file.fixed();
            let outcome = match (missing.contains(&fixed), args.offline || args.dry_run) {
                (false, _) => "present",
                (true, true) => "missing",
                (true, false) => "fetched",
            };
            ModelFetchRow { path: place.store.path(&fixed), size: file.size, outcome }
        };
        let rows: Vec<ModelFetchRow> = model.files.iter().map(row).collect();
        lacking += rows.iter().filter(|row| row.outcome == "missing").map(|row| row.size).sum::<u64>();
        report.models.insert(name.clone(), rows);
    }
    if printer.json() {
        printer.value(&report)?;
    } else {
        let rows = report.models.iter().flat_map(|(name, rows)| {
            rows.iter()
                .map(|row| vec![name.clone(), size(row.size), row.outcome.to_owned(), row.path.display().to_string()])
        });
        printer.table(&rows.collect::<Vec<_>>())?;
        let models = count(report.models.len(), "model");
        printer.line(format!(
            "{models}: {} fetched; network {}",
            count(report.fetched, "file"),
            size(report.network)
        ))?;
    }
    if lacking > 0 && !args.dry_run {
        return Err(offline(format!("{} would have to be fetched", size(lacking))).hint("run this without --offline"));
    }
    Ok(())
}
