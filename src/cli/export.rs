//! `windlass export`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::bundle::{self, BundleArgs};
use super::failure::{Result, no_space, usage};
use super::host::nix_places;
use super::layer_cache;
use super::output::Destination;
use super::printer::{Printer, size};
use super::push::{Packing, warn_of_weights};
use super::session::Session;
use crate::build::stack::{ModelArchive, StackDir, write_archives};
use crate::disk::files::{free_space, parent_of};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, bounded};
use crate::image::archive::{self, ArchiveOptions, Without};
use crate::image::layout::ImageDir;
use crate::image::vouching::vouched;
use crate::layer::output::Verify;
use crate::model::forms::docker_model::docker_model;
use crate::model::forms::modelpack::modelpack;
use crate::model::forms::ollama::{self, ollama};
use crate::oci::digest::Digest;
use crate::publish::model_dir::ModelDir;
use crate::publish::model_forms::is_archive;
use crate::publish::pack;

const EXAMPLE: &str = "Examples:
  windlass export result --output app.tar                                    podman load -i app.tar
  windlass export result --output app.tar --compression zstd                 for a slow line
  windlass export model --format modelpack --output smollm2                  skopeo copy oci:smollm2 docker://…
  windlass export model --format docker-model --output smollm2.dmr.tar       POST it to Docker Model Runner's models/load
  windlass export result --format erofs-cache --output /var/lib/erofs-cache  containerd 2.4 mounts the layers from there
  windlass export model --format ollama --output models                      OLLAMA_MODELS=$PWD/models ollama serve
  windlass export result --bundle /media/stick/ai --max-file 4294967295       windlass load /media/stick/ai
  windlass export result --bundle /media/stick/new --since /media/stick/ai    windlass load /media/stick/new";

/// Write an image or a stack in a form that other tools read.
///
/// An image becomes one tar file that is an OCI archive and a docker-archive at once (`podman load`, `docker load`), or
/// an OCI directory (`skopeo copy oci:DIR:REF …`). A lean stack becomes a directory of archives: every model once, the
/// images without the weights, and a load.sh. On XFS and Btrfs the weights are shared with the store, not copied.
///
/// A model becomes what other tools take for one: an artifact, as an OCI directory or, where --output ends with .tar, as one
/// file; or Ollama's directory. Weights in the Nix store are linked there where they cannot be shared.
///
/// With --format erofs-cache, the layers of stacks, images and models become EROFS file systems in a folder that containerd 2.4 looks into
/// (`layer_content_caches`): it mounts them instead of unpacking. Layers that the folder has are left as they are.
///
/// With --bundle, stacks, images and models become one directory for hosts without Nix and without a network: an OCI image
/// layout that skopeo and others take images from by name, with all that `windlass load DIR` needs. Blobs that are there are
/// not written again, and those that nothing names any more are removed; a run that was stopped is finished by the next.
///
/// With --since the bundle is a delta: layers that OLD has are left out, and `windlass load` finds them in Podman. Each image
/// says which older one it expects, in `index.json` for other tools too, as oci-delta does. With --patch, layers that changed go
/// as the bytes that are new in them.
///
/// With --platform only these platforms of an image are in it; the digest stays. With --tar there is one archive for each image
/// instead of a layout, whole unless --without models or --since leave layers out: for hosts without windlass.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ExportArgs {
    /// An image directory or a lean stack; several for a bundle.
    #[arg(required = true, value_name = "STACK|IMAGE")]
    pub(super) from: Vec<PathBuf>,
    /// Where to write; replaced in one step if it is there. One file goes to standard output with `-`.
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) bundle: BundleArgs,
    /// What to write.
    #[arg(long, value_enum, default_value_t = ExportFormat::Archive, conflicts_with = "bundle")]
    format: ExportFormat,
    /// Leave layers out that the other side has: `models`, or a layer's digest. Repeatable.
    #[arg(long, value_name = "LAYER|models")]
    pub(super) without: Vec<String>,
    /// How to pack layers. Those that came packed go as they are; the manifest is another one, the image's ID stays.
    #[arg(long, value_enum, default_value_t = Packing::None, conflicts_with = "bundle")]
    pub(super) compression: Packing,
    /// How far to compare layers with their digests while they are written.
    #[arg(long, value_enum, default_value_t = ExportCheck::Auto)]
    pub(super) verify: ExportCheck,
}

/// What `windlass export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ExportFormat {
    /// One tar file, OCI archive and docker-archive at once; for a stack a directory of them.
    Archive,
    /// An OCI directory.
    Oci,
    /// For a model: a CNCF ModelPack artifact.
    Modelpack,
    /// For a model: an artifact for Docker Model Runner.
    DockerModel,
    /// For a model: Ollama's directory, with this model in it.
    Ollama,
    /// Layers as EROFS file systems, by diff ID: a layer cache of containerd 2.4. What is there stays.
    ErofsCache,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum ExportCheck {
    /// Unless data is shared (XFS, Btrfs) for which the Nix store vouches.
    Auto,
    /// Even if that means reading what could have been shared, and the blobs that a bundle has already.
    Always,
    /// Not at all: trust the store.
    Never,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExportReport {
    output: PathBuf,
    read: u64,
    written: u64,
    cloned: u64,
    without: Vec<Digest>,
    /// The layers that a layer cache had already, by diff ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    present: Option<Vec<Digest>>,
}

pub(super) fn run(args: &ExportArgs, printer: &Printer, session: &Session) -> Result<()> {
    if let Some(directory) = &args.bundle.bundle {
        return bundle::run(args, directory, printer, session);
    }
    let Some(output) = &args.output else {
        return Err(usage("say where to write: --output PATH, or --bundle DIR for a bundle"));
    };
    if args.format == ExportFormat::ErofsCache {
        return layer_cache::run(args, output, printer, session);
    }
    let [from] = &args.from[..] else {
        return Err(usage("several stacks and images go into a bundle: give --bundle DIR instead of --output"));
    };
    let progress = session.progress();
    let is_stack = from.join("stack.json").is_file();
    let mut without = Without::default();
    let images: Vec<(ImageDir, Without)> = if is_stack {
        if !args.without.is_empty() {
            let message = "--without is for one image; a stack's images are always without their models";
            return Err(usage(message));
        }
        let stack = StackDir::open(from)?;
        let models = stack.models.into_iter().map(|(_, model)| (model, Without::default()));
        let weightless = Without { models: true, ..Without::default() };
        models.chain(stack.images.into_iter().map(|image| (image, weightless.clone()))).collect()
    } else {
        let image = ImageDir::open(from)?;
        without = parse_without(&image, &args.without)?;
        progress.expect(archive::payload(&image, &without));
        vec![(image, without.clone())]
    };
    let is_file = match args.format {
        ExportFormat::Archive => !is_stack,
        ExportFormat::Oci | ExportFormat::Ollama | ExportFormat::ErofsCache => false,
        ExportFormat::Modelpack | ExportFormat::DockerModel => is_archive(output),
    };
    if args.format.is_of_models() && !args.without.is_empty() {
        return Err(usage("--without is for images; a model is written whole"));
    }
    if args.compression != Packing::None && (args.format.is_of_models() || is_stack) {
        // What a stack's archives leave out is found again by the digests of the build.
        let message =
            "--compression is for one image; the archives of a stack and the files of an artifact go as they are";
        return Err(usage(message));
    }
    let written = images
        .iter()
        .flat_map(|(image, without)| image.summary().layers().into_iter().filter(|layer| !without.leaves_out(layer)));
    warn_of_weights(written, args.compression, printer);
    let directory = !is_file;
    check_target(output, directory)?;
    let target = if directory { Destination::File(Staging::directory(output)?) } else { Destination::new(output)? };
    if !target.is_through() {
        let payload = images.iter().map(|(image, without)| archive::payload(image, without)).sum();
        check_space(&images, payload, (output, &parent_of(output)))?;
    } else if args.compression != Packing::None {
        let message = "--compression packs into a folder beside --output; give --output a file";
        return Err(usage(message));
    }
    if printer.json() && matches!(target, Destination::Stream) {
        return Err(usage("--output - and --json both are the result; give --output a file"));
    }
    let path = target.path()?;
    let drawing = session.draw("exporting");
    let verify = args.verify.of(images.iter().map(|(image, _)| image));
    let options = ArchiveOptions { without: &without, verify, progress };
    match args.format.is_of_models() && !is_stack {
        true => write_model(from, args.format, is_file, path, options)?,
        false if args.compression == Packing::None => {
            write(from, args.format, path, &BTreeMap::new(), options)?;
        }
        false => write_packed(args, (from, output), path, options)?,
    }
    let streams = matches!(target, Destination::Stream);
    target.publish()?;
    drop(drawing);

    let report = ExportReport::new(output, &images, progress);
    if printer.json() {
        return printer.value(&report);
    }
    if streams {
        printer.note(format!("read {}, wrote {}", size(report.read), size(report.written)));
        return Ok(());
    }
    // That a stack's images are without their models goes without saying.
    if !is_stack {
        report.print_left_out(printer)?;
    }
    report.print(printer)
}

impl ExportReport {
    /// What was written to `output` of these images.
    pub(super) fn new(output: &Path, images: &[(ImageDir, Without)], progress: &Progress) -> Self {
        let left_out = |(image, without): &(ImageDir, Without)| {
            let layers = image.summary().layers().into_iter().filter(|layer| without.leaves_out(layer));
            layers.map(|layer| layer.digest).collect::<Vec<_>>()
        };
        let without: BTreeSet<Digest> = images.iter().flat_map(left_out).collect();
        let (read, written, cloned) = (progress.read(), progress.written(), progress.cloned());
        Self { output: output.to_owned(), read, written, cloned, without: without.into_iter().collect(), present: None }
    }

    /// The same of a layer cache that had these layers.
    pub(super) fn with_present(self, present: BTreeSet<Digest>) -> Self {
        Self { present: Some(present.into_iter().collect()), ..self }
    }

    /// Names the layers that are not in it.
    pub(super) fn print_left_out(&self, printer: &Printer) -> Result<()> {
        self.without.iter().try_for_each(|digest| printer.line(format!("left out {digest}")))
    }

    /// Says what it cost.
    pub(super) fn print(&self, printer: &Printer) -> Result<()> {
        let [read, written, cloned] = [self.read, self.written, self.cloned].map(size);
        let output = self.output.display();
        printer.line(format!("{output}: read {read}, wrote {written}, shared {cloned} with the store"))
    }
}

impl ExportCheck {
    /// Whether all is to be read.
    pub(super) const fn is_always(self) -> bool {
        matches!(self, Self::Always)
    }

    /// What that means for these images: what no Nix vouches for is read, even where the file system shares it.
    pub(super) fn of<'a>(self, images: impl Iterator<Item = &'a ImageDir> + Clone) -> Verify {
        match self {
            Self::Auto if vouched(&nix_places(), images.clone()).len() < images.count() => Verify::Always,
            Self::Auto => Verify::Auto,
            Self::Always => Verify::Always,
            Self::Never => Verify::Never,
        }
    }
}

/// Refuses before anything is written what cannot fit.
pub(super) fn check_space(
    images: &[(ImageDir, Without)],
    payload: u64,
    (output, parent): (&Path, &Path),
) -> Result<()> {
    let free = free_space(parent)?;
    // Where data is shared less is needed, and how much cannot be known before.
    if free >= payload || shares(images, parent) {
        return Ok(());
    }
    let (output, parent) = (output.display(), parent.display());
    let message =
        format!("{output} needs {} and {parent} has {} free; free some, or write elsewhere", size(payload), size(free));
    Err(no_space(message))
}

/// Refuses to replace what an export did not write.
fn check_target(output: &Path, directory: bool) -> Result<()> {
    let ours =
        || ["oci-layout", "stack.json", "manifests/registry.ollama.ai"].iter().any(|name| output.join(name).exists());
    if !directory {
        // `Destination` says what a file may replace.
        return Ok(());
    }
    if output.exists() && (output.is_dir() != directory || (directory && !ours())) {
        let message = format!("{} exists, and windlass did not write it; give another --output", output.display());
        return Err(usage(message));
    }
    Ok(())
}

impl ExportFormat {
    /// Whether it is a form of a model.
    fn is_of_models(self) -> bool {
        matches!(self, Self::Modelpack | Self::DockerModel | Self::Ollama)
    }
}

/// Writes a form of a model to `output`, which is an empty file or directory.
fn write_model(
    from: &Path,
    format: ExportFormat,
    is_file: bool,
    output: &Path,
    options: ArchiveOptions<'_>,
) -> Result<()> {
    let ArchiveOptions { verify, progress, .. } = options;
    let model = ModelDir::open(&ImageDir::open(from)?)?;
    let artifact = match format {
        ExportFormat::Ollama => {
            let ollama = ollama(&model.model, &ollama::ModelfileOptions::default())?;
            return Ok(model.write_ollama(&ollama, output, verify, progress)?);
        }
        ExportFormat::DockerModel => docker_model(&model.model),
        _ => modelpack(&model.model),
    };
    match is_file {
        true => model.write_archive(&artifact, output, verify, progress)?,
        false => model.write_directory(&artifact, output, verify, progress)?,
    }
    Ok(())
}

/// Writes to `output`, which does not exist, or is an empty file or directory.
pub(super) fn write(
    from: &Path,
    format: ExportFormat,
    output: &Path,
    models: &BTreeMap<String, ModelArchive>,
    options: ArchiveOptions<'_>,
) -> Result<()> {
    let create = || std::fs::create_dir_all(output).at("create", output);
    match (from.join("stack.json").is_file(), format) {
        (true, ExportFormat::Archive) => {
            create()?;
            write_archives(&StackDir::open(from)?, output, models, options)?;
        }
        (true, format) => {
            let name = format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            return Err(usage(format!("{} is a stack; --format {name} is for one image", from.display())));
        }
        (false, ExportFormat::Archive) => drop(archive::write(&ImageDir::open(from)?, output, false, options)?),
        (false, ExportFormat::ErofsCache) => {
            return Err(usage("a layer cache is no archive; `windlass export --format erofs-cache` writes one"));
        }
        (false, ExportFormat::Oci) => {
            create()?;
            archive::write_directory(&ImageDir::open(from)?, output, options)?;
        }
        (false, ExportFormat::Modelpack | ExportFormat::DockerModel | ExportFormat::Ollama) => {
            create()?;
            write_model(from, format, false, output, options)?;
        }
    }
    Ok(())
}

/// Writes an image with packed layers to `output`, which is an empty file or directory.
fn write_packed(
    args: &ExportArgs,
    (from, target): (&Path, &Path),
    output: &Path,
    options: ArchiveOptions<'_>,
) -> Result<()> {
    let (image, with) = (ImageDir::open(from)?, args.compression.compression());
    if args.format == ExportFormat::Oci {
        return Ok(pack::write_directory(&image, with, output, options)?);
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".layers");
    let layers = Staging::directory(&target.with_file_name(name))?;
    Ok(pack::write_archive(&image, with, output, layers.path(), options)?)
}

pub(super) fn parse_without(image: &ImageDir, words: &[String]) -> Result<Without> {
    let mut without = Without { models: false, layers: BTreeSet::new() };
    for word in words {
        if word == "models" {
            without.models = true;
            continue;
        }
        let digest: Digest =
            word.parse().map_err(|_| usage(format!("--without {word}: expected 'models' or a layer's digest")))?;
        if !image.summary().layers().iter().any(|layer| layer.digest == digest) {
            let message = format!("--without {word}: {} has no such layer", image.path().display());
            return Err(usage(message).hint("`windlass inspect` lists them"));
        }
        without.layers.insert(digest);
    }
    Ok(without)
}

/// Whether files of `parent` can share data with what the layers are made from; tried with the first file there is.
fn shares(images: &[(ImageDir, Without)], parent: &Path) -> bool {
    let layers = images
        .iter()
        .flat_map(|(image, without)| image.summary().layers().into_iter().filter(|layer| !without.leaves_out(layer)));
    let mut owners = layers.flat_map(|layer| &layer.owners).map(Path::new);
    let file = owners.find(|path| path.is_file()).and_then(|path| bounded::open(path).ok());
    let probe = tempfile::tempfile_in(parent);
    matches!((file, probe), (Some(file), Ok(probe)) if rustix::fs::ioctl_ficlone(&probe, &file).is_ok())
}
