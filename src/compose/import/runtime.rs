//! What a container is given: environment, labels, and what is started before it.

use super::account::PlacedValue;
use super::context::{Draft, ImportContext, NOT_COPIED, private};
use super::options::depend;
use super::taint;
use crate::compose::read::ComposeImportError;
use crate::compose::read::variables::given;
use crate::compose::read::yaml::YamlValue;
use crate::secrets::values::is_secret;

pub(crate) fn environment(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for (item, name, value) in cx.pairs(at)? {
        let known = value.is_some() || given(&cx.variables, &name).is_some();
        let mut value = value.or_else(|| given(&cx.variables, &name).cloned()).unwrap_or_default();
        taint::find(&mut value, &cx.tainted);
        // Compose may have a value for a variable that nothing gives here.
        let whole = value.required.is_empty() && value.unset.is_empty();
        let text = if whole { value.value.as_str() } else { "given" };
        if is_secret(&name, text) || value.secret.is_some() {
            cx.account.leave(&item, secret_variable(&name, draft));
        } else if let Some(variable) = &value.private {
            let how = format!(
                "write {name}=… to a file of the host and name it in environmentFiles, or here, if it is not one"
            );
            cx.account.leave(&item, format!("{}: {how}", private(variable)));
        } else if draft.known.is_some_and(|known| known.built) && is_place_of_upstream(&value.value) {
            let service = &draft.container;
            let why = format!(
                "{} is a place of the upstream image, which the image that is built does not have; see services.ai-stack.accel for GPUs, and services.ai-stack.{service}.container for all else",
                value.value
            );
            cx.account.leave(&item, why);
        } else if known {
            cx.demand(&item, &value);
            cx.account.take(&item, format!("environment.{name}"), "");
            draft.service.environment.insert(name, value.value);
        } else {
            let why = "takes its value from the shell that runs compose, and no file of variables has it";
            cx.account.leave(&item, format!("{name} {why}"));
        }
    }
    Ok(())
}

/// Whether a value is a path that images of distributions have and images of Nix do not: `/usr/share/vulkan/icd.d/…`.
pub(crate) fn is_place_of_upstream(value: &str) -> bool {
    const PLACES: [&str; 7] = ["/usr/", "/lib/", "/lib64/", "/opt/", "/sbin/", "/app/", "/etc/vulkan/"];
    value.split([':', ';']).any(|part| PLACES.iter().any(|place| part.starts_with(place)) && part != "/usr/bin/env")
}

/// Where a service of the AI stack takes its password from.
pub(crate) fn secret_file(draft: &Draft, secret: &str) -> String {
    let service = &draft.container;
    format!("write it to a file, and set services.ai-stack.{service}.container.secrets.{secret} to its path")
}

/// What to do with a secret that is in the environment.
fn secret_variable(name: &str, draft: &Draft) -> String {
    let how = match draft.known.and_then(|known| known.password) {
        Some(password) if name.ends_with("PASSWORD") => secret_file(draft, password),
        _ => format!("write {name}=… to a file of the host and name it in environmentFiles"),
    };
    format!("{name} looks like a secret, and {NOT_COPIED}: {how}")
}

pub(crate) fn env_file(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let items = match &at.node.value {
        YamlValue::List(_) => at.children().into_iter().map(|(_, item)| item).collect(),
        _ => vec![at.clone()],
    };
    for item in items {
        let mut required = true;
        let place = match &item.node.value {
            YamlValue::Map(_) => {
                if let Some(child) = item.get("required") {
                    required = cx.boolean(&child)?.unwrap_or(true);
                    let why = if required { "" } else { "Podman demands every file that it is given" };
                    cx.account.take(&child, "environmentFiles", why);
                }
                if let Some(child) = item.get("format") {
                    cx.account.take(
                        &child,
                        "environmentFiles",
                        "Podman reads NAME=value as it is written, without quotes",
                    );
                }
                item.get("path").ok_or_else(|| cx.wrong(&item, "expected a key 'path'"))?
            }
            _ => item.clone(),
        };
        let Some(text) = cx.plain(&place)? else { continue };
        match cx.host_path(place.node.mark, &text) {
            Ok(path) if !required && !std::path::Path::new(&path).exists() => {
                cx.account.leave(&place, "is not required, and not there");
            }
            Ok(path) => {
                let why = format!("{path}, which Podman reads as NAME=value lines, without quotes and variables");
                cx.account.take(&place, "environmentFiles", why);
                draft.service.environment_files.push(path);
            }
            Err(why) => cx.account.leave(&place, why),
        }
    }
    Ok(())
}

pub(crate) fn labels(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    for (item, name, value) in cx.pairs(at)? {
        let value = value.unwrap_or_default();
        if is_secret(&name, &value.value) {
            cx.account.leave(&item, format!("looks like a secret: {NOT_COPIED}"));
        } else if let Some(value) = cx.open_free(&item, value) {
            cx.account.take(&item, "labels", "");
            draft.service.labels.insert(name, value);
        }
    }
    Ok(())
}

/// `depends_on` of a service, if it has it. The module waits until a dependency with a health check is healthy, whatever the
/// condition; one without a check is waited for until it has started.
pub(crate) fn depends_on(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    service: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let Some(at) = &service.get("depends_on").filter(|at| !at.node.is_null()) else { return Ok(()) };
    let is_map = matches!(at.node.value, YamlValue::Map(_));
    let items = if is_map {
        at.children().into_iter().map(|(key, child)| (child, key.to_owned())).collect()
    } else {
        cx.strings(at)?
    };
    for (item, name) in items {
        let Some(container) = cx.container(&name) else {
            let why = match cx.top("services", &name) {
                Some(service) if service.get("provider").is_some() => "is run by a provider, and not as a container",
                Some(_) => "was left out by its profile",
                None => "is not a service of this file",
            };
            cx.account.leave(&item, format!("{name} {why}"));
            continue;
        };
        depend(draft, &container);
        let children = if is_map { cx.mapping(&item)? } else { Vec::new() };
        let stronger = if cx.checked.contains(&name) {
            format!("{name} has a health check, and is waited for until it is healthy")
        } else {
            String::new()
        };
        if children.is_empty() {
            cx.account.take(&item, "dependsOn", stronger.as_str());
        }
        for (key, child) in children {
            match (key, cx.plain(&child)?.as_deref()) {
                ("condition", Some("service_started")) => cx.account.take(&child, "dependsOn", stronger.as_str()),
                ("condition", Some("service_healthy")) if cx.checked.contains(&name) => {
                    cx.account.take(&child, "dependsOn, which waits until it is healthy", "");
                }
                ("condition", Some("service_healthy")) => {
                    let why = format!("{name} has no health check here, and is waited for until it has started");
                    cx.account.take(&child, "dependsOn", why);
                }
                ("condition", Some("service_completed_successfully")) => {
                    let why = format!(
                        "{name} is started before; nothing waits until it has ended: make it a unit of its own"
                    );
                    cx.account.take(&child, "dependsOn", why);
                }
                ("condition", _) => {
                    return Err(
                        cx.wrong(&child, "expected service_started, service_healthy or service_completed_successfully")
                    );
                }
                ("restart", _) => {
                    cx.account.leave(&child, "a unit is restarted when its own image or configuration changes");
                }
                ("required", Some("true")) => cx.account.take(&child, "dependsOn", ""),
                ("required", _) => {
                    cx.account.take(&child, "dependsOn", format!("{name} is taken over, and so it is there"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
