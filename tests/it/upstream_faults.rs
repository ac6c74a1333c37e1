//! `windlass upstream` against a registry that misbehaves: whatever it does, the lock stays true, and nothing that was not
//! looked up is called current.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::bad_registry::{Answer, Asked, BadRegistry};
use crate::env::Env;
use crate::upstream_images::MANIFEST;

/// An image without layers: its config and its manifest.
fn image() -> (Vec<u8>, Vec<u8>) {
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = config.to_string().into_bytes();
    let descriptor = json!({ "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": Digest::of(&config), "size": config.len() });
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": [] });
    (config, manifest.to_string().into_bytes())
}

/// What a good registry answers.
fn good(asked: &Asked) -> Answer {
    let (config, manifest) = image();
    if asked.path.contains("/blobs/") {
        return Answer::ok(config);
    }
    if asked.path.contains("/tags/") {
        return Answer::ok(r#"{"name":"a","tags":["1.0"]}"#);
    }
    let digest = Digest::of(&manifest).to_string();
    Answer::ok(manifest).header("content-type", MANIFEST).header("docker-content-digest", digest)
}

/// One whose answers to questions for manifests can be changed while it runs: number 0 is good.
struct Faulty {
    registry: BadRegistry,
    mode: Arc<AtomicUsize>,
}

impl Faulty {
    fn new(faults: Vec<Answer>) -> Self {
        let mode = Arc::new(AtomicUsize::new(0));
        let now = Arc::clone(&mode);
        let registry = BadRegistry::start(move |_, asked| match now.load(Ordering::SeqCst) {
            number if number > 0 && asked.path.contains("/manifests/") => faults[number - 1].clone(),
            _ => good(asked),
        });
        Self { registry, mode }
    }

    fn add(&self, env: &Env, name: &str) {
        let reference = format!("{}/a/{name}:1.0", self.registry.host);
        env.ok(["upstream", "add", name, &reference, "--insecure", "--platform", "linux/amd64"]);
    }
}

fn check(env: &Env, more: &[&str]) -> (i32, String) {
    let arguments = [&["upstream", "check", "--state", "state.json", "--retries", "0"], more].concat();
    let output = env.windlass(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_look_up_that_failed_is_unknown_and_says_why() {
    let faults = [
        (Answer::new(401).header("www-authenticate", "Basic realm=\"x\""), "podman login 127.0.0.1:", 7),
        (Answer::new(403), "denies access", 7),
        (Answer::new(429).header("retry-after", "3600"), "try again in", 1),
        (Answer::new(429), "limits its pulls", 1),
        (Answer::new(500), "answered 500", 1),
        (Answer::new(302).header("location", "ftp://example.com/"), "redirects", 1),
        // No digest, so that the manifest has to be fetched, and that is another fault.
        (Answer::ok("{").header("content-type", MANIFEST).cut_after(0), "broke off", 1),
        (Answer::ok(vec![b' '; 10 << 20]).header("content-type", MANIFEST), "more than", 1),
        // A digest in the header, and other bytes behind it: that is damage, and nothing to update to.
        (
            Answer::ok("{}")
                .header("content-type", MANIFEST)
                .header("docker-content-digest", Digest::of(b"x").to_string()),
            "other bytes",
            4,
        ),
    ];
    let env = Env::new();
    let answers = faults.iter().map(|(answer, ..)| answer.clone()).collect();
    let faulty = Faulty::new(answers);
    faulty.add(&env, "app");
    let text = fs::read(env.path("images.lock.json")).unwrap();
    assert_eq!(check(&env, &[]).0, 0);
    for (n, (_, word, expected)) in faults.into_iter().enumerate() {
        faulty.mode.store(n + 1, Ordering::SeqCst);
        let (code, said) = check(&env, &[]);
        assert_eq!(code, expected, "{word}: {said}");
        assert!(said.contains(word) && said.contains("[UNKNOWN]") && !said.contains("[CURRENT]"), "{word}: {said}");
        let output = env.windlass(["upstream", "update", "--force", "--retries", "0"]).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{word}");
        assert_eq!(fs::read(env.path("images.lock.json")).unwrap(), text, "{word}");
    }
    faulty.mode.store(0, Ordering::SeqCst);
    assert_eq!(check(&env, &[]).0, 0);
}

#[test]
fn manifests_that_lie_are_not_locked() {
    let mut two: Value = serde_json::from_slice(&image().1).unwrap();
    two["manifests"] = json!([]);
    let lies: [(Answer, &str, i32); 5] = [
        (Answer::ok("{\"schemaVersion\":").header("content-type", MANIFEST), "no JSON", 1),
        (Answer::ok("<html>").header("content-type", "text/html"), "", 1),
        (Answer::ok(b"{\"a\":\"\xff\"}".to_vec()).header("content-type", MANIFEST), "is not UTF-8", 1),
        (Answer::ok(image().1).header("docker-content-digest", Digest::of(b"x").to_string()), "other bytes", 4),
        (Answer::ok(two.to_string()).header("content-type", MANIFEST), "another tool would see another image", 1),
    ];
    let env = Env::new();
    for (answer, word, code) in lies {
        let faulty = Faulty::new(vec![answer]);
        faulty.mode.store(1, Ordering::SeqCst);
        let reference = format!("{}/a/app:1.0", faulty.registry.host);
        let arguments = ["upstream", "add", "app", &reference, "--insecure", "--retries", "0"];
        let (found, sentence) = env.refused(&mut env.windlass(arguments));
        assert!(found == code && sentence.contains(word), "{word}: {found} {sentence}");
    }
}

#[test]
fn a_quota_is_spent_on_what_was_looked_up_longest_ago() {
    let env = Env::new();
    let (_, manifest) = image();
    let few = Answer::ok(manifest.clone())
        .header("docker-content-digest", Digest::of(&manifest).to_string())
        .header("ratelimit-remaining", "5;w=21600");
    let faulty = Faulty::new(vec![few]);
    for name in ["a", "b", "c"] {
        faulty.add(&env, name);
    }
    let asked = |more: &[&str]| {
        let before = faulty.registry.log().len();
        let (code, said) = check(&env, more);
        (code, said, faulty.registry.log().split_off(before))
    };
    let (code, said, log) = asked(&["--quota", "2"]);
    assert_eq!(
        (code, log),
        (1, vec!["HEAD /v2/a/a/manifests/1.0".to_owned(), "HEAD /v2/a/b/manifests/1.0".to_owned()])
    );
    assert!(said.contains("not looked up: the quota of 2 for 127.0.0.1:"), "{said}");
    assert!(said.ends_with("3 images: 2 current, 1 unknown\n"), "{said}");
    let (_, _, log) = asked(&["--quota", "1"]);
    assert_eq!(log, ["HEAD /v2/a/c/manifests/1.0"]);
    // No pull that is left is spent on looking.
    faulty.mode.store(1, Ordering::SeqCst);
    let (code, said, log) = asked(&["--quota", "100"]);
    // What an earlier look found is told as that.
    assert_eq!((code, log.len()), (0, 1));
    assert!(said.ends_with("3 images: 3 current, 2 of them as an earlier check found them\n"), "{said}");
    assert!(said.contains("allows 5 more pulls, which are left for pulls"), "{said}");
    // Without one, each image costs two requests, and no pull.
    faulty.mode.store(0, Ordering::SeqCst);
    let (code, _, mut log) = asked(&[]);
    log.sort();
    let tags = ["a", "b", "c"].map(|name| format!("GET /v2/a/{name}/tags/list?n=1000"));
    let manifests = ["a", "b", "c"].map(|name| format!("HEAD /v2/a/{name}/manifests/1.0"));
    assert_eq!((code, log), (0, [tags, manifests].concat()));
}

#[test]
fn a_signature_that_cannot_be_asked_for_is_not_called_missing() {
    let index = json!({ "schemaVersion": 2, "manifests": [] }).to_string();
    let referrer = Digest::of(index.as_bytes()).to_string();
    for (answer, code, word) in [
        (Answer::new(403), 7, "denies access"),
        (Answer::new(500), 1, "answered 500"),
        (Answer::new(404), 4, "is not signed"),
        (Answer::ok(index), 4, "is not signed"),
        (Answer::ok(r#"{"schemaVersion":2,"layers":[]}"#), 4, "other bytes"),
    ] {
        let env = Env::new();
        let list = json!({ "schemaVersion": 2, "manifests": [{ "digest": referrer }] }).to_string();
        let named = referrer.clone();
        let registry = BadRegistry::start(move |_, asked| match asked.path.as_str() {
            path if path.ends_with(".sig") => Answer::new(404),
            path if path.contains("/referrers/") => Answer::ok(list.clone()),
            path if path.ends_with(&named) => answer.clone(),
            _ => good(asked),
        });
        env.write("key.pub", include_str!("../fixtures/cosign/cosign.pub"));
        let reference = format!("{}/a/app:1.0", registry.host);
        let add = ["upstream", "add", "app", &reference, "--insecure", "--platform", "linux/amd64", "--retries", "0"];
        let output = env.windlass([&add[..], &["--cosign-key", "key.pub"]].concat()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!env.path("images.lock.json").exists());
        assert_eq!((output.status.code(), said.contains(word)), (Some(code), true), "{said}");
    }
}
