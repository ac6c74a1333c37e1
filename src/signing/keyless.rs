//! Signatures whose key is not kept: a certificate of Fulcio says whose it was, and a transparency log that it was used in
//! the minutes in which the certificate was good.
//!
//! All that is trusted is in a file, the *trust root* (`trusted_root.json`, `protobuf-specs` of sigstore): no service is asked. What
//! is verified is verified by the crate `sigstore-verify`; here is what it is told, and what it is asked for.
//!
//! | what | how |
//! |---|---|
//! | the certificate | its chain ends at a certificate authority of the trust root at each time of signing; it may sign code |
//! | its SCT | a log of certificates in the trust root has signed it |
//! | the entry of Rekor | its inclusion proof with a signed checkpoint, or its *signed entry timestamp* (SET); it is about this signature, this certificate and these bytes |
//! | the time of signing | that of the SET, or of an RFC 3161 timestamp where the entry has none |
//! | the identity | the name in the certificate and its OIDC issuer (1.3.6.1.4.1.57264.1.8, or 1.1) are those that are asked for |

use std::collections::BTreeMap;
#[cfg(not(feature = "keyless"))]
use std::convert::Infallible as SigstoreRoot;
use std::fmt;

use super::identity::{AskedIdentity, CertifiedIdentity, KeylessError};
#[cfg(feature = "keyless")]
use super::sigstore::{self, SigstoreRoot};
use crate::oci::digest::Digest;

/// An identity that has to have signed, and what it is believed by.
pub(crate) struct KeylessSigner {
    pub(crate) asked: AskedIdentity,
    /// The digest of the trust root's file.
    pub(crate) trust_root: Digest,
    root: SigstoreRoot,
}

impl fmt::Debug for KeylessSigner {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "KeylessSigner({}, {})", self.asked, self.trust_root)
    }
}

impl KeylessSigner {
    /// `trust_root` is the text of a `trusted_root.json`.
    ///
    /// # Errors
    /// If that is not one, or names no authority that could be trusted.
    pub(crate) fn new(trust_root: &str, asked: AskedIdentity) -> Result<Self, KeylessError> {
        let root = read_root(trust_root)?;
        Ok(Self { asked, trust_root: Digest::of(trust_root.as_bytes()), root })
    }

    /// Who has signed what has this digest, in a Sigstore bundle. `None` for a bundle that states something else of it.
    pub(crate) fn verify_bundle(
        &self,
        bundle: &[u8],
        digest: Digest,
        predicate: &str,
    ) -> Option<Result<CertifiedIdentity, String>> {
        #[cfg(feature = "keyless")]
        return sigstore::verify_bundle(&self.root, &self.asked, bundle, digest, predicate);
        #[cfg(not(feature = "keyless"))]
        match (self.root, bundle, digest, predicate) {}
    }

    /// Who has signed these bytes, as annotations say that hold signature, certificate and entry of Rekor.
    ///
    /// # Errors
    /// With what is wrong.
    pub(crate) fn verify_annotated(
        &self,
        payload: &[u8],
        signature: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<CertifiedIdentity, String> {
        #[cfg(feature = "keyless")]
        return sigstore::verify_annotated(&self.root, &self.asked, payload, signature, annotations);
        #[cfg(not(feature = "keyless"))]
        match (self.root, payload, signature, annotations) {}
    }
}

#[cfg(feature = "keyless")]
fn read_root(trust_root: &str) -> Result<SigstoreRoot, KeylessError> {
    sigstore::read_root(trust_root).map_err(KeylessError::TrustRoot)
}

#[cfg(not(feature = "keyless"))]
const fn read_root(_: &str) -> Result<SigstoreRoot, KeylessError> {
    Err(KeylessError::NotBuilt)
}

#[cfg(test)]
#[cfg(feature = "keyless")]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::super::sigstore::CERTIFICATE;
    use super::*;

    const ROOT: &str = include_str!("../../tests/fixtures/sigstore/trusted_root.json");
    const STAGING: &str = include_str!("../../tests/fixtures/sigstore/staging_root.json");
    const BLOB: &str = include_str!("../../tests/fixtures/sigstore/cosign-v3-blob.txt");
    const SIGNED_BLOB: &str = include_str!("../../tests/fixtures/sigstore/cosign-v3-blob.sigstore.json");
    const STATED: &str = include_str!("../../tests/fixtures/sigstore/conda-attestation.sigstore.json");
    const STATED_IN_REKOR_2: &str =
        include_str!("../../tests/fixtures/sigstore/conda-attestation-rekor2.sigstore.json");
    const PREDICATE: &str = "https://schemas.conda.org/attestations-publish-1.schema.json";
    const PACKAGE: &str = "sha256:54303491a8418fbed24344b513546182c29b43bf282ceb433af65e2299f9271f";
    const WORKFLOW: (&str, &str) = (
        "https://github.com/prefix-dev/sigstore-example/.github/workflows/action.yaml@refs/heads/main",
        "https://token.actions.githubusercontent.com",
    );
    const PERSON: (&str, &str) = ("w.vollprecht@gmail.com", "https://github.com/login/oauth");

    fn signer(root: &str, (name, issuer): (&str, &str)) -> KeylessSigner {
        KeylessSigner::new(root, AskedIdentity::exact(name, issuer)).unwrap()
    }

    fn certified((name, issuer): (&str, &str)) -> CertifiedIdentity {
        CertifiedIdentity { name: name.to_owned(), issuer: issuer.to_owned() }
    }

    /// The fixtures are real: the public sigstore has certified and logged them.
    #[test]
    fn bundles_of_the_public_sigstore_are_verified() {
        let (package, blob): (Digest, _) = (PACKAGE.parse().unwrap(), Digest::of(BLOB.as_bytes()));
        let verdict =
            |who: &KeylessSigner, bundle: &str, digest, kind| who.verify_bundle(bundle.as_bytes(), digest, kind);
        let workflow = signer(ROOT, WORKFLOW);
        assert_eq!(verdict(&workflow, STATED, package, PREDICATE), Some(Ok(certified(WORKFLOW))));
        assert_eq!(verdict(&workflow, STATED, package, "https://slsa.dev/provenance/v1"), None);
        let person = signer(ROOT, PERSON);
        assert_eq!(verdict(&person, SIGNED_BLOB, blob, PREDICATE), Some(Ok(certified(PERSON))));
        // Rekor 2 keeps no time: that of an RFC 3161 time stamp counts.
        let staged = KeylessSigner::new(STAGING, AskedIdentity::pattern(".+@.+", PERSON.1).unwrap()).unwrap();
        let found = verdict(&staged, STATED_IN_REKOR_2, package, PREDICATE).unwrap();
        assert!(found.as_ref().is_ok_and(|found| found.issuer == PERSON.1), "{found:?}");
        let mut untimed: Value = serde_json::from_str(STATED_IN_REKOR_2).unwrap();
        untimed["verificationMaterial"]["timestampVerificationData"] = json!({});
        let reason = verdict(&staged, &untimed.to_string(), package, PREDICATE).unwrap().unwrap_err();
        assert!(reason.contains("no verified timestamp"), "{reason}");

        for (who, bundle, digest, words) in [
            (&person, STATED, package, "a signature is of the identity https://github.com/prefix-dev/"),
            (&workflow, SIGNED_BLOB, blob, "a signature is of the identity w.vollprecht@gmail.com of the issuer"),
            (&workflow, STATED, blob, "artifact"),
            (&person, SIGNED_BLOB, package, "digest"),
            (&staged, STATED, package, ""),
        ] {
            let reason = verdict(who, bundle, digest, PREDICATE).unwrap().unwrap_err();
            assert!(reason.contains(words), "{words}: {reason}");
        }
    }

    /// What the bundle of cosign 3 has, as cosign 2 keeps it.
    #[test]
    fn annotations_with_a_promise_of_the_public_rekor_are_verified() {
        let bundle: Value = serde_json::from_str(SIGNED_BLOB).unwrap();
        let material = &bundle["verificationMaterial"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let entry = &material["tlogEntries"][0];
        let number = |value: &Value| text(value).parse::<u64>().unwrap();
        let log_id: [u8; 32] = STANDARD.decode(text(&entry["logId"]["keyId"])).unwrap().try_into().unwrap();
        let promise = json!({ "SignedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"], "Payload": {
            "body": entry["canonicalizedBody"], "integratedTime": number(&entry["integratedTime"]),
            "logIndex": number(&entry["logIndex"]), "logID": crate::oci::digest::to_hex(&log_id) } });
        let certificate = text(&material["certificate"]["rawBytes"]);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n");
        let annotations = BTreeMap::from([
            (CERTIFICATE.to_owned(), pem.clone()),
            ("dev.sigstore.cosign/bundle".to_owned(), promise.to_string()),
        ]);
        let signature = text(&bundle["messageSignature"]["signature"]);
        let person = signer(ROOT, PERSON);
        let verdict = |payload: &str, annotations: &BTreeMap<String, String>| {
            person.verify_annotated(payload.as_bytes(), &signature, annotations)
        };
        assert_eq!(verdict(BLOB, &annotations), Ok(certified(PERSON)));
        assert!(verdict("other", &annotations).is_err());
        let later = promise.to_string().replace(&text(&entry["integratedTime"]), "1764787004");
        let changed = BTreeMap::from([(CERTIFICATE.to_owned(), pem), ("dev.sigstore.cosign/bundle".to_owned(), later)]);
        let reason = verdict(BLOB, &changed).unwrap_err();
        assert!(reason.contains("SET"), "{reason}");
        assert!(verdict(BLOB, &BTreeMap::new()).unwrap_err().contains("no entry of a transparency log"));
    }
}
