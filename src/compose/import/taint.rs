//! What was a secret once is one everywhere in the file: a variable that a password is made of, and the password itself.

use std::collections::BTreeMap;

use crate::compose::read::variables::{ComposeVariables, Text, interpolate, taint};
use crate::compose::read::yaml::{YamlNode, YamlValue};
use crate::secrets::harmless::is_harmless;
use crate::secrets::values::{given, is_secret, url_password, words};

/// Secrets by their values, each with what it was given as.
pub(crate) type Tainted = BTreeMap<String, String>;

/// Shorter values are other things too, so that they are only known when nothing stands beside them.
const LONG: usize = 8;
/// More rounds than variables that are made of each other have.
const ROUNDS: usize = 16;

/// Marks all variables that secrets are made of, and gives the secrets that the file has.
pub(crate) fn spread(root: &YamlNode, variables: &mut ComposeVariables) -> Tainted {
    let mut tainted = Tainted::new();
    let services = match root.get("services").map(|entry| &entry.value.value) {
        Some(YamlValue::Map(services)) => services.iter().map(|entry| &entry.value).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    for _ in 0..ROUNDS {
        let mut is_new = false;
        for service in &services {
            for key in ["environment", "labels", "annotations"] {
                if let Some(entry) = service.get(key) {
                    for (name, raw) in pairs(&entry.value) {
                        is_new |= pair(&name, &raw, variables, &mut tainted);
                    }
                }
            }
            let test = service.get("healthcheck").and_then(|entry| entry.value.get("test"));
            for entry in ["command", "entrypoint"].into_iter().filter_map(|key| service.get(key)).chain(test) {
                is_new |= command(&entry.value, variables, &mut tainted);
            }
        }
        if !is_new {
            break;
        }
    }
    let names = services_of(root);
    tainted.retain(|value, _| value.chars().count() > 3 && !is_harmless(value, &names));
    tainted
}

/// Marks a text that has one of these secrets in it.
pub(crate) fn find(text: &mut Text, tainted: &Tainted) {
    if text.secret.is_none() {
        let is_in = |(value, _): &(&String, &String)| has(&text.value, value);
        text.secret = tainted.iter().find(is_in).map(|(_, what)| what.clone());
    }
}

/// Whether a text has a secret in it.
pub(crate) fn has(text: &str, secret: &str) -> bool {
    text == secret || (secret.len() >= LONG && text.contains(secret))
}

fn services_of(root: &YamlNode) -> std::collections::BTreeSet<String> {
    match root.get("services").map(|entry| &entry.value.value) {
        Some(YamlValue::Map(services)) => services.iter().map(|entry| entry.key.clone()).collect(),
        _ => std::collections::BTreeSet::new(),
    }
}

fn scalar(node: &YamlNode) -> Option<&str> {
    match &node.value {
        YamlValue::Scalar { text, .. } if !node.is_null() => Some(text),
        _ => None,
    }
}

/// Names with their values as they are written.
fn pairs(node: &YamlNode) -> Vec<(String, String)> {
    match &node.value {
        YamlValue::Map(entries) => {
            entries.iter().filter_map(|entry| Some((entry.key.clone(), scalar(&entry.value)?.to_owned()))).collect()
        }
        YamlValue::List(entries) => entries
            .iter()
            .filter_map(|entry| scalar(&entry.value)?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        YamlValue::Scalar { .. } => Vec::new(),
    }
}

fn pair(name: &str, raw: &str, variables: &mut ComposeVariables, tainted: &mut Tainted) -> bool {
    let Ok(text) = interpolate(raw, variables) else { return false };
    if text.value.is_empty() || !(is_secret(name, &text.value) || text.secret.is_some()) {
        return false;
    }
    // By its name all of it is the secret; of an address only the password is.
    let is_whole = is_secret(name, "x1");
    let password = url_password(&text.value).filter(|_| !is_whole);
    let secret = password.unwrap_or(&text.value).to_owned();
    let mut is_new = false;
    if is_whole || password.is_some() {
        tainted.entry(secret).or_insert_with(|| name.to_owned());
    }
    for (at, variable) in names_in(raw) {
        if is_whole || is_password(&raw[..at]) {
            is_new |= taint(variables, variable);
        }
    }
    is_new
}

/// Whether what comes after this is a password: of an address, or of `…;Password=`.
fn is_password(before: &str) -> bool {
    let of_address =
        before.rsplit_once("://").is_some_and(|(_, rest)| rest.contains(':') && !rest.contains(['@', '/']));
    let assigned = before.rsplit([';', '&', '?', ' ', ',']).next().and_then(|last| last.strip_suffix('='));
    of_address || assigned.is_some_and(|name| is_secret(name, "x1"))
}

fn command(node: &YamlNode, variables: &mut ComposeVariables, tainted: &mut Tainted) -> bool {
    let raw: Vec<String> = match &node.value {
        YamlValue::List(entries) => {
            entries.iter().filter_map(|entry| scalar(&entry.value).map(str::to_owned)).collect()
        }
        _ => scalar(node).and_then(words).unwrap_or_default(),
    };
    let plain: Option<Vec<String>> =
        raw.iter().map(|raw| interpolate(raw, variables).ok().map(|text| text.value)).collect();
    let mut is_new = false;
    for found in plain.iter().flat_map(|plain| given(plain)) {
        tainted.entry(found.value.clone()).or_insert_with(|| found.option.clone());
        // A word that is the secret, or ends in it; in a script only those that give it.
        for (at, variable) in names_in(&raw[found.argument]) {
            let value = interpolate(&raw[found.argument][at..], variables).map(|text| text.value).unwrap_or_default();
            if value.starts_with(&found.value) || is_password(&raw[found.argument][..at]) {
                is_new |= taint(variables, variable);
            }
        }
    }
    is_new
}

/// The variables in a text, each with where its `$` is.
fn names_in(raw: &str) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    let mut from = 0;
    while let Some(at) = raw[from..].find('$').map(|at| from + at) {
        let after = &raw[at + 1..];
        from = at + 1;
        if after.starts_with('$') {
            from += 1;
            continue;
        }
        let begin = after.strip_prefix('{').unwrap_or(after);
        let end = begin.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(begin.len());
        if end > 0 {
            names.push((at, &begin[..end]));
        }
    }
    names
}
