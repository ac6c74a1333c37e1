//! Health checks.

use std::collections::BTreeSet;

use super::account::PlacedValue;
use super::commands::{checked, hide, in_script, needs, words_of};
use super::context::{Draft, ImportContext};
use crate::compose::read::ComposeImportError;
use crate::compose::read::yaml::YamlValue;
use crate::spec::service::{ServiceHealth, cannot_fail};

pub(crate) fn health(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    if let Some(known) = draft.known {
        let why =
            format!("services.ai-stack.{} brings its own check, which needs no shell or curl in the image", known.name);
        cx.account.leave(at, why);
        return Ok(());
    }
    let mut health = ServiceHealth::default();
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

/// Says where the check does not fit what the command has become: another port than the check asks, or a password that is
/// left out.
pub(crate) fn fits(cx: &mut ImportContext<'_>, draft: &Draft, service: &PlacedValue<'_>) {
    if let Some(known) = draft.known.filter(|known| known.built) {
        let asked = known.ports[0];
        let of_command = port_of(&draft.service.command).map(|port| ("command", port));
        let host = draft.service.environment.get("OLLAMA_HOST").and_then(|host| host.rsplit(':').next()?.parse().ok());
        if let Some((key, port)) =
            of_command.or(host.map(|port| ("environment", port))).filter(|(_, port)| *port != asked)
        {
            let why = format!(
                "its check asks port {asked}, and this says {port}: leave the port out and publish it as {port}:{asked}, or set \
                 services.ai-stack.{}.container.health.command",
                known.name
            );
            let at = service.get(key);
            let at = if key == "environment" { at.map(|at| at.get("OLLAMA_HOST").unwrap_or(at)) } else { at };
            at.into_iter().for_each(|at| cx.account.add(&at, &why));
        }
    }
    let takes_secret =
        draft.service.health.as_ref().is_some_and(|health| health.command.iter().any(|word| word.contains(":?}")));
    if draft.lost_secret
        && takes_secret
        && let Some(test) = service.get("healthcheck").and_then(|check| check.get("test"))
    {
        cx.account.add(&test, "it fails until the program has that password again, which its command has no more");
    }
}

/// The port that a program is told to listen on.
fn port_of(command: &[String]) -> Option<u16> {
    let number = |word: &str| word.trim_matches('"').parse::<u16>().ok();
    command.iter().enumerate().find_map(|(n, word)| match word.as_str() {
        "-p" | "--port" => number(command.get(n + 1)?),
        word => number(word.strip_prefix("--port=").or_else(|| word.strip_prefix("port="))?),
    })
}

fn test_of(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
    health: &mut ServiceHealth,
) -> Result<(), ComposeImportError> {
    let shell = |script: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), in_script(script)];
    let by_shell = "run by a shell, which the image must have";
    let (command, why, secrets) = if matches!(at.node.value, YamlValue::List(_)) {
        let found = words_of(cx, at)?;
        match found.words.first().map(String::as_str) {
            Some("NONE") => {
                let to = draft.option("--no-healthcheck", "");
                cx.account.take(at, to, "");
                return Ok(());
            }
            Some("CMD") if found.words.len() > 1 => (checked(&found.words[1..]), "", found.secrets),
            Some("CMD-SHELL") if found.words.len() == 2 => (shell(&found.words[1]), by_shell, found.secrets),
            _ => return Err(cx.wrong(at, "expected NONE, CMD and arguments, or CMD-SHELL and one string")),
        }
    } else {
        let text = cx.hiding(at)?;
        cx.demand(at, &text);
        let mut secrets: BTreeSet<String> = text.hidden.clone().unwrap_or_default();
        let mut command = ["/bin/sh".to_owned(), "-c".to_owned(), text.value];
        hide(cx, &mut command, &mut secrets);
        (shell(&command[2]), by_shell, secrets)
    };
    if cannot_fail(&command) {
        cx.account.leave(
            at,
            "is a check that cannot fail, so that a container which does nothing would count as healthy: ask the program something, or leave it out",
        );
        return Ok(());
    }
    health.command = command;
    let why = if secrets.is_empty() { why.to_owned() } else { needs(&secrets) };
    cx.account.take(at, "health.command", why);
    Ok(())
}
