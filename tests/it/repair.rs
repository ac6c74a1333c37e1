//! `windlass verify` of what is loaded, and `windlass repair`.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::env::{LinkedPodman, base_name, linked_podman};

/// Every file of this name below a folder.
fn find(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(find(&entry.path(), name));
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
    found
}

/// Changes one byte of a read-only file, and nothing else of it.
fn flip(path: &Path) {
    let metadata = fs::metadata(path).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(b"!").unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    fs::set_permissions(path, metadata.permissions()).unwrap();
}

fn loaded(via: &str) -> LinkedPodman {
    let podman = linked_podman();
    podman.stack();
    podman.ok("windlass", &["load", "stack", "--via", via]);
    for arguments in [&["verify"][..], &["verify", "--full"], &["verify", "stack", "--full"]] {
        let verified = podman.ok("windlass", arguments);
        assert!(verified.contains("all good; read"), "{arguments:?}: {verified}");
    }
    podman
}

#[test]
fn a_store_gone_bad_is_named_and_mended_once_it_is_restored() {
    let podman = loaded("store");
    let before = podman.env.tree();
    let nothing = podman.ok("windlass", &["repair", "--full"]);
    assert_eq!(nothing, "2 images as they were loaded; nothing to mend\n");
    assert_eq!(podman.env.tree(), before, "nothing is written");

    let source = podman.env.path("store").join(base_name("tiny.gguf"));
    let linked = find(&podman.env.path("linked/overlay"), "tiny.gguf").remove(0);
    assert_eq!(fs::metadata(&linked).unwrap().ino(), fs::metadata(&source).unwrap().ino());
    flip(&linked);
    assert_eq!(podman.run("windlass", &["verify"]).0, 0, "records alone do not show it");
    let (code, bad) = podman.run("windlass", &["verify", "--full"]);
    let shown = |path: &Path| podman.env.scrub(path.to_str().unwrap());
    assert_eq!(code, 4, "{bad}");
    for part in [
        "localhost/app:",
        "localhost/tiny:",
        ": layer tiny (",
        &format!("/models/tiny.gguf has other bytes ({})", shown(&linked)),
        &format!("; it is the same file as {}: the store itself went bad\n", shown(&source)),
        "\n2 images, 4 layers: 1 problem; read ",
    ] {
        assert!(bad.contains(part), "{part}: {bad}");
    }
    let json = podman.run("windlass", &["verify", "--full", "--json", "--image", "tiny"]).1;
    let json: Value = serde_json::from_str(json.split_once("\nwindlass: ").unwrap().0).unwrap();
    assert_eq!(json["details"][0]["file"], "/models/tiny.gguf");

    let (code, refused) = podman.run("windlass", &["repair", "--full"]);
    assert!(code == 4 && refused.contains("nothing was touched"), "{refused}");
    assert!(refused.contains(&format!("nix-store --repair-path {}\n", shown(&source))), "{refused}");
    assert_eq!(fs::read(&linked).unwrap()[0], b'!');

    // As `nix-store --repair-path` does: a new file.
    podman.store_file("tiny.gguf", &vec![b'x'; 3_000_000]);
    let mended = podman.ok("windlass", &["repair", "--full"]);
    assert!(mended.ends_with("0 images good, 2 images mended, 0 problems left\n"), "{mended}");
    let clean = podman.ok("windlass", &["verify", "--full"]);
    assert!(clean.contains("all good"), "{clean}");
    assert_eq!(fs::metadata(&linked).unwrap().ino(), fs::metadata(&source).unwrap().ino());
    assert!(podman.ok("windlass", &["status"]).contains("generation    1\n"));
}

#[test]
fn what_was_done_to_a_linked_tree_is_named() {
    let podman = loaded("store");
    let name = base_name("app-1.0");
    let app = find(&podman.env.path("linked/overlay"), &name).remove(0);
    let parent = app.parent().unwrap().to_owned();
    fs::write(parent.join("more"), "x").unwrap();
    fs::set_permissions(&parent, PermissionsExt::from_mode(0o700)).unwrap();
    fs::remove_file(&app).unwrap();
    let id = app.strip_prefix(podman.env.path("linked/overlay")).unwrap().components().next().unwrap().as_os_str();
    let layer = podman.env.path("linked/overlay").join(id);
    for (file, damage, said) in [
        ("lower", "l/NOWHERE", "/lower does not lead to the layers below\n"),
        ("lower-layers", "0123", "/lower-layers does not name the layers below\n"),
    ] {
        let whole = fs::read_to_string(layer.join(file)).unwrap();
        fs::write(layer.join(file), damage).unwrap();
        let (code, bad) = podman.run("windlass", &["verify", "--full"]);
        assert!(code == 4 && bad.contains(said), "{bad}");
        let mended = podman.ok("windlass", &["repair"]);
        assert!(mended.ends_with("1 image good, 1 image mended, 0 problems left\n"), "{mended}");
        assert_eq!(fs::read_to_string(layer.join(file)).unwrap(), whole);
    }

    let app = find(&podman.env.path("linked/overlay"), &name).remove(0);
    let parent = app.parent().unwrap().to_owned();
    fs::write(parent.join("more"), "x").unwrap();
    fs::set_permissions(&parent, PermissionsExt::from_mode(0o700)).unwrap();
    fs::remove_file(&app).unwrap();
    let (code, bad) = podman.run("windlass", &["verify", "--full"]);
    assert_eq!(code, 4);
    let inside = podman.env.path("store").display().to_string();
    let inside = podman.env.scrub(&inside);
    for part in [
        format!("{inside} has the mode 0700 instead of 0755"),
        format!("{inside}/{name} is not there"),
        format!("{inside}/more does not belong there"),
        ": 3 problems; read".to_owned(),
    ] {
        assert!(bad.contains(&part), "{part}: {bad}");
    }
    podman.ok("windlass", &["repair", "--full"]);
    podman.ok("windlass", &["verify", "--full"]);
}

#[test]
fn a_byte_in_podmans_own_store_is_named_and_mended() {
    let podman = loaded("podman");
    let json: Value = serde_json::from_str(&podman.ok("windlass", &["status", "--json"])).unwrap();
    assert_eq!(json["images"][0]["way"], "pulled");
    let unpacked = find(&podman.env.path("podman/root/overlay"), "tiny.gguf").remove(0);
    flip(&unpacked);
    let (code, bad) = podman.run("windlass", &["verify", "--full"]);
    assert!(code == 4 && bad.contains("/models/tiny.gguf has other bytes"), "{bad}");
    assert!(!bad.contains("the store itself"), "{bad}");
    let mended = podman.ok("windlass", &["repair", "--full"]);
    assert!(mended.ends_with("0 images good, 2 images mended, 0 problems left\n"), "{mended}");
    podman.ok("windlass", &["verify", "--full"]);
    let json: Value = serde_json::from_str(&podman.ok("windlass", &["status", "--json"])).unwrap();
    assert_eq!(json["images"][1]["way"], "pulled", "the way it came");
    // A config, which Podman gives to `inspect` and `run` without a look.
    let id = json["images"][0]["configDigest"].as_str().unwrap();
    let folder = podman.env.path("podman/root/overlay-images").join(&id["sha256:".len()..]);
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let config = files.find(|path| fs::read(path).unwrap().starts_with(b"{\"architecture\"")).unwrap();
    flip(&config);
    let (code, bad) = podman.run("windlass", &["verify"]);
    assert!(code == 4 && bad.contains(&format!(" instead of {id}\n")), "{bad}");
    let mended = podman.ok("windlass", &["repair"]);
    assert!(mended.ends_with("1 image good, 1 image mended, 0 problems left\n"), "{mended}");
    podman.ok("windlass", &["verify", "--full"]);
}

#[test]
fn torn_records_of_the_linked_store_are_mended() {
    let podman = loaded("store");
    let images = |podman: &LinkedPodman| {
        podman.run("podman", &["images", "--sort", "repository", "--format", "{{.Repository}}"])
    };
    // By its own tag and by the version of its package.
    assert_eq!(images(&podman), (0, "localhost/app\nlocalhost/app\nlocalhost/tiny\n".to_owned()));
    // A directory that was replaced would be empty for a container that runs on it.
    let directories = || -> Vec<(PathBuf, u64)> {
        let all =
            podman.env.tree().into_iter().filter(|path| path.is_dir() && path.to_str().unwrap().contains("/diff"));
        all.map(|path| (path.clone(), fs::metadata(&path).unwrap().ino())).collect()
    };
    let before = directories();
    podman.ok("windlass", &["load", "stack", "--force"]);
    assert_eq!(directories(), before);
    for kind in ["layers", "images"] {
        let path = podman.env.path(format!("linked/overlay-{kind}/{kind}.json"));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let (code, text) = images(&podman);
        assert!(code != 0 || !text.contains("localhost/app"), "{kind}: {text}");
        assert_eq!(podman.run("windlass", &["status"]).0, 7);
        let mended = podman.ok("windlass", &["repair"]);
        assert!(mended.contains(&format!("{kind}.json was damaged (")), "{mended}");
        assert!(mended.ends_with("0 images good, 2 images mended, 0 problems left\n"), "{mended}");
        assert_eq!(images(&podman), (0, "localhost/app\nlocalhost/app\nlocalhost/tiny\n".to_owned()));
        assert_eq!(fs::read(podman.env.path(format!("linked/{kind}.json.damaged"))).unwrap().len(), whole.len() / 2);
        assert_eq!(fs::read(&path).unwrap(), whole, "the same records again");
    }
    for (kind, file) in [("layers", "layers.lock"), ("images", "images.lock"), ("layers", "layers.json")] {
        fs::remove_file(podman.env.path(format!("linked/overlay-{kind}/{file}"))).unwrap();
        let mended = podman.ok("windlass", &["repair"]);
        assert!(mended.contains(&format!("/{file} was gone\n")), "{mended}");
        assert_eq!(images(&podman), (0, "localhost/app\nlocalhost/app\nlocalhost/tiny\n".to_owned()), "{file}");
    }
    assert_eq!(podman.ok("windlass", &["repair"]), "2 images as they were loaded; nothing to mend\n");
    assert_eq!(directories(), before);
}
