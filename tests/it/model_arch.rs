//! Two architectures, one copy of the model: in the image directory, the archive, the OCI directory, the stack and its
//! archives, the registry and the linked store; and what is for another machine is refused by name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::env::{LinkedPodman, linked_podman, run_ok};
use crate::push::windlass;
use crate::registry_server::RealRegistry;

/// Bytes of the model's file; nothing else is nearly as large.
const WEIGHTS: usize = 3_000_000;
const HOST: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const OTHER: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };

/// `model`, images `amd64` and `arm64` over it, their `index`, and a `stack` of both.
fn set_up() -> LinkedPodman {
    let podman = linked_podman();
    let noise: Vec<u8> =
        (0..WEIGHTS as u64 / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let file = podman.store_file("m.gguf", &noise);
    let store = podman.env.path("store");
    build(&podman, "model", &json!({ "kind": "model", "name": "m", "storeDir": store, "files": { "m.gguf": file } }));
    for architecture in ["amd64", "arm64"] {
        let spec = json!({ "kind": "image", "name": "app", "tag": "1", "platform": format!("linux/{architecture}"),
            "storeDir": store, "models": [{ "built": podman.env.path("model") }],
            "content": { "texts": { "/architecture": architecture } } });
        build(&podman, architecture, &spec);
    }
    let images = ["amd64", "arm64"].map(|name| podman.env.path(name));
    build(&podman, "index", &json!({ "kind": "index", "name": "app", "tag": "1", "images": images }));
    stack(&podman, "stack", "index");
    podman
}

fn stack(podman: &LinkedPodman, name: &str, image: &str) {
    let [image, model] = [image, "model"].map(|name| podman.env.path(name));
    build(podman, name, &json!({ "kind": "stack", "name": name, "built": [image], "models": [{ "built": model }] }));
}

fn build(podman: &LinkedPodman, name: &str, spec: &Value) {
    podman.env.write(format!("{name}.json"), spec.to_string());
    podman.env.write("none.json", "{}");
    podman.ok(
        "windlass",
        &["build", &spec_of(podman, name), "--closure", &path(podman, "none.json"), "--output", &path(podman, name)],
    );
}

fn spec_of(podman: &LinkedPodman, name: &str) -> String {
    path(podman, &format!("{name}.json"))
}

fn path(podman: &LinkedPodman, name: &str) -> String {
    podman.env.path(name).to_str().unwrap().to_owned()
}

/// The files below a folder that are as large as the weights, each inode once.
fn large(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let metadata = fs::symlink_metadata(entry.path()).unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.len() >= WEIGHTS as u64 && !found.iter().any(|(inode, _)| *inode == metadata.ino()) {
                found.push((metadata.ino(), entry.path()));
            }
        }
    }
    found.into_iter().map(|(_, path)| path).collect()
}

/// The hex of the model's layer.
fn layer(podman: &LinkedPodman) -> String {
    let image: Value = serde_json::from_slice(&fs::read(podman.env.path("model/image.json")).unwrap()).unwrap();
    image["platforms"][0]["layers"][0]["digest"].as_str().unwrap()["sha256:".len()..].to_owned()
}

fn members(archive: &Path) -> Vec<String> {
    run_ok(Command::new("tar").arg("-tf").arg(archive)).lines().map(str::to_owned).collect()
}

#[test]
fn on_disk_the_model_is_there_once_for_both() {
    let podman = set_up();
    let blob = format!("blobs/sha256/{}", layer(&podman));
    let ok = |arguments: &[&str]| podman.ok("windlass", arguments);
    // Image directories of kilobytes, whatever the model weighs.
    for lean in ["amd64", "arm64", "index", "stack"] {
        assert_eq!(large(&podman.env.path(lean)), Vec::<PathBuf>::new(), "{lean}");
    }
    ok(&["export", &path(&podman, "index"), "--format", "oci", "--output", &path(&podman, "oci")]);
    assert_eq!(large(&podman.env.path("oci")), [podman.env.path("oci").join(&blob)]);
    ok(&["export", &path(&podman, "index"), "--output", &path(&podman, "app.tar")]);
    let names = members(&podman.env.path("app.tar"));
    assert_eq!(names.iter().filter(|name| **name == blob).count(), 1, "{names:?}");
    assert!(fs::metadata(podman.env.path("app.tar")).unwrap().len() < 2 * WEIGHTS as u64);
    // skopeo sees both, with the same layer.
    for architecture in ["amd64", "arm64"] {
        let source = format!("oci-archive:{}", path(&podman, "app.tar"));
        let inspect = run_ok(Command::new("skopeo").args(["--override-arch", architecture, "inspect", &source]));
        let inspect: Value = serde_json::from_str(&inspect).unwrap();
        assert_eq!(inspect["Architecture"], architecture);
        assert_eq!(inspect["Layers"][0], format!("sha256:{}", layer(&podman)));
    }

    ok(&["export", &path(&podman, "stack"), "--output", &path(&podman, "bundle")]);
    let bundle = podman.env.path("bundle");
    assert_eq!(large(&bundle), [bundle.join("models/m.tar")]);
    assert_eq!(members(&bundle.join("models/m.tar")).iter().filter(|name| **name == blob).count(), 1);
    let names = members(&bundle.join("images/app.tar"));
    assert!(!names.contains(&blob), "{names:?}");
    let stack: Value = serde_json::from_slice(&fs::read(bundle.join("stack.json")).unwrap()).unwrap();
    let platforms: Vec<_> =
        stack["images"].as_array().unwrap().iter().map(|image| (&image["platform"], &image["archive"])).collect();
    let archive = json!("images/app.tar");
    assert_eq!(platforms, [(&json!("linux/amd64"), &archive), (&json!("linux/arm64"), &archive)]);
}

#[test]
fn a_registry_gets_and_has_the_model_once() {
    let podman = set_up();
    let registry = RealRegistry::start(&podman.env);
    let push = |what: &str, to: &str| -> Value {
        let to = format!("docker://{}/{to}", registry.host);
        let arguments = ["push", &path(&podman, what), &to, "--insecure", "--json"];
        serde_json::from_str(&run_ok(&mut windlass(&podman, &arguments))).unwrap()
    };
    let first = push("index", "app:1");
    let bytes = first["bytes"].as_u64().unwrap();
    assert!((WEIGHTS as u64..2 * WEIGHTS as u64).contains(&bytes), "{first}");
    // The model's own image and the images over it, in other repositories: taken over, not sent.
    let second = push("stack", "ai");
    assert!(second["bytes"].as_u64().unwrap() < WEIGHTS as u64 + 100_000, "{second}");
    let data = podman.env.path(format!("registry-{}", registry.host.rsplit(':').next().unwrap()));
    let layer = layer(&podman);
    let blob = data.join(format!("docker/registry/v2/blobs/sha256/{}/{layer}/data", &layer[..2]));
    assert_eq!(large(&data), [blob]);
    let to = format!("docker://{}/app:1", registry.host);
    let raw = run_ok(Command::new("skopeo").args(["inspect", "--tls-verify=false", "--raw", &to]));
    let index: Value = serde_json::from_str(&raw).unwrap();
    let architectures: Vec<&Value> =
        index["manifests"].as_array().unwrap().iter().map(|entry| &entry["platform"]["architecture"]).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    // Packed, both still name one blob, and what is exported is what is pushed.
    let to = format!("docker://{}/packed:1", registry.host);
    let zstd = ["--compression", "zstd"];
    run_ok(&mut windlass(&podman, &[&["push", &path(&podman, "index"), &to, "--insecure"][..], &zstd].concat()));
    let output = path(&podman, "packed");
    let export = ["export", &path(&podman, "index"), "--format", "oci", "--output", &output];
    podman.ok("windlass", &[&export[..], &zstd].concat());
    let raw = |more: &[&str]| run_ok(Command::new("skopeo").args(["inspect", "--raw"]).args(more));
    let pushed = raw(&["--tls-verify=false", &to]);
    assert_eq!(raw(&[&format!("oci:{output}")]), pushed);
    let lowest = |entry: &Value| -> Value {
        let blob =
            fs::read(podman.env.path("packed/blobs/sha256").join(&entry["digest"].as_str().unwrap()[7..])).unwrap();
        serde_json::from_slice::<Value>(&blob).unwrap()["layers"][0].clone()
    };
    let index: Value = serde_json::from_str(&pushed).unwrap();
    let (one, other) = (lowest(&index["manifests"][0]), lowest(&index["manifests"][1]));
    assert_eq!(one, other);
    assert!(
        one["mediaType"].as_str().unwrap().ends_with("+zstd") && one["digest"] != format!("sha256:{layer}"),
        "{one}"
    );
}

#[test]
fn the_linked_store_has_the_model_once_and_of_the_index_this_machine_s_image() {
    let podman = set_up();
    let said = podman.ok("windlass", &["load", &path(&podman, "stack")]);
    assert!(said.contains("2 loaded, 0 present"), "{said}");
    let linked = large(&podman.env.path("linked"));
    let [file] = &linked[..] else { panic!("{linked:?}") };
    let source = podman.env.path("store").join(crate::env::base_name("m.gguf"));
    assert_eq!(fs::metadata(file).unwrap().ino(), fs::metadata(source).unwrap().ino(), "a link, and no copy");
    let inspect = podman.ok("podman", &["image", "inspect", "localhost/app:1"]);
    let inspect: Value = serde_json::from_str(&inspect).unwrap();
    assert_eq!(inspect[0]["Architecture"], HOST);
    assert_eq!(inspect[0]["RootFS"]["Layers"][0], format!("sha256:{}", layer(&podman)));
    // The image of the other architecture would lie on the same layer; it is not asked for, and refused by itself.
    let before = large(&podman.env.path("linked"));
    let (code, said) = podman.run("windlass", &["load", &path(&podman, OTHER)]);
    let sentence = format!(
        "windlass: localhost/app:1 is for linux/{OTHER}, and this host is linux/{HOST}; build it for linux/{HOST}\n"
    );
    assert_eq!((code, said, large(&podman.env.path("linked"))), (1, sentence, before));
}

#[test]
fn what_is_only_for_other_machines_is_refused_with_both_names() {
    let podman = set_up();
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "platform": "linux/s390x",
        "storeDir": podman.env.path("store"), "models": [{ "built": podman.env.path("model") }] });
    build(&podman, "s390x", &spec);
    let images = [OTHER, "s390x"].map(|name| podman.env.path(name));
    build(&podman, "others", &json!({ "kind": "index", "name": "app", "tag": "1", "images": images }));
    stack(&podman, "foreign", "others");
    let sentence = format!(
        "localhost/app:1 is for linux/{OTHER}, linux/s390x, and this host is linux/{HOST}; build it for linux/{HOST}"
    );
    for path_of in ["others", "foreign"] {
        for via in ["auto", "podman"] {
            let (code, said) = podman.run("windlass", &["load", &path(&podman, path_of), "--via", via]);
            assert_eq!((code, said), (1, format!("windlass: {sentence}\n")), "{path_of} {via}");
        }
    }
    assert_eq!(podman.ok("podman", &["images", "--quiet"]), "", "not even the model was loaded");

    // For Podman alone: it would load the image, and fail when it is run.
    podman.ok("windlass", &["export", &path(&podman, "foreign"), "--output", &path(&podman, "bundle")]);
    let script = path(&podman, "bundle/load.sh");
    let (code, said) = podman.run("sh", &[&script]);
    let end = format!(
        "load.sh: image app is for linux/{OTHER},linux/s390x, and this host is linux/{HOST}; build it for linux/{HOST}\n"
    );
    assert!(code == 1 && said.ends_with(&end), "{code} {said}");
    let images = podman.ok("podman", &["images", "--format", "{{.Repository}}"]);
    assert_eq!(images, "localhost/m\n", "models are for every machine");
    stack(&podman, "both", "index");
    podman.ok("windlass", &["export", &path(&podman, "both"), "--output", &path(&podman, "good")]);
    let said = podman.ok("sh", &[&path(&podman, "good/load.sh")]);
    assert!(said.ends_with("1 loaded, 1 present\n"), "{said}");
}
