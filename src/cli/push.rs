//! `windlass push`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::{Result, usage};
use super::model::ArtifactFormat;
use super::printer::{Printer, count, size};
use super::registry::RegistryArgs;
use super::session::Session;
use super::signing::{public_key, signer};
use super::upstream::home;
use crate::attest::attach::Attacher;
use crate::attest::published::manifests;
use crate::build::lint;
use crate::build::stack::StackDir;
use crate::image::layout::ImageDir;
use crate::image::summary::ImageKind;
use crate::image::{LayerKind, LayerRecord};
use crate::oci::compression::Compression;
use crate::oci::digest::Digest;
use crate::oci::reference::file_name;
use crate::publish::model_dir::ModelDir;
use crate::publish::push::{Pushed, Pusher};
use crate::registry::location::Location;

const EXAMPLE: &str = "Examples:
  windlass push result docker://registry.example/team/app:1.0
  windlass push result docker://127.0.0.1:5000/app --insecure --compression zstd
  windlass push stack docker://registry.example/ai         every image of a lean stack: ai/redis, ai/llama-cpp, …
  windlass push model docker://registry.example/ai/smollm2:1 --format modelpack
  windlass push result docker://registry.example/team/app:1.0 --sign cosign.key
  windlass push result docker://registry.example/team/app:1.0 --compression zstd --packed-by cosign.pub";

/// Push an image, or the images of a lean stack, to a registry.
///
/// Layers are made while they are sent, and none is written to a disk. What the registry has is not sent again. Without
/// compression the digests are those of the build; with it the manifest is another one, always the same, and the image's
/// ID stays.
///
/// What layers became when they were packed is kept beside the image, as a referrer of the manifest as it was built. Another
/// machine that pushes the same image packs nothing: it reads each packed layer out of the registry, and unpacks it to prove that
/// it is the layer; with --packed-by KEY it believes a list that this key has signed, and reads nothing. A list that is wrong is
/// told, and its layers are packed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct PushArgs {
    /// An image directory or a lean stack.
    image: PathBuf,
    /// `docker://REGISTRY/NAME[:TAG]`; by default with the image's own tag. For a stack: what comes before its images'
    /// names.
    #[arg(value_name = "docker://REGISTRY/NAME[:TAG]")]
    to: String,
    /// How to pack layers. Those that came packed go as they are.
    #[arg(long, value_enum, default_value_t = Packing::None)]
    compression: Packing,
    /// Push a model as an artifact instead of an image: the weights are one blob, as they are.
    #[arg(long, value_enum)]
    format: Option<ArtifactFormat>,
    /// Sign what was pushed, as `cosign sign` does: with a key in a file (PEM, or a key of cosign, whose password
    /// COSIGN_PASSWORD has), or with one that `cosign` in PATH knows by its address (`awskms://…`).
    #[arg(long, value_name = "KEY")]
    sign: Option<String>,
    /// Believe what the list of packed layers says that this public key has signed (`--sign` signs it), without a proof.
    #[arg(long, value_name = "FILE")]
    packed_by: Option<PathBuf>,
    /// Plain HTTP; registries on this machine only.
    #[arg(long)]
    insecure: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// How layers are packed where their bytes leave the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Packing {
    /// Not at all: fast, and with the digests of the build.
    None,
    /// What every tool reads.
    Gzip,
    /// Smaller and faster; needs Podman 4 or Docker 23.
    Zstd,
}

impl Packing {
    pub(super) const fn compression(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
        }
    }
}

/// The warning that weights are among the layers that are to be packed.
pub(super) fn warn_of_weights<'a>(mut layers: impl Iterator<Item = &'a LayerRecord>, with: Packing, printer: &Printer) {
    if with != Packing::None && layers.any(|layer| layer.kind == LayerKind::Model) {
        printer.note(format!("warning: {}", lint::PACKED));
    }
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PushReport {
    images: Vec<PushRow>,
    uploaded: usize,
    present: usize,
    mounted: usize,
    bytes: u64,
    /// Layers that another machine had packed.
    packed_elsewhere: usize,
    /// Bytes of them that were read out of the registry to prove it.
    received: u64,
    warnings: Vec<String>,
    /// What is stated of the images, which a bundle carries, and lies beside them now.
    statements: usize,
    /// The digest of the public key of the signatures, where it was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<Digest>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PushRow {
    #[serde(rename = "ref")]
    reference: String,
    /// The digest there; not known before packed layers are made.
    digest: Option<Digest>,
    /// The digest that it was built with.
    built: Digest,
}

pub(super) fn run(args: &PushArgs, printer: &Printer, session: &Session) -> Result<()> {
    let to = place(&args.to)?;
    if args.format.is_some() && args.compression != Packing::None {
        return Err(usage("--compression is for layers of images; the files of an artifact go as they are"));
    }
    if args.packed_by.is_some() && args.compression == Packing::None {
        return Err(usage("--packed-by is for layers that are packed").hint("--compression zstd packs them"));
    }
    let images = destinations(&args.image, &to)?;
    if let Some((image, _)) = images.iter().find(|(image, _)| image.summary().kind != ImageKind::Model)
        && args.format.is_some()
    {
        return Err(usage(format!("{} is not a model; --format is for models", image.path().display())));
    }
    if args.dry_run {
        return tried(&images, args, printer);
    }
    let signer = args.sign.as_deref().map(signer).transpose()?;
    let registries = args.registry.registries()?;
    let cache = home("XDG_CACHE_HOME", ".cache").ok().map(|cache| cache.join("windlass/packed"));
    let compression = args.compression.compression();
    let packed_by = args.packed_by.as_deref().map(public_key).transpose()?;
    let mut pusher = Pusher::new(registries.client(args.insecure), compression, cache.as_deref(), session.progress());
    (pusher.packed_by, pusher.signer) = (packed_by.as_ref(), signer.as_ref());
    warn_of_weights(images.iter().flat_map(|(image, _)| image.summary().layers()), args.compression, printer);
    let drawing = session.draw("pushing");
    let (mut rows, mut statements) = (Vec::new(), 0);
    for (image, at) in &images {
        let tag = at.which();
        let digest = match args.format {
            None => pusher.push(image, at, &tag)?,
            Some(format) => {
                let model = ModelDir::open(image)?;
                pusher.push_model(&model, &format.artifact(&model.model), at, &tag)?
            }
        };
        let carried = if digest == image.summary().digest { image.statements()? } else { Vec::new() };
        if signer.is_some() || !carried.is_empty() {
            let attacher = Attacher { client: registries.client(args.insecure), at, progress: session.progress() };
            for manifest in manifests(attacher.client, &at.with_digest(digest), session.progress())? {
                if let Some(signer) = &signer {
                    attacher.sign(&manifest, signer)?;
                }
                carried.iter().try_for_each(|statement| attacher.carry(&manifest, statement))?;
            }
        }
        statements += carried.len();
        rows.push(PushRow { reference: at.to_string(), digest: Some(digest), built: image.summary().digest });
    }
    drop(drawing);
    let pushed = pusher.pushed();
    let Pushed { uploaded, present, mounted, bytes, packed_elsewhere, received } = pushed;
    let signed_by = signer.as_ref().map(|signer| signer.public().digest);
    let warnings = pusher.warnings();
    warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    let images = rows;
    let report = PushReport {
        images,
        uploaded,
        present,
        mounted,
        bytes,
        packed_elsewhere,
        received,
        warnings,
        statements,
        signed_by,
    };
    if printer.json() {
        return printer.value(&report);
    }
    for PushRow { reference, digest, .. } in &report.images {
        let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        printer.line(format!("{reference}{digest}"))?;
    }
    printer.line(format!(
        "{}: {} uploaded, {present} present, {mounted} mounted; network {}{}{}{}",
        count(report.images.len(), "image"),
        count(uploaded, "blob"),
        size(bytes),
        match (packed_elsewhere, received) {
            (0, _) => String::new(),
            (layers, 0) => format!("; {} packed elsewhere, as the key says", count(layers, "layer")),
            (layers, bytes) => {
                format!("; {} packed elsewhere, {} read to prove it", count(layers, "layer"), size(bytes))
            }
        },
        if statements > 0 { format!("; {} beside them", count(statements, "statement")) } else { String::new() },
        signed_by.map(|key| format!("; signed by the key sha256:{}", key.short())).unwrap_or_default()
    ))
}

/// What would be sent, without a question to the registry, which may have some of it.
fn tried(images: &[(ImageDir, Location)], args: &PushArgs, printer: &Printer) -> Result<()> {
    let as_built = args.format.is_none() && args.compression == Packing::None;
    let row = |(image, at): &(ImageDir, Location)| {
        let built = image.summary().digest;
        PushRow { reference: at.to_string(), digest: as_built.then_some(built), built }
    };
    let layers: BTreeMap<Digest, u64> =
        images.iter().flat_map(|(image, _)| image.summary().layers()).map(|layer| (layer.digest, layer.size)).collect();
    let (rows, bytes) = (images.iter().map(row).collect::<Vec<_>>(), layers.values().sum());
    if printer.json() {
        return printer.value(&PushReport {
            images: rows,
            uploaded: 0,
            present: 0,
            mounted: 0,
            bytes,
            packed_elsewhere: 0,
            received: 0,
            warnings: Vec::new(),
            statements: 0,
            signed_by: None,
        });
    }
    rows.iter().try_for_each(|row| printer.line(&row.reference))?;
    let signed = if args.sign.is_some() { " and to sign" } else { "" };
    printer.line(format!("{} to push{signed}, {} at most; nothing was sent", count(rows.len(), "image"), size(bytes)))
}

/// A place in a registry for what has a digest of its own.
pub(super) fn place(to: &str) -> Result<Location> {
    let Some(place) = to.strip_prefix("docker://") else {
        return Err(usage(format!("'{to}' is not a place to push to: expected docker://REGISTRY/NAME[:TAG]")));
    };
    let place: Location = place.parse()?;
    if place.digest().is_some() {
        return Err(usage(format!("{place}: what is pushed has a digest of its own; give a tag, or none")));
    }
    Ok(place)
}

/// What goes where.
pub(super) fn destinations(path: &Path, to: &Location) -> Result<Vec<(ImageDir, Location)>> {
    let own_tag = |image: &ImageDir| {
        let reference = &image.summary().reference;
        reference
            .strip_prefix(&*image.summary().name)
            .and_then(|rest| rest.strip_prefix(':'))
            .unwrap_or("latest")
            .to_owned()
    };
    if !path.join("stack.json").is_file() {
        let image = ImageDir::open(path)?;
        let at = if to.tag().is_some() { to.clone() } else { to.with_tag(&own_tag(&image))? };
        return Ok(vec![(image, at)]);
    }
    if to.tag().is_some() {
        return Err(usage(format!("{to}: a stack has several images, each with a tag of its own; leave the tag out")));
    }
    let stack = StackDir::open(path)?;
    let models = stack.models.into_iter().map(|(_, model)| model);
    let target = |image: ImageDir| {
        let name = file_name(&image.summary().name);
        let at = Location::new(to.host(), &format!("{}/{name}", to.repository()))?.with_tag(&own_tag(&image))?;
        Ok((image, at))
    };
    // Models first: the images that have their layers take them over.
    models.chain(stack.images).map(target).collect()
}
