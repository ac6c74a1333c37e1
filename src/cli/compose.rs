//! `windlass compose`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::failure::Usage;
use super::output::{Destination, is_stream};
use super::printer::{Printer, count};
use crate::compose::account::{Fate, Row};
use crate::compose::export::export;
use crate::compose::import::{Counts, Imported, Options, import};

const EXAMPLE: &str = "Examples:
  windlass compose import docker-compose.yml --output containers.nix
  windlass compose import docker-compose.yml --profile gpu --env-file prod.env --json
  windlass compose export ./result --output compose.yaml";

const IMPORT: &str = "Examples:
  windlass compose import docker-compose.yml                   configuration and account
  windlass compose import docker-compose.yml --output new.nix  to a file, for `imports`
  windlass compose import docker-compose.yml --all             with what was taken over";

const EXPORT: &str = "Examples:
  windlass compose export ./result > compose.yaml
  podman-compose --file compose.yaml up --detach";

/// Come from a compose file, or give one to people without NixOS.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Import(ImportArgs),
    Export(ExportArgs),
}

/// Turn a compose file into a NixOS configuration, and account for every key of it.
///
/// Images that the AI stack has a service for become services.ai-stack.SERVICE, all others
/// virtualisation.windlass.containers.NAME. The account has a line for every key that was not taken over, or that means
/// something else now, and why. Secrets are never copied: the account says where they go.
///
/// Variables come from --env-file, or from `.env` beside the file; the environment of the shell is not read.
#[derive(Debug, clap::Args)]
#[command(after_long_help = IMPORT)]
pub(super) struct ImportArgs {
    /// The compose file.
    file: PathBuf,
    /// Write the configuration here; replaced in one step if it is there. By default it goes to standard output, and the
    /// account to standard error.
    #[arg(short, long, value_name = "FILE.nix")]
    output: Option<PathBuf>,
    /// A file of variables, instead of `.env` beside the compose file. Repeatable; later ones win.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Take the services of a profile too; `*` for all. Repeatable.
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// What relative paths in the file are relative to. By default the folder of the file.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// List the keys that were taken over as well.
    #[arg(long)]
    all: bool,
}

/// Write a compose file for a stack: images by digest, and nothing is pulled.
///
/// Services are those that the stack describes; without any, each image gets one with the ports and volumes of its config.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXPORT)]
pub(super) struct ExportArgs {
    /// A lean stack, or one with archives.
    stack: PathBuf,
    /// Write it here; replaced in one step if it is there. By default it goes to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ImportReport {
    output: Option<PathBuf>,
    sentence: String,
    #[serde(flatten)]
    imported: Imported,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExportReport {
    output: Option<PathBuf>,
    compose: String,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<()> {
    match &args.verb {
        Verb::Import(args) => run_import(args, printer),
        Verb::Export(args) => run_export(args, printer),
    }
}

fn run_import(args: &ImportArgs, printer: &Printer) -> Result<()> {
    if args.file.is_dir() {
        let message = format!("{} is a directory; give the compose file in it", args.file.display());
        return Err(Usage(message).into());
    }
    let parent = args.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = args.directory.as_deref().unwrap_or(parent);
    let directory = directory.canonicalize().with_context(|| format!("open {}", directory.display()))?;
    let imported = import(&Options {
        file: args.file.clone(),
        directory,
        env_files: args.env_file.clone(),
        profiles: args.profile.clone(),
    })?;
    let sentence = sentence(imported.counts);
    // Beside the configuration the account would be in the way of a program that reads it from a pipe.
    let streams = args.output.as_deref().is_none_or(is_stream);
    if streams && args.output.is_some() && printer.json() {
        return Err(Usage("--output - and --json both are the result; give --output a file".to_owned()).into());
    }
    if let Some(output) = args.output.as_deref().filter(|_| !streams) {
        write(output, &imported.nix, printer)?;
    }
    if printer.json() {
        return printer.value(&ImportReport { output: args.output.clone(), sentence, imported });
    }
    if streams {
        printer.bytes(imported.nix.as_bytes())?;
        printer.flush()?;
        account(&imported, args.all).iter().for_each(|line| printer.note(line));
        printer.note(sentence);
        return Ok(());
    }
    account(&imported, args.all).iter().try_for_each(|line| printer.line(line))?;
    printer.line(sentence)
}

fn run_export(args: &ExportArgs, printer: &Printer) -> Result<()> {
    let compose = export(&args.stack)?;
    let output = args.output.as_deref().filter(|output| !is_stream(output));
    if args.output.is_some() && output.is_none() && printer.json() {
        return Err(Usage("--output - and --json both are the result; give --output a file".to_owned()).into());
    }
    if let Some(output) = output {
        write(output, &compose, printer)?;
    }
    if printer.json() {
        return printer.value(&ExportReport { output: args.output.clone(), compose });
    }
    match output {
        None => printer.bytes(compose.as_bytes()),
        Some(output) => printer.line(output.display()),
    }
}

fn write(output: &Path, text: &str, printer: &Printer) -> Result<()> {
    let target = Destination::new(output)?;
    target.write(text, printer)?;
    target.publish()
}

/// The account as lines with columns, then the notes.
fn account(imported: &Imported, all: bool) -> Vec<String> {
    let shown = imported.account.iter().filter(|row| all || row.fate == Fate::Left || !row.why.is_empty());
    let mut rows: Vec<(usize, [String; 5])> = Vec::new();
    for row in shown.map(cells) {
        // What an anchor brings into many services is one line of the file.
        let same = |(_, other): &&mut (usize, [String; 5])| other[0] == row[0] && other[2..] == row[2..];
        match rows.iter_mut().rev().take_while(|(_, other)| other[0] == row[0]).find(same) {
            Some((services, other)) => {
                *services += 1;
                other[1] = format!("{services} services");
            }
            None => rows.push((1, row)),
        }
    }
    let rows: Vec<[String; 5]> = rows.into_iter().map(|(_, row)| row).collect();
    let head = ["line", "service", "key", "now", "why"].map(str::to_owned);
    let table: Vec<&[String; 5]> = std::iter::once(&head).filter(|_| !rows.is_empty()).chain(&rows).collect();
    let width = |n: usize| table.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..4).map(width).collect();
    let line = |row: &&[String; 5]| {
        let cell = |(n, cell): (usize, &String)| {
            let pad = widths.get(n).map_or(0, |width| width - cell.chars().count());
            let (before, after) = if n == 0 { (pad, 0) } else { (0, pad) };
            format!("{}{cell}{}  ", " ".repeat(before), " ".repeat(after))
        };
        row.iter().enumerate().map(cell).collect::<String>().trim_end().to_owned()
    };
    let notes = imported.notes.iter().map(|note| format!("note: {note}"));
    table.iter().map(line).chain(notes).collect()
}

fn cells(row: &Row) -> [String; 5] {
    let now = match row.fate {
        Fate::Left => "-".to_owned(),
        Fate::Taken if row.to.is_empty() => "nothing to do".to_owned(),
        Fate::Taken => row.to.clone(),
    };
    let line = row.file.as_ref().map_or_else(|| row.line.to_string(), |file| format!("{file}:{}", row.line));
    [line, row.service.clone().unwrap_or_default(), row.key.clone(), now, row.why.clone()]
}

fn sentence(counts: Counts) -> String {
    let Counts { services, ai_stack, others, left_out, taken, left } = counts;
    let others = count(others, "other");
    let left_out = if left_out > 0 { format!(", {left_out} left out by profile") } else { String::new() };
    format!(
        "{}: {ai_stack} of the AI stack, {others}{left_out}; {} taken over, {left} not, each with its reason",
        count(services, "service"),
        count(taken, "key")
    )
}
