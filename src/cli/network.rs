//! What the environment says of registries: logins, proxies, certificates, and where downloads are kept.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Result;

use super::failure::Environment;
use crate::registry::credentials::Secret;
use crate::registry::options::{Options, ProxyOptions};
use crate::upstream::Registries;

/// A variable that is set to something.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The first of these variables that is set to a text.
fn text(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// Below the user's home, where the variable does not say where else.
fn home(name: &str, default: &str) -> Option<PathBuf> {
    let absolute = variable(name).filter(|path| path.is_absolute());
    absolute.or_else(|| Some(variable("HOME")?.join(default)))
}

fn needed(folder: Option<PathBuf>, name: &str) -> Result<PathBuf> {
    let missing = || Environment(format!("neither {name} nor HOME is set; set one of them"));
    Ok(folder.ok_or_else(missing)?.join("windlass"))
}

/// Where downloads are until they are complete.
pub(super) fn cache_folder() -> Result<PathBuf> {
    needed(home("XDG_CACHE_HOME", ".cache"), "XDG_CACHE_HOME")
}

/// Where windlass keeps what it knows between two runs.
pub(super) fn state_folder() -> Result<PathBuf> {
    needed(home("XDG_STATE_HOME", ".local/state"), "XDG_STATE_HOME")
}

/// The files that Podman and Docker keep the user's logins in, in the order in which Podman looks.
fn auth_files() -> Vec<PathBuf> {
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let run = variable("XDG_RUNTIME_DIR")
        .map(|run| run.join("containers"))
        .unwrap_or_else(|| format!("/run/containers/{}", rustix::process::geteuid().as_raw()).into());
    let config = home("XDG_CONFIG_HOME", ".config").map(|config| config.join("containers"));
    let docker = home("DOCKER_CONFIG", ".docker").map(|docker| docker.join("config.json"));
    let podman = [Some(run), config].into_iter().flatten().map(|folder| folder.join("auth.json"));
    podman.chain(docker).collect()
}

/// How to talk to registries, for the user who runs this.
pub(super) fn options() -> Options {
    let certificates = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"].into_iter().filter_map(variable);
    let except = text(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
    Options {
        // Nix's own builders name a file that is not there.
        ca_file: certificates.filter(|file| file.exists()).next(),
        proxy: ProxyOptions {
            url: text(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]).map(Secret::new),
            except: except.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect(),
        },
        auth_files: auth_files(),
        ..Options::default()
    }
}

/// The registries, for the user who runs this.
pub(super) fn registries() -> Result<Registries> {
    Ok(Registries::new(&options())?)
}

/// The registries, for a derivation's builder, who may see less than the user: logins that it cannot read are none.
pub(super) fn builder_registries() -> Result<Registries> {
    let mut options = options();
    options.auth_files.retain(|file| File::open(file).is_ok());
    Ok(Registries::new(&options)?)
}
