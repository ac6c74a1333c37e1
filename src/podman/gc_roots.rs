//! Links that Nix takes for garbage collector roots.
//!
//! A link in `<state>/gcroots/auto` to a link that leads into the store keeps what that one names; Nix removes it once the
//! second link is gone (Nix manual, `nix-store --add-root`). Root writes it directly: no process, and no Nix on PATH.
//! Anybody else asks `nix-store`, which asks the daemon.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::generations::NixPlaces;
use crate::digest::Digest;
use crate::store::nixbase32;

/// Why Nix may collect what was loaded.
#[derive(Debug, thiserror::Error)]
#[error("{link} is not a garbage collector root: {why}; keep the build's result link until it is", link = link.display())]
pub struct RootError {
    /// The link that should keep a store path.
    pub link: PathBuf,
    /// What went wrong.
    pub why: String,
}

/// Makes Nix take `link`, which leads to `path` in its store, for a root.
///
/// # Errors
/// If neither the folder can be written to nor `nix-store` does it.
pub fn register(nix: &NixPlaces, link: &Path, path: &Path) -> Result<(), RootError> {
    let name = nixbase32::encode(&Digest::of(link.as_os_str().as_encoded_bytes()).as_bytes()[..20]);
    let auto = nix.state.join("gcroots/auto").join(name);
    if fs::read_link(&auto).is_ok_and(|target| target == link) || symlink(link, &auto).is_ok() {
        return Ok(());
    }
    let failed = |why: String| RootError { link: link.to_owned(), why };
    let output = Command::new("nix-store")
        .args(["--indirect", "--add-root"])
        .arg(link)
        .arg("--realise")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("{} cannot be written to, and nix-store: {error}", auto.display())))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(failed(said.trim().trim_start_matches("error: ").to_owned())) }
}
