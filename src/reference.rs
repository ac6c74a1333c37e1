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
        let tag_char = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let fits = (1..=128).contains(&tag.len()) && tag.bytes().all(tag_char) && !tag.starts_with(['.', '-']);
        if !fits {
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
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (first, rest),
        _ => ("localhost", name),
    };
    let (host, port) = registry.split_once(':').unwrap_or((registry, "0"));
    let host_fits = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    if !host_fits || port.parse::<u16>().is_err() || name.len() > 255 || !path.split('/').all(is_component) {
        return Err(bad());
    }
    Ok(format!("{registry}/{path}"))
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
