//! How two settings differ: configs of images, and services of a stack. Names are told; a value only where no secret can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// One setting that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Setting {
    /// `env`, `label`, `command`, `user`, …
    kind: String,
    /// Which one, of those that have names.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// `added`, `removed` or `changed`.
    state: &'static str,
    /// The value before; only of what is no place for secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    /// The value after.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        write!(f, " {}", self.state)?;
        match (&self.before, &self.after) {
            (None, None) => Ok(()),
            (before, after) => {
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
                write!(f, ": {} → {}", shown(before), shown(after))
            }
        }
    }
}

/// Keys as people call them.
const WORDS: [(&str, &str); 8] = [
    ("Env", "env"),
    ("environment", "env"),
    ("Labels", "label"),
    ("labels", "label"),
    ("Cmd", "command"),
    ("ExposedPorts", "port"),
    ("Volumes", "volume"),
    ("WorkingDir", "working directory"),
];
/// What holds no secret: an account, a place and a signal.
const OPEN: [&str; 6] = ["User", "user", "WorkingDir", "workingDir", "StopSignal", "stopSignal"];

/// What differs between two objects of settings.
pub(super) fn changes(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Setting> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().flat_map(|key| of_key(key, old.get(key), new.get(key))).collect()
}

fn of_key(key: &str, old: Option<&Value>, new: Option<&Value>) -> Vec<Setting> {
    // `null`, an empty list and what is not there are the same to an engine.
    let given = |value: Option<&Value>| value.filter(|value| !is_empty(value)).cloned();
    let (old, new) = (given(old), given(new));
    let word =
        WORDS.iter().find(|(name, _)| *name == key).map_or_else(|| in_words(key), |(_, word)| (*word).to_owned());
    let named = |value: &Option<Value>| value.as_ref().is_none_or(|value| key == "Env" || value.is_object());
    if named(&old) && named(&new) {
        let (old, new) = (by_name(old.as_ref()), by_name(new.as_ref()));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let setting = |name: &String| {
            let state = state(old.get(name), new.get(name))?;
            Some(Setting { kind: word.clone(), name: Some(name.clone()), state, before: None, after: None })
        };
        return names.into_iter().filter_map(setting).collect();
    }
    let Some(state) = state(old.as_ref(), new.as_ref()) else { return Vec::new() };
    let shown = |value: Option<Value>| value.and_then(|value| Some(value.as_str()?.to_owned()));
    let (before, after) = if OPEN.contains(&key) { (shown(old), shown(new)) } else { (None, None) };
    vec![Setting { kind: word, name: None, state, before, after }]
}

fn state<T: PartialEq>(old: Option<&T>, new: Option<&T>) -> Option<&'static str> {
    match (old, new) {
        (None, Some(_)) => Some("added"),
        (Some(_), None) => Some("removed"),
        (old, new) => (old != new).then_some("changed"),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The parts of a value by their names: keys of an object, or `NAME=value` lines.
fn by_name(value: Option<&Value>) -> BTreeMap<String, Value> {
    match value {
        Some(Value::Object(map)) => map.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Some(Value::Array(lines)) => lines
            .iter()
            .filter_map(Value::as_str)
            .map(|line| line.split_once('=').unwrap_or((line, "")))
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect(),
        _ => BTreeMap::new(),
    }
}

/// `StopSignal` and `stopSignal` as `stop signal`.
fn in_words(key: &str) -> String {
    let mut words = String::new();
    for letter in key.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(old: Value, new: Value) -> Vec<String> {
        let object = |value: Value| value.as_object().unwrap().clone();
        changes(&object(old), &object(new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_told_and_values_only_of_what_holds_no_secret() {
        let old = json!({
            "Env": ["PATH=/bin", "TOKEN=hunter2", "GONE=hunter3"], "Cmd": ["redis", "--requirepass", "hunter4"],
            "User": "1000", "Labels": { "a": "hunter5" }, "ExposedPorts": {}, "StopSignal": "SIGTERM",
        });
        let new = json!({
            "Env": ["TOKEN=hunter6", "PATH=/bin", "NEW=hunter7"], "Cmd": ["redis"], "User": "1001",
            "Labels": { "a": "hunter8", "b": "" }, "Entrypoint": ["hunter9"], "ExposedPorts": null, "StopSignal": "SIGTERM",
        });
        assert_eq!(
            told(old.clone(), new),
            [
                "command changed",
                "entrypoint added",
                "env GONE removed",
                "env NEW added",
                "env TOKEN changed",
                "label a changed",
                "label b added",
                "user changed: 1000 → 1001",
            ]
        );
        assert_eq!(told(old.clone(), old), [""; 0], "the order of variables says nothing");
        assert_eq!(told(json!({}), json!({ "stopSignal": "SIGINT" })), ["stop signal added: none → SIGINT"]);
        assert_eq!(told(json!({ "environment": { "A": "1" } }), json!({})), ["env A removed"]);
    }
}
