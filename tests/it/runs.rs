//! What build and plan warn of when containers of an image could not start: programs, what they need, and users.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::env::Env;
use crate::foreign::Foreign;
use crate::nix::nix;
use crate::podman::built;

/// What `windlass build` warns of in this image.
fn warnings(env: &Env, spec: &Value) -> Vec<String> {
    let mut whole = json!({ "kind": "image", "name": "app", "tag": "1" });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    env.write("app.json", whole.to_string());
    env.write("none", "{}");
    drop(std::fs::remove_dir_all(env.path("app")));
    let report: Value =
        serde_json::from_str(&env.ok(["build", "app.json", "--closure", "none", "--output", "app", "--json"])).unwrap();
    let told = |report: &Value| -> Vec<String> {
        report["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    // What was built says the same.
    let planned: Value = serde_json::from_str(&env.ok(["plan", "app", "--json"])).unwrap();
    assert_eq!(told(&planned), told(&report));
    told(&report)
}

fn program(env: &Env, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = env.write(name, bytes);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

const GIVE: &str = r#"give the package in `contents`, or its place in the store, "${pkgs.hello}/bin/hello""#;

#[test]
fn a_program_that_cannot_start_is_told() {
    let env = Env::new();
    let busybox = std::fs::read("/usr/bin/busybox").unwrap();
    let content = json!({
        "files": {
            "/bin/app": program(&env, "busybox", busybox),
            "/bin/dynamic": program(&env, "dynamic", std::fs::read("/bin/true").unwrap()),
            "/bin/script": program(&env, "script", "#!/bin/app sh\n"),
            "/bin/second": program(&env, "second", "#! /bin/script\n"),
            "/bin/orphan": program(&env, "orphan", "#!/usr/bin/env python\n"),
        },
        "texts": { "/bin/text": "text" },
        "directories": { "/srv": "0755" },
        "symlinks": { "/usr/bin": "../bin", "/link": "usr/bin/app", "/loop": "loop", "/nowhere": "/nix/none" },
    });
    let of = |config: Value| warnings(&env, &json!({ "content": content, "config": config }));
    for config in [
        json!({}),
        json!({ "Cmd": ["/bin/app"] }),
        json!({ "Cmd": ["app"] }),
        json!({ "Cmd": ["app"], "Env": ["PATH=/none:/usr/bin"] }),
        json!({ "Entrypoint": ["/link"], "Cmd": ["nothing"] }),
        json!({ "Cmd": ["../bin/app"], "WorkingDir": "/srv" }),
        json!({ "Cmd": ["/usr/bin/script"] }),
        json!({ "Cmd": ["second"] }),
    ] {
        assert_eq!(of(config.clone()), Vec::<String>::new(), "{config}");
    }
    let loader =
        if cfg!(target_arch = "aarch64") { "/lib/ld-linux-aarch64.so.1" } else { "/lib64/ld-linux-x86-64.so.2" };
    let needs = |what: &str| {
        format!(
            "which needs {what}, and that is not in it: build the program with nixpkgs, which has all it needs in the store, or give what has that file in `contents`"
        )
    };
    for (config, expected) in [
        (json!({ "Cmd": ["/bin/ap"] }), format!("starts '/bin/ap' (Cmd), which is not in it: {GIVE}")),
        (json!({ "Entrypoint": ["/nowhere"] }), format!("starts '/nowhere' (Entrypoint), which is not in it: {GIVE}")),
        (json!({ "Cmd": ["/loop"] }), format!("starts '/loop' (Cmd), which is not in it: {GIVE}")),
        (json!({ "Cmd": ["/bin"] }), "starts '/bin' (Cmd), which is not a file in it".to_owned()),
        (
            json!({ "Cmd": ["app"], "Env": ["PATH=/sbin"] }),
            format!("starts 'app' (Cmd), which is in no directory of its PATH (/sbin): {GIVE}"),
        ),
        (
            json!({ "Cmd": ["/bin/text"] }),
            "starts '/bin/text' (Cmd) which may not be executed: give its mode with `perms`, 0755".to_owned(),
        ),
        (
            json!({ "Cmd": ["/usr/bin/orphan"] }),
            format!("starts '/usr/bin/orphan' (Cmd), /bin/orphan, {}", needs("/usr/bin/env")),
        ),
        (json!({ "Cmd": ["/bin/dynamic"] }), format!("starts '/bin/dynamic' (Cmd) {}", needs(loader))),
    ] {
        assert_eq!(of(config.clone()), [format!("image 'app' {expected}")], "{config}");
    }
    // A rule that makes it a program is heeded.
    let spec = json!({ "content": content, "config": { "Cmd": ["/bin/text"] }, "perms": [{ "regex": "^/bin/text$", "mode": "0755" }] });
    assert_eq!(warnings(&env, &spec), Vec::<String>::new());
    // The platform is what the spec says, the program what it is.
    let (here, other) = if cfg!(target_arch = "aarch64") { ("arm64", "amd64") } else { ("amd64", "arm64") };
    for (command, place) in [("/bin/script", "/bin/app"), ("/link", "/bin/app")] {
        let spec = json!({ "content": content, "config": { "Cmd": [command] }, "platform": format!("linux/{other}") });
        let expected = format!(
            "image 'app' is for linux/{other}, and {place} is a program for {here}: build it from packages of that platform (pkgsCross), \
             or say what it is with `architecture`"
        );
        assert_eq!(warnings(&env, &spec), [expected], "{command}");
    }
    let spec = json!({ "config": { "Cmd": ["app.exe"] }, "platform": "windows/amd64" });
    assert_eq!(warnings(&env, &spec), Vec::<String>::new());
}

#[test]
fn a_user_without_an_account_is_told() {
    let env = Env::new();
    let texts =
        json!({ "/etc/passwd": "root:x:0:0::/:/bin/sh\nredis:x:999:999::/:/bin/sh\n", "/etc/group": "redis:x:999:\n" });
    let of = |user: &str, content: Value| warnings(&env, &json!({ "content": content, "config": { "User": user } }));
    for user in ["", "0", "1000:1000", "redis", "redis:redis", "999:redis"] {
        assert_eq!(of(user, json!({ "texts": texts })), Vec::<String>::new(), "{user}");
    }
    let without = |what: &str, name: &str, file: &str| {
        format!(
            "image 'app' has the {what} '{name}', which is not in its {file}: give the number, User = \"999:999\", or a {file} that has the name, in `texts`"
        )
    };
    assert_eq!(of("redi", json!({ "texts": texts })), [without("User", "redi", "/etc/passwd")]);
    assert_eq!(of("redis:wheel", json!({ "texts": texts })), [without("group", "wheel", "/etc/group")]);
    // Those that every image gets.
    assert_eq!(of("nobody", json!({})), Vec::<String>::new());
    assert_eq!(of("redis", json!({})), [without("User", "redis", "/etc/passwd")]);
}

#[test]
fn what_an_image_is_built_upon_brings_programs_and_users() {
    let env = Env::new();
    let base = Foreign::oci(&env).build(&env, "base");
    let of = |config: Value, content: Value| {
        warnings(&env, &json!({ "fromImage": base, "config": config, "content": content }))
    };
    for config in [
        json!({}),
        json!({ "Cmd": ["/bin/ls"] }),
        json!({ "Cmd": ["ls"], "User": "app:1000" }),
        json!({ "Cmd": ["/bin/busybox"], "Env": ["LEVEL=2"] }),
    ] {
        assert_eq!(of(config.clone(), json!({ "texts": { "/text": "" } })), Vec::<String>::new(), "{config}");
    }
    let of = |config: Value| of(config, json!({ "texts": { "/text": "" } }));
    assert_eq!(of(json!({ "Cmd": ["/bin/nothing"] })).len(), 1);
    // A whiteout took it away, and a hard link is the file itself.
    assert_eq!(
        of(json!({ "Cmd": ["/etc/gone"] })),
        [format!("image 'app' starts '/etc/gone' (Cmd), which is not in it: {GIVE}")]
    );
    assert_eq!(
        of(json!({ "Cmd": ["/data/again"] })),
        ["image 'app' starts '/data/again' (Cmd) which may not be executed: give its mode with `perms`, 0755"]
    );
    assert_eq!(of(json!({ "User": "postgres" })).len(), 1);
}

#[test]
fn images_of_the_example_stack_start() {
    let stack = built("ai-stack-images");
    let env = Env::new();
    let plan: Value = serde_json::from_str(&env.ok(["plan", stack.join("lean").to_str().unwrap(), "--json"])).unwrap();
    assert!(plan["images"].as_array().unwrap().len() > 2, "{plan}");
    assert_eq!(plan["warnings"], json!([]));
    // Nix says them while it builds.
    let expression = crate::nix::wrap(r#"w.buildImage { name = "told"; config.Cmd = [ "redis-server" ]; }"#);
    let output = nix("nix-build").args(["--no-out-link", "--expr", &expression]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let log = || {
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        String::from_utf8_lossy(&nix("nix").args(["log", &path]).output().unwrap().stdout).into_owned()
    };
    let warning = "warning: image 'told' starts 'redis-server' (Cmd), which is in no directory of its PATH";
    assert!(said.contains(warning) || log().contains(warning), "{said}{}", log());
}
