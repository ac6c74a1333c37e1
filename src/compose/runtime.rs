//! What runs in a container: commands, environment, health, and what is started before.

use super::account::At;
use super::context::{Context, Draft, NOT_COPIED};
use super::import::ImportError;
use super::options::depend;
use super::secrets::{in_arguments, is_secret};
use super::variables::Text;
use super::words;
use super::yaml::Value;
use crate::service::Health;

/// A command: a list, or a string that is split. `None` if it holds a secret, and the key has its row.
fn arguments(cx: &mut Context<'_>, draft: &Draft, at: &At<'_>) -> Result<Option<Vec<String>>, ImportError> {
    let mut texts: Vec<Text> = Vec::new();
    match &at.node.value {
        Value::List(_) => {
            for (_, item) in at.children() {
                texts.push(cx.text(&item)?);
            }
        }
        Value::Scalar { .. } if at.node.is_null() => {}
        Value::Scalar { .. } => texts.push(cx.text(at)?),
        Value::Map(_) => return Err(cx.wrong(at, "expected a string or a list of strings, found a mapping")),
    }
    let whole: Vec<String> = texts.iter().map(|text| text.value.clone()).collect();
    let arguments = if matches!(at.node.value, Value::List(_)) {
        whole
    } else {
        words(&whole.concat()).ok_or_else(|| cx.wrong(at, "has a quote without its end"))?
    };
    let variable = texts.iter().find_map(|text| text.secret.clone());
    if let Some(what) = variable.or_else(|| in_arguments(&arguments)) {
        let file = draft.known.and_then(|known| known.password).map_or_else(
            || "let the program read it from a file below /run/secrets".to_owned(),
            |password| secret_file(draft, password),
        );
        let why = format!("gives a secret, {what}: {NOT_COPIED}; {file}");
        cx.account.leave(at, why);
        return Ok(None);
    }
    texts.iter().for_each(|text| cx.demand(at, text));
    Ok(Some(arguments))
}

pub(super) fn command(cx: &mut Context<'_>, draft: &mut Draft, at: &At<'_>) -> Result<(), ImportError> {
    let Some(mut command) = arguments(cx, draft, at)? else { return Ok(()) };
    if command.is_empty() {
        cx.account.take(at, "", "nothing: the command is that of the image");
        return Ok(());
    }
    let mut why = String::new();
    if let Some(known) = draft.known.filter(|known| known.built) {
        let program = command[0].rsplit('/').next().unwrap_or_default().to_owned();
        if known.script {
            // The image begins with a script that knows the program's name.
            if known.programs.contains(&program.as_str()) {
                known.programs[0].clone_into(&mut command[0]);
            }
        } else if matches!(program.as_str(), "sh" | "bash" | "ash" | "env") {
            cx.account.leave(
                at,
                "runs a shell, and the image that is built has none: use environment, or files that are mounted",
            );
            return Ok(());
        } else if known.programs.contains(&program.as_str()) {
            command.remove(0);
            "without the program, which the image that is built starts by itself".clone_into(&mut why);
        } else {
            "arguments for the program of the image that is built: see that it knows them".clone_into(&mut why);
        }
        if known.name == "llama-cpp" && without_model(&mut command) {
            "without the model: services.ai-stack.models has it, and activeModel.chat says which".clone_into(&mut why);
        }
        if command.is_empty() {
            cx.account.take(at, "", "");
            return Ok(());
        }
    }
    draft.service.command = command;
    cx.account.take(at, "command", why);
    Ok(())
}

/// Takes `--model FILE` away; whether it was there.
fn without_model(command: &mut Vec<String>) -> bool {
    let Some(at) =
        command.iter().position(|word| matches!(word.as_str(), "-m" | "--model") || word.starts_with("--model="))
    else {
        return false;
    };
    let words = if command[at].contains('=') { 1 } else { 2 };
    command.drain(at..command.len().min(at + words));
    true
}

pub(super) fn entrypoint(cx: &mut Context<'_>, draft: &mut Draft, at: &At<'_>) -> Result<(), ImportError> {
    if draft.known.is_some_and(|known| known.built) {
        cx.account.leave(at, "is a program of the upstream image: the one that is built starts its own");
        return Ok(());
    }
    if at.node.is_null() {
        cx.account.take(at, "", "nothing: the entrypoint is that of the image");
        return Ok(());
    }
    if let Some(entrypoint) = arguments(cx, draft, at)? {
        if entrypoint.is_empty() {
            draft.service.extra_options.push("--entrypoint=".to_owned());
            cx.account.take(at, "extraOptions --entrypoint", "");
        } else {
            draft.service.entrypoint = Some(entrypoint);
            cx.account.take(at, "entrypoint", "");
        }
    }
    Ok(())
}

pub(super) fn environment(cx: &mut Context<'_>, draft: &mut Draft, at: &At<'_>) -> Result<(), ImportError> {
    for (item, name, value) in cx.pairs(at)? {
        let known = value.is_some() || cx.variables.contains_key(&name);
        let value = value.or_else(|| cx.variables.get(&name).cloned()).unwrap_or_default();
        // Of a variable that nothing gives here, compose may well have a value.
        let whole = value.required.is_empty() && value.unset.is_empty();
        let given = if whole { value.value.as_str() } else { "given" };
        if is_secret(&name, given) || value.secret.is_some() {
            cx.account.leave(&item, secret_variable(&name, draft));
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

/// Where a service of the AI stack takes its password from.
fn secret_file(draft: &Draft, secret: &str) -> String {
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

pub(super) fn env_file(cx: &mut Context<'_>, draft: &mut Draft, at: &At<'_>) -> Result<(), ImportError> {
    let items = match &at.node.value {
        Value::List(_) => at.children().into_iter().map(|(_, item)| item).collect(),
        _ => vec![at.clone()],
    };
    for item in items {
        let mut required = true;
        let place = match &item.node.value {
            Value::Map(_) => {
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

pub(super) fn labels(cx: &mut Context<'_>, draft: &mut Draft, at: &At<'_>) -> Result<(), ImportError> {
    for (item, name, value) in cx.pairs(at)? {
        let value = value.unwrap_or_default();
        if is_secret(&name, &value.value) {
            cx.account.leave(&item, format!("looks like a secret: {NOT_COPIED}"));
        } else if let Some(value) = cx.open(&item, value) {
            cx.account.take(&item, "labels", "");
            draft.service.labels.insert(name, value);
        }
    }
    Ok(())
}

/// `depends_on` of a service, if it has it. The module waits until a dependency with a health check is healthy, whatever the
/// condition; one without a check is waited for until it has started.
pub(super) fn depends_on(cx: &mut Context<'_>, draft: &mut Draft, service: &At<'_>) -> Result<(), ImportError> {
    let Some(at) = &service.get("depends_on").filter(|at| !at.node.is_null()) else { return Ok(()) };
    let is_map = matches!(at.node.value, Value::Map(_));
    let items = if is_map {
        at.children().into_iter().map(|(key, child)| (child, key.to_owned())).collect()
    } else {
        cx.strings(at)?
    };
    for (item, name) in items {
        let Some(container) = cx.container(&name) else {
            let there = cx.top("services", &name).is_some();
            let why = if there { "was left out by its profile" } else { "is no service of this file" };
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

pub(super) fn health(cx: &mut Context<'_>, draft: &mut Draft, at: &At<'_>) -> Result<(), ImportError> {
    if let Some(known) = draft.known {
        let why =
            format!("services.ai-stack.{} brings its own check, which needs no shell or curl in the image", known.name);
        cx.account.leave(at, why);
        return Ok(());
    }
    let mut health = Health::default();
    let disabled = match at.get("disable") {
        Some(child) => cx.boolean(&child)?.inspect(|_| cx.account.take(&child, "health", "")).unwrap_or(false),
        None => false,
    };
    match at.get("test") {
        Some(test) if !disabled => test_of(cx, draft, &test, &mut health)?,
        Some(test) => cx.account.leave(&test, "the check is disabled"),
        None => {}
    }
    if disabled || (health.command.is_empty() && at.get("test").is_none()) {
        let why = if disabled { "the check is disabled" } else { "there is no test: Podman takes times only with one" };
        if disabled {
            draft.option("--no-healthcheck", "");
        }
        cx.account.sweep(at, why);
        return Ok(());
    }
    for (key, child) in cx.mapping(at)? {
        let field = match key {
            _ if health.command.is_empty() => continue,
            "interval" => &mut health.interval,
            "timeout" => &mut health.timeout,
            "start_period" => &mut health.start_period,
            "start_interval" => {
                cx.account.leave(&child, "Podman 4 has no other interval for the start");
                continue;
            }
            "retries" => {
                health.retries = cx.number(&child)?;
                if health.retries.is_some() {
                    cx.account.take(&child, "health.retries", "");
                }
                continue;
            }
            _ => continue,
        };
        let Some(text) = cx.time(&child)? else { continue };
        *field = Some(text);
        let key = if key == "start_period" { "startPeriod" } else { key };
        cx.account.take(&child, format!("health.{key}"), "");
    }
    if health.command.is_empty() {
        cx.account.sweep(at, "there is no test that it would belong to");
    } else {
        health.on_failure = draft.service.health.take().and_then(|before| before.on_failure);
        draft.service.health = Some(health);
    }
    Ok(())
}

fn test_of(cx: &mut Context<'_>, draft: &mut Draft, at: &At<'_>, health: &mut Health) -> Result<(), ImportError> {
    let is_list = matches!(at.node.value, Value::List(_));
    let shell = |script: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
    let why = "run by a shell, which the image must have";
    let (command, why) = if is_list {
        let Some(mut list) = arguments(cx, draft, at)? else { return Ok(()) };
        match list.first().map(String::as_str) {
            Some("NONE") => {
                let to = draft.option("--no-healthcheck", "");
                cx.account.take(at, to, "");
                return Ok(());
            }
            Some("CMD") if list.len() > 1 => (list.split_off(1), ""),
            Some("CMD-SHELL") if list.len() == 2 => (shell(list.remove(1)), why),
            _ => return Err(cx.wrong(at, "expected NONE, CMD and arguments, or CMD-SHELL and one string")),
        }
    } else {
        let Some(text) = cx.plain(at)? else { return Ok(()) };
        let command = shell(text);
        if let Some(what) = in_arguments(&command) {
            cx.account.leave(at, format!("gives a secret, {what}: {NOT_COPIED}"));
            return Ok(());
        }
        (command, why)
    };
    health.command = command;
    cx.account.take(at, "health.command", why);
    Ok(())
}
