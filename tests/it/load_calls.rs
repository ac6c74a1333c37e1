//! What a load asks of the kernel for each file. A time would say nothing on a busy machine; one call more for each of a hundred thousand
//! files is a tenth of a second, and is seen here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::engine::Podman;
use crate::env::run_ok;

/// Files of an image.
const FILES: usize = 200;

const STAT: [&str; 3] = ["statx", "newfstatat", "fstat"];
const OPEN: [&str; 3] = ["open", "openat", "openat2"];
const READ: [&str; 3] = ["read", "pread64", "readv"];
const WRITE: [&str; 3] = ["write", "pwrite64", "writev"];
const OWNER: [&str; 4] = ["chown", "lchown", "fchown", "fchownat"];
const MODE: [&str; 3] = ["chmod", "fchmod", "fchmodat"];
const ATTRIBUTE: [&str; 6] = ["setxattr", "lsetxattr", "fsetxattr", "listxattr", "llistxattr", "flistxattr"];

/// An image with files of a store path.
fn image(podman: &Podman) -> PathBuf {
    let mut path = PathBuf::new();
    for file in 0..FILES {
        path = podman.add("many", &format!("share/weighed-{file:03}"), format!("{file} ").repeat(700), 0o444);
    }
    podman.image("many", &[podman.model("files", "/files", &path)], &[])
}

/// The same as an image of others: its layers are archives, packed.
fn packed(podman: &Podman, image: &Path) -> PathBuf {
    let layout = image.with_extension("oci");
    let [from, to] = [image, &layout].map(|path| path.to_str().unwrap());
    podman.env.ok(["export", from, "--format", "oci", "--compression", "gzip", "--output", to]);
    let json = |path: PathBuf| fs::read_to_string(path).unwrap();
    let of = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let blob = |blob: &Value| layout.join("blobs/sha256").join(&blob["digest"].as_str().unwrap()["sha256:".len()..]);
    let manifest = json(blob(&of(&json(layout.join("index.json")))["manifests"][0]));
    let told = of(&manifest);
    let layers: Vec<_> = told["layers"].as_array().unwrap().iter().map(blob).collect();
    let spec = json!({ "kind": "upstream", "name": "others", "manifest": manifest,
        "config": blob(&told["config"]), "layers": layers });
    podman.build("built-others", &spec)
}

/// Holds what a load asks about each file of an image against what it may ask.
fn costs(podman: &Podman, image: &Path, limits: &[(&str, &[&str], usize)]) {
    let log = podman.env.path("trace");
    // With the paths of descriptors, and none cut short.
    run_ok(&mut podman.traced(&log, &["-y", "-s", "400"], &["load", image.to_str().unwrap()]));
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for call in fs::read_to_string(&log).unwrap().lines().filter(|call| call.contains("weighed-")) {
        let name = call.split_once(' ').unwrap().1.trim_start().split('(').next().unwrap();
        *calls.entry(name.to_owned()).or_default() += 1;
    }
    for (what, names, limit) in limits {
        let count: usize = names.iter().filter_map(|name| calls.get(*name)).sum();
        // A few files are cut in two by the end of a buffer.
        assert!(
            (limit * FILES..=limit * FILES + FILES / 5).contains(&count),
            "{what}: {count}, not {limit} for each: {calls:?}"
        );
    }
}

/// Nix does not vouch for these images: each file is read, through the descriptor that tells that it is the right one.
#[test]
fn a_linked_file_is_looked_at_thrice_and_opened_and_read_once() {
    let podman = Podman::linked();
    // Once to say what would be copied, once by the walk that links, once when it is linked.
    let limits: [(&str, &[&str], usize); 7] = [
        ("stat", &STAT, 3),
        ("link", &["linkat"], 1),
        ("open", &OPEN, 1),
        ("read", &READ, 1),
        ("write", &WRITE, 0),
        ("owner", &OWNER, 0),
        ("mode", &MODE, 0),
    ];
    costs(&podman, &image(&podman), &limits);
}

#[test]
fn an_unpacked_file_is_made_and_written_at_once() {
    let podman = Podman::linked();
    let image = packed(&podman, &image(&podman));
    let limits: [(&str, &[&str], usize); 8] = [
        ("open", &OPEN, 1),
        ("stat", &STAT, 1),
        ("write", &WRITE, 1),
        ("owner", &OWNER, 0),
        ("mode", &MODE, 0),
        ("attribute", &ATTRIBUTE, 0),
        ("time", &["utimensat"], 1),
        ("sync", &["fsync", "fdatasync", "sync_file_range"], 0),
    ];
    costs(&podman, &image, &limits);
}
