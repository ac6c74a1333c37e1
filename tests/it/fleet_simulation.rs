//! `windlass simulate`: numbers that were counted by hand, a history of real packages, and the table and the picture of docs/fleet.md.
//! What really moves is compared with it in `fleet`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::nix::store_path::nixbase32;
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, base_name, run_ok};
use crate::fleet::stack;
use crate::nix::{eval, nix, root};

const FIXTURE: &str = "tests/fixtures/fleet/ai-stack.json";

fn path(name: &str) -> String {
    format!("/nix/store/{}", base_name(name))
}

/// An entry of `paths`: a store path of this many bytes, in a layer twice as many, packed half as many.
fn entry(name: &str, size: u64, references: &[&str]) -> Value {
    let hash = Digest::of(name.as_bytes()).to_string();
    json!({ "path": path(name), "narHash": hash, "narSize": size, "tarSize": 2 * size, "zstdSize": size / 2,
        "references": references.iter().map(|name| path(name)).collect::<Vec<_>>() })
}

fn simulate(env: &Env, history: &Value, more: &[&str]) -> Value {
    let file = env.write("history.json", history.to_string());
    let arguments = [&["simulate", "--history", file.to_str().unwrap(), "--json"], more].concat();
    serde_json::from_str(&env.ok(arguments)).unwrap()
}

/// `[received, written]` of the first version and of all updates.
fn costs(report: &Value, scheme: &str, route: &str) -> [[u64; 2]; 2] {
    let costs = report["costs"].as_array().unwrap();
    let cost = costs.iter().find(|cost| cost["scheme"] == scheme && cost["route"] == route).unwrap();
    let bytes = |value: &Value| ["received", "written"].map(|key| value[key].as_u64().unwrap());
    [bytes(&cost["first"]), bytes(&cost["updates"])]
}

/// Bytes of a layer besides its store paths: two directories and the end.
const FRAME: u64 = 2048;
const MB: u64 = 1_000_000;

#[test]
fn what_was_counted_by_hand_is_what_it_says() {
    let env = Env::new();
    let (five, seven) = (5 * MB, 7 * MB);
    let paths = [
        entry("libc-1", five, &[]),
        entry("lib-1", five, &["libc-1"]),
        entry("app-1", seven, &["lib-1", "libc-1"]),
        entry("lib-2", five, &["libc-1"]),
        entry("app-2", seven, &["lib-2", "libc-1"]),
        entry("model", 100 * MB, &[]),
    ];
    let image = |version: u32, settings: &str| {
        json!({ "app": { "roots": [path(&format!("app-{version}"))], "models": [path("model")], "settings": settings,
            "top": { "content": format!("{version}"), "size": 1000, "zstdSize": 500 }, "manifestSize": 10, "leanSize": 3 } })
    };
    let history = json!({ "version": 1, "paths": paths, "versions": [
        { "title": "first", "images": image(1, "") },
        { "title": "a setting", "images": image(1, "other") },
        { "title": "the library", "images": image(2, "other") },
    ] });
    let report = simulate(&env, &history, &["--hosts", "1"]);
    // model | libc | lib | app | top: five layers of windlass.
    let all = 2 * (100 * MB + 5 * MB + 5 * MB + 7 * MB);
    let update = 2 * (5 * MB + 7 * MB) + 2 * FRAME + 1000;
    let windlass = |route: &str| costs(&report, "windlass", route);
    assert_eq!(
        windlass("registry"),
        [[all + 4 * FRAME + 1000 + 10, all + 4 * FRAME + 1000], [update + 20, update]],
        "{report:#}"
    );
    let packed = (100 * MB + 17 * MB) / 2 + 500;
    let packed_update = 6 * MB + 500;
    assert_eq!(windlass("registry-zstd")[0][0], packed + 10);
    assert_eq!(windlass("registry-zstd")[1], [packed_update + 20, update]);
    assert_eq!(windlass("binary-cache"), [[117 * MB + 3, 117 * MB + 3], [12 * MB + 6, 12 * MB + 6]]);
    assert_eq!(windlass("bundle"), [[all + 4 * FRAME + 1010, all + 4 * FRAME + 1000], [update + 20, update]]);
    // All in one, and again for the library; the archive is a store path, and goes to the engine from there.
    let one = all + FRAME + 1000;
    assert_eq!(costs(&report, "one-layer", "registry"), [[one + 10, one], [one + 20, one]]);
    assert_eq!(costs(&report, "one-layer", "binary-cache"), [[one + 10, 2 * one], [2 * one + 20, 3 * one]]);
    // By how many ways lead there: libc (2), then lib, app and the model (1 each), by name or from the end of the list.
    // Each has a layer of its own, and what lies above a changed one is written again.
    let [first, updates] = costs(&report, "docker-tools", "registry");
    assert_eq!(first, [all + 4 * FRAME + 1010, all + 4 * FRAME + 1000]);
    assert_eq!(updates[0], update + 20);
    // libc | app | lib | model | top
    assert_eq!(updates[1], update + 200 * MB + FRAME, "the model is written again");
    // models | libc and lib | app
    let [first, updates] = costs(&report, "nix2container-layers", "registry");
    assert_eq!(first[1], all + 3 * FRAME + 1000);
    assert_eq!(updates[1], 2 * 17 * MB + 2 * FRAME + 1000);

    // A host that leaves out what changes nothing of its own, and one that gets nothing.
    let skipping = simulate(&env, &history, &["--hosts", "10", "--skips", "100"]);
    for route in ["registry", "binary-cache", "bundle"] {
        assert_eq!(costs(&skipping, "windlass", route)[1], [0, 0], "{route}");
    }
    // Twenty hosts are twenty times one, and another seed gives another history.
    let twenty = simulate(&env, &history, &["--hosts", "20"]);
    assert_eq!(costs(&twenty, "windlass", "registry")[1], [20 * (update + 20), 20 * update]);
    let some = |seed: &str| simulate(&env, &history, &["--hosts", "40", "--skips", "50", "--seed", seed]);
    assert_eq!(some("1"), some("1"));
    assert_ne!(some("1")["costs"], some("2")["costs"]);
}

#[test]
fn what_is_no_history_is_told() {
    let env = Env::new();
    let image = json!({ "app": { "roots": [path("app-1")] } });
    let version = json!({ "title": "one", "images": image });
    let paths = [entry("app-1", 5, &[])];
    for (history, told) in [
        (json!({ "version": 1, "versions": [] }), "it needs two versions at least"),
        (json!({ "version": 2, "versions": [version, version] }), "is of version 2"),
        (json!({ "version": 1, "versions": [version, version] }), "is not in the closure graph"),
        (json!({ "version": 1, "paths": paths, "versions": [version, version], "hosts": 3 }), "unknown field `hosts`"),
        (
            json!({ "version": 1, "paths": paths, "versions": [version, version], "groups": [{ "title": "g", "images": ["b"] }] }),
            "group 'g' has an image b, which no version has",
        ),
        (
            json!({ "version": 1, "paths": paths, "versions": [version, { "title": "x", "images": { "b": { "roots": ["/etc"] } } }] }),
            "version 'x', image b: ",
        ),
    ] {
        let file = env.write("history.json", history.to_string());
        let (code, said) = env.fails(["simulate", "--history", file.to_str().unwrap()]);
        assert!([1, 2].contains(&code) && said.contains(told), "{history}: {code} {said}");
    }
}

/// Store paths of real packages, and what changes of them.
struct Packages {
    /// By path.
    entries: BTreeMap<String, Value>,
    all: BTreeMap<String, Value>,
}

impl Packages {
    fn read(roots: &[&str], measured: Option<&Path>) -> Self {
        let json = run_ok(nix("nix").args(["path-info", "--json", "--recursive"]).args(roots));
        let mut entries = BTreeMap::new();
        for mut entry in serde_json::from_str::<Vec<Value>>(&json).unwrap() {
            let path = entry["path"].as_str().unwrap().to_owned();
            let keys = ["path", "narHash", "narSize", "references"];
            entry.as_object_mut().unwrap().retain(|key, _| keys.contains(&key.as_str()));
            if measured.is_some() {
                let tar = Command::new("tar")
                    .args(["-C", "/", "--format=ustar", "-cf", "-", &path[1..]])
                    .output()
                    .unwrap()
                    .stdout;
                let mut zstd = windlass::internals::oci::compression::Compression::Zstd.encoder(Vec::new()).unwrap();
                std::io::Write::write_all(&mut zstd, &tar).unwrap();
                entry["zstdSize"] = zstd.finish().unwrap().len().into();
                // Without its padding.
                entry["tarSize"] = (tar.len() as u64).saturating_sub(1024).into();
            }
            entries.insert(path, entry);
        }
        Self { all: entries.clone(), entries }
    }

    /// As in Nix, what refers to what was changed gets new content too; the same sizes.
    fn change(&mut self, name: &str, version: u32) {
        let mut changed: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let before = changed.len();
            for (path, entry) in &self.entries {
                let refers = entry["references"].as_array().unwrap().iter().any(|reference| {
                    reference.as_str().is_some_and(|reference| reference != path && changed.contains_key(reference))
                });
                if (refers || path[44..].starts_with(name)) && !changed.contains_key(path) {
                    let hash = Digest::of(format!("{path} {version}").as_bytes());
                    let hash: String = nixbase32::encode(hash.as_bytes()).chars().take(32).collect();
                    changed.insert(path.clone(), format!("/nix/store/{hash}-{}", &path[44..]));
                }
            }
            if changed.len() == before {
                break;
            }
        }
        assert!(!changed.is_empty(), "no package {name}");
        let renamed = |path: &str| changed.get(path).cloned().unwrap_or_else(|| path.to_owned());
        let entries = self.entries.iter().map(|(path, entry)| {
            let (mut entry, path) = (entry.clone(), renamed(path));
            entry["path"] = path.clone().into();
            let references = entry["references"].as_array().unwrap().iter().map(|one| renamed(one.as_str().unwrap()));
            entry["references"] = references.collect();
            (path, entry)
        });
        self.entries = entries.collect();
        self.all.extend(self.entries.clone());
    }

    /// The path of this package now.
    fn path(&self, name: &str) -> &str {
        let mut found = self.entries.keys().filter(|path| path[44..].starts_with(name));
        found.next().unwrap_or_else(|| panic!("no package {name}"))
    }
}

/// Redis, PostgreSQL and an app of Python's over a model: what they are made of here, and six updates of it.
fn real_history(measure: bool) -> Value {
    let packages =
        eval(r#"map (p: "${p}") [ pkgs.redis pkgs.postgresql_17 pkgs.python3 pkgs.windlassModels.smollm2 ]"#);
    let roots: Vec<&str> = packages.as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    let measured = measure.then(|| Path::new("/"));
    let mut packages = Packages::read(&roots, measured);
    // What lies outside of the store, and how large the small files are: of images that were really built.
    let built = stack("one");
    let small = |image: &str| {
        let directory = Path::new(&built).join("images").join(image);
        let summary: Value = serde_json::from_slice(&fs::read(directory.join("image.json")).unwrap()).unwrap();
        let platform = &summary["platforms"][0];
        let layers = platform["layers"].as_array().unwrap();
        let top = layers.iter().find(|layer| layer["kind"] == "root").unwrap()["size"].as_u64().unwrap();
        let size = |digest: &Value| {
            fs::metadata(directory.join("blobs/sha256").join(&digest.as_str().unwrap()[7..])).unwrap().len()
        };
        let nar = Command::new("nix-store").arg("--dump").arg(fs::canonicalize(&directory).unwrap()).output().unwrap();
        (top, size(&platform["digest"]) + size(&platform["configDigest"]), nar.stdout.len())
    };
    let (top, manifest, lean) = small("app");
    let mut versions = Vec::new();
    let mut add = |packages: &Packages, title: &str, text: u32, settings: &str| {
        let image = |name: &str, root: &str, models: &[&str], content: String, settings: &str| {
            let models: Vec<&str> = models.iter().map(|model| packages.path(model)).collect();
            let top = json!({ "content": format!("{name} {content}"), "size": top, "zstdSize": 400 });
            json!({ "roots": [packages.path(root)], "models": models, "top": top, "settings": settings,
                "manifestSize": manifest, "leanSize": lean })
        };
        let images = json!({
            "redis": image("redis", "redis-", &[], String::new(), settings),
            "postgres": image("postgres", "postgresql_17", &[], String::new(), ""),
            "app": image("app", "python3-", &["SmolLM2"], text.to_string(), ""),
        });
        versions.push(json!({ "title": title, "images": images }));
    };
    add(&packages, "first", 1, "");
    add(&packages, "app text", 2, "");
    add(&packages, "a setting of redis", 2, "maxmemory");
    packages.change("openssl-", 1);
    add(&packages, "openssl, below all three", 2, "maxmemory");
    packages.change("icu-", 1);
    add(&packages, "icu, below postgres", 2, "maxmemory");
    packages.change("glibc-", 1);
    add(&packages, "security update of libc", 2, "maxmemory");
    packages.change("SmolLM2", 1);
    add(&packages, "new model", 2, "maxmemory");
    add(&packages, "app text again", 3, "maxmemory");
    let groups = json!([
        { "title": "edge", "share": 6, "images": ["app", "redis"], "skips": 20 },
        { "title": "data", "share": 3, "images": ["postgres", "redis"] },
        { "title": "all", "share": 1 },
    ]);
    json!({ "version": 1, "paths": packages.all.values().collect::<Vec<_>>(), "versions": versions, "groups": groups })
}

/// The history of docs/fleet.md is made of Debian's packages as they were; `UPDATE_FIXTURES=1` makes it of those of today.
#[test]
fn a_history_of_real_packages() {
    let update = std::env::var_os("UPDATE_FIXTURES").is_some();
    let history = real_history(update);
    if update {
        let file = root().join(FIXTURE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, serde_json::to_string_pretty(&history).unwrap() + "\n").unwrap();
    }
    let env = Env::new();
    let report = simulate(&env, &history, &["--hosts", "100"]);
    let names: BTreeSet<&str> =
        report["costs"].as_array().unwrap().iter().map(|cost| cost["scheme"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 5);
    let ours = costs(&report, "windlass", "registry");
    for scheme in names.into_iter().filter(|name| *name != "windlass") {
        let theirs = costs(&report, scheme, "registry");
        assert!(ours[1][1] < theirs[1][1], "{scheme} writes less than windlass: {theirs:?} {ours:?}");
        // With fewer store paths than layers, the others give each a layer of its own: a little less is sent, and more is written.
        assert!(ours[1][0] < theirs[1][0] + theirs[1][0] / 7, "{scheme}: {theirs:?} {ours:?}");
        let cached = [scheme, "windlass"].map(|scheme| costs(&report, scheme, "binary-cache")[1]);
        assert!(cached[1][1] < cached[0][1], "{scheme}: {cached:?}");
    }
    // A changed text is a few kilobytes for each of the hosts with the app, and a model that did not change is not there twice.
    let text = &report["costs"][0]["versions"][1]["received"];
    assert!(text.as_u64().unwrap() < 100 * 30_000, "{report:#}");
    // Measured here, on the store paths of this machine: those that a change would have given a new name are not here.
    let measured = simulate(&env, &two_versions(&history), &["--hosts", "1", "--measure"]);
    assert!(measured["measured"].as_u64().unwrap() > 5, "{measured}");
    let [[estimated, _], _] =
        costs(&simulate(&env, &two_versions(&history), &["--hosts", "1"]), "windlass", "registry");
    let [[real, _], _] = costs(&measured, "windlass", "registry");
    // What a NAR and an archive differ in.
    assert!(real.abs_diff(estimated) < estimated / 10, "{real} {estimated}");
    assert!(costs(&measured, "windlass", "registry-zstd")[0][0] < real);
}

/// The first two versions with redis alone, small enough to be measured in a test.
fn two_versions(history: &Value) -> Value {
    let mut small = history.clone();
    small["versions"].as_array_mut().unwrap().truncate(2);
    for version in small["versions"].as_array_mut().unwrap() {
        version["images"].as_object_mut().unwrap().retain(|name, _| name == "redis");
    }
    small["groups"] = json!([]);
    let redis = small["versions"][0]["images"]["redis"]["roots"][0].as_str().unwrap().to_owned();
    let mut needed = BTreeSet::from([redis]);
    let paths = small["paths"].as_array().unwrap().clone();
    for _ in 0..paths.len() {
        for entry in &paths {
            if !needed.contains(entry["path"].as_str().unwrap()) {
                continue;
            }
            needed.extend(entry["references"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()));
        }
    }
    let kept: Vec<Value> = paths.into_iter().filter(|entry| needed.contains(entry["path"].as_str().unwrap())).collect();
    small["paths"] = kept.into();
    small
}

#[test]
fn the_table_and_the_picture_of_the_docs_are_what_it_prints() {
    let env = Env::new();
    let fixture = root().join(FIXTURE);
    let arguments = ["simulate", "--history", fixture.to_str().unwrap(), "--hosts", "1000"];
    let table = env.ok([&arguments[..], &["--output", "fleet.svg"]].concat());
    let picture = fs::read_to_string(env.path("fleet.svg")).unwrap();
    assert_eq!(env.ok([&arguments[..], &["--output", "-"]].concat()), picture);
    // One file that fetches nothing, well-formed for who reads XML.
    assert_eq!(picture.matches("http").count(), 1, "its own namespace");
    let script = "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])";
    run_ok(Command::new("python3").args(["-c", script]).arg(env.path("fleet.svg")));
    let page = root().join("docs/fleet.md");
    let text = fs::read_to_string(&page).unwrap();
    let (begin, end) = ("<!-- simulation -->\n\n```text\n", "```\n\n<!-- end -->");
    let (head, rest) = text.split_once(begin).unwrap();
    let (_, tail) = rest.split_once(end).unwrap();
    let now = format!("{head}{begin}{table}{end}{tail}");
    let drawn = root().join("docs/fleet.svg");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&page, now).unwrap();
        fs::write(&drawn, picture).unwrap();
    } else {
        assert!(text == now, "docs/fleet.md has another table; UPDATE_DOCS=1 writes it:\n{table}");
        assert!(
            fs::read_to_string(drawn).unwrap() == picture,
            "docs/fleet.svg is another picture; UPDATE_DOCS=1 writes it"
        );
    }
}
