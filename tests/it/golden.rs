//! Golden digests of layer format 1, and what independent readers make of the same bytes.
//!
//! **A digest that changes here is a new layer format** (`windlass::layer::FORMAT`, CHANGELOG): every image that people
//! have built would get another digest. Never "update" one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::layer::{Recipe, TRAILER, TarEntry, TarEntryKind, header, measure};
use windlass::internals::nix::nar::nar_hash;
use windlass::internals::oci::digest::{Digest, to_hex};

use crate::env::{Env, FIXED, base_name, closure, run_ok};
use crate::model_files::gguf;

/// Bytes that no two places of a file share.
pub(crate) fn pattern(size: usize) -> Vec<u8> {
    (0..u32::try_from(size).unwrap()).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub(crate) fn put(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>, mode: u32) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Store paths and plain files with everything that a layer can hold.
pub(crate) fn everything(host: &Path) {
    let tree = host.join(base_name("tree"));
    put(tree.join("bin/run"), "#!/bin/sh\n", 0o755);
    put(tree.join("share/empty"), "", 0o444);
    fs::create_dir_all(tree.join("share/empty-dir")).unwrap();
    put(tree.join("share/below"), pattern((1 << 20) - 1), 0o444);
    put(tree.join("share/exact"), pattern(1 << 20), 0o444);
    put(tree.join("share/over"), pattern((1 << 20) + 1), 0o444);
    // By bytes `a-` comes before `a.`, but everything below `a/` comes first.
    for name in ["a/x", "a-", "a.file", "B", "é"] {
        put(tree.join("order").join(name), name, 0o444);
    }
    put(tree.join("order").join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "", 0o444);
    let [d, e, f] = ["d", "e", "f"].map(|letter| letter.repeat(90));
    put(tree.join(format!("long/{d}/{e}/prefix")), "p", 0o444);
    put(tree.join(format!("long/{d}/{e}/{f}/pax")), "", 0o444);
    put(tree.join("long").join("n".repeat(120)), "", 0o444);
    symlink("/nowhere/at/all", tree.join("share/dangling")).unwrap();
    symlink("t".repeat(120), tree.join("share/far")).unwrap();
    symlink("../order/é", tree.join("share/accent")).unwrap();
    put(host.join(base_name("file")), "a store path that is a file", 0o444);
    symlink(format!("{FIXED}/{}/bin/run", base_name("tree")), host.join(base_name("link"))).unwrap();
    put(host.join("plain/etc/passwd"), "root:x:0:0::/root:/bin/sh\n", 0o600);
    put(host.join("plain/etc/shadow"), "", 0o600);
    put(host.join("plain/opt/tool"), "#!/bin/sh\n", 0o700);
    put(host.join("weights"), pattern(3 << 20), 0o644);
    let paths: [(&str, &[&str]); 3] = [("tree", &["tree"]), ("file", &[]), ("link", &["tree"])];
    fs::write(host.join("closure.json"), closure(FIXED, host, &paths)).unwrap();
}

/// Files of `everything` that others on the host cannot read; no mode but that of execution is in a layer.
const HIDDEN: [&str; 2] = ["/etc/passwd", "/opt/tool"];

/// Builds a spec where every path is the same in every run; the image directory.
fn build(env: &Env, host: &Path, spec: &Value) -> PathBuf {
    fs::write(host.join("spec.json"), spec.to_string()).unwrap();
    let more: &[&str] = match spec["kind"].as_str() {
        Some("image") => &["--full", "--closure", "closure.json"],
        Some("layer") => &["--closure", "closure.json"],
        _ => &[],
    };
    run_ok(&mut env.windlass_at(host, &[], &[&["build", "spec.json", "--output", "out"], more].concat()));
    host.join("out")
}

fn json_of(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn digests(layers: &Value) -> Vec<&str> {
    layers.as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap()).collect()
}

/// What GNU tar and Python's tarfile list; they must agree but for names of owners.
fn listing(archive: &Path) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/listing.py");
    let python = run_ok(Command::new("python3").arg(script).arg(archive));
    let flags = ["--utc", "-tvf"];
    let after = ["--numeric-owner", "--full-time", "--quoting-style=escape"];
    let gnu = run_ok(Command::new("tar").args(flags).arg(archive).args(after).env("LC_ALL", "C.UTF-8"));
    let words = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let unnamed = |line: &str| words(line).into_iter().filter(|word| !word.starts_with('(')).collect::<Vec<_>>();
    // GNU tar shows letters outside ASCII as they are.
    let gnu = gnu.replace('é', "\\303\\251");
    for (gnu, python) in gnu.lines().zip(python.lines()) {
        assert_eq!(words(gnu), unnamed(python));
    }
    assert_eq!(gnu.lines().count(), python.lines().count());
    python
}

fn listed(env: &Env, spec: &Value) -> (Vec<String>, String) {
    let host = env.path("host");
    let out = build(env, &host, spec);
    let image = json_of(out.join("image.json"));
    let layers = digests(&image["platforms"][0]["layers"]);
    let blob = |digest: &&str| out.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let text: Vec<String> = layers.iter().map(|digest| listing(&blob(digest))).collect();
    let extracted = env.path("extracted");
    fs::create_dir(&extracted).unwrap();
    run_ok(Command::new("tar").arg("-xpf").arg(blob(&layers[0])).arg("-C").arg(&extracted));
    for name in ["tree", "file", "link"].map(base_name) {
        let unpacked = extracted.join("dev/shm").join(&name);
        assert_eq!(nar_hash(&unpacked).unwrap(), nar_hash(&host.join(&name)).unwrap(), "{name}");
    }
    (layers.iter().map(|&digest| digest.to_owned()).collect(), text.join("\n"))
}

#[test]
fn a_layer_of_every_feature() {
    let env = Env::new();
    everything(&env.path("host"));
    let tree = format!("{FIXED}/{}", base_name("tree"));
    let deps = ["file", "link"].map(|name| format!("{FIXED}/{}", base_name(name)));
    let (layers, text) = listed(
        &env,
        &json!({
            "kind": "image", "name": "everything", "tag": "1", "platform": "linux/amd64", "storeDir": FIXED, "maxLayers": 1,
            "allowSecrets": HIDDEN,
            "content": {
                "deps": deps,
                "contents": [tree], "copyToRoot": [format!("{FIXED}/plain")],
                "files": { "/srv/data": format!("{FIXED}/weights") }, "texts": { "/etc/motd": "héllo\n" },
                "symlinks": { "/bin/sh": "run" }, "directories": { "/var/lib/app": "0700" }
            },
            "perms": [
                { "path": format!("{FIXED}/plain"), "regex": "^/etc/shadow$", "mode": "0640", "gid": 42, "gname": "shadow" },
                { "regex": "^/var/lib/app$", "uid": 999, "gid": 999 },
                { "regex": "^/srv", "mode": "0500", "uid": 3_000_000, "gid": 4_294_967_294_u32, "uname": "müller" }
            ]
        }),
    );
    assert_eq!(text, include_str!("../fixtures/every-feature.txt"));
    assert_eq!(layers, [CLOSURE, ROOT], "another digest is a new layer format");
}

/// A change means a new format version.
const CLOSURE: &str = "sha256:22219b22e45619fc04780f73133ad2f5b8c10626dcee4d4b05dc4be5b9e027d3";
/// A change means a new format version.
const ROOT: &str = "sha256:6a6f4620a448551abc184c4e6cb42e45c323a8fc804e0080b3a914541fd8471e";

#[test]
fn a_layer_of_store_paths_with_perms() {
    let env = Env::new();
    let host = env.path("host");
    everything(&host);
    let tree = format!("{FIXED}/{}", base_name("tree"));
    let out = build(
        &env,
        &host,
        &json!({
            "kind": "layer", "name": "tree", "storeDir": FIXED, "content": { "deps": [tree] },
            "perms": [
                { "path": tree, "regex": "/share/", "mode": "0640", "uid": 7 },
                { "regex": "/share/e", "mode": "4711" },
                { "regex": "/bin$", "gid": 8, "gname": "bin" }
            ]
        }),
    );
    let set = json_of(out.join("layers.json"));
    assert_eq!(digests(&set["layers"]), [LAYER], "another digest is a new layer format");
}

/// A change means a new format version.
const LAYER: &str = "sha256:ed099e7dd5ee905f51a396125c677bd2be4a560a5e81c0ad9abf51c5f6daf525";

/// All that an image config can say.
fn config() -> Value {
    json!({
        "User": "999:999", "ExposedPorts": { "6379/tcp": {}, "53/udp": {} }, "Env": ["PATH=/bin", "LANG=C.UTF-8"],
        "Entrypoint": ["/opt/tool"], "Cmd": ["--port", "6379"], "Volumes": { "/data": {} }, "WorkingDir": "/data",
        "Labels": { "z": "last", "a": "<é&>" }, "StopSignal": "SIGINT"
    })
}

fn image_spec(platform: &str) -> Value {
    json!({
        "kind": "image", "name": "example.com/team/app", "tag": "1.0", "platform": platform, "storeDir": FIXED,
        "osVersion": "1.2.3", "osFeatures": ["one", "two"], "created": "2024-02-29T12:00:00Z", "author": "Ada <a@example.com>",
        "config": config(), "annotations": { "org.opencontainers.image.title": "App", "b": "é" },
        "allowSecrets": HIDDEN,
        "content": { "copyToRoot": [format!("{FIXED}/plain")] },
        "models": [{ "spec": model_spec() }]
    })
}

fn model_spec() -> Value {
    json!({ "name": "tiny", "storeDir": FIXED, "files": { "a/tiny.gguf": format!("{FIXED}/weights") },
        "annotations": { "org.opencontainers.image.licenses": "Apache-2.0" } })
}

fn with_kind(kind: &str, mut spec: Value) -> Value {
    spec["kind"] = kind.into();
    spec
}

fn sha256(path: impl AsRef<Path>) -> String {
    Digest::of(&fs::read(path).unwrap()).to_string()
}

#[test]
fn a_whole_image_and_its_archive() {
    let env = Env::new();
    let host = env.path("host");
    everything(&host);
    let out = build(&env, &host, &image_spec("linux/arm64/v8"));
    let image = json_of(out.join("image.json"));
    let platform = &image["platforms"][0];
    let blob =
        |digest: &Value| out.join("blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap());
    let written = json_of(blob(&platform["configDigest"]));
    assert_eq!(written["config"], config());
    let about = ["architecture", "variant", "os", "os.version", "os.features", "created", "author"];
    let told = ["arm64", "v8", "linux", "1.2.3", "onetwo", "2024-02-29T12:00:00Z", "Ada <a@example.com>"];
    let text = |value: &Value| {
        value.as_array().map_or_else(
            || value.as_str().unwrap().to_owned(),
            |words| words.iter().map(|word| word.as_str().unwrap()).collect(),
        )
    };
    assert_eq!(about.map(|key| text(&written[key])), told.map(str::to_owned));
    assert_eq!(written["history"].as_array().unwrap().len(), 2);
    assert_eq!(written["rootfs"]["diff_ids"], json!(digests(&platform["layers"])));

    let archive = host.join("app.tar");
    run_ok(&mut env.windlass_at(&host, &[], &["export", "out", "--output", "app.tar"]));
    let found = [
        sha256(out.join("index.json")),
        image["digest"].as_str().unwrap().to_owned(),
        platform["configDigest"].as_str().unwrap().to_owned(),
        sha256(&archive),
    ];
    assert_eq!(found, IMAGE, "index.json, manifest, config, archive: another digest is a new format");
    let names = listing(&archive);
    let names: Vec<&str> = names.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    let blobs = [
        &platform["digest"],
        &platform["configDigest"],
        &platform["layers"][0]["digest"],
        &platform["layers"][1]["digest"],
    ];
    let blobs = blobs.map(|digest| digest.as_str().unwrap().replace(':', "/")).map(|name| format!("blobs/{name}"));
    let first = ["blobs/", "blobs/sha256/", "index.json", "oci-layout", "manifest.json"].map(str::to_owned);
    assert_eq!(names, [&first[..], &blobs[..]].concat());
}

/// A change means a new format version: index.json, manifest, config, archive.
const IMAGE: [&str; 4] = [
    "sha256:3ca6cc8411a91e27ba8fe41a2f6e35e7089a1343f911d3e680de676ad678d903",
    "sha256:a815f2e66805bcc984ade0d0d5689d927173897077bd2b6268cfd725bc02face",
    "sha256:1767680f30c8615cc0ccd2f8c0a0bfb7b58635645ee5d28aacb41f5a0dad99b2",
    "sha256:af4300c7b74793824b7ec2b4e5b3e6ff235964aa228480657d7a9a93d4103fd2",
];

#[test]
fn a_model_image_and_an_index() {
    let env = Env::new();
    let host = env.path("host");
    everything(&host);
    for (directory, platform) in [("arm64", "linux/arm64/v8"), ("amd64", "linux/amd64")] {
        let out = build(&env, &host, &image_spec(platform));
        fs::rename(out, host.join(directory)).unwrap();
    }
    let out = build(&env, &host, &with_kind("model", model_spec()));
    let model = json_of(out.join("image.json"));
    let layer = &model["platforms"][0]["layers"][0]["digest"];
    for directory in ["arm64", "amd64"] {
        let image = json_of(host.join(directory).join("image.json"));
        assert_eq!(
            &image["platforms"][0]["layers"][0]["digest"], layer,
            "the model is the lowest layer of {directory}"
        );
    }
    let index = json!({ "kind": "index", "name": "app", "images": ["amd64", "arm64"], "annotations": { "k": "v" } });
    let index = json_of(build(&env, &host, &index).join("image.json"));
    assert_eq!([layer, &model["digest"], &index["digest"]], MODEL_AND_INDEX, "another digest is a new format");
    assert_eq!(index["ref"], format!("localhost/app:{}", &MODEL_AND_INDEX[2][7..19]));
}

/// A change means a new format version: model layer, model manifest, index.
const MODEL_AND_INDEX: [&str; 3] = [
    "sha256:c027f20dd8f7f7fa0d0bf765cc04d347b87fa23c357647c755c03668427b9dea",
    "sha256:82189cd3e3dafe2bb2966d8717e516448e743f5b1c6126083815545b905f90dd",
    "sha256:f8d3a0c39310c9c599dd36b93c8462f39d1a9093de126490e265bf2327aa7ff8",
];

#[test]
fn a_model_that_says_what_it_is() {
    let env = Env::new();
    let host = env.path("host");
    everything(&host);
    fs::write(host.join("tiny.gguf"), gguf("{{ messages }}", &[2500, 70])).unwrap();
    let spec = json!({ "kind": "model", "name": "tiny", "storeDir": FIXED, "files": { "tiny.gguf": format!("{FIXED}/tiny.gguf") } });
    let model = json_of(build(&env, &host, &spec).join("image.json"));
    let layers = digests(&model["platforms"][0]["layers"]);
    let config = &model["platforms"][0]["configDigest"];
    assert_eq!(layers, SPEAKING[..2], "another digest is a new layer format");
    assert_eq!([&model["digest"], config], SPEAKING[2..], "another digest counts `bytes` in nix/lib/internal.nix up");
}

/// The model's layer, the link for RamaLama, manifest, config.
const SPEAKING: [&str; 4] = [
    "sha256:0af2fdc87963af398f71fea61b03c928d92a5e47629d461ad3f3ae57b32edd55",
    "sha256:1d5811b803f4d887071239b78ac38dd071c776f93aa53d8a63646cbc2cc5a9fe",
    "sha256:65b9e1ad2fcfdffe2d9db60cc83b63bf52e819e2f3e892108f953f0f42b99c5f",
    "sha256:87e1ee664236c0d0a4956ec1959b331db0c4e88ac475c2944263c531c4961e82",
];

/// The sums in an image directory, by the digests of its layers.
fn sums(image: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(image.join("recipes")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "crc64"));
    files.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

#[test]
fn the_sum_of_every_file_is_kept() {
    let env = Env::new();
    let host = env.path("host");
    everything(&host);
    // Large enough for hashing to have a thread of its own.
    put(host.join("weights"), pattern((5 << 20) + 3), 0o444);
    let mut spec = image_spec("linux/amd64");
    spec["allowSecrets"] = json!([]);
    let paths = ["tree", "file", "link"].map(|name| format!("{FIXED}/{}", base_name(name)));
    spec["content"] = json!({ "deps": paths, "texts": { "/etc/motd": "héllo\n", "/etc/empty": "" } });
    let full = host.join("full");
    fs::rename(build(&env, &host, &spec), &full).unwrap();
    let kept = sums(&full);
    let image = json_of(full.join("image.json"));
    let layers = digests(&image["platforms"][0]["layers"]);
    let layers: BTreeSet<&str> = layers.iter().map(|digest| digest.strip_prefix("sha256:").unwrap()).collect();
    assert!(layers.len() > 2 && layers == kept.keys().map(String::as_str).collect(), "{layers:?}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/crc64.py");
    for (layer, kept) in &kept {
        let python = run_ok(Command::new("python3").arg(script).arg(full.join("blobs/sha256").join(layer)));
        assert!(!kept.is_empty(), "every layer of this image has a file");
        assert_eq!(kept.chunks(8).map(to_hex).collect::<Vec<_>>(), python.lines().collect::<Vec<_>>());
    }

    let windlass = |arguments: &[&str]| run_ok(&mut env.windlass_at(&host, &[], arguments));
    let rebuild = || {
        windlass(&["build", "spec.json", "--closure", "closure.json", "--output", "lean"]);
        sums(&host.join("lean"))
    };
    assert_eq!(rebuild(), kept, "with and without blobs");
    windlass(&["verify", "lean", "--full"]);
    // A layer that was built before brings its sums, and its files are not read for them.
    let model = host.join("model");
    fs::rename(build(&env, &host, &with_kind("model", model_spec())), &model).unwrap();
    fs::remove_file(host.join("weights")).unwrap();
    spec["models"] = json!([{ "built": format!("{FIXED}/model") }]);
    fs::write(host.join("spec.json"), spec.to_string()).unwrap();
    assert_eq!(rebuild(), kept);
    // One that an older windlass built has none.
    let (layer, _) = sums(&model).pop_first().unwrap();
    fs::remove_file(model.join("recipes").join(format!("{layer}.crc64"))).unwrap();
    assert_eq!(rebuild(), kept.into_iter().filter(|(other, _)| *other != layer).collect());
}

const NINE_GIB: u64 = 9 << 30;

#[test]
fn a_file_of_nine_gib() {
    let env = Env::new();
    let host = env.path("host");
    fs::create_dir(&host).unwrap();
    File::create(host.join("weights")).unwrap().set_len(NINE_GIB).unwrap();
    let input = json!({ "type": "copy", "source": host.join("weights"), "target": "/models/tiny" });
    let recipe: Recipe = serde_json::from_value(json!({ "format": 1, "inputs": [input] })).unwrap();
    let (uname, gname) = (String::new(), String::new());
    let parent =
        TarEntry { path: b"models".into(), kind: TarEntryKind::Directory, mode: 0o755, uid: 0, gid: 0, uname, gname };
    let entry =
        TarEntry { path: b"models/tiny".into(), kind: TarEntryKind::File(NINE_GIB), mode: 0o444, ..parent.clone() };
    let mut head = header(&parent, 0);
    head.extend(header(&entry, head.len() as u64));
    assert_eq!(head.len(), 4096, "the data begins at a block of the file system");
    let size = 4096 + NINE_GIB + TRAILER.len() as u64;
    assert_eq!(measure(&recipe).unwrap(), size);

    // The same archive by hand: it costs nothing, and others can read it.
    let sparse = File::create(host.join("sparse.tar")).unwrap();
    sparse.write_all_at(&head, 0).unwrap();
    sparse.set_len(size).unwrap();
    let expected =
        "drwxr-xr-x 0/0 0 1970-01-01 00:00:01 models/\n-r--r--r-- 0/0 9663676416 1970-01-01 00:00:01 models/tiny\n";
    assert_eq!(listing(&host.join("sparse.tar")), expected);
}

/// Memory depends on chunks and buffers, never on the size of a file: 512 MiB must do in an eighth of that.
#[test]
fn a_large_model_in_little_memory() {
    let env = Env::new();
    let host = env.path("host");
    fs::create_dir(&host).unwrap();
    File::create(host.join("weights")).unwrap().set_len(512 << 20).unwrap();
    fs::write(host.join("spec.json"), with_kind("model", model_spec()).to_string()).unwrap();
    let peak = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); \
                print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    for arguments in [["build", "spec.json", "--output", "out"], ["export", "out", "--output", "out.tar"]] {
        let kibibytes = run_ok(&mut env.windlass_at(&host, &["python3", "-c", peak], &arguments));
        assert!(kibibytes.trim().parse::<u64>().unwrap() < 64 * 1024, "{arguments:?}: {kibibytes} KiB");
    }
    let image = json_of(host.join("out/image.json"));
    assert_eq!(image["platforms"][0]["layers"][0]["digest"], LARGE, "another digest is a new layer format");
}

/// A change means a new format version.
const LARGE: &str = "sha256:9de8377eed7ef22179ce74f81817102642ea1c58e2eb2aeaf9373eef77770825";

/// Two layers of nix2container's own tests (`nix/layers_test.go`), as that project's Go writes them: the fields that
/// both formats have are the same bytes.
#[test]
fn headers_agree_with_nix2container() {
    let digest_of = |file_mode: u32| {
        let entry = |path: &str, kind, mode| {
            let (uname, gname) = ("root".to_owned(), "root".to_owned());
            let mut block = header(&TarEntry { path: path.into(), kind, mode, uid: 0, gid: 0, uname, gname }, 0);
            assert_eq!(block.len(), 512);
            // Theirs: no slash after a directory, device numbers of zero, and a checksum of six digits.
            if block[156] == b'5' {
                block[path.len()] = 0;
            }
            block[329..345].copy_from_slice(b"0000000\x000000000\0");
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            block
        };
        let mut archive = Vec::new();
        for directory in ["..", "../data", "../data/layer1"] {
            archive.extend(entry(directory, TarEntryKind::Directory, 0o755));
        }
        archive.extend(entry("../data/layer1/file1", TarEntryKind::File(0), file_mode));
        archive.extend(TRAILER);
        Digest::of(&archive).hex()
    };
    assert_eq!(digest_of(0o644), "cc45bd46eca903b0900ebb997dffd5778904dca9ec02e7375dd1e653dfb61e2e");
    assert_eq!(digest_of(0o641), "adf74a52f9e1bcd7dab77193455fa06743b979cf5955148010e5becedba4f72d");
}
