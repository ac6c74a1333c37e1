//! What a client is to know of its surroundings. The library reads no environment: its caller does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::credentials::Secret;

/// How to talk to registries.
#[derive(Debug, Clone)]
pub struct Options {
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
    /// How long a connection may take to come about.
    pub connect: Duration,
    /// How long nothing may come before a connection counts as dead.
    pub stall: Duration,
    /// What the registries know this program by.
    pub user_agent: String,
}

/// The proxy for HTTPS: nothing else leaves this machine.
#[derive(Debug, Clone, Default)]
pub struct ProxyOptions {
    /// `http://[USER:PASSWORD@]HOST:PORT`.
    pub url: Option<Secret>,
    /// Hosts that are reached without it, as `NO_PROXY` has them: a name with all below it, `HOST:PORT`, or `*`.
    pub except: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            insecure: false,
            ca_file: None,
            proxy: ProxyOptions::default(),
            auth_files: Vec::new(),
            tokens: BTreeMap::new(),
            retries: 4,
            max_wait: Duration::from_secs(60),
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
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
