//! `windlass attest` and `push --sign`: what the real cosign of two Debians, and skopeo, say of it.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::env::{Env, LinkedPodman, base_name, linked_podman, run_ok};
use crate::registry_server::RealRegistry;

/// The Debians whose cosign is asked: 2.5 and 3.1.
const SUITES: [&str; 2] = ["trixie", "sid"];
const SLSA: &str = "https://slsa.dev/provenance/v1";
/// The password of the key that `tests/fixtures/cosign/encrypted.key` has.
const PASSWORD: (&str, &str) = ("COSIGN_PASSWORD", "windlass");

/// `tests/parts.sh fetch` has brought it.
pub(crate) fn cosign_of(suite: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/parts/cosign-{suite}"));
    assert!(path.is_file(), "there is no {}: `tests/parts.sh fetch` brings it", path.display());
    path
}

pub(crate) fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/cosign/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What cosign says of an image that is in a registry, with a public key of the fixtures.
fn cosign(env: &Env, suite: &str, verb: &[&str], key: &str, image: &str) -> Result<String, String> {
    let mut command = Command::new(cosign_of(suite));
    command.env_clear().env("HOME", env.path("home")).args(verb).args(["--key", &fixture(key)]);
    let Output { status, stdout, stderr } =
        command.args(["--insecure-ignore-tlog", "--allow-http-registry", image]).output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    if status.success() { Ok(String::from_utf8(stdout).unwrap()) } else { Err(said) }
}

fn windlass(podman: &LinkedPodman, arguments: &[&str]) -> Command {
    let mut command = podman.command("windlass", arguments);
    command.env("HOME", podman.env.path("home")).env(PASSWORD.0, PASSWORD.1);
    command
}

fn json_of(podman: &LinkedPodman, arguments: &[&str]) -> Value {
    serde_json::from_str(&run_ok(&mut windlass(podman, &[arguments, &["--json"]].concat()))).unwrap()
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What a bundle or an envelope states.
fn statement(envelope: &Value) -> Value {
    let payload = envelope["payload"].as_str().unwrap();
    let mut base64 = Command::new("sh");
    base64.args(["-c", "printf %s \"$1\" | base64 --decode", "sh", payload]);
    serde_json::from_str(&run_ok(&mut base64)).unwrap()
}

/// The manifests that a repository has under its tags, by these.
fn tags(host: &str, repository: &str) -> BTreeMap<String, String> {
    let get = |path: &str| {
        let accept = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
        run_ok(Command::new("curl").args(["-sS", "-H", accept, &format!("http://{host}/v2/{repository}/{path}")]))
    };
    let list: Value = serde_json::from_str(&get("tags/list")).unwrap();
    let tags = list["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned());
    tags.map(|tag| (tag.clone(), get(&format!("manifests/{tag}")))).collect()
}

#[test]
fn cosign_of_two_debians_verifies_what_was_signed_and_stated() {
    let podman = linked_podman();
    podman.stack();
    let env = &podman.env;
    let registry = RealRegistry::start(env);
    let (to, key) = (format!("docker://{}/team", registry.host), fixture("encrypted.key"));
    let pushed = json_of(&podman, &["push", "stack", &to, "--insecure", "--sign", &key]);
    let attest = ["attest", "stack", "--key", &key, "--to", &to, "--insecure"];
    let attested = json_of(&podman, &attest);
    assert_eq!(attested["signedBy"], pushed["signedBy"]);

    let app = read(env.path("stack/images/app/image.json"));
    let digest = app["digest"].as_str().unwrap();
    let image = format!("{}/team/app@{digest}", registry.host);
    assert_eq!(attested["statements"][2]["at"], json!([format!("{}/team/app:{}@{digest}", registry.host, tag(&app))]));
    for suite in SUITES {
        let said = cosign(env, suite, &["verify"], "encrypted.pub", &image).unwrap();
        assert!(said.contains(digest), "{suite}: {said}");
        for kind in [SLSA, "slsaprovenance1"] {
            let verb = ["verify-attestation", "--type", kind];
            let said = cosign(env, suite, &verb, "encrypted.pub", &image).unwrap();
            let stated = statement(&serde_json::from_str(said.lines().next().unwrap()).unwrap());
            assert_eq!(stated["subject"][0]["digest"]["sha256"], digest.trim_start_matches("sha256:"), "{suite}");
            assert_eq!(stated["predicateType"], SLSA, "{suite}");
        }
        let said = cosign(env, suite, &["verify-attestation", "--type", "cyclonedx"], "encrypted.pub", &image).unwrap();
        let bill = statement(&serde_json::from_str(said.lines().next().unwrap()).unwrap());
        let expected = run_ok(&mut windlass(&podman, &["sbom", "stack/images/app"]));
        assert_eq!(bill["predicate"], serde_json::from_str::<Value>(&expected).unwrap(), "{suite}");
        // With another key, and of what is not stated.
        for verb in [&["verify"][..], &["verify-attestation", "--type", SLSA]] {
            let said = cosign(env, suite, verb, "cosign.pub", &image).unwrap_err();
            assert!(said.contains("invalid signature") || said.contains("no matching"), "{suite} {verb:?}: {said}");
        }
        let said = cosign(env, suite, &["verify-attestation", "--type", "openvex"], "encrypted.pub", &image);
        assert!(said.is_err(), "{suite}: {said:?}");
    }
    // A bundle takes the statements along, and its images have them where it is pushed to.
    json_of(&podman, &["attest", "stack", "--key", &key, "--output", "statements"]);
    let export = |from: &str| windlass(&podman, &["export", from, "--bundle", "stick", "--statements", "statements"]);
    run_ok(&mut export("stack"));
    run_ok(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(env.path("stick")));
    run_ok(&mut windlass(&podman, &["verify", "stick", "--full"]));
    let there = format!("docker://{}/carried", registry.host);
    let carried = json_of(&podman, &["push", "stick", &there, "--insecure"]);
    assert_eq!(carried["statements"], 4, "{carried}");
    for suite in SUITES {
        let image = image.replace("/team/", "/carried/");
        cosign(env, suite, &["verify-attestation", "--type", SLSA], "encrypted.pub", &image).unwrap();
    }
    let said = String::from_utf8(export("stack/models/tiny").output().unwrap().stderr).unwrap();
    assert!(said.contains("statements/images/app.cyclonedx.sigstore.json is about no image of the bundle"), "{said}");
    // windlass reads its own signatures.
    let reference = image.as_str();
    let public = fixture("encrypted.pub");
    let add = ["upstream", "add", "app", reference, "--insecure", "--cosign-key", &public];
    let said = run_ok(&mut windlass(&podman, &add));
    assert!(said.contains("verified: signed by the key sha256:"), "{said}");

    // A second time, nothing changes there; what others have added stays.
    let before = tags(&registry.host, "team/app");
    assert_eq!(before.len(), 4, "{before:?}");
    json_of(&podman, &["push", "stack", &to, "--insecure", "--sign", &key]);
    json_of(&podman, &attest);
    assert_eq!(tags(&registry.host, "team/app"), before);
    let mut cosign = Command::new(cosign_of("trixie"));
    cosign.env_clear().env("HOME", env.path("home")).env(PASSWORD.0, PASSWORD.1);
    let options = ["--yes", "--tlog-upload=false", "--allow-http-registry", "--key", &key];
    run_ok(cosign.arg("sign").args(options).args(["--annotations", "by=another", &image]));
    json_of(&podman, &["push", "stack", &to, "--insecure", "--sign", &key]);
    let signatures = &tags(&registry.host, "team/app")[&format!("{}.sig", digest.replace(':', "-"))];
    assert_eq!(serde_json::from_str::<Value>(signatures).unwrap()["layers"].as_array().unwrap().len(), 2);
}

/// Debian 13's, as that of Debian 12 knows no `sigstoreSigned`, by its own loader.
/// cosign and Podman look for the signature of the index, or of the platform's own manifest that it names.
#[test]
fn an_image_of_several_platforms_is_signed_as_a_whole_and_each_platform_by_itself() {
    let podman = linked_podman();
    let env = &podman.env;
    let registry = RealRegistry::start(env);
    let key = fixture("encrypted.key");
    for architecture in ["amd64", "arm64"] {
        let texts = json!({ "/etc/architecture": architecture });
        let image = json!({ "kind": "image", "name": "both", "platform": format!("linux/{architecture}"),
                            "storeDir": env.path("store"), "content": { "texts": texts } });
        env.write(format!("{architecture}.json"), image.to_string());
        run_ok(&mut windlass(&podman, &["build", &format!("{architecture}.json"), "--output", architecture]));
    }
    let images = [env.path("amd64"), env.path("arm64")];
    env.write("index.json", json!({ "kind": "index", "name": "both", "tag": "1", "images": images }).to_string());
    run_ok(&mut windlass(&podman, &["build", "index.json", "--output", "index"]));
    let at = format!("{}/team/both", registry.host);
    let push = |name: &str, sign: &[&str]| {
        let to = format!("docker://{at}:{name}");
        json_of(&podman, &[&["push", "index", &to, "--insecure"], sign].concat())
    };
    push("1", &["--sign", &key]);
    let index = read(env.path("index/image.json"));
    let platforms = index["platforms"].as_array().unwrap();
    let digests: Vec<&str> =
        platforms.iter().chain([&index]).map(|manifest| manifest["digest"].as_str().unwrap()).collect();
    assert_eq!(digests.len(), 3);
    for suite in SUITES {
        for digest in &digests {
            let said = cosign(env, suite, &["verify"], "encrypted.pub", &format!("{at}@{digest}")).unwrap();
            assert!(said.contains(digest), "{suite}: {said}");
        }
        cosign(env, suite, &["verify"], "encrypted.pub", &format!("{at}:1")).unwrap();
        cosign(env, suite, &["verify"], "cosign.pub", &format!("{at}:1")).unwrap_err();
    }
}

fn skopeo() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/parts/skopeo");
    let places = [root.join("usr/lib"), root.join("lib"), root.join("lib64")];
    let folders =
        places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().map(|entry| entry.unwrap().path());
    let libraries = folders.filter(|path| path.is_dir()).find(|path| path.join("libc.so.6").exists());
    let libraries = libraries.expect("target/parts/skopeo: `tests/parts.sh fetch` brings it");
    let is_loader = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("ld-linux");
    let loader = std::fs::read_dir(&libraries).unwrap().map(|entry| entry.unwrap().path()).find(is_loader).unwrap();
    let mut command = Command::new(loader);
    command.arg("--library-path").arg(libraries).arg(root.join("usr/bin/skopeo"));
    command
}

/// The tag of a reference in `image.json`.
fn tag(image: &Value) -> &str {
    image["ref"].as_str().unwrap().rsplit_once(':').unwrap().1
}

#[test]
fn packed_images_and_other_images_are_told_apart_and_skopeo_obeys_a_policy() {
    let podman = linked_podman();
    podman.stack();
    let env = &podman.env;
    let registry = RealRegistry::start(env);
    let (at, key) = (format!("{}/team/app:1", registry.host), fixture("encrypted.key"));
    let to = format!("docker://{at}");
    let attest = ["attest", "stack/images/app", "--key", &key, "--to", &to, "--insecure"];
    let fails = |arguments: &[&str]| {
        let output = windlass(&podman, arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = fails(&attest);
    assert!(
        code == 1 && said.contains(&format!("{at} is not there")) && said.contains("hint: `windlass push"),
        "{said}"
    );
    let packed = ["push", "stack/images/app", &to, "--insecure", "--compression", "gzip", "--sign", &key];
    let pushed = json_of(&podman, &packed);
    let (there, built) = (&pushed["images"][0]["digest"], &pushed["images"][0]["built"]);
    assert_ne!(there, built);
    let attested = json_of(&podman, &[&attest[..], &["--output", "statements"]].concat());
    assert_eq!(attested["statements"][0]["at"], json!([format!("{at}@{}", there.as_str().unwrap())]));
    // It is about both.
    let stated = statement(&read(env.path("statements/images/app.provenance.sigstore.json"))["dsseEnvelope"]);
    let subjects: Vec<String> =
        stated["subject"].as_array().unwrap().iter().map(|s| s["digest"]["sha256"].to_string()).collect();
    assert_eq!(subjects, [built, there].map(|digest| digest.to_string().replace("sha256:", "")));
    for suite in SUITES {
        cosign(env, suite, &["verify-attestation", "--type", SLSA], "encrypted.pub", &at).unwrap();
    }
    // Another image.
    let (code, said) = fails(&["attest", "stack/models/tiny", "--key", &key, "--to", &to, "--insecure"]);
    assert!(code == 4 && said.contains("its configs are others"), "{code} {said}");

    // What Podman and skopeo are told to ask for.
    run_ok(&mut windlass(
        &podman,
        &["push", "stack/models/tiny", &format!("docker://{}/team/unsigned:1", registry.host), "--insecure"],
    ));
    env.write(
        "registries.d/local.yaml",
        format!("docker:\n  {}:\n    use-sigstore-attachments: true\n", registry.host),
    );
    let copy = |name: &str, key: &str| {
        let signed = json!([{ "type": "sigstoreSigned", "keyPath": fixture(key), "signedIdentity": { "type": "matchRepository" } }]);
        let policy = env.write("policy.json", json!({ "default": signed }).to_string());
        drop(std::fs::remove_dir_all(env.path("copy")));
        let mut skopeo = skopeo();
        skopeo
            .arg("--policy")
            .arg(policy)
            .arg("--registries.d")
            .arg(env.path("registries.d"))
            .args(["copy", "--src-tls-verify=false"]);
        let output = skopeo
            .arg(format!("docker://{}/team/{name}:1", registry.host))
            .arg(format!("dir:{}", env.path("copy").display()))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (taken, said) = copy("app", "encrypted.pub");
    assert!(taken, "{said}");
    for (name, key, word) in [("app", "cosign.pub", "signature"), ("unsigned", "encrypted.pub", "no signature exists")]
    {
        let (taken, said) = copy(name, key);
        assert!(!taken && said.contains(word), "{name} {key}: {said}");
    }
}

#[test]
fn what_is_stated_follows_from_the_image_and_from_what_is_given() {
    let podman = linked_podman();
    podman.stack();
    let env = &podman.env;
    let key = fixture("encrypted.key");
    let revision = "8eeec934ae0dbeca3d7868c059568a65c08b2fc3";
    let locked =
        json!({ "type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": revision, "narHash": "sha256-lDeb" });
    env.write(
        "flake.lock",
        json!({ "version": 7, "root": "root", "nodes": { "nixpkgs": { "locked": locked }, "root": {} } }).to_string(),
    );
    let attest = |output: &str, more: &[&str]| {
        let fixed = ["attest", "stack", "--key", &key, "--output", output];
        json_of(&podman, &[&fixed[..], more].concat())
    };
    attest("plain", &[]);
    let given = [
        "--flake",
        "github:me/stack#ai",
        "--flake-lock",
        "flake.lock",
        "--builder-id",
        "https://ci.example/1",
        "--date",
        "@0",
    ];
    attest("given", &given);
    attest("again", &given);
    let file = "images/app.provenance.sigstore.json";
    assert_eq!(
        std::fs::read(env.path("given").join(file)).unwrap(),
        std::fs::read(env.path("again").join(file)).unwrap()
    );

    let plain = statement(&read(env.path("plain").join(file))["dsseEnvelope"]);
    assert_eq!(plain["_type"], "https://in-toto.io/Statement/v1");
    let build = &plain["predicate"]["buildDefinition"];
    let app = read(env.path("stack/images/app/image.json"));
    assert_eq!(build["externalParameters"], json!({ "image": app["ref"], "platforms": ["linux/amd64"] }));
    assert_eq!(plain["predicate"]["runDetails"].get("metadata"), None, "no clock is asked");
    let parts = build["resolvedDependencies"].as_array().unwrap();
    let closure = read(env.path("closure.json"));
    for name in ["app-1.0", "lib-3"] {
        let path = format!("{}/{}", env.path("store").display(), base_name(name));
        let part = parts.iter().find(|part| part["name"] == *path).unwrap();
        assert_eq!(part["annotations"]["narHash"], closure[&path]["narHash"], "{parts:?}");
    }
    assert!(parts.iter().all(|part| part.get("digest").is_some()), "{parts:?}");
    attest("spdx", &["--type", "spdx"]);
    let spdx = statement(&read(env.path("spdx/images/app.spdx.sigstore.json"))["dsseEnvelope"]);
    assert_eq!(
        (&spdx["predicateType"], &spdx["predicate"]["spdxVersion"]),
        (&json!("https://spdx.dev/Document"), &json!("SPDX-2.3"))
    );
    assert!(!env.path("spdx/images/app.provenance.sigstore.json").exists());
    let weights = run_ok(Command::new("sha256sum").arg(env.path("store").join(base_name("tiny.gguf"))));
    let model = parts.iter().find(|part| part["name"].as_str().unwrap().starts_with("model file ")).unwrap();
    assert!(weights.starts_with(model["digest"]["sha256"].as_str().unwrap()), "{model}");

    let given = statement(&read(env.path("given").join(file))["dsseEnvelope"]);
    let (build, run) = (&given["predicate"]["buildDefinition"], &given["predicate"]["runDetails"]);
    assert_eq!(build["externalParameters"]["flake"], "github:me/stack#ai");
    assert_eq!(
        (&run["builder"]["id"], &run["metadata"]["finishedOn"]),
        (&json!("https://ci.example/1"), &json!("1970-01-01T00:00:00Z"))
    );
    let input = &build["resolvedDependencies"][1];
    assert_eq!(
        (&input["uri"], &input["digest"]),
        (&json!(format!("github:NixOS/nixpkgs/{revision}")), &json!({ "gitCommit": revision }))
    );

    // A key that only cosign knows, by each of them: the same statement, and a signature that cosign verifies.
    let bundle = "keyed/images/app.provenance.sigstore.json";
    for suite in SUITES {
        let bin = env.path(format!("bin-{suite}"));
        std::fs::create_dir(&bin).unwrap();
        symlink(cosign_of(suite), bin.join("cosign")).unwrap();
        let mut command = windlass(&podman, &["attest", "stack", "--key", "env://SIGNING_KEY", "--output", "keyed"]);
        run_ok(command.env("PATH", &bin).env("SIGNING_KEY", std::fs::read_to_string(&key).unwrap()));
        assert_eq!(statement(&read(env.path(bundle))["dsseEnvelope"]), plain);
        let blob = env
            .path("stack/images/app/blobs/sha256")
            .join(app["digest"].as_str().unwrap().trim_start_matches("sha256:"));
        let mut verify = Command::new(cosign_of("sid"));
        verify.env_clear().env("HOME", env.path("home")).args([
            "verify-blob-attestation",
            "--insecure-ignore-tlog",
            "--key",
            &fixture("encrypted.pub"),
        ]);
        run_ok(verify.args(["--type", SLSA, "--bundle"]).arg(env.path(bundle)).arg(blob));
    }
}

#[test]
fn what_cannot_be_signed_is_told_and_nothing_is_written() {
    let podman = linked_podman();
    podman.stack();
    let env = &podman.env;
    env.write("mine/text", "mine");
    env.write("not.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    env.write("bad.lock", "{}");
    let key = fixture("encrypted.key");
    let public = fixture("encrypted.pub");
    for (arguments, password, code, words) in [
        (&["--key", &key][..], "windlass", 2, "give --output DIR, or --to docker://REGISTRY/NAME"),
        (&["--key", &key, "--output", "o"], "other", 2, "the key cannot be decrypted: the password is another one"),
        (&["--key", &public, "--output", "o"], "", 2, "not a private key of ECDSA P-256 in PEM"),
        (&["--key", "not.pem", "--output", "o"], "", 2, "not.pem: not a private key"),
        (&["--key", "no.pem", "--output", "o"], "", 2, "no.pem: there is no such file or directory"),
        (&["--key", "awskms://k", "--output", "o"], "", 7, "cosign, which would know it, cannot be started"),
        (&["--key", &key, "--output", "mine"], "windlass", 2, "mine exists, and windlass did not write it"),
        (&["--key", &key, "--output", "o", "--date", "now"], "windlass", 2, "'now' is not a time"),
        (&["--key", &key, "--output", "o", "--flake-lock", "bad.lock"], "windlass", 2, "bad.lock: not a flake.lock"),
        (&["--key", &key, "--to", "here"], "windlass", 2, "expected docker://REGISTRY/NAME"),
    ] {
        let mut command = windlass(&podman, &[&["attest", "stack"], arguments].concat());
        let output = command.env(PASSWORD.0, password).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(code) && said.contains(words),
            "{arguments:?}: {:?} {said}",
            output.status
        );
        assert!(!env.path("o").exists(), "{arguments:?}");
    }
    let mut command = windlass(&podman, &["attest", "stack", "--key", &key, "--output", "o"]);
    let output = command.env_remove(PASSWORD.0).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(2) && said.contains("hint: COSIGN_PASSWORD has the password of the key"),
        "{said}"
    );
    let said = run_ok(&mut windlass(&podman, &["attest", "stack", "--key", &key, "--output", "o", "--dry-run"]));
    assert!(said.contains("not written: 4 statements signed by the key sha256:") && !env.path("o").exists(), "{said}");
}
