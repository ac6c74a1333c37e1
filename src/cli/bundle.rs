//! `windlass export --bundle`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::export::{ExportArgs, check_space};
use super::failure::{Result, usage};
use super::printer::{Printer, count, size};
use super::session::Session;
use super::targets::lean;
use crate::build::bundle::ImageBundle;
use crate::build::stack::StackDir;
use crate::disk::files::free_space;
use crate::disk::size::parse_size;
use crate::image::layout::ImageDir;

#[derive(Debug, clap::Args)]
pub(super) struct BundleArgs {
    /// Write a bundle into this directory, or bring the one that is there up to date.
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub(super) bundle: Option<PathBuf>,
    /// Cut blobs of a bundle that are larger than this into parts: `4294967295` for FAT32.
    #[arg(long, value_name = "SIZE", value_parser = file_size, requires = "bundle")]
    max_file: Option<u64>,
    /// Only the models, for a bundle beside one that is made `--without models`.
    #[arg(long, requires = "bundle", conflicts_with = "without")]
    only_models: bool,
    /// Only say what of a bundle would be written.
    #[arg(long, requires = "bundle")]
    dry_run: bool,
}

fn file_size(text: &str) -> std::result::Result<u64, String> {
    match parse_size(text)? {
        0 => Err("no blob has 0 bytes".to_owned()),
        size => Ok(size),
    }
}

/// What a bundle holds, and what was done, or would be.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BundleReport {
    bundle: PathBuf,
    dry_run: bool,
    images: usize,
    models: usize,
    /// Blobs of layers.
    blobs: usize,
    /// How many of them are cut into parts.
    cut: usize,
    /// Bytes of all of them.
    bytes: u64,
    /// Bytes of those that were not there.
    missing: u64,
    /// Free space before anything was written.
    free: u64,
    read: u64,
    written: u64,
    /// Bytes that the file system shares with the store.
    cloned: u64,
    /// Files that the bundle had and has no more.
    removed: usize,
}

pub(super) fn run(args: &ExportArgs, directory: &Path, printer: &Printer, session: &Session) -> Result<()> {
    let BundleArgs { max_file, only_models, dry_run, .. } = args.bundle;
    let without_models = match &args.without[..] {
        [] => false,
        words if words.iter().all(|word| word == "models") => true,
        _ => return Err(usage("--without of a bundle takes only `models`")),
    };
    let mut bundle = ImageBundle::new(max_file);
    for from in &args.from {
        let from = &lean(from);
        match from.join("stack.json").is_file() {
            true => bundle.add_stack(StackDir::open(from)?)?,
            false => bundle.add_image(ImageDir::open(from)?)?,
        }
    }
    bundle.keep(!only_models, !without_models);
    let (images, models) = bundle.counts();
    if images + models == 0 {
        return Err(usage(if only_models {
            "there is no model in what was given"
        } else {
            "nothing but models was given"
        }));
    }
    let plan = bundle.plan(directory)?;
    let (missing, progress) = (plan.missing(), session.progress());
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let free = free_space(there)?;
    let all: Vec<_> = bundle.all().map(|image| (image.clone(), bundle.without(image))).collect();
    check_space(&all, missing, (directory, there))?;
    let mut removed = 0;
    if !dry_run {
        progress.expect(plan.size());
        let drawing = session.draw("exporting");
        removed = bundle.write(directory, args.verify.of(bundle.all()), progress)?;
        drop(drawing);
    }
    let report = BundleReport {
        bundle: directory.to_owned(),
        dry_run,
        images,
        models,
        blobs: plan.blobs(),
        cut: plan.cut(),
        bytes: plan.size(),
        missing,
        free,
        read: progress.read(),
        written: progress.written(),
        cloned: progress.cloned(),
        removed,
    };
    if printer.json() {
        return printer.value(&report);
    }
    let cut = if report.cut > 0 { format!(" ({} cut into parts)", report.cut) } else { String::new() };
    let what = format!(
        "{}: {}, {}, {}{cut} of {}",
        directory.display(),
        count(images, "image"),
        count(models, "model"),
        count(report.blobs, "layer"),
        size(report.bytes)
    );
    if dry_run {
        return printer.line(format!("{what}; {} to write, {} free in {}", size(missing), size(free), there.display()));
    }
    let removed = if removed > 0 { format!(", removed {}", count(removed, "old file")) } else { String::new() };
    let [read, written, cloned] = [report.read, report.written, report.cloned].map(size);
    printer.line(format!("{what}; read {read}, wrote {written}, shared {cloned} with the store{removed}"))
}
