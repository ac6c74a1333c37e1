//! What the layers of an image became when they were packed, kept beside the image in its registry: so that one machine packs
//! for all of them.
//!
//! A digest of packed bytes is known when they were packed, and not before. The machine that did it writes them down, as a manifest
//! that is about the image *as it was built* (distribution-spec 1.1, *Pushing Manifests with Subject*), whose digest every machine
//! that has the image knows:
//!
//! ```json
//! { "compressor": "zstd 1.5.7", "image": "sha256:…", "layers": { "sha256:<diff ID>": { "digest": "sha256:…", "size": 1234 } }, "level": 3,
//!   "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "version": 1 }
//! ```
//!
//! **It is a hint, and nothing of it is believed.** A user who may push to a repository may write one, and one that names other bytes
//! would make an image of them under our config. A row counts if
//!
//! 1. the registry has a blob of that digest and size in this repository, and
//! 2. the key that the user names has signed the list (a Sigstore bundle, predicate type [`PREDICATE`]), or the blob, read out of
//!    the registry now, has that digest and size, unpacks by the format that is asked for, and what comes out has the diff ID and the
//!    size of the layer. No more than that size is unpacked.
//!
//! Otherwise the layer is packed here, as without a list.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::image::SmallBlob;
use crate::image::referrer::{ImageStatement, SIGSTORE};
use crate::oci::canonical;
use crate::oci::compression::Compression;
use crate::oci::digest::{Digest, Hasher};
use crate::registry::client::{MAX_SMALL_BLOB, RegistryClient};
use crate::registry::error::RegistryError;
use crate::registry::location::Location;
use crate::registry::referrers::Referrer;
use crate::signing::key::{KeyError, SignatureKey};
use crate::signing::signer::Signer;
use crate::signing::sigstore_bundle::SigstoreBundle;
use crate::signing::statement::{InTotoStatement, StatedSubject};

/// What the manifest says that it is, and its one layer.
const ARTIFACT: &str = "application/vnd.windlass.packed-layers.v1+json";
/// How a signed one is read.
pub(crate) const PREDICATE: &str = "urn:windlass:packed-layers:1";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// No image has more of them; the rest is not read.
const MOST_REFERRERS: usize = 64;
/// No more is tried of what lists say of one layer: each may cost as many bytes as the layer has.
pub(crate) const MOST_ROWS: usize = 4;
/// Bytes that are unpacked at once.
const CHUNK: usize = 128 << 10;

/// A packed layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct PackedBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// The list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PackedMap {
    version: u32,
    /// The manifest or the index, as it was built.
    image: Digest,
    /// That of the packed layers.
    media_type: String,
    /// For people: any that gives the same digests will do.
    compressor: String,
    level: i32,
    /// By diff ID.
    layers: BTreeMap<Digest, PackedBlob>,
}

/// What was found beside an image.
#[derive(Debug, Default)]
pub(crate) struct FoundMaps {
    /// The manifests that are about it.
    pub(crate) listed: BTreeSet<Digest>,
    /// What lists say of a layer, and whether a key has signed that.
    pub(crate) rows: BTreeMap<Digest, BTreeSet<(PackedBlob, bool)>>,
}

impl FoundMaps {
    /// Whether a signed list has this.
    pub(crate) fn has_signed(&self, layer: Digest, blob: PackedBlob) -> bool {
        self.rows.get(&layer).is_some_and(|rows| rows.contains(&(blob, true)))
    }
}

/// Why the list could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PackedMapError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Classified for PackedMapError {
    fn class(&self) -> Class {
        match self {
            Self::Registry(error) => error.class(),
            Self::Key(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Key(error) => error.hint(),
        }
    }
}

impl PackedMap {
    pub(crate) fn new(image: Digest, with: Compression, layers: BTreeMap<Digest, PackedBlob>) -> Self {
        let (compressor, level) = with.program();
        Self { version: 1, image, media_type: with.media_type().to_owned(), compressor, level, layers }
    }

    /// As a manifest about the image, and the blobs that it names.
    fn manifest(&self, subject: &SmallBlob, signer: Option<&Signer>) -> Result<(Referrer, Vec<Vec<u8>>), KeyError> {
        let size = subject.bytes.len() as u64;
        if let Some(signer) = signer {
            let about = vec![StatedSubject::new(self.image.to_string(), self.image)];
            let statement = InTotoStatement::new(about, PREDICATE, serde_json::to_value(self).unwrap_or_default());
            let bytes = SigstoreBundle::sign(&statement, signer)?.to_bytes();
            let statement = ImageStatement { predicate_type: PREDICATE.to_owned(), bytes };
            let made = statement.manifest(subject.media_type.as_ref(), subject.digest, size);
            let (artifact_type, annotations) = (SIGSTORE.to_owned(), json!(made.annotations));
            let referrer = Referrer { subject: subject.digest, artifact_type, annotations, bytes: made.manifest.bytes };
            return Ok((referrer, made.blobs.to_vec()));
        }
        let blobs = vec![b"{}".to_vec(), canonical::to_bytes(self)];
        let blob = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT,
            "config": blob(EMPTY, &blobs[0]), "layers": [blob(ARTIFACT, &blobs[1])],
            "subject": { "mediaType": subject.media_type, "digest": subject.digest, "size": size } });
        let bytes = canonical::to_bytes(&manifest);
        let (artifact_type, annotations) = (ARTIFACT.to_owned(), json!({}));
        Ok((Referrer { subject: subject.digest, artifact_type, annotations, bytes }, blobs))
    }

    /// Puts it beside the image, unless the very same is listed.
    ///
    /// # Errors
    /// If the registry does not take it, or it cannot be signed.
    pub(crate) fn attach(
        &self,
        client: &RegistryClient,
        at: &Location,
        subject: &SmallBlob,
        signer: Option<&Signer>,
        listed: &BTreeSet<Digest>,
        progress: &Progress,
    ) -> Result<(), PackedMapError> {
        let (referrer, blobs) = self.manifest(subject, signer)?;
        if listed.contains(&Digest::of(&referrer.bytes)) {
            return Ok(());
        }
        for bytes in blobs {
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            if !client.has_blob(at, digest, size, progress)? {
                let write = |to: &mut (dyn Write + Send)| to.write_all(&bytes);
                client.push_blob(at, digest, size, &write, progress)?;
            }
        }
        client.push_referrer(at, &referrer, progress)?;
        Ok(())
    }
}

/// Reads the lists that are about an image, if `read` says that one of them is needed. One that is not what it should be says nothing.
///
/// # Errors
/// If a signal came. A registry that gives none has none.
pub(crate) fn find(
    client: &RegistryClient,
    at: &Location,
    image: Digest,
    with: Compression,
    (read, keys): (bool, &[&SignatureKey]),
    progress: &Progress,
) -> Result<FoundMaps, RegistryError> {
    let mut found = FoundMaps::default();
    let listed = given(client.referrers(at, image, progress))?;
    found.listed = listed.into_iter().flatten().collect();
    for digest in found.listed.iter().copied().take(if read { MOST_REFERRERS } else { 0 }) {
        let Some(manifest) = given(client.manifest(at, &digest.to_string(), progress))? else { continue };
        let Some(blob) = content(&manifest.bytes, image) else { continue };
        let bytes = given(client.blob(at, blob.digest, blob.size, progress))?;
        let Some((map, signed)) = bytes.and_then(|bytes| parse(&bytes, image, keys)) else { continue };
        if map.version == 1 && map.image == image && map.media_type == with.media_type() {
            for (layer, packed) in map.layers {
                found.rows.entry(layer).or_default().insert((packed, signed));
            }
        }
    }
    Ok(found)
}

/// What the registry gave; nothing where it gave an error, unless a signal came.
fn given<T>(answer: Result<T, RegistryError>) -> Result<Option<T>, RegistryError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error @ RegistryError::Stopped { .. }) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The blob with the list, if this is the manifest of one that is about the image.
fn content(manifest: &[u8], image: Digest) -> Option<PackedBlob> {
    let json: Value = serde_json::from_slice(manifest).ok()?;
    let layer = json["layers"].as_array().filter(|layers| layers.len() == 1)?.first()?;
    let is_list = [ARTIFACT, SIGSTORE].iter().any(|kind| layer["mediaType"] == *kind);
    let is_about = json["subject"]["digest"] == image.to_string();
    let blob: PackedBlob = serde_json::from_value(layer.clone()).ok()?;
    Some(blob).filter(|blob| is_list && is_about && blob.size <= MAX_SMALL_BLOB)
}

/// A list, and whether one of the keys has signed it. One that another key has signed counts as one without a signature.
fn parse(bytes: &[u8], image: Digest, keys: &[&SignatureKey]) -> Option<(PackedMap, bool)> {
    if let Ok(map) = serde_json::from_slice::<PackedMap>(bytes) {
        return Some((map, false));
    }
    let bundle: SigstoreBundle = serde_json::from_slice(bytes).ok()?;
    let verified = keys.iter().find_map(|key| bundle.verified(key).ok());
    let signed = verified.is_some();
    let statement = verified.or_else(|| Some(bundle.dsse_envelope.as_ref()?.statement()?.0))?;
    if statement.predicate_type != PREDICATE || !statement.is_about(image) {
        return None;
    }
    Some((serde_json::from_value(statement.predicate).ok()?, signed))
}

/// Whether a blob of the registry is the packed form of a layer: it is read, compared and unpacked, and nothing is kept.
///
/// # Errors
/// If a signal came. A blob that cannot be read proves nothing.
pub(crate) fn is_packed_form(
    client: &RegistryClient,
    at: &Location,
    blob: PackedBlob,
    (layer, size): (Digest, u64),
    with: Compression,
    progress: &Progress,
) -> Result<bool, RegistryError> {
    let unpacked = client.read_blob(at, blob.digest, blob.size, progress, &mut |packed| digest_of(with, packed, size));
    match unpacked {
        Ok(found) => Ok(found.is_ok_and(|found| found == Some((layer, size)))),
        Err(error @ RegistryError::Stopped { .. }) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Digest and size of what comes out; `None` if it is more than this.
fn digest_of(with: Compression, packed: &mut (dyn Read + Send), most: u64) -> io::Result<Option<(Digest, u64)>> {
    let mut unpacked = with.decoder(packed)?;
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; CHUNK]);
    loop {
        let read = unpacked.read(&mut buffer)?;
        if read == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(&buffer[..read]);
        if hasher.count() > most {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8], with: Compression) -> Vec<u8> {
        let mut encoder = with.encoder(Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn no_more_is_unpacked_than_the_layer_has() {
        let layer = vec![7; 1_000_000];
        for with in [Compression::Gzip, Compression::Zstd] {
            let told = |bytes: &[u8], most| digest_of(with, &mut &*bytes, most);
            let right = packed(&layer, with);
            assert_eq!(told(&right, 1_000_000).unwrap(), Some((Digest::of(&layer), 1_000_000)));
            assert_eq!(told(&right, 999_999).unwrap(), None);
            // A little that becomes a lot, by another frame behind it too.
            let bomb = packed(&vec![0; 200_000_000], with);
            assert_eq!(told(&bomb, 1_000_000).unwrap(), None);
            assert_eq!(told(&[right.clone(), bomb].concat(), 1_000_000).unwrap(), None);
            assert!(told(&right[..right.len() / 2], 1_000_000).is_err());
            assert!(told(&[&right[..], b"garbage"].concat(), 1_000_000).is_err());
        }
    }

    #[test]
    fn a_list_of_another_image_or_of_another_form_says_nothing() {
        let (image, other) = (Digest::of(b"image"), Digest::of(b"other"));
        let blob = PackedBlob { digest: Digest::of(b"packed"), size: 6 };
        let map = PackedMap::new(image, Compression::Zstd, BTreeMap::from([(Digest::of(b"layer"), blob)]));
        let subject = |text: &str| SmallBlob {
            media_type: oci_spec::image::MediaType::ImageManifest,
            digest: Digest::of(text.as_bytes()),
            bytes: text.as_bytes().to_vec(),
        };
        let (referrer, blobs) = map.manifest(&subject("image"), None).unwrap();
        let found = content(&referrer.bytes, image).unwrap();
        assert_eq!((found.digest, found.size), (Digest::of(&blobs[1]), blobs[1].len() as u64));
        assert_eq!(content(&referrer.bytes, other), None);
        assert_eq!(parse(&blobs[1], image, &[]), Some((map, false)));
        assert_eq!(parse(b"{}", image, &[]), None);
    }
}
