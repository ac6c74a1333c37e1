//! Names and places that come out of files, and what they are written into: attacks as they were done.

use std::fs;
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use windlass::internals::sh;

use crate::engine::Podman;
use crate::env::Env;

/// What is not a name and no place anywhere.
pub(crate) const HOSTILE: [&str; 14] = [
    "",
    "..",
    "../../x",
    "/etc/passwd",
    "a/../../x",
    "-rf",
    "$(touch pwned)",
    "`touch pwned`",
    "a b;touch pwned",
    "a\nPodmanArgs=--privileged",
    "a\u{1b}[2J\u{9b}1m",
    "a\u{202e}gpj.sh",
    "a\u{0}b",
    "a\"'\\%$",
];

/// A lean stack `lean` with an image `app` and a model `m`.
fn stack() -> Env {
    let env = Env::new();
    let weights = env.write("weights", "weights");
    let model = json!({ "name": "m", "tag": "1", "files": { "w": weights } });
    let image = json!({ "name": "app", "tag": "1", "platform": "linux/amd64", "models": [{ "spec": model }] });
    env.write("stack.json", json!({ "kind": "stack", "name": "s", "images": [image] }).to_string());
    env.write("closure.json", "{}");
    env.ok(["build", "stack.json", "--closure", "closure.json", "--output", "lean"]);
    env
}

/// Changes one value of a JSON file for as long as `then` runs.
fn with_value<T>(env: &Env, file: &str, pointer: &str, value: Value, then: impl FnOnce() -> T) -> T {
    let path = env.path(file);
    let before = fs::read(&path).unwrap();
    let mut json: Value = serde_json::from_slice(&before).unwrap();
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("{file} has no {pointer}")) = value;
    fs::write(&path, json.to_string()).unwrap();
    let result = then();
    fs::write(&path, before).unwrap();
    result
}

#[test]
fn what_is_no_name_is_refused_where_it_is_read() {
    let env = stack();
    env.ok(["export", "lean", "--output", "archives"]);
    let mut model_recipe = fs::read_dir(env.path("lean/models/m/recipes")).unwrap().map(|entry| entry.unwrap().path());
    let model_recipe = model_recipe.find(|path| path.extension().unwrap() == "json").unwrap();
    let model_recipe = model_recipe.strip_prefix(env.path("")).unwrap().to_str().unwrap().to_owned();
    let fields = [
        ("lean/stack.json", "/images/0/name", "lean"),
        ("lean/stack.json", "/images/0/ref", "lean"),
        ("lean/stack.json", "/images/0/models/0", "lean"),
        ("lean/stack.json", "/images/0/directory", "lean"),
        ("lean/stack.json", "/images/0/digest", "lean"),
        ("lean/stack.json", "/images/0/platform", "lean"),
        ("lean/stack.json", "/models/0/name", "lean"),
        ("lean/stack.json", "/models/0/ref", "lean"),
        ("lean/stack.json", "/models/0/directory", "lean"),
        ("archives/stack.json", "/images/0/archive", "archives"),
        ("archives/stack.json", "/models/0/archive", "archives"),
        ("lean/images/app/image.json", "/name", "lean/images/app"),
        ("lean/images/app/image.json", "/ref", "lean/images/app"),
        ("lean/images/app/image.json", "/digest", "lean/images/app"),
        ("lean/images/app/image.json", "/platforms/0/models/0", "lean/images/app"),
        ("lean/images/app/image.json", "/platforms/0/platform", "lean/images/app"),
        ("lean/models/m/image.json", "/platforms/0/models/0", "lean/models/m"),
        (model_recipe.as_str(), "/inputs/0/source", "lean/models/m"),
        (model_recipe.as_str(), "/inputs/0/target", "lean/models/m"),
    ];
    for (file, pointer, what) in fields {
        for hostile in HOSTILE {
            let is_place = pointer.ends_with("directory") || pointer.ends_with("archive");
            if is_place && windlass::internals::names::RelativePath::new(hostile).is_ok()
                || file.contains("recipes") && hostile == "/etc/passwd"
            {
                // A place like any other; digests tell what is there.
                continue;
            }
            let before = env.tree();
            let output =
                with_value(&env, file, pointer, hostile.into(), || env.windlass(["inspect", what]).output().unwrap());
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), env.tree()), (Some(1), before), "{file} {pointer} {hostile:?}: {said}");
            let names_file = said.starts_with("windlass: ")
                && (said.contains(file.rsplit('/').next().unwrap()) || said.contains("lean/"));
            assert!(names_file && output.stdout.is_empty(), "{file} {pointer} {hostile:?}: {said}");
            let line = said.trim_end_matches('\n');
            assert!(
                !line.contains(windlass::internals::names::is_unprintable),
                "{file} {pointer} {hostile:?}: {said:?}"
            );
        }
    }
}

#[test]
fn an_image_directory_with_a_bad_name_breaks_no_podman() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "mine");
    let tree = |path: &str| podman.env.path(path);
    let file = image.join("image.json");
    let before = fs::read_to_string(&file).unwrap();
    for (from, to) in [
        ("localhost/app:1", "localhost/App:1"),
        ("localhost/app:1", "localhost/app:$(id)"),
        ("localhost/app:1", "localhost/other:1"),
        ("\"localhost/app\"", "\"localhost/App\""),
    ] {
        fs::write(&file, before.replace(from, to)).unwrap();
        for via in ["store", "podman"] {
            let output = podman.windlass(&["load", "--via", via, image.to_str().unwrap()]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && said.contains("image.json"), "{via} {to}: {said}");
            assert_eq!(podman.run(&["images", "--quiet"]), "", "{via} {to}");
        }
    }
    assert!(!tree("generations").exists());
    fs::write(&file, before).unwrap();
    podman.load(&image, &[]).last();
    assert_ne!(podman.run(&["images", "--quiet"]), "");
}

/// Strings with everything that any reader gives a meaning to.
pub(crate) fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => proptest::sample::select(vec![
            "$(id)", "`id`", "${x}", "$$", "$", "%n", "%%", "%", "\"", "'", "''", "\\", "\\n", "\n", "\r\n", "\t", "\u{1b}[2J",
            "\u{202e}", "\u{2028}", "\u{85}", "\u{feff}", "#", ";", "&&", " ", ": ", "- ", "{{", "[", "]", "*", "!", "~", "=",
            "\nPodmanArgs=--privileged", "yes", "null", "0x1", "1e3", "<<", "@", "é", "⚓", "\u{10ffff}", "\u{1}", "\u{7f}",
        ]).prop_map(str::to_owned),
        1 => "[ -~]{0,4}",
        1 => any::<char>().prop_map(|c| c.to_string()),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

/// Several strings at once: a reader is started for all of them.
pub(crate) fn many(cases: u32, texts: usize, strategy: impl Strategy<Value = String>, check: impl Fn(&[String])) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let all = proptest::collection::vec(strategy, texts);
    let passed = runner.run(&all, |texts| {
        check(&texts);
        Ok(())
    });
    passed.unwrap();
}

#[test]
fn a_shell_reads_a_word_as_it_was() {
    many(8, 100, hostile().prop_map(|text| text.replace('\0', "")), |texts| {
        let env = Env::new();
        let line = sh::line(texts.iter().map(String::as_str));
        let script = env.write("script", format!("printf '%s\\0' {line}\n"));
        for shell in [&["sh"][..], &["bash", "--posix"], &["bash"]] {
            let parsed = Command::new(shell[0]).args(&shell[1..]).arg("-n").arg(&script).output().unwrap();
            assert!(parsed.status.success() && parsed.stderr.is_empty(), "{parsed:?}");
            let read = Command::new(shell[0]).args(&shell[1..]).arg(&script).output().unwrap();
            let words: Vec<&[u8]> = read.stdout.split(|byte| *byte == 0).collect();
            let expected: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).chain([&b""[..]]).collect();
            assert_eq!(words, expected, "{shell:?}");
        }
    });
    assert_eq!(sh::word("a\0b"), "ab");
}

#[test]
fn a_line_break_of_a_compose_file_becomes_no_line_of_a_unit() {
    let env = Env::new();
    let cases = [
        ("hostname: \"h\\nPodmanArgs=--privileged\"", "hostname"),
        ("volumes: [\"data:/a\\nPodmanArgs=--privileged\"]", "volumes[0]"),
        ("tmpfs: [\"/t\\nPodmanArgs=--privileged\"]", "tmpfs[0]"),
        ("cap_add: [\"a\\nPodmanArgs=--privileged\"]", "cap_add[0]"),
        ("user: \"1\\nPodmanArgs=--privileged\"", "user"),
        ("stop_signal: \"1\\nPodmanArgs=--privileged\"", "stop_signal"),
    ];
    for (line, key) in cases {
        env.write("compose.yml", format!("services:\n  web:\n    image: a:1\n    {line}\n"));
        let output = env.windlass(["compose", "import", "compose.yml", "--output", "new.nix"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains(key) && said.contains("has a line break"), "{line}: {said}");
        let nix = fs::read_to_string(env.path("new.nix")).unwrap();
        assert!(!nix.contains("PodmanArgs"), "{line}: {nix}");
        fs::remove_file(env.path("new.nix")).unwrap();
    }
    for line in [
        "ulimits: { \"a\\nPodmanArgs=--privileged\": 1 }",
        "healthcheck: { test: [CMD, \"x\\0\"] }",
        "command: [\"a\\0b\"]",
    ] {
        env.write("compose.yml", format!("services:\n  web:\n    image: a:1\n    {line}\n"));
        let (code, said) = env.fails(["compose", "import", "compose.yml", "--output", "new.nix"]);
        assert!(code == 2 && said.contains("compose.yml") && !env.path("new.nix").exists(), "{line}: {said}");
    }
}
