//! The images that a build begins with, as digests: so that a key means the same everywhere, and a build takes no other image.
//!
//! The first that says it counts: the Containerfile itself (`NAME@sha256:…`), `images.lock.json`, the image that Podman has under
//! that name, and, where Podman has none, the last entry: after a clone no user needs to fetch what an image was built upon.

use std::collections::BTreeMap;
use std::path::Path;

use super::CacheError;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::podman::storage::records::StoredImage;
use crate::podman::storage::snapshot::StoreSnapshot;
use crate::registry::location::Location;
use crate::upstream::file;
use crate::upstream::lock::UpstreamLock;

/// Who says what a base image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BaseSource {
    /// The Containerfile.
    Containerfile,
    /// `images.lock.json`.
    Lock,
    /// Podman.
    Podman,
    /// An entry.
    Entry,
    /// Not known.
    Unknown,
}

/// A base image.
#[derive(Debug, Clone)]
pub(crate) struct BaseImage {
    /// As the Containerfile names it.
    pub(crate) name: String,
    /// That of its manifest or index; where only Podman says it, of its config, which is the same however it was fetched.
    pub(crate) digest: Option<Digest>,
    pub(crate) source: BaseSource,
    /// Podman's ID of the image with this digest, if it has one.
    pub(crate) id: Option<String>,
}

impl BaseImage {
    /// The command that brings it.
    pub(crate) fn pull(&self) -> String {
        let by_digest = || {
            let location: Location = self.name.parse().ok()?;
            let is_manifest = matches!(self.source, BaseSource::Containerfile | BaseSource::Lock);
            let digest = self.digest.filter(|_| is_manifest)?;
            Some(format!("{}@{digest}", location.name()))
        };
        format!("podman pull {}", by_digest().unwrap_or_else(|| self.name.clone()))
    }
}

/// Who can say what base images are.
#[derive(Debug)]
pub(crate) struct BaseSources<'a> {
    pub(crate) lock: Option<&'a UpstreamLock>,
    pub(crate) snapshot: &'a StoreSnapshot,
    /// Those of the last entry.
    pub(crate) recorded: BTreeMap<String, Digest>,
    pub(crate) platform: Platform,
}

/// The lock of a project, if it has one.
pub(crate) fn lock_of(root: &Path) -> Result<Option<UpstreamLock>, CacheError> {
    let path = root.join("images.lock.json");
    if path.exists() { Ok(Some(file::read(&path)?)) } else { Ok(None) }
}

impl BaseSources<'_> {
    /// What an image is.
    pub(crate) fn find(&self, name: &str) -> BaseImage {
        let base = |digest, source, id| BaseImage { name: name.to_owned(), digest, source, id };
        let with = |digest: Digest| {
            let mut all = self.snapshot.stores.iter().flat_map(|store| &store.images);
            let ends = format!("@{digest}");
            let is_it = |image: &&StoredImage| {
                image.has(digest) || image.names.iter().any(|name| name.ends_with(&ends)) || image.id == digest.hex()
            };
            all.find(is_it).map(|image| image.id.clone())
        };
        let location: Option<Location> = name.parse().ok();
        if let Some(digest) = location.as_ref().and_then(Location::digest) {
            return base(Some(digest), BaseSource::Containerfile, with(digest));
        }
        let locked = self.lock.into_iter().flat_map(|lock| lock.images.values());
        let mut locked = locked.filter(|image| image.location().ok().as_ref() == location.as_ref());
        if let Some(locked) = locked.find_map(|image| image.locked.as_ref()) {
            let platform = locked.platforms.get(&self.platform);
            let id = with(locked.root.digest)
                .or_else(|| with(platform?.manifest.digest))
                .or_else(|| with(platform?.config.digest));
            return base(Some(locked.root.digest), BaseSource::Lock, id);
        }
        if let Some(image) = self.called(name) {
            return base(Digest::from_hex(&image.id).ok(), BaseSource::Podman, Some(image.id.clone()));
        }
        match self.recorded.get(name) {
            Some(digest) => base(Some(*digest), BaseSource::Entry, with(*digest)),
            None => base(None, BaseSource::Unknown, None),
        }
    }

    /// The image that Podman takes for a name; a short one is looked for below `localhost/` first.
    fn called(&self, name: &str) -> Option<&StoredImage> {
        let tagged = if name.rsplit('/').next()?.contains(':') { name.to_owned() } else { format!("{name}:latest") };
        let full = name.parse::<Location>().ok().map(|location| format!("{}:{}", location.name(), location.which()));
        let names = [Some(tagged.clone()), Some(format!("localhost/{tagged}")), full];
        let by_name = names.into_iter().flatten().find_map(|name| Some(self.snapshot.called(&name)?.1));
        let is_id = || {
            let mut all = self.snapshot.stores.iter().flat_map(|store| &store.images);
            all.find(|image| name.len() >= 12 && image.id.starts_with(name.trim_start_matches("sha256:")))
        };
        by_name.or_else(is_id)
    }
}
