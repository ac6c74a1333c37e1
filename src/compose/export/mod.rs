//! A compose file for a stack, for people without NixOS.
//!
//! Images are named by digest, `NAME@sha256:…`: of the names under which Podman finds what was loaded, offline and in every
//! version, this is the one that cannot move. Nothing is ever pulled.

mod write;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

use self::write::{Yaml, YamlKey};
use crate::build::stack::{StackImage, StackJson, read_services};
use crate::class::{Class, Classified};
use crate::image::json::read_versioned;
use crate::image::layout::{ImageDir, LayoutError};
use crate::names::Name;
use crate::oci::reference::image_name;
use crate::spec::service::{OnFailure, Restart, ServiceConfig};

/// Why there is no compose file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The stack cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A service of an image that the stack does not have.
    #[error("{path}: services.{service}.image: '{image}' is not an image of this stack", path = path.display())]
    Image {
        /// The stack.
        path: PathBuf,
        /// The service.
        service: String,
        /// What it names.
        image: String,
    },
    /// A stack of archives that describes no services: what its images say of themselves is in the archives.
    #[error("{path}: describes no services, and its images are archives; use the lean stack that it was made from", path = path.display())]
    Archives {
        /// The stack.
        path: PathBuf,
    },
    /// The config of an image.
    #[error("{path}: the config of the image is not one: {message}", path = path.display())]
    Config {
        /// The image directory.
        path: PathBuf,
        message: String,
    },
}

impl Classified for ExportError {
    fn class(&self) -> Class {
        match self {
            Self::Layout(error) => error.class(),
            Self::Archives { .. } => Class::Usage,
            Self::Image { .. } | Self::Config { .. } => Class::Failed,
        }
    }
}

/// The compose file of a stack, lean or with archives.
///
/// # Errors
/// See [`ExportError`].
pub fn export(stack: &Path) -> Result<String, ExportError> {
    let json: StackJson = read_versioned(&stack.join("stack.json"))?;
    let described = read_services(stack)?;
    // What `buildStack` gives has the lean stack beside its archives.
    let lean = stack.join("lean");
    if described.is_empty()
        && json.images.iter().any(|image| image.directory.is_none())
        && lean.join("stack.json").is_file()
    {
        return export(&lean);
    }
    let mut head = vec![
        "Written by windlass compose export.".to_owned(),
        "Load the images first, with the stack's load.sh or with windlass load: nothing is pulled.".to_owned(),
    ];
    let mut notes = Vec::new();
    let services = if described.is_empty() {
        head.push(
            "The stack describes no services: each image has one with the ports and volumes of its config.".to_owned(),
        );
        of_images(stack, &json, &mut notes)?
    } else {
        described
    };
    let inside = |name: &Name| json.images.iter().any(|image| image.models.contains(name));
    for model in json.models.iter().filter(|model| !inside(&model.name)) {
        head.push(format!(
            "Beside the images, not mounted here: the model {}, {}",
            model.name,
            by_digest(&model.reference, model.digest)
        ));
    }
    let mut secrets = Secrets::new(&services);
    let mut map = Vec::new();
    for (name, service) in &services {
        let image = json.images.iter().find(|image| *image.name == service.image);
        let image = image.ok_or_else(|| ExportError::Image {
            path: stack.to_owned(),
            service: name.clone(),
            image: service.image.clone(),
        })?;
        let mut comments: Vec<String> = vec![image.reference.to_string()];
        comments.extend(
            notes.iter().filter(|(service, _)| service == name).map(|(_, note): &(String, String)| note.clone()),
        );
        map.push(YamlKey { comments, name: name.clone(), value: one(name, service, image, &services, &mut secrets) });
    }
    let mut keys = vec![key("services", Yaml::Map(map))];
    let named = |names: Vec<String>| {
        let entry = |name: String| key(&name, Yaml::Map(vec![key("name", Yaml::text(&name))]));
        Yaml::Map(names.into_iter().map(entry).collect())
    };
    let (volumes, networks) = (volumes(&services), networks(&services));
    for (section, names) in [("volumes", volumes), ("networks", networks)] {
        if !names.is_empty() {
            keys.push(key(section, named(names)));
        }
    }
    if !secrets.files.is_empty() {
        keys.push(key("secrets", secrets.section()));
    }
    // What is not said in the file is as Podman has it, not as compose has it.
    keys.push(key("x-windlass", Yaml::Map(vec![key("version", Yaml::Plain("1".to_owned()))])));
    keys[0].comments = head;
    Ok(Yaml::Map(keys).file())
}

fn key(name: &str, value: Yaml) -> YamlKey {
    YamlKey { comments: Vec::new(), name: name.to_owned(), value }
}

fn by_digest(reference: &str, digest: crate::oci::digest::Digest) -> String {
    let (name, _) = image_name(reference);
    format!("{name}@{digest}")
}

/// A service for each image, from its config.
fn of_images(
    stack: &Path,
    json: &StackJson,
    notes: &mut Vec<(String, String)>,
) -> Result<BTreeMap<String, ServiceConfig>, ExportError> {
    let mut services = BTreeMap::new();
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for image in &json.images {
        if services.contains_key(&*image.name) {
            continue;
        }
        let Some(directory) = &image.directory else { return Err(ExportError::Archives { path: stack.to_owned() }) };
        let directory = ImageDir::open(&stack.join(directory))?;
        let config = directory.image().small_blobs().find(|blob| blob.digest == image.config_digest);
        let wrong = |message: String| ExportError::Config { path: directory.path().to_owned(), message };
        let config = config.ok_or_else(|| wrong("it is not there".to_owned()))?;
        let config: ImageConfiguration =
            serde_json::from_slice(&config.bytes).map_err(|error| wrong(error.to_string()))?;
        let config = config.config().clone().unwrap_or_default();
        let sorted = |list: &Option<Vec<String>>| {
            let mut list = list.clone().unwrap_or_default();
            list.sort();
            list
        };
        let mut service = ServiceConfig { image: image.name.to_string(), ..ServiceConfig::default() };
        for port in sorted(config.exposed_ports()) {
            let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
            if let Some(other) = taken.get(&port) {
                notes.push((
                    image.name.to_string(),
                    format!("{port} is published for {other}: give this one another port of the host"),
                ));
                continue;
            }
            taken.insert(port.clone(), image.name.to_string());
            let protocol = if protocol == "tcp" { String::new() } else { format!("/{protocol}") };
            service.ports.push(format!("127.0.0.1:{number}:{number}{protocol}"));
        }
        for place in sorted(config.volumes()) {
            let name = place.trim_matches('/').replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            service.volumes.push(format!("{}-{name}:{place}", image.name));
        }
        services.insert(image.name.to_string(), service);
    }
    Ok(services)
}

/// The files of all secrets, by the name that the compose file has for them.
struct Secrets {
    /// Names that stand for different files in different services.
    ambiguous: Vec<String>,
    files: BTreeMap<String, String>,
}

impl Secrets {
    fn new(services: &BTreeMap<String, ServiceConfig>) -> Self {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        let mut ambiguous = Vec::new();
        for (name, file) in services.values().flat_map(|service| &service.secrets) {
            if seen.insert(name, file).is_some_and(|other| other != file) {
                ambiguous.push(name.clone());
            }
        }
        Self { ambiguous, files: BTreeMap::new() }
    }

    fn of(&mut self, service: &str, secrets: &BTreeMap<String, String>) -> Yaml {
        let one = |(name, file): (&String, &String)| {
            let is_ambiguous = self.ambiguous.contains(name);
            let own = if is_ambiguous { format!("{service}-{name}") } else { name.clone() };
            self.files.insert(own.clone(), file.clone());
            if is_ambiguous {
                Yaml::Map(vec![key("source", Yaml::text(&own)), key("target", Yaml::text(name))])
            } else {
                Yaml::text(name)
            }
        };
        Yaml::List(secrets.iter().map(one).collect())
    }

    fn section(&self) -> Yaml {
        let entry = |(name, file): (&String, &String)| YamlKey {
            comments: vec![format!("{file} in the stack's own description")],
            name: name.clone(),
            value: Yaml::Map(vec![key("file", Yaml::text(&format!("./secrets/{name}")))]),
        };
        Yaml::Map(self.files.iter().map(entry).collect())
    }
}

fn volumes(services: &BTreeMap<String, ServiceConfig>) -> Vec<String> {
    let sources = services.values().flat_map(|service| &service.volumes).filter_map(|volume| volume.split_once(':'));
    let mut names: Vec<String> =
        sources.map(|(source, _)| source.to_owned()).filter(|source| !source.starts_with('/')).collect();
    names.sort();
    names.dedup();
    names
}

fn networks(services: &BTreeMap<String, ServiceConfig>) -> Vec<String> {
    let all = services.values().filter(|service| mode(service).is_none()).flat_map(|service| &service.networks);
    let mut names: Vec<String> = all.map(|network| network.split(':').next().unwrap_or_default().to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

/// What is not a network of its own, but a way to have one.
fn mode(service: &ServiceConfig) -> Option<&String> {
    let kinds = ["host", "none", "private", "podman", "bridge", "slirp4netns", "pasta", "container", "ns"];
    service.networks.iter().find(|network| kinds.contains(&network.split(':').next().unwrap_or_default()))
}

fn one(
    name: &str,
    service: &ServiceConfig,
    image: &StackImage,
    all: &BTreeMap<String, ServiceConfig>,
    secrets: &mut Secrets,
) -> Yaml {
    let mut keys = vec![
        key("image", Yaml::text(&by_digest(&image.reference, image.index_digest.unwrap_or(image.digest)))),
        key("pull_policy", Yaml::text("never")),
    ];
    let mut add = |name: &str, value: Yaml| keys.push(key(name, value));
    if let Some(entrypoint) = &service.entrypoint {
        add("entrypoint", Yaml::texts(entrypoint));
    }
    if !service.command.is_empty() {
        add("command", Yaml::texts(&service.command));
    }
    let pairs = |map: &BTreeMap<String, String>| {
        Yaml::Map(map.iter().map(|(name, value)| key(name, Yaml::text(value))).collect())
    };
    for (name, map) in [("environment", &service.environment), ("labels", &service.labels)] {
        if !map.is_empty() {
            add(name, pairs(map));
        }
    }
    let lists = [
        ("env_file", &service.environment_files),
        ("ports", &service.ports),
        ("volumes", &service.volumes),
        ("tmpfs", &service.tmpfs),
        ("extra_hosts", &service.extra_hosts),
        ("cap_add", &service.cap_add),
        ("cap_drop", &service.cap_drop),
    ];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        add(name, Yaml::texts(list));
    }
    if !service.devices.is_empty() {
        let device = |device: &String| {
            let path = device.starts_with('/') && !device.contains(':');
            Yaml::text(&if path { format!("{device}:{device}") } else { device.clone() })
        };
        add("devices", Yaml::List(service.devices.iter().map(device).collect()));
    }
    if !service.secrets.is_empty() {
        add("secrets", secrets.of(name, &service.secrets));
    }
    let texts = [
        ("user", &service.user),
        ("working_dir", &service.working_dir),
        ("hostname", &service.hostname),
        ("mem_limit", &service.memory),
        ("shm_size", &service.shm_size),
        ("stop_signal", &service.stop_signal),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            add(name, Yaml::text(text));
        }
    }
    let flags = [("read_only", service.read_only), ("privileged", service.privileged), ("init", service.init)];
    for (name, flag) in flags {
        if let Some(flag) = flag {
            add(name, Yaml::Plain(flag.to_string()));
        }
    }
    if let Some(flag) = service.no_new_privileges {
        add("security_opt", Yaml::List(vec![Yaml::text(&format!("no-new-privileges:{flag}"))]));
    }
    if let Some(cpus) = &service.cpus {
        add("cpus", Yaml::Plain(cpus.to_string()));
    }
    if let Some(limit) = service.pids_limit {
        add("pids_limit", Yaml::Plain(limit.to_string()));
    }
    if !service.ulimits.is_empty() {
        let limit = |(name, limit): (&String, &String)| {
            let (soft, hard) = limit.split_once(':').unwrap_or((limit, limit));
            key(
                name,
                Yaml::Map(vec![key("soft", Yaml::Plain(soft.to_owned())), key("hard", Yaml::Plain(hard.to_owned()))]),
            )
        };
        add("ulimits", Yaml::Map(service.ulimits.iter().map(limit).collect()));
    }
    if let Some(seconds) = service.stop_timeout {
        add("stop_grace_period", Yaml::text(&format!("{seconds}s")));
    }
    connect(service, all, &mut add);
    if !service.depends_on.is_empty() {
        let other = |other: &String| {
            let healthy = all.get(other).is_some_and(|service| service.health.is_some());
            let condition = if healthy { "service_healthy" } else { "service_started" };
            key(other, Yaml::Map(vec![key("condition", Yaml::text(condition))]))
        };
        add("depends_on", Yaml::Map(service.depends_on.iter().map(other).collect()));
    }
    health(service, &mut add);
    let restart = match service.restart {
        None | Some(Restart::Always) => "always",
        Some(Restart::OnFailure) => "on-failure",
        Some(Restart::No) => "no",
    };
    add("restart", Yaml::text(restart));
    own(name, service, all, &mut add);
    Yaml::Map(keys)
}

fn connect(service: &ServiceConfig, all: &BTreeMap<String, ServiceConfig>, add: &mut impl FnMut(&str, Yaml)) {
    if let Some(mode) = mode(service) {
        let other = mode.strip_prefix("container:").filter(|other| all.contains_key(*other));
        let text = match other {
            Some(other) => format!("service:{other}"),
            None if mode == "podman" => "bridge".to_owned(),
            None => mode.clone(),
        };
        add("network_mode", Yaml::text(&text));
        return;
    }
    if service.networks.is_empty() {
        return;
    }
    let network = |network: &String| {
        let (name, options) = network.split_once(':').unwrap_or((network, ""));
        let mut keys: Vec<YamlKey> = Vec::new();
        let options: Vec<(&str, &str)> = options.split(',').filter_map(|option| option.split_once('=')).collect();
        let aliases = options.iter().filter(|(option, _)| *option == "alias").map(|(_, value)| Yaml::text(value));
        let aliases: Vec<Yaml> = aliases.collect();
        if !aliases.is_empty() {
            keys.push(key("aliases", Yaml::List(aliases)));
        }
        let named = [
            ("ip", "ipv4_address"),
            ("ip6", "ipv6_address"),
            ("mac", "mac_address"),
            ("interface_name", "interface_name"),
        ];
        for (option, name) in named {
            keys.extend(
                options.iter().find(|(other, _)| *other == option).map(|(_, value)| key(name, Yaml::text(value))),
            );
        }
        key(name, Yaml::Map(keys))
    };
    add("networks", Yaml::Map(service.networks.iter().map(network).collect()));
}

fn health(service: &ServiceConfig, add: &mut impl FnMut(&str, Yaml)) {
    let Some(health) = &service.health else { return };
    let command = std::iter::once("CMD".to_owned()).chain(health.command.clone()).collect::<Vec<_>>();
    let mut keys = vec![key("test", Yaml::texts(&command))];
    let times = [("interval", &health.interval), ("timeout", &health.timeout), ("start_period", &health.start_period)];
    keys.extend(times.into_iter().filter_map(|(name, time)| Some(key(name, Yaml::text(time.as_ref()?)))));
    keys.extend(health.retries.map(|retries| key("retries", Yaml::Plain(retries.to_string()))));
    add("healthcheck", Yaml::Map(keys));
}

/// What compose has no key for: kept where compose does not look, so that nothing is lost.
fn own(name: &str, service: &ServiceConfig, all: &BTreeMap<String, ServiceConfig>, add: &mut impl FnMut(&str, Yaml)) {
    let mut keys: Vec<YamlKey> = Vec::new();
    if let Some(start) = service.auto_start {
        keys.push(key("autoStart", Yaml::Plain(start.to_string())));
        let needed = all.values().any(|other| other.depends_on.iter().any(|other| other == name));
        if !start && !needed {
            add("profiles", Yaml::List(vec![Yaml::text("manual")]));
        }
    }
    if let Some(action) = service.health.as_ref().and_then(|health| health.on_failure) {
        let word = match action {
            OnFailure::None => "none",
            OnFailure::Kill => "kill",
            OnFailure::Restart => "restart",
            OnFailure::Stop => "stop",
        };
        keys.push(key("onFailure", Yaml::text(word)));
    }
    if !service.extra_options.is_empty() {
        keys.push(YamlKey {
            comments: vec!["Options of podman run, for which compose has no key.".to_owned()],
            name: "extraOptions".to_owned(),
            value: Yaml::texts(&service.extra_options),
        });
    }
    if !keys.is_empty() {
        add("x-windlass", Yaml::Map(keys));
    }
}
