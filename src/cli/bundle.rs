//! `windlass export --bundle`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::attest::statement_files;
use super::export::{ExportArgs, check_space};
use super::failure::{Context, Result, usage};
use super::host::HostArgs;
use super::input;
use super::printer::{Printer, count, size};
use super::session::Session;
use super::targets::lean;
use crate::build::bundle::BundleWritten;
use crate::build::bundle_content::ImageBundle;
use crate::build::since::OldImages;
use crate::build::stack::StackDir;
use crate::disk::files::free_space;
use crate::disk::size::parse_size;
use crate::engine::Engine as _;
use crate::image::layout::ImageDir;
use crate::image::referrer::ImageStatement;
use crate::image::summary::ExpectedImage;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::signing::sigstore_bundle::SigstoreBundle;
use crate::signing::statement::DsseEnvelope;

#[derive(Debug, clap::Args)]
pub(super) struct BundleArgs {
    /// Write a bundle into this directory, or bring the one that is there up to date.
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub(super) bundle: Option<PathBuf>,
    /// Cut blobs of a bundle that are larger than this into parts: `4294967295` for FAT32.
    #[arg(long, value_name = "SIZE", value_parser = file_size, requires = "bundle")]
    max_file: Option<u64>,
    /// Write one archive for each image and model, for `podman load -i`, `docker load` and `ctr images import`.
    #[arg(long, requires = "bundle", conflicts_with = "max_file")]
    tar: bool,
    /// Only the models, for a bundle beside one that is made `--without models`.
    #[arg(long, requires = "bundle", conflicts_with = "without")]
    only_models: bool,
    /// Only these platforms of images that have several; one without a variant means all variants. Repeatable.
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]", requires = "bundle")]
    platforms: Vec<Platform>,
    /// Leave out what OLD has: a bundle, a stack, an image directory, a `stack.json` alone, or `generation:7` of this host.
    #[arg(long, value_name = "OLD", requires = "bundle", value_parser = old_place)]
    since: Option<OldPlace>,
    /// With --since: tell layers that changed by what the old ones have of them, where that has less than half of the bytes.
    /// Such layers only windlass can load, and only where the old ones are.
    #[arg(long, requires = "since", conflicts_with = "tar")]
    patch: bool,
    /// Take along what is stated of the images: a directory that `attest --output` has written. `push` of the bundle puts it
    /// beside them.
    #[arg(long, value_name = "DIR", requires = "bundle", conflicts_with = "tar")]
    statements: Option<PathBuf>,
    /// Only say what of a bundle would be written.
    #[arg(long, requires = "bundle")]
    dry_run: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// What a delta is made against.
#[derive(Debug, Clone)]
enum OldPlace {
    Path(PathBuf),
    Generation(u64),
}

fn old_place(text: &str) -> std::result::Result<OldPlace, String> {
    let Some(number) = text.strip_prefix("generation:") else { return Ok(OldPlace::Path(text.into())) };
    number.parse().map(OldPlace::Generation).map_err(|_| format!("{number} is no number of a generation"))
}

/// What there was before.
fn old_images(args: &BundleArgs, directory: &Path, printer: &Printer, session: &Session) -> Result<Option<OldImages>> {
    match &args.since {
        None => Ok(None),
        Some(OldPlace::Path(path)) => {
            let there = input::there(path).and_then(|()| Ok(std::fs::canonicalize(path)?))?;
            if std::fs::canonicalize(directory).is_ok_and(|directory| there.starts_with(directory)) {
                let message =
                    format!("--since {} is the bundle that would be written; give another --bundle", path.display());
                return Err(usage(message));
            }
            Ok(Some(OldImages::at(path)?))
        }
        Some(OldPlace::Generation(number)) => {
            let generation = args.host.host(session.progress())?.generations().read(*number)?;
            let mut old = Vec::new();
            for entry in &generation.entries {
                match ImageDir::open(&entry.directory) {
                    Ok(image) => old.push(image),
                    Err(error) => {
                        printer.note(format!("{} of generation {number} is not left out: {error}", entry.reference));
                    }
                }
            }
            Ok(Some(OldImages::in_directories(old)))
        }
    }
}

/// Takes along the statements of a directory.
fn carry(folder: &Path, bundle: &mut ImageBundle) -> Result<()> {
    let digests: Vec<Digest> = bundle.all().map(|image| image.summary().digest).collect();
    for (file, bytes) in statement_files(folder)? {
        let signed: SigstoreBundle = serde_json::from_slice(&bytes).with_context(|| file.display().to_string())?;
        let Some((stated, _)) = signed.dsse_envelope.as_ref().and_then(DsseEnvelope::statement) else {
            return Err(usage(format!("{}: it states nothing; give a directory of `attest --output`", file.display())));
        };
        let statement = ImageStatement { predicate_type: stated.predicate_type.clone(), bytes };
        let about = digests.iter().filter(|digest| stated.is_about(**digest));
        let carried = about.filter(|digest| bundle.carry(**digest, &statement)).count();
        if carried == 0 {
            return Err(usage(format!("{} is about no image of the bundle", file.display())));
        }
    }
    Ok(())
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
    /// Blobs of layers, or archives.
    blobs: usize,
    /// How many of them are patches; known when they are written.
    patched: usize,
    /// How many of them are cut into parts.
    cut: usize,
    /// Bytes of all of them.
    bytes: u64,
    /// The same of a bundle that leaves nothing out for `--since`.
    full: u64,
    /// Bytes that a host writes which loads it and has what is left out: those of the layers, unpacked.
    target_writes: u64,
    /// The images that are expected there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expects: Vec<ExpectedImage>,
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
    let BundleArgs { max_file, tar, only_models, dry_run, .. } = args.bundle;
    let old = old_images(&args.bundle, directory, printer, session)?;
    let is_delta = old.is_some();
    let without_models = match &args.without[..] {
        [] => false,
        words if words.iter().all(|word| word == "models") => true,
        _ => return Err(usage("--without of a bundle takes only `models`")),
    };
    let mut bundle = ImageBundle::new(max_file);
    bundle.compare = args.verify.is_always();
    for from in &args.from {
        let from = &lean(from);
        match from.join("stack.json").is_file() {
            true => bundle.add_stack(StackDir::open(from)?)?,
            false => bundle.add_image(ImageDir::open(from)?)?,
        }
    }
    bundle.keep(!only_models, !without_models);
    if !args.bundle.platforms.is_empty() {
        bundle.only(&args.bundle.platforms)?;
    }
    if let Some(old) = old {
        bundle.since(old, args.bundle.patch);
    }
    if let Some(folder) = &args.bundle.statements {
        carry(folder, &mut bundle)?;
    }
    let (images, models) = bundle.counts();
    if images + models == 0 {
        return Err(usage(if only_models {
            "there is no model in what was given"
        } else {
            "nothing but models was given"
        }));
    }
    let progress = session.progress();
    let (blobs, cut, bytes, missing) = if tar {
        let plan = bundle.plan_archives(directory)?;
        let repeated = plan.repeated();
        if repeated > 0 {
            printer.note(format!(
                "{} of weights are in more than one archive; a bundle without --tar has each layer once, or make two: \
                 --only-models, and --without models",
                size(repeated)
            ));
        }
        (plan.archives(), 0, plan.size(), plan.missing())
    } else {
        let plan = bundle.plan(directory)?;
        (plan.blobs(), plan.cut(), plan.size(), plan.missing())
    };
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let free = free_space(there)?;
    let all: Vec<_> = bundle.all().map(|image| (image.clone(), bundle.without(image))).collect();
    check_space(&all, missing, (directory, there))?;
    let mut done = BundleWritten::default();
    if !dry_run {
        progress.expect(bytes);
        let drawing = session.draw("exporting");
        let verify = args.verify.of(bundle.all());
        done = match tar {
            true => bundle.write_archives(directory, verify, progress)?,
            false => bundle.write(directory, verify, progress)?,
        };
        drop(drawing);
    }
    let BundleWritten { removed, patched, saved } = done;
    let (bytes, missing) = (bytes - saved, missing.saturating_sub(saved));
    let (full, target_writes) = bundle.sizes();
    let report = BundleReport {
        full,
        target_writes,
        expects: bundle.expected(),
        bundle: directory.to_owned(),
        dry_run,
        images,
        models,
        blobs,
        patched,
        cut,
        bytes,
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
    let patched = if report.patched > 0 { format!(" ({} of them patches)", report.patched) } else { String::new() };
    let cut = if report.cut > 0 { format!(" ({} cut into parts)", report.cut) } else { String::new() };
    for ExpectedImage { reference, digest, layers, .. } in &report.expects {
        let layers = count(layers.len(), "layer");
        printer.line(format!("expects {layers} of {reference} ({digest}) where it is loaded"))?;
    }
    let delta = match is_delta {
        true => format!(" instead of {}; {} to write where the rest is", size(full), size(target_writes)),
        false => String::new(),
    };
    let what = format!(
        "{}: {}, {}, {}{cut}{patched} of {}{delta}",
        directory.display(),
        count(images, "image"),
        count(models, "model"),
        count(report.blobs, if tar { "archive" } else { "layer" }),
        size(report.bytes)
    );
    if dry_run {
        let most = if args.bundle.patch { " at most" } else { "" };
        return printer.line(format!(
            "{what}{most}; {} to write, {} free in {}",
            size(missing),
            size(free),
            there.display()
        ));
    }
    let removed = if removed > 0 { format!(", removed {}", count(removed, "old file")) } else { String::new() };
    let [read, written, cloned] = [report.read, report.written, report.cloned].map(size);
    printer.line(format!("{what}; read {read}, wrote {written}, shared {cloned} with the store{removed}"))
}
