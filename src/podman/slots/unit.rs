//! A service that a model is switched for: what of it uses a slot, how it is restarted, and whether it is healthy then.
//!
//! Health is asked for, not waited for: `podman healthcheck run`, once a second. Podman's own timers need systemd, and
//! may come only every half minute. Each answer counts as one of the timer's, though; so where enough bad ones make Podman
//! kill or restart the container (`--health-on-failure`, a start-up check), only what the timers found is read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::engine::process::{ProgramError, ProgramOutcome, run};
use crate::podman::storage::client::PodmanClient;

/// How long a container without a health check must have run to count as healthy.
pub(crate) const STABLE: Duration = Duration::from_secs(5);
/// The pause between two looks at a service.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause between two looks at whether the job is stopped.
const TICK: Duration = Duration::from_millis(50);
/// The label that says which unit a container belongs to.
const LABEL: &str = "PODMAN_SYSTEMD_UNIT";
/// After so many ends since it was restarted, a unit is not waited for any more, though systemd would start it again.
const ENDS: u32 = 2;

/// What is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotService {
    /// A container, by name or ID.
    Container(String),
    /// A unit of systemd, with the containers that have the label `PODMAN_SYSTEMD_UNIT` with its name.
    Unit {
        /// Its name: `podman-llama.service`.
        name: String,
        /// Whether it is one of this user's own systemd.
        user: bool,
    },
}

/// Why a service is not healthy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// It could not be restarted, or not be looked at.
    #[error(transparent)]
    Engine(#[from] ProgramError),
    /// Podman described a container in an unknown way.
    #[error("podman describes container {container} in a way that is not known: {message}; is it Podman 4.3 or later?")]
    Answer { container: String, message: String },
    /// It did not become healthy.
    #[error("{0}")]
    Unhealthy(String),
}

impl Classified for ServiceError {
    fn class(&self) -> Class {
        match self {
            Self::Engine(error) => error.class(),
            Self::Answer { .. } | Self::Unhealthy(_) => Class::Failed,
        }
    }
}

impl ServiceError {
    /// Whether the job was stopped, which says nothing about the service.
    #[must_use]
    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self, Self::Engine(ProgramError::Stopped(_)))
    }
}

/// What `podman inspect` says of a container, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedContainer {
    id: String,
    name: String,
    state: InspectedState,
    #[serde(default)]
    mounts: Vec<InspectedMount>,
    config: InspectedConfig,
    host_config: HostConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    running: bool,
    pid: u32,
    exit_code: i32,
    health: Option<InspectedHealth>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHealth {
    status: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedMount {
    #[serde(rename = "Type")]
    kind: String,
    source: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    /// `null` if there are none.
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<InspectedHealthcheck>,
    #[serde(default)]
    healthcheck_on_failure_action: String,
    startup_health_check: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedHealthcheck {
    #[serde(default)]
    test: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    restart_policy: RestartPolicy,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    name: String,
}

/// What one look at a service found.
enum ServiceLook {
    Healthy,
    /// Not healthy yet, and why.
    Not(String),
    /// It will not become healthy any more.
    Never(String),
}

/// The processes of a service before it was restarted, each with the ID of its container: they say nothing about how the
/// service is then. Empty where it has been restarted when this is had.
#[derive(Debug, Clone, Default)]
pub(crate) struct FormerProcesses(Vec<(String, u32)>);

impl SlotService {
    /// The service itself; of a container that systemd runs, its unit. systemd would take the end of the container for the
    /// end of the service, and remove the container that Podman is about to start.
    ///
    /// # Errors
    /// If Podman does not know the container.
    pub(crate) fn managed(&self, engine: &PodmanClient, progress: &Progress) -> Result<Self, ServiceError> {
        if matches!(self, Self::Unit { .. }) {
            return Ok(self.clone());
        }
        let containers = self.containers(engine, progress)?;
        let labels = containers.first().and_then(|container| container.config.labels.as_ref());
        let Some(name) = labels.and_then(|labels| labels.get(LABEL)) else { return Ok(self.clone()) };
        // A container of root's is most likely of the system's own systemd, and that of another user of the user's.
        let is_root = rustix::process::geteuid().is_root();
        for user in [!is_root, is_root] {
            let unit = Self::Unit { name: name.clone(), user };
            // The unit may be gone, or there may be no systemd at all.
            if unit.property("LoadState", progress).is_ok_and(|state| state == "loaded") {
                return Ok(unit);
            }
        }
        Ok(self.clone())
    }

    /// The places on the host and the images that its containers have mounted; `None` if it has no container now.
    ///
    /// # Errors
    /// If Podman does not know the container.
    pub(crate) fn mounts(&self, engine: &PodmanClient, progress: &Progress) -> Result<Option<Mounts>, ServiceError> {
        let containers = self.containers(engine, progress)?;
        if containers.is_empty() {
            return Ok(None);
        }
        let mut mounts = Mounts { binds: Vec::new(), images: Vec::new() };
        for InspectedMount { kind, source } in containers.into_iter().flat_map(|container| container.mounts) {
            match kind.as_str() {
                "bind" => mounts.binds.push(source.into()),
                "image" => mounts.images.push(source),
                _ => {}
            }
        }
        Ok(Some(mounts))
    }

    /// Restarts it, once. A container keeps its binds by their paths, and its image mounts by their names: both are
    /// looked up again when it starts (Podman 4.3 and 5.4).
    ///
    /// A unit is not waited for here: one that has started only when its container is healthy may take a long time.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) fn restart(&self, engine: &PodmanClient, progress: &Progress) -> Result<FormerProcesses, ServiceError> {
        match self {
            Self::Container(name) => {
                engine.restart(name, progress)?;
                Ok(FormerProcesses::default())
            }
            Self::Unit { name, .. } => {
                let before = processes(&self.containers(engine, progress)?);
                // One that failed too often would not be started; that there is nothing to reset is not a reason to stop.
                drop(self.systemctl(&["reset-failed", "--", name], progress)?);
                let outcome = self.systemctl(&["restart", "--no-block", "--", name], progress)?;
                let next = "see what its journal says";
                drop(outcome.ok("systemctl", &format!("restart {name}"), next)?);
                Ok(FormerProcesses(before))
            }
        }
    }

    /// Waits until it is healthy: its health checks pass, or, of a container that has none, the same process has been
    /// running for [`STABLE`]. The time begins when systemd has stopped what the service ran before.
    ///
    /// # Errors
    /// If it is not healthy when the time is up, or cannot become so any more.
    pub(crate) fn wait(
        &self,
        engine: &PodmanClient,
        before: &FormerProcesses,
        timeout: Duration,
        progress: &Progress,
    ) -> Result<(), ServiceError> {
        let mut start = Instant::now();
        let mut same: Option<(Vec<(String, u32)>, Instant)> = None;
        loop {
            let containers = self.containers(engine, progress)?;
            let processes = processes(&containers);
            let is_old = processes.iter().any(|process| before.0.contains(process));
            let since = match &same {
                Some((old, since)) if *old == processes => *since,
                _ => Instant::now(),
            };
            same = Some((processes, since));
            // One that hangs ends only when it is killed, which systemd does in its own time.
            if is_old && self.property("ActiveState", progress)? == "deactivating" {
                start = Instant::now();
            }
            let look = match is_old {
                true => ServiceLook::Not(format!("{self} still runs the container that it ran before")),
                false => self.look(engine, &containers, since.elapsed() >= STABLE.min(timeout), progress)?,
            };
            match look {
                ServiceLook::Healthy => return Ok(()),
                ServiceLook::Never(why) => return Err(ServiceError::Unhealthy(why)),
                ServiceLook::Not(why) if start.elapsed() >= timeout => {
                    return Err(ServiceError::Unhealthy(format!("{why}, after {} s", timeout.as_secs())));
                }
                ServiceLook::Not(_) => {}
            }
            let until = Instant::now() + PAUSE.min(timeout.saturating_sub(start.elapsed()));
            while Instant::now() < until {
                progress.check().map_err(ProgramError::Stopped)?;
                std::thread::sleep(TICK);
            }
        }
    }

    fn look(
        &self,
        engine: &PodmanClient,
        containers: &[InspectedContainer],
        stable: bool,
        progress: &Progress,
    ) -> Result<ServiceLook, ServiceError> {
        if containers.is_empty() {
            let Self::Unit { name, .. } = self else { return Ok(ServiceLook::Never(format!("{self} is gone"))) };
            if self.has_failed(progress)? {
                return Ok(ServiceLook::Never(format!("{self} has failed; see its journal")));
            }
            return Ok(ServiceLook::Not(format!("no container has the label {LABEL}={name}")));
        }
        if let Some(container) = containers.iter().find(|container| !container.state.running) {
            let ended = format!("container {} ended with exit code {}", container.name, container.state.exit_code);
            let over = match self {
                Self::Container(_) => matches!(container.host_config.restart_policy.name.as_str(), "" | "no"),
                Self::Unit { .. } => self.has_failed(progress)?,
            };
            return Ok(if over { ServiceLook::Never(ended) } else { ServiceLook::Not(ended) });
        }
        for container in containers {
            let healthy = if !container.has_check() {
                stable
            } else if container.bad_answers_count() {
                container.state.health.as_ref().is_some_and(|health| health.status == "healthy")
            } else {
                // 0: healthy; 1: not, or not yet; 125: ended in the meantime.
                engine.ask(&["healthcheck", "run", "--", &container.id], progress)?.code() == Some(0)
            };
            if !healthy {
                let name = &container.name;
                return Ok(ServiceLook::Not(match (container.has_check(), container.bad_answers_count()) {
                    (false, _) => format!("container {name} does not stay up"),
                    (true, false) => format!("the health check of container {name} fails"),
                    (true, true) => format!("Podman's timers have not found container {name} healthy"),
                }));
            }
        }
        Ok(ServiceLook::Healthy)
    }

    fn containers(&self, engine: &PodmanClient, progress: &Progress) -> Result<Vec<InspectedContainer>, ServiceError> {
        let ids = match self {
            Self::Container(name) => vec![name.clone()],
            Self::Unit { name, .. } => {
                let filter = format!("label={LABEL}={name}");
                let list = ["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter];
                let next = "see whether `podman info` works";
                let list =
                    engine.ask(&list, progress)?.ok("podman", &format!("list the containers of {self}"), next)?;
                list.lines().map(str::to_owned).collect()
            }
        };
        let mut containers = Vec::new();
        for id in ids {
            let outcome = engine.ask(&["inspect", "--type", "container", "--", &id], progress)?;
            // Between listing and asking, a unit may have replaced its container.
            if outcome.code() != Some(0) && matches!(self, Self::Unit { .. }) {
                continue;
            }
            let json =
                outcome.ok("podman", &format!("inspect container {id}"), "name one that `podman ps --all` lists")?;
            let read: Result<Vec<InspectedContainer>, _> = serde_json::from_str(&json);
            let wrong = |error: serde_json::Error| ServiceError::Answer { container: id, message: error.to_string() };
            containers.extend(read.map_err(wrong)?);
        }
        Ok(containers)
    }

    /// Whether systemd has given the unit up, or has started it again too often since it was restarted here.
    fn has_failed(&self, progress: &Progress) -> Result<bool, ServiceError> {
        let Self::Unit { name, .. } = self else { return Ok(false) };
        if self.systemctl(&["is-failed", "--quiet", "--", name], progress)?.code() == Some(0) {
            return Ok(true);
        }
        Ok(self.property("NRestarts", progress)?.parse().is_ok_and(|restarts: u32| restarts >= ENDS))
    }

    /// What systemd says of the unit; empty for what it does not know.
    fn property(&self, property: &str, progress: &Progress) -> Result<String, ProgramError> {
        let Self::Unit { name, .. } = self else { return Ok(String::new()) };
        let outcome = self.systemctl(&["show", "--property", property, "--value", "--", name], progress)?;
        let next = "see whether `systemctl status` works";
        Ok(outcome.ok("systemctl", &format!("show {name}"), next)?.trim().to_owned())
    }

    fn systemctl(&self, arguments: &[&str], progress: &Progress) -> Result<ProgramOutcome, ProgramError> {
        let mut command = Command::new("systemctl");
        if matches!(self, Self::Unit { user: true, .. }) {
            command.arg("--user");
        }
        run("systemctl", command.args(arguments), progress)
    }
}

fn processes(containers: &[InspectedContainer]) -> Vec<(String, u32)> {
    containers.iter().map(|container| (container.id.clone(), container.state.pid)).collect()
}

impl InspectedContainer {
    fn has_check(&self) -> bool {
        let test = self.config.healthcheck.as_ref().and_then(|check| check.test.first());
        test.is_some_and(|kind| !matches!(kind.as_str(), "" | "NONE"))
    }

    /// Whether Podman does something to the container when its check has failed often enough.
    fn bad_answers_count(&self) -> bool {
        self.config.startup_health_check.is_some()
            || !matches!(self.config.healthcheck_on_failure_action.as_str(), "" | "none")
    }
}

/// What the containers of a service have mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounts {
    /// Paths on the host, as they were given to Podman.
    pub(crate) binds: Vec<PathBuf>,
    /// Images, by the names that were given to Podman.
    pub(crate) images: Vec<String>,
}

impl Mounts {
    /// Whether something at or below `folder/name` is bound, however the path to `folder` was written.
    #[must_use]
    pub(crate) fn has_below(&self, folder: &Path, name: &str) -> bool {
        let folder = std::fs::canonicalize(folder);
        let is_it = |path: &Path| {
            path.file_name().is_some_and(|last| last == name)
                && path.parent().is_some_and(|parent| {
                    folder.as_ref().is_ok_and(|folder| std::fs::canonicalize(parent).is_ok_and(|real| real == *folder))
                })
        };
        self.binds.iter().any(|bind| bind.ancestors().any(is_it))
    }
}

impl fmt::Display for SlotService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(name) => write!(f, "container {name}"),
            Self::Unit { name, .. } => f.write_str(name),
        }
    }
}
