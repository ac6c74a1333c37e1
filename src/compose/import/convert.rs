//! One service: which part of the import each of its keys goes to.

use super::account::PlacedValue;
use super::context::{Draft, ImportContext};
use super::{ComposeImportError, commands, health, network, options, resources, runtime, storage};
use crate::oci::reference::is_floating;
use crate::registry::location::Location;
use crate::spec::service::{OnFailure, Restart, is_host_name, seconds};

/// Converts all keys of a service that is taken over.
pub(crate) fn service(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    // What these two mean depends on others.
    let (late, early): (Vec<_>, Vec<_>) =
        cx.mapping(at)?.into_iter().partition(|(key, _)| matches!(*key, "command" | "container_name" | "deploy"));
    for (key, child) in early.into_iter().chain(late) {
        // These say something when they are there with nothing in them.
        if child.node.is_null() && !matches!(key, "command" | "entrypoint") {
            cx.account.leave(&child, "has no value");
            continue;
        }
        key_of(cx, draft, key, &child)?;
    }
    if let Some(known) = draft.known {
        // The module has these already, and a list has what both say.
        draft.service.tmpfs.retain(|place| place != "/tmp");
        draft.service.no_new_privileges = None;
        draft.service.cap_drop.retain(|name| !name.eq_ignore_ascii_case("all"));
        if known.name == "llama-cpp" {
            draft.comment("", "Serves services.ai-stack.activeModel.chat, one of services.ai-stack.models.");
        }
    }
    let image = at.get("image").filter(|image| !image.node.is_null());
    if draft.known.is_none() && image.is_none() {
        draft.service.image = format!("localhost/{}-{}", cx.project, draft.name);
        let (project, name) = (&cx.project, &draft.name);
        draft.comment(
            "image",
            format!("compose builds it as {project}-{name}: build it with windlass, and put its name here"),
        );
    }
    if draft.known.is_none() && draft.service.restart.is_none() && !cx.ours {
        draft.service.restart = Some(Restart::No);
        draft.comment("restart", "compose restarts nothing that does not ask for it");
    }
    if draft.service.health.as_ref().is_some_and(|health| health.command.is_empty()) {
        draft.service.health = None;
    }
    health::fits(cx, draft, at);
    network::default_network(cx, draft, at)?;
    network::bind_ports(cx, draft, at);
    Ok(())
}

fn key_of(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    key: &str,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    match key {
        "image" => image(cx, draft, at),
        "command" => commands::command(cx, draft, at),
        "entrypoint" => commands::entrypoint(cx, draft, at),
        "environment" => runtime::environment(cx, draft, at),
        "env_file" => runtime::env_file(cx, draft, at),
        "healthcheck" => health::health(cx, draft, at),
        "labels" => runtime::labels(cx, draft, at),
        // Comes last, when it is known which services have a health check.
        "depends_on" => Ok(()),
        "volumes" => storage::volumes(cx, draft, at),
        "tmpfs" => storage::tmpfs(cx, draft, at),
        "secrets" => storage::secrets(cx, draft, at),
        "configs" => storage::configs(cx, draft, at),
        "volumes_from" => storage::volumes_from(cx, draft, at),
        "ports" => network::ports(cx, draft, at),
        "networks" => network::networks(cx, draft, at),
        "network_mode" => network::mode(cx, draft, at),
        "extra_hosts" => network::extra_hosts(cx, draft, at),
        "links" => network::links(cx, draft, at),
        "devices" | "gpus" | "deploy" | "ulimits" | "scale" | "blkio_config" => resources::key(cx, draft, key, at),
        "container_name" => network::container_name(cx, draft, at),
        "build" => {
            cx.account
                .leave(at, "compose builds the image from a Dockerfile: build it with windlass, or pin one by digest");
            Ok(())
        }
        "profiles" => {
            cx.strings(at)?;
            cx.account.take(at, "a profile that was asked for", "");
            Ok(())
        }
        "extends" => {
            cx.account.take(at, "the keys of the other service", "put together with those that are here");
            Ok(())
        }
        "x-windlass" if cx.ours => ours(cx, draft, at),
        key if key.starts_with("x-") => {
            cx.account.leave(at, "an extension field, which compose ignores");
            Ok(())
        }
        key => scalar(cx, draft, key, at),
    }
}

/// Keys with one value that the description has too, and those that are options of `podman run`.
fn scalar(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    key: &str,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let built = draft.known.is_some_and(|known| known.built);
    match key {
        "user" if built => {
            let name = draft.container.clone();
            cx.account.leave(at, format!("the image is built, with a user of its own; see services.ai-stack.{name}"));
        }
        "working_dir" if built => {
            cx.account.leave(at, "is a place of the upstream image: the one that is built has others");
        }
        "user" | "working_dir" | "hostname" | "stop_signal" => {
            let Some(text) = cx.plain(at)? else { return Ok(()) };
            if key == "hostname" && !is_host_name(&text) {
                cx.account.leave(at, format!("{text:?} is not the name of a host"));
                return Ok(());
            }
            let (field, to) = match key {
                "user" => (&mut draft.service.user, "user"),
                "working_dir" => (&mut draft.service.working_dir, "workingDir"),
                "hostname" => (&mut draft.service.hostname, "hostname"),
                _ => (&mut draft.service.stop_signal, "stopSignal"),
            };
            *field = Some(text);
            cx.account.take(at, to, "");
        }
        "mem_limit" | "shm_size" => {
            let Some(size) = cx.size(at)? else { return Ok(()) };
            let (field, to) = match key {
                "mem_limit" => (&mut draft.service.memory, "memory"),
                _ => (&mut draft.service.shm_size, "shmSize"),
            };
            *field = Some(size);
            cx.account.take(at, to, "");
        }
        "cpus" => resources::cpus(cx, draft, at)?,
        "pids_limit" => resources::pids(cx, draft, at)?,
        "read_only" | "stop_grace_period" if draft.known.is_some() => {
            let own = if key == "read_only" { "readOnly" } else { "stopTimeout" };
            cx.account.leave(
                at,
                format!("the AI stack says what is right for its image; container.{own} with lib.mkForce sets another"),
            );
        }
        "read_only" | "privileged" | "init" => {
            let Some(value) = cx.boolean(at)? else { return Ok(()) };
            let (field, to) = match key {
                "read_only" => (&mut draft.service.read_only, "readOnly"),
                "privileged" => (&mut draft.service.privileged, "privileged"),
                _ => (&mut draft.service.init, "init"),
            };
            *field = Some(value);
            let why =
                if key == "privileged" && value { "all of root's power: think again whether it is needed" } else { "" };
            cx.account.take(at, to, why);
        }
        "cap_add" | "cap_drop" => {
            for (item, text) in cx.strings(at)? {
                let (list, to) = match key {
                    "cap_add" => (&mut draft.service.cap_add, "capAdd"),
                    _ => (&mut draft.service.cap_drop, "capDrop"),
                };
                list.push(text);
                cx.account.take(&item, to, "");
            }
        }
        "restart" => restart(cx, draft, at)?,
        "stop_grace_period" => {
            let Some(text) = cx.plain(at)? else { return Ok(()) };
            let time = seconds(&text).ok_or_else(|| cx.wrong(at, "expected a time like 10s or 1m30s"))?;
            draft.service.stop_timeout = Some(time);
            cx.account.take(at, "stopTimeout", if text.ends_with("ms") { "in whole seconds" } else { "" });
        }
        "pull_policy" => {
            let Some(text) = cx.plain(at)? else { return Ok(()) };
            if text == "never" {
                cx.account.take(at, "pull = \"never\" in every unit", "");
            } else {
                cx.account.leave(at, "a unit never pulls: what it runs was built or pinned, and loaded before");
            }
        }
        _ => options::key(cx, draft, key, at)?,
    }
    Ok(())
}

fn image(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    let Some(text) = cx.plain(at)? else { return Ok(()) };
    let floating = is_floating(&text);
    if let Some(known) = draft.known {
        let to = format!("services.ai-stack.{}", known.name);
        let why = match (known.built, floating) {
            (true, _) => "built from packages: the version is theirs",
            (false, true) => "pinned by digest; the tag that was here floats",
            (false, false) => "pinned by digest",
        };
        cx.account.take(at, to, why);
        return Ok(());
    }
    draft.service.image.clone_from(&text);
    if let Some(name) = whole_name(&text).and_then(|whole| cx.pinned.images.get(&whole)) {
        draft.pin = Some(name.clone());
        cx.account.take(at, "image", format!("pinned: {name} of {}", cx.pinned.lock));
        return Ok(());
    }
    if cx.ours {
        cx.account.take(at, "image", "");
    } else if floating {
        draft.comment(
            "image",
            "A floating tag: it names whatever was pushed last. Pin it by digest, or build the image.",
        );
        cx.account.take(at, "image", "a floating tag: pin it by digest, or build the image");
    } else {
        draft.comment("image", "Must be an image that is built or pinned by digest: nothing is pulled when it starts.");
        cx.account.take(at, "image", "must be built or pinned: nothing is pulled when it starts; `windlass upstream import` pins it for this import");
    }
    Ok(())
}

/// A reference with its registry and its tag, as a lock has it.
pub(crate) fn whole_name(image: &str) -> Option<String> {
    let image = image.trim();
    image.parse::<Location>().ok().map(|location| location.to_string())
}

fn restart(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    let Some(text) = cx.plain(at)? else { return Ok(()) };
    if text.is_empty() {
        cx.account.leave(at, "has no value");
        return Ok(());
    }
    let (kind, attempts) = text.split_once(':').map_or((text.as_str(), None), |(kind, n)| (kind, Some(n)));
    let (restart, why) = match kind {
        "always" => (Restart::Always, ""),
        "unless-stopped" => (Restart::Always, "always: systemd remembers by itself what was stopped"),
        "on-failure" if attempts.is_some() => {
            (Restart::OnFailure, "on-failure: systemd counts restarts in a time, not in all")
        }
        "on-failure" => (Restart::OnFailure, ""),
        "no" | "false" | "never" => (Restart::No, ""),
        _ => return Err(cx.wrong(at, "expected \"no\", always, on-failure or unless-stopped")),
    };
    draft.service.restart = Some(restart);
    cx.account.take(at, "restart", why);
    Ok(())
}

/// What `windlass compose export` keeps for which compose has no key.
fn ours(cx: &mut ImportContext<'_>, draft: &mut Draft, at: &PlacedValue<'_>) -> Result<(), ComposeImportError> {
    for (key, child) in cx.mapping(at)? {
        match key {
            "autoStart" => {
                draft.service.auto_start = cx.boolean(&child)?;
                cx.account.take(&child, "autoStart", "");
            }
            "onFailure" => {
                let action = match cx.plain(&child)?.as_deref() {
                    Some("none") => OnFailure::None,
                    Some("kill") => OnFailure::Kill,
                    Some("restart") => OnFailure::Restart,
                    Some("stop") => OnFailure::Stop,
                    _ => return Err(cx.wrong(&child, "expected none, kill, restart or stop")),
                };
                // `healthcheck` may come later.
                draft.service.health.get_or_insert_default().on_failure = Some(action);
                cx.account.take(&child, "health.onFailure", "");
            }
            "extraOptions" => {
                let options: Vec<String> = cx.strings(&child)?.into_iter().map(|(_, option)| option).collect();
                draft.service.extra_options.extend(options);
                cx.account.take(&child, "extraOptions", "");
            }
            _ => {}
        }
    }
    Ok(())
}
