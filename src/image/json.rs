//! The JSON files of image directories, read whole; the error names the key at fault.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::layout::{LayoutError, VERSION};
use crate::disk::bounded::{self, Cap};

pub(super) fn format_error(path: &Path, error: &dyn std::fmt::Display) -> LayoutError {
    LayoutError::Format { path: path.to_owned(), message: error.to_string() }
}

/// Reads a JSON file; the error names the key at fault.
///
/// # Errors
/// If it cannot be read, or is something else.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LayoutError> {
    parse_json(
        path,
        &bounded::read(path, Cap::Document).map_err(|source| LayoutError::Read { path: path.to_owned(), source })?,
    )
}

pub(super) fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, LayoutError> {
    // To know the key at every moment takes as long as the rest, and only an error needs it.
    serde_json::from_slice(bytes).or_else(|_| {
        let mut from = serde_json::Deserializer::from_slice(bytes);
        let parsed = serde_path_to_error::deserialize(&mut from).map_err(|error| format_error(path, &error))?;
        from.end().map(|()| parsed).map_err(|error| format_error(path, &error))
    })
}

/// Reads one of our own files with a version, which may have keys that this windlass does not know yet.
///
/// # Errors
/// If it cannot be read, is something else, or is of a version that changed the meaning of a key.
pub(crate) fn read_versioned<T: DeserializeOwned>(path: &Path) -> Result<T, LayoutError> {
    let bytes =
        bounded::read(path, Cap::Document).map_err(|source| LayoutError::Read { path: path.to_owned(), source })?;
    parse_versioned(path, &bytes)
}

/// The same of the bytes of a file; `path` is for messages.
///
/// # Errors
/// See [`read_versioned`].
pub(crate) fn parse_versioned<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, LayoutError> {
    #[derive(Deserialize)]
    struct VersionedFile {
        version: u32,
    }
    let VersionedFile { version } = parse_json(path, bytes)?;
    if version > VERSION {
        let message = format!("is of version {version}, and this windlass knows version {VERSION}; update windlass");
        return Err(LayoutError::Format { path: path.to_owned(), message });
    }
    parse_json(path, bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_key_at_fault_is_named_and_nothing_may_follow() {
        let parse = |text: &str| {
            let parsed = parse_json::<BTreeMap<String, BTreeMap<String, u32>>>(Path::new("file"), text.as_bytes());
            parsed.map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(parse("{\"a\": {\"b\": 1}}\n"), Ok(()));
        let wrong = "file: a.b: invalid type: string \"1\", expected u32 at line 1 column 15";
        assert_eq!(parse("{\"a\": {\"b\": \"1\"}}"), Err(wrong.to_owned()));
        assert_eq!(parse("{} {}"), Err("file: trailing characters at line 1 column 4".to_owned()));
    }
}
