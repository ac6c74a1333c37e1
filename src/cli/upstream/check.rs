//! `windlass upstream check`

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::super::failure::{Failure, Result, several};
use super::super::printer::{Printer, count, size};
use super::super::session::Session;
use super::{LockArgs, RegistryArgs, StateArgs, day, now, unknown};
use crate::class::Class;
use crate::cli::complete;
use crate::oci::digest::Digest;
use crate::upstream::check::{ChangeKind, CheckOptions, ImageFinding, PlatformChange, Status, check, order};
use crate::upstream::lock::{Cadence, LockedImage, UpstreamLock};
use crate::upstream::newer::{NewerVersion, NewerVersions};
use crate::upstream::state::UpstreamState;
use crate::upstream::{Registries, file};

const EXAMPLE: &str = "What it says:
  [CURRENT]  the tag names what is locked
  [NEWER]    the same, and there is a newer version under another tag
  [UPDATE]   a floating tag names something else
  [MOVED]    a tag with a version names something else: find out why before taking it
  [GONE]     the tag, or what is locked, is not there any more: keep what you have
  [UNKNOWN]  it could not be looked up, and why
  [PENDING]  it was never locked

Examples:
  windlass upstream check
  windlass upstream check --image qdrant --image redis --details
  windlass upstream check --due --quota 20 --brief    in a timer, with a limit for each registry

Exit codes: 0 all is current; 8 there is something newer; without that, 4 a registry sent other bytes than their digest says,
7 it wants a login or denies access, 1 an image is gone or unknown for another reason.";

const RULE: &str = "========================================";

/// See whether upstream still says what the lock says.
///
/// Nothing is changed but the file for times, and no layer is downloaded. An image that did not change costs one HEAD
/// request, which no registry counts as a pull; one that did costs one GET of its index besides, and a tag with a version
/// one GET of the list of tags. Registries that ask for patience, or have few pulls left, are left alone.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct UpstreamCheckArgs {
    /// Only this image. Repeatable.
    #[arg(add = complete::locked_images(), long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// Only images that their cadence makes due.
    #[arg(long)]
    due: bool,
    /// Send each registry at most this many requests. What was looked up longest ago comes first; of
    /// the rest, what an earlier check found is told, with its date.
    #[arg(long, value_name = "N")]
    quota: Option<usize>,
    /// For what changed, fetch the new manifests too, and say how many bytes an update would download; for newer versions, when they
    /// were made.
    #[arg(long)]
    details: bool,
    /// Count a newer major version as an update too (2.0 after 1.9). It is told in any case.
    #[arg(long)]
    major: bool,
    /// One line for each image.
    #[arg(long)]
    brief: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpstreamCheckReport<'a> {
    registries: BTreeMap<String, Registry>,
    images: Vec<UpstreamCheckRow<'a>>,
    updates: usize,
    gone: usize,
    unknown: usize,
    sentence: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UpstreamCheckRow<'a> {
    #[serde(flatten)]
    finding: &'a ImageFinding,
    reference: &'a str,
    floating: bool,
    locked: Option<Digest>,
    cadence: Option<Cadence>,
    last_check: Option<Timestamp>,
}

/// How a registry took our questions.
#[derive(Debug, Default, Serialize, schemars::JsonSchema)]
struct Registry {
    /// Whether anything could be looked up there.
    answered: bool,
    /// The files and helpers whose logins it took; none if it let anybody in.
    logins: BTreeSet<String>,
}

pub(super) fn run(args: &UpstreamCheckArgs, printer: &Printer, session: &Session) -> Result<()> {
    let path = &args.lock.lock;
    let lock = file::read(path)?;
    let (state_file, mut state) = args.state.read(path)?;
    let last = |name: &str| Some(state.images.get(name)?.last_check?.to_string());
    let mut names = order(&lock, &args.images, last).map_err(|name| unknown(&lock, &name, path))?;
    if args.due {
        let now = now();
        let known = |name: &str| state.images.get(name).cloned().unwrap_or_default();
        names.retain(|name| known(name).is_due(lock.images[name].cadence, now));
    }
    let options = CheckOptions { quota: args.quota, details: args.details, major: args.major };
    let drawing = session.draw("check");
    let clients = args.registry.registries()?;
    let mut findings = check(&clients, &lock, &names, options, session.progress())?;
    drop(drawing);
    findings.sort_by(|a, b| a.name.cmp(&b.name));
    findings.iter_mut().for_each(|finding| state.recall(finding, &lock, args.major));
    state.record(&findings, now());
    state.keep(|name| lock.images.contains_key(name));
    match &state_file {
        Some(file) => state.write(file, session.progress())?,
        None => printer.note("without a home, and without --state, the time of this check is not kept"),
    }
    let updates = number(&findings, Status::is_update);
    let gone = number(&findings, |status| status == Status::Gone);
    let unknown = number(&findings, |status| status == Status::Unknown);
    let sentence = sentence(&findings, "image");
    let registries = registries(&findings, &lock, &clients)?;
    if printer.json() {
        let images = findings.iter().map(|finding| row(finding, &lock, &state)).collect();
        printer.value(&UpstreamCheckReport { registries, images, updates, gone, unknown, sentence })?;
    } else {
        if args.brief {
            brief(&findings, &lock, printer)?;
        } else {
            show(&registries, &findings, &lock, updates, printer)?;
        }
        printer.line(sentence)?;
    }
    end(&findings)
}

fn number(findings: &[ImageFinding], wanted: fn(Status) -> bool) -> usize {
    findings.iter().filter(|finding| wanted(finding.status)).count()
}

/// How a check ends, for scripts.
pub(in crate::cli) fn end(findings: &[ImageFinding]) -> Result<()> {
    let updates = number(findings, Status::is_update);
    if updates > 0 {
        return Err(Failure::new(Class::Updates, format!("{} available", count(updates, "update"))));
    }
    let is = |wanted| move |finding: &&ImageFinding| finding.status == wanted;
    let [gone, unknown] = [Status::Gone, Status::Unknown].map(|status| findings.iter().filter(is(status)).count());
    if gone + unknown > 0 {
        let classes = findings.iter().filter_map(|finding| finding.class);
        return Err(several(format!("{gone} gone, {unknown} unknown"), classes));
    }
    Ok(())
}

fn row<'a>(finding: &'a ImageFinding, lock: &'a UpstreamLock, state: &UpstreamState) -> UpstreamCheckRow<'a> {
    let image = &lock.images[&finding.name];
    UpstreamCheckRow {
        finding,
        reference: &image.original.reference,
        floating: image.floating,
        locked: image.root(),
        cadence: image.cadence,
        last_check: state.images.get(&finding.name).and_then(|image| image.last_check),
    }
}

/// The registries that were asked, or should have been.
fn registries(
    findings: &[ImageFinding],
    lock: &UpstreamLock,
    clients: &Registries,
) -> Result<BTreeMap<String, Registry>> {
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
    findings: &[ImageFinding],
    lock: &UpstreamLock,
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
        for line in finding.newer.iter().flat_map(newer) {
            printer.line(format!("    {line}"))?;
        }
        if let Some(why) = &finding.why {
            printer.line(format!("    {why}"))?;
        }
        if let Some(time) = finding.as_of {
            printer.line(format!("    as it was on {}", day(&time.to_string())))?;
        }
        printer.line(format!("  {}", word(finding.status)))?;
    }
    printer.line("")?;
    printer.line(RULE)?;
    printer.line(format!("  {updates} update(s) available"))?;
    let of = |status| findings.iter().filter(move |finding| finding.status == status);
    if of(Status::Update).chain(of(Status::Pending)).next().is_some() {
        let all = if findings.iter().any(|finding| finding.status == Status::Pending) { " --all" } else { "" };
        printer.line(format!("  Run `windlass upstream update{all}` to apply"))?;
    }
    if let Some(moved) = of(Status::Moved).next() {
        let name = &moved.name;
        printer.line("  A version tag that was moved is left out until you have looked at what changed:")?;
        printer.line(format!("  `windlass upstream update --accept-moved {name}`"))?;
    }
    if let Some((name, version)) = of(Status::Newer).find_map(|finding| {
        let versions = finding.newer.as_ref()?;
        Some((&finding.name, versions.minor.as_ref().or(versions.major.as_ref())?))
    }) {
        printer.line("  To take a newer version:")?;
        printer.line(format!("  `windlass upstream update --image {name} --to {}`", version.tag))?;
    }
    printer.line(RULE)
}

/// A line for each newer version.
fn newer(versions: &NewerVersions) -> Vec<String> {
    let line = |words: &str, version: &NewerVersion| {
        let made = version.created.as_deref().map(|created| format!(", made {}", day(created))).unwrap_or_default();
        format!("{words}: {}{made}", version.tag)
    };
    let minor = versions.minor.iter().map(|version| line("Newer version", version));
    minor.chain(versions.major.iter().map(|version| line("Newer major version", version))).collect()
}

fn brief(findings: &[ImageFinding], lock: &UpstreamLock, printer: &Printer) -> Result<()> {
    let mut table = vec![["name", "state", "upstream", "newer", "as of"].map(str::to_owned).to_vec()];
    for finding in findings {
        let versions = finding.newer.iter().flat_map(|versions| [&versions.minor, &versions.major]).flatten();
        let versions: Vec<&str> = versions.map(|version| version.tag.as_str()).collect();
        table.push(vec![
            finding.name.clone(),
            state(finding.status),
            lock.images[&finding.name].original.reference.clone(),
            if versions.is_empty() { "-".to_owned() } else { versions.join(", ") },
            finding.as_of.map_or_else(|| "now".to_owned(), |time| day(&time.to_string())),
        ]);
    }
    if findings.is_empty() { Ok(()) } else { printer.table(&table) }
}

fn made(image: &LockedImage) -> Option<&str> {
    image.locked.as_ref()?.platforms.values().find_map(|platform| platform.created.as_deref())
}

/// `current`, `update`, …: one word, for a table.
pub(in crate::cli) fn state(status: Status) -> String {
    word(status).split(']').next().unwrap_or_default().trim_start_matches('[').to_lowercase()
}

const fn word(status: Status) -> &'static str {
    match status {
        Status::Current => "[CURRENT]     Up to date",
        Status::Newer => "[NEWER]     A newer version is there",
        Status::Update => "[UPDATE]     Upstream changed",
        Status::Moved => "[MOVED]     A version tag names something else",
        Status::Gone => "[GONE]     No longer upstream",
        Status::Unknown => "[UNKNOWN]     Could not be looked up",
        Status::Pending => "[PENDING]     Not locked yet",
    }
}

fn told(change: &PlatformChange) -> String {
    let PlatformChange { platform, kind, fetch } = change;
    match (kind, fetch) {
        (ChangeKind::Same, _) => format!("{platform}: the same image"),
        (ChangeKind::Missing, _) => format!("{platform}: no image any more"),
        (ChangeKind::Changed, Some(bytes)) => format!("{platform}: another image, {} to fetch", size(*bytes)),
        (ChangeKind::Changed, None) => format!("{platform}: another image"),
    }
}

/// All findings about things of this kind in one sentence.
pub(in crate::cli) fn sentence(findings: &[ImageFinding], noun: &str) -> String {
    let words = [
        (Status::Current, "current"),
        (Status::Newer, "with a newer version"),
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
    let recalled = findings.iter().filter(|finding| finding.as_of.is_some()).count();
    let recalled = match recalled {
        0 => String::new(),
        number => format!(", {number} of them as an earlier check found them"),
    };
    let colon = if parts.is_empty() { "" } else { ": " };
    format!("{}{colon}{}{recalled}", count(findings.len(), noun), parts.join(", "))
}
