//! What people read: help, tables, the last sentence, JSON, completions and man pages.
//!
//! A changed snapshot is a change for people and scripts: look at it, then `INSTA_UPDATE=always ./dev test cli`.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::env::{Env, FIXED, base_name, closure, run_ok};
use crate::model_files::gguf;

#[test]
fn help_of_every_verb() {
    let env = Env::new();
    let verbs = [
        &[][..],
        &["build"],
        &["plan"],
        &["diff"],
        &["inspect"],
        &["export"],
        &["load"],
        &["status"],
        &["verify"],
        &["repair"],
        &["generations"],
        &["rollback"],
        &["gc"],
        &["model"],
        &["model", "add"],
        &["model", "remove"],
        &["model", "fetch"],
        &["model", "inspect"],
        &["model", "list"],
        &["model", "manifest"],
        &["model", "artifact"],
        &["model", "split"],
        &["model", "use"],
        &["doctor"],
        &["compose"],
        &["compose", "import"],
        &["compose", "export"],
        &["upstream"],
        &["upstream", "add"],
        &["upstream", "remove"],
        &["upstream", "check"],
        &["upstream", "update"],
        &["upstream", "fetch"],
        &["upstream", "mirror"],
        &["upstream", "list"],
        &["upstream", "import"],
        &["upstream", "export"],
        &["push"],
    ];
    let page = |verb: &&[&str]| {
        let help = env.ok([verb, &["--help"][..]].concat());
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        format!("$ windlass {}\n{help}", [verb, &["--help"][..]].concat().join(" "))
    };
    insta::assert_snapshot!(verbs.iter().map(page).collect::<Vec<_>>().join("\n"));
    let listed = env.ok(["--help"]);
    assert!(verbs[1..].iter().all(|verb| listed.contains(&format!("\n  {}", verb[0]))));
    assert_eq!(env.ok(["--version"]), concat!("windlass ", env!("CARGO_PKG_VERSION"), "\n"));
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
        env.write(format!("host/store/{}", base_name(name)), vec![b'x'; size]);
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
    format!("$ windlass {}\n{}", arguments.join(" "), String::from_utf8(output.stdout).unwrap())
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
    for (shell, beginning) in [("bash", "_windlass() {"), ("zsh", "#compdef windlass"), ("fish", "# Print an optspec")]
    {
        let script = env.ok(["completions", shell]);
        assert!(script.starts_with(beginning), "{shell}: {}", script.lines().next().unwrap());
        let built = "build plan diff inspect export without";
        let loaded =
            "load via status check-free verify repair generations rollback gc aggressive model slot doctor fix";
        for word in built.split(' ').chain(loaded.split(' ')) {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    // Bash takes it, and completes a verb with it.
    env.write("completions", env.ok(["completions", "bash"]));
    let complete = "source ./completions; COMP_WORDS=(windlass exp); COMP_CWORD=1; _windlass windlass exp windlass; echo ${COMPREPLY[@]}";
    let bash = run_ok(Command::new("bash").args(["-c", complete]).current_dir(env.path("")));
    assert_eq!(bash, "export\n");

    fs::create_dir(env.path("man")).unwrap();
    assert_eq!(env.ok(["man", "man"]), "man pages are in man\n");
    let mut pages: Vec<String> =
        fs::read_dir(env.path("man")).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    let verbs = [
        "-build",
        "-compose-export",
        "-compose-import",
        "-compose",
        "-diff",
        "-doctor",
        "-export",
        "-gc",
        "-generations",
        "-inspect",
        "-load",
        "-model-add",
        "-model-artifact",
        "-model-fetch",
        "-model-inspect",
        "-model-list",
        "-model-manifest",
        "-model-remove",
        "-model-split",
        "-model-use",
        "-model",
        "-plan",
        "-push",
        "-repair",
        "-rollback",
        "-status",
        "-upstream-add",
        "-upstream-check",
        "-upstream-export",
        "-upstream-fetch",
        "-upstream-import",
        "-upstream-list",
        "-upstream-mirror",
        "-upstream-remove",
        "-upstream-update",
        "-upstream",
        "-verify",
        "",
    ];
    assert_eq!(pages, verbs.map(|verb| format!("windlass{verb}.1")));
    let page = fs::read_to_string(env.path("man/windlass-export.1")).unwrap();
    assert!(page.starts_with(".ie") && page.contains("\\-\\-without"), "{page}");
}

/// A template that nobody can run here must at least not ask for what windlass does not have.
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
        let commands =
            text.lines().filter_map(|line| line.split_once("- windlass ").or(line.split_once("run: windlass ")));
        let commands: Vec<&str> = commands.map(|(_, arguments)| arguments).collect();
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
