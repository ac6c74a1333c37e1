//! `windlass doctor --fix`: the store first, then the line that names it, then Podman is asked.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::doctor::Doctor;
use super::image_store;
use super::places::Places;
use super::rules::{GRAPH_ROOT, RUN_ROOT};
use super::storage_conf::{self, ConfError, Missing};
use crate::blobs::{At, Staging, WriteError};

/// Why something was not mended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MendError {
    /// A file or directory cannot be written.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// `storage.conf` cannot be changed.
    #[error("{0}")]
    Conf(#[from] ConfError),
    /// Podman does not work with the new `storage.conf`; the old one is back.
    #[error("{conf}: with the store in it, {said}; it is as it was before", conf = conf.display())]
    Refused {
        /// The file.
        conf: PathBuf,
        /// What Podman said.
        said: String,
    },
}

impl Doctor<'_> {
    /// Mends what can be mended without losing anything; a sentence for each thing that was changed.
    ///
    /// # Errors
    /// If something cannot be written, or Podman does not work afterwards.
    pub fn mend(&self) -> Result<Vec<String>, MendError> {
        let mut done = Vec::new();
        let places = match Places::find(self.caller, self.overrides) {
            Ok(places) if places.driver == "overlay" => Some(places),
            Err(error) if self.can_fill_in(&error) => None,
            // Each of the others is a problem that the checks name.
            _ => return Ok(done),
        };
        if image_store::claim(self.store).is_err() {
            return Ok(done);
        }
        if !image_store::own_faults(self.store).is_empty() && self.may_create() {
            let made = image_store::create(self.store)?;
            let [first, ..] = &made[..] else { return Ok(done) };
            done.push(if first == self.store {
                format!("made the store {}", first.display())
            } else {
                let names: Vec<String> = made.iter().map(|path| path.display().to_string()).collect();
                format!("mended the store: {}", names.join(" "))
            });
        }
        // Never the line before the store.
        if image_store::own_faults(self.store).is_empty() {
            done.extend(self.name_store(places.as_ref())?);
        }
        Ok(done)
    }

    /// Whether this user is the one to make the store: a rootless one cannot, in root's directories.
    fn may_create(&self) -> bool {
        if let Ok(found) = fs::metadata(self.store) {
            return found.uid() == self.caller.uid;
        }
        let there = self.store.ancestors().find(|path| path.exists());
        there.is_some_and(|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok())
    }

    fn name_store(&self, places: Option<&Places>) -> Result<Option<String>, MendError> {
        let elsewhere = self.overrides.root.is_some() || self.caller.variables.contains_key("STORAGE_OPTS");
        let Ok(conf) = Places::conf_to_write(self.caller, self.overrides) else { return Ok(None) };
        let theirs = self.is_nixos() && self.is_root();
        if elsewhere || theirs || conf.is_symlink() || self.store.to_str().is_none() {
            return Ok(None);
        }
        let old = match fs::read_to_string(&conf) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(ConfError::Read { path: conf, source }.into()),
        };
        // A file of root's replaces the distribution's, so it starts as a copy of it.
        let copied = places.and_then(|places| places.conf.as_ref()).filter(|path| old.is_none() && **path != conf);
        let base = match copied {
            Some(path) => fs::read_to_string(path).map_err(|source| ConfError::Read { path: path.clone(), source })?,
            None => old.clone().unwrap_or_default(),
        };
        let missing = self.missing(places, old.is_none());
        let missing: Vec<Missing<'_>> = missing.iter().map(|(key, value)| Missing { key, value }).collect();
        let new = storage_conf::with_store(&base, &conf, &self.store.to_string_lossy(), &missing)?;
        if old.as_ref() == Some(&new) {
            return Ok(None);
        }
        // What already fails cannot be asked afterwards. Without places Podman would choose a driver for ever: not asked.
        if places.is_some() && matches!(self.podman_info(), Some(Err(_))) {
            return Ok(None);
        }
        replace(&conf, &new)?;
        if let Some(Err(said)) = self.podman_info() {
            match &old {
                Some(old) => replace(&conf, old)?,
                None => fs::remove_file(&conf).at("remove", &conf)?,
            }
            return Err(MendError::Refused { conf, said });
        }
        Ok(Some(format!("{} names {}", conf.display(), self.store.display())))
    }

    /// The keys to fill in: what Podman has now, so that a new file changes nothing, or else what is usual.
    fn missing(&self, places: Option<&Places>, new: bool) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let Some(places) = places else {
            let mut usual = vec![("driver", "overlay".to_owned())];
            if self.is_root() {
                usual.extend([("graphroot", GRAPH_ROOT.to_owned()), ("runroot", RUN_ROOT.to_owned())]);
            }
            return usual;
        };
        let mut keys = vec![("driver", places.driver.clone())];
        if new {
            keys.push(("graphroot", path(&places.graph_root)));
            // A rootless user's is another one in each session.
            keys.extend((!places.rootless).then(|| ("runroot", path(&places.run_root))));
        }
        keys
    }
}

/// Writes a settings file in one step, with the owner and mode of the one that was there.
fn replace(path: &Path, text: &str) -> Result<(), WriteError> {
    let (owner, mode) = match fs::metadata(path) {
        Ok(metadata) => (Some((metadata.uid(), metadata.gid())), metadata.mode() & 0o7777),
        Err(_) => (None, 0o644),
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    let staging = Staging::file(path)?;
    let new = staging.path();
    fs::write(new, text).at("write", new)?;
    if let Some((uid, gid)) = owner {
        chown(new, Some(uid), Some(gid)).at("change the owner of", new)?;
    }
    fs::set_permissions(new, Permissions::from_mode(mode)).at("change the mode of", new)?;
    staging.publish()
}
