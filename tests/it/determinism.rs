//! The same inputs give the same bytes, whatever the machine does: design, sections 3 and 9.
//!
//! Each test builds an image and its archive from inputs at the same path ([`FIXED`]), once as a plain root would and
//! once differently, and compares everything that was written, byte for byte.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use windlass::internals::nix::nar::nar_hash;
use windlass::internals::nix::store_path::NarHash;
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, FIXED, base_name, closure, run_ok};
use crate::golden::{pattern, put};

/// Names of the files of the tree, in the order in which they are made.
const NAMES: [&str; 6] = ["zz", "a/x", "B", "a.b", "bin/tool", "é"];

fn inputs(host: &Path, reversed: bool) {
    let mut names = NAMES;
    if reversed {
        names.reverse();
    }
    let tree = host.join(base_name("tree"));
    for name in names {
        put(tree.join(name), pattern(name.len() * 1000), if name == "bin/tool" { 0o555 } else { 0o444 });
    }
    symlink("zz", tree.join("link")).unwrap();
    put(host.join(base_name("library")).join("lib.so"), pattern(5000), 0o444);
    put(host.join("plain/etc/app.conf"), "twin", 0o644);
    put(host.join("plain/etc/twin.conf"), "twin", 0o644);
    put(host.join("models/large"), pattern(2 << 20), 0o644);
    put(host.join("models/small"), vec![0; 1 << 20], 0o644);
    fs::write(host.join("spec.json"), spec().to_string()).unwrap();
    let paths: [(&str, &[&str]); 2] = [("tree", &["library", "tree"]), ("library", &[])];
    fs::write(host.join("closure.json"), closure(FIXED, host, &paths)).unwrap();
}

fn spec() -> Value {
    let model = |name: &str| json!({ "spec": { "name": name, "storeDir": FIXED, "files": { name: format!("{FIXED}/models/{name}") } } });
    json!({
        "kind": "image", "name": "app", "platform": "linux/amd64", "storeDir": FIXED, "maxLayers": 2,
        "models": [model("small"), model("large")],
        "content": {
            "deps": [format!("{FIXED}/{}", base_name("tree"))],
            "contents": [format!("{FIXED}/{}", base_name("tree")), format!("{FIXED}/{}", base_name("library"))],
            "copyToRoot": [format!("{FIXED}/plain")]
        },
        "perms": [{ "regex": "^/etc/app", "mode": "0600", "uid": 999 }],
        "config": { "Cmd": ["/bin/tool"], "Labels": { "b": "2", "a": "1" } }
    })
}

/// Everything that a build and an export write.
#[derive(Debug, PartialEq)]
struct Written {
    lean: NarHash,
    archive: Digest,
}

const NO_VARIABLES: [(&str, &str); 0] = [];

fn written<const N: usize>(env: &Env, host: &Path, wrap: &[&str], variables: [(&str, &str); N]) -> Written {
    let out = host.join("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let build = ["build", "spec.json", "--closure", "closure.json", "--output", "out/lean"];
    for arguments in [&build[..], &["export", "out/lean", "--output", "out/app.tar"]] {
        run_ok(env.windlass_at(host, wrap, arguments).envs(variables));
    }
    let found = Written { lean: lean(&out), archive: Digest::of(&fs::read(out.join("app.tar")).unwrap()) };
    fs::remove_dir_all(&out).unwrap();
    found
}

fn lean(out: &Path) -> NarHash {
    nar_hash(&out.join("lean")).unwrap().0
}

/// Inputs in a folder of this name, and what is written of them.
fn fresh(env: &Env, name: &str) -> (PathBuf, Written) {
    let host = env.path(name);
    inputs(&host, false);
    let found = written(env, &host, &[], NO_VARIABLES);
    (host, found)
}

#[test]
fn the_environment_says_nothing() {
    let env = Env::new();
    let (host, plain) = fresh(&env, "host");
    let umask: &[&str] = &["sh", "-c", "umask 077 && exec \"$@\"", "sh"];
    assert_eq!(written(&env, &host, umask, NO_VARIABLES), plain, "umask");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    assert_eq!(written(&env, &host, &nobody, NO_VARIABLES), plain, "user");
    let elsewhere = [("TZ", "Pacific/Kiritimati"), ("LANG", "tr_TR.UTF-8"), ("LC_ALL", "tr_TR.UTF-8")];
    assert_eq!(written(&env, &host, &[], elsewhere), plain, "time zone and language");
    assert_eq!(written(&env, &host, &[], [("SOURCE_DATE_EPOCH", "1234567890")]), plain, "SOURCE_DATE_EPOCH");
    for threads in ["1", "2", "7"] {
        assert_eq!(written(&env, &host, &[], [("RAYON_NUM_THREADS", threads)]), plain, "{threads} threads");
    }
}

/// There is no second walk over store paths: the one that hashes a layer tells the rest what they need.
#[test]
fn a_build_opens_each_file_once_and_looks_at_it_in_no_other_way() {
    let env = Env::new();
    let host = env.path("host");
    inputs(&host, false);
    let log = env.path("trace");
    let names = "trace=open,openat,openat2,stat,lstat,statx,newfstatat,access,faccessat2,readlink";
    let traced = ["strace", "-f", "-qq", "-e", names, "-o", log.to_str().unwrap()];
    let build = ["build", "spec.json", "--closure", "closure.json", "--output", "lean"];
    run_ok(&mut env.windlass_at(&host, &traced, &build));
    let calls = fs::read_to_string(&log).unwrap();
    for file in ["zz", "a.b", "lib.so"] {
        // By its path, or by its name in a directory that is open.
        let is_of_file = |call: &&str| ["/", "\""].iter().any(|start| call.contains(&format!("{start}{file}\"")));
        let of_file: Vec<&str> = calls.lines().filter(is_of_file).collect();
        assert!(matches!(of_file[..], [call] if call.contains("open")), "{file}: {of_file:#?}");
    }
}

#[test]
fn the_order_of_a_directory_says_nothing() {
    let env = Env::new();
    // A tmpfs lists what was made last first, so the two orders are really there.
    let (one, two) = (env.mount("one", "tmpfs", 64 << 20), env.mount("two", "tmpfs", 64 << 20));
    inputs(&one.0, false);
    inputs(&two.0, true);
    let order = |host: &Path| -> Vec<_> {
        fs::read_dir(host.join(base_name("tree"))).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_ne!(order(&one.0), order(&two.0));
    assert_eq!(written(&env, &one.0, &[], NO_VARIABLES), written(&env, &two.0, &[], NO_VARIABLES));
}

#[test]
fn an_optimised_store_says_nothing() {
    let env = Env::new();
    let (host, copies) = fresh(&env, "host");
    let (kept, twin) = (host.join("plain/etc/app.conf"), host.join("plain/etc/twin.conf"));
    fs::remove_file(&twin).unwrap();
    fs::hard_link(&kept, &twin).unwrap();
    // As `nix store optimise` does: one more link, in a folder that no image has.
    fs::create_dir(host.join(".links")).unwrap();
    for name in ["zz", "bin/tool"] {
        fs::hard_link(host.join(base_name("tree")).join(name), host.join(".links").join(name.replace('/', "-")))
            .unwrap();
    }
    assert_eq!(fs::metadata(&twin).unwrap().nlink(), 2);
    assert_eq!(written(&env, &host, &[], NO_VARIABLES), copies);
}

#[test]
fn holes_in_a_file_say_nothing() {
    let env = Env::new();
    let (host, dense) = fresh(&env, "host");
    let path = host.join("models/small");
    assert!(fs::metadata(&path).unwrap().blocks() >= 2048);
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().blocks(), 0, "a hole");
    assert_eq!(written(&env, &host, &[], NO_VARIABLES), dense);
}

#[test]
fn metadata_says_nothing() {
    let env = Env::new();
    let (host, plain) = fresh(&env, "host");
    let tree = host.join(base_name("tree"));
    for (n, name) in NAMES.iter().enumerate() {
        let path = tree.join(name);
        let modes = if *name == "bin/tool" { [0o755, 0o700, 0o4511] } else { [0o644, 0o600, 0o455] };
        let (mode, owner) = (modes[n % 3], u32::try_from(n).unwrap() * 1000);
        chown(&path, Some(owner), Some(owner + 1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 * n as u64 + 7);
        File::open(&path).unwrap().set_modified(time).unwrap();
        rustix::fs::setxattr(&path, "user.note", name.as_bytes(), rustix::fs::XattrFlags::CREATE).unwrap();
    }
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o2700)).unwrap();
    let mut value = [0; 16];
    assert_eq!(rustix::fs::getxattr(tree.join("B"), "user.note", &mut value), Ok(1));
    assert_eq!(written(&env, &host, &[], NO_VARIABLES), plain);

    // What does count: whether the owner may execute a file.
    fs::set_permissions(tree.join("B"), fs::Permissions::from_mode(0o744)).unwrap();
    assert_ne!(written(&env, &host, &[], NO_VARIABLES), plain);
}

#[test]
fn full_and_lean_differ_in_no_digest() {
    let env = Env::new();
    let (host, plain) = fresh(&env, "host");
    let arguments = ["build", "spec.json", "--closure", "closure.json", "--output", "full", "--full"];
    run_ok(&mut env.windlass_at(&host, &[], &arguments));
    for (name, verify) in [("auto.tar", "auto"), ("always.tar", "always"), ("never.tar", "never")] {
        run_ok(&mut env.windlass_at(&host, &[], &["export", "full", "--output", name, "--verify", verify]));
        assert_eq!(Digest::of(&fs::read(host.join(name)).unwrap()), plain.archive, "{name}");
    }
    // Without the blobs of layers, the full image is the lean one.
    let full = host.join("full");
    let image: Value = serde_json::from_slice(&fs::read(full.join("image.json")).unwrap()).unwrap();
    for layer in image["platforms"][0]["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        let blob = full.join("blobs").join(digest.replace(':', "/"));
        assert_eq!(Digest::of(&fs::read(&blob).unwrap()).to_string(), digest);
        fs::remove_file(blob).unwrap();
    }
    assert_eq!(nar_hash(&full).unwrap().0, plain.lean);
}

#[test]
fn the_order_of_lists_says_nothing() {
    let env = Env::new();
    let (host, plain) = fresh(&env, "host");
    let mut spec = spec();
    for list in ["/models", "/content/contents"] {
        spec.pointer_mut(list).unwrap().as_array_mut().unwrap().reverse();
    }
    fs::write(host.join("spec.json"), spec.to_string()).unwrap();
    assert_eq!(written(&env, &host, &[], NO_VARIABLES), plain);
}

#[test]
fn where_a_model_comes_from_says_nothing() {
    let env = Env::new();
    let model = |source: &str| {
        env.write(source, pattern(3000));
        let spec = json!({ "kind": "model", "name": "m", "files": { "m.gguf": env.path(source) } });
        env.write("spec.json", spec.to_string());
        env.ok(["build", "spec.json", "--output", "out"]);
        fs::read(env.path("out/index.json")).unwrap()
    };
    assert_eq!(model("downloads/m-Q4.gguf"), model("elsewhere/weights"));
}

#[test]
fn ext4_and_xfs_give_the_same_bytes_and_xfs_shares_them() {
    const MODEL: u64 = 64 << 20;
    let env = Env::new();
    let outcome = |kind: &str| {
        let mount = env.mount(kind, kind, 1 << 30);
        inputs(&mount.0, false);
        fs::write(mount.0.join("models/large"), pattern(usize::try_from(MODEL).unwrap())).unwrap();
        let found = written(&env, &mount.0, &[], NO_VARIABLES);

        let arguments = ["build", "spec.json", "--closure", "closure.json", "--output", "lean"];
        run_ok(&mut env.windlass_at(&mount.0, &[], &arguments));
        let used = || {
            run_ok(Command::new("sync").arg("--file-system").arg(&mount.0));
            let stat = rustix::fs::statvfs(&mount.0).unwrap();
            (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        };
        let before = used();
        let json = run_ok(&mut env.windlass_at(&mount.0, &[], &["export", "lean", "--output", "a.tar", "--json"]));
        let report: Value = serde_json::from_str(&json).unwrap();
        let size = fs::metadata(mount.0.join("a.tar")).unwrap().len();
        let read = report["read"].as_u64().unwrap();
        assert!((MODEL + (1 << 20)..size).contains(&read), "bytes that no store vouches for are read: {read}");
        let grew = (used() - before) * 100 / size;

        // As Nix leaves its files, and still not vouched for: the image directory is not in the Nix store.
        let large = mount.0.join("models/large");
        fs::set_permissions(&large, fs::Permissions::from_mode(0o444)).unwrap();
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        File::open(&large).unwrap().set_modified(second).unwrap();
        let again = run_ok(&mut env.windlass_at(&mount.0, &[], &["export", "lean", "--output", "b.tar", "--json"]));
        let again: Value = serde_json::from_str(&again).unwrap();
        assert_eq!(again["read"].as_u64().unwrap(), read);
        let [a, b] = ["a.tar", "b.tar"].map(|name| Digest::of(&fs::read(mount.0.join(name)).unwrap()));
        assert_eq!(a, b);

        // Nor does sharing hide a change: writing to a file also changes its time.
        fs::write(&large, vec![7; usize::try_from(MODEL).unwrap()]).unwrap();
        let export = &mut env.windlass_at(&mount.0, &[], &["export", "lean", "--output", "c.tar"]);
        let (code, sentence) = env.refused(export);
        assert!(code == 4 && sentence.contains("/models/large changed since it was built"), "{code}: {sentence}");
        (found, report["cloned"].as_u64().unwrap(), grew)
    };
    let (ext4, copied, ext4_grew) = outcome("ext4");
    let (xfs, cloned, xfs_grew) = outcome("xfs");
    assert_eq!(ext4, xfs);
    assert!(copied == 0 && ext4_grew > 90, "ext4 cannot share: {copied} bytes shared, grew by {ext4_grew} %");
    // Both models: the small one is just large enough to be aligned.
    assert_eq!(cloned, MODEL + (1 << 20));
    assert!(xfs_grew < 5, "grew by {xfs_grew} % of the archive");
}
