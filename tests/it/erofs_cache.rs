//! `windlass export --format erofs-cache`: what fsck.erofs and the kernel say of the file systems, and what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, FIXED, Mount, base_name, run_ok};
use crate::foreign::{Foreign, read};
use crate::golden::{everything, pattern};
use crate::unpack::{python, told, unpacked};

/// The diff IDs of an image's layers, bottom first.
fn diff_ids(image: &Path) -> Vec<Digest> {
    let platform = &read(&image.join("image.json"))["platforms"][0];
    let of = |layer: &Value| layer["packed"]["diffId"].as_str().or(layer["digest"].as_str()).unwrap().parse().unwrap();
    platform["layers"].as_array().unwrap().iter().map(of).collect()
}

/// Where a cache has a layer.
fn entry(cache: &Path, diff_id: Digest) -> PathBuf {
    let hex = diff_id.hex();
    cache.join("sha256").join(&hex[..2]).join(format!("{hex}.erofs"))
}

/// Writes the layers of an image into the cache; what windlass says of it.
fn export(env: &Env, image: &str, more: &[&str]) -> Value {
    let arguments = ["export", image, "--format", "erofs-cache", "--output", "cache", "--json"];
    serde_json::from_str(&env.ok([&arguments, more].concat())).unwrap()
}

/// Every file below a folder, with its digest.
fn files(folder: &Path) -> BTreeMap<PathBuf, Digest> {
    let listed = run_ok(Command::new("find").arg(folder).args(["-type", "f"]));
    listed.lines().map(|path| (path.into(), Digest::of(&fs::read(path).unwrap()))).collect()
}

/// Has fsck.erofs look through it, and the kernel mount it at a new folder.
fn mounted(env: &Env, name: &str, image: &Path) -> Mount {
    let said = Command::new("fsck.erofs").arg(image).output().unwrap();
    assert!(said.status.success(), "{name}: {said:?}");
    let folder = env.path(name);
    fs::create_dir(&folder).unwrap();
    run_ok(Command::new("mount").args(["-t", "erofs", "-o", "ro,loop"]).arg(image).arg(&folder));
    Mount(folder)
}

/// The root among what is told of a tree.
const ROOT: &str = "b''";

/// Compares two trees, and shows where they differ alone.
fn assert_same<T: Clone + PartialEq + std::fmt::Debug>(
    found: &BTreeMap<String, T>,
    expected: &BTreeMap<String, T>,
    name: &str,
) {
    let paths: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let differ: Vec<_> =
        paths.into_iter().map(|path| (found.get(path), expected.get(path))).filter(|(a, b)| a != b).collect();
    assert!(differ.is_empty(), "{name}: {differ:#?}");
}

/// The same without extended attributes.
fn plain(tree: BTreeMap<String, String>) -> BTreeMap<String, Value> {
    let cut = |line: String| {
        let mut json: Value = serde_json::from_str(&line).unwrap();
        json["xattrs"].take();
        json
    };
    tree.into_iter().map(|(path, line)| (path, cut(line))).collect()
}

/// An image of everything that a layer can hold, at a fixed place; the folder that it is in.
fn image_of_everything(env: &Env) -> PathBuf {
    let host = env.path("host");
    everything(&host);
    // Enough names for several blocks of a directory, and links that fill a block and do not.
    for n in 0..400 {
        fs::create_dir_all(host.join("plain/many")).unwrap();
        fs::write(host.join(format!("plain/many/a-name-of-some-length-{n:03}")), pattern(n * 37)).unwrap();
    }
    for size in [4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 8193] {
        fs::write(host.join(format!("plain/sized-{size}")), pattern(size)).unwrap();
    }
    std::os::unix::fs::symlink("t/".repeat(2030), host.join("plain/far")).unwrap();
    let deps = ["file", "link"].map(|name| format!("{FIXED}/{}", base_name(name)));
    let spec = json!({
        "kind": "image", "name": "everything", "tag": "1", "platform": "linux/amd64", "storeDir": FIXED, "maxLayers": 1,
        "allowSecrets": ["/etc/passwd", "/opt/tool"],
        "content": {
            "deps": deps,
            "contents": [format!("{FIXED}/{}", base_name("tree"))], "copyToRoot": [format!("{FIXED}/plain")],
            "files": { "/srv/data": format!("{FIXED}/weights") }, "texts": { "/etc/motd": "héllo\n" },
            "directories": { "/var/lib/app": "0700" }
        },
        "perms": [{ "regex": "^/var/lib/app$", "uid": 999, "gid": 70000 }, { "regex": "^/etc/shadow$", "mode": "0640" }],
    });
    fs::write(host.join("spec.json"), spec.to_string()).unwrap();
    run_ok(&mut env.windlass_at(&host, &[], &["build", "spec.json", "--closure", "closure.json", "--output", "image"]));
    host
}

#[test]
fn the_bytes_are_golden() {
    let env = Env::new();
    let host = image_of_everything(&env);
    let export = ["export", "image", "--format", "erofs-cache", "--output"];
    run_ok(&mut env.windlass_at(&host, &[], &[&export[..], &["cache"]].concat()));
    let found: Vec<String> = diff_ids(&host.join("image"))
        .into_iter()
        .map(|diff_id| format!("{diff_id} {}", Digest::of(&fs::read(entry(&host.join("cache"), diff_id)).unwrap())))
        .collect();
    // A file that containerd mounts is known by its layer alone: other bytes are a new format, and a new UUID.
    assert_eq!(
        found,
        [
            "sha256:22219b22e45619fc04780f73133ad2f5b8c10626dcee4d4b05dc4be5b9e027d3 sha256:0e5cd556f8019d9f98bfd3277523e3adfff5de306d9281777da85b4e2fcafb04",
            "sha256:8596141101d50a023305f8fb51c107da2356f6a3c836b23bed763dc9b703c188 sha256:8036873378aefe809c91e7dc7dae0f4c8789a9617985ec4a4fa4d1d7a1432610",
        ]
    );

    // The same layers as files, compared or not, and packed: the same file systems.
    for (name, more) in [("full", &["--full"][..]), ("again", &[])] {
        let build = ["build", "spec.json", "--closure", "closure.json", "--output", name];
        run_ok(&mut env.windlass_at(&host, &[], &[&build[..], more].concat()));
    }
    let cache = |name: &str| {
        let folder = host.join(name);
        files(&folder)
            .into_iter()
            .map(|(path, digest)| (path.strip_prefix(&folder).unwrap().to_owned(), digest))
            .collect::<Vec<_>>()
    };
    for (image, into, verify) in
        [("full", "1", "auto"), ("full", "2", "never"), ("again", "3", "always"), ("again", "4", "never")]
    {
        run_ok(&mut env.windlass_at(
            &host,
            &[],
            &["export", image, "--format", "erofs-cache", "--output", into, "--verify", verify],
        ));
        assert_eq!(cache(into), cache("cache"), "{image} {verify}");
    }
}

#[test]
fn a_layer_of_everything_is_read_by_fsck_and_the_kernel_as_tar_unpacks_it() {
    let env = Env::new();
    let host = image_of_everything(&env);
    run_ok(&mut env.windlass_at(&host, &[], &["export", "image", "--format", "erofs-cache", "--output", "cache"]));
    run_ok(&mut env.windlass_at(&host, &[], &["export", "image", "--format", "oci", "--output", "oci"]));
    for (n, diff_id) in diff_ids(&host.join("image")).into_iter().enumerate() {
        let by_tar = env.path(format!("tar-{n}"));
        fs::create_dir(&by_tar).unwrap();
        let blob = host.join("oci/blobs/sha256").join(diff_id.hex());
        run_ok(Command::new("tar").args(["--same-owner", "-xpf"]).arg(blob).arg("-C").arg(&by_tar));
        let mut expected = plain(told(&by_tar));
        let image = entry(&host.join("cache"), diff_id);
        let mount = mounted(&env, &format!("mount-{n}"), &image);
        let by_fsck = env.path(format!("fsck-{n}"));
        run_ok(
            Command::new("fsck.erofs").args(["--preserve", &format!("--extract={}", by_fsck.display())]).arg(&image),
        );
        assert!(expected.len() > 20, "{expected:?}");
        for (tree, mut found) in [&mount.0, &by_fsck].map(|tree| (tree, plain(told(tree)))) {
            // No member of the layer speaks of the root.
            for told in [&mut expected, &mut found] {
                told.remove(ROOT);
            }
            assert_same(&found, &expected, &tree.display().to_string());
        }
    }
}

#[test]
fn a_layer_of_others_is_what_is_unpacked_of_it() {
    let env = Env::new();
    let layers = env.path("layers");
    python(&["make", layers.to_str().unwrap()]);
    let mut names: Vec<String> =
        fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.retain(|name| name != "tree");
    let (mut compared, mut told_of) = (0, Vec::new());
    for name in &names {
        let layout = layers.join(name);
        let blob = |descriptor: &Value| layout.join("blobs/sha256").join(&descriptor["digest"].as_str().unwrap()[7..]);
        let manifest_path = blob(&read(&layout.join("index.json"))["manifests"][0]);
        let manifest = read(&manifest_path);
        let layer = blob(&manifest["layers"][0]);
        let foreign = Foreign {
            manifest: fs::read_to_string(manifest_path).unwrap(),
            config: blob(&manifest["config"]),
            layers: vec![layer.clone()],
            media_type: "application/vnd.oci.image.manifest.v1+json",
        };
        let image = foreign.build(&env, name);
        let diff_id = diff_ids(&image)[0];
        let export = ["export", name, "--format", "erofs-cache", "--output", "cache"];
        let output = env.windlass(export).output().unwrap();
        if !output.status.success() {
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!entry(&env.path("cache"), diff_id).exists(), "{name}");
            told_of.push(env.scrub(&said.replace(layer.to_str().unwrap(), "LAYER").replace(&diff_id.hex(), "DIFF-ID")));
            continue;
        }
        let mount = mounted(&env, &format!("mount-{name}"), &entry(&env.path("cache"), diff_id));
        if unpacked(&layout, &env.path(format!("made-{name}"))).is_ok() {
            let trees = [mount.0.clone(), env.path(format!("made-{name}/diff"))];
            let [mut found, mut expected] = trees.map(|tree| told(&tree));
            // Podman's root has another mode where the layer says nothing of it.
            if name != "root" {
                assert!(found.remove(ROOT).is_some() && expected.remove(ROOT).is_some());
            }
            for differs in ["b'tree'", "b'late/deep/under'"] {
                // A directory that is removed and made anew hides what was below it, which Podman leaves out. One that no member speaks of takes
                // nothing from the one above it.
                let (ours, theirs) = (found.remove(differs), expected.remove(differs));
                assert_eq!(ours.is_some(), theirs.is_some());
                assert!(differs != "b'tree'" || ours.is_none_or(|ours| ours.contains("trusted.overlay.opaque")));
            }
            assert_same(&found, &expected, name);
            compared += 1;
        }
    }
    insta::assert_snapshot!(told_of.concat());
    assert!(compared > 10, "{compared}");
}

#[test]
fn layers_over_each_other_hide_what_they_should() {
    let env = Env::new();
    let foreign = Foreign::oci(&env);
    let image = foreign.build(&env, "others");
    assert_eq!(export(&env, "others", &[])["present"], json!([]));
    let mounts: Vec<Mount> = diff_ids(&image)
        .into_iter()
        .enumerate()
        .map(|(n, diff_id)| mounted(&env, &format!("layer-{n}"), &entry(&env.path("cache"), diff_id)))
        .collect();
    let merged = Mount(env.path("merged"));
    fs::create_dir(&merged.0).unwrap();
    let lower = format!("lowerdir={}:{}", mounts[1].0.display(), mounts[0].0.display());
    run_ok(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &lower]).arg(&merged.0));
    let names = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(merged.0.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert_eq!(names("etc"), ["passwd", "two"].map(str::to_owned).into());
    assert_eq!(fs::read_to_string(merged.0.join("etc/two")).unwrap(), "two\n");
    assert_eq!(fs::read(merged.0.join("data/again")).unwrap(), b"stays\n");
}

/// Bytes that are in use on the file system of a path.
fn used(path: &Path) -> u64 {
    run_ok(Command::new("sync").arg("--file-system").arg(path));
    let stat = rustix::fs::statvfs(path).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

#[test]
fn xfs_shares_a_model_with_its_layer_cache_and_ext4_copies_it() {
    const MODEL: u64 = 64 << 20;
    let env = Env::new();
    let mut caches = Vec::new();
    for kind in ["ext4", "xfs"] {
        let mount = env.mount(kind, kind, 1 << 30);
        let model = mount.0.join("weights");
        fs::write(&model, pattern(usize::try_from(MODEL).unwrap())).unwrap();
        let spec = json!({ "kind": "model", "name": "m", "files": { "weights": format!("{FIXED}/weights") } });
        fs::write(mount.0.join("spec.json"), spec.to_string()).unwrap();
        let run = |arguments: &[&str]| run_ok(&mut env.windlass_at(&mount.0, &[], arguments));
        run(&["build", "spec.json", "--output", "model"]);
        run(&["build", "spec.json", "--full", "--output", "full"]);
        let diff_id = diff_ids(&mount.0.join("model"))[0];
        let mut bytes = BTreeSet::new();
        for image in ["model", "full"] {
            let before = used(&mount.0);
            let export = ["export", image, "--format", "erofs-cache", "--output", "cache", "--json"];
            let report: Value = serde_json::from_str(&run(&export)).unwrap();
            let grew = used(&mount.0) - before;
            if kind == "xfs" {
                assert_eq!(report["cloned"], MODEL, "{image}");
                assert!(report["written"].as_u64().unwrap() < 64 << 10 && grew < 1 << 20, "{image}: {report} {grew}");
            } else {
                assert!(report["cloned"] == 0 && grew >= MODEL, "{image}: {report} {grew}");
            }
            // No store vouches for it.
            assert!(report["read"].as_u64().unwrap() >= MODEL, "{report}");
            let again: Value = serde_json::from_str(&run(&export)).unwrap();
            assert_eq!((&again["read"], &again["written"], &again["cloned"]), (&json!(0), &json!(0), &json!(0)));
            assert_eq!(again["present"], json!([diff_id.to_string()]));
            let image = entry(&mount.0.join("cache"), diff_id);
            let seen = mounted(&env, &format!("{kind}-{}", bytes.len()), &image);
            assert!(fs::read(seen.0.join("models/weights")).unwrap() == fs::read(&model).unwrap());
            drop(seen);
            fs::remove_dir(env.path(format!("{kind}-{}", bytes.len()))).unwrap();
            bytes.insert(Digest::of(&fs::read(&image).unwrap()));
            caches.push(Digest::of(&fs::read(&image).unwrap()));
            // The cache goes on without what it was made from.
            fs::remove_dir_all(mount.0.join("cache")).unwrap();
        }
    }
    assert_eq!(caches.iter().collect::<BTreeSet<_>>().len(), 1, "{caches:?}");
}

#[test]
fn what_is_not_as_built_gets_no_name_and_what_is_not_whole_is_made_anew() {
    let env = Env::new();
    let root = env.write("root/file", pattern(3 << 20)).parent().unwrap().to_owned();
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "content": { "copyToRoot": [root] } });
    env.write("spec.json", spec.to_string());
    env.ok(["build", "spec.json", "--output", "app"]);
    let cache = env.path("cache");
    assert_eq!(export(&env, "app", &[])["present"], json!([]));
    let whole = files(&cache);
    let [path] = &whole.keys().collect::<Vec<_>>()[..] else { panic!("{whole:?}") };
    assert_eq!(export(&env, "app", &[])["written"], 0);

    // Cut, damaged in its first block, or no file system at all.
    let bytes = fs::read(path).unwrap();
    let mut damaged = bytes.clone();
    damaged[1100] ^= 1;
    for wrong in [&bytes[..bytes.len() - 1], &bytes[..100], &damaged, b"", &vec![0; 9000]] {
        fs::write(path, wrong).unwrap();
        export(&env, "app", &[]);
        assert_eq!(files(&cache), whole);
    }
    // One that another program has made of the layer stays, until all is to be compared.
    fs::remove_file(path).unwrap();
    run_ok(Command::new("mkfs.erofs").arg(path).arg(&root));
    let theirs = files(&cache);
    assert!(theirs != whole && export(&env, "app", &[])["written"] == 0);
    assert_eq!(files(&cache), theirs);
    assert!(export(&env, "app", &["--verify", "always"])["written"].as_u64().unwrap() > 3 << 20);
    assert_eq!(files(&cache), whole);

    // What a killed run has left goes, and an image that changed leaves what was there.
    let left = path.with_file_name(format!(".{}.windlass-1", path.file_name().unwrap().to_str().unwrap()));
    fs::write(&left, "half").unwrap();
    fs::write(root.join("file"), pattern((3 << 20) + 1)).unwrap();
    let arguments = ["export", "app", "--format", "erofs-cache", "--output", "cache", "--verify", "always"];
    let (code, said) = env.fails(arguments);
    assert!(code == 4 && said.contains("changed since it was built"), "{code}: {said}");
    assert_eq!(files(&cache), whole);
}

#[test]
fn layers_of_a_stack_are_there_once_and_what_cannot_be_is_refused() {
    let env = Env::new();
    let model = env.write("weights", pattern(1 << 20));
    let image = |name: &str, text: &str| {
        json!({ "name": name, "tag": "1", "content": { "texts": { "/etc/text": text } },
            "models": [{ "spec": { "name": "m", "files": { "weights": model } } }] })
    };
    let stack = json!({ "kind": "stack", "name": "s", "images": [image("a", "one"), image("b", "two")] });
    env.write("spec.json", stack.to_string());
    env.ok(["build", "spec.json", "--output", "stack"]);
    let said = env.ok(["export", "stack", "--format", "erofs-cache", "--output", "cache"]);
    assert!(said.starts_with("3 layers written, 0 present\ncache: read "), "{said}");
    let one = env.ok(["export", "stack/images/a", "stack/images/b", "--format", "erofs-cache", "--output", "cache"]);
    assert!(one.starts_with("0 layers written, 3 present\n"), "{one}");
    // A stack of archives, as a build by Nix gives it, leads to the lean stack that it was made from.
    env.ok(["export", "stack", "--output", "archives"]);
    std::os::unix::fs::symlink(env.path("stack"), env.path("archives/lean")).unwrap();
    let archives = env.ok(["export", "archives", "--format", "erofs-cache", "--output", "cache"]);
    assert!(archives.starts_with("0 layers written, 3 present\n"), "{archives}");
    // In a folder with something else in it, without the model.
    env.write("other/mine", "");
    let some =
        env.ok(["export", "stack/images/a", "--format", "erofs-cache", "--output", "other", "--without", "models"]);
    assert!(some.starts_with("left out sha256:") && some.contains("\n1 layer written, 0 present\n"), "{some}");
    assert!(env.path("other/mine").exists());

    let refused = |more: &[&str]| {
        let arguments = ["export", "stack", "--format", "erofs-cache", "--output", "spec.json"];
        env.refused(&mut env.windlass([&arguments, more].concat()))
    };
    let (code, said) = refused(&[]);
    assert_eq!(
        (code, said.as_str()),
        (2, "spec.json is no directory, and a layer cache is one; give another --output")
    );
    let (code, said) = refused(&["--compression", "zstd"]);
    assert!(code == 2 && said.starts_with("--compression is for archives"), "{said}");
}

#[test]
fn a_layer_cannot_have_zeros_written_without_end() {
    let env = Env::new();
    let script = "truncate -s 2G f && tar --format=pax --sparse --numeric-owner -cf layer.tar f";
    run_ok(Command::new("sh").args(["-ec", script]).current_dir(env.path("")));
    let layer = env.path("layer.tar");
    let archive = fs::read(&layer).unwrap();
    assert!(archive.len() < 100_000);
    let rootfs = json!({ "type": "layers", "diff_ids": [Digest::of(&archive).to_string()] });
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string();
    let descriptor = |kind: &str, bytes: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
    };
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type,
        "config": descriptor("config.v1+json", config.as_bytes()), "layers": [descriptor("layer.v1.tar", &archive)] });
    let config = env.write("config", config);
    Foreign { manifest: manifest.to_string(), config, layers: vec![layer], media_type }.build(&env, "holes");
    let (code, said) = env.fails(["export", "holes", "--format", "erofs-cache", "--output", "cache"]);
    assert!(code == 1 && said.contains("with f it has more than 1 GiB of holes"), "{code}: {said}");
    assert!(files(&env.path("cache")).is_empty());
}
