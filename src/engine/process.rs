//! A program that is run to its end, or until the job is stopped, and what it said.
//!
//! A child is a process group of its own, so that all it started ends with it; it reads nothing, and what it prints goes
//! to files in memory, so that neither side ever waits for the other to read.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

use super::kind::EngineKind;
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;

/// How long a program may take to end after it was told to: with it a run is over within a second after a signal. What the
/// program leaves then is what a crash of it leaves.
const GRACE: Duration = Duration::from_millis(700);
/// The longest pause between two looks at a child.
const PAUSE: Duration = Duration::from_millis(10);

/// Why a program did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
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
    #[error("{program} was asked to {action} and answered '{answer}': the {program} on PATH is another program")]
    Answer {
        /// The program.
        program: &'static str,
        /// What it was to do, with the image.
        action: String,
        /// What it printed.
        answer: String,
    },
    /// The engine has no program that does it.
    #[error("{engine} cannot {action}; {next}")]
    Unable {
        /// The engine.
        engine: EngineKind,
        /// What it was to do.
        action: String,
        /// What to do instead.
        next: String,
    },
}

impl Classified for ProgramError {
    fn class(&self) -> Class {
        match self {
            Self::Start { source, .. } => source.class(),
            Self::Stopped(error) => error.class(),
            Self::Answer { .. } => Class::Unverified,
            Self::Missing { .. } => Class::Environment,
            Self::Slow { .. } | Self::Failed { .. } | Self::Unable { .. } => Class::Failed,
        }
    }
}

/// What a program printed, and how it ended.
pub(crate) struct ProgramOutcome {
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ProgramOutcome {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it ended well.
    pub(crate) fn is_success(&self) -> bool {
        self.status.success()
    }

    /// What it said that is wrong, or else how it ended.
    pub(crate) fn sentence(&self) -> String {
        said(&self.stderr).unwrap_or_else(|| self.status.to_string())
    }

    /// Its standard output, if it ended well.
    pub(crate) fn ok(self, program: &'static str, action: &str, next: &'static str) -> Result<String, ProgramError> {
        if self.status.success() { Ok(self.stdout) } else { Err(self.failure(program, action.to_owned(), next)) }
    }

    pub(crate) fn failure(&self, program: &'static str, action: String, next: &'static str) -> ProgramError {
        ProgramError::Failed { program, action, said: self.sentence(), next }
    }
}

/// The sentence of what Podman or skopeo printed that says what is wrong.
fn said(stderr: &str) -> Option<String> {
    let chatter = |line: &&str| line.contains(" level=debug ") || line.contains(" level=info ");
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !chatter(line)).collect();
    let fatal = lines.iter().rev().find(|line| line.starts_with("Error: ") || line.contains(" level=fatal "));
    // Without a user namespace skopeo says why first, and that it knows no exit status last.
    let line = fatal.or_else(|| lines.iter().find(|line| line.contains(" level=error "))).or(lines.last())?;
    // Logged to what is not a terminal: `time="…" level=fatal msg="…"`.
    let logged = line.split_once(" msg=").filter(|_| line.starts_with("time=")).map(|(_, message)| message);
    let message = logged.map(|message| serde_json::from_str(message).unwrap_or_else(|_| message.to_owned()));
    Some(message.unwrap_or_else(|| line.trim_start_matches("Error: ").to_owned()))
}

/// Where a program reads from and prints to, if it is not nothing and memory.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<Stdio>,
    pub(crate) stdout: Option<Stdio>,
}

/// Runs a program to its end, or until the job is stopped.
pub(crate) fn run(
    program: &'static str,
    command: &mut Command,
    progress: &Progress,
) -> Result<ProgramOutcome, ProgramError> {
    run_within(program, command, progress, None)
}

/// The same, for at most so long.
pub(crate) fn run_within(
    program: &'static str,
    command: &mut Command,
    progress: &Progress,
    limit: Option<Duration>,
) -> Result<ProgramOutcome, ProgramError> {
    run_with(program, command, Streams::default(), progress, limit)
}

/// The same, with something to read, or somewhere to print to. Who holds the other end of a pipe finds it closed when the
/// program has ended.
pub(crate) fn run_with(
    program: &'static str,
    command: &mut Command,
    streams: Streams,
    progress: &Progress,
    limit: Option<Duration>,
) -> Result<ProgramOutcome, ProgramError> {
    progress.check().map_err(ProgramError::Stopped)?;
    let _step = progress.step(format!("{program} is at work"));
    let start = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ProgramError::Missing { program },
        _ => ProgramError::Start { program, source },
    };
    let memory = || memfd_create(program, MemfdFlags::CLOEXEC).map(File::from).map_err(io::Error::from);
    let io = |source| ProgramError::Start { program, source };
    let (mut stdout, mut stderr) = (memory().map_err(io)?, memory().map_err(io)?);
    command.stdin(streams.stdin.unwrap_or_else(Stdio::null)).process_group(0);
    match streams.stdout {
        Some(printed) => command.stdout(printed),
        None => command.stdout(stdout.try_clone().map_err(io)?),
    };
    let spawned = command.stderr(stderr.try_clone().map_err(io)?).spawn();
    // The command would keep its ends of pipes open.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = spawned.map_err(start)?;
    let status = wait(&mut child, progress, limit).map_err(|source| match source.kind() {
        io::ErrorKind::Interrupted => ProgramError::Stopped(source),
        io::ErrorKind::TimedOut => ProgramError::Slow { program, seconds: limit.unwrap_or_default().as_secs() },
        _ => ProgramError::Start { program, source },
    })?;
    Ok(ProgramOutcome { status, stdout: text(&mut stdout).map_err(io)?, stderr: text(&mut stderr).map_err(io)? })
}

/// The same with all that it prints on standard error, for what takes long and says what it does; its exit code.
pub(crate) fn run_shown(
    program: &'static str,
    command: &mut Command,
    progress: &Progress,
) -> Result<Option<i32>, ProgramError> {
    progress.check().map_err(ProgramError::Stopped)?;
    let start = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ProgramError::Missing { program },
        _ => ProgramError::Start { program, source },
    };
    let shown = rustix::io::dup(io::stderr()).map_err(|error| start(error.into()))?;
    command.stdin(Stdio::null()).process_group(0).stdout(shown);
    let mut child = command.spawn().map_err(start)?;
    let status = wait(&mut child, progress, None).map_err(|source| match source.kind() {
        io::ErrorKind::Interrupted => ProgramError::Stopped(source),
        _ => ProgramError::Start { program, source },
    })?;
    Ok(status.code())
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
    // A rootless Podman hands it on to the process that does the work; a process that has ended needs no signal.
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
        assert!(matches!(error, Err(ProgramError::Stopped(_))));
        assert!(start.elapsed() < Duration::from_secs(30));
        stopper.join().unwrap();
        assert!(matches!(run("podman", &mut Command::new("true"), &progress), Err(ProgramError::Stopped(_))));
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
