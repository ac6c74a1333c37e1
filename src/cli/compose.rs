//! `windlass compose`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::{Context, Result, usage};
use super::output::{Destination, is_stream};
use super::printer::{Printer, count, size};
use crate::compose::export::export;
use crate::compose::import::account::{AccountRow, Fate};
use crate::compose::import::nix::string;
use crate::compose::import::{Counts, ImportOptions, Imported, Pinned, import};
use crate::disk::bounded::{self, Cap};
use crate::upstream::file;

const EXAMPLE: &str = "Examples:
  windlass compose import docker-compose.yml --output containers.nix
  windlass compose import docker-compose.yml --profile gpu --env-file prod.env --json
  windlass compose export ./result --output compose.yaml";

/// The lock that is looked for.
const LOCK: &str = "images.lock.json";

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
pub(super) struct ComposeArgs {
    #[command(subcommand)]
    verb: ComposeVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ComposeVerb {
    Import(ComposeImportArgs),
    Export(ComposeExportArgs),
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
pub(super) struct ComposeImportArgs {
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
    /// The lock that `windlass upstream import` writes: its images are those of the configuration. By default
    /// images.lock.json beside what is written, if it is there.
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// List the keys that were taken over as well.
    #[arg(long)]
    all: bool,
}

/// Write a compose file for a stack: images by digest, and nothing is pulled.
///
/// Services are those that the stack describes; without any, each image gets one with the ports and volumes of its config.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXPORT)]
pub(super) struct ComposeExportArgs {
    /// A lean stack, or one with archives.
    stack: PathBuf,
    /// Write it here; replaced in one step if it is there. By default it goes to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ComposeImportReport {
    output: Option<PathBuf>,
    sentence: String,
    #[serde(flatten)]
    imported: Imported,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ComposeExportReport {
    output: Option<PathBuf>,
    compose: String,
}

pub(super) fn run(args: &ComposeArgs, printer: &Printer) -> Result<()> {
    match &args.verb {
        ComposeVerb::Import(args) => run_import(args, printer),
        ComposeVerb::Export(args) => run_export(args, printer),
    }
}

fn run_import(args: &ComposeImportArgs, printer: &Printer) -> Result<()> {
    if args.file.is_dir() {
        let message = format!("{} is a directory; give the compose file in it", args.file.display());
        return Err(usage(message));
    }
    let parent = args.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = args.directory.as_deref().unwrap_or(parent);
    let directory = directory.canonicalize().with_context(|| format!("open {}", directory.display()))?;
    let mut imported = import(&ImportOptions {
        file: args.file.clone(),
        directory,
        env_files: args.env_file.clone(),
        profiles: args.profile.clone(),
        pinned: pinned(args)?,
    })?;
    notes(&mut imported);
    let sentence = sentence(imported.counts);
    // Beside the configuration the account would be in the way of a program that reads it from a pipe.
    let streams = args.output.as_deref().is_none_or(is_stream);
    if streams && args.output.is_some() && printer.json() {
        return Err(usage("--output - and --json both are the result; give --output a file"));
    }
    if let Some(output) = args.output.as_deref().filter(|_| !streams) {
        write(output, &imported.nix, printer)?;
    }
    if printer.json() {
        return printer.value(&ComposeImportReport { output: args.output.clone(), sentence, imported });
    }
    if streams {
        printer.bytes(imported.nix.as_bytes())?;
        printer.flush()?;
        printer.note_table(&account(&imported, args.all));
        imported.notes.iter().for_each(|note| printer.note(format!("note: {note}")));
        printer.note(sentence);
        return Ok(());
    }
    printer.table(&account(&imported, args.all))?;
    imported.notes.iter().try_for_each(|note| printer.line(format!("note: {note}")))?;
    printer.line(sentence)
}

/// The images of the lock, and how the configuration names it.
fn pinned(args: &ComposeImportArgs) -> Result<Pinned> {
    let folder = args.output.as_deref().filter(|output| !is_stream(output)).and_then(Path::parent);
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = match &args.lock {
        Some(file) => file.clone(),
        None => folder.join(LOCK),
    };
    if args.lock.is_none() && !file.is_file() {
        return Ok(Pinned::default());
    }
    let lock = file::read(&file)?;
    let images = lock.images.iter().map(|(name, image)| (image.original.reference.clone(), name.clone())).collect();
    let real = |path: &Path| path.canonicalize().with_context(|| format!("open {}", path.display()));
    let (here, place) = (real(folder)?, real(&file)?);
    let lock = match place.strip_prefix(&here) {
        Ok(inner) => format!("./{}", inner.display()),
        Err(_) => place.display().to_string(),
    };
    // A path of Nix has no quotes, and not every character.
    let fits = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    let lock = if lock.chars().all(fits) { lock } else { format!("(/. + {})", string(&place.display().to_string())) };
    Ok(Pinned { lock, images })
}

/// What is to be known of a whole import beside its account.
fn notes(imported: &mut Imported) {
    let said = bounded::read(Path::new("/proc/meminfo"), Cap::Settings).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let there =
        line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map(|kib| kib << 10);
    if let Some(there) = there.filter(|there| imported.memory > *there) {
        imported.notes.push(format!(
            "the memory limits of all containers together are {}, and this host has {}: lower `memory` of some, or give it more",
            size(imported.memory),
            size(there)
        ));
    }
}

fn run_export(args: &ComposeExportArgs, printer: &Printer) -> Result<()> {
    let compose = export(&args.stack)?;
    let output = args.output.as_deref().filter(|output| !is_stream(output));
    if args.output.is_some() && output.is_none() && printer.json() {
        return Err(usage("--output - and --json both are the result; give --output a file"));
    }
    if let Some(output) = output {
        write(output, &compose, printer)?;
    }
    if printer.json() {
        return printer.value(&ComposeExportReport { output: args.output.clone(), compose });
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

/// The account as a table.
fn account(imported: &Imported, all: bool) -> Vec<Vec<String>> {
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
    let head = ["line", "service", "key", "now", "why"].map(str::to_owned).to_vec();
    let rows = rows.into_iter().map(|(_, row)| row.to_vec());
    std::iter::once(head).filter(|_| rows.len() > 0).chain(rows.clone()).collect()
}

fn cells(row: &AccountRow) -> [String; 5] {
    let now = match row.fate {
        Fate::Left => "-".to_owned(),
        Fate::Taken if row.to.is_empty() => "nothing to do".to_owned(),
        Fate::Taken => row.to.clone(),
    };
    let line = row.file.as_ref().map_or_else(|| row.line.to_string(), |file| format!("{file}:{}", row.line));
    [line, row.service.clone().unwrap_or_default(), row.key.clone(), now, row.why.clone()]
}

fn sentence(counts: Counts) -> String {
    let Counts { services, ai_stack, others, left_out, provided, taken, left } = counts;
    let others = count(others, "other");
    let provided = if provided > 0 { format!(", {provided} run by a provider") } else { String::new() };
    let left_out = if left_out > 0 { format!(", {left_out} left out by profile") } else { String::new() };
    format!(
        "{}: {ai_stack} of the AI stack, {others}{left_out}{provided}; {} taken over, {left} not, each with its reason",
        count(services, "service"),
        count(taken, "key")
    )
}
