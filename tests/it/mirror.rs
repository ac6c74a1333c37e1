//! `windlass upstream mirror`: a directory for skopeo and for Nix, and another registry.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::env::{LinkedPodman, linked_podman, run_ok};
use crate::fetch::{lock, locked};
use crate::push::{built, windlass};
use crate::registry_server::RealRegistry;

fn mirror(podman: &LinkedPodman, more: &[&str]) -> String {
    let mut arguments = vec!["upstream", "mirror"];
    arguments.extend(more);
    podman.env.scrub(&run_ok(&mut windlass(podman, &arguments)))
}

#[test]
fn a_directory_is_a_layout_and_a_hashed_mirror() {
    let podman = linked_podman();
    let mut registry = locked(&podman, 3_000_000);
    let blobs = lock(&podman)["blobs"].as_object().unwrap().clone();
    let out = mirror(&podman, &["--to", "copy"]);
    assert!(out.contains(&format!("1 image: {} blobs written, 0 present; network 5.", blobs.len())), "{out}");
    registry.stop();
    let out = mirror(&podman, &["--to", "copy", "--set-source"]);
    assert_eq!(out, format!("app: $T/copy\n1 image: 0 blobs written, {} present; network 0 B\n", blobs.len()));
    let image = &lock(&podman)["images"]["app"];
    assert_eq!((&image["source"], &image["mirror"]), (&json!("mirror"), &json!(podman.env.path("copy"))));
    let state = fs::read_dir(podman.env.path("home/.local/state/windlass/upstream")).unwrap();
    let state = state.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some()).unwrap();
    let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
    assert_eq!(state["images"]["app"]["localDigest"], built(&podman)["digest"]);
    assert!(state["images"]["app"]["syncedAt"].is_string(), "{state}");

    // skopeo reads it, with the digest that upstream has.
    let layout = format!("oci:{}:app", podman.env.path("copy").display());
    let inspect: Value = serde_json::from_str(&run_ok(Command::new("skopeo").args(["inspect", &layout]))).unwrap();
    assert_eq!(inspect["Digest"], built(&podman)["digest"]);
    run_ok(Command::new("skopeo").args([
        "--insecure-policy",
        "copy",
        &layout,
        &format!("dir:{}", podman.env.path("dir").display()),
    ]));

    // Nix takes its blobs where the address leads nowhere.
    let (digest, _) = blobs.iter().next().unwrap();
    let hex = &digest[7..];
    let expression = format!(
        "import <nix/fetchurl.nix> {{ url = \"http://127.0.0.1:9/{hex}\"; sha256 = \"{hex}\"; name = \"oci-blob-sha256-{hex}\"; }}"
    );
    let mirrors = format!("file://{}", podman.env.path("copy/blobs").display());
    let mut build =
        podman.command("nix-build", &["--no-out-link", "--expr", &expression, "--option", "hashed-mirrors", &mirrors]);
    build.args(["--option", "sandbox", "false", "--option", "build-users-group", ""]);
    let path = run_ok(&mut build);
    assert_eq!(&windlass::internals::oci::digest::Digest::of(&fs::read(path.trim()).unwrap()).to_string(), digest);

    // What is fetched comes from the mirror: upstream is gone.
    let out = run_ok(&mut windlass(&podman, &["upstream", "fetch"]));
    assert!(out.ends_with(&format!("{} fetched, 1 present; network 0 B\n", blobs.len() - 1)), "{out}");
}

#[test]
fn a_registry_gets_what_it_lacks() {
    let podman = linked_podman();
    let mut upstream = locked(&podman, 3_000_000);
    let blobs = lock(&podman)["blobs"].as_object().unwrap().len();
    let other = RealRegistry::start(&podman.env);
    let to = format!("docker://{}/m", other.host);
    let out = mirror(&podman, &["--to", &to, "--insecure", "--set-source"]);
    assert!(out.starts_with(&format!("app: {to}/app\n1 image: {blobs} blobs written, 0 present; ")), "{out}");
    // What was received and not in the Nix store went out again as it came.
    let network = out.trim_end().rsplit_once("; network ").unwrap().1;
    let (sum, parts) = network.split_once(" (").unwrap();
    let (received, sent) = parts.strip_suffix(" sent)").unwrap().split_once(" received, ").unwrap();
    let numbers = [sum, received, sent].map(|size| size.strip_suffix(" MB").unwrap().parse::<f64>().unwrap());
    let locked = lock(&podman)["blobs"].as_object().unwrap().clone();
    let all = locked.values().map(|blob| blob["size"].as_f64().unwrap()).sum::<f64>() / 1e6;
    assert!((numbers[2] - all).abs() < 0.1 && (numbers[0] - numbers[1] - numbers[2]).abs() < 0.11, "{out} {all}");
    let out = mirror(&podman, &["--to", &to, "--insecure"]);
    assert!(out.ends_with(&format!("1 image: 0 blobs written, {blobs} present; network 0 B\n")), "{out}");
    let at = format!("{to}/app:1");
    let inspect: Value =
        serde_json::from_str(&run_ok(Command::new("skopeo").args(["inspect", "--tls-verify=false", &at]))).unwrap();
    assert_eq!(inspect["Digest"], built(&podman)["digest"]);

    // Within one registry blobs are mounted: none is read.
    let near = format!("docker://{}/m", upstream.host);
    let out = mirror(&podman, &["--to", &near, "--insecure"]);
    assert!(out.ends_with(&format!("1 image: 0 blobs written, {blobs} present; network 0 B\n")), "{out}");

    upstream.stop();
    let out = run_ok(&mut windlass(&podman, &["upstream", "fetch"]));
    assert!(out.starts_with(&format!("{blobs} blobs: {blobs} fetched, 0 present; ")), "{out}");
}

#[test]
fn what_is_no_mirror_is_left_alone() {
    let podman = linked_podman();
    let _registry = locked(&podman, 100_000);
    podman.env.write("mine/letter.txt", "dear");
    for (to, code, told) in [
        ("mine", 1, "is in the way of a mirror"),
        ("docker://127.0.0.1:9/m:tag", 2, "expected docker://REGISTRY/PREFIX"),
        ("https://x/y", 2, "expected a directory"),
    ] {
        let output = windlass(&podman, &["upstream", "mirror", "--to", to]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && said.contains(told), "{to}: {said}");
    }
    assert_eq!(fs::read_dir(podman.env.path("mine")).unwrap().count(), 1);
}
