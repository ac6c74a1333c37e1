//! Names of images: `localhost/redis:tag`.
//!
//! The grammar is that of the distribution project's `reference` package, which Podman, Docker and skopeo share. A name
//! without a registry gets `localhost/`: Podman would otherwise guess one, and look it up there.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::class::{Class, Classified};
use crate::names::Name;

/// A full image name and tag, `localhost/redis:1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    text: String,
    /// Where the tag's colon is.
    colon: usize,
}

/// The full name of an image without its tag, `localhost/redis`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Repository(String);

/// Why a text is not an image name or tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not a name.
    #[error(
        "'{0}' is not an image name: expected lower-case letters, digits and single '.', '_' or '-' between them, in parts separated by '/'"
    )]
    Name(String),
    /// Not a tag.
    #[error("'{0}' is not a tag: expected 1 to 128 letters, digits, '_', '.' or '-', and neither '.' nor '-' first")]
    Tag(String),
    /// A name without its registry, or without a tag.
    #[error("'{0}' is not the full name of an image: expected REGISTRY/NAME:TAG, like localhost/redis:1")]
    Full(String),
    /// A tag that says nothing about what it names.
    #[error("'{0}' is a floating tag: it names whatever was built last; leave the tag out, or give a version")]
    Floating(String),
}

impl Classified for ReferenceError {
    fn class(&self) -> Class {
        match self {
            Self::Name(_) | Self::Tag(_) | Self::Full(_) | Self::Floating(_) => Class::Failed,
        }
    }
}

/// Tags that are moved by everybody, so that they pin nothing.
const FLOATING: [&str; 8] = ["latest", "main", "master", "edge", "nightly", "dev", "stable", "rolling"];

impl Reference {
    /// Checks and completes a name and a tag.
    ///
    /// # Errors
    /// See [`ReferenceError`].
    pub fn new(name: &str, tag: &str) -> Result<Self, ReferenceError> {
        if FLOATING.contains(&tag) {
            return Err(ReferenceError::Floating(tag.to_owned()));
        }
        if !is_tag(tag) {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        let name = full_name(name)?;
        Ok(Self { text: format!("{name}:{tag}"), colon: name.len() })
    }

    /// The name with its registry, without the tag.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.text[..self.colon]
    }

    /// The name with its registry, without the tag.
    #[must_use]
    pub fn repository(&self) -> Repository {
        Repository(self.name().to_owned())
    }
}

impl Repository {
    /// What an image is called among the files of a stack: its name without the registry, `-` for `/`.
    ///
    /// # Panics
    /// Never: the parts of a repository's name are made of what a name is made of.
    #[must_use]
    pub fn file_name(&self) -> Name {
        Name::new(file_name(self)).expect("the alphabet of a repository is that of a name")
    }
}

/// A full name is read as it is: nothing is completed, and a floating tag was chosen earlier.
impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, tag) = image_name(text);
        let tag = tag.filter(|_| !text.contains('@')).ok_or_else(|| ReferenceError::Full(text.to_owned()))?;
        if !is_tag(tag) {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        let Repository(name) = name.parse()?;
        Ok(Self { text: text.to_owned(), colon: name.len() })
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if full_name(text)? == text { Ok(Self(text.to_owned())) } else { Err(ReferenceError::Full(text.to_owned())) }
    }
}

impl Deref for Reference {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Deref for Repository {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.text
    }
}

impl From<Repository> for String {
    fn from(repository: Repository) -> Self {
        repository.0
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl TryFrom<String> for Repository {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

/// The name with its registry: `redis` becomes `localhost/redis`, `example.com/redis` stays.
///
/// # Errors
/// If it is not an image name.
pub(crate) fn full_name(name: &str) -> Result<String, ReferenceError> {
    let bad = || ReferenceError::Name(name.to_owned());
    let (registry, path) = split_registry(name);
    let registry = registry.unwrap_or("localhost");
    if !is_registry(registry) || name.len() > 255 || !is_repository(path) {
        return Err(bad());
    }
    Ok(format!("{registry}/{path}"))
}

/// The registry that a name begins with, and the rest: what is before the first `/` is a registry if it is `localhost`
/// or has a `.` or a `:`.
#[must_use]
pub(crate) fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (Some(first), rest),
        _ => (None, name),
    }
}

/// Splits an image reference: its name, and its tag without the digest, `None` where a digest or nothing names it.
#[must_use]
pub(crate) fn image_name(image: &str) -> (&str, Option<&str>) {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}

/// Whether Podman can read this as the full name of an image: with its registry, and a tag, a digest or both.
#[must_use]
pub fn is_name(image: &str) -> bool {
    let (tagged, digest) = image.split_once('@').map_or((image, None), |(tagged, digest)| (tagged, Some(digest)));
    let (name, tag) = image_name(tagged);
    let is_digest = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    full_name(name).is_ok_and(|full| full == name)
        && (tag.is_some() || digest.is_some())
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest)
}

/// Whether a reference can name another image tomorrow: no digest, and a tag without a version.
#[must_use]
pub fn is_floating(image: &str) -> bool {
    let versioned = |tag: &str| tag.bytes().any(|byte| byte.is_ascii_digit());
    !image.contains("@sha256:") && !image_name(image).1.is_some_and(versioned)
}

/// Whether this is the host of a registry, with or without a port.
#[must_use]
pub fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.parse::<u16>().is_ok()
}

/// Whether this is the name of a repository, without its registry.
#[must_use]
pub fn is_repository(text: &str) -> bool {
    text.split('/').all(is_component)
}

/// Whether this is a tag.
#[must_use]
pub(crate) fn is_tag(text: &str) -> bool {
    let tag_char = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(tag_char) && !text.starts_with(['.', '-'])
}

/// What an image is called among the files of a stack: its name without the registry, `-` for `/`.
#[must_use]
pub(crate) fn file_name(full_name: &str) -> String {
    full_name.split_once('/').map_or(full_name, |(_, path)| path).replace('/', "-")
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().last().is_some_and(alphanumeric)
        && separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (name, full) in [
            ("redis", "localhost/redis"),
            ("ai/redis", "localhost/ai/redis"),
            ("localhost/redis", "localhost/redis"),
            ("example.com/a/b", "example.com/a/b"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a"),
            ("a__b--c.d_e", "localhost/a__b--c.d_e"),
        ] {
            assert_eq!(full_name(name).unwrap(), full);
        }
    }

    #[test]
    fn full_names_are_read_as_they_are_written() {
        for text in ["localhost/redis:1", "127.0.0.1:5000/a/b:latest", "example.com/a__b:X_y.z-1"] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((&*reference, reference.name()), (text, text.rsplit_once(':').unwrap().0));
            assert_eq!(serde_json::to_string(&reference).unwrap(), format!("{text:?}"));
        }
        for text in [
            "",
            "redis",
            "redis:1",
            "localhost/redis",
            "localhost/Redis:1",
            "localhost/redis:",
            "localhost/redis:1@sha256:00",
            "localhost/redis:$(id)",
            "localhost/../x:1",
            "localhost/a\nb:1",
            "localhost/a\0:1",
            "localhost/a\u{202e}b:1",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
            assert!(serde_json::from_value::<Reference>(text.into()).is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<Repository>("\"localhost/A\"").is_err());
    }

    #[test]
    fn references_are_split_and_floating_ones_found() {
        for (image, floats) in [
            ("a", true),
            ("a:latest", true),
            ("ghcr.io/x/y:server", true),
            ("host:5000/a", true),
            ("a:1.2", false),
            ("a:pg17", false),
            ("a@sha256:00", false),
            ("host:5000/a:v1", false),
        ] {
            assert_eq!(is_floating(image), floats, "{image}");
        }
        assert_eq!(image_name("host:5000/a"), ("host:5000/a", None));
        assert_eq!(image_name("a:1@sha256:00"), ("a", Some("1")));
    }

    #[test]
    fn what_is_no_name_or_tag_is_refused() {
        for name in
            ["", "Redis", "a b", "a//b", "-a", "a-", "a..b", "a___b", "é", "a/", "ex_am.ple/a", "h.st:99999/a", "../a"]
        {
            assert_eq!(full_name(name), Err(ReferenceError::Name(name.to_owned())), "{name}");
        }
        for tag in ["", ".a", "-a", "a:b", "a/b", &"a".repeat(129)] {
            assert!(matches!(Reference::new("a", tag), Err(ReferenceError::Tag(_))), "{tag}");
        }
        assert!(matches!(Reference::new("a", "latest"), Err(ReferenceError::Floating(_))));
    }
}
