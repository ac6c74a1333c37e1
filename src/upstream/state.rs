//! What changes with time: when an image was looked up, and how it stood. A file of its own, which is not committed.
//!
//! To lose it costs nothing but the answer to "when?"; so it is not guarded by more than being replaced in one step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::check::{ImageFinding, Status};
use super::lock::{Cadence, LockedImage, OtherKeys, UpstreamLock};
use super::newer::NewerVersions;
use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::disk::files::write_file;
use crate::disk::lock_file::to_text;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, WriteError};
use crate::oci::digest::Digest;

const VERSION: u32 = 1;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StateError {
    /// It cannot be read, or is something else.
    #[error("{path}: {reason}; it can be removed: only the times of past checks are in it", path = path.display())]
    Damaged { path: PathBuf, reason: String },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for StateError {
    fn class(&self) -> Class {
        match self {
            Self::Write(error) => error.class(),
            Self::Damaged { .. } => Class::Failed,
        }
    }
}

/// What is known of all images of a lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamState {
    version: u32,
    /// When anything was looked up last.
    pub(crate) last_check: Option<Timestamp>,
    /// By the names in the lock.
    pub(crate) images: BTreeMap<String, ImageState>,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ImageState {
    /// When it was looked up last.
    pub(crate) last_check: Option<Timestamp>,
    /// How it stood then.
    pub(crate) status: Option<Status>,
    /// What upstream had, the last time that it told.
    pub(crate) seen: Option<Digest>,
    /// The newer versions that it had then.
    #[serde(skip_serializing_if = "NewerVersions::is_empty")]
    pub(crate) newer: NewerVersions,
    /// What its mirror has.
    pub(crate) local_digest: Option<Digest>,
    /// When the mirror got that.
    pub(crate) synced_at: Option<Timestamp>,
    /// Other keys.
    #[serde(flatten)]
    pub(crate) other: OtherKeys,
}

impl Default for UpstreamState {
    fn default() -> Self {
        Self { version: VERSION, last_check: None, images: BTreeMap::new(), other: OtherKeys::new() }
    }
}

impl UpstreamState {
    /// Reads a state; without a file, nothing is known.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn read(path: &Path) -> Result<Self, StateError> {
        let damaged = |reason: String| StateError::Damaged { path: path.to_owned(), reason };
        let bytes = match bounded::read(path, Cap::Document) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            bytes => bytes.map_err(|error| damaged(error.to_string()))?,
        };
        let state: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("is not a state: {error}")))?;
        if state.version != VERSION {
            return Err(damaged(format!("is of version {}, and this windlass knows {VERSION}", state.version)));
        }
        Ok(state)
    }

    /// Replaces the file, in one step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, path: &Path, progress: &Progress) -> Result<(), StateError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).at("create", folder)?;
        }
        let staging = Staging::file(path)?;
        write_file(staging.path(), to_text(self).as_bytes(), progress)?;
        Ok(staging.publish()?)
    }

    /// Takes down what a check found. A look-up that failed is not a look at the image: it is due as it was. Of one that was not
    /// made, what was known stays.
    pub(crate) fn record(&mut self, findings: &[ImageFinding], now: Timestamp) {
        for finding in findings.iter().filter(|finding| finding.status != Status::Pending && !finding.skipped) {
            let image = self.images.entry(finding.name.clone()).or_default();
            image.status = Some(finding.status);
            if finding.status != Status::Unknown {
                image.last_check = Some(now);
                image.seen = finding.found.or(image.seen);
                image.newer = finding.newer.clone().unwrap_or_else(|| std::mem::take(&mut image.newer));
            }
        }
        self.last_check = Some(now);
    }

    /// Says of an image that was not looked up what an earlier look found, with its time; and of one whose newer versions were
    /// not looked up, which there were. A newer major version counts where `major` is set.
    pub(crate) fn recall(&self, finding: &mut ImageFinding, lock: &UpstreamLock, major: bool) {
        let (Some(known), Some(image)) = (self.images.get(&finding.name), lock.images.get(&finding.name)) else {
            return;
        };
        if let (true, Some(status), Some(time)) = (finding.skipped, known.status_of(image), known.last_check) {
            finding.status = status;
            finding.found = known.seen;
            finding.newer = Some(known.newer.clone());
            finding.as_of = Some(time);
        } else if finding.newer.is_none() && finding.found.is_some() && finding.found == known.seen {
            finding.is_known(known.newer.clone(), major);
        }
    }

    /// Forgets images that are not in the lock any more.
    pub(crate) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.images.retain(|name, _| is_there(name));
    }
}

impl ImageState {
    /// How the image stands as far as is known: the lock may have changed since the last look.
    #[must_use]
    pub(crate) fn status_of(&self, image: &LockedImage) -> Option<Status> {
        match self.status {
            _ if !image.is_answered() => Some(Status::Pending),
            Some(Status::Update | Status::Moved | Status::Current) if self.seen == image.root() => {
                Some(Status::Current)
            }
            // What was looked up was another lock.
            Some(Status::Current | Status::Newer) if self.seen != image.root() => None,
            status => status,
        }
    }

    /// Whether the cadence asks for a look by now; never for an image without one.
    #[must_use]
    pub(crate) fn is_due(&self, cadence: Option<Cadence>, now: Timestamp) -> bool {
        cadence.is_some_and(|cadence| self.due(cadence).is_none_or(|due| due <= now))
    }

    /// When the next look is due by a cadence; `None` if it was never looked up, which is now.
    #[must_use]
    pub(crate) fn due(&self, cadence: Cadence) -> Option<Timestamp> {
        let hours = i64::from(cadence.days()) * 24;
        self.last_check?.checked_add(hours.hours()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str, status: Status, found: Option<Digest>) -> ImageFinding {
        ImageFinding {
            name: name.to_owned(),
            status,
            found,
            why: None,
            changes: Vec::new(),
            newer: None,
            skipped: false,
            as_of: None,
            class: None,
        }
    }

    #[test]
    fn a_failed_look_up_is_no_look() {
        let (first, second): (Timestamp, Timestamp) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-09T00:00:00Z".parse().unwrap());
        let digest = Digest::of(b"a");
        let mut state = UpstreamState::default();
        state.record(&[finding("a", Status::Current, Some(digest)), finding("b", Status::Pending, None)], first);
        state.record(&[finding("a", Status::Unknown, None)], second);
        let image = &state.images["a"];
        assert_eq!((image.last_check, image.seen, image.status), (Some(first), Some(digest), Some(Status::Unknown)));
        assert_eq!(image.due(Cadence::Weekly).unwrap().to_string(), "2026-01-08T00:00:00Z");
        assert_eq!((state.last_check, state.images.len()), (Some(second), 1));
        assert_eq!(ImageState::default().due(Cadence::Daily), None);
    }

    #[test]
    fn it_survives_a_round_trip_and_tells_what_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state.json");
        let progress = Progress::new();
        assert_eq!(UpstreamState::read(&path).unwrap(), UpstreamState::default());
        let mut state = UpstreamState::default();
        state.record(&[finding("a", Status::Moved, None)], "2026-01-01T00:00:00Z".parse().unwrap());
        state.other.insert("later".to_owned(), true.into());
        state.write(&path, &progress).unwrap();
        assert_eq!(UpstreamState::read(&path).unwrap(), state);
        for text in ["", "{\"version\":2,\"images\":{}}", "[]"] {
            fs::write(&path, text).unwrap();
            assert!(UpstreamState::read(&path).unwrap_err().to_string().contains("it can be removed"), "{text}");
        }
    }
}
