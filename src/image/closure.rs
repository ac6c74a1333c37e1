//! `closure.json` and `packages.json`: what Nix recorded of the store paths that layers are made of, which of them refer to which,
//! and what nixpkgs says of the packages that they are of.
//!
//! ```json
//! [{ "narHash": "sha256-…", "narSize": 1234, "path": "/nix/store/…-redis-8.0.2", "references": ["/nix/store/…-glibc-2.40"] }]
//! ```
//!
//! The form is Nix's own (`closure` in a builder's `.attrs.json`), so [`ClosureGraph`] reads it. Only store paths that a recipe
//! names are in it, and only references between these: an image directory in the Nix store keeps nothing alive through it that
//! its layers do not need; the same holds for packages and their outputs. Loading reads none of it; what explains an image does, and what
//! puts store paths back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::json::{format_error, read_json};
use super::layout::LayoutError;
use crate::disk::WriteError;
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::layer::Recipe;
use crate::nix::closure::ClosureGraph;
use crate::nix::package::PackageRecord;
use crate::nix::store_path::{NarHash, StoreDir, StorePath};
use crate::oci::canonical;

/// What the file of the store paths is called.
pub(crate) const CLOSURE: &str = "closure.json";
/// What the file of the packages is called.
pub(crate) const PACKAGES: &str = "packages.json";

/// The store paths of an image, by their full names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageClosure {
    paths: BTreeMap<String, RecordedPath>,
    packages: BTreeSet<PackageRecord>,
}

/// A store path, as Nix recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordedPath {
    path: String,
    nar_hash: NarHash,
    nar_size: u64,
    /// With the path itself, where it refers to itself.
    references: BTreeSet<String>,
    /// Whether it refers to something else too, which no layer has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

impl ImageClosure {
    /// What the graph says of the store paths of these recipes, or else what was known of them before.
    pub(crate) fn new<'a>(
        recipes: impl IntoIterator<Item = &'a Recipe>,
        graph: &ClosureGraph,
        store: &StoreDir,
        mut known: Self,
    ) -> Self {
        let sources: BTreeSet<StorePath> = recipes
            .into_iter()
            .flat_map(Recipe::sources)
            .filter_map(|source| Some(store.parse_inside(source.to_str()?).ok()?.0))
            .collect();
        for info in sources.iter().filter_map(|path| graph.get(path)) {
            let itself = info.self_reference.then_some(&info.path);
            let name = |path: &StorePath| store.display(path).to_string();
            let recorded = RecordedPath {
                path: name(&info.path),
                nar_hash: info.nar_hash,
                nar_size: info.nar_size,
                references: info.references.iter().chain(itself).map(name).collect(),
                incomplete: false,
            };
            known.paths.insert(recorded.path.clone(), recorded);
        }
        known.closed()
    }

    /// Takes all that another one has; of two that know a path, the one that knows all of its references counts.
    pub(crate) fn merge(&mut self, other: Self) {
        self.packages.extend(other.packages);
        for (path, recorded) in other.paths {
            let known = self.paths.get(&path);
            if known.is_none_or(|known| known.incomplete) {
                self.paths.insert(path, recorded);
            }
        }
    }

    /// Whether all that a store path refers to is in it.
    pub(crate) fn is_complete(&self, path: &str) -> bool {
        self.paths.get(path).is_some_and(|recorded| !recorded.incomplete)
    }

    /// The store paths by their full names.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.keys().map(Path::new)
    }

    /// What Nix recorded as the hash of each.
    pub(crate) fn nar_hashes(&self) -> impl Iterator<Item = (&Path, NarHash)> {
        self.paths.iter().map(|(path, recorded)| (Path::new(path), recorded.nar_hash))
    }

    /// What is said of packages, and nothing of store paths yet; of packages that no layer is made of, [`new`](Self::new)
    /// keeps nothing.
    pub(crate) fn described(packages: &[PackageRecord]) -> Self {
        Self { packages: packages.iter().cloned().collect(), ..Self::default() }
    }

    /// What is said of the packages.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &PackageRecord> {
        self.packages.iter()
    }

    /// Without references and packages that lead out of it.
    fn closed(mut self) -> Self {
        let names: BTreeSet<String> = self.paths.keys().cloned().collect();
        let is_there = |path: &str| names.contains(path);
        self.packages = self.packages.into_iter().filter_map(|package| package.only(&is_there)).collect();
        for recorded in self.paths.values_mut() {
            let all = recorded.references.len();
            recorded.references.retain(|path| names.contains(path));
            recorded.incomplete |= recorded.references.len() < all;
        }
        self
    }

    /// Writes the files, each unless there is nothing to say.
    ///
    /// # Errors
    /// If one cannot be written.
    pub(crate) fn write(&self, directory: &Path, progress: &Progress) -> Result<(), WriteError> {
        self.files().into_iter().try_for_each(|(name, json)| write_file(&directory.join(name), &json, progress))
    }

    /// The names of the files and what they hold; where nothing is known there is no file.
    pub(crate) fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = Vec::new();
        if !self.paths.is_empty() {
            files.push((CLOSURE, canonical::to_bytes(&self.paths.values().collect::<Vec<_>>())));
        }
        if !self.packages.is_empty() {
            files.push((PACKAGES, canonical::to_bytes(&self.packages)));
        }
        files
    }

    /// Reads the files of a directory. One of an older windlass, or of an image that is made of no store path, has none.
    ///
    /// # Errors
    /// If one cannot be read, or is something else.
    pub(crate) fn read(directory: &Path) -> Result<Self, LayoutError> {
        let recorded: Vec<RecordedPath> = read_or_empty(&directory.join(CLOSURE))?;
        let packages = read_or_empty(&directory.join(PACKAGES))?;
        Ok(Self { paths: recorded.into_iter().map(|recorded| (recorded.path.clone(), recorded)).collect(), packages })
    }

    /// As a graph, with the store that its paths are in; `directory` is for messages.
    ///
    /// # Errors
    /// If it is no closure of one store.
    pub(crate) fn graph(&self, directory: &Path) -> Result<(StoreDir, ClosureGraph), LayoutError> {
        let failed = |error: &dyn std::fmt::Display| format_error(&directory.join(CLOSURE), error);
        let store = match self.paths.keys().next().and_then(|path| path.rsplit_once('/')) {
            Some((store, _)) => StoreDir::new(store).map_err(|error| failed(&error))?,
            None => StoreDir::default(),
        };
        let value = serde_json::to_value(self.paths.values().collect::<Vec<_>>()).map_err(|error| failed(&error))?;
        let graph = ClosureGraph::from_value(&store, &value).map_err(|error| failed(&error))?;
        Ok((store, graph))
    }
}

fn read_or_empty<T: DeserializeOwned + Default>(path: &Path) -> Result<T, LayoutError> {
    match read_json(path) {
        Err(LayoutError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(T::default()),
        read => read,
    }
}

/// Whether a store path is a blob of an image, as `fetchImage` and `importImage` name what they fetch and unpack.
pub(crate) fn is_blob(path: &StorePath) -> bool {
    path.name().starts_with("oci-blob-sha256-") || path.name().ends_with("-imported")
}
