//! `windlass upstream` against a real registry.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, run_ok};
use crate::nix::try_eval;
use crate::registry_server::RealRegistry;
use crate::upstream_images::{INDEX, Layout, MANIFEST, curl, push_version, put_blob, put_manifest};

pub(crate) const LOCK: &str = "images.lock.json";
const BOTH: [&str; 4] = ["--platform", "linux/amd64", "--platform", "linux/arm64/v8"];

pub(crate) fn add(env: &Env, name: &str, reference: &str, more: &[&str]) -> String {
    env.ok([&["upstream", "add", name, reference, "--insecure"], more].concat())
}

pub(crate) fn lock(env: &Env) -> Value {
    serde_json::from_str(&fs::read_to_string(env.path(LOCK)).unwrap()).unwrap()
}

/// The exit code, and what was printed on both sides.
pub(crate) fn run(env: &Env, arguments: &[&str]) -> (i32, String, String) {
    let output = env.windlass([&["upstream"], arguments].concat()).output().unwrap();
    let text = |bytes: Vec<u8>| env.scrub(&String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub(crate) fn check(env: &Env, more: &[&str]) -> (i32, String) {
    let (code, stdout, _) = run(env, &[&["check", "--state", "state.json"], more].concat());
    (code, stdout)
}

#[test]
fn the_lock_holds_what_the_registry_sent_and_says_what_changed() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let (version, main) = (format!("{}/a/app:1.0", registry.host), format!("{}/a/app:main", registry.host));
    let index = push_version(&env, 1, &[&version, &main]);
    let said = add(&env, "app", &version, &[&BOTH[..], &["--cadence", "weekly", "--reason", "a test"]].concat());
    assert!(said.contains("not verified: no policy\npinned app: 2 platforms"), "{said}");
    let said = add(&env, "app:main", &main, &BOTH);
    assert!(said.contains("locked app:main") && said.contains("floating") && !said.contains("pinned"), "{said}");

    let locked = lock(&env);
    let app = &locked["images"]["app"];
    assert_eq!(app["locked"]["root"]["raw"].as_str().unwrap().as_bytes(), index);
    assert_eq!(app["locked"]["root"]["digest"], Digest::of(&index).to_string());
    assert_eq!((&app["floating"], &locked["images"]["app:main"]["floating"]), (&json!(false), &json!(true)));
    assert_eq!(app["original"]["platforms"], json!(["linux/amd64", "linux/arm64"]));
    // Three layers, one of them shared, and two configs.
    let blobs = locked["blobs"].as_object().unwrap();
    assert_eq!(blobs.len(), 5);
    for (digest, blob) in blobs {
        let url = format!("http://{}/v2/a/app/blobs/{digest}", registry.host);
        let bytes = run_ok(Command::new("curl").args(["--silent", "--fail", &url]).args([
            "--output",
            "/dev/null",
            "--write-out",
            "%{size_download}",
        ]));
        assert_eq!(blob["size"].to_string(), bytes);
        assert_eq!(blob["from"], json!([format!("{}/a/app", registry.host)]));
        assert_eq!(blob.get("diffId").is_some(), blob["mediaType"].as_str().unwrap().contains("layer"));
    }
    let text = fs::read(env.path(LOCK)).unwrap();
    assert!(text.is_ascii() && text.ends_with(b"}\n"));

    let (code, said) = check(&env, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("  [CURRENT]     Up to date\n"), "{said}");
    assert!(
        said.ends_with("  0 update(s) available\n========================================\n2 images: 2 current\n"),
        "{said}"
    );

    push_version(&env, 2, &[&version, &main]);
    let (code, said) = check(&env, &["--details"]);
    assert_eq!(code, 8, "{said}");
    for line in [
        "  [MOVED]     A version tag names something else\n",
        "  [UPDATE]     Upstream changed\n",
        "    linux/amd64: the same image\n",
        "    linux/arm64: another image, ",
        "  2 update(s) available\n  Run `windlass upstream update` to apply\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(fs::read(env.path(LOCK)).unwrap(), text, "check changes no lock");

    let before = env.tree();
    let (code, said, beside) = run(&env, &["update", "--image", "app", "--accept-moved", "app"]);
    assert_eq!(
        (code, said.as_str()),
        (0, "chore: Update container versions\n\nUpdates digests for:\n- app (its version tag was moved)\n"),
        "{beside}"
    );
    assert_eq!(env.tree(), before, "update changes the lock and nothing else");
    let (code, said) = check(&env, &[]);
    assert!(code == 8 && said.ends_with("2 images: 1 current, 1 changed\n"), "{said}");
    let (_, said, _) = run(&env, &["update"]);
    assert!(said.ends_with("Updates digests for:\n- app:main\n"), "{said}");
    // No image needs the old layer of arm64 any more.
    assert_eq!(lock(&env)["blobs"].as_object().unwrap().len(), 5);
    let (inode, text) = (fs::metadata(env.path(LOCK)).unwrap().ino(), fs::read(env.path(LOCK)).unwrap());
    for force in [&[][..], &["--force"]] {
        let (code, said, beside) = run(&env, &[&["update"], force].concat());
        assert_eq!((code, said.as_str(), beside.as_str()), (0, "", "2 images: 0 changed, 2 the same\n"));
    }
    assert_eq!((fs::metadata(env.path(LOCK)).unwrap().ino(), fs::read(env.path(LOCK)).unwrap()), (inode, text.clone()));
    let listed = env.ok(["upstream", "list", "--why", "--state", "state.json"]);
    assert!(listed.contains("why: a test") && listed.contains("(floating)"), "{listed}");
    assert!(listed.contains("2 images: 1 pinned, 1 locked by a floating tag, 0 pending, 0 due"), "{listed}");

    let (code, _, said) = run(&env, &["remove", "app:main", "other"]);
    assert!(code == 2 && said.contains("no image 'other'; there are: app, app:main"), "{code} {said}");
    assert_eq!(fs::read(env.path(LOCK)).unwrap(), text);
    let (_, said, _) = run(&env, &["remove", "app"]);
    assert_eq!(said, format!("app removed; 1 image left in {LOCK}\n"));
    assert_eq!(lock(&env)["images"].as_object().unwrap().keys().collect::<Vec<_>>(), ["app:main"]);
    run(&env, &["remove", "app:main"]);
    assert_eq!((&lock(&env)["images"], &lock(&env)["blobs"]), (&json!({}), &json!({})));
}

#[test]
fn what_is_gone_is_told_and_what_cannot_be_asked_is_unknown() {
    let env = Env::new();
    let mut registry = RealRegistry::start(&env);
    let host = registry.host.clone();
    let [tagged, kept] = [format!("{host}/a/app:1.0"), format!("{host}/a/app:kept")];
    let first = push_version(&env, 1, &[&tagged]);
    add(&env, "app", &tagged, &[]);
    add(&env, "by-digest", &format!("{host}/a/app@{}", Digest::of(&first)), &[]);
    // The tag moves, and what it named is thrown away.
    push_version(&env, 2, &[&tagged, &kept]);
    curl(&["--request", "DELETE", &format!("http://{host}/v2/a/app/manifests/{}", Digest::of(&first))]);
    let (code, said) = check(&env, &[]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("the locked digest is gone; the tag names another one\n  [GONE]     No longer upstream"),
        "{said}"
    );
    assert!(said.ends_with("2 images: 2 gone\n"), "{said}");

    let text = fs::read(env.path(LOCK)).unwrap();
    registry.stop();
    let (code, said) = check(&env, &["--retries", "0"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("cannot be reached") && said.ends_with("2 images: 2 unknown\n"), "{said}");
    assert!(!said.contains("[CURRENT]"), "{said}");
    let (code, said, beside) = run(&env, &["update", "--retries", "0"]);
    assert_eq!((code, said.as_str()), (1, ""), "{beside}");
    assert!(beside.contains("1 image could not be looked up; the lock is as it was"), "{beside}");
    assert_eq!(fs::read(env.path(LOCK)).unwrap(), text);
    let exported = env.ok(["upstream", "export", "--state", "state.json"]);
    assert!(exported.contains("\"status\": \"unknown\"") && !exported.contains("synced\""), "{exported}");
}

#[test]
fn what_does_not_resolve_leaves_nothing() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let host = registry.host.clone();
    push_version(&env, 1, &[&format!("{host}/a/app:1.0")]);
    let blob = |text: &[u8]| put_blob(&env, &host, "a/app", "application/vnd.oci.image.config.v1+json", text);
    let artifact = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "size": 2, "digest": blob(b"{}")["digest"] } });
    put_manifest(&env, &host, "a/app", "chart", MANIFEST, &artifact);
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"a")] } });
    let short = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "config": blob(config.to_string().as_bytes()) });
    put_manifest(&env, &host, "a/app", "short", MANIFEST, &short);
    for (reference, more, code, words) in [
        ("a/app:2.0", &[][..], 1, "a/app:2.0: not found"),
        ("b/app:1.0", &[], 1, "b/app:1.0: not found"),
        (
            "a/app:1.0",
            &["--platform", "linux/s390x"],
            1,
            "has no image for linux/s390x; it has linux/amd64, linux/arm64",
        ),
        ("a/app:chart", &[], 1, "is an artifact and no image: its config is application/vnd.cncf.helm"),
        ("a/app:short", &[], 1, "has 1 diff IDs, and there are 0 layers"),
        ("a/App:1", &[], 2, "is not a repository"),
    ] {
        let reference = format!("{host}/{reference}");
        let arguments =
            [&["upstream", "add", "app", &reference, "--insecure", "--platform", "linux/amd64"], more].concat();
        let (found, sentence) = env.refused(&mut env.windlass(arguments));
        assert!(found == code && sentence.contains(words), "{reference}: {found} {sentence}");
    }
    for (arguments, words) in [
        (&["app", "example.com/a:1", "--insecure"][..], "plain HTTP is for a registry on this machine only"),
        (&["a/b", "redis"], "'a/b' is not a name"),
        (&["app", "redis", "--cosign-key", "Cargo.toml"], "Cargo.toml: there is no such file or directory"),
    ] {
        let (code, sentence) = env.refused(&mut env.windlass([&["upstream", "add"], arguments].concat()));
        assert!(code > 0 && sentence.contains(words), "{sentence}");
    }
}

#[test]
fn a_docker_image_without_an_index_is_locked_too() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let layout = Layout::new(&env, "single");
    let entry = layout.image("amd64", None, "docker");
    layout.name(&entry);
    let reference = format!("{}/a/docker:1", registry.host);
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--format", "v2s2", "--dest-tls-verify=false"]);
    run_ok(skopeo.arg(format!("oci:{}", env.path("single").display())).arg(format!("docker://{reference}")));
    add(&env, "docker", &reference, &["--platform", "linux/amd64"]);
    let locked = &lock(&env)["images"]["docker"]["locked"];
    assert_eq!(locked["root"]["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(locked["root"], locked["platforms"]["linux/amd64"]["manifest"]);
    let (code, sentence) =
        env.fails(["upstream", "add", "other", &reference, "--insecure", "--platform", "linux/arm64"]);
    assert!(code == 1 && sentence.contains("has no image for linux/arm64; it has linux/amd64"), "{sentence}");
}

#[test]
fn two_runs_at_once_lose_nothing() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let reference = format!("{}/a/app:1.0", registry.host);
    push_version(&env, 1, &[&reference]);
    let names: Vec<String> = (0..6).map(|n| format!("app-{n}")).collect();
    let spawn = |name: &String| env.windlass(["upstream", "add", name, &reference, "--insecure"]).spawn().unwrap();
    let children: Vec<_> = names.iter().map(spawn).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let images: Vec<String> = lock(&env)["images"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(images, names);
}

/// Nix verifies the bytes that were locked: those of an index with other characters than ASCII, and of a manifest.
#[test]
fn what_is_locked_is_what_nix_evaluates() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let reference = format!("{}/a/app:1.0", registry.host);
    push_version(&env, 1, &[&reference]);
    add(&env, "app", &reference, &BOTH);
    let call = |lock: &str| {
        let lock = env.path(lock);
        try_eval(&format!(r#"(w.fetchImage {{ lock = {}; name = "app"; }}).imageRef"#, lock.display()))
    };
    let found = call(LOCK).unwrap();
    assert!(found.as_str().unwrap().starts_with("localhost/app:"), "{found}");
    let text = fs::read_to_string(env.path(LOCK)).unwrap();
    env.write("changed.json", text.replace("\\ud83e\\uddca", "\\ud83e\\uddcb"));
    assert!(call("changed.json").is_err());
    let (code, sentence) = env.fails(["upstream", "list", "--lock", "changed.json", "--state", "state.json"]);
    assert!(code == 4 && sentence.contains("image 'app': the root has the digest"), "{sentence}");
}

#[test]
fn a_cadence_is_due_from_the_last_look_on() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let reference = format!("{}/a/app:1.0", registry.host);
    push_version(&env, 1, &[&reference]);
    add(&env, "app", &reference, &["--cadence", "weekly"]);
    let due = || {
        let rows = env.ok(["upstream", "list", "--json", "--state", "state.json"]);
        let row = serde_json::from_str::<Value>(&rows).unwrap()["images"][0].clone();
        (row["due"].as_bool().unwrap(), row["status"].as_str().map(str::to_owned))
    };
    assert_eq!(due(), (true, None));
    assert_eq!(check(&env, &[]).0, 0);
    assert_eq!(due(), (false, Some("current".to_owned())));
    let mut state: Value = serde_json::from_slice(&fs::read(env.path("state.json")).unwrap()).unwrap();
    state["images"]["app"]["lastCheck"] = json!("2020-01-01T00:00:00Z");
    env.write("state.json", state.to_string());
    assert!(due().0);
    env.write("state.json", "{");
    let (code, sentence) = env.fails(["upstream", "list", "--state", "state.json"]);
    assert!(code == 1 && sentence.contains("it can be removed"), "{sentence}");
    // By default the state is in the user's folder for such things, one file for each lock.
    let mut command = env.windlass(["upstream", "check"]);
    run_ok(command.env("XDG_STATE_HOME", env.path("states")));
    assert_eq!(fs::read_dir(env.path("states/windlass/upstream")).unwrap().count(), 1);
}

/// Keys as cosign has them, made by openssl.
fn keys(env: &Env, name: &str) {
    let (secret, public) = (env.path(format!("{name}.key")), env.path(format!("{name}.pub")));
    let openssl = |arguments: &[&str]| run_ok(Command::new("openssl").args(arguments));
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", secret.to_str().unwrap()]);
    openssl(&["ec", "-in", secret.to_str().unwrap(), "-pubout", "-out", public.to_str().unwrap()]);
}

/// The signature of a key over these bytes, in base64.
fn signature(env: &Env, key: &str, bytes: &str) -> String {
    let file = env.write("signed", bytes);
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign"]).arg(env.path(format!("{key}.key")));
    run_ok(openssl.args(["-out"]).arg(env.path("signature")).arg(file));
    run_ok(Command::new("base64").arg("--wrap=0").arg(env.path("signature")))
}

/// Signs an image as `cosign sign --key` does from version 3 on, in a registry that knows no referrers.
fn sign_in_bundle(env: &Env, key: &str, host: &str, image: Digest, predicate: &str) {
    let kind = "application/vnd.in-toto+json";
    let statement = json!({ "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate,
        "subject": [{ "digest": { "sha256": image.hex() } }] });
    let statement = statement.to_string();
    let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
    let payload = run_ok(Command::new("base64").arg("--wrap=0").arg(env.write("statement", &statement)));
    let bundle = json!({ "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": { "hint": "" } },
        "dsseEnvelope": { "payload": payload, "payloadType": kind, "signatures": [{ "sig": signature(env, key, &message) }] } });
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let layer = put_blob(env, host, "a/app", kind, bundle.to_string().as_bytes());
    let config = put_blob(env, host, "a/app", "application/vnd.oci.empty.v1+json", b"{}");
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config, "layers": [layer],
        "subject": { "mediaType": MANIFEST, "digest": image, "size": 1 } });
    let (bytes, tag) = (manifest.to_string(), format!("sha256-{}", image.hex()));
    let digest = Digest::of(bytes.as_bytes());
    put_manifest(env, host, "a/app", &digest.to_string(), MANIFEST, &manifest);
    let entry = json!({ "mediaType": MANIFEST, "digest": digest, "size": bytes.len() });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    put_manifest(env, host, "a/app", &tag, INDEX, &index);
}

/// Signs an image as `cosign sign --key` does.
fn sign(env: &Env, key: &str, host: &str, image: Digest, reference: &str) {
    let payload = json!({ "critical": { "identity": { "docker-reference": reference },
        "image": { "docker-manifest-digest": image }, "type": "cosign container image signature" }, "optional": null });
    let signature = signature(env, key, &payload.to_string());
    let kind = "application/vnd.dev.cosign.simplesigning.v1+json";
    let mut layer = put_blob(env, host, "a/app", kind, payload.to_string().as_bytes());
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
    let config = put_blob(env, host, "a/app", "application/vnd.oci.image.config.v1+json", b"{}");
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    put_manifest(env, host, "a/app", &format!("sha256-{}.sig", image.hex()), MANIFEST, &manifest);
}

#[test]
fn a_policy_is_satisfied_or_nothing_is_locked() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let host = registry.host.clone();
    let reference = format!("{host}/a/app:1.0");
    let repository = format!("{host}/a/app");
    let digest = Digest::of(&push_version(&env, 1, &[&reference]));
    keys(&env, "ours");
    keys(&env, "theirs");
    let arguments = ["upstream", "add", "app", &reference, "--insecure", "--cosign-key", "ours.pub"];
    let refused = |words: &str| {
        let (code, sentence) = env.refused(&mut env.windlass(arguments));
        assert!(code == 4 && sentence.contains(words), "{code} {sentence}");
    };
    refused("is not signed: its policy asks for a signature by the key sha256:");
    sign(&env, "theirs", &host, digest, &repository);
    refused("a signature is of another key");
    sign(&env, "ours", &host, Digest::of(b"other"), &repository);
    sign(&env, "ours", &host, digest, "docker.io/library/redis");
    refused("what is signed is called 'docker.io/library/redis'");
    sign(&env, "ours", &host, digest, &repository);
    let said = env.ok(arguments);
    assert!(said.contains("verified: signed by the key sha256:") && said.contains("(root)"), "{said}");
    let verified = lock(&env)["images"]["app"]["verified"].clone();
    assert_eq!((&verified["method"], &verified["scope"]), (&json!("cosign-key"), &json!("root")));

    // What comes next is not signed: the lock stays.
    push_version(&env, 2, &[&reference]);
    let text = fs::read(env.path(LOCK)).unwrap();
    for more in [&[][..], &["--keep-going"]] {
        let (code, said, beside) = run(&env, &[&["update"], more].concat());
        assert_eq!((code, said.as_str()), (4, ""), "{beside}");
        assert!(beside.contains("is not signed"), "{beside}");
    }
    assert_eq!(fs::read(env.path(LOCK)).unwrap(), text);
}

#[test]
fn a_bundle_is_a_signature_too() {
    const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let reference = format!("{}/a/app:1.0", registry.host);
    let digest = Digest::of(&push_version(&env, 1, &[&reference]));
    keys(&env, "ours");
    keys(&env, "theirs");
    let arguments = ["upstream", "add", "app", &reference, "--insecure", "--cosign-key", "ours.pub"];
    for (key, image, predicate, word) in [
        ("ours", digest, "https://slsa.dev/provenance/v1", "nor a referrer that is one"),
        ("ours", Digest::of(b"other"), SIGNED, "nor a referrer that is one"),
        ("theirs", digest, SIGNED, "a signature is of another key"),
    ] {
        sign_in_bundle(&env, key, &registry.host, image, predicate);
        let (code, sentence) = env.refused(&mut env.windlass(arguments));
        assert!(code == 4 && sentence.contains(word), "{code} {sentence}");
    }
    sign_in_bundle(&env, "ours", &registry.host, digest, SIGNED);
    let said = env.ok(arguments);
    assert!(said.contains("verified: signed by the key sha256:") && said.contains("(root)"), "{said}");
}

#[test]
fn lists_and_compose_files_come_in_as_pending() {
    let env = Env::new();
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/upstream/container-versions.json");
    let import = ["upstream", "import", list, "--state", "state.json", "--platform", "linux/amd64"];
    let said = env.ok(import);
    assert!(said.ends_with("5 images added as pending\n"), "{said}");
    assert!(env.ok(import).ends_with("0 images added as pending, 5 there already\n"));
    let export = ["upstream", "export", "--state", "state.json", "--output", "out.json"];
    assert_eq!(env.ok(export), "out.json: 5 images\n");
    let read = |path: &str| serde_json::from_str::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(read(env.path("out.json").to_str().unwrap()), read(list));
    let listed = env.ok(["upstream", "list", "--state", "state.json"]);
    assert!(listed.contains("5 images: 0 pinned, 0 locked by a floating tag, 5 pending"), "{listed}");
    // No registry is asked about what was never locked.
    let (code, said) = check(&env, &[]);
    assert!(code == 8 && said.contains("Run `windlass upstream update --all` to apply"), "{said}");

    env.write("compose.yaml", "services:\n  cache: { image: redis:8 }\n  app: { build: . }\n");
    let said = env.ok(["upstream", "import", "compose.yaml", "--state", "state.json"]);
    assert!(said.ends_with("1 image added as pending, 1 left out: built, not pulled\n"), "{said}");
    assert_eq!(lock(&env)["images"]["cache"]["original"]["ref"], "docker.io/library/redis:8");
    env.write("other.yaml", "services:\n  cache: { image: redis:7 }\n");
    let (code, sentence) =
        env.refused(&mut env.windlass(["upstream", "import", "other.yaml", "--state", "state.json"]));
    assert!(code == 2 && sentence.contains("the lock has it as docker.io/library/redis:8"), "{sentence}");
}

#[test]
fn pending_images_are_locked_when_all_are_asked_for() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let reference = format!("{}/a/app:1.0", registry.host);
    push_version(&env, 1, &[&reference]);
    add(&env, "app", &reference, &["--pending", "--platform", "linux/arm64"]);
    let (code, said, beside) = run(&env, &["update"]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(beside, "1 image: 0 changed, 0 the same, 1 pending (--all locks them)\n");
    let (_, said, _) = run(&env, &["update", "--all"]);
    assert!(said.ends_with("- app\n"), "{said}");
    // What is asked for was edited: that is pending again, without anybody being asked.
    let mut edited = lock(&env);
    edited["images"]["app"]["original"]["platforms"] = json!(["linux/amd64", "linux/arm64"]);
    env.write(LOCK, edited.to_string());
    let (code, said) = check(&env, &[]);
    assert!(code == 8 && said.contains("edited since it was locked\n  [PENDING]"), "{said}");
    let (_, said, _) = run(&env, &["update"]);
    assert!(said.ends_with("- app\n"), "{said}");
    assert_eq!(lock(&env)["images"]["app"]["locked"]["platforms"].as_object().unwrap().len(), 2);
}
