//! `windlass cache verify`

use std::path::PathBuf;

use serde::Serialize;

use super::ProjectArgs;
use crate::cache::definition::CacheProject;
use crate::cache::entries;
use crate::cli::complete;
use crate::cli::failure::{Result, unverified};
use crate::cli::printer::Printer;
use crate::cli::session::Session;
use crate::names::Name;

const EXAMPLE: &str = "Examples:
  windlass cache verify --full             every byte of every entry
  windlass cache verify unit               names and sizes of the entries of one image

Exit codes: 0 done, 4 an entry is damaged.";

/// Check that entries have all that they need, and that their keys are those of what they were built from.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct CacheVerifyArgs {
    /// Names of `windlass-cache.json`; all, if none is given.
    #[arg(add = complete::cached_images(), value_name = "NAME")]
    names: Vec<String>,
    /// Read every byte.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    project: ProjectArgs,
}

/// One entry, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CacheVerifyRow {
    name: Name,
    entry: PathBuf,
    /// What is wrong with it.
    problem: Option<String>,
}

/// All entries, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CacheVerifyReport {
    full: bool,
    entries: Vec<CacheVerifyRow>,
    damaged: usize,
}

pub(super) fn run(args: &CacheVerifyArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (project, progress) = (CacheProject::find(&args.project.project)?, session.progress());
    let drawing = session.draw("reading");
    let mut rows = Vec::new();
    for (name, _) in project.chosen(&args.names)? {
        let (found, unreadable) = entries::of(&project.folder(), name)?;
        for entry in found {
            let problem = entry.check(args.full, progress).err();
            super::bring::reads(progress)?;
            let problem = problem.map(|error| error.to_string());
            rows.push(CacheVerifyRow { name: name.clone(), entry: entry.path, problem });
        }
        let broken = |(entry, what): (PathBuf, String)| {
            let problem = Some(format!("entry {}: {what}", entry.display()));
            CacheVerifyRow { name: name.clone(), entry, problem }
        };
        rows.extend(unreadable.into_iter().map(broken));
    }
    drop(drawing);
    let (full, damaged) = (args.full, rows.iter().filter(|row| row.problem.is_some()).count());
    let all = rows.len();
    if printer.json() {
        printer.value(&CacheVerifyReport { full, entries: rows, damaged })?;
    } else {
        rows.iter().filter_map(|row| row.problem.as_ref()).try_for_each(|problem| printer.line(problem))?;
        let how = if full { "every byte was read" } else { "by names and sizes" };
        printer.line(format!("{}, {how}: {damaged} damaged", counted(all)))?;
    }
    match damaged {
        0 => Ok(()),
        _ => Err(unverified(format!("{} of the cache cannot be used", counted(damaged))).hint(
            "`windlass cache update` builds those again that are needed; `windlass cache prune` removes the others",
        )),
    }
}

fn counted(number: usize) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}
