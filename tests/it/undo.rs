//! Images that Podman cannot read: refused, taken away again, and found where an older windlass has left them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::disk::progress::Progress;
use windlass::internals::engine::generations::Generations;
use windlass::internals::image::layout::ImageDir;
use windlass::internals::oci::digest::Digest;
use windlass::internals::podman::linked::link_images::link;

use crate::engine::{Podman, Said};
use crate::env::Env;
use crate::foreign::read;
use windlass::internals::podman::storage::places::state_of;

/// Changes the config of an image directory, or its manifest, as an older windlass would have built it.
fn changed(image: &Path, config: impl FnOnce(&mut Value), manifest: impl FnOnce(&mut Value)) {
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(image.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let blob = |digest: &str| read(&image.join("blobs/sha256").join(&digest[7..]));
    let mut summary = read(&image.join("image.json"));
    let digests = ["digest", "configDigest"].map(|key| summary["platforms"][0][key].as_str().unwrap().to_owned());
    let [mut new_manifest, mut new_config] = digests.each_ref().map(|digest| blob(digest));
    config(&mut new_config);
    let (config_digest, size) = put(new_config.to_string().as_bytes());
    new_manifest["config"]["digest"] = json!(config_digest);
    new_manifest["config"]["size"] = json!(size);
    manifest(&mut new_manifest);
    let (digest, size) = put(new_manifest.to_string().as_bytes());
    summary["digest"] = json!(digest);
    summary["platforms"][0]["digest"] = json!(digest);
    summary["platforms"][0]["configDigest"] = json!(config_digest);
    let mut index = read(&image.join("index.json"));
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(size);
    fs::write(image.join("image.json"), summary.to_string()).unwrap();
    fs::write(image.join("index.json"), index.to_string()).unwrap();
}

type Spoil = fn(&Path);

/// Images that Podman cannot read, each with what is said of it.
const SPOILT: [(Spoil, &str); 4] = [
    (
        |image| changed(image, |config| config["created"] = json!("2024-05-01 10:00:00Z"), |_| {}),
        r#"its config has created = "2024-05-01 10:00:00Z""#,
    ),
    (
        |image| changed(image, |config| config["history"] = json!([{ "created": "" }]), |_| {}),
        r#"its config has history[0].created = """#,
    ),
    (
        |image| changed(image, |config| config["docker_version"] = json!(20), |_| {}),
        "its config has docker_version = 20",
    ),
    (
        |image| changed(image, |_| {}, |manifest| manifest["manifests"] = json!([])),
        "its manifest has 'manifests', which belongs to another kind of document",
    ),
];

/// Gives the image `localhost/bad:1` of the linked store a name that no image can have.
fn rename(podman: &Podman) {
    let records = podman.home("storage/overlay-images/images.json");
    let text = fs::read_to_string(&records).unwrap();
    fs::write(records, text.replace("localhost/bad", "localhost/BAD")).unwrap();
}

/// Puts an image into the linked store as an older windlass did, without any check.
fn force(podman: &Podman, image: &Path) {
    let image = ImageDir::open(image).unwrap();
    let platform = image.summary().platforms[0].clone();
    let linked = link(&podman.store(), &[(&image, &platform)], &BTreeSet::new(), false, &Progress::new()).unwrap();
    assert!(linked.iter().all(Result::is_ok), "{linked:?}");
}

fn images(podman: &Podman) -> Said {
    Said::of(&podman.command("podman").args(["images", "--format", "{{.Repository}}:{{.Tag}}"]).output().unwrap())
}

fn numbers(podman: &Podman) -> Vec<u64> {
    Generations::at(state_of(&podman.places().graph_root)).numbers().unwrap()
}

/// Every file of the linked store and of the generations.
fn everything(podman: &Podman) -> Vec<String> {
    let windlass = podman.places().graph_root.join("windlass");
    let listed = Command::new("find").arg(podman.home("storage")).arg(windlass).output().unwrap();
    let mut lines: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_time_that_go_cannot_read_is_refused_when_an_image_is_built() {
    let env = Env::new();
    for created in ["2024-05-01 10:00:00Z", "2024-05-01T10:00:00z", "2024-05-01T10:00:00+02", ""] {
        let spec = json!({ "kind": "image", "name": "bad", "tag": "1", "created": created,
            "content": { "texts": { "/a": "a" } } });
        let spec = env.write("spec.json", spec.to_string());
        let (code, said) = env.refused(&mut env.windlass(["build", spec.to_str().unwrap(), "--output", "out"]));
        assert_eq!((code, said.as_str()), (2, &*format!("$T/spec.json: created: '{created}' is not an RFC 3339 time")));
    }
}

#[test]
fn an_upstream_image_that_podman_could_not_read_is_refused_when_it_is_built_and_real_ones_are_not() {
    let env = Env::new();
    let layer = env.write("layer", vec![0; 1024]);
    let diff_id = Digest::of(&[0; 1024]).to_string();
    let build = |change: &dyn Fn(&mut Value)| {
        let mut config = json!({ "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
            "os": "linux", "config": { "Cmd": ["/x"] }, "rootfs": { "type": "layers", "diff_ids": [diff_id] } });
        change(&mut config);
        let config = env.write("config", config.to_string());
        let bytes = fs::read(&config).unwrap();
        let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": { "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": Digest::of(&bytes).to_string(), "size": bytes.len() },
            "layers": [{ "mediaType": "application/vnd.docker.image.rootfs.diff.tar", "digest": diff_id, "size": 1024 }] });
        let spec = json!({ "kind": "upstream", "name": "theirs", "tag": "1", "manifest": manifest.to_string(),
            "config": config, "layers": [layer] });
        let spec = env.write("spec.json", spec.to_string());
        drop(fs::remove_dir_all(env.path("out")));
        Said::of(&env.windlass(["build", spec.to_str().unwrap(), "--output", "out"]).output().unwrap())
    };
    for (change, what) in [
        (&(|config: &mut Value| config["created"] = json!("")) as &dyn Fn(&mut Value), "created = \"\""),
        (&|config| config["Created"] = json!("2026-04-22T09:21:31+00:00Z"), "Created = \"2026-04-22T09:21:31+00:00Z\""),
        (&|config| config["config"]["Healthcheck"] = json!({ "Test": "true" }), "config.Healthcheck.Test = \"true\""),
        (&|config| config["config"]["StopTimeout"] = json!("10"), "config.StopTimeout = \"10\""),
        (&|config| config["config"]["ArgsEscaped"] = json!("true"), "config.ArgsEscaped = \"true\""),
        (&|config| config["container_config"] = json!({ "Env": "A=1" }), "container_config.Env = \"A=1\""),
    ] {
        let said = build(change);
        assert!(
            said.code == 1 && said.stderr.starts_with(&format!("windlass: theirs: its config has {what}, and ")),
            "{said:?}"
        );
        assert!(!env.path("out").exists());
    }
    // As Docker's own builder, BuildKit and Kaniko write them.
    for change in [
        &(|config: &mut Value| config["created"] = Value::Null) as &dyn Fn(&mut Value),
        &|config| {
            config["container"] = json!("4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945");
            config["created"] = json!("2024-01-27T00:30:48.743965523Z");
            config["docker_version"] = json!("20.10.23");
            config["history"] = json!([{ "created": "2024-01-27T00:30:48.624602109Z", "empty_layer": true }]);
            config["config"] = json!({ "Hostname": "", "AttachStdin": false, "Env": null, "Cmd": ["sh"], "Volumes": null,
                "Entrypoint": null, "OnBuild": null, "Labels": null, "ExposedPorts": { "80/tcp": {} },
                "Healthcheck": { "Test": ["CMD", "x"], "Interval": 30_000_000_000_i64 } });
            config["container_config"] = config["config"].clone();
        },
        &|config| config["moby.buildkit.buildinfo.v1"] = json!("eyJmcm9udGVuZCI6ImRvY2tlcmZpbGUudjAifQ=="),
        &|config| config["created"] = json!("0001-01-01T00:00:00Z"),
    ] {
        let said = build(change);
        assert_eq!(said.code, 0, "{said:?}");
    }
}

#[test]
fn an_image_directory_that_podman_could_not_read_is_refused_before_anything_is_written() {
    let podman = Podman::with_nix();
    podman.load(&podman.app("good", "good"), &[]).last();
    let before = everything(&podman);
    for (n, (spoil, what)) in SPOILT.into_iter().enumerate() {
        let image = podman.image(&format!("bad{n}"), &[], &[("/text", "bad")]);
        spoil(&image);
        for options in [&[][..], &["--via", "podman"], &["--dry-run"]] {
            let said = podman.load(&image, options);
            assert_eq!((said.code, said.stdout.as_str()), (4, ""), "{said:?}");
            assert!(said.stderr.contains(what) && said.stderr.contains(image.to_str().unwrap()), "{what}: {said:?}");
        }
        // Nor is another one built upon it.
        let spec = json!({ "kind": "image", "name": "above", "tag": "1", "fromImage": image, "content": { "texts": { "/b": "b" } } });
        let spec = podman.env.write("above.json", spec.to_string());
        let said = podman.said(&["build", spec.to_str().unwrap(), "--output", "above"]);
        assert!(said.code != 0 && said.stderr.contains(what), "{said:?}");
    }
    assert_eq!(everything(&podman), before);
    assert_eq!(images(&podman).last(), "localhost/good:1");
}

#[test]
fn what_an_older_windlass_has_left_is_named_everywhere_and_taken_away() {
    let named: (Spoil, _) = (|_| {}, "'localhost/BAD:1' is not the name of an image");
    for (n, (spoil, what)) in SPOILT.into_iter().chain([named]).enumerate() {
        let podman = Podman::with_nix();
        podman.load(&podman.app("good", "good"), &[]).last();
        let before = everything(&podman);
        // A text of this test alone: a layer that a container runs on stays, whichever store that has it from.
        let image = podman.image("bad", &[], &[("/text", "left by an older windlass")]);
        spoil(&image);
        force(&podman, &image);
        if what == named.1 {
            rename(&podman);
        }
        let failed = images(&podman);
        assert_eq!(failed.code, 125, "{what}: {failed:?}");
        let store = podman.home("storage");
        let doctor = ["doctor", "--storage-dir", store.to_str().unwrap()];
        for (command, code) in [(&["status"][..], 1), (&["verify"], 4), (&doctor, 7)] {
            let said = podman.said(command);
            assert!(said.code == code && said.stdout.contains(what), "{command:?}: {said:?}");
            assert!(format!("{said:?}").contains("`windlass repair`"), "{command:?}: {said:?}");
        }
        let plan = podman.said(&["gc"]);
        assert!(plan.stderr.contains(what), "{plan:?}");
        assert_eq!(images(&podman).code, 125, "nothing has changed it");
        let mends = if n % 2 == 0 { &["repair"][..] } else { &["gc", "--apply"] };
        let said = podman.said(mends);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(format!("{}{}", said.stdout, said.stderr).contains(" was taken away: "), "{said:?}");
        assert_eq!(images(&podman).last(), "localhost/good:1");
        assert_eq!(everything(&podman), before);
        for command in [&["status"][..], &["verify"]] {
            assert_eq!(podman.said(command).code, 0);
        }
        assert_eq!(podman.sh("localhost/good:1", "cat /text"), "good");
    }
}

/// A Podman on PATH that fails while the records have an image with this text in its names.
struct Choking<'p> {
    podman: &'p Podman,
    path: String,
}

impl<'p> Choking<'p> {
    fn new(podman: &'p Podman, instead: &str) -> Self {
        let real = std::env::var("PATH").unwrap();
        let records = [podman.home("storage"), podman.places().graph_root]
            .map(|store| store.join("overlay-images/images.json").display().to_string());
        let script = format!(
            "#!/bin/sh\nPATH={real}\nif grep -q 'localhost/bad@' {} 2>/dev/null; then\n{instead}\nfi\nexec podman \"$@\"\n",
            records.join(" ")
        );
        let file = podman.env.write("choking/podman", script);
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{real}", podman.env.path("choking").display());
        Self { podman, path }
    }

    fn said(&self, arguments: &[&str]) -> Said {
        Said::of(&self.podman.windlass(arguments).env("PATH", &self.path).output().unwrap())
    }
}

/// As of an image that it cannot read: `podman info` reads none.
const CHOKES: &str = "case \"$*\" in *' info '*) exec podman \"$@\" ;; esac
echo 'Error: parsing time: cannot parse' >&2; exit 125";

fn load_both(podman: &Podman) -> [PathBuf; 3] {
    // An image of the same name, whose name the new one takes.
    let old = podman.app("bad", "old");
    podman.load(&old, &[]).last();
    let new = podman.env.path("built-new");
    fs::rename(&old, podman.env.path("kept-old")).unwrap();
    fs::rename(podman.app("bad", "new"), &new).unwrap();
    [podman.env.path("kept-old"), new, podman.app("good", "good")]
}

#[test]
fn an_image_that_podman_does_not_confirm_is_taken_away_and_the_others_stay() {
    for via in ["store", "podman"] {
        let podman = Podman::with_nix();
        // Podman chokes on `localhost/bad@`, so the image that was there before goes by another digest name only.
        let old = podman.app("old", "old");
        podman.load(&old, &["--via", via]).last();
        podman.run(&["tag", "localhost/old:1", "localhost/bad:1"]);
        let [bad, good] = ["bad", "good"].map(|name| podman.app(name, name));
        let choking = Choking::new(&podman, CHOKES);
        let said = choking.said(&["load", bad.to_str().unwrap(), good.to_str().unwrap(), "--via", via]);
        assert_eq!(said.code, 4, "{said:?}");
        assert!(said.stderr.contains("localhost/bad:1"), "{said:?}");
        assert!(!said.stderr.contains("localhost/good"), "{said:?}");
        let listed = images(&podman).stdout;
        let mut names: Vec<&str> = listed.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["localhost/bad:1", "localhost/good:1", "localhost/old:1"], "{via}");
        assert_eq!(podman.sh("localhost/bad:1", "cat /text"), "old", "{via}: its name is back");
        assert_eq!(podman.sh("localhost/good:1", "cat /text"), "good");
        assert_eq!(numbers(&podman), [1], "{via}");
        assert!(!podman.places().graph_root.join("windlass/pending.json").exists());
        assert_eq!(podman.store().leftovers(&Progress::new()).unwrap(), Vec::<PathBuf>::new());
        // The next try begins where this one ended.
        let said = podman.said(&["load", bad.to_str().unwrap(), good.to_str().unwrap(), "--via", via]);
        assert!(said.last().contains("1 loaded, 1 present"), "{said:?}");
        assert_eq!(podman.sh("localhost/bad:1", "cat /text"), "bad");
        assert_eq!(numbers(&podman), [1, 2]);
    }
}

#[test]
fn names_of_the_linked_store_are_given_back_too() {
    let podman = Podman::with_nix();
    let [_, new, good] = load_both(&podman);
    let choking = Choking::new(
        &podman,
        "case \"$*\" in *inspect*) ;; *) exec podman \"$@\" ;; esac\necho 'Error: cannot parse' >&2; exit 125",
    );
    let said = choking.said(&["load", new.to_str().unwrap(), good.to_str().unwrap()]);
    // The old image has the name that makes it choke as well, so it confirms none of them.
    assert_eq!(said.code, 4, "{said:?}");
    assert_eq!(images(&podman).last(), "localhost/bad:1");
    assert_eq!(podman.sh("localhost/bad:1", "cat /text"), "old");
    assert_eq!(numbers(&podman), [1]);
    assert!(podman.said(&["status"]).last().contains("1 present"));
}

#[test]
fn a_kill_between_the_load_and_the_answer_is_settled_by_the_next_run() {
    // Whether Podman can read it afterwards, and what settles it.
    for (reads, settle) in [(true, "load"), (true, "repair"), (false, "repair"), (false, "gc")] {
        let podman = Podman::with_nix();
        podman.load(&podman.app("good", "good"), &[]).last();
        let before = everything(&podman);
        // A text of this test alone: a layer that a container runs on stays, whichever store that has it from.
        let bad = podman.app("bad", "killed");
        let load = ["load", bad.to_str().unwrap()];
        let killing = Choking::new(&podman, "kill -KILL $PPID; exit 1");
        assert_eq!(killing.said(&load).code, -1);
        let status = podman.said(&["status"]);
        assert!(status.stdout.contains("before Podman confirmed it; `windlass repair` settles that"), "{status:?}");
        let store = podman.home("storage");
        let doctor = podman.said(&["doctor", "--storage-dir", store.to_str().unwrap()]);
        assert!(doctor.code == 7 && doctor.stdout.contains("before Podman confirmed it"), "{doctor:?}");
        let run: &[&str] = match settle {
            "load" => &load,
            "gc" => &["gc", "--apply", "--keep-generations", "1"],
            other => &[other],
        };
        if reads {
            assert_eq!(podman.said(run).code, 0);
            assert_eq!(podman.sh("localhost/bad:1", "cat /text"), "killed");
            podman.said(&load).last();
        } else {
            let said = Choking::new(&podman, CHOKES).said(run);
            assert!(said.code == 0 && format!("{said:?}").contains("localhost/bad:1 was taken away: "), "{said:?}");
            assert_eq!(images(&podman).last(), "localhost/good:1");
            assert_eq!(numbers(&podman), [1]);
            let left: Vec<String> =
                everything(&podman).into_iter().filter(|path| !path.contains("/generations/2")).collect();
            assert_eq!(left, before);
        }
        assert!(!podman.places().graph_root.join("windlass/pending.json").exists());
        assert_eq!(podman.said(&["verify"]).code, 0);
    }
}

#[test]
fn an_image_without_layers_is_whole() {
    let podman = Podman::linked();
    let architecture = std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64");
    let config = json!({ "architecture": architecture, "os": "linux", "config": { "Labels": { "a": "b" } },
        "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = podman.env.write("config", config.to_string());
    let bytes = fs::read(&config).unwrap();
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&bytes).to_string(),
            "size": bytes.len() }, "layers": [] });
    let spec = json!({ "kind": "upstream", "name": "empty", "tag": "1", "manifest": manifest.to_string(), "config": config,
        "layers": [] });
    let image = podman.build("empty", &spec);
    for via in ["store", "podman"] {
        podman.load(&image, &["--via", via, "--force"]).last();
        for command in [&["verify"][..], &["verify", "--full"], &["status"], &["repair"], &["generations"]] {
            let said = podman.said(command);
            assert_eq!(said.code, 0, "{via} {command:?}: {said:?}");
        }
        assert_eq!(podman.said(&["repair"]).last(), "1 image as they were loaded; nothing to mend");
        assert_eq!(images(&podman).last(), "localhost/empty:1");
        assert!(podman.load(&image, &[]).last().contains("0 loaded, 1 present"));
    }
}
