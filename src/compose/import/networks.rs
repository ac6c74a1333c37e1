//! Networks of the file: what `virtualisation.windlass.networks` has of them. One that asks for an isolation that is not to be had is
//! not made at all, so that nothing runs with less of it.

use serde_json::json;

use super::account::PlacedValue;
use super::context::ImportContext;
use super::nix::Set;
use super::storage::{real_name, scalar};
use crate::compose::read::ComposeImportError;
use crate::compose::read::yaml::{YamlNode, YamlValue};

/// What becomes of a network.
#[derive(Debug, Clone)]
pub(crate) enum Net {
    /// It is made, with these options; none are Podman's defaults.
    Made(Set),
    /// Another program makes it.
    External,
    /// The user has to make it, because of this.
    Unmade(String),
}

/// A driver of no network: the host's own, or none.
pub(crate) fn special(cx: &ImportContext<'_>, definition: Option<&YamlNode>) -> Option<&'static str> {
    let definition = definition?;
    let text = |key: &str| definition.get(key).and_then(|entry| scalar(&cx.variables, &entry.value));
    match (text("driver").as_deref(), text("name").as_deref()) {
        (Some("host"), _) | (_, Some("host")) => Some("host"),
        (Some("none" | "null"), _) | (_, Some("none")) => Some("none"),
        _ => None,
    }
}

/// Whether the file gives a network addresses, from which containers may have some of their own.
pub(crate) fn has_subnet(definition: Option<&YamlNode>) -> bool {
    let config = definition.and_then(|node| node.get("ipam")).and_then(|entry| entry.value.get("config"));
    match config.map(|entry| &entry.value.value) {
        Some(YamlValue::List(items)) => items.iter().any(|item| item.value.get("subnet").is_some()),
        _ => false,
    }
}

/// The address that ports are published on where a container is in this network and nothing else is said.
pub(crate) fn binding(cx: &ImportContext<'_>, definition: Option<&YamlNode>) -> Option<String> {
    let options = &definition?.get("driver_opts")?.value;
    scalar(&cx.variables, &options.get("com.docker.network.bridge.host_binding_ipv4")?.value)
}

/// Accounts for a network that is used, and says what becomes of it.
pub(crate) fn network(cx: &mut ImportContext<'_>, name: &str, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    let real = real_name(cx, Some(at.node), name);
    if let Some(special) = special(cx, Some(at.node)) {
        cx.account.take(at, format!("network {special}"), "");
        return Ok(());
    }
    let (mut set, mut extra, mut external, mut unmade) = (Set::default(), Vec::<String>::new(), false, None::<String>);
    let children = at.children();
    for (key, child) in &children {
        match *key {
            "name" => cx.account.take(child, format!("network {real}"), ""),
            "external" => {
                external = matches!(child.node.value, YamlValue::Map(_)) || cx.boolean(child)?.unwrap_or(false);
                cx.account.take(child, format!("network {real}"), "");
            }
            "driver" => {
                let Some(driver) = cx.plain(child)? else { continue };
                match driver.as_str() {
                    "bridge" | "default" | "" => cx.account.take(child, "", ""),
                    "macvlan" | "ipvlan" => {
                        set.value("driver", driver, &[]);
                        cx.account.take(child, "networks.driver", "");
                    }
                    other => unmade = Some(format!("its driver, {other}, is not one of Podman's")),
                }
            }
            "internal" => {
                if cx.boolean(child)? == Some(true) {
                    set.value("internal", true, &[]);
                    cx.account.take(child, "networks.internal", "");
                } else {
                    cx.account.take(child, "", "");
                }
            }
            "enable_ipv6" => {
                if cx.boolean(child)? == Some(true) {
                    set.value("ipv6", true, &[]);
                    cx.account.take(child, "networks.ipv6", "");
                } else {
                    cx.account.take(child, "", "");
                }
            }
            "ipam" => ipam(cx, child, &mut set, &mut extra)?,
            "driver_opts" => {
                if let Some(why) = driver_options(cx, child, &mut set)? {
                    unmade = Some(why);
                }
            }
            "labels" => {
                for (item, label, value) in cx.pairs(child)? {
                    if let Some(value) = cx.open_free(&item, value.unwrap_or_default()) {
                        extra.push(format!("--label={label}={value}"));
                        cx.account.take(&item, "networks.extraOptions", "");
                    }
                }
            }
            "enable_ipv4" => {
                cx.account.leave(child, "Podman's networks have IPv4 unless all their subnets are of IPv6");
            }
            "attachable" => cx.account.leave(child, "is for Swarm"),
            _ => {}
        }
    }
    if children.is_empty() {
        cx.account.take(at, format!("network {real}"), "");
    }
    if !extra.is_empty() {
        set.value("extraOptions", json!(extra), &[]);
    }
    let net = match unmade {
        _ if external => Net::External,
        Some(why) => {
            let why = format!(
                "{why}: the network is not made, so that nothing runs with less isolation than the file asks for; make it yourself, as {real}, and containers find it"
            );
            cx.account.leave_all(at, why.clone());
            Net::Unmade(why)
        }
        None => Net::Made(set),
    };
    cx.account.sweep(at, "is not a key that windlass knows");
    cx.networks.insert(real, net);
    Ok(())
}

fn ipam(
    cx: &mut ImportContext<'_>,
    at: &PlacedValue<'_>,
    set: &mut Set,
    extra: &mut Vec<String>,
) -> Result<(), ComposeImportError> {
    let mut subnets = Vec::new();
    for (key, child) in cx.mapping(at)? {
        match key {
            "driver" => match cx.plain(&child)?.as_deref() {
                None => {}
                Some("default" | "") => cx.account.take(&child, "", ""),
                Some(driver @ ("dhcp" | "host-local" | "none")) => {
                    extra.push(format!("--ipam-driver={driver}"));
                    cx.account.take(&child, "networks.extraOptions", "");
                }
                Some(_) => cx.account.leave(&child, "is no such driver of Podman's: addresses are given by host-local"),
            },
            "config" => {
                for (_, item) in child.children() {
                    for (key, child) in cx.mapping(&item)? {
                        let flag = match key {
                            "subnet" => "",
                            "gateway" => "--gateway",
                            "ip_range" => "--ip-range",
                            _ => {
                                cx.account.leave(
                                    &child,
                                    "Podman keeps no addresses back: give containers theirs with ipv4_address",
                                );
                                continue;
                            }
                        };
                        let Some(text) = cx.plain(&child)? else { continue };
                        if flag.is_empty() {
                            subnets.push(text);
                            cx.account.take(&child, "networks.subnets", "");
                        } else {
                            extra.push(format!("{flag}={text}"));
                            cx.account.take(&child, "networks.extraOptions", "");
                        }
                    }
                }
            }
            _ => cx.account.leave(&child, "Podman has no such option"),
        }
    }
    if !subnets.is_empty() {
        set.value("subnets", json!(subnets), &[]);
    }
    Ok(())
}

/// Options of the driver; why the network cannot be made, if one of them asks for an isolation that Podman does not have.
fn driver_options(
    cx: &mut ImportContext<'_>,
    at: &PlacedValue<'_>,
    set: &mut Set,
) -> Result<Option<String>, ComposeImportError> {
    let (mut options, mut unmade) = (serde_json::Map::new(), None);
    for (key, child) in cx.mapping(at)? {
        let Some(text) = cx.plain(&child)? else { continue };
        let is_off = matches!(text.to_ascii_lowercase().as_str(), "false" | "0" | "no");
        let own = match key {
            "com.docker.network.driver.mtu" | "mtu" => Some("mtu"),
            "parent" => Some("parent"),
            "macvlan_mode" | "ipvlan_mode" | "mode" => Some("mode"),
            "com.docker.network.bridge.host_binding_ipv4" => {
                cx.account.take(&child, "ports", "ports of its containers are published on this address");
                continue;
            }
            "com.docker.network.bridge.enable_icc" | "com.docker.network.bridge.enable_ip_masquerade" if is_off => {
                unmade = Some(format!("{key} is off, and Podman has no such option"));
                continue;
            }
            "com.docker.network.bridge.gateway_mode_ipv4" | "com.docker.network.bridge.gateway_mode_ipv6"
                if text == "isolated" =>
            {
                unmade = Some(format!("{key} is isolated, which Podman does not have"));
                continue;
            }
            _ => None,
        };
        match own {
            Some(own) => {
                options.insert(own.to_owned(), text.into());
                cx.account.take(&child, format!("networks.options.{own}"), "");
            }
            None => cx.account.leave(&child, "Podman's driver has no such option"),
        }
    }
    if !options.is_empty() {
        set.value("options", serde_json::Value::Object(options), &[]);
    }
    Ok(unmade)
}
