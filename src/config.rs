//! How a container of an image runs: the `config` of the OCI image config (image-spec, *config.md*).

use std::collections::BTreeMap;

use oci_spec::image::ConfigBuilder;
use serde::{Deserialize, Deserializer, Serialize};

/// How a container runs: the `config` of the OCI image config (image-spec, *config.md*).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Config {
    /// User or number, `user[:group]`.
    pub user: Option<String>,
    /// Ports a container listens on, `6379/tcp`.
    #[serde(deserialize_with = "or_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Environment, `NAME=value` each.
    #[serde(deserialize_with = "or_empty")]
    pub env: Vec<String>,
    /// Program and first arguments.
    #[serde(deserialize_with = "or_empty")]
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where there is no entrypoint.
    #[serde(deserialize_with = "or_empty")]
    pub cmd: Vec<String>,
    /// Places that hold data which should outlive the container.
    #[serde(deserialize_with = "or_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// Where the program starts.
    pub working_dir: Option<String>,
    /// Labels.
    #[serde(deserialize_with = "or_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops it.
    pub stop_signal: Option<String>,
}

/// `{}`, the value that Go's sets have in JSON.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// `null`, which Nix has for what is not set, is the same as nothing.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Config {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// With the key, `.Env`, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(entry) = self.env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
            return Err((".Env", format!("'{entry}' is not NAME=value")));
        }
        let is_port = |text: &str| {
            let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let (first, last) = (first.parse::<u16>(), last.parse::<u16>());
            matches!(protocol, "tcp" | "udp" | "sctp")
                && matches!((first, last), (Ok(first), Ok(last)) if 0 < first && first <= last)
        };
        if let Some(port) = self.exposed_ports.keys().find(|port| !is_port(port)) {
            return Err((".ExposedPorts", format!("'{port}' is not a port like 6379/tcp")));
        }
        let volumes = self.volumes.keys().map(|place| (".Volumes", place));
        let mut places = volumes.chain(self.working_dir.iter().map(|place| (".WorkingDir", place)));
        if let Some((key, place)) = places.find(|(_, place)| !place.starts_with('/')) {
            return Err((key, format!("'{place}' is not an absolute path")));
        }
        Ok(())
    }

    /// The same in `oci-spec`'s words.
    #[must_use]
    pub(crate) fn to_oci(&self) -> oci_spec::image::Config {
        let mut to = ConfigBuilder::default();
        if let Some(user) = &self.user {
            to = to.user(user.clone());
        }
        if !self.exposed_ports.is_empty() {
            to = to.exposed_ports(self.exposed_ports.keys().cloned().collect::<Vec<_>>());
        }
        if !self.env.is_empty() {
            to = to.env(self.env.clone());
        }
        if !self.entrypoint.is_empty() {
            to = to.entrypoint(self.entrypoint.clone());
        }
        if !self.cmd.is_empty() {
            to = to.cmd(self.cmd.clone());
        }
        if !self.volumes.is_empty() {
            to = to.volumes(self.volumes.keys().cloned().collect::<Vec<_>>());
        }
        if let Some(directory) = &self.working_dir {
            to = to.working_dir(directory.clone());
        }
        if !self.labels.is_empty() {
            to = to.labels(unordered(&self.labels));
        }
        if let Some(signal) = &self.stop_signal {
            to = to.stop_signal(signal.clone());
        }
        to.build().expect("no field is required")
    }
}

/// The map type of `oci-spec`. It has no order, and needs none: canonical JSON sorts the keys.
#[expect(clippy::disallowed_types, reason = "oci-spec asks for it, and only `canonical` ever walks through it")]
pub(crate) fn unordered(map: &BTreeMap<String, String>) -> std::collections::HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
