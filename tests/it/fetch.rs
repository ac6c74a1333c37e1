//! `windlass upstream fetch`, and the builder that fetches, against Debian's docker-registry.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::env::{LinkedPodman, linked_podman, run_ok};
use crate::push::{app, windlass};
use crate::registry_server::RealRegistry;

/// An image of this size in a registry, and a lock that has it as `app`.
pub(crate) fn locked(podman: &LinkedPodman, bytes: usize) -> RealRegistry {
    app(podman, bytes);
    let registry = RealRegistry::start(&podman.env);
    let reference = format!("{}/team/app:1", registry.host);
    run_ok(&mut windlass(podman, &["push", "app", &format!("docker://{reference}"), "--insecure"]));
    run_ok(&mut windlass(podman, &["upstream", "add", "app", &reference, "--insecure"]));
    registry
}

pub(crate) fn lock(podman: &LinkedPodman) -> Value {
    serde_json::from_slice(&fs::read(podman.env.path("images.lock.json")).unwrap()).unwrap()
}

fn fetch(podman: &LinkedPodman, more: &[&str]) -> (i32, String, String) {
    let mut arguments = vec!["upstream", "fetch", "--retries", "0"];
    arguments.extend(more);
    let output = windlass(podman, &arguments).output().unwrap();
    let text = |bytes: Vec<u8>| podman.env.scrub(&String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn blobs_come_once_to_the_paths_that_derivations_have() {
    let podman = linked_podman();
    let mut registry = locked(&podman, 3_000_000);
    let (code, out, err) = fetch(&podman, &["--offline"]);
    assert!(code == 6 && err.contains("would have to be fetched") && out.contains("app is incomplete: "), "{out}{err}");
    let blobs = lock(&podman)["blobs"].as_object().unwrap().clone();
    let bytes: u64 = blobs.values().map(|blob| blob["size"].as_u64().unwrap()).sum();
    let report: Value = serde_json::from_str(&fetch(&podman, &["--json"]).1).unwrap();
    assert_eq!((&report["fetched"], &report["network"]), (&json!(blobs.len()), &json!(bytes)), "{report}");
    let store = podman.env.path("store").display().to_string();
    for (digest, row) in report["blobs"].as_object().unwrap() {
        let (hex, name) = (&digest[7..], format!("oci-blob-sha256-{}", &digest[7..]));
        let path = podman.ok("nix-store", &["--print-fixed-path", "sha256", hex, &name]);
        assert_eq!(row["path"], path.trim());
        let found = fs::read(row["path"].as_str().unwrap().replace("$T/store", &store)).unwrap();
        assert_eq!(&windlass::internals::oci::digest::Digest::of(&found).to_string(), digest);
        // The derivation is built already: it needs neither its builder nor its URL.
        let expression = format!(
            "derivation {{ name = \"{name}\"; system = builtins.currentSystem; builder = \"/none\"; outputHashMode = \
             \"flat\"; outputHashAlgo = \"sha256\"; outputHash = \"{hex}\"; }}"
        );
        let drv = podman
            .ok("nix-instantiate", &["--expr", &expression])
            .trim()
            .replace("$T", podman.env.path("").to_str().unwrap().trim_end_matches('/'));
        assert_eq!(podman.ok("nix-store", &["--realise", &drv]).trim(), path.trim());
    }
    assert_eq!(fs::read_dir(podman.env.path("home/.cache/windlass/blobs")).unwrap().count(), 0);
    registry.stop();
    let (code, out, err) = fetch(&podman, &["--offline"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(out, format!("{} blobs: 0 fetched, {} present; network 0 B\n", blobs.len(), blobs.len()));

    // The garbage collector leaves them, until the lock has them no more.
    let dead = || {
        let dead = podman.ok("nix-store", &["--gc", "--print-dead"]);
        dead.lines().filter(|path| path.contains("oci-blob-sha256") && !path.ends_with(".drv")).count()
    };
    assert_eq!(dead(), 0);
    let mut empty = lock(&podman);
    (empty["images"], empty["blobs"]) = (json!({}), json!({}));
    fs::write(podman.env.path("images.lock.json"), empty.to_string()).unwrap();
    assert_eq!(fetch(&podman, &[]).0, 0);
    assert_eq!(dead(), blobs.len());
}

#[test]
fn what_was_killed_goes_on_where_it_was() {
    let podman = linked_podman();
    let _registry = locked(&podman, 300_000_000);
    let blobs = lock(&podman)["blobs"].as_object().unwrap().clone();
    let (digest, size) = blobs
        .iter()
        .map(|(digest, blob)| (digest, blob["size"].as_u64().unwrap()))
        .max_by_key(|(_, size)| *size)
        .unwrap();
    let part = podman.env.path(format!("home/.cache/windlass/blobs/oci-blob-sha256-{}.part", &digest[7..]));
    let mut child = windlass(&podman, &["upstream", "fetch"]).stdout(Stdio::null()).spawn().unwrap();
    while fs::metadata(&part).map_or(0, |part| part.len()) < 10_000_000 {
        assert!(child.try_wait().unwrap().is_none(), "too fast to be killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let there = fs::metadata(&part).unwrap().len();
    let report: Value = serde_json::from_str(&fetch(&podman, &["--json"]).1).unwrap();
    assert_eq!(report["incomplete"], json!({}));
    assert!(there < size && report["network"].as_u64().unwrap() <= size - there + 20_000_000, "{there} {report}");
}

#[test]
fn what_is_wrong_or_gone_is_told_by_image_and_the_rest_is_kept() {
    let podman = linked_podman();
    let registry = locked(&podman, 3_000_000);
    let blobs = lock(&podman)["blobs"].as_object().unwrap().clone();
    let (digest, _) = blobs.iter().max_by_key(|(_, blob)| blob["size"].as_u64()).unwrap();
    let data = podman.env.path(format!("registry-{}", registry.host.rsplit_once(':').unwrap().1));
    let file = data.join(format!("docker/registry/v2/blobs/sha256/{}/{}/data", &digest[7..9], &digest[7..]));
    let mut bytes = fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let (code, out, err) = fetch(&podman, &[]);
    assert!(
        code == 4 && err.contains(&format!("{digest} (app): docker://{}/team/app: ", registry.host)),
        "{code} {err}"
    );
    assert!(out.starts_with("app is incomplete: 1 blob missing\n"), "{out}\n{err}");
    assert!(out.contains(&format!("{} fetched, 0 present; ", blobs.len() - 1)), "{out}");
    assert!(!podman.ok("sh", &["-c", "ls $NIX_STORE_DIR"]).contains(&digest[7..]), "the store has it");
    bytes[1000] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let (code, out, _) = fetch(&podman, &["--image", "app", "--platform", "linux/amd64"]);
    assert!(code == 0 && out.contains(&format!("1 fetched, {} present; ", blobs.len() - 1)), "{out}");
    let (code, _, err) = fetch(&podman, &["--image", "other"]);
    assert!(code == 2 && err.contains("no image 'other'"), "{code} {err}");
    let (code, _, err) = fetch(&podman, &["--platform", "linux/s390x"]);
    assert!(code == 2 && err.contains("linux/s390x"), "{code} {err}");
}

/// A folder with programs that do this before they are the real ones: `$REAL` is PATH without them, `$SEEN` a folder of theirs.
fn in_front(podman: &LinkedPodman, programs: &[&str], script: &str, command: &mut Command) {
    let (folder, seen) = (podman.env.path("bin"), podman.env.path("seen"));
    drop(fs::remove_dir_all(&folder));
    drop(fs::remove_dir_all(&seen));
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(&seen).unwrap();
    for program in programs {
        let script = format!("#!/bin/sh\n{script}\nPATH=\"$REAL\" exec {program} \"$@\"\n");
        fs::write(folder.join(program), script).unwrap();
        fs::set_permissions(folder.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let real = std::env::var("PATH").unwrap();
    command.env("SEEN", &seen).env("REAL", &real).env("PATH", format!("{}:{real}", folder.display()));
}

#[test]
fn a_nix_whose_database_is_busy_is_asked_again() {
    let podman = linked_podman();
    let _registry = locked(&podman, 100_000);
    // Whatever it is asked, the first time it says no.
    let script = "seen=\"$SEEN/${0##*/}.$(printf %s \"$*\" | sha256sum | cut -c1-64)\"\nif mkdir \"$seen\" 2> /dev/null; \
                  then echo \"error: SQLite database '/db.sqlite' is busy\" >&2; exit 1; fi";
    let mut command = windlass(&podman, &["upstream", "fetch", "--retries", "0"]);
    in_front(&podman, &["nix-store", "nix-daemon"], script, &mut command);
    let blobs = lock(&podman)["blobs"].as_object().unwrap().len();
    let out = run_ok(&mut command);
    assert!(out.starts_with(&format!("{blobs} blobs: {blobs} fetched, 0 present; ")), "{out}");
    let seen = fs::read_dir(podman.env.path("seen")).unwrap().map(|entry| entry.unwrap().file_name());
    let seen: Vec<String> = seen.map(|name| name.into_string().unwrap()).collect();
    for program in ["nix-store.", "nix-daemon."] {
        assert!(seen.iter().any(|name| name.starts_with(program)), "{program} was not refused: {seen:?}");
    }
}

#[test]
fn one_nix_takes_all_blobs_and_one_that_cannot_is_told() {
    let podman = linked_podman();
    let _registry = locked(&podman, 3_000_000);
    let blobs = lock(&podman)["blobs"].as_object().unwrap().len();
    assert!(blobs > 1);
    let run = |script: &str| {
        let mut command = windlass(&podman, &["upstream", "fetch", "--retries", "0", "--jobs", "1"]);
        in_front(&podman, &["nix-daemon"], script, &mut command);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), podman.env.scrub(&String::from_utf8(output.stderr).unwrap()))
    };
    for (script, said) in [
        ("echo 'error: it has no mind to' >&2; exit 1", "nix-daemon --stdio: it has no mind to"),
        // Another language, an old one, and an end in the middle.
        ("echo 'HTTP/1.1 400 Bad Request, and more'; exit 0", "of its protocol; update Nix to 2.4"),
        (
            "printf 'oixd\\0\\0\\0\\0\\20\\1\\0\\0\\0\\0\\0\\0'; exit 0",
            "it speaks version 1.16 of its protocol; update Nix",
        ),
        ("printf 'oixd\\0\\0\\0\\0'; exit 0", "nix-daemon --stdio: "),
    ] {
        let (code, err) = run(script);
        assert!(code == 1 && err.contains("(app): nix-daemon --stdio: "), "{script}: {code} {err}");
        assert!(err.contains(said), "{script}: {err}");
    }
    let (code, err) = run("echo >>\"$SEEN/starts\"");
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(fs::read_to_string(podman.env.path("seen/starts")).unwrap().lines().count(), 1);
}

#[test]
fn a_kill_while_nix_takes_a_blob_leaves_what_the_next_run_needs() {
    let podman = linked_podman();
    let _registry = locked(&podman, 300_000_000);
    let blobs = lock(&podman)["blobs"].as_object().unwrap().clone();
    let (digest, _) = blobs.iter().max_by_key(|(_, blob)| blob["size"].as_u64()).unwrap();
    let whole = podman.env.path(format!("home/.cache/windlass/blobs/oci-blob-sha256-{}", &digest[7..]));
    let is_new = |name: &str| name.starts_with("add-") || name.starts_with("tmp-");
    let new_in_store = || {
        let names = fs::read_dir(podman.env.path("store")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| is_new(name.to_str().unwrap())).count()
    };
    let mut child = windlass(&podman, &["upstream", "fetch", "--jobs", "1"]).stdout(Stdio::null()).spawn().unwrap();
    // Nix writes it beside its place.
    while !whole.exists() || new_in_store() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "too fast to be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Nix, whose pipe has ended, takes away what it has.
    let start = std::time::Instant::now();
    while new_in_store() > 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "Nix has left what it had of a blob");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, report, err) = fetch(&podman, &["--json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["incomplete"], json!({}));
    assert!(report["network"].as_u64().unwrap() < 3_000_000, "the blob had come whole: {report}");
    let store = podman.env.path("store").display().to_string();
    let path = report["blobs"][digest]["path"].as_str().unwrap().replace("$T/store", &store);
    assert_eq!(&windlass::internals::oci::digest::Digest::of(&fs::read(&path).unwrap()).to_string(), digest);
    // What Nix knows of it is what it knows of the output of a derivation: it is content-addressed.
    let info = podman.ok("nix", &["--extra-experimental-features", "nix-command", "path-info", "--json", &path]);
    assert!(info.contains("\"ca\":\"fixed:sha256:"), "{info}");
    podman.ok("nix-store", &["--verify-path", &path]);
}

#[test]
fn the_builder_asks_each_source_and_says_what_to_do() {
    let podman = linked_podman();
    let registry = locked(&podman, 100_000);
    let (digest, blob) =
        lock(&podman)["blobs"].as_object().unwrap().iter().next().map(|(d, b)| (d.clone(), b.clone())).unwrap();
    let build = |sources: Value, out: &str| {
        let attributes = json!({ "outputs": { "out": podman.env.path(out) }, "windlass": { "action": "fetchBlob",
            "sources": sources, "digest": digest, "size": blob["size"], "insecure": true, "image": "app" } });
        let file = podman.env.write(format!("{out}.attrs.json"), attributes.to_string());
        let mut command = podman.env.windlass(["nix-builder"]);
        let output =
            command.env("NIX_ATTRS_JSON_FILE", file).env("SSL_CERT_FILE", "/no-cert-file.crt").output().unwrap();
        (output.status.code().unwrap(), podman.env.scrub(&String::from_utf8(output.stderr).unwrap()))
    };
    let dead = "docker://127.0.0.1:9/m/app";
    let (code, said) = build(json!([dead, "/none", format!("docker://{}/team/app", registry.host)]), "one");
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        windlass::internals::oci::digest::Digest::of(&fs::read(podman.env.path("one")).unwrap()).to_string(),
        digest
    );
    let (code, said) = build(json!([dead, "/none"]), "two");
    assert_eq!(code, 7);
    for part in
        ["docker://127.0.0.1:9/m/app: 127.0.0.1:9 cannot be reached", "/none: ", "windlass upstream fetch --image app"]
    {
        assert!(said.contains(part), "{said}");
    }
    assert!(!podman.env.path("two").exists() && !podman.env.path("two.part").exists());

    // A web server with blobs as a hashed mirror has them.
    let folder = podman.env.path("web/sha256");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(podman.env.path("one"), folder.join(&digest[7..])).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("python3")
        .args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string(), "--directory"])
        .arg(podman.env.path("web"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..200 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, said) = build(json!([format!("http://127.0.0.1:{port}")]), "three");
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(
        (code, fs::read(podman.env.path("three")).unwrap()),
        (0, fs::read(podman.env.path("one")).unwrap()),
        "{said}"
    );
}
