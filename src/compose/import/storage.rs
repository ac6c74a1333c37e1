//! What a container sees of the host's storage: volumes, temporary file systems, secrets and configs.

use std::path::Path;

use super::account::PlacedValue;
use super::context::{Draft, ImportContext, absolute};
use super::options::depend;
use super::runtime::is_place_of_upstream;
use crate::compose::read::ComposeImportError;
use crate::compose::read::variables::{ComposeVariables, interpolate};
use crate::compose::read::yaml::{Mark, YamlNode, YamlValue};
use crate::spec::service::{is_name, is_secret_file};

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum MountSource {
    /// A path of the host.
    Bind(String),
    /// A volume of this name.
    Named(String),
    /// A volume without a name.
    Anonymous,
}

/// A mount as it will be.
struct ServiceMount {
    source: MountSource,
    target: String,
    options: Vec<String>,
}

pub(crate) fn volumes(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for item in cx.items(at)? {
        if matches!(item.node.value, YamlValue::Map(_)) {
            long(cx, draft, &item)?;
            continue;
        }
        let Some(text) = cx.plain(&item)? else { continue };
        let mut parts = text.splitn(3, ':');
        let (first, second, options) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let options = options.map(|options| options.split(',').map(str::to_owned).collect()).unwrap_or_default();
        let (source, target) = match second {
            None => (Ok(MountSource::Anonymous), first),
            Some(target) => (source(cx, item.node.mark, first), target),
        };
        match source {
            Ok(source) => mount(cx, draft, &item, ServiceMount { source, target: target.to_owned(), options }),
            Err(why) => cx.account.leave(&item, why),
        }
    }
    Ok(())
}

/// What the text before the first ':' of a volume means.
fn source(cx: &mut ImportContext<'_>, mark: Mark, text: &str) -> Result<MountSource, &'static str> {
    if text.starts_with(['/', '.', '~']) {
        return cx.host_path(mark, text).map(MountSource::Bind);
    }
    cx.uses("volumes", text);
    match named(cx, text) {
        MountSource::Named(name) if !is_name(&name) => {
            Err("is not a name of a volume: a path of the host begins with '/' or '.'")
        }
        source => Ok(source),
    }
}

/// The volume that a name of the file stands for.
fn named(cx: &ImportContext<'_>, name: &str) -> MountSource {
    let definition = cx.top("volumes", name);
    if let Some(device) = definition.and_then(|node| bound_device(cx, node)) {
        return MountSource::Bind(device);
    }
    MountSource::Named(real_name(cx, definition, name))
}

/// `driver_opts: { type: none, o: bind, device: DIR }`: a volume that is a directory of the host.
fn bound_device(cx: &ImportContext<'_>, volume: &YamlNode) -> Option<String> {
    let options = &volume.get("driver_opts")?.value;
    let option = |name: &str| scalar(&cx.variables, &options.get(name)?.value);
    let binds = option("o")?.split(',').any(|word| matches!(word, "bind" | "rbind"));
    binds.then(|| cx.host_path(volume.mark, &option("device")?).ok()).flatten()
}

/// A scalar with its variables, for what is read more than once and accounted for elsewhere.
pub(crate) fn scalar(variables: &ComposeVariables, node: &YamlNode) -> Option<String> {
    let YamlValue::Scalar { text, .. } = &node.value else { return None };
    interpolate(text, variables).ok().filter(|text| text.secret.is_none()).map(|text| text.value)
}

/// The name of a volume or a network outside of the file: its own, or that of the project before its key.
pub(crate) fn real_name(cx: &ImportContext<'_>, definition: Option<&YamlNode>, key: &str) -> String {
    let name = |node: &YamlNode| node.get("name").and_then(|entry| scalar(&cx.variables, &entry.value));
    let external = definition.and_then(|node| node.get("external")).map(|entry| &entry.value);
    let is_external = external.is_some_and(|node| {
        matches!(node.value, YamlValue::Map(_)) || scalar(&cx.variables, node).as_deref() == Some("true")
    });
    let given = definition.and_then(name).or_else(|| external.and_then(name));
    match given {
        Some(name) => name,
        None if is_external => key.to_owned(),
        None => format!("{}_{key}", cx.project),
    }
}

/// What would be mounted, for counting who mounts it; nothing is noted.
pub(crate) fn peek(cx: &ImportContext<'_>, item: &YamlNode) -> Option<String> {
    let text = match &item.value {
        YamlValue::Map(_) => scalar(&cx.variables, &item.get("source")?.value)?,
        _ => scalar(&cx.variables, item)?.split_once(':')?.0.to_owned(),
    };
    match if text.starts_with(['/', '.', '~']) {
        MountSource::Bind(cx.host_path(item.mark, &text).ok()?)
    } else {
        named(cx, &text)
    } {
        MountSource::Bind(path) => Some(path),
        MountSource::Named(name) => Some(name),
        MountSource::Anonymous => None,
    }
}

/// Adds a mount to the description; `at` gets its row.
fn mount(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>, mount: ServiceMount) {
    let ServiceMount { source, target, options } = mount;
    if !target.starts_with('/') {
        cx.account.leave(at, "has no absolute path in the container");
        return;
    }
    let place = target.trim_end_matches('/');
    if let Some(known) = draft.known.filter(|known| known.data.contains(&place)) {
        let old = match &source {
            MountSource::Bind(path) => format!("; the old ones are in {path}"),
            MountSource::Named(name) => format!(
                "; the old ones are in the volume {name}: `podman volume inspect {name}` or `docker volume inspect {name}` says where"
            ),
            MountSource::Anonymous => String::new(),
        };
        let name = known.name;
        cx.account.leave(at, format!("services.ai-stack.{name} keeps its data in /var/lib/ai-stack/{name}{old}"));
        return;
    }
    let hides = |models: &&str| Path::new(models).starts_with(if place.is_empty() { "/" } else { place });
    if let Some(known) = draft.known.filter(|known| known.models.iter().any(hides)) {
        let name = known.name;
        let why = format!(
            "would hide the models that are in the image at {}: name them in services.ai-stack.models, and services.ai-stack.{name} has them",
            known.models[0]
        );
        cx.account.leave(at, why);
        return;
    }
    if let MountSource::Bind(path) = &source
        && draft.known.is_some_and(|known| known.built)
        && (is_place_of_upstream(path) || is_place_of_upstream(place))
    {
        let why = "is a place of distributions, which neither NixOS nor the image that is built has; services.ai-stack.accel brings what a GPU needs";
        cx.account.leave(at, why);
        return;
    }
    let mut why: Vec<String> = Vec::new();
    if let MountSource::Bind(path) = &source
        && ["/usr/", "/lib/", "/lib64/"].iter().any(|start| path.starts_with(start))
    {
        why.push(format!("NixOS has no {path}: mount what is meant from the Nix store or from /run"));
    }
    let source_text = match &source {
        MountSource::Bind(path) => path.clone(),
        MountSource::Named(name) => name.clone(),
        MountSource::Anonymous => String::new(),
    };
    let mut kept: Vec<String> = Vec::new();
    for option in options.into_iter().filter(|option| !option.is_empty()) {
        match option.as_str() {
            "z" | "Z" | "U" => match wrong_relabel(cx, &source, &option) {
                Some(reason) => why.push(format!("without :{option}, {reason}")),
                None => kept.push(option),
            },
            "cached" | "delegated" | "consistent" | "default" => {
                why.push(format!("without {option}, which is for Docker on a Mac"));
            }
            "nocopy" if matches!(source, MountSource::Bind(_)) => {
                why.push("without nocopy, which is for volumes".to_owned());
            }
            _ => kept.push(option),
        }
    }
    if let MountSource::Bind(path) = &source {
        if path.ends_with("/docker.sock") {
            why.push("Docker's socket: set virtualisation.podman.dockerSocket.enable to have one".to_owned());
        } else {
            cx.binds.entry(path.clone()).or_insert(at.mark);
        }
    }
    let options = if kept.is_empty() { String::new() } else { format!(":{}", kept.join(",")) };
    let volume = if source == MountSource::Anonymous { target } else { format!("{source_text}:{target}{options}") };
    cx.account.take(at, "volumes", why.join("; "));
    draft.service.volumes.push(volume);
}

/// Why a mount must not be given another label or owner.
fn wrong_relabel(cx: &ImportContext<'_>, source: &MountSource, option: &str) -> Option<String> {
    const SYSTEM: [&str; 16] = [
        "/", "/boot", "/dev", "/etc", "/home", "/media", "/mnt", "/nix", "/opt", "/proc", "/root", "/run", "/srv",
        "/sys", "/tmp", "/var",
    ];
    const BELOW: [&str; 8] = ["/boot/", "/dev/", "/etc/", "/nix/", "/proc/", "/run/", "/sys/", "/usr/"];
    let path = match source {
        MountSource::Bind(path) => path.as_str(),
        MountSource::Named(name) => {
            let others = option != "z" && cx.mounted.get(name).is_some_and(|count| *count > 1);
            return others.then(|| "which would take the volume from the other services".to_owned());
        }
        MountSource::Anonymous => return None,
    };
    let what = if option == "U" { "change the owner of" } else { "relabel" };
    if path.starts_with("/nix/store/") {
        return Some(format!("which would {what} a store path"));
    }
    if path.ends_with(".sock") {
        return Some(format!("which would {what} a socket that is not the container's"));
    }
    if SYSTEM.contains(&path) || BELOW.iter().any(|below| path.starts_with(below)) {
        return Some(format!("which would {what} a directory of the system"));
    }
    let shared = cx.mounted.get(path).is_some_and(|count| *count > 1);
    (option != "z" && shared).then(|| "which would take the directory from the other services".to_owned())
}

/// The long form.
fn long(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    let mut values = std::collections::BTreeMap::new();
    for name in ["type", "source", "target"] {
        if let Some(child) = at.get(name) {
            match cx.plain(&child)? {
                Some(text) => drop(values.insert(name, text)),
                // It has its row, and without it there is nothing to mount.
                None => return Ok(()),
            }
        }
    }
    let value = |name: &str| values.get(name).cloned().unwrap_or_default();
    let (kind, target) = (value("type"), value("target"));
    let mut options = Vec::new();
    for (key, child) in cx.mapping(at)? {
        match key {
            "read_only" => {
                if cx.boolean(&child)? == Some(true) {
                    options.push("ro".to_owned());
                }
                cx.account.take(&child, "volumes", "");
            }
            "consistency" => cx.account.leave(&child, "is for Docker on a Mac"),
            "bind" | "volume" | "tmpfs" | "image" => {
                for (option, child) in cx.mapping(&child)? {
                    let word = match (key, option) {
                        ("bind", "propagation" | "selinux") => cx.plain(&child)?,
                        ("bind", "create_host_path") => {
                            cx.account.leave(&child, "Podman makes no directory on the host");
                            continue;
                        }
                        ("volume", "nocopy") => cx.boolean(&child)?.filter(|yes| *yes).map(|_| "nocopy".to_owned()),
                        ("tmpfs", "size" | "mode") => cx.plain(&child)?.map(|text| format!("{option}={text}")),
                        ("volume" | "image", "subpath") => {
                            cx.account
                                .leave(&child, "Podman 4 mounts volumes whole: mount the directory that is meant");
                            continue;
                        }
                        _ => continue,
                    };
                    options.extend(word);
                    cx.account.take(&child, if key == "tmpfs" { "tmpfs" } else { "volumes" }, "");
                }
            }
            _ => {}
        }
    }
    let Some(row) = at.get("target") else { return Err(cx.wrong(at, "expected a key 'target'")) };
    let take_rest = |cx: &mut ImportContext<'_>, to: &str| {
        let rows = ["type", "source"].iter().filter_map(|name| at.get(name));
        rows.for_each(|row| cx.account.take(&row, to, ""));
    };
    let place = match kind.as_str() {
        "tmpfs" => {
            let options = if options.is_empty() { String::new() } else { format!(":{}", options.join(",")) };
            draft.service.tmpfs.push(format!("{target}{options}"));
            cx.account.take(&row, "tmpfs", "");
            take_rest(cx, "tmpfs");
            return Ok(());
        }
        "bind" => cx.host_path(row.node.mark, &value("source")).map(MountSource::Bind),
        "volume" if !values.contains_key("source") => Ok(MountSource::Anonymous),
        "volume" | "" => source(cx, row.node.mark, &value("source")),
        _ => Err("is of a type that Podman does not mount so: bind, volume and tmpfs are taken"),
    };
    match place {
        Ok(source) => {
            mount(cx, draft, &row, ServiceMount { source, target, options });
            if cx.account.is_left(&row.path) {
                cx.account.sweep(at, "belongs to a volume that is not taken over");
            } else {
                take_rest(cx, "volumes");
            }
        }
        Err(why) => cx.account.sweep(at, why),
    }
    Ok(())
}

pub(crate) fn tmpfs(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for (item, text) in cx.strings(at)? {
        cx.account.take(&item, "tmpfs", "");
        draft.service.tmpfs.push(text);
    }
    Ok(())
}

pub(crate) fn volumes_from(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for (item, text) in cx.strings(at)? {
        let (name, options) = match text.strip_prefix("container:") {
            Some(container) => (Some(container.to_owned()), ""),
            None => {
                let (name, options) = text.find(':').map_or((text.as_str(), ""), |at| text.split_at(at));
                (cx.container(name), options)
            }
        };
        let Some(name) = name else {
            cx.account.leave(&item, format!("{text} is not taken over"));
            continue;
        };
        depend(draft, &name);
        let to = draft.option("--volumes-from", &format!("{name}{options}"));
        cx.account.take(&item, to, "");
    }
    Ok(())
}

/// Where a secret or config comes from, as the top level says.
enum SecretOrigin {
    File(String),
    External(String),
    No(&'static str),
}

fn origin(cx: &mut ImportContext<'_>, section: &str, name: &str) -> SecretOrigin {
    cx.uses(section, name);
    let Some(definition) = cx.top(section, name).cloned() else {
        return SecretOrigin::No("the top level has nothing of this name");
    };
    let text = |key: &str| definition.get(key).and_then(|entry| scalar(&cx.variables, &entry.value));
    if let Some(file) = text("file") {
        return match cx.host_path(definition.mark, &file) {
            Ok(path) => SecretOrigin::File(path),
            Err(why) => SecretOrigin::No(why),
        };
    }
    if definition.get("external").is_some() {
        return SecretOrigin::External(text("name").unwrap_or_else(|| name.to_owned()));
    }
    if definition.get("environment").is_some() {
        return SecretOrigin::No("comes from a variable of the shell: write it to a file of the host");
    }
    SecretOrigin::No("has its text in the compose file: write it to a file of the host")
}

/// A secret or config that a service names: where it is wanted, with the row that decides.
struct WantedSecret<'n> {
    row: PlacedValue<'n>,
    name: String,
    target: Option<String>,
}

fn wanted<'n>(cx: &mut ImportContext<'_>, at: &PlacedValue<'n>) -> Result<Vec<WantedSecret<'n>>, ComposeImportError> {
    let mut all = Vec::new();
    for (_, item) in at.children() {
        if !matches!(item.node.value, YamlValue::Map(_)) {
            if let Some(name) = cx.plain(&item)? {
                all.push(WantedSecret { row: item, name, target: None });
            }
            continue;
        }
        let source = item.get("source").ok_or_else(|| cx.wrong(&item, "expected a key 'source'"))?;
        let Some(name) = cx.plain(&source)? else { continue };
        let target = item.get("target").map(|child| cx.plain(&child)).transpose()?.flatten();
        for key in ["uid", "gid", "mode"] {
            if let Some(child) = item.get(key) {
                cx.account.leave(
                    &child,
                    "a file is given as the host has it; a secret is readable for the container's user only",
                );
            }
        }
        if let Some(child) = item.get("target") {
            cx.account.take(&child, "the place of the file", "");
        }
        all.push(WantedSecret { row: source, name, target });
    }
    Ok(all)
}

pub(crate) fn secrets(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for WantedSecret { row, name, target } in wanted(cx, at)? {
        let place = target.unwrap_or_else(|| name.clone());
        let place = absolute(Path::new("/run/secrets"), &place);
        let file = place.strip_prefix("/run/secrets/").filter(|file| is_name(file)).map(str::to_owned);
        match origin(cx, "secrets", &name) {
            SecretOrigin::File(path) if !is_secret_file(&path) => {
                cx.account.leave(&row, "systemd cannot read a path with such characters: give the file another name");
            }
            SecretOrigin::File(path) => {
                if let Some(file) = file {
                    cx.account.take(&row, format!("secrets.{file}"), "");
                    draft.service.secrets.insert(file, path);
                } else {
                    draft.service.volumes.push(format!("{path}:{place}:ro"));
                    cx.account.take(&row, "volumes", "mounted: secrets are files right below /run/secrets");
                }
            }
            SecretOrigin::External(secret) => {
                let target = file.unwrap_or(place);
                let to = draft.option("--secret", &format!("{secret},target={target}"));
                cx.account.take(&row, to, "a secret of Podman: `podman secret create` makes it");
            }
            SecretOrigin::No(why) => cx.account.leave(&row, why),
        }
    }
    Ok(())
}

pub(crate) fn configs(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for WantedSecret { row, name, target } in wanted(cx, at)? {
        let place = target.unwrap_or_else(|| format!("/{name}"));
        match origin(cx, "configs", &name) {
            SecretOrigin::File(path) => {
                cx.binds.entry(path.clone()).or_insert(row.mark);
                draft.service.volumes.push(format!("{path}:{place}:ro"));
                cx.account.take(&row, "volumes", "");
            }
            SecretOrigin::External(_) => cx.account.leave(&row, "Podman has no configs: mount a file in its place"),
            SecretOrigin::No(why) => cx.account.leave(&row, why),
        }
    }
    Ok(())
}
