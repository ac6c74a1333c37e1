//! Signatures and attestations, put beside what they are about in a registry, so that every cosign finds them.
//!
//! | what | cosign 2, and `sigstoreSigned` of Podman | cosign 3 |
//! |---|---|---|
//! | a signature | a layer of the manifest with the tag `sha256-<hex>.sig` | a Sigstore bundle, a referrer |
//! | an attestation | a layer of the manifest with the tag `sha256-<hex>.att` | a Sigstore bundle, a referrer |
//!
//! Both are written. What others have put there stays, and what is there already is not put there again.

use std::io::Write;

use serde_json::{Value, json};

use super::published::PublishedManifest;
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::image::referrer::{ImageStatement, SIGSTORE};
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::registry::client::RegistryClient;
use crate::registry::error::RegistryError;
use crate::registry::location::Location;
use crate::registry::referrers::Referrer;
use crate::signing::key::KeyError;
use crate::signing::signer::Signer;
use crate::signing::sigstore_bundle::SigstoreBundle;
use crate::signing::simple_signing::{ANNOTATION, PAYLOAD, SIGNED_IMAGE, SignaturePayload};
use crate::signing::statement::{DsseEnvelope, InTotoStatement, StatedSubject};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of an envelope by itself.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";

/// Why something is not signed, or what is signed is not beside the image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AttachError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something else has the tag of signatures.
    #[error(
        "{at} is not a manifest of signatures or attestations: {reason}; remove the tag, or use another repository"
    )]
    Foreign { at: String, reason: String },
}

impl Classified for AttachError {
    fn class(&self) -> Class {
        match self {
            Self::Key(error) => error.class(),
            Self::Registry(error) => error.class(),
            Self::Foreign { .. } => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Key(error) => error.hint(),
            Self::Registry(_) | Self::Foreign { .. } => None,
        }
    }
}

/// Puts things beside images of one repository.
#[derive(Debug)]
pub(crate) struct Attacher<'a> {
    pub(crate) client: &'a RegistryClient,
    pub(crate) at: &'a Location,
    pub(crate) progress: &'a Progress,
}

impl Attacher<'_> {
    /// Signs an image, as `cosign sign` does.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub(crate) fn sign(&self, image: &PublishedManifest, signer: &Signer) -> Result<(), AttachError> {
        let payload = SignaturePayload::new(&self.at.name(), image.digest).to_bytes();
        let annotations = json!({ ANNOTATION: signer.sign(&payload)? });
        self.add_layer(&tag(image, "sig"), PAYLOAD, &payload, &annotations)?;
        let subject = StatedSubject::new(self.at.name(), image.digest);
        let statement = InTotoStatement::new(vec![subject], SIGNED_IMAGE, json!({}));
        self.refer(image, &SigstoreBundle::sign(&statement, signer)?, SIGNED_IMAGE)
    }

    /// Puts a statement beside an image that is among its subjects.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub(crate) fn attest(
        &self,
        image: &PublishedManifest,
        predicate_type: &str,
        bundle: &SigstoreBundle,
    ) -> Result<(), AttachError> {
        if let Some(envelope) = &bundle.dsse_envelope {
            let annotations = json!({ ANNOTATION: "", "predicateType": predicate_type });
            self.add_layer(&tag(image, "att"), ENVELOPE, &canonical::to_bytes(envelope), &annotations)?;
        }
        self.refer(image, bundle, predicate_type)
    }

    /// Puts a statement that a bundle carries beside an image, if it is about that; others have signed it.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub(crate) fn carry(&self, image: &PublishedManifest, statement: &ImageStatement) -> Result<(), AttachError> {
        let foreign =
            |reason: String| AttachError::Foreign { at: format!("a statement about {}", image.digest), reason };
        let bundle: SigstoreBundle =
            serde_json::from_slice(&statement.bytes).map_err(|error| foreign(error.to_string()))?;
        let stated = bundle.dsse_envelope.as_ref().and_then(DsseEnvelope::statement);
        match stated.is_some_and(|(stated, _)| stated.is_about(image.digest)) {
            true => self.attest(image, &statement.predicate_type, &bundle),
            false => Ok(()),
        }
    }

    fn refer(
        &self,
        image: &PublishedManifest,
        bundle: &SigstoreBundle,
        predicate_type: &str,
    ) -> Result<(), AttachError> {
        let statement = ImageStatement { predicate_type: predicate_type.to_owned(), bytes: bundle.to_bytes() };
        let made = statement.manifest(&image.media_type, image.digest, image.size);
        made.blobs.iter().try_for_each(|bytes| self.blob("", bytes).map(drop))?;
        let (artifact_type, annotations) = (SIGSTORE.to_owned(), json!(made.annotations));
        let referrer = Referrer { subject: image.digest, artifact_type, annotations, bytes: made.manifest.bytes };
        self.client.push_referrer(self.at, &referrer, self.progress)?;
        Ok(())
    }

    /// Adds a layer to the manifest of a tag, unless it has it.
    fn add_layer(&self, tag: &str, media_type: &str, bytes: &[u8], annotations: &Value) -> Result<(), AttachError> {
        let Self { client, at, progress } = *self;
        let foreign = |reason: String| AttachError::Foreign { at: format!("{}:{tag}", at.name()), reason };
        let mut layers = match client.manifest(at, tag, progress) {
            Err(error) if error.is_gone() => Vec::new(),
            found => {
                let json: Value = serde_json::from_slice(&found?.bytes).map_err(|error| foreign(error.to_string()))?;
                json["layers"].as_array().cloned().ok_or_else(|| foreign("it has no layers".to_owned()))?
            }
        };
        let mut layer = json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
        layer["annotations"] = annotations.clone();
        if layers.contains(&layer) {
            return Ok(());
        }
        self.blob(media_type, bytes)?;
        layers.push(layer);
        // What cosign writes: an image without a platform, from the year 1.
        let time = "0001-01-01T00:00:00Z";
        let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let history: Vec<Value> = layers.iter().map(|_| json!({ "created": time })).collect();
        let config = json!({ "architecture": "", "created": time, "history": history, "os": "",
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "config": {} });
        let config = self.blob(CONFIG, &canonical::to_bytes(&config))?;
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        client.push_manifest(at, tag, MANIFEST, &canonical::to_bytes(&manifest), progress)?;
        Ok(())
    }

    /// Sends a small blob, unless it is there; its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Value, AttachError> {
        let Self { client, at, progress } = *self;
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        if !client.has_blob(at, digest, size, progress)? {
            client.push_blob(at, digest, size, &|to: &mut (dyn Write + Send)| to.write_all(bytes), progress)?;
        }
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": size }))
    }
}

/// The tag that cosign has for what is about an image.
fn tag(image: &PublishedManifest, kind: &str) -> String {
    format!("sha256-{}.{kind}", image.digest.hex())
}
