//! Locking what upstream says now.

use std::collections::BTreeMap;

use super::Registries;
use super::lock::{Locked, LockedImage, UpstreamLock};
use super::resolve::{ReferenceResolveError, adopt, resolve};
use super::signature::AskedSigner;
use crate::disk::progress::Progress;
use crate::oci::digest::Digest;
use crate::registry::error::RegistryError;

/// What became of an image.
#[derive(Debug)]
pub(crate) enum UpdateOutcome {
    /// Upstream says the same.
    Same,
    /// The lock has something else now.
    Changed {
        /// What it had.
        from: Option<Digest>,
        /// What it has.
        to: Digest,
        /// Bytes of blobs that no image of the lock had.
        fetch: u64,
        /// What is worth saying of it in a commit: that a version tag was moved, or the new version.
        note: Option<String>,
    },
    /// A tag with a version names something else, which was not accepted: the lock has what it had.
    Moved {
        /// What the lock has.
        from: Digest,
        /// What the tag names.
        to: Digest,
    },
    /// Never locked, and not asked for.
    Left,
    /// The lock has what it had.
    Failed(ReferenceResolveError),
}

/// Which images to lock again.
#[derive(Debug, Clone, Default)]
pub(crate) struct UpdateOptions {
    /// Also those that were never locked.
    pub(crate) pending: bool,
    /// Also those that did not change.
    pub(crate) force: bool,
    /// The images whose version tag may name something else now.
    pub(crate) accept_moved: Vec<String>,
}

/// Looks up these images, and changes the lock where upstream says something else.
///
/// # Errors
/// If the job is told to stop; whatever else goes wrong is the outcome of its image.
pub(crate) fn update(
    registries: &Registries,
    lock: &mut UpstreamLock,
    names: &[String],
    options: &UpdateOptions,
    progress: &Progress,
) -> Result<Vec<(String, UpdateOutcome)>, ReferenceResolveError> {
    let mut outcomes = Vec::new();
    for name in names {
        let outcome = match one(registries, lock, name, options, progress) {
            Ok(outcome) => outcome,
            Err(error @ ReferenceResolveError::Registry(RegistryError::Stopped { .. })) => return Err(error),
            Err(error) => UpdateOutcome::Failed(error),
        };
        outcomes.push((name.clone(), outcome));
    }
    Ok(outcomes)
}

fn one(
    registries: &Registries,
    lock: &mut UpstreamLock,
    name: &str,
    options: &UpdateOptions,
    progress: &Progress,
) -> Result<UpdateOutcome, ReferenceResolveError> {
    let Some(image) = lock.images.get(name) else { return Ok(UpdateOutcome::Left) };
    let client = registries.client(image.insecure);
    if image.locked.is_none() && !options.pending {
        return Ok(UpdateOutcome::Left);
    }
    if is_settled(image, &lock.trust_roots)? && !options.force {
        let at = image.location()?;
        // What a digest names never changes; for a tag a HEAD request tells, which is not a pull.
        if at.digest().is_some() || client.head(&at, &at.which(), progress)?.digest == image.root() {
            return Ok(UpdateOutcome::Same);
        }
    }
    let mut resolved = resolve(client, image, &lock.trust_roots, progress)?;
    let from = image.root();
    let to = resolved.locked.root.digest;
    let moved = from.filter(|from| *from != to && image.is_answered() && !image.floating);
    if let Some(from) = moved.filter(|_| !options.accept_moved.iter().any(|accepted| accepted == name)) {
        return Ok(UpdateOutcome::Moved { from, to });
    }
    let tag = |locked: &Locked| locked.tag.clone();
    let (old, new) = (image.locked.as_ref().and_then(tag), tag(&resolved.locked));
    let note = match (moved, old, new) {
        (Some(_), _, _) => Some("its version tag was moved".to_owned()),
        (None, Some(old), Some(new)) if old != new => Some(format!("{old} -> {new}")),
        _ if from == Some(to) && image.verified.is_some() && image.verified != resolved.verified => {
            Some("signature verified anew".to_owned())
        }
        _ => None,
    };
    if let Some(Locked { other, .. }) = &image.locked {
        resolved.locked.other = other.clone();
    }
    let new = resolved.blobs.iter().filter(|(digest, _)| !lock.blobs.contains_key(digest));
    let fetch = new.map(|(_, blob)| blob.size).sum();
    // A copy, so that what cannot be adopted leaves no trace.
    let mut next = lock.clone();
    adopt(&mut next, name, resolved)?;
    if next.images == lock.images {
        return Ok(UpdateOutcome::Same);
    }
    *lock = next;
    Ok(UpdateOutcome::Changed { from, to, fetch, note })
}

/// Whether the lock has an answer to what is asked for, so that only upstream can have changed.
fn is_settled(image: &LockedImage, trust_roots: &BTreeMap<Digest, String>) -> Result<bool, ReferenceResolveError> {
    let is_met = match (&image.policy, &image.verified) {
        (None, None) => true,
        (Some(policy), Some(verified)) => AskedSigner::of(policy, trust_roots)?.is_met_by(verified),
        (None, Some(_)) | (Some(_), None) => false,
    };
    Ok(is_met && image.is_answered())
}

/// The message of a commit that changes the lock; `None` if nothing changed.
#[must_use]
pub(crate) fn message(outcomes: &[(String, UpdateOutcome)]) -> Option<String> {
    let line = |(name, outcome): &(String, UpdateOutcome)| match outcome {
        UpdateOutcome::Changed { note: Some(note), .. } => Some(format!("- {name} ({note})\n")),
        UpdateOutcome::Changed { note: None, .. } => Some(format!("- {name}\n")),
        _ => None,
    };
    let lines: String = outcomes.iter().filter_map(line).collect();
    (!lines.is_empty()).then(|| format!("chore: Update container versions\n\nUpdates digests for:\n{lines}"))
}
