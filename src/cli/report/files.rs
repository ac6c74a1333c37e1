//! What is in the layers: files by their directories, of each store path once.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::data::ReportData;
use crate::cli::failure::Result;
use crate::cli::printer::count;
use crate::disk::progress::Progress;
use crate::image::layout::ImageDir;
use crate::inventory::Inventory;
use crate::layer::file_tree::{FileTree, FileTreeNode};
use crate::layer::{FORMAT, Input, LayerError, Recipe};
use crate::oci::digest::Digest;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct ListedFiles {
    /// The store paths by number.
    paths: Vec<Option<FileTreeNode>>,
    /// What else is in the layers by number.
    layers: Vec<FileTree>,
}

/// From which size on files are listed: the first with which the page is small enough.
pub(super) const STEPS: [u64; 14] = [
    0,
    1000,
    2000,
    5000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    5_000_000,
    50_000_000,
    u64::MAX,
];

impl ListedFiles {
    /// Lists the files of all layers. Those whose files are not on this host are said to be unlisted, with the reason.
    ///
    /// # Errors
    /// If the run was stopped.
    pub(super) fn read(
        images: &[&ImageDir],
        inventory: &Inventory,
        data: &mut ReportData,
        progress: &Progress,
    ) -> Result<Self> {
        let mut recipes: BTreeMap<Digest, Recipe> = BTreeMap::new();
        for image in images {
            for record in image.summary().layers() {
                if let Ok(recipe) = image.recipe(record) {
                    recipes.entry(record.digest).or_insert_with(|| recipe.clone());
                }
            }
        }
        let full = |n: usize| format!("{}/{}", data.store, data.paths[n].base);
        let mut listed = Self { paths: vec![None; data.paths.len()], layers: Vec::new() };
        // Store paths of the layers that are described, each once.
        let mut wanted: BTreeSet<usize> = BTreeSet::new();
        for layer in &data.layers {
            if recipes.get(&layer.digest).is_some_and(|recipe| recipe.blob().is_none()) {
                wanted.extend(layer.paths.iter());
            }
        }
        let of_path = |n: &usize| {
            let place = full(*n);
            let input = Input::StorePath { path: place.clone().into(), nar_hash: None };
            let recipe = Recipe { format: FORMAT, inputs: vec![input], perms: Vec::new() };
            let tree = FileTree::of_recipe(&recipe, progress);
            (*n, tree.map(|mut tree| tree.remove(&place).unwrap_or(FileTreeNode::File(0))))
        };
        let found: Vec<(usize, Result<FileTreeNode, LayerError>)> = wanted.par_iter().map(of_path).collect();
        let mut lost = BTreeSet::new();
        for (n, tree) in found {
            match tree {
                Ok(tree) => listed.paths[n] = Some(tree),
                Err(_) => drop(lost.insert(n)),
            }
        }
        // What else there is, and all of those that are archives.
        let rest = |recipe: &Recipe| match recipe.blob() {
            Some(_) => FileTree::of_recipe(recipe, progress),
            None => {
                let inputs = recipe.inputs.iter().filter(|input| !matches!(input, Input::StorePath { .. }));
                let recipe = Recipe { inputs: inputs.cloned().collect(), ..recipe.clone() };
                FileTree::of_recipe(&recipe, progress)
            }
        };
        let digests: Vec<Digest> = data.layers.iter().map(|layer| layer.digest).collect();
        let others: Vec<Option<Result<FileTree, LayerError>>> =
            digests.par_iter().map(|digest| recipes.get(digest).map(rest)).collect();
        progress.check()?;
        let mut unlisted = Vec::new();
        for (digest, other) in digests.iter().zip(others) {
            let layer = &inventory.layers[digest];
            let numbers = || layer.paths.iter().filter_map(|path| data.number(path.rsplit_once('/')?.1));
            let (mut tree, mut why) = match other {
                None => (FileTree::default(), Some("this bundle was made without it".to_owned())),
                Some(Ok(tree)) => (tree, None),
                Some(Err(error)) => (FileTree::default(), Some(error.to_string())),
            };
            for n in numbers() {
                let found = tree.remove(&full(n));
                if listed.paths[n].is_none() {
                    listed.paths[n] = found;
                }
            }
            let gone = numbers().filter(|n| lost.contains(n)).count();
            if gone > 0 && why.is_none() {
                let verb = if gone == 1 { "is" } else { "are" };
                why = Some(format!("{} of it {verb} not on this host", count(gone, "store path")));
            }
            listed.layers.push(tree);
            unlisted.push(why);
        }
        for (layer, why) in data.layers.iter_mut().zip(unlisted) {
            layer.unlisted = why;
        }
        Ok(listed)
    }

    /// Puts the files into the data, those of fewer bytes than `below` as sums of their directories.
    pub(super) fn fill(&self, data: &mut ReportData, below: u64) {
        data.below = if below == u64::MAX { self.largest() } else { below };
        data.trees =
            self.paths.iter().map(|path| path.as_ref().map_or_else(|| 0.into(), |node| folded(node, below))).collect();
        for (layer, tree) in data.layers.iter_mut().zip(&self.layers) {
            layer.tree = if tree.size() == 0 { Value::Null } else { Value::Array(entries(tree, below)) };
        }
    }

    /// More than the bytes of the largest file.
    fn largest(&self) -> u64 {
        fn of(node: &FileTreeNode) -> u64 {
            match node {
                FileTreeNode::File(size) => size + 1,
                FileTreeNode::Directory(tree) => tree.entries().map(|(_, node)| of(node)).max().unwrap_or_default(),
            }
        }
        let others = self.layers.iter().flat_map(|tree| tree.entries().map(|(_, node)| of(node)));
        self.paths.iter().flatten().map(of).chain(others).max().unwrap_or_default()
    }
}

/// A store path: what is in it, or nothing where none of its files is large enough, as its own bytes are known.
fn folded(node: &FileTreeNode, below: u64) -> Value {
    match node {
        FileTreeNode::File(size) => (*size).into(),
        FileTreeNode::Directory(tree) => match entries(tree, below) {
            entries if entries.iter().all(|entry| entry[0].is_number()) => 0.into(),
            entries => Value::Array(entries),
        },
    }
}

/// `[name, bytes]` for a file, `[name, [...]]` for a directory, and `[number, bytes]` for so many files that are smaller.
fn entries(tree: &FileTree, below: u64) -> Vec<Value> {
    let (mut entries, mut number, mut bytes) = (Vec::new(), 0, 0);
    for (name, node) in tree.entries().filter(|(_, node)| node.size() > 0) {
        match node {
            // A directory without a file that is listed says no more than its bytes.
            FileTreeNode::Directory(below_it) if node.size() >= below => {
                entries.push(json!([name, self::entries(below_it, below)]));
            }
            FileTreeNode::File(size) if *size >= below => entries.push(json!([name, size])),
            FileTreeNode::Directory(tree) => (number, bytes) = (number + tree.files(), bytes + tree.size()),
            FileTreeNode::File(size) => (number, bytes) = (number + 1, bytes + size),
        }
    }
    if number > 0 {
        entries.push(json!([number, bytes]));
    }
    entries
}
