//! `windlass model check`, `model update` and `model list` with a lock: what a source has by now, and what of a lock is loaded.

use std::fs;
use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::bad_registry::BadRegistry;
use crate::env::linked_podman;
use crate::hub::{FakeHub, gguf, ranged};
use crate::model_add::User;
use crate::model_writer::safetensors;

fn run(user: &User, hub: &FakeHub, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = user.model(hub, arguments).output().unwrap();
    let text = |bytes| user.env.scrub(&String::from_utf8(bytes).unwrap());
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn status_of(user: &User, hub: &FakeHub, name: &str) -> (i32, String) {
    let (code, out, err) = run(user, hub, &["check", name, "--retries", "0", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    (code, report["models"][0]["status"].as_str().unwrap().to_owned())
}

#[test]
fn a_branch_that_moved_is_told_and_taken() {
    let (user, model) = (User::new(), gguf("Tiny", "one", 5000));
    let hub = FakeHub::start(&[("m.gguf", &model), ("README.md", b"a")]);
    assert_eq!(run(&user, &hub, &["add", "hf:org/repo/m.gguf"]).0, 0);
    assert_eq!(status_of(&user, &hub, "m"), (0, "current".to_owned()));
    let (lock, downloads) = (user.lock(), hub.downloads());

    // Another commit, which does not change the model.
    hub.state().commit = "2".repeat(40);
    assert_eq!(status_of(&user, &hub, "m"), (0, "current".to_owned()));
    let (code, out, err) = run(&user, &hub, &["update"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.ends_with("1 model: 0 changed, 1 the same, 0 moved, 0 failed; network 0 B\n"), "{err}");
    assert_eq!((user.lock(), hub.downloads()), (lock.clone(), downloads));

    // One that does.
    let next = gguf("Tiny", "two", 5000);
    hub.state().commit = "3".repeat(40);
    hub.state().files.insert("m.gguf".to_owned(), next.clone());
    let (code, out, err) = run(&user, &hub, &["check"]);
    assert!(code == 8 && out.contains("m.gguf is another file") && err.contains("1 update available"), "{out}{err}");
    assert!(out.contains("windlass model update") && out.ends_with("1 model: 1 changed\n"), "{out}");
    let (code, out, err) = run(&user, &hub, &["update", "--dry-run"]);
    assert!(code == 0 && out.is_empty() && err.contains("1 to change"), "{out}{err}");
    assert_eq!((user.lock(), hub.downloads()), (lock, downloads));
    let (code, out, err) = run(&user, &hub, &["update"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "chore: Update models\n\nUpdates:\n- m (111111111111 -> 333333333333)\n"),
        "{err}"
    );
    assert_eq!(fs::read(user.fixed("m.gguf", &next)).unwrap(), next);
    assert_eq!(status_of(&user, &hub, "m"), (0, "current".to_owned()));

    // Gone, and unknown: never current.
    let files = std::mem::take(&mut hub.state().files);
    hub.state().commit = "4".repeat(40);
    assert_eq!(status_of(&user, &hub, "m"), (1, "gone".to_owned()));
    hub.state().files = files;
    let nowhere =
        user.model(&hub, &["check", "--retries", "0", "--json"]).env("HF_ENDPOINT", "http://127.0.0.1:9").output();
    let nowhere = nowhere.unwrap();
    let report: Value = serde_json::from_slice(&nowhere.stdout).unwrap();
    assert_eq!((nowhere.status.code(), &report["models"][0]["status"]), (Some(1), &json!("unknown")), "{report}");
    let (code, _, err) = run(&user, &hub, &["check", "n"]);
    assert!(code == 2 && err.contains("there is no model 'n'; there are: m"), "{err}");
}

#[test]
fn other_bytes_of_a_fixed_address_are_left_out_until_they_are_accepted() {
    let (user, hub) = (User::new(), FakeHub::start(&[]));
    let models = [gguf("Old", "old", 3000), gguf("New", "new", 4000)];
    let current = Arc::new(Mutex::new(models[0].clone()));
    let of_server = Arc::clone(&current);
    let server = BadRegistry::start(move |_, asked| ranged(&of_server.lock().unwrap(), asked));
    assert_eq!(run(&user, &hub, &["add", &format!("http://{}/v1/m.gguf", server.host)]).0, 0);
    assert_eq!(status_of(&user, &hub, "m"), (0, "current".to_owned()));
    current.lock().unwrap().clone_from(&models[1]);
    assert_eq!(status_of(&user, &hub, "m"), (8, "moved".to_owned()));
    let lock = user.lock();
    let (code, out, err) = run(&user, &hub, &["update"]);
    assert!(
        code == 8 && out.is_empty() && err.contains("m: left out: ") && err.contains("--accept-moved m"),
        "{out}{err}"
    );
    assert_eq!(user.lock(), lock);
    let (code, out, err) = run(&user, &hub, &["update", "--accept-moved", "m"]);
    assert_eq!((code, out.as_str()), (0, "chore: Update models\n\nUpdates:\n- m\n"), "{err}");
    assert_eq!(user.locked()["models"]["m"]["facts"]["name"], "New");
}

/// What `model inspect` says of the licence is in the lock, also where the card that says it stays behind.
#[test]
fn a_licence_that_inspect_finds_is_locked() {
    let (user, hub) = (User::new(), FakeHub::start(&[]));
    let weights = |name: &str| safetensors(&[(name, "F32", &[2], 8)]);
    user.env.write("one/model.safetensors", weights("a"));
    user.env.write("one/config.json", "{}");
    user.env.write("one/README.md", "---\nlicense: mit\n---\n");
    user.env.write("pipe/model_index.json", r#"{"_class_name": "P"}"#);
    user.env.write("pipe/README.md", "---\nlicense: apache-2.0\n---\n");
    for part in ["unet", "vae"] {
        user.env.write(format!("pipe/{part}/model.safetensors"), weights(part));
        user.env.write(format!("pipe/{part}/model.fp16.safetensors"), weights("half"));
        user.env.write(format!("pipe/{part}/config.json"), format!("{{ \"of\": \"{part}\" }}"));
    }
    user.env.write("pipe/tokenizer/merges.txt", "a b");
    user.env.write("pipe/old.bin", "pickled");
    for (place, licence) in [("one", "MIT"), ("one/model.safetensors", "MIT"), ("pipe", "Apache-2.0")] {
        let inspected = user.env.ok(["model", "inspect", place, "--json"]);
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["facts"]["licence"], licence);
        let (code, _, err) = run(&user, &hub, &["add", place, "--name", "m", "--replace"]);
        assert_eq!((code, err.as_str()), (0, ""));
        let locked = &user.locked()["models"]["m"];
        assert_eq!(locked["licence"], licence, "{place}");
        assert_eq!(locked["facts"]["parameters"], inspected["facts"]["parameters"], "{place}");
    }
    // A pipeline comes with all that it reads, each file at its place, and without other variants.
    let locked = user.locked();
    let paths: Vec<&str> =
        locked["models"]["m"]["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "unet/model.safetensors",
            "vae/model.safetensors",
            "model_index.json",
            "tokenizer/merges.txt",
            "unet/config.json",
            "vae/config.json"
        ]
    );
}

#[test]
fn a_list_has_the_lock_beside_what_is_loaded() {
    let podman = linked_podman();
    podman.stack();
    let digest = windlass::internals::oci::digest::Digest::of(&vec![b'x'; 3_000_000]);
    let model = |sha256: &str| {
        json!({ "source": { "ref": "hf:org/repo/tiny.gguf", "floating": true }, "licence": "MIT",
            "files": [{ "name": "tiny.gguf", "path": "tiny.gguf", "size": 3_000_000, "sha256": sha256 }] })
    };
    let models =
        json!({ "tiny": model(&"0".repeat(64)), "same": model(&digest.hex()), "none": model(&"1".repeat(64)) });
    podman.env.write("my.lock.json", json!({ "version": 1, "models": models }).to_string());
    let of = |name: &str| {
        let report: Value =
            serde_json::from_str(&podman.ok("windlass", &["model", "list", "--lock", "my.lock.json", "--json"]))
                .unwrap();
        let rows = report["locked"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["name"] == name).unwrap()
    };
    assert_eq!((of("same")["loaded"].clone(), of("same")["inStore"].clone()), (json!("no"), json!(false)));
    podman.ok("windlass", &["load", "stack"]);
    assert_eq!(
        ["same", "tiny", "none"].map(|name| of(name)["loaded"].clone()),
        ["yes", "other", "no"].map(Value::from)
    );
    let (code, list) = podman.run("windlass", &["model", "list", "--lock", "my.lock.json"]);
    assert!(code == 0 && list.contains("another one is loaded"), "{list}");
    assert!(list.ends_with("1 model in generation 1, 0 slots; 3 models locked\n"), "{list}");
    let (code, said) = podman.run("windlass", &["model", "list", "--lock", "none.json"]);
    assert!(code == 1 && said.contains("none.json: there is no lock"), "{code} {said}");
}
