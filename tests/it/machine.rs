//! Machines and homes, evaluated from modules, and what they are made of as text.
//!
//! The module system is tests/nixpkgs/lib, or nixpkgs' own where NIXPKGS_LIB names it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::nix::{eval, root, try_eval};

/// What all changes are made to, as modules: `SHOP` for NixOS and home-manager with containers of one's own, `STACK` with
/// the AI stack.
pub(crate) const SHOP: &str = "[ windlass shop ]";
pub(crate) const SHOP_HOME: &str = "[ home shop ]";
pub(crate) const STACK: &str = "[ windlass stack services ]";
pub(crate) const STACK_HOME: &str = "[ home stack services ]";

/// What an expression needs around it: the modules, and `nixos` and `home_manager` that evaluate them.
pub(crate) fn with_modules(expression: &str) -> String {
    let root = root().display();
    let lib = std::env::var("NIXPKGS_LIB").unwrap_or_else(|_| format!("{root}/tests/nixpkgs/lib"));
    format!(
        "let lib = import {lib}; evaluate = import {root}/tests/modules {{ inherit lib pkgs; }}; \
         view = all: removeAttrs all [ \"config\" ]; \
         windlass = {root}/nix/modules/windlass.nix; home = {root}/nix/modules/home.nix; stack = {root}/nix/modules/ai-stack.nix; \
         shop = {root}/tests/modules/machine.nix; services = {root}/tests/modules/services.nix; in {expression}"
    )
}

/// Machines under NixOS, or homes under home-manager, of these modules, once with each of the others added.
pub(crate) fn evaluated<const N: usize>(base: &str, changes: [&str; N]) -> [Value; N] {
    let under = if base.starts_with("[ home ") { "home" } else { "nixos" };
    let changes: Vec<String> = changes.iter().map(|change| format!("({change})")).collect();
    let list = eval(&with_modules(&format!(
        "map (change: view (evaluate.{under} ({base} ++ [ change ]))) [ {} ]",
        changes.join(" ")
    )));
    serde_json::from_value::<Vec<Value>>(list).unwrap().try_into().unwrap()
}

/// Why a machine with this module cannot be evaluated.
pub(crate) fn refused(base: &str, change: &str) -> String {
    try_eval(&with_modules(&format!("view (evaluate.nixos ({base} ++ [ ({change}) ]))"))).unwrap_err()
}

/// Names and texts of one kind of files.
pub(crate) fn texts<'a>(machine: &'a Value, kind: &str) -> Vec<(&'a str, &'a str)> {
    machine[kind].as_object().unwrap().iter().map(|(name, text)| (name.as_str(), text.as_str().unwrap())).collect()
}

/// The lines of a unit that begin with that key.
pub(crate) fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The units of which two machines have not the same.
pub(crate) fn changed(a: &Value, b: &Value) -> Vec<String> {
    let names = |machine: &Value| machine["units"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    names(a).union(&names(b)).filter(|name| a["units"][*name] != b["units"][*name]).cloned().collect()
}

/// What two machines or homes have not the same, of all that they are made of.
pub(crate) fn differences(a: &Value, b: &Value) -> Vec<String> {
    let mut all = vec![];
    for (kind, parts) in a.as_object().unwrap() {
        let Some(parts) = parts.as_object().filter(|_| kind != "scripts") else { continue };
        let names: BTreeSet<&String> = parts.keys().chain(b[kind].as_object().unwrap().keys()).collect();
        all.extend(
            names.into_iter().filter(|name| parts.get(*name) != b[kind].get(name)).map(|name| format!("{kind} {name}")),
        );
    }
    for (one, other) in a["activation"].as_array().unwrap().iter().zip(b["activation"].as_array().unwrap()) {
        all.extend((one != other).then(|| format!("activation {}", one["name"].as_str().unwrap())));
    }
    all
}

/// How many containers it runs: of each it is checked that it never pulls, and of each unit that it waits for no network.
pub(crate) fn containers_without_a_network(machine: &Value) -> usize {
    let mut containers = 0;
    for kind in ["units", "userUnits", "etc", "files"].into_iter().filter(|kind| machine[kind].is_object()) {
        for (name, text) in texts(machine, kind) {
            assert!(!text.contains("network-online.target"), "{name}: {text}");
            if name.ends_with(".container") {
                containers += 1;
                assert_eq!(values(text, "Pull"), ["never"], "{name}: {text}");
            }
        }
    }
    for (name, scripts) in machine["scripts"].as_object().into_iter().flatten() {
        for script in scripts.as_object().unwrap().values() {
            let script = script.as_str().unwrap();
            assert!(!script.contains(" pull ") && !script.contains("podman load"), "{name}: {script}");
            if script.contains("--name=") {
                containers += 1;
                assert_eq!(script.matches("--pull ").count(), 1, "{name}: {script}");
                assert!(script.contains("\n  --pull never \\\n"), "{name}: {script}");
            }
        }
    }
    containers
}

/// What a machine or a home is made of, without what NixOS makes anyway: units with their scripts, files, and what runs at
/// activation.
pub(crate) fn page(machine: &Value) -> String {
    let mut page = String::new();
    let mut part = |title: &str, text: &str| writeln!(page, "──── {title}\n{}", text.trim_end()).unwrap();
    for kind in ["units", "userUnits", "etc", "tmpfiles", "files"].into_iter().filter(|kind| machine[kind].is_object())
    {
        for (name, text) in texts(machine, kind) {
            if name.starts_with("podman-prune")
                || ["podman.service", "podman.socket"].contains(&name)
                || name.ends_with("containers.conf")
            {
                continue;
            }
            part(&if matches!(kind, "units" | "files") { name.to_owned() } else { format!("{kind} {name}") }, text);
            let service = name.strip_suffix(".service").filter(|_| kind == "units").unwrap_or_default();
            for (job, script) in machine["scripts"][service].as_object().into_iter().flatten() {
                part(&format!("{name} {job}"), script.as_str().unwrap());
            }
        }
    }
    for step in machine["activation"].as_array().unwrap() {
        part(&format!("activation {}", step["name"].as_str().unwrap()), step["text"].as_str().unwrap());
    }
    page
}

/// Hashes and versions change with the program under test and with the packages; the search path is only packages.
pub(crate) fn assert_page(name: &str, page: &str) {
    insta::with_settings!({ filters => vec![
        (r"/nix/store/[0-9a-z]{32}-([a-z+-]*[a-z])(-[0-9][0-9.]*)?", "/nix/store/<hash>-$1"),
        (r"(localhost/[a-z/-]+:)[0-9a-z]{32}", "$1<tag>"),
        (r"sha256=[0-9a-f]{64}|(Quadlet=)[0-9a-f]{64}", "$1<sha256>"),
        (r#"Environment="PATH=[^"]*""#, r#"Environment="PATH=…""#),
    ] }, { insta::assert_snapshot!(name, page) });
}

/// The assertions that failed, or the warnings, of each machine.
pub(crate) fn messages(machine: &Value, kind: &str) -> Vec<String> {
    let list = machine[kind].as_array().unwrap();
    list.iter().map(|message| message.as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

pub(crate) fn expect<const N: usize>(base: &str, kind: &str, cases: [(&str, &str); N]) {
    for ((change, sentence), machine) in cases.iter().zip(evaluated(base, cases.map(|(change, _)| change))) {
        let found = messages(&machine, kind);
        assert_eq!(found.len(), 1, "{change}: {found:?}");
        assert!(found[0].contains(sentence), "{change}: {found:?}");
        let other = if kind == "warnings" { "assertions" } else { "warnings" };
        assert_eq!(machine[other], json!([]), "{change}");
    }
}
