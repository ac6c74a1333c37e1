//! What is written for Nix and for YAML, read back by their own readers: every text is what it was.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::compose::import::nix::Set;
use windlass::internals::spec::Spec;

use crate::door::{hostile, many};
use crate::env::{Env, run_ok};
use crate::nix::{nix, root};

#[test]
fn nix_reads_every_name_and_text_as_it_was() {
    many(8, 100, hostile(), |texts| {
        // A text of Nix' has no NUL.
        let texts: Vec<String> = texts.iter().map(|text| text.replace('\0', "")).collect();
        let (mut set, mut expected) = (Set::default(), BTreeMap::new());
        for (n, text) in texts.iter().enumerate() {
            let value = match n % 3 {
                0 => json!(text),
                1 => json!([text, { "a b": text }]),
                _ => json!({ text: [text], "c": { text: null } }),
            };
            let name = if n % 2 == 0 { format!("{n}{text}") } else { format!("a{n}{text}") };
            set.value(&name, value.clone(), std::slice::from_ref(text));
            expected.insert(name, value);
        }
        let env = Env::new();
        let file = env.write("texts.nix", set.text());
        let read = run_ok(nix("nix-instantiate").args(["--eval", "--strict", "--json"]).arg(&file));
        let read: BTreeMap<String, Value> = serde_json::from_str(&read).unwrap();
        assert_eq!(read, expected);
    });
}

#[test]
fn yaml_reads_every_text_of_a_compose_file_as_it_was() {
    // PyYAML, as people's own scripts use it.
    let python = "import sys, json, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1], encoding='utf-8'))))";
    many(4, 60, hostile(), |texts| {
        let env = Env::new();
        env.write(
            "app.json",
            json!({ "kind": "image", "name": "app", "content": { "texts": { "/a": "a" } } }).to_string(),
        );
        env.ok(["build", "app.json"]);
        let service = |text: &str| {
            json!({ "image": "app", "environment": { "A": text }, "labels": { "l": text }, "command": ["x", text],
                "health": { "command": ["/check", text] } })
        };
        let stack =
            |services: Value| json!({ "kind": "stack", "name": "s", "built": [env.path("app")], "services": services });
        // What no container can have, the spec refuses.
        let is_taken = |text: &&String| Spec::from_value(stack(json!({ "s": service(text) }))).is_ok();
        let taken: Vec<&String> = texts.iter().filter(is_taken).collect();
        assert!(taken.len() > 20, "{} of {} are taken", taken.len(), texts.len());
        let services: BTreeMap<String, Value> =
            taken.iter().enumerate().map(|(n, text)| (format!("s{n}"), service(text))).collect();
        env.write("s.json", stack(json!(services)).to_string());
        env.ok(["build", "s.json"]);
        env.ok(["compose", "export", "s", "--output", "compose.yml"]);
        let mut command = Command::new("python3");
        command.args(["-c", python]).arg(env.path("compose.yml")).env("PYTHONPATH", root().join("target/parts/python"));
        let read: Value = serde_json::from_str(&run_ok(&mut command)).unwrap();
        for (n, text) in taken.iter().enumerate() {
            let (found, text) = (&read["services"][format!("s{n}")], text.replace('$', "$$"));
            let written = fs::read_to_string(env.path("compose.yml")).unwrap();
            assert_eq!(found["environment"]["A"], text, "{written}");
            assert_eq!(found["labels"]["l"], text, "{written}");
            assert_eq!(found["command"], json!(["x", text]), "{written}");
            assert_eq!(found["healthcheck"]["test"], json!(["CMD", "/check", text]), "{written}");
        }
    });
}
