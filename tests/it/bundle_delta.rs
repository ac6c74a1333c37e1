//! Deltas: what a bundle leaves out that another one has, what it says of that, and what is loaded where it is there, or is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::bundle::{Source, WEIGHTS, ids, load, sums_fit, text_of, without_nix};
use crate::engine::{Podman, Said};
use crate::env::run_ok;
use crate::foreign::read;

/// What an export says, which must end well.
fn export(source: &Source, arguments: &[&str]) -> Value {
    let said = source.podman.said(&[&["export"], arguments, &["--json"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    serde_json::from_str(&said.stdout).unwrap()
}

/// The stack with this text, as a bundle that leaves out what `since` has.
fn delta(source: &Source, text: &str, since: &str, to: &str) -> Value {
    source.stack(text);
    export(source, &["stack", "--bundle", to, "--since", since])
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap()
}

/// The JSON of a blob.
fn blob(bundle: &Path, digest: &Value) -> Value {
    read(&bundle.join("blobs/sha256").join(&digest.as_str().unwrap()[7..]))
}

/// The files of a directory with their bytes.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let name = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
    let mut all: Vec<_> =
        crate::bundle::files(folder).iter().map(|path| (name(path), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

#[test]
fn a_delta_leaves_out_what_the_old_one_has_and_says_so_to_other_tools() {
    let source = Source::new();
    export(&source, &["stack", "--bundle", "bundle"]);
    source.podman.load(&source.path("stack"), &[]).last();
    let old: Value = read(&source.path("stack/images/app/image.json"));
    fs::rename(source.path("stack"), source.path("old")).unwrap();
    source.stack("two");
    let planned = export(&source, &["stack", "--bundle", "delta", "--since", "bundle", "--dry-run"]);
    let report = export(&source, &["stack", "--bundle", "delta", "--since", "bundle"]);
    let new: Value = read(&source.path("stack/images/app/image.json"));
    let layer = new["platforms"][0]["layers"].as_array().unwrap().last().unwrap().clone();
    for report in [&planned, &report] {
        assert_eq!((number(report, "blobs"), number(report, "bytes")), (1, number(&layer, "size")), "{report}");
        assert!(number(report, "full") > WEIGHTS as u64 + number(report, "bytes"), "{report}");
        assert_eq!(
            (number(report, "missing"), number(report, "targetWrites")),
            (number(&layer, "size"), number(&layer, "size"))
        );
        assert_eq!(report["expects"].as_array().unwrap().len(), 3, "{report}");
    }
    let bundle = source.path("delta");
    sums_fit(&bundle);

    // The image itself is there as it was built, and beside it what oci-delta says of it.
    let index = read(&bundle.join("index.json"));
    let named = |name: &str| {
        let key = "org.opencontainers.image.ref.name";
        let all = index["manifests"].as_array().unwrap();
        all.iter().find(|entry| entry["annotations"][key] == *name).unwrap().clone()
    };
    let app = source.reference("app");
    assert_eq!(named(&app)["digest"], new["digest"]);
    let manifest = blob(&bundle, &named(&format!("{app}-delta"))["digest"]);
    assert_eq!(manifest["artifactType"], "application/vnd.io.github.containers.oci-delta.v1");
    assert_eq!(
        (&manifest["subject"]["digest"], &blob(&bundle, &manifest["config"]["digest"])),
        (&new["digest"], &json!({}))
    );
    let noted = |key: &str| manifest["annotations"][format!("io.github.containers.delta.{key}")].as_str().unwrap();
    let platform = &new["platforms"][0];
    let left_out: Vec<&Value> = platform["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|other| **other != layer)
        .map(|layer| &layer["digest"])
        .collect();
    assert!(!left_out.is_empty());
    assert_eq!(serde_json::from_str::<Value>(noted("reused")).unwrap(), json!(left_out));
    assert_eq!(noted("reused"), noted("reused-diff-id"));
    assert_eq!(
        [noted("target"), noted("source")],
        [&new["digest"], &old["digest"]].map(|digest| digest.as_str().unwrap())
    );
    assert_eq!(old["platforms"][0]["configDigest"], noted("source-config"));
    let parts: Vec<[&Value; 3]> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            let of = |key: &str| &part["annotations"][format!("io.github.containers.delta.{key}")];
            [of("content"), of("to"), &part["digest"]]
        })
        .collect();
    let none = Value::Null;
    let expected = [
        [&json!("image-manifest"), &none, &new["digest"]],
        [&json!("image-config"), &none, &platform["configDigest"]],
        [&json!("image-layer"), &layer["digest"], &layer["digest"]],
    ];
    assert_eq!(parts, expected);
    // skopeo takes the artifact out, as the one thing that is in a directory, which oci-delta reads.
    let skopeo = |arguments: &[&str]| run_ok(Command::new("skopeo").args(arguments).current_dir(source.path("")));
    skopeo(&["--insecure-policy", "copy", "--quiet", &format!("oci:delta:{app}-delta"), "oci:artifact"]);
    let taken = read(&source.path("artifact/index.json"))["manifests"][0]["digest"].clone();
    assert_eq!(taken, named(&format!("{app}-delta"))["digest"]);
    assert_eq!(
        Digest::of(skopeo(&["inspect", "--raw", &format!("oci:delta:{app}")]).as_bytes()).to_string(),
        new["digest"].as_str().unwrap()
    );

    // Whatever tells what there was.
    fs::copy(source.path("bundle/stack.json"), source.path("alone.json")).unwrap();
    for (n, since) in ["old", "alone.json", "generation:1", "bundle/stack.json"].iter().enumerate() {
        let to = format!("delta-{n}");
        export(&source, &["stack", "--bundle", &to, "--since", since]);
        assert_eq!(content(&source.path(&to)), content(&bundle), "{since}");
    }
    let report = export(&source, &["stack", "--bundle", "image", "--since", "old/images/app"]);
    assert_eq!(number(&report, "blobs"), 2, "web is not in app: {report}");
    for (since, code, says) in [
        ("nothing", 2, "nothing: there is no such file or directory"),
        ("delta/images", 2, "is no bundle, stack or image directory: it has neither stack.json nor image.json"),
        ("generation:9", 2, "generation"),
        ("generation:x", 2, "x is no number of a generation"),
        ("bundle/README.txt", 1, "bundle/README.txt"),
    ] {
        let said = source.podman.said(&["export", "stack", "--bundle", "no", "--since", since]);
        assert!(said.code == code && said.stderr.contains(says) && !source.path("no").exists(), "{said:?}");
    }
    let said = source.podman.said(&["export", "stack", "--bundle", "bundle", "--since", "bundle"]);
    assert!(said.code == 2 && said.stderr.contains("is the bundle that would be written"), "{said:?}");
    let said = source.podman.said(&["export", "delta", "--bundle", "again"]);
    assert!(
        said.code == 1 && said.stderr.contains("it was exported without") && !source.path("again").exists(),
        "{said:?}"
    );
}

/// A stack "one" as a bundle, one with "two" as a delta against it, and what each has loaded.
fn two_bundles() -> (Source, [Vec<(String, String)>; 2]) {
    let source = Source::new();
    export(&source, &["stack", "--bundle", "bundle"]);
    let one = source.built();
    delta(&source, "two", "bundle", "delta");
    let two = source.built();
    (source, [one, two])
}

fn has(podman: &Podman, built: &[(String, String)]) -> bool {
    let there: BTreeSet<String> = ids(podman);
    built.iter().all(|(reference, digest)| {
        let mut lines = there.iter().map(|line| line.split(' ').collect::<Vec<_>>());
        lines.any(|words| words[0] == reference && words[2] == digest)
    })
}

fn refused(said: &Said, source: &Source, lacks: &[&str], old: &[(String, String)]) {
    assert_eq!(said.code, 7, "{said:?}");
    for name in lacks {
        let (reference, digest) = old.iter().find(|(reference, _)| reference.contains(&format!("/{name}:"))).unwrap();
        let line = said.stderr.lines().find(|line| line.contains(&source.reference(name))).unwrap_or_default();
        assert!(
            line.contains("was exported without layer") && line.contains(reference) && line.contains(digest),
            "{said:?}"
        );
        assert!(said.stderr.contains(&format!("load {reference} first")), "{said:?}");
    }
}

#[test]
fn a_delta_is_loaded_where_its_base_is_and_refused_by_name_where_it_is_not() {
    let (source, [one, two]) = two_bundles();
    let [base, delta] = ["bundle", "delta"].map(|name| source.path(name));
    for podman in [Podman::linked(), Podman::new()] {
        for options in [&["--dry-run"][..], &[]] {
            refused(&load(&podman, &delta, options), &source, &["app", "web"], &one);
        }
        assert!(ids(&podman).is_empty());
        load(&podman, &base, &[]).last();
        let planned = load(&podman, &delta, &["--dry-run"]);
        assert!(planned.last().starts_with("1 to load, 2 present"), "{planned:?}");
        let loaded = load(&podman, &delta, &[]);
        assert!(loaded.last().starts_with("2 images, 1 model: 1 loaded, 2 present; wrote "), "{loaded:?}");
        assert!(has(&podman, &two), "{:?}", ids(&podman));
        assert_eq!(text_of(&podman, &source.reference("app")), "two");
        assert_eq!(
            load(&podman, &delta, &[]).last(),
            "2 images, 1 model: 0 loaded, 3 present; wrote 0 B; network 0 bytes"
        );
        assert!(without_nix(&podman, &["verify", "--full"]).last().contains("all good"));
    }
    let verified = source.podman.said(&["verify", "delta", "--full"]);
    assert!(verified.last().contains("all good"), "{verified:?}");
    let (old, digest) = &one[0];
    let line = format!("{} expects 1 layer (3.0 MB) of {old} ({digest})", two[0].0);
    assert!(verified.stdout.lines().any(|told| told == line), "{line}: {verified:?}");
    let readme = fs::read_to_string(delta.join("README.txt")).unwrap();
    assert!(readme.contains("It is a delta") && readme.contains(&format!("{old} ({digest})")), "{readme}");
}

#[test]
fn layers_of_the_base_are_taken_from_whichever_store_has_them() {
    let (source, [_, two]) = two_bundles();
    for via in [["podman", "auto"], ["auto", "podman"]] {
        let podman = Podman::linked();
        load(&podman, &source.bundle(), &["--via", via[0]]).last();
        let loaded = load(&podman, &source.path("delta"), &["--via", via[1]]);
        assert!(loaded.last().contains("1 loaded, 2 present"), "{loaded:?}");
        assert!(has(&podman, &two), "{:?}", ids(&podman));
        assert_eq!(text_of(&podman, &source.reference("app")), "two");
        assert!(without_nix(&podman, &["verify", "--full"]).last().contains("all good"));
    }
    // What links alone are to bring, only the linked store can have.
    let podman = Podman::linked();
    load(&podman, &source.bundle(), &["--via", "podman"]).last();
    let said = load(&podman, &source.path("delta"), &["--via", "store"]);
    assert!(said.code == 7 && said.stderr.contains("was exported without layer"), "{said:?}");
}

#[test]
fn a_wrong_base_a_newer_one_and_a_delta_of_a_delta() {
    let (source, [one, two]) = two_bundles();
    export(&source, &["stack", "--bundle", "weights", "--only-models"]);
    delta(&source, "three", "delta", "next");
    let three = source.built();
    export(&source, &["stack", "--bundle", "whole"]);
    let [base, delta, next, weights, whole] =
        ["bundle", "delta", "next", "weights", "whole"].map(|name| source.path(name));
    for podman in [Podman::linked(), Podman::new()] {
        // The weights are there, and so app can be loaded: only web has a layer of its own that is left out.
        load(&podman, &weights, &[]).last();
        let said = load(&podman, &delta, &[]);
        refused(&said, &source, &["web"], &one);
        assert!(said.stdout.contains("1 loaded, 1 present") && has(&podman, &two[..1]), "{said:?}");
        assert_eq!(text_of(&podman, &two[0].0), "two");
        // What the older delta expects counts as had: app's new layer is all that a delta of a delta has.
        let said = load(&podman, &next, &[]);
        refused(&said, &source, &["web"], &two);
        assert!(has(&podman, &three[..1]), "{said:?}");
        load(&podman, &base, &[]).last();
        assert!(load(&podman, &next, &[]).last().starts_with("2 images, 1 model: 0 loaded, 3 present"));
        assert!(has(&podman, &three) && text_of(&podman, &three[0].0) == "three");
    }
    for newer in [Podman::linked(), Podman::new()] {
        load(&newer, &whole, &[]).last();
        load(&newer, &delta, &[]).last();
        assert!(has(&newer, &two) && text_of(&newer, &two[0].0) == "two");
    }
    // Both at once.
    let podman = Podman::linked();
    let [base, delta] = [&base, &delta].map(|path| path.to_str().unwrap());
    let said = without_nix(&podman, &["load", base, delta]);
    assert!(said.last().contains("4 loaded") && has(&podman, &two), "{said:?}");
}

/// Runs this until it was killed 20 times, at moments that are spread over what it takes; `again` undoes what a whole run did.
fn killed(start: &dyn Fn() -> Child, again: &dyn Fn()) {
    let (mut kills, mut longest) = (0, Duration::from_millis(400));
    while kills < 20 {
        let mut child = start();
        std::thread::sleep(longest * (kills * 7 % 20 * 2 + 1) / 40);
        child.kill().unwrap();
        match child.wait().unwrap().success() {
            true => {
                longest = longest * 7 / 8;
                again();
            }
            false => kills += 1,
        }
    }
}

fn start(podman: &Podman, arguments: &[&str]) -> Child {
    podman.windlass(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn an_export_and_a_load_of_a_delta_may_be_killed_at_any_moment() {
    let (source, [_, two]) = two_bundles();
    let delta = source.path("delta");
    let whole = content(&delta);
    let arguments = ["export", "stack", "--bundle", "delta", "--since", "bundle"];
    let away = || fs::remove_dir_all(&delta).unwrap();
    away();
    killed(&|| start(&source.podman, &arguments), &away);
    export(&source, &["stack", "--bundle", "delta", "--since", "bundle"]);
    assert_eq!(content(&delta), whole);

    for podman in [Podman::linked(), Podman::new()] {
        load(&podman, &source.bundle(), &[]).last();
        let (app, path) = (&two[0].0, delta.to_str().unwrap());
        let unload = || drop(podman.said(&["unload", "app"]));
        killed(&|| start(&podman, &["load", path]), &unload);
        podman.wait_for_podman();
        load(&podman, &delta, &[]).last();
        assert!(has(&podman, &two) && text_of(&podman, app) == "two");
        assert!(without_nix(&podman, &["verify", "--full"]).last().contains("all good"));
        assert_eq!(
            load(&podman, &delta, &[]).last(),
            "2 images, 1 model: 0 loaded, 3 present; wrote 0 B; network 0 bytes"
        );
    }
}

#[test]
fn two_exports_at_once_and_a_blob_of_another_bundle() {
    let (source, [_, two]) = two_bundles();
    let arguments = ["export", "stack", "--bundle", "both", "--since"];
    let both = ["bundle", "delta"].map(|since| {
        let mut command = source.podman.windlass(&[&arguments[..], &[since]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let both = both.map(|child| Said::of(&child.wait_with_output().unwrap()));
    assert!(both.iter().all(|said| said.code == 0), "{both:?}");
    sums_fit(&source.path("both"));
    assert!(source.podman.said(&["verify", "both", "--full"]).last().contains("all good"));

    // In the size that it should have, with the bytes of another build.
    let image = read(&source.path("stack/images/app/image.json"));
    let layer = image["platforms"][0]["layers"].as_array().unwrap().last().unwrap()["digest"].clone();
    delta(&source, "six", "bundle", "other");
    let other = read(&source.path("stack/images/app/image.json"));
    let other = other["platforms"][0]["layers"].as_array().unwrap().last().unwrap()["digest"].clone();
    let place =
        |bundle: &str, digest: &Value| source.path(bundle).join("blobs/sha256").join(&digest.as_str().unwrap()[7..]);
    fs::copy(place("other", &other), place("delta", &layer)).unwrap();
    let verified = source.podman.said(&["verify", "delta", "--full"]);
    assert!(verified.code == 4 && verified.stdout.contains(&two[0].0), "{verified:?}");
    // What a delta says to other tools is a part of it.
    let index = read(&source.path("delta/index.json"));
    let manifest = place("delta", &index["manifests"].as_array().unwrap().last().unwrap()["digest"]);
    fs::write(&manifest, "{}").unwrap();
    let verified = source.podman.said(&["verify", "delta"]);
    let name = manifest.file_name().unwrap().to_str().unwrap();
    assert!(verified.code == 4 && verified.stdout.contains(name), "{verified:?}");
    for podman in [Podman::linked(), Podman::new()] {
        load(&podman, &source.bundle(), &[]).last();
        let said = load(&podman, &source.path("delta"), &[]);
        assert!(said.code == 4 && said.stderr.contains("app") && !has(&podman, &two), "{said:?}");
    }
}

#[test]
fn platforms_are_chosen_and_those_of_other_hosts_are_refused() {
    let podman = Podman::linked();
    let env = &podman.env;
    let build = |to: &str, spec: &Value| {
        let spec = env.write(format!("{to}.json"), spec.to_string());
        let closure = env.write("closure.json", crate::env::closure("/nix/store", Path::new("/nix/store"), &[]));
        env.ok(["build", spec.to_str().unwrap(), "--closure", closure.to_str().unwrap(), "--output", to]);
    };
    for platform in ["amd64", "arm64"] {
        build(
            platform,
            &json!({ "kind": "image", "name": "app", "tag": platform, "platform": format!("linux/{platform}"),
            "content": { "files": { "/bin/busybox": "/usr/bin/busybox" }, "texts": { "/text": platform } },
            "config": { "Cmd": ["/bin/busybox", "cat", "/text"] } }),
        );
    }
    build("index", &json!({ "kind": "index", "name": "app", "images": [env.path("amd64"), env.path("arm64")] }));
    let built = read(&env.path("index/image.json"));
    let both = podman.said(&["export", "index", "--bundle", "both", "--json"]);
    let one = podman.said(&["export", "index", "--bundle", "one", "--platform", "linux/amd64", "--json"]);
    let bytes = |said: &Said| number(&serde_json::from_str(&said.stdout).unwrap(), "bytes");
    assert!(bytes(&one) * 2 == bytes(&both) && bytes(&one) > 0, "{one:?} {both:?}");
    sums_fit(&env.path("one"));
    assert!(podman.said(&["verify", "one", "--full"]).last().contains("all good"));
    let there = read(&env.path("one/images/app/image.json"));
    assert_eq!((&there["digest"], there["platforms"].as_array().unwrap().len()), (&built["digest"], 1));
    for target in [&podman, &Podman::new()] {
        load(target, &env.path("one"), &[]).last();
        let app = built["ref"].as_str().unwrap();
        assert_eq!(text_of(target, app), "amd64");
        // It is present as the whole index is.
        assert!(load(target, &env.path("both"), &[]).last().contains("0 loaded, 1 present"));
    }
    for (asked, says) in [
        (&["linux/s390x"][..], "is not for linux/s390x; it is for linux/amd64, linux/arm64"),
        (
            &["linux/arm64", "linux/riscv64"],
            "what was given is not for linux/riscv64; it is for linux/amd64, linux/arm64",
        ),
        (&["arm64"], "is not a platform"),
    ] {
        let asked: Vec<&str> = asked.iter().flat_map(|platform| ["--platform", platform]).collect();
        let said = podman.said(&[&["export", "index", "--bundle", "no"][..], &asked].concat());
        assert!(said.code == 2 && said.stderr.contains(says) && !env.path("no").exists(), "{said:?}");
    }
    // Another host's: nothing is written.
    podman.said(&["export", "index", "--bundle", "other", "--platform", "linux/arm64"]).last();
    let target = Podman::linked();
    let said = load(&target, &env.path("other"), &[]);
    assert!(said.code == 1 && said.stderr.contains("is for linux/arm64, and this host is linux/amd64"), "{said:?}");
    assert!(ids(&target).is_empty());
}

#[test]
fn one_archive_an_image_is_what_podman_loads() {
    let source = Source::new();
    let first = export(&source, &["stack", "--bundle", "tars", "--tar"]);
    assert_eq!((number(&first, "blobs"), number(&first, "removed")), (3, 0), "{first}");
    let tars = source.path("tars");
    sums_fit(&tars);
    assert!(source.podman.said(&["verify", "tars", "--full"]).last().contains("all good"));
    let built = source.built();
    let podman = Podman::new();
    podman.run(&["load", "--quiet", "--input", tars.join("images/app.tar").to_str().unwrap()]);
    assert!(has(&podman, &built[..1]) && text_of(&podman, &built[0].0) == "one", "it is whole: {:?}", ids(&podman));
    for (file, (_, digest)) in ["images/app", "images/web", "models/weights"].iter().zip(&built) {
        let from = format!("oci-archive:{}", tars.join(format!("{file}.tar")).display());
        let manifest = run_ok(Command::new("skopeo").args(["inspect", "--raw", &from]));
        assert_eq!(&Digest::of(manifest.as_bytes()).to_string(), digest);
    }
    let said = source.podman.said(&["export", "stack", "--bundle", "tars", "--tar", "--dry-run"]);
    assert!(said.last().contains("3 archives of ") && said.stderr.contains("of weights are in more than one archive"));

    // Only what changed is written again.
    let before = content(&tars);
    let again = export(&source, &["stack", "--bundle", "tars", "--tar"]);
    assert_eq!((number(&again, "missing"), number(&again, "written")), (0, 0), "{again}");
    source.stack("two");
    let one = built;
    let second = export(&source, &["stack", "--bundle", "tars", "--tar"]);
    let changed: Vec<String> =
        content(&tars).into_iter().filter(|file| !before.contains(file)).map(|(name, _)| name).collect();
    assert_eq!(changed, ["README.txt", "SHA256SUMS", "images/app.tar", "stack.json"], "{second}");
    sums_fit(&tars);

    // A delta of archives: Podman has the rest by its digests.
    fs::write(source.path("old.json"), before.iter().find(|(name, _)| name == "stack.json").unwrap().1.clone())
        .unwrap();
    let report = export(&source, &["stack", "--bundle", "small", "--tar", "--since", "old.json"]);
    assert!(number(&report, "bytes") < number(&second, "bytes") / 3, "{report} {second}");
    assert!(source.podman.said(&["verify", "small"]).last().contains("all good"));
    let two = source.built();
    podman.run(&["load", "--quiet", "--input", source.path("small/images/app.tar").to_str().unwrap()]);
    assert!(has(&podman, &two[..1]) && text_of(&podman, &two[0].0) == "two" && two[0] != one[0]);

    // What is killed at any moment is finished by the next; what was begun is gone then.
    let arguments = ["export", "stack", "--bundle", "tars", "--tar"];
    for kill in 0..10_u32 {
        source.stack(&format!("{kill}"));
        let mut child = start(&source.podman, &arguments);
        std::thread::sleep(Duration::from_millis(20) * kill);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    source.stack("two");
    export(&source, &["stack", "--bundle", "tars", "--tar"]);
    sums_fit(&tars);
    assert!(source.podman.said(&["verify", "tars"]).last().contains("all good"));
    export(&source, &["stack", "--bundle", "tars", "--tar", "--only-models"]);
    assert!(!tars.join("images").exists() && tars.join("models/weights.tar").exists());
    sums_fit(&tars);
    // What others have put beside archives stays.
    let mine = source.podman.env.write("tars/models/mine.tar", "mine");
    export(&source, &["stack", "--bundle", "tars", "--tar", "--only-models"]);
    assert!(mine.exists());

    for (arguments, says) in [
        (&["export", "stack", "--bundle", "tars"][..], "no bundle of the same form"),
        (&["export", "stack", "--bundle", "no", "--tar", "--max-file", "1MB"], "cannot be used with"),
    ] {
        let said = source.podman.said(arguments);
        assert!(said.code == 2 && said.stderr.contains(says), "{said:?}");
    }
    let said = source.podman.said(&["load", "tars"]);
    assert!(said.code == 1 && said.stderr.contains("`podman load -i` each archive"), "{said:?}");
}
