//! Images of others in the linked store: unpacked once, run, saved, checked and mended.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::oci::compression::Compression;

use crate::engine::{Podman, as_user};
use crate::env::{Env, run_ok};
use crate::foreign::{Foreign, read};

/// An image of others, and one of ours with a model below it and a layer above it.
fn images(podman: &Podman) -> (PathBuf, PathBuf) {
    let others = Foreign::oci(&podman.env).build(&podman.env, "others");
    let weights = podman.env.write("m.gguf", vec![7; 2_000_000]);
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "fromImage": others,
        "models": [{ "spec": { "name": "m", "files": { "m.gguf": weights } } }],
        "content": { "texts": { "/etc/three": "three\n" } },
        "config": { "Cmd": ["cat", "/etc/two", "/etc/three"] } });
    (others, podman.build("app", &spec))
}

fn reference(image: &Path) -> String {
    read(&image.join("image.json"))["ref"].as_str().unwrap().to_owned()
}

/// The trees of an image's layers, the lowest first.
fn trees(podman: &Podman, image: &Path) -> Vec<PathBuf> {
    let inspect: Value = serde_json::from_str(&podman.run(&["image", "inspect", &reference(image)])).unwrap();
    let data = &inspect[0]["GraphDriver"]["Data"];
    let lower = data["LowerDir"].as_str().unwrap_or_default().split(':').filter(|path| !path.is_empty());
    let mut trees: Vec<PathBuf> =
        std::iter::once(data["UpperDir"].as_str().unwrap()).chain(lower).map(PathBuf::from).collect();
    trees.reverse();
    trees
}

#[test]
fn an_image_of_others_is_unpacked_once() {
    let podman = Podman::linked();
    let (others, app) = images(&podman);
    assert!(podman.load(&others, &[]).last().contains("1 loaded, 0 present"));
    assert!(podman.load(&app, &[]).last().contains("1 loaded, 0 present"));
    assert!(podman.load(&app, &[]).last().contains("0 loaded, 1 present"));
    let (below, above) = (trees(&podman, &others), trees(&podman, &app));
    assert!(below.iter().chain(&above).all(|tree| tree.starts_with(podman.home("storage"))), "{below:?} {above:?}");
    assert_eq!((below.len(), above.len()), (2, 4));
    // The same archive over another layer has the same files; directories are its own.
    let inode = |tree: &Path, path: &str| fs::symlink_metadata(tree.join(path)).unwrap().ino();
    for path in ["usr/bin/busybox", "bin", "data/stays"] {
        assert_eq!(inode(&below[0], path), inode(&above[1], path), "{path}");
    }
    assert_ne!(inode(&below[0], "usr"), inode(&above[1], "usr"));
    let again = fs::symlink_metadata(above[1].join("data/again")).unwrap();
    assert_eq!((again.nlink(), again.uid(), again.ino()), (4, 1000, inode(&below[0], "data/stays")));
    assert_eq!(fs::metadata(above[1].join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    // Who is not root cannot enter what others made; what is ours stays open.
    let modes = |trees: &[PathBuf]| -> Vec<u32> {
        trees.iter().map(|tree| fs::metadata(tree.parent().unwrap()).unwrap().mode() & 0o777).collect()
    };
    assert_eq!((modes(&below), modes(&above)), (vec![0o700; 2], vec![0o755, 0o700, 0o700, 0o755]));

    let run = |image: &Path, command: &[&str]| {
        let name = reference(image);
        podman.run(&[&["run", "--rm", "--pull=never", "--network=none", &name], command].concat())
    };
    assert_eq!(run(&others, &[]), "two\n");
    assert_eq!(run(&app, &[]), "two\nthree\n");
    assert_eq!(run(&app, &["id", "-u"]), "1000\n");
    assert_eq!(run(&others, &["ls", "/etc"]), "group\nhostname\nhosts\nmtab\npasswd\ntwo\n", "gone is gone");
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
}

#[test]
fn what_was_unpacked_is_saved_and_pushed_as_it_came() {
    let podman = Podman::linked();
    let (others, app) = images(&podman);
    for image in [&others, &app] {
        assert!(podman.load(image, &[]).last().contains("1 loaded, 0 present"));
        let (name, record) = (reference(image), read(&image.join("image.json")));
        let diff_ids: Vec<String> = record["platforms"][0]["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["packed"]["diffId"].as_str().or(layer["digest"].as_str()).unwrap().to_owned())
            .collect();
        let folder = podman.env.path(format!("pushed-{}", image.file_name().unwrap().to_str().unwrap()));
        podman.run(&["push", "--quiet", &name, &format!("oci:{}:x", folder.display())]);
        let manifest =
            run_ok(podman.command("skopeo").args(["inspect", "--raw", &format!("oci:{}:x", folder.display())]));
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        let unpacked = |layer: &Value| {
            let blob = folder.join("blobs/sha256").join(&layer["digest"].as_str().unwrap()[7..]);
            let bytes = Command::new("gzip").arg("-dcf").arg(blob).output().unwrap().stdout;
            windlass::internals::oci::digest::Digest::of(&bytes).to_string()
        };
        assert_eq!(manifest["layers"].as_array().unwrap().iter().map(unpacked).collect::<Vec<_>>(), diff_ids);
        podman.run(&[
            "save",
            "--quiet",
            "--format=oci-archive",
            "--output",
            podman.env.path("saved.tar").to_str().unwrap(),
            &name,
        ]);
        fs::remove_file(podman.env.path("saved.tar")).unwrap();
        // What is pulled gives the same image.
        let pulled = Podman::new();
        assert!(pulled.load(image, &[]).last().contains("1 loaded, 0 present"));
        assert!(pulled.said(&["verify", "--full"]).last().contains("all good"));
    }
}

#[test]
fn what_went_bad_is_found_and_made_again_from_the_blob() {
    let podman = Podman::linked();
    let (others, app) = images(&podman);
    for image in [&others, &app] {
        assert!(podman.load(image, &[]).last().contains("1 loaded, 0 present"));
    }
    let trees = trees(&podman, &others);
    let busybox = trees[0].join("usr/bin/busybox");
    let mut bytes = fs::read(&busybox).unwrap();
    bytes[100] ^= 1;
    fs::write(&busybox, bytes).unwrap();
    fs::remove_file(trees[1].join("etc/gone")).unwrap();
    fs::set_permissions(trees[0].join("tmp"), PermissionsExt::from_mode(0o755)).unwrap();
    let said = podman.said(&["verify", "--full"]);
    assert_eq!(said.code, 4, "{said:?}");
    // One file under two names: both layers that have it.
    assert_eq!(said.stdout.matches("/usr/bin/busybox has other bytes").count(), 2, "{said:?}");
    for what in ["/etc/gone does not hide any more what is below it", "/tmp has the mode 0755 instead of 1777"] {
        assert!(said.stdout.contains(what), "{what}: {said:?}");
    }
    let mended = podman.said(&["repair", "--full"]);
    assert_eq!(mended.last(), "0 images good, 2 images mended, 0 problems left");
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
    assert_eq!(
        podman
            .run(&["run", "--rm", "--pull=never", "--network=none", &reference(&others), "ls", "/etc"])
            .lines()
            .count(),
        6
    );

    // A blob that went bad is named, and nothing is touched.
    fs::remove_file(trees[0].join("usr/bin/busybox")).unwrap();
    let blob = fs::read_dir(podman.env.path("blobs")).unwrap().map(|entry| entry.unwrap().path());
    let blob = blob.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let left = podman.said(&["repair", "--full"]);
    assert_eq!(left.code, 4, "{left:?}");
    assert!(left.stdout.contains(blob.to_str().unwrap()), "{left:?}");
    assert!(left.stderr.contains("what damaged layers are made from is damaged too; nothing was touched"), "{left:?}");
}

#[test]
fn what_does_not_fit_on_the_disk_is_refused_before_anything_is_written() {
    let podman = Podman::new();
    let mount = podman.env.mount("small", "tmpfs", 1_000_000);
    podman.link_into(&mount.0.join("storage"));
    let others = Foreign::oci(&podman.env).build(&podman.env, "others");
    let said = podman.load(&others, &["--via", "store"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(
        said.stderr.contains("loading needs 2.0 MB in ") && said.stderr.contains("; nothing was changed"),
        "{said:?}"
    );
    assert!(fs::read_dir(mount.0.join("storage/overlay")).unwrap().all(|entry| entry.unwrap().file_name() == "l"));
}

/// Who is not root cannot use root's copy of it, and is not in its way either.
#[test]
fn a_user_loads_for_themselves_what_root_has_unpacked() {
    let podman = Podman::linked();
    let (others, app) = images(&podman);
    for image in [&others, &app] {
        assert!(podman.load(image, &[]).last().contains("1 loaded, 0 present"));
    }
    podman.env.ok(["export", others.to_str().unwrap(), "--format", "oci", "--output", "plain"]);
    let script = "
        run() { as podman run --rm --pull=never --network=none $1 2>&1 | sed 's/.*overlay.*: permission/permission/'; }
        as podman images --format '{{.Repository}} {{.ReadOnly}}' 2>/dev/null
        echo root\\'s; run localhost/others:$TAG
        echo copied; as skopeo --insecure-policy copy -q oci:$T/plain containers-storage:localhost/copied:1
        run localhost/copied:1; as podman rmi localhost/copied:1 >/dev/null
        as $WINDLASS load $T/others; run localhost/others:$TAG; as $WINDLASS load $T/others
        as $WINDLASS load $T/app; run localhost/app:1";
    let tag = reference(&others).rsplit_once(':').unwrap().1.to_owned();
    let said = as_user(&podman, &script.replace("$TAG", &tag)).replace(&tag, "TAG");
    insta::with_settings!({ filters => vec![(r"\d+\.\d MB", "N MB"), (r"took \d+\.\d s", "took N s")] }, { insta::assert_snapshot!(said) });
}

/// Podman 4.3 fails for every image, in whichever store, when it has one of these.
#[test]
fn what_podman_does_not_read_never_gets_there() {
    let podman = Podman::new();
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let gzip = (Compression::Gzip, "application/vnd.docker.image.rootfs.diff.tar.gzip");
    let zstd = (Compression::Zstd, "application/vnd.docker.image.rootfs.diff.tar.zstd");
    let oci = (Compression::Gzip, Compression::Gzip.media_type());
    for (n, (layers, reads)) in [([gzip; 2], true), ([gzip, zstd], false), ([gzip, oci], false)].into_iter().enumerate()
    {
        let env = Env::new();
        let name = format!("others{n}");
        let foreign = Foreign::of(&env, "two", docker, layers);
        if reads {
            assert!(podman.load(&foreign.build(&env, &name), &[]).last().contains("1 loaded, 0 present"));
            assert_eq!(podman.run(&["images", "--quiet"]).lines().count(), 1);
            continue;
        }
        let spec = env.write("spec.json", foreign.spec(&name).to_string());
        let (code, message) = env.fails(["build", spec.to_str().unwrap()]);
        assert!(code == 1 && message.contains("and has layers[1].mediaType = "), "{code} {message}");
    }
}
