//! What a registry has of an image: what was pushed as it was built, or what packing its layers made of it.

use serde_json::Value;

use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::image::summary::Summary;
use crate::oci::digest::Digest;
use crate::registry::client::{RawManifest, RegistryClient};
use crate::registry::error::RegistryError;
use crate::registry::location::Location;

/// Why nothing is stated of what a registry has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PublishedError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is another image.
    #[error("{at} is {found}, which is not {image}: its configs are others")]
    Other { at: String, found: Digest, image: String },
    /// It is not there.
    #[error("{at} is not there")]
    Missing {
        at: String,
        /// What pushes it.
        push: String,
    },
    /// A document that is not what it should be.
    #[error("{at}: {reason}")]
    Malformed { at: String, reason: String },
}

impl Classified for PublishedError {
    fn class(&self) -> Class {
        match self {
            Self::Registry(error) => error.class(),
            Self::Other { .. } | Self::Malformed { .. } => Class::Unverified,
            Self::Missing { .. } => Class::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { push, .. } => Some(format!("`{push}` pushes it")),
            Self::Registry(_) | Self::Other { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// A manifest or an index that is in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishedManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
}

impl From<&RawManifest> for PublishedManifest {
    fn from(raw: &RawManifest) -> Self {
        Self { digest: raw.digest, media_type: raw.media_type.clone(), size: raw.bytes.len() as u64 }
    }
}

/// What a reference names, and below an index the manifests of its platforms.
///
/// # Errors
/// If it is not there.
pub(crate) fn manifests(
    client: &RegistryClient,
    at: &Location,
    progress: &Progress,
) -> Result<Vec<PublishedManifest>, PublishedError> {
    Ok(look(client, at, progress)?.0)
}

/// The same of what was pushed of this image, as it was built or with packed layers. They are compared by their configs, which
/// packing does not change.
///
/// # Errors
/// If it is not there, or something else.
pub(crate) fn published(
    client: &RegistryClient,
    at: &Location,
    summary: &Summary,
    progress: &Progress,
) -> Result<Vec<PublishedManifest>, PublishedError> {
    let (found, configs) = look(client, at, progress)?;
    let built = |config: &Value| {
        let mut platforms = summary.platforms.iter();
        platforms.any(|platform| *config == platform.config_digest.to_string())
    };
    if configs.len() == summary.platforms.len() && configs.iter().all(built) {
        return Ok(found);
    }
    let (at, image) = (at.to_string(), summary.reference.to_string());
    Err(PublishedError::Other { at, found: found[0].digest, image })
}

/// The manifests, the one that is named first, and what they have for their configs.
fn look(
    client: &RegistryClient,
    at: &Location,
    progress: &Progress,
) -> Result<(Vec<PublishedManifest>, Vec<Value>), PublishedError> {
    let top = match client.manifest(at, &at.which(), progress) {
        Err(error) if error.is_gone() => {
            let push = format!("windlass push IMAGE docker://{at}");
            return Err(PublishedError::Missing { at: at.to_string(), push });
        }
        top => top?,
    };
    let read = |raw: &RawManifest| {
        serde_json::from_slice::<Value>(&raw.bytes).map_err(|error| PublishedError::Malformed {
            at: at.with_digest(raw.digest).to_string(),
            reason: error.to_string(),
        })
    };
    let json = read(&top)?;
    let mut found = vec![PublishedManifest::from(&top)];
    let mut configs = Vec::new();
    match json["manifests"].as_array() {
        None => configs.push(json["config"]["digest"].clone()),
        Some(entries) => {
            for digest in entries.iter().filter_map(|entry| entry["digest"].as_str()) {
                let child = client.manifest(at, digest, progress)?;
                configs.push(read(&child)?["config"]["digest"].clone());
                found.push(PublishedManifest::from(&child));
            }
        }
    }
    Ok((found, configs))
}
