//! Which engine a verb is about, and what the command line asks of it beside what a load needs.

use std::path::{Path, PathBuf};

use super::failure::{Failure, Result, environment, usage};
use super::host::{HostArgs, caller, nix_places};
use super::printer::size;
use super::rollback::{Stale, stale_in_daemon, stale_in_podman};
use crate::class::Classified;
use crate::daemon::containerd::{Containerd, ContainerdOptions};
use crate::daemon::docker::{self, DockerDaemon};
use crate::daemon::host::DaemonHost;
use crate::daemon::{DaemonError, state_of};
use crate::disk::progress::Progress;
use crate::engine::Engine;
use crate::engine::generation::{Generation, GenerationEntry};
use crate::engine::generations::Generations;
use crate::engine::kind::EngineKind;
use crate::engine::missing::MissingBase;
use crate::engine::process::ProgramError;
use crate::engine::target::{DecideError, LoadMethod, LoadOptions, LoadStep, LoadTarget, Space};
use crate::podman::load::LoadError;
use crate::podman::load::decide::PodmanHost;
use crate::podman::load::pull::PullError;
use crate::podman::load::sizes::MeasuredSizes;
use crate::podman::storage::crio::{CrioClient, SOCKET};
use crate::podman::storage::engine::StorageEngine;
use crate::podman::storage::places::Caller;

/// Which engine, for verbs that know several.
#[derive(Debug, clap::Args)]
pub(super) struct IntoArgs {
    /// The engine: Podman, or a daemon with image stores of its own.
    #[arg(long, value_enum, value_name = "ENGINE", default_value_t = IntoOption::Auto)]
    into: IntoOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum IntoOption {
    /// Podman where it is on PATH, else Docker, k3s, containerd or CRI-O, whose socket is there first.
    Auto,
    /// Podman.
    Podman,
    /// Docker: the socket of $DOCKER_HOST (unix://…), of `docker context`, /var/run/docker.sock, or that of a rootless Docker.
    Docker,
    /// containerd, through `ctr`: the socket of $CONTAINERD_ADDRESS or /run/containerd/containerd.sock, the namespace of
    /// $CONTAINERD_NAMESPACE or default.
    Containerd,
    /// The containerd of k3s, through `ctr` or `k3s ctr`: /run/k3s/containerd/containerd.sock, the namespace k8s.io.
    K3s,
    /// CRI-O, through the linked store, `crio` and `crictl`: the socket of $CONTAINER_RUNTIME_ENDPOINT (unix://…) or
    /// /var/run/crio/crio.sock.
    Crio,
}

/// The engine that was chosen.
pub(super) enum ChosenEngine {
    /// Podman. The host is for the verb to find, as some need no process for that.
    Podman,
    /// CRI-O, which has answered: its images lie as Podman's do.
    Crio(Box<PodmanHost>),
    /// A daemon, which has answered.
    Daemon(DaemonHost),
}

impl IntoArgs {
    /// The engine that these arguments and the host mean. Where it is Podman, nothing is asked.
    pub(super) fn choose(&self, host: &HostArgs, progress: &Progress) -> Result<ChosenEngine> {
        let kind = match self.into {
            IntoOption::Auto if host.is_given() => EngineKind::Podman,
            IntoOption::Auto => found(&caller()),
            IntoOption::Podman => EngineKind::Podman,
            IntoOption::Docker => EngineKind::Docker,
            IntoOption::Containerd => EngineKind::Containerd,
            IntoOption::K3s => EngineKind::K3s,
            IntoOption::Crio => EngineKind::Crio,
        };
        if kind == EngineKind::Podman {
            return Ok(ChosenEngine::Podman);
        }
        if host.is_given() {
            return Err(usage(format!(
                "--root, --runroot, --storage-conf and --storage-dir are Podman's; leave them out with {kind}"
            )));
        }
        if kind == EngineKind::Crio {
            return crio(&caller(), progress).map(|host| ChosenEngine::Crio(Box::new(host)));
        }
        connect(kind, &caller(), progress).map(ChosenEngine::Daemon)
    }
}

/// The engine that this host runs: Podman, if it has one.
fn found(caller: &Caller) -> EngineKind {
    // A context that leads elsewhere is told where there is a Docker, and is no reason to look for another engine.
    let docker = || {
        let is_there = |path: &PathBuf| path.exists();
        caller.variables.contains_key("DOCKER_HOST")
            || docker_sockets(caller).iter().any(is_there)
            || docker_socket(caller).is_ok_and(|path| is_there(&path))
    };
    let daemon = |kind| {
        let options = containerd_options(kind, caller);
        options.address.exists() && has(caller, options.program)
    };
    match has(caller, "podman") {
        true => EngineKind::Podman,
        false if docker() => EngineKind::Docker,
        false if daemon(EngineKind::K3s) && !caller.variables.contains_key("CONTAINERD_ADDRESS") => EngineKind::K3s,
        false if daemon(EngineKind::Containerd) => EngineKind::Containerd,
        false if has(caller, "crio") && crio_socket(caller).is_ok_and(|path| path.exists()) => EngineKind::Crio,
        // Its message says that there is no engine.
        false => EngineKind::Podman,
    }
}

/// Whether a program is on PATH.
fn has(caller: &Caller, program: &str) -> bool {
    let path = caller.variables.get("PATH").map(String::as_str).unwrap_or_default();
    std::env::split_paths(path).any(|folder| folder.join(program).is_file())
}

/// Where a Docker of this user may listen, where nothing is said.
fn docker_sockets(caller: &Caller) -> Vec<PathBuf> {
    let rootless = caller.variables.get("XDG_RUNTIME_DIR").map(|folder| Path::new(folder).join("docker.sock"));
    [PathBuf::from(docker::SOCKET)].into_iter().chain(rootless).collect()
}

/// The socket of the Docker that is meant.
fn docker_socket(caller: &Caller) -> Result<PathBuf> {
    let given = |name: &str| caller.variables.get(name).filter(|given| !given.is_empty());
    if let Some(given) = given("DOCKER_HOST") {
        return socket_of(given, "DOCKER_HOST");
    }
    let folder =
        given("DOCKER_CONFIG").map(PathBuf::from).or_else(|| caller.home.as_ref().map(|home| home.join(".docker")));
    if let Some(folder) = folder {
        let context = docker::context::context(&folder, given("DOCKER_CONTEXT").map(String::as_str));
        if let Some(context) = context? {
            return socket_of(&context.host, &format!("the context '{}' of Docker", context.name));
        }
    }
    let sockets = docker_sockets(caller);
    let can_write = |path: &&PathBuf| rustix::fs::access(path.as_path(), rustix::fs::Access::WRITE_OK).is_ok();
    let found = sockets.iter().find(can_write).or_else(|| sockets.iter().find(|path| path.exists()));
    Ok(found.or(sockets.first()).cloned().unwrap_or_default())
}

/// The socket that an address of Docker names; `what` has the address.
fn socket_of(address: &str, what: &str) -> Result<PathBuf> {
    match address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(path.into()),
        _ => Err(environment(format!(
            "{what} is '{address}': a load opens no network socket, so it must be unix:///… on this host"
        ))
        .hint("`windlass push` and a registry, or `windlass export --output` and `docker load`, go to other hosts")),
    }
}

/// Where windlass notes what it does for daemons: root's is the system's. $WINDLASS_STATE_DIR is another place.
fn state_base(caller: &Caller) -> Result<PathBuf> {
    if let Some(given) = caller.variables.get("WINDLASS_STATE_DIR").filter(|given| !given.is_empty()) {
        return Ok(std::path::absolute(given)?);
    }
    if caller.uid == 0 {
        return Ok(PathBuf::from("/var/lib/windlass"));
    }
    let given = caller.variables.get("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || caller.home.as_ref().map(|home| home.join(".local/state"));
    let state = given.or_else(home).ok_or_else(|| environment("HOME is not set, so there is no place for notes"))?;
    Ok(state.join("windlass"))
}

/// The generations of this user's Docker, which is not asked.
pub(super) fn docker_generations() -> Option<Generations> {
    let caller = caller();
    let socket = std::fs::canonicalize(docker_socket(&caller).ok()?).ok()?;
    Some(Generations::at(state_of(&state_base(&caller).ok()?, EngineKind::Docker, &socket)))
}

/// The socket of the CRI-O that is meant.
fn crio_socket(caller: &Caller) -> Result<PathBuf> {
    let given = caller.variables.get("CONTAINER_RUNTIME_ENDPOINT").filter(|given| !given.is_empty());
    let Some(given) = given else { return Ok(PathBuf::from(SOCKET)) };
    match given.strip_prefix("unix://").unwrap_or(given) {
        path if path.starts_with('/') => Ok(path.into()),
        _ => Err(environment(format!(
            "CONTAINER_RUNTIME_ENDPOINT is '{given}': it must be the socket of CRI-O on this host, unix:///…"
        ))),
    }
}

/// The CRI-O of this host, with the store of its own settings.
fn crio(caller: &Caller, progress: &Progress) -> Result<PodmanHost> {
    let crio = CrioClient::new(crio_socket(caller)?);
    let places = crio.places(progress).map_err(|error| match error {
        ProgramError::Failed { .. } | ProgramError::Answer { .. } => environment(error.to_string()),
        error => error.into(),
    })?;
    let linked = PodmanHost::find_linked(&places, None);
    let (engine, sizes) = (StorageEngine::Crio(crio), MeasuredSizes::default());
    Ok(PodmanHost { places, engine, linked, nix: nix_places(), sizes })
}

fn connect(kind: EngineKind, caller: &Caller, progress: &Progress) -> Result<DaemonHost> {
    if matches!(kind, EngineKind::Containerd | EngineKind::K3s) {
        return connect_containerd(kind, caller, progress);
    }
    let socket = docker_socket(caller)?;
    let daemon = Box::new(DockerDaemon::connect(&socket, progress)?);
    // However it is reached.
    let endpoint = std::fs::canonicalize(&socket).unwrap_or(socket);
    Ok(DaemonHost::new(daemon, state_of(&state_base(caller)?, kind, &endpoint), nix_places()))
}

/// How a containerd is reached: what its own client reads, or what it has by itself.
fn containerd_options(kind: EngineKind, caller: &Caller) -> ContainerdOptions {
    let given = |name: &str| caller.variables.get(name).filter(|value| !value.is_empty()).cloned();
    let (address, namespace) = match kind {
        EngineKind::K3s => ("/run/k3s/containerd/containerd.sock", "k8s.io"),
        _ => ("/run/containerd/containerd.sock", "default"),
    };
    let address = given("CONTAINERD_ADDRESS").unwrap_or_else(|| address.to_owned());
    ContainerdOptions {
        kind,
        address: address.strip_prefix("unix://").unwrap_or(&address).into(),
        namespace: given("CONTAINERD_NAMESPACE").unwrap_or_else(|| namespace.to_owned()),
        snapshotter: given("CONTAINERD_SNAPSHOTTER"),
        program: if kind == EngineKind::K3s && !has(caller, "ctr") { "k3s" } else { "ctr" },
    }
}

fn connect_containerd(kind: EngineKind, caller: &Caller, progress: &Progress) -> Result<DaemonHost> {
    let options = containerd_options(kind, caller);
    let daemon = Box::new(Containerd::new(&options, nix_places(), progress)?);
    let address = std::fs::canonicalize(&options.address).unwrap_or_else(|_| options.address.clone());
    // Each namespace has images of its own.
    let endpoint = address.join(&options.namespace);
    Ok(DaemonHost::new(daemon, state_of(&state_base(caller)?, kind, &endpoint), nix_places()))
}

/// What the command line asks of an engine.
pub(super) trait HostEngine: Engine {
    /// Which one.
    fn kind(&self) -> EngineKind;

    /// Where images are put that are not there yet.
    fn place(&self) -> &Path;

    /// What these steps need, file system by file system.
    fn space(&self, steps: &[LoadStep]) -> Result<Vec<Space>>;

    /// What to say before a load begins: what it copies, why, and what would save that.
    fn foretell(&self, targets: &[LoadTarget], steps: &[LoadStep]) -> Vec<String>;

    /// What to type next after an image was not loaded; where it does not fit, with what a clean-up would free there.
    fn advice(&self, error: &Self::Error, progress: &Progress) -> Option<String>;

    /// Target by target, what it cannot be loaded without.
    fn missing(
        &self,
        targets: &[LoadTarget],
        options: LoadOptions,
        progress: &Progress,
    ) -> Result<Vec<Option<MissingBase>>>;

    /// Containers of images that the current generation had and the wanted one has not.
    fn stale(&self, current: Option<&Generation>, wanted: &Generation, progress: &Progress) -> Result<Vec<Stale>>;

    /// The command that runs an image which is loaded.
    fn run_line(&self, entry: &GenerationEntry) -> String;

    /// Adds to a refusal for want of space what a clean-up would free.
    fn does_not_fit(&self, error: Self::Error, progress: &Progress) -> Failure {
        let hint = self.advice(&error, progress);
        Failure::from(error).hinting(hint)
    }
}

/// What a clean-up would free.
fn would_free(bytes: u64) -> Option<String> {
    // Nothing to type would free any.
    (bytes > 0).then(|| format!("`windlass gc --apply` would free {}", size(bytes)))
}

impl HostEngine for PodmanHost {
    fn kind(&self) -> EngineKind {
        self.engine.kind()
    }

    fn place(&self) -> &Path {
        &self.places.graph_root
    }

    fn space(&self, steps: &[LoadStep]) -> Result<Vec<Space>> {
        Ok(Self::space(self, steps)?)
    }

    fn foretell(&self, targets: &[LoadTarget], steps: &[LoadStep]) -> Vec<String> {
        super::foretell::foretell(self, targets, steps)
    }

    fn advice(&self, error: &LoadError, progress: &Progress) -> Option<String> {
        let place: &Path = match error {
            LoadError::Decide(DecideError::NoSpace { place, .. }) => place,
            LoadError::Pull(PullError::NoSpace { graph_root, .. } | PullError::Full { graph_root, .. }) => graph_root,
            _ => return error.hint(),
        };
        would_free(self.reclaimable(place, progress))
    }

    fn missing(
        &self,
        targets: &[LoadTarget],
        options: LoadOptions,
        progress: &Progress,
    ) -> Result<Vec<Option<MissingBase>>> {
        Ok(self.missing_bases(targets, options, progress)?)
    }

    fn stale(&self, current: Option<&Generation>, wanted: &Generation, progress: &Progress) -> Result<Vec<Stale>> {
        stale_in_podman(self, current, wanted, progress)
    }

    fn run_line(&self, entry: &GenerationEntry) -> String {
        let image = super::load::run_words(entry);
        match self.engine.kind() {
            EngineKind::Crio => format!("image: {image} with imagePullPolicy: Never, in a pod"),
            _ => format!("podman run --pull=never {image}"),
        }
    }
}

impl HostEngine for DaemonHost {
    fn kind(&self) -> EngineKind {
        self.daemon.kind()
    }

    fn place(&self) -> &Path {
        self.daemon.data()
    }

    fn space(&self, steps: &[LoadStep]) -> Result<Vec<Space>> {
        Ok(Self::space(self, steps)?.into_iter().collect())
    }

    fn foretell(&self, _: &[LoadTarget], steps: &[LoadStep]) -> Vec<String> {
        let missing = || steps.iter().filter(|step| step.how == LoadMethod::Pull);
        if missing().next().is_none() {
            return Vec::new();
        }
        let stays: u64 = missing().map(|step| step.to_write).sum();
        let needed = Self::space(self, steps).ok().flatten().map_or(stays, |space| space.needed);
        let (engine, place) = (self.kind(), self.daemon.data().display());
        vec![format!("{engine} writes {} to {place}, and needs {} while it works", size(stays), size(needed))]
    }

    fn advice(&self, error: &DaemonError, _: &Progress) -> Option<String> {
        error.hint()
    }

    fn missing(&self, targets: &[LoadTarget], _: LoadOptions, progress: &Progress) -> Result<Vec<Option<MissingBase>>> {
        Ok(self.missing_bases(targets, progress)?)
    }

    fn stale(&self, current: Option<&Generation>, wanted: &Generation, progress: &Progress) -> Result<Vec<Stale>> {
        stale_in_daemon(self, current, wanted, progress)
    }

    fn run_line(&self, entry: &GenerationEntry) -> String {
        self.daemon.run_line(entry)
    }
}
