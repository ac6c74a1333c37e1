//! Where Podman keeps its things: `storage.conf`, the variables that change it, and the rules for rootless users.
//!
//! The rules are those of containers/storage 1.43 to 1.57 and of Podman's own `--root` and `--runroot`. Where these
//! versions would choose differently, or a Podman would refuse to start, there is an error that says what to write down:
//! nothing is guessed.
//!
//! One thing is not read here: a Podman that has run remembers its driver and its run root in a database of its own,
//! and these win over `storage.conf`. `windlass doctor` compares with what `podman info` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::rules::Finder;
use super::storage_conf::ConfError;

/// What of the caller's surroundings decides where Podman looks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Effective user; 0 is root, anybody else is *rootless*.
    pub uid: u32,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
}

/// Places that were given by hand.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Instead of the graph root. As for `podman --root`, the additional image stores of `storage.conf` then do not
    /// count, and its driver does.
    pub root: Option<PathBuf>,
    /// Instead of the run root.
    pub runroot: Option<PathBuf>,
    /// Instead of the `storage.conf` that Podman would read, like `CONTAINERS_STORAGE_CONF`.
    pub storage_conf: Option<PathBuf>,
}

/// Where one user's Podman keeps its things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Places {
    /// Images, layers and containers.
    pub graph_root: PathBuf,
    /// What does not outlive a reboot.
    pub run_root: PathBuf,
    /// Storage driver: `overlay`, `vfs`, …
    pub driver: String,
    /// Additional image stores, in Podman's order. A separate `imagestore`, which Podman 5 knows, comes first.
    pub image_stores: Vec<PathBuf>,
    /// The `storage.conf` that was read; `None` where there is none.
    pub conf: Option<PathBuf>,
    /// Whether this is not root's Podman.
    pub rootless: bool,
}

/// Why it cannot be said where Podman keeps its things.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlacesError {
    /// `storage.conf` cannot be used.
    #[error("{0}")]
    Conf(#[from] ConfError),
    /// A file that was named is not there: every Podman command fails then.
    #[error("{path}, which {by} names, does not exist; write it, or name another file", path = path.display())]
    NoConf {
        /// The file.
        path: PathBuf,
        /// What names it.
        by: &'static str,
    },
    /// A key that Podman needs is not there.
    #[error("{path} has no {key}; add {key} = \"{value}\" under [storage]", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is usual.
        value: &'static str,
    },
    /// Podman takes absolute paths only.
    #[error("{from}: image store '{store}' is not an absolute path; correct it", from = from.display())]
    Relative {
        /// The file, or the variable.
        from: PathBuf,
        /// The store.
        store: String,
    },
    /// An option without a value: Podman refuses to start.
    #[error("STORAGE_OPTS: '{option}' is not KEY=VALUE; correct it")]
    Option {
        /// The option.
        option: String,
    },
    /// No driver is set, and Podman's versions would choose differently.
    #[error(
        "no storage driver is set, and Podman's versions choose differently for {graph_root}; add driver = \"overlay\" \
         under [storage] in {conf}", graph_root = graph_root.display(), conf = conf.display()
    )]
    NoDriver {
        /// The graph root, that has no images yet.
        graph_root: PathBuf,
        /// The file to write it in.
        conf: PathBuf,
    },
    /// No driver is set, and there are things of several.
    #[error(
        "no storage driver is set, and {graph_root} has been used with {drivers}; add driver = \"…\" under [storage] in \
         {conf}", graph_root = graph_root.display(), conf = conf.display()
    )]
    Drivers {
        /// The graph root.
        graph_root: PathBuf,
        /// The drivers.
        drivers: String,
        /// The file to write it in.
        conf: PathBuf,
    },
    /// A rootless user without a home directory.
    #[error("HOME is not set, and user {uid} has storage.conf and images below it; set HOME")]
    NoHome {
        /// The user.
        uid: u32,
    },
    /// A rootless user without a directory for run-time files.
    #[error(
        "XDG_RUNTIME_DIR is not set, and Podman's versions choose differently for user {uid}; set it, usually to \
         /run/user/{uid}"
    )]
    NoRuntimeDir {
        /// The user.
        uid: u32,
    },
}

impl Places {
    /// Finds the places of the caller's Podman.
    ///
    /// # Errors
    /// If a `storage.conf` cannot be used, or something is missing without which Podman does not work, or without which
    /// its versions choose differently.
    pub fn find(caller: &Caller, overrides: &Overrides) -> Result<Self, PlacesError> {
        Finder { system: Path::new("/"), caller, overrides }.find()
    }

    /// The `storage.conf` of the caller's Podman: the one it reads, or else the one to write.
    ///
    /// # Errors
    /// If a rootless user has no home directory.
    pub fn conf_to_write(caller: &Caller, overrides: &Overrides) -> Result<PathBuf, PlacesError> {
        Finder { system: Path::new("/"), caller, overrides }.conf_to_write()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// A system of its own below a folder, with a home and a runtime directory.
    struct Host {
        folder: tempfile::TempDir,
        caller: Caller,
        overrides: Overrides,
    }

    impl Host {
        fn new(uid: u32) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let home = folder.path().join("home");
            fs::create_dir(&home).unwrap();
            fs::create_dir(folder.path().join("run")).unwrap();
            let mut host =
                Self { folder, caller: Caller { uid, ..Caller::default() }, overrides: Overrides::default() };
            host.caller.home = Some(home.clone());
            let home = home.to_str().unwrap().to_owned();
            host.caller.variables = [("HOME".to_owned(), home)].into();
            if uid != 0 {
                let run = host.folder.path().join("run").to_str().unwrap().to_owned();
                host.set("XDG_RUNTIME_DIR", &run);
            }
            host
        }

        fn set(&mut self, name: &str, value: &str) {
            self.caller.variables.insert(name.to_owned(), value.replace("$T", self.folder.path().to_str().unwrap()));
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.replace("$T", self.folder.path().to_str().unwrap())).unwrap();
        }

        /// `driver graphroot runroot stores conf`, or the error.
        fn find(&self) -> String {
            let finder = Finder { system: self.folder.path(), caller: &self.caller, overrides: &self.overrides };
            let text = match finder.find() {
                Ok(places) => {
                    let conf = places.conf.as_ref().map_or("-".to_owned(), |conf| conf.display().to_string());
                    let stores: Vec<_> = places.image_stores.iter().map(|store| store.display().to_string()).collect();
                    let (graph, run) = (places.graph_root.display(), places.run_root.display());
                    format!("{} {graph} {run} [{}] {conf}", places.driver, stores.join(" "))
                }
                Err(error) => error.to_string(),
            };
            text.replace(self.folder.path().to_str().unwrap(), "$T")
        }
    }

    const FULL: &str = "[storage]\ndriver = 'overlay'\ngraphroot = '/g'\nrunroot = '/r'\n\
                        [storage.options]\nadditionalimagestores = ['/a/', '/b/../c']\n";
    const DRIVER: &str = "[storage]\ndriver = 'overlay'\n";

    #[test]
    fn root_reads_one_file_and_never_two() {
        let mut host = Host::new(0);
        host.set("STORAGE_DRIVER", "vfs"); // Not looked at without a file.
        host.overrides.root = Some(host.folder.path().join("none"));
        assert_eq!(host.find(), "overlay $T/none /run/containers/storage [] -");
        host.overrides.root = None;
        host.caller.variables.remove("STORAGE_DRIVER");
        host.write("usr/share/containers/storage.conf", FULL);
        assert_eq!(host.find(), "overlay /g /r [/a /c] $T/usr/share/containers/storage.conf");
        host.write("etc/containers/storage.conf", &FULL.replace("'/a/'", "'/e'"));
        assert_eq!(host.find(), "overlay /g /r [/e /c] $T/etc/containers/storage.conf");
        host.write("x/containers/storage.conf", "[storage]\ndriver = 'btrfs'\ngraphroot = '/x'\nrunroot = '/r'\n");
        host.set("XDG_CONFIG_HOME", "$T/x");
        assert_eq!(host.find(), "btrfs /x /r [] $T/x/containers/storage.conf");
        host.set("CONTAINERS_STORAGE_CONF", "$T/etc/containers/storage.conf");
        assert_eq!(host.find(), "overlay /g /r [/e /c] $T/etc/containers/storage.conf");
        host.overrides.storage_conf = Some(host.folder.path().join("usr/share/containers/storage.conf"));
        assert_eq!(host.find(), "overlay /g /r [/a /c] $T/usr/share/containers/storage.conf");
        host.overrides.root = Some("/h/./i".into());
        assert_eq!(host.find(), "overlay /h/i /r [] $T/usr/share/containers/storage.conf");
        host.overrides = Overrides { runroot: Some("/s".into()), ..Overrides::default() };
        assert_eq!(host.find(), "overlay /g /s [/e /c] $T/etc/containers/storage.conf");
    }

    #[test]
    fn variables_win_over_the_file() {
        let mut host = Host::new(0);
        host.write("etc/containers/storage.conf", FULL);
        host.set("STORAGE_DRIVER", "overlay2");
        assert_eq!(host.find(), "overlay /g /r [/a /c] $T/etc/containers/storage.conf");
        host.set("STORAGE_DRIVER", "vfs");
        host.set(
            "STORAGE_OPTS",
            "overlay.imagestore=/o,.additionalimagestore=/p/,OVERLAY.ImageStore= /q,overlay.size=1",
        );
        assert_eq!(host.find(), "vfs /g /r [/o /p /q] $T/etc/containers/storage.conf");
        host.set("STORAGE_OPTS", "");
        assert_eq!(host.find(), "vfs /g /r [] $T/etc/containers/storage.conf");
        host.set("STORAGE_OPTS", "overlay.imagestore=/o,/p");
        assert_eq!(host.find(), "STORAGE_OPTS: '/p' is not KEY=VALUE; correct it");
        host.set("STORAGE_OPTS", "overlay.imagestore=o");
        assert_eq!(host.find(), "STORAGE_OPTS: image store 'o' is not an absolute path; correct it");
    }

    #[test]
    fn paths_are_expanded_and_links_followed() {
        let mut host = Host::new(0);
        host.set("PLACE", "$T/real");
        fs::create_dir(host.folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", host.folder.path().join("link")).unwrap();
        let text = "[storage]\ndriver = 'vfs'\ngraphroot = '$T/link'\nrunroot = '${PLACE}/../r$UID/$NONE/x'\nimagestore = '/i'\n";
        host.write("etc/containers/storage.conf", text);
        assert_eq!(host.find(), "vfs $T/real $T/r0/x [/i] $T/etc/containers/storage.conf");
    }

    #[test]
    fn what_is_missing_is_named_not_guessed() {
        let mut host = Host::new(0);
        for (text, expected) in [
            (
                "[storage]\nrunroot = '/r'",
                "$F has no graphroot; add graphroot = \"/var/lib/containers/storage\" under [storage]",
            ),
            (
                "[storage]\ngraphroot = '/g'",
                "$F has no runroot; add runroot = \"/run/containers/storage\" under [storage]",
            ),
            ("[storage]\ndriver = []", "$F: storage.driver must be a text; correct it"),
            (
                "[storage.options]\nadditionalimagestores = ['~/a']",
                "$F: image store '~/a' is not an absolute path; correct it",
            ),
        ] {
            host.write("etc/containers/storage.conf", text);
            assert_eq!(host.find(), expected.replace("$F", "$T/etc/containers/storage.conf"), "{text}");
        }
        host.set("CONTAINERS_STORAGE_CONF", "$T/none");
        assert_eq!(
            host.find(),
            "$T/none, which CONTAINERS_STORAGE_CONF names, does not exist; write it, or name another file"
        );
    }

    #[test]
    fn an_unset_driver_is_the_one_in_use() {
        let host = Host::new(0);
        host.write("etc/containers/storage.conf", "[storage]\ngraphroot = '$T/g'\nrunroot = '/r'\n");
        let found = |driver: &str| format!("{driver} $T/g /r [] $T/etc/containers/storage.conf");
        host.write("g/vfs/x", "");
        assert_eq!(host.find(), found("overlay"), "vfs is no default");
        host.write("g/btrfs/x", "");
        assert_eq!(host.find(), found("btrfs"));
        host.write("g/overlay/x", "");
        assert_eq!(
            host.find(),
            "no storage driver is set, and $T/g has been used with btrfs and overlay; add driver = \"…\" under [storage] \
             in $T/etc/containers/storage.conf"
        );
    }

    #[test]
    fn a_rootless_user_has_places_of_their_own() {
        let mut host = Host::new(12345);
        let (home, conf) = ("$T/home/.local/share/containers/storage", "$T/home/.config/containers/storage.conf");
        assert_eq!(
            host.find(),
            format!(
                "no storage driver is set, and Podman's versions choose differently for {home}; add driver = \
                 \"overlay\" under [storage] in {conf}"
            )
        );
        fs::create_dir_all(host.folder.path().join("home/.local/share/containers/storage/vfs-images")).unwrap();
        assert_eq!(host.find(), format!("vfs {home} $T/run/containers [] -"));
        // Of the system's file only the driver and one path count; its stores do not.
        host.write("etc/containers/storage.conf", FULL);
        assert_eq!(host.find(), format!("overlay {home} $T/run/containers [] -"));
        host.write(
            "etc/containers/storage.conf",
            &FULL.replace("[storage.o", "rootless_storage_path = '$T/l/$UID'\n[storage.o"),
        );
        assert_eq!(host.find(), "overlay $T/l/12345 $T/run/containers [] -");
        host.set("STORAGE_OPTS", "overlay.imagestore=/o");
        assert_eq!(host.find(), "overlay $T/l/12345 $T/run/containers [/o] -");
        host.caller.variables.remove("STORAGE_OPTS");
        // A file that a variable names counts whole.
        host.set("CONTAINERS_STORAGE_CONF", "$T/etc/containers/storage.conf");
        assert_eq!(host.find(), "overlay /g /r [/a /c] $T/etc/containers/storage.conf");
        host.caller.variables.remove("CONTAINERS_STORAGE_CONF");
        // Their own file replaces the system's.
        host.write("home/.config/containers/storage.conf", DRIVER);
        assert_eq!(host.find(), format!("overlay {home} $T/run/containers [] {conf}"));
        host.set("XDG_DATA_HOME", "/data");
        host.set("STORAGE_DRIVER", "vfs");
        assert_eq!(host.find(), format!("vfs /data/containers/storage $T/run/containers [] {conf}"));
        host.write("y/containers/storage.conf", &FULL.replace("graphroot", "rootless_storage_path"));
        host.set("XDG_CONFIG_HOME", "$T/y");
        assert_eq!(host.find(), "vfs /g /r [/a /c] $T/y/containers/storage.conf");
        host.caller.home = None;
        host.caller.variables.remove("XDG_CONFIG_HOME");
        assert!(host.find().starts_with("HOME is not set"), "{}", host.find());
    }

    #[test]
    fn a_rootless_user_without_a_session_needs_a_runtime_directory() {
        let mut host = Host::new(12345);
        host.write("home/.config/containers/storage.conf", DRIVER);
        host.caller.variables.remove("XDG_RUNTIME_DIR");
        host.set("TMPDIR", "$T");
        assert!(host.find().starts_with("XDG_RUNTIME_DIR is not set"), "{}", host.find());
        host.overrides.runroot = Some("/r".into());
        assert!(host.find().contains(" /r "), "{}", host.find());
        host.overrides.runroot = None;
        let run = host.folder.path().join("podman-run-12345");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, PermissionsExt::from_mode(0o700)).unwrap();
        // As inside of `podman unshare`, where the owner looks like root.
        host.caller.uid = fs::metadata(&run).unwrap().uid();
        host.set("_CONTAINERS_ROOTLESS_UID", "12345");
        assert!(host.find().contains("$T/podman-run-12345/containers"), "{}", host.find());
    }
}
