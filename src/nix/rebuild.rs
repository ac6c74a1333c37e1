//! A store path built again, from the derivation that made it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::store::{NixError, NixPlaces, derivers, invalid, run};

/// What came of building a store path again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RebuiltPath {
    /// The derivation that it was built from.
    pub(crate) derivation: PathBuf,
    /// What was built, where it is not the same: Nix keeps it beside the store path until its next garbage collection.
    pub(crate) other: Option<PathBuf>,
}

/// Has Nix build a store path again and compare. `None` where Nix does not know its derivation, or no longer has it.
///
/// # Errors
/// If Nix cannot build it.
pub(crate) fn rebuild(nix: &NixPlaces, path: &Path) -> Result<Option<RebuiltPath>, NixError> {
    let known = derivers(nix, &BTreeSet::from([path.to_owned()]));
    let Some(derivation) = known.into_values().next() else { return Ok(None) };
    let all = std::slice::from_ref(&derivation);
    if !invalid(all)?.is_empty() {
        return Ok(None);
    }
    let built = run("--realise", ["--check", "--keep-failed"].map(OsStr::new), all);
    let other = PathBuf::from(format!("{}.check", path.display()));
    match built {
        Ok(_) => Ok(Some(RebuiltPath { derivation, other: None })),
        // A build that has failed leaves none.
        Err(NixError::Failed { said, .. }) if said.contains("deterministic") && other.exists() => {
            Ok(Some(RebuiltPath { derivation, other: Some(other) }))
        }
        Err(error) => Err(error),
    }
}
