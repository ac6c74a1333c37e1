//! What the system refused, and at which path.

use std::io;
use std::path::{Path, PathBuf};

use crate::class::{Class, Classified};

/// A failure at a path that is written to.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}", path = path.display())]
pub struct WriteError {
    /// What was tried.
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    /// What the system said.
    pub(crate) source: io::Error,
}

impl Classified for WriteError {
    fn class(&self) -> Class {
        match self.source.class() {
            // A pipe of windlass' own, not that of who reads its output.
            Class::ReaderGone => Class::Failed,
            class => class,
        }
    }
}

/// Adds the path to an I/O result.
pub(crate) trait AtPath<T> {
    /// `action` fits before the path: "write", "create".
    fn at(self, action: &'static str, path: &Path) -> Result<T, WriteError>;
}

impl<T, E: Into<io::Error>> AtPath<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, WriteError> {
        self.map_err(|source| WriteError { action, path: path.to_owned(), source: source.into() })
    }
}
