//! Podman and skopeo as processes: which arguments make them use exactly the given places, and what they said.
//!
//! Podman gets places that were given by hand as options. Its `--root` forgets every option of `storage.conf`, so the
//! driver and the additional image stores are given again. skopeo has no such options: like a Podman that is to see
//! other image stores than usual, it reads a `storage.conf` made for it (`Engine::writing`).
//!
//! A child is a process group of its own, so that all it started ends with it; it reads nothing, and what it prints goes
//! to files in memory, so that neither side ever waits for the other to read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use super::places::{Overrides, Places};
use crate::digest::Digest;
use crate::progress::Progress;

/// How long a child that was asked to end may take to do so.
const GRACE: Duration = Duration::from_secs(2);
/// The longest pause between two looks at a child.
const PAUSE: Duration = Duration::from_millis(10);

/// Why Podman or skopeo did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The program is not installed.
    #[error("there is no {program} on PATH: install it, or add the directory that it is in")]
    Missing {
        /// The program.
        program: &'static str,
    },
    /// The system could not run it.
    #[error("run {program}: {source}")]
    Start {
        /// The program.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The job was stopped, and the program with it.
    #[error("{0}")]
    Stopped(io::Error),
    /// It did not end in the time that it was given, and was ended with all that it started.
    #[error("{program} did not end within {seconds} seconds")]
    Slow {
        /// The program.
        program: &'static str,
        /// How long it was given.
        seconds: u64,
    },
    /// It ended with an error.
    #[error("{program} could not {action}: {said}; {next}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it was to do, with the image.
        action: String,
        /// What it said.
        said: String,
        /// What to do next.
        next: &'static str,
    },
    /// It ended well and did not answer.
    #[error("podman was asked to {action} and answered '{answer}': the podman on PATH is another program")]
    Answer {
        /// What it was to do, with the image.
        action: String,
        /// What it printed.
        answer: String,
    },
}

/// A container as `podman container inspect` has it. That is the only place that knows the images which a container that
/// was never started will mount.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    /// Its ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The ID of its image.
    #[serde(default)]
    pub image: String,
    #[serde(default)]
    state: State,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    config: Config,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mount {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    source: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Container {
    /// Whether it has no process, and is not about to have one.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state.status.as_str(), "created" | "configured" | "exited")
    }

    /// The images that it mounts, by the names they were asked for.
    pub fn image_mounts(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter(|mount| mount.r#type == "image").map(|mount| mount.source.as_str())
    }

    /// The systemd unit that runs it.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        self.config.labels.as_ref()?.get("PODMAN_SYSTEMD_UNIT").map(String::as_str)
    }
}

/// What a program printed, and how it ended.
pub(super) struct Outcome {
    status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// This host's Podman, and skopeo where there is one, with the places that they use.
#[derive(Debug, Clone)]
pub struct Engine {
    options: Vec<OsString>,
    variables: Vec<(OsString, Option<OsString>)>,
}

impl Engine {
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

    /// The programs with a `storage.conf` made for these places, and with temporary files in `temporary`.
    pub(super) fn writing(&self, places: &Places, conf: &Path, temporary: &Path) -> Self {
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
    /// See [`EngineError`].
    pub fn version(&self, progress: &Progress) -> Result<String, EngineError> {
        let action = "say its version";
        let answer = self.podman(["--version"], action, progress)?;
        let version = answer.trim().strip_prefix("podman version ");
        version.map(str::to_owned).ok_or_else(|| EngineError::Answer { action: action.to_owned(), answer })
    }

    /// Asks Podman for the image ID of each of these names (`NAME:TAG`, `NAME@sha256:…`); `None` where it knows no such
    /// image. One process, however many names.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn exists(&self, names: &[&str], progress: &Progress) -> Result<Vec<Option<Digest>>, EngineError> {
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
                if outcome.status.success() {
                    return Err(EngineError::Answer { action, answer: outcome.stdout.trim().to_owned() });
                }
                Err(outcome.failure("podman", action, "see whether `podman info` works"))
            }
        }
    }

    /// Gives an image, named by its ID or in any other way, one more name `NAME:TAG`. An image that had it loses it.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn tag(&self, image: &str, name: &str, progress: &Progress) -> Result<(), EngineError> {
        self.podman(["tag", "--", image, name], &format!("tag {image} as {name}"), progress).map(drop)
    }

    /// Takes a name from an image, which stays.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn untag(&self, image: &str, name: &str, progress: &Progress) -> Result<(), EngineError> {
        self.podman(["untag", "--", image, name], &format!("take the name {name} from {image}"), progress).map(drop)
    }

    /// Removes a name, and the image if that was its last one. Podman refuses it for an image that a container uses.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn remove_image(&self, name: &str, progress: &Progress) -> Result<(), EngineError> {
        self.podman(["rmi", "--", name], &format!("remove {name}"), progress).map(drop)
    }

    /// Removes a name, and the image if that was its last one, also of an image that Podman cannot read: then skopeo does it,
    /// which does not look into the image.
    ///
    /// # Errors
    /// What Podman said, if skopeo is not there or could not either.
    pub(super) fn discard(&self, name: &str, progress: &Progress) -> Result<(), EngineError> {
        let Err(error) = self.remove_image(name, progress) else { return Ok(()) };
        // It has no option for another graph root.
        if !matches!(error, EngineError::Failed { .. }) || !self.options.is_empty() {
            return Err(error);
        }
        let mut command = self.command("skopeo");
        command.arg("delete").arg(format!("containers-storage:{name}"));
        match run("skopeo", &mut command, progress) {
            Ok(outcome) if outcome.status.success() => Ok(()),
            Err(stopped @ EngineError::Stopped(_)) => Err(stopped),
            _ => Err(error),
        }
    }

    /// Every container that Podman knows, running or not.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn containers(&self, progress: &Progress) -> Result<Vec<Container>, EngineError> {
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
            if !outcome.status.success() && tries < 5 {
                continue;
            }
            let answer = outcome.ok("podman", action, "see whether `podman ps --all` works")?;
            return serde_json::from_str(&answer)
                .map_err(|_| EngineError::Answer { action: action.to_owned(), answer: answer.trim().to_owned() });
        }
    }

    /// Removes a container that does not run; its volumes stay.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn remove_container(&self, id: &str, progress: &Progress) -> Result<(), EngineError> {
        self.podman(["rm", "--", id], &format!("remove container {id}"), progress).map(drop)
    }

    /// Restarts a container.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn restart(&self, container: &str, progress: &Progress) -> Result<(), EngineError> {
        self.podman(["restart", "--", container], &format!("restart {container}"), progress).map(drop)
    }

    /// `podman ARGUMENTS`, however it ends.
    pub(super) fn ask(&self, arguments: &[&str], progress: &Progress) -> Result<Outcome, EngineError> {
        run("podman", self.command("podman").args(arguments), progress)
    }

    /// `podman ARGUMENTS`, which must end well; its standard output.
    fn podman<const N: usize>(
        &self,
        arguments: [&str; N],
        action: &str,
        progress: &Progress,
    ) -> Result<String, EngineError> {
        self.ask(&arguments, progress)?.ok("podman", action, "see whether `podman info` works")
    }

    /// A program with the options and variables that it needs. The system looks it up on PATH.
    pub(super) fn command(&self, program: &str) -> Command {
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

impl Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it ended well.
    pub(super) fn is_success(&self) -> bool {
        self.status.success()
    }

    /// What it said that is wrong, or else how it ended.
    pub(super) fn sentence(&self) -> String {
        said(&self.stderr).unwrap_or_else(|| self.status.to_string())
    }

    /// Its standard output, if it ended well.
    pub(super) fn ok(self, program: &'static str, action: &str, next: &'static str) -> Result<String, EngineError> {
        if self.status.success() { Ok(self.stdout) } else { Err(self.failure(program, action.to_owned(), next)) }
    }

    fn failure(&self, program: &'static str, action: String, next: &'static str) -> EngineError {
        EngineError::Failed { program, action, said: self.sentence(), next }
    }
}

/// The sentence of what Podman or skopeo printed that says what is wrong.
fn said(stderr: &str) -> Option<String> {
    let chatter = |line: &&str| line.contains(" level=debug ") || line.contains(" level=info ");
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !chatter(line)).collect();
    let fatal = lines.iter().rev().find(|line| line.starts_with("Error: ") || line.contains(" level=fatal "));
    // Without a user namespace skopeo says why first, and that it knows no exit status last.
    let line = fatal.or_else(|| lines.iter().find(|line| line.contains(" level=error "))).or(lines.last())?;
    // Logged to what is no terminal: `time="…" level=fatal msg="…"`.
    let logged = line.split_once(" msg=").filter(|_| line.starts_with("time=")).map(|(_, message)| message);
    let message = logged.map(|message| serde_json::from_str(message).unwrap_or_else(|_| message.to_owned()));
    Some(message.unwrap_or_else(|| line.trim_start_matches("Error: ").to_owned()))
}

/// Runs a program to its end, or until the job is stopped.
pub(super) fn run(program: &'static str, command: &mut Command, progress: &Progress) -> Result<Outcome, EngineError> {
    run_within(program, command, progress, None)
}

/// The same, for at most so long.
pub(super) fn run_within(
    program: &'static str,
    command: &mut Command,
    progress: &Progress,
    limit: Option<Duration>,
) -> Result<Outcome, EngineError> {
    progress.check().map_err(EngineError::Stopped)?;
    let start = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => EngineError::Missing { program },
        _ => EngineError::Start { program, source },
    };
    let memory = || memfd_create(program, MemfdFlags::CLOEXEC).map(File::from).map_err(io::Error::from);
    let io = |source| EngineError::Start { program, source };
    let (mut stdout, mut stderr) = (memory().map_err(io)?, memory().map_err(io)?);
    command.stdin(Stdio::null()).process_group(0);
    command.stdout(stdout.try_clone().map_err(io)?).stderr(stderr.try_clone().map_err(io)?);
    let mut child = command.spawn().map_err(start)?;
    let status = wait(&mut child, progress, limit).map_err(|source| match source.kind() {
        io::ErrorKind::Interrupted => EngineError::Stopped(source),
        io::ErrorKind::TimedOut => EngineError::Slow { program, seconds: limit.unwrap_or_default().as_secs() },
        _ => EngineError::Start { program, source },
    })?;
    Ok(Outcome { status, stdout: text(&mut stdout).map_err(io)?, stderr: text(&mut stderr).map_err(io)? })
}

fn text(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for a child; if the job is stopped, or the time is over, ends the child and all that it started first.
fn wait(child: &mut Child, progress: &Progress, limit: Option<Duration>) -> io::Result<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    let start = Instant::now();
    let stopped = loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Err(stopped) = progress.check() {
            break stopped;
        }
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            break io::ErrorKind::TimedOut.into();
        }
        std::thread::sleep(pause);
        pause = PAUSE.min(pause * 2);
    };
    let group = Pid::from_child(child);
    // A rootless Podman hands it on to the process that does the work; whoever is gone already needs no signal.
    let _gone = kill_process_group(group, Signal::TERM);
    let end = Instant::now() + GRACE;
    while Instant::now() < end && child.try_wait()?.is_none() {
        std::thread::sleep(PAUSE);
    }
    let _gone = kill_process_group(group, Signal::KILL);
    child.wait()?;
    Err(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_that_matters_is_found() {
        for (stderr, sentence) in [
            ("WARN[0000] something\nError: localhost/a:1: image not known\n", "localhost/a:1: image not known"),
            ("Error: unknown flag\nSee 'podman --help'\n", "unknown flag"),
            (
                "time=\"2024-01-01T00:00:00Z\" level=fatal msg=\"writing blob: no \\\"x\\\"\"\n",
                "writing blob: no \"x\"",
            ),
            ("time=\"2024-01-01T00:00:00Z\" level=fatal msg=short\n", "short"),
            ("time=\"x\" level=error msg=\"no newuidmap\"\ntime=\"x\" level=error msg=\"no status\"\n", "no newuidmap"),
            ("anything else\n\n", "anything else"),
            ("anything else\ntime=\"x\" level=debug msg=\"bye\"\n", "anything else"),
        ] {
            assert_eq!(said(stderr).as_deref(), Some(sentence));
        }
        assert_eq!(said(" \n"), None);
    }

    #[test]
    fn much_output_on_both_sides_ends_and_a_stop_ends_the_whole_group() {
        let progress = Progress::new();
        let mut loud = Command::new("sh");
        loud.args(["-c", "head -c 3000000 /dev/zero | tee /dev/stderr"]);
        let outcome = run("podman", &mut loud, &progress).unwrap();
        assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (3_000_000, 3_000_000));

        let (stop, start) = (progress.stop_flag(), Instant::now());
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let error = run("podman", Command::new("sh").args(["-c", "trap '' TERM; sleep 60; sleep 60"]), &progress);
        assert!(matches!(error, Err(EngineError::Stopped(_))));
        assert!(start.elapsed() < Duration::from_secs(30));
        stopper.join().unwrap();
        assert!(matches!(run("podman", &mut Command::new("true"), &progress), Err(EngineError::Stopped(_))));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let missing = run("skopeo", &mut Command::new("/nonexistent/skopeo"), &Progress::new());
        assert_eq!(
            missing.err().unwrap().to_string(),
            "there is no skopeo on PATH: install it, or add the directory that it is in"
        );
    }
}
