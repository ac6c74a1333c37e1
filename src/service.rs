//! How a container of an image is run: the description that a stack carries, a NixOS module takes, and compose files are
//! turned into and made from.
//!
//! `services.json` has them for every service of a stack. Only the keys that were given are written, so that whoever reads
//! it knows what was decided and what is left to Podman.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

pub use crate::names::is_name;
use crate::names::is_unprintable;

/// How one container is run. Every key but `image` may be absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// In a stack the name of one of its images; elsewhere a reference, `localhost/redis:…`.
    pub image: String,
    /// Program and first arguments instead of the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
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
    pub secrets: BTreeMap<String, String>,
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
    pub devices: Vec<String>,
    /// Whether the root file system is read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
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
    pub networks: Vec<String>,
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
    pub no_new_privileges: Option<bool>,
    /// Whether it has all of root's power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// Whether a small init reaps its children.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Containers that are started before it.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// How to see that it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Memory it may use, `2g`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Size of `/dev/shm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<String>,
    /// Processors it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<serde_json::Number>,
    /// Processes it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<i64>,
    /// Limit → `soft:hard`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, String>,
    /// Signal that stops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds until it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
    /// When it is started again; `always` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Whether it starts with the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_start: Option<bool>,
    /// Further arguments of `podman run`.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub extra_options: Vec<String>,
}

/// A command that says whether a container works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// Program and arguments, run in the container without a shell.
    pub command: Vec<String>,
    /// Time between two runs, `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Time after which a run has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<String>,
    /// What Podman does with an unhealthy container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
}

/// What is done with an unhealthy container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Whenever it ends.
    Always,
    /// When it ends with an error.
    OnFailure,
    /// Never.
    No,
}

/// `services.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicesJson {
    /// [`VERSION`](crate::layout::VERSION) of the stack's files.
    pub version: u32,
    /// The services by name.
    pub services: BTreeMap<String, Service>,
}

/// `null`, which Nix has for what is not set, is the same as nothing.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// What is wrong with a key, and the key.
pub type Fault = (String, String);

/// What a text should have been, unless it is that.
type Expected = fn(&str) -> Option<&'static str>;

impl Service {
    /// Checks that what is one line is one, and that nothing has a NUL: a unit, a command line and a variable could not
    /// hold it.
    ///
    /// # Errors
    /// With the text at fault.
    pub fn check_text(&self) -> Result<(), Fault> {
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
    pub fn check(&self) -> Result<(), Fault> {
        let lists: [(&str, &[String], Expected); 7] = [
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
        self.health.as_ref().map_or(Ok(()), Health::check)
    }
}

impl Health {
    fn check(&self) -> Result<(), Fault> {
        if self.command.is_empty() {
            return Err(("health.command".to_owned(), "is empty; leave `health` out for no check".to_owned()));
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
pub fn check_all(services: &BTreeMap<String, Service>) -> Result<(), Fault> {
    for (name, service) in services {
        let at = |key: &str| format!("services.{name}.{key}");
        if !is_name(name) {
            let message = "is not a name: expected letters, digits, '_', '.' and '-', a letter or digit first";
            return Err((format!("services.{name}"), message.to_owned()));
        }
        service.check().map_err(|(key, message)| (at(&key), message))?;
        for (n, other) in service.depends_on.iter().enumerate() {
            if other == name || !services.contains_key(other) {
                let message = if other == name { "is this service itself" } else { "is no service of this stack" };
                return Err((at(&format!("dependsOn[{n}]")), format!("'{other}' {message}")));
            }
        }
        if let Some(circle) = circle(services, name, &mut Vec::new(), &mut BTreeSet::new()) {
            return Err((at("dependsOn"), format!("a circle: {}", circle.join(" → "))));
        }
    }
    Ok(())
}

fn circle(
    services: &BTreeMap<String, Service>,
    name: &str,
    way: &mut Vec<String>,
    seen: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    way.push(name.to_owned());
    if way.len() > 1 && way[0] == name {
        return Some(way.clone());
    }
    if seen.insert(name.to_owned()) {
        let others = services.get(name).into_iter().flat_map(|service| &service.depends_on);
        for other in others {
            if let Some(circle) = circle(services, other, way, seen) {
                return Some(circle);
            }
        }
    }
    way.pop();
    None
}

/// Whether a secret can be read from there: the path is a word of systemd's.
#[must_use]
pub fn is_secret_file(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/@+:-".contains(&byte))
}

/// Whether this is the name of a host, with or without its domain.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 253
        && text.starts_with(ends)
        && text.ends_with(ends)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

/// Whether Podman would change the owner of store paths for this volume: what Nix vouches for would be another's.
#[must_use]
pub fn owns_store(volume: &str) -> bool {
    let mut parts = volume.split(':');
    let source = parts.next().unwrap_or_default();
    let options = parts.nth(1).unwrap_or_default();
    source.starts_with("/nix/store") && options.split(',').any(|option| option == "U")
}

/// `[[IP:][HOST]:]CONTAINER[/PROTOCOL]` in three parts: what is before the container's port, that, and the protocol.
#[must_use]
pub fn split_port(text: &str) -> (&str, &str, Option<&str>) {
    let (text, protocol) = text.split_once('/').map_or((text, None), |(text, protocol)| (text, Some(protocol)));
    let (host, container) = text.rsplit_once(':').unwrap_or(("", text));
    (host, container, protocol)
}

fn is_port(text: &str) -> bool {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse::<u16>(), last.parse::<u16>());
        matches!((first, last), (Ok(first), Ok(last)) if 0 < first && first <= last)
    };
    let (host, container, protocol) = split_port(text);
    let (ip, port) = host.rsplit_once(':').unwrap_or(("", host));
    let ip_fits = ip.is_empty() || ip.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let protocol_fits = matches!(protocol, None | Some("tcp" | "udp" | "sctp"));
    range(container) && (port.is_empty() || range(port)) && ip_fits && protocol_fits
}

fn is_volume(text: &str) -> bool {
    let mut parts = text.split(':');
    let (source, target, options, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(source), None) = (source, rest) else { return false };
    match target {
        None => source.starts_with('/'),
        Some(target) => (source.starts_with('/') || is_name(source)) && target.starts_with('/') && options != Some(""),
    }
}

/// `512m`, `2g`: what Podman and the NixOS module both read as an amount of memory.
#[must_use]
pub fn is_size(text: &str) -> bool {
    let digits = text.trim_end_matches(['b', 'k', 'm', 'g', 'B', 'K', 'M', 'G']);
    text.len() - digits.len() < 2 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// `30s`, `1m30s`: what Podman and systemd both read as a time.
#[must_use]
pub fn is_time(text: &str) -> bool {
    !text.contains(['.', 'u', 'n', 'µ']) && text != "0" && seconds(text).is_some()
}

/// The seconds of a time as Go writes it, `1m30s`, rounded up.
#[must_use]
pub fn seconds(text: &str) -> Option<u32> {
    if text == "0" {
        return Some(0);
    }
    let (mut total, mut rest) = (0.0_f64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let factor = match &after[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = &after[unit..];
    }
    // Through text: there is no lossless cast, and none that is checked.
    (!text.is_empty() && total <= f64::from(u32::MAX)).then(|| format!("{:.0}", total.ceil()).parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_volumes_sizes_and_times_are_told_from_what_is_none() {
        for port in ["80", "8080:80", "127.0.0.1:8080:80/udp", "[::1]:80:80", "127.0.0.1::80", "7000-7010:7000-7010"] {
            assert!(is_port(port), "{port}");
        }
        for port in ["", "web", "0", "80:", "1.2.3:80:80", "80/icmp", "9-8", "65536", "a:80:80"] {
            assert!(!is_port(port), "{port}");
        }
        for volume in ["data:/data", "/srv/x:/x:ro,Z", "/data"] {
            assert!(is_volume(volume), "{volume}");
        }
        for volume in ["", "data", "data:data", "./x:/x", "a:/b:", "a:/b:ro:rw"] {
            assert!(!is_volume(volume), "{volume}");
        }
        for size in ["512m", "2g", "100", "10b", "1G"] {
            assert!(is_size(size), "{size}");
        }
        for size in ["", "g", "2x", "2 apples", "1.5g", "64mb", "-1g"] {
            assert!(!is_size(size), "{size}");
        }
        for (time, whole) in [("30s", 30), ("1m30s", 90), ("1h", 3600), ("500ms", 1), ("1.5s", 2), ("0", 0), ("0s", 0)]
        {
            assert_eq!(seconds(time), Some(whole), "{time}");
        }
        for time in ["30s", "1h2m3s4ms"] {
            assert!(is_time(time), "{time}");
        }
        for time in ["0", "1.5s", "3us"] {
            assert!(!is_time(time), "{time}");
        }
        for time in ["", "30", "s", "1d", "1m30", "99999999999h"] {
            assert_eq!(seconds(time), None, "{time}");
        }
    }
}
