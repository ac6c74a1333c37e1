//! Where an image is: `redis:8` is `docker.io/library/redis:8`.

use std::fmt;
use std::str::FromStr;

use crate::class::{Class, Classified};
use crate::oci::digest::{Digest, ParseDigestError};
use crate::oci::reference::{image_name, is_registry, is_repository, is_tag, split_registry};

/// Docker Hub, as people write it.
const HUB: &str = "docker.io";
/// Docker Hub, as its API is reached.
const HUB_API: &str = "registry-1.docker.io";
/// What else Docker Hub is called, in references and in credential files.
const HUB_ALIASES: [&str; 3] = [HUB, "index.docker.io", HUB_API];

/// An image in a registry. Its host and its repository are always those of the grammar that registries share, so that
/// they can be a part of a URL as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no [`Location`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// The host.
    #[error("'{text}': '{host}' is not a registry: expected HOST or HOST:PORT")]
    Host {
        /// What was given.
        text: String,
        /// Its host.
        host: String,
    },
    /// The repository.
    #[error(
        "'{text}': '{repository}' is not a repository: expected lower-case letters, digits and single '.', '_' or '-' between \
         them, in parts separated by '/'"
    )]
    Repository {
        /// What was given.
        text: String,
        /// Its repository.
        repository: String,
    },
    /// The tag.
    #[error(
        "'{text}': '{tag}' is not a tag: expected 1 to 128 letters, digits, '_', '.' or '-', and neither '.' nor '-' first"
    )]
    Tag {
        /// What was given.
        text: String,
        /// Its tag.
        tag: String,
    },
    #[error("'{text}': {source}")]
    Digest {
        /// What was given.
        text: String,
        /// What is wrong with its digest.
        source: ParseDigestError,
    },
}

impl Classified for LocationError {
    fn class(&self) -> Class {
        match self {
            Self::Host { .. } | Self::Repository { .. } | Self::Tag { .. } | Self::Digest { .. } => Class::Usage,
        }
    }
}

impl Location {
    /// A repository, with neither tag nor digest. Docker Hub may be given by any of its names; its images without a
    /// folder are in `library/`.
    ///
    /// # Errors
    /// If the host or the repository does not parse.
    pub fn new(host: &str, repository: &str) -> Result<Self, LocationError> {
        let text = || format!("{host}/{repository}");
        if !is_registry(host) {
            return Err(LocationError::Host { text: text(), host: host.to_owned() });
        }
        if repository.len() > 255 || !is_repository(repository) {
            return Err(LocationError::Repository { text: text(), repository: repository.to_owned() });
        }
        let host = familiar_host(host);
        let repository = match repository {
            name if host == HUB && !name.contains('/') => format!("library/{name}"),
            name => name.to_owned(),
        };
        Ok(Self { host, repository, tag: None, digest: None })
    }

    /// The same repository, with this tag and no digest.
    ///
    /// # Errors
    /// If it is not a tag.
    pub(crate) fn with_tag(&self, tag: &str) -> Result<Self, LocationError> {
        if !is_tag(tag) {
            return Err(LocationError::Tag { text: self.name(), tag: tag.to_owned() });
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same, by this digest.
    #[must_use]
    pub(crate) fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The registry as people write it, with its port: `docker.io`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host and port that requests go to: `registry-1.docker.io`.
    #[must_use]
    pub(crate) fn wire_host(&self) -> &str {
        if self.host == HUB { HUB_API } else { &self.host }
    }

    /// The repository in its registry: `library/redis`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one. It decides, whatever the tag says.
    #[must_use]
    pub(crate) const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask the registry for: the digest, or the tag, or `latest`.
    #[must_use]
    pub(crate) fn which(&self) -> String {
        self.digest.map_or_else(|| self.tag.clone().unwrap_or_else(|| "latest".to_owned()), |digest| digest.to_string())
    }

    /// Registry and repository: `docker.io/library/redis`.
    #[must_use]
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// Whether the registry is on this machine.
    #[must_use]
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Location {
    type Err = LocationError;

    /// Reads what `podman pull` takes; `docker://` may be before it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let full = text.strip_prefix("docker://").unwrap_or(text);
        let (name, tag) = image_name(full);
        let digest = full.split_once('@').map(|(_, digest)| digest.parse::<Digest>()).transpose();
        let digest = digest.map_err(|source| LocationError::Digest { text: text.to_owned(), source })?;
        let (host, repository) = split_registry(name);
        let told = |error| match error {
            LocationError::Host { host, .. } => LocationError::Host { text: text.to_owned(), host },
            LocationError::Repository { repository, .. } => {
                LocationError::Repository { text: text.to_owned(), repository }
            }
            LocationError::Tag { tag, .. } => LocationError::Tag { text: text.to_owned(), tag },
            other @ LocationError::Digest { .. } => other,
        };
        let location = Self::new(host.unwrap_or(HUB), repository).map_err(told)?;
        let location = tag.map_or_else(|| Ok(location.clone()), |tag| location.with_tag(tag)).map_err(told)?;
        Ok(Self { digest, ..location })
    }
}

/// The one name that a registry goes by, of any of its names.
pub(super) fn familiar_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if HUB_ALIASES.contains(&host.as_str()) { HUB.to_owned() } else { host }
}

/// Whether requests to `HOST[:PORT]` stay on this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn short_names_are_completed() {
        for (text, full) in [
            ("redis", "docker.io/library/redis"),
            ("redis:8", "docker.io/library/redis:8"),
            ("qdrant/qdrant:v1.16.2", "docker.io/qdrant/qdrant:v1.16.2"),
            ("index.docker.io/redis", "docker.io/library/redis"),
            ("docker://registry-1.docker.io/library/redis:8", "docker.io/library/redis:8"),
            ("GHCR.io/a/b:main", "ghcr.io/a/b:main"),
            ("localhost/a", "localhost/a"),
            ("127.0.0.1:5000/m/qdrant", "127.0.0.1:5000/m/qdrant"),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), full);
            assert_eq!(full.parse::<Location>().unwrap(), location);
        }
    }

    #[test]
    fn the_digest_decides_and_the_tag_is_kept() {
        let location: Location = format!("redis:8@{DIGEST}").parse().unwrap();
        assert_eq!((location.tag(), location.which().as_str()), (Some("8"), DIGEST));
        assert_eq!(location.to_string(), format!("docker.io/library/redis:8@{DIGEST}"));
        assert_eq!((location.host(), location.wire_host()), ("docker.io", "registry-1.docker.io"));
        let tagged = location.with_tag("9").unwrap();
        assert_eq!((tagged.which().as_str(), tagged.digest()), ("9", None));
        assert_eq!("a".parse::<Location>().unwrap().which(), "latest");
    }

    #[test]
    fn what_is_none_is_told() {
        for text in
            ["", "Redis", "a//b", "ex_am.ple/a", "a.b:99999/a", "a:b/c/d:", "a@sha256:00", "a:-b", "../a", "a b"]
        {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{text}': '")), "{error}");
        }
        assert!(matches!("a@sha512:00".parse::<Location>(), Err(LocationError::Digest { .. })));
    }

    #[test]
    fn loopback_is_this_machine_alone() {
        for (host, local) in [
            ("localhost:5000", true),
            ("127.1.2.3", true),
            ("127.0.0.1:80", true),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
        ] {
            assert_eq!(is_loopback(host), local, "{host}");
        }
    }
}
