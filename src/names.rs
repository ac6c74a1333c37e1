//! Names and places that come out of files: checked by their type when they are read.
//!
//! An image directory, a stack, a lock or a listing can come from a stranger. What they name ends up in paths, on command
//! lines, in units and on terminals, so a name is one word of a small alphabet, a place never leads out of its directory,
//! and a text for people has nothing that a terminal obeys. What is read into these types needs no second look.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::class::{Class, Classified};

/// Where a name was looked for, for [`no_such`].
pub(crate) const LOADED: &str = " among what is loaded";

/// What is said of a name that leads to nothing, wherever names are given: `there is no image 'app' among what is loaded; there
/// are: redis`. `place` says where it was looked for, with a blank before it.
pub(crate) fn no_such(
    what: &str,
    name: impl fmt::Display,
    place: &str,
    there: impl IntoIterator<Item: fmt::Display>,
) -> String {
    let there: Vec<String> = there.into_iter().map(|name| name.to_string()).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    format!("there is no {what} '{name}'{place}; there are: {there}")
}

/// Why a text is not the name or place that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a name.
    #[error("{0:?} is not a name: expected letters, digits, '_', '.' and '-', a letter or digit first, at most 255")]
    Name(String),
    /// Not a place in a directory.
    #[error("{0:?} is not a place in this directory: expected a relative path without '..' and control characters")]
    Path(String),
}

impl Classified for NameError {
    fn class(&self) -> Class {
        match self {
            Self::Name(_) | Self::Path(_) => Class::Failed,
        }
    }
}

/// The name of an image, a model, a container or a slot: a word of letters, digits, `_`, `.` and `-` that begins with a
/// letter or digit. It is one part of a path, and needs quotes nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// See [`NameError::Name`].
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if is_name(&text) && text.len() <= 255 { Ok(Self(text)) } else { Err(NameError::Name(text)) }
    }
}

/// A relative path that leads nowhere but into the directory that it is relative to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct RelativePath(PathBuf);

impl RelativePath {
    /// Checks a path.
    ///
    /// # Errors
    /// See [`NameError::Path`].
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, NameError> {
        let path = path.into();
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        let text = path.to_str().is_some_and(|text| !text.is_empty() && !text.contains(is_unprintable));
        if inside && text { Ok(Self(path)) } else { Err(NameError::Path(path.to_string_lossy().into_owned())) }
    }
}

/// Reads an absolute path without `..` and without a NUL, on the host or in an image. Files of a closure may have any other
/// name, so that nothing else is asked of it here.
///
/// # Errors
/// If it is another path.
pub(crate) fn place<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    let outside = !path.is_absolute() || path.components().any(|part| part == Component::ParentDir);
    if outside || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(de::Error::custom(format_args!("{path:?} is not an absolute path without '..'")));
    }
    Ok(path)
}

/// Reads what a symbolic link points to, which may be anything but nothing or a text with a NUL.
///
/// # Errors
/// If it is one of these.
pub(crate) fn link<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(de::Error::custom(format_args!("{path:?} is nothing that a link can point to")));
    }
    Ok(path)
}

/// The same as [`place`], where it may be absent.
///
/// # Errors
/// If it is another path.
pub(crate) fn maybe_place<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    #[derive(Deserialize, schemars::JsonSchema)]
    struct PlaceText(#[serde(deserialize_with = "place")] PathBuf);
    Ok(Option::<PlaceText>::deserialize(from)?.map(|PlaceText(path)| path))
}

/// Bytes that no file of an image or of a model has: 16 TiB. Below it, the sizes that a file lists can be summed.
const MOST_BYTES: u64 = 1 << 44;

/// Reads the size of a layer, a file, or all of an image.
///
/// # Errors
/// If it is 16 TiB or more.
pub(crate) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(from)?;
    if size >= MOST_BYTES {
        return Err(de::Error::custom(format_args!("{size} is not a size: expected less than {MOST_BYTES} bytes")));
    }
    Ok(size)
}

/// What Podman takes as the name of a container or of a volume.
#[must_use]
pub(crate) fn is_name(text: &str) -> bool {
    text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Whether a terminal, a unit file or a person could take this character for something else than text: control
/// characters, line separators, and the marks that change the direction of writing.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<String> for Name {
    fn eq(&self, other: &String) -> bool {
        self.0 == *other
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl Deref for RelativePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for RelativePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl From<RelativePath> for PathBuf {
    fn from(path: RelativePath) -> Self {
        path.0
    }
}

impl TryFrom<PathBuf> for RelativePath {
    type Error = NameError;

    fn try_from(path: PathBuf) -> Result<Self, NameError> {
        Self::new(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word() {
        for name in ["redis", "smollm2-q8_0", "a.b", "0"] {
            assert_eq!(&*Name::new(name).unwrap(), name);
        }
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-a",
            ".a",
            "a b",
            "a\n",
            "a\0",
            "$(id)",
            "é",
            "a\u{202e}b",
            &"a".repeat(256),
        ] {
            assert_eq!(Name::new(name), Err(NameError::Name(name.to_owned())), "{name:?}");
        }
    }

    #[test]
    fn a_size_can_be_summed() {
        let read = |text: &str| size(&mut serde_json::Deserializer::from_str(text)).map_err(|error| error.to_string());
        assert_eq!(read("17592186044415"), Ok(MOST_BYTES - 1));
        assert_eq!(
            read("17592186044416"),
            Err("17592186044416 is not a size: expected less than 17592186044416 bytes".to_owned())
        );
        assert!(read("-1").is_err());
    }

    #[test]
    fn a_place_does_not_lead_out() {
        for place in ["a", "images/redis", "models/a b.tar", "é"] {
            assert_eq!(&*RelativePath::new(place).unwrap(), Path::new(place));
        }
        for place in ["", "/a", "..", "a/../b", "./a", "a\nb", "a\0", "a\u{202e}b", "\u{1b}[2J"] {
            assert_eq!(RelativePath::new(place), Err(NameError::Path(place.to_owned())), "{place:?}");
        }
        let error: Result<RelativePath, _> = serde_json::from_str("\"../x\"");
        assert!(error.unwrap_err().to_string().contains("\"../x\" is not a place"), "the reader checks it");
    }
}
