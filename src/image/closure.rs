//! `closure.json`: what Nix recorded of the store paths that layers are made of, and which of them refer to which.
//!
//! ```json
//! [{ "narHash": "sha256-…", "narSize": 1234, "path": "/nix/store/…-redis-8.0.2", "references": ["/nix/store/…-glibc-2.40"] }]
//! ```
//!
//! The form is Nix's own (`closure` in a builder's `.attrs.json`), so [`ClosureGraph`] reads it. Only store paths that a recipe
//! names are in it, and only references between these: an image directory in the Nix store keeps nothing alive through it that
//! its layers do not need. Loading reads none of it; what explains an image does, and what puts store paths back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::json::{format_error, read_json};
use super::layout::LayoutError;
use crate::disk::WriteError;
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::layer::Recipe;
use crate::nix::closure::ClosureGraph;
use crate::nix::store_path::{NarHash, StoreDir, StorePath};
use crate::oci::canonical;

/// What the file is called.
pub(crate) const CLOSURE: &str = "closure.json";

/// The store paths of an image, by their full names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageClosure(BTreeMap<String, RecordedPath>);

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
            known.0.insert(recorded.path.clone(), recorded);
        }
        known.closed()
    }

    /// Takes all that another one has; of two that know a path, the one that knows all of its references counts.
    pub(crate) fn merge(&mut self, other: Self) {
        for (path, recorded) in other.0 {
            let known = self.0.get(&path);
            if known.is_none_or(|known| known.incomplete) {
                self.0.insert(path, recorded);
            }
        }
    }

    /// Whether all that a store path refers to is in it.
    pub(crate) fn is_complete(&self, path: &str) -> bool {
        self.0.get(path).is_some_and(|recorded| !recorded.incomplete)
    }

    /// The store paths by their full names.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(Path::new)
    }

    /// What Nix recorded as the hash of each.
    pub(crate) fn nar_hashes(&self) -> impl Iterator<Item = (&Path, NarHash)> {
        self.0.iter().map(|(path, recorded)| (Path::new(path), recorded.nar_hash))
    }

    /// Without references that lead out of it.
    fn closed(mut self) -> Self {
        let names: BTreeSet<String> = self.0.keys().cloned().collect();
        for recorded in self.0.values_mut() {
            let all = recorded.references.len();
            recorded.references.retain(|path| names.contains(path));
            recorded.incomplete |= recorded.references.len() < all;
        }
        self
    }

    /// Writes the file, unless there is nothing to say.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, directory: &Path, progress: &Progress) -> Result<(), WriteError> {
        match self.to_json() {
            Some(json) => write_file(&directory.join(CLOSURE), &json, progress),
            None => Ok(()),
        }
    }

    /// What the file holds; `None` where nothing is known.
    pub(crate) fn to_json(&self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then(|| canonical::to_bytes(&self.0.values().collect::<Vec<_>>()))
    }

    /// Reads the file of a directory. One of an older windlass, or of an image that is made of no store path, has none.
    ///
    /// # Errors
    /// If it cannot be read, or is something else.
    pub(crate) fn read(directory: &Path) -> Result<Self, LayoutError> {
        let recorded: Vec<RecordedPath> = match read_json(&directory.join(CLOSURE)) {
            Err(LayoutError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            read => read?,
        };
        Ok(Self(recorded.into_iter().map(|recorded| (recorded.path.clone(), recorded)).collect()))
    }

    /// As a graph, with the store that its paths are in; `directory` is for messages.
    ///
    /// # Errors
    /// If it is no closure of one store.
    pub(crate) fn graph(&self, directory: &Path) -> Result<(StoreDir, ClosureGraph), LayoutError> {
        let failed = |error: &dyn std::fmt::Display| format_error(&directory.join(CLOSURE), error);
        let store = match self.0.keys().next().and_then(|path| path.rsplit_once('/')) {
            Some((store, _)) => StoreDir::new(store).map_err(|error| failed(&error))?,
            None => StoreDir::default(),
        };
        let value = serde_json::to_value(self.0.values().collect::<Vec<_>>()).map_err(|error| failed(&error))?;
        let graph = ClosureGraph::from_value(&store, &value).map_err(|error| failed(&error))?;
        Ok((store, graph))
    }
}
