//! What the verbs of the cache say of each image, and the rate of hits.

use std::path::PathBuf;

use serde::Serialize;

use crate::cache::bases::BaseSource;
use crate::cache::entries::EntryPresence;
use crate::cache::key::InputChange;
use crate::cache::look::CacheLook;
use crate::cli::failure::Result;
use crate::cli::generations::time;
use crate::cli::printer::{Printer, count, size};
use crate::names::Name;
use crate::oci::digest::Digest;
use crate::oci::reference::Reference;

/// How many changes are told in lines.
const MOST_CHANGES: usize = 20;

/// A base image, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CacheBase {
    name: String,
    digest: Option<Digest>,
    /// Who says that it is this digest.
    source: BaseSource,
    /// Whether Podman has it.
    present: bool,
}

/// One image, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CacheRow {
    pub(super) name: Name,
    image: Reference,
    key: Digest,
    /// Whether an entry had the key before anything was done.
    pub(super) hit: bool,
    /// Whether Podman had the image of the entry before anything was done.
    presence: EntryPresence,
    /// What was done, or would be.
    pub(super) action: CacheAction,
    /// The entry with the key, as it is now.
    pub(super) entry: Option<PathBuf>,
    /// The digest of its manifest.
    pub(super) digest: Option<Digest>,
    /// When it was kept.
    created: Option<String>,
    /// How many entries there are.
    entries: usize,
    /// Files of the context that a build can see.
    files: usize,
    /// Their bytes.
    bytes: u64,
    /// How many of them had to be read.
    read: usize,
    bases: Vec<CacheBase>,
    /// What is not as it was when the image that is loaded, or else the newest, was built.
    changes: Vec<InputChange>,
    /// What is wrong with entries.
    pub(super) problems: Vec<String>,
}

/// What is done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum CacheAction {
    Nothing,
    Load,
    Build,
    Save,
}

/// All images, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CacheReport {
    dry_run: bool,
    images: Vec<CacheRow>,
    hits: usize,
    misses: usize,
    built: usize,
    loaded: usize,
    saved: usize,
    /// How long it took, in seconds.
    seconds: f64,
}

impl CacheRow {
    pub(super) fn new(name: &Name, look: &CacheLook, changes: Vec<InputChange>) -> Result<Self> {
        let created = look.entry.as_ref().map(|entry| time(entry.facts.created)).transpose()?;
        let base = |base: &crate::cache::bases::BaseImage| CacheBase {
            name: base.name.clone(),
            digest: base.digest,
            source: base.source,
            present: base.id.is_some(),
        };
        let problem = |(path, what): &(PathBuf, String)| format!("{}: {what}", path.display());
        Ok(Self {
            name: name.clone(),
            image: look.inputs.image.clone(),
            key: look.key,
            hit: look.entry.is_some(),
            presence: look.presence,
            action: CacheAction::Nothing,
            entry: look.entry.as_ref().map(|entry| entry.path.clone()),
            digest: look.entry.as_ref().map(|entry| entry.facts.digest),
            created,
            entries: look.entries.len(),
            files: look.files,
            bytes: look.size,
            read: look.read,
            bases: look.bases.iter().chain(look.context_images.values()).map(base).collect(),
            changes,
            problems: look.unreadable.iter().map(problem).collect(),
        })
    }

    /// What an update would do.
    pub(super) fn due(&self) -> CacheAction {
        match (self.hit, self.presence) {
            (true, EntryPresence::Present) => CacheAction::Nothing,
            (true, _) => CacheAction::Load,
            (false, _) => CacheAction::Build,
        }
    }

    fn line(&self, dry_run: bool) -> String {
        let state = match (self.hit, self.presence) {
            (true, EntryPresence::Present) => "hit, present",
            (true, EntryPresence::Unnamed) => "hit, present under another name",
            (true, EntryPresence::Missing) => "hit, not loaded",
            (false, _) if self.entries == 0 => "miss, no entry yet",
            (false, _) => "miss",
        };
        let action = match (self.action, dry_run) {
            (CacheAction::Nothing, _) => "",
            (CacheAction::Load, false) => ", loaded",
            (CacheAction::Load, true) => ", would load",
            (CacheAction::Build, false) => ", built",
            (CacheAction::Build, true) => ", would build",
            (CacheAction::Save, false) => ", saved",
            (CacheAction::Save, true) => ", would save",
        };
        let Self { name, key, files, bytes, .. } = self;
        let context = format!("{} of {}", count(*files, "file"), size(*bytes));
        format!("{name}: {state}{action}  {}  key {}, {context}", self.image, key.short())
    }
}

/// Tells all rows.
pub(super) fn report(images: Vec<CacheRow>, dry_run: bool, seconds: f64, printer: &Printer) -> Result<()> {
    let number = |action| images.iter().filter(|row| row.action == action).count();
    let (built, loaded, saved) = (number(CacheAction::Build), number(CacheAction::Load), number(CacheAction::Save));
    let hits = images.iter().filter(|row| row.hit).count();
    let misses = images.len() - hits;
    if printer.json() {
        return printer.value(&CacheReport { dry_run, images, hits, misses, built, loaded, saved, seconds });
    }
    for row in &images {
        printer.line(row.line(dry_run))?;
        for change in row.changes.iter().take(MOST_CHANGES) {
            printer.line(format!("  {change}"))?;
        }
        if row.changes.len() > MOST_CHANGES {
            printer.line(format!("  and {} more; --json has all", row.changes.len() - MOST_CHANGES))?;
        }
        for base in row.bases.iter().filter(|base| base.digest.is_none()) {
            printer.line(format!("  base image {} is not in Podman, and no digest is known for it", base.name))?;
        }
        row.problems.iter().for_each(|problem| printer.note(format!("warning: {problem}")));
    }
    let would = if dry_run { "would be " } else { "" };
    let done = [(built, "built"), (loaded, "loaded"), (saved, "saved")];
    let done = done.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!(", {number} {would}{what}"));
    printer.line(format!(
        "{}: {hits} hit, {misses} missed{}; took {seconds:.1} s",
        count(images.len(), "image"),
        done.collect::<String>()
    ))
}
