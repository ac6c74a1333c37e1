//! `windlass upstream check`

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde::Serialize;

use super::super::failure::{Unknown, Updates};
use super::super::printer::{Printer, count, size};
use super::super::session::Session;
use super::{LockArgs, RegistryArgs, StateArgs, day, now, unknown};
use crate::digest::Digest;
use crate::upstream::Registries;
use crate::upstream::check::{Change, ChangeKind, Finding, Options, Status, check, order};
use crate::upstream::file;
use crate::upstream::lock::{Cadence, Image, Lock};
use crate::upstream::state::State;

const EXAMPLE: &str = "What it says:
  [CURRENT]  the tag names what is locked
  [UPDATE]   a floating tag names something else
  [MOVED]    a tag with a version names something else: find out why before taking it
  [GONE]     the tag, or what is locked, is not there any more: keep what you have
  [UNKNOWN]  it could not be looked up, and why
  [PENDING]  it was never locked

Examples:
  windlass upstream check
  windlass upstream check --image qdrant --image redis --details
  windlass upstream check --quota 20 --json    in a timer, with a limit for each registry

Exit codes: 0 all is current; 8 there are updates; 1 there are none, but something is gone or unknown.";

const RULE: &str = "========================================";

/// See whether upstream still says what the lock says.
///
/// Nothing is changed but the file for times, and no layer is downloaded. An image that did not change costs one HEAD
/// request, which no registry counts as a pull; one that did costs one GET of its index besides. Registries that ask for
/// patience, or have few pulls left, are left alone.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct Args {
    /// Only this image. Repeatable.
    #[arg(long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// Send each registry at most this many requests. What was looked up longest ago comes first, the rest is unknown.
    #[arg(long, value_name = "N")]
    quota: Option<usize>,
    /// For what changed, fetch the new manifests too, and say how many bytes an update would download.
    #[arg(long)]
    details: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    registries: BTreeMap<String, Registry>,
    images: Vec<Row<'a>>,
    updates: usize,
    gone: usize,
    unknown: usize,
    sentence: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    #[serde(flatten)]
    finding: &'a Finding,
    reference: &'a str,
    floating: bool,
    locked: Option<Digest>,
    cadence: Option<Cadence>,
    last_check: Option<Timestamp>,
}

/// How a registry took our questions.
#[derive(Debug, Default, Serialize)]
struct Registry {
    /// Whether anything could be looked up there.
    answered: bool,
    /// The files and helpers whose logins it took; none if it let anybody in.
    logins: BTreeSet<String>,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    let path = &args.lock.lock;
    let lock = file::read(path)?;
    let (state_file, mut state) = args.state.read(path)?;
    let last = |name: &str| Some(state.images.get(name)?.last_check?.to_string());
    let names = order(&lock, &args.images, last).map_err(|name| unknown(&lock, &name, path))?;
    let options = Options { quota: args.quota, details: args.details };
    let drawing = session.draw("check");
    let clients = args.registry.registries()?;
    let mut findings = check(&clients, &lock, &names, options, session.progress())?;
    drop(drawing);
    findings.sort_by(|a, b| a.name.cmp(&b.name));
    state.record(&findings, now());
    state.keep(|name| lock.images.contains_key(name));
    match &state_file {
        Some(file) => state.write(file, session.progress())?,
        None => printer.note("without a home, and without --state, the time of this check is not kept"),
    }
    let number = |wanted: fn(Status) -> bool| findings.iter().filter(|finding| wanted(finding.status)).count();
    let updates = number(Status::is_update);
    let (gone, unknown) = (number(|status| status == Status::Gone), number(|status| status == Status::Unknown));
    let sentence = sentence(&findings);
    let registries = registries(&findings, &lock, &clients)?;
    if printer.json() {
        let images = findings.iter().map(|finding| row(finding, &lock, &state)).collect();
        printer.value(&Report { registries, images, updates, gone, unknown, sentence })?;
    } else {
        show(&registries, &findings, &lock, updates, printer)?;
        printer.line(sentence)?;
    }
    if updates > 0 {
        bail!(Updates(count(updates, "update")));
    }
    if gone + unknown > 0 {
        bail!(Unknown { gone, unknown });
    }
    Ok(())
}

fn row<'a>(finding: &'a Finding, lock: &'a Lock, state: &State) -> Row<'a> {
    let image = &lock.images[&finding.name];
    Row {
        finding,
        reference: &image.original.reference,
        floating: image.floating,
        locked: image.root(),
        cadence: image.cadence,
        last_check: state.images.get(&finding.name).and_then(|image| image.last_check),
    }
}

/// The registries that were asked, or should have been.
fn registries(findings: &[Finding], lock: &Lock, clients: &Registries) -> Result<BTreeMap<String, Registry>> {
    let mut registries: BTreeMap<String, Registry> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.status != Status::Pending) {
        let image = &lock.images[&finding.name];
        let host = image.location()?.host().to_owned();
        let logins = clients.client(image.insecure).logins(&host);
        let registry = registries.entry(host).or_default();
        registry.answered |= finding.status != Status::Unknown;
        registry.logins.extend(logins);
    }
    Ok(registries)
}

fn show(
    registries: &BTreeMap<String, Registry>,
    findings: &[Finding],
    lock: &Lock,
    updates: usize,
    printer: &Printer,
) -> Result<()> {
    for line in [RULE, "  Container Image Check", RULE, "", "[Authentication Check]"] {
        printer.line(line)?;
    }
    for (host, Registry { answered, logins }) in registries {
        let logins: Vec<&str> = logins.iter().map(String::as_str).collect();
        printer.line(match (answered, logins.as_slice()) {
            (false, _) => format!("  [UNKNOWN] {host}: nothing could be looked up"),
            (true, []) => format!("  [OK] {host}: without a login"),
            (true, logins) => format!("  [OK] {host}: login of {}", logins.join(", ")),
        })?;
    }
    printer.line("")?;
    printer.line("[Checking Images]")?;
    for finding in findings {
        let image = &lock.images[&finding.name];
        printer.line("")?;
        printer.line(format!("  {}", finding.name))?;
        printer.line(format!("    Upstream: {}", image.original.reference))?;
        if let Some(found) = finding.found {
            printer.line(format!("    Upstream digest: {}...", &found.to_string()[..20]))?;
        }
        let locked = image.root().filter(|root| finding.found != Some(*root));
        if let Some(root) = locked {
            let made = made(image).map(|made| format!(", made {}", day(made))).unwrap_or_default();
            printer.line(format!("    Locked digest:   {}...{made}", &root.to_string()[..20]))?;
        }
        finding.changes.iter().try_for_each(|change| printer.line(format!("    {}", told(change))))?;
        if let Some(why) = &finding.why {
            printer.line(format!("    {why}"))?;
        }
        printer.line(format!("  {}", word(finding.status)))?;
    }
    printer.line("")?;
    printer.line(RULE)?;
    printer.line(format!("  {updates} update(s) available"))?;
    if updates > 0 {
        let all = if findings.iter().any(|finding| finding.status == Status::Pending) { " --all" } else { "" };
        printer.line(format!("  Run `windlass upstream update{all}` to apply"))?;
    }
    printer.line(RULE)
}

fn made(image: &Image) -> Option<&str> {
    image.locked.as_ref()?.platforms.values().find_map(|platform| platform.created.as_deref())
}

const fn word(status: Status) -> &'static str {
    match status {
        Status::Current => "[CURRENT]     Up to date",
        Status::Update => "[UPDATE]     Upstream changed",
        Status::Moved => "[MOVED]     A version tag names something else",
        Status::Gone => "[GONE]     No longer upstream",
        Status::Unknown => "[UNKNOWN]     Could not be looked up",
        Status::Pending => "[PENDING]     Not locked yet",
    }
}

fn told(change: &Change) -> String {
    let Change { platform, kind, fetch } = change;
    match (kind, fetch) {
        (ChangeKind::Same, _) => format!("{platform}: the same image"),
        (ChangeKind::Missing, _) => format!("{platform}: no image any more"),
        (ChangeKind::Changed, Some(bytes)) => format!("{platform}: another image, {} to fetch", size(*bytes)),
        (ChangeKind::Changed, None) => format!("{platform}: another image"),
    }
}

fn sentence(findings: &[Finding]) -> String {
    let words = [
        (Status::Current, "current"),
        (Status::Update, "changed"),
        (Status::Moved, "moved"),
        (Status::Gone, "gone"),
        (Status::Unknown, "unknown"),
        (Status::Pending, "pending"),
    ];
    let part = |(status, word)| {
        let number = findings.iter().filter(|finding| finding.status == status).count();
        (number > 0).then(|| format!("{number} {word}"))
    };
    let parts: Vec<String> = words.into_iter().filter_map(part).collect();
    let colon = if parts.is_empty() { "" } else { ": " };
    format!("{}{colon}{}", count(findings.len(), "image"), parts.join(", "))
}
