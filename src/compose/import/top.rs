//! The top level of a compose file beside its services.

use super::ComposeImportError;
use super::account::PlacedValue;
use super::context::ImportContext;
use super::networks::network;
use super::storage::{real_name, scalar};
use crate::compose::read::include::is_remote;
use crate::compose::read::yaml::YamlDocument;

/// Gives every key of the top level but `services` its row; after the services, so that it is known what they use.
pub(crate) fn account(cx: &mut ImportContext<'_>, document: &YamlDocument) -> Result<(), ComposeImportError> {
    let root = cx.root.clone();
    for (key, child) in root.children() {
        match key {
            "services" => {}
            "version" => cx.account.leave(&child, "compose ignores it"),
            "name" => {
                cx.account.take(&child, format!("the beginning of names of volumes and networks, {}_", cx.project), "");
            }
            "volumes" => section(cx, "volumes", &child, volume),
            "networks" => networks(cx, &child)?,
            "secrets" | "configs" => section(cx, key, &child, file),
            "include" => {
                let mut here = false;
                for (_, item) in child.children() {
                    let path = item.get("path").unwrap_or_else(|| item.clone());
                    let remote = scalar(&cx.variables, path.node).is_some_and(|path| is_remote(&path));
                    if remote {
                        cx.account.leave(&item, "is on a server, and is not read: get it, and name the file");
                    } else {
                        here = true;
                        cx.account.take(&item, "the services, networks, volumes and secrets of that file", "");
                    }
                }
                if !here && child.children().is_empty() {
                    cx.account.leave(&child, "has nothing in it");
                }
            }
            "models" => cx.account.leave(&child, "are for Docker Model Runner; see services.ai-stack.<service>.models"),
            "x-windlass" => cx.account.take(&child, "how the file is read", ""),
            _ if key.starts_with("x-") && document.referred.get(key) == Some(&true) => {
                cx.account.take(&child, "the services that refer to its anchors", "");
            }
            _ if key.starts_with("x-") => {
                cx.account.leave(&child, "an extension field, which compose ignores and nothing here refers to");
            }
            _ => cx.account.leave(&child, "is not a key that windlass knows"),
        }
    }
    Ok(())
}

fn networks(cx: &mut ImportContext<'_>, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    let children = at.children();
    if children.is_empty() {
        cx.account.leave(at, "has nothing in it");
    }
    for (name, child) in children {
        if cx.used.contains(&format!("networks.{name}")) {
            network(cx, name, &child)?;
        } else {
            cx.account.leave(&child, "no service that is taken over uses it");
        }
    }
    Ok(())
}

type One = fn(&mut ImportContext<'_>, &str, &PlacedValue<'_>);

fn section(cx: &mut ImportContext<'_>, section: &str, at: &PlacedValue<'_>, one: One) {
    let children = at.children();
    if children.is_empty() {
        cx.account.leave(at, "has nothing in it");
    }
    for (name, child) in children {
        if cx.used.contains(&format!("{section}.{name}")) {
            one(cx, name, &child);
        } else {
            cx.account.leave(&child, "no service that is taken over uses it");
        }
    }
}

fn volume(cx: &mut ImportContext<'_>, name: &str, at: &PlacedValue<'_>) {
    let real = real_name(cx, Some(at.node), name);
    let driver = at.node.get("driver").and_then(|entry| scalar(&cx.variables, &entry.value));
    let bind = at
        .node
        .get("driver_opts")
        .and_then(|entry| entry.value.get("o"))
        .and_then(|entry| scalar(&cx.variables, &entry.value));
    let binds = bind.is_some_and(|options| options.split(',').any(|word| matches!(word, "bind" | "rbind")));
    let children = at.children();
    for (key, child) in &children {
        match *key {
            "name" | "external" => cx.account.take(child, format!("volume {real}"), ""),
            "driver" if driver.as_deref() == Some("local") => cx.account.take(child, "", ""),
            "driver_opts" if binds => {
                cx.account.take(child, "volumes", "its directory is mounted where the volume was");
            }
            "driver" | "driver_opts" | "labels" => {
                let why = format!(
                    "a volume is made when it is first used, without options: make it before, with `podman volume create … {real}`"
                );
                cx.account.leave(child, why);
            }
            _ => {}
        }
    }
    if children.is_empty() {
        cx.account.take(at, format!("volume {real}"), "");
    }
    cx.account.sweep(at, "is not a key that windlass knows");
}

fn file(cx: &mut ImportContext<'_>, _: &str, at: &PlacedValue<'_>) {
    for (key, child) in at.children() {
        match key {
            "file" => match scalar(&cx.variables, child.node).map(|text| cx.host_path(child.node.mark, &text)) {
                Some(Ok(path)) => cx.account.take(&child, "the file of the host", path),
                Some(Err(why)) => cx.account.leave(&child, why),
                None => cx.account.leave(&child, "is not a path"),
            },
            "external" | "name" => cx.account.take(&child, "a secret of Podman", ""),
            "environment" => {
                cx.account.leave(&child, "comes from a variable of the shell: write it to a file of the host");
            }
            "content" => cx.account.leave(&child, "write it to a file of the host, and mount that"),
            "labels" | "driver" | "driver_opts" | "template_driver" => cx.account.leave(&child, "is for Swarm"),
            _ => {}
        }
    }
    cx.account.sweep(at, "is not a key that windlass knows");
}
