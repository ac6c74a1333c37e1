//! What a client is to know of its surroundings. The library reads no environment: its caller does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::credentials::Secret;

/// How to talk to registries.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Plain HTTP instead of HTTPS; registries on this machine only.
    pub insecure: bool,
    /// The certificates to trust, in PEM, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The proxy for HTTPS.
    pub proxy: ProxyOptions,
    /// Files with logins, as Podman (`auth.json`) and Docker (`config.json`) write them; the first that knows a
    /// registry decides. One that is not there has none.
    pub auth_files: Vec<PathBuf>,
    /// Tokens of web servers by `HOST[:PORT]`: each goes to that host alone, with every request to it.
    pub tokens: BTreeMap<String, Secret>,
    /// How often something is tried again that may go away by itself.
    pub retries: u32,
    /// The longest wait between two tries. A registry that asks for more is not waited for.
    pub max_wait: Duration,
    /// How long is waited for what.
    pub waits: Waits,
    /// What the registries know this program by.
    pub user_agent: String,
}

/// Bytes in a second. Less than this, for as long as [`Waits::stall`], is not a transfer: a modem of 1990 has four times as much.
pub(super) const SLOWEST: u64 = 512;

/// How long a server is waited for. A download of 20 GB over a slow line may take days, and its server may not hold it for
/// as long as it likes: so what is small has a limit as a whole, and what is large has one for the time without progress.
/// After a signal nothing is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// For a connection, and for the address of the host: 15 s.
    pub connect: Duration,
    /// For the next bytes of a body: 30 s; in each such time there must be 512 bytes for each second of it.
    pub stall: Duration,
    /// From a request until all headers of its answer are there: 60 s.
    pub answer: Duration,
    /// For all of a manifest, a configuration, a token, a listing: 120 s. After that it is not tried again either.
    pub document: Duration,
    /// From the last byte of an upload until its answer: 600 s, because some registries copy it once more first.
    pub stored: Duration,
    /// For the words of a server that says no: 3 s. They mostly come with the status.
    pub reason: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self::of(Duration::from_secs(30))
    }
}

impl Waits {
    /// All of them, longer or shorter with the time without progress.
    #[must_use]
    pub(crate) fn of(stall: Duration) -> Self {
        let (connect, reason) = (stall / 2, stall / 10);
        Self { connect, stall, answer: stall * 2, document: stall * 4, stored: stall * 20, reason }
    }
}

/// The proxy for HTTPS: nothing else leaves this machine.
#[derive(Debug, Clone, Default)]
pub struct ProxyOptions {
    /// `http://[USER:PASSWORD@]HOST:PORT`.
    pub url: Option<Secret>,
    /// Hosts that are reached without it, as `NO_PROXY` has them: a name with all below it, `HOST:PORT`, or `*`.
    pub except: Vec<String>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: false,
            ca_file: None,
            proxy: ProxyOptions::default(),
            auth_files: Vec::new(),
            tokens: BTreeMap::new(),
            retries: 4,
            max_wait: Duration::from_secs(60),
            waits: Waits::default(),
            user_agent: concat!("windlass/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl ProxyOptions {
    /// Whether `HOST[:PORT]` is reached without the proxy.
    pub(super) fn excepts(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        super::location::is_loopback(host)
            || self.except.iter().map(|pattern| pattern.trim()).any(|pattern| {
                let domain = pattern.trim_start_matches('*').trim_start_matches('.');
                let below = || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
                pattern == "*" || (!domain.is_empty() && (host == domain || name == domain || below()))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_without_a_proxy() {
        let excepts = |patterns: &[&str], host: &str| {
            let except = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            ProxyOptions { url: None, except }.excepts(host)
        };
        assert!(excepts(&[], "127.0.0.1:5000") && !excepts(&[], "docker.io"));
        assert!(excepts(&["*"], "docker.io"));
        for pattern in ["example.com", ".example.com", "*.example.com", " example.com "] {
            assert!(excepts(&[pattern], "a.example.com:5000"), "{pattern}");
            assert!(!excepts(&[pattern], "badexample.com"), "{pattern}");
        }
        assert!(excepts(&["a.lan:5000"], "a.lan:5000") && !excepts(&["a.lan:5000"], "a.lan"));
        assert!(!excepts(&["", "."], "a.lan"));
    }
}
