//! `windlass model check`

use serde::Serialize;

use super::super::failure::Result;
use super::hub::HubSession;
use super::{LockedModelArgs, chosen};
use crate::cli::printer::Printer;
use crate::cli::session::Session;
use crate::cli::upstream::check::{end, sentence, state};
use crate::model::pin::lock::{self, ModelLock};
use crate::upstream::check::{ImageFinding, Status};
use crate::upstream::models::check_models;

const EXAMPLE: &str = "Examples:
  windlass model check
  windlass model check smollm2 && echo current

The states are those of `windlass upstream check`: current, update (the branch has other files), moved (an address that does
not say it is floating has other bytes), gone, unknown.

Exit codes: 0 all is current; 8 there is something newer; without that, 7 a login is needed, 1 a model is gone or unknown.";

/// See whether the sources of models still have what the lock says.
///
/// Nothing is changed, and no file is downloaded. A model of Hugging Face is compared by its commit and by the digests in the
/// list of files; one of another server or of this machine by its size, because no digest is told there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelCheckArgs {
    #[command(flatten)]
    locked: LockedModelArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct ModelCheckReport<'a> {
    models: Vec<ModelCheckRow<'a>>,
    sentence: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct ModelCheckRow<'a> {
    name: &'a str,
    status: Status,
    /// What was asked for when it was added.
    reference: &'a str,
    floating: bool,
    why: Option<&'a str>,
}

pub(super) fn run(args: &ModelCheckArgs, printer: &Printer, session: &Session) -> Result<()> {
    let lock = lock::read(&args.locked.lock)?;
    let names = chosen(&lock, &args.locked.names, &args.locked.lock)?;
    let place = HubSession::new(&args.locked.registry, &args.locked.lock)?;
    let drawing = session.draw("check");
    let findings = check_models(place.adder(session.progress()).hub, &lock, &names, session.progress())?;
    drop(drawing);
    let sentence = sentence(&findings, "model");
    let rows: Vec<ModelCheckRow<'_>> = findings.iter().map(|finding| row(finding, &lock)).collect();
    if printer.json() {
        printer.value(&ModelCheckReport { models: rows, sentence })?;
    } else {
        let cells = |row: &ModelCheckRow<'_>| {
            let why = row.why.unwrap_or("-").to_owned();
            vec![row.name.to_owned(), state(row.status), row.reference.to_owned(), why]
        };
        let head = ["name", "state", "source", "why"].map(str::to_owned).to_vec();
        if !rows.is_empty() {
            printer.table(&std::iter::once(head).chain(rows.iter().map(cells)).collect::<Vec<_>>())?;
        }
        if rows.iter().any(|row| row.status == Status::Update) {
            printer.line("to take what is new: windlass model update")?;
        }
        printer.line(sentence)?;
    }
    end(&findings)
}

fn row<'a>(finding: &'a ImageFinding, lock: &'a ModelLock) -> ModelCheckRow<'a> {
    let source = &lock.models[&finding.name].source;
    ModelCheckRow {
        name: &finding.name,
        status: finding.status,
        reference: &source.reference,
        floating: source.floating,
        why: finding.why.as_deref(),
    }
}
