//! What a container may use: processors, memory, devices, limits, and the parts of `deploy` that one host has.

use super::account::PlacedValue;
use super::context::{Draft, ImportContext};
use crate::compose::read::ComposeImportError;
use crate::compose::read::yaml::YamlValue;
use crate::spec::service::Restart;

pub(crate) fn key(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    key: &str,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    match key {
        "devices" => devices(cx, draft, at),
        "gpus" => gpus(cx, draft, at),
        "ulimits" => ulimits(cx, draft, at),
        "blkio_config" => blkio(cx, draft, at),
        "deploy" => deploy(cx, draft, at),
        _ => replicas(cx, at),
    }
}

pub(crate) fn cpus(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let Some(number) = cx.number::<f64>(at)? else { return Ok(()) };
    let whole = format!("{number}").parse::<u32>().map(serde_json::Number::from).ok();
    match whole.or_else(|| serde_json::Number::from_f64(number)).filter(|_| number > 0.0) {
        Some(number) => {
            draft.service.cpus = Some(number);
            cx.account.take(at, "cpus", "");
        }
        None if number == 0.0 => cx.account.take(at, "", "0 is not a limit, as without the key"),
        None => return Err(cx.wrong(at, "expected a number of processors")),
    }
    Ok(())
}

pub(crate) fn pids(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let Some(limit) = cx.number::<i64>(at)? else { return Ok(()) };
    let to = if limit < 0 {
        draft.option("--pids-limit", "-1")
    } else {
        draft.service.pids_limit = Some(limit);
        "pidsLimit".to_owned()
    };
    cx.account.take(at, to, "");
    Ok(())
}

fn replicas(cx: &mut ImportContext<'_>, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    match cx.number::<u32>(at)? {
        Some(1) => cx.account.take(at, "one container", ""),
        Some(_) => cx.account.leave(at, "a unit runs one container: give each further one a name of its own"),
        None => {}
    }
    Ok(())
}

fn devices(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    for (_, item) in at.children() {
        if let YamlValue::Map(_) = item.node.value {
            let mut parts = Vec::new();
            for key in ["source", "target", "permissions"] {
                if let Some(child) = item.get(key) {
                    parts.extend(cx.plain(&child)?);
                    cx.account.take(&child, "devices", "");
                }
            }
            draft.service.devices.push(device(&parts.join(":")));
        } else if let Some(text) = cx.plain(&item)? {
            draft.service.devices.push(device(&text));
            cx.account.take(&item, "devices", "");
        }
    }
    Ok(())
}

/// `/dev/dri:/dev/dri` is `/dev/dri`.
fn device(text: &str) -> String {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [source, target] | [source, target, "rwm"] if source == target && source.starts_with('/') => source.to_owned(),
        _ => text.to_owned(),
    }
}

fn gpus(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    if matches!(at.node.value, YamlValue::List(_)) {
        return at.children().iter().try_for_each(|(_, item)| gpu(cx, draft, item));
    }
    let Some(text) = cx.plain(at)? else { return Ok(()) };
    add_device(draft, format!("nvidia.com/gpu={text}"));
    cx.account.take(at, "devices", CDI);
    Ok(())
}

const CDI: &str = "a CDI name: hardware.nvidia-container-toolkit.enable makes it known";

fn add_device(draft: &mut Draft, device: String) {
    if !draft.service.devices.contains(&device) {
        draft.service.devices.push(device);
    }
}

/// One entry of `deploy.resources.reservations.devices`.
fn gpu(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    let driver = at.get("driver").map(|child| cx.plain(&child)).transpose()?.flatten();
    let capabilities = at.get("capabilities").map(|child| cx.strings(&child)).transpose()?.unwrap_or_default();
    let is_gpu =
        capabilities.is_empty() || capabilities.iter().any(|(_, name)| matches!(name.as_str(), "gpu" | "nvidia"));
    let vendor = match driver.as_deref() {
        None | Some("nvidia" | "") if is_gpu => "nvidia.com/gpu=",
        Some("amd" | "amdgpu") if is_gpu => "amd.com/gpu=",
        Some("cdi") => "",
        _ => {
            cx.account.leave(at, "is a device that Podman has no CDI name for");
            return Ok(());
        }
    };
    let ids: Vec<String> = match (at.get("device_ids"), at.get("count")) {
        (Some(ids), _) => cx.strings(&ids)?.into_iter().map(|(_, id)| id).collect(),
        (None, Some(count)) => match cx.plain(&count)?.as_deref() {
            None | Some("all" | "-1") => vec!["all".to_owned()],
            Some(number) => {
                let number: u32 = number.parse().map_err(|_| cx.wrong(&count, "expected a number or all"))?;
                (0..number.min(64)).map(|n| n.to_string()).collect()
            }
        },
        (None, None) => vec!["all".to_owned()],
    };
    ids.iter().for_each(|id| add_device(draft, format!("{vendor}{id}")));
    for (key, child) in cx.mapping(at)? {
        match key {
            "driver" | "count" | "device_ids" | "capabilities" => {
                let why = if key == "count" { CDI } else { "" };
                cx.account.take(&child, "devices", why);
            }
            _ => cx.account.leave(&child, "CDI has no such option"),
        }
    }
    Ok(())
}

fn ulimits(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    for (name, child) in cx.mapping(at)? {
        let limit = if let YamlValue::Map(_) = child.node.value {
            let mut part = |key: &str| match child.get(key) {
                Some(child) => cx.number::<i64>(&child),
                None => Ok(None),
            };
            let (soft, hard) = (part("soft")?, part("hard")?);
            let (Some(soft), Some(hard)) = (soft.or(hard), hard.or(soft)) else {
                return Err(cx.wrong(&child, "expected a number, or soft and hard"));
            };
            format!("{soft}:{hard}")
        } else {
            let Some(number) = cx.number::<i64>(&child)? else { continue };
            format!("{number}:{number}")
        };
        draft.service.ulimits.insert(name.to_owned(), limit);
        cx.account.take(&child, "ulimits", "");
    }
    Ok(())
}

fn blkio(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    for (key, child) in cx.mapping(at)? {
        match (key, &child.node.value) {
            ("weight", YamlValue::Scalar { .. }) => {
                if let Some(weight) = cx.plain(&child)? {
                    let to = draft.option("--blkio-weight", &weight);
                    cx.account.take(&child, to, "");
                }
            }
            (_, YamlValue::List(_)) => {
                let flag = if key == "weight_device" {
                    "--blkio-weight-device".to_owned()
                } else {
                    format!("--{}", key.replace('_', "-"))
                };
                for (_, item) in child.children() {
                    let part = |key: &str| item.get(key).ok_or_else(|| cx.wrong(&item, "expected path and rate"));
                    let (path, rate) = (part("path")?, part(if key == "weight_device" { "weight" } else { "rate" })?);
                    if let (Some(path), Some(rate)) = (cx.plain(&path)?, cx.plain(&rate)?) {
                        let to = draft.option(&flag, &format!("{path}:{rate}"));
                        cx.account.take(&item, to, "");
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

const SWARM: &str = "is for Swarm, which spreads services over several hosts";

fn deploy(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    for (key, child) in cx.mapping(at)? {
        match key {
            "replicas" => replicas(cx, &child)?,
            "resources" => {
                for (kind, child) in cx.mapping(&child)? {
                    resources(cx, draft, kind == "limits", &child)?;
                }
            }
            "restart_policy" => restart_policy(cx, draft, &child)?,
            "labels" => cx.account.leave(&child, "are labels of a Swarm service, not of its containers"),
            "mode" | "placement" | "update_config" | "rollback_config" | "endpoint_mode" => {
                cx.account.leave(&child, SWARM);
            }
            _ => {}
        }
    }
    Ok(())
}

fn resources(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    limits: bool,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for (key, child) in cx.mapping(at)? {
        match key {
            "cpus" if limits => cpus(cx, draft, &child)?,
            "cpus" => cx.account.leave(&child, "Podman reserves no processors: cpu_shares weighs them"),
            "memory" => {
                let Some(text) = cx.size(&child)? else { continue };
                let to = if limits {
                    draft.service.memory = Some(text);
                    "memory".to_owned()
                } else {
                    draft.option("--memory-reservation", &text)
                };
                cx.account.take(&child, to, "");
            }
            "pids" if limits => pids(cx, draft, &child)?,
            "devices" => child.children().iter().try_for_each(|(_, item)| gpu(cx, draft, item))?,
            "generic_resources" => cx.account.leave(&child, SWARM),
            _ => {}
        }
    }
    Ok(())
}

fn restart_policy(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for (key, child) in cx.mapping(at)? {
        if key != "condition" {
            cx.account.leave(&child, "systemd has its own: RestartSec and StartLimitBurst of the unit");
            continue;
        }
        let restart = match cx.plain(&child)?.as_deref() {
            None => continue,
            Some("none" | "no") => Restart::No,
            Some("on-failure") => Restart::OnFailure,
            Some("any" | "always" | "unless-stopped") => Restart::Always,
            Some(_) => return Err(cx.wrong(&child, "expected none, on-failure or any")),
        };
        // `restart` beside `deploy` is what compose goes by.
        if draft.service.restart.is_some() {
            cx.account.leave(&child, "the service has restart, which comes first");
        } else {
            draft.service.restart = Some(restart);
            cx.account.take(&child, "restart", "");
        }
    }
    if at.get("condition").is_none() && matches!(at.node.value, YamlValue::Map(_)) {
        draft.service.restart.get_or_insert(Restart::Always);
    }
    Ok(())
}
