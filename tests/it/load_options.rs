//! What `windlass load` is asked for, and what it says.

use serde_json::{Value, json};

use crate::engine::Podman;
use crate::env::linked_podman;
use crate::load::stack;
use crate::podman::built;

#[test]
fn options_choose_and_json_tells_everything() {
    let podman = Podman::new();
    let unready = podman.load(stack(), &["--via", "store"]);
    let sentence = "windlass: there is no linked store: Podman reads no additional image store of windlass that this user \
                    can write to; `windlass doctor` says what to do\n";
    assert_eq!((unready.code, unready.stderr.as_str()), (7, sentence));
    let podman = Podman::linked();
    let unknown = podman.load(stack(), &["--image", "redi"]);
    let there =
        "windlass: there is no image 'redi' in what is to be loaded; there are: smollm2, llama-cpp, postgres, redis\n";
    assert_eq!((unknown.code, unknown.stderr.as_str()), (2, there));

    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let row = "action bytesNeeded bytesToWrite configDigest copied digest directory kind manifestDigest models name origins platform reason \
               ref repository size store versionTag";
    let planned: Value = serde_json::from_str(&podman.load(stack(), &["--dry-run", "--json"]).stdout).unwrap();
    assert_eq!(keys(&planned), "bytesNeeded bytesToWrite free images place present toLoad version");
    assert_eq!(planned["images"].as_array().unwrap().iter().map(keys).collect::<Vec<_>>(), [row; 4]);
    assert_eq!((&planned["toLoad"], &planned["present"], &planned["bytesToWrite"]), (&json!(4), &json!(0), &json!(0)));
    assert!(!podman.places().graph_root.join("windlass").exists(), "nothing was written");

    // One image, from the stack of archives, which leads to the lean one.
    let archives = built("ai-stack-images");
    let loaded: Value = serde_json::from_str(&podman.load(&archives, &["--image", "redis", "--json"]).stdout).unwrap();
    assert_eq!(
        keys(&loaded),
        "failed generation images linked loaded network present seconds version warnings written"
    );
    assert_eq!(keys(&loaded["images"][0]), row.replace("kind", "kind linked links"));
    let numbers = ["loaded", "present", "failed", "network", "generation"].map(|key| loaded[key].as_u64().unwrap());
    assert_eq!(numbers, [1, 0, 0, 0, 1]);
    // By its own tag, and by its version.
    assert_eq!(podman.run(&["images", "--format", "{{.Repository}}"]), "localhost/redis\nlocalhost/redis\n");
    assert!(podman.load(stack(), &[]).last().starts_with("3 images, 1 model: 3 loaded, 1 present"));
}

#[test]
fn what_is_given_twice_is_loaded_once() {
    let podman = Podman::with_nix();
    let image = podman.app("one", "1");
    let path = image.to_str().unwrap();
    for (options, sentence) in [
        (&[path][..], "1 image, 0 models: 1 loaded, 0 present"),
        (&[path], "1 image, 0 models: 0 loaded, 1 present"),
        (&[path, "--force"], "1 image, 0 models: 1 loaded, 0 present"),
    ] {
        let said = podman.load(&image, options);
        assert!(said.code == 0 && said.last().starts_with(sentence), "{said:?}");
    }
}

#[test]
fn a_store_that_podman_does_not_read_is_not_passed_over() {
    let podman = Podman::new();
    let store = podman.env.path("store");
    let said = podman.load(stack(), &["--dry-run", "--storage-dir", store.to_str().unwrap()]);
    let sentence = format!(
        "windlass: --storage-dir {0}: Podman reads no such image store; `windlass doctor --storage-dir {0}` says what to \
         do\n",
        store.display()
    );
    assert_eq!((said.code, said.stderr), (7, sentence));
}

/// A database whose new version does not read its data is told before it is loaded, and by `diff`.
#[test]
fn data_of_another_version_are_told_before_the_load() {
    let podman = linked_podman();
    let build = |major: u32| {
        let config = json!({ "Env": [format!("PG_MAJOR={major}")] });
        let texts = json!({ "texts": { "/x": major.to_string() } });
        let spec =
            json!({ "kind": "image", "name": "db", "tag": major.to_string(), "config": config, "content": texts });
        podman.env.write("db.json", spec.to_string());
        podman.ok("windlass", &["build", "db.json", "--output", &format!("db{major}")]);
    };
    build(17);
    build(18);
    let warning = "warning: db: postgres 17 → 18: 18 does not read the data of 17; before it restarts, write a dump";
    let (code, said) = podman.run("windlass", &["load", "db17"]);
    assert!(code == 0 && !said.contains("does not read"), "{said}");
    for arguments in [&["load", "db18", "--dry-run"][..], &["diff", "db17", "db18"], &["load", "db18"]] {
        let (code, said) = podman.run("windlass", arguments);
        assert!(code == 0 && said.contains(warning), "{arguments:?}: {said}");
    }
    let (_, again) = podman.run("windlass", &["load", "db18"]);
    assert!(!again.contains("does not read"), "{again}");
    let report: Value = serde_json::from_str(&podman.ok("windlass", &["diff", "db17", "db18", "--json"])).unwrap();
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1, "{report}");
}
