//! Whether a host is ready for the linked store: an additional image store of windlass's own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use super::host;
use super::image_store::{self, Fault, FaultKind};
use super::places::{Caller, Overrides, Places, PlacesError};
use super::rules::CONF_VARIABLE;
use super::sharing;
use super::storage_conf::StorageConf;
use super::usage::Others;

/// How a [`Check`] has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It works, and is slower or less safe than it could be.
    Warning,
    /// It does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// The object and what was seen.
    pub message: String,
    /// What to do: a command, or a text and where to write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, state: State::Ok, message: message.into(), fix: None }
    }

    pub(super) fn new(check: &'static str, state: State, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let fix = Some(fix.into()).filter(|fix: &String| !fix.is_empty());
        Self { check, state, message: message.into(), fix }
    }
}

/// Looks at a host for one user.
#[derive(Debug, Clone, Copy)]
pub struct Doctor<'a> {
    /// Whose Podman.
    pub caller: &'a Caller,
    /// Places given by hand.
    pub overrides: &'a Overrides,
    /// Our additional image store.
    pub store: &'a Path,
    /// The Nix store, usually `/nix/store`.
    pub nix_store: &'a Path,
    /// The root of the system's own files, `/` but for tests.
    pub system: &'a Path,
}

/// What is wanted of `podman info --format json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Store {
    graph_driver_name: String,
    graph_root: PathBuf,
    run_root: PathBuf,
    #[serde(default)]
    pub(super) image_copy_tmp_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Info {
    store: Store,
}

impl Doctor<'_> {
    /// Everything there is to say, in the order to read it.
    #[must_use]
    pub fn examine(&self) -> Vec<Check> {
        let mut checks = self.tools();
        let store = match Places::find(self.caller, self.overrides) {
            Ok(places) => {
                checks.push(driver(&places, self.caller));
                checks.extend(host::owner(&places, self.caller));
                checks.extend(
                    places.image_stores.iter().filter(|store| *store != self.store).map(|s| foreign(s, &places)),
                );
                checks.push(self.linked_store());
                checks.extend(self.sharing());
                checks.push(self.named(&places));
                checks.extend(misplaced(&places));
                self.podman_agrees(&places, &mut checks)
            }
            Err(error) => {
                let fix = if self.can_fill_in(&error) { "`windlass doctor --fix` writes it" } else { "" };
                checks.push(Check::new("storage.conf", State::Problem, error.to_string(), fix));
                checks.push(self.linked_store());
                None
            }
        };
        checks.extend(host::checks(self, store.and_then(|store| store.image_copy_tmp_dir)));
        checks
    }

    /// Whether `error` goes away when a key is written that only one value is usual for.
    pub(super) fn can_fill_in(&self, error: &PlacesError) -> bool {
        !self.is_nixos() && matches!(error, PlacesError::NoDriver { .. } | PlacesError::Missing { .. })
    }

    pub(super) fn is_nixos(&self) -> bool {
        self.system.join("etc/NIXOS").exists()
    }

    pub(super) fn is_root(&self) -> bool {
        self.caller.uid == 0
    }

    fn tools(&self) -> Vec<Check> {
        let version = |program: &str| {
            let output = self.run(program, &["--version"])?.ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let podman = version("podman").map_or_else(
            || {
                let how =
                    if self.on_path("podman").is_some() { "`podman --version` fails" } else { "podman is not on PATH" };
                Check::new("podman", State::Problem, how, "install Podman 4.3 or newer")
            },
            |version| Check::ok("podman", version),
        );
        let skopeo = version("skopeo").map_or_else(
            || {
                let message = "skopeo is not on PATH: images that cannot be linked go through `podman pull`";
                Check::new("skopeo", State::Note, message, "install skopeo: it compares the manifest with its digest")
            },
            |version| Check::ok("skopeo", version),
        );
        vec![podman, skopeo]
    }

    fn linked_store(&self) -> Check {
        const NAME: &str = "linked store";
        let store = self.store.display();
        let may_be_roots = !self.is_root() && fs::metadata(self.store).is_ok_and(|found| found.uid() == 0);
        if let Err(error) = image_store::claim(self.store)
            && !may_be_roots
        {
            let fix = "give a directory of its own with --storage-dir";
            return Check::new(NAME, State::Problem, error.to_string(), fix);
        }
        let faults = image_store::own_faults(self.store);
        let Some(first) = faults.first() else {
            return Check::ok(NAME, format!("{store} is whole"));
        };
        let more = if faults.len() > 1 { format!(", and {} more", faults.len() - 1) } else { String::new() };
        let fix = match first.kind {
            FaultKind::Torn(_) => "`windlass repair` writes the records anew".to_owned(),
            FaultKind::Refused(_) => "see who made it, and give another directory with --storage-dir".to_owned(),
            _ if self.is_root() => "`windlass doctor --fix` mends it".to_owned(),
            _ => format!(
                "`sudo windlass doctor --fix --storage-dir {store}`, or --storage-dir with a directory of yours"
            ),
        };
        Check::new(NAME, State::Problem, format!("{first}{more}"), fix)
    }

    /// Who else reaches our store.
    fn sharing(&self) -> Option<Check> {
        const NAME: &str = "sharing";
        let store = self.store.display();
        if !self.is_root() || image_store::claim(self.store).is_err() {
            return None;
        }
        let share = format!("`windlass doctor --share --storage-dir {store}`");
        let others = Others { passwd: self.system.join("etc/passwd"), ..Others::default() };
        let named = others.naming(self.store).into_iter().next();
        Some(match (sharing::state(self.store).ok()?, named) {
            (sharing::State::Closed, Some(conf)) => {
                let message =
                    format!("{store} is closed, and {} names it: no Podman command works there", conf.display());
                Check::new(NAME, State::Problem, message, format!("{share}, or take it out of that file"))
            }
            (sharing::State::Closed, None) => Check::ok(NAME, format!("{store} is closed to all users but its owner")),
            (sharing::State::Shared, _) if sharing::boot(self.store, self.system) == sharing::Boot::Nothing => {
                let message = format!("{store} is mounted read-only, and nothing mounts it so at the next boot");
                Check::new(NAME, State::Problem, message, share)
            }
            (sharing::State::Shared, _) => {
                Check::ok(NAME, format!("{store} is shared with all users: mounted read-only over itself, at boot too"))
            }
            (sharing::State::Open, _) => {
                let message = format!("{store} is open to all users, who can write into directories of its images");
                let close = format!("`windlass doctor --close --storage-dir {store}`");
                Check::new(NAME, State::Problem, message, format!("{close}, or, for rootless users, {share}"))
            }
        })
    }

    /// Whether Podman knows of our store.
    fn named(&self, places: &Places) -> Check {
        const NAME: &str = "storage.conf";
        let store = self.store.display();
        if places.image_stores.iter().any(|other| other == self.store) {
            let conf =
                places.conf.as_ref().map_or_else(|| "STORAGE_OPTS".to_owned(), |conf| conf.display().to_string());
            return Check::ok(NAME, format!("{conf} names {store}"));
        }
        if self.overrides.root.is_some() {
            let message = "with --root Podman reads no additional image store: images are pulled, not linked";
            return Check::new(
                NAME,
                State::Note,
                message,
                "use Podman without --root, with a storage.conf that says graphroot",
            );
        }
        if self.caller.variables.contains_key("STORAGE_OPTS") {
            let message = format!("STORAGE_OPTS is set, so storage.conf does not count, and it does not name {store}");
            let fix = format!("unset STORAGE_OPTS, or add overlay.imagestore={store} to it");
            return Check::new(NAME, State::Problem, message, fix);
        }
        let (conf, fix) = match Places::conf_to_write(self.caller, self.overrides) {
            Ok(conf) => (conf.display().to_string(), self.how_to_name(&conf)),
            Err(error) => ("storage.conf".to_owned(), error.to_string()),
        };
        Check::new(NAME, State::Problem, format!("{conf} does not name {store}"), fix)
    }

    /// What names our store, where that is not for us to write or as an alternative.
    pub(super) fn how_to_name(&self, conf: &Path) -> String {
        let (store, conf_name) = (self.store.display(), conf.display());
        if self.is_nixos() && self.is_root() {
            return format!(
                "when the store exists, set virtualisation.containers.storage.settings.storage.options.\
                 additionalimagestores = [ \"{store}\" ]; in the configuration of NixOS"
            );
        }
        let by_hand = format!("add \"{store}\" to additionalimagestores under [storage.options]");
        if conf.is_symlink() {
            return format!(
                "{conf_name} is a symbolic link: in what it is made from, {by_hand}, when the store exists"
            );
        }
        format!("`windlass doctor --fix`, or, when the store exists, {by_hand} in {conf_name}")
    }

    /// Asks Podman itself, once it is sure that asking changes nothing: the first Podman fixes its driver for ever.
    fn podman_agrees(&self, places: &Places, checks: &mut Vec<Check>) -> Option<Store> {
        const NAME: &str = "podman info";
        let info = match self.podman_info()? {
            Ok(info) => info,
            Err(message) => {
                checks.push(Check::new(NAME, State::Problem, message, "see the problems above, or `podman info`"));
                return None;
            }
        };
        let conf = places.conf.as_ref().map_or_else(|| "the defaults".to_owned(), |conf| conf.display().to_string());
        let differs = |what: &str, podman: &dyn std::fmt::Display, ours: &dyn std::fmt::Display| {
            let (podman, ours) = (podman.to_string(), ours.to_string());
            let message = format!("Podman has {what} {podman}, and {conf} says {ours}: its database remembers");
            (podman != ours).then(|| (message, format!("set {what} = \"{podman}\" under [storage] in {conf}")))
        };
        let other = differs("driver", &info.graph_driver_name, &places.driver)
            .or_else(|| differs("graphroot", &info.graph_root.display(), &places.graph_root.display()));
        checks.push(match (other, differs("runroot", &info.run_root.display(), &places.run_root.display())) {
            (Some((message, fix)), _) => Check::new(NAME, State::Problem, message, fix),
            (None, Some((message, fix))) => Check::new(NAME, State::Note, message, fix),
            (None, None) => Check::ok(NAME, format!("Podman works, with images in {}", places.graph_root.display())),
        });
        Some(info)
    }

    /// What Podman says of its places, or why it does not; `None` without a Podman.
    pub(super) fn podman_info(&self) -> Option<Result<Store, String>> {
        let output = match self.run("podman", &["info", "--format", "json"])? {
            Ok(output) => output,
            Err(error) => return Some(Err(format!("podman info: {error}"))),
        };
        if output.status.success() {
            let parsed = serde_json::from_slice::<Info>(&output.stdout);
            return Some(parsed.map(|info| info.store).map_err(|error| format!("podman info: {error}")));
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let said = text.lines().rev().find(|line| !line.is_empty()).unwrap_or("it said nothing");
        Some(Err(format!("podman info fails: {said}")))
    }

    /// Runs a program of the caller's PATH in the caller's environment; `None` if it is not there.
    fn run(&self, program: &str, arguments: &[&str]) -> Option<std::io::Result<Output>> {
        let mut command = Command::new(self.on_path(program)?);
        command.env_clear().envs(&self.caller.variables);
        if program == "podman" {
            let Overrides { root, runroot, storage_conf } = self.overrides;
            for (flag, path) in [("--root", root), ("--runroot", runroot)] {
                command.args(path.iter().flat_map(|path| [flag.as_ref(), path.as_os_str()]));
            }
            command.envs(storage_conf.iter().map(|path| (CONF_VARIABLE, path)));
        }
        Some(command.args(arguments).output())
    }

    /// Where a program is.
    pub(super) fn on_path(&self, program: &str) -> Option<PathBuf> {
        let path = self.caller.variables.get("PATH")?;
        let mut found = std::env::split_paths(path).map(|folder| folder.join(program));
        found.find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
    }
}

fn driver(places: &Places, caller: &Caller) -> Check {
    const NAME: &str = "driver";
    let driver = &places.driver;
    if driver == "overlay" {
        return Check::ok(NAME, "overlay");
    }
    let cost = if driver == "vfs" { ": it copies every image whole for each of its layers" } else { "" };
    let message = format!("the storage driver is {driver}, and the linked store needs overlay{cost}");
    let fix = if caller.variables.get("STORAGE_DRIVER").is_some_and(|set| set == driver) {
        "unset STORAGE_DRIVER".to_owned()
    } else {
        let conf = places.conf.as_ref().map_or_else(|| "storage.conf".into(), |conf| conf.to_string_lossy());
        format!(
            "save what you need, remove it all with `podman system reset`, and set driver = \"overlay\" under [storage] \
             in {conf}"
        )
    };
    Check::new(NAME, State::Problem, message, fix)
}

/// An additional image store that is not ours.
fn foreign(store: &Path, places: &Places) -> Check {
    const NAME: &str = "image store";
    let faults = image_store::faults(store, &places.driver);
    // A lock that is missing is made by a Podman that can.
    let made = |fault: &&Fault| {
        let there = fault.path.ancestors().skip(1).find(|path| path.exists()).filter(|path| path.starts_with(store));
        fault.kind == FaultKind::Missing && there.is_some_and(|path| access(path, Access::WRITE_OK).is_ok())
    };
    let Some(fault) = faults.iter().find(|fault| !made(fault)) else {
        let note = |fault: &Fault| {
            let message = format!("{fault}: Podman makes it, but not for users who may not write there");
            Check::new(NAME, State::Note, message, "`podman images`, by somebody who may")
        };
        return faults.first().map_or_else(|| Check::ok(NAME, store.display().to_string()), note);
    };
    let conf = places.conf.as_ref().map_or_else(|| "STORAGE_OPTS".into(), |conf| conf.to_string_lossy());
    let out = format!("take {} out of {conf}", store.display());
    let path = fault.path.display();
    let fix = match &fault.kind {
        FaultKind::Missing if fault.path == store => format!("`mkdir -p {path}`, or {out}"),
        FaultKind::Missing => format!("`touch {path}`, or {out}"),
        FaultKind::Mode(..) | FaultKind::Refused(_) | FaultKind::Unreadable(_) => {
            format!("`chmod a+r {path}`, or {out}")
        }
        FaultKind::Torn(_) => format!("restore the file, or {out}"),
    };
    Check::new(NAME, State::Problem, format!("{fault}: podman commands fail"), fix)
}

/// A list of stores in a driver's table, which Podman passes over with a warning.
fn misplaced(places: &Places) -> Option<Check> {
    let conf = places.conf.as_ref()?;
    let misplaced = StorageConf::read(conf).ok()??.misplaced;
    misplaced.then(|| {
        let message =
            format!("{} has additionalimagestores in the table of a driver, where Podman ignores it", conf.display());
        Check::new("storage.conf", State::Warning, message, "move it to [storage.options]")
    })
}
