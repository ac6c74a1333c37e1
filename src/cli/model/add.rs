//! `windlass model add`

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::super::failure::{Context, Result, usage};
use super::hub::HubSession;
use crate::cli::printer::{Printer, count, size};
use crate::cli::registry::RegistryArgs;
use crate::cli::session::Session;
use crate::disk::bounded::{self, Cap};
use crate::model::licence::spdx;
use crate::model::pin::add::Adder;
use crate::model::pin::lock::{LockedFile, LockedModel, ModelLock, ModelLockChange, NAME, is_name};
use crate::model::pin::model_signature;
use crate::model::pin::resolve::{ResolvedSource, resolve};
use crate::model::pin::source::PinSource;
use crate::nix::store::FixedFile;
use crate::oci::digest::Digest;
use crate::signing::key::SignatureKey;

const EXAMPLE: &str = "Examples:
  windlass model add hf:bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q4_K_M.gguf
  windlass model add hf:ORG/REPO@v1.0/model-00001-of-00003.gguf --name big
  windlass model add hf:ORG/REPO/model.safetensors --file tokenizer.json --file 'tokenizer*.model'
  windlass model add https://models.example/tiny.gguf
  windlass model add ./tiny.gguf --lock nix/models.lock.json
  windlass model add ./all-MiniLM-L6-v2                    the model of a directory
  windlass model add ./tiny --signature model.sig --signature-key publisher.pub

In Nix, what was added is: fetchModel { lock = ./models.lock.json; name = \"big\"; }

For a private or gated repository, accept the terms on its page first; the token is that of
HF_TOKEN, or of the login of Hugging Face's own tools. HF_ENDPOINT may name a mirror. The token goes
to that host alone, and is kept nowhere.";

/// Pin a model: look up what it is, download it into the Nix store, and write it down in a lock.
///
/// A branch or a tag (`main`, if nothing is said) is looked up once, and the lock has the commit: what is built follows
/// the lock alone. Adding the same again takes what the branch has by then. Of shards all are added, whichever is named;
/// safetensors bring their index and config.json. Every byte is verified on its way, by the SHA-256 that Hugging Face
/// publishes; what was stopped goes on where it stopped, in this run or in a later one. The file lies where `fetchModel` in
/// Nix looks for it, so that builds fetch nothing.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct ModelAddArgs {
    /// hf:ORG/REPO/FILE, hf:ORG/REPO@REVISION/FILE, the address of a file, the path of one, or a directory with one model.
    #[arg(value_name = "REF|URL|FILE|DIR")]
    reference: String,
    /// What the model is called here. By default that of its file, in small letters.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The lock file.
    #[arg(long, alias = "to", value_name = "FILE", default_value = "models.lock.json")]
    lock: PathBuf,
    /// A further file that is to be with it: a path in the repository or beside the file, with `*` and `?`. Repeatable.
    #[arg(long = "file", value_name = "GLOB")]
    files: Vec<String>,
    /// A signature of the model as OpenSSF model-signing writes it (`model.sig`). The files must be those that were signed,
    /// all of them and no others.
    #[arg(long, value_name = "FILE", requires = "signature_key")]
    signature: Option<PathBuf>,
    /// The public key of that signature, in PEM.
    #[arg(long, value_name = "FILE", requires = "signature")]
    signature_key: Option<PathBuf>,
    /// Take the place of another model of this name.
    #[arg(long)]
    replace: bool,
    /// Take files that are no models, too.
    #[arg(long)]
    any_file: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModelAddReport<'a> {
    name: &'a str,
    #[serde(flatten)]
    model: &'a LockedModel,
    paths: Vec<PathBuf>,
    /// Whether the lock was written.
    changed: bool,
    network: u64,
    /// The digest of the key that has signed it, where a signature was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<Digest>,
    sentence: String,
}

pub(super) fn run(args: &ModelAddArgs, printer: &Printer, session: &Session) -> Result<()> {
    let progress = session.progress();
    let place = HubSession::new(&args.registry, &args.lock)?;
    let adder = place.adder(progress);
    let name = name(args, adder.hub.endpoint)?;
    let before = ModelLockChange::begin(&args.lock, progress)?.lock.models.remove(&name);
    check_free(args, &name, before.as_ref())?;
    let signature = ModelSignature::read(args)?;

    let drawing = session.draw("add");
    let resolved = resolve(&args.reference, &args.files, adder.hub, progress)?;
    if let Some(signature) = &signature {
        // Before the download, where the source says what it has.
        let known = resolved.files.iter().map(|file| Some((&*file.path, file.digest?)));
        known.collect::<Option<BTreeMap<_, _>>>().map_or(Ok(()), |files| signature.verify(&files))?;
    }
    if args.dry_run {
        drop(drawing);
        return tried(&name, &resolved, &place, printer);
    }
    let (model, network) = pin(resolved, before.as_ref(), args.any_file, &adder)?;
    if let Some(signature) = &signature {
        signature.verify(&model.files.iter().map(|file| (&*file.path, file.sha256)).collect())?;
    }

    // Downloads take hours, and no other run waits for one to write the lock.
    let mut change = ModelLockChange::begin(&args.lock, progress)?;
    check_free(args, &name, change.lock.models.get(&name))?;
    change.lock.models.insert(name.clone(), model.clone());
    let lock = change.lock.clone();
    let changed = change.finish(progress)?;
    drop(drawing);
    keep(&place, &adder, &lock, &model, printer)?;

    let mut sentence = sentence(&name, &model, before.as_ref(), changed, network);
    let signed_by = signature.map(|signature| signature.key.digest);
    if let Some(key) = signed_by {
        sentence.extend(["; signed by the key sha256:", &key.short()]);
    }
    let paths: Vec<PathBuf> = model.files.iter().map(|file| place.store.path(&file.fixed())).collect();
    if printer.json() {
        return printer.value(&ModelAddReport {
            name: &name,
            model: &model,
            paths,
            changed,
            network,
            signed_by,
            sentence,
        });
    }
    show(&model, &paths, printer)?;
    printer.line(sentence)
}

/// The signature that a model must have.
struct ModelSignature {
    file: PathBuf,
    bundle: Vec<u8>,
    key: SignatureKey,
}

impl ModelSignature {
    fn read(args: &ModelAddArgs) -> Result<Option<Self>> {
        let Some((file, key)) = args.signature.clone().zip(args.signature_key.as_ref()) else { return Ok(None) };
        let bundle = bounded::read(&file, Cap::Document).with_context(|| format!("read {}", file.display()))?;
        let pem = bounded::text(key, Cap::Settings).with_context(|| format!("read {}", key.display()))?;
        let key = SignatureKey::parse(&pem).with_context(|| key.display().to_string())?;
        Ok(Some(Self { file, bundle, key }))
    }

    fn verify(&self, files: &BTreeMap<&str, Digest>) -> Result<()> {
        model_signature::verify(&self.bundle, &self.key, files).with_context(|| self.file.display().to_string())
    }
}

/// What `--dry-run` found.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tried<'a> {
    name: &'a str,
    files: Vec<TriedFile<'a>>,
    sentence: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TriedFile<'a> {
    path: &'a str,
    /// Bytes, if the source says it.
    size: Option<u64>,
    /// Whether the Nix store has it; not known of a file whose digest the source does not say.
    in_store: Option<bool>,
}

fn tried(name: &str, resolved: &ResolvedSource, place: &HubSession, printer: &Printer) -> Result<()> {
    let mut files = Vec::new();
    for file in &resolved.files {
        let fixed = file.digest.map(|digest| FixedFile::new(&file.name, digest)).transpose()?;
        let in_store = fixed.map(|fixed| place.store.path(&fixed).exists());
        files.push(TriedFile { path: &file.path, size: file.size, in_store });
    }
    let missing: u64 = files.iter().filter(|file| file.in_store != Some(true)).filter_map(|file| file.size).sum();
    let sentence = format!("not written: {name} has {}, {} to bring", count(files.len(), "file"), size(missing));
    if printer.json() {
        return printer.value(&Tried { name, files, sentence });
    }
    let cells = |file: &TriedFile<'_>| vec![format!("  {}", file.path), file.size.map_or("?".to_owned(), size)];
    printer.table(&files.iter().map(cells).collect::<Vec<_>>())?;
    printer.line(sentence)
}

/// Downloads what a source is made of, and says what it is; also the bytes that came over the network.
pub(super) fn pin(
    mut resolved: ResolvedSource,
    before: Option<&LockedModel>,
    any_file: bool,
    adder: &Adder<'_>,
) -> Result<(LockedModel, u64)> {
    if let Some(before) = before {
        resolved.recall(before);
    }
    let brought = adder.bring(&resolved)?;
    let facts = match adder.facts(&brought.files) {
        Err(error) if !any_file => return Err(error.into()),
        facts => facts.ok(),
    };
    let licence = facts.as_ref().and_then(|facts| facts.licence.clone()).or_else(|| licence(&resolved));
    Ok((LockedModel { source: resolved.source, files: brought.files, facts, licence }, brought.network))
}

/// Links to what the lock has, and to nothing else.
pub(super) fn keep(
    place: &HubSession,
    adder: &Adder<'_>,
    lock: &ModelLock,
    model: &LockedModel,
    printer: &Printer,
) -> Result<()> {
    let all = lock.models.values().flat_map(|model| &model.files);
    place.store.let_go(&place.roots, all.map(LockedFile::fixed))?;
    if let Err(error) = adder.keep(&model.files) {
        printer.note(format!("warning: {error}"));
    }
    Ok(())
}

/// What the model is called.
fn name(args: &ModelAddArgs, endpoint: &str) -> Result<String> {
    match &args.name {
        Some(name) if is_name(name) => Ok(name.clone()),
        Some(name) => Err(usage(format!("'{name}' {NAME}"))),
        None => {
            let name = PinSource::parse(&args.reference, endpoint)?.default_name();
            Ok(name.ok_or_else(|| usage(format!("'{}' gives no name; give one with --name", args.reference)))?)
        }
    }
}

/// Another model of this name stays.
fn check_free(args: &ModelAddArgs, name: &str, there: Option<&LockedModel>) -> Result<()> {
    let same = |model: &LockedModel| model.source.reference == args.reference && model.source.files == args.files;
    match there {
        Some(model) if !args.replace && !same(model) => Err(usage(format!(
            "{} has a model '{name}' already, {}; --replace puts this one in its place, --name gives this one another name",
            args.lock.display(),
            model.source.reference
        ))),
        _ => Ok(()),
    }
}

/// What the model's page says, or the card beside its files.
fn licence(resolved: &ResolvedSource) -> Option<String> {
    let of_page = resolved
        .revision
        .as_ref()
        .and_then(|revision| spdx(revision.licence.as_deref(), revision.licence_name.as_deref(), None));
    of_page.or_else(|| resolved.facts.as_ref()?.licence.clone())
}

fn show(model: &LockedModel, paths: &[PathBuf], printer: &Printer) -> Result<()> {
    let row = |(file, path): (&LockedFile, &PathBuf)| {
        let digest = format!("sha256:{}", file.sha256.short());
        vec![format!("  {}", file.path), size(file.size), digest, path.display().to_string()]
    };
    printer.table(&model.files.iter().zip(paths).map(row).collect::<Vec<_>>())?;
    if let Some(facts) = &model.facts {
        let mut words: Vec<String> = vec![facts.format.as_str().to_owned()];
        words.extend(facts.architecture.clone());
        words.push(format!("{} parameters", facts.parameters));
        words.extend(facts.quantization.clone());
        words.extend(facts.context_length.map(|context| format!("context {context}")));
        words.push(model.licence.clone().unwrap_or_else(|| "licence unknown".to_owned()));
        printer.line(format!("  {}", words.join(", ")))?;
    }
    if let Some(revision) = &model.source.revision {
        printer.line(format!("  commit {revision}"))?;
    }
    Ok(())
}

fn sentence(name: &str, model: &LockedModel, before: Option<&LockedModel>, changed: bool, network: u64) -> String {
    let what = format!("{}, {}; network {}", count(model.files.len(), "file"), size(model.size()), size(network));
    let moved = before.filter(|before| before.files != model.files).map(|before| &before.source);
    let verb = match (changed, before.is_some(), moved) {
        (false, ..) => return format!("{name} is locked already, to the same: {what}"),
        (true, true, Some(source)) if source.reference == model.source.reference => "moved",
        (true, true, _) => "replaced",
        (true, false, _) => "pinned",
    };
    let floating = match (&model.source.floating, &model.source.revision) {
        (false, _) => String::new(),
        (true, Some(commit)) => {
            format!("; {} is floating: it is locked to the commit {}", model.source.reference, &commit[..12])
        }
        (true, None) => format!("; {} is floating: what it gives today is locked", model.source.reference),
    };
    format!("{verb} {name}: {what}{floating}")
}
