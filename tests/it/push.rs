//! `windlass push` to Debian's docker-registry, and what other tools find there.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::env::{LinkedPodman, base_name, closure, linked_podman, run_ok};
use crate::registry_server::RealRegistry;

/// An image that says hello, over a file of random bytes, in the folder `app`.
pub(crate) fn app(podman: &LinkedPodman, bytes: usize) {
    let store = podman.env.path("store").display().to_string();
    let busybox = std::fs::read("/bin/busybox").unwrap();
    // It does what its name says, and that of a store path says nothing.
    let shell = podman.env.write(format!("store/{}/bin/busybox", base_name("busybox-1")), busybox);
    std::fs::set_permissions(&shell, PermissionsExt::from_mode(0o555)).unwrap();
    let noise: Vec<u8> =
        (0..bytes as u64 / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    podman.store_file("noise-2", &noise);
    let paths: [(&str, &[&str]); 2] = [("busybox-1", &["noise-2"]), ("noise-2", &[])];
    podman.env.write("closure.json", closure(&store, &podman.env.path("store"), &paths));
    let program = format!("{store}/{}/bin/busybox", base_name("busybox-1"));
    let spec = json!({ "kind": "image", "name": "app", "storeDir": store,
        "config": { "Cmd": [program, "echo", "hello"] } });
    podman.env.write("app.json", spec.to_string());
    podman.ok("windlass", &["build", "app.json", "--closure", "closure.json", "--output", "app"]);
}

/// windlass with a home of its own.
pub(crate) fn windlass(podman: &LinkedPodman, arguments: &[&str]) -> Command {
    let mut command = podman.command("windlass", arguments);
    command.env("HOME", podman.env.path("home"));
    command
}

pub(crate) fn built(podman: &LinkedPodman) -> Value {
    serde_json::from_slice(&std::fs::read(podman.env.path("app/image.json")).unwrap()).unwrap()
}

fn push(podman: &LinkedPodman, to: &str, more: &[&str]) -> Value {
    let mut arguments = vec!["push", "app", to, "--insecure", "--json"];
    arguments.extend(more);
    serde_json::from_str(&run_ok(&mut windlass(podman, &arguments))).unwrap()
}

fn skopeo(arguments: &[&str]) -> String {
    run_ok(Command::new("skopeo").arg("--insecure-policy").args(arguments))
}

#[test]
fn what_is_pushed_is_what_was_built_and_a_second_push_sends_nothing() {
    let podman = linked_podman();
    app(&podman, 20_000_000);
    let registry = RealRegistry::start(&podman.env);
    let (to, digest) = (format!("docker://{}/team/app:1", registry.host), built(&podman)["digest"].clone());
    let first = push(&podman, &to, &[]);
    assert_eq!((&first["images"][0]["digest"], &first["present"]), (&digest, &json!(0)));
    assert!(first["bytes"].as_u64().unwrap() > 20_000_000, "{first}");
    let second = push(&podman, &to, &[]);
    assert_eq!(
        (&second["images"][0]["digest"], &second["uploaded"], &second["bytes"]),
        (&digest, &json!(0), &json!(0))
    );

    let inspect: Value = serde_json::from_str(&skopeo(&["inspect", "--tls-verify=false", &to])).unwrap();
    assert_eq!(inspect["Digest"], digest);
    let copy = format!("oci:{}:app", podman.env.path("copy").display());
    skopeo(&["copy", "--preserve-digests", "--src-tls-verify=false", &to, &copy]);
    let index: Value = serde_json::from_slice(&std::fs::read(podman.env.path("copy/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest);

    // Its own tag, where none was given.
    let text = run_ok(&mut windlass(&podman, &["push", "app", to.trim_end_matches(":1"), "--insecure"]));
    let (reference, sentence) = text.trim_end().split_once('\n').unwrap();
    let own = built(&podman)["ref"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(reference, format!("{}/team/app:{own}@{}", registry.host, digest.as_str().unwrap()));
    assert!(sentence.starts_with("1 image: 0 blobs uploaded, ") && sentence.ends_with("network 0 B"), "{sentence}");
}

#[test]
fn packed_layers_are_the_same_each_time_and_podman_runs_them() {
    let podman = linked_podman();
    app(&podman, 20_000_000);
    let registry = RealRegistry::start(&podman.env);
    let image_id =
        built(&podman)["platforms"][0]["configDigest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    for compression in ["gzip", "zstd"] {
        let to = |name: &str| format!("docker://{}/{compression}/{name}:1", registry.host);
        let more = ["--compression", compression];
        let first = push(&podman, &to("a"), &more);
        assert_ne!(first["images"][0]["digest"], first["images"][0]["built"]);
        let again = push(&podman, &to("a"), &more);
        assert_eq!((&again["images"][0]["digest"], &again["bytes"]), (&first["images"][0]["digest"], &json!(0)));
        // A memory that has another size than the registry: the manifest would have it too, and nothing could pull.
        let memory = podman.env.path("home/.cache/windlass/packed").join(compression);
        for entry in std::fs::read_dir(&memory).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, format!("{} 7\n", text.split(' ').next().unwrap())).unwrap();
        }
        let wrong = push(&podman, &to("a"), &more);
        assert_eq!(wrong["images"][0]["digest"], first["images"][0]["digest"]);
        // Without a memory of the first push.
        std::fs::remove_dir_all(podman.env.path("home")).unwrap();
        let anew = push(&podman, &to("b"), &more);
        assert_eq!(anew["images"][0]["digest"], first["images"][0]["digest"]);
        assert!(anew["bytes"].as_u64().unwrap() > 1_000_000, "{anew}");

        let name = to("a").trim_start_matches("docker://").to_owned();
        podman.ok("podman", &["pull", "--quiet", "--tls-verify=false", &name]);
        let id = podman.ok("podman", &["image", "inspect", "--format", "{{.Id}}", &name]);
        assert_eq!(id.trim(), image_id);
        let said = podman.ok("podman", &["run", "--rm", "--pull=never", "--network=none", "--read-only", &name]);
        assert_eq!(said, "hello\n");
        podman.ok("podman", &["rmi", &name]);
    }
}

#[test]
fn a_stack_is_pushed_with_all_its_images_and_layers_are_taken_over() {
    let podman = linked_podman();
    podman.stack();
    let registry = RealRegistry::start(&podman.env);
    let to = format!("docker://{}/ai", registry.host);
    let text = run_ok(&mut windlass(&podman, &["push", "stack", &to, "--insecure"]));
    let last = text.trim_end().lines().last().unwrap();
    assert!(last.starts_with("2 images: ") && last.contains(" 1 mounted; "), "{text}");
    let stack: Value = serde_json::from_slice(&std::fs::read(podman.env.path("stack/stack.json")).unwrap()).unwrap();
    for entry in ["images", "models"].iter().flat_map(|kind| stack[kind].as_array().unwrap()) {
        let tag = entry["ref"].as_str().unwrap().rsplit_once(':').unwrap().1;
        let name = entry["ref"].as_str().unwrap().rsplit_once(':').unwrap().0.rsplit_once('/').unwrap().1;
        let at = format!("{to}/{name}:{tag}");
        let inspect: Value = serde_json::from_str(&skopeo(&["inspect", "--tls-verify=false", &at])).unwrap();
        assert_eq!(inspect["Digest"], entry["digest"], "{text}");
    }
}

#[test]
fn what_cannot_be_pushed_is_told() {
    let podman = linked_podman();
    app(&podman, 100_000);
    let registry = RealRegistry::with_login(&podman.env, "alice", "s3cret");
    let fails = |arguments: &[&str]| {
        let output = windlass(&podman, arguments).output().unwrap();
        (output.status.code().unwrap(), podman.env.scrub(&String::from_utf8(output.stderr).unwrap()))
    };
    let to = format!("docker://{}/app:1", registry.host);
    let (code, said) = fails(&["push", "app", &to, "--insecure"]);
    assert!(code == 7 && said.contains(&format!("podman login {}", registry.host)), "{code} {said}");
    let (code, said) = fails(&["push", "app", &registry.host]);
    assert!(code == 2 && said.contains("expected docker://REGISTRY/NAME[:TAG]"), "{code} {said}");
    let (code, said) = fails(&["push", "app", "docker://registry.example/app", "--insecure"]);
    assert!(said.contains("plain HTTP is for a registry on this machine only"), "{code} {said}");

    // A store path that is not what it was.
    let open = RealRegistry::start(&podman.env);
    let noise: PathBuf = podman.env.path("store").join(base_name("noise-2"));
    std::fs::set_permissions(&noise, PermissionsExt::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(&noise).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&noise, bytes).unwrap();
    for compression in ["none", "zstd"] {
        let to = format!("docker://{}/app:1", open.host);
        let (code, said) = fails(&["push", "app", &to, "--insecure", "--compression", compression]);
        assert!(code == 4 && said.contains("noise-2 changed since it was built"), "{compression}: {code} {said}");
        let head = Command::new("skopeo").args(["inspect", "--tls-verify=false", &to]).output().unwrap();
        assert!(!head.status.success(), "a manifest of something that is not there");
    }
}
