//! What `plan`, `load --dry-run` and `load` say of bytes is what the disk has afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::engine::{Podman, Said};
use crate::golden::pattern;

const MIB: usize = 1 << 20;

/// Bytes in use on the file system of a path.
fn used(path: &Path) -> u64 {
    rustix::fs::syncfs(File::open(path).unwrap()).unwrap();
    let stat = rustix::fs::statvfs(path).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

/// A large file with this beginning, so that no two are the same.
fn large(podman: &Podman, name: &str, mib: usize) -> PathBuf {
    podman.add(name, "large", [name.as_bytes(), &pattern(mib * MIB)].concat(), 0o444)
}

fn image(podman: &Podman, name: &str, models: &[Value]) -> Value {
    json!({ "name": name, "tag": "1", "storeDir": podman.home("store"), "models": models,
        "content": { "texts": { "/name": name } }, "config": { "Cmd": ["/bin/sleep", "1000"] } })
}

fn stack(podman: &Podman, name: &str, images: &[Value]) -> PathBuf {
    podman.build(name, &json!({ "kind": "stack", "name": name, "images": images }))
}

/// Five stacks: one image; two that share; models [A, B] and [B] below the same programs; many small files; a model beside
/// its image.
fn stacks(podman: &Podman) -> BTreeMap<&'static str, PathBuf> {
    let model = |name: &str, source: &Path| podman.model(name, &format!("/{name}"), source);
    let programs = model("programs", &large(podman, "programs", 24));
    let (a, b) = (model("a", &large(podman, "a", 24)), model("b", &large(podman, "b", 16)));
    let small = podman.env.path("many");
    for n in 0..4000 {
        fs::create_dir_all(small.join(format!("d{}", n % 40))).unwrap();
        fs::write(small.join(format!("d{}/f{n}", n % 40)), vec![b'x'; n % 9000]).unwrap();
    }
    let only = |name: &str, models: &[Value]| image(podman, name, models);
    let many = |name: &str, models: &[Value]| {
        let mut image = only(name, models);
        image["content"]["files"] = json!({ "/small": small });
        image
    };
    [
        ("one", vec![only("one", std::slice::from_ref(&programs))]),
        (
            "shared",
            vec![only("first", std::slice::from_ref(&programs)), only("second", std::slice::from_ref(&programs))],
        ),
        ("chains", vec![only("both", &[a.clone(), b.clone()]), only("smaller", &[b])]),
        ("small", vec![many("many", &[])]),
        ("models", vec![many("small", &[a]), only("large", &[programs])]),
    ]
    .into_iter()
    .map(|(name, images)| (name, stack(podman, name, &images)))
    .collect()
}

fn near(said: u64, measured: u64) -> bool {
    said.abs_diff(measured) * 100 <= measured
}

fn plan_dry_run_and_disk(driver: &str, mib: u64) {
    let podman = Podman::with_nix();
    let conf = podman.env.path("podman/storage.conf");
    let settings = fs::read_to_string(&conf).unwrap();
    let first = podman.app("first-of-all", "so that Podman's own files are there");
    for (name, path) in stacks(&podman) {
        let place = podman.env.mount(&format!("{driver}-{name}"), "ext4", mib << 20);
        let root = place.0.join("root");
        let places = settings
            .replace("\"overlay\"", &format!("\"{driver}\""))
            .replace(podman.places().graph_root.to_str().unwrap(), root.to_str().unwrap());
        let run_root = podman.env.path(format!("run-{driver}-{name}"));
        fs::write(&conf, places.replace(podman.places().run_root.to_str().unwrap(), run_root.to_str().unwrap()))
            .unwrap();
        let by_podman = |path: &Path| podman.load(path, &["--via", "podman"]);
        by_podman(&first).last();
        let before = used(&place.0);
        let said = |arguments: &[&str]| -> Value {
            let said = podman.said(arguments);
            assert_eq!(said.code, 0, "{name}: {said:?}");
            serde_json::from_str(&said.stdout).unwrap()
        };
        let text = path.to_str().unwrap();
        let planned = said(&["plan", text, "--json"]);
        let dry = said(&["load", text, "--via", "podman", "--dry-run", "--json"]);
        let dry_bytes = dry["bytesToWrite"].as_u64().unwrap();
        by_podman(&path).last();
        let wrote = used(&place.0) - before;
        assert!(near(dry_bytes, wrote), "{driver} {name}: the dry run said {dry_bytes}, the disk has {wrote}");
        if driver == "overlay" {
            let stored = planned["stored"].as_u64().unwrap();
            assert!(near(stored, wrote), "{name}: the plan said {stored}, the disk has {wrote}");
        } else {
            // No linked store can be had there: it is what the plan says of this host.
            assert_eq!(planned["need"]["bytesToWrite"], dry["bytesToWrite"], "{name}");
        }
        podman.run(&["rmi", "--all", "--force"]);
        let overlay = root.join("overlay");
        drop(std::process::Command::new("umount").arg("--lazy").arg(overlay).output());
    }
    fs::write(&conf, settings).unwrap();
}

#[test]
fn plan_dry_run_and_disk_agree_on_five_stacks() {
    plan_dry_run_and_disk("overlay", 512);
}

#[test]
fn they_agree_with_the_driver_that_copies_whole_trees() {
    plan_dry_run_and_disk("vfs", 1024);
}

#[test]
fn what_vfs_costs_is_said_before_it_is_paid() {
    let podman = Podman::with_nix();
    let conf = podman.env.path("podman/storage.conf");
    let settings = fs::read_to_string(&conf).unwrap();
    // Podman keeps to the driver that it was first used with.
    let elsewhere = |root: &Path| {
        let (old, run) = (podman.places(), root.with_extension("run"));
        let places = settings.replace("\"overlay\"", "\"vfs\"");
        let places = places.replace(old.graph_root.to_str().unwrap(), root.to_str().unwrap());
        fs::write(&conf, places.replace(old.run_root.to_str().unwrap(), run.to_str().unwrap())).unwrap();
    };
    elsewhere(&podman.env.path("copies"));
    let models: Vec<Value> = (0..8)
        .map(|n| podman.model(&format!("m{n}"), &format!("/m{n}"), &large(&podman, &format!("m{n}"), 2)))
        .collect();
    let path = stack(&podman, "deep", &[image(&podman, "deep", &models)]);
    // Eight layers of 2 MiB and a small one, below each all that lie below it, and seven models that have an image of their own.
    let sentence = "warning: the storage driver vfs copies all layers below into each layer: ";
    for arguments in [&["plan"][..], &["load", "--dry-run"], &["load"]] {
        let said = podman.said(&[arguments, &[path.to_str().unwrap()]].concat());
        assert_eq!(said.code, 0, "{said:?}");
        let mut lines = said.stderr.lines().chain(said.stdout.lines());
        let line = lines.find(|line| line.contains(sentence)).unwrap_or_else(|| panic!("{said:?}"));
        assert!(line.contains(": 108.3 MB instead of 32.2 MB, 3.3 times as much"), "{line}");
        assert!(line.contains("the driver overlay does not, `maxLayers = 1`"), "{line}");
    }
    let small = podman.env.mount("small", "ext4", 96 << 20);
    elsewhere(&small.0.join("root"));
    for options in [&["--dry-run"][..], &[]] {
        let refused = podman.load(&path, options);
        assert_eq!(refused.code, 5, "{refused:?}");
        assert!(refused.stderr.contains(sentence) && refused.stderr.contains("; nothing was changed\n"), "{refused:?}");
    }
}

/// The only row of what a load says as JSON.
fn row(said: &Said) -> Value {
    assert_eq!(said.code, 0, "{said:?}");
    serde_json::from_str::<Value>(&said.stdout).unwrap()["images"][0].clone()
}

#[test]
fn what_cannot_be_linked_is_said_to_be_copied_and_why() {
    let podman = Podman::with_nix();
    let outside = podman.env.write("outside", pattern(3 * MIB));
    let changed = podman.add("changed", "file", pattern(2 * MIB), 0o644);
    let owned = podman.add("owned", "file", pattern(2 * MIB), 0o444);
    chown(owned.join("file"), Some(12345), Some(12345)).unwrap();
    let crowded = podman.add("crowded", "file", pattern(MIB), 0o444);
    let names = podman.home("names");
    fs::create_dir(&names).unwrap();
    for n in 0..64_999 {
        fs::hard_link(crowded.join("file"), names.join(n.to_string())).unwrap();
    }
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o444)).unwrap();
    let good = podman.add("good", "file", pattern(5 * MIB), 0o444);
    for (name, source, bytes, cause, words) in [
        ("outside", &outside, 3 * MIB, "not-in-store", "not in the Nix store"),
        ("changed", &changed, 2 * MIB, "changed", "modes or times in the Nix store were changed"),
        ("owned", &owned, 2 * MIB, "other-owner", "another owner in the image"),
        ("crowded", &crowded, MIB, "too-many-links", "too many links"),
    ] {
        let models = [podman.model("good", "/good", &good), podman.model(name, &format!("/{name}"), source)];
        let image = podman.image(name, &models, &[]);
        let expected = json!({ cause: bytes });
        let dry = row(&podman.load(&image, &["--dry-run", "--json"]));
        assert_eq!((&dry["copied"], &dry["bytesToWrite"]), (&expected, &json!(bytes)), "{name}");
        let text = podman.load(&image, &[]);
        let line = text.stdout.lines().next().unwrap();
        let copied = format!("copied {} ({words})", windlass::internals::disk::size::size(bytes as u64));
        assert!(line.contains(&copied) && !line.contains("linked 8"), "{line}");
        let again = row(&podman.load(&image, &["--force", "--json"]));
        assert_eq!((&again["copied"], &again["linked"]), (&expected, &json!(5 * MIB)), "{name}");
    }
    // A linked store on another file system than the Nix store.
    let other = Podman::new();
    let place = other.env.mount("other", "ext4", 64 << 20);
    other.link_into(&place.0.join("storage"));
    let image = podman.image("far", &[podman.model("good", "/good", &good)], &[]);
    let mut load = other.windlass(&["load", image.to_str().unwrap()]);
    let said = Said::of(&load.env("NIX_STORE_DIR", podman.home("store")).output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stdout.starts_with("image far: copied 5.2 MB (the Nix store is on another file system)  "),
        "{said:?}"
    );
}

#[test]
fn much_that_is_copied_is_warned_of_before() {
    let podman = Podman::with_nix();
    let sparse = podman.env.path("sparse");
    File::create(&sparse).unwrap().set_len(1_100_000_000).unwrap();
    fs::set_permissions(&sparse, fs::Permissions::from_mode(0o444)).unwrap();
    let image = podman.image("large", &[podman.model("large", "/large", &sparse)], &[]);
    let dry = podman.load(&image, &["--dry-run"]);
    let warning = "warning: 1.1 GB is copied instead of linked: not in the Nix store\n";
    assert_eq!((dry.code, dry.stderr.as_str()), (0, warning));
    let said = podman.load(&image, &[]);
    assert!(said.code == 0 && said.stderr.starts_with(warning), "{said:?}");
}

#[test]
fn without_a_linked_store_it_is_said_what_one_would_save() {
    let podman = Podman::new();
    let path = crate::load::stack();
    let dry = podman.load(path, &["--dry-run"]);
    let (dry, told) = (dry.last().to_owned(), dry.stderr.clone());
    let line = told.lines().next().unwrap();
    let place = podman.places().graph_root.display().to_string();
    assert!(line.starts_with("Podman writes ") && line.contains(&format!(" to {place}, and needs ")), "{line}");
    assert!(line.contains("; with a linked store, which `windlass doctor --fix` sets up, it would write "), "{line}");
    assert!(dry.starts_with("4 to load, 0 present; ") && dry.contains(" needed meanwhile, "), "{dry}");
    let loaded = podman.load(path, &[]);
    assert_eq!(loaded.stderr.lines().next(), Some(line), "{loaded:?}");
    assert!(loaded.last().starts_with("3 images, 1 model: 4 loaded"));
    // Where all is there, nothing is said.
    assert_eq!(podman.load(path, &[]).stderr, "");
}
