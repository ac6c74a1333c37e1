//! What looks like a secret. Whatever is in an image can be read by all who have it, and what comes to the Nix store or a
//! linked store by everybody on the host; so it is told before it is there. A reason never has any part of the secret.
//!
//! One table, `patterns.json`, says what secrets look like: names of files and variables, first bytes, shapes of tokens. The
//! modules read it as well.
//!
//! Reproducibility: what is found depends on names, modes and bytes, and comes in the order of the layer.

mod allowed;
mod files;
pub(crate) mod harmless;
mod table;
pub(crate) mod values;

use std::path::PathBuf;

use serde::Serialize;

pub(crate) use self::allowed::{Allowed, Verdict};
pub(crate) use self::files::{FIRST, HEAD, SearchedFile};

/// Something that looks like a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
pub struct SecretFinding {
    /// Where it is, as `allowSecrets` has it: an absolute path in the image, or the name of a variable.
    pub place: String,
    /// The file of the host that it comes from; `None` for a variable, and for a text in the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<PathBuf>,
    /// Why, in words that go on from the place.
    pub reason: String,
}
