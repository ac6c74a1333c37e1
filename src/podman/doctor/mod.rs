//! Whether a host is ready for the linked store: an additional image store of windlass's own.

mod fix;
mod host_checks;
mod leftovers;
mod naming;
mod owner;
mod unreadable;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{Access, access};
use serde::Serialize;

use super::linked::image_store::{self, FaultKind, StoreFault};
use super::linked::{LinkedStore, sharing};
use super::storage::ask;
use super::storage::conf_files::ConfFiles;
use super::storage::others::OtherUsers;
use super::storage::places::{Caller, Overrides, Places, PlacesError};
use crate::disk::progress::Progress;
use crate::sh;

/// How a [`HostCheck`] has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckState {
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct HostCheck {
    /// What was looked at.
    pub(crate) check: &'static str,
    /// How it is.
    pub(crate) state: CheckState,
    /// The object and what was seen.
    pub(crate) message: String,
    /// What to do: a command, or a text and where to write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

impl HostCheck {
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, state: CheckState::Ok, message: message.into(), fix: None }
    }

    pub(super) fn new(
        check: &'static str,
        state: CheckState,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = Some(fix.into()).filter(|fix: &String| !fix.is_empty());
        Self { check, state, message: message.into(), fix }
    }
}

/// Looks at a host for one user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doctor<'a> {
    /// Whose Podman.
    pub(crate) caller: &'a Caller,
    /// Places given by hand.
    pub(crate) overrides: &'a Overrides,
    /// Our additional image store.
    pub(crate) store: &'a Path,
    /// The Nix store, usually `/nix/store`.
    pub(crate) nix_store: &'a Path,
    /// The root of the system's own files, `/` but for tests.
    pub(crate) system: &'a Path,
    /// Stops a Podman that is asked.
    pub(crate) progress: &'a Progress,
}

impl Doctor<'_> {
    /// Everything there is to say, in the order to read it.
    #[must_use]
    pub(crate) fn examine(&self) -> Vec<HostCheck> {
        let mut checks = self.tools();
        // Before Podman is asked, which makes a lock that is missing if this user may.
        let linked = self.linked_store();
        let temporary = match self.ask() {
            Ok(places) => {
                let (images, run) = (places.graph_root.display(), places.run_root.display());
                checks.push(HostCheck::ok("podman info", format!("images are in {images}, run-time files in {run}")));
                checks.push(driver(&places));
                checks.extend(owner::owner(Some(&places), self.caller));
                let others = places.image_stores.iter().filter(|store| *store != self.store);
                let others = others.filter(|store| places.separate_store.as_ref() != Some(store));
                checks.extend(others.map(|store| self.foreign(store, &places)));
                checks.push(linked);
                checks.extend(self.sharing(&places));
                checks.push(self.named(&places));
                checks.extend(self.about_names(&places));
                checks.extend(unreadable::checks(&places));
                places.temporary
            }
            Err(error) => {
                checks.push(linked);
                // It may be why Podman fails.
                checks.extend(owner::owner(None, self.caller));
                match error {
                    // Said of the program already.
                    PlacesError::NoPodman => {}
                    PlacesError::Failed { said, next } => {
                        let message = format!("podman info fails, and other commands with it: {said}");
                        checks.push(HostCheck::new("podman info", CheckState::Problem, message, next));
                    }
                    error => checks.push(HostCheck::new("podman info", CheckState::Problem, error.to_string(), "")),
                }
                None
            }
        };
        checks.extend(host_checks::checks(self, temporary));
        checks
    }

    /// Asks the caller's Podman where its things are.
    pub(super) fn ask(&self) -> Result<Places, PlacesError> {
        Places::ask(self.caller, self.overrides, self.progress)
    }

    /// The settings files that may count.
    pub(super) fn files(&self) -> ConfFiles<'_> {
        ConfFiles { system: self.system, caller: self.caller }
    }

    /// The settings files that have the store's path in them.
    pub(super) fn naming(&self) -> Vec<PathBuf> {
        self.store.to_str().map_or_else(Vec::new, |store| self.files().with(store, self.named_conf().as_deref()))
    }

    /// Where programs are.
    pub(super) fn path(&self) -> &str {
        self.caller.variables.get("PATH").map_or("", String::as_str)
    }

    pub(super) fn is_nixos(&self) -> bool {
        self.system.join("etc/NIXOS").exists()
    }

    pub(super) fn is_root(&self) -> bool {
        self.caller.uid == 0
    }

    fn tools(&self) -> Vec<HostCheck> {
        let version = |program: &str| {
            let output = self.run(program, &["--version"])?.ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let podman = version("podman").map_or_else(
            || {
                let how =
                    if self.on_path("podman").is_some() { "`podman --version` fails" } else { "podman is not on PATH" };
                HostCheck::new("podman", CheckState::Problem, how, "install Podman 4.3 or newer")
            },
            |version| HostCheck::ok("podman", version),
        );
        let skopeo = version("skopeo").map_or_else(
            || {
                let message = "skopeo is not on PATH: images that cannot be linked go through `podman pull`";
                HostCheck::new(
                    "skopeo",
                    CheckState::Note,
                    message,
                    "install skopeo: it compares the manifest with its digest",
                )
            },
            |version| HostCheck::ok("skopeo", version),
        );
        vec![podman, skopeo]
    }

    fn linked_store(&self) -> HostCheck {
        const NAME: &str = "linked store";
        let store = self.store.display();
        let may_be_roots = !self.is_root() && fs::metadata(self.store).is_ok_and(|found| found.uid() == 0);
        if let Err(error) = image_store::claim(self.store)
            && !may_be_roots
        {
            let fix = "give a directory of its own with --storage-dir";
            return HostCheck::new(NAME, CheckState::Problem, error.to_string(), fix);
        }
        let faults = image_store::own_faults(self.store);
        let Some(first) = faults.first() else {
            return HostCheck::ok(NAME, format!("{store} is whole"));
        };
        let more = if faults.len() > 1 { format!(", and {} more", faults.len() - 1) } else { String::new() };
        let fix = match first.kind {
            FaultKind::NotJson(_) => "`windlass repair` writes the records anew".to_owned(),
            FaultKind::Refused(_) => "see who made it, and give another directory with --storage-dir".to_owned(),
            _ if self.is_root() => "`windlass doctor --fix` mends it".to_owned(),
            _ => format!(
                "`sudo windlass doctor --fix --storage-dir {}`, or --storage-dir with a directory of yours",
                self.quoted_store()
            ),
        };
        HostCheck::new(NAME, CheckState::Problem, format!("{first}{more}"), fix)
    }

    /// Who else reaches our store.
    fn sharing(&self, places: &Places) -> Option<HostCheck> {
        const NAME: &str = "sharing";
        let store = self.store.display();
        if !self.is_root() || image_store::claim(self.store).is_err() {
            return None;
        }
        let share = format!("`windlass doctor --share --storage-dir {}`", self.quoted_store());
        let others = OtherUsers { passwd: self.system.join("etc/passwd"), ..OtherUsers::default() };
        let for_all = if places.has_new_rules() { sharing::for_all_users(self.system) } else { Vec::new() };
        let named = others.naming(self.store, for_all).into_iter().next();
        Some(match (sharing::state(self.store).ok()?, named) {
            (sharing::Sharing::Closed, Some(conf)) => {
                let message =
                    format!("{store} is closed, and {} names it: no Podman command works there", conf.display());
                HostCheck::new(NAME, CheckState::Problem, message, format!("{share}, or take it out of that file"))
            }
            (sharing::Sharing::Closed, None) => {
                HostCheck::ok(NAME, format!("{store} is closed to all users but its owner"))
            }
            (sharing::Sharing::Shared, _) if sharing::boot(self.store, self.system) == sharing::Boot::Nothing => {
                let message = format!("{store} is mounted read-only, and nothing mounts it so at the next boot");
                HostCheck::new(NAME, CheckState::Problem, message, share)
            }
            (sharing::Sharing::Shared, _) => HostCheck::ok(
                NAME,
                format!("{store} is shared with all users: mounted read-only over itself, at boot too"),
            ),
            (sharing::Sharing::Open, _) => {
                let message = format!("{store} is open to all users, who can write into directories of its images");
                let close = format!("`windlass doctor --close --storage-dir {}`", self.quoted_store());
                HostCheck::new(NAME, CheckState::Problem, message, format!("{close}, or, for rootless users, {share}"))
            }
        })
    }

    /// Whether Podman reads our store.
    fn named(&self, places: &Places) -> HostCheck {
        const NAME: &str = "storage.conf";
        let store = self.store.display();
        let naming = names(&self.naming());
        if places.image_stores.iter().any(|other| other == self.store) {
            let by = if naming.is_empty() { String::new() } else { format!(": {naming}") };
            return HostCheck::ok(NAME, format!("Podman reads {store}{by}"));
        }
        if self.overrides.root.is_some() {
            let message = "with --root Podman reads no additional image store: images are pulled, not linked";
            let fix = "use Podman without --root, with a storage.conf that says graphroot";
            return HostCheck::new(NAME, CheckState::Note, message, fix);
        }
        if self.caller.variables.contains_key("STORAGE_OPTS") {
            let message =
                format!("Podman does not read {store}, and STORAGE_OPTS is set, which it may read instead of files");
            let fix = format!("unset STORAGE_OPTS, or add overlay.imagestore={store} to it");
            return HostCheck::new(NAME, CheckState::Problem, message, fix);
        }
        let message = if naming.is_empty() {
            format!("Podman does not read {store}: no file names it")
        } else {
            format!(
                "Podman does not read {store}, though {naming} has it: Podman does not take it from there, or a later file replaces the list"
            )
        };
        HostCheck::new(NAME, CheckState::Problem, message, self.how_to_name(places))
    }

    /// What to know of the files that name our store, and of those that say where images are.
    fn about_names(&self, places: &Places) -> Vec<HostCheck> {
        const NAME: &str = "storage.conf";
        let mut checks = Vec::new();
        let naming = self.naming();
        let ours: Vec<PathBuf> =
            places.image_stores.iter().filter(|store| LinkedStore::is_at(store)).cloned().collect();
        if let [first, others @ ..] = &ours[..]
            && !others.is_empty()
        {
            let message = format!("Podman reads {} linked stores of windlass: {}", ours.len(), names(&ours));
            let fix =
                format!("keep the one that `windlass load` writes to, {}, and take the others out", first.display());
            checks.push(HostCheck::new(NAME, CheckState::Warning, message, fix));
        }
        let etc = self.system.join(self::naming::ETC);
        let by_all: Vec<PathBuf> =
            naming.into_iter().filter(|path| path.starts_with(etc.join("storage.conf.d"))).collect();
        if self.is_root() && !by_all.is_empty() {
            let by_all = names(&by_all);
            checks.push(if image_store::is_open(self.store) {
                HostCheck::new(
                    NAME,
                    CheckState::Note,
                    format!("{by_all} gives every user of this host root's linked images"),
                    "",
                )
            } else {
                let message = format!(
                    "{by_all} names {}, which only root can read: no other user's Podman works",
                    self.store.display()
                );
                let fix = format!("move it to {}", etc.join("storage.rootful.conf.d").display());
                HostCheck::new(NAME, CheckState::Problem, message, fix)
            });
        }
        if let Some((path, _)) = self.roots_for_all(places) {
            let message = format!(
                "{} has graphroot, which this Podman takes for rootless users too: theirs fails",
                path.display()
            );
            let fix = "`windlass doctor --fix` takes it out where it is the default; move another one to \
                       /etc/containers/storage.rootful.conf.d/10-places.conf";
            checks.push(HostCheck::new(NAME, CheckState::Problem, message, fix));
        }
        let named = self.named_conf();
        let separate = self.files().separate_store(named.as_deref().or(places.conf.as_deref()));
        if let Some(store) = separate.filter(|store| !store.exists()) {
            let message = format!(
                "imagestore is {}, which does not exist: Podman 5 and later make it when they need it",
                store.display()
            );
            checks.push(HostCheck::new(NAME, CheckState::Note, message, ""));
        }
        checks
    }

    /// What names our store, where that is not for us to write or as an alternative.
    fn how_to_name(&self, places: &Places) -> String {
        let store = self.store.display();
        let lines = format!("[storage.options] and additionalimagestores = [\"{store}\", {{append = true}}]");
        let main = self.main_conf(places).map(|(main, _)| main);
        if self.is_nixos() && self.is_root() {
            return match main {
                Some(_) => format!(
                    "when the store exists, set virtualisation.containers.storage.settings.storage.options.\
                     additionalimagestores = [ \"{store}\" ]; in the configuration of NixOS"
                ),
                None => format!(
                    "when the store exists, set environment.etc.\"containers/storage.conf.d/50-windlass.conf\".text in the \
                     configuration of NixOS to {lines}"
                ),
            };
        }
        let Some(main) = main else {
            let drop_in = self.drop_in().map_or_else(|| "storage.conf".to_owned(), |path| path.display().to_string());
            return format!("`windlass doctor --fix`, or, when the store exists, write {lines} into {drop_in}");
        };
        let (conf, by_hand) =
            (main.display(), format!("add \"{store}\" to additionalimagestores under [storage.options]"));
        if main.is_symlink() {
            return format!("{conf} is a symbolic link: in what it is made from, {by_hand}, when the store exists");
        }
        format!("`windlass doctor --fix`, or, when the store exists, {by_hand} in {conf}")
    }

    /// Runs a program of the caller's PATH in the caller's environment; `None` if it is not there.
    fn run(&self, program: &str, arguments: &[&str]) -> Option<std::io::Result<Output>> {
        let mut command = Command::new(self.on_path(program)?);
        Some(command.env_clear().envs(&self.caller.variables).args(arguments).output())
    }

    /// The store as a word of a command that people copy.
    fn quoted_store(&self) -> String {
        sh::word(&self.store.to_string_lossy())
    }

    /// Where a program is.
    pub(super) fn on_path(&self, program: &str) -> Option<PathBuf> {
        ask::on_path(self.caller, program)
    }

    /// An additional image store that is not the one asked about.
    fn foreign(&self, store: &Path, places: &Places) -> HostCheck {
        const NAME: &str = "image store";
        let faults = image_store::faults(store, &places.driver);
        // A lock that is missing is made by a Podman that can.
        let made = |fault: &&StoreFault| {
            let there =
                fault.path.ancestors().skip(1).find(|path| path.exists()).filter(|path| path.starts_with(store));
            fault.kind == FaultKind::Missing && there.is_some_and(|path| access(path, Access::WRITE_OK).is_ok())
        };
        let Some(fault) = faults.iter().find(|fault| !made(fault)) else {
            let note = |fault: &StoreFault| {
                let message = format!("{fault}: Podman makes it, but not for users who may not write there");
                HostCheck::new(NAME, CheckState::Note, message, "run `podman images` as a user who may")
            };
            return faults.first().map_or_else(|| HostCheck::ok(NAME, store.display().to_string()), note);
        };
        let text = store.to_string_lossy();
        let from = names(&self.files().with(&text, self.named_conf().as_deref()));
        let out = format!("take {text} out of {}", if from.is_empty() { "STORAGE_OPTS" } else { &from });
        let path = fault.path.display();
        let fix = match &fault.kind {
            FaultKind::Missing => format!("`touch {path}`, or {out}"),
            FaultKind::Mode(..) | FaultKind::Refused(_) | FaultKind::Unreadable(_) => {
                format!("`chmod a+r {path}`, or {out}")
            }
            FaultKind::NotJson(_) => format!("restore the file, or {out}"),
        };
        HostCheck::new(NAME, CheckState::Problem, format!("{fault}: podman commands fail"), fix)
    }
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<String>>().join(" and ")
}

fn driver(places: &Places) -> HostCheck {
    const NAME: &str = "driver";
    let driver = &places.driver;
    if driver == "overlay" {
        return HostCheck::ok(NAME, "overlay");
    }
    let cost = if driver == "vfs" { ": it copies every image whole for each of its layers" } else { "" };
    let message = format!("the storage driver is {driver}, and the linked store needs overlay{cost}");
    let fix = format!(
        "unset STORAGE_DRIVER, set driver = \"overlay\" under [storage] in storage.conf, and stop all containers and move {} \
         aside: Podman keeps to the driver that it was first used with there",
        places.graph_root.display()
    );
    HostCheck::new(NAME, CheckState::Problem, message, fix)
}
