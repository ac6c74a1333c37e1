//! Names of images: `localhost/redis:tag`.
//!
//! The grammar is that of the distribution project's `reference` package, which Podman, Docker and skopeo share. A name
//! without a registry gets `localhost/`: Podman would otherwise guess one, and look it up there.

use std::fmt;

/// A full image name and tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    name: String,
    tag: String,
}

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
    /// A tag that says nothing about what it names.
    #[error("'{0}' is a floating tag: it names whatever was built last; leave the tag out, or give a version")]
    Floating(String),
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
        Ok(Self { name: full_name(name)?, tag: tag.to_owned() })
    }

    /// The name with its registry, without the tag.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

/// The name with its registry: `redis` becomes `localhost/redis`, `example.com/redis` stays.
///
/// # Errors
/// If it is not an image name.
pub fn full_name(name: &str) -> Result<String, ReferenceError> {
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
pub fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (Some(first), rest),
        _ => (None, name),
    }
}

/// Splits an image reference: its name, and its tag without the digest, `None` where a digest or nothing names it.
#[must_use]
pub fn image_name(image: &str) -> (&str, Option<&str>) {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
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
pub fn is_tag(text: &str) -> bool {
    let tag_char = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(tag_char) && !text.starts_with(['.', '-'])
}

/// What an image is called among the files of a stack: its name without the registry, `-` for `/`.
#[must_use]
pub fn file_name(full_name: &str) -> String {
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
