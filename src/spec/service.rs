//! How a container of an image is run: the description that a stack carries, a NixOS module takes, and compose files are
//! turned into and made from.
//!
//! `services.json` has them for every service of a stack. Only the keys that were given are written, so that a person who reads
//! it knows what was decided and what is left to Podman.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use super::service_words::{cannot_fail, is_host_name, is_secret_file, is_size, owns_store};
use super::service_words::{is_port, is_volume};
pub use super::service_words::{is_time, seconds, split_port};
pub(crate) use crate::names::is_name;
use crate::names::is_unprintable;

/// How one container is run. Every key but `image` may be absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceConfig {
    /// In a stack the name of one of its images; elsewhere a reference, `localhost/redis:…`.
    pub(crate) image: String,
    /// Program and first arguments instead of the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entrypoint: Option<Vec<String>>,
    /// Arguments instead of the image's.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment; never for secrets.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Files of the host with `NAME=value` lines, read when the container starts.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub environment_files: Vec<String>,
    /// Name of a file in `/run/secrets` → file of the host.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) secrets: BTreeMap<String, String>,
    /// `127.0.0.1:6379:6379`, as Podman's `--publish`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// `SOURCE:TARGET[:OPTIONS]`, as Podman's `--volume`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// `/tmp`, `/tmp:size=64m`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<String>,
    /// `/dev/dri`, or a CDI name, `nvidia.com/gpu=all`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<String>,
    /// Whether the root file system is read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) read_only: Option<bool>,
    /// User or number, `user[:group]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where the program starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Its own host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Labels.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Networks, as Podman's `--network`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(crate) networks: Vec<String>,
    /// `name:ip`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<String>,
    /// Capabilities that are added.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities that are taken away; `all`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Whether programs in it can gain privileges by setuid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) no_new_privileges: Option<bool>,
    /// Whether it has all of root's power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) privileged: Option<bool>,
    /// Whether a small init reaps its children.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) init: Option<bool>,
    /// Containers that are started before it.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(crate) depends_on: Vec<String>,
    /// How to see that it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<ServiceHealth>,
    /// Memory it may use, `2g`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<String>,
    /// Size of `/dev/shm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shm_size: Option<String>,
    /// Processors it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpus: Option<serde_json::Number>,
    /// Processes it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pids_limit: Option<i64>,
    /// Limit → `soft:hard`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) ulimits: BTreeMap<String, String>,
    /// Signal that stops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds until it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stop_timeout: Option<u32>,
    /// When it is started again; `always` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restart: Option<Restart>,
    /// Whether it starts with the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) auto_start: Option<bool>,
    /// Further arguments of `podman run`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(crate) extra_options: Vec<String>,
}

/// A command that says whether a container works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ServiceHealth {
    /// Program and arguments, run in the container without a shell.
    pub(crate) command: Vec<String>,
    /// Time between two runs, `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<String>,
    /// Time after which a run has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<String>,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retries: Option<u32>,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start_period: Option<String>,
    /// What Podman does with an unhealthy container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_failure: Option<OnFailure>,
}

/// What is done with an unhealthy container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnFailure {
    /// Nothing.
    None,
    /// It is killed.
    Kill,
    /// Podman restarts it.
    Restart,
    /// It is stopped.
    Stop,
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Restart {
    /// Whenever it ends.
    Always,
    /// When it ends with an error.
    OnFailure,
    /// Never.
    No,
}

/// `services.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServicesJson {
    /// [`VERSION`](crate::image::layout::VERSION) of the stack's files.
    pub(crate) version: u32,
    /// The services by name.
    pub(crate) services: BTreeMap<String, ServiceConfig>,
}

/// `null`, which Nix has for what is not set, is the same as nothing.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// What is wrong with a key, and the key.
pub(crate) type KeyFault = (String, String);

/// What a text should have been, unless it is that.
type ExpectedText = fn(&str) -> Option<&'static str>;

impl ServiceConfig {
    /// Checks that what is one line is one, and that nothing has a NUL: a unit, a command line and a variable could not
    /// hold it.
    ///
    /// # Errors
    /// With the text at fault.
    pub fn check_text(&self) -> Result<(), KeyFault> {
        let ones = [&self.user, &self.working_dir, &self.hostname, &self.stop_signal];
        let names = self.environment.keys().chain(self.labels.keys()).chain(&self.networks).chain(&self.cap_add);
        let lines = names.chain(&self.cap_drop).chain(self.ulimits.keys()).chain(ones.into_iter().flatten());
        let lists = [
            &self.ports,
            &self.volumes,
            &self.tmpfs,
            &self.environment_files,
            &self.devices,
            &self.extra_hosts,
            &self.depends_on,
        ];
        for text in lines.chain(lists.into_iter().flatten()) {
            if text.contains(is_unprintable) {
                let key = if self.hostname.as_ref() == Some(text) { "hostname" } else { "a value" };
                return Err((key.to_owned(), format!("{text:?} has a line break or another control character")));
            }
        }
        let texts =
            self.environment.values().chain(self.labels.values()).chain(&self.command).chain(&self.extra_options);
        if texts.chain(self.entrypoint.iter().flatten()).any(|text| text.contains('\0')) {
            return Err(("a text".to_owned(), "has a NUL, which no program can be given".to_owned()));
        }
        let health = self.health.iter().flat_map(|health| &health.command);
        if health.clone().any(|word| word.contains('\0')) {
            return Err(("health.command".to_owned(), "has a NUL, which no program can be given".to_owned()));
        }
        if let Some(volume) = self.volumes.iter().find(|volume| owns_store(volume)) {
            let message =
                format!("'{volume}': with U Podman would give files of the Nix store to the container's user");
            return Err(("volumes".to_owned(), message));
        }
        Ok(())
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// With the key, `ports[0]`, and what is wrong with it.
    pub fn check(&self) -> Result<(), KeyFault> {
        let lists: [(&str, &[String], ExpectedText); 7] = [
            ("ports", &self.ports, |port| (!is_port(port)).then_some("a port like 127.0.0.1:6379:6379")),
            ("volumes", &self.volumes, |volume| (!is_volume(volume)).then_some("SOURCE:TARGET[:OPTIONS]")),
            ("tmpfs", &self.tmpfs, |place| (!place.starts_with('/')).then_some("an absolute path")),
            ("environmentFiles", &self.environment_files, |file| {
                (!file.starts_with('/')).then_some("an absolute path")
            }),
            ("devices", &self.devices, |device| {
                (!device.starts_with('/') && !device.contains('=')).then_some("a path below /dev, or a CDI name")
            }),
            ("extraHosts", &self.extra_hosts, |host| host.find(':').is_none_or(|at| at == 0).then_some("name:ip")),
            ("dependsOn", &self.depends_on, |name| (!is_name(name)).then_some("the name of a container")),
        ];
        for (key, values, wrong) in lists {
            for (n, value) in values.iter().enumerate() {
                if let Some(expected) = wrong(value) {
                    return Err((format!("{key}[{n}]"), format!("'{value}' is not {expected}")));
                }
            }
        }
        self.check_text()?;
        if let Some(hostname) = self.hostname.as_ref().filter(|name| !is_host_name(name)) {
            return Err(("hostname".to_owned(), format!("'{hostname}' is not a host name")));
        }
        if let Some(name) = self.environment.keys().find(|name| name.is_empty() || name.contains('=')) {
            // The value may be a secret all the same, and is not shown.
            return Err(("environment".to_owned(), format!("'{name}' is not the name of a variable")));
        }
        for (name, file) in &self.secrets {
            if !is_name(name) {
                return Err(("secrets".to_owned(), format!("'{name}' is not a file name for /run/secrets")));
            }
            if !is_secret_file(file) {
                let message = "is not an absolute path of the host, of letters, digits and . _ / @ + : -";
                return Err((format!("secrets.{name}"), message.to_owned()));
            }
        }
        if self.entrypoint.as_ref().is_some_and(Vec::is_empty) {
            return Err(("entrypoint".to_owned(), "is empty; leave it out for that of the image".to_owned()));
        }
        if let Some(limit) = self.pids_limit.filter(|limit| *limit < 0) {
            return Err(("pidsLimit".to_owned(), format!("{limit} is less than 0")));
        }
        for (name, limit) in &self.ulimits {
            let number = |text: &str| text.parse::<i64>().is_ok_and(|number| number >= -1);
            let (soft, hard) = limit.split_once(':').unwrap_or((limit, limit));
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
                return Err(("ulimits".to_owned(), format!("{name:?} is not the name of a limit, like nofile")));
            }
            if !number(soft) || !number(hard) {
                return Err((format!("ulimits.{name}"), format!("'{limit}' is not soft:hard, two numbers")));
            }
        }
        for (key, size) in [("memory", &self.memory), ("shmSize", &self.shm_size)] {
            if let Some(size) = size.as_ref().filter(|size| !is_size(size)) {
                return Err((key.to_owned(), format!("'{size}' is not a size like 512m or 2g")));
            }
        }
        if let Some(cpus) = self.cpus.as_ref().filter(|cpus| !cpus.as_f64().is_some_and(|cpus| cpus > 0.0)) {
            return Err(("cpus".to_owned(), format!("{cpus} is not more than 0")));
        }
        self.health.as_ref().map_or(Ok(()), ServiceHealth::check)
    }
}

impl ServiceHealth {
    fn check(&self) -> Result<(), KeyFault> {
        if self.command.is_empty() {
            return Err(("health.command".to_owned(), "is empty; leave `health` out for no check".to_owned()));
        }
        if cannot_fail(&self.command) {
            let message = "is a check that cannot fail, so that a container which does nothing counts as healthy; ask the program something, or leave `health` out";
            return Err(("health.command".to_owned(), message.to_owned()));
        }
        let one_line = |word: &String| !word.contains(is_unprintable);
        if self.command.len() == 1 && !self.command.iter().all(one_line)
            || self.command.iter().any(|word| word.contains('\0'))
        {
            let message =
                format!("{:?} is not a program: it has a line break or another control character", self.command[0]);
            return Err(("health.command".to_owned(), message));
        }
        let times = [("interval", &self.interval), ("timeout", &self.timeout), ("startPeriod", &self.start_period)];
        for (key, time) in times {
            if let Some(time) = time.as_ref().filter(|time| !is_time(time)) {
                return Err((format!("health.{key}"), format!("'{time}' is not a time like 30s or 1m30s")));
            }
        }
        Ok(())
    }
}

/// Checks services against each other and the images they name.
///
/// # Errors
/// With the whole key, `services.web.dependsOn[0]`.
pub fn check_all(services: &BTreeMap<String, ServiceConfig>) -> Result<(), KeyFault> {
    for (name, service) in services {
        let at = |key: &str| format!("services.{name}.{key}");
        if !is_name(name) {
            let message = "is not a name: expected letters, digits, '_', '.' and '-', a letter or digit first";
            return Err((format!("services.{name}"), message.to_owned()));
        }
        service.check().map_err(|(key, message)| (at(&key), message))?;
        for (n, other) in service.depends_on.iter().enumerate() {
            if other == name || !services.contains_key(other) {
                let message = if other == name { "is this service itself" } else { "is not a service of this stack" };
                return Err((at(&format!("dependsOn[{n}]")), format!("'{other}' {message}")));
            }
        }
    }
    match circle(services) {
        Some(circle) => {
            let names: Vec<&str> = circle.iter().map(|name| name.as_str()).collect();
            Err((format!("services.{}.dependsOn", names[0]), format!("a circle: {}", names.join(" → "))))
        }
        None => Ok(()),
    }
}

/// Services that wait for each other: the way from one back to itself. Without recursion, because a stack from a stranger may have any
/// number of services in a row.
fn circle(services: &BTreeMap<String, ServiceConfig>) -> Option<Vec<&String>> {
    let mut seen = BTreeSet::new();
    for start in services.keys().filter(|name| !services[*name].depends_on.is_empty()) {
        if !seen.insert(start) {
            continue;
        }
        let (mut way, mut on_it) = (vec![(start, 0)], BTreeSet::from([start]));
        while let Some((name, next)) = way.last_mut() {
            let Some(other) = services.get(*name).and_then(|service| service.depends_on.get(*next)) else {
                on_it.remove(*name);
                way.pop();
                continue;
            };
            *next += 1;
            if on_it.contains(other) {
                let circle = way.iter().map(|(name, _)| *name).skip_while(|name| *name != other);
                return Some(circle.chain([other]).collect());
            }
            if seen.insert(other) {
                on_it.insert(other);
                way.push((other, 0));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_found_however_long_the_way_to_it_is() {
        let service = |next: Option<usize>| ServiceConfig {
            depends_on: next.into_iter().map(|next| format!("s{next}")).collect(),
            ..ServiceConfig::default()
        };
        let last = 200_000;
        let row = |back: Option<usize>| -> BTreeMap<String, ServiceConfig> {
            let next = |n: usize| if n == last { back } else { Some(n + 1) };
            (0..=last).map(|n| (format!("s{n}"), service(next(n)))).collect()
        };
        assert_eq!(circle(&row(None)), None);
        let (services, two) = (row(Some(last - 1)), [last - 1, last, last - 1].map(|n| format!("s{n}")));
        assert_eq!(circle(&services), Some(two.iter().collect()));
    }
}
