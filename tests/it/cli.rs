//! What people read: help, tables, the last sentence, JSON, completions and man pages.
//!
//! A changed snapshot is a change for people and scripts: look at it, then `INSTA_UPDATE=always ./dev test cli`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::env::{Env, FIXED, base_name, closure, completions, run_ok, verbs};
use crate::model_files::gguf;

#[test]
fn the_version_is_that_of_the_crate() {
    assert_eq!(Env::new().ok(["--version"]), concat!("windlass ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn usage_errors_name_the_argument() {
    let env = Env::new();
    for (arguments, beginning) in [
        (&[][..], "Nix store paths and model weights in, reproducible OCI images out"),
        (&["bake"], "error: unrecognized subcommand 'bake'"),
        (&["build"], "error: the following required arguments were not provided:\n  <SPEC>"),
        (&["export", "x", "-o", "y", "--format", "zip"], "error: invalid value 'zip' for '--format <FORMAT>'"),
    ] {
        let (code, stderr) = env.fails(arguments);
        assert!(code == 2 && stderr.starts_with(beginning), "{code}: {stderr}");
    }
}

/// An image `app` with one model, of which version 2 has another app, and a stack of both; at paths that are the same in
/// every run, because they are in digests and sizes.
fn images(env: &Env) {
    let store = format!("{FIXED}/store");
    for (name, size) in [("app-1.0", 9000), ("app-2.0", 9500), ("lib-3", 5_000_000)] {
        let file = env.write(format!("host/store/{}", base_name(name)), vec![b'x'; size]);
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    env.write("host/tiny.gguf", gguf("{{ messages }}", &[2500]));
    let paths: [(&str, &[&str]); 3] = [("app-1.0", &["lib-3"]), ("app-2.0", &["lib-3"]), ("lib-3", &[])];
    env.write("host/closure.json", closure(&store, &env.path("host/store"), &paths));
    let image = |name: &str, version: &str| {
        let model = json!({ "name": "tiny", "files": { "tiny.gguf": format!("{FIXED}/tiny.gguf") } });
        let command = format!("{store}/{}", base_name(&format!("app-{version}")));
        json!({
            "name": name, "platform": "linux/amd64", "storeDir": store, "models": [{ "spec": model }],
            "config": { "Cmd": [command] },
        })
    };
    for version in ["1.0", "2.0"] {
        let mut spec = image("app", version);
        spec["kind"] = "image".into();
        let (file, output) = (format!("v{version}.json"), format!("v{version}"));
        env.write(format!("host/{file}"), spec.to_string());
        shown(env, &["build", &file, "--closure", "closure.json", "--output", &output]);
    }
    let images = [image("one", "1.0"), image("two", "2.0")];
    env.write("host/stack.json", json!({ "kind": "stack", "name": "both", "images": images }).to_string());
}

/// What a command prints; nothing may come on standard error, where no terminal is.
fn shown(env: &Env, arguments: &[&str]) -> String {
    let output = env.windlass_at(&env.path("host"), &[], arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    // Whether this machine has a Podman, and what is in it, is not for here.
    let text = String::from_utf8(output.stdout).unwrap();
    let text: String = text
        .split_inclusive('\n')
        .filter(|line| !line.contains("this host: ") && !line.contains("\"bytesToWriteHere\""))
        .collect();
    format!("$ windlass {}\n{text}", arguments.join(" "))
}

#[test]
fn plan_inspect_and_diff() {
    let env = Env::new();
    images(&env);
    let text: Vec<String> = [
        &["plan", "v1.0.json", "--closure", "closure.json"][..],
        &["plan", "stack.json", "--closure", "closure.json"],
        &["plan", "v1.0"],
        &["inspect", "v1.0"],
        &["diff", "v1.0", "v2.0"],
        &["diff", "v1.0", "v1.0"],
        &["verify", "v1.0"],
        &["verify", "v1.0", "--full"],
    ]
    .iter()
    .map(|arguments| shown(&env, arguments))
    .collect();
    insta::assert_snapshot!("text", text.join("\n"));
    let json: Vec<String> = [
        &["plan", "v1.0.json", "--closure", "closure.json", "--json"][..],
        &["inspect", "v1.0", "--json"],
        &["diff", "v1.0", "v2.0", "--json"],
        &["verify", "v1.0", "--json"],
    ]
    .iter()
    .map(|arguments| shown(&env, arguments))
    .collect();
    for printed in &json {
        let value = printed.split_once('\n').unwrap().1;
        serde_json::from_str::<Value>(value).unwrap();
    }
    insta::assert_snapshot!("json", json.join("\n"));
}

#[test]
fn build_and_export_end_with_a_sentence_of_counts() {
    let env = Env::new();
    images(&env);
    let build = ["build", "v1.0.json", "--closure", "closure.json", "--output", "v1.0"];
    let text = [
        shown(&env, &build),
        shown(&env, &[&build[..], &["--json"]].concat()),
        shown(&env, &["export", "v1.0", "--output", "v1.tar"]),
        shown(&env, &["export", "v1.0", "--output", "v1.tar", "--without", "models"]),
        shown(&env, &["export", "v1.0", "--output", "v1.tar", "--json"]),
        shown(&env, &["build", "stack.json", "--closure", "closure.json", "--output", "both"]),
        shown(&env, &["export", "both", "--output", "archives"]),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn completions_and_man_pages() {
    let env = Env::new();
    for (shell, beginning) in
        [("bash", "\n_clap_complete_windlass() {"), ("zsh", "#compdef windlass"), ("fish", "complete")]
    {
        let script = env.ok(["completions", shell]);
        assert!(script.starts_with(beginning), "{shell}: {script}");
    }
    // Bash takes it, and asks the program that is on PATH for what comes next.
    let variables = [("HOME".to_owned(), env.path("").display().to_string())];
    let complete = |line: &str| completions(&env, &variables, line);
    assert_eq!(complete("windlass exp"), ["export"]);
    for (verb, option) in
        [("export", "--without"), ("load", "--via"), ("status", "--check-free"), ("gc", "--aggressive")]
    {
        assert_eq!(complete(&format!("windlass {verb} {option}")), [option]);
    }
    // Names of what is locked here.
    env.write("docker-compose.yml", "services: { cache: { image: \"redis:8\" }, carrot: { image: \"x/y:1\" } }\n");
    env.ok(["upstream", "import", "docker-compose.yml", "--state", "s.json"]);
    assert_eq!(complete("windlass upstream check --image ca"), ["cache", "carrot"]);
    assert_eq!(complete("windlass upstream remove car"), ["carrot"]);
    // Where there is no lock of models, and nothing is loaded, there are no names and no message.
    assert_eq!(complete("windlass model check x"), [""; 0]);
    assert_eq!(complete("windlass rollback 1"), [""; 0]);

    fs::create_dir(env.path("man")).unwrap();
    assert_eq!(env.ok(["man", "man"]), "man pages are in man\n");
    let mut pages: Vec<String> =
        fs::read_dir(env.path("man")).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    let name = |words: &[&str]| format!("{}.1", [&["windlass"], words].concat().join("-"));
    let mut named: Vec<String> = verbs()
        .iter()
        .flat_map(|verb| {
            // The verb, what it belongs to, and windlass itself.
            let words: Vec<&str> = verb.split(' ').collect();
            (0..=words.len()).map(|count| name(&words[..count])).collect::<Vec<_>>()
        })
        .collect();
    named.sort();
    named.dedup();
    assert_eq!(pages, named);
    let page = fs::read_to_string(env.path("man/windlass-export.1")).unwrap();
    assert!(page.starts_with(".ie") && page.contains("\\-\\-without"), "{page}");
    // Examples are as they are typed, and each page says what its verb reads, and where to read on.
    let shown = |page: &str| {
        let file = env.path("man").join(page);
        let mut man = Command::new("man");
        man.args(["--local-file", "--encoding=ascii"])
            .arg(file)
            .env("MANWIDTH", "80")
            .env("LC_ALL", "C")
            .env("PAGER", "cat");
        run_ok(&mut man)
    };
    let (export, load) = (
        fs::read_to_string(env.path("man/windlass-export.1")).unwrap(),
        fs::read_to_string(env.path("man/windlass-load.1")).unwrap(),
    );
    assert!(export.contains(".SH EXAMPLES\n.nf\n  windlass export result"), "{export}");
    for part in [
        ".SH \"ENVIRONMENT\"",
        "CONTAINERS_STORAGE_CONF",
        ".SH \"FILES\"",
        "/etc/containers/storage.conf",
        ".SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\nDone.",
        ".SH \"SEE ALSO\"\nwindlass(1), podman(1)",
    ] {
        assert!(load.contains(part), "{part}: {load}");
    }
    if Command::new("man").arg("--version").output().is_ok() {
        let shown = shown("windlass-load.1");
        assert!(shown.lines().any(|line| line.trim().starts_with("windlass load result --dry-run    ")), "{shown}");
    }
}

/// What scripts read: an object with the version of its format, for what failed too; nothing else with `--quiet`.
#[test]
fn json_is_an_object_for_errors_too() {
    let env = Env::new();
    for (arguments, code, class) in [
        (&["inspect", "nothing", "--json"][..], 2, "usage"),
        (&["inspect", ".", "--json"], 1, "failed"),
        (&["load", "--nothing", "--json"], 2, "usage"),
        (&["--json", "lint", "nothing.json"], 2, "usage"),
        (&["lint", "--json"], 2, "usage"),
    ] {
        let output = env.windlass(arguments).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let error = &report["error"];
        assert_eq!((&report["version"], &error["class"], &error["code"]), (&1.into(), &class.into(), &code.into()));
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert!(sentence.contains(error["message"].as_str().unwrap()), "{sentence} {error}");
    }
    // A result that is there stays the only one.
    env.write("docker-compose.yml", "services: { a: { image: \"redis:latest\" }, b: { image: \"redis:8.4.0\" } }\n");
    let output = env.windlass(["lint", "docker-compose.yml", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), report["problems"].as_array().unwrap().len()), (Some(1), 1), "{report}");
    assert_eq!(env.windlass(["lint", "docker-compose.yml", "--allow", "a"]).output().unwrap().status.code(), Some(0));
}

/// Floating names are errors of `lint`, and nothing is asked.
#[test]
fn a_lint_finds_what_may_be_another_tomorrow() {
    let env = Env::new();
    env.write("docker-compose.yml", "services: { a: { image: \"redis:8.4.0\" } }\n");
    env.ok(["upstream", "import", "docker-compose.yml", "--state", "s.json"]);
    let model = |floating: bool| {
        serde_json::json!({ "source": { "ref": "hf:o/r/m.gguf", "floating": floating, "revision": "1".repeat(40) },
            "files": [{ "name": "m.gguf", "path": "m.gguf", "size": 1, "sha256": "0".repeat(64) }] })
    };
    let models = serde_json::json!({ "version": 1, "models": { "m": model(true), "n": model(false) } });
    env.write("models.lock.json", models.to_string());
    let output = env.windlass(["lint"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "images.lock.json: a was never looked up; windlass upstream update --image a");
    assert!(
        lines[1]
            .starts_with("models.lock.json: m is hf:o/r/m.gguf, which may be another file tomorrow: name its commit")
    );
    assert_eq!(lines[2], "3 names checked, 2 problems");
}

/// On a terminal no line of a table is wider than it; elsewhere rows are whole.
#[test]
fn tables_fit_the_terminal() {
    let env = Env::new();
    let services: String = (0..3)
        .map(|n| format!("  service-{n}: {{ image: \"registry.example/organisation/image-{n}:1\", logging: {{ driver: none }}, privileged: true }}\n"))
        .collect();
    env.write("docker-compose.yml", format!("services:\n{services}"));
    let import = "compose import docker-compose.yml --output out.nix";
    let whole = env.ok(import.split(' '));
    assert!(whole.lines().any(|line| line.chars().count() > 120), "{whole}");
    for width in [60, 80, 100] {
        let mut script = Command::new("script");
        let command = format!("{} {import}", env!("CARGO_BIN_EXE_windlass"));
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).current_dir(env.path(""));
        let shown = run_ok(script.env("COLUMNS", width.to_string()).env("NO_COLOR", "1"));
        let table: Vec<&str> =
            shown.lines().map(str::trim_end).take_while(|line| !line.starts_with("3 services")).collect();
        assert!(table.len() > 7 && table.iter().all(|line| line.chars().count() <= width), "{width}: {shown}");
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}

/// A template that cannot be run here must at least not ask for what windlass does not have.
#[test]
fn commands_in_ci_templates_exist() {
    let env = Env::new();
    let jobs: &[&str] = &["test_backend:", "deploy_staging:", "deploy_production:"];
    let updates: &[&str] = &["upstream check", "upstream update", "upstream list"];
    for (template, parts) in
        [("gitlab", jobs), ("github", jobs), ("upstream-gitlab", updates), ("upstream-github", updates)]
    {
        let path = format!("{}/docs/ci/{template}.yml", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        let commands = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.contains("echo "));
        let commands: Vec<&str> = commands.filter_map(|line| Some(line.split_once(" windlass ")?.1)).collect();
        assert!(commands.len() > 2, "{template}");
        for arguments in commands {
            // An unknown verb or option is an error before the help is printed.
            let arguments = arguments.split(['>', '|']).next().unwrap();
            env.ok(arguments.split_whitespace().chain(["--help"]));
        }
        for part in parts {
            assert!(text.contains(part), "{template}: {part}");
        }
    }
}
