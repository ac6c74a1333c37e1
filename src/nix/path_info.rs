//! What Nix says of a store path, in all the dialects in which it says it.
//!
//! There are four: the `closure` array that `exportReferencesGraph` gives a builder with structured attributes, the
//! array of `nix path-info --json --recursive` up to Nix 2.18, the object keyed by path since then, and the newest, where
//! paths have lost their store directory. They are Nix's formats and grow, so unknown keys are ignored; but a key that is
//! needed and missing or ill-typed is an error with the path's name in it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::class::{Class, Classified};
use crate::nix::store_path::{NarHash, ParseNarHashError, StoreDir, StorePath, StorePathError};

/// What Nix records about one store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path itself.
    pub path: StorePath,
    /// The hash of its NAR.
    pub nar_hash: NarHash,
    /// The length of its NAR in bytes.
    pub nar_size: u64,
    /// The *other* paths it refers to.
    pub references: BTreeSet<StorePath>,
    /// Whether it refers to itself, as most packages do.
    pub self_reference: bool,
}

/// Why something is not what Nix says of store paths.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PathInfoError {
    /// Not JSON at all.
    #[error("the closure is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A needed key is not there.
    #[error("the closure says nothing of '{key}' for {at}")]
    Missing {
        /// The path, or the number of the entry.
        at: String,
        key: &'static str,
    },
    /// A value of the wrong type.
    #[error("{at}: expected {expected}, found {found}")]
    Type {
        /// The path (or the number of the entry) and the key.
        at: String,
        /// What is accepted.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A text that is not a store path.
    #[error("{at}: {source}")]
    Path {
        /// The path (or the number of the entry) and the key.
        at: String,
        /// What is wrong with it.
        source: StorePathError,
    },
    /// A text that is not a hash.
    #[error("{at}: {source}")]
    Hash {
        /// The path and the key.
        at: String,
        /// What is wrong with it.
        source: ParseNarHashError,
    },
    /// Nix says that the path is not in its store.
    #[error("{0} is not valid: build or fetch it before asking for its closure")]
    Invalid(StorePath),
}

impl Classified for PathInfoError {
    fn class(&self) -> Class {
        match self {
            Self::Json(error) => error.class(),
            Self::Path { source, .. } => source.class(),
            Self::Hash { source, .. } => source.class(),
            Self::Missing { .. } | Self::Type { .. } | Self::Invalid(_) => Class::Failed,
        }
    }
}

impl PathInfo {
    /// Reads any of Nix's formats.
    ///
    /// # Errors
    /// If the value is in none of these dialects.
    pub(crate) fn read_all(store: &StoreDir, value: &Value) -> Result<Vec<Self>, PathInfoError> {
        let read = |path: &str, at: &str, value: &Value| {
            let path = store_path(store, path).map_err(|source| PathInfoError::Path { at: at.to_owned(), source })?;
            path_info(store, path, value)
        };
        let infos: Vec<Self> = match value {
            Value::Array(entries) => entries
                .iter()
                .enumerate()
                .map(|(n, entry)| {
                    let at = format!("entry {}", n + 1);
                    let path = text(&at, "path", key(&at, "path", object(&at, entry)?)?)?;
                    read(path, &format!("{at}, 'path'"), entry)
                })
                .collect::<Result<_, _>>()?,
            Value::Object(fields) => {
                let infos = fields.get("info").map_or(Ok(fields), |infos| object("'info'", infos))?;
                infos.iter().map(|(path, value)| read(path, "a key", value)).collect::<Result<_, _>>()?
            }
            _ => return Err(ill_typed("the closure", "an array, or an object with a key for each store path", value)),
        };
        Ok(infos)
    }
}

fn path_info(store: &StoreDir, path: StorePath, value: &Value) -> Result<PathInfo, PathInfoError> {
    let name = path.base_name();
    if value.is_null() || value.get("valid") == Some(&Value::Bool(false)) {
        return Err(PathInfoError::Invalid(path));
    }
    let fields = object(name, value)?;
    if let Some(dir) = fields.get("storeDir")
        && dir.as_str() != Some(store.as_str())
    {
        return Err(ill_typed(&format!("{name}, 'storeDir'"), "the store of the other paths", dir));
    }
    let at = |key: &str| format!("{name}, '{key}'");
    let size = key(name, "narSize", fields)?;
    let nar_size = size.as_u64().ok_or_else(|| ill_typed(&at("narSize"), "a number of bytes", size))?;
    let nar_hash = nar_hash(name, key(name, "narHash", fields)?)?;
    let listed = key(name, "references", fields)?;
    let listed = listed.as_array().ok_or_else(|| ill_typed(&at("references"), "an array of store paths", listed))?;
    let mut references = BTreeSet::new();
    for reference in listed {
        let reference = text(name, "references", reference)?;
        let source = |source| PathInfoError::Path { at: at("references"), source };
        references.insert(store_path(store, reference).map_err(source)?);
    }
    let self_reference = references.remove(&path);
    Ok(PathInfo { path, nar_hash, nar_size, references, self_reference })
}

/// With the store directory, or, as Nix writes it since 2.33, without.
fn store_path(store: &StoreDir, text: &str) -> Result<StorePath, StorePathError> {
    if text.contains('/') { store.parse(text) } else { StorePath::from_base_name(text) }
}

/// A text, or, in one release of Nix, `{"algorithm": …, "format": …, "hash": …}`.
fn nar_hash(at: &str, value: &Value) -> Result<NarHash, PathInfoError> {
    let joined = match value {
        Value::Object(fields) => {
            let field = |name| text(at, "narHash", key(at, name, fields)?);
            let separator = if field("format")? == "base64" { '-' } else { ':' };
            format!("{}{separator}{}", field("algorithm")?, field("hash")?)
        }
        _ => text(at, "narHash", value)?.to_owned(),
    };
    joined.parse().map_err(|source| PathInfoError::Hash { at: format!("{at}, 'narHash'"), source })
}

fn object<'a>(at: &str, value: &'a Value) -> Result<&'a Map<String, Value>, PathInfoError> {
    value.as_object().ok_or_else(|| ill_typed(at, "an object", value))
}

fn key<'a>(at: &str, key: &'static str, fields: &'a Map<String, Value>) -> Result<&'a Value, PathInfoError> {
    fields.get(key).ok_or_else(|| PathInfoError::Missing { at: at.to_owned(), key })
}

fn text<'a>(at: &str, key: &str, value: &'a Value) -> Result<&'a str, PathInfoError> {
    value.as_str().ok_or_else(|| ill_typed(&format!("{at}, '{key}'"), "a text", value))
}

fn ill_typed(at: &str, expected: &'static str, found: &Value) -> PathInfoError {
    let found = match found {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        plain => plain.to_string(),
    };
    PathInfoError::Type { at: at.to_owned(), expected, found }
}
