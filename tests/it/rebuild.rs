//! `windlass verify --rebuild`: a byte that was changed is found, in a store path, in a copy, and in what a derivation gives.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::attest::fixture;
use crate::env::{Env, LinkedPodman, base_name, linked_podman};
use crate::nix;

fn windlass(podman: &LinkedPodman, arguments: &[&str]) -> (i32, String) {
    let mut command = podman.command("windlass", arguments);
    let Output { status, stdout, stderr } = command.env("COSIGN_PASSWORD", "windlass").output().unwrap();
    let text = [stdout, stderr].concat();
    (status.code().unwrap(), podman.env.scrub(&String::from_utf8(text).unwrap()))
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Changes a byte of a file that may not be written to; gives back what it was.
fn change(path: &Path, at: usize, to: u8) -> u8 {
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let was = std::mem::replace(&mut bytes[at], to);
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    was
}

/// The blob of a bundle that has the store path of this name, and where the content of that begins in it.
fn blob_of(env: &Env, name: &str) -> (PathBuf, usize) {
    let app = read(env.path("copy/images/app/image.json"));
    let layers = app["platforms"][0]["layers"].as_array().unwrap();
    let owns = |layer: &&Value| layer["owners"].to_string().contains(&base_name(name));
    let digest = layers.iter().find(owns).unwrap()["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let path = env.path("copy/blobs/sha256").join(digest);
    let bytes = std::fs::read(&path).unwrap();
    let header = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    (path, header - header % 512 + 512)
}

#[test]
fn a_changed_byte_is_found_in_a_store_path_and_in_a_copy() {
    let podman = linked_podman();
    podman.stack();
    let env = &podman.env;
    podman.ok("windlass", &["export", "stack", "--bundle", "copy"]);
    let (code, said) = windlass(&podman, &["verify", "--rebuild", "stack", "--statement", "plain.json"]);
    assert!(code == 0 && said.contains("2 images, ") && said.contains("built again from recipes: all equal"), "{said}");
    let plain = read(env.path("plain.json"));
    assert_eq!(
        (&plain["predicateType"], &plain["predicate"]["result"]),
        (&json!("urn:windlass:rebuild:1"), &json!("PASSED"))
    );
    let app = read(env.path("stack/images/app/image.json"));
    let digest = app["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let subjects = plain["subject"].as_array().unwrap();
    assert!(subjects.iter().any(|subject| subject["digest"]["sha256"] == *digest), "{plain}");
    let against = ["verify", "--rebuild", "stack/images/app", "--against", "copy"];
    let (code, said) = windlass(&podman, &[&against[..], &["--json"]].concat());
    let layers = serde_json::from_str::<Value>(&said).unwrap()["images"][0]["layers"].clone();
    assert_eq!((code, &layers[0]["compared"], &layers[0]["rebuilt"]), (0, &json!(true), &layers[0]["digest"]));

    // A store path that is not what it was.
    let library = env.path("store").join(base_name("lib-3"));
    let place = format!("$T/store/{}", base_name("lib-3"));
    assert_eq!(change(&library, 12_345, b'y'), b'x');
    let (code, said) = windlass(&podman, &["verify", "--rebuild", "stack/images/app"]);
    assert!(code == 4 && said.contains(&format!("differs first at {place}; which byte is not known")), "{said}");
    assert!(said.contains(&format!("look at {place}\n")), "{said}");
    let key = fixture("encrypted.key");
    let signed = ["--statement", "signed.json", "--key", &key];
    let (code, said) = windlass(&podman, &[&against[..], &signed].concat());
    assert!(
        code == 4 && said.contains(&format!("differs first at byte 12345 of {place}: it was 0x78, and is 0x79 now")),
        "{said}"
    );
    assert!(said.ends_with("windlass: 1 image is not what it is built of\n"), "{said}");
    let mut verify = Command::new(crate::attest::cosign_of("sid"));
    verify.env_clear().env("HOME", env.path("home")).args([
        "verify-blob-attestation",
        "--insecure-ignore-tlog",
        "--key",
        &fixture("encrypted.pub"),
    ]);
    verify.args(["--type", "urn:windlass:rebuild:1", "--bundle"]).arg(env.path("signed.json"));
    crate::env::run_ok(verify.arg(env.path("stack/images/app/blobs/sha256").join(digest)));
    // A file of another size: its header.
    change(&library, 12_345, b'x');
    std::fs::set_permissions(&library, PermissionsExt::from_mode(0o644)).unwrap();
    let bytes = std::fs::read(&library).unwrap();
    std::fs::write(&library, &bytes[1..]).unwrap();
    std::fs::set_permissions(&library, PermissionsExt::from_mode(0o444)).unwrap();
    let (code, said) = windlass(&podman, &against);
    assert!(code == 4 && said.contains(&format!("differs first at the header of {place}")), "{said}");
    podman.store_file("lib-3", &bytes);
    assert_eq!(windlass(&podman, &against).0, 0);

    // A copy that is not what it was.
    let (blob, start) = blob_of(env, "lib-3");
    change(&blob, start + 777, b'z');
    let (code, said) = windlass(&podman, &against);
    assert!(
        code == 4 && said.contains(&format!("byte 777 of {place}: the copy has 0x7a, and 0x78 is right")),
        "{said}"
    );
    assert!(said.contains("; the copy is damaged"), "{said}");

    for (arguments, words) in [
        (&["verify", "--rebuild"][..], "required arguments were not provided"),
        (&["verify", "--rebuild", "stack", "--against", "stack/images/app"], "does not have localhost/tiny:"),
        (&["verify", "--rebuild", "stack", "--key", &key], "required arguments were not provided"),
        (&["verify", "stack", "--statement", "x"], "required arguments were not provided"),
    ] {
        let (code, said) = windlass(&podman, arguments);
        assert!(code == 2 && said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn nix_builds_a_derivation_again_and_the_byte_is_named_that_differs() {
    let env = Env::new();
    let verify = |path: &Path| {
        let mut command = env.windlass(["verify", "--rebuild", path.to_str().unwrap()]);
        let config = "experimental-features = nix-command\nsandbox = false\nbuild-users-group =\nsubstitute = false";
        let output = command.env("NIX_CONFIG", config).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let same = nix::build(r#"w.buildImage { name = "again"; config.Cmd = [ "/hello" ]; files."/hello" = builtins.toFile "hello" "hello"; }"#).unwrap();
    let (code, said) = verify(&same);
    assert!(code == 0 && said.contains("built again from the derivation: all equal"), "{said}");
    // One that puts the time into a layer, far into a file.
    let script = r#"export PATH=${bin}/bin:/usr/bin:/bin; yes | head --bytes=5000 > when; date +%N >> when; echo \"{\\\"kind\\\": \\\"image\\\", \\\"name\\\": \\\"odd\\\", \\\"tag\\\": \\\"1\\\", \\\"content\\\": {\\\"files\\\": {\\\"/when\\\": \\\"$PWD/when\\\"}}}\" > spec.json; windlass build spec.json --full --output $out"#;
    let odd = format!(
        r#"derivation {{ name = "odd"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "{script}" ]; }}"#
    );
    let odd = nix::build(&odd).unwrap();
    let (code, said) = verify(&odd);
    assert!(code == 4 && said.contains("localhost/odd:1: layer 1 ("), "{said}");
    let byte: u64 = said.split("differs first at byte ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((5000..5009).contains(&byte) && said.contains(" of /when: it was 0x3"), "{said}");
}
