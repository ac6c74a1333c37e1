//! What changes with time: when an image was looked up, and how it stood. A file of its own, which nobody commits.
//!
//! To lose it costs nothing but the answer to "when?"; so it is not guarded by more than being replaced in one step.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::check::{Finding, Status};
use super::lock::{Cadence, Others};
use crate::blobs::{At, Staging, WriteError, read_file, write_file};
use crate::digest::Digest;
use crate::lock_file::to_text;
use crate::progress::Progress;

const VERSION: u32 = 1;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It cannot be read, or is something else.
    #[error("{path}: {reason}; it can be removed: only the times of past checks are in it", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be written.
    #[error("{0}")]
    Write(#[from] WriteError),
}

/// What is known of all images of a lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    version: u32,
    /// When anything was looked up last.
    pub last_check: Option<Timestamp>,
    /// By the names in the lock.
    pub images: BTreeMap<String, ImageState>,
    /// Other keys.
    #[serde(flatten)]
    pub other: Others,
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageState {
    /// When it was looked up last.
    pub last_check: Option<Timestamp>,
    /// How it stood then.
    pub status: Option<Status>,
    /// What upstream had, the last time that it told.
    pub seen: Option<Digest>,
    /// What its mirror has.
    pub local_digest: Option<Digest>,
    /// When the mirror got that.
    pub synced_at: Option<Timestamp>,
    /// Other keys.
    #[serde(flatten)]
    pub other: Others,
}

impl Default for State {
    fn default() -> Self {
        Self { version: VERSION, last_check: None, images: BTreeMap::new(), other: Others::new() }
    }
}

impl State {
    /// Reads a state; if there is none, nothing is known.
    ///
    /// # Errors
    /// If it is something else.
    pub fn read(path: &Path) -> Result<Self, StateError> {
        let damaged = |reason: String| StateError::Damaged { path: path.to_owned(), reason };
        let bytes = match read_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            bytes => bytes.map_err(|error| damaged(error.to_string()))?,
        };
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("is no state: {error}")))?;
        if state.version != VERSION {
            return Err(damaged(format!("is of version {}, and this windlass knows {VERSION}", state.version)));
        }
        Ok(state)
    }

    /// Replaces the file, in one step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path, progress: &Progress) -> Result<(), StateError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).at("create", folder)?;
        }
        let staging = Staging::file(path)?;
        write_file(staging.path(), to_text(self).as_bytes(), progress)?;
        Ok(staging.publish()?)
    }

    /// Takes down what a check found. A look-up that failed is no look at the image: it is due as it was.
    pub fn record(&mut self, findings: &[Finding], now: Timestamp) {
        for finding in findings.iter().filter(|finding| finding.status != Status::Pending) {
            let image = self.images.entry(finding.name.clone()).or_default();
            image.status = Some(finding.status);
            if finding.status != Status::Unknown {
                image.last_check = Some(now);
                image.seen = finding.found.or(image.seen);
            }
        }
        self.last_check = Some(now);
    }

    /// Forgets images that are not in the lock any more.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.images.retain(|name, _| is_there(name));
    }
}

impl ImageState {
    /// When the next look is due by a cadence; `None` if it was never looked up, which is now.
    #[must_use]
    pub fn due(&self, cadence: Cadence) -> Option<Timestamp> {
        let hours = i64::from(cadence.days()) * 24;
        self.last_check?.checked_add(hours.hours()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str, status: Status, found: Option<Digest>) -> Finding {
        Finding { name: name.to_owned(), status, found, why: None, changes: Vec::new() }
    }

    #[test]
    fn a_failed_look_up_is_no_look() {
        let (first, second): (Timestamp, Timestamp) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-09T00:00:00Z".parse().unwrap());
        let digest = Digest::of(b"a");
        let mut state = State::default();
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
        assert_eq!(State::read(&path).unwrap(), State::default());
        let mut state = State::default();
        state.record(&[finding("a", Status::Moved, None)], "2026-01-01T00:00:00Z".parse().unwrap());
        state.other.insert("later".to_owned(), true.into());
        state.write(&path, &progress).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
        for text in ["", "{\"version\":2,\"images\":{}}", "[]"] {
            fs::write(&path, text).unwrap();
            assert!(State::read(&path).unwrap_err().to_string().contains("it can be removed"), "{text}");
        }
    }
}
