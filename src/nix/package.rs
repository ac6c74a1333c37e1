//! What nixpkgs says of a package: what `nix/lib/packages.nix` reads from `meta` and `src` at evaluation, and no builder knows.
//!
//! Nothing in an image depends on it. What is not said is not known: nothing is guessed here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::nix::store_path::NarHash;

/// A package, with the store paths of its outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PackageRecord {
    /// Name without the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// The store path of each output.
    pub(crate) outputs: BTreeMap<String, String>,
    /// `meta.license`, in its order. nixpkgs does not say whether all of several hold, or one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) licences: Vec<PackageLicence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) homepage: Option<String>,
    /// The program that it is there for; a library has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) main_program: Option<String>,
    /// What it is built from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<PackageSource>,
    /// What nixpkgs changes in that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) patches: Vec<PackagePatch>,
    /// `meta.identifiers.cpe`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpe: Option<String>,
    /// `meta.identifiers.purl`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) purl: Option<String>,
}

/// A licence of nixpkgs' list.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PackageLicence {
    /// Its identifier in SPDX' list, for one that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) spdx: Option<String>,
    /// What it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// A source: a fixed-output derivation.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PackageSource {
    /// Where it may be had.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) urls: Vec<String>,
    /// `outputHash`, in any of Nix's forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hash_algo: Option<String>,
    /// `flat` for the hash of the file itself; otherwise it is that of a NAR of what was unpacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hash_mode: Option<String>,
}

/// A patch.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PackagePatch {
    pub(crate) name: String,
    /// Where it was fetched from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
}

impl PackageRecord {
    /// Without outputs that are not among these; `None` if none of them is.
    pub(crate) fn only(mut self, has: &dyn Fn(&str) -> bool) -> Option<Self> {
        self.outputs.retain(|_, path| has(path));
        (!self.outputs.is_empty()).then_some(self)
    }
}

impl PackageSource {
    /// The SHA-256 of the file itself in hex, if that is what the hash is.
    pub(crate) fn sha256(&self) -> Option<String> {
        let hash = self.hash.as_ref().filter(|_| self.hash_mode.as_deref().unwrap_or("flat") == "flat")?;
        let named = match self.hash_algo.as_deref() {
            Some("sha256") if !hash.starts_with("sha256") => format!("sha256:{hash}"),
            _ => hash.clone(),
        };
        let hash: NarHash = named.parse().ok()?;
        Some(hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl PackagePatch {
    /// The vulnerabilities that its name says it is for: `CVE-2024-1234.patch`.
    pub(crate) fn resolves(&self) -> Vec<String> {
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
        let name = self.name.to_ascii_uppercase();
        let mut found: Vec<String> = Vec::new();
        for (at, _) in name.match_indices("CVE-") {
            let year = &name[at + 4..];
            let Some(number) = year.get(4..).and_then(|rest| rest.strip_prefix(['-', '_'])) else { continue };
            let length = digits(number);
            let id = format!("CVE-{}-{}", &year[..4.min(year.len())], &number[..length]);
            if digits(year) == 4 && length >= 4 && !found.contains(&id) {
                found.push(id);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_files_are_told_from_those_of_trees() {
        const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let source = |hash: &str, algo: Option<&str>, mode: Option<&str>| PackageSource {
            hash: Some(hash.to_owned()),
            hash_algo: algo.map(str::to_owned),
            hash_mode: mode.map(str::to_owned),
            ..PackageSource::default()
        };
        let sri = "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        for hash in [
            source(sri, None, Some("flat")),
            source(HEX, Some("sha256"), None),
            source("1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s", Some("sha256"), Some("flat")),
        ] {
            assert_eq!(hash.sha256().as_deref(), Some(HEX), "{hash:?}");
        }
        for hash in [source(sri, None, Some("recursive")), source("sha512-x", None, None), source("", None, None)] {
            assert_eq!(hash.sha256(), None, "{hash:?}");
        }
    }

    #[test]
    fn names_of_patches_say_what_they_are_for() {
        let resolves = |name: &str| PackagePatch { name: name.to_owned(), url: None }.resolves();
        assert_eq!(resolves("cve-2024-12345_and_CVE-2023-0001.patch"), ["CVE-2024-12345", "CVE-2023-0001"]);
        for name in ["fix.patch", "CVE-", "CVE-2024", "CVE-20é4-1234", "CVE-2024-12", "CVE-x024-1234"] {
            assert_eq!(resolves(name), [""; 0], "{name}");
        }
    }
}
