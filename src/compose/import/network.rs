//! How a container is reached, and what it reaches.

use super::account::PlacedValue;
use super::context::{Draft, ImportContext};
use super::networks::{Net, binding, has_subnet, special};
use super::nix::Set;
use super::options::{depend, namespace};
use super::storage::real_name;
use crate::compose::read::ComposeImportError;
use crate::compose::read::yaml::YamlValue;
use crate::spec::service::split_port;

pub(crate) fn ports(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for item in cx.items(at)? {
        if matches!(item.node.value, YamlValue::Map(_)) {
            long(cx, draft, &item)?;
        } else if let Some(port) = cx.plain(&item)? {
            publish(cx, draft, &item, port)?;
        }
    }
    Ok(())
}

fn publish(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
    port: String,
) -> Result<(), ComposeImportError> {
    let port = port.to_ascii_lowercase();
    let (host, container, protocol) = split_port(&port);
    let (ip, number) = host.rsplit_once(':').unwrap_or(("", host));
    if let Some(known) = draft
        .known
        .filter(|known| protocol != Some("udp") && container.parse().is_ok_and(|port| known.ports.contains(&port)))
    {
        let open = !matches!(ip, "127.0.0.1" | "[::1]" | "localhost");
        let why = if open { "on services.ai-stack.address, 127.0.0.1; compose opens it to the network" } else { "" };
        if container.parse() == Ok(known.ports[0])
            && draft.port.is_none()
            && let Ok(number) = number.parse()
        {
            draft.port = Some(number);
            cx.account.take(at, "port", why);
        } else if number == container {
            cx.account.take(at, "published by the AI stack anyway", why);
        } else {
            let name = known.name;
            let why =
                format!("the AI stack publishes {container} once: services.ai-stack.{name}.container.ports takes more");
            cx.account.leave(at, why);
        }
        return Ok(());
    }
    let width = |range: &str| {
        let (first, last) = range.split_once('-')?;
        last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)
    };
    if number.contains('-') && width(number) != width(container) {
        cx.account
            .leave(at, "Podman takes no free port out of a range: give as many ports of the host as of the container");
        return Ok(());
    }
    let probe = crate::spec::service::ServiceConfig {
        ports: vec![port.clone()],
        ..crate::spec::service::ServiceConfig::default()
    };
    if probe.check().is_err() {
        return Err(cx.wrong(at, "expected a port like 8080:80 or 127.0.0.1:8080:80/tcp"));
    }
    let why = if number.is_empty() { "on a port of the host that is another one at every start" } else { "" };
    cx.account.take(at, "ports", why);
    draft.service.ports.push(port);
    Ok(())
}

fn long(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    let (mut ip, mut published, mut target, mut protocol) = (None, None, None, None);
    for (key, child) in cx.mapping(at)? {
        let field = match key {
            "host_ip" => &mut ip,
            "published" => &mut published,
            "target" => &mut target,
            "protocol" => &mut protocol,
            "mode" => {
                cx.account.leave(&child, "is for Swarm");
                continue;
            }
            "name" | "app_protocol" => {
                cx.account.leave(&child, "is a note for people and tools");
                continue;
            }
            _ => continue,
        };
        *field = cx.plain(&child)?;
        if field.is_none() {
            return Ok(());
        }
    }
    let Some(target) = target else { return Err(cx.wrong(at, "expected a key 'target'")) };
    let ip = ip.map(|ip| if ip.contains(':') && !ip.starts_with('[') { format!("[{ip}]") } else { ip });
    let port = match (ip, published) {
        (Some(ip), published) => format!("{ip}:{}:{target}", published.unwrap_or_default()),
        (None, Some(published)) => format!("{published}:{target}"),
        (None, None) => target,
    };
    let port = protocol.map_or(port.clone(), |protocol| format!("{port}/{protocol}"));
    let row = at.get("target").unwrap_or_else(|| at.clone());
    let before = draft.port;
    publish(cx, draft, &row, port)?;
    let to = if draft.port == before { "ports" } else { "port" };
    for key in ["host_ip", "published", "protocol"] {
        if let Some(child) = at.get(key) {
            cx.account.take(&child, to, "");
        }
    }
    Ok(())
}

/// Puts the container into a network of the file, or of Podman.
fn join(cx: &mut ImportContext<'_>, draft: &mut Draft, key: &str, mut options: Vec<String>) {
    let definition = cx.top("networks", key).cloned();
    let name = real_name(cx, definition.as_ref(), key);
    cx.uses("networks", key);
    if let Some(special) = special(cx, definition.as_ref()) {
        draft.service.networks.push(special.to_owned());
        return;
    }
    if !cx.ours {
        // What the top level says of it comes later.
        cx.networks.entry(name.clone()).or_insert(Net::Made(Set::default()));
    }
    // Others call it by the name that it has in the file.
    if draft.container != draft.name {
        options.insert(0, format!("alias={}", draft.name));
    }
    let options = if options.is_empty() { String::new() } else { format!(":{}", options.join(",")) };
    draft.service.networks.push(format!("{name}{options}"));
}

pub(crate) fn networks(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    if !matches!(at.node.value, YamlValue::Map(_)) {
        for (item, name) in cx.strings(at)? {
            join(cx, draft, &name, Vec::new());
            cx.account.take(&item, "networks", "");
        }
        return Ok(());
    }
    for (name, child) in at.children() {
        let mut options = Vec::new();
        for (key, option) in cx.mapping(&child)? {
            let flag = match key {
                "aliases" => "alias",
                "ipv4_address" => "ip",
                "ipv6_address" => "ip6",
                "mac_address" => "mac",
                "interface_name" => "interface_name",
                "priority" | "gw_priority" => {
                    cx.account.leave(&option, "Podman takes networks in the order of the list");
                    continue;
                }
                "link_local_ips" | "driver_opts" => {
                    cx.account.leave(&option, "Podman has no such option for a container in a network");
                    continue;
                }
                _ => continue,
            };
            let definition = cx.top("networks", name).cloned();
            let external = definition.as_ref().is_some_and(|node| node.get("external").is_some());
            if matches!(key, "ipv4_address" | "ipv6_address")
                && !external
                && !cx.ours
                && !has_subnet(definition.as_ref())
            {
                let why = "the network has no subnet in the file, so that Podman has no such address: give networks.NAME.ipam.config one";
                cx.account.leave(&option, why);
                continue;
            }
            for (item, text) in cx.strings(&option)? {
                options.push(format!("{flag}={text}"));
                cx.account.take(&item, "networks", "");
            }
        }
        if cx.mapping(&child)?.is_empty() {
            cx.account.take(&child, "networks", "");
        }
        join(cx, draft, name, options);
    }
    Ok(())
}

/// compose puts every service that names no network into one, where they find each other by name.
pub(crate) fn default_network(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let says = |key: &str| at.get(key).is_some_and(|child| !child.node.is_null());
    if cx.ours || cx.only_ai_stack || says("networks") || says("network_mode") || cx.containers.len() < 2 {
        return Ok(());
    }
    join(cx, draft, "default", Vec::new());
    Ok(())
}

/// Ports that name no address are published on the one that a network of the container has for that.
pub(crate) fn bind_ports(cx: &ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) {
    let named: Vec<String> = match at.get("networks").map(|networks| &networks.node.value) {
        Some(YamlValue::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
        Some(YamlValue::List(entries)) => {
            entries.iter().filter_map(|entry| super::storage::scalar(&cx.variables, &entry.value)).collect()
        }
        _ => vec!["default".to_owned()],
    };
    let Some(address) = named.iter().find_map(|name| binding(cx, cx.top("networks", name))) else { return };
    for port in &mut draft.service.ports {
        let (host, ..) = split_port(port);
        let plain = port.split('/').next().unwrap_or_default();
        match (host.contains(':'), plain.matches(':').count()) {
            (false, 0) => *port = format!("{address}::{port}"),
            (false, 1) => *port = format!("{address}:{port}"),
            _ => {}
        }
    }
}

pub(crate) fn mode(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let Some(text) = cx.plain(at)? else { return Ok(()) };
    if draft.known.is_some() {
        cx.account.leave(at, "the AI stack puts its services into a network of their own, services.ai-stack.network");
        return Ok(());
    }
    let mode = if text == "bridge" { "podman".to_owned() } else { namespace(cx, draft, &text) };
    if let Some(service) = mode.strip_prefix("service:") {
        cx.account.leave(at, format!("{service} is not taken over"));
        return Ok(());
    }
    draft.service.networks.push(mode);
    cx.account.take(at, "networks", if text == "bridge" { "Podman's own bridge" } else { "" });
    Ok(())
}

pub(crate) fn extra_hosts(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let is_map = matches!(at.node.value, YamlValue::Map(_));
    for (key, child) in at.children() {
        for (item, text) in cx.strings(&child)? {
            let host = if is_map { Some((key, text.as_str())) } else { text.split_once(['=', ':']) };
            let Some((name, address)) = host else { return Err(cx.wrong(&item, "expected name:address")) };
            draft.service.extra_hosts.push(format!("{name}:{address}"));
            cx.account.take(&item, "extraHosts", "");
        }
    }
    Ok(())
}

pub(crate) fn links(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for (item, text) in cx.strings(at)? {
        let (name, alias) = text.split_once(':').unwrap_or((&text, &text));
        let Some(container) = cx.container(name) else {
            cx.account.leave(&item, format!("{name} is not taken over"));
            continue;
        };
        depend(draft, &container);
        if alias == name {
            cx.account.take(&item, "dependsOn", "found by its name in the network");
        } else {
            let why =
                format!("started before; for the name {alias}, give {container} the network option alias={alias}");
            cx.account.take(&item, "dependsOn", why);
        }
    }
    Ok(())
}

pub(crate) fn container_name(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let Some(name) = cx.plain(at)? else { return Ok(()) };
    if name == draft.container {
        cx.account.take(at, "the name of the attribute", "");
        return Ok(());
    }
    let mode = draft.service.networks.iter().any(|network| network == "host" || network.starts_with("container:"));
    let to = if mode { String::new() } else { draft.option("--network-alias", &name) };
    if to.is_empty() {
        cx.account.leave(at, format!("the container is called {}", draft.container));
    } else {
        cx.account.take(
            at,
            to,
            format!("the container is called {}; others in its network find it by both names", draft.container),
        );
    }
    Ok(())
}
