//! `push --compression` from a second machine: it packs nothing that another one has packed, and believes no list without a proof.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::oci::compression::Compression;
use windlass::internals::oci::digest::Digest;

use crate::attest::fixture;
use crate::env::{LinkedPodman, linked_podman, run_ok};
use crate::push::{app, built, windlass};
use crate::registry_server::RealRegistry;
use crate::upstream_images::{INDEX, MANIFEST, curl, put_blob, put_manifest};

const LIST: &str = "application/vnd.windlass.packed-layers.v1+json";

/// An image in the folder `app`, and a registry.
struct Fleet {
    podman: LinkedPodman,
    registry: RealRegistry,
}

impl Fleet {
    fn new() -> Self {
        let podman = linked_podman();
        app(&podman, 5_000_000);
        let registry = RealRegistry::start(&podman.env);
        fs::create_dir(podman.env.path("empty")).unwrap();
        Self { podman, registry }
    }

    fn arguments<'a>(&self, to: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["push", "app", to, "--insecure", "--json", "--compression", "zstd"], more].concat()
    }

    /// A push of this machine, which has the store paths.
    fn push(&self, to: &str, more: &[&str]) -> Value {
        let arguments = self.arguments(to, more);
        serde_json::from_str(&run_ok(&mut windlass(&self.podman, &arguments))).unwrap()
    }

    /// The same of a machine with a home of its own, in whose Nix store there is nothing: whatever has to be packed fails.
    fn elsewhere(&self, home: &str, to: &str, more: &[&str]) -> (Value, String) {
        let env = &self.podman.env;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"", "sh"]);
        command.arg(env.path("empty")).arg(env.path("store")).arg(env!("CARGO_BIN_EXE_windlass"));
        command.args(self.arguments(to, more)).current_dir(env.path("")).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", env.path(home));
        let output = command.output().unwrap();
        (serde_json::from_slice(&output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn at(&self, repository: &str) -> String {
        format!("docker://{}/{repository}:1", self.registry.host)
    }

    fn source(&self) -> String {
        built(&self.podman)["digest"].as_str().unwrap().to_owned()
    }

    /// Bytes of all blobs that the registry has.
    fn bytes(&self) -> u64 {
        let port = self.registry.host.rsplit_once(':').unwrap().1;
        let blobs = self.podman.env.path(format!("registry-{port}/docker/registry/v2/blobs"));
        let du = run_ok(Command::new("du").args(["--summarize", "--bytes"]).arg(blobs));
        du.split('\t').next().unwrap().parse().unwrap()
    }

    /// What the registry has under the tag that stands for the list of what is about the image.
    fn listed(&self, repository: &str) -> Value {
        let tag = self.source().replace(':', "-");
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.registry.host);
        serde_json::from_str(&curl(&["--header", &format!("Accept: {INDEX}"), &url])).unwrap()
    }

    /// Puts a list of another user's beside the image: by diff ID digest and size of what it says that a layer became.
    fn plant(&self, repository: &str, layers: &BTreeMap<String, Value>) {
        let (env, host) = (&self.podman.env, &self.registry.host);
        let list = json!({ "version": 1, "image": self.source(), "compressor": "zstd 1.5.7", "level": 3, "layers": layers,
            "mediaType": Compression::Zstd.media_type() });
        let blob = put_blob(env, host, repository, LIST, list.to_string().as_bytes());
        let config = put_blob(env, host, repository, "application/vnd.oci.empty.v1+json", b"{}");
        let subject = json!({ "mediaType": MANIFEST, "digest": self.source(), "size": 1 });
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": LIST, "config": config, "layers": [blob],
            "subject": subject });
        let digest = Digest::of(manifest.to_string().as_bytes()).to_string();
        put_manifest(env, host, repository, &digest, MANIFEST, &manifest);
        let entry = json!({ "mediaType": MANIFEST, "digest": digest, "size": manifest.to_string().len() });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        put_manifest(env, host, repository, &self.source().replace(':', "-"), INDEX, &index);
    }

    fn layers(&self) -> Vec<(String, u64)> {
        let layers = built(&self.podman)["platforms"][0]["layers"].as_array().unwrap().clone();
        layers
            .iter()
            .map(|layer| (layer["digest"].as_str().unwrap().to_owned(), layer["size"].as_u64().unwrap()))
            .collect()
    }
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Compression::Zstd.encoder(Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn another_machine_packs_nothing() {
    let fleet = Fleet::new();
    let to = fleet.at("team/app");
    let first = fleet.push(&to, &[]);
    let (digest, all) = (&first["images"][0]["digest"], fleet.layers().len());
    assert!(first["bytes"].as_u64().unwrap() > 1_000_000 && first["packedElsewhere"] == 0, "{first}");
    let list = fleet.listed("team/app");
    assert_eq!((list["manifests"].as_array().unwrap().len(), &list["manifests"][0]["artifactType"]), (1, &json!(LIST)));

    // It has no store paths: what would have to be packed would fail.
    let before = fleet.bytes();
    let (second, said) = fleet.elsewhere("home-2", &to, &[]);
    assert_eq!((&second["images"][0]["digest"], &second["packedElsewhere"]), (digest, &json!(all)), "{second} {said}");
    assert_eq!((&second["uploaded"], &second["bytes"], &second["warnings"]), (&json!(0), &json!(0), &json!([])));
    assert!(second["received"].as_u64().unwrap() > 1_000_000, "{second}");
    assert_eq!(fleet.bytes(), before, "the registry got nothing");
    // It has learnt them.
    let (third, _) = fleet.elsewhere("home-2", &to, &[]);
    assert_eq!((&third["packedElsewhere"], &third["received"]), (&json!(0), &json!(0)), "{third}");
    assert_eq!(fleet.listed("team/app"), list);

    // A list that a known key has signed needs no proof; of another key it needs one.
    let signed = fleet.at("team/signed");
    let key = fixture("plain.pem");
    fleet.push(&signed, &["--sign", &key]);
    let lists = fleet.listed("team/signed")["manifests"].as_array().unwrap().len();
    fleet.push(&signed, &["--sign", &key]);
    assert_eq!(fleet.listed("team/signed")["manifests"].as_array().unwrap().len(), lists, "one list is enough");
    let public = fleet.podman.env.path("plain.pub").to_str().unwrap().to_owned();
    run_ok(Command::new("openssl").args(["pkey", "-pubout", "-in", &key, "-out", &public]));
    let (trusted, _) = fleet.elsewhere("home-3", &signed, &["--packed-by", &public]);
    assert_eq!((&trusted["packedElsewhere"], &trusted["received"]), (&json!(all), &json!(0)), "{trusted}");
    let stranger = fixture("encrypted.pub");
    let (proven, _) = fleet.elsewhere("home-4", &signed, &["--packed-by", &stranger]);
    assert!(proven["packedElsewhere"] == all && proven["received"].as_u64().unwrap() > 1_000_000, "{proven}");
    for report in [&trusted, &proven] {
        assert_eq!(&report["images"][0]["digest"], digest);
    }
    let refused = fleet.podman.run("windlass", &["push", "app", &to, "--packed-by", &public]);
    assert!(refused.0 == 2 && refused.1.contains("--packed-by is for layers that are packed"), "{refused:?}");
}

#[test]
fn a_list_that_lies_makes_no_other_image() {
    let fleet = Fleet::new();
    let (env, host) = (&fleet.podman.env, &fleet.registry.host);
    let honest = fleet.push(&fleet.at("honest/app"), &[])["images"][0]["digest"].clone();
    let layers = fleet.layers();
    let (largest, size) = layers.iter().max_by_key(|(_, size)| *size).unwrap().clone();
    let evil = b"another layer";
    let lies: [(&str, Vec<u8>); 4] = [
        // Another content, properly packed.
        ("other", zstd(evil)),
        // The size is right.
        ("sized", zstd(&vec![0; usize::try_from(size).unwrap()])),
        // More than any memory.
        ("bomb", zstd(&vec![0; 300_000_000])),
        // Nothing that can be unpacked.
        ("noise", (0..5000_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect()),
    ];
    for (name, bytes) in lies {
        let blob = put_blob(env, host, name, "application/octet-stream", &bytes);
        fleet.plant(
            name,
            &BTreeMap::from([(largest.clone(), json!({ "digest": blob["digest"], "size": blob["size"] }))]),
        );
        fs::remove_dir_all(env.path("home")).unwrap();
        let pushed = fleet.push(&fleet.at(name), &[]);
        assert_eq!(
            (&pushed["images"][0]["digest"], &pushed["packedElsewhere"]),
            (&honest, &json!(0)),
            "{name}: {pushed}"
        );
        let warnings = pushed["warnings"].to_string();
        assert!(
            warnings.contains(blob["digest"].as_str().unwrap()) && warnings.contains("which it is not"),
            "{warnings}"
        );
        // Without the store paths there is no image at all, in the place of another one.
        let (failed, _) = fleet.elsewhere(&format!("home-{name}"), &fleet.at(&format!("{name}-2")), &[]);
        assert!(failed["error"].is_object(), "{failed}");
        let inspect = ["inspect", "--tls-verify=false", &fleet.at(&format!("{name}-2"))].map(str::to_owned);
        assert!(!Command::new("skopeo").args(inspect).output().unwrap().status.success());
    }

    // What is not there, or has another size than the registry says, is not even asked for.
    let gone = Digest::of(b"gone").to_string();
    for (name, row) in [
        ("gone", json!({ "digest": gone, "size": 10 })),
        ("size", json!({ "digest": Digest::of(&zstd(evil)).to_string(), "size": 9 })),
    ] {
        put_blob(env, host, name, "application/octet-stream", &zstd(evil));
        fleet.plant(name, &BTreeMap::from([(largest.clone(), row)]));
        fs::remove_dir_all(env.path("home")).unwrap();
        let pushed = fleet.push(&fleet.at(name), &[]);
        assert_eq!((&pushed["images"][0]["digest"], &pushed["received"]), (&honest, &json!(0)), "{name}: {pushed}");
    }

    // A list in which some rows are right gives those.
    let right = zstd_of(&fleet, &largest);
    let blob = put_blob(env, host, "half", "application/octet-stream", &right);
    let lie = layers.iter().find(|(digest, _)| *digest != largest).unwrap().0.clone();
    let other = put_blob(env, host, "half", "application/octet-stream", &zstd(evil));
    let row = |blob: &Value| json!({ "digest": blob["digest"], "size": blob["size"] });
    fleet.plant("half", &BTreeMap::from([(largest, row(&blob)), (lie, row(&other))]));
    fs::remove_dir_all(env.path("home")).unwrap();
    let pushed = fleet.push(&fleet.at("half"), &[]);
    assert_eq!((&pushed["images"][0]["digest"], &pushed["packedElsewhere"]), (&honest, &json!(1)), "{pushed}");
    assert_eq!(pushed["warnings"].as_array().unwrap().len(), 1, "{pushed}");
}

/// A layer of the image, packed by hand.
fn zstd_of(fleet: &Fleet, digest: &str) -> Vec<u8> {
    fleet.podman.ok("windlass", &["export", "app", "--format", "oci", "--output", "oci"]);
    zstd(&fs::read(fleet.podman.env.path("oci/blobs/sha256").join(&digest[7..])).unwrap())
}

#[test]
fn an_index_is_packed_once_for_all_its_platforms() {
    let fleet = Fleet::new();
    let env = &fleet.podman.env;
    let spec: Value = serde_json::from_slice(&fs::read(env.path("app.json")).unwrap()).unwrap();
    let images: Vec<Value> = ["linux/amd64", "linux/arm64"]
        .into_iter()
        .map(|platform| {
            let mut spec = spec.clone();
            spec["platform"] = platform.into();
            let name = format!("app-{}", &platform[6..]);
            env.write(format!("{name}.json"), spec.to_string());
            let file = format!("{name}.json");
            fleet.podman.ok("windlass", &["build", &file, "--closure", "closure.json", "--output", &name]);
            json!(env.path(name))
        })
        .collect();
    let index = json!({ "kind": "index", "name": "app", "images": images });
    env.write("index.json", index.to_string());
    fs::remove_dir_all(env.path("app")).unwrap();
    fleet.podman.ok("windlass", &["build", "index.json", "--output", "app"]);
    let to = fleet.at("team/both");
    let first = fleet.push(&to, &[]);
    let (second, said) = fleet.elsewhere("home-2", &to, &[]);
    assert_eq!(second["images"][0]["digest"], first["images"][0]["digest"], "{second} {said}");
    assert_eq!((&second["uploaded"], &second["bytes"]), (&json!(0), &json!(0)), "{second}");
    assert_eq!(fleet.listed("team/both")["manifests"].as_array().unwrap().len(), 1, "one list for both");
    let raw = ["inspect", "--raw", "--tls-verify=false", &to].map(str::to_owned);
    let raw: Value = serde_json::from_str(&run_ok(Command::new("skopeo").args(raw))).unwrap();
    assert_eq!(raw["manifests"].as_array().unwrap().len(), 2);
}
