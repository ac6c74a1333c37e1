//! `windlass report`
//!
//! | file | is about |
//! |---|---|
//! | `data` | what is known of the images, as JSON for the page |
//! | `files` | what is in their layers, and how much of it fits |
//! | `changes` | what a host with OLD writes for NEW |
//! | `here` | what this host has |
//! | `html` | the page around it, with the files of `page/` |
//! | `markdown` | the same in a comment for a pull request |

mod changes;
mod data;
mod files;
mod here;
mod html;
mod markdown;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::data::ReportData;
use self::files::ListedFiles;
use super::failure::{Result, usage};
use super::host::HostArgs;
use super::output::{Destination, is_stream};
use super::printer::{Printer, count, size};
use super::session::Session;
use super::targets::targets;
use super::view::short;
use crate::image::layout::ImageDir;
use crate::inventory::Inventory;

const EXAMPLE: &str = "Examples:
  windlass report result --output report.html
  windlass report result --against /run/current-system/stack --output report.html
  windlass report result --host --output report.html        with what of it this host has
  windlass report result --against old --format markdown    a comment for a pull request";

/// Draw a stack, an image or a bundle as one page: which layers its images share, what takes the space, why a store path is there.
///
/// The page is one file, for any browser: it fetches nothing, and what it shows is in it as JSON. It has at most 500 kB, unless
/// its store paths alone take more. Files that are too small for that are counted in their directories, and the page says from which size on it lists them. The same
/// stack gives the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ReportArgs {
    /// A lean stack, a stack of archives beside its lean one, an image directory, or a bundle.
    #[arg(value_name = "STACK|IMAGE|BUNDLE")]
    path: PathBuf,
    /// Also what a host that has OLD would write for it, layer by layer, as `windlass diff` counts it.
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
    /// Also what this host has of it, as `windlass status --sizes`, `generations` and `gc` say.
    #[arg(long)]
    host: bool,
    /// Write it here; replaced in one step if it is there. By default it goes to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What is written.
    #[arg(long, value_enum, default_value_t = ReportFormat::Html)]
    format: ReportFormat,
    #[command(flatten)]
    podman: HostArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ReportFormat {
    /// A page for a browser.
    Html,
    /// A comment for a pull request: bytes to write, packages that come, go or change, and licences.
    Markdown,
}

/// What was drawn, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportWritten {
    output: PathBuf,
    bytes: usize,
    images: usize,
    layers: usize,
    store_paths: usize,
    /// Files of fewer bytes are not listed one by one; 0 where all are.
    files_below: u64,
    /// Layers whose files are not listed, or not all.
    unlisted: usize,
}

pub(super) fn run(args: &ReportArgs, printer: &Printer, session: &Session) -> Result<()> {
    let output = args.output.as_deref().filter(|output| !is_stream(output));
    if output.is_none() && printer.json() {
        return Err(usage("the report and --json both are the result; give --output a file"));
    }
    if output.is_none() && args.format == ReportFormat::Html && io::stdout().is_terminal() {
        return Err(usage("a page is nothing for a terminal").hint("give --output a file: report.html"));
    }
    let progress = session.progress();
    let targets = targets(std::slice::from_ref(&args.path), &[])?;
    let images: Vec<&ImageDir> = targets.iter().map(|target| &target.image).collect();
    let inventory = Inventory::read(&images)?;
    let mut data = ReportData::new(title(&args.path), &inventory);
    if let Some(old) = &args.against {
        data.against = Some(changes::changes(old, &args.path, args.host.then_some(&args.podman), &inventory, &data)?);
    }
    if args.host {
        data.host = Some(here::here(&args.path, &args.podman.host(progress)?, progress)?);
    }
    let page = match args.format {
        ReportFormat::Html => {
            let drawing = session.draw("listing files");
            let listed = ListedFiles::read(&images, &inventory, &mut data, progress)?;
            drop(drawing);
            html::page(&mut data, &listed)
        }
        ReportFormat::Markdown => markdown::markdown(&data, &inventory),
    };
    if args.format == ReportFormat::Html && page.len() > html::MOST {
        printer.note(format!(
            "warning: the page has {}, without any file: that much {} take; report the images one by one for smaller pages",
            size(page.len() as u64),
            count(data.paths.len(), "store path")
        ));
    }
    let Some(output) = output else { return printer.bytes(page.as_bytes()) };
    let target = Destination::new(output)?;
    target.write(&page, printer)?;
    target.publish()?;
    let written = ReportWritten {
        output: output.to_owned(),
        bytes: page.len(),
        images: data.images.len(),
        layers: data.layers.len(),
        store_paths: data.paths.len(),
        files_below: data.below,
        unlisted: data.layers.iter().filter(|layer| layer.unlisted.is_some()).count(),
    };
    if printer.json() {
        return printer.value(&written);
    }
    let files = match written.files_below {
        _ if args.format == ReportFormat::Markdown => "no file is listed".to_owned(),
        0 => "every file is listed".to_owned(),
        below => format!("files of {} and more are listed", size(below)),
    };
    let unlisted = match written.unlisted {
        0 => String::new(),
        layers => format!(", not of {}", count(layers, "layer")),
    };
    printer.line(format!(
        "{}: {}, {}, {}; {files}{unlisted}; {}",
        output.display(),
        count(written.images, "image"),
        count(written.layers, "layer"),
        count(written.store_paths, "store path"),
        size(written.bytes as u64)
    ))
}

/// What the page is called: the name of a store path without its hash, or of the directory.
fn title(path: &Path) -> String {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    short(&real.display().to_string()).to_owned()
}
