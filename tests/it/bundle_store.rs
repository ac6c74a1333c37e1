//! `windlass load BUNDLE --import-store`: what Nix itself says of the store paths that are put back.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::engine::{Podman, Said};
use crate::env::{base_name, closure, run_ok};
use crate::foreign::read;

/// Four store paths: `tool` and `doc` refer to `lib`, `lib` to itself, `plain` to nothing.
const PATHS: [(&str, &[&str]); 4] = [("doc", &["lib"]), ("lib", &["lib"]), ("plain", &[]), ("tool", &["lib"])];

struct Host {
    podman: Podman,
}

impl Host {
    /// A host with a bundle of an image with these paths, whose Nix store has none of them any more.
    fn new() -> Self {
        let podman = Podman::with_nix();
        let store = podman.home("store");
        podman.add("lib", "lib/a-b", "a name before that of a directory, as bytes are sorted", 0o444);
        podman.add("lib", "lib/a/b", vec![7; 100_001], 0o444);
        podman.add("tool", "bin/run", "#!/bin/sh\necho run\n", 0o555);
        symlink(store.join(base_name("lib")).join("lib/a"), store.join(base_name("tool")).join("lib")).unwrap();
        fs::create_dir(store.join(base_name("tool")).join("empty")).unwrap();
        fs::write(store.join(base_name("doc")), "a store path that is a file").unwrap();
        fs::set_permissions(store.join(base_name("doc")), fs::Permissions::from_mode(0o444)).unwrap();
        podman.add("plain", "text", "", 0o444);
        let graph = podman.env.write("closure.json", closure(store.to_str().unwrap(), &store, &PATHS));
        let deps: Vec<PathBuf> = ["tool", "doc", "plain"].map(|name| store.join(base_name(name))).to_vec();
        let spec = json!({ "kind": "image", "name": "app", "tag": "1", "storeDir": store,
            "content": { "deps": deps, "texts": { "/text": "app" } }, "config": { "Cmd": ["/text"] } });
        let spec = podman.env.write("spec.json", spec.to_string());
        let [spec, graph] = [&spec, &graph].map(|path| path.to_str().unwrap());
        podman.env.ok(["build", spec, "--closure", graph, "--output", "image"]);
        podman.env.ok(["export", "image", "--bundle", "bundle", "--max-file", "60kB"]);
        for (name, _) in PATHS {
            let path = store.join(base_name(name));
            drop(fs::remove_dir_all(&path));
            drop(fs::remove_file(path));
        }
        Self { podman }
    }

    fn load(&self, options: &[&str]) -> Said {
        self.podman.load(&self.podman.env.path("bundle"), options)
    }

    fn path(&self, name: &str) -> String {
        self.podman.home("store").join(base_name(name)).to_str().unwrap().to_owned()
    }

    fn nix(&self, arguments: &[&str]) -> String {
        run_ok(self.podman.command("nix-store").args(arguments))
    }
}

#[test]
fn what_is_put_back_is_what_nix_had() {
    let host = Host::new();
    let planned = host.load(&["--import-store", "--dry-run"]);
    assert!(planned.stdout.starts_with("4 store paths, 102.2 kB, to put into the Nix store\n"), "{planned:?}");
    assert!(!fs::exists(host.path("lib")).unwrap());
    let said = host.load(&["--import-store"]);
    assert!(said.last().starts_with("1 image, 0 models: 1 loaded"), "{said:?}");
    assert!(said.stdout.starts_with("4 store paths, 102.2 kB, put into the Nix store\n"), "{said:?}");
    let recorded = read(&host.podman.env.path("image/closure.json"));
    for (n, (name, references)) in PATHS.iter().enumerate() {
        let path = host.path(name);
        let hash = host.nix(&["--query", "--hash", &path]);
        let sri = recorded.as_array().unwrap().iter().find(|entry| entry["path"] == path.as_str()).unwrap();
        let sri = sri["narHash"].as_str().unwrap();
        let mut command = host.podman.command("nix-hash");
        let told = run_ok(command.args(["--type", "sha256", "--to-base32", &sri_to_hex(sri)]));
        assert_eq!(hash.trim(), format!("sha256:{}", told.trim()), "{n}");
        let expected: Vec<String> = references.iter().map(|name| host.path(name)).collect();
        let found: Vec<String> = host.nix(&["--query", "--references", &path]).lines().map(str::to_owned).collect();
        assert_eq!(found, expected);
    }
    host.nix(&["--verify", "--check-contents"]);
    // The generation keeps them.
    host.nix(&["--gc"]);
    assert!(PATHS.iter().all(|(name, _)| fs::symlink_metadata(host.path(name)).is_ok()));

    // All there: nothing is put back, and a generation that is there already keeps them.
    let again = host.load(&["--import-store", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!((&report["storePaths"]["imported"], &report["loaded"]), (&json!(0), &json!(0)), "{again:?}");
    let roots = host.nix(&["--query", "--roots", &host.path("lib")]);
    assert!(roots.contains("/roots/"), "{roots}");
}

/// Hex of a hash as `closure.json` has it.
fn sri_to_hex(sri: &str) -> String {
    run_ok(std::process::Command::new("python3").args([
        "-c",
        "import base64, sys; print(base64.b64decode(sys.argv[1][7:]).hex(), end='')",
        sri,
    ]))
}

#[test]
fn a_host_is_told_of_it_and_what_is_there_already_gets_a_root() {
    let host = Host::new();
    let said = host.load(&[]);
    // Without a database there is no Nix.
    assert!(said.code == 0 && !said.stderr.contains("--import-store"), "{said:?}");
    host.nix(&["--init"]);
    let said = host.load(&["--force"]);
    assert!(said.stderr.contains("hint: the Nix store lacks 4 store paths of these images, 102.2 kB"), "{said:?}");
    assert!(!fs::exists(host.path("lib")).unwrap());
    // Nothing is loaded, and so no generation made: the current one keeps what is put back.
    let said = host.load(&["--import-store"]);
    assert!(said.last().starts_with("1 image, 0 models: 0 loaded, 1 present"), "{said:?}");
    host.nix(&["--gc"]);
    assert!(PATHS.iter().all(|(name, _)| fs::symlink_metadata(host.path(name)).is_ok()));
}

#[test]
fn what_is_damaged_gets_into_no_store() {
    let host = Host::new();
    // The byte lies in a file of `lib`, to which two others refer.
    let blobs = host.podman.env.path("bundle/blobs/sha256");
    let parts: Vec<PathBuf> = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path()).collect();
    let hit = |path: &PathBuf| fs::read(path).unwrap().windows(9).position(|bytes| bytes == [7; 9]);
    let (part, place) = parts.iter().find_map(|path| Some((path, hit(path)?))).unwrap();
    let mut bytes = fs::read(part).unwrap();
    bytes[place + 4] = 8;
    fs::write(part, bytes).unwrap();
    host.nix(&["--init"]);
    let said = host.load(&["--import-store"]);
    assert_eq!(said.code, 4, "{said:?}");
    let line = |name: &str, why: &str| format!("{} is not put back: {why}", host.path(name));
    assert!(said.stderr.contains(&line("lib", "its bytes do not have the hash that Nix recorded")), "{said:?}");
    for name in ["tool", "doc"] {
        assert!(said.stderr.contains(&line(name, "it refers to a store path that is damaged")), "{said:?}");
    }
    let valid = |name: &str| host.podman.command("nix-store").args(["--check-validity", &host.path(name)]).output();
    let valid = |name: &str| valid(name).unwrap().status.success();
    assert!(valid("plain") && ["lib", "tool", "doc"].iter().all(|name| !valid(name)));
    host.nix(&["--verify", "--check-contents"]);
}

#[test]
fn an_archive_of_one_image_is_loaded_too() {
    let host = Host::new();
    let podman = &host.podman;
    for name in ["ours.tar", "podman.tar", "docker.tar"] {
        let archive = podman.env.path(name);
        let file = archive.to_str().unwrap();
        match name {
            "ours.tar" => {
                host.load(&[]).last();
                podman.env.ok(["export", "bundle", "--bundle", "tars", "--tar"]);
                fs::copy(podman.env.path("tars/images/app.tar"), &archive).unwrap();
            }
            "podman.tar" => drop(podman.run(&["save", "--format", "oci-archive", "--output", file, "localhost/app:1"])),
            _ => drop(podman.run(&["save", "--output", file, "localhost/app:1"])),
        }
        let built = read(&podman.env.path("image/image.json"))["platforms"][0]["configDigest"].clone();
        for other in [Podman::linked(), Podman::new()] {
            assert!(other.load(&archive, &[]).last().starts_with("1 image, 0 models: 1 loaded"));
            let id = other.run(&["image", "inspect", "--format", "{{.Id}}", "localhost/app:1"]);
            assert_eq!(format!("sha256:{}", id.trim()), built.as_str().unwrap(), "{name}");
            let again = other.load(&archive, &[]);
            assert!(again.last().starts_with("1 image, 0 models: 0 loaded, 1 present"), "{again:?}");
            assert_eq!(other.load(&podman.env.write("no.tar", "no archive"), &[]).code, 1);
            assert!(other.said(&["verify", "--full"]).last().contains("all good"));
        }
    }
    // Nothing is left of what was unpacked, and what does not fit is said before.
    let folder = podman.env.path("unpacked");
    fs::create_dir(&folder).unwrap();
    let load = |folder: &Path, file: &str| {
        let mut command = podman.windlass(&["load", podman.env.path(file).to_str().unwrap(), "--force"]);
        Said::of(&command.env("TMPDIR", folder).output().unwrap())
    };
    assert_eq!(load(&folder, "ours.tar").code, 0);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    let small = podman.env.mount("small", "tmpfs", 8192);
    let refused = load(&small.0, "ours.tar");
    assert!(refused.code == 5 && refused.stderr.contains("hint: set TMPDIR"), "{refused:?}");
}
