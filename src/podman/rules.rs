//! The rules behind [`Places`]: which file counts, what wins over it, and what Podman takes where nothing is said.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::places::{Caller, Overrides, Places, PlacesError};
use super::storage_conf::StorageConf;

/// Root's own settings.
const ETC_CONF: &str = "etc/containers/storage.conf";
/// The distribution's settings, which count where root has none.
const USR_CONF: &str = "usr/share/containers/storage.conf";

/// Which `storage.conf` counts. Files replace each other; nothing is merged.
enum Conf {
    /// Named by hand or by a variable: it must exist.
    Named(PathBuf, &'static str),
    /// The system's, and it exists.
    System(PathBuf),
    /// A rootless user's, if it exists.
    User(PathBuf),
    /// None at all.
    None,
}

/// The rules, for one caller.
pub(super) struct Finder<'a> {
    /// `/`, but for tests.
    pub(super) system: &'a Path,
    pub(super) caller: &'a Caller,
    pub(super) overrides: &'a Overrides,
}

/// What is settled so far; what is `None` depends on more.
#[derive(Default)]
struct Settings {
    driver: Option<String>,
    graph_root: Option<PathBuf>,
    run_root: Option<PathBuf>,
    image_stores: Vec<PathBuf>,
}

impl Finder<'_> {
    /// See [`Places::find`].
    pub(super) fn find(&self) -> Result<Places, PlacesError> {
        let (settings, conf) = match self.conf()? {
            Conf::Named(path, by) => {
                let conf = StorageConf::read(&path)?.ok_or(PlacesError::NoConf { path: path.clone(), by })?;
                (self.settings(&conf, &path)?, Some(path))
            }
            Conf::System(path) => {
                let conf = StorageConf::read(&path)?.unwrap_or_default();
                (self.settings(&conf, &path)?, Some(path))
            }
            Conf::User(path) => match StorageConf::read(&path)? {
                Some(conf) => (self.settings(&conf, &path)?, Some(path)),
                None => (self.inherited()?, None),
            },
            // Here Podman does not even look at its variables.
            Conf::None => (Settings::default(), None),
        };
        let rootless = self.uid() != 0;
        let missing = |path: &PathBuf, key, value| PlacesError::Missing { path: path.clone(), key, value };
        let graph_root = match (&self.overrides.root, settings.graph_root, &conf) {
            (Some(root), ..) => absolute(root),
            (None, Some(root), _) => root,
            (None, None, _) if rootless => self.default_graph_root()?,
            (None, None, Some(conf)) => return Err(missing(conf, "graphroot", GRAPH_ROOT)),
            (None, None, None) => PathBuf::from(GRAPH_ROOT),
        };
        let run_root = match (&self.overrides.runroot, settings.run_root, &conf) {
            (Some(root), ..) => absolute(root),
            (None, Some(root), _) => root,
            (None, None, _) if rootless => self.runtime_dir()?.join("containers"),
            (None, None, Some(conf)) => return Err(missing(conf, "runroot", RUN_ROOT)),
            (None, None, None) => PathBuf::from(RUN_ROOT),
        };
        let driver = match settings.driver {
            Some(driver) if driver == "overlay2" => "overlay".to_owned(),
            Some(driver) => driver,
            None => self.choose_driver(&graph_root, conf.is_none() && rootless)?,
        };
        let image_stores = if self.overrides.root.is_some() { Vec::new() } else { settings.image_stores };
        Ok(Places { graph_root, run_root, driver, image_stores, conf, rootless })
    }

    /// See [`Places::conf_to_write`].
    pub(super) fn conf_to_write(&self) -> Result<PathBuf, PlacesError> {
        let etc = self.system.join(ETC_CONF);
        Ok(match self.conf()? {
            // The distribution's file is for copying.
            Conf::System(path) if path == self.system.join(USR_CONF) => etc,
            Conf::Named(path, _) | Conf::System(path) | Conf::User(path) => path,
            Conf::None => etc,
        })
    }

    fn conf(&self) -> Result<Conf, PlacesError> {
        if let Some(path) = &self.overrides.storage_conf {
            return Ok(Conf::Named(path.clone(), "--storage-conf"));
        }
        if let Some(path) = self.caller.variables.get(CONF_VARIABLE) {
            return Ok(Conf::Named(PathBuf::from(path), CONF_VARIABLE));
        }
        if self.uid() != 0 {
            let folder = match self.variable("XDG_CONFIG_HOME") {
                Some(folder) => PathBuf::from(folder),
                None => self.home()?.join(".config"),
            };
            return Ok(Conf::User(folder.join("containers/storage.conf")));
        }
        Ok(self.system_conf().map_or(Conf::None, Conf::System))
    }

    /// Root's file or else the distribution's; and `XDG_CONFIG_HOME` counts for root too.
    fn system_conf(&self) -> Option<PathBuf> {
        let xdg =
            self.caller.variables.get("XDG_CONFIG_HOME").map(|home| Path::new(home).join("containers/storage.conf"));
        let etc = self.system.join(ETC_CONF);
        xdg.into_iter().chain([etc, self.system.join(USR_CONF)]).find(|path| path.exists())
    }

    /// What a file says, and the variables that win over it.
    fn settings(&self, conf: &StorageConf, path: &Path) -> Result<Settings, PlacesError> {
        let expand = |path: &Option<String>| path.as_deref().map(|path| self.expand(path));
        let rootless_path = conf.rootless_storage_path.as_ref().filter(|_| self.uid() != 0);
        let stores = match self.caller.variables.get("STORAGE_OPTS") {
            Some(options) => self.option_stores(options)?,
            None => absolute_stores(conf.additional.iter().map(String::as_str), path)?,
        };
        let own = conf.image_store.iter().map(PathBuf::from);
        Ok(Settings {
            driver: self.variable("STORAGE_DRIVER").map(str::to_owned).or_else(|| conf.driver.clone()),
            graph_root: expand(&conf.graph_root).or_else(|| rootless_path.map(|path| self.expand(path))),
            run_root: expand(&conf.run_root),
            image_stores: own.chain(stores).collect(),
        })
    }

    /// What a rootless user without a file of their own has from the system's: the driver and `rootless_storage_path`,
    /// but no additional image store.
    fn inherited(&self) -> Result<Settings, PlacesError> {
        let system = self.system_conf().map(|path| StorageConf::read(&path)).transpose()?.flatten().unwrap_or_default();
        let usable = |driver: &String| ["btrfs", "overlay", "overlay2", "vfs"].contains(&driver.as_str());
        Ok(Settings {
            driver: self.variable("STORAGE_DRIVER").map(str::to_owned).or(system.driver.filter(usable)),
            graph_root: system.rootless_storage_path.as_deref().map(|path| self.expand(path)),
            run_root: None,
            image_stores: self
                .variable("STORAGE_OPTS")
                .map_or(Ok(Vec::new()), |options| self.option_stores(options))?,
        })
    }

    /// The stores in `STORAGE_OPTS`, where a comma separates options.
    fn option_stores(&self, options: &str) -> Result<Vec<PathBuf>, PlacesError> {
        let mut stores = Vec::new();
        for option in options.split(',').filter(|_| !options.is_empty()) {
            let (key, path) =
                option.split_once('=').ok_or_else(|| PlacesError::Option { option: option.to_owned() })?;
            let key = key.trim().to_ascii_lowercase();
            let name = key.rsplit('.').next().unwrap_or_default();
            if ["imagestore", "additionalimagestore"].contains(&name) {
                stores.push(path.trim());
            }
        }
        absolute_stores(stores, Path::new("STORAGE_OPTS"))
    }

    /// What Podman takes where no driver is set: the one that the graph root has been used with, or else overlay.
    fn choose_driver(&self, graph_root: &Path, no_conf: bool) -> Result<String, PlacesError> {
        let mut used: Vec<String> = Vec::new();
        for entry in fs::read_dir(graph_root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = |driver: &str| ["overlay", "btrfs", "zfs", "aufs"].contains(&driver);
            let driver = if no_conf { name.strip_suffix("-images") } else { Some(name.as_str()).filter(|n| known(n)) };
            used.extend(driver.map(str::to_owned));
        }
        used.sort();
        match &used[..] {
            [driver] => Ok(driver.clone()),
            [] if !no_conf && holds_overlay(graph_root) => Ok("overlay".to_owned()),
            [] => Err(PlacesError::NoDriver { graph_root: graph_root.to_owned(), conf: self.conf_to_write()? }),
            several => {
                let drivers = several.join(" and ");
                Err(PlacesError::Drivers { graph_root: graph_root.to_owned(), drivers, conf: self.conf_to_write()? })
            }
        }
    }

    fn default_graph_root(&self) -> Result<PathBuf, PlacesError> {
        let data = match self.variable("XDG_DATA_HOME") {
            Some(data) => PathBuf::from(data),
            None => self.home()?.join(".local/share"),
        };
        Ok(resolved(&data.join("containers/storage")))
    }

    fn runtime_dir(&self) -> Result<PathBuf, PlacesError> {
        if let Some(path) = self.variable("XDG_RUNTIME_DIR") {
            return Ok(resolved(Path::new(path)));
        }
        let uid = self.uid();
        let ours =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.uid() == self.caller.uid && m.mode() & 0o722 == 0o700);
        let session = self.system.join(format!("run/user/{uid}"));
        if ours(&session) {
            return Ok(session);
        }
        // Podman 4.3 makes the first of these, 5.4 the second: what is there tells which of them has run.
        let temporary = Path::new(self.variable("TMPDIR").unwrap_or("/tmp"));
        let made = ["podman", "storage"].map(|name| temporary.join(format!("{name}-run-{uid}")));
        match made.each_ref().map(ours) {
            [true, false] => Ok(made[0].clone()),
            [false, true] => Ok(made[1].clone()),
            _ => Err(PlacesError::NoRuntimeDir { uid }),
        }
    }

    /// `$UID`, other variables, and symbolic links where the path exists.
    fn expand(&self, path: &str) -> PathBuf {
        let path = path.replace("$UID", &self.uid().to_string());
        let variable = |name: &str| self.caller.variables.get(name).map_or("", String::as_str);
        let mut expanded = String::new();
        let mut rest = path.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            let (name, left) = braced.unwrap_or_else(|| after.split_at(end));
            expanded.push_str(variable(name));
            rest = left;
        }
        expanded.push_str(rest);
        resolved(Path::new(&expanded))
    }

    /// The user outside of the user namespace that `podman unshare` makes.
    fn uid(&self) -> u32 {
        let outside = self.variable("_CONTAINERS_ROOTLESS_UID").and_then(|uid| uid.parse().ok());
        outside.unwrap_or(self.caller.uid)
    }

    fn home(&self) -> Result<PathBuf, PlacesError> {
        self.caller.home.clone().ok_or_else(|| PlacesError::NoHome { uid: self.uid() })
    }

    /// A variable that is not empty.
    fn variable(&self, name: &str) -> Option<&str> {
        self.caller.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The variable that names a `storage.conf`.
pub(super) const CONF_VARIABLE: &str = "CONTAINERS_STORAGE_CONF";
/// Where root's images are if nothing is said.
pub(super) const GRAPH_ROOT: &str = "/var/lib/containers/storage";
/// Where root's run-time files are if nothing is said.
pub(super) const RUN_ROOT: &str = "/run/containers/storage";

/// A store's path may itself be several, separated by commas.
fn absolute_stores<'s>(stores: impl IntoIterator<Item = &'s str>, from: &Path) -> Result<Vec<PathBuf>, PlacesError> {
    let parts = stores.into_iter().flat_map(|store| store.split(',').filter(|_| !store.is_empty()));
    let absolute = |store: &str| {
        let relative = || PlacesError::Relative { from: from.to_owned(), store: store.to_owned() };
        Path::new(store).is_absolute().then(|| clean(Path::new(store))).ok_or_else(relative)
    };
    parts.map(absolute).collect()
}

/// Without symbolic links; only cleaned where there is nothing yet.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| absolute(path))
}

fn absolute(path: &Path) -> PathBuf {
    clean(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

/// Without `.` and `..`, by the letters alone.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean
}

/// Whether every Podman makes overlay storage there. On ZFS only newer ones do.
fn holds_overlay(path: &Path) -> bool {
    const ECRYPTFS: u64 = 0xf15f;
    const OVERLAYFS: u64 = 0x794c_7630;
    const ZFS: u64 = 0x2fc1_2fc1;
    let there = path.ancestors().find_map(|path| rustix::fs::statfs(path).ok());
    there.is_some_and(|stat| !u64::try_from(stat.f_type).is_ok_and(|kind| [ECRYPTFS, OVERLAYFS, ZFS].contains(&kind)))
}
