//! What a delta is for: five changes of a stack, made of programs and libraries of this machine, each against the bundle of before.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use windlass::internals::disk::size::size;

use crate::bundle::text_of;
use crate::engine::Podman;
use crate::env::{base_name, closure};
use crate::foreign::read;
use crate::model_files::gguf;

const LIBRARIES: [(&str, &str); 3] =
    [("glibc", "libc.so.6"), ("zlib", "libz.so.1"), ("openssl-libs", "libcrypto.so.3")];
const PROGRAMS: [(&str, &str, &[&str]); 4] = [
    ("git", "/usr/bin/git", &["glibc", "zlib"]),
    ("perl", "/usr/bin/perl", &["glibc"]),
    ("openssl", "/usr/bin/openssl", &["glibc", "openssl-libs"]),
    ("python", "/usr/bin/python3", &["glibc", "zlib", "openssl-libs"]),
];

/// What a stack is made of.
#[derive(Clone)]
struct Made {
    text: &'static str,
    workers: &'static str,
    git: &'static str,
    template: &'static str,
    crypto: &'static str,
}

const BEFORE: Made = Made { text: "one", workers: "4", git: "2.39", template: "{{ a }}", crypto: "3.0" };

/// The bytes of a file, with these letters of a version in place of those that it has.
fn versioned(path: &Path, from: &str, to: &str) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<usize> =
        bytes.windows(from.len()).enumerate().filter(|(_, word)| *word == from.as_bytes()).map(|(at, _)| at).collect();
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

/// Builds it, as Nix would: whatever a path needs is in its name, and in its bytes.
fn build(podman: &Podman, made: &Made) {
    let store = podman.home("store");
    let library = |name: &str| PathBuf::from("/usr/lib/x86_64-linux-gnu").join(name);
    let name = |name: &str| match name {
        "openssl-libs" => format!("openssl-libs-{}", made.crypto),
        other => other.to_owned(),
    };
    let mut paths: Vec<(String, Vec<String>)> = Vec::new();
    for (package, file) in LIBRARIES {
        let bytes = versioned(&library(file), "OpenSSL 3.0", &format!("OpenSSL {}", made.crypto));
        let bytes = if package == "openssl-libs" { bytes } else { fs::read(library(file)).unwrap() };
        podman.add(&name(package), &format!("lib/{file}"), bytes, 0o444);
        paths.push((name(package), vec![]));
    }
    let mut images = Vec::new();
    for (package, file, needs) in PROGRAMS {
        let needs: Vec<String> = needs.iter().map(|need| name(need)).collect();
        let version = if package == "git" { made.git } else { "1" };
        let own = format!("{package}-{version}-{}", needs.concat());
        let mut bytes = match package {
            "git" => versioned(Path::new(file), "2.39", made.git),
            _ => fs::read(file).unwrap(),
        };
        needs.iter().for_each(|need| bytes.extend(store.join(base_name(need)).to_str().unwrap().bytes()));
        podman.add(&own, &format!("bin/{package}"), bytes, 0o555);
        let program = store.join(base_name(&own)).join("bin").join(package);
        images.push(json!({ "name": package, "storeDir": store, "content": { "deps": [store.join(base_name(&own))] },
            "config": { "Cmd": [program], "Env": [format!("WORKERS={}", if package == "perl" { made.workers } else { "4" })] } }));
        paths.push((own, needs));
    }
    let env = &podman.env;
    env.write("m.gguf", gguf(made.template, &[12_000_000, 8_000_000]));
    env.ok(["model", "split", "m.gguf", "--max-size", "1", "--output", "shards"]);
    let model = format!("m-{}", made.template.len());
    for entry in fs::read_dir(env.path("shards")).unwrap() {
        let entry = entry.unwrap();
        podman.add(&model, entry.file_name().to_str().unwrap(), fs::read(entry.path()).unwrap(), 0o444);
    }
    let source = store.join(base_name(&model));
    let model = json!({ "spec": { "name": "m", "source": source, "storeDir": store, "layers": "files" } });
    images.push(json!({ "name": "app", "storeDir": store, "models": [model],
        "content": { "files": { "/bin/busybox": "/usr/bin/busybox" }, "texts": { "/text": made.text } },
        "config": { "Cmd": ["/bin/busybox", "cat", "/text"] } }));
    let needs: Vec<(&str, Vec<&str>)> =
        paths.iter().map(|(name, needs)| (name.as_str(), needs.iter().map(String::as_str).collect())).collect();
    let model = base_name_of(&source);
    let mut graph: Vec<(&str, &[&str])> = needs.iter().map(|(name, needs)| (*name, needs.as_slice())).collect();
    graph.push((&model, &[]));
    let graph = env.write("closure.json", closure(store.to_str().unwrap(), &store, &graph));
    let spec = json!({ "kind": "stack", "name": "bumps", "images": images });
    let spec = env.write("bumps.json", spec.to_string());
    drop(fs::remove_dir_all(env.path("stack")));
    env.ok(["build", spec.to_str().unwrap(), "--closure", graph.to_str().unwrap(), "--output", "stack"]);
}

/// The name of a store path without its hash.
fn base_name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap()[33..].to_owned()
}

fn json_of(podman: &Podman, arguments: &[&str]) -> Value {
    let said = podman.said(&[arguments, &["--json"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn five_changes_and_what_each_takes_as_a_delta() {
    let podman = Podman::linked();
    build(&podman, &BEFORE);
    let full = json_of(&podman, &["export", "stack", "--bundle", "bundle"])["bytes"].as_u64().unwrap();
    let target = Podman::linked();
    let bundle = |name: &str| podman.env.path(name).to_str().unwrap().to_owned();
    json_of(&target, &["load", &bundle("bundle")]);
    // What changes, how it is told, and at most how many thousandths of the whole it may take.
    let bumps = [
        ("text", "a text of the app", Made { text: "two", ..BEFORE }, [60, 1]),
        ("config", "a variable of a service", Made { workers: "8", ..BEFORE }, [0, 0]),
        ("service", "a new version of one service of five", Made { git: "2.40", ..BEFORE }, [100, 10]),
        ("metadata", "the chat template of the model", Made { template: "{{ another }}", ..BEFORE }, [10, 10]),
        ("library", "a library below two services", Made { crypto: "3.1", ..BEFORE }, [400, 10]),
    ];
    let mut table = String::from(
        "| what changed | whole bundle | delta | with `--patch` | the load wrote |\n|---|---|---|---|---|\n",
    );
    for (name, told, made, most) in bumps {
        build(&podman, &made);
        let plain = format!("{name}-plain");
        let plain = json_of(&podman, &["export", "stack", "--bundle", &plain, "--since", "bundle"]);
        let report = json_of(&podman, &["export", "stack", "--bundle", name, "--since", "bundle", "--patch"]);
        let [whole, delta] = ["full", "bytes"].map(|key| plain[key].as_u64().unwrap());
        let patched = report["bytes"].as_u64().unwrap();
        let loaded = json_of(&target, &["load", &bundle(name)]);
        assert_eq!(loaded["failed"], 0, "{loaded}");
        let written = loaded["written"].as_u64().unwrap();
        assert!(whole.abs_diff(full) < 100_000, "{plain}");
        let of_whole = [delta, patched].map(|bytes| bytes * 1000 / whole);
        assert!(of_whole[0] <= most[0] && of_whole[1] <= most[1], "{name}: {delta} and {patched} of {whole}");
        // Records, and files that only grow to whole blocks.
        assert!(written < delta + delta / 4 + 1_000_000, "{name}: wrote {written} for {delta}");
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let told_of = |bytes: u64| format!("{} ({:.2} %)", size(bytes), bytes as f64 * 100.0 / whole as f64);
        let cells = [told.to_owned(), size(whole), told_of(delta), told_of(patched), size(written)];
        writeln!(table, "| {} |", cells.join(" | ")).unwrap();
        if name == "text" {
            let app = read(&podman.env.path("stack/images/app/image.json"))["ref"].as_str().unwrap().to_owned();
            assert_eq!(text_of(&target, &app), "two");
        }
    }
    assert!(target.said(&["verify", "--full"]).last().contains("all good"));
    // For docs/loading.md, which has the numbers of one machine.
    writeln!(std::io::stdout(), "{table}").unwrap();
}
