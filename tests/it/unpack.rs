//! Unpacking layers that were not built here, with containers-storage as the oracle: trees, records, and what is refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use windlass::internals::disk::beneath::Dir;
use windlass::internals::disk::progress::Progress;
use windlass::internals::oci::compression::Compression;
use windlass::internals::oci::digest::Digest;
use windlass::internals::podman::linked::check_tree::check;
use windlass::internals::podman::linked::unpack::{UnpackError, Unpacked, unpack};

use crate::engine::{Podman, text};
use crate::env::{Env, run_ok};
use crate::nix::root;

pub(crate) fn python(arguments: &[&str]) -> String {
    run_ok(Command::new("python3").arg(root().join("tests/fixtures/layers.py")).args(arguments))
}

/// Everything about a tree, a line for each thing in it.
pub(crate) fn told(tree: &Path) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let json: Value = serde_json::from_str(line).unwrap();
        (json["path"].as_str().unwrap().to_owned(), line.to_owned())
    };
    python(&["list", tree.to_str().unwrap()]).lines().map(line).collect()
}

/// Unpacks the layer of an OCI layout.
pub(crate) fn unpacked(layout: &Path, into: &Path) -> Result<Unpacked, UnpackError> {
    let json = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &Value| layout.join("blobs/sha256").join(&digest.as_str().unwrap()[7..]);
    let manifest = json(blob(&json(layout.join("index.json"))["manifests"][0]["digest"]));
    let layer = &manifest["layers"][0];
    let compression = Compression::of_media_type(layer["mediaType"].as_str().unwrap()).unwrap();
    let mut archive = compression.decoder(BufReader::new(File::open(blob(&layer["digest"])).unwrap())).unwrap();
    fs::create_dir(into).unwrap();
    unpack(&mut archive, &Dir::open(into).unwrap(), 1 << 30, &Progress::new())
}

#[test]
fn a_tree_is_what_podman_makes_of_the_same_layer() {
    let podman = Podman::new();
    let layers = podman.env.path("layers");
    python(&["make", layers.to_str().unwrap()]);
    let oci = |name: &str| format!("oci:{}/{name}", layers.display());
    let zstd = ["copy", "--quiet", "--dest-compress-format=zstd", &oci("nasty-plain"), &oci("nasty-zstd")];
    run_ok(Command::new("skopeo").arg("--insecure-policy").args(zstd));

    let mut names: Vec<String> = fs::read_dir(&layers)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "tree")
        .collect();
    names.sort();
    let before = fs::read("/etc/passwd").unwrap();
    let mut refused = BTreeMap::new();
    for name in &names {
        let image = format!("localhost/{name}:1");
        let arguments = ["--insecure-policy", "copy", "--quiet", &oci(name), &format!("containers-storage:{image}")];
        let theirs = podman.command("skopeo").args(arguments).output().unwrap();
        let into = podman.env.path(format!("made-{name}"));
        match unpacked(&layers.join(name), &into) {
            Ok(unpacked) => {
                assert!(theirs.status.success(), "{name}: {}", text(&theirs.stderr));
                let tree = podman.run(&["image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", &image]);
                assert_eq!(told(&into.join("diff")), told(Path::new(tree.trim())), "{name}");
                let archive = fs::read(layers.join(name.replace("-zstd", "-plain")).join("layer.tar")).unwrap();
                assert_eq!((unpacked.diff_id, unpacked.size), (Digest::of(&archive), archive.len() as u64), "{name}");
                // The record and the tree give the archive again.
                let checked = check(&into.join("tar-split.gz"), &into.join("diff"), true, &Progress::new()).unwrap();
                assert_eq!((checked.bad, checked.digest), (vec![], unpacked.diff_id), "{name}");
                // So does what Podman has of it, where its own record is right.
                let layer = Path::new(tree.trim()).parent().unwrap().file_name().unwrap().to_str().unwrap();
                let record = format!("podman/root/overlay-layers/{layer}.tar-split.gz");
                let checked = check(&podman.env.path(record), Path::new(tree.trim()), true, &Progress::new()).unwrap();
                if !name.starts_with("holes") && name != "size-of-link" && name != "cut" {
                    assert_eq!((checked.bad, checked.digest), (vec![], unpacked.diff_id), "{name}");
                }
            }
            Err(error) => {
                // What Podman takes and cannot give back is left to it.
                assert!(!theirs.status.success() || name == "one-place", "{name}: {error}");
                refused.insert(name.clone(), error.to_string());
            }
        }
    }
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    assert!(!Path::new("/tmp/windlass-was-here").exists());
    let refused: Vec<String> = refused.into_iter().map(|(name, error)| format!("{name}: {error}")).collect();
    insta::assert_snapshot!(refused.join("\n"));
}

#[test]
fn an_archive_that_gives_more_than_it_should_is_stopped() {
    let env = Env::new();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(64 << 20);
    archive.append_data(&mut header, "zeros", std::io::repeat(0).take(64 << 20)).unwrap();
    let archive = archive.into_inner().unwrap();
    let mut packed = Compression::Zstd.encoder(Vec::new()).unwrap();
    std::io::Write::write_all(&mut packed, &archive).unwrap();
    let packed = packed.finish().unwrap();
    let made = |limit: u64, name: &str| {
        let place = env.path(name);
        fs::create_dir(&place).unwrap();
        let mut archive = Compression::Zstd.decoder(&packed[..]).unwrap();
        (unpack(&mut archive, &Dir::open(&place).unwrap(), limit, &Progress::new()), place.join("diff"))
    };
    let (error, tree) = made(1 << 20, "bomb");
    assert_eq!(error.unwrap_err().to_string(), "its archive has more than the 1048576 bytes that it should have");
    assert!(fs::metadata(tree.join("zeros")).unwrap().len() <= 1 << 20);
    assert_eq!(made(archive.len() as u64, "right").0.unwrap().size, archive.len() as u64);
    // Zeros behind the end count too.
    let (error, _) = made(archive.len() as u64 - 1, "short");
    assert!(matches!(error, Err(UnpackError::TooLarge { .. })), "{error:?}");
    let progress = Progress::new();
    progress.stop();
    fs::create_dir(env.path("stopped")).unwrap();
    let place = Dir::open(&env.path("stopped")).unwrap();
    let stopped = unpack(&mut &archive[..], &place, u64::MAX, &progress);
    assert!(stopped.unwrap_err().to_string().contains("stopped by a signal"));
    // A large file is written by a thread of its own, whose failure is the one that is told.
    let disk = env.mount("full", "tmpfs", 4 << 20);
    let error = unpack(&mut &archive[..], &Dir::open(&disk.0).unwrap(), u64::MAX, &Progress::new()).unwrap_err();
    let place = disk.0.join("diff/zeros");
    assert_eq!(error.to_string(), format!("write {}: No space left on device (os error 28)", place.display()));
}

#[test]
fn what_went_bad_in_an_unpacked_layer_is_named() {
    let env = Env::new();
    let layers = env.path("layers");
    python(&["make", layers.to_str().unwrap()]);
    let into = env.path("made");
    unpacked(&layers.join("nasty"), &into).unwrap();
    let tree = into.join("diff");
    let remove = |path: &str| fs::remove_file(tree.join(path)).unwrap();
    remove("gone");
    remove("new/old");
    fs::write(tree.join("new/old"), "back").unwrap();
    remove("fifo");
    fs::write(tree.join("fifo"), "").unwrap();
    remove("bin/hard");
    fs::copy(tree.join("bin/su"), tree.join("bin/hard")).unwrap();
    remove("bin/ssh-agent");
    symlink("/bin/su", tree.join("bin/ssh-agent")).unwrap();
    for attribute in ["trusted.overlay.opaque", "security.capability"] {
        let path = if attribute.starts_with('t') { "bin" } else { "bin/ping" };
        let script = "import os, sys; os.removexattr(sys.argv[1], sys.argv[2])";
        run_ok(Command::new("python3").args(["-c", script]).arg(tree.join(path)).arg(attribute));
    }
    let checked = check(&into.join("tar-split.gz"), &tree, true, &Progress::new()).unwrap();
    let bad: Vec<String> = checked.bad.iter().map(|bad| format!("{} {}", bad.path.display(), bad.why)).collect();
    insta::assert_snapshot!(bad.join("\n"));
    let into = env.path("holes");
    unpacked(&layers.join("holes-1.0"), &into).unwrap();
    let file = File::options().write(true).open(into.join("diff/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 5).unwrap();
    let checked = check(&into.join("tar-split.gz"), &into.join("diff"), true, &Progress::new()).unwrap();
    assert_eq!(checked.bad.len(), 1, "{checked:?}");
}
