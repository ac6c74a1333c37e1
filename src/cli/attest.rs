//! `windlass attest`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::failure::{Context, Result, usage};
use super::host::nix_places;
use super::printer::{Printer, count};
use super::push::{destinations, place};
use super::registry::RegistryArgs;
use super::session::Session;
use super::signing::signer;
use super::targets::targets;
use crate::attest::attach::Attacher;
use crate::attest::flake_lock::FlakeLock;
use crate::attest::provenance::{Circumstances, ImageParts, provenance};
use crate::attest::published::{PublishedManifest, published};
use crate::disk::bounded::{self, Cap};
use crate::disk::files::write_file;
use crate::disk::{AtPath, Staging};
use crate::image::layout::ImageDir;
use crate::image::summary::ImageKind;
use crate::inventory::Inventory;
use crate::layer::LayerFile;
use crate::nix::store::derivers;
use crate::oci::digest::Digest;
use crate::registry::location::Location;
use crate::sbom::{BomFormat, document};
use crate::signing::sigstore_bundle::SigstoreBundle;
use crate::signing::statement::{InTotoStatement, StatedSubject};

const EXAMPLE: &str = "Examples:
  windlass attest stack --key cosign.key --output statements
  windlass attest result --key cosign.key --to docker://registry.example/team/app:1.0
  windlass attest stack --key key.pem --to docker://registry.example/ai --flake .#ai-stack --flake-lock flake.lock

Anybody who has the public key verifies what lies in a registry:
  cosign verify-attestation --key cosign.pub --type slsaprovenance1 --insecure-ignore-tlog registry.example/team/app:1.0";

/// What the files in `--output` end in.
const ENDING: &str = ".sigstore.json";

/// State how images were made, signed.
///
/// For each image and model it makes a SLSA provenance 1.0: what the image is made of, by digest (store paths, files of
/// models, upstream images, inputs of a flake), the derivations where Nix knows them, and who built it; and a bill of materials, as
/// `windlass sbom` does. Each is signed as an in-toto statement in a DSSE envelope, and written as a Sigstore bundle to --output, or put beside what was pushed: as a referrer, and
/// under the tag that cosign 2 reads. The same image gives the same bytes each time; no clock is asked.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct AttestArgs {
    /// Image directories, stacks and bundles.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// The key that signs: a file (PEM, or a key of cosign, whose password COSIGN_PASSWORD has), or an address that `cosign`
    /// in PATH knows (`awskms://…`).
    #[arg(long)]
    key: String,
    /// What is stated. Repeatable.
    #[arg(long = "type", value_enum, value_name = "TYPE", default_values_t = [StatedType::Provenance, StatedType::Cyclonedx])]
    types: Vec<StatedType>,
    /// A directory for the signed statements; replaced in one step if it holds nothing else.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Put the statements beside what `push` has put there; for a stack, what comes before its images' names.
    #[arg(long, value_name = "docker://REGISTRY/NAME[:TAG]")]
    to: Option<String>,
    /// A URI that stands for who built the images.
    #[arg(long, value_name = "URI")]
    builder_id: Option<String>,
    /// The flake that they were built from: `github:me/stack/REV#ai-stack`.
    #[arg(long, value_name = "REF")]
    flake: Option<String>,
    /// The lock of that flake. Its inputs are told by commit and hash.
    #[arg(long, value_name = "FILE")]
    flake_lock: Option<PathBuf>,
    /// When the build ended, in RFC 3339 or as `@SECONDS` (`@$SOURCE_DATE_EPOCH`). Nothing is said of it by default.
    #[arg(long, value_name = "TIME", value_parser = time)]
    date: Option<Timestamp>,
    /// Plain HTTP; registries on this machine only.
    #[arg(long)]
    insecure: bool,
    /// Only say what would be stated. No registry is asked.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// What is stated of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StatedType {
    /// How it was made: SLSA 1.0.
    Provenance,
    /// What is in it: CycloneDX 1.6.
    Cyclonedx,
    /// What is in it: SPDX 2.3.
    Spdx,
}

impl StatedType {
    const fn word(self) -> &'static str {
        match self {
            Self::Provenance => "provenance",
            Self::Cyclonedx => "cyclonedx",
            Self::Spdx => "spdx",
        }
    }

    fn state(self, image: &ImageDir, subjects: Vec<StatedSubject>, about: &Circumstances) -> Result<InTotoStatement> {
        let (format, predicate_type) = match self {
            Self::Provenance => return Ok(provenance(image, subjects, about)?),
            Self::Cyclonedx => (BomFormat::CycloneDx, "https://cyclonedx.org/bom"),
            Self::Spdx => (BomFormat::Spdx, "https://spdx.dev/Document"),
        };
        let bill = document(&Inventory::read(&[image])?, format, about.finished.as_deref());
        Ok(InTotoStatement::new(subjects, predicate_type, bill))
    }
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttestReport {
    statements: Vec<AttestRow>,
    /// The digest of the public key that verifies them.
    signed_by: Digest,
    sentence: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AttestRow {
    #[serde(rename = "ref")]
    reference: String,
    /// The digest that it was built with.
    digest: Digest,
    #[serde(rename = "type")]
    stated: StatedType,
    predicate_type: String,
    /// How many things the statement names that the image is made of.
    parts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// What it lies beside in the registry.
    at: Vec<String>,
}

fn time(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("'{text}' is not a time: expected 2026-11-30T12:00:00Z, or @ and seconds since 1970");
    match text.strip_prefix('@') {
        Some(seconds) => seconds.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok()),
        None => text.parse().ok(),
    }
    .ok_or_else(wrong)
}

/// A statement that is signed, and where it goes.
struct Signed {
    row: AttestRow,
    /// `None` in a dry run, which signs nothing.
    bundle: Option<SigstoreBundle>,
    /// Its file in `--output`.
    file: PathBuf,
    to: Option<(Location, Vec<PublishedManifest>)>,
}

pub(super) fn run(args: &AttestArgs, printer: &Printer, session: &Session) -> Result<()> {
    if args.output.is_none() && args.to.is_none() {
        return Err(usage("there is no place for the statements: give --output DIR, or --to docker://REGISTRY/NAME"));
    }
    let signer = signer(&args.key)?;
    let images = images(args)?;
    let kinds: BTreeSet<StatedType> = args.types.iter().copied().collect();
    let names: BTreeSet<PathBuf> = images.iter().map(|(image, _)| file_name(image, StatedType::Provenance)).collect();
    if names.len() != images.len() {
        return Err(usage(
            "two of the images have one name, and so would their statements; attest them one after the other",
        ));
    }
    if let Some(output) = args.output.as_deref().filter(|output| output.symlink_metadata().is_ok())
        && !holds_statements(output)
    {
        let output = output.display();
        return Err(usage(format!("{output} exists, and windlass did not write it; give another --output")));
    }
    let circumstances = circumstances(args, &images)?;
    let (registries, progress) = (args.registry.registries()?, session.progress());
    let client = registries.client(args.insecure);
    let drawing = session.draw("attesting");
    let mut all = Vec::new();
    for (image, at) in &images {
        let found = match at.as_ref().filter(|_| !args.dry_run) {
            Some(at) => published(client, at, image.summary(), progress)?,
            None => Vec::new(),
        };
        let subjects = subjects(image, at.as_ref(), &found);
        let there = match at {
            Some(at) if args.dry_run => vec![at.to_string()],
            Some(at) => found.iter().map(|found| at.with_digest(found.digest).to_string()).collect(),
            None => Vec::new(),
        };
        for stated in kinds.iter().copied() {
            let statement = stated.state(image, subjects.clone(), &circumstances)?;
            let file = file_name(image, stated);
            let row = AttestRow {
                reference: image.summary().reference.to_string(),
                digest: image.summary().digest,
                stated,
                predicate_type: statement.predicate_type.clone(),
                parts: parts(&statement.predicate),
                file: args.output.as_ref().map(|output| output.join(&file)),
                at: there.clone(),
            };
            let sign = || SigstoreBundle::sign(&statement, &signer);
            let bundle = (!args.dry_run).then(sign).transpose()?;
            all.push(Signed { row, bundle, file, to: at.clone().map(|at| (at, found.clone())) });
        }
    }
    for Signed { row, bundle, to, .. } in &all {
        let (Some(bundle), Some((at, found))) = (bundle, to) else { continue };
        let attacher = Attacher { client, at, progress };
        found.iter().try_for_each(|image| attacher.attest(image, &row.predicate_type, bundle))?;
    }
    if let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) {
        write(output, &all, session)?;
    }
    drop(drawing);
    let signed_by = signer.public().digest;
    let sentence = sentence(args, all.len(), signed_by);
    let report = AttestReport { statements: all.into_iter().map(|signed| signed.row).collect(), signed_by, sentence };
    if printer.json() {
        return printer.value(&report);
    }
    let cells = |row: &AttestRow| {
        let parts = count(row.parts, "part");
        vec![row.reference.clone(), format!("sha256:{}", row.digest.short()), row.stated.word().to_owned(), parts]
    };
    printer.table(&report.statements.iter().map(cells).collect::<Vec<_>>())?;
    printer.line(report.sentence)
}

/// How many things a predicate names: dependencies of a provenance, components or packages of a bill of materials.
fn parts(predicate: &Value) -> usize {
    let lists =
        [&predicate["buildDefinition"]["resolvedDependencies"], &predicate["components"], &predicate["packages"]];
    lists.iter().filter_map(|list| list.as_array()).map(Vec::len).sum()
}

fn sentence(args: &AttestArgs, number: usize, key: Digest) -> String {
    let what = format!("{} signed by the key sha256:{}", count(number, "statement"), key.short());
    if args.dry_run {
        return format!("not written: {what}");
    }
    let output = args.output.as_ref().map(|output| format!("; written to {}", output.display()));
    let to = args.to.as_ref().map(|to| format!("; beside what {to} has"));
    format!("{what}{}{}", output.unwrap_or_default(), to.unwrap_or_default())
}

/// The images, with where they were pushed to.
fn images(args: &AttestArgs) -> Result<Vec<(ImageDir, Option<Location>)>> {
    let Some(to) = &args.to else {
        let targets = targets(&args.images, &[])?;
        return Ok(targets.into_iter().map(|target| (target.image, None)).collect());
    };
    let (to, mut all) = (place(to)?, Vec::new());
    for path in &args.images {
        let found = destinations(path, &to)?;
        all.extend(found.into_iter().map(|(image, at)| (image, Some(at))));
    }
    Ok(all)
}

/// What the image directories do not say.
fn circumstances(args: &AttestArgs, images: &[(ImageDir, Option<Location>)]) -> Result<Circumstances> {
    let lock = args.flake_lock.as_ref().map(|file| {
        let text = bounded::text(file, Cap::Document).with_context(|| format!("read {}", file.display()))?;
        let lock = FlakeLock::parse(&text).map_err(|reason| usage(format!("{}: {reason}", file.display())))?;
        Ok::<_, super::failure::Failure>((lock, Digest::of(text.as_bytes())))
    });
    let (mut paths, mut models) = (BTreeSet::new(), BTreeMap::new());
    for (image, _) in images {
        paths.extend(ImageParts::of(image)?.store_paths.into_keys());
        models.extend(files_of_layers(image));
    }
    Ok(Circumstances {
        builder: args.builder_id.clone(),
        flake: args.flake.clone(),
        lock: lock.transpose()?,
        finished: args.date.map(|date| date.to_string()),
        derivers: derivers(&nix_places(), &paths),
        models,
    })
}

/// The files of a model, by the layers that they are in.
fn files_of_layers(image: &ImageDir) -> BTreeMap<Digest, Vec<LayerFile>> {
    let Some(model) = &image.summary().model else { return BTreeMap::new() };
    let layers = image.summary().layers();
    let files = |digest: &Digest| {
        let recipe = image.image().recipes.get(digest);
        let targets: Vec<_> = recipe.iter().flat_map(|recipe| recipe.targets()).collect();
        let is_there =
            |file: &&LayerFile| layers.len() == 1 || targets.iter().any(|target| file.path.starts_with(target));
        model.files.iter().filter(is_there).cloned().collect::<Vec<_>>()
    };
    layers.iter().map(|layer| (layer.digest, files(&layer.digest))).filter(|(_, files)| !files.is_empty()).collect()
}

/// What a statement is about: the image as it was built, and as a registry has it.
fn subjects(image: &ImageDir, at: Option<&Location>, found: &[PublishedManifest]) -> Vec<StatedSubject> {
    let summary = image.summary();
    let built = std::iter::once(summary.digest).chain(summary.platforms.iter().map(|platform| platform.digest));
    let mut subjects: Vec<StatedSubject> = Vec::new();
    let pushed = found.iter().filter_map(|found| Some((at?.name(), found.digest)));
    let built = built.map(|digest| (summary.name.to_string(), digest));
    for subject in built.chain(pushed).map(|(name, digest)| StatedSubject::new(name, digest)) {
        // The same bytes under two names are one subject: what verifies asks for the digest.
        if !subjects.iter().any(|other| other.digest == subject.digest) {
            subjects.push(subject);
        }
    }
    subjects
}

/// Where a statement of an image is in `--output`.
fn file_name(image: &ImageDir, stated: StatedType) -> PathBuf {
    let summary = image.summary();
    let folder = if summary.kind == ImageKind::Model { "models" } else { "images" };
    PathBuf::from(format!("{folder}/{}.{}{ENDING}", summary.name.file_name(), stated.word()))
}

fn write(output: &Path, all: &[Signed], session: &Session) -> Result<()> {
    let staging = Staging::directory(output)?;
    for Signed { bundle, file, .. } in all {
        let Some(bundle) = bundle else { continue };
        let path = staging.path().join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).at("create", folder)?;
        }
        write_file(&path, &bundle.to_bytes(), session.progress())?;
    }
    Ok(staging.publish()?)
}

/// The signed statements in a directory that `--output` has made, in the order of their names.
pub(super) fn statement_files(directory: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths = Vec::new();
    for folder in ["images", "models"].map(|name| directory.join(name)).iter().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            paths.push(entry.with_context(|| format!("read {}", folder.display()))?.path());
        }
    }
    paths.retain(|path| path.to_string_lossy().ends_with(ENDING));
    paths.sort();
    if paths.is_empty() {
        return Err(usage(format!("{} has no statements; `attest --output` writes them", directory.display())));
    }
    let read = |path: PathBuf| {
        let bytes = bounded::read(&path, Cap::Document).with_context(|| format!("read {}", path.display()))?;
        Ok((path, bytes))
    };
    paths.into_iter().map(read).collect()
}

/// Whether a directory is what an earlier run made, which may be replaced.
fn holds_statements(directory: &Path) -> bool {
    let entries = |path: &Path| fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let is_statement = |path: &Path| path.is_file() && path.to_string_lossy().ends_with(ENDING);
    let is_folder = |path: &Path| {
        ["images", "models"].iter().any(|name| path.ends_with(name))
            && entries(path).is_ok_and(|files| files.iter().all(|file| is_statement(&file.path())))
    };
    entries(directory).is_ok_and(|folders| folders.iter().all(|folder| is_folder(&folder.path())))
}
