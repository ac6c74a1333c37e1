//! Why a registry did not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::credentials::CredentialsError;
use super::location::LocationError;
use crate::class::{Class, Classified};
use crate::oci::digest::Digest;

/// Each cause of a failure, with the object it is about. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name of an image.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The credentials of the user.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Plain HTTP to another machine.
    #[error(
        "{host}: plain HTTP is for a registry on this machine only; give it a certificate, and leave the option out"
    )]
    Insecure {
        /// The registry.
        host: String,
    },
    /// The certificates to trust.
    #[error("{path}: no certificates: {reason}", path = path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The proxy's address.
    #[error("the proxy for HTTPS is not an address such as http://HOST:PORT")]
    Proxy,
    /// No such host, nothing listens there, or the connection broke before an answer.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// The host is not who it should be, or speaks no TLS.
    #[error("{host}: no safe connection: {reason}")]
    Tls {
        /// The host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// It speaks no TLS at all. `here` is whether it is on this machine.
    #[error(
        "{host} answers in plain HTTP; {}",
        if *here { "say so with --insecure" } else { "only a registry on this machine may, with --insecure: give it a certificate" }
    )]
    PlainHttp {
        /// The host.
        host: String,
        /// Whether it is on this machine.
        here: bool,
    },
    /// 401: not logged in.
    #[error(
        "{host} wants a login for {repository}, or has no such repository; log in with: podman login {host}{}",
        login.as_ref().map(|login| format!(" (it does not take the login of {login})")).unwrap_or_default()
    )]
    Unauthorized {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// Where the credentials are from that were tried.
        login: Option<String>,
    },
    /// 403: logged in or not, this is not allowed.
    #[error("{host} denies access to {what}: {reason}")]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What it says.
        reason: String,
    },
    /// 404 or 410: there is no such manifest, blob or repository.
    #[error("{what}: not found: {reason}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the registry says.
        reason: String,
    },
    /// 429: too many requests.
    #[error(
        "{host} limits its pulls{}; a login may have a higher limit: podman login {host}",
        wait.map(|wait| format!(": try again in {}", spoken(wait))).unwrap_or_else(|| ": try again later".to_owned())
    )]
    RateLimited {
        /// The registry.
        host: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// 408 or 5xx: the registry has trouble of its own.
    #[error("{host} answered {status} for {what}: {reason}")]
    Server {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        reason: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// Any other status.
    #[error("{host} answered {status} for {what}: {reason}")]
    Refused {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        reason: String,
    },
    /// Nothing, or next to nothing, came for a while.
    #[error("{what}: {host} is too slow: {reason}")]
    Timeout {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// What was waited for, and how long.
        reason: String,
    },
    /// The connection ended within the answer.
    #[error("{what}: the connection to {host} broke off: {reason}")]
    CutOff {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// How far it came.
        reason: String,
    },
    /// Other bytes than the digest says.
    #[error("{what}: the registry sent other bytes, with digest {found}")]
    WrongDigest {
        /// What was asked for.
        what: String,
        /// What came.
        found: Digest,
    },
    /// Another size than the manifest says.
    #[error("{what}: expected {expected} bytes, the registry has {found}")]
    WrongSize {
        /// What was asked for.
        what: String,
        /// The size in the manifest.
        expected: u64,
        /// What the registry says, or sent before it was stopped.
        found: u64,
    },
    /// More than is read into memory.
    #[error("{what}: more than {limit} bytes; that is no {kind}")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// What it should be.
        kind: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An answer that is not in the protocol.
    #[error("{what}: {host} answered something else than a registry does: {reason}")]
    Malformed {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry sends its clients elsewhere, and that place is not allowed.
    #[error("{what}: {host} redirects {reason}")]
    Redirect {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// Where to.
        reason: String,
    },
    /// A file of this machine.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was to be uploaded could not be made.
    #[error("{what}: {source}")]
    Source {
        /// The blob.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A signal.
    #[error("{source}")]
    Stopped {
        /// An error of kind [`io::ErrorKind::Interrupted`].
        source: io::Error,
    },
}

impl Classified for RegistryError {
    fn class(&self) -> Class {
        match self {
            Self::Location(error) => error.class(),
            Self::Io { source, .. } | Self::Source { source, .. } | Self::Stopped { source, .. } => source.class(),
            Self::WrongDigest { .. } | Self::WrongSize { .. } => Class::Unverified,
            Self::Credentials(_) | Self::Unauthorized { .. } | Self::Denied { .. } => Class::Environment,
            Self::Insecure { .. }
            | Self::Certificates { .. }
            | Self::Proxy
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::PlainHttp { .. }
            | Self::NotFound { .. }
            | Self::RateLimited { .. }
            | Self::Server { .. }
            | Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::CutOff { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::Redirect { .. } => Class::Failed,
        }
    }
}

impl RegistryError {
    /// Whether the same request may succeed by itself, later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::RateLimited { .. }
                | Self::Server { .. }
                | Self::Timeout { .. }
                | Self::CutOff { .. }
        )
    }

    /// Whether the registry is there, and says that it does not have this.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// How long the registry asks to wait.
    #[must_use]
    pub(crate) const fn wait(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { wait, .. } | Self::Server { wait, .. } => *wait,
            _ => None,
        }
    }
}

/// `90 s`, `5 min`, `6 h`: rounded up, so that a second try is not too early.
fn spoken(wait: Duration) -> String {
    match wait.as_secs() + u64::from(wait.subsec_nanos() > 0) {
        seconds @ ..=120 => format!("{seconds} s"),
        seconds @ ..=7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_in_words() {
        for (seconds, text) in [(1, "1 s"), (120, "120 s"), (121, "3 min"), (7200, "120 min"), (21_000, "6 h")] {
            let error =
                RegistryError::RateLimited { host: "docker.io".to_owned(), wait: Some(Duration::from_secs(seconds)) };
            assert!(error.to_string().starts_with(&format!("docker.io limits its pulls: try again in {text}; ")));
        }
    }
}
