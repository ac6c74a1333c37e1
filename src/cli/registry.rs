//! What every verb that asks a registry shares: logins, certificates, the proxy and patience, as the environment or the
//! user's arguments have them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::failure::Result;
use crate::disk::bounded;
use crate::registry::credentials::Secret;
use crate::registry::options::{ProxyOptions, RegistryOptions, Waits};
use crate::registry::web::Web;
use crate::upstream::Registries;

/// What nixpkgs sets `SSL_CERT_FILE` to where it wants no certificates to be found.
const NO_CERTIFICATES: &str = "/no-cert-file.crt";

/// The variable with the seconds that a server may send nothing, and with it all other waits ([`Waits::of`]).
const WAIT: &str = "WINDLASS_NETWORK_WAIT";
/// The longest that can be set.
const DAY: u64 = 86_400;

/// How to talk to registries, where the environment does not say it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Registries")]
pub(super) struct RegistryArgs {
    /// The file with logins, as `podman login` writes it. By default that of REGISTRY_AUTH_FILE, else Podman's and Docker's.
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// The certificates to trust, in PEM. By default those that NIX_SSL_CERT_FILE or SSL_CERT_FILE names.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How often something is tried again that may go away by itself.
    #[arg(long, value_name = "N", default_value_t = RegistryOptions::default().retries)]
    retries: u32,
}

impl RegistryArgs {
    /// The clients for these arguments and this environment.
    pub(super) fn registries(&self) -> Result<Registries> {
        Ok(Registries::new(&self.options(false))?)
    }

    /// What these arguments and the environment say.
    pub(super) fn options(&self, insecure: bool) -> RegistryOptions {
        let mut options = RegistryOptions { retries: self.retries, ..options(insecure) };
        if let Some(file) = &self.authfile {
            options.auth_files = vec![file.clone()];
        }
        options.ca_file = self.ca_file.clone().or(options.ca_file);
        options
    }
}

/// The clients of a derivation's builder.
pub(super) fn of_builder() -> Result<Registries> {
    Ok(Registries::new(&builder_options())?)
}

/// The clients of a derivation's builder for web servers. It knows no login: what it fetches is for everybody.
pub(super) fn web_of_builder() -> Result<Web> {
    Ok(Web::new(&RegistryOptions { auth_files: Vec::new(), ..builder_options() })?)
}

/// What a builder is told, which has the daemon's environment and sees less than the daemon: logins that it cannot read
/// are none, and certificates that it cannot read are those of the system. A sandbox has these under one name, whatever
/// the variable says, and older ones have none: then those count that are built in.
fn builder_options() -> RegistryOptions {
    let mut options = options(false);
    options.auth_files.retain(|file| bounded::open(file).is_ok());
    options.ca_file = options.ca_file.filter(|file| bounded::open(file).is_ok());
    options
}

/// How to talk to registries, as the user's environment has it.
pub(super) fn options(insecure: bool) -> RegistryOptions {
    read(insecure, rustix::process::geteuid().as_raw(), |name| std::env::var_os(name))
}

fn read(insecure: bool, uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> RegistryOptions {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let first = |names: &[&str]| names.iter().find_map(|name| set(name));
    let text = |names: &[&str]| first(names).and_then(|value| value.into_string().ok());
    let ca_file = first(&["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"]).filter(|file| file != NO_CERTIFICATES);
    // Never HTTP_PROXY: nothing but HTTPS leaves this machine.
    let url = text(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]).map(Secret::new);
    let seconds = text(&[WAIT]).and_then(|seconds| seconds.parse().ok()).filter(|seconds: &u64| *seconds > 0);
    let waits = seconds.map(|seconds| Waits::of(Duration::from_secs(seconds.min(DAY)))).unwrap_or_default();
    let except = text(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
    let except = except.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect();
    RegistryOptions {
        insecure,
        ca_file: ca_file.map(PathBuf::from),
        proxy: ProxyOptions { url, except },
        auth_files: auth_files(uid, set),
        waits,
        ..RegistryOptions::default()
    }
}

/// The files of containers-auth.json(5), in its order: the one that `REGISTRY_AUTH_FILE` names and no other, or that of
/// `podman login`, that of the user, and Docker's.
fn auth_files(uid: u32, set: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if let Some(file) = set("REGISTRY_AUTH_FILE") {
        return vec![file.into()];
    }
    let home = set("HOME").map(PathBuf::from);
    let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let runtime = set("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.map_or_else(|| format!("/run/containers/{uid}").into(), |folder| folder.join("containers"));
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| below_home(".config"));
    let docker = set("DOCKER_CONFIG").map(PathBuf::from).or_else(|| below_home(".docker"));
    let files = [
        Some(runtime.join("auth.json")),
        config.map(|folder| folder.join("containers/auth.json")),
        docker.map(|folder| folder.join("config.json")),
    ];
    files.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> RegistryOptions {
        read(false, 1000, |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn logins_are_where_podman_and_docker_keep_them() {
        let files = |variables: &[(&str, &str)]| {
            let files = options(variables).auth_files;
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(files(&[]), "/run/containers/1000/auth.json");
        assert_eq!(files(&[("REGISTRY_AUTH_FILE", "/a"), ("HOME", "/home/me")]), "/a");
        assert_eq!(
            files(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1000"), ("REGISTRY_AUTH_FILE", "")]),
            "/run/user/1000/containers/auth.json /h/.config/containers/auth.json /h/.docker/config.json"
        );
        assert_eq!(
            files(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")]),
            "/run/containers/1000/auth.json /c/containers/auth.json /d/config.json"
        );
    }

    #[test]
    fn certificates_and_the_proxy() {
        let ca_file = |variables: &[(&str, &str)]| options(variables).ca_file.map(|file| file.display().to_string());
        assert_eq!(ca_file(&[("SSL_CERT_FILE", "/a"), ("NIX_SSL_CERT_FILE", "/b")]).as_deref(), Some("/b"));
        assert_eq!(ca_file(&[("SSL_CERT_FILE", "/a"), ("NIX_SSL_CERT_FILE", "")]).as_deref(), Some("/a"));
        assert_eq!(ca_file(&[("SSL_CERT_FILE", "/no-cert-file.crt")]), None);
        let proxy = options(&[("HTTPS_PROXY", "http://me:hunter2@p:3128"), ("no_proxy", "a.lan, .b.lan,")]).proxy;
        assert_eq!(
            (proxy.url.is_some(), proxy.except.as_slice()),
            (true, ["a.lan", ".b.lan"].map(str::to_owned).as_slice())
        );
        assert!(!format!("{proxy:?}").contains("hunter2"));
        assert!(options(&[("HTTP_PROXY", "http://p"), ("http_proxy", "http://p")]).proxy.url.is_none());
    }
}
