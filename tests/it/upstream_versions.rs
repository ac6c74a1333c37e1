//! Newer versions, version tags that were moved, and what a check knows of images that it does not ask about.

use std::fs;

use serde_json::{Value, json};
use windlass::internals::disk::progress::Progress;
use windlass::internals::oci::digest::Digest;

use crate::bad_registry::{Answer, BadRegistry};
use crate::env::Env;
use crate::registry::{at, client};
use crate::registry_server::RealRegistry;
use crate::upstream::{LOCK, add, check, lock, run};
use crate::upstream_images::push_version;

fn references<const N: usize>(registry: &RealRegistry, tags: [&str; N]) -> [String; N] {
    tags.map(|tag| format!("{}/a/app:{tag}", registry.host))
}

fn pushed(env: &Env, number: u32, references: &[String]) -> Digest {
    let references: Vec<&str> = references.iter().map(String::as_str).collect();
    Digest::of(&push_version(env, number, &references))
}

#[test]
fn a_moved_version_is_left_out_until_it_is_accepted() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let [version, other, main] = references(&registry, ["1.0", "1.0-other", "main"]);
    let old = pushed(&env, 1, &[version.clone(), other.clone(), main.clone()]);
    for (name, reference) in [("app", &version), ("other", &other), ("main", &main)] {
        add(&env, name, reference, &[]);
    }
    let new = pushed(&env, 2, &[version, main]);
    // What floats is taken in the same run.
    let (code, said, beside) = run(&env, &["update"]);
    assert_eq!(
        (code, said.as_str()),
        (8, "chore: Update container versions\n\nUpdates digests for:\n- main\n"),
        "{beside}"
    );
    let left = format!("app: left out: its version tag names sha256:{} now", new.short());
    assert!(beside.contains(&left) && beside.contains("take it with --accept-moved app\n"), "{beside}");
    assert!(beside.contains("3 images: 1 changed, 1 the same, 1 moved\n"), "{beside}");
    let root = |name: &str| lock(&env)["images"][name]["locked"]["root"]["digest"].as_str().unwrap().to_owned();
    assert_eq!((root("app"), root("main")), (old.to_string(), new.to_string()));
    // Neither a name nor --force is a consent.
    for arguments in [&["update", "--image", "app"][..], &["update", "--force"], &["update", "--accept-moved", "other"]]
    {
        assert_eq!(run(&env, arguments).0, 8, "{arguments:?}");
        assert_eq!(root("app"), old.to_string(), "{arguments:?}");
    }
    let (code, _, beside) = run(&env, &["update", "--accept-moved", "nothing"]);
    assert!(code == 2 && beside.contains("no image 'nothing'"), "{beside}");
    let (code, said, beside) = run(&env, &["update", "--accept-moved", "app"]);
    assert_eq!(
        (code, said.as_str()),
        (0, "chore: Update container versions\n\nUpdates digests for:\n- app (its version tag was moved)\n"),
        "{beside}"
    );
    assert_eq!(root("app"), new.to_string());
}

#[test]
fn newer_versions_are_told_and_taken_by_their_tag() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    pushed(&env, 1, &references(&registry, ["v1.0.0", "main"]));
    let newer =
        pushed(&env, 2, &references(&registry, ["v1.0.2", "v1.10.0", "v1.11.0-rc1", "1.12.0", "v2.0.0", "sha-9a"]));
    let [version, main] = references(&registry, ["v1.0.0", "main"]);
    add(&env, "app", &version, &[]);
    add(&env, "main", &main, &[]);
    let (code, said) = check(&env, &[]);
    assert_eq!(code, 8, "{said}");
    for line in [
        "    Newer version: v1.10.0\n    Newer major version: v2.0.0\n  [NEWER]     A newer version is there\n",
        "  1 update(s) available\n  To take a newer version:\n  `windlass upstream update --image app --to v1.10.0`\n",
        "2 images: 1 current, 1 with a newer version\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let (_, said) = check(&env, &["--details"]);
    assert!(said.contains("    Newer version: v1.10.0, made 2025-12-01, "), "{said}");
    let (_, said) = check(&env, &["--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["images"][0]["newer"], json!({ "minor": { "tag": "v1.10.0" }, "major": { "tag": "v2.0.0" } }));
    let (_, said) = check(&env, &["--brief"]);
    assert!(
        said.lines().nth(1).unwrap().split_whitespace().eq(["app", "newer", &version, "v1.10.0,", "v2.0.0", "now"]),
        "{said}"
    );

    // Nothing takes another version by itself.
    let (code, said, beside) = run(&env, &["update"]);
    assert_eq!((code, said.as_str()), (0, ""), "{beside}");
    let (code, said, beside) = run(&env, &["update", "--image", "app", "--to", "v1.10.0"]);
    assert!(code == 0 && said.ends_with("\n- app (v1.0.0 -> v1.10.0)\n"), "{said}{beside}");
    let image = &lock(&env)["images"]["app"];
    assert_eq!(image["original"]["ref"], format!("{}/a/app:v1.10.0", registry.host));
    assert_eq!((&image["locked"]["tag"], &image["locked"]["root"]["digest"]), (&json!("v1.10.0"), &json!(newer)));
    // A major version is told, and only asked about.
    let (code, said) = check(&env, &[]);
    assert!(code == 0 && said.contains("    Newer major version: v2.0.0\n  [CURRENT]"), "{said}");
    assert_eq!(check(&env, &["--major"]).0, 8);

    let text = fs::read(env.path(LOCK)).unwrap();
    for (arguments, words) in [
        (&["--to", "v2.0.0"][..], "--image"),
        (&["--image", "app", "--image", "main", "--to", "v2.0.0"], "--to is for one image"),
        (&["--image", "app", "--to", "a/b"], "a/b"),
        (&["--image", "app", "--to", "v9.9.9"], "not found"),
    ] {
        let (code, said, beside) = run(&env, &[&["update"], arguments].concat());
        assert!(code != 0 && said.is_empty() && beside.contains(words), "{arguments:?}: {beside}");
        assert_eq!(fs::read(env.path(LOCK)).unwrap(), text, "{arguments:?}");
    }
}

#[test]
fn what_a_quota_leaves_out_is_told_as_it_was() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let [first, second] = references(&registry, ["main", "nightly"]);
    pushed(&env, 1, &[first.clone(), second.clone()]);
    add(&env, "first", &first, &[]);
    add(&env, "second", &second, &[]);
    // Nothing is known of one that was never looked up.
    let (code, said) = check(&env, &["--quota", "1"]);
    assert!(code == 1 && said.ends_with("2 images: 1 current, 1 unknown\n"), "{said}");
    pushed(&env, 2, &[second]);
    let (code, said) = check(&env, &[]);
    assert!(code == 8 && said.ends_with("2 images: 1 current, 1 changed\n"), "{said}");
    let mut state: Value = serde_json::from_slice(&fs::read(env.path("state.json")).unwrap()).unwrap();
    state["images"]["second"]["lastCheck"] = json!("2020-01-01T00:00:00Z");
    state["images"]["first"]["lastCheck"] = json!("2019-01-01T00:00:00Z");
    env.write("state.json", state.to_string());
    for _ in 0..2 {
        let (code, said) = check(&env, &["--quota", "1", "--image", "first", "--image", "second"]);
        assert_eq!(code, 8, "{said}");
        assert!(said.ends_with("2 images: 1 current, 1 changed, 1 of them as an earlier check found them\n"), "{said}");
        // It is what was looked up longest ago that the quota is for.
        state = serde_json::from_slice(&fs::read(env.path("state.json")).unwrap()).unwrap();
        assert_eq!(state["images"]["second"]["status"], "update");
    }
    let (_, said) = check(&env, &["--quota", "0"]);
    assert!(said.contains("the quota of 0 for") && said.contains("    as it was on 20"), "{said}");
    assert!(said.contains("  [UPDATE]     Upstream changed"), "{said}");
}

#[test]
fn only_what_is_due_is_looked_up() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let [reference] = references(&registry, ["main"]);
    pushed(&env, 1, std::slice::from_ref(&reference));
    add(&env, "weekly", &reference, &["--cadence", "weekly"]);
    add(&env, "never", &reference, &[]);
    let looked_up = || {
        let (code, said) = check(&env, &["--due", "--json"]);
        let json: Value = serde_json::from_str(&said).unwrap();
        let names = json["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned());
        (code, names.collect::<Vec<_>>())
    };
    assert_eq!(looked_up(), (0, vec!["weekly".to_owned()]));
    assert_eq!(looked_up(), (0, vec![]));
    let (_, said) = check(&env, &["--due", "--brief"]);
    assert_eq!(said, "0 images\n");
}

#[test]
fn lists_of_tags_come_in_pages() {
    let registry = BadRegistry::start(|_, asked| match asked.path.as_str() {
        "/v2/app/tags/list?n=1000" => Answer::ok(r#"{"name":"app","tags":["1","2"]}"#)
            .header("link", "<http://elsewhere.example/v2/other/tags/list?last=2&n=2>; rel=\"next\""),
        "/v2/app/tags/list?last=2&n=2" => {
            Answer::ok(r#"{"name":"app","tags":["3"]}"#).header("link", "</v2/app/tags/list?last=3&n=2>; rel=\"next\"")
        }
        "/v2/app/tags/list?last=3&n=2" => Answer::ok(r#"{"name":"app","tags":null}"#),
        _ => Answer::new(404),
    });
    let tags = client().tags(&at(&registry.host, "app"), &Progress::new()).unwrap();
    assert_eq!(tags, ["1", "2", "3"]);
    // One that never ends.
    let registry = BadRegistry::start(|_, _| {
        Answer::ok(r#"{"tags":["1"]}"#).header("link", "</v2/app/tags/list?last=1>; rel=\"next\"")
    });
    let error = client().tags(&at(&registry.host, "app"), &Progress::new()).unwrap_err();
    assert!(error.to_string().contains("that is no list of tags"), "{error}");
    assert_eq!(registry.asked().len(), 100);
}
