//! The services of a stack, and `windlass compose export`.

use std::fs;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::compose::eval;
use crate::env::{Env, LinkedPodman, linked_podman, run_ok};
use crate::nix::build;

/// A description that has everything.
fn everything() -> Value {
    json!({
        "image": "app", "entrypoint": ["/bin/app"], "command": ["--price", "5$", "${x}", "8080", "yes"],
        "environment": { "A": "b: c", "EMPTY": "", "LINES": "a\nb" }, "environmentFiles": ["/etc/app.env"],
        "secrets": { "password": "/run/keys/a" }, "ports": ["127.0.0.1:8080:8080", "9:9/udp"],
        "volumes": ["app-data:/data", "/srv/x:/x:ro", "/anonymous"], "tmpfs": ["/tmp:size=64m"],
        "devices": ["/dev/null", "/dev/zero:/dev/one:r", "nvidia.com/gpu=all"], "readOnly": true, "user": "7:7", "workingDir": "/data",
        "hostname": "app", "labels": { "a.b": "c" }, "networks": ["front:alias=www,ip=10.0.0.2", "back"],
        "extraHosts": ["host:10.0.0.1"], "capAdd": ["NET_ADMIN"], "capDrop": ["all"], "noNewPrivileges": true,
        "privileged": false, "init": true, "dependsOn": ["plain"], "memory": "2g", "shmSize": "64m", "cpus": 1.5,
        "pidsLimit": 100, "ulimits": { "nofile": "1024:2048" }, "stopSignal": "SIGINT", "stopTimeout": 20,
        "restart": "on-failure", "autoStart": false, "extraOptions": ["--log-driver=none", "--rdt-class=a"],
        "health": { "command": ["/bin/check", "a b"], "interval": "30s", "timeout": "5s", "retries": 3, "startPeriod": "1m", "onFailure": "kill" },
    })
}

fn spec(images: &[&str], services: Value) -> String {
    let image = |name: &&str| {
        let config = json!({ "Cmd": ["/bin/app"], "ExposedPorts": { "8080/tcp": {}, "53/udp": {} }, "Volumes": { "/data": {} } });
        json!({ "name": name, "platform": "linux/amd64", "tag": "1", "config": config })
    };
    let images: Vec<Value> = images.iter().map(image).collect();
    json!({ "kind": "stack", "name": "s", "images": images, "services": services }).to_string()
}

/// A lean stack `lean` of these.
fn stack(images: &[&str], services: Value) -> Env {
    let env = Env::new();
    env.write("stack.json", spec(images, services));
    env.write("closure.json", "{}");
    env.ok(["build", "stack.json", "--closure", "closure.json", "--output", "lean"]);
    env
}

#[test]
fn services_lie_beside_the_stack_and_change_no_digest() {
    let with = stack(
        &["app"],
        json!({ "app": { "image": "localhost/app", "health": null, "command": [], "ports": null, "cpus": 0.5 } }),
    );
    let written = fs::read_to_string(with.path("lean/services.json")).unwrap();
    let expected = "{\n  \"services\": {\n    \"app\": {\n      \"cpus\": 0.5,\n      \"image\": \"app\"\n    }\n  },\n  \"version\": 1\n}\n";
    assert_eq!(written, expected, "only what was given, and the name that the image has in the stack");
    let without = stack(&["app"], json!({}));
    assert!(!without.path("lean/services.json").exists());
    let files = |env: &Env, name: &str| fs::read(env.path(name)).unwrap();
    for name in ["lean/stack.json", "lean/images/app/image.json"] {
        assert_eq!(files(&with, name), files(&without, name), "{name}");
    }
    with.ok(["export", "lean", "--output", "archives"]);
    without.ok(["export", "lean", "--output", "archives"]);
    assert_eq!(files(&with, "archives/services.json"), written.as_bytes());
    let line = format!("{}  services.json\n", Digest::of(written.as_bytes()).hex());
    let sums = fs::read_to_string(with.path("archives/SHA256SUMS")).unwrap();
    assert!(sums.contains(&line), "{sums}");
    assert!(!without.path("archives/services.json").exists());
    assert_eq!(files(&with, "archives/images/app.tar"), files(&without, "archives/images/app.tar"));
}

#[test]
fn a_wrong_service_is_named_by_its_key() {
    let env = Env::new();
    env.write("closure.json", "{}");
    for (service, sentence) in [
        (json!({ "image": "app", "port": 1 }), "services.a.port: unknown field `port`"),
        (json!({ "command": [] }), "services.a: missing field `image`"),
        (json!({ "image": "other" }), "services.a.image: 'other' is not an image of this stack, which has: app"),
        (
            json!({ "image": "app", "ports": "80" }),
            "services.a.ports: invalid type: string \"80\", expected a sequence",
        ),
        (json!({ "image": "app", "ports": ["x"] }), "services.a.ports[0]: 'x' is not a port like 127.0.0.1:6379:6379"),
        (
            json!({ "image": "app", "volumes": ["./a:/a"] }),
            "services.a.volumes[0]: './a:/a' is not SOURCE:TARGET[:OPTIONS]",
        ),
        (
            json!({ "image": "app", "restart": "unless-stopped" }),
            "services.a.restart: unknown variant `unless-stopped`",
        ),
        (json!({ "image": "app", "memory": "much" }), "services.a.memory: 'much' is not a size like 512m or 2g"),
        (json!({ "image": "app", "dependsOn": ["b"] }), "services.a.dependsOn[0]: 'b' is not a service of this stack"),
        (json!({ "image": "app", "dependsOn": ["a"] }), "services.a.dependsOn[0]: 'a' is this service itself"),
        (
            json!({ "image": "app", "secrets": { "s": "s" } }),
            "services.a.secrets.s: is not an absolute path of the host",
        ),
        (json!({ "image": "app", "health": { "command": [] } }), "services.a.health.command: is empty;"),
        (
            json!({ "image": "app", "health": { "command": ["x"], "interval": "30" } }),
            "services.a.health.interval: '30' is not a time like 30s",
        ),
        (json!({ "image": "app", "health": { "cmd": [] } }), "services.a.health.cmd: unknown field `cmd`"),
        (
            json!({ "image": "app", "environment": { "A=": "hidden" } }),
            "services.a.environment: 'A=' is not the name of a variable",
        ),
    ] {
        env.write("stack.json", spec(&["app"], json!({ "a": service })));
        let command = ["build", "stack.json", "--closure", "closure.json", "--output", "out"];
        let (code, said) = env.refused(&mut env.windlass(command));
        let said = said.strip_prefix("stack.json: ").unwrap_or(&said);
        assert!(code == 2 && said.starts_with(sentence), "{code}: {said}");
    }
    let circle = json!({ "a": { "image": "app", "dependsOn": ["b"] }, "b": { "image": "app", "dependsOn": ["a"] } });
    env.write("stack.json", spec(&["app"], circle));
    let command = ["build", "stack.json", "--closure", "closure.json", "--output", "out"];
    let (code, said) = env.refused(&mut env.windlass(command));
    assert_eq!((code, said.as_str()), (2, "stack.json: services.a.dependsOn: a circle: a → b → a"));
}

#[test]
fn nix_passes_services_on() {
    let image = r#"w.buildImage { name = "app"; texts."/a" = "b"; }"#;
    let expression =
        |services: &str| format!("(w.buildStack {{ images = [ ({image}) ]; services = {services}; }}).lean");
    let lean = build(&expression(r#"{ app = { image = "app"; ports = [ "80:80" ]; user = null; }; }"#)).unwrap();
    let json: Value = serde_json::from_slice(&fs::read(lean.join("services.json")).unwrap()).unwrap();
    assert_eq!(json, json!({ "version": 1, "services": { "app": { "image": "app", "ports": ["80:80"] } } }));
    let error = build(&expression(r#"{ app = { image = "app"; port = 80; }; }"#)).unwrap_err();
    assert!(error.contains("services.app.port: unknown field `port`"), "{error}");
    let none = build(&expression("{ }")).unwrap();
    assert_eq!(none, build(&format!("(w.buildStack {{ images = [ ({image}) ]; }}).lean")).unwrap());
}

#[test]
fn a_compose_file_goes_out_and_comes_back() {
    let other = json!({ "image": "app", "dependsOn": ["app"], "networks": ["container:app"], "health": { "command": ["x"] }, "restart": "no" });
    let services =
        json!({ "app": everything(), "other": other, "plain": { "image": "app", "health": { "command": ["y"] } } });
    let env = stack(&["app"], services.clone());
    assert_eq!(env.ok(["compose", "export", "lean", "--output", "docker-compose.yml"]), "docker-compose.yml\n");
    let compose = fs::read_to_string(env.path("docker-compose.yml")).unwrap();
    assert_eq!(compose, env.ok(["compose", "export", "lean"]), "the same bytes every time");
    insta::assert_snapshot!("compose", compose);
    env.ok(["export", "lean", "--output", "archives"]);
    assert_eq!(compose, env.ok(["compose", "export", "archives"]), "and of the stack with archives");

    let imported = crate::compose::import(&env, &["--profile", "manual"]);
    let left: Vec<&Value> =
        imported["account"].as_array().unwrap().iter().filter(|row| row["fate"] == "left").collect();
    assert!(left.is_empty(), "everything is taken over: {left:?}");
    let back = eval(imported["nix"].as_str().unwrap())["virtualisation"]["windlass"]["containers"].clone();
    let digest = serde_json::from_slice::<Value>(&fs::read(env.path("lean/images/app/image.json")).unwrap()).unwrap();
    let image = format!("localhost/app@{}", digest["digest"].as_str().unwrap());
    for (name, service) in services.as_object().unwrap() {
        let mut expected = service.clone();
        expected["image"] = json!(image);
        // What is the default in a description is said in a compose file, and a secret's file lies beside that.
        if expected.get("restart").is_none() {
            expected["restart"] = json!("always");
        }
        if expected.get("secrets").is_some() {
            expected["secrets"]["password"] = json!("/srv/secrets/password");
        }
        assert_eq!(back[name], expected, "{name}");
    }
}

#[test]
fn images_without_services_have_the_ports_and_volumes_of_their_config() {
    let env = stack(&["app", "two"], json!({}));
    let compose = env.ok(["compose", "export", "lean"]);
    insta::assert_snapshot!("compose-minimal", compose);
    env.ok(["export", "lean", "--output", "archives"]);
    let refused = env.refused(&mut env.windlass(["compose", "export", "archives"]));
    assert_eq!(refused.0, 2);
    assert!(refused.1.contains("use the lean stack that it was made from"), "{}", refused.1);
    // As `buildStack` gives it, with the lean stack beside the archives.
    std::os::unix::fs::symlink(env.path("lean"), env.path("archives/lean")).unwrap();
    assert_eq!(env.ok(["compose", "export", "archives"]), compose);
}

#[test]
fn secrets_of_one_name_and_several_platforms_are_told_apart() {
    let service = |file: &str| json!({ "image": "app", "secrets": { "key": file } });
    let env = stack(&["app"], json!({ "a": service("/a"), "b": service("/b") }));
    let compose = env.ok(["compose", "export", "lean"]);
    for line in ["source: a-key", "target: key", "file: \"./secrets/b-key\"", "# /a in the stack's own description"] {
        assert!(compose.contains(line), "{line}: {compose}");
    }
    // With several platforms, the index is what all hosts can load.
    for (platform, name) in [("linux/amd64", "x"), ("linux/arm64", "y")] {
        env.write(
            "image.json",
            json!({ "kind": "image", "name": "app", "tag": "1", "platform": platform }).to_string(),
        );
        env.ok(["build", "image.json", "--closure", "closure.json", "--output", name]);
    }
    env.write(
        "index.json",
        json!({ "kind": "index", "name": "app", "images": [env.path("x"), env.path("y")] }).to_string(),
    );
    env.ok(["build", "index.json", "--closure", "closure.json", "--output", "index"]);
    let built =
        json!({ "kind": "stack", "name": "s", "built": [env.path("index")], "services": { "a": { "image": "app" } } });
    env.write("stack.json", built.to_string());
    env.ok(["build", "stack.json", "--closure", "closure.json", "--output", "multi"]);
    let index: Value = serde_json::from_slice(&fs::read(env.path("multi/images/app/image.json")).unwrap()).unwrap();
    let line = format!("image: localhost/app@{}\n", index["digest"].as_str().unwrap());
    assert!(env.ok(["compose", "export", "multi"]).contains(&line));
    let wrong =
        json!({ "kind": "stack", "name": "s", "built": [env.path("index")], "services": { "a": { "image": "b" } } });
    env.write("stack.json", wrong.to_string());
    let (code, said) = env.fails(["build", "stack.json", "--closure", "closure.json", "--output", "wrong"]);
    assert!(
        code == 2 && said.contains("services.a.image: 'b' is not an image of this stack, which has: app"),
        "{code}: {said}"
    );
}

#[test]
fn podman_finds_the_images_by_the_names_in_the_file() {
    let podman: LinkedPodman = linked_podman();
    podman.stack();
    podman.ok("windlass", &["load", "stack"]);
    let compose = podman.ok("windlass", &["compose", "export", "stack"]);
    let image = compose.lines().find_map(|line| line.trim().strip_prefix("image: ")).unwrap().to_owned();
    assert!(image.starts_with("localhost/app@sha256:"), "{image}");
    podman.ok("podman", &["image", "exists", &image]);
    let create = ["create", "--pull=never", "--name=found", &image];
    run_ok(&mut podman.command("podman", &create));
    let other = image.replace(&image[image.len() - 4..], "0000");
    assert_eq!(podman.run("podman", &["image", "exists", &other]).0, 1, "and no other digest");
}
