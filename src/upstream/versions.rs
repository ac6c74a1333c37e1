//! `container-versions.json`: the list of mirrored images that scripts keep, read into a lock and written from one.
//!
//! It knows digests and no bytes, so what is read is *pending*, until `update` looks it up. What it says of past looks and
//! of the mirror goes to the state, and comes back out of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::check::Status;
use super::lock::{LockedImage, UpstreamLock};
use super::proof::is_name;
use super::state::{ImageState, UpstreamState};
use crate::class::{Class, Classified};
use crate::disk::lock_file::to_text;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::registry::location::{Location, LocationError};

/// Why a list was not imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VersionsError {
    /// Not such a list.
    #[error("is not a list of container versions: {0}")]
    Format(String),
    /// A name that a lock cannot have.
    #[error("image '{0}': is not a name: expected letters, digits, '.', '_', ':' or '-', and a letter or digit first")]
    Name(String),
    /// A reference.
    #[error("image '{name}': {source}")]
    Reference { name: String, source: LocationError },
    /// The registry of the mirrors.
    #[error("registry: {0}")]
    Registry(LocationError),
    /// An image that the lock has, from elsewhere.
    #[error("image '{name}': the lock has it as {known}, and not as {found}; remove it there, or rename it here")]
    Other {
        name: String,
        /// What the lock has.
        known: String,
        /// What the list has.
        found: String,
    },
}

impl Classified for VersionsError {
    fn class(&self) -> Class {
        match self {
            Self::Format(_) | Self::Name(_) | Self::Reference { .. } | Self::Registry(_) | Self::Other { .. } => {
                Class::Usage
            }
        }
    }
}

/// The whole list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Versions {
    /// The registry, and the folder in it, where the mirrors are.
    pub(crate) registry: Option<String>,
    /// When anything was looked up last.
    #[serde(default)]
    pub(crate) last_check: Option<Timestamp>,
    /// The images by name and tag.
    pub(crate) images: BTreeMap<String, Version>,
}

/// One image of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Version {
    pub(crate) upstream: String,
    /// What upstream had at the last look.
    pub(crate) upstream_digest: Option<Digest>,
    /// What the mirror has.
    pub(crate) local_digest: Option<Digest>,
    /// When the mirror got it.
    pub(crate) synced_at: Option<Timestamp>,
    /// How they compare.
    pub(crate) status: VersionStatus,
}

/// How an image stands, in the words of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VersionStatus {
    /// The mirror has what upstream has.
    Synced,
    /// The mirror has nothing.
    Pending,
    /// Upstream has something newer.
    Outdated,
    /// The mirror has lost it.
    Missing,
    /// A tag with a version names something else.
    Moved,
    /// Upstream does not have it any more.
    Gone,
    /// The last look-up failed.
    Unknown,
}

/// Reads a list.
///
/// # Errors
/// With the key that is wrong.
pub fn parse(text: &str) -> Result<Versions, VersionsError> {
    let mut from = serde_json::Deserializer::from_str(text);
    let versions =
        serde_path_to_error::deserialize(&mut from).map_err(|error| VersionsError::Format(error.to_string()))?;
    from.end().map_err(|error| VersionsError::Format(error.to_string()))?;
    Ok(versions)
}

impl Versions {
    /// The bytes of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        to_text(self)
    }
}

/// An image that is to be in a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedImage {
    /// Its name there.
    pub(crate) name: String,
    /// Its reference.
    pub(crate) reference: String,
    /// Its mirror.
    pub(crate) mirror: Option<String>,
}

/// The images of a list.
///
/// # Errors
/// If it is not a registry.
pub fn wanted(versions: &Versions) -> Result<Vec<WantedImage>, VersionsError> {
    let registry = versions.registry.as_deref().filter(|registry| !registry.is_empty());
    let mirror = |name: &str| {
        let mirror = |registry: &str| format!("{registry}/{}", repository(name)).parse::<Location>();
        registry.map(mirror).transpose().map_err(VersionsError::Registry)
    };
    let wanted = |(name, version): (&String, &Version)| {
        let mirror = mirror(name)?.map(|mirror| format!("docker://{}", mirror.name()));
        Ok(WantedImage { name: name.clone(), reference: version.upstream.clone(), mirror })
    };
    versions.images.iter().map(wanted).collect()
}

/// What an image is called in its mirror: its name without the tag.
fn repository(name: &str) -> &str {
    name.split_once(':').map_or(name, |(repository, _)| repository)
}

/// Adds images to a lock, not yet looked up. What the lock has already stays as it is. `insecure` says that registries on this
/// machine speak plain HTTP. The names that are new.
///
/// # Errors
/// If the lock has another image of a name; it may then be changed, and is not to be written.
pub fn add(
    lock: &mut UpstreamLock,
    wanted: &[WantedImage],
    platforms: &[Platform],
    insecure: bool,
) -> Result<Vec<String>, VersionsError> {
    let mut added = Vec::new();
    for WantedImage { name, reference, mirror } in wanted {
        if !is_name(name) {
            return Err(VersionsError::Name(name.clone()));
        }
        let location = full(reference).map_err(|source| VersionsError::Reference { name: name.clone(), source })?;
        if let Some(known) = lock.images.get(name) {
            let (known, found) = (known.original.reference.clone(), location.to_string());
            if known != found {
                return Err(VersionsError::Other { name: name.clone(), known, found });
            }
            continue;
        }
        let insecure = insecure && location.is_loopback();
        let image =
            LockedImage { mirror: mirror.clone(), insecure, ..LockedImage::pending(&location, platforms.to_vec()) };
        lock.images.insert(name.clone(), image);
        added.push(name.clone());
    }
    Ok(added)
}

/// A reference with its tag, which is `latest` where none is given.
///
/// # Errors
/// If it is not such a list.
pub(crate) fn full(reference: &str) -> Result<Location, LocationError> {
    let location: Location = reference.parse()?;
    match (location.tag(), location.digest()) {
        (None, None) => location.with_tag("latest"),
        _ => Ok(location),
    }
}

/// Takes down what a list says of the past.
pub(crate) fn remember(state: &mut UpstreamState, versions: &Versions) {
    for (name, version) in &versions.images {
        let image = state.images.entry(name.clone()).or_default();
        image.seen = image.seen.or(version.upstream_digest);
        image.local_digest = image.local_digest.or(version.local_digest);
        image.synced_at = image.synced_at.or(version.synced_at);
    }
    state.last_check = state.last_check.max(versions.last_check);
}

/// The list of a lock. `registry` is where the mirrors are, if they do not say it.
#[must_use]
pub fn export(lock: &UpstreamLock, state: &UpstreamState, registry: Option<&str>) -> Versions {
    let images = lock.images.iter().map(|(name, image)| {
        let known = state.images.get(name).cloned().unwrap_or_default();
        (name.clone(), version(image, &known))
    });
    let registry = registry.map(str::to_owned).or_else(|| common_registry(lock));
    Versions { registry, last_check: state.last_check, images: images.collect() }
}

fn version(image: &LockedImage, known: &ImageState) -> Version {
    let upstream_digest = known.seen.or(image.root());
    let status = match (known.status, upstream_digest, known.local_digest) {
        // What was found missing since stays so until it is looked up again.
        (Some(Status::Gone), ..) => VersionStatus::Gone,
        (Some(Status::Unknown), ..) => VersionStatus::Unknown,
        (Some(Status::Moved), seen, _) if seen != image.root() => VersionStatus::Moved,
        (_, None, _) | (_, _, None) => VersionStatus::Pending,
        (_, seen, local) if seen == local => VersionStatus::Synced,
        _ => VersionStatus::Outdated,
    };
    let upstream = image.original.reference.clone();
    Version { upstream, upstream_digest, local_digest: known.local_digest, synced_at: known.synced_at, status }
}

/// The registry that all mirrors are in, each under its image's name.
fn common_registry(lock: &UpstreamLock) -> Option<String> {
    let mut registries = lock.images.iter().filter_map(|(name, image)| {
        let mirror = image.mirror.as_deref()?.strip_prefix("docker://")?;
        mirror.strip_suffix(repository(name))?.strip_suffix('/')
    });
    let first = registries.next()?;
    registries.all(|registry| registry == first).then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = r#"{
      "registry": "ghcr.io/someone/ollama-rtx-setup",
      "last_check": "2025-12-26T13:54:37Z",
      "images": {
        "open-webui:cuda": {
          "upstream": "ghcr.io/open-webui/open-webui:cuda",
          "upstream_digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
          "local_digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
          "synced_at": "2025-12-26T13:54:42Z",
          "status": "synced"
        },
        "my-new-image:tag": {
          "upstream": "docker.io/someorg/image:tag",
          "upstream_digest": null,
          "local_digest": null,
          "synced_at": null,
          "status": "pending"
        }
      }
    }"#;

    #[test]
    fn what_was_imported_is_exported() {
        let versions = parse(SEED).unwrap();
        let (mut lock, mut state) = (UpstreamLock::default(), UpstreamState::default());
        let added = add(&mut lock, &wanted(&versions).unwrap(), &[Platform::default()], false).unwrap();
        remember(&mut state, &versions);
        assert_eq!(added, ["my-new-image:tag", "open-webui:cuda"]);
        let image = &lock.images["open-webui:cuda"];
        assert_eq!(image.mirror.as_deref(), Some("docker://ghcr.io/someone/ollama-rtx-setup/open-webui"));
        assert!(image.floating && !image.is_pinned());
        assert_eq!(export(&lock, &state, None), versions);
        assert_eq!(parse(&export(&lock, &state, None).to_text()).unwrap(), versions);
        // A second time nothing is new, and another image of the same name is told.
        assert!(add(&mut lock, &wanted(&versions).unwrap(), &[], false).unwrap().is_empty());
        let other = WantedImage { reference: "redis".to_owned(), ..wanted(&versions).unwrap().remove(0) };
        assert!(matches!(add(&mut lock, &[other], &[], false), Err(VersionsError::Other { .. })));
    }

    #[test]
    fn a_failed_look_up_is_never_synced() {
        let versions = parse(SEED).unwrap();
        let (mut lock, mut state) = (UpstreamLock::default(), UpstreamState::default());
        add(&mut lock, &wanted(&versions).unwrap(), &[Platform::default()], false).unwrap();
        remember(&mut state, &versions);
        let name = "open-webui:cuda";
        for (status, seen, word) in [
            (Status::Unknown, None, VersionStatus::Unknown),
            (Status::Gone, None, VersionStatus::Gone),
            (Status::Moved, Some(Digest::of(b"new")), VersionStatus::Moved),
            (Status::Update, Some(Digest::of(b"new")), VersionStatus::Outdated),
        ] {
            let mut state = state.clone();
            let image = state.images.get_mut(name).unwrap();
            (image.status, image.seen) = (Some(status), seen.or(image.seen));
            assert_eq!(export(&lock, &state, None).images[name].status, word);
        }
    }

    #[test]
    fn what_is_no_list_is_told_with_its_key() {
        for (text, word) in [
            ("[]", "not a list"),
            (&SEED.replace("\"synced\"", "\"fine\""), "status"),
            (&SEED.replace("\"sha256:aaa", "\"sha256:..."), "upstream_digest"),
            (&SEED.replace("T13:54:42Z", ""), "synced_at"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let mut lock = UpstreamLock::default();
        let bad = |name: &str, reference: &str| WantedImage {
            name: name.to_owned(),
            reference: reference.to_owned(),
            mirror: None,
        };
        assert!(matches!(add(&mut lock, &[bad("a/b", "redis")], &[], false), Err(VersionsError::Name(_))));
        assert!(matches!(add(&mut lock, &[bad("a", "Redis")], &[], false), Err(VersionsError::Reference { .. })));
    }
}
