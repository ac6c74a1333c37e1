//! How a container of an image runs: the `config` of the OCI image config (image-spec, *config.md*).

use std::collections::BTreeMap;

use oci_spec::image::ConfigBuilder;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// How a container runs: the `config` of the OCI image config (image-spec, *config.md*).
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub(crate) struct ImageConfig {
    /// User or number, `user[:group]`.
    pub(crate) user: Option<String>,
    /// Ports a container listens on, `6379/tcp`.
    #[serde(deserialize_with = "or_empty")]
    pub(crate) exposed_ports: BTreeMap<String, Empty>,
    /// Environment, `NAME=value` each.
    #[serde(deserialize_with = "or_empty")]
    pub(crate) env: Vec<String>,
    /// Program and first arguments.
    #[serde(deserialize_with = "or_empty")]
    pub(crate) entrypoint: Vec<String>,
    /// Arguments, or the program where there is no entrypoint.
    #[serde(deserialize_with = "or_empty")]
    pub(crate) cmd: Vec<String>,
    /// Places that hold data which should outlive the container.
    #[serde(deserialize_with = "or_empty")]
    pub(crate) volumes: BTreeMap<String, Empty>,
    /// Where the program starts.
    pub(crate) working_dir: Option<String>,
    /// Labels.
    #[serde(deserialize_with = "or_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Signal that stops it.
    pub(crate) stop_signal: Option<String>,
}

/// `{}`, the value that Go's sets have in JSON.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

/// `null`, which Nix has for what is not set, is the same as nothing.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl ImageConfig {
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

impl ImageConfig {
    /// The `config` of an image that is built upon one with this `config`: variables by name, labels, ports and volumes
    /// beside those that are there, everything else in its place. A new entrypoint takes the old command away, as in a
    /// Dockerfile: those arguments were for another program. Docker's `OnBuild` is not for who builds without Docker.
    #[must_use]
    pub(crate) fn over(&self, base: &Map<String, Value>) -> Map<String, Value> {
        let own = serde_json::to_value(self.to_oci()).expect("string keys and texts are JSON");
        let own = own.as_object().cloned().unwrap_or_default();
        let mut config = base.clone();
        config.remove("OnBuild");
        if own.contains_key("Entrypoint") && !own.contains_key("Cmd") {
            config.remove("Cmd");
        }
        for (key, new) in own {
            let merged = match (key.as_str(), config.remove(&key), new) {
                ("Env", Some(Value::Array(old)), Value::Array(new)) => Value::Array(by_name(old, new)),
                (_, Some(Value::Object(mut old)), Value::Object(new)) => {
                    old.extend(new);
                    Value::Object(old)
                }
                (_, _, new) => new,
            };
            config.insert(key, merged);
        }
        config
    }
}

/// `NAME=value` texts: one that is there already is replaced where it is.
fn by_name(mut old: Vec<Value>, new: Vec<Value>) -> Vec<Value> {
    let name = |value: &Value| value.as_str().and_then(|text| text.split('=').next()).map(str::to_owned);
    for entry in new {
        match old.iter_mut().find(|other| name(other) == name(&entry)) {
            Some(other) => *other = entry,
            None => old.push(entry),
        }
    }
    old
}

/// The map type of `oci-spec`. It has no order, and needs none: canonical JSON sorts the keys.
#[expect(clippy::disallowed_types, reason = "oci-spec asks for it, and only `canonical` ever walks through it")]
pub(crate) fn unordered(map: &BTreeMap<String, String>) -> std::collections::HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_is_inherited_as_a_whole() {
        let base = json!({
            "Env": ["PATH=/usr/bin", "A=1"], "Entrypoint": ["/old"], "Cmd": ["old"], "Labels": {"a": "1", "b": "1"},
            "Volumes": {"/data": {}}, "User": "1000", "Healthcheck": {"Test": ["NONE"]}, "OnBuild": ["RUN x"],
        });
        let own = ImageConfig {
            env: vec!["A=2".to_owned(), "B=3".to_owned()],
            entrypoint: vec!["/new".to_owned()],
            labels: BTreeMap::from([("b".to_owned(), "2".to_owned())]),
            volumes: BTreeMap::from([("/more".to_owned(), Empty {})]),
            ..ImageConfig::default()
        };
        let expected = json!({
            "Env": ["PATH=/usr/bin", "A=2", "B=3"], "Entrypoint": ["/new"], "Labels": {"a": "1", "b": "2"},
            "Volumes": {"/data": {}, "/more": {}}, "User": "1000", "Healthcheck": {"Test": ["NONE"]},
        });
        assert_eq!(Value::Object(own.over(base.as_object().unwrap())), expected);
        assert_eq!(ImageConfig::default().over(&Map::new()), Map::new());
    }
}
