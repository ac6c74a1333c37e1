//! `windlass generations`

use serde::Serialize;

use super::failure::{Result, failed};
use super::host::HostArgs;
use super::into::{ChosenEngine, HostEngine, IntoArgs};
use super::printer::{Printer, count};
use crate::disk::progress::Progress;
use crate::engine::generation::{Generation, GenerationEntry};
use crate::engine::rollback::{RollbackPart, parts};
use crate::image::summary::ImageKind;

/// Show what was loaded, load after load, and what can be gone back to.
///
/// A generation is *whole* when each of its images is in the engine, or can be loaded again from what is on this host.
#[derive(Debug, clap::Args)]
pub(super) struct GenerationsArgs {
    #[command(flatten)]
    into: IntoArgs,
    #[command(flatten)]
    host: HostArgs,
}

/// One generation, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GenerationsRow<'a> {
    number: u64,
    made: Option<String>,
    current: bool,
    whole: bool,
    images: Vec<GenerationImage<'a>>,
    removed: Vec<&'a str>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct GenerationImage<'a> {
    #[serde(flatten)]
    entry: &'a GenerationEntry,
    /// `new`, `changed` or `same`.
    state: &'static str,
    /// `present`, `loadable` or `missing`.
    part: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

/// All of them, for JSON, the oldest first.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct GenerationsReport<'a> {
    generations: Vec<GenerationsRow<'a>>,
}

pub(super) fn run(args: &GenerationsArgs, printer: &Printer) -> Result<()> {
    let progress = super::session::progress();
    match args.into.choose(&args.host, &progress)? {
        ChosenEngine::Podman => show(&args.host.host(&progress)?, printer, &progress),
        ChosenEngine::Crio(host) => show(&*host, printer, &progress),
        ChosenEngine::Daemon(host) => show(&host, printer, &progress),
    }
}

fn show<E: HostEngine>(host: &E, printer: &Printer, progress: &Progress) -> Result<()> {
    let all = host.generations().all()?;
    let current = host.generations().current()?.map(|current| current.number);
    let rows = rows(host, &all, progress)?;
    if printer.json() {
        return printer.value(&GenerationsReport { generations: rows });
    }
    for row in &rows {
        describe(row, printer)?;
    }
    let broken = rows.iter().filter(|row| !row.whole).count();
    let current = current.map_or("none is current".to_owned(), |number| format!("{number} is current"));
    printer.line(format!("{}, {current}, {broken} no longer whole", count(rows.len(), "generation")))
}

/// What is told of the generations of a host, the oldest first.
pub(super) fn rows<'a, E: HostEngine>(
    host: &E,
    all: &'a [Generation],
    progress: &Progress,
) -> Result<Vec<GenerationsRow<'a>>> {
    let generations = host.generations();
    let current = generations.current()?.map(|current| current.number);
    let mut rows = Vec::new();
    for (n, generation) in all.iter().enumerate() {
        let before = n.checked_sub(1).and_then(|before| all.get(before));
        let parts = parts(host, generation, progress)?;
        let made = generations.made(generation.number).map(time).transpose()?;
        rows.push(row(generation, before, current, made, parts));
    }
    Ok(rows)
}

/// Seconds after the epoch, for people: `2026-01-31 08:20:17 UTC`.
pub(super) fn time(seconds: i64) -> Result<String> {
    let time =
        jiff::Timestamp::from_second(seconds).map_err(|error| failed(format!("the time of a generation: {error}")))?;
    Ok(time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn row<'a>(
    generation: &'a Generation,
    before: Option<&'a Generation>,
    current: Option<u64>,
    made: Option<String>,
    parts: Vec<RollbackPart>,
) -> GenerationsRow<'a> {
    let old: &[GenerationEntry] = before.map_or(&[], |before| before.entries.as_slice());
    let image = |(entry, part): (&'a GenerationEntry, RollbackPart)| {
        let state = match counterpart(entry, old) {
            None => "new",
            Some(old) if old.digest == entry.digest => "same",
            Some(_) => "changed",
        };
        let (part, missing) = match part {
            RollbackPart::Present => ("present", None),
            RollbackPart::Loadable => ("loadable", None),
            RollbackPart::Missing(what) => ("missing", Some(what)),
        };
        GenerationImage { entry, state, part, missing }
    };
    let images: Vec<GenerationImage<'_>> = generation.entries.iter().zip(parts).map(image).collect();
    let gone = old.iter().filter(|old| counterpart(old, &generation.entries).is_none());
    GenerationsRow {
        number: generation.number,
        made,
        current: current == Some(generation.number),
        whole: images.iter().all(|image| image.missing.is_none()),
        removed: gone.map(|old| &*old.name).collect(),
        images,
    }
}

/// The image of the same kind and name in another generation.
pub(super) fn counterpart<'a>(entry: &GenerationEntry, others: &'a [GenerationEntry]) -> Option<&'a GenerationEntry> {
    others.iter().find(|other| other.kind == entry.kind && other.repository == entry.repository)
}

fn describe(row: &GenerationsRow<'_>, printer: &Printer) -> Result<()> {
    let models = row.images.iter().filter(|image| image.entry.kind == ImageKind::Model).count();
    let counts = format!("{}, {}", count(row.images.len() - models, "image"), count(models, "model"));
    let mark = if row.current { "  current" } else { "" };
    let whole = if row.whole { "whole" } else { "no longer whole" };
    let made = row.made.as_deref().unwrap_or("unknown time");
    printer.line(format!("generation {}  {made}  {counts}  {whole}{mark}", row.number))?;
    let mut lines = Vec::new();
    let shown = row.images.iter().filter(|image| image.state != "same" || image.missing.is_some());
    for GenerationImage { entry, state, missing, .. } in shown {
        let missing = missing.as_ref().map_or(String::new(), |what| format!(", missing: {what}"));
        lines.push(vec![
            format!("  {}", super::load::label(entry)),
            format!("sha256:{}", entry.digest.short()),
            format!("({state}){missing}"),
        ]);
    }
    lines.extend(row.removed.iter().map(|name| vec![format!("  {name}"), "-".to_owned(), "(removed)".to_owned()]));
    printer.table(&lines)?;
    let same = row.images.iter().filter(|image| image.state == "same").count();
    if same > 0 { printer.line(format!("  and {same} the same")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_to_the_second() {
        assert_eq!(time(1_769_847_617).unwrap(), "2026-01-31 08:20:17 UTC");
    }
}
