//! What an image is built from, and the digest of that: the key.
//!
//! Reproducibility: the key is the SHA-256 of the canonical JSON of [`BuildInputs`]. What `RUN` and `ADD` fetch is no part of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::context::ContextFile;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// Everything that a key covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BuildInputs {
    /// The version of this format.
    pub(crate) version: u32,
    /// The bytes of the Containerfile.
    pub(crate) containerfile: Digest,
    pub(crate) target: Option<String>,
    pub(crate) platform: Platform,
    /// Name and tag of what is built.
    pub(crate) image: Reference,
    pub(crate) timestamp: u64,
    pub(crate) arguments: BTreeMap<String, String>,
    /// Base images by the names that the Containerfile has for them.
    pub(crate) bases: BTreeMap<String, Digest>,
    /// Other contexts by name.
    pub(crate) contexts: BTreeMap<String, Digest>,
    /// The IDs of secrets, without their values.
    pub(crate) secrets: BTreeSet<String>,
    /// The files that the build can see.
    pub(crate) context: BTreeMap<String, ContextFile>,
}

/// The version of [`BuildInputs`].
pub(crate) const VERSION: u32 = 1;

impl BuildInputs {
    /// The key.
    pub(crate) fn key(&self) -> Digest {
        Digest::of(&canonical::to_bytes(self))
    }
}

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InputChange {
    /// `file`, `base`, `argument`, `context`, `secret`, `containerfile`, `target`, `platform`, `image`, `timestamp` or `format`.
    pub(crate) what: &'static str,
    /// Which, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// `added`, `removed` or `changed`.
    pub(crate) how: &'static str,
}

impl std::fmt::Display for InputChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, name, how } = self;
        let what = match *what {
            "base" => "base image",
            "containerfile" => "Containerfile",
            what => what,
        };
        match name {
            Some(name) => write!(f, "{how}: {what} {name}"),
            None => write!(f, "{how}: {what}"),
        }
    }
}

/// What is not as it was; nothing if both have the same key.
pub(crate) fn changes(old: &BuildInputs, new: &BuildInputs) -> Vec<InputChange> {
    let mut found = Vec::new();
    let one = |what, same: bool| (!same).then_some(InputChange { what, name: None, how: "changed" });
    found.extend(one("format", old.version == new.version));
    found.extend(one("containerfile", old.containerfile == new.containerfile));
    found.extend(one("target", old.target == new.target));
    found.extend(one("platform", old.platform == new.platform));
    found.extend(one("image", old.image == new.image));
    found.extend(one("timestamp", old.timestamp == new.timestamp));
    compare("base", &old.bases, &new.bases, &mut found);
    compare("argument", &old.arguments, &new.arguments, &mut found);
    compare("context", &old.contexts, &new.contexts, &mut found);
    let as_map = |set: &BTreeSet<String>| set.iter().map(|name| (name.clone(), ())).collect::<BTreeMap<_, _>>();
    compare("secret", &as_map(&old.secrets), &as_map(&new.secrets), &mut found);
    compare("file", &old.context, &new.context, &mut found);
    found
}

fn compare<V: PartialEq>(
    what: &'static str,
    old: &BTreeMap<String, V>,
    new: &BTreeMap<String, V>,
    found: &mut Vec<InputChange>,
) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let how = match (old.get(name), new.get(name)) {
            (None, _) => "added",
            (_, None) => "removed",
            (Some(old), Some(new)) if old == new => continue,
            _ => "changed",
        };
        found.push(InputChange { what, name: Some(name.clone()), how });
    }
}
