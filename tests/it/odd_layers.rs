//! Layers that are not what something says of them, and names that no layer can have.

use std::fs;

use serde_json::json;
use windlass::internals::oci::compression::Compression::{Gzip, None, Zstd};

use crate::engine::Podman;
use crate::env::{Env, run_ok};
use crate::foreign::Foreign;
use crate::registry_server::RealRegistry;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Every packing under the type of another one. containers/image goes by the bytes, and so does Docker.
#[test]
fn the_bytes_of_a_layer_say_how_it_is_packed() {
    let podman = Podman::linked();
    let ways = [
        (OCI, [(Gzip, None.media_type()), (None, Gzip.media_type())]),
        (OCI, [(Zstd, Gzip.media_type()), (Gzip, Zstd.media_type())]),
        (DOCKER, [(None, DOCKER_GZIP), (Gzip, DOCKER_GZIP)]),
    ];
    for (n, (manifest, layers)) in ways.into_iter().enumerate() {
        let (env, name) = (Env::new(), format!("odd{n}"));
        let foreign = Foreign::of(&env, "two", manifest, layers);
        let image = foreign.build(&env, &name);
        assert!(env.ok(["verify", "--full", image.to_str().unwrap()]).contains("all good"));
        for via in ["store", "podman"] {
            assert!(podman.load(&image, &["--via", via, "--force"]).last().contains("1 loaded"), "{name} {via}");
            let by_digest = format!("localhost/{name}@{}", foreign.digest());
            let run = [
                "run",
                "--rm",
                "--pull=never",
                "--network=none",
                &by_digest,
                "sh",
                "-c",
                "cat /etc/two; ls /etc/gone 2>&1",
            ];
            let said = podman.command("podman").args(run).output().unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            assert!(said.starts_with("two\n") && said.contains("No such file"), "{name} {via}");
        }
        // What is built upon it has a manifest of its own, which says how each layer is really packed.
        let above = json!({ "kind": "image", "name": format!("above{n}"), "tag": "1", "fromImage": image,
            "content": { "texts": { "/etc/three": "three\n" } } });
        let above = podman.build(&format!("above{n}"), &above);
        let layers = crate::foreign::read(&above.join("image.json"))["platforms"][0]["layers"].clone();
        let said = |n: usize| layers[n]["packed"]["mediaType"].as_str().unwrap_or(None.media_type()).to_owned();
        assert_eq!([said(0), said(1)], ways_of(n), "{layers}");
        assert!(podman.load(&above, &[]).last().contains("1 loaded"));
    }
    assert_eq!(podman.said(&["verify", "--full"]).code, 0);
}

fn ways_of(n: usize) -> [&'static str; 2] {
    [[Gzip, None], [Zstd, Gzip], [None, Gzip]][n].map(windlass::internals::oci::compression::Compression::media_type)
}

#[test]
fn what_is_no_layer_by_any_packing_says_which_type_it_has() {
    let env = Env::new();
    let foreign = Foreign::of(&env, "two", OCI, [(Gzip, None.media_type()), (Gzip, Gzip.media_type())]);
    let mut spec = foreign.spec("others");
    let layers = spec["layers"].as_array().unwrap().clone();
    let (one, two) = (fs::read(layers[0].as_str().unwrap()).unwrap(), fs::read(layers[1].as_str().unwrap()).unwrap());
    // The diff ID of the other layer: the bytes unpack, and are not what the config says.
    let (from, to) =
        (windlass::internals::oci::digest::Digest::of(&one), windlass::internals::oci::digest::Digest::of(&two));
    let manifest = foreign.manifest.replacen(&from.to_string(), &to.to_string(), 1);
    let manifest = manifest.replacen(&format!("\"size\":{}", one.len()), &format!("\"size\":{}", two.len()), 1);
    spec["manifest"] = manifest.into();
    spec["layers"][0] = layers[1].clone();
    let spec = env.write("others.json", spec.to_string());
    let (code, message) = env.fails(["build", spec.to_str().unwrap()]);
    assert_eq!(code, 1, "{message}");
    assert!(
        message.contains("(its type is application/vnd.oci.image.layer.v1.tar, and its bytes are not)"),
        "{message}"
    );
}

/// A registry has such an image, and the lock takes it like any other.
#[test]
fn an_image_with_a_wrong_type_is_pinned_and_fetched() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let foreign = Foreign::of(&env, "two", OCI, [(Gzip, None.media_type()), (None, Gzip.media_type())]);
    foreign.push(&env, &registry.host, "a/odd");
    let reference = format!("{}/a/odd:1.0", registry.host);
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let pinned = env.ok(["upstream", "add", "odd", &reference, "--insecure", "--platform", &platform]);
    assert!(pinned.contains(&foreign.digest().to_string()), "{pinned}");
    let mut fetch = env.windlass(["upstream", "fetch"]);
    let fetched = run_ok(fetch.env("HOME", env.path("home")));
    assert!(fetched.starts_with("3 blobs: "), "{fetched}");
}

#[test]
fn names_that_stand_for_something_removed_are_refused() {
    let env = Env::new();
    let refused = |spec: serde_json::Value, place: &str| {
        let spec = env.write("spec.json", spec.to_string());
        let (code, message) = env.fails(["build", spec.to_str().unwrap(), "--output", "out"]);
        assert_eq!(code, 1, "{message}");
        let expected = format!(
            "{place} cannot be in a layer: to container engines a name that begins with '.wh.' stands for something that was removed; rename it, or leave it out of the input"
        );
        assert!(env.scrub(&message).contains(&expected), "{message}");
        if !message.contains("layer m") {
            let (_, planned) = env.fails(["plan", spec.to_str().unwrap()]);
            assert!(planned.contains("'.wh.'"), "{planned}");
        }
        assert!(!env.path("out").exists());
    };
    let image = |content: serde_json::Value| json!({ "kind": "image", "name": "app", "tag": "1", "content": content });
    let tree = env.path("tree");
    fs::create_dir_all(tree.join("share/.wh.d")).unwrap();
    refused(image(json!({ "copyToRoot": [tree] })), "$T/tree/share/.wh.d");
    fs::remove_dir(tree.join("share/.wh.d")).unwrap();
    for name in [".wh.x", ".wh..wh..opq", ".wh."] {
        env.write(format!("tree/share/{name}"), "");
        refused(image(json!({ "copyToRoot": [tree] })), &format!("$T/tree/share/{name}"));
        refused(json!({ "kind": "model", "name": "m", "source": tree }), &format!("$T/tree/share/{name}"));
        fs::remove_file(tree.join("share").join(name)).unwrap();
    }
    refused(image(json!({ "texts": { "/etc/.wh.passwd": "" } })), "/etc/.wh.passwd");
    refused(image(json!({ "texts": { "/.wh.etc/passwd": "" } })), "/.wh.etc");
    // Anywhere else in a name they mean nothing.
    env.write("tree/share/a.wh.b", "");
    let spec = env.write("spec.json", image(json!({ "copyToRoot": [tree] })).to_string());
    env.ok(["build", spec.to_str().unwrap(), "--output", "out"]);
}
