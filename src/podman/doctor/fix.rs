//! `windlass doctor --fix`: the store first, then the line that names it, then Podman is asked.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::Doctor;
use crate::class::{Class, Classified};
use crate::disk::WriteError;
use crate::podman::linked::{LinkedStore, image_store};
use crate::podman::storage::ask::missing_store;
use crate::podman::storage::places::PlacesError;
use crate::podman::storage::storage_conf::ConfError;

/// Why something was not mended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MendError {
    /// A file or directory cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// `storage.conf` cannot be changed.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// Podman does not work with the file, or another user's does not; all is as it was.
    #[error("{conf}: with the store in it, {said}; it was put back as it was", conf = conf.display())]
    Refused {
        conf: PathBuf,
        /// What Podman said.
        said: String,
    },
}

impl Classified for MendError {
    fn class(&self) -> Class {
        match self {
            Self::Write(error) => error.class(),
            Self::Conf(error) => error.class(),
            Self::Refused { .. } => Class::Failed,
        }
    }
}

impl Doctor<'_> {
    /// Mends what can be mended without losing anything; a sentence for each thing that was changed.
    ///
    /// # Errors
    /// If something cannot be written, or Podman does not work afterwards.
    pub(crate) fn mend(&self) -> Result<Vec<String>, MendError> {
        let mut done = Vec::new();
        // What this user may not write to is a problem that the checks name; a store that root shares need only be named.
        if self.may_create() && image_store::claim(self.store).is_err() {
            return Ok(done);
        }
        // No command of Podman's works while a file names a store that is not there, or not whole.
        if !self.naming().is_empty() || LinkedStore::is_at(self.store) {
            self.make_store(&mut done)?;
        }
        let mut answer = self.ask();
        if let Err(PlacesError::Failed { said, .. }) = &answer
            && missing_store(said).is_some_and(|missing| missing == self.store)
            && self.make_store(&mut done)?
        {
            answer = self.ask();
        }
        let Ok(places) = answer else { return Ok(done) };
        if places.driver != "overlay" {
            return Ok(done);
        }
        self.make_store(&mut done)?;
        // Never the line before the store.
        if image_store::own_faults(self.store).is_empty() {
            done.extend(self.name_store(&places)?);
        }
        done.extend(self.free_rootless(&places)?);
        Ok(done)
    }

    /// Makes the store, or what is missing of it; whether anything was.
    fn make_store(&self, done: &mut Vec<String>) -> Result<bool, MendError> {
        if image_store::own_faults(self.store).is_empty() || !self.may_create() {
            return Ok(false);
        }
        let made = image_store::create(self.store)?;
        let Some(first) = made.first() else { return Ok(false) };
        done.push(if first == self.store {
            format!("made the store {}", first.display())
        } else {
            let names: Vec<String> = made.iter().map(|path| path.display().to_string()).collect();
            format!("mended the store: {}", names.join(" "))
        });
        Ok(true)
    }

    /// Whether this user is the one to make the store: a rootless one cannot, in root's directories.
    fn may_create(&self) -> bool {
        if let Ok(found) = fs::metadata(self.store) {
            return found.uid() == self.caller.uid;
        }
        let there = self.store.ancestors().find(|path| path.exists());
        there.is_some_and(|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok())
    }
}
