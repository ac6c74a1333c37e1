//! Naming the linked store, so that Podman reads it: each way is tried, and Podman asked whether it takes it.
//!
//! A drop-in of our own is the first way: Podman 6, and builds of 5.8, honour it, and it changes no file of anybody else's. An
//! edit of the main file is the second. `graphroot` and `runroot` are added only where Podman refuses a main file without
//! them, which are the Podmans whose rootless users do not take them from there.
//!
//! A way is kept if Podman then reads the store, all its places are as before, and every rootless user who had a working Podman
//! still has one. Otherwise everything is as it was, byte for byte.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::Doctor;
use super::fix::MendError;
use crate::disk::bounded::{self, Cap};
use crate::disk::{AtPath, Staging, WriteError};
use crate::podman::linked::image_store;
use crate::podman::storage::conf_files::CONF_VARIABLE;
use crate::podman::storage::places::Places;
use crate::podman::storage::storage_conf::{self, ConfError, Missing};
use crate::podman::storage::users::{self, RootlessUser};

/// Root's own settings.
pub(crate) const ETC: &str = "etc/containers";
/// Our drop-in in a folder of drop-ins. A name by which people see whose it is.
const DROP_IN: &str = "50-windlass.conf";

/// A file with a text that may make Podman read the store.
struct NamingFile {
    path: PathBuf,
    text: String,
}

/// What a file was before.
struct FormerFile {
    path: PathBuf,
    old: Option<Vec<u8>>,
    /// Directories that were made for it, the highest first.
    made: Vec<PathBuf>,
}

impl Doctor<'_> {
    /// The one file that counts, if it was given by hand or a variable.
    pub(crate) fn named_conf(&self) -> Option<PathBuf> {
        let variable = self.caller.variables.get(CONF_VARIABLE).map(PathBuf::from);
        self.overrides.storage_conf.clone().or(variable)
    }

    /// Where a drop-in of ours would be for this user: for all users of the host, or, of a store that only root can read,
    /// for root alone.
    pub(crate) fn drop_in(&self) -> Option<PathBuf> {
        let (folder, kind) = match self.is_root() {
            true if image_store::is_open(self.store) => (self.system.join(ETC), "storage.conf.d"),
            true => (self.system.join(ETC), "storage.rootful.conf.d"),
            false => (self.files().own_folder()?, "storage.conf.d"),
        };
        Some(folder.join(kind).join(DROP_IN))
    }

    /// The main file to write into by the old rules of Podman, and the one that it starts as a copy of.
    pub(crate) fn main_conf(&self, places: &Places) -> Option<(PathBuf, PathBuf)> {
        if let Some(named) = self.named_conf() {
            return Some((named.clone(), named));
        }
        let read = places.conf.clone()?;
        let of_system = |path: &Path| path.starts_with("/usr") || (!self.is_root() && path.starts_with("/etc"));
        let main = match (self.is_root(), of_system(&read)) {
            (_, false) => read.clone(),
            (true, true) => self.system.join(ETC).join("storage.conf"),
            (false, true) => self.files().own_folder()?.join("storage.conf"),
        };
        // A rootless user's own file replaces only what the system's says for users.
        let base = if self.is_root() { read } else { main.clone() };
        Some((main, base))
    }

    /// Makes Podman read the store; a sentence for what was changed. Nothing, where another program writes that file.
    pub(crate) fn name_store(&self, places: &Places) -> Result<Vec<String>, MendError> {
        let elsewhere = self.overrides.root.is_some() || self.store.to_str().is_none();
        if places.image_stores.iter().any(|store| store == self.store) || elsewhere || self.is_nixos() && self.is_root()
        {
            return Ok(Vec::new());
        }
        let users = self.users_with_podman();
        let mut refused = None;
        for way in self.ways(places)? {
            let before = match FormerFile::write(&way) {
                Ok(before) => before,
                // The checks say what to write there by hand.
                Err(error) if is_unwritable(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            let seen = self.ask().map_err(|error| error.to_string()).and_then(|now| self.is_as_before(places, &now));
            let kept = match seen {
                Ok(true) => still_work(&users, self),
                Ok(false) => Err(String::new()),
                Err(said) => Err(said),
            };
            match kept {
                Ok(()) => {
                    let mut done = vec![format!("{} names {}", way.path.display(), self.store.display())];
                    if way.path.starts_with(self.system.join(ETC).join("storage.conf.d")) {
                        done.push("every user of this host has root's linked images now".to_owned());
                    }
                    return Ok(done);
                }
                Err(said) => {
                    before.put_back()?;
                    refused = Some((way.path, said)).filter(|(_, said)| !said.is_empty()).or(refused);
                }
            }
        }
        match refused {
            // Our own Podman is as it was; whether the memory is too is for the next to find out.
            Some((conf, said)) => Err(MendError::Refused { conf, said }),
            None => Ok(Vec::new()),
        }
    }

    /// Moves our drop-in to where those find it who can read the store: to all users' when it has been shared, to root's alone
    /// before it is closed. A sentence for what was changed; `None` where no drop-in of ours names the store.
    ///
    /// # Errors
    /// If it cannot be written, or Podman would not be as before; then all is as it was.
    pub(crate) fn move_drop_in(&self, to_all: bool) -> Result<Option<String>, MendError> {
        let [root, all] =
            ["storage.rootful.conf.d", "storage.conf.d"].map(|kind| self.system.join(ETC).join(kind).join(DROP_IN));
        let (from, to) = if to_all { (root, all) } else { (all, root) };
        let names_it =
            |conf: storage_conf::StorageConf| conf.additional.iter().any(|store| Path::new(store) == self.store);
        let there = storage_conf::StorageConf::read(&from)?;
        if !self.is_root() || !there.is_some_and(names_it) {
            return Ok(None);
        }
        let refused = |said: String| MendError::Refused { conf: to.clone(), said };
        let places = self.ask().map_err(|error| refused(error.to_string()))?;
        let users = self.users_with_podman();
        let old = bounded::read(&from, Cap::Settings).at("read", &from)?;
        let before = FormerFile::write(&NamingFile {
            path: to.clone(),
            text: storage_conf::drop_in(&self.store.to_string_lossy()),
        })?;
        fs::remove_file(&from).at("remove", &from)?;
        let seen = self.ask().map_err(|error| error.to_string()).and_then(|now| self.is_as_before(&places, &now));
        let kept = seen
            .and_then(|reads| if reads { still_work(&users, self) } else { Err("Podman does not read it".to_owned()) });
        if let Err(said) = kept {
            replace(&from, &old)?;
            before.put_back()?;
            return Err(refused(said));
        }
        from.parent().into_iter().for_each(|folder| drop(fs::remove_dir(folder)));
        let whom = if to_all {
            "every user of this host has root's linked images now"
        } else {
            "only root's Podman reads it now"
        };
        Ok(Some(format!("{} names {} instead of {}: {whom}", to.display(), self.store.display(), from.display())))
    }

    /// The ways to name the store, the best first.
    fn ways(&self, places: &Places) -> Result<Vec<NamingFile>, MendError> {
        let mut ways = Vec::new();
        let store = self.store.to_string_lossy();
        if self.named_conf().is_none()
            && let Some(path) = self.drop_in()
        {
            ways.push(NamingFile { path, text: storage_conf::drop_in(&store) });
        }
        let Some((main, base)) = self.main_conf(places).filter(|(main, _)| !main.is_symlink()) else { return Ok(ways) };
        let read = |path: &Path| match bounded::text(path, Cap::Settings) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConfError::Read { path: path.to_owned(), source }),
        };
        // A file of root's replaces the distribution's, so it starts as a copy of it.
        let text = match read(&main)? {
            Some(text) => text,
            None => read(&base)?.unwrap_or_default(),
        };
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut keys = vec![("driver", places.driver.clone()), ("graphroot", path(&places.graph_root))];
        // A rootless user's is another one in each session.
        keys.extend(self.is_root().then(|| ("runroot", path(&places.run_root))));
        for keys in [&keys[..1], &keys] {
            let missing: Vec<Missing<'_>> = keys.iter().map(|(key, value)| Missing { key, value }).collect();
            let text = storage_conf::with_store(&text, &main, &store, &missing)?;
            if ways.last().is_none_or(|way| way.text != text) {
                ways.push(NamingFile { path: main.clone(), text });
            }
        }
        Ok(ways)
    }

    /// Whether Podman reads the store now. An error if anything else has changed.
    fn is_as_before(&self, before: &Places, now: &Places) -> Result<bool, String> {
        let others = |places: &Places| {
            places.image_stores.iter().filter(|store| *store != self.store).cloned().collect::<Vec<PathBuf>>()
        };
        let roots = |places: &Places| (places.graph_root.clone(), places.run_root.clone(), places.driver.clone());
        if roots(before) != roots(now) {
            return Err(format!(
                "images would be in {} instead of {}",
                now.graph_root.display(),
                before.graph_root.display()
            ));
        }
        if let Some(lost) = others(before).iter().find(|store| !now.image_stores.contains(store)) {
            return Err(format!("Podman would not read {} any more", lost.display()));
        }
        Ok(now.image_stores.iter().any(|store| store == self.store))
    }

    /// The rootless users who have a working Podman now, where root is about to change what they read.
    pub(crate) fn users_with_podman(&self) -> Vec<RootlessUser> {
        if !self.is_root() || self.named_conf().is_some() {
            return Vec::new();
        }
        let works = |user: &RootlessUser| user.ask(self.path(), self.progress).is_ok();
        users::rootless(self.system).into_iter().filter(works).collect()
    }

    /// Takes the default `graphroot` and `runroot` out of /etc's main file, where this Podman makes them those of rootless users
    /// too; a sentence for it.
    pub(crate) fn free_rootless(&self, places: &Places) -> Result<Option<String>, MendError> {
        let Some((path, text)) = self.roots_for_all(places) else { return Ok(None) };
        let mut new = text.clone();
        for (key, value) in [("graphroot", &places.graph_root), ("runroot", &places.run_root)] {
            new = storage_conf::without(&new, &path, key, &value.to_string_lossy())?;
        }
        if new == text || path.is_symlink() {
            return Ok(None);
        }
        let users = self.users_with_podman();
        let before = match FormerFile::write(&NamingFile { path: path.clone(), text: new }) {
            Err(error) if is_unwritable(&error) => return Ok(None),
            before => before?,
        };
        let same = self.ask().is_ok_and(|now| now == *places);
        if !same || still_work(&users, self).is_err() {
            // They are not the defaults, or other users rely on them.
            before.put_back()?;
            return Ok(None);
        }
        Ok(Some(format!(
            "{} has no graphroot and no runroot any more: they are the defaults for root, and rootless users have \
                         their own",
            path.display()
        )))
    }

    /// /etc's main file, if it says where images of rootless users are by the new rules of Podman: `graphroot` counts for them too,
    /// whatever `rootless_storage_path` says (Podman 5.8.6 and 6.1.1), but for one with a variable such as `$HOME` in it.
    pub(crate) fn roots_for_all(&self, places: &Places) -> Option<(PathBuf, String)> {
        let path = self.system.join(ETC).join("storage.conf");
        if !self.is_root() || !places.has_new_rules() || self.named_conf().is_some() || self.is_nixos() {
            return None;
        }
        let text = bounded::text(&path, Cap::Settings).ok()?;
        let conf = storage_conf::StorageConf::parse(&text, &path).ok()?;
        let is_for_all = conf.graph_root.is_some_and(|root| !root.contains('$'));
        is_for_all.then_some((path, text))
    }
}

/// Whether all of them still have a working Podman.
fn still_work(users: &[RootlessUser], doctor: &Doctor<'_>) -> Result<(), String> {
    for user in users {
        if let Err(error) = user.ask(doctor.path(), doctor.progress) {
            return Err(format!("the Podman of user {} would not work: {error}", user.name));
        }
    }
    Ok(())
}

/// Whether a file cannot be written because of what it is on: NixOS' /etc, an image's.
fn is_unwritable(error: &WriteError) -> bool {
    matches!(error.source.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

impl FormerFile {
    /// Writes a way's text into its file.
    fn write(way: &NamingFile) -> Result<Self, WriteError> {
        let path = way.path.clone();
        let old = match bounded::read(&path, Cap::Settings) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(WriteError { action: "read", path, source }),
        };
        let missing = |path: &&Path| !path.exists();
        let mut made: Vec<PathBuf> = path.ancestors().skip(1).take_while(missing).map(Path::to_owned).collect();
        made.reverse();
        for directory in &made {
            fs::create_dir(directory).at("create", directory)?;
            fs::set_permissions(directory, Permissions::from_mode(0o755)).at("change the mode of", directory)?;
        }
        let before = Self { path, old, made };
        if let Err(error) = replace(&before.path, way.text.as_bytes()) {
            before.remove_made();
            return Err(error);
        }
        Ok(before)
    }

    /// Makes all as it was.
    fn put_back(self) -> Result<(), WriteError> {
        match &self.old {
            Some(old) => replace(&self.path, old)?,
            None => fs::remove_file(&self.path).at("remove", &self.path)?,
        }
        self.remove_made();
        Ok(())
    }

    /// Others may have put something there since: only what is empty goes.
    fn remove_made(&self) {
        self.made.iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
    }
}

/// Writes a settings file in one step, with the owner and mode of the one that was there.
fn replace(path: &Path, text: &[u8]) -> Result<(), WriteError> {
    let (owner, mode) = match fs::metadata(path) {
        Ok(metadata) => (Some((metadata.uid(), metadata.gid())), metadata.mode() & 0o7777),
        Err(_) => (None, 0o644),
    };
    let staging = Staging::file(path)?;
    let new = staging.path();
    fs::write(new, text).at("write", new)?;
    if let Some((uid, gid)) = owner {
        chown(new, Some(uid), Some(gid)).at("change the owner of", new)?;
    }
    fs::set_permissions(new, Permissions::from_mode(mode)).at("change the mode of", new)?;
    staging.publish()
}
