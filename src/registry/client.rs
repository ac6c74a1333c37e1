//! Manifests and small blobs.

use std::collections::BTreeSet;

use serde::Deserialize;
use ureq::Body;
use ureq::http::{HeaderMap, Method, Response};

use super::answer::{header_number, header_text};
use super::error::RegistryError;
use super::location::Location;
use super::options::RegistryOptions;
use super::transport::{Access, Ask, RequestBody, Transport};
use super::url::Url;
use crate::disk::progress::Progress;
use crate::oci::digest::Digest;

/// The largest manifest that is read: what registries have to take, by the protocol.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// The largest blob that is read into memory.
pub(crate) const MAX_SMALL_BLOB: u64 = 8 << 20;

/// The media types of manifests and indexes.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A client of all registries. It may be used by many threads at once.
#[derive(Debug)]
pub struct RegistryClient {
    pub(super) transport: Transport,
}

/// What a registry says of a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub digest: Option<Digest>,
    /// Its media type.
    pub media_type: Option<String>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// How many pulls are left, for registries that count them.
    pub remaining: Option<u32>,
}

/// A manifest or an index, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// The digest of the bytes.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    pub bytes: Vec<u8>,
}

/// What tells one kind of manifest from another.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ManifestKind {
    schema_version: u64,
    media_type: Option<String>,
    manifests: Option<serde_json::Value>,
    layers: Option<serde_json::Value>,
}

impl RegistryClient {
    /// A client that has asked nothing yet.
    ///
    /// # Errors
    /// If the certificates cannot be read, or the proxy is not an address.
    pub fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        Ok(Self { transport: Transport::new(options)? })
    }

    /// The files and helpers with the user's logins that a registry has taken so far, by its host; none where it lets
    /// anybody in.
    #[must_use]
    pub(crate) fn logins(&self, host: &str) -> BTreeSet<String> {
        self.transport.sources(host)
    }

    /// Asks for the digest of a tag, or whether there is a digest. Registries that count pulls do not count this, unless
    /// they give no digest without sending the manifest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn head(&self, at: &Location, which: &str, progress: &Progress) -> Result<Head, RegistryError> {
        let what = manifest_name(at, which);
        let asked = self.transport.retrying(at, progress, || {
            let response = self.ask_manifest(at, which, &what, Method::HEAD, progress)?;
            Ok(head_of(response.headers()))
        });
        match asked {
            Ok(head) if head.digest.is_some() => Ok(head),
            Ok(_) | Err(RegistryError::Refused { status: 405, .. }) => {
                let (manifest, remaining) = self.get_manifest(at, which, progress)?;
                let RawManifest { digest, media_type, bytes } = manifest;
                let size = Some(bytes.len() as u64);
                Ok(Head { digest: Some(digest), media_type: Some(media_type), size, remaining })
            }
            Err(error) => Err(error),
        }
    }

    /// The manifest or index of this tag or digest, of at most [`MAX_MANIFEST`] bytes, checked against the digest that
    /// was asked for, or that the registry says it has.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn manifest(&self, at: &Location, which: &str, progress: &Progress) -> Result<RawManifest, RegistryError> {
        self.get_manifest(at, which, progress).map(|(manifest, _)| manifest)
    }

    fn get_manifest(
        &self,
        at: &Location,
        which: &str,
        progress: &Progress,
    ) -> Result<(RawManifest, Option<u32>), RegistryError> {
        let what = manifest_name(at, which);
        self.transport.retrying(at, progress, || {
            let response = self.ask_manifest(at, which, &what, Method::GET, progress)?;
            let head = head_of(response.headers());
            if head.size.is_some_and(|size| size > MAX_MANIFEST) {
                return Err(RegistryError::TooLarge { what: what.clone(), kind: "manifest", limit: MAX_MANIFEST });
            }
            let ask = self.ask(at, &what, Method::GET, "")?;
            let bytes = self.transport.incoming(&ask, response, progress).all(MAX_MANIFEST, "manifest")?;
            let digest = Digest::of(&bytes);
            if which.parse().ok().or(head.digest).is_some_and(|expected| digest != expected) {
                return Err(RegistryError::WrongDigest { what: what.clone(), found: digest });
            }
            let malformed =
                |reason| RegistryError::Malformed { host: at.host().to_owned(), what: what.clone(), reason };
            let media_type = kind_of(head.media_type.as_deref(), &bytes).map_err(malformed)?;
            Ok((RawManifest { digest, media_type, bytes }, head.remaining))
        })
    }

    fn ask_manifest(
        &self,
        at: &Location,
        which: &str,
        what: &str,
        method: Method,
        progress: &Progress,
    ) -> Result<Response<Body>, RegistryError> {
        let mut ask = self.ask(at, what, method, &format!("manifests/{which}"))?;
        // One header for each: there are registries that read only the first type of a list.
        ask.headers = MANIFESTS.iter().map(|media_type| ("accept", (*media_type).to_owned())).collect();
        self.transport.send(&ask, progress)
    }

    /// A blob of at most [`MAX_SMALL_BLOB`] bytes: the config of an image.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn blob(
        &self,
        at: &Location,
        digest: Digest,
        size: u64,
        progress: &Progress,
    ) -> Result<Vec<u8>, RegistryError> {
        let what = blob_name(at, digest);
        if size > MAX_SMALL_BLOB {
            return Err(RegistryError::TooLarge { what, kind: "config", limit: MAX_SMALL_BLOB });
        }
        self.transport.retrying(at, progress, || {
            let ask = self.ask(at, &what, Method::GET, &format!("blobs/{digest}"))?;
            let response = self.transport.send(&ask, progress)?;
            let wrong_size = |found| RegistryError::WrongSize { what: what.clone(), expected: size, found };
            if let Some(found) = header_number(response.headers(), "content-length").filter(|found| *found != size) {
                return Err(wrong_size(found));
            }
            let bytes = self.transport.incoming(&ask, response, progress).all(MAX_SMALL_BLOB, "config")?;
            let found = Digest::of(&bytes);
            if found != digest {
                return Err(RegistryError::WrongDigest { what: what.clone(), found });
            }
            if bytes.len() as u64 == size { Ok(bytes) } else { Err(wrong_size(bytes.len() as u64)) }
        })
    }

    /// A request without headers and body, to pull.
    pub(super) fn ask<'a>(
        &self,
        at: &'a Location,
        what: &'a str,
        method: Method,
        path: &str,
    ) -> Result<Ask<'a>, RegistryError> {
        let url: Url = self.transport.url(at, path)?;
        let (access, headers, payload) = (Access::Pull, Vec::new(), RequestBody::Nothing);
        Ok(Ask { at, what, method, url, access, headers, payload, stores: false })
    }
}

/// `docker.io/library/redis:8`, or `@sha256:…`.
pub(super) fn manifest_name(at: &Location, which: &str) -> String {
    format!("{}{}{which}", at.name(), if which.contains(':') { '@' } else { ':' })
}

/// `blob sha256:… of docker.io/library/redis`.
pub(super) fn blob_name(at: &Location, digest: Digest) -> String {
    format!("blob {digest} of {}", at.name())
}

fn head_of(headers: &HeaderMap) -> Head {
    let media_type = header_text(headers, "content-type").map(|text| text.split(';').next().unwrap_or(text).trim());
    // `76;w=21600`: so many pulls in so many seconds.
    let remaining = header_text(headers, "ratelimit-remaining").and_then(|text| text.split(';').next()?.parse().ok());
    Head {
        digest: header_text(headers, "docker-content-digest").and_then(|digest| digest.parse().ok()),
        media_type: media_type.map(str::to_ascii_lowercase),
        size: header_number(headers, "content-length"),
        remaining,
    }
}

/// The media type of a manifest: what it says itself, else what it was sent as, else what it looks like.
fn kind_of(sent: Option<&str>, bytes: &[u8]) -> Result<String, String> {
    let kind: ManifestKind = serde_json::from_slice(bytes).map_err(|error| {
        let what = sent.filter(|sent| !sent.contains("json")).map(|sent| format!(" ({sent})")).unwrap_or_default();
        format!("no JSON{what}: {error}")
    })?;
    if kind.schema_version == 1 {
        return Err("a manifest of Docker's first schema; it has to be pushed again by a current tool".to_owned());
    }
    let known = |media_type: &&str| MANIFESTS.contains(media_type);
    let looks = match (&kind.manifests, &kind.layers) {
        (Some(_), _) => Some(MANIFESTS[0]),
        (None, Some(_)) => Some(MANIFESTS[1]),
        (None, None) => None,
    };
    let own = kind.media_type.as_deref();
    if let Some(other) = own.filter(|own| !known(own)) {
        return Err(format!("'{other}' is neither a manifest nor an index"));
    }
    own.or(sent.filter(known)).or(looks).map(str::to_owned).ok_or_else(|| "neither a manifest nor an index".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_told_by_what_they_say() {
        let [index, manifest, list, _] = MANIFESTS;
        let own = format!(r#"{{"schemaVersion":2,"mediaType":"{list}","manifests":[]}}"#);
        for (sent, text, expected) in [
            (Some(manifest), own.as_str(), list),
            (Some(manifest), r#"{"schemaVersion":2,"layers":[]}"#, manifest),
            (Some("text/plain"), r#"{"schemaVersion":2,"layers":[]}"#, manifest),
            (None, r#"{"schemaVersion":2,"manifests":[]}"#, index),
        ] {
            assert_eq!(kind_of(sent, text.as_bytes()).unwrap(), expected);
        }
        for (sent, text, reason) in [
            (Some("text/html"), "<html>", "no JSON (text/html): "),
            (Some(manifest), r#"{"schemaVersion":2,"lay"#, "no JSON: EOF"),
            (None, r#"{"schemaVersion":1,"fsLayers":[]}"#, "a manifest of Docker's first schema"),
            (None, r#"{"mediaType":"application/x","layers":[]}"#, "'application/x' is neither"),
            (None, "{}", "neither a manifest"),
        ] {
            let error = kind_of(sent, text.as_bytes()).unwrap_err();
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn what_registries_say_in_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-remaining", "76;w=21600".parse().unwrap());
        headers.insert("content-type", "Application/JSON; charset=utf-8".parse().unwrap());
        headers.insert("docker-content-digest", "sha512:00".parse().unwrap());
        let head = head_of(&headers);
        assert_eq!(
            (head.remaining, head.media_type.as_deref(), head.digest),
            (Some(76), Some("application/json"), None)
        );
    }
}
