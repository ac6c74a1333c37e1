//! Bills of materials that a publisher attached: as BuildKit puts them into an index, and as the real cosign of Debian attaches, states
//! and signs them.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::attest::{cosign_of, fixture};
use crate::env::{Env, run_ok};
use crate::nix::{build, eval};
use crate::registry_server::RealRegistry;
use crate::sbom::{VALIDATE, part};
use crate::upstream::{LOCK, lock, run};
use crate::upstream_images::Layout;

const STATEMENT: &str = "application/vnd.in-toto+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image for this machine, and beside it the manifest of BuildKit that says what is in it (moby/buildkit, docs/attestations):
/// the digests of the index, of the image and of the statement.
fn push(env: &Env, to: &str, content: &str) -> [Digest; 3] {
    let digest_of = |descriptor: &Value| descriptor["digest"].as_str().unwrap().parse::<Digest>().unwrap();
    let layout = Layout::new(env, &format!("layout-{content}"));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let image = layout.image(architecture, None, content);
    let subject = digest_of(&image);
    let spdx = json!({ "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": content, "packages": [] });
    let layers = [("https://spdx.dev/Document", spdx), ("https://slsa.dev/provenance/v0.2", json!({}))].map(|(kind, predicate)| {
        let statement = json!({ "_type": "https://in-toto.io/Statement/v0.1", "predicateType": kind,
            "subject": [{ "name": "pkg:docker/a/app@1.0", "digest": { "sha256": subject.hex() } }], "predicate": predicate });
        let mut layer = layout.blob(STATEMENT, statement.to_string().as_bytes());
        layer["annotations"] = json!({ "in-toto.io/predicate-type": kind });
        layer
    });
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = json!({ "architecture": "unknown", "os": "unknown", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = layout.blob(CONFIG, config.to_string().as_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
    let mut entry = layout.blob(kind, manifest.to_string().as_bytes());
    entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    entry["annotations"] =
        json!({ "vnd.docker.reference.digest": subject, "vnd.docker.reference.type": "attestation-manifest" });
    let index = layout.index(&[image, entry]);
    layout.push(to);
    [Digest::of(&index), subject, digest_of(&layers[0])]
}

fn cosign(env: &Env, arguments: &[&str], image: &str) -> String {
    let mut command = Command::new(cosign_of("trixie"));
    command.env_clear().env("HOME", env.path("home")).env("COSIGN_PASSWORD", "windlass").current_dir(env.path(""));
    run_ok(command.args(arguments).args(["--allow-http-registry", image]))
}

#[test]
fn what_a_publisher_attached_is_locked_by_digest_fetched_and_named() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let reference = format!("{}/a/app:1.0", registry.host);
    // Bytes that no store has yet.
    let unique = env.path("").file_name().unwrap().to_string_lossy().into_owned();
    let [index, image, statement] = push(&env, &reference, &unique);
    let by_digest = format!("{}/a/app@{index}", registry.host);
    let bom = json!({ "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [], "serialNumber":
        "urn:uuid:00000000-0000-4000-8000-000000000000", "metadata": { "component": { "type": "container", "name": unique } } });
    env.write("bom.json", bom.to_string());
    let key = fixture("encrypted.key");
    cosign(&env, &["sign", "--key", &key, "--tlog-upload=false", "--yes"], &by_digest);
    cosign(&env, &["attach", "sbom", "--sbom", "bom.json", "--type", "cyclonedx"], &by_digest);
    let attest =
        ["attest", "--key", &key, "--tlog-upload=false", "--yes", "--type", "cyclonedx", "--predicate", "bom.json"];
    cosign(&env, &attest, &by_digest);

    let add = ["upstream", "add", "app", &reference, "--insecure", "--replace"];
    env.ok(add);
    assert_eq!(lock(&env)["images"]["app"]["locked"]["sboms"], Value::Null, "they are not asked for");
    let bills = || {
        let sboms = lock(&env)["images"]["app"]["locked"]["sboms"].as_array().unwrap().clone();
        let mut bills: Vec<String> = sboms
            .iter()
            .map(|bill| {
                format!("{} {} of {}: {}", bill["format"], bill["form"], bill["subject"], bill["signedBy"])
                    .replace('"', "")
            })
            .collect();
        bills.sort();
        bills
    };
    let expected = |signer: &str| {
        let mut bills = vec![
            format!("cyclonedx document of {index}: null"),
            format!("cyclonedx envelope of {index}: {signer}"),
            format!("spdx statement of {image}: {signer}"),
        ];
        bills.sort();
        bills
    };
    let said = env.ok([&add[..], &["--sbom"]].concat());
    assert!(
        said.contains(
            "bill of materials: SPDX document in an in-toto statement, attached by its publisher; no signature"
        ),
        "{said}"
    );
    assert_eq!(bills(), expected("null"));
    let public = fixture("encrypted.pub");
    env.ok([&add[..], &["--sbom", "--cosign-key", &public]].concat());
    let signer = lock(&env)["images"]["app"]["verified"]["key"].as_str().unwrap().to_owned();
    assert_eq!(bills(), expected(&signer));
    let text = fs::read_to_string(env.path(LOCK)).unwrap();
    assert_eq!(run(&env, &["update", "--force"]).2, "1 image: 0 changed, 1 the same\n");

    // One that is about something else is refused.
    let other = Digest::of(b"other").to_string();
    let changed = text.replace(&format!("\"subject\": \"{image}\""), &format!("\"subject\": \"{other}\""));
    assert_ne!(changed, text);
    env.write("changed.json", changed);
    let (code, said) = env.fails(["upstream", "list", "--lock", "changed.json", "--state", "state.json"]);
    assert!(code == 1 && said.contains(&format!("image 'app': sboms: {statement} is about {other}")), "{said}");

    // `upstream fetch` brings it as any other blob.
    let mut fetch = env.windlass(["upstream", "fetch", "--offline", "--json"]);
    let output = fetch.env("HOME", env.path("home")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(6) && said.contains(&statement.to_string()), "{said} {output:?}");

    let fetched = format!(r#"w.fetchImage {{ lock = {}; name = "app"; }}"#, env.path(LOCK).display());
    let forms = eval(&format!("map (bill: [ bill.format bill.form ]) ({fetched}).sboms"));
    assert_eq!(forms.as_array().unwrap().len(), 3, "{forms}");
    let at = forms.as_array().unwrap().iter().position(|form| form == &json!(["spdx", "statement"])).unwrap();
    let file = build(&format!("(builtins.elemAt ({fetched}).sboms {at}).file")).unwrap();
    assert_eq!(Digest::of(&fs::read(file).unwrap()), statement);
    let built = build(&fetched).unwrap();
    let text = env.ok(["sbom", built.to_str().unwrap()]);
    let told: Value = serde_json::from_str(&text).unwrap();
    let name = format!("{}/a/app", registry.host);
    let component = told["components"].as_array().unwrap().iter().find(|one| one["name"] == name.as_str()).unwrap();
    let named = component["externalReferences"].as_array().unwrap();
    assert_eq!(named.len(), 3, "{component}");
    let of = |digest: &Digest| named.iter().find(|one| one["url"] == format!("oci://{name}@{digest}")).unwrap();
    let bill = of(&statement);
    assert_eq!((&bill["type"], &bill["hashes"][0]["content"]), (&json!("bom"), &json!(statement.hex())));
    let signed = format!("SPDX document in an in-toto statement, signed by {signer}, verified when it was locked");
    assert_eq!(bill["comment"], signed);
    let attached =
        named.iter().filter(|one| one["comment"].as_str().unwrap().contains("no signature of it was verified"));
    assert_eq!(attached.count(), 1);
    env.write("app.cdx.json", &text);
    let spdx = env.ok(["sbom", built.to_str().unwrap(), "--format=spdx"]);
    assert!(spdx.contains("bill-of-materials") && spdx.contains(&signed), "{spdx}");
    env.write("app.spdx.json", spdx);
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", part("boms")).current_dir(env.path("")).args(["-c", VALIDATE]);
    assert_eq!(run_ok(python.args(["app.cdx.json", "app.spdx.json"])), "checked 2\n");
}
