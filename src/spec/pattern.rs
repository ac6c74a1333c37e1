//! Regular expressions over the names of store paths.

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

use crate::layer::compile;
use crate::nix::store_path::StorePath;

/// A regular expression, searched for in the names of store paths: what comes after the hash.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct StorePattern(Regex);

impl TryFrom<String> for StorePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        compile(&text).map(Self).map_err(|message| format!("'{text}' is not a regular expression: {message}"))
    }
}

impl From<StorePattern> for String {
    fn from(pattern: StorePattern) -> Self {
        pattern.to_string()
    }
}

impl std::fmt::Display for StorePattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}

impl StorePattern {
    /// Whether it fits the name of this store path.
    #[must_use]
    pub(crate) fn fits(&self, path: &StorePath) -> bool {
        self.0.is_match(path.name().as_bytes())
    }
}
