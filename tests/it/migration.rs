//! What people write who come from dockerTools and nix2container: each argument works, or the error says what to write.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::nix::{eval, root, try_eval};

/// The arguments that are not taken, by function: what the error says, and whether there is a value that is passed over.
fn table() -> Value {
    eval(&format!(
        "builtins.mapAttrs (_: builtins.mapAttrs (_: a: {{ inherit (a) says; fine = a ? fine; works = a.works or null; }})) (import {}/nix/lib/migration.nix)",
        root().display()
    ))
}

/// An argument of the function, and what else it needs.
fn call(function: &str, argument: &str, value: &str) -> String {
    let result = if function == "buildImage" { "imageRef" } else { "drvPath" };
    format!("(w.{function} {{ name = \"a\"; {argument} = {value}; }}).{result}")
}

#[test]
fn an_argument_that_is_not_taken_says_what_to_write_instead() {
    let table = table();
    let mut count = 0;
    for (function, arguments) in table.as_object().unwrap() {
        for (argument, told) in arguments.as_object().unwrap() {
            count += 1;
            let error = match try_eval(&call(function, argument, "\"other\"")) {
                Ok(value) => panic!("{function}: {argument} gives {value}"),
                Err(error) => error,
            };
            let says = told["says"].as_str().unwrap();
            assert!(error.contains(&format!("{function} a: {argument}: {says}")), "{error}");
        }
    }
    assert!(count > 30, "{count}");
    let error = try_eval(&call("buildImage", "contnets", "[ ]")).unwrap_err();
    assert!(
        error.contains("buildImage a: contnets: there is no such argument; there are: allowSecrets, annotations, "),
        "{error}"
    );
}

#[test]
fn a_value_that_asks_for_nothing_is_passed_over() {
    let plain = eval(&call("buildImage", "maxLayers", "20"));
    let values = [
        ("compressor", "\"none\""),
        ("enableFakechroot", "false"),
        ("extraCommands", "\"\""),
        ("fakeRootCommands", "\"\""),
        ("gid", "0"),
        ("gname", "\"root\""),
        ("includeNixDB", "false"),
        ("includeStorePaths", "true"),
        ("initializeNixDatabase", "false"),
        ("nixGid", "0"),
        ("nixUid", "0"),
        ("pathsToLink", "\"/\""),
        ("runAsRoot", "null"),
        ("uid", "0"),
        ("uname", "\"root\""),
    ];
    for (argument, value) in values {
        assert_eq!(eval(&call("buildImage", argument, value)), plain, "{argument}");
    }
    let fine: BTreeSet<String> = table()["buildImage"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, told)| told["fine"] == true)
        .map(|(argument, _)| argument.clone())
        .collect();
    assert_eq!(fine, values.map(|(argument, _)| argument.to_owned()).into());
    assert_eq!(eval(&call("buildLayer", "reproducible", "true")), eval(&call("buildLayer", "maxLayers", "1")));
}

/// What asks for something, for the arguments that work where there are packages.
fn asking(argument: &str) -> &'static str {
    match argument {
        "extraCommands" | "fakeRootCommands" => r#""mkdir -p data""#,
        "includeNixDB" | "initializeNixDatabase" => "true",
        // Beside what they are about.
        "nixUid" | "nixGid" => "1000; includeNixDB = true",
        "pathsToLink" => r#"[ "/bin" ]"#,
        _ => panic!("{argument}: say what to ask it with"),
    }
}

#[test]
fn each_argument_of_the_table_works_with_packages_or_says_what_to_write() {
    let with_packages = |function: &str, argument: &str, value: &str| {
        let result = if function == "buildImage" { "imageRef" } else { "drvPath" };
        let f = "(import ./nix { inherit pkgs; windlass = bin; })";
        try_eval(&format!("({f}.{function} {{ name = \"a\"; {argument} = {value}; }}).{result}"))
    };
    for (function, arguments) in table().as_object().unwrap() {
        let plain = with_packages(function, "maxLayers", "20").unwrap();
        for (argument, told) in arguments.as_object().unwrap() {
            if told["works"].is_null() {
                let error = with_packages(function, argument, "\"other\"").unwrap_err();
                let says = told["says"].as_str().unwrap();
                assert!(error.contains(&format!("{function} a: {argument}: {says}")), "{error}");
            } else {
                let asked = with_packages(function, argument, asking(argument)).unwrap();
                assert_ne!(asked, plain, "{function}: {argument}");
            }
        }
    }
}

#[test]
fn an_argument_that_both_have_changes_the_image() {
    let plain = eval(&call("buildImage", "deps", "[ ]"));
    for (argument, value) in [
        ("architecture", "\"riscv64\""),
        ("config", r#"{ Cmd = [ "${pkgs.redis}/bin/redis-server" ]; }"#),
        ("contents", "[ pkgs.redis ]"),
        ("contents", "pkgs.redis"),
        ("copyToRoot", "[ pkgs.zlib ]"),
        ("created", "\"1980-01-01T00:00:01Z\""),
        ("fromImage", "w.buildImage { name = \"base\"; }"),
        ("layers", "[ (w.buildLayer { deps = [ pkgs.zlib ]; }) ]"),
        ("maxLayers", "7"),
        (
            "perms",
            r#"[ { path = pkgs.zlib; regex = ".*"; mode = "0755"; uid = 1; gid = 1; uname = "a"; gname = "b"; } ]"#,
        ),
        ("tag", "\"1.0\""),
    ] {
        assert_ne!(eval(&call("buildImage", argument, value)), plain, "{argument}");
    }
}

#[test]
fn the_table_of_the_documentation_is_this_one() {
    let document = std::fs::read_to_string(root().join("docs/migration.md")).unwrap();
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `build")).collect();
    let mut wanted = vec![];
    for (function, arguments) in table().as_object().unwrap() {
        for (argument, told) in arguments.as_object().unwrap() {
            let becomes = match told["works"].as_str() {
                Some(works) => format!("works: {works}"),
                None => told["says"].as_str().unwrap().to_owned(),
            };
            wanted.push(format!("| `{function}` | `{argument}` | {becomes} |"));
        }
    }
    assert_eq!(rows, wanted, "docs/migration.md is made of nix/lib/migration.nix");
}
