//! Sigstore bundles, in which cosign leaves signatures from its version 3 on: a DSSE envelope around an in-toto statement.
//!
//! Formats: `specs/BUNDLE_SPEC.md` of cosign, `envelope.md` and `protocol.md` of DSSE, the statement of in-toto (v0.1 and v1).
//! The verification material is not read, nor anything else that cosign leaves: the key decides.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::signature::SignatureKey;
use crate::oci::digest::Digest;

/// What the media types of all versions begin with.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";
const STATEMENT: &str = "application/vnd.in-toto+json";
/// What `cosign sign` states. Anything else that is stated of an image, like how it was built, is not a signature of it.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    #[serde(default)]
    signatures: Vec<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    #[serde(default)]
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

/// Whether a layer of this media type is a bundle.
pub(super) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with(MEDIA_TYPE)
}

/// Whether the key has signed this image in a bundle. `None` for a bundle that is not a signature of an image.
pub(super) fn check(key: &SignatureKey, bundle: &[u8], digest: Digest) -> Option<Result<(), String>> {
    let bundle: Bundle = match serde_json::from_slice(bundle) {
        Ok(bundle) => bundle,
        Err(error) => return Some(Err(format!("not a bundle: {error}"))),
    };
    let envelope = bundle.dsse_envelope.filter(|envelope| envelope.payload_type == STATEMENT)?;
    let payload = STANDARD.decode(&envelope.payload).ok()?;
    let statement: Statement = serde_json::from_slice(&payload).ok()?;
    if statement.predicate_type != SIGNED {
        return None;
    }
    let message = [format!("DSSEv1 {} {STATEMENT} {} ", STATEMENT.len(), payload.len()).as_bytes(), &payload].concat();
    if !envelope.signatures.iter().any(|signed| key.signed(&message, &signed.sig)) {
        return Some(Err("a signature is of another key, or of another payload".to_owned()));
    }
    let hex = digest.hex();
    let mut subjects = statement.subject.iter().filter_map(|subject| subject.digest.get("sha256"));
    if subjects.any(|subject| *subject == hex) {
        return Some(Ok(()));
    }
    Some(Err("what is signed is another image".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by cosign 2.5.0: `attest --new-bundle-format --type https://sigstore.dev/cosign/sign/v1`.
    const BUNDLE: &str = include_str!("../../tests/fixtures/cosign/bundle.json");
    const KEY: &str = include_str!("../../tests/fixtures/cosign/cosign.pub");
    const IMAGE: &str = "sha256:5ec0f843fbf5d998846678cd4b02113129449e12d2187e12f5063528443af9f3";

    #[test]
    fn what_cosign_signed_is_signed_by_its_key_and_of_its_image() {
        let (key, image): (_, Digest) = (SignatureKey::parse(KEY).unwrap(), IMAGE.parse().unwrap());
        let verdict = |bundle: &str, image: Digest| check(&key, bundle.as_bytes(), image);
        assert_eq!(verdict(BUNDLE, image), Some(Ok(())));
        let other = verdict(BUNDLE, Digest::of(b"other")).unwrap().unwrap_err();
        assert_eq!(other, "what is signed is another image");

        let payload = |text: &str| {
            let mut json: serde_json::Value = serde_json::from_str(BUNDLE).unwrap();
            let old = STANDARD.decode(json["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
            let new = String::from_utf8(old).unwrap().replace(&IMAGE["sha256:".len()..], text);
            json["dsseEnvelope"]["payload"] = STANDARD.encode(new).into();
            json.to_string()
        };
        let changed = verdict(&payload(&Digest::of(b"other").hex()), Digest::of(b"other")).unwrap().unwrap_err();
        assert_eq!(changed, "a signature is of another key, or of another payload");
        let bundle = BUNDLE.replace("\"sig\"", "\"keyid\":\"\",\"sig\"");
        assert_eq!(verdict(&bundle, image), Some(Ok(())));
        for nothing in ["{}", &BUNDLE.replace("in-toto", "other"), &BUNDLE.replace("dsseEnvelope", "messageSignature")]
        {
            assert_eq!(verdict(nothing, image), None, "{nothing}");
        }
        assert!(verdict("[", image).unwrap().unwrap_err().starts_with("not a bundle: "));
        assert!(is_bundle("application/vnd.dev.sigstore.bundle.v0.3+json"));
        assert!(!is_bundle("application/vnd.in-toto+json"));
    }
}
