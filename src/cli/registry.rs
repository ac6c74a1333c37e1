//! What every verb that asks a registry shares: logins, certificates, the proxy, and patience.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use crate::registry::credentials::Secret;
use crate::registry::options::{Options, ProxyOptions};
use crate::upstream::Registries;

/// How to talk to registries, where the environment does not say it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Registries")]
pub(super) struct RegistryArgs {
    /// The file with logins, as `podman login` writes it. By default REGISTRY_AUTH_FILE, else those of Podman and Docker.
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// The certificates to trust, in PEM. By default those that SSL_CERT_FILE or NIX_SSL_CERT_FILE names.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How often something is tried again that may go away by itself.
    #[arg(long, value_name = "N", default_value_t = Options::default().retries)]
    retries: u32,
}

impl RegistryArgs {
    /// The clients for these arguments and this environment.
    pub(super) fn registries(&self) -> Result<Registries> {
        Ok(Registries::new(&self.options())?)
    }

    /// What these arguments and the environment say.
    pub(super) fn options(&self) -> Options {
        let ca_file = self.ca_file.clone().or_else(|| path("SSL_CERT_FILE")).or_else(|| path("NIX_SSL_CERT_FILE"));
        let proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().find_map(text);
        let except = ["NO_PROXY", "no_proxy"].into_iter().find_map(text).unwrap_or_default();
        let except = except.split(',').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect();
        let proxy = ProxyOptions { url: proxy.map(Secret::new), except };
        Options { ca_file, proxy, auth_files: self.auth_files(), retries: self.retries, ..Options::default() }
    }

    /// The files with logins, in the order in which Podman looks.
    fn auth_files(&self) -> Vec<PathBuf> {
        if let Some(file) = self.authfile.clone().or_else(|| path("REGISTRY_AUTH_FILE")) {
            return vec![file];
        }
        let uid = rustix::process::geteuid().as_raw();
        let runtime = path("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/containers/{uid}").into());
        // Without a session there is no folder `containers` in between.
        let runtime = if runtime.starts_with("/run/containers") { runtime } else { runtime.join("containers") };
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
        let docker = path("DOCKER_CONFIG").or_else(|| Some(path("HOME")?.join(".docker")));
        let files = [Some(runtime), config.map(|config| config.join("containers"))];
        let files = files.into_iter().flatten().map(|folder| folder.join("auth.json"));
        files.chain(docker.map(|folder| folder.join("config.json"))).collect()
    }
}

fn path(name: &str) -> Option<PathBuf> {
    set(name).map(PathBuf::from)
}

fn text(name: &str) -> Option<String> {
    set(name)?.into_string().ok()
}

fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
