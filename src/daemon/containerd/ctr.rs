//! `ctr`, containerd's own client: each question is one process with a list of arguments, and no shell.
//!
//! Every host with containerd has it, and k3s has it as `k3s ctr`; it speaks the gRPC of the containerd that it came with. A
//! client in Rust would bring tokio, tonic and generated code for a handful of calls (about 70 crates), and would know one
//! version of them. What that costs is a process for each call: 20 to 30 ms.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tables::{self, CtrImage, CtrPlugins, CtrSnapshots};
use crate::daemon::DaemonError;
use crate::disk::progress::Progress;
use crate::engine::kind::EngineKind;
use crate::engine::process::ProgramError;
use crate::engine::process::{ProgramOutcome, Streams, run_with};
use crate::oci::digest::{Digest, Hasher};

/// A containerd, and the namespace of it that is meant.
#[derive(Debug, Clone)]
pub(super) struct Ctr {
    pub(super) kind: EngineKind,
    /// Its socket.
    pub(super) address: PathBuf,
    pub(super) namespace: String,
    /// The program that is run.
    program: &'static str,
}

impl Ctr {
    /// One that is asked through `ctr`, or through k3s where only that is on this host.
    pub(super) fn new(kind: EngineKind, address: &Path, namespace: &str, program: &'static str) -> Self {
        Self { kind, address: address.to_owned(), namespace: namespace.to_owned(), program }
    }

    /// What is typed to ask it.
    pub(super) fn words(&self) -> String {
        let program = if self.program == "k3s" { "k3s ctr" } else { self.program };
        format!("{program} --address {} --namespace {}", self.address.display(), self.namespace)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        if self.program == "k3s" {
            command.arg("ctr");
        }
        command.arg("--address").arg(&self.address).args(["--namespace", &self.namespace, "--connect-timeout", "5s"]);
        // What the daemon has to say of its configuration is for its administrator, and asking for it is one call more.
        command.env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "true");
        command.args(arguments);
        command
    }

    /// Runs it; `action` is what it is to do, with the object.
    fn run(
        &self,
        action: &str,
        arguments: &[&str],
        streams: Streams,
        progress: &Progress,
    ) -> Result<ProgramOutcome, DaemonError> {
        if !self.address.exists() {
            return Err(self.unreachable("there is no such socket"));
        }
        let outcome = run_with(self.program, &mut self.command(arguments), streams, progress, None);
        let outcome = outcome.map_err(|error| match error {
            ProgramError::Stopped(source) => DaemonError::Stopped(source),
            error => self.unreachable(&error.to_string()),
        })?;
        if outcome.is_success() {
            return Ok(outcome);
        }
        let said = outcome.sentence();
        let said = said.trim_start_matches("ctr: ");
        if ["failed to dial", "cannot access socket", "connection error"].iter().any(|dial| said.contains(dial)) {
            return Err(self.unreachable(said));
        }
        Err(DaemonError::Refused { engine: self.kind, action: action.to_owned(), said: said.to_owned() })
    }

    fn unreachable(&self, why: &str) -> DaemonError {
        DaemonError::Unreachable {
            engine: self.kind,
            endpoint: self.address.display().to_string(),
            why: why.to_owned(),
            hint: "see whether it runs, whether you may use its socket, and what $CONTAINERD_ADDRESS says".to_owned(),
        }
    }

    /// What it prints when asked.
    pub(super) fn ask(&self, action: &str, arguments: &[&str], progress: &Progress) -> Result<String, DaemonError> {
        self.run(action, arguments, Streams::default(), progress).map(|outcome| outcome.stdout)
    }

    /// The same, given something to read.
    pub(super) fn feed(
        &self,
        action: &str,
        arguments: &[&str],
        input: impl Into<Stdio>,
        progress: &Progress,
    ) -> Result<(), DaemonError> {
        let streams = Streams { stdin: Some(input.into()), stdout: None };
        self.run(action, arguments, streams, progress).map(drop)
    }

    /// Has the namespace take a blob in, whose bytes are those of a file.
    pub(super) fn ingest(
        &self,
        digest: Digest,
        size: u64,
        input: File,
        progress: &Progress,
    ) -> Result<(), DaemonError> {
        let (digest, size) = (digest.to_string(), size.to_string());
        let reference = format!("windlass-{digest}");
        let arguments = ["content", "ingest", "--expected-size", &size, "--expected-digest", &digest, &reference];
        self.feed(&format!("take {digest} in"), &arguments, input, progress)
    }

    /// Every name of an image.
    pub(super) fn images(&self, progress: &Progress) -> Result<Vec<CtrImage>, DaemonError> {
        self.ask("list its images", &["images", "list"], progress).map(|table| tables::images(&table))
    }

    /// Every blob of the namespace, with its labels.
    pub(super) fn content(&self, progress: &Progress) -> Result<BTreeMap<Digest, String>, DaemonError> {
        self.ask("list its content", &["content", "list"], progress).map(|table| tables::content(&table))
    }

    /// Every snapshot of the namespace in a snapshotter.
    pub(super) fn snapshots(&self, snapshotter: &str, progress: &Progress) -> Result<CtrSnapshots, DaemonError> {
        let arguments = ["snapshots", "--snapshotter", snapshotter, "list"];
        self.ask("list its snapshots", &arguments, progress).map(|table| tables::snapshots(&table))
    }

    /// Its parts.
    pub(super) fn plugins(&self, progress: &Progress) -> Result<CtrPlugins, DaemonError> {
        self.ask("list its plugins", &["plugins", "list", "--detailed"], progress).map(|text| tables::plugins(&text))
    }

    /// The bytes of a small blob.
    pub(super) fn blob(&self, digest: Digest, progress: &Progress) -> Result<String, DaemonError> {
        self.ask(&format!("give {digest}"), &["content", "get", &digest.to_string()], progress)
    }

    /// The digest of what it gives for a blob.
    pub(super) fn digest_of(&self, digest: Digest, progress: &Progress) -> Result<Digest, DaemonError> {
        let failed = |source| DaemonError::Stopped(source);
        let (mut reader, writer) = io::pipe().map_err(failed)?;
        let hash = move || -> io::Result<Digest> {
            let (mut hasher, mut chunk) = (Hasher::new(), vec![0; 64 * 1024]);
            loop {
                match reader.read(&mut chunk)? {
                    0 => return Ok(hasher.finish().0),
                    count => {
                        hasher.update(&chunk[..count]);
                        progress.count_read(count as u64);
                    }
                }
            }
        };
        let (action, text) = (format!("give {digest}"), digest.to_string());
        std::thread::scope(|scope| {
            let hashing = scope.spawn(hash);
            let streams = Streams { stdin: None, stdout: Some(writer.into()) };
            let ran = self.run(&action, &["content", "get", &text], streams, progress);
            let found = hashing.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
            ran.and_then(|_| found.map_err(failed))
        })
    }
}
