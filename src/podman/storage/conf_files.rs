//! The files that may say where some Podman keeps its things, by the old rules of containers-storage and by the new ones.
//!
//! Which of them count, and how, is Podman's business alone: windlass asks it ([`super::ask`]). The list is needed to see
//! that one of them has changed ([`super::memory`]), to say which one names a store, and to write into the right one.
//!
//! | | old rules (Podman 4.3 to 5) | new rules (Podman 6, and 5.8 as Debian builds it) |
//! |---|---|---|
//! | main file | a variable's, else the user's, else /etc's, else /usr/share's | the same, and the user's is root's too |
//! | drop-ins | none | `storage.conf.d`, `storage.rootful.conf.d`, `storage.rootless.conf.d` and its `<UID>`, beside each |

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::places::Caller;
use super::storage_conf::{ConfError, StorageConf};
use crate::disk::bounded::{self, Cap};

/// The variable that names a `storage.conf`.
pub(crate) const CONF_VARIABLE: &str = "CONTAINERS_STORAGE_CONF";
/// The settings files of one user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfFiles<'a> {
    /// `/`, but for tests.
    pub(crate) system: &'a Path,
    pub(crate) caller: &'a Caller,
}

impl ConfFiles<'_> {
    /// The user's own folder of settings; `None` for a user without a home directory.
    pub(crate) fn own_folder(&self) -> Option<PathBuf> {
        let set = self.caller.variables.get("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty());
        let folder = set.map(PathBuf::from).or_else(|| self.caller.home.as_ref().map(|home| home.join(".config")));
        folder.map(|folder| folder.join("containers"))
    }

    /// The folders of settings: the user's, that of `/etc`, and the distribution's.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let system = ["etc/containers", "usr/share/containers"].map(|folder| self.system.join(folder));
        self.own_folder().into_iter().chain(system)
    }

    /// Every `<name>.conf`, there or not.
    pub(crate) fn mains(&self, name: &str) -> Vec<PathBuf> {
        self.folders().map(|folder| folder.join(format!("{name}.conf"))).collect()
    }

    /// Every folder of drop-ins for `<name>.conf`, there or not.
    pub(crate) fn drop_in_folders(&self, name: &str) -> Vec<PathBuf> {
        let uid = self.caller.uid.to_string();
        let of = |folder: PathBuf| {
            let kinds = ["conf.d", "rootful.conf.d", "rootless.conf.d"].map(|kind| format!("{name}.{kind}"));
            let folders = kinds.map(|kind| folder.join(kind));
            let own = folders[2].join(&uid);
            folders.into_iter().chain([own])
        };
        self.folders().flat_map(of).collect()
    }

    /// The drop-ins for `storage.conf` that are there, in the order of their names. Folders with too many are in `unread`.
    fn drop_ins(&self, unread: &mut Vec<ConfError>) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for path in self.drop_in_folders("storage") {
            match in_folder(&path) {
                Ok(found) => files.extend(found),
                Err(source) => unread.push(ConfError::Read { path, source }),
            }
        }
        files.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
        files
    }

    /// Every file that may name stores and is there, but for one that a variable names.
    fn storage(&self, unread: &mut Vec<ConfError>) -> Vec<PathBuf> {
        let there = |path: &PathBuf| path.exists();
        self.mains("storage").into_iter().filter(there).chain(self.drop_ins(unread)).collect()
    }

    /// The files that have this text in them; of a file that `named` names, only that one counts.
    pub(crate) fn with(&self, text: &str, named: Option<&Path>) -> Vec<PathBuf> {
        let files = named.map_or_else(|| self.storage(&mut Vec::new()), |path| vec![path.to_owned()]);
        let has = |path: &PathBuf| {
            bounded::read(path, Cap::Settings)
                .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        };
        files.into_iter().filter(has).collect()
    }

    /// The separate store for images of Podman 5 and later, which `podman info` does not tell: the last `imagestore` of the
    /// files that count, there or not. `main` is the one file that counts, where Podman says which it is.
    pub(crate) fn separate_store(&self, main: Option<&Path>) -> Option<PathBuf> {
        let said = |path: PathBuf| StorageConf::read(&path).ok().flatten()?.image_store.map(PathBuf::from);
        match main {
            Some(main) => said(main.to_owned()),
            None => {
                let main = self.mains("storage").into_iter().find(|path| path.is_file());
                main.into_iter().chain(self.drop_ins(&mut Vec::new())).filter_map(said).next_back()
            }
        }
    }

    /// Whether any file says which driver to take.
    pub(crate) fn has_driver(&self) -> bool {
        self.storage(&mut Vec::new())
            .iter()
            .any(|path| StorageConf::read(path).is_ok_and(|conf| conf.is_some_and(|conf| conf.driver.is_some())))
    }

    /// Where the files say that images are, whichever of them count, as far as it is there. For a user who cannot be asked.
    /// What is wrong with a file goes to `unread`.
    pub(crate) fn graph_roots(&self, unread: &mut Vec<ConfError>) -> Vec<PathBuf> {
        let home = self.caller.home.as_deref().unwrap_or(Path::new("/")).to_string_lossy();
        let expand = |text: String| {
            let uid = self.caller.uid.to_string();
            [("${HOME}", &*home), ("$HOME", &home), ("${UID}", &uid), ("$UID", &uid)]
                .iter()
                .fold(text, |text, (name, value)| text.replace(name, value))
        };
        let mut confs = Vec::new();
        for path in self.storage(unread) {
            match StorageConf::read(&path) {
                Ok(conf) => confs.extend(conf),
                Err(error) => unread.push(error),
            }
        }
        let roots = confs.into_iter().flat_map(|conf| [conf.graph_root, conf.rootless_storage_path]).flatten();
        roots.map(|root| PathBuf::from(expand(root))).filter(|root| root.is_absolute() && root.is_dir()).collect()
    }
}

/// How many files a folder of settings may have. Real ones have a few; each may take a parser 1 MiB of text.
const MOST_FILES: usize = 100;

/// The settings files of a folder, in the order of their names; nothing for one that cannot be looked at.
///
/// # Errors
/// If it has more files than anybody needs: another user of the host makes as many as they like.
pub(crate) fn in_folder(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths: Vec<PathBuf> = entries.take(MOST_FILES + 1).map(|entry| entry.path()).collect();
    if paths.len() > MOST_FILES {
        let message = format!("it has more than {MOST_FILES} files, which no folder of settings has");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let mut files: Vec<PathBuf> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "conf")).collect();
    files.sort();
    Ok(files)
}
