//! A sigstore of the tests' own: a certificate authority, a log of certificates and a transparency log, so that everything that can
//! be wrong with a signature can be made wrong. Its keys are made of seeds, and its clock stands still.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::EncodePublicKey as _;
use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

pub(crate) const IDENTITY: &str = "https://github.com/org/app/.github/workflows/release.yml@refs/tags/v1.0";
pub(crate) const ISSUER: &str = "https://token.actions.githubusercontent.com";
/// When everything is signed: 15 June 2025.
pub(crate) const SIGNED_AT: i64 = 1_750_000_000;
/// What certificates of signers may do, and what those of servers may.
pub(crate) const CODE_SIGNING: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 3];
pub(crate) const SERVER: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 1];
/// The extension with a certificate's list of SCTs (RFC 6962, 3.3).
const SCTS: [u64; 10] = [1, 3, 6, 1, 4, 1, 11129, 2, 4, 2];

pub(crate) struct OwnSigstore {
    root: SigningKey,
    ca: SigningKey,
    ct: SigningKey,
    rekor: SigningKey,
}

/// The key of someone who signs once, and its certificate.
pub(crate) struct Ephemeral {
    key: SigningKey,
    der: Vec<u8>,
}

/// What a certificate says.
#[derive(Clone)]
pub(crate) struct Certified {
    pub(crate) identity: &'static str,
    pub(crate) issuer: &'static str,
    /// The seconds of its life.
    pub(crate) life: (i64, i64),
    pub(crate) usage: &'static [u64],
    /// Whose log says that it has seen it.
    pub(crate) sct: Option<SigningKey>,
}

/// An entry of the transparency log.
#[derive(Clone)]
pub(crate) struct LoggedEntry {
    pub(crate) body: Vec<u8>,
    pub(crate) promise: String,
    pub(crate) proof: Value,
    log_id: Digest,
}

impl OwnSigstore {
    pub(crate) fn new(seed: u8) -> Self {
        let key = |n: u8| SigningKey::from_slice(&[seed * 8 + n; 32]).unwrap();
        Self { root: key(1), ca: key(2), ct: key(3), rekor: key(4) }
    }

    /// What an honest signer's certificate says.
    pub(crate) fn certified(&self) -> Certified {
        let life = (SIGNED_AT - 60, SIGNED_AT + 540);
        Certified { identity: IDENTITY, issuer: ISSUER, life, usage: &CODE_SIGNING, sct: Some(self.ct.clone()) }
    }

    pub(crate) fn trusted_root(&self) -> Value {
        let since = json!({ "start": "2020-01-01T00:00:00Z" });
        let log = |key: &SigningKey| {
            json!({ "baseUrl": "https://own.log", "hashAlgorithm": "SHA2_256", "logId": { "keyId": STANDARD.encode(id(key).as_bytes()) },
                "publicKey": { "rawBytes": STANDARD.encode(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since } })
        };
        let [ca, root] = self.authorities().map(|der| json!({ "rawBytes": STANDARD.encode(der) }));
        json!({ "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(&self.rekor)], "ctlogs": [log(&self.ct)],
            "certificateAuthorities": [{ "subject": { "organization": "own", "commonName": "own root" }, "uri": "https://own.ca",
                "certChain": { "certificates": [ca, root] }, "validFor": since }] })
    }

    /// What cosign wants in files where it takes no trust root: certificates, the key of the transparency log, that of the other.
    pub(crate) fn pems(&self) -> [String; 3] {
        let certificates = self.authorities().map(|der| pem("CERTIFICATE", &der)).concat();
        [certificates, pem("PUBLIC KEY", &spki(&self.rekor)), pem("PUBLIC KEY", &spki(&self.ct))]
    }

    /// The certificates of the authority: that which signs, and the root above it.
    fn authorities(&self) -> [Vec<u8>; 2] {
        let life = (1_577_836_800, 1_893_456_000);
        let may = [
            extension(&[2, 5, 29, 19], true, &seq(&[&der(1, &[0xff])])),
            extension(&[2, 5, 29, 15], true, &[3, 2, 1, 6]),
        ];
        let of = |name, key| certificate(&body(name, key, "own root", life, &may), &self.root);
        [of("own intermediate", &self.ca), of("own root", &self.root)]
    }

    /// The annotation that cosign keeps them in.
    pub(crate) fn chain(&self) -> String {
        self.authorities().map(|der| pem("CERTIFICATE", &der)).concat()
    }

    pub(crate) fn certify(&self, seed: u8, said: &Certified) -> Ephemeral {
        let key = SigningKey::from_slice(&[seed; 32]).unwrap();
        let mut extensions = vec![
            extension(&[2, 5, 29, 15], true, &[3, 2, 7, 0x80]),
            extension(&[2, 5, 29, 37], false, &seq(&[&oid(said.usage)])),
            extension(&[2, 5, 29, 17], true, &seq(&[&der(0x86, said.identity.as_bytes())])),
            extension(&[1, 3, 6, 1, 4, 1, 57264, 1, 1], false, said.issuer.as_bytes()),
            extension(&[1, 3, 6, 1, 4, 1, 57264, 1, 8], false, &der(12, said.issuer.as_bytes())),
        ];
        let of = |extensions: &[Vec<u8>]| body("", &key, "own intermediate", said.life, extensions);
        if let Some(log) = &said.sct {
            let sct = self.sct(&of(&extensions), log, said.life.0);
            let list = [&len(sct.len() + 2)[..], &len(sct.len()), &sct].concat();
            extensions.push(extension(&SCTS, false, &der(4, &list)));
        }
        let der = certificate(&of(&extensions), &self.ca);
        Ephemeral { key, der }
    }

    /// A *signed certificate timestamp* of a certificate without one (RFC 6962, 3.2).
    fn sct(&self, body: &[u8], log: &SigningKey, seconds: i64) -> Vec<u8> {
        let time = u64::try_from(seconds * 1000).unwrap().to_be_bytes();
        let issuer = Digest::of(&spki(&self.ca));
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let signed = [&[0, 0][..], &time, &[0, 1], issuer.as_bytes(), &length[1..], body, &[0, 0]].concat();
        let signature = sign(log, &signed);
        [&[0][..], id(log).as_bytes(), &time, &[0, 0, 4, 3], &len(signature.len()), &signature].concat()
    }

    /// Puts a body into the log, as the second of three.
    pub(crate) fn log(&self, body: &Value) -> LoggedEntry {
        let body = body.to_string().into_bytes();
        let log_id = id(&self.rekor);
        let promised = json!({ "body": STANDARD.encode(&body), "integratedTime": SIGNED_AT, "logID": log_id.hex(), "logIndex": 1 });
        let promise = STANDARD.encode(sign(&self.rekor, promised.to_string().as_bytes()));
        let leaf = |bytes: &[u8]| Digest::of(&[&[0][..], bytes].concat());
        let node = |left: Digest, right: Digest| Digest::of(&[&[1][..], left.as_bytes(), right.as_bytes()].concat());
        let (first, third) = (leaf(b"first"), leaf(b"third"));
        let root = STANDARD.encode(node(node(first, leaf(&body)), third).as_bytes());
        let head = format!("own.log - 1\n3\n{root}\n");
        let signed = [&log_id.as_bytes()[..4], &sign(&self.rekor, head.as_bytes())].concat();
        let note = format!("{head}\n\u{2014} own.log {}\n", STANDARD.encode(signed));
        let hashes = [first, third].map(|digest| STANDARD.encode(digest.as_bytes()));
        let proof = json!({ "logIndex": "1", "rootHash": root, "treeSize": "3", "hashes": hashes, "checkpoint": { "envelope": note } });
        LoggedEntry { body, promise, proof, log_id }
    }
}

impl Ephemeral {
    pub(crate) fn sign(&self, bytes: &[u8]) -> String {
        STANDARD.encode(sign(&self.key, bytes))
    }

    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    pub(crate) fn base64(&self) -> String {
        STANDARD.encode(&self.der)
    }

    /// What the log is told of a signature over bytes.
    pub(crate) fn hashedrekord(&self, bytes: &[u8], signature: &str) -> Value {
        let key = json!({ "content": STANDARD.encode(self.pem()) });
        json!({ "apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
            "data": { "hash": { "algorithm": "sha256", "value": Digest::of(bytes).hex() } },
            "signature": { "content": signature, "publicKey": key } } })
    }

    /// What the log is told of an envelope.
    pub(crate) fn dsse(&self, envelope: &Value) -> Value {
        let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
        let hash = |bytes: &[u8]| json!({ "algorithm": "sha256", "value": Digest::of(bytes).hex() });
        let signed = json!({ "signature": envelope["signatures"][0]["sig"], "verifier": STANDARD.encode(self.pem()) });
        json!({ "apiVersion": "0.0.1", "kind": "dsse", "spec": { "envelopeHash": hash(envelope.to_string().as_bytes()),
            "payloadHash": hash(&payload), "signatures": [signed] } })
    }
}

impl LoggedEntry {
    /// As cosign keeps it in an annotation.
    pub(crate) fn annotation(&self) -> String {
        json!({ "SignedEntryTimestamp": self.promise, "Payload": { "body": STANDARD.encode(&self.body),
            "integratedTime": SIGNED_AT, "logIndex": 1, "logID": self.log_id.hex() } })
        .to_string()
    }

    /// As a bundle has it.
    pub(crate) fn json(&self) -> Value {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        json!({ "logIndex": "1", "logId": { "keyId": STANDARD.encode(self.log_id.as_bytes()) },
            "kindVersion": { "kind": body["kind"], "version": body["apiVersion"] }, "integratedTime": SIGNED_AT.to_string(),
            "inclusionPromise": { "signedEntryTimestamp": self.promise }, "inclusionProof": self.proof,
            "canonicalizedBody": STANDARD.encode(&self.body) })
    }
}

fn sign(key: &SigningKey, bytes: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(bytes);
    signature.to_der().as_bytes().to_vec()
}

fn spki(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_public_key_der().unwrap().into_vec()
}

fn id(key: &SigningKey) -> Digest {
    Digest::of(&spki(key))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A length in two bytes.
fn len(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ 0..128 => vec![u8::try_from(short).unwrap()],
        long => [&[0x82][..], &len(long)].concat(),
    };
    // Only the shortest form is DER.
    let length = if (128..256).contains(&content.len()) { vec![0x81, length[2]] } else { length };
    [&[tag][..], &length, content].concat()
}

fn seq(parts: &[&[u8]]) -> Vec<u8> {
    der(0x30, &parts.concat())
}

fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(arcs[0] * 40 + arcs[1]).unwrap()];
    for arc in &arcs[2..] {
        let mut groups = vec![u8::try_from(arc % 128).unwrap()];
        let mut rest = arc / 128;
        while rest > 0 {
            groups.insert(0, u8::try_from(rest % 128).unwrap() | 0x80);
            rest /= 128;
        }
        bytes.extend(groups);
    }
    der(6, &bytes)
}

fn extension(name: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der(1, &[0xff]) } else { Vec::new() };
    seq(&[&oid(name), &critical, &der(4, value)])
}

fn algorithm() -> Vec<u8> {
    seq(&[&oid(&[1, 2, 840, 10045, 4, 3, 2])])
}

/// What of a certificate is signed.
fn body(name: &str, key: &SigningKey, issuer: &str, life: (i64, i64), extensions: &[Vec<u8>]) -> Vec<u8> {
    let named = |name: &str| match name {
        "" => seq(&[]),
        name => seq(&[&der(0x31, &seq(&[&oid(&[2, 5, 4, 3]), &der(12, name.as_bytes())]))]),
    };
    let time = |seconds| {
        let time = jiff::Timestamp::from_second(seconds).unwrap().strftime("%y%m%d%H%M%SZ").to_string();
        der(23, time.as_bytes())
    };
    let serial = der(2, &[&[1][..], &Digest::of(&spki(key)).as_bytes()[..15]].concat());
    let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
    seq(&[
        &der(0xa0, &der(2, &[2])),
        &serial,
        &algorithm(),
        &named(issuer),
        &seq(&[&time(life.0), &time(life.1)]),
        &named(name),
        &spki(key),
        &der(0xa3, &seq(&extensions)),
    ])
}

fn certificate(body: &[u8], signer: &SigningKey) -> Vec<u8> {
    seq(&[body, &algorithm(), &der(3, &[&[0][..], &sign(signer, body)].concat())])
}
