//! The JSON Schemas of `windlass schema`: every verb has one, and what verbs print and read is what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, verbs};
use crate::lab::Lab;
use crate::nix::root;

/// Reads lines of `{ name, schema, value }`, and says of each value that does not fit where and why.
const VALIDATOR: &str = r"
import sys, json, fastjsonschema
compiled = {}
for line in sys.stdin:
    case = json.loads(line)
    text = json.dumps(case['schema'])
    try:
        if text not in compiled:
            compiled[text] = fastjsonschema.compile(case['schema'], use_default=False)
        compiled[text](case['value'])
    except fastjsonschema.JsonSchemaException as error:
        print(case['name'] + ': ' + str(error)[:300])
";

/// What is wrong with values, by another program's reading of the schemas.
fn complaints(cases: &[(String, Value, Value)]) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", VALIDATOR]).env("PYTHONPATH", root().join("target/parts/schemas"));
    let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = cases
        .iter()
        .map(|(name, schema, value)| format!("{}\n", json!({ "name": name, "schema": schema, "value": value })))
        .collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn schema(name: &str) -> Value {
    let words = [&["schema"], &name.split(' ').collect::<Vec<_>>()[..]].concat();
    serde_json::from_str(&Env::new().ok(words)).unwrap()
}

fn names() -> Vec<String> {
    Env::new().ok(["schema"]).lines().map(str::to_owned).collect()
}

#[test]
fn every_verb_has_a_schema_and_every_change_of_one_is_seen() {
    let mut found = verbs();
    // One prints schemas, and one becomes Podman.
    found.remove("schema");
    found.remove("run");
    let described: BTreeSet<String> =
        names().into_iter().filter(|name| name != "spec" && name != "error" && !name.contains(" --")).collect();
    assert_eq!(described, found);
    // A key that goes away, or means something else, needs another number in `$id`: src/cli/schemas.rs.
    let mut page = String::new();
    for name in names() {
        let schema = schema(&name);
        let id = schema["$id"].as_str().unwrap();
        let bytes = serde_json::to_vec(&keys(&schema)).unwrap();
        writeln!(page, "{id} {}", Digest::of(&bytes).short()).unwrap();
    }
    insta::assert_snapshot!("schemas", page);
}

/// A schema without its words: what a reader of the JSON depends on.
fn keys(schema: &Value) -> Value {
    match schema {
        Value::Object(object) => {
            let kept = object.iter().filter(|(key, value)| !(*key == "description" && value.is_string()));
            kept.map(|(key, value)| (key.clone(), keys(value))).collect::<BTreeMap<_, _>>().into_iter().collect()
        }
        Value::Array(list) => list.iter().map(keys).collect(),
        other => other.clone(),
    }
}

#[test]
fn an_editor_reads_the_schema_of_specs_from_the_docs() {
    let (file, made) = (root().join("docs/spec.schema.json"), Env::new().ok(["schema", "spec"]));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == made,
        "docs/spec.schema.json is not what `windlass schema spec` prints; write it with UPDATE_DOCS=1"
    );
}

#[test]
fn what_is_printed_is_what_the_schemas_say() {
    let lab = Lab::new(true);
    let mut cases = Vec::new();
    let mut printed = |name: &str, arguments: &[&str]| {
        let mut command = lab.windlass(&[arguments, &["--json"]].concat());
        let output = command.env("HOME", lab.env.path("home")).output().unwrap();
        let value: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        cases.push((format!("{name} ({})", arguments.join(" ")), schema(name), value));
    };
    let image = lab.build("app", 1, 5000);
    let spec = format!("{image}.json");
    let closure = ["--closure", &format!("{image}.closure")].map(str::to_owned);
    printed("build", &["build", &spec, "--closure", &closure[1], "--output", "again"]);
    printed("plan", &["plan", &spec, "--closure", &closure[1]]);
    let second = lab.build("app", 2, 6000);
    printed("plan", &["plan", &image]);
    printed("diff", &["diff", &image, &second]);
    printed("inspect", &["inspect", &image]);
    printed("export", &["export", &image, "--output", "app.tar"]);
    printed("load --dry-run", &["load", &image, "--dry-run"]);
    printed("load", &["load", &image]);
    printed("load", &["load", &second]);
    printed("status", &["status"]);
    printed("status", &["status", &image, "--sizes"]);
    printed("verify", &["verify"]);
    printed("verify", &["verify", &second, "--full"]);
    printed("repair", &["repair"]);
    printed("generations", &["generations"]);
    printed("rollback", &["rollback", "--dry-run"]);
    printed("unload", &["unload", "app", "--dry-run"]);
    printed("unload", &["unload", "app"]);
    printed("load", &["load", &second]);
    printed("gc", &["gc", "--keep-generations", "1"]);
    printed("doctor", &["doctor"]);
    printed("model list", &["model", "list"]);
    lab.env.write("compose.yml", "services: { cache: { image: redis:8, mem_limit: 1g, foo: 1 } }\n");
    printed("compose import", &["compose", "import", "compose.yml"]);
    printed("upstream import", &["upstream", "import", "compose.yml", "--state", "s.json"]);
    printed("upstream list", &["upstream", "list", "--state", "s.json"]);
    printed("upstream export", &["upstream", "export", "--state", "s.json"]);
    printed("upstream check", &["upstream", "check", "--state", "s.json"]);
    printed("upstream remove", &["upstream", "remove", "cache"]);
    lab.env.write("tiny.gguf", crate::model_files::gguf("hello", &[64, 32]));
    printed("model inspect", &["model", "inspect", "tiny.gguf"]);
    printed("model add", &["model", "add", "tiny.gguf", "--name", "tiny"]);
    printed("model manifest", &["model", "manifest", "tiny", "--format", "modelpack"]);
    printed("model fetch", &["model", "fetch"]);
    printed("model split", &["model", "split", "tiny.gguf", "--output", "shards"]);
    printed("model list", &["model", "list"]);
    printed("model check", &["model", "check"]);
    printed("model update", &["model", "update"]);
    printed("model add --dry-run", &["model", "add", "tiny.gguf", "--dry-run"]);
    printed("lint", &["lint"]);
    printed("model remove", &["model", "remove", "tiny"]);
    printed("error", &["inspect", "nothing"]);
    printed("error", &["inspect", "--nothing"]);
    assert_eq!(complaints(&cases), "");
    // The program does find what does not fit.
    let wrong = json!({ "images": 3 });
    assert!(complaints(&[("load".to_owned(), schema("load"), wrong)]).starts_with("load: data"));
}

#[test]
fn the_schema_of_specs_takes_what_windlass_takes() {
    let schema = schema("spec");
    let image = json!({ "kind": "image", "name": "app", "content": { "texts": { "/etc/motd": "hello" } },
        "config": { "Cmd": ["/bin/app"], "Env": ["A=b"], "Labels": { "a": "b" } }, "perms": [{ "regex": "^/etc", "mode": "0644", "uid": 1 }],
        "maxLayers": 5, "platform": "linux/arm64", "allowSecrets": ["/etc/motd"], "forbid": ["^cuda"] });
    let model = json!({ "kind": "model", "name": "words", "files": { "words.gguf": "/a/words.gguf" } });
    let stack = json!({ "kind": "stack", "name": "s", "images": [{ "name": "app" }], "licences": { "allow": ["MIT"] },
        "services": { "app": { "image": "app", "ports": ["80:80"], "health": { "command": ["true-ish"] } } } });
    let mut cases: Vec<(String, Value, Value)> = Vec::new();
    for (name, value) in [("image", &image), ("model", &model), ("stack", &stack)] {
        windlass::internals::spec::Spec::from_value(value.clone()).unwrap();
        cases.push((name.to_owned(), schema.clone(), value.clone()));
    }
    assert_eq!(complaints(&cases), "");
    for (key, value) in [("nmae", json!("x")), ("name", json!(3)), ("kind", json!("imgae")), ("maxLayers", json!("5"))]
    {
        let mut wrong = image.clone();
        wrong[key] = value;
        assert!(windlass::internals::spec::Spec::from_value(wrong.clone()).is_err(), "{key}");
        assert!(complaints(&[(key.to_owned(), schema.clone(), wrong)]).starts_with(key), "{key}");
    }
}
