//! Podman and skopeo as processes: which arguments make them use exactly the given places, and what they said.
//!
//! Podman gets places that were given by hand as options. Its `--root` forgets every option of `storage.conf`, so the
//! driver and the additional image stores are given again. skopeo has no such options: like a Podman that is to see
//! other image stores than usual, it reads a `storage.conf` made for it (`Client::writing`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::places::{Overrides, Places};
use crate::disk::progress::Progress;
use crate::engine::process::{ProgramError, ProgramOutcome, run};
use crate::oci::digest::Digest;

/// A container as `podman container inspect` has it. That is the only place that knows the images which a container that
/// was never started will mount.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PodmanContainer {
    /// Its ID.
    pub(crate) id: String,
    pub(crate) name: String,
    /// The ID of its image.
    #[serde(default)]
    pub(crate) image: String,
    #[serde(default)]
    state: ContainerState,
    #[serde(default)]
    mounts: Vec<ContainerMount>,
    #[serde(default)]
    config: ContainerConfig,
    #[serde(default)]
    network_settings: ContainerNetworks,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerState {
    #[serde(default)]
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerMount {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    source: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerConfig {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerNetworks {
    #[serde(default)]
    networks: Option<BTreeMap<String, serde_json::Value>>,
}

/// A network, as far as its name.
#[derive(Debug, Deserialize)]
struct PodmanNetwork {
    name: String,
}

impl PodmanContainer {
    /// A container as another engine tells of it.
    pub(super) fn told(id: String, name: String, image: String, is_stopped: bool) -> Self {
        let status = if is_stopped { "exited" } else { "running" }.to_owned();
        let (mounts, config, network_settings) = Default::default();
        Self { id, name, image, state: ContainerState { status }, mounts, config, network_settings }
    }

    /// The networks that it is in, or will be once it is started.
    pub(crate) fn networks(&self) -> impl Iterator<Item = &str> {
        self.network_settings.networks.iter().flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// Whether it has no process, and is not about to have one.
    #[must_use]
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state.status.as_str(), "created" | "configured" | "exited")
    }

    /// The images that it mounts, by the names they were asked for.
    pub(crate) fn image_mounts(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter(|mount| mount.r#type == "image").map(|mount| mount.source.as_str())
    }

    /// The systemd unit that runs it.
    #[must_use]
    pub(crate) fn unit(&self) -> Option<&str> {
        self.config.labels.as_ref()?.get("PODMAN_SYSTEMD_UNIT").map(String::as_str)
    }
}

/// This host's Podman, and skopeo where there is one, with the places that they use.
#[derive(Debug, Clone)]
pub struct PodmanClient {
    options: Vec<OsString>,
    variables: Vec<(OsString, Option<OsString>)>,
}

impl PodmanClient {
    /// Podman as it is for its user, but for the places that were given by hand.
    #[must_use]
    pub fn new(given: &Overrides, places: &Places) -> Self {
        let mut options: Vec<OsString> = Vec::new();
        if given.root.is_some() {
            options.extend(["--root".into(), places.graph_root.clone().into()]);
            options.extend(["--storage-driver".into(), places.driver.clone().into()]);
            for store in &places.image_stores {
                let mut option = OsString::from(format!("{}.imagestore=", places.driver));
                option.push(store);
                options.extend(["--storage-opt".into(), option]);
            }
        }
        if given.runroot.is_some() {
            options.extend(["--runroot".into(), places.run_root.clone().into()]);
        }
        // A Podman elsewhere has another storage than the one whose records are read here.
        let mut variables: Vec<_> = ["CONTAINER_HOST", "CONTAINER_CONNECTION"].map(|name| (name.into(), None)).into();
        if let Some(conf) = &given.storage_conf {
            variables.push(("CONTAINERS_STORAGE_CONF".into(), Some(conf.into())));
        }
        Self { options, variables }
    }

    /// With a variable in the environment of the programs, beside those of this process.
    #[must_use]
    pub fn with_variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Whether there is a skopeo.
    pub(crate) fn has_skopeo(&self, progress: &Progress) -> bool {
        run("skopeo", self.command("skopeo").arg("--version"), progress).is_ok()
    }

    /// The programs with a `storage.conf` made for these places, and with temporary files in `temporary`.
    pub(crate) fn writing(&self, places: &Places, conf: &Path, temporary: &Path) -> Self {
        // A rootless Podman takes no run root from a file that a variable names, and remembers for ever what it took.
        let options =
            if places.rootless { vec!["--runroot".into(), places.run_root.clone().into()] } else { Vec::new() };
        let mut engine = Self { options, variables: self.variables.clone() };
        engine.variables.extend(["STORAGE_DRIVER", "STORAGE_OPTS"].map(|name| (name.into(), None)));
        engine.with_variable("CONTAINERS_STORAGE_CONF", conf).with_variable("TMPDIR", temporary)
    }

    /// What version Podman says it is: `4.3.1`.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn version(&self, progress: &Progress) -> Result<String, ProgramError> {
        let action = "say its version";
        let answer = self.podman(["--version"], action, progress)?;
        let version = answer.trim().strip_prefix("podman version ");
        version.map(str::to_owned).ok_or_else(|| ProgramError::Answer {
            program: "podman",
            action: action.to_owned(),
            answer,
        })
    }

    /// Asks Podman for the image ID of each of these names (`NAME:TAG`, `NAME@sha256:…`); `None` where it knows no such
    /// image. One process, however many names.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn exists(&self, names: &[&str], progress: &Progress) -> Result<Vec<Option<Digest>>, ProgramError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = self.command("podman");
        command.args(["image", "inspect", "--format", "{{.Id}}", "--"]).args(names);
        let outcome = run("podman", &mut command, progress)?;
        // It ends with an error if one of them is missing, having printed the others in order. The missing ones are
        // named on standard error, `… localhost/app:1: image not known`.
        let unknown = |name: &str| {
            let mut lines = outcome.stderr.lines().filter(|line| line.contains("image not known"));
            lines.any(|line| line.split_whitespace().any(|word| word.trim_matches([':', '"']) == name))
        };
        let mut ids = outcome.stdout.lines();
        let found = names.iter().map(|name| match unknown(name) {
            true => Some(None),
            false => format!("sha256:{}", ids.next()?.trim()).parse().ok().map(Some),
        });
        let found: Option<Vec<_>> = found.collect();
        match found.filter(|_| ids.next().is_none()) {
            Some(found) => Ok(found),
            None => {
                let action = format!("look up {}", names.join(" "));
                if outcome.is_success() {
                    return Err(ProgramError::Answer {
                        program: "podman",
                        action,
                        answer: outcome.stdout.trim().to_owned(),
                    });
                }
                Err(outcome.failure("podman", action, "see whether `podman info` works"))
            }
        }
    }

    /// Gives an image, named by its ID or in any other way, one more name `NAME:TAG`. An image that had it loses it.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn tag(&self, image: &str, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        self.podman(["tag", "--", image, name], &format!("tag {image} as {name}"), progress).map(drop)
    }

    /// Takes a name from an image, which stays.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn untag(&self, image: &str, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        self.podman(["untag", "--", image, name], &format!("take the name {name} from {image}"), progress).map(drop)
    }

    /// Removes a name, and the image if that was its last one. Podman refuses it for an image that a container uses.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn remove_image(&self, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        self.podman(["rmi", "--", name], &format!("remove {name}"), progress).map(drop)
    }

    /// Removes a name, and the image if that was its last one, also of an image that Podman cannot read: then skopeo does it,
    /// which does not look into the image.
    ///
    /// # Errors
    /// What Podman said, if skopeo is not there or could not either.
    pub(crate) fn discard(&self, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        let Err(error) = self.remove_image(name, progress) else { return Ok(()) };
        // It has no option for another graph root.
        if !matches!(error, ProgramError::Failed { .. }) || !self.options.is_empty() {
            return Err(error);
        }
        let mut command = self.command("skopeo");
        command.arg("delete").arg(format!("containers-storage:{name}"));
        match run("skopeo", &mut command, progress) {
            Ok(outcome) if outcome.is_success() => Ok(()),
            Err(stopped @ ProgramError::Stopped(_)) => Err(stopped),
            _ => Err(error),
        }
    }

    /// Every container that Podman knows, running or not.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn containers(&self, progress: &Progress) -> Result<Vec<PodmanContainer>, ProgramError> {
        let action = "list its containers";
        let mut tries = 0;
        loop {
            let ids = self.podman(["ps", "--all", "--quiet", "--no-trunc"], action, progress)?;
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            let mut command = self.command("podman");
            let outcome = run("podman", command.args(["container", "inspect", "--"]).args(&ids), progress)?;
            tries += 1;
            // One that was removed in the meantime is an error.
            if !outcome.is_success() && tries < 5 {
                continue;
            }
            let answer = outcome.ok("podman", action, "see whether `podman ps --all` works")?;
            return serde_json::from_str(&answer).map_err(|_| ProgramError::Answer {
                program: "podman",
                action: action.to_owned(),
                answer: answer.trim().to_owned(),
            });
        }
    }

    /// Removes a container that does not run; its volumes stay.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn remove_container(&self, id: &str, progress: &Progress) -> Result<(), ProgramError> {
        self.podman(["rm", "--", id], &format!("remove container {id}"), progress).map(drop)
    }

    /// The names of the networks with a label.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn networks(&self, label: &str, progress: &Progress) -> Result<Vec<String>, ProgramError> {
        let action = "list its networks";
        let filter = format!("label={label}");
        let answer = self.podman(["network", "ls", "--format", "json", "--filter", &filter], action, progress)?;
        let networks: Vec<PodmanNetwork> = serde_json::from_str(&answer).map_err(|_| ProgramError::Answer {
            program: "podman",
            action: action.to_owned(),
            answer: answer.trim().to_owned(),
        })?;
        Ok(networks.into_iter().map(|network| network.name).collect())
    }

    /// Removes a network; Podman refuses that while a container is in it.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn remove_network(&self, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        self.podman(["network", "rm", "--", name], &format!("remove network {name}"), progress).map(drop)
    }

    /// Has Podman take the image of an OCI layout, a folder of this name in `folder`.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn take_layout(&self, folder: &Path, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        let mut command = self.command("podman");
        // Its name is relative: a colon in the folder's own would end the path.
        command.current_dir(folder).args(["pull", "--quiet", &format!("oci:{name}")]);
        let action = format!("take an image from {}", folder.display());
        run("podman", &mut command, progress)?.ok("podman", &action, "see whether `podman info` works").map(drop)
    }

    /// Restarts a container.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(crate) fn restart(&self, container: &str, progress: &Progress) -> Result<(), ProgramError> {
        self.podman(["restart", "--", container], &format!("restart {container}"), progress).map(drop)
    }

    /// `podman ARGUMENTS`, however it ends.
    pub(crate) fn ask(&self, arguments: &[&str], progress: &Progress) -> Result<ProgramOutcome, ProgramError> {
        run("podman", self.command("podman").args(arguments), progress)
    }

    /// `podman ARGUMENTS`, which must end well; its standard output.
    fn podman<const N: usize>(
        &self,
        arguments: [&str; N],
        action: &str,
        progress: &Progress,
    ) -> Result<String, ProgramError> {
        self.ask(&arguments, progress)?.ok("podman", action, "see whether `podman info` works")
    }

    /// A program with the options and variables that it needs. The system looks it up on PATH.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if program == "podman" {
            command.args(&self.options);
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}
