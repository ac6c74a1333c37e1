//! `windlass upstream list`

use jiff::Timestamp;
use serde::Serialize;

use super::super::failure::Result;
use super::super::printer::{Printer, count, size};
use super::add::verified;
use super::{LockArgs, StateArgs, day, now};
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::upstream::check::Status;
use crate::upstream::file;
use crate::upstream::lock::{Cadence, LockedImage, UpstreamLock, UpstreamSource, VerifiedSignature};
use crate::upstream::newer::NewerVersions;
use crate::upstream::state::UpstreamState;

/// List the images of the lock: what they are, and how they stood when they were last looked up.
///
/// Opens no connection. A reference is *pinned* if it is locked and has a version or digest; a floating one is only *locked*.
/// `due` says whether the cadence of an image asks for a check by now.
#[derive(Debug, clap::Args)]
pub(super) struct UpstreamListArgs {
    /// Also why each image is there, whether it is verified, and where its mirror is.
    #[arg(long)]
    why: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UpstreamListRow<'a> {
    name: &'a str,
    reference: &'a str,
    digest: Option<Digest>,
    pinned: bool,
    floating: bool,
    platforms: &'a [Platform],
    total_size: Option<u64>,
    created: Option<&'a str>,
    status: Option<Status>,
    newer: NewerVersions,
    last_check: Option<Timestamp>,
    cadence: Option<Cadence>,
    due: bool,
    due_at: Option<Timestamp>,
    reason: Option<&'a str>,
    source: UpstreamSource,
    mirror: Option<&'a str>,
    verified: Option<&'a VerifiedSignature>,
}

/// All images of the lock, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct UpstreamListReport<'a> {
    images: Vec<UpstreamListRow<'a>>,
}

pub(super) fn run(args: &UpstreamListArgs, printer: &Printer) -> Result<()> {
    let lock = file::read(&args.lock.lock)?;
    let (_, state) = args.state.read(&args.lock.lock)?;
    let rows = rows(&lock, &state, now());
    if printer.json() {
        return printer.value(&UpstreamListReport { images: rows });
    }
    let mut table = vec![["name", "reference", "digest", "size", "made", "state", "due"].map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(cells));
    if !rows.is_empty() {
        printer.table(&table)?;
    }
    if args.why {
        rows.iter().try_for_each(|row| why(row, &lock.images[row.name], printer))?;
    }
    let number = |wanted: fn(&UpstreamListRow<'_>) -> bool| rows.iter().filter(|row| wanted(row)).count();
    let bytes = lock.blobs.values().map(|blob| blob.size).sum();
    printer.line(format!(
        "{}: {} pinned, {} locked by a floating tag, {} pending, {} due; {} in {}",
        count(rows.len(), "image"),
        number(|row| row.pinned),
        number(|row| row.digest.is_some() && !row.pinned),
        number(|row| row.digest.is_none()),
        number(|row| row.due),
        size(bytes),
        count(lock.blobs.len(), "blob"),
    ))
}

fn rows<'a>(lock: &'a UpstreamLock, state: &UpstreamState, now: Timestamp) -> Vec<UpstreamListRow<'a>> {
    let row = |(name, image): (&'a String, &'a LockedImage)| {
        let known = state.images.get(name).cloned().unwrap_or_default();
        let due_at = image.cadence.and_then(|cadence| known.due(cadence));
        let locked = image.locked.as_ref();
        UpstreamListRow {
            name,
            reference: &image.original.reference,
            digest: image.root(),
            pinned: image.is_pinned(),
            floating: image.floating,
            platforms: &image.original.platforms,
            total_size: locked.map(|locked| locked.platforms.values().map(|platform| platform.total_size).sum()),
            created: locked.and_then(|locked| locked.platforms.values().find_map(|entry| entry.created.as_deref())),
            status: known.status_of(image),
            newer: known.newer.clone(),
            last_check: known.last_check,
            cadence: image.cadence,
            due: known.is_due(image.cadence, now),
            due_at,
            reason: image.reason.as_deref(),
            source: image.source,
            mirror: image.mirror.as_deref(),
            verified: image.verified.as_ref(),
        }
    };
    lock.images.iter().map(row).collect()
}

fn cells(row: &UpstreamListRow<'_>) -> Vec<String> {
    let dash = || "-".to_owned();
    let state = match row.status {
        None => "not checked",
        Some(Status::Current) => "current",
        Some(Status::Newer) => "newer",
        Some(Status::Update) => "update",
        Some(Status::Moved) => "moved",
        Some(Status::Gone) => "gone",
        Some(Status::Unknown) => "unknown",
        Some(Status::Pending) => "pending",
    };
    let due = match (row.cadence, row.due_at) {
        (None, _) => dash(),
        (Some(_), _) if row.due => "now".to_owned(),
        (Some(_), at) => at.map_or_else(dash, |at| at.strftime("%Y-%m-%d").to_string()),
    };
    let floating = if row.floating { " (floating)" } else { "" };
    vec![
        row.name.to_owned(),
        format!("{}{floating}", row.reference),
        row.digest.map_or_else(dash, |digest| digest.short()),
        row.total_size.map_or_else(dash, size),
        row.created.map_or_else(dash, |created| created.chars().take(10).collect()),
        state.to_owned(),
        due,
    ]
}

fn why(row: &UpstreamListRow<'_>, image: &LockedImage, printer: &Printer) -> Result<()> {
    printer.line(format!("{}:", row.name))?;
    printer.line(format!("  why: {}", row.reason.unwrap_or("no reason is given")))?;
    let platforms: Vec<String> = row.platforms.iter().map(ToString::to_string).collect();
    printer.line(format!("  platforms: {}", platforms.join(", ")))?;
    if let Some(created) = row.created {
        printer.line(format!("  made: {}", day(created)))?;
    }
    if let Some(cadence) = row.cadence {
        printer.line(format!("  cadence: {}", cadence.word()))?;
    }
    if let Some(mirror) = row.mirror {
        let used = if row.source == UpstreamSource::Mirror { "" } else { ", not used" };
        printer.line(format!("  mirror: {mirror}{used}"))?;
    }
    printer.line(format!("  {}", verified(image)))
}
