//! `windlass export --compression`, read back by skopeo and Podman.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use windlass::internals::oci::digest::Digest;

use crate::env::{LinkedPodman, base_name, linked_podman, run_ok};
use crate::foreign::{Foreign, read};
use crate::push::{app, built, windlass};
use crate::registry_server::RealRegistry;

fn export(podman: &LinkedPodman, output: &str, more: &[&str]) -> String {
    run_ok(&mut windlass(podman, &[&["export", "app", "--output", output], more].concat()))
}

/// The manifest of an OCI directory, as skopeo reads it.
fn manifest(podman: &LinkedPodman, directory: &str) -> Value {
    let from = format!("oci:{}", podman.env.path(directory).display());
    serde_json::from_str(&run_ok(Command::new("skopeo").args(["inspect", "--raw", &from]))).unwrap()
}

#[test]
fn packed_exports_are_what_a_push_sends_and_podman_runs_them() {
    let podman = linked_podman();
    app(&podman, 4_000_000);
    let registry = RealRegistry::start(&podman.env);
    let image_id = built(&podman)["platforms"][0]["configDigest"].as_str().unwrap()["sha256:".len()..].to_owned();
    export(&podman, "plain.tar", &[]);
    let size = |name: &str| fs::metadata(podman.env.path(name)).unwrap().len();
    for compression in ["gzip", "zstd"] {
        let more = ["--compression", compression];
        let (archive, directory) = (format!("{compression}.tar"), format!("{compression}.oci"));
        export(&podman, &archive, &more);
        assert!(size(&archive) < size("plain.tar") - 500_000, "{compression}");
        export(&podman, &directory, &[&["--format", "oci"][..], &more].concat());
        let index = read(&podman.env.path(&directory).join("index.json"));
        let to = format!("docker://{}/app:{compression}", registry.host);
        let pushed =
            run_ok(&mut windlass(&podman, &[&["push", "app", &to, "--insecure", "--json"], &more[..]].concat()));
        let pushed: Value = serde_json::from_str(&pushed).unwrap();
        assert_eq!(index["manifests"][0]["digest"], pushed["images"][0]["digest"]);
        for layer in manifest(&podman, &directory)["layers"].as_array().unwrap() {
            let media_type = format!("application/vnd.oci.image.layer.v1.tar+{compression}");
            assert_eq!(layer["mediaType"], media_type);
            let blob = fs::read(
                podman.env.path(&directory).join("blobs/sha256").join(&layer["digest"].as_str().unwrap()[7..]),
            );
            assert_eq!(Digest::of(&blob.unwrap()).to_string(), layer["digest"]);
        }
        // The archive has the same in it, and the second one is the same file.
        let unpacked = podman.env.path(format!("{compression}.unpacked"));
        fs::create_dir(&unpacked).unwrap();
        run_ok(Command::new("tar").arg("-xf").arg(podman.env.path(&archive)).arg("-C").arg(&unpacked));
        let docker = fs::remove_file(unpacked.join("manifest.json"));
        assert!(docker.is_ok());
        run_ok(Command::new("diff").arg("-r").arg(&unpacked).arg(podman.env.path(&directory)));
        export(&podman, "again.tar", &more);
        assert_eq!(fs::read(podman.env.path("again.tar")).unwrap(), fs::read(podman.env.path(&archive)).unwrap());

        let path = podman.env.path(&archive);
        let said = podman.ok("podman", &["load", "--quiet", "--input", path.to_str().unwrap()]);
        let name = said.trim().rsplit_once(": ").unwrap().1.to_owned();
        let id = podman.ok("podman", &["image", "inspect", "--format", "{{.Id}}", &name]);
        assert_eq!(id.trim(), image_id);
        let said = podman.ok("podman", &["run", "--rm", "--pull=never", "--network=none", "--read-only", &name]);
        assert_eq!(said, "hello\n");
        podman.ok("podman", &["rmi", &name]);
    }
    let names = podman.ok("ls", &["--almost-all"]);
    assert!(!names.contains(".windlass-") && !names.contains(".layers"), "{names}");
}

#[test]
fn layers_that_came_packed_or_are_left_out_stay_as_they_are() {
    let podman = linked_podman();
    let env = &podman.env;
    let foreign = Foreign::new(env);
    env.write("spec.json", foreign.spec("others").to_string());
    env.ok(["build", "spec.json", "--output", "app"]);
    export(&podman, "others", &["--format", "oci", "--compression", "zstd"]);
    assert_eq!(read(&env.path("others/index.json"))["manifests"][0]["digest"], foreign.digest().to_string());
    assert_eq!(fs::read_dir(env.path("others/blobs/sha256")).unwrap().count(), 4);

    fs::remove_dir_all(env.path("app")).unwrap();
    app(&podman, 3_000_000);
    let layers = built(&podman)["platforms"][0]["layers"].as_array().unwrap().clone();
    let left_out = layers[0]["digest"].as_str().unwrap();
    let said = export(&podman, "less", &["--format", "oci", "--compression", "gzip", "--without", left_out]);
    assert!(said.starts_with(&format!("left out {left_out}\n")), "{said}");
    let found = manifest(&podman, "less")["layers"].clone();
    assert_eq!(found[0]["digest"], left_out);
    assert!(!env.path("less/blobs/sha256").join(&left_out[7..]).exists());
    assert!(found.as_array().unwrap()[1..].iter().all(|layer| layer["mediaType"].as_str().unwrap().ends_with("+gzip")));
}

#[test]
fn weights_that_are_packed_are_warned_of() {
    let podman = linked_podman();
    podman.stack();
    let stack = read(&podman.env.path("stack/stack.json"));
    let image = podman.env.path("stack/images/app");
    let model = stack["models"][0]["layers"][0]["digest"].as_str().unwrap();
    for (more, warned) in [(&[][..], true), (&["--without", "models"], false), (&["--without", model], false)] {
        let export = ["export", image.to_str().unwrap(), "--output", "out.tar", "--compression", "zstd"];
        let output = windlass(&podman, &[&export[..], more].concat()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.success(), said.contains("warning: weights get")), (true, warned), "{more:?} {said}");
    }
}

#[test]
fn what_cannot_be_packed_leaves_nothing() {
    let podman = linked_podman();
    app(&podman, 100_000);
    let fails = |arguments: &[&str]| {
        let output = windlass(&podman, &[&["export"], arguments].concat()).output().unwrap();
        (output.status.code().unwrap(), podman.env.scrub(&String::from_utf8(output.stderr).unwrap()))
    };
    let (code, said) = fails(&["app", "--output", "x", "--format", "modelpack", "--compression", "zstd"]);
    assert!(code == 2 && said.contains("--compression is for one image"), "{code} {said}");

    let noise = podman.env.path("store").join(base_name("noise-2"));
    fs::set_permissions(&noise, PermissionsExt::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(&noise).unwrap();
    bytes[0] ^= 1;
    fs::write(&noise, bytes).unwrap();
    let before = podman.ok("ls", &["--almost-all"]);
    for format in ["oci", "archive"] {
        let (code, said) = fails(&["app", "--output", "x", "--format", format, "--compression", "zstd"]);
        assert!(code == 4 && said.contains("noise-2 changed since it was built"), "{format}: {code} {said}");
    }
    assert_eq!(podman.ok("ls", &["--almost-all"]), before);
}
