//! What is put into an image or layer, beside models: packages, trees, files, links, directories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::layer::{Input, Mode};
use crate::nix::store_path::{StoreDir, StorePath};

/// What is put into an image or layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct SpecContent {
    /// Store paths that are there with their closures, at their own places.
    pub(crate) deps: Vec<PathBuf>,
    /// Store paths whose trees are linked from `/`, and that are there with their closures.
    pub(crate) contents: Vec<PathBuf>,
    /// Trees whose content is moved to `/`.
    pub(crate) copy_to_root: Vec<PathBuf>,
    /// Files or trees, each moved to the place that is its key.
    pub(crate) files: BTreeMap<PathBuf, PathBuf>,
    /// Small files with the text given here, by place.
    pub(crate) texts: BTreeMap<PathBuf, String>,
    /// Symbolic links, place to target.
    pub(crate) symlinks: BTreeMap<PathBuf, PathBuf>,
    /// Empty directories, place to mode.
    pub(crate) directories: BTreeMap<PathBuf, Mode>,
}

/// Why a store path is needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreRoot {
    /// It is asked for, and is there with its closure.
    Whole(StorePath),
    /// Its content is moved to another place. What it refers to is there; it is at its own place only if it refers to
    /// itself.
    Moved(StorePath),
    /// A text names it. As for Nix itself, its hash is what counts, and a text can name what is not a dependency: then Nix
    /// does not know it.
    Mentioned(StorePath),
}

impl StoreRoot {
    /// The store path.
    #[must_use]
    pub(crate) const fn path(&self) -> &StorePath {
        match self {
            Self::Whole(path) | Self::Moved(path) | Self::Mentioned(path) => path,
        }
    }
}

impl SpecContent {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// With the key, `.files`, and what is wrong with it.
    pub(crate) fn check(&self, store: &StoreDir) -> Result<(), (String, String)> {
        for (key, paths) in [("deps", &self.deps), ("contents", &self.contents)] {
            for path in paths {
                store.parse(&path.to_string_lossy()).map_err(|e| (format!(".{key}"), e.to_string()))?;
            }
        }
        self.copy_to_root.iter().try_for_each(|path| check_source(".copyToRoot", path))?;
        self.files.values().try_for_each(|path| check_source(".files", path))?;
        let places = [
            ("files", self.files.keys().collect::<Vec<_>>()),
            ("texts", self.texts.keys().collect()),
            ("symlinks", self.symlinks.keys().collect()),
            ("directories", self.directories.keys().collect()),
        ];
        let bad = |place: &&PathBuf| !is_place(place) || place.parent().is_none();
        match places.iter().find_map(|(key, places)| Some((key, *places.iter().find(|place| bad(place))?))) {
            None => Ok(()),
            Some((key, place)) => {
                let message = format!(
                    "'{}' is not a place in an image: expected an absolute path below /, without '..'",
                    place.display()
                );
                Err((format!(".{key}"), message))
            }
        }
    }

    /// The store paths that it needs.
    #[must_use]
    pub(crate) fn roots(&self, store: &StoreDir) -> Vec<StoreRoot> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let whole = self.deps.iter().chain(&self.contents);
        let whole = whole.filter_map(|path| Some(StoreRoot::Whole(store.parse(&text(path)).ok()?)));
        let moved = self.copy_to_root.iter().chain(self.files.values());
        let moved = moved.filter_map(|path| Some(StoreRoot::Moved(store.parse_inside(&text(path)).ok()?.0)));
        let mentioned = self.symlinks.values().map(text).chain(self.texts.values().cloned());
        let mentioned = mentioned.flat_map(|text| store.scan(&text)).map(StoreRoot::Mentioned);
        whole.chain(moved).chain(mentioned).collect()
    }

    /// What the root layer is made of.
    #[must_use]
    pub(crate) fn root_inputs(&self) -> Vec<Input> {
        let mut inputs: Vec<Input> = Vec::new();
        // Sorted, because an image's history tells them: the order in a spec says nothing.
        let sorted = |paths: &'_ [PathBuf]| paths.iter().cloned().collect::<BTreeSet<_>>();
        inputs.extend(sorted(&self.contents).into_iter().map(|source| Input::Links { source }));
        inputs.extend(
            sorted(&self.copy_to_root)
                .into_iter()
                .map(|source| (PathBuf::from("/"), source))
                .chain(self.files.iter().map(|(target, source)| (target.clone(), source.clone())))
                .map(|(target, source)| Input::Copy { source: source.clone(), target, follow: None, nar_hash: None }),
        );
        inputs.extend(self.texts.iter().map(|(path, text)| Input::Text {
            path: path.clone(),
            text: text.clone(),
            mode: Mode(0o644),
        }));
        inputs.extend(
            self.symlinks.iter().map(|(path, target)| Input::Symlink { path: path.clone(), target: target.clone() }),
        );
        inputs.extend(self.directories.iter().map(|(path, mode)| Input::Directory { path: path.clone(), mode: *mode }));
        inputs
    }
}

/// An absolute path without `..`: in an image, or on the host.
pub(crate) fn is_place(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir)
}

/// A path on the host, of which nothing is looked up.
pub(crate) fn check_source(key: &str, source: &Path) -> Result<(), (String, String)> {
    if is_place(source) {
        return Ok(());
    }
    Err((key.to_owned(), format!("'{}' is not an absolute path without '..'", source.display())))
}
