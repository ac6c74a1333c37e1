//! `windlass upstream add --certificate-identity`: signatures without a key that is kept, in the forms of cosign 2 and 3, against a
//! sigstore of the tests' own. What the public one has signed is in the unit tests of `src/signing/keyless.rs`.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::attest::cosign_of;
use crate::env::Env;
use crate::own_sigstore::{Certified, Ephemeral, IDENTITY, ISSUER, LoggedEntry, OwnSigstore, SERVER, SIGNED_AT};
use crate::registry_server::RealRegistry;
use crate::upstream::{LOCK, lock, run};
use crate::upstream_images::{INDEX, MANIFEST, push_version, put_blob, put_manifest};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
const ROOT: &str = "trusted_root.json";

/// A signature in the annotations of a layer, before it is pushed.
struct Annotated {
    payload: String,
    signature: String,
    certificate: String,
    chain: String,
    entry: Option<String>,
}

/// A registry with an image, and who may sign it.
struct Signed {
    env: Env,
    registry: RealRegistry,
    image: Digest,
    ours: OwnSigstore,
}

impl Signed {
    fn new() -> Self {
        let env = Env::new();
        let registry = RealRegistry::start(&env);
        let image = Digest::of(&push_version(&env, 1, &[&format!("{}/a/app:1.0", registry.host)]));
        let ours = OwnSigstore::new(1);
        env.write(ROOT, ours.trusted_root().to_string());
        Self { env, registry, image, ours }
    }

    fn payload(&self, image: Digest) -> String {
        json!({ "critical": { "identity": { "docker-reference": format!("{}/a/app", self.registry.host) },
            "image": { "docker-manifest-digest": image }, "type": "cosign container image signature" }, "optional": null })
        .to_string()
    }

    /// As cosign 2 signs.
    fn annotated(&self, signer: &Ephemeral, payload: String) -> Annotated {
        let signature = signer.sign(payload.as_bytes());
        let entry = self.ours.log(&signer.hashedrekord(payload.as_bytes(), &signature)).annotation();
        let (certificate, chain) = (signer.pem(), self.ours.chain());
        Annotated { payload, signature, certificate, chain, entry: Some(entry) }
    }

    fn push_annotated(&self, signatures: &[Annotated]) {
        let (env, host) = (&self.env, &self.registry.host);
        let layers: Vec<Value> = signatures
            .iter()
            .map(|signed| {
                let mut layer = put_blob(env, host, "a/app", PAYLOAD, signed.payload.as_bytes());
                layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signed.signature,
                    "dev.sigstore.cosign/certificate": signed.certificate, "dev.sigstore.cosign/chain": signed.chain });
                if let Some(entry) = &signed.entry {
                    layer["annotations"]["dev.sigstore.cosign/bundle"] = entry.as_str().into();
                }
                layer
            })
            .collect();
        let config = put_blob(env, host, "a/app", "application/vnd.oci.image.config.v1+json", b"{}");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        put_manifest(env, host, "a/app", &format!("sha256-{}.sig", self.image.hex()), MANIFEST, &manifest);
    }

    /// As cosign 3 signs: an envelope, and what the log says of it.
    fn stated(&self, signer: &Ephemeral, image: Digest, predicate: &str) -> (Value, LoggedEntry) {
        let kind = "application/vnd.in-toto+json";
        let statement =
            json!({ "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
            "subject": [{ "digest": { "sha256": image.hex() }, "annotations": {} }] })
            .to_string();
        let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
        let envelope = json!({ "payload": STANDARD.encode(&statement), "payloadType": kind,
            "signatures": [{ "sig": signer.sign(message.as_bytes()) }] });
        let entry = self.ours.log(&signer.dsse(&envelope));
        (envelope, entry)
    }

    fn bundle(signer: &Ephemeral, content: (&str, Value), entry: &Value) -> Value {
        json!({ "mediaType": BUNDLE, content.0: content.1, "verificationMaterial": {
            "certificate": { "rawBytes": signer.base64() }, "tlogEntries": [entry] } })
    }

    /// Makes these all that is said of the image in bundles, in a registry that knows no referrers.
    fn push_bundles(&self, bundles: &[Value]) {
        let (env, host) = (&self.env, &self.registry.host);
        let entries: Vec<Value> = bundles
            .iter()
            .map(|bundle| {
                let layer = put_blob(env, host, "a/app", BUNDLE, bundle.to_string().as_bytes());
                let config = put_blob(env, host, "a/app", "application/vnd.oci.empty.v1+json", b"{}");
                let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE, "config": config,
                    "layers": [layer], "subject": { "mediaType": INDEX, "digest": self.image, "size": 1 } });
                let digest = Digest::of(manifest.to_string().as_bytes());
                put_manifest(env, host, "a/app", &digest.to_string(), MANIFEST, &manifest);
                json!({ "mediaType": MANIFEST, "digest": digest, "size": manifest.to_string().len(), "artifactType": BUNDLE })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        put_manifest(env, host, "a/app", &format!("sha256-{}", self.image.hex()), INDEX, &index);
    }

    fn add<'a>(&'a self, reference: &'a str, who: &[&'a str]) -> Vec<&'a str> {
        let add = ["upstream", "add", "app", reference, "--insecure", "--replace", "--trust-root", ROOT];
        [&add[..], &["--certificate-oidc-issuer", ISSUER], who].concat()
    }

    fn reference(&self) -> String {
        format!("{}/a/app:1.0", self.registry.host)
    }

    fn refused(&self, what: &str, words: &[&str]) {
        let reference = self.reference();
        let add = self.add(&reference, &["--certificate-identity", IDENTITY]);
        let (code, sentence) = self.env.refused(&mut self.env.windlass(add));
        assert_eq!(code, 4, "{what}: {sentence}");
        let image = format!("a/app:1.0@{}", self.image);
        let asked = format!("by the identity {IDENTITY} of the issuer {ISSUER}");
        for words in [&[image.as_str(), &asked][..], words].concat() {
            assert!(sentence.contains(words), "{what}: {words}: {sentence}");
        }
    }

    /// What cosign says of it, which may ask the registry alone.
    fn cosign(&self, suite: &str, identity: &str, more: &[&str]) -> Result<String, String> {
        let [root, rekor, ct] = self.ours.pems();
        let mut command = Command::new(cosign_of(suite));
        command.env_clear().env("HOME", self.env.path("home"));
        if more.is_empty() {
            command.env("SIGSTORE_ROOT_FILE", self.env.write("root.pem", root));
            command.env("SIGSTORE_REKOR_PUBLIC_KEY", self.env.write("rekor.pem", rekor));
            command.env("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", self.env.write("ct.pem", ct));
        }
        command.args(["verify", "--allow-http-registry", "--offline", "--certificate-identity", identity]);
        command.args(["--certificate-oidc-issuer", ISSUER]).args(more);
        let output = command.arg(format!("{}/a/app@{}", self.registry.host, self.image)).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

#[test]
fn an_identity_has_signed_as_cosign_2_signs_and_cosign_says_so_too() {
    let signed = Signed::new();
    let (env, reference) = (&signed.env, signed.reference());
    let signer = signed.ours.certify(100, &signed.ours.certified());
    signed.refused("unsigned", &["is not signed", "nor a referrer that is one"]);

    signed.push_annotated(&[signed.annotated(&signer, signed.payload(signed.image))]);
    let add = signed.add(&reference, &["--certificate-identity", IDENTITY]);
    let said = env.ok(&add);
    assert!(said.contains(&format!("verified: signed by {IDENTITY} of {ISSUER} (root)")), "{said}");
    let root = Digest::of(&std::fs::read(env.path(ROOT)).unwrap());
    let locked = lock(env);
    let verified = json!({ "method": "cosign-keyless", "identity": IDENTITY, "issuer": ISSUER, "trustRoot": root, "scope": "root" });
    assert_eq!(locked["images"]["app"]["verified"], verified);
    let policy = json!({ "certificateIdentity": IDENTITY, "certificateOidcIssuer": ISSUER, "trustRoot": root });
    assert_eq!(locked["images"]["app"]["policy"], policy);
    let text = std::fs::read_to_string(env.path(ROOT)).unwrap();
    assert_eq!(locked["trustRoots"], json!({ root.to_string(): text }));
    let said = signed.cosign("trixie", IDENTITY, &[]).unwrap();
    assert!(said.contains(&signed.image.to_string()), "{said}");
    assert!(signed.cosign("trixie", "someone else", &[]).is_err());

    // The lock is all that an update needs, and it asks for the identity again.
    std::fs::remove_file(env.path(ROOT)).unwrap();
    assert_eq!(run(env, &["update", "--force"]).2, "1 image: 0 changed, 1 the same\n");
    let text = std::fs::read(env.path(LOCK)).unwrap();
    push_version(env, 2, &[&reference]);
    let (code, _, said) = run(env, &["update", "--accept-moved", "app"]);
    assert!(
        code == 4
            && said.contains(&format!("is not signed: its policy asks for a signature by the identity {IDENTITY}")),
        "{said}"
    );
    assert_eq!(std::fs::read(env.path(LOCK)).unwrap(), text);
    push_version(env, 1, &[&reference]);

    // Another trust root, which does not know who has certified the signer, and one that does.
    env.write("other.json", OwnSigstore::new(2).trusted_root().to_string());
    let (code, _, said) = run(env, &["update", "--trust-root", "other.json"]);
    assert!(code == 4 && said.contains("has no good signature by the identity"), "{said}");
    assert_eq!(std::fs::read(env.path(LOCK)).unwrap(), text);
    env.write("newer.json", serde_json::to_string_pretty(&signed.ours.trusted_root()).unwrap());
    let (code, said, beside) = run(env, &["update", "--trust-root", "newer.json"]);
    assert!(code == 0 && said.ends_with("- app (signature verified anew)\n"), "{said} {beside}");
    let newer = Digest::of(&std::fs::read(env.path("newer.json")).unwrap());
    assert_eq!(lock(env)["images"]["app"]["verified"]["trustRoot"], json!(newer));
    assert_eq!(lock(env)["trustRoots"].as_object().unwrap().len(), 1);
    // One that was changed in the lock is not believed.
    let changed = std::fs::read_to_string(env.path(LOCK)).unwrap().replace("own.ca", "own.cb");
    env.write("changed.json", changed);
    let (code, said) = env.fails(["upstream", "list", "--lock", "changed.json", "--state", "state.json"]);
    assert!(code == 4 && said.contains("image 'app': the trust root has the digest sha256:"), "{said}");
    let (code, said) =
        env.refused(&mut env.windlass(["upstream", "update", "--trust-root", "newer.json", "--lock", "none.json"]));
    assert!(code > 0, "{said}");
}

#[test]
fn bundles_of_an_identity_are_verified_and_cosign_3_says_the_same() {
    let signed = Signed::new();
    let (env, reference) = (&signed.env, signed.reference());
    let signer = signed.ours.certify(100, &signed.ours.certified());
    let (envelope, entry) = signed.stated(&signer, signed.image, SIGNED);
    signed.push_bundles(&[Signed::bundle(&signer, ("dsseEnvelope", envelope), &entry.json())]);
    let pattern = r"https://github\.com/org/app/\.github/workflows/release\.yml@refs/tags/v[0-9.]+";
    for who in [["--certificate-identity", IDENTITY], ["--certificate-identity-regexp", pattern]] {
        let said = env.ok(signed.add(&reference, &who));
        assert!(said.contains(&format!("verified: signed by {IDENTITY} of {ISSUER} (root)")), "{said}");
    }
    assert_eq!(lock(env)["images"]["app"]["policy"]["certificateIdentityRegexp"], pattern);
    let root = env.path(ROOT);
    let trusted = ["--new-bundle-format", "--trusted-root", root.to_str().unwrap()];
    // cosign 2.5 takes no trust root for an image.
    let said = signed.cosign("sid", IDENTITY, &trusted).unwrap();
    assert!(said.contains(&signed.image.to_string()), "{said}");
    assert!(signed.cosign("sid", "someone else", &trusted).is_err());
    for (who, words) in [
        ("https://github.com/org/app", "a signature is of the identity https://github.com/org/app/.github"),
        (".*/release.yml", "a signature is of the identity"),
    ] {
        let (code, said) =
            env.refused(&mut env.windlass(signed.add(&reference, &["--certificate-identity-regexp", who])));
        assert!(code == 4 && said.contains("by an identity like '") && said.contains(words), "{said}");
    }
    // The manifest itself, signed as a file.
    let manifest = lock(env)["images"]["app"]["locked"]["root"]["raw"].as_str().unwrap().as_bytes().to_vec();
    let signature = signer.sign(&manifest);
    let entry = signed.ours.log(&signer.hashedrekord(&manifest, &signature));
    let digest = json!({ "algorithm": "SHA2_256", "digest": STANDARD.encode(signed.image.as_bytes()) });
    let content = ("messageSignature", json!({ "messageDigest": digest, "signature": signature }));
    signed.push_bundles(&[Signed::bundle(&signer, content, &entry.json())]);
    env.ok(signed.add(&reference, &["--certificate-identity", IDENTITY]));
}

#[test]
fn what_is_wrong_with_a_signature_of_an_identity_is_told() {
    let signed = Signed::new();
    let ours = &signed.ours;
    let good = ours.certified();
    let theirs = OwnSigstore::new(2);
    let payload = signed.payload(signed.image);
    let certified = |said: &Certified| signed.annotated(&ours.certify(100, said), payload.clone());
    let other_identity = Certified { identity: "https://github.com/org/fork/x.yml@refs/heads/main", ..good.clone() };
    let other_issuer = Certified { issuer: "https://gitlab.com", ..good.clone() };
    let expired = Certified { life: (SIGNED_AT - 900, SIGNED_AT - 1), ..good.clone() };
    let early = Certified { life: (SIGNED_AT + 1, SIGNED_AT + 600), ..good.clone() };
    let no_sct = Certified { sct: None, ..good.clone() };
    let other_log = Certified { sct: theirs.certified().sct, ..good.clone() };
    let server = Certified { usage: &SERVER, ..good.clone() };
    let stranger = theirs.certify(100, &theirs.certified());
    let signer = ours.certify(100, &good);
    let fine = || signed.annotated(&signer, payload.clone());
    let second = signed.annotated(&ours.certify(101, &good), payload.clone());
    let another = signed.annotated(&signer, signed.payload(Digest::of(b"another")));
    let renamed = signed.annotated(&signer, payload.replace("/a/app", "/a/other"));
    let strange = Annotated { certificate: stranger.pem(), ..signed.annotated(&stranger, payload.clone()) };
    let borrowed = |promise: &Annotated| {
        let mut entry: Value = serde_json::from_str(fine().entry.as_ref().unwrap()).unwrap();
        let other: Value = serde_json::from_str(promise.entry.as_ref().unwrap()).unwrap();
        entry["SignedEntryTimestamp"] = other["SignedEntryTimestamp"].clone();
        Some(entry.to_string())
    };
    for (what, signature, words) in [
        (
            "another identity",
            certified(&other_identity),
            "a signature is of the identity https://github.com/org/fork/x.yml@refs/heads/main",
        ),
        ("another issuer", certified(&other_issuer), "of the issuer https://gitlab.com"),
        ("a certificate that had ended", certified(&expired), "certificate"),
        ("a certificate that had not begun", certified(&early), "certificate"),
        ("no SCT", certified(&no_sct), "missing SCT"),
        ("an SCT of another log", certified(&other_log), "SCT"),
        ("a certificate of a server", certified(&server), "certificate chain is invalid"),
        ("another authority", strange, "certificate chain is invalid"),
        ("another image", another, "what is signed is another image"),
        ("another repository", renamed, "what is signed is called"),
        ("no entry", Annotated { entry: None, ..fine() }, "has no entry of a transparency log"),
        ("a promise of another entry", Annotated { entry: borrowed(&second), ..fine() }, "SET"),
        ("an entry of another signature", Annotated { entry: second.entry.clone(), ..fine() }, "does not match"),
        ("an entry without any key", Annotated { entry: Some("{}".to_owned()), ..fine() }, "cannot be read"),
        ("another payload", Annotated { payload: payload.replace("null", "{}"), ..fine() }, "signature"),
        ("no certificate", Annotated { certificate: String::new(), chain: String::new(), ..fine() }, "certificate"),
    ] {
        signed.push_annotated(&[signature]);
        signed.refused(what, &["has no good signature", words]);
    }
    // One good one is enough.
    signed.push_annotated(&[certified(&other_identity), Annotated { entry: None, ..fine() }, fine()]);
    let reference = signed.reference();
    signed.env.ok(signed.add(&reference, &["--certificate-identity", IDENTITY]));

    // The same in bundles.
    signed.push_annotated(&[Annotated { entry: None, ..fine() }]);
    let (envelope, entry) = signed.stated(&signer, signed.image, SIGNED);
    let bundle = |entry: &Value| Signed::bundle(&signer, ("dsseEnvelope", envelope.clone()), entry);
    let with = |place: &str, value: Value| {
        let mut entry = entry.json();
        *entry.pointer_mut(place).unwrap() = value;
        bundle(&entry)
    };
    let mut unproven = entry.json();
    unproven.as_object_mut().unwrap().remove("inclusionProof");
    let mut untimed = entry.json();
    untimed.as_object_mut().unwrap().remove("inclusionPromise");
    let (other, _) = signed.stated(&signer, Digest::of(b"another"), SIGNED);
    let (slsa, about) = signed.stated(&signer, signed.image, "https://slsa.dev/provenance/v1");
    let (_, elsewhere) = signed.stated(&ours.certify(101, &good), signed.image, SIGNED);
    let zeros = STANDARD.encode([0; 32]);
    for (what, bundle, words) in [
        ("a broken proof", with("/inclusionProof/hashes/0", json!(zeros)), "inclusion proof"),
        ("another root of the log", with("/inclusionProof/rootHash", json!(zeros)), "checkpoint"),
        (
            "a checkpoint of another log",
            with("/inclusionProof/checkpoint", theirs.log(&json!({})).proof["checkpoint"].clone()),
            "checkpoint",
        ),
        ("no proof", bundle(&unproven), "inclusion proof"),
        ("no time", bundle(&untimed), "no verified timestamp"),
        ("another time", with("/integratedTime", json!((SIGNED_AT + 1).to_string())), "SET"),
        ("another entry", bundle(&elsewhere.json()), "does not match"),
        ("another statement", Signed::bundle(&signer, ("dsseEnvelope", other), &entry.json()), ""),
        ("not a bundle", json!({ "mediaType": BUNDLE }), "not a bundle"),
    ] {
        signed.push_bundles(&[bundle]);
        signed.refused(what, &["has no good signature", words]);
    }
    let reference = signed.reference();
    signed.push_bundles(&[Signed::bundle(&signer, ("dsseEnvelope", slsa), &about.json()), bundle(&entry.json())]);
    signed.env.ok(signed.add(&reference, &["--certificate-identity", IDENTITY]));
}

#[test]
fn a_trust_root_that_is_none_is_told_with_its_file_before_anybody_is_asked() {
    let env = Env::new();
    let root = OwnSigstore::new(1).trusted_root();
    let without = |key: &str| {
        let mut root = root.clone();
        root[key] = json!([]);
        root.to_string()
    };
    let mut damaged = root.clone();
    damaged["tlogs"][0]["publicKey"]["rawBytes"] = json!("AAAA");
    let mut chain = root.clone();
    chain["certificateAuthorities"][0]["certChain"]["certificates"][0]["rawBytes"] = json!("AAAA");
    let issuer = ["--certificate-oidc-issuer", ISSUER];
    let who = ["--certificate-identity", IDENTITY];
    for (text, words) in [
        ("{".to_owned(), "is not a trusted_root.json of sigstore"),
        ("{}".to_owned(), "is not a trusted_root.json of sigstore"),
        (without("certificateAuthorities"), "it names no certificate authority"),
        (without("tlogs"), "it names no transparency log"),
        (without("ctlogs"), "it names no log of certificates"),
        (damaged.to_string(), "is not a trusted_root.json of sigstore"),
        (chain.to_string(), "is not a trusted_root.json of sigstore"),
    ] {
        env.write(ROOT, &text);
        // No server listens on this port.
        let add =
            [&["upstream", "add", "app", "127.0.0.1:1/a/app:1", "--insecure", "--trust-root", ROOT][..], &issuer, &who]
                .concat();
        let (code, sentence) = env.fails(add);
        assert!(code == 2 && sentence.contains(words) && sentence.contains(ROOT), "{text}: {code} {sentence}");
    }
    env.write(ROOT, root.to_string());
    let add = ["upstream", "add", "app", "127.0.0.1:1/a/app:1", "--insecure"];
    for (more, words) in [
        (&["--certificate-identity", IDENTITY][..], "--trust-root"),
        (&["--trust-root", ROOT, "--certificate-oidc-issuer", ISSUER], "--certificate-identity"),
        (
            &["--trust-root", ROOT, "--certificate-oidc-issuer", ISSUER, "--certificate-identity-regexp", "("],
            "is not a regular expression",
        ),
        (
            &[
                "--trust-root",
                ROOT,
                "--certificate-oidc-issuer",
                ISSUER,
                "--certificate-identity",
                "a",
                "--cosign-key",
                "k",
            ],
            "cannot be used with",
        ),
    ] {
        let (code, sentence) = env.fails([&add[..], more].concat());
        assert!(code == 2 && sentence.contains(words), "{more:?}: {code} {sentence}");
    }
    // It is noted without being looked up, and asked for later.
    let noted = [&add[..], &["--pending", "--trust-root", ROOT], &issuer, &who].concat();
    env.ok(noted);
    let (code, _, said) = run(&env, &["update", "--all", "--retries", "0"]);
    assert!(code != 0 && lock(&env)["trustRoots"].as_object().unwrap().len() == 1, "{said}");
}
