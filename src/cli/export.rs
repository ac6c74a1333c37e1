//! `windlass export`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::failure::{NoSpace, Usage};
use super::printer::{Printer, size};
use super::session::Session;
use crate::archive::{self, Options, Without};
use crate::blobs::{At, Staging, Verify, free_space};
use crate::digest::Digest;
use crate::layout::ImageDir;
use crate::stack::{ModelArchive, StackDir, write_archives};

/// Write an image or a stack in a form that other tools read.
///
/// An image becomes one tar file that is an OCI archive and a docker-archive at once (`podman load`, `docker load`), or
/// an OCI directory (`skopeo copy oci:DIR:REF …`). A lean stack becomes a directory of archives: every model once, the
/// images without the weights, and a load.sh. On XFS and Btrfs the weights are shared with the store, not copied.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An image directory or a lean stack.
    from: PathBuf,
    /// Where to write; replaced in one step if it is there.
    #[arg(short, long)]
    output: PathBuf,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Format::Archive)]
    format: Format,
    /// Leave layers out that the other side has: `models`, or a layer's digest. Repeatable.
    #[arg(long, value_name = "LAYER|models")]
    without: Vec<String>,
    /// How far to compare layers with their digests while they are written.
    #[arg(long, value_enum, default_value_t = Check::Auto)]
    verify: Check,
}

/// What `windlass export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// One tar file, OCI archive and docker-archive at once; for a stack a directory of them.
    Archive,
    /// An OCI directory.
    Oci,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Check {
    /// Whenever the bytes are read anyway, that is, where data cannot be shared.
    Auto,
    /// Always.
    Always,
    /// Never: trust the store.
    Never,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    output: PathBuf,
    read: u64,
    written: u64,
    cloned: u64,
    without: Vec<Digest>,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let is_stack = args.from.join("stack.json").is_file();
    let (without, left_out, payload) = if is_stack {
        if !args.without.is_empty() {
            return Err(Usage(
                "--without is for one image; a stack's images are always without their models".to_owned(),
            )
            .into());
        }
        let stack = StackDir::open(&args.from)?;
        let models = Without { models: true, ..Without::default() };
        let images: u64 = stack.images.iter().map(|image| archive::payload(image, &models)).sum();
        let models: u64 = stack.models.iter().map(|(_, model)| archive::payload(model, &Without::default())).sum();
        (Without::default(), Vec::new(), images + models)
    } else {
        let image = ImageDir::open(&args.from)?;
        let without = without(&image, &args.without)?;
        let layers = image.summary().layers();
        let left_out = layers.into_iter().filter(|layer| without.leaves_out(layer)).map(|layer| layer.digest).collect();
        let payload = archive::payload(&image, &without);
        progress.expect(payload);
        (without, left_out, payload)
    };
    let verify = match args.verify {
        Check::Auto => Verify::Auto,
        Check::Always => Verify::Always,
        Check::Never => Verify::Never,
    };
    let parent = args.output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let free = free_space(parent)?;
    // Where data is shared less is needed, so a file system that can share is given the benefit of the doubt.
    if free < payload && !shares(&args.from, parent) {
        let message = format!(
            "{} needs {} and {} has {} free; free some, or write elsewhere",
            args.output.display(),
            size(payload),
            parent.display(),
            size(free)
        );
        return Err(NoSpace(message).into());
    }
    let directory = is_stack || args.format == Format::Oci;
    if args.output.exists() && args.output.is_dir() != directory {
        bail!(Usage(format!("{} is there and is something else; give another --output", args.output.display())));
    }
    if directory
        && args.output.is_dir()
        && !["oci-layout", "stack.json"].iter().any(|name| args.output.join(name).is_file())
    {
        bail!(Usage(format!("{} exists, and windlass did not write it; give another --output", args.output.display())));
    }
    let staging = if directory { Staging::directory(&args.output)? } else { Staging::file(&args.output)? };
    let drawing = session.draw("exporting");
    let options = Options { without: &without, verify, progress };
    if directory {
        // `write` makes the directory itself, as it must for Nix.
        std::fs::remove_dir(staging.path()).at("prepare", staging.path())?;
    }
    write(&args.from, args.format, staging.path(), &BTreeMap::new(), options)?;
    staging.publish()?;
    drop(drawing);
    let report = Report {
        output: args.output.clone(),
        read: progress.read(),
        written: progress.written(),
        cloned: progress.cloned(),
        without: left_out,
    };
    if printer.json() {
        return printer.value(&report);
    }
    for digest in &report.without {
        printer.line(format!("left out {digest}"))?;
    }
    printer.line(format!(
        "{}: read {}, wrote {}, shared {} with the store",
        args.output.display(),
        size(report.read),
        size(report.written),
        size(report.cloned)
    ))
}

/// Writes to `output`, which does not exist or is an empty file.
pub(super) fn write(
    from: &Path,
    format: Format,
    output: &Path,
    models: &BTreeMap<String, ModelArchive>,
    options: Options<'_>,
) -> Result<()> {
    let create = || std::fs::create_dir(output).at("create", output);
    match (from.join("stack.json").is_file(), format) {
        (true, Format::Archive) => {
            create()?;
            write_archives(&StackDir::open(from)?, output, models, options)?;
        }
        (true, Format::Oci) => bail!(Usage(format!("{} is a stack; --format oci is for one image", from.display()))),
        (false, Format::Archive) => drop(archive::write(&ImageDir::open(from)?, output, false, options)?),
        (false, Format::Oci) => {
            create()?;
            archive::write_directory(&ImageDir::open(from)?, output, options)?;
        }
    }
    Ok(())
}

fn without(image: &ImageDir, words: &[String]) -> Result<Without> {
    let mut without = Without { models: false, layers: BTreeSet::new() };
    for word in words {
        if word == "models" {
            without.models = true;
            continue;
        }
        let digest: Digest =
            word.parse().map_err(|_| Usage(format!("--without {word}: expected 'models' or a layer's digest")))?;
        if !image.summary().layers().iter().any(|layer| layer.digest == digest) {
            let message = format!(
                "--without {word}: {} has no such layer; `windlass inspect` lists them",
                image.path().display()
            );
            return Err(Usage(message).into());
        }
        without.layers.insert(digest);
    }
    Ok(without)
}

/// Whether a file of `parent` could share data with the file systems the layers come from; tried with an image's own
/// small file, as good as any.
fn shares(from: &Path, parent: &Path) -> bool {
    let file = ["image.json", "stack.json"].iter().find_map(|name| std::fs::File::open(from.join(name)).ok());
    let probe = tempfile::tempfile_in(parent).context("probe");
    matches!((file, probe), (Some(file), Ok(probe)) if rustix::fs::ioctl_ficlone(&probe, &file).is_ok())
}
