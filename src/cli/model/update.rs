//! `windlass model update`

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::super::failure::{Failure, Result, several};
use super::add::{keep, pin};
use super::hub::HubSession;
use super::{LockedModelArgs, chosen};
use crate::class::Class;
use crate::cli::complete;
use crate::cli::printer::{Printer, count, size};
use crate::cli::session::Session;
use crate::model::pin::lock::{self, LockedModel, ModelLockChange};
use crate::model::pin::resolve::resolve;
use crate::sh;
use crate::upstream::check::{ImageFinding, Status};
use crate::upstream::models::check_models;

const EXAMPLE: &str = "Examples:
  windlass model update                       every model whose branch or address has something else
  windlass model update smollm2
  windlass model update --accept-moved mine   an address that does not say it is floating has other bytes, and you know why
  windlass model update > message && test -s message && git commit -F message models.lock.json";

/// Lock what the sources of models have now, and download it into the Nix store.
///
/// Standard output is the message for a commit, and nothing if nothing changed; what became of each model goes to standard
/// error. If one model fails, the others are updated, and the exit code tells. An address that has other bytes without being
/// floating is left out and named, and the exit code is 8, until --accept-moved names the model.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelUpdateArgs {
    #[command(flatten)]
    locked: LockedModelArgs,
    /// Take other bytes of an address that is not floating. Repeatable.
    #[arg(add = complete::locked_models(), long, value_name = "NAME")]
    accept_moved: Vec<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct ModelUpdateReport<'a> {
    /// Whether the lock was written.
    written: bool,
    message: Option<String>,
    models: Vec<ModelUpdateRow<'a>>,
    network: u64,
    sentence: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct ModelUpdateRow<'a> {
    name: &'a str,
    /// `same`, `changed` (with --dry-run: it would be), `moved` or `failed`.
    outcome: &'static str,
    why: Option<String>,
}

pub(super) fn run(args: &ModelUpdateArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (path, progress) = (&args.locked.lock, session.progress());
    let before = lock::read(path)?;
    let names = chosen(&before, &args.locked.names, path)?;
    let accepted = chosen(&before, &args.accept_moved, path).map(|_| &args.accept_moved)?;
    let place = HubSession::new(&args.locked.registry, path)?;
    let adder = place.adder(progress);
    let drawing = session.draw("update");
    let findings = check_models(adder.hub, &before, &names, progress)?;
    let (mut rows, mut message, mut network, mut written, mut classes) =
        (Vec::new(), String::new(), 0, false, Vec::new());
    for ImageFinding { name, status, why, class, .. } in &findings {
        let model = &before.models[name];
        let take = *status == Status::Update || (*status == Status::Moved && accepted.contains(name));
        let (outcome, why) = match status {
            Status::Current => ("same", None),
            _ if take && args.dry_run => ("changed", why.clone()),
            _ if take => match one(name, model, path, &place, session, printer) {
                Ok((None, bytes)) => {
                    network += bytes;
                    ("same", None)
                }
                Ok((Some(line), bytes)) => {
                    (network, written) = (network + bytes, true);
                    writeln!(message, "- {line}").ok();
                    ("changed", why.clone())
                }
                Err(error) if error.class() == Class::Stopped => return Err(error),
                Err(error) => {
                    classes.push(error.class());
                    ("failed", Some(error.to_string()))
                }
            },
            Status::Moved => ("moved", why.clone()),
            _ => {
                classes.push(class.unwrap_or(Class::Failed));
                ("failed", why.clone())
            }
        };
        rows.push(ModelUpdateRow { name, outcome, why });
    }
    drop(drawing);
    let message = written.then(|| format!("chore: Update models\n\nUpdates:\n{message}"));
    let number = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    let moved = number("moved");
    let sentence = format!(
        "{}: {} {}, {} the same, {moved} moved, {} failed; network {}",
        count(rows.len(), "model"),
        number("changed"),
        if args.dry_run { "to change" } else { "changed" },
        number("same"),
        number("failed"),
        size(network)
    );
    if printer.json() {
        printer.value(&ModelUpdateReport { written, message, models: rows, network, sentence })?;
    } else {
        for ModelUpdateRow { name, outcome, why } in rows.iter().filter(|row| row.outcome != "same") {
            let why = why.as_deref().unwrap_or(outcome);
            printer.note(match *outcome {
                "moved" => format!(
                    "{name}: left out: {why}, and its address is not floating; find out why, then take it with \
                     --accept-moved {}",
                    sh::word(name)
                ),
                _ => format!("{name}: {why}"),
            });
        }
        printer.note(sentence);
        printer.bytes(message.unwrap_or_default().as_bytes())?;
    }
    if !classes.is_empty() {
        return Err(several(format!("{} could not be updated", count(classes.len(), "model")), classes));
    }
    if moved > 0 {
        let message = format!("{} left as it is locked: its address has other bytes now", count(moved, "model"));
        return Err(Failure::new(Class::Updates, message));
    }
    Ok(())
}

/// Locks a model anew: its line of the commit's message, unless it is the same after all, and the bytes that came.
fn one(
    name: &str,
    before: &LockedModel,
    path: &Path,
    place: &HubSession,
    session: &Session,
    printer: &Printer,
) -> Result<(Option<String>, u64)> {
    let progress = session.progress();
    let adder = place.adder(progress);
    let resolved = resolve(&before.source.reference, &before.source.files, adder.hub, progress)?;
    // What was taken although it is not a model may be another file of that kind.
    let (model, network) = pin(resolved, Some(before), before.facts.is_none(), &adder)?;
    let mut change = ModelLockChange::begin(path, progress)?;
    change.lock.models.insert(name.to_owned(), model.clone());
    let lock = change.lock.clone();
    let changed = change.finish(progress)?;
    keep(place, &adder, &lock, &model, printer)?;
    let line = match (&before.source.revision, &model.source.revision) {
        (Some(from), Some(to)) if from != to => format!("{name} ({} -> {})", &from[..12], &to[..12]),
        _ => name.to_owned(),
    };
    Ok((changed.then_some(line), network))
}
