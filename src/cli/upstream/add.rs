//! `windlass upstream add`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::failure::{Context, Result, usage};
use super::super::printer::{Printer, count, size};
use super::super::session::Session;
use super::{LockArgs, RegistryArgs, day};
use crate::disk::bounded::{self, Cap};
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::signing::key::SignatureKey;
use crate::upstream::file::UpstreamLockChange;
use crate::upstream::lock::{Cadence, LockedImage, SignaturePolicy, UpstreamLock, VerifiedSignature};
use crate::upstream::proof::{LockProblem, is_name};
use crate::upstream::resolve::{adopt, resolve};
use crate::upstream::signature::AskedSigner;
use crate::upstream::versions::full;

const EXAMPLE: &str = "Examples:
  windlass upstream add qdrant qdrant/qdrant:v1.16.2
  windlass upstream add a a/a:1.0 --platform linux/amd64 --platform linux/arm64
  windlass upstream add webui ghcr.io/open-webui/open-webui:main --cosign-key webui.pub
  windlass upstream add app ghcr.io/org/app:v1.2 --trust-root trusted_root.json \
    --certificate-identity https://github.com/org/app/.github/workflows/release.yml@refs/tags/v1.2 \
    --certificate-oidc-issuer https://token.actions.githubusercontent.com
  windlass upstream add valkey valkey/valkey:8.1.4 --sbom
  windlass upstream add mine 127.0.0.1:5000/mine:1 --insecure
  windlass upstream add later docker.io/someorg/image:tag --pending";

/// Look up a reference and lock what it names.
///
/// The tag is resolved once; the index, the manifests of the platforms and their configs are fetched, checked and kept,
/// some kilobytes; no layer is downloaded. A tag without a version (`latest`, `main`, `cuda`) is locked to what it names
/// today, and recorded as floating: it is never called pinned. If anything fails, nothing is written.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct UpstreamAddArgs {
    /// What the image is called here.
    name: String,
    /// Where it is, as for `podman pull`: qdrant/qdrant:v1.16.2, ghcr.io/open-webui/open-webui:main, NAME@sha256:…
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// A platform, like linux/arm64. Repeatable. By default that of this machine.
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]")]
    platforms: Vec<Platform>,
    /// The registry, on this machine, speaks plain HTTP.
    #[arg(long)]
    insecure: bool,
    /// Why this image, in this version.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How often `list` says that it should be looked up: daily, weekly, monthly, quarterly, yearly.
    #[arg(long, value_name = "WHEN", value_parser = cadence)]
    cadence: Option<Cadence>,
    /// The public key, in PEM, by which cosign has to have signed it; kept in the lock, and asked for at every update.
    #[arg(long, value_name = "FILE")]
    cosign_key: Option<PathBuf>,
    /// The identity that has to have signed it without a key of its own (`cosign sign`, sigstore): a URI or an email address, all of
    /// it. Kept in the lock, and asked for at every update.
    #[arg(long, value_name = "IDENTITY", requires_all = ["certificate_oidc_issuer", "trust_root"], conflicts_with = "cosign_key")]
    certificate_identity: Option<String>,
    /// In its place a regular expression that all of the identity fits, for identities that name a version.
    #[arg(long, value_name = "REGEXP", requires_all = ["certificate_oidc_issuer", "trust_root"],
        conflicts_with_all = ["certificate_identity", "cosign_key"])]
    certificate_identity_regexp: Option<String>,
    /// The address of the OIDC issuer that has vouched for the identity, all of it.
    #[arg(long, value_name = "URL", conflicts_with = "cosign_key", requires = "trust_root")]
    certificate_oidc_issuer: Option<String>,
    /// What certificates, logs and time stamps are verified by: the `trusted_root.json` of a sigstore. It is kept in the lock;
    /// only the registry is asked.
    #[arg(long, value_name = "FILE", conflicts_with = "cosign_key", requires = "certificate_oidc_issuer")]
    trust_root: Option<PathBuf>,
    /// Also lock the bills of materials that its publisher attached, SPDX or CycloneDX: some requests more. `windlass sbom` names
    /// them, and `upstream fetch` brings them.
    #[arg(long)]
    sbom: bool,
    /// Only note it; `windlass upstream update --all` looks it up.
    #[arg(long)]
    pending: bool,
    /// Take the place of an image of this name.
    #[arg(long)]
    replace: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

fn cadence(text: &str) -> Result<Cadence, String> {
    let words = Cadence::ALL.map(Cadence::word);
    Cadence::ALL
        .into_iter()
        .find(|cadence| cadence.word() == text)
        .ok_or_else(|| format!("expected {}", words.join(", ")))
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct UpstreamAddReport<'a> {
    name: &'a str,
    #[serde(flatten)]
    image: &'a LockedImage,
    pinned: bool,
    sentence: String,
}

pub(super) fn run(args: &UpstreamAddArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (image, trust_root) = wish(args)?;
    let progress = session.progress();
    let drawing = session.draw("add");
    let mut change = UpstreamLockChange::begin(&args.lock.lock, progress)?;
    if !args.replace && change.lock.images.contains_key(&args.name) {
        let (name, lock) = (&args.name, args.lock.lock.display());
        return Err(usage(format!("{lock} has an image '{name}' already; --replace puts this one in its place")));
    }
    change.lock.trust_roots.extend(trust_root);
    let before: u64 = change.lock.blobs.values().map(|blob| blob.size).sum();
    let resolved = if args.pending {
        None
    } else {
        let registries = args.registry.registries()?;
        Some(resolve(registries.client(image.insecure), &image, &change.lock.trust_roots, progress)?)
    };
    change.lock.images.insert(args.name.clone(), image);
    if let Some(resolved) = resolved {
        adopt(&mut change.lock, &args.name, resolved)?;
    }
    let after: u64 = change.lock.blobs.values().map(|blob| blob.size).sum();
    let lock = change.lock.clone();
    if args.dry_run {
        change.would_change()?;
    } else {
        change.finish(progress)?;
    }
    drop(drawing);
    show(args, &lock, after.saturating_sub(before), printer)
}

/// The digest of a trust root, and its text.
pub(super) type TrustRootText = (Digest, String);

/// What is asked for, before anybody is asked, and the trust root that goes with it.
fn wish(args: &UpstreamAddArgs) -> Result<(LockedImage, Option<TrustRootText>)> {
    if !is_name(&args.name) {
        return Err(usage(format!("'{}' {}", args.name, LockProblem::Name)));
    }
    let location = full(&args.reference)?;
    if args.insecure && !location.is_loopback() {
        return Err(usage(LockProblem::Insecure(location.host().to_owned()).to_string()));
    }
    let mut platforms: Vec<Platform> = args.platforms.iter().cloned().map(Platform::canonical).collect();
    if platforms.is_empty() {
        platforms.push(Platform::default().canonical());
    }
    platforms.sort();
    platforms.dedup();
    let (policy, trust_root) = policy(args)?;
    let image = LockedImage {
        insecure: args.insecure,
        reason: args.reason.clone(),
        cadence: args.cadence,
        sbom: args.sbom,
        policy,
        ..LockedImage::pending(&location, platforms)
    };
    Ok((image, trust_root))
}

/// Who has to have signed.
fn policy(args: &UpstreamAddArgs) -> Result<(Option<SignaturePolicy>, Option<TrustRootText>)> {
    if let Some(file) = &args.cosign_key {
        let bytes = bounded::read(file, Cap::Document).with_context(|| format!("read {}", file.display()))?;
        let cosign_key = String::from_utf8_lossy(&bytes).into_owned();
        SignatureKey::parse(&cosign_key).with_context(|| file.display().to_string())?;
        return Ok((Some(SignaturePolicy { cosign_key: Some(cosign_key), ..SignaturePolicy::default() }), None));
    }
    let Some(file) = &args.trust_root else { return Ok((None, None)) };
    if args.certificate_identity.is_none() && args.certificate_identity_regexp.is_none() {
        return Err(usage(
            "--trust-root is for an identity: give --certificate-identity or --certificate-identity-regexp",
        ));
    }
    let (digest, text) = trust_root(file)?;
    let policy = SignaturePolicy {
        certificate_identity: args.certificate_identity.clone(),
        certificate_identity_regexp: args.certificate_identity_regexp.clone(),
        certificate_oidc_issuer: args.certificate_oidc_issuer.clone(),
        trust_root: Some(digest),
        ..SignaturePolicy::default()
    };
    // Said with the name of the file, and before anybody is asked.
    let roots = BTreeMap::from([(digest, text.clone())]);
    AskedSigner::of(&policy, &roots).with_context(|| file.display().to_string())?;
    Ok((Some(policy), Some((digest, text))))
}

/// The text of a trust root, and its digest.
pub(super) fn trust_root(file: &Path) -> Result<TrustRootText> {
    let text = bounded::text(file, Cap::Settings).with_context(|| format!("read {}", file.display()))?;
    Ok((Digest::of(text.as_bytes()), text))
}

fn show(args: &UpstreamAddArgs, lock: &UpstreamLock, fetch: u64, printer: &Printer) -> Result<()> {
    let Some(image) = lock.images.get(&args.name) else { return Ok(()) };
    let sentence = sentence(&args.name, image, fetch);
    let sentence = if args.dry_run { format!("not written: would have {sentence}") } else { sentence };
    if printer.json() {
        return printer.value(&UpstreamAddReport { name: &args.name, image, pinned: image.is_pinned(), sentence });
    }
    printer.line(format!("{}  {}", args.name, image.original.reference))?;
    if let Some(locked) = &image.locked {
        printer.line(format!("  {}", locked.root.digest))?;
        let rows = locked.platforms.iter().map(|(platform, entry)| {
            let made = entry.created.as_deref().map(|created| format!("made {}", day(created)));
            let digest = format!("sha256:{}", entry.manifest.digest.short());
            vec![format!("  {platform}"), digest, size(entry.total_size), made.unwrap_or_default()]
        });
        printer.table(&rows.collect::<Vec<_>>())?;
        printer.line(format!("  {}", verified(image)))?;
        locked.sboms.iter().try_for_each(|bill| printer.line(format!("  bill of materials: {}", bill.told())))?;
        if image.sbom && locked.sboms.is_empty() {
            printer.line("  bill of materials: none is attached")?;
        }
    }
    printer.line(sentence)
}

fn sentence(name: &str, image: &LockedImage, fetch: u64) -> String {
    let platforms = count(image.original.platforms.len(), "platform");
    match () {
        () if image.locked.is_none() => {
            format!("noted {name}: pending, until `windlass upstream update --all` looks it up")
        }
        () if image.floating => format!(
            "locked {name}: {platforms}, {} to fetch; floating: its tag may name another image tomorrow",
            size(fetch)
        ),
        () => format!("pinned {name}: {platforms}, {} to fetch", size(fetch)),
    }
}

/// Whether a signature was verified, in words.
pub(in crate::cli) fn verified(image: &LockedImage) -> String {
    match (&image.verified, &image.policy) {
        (Some(verified), _) => {
            format!("verified: signed by {} ({})", signer(verified), verified.scope)
        }
        (None, None) => "not verified: no policy".to_owned(),
        (None, Some(_)) => "not verified yet".to_owned(),
    }
}

fn signer(verified: &VerifiedSignature) -> String {
    let VerifiedSignature { key, identity, issuer, .. } = verified;
    let key = key.map(|key| format!("the key sha256:{}", key.short()));
    let identity = identity.as_ref().map(|name| match issuer {
        Some(issuer) => format!("{name} of {issuer}"),
        None => name.clone(),
    });
    key.or(identity).unwrap_or_else(|| "a signer without a name".to_owned())
}
